//! Locks and signals: order, exclusion, dropped waiters, many threads; mostly in the simulation, which tries orders.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rt::IoThread;
use rt::sim::Sim;
use rt::sync::{Mutex, Notify, RwLock, Semaphore, oneshot};

#[test]
fn mutex_excludes_and_is_fair() {
    for seed in 0..200 {
        Sim::new(seed).block_on(async {
            let m = Rc::new(Mutex::new(Vec::new()));
            let arrived = Rc::new(RefCell::new(Vec::new()));
            let guard = m.lock().await;
            let tasks: Vec<_> = (0..10)
                .map(|i| {
                    let (m, arrived) = (m.clone(), arrived.clone());
                    rt::spawn_local(async move {
                        arrived.borrow_mut().push(i);
                        let mut g = m.lock().await;
                        let n = g.len();
                        rt::yield_now().await;
                        assert_eq!(g.len(), n, "nobody else was inside");
                        g.push(i);
                    })
                })
                .collect();
            rt::sleep(Duration::from_millis(1)).await;
            assert!(m.try_lock().is_none());
            drop(guard);
            for t in tasks {
                t.await;
            }
            assert_eq!(*m.lock().await, *arrived.borrow(), "first come, first served");
        });
    }
}

#[test]
fn locks_stand_waiters_being_aborted() {
    for seed in 0..300 {
        Sim::new(seed).block_on(async {
            let m = Rc::new(Mutex::new(0u32));
            let l = Rc::new(RwLock::new(0u32));
            let s = Rc::new(Semaphore::new(3));
            let tasks: Vec<_> = (0..30)
                .map(|i| {
                    let (m, l, s) = (m.clone(), l.clone(), s.clone());
                    rt::spawn_local(async move {
                        let _p = s.acquire_many(1 + i % 3).await;
                        let mut g = m.lock().await;
                        rt::yield_now().await;
                        *g += 1;
                        drop(g);
                        if i % 4 == 0 {
                            let mut w = l.write().await;
                            let before = *w;
                            rt::yield_now().await;
                            *w = before + 1;
                        } else {
                            let r = l.read().await;
                            let before = *r;
                            rt::yield_now().await;
                            assert_eq!(*r, before, "no writer beside a reader");
                        }
                    })
                })
                .collect();
            for (i, t) in tasks.iter().enumerate() {
                if rt::sim::rng().chance(1, 2) {
                    rt::yield_now().await;
                }
                if i % 2 == 0 {
                    t.abort();
                }
            }
            for t in tasks {
                let _ = t.outcome().await;
            }
            // Whatever was cut off, everything is free again.
            assert!(m.try_lock().is_some());
            assert!(l.try_write().is_some());
            assert_eq!(s.available(), 3);
        });
    }
}

#[test]
fn a_writer_is_not_overtaken_by_readers() {
    Sim::new(3).block_on(async {
        let l = Rc::new(RwLock::new(()));
        let r1 = l.read().await;
        let l2 = l.clone();
        let w = rt::spawn_local(async move { drop(l2.write().await) });
        rt::sleep(Duration::from_millis(1)).await;
        assert!(l.try_read().is_none(), "a writer waits");
        drop(r1);
        w.await;
        assert!(l.try_read().is_some());
    });
}

#[test]
fn notify_one_is_stored_and_not_lost_with_its_waiter() {
    for seed in 0..100 {
        Sim::new(seed).block_on(async {
            let n = Rc::new(Notify::new());
            n.notify_one();
            n.notified().await;
            let woken = Rc::new(Cell::new(0));
            let waiter = || {
                let (n, woken) = (n.clone(), woken.clone());
                rt::spawn_local(async move {
                    n.notified().await;
                    woken.set(woken.get() + 1);
                })
            };
            let (a, b) = (waiter(), waiter());
            rt::sleep(Duration::from_millis(1)).await;
            n.notify_one();
            // Whichever was woken: if it is aborted before it ran, the other gets the signal.
            a.abort();
            rt::sleep(Duration::from_millis(1)).await;
            assert_eq!(woken.get(), 1);
            n.notify_all();
            let _ = a.outcome().await;
            let _ = b.outcome().await;
        });
    }
}

#[test]
fn notify_all_counts_for_futures_made_before_it() {
    Sim::new(1).block_on(async {
        let n = Notify::new();
        let early = n.notified();
        n.notify_all();
        early.await;
        assert!(rt::timeout(Duration::from_secs(1), n.notified()).await.is_none());
    });
}

#[test]
fn oneshot_tells_of_a_dropped_end() {
    Sim::new(1).block_on(async {
        let (tx, rx) = oneshot::channel::<u8>();
        drop(tx);
        assert_eq!(rx.await, None);
        let (tx, rx) = oneshot::channel();
        drop(rx);
        assert!(tx.is_closed());
        assert_eq!(tx.send(5), Err(5));
    });
}

#[test]
fn a_mutex_is_shared_by_threads() {
    let m = Arc::new(Mutex::new(0u64));
    let threads: Vec<_> = (0..4).map(|i| IoThread::spawn(&format!("mutex-{i}")).unwrap()).collect();
    rt::block_on(async {
        let mut joins = Vec::new();
        for t in &threads {
            for _ in 0..8 {
                let m = m.clone();
                joins.push(t.handle().spawn(move || async move {
                    for _ in 0..200 {
                        let mut g = m.lock().await;
                        let v = *g;
                        if v % 16 == 0 {
                            rt::yield_now().await;
                        }
                        *g = v + 1;
                    }
                }));
            }
        }
        for j in joins {
            j.await;
        }
        assert_eq!(*m.lock().await, 4 * 8 * 200);
    });
}
