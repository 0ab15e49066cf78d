//! Rhea's own block layer with all its commands, in this process.

use crate::run::{Answer, Peer};
use block::BlockGraph;
use block::job::Jobs;
use export::Exports;
use monitor::{CommandTable, EventBus, EventStream, HmpTable};
use qapi::Value;
use qom::ObjectTree;
use std::sync::Arc;
use std::time::Duration;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(20);

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
            graph.set_image_maker(Arc::new(image::create::Maker));
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
        let line = arguments.to_json();
        let done = self.executor.block_on(rt::timeout(PATIENCE, self.table.call(command, arguments)));
        let done = done.unwrap_or_else(|| panic!("{command} {line}: no answer"));
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
