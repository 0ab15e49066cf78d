//! The rules of `blockdev-reopen`, one by one, with the texts of their messages.

mod common;
use common::{o, run};

#[test]
fn unchanged_options_are_always_fine() {
    run(|b| async move {
        b.add(&o(0, "")).await;
        b.add(&o(1, ",'backing':'hd0'")).await;
        b.reopen(&[&o(1, ",'backing':'hd0'")]).await;
        b.reopen(&[&o(0, ""), &o(1, ",'backing':'hd0'")]).await;
        b.add("{'driver':'null-co','node-name':'n','size':4096}").await;
        b.reopen(&["{'driver':'null-co','node-name':'n','size':4096}"]).await;
    });
}

#[test]
fn r1_what_may_change_and_what_may_be_left_out() {
    run(|b| async move {
        b.add("{'driver':'null-co','node-name':'n'}").await;
        b.add("{'driver':'raw','node-name':'rn','file':'n'}").await;
        b.add("{'driver':'file','node-name':'f','filename':'r0','locking':'on','cache':{'direct':true}}")
            .await;
        let e = |list| b.reopen_err(list);
        assert_eq!(
            e(&["{'driver':'null-co','node-name':'n','size':4096}"]).await,
            "Cannot change the option 'size'"
        );
        assert_eq!(
            e(&["{'driver':'file','node-name':'f','filename':'r0'}"]).await,
            "Option 'locking' cannot be reset to its default value"
        );
        assert_eq!(
            e(&["{'driver':'file','node-name':'f','filename':'r1','locking':'on'}"]).await,
            "Cannot change the option 'filename'"
        );
        assert_eq!(
            e(&["{'driver':'file','node-name':'f','filename':'r0','locking':'off'}"]).await,
            "Cannot change the option 'locking'"
        );
        assert_eq!(
            e(&["{'driver':'file','node-name':'f','filename':'r0','locking':'on','aio':'native'}"]).await,
            "Cannot change the option 'aio'"
        );
        assert_eq!(e(&["{'driver':'null-aio','node-name':'n'}"]).await, "Cannot change the option 'driver'");
        assert_eq!(
            e(&["{'driver':'raw','node-name':'rn','file':'n','force-share':true,'read-only':true}"]).await,
            "Cannot change the option 'force-share'"
        );
        // A driver's mutable options, and the common ones.
        b.reopen(&["{'driver':'raw','node-name':'rn','file':'n','offset':512}"]).await;
        b.reopen(&["{'driver':'raw','node-name':'rn','file':'n','discard':'unmap','detect-zeroes':'unmap'}"])
            .await;
        b.reopen(&["{'driver':'file','node-name':'f','filename':'r0','locking':'on','read-only':true}"])
            .await;
        assert!(b.read_only("f"));
        b.reopen(&["{'driver':'file','node-name':'f','filename':'r0','locking':'on'}"]).await;
        assert!(!b.read_only("f"));
        assert!(!b.graph.snapshot().by_name("f").unwrap().flags.direct);
    });
}

#[test]
fn r2_which_node() {
    run(|b| async move {
        b.add(&o(0, "")).await;
        assert_eq!(b.reopen_err(&[&o(9, "")]).await, "Failed to find node with node-name='hd9'");
        assert_eq!(b.reopen_err(&["{'driver':'null-co'}"]).await, "node-name not specified");
    });
}

#[test]
fn r3_backing_must_be_said() {
    run(|b| async move {
        b.add(&o(0, "")).await;
        b.add(&o(1, ",'backing':'hd0'")).await;
        assert_eq!(b.reopen_err(&[&o(1, "")]).await, "backing is missing for 'hd1'");
        b.reopen(&[&o(1, ",'backing':null")]).await;
        // The header still names one.
        assert_eq!(b.reopen_err(&[&o(1, "")]).await, "backing is missing for 'hd1'");
        // h3 names none.
        b.add(&o(3, "")).await;
        b.reopen(&[&o(3, "")]).await;
        b.reopen(&[&o(3, ",'backing':'hd0'")]).await;
        assert_eq!(b.reopen_err(&[&o(3, "")]).await, "backing is missing for 'hd3'");
    });
}

