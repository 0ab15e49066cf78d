//! Ciphers and modes as the header writes them: `aes`, `xts-plain64`, `cbc-essiv:sha256`.

use crate::cipher::{CipherSpec, family, of_family};
use crate::hash;
use api::crypto::{QCryptoCipherMode, QCryptoIVGenAlgo};
use qapi::{QError, QapiEnum, qerr};

/// The cipher that a header means with these names and its key's length.
pub(super) fn parse(cipher: &str, mode: &str, key_len: usize) -> Result<CipherSpec, QError> {
    let (name, iv) =
        mode.split_once('-').ok_or_else(|| qerr!("Unexpected cipher mode string format '{mode}'"))?;
    let (iv, iv_hash) = match iv.split_once(':') {
        Some((iv, h)) => (iv, Some(hash::by_name(h)?)),
        None => (iv, None),
    };
    let mode =
        QCryptoCipherMode::from_str(name).ok_or_else(|| qerr!("Cipher mode '{name}' not supported"))?;
    let one = if mode == QCryptoCipherMode::Xts {
        if !key_len.is_multiple_of(2) {
            return Err(qerr!("XTS cipher key length should be a multiple of 2"));
        }
        key_len / 2
    } else {
        key_len
    };
    let algo = of_family(cipher, one)
        .ok_or_else(|| qerr!("Algorithm '{cipher}' with key size {one} bytes not supported"))?;
    let ivgen = QCryptoIVGenAlgo::from_str(iv).ok_or_else(|| qerr!("IV generator '{iv}' not supported"))?;
    if ivgen == QCryptoIVGenAlgo::Essiv && iv_hash.is_none() {
        return Err(qerr!("Missing IV generator hash specification"));
    }
    Ok(CipherSpec { algo, mode, ivgen, ivgen_hash: iv_hash })
}

/// The names of a cipher for a header: the cipher's, and the mode's.
pub(super) fn of(spec: &CipherSpec) -> (&'static str, String) {
    let iv_hash = spec.ivgen_hash.map_or(String::new(), |h| format!(":{}", h.as_str()));
    (family(spec.algo), format!("{}-{}{iv_hash}", spec.mode.as_str(), spec.ivgen.as_str()))
}
