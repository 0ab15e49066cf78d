//! The states, events and messages of each job, and what the graph is afterwards.

mod common;
use block::testing::Faults;
use common::{SIZE, run};
use qapi::QapiEnum;

const SHORT: [&str; 7] =
    ["created", "running", "waiting", "pending", "BLOCK_JOB_COMPLETED", "concluded", "null"];

#[test]
fn an_intermediate_commit() {
    run(|b| async move {
        let before = b.bytes("hd2").await;
        b.commit("{'job-id':'c0','device':'hd2','top-node':'hd1','base-node':'hd0'}").await.unwrap();
        b.until("c0", "null").await;
        assert_eq!(b.told(), SHORT);
        assert_eq!(b.child("hd2", "backing").as_deref(), Some("hd0"));
        assert_eq!(b.names(), ["hd0", "hd1", "hd2", "hd3"]);
        assert!(b.bytes("hd2").await == before);
        // The header names the new backing file.
        let info = b.graph.image_info("hd2").unwrap();
        assert_eq!(info.base.backing_filename.as_deref(), Some("h0"));
        b.graph.del("hd1").await.unwrap();
    });
}

#[test]
fn a_verb_is_done_to_its_end_for_a_client_that_goes_away() {
    for verb in ["cancel", "finalize"] {
        run(|b| async move {
            b.world.set_faults(block::testing::Faults { delay: 1000, ..Default::default() });
            b.stream("{'job-id':'s','device':'hd2','auto-finalize':false}").await.unwrap();
            b.until("s", "pending").await;
            let job = b.jobs.get("s").unwrap();
            {
                let asked = async {
                    match verb {
                        "cancel" => b.jobs.cancel(&job, true).await,
                        _ => b.jobs.finalize_job(&job).await,
                    }
                };
                let mut asked = std::pin::pin!(asked);
                let polled =
                    asked.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop()));
                assert!(polled.is_pending());
            }
            b.until("s", "null").await;
            assert!(b.jobs.get("s").is_err());
        });
    }
}

#[test]
fn manual_finalize_and_dismiss() {
    run(|b| async move {
        b.commit(
            "{'job-id':'c0','device':'hd2','top-node':'hd1','base-node':'hd0','auto-finalize':false,'auto-dismiss':false}",
        )
        .await
        .unwrap();
        b.until("c0", "pending").await;
        assert_eq!(b.told(), ["created", "running", "waiting", "pending", "BLOCK_JOB_PENDING"]);
        let j = b.jobs.get("c0").unwrap();
        let e = |r: Result<(), qapi::QError>| r.unwrap_err().desc().to_owned();
        let no = |v: &str| format!("Job 'c0' in state 'pending' cannot accept command verb '{v}'");
        assert_eq!(e(b.jobs.dismiss_job(&j)), no("dismiss"));
        assert_eq!(e(b.jobs.complete(&j)), no("complete"));
        assert_eq!(e(b.jobs.pause(&j)), no("pause"));
        assert_eq!(b.child("hd1", "backing").as_deref(), Some("hd0"));
        b.jobs.finalize_job(&j).await.unwrap();
        assert_eq!(b.told(), ["BLOCK_JOB_COMPLETED", "concluded"]);
        assert_eq!(b.child("hd2", "backing").as_deref(), Some("hd0"));
        b.jobs.dismiss_job(&j).unwrap();
        assert_eq!(b.told(), ["null"]);
        assert_eq!(b.jobs.get("c0").unwrap_err().desc(), "Job not found");
        let gone = b.jobs.get_block("c0").unwrap_err();
        assert_eq!(gone.desc(), "Block job 'c0' not found");
        assert_eq!(gone.class(), qapi::ErrorClass::DeviceNotActive);
    });
}

