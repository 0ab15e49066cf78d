//! How much space a qcow2 image takes.

use api::block_core::{
    BlockdevCreateOptions, BlockdevCreateOptionsQcow2, BlockdevQcow2Version, PreallocMode,
};
use api::crypto::QCryptoBlockCreateOptions;
use block::Root;
use block::create::{Measure, MeasureCx};
use block::driver::CtlFuture;
use qapi::{QError, qerr};

/// How much of the source is looked at in one go, bytes.
const LOOK: u64 = 16 << 40;

/// [`block::create::Creation::measure`].
pub(crate) fn measure<'a>(m: &'a MeasureCx<'a>) -> CtlFuture<'a, Measure> {
    Box::pin(async move {
        let Some(BlockdevCreateOptions::Qcow2(o)) = m.options else {
            return Err(qerr!("The options are not those of 'qcow2'"));
        };
        of(m, o).await
    })
}

async fn of(m: &MeasureCx<'_>, o: &BlockdevCreateOptionsQcow2) -> Result<Measure, QError> {
    // Refused are the options that no image can have.
    crate::create::check_options(o)?;
    let cluster = o.cluster_size.unwrap_or(65536);
    let size = m.source.map_or(m.size, |s| s.len());
    let too_large = || qerr!("The image size is too large (try using a larger cluster size)");
    let whole = size.checked_next_multiple_of(cluster).ok_or_else(too_large)?;
    let entry = if o.extended_l2 == Some(true) { 16 } else { 8 };
    let l2_tables = (whole / cluster).div_ceil(cluster / entry);
    let l1_bytes = (l2_tables * 8).next_multiple_of(cluster);
    if l2_tables * 8 > crate::spec::MAX_L1_BYTES {
        return Err(too_large());
    }
    let crypto = encryption(m, o)?.next_multiple_of(cluster);
    let tables = cluster + l2_tables * cluster + l1_bytes;
    let bits = o.refcount_bits.unwrap_or(16) as u64;
    let full = tables + whole + refcounts((tables + whole) / cluster, cluster, bits) + crypto;
    let full_prealloc = matches!(o.preallocation, Some(PreallocMode::Falloc | PreallocMode::Full));
    let data = match m.source {
        // What the backing file shows is not known here: it may be nothing of what the source shows.
        _ if full_prealloc || (o.backing_file.is_some() && m.source.is_some()) => whole,
        Some(s) => clusters_with_data(s, cluster).await?,
        None => 0,
    };
    let v3 = o.version.unwrap_or_default() == BlockdevQcow2Version::V3;
    let bitmaps = m.bitmaps.as_ref().filter(|_| v3).map(|l| bitmaps(l, size, cluster));
    Ok(Measure { required: full - whole + data, fully_allocated: full, bitmaps })
}

/// Bytes of the LUKS header.
fn encryption(m: &MeasureCx<'_>, o: &BlockdevCreateOptionsQcow2) -> Result<u64, QError> {
    let Some(QCryptoBlockCreateOptions::Luks(l)) = &o.encrypt else { return Ok(0) };
    let id = l.key_secret.as_deref();
    let id = id.ok_or_else(|| qerr!("Parameter 'key-secret' is required for cipher"))?;
    m.cx.password(id)?;
    Ok(block_crypto::new_volume(l, false)?.overhead())
}

/// Bytes of refcount blocks and their table for so many clusters, their own among them.
fn refcounts(clusters: u64, cluster: u64, bits: u64) -> u64 {
    let (per_block, per_table) = (cluster * 8 / bits, cluster / 8);
    let (mut blocks, mut table) = (0u64, 0u64);
    loop {
        let b = (clusters + blocks + table).div_ceil(per_block);
        let t = b.div_ceil(per_table);
        if (b, t) == (blocks, table) {
            return (blocks + table) * cluster;
        }
        (blocks, table) = (b, t);
    }
}

/// Bytes of bitmaps: their bits, tables and the directory.
fn bitmaps(list: &[(String, u32)], size: u64, cluster: u64) -> u64 {
    let (mut all, mut directory) = (0u64, 0u64);
    for (name, granularity) in list {
        let bytes = size.div_ceil(u64::from((*granularity).max(1))).div_ceil(8);
        let clusters = bytes.div_ceil(cluster);
        all += clusters * cluster + (clusters * 8).next_multiple_of(cluster);
        directory += (24 + name.len() as u64).next_multiple_of(8);
    }
    all + directory.next_multiple_of(cluster)
}

/// Bytes of the clusters in which the source has data.
async fn clusters_with_data(s: &Root, cluster: u64) -> Result<u64, QError> {
    let (mut pos, mut counted, mut bytes) = (0, 0, 0);
    while pos < s.len() {
        let failed = |e| qerr!("Unable to get block status: {e}");
        let st = s.map(pos, (s.len() - pos).min(LOOK)).await.map_err(failed)?;
        let end = pos + st.len.max(1);
        if st.data && !st.zero {
            let first = (pos - pos % cluster).max(counted);
            counted = end.next_multiple_of(cluster).max(counted);
            bytes += counted - first;
        }
        pos = end;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refcounts_count_themselves() {
        assert_eq!(refcounts(16388, 65536, 16), 2 * 65536);
        // 32768 clusters fill a block, which then has no place for itself.
        assert_eq!(refcounts(32766, 65536, 16), 2 * 65536);
        assert_eq!(refcounts(32767, 65536, 16), 3 * 65536);
    }

    #[test]
    fn bitmaps_take_whole_clusters() {
        assert_eq!(bitmaps(&[], 1 << 30, 65536), 0);
        assert_eq!(bitmaps(&[("b".into(), 65536)], 1 << 30, 65536), 3 * 65536);
    }
}
