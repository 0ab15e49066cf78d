//! The header and its extensions: parsing with every limit checked, and encoding.

use qapi::{QError, qerr};

use crate::geometry::Geometry;
use crate::spec::{self, be32, be64, field, incompat};

/// How an image compresses clusters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Raw deflate with a 4 KiB window.
    Zlib,
    /// One Zstandard frame a cluster.
    Zstd,
}

impl Compression {
    /// The name in options and queries.
    pub fn name(self) -> &'static str {
        match self {
            Compression::Zlib => "zlib",
            Compression::Zstd => "zstd",
        }
    }
}

/// How an image's data is encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CryptMethod {
    /// Not at all.
    None,
    /// The old way: AES-128 in CBC mode, the password itself being the key.
    Aes,
    /// LUKS: its header lies where the crypto extension says.
    Luks,
}

impl CryptMethod {
    /// The number in the header.
    pub fn number(self) -> u32 {
        match self {
            CryptMethod::None => 0,
            CryptMethod::Aes => 1,
            CryptMethod::Luks => 2,
        }
    }

    /// The name in options and messages.
    pub fn name(self) -> &'static str {
        match self {
            CryptMethod::None => "none",
            CryptMethod::Aes => "aes",
            CryptMethod::Luks => "luks",
        }
    }
}

/// Where the LUKS header and its key slots lie (full disk encryption header pointer).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CryptoExt {
    /// Where they begin in the file; cluster-aligned.
    pub offset: u64,
    /// Bytes that they take.
    pub length: u64,
}

impl CryptoExt {
    /// The extension as it stands in the header.
    pub fn encode(self) -> RawExt {
        let mut data = self.offset.to_be_bytes().to_vec();
        data.extend_from_slice(&self.length.to_be_bytes());
        RawExt { kind: spec::ext::CRYPTO, data }
    }
}

/// Where the bitmap directory stands (bitmaps extension).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BitmapsExt {
    /// Number of bitmaps.
    pub count: u32,
    /// Bytes of the directory.
    pub directory_size: u64,
    /// Where it stands in the file; cluster-aligned.
    pub directory_offset: u64,
}

/// A header extension that Rhea keeps as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawExt {
    /// The extension's type.
    pub kind: u32,
    /// Its data without padding.
    pub data: Vec<u8>,
}

/// A parsed and validated header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// 2 or 3.
    pub version: u32,
    /// Cluster and refcount sizes.
    pub geometry: Geometry,
    /// Virtual size in bytes.
    pub size: u64,
    /// Entries of the active L1 table.
    pub l1_size: u32,
    /// Where it stands.
    pub l1_offset: u64,
    /// Where the refcount table stands.
    pub reftable_offset: u64,
    /// Its length in clusters.
    pub reftable_clusters: u32,
    /// Number of internal snapshots.
    pub snapshot_count: u32,
    /// Where the snapshot table stands.
    pub snapshot_offset: u64,
    /// Incompatible feature bits.
    pub incompatible: u64,
    /// Compatible feature bits.
    pub compatible: u64,
    /// Autoclear feature bits.
    pub autoclear: u64,
    /// The compression type.
    pub compression: Compression,
    /// How the data is encrypted.
    pub crypt: CryptMethod,
    /// The length that the header on disk says (72 for version 2).
    pub length: u32,
    /// Header bytes past those that Rhea knows; kept.
    pub tail: Vec<u8>,
    /// The backing file's name.
    pub backing_file: Option<String>,
    /// The backing file's format.
    pub backing_format: Option<String>,
    /// The name of the file that holds the guest's data.
    pub data_file: Option<String>,
    /// The bitmaps extension, if there is one (whether or not the autoclear bit says that it is valid).
    pub bitmaps: Option<BitmapsExt>,
    /// How many bitmaps from the directory's first on are kept so that a crash loses nothing of them; counts while
    /// [`spec::autoclear::KEPT_BITMAPS`] is set.
    pub kept_bitmaps: Option<u32>,
    /// Every other extension, in order.
    pub extensions: Vec<RawExt>,
}

/// Bytes at the first cluster's end that are kept for the backing file's name.
const BACKING_ROOM: usize = 1024;

/// Where parts of the header stand in the first cluster, bytes; `None` for where they usually do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Layout {
    /// The extensions behind the backing file's format.
    pub(crate) rest: Option<usize>,
    /// The backing file's name.
    pub(crate) name: Option<usize>,
}

