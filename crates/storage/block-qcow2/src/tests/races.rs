//! Requests at once that fight over the same clusters: whatever wins, a sector shows what was meant for it.

use std::rc::Rc;

use mem::IoBuf;
use rt::sim::Sim;

use super::mem::{MemHost, options};
use super::random::{World, no_errors, open, read_all};

/// Sectors that name the place they are for.
fn stamped(off: u64, len: u64, tag: u64) -> IoBuf {
    let mut v = vec![0u8; len as usize];
    for (i, s) in v.chunks_mut(512).enumerate() {
        s[..8].copy_from_slice(&(off + i as u64 * 512).to_le_bytes());
        s[8..16].copy_from_slice(&tag.to_le_bytes());
        s[504..].copy_from_slice(&tag.to_le_bytes());
    }
    IoBuf::from_bytes(&v)
}

/// Each sector is zeroes or a whole one that was written to this very place.
fn check_stamps(off: u64, bytes: &[u8]) {
    for (i, s) in bytes.chunks(512).enumerate() {
        let at = off + i as u64 * 512;
        if s.iter().all(|b| *b == 0) {
            continue;
        }
        assert_eq!(s[..8], at.to_le_bytes(), "sector at {at} shows what belongs elsewhere");
        assert_eq!(s[8..16], s[504..], "sector at {at} is torn");
    }
}

async fn fight(cluster: u64, size: u64, turns: u64) {
    let host = MemHost::new(Vec::new());
    crate::create::create(&host, &options(size, cluster)).await.unwrap();
    let image = open(&host, true).await;
    let w = Rc::new(World { host, image });
    w.host.jitter.set(true);
    w.host.slow.set(true);
    let mut tasks = Vec::new();
    for t in 0..8u64 {
        let w = w.clone();
        tasks.push(rt::spawn_local(async move {
            let rng = rt::sim::rng();
            for turn in 0..turns {
                let off = 512 * rng.below(size / 512);
                let len = (512 * (1 + rng.below(4 * cluster / 512))).min(size - off);
                match rng.below(10) {
                    0..=4 => {
                        let tag = t << 32 | turn;
                        w.image.write(&w.host, off, stamped(off, len, tag)).await.unwrap();
                    }
                    5 => w.image.write_zeroes(&w.host, off, len, false).await.unwrap(),
                    6 => w.image.discard(&w.host, off, len).await.unwrap(),
                    7 => w.image.flush(&w.host).await.unwrap(),
                    _ => {
                        let buf = IoBuf::zeroed(len as usize);
                        w.image.read_guest(&w.host, off, buf.clone()).await.unwrap();
                        check_stamps(off, &buf.to_vec());
                    }
                }
            }
        }));
    }
    for t in tasks {
        let _ = t.await;
    }
    w.host.jitter.set(false);
    check_stamps(0, &read_all(&w).await);
    w.image.make_clean(&w.host).await.unwrap();
    no_errors(&w.host, false).await;
}

#[test]
fn requests_that_fight_for_clusters_never_reach_anothers() {
    for seed in 0..60 {
        Sim::new(seed).block_on(async {
            let cluster = 1024 << rt::sim::rng().below(3);
            // Few clusters, so that the same ones are fought for and freed ones are taken again.
            fight(cluster, cluster * 12, 40).await;
        });
    }
}

/// Many L2 tables and a cache of two slices: slices come and go all the time. Every task has places of its own, and no
/// acknowledged write is forgotten.
#[test]
fn a_slice_that_was_read_too_early_is_not_believed() {
    for seed in 0..40 {
        Sim::new(seed).block_on(async {
            let (cluster, tables) = (512u64, 6u64);
            let coverage = cluster * cluster / 8;
            let size = coverage * tables;
            let host = MemHost::new(Vec::new());
            crate::create::create(&host, &options(size, cluster)).await.unwrap();
            let image = open(&host, true).await;
            let w = Rc::new(World { host, image });
            w.host.jitter.set(true);
            let mut tasks = Vec::new();
            for t in 0..8u64 {
                let w = w.clone();
                tasks.push(rt::spawn_local(async move {
                    let rng = rt::sim::rng();
                    let mut mine = vec![0u64; tables as usize];
                    for turn in 1..40u64 {
                        let table = rng.below(tables);
                        let off = table * coverage + t * cluster;
                        match rng.below(4) {
                            0 => {
                                w.image.write(&w.host, off, stamped(off, 512, turn)).await.unwrap();
                                mine[table as usize] = turn;
                            }
                            1 => {
                                w.image.discard(&w.host, off, cluster).await.unwrap();
                                mine[table as usize] = 0;
                            }
                            2 => w.image.flush(&w.host).await.unwrap(),
                            _ => {
                                let buf = IoBuf::zeroed(512);
                                w.image.read_guest(&w.host, off, buf.clone()).await.unwrap();
                                let tag = u64::from_le_bytes(buf.to_vec()[8..16].try_into().unwrap());
                                assert_eq!(tag, mine[table as usize], "place {off}");
                            }
                        }
                    }
                    mine
                }));
            }
            let mut left = Vec::new();
            for t in tasks {
                left.push(t.await);
            }
            w.host.jitter.set(false);
            for (t, mine) in left.into_iter().enumerate() {
                for (table, tag) in mine.into_iter().enumerate() {
                    let off = table as u64 * coverage + t as u64 * cluster;
                    let buf = IoBuf::zeroed(512);
                    w.image.read_guest(&w.host, off, buf.clone()).await.unwrap();
                    assert_eq!(buf.to_vec()[8..16], tag.to_le_bytes(), "place {off} at the end");
                }
            }
            w.image.make_clean(&w.host).await.unwrap();
            no_errors(&w.host, false).await;
        });
    }
}

#[test]
fn what_somebody_still_reads_is_given_back_before_the_image_is_clean() {
    Sim::new(1).block_on(async {
        let host = MemHost::new(Vec::new());
        crate::create::create(&host, &options(1 << 20, 65536)).await.unwrap();
        let image = open(&host, true).await;
        image.write(&host, 0, IoBuf::from_bytes(&[1; 65536])).await.unwrap();
        image.flush(&host).await.unwrap();
        let reading = image.readers.enter();
        image.discard(&host, 0, 65536).await.unwrap();
        drop(rt::spawn_local(async move {
            rt::sleep(std::time::Duration::from_millis(20)).await;
            drop(reading);
        }));
        image.make_clean(&host).await.unwrap();
        no_errors(&host, false).await;
    });
}
