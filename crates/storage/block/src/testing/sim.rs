//! Random graphs, requests, reopens, drains, cancellation and faults, from one seed.

use super::disk::{Faults, World};
use super::model::{Below, Image, Model, agrees};
use crate::control::BlockGraph;
use crate::driver::{DriverType, Limits, WriteFlags, ZeroFlags};
use crate::perm::Perm;
use crate::root::{Root, RootConfig};
use api::block_core::{BlockdevDriverOptions, BlockdevOptions, BlockdevQcow2Encryption};
use api::crypto::QCryptoBlockOptionsLUKS;
use mem::IoBuf;
use monitor::EventBus;
use qapi::{Value, from_json};
use rt::sim::{Sim, rng};
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// The copy-on-write format that is to be tried.
#[derive(Clone)]
pub struct SimFormat {
    /// All drivers, among them `file` and `raw`.
    pub drivers: Vec<&'static DriverType>,
    /// Makes an image: world, file name, size in bytes, backing file's name.
    pub create: fn(&World, &str, u64, Option<&str>),
    /// The unit of allocation, bytes.
    pub cluster: u64,
    /// Whether what was flushed must be there after a crash.
    pub crash: bool,
    /// Whether the images are encrypted: with the password [`PASSWORD`].
    pub encrypted: bool,
}

/// The password of encrypted images.
pub const PASSWORD: &str = "pw";

impl SimFormat {
    /// An empty graph with what its nodes need.
    fn graph(&self) -> Arc<BlockGraph> {
        let graph = BlockGraph::new(&self.drivers, EventBus::new());
        if self.encrypted {
            let objects = qom::ObjectTree::new();
            let text = format!("{{'qom-type':'secret','id':'s','data':'{PASSWORD}'}}");
            let secret = Value::parse_json(&text).and_then(from_json).expect("a secret");
            objects.add(&secret).expect("a new object");
            graph.set_objects(Arc::new(objects));
        }
        graph
    }

    /// [`options`] of an image.
    fn image(&self, text: &str) -> BlockdevOptions {
        let mut o = options(text);
        if let (true, BlockdevDriverOptions::Qcow2(q)) = (self.encrypted, &mut o.driver) {
            let key = QCryptoBlockOptionsLUKS { key_secret: Some("s".into()) };
            q.encrypt = Some(BlockdevQcow2Encryption::Luks(key));
        }
        o
    }
}

/// Parses options written as JSON with single quotes.
fn options(text: &str) -> BlockdevOptions {
    let value = Value::parse_json(text).and_then(from_json);
    value.unwrap_or_else(|e| panic!("{text}: {e}"))
}

const TOP: usize = 1;
const MID: usize = 0;

struct State {
    format: SimFormat,
    world: Arc<World>,
    graph: Arc<BlockGraph>,
    root: Arc<Root>,
    size: u64,
    model: RefCell<Model>,
    /// Ranges with a write in the air or given up; nobody else may touch them.
    busy: RefCell<Vec<(u64, u64, u64)>>,
    /// Those of them that were given up: they are free after a drain.
    given_up: RefCell<Vec<u64>>,
    /// Reads in the air, and what they may see.
    reads: RefCell<Vec<(u64, u64, u64, Vec<Vec<u16>>)>>,
    next: RefCell<u64>,
    faulty: RefCell<bool>,
    stop: RefCell<bool>,
    inline_file: bool,
}

impl State {
    fn id(&self) -> u64 {
        *self.next.borrow_mut() += 1;
        *self.next.borrow()
    }

    fn range(&self) -> (u64, u64) {
        let r = rng();
        let unit = [1, 512, 512, 4096][r.below(4) as usize];
        let off = r.below(self.size / unit) * unit;
        let max = (self.size - off).min([unit * 4, 9000, 70_000][r.below(3) as usize]);
        (off, 1 + r.below(max))
    }

    /// Takes a range that nobody writes to.
    fn take(&self, off: u64, len: u64) -> Option<u64> {
        if self.busy.borrow().iter().any(|(_, o, l)| *o < off + len && off < o + l) {
            return None;
        }
        let read = |(_, o, l, _): &(u64, u64, u64, Vec<Vec<u16>>)| *o < off + len && off < o + l;
        if self.reads.borrow().iter().any(read) {
            return None;
        }
        let id = self.id();
        self.busy.borrow_mut().push((id, off, len));
        Some(id)
    }

