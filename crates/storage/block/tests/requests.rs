//! The request core: alignment, ordering, flushes, zeroes, bounds, lengths, cancellation.

mod common;
use base::Errno;
use block::driver::{Limits, Prealloc, WriteFlags, ZeroFlags};
use block::testing::{Faults, create_cow};
use block::{Perm, Root, RootConfig, RootEvent};
use common::{Bed, SIZE, o, run, writer};
use mem::IoBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

async fn raw(b: &Bed, more: &str) -> Arc<Root> {
    b.add(&format!("{{'driver':'file','node-name':'f','filename':'r0'{more}}}")).await;
    b.add(&format!("{{'driver':'raw','node-name':'r','file':'f'{more}}}")).await;
    b.writer("r").await
}

async fn read(root: &Root, off: u64, len: usize) -> Vec<u8> {
    let buf = IoBuf::zeroed(len);
    buf.fill(0xEE);
    root.read(off, buf.clone()).await.expect("read");
    buf.to_vec()
}

#[test]
fn unaligned_writes_keep_their_neighbours() {
    run(|b| async move {
        let limits = Limits {
            request_alignment: 4096,
            buffer_alignment: 512,
            max_transfer: 8192,
            ..Limits::default()
        };
        b.world.disk("r0").unwrap().set_limits(limits);
        let root = raw(&b, "").await;
        root.write(5000, IoBuf::from_bytes(&[9]), WriteFlags::empty()).await.unwrap();
        root.write(4095, IoBuf::from_bytes(&[1, 2, 3]), WriteFlags::empty()).await.unwrap();
        let mut want = vec![0x11; SIZE as usize];
        want[5000] = 9;
        want[4095..4098].copy_from_slice(&[1, 2, 3]);
        // A long write from an odd place in memory.
        let long = IoBuf::from_bytes(&vec![4; 20_001]);
        root.write(30_001, long.slice(1..20_001), WriteFlags::empty()).await.unwrap();
        want[30_001..50_001].fill(4);
        assert_eq!(b.world.disk("r0").unwrap().bytes(), want);
        assert_eq!(read(&root, 4094, 5).await, [0x11, 1, 2, 3, 0x11]);
        root.detach().await;
    });
}

#[test]
fn overlapping_read_modify_writes_do_not_lose_each_other() {
    run(|b| async move {
        b.world.disk("r0").unwrap().set_limits(Limits { request_alignment: 4096, ..Limits::default() });
        b.world.set_faults(Faults { delay: 900, ..Faults::default() });
        let root = raw(&b, "").await;
        let tasks: Vec<_> = (0..64u64)
            .map(|i| {
                let root = root.clone();
                rt::spawn_local(async move {
                    root.write(i * 100, IoBuf::from_bytes(&[i as u8; 100]), WriteFlags::empty()).await
                })
            })
            .collect();
        for t in tasks {
            t.await.unwrap();
        }
        for i in 0..64 {
            assert_eq!(read(&root, i * 100, 100).await, [i as u8; 100]);
        }
        root.detach().await;
    });
}

#[test]
fn flushes_happen_when_there_is_something_to_flush() {
    run(|b| async move {
        let root = raw(&b, "").await;
        let disk = b.world.disk("r0").unwrap();
        root.flush().await.unwrap();
        assert_eq!(disk.flushes(), 0);
        root.write(0, IoBuf::from_bytes(&[1]), WriteFlags::empty()).await.unwrap();
        root.flush().await.unwrap();
        root.flush().await.unwrap();
        assert_eq!(disk.flushes(), 1);
        root.write(0, IoBuf::from_bytes(&[2]), WriteFlags::FUA).await.unwrap();
        assert_eq!(disk.flushes(), 2);
        assert_eq!(disk.stable_bytes()[0], 2);
        // A flush that fails does not count.
        root.write(0, IoBuf::from_bytes(&[3]), WriteFlags::empty()).await.unwrap();
        b.world.set_faults(Faults { flush: 1000, ..Faults::default() });
        assert_eq!(root.flush().await, Err(Errno::IO));
        b.world.set_faults(Faults::default());
        root.flush().await.unwrap();
        assert_eq!(disk.stable_bytes()[0], 3);
        root.detach().await;
    });
}

