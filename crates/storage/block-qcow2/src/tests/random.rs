//! Random requests against a flat model, one at a time and many at once.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use api::block_core::BlockdevQcow2Version;
use block::driver::Prealloc;
use mem::IoBuf;
use rt::sim::Sim;

use super::mem::{MemHost, options};
use crate::check::{Fix, check};
use crate::crypt::Key;
use crate::image::Image;
use crate::l2map::RunKind;
use crate::opts::Config;

pub struct World {
    pub host: MemHost,
    pub image: Image,
}

/// A small image with small caches, its shape by the current simulation's random numbers.
pub async fn world(backing: bool, lazy: bool) -> World {
    let rng = rt::sim::rng();
    let cluster = 512 << rng.below(5);
    let size = 512 * (1 + rng.below(1200));
    let mut o = options(size, cluster);
    let v2 = rng.below(4) == 0 && !lazy;
    o.version = v2.then_some(BlockdevQcow2Version::V2);
    if !v2 {
        o.refcount_bits = Some(1 << rng.below(7));
    }
    o.lazy_refcounts = Some(lazy);
    let mut host = MemHost::new(Vec::new());
    crate::create::create(&host, &o).await.unwrap();
    if backing {
        let mut b = vec![0u8; (512 * rng.below(1500)) as usize];
        rng.fill(&mut b);
        if b.len() > 2048 {
            b[1024..2048].fill(0);
        }
        host.backing = Some(b);
    }
    let image = open(&host, true).await;
    World { host, image }
}

pub async fn open(host: &MemHost, writable: bool) -> Image {
    let small = |h: &crate::header::Header| {
        let mut c = Config::new(h, None, true)?;
        c.l2_entry_size = 512;
        c.l2_cache_size = 1024 + 512 * rt::sim::rng().below(4);
        c.refcount_cache_size = 1;
        Ok(c)
    };
    let mut image = Image::open(host, "test", writable, small).await.unwrap();
    image.unlock(host, Key::Password(&super::crypt::password(), Some("s"))).await.unwrap();
    image
}

pub async fn read_all(w: &World) -> Vec<u8> {
    let buf = IoBuf::zeroed(w.image.virtual_size() as usize);
    w.image.read_guest(&w.host, 0, buf.clone()).await.unwrap();
    buf.to_vec()
}

pub fn initial(w: &World) -> Vec<u8> {
    let mut v = w.host.backing.clone().unwrap_or_default();
    v.resize(w.image.virtual_size() as usize, 0);
    v
}

pub async fn no_errors(host: &MemHost, leaks_allowed: bool) {
    let mut said = Vec::new();
    let r = check(host, Fix::None, &mut |l| said.push(l.to_string())).await.unwrap();
    assert_eq!((r.corruptions, r.check_errors), (0, 0), "{said:?}");
    assert!(leaks_allowed || r.leaks == 0, "{said:?}");
}

/// One random request, applied to the image and to the model.
pub async fn request(w: &World, model: &mut Vec<u8>) {
    let rng = rt::sim::rng();
    let size = model.len() as u64;
    let mut off = rng.below(size);
    let mut len = 1 + rng.below((size - off).min(1 << (1 + rng.below(17))));
    if w.image.is_encrypted() {
        // Whole sectors; the disk is.
        len = (off + len).next_multiple_of(512) - off / 512 * 512;
        off = off / 512 * 512;
    }
    let range = off as usize..(off + len) as usize;
    match rng.below(12) {
        0..=5 => {
            let mut data = vec![0u8; len as usize];
            rng.fill(&mut data);
            w.image.write(&w.host, off, IoBuf::from_bytes(&data)).await.unwrap();
            model[range].copy_from_slice(&data);
        }
        6 | 7 => match w.image.write_zeroes(&w.host, off, len, rng.below(2) == 0).await {
            Ok(()) => model[range].fill(0),
            Err(e) => assert_eq!(e, base::Errno::NOTSUP),
        },
        8 => {
            if w.image.discard(&w.host, off, len).await.is_ok() {
                // Whole clusters read as zeros afterwards, the rest as before.
                let cs = w.image.geometry().cluster_size();
                let first = off.next_multiple_of(cs);
                let last = if off + len == size { size } else { (off + len) / cs * cs };
                if first < last {
                    model[first as usize..last as usize].fill(0);
                }
            }
        }
        9 => w.image.flush(&w.host).await.unwrap(),
        10 => {
            let new = 512 * (1 + rng.below(1500));
            if w.host.backing.is_none()
                && (w.image.version >= 3 || w.image.header().snapshot_count == 0)
                && rng.below(4) == 0
            {
                w.image.truncate(&w.host, new, Prealloc::Off).await.unwrap();
                model.resize(new as usize, 0);
            }
        }
        _ => {
            let buf = IoBuf::zeroed(len as usize);
            w.image.read_guest(&w.host, off, buf.clone()).await.unwrap();
            assert!(buf.to_vec() == model[range], "bytes {off}+{len} differ");
        }
    }
}