#[test]
fn pause_resume_speed_cancel() {
    run(|b| async move {
        let before = (b.bytes("hd2").await, b.bytes("hd1").await, b.graph.describe());
        b.commit("{'job-id':'c0','device':'hd2','top-node':'hd1','base-node':'hd0','speed':1024,'auto-dismiss':false}")
            .await
            .unwrap();
        rt::sleep(std::time::Duration::from_millis(50)).await;
        assert_eq!(b.told(), ["created", "running"]);
        let e = |r: Result<(), qapi::QError>| r.unwrap_err().desc().to_owned();
        let busy = "Node 'hd2' is busy: block device is in use by block job: commit";
        assert_eq!(e(b.stream("{'job-id':'s','device':'hd2'}").await), busy);
        assert_eq!(e(b.graph.del("hd2").await), busy);
        assert_eq!(e(b.graph.del("hd1").await), "Node hd1 is in use");
        assert_eq!(e(b.graph.del("hd0").await), "Node hd0 is in use");
        let j = b.jobs.get("c0").unwrap();
        assert_eq!(e(b.jobs.resume(&j)), "Can't resume a job that was not paused");
        b.jobs.pause(&j).unwrap();
        assert_eq!(e(b.jobs.pause(&j)), "Job is already paused");
        b.until("c0", "paused").await;
        b.jobs.resume(&j).unwrap();
        b.until("c0", "running").await;
        assert_eq!(b.told(), ["paused", "running"]);
        assert_eq!(e(b.jobs.set_speed(&j, -1)), "Parameter 'speed' expects a non-negative value");
        b.jobs.set_speed(&j, 2048).unwrap();
        b.jobs.cancel(&j, true).await.unwrap();
        b.until("c0", "concluded").await;
        assert_eq!(b.told(), ["aborting", "BLOCK_JOB_CANCELLED", "concluded"]);
        let q = b.jobs.query();
        assert_eq!(q[0].error.as_deref(), Some("Operation canceled"));
        b.jobs.dismiss_job(&j).unwrap();
        assert_eq!(b.graph.describe(), before.2);
        assert!(b.bytes("hd2").await == before.0 && b.bytes("hd1").await == before.1);
    });
}

#[test]
fn messages_of_commit() {
    run(|b| async move {
        for (args, message) in [
            ("'device':'hd2','top-node':'hd1'", "Invalid job ID ''"),
            ("'job-id':'1x','device':'hd2','top-node':'hd1'", "Invalid job ID '1x'"),
            ("'job-id':'x','device':'nope'", "Device 'nope' not found"),
            ("'job-id':'x','device':'hd2','top-node':'nope'", "Cannot find device='' nor node-name='nope'"),
            ("'job-id':'x','device':'hd2','top-node':'hd3'", "'hd3' is not in this backing file chain"),
            (
                "'job-id':'x','device':'hd2','top-node':'hd0','base-node':'hd1'",
                "'hd1' is not in this backing file chain",
            ),
            (
                "'job-id':'x','device':'hd2','top-node':'hd1','base-node':'hd1'",
                "cannot commit an image into itself",
            ),
            ("'job-id':'x','device':'hd0'", "Need a root block node"),
            ("'job-id':'x','device':'hd3'", "cannot commit an image into itself"),
            (
                "'job-id':'x','device':'hd2','top-node':'hd1','speed':-1",
                "Parameter 'speed' expects a non-negative value",
            ),
            (
                "'job-id':'x','device':'hd2','backing-file':'f'",
                "'backing-file' specified, but 'top' is the active layer",
            ),
            (
                "'job-id':'x','device':'hd2','top-node':'hd1','filter-node-name':'hd0'",
                "Duplicate nodes with node-name='hd0'",
            ),
            (
                "'job-id':'x','device':'hd2','top-node':'hd1','top':'h1'",
                "'top-node' and 'top' are mutually exclusive",
            ),
        ] {
            let before = b.graph.describe();
            assert_eq!(b.commit(&format!("{{{args}}}")).await.unwrap_err().desc(), message, "{args}");
            assert_eq!(b.graph.describe(), before);
            assert!(b.jobs.query().is_empty());
        }
    });
}

