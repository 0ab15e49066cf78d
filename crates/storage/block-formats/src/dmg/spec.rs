//! The layout of Apple's disk images (UDIF): a trailer (`koly`) at the end of the file leads to a property list in XML, or
//! to a resource fork; in it are tables (`mish`), each with the chunks of a part of the disk. Everything is big-endian.

use crate::fields::{be32, be64};

/// Length of the trailer, bytes.
pub const TRAILER: usize = 512;
/// The first bytes of a table of chunks.
pub const MISH: &[u8] = b"mish";
/// Where a table's chunks begin.
pub const CHUNKS_AT: usize = 204;
/// Length of a chunk's description, bytes.
pub const CHUNK: usize = 40;
/// The most bytes that a chunk takes, packed or not.
pub const MAX_CHUNK: u64 = 64 << 20;
/// The longest property list or resource fork that is read, bytes.
pub const MAX_LIST: u64 = 16 << 20;

/// Kinds of chunks.
pub mod kind {
    /// Zeroes.
    pub const ZERO: u32 = 0;
    /// Plain bytes.
    pub const RAW: u32 = 1;
    /// Nobody cares: zeroes.
    pub const IGNORE: u32 = 2;
    /// zlib.
    pub const ZLIB: u32 = 0x8000_0005;
    /// bzip2.
    pub const BZIP2: u32 = 0x8000_0006;
    /// LZFSE.
    pub const LZFSE: u32 = 0x8000_0007;
    /// A remark.
    pub const COMMENT: u32 = 0x7fff_fffe;
    /// The end of a table.
    pub const END: u32 = 0xffff_ffff;
}

/// What of the trailer counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trailer {
    /// Where chunks are counted from.
    pub data_offset: u64,
    /// The resource fork.
    pub fork: (u64, u64),
    /// The property list.
    pub xml: (u64, u64),
    /// Sectors of the disk.
    pub sectors: u64,
}

impl Trailer {
    /// Reads a trailer; `None` if it is none.
    pub fn parse(b: &[u8]) -> Option<Trailer> {
        if !b.starts_with(b"koly") {
            return None;
        }
        Some(Trailer {
            data_offset: be64(b, 24)?,
            fork: (be64(b, 40)?, be64(b, 48)?),
            xml: (be64(b, 216)?, be64(b, 224)?),
            sectors: be64(b, 492)?,
        })
    }
}

/// A piece of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// How it is stored.
    pub kind: u32,
    /// Where on the disk, bytes.
    pub start: u64,
    /// How long, bytes.
    pub len: u64,
    /// Where in the file.
    pub host: u64,
    /// How long there, bytes.
    pub stored: u64,
}

/// The chunks of a table; `None` where it is broken. Kinds that are not known are left out, and the last of them told.
pub fn chunks(b: &[u8], data_offset: u64) -> Option<(Vec<Chunk>, Option<u32>)> {
    if !b.starts_with(MISH) {
        return None;
    }
    let first = be64(b, 8)?;
    let base = data_offset.checked_add(be64(b, 24)?)?;
    let mut out = Vec::new();
    let mut strange = None;
    for c in b.get(CHUNKS_AT..)?.chunks_exact(CHUNK) {
        let kind = be32(c, 0)?;
        match kind {
            kind::END => break,
            kind::COMMENT => continue,
            kind::ZERO | kind::RAW | kind::IGNORE | kind::ZLIB | kind::BZIP2 | kind::LZFSE => {}
            other => {
                strange = Some(other);
                continue;
            }
        }
        let sector = first.checked_add(be64(c, 8)?)?;
        let chunk = Chunk {
            kind,
            start: sector.checked_mul(512)?,
            len: be64(c, 16)?.checked_mul(512)?,
            host: base.checked_add(be64(c, 24)?)?,
            stored: be64(c, 32)?,
        };
        let placed = [chunk.start.checked_add(chunk.len)?, chunk.host.checked_add(chunk.stored)?];
        if placed.into_iter().any(|end| end > block::MAX_OFFSET) {
            return None;
        }
        if chunk.len > 0 {
            out.push(chunk);
        }
    }
    Some((out, strange))
}

/// Reads base64 text; what is no letter of it is skipped.
pub fn base64(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() / 4 * 3);
    let (mut word, mut bits) = (0u32, 0);
    for c in text {
        let v = match c {
            b'A'..=b'Z' => c - b'A',
            b'a'..=b'z' => c - b'a' + 26,
            b'0'..=b'9' => c - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => continue,
        };
        word = word << 6 | u32::from(v);
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            out.push((word >> bits) as u8);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_read() {
        assert_eq!(base64(b"Zm9v\n YmFy"), b"foobar");
        assert_eq!(base64(b"Zm9vYg=="), b"foob");
    }
}
