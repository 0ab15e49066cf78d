//! Persistent bitmaps and crashes: at every point of a guest's and a backup's life, the bitmaps that the image has are
//! there, valid, and miss nothing.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use block::bitmap::Bitmap;
use mem::IoBuf;
use rt::sim::{Rng, Sim};

use super::crash::crashed;
use super::mem::{MemHost, options};
use super::random::{World, open, read_all};
use crate::check::{Fix, check};
use crate::host::Host;
use crate::image::Image;
use crate::opts::Config;

/// Sectors as they were when a bitmap was clean; `None`: being written then, so it must be dirty.
type Clean = Rc<Vec<Option<Vec<u8>>>>;

struct Tracked {
    bitmap: Arc<Bitmap>,
    /// From which length of the log on it is known to be there; and what it may stand for from which length on, up to
    /// which.
    clean: Vec<(usize, usize, Clean)>,
    there: usize,
}

struct Guest {
    w: World,
    model: RefCell<Vec<u8>>,
    writing: RefCell<Vec<(u64, u64)>>,
    tracked: RefCell<Vec<Tracked>>,
}

impl Guest {
    fn bitmaps(&self) -> Vec<Arc<Bitmap>> {
        self.tracked.borrow().iter().rev().map(|t| t.bitmap.clone()).collect()
    }

    fn at(&self) -> usize {
        self.w.host.log.borrow().len()
    }

    fn now(&self) -> Clean {
        let model = self.model.borrow();
        let writing = self.writing.borrow();
        let busy = |i: u64| writing.iter().any(|(off, len)| *off < i * 512 + 512 && i * 512 < off + len);
        let sector = |(i, c): (usize, &[u8])| (!busy(i as u64)).then(|| c.to_vec());
        Rc::new(model.chunks(512).enumerate().map(sector).collect())
    }

    /// As the request core does it.
    async fn change(&self, off: u64, data: Option<Vec<u8>>, len: u64) {
        let ahead = self.w.image.record_ahead(&self.w.host, off, len).await.unwrap();
        self.writing.borrow_mut().push((off, len));
        match &data {
            Some(d) => self.w.image.write(&self.w.host, off, IoBuf::from_bytes(d)).await.unwrap(),
            None => self.w.image.write_zeroes(&self.w.host, off, len, true).await.unwrap(),
        }
        let range = off as usize..(off + len) as usize;
        self.model.borrow_mut()[range].copy_from_slice(&data.unwrap_or_else(|| vec![0; len as usize]));
        self.writing.borrow_mut().retain(|w| *w != (off, len));
        for b in self.bitmaps().iter().filter(|b| b.enabled()) {
            b.set(off, len);
        }
        drop(ahead);
    }

    /// A backup ended: a bitmap starts over.
    async fn clear(&self, i: usize) {
        let (b, from, clean) = (self.tracked.borrow()[i].bitmap.clone(), self.at(), self.now());
        b.clear();
        self.tracked.borrow_mut()[i].clean.push((from, usize::MAX, clean));
        self.w.image.bitmaps_changed(&self.w.host, &self.bitmaps()).await.unwrap();
        let at = self.at();
        let mut t = self.tracked.borrow_mut();
        let n = t[i].clean.len();
        t[i].clean[n - 2].1 = at;
    }

    async fn add(&self, name: &str, granularity: u32) {
        let size = self.w.image.virtual_size();
        let bitmap = Arc::new(Bitmap::new(name, size, granularity, true, true).unwrap());
        let clean = vec![(0, usize::MAX, self.now())];
        self.tracked.borrow_mut().push(Tracked { bitmap, clean, there: usize::MAX });
        self.w.image.bitmaps_changed(&self.w.host, &self.bitmaps()).await.unwrap();
        let at = self.at();
        self.tracked.borrow_mut().last_mut().unwrap().there = at;
    }
}

fn config(h: &crate::header::Header) -> Result<Config, qapi::QError> {
    let mut c = Config::new(h, None, true)?;
    (c.l2_entry_size, c.l2_cache_size, c.refcount_cache_size) = (512, 2048, 1);
    c.bitmap_region = 8192 << (h.size / 512 % 3);
    Ok(c)
}

