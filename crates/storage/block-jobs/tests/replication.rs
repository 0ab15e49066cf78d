//! Two machines in step: what each side's disk shows, and how it ends.

use block::driver::WriteFlags;
use block::job::Jobs;
use block::{BlockGraph, Perm, Root, RootConfig};
use mem::IoBuf;
use monitor::{CommandTable, EventBus, EventStream, HmpTable};
use qapi::Value;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

const SIZE: u64 = 1 << 20;

struct Bed {
    dir: PathBuf,
    graph: Arc<BlockGraph>,
    jobs: Arc<Jobs>,
    table: CommandTable,
    events: EventStream,
}

impl Bed {
    async fn new(name: &str) -> Bed {
        let dir = std::env::temp_dir().join(format!("rhea-replication-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("secondary"), vec![1; SIZE as usize]).unwrap();
        let bus = EventBus::new();
        let events = bus.listen(1000);
        let graph = BlockGraph::new(&image::drivers(), bus);
        let jobs = Jobs::new(graph.clone());
        let mut table = CommandTable::new();
        block::qmp::register(&mut table, &mut HmpTable::new(), &graph);
        block_jobs::register(&mut table, &jobs);
        block_jobs::replication::register(&mut table, &jobs);
        let b = Bed { dir, graph, jobs, table, events };
        b.ok(
            "blockdev-add",
            "{'driver':'raw','node-name':'s','file':{'driver':'file','filename':'$D/secondary'}}",
        )
        .await;
        b
    }

    async fn call(&self, command: &str, arguments: &str) -> Result<Value, String> {
        let text = arguments.replace("$D", &self.dir.display().to_string());
        let arguments = Value::parse_json(&text).unwrap_or_else(|e| panic!("{text}: {e}"));
        self.table.call(command, arguments).await.map_err(|e| e.desc().to_owned())
    }

    async fn ok(&self, command: &str, arguments: &str) {
        self.call(command, arguments).await.unwrap_or_else(|e| panic!("{command} {arguments}: {e}"));
    }

    async fn refused(&self, command: &str, arguments: &str, why: &str) {
        assert_eq!(self.call(command, arguments).await.unwrap_err(), why, "{command} {arguments}");
    }

    /// Makes a file for a qcow2 image.
    async fn image(&self, name: &str, size: u64) {
        let file = format!("{{'driver':'file','node-name':'{name}','filename':'$D/{name}'}}");
        std::fs::write(self.dir.join(name), []).unwrap();
        self.ok("blockdev-add", &file).await;
        let options = format!("{{'driver':'qcow2','file':'{name}','size':{size}}}");
        self.ok("blockdev-create", &format!("{{'job-id':'make','options':{options}}}")).await;
        while self.jobs.get("make").unwrap().status() != api::job::JobStatus::Concluded {
            rt::sleep(Duration::from_millis(2)).await;
        }
        assert_eq!(self.jobs.get("make").unwrap().error(), None);
        self.ok("job-dismiss", "{'id':'make'}").await;
        self.ok("blockdev-del", &format!("{{'node-name':'{name}'}}")).await;
    }

    /// A secondary side: `r` over the active disk over the hidden disk over `s`.
    async fn secondary(&self) {
        self.image("a", SIZE).await;
        self.image("h", SIZE).await;
        self.ok("blockdev-add", SECONDARY).await;
    }

    async fn user(&self, node: &str) -> Arc<Root> {
        let perm = Perm::CONSISTENT_READ | Perm::WRITE;
        let config = RootConfig { perm, shared: Perm::all() - Perm::RESIZE, ..RootConfig::default() };
        self.graph.attach(node, config).await.unwrap_or_else(|e| panic!("{node}: {e}"))
    }

    async fn status(&self) -> Option<String> {
        let v = self.call("query-xen-replication-status", "{}").await.unwrap();
        let desc = v.get("desc").and_then(Value::as_str).map(str::to_owned);
        assert_eq!(v.get("error"), Some(&Value::Bool(desc.is_some())));
        desc
    }

    fn names(&self) -> Vec<String> {
        let g = self.graph.snapshot();
        let mut n: Vec<_> = g.nodes().map(|n| n.name.clone()).filter(|n| !n.starts_with('#')).collect();
        n.sort();
        n
    }

    async fn end(self) {
        self.jobs.cancel_all().await;
        self.graph.close_all().await;
        std::fs::remove_dir_all(&self.dir).unwrap();
    }
}

const SECONDARY: &str = "{'driver':'replication','mode':'secondary','node-name':'r','top-id':'r','file':{'driver':'qcow2','node-name':'a','file':{'driver':'file','filename':'$D/a'},'backing':{'driver':'qcow2','node-name':'h','file':{'driver':'file','filename':'$D/h'},'backing':'s'}}}";
const BEGIN: &str = "{'enable':true,'primary':false}";
const END: &str = "{'enable':false,'primary':false}";
const FAIL_OVER: &str = "{'enable':false,'primary':false,'failover':true}";

async fn put(root: &Root, off: u64, byte: u8) {
    root.write(off, IoBuf::from_bytes(&[byte; 4096]), WriteFlags::empty()).await.unwrap();
}

async fn byte(root: &Root, off: u64) -> u8 {
    let buf = IoBuf::zeroed(4096);
    root.read(off, buf.clone()).await.unwrap();
    let bytes = buf.to_vec();
    assert!(bytes.iter().all(|b| *b == bytes[0]));
    bytes[0]
}

#[test]
fn a_secondary_side_shows_the_last_checkpoint_and_takes_over() {
    rt::block_on(async {
        let b = Bed::new("over").await;
        b.secondary().await;
        let (theirs, ours) = (b.user("s").await, b.user("r").await);
        // Nothing goes before it has begun.
        let buf = IoBuf::zeroed(512);
        assert_eq!(ours.read(0, buf.clone()).await, Err(base::Errno::IO));
        assert_eq!(ours.write(0, buf, WriteFlags::empty()).await, Err(base::Errno::IO));
        assert_eq!(b.status().await.as_deref(), Some("Block replication is not running"));
        b.refused("xen-colo-do-checkpoint", "{}", "Backup job was cancelled unexpectedly").await;
        b.refused("xen-set-replication", END, "Block replication is not running").await;
        b.ok("xen-set-replication", FAIL_OVER).await;
        b.ok("xen-set-replication", BEGIN).await;
        assert_eq!(b.status().await, None);
        b.refused("xen-set-replication", BEGIN, "Block replication is running or done").await;
        // Each side writes.
        put(&theirs, 0, 2).await;
        put(&ours, 65536, 3).await;
        put(&theirs, 65536, 4).await;
        assert_eq!((byte(&ours, 0).await, byte(&ours, 65536).await), (1, 3));
        b.ok("xen-colo-do-checkpoint", "{}").await;
        assert_eq!((byte(&ours, 0).await, byte(&ours, 65536).await), (2, 4));
        // What was copied before is copied again.
        put(&theirs, 0, 5).await;
        put(&ours, 131_072, 6).await;
        assert_eq!((byte(&ours, 0).await, byte(&theirs, 0).await), (2, 5));
        // Its disks are its own, and nobody sees its jobs.
        let busy = |n| format!("Node '{n}' is busy: Block device is in use by internal backup job");
        b.refused("blockdev-del", "{'node-name':'r'}", &busy("r")).await;
        b.refused("block-stream", "{'job-id':'j','device':'a'}", &busy("a")).await;
        b.refused("block_resize", "{'node-name':'s','size':2097152}", &busy("s")).await;
        let given = "{'options':[{'driver':'qcow2','node-name':'a','file':{'driver':'file','filename':'$D/a'},'backing':null}]}";
        b.refused("blockdev-reopen", given, "Cannot change frozen 'backing' link from 'a' to 'h'").await;
        for query in ["query-jobs", "query-block-jobs"] {
            assert_eq!(b.call(query, "{}").await, Ok(Value::List(Vec::new())));
        }
        b.ok("xen-set-replication", FAIL_OVER).await;
        for _ in 0..1000 {
            match b.status().await {
                None => break,
                Some(desc) => assert_eq!(desc, "I/O error occurred"),
            }
            rt::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(b.status().await, None);
        assert_eq!(b.names(), ["r", "s"]);
        // The disk is what this side saw: the primary side's last write is not part of it.
        for root in [&ours, &theirs] {
            assert_eq!((byte(root, 0).await, byte(root, 131_072).await, byte(root, 65536).await), (2, 6, 4));
        }
        put(&ours, 0, 7).await;
        assert_eq!(byte(&theirs, 0).await, 7);
        // It does not begin again.
        b.ok("xen-set-replication", BEGIN).await;
        b.ok("xen-set-replication", FAIL_OVER).await;
        assert!(
            b.events.try_next().is_none_or(
                |e| e.to_value().get("event").and_then(Value::as_str) == Some("JOB_STATUS_CHANGE")
            )
        );
        ours.detach().await;
        theirs.detach().await;
        b.end().await;
    });
}

#[test]
fn a_secondary_side_that_is_told_to_end_is_what_the_primary_side_wrote() {
    rt::block_on(async {
        let b = Bed::new("end").await;
        b.secondary().await;
        let (theirs, ours) = (b.user("s").await, b.user("r").await);
        b.ok("xen-set-replication", BEGIN).await;
        put(&theirs, 0, 2).await;
        put(&ours, 65536, 3).await;
        b.ok("xen-set-replication", END).await;
        assert_eq!(b.status().await, None);
        assert_eq!((byte(&ours, 0).await, byte(&ours, 65536).await), (2, 1));
        assert_eq!(b.names(), ["a", "h", "r", "s"]);
        put(&theirs, 0, 4).await;
        assert_eq!(byte(&ours, 0).await, 4);
        assert!(b.graph.snapshot().by_name("h").unwrap().flags.read_only);
        ours.detach().await;
        theirs.detach().await;
        b.ok("blockdev-del", "{'node-name':'r'}").await;
        b.end().await;
    });
}

#[test]
fn a_primary_side_goes_on_when_the_other_one_is_gone() {
    rt::block_on(async {
        let b = Bed::new("primary").await;
        let node = "{'driver':'replication','mode':'primary','node-name':'r','file':{'driver':'blkdebug','image':{'driver':'null-co','read-zeroes':true},'inject-error':[{'event':'none','iotype':'write','errno':28,'once':true}]}}";
        b.ok("blockdev-add", node).await;
        let user = b.user("r").await;
        assert_eq!(byte(&user, 0).await, 0);
        let write = || user.write(0, IoBuf::zeroed(512), WriteFlags::empty());
        assert_eq!(write().await, Err(base::Errno::IO));
        b.refused("xen-set-replication", BEGIN, "The parameter mode's value is invalid, needs 0, but got 1")
            .await;
        b.ok("xen-set-replication", "{'enable':true,'primary':true}").await;
        assert_eq!(b.status().await, None);
        b.ok("xen-colo-do-checkpoint", "{}").await;
        assert_eq!(write().await, Ok(()));
        assert_eq!(b.status().await.as_deref(), Some("I/O error occurred"));
        b.ok("xen-set-replication", END).await;
        assert_eq!(b.status().await, None);
        assert_eq!(write().await, Err(base::Errno::IO));
        user.detach().await;
        b.end().await;
    });
}

#[test]
fn what_cannot_be_replicated_is_refused() {
    rt::block_on(async {
        let b = Bed::new("refused").await;
        assert_eq!(b.status().await, None);
        let add = |rest: &str| format!("{{'driver':'replication','node-name':'r',{rest}}}");
        b.refused(
            "blockdev-add",
            &add("'mode':'primary','top-id':'x','file':'s'"),
            "The primary side does not support option top-id",
        )
        .await;
        b.refused("blockdev-add", &add("'mode':'secondary','file':'s'"), "Missing the option top-id").await;
        b.refused(
            "xen-set-replication",
            "{'enable':true,'primary':true,'failover':false}",
            "Parameter 'failover' is only for stopping replication",
        )
        .await;
        b.image("a", SIZE).await;
        b.image("h", SIZE).await;
        b.image("big", 2 * SIZE).await;
        let over = |image: &str, below: &str| {
            format!(
                "{{'driver':'qcow2','file':{{'driver':'file','filename':'$D/{image}'}},'backing':{below}}}"
            )
        };
        let begin = async |file: &str, top: &str, why: &str| {
            b.ok("blockdev-add", &add(&format!("'mode':'secondary','top-id':'{top}','file':{file}"))).await;
            b.refused("xen-set-replication", BEGIN, why).await;
            assert_eq!(b.status().await.as_deref(), Some("Block replication is not running"));
            b.ok("blockdev-del", "{'node-name':'r'}").await;
            assert!(b.graph.snapshot().nodes().count() == 2, "{:?}", b.names());
        };
        begin("'s'", "r", "Active disk doesn't have backing file").await;
        begin(&over("a", "'s'"), "r", "Hidden disk doesn't have backing file").await;
        let both = over("a", &over("h", "'s'"));
        begin(&both, "r", "The secondary disk doesn't have block backend").await;
        let theirs = b.user("s").await;
        begin(
            &over("a", &over("big", "'s'")),
            "r",
            "Active disk, hidden disk, secondary disk's length are not the same",
        )
        .await;
        begin(&both, "nope", "No top_bs or it is invalid").await;
        begin(&both, "s", "No top_bs or it is invalid").await;
        theirs.detach().await;
        b.end().await;
    });
}
