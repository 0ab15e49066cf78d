//! A front end that behaves, and some that do not.

#[path = "../../../hw/virtio/tests/common/mod.rs"]
mod guest;

use api::block_core::BlockdevOptions;
use api::block_export::BlockExportOptions;
use block::BlockGraph;
use export::Exports;
use guest::{Guest, RAM_BASE, RAM_SIZE, Ring, wait_for};
use io::{Addr, Stream};
use mem::{AddressSpace, Memory};
use monitor::EventBus;
use qapi::{Value, from_json};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use vhost_user::VhostUserBlk;
use vhost_user::spec::*;
use virtio::spec::feature::{EVENT_IDX, RING_PACKED, VERSION_1};

const LEN: usize = 4 << 20;
/// Where the front end says that it has the machine's memory.
const USER: u64 = 0x7f00_0000_0000;

struct Bed {
    dir: PathBuf,
    graph: Arc<BlockGraph>,
    exports: Arc<Exports>,
}

fn from<T: qapi::Qapi>(text: &str) -> T {
    Value::parse_json(text).and_then(from_json).unwrap_or_else(|e| panic!("{text}: {e}"))
}

impl Drop for Bed {
    fn drop(&mut self) {
        _ = std::fs::remove_dir_all(&self.dir);
    }
}

