//! Encryption of disk sectors.
//!
//! A sector of [`SECTOR`] bytes is encrypted on its own, with an initialisation vector made from its number: so that any
//! sector can be read or written without the others.

mod block;
mod iv;
mod stream;

use crate::Secret;
use api::crypto::{QCryptoCipherAlgo, QCryptoCipherMode, QCryptoHashAlgo, QCryptoIVGenAlgo};
use base::{Errno, IoResult};
use iv::IvGen;
use qapi::{QError, QapiEnum, qerr};
use stream::Stream;

/// Bytes that are encrypted with one initialisation vector.
pub const SECTOR: usize = 512;

/// How sectors are encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CipherSpec {
    /// The cipher.
    pub algo: QCryptoCipherAlgo,
    /// Its mode.
    pub mode: QCryptoCipherMode,
    /// How initialisation vectors are made.
    pub ivgen: QCryptoIVGenAlgo,
    /// The hash for [`QCryptoIVGenAlgo::Essiv`].
    pub ivgen_hash: Option<QCryptoHashAlgo>,
}

impl CipherSpec {
    /// Bytes of a key: in XTS there are two.
    pub fn key_len(&self) -> usize {
        let one = key_len(self.algo);
        if self.mode == QCryptoCipherMode::Xts { one * 2 } else { one }
    }
}

/// Bytes of one key of the cipher.
pub fn key_len(algo: QCryptoCipherAlgo) -> usize {
    use QCryptoCipherAlgo as A;
    match algo {
        A::Des => 8,
        A::Aes128 | A::Cast5_128 | A::Serpent128 | A::Twofish128 | A::Sm4 => 16,
        A::Aes192 | A::Serpent192 | A::Twofish192 | A::Des3 => 24,
        A::Aes256 | A::Serpent256 | A::Twofish256 => 32,
    }
}

/// Bytes of a block of the cipher.
fn block_len(algo: QCryptoCipherAlgo) -> usize {
    use QCryptoCipherAlgo as A;
    if matches!(algo, A::Cast5_128 | A::Des | A::Des3) { 8 } else { 16 }
}

/// Whether the cipher is there.
pub fn supported(algo: QCryptoCipherAlgo) -> bool {
    use QCryptoCipherAlgo as A;
    !matches!(algo, A::Des | A::Des3 | A::Sm4)
}

/// The cipher of a family (`aes`, `serpent`, …) whose key has `len` bytes.
pub(crate) fn of_family(family: &str, len: usize) -> Option<QCryptoCipherAlgo> {
    let bits = len.checked_mul(8)?;
    QCryptoCipherAlgo::from_str(&format!("{family}-{bits}")).filter(|a| supported(*a))
}

/// The name of the cipher's family.
pub(crate) fn family(algo: QCryptoCipherAlgo) -> &'static str {
    let name = algo.as_str();
    name.split_once('-').map_or(name, |(f, _)| f)
}

/// The old encryption of qcow and qcow2: AES-128 in CBC mode, initialisation vectors `plain64`, and the password itself for a
/// key: its first 16 bytes, with zeroes behind a shorter one. Nothing tells whether a password is the right one.
///
/// # Errors
/// The library's.
pub fn old_qcow(password: &Secret) -> Result<SectorCipher, QError> {
    let spec = CipherSpec {
        algo: QCryptoCipherAlgo::Aes128,
        mode: QCryptoCipherMode::Cbc,
        ivgen: QCryptoIVGenAlgo::Plain64,
        ivgen_hash: None,
    };
    let mut key = Secret::new(vec![0; spec.key_len()]);
    for (k, p) in key.iter_mut().zip(password.iter()) {
        *k = *p;
    }
    SectorCipher::new(&spec, &key)
}

/// Encrypts and decrypts sectors with one key. Any thread may call, several at once.
pub struct SectorCipher {
    stream: Stream,
    iv: IvGen,
}

impl SectorCipher {
    /// A cipher with its key, [`CipherSpec::key_len`] bytes.
    ///
    /// # Errors
    /// What is not supported, and a key of a wrong length.
    pub fn new(spec: &CipherSpec, key: &[u8]) -> Result<SectorCipher, QError> {
        if !supported(spec.algo) {
            return Err(qerr!("Algorithm '{}' not supported", spec.algo.as_str()));
        }
        if spec.mode == QCryptoCipherMode::Xts && block_len(spec.algo) != 16 {
            return Err(qerr!("Unsupported cipher mode {}", spec.mode.as_str()));
        }
        if key.len() != spec.key_len() {
            return Err(qerr!("Cipher key length {} should be {}", key.len(), spec.key_len()));
        }
        Ok(SectorCipher { stream: Stream::new(spec, key)?, iv: IvGen::new(spec, key)? })
    }

    /// Encrypts whole sectors in place; the first has the number `sector`.
    ///
    /// # Errors
    /// `EINVAL` for a length that is not whole sectors; `EIO` if the library fails.
    pub fn encrypt(&self, sector: u64, data: &mut [u8]) -> IoResult<()> {
        self.each(sector, data, true)
    }

    /// Decrypts whole sectors in place; the first has the number `sector`.
    ///
    /// # Errors
    /// As [`SectorCipher::encrypt`].
    pub fn decrypt(&self, sector: u64, data: &mut [u8]) -> IoResult<()> {
        self.each(sector, data, false)
    }

    fn each(&self, sector: u64, data: &mut [u8], encrypt: bool) -> IoResult<()> {
        if !data.len().is_multiple_of(SECTOR) {
            return Err(Errno::INVAL);
        }
        let mut session = self.stream.session(encrypt)?;
        for (i, part) in data.chunks_exact_mut(SECTOR).enumerate() {
            let iv = self.iv.iv(sector.wrapping_add(i as u64));
            session.sector(&iv, part)?;
        }
        Ok(())
    }
}

impl std::fmt::Debug for SectorCipher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SectorCipher")
    }
}

#[cfg(test)]
mod tests;
