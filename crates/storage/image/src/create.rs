//! Making a new image of any format.

use std::sync::Arc;

use api::block_core::BlockdevCreateOptions;
use base::Errno;
use block::create::{CreateCx, CreateOption, Creation, ImageMaker, NamedImage, Part, SIZE};
use block::driver::{CtlFuture, DriverType, Kind, ZeroFlags};
use qapi::{QError, Value, qerr};
use qom::ObjectTree;

use crate::drivers;
use crate::open::{Cache, FILE, OpenFlags, new_graph, node_of_file, open_file};
use crate::options::Options;

/// What formats are found by lies within so many bytes.
const SECTOR: u64 = 512;

/// What to make.
#[derive(Clone)]
pub struct NewImage {
    /// Its file.
    pub name: String,
    /// Its format's driver.
    pub format: String,
    /// Its options, `size` among them.
    pub options: Options,
    /// The objects that options may name.
    pub objects: Option<Arc<ObjectTree>>,
    /// How the host's cache is used meanwhile.
    pub cache: Cache,
}

impl NewImage {
    /// An image with every option at its default.
    pub fn new(name: &str, format: &str, size: u64) -> NewImage {
        let mut options = Options::default();
        options.set("size", size.to_string());
        NewImage { name: name.into(), format: format.into(), options, objects: None, cache: Cache::default() }
    }
}

/// The driver of a format, with how its images are made.
///
/// # Errors
/// There is no such format; it cannot be made.
pub fn maker(format: &str) -> Result<(&'static DriverType, &'static Creation), QError> {
    let ty = drivers().into_iter().find(|d| d.name == format);
    let ty = ty.ok_or_else(|| qerr!("Unknown file format '{format}'"))?;
    let creation = ty.create;
    Ok((ty, creation.ok_or_else(|| qerr!("Format driver '{format}' does not support image creation"))?))
}

/// The protocols that make no files, but whose files take images.
const THERE_ALREADY: [&str; 2] = ["nbd", "host_device"];

/// The options of an image in a file that is there already.
static TAKEN: Creation = Creation::new(&[SIZE]);

/// How the file of this name is made.
async fn protocol(name: &str) -> Result<(&'static DriverType, &'static Creation), QError> {
    let dict = block::filename::protocol(&drivers(), name).await?;
    let driver = dict.get("driver").and_then(qapi::Value::as_str).unwrap_or("").to_owned();
    let ty = drivers().into_iter().find(|d| d.name == driver);
    let ty = ty.ok_or_else(|| qerr!("Unknown protocol '{driver}'"))?;
    let creation = if THERE_ALREADY.contains(&ty.name) { Some(&TAKEN) } else { ty.create };
    let creation =
        creation.ok_or_else(|| qerr!("Protocol driver '{driver}' does not support image creation"))?;
    Ok((ty, creation))
}

/// The options that an image of this format in a file of this name takes: the format's, then the file's.
///
/// # Errors
/// As for [`maker`].
pub async fn options_of(format: &str, name: Option<&str>) -> Result<Vec<CreateOption>, QError> {
    let (_, creation) = maker(format)?;
    let mut all = creation.options.to_vec();
    if let Some(name) = name {
        for o in protocol(name).await?.1.options {
            if !all.iter().any(|a| a.name == o.name) {
                all.push(*o);
            }
        }
    }
    Ok(all)
}

