//! Changing what an image is.

use api::block_core::BlockdevAmendOptions;
use block::Perm;
use block::driver::Prealloc;
use block_qcow2::amend::Amend;
use block_qcow2::header::CryptMethod;
use block_qcow2::host::RootHost;
use block_qcow2::image::read_header;
use qapi::{QError, qerr};

use crate::open::{OpenFlags, Opened, Source, open_below};

/// What to change; what is not given stays.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// What a running image can have changed, too.
    Options(BlockdevAmendOptions),
    /// Of a qcow2 image.
    Qcow2 {
        /// All that stands in the header. Its `size` and `password` do not count.
        amend: Box<Amend>,
        /// The virtual size, bytes.
        size: Option<u64>,
        /// Its encryption.
        encrypt: Option<BlockdevAmendOptions>,
        /// The backing file that it is to have: refused, even if it is the one that it has.
        backing_file: Option<String>,
        /// And its format.
        backing_format: Option<String>,
        /// The data file is to be readable on its own: refused where it is not already.
        raw: bool,
    },
}

/// Changes an image that is open for writing, and closes it. `source` is what it was opened from. `force`: also what makes
/// the data unreadable for good. `tell` hears how many steps of how many are done.
///
/// # Errors
/// What does not fit, in the reference's words; the storage's.
pub async fn amend(
    source: &Source,
    image: Opened,
    change: &Change,
    force: bool,
    tell: &mut dyn FnMut(u64, u64),
) -> Result<(), QError> {
    let open_part = async {
        match change {
            Change::Options(o) => image.graph.amend(&image.node, o, force).await.map(|()| None),
            Change::Qcow2 { amend, size, encrypt, .. } => {
                let amend = Amend { size: None, password: image.password.clone(), ..(**amend).clone() };
                check(&image, change, &amend).await?;
                if let Some(o) = encrypt {
                    image.graph.amend(&image.node, o, force).await?;
                }
                if let Some(size) = size {
                    image.graph.resize("", &image.node, *size, Prealloc::Off).await?;
                }
                let nothing = Amend { password: amend.password.clone(), ..Amend::default() };
                Ok((amend != nothing).then_some(amend))
            }
        }
    };
    let rest = open_part.await;
    image.close().await;
    let Some(rest) = rest? else { return Ok(()) };
    // Nobody else has the file open now.
    let file = open_below(source, OpenFlags { write: true, ..OpenFlags::default() }).await?;
    let perm = Perm::CONSISTENT_READ | Perm::WRITE | Perm::RESIZE;
    let done = match file.root(&file.node, perm, Perm::CONSISTENT_READ).await {
        Ok(root) => {
            let done = block_qcow2::amend::amend(&RootHost(&root), &rest, tell).await;
            root.detach().await;
            done
        }
        Err(e) => Err(e),
    };
    file.close().await;
    done
}

/// All that can be refused before anything is changed.
async fn check(image: &Opened, change: &Change, amend: &Amend) -> Result<(), QError> {
    let Change::Qcow2 { encrypt, backing_file, backing_format, raw, .. } = change else { return Ok(()) };
    let file = image.file.as_deref().ok_or_else(|| qerr!("The image has no file"))?;
    let root = image.root(file, Perm::CONSISTENT_READ, Perm::all()).await?;
    let host = RootHost(&root);
    let done = async {
        let h = read_header(&host).await?;
        if backing_file.is_some() || backing_format.is_some() {
            return Err(
                qerr!("Cannot amend the backing file").with_hint("You can use 'qemu-img rebase' instead.")
            );
        }
        if *raw && !h.raw_data_file() {
            return Err(qerr!("data-file-raw cannot be set on existing images"));
        }
        if encrypt.is_some() && h.crypt == CryptMethod::Aes {
            return Err(qerr!("Only LUKS encryption options can be amended"));
        }
        if encrypt.is_some() && h.crypto().is_none() {
            return Err(qerr!("Can't amend encryption options - encryption not present"));
        }
        block_qcow2::amend::possible(&host, amend).await
    }
    .await;
    root.detach().await;
    done
}