#[test]
fn r4_references_dictionaries_and_null() {
    run(|b| async move {
        // The chain opens itself by the headers; names that nobody gave begin with #.
        b.add(&o(1, ",'backing':{'driver':'qcow2','node-name':'hd0','file':{'driver':'file','node-name':'hd0-file','filename':'h0'}}"))
            .await;
        assert_eq!(b.names(), ["hd0", "hd0-file", "hd1", "hd1-file"]);
        assert!(b.read_only("hd0") && !b.read_only("hd1"));
        b.reopen(&[&o(1, ",'backing':null")]).await;
        // The inline children die with their link.
        assert_eq!(b.names(), ["hd1", "hd1-file"]);
        b.add(&o(0, "")).await;
        b.reopen(&[&o(1, ",'backing':'hd0'")]).await;
        assert_eq!(b.child("hd1", "backing").as_deref(), Some("hd0"));
        // `file` can be exchanged too.
        b.add("{'driver':'file','node-name':'f','filename':'h1'}").await;
        b.reopen(&["{'driver':'qcow2','node-name':'hd1','file':'f','backing':'hd0'}"]).await;
        assert_eq!(b.child("hd1", "file").as_deref(), Some("f"));
        assert_eq!(b.names(), ["f", "hd0", "hd0-file", "hd1"]);
    });
}

#[test]
fn r5_dictionaries_are_for_inline_children() {
    run(|b| async move {
        b.add(&o(0, "")).await;
        b.add(&o(1, ",'backing':'hd0'")).await;
        let backing = ",'backing':{'driver':'qcow2','file':{'driver':'file','filename':'h0'}}";
        assert_eq!(b.reopen_err(&[&o(1, backing)]).await, "Cannot change the option 'backing.driver'");
        // Nor where there is none.
        b.reopen(&[&o(1, ",'backing':null")]).await;
        assert_eq!(b.reopen_err(&[&o(1, backing)]).await, "Cannot change the option 'backing.driver'");
        let file = "{'driver':'raw','node-name':'r','file':{'driver':'null-co'}}";
        b.add("{'driver':'null-co','node-name':'n'}").await;
        b.add("{'driver':'raw','node-name':'r','file':'n'}").await;
        assert_eq!(b.reopen_err(&[file]).await, "Cannot change the option 'file.driver'");
    });
}

#[test]
fn r6_r7_unknown_nodes_and_cycles() {
    run(|b| async move {
        b.add(&o(0, "")).await;
        b.add(&o(1, ",'backing':'hd0'")).await;
        let unknown = "Cannot find device='' nor node-name='nope'";
        assert_eq!(b.reopen_err(&[&o(1, ",'backing':'nope'")]).await, unknown);
        assert_eq!(
            b.reopen_err(&[&o(1, ",'backing':'hd1'")]).await,
            "Making 'hd1' a backing child of 'hd1' would create a cycle"
        );
        assert_eq!(
            b.reopen_err(&[&o(0, ",'backing':'hd1'")]).await,
            "Making 'hd1' a backing child of 'hd0' would create a cycle"
        );
        b.add("{'driver':'null-co','node-name':'n'}").await;
        b.add("{'driver':'raw','node-name':'r','file':'n'}").await;
        assert_eq!(
            b.reopen_err(&["{'driver':'raw','node-name':'r','file':'r'}"]).await,
            "Making 'r' a file child of 'r' would create a cycle"
        );
        // Turning a pair around works, in either order of the list.
        b.reopen(&[&o(0, ",'backing':'hd1'"), &o(1, ",'backing':null")]).await;
        b.reopen(&[&o(0, ",'backing':null"), &o(1, ",'backing':'hd0'")]).await;
        b.reopen(&[&o(1, ",'backing':null"), &o(0, ",'backing':'hd1'")]).await;
        assert_eq!(b.child("hd0", "backing").as_deref(), Some("hd1"));
        assert_eq!(b.child("hd1", "backing"), None);
    });
}

