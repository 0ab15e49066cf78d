//! Everything about storage that a program with QMP has, whether it runs a machine or not: the objects, the character
//! devices, the block graph, its jobs and exports; and the commands of all of them.

use std::sync::Arc;
use std::time::Duration;

use block::driver::DriverType;
use block::job::Jobs;
use block::{BlockGraph, Policy};
use chardev::{Chardevs, Config as ChardevConfig};
use export::Exports;
use monitor::{CommandTable, EventBus, HmpTable};
use qapi::QError;
use qom::ObjectTree;

/// How long jobs have at the end to undo what they did to the block graph.
const JOBS_PATIENCE: Duration = Duration::from_secs(10);

/// The block drivers of all crates.
pub(crate) fn drivers() -> Vec<&'static DriverType> {
    image::drivers()
}

/// What `--chardev help` tells.
pub(crate) const CHARDEV_HELP: &str =
    "Available chardev backend types: \n  file\n  null\n  pty\n  ringbuf\n  socket\n  stdio\n";

/// What a program serves block devices with.
pub(crate) struct Storage {
    pub(crate) events: EventBus,
    pub(crate) objects: Arc<ObjectTree>,
    pub(crate) chardevs: Chardevs,
    pub(crate) graph: Arc<BlockGraph>,
    pub(crate) jobs: Arc<Jobs>,
    pub(crate) exports: Arc<Exports>,
    _chardev_thread: rt::IoThread,
}

impl Storage {
    /// Nothing in it yet.
    pub(crate) fn new() -> Result<Storage, String> {
        let io = rt::IoThread::spawn("chardev").map_err(|e| format!("cannot set up a thread: {e}"))?;
        let events = EventBus::new();
        let graph = BlockGraph::new(&drivers(), events.clone());
        graph.set_policy(Policy::of_environment().map_err(|e| e.to_string())?);
        let objects = Arc::new(ObjectTree::new());
        graph.set_objects(objects.clone());
        let exports = Exports::new(graph.clone(), objects.clone());
        exports.register(Arc::new(vhost_user::VhostUserBlk));
        exports.register(Arc::new(fuse::Fuse::default()));
        exports.register(Arc::new(ublk::Ublk));
        graph.set_image_maker(Arc::new(image::create::Maker));
        let chardevs = Chardevs::new(io.handle());
        chardevs.set_objects(objects.clone());
        Ok(Storage {
            exports,
            jobs: Jobs::new(graph.clone()),
            graph,
            chardevs,
            objects,
            events,
            _chardev_thread: io,
        })
    }

    /// Registers the commands of all that is in it.
    pub(crate) fn register(&self, commands: &mut CommandTable, hmp: &mut HmpTable) {
        qom::register(commands, &self.objects);
        block::qmp::register(commands, hmp, &self.graph);
        block_jobs::register(commands, &self.jobs);
        block_quorum::register(commands);
        export::qmp::register(commands, &self.exports);
        chardev::register_hmp(hmp, &self.chardevs);
        image::io::hmp::register(hmp, &self.graph);
    }

    /// Makes the object that `--object` describes.
    pub(crate) fn add_object(&self, argument: &str) -> Result<(), QError> {
        self.objects.add(&qapi::from_arg(argument, Some("qom-type"))?).map(drop)
    }

    /// Makes the character device that `--chardev` describes.
    pub(crate) async fn add_chardev(&self, argument: &str) -> Result<(), QError> {
        self.chardevs.add(ChardevConfig::parse(argument)?).await.map(drop)
    }

    /// Adds the block node that `--blockdev` describes.
    pub(crate) async fn add_blockdev(&self, argument: &str) -> Result<(), QError> {
        self.graph.add(qapi::from_arg(argument, Some("driver"))?).await
    }

    /// Ends exports and jobs, writes everything back and closes it.
    pub(crate) async fn close(&self) {
        self.close_storage().await;
        self.chardevs.close_all();
    }

    /// The same, but the character devices stay, for what is to be said to monitors.
    pub(crate) async fn close_storage(&self) {
        self.exports.leave_socket();
        self.exports.close_all().await;
        // A job that waits for storage must not keep everything else from being written back.
        if rt::timeout(JOBS_PATIENCE, self.jobs.cancel_all()).await.is_none() {
            tracing::error!("ending although jobs are still at work");
        }
        self.graph.close_all().await;
    }
}

/// An error's text, and its hint on a line of its own.
pub(crate) fn text(e: QError) -> String {
    match e.hint() {
        Some(hint) => format!("{}\n{}", e.desc(), hint.trim_end()),
        None => e.desc().to_string(),
    }
}
