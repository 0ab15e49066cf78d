//! Extended L2 entries and external data files: against a flat model, against crashes, and against the reference's tools.

use std::cell::RefCell;

use block::driver::Prealloc;
use mem::IoBuf;
use rt::sim::{Rng, Sim};

use super::crash::crashed;
use super::mem::{MemHost, options};
use super::random::{World, no_errors, open, read_all};
use super::reference::{Dir, have_tools, tool};
use crate::check::{Fix, check};
use crate::host::Host;
use crate::image::Image;
use crate::opts::Config;
use crate::snapshot::Snapshot;

fn extended(size: u64, cluster: u64) -> api::block_core::BlockdevCreateOptionsQcow2 {
    let mut o = options(size, cluster);
    o.extended_l2 = Some(true);
    o
}

/// One random request, applied to the image and to the model.
async fn request(w: &World, model: &mut Vec<u8>) {
    let rng = rt::sim::rng();
    let size = model.len() as u64;
    let off = rng.below(size);
    let len = 1 + rng.below((size - off).min(1 << (1 + rng.below(17))));
    let range = off as usize..(off + len) as usize;
    match rng.below(12) {
        0..=5 => {
            let mut data = vec![0u8; len as usize];
            rng.fill(&mut data);
            w.image.write(&w.host, off, IoBuf::from_bytes(&data)).await.unwrap();
            model[range].copy_from_slice(&data);
        }
        6 | 7 => {
            w.image.write_zeroes(&w.host, off, len, rng.below(2) == 0).await.unwrap();
            model[range].fill(0);
        }
        8 => {
            w.image.discard(&w.host, off, len).await.unwrap();
            let cs = w.image.geometry().cluster_size();
            let first = off.next_multiple_of(cs);
            let last = if off + len == size { size } else { (off + len) / cs * cs };
            if first < last {
                model[first as usize..last as usize].fill(0);
            }
        }
        9 => w.image.flush(&w.host).await.unwrap(),
        10 if w.host.backing.is_none() => {
            let new = 512 * (1 + rng.below(1500));
            w.image.truncate(&w.host, new, Prealloc::Off).await.unwrap();
            model.resize(new as usize, 0);
        }
        _ => {
            let buf = IoBuf::zeroed(len as usize);
            w.image.read_guest(&w.host, off, buf.clone()).await.unwrap();
            assert!(buf.to_vec() == model[range], "bytes {off}+{len} differ");
        }
    }
}

#[test]
fn subclusters_equal_a_flat_model() {
    for seed in 0..40u64 {
        Sim::new(seed).block_on(async {
            let rng = rt::sim::rng();
            let size = 512 * (1 + rng.below(1500));
            let mut o = extended(size, 16384 << rng.below(3));
            let mut host = MemHost::new(Vec::new());
            let mut model = vec![0u8; size as usize];
            let backed = seed.is_multiple_of(2);
            o.backing_file = backed.then(|| "b".into());
            if seed % 4 == 1 {
                o.preallocation = Some(api::block_core::PreallocMode::Metadata);
            }
            crate::create::create(&host, &o).await.unwrap();
            if backed {
                rng.fill(&mut model);
                host.backing = Some(model.clone());
            }
            let mut w = World { image: open(&host, true).await, host };
            for i in 0..80 {
                request(&w, &mut model).await;
                if i == 30 && seed.is_multiple_of(3) {
                    let s = Snapshot { name: "s".into(), ..Snapshot::default() };
                    w.image.snapshot_create(&w.host, s).await.unwrap();
                    w.image = open(&w.host, true).await;
                }
                if rng.below(25) == 0 {
                    w.image.make_clean(&w.host).await.unwrap();
                    no_errors(&w.host, false).await;
                    w.image = open(&w.host, true).await;
                }
            }
            assert!(read_all(&w).await == model);
            w.image.make_clean(&w.host).await.unwrap();
            no_errors(&w.host, false).await;
            w.image = open(&w.host, false).await;
            assert!(read_all(&w).await == model);
        });
    }
}

#[test]
fn a_small_write_takes_a_subcluster_only() {
    Sim::new(1).block_on(async {
        let host = MemHost::new(Vec::new());
        crate::create::create(&host, &extended(1 << 20, 65536)).await.unwrap();
        let mut host = host;
        host.backing = Some(vec![5; 1 << 20]);
        let image = open(&host, true).await;
        host.logging.set(true);
        image.write(&host, 4096, IoBuf::from_bytes(&[1; 1000])).await.unwrap();
        let wrote: Vec<usize> = host
            .log
            .borrow()
            .iter()
            .filter_map(|e| match e {
                super::mem::Event::Write(_, b) if b.windows(1000).any(|w| w == [1; 1000]) => Some(b.len()),
                _ => None,
            })
            .collect();
        assert_eq!(wrote, [2048]);
        let w = World { host, image };
        let now = read_all(&w).await;
        assert!(now[4096..5096].iter().all(|b| *b == 1) && now[5096..].iter().all(|b| *b == 5));
    });
}