    fn release(&self, id: u64) {
        self.busy.borrow_mut().retain(|b| b.0 != id);
    }
}

async fn read(s: &Rc<State>, off: u64, len: u64) {
    if s.busy.borrow().iter().any(|(_, o, l)| *o < off + len && off < o + l) {
        return;
    }
    let id = s.id();
    let now = s.model.borrow_mut().allowed(TOP, off, len);
    s.reads.borrow_mut().push((id, off, len, now));
    // Odd places in memory, too.
    let odd = rng().below(3) as usize;
    let whole = IoBuf::zeroed(len as usize + 4);
    whole.fill(0xAA);
    let buf = whole.slice(odd..odd + len as usize);
    let done = s.root.read(off, buf.clone()).await;
    let at = s.reads.borrow().iter().position(|r| r.0 == id).expect("the read is listed");
    let (_, _, _, allowed) = s.reads.borrow_mut().remove(at);
    match done {
        Ok(()) => {
            let got = buf.to_vec();
            if let Err(k) = agrees(&got, &allowed) {
                let want: Vec<u16> = allowed.iter().map(|a| a[k]).collect();
                panic!("read of {len} at {off}: byte {} is {}, not one of {want:?}", off + k as u64, got[k]);
            }
        }
        Err(e) => assert!(*s.faulty.borrow(), "read of {len} at {off} failed without reason: {e}"),
    }
}

async fn change(s: &Rc<State>, off: u64, len: u64) {
    let Some(id) = s.take(off, len) else { return };
    let before = s.model.borrow().around(TOP, off, len);
    let kind = rng().below(10);
    let mut data = vec![0; len as usize];
    if kind < 7 {
        rng().fill(&mut data);
    }
    let root = s.root.clone();
    let (buf, unmap) = (IoBuf::from_bytes(&data), rng().chance(1, 2));
    let request = async move {
        match kind {
            0..7 => {
                let fua = if unmap { WriteFlags::FUA } else { WriteFlags::empty() };
                root.write(off, buf, fua).await
            }
            7 | 8 => {
                let flags = if unmap { ZeroFlags::MAY_UNMAP } else { ZeroFlags::empty() };
                root.write_zeroes(off, len, flags).await
            }
            _ => root.discard(off, len).await,
        }
    };
    let patience = if rng().chance(1, 8) { rng().below(1500) } else { 10_000_000 };
    let done = rt::timeout(Duration::from_micros(patience), request).await;
    let mut model = s.model.borrow_mut();
    match done {
        Some(Ok(())) if kind < 7 => model.wrote(TOP, off, &data, &before),
        Some(Ok(())) if kind < 9 => model.zeroed(TOP, off, len, &before, unmap),
        Some(Ok(())) => model.spoiled(TOP, off, len, &before, true),
        Some(Err(e)) => {
            assert!(*s.faulty.borrow(), "write of {len} at {off} failed without reason: {e}");
            model.spoiled(TOP, off, len, &before, kind == 9);
        }
        None => {
            // Given up; it goes on behind our back, so the range is nobody's until a drain.
            model.spoiled(TOP, off, len, &before, true);
            s.given_up.borrow_mut().push(id);
            return;
        }
    }
    drop(model);
    s.release(id);
}

async fn worker(s: Rc<State>) {
    while !*s.stop.borrow() {
        let (off, len) = s.range();
        match rng().below(10) {
            0..4 => read(&s, off, len).await,
            4..9 => change(&s, off, len).await,
            _ => {
                let done = s.root.flush().await;
                assert!(done.is_ok() || *s.faulty.borrow(), "flush failed without reason: {done:?}");
            }
        }
        if rng().chance(1, 3) {
            rt::sleep(Duration::from_micros(rng().below(500))).await;
        }
    }
}

const BELOW: [(&str, Below); 5] = [
    ("'b0'", Below::Flat(0)),
    ("'b1'", Below::Flat(1)),
    ("'b2'", Below::Flat(2)),
    ("'mid'", Below::Image(MID)),
    ("null", Below::Nothing),
];

