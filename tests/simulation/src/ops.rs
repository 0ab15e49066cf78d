//! What is done to the graph besides jobs: snapshots, bitmaps, filters, reopens.

use crate::bed::{Bed, Tracked};
use crate::images::{New, mutable};
use crate::model::{ANY, agrees};
use crate::users::drain;
use block::bitmap::Tolerate;
use block::testing::Faults;
use block::{Perm, RootConfig};
use mem::IoBuf;
use rt::sim::rng;
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

impl Bed {
    /// A new image above the user's.
    pub async fn snapshot(&self) {
        let active = self.active();
        if self.layer.chain(&active).len() > 5 {
            return;
        }
        let new = New { below: Some(&active), attach: false, raw: false };
        let Some(overlay) = self.image(new).await else { return };
        let data = format!("{{'node':'{active}','overlay':'{overlay}'}}");
        let (past, done) = if rng().chance(1, 2) {
            self.around(self.fickle("blockdev-snapshot", &data)).await
        } else {
            let bad = rng().chance(1, 6);
            let second = match bad {
                true => "{'type':'abort','data':{}}".to_owned(),
                false => format!(
                    "{{'type':'block-dirty-bitmap-add','data':{{'node':'{overlay}','name':'s{}'}}}}",
                    self.id()
                ),
            };
            let text = format!("{{'actions':[{{'type':'blockdev-snapshot','data':{data}}},{second}]}}");
            let (past, done) = self.around(self.fickle("transaction", &text)).await;
            assert!(!bad || done.is_err(), "an aborted transaction was done");
            (past, done)
        };
        let shown = self.layer.chain(&overlay).get(1) == Some(&active);
        if self.active() == overlay && shown {
            self.known.borrow_mut().frozen.insert(active, past);
            self.count("snapshot");
        } else {
            // A job may have put the user on another image meanwhile.
            let moved = self.active() != active || !self.running.borrow().is_empty();
            assert!(done.is_err() || moved, "the snapshot was not taken");
        }
    }

    pub async fn internal_snapshot(&self) {
        let active = self.active();
        let mine: Vec<String> = {
            let known = self.known.borrow();
            known.snapshots.keys().filter(|(n, _)| *n == active).map(|(_, s)| s.clone()).collect()
        };
        if !mine.is_empty() && rng().chance(1, 3) {
            let name = &mine[rng().below(mine.len() as u64) as usize];
            self.known.borrow_mut().snapshots.remove(&(active.clone(), name.clone()));
            let text = format!("{{'device':'{active}','name':'{name}'}}");
            if self.fickle("blockdev-snapshot-delete-internal-sync", &text).await.is_ok() {
                self.count("internal snapshot, deleted");
            }
            return;
        }
        let name = format!("s{}", self.id());
        let data = format!("{{'device':'{active}','name':'{name}'}}");
        let (past, done) = if rng().chance(1, 2) {
            self.around(self.fickle("blockdev-snapshot-internal-sync", &data)).await
        } else {
            let abort = if rng().chance(1, 4) { ",{'type':'abort','data':{}}" } else { "" };
            let text =
                format!("{{'actions':[{{'type':'blockdev-snapshot-internal-sync','data':{data}}}{abort}]}}");
            self.around(self.fickle("transaction", &text)).await
        };
        if done.is_ok() {
            self.known.borrow_mut().snapshots.insert((active, name), past);
            self.count("internal snapshot");
        }
    }

    pub async fn bitmaps(&self) {
        for _ in 0..1 + rng().below(4) {
            self.bitmap().await;
        }
    }