#[test]
fn messages_of_mirror_and_stream() {
    run(|b| async move {
        for (args, message) in [
            ("'device':'hd2','target':'hd2','sync':'full'", "Can't mirror node into itself"),
            (
                "'device':'hd2','target':'hd3','sync':'full','granularity':3",
                "Parameter 'granularity' expects a value in range [512B, 64MB]",
            ),
            (
                "'device':'hd2','target':'hd3','sync':'full','granularity':513",
                "Parameter 'granularity' expects a power of 2",
            ),
            ("'device':'hd2','target':'hd3','sync':'full','buf-size':-1", "Invalid parameter 'buf-size'"),
            ("'device':'hd2','target':'hd3','sync':'incremental'", "Sync mode 'incremental' not supported"),
            (
                "'device':'hd2','target':'hd3','sync':'full','replaces':'hd3'",
                "Cannot replace 'hd3' by a node mirrored from 'hd2', because it cannot be guaranteed that doing so would not lead to an abrupt change of visible data",
            ),
            (
                "'device':'hd2','target':'hd3','sync':'full','replaces':'nope'",
                "Failed to find node with node-name='nope'",
            ),
            (
                "'device':'nope','target':'hd3','sync':'full'",
                "Cannot find device='nope' nor node-name='nope'",
            ),
        ] {
            let e = b.mirror(&format!("{{'job-id':'m',{args}}}")).await.unwrap_err();
            assert_eq!(e.desc(), message, "{args}");
        }
        let e = b.stream("{'job-id':'s','device':'hd2','base-node':'hd3'}").await.unwrap_err();
        assert_eq!(e.desc(), "Node 'hd3' is not a backing image of 'hd2'");
        assert!(b.jobs.query().is_empty() && b.told().is_empty());
    });
}

#[test]
fn a_mirror_and_its_pivot() {
    run(|b| async move {
        let user = b.user("hd2").await;
        let before = b.bytes("hd2").await;
        b.mirror("{'job-id':'m','device':'hd2','target':'hd3','sync':'full','auto-finalize':false}")
            .await
            .unwrap();
        b.until("m", "ready").await;
        assert_eq!(b.told(), ["created", "running", "ready", "BLOCK_JOB_READY"]);
        let j = b.jobs.get("m").unwrap();
        b.jobs.complete(&j).unwrap();
        b.until("m", "pending").await;
        assert_eq!(b.told(), ["waiting", "pending", "BLOCK_JOB_PENDING"]);
        // Still on the source, and what is written now arrives in both.
        user.write(5, mem::IoBuf::from_bytes(b"late"), Default::default()).await.unwrap();
        b.jobs.finalize_job(&j).await.unwrap();
        assert_eq!(b.told(), ["BLOCK_JOB_COMPLETED", "concluded", "null"]);
        assert_eq!(user.node_name().as_deref(), Some("hd3"));
        let mut now = before;
        now[5..9].copy_from_slice(b"late");
        assert!(b.bytes("hd3").await == now);
        assert_eq!(b.names(), ["hd0", "hd1", "hd2", "hd3"]);
        user.detach().await;
    });
}

#[test]
fn soft_and_hard_cancel_of_a_mirror() {
    run(|b| async move {
        for force in [false, true] {
            let user = b.user("hd2").await;
            b.mirror("{'job-id':'m','device':'hd2','target':'hd3','sync':'full'}").await.unwrap();
            b.until("m", "ready").await;
            let j = b.jobs.get("m").unwrap();
            b.told();
            b.jobs.cancel(&j, force).await.unwrap();
            b.until("m", "null").await;
            if force {
                assert_eq!(b.told(), ["aborting", "BLOCK_JOB_CANCELLED", "concluded", "null"]);
            } else {
                assert_eq!(b.told(), SHORT[2..]);
                assert!(b.bytes("hd3").await == b.bytes("hd2").await);
            }
            assert_eq!(user.node_name().as_deref(), Some("hd2"));
            assert_eq!(b.names(), ["hd0", "hd1", "hd2", "hd3"]);
            user.detach().await;
        }
    });
}

