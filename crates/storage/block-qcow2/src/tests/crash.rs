//! A crash at any point: what was flushed is there, and the image is sound.

use mem::IoBuf;
use rt::sim::{Rng, Sim};

use super::mem::{Event, MemHost, apply};
use super::random::{World, initial, open, read_all, world};
use crate::check::{Fix, check};
use crate::host::Host;

/// For each 512-byte sector: everything that it may read as after a crash, the flushed content first.
type Allowed = Vec<Vec<Vec<u8>>>;

struct Mark {
    /// How much of the log was written when the guest's flush ended.
    at: usize,
    allowed: Allowed,
}

fn snapshot(model: &[u8]) -> Allowed {
    model.chunks(512).map(|c| vec![c.to_vec()]).collect()
}

/// Runs a guest; answers for each moment in the log what may be seen.
async fn guest(w: &World) -> Vec<Mark> {
    let rng = rt::sim::rng();
    let mut model = initial(w);
    let mut marks = vec![Mark { at: 0, allowed: snapshot(&model) }];
    w.host.logging.set(true);
    let sectors = model.len() as u64 / 512;
    for _ in 0..30 {
        let first = rng.below(sectors);
        let count = 1 + rng.below((sectors - first).min(24));
        let range = first as usize * 512..(first + count) as usize * 512;
        let discard = rng.below(8) == 0;
        let mut new = vec![0u8; range.len()];
        let zero = discard || rng.below(5) == 0;
        if !zero {
            rng.fill(&mut new);
        }
        // What may be there from now on: old and new.
        if let Some(m) = marks.last_mut() {
            for (i, c) in new.chunks(512).enumerate() {
                m.allowed[first as usize + i].push(c.to_vec());
            }
        }
        let buf = IoBuf::from_bytes(&new);
        let (off, len) = (first * 512, count * 512);
        let r = match (discard, zero) {
            (true, _) => w.image.discard(&w.host, off, len).await,
            (_, true) => w.image.write_zeroes(&w.host, off, len, rng.below(2) == 0).await,
            _ => w.image.write(&w.host, off, buf).await,
        };
        if r.is_ok() && !discard {
            model[range].copy_from_slice(&new);
        } else if r.is_ok() {
            model = read_all(w).await;
        }
        if rng.below(3) == 0 {
            w.image.flush(&w.host).await.unwrap();
            w.host.flush().await.unwrap();
            marks.push(Mark { at: w.host.log.borrow().len(), allowed: snapshot(&model) });
        }
    }
    marks
}

/// The file after a crash when `at` events had been issued: those before the last flush are there, of the later ones
/// any selection, in any order that keeps writes to the same place in order; a write may be torn between sectors.
pub fn crashed(base: &[u8], log: &[Event], at: usize, rng: &mut Rng) -> Vec<u8> {
    let mut file = base.to_vec();
    let stable = log[..at].iter().rposition(|e| matches!(e, Event::Flush)).map_or(0, |i| i + 1);
    for e in &log[..stable] {
        apply(&mut file, e);
    }
    let how = rng.below(3);
    for e in &log[stable..at] {
        if how == 0 || (how == 1 && rng.below(2) == 0) {
            continue;
        }
        match e {
            Event::Write(off, bytes) if rng.below(4) == 0 => {
                for (i, c) in bytes.chunks(512).enumerate() {
                    if rng.below(2) == 0 {
                        apply(&mut file, &Event::Write(off + i as u64 * 512, c.to_vec()));
                    }
                }
            }
            e => apply(&mut file, e),
        }
    }
    file
}

/// Runs a guest on an image that nobody has used, and looks at what is left by crashes at many points.
pub async fn crash(seed: u64, w: &World) {
    let base = w.host.file.borrow().clone();
    let marks = guest(w).await;
    let log = w.host.log.borrow().clone();
    let mut rng = Rng::new(seed);
    for _ in 0..25 {
        let at = rng.below(log.len() as u64 + 1) as usize;
        let mut host = MemHost::new(crashed(&base, &log, at, &mut rng));
        host.backing = w.host.backing.clone();
        let mut said = Vec::new();
        let dirty = crate::check::is_dirty(&host).await.unwrap();
        let fix = if dirty { Fix::All } else { Fix::None };
        let r = check(&host, fix, &mut |l| said.push(l.to_string())).await.unwrap();
        assert_eq!(
            (r.corruptions, r.check_errors),
            (0, 0),
            "seed {seed} at {at} of {}: {said:#?}",
            log.len()
        );
        let image = open(&host, true).await;
        let after = World { host, image };
        let now = read_all(&after).await;
        let mark = marks.iter().rev().find(|m| m.at <= at).unwrap();
        for (i, sector) in now.chunks(512).enumerate() {
            assert!(
                mark.allowed[i].iter().any(|a| a == sector),
                "seed {seed} at {at} of {}: sector {i} shows what was never there",
                log.len()
            );
        }
        // And it can be written again.
        after.image.write(&after.host, 0, IoBuf::from_bytes(&[7; 512])).await.unwrap();
    }
}

#[test]
fn after_a_crash_flushed_data_is_there_and_the_image_is_sound() {
    for seed in 0..48u64 {
        let lazy = seed % 4 == 3;
        Sim::new(seed).block_on(async {
            let w = world(seed.is_multiple_of(2), lazy).await;
            crash(seed, &w).await;
        });
    }
}

/// An image with lazy refcounts that could not be made clean goes on to be one that says so.
#[test]
fn an_image_that_could_not_be_made_clean_is_dirty() {
    let mut failed = 0;
    for seed in 0..120u64 {
        Sim::new(seed).block_on(async {
            let w = world(false, true).await;
            w.image.write(&w.host, 0, IoBuf::from_bytes(&[1; 512])).await.unwrap();
            w.host.jitter.set(true);
            w.host.faults.set(60);
            let made = w.image.make_clean(&w.host).await;
            w.host.faults.set(0);
            failed += u32::from(made.is_err());
            let size = w.image.virtual_size();
            let _ = w.image.write(&w.host, size / 2, IoBuf::from_bytes(&[2; 512])).await;
            let _ = w.image.flush(&w.host).await;
            let after = MemHost::new(w.host.bytes());
            if !crate::check::is_dirty(&after).await.unwrap() {
                let mut said = Vec::new();
                let r = check(&after, Fix::None, &mut |l| said.push(l.to_string())).await.unwrap();
                assert_eq!((r.corruptions, r.check_errors), (0, 0), "seed {seed}: {said:#?}");
            }
        });
    }
    assert!(failed > 10, "{failed}");
}
