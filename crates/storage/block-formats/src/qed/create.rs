//! Making QED images.

use super::spec::{self, HEADER, Header, MAGIC};
use crate::making::{fill_file, text};
use api::block_core::{BlockdevCreateOptions, BlockdevDriver};
use block::create::{CreateCx, CreateOption, Creation, OptionType, SIZE};
use block::driver::{CtlFuture, Prealloc};
use qapi::{Dict, QError, QapiEnum, Value, qerr};

/// Making QED images.
pub(super) static CREATION: Creation = Creation {
    adapt: Some(adapt),
    create: Some(create),
    ..Creation::new(&[
        SIZE,
        text("backing_file", "File name of a base image"),
        text("backing_fmt", "Image format of the base image"),
        CreateOption::new("cluster_size", OptionType::Size, "Cluster size (in bytes)").or("65536"),
        CreateOption::new("table_size", OptionType::Size, "L1/L2 table size (in clusters)"),
    ])
};

fn adapt(d: &mut Dict) -> Result<(), QError> {
    if d.get("backing-file").and_then(Value::as_str) == Some("") {
        d.remove("backing-file");
    }
    match d.get("backing-fmt").and_then(Value::as_str) {
        Some(f) if BlockdevDriver::from_str(f).is_none() => Err(qerr!("Unknown driver '{f}'")),
        _ => Ok(()),
    }
}

fn create<'a>(cx: &'a CreateCx, options: &'a BlockdevCreateOptions) -> CtlFuture<'a> {
    Box::pin(async move {
        let BlockdevCreateOptions::Qed(o) = options else {
            return Err(qerr!("The options are not those of 'qed'"));
        };
        let fits = |v: u64, r: &std::ops::RangeInclusive<u32>| {
            u32::try_from(v).ok().filter(|v| r.contains(v) && v.is_power_of_two())
        };
        let cluster = fits(o.cluster_size.unwrap_or(65536), &spec::CLUSTER).ok_or_else(|| {
            let (a, b) = (spec::CLUSTER.start(), spec::CLUSTER.end());
            qerr!("QED cluster size must be within range [{a}, {b}] and power of 2")
        })?;
        let table = u64::try_from(o.table_size.unwrap_or(4)).unwrap_or(0);
        let table = fits(table, &spec::TABLE).ok_or_else(|| {
            let (a, b) = (spec::TABLE.start(), spec::TABLE.end());
            qerr!("QED table size must be within range [{a}, {b}] and power of 2")
        })?;
        let max = spec::max_size(cluster, table);
        if !o.size.is_multiple_of(512) || o.size > max {
            return Err(qerr!(
                "QED image size must be a non-zero multiple of cluster size and less than {max} bytes"
            ));
        }
        let name = o.backing_file.clone().unwrap_or_default().into_bytes();
        if name.len() > spec::MAX_NAME as usize {
            return Err(qerr!("The backing file's name is too long"));
        }
        let mut header = Header {
            magic: MAGIC,
            cluster,
            table,
            header: 1,
            directory: u64::from(cluster),
            size: o.size,
            ..Header::default()
        };
        if !name.is_empty() {
            header.features = spec::BACKING;
            if o.backing_fmt == Some(BlockdevDriver::Raw) {
                header.features |= spec::RAW_BACKING;
            }
            (header.name_offset, header.name_len) = (HEADER as u32, name.len() as u32);
        }
        fill_file(cx, &o.file, |f| {
            Box::pin(async move {
                f.empty().await?;
                let mut bytes = header.bytes().to_vec();
                bytes.extend(name);
                f.put(0, &bytes).await?;
                // A device may hold something else where the directory is to be.
                let zeroes = vec![0; (header.table_len() as usize).min(1 << 20)];
                for at in (0..header.table_len()).step_by(1 << 20) {
                    f.put(header.directory + at, &zeroes).await?;
                }
                f.grow(header.directory + header.table_len(), Prealloc::Off).await
            })
        })
        .await
    })
}