#[test]
fn an_active_commit() {
    run(|b| async move {
        let user = b.user("hd2").await;
        let before = b.bytes("hd2").await;
        b.commit("{'job-id':'c0','device':'hd2','base-node':'hd0'}").await.unwrap();
        b.until("c0", "ready").await;
        b.jobs.complete(&b.jobs.get("c0").unwrap()).unwrap();
        b.until("c0", "null").await;
        let mut all = vec!["created", "running", "ready", "BLOCK_JOB_READY"];
        all.extend(&SHORT[2..]);
        assert_eq!(b.told(), all);
        assert_eq!(user.node_name().as_deref(), Some("hd0"));
        assert!(b.bytes("hd0").await == before);
        user.detach().await;
        b.graph.del("hd2").await.unwrap();
        b.graph.del("hd1").await.unwrap();
    });
}

#[test]
fn a_stream_of_all_and_of_a_part() {
    run(|b| async move {
        let before = b.bytes("hd2").await;
        b.stream("{'job-id':'s','device':'hd2','base-node':'hd0'}").await.unwrap();
        b.until("s", "null").await;
        assert_eq!(b.told(), SHORT);
        assert_eq!(b.child("hd2", "backing").as_deref(), Some("hd0"));
        assert_eq!(b.graph.image_info("hd2").unwrap().base.backing_filename.as_deref(), Some("h0"));
        assert!(b.bytes("hd2").await == before);
        b.stream("{'job-id':'s','device':'hd2'}").await.unwrap();
        b.until("s", "null").await;
        assert_eq!(b.child("hd2", "backing"), None);
        assert_eq!(b.graph.image_info("hd2").unwrap().base.backing_filename, None);
        assert!(b.bytes("hd2").await == before);
    });
}

/// R12 and R13: links under a job stay, also those to its filter and those below a mirrored node.
#[test]
fn frozen_links() {
    run(|b| async move {
        let o = |n: u32, backing: &str| {
            common::arg(&format!(
                "{{'driver':'qcow2','node-name':'hd{n}','file':'hd{n}-file','backing':{backing}}}"
            ))
        };
        let reopen = |n, backing: &'static str| {
            let list = vec![o(n, backing)];
            async { b.graph.reopen(list).await.map_err(|e| e.desc().to_owned()) }
        };
        b.commit("{'job-id':'c0','device':'hd2','top-node':'hd1','base-node':'hd0','filter-node-name':'cf','speed':1}")
            .await
            .unwrap();
        rt::sleep(std::time::Duration::from_millis(5)).await;
        b.told();
        let cf = Err("Cannot change frozen 'backing' link from 'hd2' to 'cf'".to_owned());
        assert_eq!(
            reopen(1, "null").await,
            Err("Cannot change frozen 'backing' link from 'hd1' to 'hd0'".into())
        );
        assert_eq!(b.told(), ["paused", "running"]);
        assert_eq!(reopen(2, "'hd1'").await, cf);
        assert_eq!(reopen(2, "null").await, cf);
        assert_eq!(reopen(2, "'cf'").await, Ok(()));
        b.jobs.cancel_all().await;
        b.commit("{'job-id':'c0','device':'hd2','top-node':'hd1','base-node':'hd0','speed':1}")
            .await
            .unwrap();
        assert_eq!(reopen(2, "'hd1'").await, Ok(()));
        assert_eq!(reopen(2, "null").await, Err("Cannot replace implicit backing child of hd2".into()));
        b.jobs.cancel_all().await;
        b.mirror("{'job-id':'m','device':'hd2','target':'hd3','sync':'full'}").await.unwrap();
        b.until("m", "ready").await;
        b.told();
        assert_eq!(
            reopen(2, "null").await,
            Err("Cannot change frozen 'backing' link from 'hd2' to 'hd1'".into())
        );
        assert_eq!(b.told(), ["standby", "ready"]);
        b.jobs.cancel_all().await;
        assert_eq!(reopen(2, "null").await, Ok(()));
        assert_eq!(b.names(), ["hd0", "hd1", "hd2", "hd3"]);
    });
}

