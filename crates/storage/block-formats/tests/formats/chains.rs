//! Backing files and compressed images, both ways with the reference.

use crate::bed::*;
use base::Errno;
use block::driver::WriteFlags;
use mem::IoBuf;
use rt::sim::Rng;

/// Bytes that compress, with some zeroes among them.
fn content(len: usize) -> Vec<u8> {
    let mut rng = Rng::new(7);
    let mut out = Vec::with_capacity(len);
    while out.len() < len {
        let byte = rng.below(5) as u8;
        let n = rng.range(1, 200_000) as usize;
        out.extend((0..n).map(|i| if byte == 0 { 0 } else { byte ^ (i / 100) as u8 }));
    }
    out.truncate(len);
    out
}

fn over(format: &str, path: &str) -> api::block_core::BlockdevOptions {
    options(&format!(
        "{{'driver':'{format}','node-name':'n','discard':'unmap','file':{{'driver':'file','filename':'{path}'}}}}"
    ))
}

#[test]
fn overlays_copy_what_they_leave() {
    if !have_reference() {
        return;
    }
    let dir = Dir::new("formats-overlays");
    let base = content(3 << 20);
    let raw = dir.path("base.raw");
    std::fs::write(&raw, &base).unwrap();
    for format in ["qcow", "qed", "vmdk"] {
        rt::block_on(async {
            let below = dir.path(&format!("base.{format}"));
            must("qemu-img", &["convert", "-f", "raw", "-O", format, &raw, &below]);
            let path = dir.path(&format!("over.{format}"));
            must("qemu-img", &["create", "-q", "-f", format, "-F", format, "-b", &below, &path]);
            let (g, root) = opened(over(format, &path)).await;
            let mut disk = base.clone();
            same(&read(&root, 0, disk.len()).await, &disk, "through the overlay");
            for (off, n) in [(0, 512), (700_000, 100), (65_536, 65_536), (2_000_000, 300_000)] {
                root.write(off as u64, IoBuf::from_bytes(&vec![0xa7; n]), WriteFlags::empty()).await.unwrap();
                disk[off..off + n].fill(0xa7);
            }
            for (off, n) in [(131_072, 131_072), (1_500_000, 5000)] {
                root.write_zeroes(off, n, block::driver::ZeroFlags::MAY_UNMAP).await.unwrap();
                disk[off as usize..(off + n) as usize].fill(0);
            }
            same(&read(&root, 0, disk.len()).await, &disk, "ours");
            closed(g, root).await;
            same(&reference_bytes(&dir, format, &path), &disk, "theirs");
        });
    }
}

#[test]
fn a_vmdk_overlay_knows_its_parent() {
    if !have_reference() {
        return;
    }
    let dir = Dir::new("formats-cid");
    let (below, path) = (dir.path("base.vmdk"), dir.path("over.vmdk"));
    must("qemu-img", &["create", "-q", "-f", "vmdk", &below, "1M"]);
    must("qemu-img", &["create", "-q", "-f", "vmdk", "-F", "vmdk", "-b", &below, &path]);
    rt::block_on(async {
        let (g, root) = opened(over("vmdk", &path)).await;
        assert_eq!(read(&root, 0, 1).await, [0]);
        closed(g, root).await;
        // A write changes the parent's id: what the overlay shows would be something else.
        let (g, root) = opened(over("vmdk", &below)).await;
        root.write(0, IoBuf::from_bytes(&[1; 512]), WriteFlags::empty()).await.unwrap();
        closed(g, root).await;
        let (g, root) = opened(over("vmdk", &path)).await;
        assert_eq!(root.read(0, IoBuf::zeroed(512)).await, Err(Errno::INVAL));
        closed(g, root).await;
        let theirs = tool("qemu-io", &["-f", "vmdk", "-c", "read 0 512", &path]);
        assert!(String::from_utf8_lossy(&theirs.stdout).contains("failed"), "{theirs:?}");
    });
}

#[test]
fn compressed_images_are_read_and_written() {
    if !have_reference() {
        return;
    }
    let dir = Dir::new("formats-packed");
    let disk = content(2 << 20);
    let raw = dir.path("disk.raw");
    std::fs::write(&raw, &disk).unwrap();
    for (format, make, unit) in
        [("vmdk", "subformat=streamOptimized", 65536), ("qcow", "encryption=off", 4096)]
    {
        let c = Case { size: disk.len() as u64, ..CASES[0] };
        let c = Case { format, make, ..c };
        rt::block_on(async {
            let path = dir.path("theirs");
            let mut theirs = disk.clone();
            if format == "vmdk" {
                must("qemu-img", &["convert", "-f", "raw", "-O", format, "-o", make, &raw, &path]);
            } else {
                // Its converter makes no compressed qcow images.
                let (a, b) = ("write -q -c -P 7 0 4096", "write -q -c -P 9 8192 4096");
                must("qemu-img", &["create", "-q", "-f", format, &path, &disk.len().to_string()]);
                must("qemu-io", &["-f", format, "-c", a, "-c", b, &path]);
                theirs.fill(0);
                theirs[..4096].fill(7);
                theirs[8192..12_288].fill(9);
            }
            let (g, root) = opened(over(format, &path)).await;
            same(&read(&root, 0, disk.len()).await, &theirs, "of theirs");
            let compressed = root.map(0, disk.len() as u64).await.unwrap().compressed;
            assert_eq!(compressed, theirs[..unit].iter().any(|b| *b != 0));
            closed(g, root).await;

            let path = made_by_us(&dir, &c).await;
            let (g, root) = opened(over(format, &path)).await;
            for (i, part) in disk.chunks(unit).enumerate().filter(|(_, p)| p.iter().any(|b| *b != 0)) {
                let buf = IoBuf::from_bytes(part);
                root.write((i * unit) as u64, buf, WriteFlags::COMPRESSED).await.unwrap();
            }
            same(&read(&root, 0, disk.len()).await, &disk, "of ours");
            if format == "vmdk" {
                let buf = || IoBuf::zeroed(512);
                assert_eq!(root.write(512, buf(), WriteFlags::empty()).await, Err(Errno::IO));
            } else {
                root.write(1000, IoBuf::from_bytes(&disk[1000..9000]), WriteFlags::empty()).await.unwrap();
                same(&read(&root, 0, disk.len()).await, &disk, "partly plain again");
            }
            closed(g, root).await;
            same(&reference_bytes(&dir, format, &path), &disk, "of ours, read by them");
        });
    }
}
