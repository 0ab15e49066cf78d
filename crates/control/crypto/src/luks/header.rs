//! The header ("phdr", on-disk format 1.2.3, section 2.1) and its key slots (section 2.2).

use super::names;
use crate::cipher::{CipherSpec, SECTOR};
use crate::hash;
use api::crypto::{QCryptoBlockInfoLUKS, QCryptoBlockInfoLUKSSlot, QCryptoHashAlgo, QCryptoIVGenAlgo};
use qapi::{QError, qerr};

/// Bytes of the header.
pub const HEADER_LEN: usize = 592;
/// Key slots of a volume.
pub const SLOTS: usize = 8;
/// Stripes over which every key is spread.
pub const STRIPES: u32 = 4000;
/// The most rounds of key derivation that a header may ask for: some minutes of work. The format's limit is 2^32 − 1,
/// which would let an image occupy a processor for an hour for each slot.
pub const MAX_ROUNDS: u32 = 1 << 30;

const MAGIC: [u8; 6] = *b"LUKS\xba\xbe";
const VERSION: u16 = 1;
const SLOT_ACTIVE: u32 = 0x00AC_71F3;
const SLOT_INACTIVE: u32 = 0x0000_DEAD;
/// Where the key slots begin, and bytes of each.
const SLOTS_AT: usize = 208;
const SLOT_LEN: usize = 48;
/// Bytes of the master key's digest.
pub(super) const DIGEST_LEN: usize = 20;
pub(super) const SALT_LEN: usize = 32;

/// How sure (0–100) it is that a file that begins with `bytes` is a LUKS volume of this version.
pub fn probe(bytes: &[u8]) -> u32 {
    let ours = bytes.starts_with(&MAGIC) && bytes.get(6..8) == Some(&VERSION.to_be_bytes()[..]);
    if ours { 100 } else { 0 }
}

/// A key slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Whether it holds a key.
    pub active: bool,
    /// Rounds of key derivation.
    pub rounds: u32,
    /// The salt of the key derivation.
    pub salt: [u8; SALT_LEN],
    /// Where its key material begins, in sectors.
    pub sector: u32,
}

/// A header. One that was parsed is consistent: slots lie one beside the other, between the header and the payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// How sectors are encrypted, those of the key material too.
    pub cipher: CipherSpec,
    /// The hash of the key derivations and of the splitter.
    pub hash: QCryptoHashAlgo,
    /// Where the encrypted data begins, in sectors; in the file that has the data, where the header has one of its own.
    pub payload_sector: u32,
    /// Bytes of the master key.
    pub key_len: usize,
    /// PBKDF2 of the master key.
    pub digest: [u8; DIGEST_LEN],
    /// That derivation's salt.
    pub digest_salt: [u8; SALT_LEN],
    /// Its rounds.
    pub digest_rounds: u32,
    /// The volume's UUID, as text.
    pub uuid: String,
    /// The key slots.
    pub slots: [Slot; SLOTS],
}

fn be32(b: &[u8], at: usize) -> u32 {
    b.get(at..at + 4).and_then(|s| s.try_into().ok()).map_or(0, u32::from_be_bytes)
}

fn array<const N: usize>(b: &[u8], at: usize) -> [u8; N] {
    b.get(at..at + N).and_then(|s| s.try_into().ok()).unwrap_or([0; N])
}

/// A text that ends with a zero byte.
fn text(b: &[u8], at: usize, len: usize, what: &str) -> Result<String, QError> {
    let field = b.get(at..at + len).unwrap_or_default();
    let end = field.iter().position(|c| *c == 0);
    let end = end.ok_or_else(|| qerr!("LUKS header {what} is not NUL terminated"))?;
    Ok(String::from_utf8_lossy(&field[..end]).into_owned())
}

/// The sectors that a slot's material takes, for a key of `key_len` bytes.
pub(super) fn slot_sectors(key_len: u64) -> u64 {
    (key_len * u64::from(STRIPES)).div_ceil(SECTOR as u64)
}

