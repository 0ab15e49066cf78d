//! Making a new image.

use api::block_core::{BlockdevCreateOptionsQcow2, BlockdevRef, PreallocMode};
use api::crypto::QCryptoBlockCreateOptionsLUKS;
use block::Perm;
use block::driver::{Prealloc, WriteFlags};
use block_crypto::Place;
use block_qcow2::create::Encryption;
use block_qcow2::host::{RootHost, TwoRoots};
use crypto::Secret;
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
    /// A LUKS volume.
    Luks {
        /// Its encryption; `key-secret` is not looked at.
        options: QCryptoBlockCreateOptionsLUKS,
        /// The password.
        password: Secret,
        /// Bytes that a guest sees.
        size: u64,
        /// Space allocated at once; `metadata` does not exist here.
        preallocation: PreallocMode,
        /// Whether the header alone is to be made: the data are to be in another file.
        detached: bool,
    },
    /// A qcow2 image; its `file` is not looked at. A `data-file` is the name of a file, made too, relative to the image.
    Qcow2(Box<BlockdevCreateOptionsQcow2>),
    /// The same, encrypted as its options say.
    EncryptedQcow2(Box<BlockdevCreateOptionsQcow2>, Secret),
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
        encrypt: None,
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
    let file = open_file(name, OpenFlags { write: true, ..OpenFlags::default() }).await?;
    let done = match image {
        NewImage::Qcow2(o) if o.data_file.is_some() => with_data_file(name, &file, o, None).await,
        NewImage::EncryptedQcow2(o, p) if o.data_file.is_some() => {
            with_data_file(name, &file, o, Some(p)).await
        }
        _ => fill(&file, image).await,
    };
    file.close().await;
    done
}

/// A qcow2 image whose data goes to another file, which is made too.
async fn with_data_file(
    name: &str,
    file: &Opened,
    o: &BlockdevCreateOptionsQcow2,
    password: Option<&Secret>,
) -> Result<(), QError> {
    let encrypt = encryption(o, password)?;
    let Some(BlockdevRef::Reference(data)) = &o.data_file else {
        return Err(qerr!("The external data file must be given by its name"));
    };
    let path = crate::img::beside(name, data);
    let size = NewImage::Raw { size: 0, preallocation: PreallocMode::Off };
    Box::pin(create(&path, &size)).await?;
    let data_file = open_file(&path, OpenFlags { write: true, ..OpenFlags::default() }).await?;
    let perm = Perm::CONSISTENT_READ | Perm::WRITE | Perm::RESIZE;
    let done = async {
        let file_root = file.root(&file.node, perm, Perm::CONSISTENT_READ).await?;
        let data_root = data_file.root(&data_file.node, perm, Perm::CONSISTENT_READ).await?;
        let host = TwoRoots { file: &file_root, data: &data_root };
        let done = block_qcow2::create::create_with(&host, o, Some(data), encrypt).await;
        data_root.detach().await;
        file_root.detach().await;
        done
    }
    .await;
    data_file.close().await;
    done
}

fn encryption(
    o: &BlockdevCreateOptionsQcow2,
    password: Option<&Secret>,
) -> Result<Option<Encryption>, QError> {
    block_qcow2::create::encryption(o, |id| {
        password.cloned().ok_or_else(|| qerr!("No secret with id '{id}'"))
    })
}

/// The block layer's name for it.
pub fn prealloc(mode: PreallocMode) -> Prealloc {
    match mode {
        PreallocMode::Off => Prealloc::Off,
        PreallocMode::Metadata => Prealloc::Metadata,
        PreallocMode::Falloc => Prealloc::Falloc,
        PreallocMode::Full => Prealloc::Full,
    }
}

async fn fill(file: &Opened, image: &NewImage) -> Result<(), QError> {
    let perm = Perm::CONSISTENT_READ | Perm::WRITE | Perm::RESIZE;
    let root = file.root(&file.node, perm, Perm::CONSISTENT_READ).await?;
    let done = match image {
        NewImage::Raw { size, preallocation } => {
            let mode = prealloc(*preallocation);
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
        NewImage::Luks { options, password, size, preallocation, detached } => {
            let place = if *detached { Place::Apart(&root, None) } else { Place::One(&root) };
            match block_crypto::new_volume(options, *detached) {
                Ok(new) => {
                    let mode = prealloc(*preallocation);
                    block_crypto::create(place, new, password.clone(), *size, mode).await
                }
                Err(e) => Err(e),
            }
        }
        NewImage::Qcow2(o) => block_qcow2::create::create(&RootHost(&root), o).await,
        NewImage::EncryptedQcow2(o, password) => match encryption(o, Some(password)) {
            Ok(e) => block_qcow2::create::create_with(&RootHost(&root), o, None, e).await,
            Err(e) => Err(e),
        },
    };
    let flushed = root.flush().await.map_err(|e| qerr!("Could not flush the image: {e}"));
    root.detach().await;
    done.and(flushed)
}
