//! What making an image takes, whatever its format.

use api::block_core::BlockdevRef;
use base::Errno;
use block::Root;
use block::create::{CreateCx, CreateOption, OptionType};
use block::driver::{Prealloc, WriteFlags};
use mem::IoBuf;
use qapi::{QError, qerr};
use std::pin::Pin;

/// An option that is a text.
pub const fn text(name: &'static str, help: &'static str) -> CreateOption {
    CreateOption::new(name, OptionType::Str, help)
}

/// An option that is on or off.
pub const fn switch(name: &'static str, help: &'static str) -> CreateOption {
    CreateOption::new(name, OptionType::Bool, help)
}

/// The file that gets an image.
pub struct NewFile<'a>(pub &'a Root);

impl NewFile<'_> {
    /// Writes bytes, growing the file where needed.
    pub async fn put(&self, off: u64, bytes: &[u8]) -> Result<(), QError> {
        let end = off.checked_add(bytes.len() as u64).ok_or_else(|| qerr!("{}", Errno::FBIG))?;
        self.grow(end, Prealloc::Off).await?;
        let done = self.0.write(off, IoBuf::from_bytes(bytes), WriteFlags::empty()).await;
        done.map_err(|e| qerr!("Could not write the image: {e}"))
    }

    /// Makes the file at least `end` bytes long; what is new is zeroes.
    pub async fn grow(&self, end: u64, prealloc: Prealloc) -> Result<(), QError> {
        if self.0.len() >= end {
            return Ok(());
        }
        let done = self.0.truncate(end, false, prealloc).await;
        done.map_err(|e| qerr!("Could not resize file: {e}"))
    }

    /// Makes sure that nothing is in the file any more: an error where it keeps its length.
    ///
    /// # Errors
    /// It cannot be truncated.
    pub async fn empty(&self) -> Result<(), QError> {
        self.0.truncate(0, true, Prealloc::Off).await.map_err(|e| match self.0.truncate_failure() {
            Some(text) => qerr!("{text}"),
            None => qerr!("Could not resize file: {e}"),
        })
    }
}

/// What fills a new file.
pub type Fill<'a> = Pin<Box<dyn Future<Output = Result<(), QError>> + 'a>>;

/// Empties the node's file and has it filled.
///
/// # Errors
/// There is no such node; those of `fill`; the image cannot be made stable.
pub async fn fill_file(
    cx: &CreateCx,
    file: &BlockdevRef,
    fill: impl for<'a> FnOnce(NewFile<'a>) -> Fill<'a>,
) -> Result<(), QError> {
    let root = cx.root(file).await?;
    let done = async {
        // A device keeps its length: what is there is written over.
        if !root.is_empty() {
            match root.truncate(0, false, Prealloc::Off).await {
                Ok(()) | Err(Errno::NOTSUP | Errno::INVAL) => {}
                Err(e) => return Err(qerr!("Could not resize file: {e}")),
            }
        }
        fill(NewFile(&root)).await
    }
    .await;
    let flushed = root.flush().await.map_err(|e| qerr!("Could not flush the image: {e}"));
    root.detach().await;
    done.and(flushed)
}

/// Random bytes, for ids.
pub fn uuid() -> Result<[u8; 16], QError> {
    let mut u = [0; 16];
    getrandom::fill(&mut u).map_err(|e| qerr!("Unable to read random bytes: {e}"))?;
    // Version 4, of the variant that RFC 9562 describes.
    u[6] = u[6] & 0x0f | 0x40;
    u[8] = u[8] & 0x3f | 0x80;
    Ok(u)
}

/// Seconds since 1970.
pub fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs())
}
