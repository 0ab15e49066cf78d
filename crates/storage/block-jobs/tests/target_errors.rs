//! Targets that fail: what becomes of the users' writes, of the job, and of the jobs that end with it.

mod common;
use common::{Bed, SIZE, run};

use mem::IoBuf;
use qapi::QapiEnum;
use std::time::Duration;

/// Where writes to the target fail. The source has nothing there.
const BAD: u64 = 224 * 1024;

/// A target of which one sector fails with this error.
async fn bad_target(b: &Bed, name: &str, len: u64, sector: u64, errno: i32) {
    b.world.create(name, vec![0; len as usize]);
    let add = format!(
        "{{'driver':'blkdebug','node-name':'{name}','image':{{'driver':'file','node-name':'{name}-file','filename':'{name}'}},'inject-error':[{{'event':'none','iotype':'write','errno':{errno},'sector':{sector}}},{{'event':'none','iotype':'write-zeroes','errno':{errno},'sector':{sector}}}]}}"
    );
    b.graph.add(common::arg(&add)).await.unwrap_or_else(|e| panic!("{add}: {e}"));
}

/// A mirror that writes to both, whose target fails when it is ready: the user's write succeeds, and what follows is
/// said by the policy.
#[test]
fn a_mirror_that_writes_to_both() {
    const EIO: i32 = 5;
    const ENOSPC: i32 = 28;
    for (policy, errno, then, io_status) in [
        ("report", EIO, "concluded", "ok"),
        ("report", ENOSPC, "concluded", "ok"),
        ("enospc", EIO, "concluded", "ok"),
        ("enospc", ENOSPC, "standby", "nospace"),
        ("stop", EIO, "standby", "failed"),
        ("stop", ENOSPC, "standby", "nospace"),
        ("ignore", EIO, "ready", "ok"),
        ("auto", EIO, "concluded", "ok"),
    ] {
        run(|b| async move {
            let what = format!("{policy}, error {errno}");
            bad_target(&b, "t", SIZE, BAD / 512, errno).await;
            let user = b.user("hd2").await;
            b.mirror(&format!(
                "{{'job-id':'m','device':'hd2','target':'t','sync':'full','copy-mode':'write-blocking','granularity':4096,'on-target-error':'{policy}','auto-dismiss':false}}"
            ))
            .await
            .unwrap();
            b.until("m", "ready").await;
            let put = |off| {
                let user = &user;
                async move { user.write(off, IoBuf::from_bytes(&[0x55; 4096]), Default::default()).await }
            };
            put(BAD).await.unwrap_or_else(|e| panic!("{what}: {e}"));
            rt::sleep(Duration::from_secs(1)).await;
            let told = b.told();
            assert!(told.iter().any(|e| e == "BLOCK_JOB_ERROR"), "{what}: {told:?}");
            let info = b.jobs.query_block().remove(0);
            assert_eq!((info.status.as_str(), info.io_status.as_str()), (then, io_status), "{what}");
            // The user goes on all the same.
            put(BAD).await.unwrap();
            put(0).await.unwrap();
            let j = b.jobs.get("m").unwrap();
            match then {
                "concluded" => {
                    let error = if errno == EIO { "Input/output error" } else { "No space left on device" };
                    assert_eq!(info.error.as_deref(), Some(error), "{what}");
                }
                _ => {
                    // It cannot complete while the target fails, and is not left as it was by that.
                    if then == "standby" {
                        b.jobs.resume(&j).unwrap();
                    }
                    b.jobs.complete(&j).unwrap();
                    rt::sleep(Duration::from_secs(1)).await;
                    assert_ne!(user.node_name().as_deref(), Some("t"), "{what}");
                    b.jobs.cancel(&j, true).await.unwrap();
                    b.until("m", "concluded").await;
                    assert_eq!(user.node_name().as_deref(), Some("hd2"), "{what}");
                }
            }
            b.jobs.dismiss_job(&j).unwrap();
            assert_eq!(b.names(), ["hd0", "hd1", "hd2", "hd3", "t"], "{what}");
            assert_eq!(b.bytes("hd2").await[BAD as usize..][..4096], [0x55; 4096], "{what}");
            user.detach().await;
        });
    }
}

