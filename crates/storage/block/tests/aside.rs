//! Nodes whose storage does not answer while they are opened: nobody else waits for them.

mod common;
use common::{Bed, o, opt, run};
use std::time::Duration;

/// Adds a node in the background.
fn adding(b: &Bed, text: &str) -> rt::JoinHandle<Result<(), String>> {
    let (graph, options) = (b.graph.clone(), opt(text));
    rt::spawn_local(async move { graph.add(options).await.map_err(|e| e.desc().to_owned()) })
}

async fn soon<F: Future>(f: F) -> F::Output {
    rt::timeout(Duration::from_secs(1), f).await.expect("nobody waits for what hangs")
}

async fn a_while() {
    rt::sleep(Duration::from_millis(50)).await;
}

#[test]
fn a_file_that_hangs_is_waited_for_by_its_own_command_only() {
    run(|b| async move {
        let disk = b.world.disk("h0").unwrap();
        disk.set_stuck(true);
        let slow = adding(&b, &o(0, ""));
        a_while().await;
        soon(b.add(&o(3, ""))).await;
        assert_eq!(b.names(), ["hd3", "hd3-file"], "what is not open yet is not seen");
        soon(b.reopen(&[&o(3, ",'read-only':true")])).await;
        let e = soon(b.graph.add(opt("{'driver':'null-co','node-name':'hd0'}"))).await.unwrap_err();
        assert_eq!(e.desc(), "Duplicate nodes with node-name='hd0'");
        soon(b.graph.del("hd3")).await.unwrap();
        assert!(!slow.is_finished());
        disk.set_stuck(false);
        soon(slow).await.unwrap();
        assert_eq!(b.names(), ["hd0", "hd0-file"]);
        // The name is free again after a failure.
        b.add_err("{'driver':'qcow2','node-name':'x','file':{'driver':'file','filename':'r0'}}").await;
        b.add("{'driver':'null-co','node-name':'x'}").await;
    });
}

#[test]
fn a_drive_that_hangs() {
    run(|b| async move {
        let disk = b.world.disk("h0").unwrap();
        disk.set_stuck(true);
        let graph = b.graph.clone();
        let drive = block::Drive::parse("file=h0,id=d0,if=none").unwrap();
        let slow =
            rt::spawn_local(async move { graph.add_drive(drive).await.map_err(|e| e.desc().to_owned()) });
        a_while().await;
        soon(b.add("{'driver':'null-co','node-name':'d0'}")).await;
        disk.set_stuck(false);
        assert_eq!(soon(slow).await.unwrap_err(), "Device name 'd0' conflicts with an existing node name");
        assert_eq!(b.names(), ["d0"]);
        assert_eq!(b.world.staged(), 0);
    });
}

#[test]
fn a_node_that_is_about_to_be_used_is_used() {
    run(|b| async move {
        b.add("{'driver':'file','node-name':'f','filename':'h0'}").await;
        let disk = b.world.disk("h0").unwrap();
        disk.set_stuck(true);
        let slow = adding(&b, "{'driver':'qcow2','node-name':'q','file':'f'}");
        a_while().await;
        assert_eq!(soon(b.del_err("f")).await, "Node f is in use");
        assert_eq!(b.graph.debug_graph().nodes.len(), 1, "only what is there is shown");
        let e = soon(b.graph.add(opt("{'driver':'qcow2','node-name':'q2','file':'f'}"))).await.unwrap_err();
        assert_eq!(
            e.desc(),
            "Permission conflict on node 'f': permissions 'write, resize' are both required by node 'q' (uses node \
             'f' as 'file' child) and unshared by node 'q2' (uses node 'f' as 'file' child)."
        );
        disk.set_stuck(false);
        soon(slow).await.unwrap();
        assert_eq!(b.child("q", "file").unwrap(), "f");
        assert_eq!(b.graph.snapshot().roots().count(), 0);
        let root = b.writer("q").await;
        root.write(0, mem::IoBuf::zeroed(512), block::driver::WriteFlags::empty()).await.unwrap();
    });
}

