//! Guests that write and readers of the past, at once.

use crate::bed::{Bed, SIZE, sim};
use block::driver::{WriteFlags, ZeroFlags};
use block::testing::Faults;
use mem::IoBuf;
use std::time::Duration;

const SECTOR: u64 = 512;

fn below(n: u64) -> u64 {
    rt::sim::rng().below(n)
}

/// Writers of overlapping ranges, some of whom lose interest; readers of the past; changes of the graph between.
#[test]
fn readers_see_the_past_while_guests_write() {
    for seed in 0..60 {
        sim(seed, async move {
            let bed = Bed::with(if seed % 2 == 0 { "" } else { ",'cbw-timeout':60" }).await;
            bed.world.set_faults(Faults { delay: 400, ..Faults::default() });
            let (guest, past) = (bed.guest().await, bed.writer("past").await);
            let mut tasks = Vec::new();
            for _ in 0..6 {
                let guest = guest.clone();
                tasks.push(rt::spawn_local(async move {
                    for _ in 0..8 {
                        let off = below(SIZE / SECTOR) * SECTOR;
                        let len = (1 + below(200)) * SECTOR;
                        let len = len.min(SIZE - off);
                        let data = IoBuf::from_bytes(&vec![below(256) as u8; len as usize]);
                        let done = async {
                            match below(4) {
                                0 => guest.write_zeroes(off, len, ZeroFlags::MAY_UNMAP).await,
                                1 => guest.discard(off, len).await,
                                _ => guest.write(off, data, WriteFlags::empty()).await,
                            }
                        };
                        if below(5) == 0 {
                            let _ = rt::timeout(Duration::from_micros(below(3000)), done).await;
                        } else {
                            done.await.unwrap();
                        }
                    }
                }));
            }
            for _ in 0..3 {
                let (past, old) = (past.clone(), bed.old.clone());
                tasks.push(rt::spawn_local(async move {
                    for _ in 0..10 {
                        let off = below(SIZE);
                        let len = (1 + below(300_000)).min(SIZE - off);
                        let buf = IoBuf::zeroed(len as usize);
                        past.read(off, buf.clone()).await.unwrap();
                        assert!(buf.to_vec() == old[off as usize..(off + len) as usize], "seed {seed}");
                    }
                }));
            }
            let graph = bed.graph.clone();
            tasks.push(rt::spawn_local(async move {
                for _ in 0..4 {
                    rt::sleep(Duration::from_millis(below(8))).await;
                    drop(graph.drain_all().await);
                }
            }));
            for t in tasks {
                t.await;
            }
            drop(bed.graph.drain_all().await);
            bed.is_past(&past).await;
            guest.detach().await;
            past.detach().await;
            for n in ["past", "cbw", "s", "t"] {
                bed.graph.del(n).await.unwrap();
            }
        });
    }
}

/// What two guests write to the same piece, one after another, stays as they wrote it.
#[test]
fn guests_get_what_they_wrote() {
    for seed in 0..30 {
        sim(seed, async move {
            let bed = Bed::with("").await;
            bed.world.set_faults(Faults { delay: 500, ..Faults::default() });
            let guest = bed.guest().await;
            let tasks: Vec<_> = (0..8u64)
                .map(|i| {
                    let guest = guest.clone();
                    // Every eighth sector is this one's.
                    rt::spawn_local(async move {
                        for k in 0..12 {
                            let off = (below(SIZE / SECTOR / 8) * 8 + i) * SECTOR;
                            if off + SECTOR <= SIZE {
                                let data = IoBuf::from_bytes(&[(i * 16 + k) as u8; SECTOR as usize]);
                                guest.write(off, data.clone(), WriteFlags::empty()).await.unwrap();
                                let buf = IoBuf::zeroed(SECTOR as usize);
                                guest.read(off, buf.clone()).await.unwrap();
                                assert!(buf.to_vec() == data.to_vec(), "seed {seed}");
                            }
                        }
                    })
                })
                .collect();
            for t in tasks {
                t.await;
            }
        });
    }
}

/// Storage that fails now and then: either a write fails, or the past stays right; never neither.
#[test]
fn failures_never_show_a_wrong_past() {
    let (mut failed, mut lost) = (0, 0);
    for seed in 0..60 {
        let (f, l) = sim(seed, async move {
            let snapshot = seed % 2 == 0;
            let how = if snapshot { "break-snapshot" } else { "break-guest-write" };
            let bed = Bed::with(&format!(",'on-cbw-error':'{how}'")).await;
            bed.world.set_faults(Faults { delay: 300, read: 20, write: 20, space: 10, ..Faults::default() });
            let (guest, past) = (bed.guest().await, bed.reader("past").await);
            let mut tasks = Vec::new();
            for _ in 0..5 {
                let (guest, past, old) = (guest.clone(), past.clone(), bed.old.clone());
                tasks.push(rt::spawn_local(async move {
                    let mut failed = 0;
                    for _ in 0..12 {
                        let off = below(SIZE - 5000);
                        let data = IoBuf::from_bytes(&vec![below(256) as u8; 1 + below(5000) as usize]);
                        failed += u64::from(guest.write(off, data, WriteFlags::empty()).await.is_err());
                        let off = below(SIZE - 100_000);
                        let buf = IoBuf::zeroed(100_000);
                        if past.read(off, buf.clone()).await.is_ok() {
                            assert!(buf.to_vec() == old[off as usize..off as usize + 100_000], "seed {seed}");
                        }
                    }
                    failed
                }));
            }
            let mut failed = 0;
            for t in tasks {
                failed += t.await;
            }
            bed.world.set_faults(Faults::default());
            let lost = bed.read(&past, 0, 1).await.is_err();
            assert!(!lost || snapshot);
            if !lost {
                bed.is_past(&past).await;
            }
            (failed, u64::from(lost))
        });
        failed += f;
        lost += l;
    }
    assert!(failed > 20 && lost > 5, "the faults were too few: {failed}, {lost}");
}
