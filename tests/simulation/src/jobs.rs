//! Jobs: they are started, hurried, held up and cancelled; when one is over, what it promised is looked at.

use crate::bed::{Bed, Tracked};
use crate::images::New;
use crate::model::{Past, agrees};
use api::job::JobStatus;
use block::testing::Faults;
use qapi::Value;
use rt::sim::rng;
use std::rc::Rc;

/// A job that is not dismissed yet.
pub struct Running {
    pub id: String,
    pub what: What,
}

/// What a job is about.
pub enum What {
    /// Commit, stream: nobody sees a difference.
    Quiet,
    /// A copy that may become the user's disk: the target's node.
    Mirror(String),
    /// A copy of one moment.
    Backup(Backup),
}

/// What a backup is to be.
pub struct Backup {
    target: String,
    past: Past,
    /// Whether the target holds the whole disk when it is done.
    whole: bool,
    /// The bitmap that says what is to be copied, and is clean as of `past` afterwards: node, name, and what it was told
    /// apart from until now.
    bitmap: Option<(String, String, Option<Tracked>)>,
}

fn policies(b: &Bed) -> String {
    let one = |b: &Bed| b.pick(&["report", "report", "ignore", "stop"]);
    format!("'on-source-error':'{}','on-target-error':'{}'", one(b), one(b))
}

/// What any job may be told.
fn common(b: &Bed) -> String {
    let mut more = "'auto-dismiss':false".to_owned();
    if rng().chance(1, 3) {
        more += ",'auto-finalize':false";
    }
    if rng().chance(1, 3) {
        more += &format!(",'filter-node-name':'jf{}'", b.id());
    }
    if rng().chance(1, 3) {
        more += &format!(",'speed':{}", 65536 << rng().below(8));
    }
    more
}

impl Bed {
    /// The nodes that jobs copy to, or have copied to.
    pub fn targets(&self) -> Vec<String> {
        let running = self.running.borrow();
        let of = |r: &Running| match &r.what {
            What::Quiet => None,
            What::Mirror(t) => Some(t.clone()),
            What::Backup(b) => Some(b.target.clone()),
        };
        running.iter().filter_map(of).collect()
    }

    /// Notes a job if it was started, whatever the command's client was told.
    fn note(&self, id: String, what: What) -> bool {
        let there = self.layer.jobs.get(&id).is_ok();
        if there {
            self.running.borrow_mut().push(Running { id, what });
        }
        there
    }

    pub async fn commit(&self) {
        let chain = self.layer.chain(&self.active());
        if chain.len() < 2 {
            return;
        }
        let top = rng().below(chain.len() as u64 - 1) as usize;
        let base = top + 1 + rng().below((chain.len() - top - 1) as u64) as usize;
        let id = format!("j{}", self.id());
        let on = self.pick(&["report", "ignore", "stop"]);
        let top_node = match top {
            0 if self.device() == chain[0] && rng().chance(1, 2) => String::new(),
            _ => format!("'top-node':'{}',", chain[top]),
        };
        let text = format!(
            "{{'job-id':'{id}','device':'{}',{top_node}'base-node':'{}','on-error':'{on}',{}}}",
            self.device(),
            chain[base],
            common(self)
        );
        // An image in the middle keeps its view until something else is written below it.
        self.forget_above(&chain[base], (top > 0).then_some(chain[top].as_str()));
        drop(self.fickle("block-commit", &text).await);
        if self.note(id, What::Quiet) {
            self.count(if top == 0 { "commit, active" } else { "commit" });
        }
    }

