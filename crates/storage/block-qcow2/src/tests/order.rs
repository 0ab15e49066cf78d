//! Every crash point with everything that one lost write can do: what a table refers to is stable before the table.

use std::collections::BTreeSet;

use mem::IoBuf;
use rt::sim::Sim;

use super::mem::{Event, MemHost, apply, options};
use super::random::{World, open, read_all};
use crate::check::{Fix, check};
use crate::host::Host;
use crate::snapshot::Snapshot;

/// What the guest's sectors may show, by the length of the log from which on it holds.
type Allowed = Vec<(usize, Vec<BTreeSet<Vec<u8>>>)>;

fn only(model: &[u8]) -> Vec<BTreeSet<Vec<u8>>> {
    model.chunks(512).map(|c| BTreeSet::from([c.to_vec()])).collect()
}

async fn flush(w: &World) {
    w.image.flush(&w.host).await.unwrap();
    w.host.flush().await.unwrap();
}

/// An image whose free clusters are full of old rubbish, so that a table that did not reach the disk shows it. Half of
/// the disk is in use; with `snapshot`, all of that belongs to a snapshot too, so that writing copies tables.
async fn used(cluster: u64, bits: i64, size: u64, snapshot: bool) -> World {
    let mut o = options(size, cluster);
    o.refcount_bits = Some(bits);
    let host = MemHost::new(Vec::new());
    crate::create::create(&host, &o).await.unwrap();
    let image = open(&host, true).await;
    image.write(&host, 0, IoBuf::from_bytes(&vec![0xee; size as usize])).await.unwrap();
    image.flush(&host).await.unwrap();
    image.discard(&host, 0, size).await.unwrap();
    image.flush(&host).await.unwrap();
    for at in (0..size).step_by(2 * cluster as usize) {
        image.write(&host, at, IoBuf::from_bytes(&vec![(at / cluster) as u8 | 1; 512])).await.unwrap();
    }
    if snapshot {
        let s = Snapshot { name: "s".into(), ..Snapshot::default() };
        image.snapshot_create(&host, s).await.unwrap();
    }
    image.make_clean(&host).await.unwrap();
    let image = open(&host, true).await;
    World { host, image }
}

async fn guest(w: &World, requests: u64) -> Allowed {
    let rng = rt::sim::rng();
    let mut model = read_all(w).await;
    let mut allowed = vec![(0, only(&model))];
    w.host.logging.set(true);
    let sectors = model.len() as u64 / 512;
    for i in 0..requests {
        let first = rng.below(sectors);
        let count = 1 + rng.below((sectors - first).min(8));
        let range = first as usize * 512..(first + count) as usize * 512;
        let mut new = vec![0u8; range.len()];
        let zero = rng.below(5) == 0;
        if !zero {
            rng.fill(&mut new);
        }
        let may = &mut allowed.last_mut().unwrap().1;
        for (i, c) in new.chunks(512).enumerate() {
            may[first as usize + i].insert(c.to_vec());
        }
        if zero {
            w.image.write_zeroes(&w.host, first * 512, count * 512, true).await.unwrap();
        } else {
            w.image.write(&w.host, first * 512, IoBuf::from_bytes(&new)).await.unwrap();
        }
        model[range].copy_from_slice(&new);
        if rng.below(4) == 0 || i + 1 == requests {
            flush(w).await;
            allowed.push((w.host.log.borrow().len(), only(&model)));
        }
    }
    allowed
}

fn touches(e: &Event, cluster: u64, size: u64) -> bool {
    let (off, len) = match e {
        Event::Write(off, b) => (*off, b.len() as u64),
        Event::Zero(off, len) => (*off, *len),
        Event::Truncate(_) | Event::Flush => return false,
    };
    off < (cluster + 1) * size && cluster * size < off + len
}

fn clusters(e: &Event, size: u64) -> std::ops::Range<u64> {
    match e {
        Event::Write(off, b) => off / size..(off + b.len() as u64).div_ceil(size),
        Event::Zero(off, len) => off / size..(off + len).div_ceil(size),
        Event::Truncate(_) | Event::Flush => 0..0,
    }
}

