//! LUKS volumes made and amended by jobs.

use api::block_core::{BlockdevCreate, XBlockdevAmend};
use api::job::JobStatus;
use block::BlockGraph;
use block::job::Jobs;
use monitor::EventBus;
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