    pub async fn stream(&self) {
        let chain = self.layer.chain(&self.active());
        if chain.len() < 2 {
            return;
        }
        let top = rng().below(chain.len() as u64 - 1) as usize;
        let mut base = String::new();
        if chain.len() - top > 2 && rng().chance(1, 2) {
            let at = top + 2 + rng().below((chain.len() - top - 2) as u64) as usize;
            base = format!("'base-node':'{}',", chain[at]);
        } else if chain.len() - top > 1 && rng().chance(1, 3) {
            let at = top + 1 + rng().below((chain.len() - top - 1) as u64) as usize;
            base = format!("'bottom':'{}',", chain[at]);
        }
        let id = format!("j{}", self.id());
        let on = self.pick(&["report", "ignore", "stop"]);
        let text =
            format!("{{'job-id':'{id}','device':'{}',{base}'on-error':'{on}',{}}}", chain[top], common(self));
        // What shines through snapshots in the image comes from what is taken away.
        self.known.borrow_mut().snapshots.retain(|(n, _), _| *n != chain[top]);
        drop(self.fickle("block-stream", &text).await);
        if self.note(id, What::Quiet) {
            self.count("stream");
        }
    }

    pub async fn mirror(&self) {
        let chain = self.layer.chain(&self.active());
        let below = chain.get(1).filter(|_| rng().chance(1, 2));
        let new = New { below: below.map(String::as_str), attach: true, raw: below.is_none() };
        let Some(target) = self.image(new).await else { return };
        // A snapshot that nobody waited for may have come in between: the target would lack what is in the layer that has
        // become the second one.
        if below.is_some() && self.layer.chain(&self.active()).get(1) != below {
            return;
        }
        let id = format!("j{}", self.id());
        let sync = if below.is_some() { "top" } else { "full" };
        let granularity = self.pick(&["", "'granularity':512,", "'granularity':4096,"]);
        let mode = self.pick(&["", "'copy-mode':'write-blocking',"]);
        let text = format!(
            "{{'job-id':'{id}','device':'{}','target':'{target}','sync':'{sync}',{granularity}{mode}{},{}}}",
            self.device(),
            policies(self),
            common(self)
        );
        drop(self.fickle("blockdev-mirror", &text).await);
        if self.note(id, What::Mirror(target)) {
            self.count("mirror");
        }
    }

    /// Starts a backup, maybe in a transaction with a new bitmap, from which the copy can be brought up to date.
    pub async fn backup(&self) {
        let active = self.active();
        let targets = self.targets();
        let ready = |(t, n, _): &&(String, String, String)| *n == active && !targets.contains(t);
        let old = self.known.borrow().backups.iter().find(ready).cloned();
        let id = format!("j{}", self.id());
        let more = format!("{},{}", policies(self), common(self));
        let perf =
            self.pick(&["", "'x-perf':{'max-workers':1},", "'x-perf':{'max-workers':3,'max-chunk':65536},"]);
        if let Some((target, node, bitmap)) = old
            && rng().chance(2, 3)
        {
            let text = format!(
                "{{'job-id':'{id}','device':'{node}','target':'{target}','sync':'incremental',\
                 'bitmap':'{bitmap}',{perf}{more}}}"
            );
            let (past, _) = self.around(self.fickle("blockdev-backup", &text)).await;
            let mut known = self.known.borrow_mut();
            let before = known.bitmaps.remove(&(node.clone(), bitmap.clone()));
            known.backups.retain(|(t, _, _)| *t != target);
            let persistent = before.as_ref().is_some_and(|t| t.persistent);
            if self.layer.jobs.get(&id).is_err() {
                // Never begun: all is as it was.
                if let Some(t) = before {
                    known.bitmaps.insert((node.clone(), bitmap.clone()), t);
                    known.backups.push((target, node, bitmap));
                }
                return;
            }
            // Until it is over, less than what the bitmap says is sure.
            let clean = past.clone();
            known.bitmaps.insert((node.clone(), bitmap.clone()), Tracked { clean, persistent });
            drop(known);
            let bitmap = Some((node, bitmap, before));
            self.note(id, What::Backup(Backup { target, past, whole: true, bitmap }));
            self.count("backup, incremental");
            return;
        }
        let Some(target) = self.image(New { below: None, attach: false, raw: true }).await else { return };
        let compress = self.pick(&["", "", "'compress':true,"]);
        let start = format!(
            "'job-id':'{id}','device':'{}','target':'{target}','sync':'full',{compress}{perf}{more}",
            self.device()
        );
        if rng().chance(1, 2) {
            let (past, _) = self.around(self.fickle("blockdev-backup", &format!("{{{start}}}"))).await;
            if self.note(id, What::Backup(Backup { target, past, whole: true, bitmap: None })) {
                self.count("backup");
            }
            return;
        }
        let name = format!("b{}", self.id());
        let persistent = rng().chance(1, 2);
        let abort = if rng().chance(1, 8) { ",{'type':'abort','data':{}}" } else { "" };
        let text = format!(
            "{{'actions':[{{'type':'block-dirty-bitmap-add','data':{{'node':'{active}','name':'{name}',\
             'persistent':{persistent},'granularity':4096}}}},\
             {{'type':'blockdev-backup','data':{{{start}}}}}{abort}]}}"
        );
        let (past, done) = self.around(self.fickle("transaction", &text)).await;
        assert!(abort.is_empty() || done.is_err(), "an aborted transaction was done");
        let there = self.layer.graph.bitmap(&active, &name, Default::default()).is_ok();
        let begun = self.layer.jobs.get(&id).is_ok();
        assert_eq!(there, begun, "half of a transaction was done: {done:?}");
        if begun {
            let tracked = Tracked { clean: past.clone(), persistent };
            self.known.borrow_mut().bitmaps.insert((active.clone(), name.clone()), tracked);
            self.known.borrow_mut().backups.push((target.clone(), active, name));
            self.note(id, What::Backup(Backup { target, past, whole: true, bitmap: None }));
            self.count("transaction, backup");
        }
    }

