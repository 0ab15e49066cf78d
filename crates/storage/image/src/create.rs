//! Making a new image.

use api::block_core::{BlockdevCreateOptionsQcow2, BlockdevRef, PreallocMode};
use block::Perm;
use block::driver::{Prealloc, WriteFlags};
use block_qcow2::host::RootHost;
use mem::IoBuf;
use qapi::{QError, qerr};

use crate::open::{OpenFlags, Opened, open_file, truncate};

/// What to make.
#[derive(Clone, Debug, PartialEq)]
pub enum NewImage {
    /// Plain bytes.
    Raw {
        /// Length, bytes.
        size: u64,
        /// Space allocated at once; `metadata` does not exist here.
        preallocation: PreallocMode,
    },
    /// A qcow2 image; its `file` is not looked at.
    Qcow2(Box<BlockdevCreateOptionsQcow2>),
}

/// A qcow2 image with every option at its default.
pub fn qcow2_defaults(size: u64) -> BlockdevCreateOptionsQcow2 {
    BlockdevCreateOptionsQcow2 {
        file: BlockdevRef::Reference(String::new()),
        data_file: None,
        data_file_raw: None,
        extended_l2: None,
        size,
        version: None,
        backing_file: None,
        backing_fmt: None,
        cluster_size: None,
        preallocation: None,
        lazy_refcounts: None,
        refcount_bits: None,
        compression_type: None,
    }
}

/// Makes the image `name`; what the file held is lost. A file that somebody uses is left alone.
pub async fn create(name: &str, image: &NewImage) -> Result<(), QError> {
    if let NewImage::Raw { preallocation: PreallocMode::Metadata, .. } = image {
        return Err(qerr!("Unsupported preallocation mode: metadata"));
    }
    let path = block_file::strip_prefix(name).to_string();
    let made = rt::unblock({
        let path = path.clone();
        // Not truncated here: whether somebody else uses it is known once the node has its locks.
        move || std::fs::OpenOptions::new().write(true).create(true).truncate(false).open(path).map(drop)
    });
    made.await.map_err(|e| qerr!("Could not create '{name}': {}", base::Errno::from(e)))?;
    let file = open_file(name, OpenFlags { write: true, force_share: false }).await?;
    let done = fill(&file, image).await;
    file.close().await;
    done
}

async fn fill(file: &Opened, image: &NewImage) -> Result<(), QError> {
    let perm = Perm::CONSISTENT_READ | Perm::WRITE | Perm::RESIZE;
    let root = file.root(&file.node, perm, Perm::CONSISTENT_READ).await?;
    let done = match image {
        NewImage::Raw { size, preallocation } => {
            let mode = match preallocation {
                PreallocMode::Full => Prealloc::Full,
                PreallocMode::Falloc => Prealloc::Falloc,
                _ => Prealloc::Off,
            };
            match truncate(&root, 0, Prealloc::Off).await {
                Ok(()) if *size > 0 => match truncate(&root, *size, mode).await {
                    // A first block that exists lets others find out what alignment direct I/O needs.
                    Ok(()) => {
                        let first = IoBuf::zeroed((*size).min(512) as usize);
                        let wrote = root.write(0, first, WriteFlags::empty()).await;
                        wrote.map_err(|e| qerr!("Could not write to the file: {e}"))
                    }
                    e => e,
                },
                r => r,
            }
        }
        NewImage::Qcow2(o) => block_qcow2::create::create(&RootHost(&root), o).await,
    };
    let flushed = root.flush().await.map_err(|e| qerr!("Could not flush the image: {e}"));
    root.detach().await;
    done.and(flushed)
}
