//! `qcow`: the first version of qcow.
//!
//! Its encryption is the old one, which is not safe: a machine refuses such images, tools read and write them.

mod create;
pub mod spec;

use self::spec::{COMPRESSED, HEADER, Header, MAGIC, VERSION};
use crate::Fault;
use crate::blockmap::{At, Cipher, Format, Io, Map, Slot, Space, TwoLevel};
use crate::fields::be32;
use api::block_core::{BlockdevDriverOptions, BlockdevQcowEncryption};
use api::crypto::QCryptoBlockOptionsQCow;
use base::{Errno, IoResult};
use block::driver::{BackingHint, CtlFuture, Cx, DriverInfo, DriverType, Kind, OpenCx, default_child_perm};
use block_crypto::Transform;
use flate2::{Compress, Decompress, FlushCompress, FlushDecompress, Status};
use qapi::{QError, qerr};

/// `qcow`.
pub static QCOW: DriverType = DriverType {
    name: "qcow",
    kind: Kind::Format,
    supports_backing: true,
    supports_reopen: true,
    children: crate::file_and_backing,
    child_perm: default_child_perm,
    open: crate::blockmap::open_format::<Qcow>,
    probe: Some(probe),
    create: Some(&create::CREATION),
    may_compress: true,
    ..DriverType::BASE
};

fn probe(b: &[u8], _name: &str) -> u32 {
    if be32(b, 0) == Some(MAGIC) && be32(b, 4) == Some(VERSION) { 100 } else { 0 }
}

/// An open image.
pub struct Qcow {
    header: Header,
    tables: TwoLevel,
    backing: Option<String>,
    cipher: Option<Cipher>,
}

fn supported(h: &Header) -> Result<(), QError> {
    if h.magic != MAGIC {
        return Err(QError::new("Image not in qcow format"));
    }
    if h.version != VERSION {
        let e = qerr!("qcow (v{VERSION}) does not support qcow version {}", h.version);
        return Err(if matches!(h.version, 2 | 3) {
            e.with_hint("Try the 'qcow2' driver instead.\n")
        } else {
            e
        });
    }
    if h.size <= 1 {
        return Err(QError::new("Image size is too small (must be at least 2 bytes)"));
    }
    if !(9..=16).contains(&h.cluster_bits) {
        return Err(QError::new("Cluster size must be between 512 and 64k"));
    }
    if !(6..=13).contains(&h.table_bits) {
        return Err(QError::new("L2 table size must be between 512 and 64k"));
    }
    match h.crypt {
        0 | spec::CRYPT_AES => {}
        _ => return Err(QError::new("invalid encryption method in qcow header")),
    }
    let coverage = 1u64 << (h.cluster_bits + h.table_bits);
    if h.size > block::MAX_OFFSET || h.size.div_ceil(coverage) > i32::MAX as u64 / 8 {
        return Err(QError::new("Image too large"));
    }
    if h.directory > block::MAX_OFFSET / 2 || !h.directory.is_multiple_of(8) {
        return Err(QError::new("Image not in qcow format"));
    }
    Ok(())
}

/// How the data is encrypted, with the key that the options name.
fn cipher(h: &Header, o: &OpenCx<'_>) -> Result<Option<Cipher>, QError> {
    let given = match &o.options.driver {
        BlockdevDriverOptions::Qcow(q) => q.encrypt.as_ref(),
        _ => None,
    };
    if h.crypt == 0 {
        return match given {
            Some(_) => Err(qerr!("No encryption in image header, but options specified format 'aes'")),
            None => Ok(None),
        };
    }
    if o.machine {
        let e = qerr!("Use of AES-CBC encrypted qcow images is no longer supported in system emulators");
        return Err(e.with_hint(
            "You can use 'qemu-img convert' to convert your image to an alternative supported format, such as \
             unencrypted qcow, or raw with the LUKS format instead.\n",
        ));
    }
    if o.no_io {
        return Ok(Some(Cipher::new(None)));
    }
    let Some(BlockdevQcowEncryption::Aes(QCryptoBlockOptionsQCow { key_secret: Some(id) })) = given else {
        return Err(qerr!("Parameter 'encrypt.key-secret' is required for cipher"));
    };
    let objects = o.objects.as_ref().ok_or_else(|| qerr!("No secret with id '{id}'"))?;
    Ok(Some(Cipher::new(Some(Transform::old_qcow(&objects.password(id)?)?))))
}

impl Qcow {
    fn cluster(&self) -> u64 {
        1 << self.header.cluster_bits
    }

    /// Where a compressed cluster is, and how long it is.
    fn packed(&self, entry: u64) -> (u64, u64) {
        let shift = 63 - u32::from(self.header.cluster_bits);
        (entry & ((1 << shift) - 1), (entry & !COMPRESSED) >> shift)
    }
}

impl Map for Qcow {
    const BACKING: bool = true;

