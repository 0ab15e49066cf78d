//! Repairs that are made when an image is opened for writing: what they change, what a failure half-way leaves, and the log
//! of VHDX images.

use crate::bed::*;
use block::check::Fix;
use block::create::CreateCx;
use block::driver::{DriverType, WriteFlags};
use block::perm::Perm;
use block::testing::{SIM_FILE, World};
use block::{BlockGraph, Root};
use block_formats::vhdx::spec as vhdx;
use mem::IoBuf;
use rt::sim::{Rng, Sim};
use std::sync::Arc;

fn sim_graph() -> Arc<BlockGraph> {
    let drivers: Vec<&'static DriverType> = [&[&SIM_FILE][..], block_formats::DRIVERS].concat();
    graph(&drivers)
}

async fn try_open(format: &str, writable: bool) -> Result<(Arc<BlockGraph>, Arc<Root>), String> {
    let g = sim_graph();
    let text = format!(
        "{{'driver':'{format}','node-name':'n','read-only':{},'file':{{'driver':'file','filename':'image'}}}}",
        !writable
    );
    if let Err(e) = g.add(options(&text)).await {
        g.close_all().await;
        return Err(e.desc().to_owned());
    }
    let perm = if writable { Perm::all() } else { Perm::CONSISTENT_READ };
    let root = attach(&g, "n", perm, Perm::all()).await.expect("a root");
    Ok((g, root))
}

async fn make(format: &str, pairs: &[(&str, &str)]) {
    let g = sim_graph();
    g.add(options("{'driver':'file','node-name':'f','filename':'image'}")).await.unwrap();
    let creation = drivers().into_iter().find(|d| d.name == format).unwrap().create.unwrap();
    let contract = creation.contract(format, "f", &[], creation.contract_dict(pairs).unwrap()).unwrap();
    (creation.create.unwrap())(&CreateCx::new(g.clone()), &contract).await.unwrap();
    g.close_all().await;
}

async fn fill(format: &str, pieces: &[(u64, u8, usize)]) {
    let (g, root) = try_open(format, true).await.unwrap();
    for (at, byte, len) in pieces {
        root.write(*at, IoBuf::from_bytes(&vec![*byte; *len]), WriteFlags::empty()).await.unwrap();
    }
    closed(g, root).await;
}

async fn seen(format: &str) -> Vec<u8> {
    let (g, root) = try_open(format, false).await.unwrap();
    let all = read(&root, 0, root.len() as usize).await;
    closed(g, root).await;
    all
}

const CLUSTER: usize = 4096;

/// An image in use, whose clusters 0 and 1 are one, whose cluster 3 is behind the file's end, and with something behind
/// its last cluster.
async fn damaged(world: &World) -> Vec<u8> {
    world.create("image", Vec::new());
    make("parallels", &[("size", "65536"), ("cluster_size", "4096")]).await;
    fill("parallels", &[(0, 1, CLUSTER), (2 * CLUSTER as u64, 2, CLUSTER)]).await;
    let mut b = world.disk("image").unwrap().bytes();
    let entry = |n: usize| 64 + 4 * n..68 + 4 * n;
    b.copy_within(entry(0), 64 + 4);
    b[entry(3)].copy_from_slice(&1000u32.to_le_bytes());
    b[44..48].copy_from_slice(&0x746f_6e59u32.to_le_bytes());
    b.extend([9; CLUSTER]);
    b
}

/// What is to be read of it, before and after.
fn expected(all: &[u8]) {
    for (n, byte) in [(0, 1), (1, 1), (2, 2), (4, 0)] {
        assert!(all[n * CLUSTER..][..CLUSTER].iter().all(|b| *b == byte), "cluster {n}");
    }
}

#[test]
fn parallels_is_repaired_and_keeps_its_data() {
    Sim::new(1).block_on(async {
        let world = World::new();
        let _here = world.enter();
        let broken = damaged(&world).await;
        world.create("image", broken);
        let (g, root) = try_open("parallels", true).await.unwrap();
        expected(&read(&root, 0, root.len() as usize).await);
        // Each has a cluster of its own now.
        root.write(0, IoBuf::from_bytes(&[7; CLUSTER]), WriteFlags::empty()).await.unwrap();
        assert_eq!(read(&root, CLUSTER as u64, CLUSTER).await, [1; CLUSTER]);
        closed(g, root).await;
        let (g, root) = try_open("parallels", false).await.unwrap();
        let report = g.check("n", Fix::None, &mut |line| panic!("{line}")).await.unwrap().unwrap();
        assert_eq!((report.corruptions, report.leaks), (0, 0));
        closed(g, root).await;
    });
}

