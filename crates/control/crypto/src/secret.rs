//! A user's secret: where it comes from is the object's business, how it is decoded and decrypted is here.

use crate::Secret;
use openssl::cipher::Cipher;
use openssl::cipher_ctx::CipherCtx;
use qapi::{QError, qerr};

/// Bytes of the key that encrypts secrets, and of the initialisation vector.
const KEY_LEN: usize = 32;
const IV_LEN: usize = 16;

/// Decodes base64 (RFC 4648, section 4). Padding may be left out, as the reference takes it.
///
/// # Errors
/// `Base64 data contains invalid characters`.
pub fn base64(text: &[u8]) -> Result<Secret, QError> {
    let bad = || qerr!("Base64 data contains invalid characters");
    let end = text.iter().rposition(|c| !c.is_ascii_whitespace()).map_or(0, |i| i + 1);
    let text = &text[..end];
    let body = text.strip_suffix(b"==").or_else(|| text.strip_suffix(b"=")).unwrap_or(text);
    // As large as it will be at most, so that no copy is left behind in freed memory.
    let mut out = Secret::new(Vec::with_capacity(body.len() / 4 * 3 + 3));
    let (mut bits, mut have) = (0u32, 0);
    for c in body {
        let v = match c {
            b'A'..=b'Z' => c - b'A',
            b'a'..=b'z' => c - b'a' + 26,
            b'0'..=b'9' => c - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            b'\n' | b'\r' => continue,
            _ => return Err(bad()),
        };
        bits = bits << 6 | u32::from(v);
        have += 6;
        if have >= 8 {
            have -= 8;
            out.push((bits >> have) as u8);
        }
    }
    Ok(out)
}

/// Encodes base64 (RFC 4648, section 4), with padding.
pub fn to_base64(bytes: &[u8]) -> Secret {
    Secret::new(openssl::base64::encode_block(bytes).into_bytes())
}

/// The secret that `input` stands for: `is_base64` says how it is written; with a `key`, it is encrypted with AES-256 in CBC
/// mode (and the padding of RFC 5652, section 6.3), whose initialisation vector is `iv` in base64.
///
/// # Errors
/// What does not fit, in the reference's words.
pub fn decode(input: &[u8], is_base64: bool, key: Option<&[u8]>, iv: Option<&str>) -> Result<Secret, QError> {
    let data = if is_base64 { base64(input)? } else { Secret::new(input.to_vec()) };
    match key {
        None => Ok(data),
        Some(key) => decrypt(&data, key, iv),
    }
}

fn decrypt(data: &[u8], key: &[u8], iv: Option<&str>) -> Result<Secret, QError> {
    let iv = iv.ok_or_else(|| qerr!("IV is required to decrypt secret"))?;
    let iv = base64(iv.as_bytes())?;
    if iv.len() != IV_LEN {
        return Err(qerr!("IV should be {IV_LEN} bytes in length not {}", iv.len()));
    }
    if key.len() != KEY_LEN {
        return Err(qerr!("Key should be {KEY_LEN} bytes in length"));
    }
    if !data.len().is_multiple_of(16) {
        return Err(qerr!("Length {} must be a multiple of block size 16", data.len()));
    }
    let mut out = Secret::new(vec![0; data.len() + 16]);
    let decrypted = (|| {
        let mut ctx = CipherCtx::new()?;
        ctx.decrypt_init(Some(Cipher::aes_256_cbc()), Some(key), Some(&iv))?;
        ctx.set_padding(false);
        ctx.cipher_update(data, Some(&mut out))
    })();
    let n = decrypted.map_err(|e| qerr!("Could not decrypt the secret: {e}"))?;
    let Some(pad) = out[..n].last().copied() else {
        return Ok(Secret::new(Vec::new()));
    };
    if pad == 0 || pad > 16 || usize::from(pad) > n {
        return Err(qerr!("Incorrect number of padding bytes ({pad}) found on decrypted data"));
    }
    // Wiped beyond the end too, as the whole capacity is when it is dropped.
    out.truncate(n - usize::from(pad));
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_lenient_about_padding_only() {
        let d = |t: &str| base64(t.as_bytes()).map(|v| String::from_utf8_lossy(&v).into_owned());
        for t in ["aGVsbG8=", "aGVsbG8", "aGVsbG8=\n", "aGVs\nbG8="] {
            assert_eq!(d(t).unwrap(), "hello", "{t}");
        }
        assert_eq!(d("").unwrap(), "");
        for t in ["@@@", "a b", "aGVs=bG8"] {
            assert_eq!(d(t).unwrap_err().desc(), "Base64 data contains invalid characters", "{t}");
        }
    }

    #[test]
    fn encrypted_secrets() {
        // printf hunter2 | openssl enc -aes-256-cbc -a -K 000102…1f -iv 000102…0f
        let key: Vec<u8> = (0..32).collect();
        let iv = Some("AAECAwQFBgcICQoLDA0ODw==");
        let s = decode(b"5Oc1d6/9hbpDg7sQDpNVfw==", true, Some(&key), iv);
        assert_eq!(*s.unwrap(), b"hunter2");
        let text =
            |data: &[u8], key: &[u8], iv| decode(data, true, Some(key), iv).unwrap_err().desc().to_owned();
        assert_eq!(text(b"AAAA", &key, None), "IV is required to decrypt secret");
        assert_eq!(text(b"AAAA", &key, Some("AAAA")), "IV should be 16 bytes in length not 3");
        assert_eq!(text(b"AAAA", &key[..16], iv), "Key should be 32 bytes in length");
        assert_eq!(text(b"AAAA", &key, iv), "Length 3 must be a multiple of block size 16");
        assert_eq!(
            text(b"AAECAwQFBgcICQoLDA0ODw==", &key, iv),
            "Incorrect number of padding bytes (61) found on decrypted data"
        );
        assert_eq!(*decode(b"", true, Some(&key), iv).unwrap(), b"");
        assert_eq!(*decode(b"abc", false, None, iv).unwrap(), b"abc");
    }
}
