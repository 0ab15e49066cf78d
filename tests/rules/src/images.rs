//! The images of a transcript.

use api::block_core::BlockdevDriver;
use block_qcow2::check::{Fix, Report};
use image::create::{NewImage, create, qcow2_defaults};
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
    let image = if plain {
        NewImage::Raw { size, preallocation: Default::default() }
    } else {
        let mut o = qcow2_defaults(size);
        if let Some(b) = backing.first() {
            o.backing_file = Some((*b).to_owned());
            o.backing_fmt = Some(BlockdevDriver::Qcow2);
        }
        NewImage::Qcow2(Box::new(o))
    };
    let path = dir.join(name).display().to_string();
    let executor = rt::Executor::new().map_err(|e| e.to_string())?;
    executor.block_on(create(&path, &image)).map_err(|e| e.desc().to_owned())
}

/// What `rhea img check` finds in a qcow2 image.
pub fn check_image(path: &Path) -> Result<Report, String> {
    let executor = rt::Executor::new().map_err(|e| e.to_string())?;
    let source = Source::file(&path.display().to_string(), Some("qcow2"));
    executor
        .block_on(image::check::check(&source, OpenFlags::default(), Fix::None, &mut |_| ()))
        .map_err(|e| format!("{e:?}"))
}
