//! Making a new image.

use api::block_core::{BlockdevCreateOptionsQcow2, BlockdevQcow2Version, PreallocMode, Qcow2CompressionType};
use api::crypto::QCryptoBlockCreateOptions;
use base::Errno;
use block::driver::Prealloc;
use block_crypto::volume;
use crypto::Secret;
use crypto::luks::NewVolume;
use qapi::{QError, QapiEnum, qerr};

use crate::crypt::{Key, Slots};
use crate::geometry::Geometry;
use crate::header::{Compression, CryptMethod, CryptoExt, Header};
use crate::host::{Host, write_bytes};
use crate::image::Image;
use crate::opts::Config;
use crate::spec::{self, autoclear, compat};

/// How the data of a new image is to be encrypted.
#[derive(Debug)]
pub enum Encryption {
    /// The old way, with this password.
    Aes(Secret),
    /// A LUKS volume, and its first password.
    Luks(NewVolume, Secret),
}

/// What the options say about encryption. `password` finds the password that an id names.
///
/// # Errors
/// A secret that is not given or not there; a way of encryption that cannot be made.
pub fn encryption(
    o: &BlockdevCreateOptionsQcow2,
    password: impl FnOnce(&str) -> Result<Secret, QError>,
) -> Result<Option<Encryption>, QError> {
    let id = |id: &Option<String>| {
        id.clone().ok_or_else(|| qerr!("Parameter 'encrypt.key-secret' is required for cipher"))
    };
    match &o.encrypt {
        None => Ok(None),
        Some(QCryptoBlockCreateOptions::Qcow(q)) => Ok(Some(Encryption::Aes(password(&id(&q.key_secret)?)?))),
        Some(QCryptoBlockCreateOptions::Luks(l)) => {
            let password = password(&id(&l.key_secret)?)?;
            Ok(Some(Encryption::Luks(block_crypto::new_volume(l, false)?, password)))
        }
    }
}

/// Writes an empty image into `host`, whose old content is lost.
pub async fn create<H: Host>(host: &H, o: &BlockdevCreateOptionsQcow2) -> Result<(), QError> {
    if o.data_file.is_some() {
        return Err(qerr!("The external data file is not open"));
    }
    create_with(host, o, None, None).await
}

