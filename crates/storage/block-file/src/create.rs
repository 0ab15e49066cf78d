//! Making files, and taking devices that are there for new images.

use crate::strip_prefix;
use api::block_core::{
    BlockdevCacheOptions, BlockdevCreateOptions, BlockdevCreateOptionsFile, BlockdevDriverOptions,
    BlockdevOptions, BlockdevOptionsFile,
};
use base::Errno;
use block::create::{CreateCx, CreateOption, Creation, OptionType, SIZE, prealloc};
use block::driver::{CtlFuture, Prealloc, WriteFlags};
use block::{BlockGraph, Perm, Root, RootConfig};
use mem::IoBuf;
use monitor::EventBus;
use qapi::{QError, qerr};

/// Making files.
pub(crate) static FILE: Creation = Creation {
    create: Some(create),
    ..Creation::new(&[
        SIZE,
        CreateOption::new("nocow", OptionType::Bool, "Turn off copy-on-write (valid only on btrfs)"),
        CreateOption::new(
            "preallocation",
            OptionType::Str,
            "Preallocation mode (allowed values: off, falloc, full)",
        ),
        CreateOption::new(
            "extent_size_hint",
            OptionType::Size,
            "Extent size hint for the image file, 0 to disable",
        ),
    ])
};

/// A device is there already.
pub(crate) static DEVICE: Creation = Creation {
    create: Some(create),
    ..Creation::new(&[
        SIZE,
        CreateOption::new("preallocation", OptionType::Str, "Preallocation mode (allowed values: off)"),
    ])
};

fn create<'a>(_: &'a CreateCx, options: &'a BlockdevCreateOptions) -> CtlFuture<'a> {
    Box::pin(async move {
        let BlockdevCreateOptions::File(o) = options else {
            return Err(qerr!("The options are not those of a file"));
        };
        make(o).await
    })
}

async fn make(o: &BlockdevCreateOptionsFile) -> Result<(), QError> {
    let mode = prealloc(o.preallocation.unwrap_or_default());
    let name = &o.filename;
    let path = strip_prefix(name).to_string();
    let device = block::probe::protocol_of(path.clone()).await != "file";
    let (new, hint, nocow) = (path.clone(), o.extent_size_hint, o.nocow.unwrap_or(false));
    let made = rt::unblock_short(move || {
        // Not truncated here: whether somebody else uses it is known once the node has its locks.
        let file = std::fs::OpenOptions::new().write(true).create(!device).truncate(false).open(new)?;
        if !device {
            crate::sys::set_layout(&file, hint, nocow);
        }
        Ok::<(), std::io::Error>(())
    });
    made.await.map_err(|e| qerr!("Could not create '{name}': {}", Errno::from(e)))?;
    if mode == Prealloc::Metadata {
        // Found out when there is a file, whatever it held.
        return Err(qerr!("Unsupported preallocation mode: metadata"));
    }
    let graph = BlockGraph::new(crate::DRIVERS, EventBus::new());
    let file = BlockdevOptionsFile { filename: path, ..BlockdevOptionsFile::default() };
    let mut node = BlockdevOptions::new(match device {
        true => BlockdevDriverOptions::HostDevice(file),
        false => BlockdevDriverOptions::File(file),
    });
    node.node_name = Some("file".into());
    if mode == Prealloc::Off && !device {
        // An empty file is worth no waiting; bytes that were reserved are to be there.
        node.cache = Some(BlockdevCacheOptions { no_flush: Some(true), ..BlockdevCacheOptions::default() });
    }
    graph.add(node).await?;
    let config = RootConfig {
        perm: Perm::WRITE | Perm::RESIZE,
        shared: Perm::all() - Perm::RESIZE,
        desc: "the making of a file".into(),
        ..RootConfig::default()
    };
    let done = match graph.attach("file", config).await {
        Ok(root) => {
            let done = if device { take(&root, o.size).await } else { fill(&root, o.size, mode).await };
            let flushed = root.flush().await.map_err(|e| qerr!("Could not flush the image: {e}"));
            root.detach().await;
            done.and(flushed)
        }
        Err(e) => Err(e),
    };
    graph.close_all().await;
    done
}

async fn fill(root: &Root, size: u64, mode: Prealloc) -> Result<(), QError> {
    let failed = |e| qerr!("Could not resize file: {e}");
    root.truncate(0, true, Prealloc::Off).await.map_err(failed)?;
    if size == 0 {
        return Ok(());
    }
    root.truncate(size, true, mode).await.map_err(failed)?;
    // A first block that exists lets others find out what alignment direct I/O needs.
    let first = IoBuf::zeroed(size.min(512) as usize);
    root.write(0, first, WriteFlags::empty()).await.map_err(|e| qerr!("Could not write to the file: {e}"))
}

/// What lies on a device stays, but it must not look like an image.
async fn take(root: &Root, size: u64) -> Result<(), QError> {
    if root.len() < size {
        return Err(qerr!("Device is too small: it has {} bytes, and the image needs {size}", root.len()));
    }
    let first = IoBuf::zeroed(root.len().min(512) as usize);
    root.write(0, first, WriteFlags::empty())
        .await
        .map_err(|e| qerr!("Could not clear the first sector: {e}"))
}