#[test]
fn no_flush_is_honoured_and_writethrough_too() {
    run(|b| async move {
        let root = raw(&b, ",'cache':{'no-flush':true}").await;
        root.write(0, IoBuf::from_bytes(&[1]), WriteFlags::FUA).await.unwrap();
        root.flush().await.unwrap();
        assert_eq!(b.world.disk("r0").unwrap().flushes(), 0);
        root.detach().await;
        let drive = "if=none,id=d,format=raw,file=r1,cache=writethrough";
        b.graph.add_drive(block::Drive::parse(drive).unwrap()).await.unwrap();
        let root = b.writer("d").await;
        root.write(0, IoBuf::from_bytes(&[1]), WriteFlags::empty()).await.unwrap();
        assert_eq!(b.world.disk("r1").unwrap().flushes(), 1);
        root.detach().await;
    });
}

#[test]
fn bounds_and_permissions() {
    run(|b| async move {
        let root = raw(&b, "").await;
        let one = || IoBuf::from_bytes(&[1]);
        for off in [SIZE, SIZE + 1, u64::MAX, u64::MAX - 1, 1 << 63] {
            assert_eq!(root.read(off, one()).await, Err(Errno::IO), "{off}");
            assert_eq!(root.write(off, one(), WriteFlags::empty()).await, Err(Errno::IO));
            assert_eq!(root.write_zeroes(off, 1, ZeroFlags::empty()).await, Err(Errno::IO));
            assert_eq!(root.discard(off, 1).await, Err(Errno::IO));
            assert!(root.map(off, 1).await.is_err());
        }
        root.read(SIZE, IoBuf::new()).await.unwrap();
        assert_eq!(root.truncate(SIZE * 2, true, Prealloc::Off).await, Err(Errno::PERM));
        root.detach().await;
        assert_eq!(root.read(0, one()).await, Err(Errno::NOMEDIUM));
        let config = RootConfig { perm: Perm::CONSISTENT_READ, shared: Perm::all(), ..RootConfig::default() };
        let reader = b.graph.attach("r", config).await.unwrap();
        assert_eq!(reader.write(0, one(), WriteFlags::empty()).await, Err(Errno::PERM));
        assert_eq!(reader.write_zeroes(0, 1, ZeroFlags::empty()).await, Err(Errno::PERM));
        assert_eq!(reader.discard(0, 1).await, Err(Errno::PERM));
        reader.detach().await;
    });
}

#[test]
fn zeroes() {
    run(|b| async move {
        b.world.disk("r0").unwrap().set_limits(Limits { request_alignment: 512, ..Limits::default() });
        let root = raw(&b, ",'discard':'unmap','detect-zeroes':'unmap'").await;
        root.write_zeroes(100, 10_000, ZeroFlags::empty()).await.unwrap();
        root.write(20_000, IoBuf::zeroed(9000), WriteFlags::empty()).await.unwrap();
        let mut want = vec![0x11; SIZE as usize];
        want[100..10_100].fill(0);
        want[20_000..29_000].fill(0);
        assert_eq!(b.world.disk("r0").unwrap().bytes(), want);
        let st = root.map(4096, 4096).await.unwrap();
        assert!(st.zero && !st.data && st.len == 4096 && st.filename.as_deref() == Some("r0"));
        root.detach().await;
    });
}

#[test]
fn discard_goes_down_only_where_asked() {
    run(|b| async move {
        let root = raw(&b, "").await;
        root.discard(0, 4096).await.unwrap();
        assert_eq!(read(&root, 0, 1).await, [0x11]);
        root.detach().await;
        let b = Bed::new();
        let root = raw(&b, ",'discard':'unmap'").await;
        root.discard(0, 4096).await.unwrap();
        assert_eq!(read(&root, 0, 1).await, [0]);
        root.detach().await;
    });
}

