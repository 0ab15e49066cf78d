//! Hashes and key derivation.

use crate::Secret;
use api::crypto::QCryptoHashAlgo;
use hmac::Hmac;
use md5::Md5;
use qapi::{QError, QapiEnum, qerr};
use ripemd::Ripemd160;
use sha1::Sha1;
use sha2::digest::Digest;
use sha2::{Sha224, Sha256, Sha384, Sha512};
use std::time::Duration;

/// Runs `$body` with `$d` as the type of the hash.
macro_rules! with_hash {
    ($algo:expr, $d:ident => $body:expr) => {
        match $algo {
            QCryptoHashAlgo::Md5 => {
                type $d = Md5;
                Ok($body)
            }
            QCryptoHashAlgo::Sha1 => {
                type $d = Sha1;
                Ok($body)
            }
            QCryptoHashAlgo::Sha224 => {
                type $d = Sha224;
                Ok($body)
            }
            QCryptoHashAlgo::Sha256 => {
                type $d = Sha256;
                Ok($body)
            }
            QCryptoHashAlgo::Sha384 => {
                type $d = Sha384;
                Ok($body)
            }
            QCryptoHashAlgo::Sha512 => {
                type $d = Sha512;
                Ok($body)
            }
            QCryptoHashAlgo::Ripemd160 => {
                type $d = Ripemd160;
                Ok($body)
            }
            other => Err(qerr!("Unknown hash algorithm {}", other.as_str())),
        }
    };
}

/// The hash that a LUKS header or a user calls `name`.
///
/// # Errors
/// `Hash algorithm 'x' not supported`.
pub fn by_name(name: &str) -> Result<QCryptoHashAlgo, QError> {
    let found = QCryptoHashAlgo::from_str(name).filter(|h| digest_len(*h).is_ok());
    found.ok_or_else(|| qerr!("Hash algorithm '{name}' not supported"))
}

/// Bytes of the hash's result.
///
/// # Errors
/// A hash that is not there.
pub fn digest_len(algo: QCryptoHashAlgo) -> Result<usize, QError> {
    with_hash!(algo, D => <D as Digest>::output_size())
}

/// The hash of `parts`, one after another.
///
/// # Errors
/// A hash that is not there.
pub fn digest(algo: QCryptoHashAlgo, parts: &[&[u8]]) -> Result<Secret, QError> {
    with_hash!(algo, D => {
        let mut d = D::new();
        for p in parts {
            Digest::update(&mut d, p);
        }
        let mut done = d.finalize();
        let out = Secret::new(done.to_vec());
        zeroize::Zeroize::zeroize(done.as_mut_slice());
        out
    })
}

/// PBKDF2 with HMAC (RFC 8018, section 5.2): `len` bytes out of a password. Takes as long as `rounds` say.
///
/// # Errors
/// A hash that is not there.
pub fn pbkdf2(
    algo: QCryptoHashAlgo,
    password: &[u8],
    salt: &[u8],
    rounds: u32,
    len: usize,
) -> Result<Secret, QError> {
    let mut out = Secret::new(vec![0; len]);
    // HMAC takes keys of any length, so that this cannot fail.
    with_hash!(algo, D => { let _ = pbkdf2::pbkdf2::<Hmac<D>>(password, salt, rounds, &mut out); })?;
    Ok(out)
}

/// The rounds of PBKDF2 for a key of `len` bytes that take about `time` of this processor; at least 1. Measuring takes about a
/// tenth of a second.
///
/// # Errors
/// A hash that is not there.
pub fn rounds_for(algo: QCryptoHashAlgo, len: usize, time: Duration) -> Result<u64, QError> {
    // Measured for as long as what is wanted takes, within reason.
    let enough = time.as_nanos().clamp(1_000_000, 50_000_000);
    let mut rounds: u32 = 1 << 10;
    loop {
        let begin = cpu_nanos();
        pbkdf2(algo, b"password", &[0x5a; 32], rounds, len)?;
        let took = cpu_nanos().saturating_sub(begin).max(1);
        if took >= enough || rounds >= 1 << 30 {
            let fit = u128::from(rounds) * time.as_nanos() / took;
            return Ok(u64::try_from(fit).unwrap_or(u64::MAX).max(1));
        }
        rounds = if took < enough / 16 { rounds * 8 } else { rounds * 2 };
    }
}

/// The time that this thread has had the processor for: others' load does not count.
fn cpu_nanos() -> u128 {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    t.tv_sec as u128 * 1_000_000_000 + t.tv_nsec as u128
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(b: &[u8]) -> String {
        b.iter().map(|b| format!("{b:02x}")).collect()
    }

    #[test]
    fn vectors_of_the_standards() {
        let d = |a, t: &str| hex(&digest(a, &[t.as_bytes()]).unwrap());
        assert_eq!(d(QCryptoHashAlgo::Sha1, "abc"), "a9993e364706816aba3e25717850c26c9cd0d89d");
        assert_eq!(d(QCryptoHashAlgo::Md5, "abc"), "900150983cd24fb0d6963f7d28e17f72");
        assert_eq!(d(QCryptoHashAlgo::Ripemd160, "abc"), "8eb208f7e05d987a9b044a8e98c6b087f15a0bfc");
        assert!(
            d(QCryptoHashAlgo::Sha256, "abc").starts_with("ba7816bf8f01cfea414140de5dae2223b00361a396177a9c")
        );
        // RFC 6070.
        let k = pbkdf2(QCryptoHashAlgo::Sha1, b"password", b"salt", 4096, 20).unwrap();
        assert_eq!(hex(&k), "4b007901b765489abead49d926f721d065a429c1");
    }

    #[test]
    fn names_and_lengths() {
        for h in ["md5", "sha1", "sha224", "sha256", "sha384", "sha512", "ripemd160"] {
            let a = by_name(h).unwrap();
            assert_eq!(digest(a, &[]).unwrap().len(), digest_len(a).unwrap(), "{h}");
        }
        assert_eq!(by_name("sm3").unwrap_err().desc(), "Hash algorithm 'sm3' not supported");
        assert!(by_name("foo").is_err());
    }

    #[test]
    fn rounds_grow_with_the_time() {
        let f = |ms| rounds_for(QCryptoHashAlgo::Sha256, 64, Duration::from_millis(ms)).unwrap();
        let (a, b) = (f(10), f(1000));
        assert!(b > a * 20 && a >= 1, "{a} {b}");
    }
}
