//! What every writable driver must do, seen through a root. The oracle is a flat array of bytes.

#![allow(dead_code, reason = "each test program uses its part")]

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use api::block_core::{
    BlockdevAioOptions, BlockdevCacheOptions, BlockdevDiscardOptions, BlockdevDriverOptions, BlockdevOptions,
    BlockdevOptionsFile,
};
use base::Errno;
use block::driver::{DriverType, Prealloc, WriteFlags, ZeroFlags};
use block::perm::Perm;
use block::{BlockGraph, Root, RootConfig};
use mem::{IoBuf, Memory};
use rt::sim::Rng;

/// A directory that goes with its owner.
pub struct Dir(std::path::PathBuf);

impl Dir {
    pub fn new(name: &str) -> Dir {
        let p = std::env::temp_dir().join(format!("rhea-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&p);
        std::fs::create_dir_all(&p).unwrap();
        Dir(p)
    }

    pub fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }

    /// A new file of this length.
    pub fn file(&self, name: &str, len: u64) -> String {
        let p = self.path(name);
        std::fs::File::create(&p).unwrap().set_len(len).unwrap();
        p
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub fn named(name: &str, driver: BlockdevDriverOptions) -> BlockdevOptions {
    BlockdevOptions { node_name: Some(name.into()), ..BlockdevOptions::new(driver) }
}

pub fn file_options(name: &str, path: &str) -> BlockdevOptions {
    let o = BlockdevOptionsFile { filename: path.into(), ..Default::default() };
    named(name, BlockdevDriverOptions::File(o))
}

pub fn device_options(name: &str, path: &str) -> BlockdevOptions {
    let o = BlockdevOptionsFile { filename: path.into(), ..Default::default() };
    named(name, BlockdevDriverOptions::HostDevice(o))
}

/// The ways to open a file that all must behave alike.
pub fn file_variants(path: &str) -> Vec<(String, BlockdevOptions)> {
    let mut out = Vec::new();
    for aio in [None, Some(BlockdevAioOptions::Threads), Some(BlockdevAioOptions::Native)] {
        for direct in [false, true] {
            if aio == Some(BlockdevAioOptions::Native) && !direct {
                continue;
            }
            let mut o = file_options("n", path);
            let BlockdevDriverOptions::File(f) = &mut o.driver else { unreachable!() };
            f.aio = aio;
            o.cache = Some(BlockdevCacheOptions { direct: Some(direct), no_flush: None });
            o.discard = Some(BlockdevDiscardOptions::Unmap);
            out.push((format!("aio={aio:?} direct={direct}"), o));
        }
    }
    out
}

pub fn graph(drivers: &[&'static DriverType]) -> Arc<BlockGraph> {
    BlockGraph::new(drivers, monitor::EventBus::new())
}

pub async fn attach(g: &BlockGraph, node: &str, perm: Perm, shared: Perm) -> Result<Arc<Root>, qapi::QError> {
    let config = RootConfig { perm, shared, desc: "a test".into(), ..Default::default() };
    g.attach(node, config).await
}

pub fn poll_once<F: Future>(f: std::pin::Pin<&mut F>) -> Poll<F::Output> {
    f.poll(&mut Context::from_waker(Waker::noop()))
}

/// What the driver under test can do.
#[derive(Clone, Copy)]
pub struct Traits {
    /// It can be made longer and shorter.
    pub resizes: bool,
}

/// Runs `f` on each kind of executor that this machine has.
pub fn on_each_backend(f: impl AsyncFn()) {
    for b in [rt::Backend::Uring, rt::Backend::Epoll] {
        match rt::Executor::with_backend(b) {
            Ok(ex) => ex.block_on(f()),
            Err(e) => println!("skipped: {b:?}: {e}"),
        }
    }
}

/// The whole suite, on a node whose bytes are all zero. At least 256 KiB long.
pub async fn conformance(g: &BlockGraph, node: &str, traits: Traits) {
    let all = Perm::all() - Perm::RESIZE;
    let root = attach(g, node, all, Perm::all()).await.unwrap();
    edges(&root).await;
    let mut model = Model::new(&root).await;
    for seed in 0..3 {
        model.random_requests(&root, seed).await;
    }
    model.check(&root).await;
    parallel(&root).await;
    dropped_requests(&root).await;
    status(&root).await;
    root.detach().await;
    if traits.resizes {
        let root = attach(g, node, Perm::all(), Perm::all()).await.unwrap();
        resize(&root).await;
        root.detach().await;
    }
    let reader = attach(g, node, Perm::CONSISTENT_READ, Perm::all()).await.unwrap();
    assert_eq!(reader.write(0, IoBuf::zeroed(512), WriteFlags::empty()).await, Err(Errno::PERM));
    assert_eq!(reader.discard(0, 512).await, Err(Errno::PERM));
    reader.detach().await;
}

pub async fn read(root: &Root, off: u64, len: usize) -> Vec<u8> {
    let buf = IoBuf::from_bytes(&vec![0xEE; len]);
    root.read(off, buf.clone()).await.unwrap();
    buf.to_vec()
}

/// Sector edges, odd ranges, the end, nothing at all.
async fn edges(root: &Root) {
    let len = root.len();
    assert!(len >= 256 << 10 && len.is_multiple_of(512));
    for off in [0, 1, 511, 512, 513, 4095, 4096, 4097, len - 513, len - 512, len - 1] {
        for n in [1usize, 2, 511, 512, 513, 4096, 8191] {
            if off + n as u64 > len {
                let b = IoBuf::zeroed(n);
                assert_eq!(root.read(off, b.clone()).await, Err(Errno::IO));
                assert_eq!(root.write(off, b, WriteFlags::empty()).await, Err(Errno::IO));
                assert!(root.write_zeroes(off, n as u64, ZeroFlags::empty()).await.is_err());
                assert!(root.discard(off, n as u64).await.is_err());
                continue;
            }
            root.write(off, IoBuf::from_bytes(&vec![0x5A; n]), WriteFlags::empty()).await.unwrap();
            assert_eq!(read(root, off, n).await, vec![0x5A; n], "off {off} len {n}");
            // The neighbours were left alone.
            if off > 0 {
                assert_eq!(read(root, off - 1, 1).await, [0]);
            }
            if off + (n as u64) < len {
                assert_eq!(read(root, off + n as u64, 1).await, [0]);
            }
            root.write_zeroes(off, n as u64, ZeroFlags::MAY_UNMAP).await.unwrap();
            assert_eq!(read(root, off, n).await, vec![0; n]);
        }
    }
    root.read(len, IoBuf::new()).await.unwrap();
    root.write(0, IoBuf::new(), WriteFlags::FUA).await.unwrap();
    root.write_zeroes(0, 0, ZeroFlags::empty()).await.unwrap();
    root.discard(0, 0).await.unwrap();
    root.flush().await.unwrap();
    assert_eq!(root.read(u64::MAX - 100, IoBuf::zeroed(512)).await, Err(Errno::IO));
}

struct Model(Vec<u8>);

impl Model {
    async fn new(root: &Root) -> Model {
        Model(read(root, 0, root.len() as usize).await)
    }

    async fn random_requests(&mut self, root: &Root, seed: u64) {
        let mut rng = Rng::new(seed);
        let len = self.0.len() as u64;
        for _ in 0..150 {
            let off = if rng.chance(1, 2) { rng.below(len / 512) * 512 } else { rng.below(len) };
            let longest = (len - off).min(if rng.chance(1, 8) { 200_000 } else { 9000 });
            let mut n = rng.range(1, longest + 1);
            if rng.chance(1, 2) && n >= 512 {
                n -= n % 512;
            }
            let range = off as usize..(off + n) as usize;
            match rng.below(6) {
                0 | 1 => {
                    let mut data = vec![0; n as usize];
                    rng.fill(&mut data);
                    let buf = scattered(&data, &mut rng);
                    let fua = if rng.chance(1, 4) { WriteFlags::FUA } else { WriteFlags::empty() };
                    root.write(off, buf, fua).await.unwrap();
                    self.0[range].copy_from_slice(&data);
                }
                2 => {
                    let flags = ZeroFlags::from_bits_truncate(rng.below(4) as u8);
                    root.write_zeroes(off, n, flags).await.unwrap();
                    self.0[range].fill(0);
                }
                3 => {
                    root.discard(off, n).await.unwrap();
                    // What was discarded is unknown: neighbours must be as before, the range is written anew.
                    root.write(off, IoBuf::from_bytes(&self.0[range]), WriteFlags::empty()).await.unwrap();
                }
                4 => root.flush().await.unwrap(),
                _ => {
                    let buf = scattered(&vec![0xEE; n as usize], &mut rng);
                    root.read(off, buf.clone()).await.unwrap();
                    assert!(buf.to_vec() == self.0[range], "seed {seed}: read of {n} at {off}");
                }
            }
        }
        self.check(root).await;
    }

    async fn check(&self, root: &Root) {
        let got = read(root, 0, self.0.len()).await;
        let first = got.iter().zip(&self.0).position(|(a, b)| a != b);
        assert_eq!(first, None, "first difference");
    }
}

/// A buffer in pieces, at odd addresses.
fn scattered(data: &[u8], rng: &mut Rng) -> IoBuf {
    let mut buf = IoBuf::new();
    let mut pos = 0;
    while pos < data.len() {
        let n = rng.range(1, 6000).min((data.len() - pos) as u64) as usize;
        let skip = rng.below(3) * 7;
        let m = Memory::buffer(n + 32, 4096);
        m.write(skip, &data[pos..pos + n]);
        buf.push(m, skip, n as u64);
        pos += n;
    }
    buf
}

/// Requests that overlap and neighbours in one sector, all at once.
async fn parallel(root: &Arc<Root>) {
    let each = 700u64;
    let tasks: Vec<_> = (0..100u64)
        .map(|i| {
            let root = root.clone();
            rt::spawn_local(async move {
                for round in 0..3u8 {
                    let b = IoBuf::from_bytes(&vec![i as u8 ^ round; each as usize]);
                    root.write(i * each, b, WriteFlags::empty()).await.unwrap();
                }
                let got = read(&root, i * each, each as usize).await;
                assert_eq!(got, vec![i as u8 ^ 2; each as usize], "task {i}");
            })
        })
        .collect();
    for t in tasks {
        t.await;
    }
}

/// A request whose future is dropped happens wholly or not at all, and harms nobody.
async fn dropped_requests(root: &Arc<Root>) {
    let n = 64 << 10;
    root.write(0, IoBuf::from_bytes(&vec![1; 4 * n]), WriteFlags::empty()).await.unwrap();
    for i in 0..40u64 {
        let fresh = IoBuf::from_bytes(&vec![2; n]);
        {
            let mut w = pin!(root.write(n as u64, fresh, WriteFlags::FUA));
            let mut r = pin!(root.read(0, IoBuf::zeroed(n)));
            let mut f = pin!(root.flush());
            let mut ended = [false; 3];
            for _ in 0..i % 4 {
                ended[0] = ended[0] || poll_once(w.as_mut()).is_ready();
                ended[1] = ended[1] || poll_once(r.as_mut()).is_ready();
                ended[2] = ended[2] || poll_once(f.as_mut()).is_ready();
                rt::yield_now().await;
            }
        }
        // Ordered behind it in the same place, this one wins only if the dropped one has ended; so wait for that.
        while root.in_flight() > 0 {
            rt::sleep(std::time::Duration::from_millis(1)).await;
        }
        let got = read(root, 0, 4 * n).await;
        assert!(got[..n].iter().all(|b| *b == 1) && got[2 * n..].iter().all(|b| *b == 1));
        let middle = &got[n..2 * n];
        assert!(middle.iter().all(|b| *b == 1) || middle.iter().all(|b| *b == 2));
        root.write(n as u64, IoBuf::from_bytes(&vec![1; n]), WriteFlags::empty()).await.unwrap();
    }
}

/// Block status covers the node without a gap, and never calls written bytes zero.
async fn status(root: &Root) {
    let len = root.len();
    root.write_zeroes(0, len, ZeroFlags::MAY_UNMAP).await.unwrap();
    root.write(128 << 10, IoBuf::from_bytes(&[9; 4096]), WriteFlags::empty()).await.unwrap();
    let mut pos = 0;
    let mut ends = false;
    while pos < len {
        let s = root.map(pos, len - pos).await.unwrap();
        assert!(s.len > 0 && pos + s.len <= len);
        let written = pos < (128 << 10) + 4096 && pos + s.len > 128 << 10;
        assert!(!(written && s.zero), "{s:?} at {pos}");
        pos += s.len;
        ends = s.eof;
    }
    assert!(ends, "the last piece says that it is the last");
}

async fn resize(root: &Root) {
    let len = root.len();
    root.write(len - 512, IoBuf::from_bytes(&[7; 512]), WriteFlags::empty()).await.unwrap();
    root.truncate(len + 12_288, true, Prealloc::Off).await.unwrap();
    assert_eq!(root.len(), len + 12_288);
    assert_eq!(read(root, len - 1, 2).await, [7, 0]);
    root.write(len + 12_287, IoBuf::from_bytes(&[8]), WriteFlags::empty()).await.unwrap();
    root.truncate(len - 4096, true, Prealloc::Off).await.unwrap();
    assert_eq!(root.len(), len - 4096);
    assert_eq!(root.read(len - 4096, IoBuf::zeroed(1)).await, Err(Errno::IO));
    // What was cut off does not come back.
    for prealloc in [Prealloc::Off, Prealloc::Falloc, Prealloc::Full] {
        match root.truncate(len + 12_288, true, prealloc).await {
            Err(Errno::NOTSUP) if prealloc == Prealloc::Falloc => println!("skipped: no fallocate"),
            r => r.unwrap(),
        }
        if root.len() == len + 12_288 {
            assert!(read(root, len - 4096, 16_384).await.iter().all(|b| *b == 0));
        }
        root.truncate(len - 4096, true, Prealloc::Off).await.unwrap();
    }
    root.truncate(len, true, Prealloc::Off).await.unwrap();
    assert!(root.truncate(u64::MAX - 511, true, Prealloc::Off).await.is_err());
    assert_eq!(root.len(), len);
}