/// Of several jobs that end together, any one may fail: all are undone, and the others are told to be cancelled.
#[test]
fn any_member_of_a_group() {
    for (bad, manual) in [(0, false), (1, false), (2, false), (1, true)] {
        run(|b| async move {
            let (sources, mut targets) = (["hd0", "hd1", "hd2"], Vec::new());
            for i in 0..3 {
                let name = format!("t{i}");
                // The last sector is written last of all.
                let sector = if i == bad { SIZE / 512 - 1 } else { SIZE };
                bad_target(&b, &name, SIZE, sector, 5).await;
                targets.push(name);
            }
            b.put("hd0", 0, 7, SIZE as usize).await;
            let before = b.graph.describe();
            let actions: Vec<_> = sources.iter().zip(&targets).enumerate().map(|(i, (s, t))| {
                let finalize = !(manual && i == 0);
                format!("{{'type':'blockdev-backup','data':{{'job-id':'j{i}','device':'{s}','target':'{t}','sync':'full','auto-finalize':{finalize},'auto-dismiss':false}}}}")
            }).collect();
            let t =
                format!("{{'actions':[{}],'properties':{{'completion-mode':'grouped'}}}}", actions.join(","));
            block_jobs::transaction::transaction(&b.jobs, common::arg(&t)).await.unwrap();
            for i in 0..3 {
                b.until(&format!("j{i}"), "concluded").await;
            }
            for j in b.jobs.query() {
                let culprit = j.id == format!("j{bad}");
                let error = if culprit { "Input/output error" } else { "Operation canceled" };
                assert_eq!(j.error.as_deref(), Some(error), "{bad}: {}", j.id);
                b.jobs.dismiss_job(&b.jobs.get(&j.id).unwrap()).unwrap();
            }
            let told = b.told();
            let count = |n: &str| told.iter().filter(|e| *e == n).count();
            assert_eq!((count("BLOCK_JOB_COMPLETED"), count("BLOCK_JOB_CANCELLED")), (1, 2), "{told:?}");
            assert_eq!(b.graph.describe(), before);
        });
    }
}

/// A new speed counts from the moment on at which it is set.
#[test]
fn a_speed_that_is_changed_in_the_middle() {
    run(|b| async move {
        b.put("hd0", 0, 1, SIZE as usize).await;
        let start = rt::now();
        b.backup(
            "{'job-id':'k','device':'hd2','target':'hd3','sync':'full','speed':65536,'auto-dismiss':false}",
        )
        .await
        .unwrap();
        let j = b.jobs.get("k").unwrap();
        rt::sleep(Duration::from_millis(1500)).await;
        let done = b.jobs.query()[0].current_progress;
        assert!((65536..=3 * 65536).contains(&done), "{done} bytes in 1.5 s");
        // A job that would wait for a day.
        b.jobs.set_speed(&j, 1).unwrap();
        rt::sleep(Duration::from_secs(60)).await;
        assert_eq!(j.status().as_str(), "running");
        b.jobs.set_speed(&j, 0).unwrap();
        b.until("k", "concluded").await;
        let took = (rt::now() - start).as_secs_f64();
        assert!((61.0..63.0).contains(&took), "{took} s");
        assert!(b.bytes("hd3").await == b.bytes("hd2").await);
    });
}

/// A disk whose last piece is short: it is begun once, and a job that fails ends.
#[test]
fn a_backup_of_a_disk_that_ends_within_a_piece() {
    const EIO: i32 = 5;
    const LEN: u64 = 192 * 1024 + 1536;
    for mode in ["always", "never", "on-success"] {
        run(|b| async move {
            b.world.create("odd", vec![7; LEN as usize]);
            bad_target(&b, "t", LEN, LEN / 512 - 1, EIO).await;
            let raw = "{'driver':'file','node-name':'odd','filename':'odd'}";
            b.graph.add(common::arg(raw)).await.unwrap();
            b.graph.bitmap_add("odd", "x", Some(65536), false, false).await.unwrap();
            let x = b.graph.bitmap("odd", "x", Default::default()).unwrap();
            x.set(0, LEN);
            let more = format!(
                "'sync':'bitmap','bitmap':'x','bitmap-mode':'{mode}','x-perf':{{'max-chunk':65536}},'on-target-error':'stop'"
            );
            b.backup(&format!("{{'job-id':'k','device':'odd','target':'t',{more}}}")).await.unwrap();
            b.until("k", "paused").await;
            let failed = b.told().iter().filter(|e| *e == "BLOCK_JOB_ERROR").count();
            assert_eq!(failed, 1, "{mode}");
            b.jobs.cancel_all().await;
            assert_eq!(x.dirty_bytes(), if mode == "always" { 65536 } else { 65536 * 4 }, "{mode}");
        });
    }
}
