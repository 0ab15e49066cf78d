//! File operations, on both backends and in every mode; among them what happens to dropped futures.

use std::fs::OpenOptions;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use base::Errno;
use mem::{IoBuf, Memory};
use rt::file::File;
use rt::{AioMode, Backend, Conduct, Executor};

const MODES: [AioMode; 3] = [AioMode::Threads, AioMode::Native, AioMode::IoUring];

struct Temp(PathBuf);

impl Temp {
    fn new(name: &str) -> Temp {
        let p = std::env::temp_dir().join(format!("rhea-rt-{}-{name}", std::process::id()));
        std::fs::write(&p, b"").unwrap();
        Temp(p)
    }

    fn open(&self, mode: AioMode) -> File {
        let f = OpenOptions::new().read(true).write(true).open(&self.0).unwrap();
        File::from_fd(f.into(), mode)
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn each(name: &str, f: impl AsyncFn(File, Temp)) {
    let kinds = [
        ("ring", Executor::with_backend(Backend::Uring)),
        ("epoll", Executor::with_backend(Backend::Epoll)),
        ("storage", Executor::with_conduct(Conduct::storage())),
    ];
    for (kind, made) in kinds {
        let ex = match made {
            Ok(e) => e,
            Err(e) => {
                println!("skipped: {kind}: {e}");
                continue;
            }
        };
        for mode in MODES {
            let t = Temp::new(&format!("{name}-{kind}-{mode:?}"));
            let file = t.open(mode);
            ex.block_on(f(file, t));
        }
    }
}

#[test]
fn what_is_written_is_read() {
    each("rw", async |file, _t| {
        let data: Vec<u8> = (0..100_000u32).map(|i| (i * 7) as u8).collect();
        assert_eq!(file.write_at(1000, IoBuf::from_bytes(&data), false).await, Ok(data.len()));
        assert_eq!(file.write_at(500, IoBuf::from_bytes(b"abc"), true).await, Ok(3));
        file.sync_data().await.unwrap();
        let buf = IoBuf::zeroed(data.len());
        assert_eq!(file.read_at(1000, buf.clone()).await, Ok(data.len()));
        assert_eq!(buf.to_vec(), data);
        // Short at the end, then nothing.
        let buf = IoBuf::zeroed(4096);
        assert_eq!(file.read_at(101_000 - 10, buf.clone()).await, Ok(10));
        assert_eq!(file.read_at(101_000, buf.clone()).await, Ok(0));
        assert_eq!(file.read_at(0, IoBuf::new()).await, Ok(0));
        assert_eq!(file.read_at(u64::MAX, buf).await, Err(Errno::INVAL));
    });
}

#[test]
fn scattered_buffers() {
    each("iov", async |file, _t| {
        let mut out = IoBuf::new();
        let mut expect = Vec::new();
        // More segments than one call takes, so the result is short; and in blocks that do not touch.
        for i in 0..1500u32 {
            let m = Memory::from_slice(&[i as u8; 7]);
            out.push(m, 1, 5);
            expect.extend([i as u8; 5]);
        }
        let n = file.write_at(0, out.clone(), false).await.unwrap();
        assert_eq!(n, 1024 * 5);
        let m = file.write_at(n as u64, out.slice(n..out.len()), false).await.unwrap();
        assert_eq!(n + m, expect.len());
        let mut back = IoBuf::new();
        back.append(IoBuf::zeroed(1000));
        back.append(IoBuf::zeroed(6500));
        assert_eq!(file.read_at(0, back.clone()).await, Ok(7500));
        assert_eq!(back.to_vec(), expect);
    });
}

#[test]
fn fallocate_and_its_errors() {
    each("falloc", async |file, t| {
        file.fallocate(0, 0, 1 << 20).await.unwrap();
        assert_eq!(std::fs::metadata(&t.0).unwrap().len(), 1 << 20);
        file.write_at(0, IoBuf::from_bytes(&[1; 8192]), false).await.unwrap();
        let punch = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        match file.fallocate(punch, 0, 4096).await {
            Ok(()) => {
                let buf = IoBuf::zeroed(8192);
                file.read_at(0, buf.clone()).await.unwrap();
                assert!(buf.slice(0..4096).is_zero() && !buf.slice(4096..8192).is_zero());
            }
            Err(e) => assert_eq!(e, Errno::NOTSUP),
        }
        assert_eq!(file.fallocate(0, 0, u64::MAX).await, Err(Errno::INVAL));
    });
}

#[test]
fn errors_are_the_systems() {
    each("err", async |file, t| {
        let ro = File::from_fd(std::fs::File::open(&t.0).unwrap().into(), file.mode());
        assert_eq!(ro.write_at(0, IoBuf::from_bytes(b"x"), false).await, Err(Errno::BADF));
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let full = File::from_fd(full.into(), file.mode());
        assert_eq!(full.write_at(0, IoBuf::from_bytes(b"x"), false).await, Err(Errno::NOSPC));
    });
}

#[test]
fn hundreds_at_once() {
    each("many", async |file, _t| {
        let tasks: Vec<_> = (0..1000u64)
            .map(|i| {
                let file = file.clone();
                rt::spawn_local(async move {
                    let b = IoBuf::from_bytes(&[i as u8; 512]);
                    assert_eq!(file.write_at(i * 512, b, false).await, Ok(512));
                    let r = IoBuf::zeroed(512);
                    assert_eq!(file.read_at(i * 512, r.clone()).await, Ok(512));
                    assert!(r.to_vec().iter().all(|x| *x == i as u8));
                })
            })
            .collect();
        for t in tasks {
            t.await;
        }
    });
}

#[test]
fn dropped_futures_leave_nothing_dangling() {
    each("drop", async |file, _t| {
        file.write_at(0, IoBuf::from_bytes(&[0xaa; 1 << 16]), false).await.unwrap();
        for i in 0..200u64 {
            let mem = Memory::buffer(4096, 4096);
            let buf = IoBuf::from_memory(mem.clone(), 0, 4096);
            let f = file.clone();
            let h = rt::spawn_local(async move { f.read_at(4096 * (i % 16), buf).await });
            if i % 3 != 0 {
                rt::yield_now().await;
            }
            h.abort();
            let _ = h.outcome().await;
            // Sooner or later the operation lets go of the memory.
            for _ in 0..2000 {
                if std::sync::Arc::strong_count(&mem) == 1 {
                    break;
                }
                rt::sleep(Duration::from_millis(1)).await;
            }
            assert_eq!(std::sync::Arc::strong_count(&mem), 1);
        }
    });
}

/// An operation that never ends by itself: a read of an empty pipe.
#[test]
fn an_executor_can_be_dropped_with_operations_in_flight() {
    let Ok(ex) = Executor::with_backend(Backend::Uring) else {
        println!("skipped: no io_uring");
        return;
    };
    let (r, _w): (OwnedFd, OwnedFd) = rustix::pipe::pipe().unwrap();
    let file = File::from_fd(r, AioMode::IoUring);
    let mem = Memory::buffer(4096, 4096);
    let buf = IoBuf::from_memory(mem.clone(), 0, 4096);
    ex.block_on(async move {
        rt::spawn_local(async move { file.read_at(0, buf).await });
        rt::sleep(Duration::from_millis(5)).await;
    });
    assert_eq!(std::sync::Arc::strong_count(&mem), 3, "the task and the operation hold it");
    drop(ex);
    assert_eq!(std::sync::Arc::strong_count(&mem), 1);
}

#[test]
fn files_work_in_the_simulation() {
    let t = Temp::new("sim");
    let file = t.open(AioMode::IoUring);
    rt::sim::Sim::new(1).block_on(async {
        file.write_at(3, IoBuf::from_bytes(b"xyz"), true).await.unwrap();
        let b = IoBuf::zeroed(6);
        assert_eq!(file.read_at(0, b.clone()).await, Ok(6));
        assert_eq!(b.to_vec(), b"\0\0\0xyz");
    });
}

#[test]
fn many_writes_at_a_time_all_arrive() {
    each("many", async |file, t| {
        for round in 0..20u64 {
            let tasks: Vec<_> = (0..200u64)
                .map(|i| {
                    let file = file.clone();
                    rt::spawn_local(async move {
                        let byte = (i * 7 + round) as u8;
                        let data = vec![byte; 512 + (i as usize % 3) * 256];
                        let n = file.write_at(i * 1024, IoBuf::from_bytes(&data), i % 50 == 0).await;
                        assert_eq!(n, Ok(data.len()));
                        let back = IoBuf::zeroed(data.len());
                        assert_eq!(file.read_at(i * 1024, back.clone()).await, Ok(data.len()));
                        assert_eq!(back.to_vec(), data);
                    })
                })
                .collect();
            for t in tasks {
                t.await;
            }
        }
        let bytes = std::fs::read(&t.0).unwrap();
        assert!((0..200).all(|i| bytes[i * 1024] == (i * 7 + 19) as u8));
    });
}

#[test]
fn writes_behind_others_tell_their_errors() {
    let t = Temp::new("readonly");
    let file = File::from_fd(std::fs::File::open(&t.0).unwrap().into(), AioMode::IoUring);
    rt::block_on(async move {
        let tasks: Vec<_> = (0..20)
            .map(|i| {
                let file = file.clone();
                rt::spawn_local(async move { file.write_at(i, IoBuf::from_bytes(b"x"), false).await })
            })
            .collect();
        for t in tasks {
            assert_eq!(t.await, Err(Errno::BADF));
        }
    });
}