/// A header names another backing file only where the graph changes with it.
#[test]
fn a_stream_that_may_not_change_the_graph_changes_no_header() {
    run(|b| async move {
        b.graph.add(common::arg("{'driver':'raw','node-name':'over','file':'hd2'}")).await.unwrap();
        let dismissed = "'auto-finalize':false,'auto-dismiss':false";
        b.stream(&format!("{{'job-id':'s','device':'hd2','base-node':'hd0',{dismissed}}}")).await.unwrap();
        b.until("s", "pending").await;
        b.mirror("{'job-id':'m','device':'over','target':'hd3','sync':'full'}").await.unwrap();
        b.until("m", "ready").await;
        let job = b.jobs.get("s").unwrap();
        _ = b.jobs.finalize_job(&job).await;
        b.until("s", "concluded").await;
        let failed = job.error();
        assert_eq!(failed.as_deref(), Some("Cannot change frozen 'backing' link from 'hd2' to 'hd1'"));
        assert_eq!(b.child("hd2", "backing").as_deref(), Some("hd1"));
        let named = b.graph.image_info("hd2").unwrap().base.backing_filename;
        assert_eq!(named.as_deref(), Some("h1"));
        b.jobs.cancel_all().await;
    });
}

/// `block-job-change`: a mirror copies each write before it is acknowledged from then on.
#[test]
fn the_copy_mode_is_changed_live() {
    run(|b| async move {
        let user = b.user("hd2").await;
        b.mirror("{'job-id':'m','device':'hd2','target':'hd3','sync':'full','speed':1}").await.unwrap();
        b.until("m", "running").await;
        let j = b.jobs.get_block("m").unwrap();
        let change = |more: &str| {
            let c: api::block_core::BlockJobChange = common::arg(&format!("{{'id':'m',{more}}}"));
            b.jobs.change(&j, &c.r#type).map_err(|e| e.desc().to_owned())
        };
        let (back, block) =
            ("'type':'mirror','copy-mode':'background'", "'type':'mirror','copy-mode':'write-blocking'");
        assert_eq!(change(back), Ok(()));
        assert_eq!(
            change("'type':'commit'").unwrap_err(),
            "The job is a mirror, and can only be changed as one"
        );
        assert_eq!(change(block), Ok(()));
        assert_eq!(change(block), Ok(()));
        assert_eq!(change(back).unwrap_err(), "Change to copy mode 'background' is not implemented");
        b.jobs.set_speed(&j, 0).unwrap();
        b.until("m", "ready").await;
        // What is written now is in the target when the write ends.
        user.write(4096, mem::IoBuf::from_bytes(&[0x77; 4096]), Default::default()).await.unwrap();
        assert!(
            b.jobs.query_block()[0].r#type
                == api::block_core::BlockJobInfoMore::Mirror(api::block_core::BlockJobInfoMirror {
                    actively_synced: true
                })
        );
        assert_eq!(b.bytes("hd3").await[4096..8192], [0x77; 4096]);
        b.jobs.cancel_all().await;
        assert_eq!(change(block).unwrap_err(), "Job 'm' in state 'null' cannot accept command verb 'change'");
        b.commit("{'job-id':'c','device':'hd2','top-node':'hd1','base-node':'hd0','speed':1}").await.unwrap();
        let c: api::block_core::BlockJobChange = common::arg(&format!("{{'id':'c',{block}}}"));
        let e = b.jobs.change(&b.jobs.get("c").unwrap(), &c.r#type).unwrap_err();
        assert_eq!(e.desc(), "Job type does not support change");
        b.jobs.cancel_all().await;
        user.detach().await;
    });
}

/// Users that got a longer or shorter copy would find another length.
#[test]
fn source_and_target_of_one_length() {
    run(|b| async move {
        for (name, size) in [("s", SIZE - 512), ("l", SIZE + 512)] {
            b.world.create(name, vec![0; size as usize]);
            let add = format!("{{'driver':'file','node-name':'{name}','filename':'{name}'}}");
            b.graph.add(common::arg(&add)).await.unwrap();
            let m = format!(
                "{{'job-id':'m','device':'hd2','target':'{name}','sync':'full','auto-dismiss':false}}"
            );
            b.mirror(&m).await.unwrap();
            b.until("m", "concluded").await;
            let error = b.jobs.query()[0].error.clone();
            assert_eq!(error.as_deref(), Some("Source and target image have different sizes"));
            b.jobs.dismiss_job(&b.jobs.get("m").unwrap()).unwrap();
            assert_eq!(b.child("hd2", "backing").as_deref(), Some("hd1"));
        }
    });
}

/// Errors of a request, by policy: told, and the job stops, fails, or tries again.
#[test]
fn policies_for_errors() {
    run(|b| async move {
        let bad = Faults { write: 1000, ..Faults::default() };
        for (policy, then) in
            [("report", "concluded"), ("ignore", "running"), ("enospc", "concluded"), ("stop", "paused")]
        {
            b.told();
            b.world.set_faults(bad);
            b.commit(&format!(
                "{{'job-id':'c','device':'hd2','top-node':'hd1','base-node':'hd0','on-error':'{policy}','auto-dismiss':false}}"
            ))
            .await
            .unwrap();
            rt::sleep(std::time::Duration::from_millis(500)).await;
            let told = b.told();
            assert!(told.iter().any(|e| e == "BLOCK_JOB_ERROR"), "{policy}: {told:?}");
            let j = b.jobs.get("c").unwrap();
            assert_eq!(j.status().as_str(), then, "{policy}");
            b.world.set_faults(Faults::default());
            if policy == "stop" {
                let info = b.jobs.query_block().remove(0);
                assert_eq!((info.io_status.as_str(), info.paused), ("failed", true));
                b.jobs.resume(&j).unwrap();
                b.until("c", "concluded").await;
                assert_eq!(b.child("hd2", "backing").as_deref(), Some("hd0"));
                break;
            }
            if policy == "ignore" {
                b.jobs.cancel(&j, true).await.unwrap();
                b.until("c", "concluded").await;
            }
            assert_eq!(b.child("hd2", "backing").as_deref(), Some("hd1"), "{policy}");
            b.jobs.dismiss_job(&j).unwrap();
        }
    });
}

/// The speed is kept, and a new one counts at once.
#[test]
fn speed_is_exact() {
    run(|b| async move {
        b.put("hd1", 0, 1, SIZE as usize).await;
        let start = rt::now();
        b.mirror("{'job-id':'m','device':'hd1','target':'hd3','sync':'full','speed':65536}")
            .await
            .unwrap_err();
        b.mirror("{'job-id':'m','device':'hd2','target':'hd3','sync':'full','speed':65536}").await.unwrap();
        b.until("m", "ready").await;
        let took = (rt::now() - start).as_secs_f64();
        // Four pieces of 64 KiB: a second each.
        assert!((3.9..4.2).contains(&took), "{took} s");
        b.jobs.cancel_all().await;
    });
}

#[test]
fn nothing_is_left_of_a_job_that_has_ended() {
    for kind in ["commit", "stream", "mirror", "backup"] {
        for end in ["good", "cancelled", "failed"] {
            run(|b| async move {
                let top = if kind == "commit" { "'device':'hd2','top-node':'hd1'" } else { "'device':'hd2'" };
                let target =
                    if matches!(kind, "mirror" | "backup") { ",'target':'hd3','sync':'full'" } else { "" };
                let text =
                    format!("{{'job-id':'j',{top}{target},'auto-finalize':false,'auto-dismiss':false}}");
                match kind {
                    "commit" => b.commit(&text).await.unwrap(),
                    "stream" => b.stream(&text).await.unwrap(),
                    "mirror" => b.mirror(&text).await.unwrap(),
                    _ => b.backup(&text).await.unwrap(),
                }
                let job = b.jobs.get("j").unwrap();
                if end == "failed" {
                    b.world.set_faults(Faults { read: 1000, write: 1000, ..Default::default() });
                } else if kind == "mirror" {
                    b.until("j", "ready").await;
                    b.jobs.complete(&job).unwrap();
                }
                match end {
                    "failed" => {
                        b.until("j", "concluded").await;
                        b.world.set_faults(Faults::default());
                    }
                    "good" => {
                        b.until("j", "pending").await;
                        b.jobs.finalize_job(&job).await.unwrap();
                    }
                    _ => {
                        b.until("j", "pending").await;
                        b.jobs.cancel(&job, true).await.unwrap();
                    }
                }
                b.until("j", "concluded").await;
                let weak = std::sync::Arc::downgrade(&job);
                b.jobs.dismiss_job(&job).unwrap();
                drop(job);
                rt::sleep(std::time::Duration::from_millis(1)).await;
                assert_eq!(weak.strong_count(), 0, "{kind}, {end}");
            });
        }
    }
}

#[test]
fn a_failure_at_once_is_told_after_the_answer() {
    run(|b| async move {
        block::testing::create_cow(&b.world, "h9", 2 * SIZE, None);
        let text =
            "{'device':'hd3','job-id':'m','target':'h9','format':'qcow2','mode':'existing','sync':'full'}";
        block_jobs::mirror::drive_mirror(&b.jobs, common::arg(text)).await.unwrap();
        assert_eq!(b.told(), ["created", "running"]);
        b.until("m", "null").await;
        assert_eq!(b.told(), ["aborting", "BLOCK_JOB_COMPLETED", "concluded", "null"]);
    });
}

#[test]
fn an_image_is_merged_in_place_while_it_is_written() {
    run(|b| async move {
        use block::Drive;
        let before = b.bytes("hd2").await;
        let drive = Drive::parse("file=h3,id=d,format=qcow2,if=none").unwrap();
        let other = b.jobs.clone();
        assert_eq!(block_jobs::commit::commit_drives(&b.jobs, "d").await, "Device 'd' not found\n");
        b.graph.del("hd3").await.unwrap();
        b.graph.add_drive(drive).await.unwrap();
        let text = block_jobs::commit::commit_drives(&b.jobs, "d").await;
        assert_eq!(text, "'commit' error for 'd': Operation not supported\n");
        b.graph.del("hd2").await.unwrap();
        b.graph.del("hd1").await.unwrap();
        b.graph.del("hd0").await.unwrap();
        let drive = Drive::parse("file=h2,id=t,format=qcow2,if=none,node-name=top").unwrap();
        b.graph.add_drive(drive).await.unwrap();
        let config = block::RootConfig {
            qdev: Some("vda".into()),
            perm: block::Perm::CONSISTENT_READ | block::Perm::WRITE,
            shared: block::Perm::CONSISTENT_READ | block::Perm::WRITE_UNCHANGED,
            ..Default::default()
        };
        let user = b.graph.attach("t", config).await.unwrap();
        b.world.set_faults(Faults { delay: 50, ..Faults::default() });
        let merging = rt::spawn_local(async move { block_jobs::commit::commit_drives(&other, "all").await });
        let mut want = before;
        let mut n = 0u8;
        while !merging.is_finished() {
            let at = usize::from(n) * 4096 % SIZE as usize;
            user.write(at as u64, mem::IoBuf::from_bytes(&[n; 512]), Default::default()).await.unwrap();
            want[at..at + 512].fill(n);
            n = n.wrapping_add(1);
        }
        assert_eq!(merging.await, "");
        assert!(n > 3, "{n} writes went on beside it");
        b.world.set_faults(Faults::default());
        let buf = mem::IoBuf::zeroed(SIZE as usize);
        user.read(0, buf.clone()).await.unwrap();
        assert!(buf.to_vec() == want);
        // Nobody heard of a job, and the drive stands where it stood.
        assert_eq!(b.told(), [""; 0]);
        assert_eq!(user.node_name().as_deref(), Some("top"));
        // What was written before it ended is below, and the image holds no more than what came later.
        let own = user.map_own(SIZE - 4096, 4096).await.unwrap();
        assert!(!own.allocated || n as u64 >= SIZE / 4096, "{own:?}");
        user.detach().await;
    });
}