/// The states of the disk that the crash leaves: all that was written since the last flush is there, but for one write,
/// or but for everything in one cluster.
fn losses(log: &[Event], from: usize, cluster_size: u64) -> Vec<BTreeSet<usize>> {
    let mut sets: BTreeSet<BTreeSet<usize>> = (from..log.len()).map(|i| BTreeSet::from([i])).collect();
    let all: BTreeSet<u64> = log[from..].iter().flat_map(|e| clusters(e, cluster_size)).collect();
    for c in all {
        sets.insert((from..log.len()).filter(|i| touches(&log[*i], c, cluster_size)).collect());
    }
    sets.into_iter().collect()
}

async fn every_crash(seed: u64, w: &World, base: &[u8], allowed: &Allowed) -> usize {
    let log = w.host.log.borrow().clone();
    let cluster_size = w.image.geometry().cluster_size();
    let mut stable = base.to_vec();
    let (mut from, mut tried) = (0, 0);
    for at in 1..=log.len() {
        if matches!(log[at - 1], Event::Flush) {
            log[from..at].iter().for_each(|e| apply(&mut stable, e));
            from = at;
            continue;
        }
        // Only the last write before a flush: losing an earlier one alone is what an earlier crash leaves, or less.
        if !log.get(at).is_none_or(|e| matches!(e, Event::Flush)) {
            continue;
        }
        let may = &allowed.iter().rev().find(|(from, _)| *from <= at).unwrap().1;
        for lost in losses(&log[..at], from, cluster_size) {
            let mut file = stable.clone();
            (from..at).filter(|i| !lost.contains(i)).for_each(|i| apply(&mut file, &log[i]));
            let host = MemHost::new(file);
            let mut said = Vec::new();
            let r = check(&host, Fix::None, &mut |l| said.push(l.to_string())).await.unwrap();
            let lost: Vec<_> = lost.iter().map(|i| (i, clusters(&log[*i], cluster_size))).collect();
            let place = format!("seed {seed}, crash at {at} of {}, lost {lost:?}", log.len());
            assert_eq!((r.corruptions, r.check_errors), (0, 0), "{place}: {said:#?}");
            let image = open(&host, false).await;
            let now = read_all(&World { host, image }).await;
            for (i, sector) in now.chunks(512).enumerate() {
                assert!(may[i].contains(sector), "{place}: sector {i} shows what was never there");
            }
            tried += 1;
        }
    }
    tried
}

fn run(seeds: u64, cluster: u64, bits: i64, size: u64, snapshot: bool) {
    let mut tried = 0;
    for seed in 0..seeds {
        tried += Sim::new(seed).block_on(async {
            let w = used(cluster, bits, size, snapshot).await;
            let base = w.host.file.borrow().clone();
            let allowed = guest(&w, 24).await;
            every_crash(seed, &w, &base, &allowed).await
        });
    }
    assert!(tried > 1000, "only {tried} crashes");
}

#[test]
fn one_lost_write_does_no_harm_with_many_small_tables() {
    run(12, 512, 64, 200 << 10, false);
}

#[test]
fn one_lost_write_does_no_harm_where_tables_are_copied() {
    run(16, 1024, 16, 300 << 10, true);
}

/// The file grows: refcount blocks and the refcount table come anew all the time.
#[test]
fn one_lost_write_does_no_harm_while_the_file_grows() {
    let mut tried = 0;
    for seed in 0..10 {
        tried += Sim::new(seed).block_on(async {
            let mut o = options(300 << 10, 512);
            o.refcount_bits = Some(64);
            let host = MemHost::new(Vec::new());
            crate::create::create(&host, &o).await.unwrap();
            // Somebody left rubbish behind the image's end: as tables it is wrong, as refcounts it only leaks; zeros are
            // the other way round.
            host.file.borrow_mut().resize(700 << 10, if seed % 2 == 0 { 0xdd } else { 0 });
            let image = open(&host, true).await;
            let w = World { host, image };
            let base = w.host.file.borrow().clone();
            let allowed = guest(&w, 40).await;
            every_crash(seed, &w, &base, &allowed).await
        });
    }
    assert!(tried > 1000, "only {tried} crashes");
}