async fn guest(seed: u64, size: u64, cluster: u64, lazy: bool) -> (Rc<Guest>, Vec<u8>) {
    let mut o = options(size, cluster);
    o.lazy_refcounts = Some(lazy);
    let host = MemHost::new(Vec::new());
    crate::create::create(&host, &o).await.unwrap();
    let image = Image::open(&host, "t", true, config).await.unwrap();
    let base = host.bytes();
    let g = Rc::new(Guest {
        model: RefCell::new(vec![0; size as usize]),
        writing: RefCell::default(),
        tracked: RefCell::default(),
        w: World { host, image },
    });
    g.w.host.logging.set(true);
    g.change(0, Some(vec![1; 4096]), 4096).await;
    g.add("a", 512).await;
    g.add("b", 4096).await;
    g.w.host.jitter.set(true);
    let mut tasks = Vec::new();
    for t in 0..4u64 {
        let g = g.clone();
        tasks.push(rt::spawn_local(async move {
            let rng = rt::sim::rng();
            // Each task has its own part of the disk, so that what it wrote is certain.
            let part = size / 4 / 512;
            for _ in 0..10 {
                let first = t * part + rng.below(part);
                let count = 1 + rng.below((t * part + part - first).min(16));
                let mut data = vec![0u8; count as usize * 512];
                rng.fill(&mut data);
                let data = (rng.below(5) > 0).then_some(data);
                g.change(first * 512, data, count * 512).await;
                if rng.below(5) == 0 {
                    g.w.image.flush(&g.w.host).await.unwrap();
                    g.w.host.flush().await.unwrap();
                }
            }
        }));
    }
    let keeper = g.clone();
    tasks.push(rt::spawn_local(async move {
        let rng = rt::sim::rng();
        for i in 0..6 {
            rt::sleep(std::time::Duration::from_micros(rng.below(6000))).await;
            match rng.below(4) {
                0..=2 => keeper.clear(rng.below(2) as usize).await,
                _ => {
                    // One that comes and goes does not disturb the others.
                    let size = keeper.w.image.virtual_size();
                    let extra = Arc::new(Bitmap::new("extra", size, 1024, true, i % 2 == 0).unwrap());
                    let mut all = keeper.bitmaps();
                    all.insert(0, extra);
                    keeper.w.image.bitmaps_changed(&keeper.w.host, &all).await.unwrap();
                    rt::sleep(std::time::Duration::from_micros(rng.below(2000))).await;
                    keeper.w.image.remove_stored_bitmap(&keeper.w.host, "extra").await.unwrap();
                }
            }
        }
    }));
    for t in tasks {
        t.await;
    }
    g.w.host.jitter.set(false);
    if seed.is_multiple_of(2) {
        // Closed properly.
        g.w.image.store_bitmaps(&g.w.host, &g.bitmaps()).await.unwrap();
        g.w.image.make_clean(&g.w.host).await.unwrap();
    }
    (g, base)
}

async fn look(g: &Guest, at: usize, file: Vec<u8>, place: &str) -> usize {
    let host = MemHost::new(file);
    let mut said = Vec::new();
    let dirty = crate::check::is_dirty(&host).await.unwrap();
    let fix = if dirty { Fix::All } else { Fix::None };
    let r = check(&host, fix, &mut |l| said.push(l.to_string())).await.unwrap();
    assert_eq!((r.corruptions, r.check_errors), (0, 0), "{place}: {said:#?}");
    let image = open(&host, true).await;
    let stored = image.load_bitmaps(&host).await.unwrap();
    let w = World { host, image };
    let data = read_all(&w).await;
    let mut seen = 0;
    for t in g.tracked.borrow().iter() {
        let name = t.bitmap.name();
        let Some(b) = stored.iter().find(|b| b.name() == name) else {
            assert!(at < t.there, "{place}: bitmap {name} is lost");
            continue;
        };
        assert!(!b.inconsistent(), "{place}: bitmap {name} is not to be believed");
        let missed = |clean: &Clean| {
            data.chunks(512)
                .enumerate()
                .position(|(i, now)| clean[i].as_deref() != Some(now) && !b.is_dirty(i as u64 * 512))
        };
        let may: Vec<_> = t.clean.iter().filter(|c| c.0 <= at && at <= c.1).map(|c| missed(&c.2)).collect();
        assert!(may.iter().any(|m| m.is_none()), "{place}: bitmap {name} misses sectors {may:?}");
        seen += 1;
    }
    // And it goes on from there.
    w.image.write(&w.host, 0, IoBuf::from_bytes(&[7; 512])).await.unwrap();
    assert!(w.image.load_bitmaps(&w.host).await.unwrap().iter().all(|b| !b.inconsistent()), "{place}");
    seen
}

