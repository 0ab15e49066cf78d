//! `blockdev-add` and `blockdev-del`: names, references, chains that headers name, owners, conflicts.

mod common;
use block::{Perm, Policy, RootConfig, testing::create_cow};
use common::{SIZE, o, run};

#[test]
fn names() {
    run(|b| async move {
        b.add("{'driver':'null-co','node-name':'a'}").await;
        assert_eq!(
            b.add_err("{'driver':'null-co'}").await,
            "'node-name' must be specified for the root node"
        );
        assert_eq!(b.add_err("{'driver':'null-co','node-name':'1bad'}").await, "Invalid node-name: '1bad'");
        assert_eq!(
            b.add_err("{'driver':'null-co','node-name':'a'}").await,
            "Duplicate nodes with node-name='a'"
        );
        let inner = "{'driver':'raw','node-name':'r','file':{'driver':'null-co','node-name':'r'}}";
        assert_eq!(b.add_err(inner).await, "Duplicate nodes with node-name='r'");
        b.add("{'driver':'raw','node-name':'r','file':{'driver':'null-co'}}").await;
        assert!(b.child("r", "file").unwrap().starts_with("#block"));
    });
}

#[test]
fn references_and_options() {
    run(|b| async move {
        assert_eq!(
            b.add_err("{'driver':'raw','node-name':'r','file':'nope'}").await,
            "Cannot find device='nope' nor node-name='nope'"
        );
        assert_eq!(
            b.add_err(&o(3, ",'backing':'nope'")).await,
            "Could not open backing file: Cannot find device='nope' nor node-name='nope'"
        );
        assert_eq!(
            b.add_err("{'driver':'file','node-name':'f','filename':'nofile'}").await,
            "Could not open 'nofile': No such file or directory"
        );
        assert_eq!(
            b.add_err("{'driver':'file','node-name':'f','filename':'r0','force-share':true}").await,
            "force-share=on can only be used with read-only images"
        );
        assert_eq!(
            b.add_err("{'driver':'raw','node-name':'r','file':'r'}").await,
            "Cannot find device='r' nor node-name='r'"
        );
        b.add(&o(0, ",'read-only':true")).await;
        assert_eq!(
            b.add_err("{'driver':'qcow2','node-name':'x','file':'hd0'}").await,
            "Block node is read-only"
        );
    });
}

#[test]
fn a_header_opens_its_chain_read_only() {
    run(|b| async move {
        b.add(&o(2, ",'auto-read-only':true,'cache':{'no-flush':true}")).await;
        let g = b.graph.snapshot();
        let hd2 = g.by_name("hd2").unwrap();
        let hd1 = g.node(hd2.edge_named("backing").unwrap().child).unwrap();
        let hd0 = g.node(hd1.edge_named("backing").unwrap().child).unwrap();
        assert!(hd1.flags.read_only && !hd1.flags.auto_read_only && hd1.flags.no_flush);
        assert!(hd0.flags.read_only && hd0.name.starts_with("#block"));
        assert_eq!(g.nodes().count(), 6);
        b.graph.del("hd2").await.unwrap();
        assert_eq!(b.graph.snapshot().nodes().count(), 0);
    });
}

#[test]
fn what_headers_may_do_is_a_policy() {
    run(|b| async move {
        b.graph.set_policy(Policy { allow_implicit_children: false, ..Policy::default() });
        let e = b.add_err(&o(1, "")).await;
        assert!(e.contains("names the backing file 'h0'"), "{e}");
        b.add(&o(1, ",'backing':null")).await;
        b.graph.set_policy(Policy { max_depth: 1, ..Policy::default() });
        let e = b.add_err(&o(2, "")).await;
        assert!(e.contains("More than 1 block nodes"), "{e}");
    });
}

#[test]
fn a_chain_that_bites_its_tail_is_an_error() {
    run(|b| async move {
        create_cow(&b.world, "x", SIZE, Some("y"));
        create_cow(&b.world, "y", SIZE, Some("x"));
        create_cow(&b.world, "z", SIZE, Some("z"));
        create_cow(&b.world, "u", SIZE, Some("json:{}"));
        // Who writes has the lock that the image below would need.
        let lock = "Failed to get shared \"write\" lock";
        for (name, read_only, what) in [
            ("x", false, lock),
            ("z", false, lock),
            ("x", true, "comes back to 'x'"),
            ("z", true, "comes back to 'z'"),
            ("u", false, "no plain file name"),
        ] {
            let file = format!("{{'driver':'file','filename':'{name}'}}");
            let e = b
                .add_err(&format!(
                    "{{'driver':'qcow2','node-name':'n','read-only':{read_only},'file':{file}}}"
                ))
                .await;
            assert!(e.contains(what), "{name}: {e}");
        }
    });
}

#[test]
fn headers_may_name_other_things_than_files_where_that_is_allowed() {
    run(|b| async move {
        create_cow(&b.world, "j", SIZE, Some("json:{'driver':'raw','file.filename':'r0'}"));
        create_cow(&b.world, "own", SIZE, Some("json:{'file.filename':'own'}"));
        create_cow(&b.world, "p", SIZE, Some("foo:x"));
        let open = |name: &str| {
            format!("{{'driver':'qcow2','node-name':'n','file':{{'driver':'file','filename':'{name}'}}}}")
        };
        assert!(b.add_err(&open("j")).await.contains("no plain file name"));
        b.graph.set_policy(Policy { implicit_protocols: true, ..Policy::default() });
        b.add(&open("j")).await;
        let g = b.graph.snapshot();
        let below = g.by_name("n").unwrap().edge(block::driver::ChildSlot::Backing).unwrap();
        let raw = g.node(below.child).unwrap();
        assert_eq!((raw.ty.name, raw.flags.read_only), ("raw", true));
        b.graph.del("n").await.unwrap();
        let e = b.add_err(&open("p")).await;
        assert!(e.contains("Unknown protocol 'foo'"), "{e}");
        // A chain that comes back to itself ends at the depth that is allowed.
        b.graph.set_policy(Policy { implicit_protocols: true, max_depth: 20, ..Policy::default() });
        let e = b.add_err(&open("own")).await;
        assert!(e.contains("More than 20 block nodes"), "{e}");
        assert_eq!(b.graph.snapshot().nodes().count(), 0);
    });
}

