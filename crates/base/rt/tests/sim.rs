//! The simulation: the same seed gives the same run, time is virtual, and a deadlock is found.

use std::cell::RefCell;
use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::{Duration, Instant};

use rt::sim::{Rng, Sim};

fn trace(seed: u64) -> Vec<u32> {
    let log = Rc::new(RefCell::new(Vec::new()));
    Sim::new(seed).block_on(async {
        let tasks: Vec<_> = (0..8u32)
            .map(|i| {
                let log = log.clone();
                rt::spawn_local(async move {
                    for k in 0..4 {
                        log.borrow_mut().push(i * 10 + k);
                        match rt::sim::rng().below(3) {
                            0 => rt::sleep(Duration::from_micros(rt::sim::rng().range(1, 50))).await,
                            1 => rt::unblock(|| ()).await,
                            _ => rt::yield_now().await,
                        }
                    }
                })
            })
            .collect();
        for t in tasks {
            t.await;
        }
    });
    log.take()
}

#[test]
fn a_seed_is_a_run() {
    let mut seen = HashSet::new();
    for seed in 0..50 {
        let t = trace(seed);
        assert_eq!(t, trace(seed));
        seen.insert(t);
    }
    assert!(seen.len() > 45, "seeds give different orders");
}

#[test]
fn time_is_virtual() {
    let real = Instant::now();
    let sim = Sim::new(1);
    sim.block_on(async {
        let start = rt::now();
        rt::sleep(Duration::from_secs(86_400)).await;
        assert_eq!(rt::now() - start, Duration::from_secs(86_400));
        assert!(rt::timeout(Duration::from_secs(5), std::future::pending::<()>()).await.is_none());
    });
    assert_eq!(sim.elapsed(), Duration::from_secs(86_405));
    assert!(real.elapsed() < Duration::from_secs(60));
}

#[test]
fn a_deadlock_is_a_panic_with_the_seed() {
    let p = catch_unwind(AssertUnwindSafe(|| {
        Sim::new(4711).block_on(async {
            rt::spawn_local(std::future::pending::<()>());
            std::future::pending::<()>().await;
        });
    }))
    .unwrap_err();
    let text = p.downcast_ref::<String>().unwrap();
    assert!(text.contains("4711") && text.contains("deadlock"), "{text}");
}

#[test]
fn handles_and_aborts_work_as_outside() {
    Sim::new(9).block_on(async {
        let h = rt::current();
        assert!(h.is_current());
        assert_eq!(h.spawn(|| async { 5 }).await, 5);
        let t = rt::spawn_local(rt::sleep(Duration::from_secs(1)));
        rt::yield_now().await;
        t.abort();
        assert!(t.outcome().await.is_err());
        // What runs on after its future was dropped runs here too.
        let (tx, rx) = rt::sync::oneshot::channel();
        drop(rt::unblock(move || tx.send(1)));
        assert_eq!(rx.await, Some(1));
    });
}

#[test]
fn random_numbers_are_spread() {
    let mut r = Rng::new(5);
    let mut hist = [0u32; 10];
    for _ in 0..10_000 {
        hist[r.below(10) as usize] += 1;
        assert!((5..7).contains(&r.range(5, 7)));
    }
    assert!(hist.iter().all(|n| (800..1200).contains(n)), "{hist:?}");
    let mut b = [0; 13];
    r.fill(&mut b);
    assert_ne!(b, [0; 13]);
}
