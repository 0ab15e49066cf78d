//! The server and the client of this house against each other, and what commands say.

mod common;

use block::driver::{WriteFlags, ZeroFlags};
use block::{Perm, Root, RootConfig};
use common::Bed;
use mem::IoBuf;
use std::sync::Arc;
use std::time::Duration;

const SIZE: usize = 6 << 20;

async fn root(bed: &Bed, node: &str, write: bool) -> Arc<Root> {
    let mut perm = Perm::CONSISTENT_READ;
    perm.set(Perm::WRITE, write);
    bed.graph.attach(node, RootConfig { perm, shared: Perm::all(), ..RootConfig::default() }).await.unwrap()
}

async fn read(root: &Root, off: u64, len: usize) -> Vec<u8> {
    let b = IoBuf::zeroed(len);
    root.read(off, b.clone()).await.unwrap();
    b.to_vec()
}

const CLIENT: &str = "{'driver':'nbd','node-name':'c','server':{'type':'unix','path':'@s'},'export':'x'}";

#[test]
fn what_is_written_is_read_at_both_ends() {
    rt::block_on(async {
        let bed = Bed::new("loop");
        let mut model = bed.file("f", SIZE);
        bed.add("{'driver':'file','node-name':'f','filename':'@f'}").await;
        bed.listen().await;
        bed.export("'id':'e','node-name':'f','name':'x','writable':true").await;
        bed.add(CLIENT).await;
        let c = root(&bed, "c", true).await;
        assert_eq!(c.len(), SIZE as u64);
        assert!(read(&c, 0, SIZE).await == model);
        // Odd places and lengths, some longer than a piece, many at once.
        let mut tasks = Vec::new();
        for i in 0..100usize {
            let (off, len) = (i * 61_001 % (SIZE - 9000), 1 + i * 89);
            model[off..off + len].fill(i as u8);
            let c = c.clone();
            let data = IoBuf::zeroed(len);
            data.fill(i as u8);
            // Those that overlap must come one after another.
            c.write(off as u64, data, WriteFlags::empty()).await.unwrap();
            tasks.push(rt::spawn_local(async move {
                let b = IoBuf::zeroed(len);
                c.read(off as u64, b).await.unwrap();
            }));
        }
        for t in tasks {
            t.await;
        }
        let long: Vec<u8> = (0..3_500_001u32).map(|i| (i % 251) as u8).collect();
        c.write(1_000_003, IoBuf::from_bytes(&long), WriteFlags::FUA).await.unwrap();
        model[1_000_003..1_000_003 + long.len()].copy_from_slice(&long);
        c.write_zeroes(700_001, 90_000, ZeroFlags::MAY_UNMAP | ZeroFlags::FUA).await.unwrap();
        model[700_001..790_001].fill(0);
        c.discard(0, 0).await.unwrap();
        c.flush().await.unwrap();
        assert!(read(&c, 0, SIZE).await == model);
        assert!(std::fs::read(bed.dir.join("f")).unwrap() == model);
        let status = c.map(0, 4096).await.unwrap();
        assert!(status.data && !status.zero);
        assert_eq!(c.read(SIZE as u64 - 1, IoBuf::zeroed(2)).await, Err(base::Errno::IO));
        c.detach().await;
        bed.graph.del("c").await.unwrap();
        bed.end().await;
    });
}

#[test]
fn holes_are_told() {
    rt::block_on(async {
        let bed = Bed::new("holes");
        std::fs::File::create(bed.dir.join("f")).unwrap().set_len(1 << 30).unwrap();
        bed.add("{'driver':'file','node-name':'f','filename':'@f'}").await;
        bed.listen().await;
        bed.export("'id':'e','node-name':'f','name':'x','allocation-depth':true").await;
        bed.add(&CLIENT.replace("'export'", "'read-only':true,'export'")).await;
        let c = root(&bed, "c", false).await;
        let status = c.map(0, 1 << 30).await.unwrap();
        assert_eq!((status.len, status.zero, status.data), (1 << 30, true, false));
        bed.end().await;
    });
}

/// The flags of the descriptors that this process has on a file.
fn open_for_writing(bed: &Bed, name: &str) -> Vec<bool> {
    let path = std::fs::canonicalize(bed.dir.join(name)).unwrap();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd").unwrap().flatten() {
        if std::fs::read_link(entry.path()).is_ok_and(|p| p == path) {
            let n = entry.file_name().into_string().unwrap();
            let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{n}")).unwrap();
            let flags = info.lines().find_map(|l| l.strip_prefix("flags:")).unwrap().trim().to_owned();
            found.push(u32::from_str_radix(&flags, 8).unwrap() & 3 != 0);
        }
    }
    found
}

