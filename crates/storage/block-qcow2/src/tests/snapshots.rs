//! Compressed clusters and internal snapshots against a flat model, crashes, and the reference's tools.

use mem::IoBuf;
use rt::sim::{Rng, Sim};

use super::crash::crashed;
use super::mem::MemHost;
use super::random::{World, initial, no_errors, open, read_all, world};
use super::reference::{Dir, have_tools, tool};
use crate::check::{Fix, check};
use crate::snapshot::Snapshot;

async fn again(w: &mut World) {
    w.image.make_clean(&w.host).await.unwrap();
    w.image = open(&w.host, true).await;
}

/// One random change, often a compressed one.
async fn change(w: &World, model: &mut [u8]) {
    let rng = rt::sim::rng();
    let size = model.len() as u64;
    let cs = w.image.geometry().cluster_size();
    let mut data = vec![0u8; (cs * (1 + rng.below(4))) as usize];
    match rng.below(4) {
        0 => rng.fill(&mut data),
        1 => data.fill(rng.below(256) as u8),
        // Compresses to about a half.
        _ => {
            let half = data.len() / 2;
            rng.fill(&mut data[..half]);
        }
    }
    let off = rng.below(size) / cs * cs;
    data.truncate((size - off).min(data.len() as u64) as usize);
    if rng.below(3) > 0 {
        w.image.write_compressed(&w.host, off, IoBuf::from_bytes(&data)).await.unwrap();
        model[off as usize..off as usize + data.len()].copy_from_slice(&data);
        return;
    }
    let off = off + rng.below(size - off);
    data.truncate((size - off).min(data.len() as u64) as usize);
    w.image.write(&w.host, off, IoBuf::from_bytes(&data)).await.unwrap();
    model[off as usize..off as usize + data.len()].copy_from_slice(&data);
}

#[test]
fn compressed_writes_equal_a_flat_model() {
    let tools = have_tools();
    let dir = Dir::new("compress");
    for seed in 0..20 {
        Sim::new(seed).block_on(async {
            let mut w = world(seed.is_multiple_of(3), seed % 5 == 4).await;
            let backing = w.host.backing.is_some();
            let mut model = initial(&w);
            for i in 0..40 {
                change(&w, &mut model).await;
                if i % 13 == 12 {
                    again(&mut w).await;
                    no_errors(&w.host, false).await;
                }
            }
            assert!(read_all(&w).await == model, "seed {seed}");
            again(&mut w).await;
            no_errors(&w.host, false).await;
            assert!(read_all(&w).await == model, "seed {seed}");
            if tools && !backing && seed < 14 {
                w.image.make_clean(&w.host).await.unwrap();
                std::fs::write(dir.path("image.q"), &*w.host.file.borrow()).unwrap();
                std::fs::write(dir.path("model"), &model).unwrap();
                let said = tool("qemu-img", &dir.0, "check image.q");
                assert!(said.starts_with("No errors were found"), "seed {seed}: {said}");
                tool("qemu-img", &dir.0, "compare -f qcow2 -F raw image.q model");
            }
        });
    }
}

fn named(name: String) -> Snapshot {
    Snapshot { name, date_sec: 5, ..Snapshot::default() }
}

#[test]
fn snapshots_keep_what_was_there() {
    let tools = have_tools();
    let dir = Dir::new("snapshots");
    for seed in 0..16 {
        Sim::new(seed).block_on(async {
            let mut w = world(false, seed % 5 == 4).await;
            if w.image.geometry().refcount_bits() < 8 {
                if w.image.geometry().refcount_bits() == 1 {
                    // Of nothing there can be one, of data not.
                    w.image.snapshot_create(&w.host, named("empty".into())).await.unwrap();
                }
                return;
            }
            let mut model = initial(&w);
            let mut kept: Vec<(String, Vec<u8>)> = Vec::new();
            for i in 0..14 {
                for _ in 0..4 {
                    change(&w, &mut model).await;
                }
                let rng = rt::sim::rng();
                match rng.below(4) {
                    0 | 1 if kept.len() < 6 => {
                        let s = w.image.snapshot_create(&w.host, named(format!("s{i}"))).await.unwrap();
                        kept.push((s.id, model.clone()));
                    }
                    2 if !kept.is_empty() => {
                        let (id, _) = kept.remove(rng.below(kept.len() as u64) as usize);
                        w.image.snapshot_delete(&w.host, &id).await.unwrap();
                    }
                    _ if !kept.is_empty() => {
                        let (id, was) = kept[rng.below(kept.len() as u64) as usize].clone();
                        w.image.snapshot_apply(&w.host, &id).await.unwrap();
                        model = was;
                    }
                    _ => {}
                }
                again(&mut w).await;
                no_errors(&w.host, false).await;
                assert!(read_all(&w).await == model, "seed {seed}");
                assert_eq!(w.image.shown.read().snapshots.len(), kept.len());
            }
            if tools {
                std::fs::write(dir.path("image.q"), &*w.host.file.borrow()).unwrap();
                for (id, was) in &kept {
                    std::fs::write(dir.path("model"), was).unwrap();
                    tool("qemu-img", &dir.0, &format!("snapshot -a {id} image.q"));
                    tool("qemu-img", &dir.0, "compare -f qcow2 -F raw image.q model");
                }
                for s in w.image.shown.read().snapshots.iter() {
                    tool("qemu-img", &dir.0, &format!("snapshot -d {} image.q", s.name));
                }
                let said = tool("qemu-img", &dir.0, "check image.q");
                assert!(said.starts_with("No errors were found"), "seed {seed}: {said}");
            }
        });
    }
}

