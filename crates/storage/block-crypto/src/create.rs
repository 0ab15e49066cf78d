//! New volumes.

use crate::volume::{Area, generate, write};
use base::IoResult;
use block::Root;
use block::driver::{Prealloc, WriteFlags};
use crypto::Secret;
use crypto::luks::NewVolume;
use mem::IoBuf;
use qapi::{QError, qerr};

/// The first bytes of what a root shows.
struct RootArea<'a>(&'a Root);

impl Area for RootArea<'_> {
    async fn read(&self, off: u64, len: usize) -> IoResult<Vec<u8>> {
        let buf = IoBuf::zeroed(len);
        let have = self.0.len().saturating_sub(off).min(len as u64) as usize;
        if have > 0 {
            self.0.read(off, buf.slice(0..have)).await?;
        }
        Ok(buf.to_vec())
    }

    async fn write(&self, off: u64, bytes: &[u8]) -> IoResult<()> {
        self.0.write(off, IoBuf::from_bytes(bytes), WriteFlags::empty()).await
    }

    async fn flush(&self) -> IoResult<()> {
        self.0.flush().await
    }
}

/// Where a new volume goes.
pub enum Place<'a> {
    /// All of it into one file.
    One(&'a Root),
    /// The header into one file, the data into another, if there is any yet.
    Apart(&'a Root, Option<&'a Root>),
}

/// Makes a volume that shows `size` bytes. What the files held is lost. Roots need to read, write and resize.
///
/// # Errors
/// What is not supported; the storage's.
pub async fn create(
    place: Place<'_>,
    mut new: NewVolume,
    password: Secret,
    size: u64,
    prealloc: Prealloc,
) -> Result<(), QError> {
    if prealloc == Prealloc::Metadata {
        return Err(qerr!("Unsupported preallocation mode: metadata"));
    }
    new.detached = matches!(place, Place::Apart(..));
    // Before anything is lost: all that can fail without storage.
    let volume = generate(new, password).await?;
    let overhead = new.overhead();
    let resize = async |root: &Root, len: u64, mode: Prealloc| {
        let failed = |e| qerr!("Could not resize file: {e}");
        // A device keeps its length.
        root.truncate(0, false, Prealloc::Off).await.map_err(failed)?;
        root.truncate(len, false, mode).await.map_err(failed)
    };
    let header = match place {
        Place::One(root) => {
            let len = size.checked_add(overhead).filter(|l| *l <= i64::MAX as u64);
            let len = len.ok_or_else(|| qerr!("The requested file size is too large"))?;
            resize(root, len, prealloc).await?;
            root
        }
        Place::Apart(header, data) => {
            resize(header, overhead, Prealloc::Off).await?;
            if let Some(data) = data {
                resize(data, size, prealloc).await?;
            }
            header
        }
    };
    write(&RootArea(header), &volume).await
}
