//! `quorum` in a graph: who is outvoted, what is told of it, and what children may come and go.

use api::block_core::BlockdevOptions;
use base::Errno;
use block::driver::{WriteFlags, ZeroFlags};
use block::testing::{Shape, ZONED, ZonedDevice};
use block::zoned::ZoneModel;
use block::{BlockGraph, Perm, Root, RootConfig};
use mem::IoBuf;
use monitor::{EventBus, EventStream};
use qapi::{Value, from_json};
use std::path::PathBuf;
use std::sync::Arc;

const LEN: usize = 256 << 10;

struct Bed {
    dir: PathBuf,
    graph: Arc<BlockGraph>,
    events: EventStream,
}

impl Drop for Bed {
    fn drop(&mut self) {
        _ = std::fs::remove_dir_all(&self.dir);
    }
}

impl Bed {
    /// Files `0` to `3` of the same bytes.
    fn new(name: &str) -> Bed {
        let dir = std::env::temp_dir().join(format!("rhea-quorum-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        for i in 0..4 {
            std::fs::write(dir.join(i.to_string()), vec![7; LEN]).unwrap();
        }
        let bus = EventBus::new();
        let events = bus.listen(1000);
        let drivers =
            [block_file::DRIVERS, block_formats::DRIVERS, block_test::DRIVERS, block_quorum::DRIVERS]
                .concat();
        Bed { dir, graph: BlockGraph::new(&drivers, bus), events }
    }

    async fn add(&self, options: &str) -> Result<(), String> {
        let text = options.replace('@', &format!("{}/", self.dir.display())).replace('\'', "\"");
        let options: BlockdevOptions =
            Value::parse_json(&text).and_then(from_json).unwrap_or_else(|e| panic!("{text}: {e}"));
        self.graph.add(options).await.map_err(|e| e.desc().to_owned())
    }

    /// Nodes `n0`, `n1`, … that fail by these rules, and the quorum `q` of them.
    async fn quorum(&self, rules: &[&str], more: &str) -> Arc<Root> {
        let mut names = Vec::new();
        for (i, r) in rules.iter().enumerate() {
            let file = format!("{{'driver':'file','filename':'@{i}'}}");
            let o = format!("{{'driver':'blkdebug','node-name':'n{i}','image':{file},'inject-error':[{r}]}}");
            self.add(&o).await.unwrap();
            names.push(format!("'n{i}'"));
        }
        let children = names.join(",");
        self.add(&format!("{{'driver':'quorum','node-name':'q','children':[{children}],{more}}}"))
            .await
            .unwrap();
        self.root("q", Perm::CONSISTENT_READ | Perm::WRITE).await
    }

    async fn root(&self, node: &str, perm: Perm) -> Arc<Root> {
        self.graph.attach(node, RootConfig { perm, shared: Perm::all(), ..Default::default() }).await.unwrap()
    }

    /// What was told since the last call.
    fn told(&mut self) -> Vec<String> {
        let mut all = Vec::new();
        while let Some(e) = self.events.try_next() {
            let v = e.to_value();
            let d = v.get("data").unwrap();
            let text = |k: &str| d.get(k).and_then(Value::as_str).unwrap_or("-").to_owned();
            let number = |k: &str| d.get(k).map_or(String::new(), Value::to_json);
            let at = format!("{}+{}", number("sector-num"), number("sectors-count"));
            all.push(match v.get("event").and_then(Value::as_str) {
                Some("QUORUM_REPORT_BAD") => {
                    format!("{} {} {at} {}", text("node-name"), text("type"), text("error"))
                }
                Some("QUORUM_FAILURE") => format!("{} fails {at}", text("reference")),
                other => panic!("{other:?}"),
            });
        }
        all
    }

    fn damage(&self, file: usize, at: usize, byte: u8) {
        use std::os::unix::fs::FileExt;
        let f = std::fs::File::options().write(true).open(self.dir.join(file.to_string())).unwrap();
        f.write_all_at(&[byte], at as u64).unwrap();
    }

    fn byte(&self, file: usize, at: usize) -> u8 {
        std::fs::read(self.dir.join(file.to_string())).unwrap()[at]
    }
}

fn buf(byte: u8, len: usize) -> IoBuf {
    let b = IoBuf::zeroed(len);
    b.fill(byte);
    b
}

async fn read(r: &Root, at: u64, len: usize) -> Result<Vec<u8>, Errno> {
    let b = buf(0xee, len);
    r.read(at, b.clone()).await.map(|()| b.to_vec())
}

fn rule(io: &str, errno: i32, sector: u64) -> String {
    format!("{{'event':'none','iotype':'{io}','errno':{errno},'sector':{sector}}}")
}

#[test]
fn a_lie_is_outvoted() {
    rt::block_on(async {
        let mut bed = Bed::new("lie");
        let r = bed.quorum(&["", "", ""], "'vote-threshold':2").await;
        bed.damage(1, 30_001, 9);
        assert_eq!(read(&r, 29_999, 4).await, Ok(vec![7; 4]));
        assert_eq!(bed.told(), ["n1 read 58+1 -"]);
        // Nobody has repaired it.
        assert_eq!(bed.byte(1, 30_001), 9);
        bed.damage(2, 30_001, 8);
        assert_eq!(read(&r, 0, 29_999).await, Ok(vec![7; 29_999]));
        assert_eq!(bed.told(), [""; 0]);
        assert_eq!(read(&r, 29_000, 4096).await, Err(Errno::IO));
        assert_eq!(bed.told(), ["q fails 56+9"]);
        r.detach().await;
    });
}

#[test]
fn errors_are_counted() {
    rt::block_on(async {
        let mut bed = Bed::new("errors");
        let n0 =
            [rule("read", 5, 32), rule("read", 28, 40), rule("write", 28, 8), rule("write", 5, 24)].join(",");
        let n1 = [rule("read", 5, 40), rule("write", 28, 24), rule("write-zeroes", 28, 400)].join(",");
        let r = bed.quorum(&[&n0, &n1, ""], "'vote-threshold':2").await;
        assert_eq!(read(&r, 16 << 10, 512).await, Ok(vec![7; 512]));
        assert_eq!(bed.told(), ["n0 read 32+1 Input/output error"]);
        assert_eq!(read(&r, 20 << 10, 512).await, Err(Errno::IO));
        // n0 was told of within the last second.
        assert_eq!(bed.told(), ["n1 read 40+1 Input/output error", "q fails 40+1"]);
        r.detach().await;
    });
    rt::block_on(async {
        let mut bed = Bed::new("write-errors");
        let n0 = [rule("write", 28, 8), rule("write", 5, 24)].join(",");
        let n1 = [rule("write", 28, 24), rule("write-zeroes", 28, 400)].join(",");
        let r = bed.quorum(&[&n0, &n1, ""], "'vote-threshold':2").await;
        let w = |at, n| r.write(at, buf(1, n), WriteFlags::empty());
        assert_eq!(w(4096, 512).await, Ok(()));
        assert_eq!(bed.told(), ["n0 write 8+1 No space left on device"]);
        assert_eq!(r.write_zeroes(200 << 10, 512, ZeroFlags::empty()).await, Ok(()));
        assert_eq!(bed.told(), ["n1 write 400+1 No space left on device"]);
        // Of two different errors the last one.
        assert_eq!(w(12 << 10, 512).await, Err(Errno::NOSPC));
        assert_eq!(bed.told(), ["q fails 24+1"]);
        // The child without errors has all.
        assert_eq!((bed.byte(2, 4096), bed.byte(2, 200 << 10), bed.byte(2, 12 << 10)), (1, 0, 1));
        assert_eq!((bed.byte(0, 4096), bed.byte(1, 200 << 10)), (7, 7));
        r.detach().await;
    });
}

#[test]
fn a_flush_is_voted_on_too() {
    rt::block_on(async {
        let fails = |n| format!("{{'event':'none','iotype':'flush','errno':{n}}}");
        let mut bed = Bed::new("flush");
        let r = bed.quorum(&[&fails(5), "", ""], "'vote-threshold':2").await;
        r.write(0, buf(1, 512), WriteFlags::FUA).await.unwrap();
        assert_eq!(bed.told(), ["n0 flush 0+0 Input/output error"]);
        r.detach().await;
        let mut bed = Bed::new("flush2");
        let r = bed.quorum(&[&fails(28), &fails(5), &fails(1)], "'vote-threshold':2").await;
        r.write(0, buf(1, 512), WriteFlags::empty()).await.unwrap();
        assert_eq!(bed.told(), [""; 0]);
        assert_eq!(r.flush().await, Err(Errno::PERM));
        let told = bed.told();
        assert_eq!(told[0], "n0 flush 0+0 No space left on device");
        assert_eq!(told.len(), 3, "{told:?}");
        r.detach().await;
    });
}

#[test]
fn one_after_the_other() {
    rt::block_on(async {
        let mut bed = Bed::new("fifo");
        let n0 = [rule("read", 5, 32), rule("read", 28, 40)].join(",");
        let n1 = [rule("read", 1, 40), rule("read", 1, 48)].join(",");
        let r = bed.quorum(&[&n0, &n1], "'vote-threshold':2,'read-pattern':'fifo'").await;
        bed.damage(0, 100, 9);
        assert_eq!(read(&r, 100, 1).await, Ok(vec![9]), "the first is asked, whatever the second says");
        assert_eq!(read(&r, 24 << 10, 512).await, Ok(vec![7; 512]));
        assert_eq!(bed.told(), [""; 0]);
        assert_eq!(read(&r, 16 << 10, 512).await, Ok(vec![7; 512]));
        assert_eq!(bed.told(), ["n0 read 32+1 Input/output error"]);
        assert_eq!(read(&r, 20 << 10, 512).await, Err(Errno::PERM));
        assert_eq!(bed.told(), ["n1 read 40+1 Operation not permitted"]);
        r.detach().await;
    });
}

#[test]
fn what_is_wrong_is_written_anew() {
    rt::block_on(async {
        let mut bed = Bed::new("rewrite");
        let r = bed.quorum(&["", "", ""], "'vote-threshold':2,'rewrite-corrupted':true").await;
        bed.damage(2, 70_000, 9);
        bed.damage(2, 70_003, 9);
        assert_eq!(read(&r, 69_999, 3).await, Ok(vec![7; 3]));
        assert_eq!(bed.told(), ["n2 read 136+1 -"]);
        assert_eq!((bed.byte(2, 70_000), bed.byte(2, 70_003)), (7, 9), "what was read is right now");
        assert_eq!(read(&r, 69_999, 3).await, Ok(vec![7; 3]));
        assert_eq!(bed.told(), [""; 0]);
        // Where no majority is, nothing is written.
        bed.damage(0, 5000, 1);
        bed.damage(1, 5000, 2);
        assert_eq!(read(&r, 5000, 1).await, Err(Errno::IO));
        assert_eq!((bed.byte(0, 5000), bed.byte(1, 5000), bed.byte(2, 5000)), (1, 2, 7));
        r.detach().await;
    });
}

#[test]
fn any_difference_fails_where_two_are_compared() {
    rt::block_on(async {
        let mut bed = Bed::new("verify");
        let r = bed.quorum(&["", ""], "'vote-threshold':2,'blkverify':true").await;
        assert_eq!(read(&r, 0, LEN).await, Ok(vec![7; LEN]));
        bed.damage(1, 70_000, 9);
        assert_eq!(read(&r, 0, 512).await, Ok(vec![7; 512]));
        assert_eq!(read(&r, 70_000, 512).await, Err(Errno::IO));
        assert_eq!(bed.told(), ["q fails 136+2"]);
        r.detach().await;
    });
}

#[test]
fn zero_is_what_all_say_is_zero() {
    rt::block_on(async {
        let bed = Bed::new("status");
        for (i, data) in [(0, 0..64), (1, 128..192), (2, 0..0)] {
            let f = std::fs::File::create(bed.dir.join(i.to_string())).unwrap();
            f.set_len(LEN as u64).unwrap();
            let bytes = vec![7; (data.end - data.start) << 10];
            std::os::unix::fs::FileExt::write_all_at(&f, &bytes, data.start as u64 * 1024).unwrap();
        }
        let r = bed.quorum(&["", "", ""], "'vote-threshold':2").await;
        let mut at = 0;
        let mut seen = Vec::new();
        while at < LEN as u64 {
            let st = r.map(at, LEN as u64 - at).await.unwrap();
            assert!(st.allocated && st.offset.is_none());
            seen.push((at >> 10, st.data));
            at += st.len;
        }
        assert_eq!(seen, [(0, true), (64, false), (128, true), (192, false)]);
        r.detach().await;
    });
}

/// Overlapping writes from many sides leave all children the same, and votes never fail meanwhile.
#[test]
fn children_never_differ() {
    rt::block_on(async {
        let mut bed = Bed::new("races");
        let r = bed.quorum(&["", "", ""], "'vote-threshold':3").await;
        let mut tasks = Vec::new();
        for i in 0..64u64 {
            let r = r.clone();
            tasks.push(rt::spawn_local(async move {
                for n in 0..8 {
                    let at = (i * 7919 + n * 104_729) % 8192;
                    let len = 512 + (i as usize * 613) % 8192;
                    if (i + n) % 3 == 0 {
                        r.read(at, buf(0, len)).await.unwrap();
                    } else {
                        r.write(at, buf(i as u8, len), WriteFlags::empty()).await.unwrap();
                    }
                }
            }));
        }
        for t in tasks {
            t.await;
        }
        assert_eq!(bed.told(), [""; 0]);
        r.flush().await.unwrap();
        let all: Vec<_> = (0..3).map(|i| std::fs::read(bed.dir.join(i.to_string())).unwrap()).collect();
        assert!(all[0] == all[1] && all[1] == all[2]);
        assert!(all[0][..8192].iter().any(|b| *b != 7));
        r.detach().await;
    });
}

/// Children come and go under requests; none is lost, and a new one takes part from then on.
#[test]
fn children_come_and_go_under_load() {
    rt::block_on(async {
        let mut bed = Bed::new("change");
        let r = bed.quorum(&["", "", ""], "'vote-threshold':2").await;
        bed.add("{'driver':'file','node-name':'n3','filename':'@3'}").await.unwrap();
        let stop = std::rc::Rc::new(std::cell::Cell::new(false));
        let (s, w) = (stop.clone(), r.clone());
        let writer = rt::spawn_local(async move {
            let mut n = 0u8;
            while !s.get() {
                n = n.wrapping_add(1);
                let at = u64::from(n) * 512;
                w.write(at, buf(n, 512), WriteFlags::empty()).await.unwrap();
                assert_eq!(read(&w, at, 512).await, Ok(vec![n; 512]));
            }
        });
        for _ in 0..20 {
            bed.graph.change_children("q", None, Some("n3")).await.unwrap();
            rt::yield_now().await;
            bed.graph.change_children("q", Some("children.3"), None).await.unwrap();
        }
        stop.set(true);
        writer.await;
        // It was away at times, so it may have missed some.
        bed.graph.change_children("q", None, Some("n3")).await.unwrap();
        bed.graph.change_children("q", Some("children.0"), None).await.unwrap();
        drop(bed.told());
        r.write(200 << 10, buf(99, 512), WriteFlags::FUA).await.unwrap();
        assert_eq!((bed.byte(0, 200 << 10), bed.byte(1, 200 << 10), bed.byte(3, 200 << 10)), (7, 99, 99));
        r.detach().await;
        let q = bed.graph.snapshot();
        let names: Vec<_> = q.by_name("q").unwrap().edges.iter().map(|e| e.name).collect();
        assert_eq!(names, ["children.1", "children.2", "children.3"]);
    });
}

#[test]
fn the_name_says_what_it_is_made_of() {
    rt::block_on(async {
        let bed = Bed::new("name");
        let children: Vec<String> =
            (0..12).map(|i| format!("{{'driver':'null-co','size':{},'node-name':'c{i}'}}", 4096)).collect();
        let all = children.join(",");
        bed.add(&format!("{{'driver':'quorum','node-name':'q','vote-threshold':2,'children':[{all}]}}"))
            .await
            .unwrap();
        let name = bed.graph.image_info("q").unwrap().base.filename;
        let v = Value::parse_json(name.strip_prefix("json:").unwrap()).unwrap();
        assert_eq!(v.get("vote-threshold"), Some(&Value::from(2)));
        assert!(matches!(v.get("children"), Some(Value::List(l)) if l.len() == 12), "{name}");
        bed.graph.change_children("q", Some("children.11"), None).await.unwrap();
        bed.graph.change_children("q", Some("children.3"), None).await.unwrap();
        let name = bed.graph.image_info("q").unwrap().base.filename;
        let v = Value::parse_json(name.strip_prefix("json:").unwrap()).unwrap();
        assert!(matches!(v.get("children"), Some(Value::List(l)) if l.len() == 10), "{name}");
    });
}

#[test]
fn what_is_written_in_zones_is_no_child() {
    rt::block_on(async {
        let device = ZonedDevice::new("quorum-zoned", Shape::SMALL);
        let aware = ZonedDevice::new("quorum-aware", Shape { model: ZoneModel::HostAware, ..Shape::SMALL });
        let drivers = [block_formats::DRIVERS, block_quorum::DRIVERS, &[&ZONED]].concat();
        let graph = BlockGraph::new(&drivers, EventBus::new());
        let add = |text: &str| {
            let graph = graph.clone();
            let options = Value::parse_json(&text.replace('\'', "\"")).and_then(from_json).unwrap();
            async move { graph.add(options).await.unwrap() }
        };
        for name in ["zoned", "aware"] {
            add(&format!("{{'driver':'host_device','node-name':'{name}','filename':'quorum-{name}'}}")).await;
        }
        add("{'driver':'raw','node-name':'over','file':'zoned'}").await;
        let null = "{'driver':'null-co','size':524288}";
        add(&format!("{{'driver':'quorum','node-name':'q','vote-threshold':1,'children':[{null}]}}")).await;
        add(&format!("{{'driver':'raw','node-name':'r','file':{null}}}")).await;
        let change = async |parent, node| {
            graph.change_children(parent, None, Some(node)).await.map_err(|e| e.desc().to_owned())
        };
        let no = "Cannot add a zoned child to a not support zoned children parent";
        assert_eq!(change("q", "over").await.unwrap_err(), no);
        // Before it is said that somebody has it, but not before that nothing can be added.
        assert_eq!(change("q", "zoned").await.unwrap_err(), no);
        assert_eq!(change("r", "zoned").await.unwrap_err(), "The node r does not support adding a child");
        // One that only would rather be written in order is like any other.
        change("q", "aware").await.unwrap();
        graph.close_all().await;
        drop((device, aware));
    });
}
