//! The anti-forensic splitter of LUKS (on-disk format 1.2.3, section 2.4): a key is spread over many stripes, all of which are
//! needed to get it back, so that overwriting a small part of them destroys it.

use crate::{Secret, hash, random};
use api::crypto::QCryptoHashAlgo;
use qapi::{QError, qerr};

/// Hashes `block` piece by piece, so that each of its bits depends on many others.
fn diffuse(algo: QCryptoHashAlgo, block: &mut [u8]) -> Result<(), QError> {
    let step = hash::digest_len(algo)?;
    for (i, piece) in block.chunks_mut(step).enumerate() {
        let done = hash::digest(algo, &[&(i as u32).to_be_bytes(), piece])?;
        piece.copy_from_slice(&done[..piece.len()]);
    }
    Ok(())
}

/// Spreads `key` over `stripes` stripes, each as long as the key.
///
/// # Errors
/// No random bytes; a hash that is not there.
pub fn split(algo: QCryptoHashAlgo, key: &[u8], stripes: usize) -> Result<Secret, QError> {
    let mut out = random(key.len() * stripes.max(1))?;
    let mut sum = Secret::new(vec![0; key.len()]);
    let last = out.len() - key.len();
    for stripe in out[..last].chunks(key.len().max(1)) {
        sum.iter_mut().zip(stripe).for_each(|(s, b)| *s ^= b);
        diffuse(algo, &mut sum)?;
    }
    out[last..].iter_mut().zip(sum.iter().zip(key)).for_each(|(o, (s, k))| *o = s ^ k);
    Ok(out)
}

/// Gets back the key of `len` bytes that [`split`] has spread.
///
/// # Errors
/// A length that does not fit; a hash that is not there.
pub fn merge(algo: QCryptoHashAlgo, split: &[u8], len: usize) -> Result<Secret, QError> {
    if len == 0 || split.is_empty() || !split.len().is_multiple_of(len) {
        return Err(qerr!("The split key has a length that does not fit"));
    }
    let mut sum = Secret::new(vec![0; len]);
    let last = split.len() - len;
    for stripe in split[..last].chunks(len) {
        sum.iter_mut().zip(stripe).for_each(|(s, b)| *s ^= b);
        diffuse(algo, &mut sum)?;
    }
    sum.iter_mut().zip(&split[last..]).for_each(|(s, b)| *s ^= b);
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_comes_back_and_every_stripe_counts() {
        for (algo, len) in [
            (QCryptoHashAlgo::Sha256, 64),
            (QCryptoHashAlgo::Sha1, 32),
            (QCryptoHashAlgo::Sha512, 16),
            (QCryptoHashAlgo::Ripemd160, 33),
        ] {
            let key: Vec<u8> = (0..len as u8).collect();
            let mut s = split(algo, &key, 50).unwrap();
            assert_eq!(s.len(), len * 50);
            assert_eq!(*merge(algo, &s, len).unwrap(), key);
            s[len * 7] ^= 1;
            assert_ne!(*merge(algo, &s, len).unwrap(), key);
        }
        assert!(merge(QCryptoHashAlgo::Sha1, &[0; 31], 16).is_err());
        assert!(merge(QCryptoHashAlgo::Sha1, &[], 0).is_err());
    }
}