#[test]
fn a_repair_of_parallels_that_fails_loses_nothing() {
    for seed in 0..30 {
        Sim::new(seed).block_on(async {
            let world = World::new();
            let _here = world.enter();
            let broken = damaged(&world).await;
            let disk = world.create("image", broken.clone());
            // No room for the copy of the cluster that is used twice.
            disk.set_max_len(broken.len() as u64 - CLUSTER as u64);
            let e = try_open("parallels", true).await.err().unwrap();
            assert!(e.ends_with("Could not repair corrupted image"), "{e}");
            world.create("image", disk.crash_bytes(&mut Rng::new(seed)));
            expected(&seen("parallels").await);
            // A crash at the end of a repair that went well.
            let disk = world.create("image", broken);
            let (g, root) = try_open("parallels", true).await.unwrap();
            let left = disk.crash_bytes(&mut Rng::new(seed + 100));
            world.create("image", left);
            closed(g, root).await;
            expected(&seen("parallels").await);
            let (g, root) = try_open("parallels", true).await.unwrap();
            expected(&read(&root, 0, root.len() as usize).await);
            closed(g, root).await;
        });
    }
}

const SECTOR: usize = 4096;
const LOG_ID: [u8; 16] = *b"a log's own name";

fn le32(b: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(b[at..at + 4].try_into().unwrap())
}

fn le64(b: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(b[at..at + 8].try_into().unwrap())
}

/// An entry of the log that writes one sector and clears the next (section 2.3.1).
fn log_entry(sequence: u64, place: u64, bytes: &[u8], file_len: u64) -> Vec<u8> {
    let mut e = vec![0; 2 * SECTOR];
    let mut put = |at: usize, v: &[u8]| e[at..at + v.len()].copy_from_slice(v);
    put(0, b"loge");
    put(8, &(2 * SECTOR as u32).to_le_bytes());
    put(16, &sequence.to_le_bytes());
    put(24, &2u32.to_le_bytes());
    put(32, &LOG_ID);
    put(48, &file_len.to_le_bytes());
    put(56, &file_len.to_le_bytes());
    put(64, b"desc");
    put(68, &bytes[SECTOR - 4..]);
    put(72, &bytes[..8]);
    put(80, &place.to_le_bytes());
    put(88, &sequence.to_le_bytes());
    put(96, b"zero");
    put(104, &(SECTOR as u64).to_le_bytes());
    put(112, &(place + SECTOR as u64).to_le_bytes());
    put(120, &sequence.to_le_bytes());
    put(SECTOR, b"data");
    put(SECTOR + 4, &((sequence >> 32) as u32).to_le_bytes());
    put(SECTOR + 8, &bytes[8..SECTOR - 4]);
    put(2 * SECTOR - 4, &(sequence as u32).to_le_bytes());
    vhdx::seal(&mut e);
    e
}

/// An image whose table is in its log alone: in the file itself the block is nowhere. `wrong` changes the last entry.
async fn logged(world: &World, entries: u64, wrong: impl Fn(&mut Vec<u8>)) -> Vec<u8> {
    world.create("image", Vec::new());
    make("vhdx", &[("size", "4194304"), ("block_size", "1048576")]).await;
    fill("vhdx", &[(1 << 20, 7, 1 << 20)]).await;
    let mut b = world.disk("image").unwrap().bytes();
    let header = |b: &[u8], at: u64| b[at as usize..][..SECTOR].to_vec();
    let [one, two] = vhdx::HEADERS.map(|at| (le64(&header(&b, at), 8), at));
    let (newest, older) = if one.0 > two.0 { (one, two) } else { (two, one) };
    let mut h = header(&b, newest.1);
    h[8..16].copy_from_slice(&(newest.0 + 1).to_le_bytes());
    h[48..64].copy_from_slice(&LOG_ID);
    vhdx::seal(&mut h);
    b[older.1 as usize..][..SECTOR].copy_from_slice(&h);
    let regions = &b[vhdx::REGION_TABLES[0] as usize..];
    let table = (0..le32(regions, 8) as usize)
        .map(|i| &regions[16 + 32 * i..][..32])
        .find(|r| r[..16] == vhdx::BAT_REGION)
        .map(|r| le64(r, 16))
        .unwrap();
    let right = b[table as usize..][..SECTOR].to_vec();
    b[table as usize..][..2 * SECTOR].fill(0);
    // Rubbish, which an entry clears.
    b[table as usize + SECTOR..][..SECTOR].fill(0xee);
    let mut at = le64(&h, 72) as usize;
    for n in 0..entries {
        // The newest counts: an older one says that there is nothing.
        let sector = if n + 1 == entries { right.clone() } else { vec![0; SECTOR] };
        let mut e = log_entry(100 + n, table, &sector, b.len() as u64);
        if n + 1 == entries {
            wrong(&mut e);
        }
        b[at..at + e.len()].copy_from_slice(&e);
        at += e.len();
    }
    b
}