/// [`create`] for an image whose data goes to another file: `data_file` is the name that the header is to have for it,
/// and the host's calls for data lead there. What that file holds stays, but it gets the disk's size at least.
/// `encrypt` is what [`encryption`] says.
pub async fn create_with<H: Host>(
    host: &H,
    o: &BlockdevCreateOptionsQcow2,
    data_file: Option<&str>,
    encrypt: Option<Encryption>,
) -> Result<(), QError> {
    if o.encrypt.is_some() != encrypt.is_some() {
        return Err(qerr!("Parameter 'encrypt.key-secret' is required for cipher"));
    }
    let mut header = plan(o, data_file)?;
    let g = header.geometry;
    let cs = g.cluster_size();
    // Before anything is lost: all that can fail without storage.
    let (volume, old) = match encrypt {
        Some(Encryption::Luks(new, password)) => (Some(volume::generate(new, password).await?), None),
        Some(Encryption::Aes(password)) => (None, Some(password)),
        None => (None, None),
    };
    let crypto_bytes = volume.as_ref().map_or(0, |v| v.header.payload_offset());
    let crypto_clusters = g.clusters(crypto_bytes);
    let io = |e: Errno| qerr!("Could not write qcow2 header: {e}");
    host.truncate(0, Prealloc::Off).await.map_err(|e| qerr!("Could not resize image: {e}"))?;

    // Cluster 0 the header, 1 the refcount table, 2 the first refcount block, then the L1 table, then the LUKS header.
    let l1_entries = g.l1_entries_for(o.size);
    let l1_clusters = g.clusters(l1_entries * 8);
    let used = 3 + l1_clusters + crypto_clusters;
    header.reftable_offset = cs;
    header.l1_size = l1_entries as u32;
    header.l1_offset = 3 * cs;
    let mut table = Vec::new();
    // With small clusters one refcount block may not cover a large L1 table: more blocks follow it.
    let mut blocks = used.div_ceil(g.refblock_entries());
    let mut table_clusters = 1;
    let total = loop {
        let total = 1 + table_clusters + blocks + l1_clusters + crypto_clusters;
        let (b, t) = (total.div_ceil(g.refblock_entries()), g.clusters(blocks * 8));
        if b <= blocks && t <= table_clusters {
            break total;
        }
        (blocks, table_clusters) = (blocks.max(b), table_clusters.max(t));
    };
    if table_clusters * cs > spec::MAX_REFTABLE_BYTES {
        return Err(qerr!("Could not resize image: {}", Errno::FBIG));
    }
    header.reftable_clusters = table_clusters as u32;
    let behind = (1 + table_clusters + blocks) * cs;
    header.l1_offset = if l1_entries > 0 { behind } else { 0 };
    for i in 0..blocks {
        let mut block = vec![0u8; cs as usize];
        let first = i * g.refblock_entries();
        for c in first..total.min(first + g.refblock_entries()) {
            g.refcount_set(&mut block, (c - first) as usize, 1);
        }
        let off = (1 + table_clusters + i) * cs;
        write_bytes(host, off, &block).await.map_err(io)?;
        table.push(off);
    }
    table.resize((table_clusters * cs / 8) as usize, 0);
    write_bytes(host, cs, &spec::table_to_bytes(&table)).await.map_err(io)?;
    if l1_entries > 0 {
        let bytes = vec![0u8; l1_entries as usize * 8];
        write_bytes(host, header.l1_offset, &bytes).await.map_err(io)?;
    }
    if let Some(v) = &volume {
        let place = CryptoExt { offset: behind + l1_clusters * cs, length: crypto_bytes };
        let reserved = host.write_zeroes(place.offset, crypto_clusters * cs).await;
        reserved.map_err(|e| qerr!("Could not write encryption header: {e}"))?;
        volume::write(&Slots { host, place }, v).await?;
        header.set_crypto(place);
    }
    // The header last: until it is there, this is no image.
    host.flush().await.map_err(io)?;
    let mut first = header.encode_new()?;
    first.resize(cs as usize, 0);
    write_bytes(host, 0, &first).await.map_err(io)?;
    host.flush().await.map_err(io)?;

    let mode = match o.preallocation.unwrap_or_default() {
        // Whoever knows nothing of the image sees the data file whole, so the image must too.
        PreallocMode::Off if o.data_file_raw == Some(true) => Prealloc::Metadata,
        PreallocMode::Off => {
            if data_file.is_some() && host.data_len().map_err(io)? < o.size {
                let grown = host.data_truncate(o.size, Prealloc::Off).await;
                grown.map_err(|e| qerr!("Could not resize the external data file: {e}"))?;
            }
            return Ok(());
        }
        PreallocMode::Metadata => Prealloc::Metadata,
        PreallocMode::Falloc => Prealloc::Falloc,
        PreallocMode::Full => Prealloc::Full,
    };
    let mut image = Image::open(host, "", true, |h| Config::new(h, None, false)).await?;
    if let Some(v) = &volume {
        image.unlock(host, Key::Made(v)).await?;
    }
    if let Some(password) = &old {
        image.unlock(host, Key::Password(password, None)).await?;
    }
    let fail = |e: Errno| qerr!("Could not preallocate: {e}");
    image.modify(host).await.map_err(fail)?;
    image.preallocate(host, 0, o.size, mode).await.map_err(fail)?;
    image.make_clean(host).await.map_err(fail)
}

/// Refuses options that no image can have, of whatever size.
pub(crate) fn check_options(o: &BlockdevCreateOptionsQcow2) -> Result<(), QError> {
    let empty = BlockdevCreateOptionsQcow2 { size: 0, ..o.clone() };
    plan(&empty, o.data_file.as_ref().map(|_| "data")).map(drop)
}