#[test]
fn what_was_about_to_be_used_is_let_go() {
    run(|b| async move {
        b.add("{'driver':'file','node-name':'f','filename':'r0'}").await;
        // No image of this format.
        b.add_err("{'driver':'qcow2','node-name':'q','file':'f'}").await;
        b.graph.del("f").await.unwrap();
        // What fails after the references are held.
        b.add("{'driver':'file','node-name':'f','filename':'h3'}").await;
        let e = b.add_err("{'driver':'qcow2','node-name':'q','file':'f','backing':'none'}").await;
        assert_eq!(e, "Could not open backing file: Cannot find device='none' nor node-name='none'");
        // Another was quicker with a name that only turns up at the end.
        let disk = b.world.disk("h0").unwrap();
        disk.set_stuck(true);
        let slow = adding(
            &b,
            "{'driver':'qcow2','node-name':'q','file':'f','backing':{'driver':'qcow2','node-name':'late',\
             'file':{'driver':'file','filename':'h0','node-name':'later'}}}",
        );
        a_while().await;
        assert_eq!(soon(b.del_err("f")).await, "Node f is in use");
        let drive = block::Drive::parse("id=q,if=none").unwrap();
        soon(b.graph.add_drive(drive)).await.unwrap();
        disk.set_stuck(false);
        assert_eq!(soon(slow).await.unwrap_err(), "node-name=q is conflicting with a device id");
        b.graph.del("f").await.unwrap();
        assert_eq!((b.names(), b.world.staged()), (vec![], 0));
    });
}

#[test]
fn the_end_does_not_wait() {
    run(|b| async move {
        b.add("{'driver':'file','node-name':'f','filename':'h0'}").await;
        b.add(&o(3, "")).await;
        let disks = ["h0", "h2"].map(|n| b.world.disk(n).unwrap());
        disks.iter().for_each(|d| d.set_stuck(true));
        let slow = [
            adding(&b, "{'driver':'qcow2','node-name':'q','file':'f'}"),
            adding(
                &b,
                "{'driver':'qcow2','node-name':'p','file':{'driver':'file','filename':'h2'},'backing':null}",
            ),
        ];
        a_while().await;
        soon(b.graph.close_all()).await;
        assert_eq!(b.names(), Vec::<String>::new());
        disks.iter().for_each(|d| d.set_stuck(false));
        for s in slow {
            assert_eq!(soon(s).await.unwrap_err(), "All block nodes were closed meanwhile");
        }
        assert_eq!((b.names(), b.world.staged()), (vec![], 0));
    });
}

#[test]
fn a_backing_file_that_went_away() {
    run(|b| async move {
        b.add(&o(0, "")).await;
        let root = b.writer("hd0").await;
        let disk = b.world.disk("h2").unwrap();
        disk.set_stuck(true);
        // The backing file is looked for once the image's own header is read.
        let slow = adding(
            &b,
            "{'driver':'qcow2','node-name':'top','file':{'driver':'raw','file':{'driver':'file','filename':'h2'}},\
             'backing':'hd0'}",
        );
        a_while().await;
        b.graph.del("hd0").await.unwrap_err();
        root.detach().await;
        b.graph.del("hd0").await.unwrap();
        disk.set_stuck(false);
        assert_eq!(
            soon(slow).await.unwrap_err(),
            "Could not open backing file: Cannot find device='hd0' nor node-name='hd0'"
        );
        assert_eq!((b.names(), b.world.staged()), (vec![], 0));
    });
}

#[test]
fn storage_that_hangs_stops_changes_of_its_own_node_only() {
    run(|b| async move {
        b.add(&o(0, "")).await;
        b.add(&o(3, "")).await;
        let root = b.writer("hd0").await;
        let disk = b.world.disk("h0").unwrap();
        disk.set_hanging(true);
        let writer = root.clone();
        let write = rt::spawn_local(async move {
            writer.write(0, mem::IoBuf::zeroed(512), block::driver::WriteFlags::empty()).await
        });
        a_while().await;
        let graph = b.graph.clone();
        let reopen = opt(&o(0, ",'discard':'unmap'"));
        let reopening = rt::spawn_local(async move { graph.reopen(vec![reopen]).await });
        a_while().await;
        let graph = b.graph.clone();
        let changing = rt::spawn_local(async move {
            let id = graph.snapshot().by_name("hd0").unwrap().id;
            graph.change(vec![id], |_| Ok(())).await
        });
        a_while().await;
        soon(b.reopen(&[&o(3, ",'read-only':true")])).await;
        soon(b.add("{'driver':'null-co','node-name':'n'}")).await;
        soon(b.graph.del("hd3")).await.unwrap();
        assert!(!write.is_finished() && !reopening.is_finished() && !changing.is_finished());
        disk.set_hanging(false);
        soon(write).await.unwrap();
        soon(reopening).await.unwrap();
        soon(changing).await.unwrap();
        soon(root.detach()).await;
    });
}
