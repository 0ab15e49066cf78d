//! A crash at any moment, and what must be there afterwards.

use crate::bed::{Bed, Layer};
use crate::images::file_of;
use crate::model::{Allowed, differences};
use block::bitmap::Tolerate;
use block::testing::World;
use block::{Perm, RootConfig};
use block_qcow2::check::{Fix, check, is_dirty};
use block_qcow2::host::RootHost;
use mem::IoBuf;
use rt::sim::{Rng, rng};
use std::collections::BTreeMap;

/// What a crash left.
pub struct Crash {
    /// Files, by name.
    files: BTreeMap<String, Vec<u8>>,
    /// The user's image.
    top: String,
    /// Its driver, and those of all others.
    drivers: BTreeMap<String, &'static str>,
    allowed: Allowed,
    /// Persistent bitmaps of the user's image, and what they were clean of.
    bitmaps: Vec<(String, Vec<u16>)>,
    faulty: bool,
    /// [`Bed::relinked`].
    relinked: bool,
    when: String,
}

impl Bed {
    /// The machine loses its power now, somewhere else.
    pub fn crash(&self) -> Crash {
        let mut dice = Rng::new(rng().next_u64());
        let active = self.active();
        let g = self.layer.graph.snapshot();
        let images = g.nodes().filter(|n| n.name.starts_with('n'));
        let drivers: BTreeMap<_, _> = images.map(|n| (file_of(&n.name), n.ty.name)).collect();
        let disk = |name: &String| Some((name.clone(), self.world.disk(name)?.crash_bytes(&mut dice)));
        let files = drivers.keys().filter_map(disk).collect();
        let known = self.known.borrow();
        let bitmaps = known.bitmaps.iter().filter(|((n, _), t)| *n == active && t.persistent);
        let bitmaps = bitmaps.map(|((_, name), t)| (name.clone(), t.clean.borrow().clone())).collect();
        Crash {
            files,
            top: file_of(&active),
            drivers,
            allowed: self.model.borrow().allowed(),
            bitmaps,
            faulty: self.faulty.get(),
            relinked: self.relinked.get(),
            when: format!("a crash at {:?} of {active}", self.time()),
        }
    }
}

/// Opens what a crash left, in a world of its own, and looks at everything.
pub async fn after(crash: Crash) {
    let world = World::new();
    let _here = world.enter();
    let when = &crash.when;
    for (name, bytes) in crash.files {
        world.create(&name, bytes);
    }
    let layer = Layer::new();
    for (name, _) in crash.drivers.iter().filter(|(n, d)| **d == "qcow2" && world.disk(n).is_some()) {
        sound(&layer, name, when).await;
    }
    let driver = crash.drivers[&crash.top];
    let add = format!(
        "{{'driver':'{driver}','node-name':'top','file':{{'driver':'file','filename':'{}'}}}}",
        crash.top
    );
    match layer.call("blockdev-add", &add).await {
        Err(e) if not_followed(&e, crash.relinked) => return,
        done => done.unwrap_or_else(|e| panic!("{when}: {add}: {e}")),
    };
    let bytes = layer.read("top").await.unwrap_or_else(|e| panic!("{when}: {e}"));
    if let Err(e) = crash.allowed.check(&bytes) {
        panic!("{when}: {e}\n{}", layer.graph.describe());
    }
    for (name, clean) in crash.bitmaps {
        let tolerate = Tolerate { read_only: true, inconsistent: true };
        let found = layer.graph.bitmap("top", &name, tolerate);
        if found.is_err() && crash.faulty {
            // Storing it anew may have failed half-way: then there is none rather than a wrong one.
            continue;
        }
        let bitmap = found.unwrap_or_else(|e| panic!("{when}: {name}: {e}"));
        if bitmap.inconsistent() {
            assert!(crash.faulty, "{when}: {name} is inconsistent");
            continue;
        }
        if let Some(k) = differences(&bytes, &clean).find(|k| !bitmap.is_dirty(*k)) {
            panic!("{when}: {name} misses byte {k}");
        }
    }
    // It can be used again.
    let config = RootConfig {
        perm: Perm::CONSISTENT_READ | Perm::WRITE,
        shared: Perm::CONSISTENT_READ,
        ..RootConfig::default()
    };
    let user = layer.graph.attach("top", config).await.unwrap_or_else(|e| panic!("{when}: {e}"));
    user.write(512, IoBuf::from_bytes(&[7; 1024]), Default::default()).await.expect("a write");
    user.flush().await.expect("a flush");
    user.detach().await;
    layer.graph.close_all().await;
}

/// Whether an image is not opened because it names what only users may name: a job has written the description of a chain
/// with a filter that has rules. Or, where that may be, because it names what is deleted ([`Bed::relinked`]).
pub fn not_followed(e: &qapi::QError, relinked: bool) -> bool {
    let deleted = "Could not open backing file: ";
    e.desc().contains("which is no plain file name")
        || relinked && e.desc().starts_with(deleted) && e.desc().ends_with("No such file or directory")
}

/// An image has no corruption; one that says that it needs a repair can be repaired. Answers what is said of leaks.
pub async fn sound(layer: &Layer, file: &str, when: &str) -> Vec<String> {
    let add = format!("{{'driver':'file','node-name':'check','filename':'{file}'}}");
    layer.call("blockdev-add", &add).await.unwrap_or_else(|e| panic!("{when}: {add}: {e}"));
    let config = RootConfig {
        perm: Perm::CONSISTENT_READ | Perm::WRITE | Perm::RESIZE,
        shared: Perm::empty(),
        ..RootConfig::default()
    };
    let root = layer.graph.attach("check", config).await.unwrap_or_else(|e| panic!("{when}: {e}"));
    let host = RootHost(&root);
    // One that was about to be made may be nothing yet.
    let dirty = is_dirty(&host).await;
    let mut leaks = Vec::new();
    if let Ok(dirty) = dirty {
        let fix = if dirty { Fix::All } else { Fix::None };
        let mut said = Vec::new();
        let report = check(&host, fix, &mut |l| said.push(l.to_owned())).await;
        let report = report.unwrap_or_else(|e| panic!("{when}: {file}: {e}"));
        // A snapshot that was left half-way costs one copy more of some clusters, nothing else.
        let harmless = said.iter().filter(|l| only_costs(l)).count() as u64;
        let bad = (report.corruptions - harmless.min(report.corruptions), report.check_errors);
        assert_eq!(bad, (0, 0), "{when}: {file}: {said:#?}");
        leaks = said.into_iter().filter(|l| report.leaks > 0 && l.starts_with("Leaked")).collect();
    }
    root.detach().await;
    layer.call("blockdev-del", "{'node-name':'check'}").await.unwrap_or_else(|e| panic!("{when}: {e}"));
    leaks
}

/// Whether a check's line says only that a cluster that nobody shares is not marked so.
fn only_costs(line: &str) -> bool {
    let entry = line.split("_entry=").nth(1).and_then(|r| r.split(' ').next());
    let entry = entry.and_then(|e| u64::from_str_radix(e, 16).ok());
    line.starts_with("ERROR OFLAG_COPIED")
        && line.ends_with("refcount=1")
        && entry.is_some_and(|e| e >> 63 == 0)
}