    async fn bitmap(&self) {
        let active = self.active();
        let mine: Vec<String> = {
            let known = self.known.borrow();
            let used = |name: &String| known.backups.iter().any(|(_, n, b)| *n == active && b == name);
            let here = known.bitmaps.keys().filter(|(n, b)| *n == active && !used(b));
            here.map(|(_, b)| b.clone()).collect()
        };
        let some = || mine.get(rng().below(mine.len().max(1) as u64) as usize).cloned();
        match if mine.len() < 2 { rng().below(6) } else { 2 + rng().below(5) } {
            0 | 1 | 6 => {
                let name = format!("b{}", self.id());
                let persistent = rng().chance(2, 3);
                let granularity = self.pick(&["", ",'granularity':512", ",'granularity':4096"]);
                let text =
                    format!("{{'node':'{active}','name':'{name}','persistent':{persistent}{granularity}}}");
                let (clean, done) = self.around(self.fickle("block-dirty-bitmap-add", &text)).await;
                if done.is_ok() {
                    let tracked = Tracked { clean, persistent };
                    self.known.borrow_mut().bitmaps.insert((active, name), tracked);
                    self.count("bitmap");
                }
            }
            2 => {
                let Some(name) = some() else { return };
                let key = (active.clone(), name.clone());
                // While it is cleared, nothing is sure.
                let Some(old) = self.known.borrow_mut().bitmaps.remove(&key) else { return };
                let text = format!("{{'node':'{active}','name':'{name}'}}");
                let many = format!(
                    "{{'actions':[{{'type':'block-dirty-bitmap-clear','data':{text}}},\
                     {{'type':'abort','data':{{}}}}]}}"
                );
                if rng().chance(1, 4) {
                    let done = self.fickle("transaction", &many).await;
                    assert!(done.is_err(), "an aborted transaction was done");
                    self.known.borrow_mut().bitmaps.insert(key, old);
                    return;
                }
                let (clean, done) = self.around(self.fickle("block-dirty-bitmap-clear", &text)).await;
                if done.is_ok() {
                    let tracked = Tracked { clean, persistent: old.persistent };
                    self.known.borrow_mut().bitmaps.insert(key, tracked);
                    self.count("bitmap, cleared");
                }
            }
            3 => {
                let Some(name) = some() else { return };
                self.known.borrow_mut().bitmaps.remove(&(active.clone(), name.clone()));
                let text = format!("{{'node':'{active}','name':'{name}'}}");
                if self.fickle("block-dirty-bitmap-remove", &text).await.is_ok() {
                    self.count("bitmap, removed");
                }
            }
            4 => {
                let (Some(to), Some(from)) = (some(), some()) else { return };
                let text = format!("{{'node':'{active}','target':'{to}','bitmaps':['{from}']}}");
                if to != from && self.fickle("block-dirty-bitmap-merge", &text).await.is_ok() {
                    self.count("bitmaps, merged");
                }
            }
            _ => {
                let Some(name) = some() else { return };
                // What is written while it is off is not in it: it is not followed any more.
                self.known.borrow_mut().bitmaps.remove(&(active.clone(), name.clone()));
                let text = format!("{{'node':'{active}','name':'{name}'}}");
                drop(self.fickle("block-dirty-bitmap-disable", &text).await);
                drop(self.fickle("block-dirty-bitmap-enable", &text).await);
            }
        }
    }

    /// Whether every difference is in the bitmaps.
    pub fn check_bitmaps(&self) {
        let active = self.active();
        let known = self.known.borrow();
        let model = self.model.borrow();
        for ((node, name), tracked) in known.bitmaps.iter().filter(|((n, _), _)| *n == active) {
            let tolerate = Tolerate { read_only: true, inconsistent: true };
            let found = self.layer.graph.snapshot().by_name(node).is_some();
            let bitmap = match self.layer.graph.bitmap(node, name, tolerate) {
                Ok(b) => b,
                // A job has it.
                Err(e) if e.desc().contains("currently in use") => continue,
                Err(e) => panic!("{node}/{name}, node {found}: {e}"),
            };
            for (k, (now, old)) in model.all().iter().zip(tracked.clean.borrow().iter()).enumerate() {
                let differs = *now != ANY && *old != ANY && now != old;
                assert!(!differs || bitmap.is_dirty(k as u64), "{node}/{name} misses byte {k}");
            }
        }
    }

