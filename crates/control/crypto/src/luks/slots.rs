//! Key slots: looking for the master key, putting it under another password, destroying it.

use super::header::{DIGEST_LEN, Header, MAX_ROUNDS, SLOTS, STRIPES};
use crate::cipher::{SECTOR, SectorCipher};
use crate::{Secret, af, hash, random};
use qapi::{QError, qerr};
use std::time::Duration;
use subtle::ConstantTimeEq;

/// How long deriving a slot's key shall take unless the user says so.
pub const DEFAULT_ITER_TIME: Duration = Duration::from_secs(2);

/// The fewest rounds, however slow the machine (on-disk format 1.2.3, section 4.1).
const MIN_ROUNDS: u64 = 1000;

/// The rounds of key derivation that take about `time`; `part` is by what the time is divided.
pub(super) fn rounds(
    algo: api::crypto::QCryptoHashAlgo,
    len: usize,
    time: Duration,
    part: u64,
) -> Result<u32, QError> {
    let n = (hash::rounds_for(algo, len, time)? / part).max(MIN_ROUNDS);
    u32::try_from(n)
        .ok()
        .filter(|n| *n <= MAX_ROUNDS)
        .ok_or_else(|| qerr!("PBKDF iterations {n} larger than {MAX_ROUNDS}"))
}

impl Header {
    /// Whether this is the volume's master key.
    ///
    /// # Errors
    /// A hash that is not there.
    pub fn is_master(&self, key: &[u8]) -> Result<bool, QError> {
        let made = hash::pbkdf2(self.hash, key, &self.digest_salt, self.digest_rounds, DIGEST_LEN)?;
        Ok(bool::from(made.ct_eq(&self.digest)))
    }

    /// The master key, if `password` opens the slot whose key material is `material` (all of [`Header::slot_range`], as
    /// it is on the disk).
    ///
    /// Takes as long as the rounds of the slot and of the digest say.
    ///
    /// # Errors
    /// A cipher or hash that is not there; material of a wrong length.
    pub fn open_slot(&self, slot: usize, material: &[u8], password: &[u8]) -> Result<Option<Secret>, QError> {
        let s = &self.slots[slot];
        if !s.active {
            return Ok(None);
        }
        if material.len() != self.slot_range(slot).1 {
            return Err(qerr!("The key material of keyslot {slot} is not whole"));
        }
        let key = hash::pbkdf2(self.hash, password, &s.salt, s.rounds, self.key_len)?;
        let mut split = Secret::new(material.to_vec());
        SectorCipher::new(&self.cipher, &key)?
            .decrypt(0, &mut split)
            .map_err(|e| qerr!("Could not decrypt keyslot {slot}: {e}"))?;
        let master = af::merge(self.hash, &split[..self.key_len * STRIPES as usize], self.key_len)?;
        Ok(self.is_master(&master)?.then_some(master))
    }

    /// Puts the master key into a slot under a password: the header changes, and the slot's new key material is
    /// returned, which must be on the disk before the header is.
    ///
    /// # Errors
    /// No random bytes; more rounds than there may be.
    pub fn set_slot(
        &mut self,
        slot: usize,
        master: &[u8],
        password: &[u8],
        time: Duration,
    ) -> Result<Secret, QError> {
        let rounds = rounds(self.hash, self.key_len, time, 1)?;
        let mut salt = [0; 32];
        salt.copy_from_slice(&random(32)?);
        let key = hash::pbkdf2(self.hash, password, &salt, rounds, self.key_len)?;
        let mut material = af::split(self.hash, master, STRIPES as usize)?;
        // A key whose stripes do not fill the last sector: as other programs do, the rest is zeroes.
        let len = material.len().next_multiple_of(SECTOR);
        if len != material.len() {
            let mut longer = Secret::new(vec![0; len]);
            longer[..material.len()].copy_from_slice(&material);
            material = longer;
        }
        SectorCipher::new(&self.cipher, &key)?
            .encrypt(0, &mut material)
            .map_err(|e| qerr!("Could not encrypt keyslot {slot}: {e}"))?;
        let s = &mut self.slots[slot];
        s.rounds = rounds;
        s.salt = salt;
        s.active = true;
        Ok(material)
    }

    /// Forgets a slot's key: the header changes, and what its key material must be overwritten with is returned.
    ///
    /// # Errors
    /// No random bytes.
    pub fn erase_slot(&mut self, slot: usize) -> Result<Secret, QError> {
        let junk = random(self.slot_range(slot).1)?;
        let s = &mut self.slots[slot];
        s.active = false;
        s.rounds = 0;
        s.salt = [0; 32];
        Ok(junk)
    }

    /// The first slot that holds nothing.
    pub fn free_slot(&self) -> Option<usize> {
        (0..SLOTS).find(|i| !self.slots[*i].active)
    }

    /// How many slots hold a key.
    pub fn active_slots(&self) -> usize {
        self.slots.iter().filter(|s| s.active).count()
    }
}