#[test]
fn a_write_beside_data_zeroes_nothing_that_is_there() {
    Sim::new(1).block_on(async {
        let host = MemHost::new(Vec::new());
        crate::create::create(&host, &extended(1 << 20, 65536)).await.unwrap();
        let image = open(&host, true).await;
        image.write(&host, 4096, IoBuf::from_bytes(&[1; 2048])).await.unwrap();
        host.logging.set(true);
        // From the middle of one subcluster over what was written to the middle of another.
        image.write(&host, 3072, IoBuf::from_bytes(&[2; 4096])).await.unwrap();
        let zeroed = host.log.borrow().iter().filter(|e| matches!(e, super::mem::Event::Zero(..))).count();
        assert_eq!(zeroed, 0);
        let now = read_all(&World { host, image }).await;
        assert!(now[3072..7168].iter().all(|b| *b == 2) && now[7168..].iter().all(|b| *b == 0));
    });
}

#[test]
fn after_a_crash_subclusters_are_the_old_or_the_new_ones() {
    for seed in 0..16u64 {
        Sim::new(seed).block_on(async {
            let size = 256 << 10;
            let mut host = MemHost::new(Vec::new());
            let mut o = extended(size, 16384);
            o.backing_file = Some("b".into());
            crate::create::create(&host, &o).await.unwrap();
            host.backing = Some(vec![0xbb; size as usize]);
            let w = World { image: open(&host, true).await, host };
            let base = w.host.bytes();
            w.host.logging.set(true);
            let rng = rt::sim::rng();
            let sectors = size / 512;
            let mut may = vec![vec![vec![0xbbu8; 512]]; sectors as usize];
            let mut marks = vec![(0, may.clone())];
            for turn in 0..30u8 {
                let first = rng.below(sectors);
                let count = 1 + rng.below((sectors - first).min(40));
                let zero = rng.below(4) == 0;
                let fill = if zero { 0 } else { turn + 1 };
                for s in &mut may[first as usize..(first + count) as usize] {
                    s.push(vec![fill; 512]);
                }
                marks.last_mut().unwrap().1 = may.clone();
                let (off, len) = (first * 512, count * 512);
                if zero {
                    w.image.write_zeroes(&w.host, off, len, rng.below(2) == 0).await.unwrap();
                } else {
                    let data = vec![fill; len as usize];
                    w.image.write(&w.host, off, IoBuf::from_bytes(&data)).await.unwrap();
                }
                if rng.below(3) == 0 {
                    w.image.flush(&w.host).await.unwrap();
                    w.host.flush().await.unwrap();
                    may.iter_mut().for_each(|s| *s = vec![s.last().unwrap().clone()]);
                    marks.push((w.host.log.borrow().len(), may.clone()));
                }
            }
            let log = w.host.log.borrow().clone();
            let mut rng = Rng::new(seed);
            for _ in 0..30 {
                let at = rng.below(log.len() as u64 + 1) as usize;
                let mut host = MemHost::new(crashed(&base, &log, at, &mut rng));
                host.backing = w.host.backing.clone();
                let mut said = Vec::new();
                let r = check(&host, Fix::None, &mut |l| said.push(l.to_string())).await.unwrap();
                assert_eq!((r.corruptions, r.check_errors), (0, 0), "seed {seed} at {at}: {said:#?}");
                let now = read_all(&World { image: open(&host, false).await, host }).await;
                let allowed = &marks.iter().rev().find(|m| m.0 <= at).unwrap().1;
                for (i, s) in now.chunks(512).enumerate() {
                    assert!(allowed[i].iter().any(|a| a == s), "seed {seed} at {at}: sector {i}");
                }
            }
        });
    }
}