impl Bed {
    async fn new(name: &str) -> Bed {
        let dir = std::env::temp_dir().join(format!("rhea-vhost-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let drivers = [block_file::DRIVERS, block_formats::DRIVERS].concat();
        let graph = BlockGraph::new(&drivers, EventBus::new());
        let exports = Exports::new(graph.clone(), Arc::new(qom::ObjectTree::new()));
        exports.register(Arc::new(VhostUserBlk));
        let bed = Bed { dir, graph, exports };
        std::fs::write(bed.path("f"), bed.model()).unwrap();
        let node = format!(r#"{{"driver":"file","node-name":"f","filename":"{}"}}"#, bed.path("f"));
        bed.graph.add(from::<BlockdevOptions>(&node)).await.unwrap();
        bed
    }

    fn model(&self) -> Vec<u8> {
        (0..LEN).map(|i| (i / 512 * 7 + i) as u8).collect()
    }

    fn path(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }

    async fn try_export(&self, more: &str) -> Result<(), String> {
        let text = format!("{{'type':'vhost-user-blk','id':'v','node-name':'f',{more}}}");
        let text = text.replace('\'', "\"").replace('@', &self.path("s"));
        self.exports.add(from::<BlockExportOptions>(&text)).await.map_err(|e| e.desc().to_owned())
    }

    async fn export(&self, more: &str) {
        self.try_export(&format!("'addr':{{'type':'unix','path':'@'}}{more}")).await.unwrap();
    }

    async fn end(self) {
        rt::timeout(Duration::from_secs(5), self.exports.close_all()).await.unwrap();
        self.graph.close_all().await;
    }
}

fn eventfd() -> OwnedFd {
    rustix::event::eventfd(0, rustix::event::EventfdFlags::NONBLOCK).unwrap()
}

/// A front end and its machine.
struct Front {
    stream: Stream,
    guest: Guest,
    ram: OwnedFd,
    kick: Vec<OwnedFd>,
    call: Vec<OwnedFd>,
    rings: Vec<Ring>,
    features: u64,
}

fn words(list: &[u32]) -> Vec<u8> {
    list.iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn longs(list: &[u64]) -> Vec<u8> {
    list.iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn number(b: &[u8]) -> u64 {
    u64::from_le_bytes(b.try_into().unwrap())
}

impl Front {
    async fn connect(bed: &Bed) -> Front {
        let ram = rustix::fs::memfd_create("ram", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&ram, RAM_SIZE + 4096).unwrap();
        let memory = Memory::shared("ram", ram.as_fd(), 4096, RAM_SIZE).unwrap();
        let guest = Guest { space: AddressSpace::new("guest"), ram: memory };
        let stream = io::connect(&Addr::Unix(bed.path("s").into())).await.unwrap();
        Front { stream, guest, ram, kick: Vec::new(), call: Vec::new(), rings: Vec::new(), features: 0 }
    }

    async fn send(&self, request: u32, flags: u32, payload: &[u8], fds: &[BorrowedFd<'_>]) {
        let mut m = words(&[request, VERSION | flags, payload.len() as u32]);
        m.extend(payload);
        if fds.is_empty() {
            self.stream.write_all(&m).await.unwrap();
        } else {
            assert_eq!(self.stream.write_with_fds(&m, fds).await.unwrap(), m.len());
        }
    }

    async fn receive(&self, request: u32) -> Vec<u8> {
        let mut h = [0; 12];
        self.stream.read_exact(&mut h).await.unwrap();
        assert_eq!((h[0], h[4]), (request as u8, 5));
        let mut b = vec![0; u32::from_le_bytes([h[8], h[9], h[10], h[11]]) as usize];
        self.stream.read_exact(&mut b).await.unwrap();
        b
    }

    async fn ask(&self, request: u32, payload: &[u8]) -> Vec<u8> {
        self.send(request, 0, payload, &[]).await;
        self.receive(request).await
    }

    /// Says something and waits for the acknowledgement: 0 where it was done.
    async fn tell(&self, request: u32, payload: &[u8], fds: &[BorrowedFd<'_>]) -> u64 {
        self.send(request, FLAG_NEED_REPLY, payload, fds).await;
        number(&self.receive(request).await)
    }

    async fn greet(&mut self, features: u64) {
        let offered = number(&self.ask(GET_FEATURES, &[]).await);
        assert_eq!(features & !offered, 0);
        self.features = features;
        let protocol = number(&self.ask(GET_PROTOCOL_FEATURES, &[]).await);
        assert_ne!(protocol & P_REPLY_ACK, 0);
        self.send(SET_PROTOCOL_FEATURES, 0, &longs(&[protocol]), &[]).await;
        assert_eq!(self.tell(SET_OWNER, &[], &[]).await, 0);
        assert_eq!(self.tell(SET_FEATURES, &longs(&[features | F_PROTOCOL_FEATURES]), &[]).await, 0);
    }

    fn table() -> Vec<u8> {
        // In two regions, as machines with a hole in their memory have them.
        let half = RAM_SIZE / 2;
        let mut t = words(&[2, 0]);
        t.extend(longs(&[RAM_BASE, half, USER, 4096]));
        t.extend(longs(&[RAM_BASE + half, half, USER + (1 << 30), 4096 + half]));
        t
    }

    fn user(gpa: u64) -> u64 {
        let off = gpa - RAM_BASE;
        if off < RAM_SIZE / 2 { USER + off } else { USER + (1 << 30) + off - RAM_SIZE / 2 }
    }

    async fn share(&self) -> u64 {
        self.tell(SET_MEM_TABLE, &Front::table(), &[self.ram.as_fd(), self.ram.as_fd()]).await
    }

    /// Sets up and starts ring `i`, which begins at `position`.
    async fn start_ring(&mut self, i: u32, position: u32) {
        if self.rings.len() == i as usize {
            let base = RAM_BASE + u64::from(i) * (1 << 20);
            self.rings.push(Ring::new(base, 64, self.features));
            self.kick.push(eventfd());
            self.call.push(eventfd());
        }
        let l = self.rings[i as usize].layout;
        assert_eq!(self.tell(SET_VRING_NUM, &words(&[i, l.size.into()]), &[]).await, 0);
        assert_eq!(self.tell(SET_VRING_BASE, &words(&[i, position]), &[]).await, 0);
        let mut addr = words(&[i, 0]);
        addr.extend(longs(&[Front::user(l.desc), Front::user(l.device), Front::user(l.driver), 0]));
        assert_eq!(self.tell(SET_VRING_ADDR, &addr, &[]).await, 0);
        let (kick, call) = (&self.kick[i as usize], &self.call[i as usize]);
        assert_eq!(self.tell(SET_VRING_CALL, &longs(&[i.into()]), &[call.as_fd()]).await, 0);
        assert_eq!(self.tell(SET_VRING_KICK, &longs(&[i.into()]), &[kick.as_fd()]).await, 0);
        assert_eq!(self.tell(SET_VRING_ENABLE, &words(&[i, 1]), &[]).await, 0);
    }

    fn first_position(&self) -> u32 {
        if self.features & RING_PACKED != 0 { 0x8000_8000 } else { 0 }
    }

    /// Makes a request and waits for it: its status and what it read. Runs on a thread of its own, as the machine does.
    fn request(&mut self, i: usize, kind: u32, sector: u64, out: &[u8], len: u32) -> (u8, Vec<u8>) {
        let (g, ring) = (&self.guest, &mut self.rings[i]);
        let at = RAM_BASE + RAM_SIZE / 2 + i as u64 * (1 << 20);
        let mut head = words(&[kind, 0]);
        head.extend(longs(&[sector]));
        g.write(at, &head);
        g.write(at + 4096, out);
        let status = at + 4096 + out.len() as u64 + u64::from(len);
        g.write(status, &[0xff]);
        let mut bufs = vec![(at, 16, false)];
        if !out.is_empty() {
            bufs.push((at + 4096, out.len() as u32, false));
        }
        if len > 0 {
            bufs.push((at + 4096, len, true));
        }
        bufs.push((status, 1, true));
        ring.want_interrupt(g, true);
        let mark = ring.mark();
        ring.add(g, &bufs, sector.is_multiple_of(2)).unwrap();
        if ring.must_kick(g, mark) {
            rustix::io::write(&self.kick[i], &1u64.to_ne_bytes()).unwrap();
        }
        wait_for(|| ring.reap(g));
        // The driver is told, too.
        let mut count = [0; 8];
        wait_for(|| rustix::io::read(&self.call[i], &mut count).ok());
        (g.read(status, 1)[0], g.read(at + 4096, len as usize))
    }
}

const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;
const DISCARD: u32 = 11;
const WRITE_ZEROES: u32 = 13;

async fn a_disk(packed: u64) {
    let bed = Bed::new(if packed == 0 { "split" } else { "packed" }).await;
    bed.export(",'writable':true,'num-queues':2").await;
    let mut model = bed.model();
    let mut f = Front::connect(&bed).await;
    f.greet(VERSION_1 | EVENT_IDX | 1 << 28 | 1 << 9 | packed).await;
    assert_eq!(number(&f.ask(GET_QUEUE_NUM, &[]).await), 2);
    let mut ask = words(&[0, 60, 0]);
    ask.resize(72, 0);
    let config = f.ask(GET_CONFIG, &ask).await;
    assert_eq!((config.len(), number(&config[12..20])), (72, LEN as u64 / 512));
    assert_eq!(f.share().await, 0);
    for i in 0..2 {
        f.start_ring(i, f.first_position()).await;
    }
    let (mut f, model2) = rt::unblock(move || {
        for n in 0..100u64 {
            let (i, sector) = (n as usize % 2, n * 37 % 4096);
            let (status, data) = f.request(i, IN, sector, &[], 4096);
            let at = sector as usize * 512;
            assert!(status == 0 && data == model[at..at + 4096], "{n}");
            let new = vec![n as u8; 1024];
            assert_eq!(f.request(i, OUT, sector, &new, 0).0, 0);
            model[at..at + 1024].copy_from_slice(&new);
        }
        let mut range = longs(&[16]);
        range.extend(words(&[8, 0]));
        assert_eq!(f.request(0, WRITE_ZEROES, 0, &range, 0).0, 0);
        model[16 * 512..24 * 512].fill(0);
        assert_eq!(f.request(1, DISCARD, 0, &range, 0).0, 0);
        assert_eq!(f.request(1, FLUSH, 0, &[], 0).0, 0);
        assert_eq!(&f.request(1, GET_ID, 0, &[], 20).1[..14], b"vhost_user_blk");
        // Behind the end, and no request at all.
        assert_eq!(f.request(0, IN, LEN as u64 / 512, &[], 512).0, 1);
        assert_eq!(f.request(0, 77, 0, &[], 512).0, 2);
        (f, model)
    })
    .await;
    assert!(std::fs::read(bed.path("f")).unwrap() == model2);
    // A ring that is stopped goes on where it was.
    let state = f.ask(GET_VRING_BASE, &words(&[0, 0])).await;
    let position = u32::from_le_bytes(state[4..8].try_into().unwrap());
    assert_eq!(state[..4], [0; 4]);
    f.start_ring(0, position).await;
    // The memory is shared anew meanwhile, in the other way.
    let region = |i: usize| Front::table()[8 + 32 * i..40 + 32 * i].to_vec();
    let single = |i: usize| [vec![0; 8], region(i)].concat();
    assert_eq!(f.share().await, 0);
    assert_eq!(f.tell(REM_MEM_REG, &single(1), &[]).await, 0);
    assert_eq!(f.tell(REM_MEM_REG, &single(1), &[]).await, 1);
    assert_eq!(f.tell(ADD_MEM_REG, &single(1), &[f.ram.as_fd()]).await, 0);
    let f = rt::unblock(move || {
        let (status, data) = f.request(0, IN, 0, &[], 8192);
        assert!(status == 0 && data == model2[..8192]);
        f
    })
    .await;
    // The disk grows: the machine is told.
    let (ours, theirs) = Stream::pair().unwrap();
    let fd = theirs.fd().unwrap().try_clone_to_owned().unwrap();
    assert_eq!(f.tell(SET_BACKEND_REQ_FD, &[], &[fd.as_fd()]).await, 0);
    bed.graph.resize("", "f", LEN as u64 * 2, Default::default()).await.unwrap();
    let mut m = [0; 12];
    ours.read_exact(&mut m).await.unwrap();
    assert_eq!(m[..8], words(&[BACKEND_CONFIG_CHANGE_MSG, VERSION])[..]);
    let config = f.ask(GET_CONFIG, &ask).await;
    assert_eq!(number(&config[12..20]), LEN as u64 / 256);
    f.stream.shutdown();
    // Another front end may come.
    let g = Front::connect(&bed).await;
    assert_ne!(number(&g.ask(GET_FEATURES, &[]).await), 0);
    rt::timeout(Duration::from_secs(5), bed.exports.del("v", None)).await.unwrap().unwrap();
    assert!(bed.exports.query().is_empty());
    assert!(io::connect(&Addr::Unix(bed.path("s").into())).await.is_err());
    bed.end().await;
}

#[test]
fn a_disk_over_split_rings() {
    rt::block_on(a_disk(0));
}

#[test]
fn a_disk_over_packed_rings() {
    rt::block_on(a_disk(RING_PACKED));
}

#[test]
fn a_read_only_disk_stays_as_it_is() {
    rt::block_on(async {
        let bed = Bed::new("ro").await;
        bed.export("").await;
        let mut f = Front::connect(&bed).await;
        assert_ne!(number(&f.ask(GET_FEATURES, &[]).await) & 1 << 5, 0);
        f.greet(VERSION_1 | EVENT_IDX | 1 << 28).await;
        assert_eq!(f.share().await, 0);
        f.start_ring(0, 0).await;
        let mut f = rt::unblock(move || {
            assert_eq!(f.request(0, OUT, 0, &[9; 512], 0).0, 1);
            let mut range = longs(&[0]);
            range.extend(words(&[8, 0]));
            assert_eq!(f.request(0, DISCARD, 0, &range, 0).0, 1);
            assert_eq!(f.request(0, WRITE_ZEROES, 0, &range, 0).0, 1);
            f
        })
        .await;
        assert!(std::fs::read(bed.path("f")).unwrap() == bed.model());
        // A ring that makes no sense stops; the session goes on.
        let l = f.rings[0].layout;
        f.guest.store16(l.driver + 2, 0x7000);
        rustix::io::write(&f.kick[0], &1u64.to_ne_bytes()).unwrap();
        rt::sleep(Duration::from_millis(20)).await;
        let state = f.ask(GET_VRING_BASE, &words(&[0, 0])).await;
        assert_eq!(state.len(), 8);
        f.guest.ram.fill(0, 1 << 20, 0);
        f.rings.clear();
        f.start_ring(0, 0).await;
        rt::unblock(move || assert_eq!(f.request(0, IN, 0, &[], 512).0, 0)).await;
        bed.end().await;
    });
}

#[test]
fn what_the_command_says() {
    rt::block_on(async {
        let bed = Bed::new("texts").await;
        let add = async |o: &str| bed.try_export(o).await.unwrap_err();
        let unix = "'addr':{'type':'unix','path':'@'}";
        assert_eq!(add(&format!("{unix},'num-queues':0")).await, "num-queues must be greater than 0");
        assert_eq!(
            add(&format!("{unix},'logical-block-size':100")).await,
            "parameter logical-block-size must be a power of 2 between 512 and 2097152"
        );
        assert_eq!(
            add("'addr':{'type':'inet','host':'h','port':'1'}").await,
            "Only socket address types 'unix' and 'fd' are supported"
        );
        let e = add("'addr':{'type':'unix','path':'/nonexistent/s'}").await;
        assert_eq!(e, "Failed to bind socket to /nonexistent/s: No such file or directory");
        // What fails leaves nothing behind.
        let twice = format!("{unix},'iothread':'none'");
        assert_eq!(add(&twice).await, "iothread \"none\" not found");
        bed.export("").await;
        assert_eq!(add(unix).await, "Block export id 'v' is already in use");
        bed.end().await;
    });
}

/// The memory that this process has, KiB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let rss = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap();
    rss.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn front_ends_that_do_not_behave() {
    rt::block_on(async {
        let bed = Bed::new("bad").await;
        bed.export(",'writable':true").await;
        let mut state = 0x9e37_79b9u32;
        let mut byte = move || {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state
        };
        // Of front ends that only connect there may be any number: they wait for their turn.
        let mut silent = Vec::new();
        let before = resident();
        for round in 0..300 {
            let mut f = Front::connect(&bed).await;
            if round % 3 > 0 {
                f.greet(VERSION_1 | EVENT_IDX | 1 << 28).await;
            }
            if round % 3 > 1 {
                assert_eq!(f.share().await, 0);
                f.start_ring(0, 0).await;
            }
            for _ in 0..8 {
                // Requests that there are and that there are not, with payloads of right and wrong lengths.
                let len = [0, 4, 8, 12, 40, 72, 200][byte() as usize % 7];
                let payload: Vec<u8> = (0..len)
                    .map(|_| if byte() % 3 == 0 { byte() as u8 } else { (byte() % 3) as u8 })
                    .collect();
                let mut m = words(&[byte() % 42, 1 | (byte() % 16), len]);
                m.extend(payload);
                let fd = f.ram.as_fd();
                let sent = match byte() % 3 {
                    0 => f.stream.write_with_fds(&m, &[fd]).await.map(drop),
                    1 => f.stream.write_with_fds(&m, &[fd, fd]).await.map(drop),
                    _ => f.stream.write_all(&m).await,
                };
                if sent.is_err() {
                    break;
                }
            }
            f.stream.shutdown();
        }
        for _ in 0..100 {
            let addr = Addr::Unix(bed.path("s").into());
            let stream = io::connect(&addr);
            silent.extend(rt::timeout(Duration::from_millis(20), stream).await.and_then(Result::ok));
        }
        let now = resident();
        assert!(now < before + (100 << 10), "{before} KiB, then {now} KiB");
        drop(silent);
        // A file cannot be a ring's way to notify: it might never answer.
        let mut f = Front::connect(&bed).await;
        f.greet(VERSION_1 | EVENT_IDX).await;
        for request in [SET_VRING_KICK, SET_VRING_CALL, SET_VRING_ERR] {
            assert_eq!(f.tell(request, &longs(&[0]), &[f.ram.as_fd()]).await, 1);
        }
        drop(f);
        // All that was for nothing: the next one is served.
        let mut f = Front::connect(&bed).await;
        rt::timeout(Duration::from_secs(5), f.greet(VERSION_1 | 1 << 28)).await.unwrap();
        assert_eq!(f.share().await, 0);
        f.start_ring(0, 0).await;
        rt::unblock(move || assert_eq!(f.request(0, IN, 0, &[], 512).0, 0)).await;
        bed.end().await;
    });
}
