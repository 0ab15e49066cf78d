//! Modes: what makes a block cipher one for whole sectors.
//!
//! AES is OpenSSL's, which uses the processor's instructions for it. The others run over [`block::BlockCipher`].

use super::block::{self, BlockCipher};
use super::iv::Iv;
use super::{CipherSpec, SECTOR, key_len};
use crate::Secret;
use api::crypto::{QCryptoCipherAlgo, QCryptoCipherMode};
use base::{Errno, IoResult};
use openssl::cipher::{Cipher, CipherRef};
use openssl::cipher_ctx::CipherCtx;
use parking_lot::Mutex;
use qapi::{QError, qerr};
use zeroize::Zeroize;

/// A cipher, a mode and a key.
pub(super) enum Stream {
    Library(Library),
    Xts { data: Box<dyn BlockCipher>, tweak: Box<dyn BlockCipher> },
    Cbc(Box<dyn BlockCipher>),
    Ctr(Box<dyn BlockCipher>),
    Ecb(Box<dyn BlockCipher>),
}

/// One of OpenSSL's ciphers. Its contexts hold the expanded key; as a context is for one thread at a time, there are as
/// many as were ever in use at once.
pub(super) struct Library {
    cipher: &'static CipherRef,
    key: Secret,
    /// Bytes by which an output may be longer than its input, as OpenSSL sees it.
    slack: usize,
    free: [Mutex<Vec<CipherCtx>>; 2],
}

fn library_cipher(spec: &CipherSpec) -> Option<&'static CipherRef> {
    use QCryptoCipherAlgo as A;
    use QCryptoCipherMode as M;
    // There is no XTS with a 192-bit AES in OpenSSL.
    match (spec.algo, spec.mode) {
        (A::Aes128, M::Xts) => Some(Cipher::aes_128_xts()),
        (A::Aes256, M::Xts) => Some(Cipher::aes_256_xts()),
        (A::Aes128, M::Cbc) => Some(Cipher::aes_128_cbc()),
        (A::Aes192, M::Cbc) => Some(Cipher::aes_192_cbc()),
        (A::Aes256, M::Cbc) => Some(Cipher::aes_256_cbc()),
        _ => None,
    }
}

impl Stream {
    pub(super) fn new(spec: &CipherSpec, key: &[u8]) -> Result<Stream, QError> {
        if let Some(cipher) = library_cipher(spec) {
            let slack = if spec.mode == QCryptoCipherMode::Xts { 0 } else { 16 };
            let l =
                Library { cipher, key: Secret::new(key.to_vec()), slack, free: <[Mutex<_>; 2]>::default() };
            // What can fail, fails now.
            let made = l.context(true).and_then(|c| l.context(false).map(|d| [c, d]));
            let [e, d] = made.map_err(|_| qerr!("Could not initialize cipher"))?;
            l.free[0].lock().push(d);
            l.free[1].lock().push(e);
            return Ok(Stream::Library(l));
        }
        Ok(match spec.mode {
            QCryptoCipherMode::Xts => {
                let (data, tweak) = key.split_at(key_len(spec.algo).min(key.len()));
                Stream::Xts { data: block::new(spec.algo, data)?, tweak: block::new(spec.algo, tweak)? }
            }
            QCryptoCipherMode::Cbc => Stream::Cbc(block::new(spec.algo, key)?),
            QCryptoCipherMode::Ctr => Stream::Ctr(block::new(spec.algo, key)?),
            QCryptoCipherMode::Ecb => Stream::Ecb(block::new(spec.algo, key)?),
        })
    }

    pub(super) fn session(&self, encrypt: bool) -> IoResult<Session<'_>> {
        Ok(match self {
            Stream::Library(l) => {
                let kept = l.free[usize::from(encrypt)].lock().pop();
                let ctx = match kept {
                    Some(c) => c,
                    None => l.context(encrypt)?,
                };
                Session::Library { from: l, ctx: Some(ctx), encrypt }
            }
            other => Session::Own { stream: other, encrypt },
        })
    }
}

impl Library {
    fn context(&self, encrypt: bool) -> IoResult<CipherCtx> {
        let mut ctx = CipherCtx::new().map_err(|_| Errno::NOMEM)?;
        let done = if encrypt {
            ctx.encrypt_init(Some(self.cipher), Some(&self.key), None)
        } else {
            ctx.decrypt_init(Some(self.cipher), Some(&self.key), None)
        };
        done.map_err(|_| Errno::IO)?;
        ctx.set_padding(false);
        Ok(ctx)
    }
}