    /// Tells a job something.
    pub async fn verb(&self) {
        let ids: Vec<String> = self.running.borrow().iter().map(|r| r.id.clone()).collect();
        if ids.is_empty() {
            return;
        }
        let id = &ids[rng().below(ids.len() as u64) as usize];
        let (command, arguments) = match rng().below(10) {
            0 => ("job-pause", format!("{{'id':'{id}'}}")),
            1 => ("job-resume", format!("{{'id':'{id}'}}")),
            2 => ("job-cancel", format!("{{'id':'{id}'}}")),
            3 => ("block-job-cancel", format!("{{'device':'{id}','force':{}}}", rng().chance(1, 2))),
            4 => {
                ("block-job-set-speed", format!("{{'device':'{id}','speed':{}}}", rng().below(2) * (1 << 22)))
            }
            5 => {
                ("block-job-change", format!("{{'id':'{id}','type':'mirror','copy-mode':'write-blocking'}}"))
            }
            6 => ("block-job-resume", format!("{{'device':'{id}'}}")),
            7 => ("job-finalize", format!("{{'id':'{id}'}}")),
            _ => ("job-complete", format!("{{'id':'{id}'}}")),
        };
        if self.fickle(command, &arguments).await.is_ok() {
            self.count(command);
        }
    }

    fn take_concluded(&self) -> Vec<Running> {
        let (mut over, mut i) = (Vec::new(), 0);
        let mut running = self.running.borrow_mut();
        while i < running.len() {
            let job = self.layer.jobs.get(&running[i].id);
            match job.map(|j| j.status()) {
                Ok(JobStatus::Concluded) => over.push(running.remove(i)),
                Ok(_) => i += 1,
                Err(e) => panic!("{} has gone: {e}", running[i].id),
            }
        }
        over
    }

    /// Looks which jobs are over.
    pub async fn poll_jobs(&self) {
        for r in self.take_concluded() {
            let failed = self.failed(&r.id);
            self.say(|| format!("** {} is over, failed: {failed:?}", r.id));
            self.cmd("job-dismiss", &format!("{{'id':'{}'}}", r.id)).await.expect("it has concluded");
            self.over(r, failed).await;
        }
    }

