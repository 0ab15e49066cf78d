//! Changes of key slots.

use crate::volume::{Area, read_header, try_slot, unlock, write_slot};
use api::crypto::{QCryptoBlockAmendOptionsLUKS, QCryptoBlockLUKSKeyslotState};
use crypto::Secret;
use crypto::luks::{DEFAULT_ITER_TIME, Header, SLOTS};
use qapi::{QError, qerr};
use std::time::Duration;

/// Changes key slots of the volume whose header lies in `area`, and returns the header as it is now. `secret` finds the
/// password that an id names; `key_secret` is the id of one that opens the volume. `force`: also what destroys the data for
/// good.
///
/// # Errors
/// What does not fit, in the reference's words; the storage's.
pub async fn amend(
    area: &impl Area,
    detached: bool,
    options: &QCryptoBlockAmendOptionsLUKS,
    key_secret: Option<&str>,
    secret: &dyn Fn(&str) -> Result<Secret, QError>,
    force: bool,
) -> Result<Header, QError> {
    // As it is in the image now, which another program may have changed.
    let header = read_header(area, detached).await?;
    let slot =
        match options.keyslot {
            None => None,
            Some(n) => Some(usize::try_from(n).ok().filter(|n| *n < SLOTS).ok_or_else(|| {
                qerr!("Invalid keyslot {n} specified, must be between 0 and {}", SLOTS - 1)
            })?),
        };
    match options.state {
        QCryptoBlockLUKSKeyslotState::Active => {
            activate(area, header, options, slot, key_secret, secret, force).await
        }
        QCryptoBlockLUKSKeyslotState::Inactive => erase(area, header, options, slot, secret, force).await,
    }
}

async fn activate(
    area: &impl Area,
    mut header: Header,
    options: &QCryptoBlockAmendOptionsLUKS,
    slot: Option<usize>,
    key_secret: Option<&str>,
    secret: &dyn Fn(&str) -> Result<Secret, QError>,
    force: bool,
) -> Result<Header, QError> {
    let new = options.new_secret.as_deref();
    let new = new.ok_or_else(|| qerr!("'new-secret' is required to activate a keyslot"))?;
    if options.old_secret.is_some() {
        return Err(qerr!("'old-secret' must not be given when activating keyslots"));
    }
    let slot = match slot {
        Some(s) if header.slots[s].active && !force => {
            return Err(qerr!("Refusing to overwrite active keyslot {s} - please erase it first"));
        }
        Some(s) => s,
        None => header.free_slot().ok_or_else(|| qerr!("Can't add a keyslot - all keyslots are in use"))?,
    };
    let time = iter_time(options.iter_time)?.unwrap_or(DEFAULT_ITER_TIME);
    let opens = options.secret.as_deref().or(key_secret);
    let old = secret(opens.ok_or_else(|| qerr!("Parameter 'key-secret' is required for cipher"))?)?;
    let new = secret(new)?;
    let master = unlock(area, &header, &old).await?;
    let (header, material) = rt::unblock(move || {
        let material = header.set_slot(slot, &master, &new, time)?;
        Ok::<_, QError>((header, material))
    })
    .await?;
    write_slot(area, &header, slot, &material).await?;
    Ok(header)
}

async fn erase(
    area: &impl Area,
    mut header: Header,
    options: &QCryptoBlockAmendOptionsLUKS,
    slot: Option<usize>,
    secret: &dyn Fn(&str) -> Result<Secret, QError>,
    force: bool,
) -> Result<Header, QError> {
    if options.new_secret.is_some() {
        return Err(qerr!("'new-secret' must not be given when erasing keyslots"));
    }
    if options.iter_time.is_some() {
        return Err(qerr!("'iter-time' must not be given when erasing keyslots"));
    }
    let old = options.old_secret.as_deref().map(secret).transpose()?;
    let slots = match (slot, old) {
        (Some(s), Some(old)) => {
            if try_slot(area, &header, s, &old).await?.is_none() {
                return Err(qerr!(
                    "Given keyslot {s} doesn't contain the given old password for erase operation"
                ));
            }
            vec![s]
        }
        (Some(s), None) => vec![s],
        (None, Some(old)) => {
            let mut hits = Vec::new();
            for s in 0..SLOTS {
                if try_slot(area, &header, s, &old).await?.is_some() {
                    hits.push(s);
                }
            }
            if hits.is_empty() {
                return Err(qerr!("No keyslots match given (old) password for erase operation"));
            }
            if hits.len() == header.active_slots() && !force {
                return Err(qerr!(
                    "All the active keyslots match the (old) password that was given and erasing them will erase \
                     all the data in the image irreversibly - refusing operation"
                ));
            }
            hits
        }
        (None, None) => {
            return Err(qerr!(
                "To erase keyslot(s), either explicit keyslot index or the password currently contained in them \
                 must be given"
            ));
        }
    };
    if let [s] = slots[..]
        && options.old_secret.is_none()
        && !force
    {
        if !header.slots[s].active {
            return Err(qerr!("Given keyslot {s} is already erased (inactive) "));
        }
        if header.active_slots() == 1 {
            return Err(qerr!(
                "Attempt to erase the only active keyslot {s} which will erase all the data in the image \
                 irreversibly - refusing operation"
            ));
        }
    }
    for s in slots {
        let junk = header.erase_slot(s)?;
        // The key material goes first: after a crash the slot still looks active, and can be erased again.
        write_slot(area, &header, s, &junk).await?;
    }
    Ok(header)
}

/// `iter-time` in milliseconds; 0 is the same as none.
pub(crate) fn iter_time(ms: Option<i64>) -> Result<Option<Duration>, QError> {
    match ms {
        None | Some(0) => Ok(None),
        Some(ms) => match u32::try_from(ms) {
            Ok(ms) => Ok(Some(Duration::from_millis(ms.into()))),
            Err(_) => Err(qerr!("Parameter 'iter-time' is out of range")),
        },
    }
}
