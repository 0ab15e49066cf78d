//! Initialisation vectors from sector numbers.

use super::{CipherSpec, block, block_len, family, of_family};
use crate::hash;
use api::crypto::{QCryptoHashAlgo, QCryptoIVGenAlgo};
use qapi::{QError, qerr};

/// An initialisation vector; shorter ones use its first bytes.
pub(super) type Iv = [u8; 16];

pub(super) enum IvGen {
    Plain,
    Plain64,
    Essiv(Box<dyn block::BlockCipher>),
}

impl IvGen {
    pub(super) fn new(spec: &CipherSpec, key: &[u8]) -> Result<IvGen, QError> {
        match spec.ivgen {
            QCryptoIVGenAlgo::Plain => Ok(IvGen::Plain),
            QCryptoIVGenAlgo::Plain64 => Ok(IvGen::Plain64),
            QCryptoIVGenAlgo::Essiv => {
                // The reference's choice where a user names no hash.
                let algo = spec.ivgen_hash.unwrap_or(QCryptoHashAlgo::Sha256);
                let salt = hash::digest(algo, &[key])?;
                let (name, len) = (family(spec.algo), salt.len());
                let cipher = of_family(name, len)
                    .filter(|c| block_len(*c) == block_len(spec.algo))
                    .ok_or_else(|| no_cipher(name, len))?;
                Ok(IvGen::Essiv(block::new(cipher, &salt)?))
            }
        }
    }

    pub(super) fn iv(&self, sector: u64) -> Iv {
        let mut iv = [0; 16];
        match self {
            IvGen::Plain => iv[..4].copy_from_slice(&(sector as u32).to_le_bytes()),
            IvGen::Plain64 => iv[..8].copy_from_slice(&sector.to_le_bytes()),
            IvGen::Essiv(cipher) => {
                iv[..8].copy_from_slice(&sector.to_le_bytes());
                cipher.encrypt(&mut iv[..cipher.block_len()]);
            }
        }
        iv
    }
}

fn no_cipher(family: &str, len: usize) -> QError {
    let shown = match family {
        "aes" => "AES",
        "serpent" => "Serpent",
        "twofish" => "Twofish",
        "cast5" => "Cast5",
        other => other,
    };
    qerr!("No {shown} cipher with key size {len} available")
}
