//! Backups: what they copy, what becomes of bitmaps, and what they refuse.

mod common;
use common::{Bed, SIZE, run};

use block::bitmap::Bitmap;
use block::testing::Faults;
use mem::IoBuf;
use std::sync::Arc;

const FULL: &str = "{'job-id':'k','device':'hd2','target':'hd3','sync':'full'";

async fn put(root: &block::Root, off: u64, byte: u8, len: usize) {
    root.write(off, IoBuf::from_bytes(&vec![byte; len]), Default::default()).await.unwrap();
}

fn bitmap(b: &Bed, name: &str) -> Arc<Bitmap> {
    b.graph.bitmap("hd2", name, Default::default()).unwrap()
}

fn text(args: &str) -> String {
    format!("{{'job-id':'k','device':'hd2','target':'hd3',{args}}}")
}

#[test]
fn a_copy_as_it_was_at_the_beginning() {
    run(|b| async move {
        let user = b.user("hd2").await;
        let before = b.bytes("hd2").await;
        b.backup(&format!("{FULL},'speed':65536}}")).await.unwrap();
        // Changed long before the job comes to it, and twice.
        for byte in [0xee, 0xef] {
            put(&user, SIZE - 5000, byte, 3000).await;
            put(&user, 100_000, byte, 70_000).await;
        }
        b.until("k", "null").await;
        let told = b.told();
        assert_eq!(
            told,
            ["created", "running", "waiting", "pending", "BLOCK_JOB_COMPLETED", "concluded", "null"]
        );
        assert!(b.bytes("hd3").await == before);
        assert_eq!(b.bytes("hd2").await[100_000], 0xef);
        assert_eq!(b.names(), ["hd0", "hd1", "hd2", "hd3"]);
        assert_eq!(user.node_name().as_deref(), Some("hd2"));
        user.detach().await;
    });
}

#[test]
fn what_has_no_data_has_none_in_the_copy() {
    run(|b| async move {
        // Known as zeroes: the last quarter. Zeroes that were written: a quarter in the midst of data.
        b.put("hd2", 128 * 1024, 0, 64 * 1024).await;
        b.put("hd2", 64 * 1024, 0, 64 * 1024).await;
        b.put("hd2", 130 * 1024, 5, 1024).await;
        b.backup(&format!("{FULL}}}")).await.unwrap();
        b.until("k", "null").await;
        assert!(b.bytes("hd3").await == b.bytes("hd2").await);
        let user = b.user("hd3").await;
        let mut at = 0;
        while at < SIZE {
            let st = user.map(at, SIZE - at).await.unwrap();
            assert_eq!(st.data, at / 65536 % 2 == 0, "{at}: {st:?}");
            at += st.len.min(65536 - at % 65536);
        }
        user.detach().await;
    });
}

#[test]
fn only_the_topmost_image_or_nothing_but_changes() {
    run(|b| async move {
        b.put("hd2", 192 * 1024, 0x77, 4096).await;
        b.backup(&text("'sync':'top'")).await.unwrap();
        b.until("k", "null").await;
        let (copy, top) = (b.bytes("hd3").await, b.bytes("hd2").await);
        // hd2 has 64 KiB at 64 KiB, and what was written above; the rest is left out.
        assert!(
            copy[65536..131_072] == top[65536..131_072] && copy[196_608..200_704] == top[196_608..200_704]
        );
        assert!(copy[..65536].iter().all(|b| *b == 0) && top[..65536].iter().any(|b| *b != 0));
        b.told();
        let user = b.user("hd2").await;
        b.backup(&text("'sync':'none','auto-dismiss':false")).await.unwrap();
        put(&user, 0, 0x99, 512).await;
        rt::sleep(std::time::Duration::from_secs(1)).await;
        assert!(b.bytes("hd3").await[..65536] == top[..65536]);
        let j = b.jobs.get("k").unwrap();
        let e = b.jobs.complete(&j).unwrap_err();
        assert_eq!(e.desc(), "Job 'k' in state 'running' cannot accept command verb 'complete'");
        b.jobs.cancel(&j, false).await.unwrap();
        b.until("k", "concluded").await;
        assert_eq!(b.told(), ["created", "running", "aborting", "BLOCK_JOB_CANCELLED", "concluded"]);
        user.detach().await;
    });
}

