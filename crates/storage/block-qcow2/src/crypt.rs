//! Encryption of the guest's data: LUKS inside the image, or the old way, which is not safe.
//!
//! The LUKS header and its key slots lie in clusters of their own, which an extension of the header leads to. What they say
//! about a payload's place does not count: every sector of data is encrypted by its place in the file that holds it. In the
//! old way (AES) there is no such header, the password is the key, and it is the place on the disk that counts.
//! Metadata, dirty bitmaps and compressed clusters are not encrypted; a backing file has an encryption of its own, or none.

use std::sync::Arc;

use api::crypto::{QCryptoBlockAmendOptionsLUKS, QCryptoBlockInfoQCow2};
use base::{Errno, IoResult};
use block_crypto::Transform;
use block_crypto::volume::{self, Area};
use crypto::Secret;
use crypto::cipher::SectorCipher;
use crypto::luks::{HEADER_LEN, Header as Luks, SLOTS, Volume};
use mem::IoBuf;
use parking_lot::Mutex;
use qapi::{QError, qerr};

use crate::header::{CryptMethod, CryptoExt, Header};
use crate::host::{Host, read_vec, write_bytes};
use crate::image::Image;

/// The most that is encrypted before it is written, bytes.
const BOUNCE: usize = 1 << 20;

/// The encryption of an open image.
pub struct Crypt {
    /// Where the LUKS header lies, if that is the method; otherwise it is the old one.
    place: Option<CryptoExt>,
    /// The LUKS header, where it was looked at.
    luks: Mutex<Option<Luks>>,
    /// `None`: data can neither be read nor written.
    transform: Option<Arc<Transform>>,
    /// The id of the secret with the password.
    key_secret: Mutex<Option<String>>,
    /// Held while key slots change.
    amending: rt::sync::Mutex<()>,
}

/// What opens an image's data.
pub enum Key<'a> {
    /// Nothing: only the LUKS header is looked at.
    None,
    /// A password, and the id of its secret.
    Password(&'a Secret, Option<&'a str>),
    /// The keys of a volume that was just made.
    Made(&'a Volume),
    /// What the same image was opened with before.
    Same(Option<&'a Crypt>),
}

/// The clusters that hold the LUKS header and its key slots.
pub(crate) struct Slots<'a, H> {
    /// The image.
    pub host: &'a H,
    /// Where they are.
    pub place: CryptoExt,
}

impl<H> Slots<'_, H> {
    fn at(&self, off: u64, len: usize) -> IoResult<u64> {
        let end = off.checked_add(len as u64).filter(|e| *e <= self.place.length).ok_or(Errno::INVAL)?;
        let end = self.place.offset.checked_add(end).filter(|e| *e <= i64::MAX as u64);
        end.map(|e| e - len as u64).ok_or(Errno::IO)
    }
}

impl<H: Host> Area for Slots<'_, H> {
    async fn read(&self, off: u64, len: usize) -> IoResult<Vec<u8>> {
        read_vec(self.host, self.at(off, len)?, len).await
    }

    async fn write(&self, off: u64, bytes: &[u8]) -> IoResult<()> {
        write_bytes(self.host, self.at(off, bytes.len())?, bytes).await
    }

    async fn flush(&self) -> IoResult<()> {
        self.host.flush().await
    }
}

fn outside() -> QError {
    qerr!("Request for data outside of extension header")
}

impl Crypt {
    /// The encryption that a header tells of, without any key; `None` where there is none.
    pub(crate) fn closed(h: &Header) -> Option<Arc<Crypt>> {
        (h.crypt != CryptMethod::None).then(|| Arc::new(Crypt::new(h.crypto(), None, None)))
    }

    fn new(place: Option<CryptoExt>, luks: Option<Luks>, transform: Option<Arc<Transform>>) -> Crypt {
        Crypt {
            place,
            luks: Mutex::new(luks),
            transform,
            key_secret: Mutex::new(None),
            amending: rt::sync::Mutex::new(()),
        }
    }

    fn transform(&self) -> IoResult<&Transform> {
        self.transform.as_deref().ok_or(Errno::PERM)
    }

    /// By which place data is encrypted: that on the disk, or that in the file.
    fn by(&self, guest: u64, host: u64) -> u64 {
        if self.place.is_some() { host } else { guest }
    }

    /// The id of the secret that the image was opened with.
    pub(crate) fn key_secret(&self) -> Option<String> {
        self.key_secret.lock().clone()
    }

    /// Another secret has the password from now on.
    pub(crate) fn set_key_secret(&self, id: Option<String>) {
        *self.key_secret.lock() = id;
    }

    /// What queries show.
    pub(crate) fn info(&self) -> Option<QCryptoBlockInfoQCow2> {
        if self.place.is_none() {
            return Some(QCryptoBlockInfoQCow2::Aes);
        }
        self.luks.lock().as_ref().map(|l| QCryptoBlockInfoQCow2::Luks(l.info(false)))
    }
}

async fn read_luks<H: Host>(area: &Slots<'_, H>) -> Result<Luks, QError> {
    if area.place.length < HEADER_LEN as u64 {
        return Err(outside());
    }
    let bytes = area.read(0, HEADER_LEN).await;
    Luks::parse(&bytes.map_err(|e| qerr!("Could not read encryption header: {e}"))?, false)
}

