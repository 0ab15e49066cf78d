//! Making images, and taking them away.

use crate::bed::Bed;
use api::job::JobStatus;
use rt::sim::rng;
use std::time::Duration;

/// What a new image is for.
pub struct New<'a> {
    /// The image behind it: the name of its node.
    pub below: Option<&'a str>,
    /// Whether the new node shall have it as its backing child at once.
    pub attach: bool,
    /// Whether it may be a plain file.
    pub raw: bool,
}

/// The file name of an image's node.
pub fn file_of(node: &str) -> String {
    node.replacen('n', "i", 1)
}

/// Options of the format that a reopen may change.
pub fn mutable(b: &Bed) -> &'static str {
    b.pick(&[
        "",
        ",'lazy-refcounts':true",
        ",'lazy-refcounts':false",
        ",'cache':{'direct':true}",
        ",'detect-zeroes':'on'",
        ",'discard':'unmap','detect-zeroes':'unmap'",
        ",'discard':'unmap'",
        ",'discard':'unmap','discard-no-unref':true",
        ",'l2-cache-size':8192,'refcount-cache-size':2048",
    ])
}

impl Bed {
    /// Makes an image and its nodes `nN` (the image), `fN` (its file) and perhaps a filter between; `None` where something
    /// failed, after which nothing is left of it.
    pub async fn image(&self, new: New<'_>) -> Option<String> {
        let n = self.id();
        let (node, file, disk) = (format!("n{n}"), format!("f{n}"), format!("i{n}"));
        self.world.create(&disk, Vec::new());
        let made = self.make(&node, &file, &disk, &new).await;
        if made.is_none() {
            for n in [format!("p{n}"), file] {
                drop(self.cmd("blockdev-del", &format!("{{'node-name':'{n}'}}")).await);
            }
            self.forget_file(&disk);
        }
        made.map(|()| node)
    }

    fn forget_file(&self, disk: &str) {
        // Something may still have it open where faults kept it from being closed.
        self.world.remove(disk);
    }

    async fn make(&self, node: &str, file: &str, disk: &str, new: &New<'_>) -> Option<()> {
        let add = format!("{{'driver':'file','node-name':'{file}','filename':'{disk}'}}");
        self.cmd("blockdev-add", &add).await.ok()?;
        let mut place = file.to_owned();
        let mut old = false;
        let raw = new.raw && new.below.is_none() && rng().chance(1, 3);
        if raw {
            let disk = self.world.disk(disk).expect("just made");
            disk.set_content(vec![0; self.size as usize]);
        } else {
            let backing = match new.below {
                Some(below) => {
                    let ty = self.layer.graph.snapshot().by_name(below)?.ty.name;
                    format!(",'backing-file':'{}','backing-fmt':'{ty}'", file_of(below))
                }
                None => String::new(),
            };
            let cluster = self.pick(&[512, 1024, 4096, 4096, 16384, 65536]);
            let more = match rng().below(8) {
                0 if cluster >= 16384 => ",'extended-l2':true",
                1 => ",'lazy-refcounts':true",
                2 => ",'refcount-bits':64",
                3 => ",'refcount-bits':8",
                4 => ",'compression-type':'zstd'",
                5 => ",'version':'v2'",
                6 if new.below.is_none() => ",'preallocation':'metadata'",
                _ => "",
            };
            old = more.contains("v2");
            let size = self.size;
            let create = format!(
                "{{'job-id':'c-{node}','options':{{'driver':'qcow2','file':'{file}','size':{size},\
                 'cluster-size':{cluster}{backing}{more}}}}}"
            );
            self.cmd("blockdev-create", &create).await.ok()?;
            self.created(&format!("c-{node}")).await?;
            let between = match rng().below(6) {
                0 => Some("'driver':'preallocate','prealloc-size':65536,'prealloc-align':4096".to_owned()),
                1 => Some("'driver':'blkdebug','align':512".to_owned()),
                2 if self.user.borrow().is_some() && (self.faulty.get() || rng().chance(1, 8)) => {
                    self.faulty.set(true);
                    let event =
                        self.pick(&["none", "read_aio", "write_aio", "flush_to_disk", "pwritev_zero"]);
                    let io = self.pick(&["read", "write", "flush", "write-zeroes", "block-status"]);
                    Some(format!(
                        "'driver':'blkdebug','inject-error':[{{'event':'{event}','iotype':'{io}','once':true,\
                         'sector':{}}}]",
                        rng().below(200)
                    ))
                }
                _ => None,
            };
            if let Some(filter) = between {
                place = file.replacen('f', "p", 1);
                let below = if filter.contains("blkdebug") { "image" } else { "file" };
                let add = format!("{{{filter},'node-name':'{place}','{below}':'{file}'}}");
                self.cmd("blockdev-add", &add).await.ok()?;
            }
        }
        let backing = match new.below {
            Some(below) if new.attach => format!(",'backing':'{below}'"),
            _ if raw => String::new(),
            _ => ",'backing':null".to_owned(),
        };
        let (driver, mut more) = if raw { ("raw", "") } else { ("qcow2", mutable(self)) };
        if old && (more.contains("lazy-refcounts':true") || more.contains("no-unref")) {
            more = "";
        }
        let add = format!("{{'driver':'{driver}','node-name':'{node}','file':'{place}'{backing}{more}}}");
        self.cmd("blockdev-add", &add).await.ok()?;
        Some(())
    }

    /// Waits for a job that makes an image.
    async fn created(&self, id: &str) -> Option<()> {
        for _ in 0..10_000 {
            rt::sleep(Duration::from_micros(200)).await;
            let Ok(job) = self.layer.jobs.get(id) else { panic!("{id} has gone") };
            if job.status() == JobStatus::Concluded {
                let all = self.layer.jobs.query();
                let failed = all.iter().find(|j| j.id == id).and_then(|j| j.error.clone());
                self.cmd("job-dismiss", &format!("{{'id':'{id}'}}")).await.expect("it has concluded");
                assert!(failed.is_none() || self.faulty.get(), "{id} failed without reason: {failed:?}");
                return failed.is_none().then_some(());
            }
        }
        panic!("{id} never ends");
    }

    /// Takes away an image's nodes, if nobody uses them; then its file.
    pub async fn remove_image(&self, node: &str) -> bool {
        let g = self.layer.graph.snapshot();
        let number = node.trim_start_matches('n').to_owned();
        for n in [node.to_owned(), format!("p{number}"), format!("f{number}")] {
            if g.by_name(&n).is_none() {
                continue;
            }
            if self.cmd("blockdev-del", &format!("{{'node-name':'{n}'}}")).await.is_err() {
                return false;
            }
        }
        let mut known = self.known.borrow_mut();
        known.frozen.remove(node);
        known.bitmaps.retain(|(n, _), _| n != node);
        known.snapshots.retain(|(n, _), _| n != node);
        known.backups.retain(|(t, n, _)| t != node && n != node);
        drop(known);
        self.forget_file(&format!("i{number}"));
        true
    }

    /// Takes away what nobody uses.
    pub async fn tidy(&self) {
        let chain = self.layer.chain(&self.active());
        let g = self.layer.graph.snapshot();
        let targets = self.targets();
        let all: Vec<String> = g.nodes().map(|n| n.name.clone()).filter(|n| n.starts_with('n')).collect();
        for n in all {
            let kept = self.known.borrow().backups.iter().any(|(t, _, _)| *t == n);
            if !chain.contains(&n) && !targets.contains(&n) && !kept && self.remove_image(&n).await {
                self.count("image removed");
            }
        }
    }
}
