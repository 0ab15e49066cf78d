//! What the tools know about making qcow2 images.

use api::block_core::{BlockdevCreateOptions, BlockdevCreateOptionsQcow2, BlockdevRef};
use block::create::{CreateCx, CreateOption, Creation, OptionType, Part, SIZE};
use block::driver::CtlFuture;
use qapi::{Dict, QError, Value, qerr};

use crate::create::{create_with, encryption};
use crate::host::{RootHost, TwoRoots};

const fn str(name: &'static str, help: &'static str) -> CreateOption {
    CreateOption::new(name, OptionType::Str, help)
}

const fn bool(name: &'static str, help: &'static str) -> CreateOption {
    CreateOption::new(name, OptionType::Bool, help)
}

/// In the order in which a new image's options are printed.
const OPTIONS: &[CreateOption] = &[
    bool("encryption", "Encrypt with the old format 'aes' (use encrypt.format)"),
    str("encrypt.format", "How the data is encrypted (luks)"),
    str("encrypt.key-secret", "Id of the secret with the password"),
    str("encrypt.cipher-alg", "Cipher (aes-256, aes-128, serpent-256, ...)"),
    str("encrypt.cipher-mode", "Mode of the cipher (xts, cbc, ctr, ecb)"),
    str("encrypt.ivgen-alg", "How initialisation vectors are made (plain64, plain, essiv)"),
    str("encrypt.ivgen-hash-alg", "Hash for essiv"),
    str("encrypt.hash-alg", "Hash of the key derivation (sha256, sha1, sha512, ...)"),
    CreateOption::new("encrypt.iter-time", OptionType::Num, "Milliseconds that deriving a key takes"),
    CreateOption::new("cluster_size", OptionType::Size, "Bytes of a cluster (512 to 2M)").or("65536"),
    bool("extended_l2", "Track 32nds of clusters").or("off"),
    str("preallocation", "What to allocate at once (off, metadata, falloc, full)"),
    str("compression_type", "How clusters are compressed (zlib, zstd)").or("zlib"),
    SIZE,
    str("compat", "Version: v2 (0.10) or v3 (1.1)"),
    str("backing_file", "Name of the image behind this one"),
    str("backing_fmt", "Format of the image behind this one"),
    str("data_file", "Name of the file that holds the data"),
    bool("data_file_raw", "The data file alone is the disk, too"),
    bool("lazy_refcounts", "Put updates of refcounts off").or("off"),
    CreateOption::new("refcount_bits", OptionType::Num, "Bits of a refcount (1 to 64)").or("16"),
];

/// Making qcow2 images.
pub(crate) static CREATION: Creation = Creation {
    adapt: Some(adapt),
    parts: Some(parts),
    create: Some(create),
    measure: Some(crate::measure::measure),
    ..Creation::new(OPTIONS)
};

fn adapt(d: &mut Dict) -> Result<(), QError> {
    let old = d.remove("encryption");
    let new = d.get("encrypt").and_then(Value::as_dict).map(|e| e.get("format").cloned());
    if old.is_some() && matches!(new, Some(Some(_))) {
        return Err(qerr!("'encrypt.format' and its alias 'encryption' can't be used at the same time"));
    }
    if old.as_ref().and_then(Value::as_str) == Some("on") {
        return Err(aes());
    }
    match new {
        Some(None) => return Err(qerr!("Parameter 'encrypt.format' is missing")),
        Some(Some(f)) if f.as_str() == Some("aes") => {
            let known = ["format", "key-secret"];
            let other = d.get("encrypt").and_then(Value::as_dict);
            return Err(match other.and_then(|e| e.keys().find(|k| !known.contains(k))) {
                Some(name) => qerr!("Parameter 'encrypt.{name}' is unexpected"),
                None => aes(),
            });
        }
        _ => {}
    }
    match d.remove("compat").as_ref().and_then(Value::as_str) {
        Some("0.10") => drop(d.insert("version", "v2")),
        Some("1.1") => drop(d.insert("version", "v3")),
        Some(other) => drop(d.insert("version", other)),
        None => {}
    }
    if d.get("backing-file").and_then(Value::as_str) == Some("") {
        d.remove("backing-file");
    }
    Ok(())
}

fn aes() -> QError {
    qerr!("Images with the old encryption 'aes' cannot be made; use 'luks'")
}

fn parts(d: &Dict, _name: &str) -> Result<Vec<Part>, QError> {
    let data = d.get("data-file").and_then(Value::as_str);
    let part = |f: &str| Part { member: "data-file".into(), filename: f.into(), size: 0 };
    Ok(data.map(part).into_iter().collect())
}

fn create<'a>(cx: &'a CreateCx, options: &'a BlockdevCreateOptions) -> CtlFuture<'a> {
    Box::pin(async move {
        let BlockdevCreateOptions::Qcow2(o) = options else {
            return Err(qerr!("The options are not those of 'qcow2'"));
        };
        let encrypt = encryption(o, |id| cx.password(id))?;
        let root = cx.root(&o.file).await?;
        let done = match &o.data_file {
            None => create_with(&RootHost(&root), o, None, encrypt).await,
            Some(data) => with_data(cx, &root, data, o, encrypt).await,
        };
        let flushed = root.flush().await.map_err(|e| qerr!("Could not flush the image: {e}"));
        root.detach().await;
        done.and(flushed)
    })
}

/// A qcow2 image whose header leads to the file of another node.
async fn with_data(
    cx: &CreateCx,
    file: &block::Root,
    data: &BlockdevRef,
    o: &BlockdevCreateOptionsQcow2,
    encrypt: Option<crate::create::Encryption>,
) -> Result<(), QError> {
    let BlockdevRef::Reference(node) = data else {
        return Err(qerr!("'data-file' must be the name of a node"));
    };
    let root = cx.root(data).await?;
    let name = cx.filename(node);
    let done = create_with(&TwoRoots { file, data: &root }, o, Some(&name), encrypt).await;
    root.detach().await;
    done
}
