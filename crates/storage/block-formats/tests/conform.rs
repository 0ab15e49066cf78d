//! The conformance suite over `raw` on files, and what holds of a device that forgets.

#[path = "../../block-file/tests/conformance/mod.rs"]
mod conformance;

use api::block_core::{BlockdevDriverOptions, BlockdevOptionsNull, BlockdevOptionsRaw, BlockdevRef};
use base::Errno;
use block::driver::{DriverType, Prealloc, WriteFlags, ZeroFlags};
use block::perm::Perm;
use conformance::*;
use mem::IoBuf;
use std::time::Duration;

fn drivers() -> Vec<&'static DriverType> {
    [block_file::DRIVERS, block_formats::DRIVERS].concat()
}

fn raw(offset: Option<i64>, size: Option<i64>) -> BlockdevDriverOptions {
    BlockdevDriverOptions::Raw(BlockdevOptionsRaw { file: BlockdevRef::Reference("n".into()), offset, size })
}

#[test]
fn raw_conforms() {
    let dir = Dir::new("conform-raw");
    // (offset, size): plain; a window; one that starts inside a sector.
    let windows =
        [(None, None), (Some(4096), None), (Some(1536), Some(300 << 10)), (Some(100), Some(256 << 10))];
    on_each_backend(async || {
        let path = dir.path("image");
        for (offset, size) in windows {
            // The first way and a direct one; the file's own tests try all.
            for (what, options) in file_variants(&path).into_iter().take(2) {
                println!("offset={offset:?} size={size:?} {what}");
                dir.file("image", 600 << 10);
                let g = graph(&drivers());
                g.add(options).await.unwrap();
                g.add(named("r", raw(offset, size))).await.unwrap();
                conformance(&g, "r", Traits { resizes: size.is_none() }).await;
                // Nothing was written outside of the window.
                let bytes = std::fs::read(&path).unwrap();
                let start = offset.unwrap_or(0) as usize;
                assert!(bytes[..start].iter().all(|b| *b == 0));
                if let Some(s) = size {
                    assert!(bytes[start + s as usize..].iter().all(|b| *b == 0));
                }
            }
        }
    });
}

#[test]
fn a_fixed_window_cannot_be_resized() {
    let dir = Dir::new("raw-fixed");
    let path = dir.file("image", 1 << 20);
    rt::block_on(async {
        let g = graph(&drivers());
        g.add(file_options("n", &path)).await.unwrap();
        g.add(named("r", raw(Some(512), Some(512)))).await.unwrap();
        let root = attach(&g, "r", Perm::all(), Perm::all()).await.unwrap();
        assert_eq!(root.truncate(1024, true, Prealloc::Off).await, Err(Errno::NOTSUP));
        root.detach().await;
    });
}

#[test]
fn raw_windows_move_in_a_reopen() {
    let dir = Dir::new("raw-reopen");
    let path = dir.path("image");
    let bytes: Vec<u8> = (0..8192u32).map(|i| (i / 512) as u8).collect();
    std::fs::write(&path, &bytes).unwrap();
    rt::block_on(async {
        let g = graph(&drivers());
        g.add(file_options("n", &path)).await.unwrap();
        g.add(named("r", raw(None, Some(512)))).await.unwrap();
        let root = attach(&g, "r", Perm::CONSISTENT_READ, Perm::all()).await.unwrap();
        assert_eq!(read(&root, 0, 1).await, [0]);
        g.reopen(vec![named("r", raw(Some(1024), Some(1024)))]).await.unwrap();
        assert_eq!((root.len(), read(&root, 0, 1).await), (1024, vec![2]));
        let e = g.reopen(vec![named("r", raw(Some(16384), None))]).await.unwrap_err();
        assert_eq!(e.desc(), "Offset (16384) cannot be greater than size of the containing file (8192)");
        assert_eq!((root.len(), read(&root, 0, 1).await), (1024, vec![2]));
        root.detach().await;
    });
}

fn null(o: BlockdevOptionsNull) -> BlockdevDriverOptions {
    BlockdevDriverOptions::NullCo(o)
}

#[test]
fn null_takes_everything_within_its_length() {
    rt::block_on(async {
        let g = graph(&drivers());
        let o = BlockdevOptionsNull { size: Some(1 << 20), read_zeroes: Some(true), latency_ns: None };
        g.add(named("z", null(o))).await.unwrap();
        let root = attach(&g, "z", Perm::all(), Perm::all()).await.unwrap();
        assert_eq!(root.len(), 1 << 20);
        root.write(3, IoBuf::from_bytes(&[1; 777]), WriteFlags::FUA).await.unwrap();
        assert_eq!(read(&root, 0, 1024).await, [0; 1024]);
        root.write_zeroes(5, 1000, ZeroFlags::all() - ZeroFlags::NO_FALLBACK).await.unwrap();
        root.discard(0, 1 << 20).await.unwrap();
        root.flush().await.unwrap();
        let s = root.map(0, 1 << 20).await.unwrap();
        assert!(s.zero && s.eof && s.len == 1 << 20);
        assert_eq!(root.write((1 << 20) - 1, IoBuf::zeroed(2), WriteFlags::empty()).await, Err(Errno::IO));
        assert_eq!(root.truncate(1 << 21, true, Prealloc::Off).await, Err(Errno::NOTSUP));
        root.detach().await;
    });
}

#[test]
fn latency_is_waited_for() {
    let sim = rt::sim::Sim::new(1);
    sim.block_on(async {
        let g = graph(&drivers());
        let o = BlockdevOptionsNull { size: None, latency_ns: Some(5_000_000), read_zeroes: None };
        g.add(named("z", null(o))).await.unwrap();
        let root = attach(&g, "z", Perm::CONSISTENT_READ, Perm::all()).await.unwrap();
        let start = rt::now();
        root.read(0, IoBuf::zeroed(512)).await.unwrap();
        assert!(rt::now() - start >= Duration::from_millis(5));
        root.detach().await;
    });
}
