//! Data on its way between a node and its child.

use base::{Errno, IoResult};
use crypto::Secret;
use crypto::cipher::{SECTOR, SectorCipher, old_qcow};
use mem::IoBuf;
use qapi::QError;
use zeroize::Zeroize;

/// Bytes that are worked on at a time: they stay in the processor's cache.
const PIECE: usize = 32 << 10;

/// Encrypts and decrypts buffers. A buffer may be memory that a guest writes to at the same time; then the result is as
/// undefined as what the guest does, no more.
#[derive(Debug)]
pub struct Transform {
    cipher: SectorCipher,
}

impl Transform {
    /// With this cipher.
    pub fn new(cipher: SectorCipher) -> Transform {
        Transform { cipher }
    }

    /// The old encryption of qcow and qcow2 with this password ([`old_qcow`]).
    ///
    /// # Errors
    /// As [`old_qcow`].
    pub fn old_qcow(password: &Secret) -> Result<Transform, QError> {
        Ok(Transform::new(old_qcow(password)?))
    }

    /// Decrypts `buf` in place. `pos` is where it lies in the encrypted area, in bytes; both it and the length are
    /// whole sectors.
    ///
    /// # Errors
    /// `EINVAL` for what is not whole sectors; `EIO` if the library fails.
    pub fn decrypt(&self, pos: u64, buf: &IoBuf) -> IoResult<()> {
        self.each(pos, buf, buf, |sector, piece| self.cipher.decrypt(sector, piece))
    }

    /// `buf` encrypted, in new memory that suits direct I/O. Otherwise as [`Transform::decrypt`].
    ///
    /// # Errors
    /// As [`Transform::decrypt`].
    pub fn encrypt(&self, pos: u64, buf: &IoBuf) -> IoResult<IoBuf> {
        let out = IoBuf::zeroed(buf.len());
        self.each(pos, buf, &out, |sector, piece| self.cipher.encrypt(sector, piece))?;
        Ok(out)
    }

    fn each(
        &self,
        pos: u64,
        from: &IoBuf,
        to: &IoBuf,
        work: impl Fn(u64, &mut [u8]) -> IoResult<()>,
    ) -> IoResult<()> {
        if !pos.is_multiple_of(SECTOR as u64) || !from.len().is_multiple_of(SECTOR) {
            return Err(Errno::INVAL);
        }
        let mut piece = vec![0; from.len().min(PIECE)];
        let mut done = 0;
        let mut result = Ok(());
        while done < from.len() && result.is_ok() {
            let n = (from.len() - done).min(PIECE);
            from.copy_to(done, &mut piece[..n]);
            result = work((pos + done as u64) / SECTOR as u64, &mut piece[..n]);
            if result.is_ok() {
                to.copy_from(done, &piece[..n]);
            }
            done += n;
        }
        piece.zeroize();
        result
    }
}