#[test]
fn owners_and_users() {
    run(|b| async move {
        b.add("{'driver':'null-co','node-name':'a'}").await;
        b.add("{'driver':'raw','node-name':'r','file':'a'}").await;
        assert_eq!(b.del_err("zz").await, "Failed to find node with node-name='zz'");
        assert_eq!(b.del_err("a").await, "Block device a is in use");
        let root = b.writer("r").await;
        assert_eq!(b.del_err("r").await, "Node r is in use");
        root.detach().await;
        b.add(&o(0, "")).await;
        b.add(&o(1, ",'backing':'hd0'")).await;
        assert_eq!(b.del_err("hd0").await, "Node 'hd0' is busy: node is used as backing hd of 'hd1'");
        assert_eq!(b.del_err("hd1-file").await, "Node hd1-file is not owned by the monitor");
        for n in ["hd1", "hd0", "r", "a"] {
            b.graph.del(n).await.unwrap();
        }
        assert!(b.names().is_empty());
    });
}

#[test]
fn a_root_keeps_its_node_alive() {
    run(|b| async move {
        b.graph.add_drive(block::Drive::parse("if=none,id=d,format=raw,file=r0").unwrap()).await.unwrap();
        let root = b.writer("d").await;
        let e = b.graph.attach("d", common::writer("d")).await.unwrap_err();
        assert_eq!(e.desc(), "Drive 'd' is already in use by another device");
        let buf = mem::IoBuf::zeroed(4);
        root.read(0, buf.clone()).await.unwrap();
        assert_eq!(buf.to_vec(), [0x11; 4]);
        let q = b.graph.query_block();
        assert_eq!((q.len(), q[0].device.as_str()), (1, "d"));
        root.detach().await;
        assert_eq!(b.graph.snapshot().nodes().count(), 2);
    });
}

#[test]
fn users_that_exclude_each_other() {
    run(|b| async move {
        b.add("{'driver':'null-co','node-name':'f'}").await;
        let config = |qdev: &str| RootConfig {
            qdev: Some(qdev.into()),
            perm: Perm::CONSISTENT_READ | Perm::WRITE,
            shared: Perm::all() - Perm::WRITE,
            ..RootConfig::default()
        };
        let one = b.graph.attach("f", config("/machine/a")).await.unwrap();
        let e = b.graph.attach("f", config("/machine/b")).await.unwrap_err();
        assert_eq!(
            e.desc(),
            "Permission conflict on node 'f': permissions 'write' are both required by block device '/machine/a' \
             (uses node 'f' as 'root' child) and unshared by block device '/machine/b' (uses node 'f' as 'root' child)."
        );
        one.detach().await;
        let two = b.graph.attach("f", config("/machine/b")).await.unwrap();
        two.detach().await;
    });
}

#[test]
fn the_drawing() {
    run(|b| async move {
        b.add(&o(0, ",'read-only':true")).await;
        b.add(&o(1, ",'backing':'hd0'")).await;
        let root = b.writer("hd1").await;
        assert_eq!(
            b.graph.describe(),
            "[block device 'dev-hd1'] rw--/r---\n\
             └─ hd1 (qcow2)\n   \
                ├─ file rw-s/r--- → hd1-file (file) h1\n   \
                └─ backing r---/r-u- → hd0 (qcow2, read-only)\n      \
                   └─ file r---/r-u- → hd0-file (file, read-only) h0\n"
        );
        root.detach().await;
    });
}

#[test]
fn a_guessed_raw_image_cannot_turn_into_another_format() {
    run(|b| async move {
        let drive = block::Drive::parse("if=none,id=d,file=r0").unwrap();
        let warning = b.graph.add_drive(drive).await.unwrap().expect("a warning");
        assert!(warning.starts_with("Image format was not specified for 'r0' and probing guessed raw."));
        let root = b.writer("d").await;
        let write = async |off, bytes: &[u8]| {
            root.write(off, mem::IoBuf::from_bytes(bytes), Default::default()).await
        };
        assert_eq!(write(0, b"RHEACOW1 and so on").await, Err(base::Errno::PERM));
        write(0, b"RHEA").await.unwrap();
        assert_eq!(write(4, b"COW1").await, Err(base::Errno::PERM));
        write(4, b"COW2").await.unwrap();
        write(4096, b"RHEACOW1").await.unwrap();
        root.detach().await;
        // Where the format was said, everything goes.
        b.graph.add_drive(block::Drive::parse("if=none,id=e,file=r1,format=raw").unwrap()).await.unwrap();
        let root = b.writer("e").await;
        root.write(0, mem::IoBuf::from_bytes(b"RHEACOW1"), Default::default()).await.unwrap();
        root.detach().await;
        // And an image is guessed right.
        let drive = block::Drive::parse("if=none,id=q,file=h0").unwrap();
        assert_eq!(b.graph.add_drive(drive).await.unwrap(), None);
        assert_eq!(b.graph.query_block()[2].inserted.as_ref().unwrap().drv, "qcow2");
    });
}