/// What storage writes at once.
pub(crate) const SECTOR: usize = 512;

/// Why a header is refused.
pub type HeaderResult<T> = Result<T, QError>;

/// The cluster size that the first bytes claim, so that the caller knows how much to read for [`Header::parse`].
/// Refuses what is not qcow2, a version other than 2 and 3, and cluster sizes outside 512 bytes to 2 MiB.
pub fn cluster_bits(first: &[u8]) -> HeaderResult<u32> {
    if be32(first, 0) != Some(spec::MAGIC) {
        return Err(qerr!("Image is not in qcow2 format"));
    }
    let version = be32(first, 4).unwrap_or(0);
    if version != 2 && version != 3 {
        return Err(qerr!("Unsupported qcow2 version {version}"));
    }
    let bits = be32(first, field::CLUSTER_BITS).unwrap_or(0);
    if !(spec::MIN_CLUSTER_BITS..=spec::MAX_CLUSTER_BITS).contains(&bits) {
        return Err(qerr!("Unsupported cluster size: 2^{bits}"));
    }
    Ok(bits)
}

impl Header {
    /// Parses and validates the image's first cluster (shorter where the file is; missing bytes count as zeros).
    ///
    /// It checks everything that needs no further I/O: versions, feature bits, limits and alignment of every table.
    pub fn parse(first: &[u8]) -> HeaderResult<Header> {
        let bits = cluster_bits(first)?;
        let cluster_size = 1usize << bits;
        let mut padded;
        let first = if first.len() < cluster_size {
            padded = first.to_vec();
            padded.resize(cluster_size, 0);
            &padded[..]
        } else {
            &first[..cluster_size]
        };
        let u32_at = |at| be32(first, at).unwrap_or(0);
        let u64_at = |at| be64(first, at).unwrap_or(0);
        let version = u32_at(4);
        let v3 = version == 3;
        let length = if v3 { u32_at(field::LENGTH) } else { spec::V2_HEADER_LENGTH as u32 };
        if v3 && (length as usize) < spec::V3_HEADER_LENGTH {
            return Err(qerr!("qcow2 header too short"));
        }
        if length as usize > cluster_size {
            return Err(qerr!("qcow2 header exceeds cluster size"));
        }
        let length_usize = length as usize;
        let backing_offset = u64_at(field::BACKING_OFFSET);
        if backing_offset > cluster_size as u64 {
            return Err(qerr!("Invalid backing file offset"));
        }
        let incompatible = if v3 { u64_at(field::INCOMPATIBLE) } else { 0 };
        let comp_byte = if length_usize > field::COMPRESSION { first[field::COMPRESSION] } else { 0 };
        let compression = match comp_byte {
            0 => Compression::Zlib,
            1 => Compression::Zstd,
            n => return Err(qerr!("qcow2: unknown compression type: {n}")),
        };
        match (compression, incompatible & incompat::COMPRESSION != 0) {
            (Compression::Zlib, true) => {
                return Err(qerr!("qcow2: Compression type incompatible feature bit must not be set"));
            }
            (Compression::Zstd, false) => {
                return Err(qerr!("qcow2: Compression type incompatible feature bit must be set"));
            }
            _ => {}
        }
        let ext_end = if backing_offset != 0 { backing_offset as usize } else { cluster_size };
        let exts = Extensions::parse(first, length_usize, ext_end)?;
        exts.check_features(incompatible)?;
        let crypt = match u32_at(field::CRYPT_METHOD) {
            0 => CryptMethod::None,
            1 => CryptMethod::Aes,
            2 => CryptMethod::Luks,
            n => return Err(qerr!("Unsupported encryption method {n}")),
        };
        exts.check_crypto(crypt, cluster_size)?;

        let refcount_order = if v3 { u32_at(field::REFCOUNT_ORDER) } else { 4 };
        if refcount_order > 6 {
            return Err(qerr!("Reference count entry width too large; may not exceed 64 bits"));
        }
        let extended = incompatible & incompat::EXTENDED_L2 != 0;
        if extended && bits < spec::MIN_EXTENDED_BITS {
            return Err(qerr!(
                "Extended L2 entries are only supported with cluster sizes of at least 16384 bytes"
            ));
        }
        let data_file = incompatible & incompat::DATA_FILE != 0;
        let geometry = Geometry { cluster_bits: bits, refcount_order, extended, data_file };

        let reftable_clusters = u32_at(field::REFTABLE_CLUSTERS);
        let reftable_offset = u64_at(field::REFTABLE_OFFSET);
        if u64::from(reftable_clusters) > spec::MAX_REFTABLE_BYTES >> bits {
            return Err(qerr!("Reference count table too large"));
        }
        let table_ok = |off: u64, len: u64| {
            off & (cluster_size as u64 - 1) == 0 && off.checked_add(len).is_some_and(|e| e <= i64::MAX as u64)
        };
        if !table_ok(reftable_offset, u64::from(reftable_clusters) << bits)
            || (reftable_offset == 0 && reftable_clusters > 0)
        {
            return Err(qerr!("Reference count table offset invalid"));
        }

        let snapshot_count = u32_at(field::SNAPSHOT_COUNT);
        let snapshot_offset = u64_at(field::SNAPSHOT_OFFSET);
        let l1_size = u32_at(field::L1_SIZE);
        let l1_offset = u64_at(field::L1_OFFSET);
        if u64::from(l1_size) > spec::MAX_L1_BYTES / 8 {
            return Err(qerr!("Active L1 table too large"));
        }
        if !table_ok(l1_offset, u64::from(l1_size) * 8) || (l1_size > 0 && l1_offset == 0) {
            return Err(qerr!("Active L1 table offset invalid"));
        }
        let size = u64_at(field::SIZE);
        if size.checked_add(geometry.l2_coverage() - 1).is_none() {
            return Err(qerr!("Could not refresh total sector count: File too large"));
        }
        if geometry.l1_entries_for(size) > i32::MAX as u64 {
            return Err(qerr!("Image is too big"));
        }
        if u64::from(l1_size) < geometry.l1_entries_for(size) {
            return Err(qerr!("L1 table is too small"));
        }

        let backing_file = if backing_offset == 0 {
            None
        } else {
            let n = u32_at(field::BACKING_SIZE);
            if n > spec::MAX_BACKING_NAME || u64::from(n) > cluster_size as u64 - backing_offset {
                return Err(qerr!("Backing file name too long"));
            }
            let raw = &first[backing_offset as usize..backing_offset as usize + n as usize];
            // The name is not terminated on disk; what follows a NUL was never part of a file's name.
            let raw = raw.split(|b| *b == 0).next().unwrap_or_default();
            (!raw.is_empty()).then(|| String::from_utf8_lossy(raw).into_owned())
        };
        let autoclear = if v3 { u64_at(field::AUTOCLEAR) } else { 0 };
        let known = spec::HEADER_LENGTH.min(length_usize);
        Ok(Header {
            version,
            geometry,
            size,
            l1_size,
            l1_offset,
            reftable_offset,
            reftable_clusters,
            snapshot_count,
            snapshot_offset,
            incompatible,
            compatible: if v3 { u64_at(field::COMPATIBLE) } else { 0 },
            autoclear,
            compression,
            crypt,
            length,
            tail: first[known..length_usize].to_vec(),
            backing_file,
            backing_format: exts.backing_format,
            data_file: exts.data_file,
            bitmaps: exts.bitmaps,
            kept_bitmaps: exts.kept_bitmaps,
            extensions: exts.rest,
        })
    }