#[test]
fn a_short_backing_file_is_followed_by_zeroes() {
    run(|b| async move {
        b.world.create("short", vec![5; 3000]);
        b.add(
            "{'driver':'raw','node-name':'s','read-only':true,'file':{'driver':'file','filename':'short'}}",
        )
        .await;
        b.add(&o(3, ",'backing':'s'")).await;
        let root = b.writer("hd3").await;
        let got = read(&root, 0, 8192).await;
        assert!(got[..3000].iter().all(|x| *x == 5) && got[3000..].iter().all(|x| *x == 0));
        let st = root.map(0, SIZE).await.unwrap();
        assert_eq!((st.len, st.depth, st.allocated), (3000, 1, true));
        let st = root.map(3000, SIZE - 3000).await.unwrap();
        assert!(st.zero && !st.data, "{st:?}");
        // Copying up a cluster keeps what was visible.
        root.write(2000, IoBuf::from_bytes(&[6]), WriteFlags::empty()).await.unwrap();
        // All runs together are what they are one by one.
        let (mut one_by_one, mut at) = (Vec::new(), 0);
        while at < SIZE {
            let st = root.map(at, SIZE - at).await.unwrap();
            at += st.len;
            one_by_one.push(st);
        }
        assert!(one_by_one.len() > 1);
        assert_eq!(root.map_runs(0, SIZE, 100).await.unwrap(), one_by_one);
        assert_eq!(root.map_runs(0, SIZE, 1).await.unwrap(), one_by_one[..1]);
        assert!(root.map_runs(0, SIZE + 1, 100).await.is_err());
        let got = read(&root, 0, 8192).await;
        assert_eq!((got[1999], got[2000], got[2001], got[2999], got[3000]), (5, 6, 5, 5, 0));
        root.detach().await;
    });
}

#[test]
fn a_length_that_changes_is_told() {
    run(|b| async move {
        b.add("{'driver':'file','node-name':'f','filename':'r0'}").await;
        b.add("{'driver':'raw','node-name':'r','file':'f'}").await;
        let told = Arc::new(AtomicUsize::new(0));
        let t = told.clone();
        let config = RootConfig {
            perm: Perm::CONSISTENT_READ | Perm::WRITE | Perm::RESIZE,
            on_change: Some(Arc::new(move |e| {
                assert_eq!(e, RootEvent::Resized);
                t.fetch_add(1, SeqCst);
            })),
            ..writer("r")
        };
        let root = b.graph.attach("r", config).await.unwrap();
        root.truncate(SIZE * 2, true, Prealloc::Off).await.unwrap();
        assert_eq!(root.len(), SIZE * 2);
        assert!(told.load(SeqCst) > 0);
        assert_eq!(read(&root, SIZE, 10).await, [0; 10]);
        assert_eq!(root.truncate(u64::MAX, true, Prealloc::Off).await, Err(Errno::FBIG));
        root.detach().await;
    });
}

#[test]
fn a_request_that_is_given_up_goes_on_and_a_drain_waits_for_it() {
    run(|b| async move {
        b.world.set_faults(Faults { delay: 1000, ..Faults::default() });
        let root = raw(&b, "").await;
        for i in 0..20u8 {
            let data = IoBuf::from_bytes(&[i; 4096]);
            let patience = Duration::from_nanos(u64::from(i));
            let done = rt::timeout(patience, root.write(0, data, WriteFlags::empty())).await;
            let drained = b.graph.drain_all().await;
            assert_eq!(root.in_flight(), 0);
            let bytes = b.world.disk("r0").unwrap().bytes();
            assert!(bytes[..4096].iter().all(|x| *x == bytes[0]), "half a request");
            if done.is_some() {
                assert_eq!(bytes[0], i);
            }
            drop(drained);
        }
        root.detach().await;
    });
}

#[test]
fn a_drained_section_holds_requests_back() {
    run(|b| async move {
        let root = raw(&b, "").await;
        let drained = b.graph.drain_all().await;
        let r = root.clone();
        let write =
            rt::spawn_local(async move { r.write(0, IoBuf::from_bytes(&[1]), WriteFlags::empty()).await });
        rt::sleep(Duration::from_secs(1)).await;
        assert!(!write.is_finished());
        assert_eq!(b.world.disk("r0").unwrap().bytes()[0], 0x11);
        drop(drained);
        write.await.unwrap();
        assert_eq!(b.world.disk("r0").unwrap().bytes()[0], 1);
        root.detach().await;
    });
}

#[test]
fn everything_is_written_back_at_the_end() {
    run(|b| async move {
        create_cow(&b.world, "c", SIZE, None);
        b.add("{'driver':'qcow2','node-name':'c','file':{'driver':'file','filename':'c'}}").await;
        let root = b.writer("c").await;
        root.write(0, IoBuf::from_bytes(&[7; 100]), WriteFlags::empty()).await.unwrap();
        b.graph.close_all().await;
        assert_eq!(root.read(0, IoBuf::zeroed(1)).await, Err(Errno::NOMEDIUM));
        root.detach().await;
        b.world.disk("c").unwrap().crash();
        b.add("{'driver':'qcow2','node-name':'c','file':{'driver':'file','filename':'c'}}").await;
        let root = b.writer("c").await;
        assert_eq!(read(&root, 0, 100).await, [7; 100]);
        root.detach().await;
    });
}