#[test]
fn a_kept_bitmap_is_valid_and_misses_nothing_at_any_crash() {
    let mut seen = 0;
    for seed in 0..24u64 {
        seen += Sim::new(seed).block_on(async {
            let cluster = 512 << (seed % 4);
            let (g, base) = guest(seed, 96 << 10, cluster, seed % 6 == 5).await;
            let log = g.w.host.log.borrow().clone();
            let mut rng = Rng::new(seed);
            let mut seen = 0;
            for at in 0..=log.len() {
                if rng.below(3) == 0 {
                    let place = format!("seed {seed} at {at} of {}", log.len());
                    seen += look(&g, at, crashed(&base, &log, at, &mut rng), &place).await;
                }
            }
            // The process alone dies: all that was written is there.
            for at in (0..=log.len()).step_by(2) {
                let mut file = base.clone();
                log[..at].iter().for_each(|e| super::mem::apply(&mut file, e));
                seen += look(&g, at, file, &format!("seed {seed} killed at {at} of {}", log.len())).await;
            }
            if seed % 2 == 0 {
                // Closed properly, they are exactly what they were, and the image is as everybody's.
                let image = open(&g.w.host, false).await;
                assert_eq!(image.header().autoclear, crate::spec::autoclear::BITMAPS);
                for b in image.load_bitmaps(&g.w.host).await.unwrap() {
                    let t = g.tracked.borrow();
                    let was = &t.iter().find(|t| t.bitmap.name() == b.name()).unwrap().bitmap;
                    assert!(b.bits() == was.bits(), "seed {seed}: {}", b.name());
                }
            }
            seen
        });
    }
    assert!(seen > 5000, "{seen}");
}

/// What the storage does not take is not believed later, and the guest's write goes on.
#[test]
fn where_a_bitmap_cannot_be_kept_the_image_says_so() {
    Sim::new(3).block_on(async {
        let host = MemHost::new(Vec::new());
        crate::create::create(&host, &options(1 << 20, 512)).await.unwrap();
        let image = Image::open(&host, "t", true, config).await.unwrap();
        let b = Arc::new(Bitmap::new("b", 1 << 20, 512, true, true).unwrap());
        image.bitmaps_changed(&host, std::slice::from_ref(&b)).await.unwrap();
        let stored = async |file: Vec<u8>| {
            let host = MemHost::new(file);
            let image = open(&host, false).await;
            let all = image.load_bitmaps(&host).await.unwrap();
            (all[0].inconsistent(), all[0].dirty_bytes())
        };
        assert_eq!(stored(host.bytes()).await, (false, 0));
        // In the file before the write, whether or not it happens.
        let held = image.record_ahead(&host, 0, 512).await.unwrap();
        assert!(held.is_some());
        let (inconsistent, dirty) = stored(host.bytes()).await;
        assert!(!inconsistent && dirty >= 8192);
        drop(held);
        host.full.set(true);
        assert!(image.record_ahead(&host, 512 << 10, 512).await.unwrap().is_none());
        host.full.set(false);
        assert!(stored(host.bytes()).await.0);
        // Until it is closed properly.
        image.store_bitmaps(&host, &[b]).await.unwrap();
        image.make_clean(&host).await.unwrap();
        assert_eq!(stored(host.bytes()).await, (false, 0));
    });
}

/// The image could not be put to rest after its bitmaps were stored, so it goes on to be written.
#[test]
fn bitmaps_that_were_stored_too_early_miss_nothing() {
    Sim::new(1).block_on(async {
        let host = MemHost::new(Vec::new());
        crate::create::create(&host, &options(1 << 20, 4096)).await.unwrap();
        let image = Image::open(&host, "t", true, config).await.unwrap();
        let bitmap = Arc::new(Bitmap::new("a", 1 << 20, 512, true, true).unwrap());
        let all = [bitmap.clone()];
        image.bitmaps_changed(&host, &all).await.unwrap();
        for step in 0..3u64 {
            image.store_bitmaps(&host, &all).await.unwrap();
            let off = step * 5000;
            let ahead = image.record_ahead(&host, off, 512).await.unwrap();
            image.write(&host, off, IoBuf::from_bytes(&[7; 512])).await.unwrap();
            bitmap.set(off, 512);
            drop(ahead);
            let after = MemHost::new(host.bytes());
            let found =
                Image::open(&after, "t", true, config).await.unwrap().load_bitmaps(&after).await.unwrap();
            assert!(found[0].inconsistent() || found[0].is_dirty(off), "step {step}");
            assert!(!found[0].inconsistent(), "it is kept");
        }
        let r = check(&host, Fix::None, &mut |_| {}).await.unwrap();
        assert_eq!(r.corruptions, 0);
    });
}