    /// Has it fit the first cluster, where it can: the names of features are only for people, and give way. A small cluster
    /// is kept for what matters.
    pub(crate) fn make_room(&mut self) {
        const SMALL: u64 = 4096;
        if self.geometry.cluster_size() <= SMALL || self.encode().is_err() {
            self.extensions.retain(|e| e.kind != spec::ext::FEATURE_NAMES);
        }
    }

    /// A fresh header for a new image: no tables yet, the standard feature names.
    pub fn new(version: u32, geometry: Geometry, size: u64, compression: Compression) -> Header {
        let mut names = Vec::with_capacity(spec::FEATURE_NAMES.len() * spec::FEATURE_ENTRY);
        for (kind, bit, name) in spec::FEATURE_NAMES {
            let mut e = [0u8; spec::FEATURE_ENTRY];
            e[0] = *kind;
            e[1] = *bit;
            e[2..2 + name.len()].copy_from_slice(name.as_bytes());
            names.extend_from_slice(&e);
        }
        let extensions = if version >= 3 {
            vec![RawExt { kind: spec::ext::FEATURE_NAMES, data: names }]
        } else {
            Vec::new()
        };
        Header {
            version,
            geometry,
            size,
            l1_size: 0,
            l1_offset: 0,
            reftable_offset: 0,
            reftable_clusters: 0,
            snapshot_count: 0,
            snapshot_offset: 0,
            incompatible: [
                (compression != Compression::Zlib, incompat::COMPRESSION),
                (geometry.extended, incompat::EXTENDED_L2),
                (geometry.data_file, incompat::DATA_FILE),
            ]
            .into_iter()
            .filter(|(on, _)| *on)
            .fold(0, |all, (_, bit)| all | bit),
            compatible: 0,
            autoclear: 0,
            compression,
            crypt: CryptMethod::None,
            length: if version >= 3 { spec::HEADER_LENGTH as u32 } else { spec::V2_HEADER_LENGTH as u32 },
            tail: Vec::new(),
            backing_file: None,
            backing_format: None,
            data_file: None,
            bitmaps: None,
            kept_bitmaps: None,
            extensions,
        }
    }