#[test]
fn bitmaps_say_what_is_copied() {
    run(|b| async move {
        let user = b.user("hd2").await;
        b.graph.bitmap_add("hd2", "x", Some(4096), false, false).await.unwrap();
        let x = bitmap(&b, "x");
        put(&user, 130 * 1024, 1, 4096).await;
        assert_eq!(x.dirty_bytes(), 8192);
        // `never` leaves the bitmap alone.
        b.backup(&text("'sync':'bitmap','bitmap':'x','bitmap-mode':'never','speed':1")).await.unwrap();
        let e = b.graph.bitmap_clear("hd2", "x").await.unwrap_err();
        assert_eq!(e.desc(), "Bitmap 'x' is currently in use by another operation and cannot be used");
        b.jobs.set_speed(&b.jobs.get("k").unwrap(), 0).unwrap();
        b.until("k", "null").await;
        assert_eq!(x.dirty_bytes(), 8192);
        let copy = b.bytes("hd3").await;
        assert!(copy[131_072..196_608] == b.bytes("hd2").await[131_072..196_608]);
        assert!(copy[..131_072].iter().chain(&copy[196_608..]).all(|b| *b == 0));
        // A failed one, and a cancelled one: nothing is clean.
        for cancel in [false, true] {
            let f = Faults { write: if cancel { 0 } else { 1000 }, ..Faults::default() };
            b.world.set_faults(f);
            b.backup(&text("'sync':'incremental','bitmap':'x','speed':1,'auto-dismiss':false"))
                .await
                .unwrap();
            let j = b.jobs.get("k").unwrap();
            if cancel {
                b.jobs.cancel(&j, true).await.unwrap();
            }
            b.until("k", "concluded").await;
            b.world.set_faults(Faults::default());
            b.jobs.dismiss_job(&j).unwrap();
            assert_eq!(x.dirty_bytes(), 8192, "{cancel}");
        }
        // A good one: what was written meanwhile stays dirty.
        b.backup(&text("'sync':'incremental','bitmap':'x','auto-finalize':false")).await.unwrap();
        b.until("k", "pending").await;
        put(&user, 0, 2, 512).await;
        assert_eq!(x.dirty_bytes(), 8192 + 4096);
        b.jobs.finalize_job(&b.jobs.get("k").unwrap()).await.unwrap();
        assert_eq!(x.dirty_bytes(), 4096);
        // `always`: what was copied before it failed is clean.
        put(&user, 0, 3, 4096).await;
        put(&user, 200 * 1024, 3, 4096).await;
        b.backup(&text("'sync':'bitmap','bitmap':'x','bitmap-mode':'always','speed':1")).await.unwrap();
        rt::sleep(std::time::Duration::from_secs(1)).await;
        b.jobs.cancel_all().await;
        assert_eq!(x.dirty_bytes(), 4096);
        // A full copy that cleans a bitmap.
        b.backup(&text("'sync':'full','bitmap':'x','bitmap-mode':'on-success'")).await.unwrap();
        b.until("k", "null").await;
        assert_eq!(x.dirty_bytes(), 0);
        user.detach().await;
    });
}