fn top(s: &State, backing: &str, more: &str) -> String {
    let file = if s.inline_file && rng().chance(1, 2) {
        "{'driver':'file','node-name':'top-file','filename':'top.img'}"
    } else {
        "'top-file'"
    };
    format!(
        "{{'driver':'qcow2','node-name':'top','discard':'unmap','file':{file},'backing':{backing}{more}}}"
    )
}

fn mid(backing: &str) -> String {
    format!("{{'driver':'qcow2','node-name':'mid','read-only':true,'file':'mid-file','backing':{backing}}}")
}

async fn reopen(s: &Rc<State>) {
    let (text, below) = BELOW[rng().below(5) as usize];
    let (mtext, mbelow) = BELOW[[0, 1, 2, 4][rng().below(4) as usize]];
    let more = ["", ",'cache':{'direct':true}", ",'lazy-refcounts':false"][rng().below(3) as usize];
    let both = rng().chance(1, 3);
    // Some lists cannot work; nothing of them may happen.
    let bad = match rng().below(8) {
        0 if text == "'mid'" && !both => Some(mid("'top'")),
        1 => Some("{'driver':'raw','node-name':'b1','read-only':true,'file':'nobody'}".into()),
        2 => Some("{'driver':'file','node-name':'top-file','filename':'other.img'}".into()),
        3 => Some("{'driver':'raw','node-name':'nobody','file':'b0'}".into()),
        _ => None,
    };
    let mut list = vec![s.format.image(&top(s, text, more))];
    if both {
        list.push(s.format.image(&mid(mtext)));
    }
    if let Some(b) = &bad {
        list.push(s.format.image(b));
    }
    if rng().chance(1, 2) {
        list.reverse();
    }
    let before = s.graph.describe();
    let mut pending: Vec<Below> = s.model.borrow().images.iter().map(|i| i.below).collect();
    pending[TOP] = below;
    if both {
        pending[MID] = mbelow;
    }
    s.model.borrow_mut().pending = Some(pending);
    for (_, off, len, allowed) in s.reads.borrow_mut().iter_mut() {
        *allowed = [std::mem::take(allowed), s.model.borrow_mut().allowed(TOP, *off, *len)].concat();
    }
    let done = s.graph.reopen(list).await;
    s.model.borrow_mut().settle(done.is_ok());
    match done {
        Ok(()) => assert!(bad.is_none(), "{bad:?} went well"),
        Err(e) => {
            assert!(bad.is_some() || *s.faulty.borrow(), "reopen failed without reason: {e}");
            assert_eq!(s.graph.describe(), before, "a failed reopen ({e}) left traces");
        }
    }
    assert_eq!(s.world.staged(), 0, "staged changes are left over");
}

async fn drain(s: &Rc<State>) {
    let given_up: Vec<u64> = std::mem::take(&mut s.given_up.borrow_mut());
    let drained = s.graph.drain_all().await;
    assert_eq!(s.root.in_flight(), 0, "requests in flight in a drained section");
    rt::sleep(Duration::from_micros(rng().below(3000))).await;
    assert_eq!(s.root.in_flight(), 0, "a request began in a drained section");
    drop(drained);
    for id in given_up {
        s.release(id);
    }
}

fn set_faults(s: &State, on: bool) {
    let faults = if on {
        Faults { read: 10, write: 20, space: 10, flush: 50, stage: 60, delay: 700 }
    } else {
        Faults { delay: 500, ..Faults::default() }
    };
    s.world.set_faults(faults);
    if on {
        *s.faulty.borrow_mut() = true;
    }
}