    /// The header as the first cluster's beginning: fields, extensions, backing file name. An error where that does
    /// not fit one cluster.
    pub fn encode(&self) -> HeaderResult<Vec<u8>> {
        self.encode_as(Layout::default())
    }

    /// [`Header::encode`] with its parts at these places. An error where that is not possible.
    /// [`Header::encode`] with the backing file's name right behind the extensions: for a new image.
    pub(crate) fn encode_new(&self) -> HeaderResult<Vec<u8>> {
        let nameless = Header { backing_file: None, ..self.clone() };
        let name = self.backing_file.as_ref().map(|_| nameless.encode().map(|b| b.len())).transpose()?;
        self.encode_as(Layout { rest: None, name })
    }

    pub(crate) fn encode_as(&self, places: Layout) -> HeaderResult<Vec<u8>> {
        let cluster_size = self.geometry.cluster_size() as usize;
        let v3 = self.version >= 3;
        let length = if v3 { spec::HEADER_LENGTH.max(self.length as usize) } else { spec::V2_HEADER_LENGTH };
        let mut b = vec![0u8; length];
        let mut put32 = |at: usize, v: u32| b[at..at + 4].copy_from_slice(&v.to_be_bytes());
        put32(0, spec::MAGIC);
        put32(4, self.version);
        put32(field::CLUSTER_BITS, self.geometry.cluster_bits);
        put32(field::L1_SIZE, self.l1_size);
        put32(field::REFTABLE_CLUSTERS, self.reftable_clusters);
        put32(field::SNAPSHOT_COUNT, self.snapshot_count);
        if v3 {
            put32(field::REFCOUNT_ORDER, self.geometry.refcount_order);
            put32(field::LENGTH, length as u32);
        }
        put32(field::CRYPT_METHOD, self.crypt.number());
        let mut put64 = |at: usize, v: u64| b[at..at + 8].copy_from_slice(&v.to_be_bytes());
        put64(field::SIZE, self.size);
        put64(field::L1_OFFSET, self.l1_offset);
        put64(field::REFTABLE_OFFSET, self.reftable_offset);
        put64(field::SNAPSHOT_OFFSET, self.snapshot_offset);
        if v3 {
            put64(field::INCOMPATIBLE, self.incompatible);
            put64(field::COMPATIBLE, self.compatible);
            put64(field::AUTOCLEAR, self.autoclear);
            b[field::COMPRESSION] = (self.compression == Compression::Zstd) as u8;
            let at = spec::HEADER_LENGTH.min(length);
            let n = self.tail.len().min(length - at);
            b[at..at + n].copy_from_slice(&self.tail[..n]);
        }
        let mut add = Appended(&mut b);
        if let Some(f) = &self.backing_format {
            add.add(spec::ext::BACKING_FORMAT, f.as_bytes());
        }
        match places.rest.map(|p| p.checked_sub(add.at())) {
            None | Some(Some(0)) => {}
            Some(Some(n)) if n >= 8 && n.is_multiple_of(8) && n <= cluster_size => {
                add.add(spec::ext::PADDING, &vec![0; n - 8]);
            }
            _ => return Err(qerr!("The header's extensions cannot stand there")),
        }
        if let Some(f) = &self.data_file {
            add.add(spec::ext::DATA_FILE, f.as_bytes());
        }
        for e in &self.extensions {
            add.add(e.kind, &e.data);
        }
        if let Some(x) = &self.bitmaps {
            let mut d = Vec::with_capacity(24);
            d.extend_from_slice(&x.count.to_be_bytes());
            d.extend_from_slice(&[0; 4]);
            d.extend_from_slice(&x.directory_size.to_be_bytes());
            d.extend_from_slice(&x.directory_offset.to_be_bytes());
            let kept = self.kept_bitmaps.map(|n| {
                let mut k = [0u8; 16];
                k[..4].copy_from_slice(&1u32.to_be_bytes());
                k[4..8].copy_from_slice(&n.to_be_bytes());
                k
            });
            if kept.is_some() {
                // What both say changes at once, so it stands in one sector.
                let left = SECTOR - (add.at() + 8) % SECTOR;
                if left < 24 + 8 + 16 {
                    // The padding begins eight bytes before its data.
                    add.add(spec::ext::PADDING, &[0; SECTOR][..left]);
                }
            }
            add.add(spec::ext::BITMAPS, &d);
            if let Some(k) = kept {
                add.add(spec::ext::KEPT_BITMAPS, &k);
            }
        }
        add.add(spec::ext::END, &[]);
        if let Some(name) = &self.backing_file {
            if name.len() > spec::MAX_BACKING_NAME as usize {
                return Err(qerr!("Backing file name too long"));
            }
            // At the cluster's end where there is room, so that extensions can grow without moving it.
            let end = cluster_size.saturating_sub(BACKING_ROOM);
            match places.name {
                Some(at) if b.len() <= at && at <= cluster_size => b.resize(at, 0),
                Some(_) => return Err(qerr!("The backing file's name cannot stand there")),
                None if cluster_size >= 4 * BACKING_ROOM && b.len() <= end => b.resize(end, 0),
                None => {}
            }
            let at = b.len() as u64;
            b.extend_from_slice(name.as_bytes());
            b[field::BACKING_OFFSET..field::BACKING_OFFSET + 8].copy_from_slice(&at.to_be_bytes());
            b[field::BACKING_SIZE..field::BACKING_SIZE + 4]
                .copy_from_slice(&(name.len() as u32).to_be_bytes());
        }
        if b.len() > cluster_size {
            return Err(qerr!("The header does not fit one cluster ({cluster_size} bytes)"));
        }
        Ok(b)
    }

