//! Cross-checks with the reference's tools, both ways.

use std::path::{Path, PathBuf};
use std::process::Command;

use mem::IoBuf;
use rt::sim::{Rng, Sim};

use super::mem::{MemHost, options};
use super::random::{World, open, read_all};
use crate::check::{Fix, check};

struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Dir {
        let d = std::env::temp_dir().join(format!("rhea-qcow2-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&d);
        std::fs::create_dir_all(&d).unwrap();
        Dir(d)
    }
    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn have_tools() -> bool {
    let ok = ["qemu-img", "qemu-io"].iter().all(|t| Command::new(t).arg("--version").output().is_ok());
    if !ok {
        println!("skipped: qemu-img and qemu-io are not installed");
    }
    ok
}

fn tool(name: &str, dir: &Path, args: &str) -> String {
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
fn bitmaps_stay_and_are_told_to_be_out_of_date() {
    if !have_tools() {
        return;
    }
    let dir = Dir::new("bitmap");
    tool("qemu-img", &dir.0, "create -f qcow2 image.q 1M");
    tool("qemu-img", &dir.0, "bitmap --add image.q b0");
    Sim::new(1).block_on(async {
        let w = load(&dir.path("image.q")).await;
        assert_eq!(w.image.shown.read().bitmaps[0].name, "b0");
        let before = w.host.file.borrow().clone();
        read_all(&w).await;
        w.image.flush(&w.host).await.unwrap();
        w.image.make_clean(&w.host).await.unwrap();
        assert!(*w.host.file.borrow() == before, "reading changed the image");
        w.image.write(&w.host, 0, IoBuf::from_bytes(&[1; 512])).await.unwrap();
        assert_eq!(w.image.header().autoclear, 0);
        assert!(w.image.header().bitmaps.is_some());
        w.image.make_clean(&w.host).await.unwrap();
        std::fs::write(dir.path("image.q"), &*w.host.file.borrow()).unwrap();
    });
    // The reference drops what is out of date; nothing else is wrong.
    tool("qemu-img", &dir.0, "check -r leaks image.q");
}