#[test]
fn r8_all_or_nothing_and_two_disks_swap_their_files() {
    run(|b| async move {
        b.add(&o(0, "")).await;
        for n in [1, 3] {
            b.add(&format!("{{'driver':'file','node-name':'hd{n}-file','filename':'h{n}'}}")).await;
        }
        let node = |n: u32, file: u32, backing: &str| {
            format!("{{'driver':'qcow2','node-name':'hd{n}','file':'hd{file}-file','backing':{backing}}}")
        };
        b.add(&node(1, 1, "'hd0'")).await;
        b.add(&node(3, 3, "null")).await;
        b.reopen_err(&[&o(0, ",'read-only':true"), &node(1, 1, "'nope'")]).await;
        assert!(!b.read_only("hd0"));
        assert_eq!(
            b.reopen_err(&[&node(1, 3, "'hd0'")]).await,
            "Permission conflict on node 'hd3-file': permissions 'write, resize' are both required by node 'hd3' \
             (uses node 'hd3-file' as 'file' child) and unshared by node 'hd1' (uses node 'hd3-file' as 'file' child)."
        );
        b.reopen(&[&node(1, 3, "'hd0'"), &node(3, 1, "null")]).await;
        assert_eq!(b.child("hd1", "file").as_deref(), Some("hd3-file"));
        assert_eq!(b.child("hd3", "file").as_deref(), Some("hd1-file"));
    });
}

#[test]
fn r9_read_only_nodes_and_their_writers() {
    run(|b| async move {
        b.add("{'driver':'file','node-name':'f','filename':'h3'}").await;
        b.add("{'driver':'qcow2','node-name':'t','file':'f','backing':null}").await;
        let f = |ro| format!("{{'driver':'file','node-name':'f','filename':'h3','read-only':{ro}}}");
        let t =
            |ro| format!("{{'driver':'qcow2','node-name':'t','file':'f','backing':null,'read-only':{ro}}}");
        assert_eq!(
            b.reopen_err(&[&f(true)]).await,
            "Read-only block node 'f' cannot support read-write users"
        );
        // Both in one list, in any order.
        b.reopen(&[&f(true), &t(true)]).await;
        assert_eq!(b.reopen_err(&[&t(false)]).await, "Block node is read-only");
        b.reopen(&[&t(false), &f(false)]).await;
        let root = b.writer("t").await;
        assert_eq!(
            b.reopen_err(&[&t(true)]).await,
            "Read-only block node 't' cannot support read-write users"
        );
        root.detach().await;
        b.reopen(&[&t(true)]).await;
        let e = b.graph.attach("t", common::writer("t")).await.unwrap_err();
        assert_eq!(e.desc(), "Block node is read-only");
    });
}

#[test]
fn r10_options_that_exclude_each_other() {
    run(|b| async move {
        b.add("{'driver':'null-co','node-name':'n'}").await;
        assert_eq!(
            b.reopen_err(&["{'driver':'null-co','node-name':'n','detect-zeroes':'unmap'}"]).await,
            "setting detect-zeroes to unmap is not allowed without setting discard operation to unmap"
        );
    });
}

#[test]
fn inline_children_follow_their_parent() {
    run(|b| async move {
        b.add(&o(3, "")).await;
        // Read-only goes down, and comes back up when it is left out again.
        b.reopen(&[&o(3, ",'read-only':true,'cache':{'direct':true}")]).await;
        assert!(b.read_only("hd3") && b.read_only("hd3-file"));
        assert!(b.graph.snapshot().by_name("hd3-file").unwrap().flags.direct);
        b.reopen(&["{'driver':'qcow2','node-name':'hd3','file':'hd3-file'}"]).await;
        assert!(!b.read_only("hd3") && !b.read_only("hd3-file"));
        // The child's own word counts more than its parent's.
        let ro = "{'driver':'qcow2','node-name':'hd3','read-only':true,'file':\
                  {'driver':'file','node-name':'hd3-file','filename':'h3','read-only':false}}";
        b.reopen(&[ro]).await;
        assert!(b.read_only("hd3") && !b.read_only("hd3-file"));
        // A reference keeps what the child said itself.
        b.reopen(&["{'driver':'qcow2','node-name':'hd3','read-only':true,'file':'hd3-file'}"]).await;
        assert!(!b.read_only("hd3-file"));
    });
}

