//! Jobs under users that write all the time, with slow and failing storage, cancelled at any moment: whatever becomes of
//! the job, the user's bytes are those that a flat array has, and the graph is whole.

mod common;
use common::{Bed, SIZE, run_seed};

use block::Root;
use block::driver::ZeroFlags;
use block::testing::Faults;
use mem::IoBuf;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

const KINDS: [(&str, &str); 8] = [
    ("commit", "{'job-id':'j','device':'hd2','top-node':'hd1','base-node':'hd0','on-error':'ON'}"),
    ("commit", "{'job-id':'j','device':'hd2','base-node':'hd0','on-error':'ON'}"),
    (
        "mirror",
        "{'job-id':'j','device':'hd2','target':'hd3','sync':'full','granularity':4096,'on-source-error':'ON','on-target-error':'ON'}",
    ),
    (
        "mirror",
        "{'job-id':'j','device':'hd2','target':'hd3','sync':'full','granularity':512,'copy-mode':'write-blocking','on-source-error':'ON','on-target-error':'ON'}",
    ),
    ("stream", "{'job-id':'j','device':'hd2','on-error':'ON'}"),
    ("stream", "{'job-id':'j','device':'hd2','base-node':'hd0','on-error':'ON'}"),
    (
        "backup",
        "{'job-id':'j','device':'hd2','target':'hd3','sync':'full','on-source-error':'ON','on-target-error':'ON'}",
    ),
    (
        "backup",
        "{'job-id':'j','device':'hd2','target':'hd3','sync':'full','bitmap':'b','bitmap-mode':'on-success','on-source-error':'ON','on-target-error':'ON'}",
    ),
];

/// The user's bytes; `None` where a failed write left any.
type Model = Rc<RefCell<Vec<Option<u8>>>>;

/// How the users are told what to do.
#[derive(Default)]
struct Ctl {
    stop: Cell<bool>,
    hold: Cell<bool>,
    busy: Cell<u32>,
}

async fn work(user: Arc<Root>, model: Model, ctl: Rc<Ctl>, part: u64) {
    // Each writer has its part, so that what a range holds is never a matter of order.
    let (lo, hi) = (part * SIZE / 2, (part + 1) * SIZE / 2);
    while !ctl.stop.get() {
        if ctl.hold.get() {
            rt::sleep(Duration::from_micros(50)).await;
            continue;
        }
        ctl.busy.set(ctl.busy.get() + 1);
        let rng = rt::sim::rng();
        let off = rng.range(lo, hi - 1);
        let len = rng.range(1, 9000).min(hi - off);
        let range = off as usize..(off + len) as usize;
        let byte = rng.below(255) as u8 + 1;
        match rng.below(4) {
            0 => {
                let buf = IoBuf::zeroed(len as usize);
                if user.read(off, buf.clone()).await.is_ok() {
                    let model = model.borrow();
                    for (b, m) in buf.to_vec().iter().zip(&model[range]) {
                        assert!(m.is_none_or(|m| m == *b), "at {off}+{len}");
                    }
                }
            }
            1 => {
                let ok = user.write_zeroes(off, len, ZeroFlags::empty()).await.is_ok();
                model.borrow_mut()[range].fill(ok.then_some(0));
            }
            2 => drop(user.flush().await),
            _ => {
                let data = vec![byte; len as usize];
                let ok = user.write(off, IoBuf::from_bytes(&data), Default::default()).await.is_ok();
                model.borrow_mut()[range].fill(ok.then_some(byte));
            }
        }
        ctl.busy.set(ctl.busy.get() - 1);
        rt::sleep(Duration::from_micros(rng.below(500))).await;
    }
}

fn agrees(bytes: &[u8], model: &Model) -> bool {
    bytes.iter().zip(model.borrow().iter()).all(|(b, m)| m.is_none_or(|m| m == *b))
}

