//! The drivers in a graph; and questions that are answered while storage is not.

use api::block_core::{BlkdebugEvent, BlockdevOptions};
use api::block_export::{BlockExportOptions, NbdServerOptions};
use base::Errno;
use block::{BlockGraph, Perm, Root, RootConfig};
use block_test::Breakpoints;
use export::Exports;
use mem::IoBuf;
use monitor::{CommandTable, EventBus, HmpTable};
use qapi::{Value, from_json};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

const LEN: usize = 1 << 20;

struct Bed {
    dir: PathBuf,
    graph: Arc<BlockGraph>,
}

impl Drop for Bed {
    fn drop(&mut self) {
        _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn from<T: qapi::Qapi>(text: &str) -> T {
    let text = text.replace('\'', "\"");
    Value::parse_json(&text).and_then(from_json).unwrap_or_else(|e| panic!("{text}: {e}"))
}

impl Bed {
    fn new(name: &str) -> Bed {
        let dir = std::env::temp_dir().join(format!("rhea-block-test-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("f"), vec![7; LEN]).unwrap();
        std::fs::write(dir.join("g"), vec![7; LEN]).unwrap();
        let drivers = [block_file::DRIVERS, block_formats::DRIVERS, block_test::DRIVERS].concat();
        Bed { dir, graph: BlockGraph::new(&drivers, EventBus::new()) }
    }

    async fn try_add(&self, options: &str) -> Result<(), String> {
        let text = options.replace('@', &format!("{}/", self.dir.display()));
        self.graph.add(from::<BlockdevOptions>(&text)).await.map_err(|e| e.desc().to_owned())
    }

    async fn debug(&self, more: &str) -> Result<(), String> {
        let file = "{'driver':'file','filename':'@f'}";
        self.try_add(&format!("{{'driver':'blkdebug','node-name':'d','image':{file}{more}}}")).await
    }

    async fn root(&self, node: &str) -> Arc<Root> {
        let perm = Perm::CONSISTENT_READ | Perm::WRITE;
        self.graph.attach(node, RootConfig { perm, shared: Perm::all(), ..Default::default() }).await.unwrap()
    }
}

fn buf(byte: u8, len: usize) -> IoBuf {
    let b = IoBuf::zeroed(len);
    b.fill(byte);
    b
}

#[test]
fn errors_by_rules() {
    rt::block_on(async {
        let bed = Bed::new("rules");
        bed.debug(
            ",'inject-error':[{'event':'read_aio','errno':28,'sector':8,'once':true},\
             {'event':'pwritev','iotype':'write','state':2}],\
             'set-state':[{'event':'pwritev_zero','new_state':2}]",
        )
        .await
        .unwrap();
        // A format says when it reads data.
        bed.try_add("{'driver':'raw','node-name':'r','file':'d'}").await.unwrap();
        let r = bed.root("r").await;
        assert_eq!(r.read(0, buf(0, 4096)).await, Ok(()));
        assert_eq!(r.read(4096, buf(0, 512)).await, Err(Errno::NOSPC));
        assert_eq!(r.write(0, buf(1, 512), Default::default()).await, Ok(()));
        r.write_zeroes(512, 512, Default::default()).await.unwrap();
        assert_eq!(r.write(0, buf(2, 512), Default::default()).await, Err(Errno::IO));
        let b = buf(9, 1024);
        r.read(0, b.clone()).await.unwrap();
        assert_eq!(b.to_vec(), [vec![1; 512], vec![0; 512]].concat());
        // What the options say comes back whole, lists too.
        let shown = bed.graph.describe();
        assert!(shown.contains("blkdebug"), "{shown}");
        r.detach().await;
        bed.graph.close_all().await;
    });
}

#[test]
fn rules_from_a_file() {
    rt::block_on(async {
        let bed = Bed::new("config");
        std::fs::write(bed.dir.join("rules"), "[inject-error]\nevent = \"none\"\niotype = \"flush\"\n")
            .unwrap();
        bed.debug(",'config':'@rules'").await.unwrap();
        let r = bed.root("d").await;
        r.write(0, buf(1, 512), Default::default()).await.unwrap();
        assert_eq!(r.flush().await, Err(Errno::IO));
        let e = bed.debug(",'config':'@nothing'").await.unwrap_err();
        assert!(e.contains("Duplicate") || e.starts_with("Could not read blkdebug config file"), "{e}");
        r.detach().await;
        bed.graph.close_all().await;
    });
}

#[test]
fn what_is_asked_of_requests() {
    rt::block_on(async {
        let bed = Bed::new("limits");
        for (o, text) in [
            ("'align':100", "align 100"),
            ("'align':2147483648", "align 2147483648"),
            ("'max-transfer':100,'align':512", "max-transfer 100"),
            ("'max-discard':100,'align':512", "max-discard 100"),
        ] {
            let e = bed.debug(&format!(",{o}")).await.unwrap_err();
            assert_eq!(e, format!("Cannot meet constraints with {text}"));
        }
        bed.debug(",'align':4096,'max-transfer':65536,'opt-write-zero':16384").await.unwrap();
        let r = bed.root("d").await;
        let l = r.limits();
        assert_eq!((l.request_alignment, l.max_transfer, l.write_zeroes_alignment), (4096, 65536, 16384));
        // The core suits all requests to that.
        r.write(1000, buf(5, 300_000), Default::default()).await.unwrap();
        r.write_zeroes(50_000, 100_000, Default::default()).await.unwrap();
        let mut want = vec![7; LEN];
        want[1000..301_000].fill(5);
        want[50_000..150_000].fill(0);
        let all = buf(1, LEN);
        r.read(0, all.clone()).await.unwrap();
        assert!(all.to_vec() == want && std::fs::read(bed.dir.join("f")).unwrap() == want);
        r.detach().await;
        bed.graph.close_all().await;
    });
}

#[test]
fn two_nodes_are_compared() {
    rt::block_on(async {
        let bed = Bed::new("verify");
        bed.try_add(
            "{'driver':'blkverify','node-name':'v','test':{'driver':'raw','file':{'driver':'file','filename':'@f'}},\
             'raw':{'driver':'file','filename':'@g'}}",
        )
        .await
        .unwrap();
        let r = bed.root("v").await;
        r.write(3000, buf(5, 5000), Default::default()).await.unwrap();
        r.write_zeroes(10_000, 5000, Default::default()).await.unwrap();
        r.flush().await.unwrap();
        assert_eq!(r.read(0, buf(0, LEN)).await, Ok(()));
        assert!(std::fs::read(bed.dir.join("f")).unwrap() == std::fs::read(bed.dir.join("g")).unwrap());
        let mut f = std::fs::read(bed.dir.join("f")).unwrap();
        f[12_345] ^= 1;
        std::fs::write(bed.dir.join("f"), f).unwrap();
        assert_eq!(r.read(8192, buf(0, 4096)).await, Ok(()));
        assert_eq!(r.read(12_288, buf(0, 4096)).await, Err(Errno::IO));
        r.detach().await;
        bed.graph.close_all().await;
    });
}

#[test]
fn questions_are_answered_while_storage_is_stuck() {
    rt::block_on(async {
        let bed = Bed::new("stuck");
        // A name of its own: breakpoints are found by it in the whole process, where other tests run too.
        let stuck = "{'driver':'blkdebug','node-name':'stuck','image':{'driver':'file','filename':'@f'}}";
        bed.try_add(stuck).await.unwrap();
        bed.try_add("{'driver':'raw','node-name':'r','file':'stuck'}").await.unwrap();
        let exports = Exports::new(bed.graph.clone(), Arc::new(qom::ObjectTree::new()));
        let socket = bed.dir.join("s").display().to_string();
        let addr = format!("{{'addr':{{'type':'unix','path':'{socket}'}}}}");
        exports.start_server(from::<NbdServerOptions>(&addr)).await.unwrap();
        exports
            .add(from::<BlockExportOptions>("{'type':'nbd','id':'e','node-name':'r','writable':true}"))
            .await
            .unwrap();
        let (mut table, mut hmp) = (CommandTable::new(), HmpTable::new());
        block::qmp::register(&mut table, &mut hmp, &bed.graph);
        export::qmp::register(&mut table, &exports);
        let jobs = block::job::Jobs::new(bed.graph.clone());
        block_jobs::register(&mut table, &jobs);
        let r = bed.root("r").await;
        let stop = Breakpoints::of("stuck").unwrap();
        stop.set(BlkdebugEvent::ReadAio, "stop");
        stop.set(BlkdebugEvent::FlushToDisk, "flush");
        // Many requests are on their way and get nowhere.
        let mut stuck = Vec::new();
        for i in 0..50u64 {
            let r = r.clone();
            stuck.push(rt::spawn_local(async move { r.read(i * 4096, buf(0, 4096)).await }));
        }
        let patience = Duration::from_secs(30);
        rt::timeout(patience, stop.held("stop", 50)).await.expect("50 reads stop");
        r.write(0, buf(1, 512), Default::default()).await.unwrap();
        let r2 = r.clone();
        stuck.push(rt::spawn_local(async move { r2.flush().await }));
        rt::timeout(patience, stop.held("flush", 1)).await.expect("the flush stops");
        let asked: Vec<&str> = table.names().filter(|n| n.starts_with("query-")).collect();
        for must in [
            "query-block",
            "query-named-block-nodes",
            "query-blockstats",
            "query-block-exports",
            "query-jobs",
        ] {
            if must != "query-blockstats" {
                assert!(asked.contains(&must), "{must}: {asked:?}");
            }
        }
        for name in asked {
            let answer = table.call(name, Value::Dict(qapi::Dict::new()));
            let answer = rt::timeout(Duration::from_secs(2), answer).await;
            assert!(answer.unwrap_or_else(|| panic!("{name} hangs")).is_ok(), "{name}");
        }
        // What does not concern the stuck node can be changed, too.
        let other = bed.try_add("{'driver':'null-co','node-name':'n'}");
        rt::timeout(Duration::from_secs(2), other).await.unwrap().unwrap();
        assert!(stuck.iter().all(|t| !t.is_finished()));
        stop.resume("stop");
        stop.resume("flush");
        for t in stuck {
            assert_eq!(t.await, Ok(()));
        }
        r.detach().await;
        exports.close_all().await;
        bed.graph.close_all().await;
    });
}