#[test]
fn several_at_one_moment() {
    run(|b| async move {
        let tx = |props: &str, second: &str| {
            common::arg(&format!(
                "{{'actions':[{{'type':'blockdev-backup','data':{FULL},'auto-dismiss':false}}}},{second}]{props}}}"
            ))
        };
        let go = |t| block_jobs::transaction::transaction(&b.jobs, t);
        let user = b.user("hd2").await;
        let before = b.graph.describe();
        // The second action fails: the first job was never there.
        let e = go(tx("", "{'type':'abort','data':{}}")).await.unwrap_err();
        assert_eq!(e.desc(), "Transaction aborted using Abort action");
        assert_eq!(b.told(), ["created", "null"]);
        assert_eq!(b.graph.describe(), before);
        // A bitmap that is added in the same transaction counts from the same moment on.
        let add = "{'type':'block-dirty-bitmap-add','data':{'node':'hd2','name':'n','granularity':4096}}";
        go(tx("", add)).await.unwrap();
        put(&user, 0, 9, 512).await;
        b.until("k", "concluded").await;
        assert_eq!(bitmap(&b, "n").dirty_bytes(), 4096);
        b.jobs.dismiss_job(&b.jobs.get("k").unwrap()).unwrap();
        // Grouped: the one that fails takes the other with it.
        b.world.create("t", vec![0; SIZE as usize]);
        b.graph.add(common::arg("{'driver':'file','node-name':'t','filename':'t'}")).await.unwrap();
        let other = "{'type':'blockdev-backup','data':{'job-id':'o','device':'hd0','target':'t','sync':'full','speed':1,'auto-dismiss':false}}";
        let grouped = ",'properties':{'completion-mode':'grouped'}";
        let e = go(tx(grouped, add)).await.unwrap_err();
        assert_eq!(
            e.desc(),
            "Action 'block-dirty-bitmap-add' does not support transaction property completion-mode = grouped"
        );
        go(tx(grouped, other)).await.unwrap();
        b.until("k", "waiting").await;
        b.jobs.cancel(&b.jobs.get("o").unwrap(), true).await.unwrap();
        b.until("k", "concluded").await;
        let q = b.jobs.query();
        assert!(q.iter().all(|j| j.error.as_deref() == Some("Operation canceled")), "{q:?}");
        assert_eq!(q.len(), 2);
        user.detach().await;
    });
}

/// Each copy is of its own moment, whichever backup ends first, and however it ends.
#[test]
fn two_of_one_node() {
    for (first_ends_first, cancelled) in [(true, false), (false, false), (true, true), (false, true)] {
        run(|b| async move {
            b.world.create("t", vec![0; SIZE as usize]);
            b.graph.add(common::arg("{'driver':'file','node-name':'t','filename':'t'}")).await.unwrap();
            let start = async |id: &str, target: &str, speed: u64| {
                let more = format!("'filter-node-name':'{id}-top','speed':{speed},'auto-dismiss':false");
                b.backup(&format!(
                    "{{'job-id':'{id}','device':'hd2','target':'{target}','sync':'full',{more}}}"
                ))
                .await
            };
            let user = b.user("hd2").await;
            let before = b.names();
            let one = b.bytes("hd2").await;
            start("one", "hd3", 1).await.unwrap();
            put(&user, 70_000, 0xe1, 70_000).await;
            let two = b.bytes("hd2").await;
            start("two", "t", 1).await.unwrap();
            // The new filter is below the other.
            assert_eq!(b.child("one-top", "file").as_deref(), Some("two-top"));
            let e =
                b.backup("{'job-id':'x','device':'two-top','target':'hd0','sync':'full'}").await.unwrap_err();
            assert_eq!(e.desc(), "Node 'two-top' is busy: block device is in use by block job: backup");
            let m = b.mirror("{'job-id':'x','device':'hd2','target':'hd0','sync':'full'}").await.unwrap_err();
            assert_eq!(m.desc(), "Need a root block node");
            put(&user, 100_000, 0xe2, 100_000).await;
            let (first, last) = if first_ends_first { ("one", "two") } else { ("two", "one") };
            let end = async |id: &str, cancel: bool| {
                let j = b.jobs.get(id).unwrap();
                if cancel {
                    b.jobs.cancel(&j, true).await.unwrap();
                } else {
                    b.jobs.set_speed(&j, 0).unwrap();
                }
                b.until(id, "concluded").await;
                b.jobs.dismiss_job(&j).unwrap();
            };
            end(first, cancelled).await;
            // The other still sees every change.
            put(&user, 0, 0xe3, 200_000).await;
            assert_eq!(user.node_name().as_deref(), Some(&*format!("{last}-top")));
            end(last, false).await;
            assert_eq!(b.names(), before);
            assert_eq!(user.node_name().as_deref(), Some("hd2"));
            assert!(first == "one" && cancelled || b.bytes("hd3").await == one);
            assert!(first == "two" && cancelled || b.bytes("t").await == two);
            user.detach().await;
        });
    }
}

