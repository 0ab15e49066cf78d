//! LUKS inside images: it is the library that encrypts.

use crate::cluster::answer;
use crate::image::Image;
use crate::library::{AnyLuksOptions, EncryptionSpec, LuksOptions};
use api::block_core::{
    RbdEncryption, RbdEncryptionCreateOptions, RbdEncryptionOptions, RbdImageEncryptionFormat,
};
use api::crypto::QCryptoCipherAlgo;
use base::Errno;
use crypto::Secret;
use qapi::{QError, qerr};
use qom::ObjectTree;
use std::ffi::{c_int, c_void};

/// Most images of which each is a clone of the next, with encryptions of their own.
const MAX_PARENTS: usize = 64;

/// The numbers of formats and ciphers in the library's interface.
const LUKS1: c_int = 0;
const LUKS2: c_int = 1;
const LUKS_ANY: c_int = 2;
const AES128: c_int = 0;
const AES256: c_int = 1;

/// What an image of this format begins with, and where its version stands, which has two bytes (LUKS2 On-Disk Format
/// Specification, section 2.1). That of a clone begins otherwise.
const MAGICS: [&[u8; 6]; 2] = [b"LUKS\xba\xbe", b"RBDL\xba\xbe"];
/// So much says whether an image is encrypted.
pub(crate) const BEGINNING: usize = 8;

/// The format of what an image begins with.
pub(crate) fn format(beginning: &[u8; BEGINNING]) -> Option<RbdImageEncryptionFormat> {
    match beginning {
        [magic @ .., 0, version] if MAGICS.iter().any(|m| m[..] == *magic) => match version {
            1 => Some(RbdImageEncryptionFormat::Luks),
            2 => Some(RbdImageEncryptionFormat::Luks2),
            _ => None,
        },
        _ => None,
    }
}

/// A secret that the user has made.
pub(crate) fn secret(objects: Option<&ObjectTree>, id: &str) -> Result<Secret, QError> {
    objects.ok_or_else(|| qerr!("No secret with id '{id}'"))?.secret(id)
}

/// What decrypts an image, and those that it is a clone of.
pub(crate) struct Keys(Vec<(c_int, Secret)>);

impl Keys {
    /// Looks the secrets up.
    pub(crate) fn find(
        objects: Option<&ObjectTree>,
        mut encryption: &RbdEncryptionOptions,
    ) -> Result<Keys, QError> {
        let mut all = Vec::new();
        loop {
            let (format, luks) = match &encryption.encryption {
                RbdEncryption::Luks(l) => (LUKS1, l),
                RbdEncryption::Luks2(l) => (LUKS2, l),
                RbdEncryption::LuksAny(l) => (LUKS_ANY, l),
            };
            all.push((format, secret(objects, &luks.key_secret)?));
            match &encryption.parent {
                None => return Ok(Keys(all)),
                Some(_) if all.len() == MAX_PARENTS => {
                    return Err(qerr!("Encryption is said of more than {MAX_PARENTS} images"));
                }
                Some(parent) => encryption = parent,
            }
        }
    }

    /// Shows the decrypted bytes from now on. Waits for the network, and for the derivation of keys.
    pub(crate) fn load(&self, image: &mut Image) -> Result<(), QError> {
        let failed = |e: Errno| qerr!("encryption load fail: {e}");
        let before = image.len().map_err(failed)?;
        self.load_into(image)?;
        image.decrypted(before).map_err(failed)
    }