    fn disk_len(&self) -> u64 {
        // What is encrypted is whole sectors.
        self.header.size & if self.cipher.is_some() { !511 } else { !0 }
    }

    fn cipher(&self) -> Option<&Cipher> {
        self.cipher.as_ref()
    }

    fn block_size(&self) -> u64 {
        self.cluster()
    }

    async fn find(&self, at: &At<'_>, block: u64, max: u64) -> IoResult<(Slot, u64)> {
        self.tables
            .find(at, block, max, self.cluster(), |e| {
                Ok(match e {
                    0 => Slot::Unallocated,
                    e if e & COMPRESSED != 0 => Slot::Packed(e),
                    e => Slot::Data(e),
                })
            })
            .await
    }

    async fn reserve(&self, at: &At<'_>, space: &mut Space, block: u64, count: u64) -> IoResult<(u64, u64)> {
        // Tables lie before the clusters that they lead to.
        self.tables.made(at, space, block).await?;
        let count = count.min(self.tables.entries - block % self.tables.entries);
        space.next = space.next.next_multiple_of(self.cluster());
        Ok((space.take(count * self.cluster())?, count))
    }

    async fn link(&self, at: &At<'_>, space: &mut Space, block: u64, count: u64, host: u64) -> IoResult<()> {
        for i in 0..count {
            self.tables.set(at, space, block + i, host + i * self.cluster()).await?;
        }
        Ok(())
    }

    fn compresses(&self) -> bool {
        true
    }

    fn pack(_: u64, plain: &[u8]) -> IoResult<Option<Vec<u8>>> {
        let mut out = Vec::with_capacity(plain.len());
        let mut z = Compress::new_with_window_bits(flate2::Compression::default(), false, spec::WINDOW_BITS);
        let status = z.compress_vec(plain, &mut out, FlushCompress::Finish).map_err(|_| Errno::IO)?;
        Ok((status == Status::StreamEnd && out.len() < plain.len()).then_some(out))
    }

    async fn link_packed(&self, at: &At<'_>, space: &mut Space, block: u64, packed: Vec<u8>) -> IoResult<()> {
        let len = packed.len() as u64;
        let host = space.take(len)?;
        let shift = 63 - u32::from(self.header.cluster_bits);
        if host + len >= 1 << shift {
            return Err(Errno::FBIG);
        }
        at.io.write_bytes(host, &packed).await?;
        self.tables.set(at, space, block, COMPRESSED | len << shift | host).await
    }

    async fn unpack(&self, at: &At<'_>, _: u64, key: u64) -> IoResult<Vec<u8>> {
        let (host, len) = self.packed(key);
        let raw = at.io.read_vec(host, len as usize).await?;
        let size = self.cluster() as usize;
        rt::unblock(move || {
            let mut out = vec![0; size];
            let mut z = Decompress::new(false);
            match z.decompress(&raw, &mut out, FlushDecompress::Finish) {
                Ok(_) if z.total_out() == size as u64 => Ok(out),
                _ => Err(Errno::IO),
            }
        })
        .await
    }
}

impl Format for Qcow {
    fn open<'a>(o: &'a OpenCx<'a>) -> CtlFuture<'a, (Qcow, Space)> {
        Box::pin(async move {
            let io = Io::file(&o.cx);
            let fail = |e: Errno| qerr!("Could not read the qcow header: {e}");
            let header = Header::parse(&io.read_array::<HEADER>(0).await.map_err(fail)?);
            supported(&header)?;
            let cipher = cipher(&header, o)?;
            let mut backing = None;
            if header.backing_offset != 0 {
                let len = header.backing_len;
                if len > spec::MAX_NAME {
                    return Err(QError::new("Backing file name too long"));
                }
                if header.backing_offset > block::MAX_OFFSET / 2 {
                    return Err(Fault::Plain(Errno::IO).of(&o.cx));
                }
                let name = io.read_vec(header.backing_offset, len as usize).await.map_err(fail)?;
                let name = String::from_utf8(name).map_err(|_| QError::new("Invalid backing file name"))?;
                backing = Some(name).filter(|n| !n.is_empty());
            }
            let cluster = 1 << header.cluster_bits;
            let tables = TwoLevel {
                directory: header.directory,
                entries: 1 << header.table_bits,
                align: cluster,
                big_endian: true,
            };
            let len = io.file_len().map_err(fail)?;
            let covered = header.size.div_ceil(cluster << header.table_bits);
            let next = len.max(header.directory + 8 * covered);
            Ok((Qcow { header, tables, backing, cipher }, Space { next, zero_from: len }))
        })
    }

    fn info(&self, _cx: &Cx<'_>) -> DriverInfo {
        let encrypted = self.cipher.is_some().then_some(true);
        DriverInfo {
            cluster_size: Some(self.cluster()),
            dirty: Some(false),
            encrypted,
            ..DriverInfo::default()
        }
    }

    fn backing_hint(&self) -> Option<BackingHint> {
        self.backing.clone().map(|filename| BackingHint { filename, format: None })
    }
}