#[test]
fn subclusters_both_ways() {
    if !have_tools() {
        return;
    }
    let dir = Dir::new("subclusters");
    let mut rng = Rng::new(7);
    let mut plain = vec![0u8; 900 * 1024];
    rng.fill(&mut plain);
    plain[100_000..300_000].fill(0);
    std::fs::write(dir.path("base"), &plain).unwrap();
    for shape in ["cluster_size=16k", "cluster_size=64k", "cluster_size=2M,refcount_bits=1"] {
        for compress in ["", "-c"] {
            // Theirs: an image of a copy with pieces written and zeroed.
            tool(
                "qemu-img",
                &dir.0,
                &format!("convert {compress} -f raw -O qcow2 -o extended_l2=on,{shape} base full.q"),
            );
            tool(
                "qemu-img",
                &dir.0,
                &format!("create -f qcow2 -o extended_l2=on,{shape} -b full.q -F qcow2 top.q"),
            );
            let args =
                ["-c", "write -P 7 5k 3k", "-c", "write -z 200k 100k", "-c", "write -z -u 500k 70k", "top.q"];
            let wrote =
                std::process::Command::new("qemu-io").current_dir(&dir.0).args(args).output().unwrap();
            assert!(wrote.status.success());
            tool("qemu-img", &dir.0, "convert -O raw top.q want");
            let want = std::fs::read(dir.path("want")).unwrap();
            let model = Sim::new(3).block_on(async {
                let full = MemHost::new(std::fs::read(dir.path("full.q")).unwrap());
                let image = open(&full, false).await;
                assert!(read_all(&World { image, host: full }).await == plain);
                let mut host = MemHost::new(std::fs::read(dir.path("top.q")).unwrap());
                host.backing = Some(plain.clone());
                let w = World { image: open(&host, true).await, host };
                let mut model = read_all(&w).await;
                assert!(model == want, "{shape} {compress}");
                let mut rng = Rng::new(5);
                for i in 0..60u8 {
                    let off = rng.below(model.len() as u64 - 9000);
                    let len = 1 + rng.below(9000);
                    let range = off as usize..(off + len) as usize;
                    if rng.below(3) == 0 {
                        w.image.write_zeroes(&w.host, off, len, rng.below(2) == 0).await.unwrap();
                        model[range].fill(0);
                    } else {
                        w.image.write(&w.host, off, IoBuf::from_bytes(&vec![i; len as usize])).await.unwrap();
                        model[range].fill(i);
                    }
                }
                w.image.make_clean(&w.host).await.unwrap();
                no_errors(&w.host, false).await;
                std::fs::write(dir.path("top.q"), &*w.host.file.borrow()).unwrap();
                model
            });
            std::fs::write(dir.path("model"), &model).unwrap();
            let said = tool("qemu-img", &dir.0, "check top.q");
            assert!(said.starts_with("No errors were found"), "{shape}: {said}");
            tool("qemu-img", &dir.0, "compare -f qcow2 -F raw top.q model");
        }
    }
    // Damage of the second half is found, by both.
    Sim::new(1).block_on(async {
        let host = MemHost::new(Vec::new());
        crate::create::create(&host, &extended(1 << 20, 16384)).await.unwrap();
        let image = open(&host, true).await;
        image.write(&host, 0, IoBuf::from_bytes(&[1; 4096])).await.unwrap();
        image.make_clean(&host).await.unwrap();
        let l2 = (image.map.read().l1[0] & crate::spec::OFFSET_MASK) as usize;
        host.file.borrow_mut()[l2 + 8..l2 + 16].fill(0xff);
        let r = check(&host, Fix::None, &mut |_| {}).await.unwrap();
        assert_eq!(r.corruptions, 1);
        let image = Image::open(&host, "x", false, |h| Config::new(h, None, true)).await.unwrap();
        assert!(image.read_guest(&host, 0, IoBuf::zeroed(512)).await.is_err());
    });
}

fn with_data() -> MemHost {
    MemHost { data: Some(RefCell::new(Vec::new())), ..MemHost::default() }
}

#[test]
fn a_data_file_holds_the_data_and_the_image_the_map() {
    for seed in 0..30u64 {
        Sim::new(seed).block_on(async {
            let rng = rt::sim::rng();
            let size = 512 * (1 + rng.below(1500));
            let raw = seed.is_multiple_of(2);
            let mut o = options(size, 16384);
            o.extended_l2 = Some(seed.is_multiple_of(3));
            o.data_file_raw = Some(raw);
            let host = with_data();
            crate::create::create_with(&host, &o, Some("d"), None).await.unwrap();
            let mut w = World { image: open(&host, true).await, host };
            let mut model = vec![0u8; size as usize];
            for _ in 0..80 {
                request(&w, &mut model).await;
            }
            assert!(read_all(&w).await == model);
            w.image.make_clean(&w.host).await.unwrap();
            no_errors(&w.host, false).await;
            w.image = open(&w.host, false).await;
            assert!(read_all(&w).await == model);
            let data = w.host.data.as_ref().unwrap().borrow().clone();
            assert!(!raw || data == model, "seed {seed}: the data file is not the disk");
            let e = w.image.snapshot_create(&w.host, Snapshot::default()).await.unwrap_err();
            assert_eq!(e.desc(), "Operation not supported");
        });
    }
}