    /// Changes the options of the user's image, of one behind it, or of both at once.
    pub async fn reopen(&self) {
        let chain = self.layer.chain(&self.active());
        let g = self.layer.graph.snapshot();
        let mut list = Vec::new();
        for (i, name) in chain.iter().enumerate() {
            let Some(node) = g.by_name(name).filter(|n| n.ty.name == "qcow2") else { continue };
            if rng().chance(1, 2) {
                continue;
            }
            let child = |edge: &str| Some(g.node(node.edge_named(edge)?.child)?.name.clone());
            let backing = child("backing").map_or("null".to_owned(), |b| format!("'{b}'"));
            let file = child("file").unwrap_or_default();
            let ro = i > 0 && rng().chance(1, 2);
            let more = mutable(self);
            list.push(format!(
                "{{'driver':'qcow2','node-name':'{name}','read-only':{ro},'file':'{file}','backing':{backing}{more}}}"
            ));
        }
        if rng().chance(1, 8) {
            list.push("{'driver':'raw','node-name':'nobody','file':'nobody'}".into());
        }
        let before = self.layer.graph.describe();
        // One that nobody waits for may be on its way out.
        let jobs = || !self.running.borrow().is_empty() || self.layer.graph.describe().contains("[block job");
        let had_jobs = jobs();
        let text = format!("{{'options':[{}]}}", list.join(","));
        match self.fickle("blockdev-reopen", &text).await {
            Ok(_) => {
                self.count("reopen");
                self.relinked.set(self.relinked.get() || had_jobs);
            }
            Err(e) if !had_jobs && !jobs() && !e.desc().contains("went away") => {
                assert_eq!(self.layer.graph.describe(), before, "a failed reopen ({e}) left traces");
            }
            Err(_) => {}
        }
    }

    /// Shows the user's disk as it is now to somebody for a while.
    pub async fn fleecing(&self) {
        let user = self.user();
        let top = user.node_name().expect("the user has a node");
        let new = New { below: None, attach: false, raw: true };
        let Some(target) = self.image(new).await else { return };
        let n = self.id();
        let (filter, access) = (format!("cbw{n}"), format!("sa{n}"));
        let how = self.pick(&["break-guest-write", "break-snapshot"]);
        let add = format!(
            "{{'driver':'copy-before-write','node-name':'{filter}','file':'{top}','target':'{target}',\
             'on-cbw-error':'{how}'}}"
        );
        let begin = async {
            self.cmd("blockdev-add", &add).await.ok()?;
            let replaced = user.replace(Some(&filter)).await;
            self.say(|| format!("** the user goes to {filter}: {replaced:?}"));
            replaced.ok()
        };
        let (past, begun) = self.around(begin).await;
        if begun.is_some() {
            let add = format!("{{'driver':'snapshot-access','node-name':'{access}','file':'{filter}'}}");
            if self.cmd("blockdev-add", &add).await.is_ok() {
                self.fleece(&access, &past, how).await;
                drop(self.cmd("blockdev-del", &format!("{{'node-name':'{access}'}}")).await);
            }
            // The graph may be another by now.
            for again in 0.. {
                let g = self.layer.graph.snapshot();
                let below = g.by_name(&filter).and_then(|n| g.node(n.edge_named("file")?.child));
                let below = below.map(|n| n.name.clone()).expect("the filter has a child");
                if user.replace(Some(&below)).await.is_ok() {
                    break;
                }
                // A job's filter may go while the user is on the way to it; then there is another below.
                let may_fail = again < 10 || self.faulty.get();
                assert!(again < 1000 && may_fail, "the user cannot go back to {below}");
            }
        }
        for again in 0.. {
            let gone = self.cmd("blockdev-del", &format!("{{'node-name':'{filter}'}}")).await;
            match gone {
                Ok(_) => break,
                Err(e) if e.desc().contains("Failed to find") => break,
                Err(e) => {
                    assert!(again < 1000 && self.faulty.get(), "the filter cannot be removed: {e}");
                    rt::sleep(Duration::from_micros(100)).await;
                }
            }
        }
    }