/// The sectors that the header takes.
const HEADER_SECTORS: u64 = HEADER_LEN.div_ceil(SECTOR) as u64;

impl Header {
    /// Reads the first [`HEADER_LEN`] bytes of a volume; with `detached`, of a header that is not in the same file as
    /// the data.
    ///
    /// # Errors
    /// What is wrong with it, in the reference's words.
    pub fn parse(bytes: &[u8], detached: bool) -> Result<Header, QError> {
        if !bytes.starts_with(&MAGIC) {
            return Err(qerr!("Volume is not in LUKS format"));
        }
        let version = u16::from_be_bytes(array(bytes, 6));
        if version != VERSION {
            return Err(qerr!("LUKS version {version} is not supported"));
        }
        if bytes.len() < HEADER_LEN {
            return Err(qerr!("Unable to read LUKS header"));
        }
        let cipher = text(bytes, 8, 32, "cipher name")?;
        let mode = text(bytes, 40, 32, "cipher mode")?;
        let hash = text(bytes, 72, 32, "hash spec")?;
        let (payload_sector, key_len) = (be32(bytes, 104), be32(bytes, 108));
        let digest_rounds = be32(bytes, 164);
        if !detached && u64::from(payload_sector) < HEADER_SECTORS {
            return Err(qerr!("LUKS payload is overlapping with the header"));
        }
        match digest_rounds {
            0 => return Err(qerr!("LUKS key iteration count is zero")),
            1..=MAX_ROUNDS => {}
            n => return Err(qerr!("LUKS key iteration count {n} is larger than {MAX_ROUNDS}")),
        }
        let slots = parse_slots(bytes, payload_sector, key_len, detached)?;
        let hash = hash::by_name(&hash)?;
        let cipher = names::parse(&cipher, &mode, key_len as usize)?;
        Ok(Header {
            cipher,
            hash,
            payload_sector,
            // One of the few lengths that ciphers have, as the name was understood.
            key_len: key_len as usize,
            digest: array(bytes, 112),
            digest_salt: array(bytes, 132),
            digest_rounds,
            uuid: text(bytes, 168, 40, "uuid")
                .unwrap_or_else(|_| String::from_utf8_lossy(&array::<40>(bytes, 168)).into_owned()),
            slots,
        })
    }

    /// The header's bytes.
    pub fn to_bytes(&self) -> [u8; HEADER_LEN] {
        let mut b = [0; HEADER_LEN];
        let (cipher, mode) = names::of(&self.cipher);
        let hash = qapi::QapiEnum::as_str(self.hash);
        let mut put = |at: usize, what: &[u8]| b[at..at + what.len()].copy_from_slice(what);
        put(0, &MAGIC);
        put(6, &VERSION.to_be_bytes());
        for (at, len, what) in
            [(8, 32, cipher), (40, 32, mode.as_str()), (72, 32, hash), (168, 40, self.uuid.as_str())]
        {
            let what = what.as_bytes();
            put(at, &what[..what.len().min(len - 1)]);
        }
        put(104, &self.payload_sector.to_be_bytes());
        put(108, &(self.key_len as u32).to_be_bytes());
        put(112, &self.digest);
        put(132, &self.digest_salt);
        put(164, &self.digest_rounds.to_be_bytes());
        for (i, s) in self.slots.iter().enumerate() {
            let at = SLOTS_AT + i * SLOT_LEN;
            put(at, &if s.active { SLOT_ACTIVE } else { SLOT_INACTIVE }.to_be_bytes());
            put(at + 4, &s.rounds.to_be_bytes());
            put(at + 8, &s.salt);
            put(at + 40, &s.sector.to_be_bytes());
            put(at + 44, &STRIPES.to_be_bytes());
        }
        b
    }