/// Makes the bare file `name`.
async fn create_file(name: &str, options: &Options, objects: Option<&Arc<ObjectTree>>) -> Result<(), QError> {
    let (ty, creation) = protocol(name).await?;
    if THERE_ALREADY.contains(&ty.name) {
        return take_file(ty.name, name, options).await;
    }
    let create = creation.create.ok_or_else(|| qerr!("Cannot create '{name}'"))?;
    let mut dict = creation.contract_dict(&options.pairs())?;
    if ty.name == "file" {
        dict.insert("filename", name);
        dict.insert("driver", "file");
    } else {
        let mut location = block::filename::protocol(&drivers(), name).await?;
        location.remove("driver");
        // Options may say more of the place than its name does.
        if let Some(Value::Dict(more)) = dict.remove("location") {
            location.extend(more);
        }
        dict.insert("location", location);
        dict.insert("driver", ty.name);
    }
    let typed: BlockdevCreateOptions = qapi::from_keyval_dict(dict).map_err(|e| {
        let value = e.desc().strip_prefix("Parameter 'preallocation' does not accept value '");
        match value.and_then(|v| v.strip_suffix('\'')) {
            Some(v) => qerr!("invalid parameter value: {v}"),
            None => e,
        }
    })?;
    let graph = new_graph();
    if let Some(o) = objects {
        graph.set_objects(o.clone());
    }
    create(&CreateCx::new(graph), &typed).await
}

/// Takes a file that is there already for a new image: it must be long enough, and shows no other image any more.
async fn take_file(protocol: &str, name: &str, options: &Options) -> Result<(), QError> {
    let flags = OpenFlags { write: true, ..OpenFlags::default() };
    let opened = open_file(name, flags).await.map_err(|e| {
        let text = format!(
            "Protocol driver '{protocol}' does not support creating new images, so an existing image must be selected \
             as the target; however, opening the given target as an existing image failed: {}",
            e.desc()
        );
        match e.hint() {
            Some(hint) => QError::new(text).with_hint(hint),
            None => QError::new(text),
        }
    })?;
    let done = async {
        let root = opened.writer().await?;
        let done = async {
            if options.number("size").is_some_and(|size| size > root.len()) {
                return Err(match protocol {
                    "host_device" => qerr!("Cannot grow device files"),
                    other => qerr!("Cannot grow {} nodes", other.to_uppercase()),
                });
            }
            let first = root.len().min(SECTOR);
            let zeroed = root.write_zeroes(0, first, ZeroFlags::MAY_UNMAP).await;
            zeroed.map_err(|e| qerr!("Failed to clear the new image's first sector: {e}"))?;
            root.flush().await.map_err(|e| qerr!("Failed to clear the new image's first sector: {e}"))
        }
        .await;
        root.detach().await;
        done
    }
    .await;
    opened.close().await;
    done
}

/// What a format's own part of creation starts from, and the files that it needs.
pub(crate) fn contract(
    image: &NewImage,
    ty: &DriverType,
    creation: &Creation,
) -> Result<(BlockdevCreateOptions, Vec<(Part, String)>), QError> {
    let dict = creation.contract_dict(&image.options.pairs())?;
    let parts = match creation.parts {
        Some(parts) => parts(&dict, &image.name)?,
        None => Vec::new(),
    };
    let parts: Vec<(Part, String)> =
        parts.into_iter().enumerate().map(|(i, p)| (p, format!("#block{}", 910 + i))).collect();
    Ok((creation.contract(ty.name, FILE, &parts, dict)?, parts))
}

