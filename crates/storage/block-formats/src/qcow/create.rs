//! Making qcow images.

use super::spec::{self, HEADER, Header, MAGIC, VERSION};
use crate::making::{fill_file, switch, text};
use api::block_core::{BlockdevCreateOptions, BlockdevDriver};
use api::crypto::QCryptoBlockCreateOptions;
use block::create::{CreateCx, Creation, SIZE};
use block::driver::{CtlFuture, Prealloc};
use qapi::{Dict, QError, QapiEnum, Value, qerr};

/// Making qcow images.
pub(super) static CREATION: Creation = Creation {
    adapt: Some(adapt),
    create: Some(create),
    ..Creation::new(&[
        SIZE,
        text("backing_file", "File name of a base image"),
        text("backing_fmt", "Format of the backing image"),
        switch(
            "encryption",
            "Encrypt the image with format 'aes'. (Deprecated in favor of encrypt.format=aes)",
        ),
        text("encrypt.format", "Encrypt the image, format choices: 'aes'"),
        text("encrypt.key-secret", "ID of the secret that provides the AES encryption key"),
    ])
};

fn adapt(d: &mut Dict) -> Result<(), QError> {
    block_crypto::adapt_old(d)?;
    if let Some(f) = d.remove("backing-fmt").as_ref().and_then(Value::as_str)
        && BlockdevDriver::from_str(f).is_none()
    {
        return Err(qerr!("unrecognized backing format '{f}'"));
    }
    if d.get("backing-file").and_then(Value::as_str) == Some("") {
        d.remove("backing-file");
    }
    Ok(())
}

fn create<'a>(cx: &'a CreateCx, options: &'a BlockdevCreateOptions) -> CtlFuture<'a> {
    Box::pin(async move {
        let BlockdevCreateOptions::Qcow(o) = options else {
            return Err(qerr!("The options are not those of 'qcow'"));
        };
        if o.size == 0 {
            return Err(qerr!("Image size is too small, cannot be zero length"));
        }
        let crypt = match &o.encrypt {
            None => 0,
            Some(QCryptoBlockCreateOptions::Qcow(q)) => {
                // The header holds nothing of the key: it only has to be there.
                let id = q.key_secret.as_deref();
                cx.password(
                    id.ok_or_else(|| qerr!("Parameter 'encrypt.key-secret' is required for cipher"))?,
                )?;
                spec::CRYPT_AES
            }
            Some(QCryptoBlockCreateOptions::Luks(_)) => return Err(qerr!("Unsupported encryption format")),
        };
        let name = o.backing_file.clone().unwrap_or_default().into_bytes();
        if name.len() > spec::MAX_NAME as usize {
            return Err(qerr!("Backing file name too long"));
        }
        // Overlays have small clusters, so that little is copied from behind.
        let (cluster_bits, table_bits) = if name.is_empty() { (12, 9) } else { (9, 12) };
        let directory = (HEADER + name.len()).next_multiple_of(8) as u64;
        let covered = o.size.div_ceil(1 << (cluster_bits + table_bits));
        if covered > i32::MAX as u64 / 8 {
            return Err(qerr!("Image too large"));
        }
        let header = Header {
            magic: MAGIC,
            version: VERSION,
            backing_offset: if name.is_empty() { 0 } else { HEADER as u64 },
            backing_len: name.len() as u32,
            size: o.size,
            cluster_bits,
            table_bits,
            crypt,
            directory,
        };
        fill_file(cx, &o.file, |f| {
            Box::pin(async move {
                f.put(0, &header.bytes()).await?;
                f.put(HEADER as u64, &name).await?;
                f.grow(directory + (8 * covered).next_multiple_of(512), Prealloc::Off).await
            })
        })
        .await
    })
}
