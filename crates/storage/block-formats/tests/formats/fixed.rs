//! Formats that can only be read, in images made here, and what the reference reads in them.

use crate::bed::*;
use flate2::{Compression, write::ZlibEncoder};
use std::io::Write;

fn zlib(bytes: &[u8]) -> Vec<u8> {
    let mut z = ZlibEncoder::new(Vec::new(), Compression::default());
    z.write_all(bytes).unwrap();
    z.finish().unwrap()
}

async fn reads(format: &str, path: &str) -> Vec<u8> {
    let (g, root) = opened_read_only(format, path).await;
    let bytes = read(&root, 0, root.len() as usize).await;
    closed(g, root).await;
    bytes
}

async fn opened_read_only(
    format: &str,
    path: &str,
) -> (std::sync::Arc<block::BlockGraph>, std::sync::Arc<block::Root>) {
    let node = options(&format!(
        "{{'driver':'{format}','node-name':'n','read-only':true,'file':{{'driver':'file','filename':'{path}'}}}}"
    ));
    let g = graph(&drivers());
    g.add(node).await.expect("a node");
    let root = attach(&g, "n", block::Perm::CONSISTENT_READ, block::Perm::all()).await.expect("a root");
    (g, root)
}

/// What the node of such a file says when it is opened.
async fn refused(format: &str, path: &str, more: &str) -> String {
    let node = options(&format!(
        "{{'driver':'{format}','node-name':'n'{more},'file':{{'driver':'file','filename':'{path}'}}}}"
    ));
    let g = graph(&drivers());
    let e = g.add(node).await.unwrap_err();
    e.desc().to_owned()
}

fn compared(dir: &Dir, format: &str, path: &str, want: &[u8]) {
    if have_reference() {
        same(&reference_bytes(dir, format, path), want, "theirs");
    }
}

/// A growing disk of two extents, the second of which is there, in part.
fn bochs(v2: bool) -> (Vec<u8>, Vec<u8>) {
    let (extent, catalog) = (64 << 10, 2u32);
    let mut image = vec![0; 512];
    image[..22].copy_from_slice(b"Bochs Virtual HD Image");
    image[32..39].copy_from_slice(b"Redolog");
    image[48..55].copy_from_slice(b"Growing");
    let disk = 100 << 10;
    let mut put = |at: usize, v: &[u8]| image[at..at + v.len()].copy_from_slice(v);
    put(64, &if v2 { 0x20000u32 } else { 0x10000 }.to_le_bytes());
    put(68, &512u32.to_le_bytes());
    put(72, &catalog.to_le_bytes());
    put(76, &512u32.to_le_bytes());
    put(80, &(extent as u32).to_le_bytes());
    put(if v2 { 88 } else { 84 }, &(disk as u64).to_le_bytes());
    image.extend([u32::MAX.to_le_bytes(), 0u32.to_le_bytes()].concat());
    let mut bitmap = vec![0; 512];
    let mut plain = vec![0; disk];
    let mut data = vec![0; extent];
    for s in [0usize, 1, 2, 9, 17, 60] {
        bitmap[s / 8] |= 1 << (s % 8);
        data[s * 512..(s + 1) * 512].fill(s as u8 + 1);
        plain[extent + s * 512..extent + (s + 1) * 512].fill(s as u8 + 1);
    }
    // What no bit stands for is not shown.
    data[20 * 512..21 * 512].fill(0xee);
    image.extend(bitmap);
    image.extend(data);
    (image, plain)
}

#[test]
fn bochs_disks_are_read() {
    let dir = Dir::new("formats-bochs");
    for v2 in [false, true] {
        let (image, mut plain) = bochs(v2);
        plain.truncate(100 << 10);
        let path = dir.path("bochs");
        std::fs::write(&path, &image).unwrap();
        rt::block_on(async {
            same(&reads("bochs", &path).await, &plain, "ours");
            assert_eq!(refused("bochs", &path, "").await, "Image is read-only");
        });
        compared(&dir, "bochs", &path, &plain);
        for (at, bytes, text) in [
            (80, 100u32, "Extent size must be at least 512"),
            (80, 1 << 24, "Extent size 16777216 is too large"),
            (80, 65537, "Extent size 65537 is not a power of two"),
            (72, 1, "Catalog size is too small for this disk size"),
            (72, 0x7fff_ffff, "Catalog size is too large"),
        ] {
            let mut bad = image.clone();
            bad[at..at + 4].copy_from_slice(&bytes.to_le_bytes());
            std::fs::write(&path, &bad).unwrap();
            let said = rt::block_on(refused("bochs", &path, ",'read-only':true"));
            assert_eq!(said, text);
        }
    }
}

fn cloop(block: usize, disk: &[u8]) -> Vec<u8> {
    let mut image =
        b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop file=$0 && mount -r -t iso9660 /dev/cloop $1\n".to_vec();
    image.resize(128, 0);
    let packed: Vec<Vec<u8>> = disk.chunks(block).map(zlib).collect();
    image.extend((block as u32).to_be_bytes());
    image.extend((packed.len() as u32).to_be_bytes());
    let mut at = 136 + 8 * (packed.len() as u64 + 1);
    for p in &packed {
        image.extend(at.to_be_bytes());
        at += p.len() as u64;
    }
    image.extend(at.to_be_bytes());
    packed.iter().for_each(|p| image.extend(p));
    image
}