#[test]
fn an_inline_child_keeps_its_name() {
    run(|b| async move {
        b.add(&o(3, "")).await;
        let nameless = "{'driver':'qcow2','node-name':'hd3','file':{'driver':'file','filename':'h3'}}";
        b.reopen(&[nameless]).await;
        b.reopen(&[&o(3, "")]).await;
        b.reopen(&[nameless]).await;
        assert_eq!(b.child("hd3", "file").as_deref(), Some("hd3-file"));
        let other =
            "{'driver':'qcow2','node-name':'hd3','file':{'driver':'file','node-name':'x','filename':'h3'}}";
        assert_eq!(b.reopen_err(&[other]).await, "Cannot change the option 'node-name'");
        let file = "{'driver':'qcow2','node-name':'hd3','file':{'driver':'file','filename':'other'}}";
        assert_eq!(b.reopen_err(&[file]).await, "Cannot change the option 'filename'");
    });
}

#[test]
fn what_is_said_of_one_node_twice_must_fit() {
    run(|b| async move {
        b.add(&o(3, "")).await;
        let file = |ro: &str| format!("{{'driver':'file','node-name':'hd3-file','filename':'h3'{ro}}}");
        let top = "{'driver':'qcow2','node-name':'hd3','read-only':true,'file':'hd3-file'}";
        // Its own entry says more than the parent's reference, in any order.
        for list in
            [[top.to_owned(), file(",'read-only':false")], [file(",'read-only':false"), top.to_owned()]]
        {
            b.reopen(&[&list[0], &list[1]]).await;
            assert!(b.read_only("hd3") && !b.read_only("hd3-file"));
            b.reopen(&[&o(3, "")]).await;
        }
        let e = b.reopen_err(&[&file(",'read-only':false"), &file(",'read-only':true")]).await;
        assert_eq!(e, "Option 'read-only' of node 'hd3-file' is given twice with different values");
    });
}

#[test]
fn a_failing_flush_or_stage_changes_nothing() {
    use block::testing::Faults;
    run(|b| async move {
        b.add(&o(0, "")).await;
        b.add(&o(1, ",'backing':'hd0'")).await;
        let root = b.writer("hd1").await;
        root.write(0, mem::IoBuf::from_bytes(&[1; 512]), Default::default()).await.unwrap();
        b.world.set_faults(Faults { flush: 1000, ..Faults::default() });
        let e = b.reopen_err(&[&o(1, ",'backing':null")]).await;
        assert_eq!(e, "Error flushing drive: Input/output error");
        b.world.set_faults(Faults { stage: 1000, ..Faults::default() });
        b.reopen_err(&[&o(1, ",'backing':null,'cache':{'direct':true}")]).await;
        b.world.set_faults(Faults::default());
        b.reopen(&[&o(1, ",'backing':null")]).await;
        root.detach().await;
    });
}

#[test]
fn a_swap_shows_in_what_is_read() {
    run(|b| async move {
        b.add("{'driver':'raw','node-name':'a','read-only':true,'file':{'driver':'file','filename':'r0'}}")
            .await;
        b.add("{'driver':'raw','node-name':'b','read-only':true,'file':{'driver':'file','filename':'r1'}}")
            .await;
        b.add(&o(3, ",'backing':'a'")).await;
        let root = b.writer("hd3").await;
        root.write(4096, mem::IoBuf::from_bytes(&[7; 4096]), Default::default()).await.unwrap();
        let byte = async |off| {
            let buf = mem::IoBuf::zeroed(1);
            root.read(off, buf.clone()).await.unwrap();
            buf.to_vec()[0]
        };
        assert_eq!((byte(0).await, byte(4096).await), (0x11, 7));
        b.reopen(&[&o(3, ",'backing':'b'")]).await;
        assert_eq!((byte(0).await, byte(4096).await), (0x22, 7));
        b.reopen(&[&o(3, ",'backing':null")]).await;
        assert_eq!((byte(0).await, byte(4096).await), (0, 7));
        root.detach().await;
    });
}