async fn one(b: Bed, seed: u64) {
    let rng = rt::sim::rng();
    let (verb, text) = KINDS[(seed % KINDS.len() as u64) as usize];
    let policy = ["report", "ignore", "stop"][rng.below(3) as usize];
    let text = text.replace("ON", policy);
    let user = b.user("hd2").await;
    let first = b.bytes("hd2").await;
    let model: Model = Rc::new(RefCell::new(first.into_iter().map(Some).collect()));
    let ctl = Rc::new(Ctl::default());
    let workers: Vec<_> =
        (0..2).map(|i| rt::spawn_local(work(user.clone(), model.clone(), ctl.clone(), i))).collect();
    let bad = rng.chance(1, 2);
    let p = if bad { 10 } else { 0 };
    b.world.set_faults(Faults { delay: 500, read: p, write: p, flush: p, space: p / 2, stage: 0 });
    // What a backup shall have: the users rest while it begins.
    let mut past = None;
    if verb == "backup" {
        b.graph.bitmap_add("hd2", "b", None, false, false).await.unwrap();
        ctl.hold.set(true);
        while ctl.busy.get() > 0 {
            rt::sleep(Duration::from_micros(50)).await;
        }
        past = Some(Model::new(RefCell::new(model.borrow().clone())));
    }
    match verb {
        "commit" => b.commit(&text).await.unwrap(),
        "mirror" => b.mirror(&text).await.unwrap(),
        "backup" => b.backup(&text).await.unwrap(),
        _ => b.stream(&text).await.unwrap(),
    }
    ctl.hold.set(false);
    let cancel_after = if rng.chance(1, 3) { Some(rng.below(300)) } else { None };
    for step in 0.. {
        rt::sleep(Duration::from_millis(1)).await;
        assert!(step < 100_000, "{:?}", b.jobs);
        let Ok(job) = b.jobs.get("j") else { break };
        if cancel_after.is_some_and(|c| step >= c) {
            drop(b.jobs.cancel(&job, rng.chance(2, 3)).await);
        }
        if rng.chance(1, 50) {
            drop(b.jobs.pause(&job));
        }
        if rng.chance(1, 5) {
            drop(b.jobs.resume(&job));
        }
        if rng.chance(1, 20) {
            drop(b.jobs.complete(&job));
        }
        if rng.chance(1, 20) {
            let again = format!(
                "{{'driver':'qcow2','node-name':'hd0','file':'hd0-file','detect-zeroes':'{}'}}",
                ["off", "on"][rng.below(2) as usize]
            );
            drop(b.graph.reopen(vec![common::arg(&again)]).await);
        }
    }
    let ended = b.told();
    assert_eq!(ended.last().map(String::as_str), Some("null"));
    // Some more work on what the user has now.
    rt::sleep(Duration::from_millis(5)).await;
    ctl.stop.set(true);
    for w in workers {
        w.await;
    }
    b.world.set_faults(Faults::default());
    let node = user.node_name().unwrap();
    assert!(agrees(&b.bytes(&node).await, &model), "{verb} {text}: {node} differs");
    let g = b.graph.snapshot();
    assert!(g.nodes().all(|n| n.edges.iter().all(|e| e.frozen == 0)), "a link stays frozen");
    assert_eq!(b.names(), ["hd0", "hd1", "hd2", "hd3"]);
    assert_eq!(b.world.staged(), 0);
    let failed = ended.iter().any(|e| e == "aborting");
    if failed {
        assert_eq!(node, "hd2");
        assert_eq!(b.child("hd2", "backing").as_deref(), Some("hd1"), "{verb} {text} {ended:?}");
        assert_eq!(b.child("hd1", "backing").as_deref(), Some("hd0"));
    }
    if let Some(past) = past.filter(|_| !failed) {
        assert!(agrees(&b.bytes("hd3").await, &past), "{verb} {text}: the copy differs");
    }
    user.detach().await;
    // It is also so on disk: the images are opened again from the bytes that were flushed.
    b.graph.flush_all().await.unwrap();
}

fn runs() -> u64 {
    std::env::var("RHEA_SIM_RUNS").ok().and_then(|r| r.parse().ok()).unwrap_or(400)
}

#[test]
fn users_never_notice() {
    for seed in 0..runs() {
        run_seed(seed, |b| one(b, seed));
    }
}