#[test]
fn messages() {
    run(|b| async move {
        b.world.create("s", vec![0; 512]);
        b.graph.add(common::arg("{'driver':'file','node-name':'s','filename':'s'}")).await.unwrap();
        b.graph.bitmap_add("hd2", "x", None, false, false).await.unwrap();
        let d = "'device':'hd2','target':'hd3'";
        for (args, message) in [
            (
                "'device':'hd2','target':'s','sync':'full'".into(),
                "Source and target image have different sizes",
            ),
            ("'device':'hd2','target':'hd2','sync':'full'".into(), "Source and target cannot be the same"),
            (
                "'device':'hd2','target':'zz','sync':'full'".into(),
                "Cannot find device='zz' nor node-name='zz'",
            ),
            (format!("{d},'sync':'bitmap'"), "must provide a valid bitmap name for 'bitmap' sync mode"),
            (
                format!("{d},'sync':'incremental'"),
                "must provide a valid bitmap name for 'incremental' sync mode",
            ),
            (
                format!("{d},'sync':'bitmap','bitmap':'y','bitmap-mode':'never'"),
                "Bitmap 'y' could not be found",
            ),
            (
                format!("{d},'sync':'full','bitmap-mode':'always'"),
                "Cannot specify bitmap sync mode without a bitmap",
            ),
            (
                format!("{d},'sync':'bitmap','bitmap':'x'"),
                "Bitmap sync mode must be given when providing a bitmap",
            ),
            (
                format!("{d},'sync':'full','bitmap':'x','bitmap-mode':'never'"),
                "Bitmap sync mode 'never' has no meaningful effect when combined with sync mode 'full'",
            ),
            (
                format!("{d},'sync':'none','bitmap':'x','bitmap-mode':'never'"),
                "sync mode 'none' does not produce meaningful bitmap outputs",
            ),
            (
                format!("{d},'sync':'incremental','bitmap':'x','bitmap-mode':'never'"),
                "Bitmap sync mode must be 'on-success' when using sync mode 'incremental'",
            ),
            (format!("{d},'sync':'full','compress':true"), "Compression is not supported for this drive "),
            (
                format!("{d},'sync':'full','x-perf':{{'max-workers':0}}"),
                "max-workers must be between 1 and 2147483647",
            ),
            (
                format!("{d},'sync':'full','x-perf':{{'max-chunk':-1}}"),
                "max-chunk must be zero (which means no limit) or positive",
            ),
            (
                format!("{d},'sync':'full','x-perf':{{'max-chunk':100}}"),
                "Required max-chunk (100) is less than backup cluster size (65536)",
            ),
            (
                format!("{d},'sync':'full','x-perf':{{'min-cluster-size':100}}"),
                "Could not create node: Cannot create block-copy-state: min-cluster-size needs to be a power of 2",
            ),
        ] {
            let before = b.graph.describe();
            let e = b.backup(&format!("{{'job-id':'k',{args}}}")).await.unwrap_err();
            assert_eq!(e.desc(), message, "{args}");
            assert_eq!(b.graph.describe(), before);
            assert!(b.jobs.query().is_empty());
        }
        // Nothing is left in use.
        b.graph.bitmap_clear("hd2", "x").await.unwrap();
        b.backup(&format!("{FULL},'speed':1}}")).await.unwrap();
        let e = b.backup(&format!("{FULL}}}").replace("'k'", "'l'")).await.unwrap_err();
        assert_eq!(e.desc(), "Node 'hd3' is busy: block device is in use by block job: backup");
        b.jobs.cancel_all().await;
    });
}