async fn control(s: Rc<State>, steps: u64) {
    for _ in 0..steps {
        match rng().below(12) {
            0..5 => reopen(&s).await,
            5 | 6 => drain(&s).await,
            7 => set_faults(&s, true),
            8 => set_faults(&s, false),
            9 => {
                // Another user comes and goes.
                let shared = Perm::all();
                let config = RootConfig { perm: Perm::CONSISTENT_READ, shared, ..RootConfig::default() };
                if let Ok(r) = s.graph.attach("mid", config).await {
                    let b = IoBuf::zeroed(1000);
                    let _ = r.read(rng().below(s.size - 1000), b).await;
                    r.detach().await;
                }
            }
            10 => {
                // Another overlay comes and goes.
                let add = s
                    .graph
                    .add(options("{'driver':'raw','node-name':'extra','read-only':true,'file':'mid'}"));
                if add.await.is_ok() {
                    let del = s.graph.del("extra").await;
                    assert!(del.is_ok() || *s.faulty.borrow(), "{del:?}");
                    if del.is_err() {
                        s.world.set_faults(Faults::default());
                        s.graph.del("extra").await.expect("nothing stands in the way");
                    }
                }
            }
            _ => {
                let done = s.graph.flush_all().await;
                assert!(done.is_ok() || *s.faulty.borrow(), "{done:?}");
            }
        }
        rt::sleep(Duration::from_micros(rng().below(4000))).await;
    }
}

async fn verify(s: &State, root: &Root, when: &str) {
    let buf = IoBuf::zeroed(s.size as usize);
    root.read(0, buf.clone()).await.expect("nothing fails any more");
    let want = s.model.borrow().bytes(TOP, 0, s.size);
    if let Err(k) = agrees(&buf.to_vec(), std::slice::from_ref(&want)) {
        panic!("{when}: byte {k} is {}, not {}", buf.to_vec()[k], want[k]);
    }
    // Block status covers the whole image without gaps, and what it says is zero is zero.
    let mut off = 0;
    while off < s.size {
        let st = root.map(off, s.size - off).await.expect("nothing fails any more");
        assert!(st.len > 0 && off + st.len <= s.size, "{when}: status {st:?} at {off}");
        if st.zero {
            let part = buf.slice(off as usize..(off + st.len) as usize);
            assert!(part.is_zero(), "{when}: {st:?} at {off} is not zero");
        }
        off += st.len;
    }
}

fn write_config() -> RootConfig {
    RootConfig {
        name: "sim".into(),
        perm: Perm::CONSISTENT_READ | Perm::WRITE,
        shared: Perm::CONSISTENT_READ | Perm::WRITE_UNCHANGED,
        ..RootConfig::default()
    }
}

async fn scenario(format: SimFormat) {
    let world = World::new();
    let _here = world.enter();
    let r = rng();
    let size = (16 + r.below(48)) * 4096 + [0, 512, 1024][r.below(3) as usize];
    let mut model = Model::default();
    for i in 0..3 {
        let len = if r.chance(1, 2) { size } else { 512 * (1 + r.below(size / 512)) };
        let mut bytes = vec![0; len as usize];
        r.fill(&mut bytes);
        if len > 20_000 {
            bytes[8192..16384].fill(0);
        }
        world.create(&format!("b{i}.img"), bytes.clone());
        model.flats.push(bytes);
    }
    (format.create)(&world, "mid.img", size, None);
    (format.create)(&world, "top.img", size, None);
    let align = [1, 1, 512, 4096][r.below(4) as usize];
    let limits = Limits {
        request_alignment: align,
        buffer_alignment: [1, align][r.below(2) as usize],
        max_transfer: [0, 8192, 65536][r.below(3) as usize],
        ..Limits::default()
    };
    for d in ["mid.img", "top.img"] {
        world.disk(d).expect("just made").set_limits(limits);
    }
    let graph = format.graph();
    for i in 0..3 {
        let file = format!("{{'driver':'file','filename':'b{i}.img'}}");
        let node = format!("{{'driver':'raw','node-name':'b{i}','read-only':true,'file':{file}}}");
        graph.add(options(&node)).await.expect("base");
    }
    let inline_file = r.chance(1, 2);
    for n in ["mid", "top"] {
        let file = format!("{{'driver':'file','node-name':'{n}-file','filename':'{n}.img'}}");
        let file = if inline_file && n == "top" {
            file
        } else {
            graph.add(options(&file)).await.expect("file");
            format!("'{n}-file'")
        };
        let node =
            format!("{{'driver':'qcow2','node-name':'{n}','discard':'unmap','file':{file},'backing':'b0'}}");
        graph.add(format.image(&node)).await.expect("image");
        model.images.push(Image::new(size, format.cluster, Below::Flat(0)));
    }
    // Some content for the image in the middle, which is read-only from then on.
    let m =
        graph.attach("mid", RootConfig { name: String::new(), ..write_config() }).await.expect("attach mid");
    for _ in 0..r.below(6) {
        let off = r.below(size);
        let mut data = vec![0; (1 + r.below((size - off).min(10_000))) as usize];
        r.fill(&mut data);
        let before = model.around(MID, off, data.len() as u64);
        m.write(off, IoBuf::from_bytes(&data), WriteFlags::empty()).await.expect("no faults yet");
        model.wrote(MID, off, &data, &before);
    }
    m.detach().await;
    graph.reopen(vec![format.image(&mid("'b0'"))]).await.expect("mid becomes read-only");
    let root = graph.attach("top", write_config()).await.expect("attach top");
    let s = Rc::new(State {
        format,
        world: world.clone(),
        graph: graph.clone(),
        root,
        size,
        model: RefCell::new(model),
        busy: RefCell::default(),
        given_up: RefCell::default(),
        reads: RefCell::default(),
        next: RefCell::new(0),
        faulty: RefCell::new(false),
        stop: RefCell::new(false),
        inline_file,
    });
    set_faults(&s, false);
    let workers: Vec<_> = (0..1 + r.below(4)).map(|_| rt::spawn_local(worker(s.clone()))).collect();
    control(s.clone(), 10 + r.below(30)).await;
    *s.stop.borrow_mut() = true;
    for w in workers {
        w.await;
    }
    finish(&s).await;
}

