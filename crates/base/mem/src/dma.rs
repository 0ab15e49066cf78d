use crate::{AddressSpace, BusError, BusErrorKind, FlatKind, IoBuf, Scalar};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A device's handle to an address space: RAM only, and revocable.
///
/// It never reaches registers, so no DMA can re-enter a device. Clones share the revocation; an [`IoBuf`] made
/// before stays valid memory, though the guest may no longer see it.
#[derive(Clone)]
pub struct Dma {
    space: Arc<AddressSpace>,
    revoked: Arc<AtomicBool>,
}

impl Dma {
    /// A handle to `space`.
    pub fn new(space: Arc<AddressSpace>) -> Dma {
        Dma { space, revoked: Arc::default() }
    }

    /// Takes the access away, for this handle and all its clones.
    pub fn revoke(&self) {
        self.revoked.store(true, Ordering::Release);
    }

    fn check(&self, addr: u64, write: bool) -> Result<(), BusError> {
        if self.revoked.load(Ordering::Acquire) {
            return Err(BusError { addr, write, kind: BusErrorKind::Revoked });
        }
        Ok(())
    }

    /// Calls `f(block, offset in it, length, bytes done before)` for the pieces of a range of RAM.
    fn ram(
        &self,
        gpa: u64,
        len: u64,
        write: bool,
        mut f: impl FnMut(&Arc<crate::Memory>, u64, u64, u64),
    ) -> Result<(), BusError> {
        self.check(gpa, write)?;
        self.space.guard().pieces(gpa, len, write, |r, rel, n, done| match &r.kind {
            FlatKind::Ram { mem, off, read_only, writes } if !write || (!read_only && writes.is_none()) => {
                f(mem, off + rel, n, done);
                Ok(())
            }
            _ => Err(BusError { addr: r.start + rel, write, kind: BusErrorKind::NotRam }),
        })
    }

    /// Copies bytes out of RAM.
    ///
    /// # Errors
    /// Where a byte of the range is not RAM, or the handle was revoked; `dst` may have been written in part.
    pub fn read(&self, gpa: u64, dst: &mut [u8]) -> Result<(), BusError> {
        self.ram(gpa, dst.len() as u64, false, |m, off, n, done| {
            m.read(off, &mut dst[done as usize..(done + n) as usize]);
        })
    }

    /// Copies bytes into RAM.
    ///
    /// # Errors
    /// Where a byte of the range is not writable RAM, or the handle was revoked; a part may have been written.
    pub fn write(&self, gpa: u64, src: &[u8]) -> Result<(), BusError> {
        self.ram(gpa, src.len() as u64, true, |m, off, n, done| {
            m.write(off, &src[done as usize..(done + n) as usize]);
        })
    }

    /// Loads a little-endian scalar; single-copy atomic where it is aligned.
    ///
    /// # Errors
    /// As [`Dma::read`].
    pub fn load<T: Scalar>(&self, gpa: u64) -> Result<T, BusError> {
        let mut v = 0u64;
        self.ram(gpa, T::SIZE as u64, false, |m, off, n, done| {
            if n == T::SIZE as u64 {
                v = m.load::<T>(off).to_u64();
            } else {
                for i in 0..n {
                    v |= u64::from(m.load::<u8>(off + i)) << (8 * (done + i));
                }
            }
        })?;
        Ok(T::from_u64(v))
    }

    /// Stores a little-endian scalar; single-copy atomic where it is aligned.
    ///
    /// # Errors
    /// As [`Dma::write`].
    pub fn store<T: Scalar>(&self, gpa: u64, v: T) -> Result<(), BusError> {
        self.ram(gpa, T::SIZE as u64, true, |m, off, n, done| {
            if n == T::SIZE as u64 {
                m.store(off, v);
            } else {
                for i in 0..n {
                    m.store(off + i, (v.to_u64() >> (8 * (done + i))) as u8);
                }
            }
        })
    }

    /// The RAM of a range as a buffer that stays valid on its own; `write` demands that all of it be writable.
    ///
    /// # Errors
    /// As [`Dma::read`] or [`Dma::write`]; nothing is touched.
    pub fn iobuf(&self, gpa: u64, len: u64, write: bool) -> Result<IoBuf, BusError> {
        let mut buf = IoBuf::new();
        self.ram(gpa, len, write, |m, off, n, _| buf.push(m.clone(), off, n))?;
        Ok(buf)
    }
}
