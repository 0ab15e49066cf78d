//! Rhea's own block layer with all its commands, in this process.

use crate::run::{Answer, Peer};
use block::BlockGraph;
use block::job::Jobs;
use export::Exports;
use image::create::{NewImage, create, qcow2_defaults};
use monitor::{CommandTable, EventBus, EventStream, HmpTable};
use qapi::Value;
use qom::ObjectTree;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Rhea.
pub struct Rhea {
    executor: rt::Executor,
    table: CommandTable,
    events: EventStream,
    graph: Arc<BlockGraph>,
    jobs: Arc<Jobs>,
    exports: Arc<Exports>,
}

impl Rhea {
    /// An empty graph, with all drivers.
    pub fn start() -> Rhea {
        let executor = rt::Executor::new().expect("an executor");
        let (table, events, graph, jobs, exports) = executor.block_on(async {
            let bus = EventBus::new();
            let events = bus.listen(100_000);
            let graph = BlockGraph::new(&image::drivers(), bus);
            let objects = Arc::new(ObjectTree::new());
            graph.set_objects(objects.clone());
            let jobs = Jobs::new(graph.clone());
            let exports = Exports::new(graph.clone(), objects.clone());
            let mut table = CommandTable::new();
            qom::register(&mut table, &objects);
            block::qmp::register(&mut table, &mut HmpTable::new(), &graph);
            block_jobs::register(&mut table, &jobs);
            export::qmp::register(&mut table, &exports);
            (table, events, graph, jobs, exports)
        });
        Rhea { executor, table, events, graph, jobs, exports }
    }
}

impl Peer for Rhea {
    fn call(&mut self, command: &str, arguments: Value) -> Answer {
        let done = self.executor.block_on(self.table.call(command, arguments));
        done.map_err(|e| (format!("{:?}", e.class()), e.desc().to_owned()))
    }

    fn events(&mut self) -> Vec<Value> {
        std::iter::from_fn(|| self.events.try_next()).map(|e| e.to_value()).collect()
    }

    fn wait(&mut self, time: Duration) {
        self.executor.block_on(rt::sleep(time));
    }

    fn pid(&self) -> u32 {
        std::process::id()
    }

    fn is_reference(&self) -> bool {
        false
    }
}

impl Drop for Rhea {
    fn drop(&mut self) {
        self.executor.block_on(async {
            self.exports.close_all().await;
            self.jobs.cancel_all().await;
            self.graph.close_all().await;
        });
    }
}

/// Makes the image that a line `image …` describes.
pub(crate) fn make_image(dir: &Path, text: &str) -> Result<(), String> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let (plain, words) = match words.split_first() {
        Some((&"raw", rest)) => (true, rest.to_vec()),
        _ => (false, words),
    };
    let [name, size, backing @ ..] = words.as_slice() else { return Err("image NAME SIZE [BACKING]".into()) };
    let size = base::units::parse_size(size, 1).map_err(|e| format!("{size}: {e:?}"))?;
    let image = if plain {
        NewImage::Raw { size, preallocation: Default::default() }
    } else {
        let mut o = qcow2_defaults(size);
        if let Some(b) = backing.first() {
            o.backing_file = Some((*b).to_owned());
            o.backing_fmt = Some(api::block_core::BlockdevDriver::Qcow2);
        }
        NewImage::Qcow2(Box::new(o))
    };
    let path = dir.join(name).display().to_string();
    let executor = rt::Executor::new().map_err(|e| e.to_string())?;
    executor.block_on(create(&path, &image)).map_err(|e| e.desc().to_owned())
}
