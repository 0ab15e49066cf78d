//! Tasks, timers, wakes across threads and the blocking pool, on both backends.

use std::cell::{Cell, RefCell};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rt::{AsyncFd, Backend, Conduct, Executor, IoThread, JoinError};

/// Every executor that this machine can make.
fn executors() -> Vec<Executor> {
    [Backend::Uring, Backend::Epoll]
        .into_iter()
        .filter_map(|b| match Executor::with_backend(b) {
            Ok(e) => Some(e),
            Err(e) => {
                println!("skipped: {b:?}: {e}");
                None
            }
        })
        .chain(Executor::with_conduct(Conduct::storage()))
        .collect()
}

#[test]
fn tasks_run_and_join() {
    for ex in executors() {
        let sum = ex.block_on(async {
            let handles: Vec<_> = (0..100)
                .map(|i| {
                    rt::spawn_local(async move {
                        rt::yield_now().await;
                        i
                    })
                })
                .collect();
            let mut sum = 0;
            for h in handles {
                sum += h.await;
            }
            sum
        });
        assert_eq!(sum, 4950);
    }
}

#[test]
fn tasks_survive_between_calls_of_block_on() {
    for ex in executors() {
        let n = Rc::new(Cell::new(0));
        let n2 = n.clone();
        ex.block_on(async {
            rt::spawn_local(async move {
                for _ in 0..10 {
                    n2.set(n2.get() + 1);
                    rt::yield_now().await;
                }
            });
        });
        ex.block_on(rt::sleep(Duration::from_millis(5)));
        assert_eq!(n.get(), 10);
    }
}

struct OnDrop(Rc<Cell<u32>>);

impl Drop for OnDrop {
    fn drop(&mut self) {
        self.0.set(self.0.get() + 1);
    }
}

#[test]
fn abort_drops_the_future() {
    for ex in executors() {
        let dropped = Rc::new(Cell::new(0));
        let d = dropped.clone();
        ex.block_on(async {
            let h = rt::spawn_local(async move {
                let _guard = OnDrop(d);
                std::future::pending::<()>().await;
            });
            rt::yield_now().await;
            assert!(!h.is_finished());
            h.abort();
            assert!(matches!(h.outcome().await, Err(JoinError::Aborted)));
        });
        assert_eq!(dropped.get(), 1);
    }
}

#[test]
fn dropping_the_executor_drops_tasks_inside_it() {
    for ex in executors() {
        let dropped = Rc::new(Cell::new(0));
        struct SpawnOnDrop(Rc<Cell<u32>>);
        impl Drop for SpawnOnDrop {
            fn drop(&mut self) {
                let inner = OnDrop(self.0.clone());
                // A destructor may spawn: that task is dropped in turn.
                drop(rt::spawn_local(async move {
                    let _inner = inner;
                }));
            }
        }
        let guard = SpawnOnDrop(dropped.clone());
        ex.block_on(async {
            rt::spawn_local(async move {
                let _guard = guard;
                std::future::pending::<()>().await;
            });
        });
        drop(ex);
        assert_eq!(dropped.get(), 1);
    }
}

#[test]
fn a_panic_goes_to_the_joiner_and_the_executor_lives_on() {
    for ex in executors() {
        let out =
            ex.block_on(async { rt::spawn_local(async { panic!("expected by the test") }).outcome().await });
        assert!(matches!(out, Err::<(), _>(JoinError::Panicked(_))));
        assert_eq!(ex.block_on(async { rt::spawn_local(async { 7 }).await }), 7);
    }
}

#[test]
fn timers_fire_in_order_and_not_early() {
    for ex in executors() {
        let order = Rc::new(RefCell::new(Vec::new()));
        ex.block_on(async {
            let start = Instant::now();
            let hs: Vec<_> = [30u64, 10, 20, 0]
                .into_iter()
                .map(|ms| {
                    let order = order.clone();
                    rt::spawn_local(async move {
                        rt::sleep_until(start + Duration::from_millis(ms)).await;
                        assert!(start.elapsed() >= Duration::from_millis(ms));
                        order.borrow_mut().push(ms);
                    })
                })
                .collect();
            for h in hs {
                h.await;
            }
        });
        assert_eq!(*order.borrow(), [0, 10, 20, 30]);
    }
}

