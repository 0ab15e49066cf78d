//! Secrets, ciphers, hashes and LUKS volumes, without I/O: whoever uses this crate reads and writes the bytes.
//!
//! | module | what it has |
//! | --- | --- |
//! | [`hash`] | hashes, PBKDF2, and how many of its rounds take a given time |
//! | [`cipher`] | encryption of disk sectors: ciphers, modes, initialisation vectors |
//! | [`af`] | the anti-forensic splitter, which spreads a key over many sectors |
//! | [`luks`] | LUKS version 1: headers, key slots, new volumes |
//! | [`secret`] | how a user's secret is read, decoded and decrypted |
//!
//! Everything that holds a key wipes it when it is dropped.

pub mod af;
pub mod cipher;
pub mod hash;
pub mod luks;
pub mod secret;

use qapi::{QError, qerr};

/// Bytes that are wiped when they are dropped.
pub type Secret = zeroize::Zeroizing<Vec<u8>>;

/// `len` bytes that nobody can guess.
///
/// # Errors
/// The host gives none.
pub fn random(len: usize) -> Result<Secret, QError> {
    let mut v = Secret::new(vec![0; len]);
    getrandom::fill(&mut v).map_err(|e| qerr!("Unable to read random bytes: {e}"))?;
    Ok(v)
}
