//! LUKS volumes made and amended by jobs.

use api::block_core::{BlockdevCreate, XBlockdevAmend};
use api::job::JobStatus;
use block::driver::{SnapshotOp, WriteFlags};
use block::job::Jobs;
use block::{BlockGraph, Perm, RootConfig};
use mem::IoBuf;
use monitor::{CommandTable, EventBus};
use qapi::{QError, Qapi, Value, from_json};
use std::sync::Arc;
use std::time::Duration;

fn arg<T: Qapi>(text: &str) -> T {
    Value::parse_json(text).and_then(from_json).unwrap_or_else(|e| panic!("{text}: {e}"))
}

struct Bed {
    graph: Arc<BlockGraph>,
    jobs: Arc<Jobs>,
}

impl Bed {
    /// How the job `j` ended; it is dismissed.
    async fn end(&self, started: Result<(), QError>) -> Result<(), String> {
        started.map_err(|e| e.desc().to_owned())?;
        loop {
            let job = self.jobs.query().into_iter().find(|j| j.id == "j").unwrap();
            if job.status == JobStatus::Concluded {
                self.jobs.dismiss_job(&self.jobs.get("j").unwrap()).unwrap();
                return job.error.map_or(Ok(()), Err);
            }
            rt::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn create(&self, options: &str) -> Result<(), String> {
        let c: BlockdevCreate = arg(&format!("{{'job-id':'j','options':{{'driver':'luks',{options}}}}}"));
        self.end(block_jobs::create::create(&self.jobs, c).await).await
    }

    async fn amend(&self, node: &str, options: &str) -> Result<(), String> {
        let c: XBlockdevAmend =
            arg(&format!("{{'job-id':'j','node-name':'{node}','options':{{'driver':'luks',{options}}}}}"));
        self.end(block_jobs::amend::amend(&self.jobs, c).await).await
    }
}

#[test]
fn volumes_are_made_and_their_slots_changed_by_jobs() {
    let dir = std::env::temp_dir().join(format!("rhea-jobs-luks-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    rt::block_on(async {
        let graph = BlockGraph::new(&image::drivers(), EventBus::new());
        let objects = qom::ObjectTree::new();
        objects.add(&arg("{'qom-type':'secret','id':'s','data':'one'}")).unwrap();
        objects.add(&arg("{'qom-type':'secret','id':'n','data':'two'}")).unwrap();
        graph.set_objects(Arc::new(objects));
        let b = Bed { jobs: Jobs::new(graph.clone()), graph };
        for f in ["f", "h"] {
            let path = dir.join(f);
            std::fs::write(&path, []).unwrap();
            let text = format!("{{'driver':'file','node-name':'{f}','filename':'{}'}}", path.display());
            b.graph.add(arg(&text)).await.unwrap();
        }
        for (options, text) in [
            ("'file':'f','size':1048576", "Parameter 'key-secret' is required for cipher"),
            ("'file':'f','size':1048576,'key-secret':'zz'", "No secret with id 'zz'"),
            ("'size':1048576,'key-secret':'s'", "Either the parameter 'header' or 'file' must be specified"),
            ("'file':'g','size':1,'key-secret':'s'", "Cannot find device='g' nor node-name='g'"),
            (
                "'file':'f','size':1,'key-secret':'s','preallocation':'metadata'",
                "Unsupported preallocation mode: metadata",
            ),
        ] {
            assert_eq!(b.create(options).await.unwrap_err(), text);
        }
        b.create("'file':'f','header':'h','size':1048576,'key-secret':'s','iter-time':1").await.unwrap();
        let add = async |secret: &str| {
            let text = format!(
                "{{'driver':'luks','node-name':'l','file':'f','header':'h','key-secret':'{secret}'}}"
            );
            b.graph.add(arg(&text)).await
        };
        add("s").await.unwrap();
        assert_eq!(
            b.amend("zz", "'state':'active'").await.unwrap_err(),
            "Cannot find device='' nor node-name='zz'"
        );
        let e = b.amend("f", "'state':'active'").await.unwrap_err();
        assert_eq!(e, "x-blockdev-amend doesn't support changing the block driver");
        let e = b.amend("l", "'state':'active'").await.unwrap_err();
        assert_eq!(e, "'new-secret' is required to activate a keyslot");
        b.amend("l", "'state':'active','new-secret':'n','iter-time':1").await.unwrap();
        b.amend("l", "'state':'inactive','keyslot':0").await.unwrap();
        b.graph.del("l").await.unwrap();
        assert!(add("s").await.is_err());
        add("n").await.unwrap();
        b.graph.close_all().await;
    });
    std::fs::remove_dir_all(&dir).unwrap();
}

/// The node's bytes.
async fn read(graph: &Arc<BlockGraph>, node: &str) -> Vec<u8> {
    let config = RootConfig { perm: Perm::CONSISTENT_READ, shared: Perm::all(), ..RootConfig::default() };
    let root = graph.attach(node, config).await.unwrap();
    let buf = IoBuf::zeroed(root.len() as usize);
    root.read(0, buf.clone()).await.unwrap();
    root.detach().await;
    buf.to_vec()
}

async fn write(graph: &Arc<BlockGraph>, node: &str, off: u64, bytes: &[u8]) {
    let perm = Perm::CONSISTENT_READ | Perm::WRITE;
    let config = RootConfig { perm, shared: Perm::all(), ..RootConfig::default() };
    let root = graph.attach(node, config).await.unwrap();
    root.write(off, IoBuf::from_bytes(bytes), WriteFlags::empty()).await.unwrap();
    root.detach().await;
}

#[test]
fn jobs_go_over_encrypted_images() {
    const SIZE: usize = 4 << 20;
    let dir = std::env::temp_dir().join(format!("rhea-jobs-qcow2-luks-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    rt::block_on(async {
        let graph = BlockGraph::new(&image::drivers(), EventBus::new());
        let objects = qom::ObjectTree::new();
        objects.add(&arg("{'qom-type':'secret','id':'s','data':'one'}")).unwrap();
        objects.add(&arg("{'qom-type':'secret','id':'n','data':'two'}")).unwrap();
        graph.set_objects(Arc::new(objects));
        let jobs = Jobs::new(graph.clone());
        let mut table = CommandTable::new();
        block_jobs::register(&mut table, &jobs);
        let b = Bed { jobs, graph: graph.clone() };
        let run = async |command: &str, text: &str| {
            let done = table.call(command, Value::parse_json(text).unwrap()).await;
            done.unwrap_or_else(|e| panic!("{command} {text}: {}", e.desc()));
            loop {
                let Some(job) = b.jobs.query().into_iter().find(|j| j.id == "j") else { return };
                match job.status {
                    JobStatus::Ready => b.jobs.complete(&b.jobs.get("j").unwrap()).unwrap(),
                    JobStatus::Concluded => {
                        assert_eq!(job.error, None, "{command}");
                        b.jobs.dismiss_job(&b.jobs.get("j").unwrap()).unwrap();
                    }
                    _ => {}
                }
                rt::sleep(Duration::from_millis(5)).await;
            }
        };
        for (f, more) in [
            ("base", ""),
            ("mid", ",'encrypt':{'format':'luks','key-secret':'s','iter-time':1}"),
            (
                "top",
                ",'encrypt':{'format':'luks','key-secret':'n','iter-time':1},'cluster-size':16384,'extended-l2':true",
            ),
            ("copy", ",'encrypt':{'format':'luks','key-secret':'s','iter-time':1},'cluster-size':4096"),
            ("saved", ",'encrypt':{'format':'luks','key-secret':'n','iter-time':1}"),
        ] {
            let path = dir.join(f);
            std::fs::write(&path, []).unwrap();
            let text = format!("{{'driver':'file','node-name':'{f}-f','filename':'{}'}}", path.display());
            graph.add(arg(&text)).await.unwrap();
            let o =
                format!("{{'job-id':'j','options':{{'driver':'qcow2','file':'{f}-f','size':{SIZE}{more}}}}}");
            run("blockdev-create", &o).await;
            let key = match f {
                "base" => "",
                "mid" | "copy" => ",'encrypt':{'format':'luks','key-secret':'s'}",
                _ => ",'encrypt':{'format':'luks','key-secret':'n'}",
            };
            let backing = match f {
                "mid" => ",'backing':'base'",
                "top" => ",'backing':'mid'",
                _ => "",
            };
            if matches!(f, "base" | "mid" | "top") {
                let mark = f.as_bytes()[0];
                let text = format!("{{'driver':'qcow2','node-name':'{f}','file':'{f}-f'{key}{backing}}}");
                graph.add(arg(&text)).await.unwrap();
                let at = [0, 300_000, 600_100][["base", "mid", "top"].iter().position(|n| *n == f).unwrap()];
                write(&graph, f, at, &vec![mark; 400_000]).await;
                write(&graph, f, 2_000_000 + at / 3, &[mark; 777]).await;
            } else {
                let text = format!("{{'driver':'qcow2','node-name':'{f}','file':'{f}-f'{key}}}");
                graph.add(arg(&text)).await.unwrap();
            }
        }
        let mut model = vec![0u8; SIZE];
        for (mark, at) in [(b'b', 0usize), (b'm', 300_000), (b't', 600_100)] {
            model[at..at + 400_000].fill(mark);
            model[2_000_000 + at / 3..][..777].fill(mark);
        }
        assert!(read(&graph, "top").await == model);
        run("blockdev-backup", "{'job-id':'j','device':'top','target':'saved','sync':'full'}").await;
        assert!(read(&graph, "saved").await == model);
        run("block-commit", "{'job-id':'j','device':'top','top-node':'mid','base-node':'base'}").await;
        assert!(read(&graph, "top").await == model);
        write(&graph, "top", 1_234_567, &[9; 3000]).await;
        model[1_234_567..1_237_567].fill(9);
        run("block-stream", "{'job-id':'j','device':'top'}").await;
        assert!(read(&graph, "top").await == model);
        run("blockdev-mirror", "{'job-id':'j','device':'top','target':'copy','sync':'full'}").await;
        graph.resize("", "copy", SIZE as u64 + (1 << 20), block::driver::Prealloc::Off).await.unwrap();
        model.resize(SIZE + (1 << 20), 0);
        assert!(read(&graph, "copy").await == model);
        // Snapshots inside, and the key stays when the image is opened anew for them.
        let snap = |op: SnapshotOp| graph.internal_snapshot("copy", op);
        let date = Duration::from_secs(1);
        snap(SnapshotOp::Create { name: "a".into(), date, again: false }).await.unwrap().unwrap();
        write(&graph, "copy", 500, &[1; 100_000]).await;
        snap(SnapshotOp::Apply { id: None, name: Some("a".into()) }).await.unwrap().unwrap();
        assert!(read(&graph, "copy").await == model);
        // What others see of it.
        let map = graph.image_info("copy").unwrap();
        assert_eq!(map.base.encrypted, Some(true));
        graph.close_all().await;
        let file = std::fs::read(dir.join("copy")).unwrap();
        assert!(!file.windows(64).any(|w| w == [b'm'; 64] || w == [b't'; 64]));
    });
    std::fs::remove_dir_all(&dir).unwrap();
}
