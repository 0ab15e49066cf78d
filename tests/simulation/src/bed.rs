//! What a run works on: a world of simulated files, the block layer with its commands, the user, and what is known of
//! every image.

use crate::model::{Model, Past};
use block::driver::{DriverType, Kind};
use block::job::Jobs;
use block::testing::{Faults, SIM_FILE, World};
use block::{BlockGraph, Node, Perm, Root, RootConfig};
use mem::IoBuf;
use monitor::{CommandTable, EventBus, EventStream, HmpTable};
use qapi::{QError, Value, qerr};
use qom::ObjectTree;
use rt::sim::rng;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// No command may take longer than this, in the simulation's time.
const PATIENCE: Duration = Duration::from_secs(600);

/// The block layer with its commands.
pub struct Layer {
    pub graph: Arc<BlockGraph>,
    pub jobs: Arc<Jobs>,
    pub events: EventStream,
    table: CommandTable,
}

/// All drivers, with simulated files.
fn drivers() -> Vec<&'static DriverType> {
    let own: &[&DriverType] = &[&SIM_FILE];
    let others = [block_formats::DRIVERS, block_filters::DRIVERS, block_test::DRIVERS, block_qcow2::DRIVERS];
    [own].into_iter().chain(others).flatten().copied().collect()
}

impl Layer {
    /// An empty graph.
    pub fn new() -> Layer {
        let bus = EventBus::new();
        let events = bus.listen(100_000);
        let graph = BlockGraph::new(&drivers(), bus);
        let objects = Arc::new(ObjectTree::new());
        graph.set_objects(objects.clone());
        let jobs = Jobs::new(graph.clone());
        let mut table = CommandTable::new();
        qom::register(&mut table, &objects);
        block::qmp::register(&mut table, &mut HmpTable::new(), &graph);
        block_jobs::register(&mut table, &jobs);
        Layer { graph, jobs, events, table }
    }

    /// Runs a command; its arguments are JSON, which may use single quotes.
    pub async fn call(&self, name: &str, arguments: &str) -> Result<Value, QError> {
        let arguments = Value::parse_json(arguments).unwrap_or_else(|e| panic!("{arguments}: {e}"));
        let done = rt::timeout(PATIENCE, self.table.call(name, arguments)).await;
        done.unwrap_or_else(|| panic!("{name} hangs"))
    }

    /// The node of an image that a user of `node` reads: the first below it that is no filter.
    pub fn image_under(&self, node: &str) -> Option<String> {
        let g = self.graph.snapshot();
        let mut n = g.by_name(node)?;
        while n.ty.kind == Kind::Filter {
            n = g.node(n.primary()?.child)?;
        }
        Some(n.name.clone())
    }

    /// The image and those behind it, without filters.
    pub fn chain(&self, node: &str) -> Vec<String> {
        let g = self.graph.snapshot();
        let mut chain = Vec::new();
        let mut at = g.by_name(node);
        while let Some(n) = at {
            let next = |n: &Node| n.edge_named("backing").map(|e| e.child);
            let below = if n.ty.kind == Kind::Filter {
                n.primary().map(|e| e.child)
            } else {
                chain.push(n.name.clone());
                next(n)
            };
            at = below.and_then(|id| g.node(id));
        }
        chain
    }

    /// All bytes that a reader of the node sees.
    pub async fn read(&self, node: &str) -> Result<Vec<u8>, String> {
        let config = RootConfig { perm: Perm::empty(), shared: Perm::all(), ..RootConfig::default() };
        let r = self.graph.attach(node, config).await.map_err(|e| e.to_string())?;
        let buf = IoBuf::zeroed(r.len() as usize);
        let done = r.read(0, buf.clone()).await;
        r.detach().await;
        done.map(|()| buf.to_vec()).map_err(|e| e.to_string())
    }
}

/// A dirty bitmap that is followed.
pub struct Tracked {
    /// The node's bytes when it was clean: what differs from them is dirty.
    pub clean: Past,
    pub persistent: bool,
}

/// What is known of images, by the names of their nodes.
#[derive(Default)]
pub struct Known {
    /// What images hold that nobody writes to.
    pub frozen: BTreeMap<String, Past>,
    /// By node and name.
    pub bitmaps: BTreeMap<(String, String), Tracked>,
    /// Internal snapshots, by node and name.
    pub snapshots: BTreeMap<(String, String), Past>,
    /// What a full backup holds, and the bitmap from which it can be brought up to date: target, node and bitmap.
    pub backups: Vec<(String, String, String)>,
}

/// One run.
pub struct Bed {
    pub world: Arc<World>,
    pub layer: Layer,
    pub user: RefCell<Option<Arc<Root>>>,
    pub size: u64,
    pub model: RefCell<Model>,
    pub known: RefCell<Known>,
    pub running: RefCell<Vec<crate::jobs::Running>>,
    /// Ranges with a change in the air or given up: id, offset, length.
    pub busy: RefCell<Vec<(u64, u64, u64)>>,
    /// Those of them that were given up: they are free after a drain.
    pub given_up: RefCell<Vec<u64>>,
    /// Ranges that are being read.
    pub reads: RefCell<Vec<(u64, u64, u64)>>,
    next: Cell<u64>,
    begun: Instant,
    /// Requests may have failed.
    pub faulty: Cell<bool>,
    /// A reopen that named the backing nodes of before may have come behind a job that put others there: the images' headers
    /// still name what the job left, which may be deleted since.
    pub relinked: Cell<bool>,
    pub stop: Cell<bool>,
    pub log: Cell<bool>,
    /// Jobs that were seen to abort.
    pub aborted: RefCell<BTreeSet<String>>,
    /// Jobs that met with errors, which they may have ignored.
    pub ignored: RefCell<BTreeSet<String>>,
    /// How often each kind of thing succeeded.
    pub done: RefCell<BTreeMap<&'static str, u64>>,
}

