//! The images of a transcript.

use block::check::{Fix, Report};
use image::create::{NewImage, create};
use image::open::{OpenFlags, Source};
use std::path::Path;

/// Makes the image that a line `image …` describes.
pub fn make_image(dir: &Path, text: &str) -> Result<(), String> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let (plain, words) = match words.split_first() {
        Some((&"raw", rest)) => (true, rest.to_vec()),
        _ => (false, words),
    };
    let [name, size, backing @ ..] = words.as_slice() else { return Err("image NAME SIZE [BACKING]".into()) };
    let size = base::units::parse_size(size, 1).map_err(|e| format!("{size}: {e:?}"))?;
    let path = dir.join(name).display().to_string();
    let mut image = NewImage::new(&path, if plain { "raw" } else { "qcow2" }, size);
    if let (false, Some(b)) = (plain, backing.first()) {
        image.options.set("backing_file", *b);
        image.options.set("backing_fmt", "qcow2");
    }
    let executor = rt::Executor::new().map_err(|e| e.to_string())?;
    executor.block_on(create(&image)).map_err(|e| e.desc().to_owned())
}

/// What `rhea img check` finds in a qcow2 image.
pub fn check_image(path: &Path) -> Result<Report, String> {
    let executor = rt::Executor::new().map_err(|e| e.to_string())?;
    let source = Source::file(&path.display().to_string(), Some("qcow2"));
    executor
        .block_on(image::check::check(&source, OpenFlags::default(), Fix::None, &mut |_| ()))
        .map(|c| c.report)
        .map_err(|e| format!("{e:?}"))
}
