//! Making Parallels images.

use super::spec::{CLUSTER, HEADER, Header, VERSION};
use crate::making::fill_file;
use api::block_core::BlockdevCreateOptions;
use block::create::{CreateCx, CreateOption, Creation, OptionType, SIZE};
use block::driver::{CtlFuture, Prealloc};
use qapi::{Dict, QError, Value, qerr};

/// Making Parallels images.
pub(super) static CREATION: Creation = Creation {
    adapt: Some(adapt),
    create: Some(create),
    ..Creation::new(&[
        SIZE,
        CreateOption::new("cluster_size", OptionType::Size, "Parallels image cluster size").or("1048576"),
    ])
};

/// The tool rounds; the command takes whole sectors alone.
fn adapt(d: &mut Dict) -> Result<(), QError> {
    let size = d.get("cluster-size").and_then(Value::as_str).and_then(|v| v.parse::<u64>().ok());
    if let Some(n) = size.and_then(|n| n.checked_next_multiple_of(512)) {
        d.insert("cluster-size", n.to_string());
    }
    Ok(())
}

fn create<'a>(cx: &'a CreateCx, options: &'a BlockdevCreateOptions) -> CtlFuture<'a> {
    Box::pin(async move {
        let BlockdevCreateOptions::Parallels(o) = options else {
            return Err(qerr!("The options are not those of 'parallels'"));
        };
        let cluster = o.cluster_size.unwrap_or(CLUSTER);
        if cluster >= i64::MAX as u64 / 513 || cluster / 512 > i32::MAX as u64 / 513 {
            return Err(qerr!("Cluster size is too large"));
        }
        if cluster == 0 {
            return Err(qerr!("Image size is too large for this cluster size"));
        }
        if !cluster.is_multiple_of(512) {
            return Err(qerr!("Cluster size must be a multiple of 512 bytes"));
        }
        let entries = o.size.div_ceil(cluster);
        if entries > i32::MAX as u64 / 4 || o.size > block::MAX_OFFSET {
            return Err(qerr!("Image size is too large for this cluster size"));
        }
        let data = (HEADER as u64 + 4 * entries).next_multiple_of(cluster);
        // A geometry that guests of its time can say.
        let (heads, per_track) = (16, 32);
        let header = Header {
            ext: true,
            version: VERSION,
            heads,
            cylinders: u32::try_from(o.size.div_ceil(512).div_ceil(u64::from(heads * per_track)))
                .unwrap_or(u32::MAX),
            tracks: (cluster / 512) as u32,
            entries: entries as u32,
            sectors: o.size.div_ceil(512),
            data_off: u32::try_from(data / 512)
                .map_err(|_| qerr!("Image size is too large for this cluster size"))?,
            ..Header::default()
        };
        fill_file(cx, &o.file, |f| {
            Box::pin(async move {
                f.put(0, &header.bytes()).await?;
                // A device may hold something else where the table is to be.
                let mut at = HEADER as u64;
                while at < data {
                    let n = (data - at).min(1 << 20);
                    f.put(at, &vec![0; n as usize]).await?;
                    at += n;
                }
                f.grow(data, Prealloc::Off).await
            })
        })
        .await
    })
}
