//! One run: a disk is made, used, changed under its user, crashed, closed and opened again.

use crate::bed::Bed;
use crate::crash::{after, sound};
use crate::images::New;
use crate::model::{Model, agrees, differences};
use crate::users::{drain, work};
use block::bitmap::Tolerate;
use block::driver::{Limits, WriteFlags};
use block::testing::{Faults, World};
use block::{Perm, Root, RootConfig};
use mem::IoBuf;
use rt::sim::{Sim, rng};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// How often each kind of thing succeeded.
pub type Counts = BTreeMap<&'static str, u64>;

fn writer() -> RootConfig {
    RootConfig {
        name: "sim".into(),
        perm: Perm::CONSISTENT_READ | Perm::WRITE,
        shared: Perm::CONSISTENT_READ | Perm::WRITE_UNCHANGED,
        ..RootConfig::default()
    }
}

/// Some bytes on a disk that nobody follows yet.
async fn scribble(b: &Bed, root: &Root, bytes: &mut [u8]) {
    for _ in 0..rng().below(8) {
        let off = rng().below(b.size);
        let mut data = vec![0; (1 + rng().below((b.size - off).min(20_000))) as usize];
        rng().fill(&mut data);
        root.write(off, IoBuf::from_bytes(&data), WriteFlags::empty()).await.expect("nothing fails yet");
        bytes[off as usize..off as usize + data.len()].copy_from_slice(&data);
    }
}

/// The chain of images that the run begins with; the name of its top node.
async fn chain(b: &Bed) -> String {
    let mut bytes = vec![0; b.size as usize];
    let mut top: Option<String> = None;
    for i in 0..1 + rng().below(3) {
        let new = New { below: top.as_deref(), attach: true, raw: i == 0 };
        let node = b.image(new).await.expect("nothing fails yet");
        let root = b.layer.graph.attach(&node, writer()).await.expect("attach");
        scribble(b, &root, &mut bytes).await;
        root.flush().await.expect("nothing fails yet");
        root.detach().await;
        top = Some(node);
    }
    *b.model.borrow_mut() = Model::new(&bytes);
    let read = b.layer.read(top.as_deref().expect("there is one")).await.expect("nothing fails yet");
    agrees(&read, b.model.borrow().all()).unwrap_or_else(|e| panic!("at the beginning: {e}"));
    top.expect("there is one at least")
}

/// Filters between the user and the image.
async fn filters(b: &Bed, image: String) -> String {
    let mut top = image;
    b.cmd("object-add", "{'qom-type':'throttle-group','id':'tg','limits':{'iops-total':20000}}")
        .await
        .expect("a group");
    for (name, options) in [
        ("cor", "'driver':'copy-on-read'"),
        ("dbg", "'driver':'blkdebug','align':512"),
        ("thr", "'driver':'throttle','throttle-group':'tg'"),
        ("zip", "'driver':'compress'"),
    ] {
        // Clusters are written whole, so there must be no part of one.
        let fits = name != "zip" || b.size.is_multiple_of(65536);
        if fits && rng().chance(1, 4) {
            let child = if name == "dbg" { "image" } else { "file" };
            let add = format!("{{{options},'node-name':'{name}','{child}':'{top}'}}");
            match b.cmd("blockdev-add", &add).await {
                Ok(_) => top = name.to_owned(),
                // A plain file cannot store compressed.
                Err(e) => assert_eq!(name, "zip", "{e}"),
            }
        }
    }
    top
}