#[test]
fn timeout_gives_up_and_gives_results() {
    for ex in executors() {
        ex.block_on(async {
            assert_eq!(rt::timeout(Duration::from_millis(5), std::future::pending::<()>()).await, None);
            assert_eq!(rt::timeout(Duration::from_secs(3600), async { 3 }).await, Some(3));
            assert_eq!(rt::timeout(Duration::MAX, async { 4 }).await, Some(4));
        });
    }
}

#[test]
fn other_threads_spawn_and_wake() {
    for ex in executors() {
        let handle = ex.handle();
        let (tx, rx) = rt::sync::oneshot::channel();
        let t = std::thread::spawn(move || {
            let mut joins = Vec::new();
            for i in 0..1000u32 {
                // The future is not Send; only its maker is.
                joins.push(handle.spawn(move || {
                    let v = Rc::new(i);
                    async move {
                        rt::yield_now().await;
                        *v
                    }
                }));
            }
            assert!(!handle.is_current());
            std::thread::sleep(Duration::from_millis(20));
            let _ = tx.send(());
            joins
        });
        // The executor sleeps without a timer until the other thread signals.
        assert_eq!(ex.block_on(rx), Some(()));
        let joins = t.join().unwrap();
        let sum: u32 = ex.block_on(async {
            let mut s = 0;
            for j in joins {
                s += j.await;
            }
            s
        });
        assert_eq!(sum, 499_500);
    }
}

#[test]
fn an_idle_executor_uses_no_cpu() {
    fn thread_cpu() -> Duration {
        let t = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        Duration::new(t.tv_sec as u64, t.tv_nsec as u32)
    }
    for ex in executors() {
        let before = thread_cpu();
        ex.block_on(rt::sleep(Duration::from_millis(200)));
        let used = thread_cpu() - before;
        assert!(used < Duration::from_millis(50), "{:?}: {used:?}", ex.backend());
    }
}

#[test]
fn io_threads_run_tasks_and_stop() {
    let a = IoThread::spawn("io-a").unwrap();
    let b = IoThread::spawn("io-b").unwrap();
    let hb = b.handle();
    let ex = Executor::new().unwrap();
    let v = ex.block_on(async {
        a.handle()
            .spawn(move || async move {
                let here = rt::current();
                assert!(here.is_current() && !hb.is_current());
                hb.spawn(|| async { 40 }).await + 2
            })
            .await
    });
    assert_eq!(v, 42);
    let ha = a.handle();
    drop(a);
    // Its executor has ended: the task never runs, and the joiner is told.
    let out = ex.block_on(ha.spawn(|| async { 1 }).outcome());
    assert!(matches!(out, Err(JoinError::Aborted)));
}

/// An executor ends while others still wake it and spawn on it.
#[test]
fn nothing_is_missed_between_looking_for_work_and_sleeping() {
    let [a, b] = ["ping", "pong"].map(|n| IoThread::spawn_as(n, Conduct::storage()).unwrap());
    let (a, b) = (a.handle(), b.handle());
    let done = rt::block_on(a.spawn(move || async move {
        let mut sum = 0;
        for i in 0..5000u64 {
            sum += b.spawn(move || async move { i }).await;
            if i % 500 == 0 {
                // Longer than anybody looks, so that both sleep.
                rt::sleep(Duration::from_millis(1)).await;
            }
        }
        sum
    }));
    assert_eq!(done, 5000 * 4999 / 2);
}

