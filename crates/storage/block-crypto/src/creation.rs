//! What the tools know about making LUKS volumes.

use crate::create::{Place, create as create_volume};
use crate::luks::new_volume;
use api::block_core::{BlockdevCreateOptions, BlockdevCreateOptionsLUKS};
use block::create::{CreateCx, CreateOption, Creation, Measure, MeasureCx, OptionType, SIZE, prealloc};
use block::driver::CtlFuture;
use qapi::{Dict, QError, Value, qerr};

const fn str(name: &'static str, help: &'static str) -> CreateOption {
    CreateOption::new(name, OptionType::Str, help)
}

/// In the order in which a new image's options are printed.
const OPTIONS: &[CreateOption] = &[
    SIZE,
    str("key-secret", "ID of the secret that provides the keyslot passphrase"),
    str("cipher-alg", "Name of encryption cipher algorithm"),
    str("cipher-mode", "Name of encryption cipher mode"),
    str("ivgen-alg", "Name of IV generator algorithm"),
    str("ivgen-hash-alg", "Name of IV generator hash algorithm"),
    str("hash-alg", "Name of encryption hash algorithm"),
    CreateOption::new("iter-time", OptionType::Num, "Time to spend in PBKDF in milliseconds"),
    CreateOption::new("detached-header", OptionType::Bool, "Create a detached LUKS header"),
];

/// Making LUKS volumes.
pub(crate) static CREATION: Creation = Creation {
    takes: &["preallocation"],
    adapt: Some(adapt),
    create: Some(create),
    measure: Some(measure),
    ..Creation::new(OPTIONS)
};

fn adapt(d: &mut Dict) -> Result<(), QError> {
    if d.remove("detached-header").as_ref().and_then(Value::as_str) == Some("on") {
        d.insert("header", Value::Null);
    }
    Ok(())
}

fn create<'a>(cx: &'a CreateCx, options: &'a BlockdevCreateOptions) -> CtlFuture<'a> {
    Box::pin(async move {
        let BlockdevCreateOptions::Luks(o) = options else {
            return Err(qerr!("The options are not those of 'luks'"));
        };
        volume(cx, o).await
    })
}

async fn volume(cx: &CreateCx, o: &BlockdevCreateOptionsLUKS) -> Result<(), QError> {
    let prealloc = prealloc(o.preallocation.unwrap_or_default());
    if o.file.is_none() && o.header.is_none() {
        return Err(qerr!("Either the parameter 'header' or 'file' must be specified"));
    }
    let mut roots = Vec::new();
    for r in [&o.header, &o.file].into_iter().flatten() {
        match cx.root(r).await {
            Ok(root) => roots.push(root),
            Err(e) => {
                for r in &roots {
                    r.detach().await;
                }
                return Err(e);
            }
        }
    }
    let place = match (&o.header, &roots[..]) {
        (Some(_), [header, rest @ ..]) => Place::Apart(header, rest.first().map(|r| &**r)),
        (_, [file, ..]) => Place::One(file),
        (_, []) => return Err(qerr!("Either the parameter 'header' or 'file' must be specified")),
    };
    let done = match keys(cx, o) {
        Ok((new, password)) => create_volume(place, new, password, o.size, prealloc).await,
        Err(e) => Err(e),
    };
    for r in &roots {
        r.detach().await;
    }
    done
}

/// How the volume is encrypted, and the password.
fn keys(
    cx: &CreateCx,
    o: &BlockdevCreateOptionsLUKS,
) -> Result<(crypto::luks::NewVolume, crypto::Secret), QError> {
    let id = o.base.key_secret.as_deref();
    let id = id.ok_or_else(|| qerr!("Parameter 'key-secret' is required for cipher"))?;
    let password = cx.password(id)?;
    Ok((new_volume(&o.base, o.header.is_some())?, password))
}

/// The disk with the header before it.
fn measure<'a>(m: &'a MeasureCx<'a>) -> CtlFuture<'a, Measure> {
    Box::pin(async move {
        let Some(BlockdevCreateOptions::Luks(o)) = m.options else {
            return Err(qerr!("The options are not those of 'luks'"));
        };
        if o.base.key_secret.is_none() {
            return Err(qerr!("Parameter 'key-secret' is required for cipher"));
        }
        let overhead = new_volume(&o.base, o.header.is_some())?.overhead();
        let size = m.source.map_or(m.size, |s| s.len()).saturating_add(overhead);
        Ok(Measure { required: size, fully_allocated: size, bitmaps: None })
    })
}