    async fn fleece(&self, access: &str, past: &Rc<RefCell<Vec<u16>>>, how: &str) {
        let config = RootConfig {
            perm: Perm::CONSISTENT_READ,
            shared: Perm::all(),
            desc: "fleecing".into(),
            ..RootConfig::default()
        };
        let Ok(reader) = self.layer.graph.attach(access, config).await else { return };
        for _ in 0..rng().below(12) {
            let off = rng().below(self.size);
            let len = 1 + rng().below((self.size - off).min(20_000));
            let buf = IoBuf::zeroed(len as usize);
            match reader.read(off, buf.clone()).await {
                Ok(()) => {
                    let want = &past.borrow()[off as usize..(off + len) as usize];
                    agrees(&buf.to_vec(), want).unwrap_or_else(|e| panic!("the past from {off}: {e}"));
                    self.count("fleecing");
                }
                Err(e) => assert!(self.faulty.get(), "the past ({how}): {e}"),
            }
            rt::sleep(Duration::from_micros(rng().below(2000))).await;
        }
        reader.detach().await;
    }

    /// Reads an image that nobody writes to.
    pub async fn look(&self) {
        let known: Vec<String> = self.known.borrow().frozen.keys().cloned().collect();
        if known.is_empty() {
            return;
        }
        let node = &known[rng().below(known.len() as u64) as usize];
        if self.layer.graph.snapshot().by_name(node).is_none() {
            self.known.borrow_mut().frozen.remove(node);
            return;
        }
        let faults = self.world.faults();
        self.world.set_faults(Faults { delay: 100, ..Faults::default() });
        let read = self.layer.read(node).await;
        self.world.set_faults(faults);
        let known = self.known.borrow();
        let Some(want) = known.frozen.get(node) else { return };
        match read {
            Ok(bytes) => {
                agrees(&bytes, &want.borrow()).unwrap_or_else(|e| panic!("{node}, which rests: {e}"));
                self.count("image at rest, compared");
            }
            Err(e) => assert!(self.faulty.get(), "{node}: {e}"),
        }
    }

    pub async fn small_things(&self) {
        match rng().below(5) {
            0 => drain(self).await,
            1 => {
                let done = self.layer.graph.flush_all().await;
                assert!(done.is_ok() || self.faulty.get(), "{done:?}");
            }
            2 => {
                let bps = 1u64 << (20 + rng().below(8));
                let text = format!(
                    "{{'path':'/objects/tg','property':'limits','value':{{'bps-total':{bps},'iops-total':{}}}}}",
                    2000 + rng().below(100_000)
                );
                self.cmd("qom-set", &text).await.expect("these limits are good");
            }
            3 => {
                for q in ["query-block", "query-jobs", "query-blockstats", "x-debug-query-block-graph"] {
                    self.layer.call(q, "{}").await.unwrap_or_else(|e| panic!("{q}: {e}"));
                }
                self.layer.call("query-named-block-nodes", "{'flat':true}").await.expect("a query");
            }
            _ => {
                // A client makes many changes and waits for none.
                let active = self.active();
                let name = format!("x{}", self.id());
                for _ in 0..3 {
                    let text = format!("{{'node':'{active}','name':'{name}'}}");
                    let add = self.layer.call("block-dirty-bitmap-add", &text);
                    drop(rt::timeout(Duration::from_micros(rng().below(200)), add).await);
                    let remove = self.layer.call("block-dirty-bitmap-remove", &text);
                    drop(rt::timeout(Duration::from_micros(rng().below(200)), remove).await);
                }
                self.settled().await;
            }
        }
    }
}