    /// Why a job failed, if it did or was cancelled.
    fn failed(&self, id: &str) -> Option<String> {
        let error = self.layer.jobs.query().into_iter().find(|j| j.id == id).and_then(|j| j.error);
        if error.is_some() {
            return error;
        }
        let mut told = None;
        while let Some(e) = self.layer.events.try_next() {
            let v = e.to_value();
            self.say(|| format!("!! {}", v.to_json()));
            let data = v.get("data").and_then(|d| Some((d.get("id")?.as_str()?, d.get("status")?.as_str()?)));
            if let Some((job, "aborting")) = data {
                self.aborted.borrow_mut().insert(job.to_owned());
            }
            let event = v.get("event").and_then(Value::as_str);
            if event == Some("BLOCK_JOB_ERROR") {
                // It may have been ignored: what was copied is not what it should be.
                told = v.get("data").and_then(|d| d.get("device")).and_then(Value::as_str).map(str::to_owned);
            }
            if let Some(job) = told.take() {
                self.ignored.borrow_mut().insert(job);
            }
        }
        self.aborted.borrow().contains(id).then(|| "it was cancelled".to_owned())
    }

    /// What is known of bitmaps and of older copies after a backup; whether the copy is worth a look.
    fn bitmap_after(&self, backup: &mut Backup, failed: bool, ignored: bool) -> bool {
        let mut known = self.known.borrow_mut();
        if let Some((node, name, before)) = backup.bitmap.take() {
            let key = (node.clone(), name.clone());
            if failed {
                // It is again what it was, and more; unless a command has changed or removed it since the job's end.
                let same = known.bitmaps.get(&key).is_some_and(|t| Rc::ptr_eq(&t.clean, &backup.past));
                if let Some(t) = before.filter(|_| same) {
                    known.bitmaps.insert(key, t);
                } else if same {
                    known.bitmaps.remove(&key);
                }
            } else if known.bitmaps.contains_key(&key) {
                known.backups.push((backup.target.clone(), node, name));
            }
        }
        if failed || ignored {
            known.backups.retain(|(t, _, _)| *t != backup.target);
        }
        !failed && !ignored
    }

    async fn over(&self, r: Running, failed: Option<String>) {
        let ignored = self.ignored.borrow().contains(&r.id);
        match r.what {
            What::Quiet => {}
            What::Mirror(target) => {
                if failed.is_none() && self.active() == target {
                    self.count("mirror, pivoted");
                }
            }
            What::Backup(mut backup) => {
                if !self.bitmap_after(&mut backup, failed.is_some(), ignored) {
                    return;
                }
                if !backup.whole {
                    return;
                }
                let faults = self.world.faults();
                self.world.set_faults(Faults { delay: 100, ..Faults::default() });
                let read = self.layer.read(&backup.target).await;
                self.world.set_faults(faults);
                match read {
                    Ok(bytes) => {
                        let agrees = agrees(&bytes, &backup.past.borrow());
                        agrees.unwrap_or_else(|e| panic!("the copy that {} made: {e}", r.id));
                        self.count("backup, compared");
                    }
                    Err(e) => assert!(self.faulty.get(), "{}: {e}", backup.target),
                }
            }
        }
    }

    /// Brings all jobs to their end.
    pub async fn end_jobs(&self) {
        for step in 0..20_000u32 {
            self.poll_jobs().await;
            let ids: Vec<String> = self.running.borrow().iter().map(|r| r.id.clone()).collect();
            if ids.is_empty() {
                return;
            }
            for id in ids {
                let Ok(job) = self.layer.jobs.get(&id) else { continue };
                let id = format!("{{'id':'{id}'}}");
                match job.status() {
                    JobStatus::Ready if rng().chance(1, 4) => {
                        drop(self.cmd("job-complete", &id).await);
                    }
                    JobStatus::Pending => drop(self.cmd("job-finalize", &id).await),
                    JobStatus::Paused | JobStatus::Standby if step % 1000 != 999 => {
                        drop(self.layer.call("job-resume", &id).await);
                        let device = id.replace("'id'", "'device'");
                        drop(self.layer.call("block-job-resume", &device).await);
                    }
                    _ if step > 300 && step % 100 == 99 => drop(self.cmd("job-cancel", &id).await),
                    _ => {}
                }
            }
            rt::sleep(std::time::Duration::from_millis(2)).await;
        }
        panic!("jobs never end: {:?}", self.layer.jobs);
    }
}