async fn finish(s: &Rc<State>) {
    s.world.set_faults(Faults::default());
    drain(s).await;
    verify(s, &s.root, "at the end").await;
    s.root.flush().await.expect("flush");
    let crash = s.format.crash && rng().chance(1, 2);
    if crash {
        for d in ["top.img", "mid.img"] {
            s.world.disk(d).expect("it is there").crash();
        }
    } else {
        s.root.detach().await;
        s.graph.close_all().await;
        assert_eq!(s.graph.snapshot().nodes().count(), 0);
    }
    assert_eq!(s.world.staged(), 0, "staged changes are left over");
    // All over again from the files alone.
    let graph = s.format.graph();
    let name = |b: Below| match b {
        Below::Nothing => "null".to_owned(),
        Below::Flat(i) => format!("'b{i}'"),
        Below::Image(_) => "'mid'".to_owned(),
    };
    for i in 0..3 {
        let file = format!("{{'driver':'file','filename':'b{i}.img'}}");
        let node = format!("{{'driver':'raw','node-name':'b{i}','read-only':true,'file':{file}}}");
        graph.add(options(&node)).await.expect("base");
    }
    for (n, i) in [("mid", MID), ("top", TOP)] {
        let below = name(s.model.borrow().images[i].below);
        let file = format!("{{'driver':'file','filename':'{n}.img'}}");
        let ro = n == "mid";
        let node = format!(
            "{{'driver':'qcow2','node-name':'{n}','read-only':{ro},'file':{file},'backing':{below}}}"
        );
        graph.add(s.format.image(&node)).await.expect("image");
    }
    let root = graph.attach("top", write_config()).await.expect("attach");
    verify(s, &root, if crash { "after a crash" } else { "opened again" }).await;
    root.detach().await;
    graph.close_all().await;
}

/// Runs one simulation; panics where the graph and the model differ.
pub fn run_one(seed: u64, format: &SimFormat) {
    Sim::new(seed).block_on(scenario(format.clone()));
}

/// Runs `RHEA_SIM_RUNS` simulations (or `default_runs`) from the seed `RHEA_SIM_SEED` (or 1) on.
pub fn run_many(default_runs: u64, format: &SimFormat) {
    let env = |name: &str| std::env::var(name).ok().and_then(|v| v.parse::<u64>().ok());
    let first = env("RHEA_SIM_SEED").unwrap_or(1);
    for seed in first..first + env("RHEA_SIM_RUNS").unwrap_or(default_runs) {
        run_one(seed, format);
    }
}