#[test]
fn any_sequence_of_requests_equals_a_flat_model() {
    for seed in 0..60 {
        Sim::new(seed).block_on(async {
            let mut w = world(seed.is_multiple_of(3), seed % 5 == 4).await;
            let mut model = initial(&w);
            for _ in 0..80 {
                request(&w, &mut model).await;
                if rt::sim::rng().below(25) == 0 {
                    w.image.make_clean(&w.host).await.unwrap();
                    no_errors(&w.host, false).await;
                    w.image = open(&w.host, true).await;
                }
            }
            assert!(read_all(&w).await == model);
            w.image.make_clean(&w.host).await.unwrap();
            assert!(!crate::check::is_dirty(&w.host).await.unwrap());
            no_errors(&w.host, false).await;
            w.image = open(&w.host, false).await;
            assert!(read_all(&w).await == model);
        });
    }
}

/// Many requests at once. Requests that run at the same time touch different pieces (not clusters!) of the disk, so
/// that the outcome is certain.
async fn concurrent(seed: u64, faults: u64) {
    let w = Rc::new(world(seed.is_multiple_of(2), seed % 7 == 6).await);
    let model = Rc::new(RefCell::new(initial(&w)));
    w.host.jitter.set(true);
    w.host.faults.set(faults);
    let piece = 256 + rt::sim::rng().below(2048);
    let pieces = w.image.virtual_size().div_ceil(piece);
    let unknown: Rc<RefCell<Vec<bool>>> = Rc::new(RefCell::new(vec![false; pieces as usize]));
    let errors = Rc::new(Cell::new(0));
    let mut tasks = Vec::new();
    for t in 0..6u64 {
        let (w, model, unknown, errors) = (w.clone(), model.clone(), unknown.clone(), errors.clone());
        tasks.push(rt::spawn_local(async move {
            let rng = rt::sim::rng();
            for _ in 0..25 {
                // Task t owns the pieces with number t modulo 6.
                let p = rng.below(pieces) / 6 * 6 + t;
                if p >= pieces {
                    continue;
                }
                let off = p * piece;
                let len = piece.min(w.image.virtual_size() - off);
                let range = off as usize..(off + len) as usize;
                let done = match rng.below(8) {
                    0..=3 => {
                        let mut data = vec![0u8; len as usize];
                        rng.fill(&mut data);
                        let r = w.image.write(&w.host, off, IoBuf::from_bytes(&data)).await;
                        r.map(|()| model.borrow_mut()[range].copy_from_slice(&data))
                    }
                    4 => {
                        let r = w.image.write_zeroes(&w.host, off, len, rng.below(2) == 0).await;
                        match r {
                            Err(base::Errno::NOTSUP) => Ok(()),
                            r => r.map(|()| model.borrow_mut()[range].fill(0)),
                        }
                    }
                    5 => w.image.flush(&w.host).await,
                    _ => {
                        let buf = IoBuf::zeroed(len as usize);
                        let r = w.image.read_guest(&w.host, off, buf.clone()).await;
                        if r.is_ok() && !unknown.borrow()[p as usize] {
                            assert!(buf.to_vec() == model.borrow()[range], "piece {p} differs");
                        }
                        if r.is_err() { Err(base::Errno::AGAIN) } else { Ok(()) }
                    }
                };
                match done {
                    Ok(()) | Err(base::Errno::AGAIN) => {}
                    Err(_) => {
                        errors.set(errors.get() + 1);
                        unknown.borrow_mut()[p as usize] = true;
                    }
                }
            }
        }));
    }
    for t in tasks {
        let _ = t.await;
    }
    w.host.jitter.set(false);
    w.host.faults.set(0);
    assert!(faults > 0 || errors.get() == 0);
    let now = read_all(&w).await;
    let model = model.borrow().clone();
    for p in 0..pieces as usize {
        let range = p * piece as usize..((p + 1) * piece as usize).min(model.len());
        assert!(unknown.borrow()[p] || now[range.clone()] == model[range], "piece {p} differs at the end");
    }
    w.image.make_clean(&w.host).await.unwrap();
    no_errors(&w.host, faults > 0).await;
}

#[test]
fn requests_at_once_do_not_disturb_each_other() {
    for seed in 0..60 {
        Sim::new(seed).block_on(concurrent(seed, 0));
    }
}

#[test]
fn failing_storage_damages_only_what_it_failed() {
    for seed in 0..40 {
        Sim::new(1000 + seed).block_on(concurrent(seed, 20));
    }
}

#[test]
fn a_cluster_that_is_being_read_is_not_given_to_other_data() {
    Sim::new(1).block_on(async {
        let host = MemHost::new(Vec::new());
        crate::create::create(&host, &options(1 << 20, 4096)).await.unwrap();
        let image = open(&host, true).await;
        let place = async |off| match image.lookup(&host, off, 4096).await.unwrap() {
            (RunKind::Normal { host, .. }, _) => host,
            other => panic!("{other:?}"),
        };
        image.write(&host, 0, IoBuf::from_bytes(&[1; 4096])).await.unwrap();
        image.flush(&host).await.unwrap();
        let reading = image.readers.enter();
        let old = place(0).await;
        image.discard(&host, 0, 4096).await.unwrap();
        for i in 1..20u64 {
            image.flush(&host).await.unwrap();
            image.write(&host, i * 4096, IoBuf::from_bytes(&[2; 4096])).await.unwrap();
            assert_ne!(place(i * 4096).await, old);
        }
        drop(reading);
        image.flush(&host).await.unwrap();
        image.write(&host, 20 * 4096, IoBuf::from_bytes(&[3; 4096])).await.unwrap();
        assert_eq!(place(20 * 4096).await, old);
    });
}