fn cipher(luks: &Luks, master: &Secret) -> Result<Arc<Transform>, QError> {
    Ok(Arc::new(Transform::new(SectorCipher::new(&luks.cipher, master)?)))
}

impl Image {
    /// Opens the data of an image that is encrypted; nothing happens with others. Called before the image is used. Nothing
    /// tells whether the password of the old encryption is right.
    ///
    /// # Errors
    /// A LUKS header that is none; a wrong password.
    pub async fn unlock<H: Host>(&mut self, h: &H, key: Key<'_>) -> Result<(), QError> {
        let Some(closed) = &self.crypt else {
            return match key {
                Key::Same(Some(_)) => Err(changed()),
                _ => Ok(()),
            };
        };
        let Some(place) = closed.place else { return self.unlock_old(key) };
        let area = Slots { host: h, place };
        let luks = read_luks(&area).await?;
        let (transform, id) = match key {
            Key::None => (None, None),
            Key::Password(password, id) => {
                let inside = |s: usize| {
                    let (at, len) = luks.slot_range(s);
                    !luks.slots[s].active || at + len as u64 <= place.length
                };
                if !(0..SLOTS).all(inside) {
                    return Err(outside());
                }
                let master = volume::unlock(&area, &luks, password).await?;
                (Some(cipher(&luks, &master)?), id.map(Into::into))
            }
            Key::Made(v) => (Some(cipher(&luks, &v.master)?), None),
            Key::Same(known) => {
                let known = known.ok_or_else(changed)?;
                let same = |was: &Luks| {
                    (was.cipher, was.digest, was.digest_salt) == (luks.cipher, luks.digest, luks.digest_salt)
                };
                if !known.luks.lock().as_ref().is_some_and(same) {
                    return Err(changed());
                }
                (known.transform.clone(), known.key_secret())
            }
        };
        let crypt = Crypt::new(Some(place), Some(luks), transform);
        crypt.set_key_secret(id);
        self.crypt = Some(Arc::new(crypt));
        Ok(())
    }

    /// [`Image::unlock`] for the old encryption.
    fn unlock_old(&mut self, key: Key<'_>) -> Result<(), QError> {
        let (transform, id) = match key {
            Key::None => (None, None),
            Key::Password(password, id) => {
                (Some(Arc::new(Transform::old_qcow(password)?)), id.map(Into::into))
            }
            Key::Made(_) => return Err(changed()),
            Key::Same(known) => {
                let known = known.filter(|k| k.place.is_none()).ok_or_else(changed)?;
                (known.transform.clone(), known.key_secret())
            }
        };
        let crypt = Crypt::new(None, None, transform);
        crypt.set_key_secret(id);
        self.crypt = Some(Arc::new(crypt));
        Ok(())
    }

    /// Whether the guest's data is encrypted.
    pub fn is_encrypted(&self) -> bool {
        self.crypt.is_some()
    }

    /// Reads what the disk has at `guest` from clusters of the file; whole sectors where it is encrypted.
    pub(crate) async fn read_data<H: Host>(&self, h: &H, guest: u64, host: u64, buf: IoBuf) -> IoResult<()> {
        let Some(c) = &self.crypt else { return h.data_read(host, buf).await };
        let transform = c.transform()?;
        h.data_read(host, buf.clone()).await?;
        transform.decrypt(c.by(guest, host), &buf)
    }

    /// Writes what the disk has at `guest` into clusters of the file; whole sectors where it is encrypted.
    pub(crate) async fn write_data<H: Host>(&self, h: &H, guest: u64, host: u64, buf: IoBuf) -> IoResult<()> {
        let Some(c) = &self.crypt else { return h.data_write(host, buf).await };
        let transform = c.transform()?;
        let mut done = 0;
        while done < buf.len() {
            let part = buf.slice(done..buf.len().min(done + BOUNCE));
            let (by, n) = (done as u64, part.len());
            h.data_write(host + by, transform.encrypt(c.by(guest, host) + by, &part)?).await?;
            done += n;
        }
        Ok(())
    }

    /// Changes key slots. `secret` finds the password that an id names. `force`: also what destroys the data for good.
    ///
    /// # Errors
    /// As [`block_crypto::amend()`]; an image that is not encrypted with LUKS.
    pub async fn amend_slots<H: Host>(
        &self,
        h: &H,
        options: &QCryptoBlockAmendOptionsLUKS,
        secret: &dyn Fn(&str) -> Result<Secret, QError>,
        force: bool,
    ) -> Result<(), QError> {
        let crypt = self.crypt.as_ref().ok_or_else(|| qerr!("image is not encrypted, can't amend"))?;
        let place = crypt.place.ok_or_else(|| {
            qerr!("Only LUKS encryption options can be amended for qcow2 with blockdev-amend")
        })?;
        self.check_usable().map_err(|e| qerr!("Unable to write LUKS header: {e}"))?;
        let _one = crypt.amending.lock().await;
        let key = crypt.key_secret();
        let area = Slots { host: h, place };
        let luks = block_crypto::amend(&area, false, options, key.as_deref(), secret, force).await?;
        *crypt.luks.lock() = Some(luks);
        Ok(())
    }
}

fn changed() -> QError {
    qerr!("The image's encryption is not the one that it was opened with")
}
