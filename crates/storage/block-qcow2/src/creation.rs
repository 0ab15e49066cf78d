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
    bool("encryption", "Encrypt the image with format 'aes'. (Deprecated in favor of encrypt.format=aes)"),
    str("encrypt.format", "Encrypt the image, format choices: 'aes', 'luks'"),
    str("encrypt.key-secret", "ID of secret providing qcow AES key or LUKS passphrase"),
    str("encrypt.cipher-alg", "Name of encryption cipher algorithm"),
    str("encrypt.cipher-mode", "Name of encryption cipher mode"),
    str("encrypt.ivgen-alg", "Name of IV generator algorithm"),
    str("encrypt.ivgen-hash-alg", "Name of IV generator hash algorithm"),
    str("encrypt.hash-alg", "Name of encryption hash algorithm"),
    CreateOption::new("encrypt.iter-time", OptionType::Num, "Time to spend in PBKDF in milliseconds"),
    CreateOption::new("cluster_size", OptionType::Size, "qcow2 cluster size").or("65536"),
    bool("extended_l2", "Extended L2 tables").or("off"),
    str("preallocation", "Preallocation mode (allowed values: off, metadata, falloc, full)"),
    str("compression_type", "Compression method used for image cluster compression").or("zlib"),
    SIZE,
    str("compat", "Compatibility level (v2 [0.10] or v3 [1.1])"),
    str("backing_file", "File name of a base image"),
    str("backing_fmt", "Image format of the base image"),
    str("data_file", "File name of an external data file"),
    bool("data_file_raw", "The external data file must stay valid as a raw image"),
    bool("lazy_refcounts", "Postpone refcount updates").or("off"),
    CreateOption::new("refcount_bits", OptionType::Num, "Width of a reference count entry in bits").or("16"),
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
    block_crypto::adapt_old(d)?;
    match d.remove("compat").as_ref().and_then(Value::as_str) {
        Some("0.10") => drop(d.insert("version", "v2")),
        Some("1.1") => drop(d.insert("version", "v3")),
        Some(other) => drop(d.insert("version", other)),
        None => {}
    }
    // A number below zero has become one that is too large.
    if d.get("refcount-bits")
        .and_then(Value::as_str)
        .is_some_and(|n| n.parse::<i64>().map_or(true, |n| n < 0))
    {
        return Err(qerr!("Refcount width must be a power of two and may not exceed 64 bits"));
    }
    if d.get("backing-file").and_then(Value::as_str) == Some("") {
        d.remove("backing-file");
    }
    Ok(())
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
        let done = done.map_err(|e| match root.truncate_failure() {
            Some(text) => qerr!("Could not resize image: {text}"),
            None => e,
        });
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