/// Checks the options and makes the header that they ask for.
fn plan(o: &BlockdevCreateOptionsQcow2, data_file: Option<&str>) -> Result<Header, QError> {
    let cluster_size = o.cluster_size.unwrap_or(65536);
    if !cluster_size.is_power_of_two()
        || !(1 << spec::MIN_CLUSTER_BITS..=1 << spec::MAX_CLUSTER_BITS).contains(&cluster_size)
    {
        return Err(qerr!("Cluster size must be a power of two between 512 and 2048k"));
    }
    if !o.size.is_multiple_of(512) {
        return Err(qerr!("Image size must be a multiple of 512 bytes"));
    }
    let v3 = o.version.unwrap_or_default() == BlockdevQcow2Version::V3;
    let extended = o.extended_l2.unwrap_or(false);
    if extended && cluster_size < 1 << spec::MIN_EXTENDED_BITS {
        return Err(qerr!(
            "Extended L2 entries are only supported with cluster sizes of at least 16384 bytes"
        ));
    }
    if extended && !v3 {
        return Err(qerr!(
            "Extended L2 entries are only supported with compatibility level 1.1 and above (use version=v3 or greater)"
        ));
    }
    if data_file.is_some() && !v3 {
        return Err(qerr!(
            "External data files are only supported with compatibility level 1.1 and above (use version=v3 or greater)"
        ));
    }
    let raw = o.data_file_raw.unwrap_or(false);
    if raw && data_file.is_none() {
        return Err(qerr!("data-file-raw requires data-file"));
    }
    if raw && o.backing_file.is_some() {
        return Err(qerr!("Backing file and data-file-raw cannot be used at the same time"));
    }
    if data_file.is_some_and(|n| n.is_empty() || n.len() > spec::MAX_BACKING_NAME as usize) {
        return Err(qerr!("The name of the external data file is too long"));
    }
    let lazy = o.lazy_refcounts.unwrap_or(false);
    if lazy && !v3 {
        return Err(qerr!(
            "Lazy refcounts only supported with compatibility level 1.1 and above (use version=v3 or greater)"
        ));
    }
    let bits = o.refcount_bits.unwrap_or(16);
    if !(1..=64).contains(&bits) || !(bits as u64).is_power_of_two() {
        return Err(qerr!("Refcount width must be a power of two and may not exceed 64 bits"));
    }
    if bits != 16 && !v3 {
        return Err(qerr!(
            "Different refcount widths than 16 bits require compatibility level 1.1 or above (use version=v3 or greater)"
        ));
    }
    let compression = match o.compression_type.unwrap_or_default() {
        Qcow2CompressionType::Zlib => Compression::Zlib,
        Qcow2CompressionType::Zstd => Compression::Zstd,
    };
    if compression != Compression::Zlib && !v3 {
        return Err(qerr!(
            "Non-zlib compression type is only supported with compatibility level 1.1 and above (use version=v3 or greater)"
        ));
    }
    if o.backing_file.is_some() && !extended && matches!(o.preallocation, Some(m) if m != PreallocMode::Off) {
        return Err(qerr!(
            "Backing file and preallocation can only be used at the same time if extended_l2 is on"
        ));
    }
    if o.backing_fmt.is_some() && o.backing_file.is_none() {
        return Err(qerr!("Backing format cannot be used without backing file"));
    }
    if o.backing_file.as_ref().is_some_and(|n| n.len() > spec::MAX_BACKING_NAME as usize) {
        return Err(qerr!("Backing file name too long"));
    }
    let g = Geometry {
        cluster_bits: cluster_size.trailing_zeros(),
        refcount_order: (bits as u64).trailing_zeros(),
        extended,
        data_file: data_file.is_some(),
    };
    if o.size > i64::MAX as u64 {
        return Err(qerr!("Could not resize image: Image size cannot be negative"));
    }
    if o.size > block::MAX_OFFSET {
        return Err(qerr!(
            "Could not resize image: offset({}) exceeds maximum({})",
            o.size,
            block::MAX_OFFSET
        ));
    }
    if g.l1_entries_for(o.size) > spec::MAX_L1_BYTES / 8 {
        return Err(qerr!("Could not resize image: Failed to grow the L1 table: {}", Errno::FBIG));
    }
    let mut h = Header::new(if v3 { 3 } else { 2 }, g, o.size, compression);
    if lazy {
        h.compatible |= compat::LAZY_REFCOUNTS;
    }
    if raw {
        h.autoclear |= autoclear::RAW_DATA_FILE;
    }
    h.data_file = data_file.map(Into::into);
    h.backing_file = o.backing_file.clone();
    h.backing_format = o.backing_fmt.map(|f| f.as_str().to_string());
    match &o.encrypt {
        None => {}
        Some(QCryptoBlockCreateOptions::Qcow(_)) => h.crypt = CryptMethod::Aes,
        Some(QCryptoBlockCreateOptions::Luks(_)) => {
            h.crypt = CryptMethod::Luks;
            h.set_crypto(CryptoExt { offset: 0, length: 0 });
        }
    }
    h.make_room();
    h.encode()?;
    Ok(h)
}
