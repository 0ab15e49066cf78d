//! LUKS volumes on something that can be read and written.

use base::IoResult;
use crypto::Secret;
use crypto::luks::{HEADER_LEN, Header, NewVolume, SLOTS, Volume};
use qapi::{QError, qerr};

/// Where a header and its key slots lie. Offsets are those of the header: 0 is its first byte.
#[allow(async_fn_in_trait)] // Futures of the data plane stay on the executor that made them.
pub trait Area {
    /// Reads; what lies behind the end is zeroes. The caller bounds `len`.
    async fn read(&self, off: u64, len: usize) -> IoResult<Vec<u8>>;
    /// Writes.
    async fn write(&self, off: u64, bytes: &[u8]) -> IoResult<()>;
    /// Makes what was written stable.
    async fn flush(&self) -> IoResult<()>;
}

/// Reads the header.
///
/// # Errors
/// It cannot be read, or is none.
pub async fn read_header(area: &impl Area, detached: bool) -> Result<Header, QError> {
    let bytes = area.read(0, HEADER_LEN).await.map_err(|e| qerr!("Unable to read LUKS header: {e}"))?;
    Header::parse(&bytes, detached)
}

async fn material(area: &impl Area, header: &Header, slot: usize) -> Result<Vec<u8>, QError> {
    let (at, len) = header.slot_range(slot);
    area.read(at, len).await.map_err(|e| qerr!("Failed to read key material: {e}"))
}

/// Whether `password` opens the slot; then the master key. The work is done on a thread that may wait.
pub(crate) async fn try_slot(
    area: &impl Area,
    header: &Header,
    slot: usize,
    password: &Secret,
) -> Result<Option<Secret>, QError> {
    if !header.slots[slot].active {
        return Ok(None);
    }
    let material = material(area, header, slot).await?;
    let (header, password) = (header.clone(), password.clone());
    rt::unblock(move || header.open_slot(slot, &material, &password)).await
}

/// The master key.
///
/// # Errors
/// `Invalid password, cannot unlock any keyslot`; the storage's.
pub async fn unlock(area: &impl Area, header: &Header, password: &Secret) -> Result<Secret, QError> {
    for slot in 0..SLOTS {
        if let Some(master) = try_slot(area, header, slot, password).await? {
            return Ok(master);
        }
    }
    Err(qerr!("Invalid password, cannot unlock any keyslot"))
}

/// Makes a volume's keys; nothing is written yet. The work is done on a thread that may wait.
///
/// # Errors
/// What is not supported.
pub async fn generate(new: NewVolume, password: Secret) -> Result<Volume, QError> {
    rt::unblock(move || new.create(&password)).await
}

/// Writes a new volume's header and key slot.
///
/// # Errors
/// The storage's.
pub async fn write(area: &impl Area, volume: &Volume) -> Result<(), QError> {
    let run = async || -> IoResult<()> {
        area.write(volume.header.slot_range(0).0, &volume.material).await?;
        area.write(0, &volume.header.to_bytes()).await?;
        area.flush().await
    };
    run().await.map_err(|e| qerr!("Unable to write LUKS header: {e}"))
}

/// Writes a changed slot, so that a crash leaves the old header or the new one, and never one that names a key that is
/// not there.
pub(crate) async fn write_slot(
    area: &impl Area,
    header: &Header,
    slot: usize,
    material: &[u8],
) -> Result<(), QError> {
    let run = async || -> IoResult<()> {
        area.write(header.slot_range(slot).0, material).await?;
        area.flush().await?;
        area.write(0, &header.to_bytes()).await?;
        area.flush().await
    };
    run().await.map_err(|e| qerr!("Unable to write LUKS header: {e}"))
}