impl Bed {
    pub fn new(world: Arc<World>, size: u64) -> Rc<Bed> {
        Rc::new(Bed {
            world,
            layer: Layer::new(),
            user: RefCell::default(),
            size,
            model: RefCell::default(),
            known: RefCell::default(),
            running: RefCell::default(),
            busy: RefCell::default(),
            given_up: RefCell::default(),
            reads: RefCell::default(),
            next: Cell::new(0),
            begun: rt::now(),
            faulty: Cell::new(false),
            relinked: Cell::new(false),
            stop: Cell::new(false),
            log: Cell::new(std::env::var_os("RHEA_SIM_LOG").is_some()),
            aborted: RefCell::default(),
            ignored: RefCell::default(),
            done: RefCell::default(),
        })
    }

    /// A new number.
    pub fn id(&self) -> u64 {
        self.next.set(self.next.get() + 1);
        self.next.get()
    }

    /// One of some.
    pub fn pick<T: Copy>(&self, from: &[T]) -> T {
        from[rng().below(from.len() as u64) as usize]
    }

    pub fn user(&self) -> Arc<Root> {
        self.user.borrow().clone().expect("there is a user")
    }

    /// How long the run lasts, in its own time.
    pub fn time(&self) -> Duration {
        rt::now().saturating_duration_since(self.begun)
    }

    pub fn count(&self, what: &'static str) {
        *self.done.borrow_mut().entry(what).or_default() += 1;
    }

    pub fn say(&self, text: impl FnOnce() -> String) {
        if self.log.get() {
            eprintln!("{:?} {}", self.time(), text());
        }
    }

    /// Runs a command and logs it.
    pub async fn cmd(&self, name: &str, arguments: &str) -> Result<Value, QError> {
        self.say(|| format!("-> {name} {arguments}"));
        let done = self.layer.call(name, arguments).await;
        self.say(|| {
            format!("<- {name} {:?}", done.as_ref().map(|v| v.to_json()).map_err(ToString::to_string))
        });
        done
    }

    /// The same for a client that may go away before there is an answer; then there is an error, although the command may
    /// have been done. It is over when this returns.
    pub async fn fickle(&self, name: &str, arguments: &str) -> Result<Value, QError> {
        if rng().chance(7, 8) {
            return self.cmd(name, arguments).await;
        }
        let patience = Duration::from_micros(rng().below(3000));
        let Some(done) = rt::timeout(patience, self.cmd(name, arguments)).await else {
            self.count("client went away");
            self.say(|| format!("<- nobody waits for {name}"));
            // It may wait for requests, and have slow storage flushed, before it takes its turn among the changes.
            rt::sleep(Duration::from_millis(250)).await;
            self.settled().await;
            return Err(qerr!("the client went away"));
        };
        done
    }

    /// Waits until no change of the graph goes on.
    pub async fn settled(&self) {
        drop(self.layer.call("blockdev-del", "{'node-name':'no-such-node'}").await);
    }

    /// The node of the image that the user writes to.
    pub fn active(&self) -> String {
        self.layer.image_under(&self.device()).expect("there is an image")
    }

    /// The node that the user is on: what commands call the device.
    pub fn device(&self) -> String {
        self.user().node_name().expect("the user has a node")
    }

    pub fn set_faults(&self, on: bool) {
        let faults = if on {
            self.faulty.set(true);
            Faults { read: 8, write: 8, space: 8, flush: 20, stage: 30, delay: 500 }
        } else {
            Faults { delay: 500, ..Faults::default() }
        };
        self.world.set_faults(faults);
    }

    /// Takes a copy of the user's disk around something that is done.
    pub async fn around<T>(&self, what: impl Future<Output = T>) -> (Past, T) {
        let past = self.model.borrow_mut().watch();
        let done = what.await;
        self.model.borrow_mut().unwatch(&past);
        (past, done)
    }

    /// The bytes below `node` are about to change: what is known of images that show them is not so any more. `except`:
    /// one whose view stays as it is.
    pub fn forget_above(&self, node: &str, except: Option<&str>) {
        let g = self.layer.graph.snapshot();
        let Some(base) = g.by_name(node).map(|n| n.id) else { return };
        let shows = |name: &str| g.by_name(name).is_some_and(|n| n.id != base && g.reaches(n.id, base));
        let mut known = self.known.borrow_mut();
        let kept = |name: &str| !shows(name) || Some(name) == except;
        known.frozen.retain(|n, _| kept(n) && n != node);
        known.bitmaps.retain(|(n, _), _| kept(n));
        known.backups.retain(|(_, n, _)| kept(n));
        // A snapshot shows what is below it now, even where the view of the image stays.
        known.snapshots.retain(|(n, _), _| !shows(n));
    }
}