/// Makes an image; what its files held is lost. A file that somebody uses is left alone.
///
/// # Errors
/// Options that do not fit, in the reference's words; the storage's.
pub async fn create(image: &NewImage) -> Result<(), QError> {
    let (ty, creation) = maker(&image.format)?;
    let (Some(make), false) = (creation.create, ty.kind == Kind::Protocol) else {
        let made = create_file(&image.name, &image.options, image.objects.as_ref()).await;
        return made.map_err(|e| match e.desc() {
            // No file can be so long.
            "Could not resize file: File too large"
                if image.options.number("size").is_some_and(|n| n > i64::MAX as u64) =>
            {
                qerr!("Could not resize file: Invalid argument")
            }
            "Could not resize file: File too large" => too_large(&image.format, &[]),
            _ => e,
        });
    };
    // Options that are refused leave a file of that name as it is.
    let (options, parts) = contract(image, ty, creation)?;
    let mut plain = Options::default();
    for name in ["nocow", "extent_size_hint", "preallocation"] {
        // VDI images have it, though their options do not say so.
        let own =
            creation.options.iter().any(|o| o.name == name) || (ty.name, name) == ("vdi", "preallocation");
        if let (Some(v), false) = (image.options.get(name), own) {
            plain.set(name, v);
        }
    }
    plain.set("size", "0");
    create_file(&image.name, &plain, None).await?;
    let graph = new_graph();
    if let Some(o) = &image.objects {
        graph.set_objects(o.clone());
    }
    let mut cx = CreateCx::new(graph.clone());
    let made = async {
        let flags = OpenFlags { write: true, cache: image.cache, ..OpenFlags::default() };
        graph.add(node_of_file(&image.name, FILE, flags).await?).await?;
        for (part, node) in &parts {
            let path = beside(&image.name, &part.filename);
            plain.set("size", part.size.to_string());
            create_file(&path, &plain, None).await?;
            graph.add(node_of_file(&path, node, flags).await?).await?;
            cx.names.push((node.clone(), part.filename.clone()));
        }
        make(&cx, &options).await
    }
    .await;
    graph.close_all().await;
    if made.is_err() {
        remove(&image.name).await;
        for (part, _) in &parts {
            remove(&beside(&image.name, &part.filename)).await;
        }
    }
    made.map_err(|e| match e.desc().ends_with(&format!(": {}", Errno::FBIG)) {
        true => too_large(&image.format, creation.options),
        false => e,
    })
}

/// The message for an image that the format cannot have so large.
fn too_large(format: &str, options: &[CreateOption]) -> QError {
    let clusters = options.iter().any(|o| o.name == "cluster_size");
    let hint = if clusters { " (try using a larger cluster size)" } else { "" };
    qerr!("The image size is too large for file format '{format}'{hint}")
}

/// Takes away what is left of an image that could not be made: a regular file; anything else stays.
async fn remove(name: &str) {
    let Ok(dict) = block::filename::protocol(&drivers(), name).await else { return };
    let text = |k: &str| dict.get(k).and_then(qapi::Value::as_str).map(str::to_owned);
    let (Some("file"), Some(path)) = (text("driver").as_deref(), text("filename")) else { return };
    // Nothing hangs on it: the error is why there is no image.
    let _ = rt::unblock(move || {
        let plain = std::fs::symlink_metadata(&path).is_ok_and(|m| m.is_file());
        if plain { std::fs::remove_file(&path) } else { Ok(()) }
    })
    .await;
}

/// The line that says what image is going to be made, with all options that have a value.
pub(crate) fn announcement(name: &str, format: &str, options: &Options, table: &[CreateOption]) -> String {
    format!("Formatting '{name}', fmt={format}{}\n", options.line(table))
}

/// Makes images for commands of the graph that name their files. Each is announced on the standard output, as the image
/// tool does it.
#[derive(Debug)]
pub struct Maker;

impl ImageMaker for Maker {
    fn make<'a>(&'a self, image: &'a NamedImage) -> CtlFuture<'a> {
        let mut new = NewImage::new(&image.name, &image.format, image.size);
        if let Some((name, format)) = &image.backing {
            if let Some(f) = format {
                new.options.set("backing_fmt", f.as_str());
            }
            new.options.set("backing_file", name.as_str());
        }
        Box::pin(async move {
            let table = options_of(&new.format, Some(&new.name)).await?;
            new.options.defaults(&table);
            base::print(&announcement(&new.name, &new.format, &new.options, &table));
            create(&new).await
        })
    }
}

/// A backing file's name as seen from here: a plain one is relative to the directory of the image that names it.
pub fn beside(image: &str, backing: &str) -> String {
    match image.rfind('/') {
        Some(i) if !backing.starts_with('/') && block::filename::prefix(backing).is_none() => {
            format!("{}{backing}", &image[..=i])
        }
        _ => backing.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backing_names_are_relative_to_the_image() {
        assert_eq!(beside("dir/a", "b"), "dir/b");
        assert_eq!(beside("dir/a", "/b"), "/b");
        assert_eq!(beside("a", "b"), "b");
        assert_eq!(beside("dir/a", "nbd://host/b"), "nbd://host/b");
    }
}