async fn control(b: &Rc<Bed>) -> Vec<crate::crash::Crash> {
    let mut crashes = Vec::new();
    for _ in 0..10 + rng().below(30) {
        b.poll_jobs().await;
        match rng().below(30) {
            0..2 => b.snapshot().await,
            2..4 => b.commit().await,
            4 => b.stream().await,
            5 => b.mirror().await,
            6 | 7 => b.backup().await,
            8..12 => b.verb().await,
            12 => b.internal_snapshot().await,
            13..16 => b.bitmaps().await,
            16 | 17 => b.reopen().await,
            18 => b.fleecing().await,
            19 => b.look().await,
            20 => b.set_faults(rng().chance(1, 2)),
            21 => b.set_faults(false),
            22 => b.tidy().await,
            23 | 24 => b.small_things().await,
            25..27 if crashes.len() < 4 => {
                rt::sleep(Duration::from_micros(rng().below(3000))).await;
                crashes.push(b.crash());
            }
            27 => b.check_bitmaps(),
            _ => rt::sleep(Duration::from_micros(rng().below(8000))).await,
        }
        let staged = b.world.staged();
        if b.running.borrow().is_empty() {
            b.settled().await;
            assert_eq!(b.world.staged().min(staged), 0, "staged changes are left over");
        }
        rt::sleep(Duration::from_micros(rng().below(3000))).await;
    }
    crashes
}

async fn end(b: &Rc<Bed>) {
    b.world.set_faults(Faults::default());
    b.end_jobs().await;
    b.stop.set(true);
}

/// Everything that is known is so. False where the user's image is out of service.
async fn verify(b: &Bed) -> bool {
    drain(b).await;
    b.check_bitmaps();
    let user = b.user();
    let buf = IoBuf::zeroed(b.size as usize);
    // A rule of blkdebug may have waited for this; and an image that failed in the middle of changing its tables is out of
    // service until it is opened again.
    let mut tries = 20;
    while let Err(e) = user.read(0, buf.clone()).await.and(user.flush().await) {
        tries -= 1;
        assert!(b.faulty.get(), "at the end: {e}");
        if tries == 0 {
            b.count("image out of service");
            return false;
        }
    }
    let differs = agrees(&buf.to_vec(), b.model.borrow().all()).err();
    if let Some(e) = differs {
        let mut said = format!("at the end: {e}\n{}", b.layer.graph.describe());
        for n in b.layer.chain(&b.active()) {
            let read = b.layer.read(&n).await.map(|bytes| agrees(&bytes, b.model.borrow().all()));
            said += &format!("{n}: {read:?}\n");
        }
        panic!("{said}");
    }
    let mut off = 0;
    while off < b.size {
        let st = match user.map(off, b.size - off).await {
            Err(_) if b.faulty.get() => user.map(off, b.size - off).await,
            st => st,
        };
        let st = st.expect("nothing fails any more");
        assert!(st.len > 0 && off + st.len <= b.size, "status {st:?} at {off}");
        let part = buf.slice(off as usize..(off + st.len) as usize);
        assert!(!st.zero || part.is_zero(), "{st:?} at {off} is not zero");
        off += st.len;
    }
    let frozen = b.known.borrow().frozen.len();
    for _ in 0..frozen {
        b.look().await;
    }
    let ids = b.model.borrow().flush_begin();
    match user.flush().await {
        Ok(()) => b.model.borrow_mut().flush_end(&ids),
        Err(e) => assert!(b.faulty.get(), "at the end: {e}"),
    }
    true
}