#[test]
fn a_writable_export_makes_the_file_writable_for_its_time() {
    rt::block_on(async {
        let bed = Bed::new("aro");
        bed.file("f", 65536);
        bed.add("{'driver':'file','node-name':'f','filename':'@f','auto-read-only':true}").await;
        bed.listen().await;
        assert_eq!(open_for_writing(&bed, "f"), [false]);
        bed.export("'id':'r','node-name':'f','name':'r'").await;
        assert_eq!(open_for_writing(&bed, "f"), [false]);
        bed.export("'id':'w','node-name':'f','name':'w','writable':true").await;
        assert_eq!(open_for_writing(&bed, "f"), [true]);
        bed.exports.del("w", None).await.unwrap();
        assert_eq!(open_for_writing(&bed, "f"), [false]);
        bed.end().await;
    });
}

#[test]
fn static_auto_read_only_of_the_client() {
    rt::block_on(async {
        let bed = Bed::new("static");
        bed.file("f", 65536);
        bed.add("{'driver':'file','node-name':'f','filename':'@f','read-only':true}").await;
        bed.listen().await;
        bed.export("'id':'e','node-name':'f','name':'x'").await;
        let e = bed.try_add(CLIENT).await.unwrap_err();
        assert_eq!(e, "Could not open image: Permission denied");
        let auto = CLIENT.replace("'export'", "'auto-read-only':true,'export'");
        bed.add(&auto).await;
        assert!(root(&bed, "c", false).await.read_only());
        let options = qapi::Value::parse_json(
            &auto.replace('\'', "\"").replace('@', &format!("{}/", bed.dir.display())),
        );
        let e = bed.graph.reopen(vec![options.and_then(qapi::from_json).unwrap()]).await.unwrap_err();
        assert_eq!(e.desc(), "Can't reopen read-only NBD mount as read/write");
        let e = bed.try_add(&CLIENT.replace("'x'", "'nope'").replace("'c'", "'d'")).await.unwrap_err();
        assert_eq!(e, "Requested export not available");
        let nowhere = CLIENT.replace("@s", "@nowhere").replace("'c'", "'d'");
        let e = bed.try_add(&nowhere).await.unwrap_err();
        assert_eq!(e, format!("Failed to connect to '{}': No such file or directory", bed.path("nowhere")));
        bed.end().await;
    });
}

#[test]
fn what_the_commands_say() {
    rt::block_on(async {
        let bed = Bed::new("texts");
        let x = &bed.exports;
        let text = |r: Result<(), qapi::QError>| r.unwrap_err().desc().to_owned();
        assert_eq!(text(x.stop_server().await), "NBD server not running");
        bed.add("{'driver':'null-co','node-name':'n0'}").await;
        bed.add("{'driver':'null-co','node-name':'nro','read-only':true}").await;
        let add = async |o: &str| bed.try_export(o).await.unwrap_err();
        assert_eq!(add("'id':'e','node-name':'x'").await, "Cannot find device='' nor node-name='x'");
        assert_eq!(add("'id':'e','node-name':'n0'").await, "NBD server not running");
        bed.listen().await;
        assert_eq!(
            bed.try_listen("'path':'@s','type':'unix'", "").await.unwrap_err(),
            "NBD server already running"
        );
        bed.export("'id':'e','node-name':'n0'").await;
        assert_eq!(add("'id':'e','node-name':'n0'").await, "Block export id 'e' is already in use");
        assert_eq!(add("'id':'f','node-name':'n0'").await, "NBD server already has export named 'n0'");
        assert_eq!(add("'id':'1f','node-name':'n0'").await, "Invalid block export id");
        assert_eq!(
            add("'id':'f','node-name':'nro','writable':true").await,
            "Cannot export read-only node as writable"
        );
        assert_eq!(
            add("'id':'f','node-name':'n0','name':'q','iothread':'b'").await,
            "iothread \"b\" not found"
        );
        assert_eq!(text(x.del("nope", None).await), "Export 'nope' is not found");
        assert_eq!(text(bed.graph.del("n0").await), "Node n0 is in use");
        bed.export("'id':'w','node-name':'n0','name':'w','writable':true").await;
        let ids = || bed.exports.query().into_iter().map(|e| e.id).collect::<Vec<_>>();
        assert_eq!(ids(), ["w", "e"]);
        x.del("w", None).await.unwrap();
        let old = |device: &str, name: Option<&str>, writable| api::block_export::NbdServerAdd {
            name: name.map(Into::into),
            description: None,
            device: device.into(),
            bitmap: None,
            writable,
        };
        let e = text(x.add_old(old("nope", None, None)).await);
        assert_eq!(e, "Cannot find device='nope' nor node-name='nope'");
        let e = text(x.add_old(old("n0", None, None)).await);
        assert_eq!(e, "NBD server already has export named 'n0'");
        x.add_old(old("nro", Some("r"), Some(true))).await.unwrap();
        assert_eq!(ids(), ["r", "e"]);
        let log = bed.events.listen(100);
        x.stop_server().await.unwrap();
        assert!(ids().is_empty());
        drop(log);
        bed.graph.del("n0").await.unwrap();
        bed.end().await;
    });
}