    /// Where the LUKS header lies, in an image encrypted with LUKS.
    pub fn crypto(&self) -> Option<CryptoExt> {
        self.extensions.iter().find(|e| e.kind == spec::ext::CRYPTO).and_then(parse_crypto)
    }

    /// Sets where the LUKS header lies.
    pub fn set_crypto(&mut self, at: CryptoExt) {
        self.extensions.retain(|e| e.kind != spec::ext::CRYPTO);
        self.extensions.insert(0, at.encode());
    }

    /// `1.1` for version 3, `0.10` for version 2.
    pub fn compat(&self) -> &'static str {
        if self.version >= 3 { "1.1" } else { "0.10" }
    }

    /// Fails where the table of snapshots is too long, or cannot stand where it does.
    pub fn check_snapshots(&self) -> HeaderResult<()> {
        if self.snapshot_count > spec::MAX_SNAPSHOTS {
            return Err(qerr!("Snapshot table too large"));
        }
        self.check_snapshots_place()
    }

    /// Fails where the table of snapshots cannot stand where it does.
    pub(crate) fn check_snapshots_place(&self) -> HeaderResult<()> {
        let end = self.snapshot_offset.checked_add(u64::from(self.snapshot_count) * 40);
        let aligned = self.geometry.in_cluster(self.snapshot_offset) == 0;
        match aligned && end.is_some_and(|e| e <= i64::MAX as u64) {
            true => Ok(()),
            false => Err(qerr!("Snapshot table offset invalid")),
        }
    }

    /// Fails where the image has no refcounts at all: it can be repaired, but not used.
    pub fn check_refcounted(&self) -> HeaderResult<()> {
        if self.reftable_clusters == 0 {
            return Err(qerr!("Image does not contain a reference count table"));
        }
        Ok(())
    }

    /// Whether an incompatible feature bit is set.
    pub fn has(&self, bit: u64) -> bool {
        self.incompatible & bit != 0
    }

    /// Whether the data file is to be the guest's disk for programs that do not know the image.
    pub fn raw_data_file(&self) -> bool {
        self.geometry.data_file && self.autoclear & spec::autoclear::RAW_DATA_FILE != 0
    }

    /// Whether the image asks for lazy refcounts.
    pub fn lazy_refcounts(&self) -> bool {
        self.compatible & spec::compat::LAZY_REFCOUNTS != 0
    }
}