#[test]
fn ending_under_fire() {
    for _ in 0..300 {
        for ex in executors() {
            let handle = ex.handle();
            let t = std::thread::spawn(move || {
                (0..20).map(|i| handle.spawn(move || async move { i })).collect::<Vec<_>>()
            });
            ex.block_on(rt::yield_now());
            drop(ex);
            let joins = t.join().unwrap();
            // Each has run or counts as aborted; none is left hanging.
            Executor::with_backend(Backend::Epoll).unwrap().block_on(async {
                for j in joins {
                    let _ = rt::timeout(Duration::from_secs(5), j.outcome()).await.expect("an end");
                }
            });
        }
    }
}

#[test]
fn unblock_runs_many_on_few_threads() {
    for ex in executors() {
        let most = Arc::new(AtomicUsize::new(0));
        let now = Arc::new(AtomicUsize::new(0));
        ex.block_on(async {
            let all: Vec<_> = (0..300usize)
                .map(|i| {
                    let (most, now) = (most.clone(), now.clone());
                    rt::unblock(move || {
                        most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                        std::thread::sleep(Duration::from_micros(200));
                        now.fetch_sub(1, Ordering::SeqCst);
                        i
                    })
                })
                .collect();
            for (i, f) in all.into_iter().enumerate() {
                assert_eq!(f.await, i);
            }
        });
        assert!(most.load(Ordering::SeqCst) <= 64);
    }
}

#[test]
fn unblock_raises_the_panic_where_it_is_awaited() {
    for ex in executors() {
        let out = ex.block_on(async {
            rt::spawn_local(async { rt::unblock(|| panic!("expected by the test")).await }).outcome().await
        });
        assert!(matches!(out, Err::<(), _>(JoinError::Panicked(_))));
    }
}

fn pipe() -> (AsyncFd, AsyncFd) {
    let (r, w): (OwnedFd, OwnedFd) = rustix::pipe::pipe().unwrap();
    (AsyncFd::new(r).unwrap(), AsyncFd::new(w).unwrap())
}

#[test]
fn descriptors_become_readable_and_writable() {
    for ex in executors() {
        ex.block_on(async {
            let (r, w) = pipe();
            assert!(rt::timeout(Duration::from_millis(10), r.readable()).await.is_none());
            w.writable().await.unwrap();
            let r2 = r.clone();
            let reader = rt::spawn_local(async move {
                r2.readable().await.unwrap();
                let mut b = [0; 8];
                rustix::io::read(r2.fd(), &mut b).unwrap()
            });
            // Two waiters on one descriptor.
            let r3 = r.clone();
            let other = rt::spawn_local(async move { r3.readable().await });
            rt::yield_now().await;
            rustix::io::write(w.fd(), b"hello").unwrap();
            assert_eq!(reader.await, 5);
            let _ = rt::timeout(Duration::from_millis(50), other).await;
            // Fill the pipe: no longer writable; the reader's end makes it so again.
            while rustix::io::write(w.fd(), &[0; 4096]).is_ok() {}
            assert!(rt::timeout(Duration::from_millis(10), w.writable()).await.is_none());
            drop(r);
            // The other clones have ended with their tasks: the pipe is broken, which counts as ready.
            rt::timeout(Duration::from_secs(5), w.writable()).await.expect("wakes").unwrap();
        });
    }
}

#[test]
fn a_hang_up_wakes_the_reader() {
    for ex in executors() {
        ex.block_on(async {
            let (r, w) = pipe();
            let h = rt::spawn_local(async move { r.readable().await });
            rt::sleep(Duration::from_millis(5)).await;
            drop(w);
            rt::timeout(Duration::from_secs(5), h).await.expect("wakes").unwrap();
        });
    }
}

#[test]
fn regular_files_are_always_ready() {
    for ex in executors() {
        let f = AsyncFd::new(std::fs::File::open("/proc/self/exe").unwrap().into()).unwrap();
        ex.block_on(async {
            f.readable().await.unwrap();
            f.writable().await.unwrap();
        });
    }
}