#[test]
fn an_export_in_use_stays_unless_forced() {
    rt::block_on(async {
        let bed = Bed::new("busy");
        bed.add("{'driver':'null-co','node-name':'n','read-zeroes':true}").await;
        bed.listen().await;
        bed.export("'id':'e','node-name':'n','name':'x','writable':true").await;
        bed.add(CLIENT).await;
        let c = root(&bed, "c", true).await;
        // Once a request is answered, the server has the client on its list.
        read(&c, 0, 512).await;
        let e = bed.exports.del("e", None).await.unwrap_err();
        assert_eq!(e.desc(), "export 'e' still in use");
        read(&c, 0, 512).await;
        bed.exports.del("e", Some(api::block_export::BlockExportRemoveMode::Hard)).await.unwrap();
        assert!(bed.exports.query().is_empty());
        assert_eq!(c.read(0, IoBuf::zeroed(512)).await, Err(base::Errno::IO));
        bed.end().await;
    });
}

#[test]
fn a_drained_node_holds_its_clients_requests() {
    rt::block_on(async {
        let bed = Bed::new("drain");
        bed.file("f", 65536);
        bed.add("{'driver':'file','node-name':'f','filename':'@f'}").await;
        bed.listen().await;
        bed.export("'id':'e','node-name':'f','name':'x'").await;
        // The client is another graph, as of another program.
        let other = Bed::new("drain2");
        let text = CLIENT
            .replace('@', &format!("{}/", bed.dir.display()))
            .replace("'export'", "'read-only':true,'export'");
        other.add(&text).await;
        let c = root(&other, "c", false).await;
        let drained = bed.graph.drain_all().await;
        let mut wait = Box::pin(read(&c, 0, 512));
        assert!(rt::timeout(Duration::from_millis(100), &mut wait).await.is_none());
        drop(drained);
        assert_eq!(wait.await.len(), 512);
        other.end().await;
        bed.end().await;
    });
}

#[test]
fn a_lost_connection_comes_back() {
    rt::block_on(async {
        let bed = Bed::new("lost");
        let model = bed.file("f", 65536);
        bed.add("{'driver':'file','node-name':'f','filename':'@f','read-only':true}").await;
        let text =
            CLIENT.replace("'export'", "'read-only':true,'reconnect-delay':10,'open-timeout':10,'export'");
        // The client is another graph, as of another program: an opening holds up other changes of its own.
        let other = Bed::new("lost2");
        let text = text.replace('@', &format!("{}/", bed.dir.display()));
        // Nobody listens yet.
        let adding = async {
            other.add(&text).await;
        };
        let serving = async {
            rt::sleep(Duration::from_millis(120)).await;
            bed.listen().await;
            bed.export("'id':'e','node-name':'f','name':'x'").await;
        };
        let mut adding = Box::pin(adding);
        assert!(rt::timeout(Duration::from_millis(10), &mut adding).await.is_none());
        serving.await;
        // A try may have found the server without its export: that is an answer, not a loss.
        adding.await;
        let c = root(&other, "c", false).await;
        assert!(read(&c, 0, 512).await == model[..512]);
        bed.exports.stop_server().await.unwrap();
        let mut waiting = Box::pin(read(&c, 512, 512));
        assert!(rt::timeout(Duration::from_millis(100), &mut waiting).await.is_none());
        bed.listen().await;
        bed.export("'id':'e','node-name':'f','name':'x'").await;
        assert!(waiting.await == model[512..1024]);
        other.end().await;
        bed.end().await;
    });
}