fn parse_crypto(e: &RawExt) -> Option<CryptoExt> {
    Some(CryptoExt { offset: be64(&e.data, 0)?, length: be64(&e.data, 8)? })
}

/// Extensions being added behind a header.
struct Appended<'a>(&'a mut Vec<u8>);

impl Appended<'_> {
    fn at(&self) -> usize {
        self.0.len()
    }

    fn add(&mut self, kind: u32, data: &[u8]) {
        let b = &mut *self.0;
        b.extend_from_slice(&kind.to_be_bytes());
        b.extend_from_slice(&(data.len() as u32).to_be_bytes());
        b.extend_from_slice(data);
        b.resize(b.len().next_multiple_of(8), 0);
    }
}

#[derive(Default)]
struct Extensions {
    backing_format: Option<String>,
    data_file: Option<String>,
    bitmaps: Option<BitmapsExt>,
    kept_bitmaps: Option<u32>,
    names: Vec<(u8, u8, String)>,
    rest: Vec<RawExt>,
}

impl Extensions {
    fn parse(first: &[u8], start: usize, end: usize) -> HeaderResult<Extensions> {
        let mut x = Extensions::default();
        let mut at = start;
        while at < end {
            let too_large = || qerr!("Header extension too large");
            let kind = be32(first, at).ok_or_else(too_large)?;
            let len = be32(first, at + 4).ok_or_else(too_large)?;
            at += 8;
            if at > end || len as usize > end - at {
                return Err(too_large());
            }
            if kind == spec::ext::END {
                break;
            }
            let data = &first[at..at + len as usize];
            match kind {
                spec::ext::BACKING_FORMAT => {
                    if len > 15 {
                        return Err(qerr!("ERROR: ext_backing_format: len={len} too large (>=16)"));
                    }
                    x.backing_format = Some(String::from_utf8_lossy(data).into_owned());
                }
                spec::ext::DATA_FILE => {
                    if len > spec::MAX_BACKING_NAME {
                        return Err(qerr!("The name of the external data file is too long"));
                    }
                    let name = data.split(|b| *b == 0).next().unwrap_or_default();
                    x.data_file = Some(String::from_utf8_lossy(name).into_owned());
                }
                spec::ext::BITMAPS => x.bitmaps = Some(Self::bitmaps(data)?),
                spec::ext::KEPT_BITMAPS if be32(data, 0) == Some(1) => x.kept_bitmaps = be32(data, 4),
                spec::ext::PADDING => {}
                spec::ext::CRYPTO if len != 16 => {
                    return Err(qerr!("CRYPTO header extension size {len}, but expected size 16"));
                }
                _ => {
                    if kind == spec::ext::FEATURE_NAMES {
                        for e in data.chunks_exact(spec::FEATURE_ENTRY) {
                            let name = e[2..].split(|b| *b == 0).next().unwrap_or_default();
                            x.names.push((e[0], e[1], String::from_utf8_lossy(name).into_owned()));
                        }
                    }
                    x.rest.push(RawExt { kind, data: data.to_vec() });
                }
            }
            at += (len as usize).next_multiple_of(8);
        }
        Ok(x)
    }

    fn check_crypto(&self, method: CryptMethod, cluster_size: usize) -> HeaderResult<()> {
        let found = self.rest.iter().find(|e| e.kind == spec::ext::CRYPTO);
        let Some(e) = found else {
            return match method {
                CryptMethod::Luks => Err(qerr!("Missing CRYPTO header for crypt method {}", method.number())),
                _ => Ok(()),
            };
        };
        if method != CryptMethod::Luks {
            return Err(qerr!("CRYPTO header extension only expected with LUKS encryption method"));
        }
        let Some(x) = parse_crypto(e).filter(|_| e.data.len() == 16) else {
            return Err(qerr!("CRYPTO header extension size {}, but expected size 16", e.data.len()));
        };
        if !x.offset.is_multiple_of(cluster_size as u64) {
            return Err(qerr!(
                "Encryption header offset '{}' is not a multiple of cluster size '{cluster_size}'",
                x.offset
            ));
        }
        Ok(())
    }

