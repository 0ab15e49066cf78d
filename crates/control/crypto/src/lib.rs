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
use std::ops::{Deref, DerefMut};
use zeroize::Zeroizing;

/// Bytes that are wiped when they are dropped, and that no log shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// These bytes. Growing a secret may leave a copy behind in freed memory: reserve what it needs.
    pub fn new(bytes: Vec<u8>) -> Secret {
        Secret(Zeroizing::new(bytes))
    }
}

impl Deref for Secret {
    type Target = Vec<u8>;

    fn deref(&self) -> &Vec<u8> {
        &self.0
    }
}

impl DerefMut for Secret {
    fn deref_mut(&mut self) -> &mut Vec<u8> {
        &mut self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// `len` bytes that nobody can guess.
///
/// # Errors
/// The host gives none.
pub fn random(len: usize) -> Result<Secret, QError> {
    let mut v = Secret::new(vec![0; len]);
    getrandom::fill(&mut v).map_err(|e| qerr!("Unable to read random bytes: {e}"))?;
    Ok(v)
}
