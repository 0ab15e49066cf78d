//! Cross-checks with the reference's tools, both ways.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use block::bitmap::Bitmap;
use mem::IoBuf;
use rt::sim::{Rng, Sim};

use super::mem::{MemHost, options};
use super::random::{World, open, read_all};
use crate::check::{Fix, check};

pub struct Dir(pub PathBuf);

impl Dir {
    pub fn new(name: &str) -> Dir {
        let d = std::env::temp_dir().join(format!("rhea-qcow2-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&d);
        std::fs::create_dir_all(&d).unwrap();
        Dir(d)
    }
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub fn have_tools() -> bool {
    let ok = ["qemu-img", "qemu-io"].iter().all(|t| Command::new(t).arg("--version").output().is_ok());
    if !ok {
        println!("skipped: qemu-img and qemu-io are not installed");
    }
    ok
}

pub fn tool(name: &str, dir: &Path, args: &str) -> String {
    let out = Command::new(name).current_dir(dir).args(args.split_whitespace()).output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success(), "{name} {args}: {text}");
    text
}

fn pattern(len: usize, seed: u64) -> Vec<u8> {
    let mut rng = Rng::new(seed);
    let mut v = vec![0u8; len];
    // Runs of zeros, of one byte and of noise.
    for piece in v.chunks_mut(3000) {
        match rng.below(4) {
            0 => {}
            1 => piece.fill(rng.below(256) as u8),
            _ => rng.fill(piece),
        }
    }
    v
}

async fn load(path: &Path) -> World {
    let host = MemHost::new(std::fs::read(path).unwrap());
    let image = open(&host, true).await;
    World { host, image }
}

#[test]
fn images_of_the_reference_read_equal() {
    if !have_tools() {
        return;
    }
    let dir = Dir::new("read");
    let plain = pattern(700 * 1024, 1);
    std::fs::write(dir.path("plain"), &plain).unwrap();
    let mut shapes: Vec<String> = Vec::new();
    for size in ["512", "1k", "4k", "64k", "2M"] {
        shapes.push(format!("cluster_size={size}"));
    }
    for bits in [1, 2, 8, 32, 64] {
        shapes.push(format!("refcount_bits={bits},cluster_size=2k"));
    }
    shapes.push("compat=0.10,cluster_size=8k".into());
    shapes.push("compression_type=zstd,cluster_size=16k".into());
    shapes.push("lazy_refcounts=on,cluster_size=32k".into());
    for (n, shape) in shapes.iter().enumerate() {
        for compress in ["", "-c"] {
            let args = format!("convert {compress} -f raw -O qcow2 -o {shape} plain image.q");
            tool("qemu-img", &dir.0, &args);
            Sim::new(n as u64).block_on(async {
                let w = load(&dir.path("image.q")).await;
                assert!(read_all(&w).await == plain, "{args}");
                let r = check(&w.host, Fix::None, &mut |l| println!("{l}")).await.unwrap();
                assert_eq!((r.corruptions, r.leaks, r.check_errors), (0, 0, 0), "{args}");
                // And it can be changed: over plain, zero and compressed clusters.
                let mut model = plain.clone();
                let new = pattern(100_000, 9);
                w.image.write(&w.host, 51_200, IoBuf::from_bytes(&new)).await.unwrap();
                model[51_200..51_200 + new.len()].copy_from_slice(&new);
                if w.image.write_zeroes(&w.host, 300_000, 100_000, true).await.is_ok() {
                    model[300_000..400_000].fill(0);
                }
                w.image.make_clean(&w.host).await.unwrap();
                std::fs::write(dir.path("image.q"), &*w.host.file.borrow()).unwrap();
                std::fs::write(dir.path("model"), &model).unwrap();
            });
            let said = tool("qemu-img", &dir.0, "check image.q");
            assert!(said.starts_with("No errors were found"), "{args}: {said}");
            tool("qemu-img", &dir.0, "compare -f qcow2 -F raw image.q model");
        }
    }
}

#[test]
fn images_of_ours_are_sound_and_equal_for_the_reference() {
    if !have_tools() {
        return;
    }
    let dir = Dir::new("write");
    for seed in 0..14u64 {
        Sim::new(seed).block_on(async {
            let mut rng = Rng::new(seed);
            let mut o = options(512 * (200 + rng.below(4000)), 512 << (seed % 13));
            o.refcount_bits = Some(1 << (seed % 7));
            o.lazy_refcounts = Some(seed % 3 == 1);
            let host = MemHost::new(Vec::new());
            crate::create::create(&host, &o).await.unwrap();
            let image = open(&host, true).await;
            let mut model = vec![0u8; o.size as usize];
            for _ in 0..60 {
                let off = rng.below(o.size);
                let len = 1 + rng.below((o.size - off).min(60_000));
                let range = off as usize..(off + len) as usize;
                if rng.below(4) > 0 {
                    let mut data = vec![0u8; len as usize];
                    rng.fill(&mut data);
                    image.write(&host, off, IoBuf::from_bytes(&data)).await.unwrap();
                    model[range].copy_from_slice(&data);
                } else {
                    image.write_zeroes(&host, off, len, rng.below(2) == 0).await.unwrap();
                    model[range].fill(0);
                }
            }
            image.make_clean(&host).await.unwrap();
            std::fs::write(dir.path("image.q"), &*host.file.borrow()).unwrap();
            std::fs::write(dir.path("model"), &model).unwrap();
        });
        let said = tool("qemu-img", &dir.0, "check image.q");
        assert!(said.starts_with("No errors were found"), "seed {seed}: {said}");
        tool("qemu-img", &dir.0, "compare -f qcow2 -F raw image.q model");
    }
}

#[test]
fn internal_snapshots_survive_writes() {
    if !have_tools() {
        return;
    }
    let dir = Dir::new("snap");
    for shape in ["cluster_size=512", "cluster_size=4k,refcount_bits=8", "compat=0.10,cluster_size=64k"] {
        let plain = pattern(300 * 1024, 2);
        std::fs::write(dir.path("plain"), &plain).unwrap();
        tool("qemu-img", &dir.0, &format!("convert -f raw -O qcow2 -o {shape} plain image.q"));
        tool("qemu-img", &dir.0, "snapshot -c one image.q");
        let wrote =
            Command::new("qemu-io").current_dir(&dir.0).args(["-c", "write -P 7 0 64k", "image.q"]).output();
        assert!(wrote.unwrap().status.success());
        tool("qemu-img", &dir.0, "snapshot -c two image.q");
        let model = Sim::new(3).block_on(async {
            let w = load(&dir.path("image.q")).await;
            let mut model = read_all(&w).await;
            let mut rng = Rng::new(5);
            for _ in 0..40 {
                let off = rng.below(model.len() as u64 - 9000);
                let len = 1 + rng.below(9000);
                let range = off as usize..(off + len) as usize;
                match rng.below(3) {
                    0 => {
                        w.image.write_zeroes(&w.host, off, len, rng.below(2) == 0).await.unwrap();
                        model[range].fill(0);
                    }
                    _ => {
                        let mut data = vec![0u8; len as usize];
                        rng.fill(&mut data);
                        w.image.write(&w.host, off, IoBuf::from_bytes(&data)).await.unwrap();
                        model[range].copy_from_slice(&data);
                    }
                }
            }
            w.image.make_clean(&w.host).await.unwrap();
            assert_eq!(w.image.shown.read().snapshots.len(), 2);
            let r = check(&w.host, Fix::None, &mut |l| println!("{l}")).await.unwrap();
            assert_eq!((r.corruptions, r.leaks, r.check_errors), (0, 0, 0), "{shape}");
            std::fs::write(dir.path("image.q"), &*w.host.file.borrow()).unwrap();
            model
        });
        std::fs::write(dir.path("model"), &model).unwrap();
        let said = tool("qemu-img", &dir.0, "check image.q");
        assert!(said.starts_with("No errors were found"), "{shape}: {said}");
        tool("qemu-img", &dir.0, "compare -f qcow2 -F raw image.q model");
        tool("qemu-img", &dir.0, "snapshot -a one image.q");
        tool("qemu-img", &dir.0, "compare -f qcow2 -F raw image.q plain");
        tool("qemu-img", &dir.0, "snapshot -d one image.q");
        tool("qemu-img", &dir.0, "snapshot -d two image.q");
        let said = tool("qemu-img", &dir.0, "check image.q");
        assert!(said.starts_with("No errors were found"), "{shape}: {said}");
    }
}

#[test]
fn bitmaps_are_kept_both_ways() {
    if !have_tools() {
        return;
    }
    let dir = Dir::new("bitmap");
    for shape in ["cluster_size=512", "cluster_size=4k", "cluster_size=64k,refcount_bits=1"] {
        tool("qemu-img", &dir.0, &format!("create -f qcow2 -o {shape} image.q 3M"));
        tool("qemu-img", &dir.0, "bitmap --add -g 512 image.q fine");
        tool("qemu-img", &dir.0, "bitmap --add --disable image.q idle");
        let wrote = Command::new("qemu-io")
            .current_dir(&dir.0)
            .args(["-c", "write -P 7 64k 64k", "-c", "write -P 7 1M 2M", "image.q"])
            .output();
        assert!(wrote.unwrap().status.success());
        Sim::new(1).block_on(async {
            let w = load(&dir.path("image.q")).await;
            let all: Vec<Arc<Bitmap>> =
                w.image.load_bitmaps(&w.host).await.unwrap().into_iter().map(Arc::new).collect();
            let fine = all.iter().find(|b| b.name() == "fine").unwrap();
            assert!(fine.enabled() && fine.persistent() && !fine.inconsistent());
            assert_eq!(fine.next_dirty(0, u64::MAX), Some((65536, 65536)), "{shape}");
            assert_eq!(fine.next_dirty(131_072, u64::MAX), Some((1 << 20, 2 << 20)), "{shape}");
            assert!(!all.iter().any(|b| b.name() == "idle" && b.enabled()));
            let before = w.host.file.borrow().clone();
            read_all(&w).await;
            w.image.store_bitmaps(&w.host, &all).await.unwrap();
            w.image.make_clean(&w.host).await.unwrap();
            assert!(*w.host.file.borrow() == before, "reading changed the image");
            let ahead = w.image.record_ahead(&w.host, 0, 512).await.unwrap();
            w.image.write(&w.host, 0, IoBuf::from_bytes(&[1; 512])).await.unwrap();
            // Not closed: for us it is all there, and more.
            let left = w.host.file.borrow().clone();
            std::fs::write(dir.path("left.q"), &left).unwrap();
            let crashed = MemHost::new(left);
            let kept = open(&crashed, false).await.load_bitmaps(&crashed).await.unwrap();
            assert!(kept.len() == 2 && kept.iter().all(|b| !b.inconsistent()), "{shape}");
            let was = kept.iter().find(|b| b.name() == "fine").unwrap();
            assert!(was.is_dirty(0) && was.is_dirty(65536) && was.is_dirty(2 << 20), "{shape}");
            drop(ahead);
            // For the reference it is a sound image with bitmaps in use; and when it has written to it, they are so for us.
            let said = tool("qemu-img", &dir.0, "check left.q");
            assert!(said.starts_with("No errors were found"), "{shape}: {said}");
            let info = tool("qemu-img", &dir.0, "info left.q");
            assert_eq!(info.matches("in-use").count(), 2, "{info}");
            let args = ["-r", "-c", "read 0 512", "left.q"];
            let read = Command::new("qemu-io").current_dir(&dir.0).args(args).output().unwrap();
            assert!(read.status.success());
            let again = MemHost::new(std::fs::read(dir.path("left.q")).unwrap());
            let kept = open(&again, false).await.load_bitmaps(&again).await.unwrap();
            assert!(kept.iter().all(|b| !b.inconsistent()), "reading changed it");
            let args = ["-c", "write -P 9 0 64k", "left.q"];
            let wrote = Command::new("qemu-io").current_dir(&dir.0).args(args).output().unwrap();
            assert!(wrote.status.success());
            let after = MemHost::new(std::fs::read(dir.path("left.q")).unwrap());
            let lost = open(&after, false).await.load_bitmaps(&after).await.unwrap();
            assert!(lost.len() == 2 && lost.iter().all(|b| b.inconsistent()), "{shape}");
            fine.set(0, 512);
            let ours = Bitmap::new("ours", 3 << 20, 4096, true, true).unwrap();
            ours.set(8192, 4096);
            let mut all = all.clone();
            all.insert(0, Arc::new(ours));
            w.image.store_bitmaps(&w.host, &all).await.unwrap();
            w.image.make_clean(&w.host).await.unwrap();
            let r = check(&w.host, Fix::None, &mut |l| println!("{l}")).await.unwrap();
            assert_eq!((r.corruptions, r.leaks, r.check_errors), (0, 0, 0), "{shape}");
            std::fs::write(dir.path("image.q"), &*w.host.file.borrow()).unwrap();
        });
        let said = tool("qemu-img", &dir.0, "check image.q");
        assert!(said.starts_with("No errors were found"), "{shape}: {said}");
        let info = tool("qemu-img", &dir.0, "info image.q");
        assert!(
            ["fine", "idle", "ours"].iter().all(|n| info.contains(n)) && !info.contains("in-use"),
            "{info}"
        );
        // The reference reads what we stored: it adds ours to its own, and we read that.
        tool("qemu-img", &dir.0, "bitmap --add -g 512 image.q sum");
        tool("qemu-img", &dir.0, "bitmap --merge ours image.q sum");
        tool("qemu-img", &dir.0, "bitmap --merge fine image.q sum");
        Sim::new(1).block_on(async {
            let w = load(&dir.path("image.q")).await;
            let all = w.image.load_bitmaps(&w.host).await.unwrap();
            let sum = all.iter().find(|b| b.name() == "sum").unwrap();
            assert_eq!(sum.next_dirty(0, u64::MAX), Some((0, 512)));
            assert_eq!(sum.next_dirty(512, u64::MAX), Some((8192, 4096)));
            assert_eq!(sum.next_dirty(12288, u64::MAX), Some((65536, 65536)));
            w.image.remove_stored_bitmap(&w.host, "idle").await.unwrap();
            w.image.make_clean(&w.host).await.unwrap();
            std::fs::write(dir.path("image.q"), &*w.host.file.borrow()).unwrap();
        });
        let said = tool("qemu-img", &dir.0, "check image.q");
        assert!(said.starts_with("No errors were found"), "{shape}: {said}");
        assert!(!tool("qemu-img", &dir.0, "info image.q").contains("idle"));
    }
}