#[test]
fn the_log_of_vhdx_is_replayed() {
    for entries in [1, 2, 5] {
        Sim::new(entries).block_on(async {
            let world = World::new();
            let _here = world.enter();
            let image = logged(&world, entries, |_| ()).await;
            world.create("image", image.clone());
            let e = try_open("vhdx", false).await.err().unwrap();
            assert!(e.ends_with("opened read-only, but contains a log that needs to be replayed"), "{e}");
            let (g, root) = try_open("vhdx", true).await.unwrap();
            assert_eq!(read(&root, 1 << 20, 1 << 20).await, vec![7; 1 << 20]);
            // It is told once, by the first check.
            for fixed in [1, 0] {
                let report = g.check("n", Fix::All, &mut |line| panic!("{line}")).await.unwrap().unwrap();
                assert_eq!((report.corruptions_fixed, report.corruptions), (fixed, 0));
            }
            closed(g, root).await;
            let all = seen("vhdx").await;
            assert!(all[1 << 20..2 << 20].iter().all(|b| *b == 7) && all[..1 << 20].iter().all(|b| *b == 0));
            // After a crash in the middle, the log is still there, or everything has been done.
            for seed in 0..10 {
                let disk = world.create("image", image.clone());
                let (g, root) = try_open("vhdx", true).await.unwrap();
                let left = disk.crash_bytes(&mut Rng::new(seed));
                world.create("image", left);
                closed(g, root).await;
                let (g, root) = try_open("vhdx", true).await.unwrap();
                assert_eq!(read(&root, 1 << 20, 1 << 20).await, vec![7; 1 << 20], "seed {seed}");
                closed(g, root).await;
            }
        });
    }
}

#[test]
fn a_broken_entry_of_the_log_counts_for_nothing() {
    let seal = |e: &mut Vec<u8>| vhdx::seal(e);
    let wrongs: [&dyn Fn(&mut Vec<u8>); 5] = [
        &|e| e[100] ^= 1,
        &|e| {
            e[12..16].copy_from_slice(&(7 * SECTOR as u32).to_le_bytes());
            seal(e);
        },
        &|e| {
            e[32] ^= 1;
            seal(e);
        },
        &|e| {
            e[80] = 1;
            seal(e);
        },
        &|e| {
            e[24..28].copy_from_slice(&u32::MAX.to_le_bytes());
            seal(e);
        },
    ];
    for (n, wrong) in wrongs.iter().enumerate() {
        Sim::new(1).block_on(async {
            let world = World::new();
            let _here = world.enter();
            let image = logged(&world, 1, wrong).await;
            world.create("image", image);
            assert!(seen("vhdx").await.iter().all(|b| *b == 0), "{n}");
        });
    }
}

#[test]
fn a_file_that_was_cut_off_is_not_replayed() {
    Sim::new(1).block_on(async {
        let world = World::new();
        let _here = world.enter();
        let image = logged(&world, 1, |e| {
            e[48..56].copy_from_slice(&(1u64 << 40).to_le_bytes());
            vhdx::seal(e);
        })
        .await;
        world.create("image", image.clone());
        let e = try_open("vhdx", true).await.err().unwrap();
        assert!(e.ends_with("Invalid argument"), "{e}");
        assert!(world.disk("image").unwrap().bytes() == image, "nothing was changed");
    });
}