    fn bitmaps(data: &[u8]) -> HeaderResult<BitmapsExt> {
        if data.len() != 24 {
            return Err(qerr!("bitmaps_ext: Invalid extension length"));
        }
        let x = BitmapsExt {
            count: be32(data, 0).unwrap_or(0),
            directory_size: be64(data, 8).unwrap_or(0),
            directory_offset: be64(data, 16).unwrap_or(0),
        };
        if be32(data, 4) != Some(0) {
            return Err(qerr!("bitmaps_ext: Reserved field is not zero"));
        }
        if x.count > spec::MAX_BITMAPS {
            return Err(qerr!(
                "bitmaps_ext: image has {} bitmaps, exceeding the QEMU supported maximum of 65535",
                x.count
            ));
        }
        if x.count == 0 {
            return Err(qerr!("found bitmaps extension with zero bitmaps"));
        }
        if x.directory_size > spec::MAX_BITMAP_DIRECTORY {
            return Err(qerr!(
                "bitmaps_ext: bitmap directory size ({}) exceeds the maximum supported size ({})",
                x.directory_size,
                spec::MAX_BITMAP_DIRECTORY
            ));
        }
        Ok(x)
    }

    /// Refuses incompatible bits that Rhea cannot honour, each by its name in the image's own table where it has one.
    fn check_features(&self, incompatible: u64) -> HeaderResult<()> {
        const SUPPORTED: u64 = incompat::DIRTY
            | incompat::CORRUPT
            | incompat::DATA_FILE
            | incompat::COMPRESSION
            | incompat::EXTENDED_L2;
        let mut left = incompatible & !SUPPORTED;
        if left == 0 {
            return Ok(());
        }
        let mut said = Vec::new();
        let own = spec::FEATURE_NAMES.iter().map(|(k, b, n)| (*k, *b, (*n).to_string()));
        for (kind, bit, name) in self.names.iter().cloned().chain(own) {
            if kind == 0 && bit < 64 && left & (1 << bit) != 0 && !name.is_empty() {
                left &= !(1u64 << bit);
                said.push(name);
            }
        }
        if left != 0 {
            said.push(format!("Unknown incompatible feature: {left:x}"));
        }
        Err(qerr!("Unsupported qcow2 feature(s): {}", said.join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample() -> Header {
        let mut h = Header::new(
            3,
            Geometry { cluster_bits: 16, refcount_order: 4, extended: false, data_file: false },
            1 << 30,
            Compression::Zlib,
        );
        h.l1_size = 2;
        h.l1_offset = 0x30000;
        h.reftable_offset = 0x10000;
        h.reftable_clusters = 1;
        h.backing_file = Some("base.qcow2".into());
        h.backing_format = Some("qcow2".into());
        h
    }

    fn patched(at: usize, bytes: &[u8]) -> Vec<u8> {
        let mut b = sample().encode().unwrap();
        b[at..at + bytes.len()].copy_from_slice(bytes);
        b
    }

    #[test]
    fn a_header_survives_encoding() {
        let h = sample();
        assert_eq!(Header::parse(&h.encode().unwrap()).unwrap(), h);
        let mut z = sample();
        z.compression = Compression::Zstd;
        z.incompatible = incompat::COMPRESSION;
        z.bitmaps = Some(BitmapsExt { count: 1, directory_size: 32, directory_offset: 0x50000 });
        z.extensions.push(RawExt { kind: 0x1234_5678, data: vec![1, 2, 3] });
        assert_eq!(Header::parse(&z.encode().unwrap()).unwrap(), z);
        let v2 = Header { version: 2, length: 72, extensions: vec![], ..sample() };
        assert_eq!(Header::parse(&v2.encode().unwrap()).unwrap(), v2);
    }

    #[test]
    fn refusals_have_the_references_texts() {
        let says = |at: usize, bytes: &[u8], text: &str| {
            assert_eq!(Header::parse(&patched(at, bytes)).unwrap_err().desc(), text);
        };
        says(0, &[0; 4], "Image is not in qcow2 format");
        says(4, &4u32.to_be_bytes(), "Unsupported qcow2 version 4");
        says(20, &8u32.to_be_bytes(), "Unsupported cluster size: 2^8");
        says(20, &22u32.to_be_bytes(), "Unsupported cluster size: 2^22");
        says(100, &96u32.to_be_bytes(), "qcow2 header too short");
        says(100, &70000u32.to_be_bytes(), "qcow2 header exceeds cluster size");
        says(
            72,
            &(1u64 << 5).to_be_bytes(),
            "Unsupported qcow2 feature(s): Unknown incompatible feature: 20",
        );
        says(
            72,
            &(1u64 << 63 | 1 << 2).to_be_bytes(),
            "Unsupported qcow2 feature(s): Unknown incompatible feature: 8000000000000000",
        );
        says(96, &7u32.to_be_bytes(), "Reference count entry width too large; may not exceed 64 bits");
        says(32, &3u32.to_be_bytes(), "Unsupported encryption method 3");
        says(32, &2u32.to_be_bytes(), "Missing CRYPTO header for crypt method 2");
        says(36, &0x7fff_ffffu32.to_be_bytes(), "Active L1 table too large");
        says(36, &1u32.to_be_bytes(), "L1 table is too small");
        says(40, &0x1234u64.to_be_bytes(), "Active L1 table offset invalid");
        says(48, &0x1234u64.to_be_bytes(), "Reference count table offset invalid");
        says(56, &0xff_ffffu32.to_be_bytes(), "Reference count table too large");
        says(8, &0xf_ffff_fff0u64.to_be_bytes(), "Invalid backing file offset");
        says(16, &2000u32.to_be_bytes(), "Backing file name too long");
        says(24, &(1u64 << 63).to_be_bytes(), "Image is too big");
        says(104, &[1], "qcow2: Compression type incompatible feature bit must be set");
        says(104, &[5], "qcow2: unknown compression type: 5");
        says(116, &0xff_ffffu32.to_be_bytes(), "Header extension too large");
    }

    #[test]
    fn the_place_of_the_encryption_header() {
        let mut h = sample();
        h.crypt = CryptMethod::Luks;
        let x = CryptoExt { offset: 0x40000, length: 0x1f_9000 };
        h.extensions.insert(0, x.encode());
        let bytes = h.encode().unwrap();
        let back = Header::parse(&bytes).unwrap();
        assert_eq!((back.crypto(), &back), (Some(x), &h));
        // The backing format comes first: 8 bytes and 5, padded to 16.
        let at = 112 + 16;
        assert_eq!(bytes[at..at + 4], spec::ext::CRYPTO.to_be_bytes());
        let says = |at: usize, v: &[u8], text: &str| {
            let mut b = bytes.clone();
            b[at..at + v.len()].copy_from_slice(v);
            assert_eq!(Header::parse(&b).unwrap_err().desc(), text);
        };
        says(at + 4, &8u32.to_be_bytes(), "CRYPTO header extension size 8, but expected size 16");
        says(
            at + 8,
            &0x40200u64.to_be_bytes(),
            "Encryption header offset '262656' is not a multiple of cluster size '65536'",
        );
        let only = "CRYPTO header extension only expected with LUKS encryption method";
        says(32, &0u32.to_be_bytes(), only);
        says(32, &1u32.to_be_bytes(), only);
        says(at, &[0x77], "Missing CRYPTO header for crypt method 2");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn no_bytes_make_the_parser_panic(mut b in proptest::collection::vec(any::<u8>(), 0..700), valid: bool, bits in 9u32..=16) {
            if valid && b.len() >= 112 {
                b[0..8].copy_from_slice(&[0x51, 0x46, 0x49, 0xfb, 0, 0, 0, 3]);
                b[20..24].copy_from_slice(&bits.to_be_bytes());
                b[72..80].fill(0);
                b[100..104].copy_from_slice(&112u32.to_be_bytes());
            }
            let _ = Header::parse(&b);
        }

        #[test]
        fn one_damaged_byte_never_panics(at in 0usize..600, v: u8) {
            let mut b = sample().encode().unwrap();
            let at = at % b.len();
            b[at] = v;
            let _ = Header::parse(&b);
        }
    }
}