/// The right to encrypt or to decrypt some sectors.
pub(super) enum Session<'a> {
    Library { from: &'a Library, ctx: Option<CipherCtx>, encrypt: bool },
    Own { stream: &'a Stream, encrypt: bool },
}

impl Session<'_> {
    /// Encrypts or decrypts one sector in place.
    pub(super) fn sector(&mut self, iv: &Iv, data: &mut [u8]) -> IoResult<()> {
        match self {
            Session::Library { from, ctx, encrypt } => {
                let ctx = ctx.as_mut().ok_or(Errno::IO)?;
                let set = if *encrypt {
                    ctx.encrypt_init(None, None, Some(iv))
                } else {
                    ctx.decrypt_init(None, None, Some(iv))
                };
                set.map_err(|_| Errno::IO)?;
                let done = if from.slack == 0 {
                    ctx.cipher_update_inplace(data, data.len())
                } else {
                    let mut room = [0; SECTOR + 16];
                    let done = ctx.cipher_update(data, Some(&mut room[..data.len() + from.slack]));
                    data.copy_from_slice(&room[..data.len()]);
                    room.zeroize();
                    done
                };
                if done.map_err(|_| Errno::IO)? == data.len() { Ok(()) } else { Err(Errno::IO) }
            }
            Session::Own { stream, encrypt } => {
                match stream {
                    Stream::Xts { data: cipher, tweak } => xts(&**cipher, &**tweak, iv, data, *encrypt),
                    Stream::Cbc(c) => cbc(&**c, iv, data, *encrypt),
                    Stream::Ctr(c) => ctr(&**c, iv, data),
                    Stream::Ecb(c) if *encrypt => c.encrypt(data),
                    Stream::Ecb(c) => c.decrypt(data),
                    Stream::Library(_) => return Err(Errno::IO),
                }
                Ok(())
            }
        }
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        if let Session::Library { from, ctx, encrypt } = self
            && let Some(c) = ctx.take()
        {
            from.free[usize::from(*encrypt)].lock().push(c);
        }
    }
}

fn xor(to: &mut [u8], with: &[u8]) {
    to.iter_mut().zip(with).for_each(|(a, b)| *a ^= b);
}

/// XTS (IEEE 1619-2007, section 5.3) of whole 16-byte blocks.
fn xts(cipher: &dyn BlockCipher, tweak: &dyn BlockCipher, iv: &Iv, data: &mut [u8], encrypt: bool) {
    let mut t = *iv;
    tweak.encrypt(&mut t);
    let mut tweaks = [0; SECTOR];
    let mut t = u128::from_le_bytes(t);
    for at in tweaks.chunks_exact_mut(16) {
        at.copy_from_slice(&t.to_le_bytes());
        // Times x in GF(2^128).
        t = (t << 1) ^ if t >> 127 == 1 { 0x87 } else { 0 };
    }
    xor(data, &tweaks);
    if encrypt {
        cipher.encrypt(data)
    } else {
        cipher.decrypt(data)
    }
    xor(data, &tweaks);
    tweaks.zeroize();
}

/// Cipher block chaining (NIST SP 800-38A, section 6.2).
fn cbc(cipher: &dyn BlockCipher, iv: &Iv, data: &mut [u8], encrypt: bool) {
    let n = cipher.block_len();
    let mut last = *iv;
    for b in data.chunks_exact_mut(n) {
        if encrypt {
            xor(b, &last[..n]);
            cipher.encrypt(b);
            last[..n].copy_from_slice(b);
        } else {
            let mut next = [0; 16];
            next[..n].copy_from_slice(b);
            cipher.decrypt(b);
            xor(b, &last[..n]);
            last = next;
        }
    }
}

/// Counter mode (NIST SP 800-38A, section 6.5) with a counter as long as a block.
fn ctr(cipher: &dyn BlockCipher, iv: &Iv, data: &mut [u8]) {
    let n = cipher.block_len();
    let mut counter = *iv;
    for b in data.chunks_exact_mut(n) {
        let mut key = counter;
        cipher.encrypt(&mut key[..n]);
        xor(b, &key[..n]);
        key.zeroize();
        for d in counter[..n].iter_mut().rev() {
            *d = d.wrapping_add(1);
            if *d != 0 {
                break;
            }
        }
    }
}
