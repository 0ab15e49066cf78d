//! Making images in a cluster.

use crate::cluster::Pool;
use crate::driver::key;
use crate::encryption::NewLuks;
use crate::image::Image;
use api::block_core::BlockdevCreateOptions;
use block::create::{CreateCx, CreateOption, Creation, OptionType, SIZE};
use block::driver::CtlFuture;
use qapi::{Dict, QError, Value, qerr};

/// Making images. One that is there already stays as it is.
pub(crate) static CREATION: Creation = Creation {
    adapt: Some(adapt),
    create: Some(create),
    ..Creation::new(&[
        SIZE,
        CreateOption::new("cluster_size", OptionType::Size, "RBD object size"),
        CreateOption::new("password-secret", OptionType::Str, "ID of secret providing the password"),
        CreateOption::new(
            "encrypt.format",
            OptionType::Str,
            "Encrypt the image, format choices: 'luks', 'luks2'",
        ),
        CreateOption::new(
            "encrypt.cipher-alg",
            OptionType::Str,
            "Name of encryption cipher algorithm (allowed values: aes-128, aes-256)",
        ),
        CreateOption::new("encrypt.key-secret", OptionType::Str, "ID of secret providing LUKS passphrase"),
    ])
};

/// The smallest object, bytes.
const MIN_OBJECT: u64 = 4096;

fn adapt(d: &mut Dict) -> Result<(), QError> {
    if let Some(id) = d.remove("password-secret") {
        d.insert("location", Value::Dict(Dict::from_iter([("key-secret", id)])));
    }
    Ok(())
}

/// The logarithm of the length of objects.
fn order(object: u64) -> Result<u32, QError> {
    if !object.is_power_of_two() {
        return Err(qerr!("obj size needs to be power of 2"));
    }
    if object < MIN_OBJECT {
        return Err(qerr!("obj size too small"));
    }
    Ok(object.ilog2())
}

fn create<'a>(cx: &'a CreateCx, options: &'a BlockdevCreateOptions) -> CtlFuture<'a> {
    Box::pin(async move {
        let BlockdevCreateOptions::Rbd(o) = options else {
            return Err(qerr!("The options are not those of an image in a Ceph cluster"));
        };
        if o.location.snapshot.is_some() {
            return Err(qerr!("Can't use snapshot name for image creation"));
        }
        let order = o.cluster_size.map(order).transpose()?;
        let objects = cx.graph.objects();
        let user = key(objects.as_deref(), &o.location)?;
        let luks = o.encrypt.as_ref().map(|e| NewLuks::find(objects.as_deref(), e)).transpose()?;
        let (at, size) = (o.location.clone(), o.size);
        let made = rt::unblock(move || {
            let pool = Pool::connect(&at, user.as_ref(), true)?;
            Image::create(&pool, &at.image, size, order)?;
            let Some(luks) = luks else { return Ok(()) };
            let encrypted = Pool::connect(&at, user.as_ref(), true)
                .and_then(|another| encrypt(another, &at.image, size, &luks));
            if encrypted.is_err() {
                // The error is why there is no image.
                _ = Image::remove(&pool, &at.image);
            }
            encrypted
        });
        made.await
    })
}

/// Makes a LUKS volume of this size of a new image. Waits.
fn encrypt(pool: Pool, name: &str, size: u64, luks: &NewLuks) -> Result<(), QError> {
    let mut image = Image::open(pool, name, None, true)?;
    luks.format(&mut image)?;
    // The header took its part of the disk.
    image.resize(size).map_err(|e| qerr!("cannot resize image after format: {e}"))
}
