//! Ciphers block by block.

use ::cipher::generic_array::GenericArray;
use ::cipher::{BlockDecrypt, BlockEncrypt, KeyInit};
use api::crypto::QCryptoCipherAlgo;
use qapi::{QError, QapiEnum, qerr};

/// A cipher with a key, on whole blocks (each on its own).
pub(super) trait BlockCipher: Send + Sync {
    /// Bytes of a block.
    fn block_len(&self) -> usize;
    /// Encrypts whole blocks in place.
    fn encrypt(&self, data: &mut [u8]);
    /// Decrypts whole blocks in place.
    fn decrypt(&self, data: &mut [u8]);
}

impl<C: BlockEncrypt + BlockDecrypt + Send + Sync> BlockCipher for C {
    fn block_len(&self) -> usize {
        C::block_size()
    }

    fn encrypt(&self, data: &mut [u8]) {
        for b in data.chunks_exact_mut(C::block_size()) {
            self.encrypt_block(GenericArray::from_mut_slice(b));
        }
    }

    fn decrypt(&self, data: &mut [u8]) {
        for b in data.chunks_exact_mut(C::block_size()) {
            self.decrypt_block(GenericArray::from_mut_slice(b));
        }
    }
}

/// The cipher `algo` with a key of its length.
pub(super) fn new(algo: QCryptoCipherAlgo, key: &[u8]) -> Result<Box<dyn BlockCipher>, QError> {
    use QCryptoCipherAlgo as A;
    fn boxed<C: KeyInit + BlockCipher + 'static>(key: &[u8]) -> Result<Box<dyn BlockCipher>, QError> {
        let c = C::new_from_slice(key);
        Ok(Box::new(c.map_err(|_| qerr!("Unsupported cipher key length {}", key.len()))?))
    }
    match algo {
        A::Aes128 => boxed::<aes::Aes128>(key),
        A::Aes192 => boxed::<aes::Aes192>(key),
        A::Aes256 => boxed::<aes::Aes256>(key),
        A::Cast5_128 => boxed::<cast5::Cast5>(key),
        A::Serpent128 | A::Serpent192 | A::Serpent256 => boxed::<serpent::Serpent>(key),
        A::Twofish128 | A::Twofish192 | A::Twofish256 => boxed::<twofish::Twofish>(key),
        other => Err(qerr!("Algorithm '{}' not supported", other.as_str())),
    }
}
