//! A crash while dirty bitmaps are stored: what is shown as valid afterwards is the truth.

use std::sync::Arc;

use block::bitmap::Bitmap;
use mem::IoBuf;
use rt::sim::{Rng, Sim};

use super::crash::crashed;
use super::mem::MemHost;
use super::random::{open, world};
use crate::check::{Fix, check};

#[test]
fn a_crash_never_leaves_a_valid_bitmap_that_misses_something() {
    for seed in 0..40u64 {
        Sim::new(seed).block_on(async {
            let mut w = world(false, false).await;
            if w.image.header().version < 3 {
                return;
            }
            let size = w.image.virtual_size();
            let a = Arc::new(Bitmap::new("a", size, 512, true, true).unwrap());
            let b = Arc::new(Bitmap::new("b", size, 4096, true, false).unwrap());
            let rng = rt::sim::rng();
            let dirty = || {
                for m in [&a, &b] {
                    m.set(rng.below(size), 1 + rng.below(20_000));
                }
            };
            dirty();
            w.image.modify(&w.host).await.unwrap();
            w.image.store_bitmaps(&w.host, &[a.clone(), b.clone()]).await.unwrap();
            w.image.make_clean(&w.host).await.unwrap();
            w.image = open(&w.host, true).await;
            let base = w.host.file.borrow().clone();
            w.host.logging.set(true);
            let before = [a.bits(), b.bits()];
            w.image.write(&w.host, 0, IoBuf::from_bytes(&[1; 512])).await.unwrap();
            dirty();
            let wrote = w.host.log.borrow().len();
            w.image.store_bitmaps(&w.host, &[a.clone(), b.clone()]).await.unwrap();
            w.image.make_clean(&w.host).await.unwrap();
            let after = [a.bits(), b.bits()];
            let log = w.host.log.borrow().clone();
            let mut rng = Rng::new(seed);
            for _ in 0..30 {
                let at = rng.below(log.len() as u64 + 1) as usize;
                let host = MemHost::new(crashed(&base, &log, at, &mut rng));
                let mut said = Vec::new();
                let r = check(&host, Fix::None, &mut |l| said.push(l.to_string())).await.unwrap();
                assert_eq!((r.corruptions, r.check_errors), (0, 0), "seed {seed} at {at}: {said:#?}");
                let image = open(&host, true).await;
                for m in image.load_bitmaps(&host).await.unwrap() {
                    if m.inconsistent() {
                        continue;
                    }
                    let i = usize::from(m.name() == "b");
                    // What was stored before counts only until the first write has reached the file.
                    let fine = m.bits() == after[i] || (at < wrote && m.bits() == before[i]);
                    assert!(fine, "seed {seed} at {at} of {}: {}", log.len(), m.name());
                }
            }
            // Stored properly, they are all there.
            let last = MemHost::new(w.host.file.borrow().clone());
            let image = open(&last, false).await;
            let all = image.load_bitmaps(&last).await.unwrap();
            assert_eq!(
                all.iter().map(|m| m.bits()).collect::<Vec<_>>(),
                [after[1].clone(), after[0].clone()]
            );
        });
    }
}
