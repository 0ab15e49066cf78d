//! New volumes.

use super::header::{DIGEST_LEN, Header, SALT_LEN, SLOTS, Slot, slot_sectors};
use super::slots::rounds;
use crate::cipher::{CipherSpec, SECTOR, SectorCipher, supported};
use crate::{Secret, hash, random};
use api::crypto::{QCryptoCipherAlgo, QCryptoCipherMode, QCryptoHashAlgo, QCryptoIVGenAlgo};
use qapi::{QError, QapiEnum, qerr};
use std::time::Duration;

/// Where the first slot's material begins, and what all of them are aligned to, bytes.
const ALIGN: u64 = 4096;

/// What a new volume shall be like; what is not given is as the reference has it: AES-256 in XTS mode with `plain64`,
/// SHA-256.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NewVolume {
    /// The cipher.
    pub cipher: Option<QCryptoCipherAlgo>,
    /// Its mode.
    pub mode: Option<QCryptoCipherMode>,
    /// How initialisation vectors are made.
    pub ivgen: Option<QCryptoIVGenAlgo>,
    /// The hash of that.
    pub ivgen_hash: Option<QCryptoHashAlgo>,
    /// The hash of the key derivation and of the splitter.
    pub hash: Option<QCryptoHashAlgo>,
    /// How long deriving the slot's key shall take: [`super::DEFAULT_ITER_TIME`] unless given.
    pub iter_time: Option<Duration>,
    /// Whether the header is to stand in a file of its own: the payload then begins at 0.
    pub detached: bool,
}

/// A volume that was made.
pub struct Volume {
    /// Its header, with the password in slot 0.
    pub header: Header,
    /// What belongs into slot 0's key material.
    pub material: Secret,
    /// The master key.
    pub master: Secret,
}

impl NewVolume {
    /// How sectors will be encrypted.
    pub fn spec(&self) -> CipherSpec {
        let ivgen = self.ivgen.unwrap_or(QCryptoIVGenAlgo::Plain64);
        let essiv = ivgen == QCryptoIVGenAlgo::Essiv;
        CipherSpec {
            algo: self.cipher.unwrap_or(QCryptoCipherAlgo::Aes256),
            mode: self.mode.unwrap_or(QCryptoCipherMode::Xts),
            ivgen,
            ivgen_hash: if essiv {
                Some(self.ivgen_hash.unwrap_or(QCryptoHashAlgo::Sha256))
            } else {
                self.ivgen_hash
            },
        }
    }

    /// Bytes before the payload: header and key slots; with a detached header, the bytes of that.
    pub fn overhead(&self) -> u64 {
        ALIGN + SLOTS as u64 * self.slot_step()
    }

    fn slot_step(&self) -> u64 {
        (slot_sectors(self.spec().key_len() as u64) * SECTOR as u64).next_multiple_of(ALIGN)
    }

    /// Makes a master key and a header. Takes as long as the time for deriving keys says.
    ///
    /// # Errors
    /// What is not supported; no random bytes.
    pub fn create(&self, password: &[u8]) -> Result<Volume, QError> {
        let spec = self.spec();
        if !supported(spec.algo) {
            return Err(qerr!("Algorithm '{}' not supported", spec.algo.as_str()));
        }
        let hash = self.hash.unwrap_or(QCryptoHashAlgo::Sha256);
        hash::digest_len(hash)?;
        let time = self.iter_time.unwrap_or(super::DEFAULT_ITER_TIME);
        let master = random(spec.key_len())?;
        SectorCipher::new(&spec, &master)?;
        let mut digest_salt = [0; SALT_LEN];
        digest_salt.copy_from_slice(&random(SALT_LEN)?);
        // The digest is checked for each slot that is tried; so it takes an eighth of a slot's time.
        let digest_rounds = rounds(hash, DIGEST_LEN, time, 8)?;
        let made = hash::pbkdf2(hash, &master, &digest_salt, digest_rounds, DIGEST_LEN)?;
        let mut digest = [0; DIGEST_LEN];
        digest.copy_from_slice(&made);
        let sector = |bytes: u64| u32::try_from(bytes / SECTOR as u64).unwrap_or(u32::MAX);
        let slot = |i: usize| Slot {
            active: false,
            rounds: 0,
            salt: [0; SALT_LEN],
            sector: sector(ALIGN + i as u64 * self.slot_step()),
        };
        let mut header = Header {
            cipher: spec,
            hash,
            payload_sector: if self.detached { 0 } else { sector(self.overhead()) },
            key_len: spec.key_len(),
            digest,
            digest_salt,
            digest_rounds,
            uuid: uuid()?,
            slots: std::array::from_fn(slot),
        };
        let material = header.set_slot(0, &master, password, time)?;
        Ok(Volume { header, material, master })
    }
}

/// A random UUID (RFC 9562, section 5.4) as text.
fn uuid() -> Result<String, QError> {
    let mut b = random(16)?;
    b[6] = b[6] & 0x0f | 0x40;
    b[8] = b[8] & 0x3f | 0x80;
    let hex = |b: &[u8]| b.iter().map(|b| format!("{b:02x}")).collect::<String>();
    Ok([&b[..4], &b[4..6], &b[6..8], &b[8..10], &b[10..]].map(hex).join("-"))
}