    fn load_into(&self, image: &Image) -> Result<(), QError> {
        let f = image.pool.f;
        let failed = |e: Errno| qerr!("encryption load fail: {e}");
        if let ([(format, key)], Some(load)) = (&self.0[..], f.rbd_encryption_load)
            && *format != LUKS_ANY
        {
            let o = LuksOptions { alg: AES256, passphrase: key.as_ptr().cast(), passphrase_size: key.len() };
            let at = (&raw const o).cast::<c_void>();
            // SAFETY: the image is open and not used yet; options of this format, which are the call's only.
            return answer(unsafe { load(image.handle(), *format, at, size_of::<LuksOptions>()) })
                .map(drop)
                .map_err(failed);
        }
        let Some(load) = f.rbd_encryption_load2 else {
            return Err(qerr!(
                "The installed librbd is too old for this encryption: it takes Ceph 17 or newer"
            ));
        };
        let plain: Vec<_> = self.0.iter().map(|(_, key)| key).collect();
        let exact: Vec<_> = plain
            .iter()
            .map(|k| LuksOptions { alg: AES256, passphrase: k.as_ptr().cast(), passphrase_size: k.len() })
            .collect();
        let any: Vec<_> = plain
            .iter()
            .map(|k| AnyLuksOptions { passphrase: k.as_ptr().cast(), passphrase_size: k.len() })
            .collect();
        let specs: Vec<_> = (0..plain.len())
            .map(|i| match self.0[i].0 {
                LUKS_ANY => EncryptionSpec {
                    format: LUKS_ANY,
                    opts: (&raw const any[i]).cast(),
                    opts_size: size_of::<AnyLuksOptions>(),
                },
                format => EncryptionSpec {
                    format,
                    opts: (&raw const exact[i]).cast(),
                    opts_size: size_of::<LuksOptions>(),
                },
            })
            .collect();
        // SAFETY: as above, one for each image of the chain.
        answer(unsafe { load(image.handle(), specs.as_ptr(), specs.len()) }).map(drop).map_err(failed)
    }
}

/// How a new image is encrypted.
pub(crate) struct NewLuks {
    format: c_int,
    alg: c_int,
    key: Secret,
}

impl NewLuks {
    /// Looks the secret up.
    pub(crate) fn find(
        objects: Option<&ObjectTree>,
        encryption: &RbdEncryptionCreateOptions,
    ) -> Result<NewLuks, QError> {
        let (format, luks) = match encryption {
            RbdEncryptionCreateOptions::Luks(l) => (LUKS1, l),
            RbdEncryptionCreateOptions::Luks2(l) => (LUKS2, l),
            RbdEncryptionCreateOptions::LuksAny => {
                return Err(qerr!("unknown image encryption format: {LUKS_ANY}: {}", Errno::NOTSUP));
            }
        };
        let alg = match luks.cipher_alg {
            Some(QCryptoCipherAlgo::Aes128) => AES128,
            Some(QCryptoCipherAlgo::Aes256) | None => AES256,
            Some(other) => {
                return Err(qerr!("unknown encryption algorithm: {}: {}", other as u8, Errno::NOTSUP));
            }
        };
        Ok(NewLuks { format, alg, key: secret(objects, &luks.key_secret)? })
    }

    /// Writes the volume's header; what the image held is lost. The image is decrypted from then on. Waits.
    pub(crate) fn format(&self, image: &mut Image) -> Result<(), QError> {
        let before = image.len().map_err(|e| qerr!("cannot get raw image size: {e}"))?;
        self.format_in(image)?;
        image.decrypted(before).map_err(|e| qerr!("cannot get effective image size: {e}"))
    }

    fn format_in(&self, image: &Image) -> Result<(), QError> {
        let Some(format) = image.pool.f.rbd_encryption_format else {
            return Err(qerr!("The installed librbd is too old for encryption"));
        };
        let o = LuksOptions {
            alg: self.alg,
            passphrase: self.key.as_ptr().cast(),
            passphrase_size: self.key.len(),
        };
        let at = (&raw const o).cast::<c_void>();
        // SAFETY: the image is open and not used yet; options of this format, which are the call's only.
        answer(unsafe { format(image.handle(), self.format, at, size_of::<LuksOptions>()) })
            .map(drop)
            .map_err(|e| qerr!("encryption format fail: {e}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_encrypted_image_is_known_by_its_beginning() {
        assert_eq!(format(b"LUKS\xba\xbe\0\x01"), Some(RbdImageEncryptionFormat::Luks));
        assert_eq!(format(b"LUKS\xba\xbe\0\x02"), Some(RbdImageEncryptionFormat::Luks2));
        assert_eq!(format(b"RBDL\xba\xbe\0\x02"), Some(RbdImageEncryptionFormat::Luks2));
        for other in [*b"LUKS\xba\xbe\0\x03", *b"LUKS\xba\xbe\x01\x01", *b"LUKs\xba\xbe\0\x01", [0; 8]] {
            assert_eq!(format(&other), None);
        }
    }
}