#[test]
fn data_files_both_ways() {
    if !have_tools() {
        return;
    }
    let dir = Dir::new("data-file");
    let write = |args: &[&str]| {
        let out = std::process::Command::new("qemu-io").current_dir(&dir.0).args(args).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    };
    for (raw, more) in [(false, ""), (true, ""), (false, ",extended_l2=on"), (true, ",extended_l2=on")] {
        let on = if raw { "on" } else { "off" };
        let _ = std::fs::remove_file(dir.path("d"));
        tool("qemu-img", &dir.0, &format!("create -f qcow2 -o data_file=d,data_file_raw={on}{more} a.q 3M"));
        write(&["-c", "write -P 7 5k 300k", "-c", "write -z 100k 70k", "-c", "discard 200k 64k", "a.q"]);
        tool("qemu-img", &dir.0, "convert -O raw a.q want");
        let model = Sim::new(2).block_on(async {
            let host = MemHost {
                data: Some(RefCell::new(std::fs::read(dir.path("d")).unwrap())),
                ..MemHost::new(std::fs::read(dir.path("a.q")).unwrap())
            };
            let w = World { image: open(&host, true).await, host };
            let mut model = read_all(&w).await;
            assert!(model == std::fs::read(dir.path("want")).unwrap(), "{raw} {more}");
            w.image.write(&w.host, 1_000_000, IoBuf::from_bytes(&[9; 70_000])).await.unwrap();
            model[1_000_000..1_070_000].fill(9);
            w.image.write_zeroes(&w.host, 1_010_000, 9000, true).await.unwrap();
            model[1_010_000..1_019_000].fill(0);
            w.image.make_clean(&w.host).await.unwrap();
            no_errors(&w.host, false).await;
            std::fs::write(dir.path("a.q"), &*w.host.file.borrow()).unwrap();
            std::fs::write(dir.path("d"), &*w.host.data.as_ref().unwrap().borrow()).unwrap();
            model
        });
        std::fs::write(dir.path("model"), &model).unwrap();
        let said = tool("qemu-img", &dir.0, "check a.q");
        assert!(said.starts_with("No errors were found"), "{raw} {more}: {said}");
        tool("qemu-img", &dir.0, "compare -f qcow2 -F raw a.q model");
        if raw {
            tool("qemu-img", &dir.0, "compare -f raw -F raw d model");
        }
    }
}

#[test]
fn more_than_one_level_2_table() {
    // A table of 16 KiB clusters maps 16 MiB with entries of 16 bytes, and not 32 MiB.
    const TABLE: u64 = 16 << 20;
    Sim::new(5).block_on(async {
        let host = MemHost::new(Vec::new());
        crate::create::create(&host, &extended(4 * TABLE + (1 << 20), 16 << 10)).await.unwrap();
        assert_eq!(crate::image::read_header(&host).await.unwrap().l1_size, 5);
        let image = open(&host, true).await;
        let places: Vec<u64> = (0..5).flat_map(|i| [i * TABLE, i * TABLE + (1 << 19)]).collect();
        for (i, at) in places.iter().enumerate() {
            image.write(&host, *at, IoBuf::from_bytes(&[i as u8 + 1; 4096])).await.unwrap();
        }
        image.make_clean(&host).await.unwrap();
        let read = async |image: &Image, at: u64| {
            let buf = IoBuf::zeroed(4096);
            image.read_guest(&host, at, buf.clone()).await.unwrap();
            buf.to_vec()
        };
        let fresh = open(&host, false).await;
        for (i, at) in places.iter().enumerate() {
            assert!(read(&fresh, *at).await == [i as u8 + 1; 4096], "{at:#x}");
        }
        no_errors(&host, false).await;
        if !have_tools() {
            return;
        }
        let dir = Dir::new("tables");
        std::fs::write(dir.path("a"), host.bytes()).unwrap();
        tool("qemu-img", &dir.0, "check -q -f qcow2 a");
        for (i, at) in places.iter().enumerate() {
            let args =
                ["-r", "-f", "qcow2", "-c", &format!("read -P {} {at} 4096", i + 1), "a"].map(String::from);
            let out = std::process::Command::new("qemu-io").current_dir(&dir.0).args(args).output().unwrap();
            let text = String::from_utf8_lossy(&out.stdout).into_owned();
            assert!(!text.contains("failed"), "{at:#x}: {text}");
        }
    });
}