#[test]
fn snapshots_of_the_reference_are_applied_and_deleted() {
    if !have_tools() {
        return;
    }
    let dir = Dir::new("refsnap");
    for shape in ["cluster_size=512", "cluster_size=4k,refcount_bits=8", "compat=0.10,cluster_size=64k"] {
        std::fs::write(dir.path("plain"), vec![3u8; 300 * 1024]).unwrap();
        tool("qemu-img", &dir.0, &format!("convert -f raw -O qcow2 -o {shape} plain image.q"));
        tool("qemu-img", &dir.0, "snapshot -c one image.q");
        Sim::new(1).block_on(async {
            let host = MemHost::new(std::fs::read(dir.path("image.q")).unwrap());
            let image = open(&host, true).await;
            image.write(&host, 0, IoBuf::from_bytes(&[9; 100_000])).await.unwrap();
            image.snapshot_create(&host, named("two".into())).await.unwrap();
            let mut w = World { host, image };
            again(&mut w).await;
            w.image.snapshot_apply(&w.host, "1").await.unwrap();
            again(&mut w).await;
            assert!(read_all(&w).await.iter().all(|b| *b == 3), "{shape}");
            w.image.snapshot_delete(&w.host, "1").await.unwrap();
            w.image.make_clean(&w.host).await.unwrap();
            no_errors(&w.host, false).await;
            std::fs::write(dir.path("image.q"), &*w.host.file.borrow()).unwrap();
        });
        assert!(tool("qemu-img", &dir.0, "snapshot -l image.q").contains("two"));
        let said = tool("qemu-img", &dir.0, "check image.q");
        assert!(said.starts_with("No errors were found"), "{shape}: {said}");
        tool("qemu-img", &dir.0, "snapshot -a two image.q");
        tool("qemu-img", &dir.0, "snapshot -d two image.q");
    }
}

#[test]
fn a_crash_leaves_the_old_or_the_new_state() {
    for seed in 0..30u64 {
        Sim::new(seed).block_on(async {
            let mut w = world(false, false).await;
            let g = w.image.geometry();
            if g.refcount_bits() < 8 || w.image.header().version < 3 {
                return;
            }
            let mut first = initial(&w);
            for _ in 0..5 {
                change(&w, &mut first).await;
            }
            let one = w.image.snapshot_create(&w.host, named("one".into())).await.unwrap();
            again(&mut w).await;
            let mut second = first.clone();
            for _ in 0..5 {
                change(&w, &mut second).await;
            }
            again(&mut w).await;
            let base = w.host.file.borrow().clone();
            w.host.logging.set(true);
            match seed % 3 {
                0 => drop(w.image.snapshot_create(&w.host, named("two".into())).await.unwrap()),
                1 => drop(w.image.snapshot_delete(&w.host, &one.id).await.unwrap()),
                _ => w.image.snapshot_apply(&w.host, &one.id).await.unwrap(),
            }
            let log = w.host.log.borrow().clone();
            let mut rng = Rng::new(seed);
            for _ in 0..12 {
                let at = rng.below(log.len() as u64 + 1) as usize;
                let host = MemHost::new(crashed(&base, &log, at, &mut rng));
                let dirty = crate::check::is_dirty(&host).await.unwrap();
                let fix = if dirty { Fix::All } else { Fix::None };
                let mut said = Vec::new();
                let r = check(&host, fix, &mut |l| said.push(l.to_string())).await.unwrap();
                assert_eq!((r.corruptions, r.check_errors), (0, 0), "seed {seed} at {at}: {said:#?}");
                let image = open(&host, true).await;
                let mut after = World { host, image };
                let now = read_all(&after).await;
                assert!(now == second || (seed % 3 == 2 && now == first), "seed {seed} at {at}");
                // Whatever snapshots there are still lead to what was there.
                let list = after.image.shown.read().snapshots.clone();
                for s in list {
                    after.image.snapshot_apply(&after.host, &s.id).await.unwrap();
                    again(&mut after).await;
                    let want = if s.id == one.id { &first } else { &second };
                    assert!(read_all(&after).await == *want, "seed {seed} at {at}");
                }
            }
        });
    }
}

#[test]
fn the_state_of_a_machine_stands_behind_the_disk() {
    for seed in 0..6 {
        Sim::new(seed).block_on(async {
            let mut w = world(seed % 2 == 1, seed % 3 == 2).await;
            let model = initial(&w);
            let cover = w.image.geometry().l2_coverage();
            let at = [0, 700, cover - 100, 3 * cover][seed as usize % 4];
            let bytes = IoBuf::from_bytes(&[7; 1000]);
            w.image.write_vm_state(&w.host, at, bytes).await.unwrap();
            again(&mut w).await;
            no_errors(&w.host, false).await;
            let seen = async |w: &World, at: u64, n: usize| {
                let buf = IoBuf::zeroed(n);
                w.image.read_vm_state(&w.host, at, buf.clone()).await.unwrap();
                buf.to_vec()
            };
            assert_eq!(seen(&w, at, 1000).await, [7; 1000]);
            assert_eq!(seen(&w, at + 1000, 512).await, [0; 512]);
            // The disk shows nothing of it.
            assert_eq!(read_all(&w).await, model);
            w.image.write_vm_state(&w.host, at + 10, IoBuf::from_bytes(&[9; 5])).await.unwrap();
            assert_eq!(seen(&w, at + 8, 9).await, [7, 7, 9, 9, 9, 9, 9, 7, 7]);
            let far = w.image.write_vm_state(&w.host, u64::MAX - 5, IoBuf::zeroed(5)).await;
            assert_eq!(far, Err(base::Errno::FBIG));
            assert!(w.image.read_vm_state(&w.host, 1 << 60, IoBuf::zeroed(5)).await.is_err());
        });
    }
}