/// The image, opened anew from the files alone.
async fn again(b: &Rc<Bed>) {
    let fresh = crate::bed::Layer::new();
    let top = b.active();
    let g = b.layer.graph.snapshot();
    let driver = g.by_name(&top).expect("it is there").ty.name;
    let images: Vec<(String, &str)> = g
        .nodes()
        .filter(|n| n.name.starts_with('n'))
        .map(|n| (crate::images::file_of(&n.name), n.ty.name))
        .collect();
    drop(g);
    b.user().detach().await;
    b.layer.graph.close_all().await;
    assert_eq!(b.layer.graph.snapshot().nodes().count(), 0);
    assert_eq!(b.world.staged(), 0, "staged changes are left over");
    for (file, _) in images.iter().filter(|(f, d)| *d == "qcow2" && b.world.disk(f).is_some()) {
        let leaks = sound(&fresh, file, "at the end").await;
        if !leaks.is_empty() {
            b.say(|| format!("** {file}: {leaks:#?}"));
            assert!(b.faulty.get(), "{file} has leaks: {leaks:#?}");
            b.count("image with leaks at the end");
        }
    }
    let file = crate::images::file_of(&top);
    let add =
        format!("{{'driver':'{driver}','node-name':'top','file':{{'driver':'file','filename':'{file}'}}}}");
    match fresh.call("blockdev-add", &add).await {
        Err(e) if crate::crash::not_followed(&e, b.relinked.get()) => {
            b.count("backing name that images may not give");
            return;
        }
        done => done.unwrap_or_else(|e| panic!("opened again: {e}")),
    };
    let bytes = fresh.read("top").await.unwrap_or_else(|e| panic!("opened again: {e}"));
    agrees(&bytes, b.model.borrow().all()).unwrap_or_else(|e| panic!("opened again: {e}"));
    check_bitmaps(b, &fresh, &top, &bytes);
    let past =
        |((n, s), p): (&(String, String), &crate::model::Past)| (*n == top).then(|| (s.clone(), p.clone()));
    let snapshots: Vec<_> = b.known.borrow().snapshots.iter().filter_map(past).collect();
    for (name, past) in snapshots {
        let apply = block::driver::SnapshotOp::Apply { id: None, name: Some(name.clone()) };
        let done = fresh.graph.internal_snapshot("top", apply).await;
        assert!(done.as_ref().is_ok_and(Option::is_some), "{name}: {done:?}");
        let bytes = fresh.read("top").await.unwrap_or_else(|e| panic!("{name}: {e}"));
        agrees(&bytes, &past.borrow()).unwrap_or_else(|e| panic!("internal snapshot {name}: {e}"));
        b.count("internal snapshot, compared");
    }
    fresh.graph.close_all().await;
}

/// The bitmaps of the image that was opened anew miss nothing.
fn check_bitmaps(b: &Bed, fresh: &crate::bed::Layer, top: &str, bytes: &[u8]) {
    let known = b.known.borrow();
    for ((_, name), t) in known.bitmaps.iter().filter(|((n, _), t)| n == top && t.persistent) {
        let tolerate = Tolerate { read_only: true, inconsistent: b.faulty.get() };
        let bitmap = fresh.graph.bitmap("top", name, tolerate);
        if bitmap.is_err() && b.faulty.get() {
            continue;
        }
        let bitmap = bitmap.unwrap_or_else(|e| panic!("opened again: {name}: {e}"));
        if bitmap.inconsistent() {
            continue;
        }
        if let Some(k) = differences(bytes, &t.clean.borrow()).find(|k| !bitmap.is_dirty(*k)) {
            panic!("opened again: {name} misses byte {k}");
        }
    }
}

async fn scenario() -> Counts {
    let world = World::new();
    let _here = world.enter();
    let size = match rng().below(4) {
        0 => (1 + rng().below(3)) * 65536,
        _ => (8 + rng().below(40)) * 4096 + 512 * rng().below(8),
    };
    let b = Bed::new(world.clone(), size);
    let top = chain(&b).await;
    let align = b.pick(&[1, 1, 512, 4096]);
    if size.is_multiple_of(u64::from(align)) {
        let limits =
            Limits { request_alignment: align, max_transfer: b.pick(&[0, 65536]), ..Limits::default() };
        for name in world.names() {
            world.disk(&name).expect("it is there").set_limits(limits);
        }
    }
    let top = filters(&b, top).await;
    let user: Arc<Root> = b.layer.graph.attach(&top, writer()).await.expect("a user");
    *b.user.borrow_mut() = Some(user);
    b.set_faults(false);
    let users: Vec<_> = (0..1 + rng().below(3)).map(|_| rt::spawn_local(work(b.clone()))).collect();
    let mut crashes = control(&b).await;
    end(&b).await;
    for u in users {
        u.await;
    }
    if verify(&b).await {
        again(&b).await;
    } else {
        crashes.push(b.crash());
        b.user().detach().await;
        b.layer.graph.close_all().await;
    }
    for c in crashes {
        b.count("crash");
        after(c).await;
    }
    b.done.take()
}

/// Runs one simulation; panics where anything is not as it must be.
pub fn run_one(seed: u64) -> Counts {
    Sim::new(seed).block_on(scenario())
}