#[test]
fn cloop_images_are_read() {
    let dir = Dir::new("formats-cloop");
    let disk: Vec<u8> = (0..40 * 4096).map(|i| (i / 333) as u8).collect();
    let image = cloop(4096, &disk);
    let path = dir.path("cloop");
    std::fs::write(&path, &image).unwrap();
    rt::block_on(async {
        same(&reads("cloop", &path).await, &disk, "ours");
        compared(&dir, "cloop", &path, &disk);
        for (at, n, text) in [
            (128, 0u32, "block_size cannot be zero"),
            (128, 513, "block_size 513 must be a multiple of 512"),
            (128, 1 << 30, "block_size 1073741824 must be 64 MB or less"),
            (132, u32::MAX, "n_blocks 4294967295 must be 536870911 or less"),
            (132, 0x1fff_fffe, "image requires too many offsets, try increasing block size"),
            (136 + 16, 0, "offsets not monotonically increasing at index 2, image file is corrupt"),
        ] {
            let mut bad = image.clone();
            bad[at..at + 4].copy_from_slice(&n.to_be_bytes());
            if n == 0 && at > 128 {
                bad[at + 4..at + 8].fill(0);
            }
            std::fs::write(&path, &bad).unwrap();
            assert_eq!(refused("cloop", &path, ",'read-only':true").await, text);
        }
    });
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for c in bytes.chunks(3) {
        let word = u32::from(c[0]) << 16
            | u32::from(*c.get(1).unwrap_or(&0)) << 8
            | u32::from(*c.get(2).unwrap_or(&0));
        for i in 0..4 {
            out.push(if i <= c.len() { LETTERS[(word >> (18 - 6 * i) & 63) as usize] as char } else { '=' });
        }
    }
    out
}

/// An image with a chunk of each kind.
fn dmg(disk: &[u8], kinds: &[u32]) -> Vec<u8> {
    let piece = disk.len() / kinds.len() / 512 * 512;
    let mut image = Vec::new();
    let mut table = vec![0; 204];
    table[..4].copy_from_slice(b"mish");
    table[16..24].copy_from_slice(&((piece * kinds.len() / 512) as u64).to_be_bytes());
    table[200..204].copy_from_slice(&(kinds.len() as u32 + 1).to_be_bytes());
    let chunk = |table: &mut Vec<u8>, kind: u32, start: usize, len: usize, at: usize, stored: usize| {
        table.extend(kind.to_be_bytes());
        table.extend([0; 4]);
        for v in [start / 512, len / 512, at, stored] {
            table.extend((v as u64).to_be_bytes());
        }
    };
    for (i, kind) in kinds.iter().enumerate() {
        let plain = &disk[i * piece..(i + 1) * piece];
        let stored = match kind {
            1 => plain.to_vec(),
            0x8000_0005 => zlib(plain),
            0x8000_0006 => {
                let mut z = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::best());
                z.write_all(plain).unwrap();
                z.finish().unwrap()
            }
            0x8000_0007 => {
                let mut out = Vec::new();
                lzfse_rust::encode_bytes(plain, &mut out).unwrap();
                out
            }
            _ => Vec::new(),
        };
        chunk(&mut table, *kind, i * piece, piece, image.len(), stored.len());
        image.extend(stored);
    }
    chunk(&mut table, u32::MAX, kinds.len() * piece, 0, image.len(), 0);
    let xml = format!(
        "<plist><dict><key>blkx</key><array><dict><data>\n{}\n</data></dict></array></dict></plist>",
        base64(&table)
    );
    let at = image.len() as u64;
    image.extend(xml.as_bytes());
    let mut koly = vec![0; 512];
    koly[..4].copy_from_slice(b"koly");
    koly[4..8].copy_from_slice(&4u32.to_be_bytes());
    koly[8..12].copy_from_slice(&512u32.to_be_bytes());
    koly[216..224].copy_from_slice(&at.to_be_bytes());
    koly[224..232].copy_from_slice(&(xml.len() as u64).to_be_bytes());
    koly[492..500].copy_from_slice(&((piece * kinds.len() / 512) as u64).to_be_bytes());
    image.extend(koly);
    image
}

#[test]
fn dmg_images_are_read() {
    let dir = Dir::new("formats-dmg");
    // Raw, zeroes and zlib are in every build of the reference.
    for (kinds, both) in [
        (&[1, 0x8000_0005, 0, 0x8000_0005, 2][..], true),
        (&[0x8000_0006, 0x8000_0007, 0x8000_0006, 1, 0x8000_0007][..], false),
    ] {
        let mut disk: Vec<u8> = (0..5 * 200 * 512).map(|i| (i / 777 % 251) as u8 + 1).collect();
        for (i, _) in kinds.iter().enumerate().filter(|(_, k)| [0, 2].contains(*k)) {
            disk[i * 200 * 512..(i + 1) * 200 * 512].fill(0);
        }
        let path = dir.path("disk.dmg");
        std::fs::write(&path, dmg(&disk, kinds)).unwrap();
        rt::block_on(async { same(&reads("dmg", &path).await, &disk, "ours") });
        if both {
            compared(&dir, "dmg", &path, &disk);
        }
    }
    let path = dir.path("none.dmg");
    std::fs::write(&path, vec![0; 5000]).unwrap();
    let said = rt::block_on(refused("dmg", &path, ",'read-only':true"));
    assert_eq!(said, "Could not locate UDIF trailer in dmg file");
}