    /// Where a slot's key material lies: offset and length in bytes. Slots are numbered from 0 to [`SLOTS`] − 1.
    pub fn slot_range(&self, slot: usize) -> (u64, usize) {
        let sectors = slot_sectors(self.key_len as u64);
        (u64::from(self.slots[slot].sector) * SECTOR as u64, sectors as usize * SECTOR)
    }

    /// Where the encrypted data begins, bytes.
    pub fn payload_offset(&self) -> u64 {
        u64::from(self.payload_sector) * SECTOR as u64
    }

    /// Where the last of header, key material and (with an attached payload) gap before the data ends, bytes.
    pub fn metadata_end(&self) -> u64 {
        let slots = (0..SLOTS).map(|i| self.slot_range(i)).map(|(at, len)| at + len as u64);
        slots.max().unwrap_or(0).max(HEADER_LEN as u64)
    }

    /// What is told about the volume.
    pub fn info(&self, detached: bool) -> QCryptoBlockInfoLUKS {
        let slots = self.slots.iter().map(|s| QCryptoBlockInfoLUKSSlot {
            active: s.active,
            iters: s.active.then_some(i64::from(s.rounds)),
            stripes: s.active.then_some(i64::from(STRIPES)),
            key_offset: i64::from(s.sector) * SECTOR as i64,
        });
        QCryptoBlockInfoLUKS {
            cipher_alg: self.cipher.algo,
            cipher_mode: self.cipher.mode,
            ivgen_alg: self.cipher.ivgen,
            ivgen_hash_alg: self.cipher.ivgen_hash.filter(|_| self.cipher.ivgen == QCryptoIVGenAlgo::Essiv),
            hash_alg: self.hash,
            detached_header: detached,
            payload_offset: self.payload_offset() as i64,
            master_key_iters: i64::from(self.digest_rounds),
            uuid: self.uuid.clone(),
            slots: slots.collect(),
        }
    }
}

fn parse_slots(bytes: &[u8], payload: u32, key_len: u32, detached: bool) -> Result<[Slot; SLOTS], QError> {
    let mut slots = [Slot { active: false, rounds: 0, salt: [0; SALT_LEN], sector: 0 }; SLOTS];
    let sectors = slot_sectors(u64::from(key_len));
    for (i, slot) in slots.iter_mut().enumerate() {
        let at = SLOTS_AT + i * SLOT_LEN;
        let (state, stripes) = (be32(bytes, at), be32(bytes, at + 44));
        *slot = Slot {
            active: state == SLOT_ACTIVE,
            rounds: be32(bytes, at + 4),
            salt: array(bytes, at + 8),
            sector: be32(bytes, at + 40),
        };
        if stripes != STRIPES {
            return Err(qerr!("Keyslot {i} is corrupted (stripes {} != {STRIPES})", stripes as i32));
        }
        if u64::from(slot.sector) < HEADER_SECTORS {
            return Err(qerr!("Keyslot {i} is overlapping with the LUKS header"));
        }
        if state != SLOT_ACTIVE && state != SLOT_INACTIVE {
            return Err(qerr!("Keyslot {i} state (active/disable) is corrupted"));
        }
        if slot.active && slot.rounds == 0 {
            return Err(qerr!("Keyslot {i} iteration count is zero"));
        }
        if slot.active && slot.rounds > MAX_ROUNDS {
            return Err(qerr!("Keyslot {i} iteration count {} is larger than {MAX_ROUNDS}", slot.rounds));
        }
        if !detached && u64::from(slot.sector) + sectors > u64::from(payload) {
            return Err(qerr!("Keyslot {i} is overlapping with the encrypted payload"));
        }
    }
    for (i, a) in slots.iter().enumerate() {
        for (j, b) in slots.iter().enumerate().skip(i + 1) {
            let (a, b) = (u64::from(a.sector), u64::from(b.sector));
            if a < b + sectors && b < a + sectors {
                return Err(qerr!("Keyslots {i} and {j} are overlapping in the header"));
            }
        }
    }
    Ok(slots)
}
