//! Storage that never answers: what is asked of the program meanwhile is answered at once.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use e2e::nbd::NbdClient;
use e2e::{Qmp, ScratchDir, VmBuilder};
use fuse::message::{self, Attr, Op, Out};
use fuse::spec::{LONGEST, MAX_IO, WRITE_PREFIX};
use serde_json::{Value, json};

const SIZE: u64 = 16 << 20;
const SOON: Duration = Duration::from_secs(1);

/// A file that answers until it is told not to.
struct StuckFile {
    path: String,
    stuck: Arc<AtomicBool>,
}

impl StuckFile {
    fn mount(path: String) -> std::io::Result<StuckFile> {
        File::create(&path)?;
        let device = File::options().read(true).write(true).open("/dev/fuse")?;
        let fd = std::os::fd::AsRawFd::as_raw_fd(&device.as_fd());
        let options = format!("fd={fd},rootmode=100000,user_id=0,group_id=0,allow_other");
        let options = std::ffi::CString::new(options)?;
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("stuck", &path, "fuse", flags, options.as_c_str())?;
        let stuck = Arc::new(AtomicBool::new(false));
        let switch = stuck.clone();
        std::thread::spawn(move || serve(device, &switch));
        Ok(StuckFile { path, stuck })
    }
}

impl Drop for StuckFile {
    fn drop(&mut self) {
        use rustix::mount::UnmountFlags;
        _ = rustix::mount::unmount(&self.path, UnmountFlags::FORCE | UnmountFlags::DETACH);
    }
}

fn serve(mut device: File, stuck: &AtomicBool) {
    let mut buf = vec![0; WRITE_PREFIX + MAX_IO];
    while let Ok(n) = device.read(&mut buf) {
        let Ok(request) = message::parse(&buf[..n.min(LONGEST)], n) else { return };
        if stuck.load(SeqCst) {
            continue;
        }
        let attr = Attr { size: SIZE, allocated: SIZE, mode: 0o666, block: 4096, ..Attr::default() };
        let answer = match request.op {
            Ok(Op::Init { major, minor, readahead, flags }) => {
                message::init(major, minor, readahead, flags, 4096)
            }
            Ok(Op::GetAttr | Op::SetAttr(_)) => Ok(attr.bytes()),
            Ok(Op::Open { .. }) => Ok(Out::default().u64(0).u32(1).u32(0).bytes()),
            Ok(Op::Read { size, .. }) => Ok(vec![0; size]),
            Ok(Op::Write { size, .. }) => Ok(Out::default().u32(size as u32).u32(0).bytes()),
            Ok(Op::Flush | Op::Fsync | Op::Release) => Ok(Vec::new()),
            // What it does not know, as servers say.
            _ => Err(base::Errno::from_raw(38)),
        };
        let (error, bytes) = match answer {
            Ok(bytes) => (None, bytes),
            Err(e) => (Some(e), Vec::new()),
        };
        let mut all = message::head(request.unique, error, bytes.len()).to_vec();
        all.extend(bytes);
        _ = device.write(&all);
    }
}

/// Runs a command that must be answered soon.
fn soon(qmp: &mut Qmp, command: &str, arguments: Value) -> Result<Value> {
    let begun = Instant::now();
    let answer = qmp.run(command, arguments)?;
    ensure!(begun.elapsed() < SOON, "{command} took {:?}", begun.elapsed());
    Ok(answer)
}

fn ask_everything(qmp: &mut Qmp) -> Result<()> {
    for _ in 0..2 {
        soon(qmp, "query-block", json!({}))?;
        soon(qmp, "query-blockstats", json!({}))?;
        soon(qmp, "query-blockstats", json!({"query-nodes": true}))?;
        let nodes = soon(qmp, "query-named-block-nodes", json!({}))?;
        let names: Vec<_> = nodes.as_array().into_iter().flatten().map(|n| &n["node-name"]).collect();
        ensure!(names.contains(&&json!("stuck")), "{nodes}");
        soon(qmp, "query-named-block-nodes", json!({"flat": true}))?;
        soon(qmp, "query-jobs", json!({}))?;
        soon(qmp, "query-block-jobs", json!({}))?;
        soon(qmp, "query-block-exports", json!({}))?;
        soon(qmp, "x-debug-query-block-graph", json!({}))?;
        let info = soon(qmp, "human-monitor-command", json!({"command-line": "info block -n -v"}))?;
        ensure!(info.as_str().is_some_and(|t| t.contains("stuck")), "{info}");
        soon(qmp, "human-monitor-command", json!({"command-line": "info blockstats"}))?;
    }
    Ok(())
}

/// A machine without a board: it has all commands of storage, and the human monitor.
fn machine() -> Result<(e2e::Vm, ScratchDir, String)> {
    let dir = ScratchDir::new("stuck")?;
    let second = format!("unix:{},server=on,wait=off", dir.file("second.sock"));
    let mut vm = VmBuilder::riscv64().args(["-M", "none", "-qmp", &second]).start()?;
    let socket = dir.file("nbd.sock");
    let addr = json!({"type": "unix", "data": {"path": socket}});
    vm.qmp().run("nbd-server-start", json!({"addr": addr}))?;
    for good in ["good", "other"] {
        let node = json!({"driver": "null-co", "node-name": good, "size": SIZE, "read-zeroes": true});
        vm.qmp().run("blockdev-add", node)?;
    }
    vm.qmp().run("block-export-add", json!({"type": "nbd", "id": "g", "node-name": "good"}))?;
    Ok((vm, dir, socket))
}

/// Requests of clients that get no answer: reads, and writes.
fn outstanding(socket: &str, name: &str) -> Result<Vec<std::thread::JoinHandle<()>>> {
    let mut waiting = Vec::new();
    for i in 0..8u64 {
        let mut client = NbdClient::connect(socket, name)?;
        waiting.push(std::thread::spawn(move || {
            // It may end in an error, when all is over.
            _ = if i % 2 == 0 {
                client.read(i << 16, &mut [0; 4096])
            } else {
                client.write(i << 16, &[1; 4096])
            };
        }));
    }
    std::thread::sleep(Duration::from_millis(300));
    Ok(waiting)
}

#[test]
fn a_file_that_never_answers() -> Result<()> {
    if !rustix::process::getuid().is_root() || !Path::new("/dev/fuse").exists() {
        eprintln!("skipped: /dev/fuse cannot be used, or mounting needs root");
        return Ok(());
    }
    let (mut vm, dir, socket) = machine()?;
    // Dropped before the program, which may not be able to end before.
    let stuck = StuckFile::mount(dir.file("stuck.raw"))?;
    let more = StuckFile::mount(dir.file("more.raw"))?;
    let qmp = vm.qmp();
    let file = |name: &str, path: &str| json!({"driver": "file", "node-name": name, "filename": path});
    qmp.run("blockdev-add", file("protocol", &stuck.path))?;
    qmp.run("blockdev-add", json!({"driver": "raw", "node-name": "stuck", "file": "protocol"}))?;
    qmp.run("block-export-add", json!({"type": "nbd", "id": "s", "node-name": "stuck", "writable": true}))?;
    stuck.stuck.store(true, SeqCst);
    more.stuck.store(true, SeqCst);
    let waiting = outstanding(&socket, "stuck")?;
    ask_everything(qmp)?;
    // Who uses other storage is served.
    let mut client = NbdClient::connect(&socket, "good")?;
    let begun = Instant::now();
    client.read(0, &mut [1; 4096])?;
    ensure!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    soon(qmp, "blockdev-del", json!({"node-name": "other"}))?;
    soon(qmp, "blockdev-add", json!({"driver": "null-co", "node-name": "other"}))?;
    // Nor does a node that cannot be opened keep anybody else from adding one.
    let mut second = Qmp::connect(Path::new(&dir.file("second.sock")), SOON)?;
    let options = file("more", &more.path);
    let opening = std::thread::spawn(move || second.try_run("blockdev-add", options));
    std::thread::sleep(Duration::from_millis(200));
    ensure!(!opening.is_finished(), "the file that never answers was opened");
    soon(qmp, "blockdev-del", json!({"node-name": "other"}))?;
    soon(qmp, "blockdev-add", json!({"driver": "null-co", "node-name": "other"}))?;
    ask_everything(qmp)?;
    drop(more);
    let opened = opening.join().expect("no panic")?;
    ensure!(opened.is_err(), "{opened:?}");
    // It comes back to life: all requests end.
    stuck.stuck.store(false, SeqCst);
    drop(stuck);
    for w in waiting {
        w.join().expect("no panic");
    }
    ask_everything(qmp)
}

#[test]
fn requests_that_do_not_end() -> Result<()> {
    let (mut vm, dir, socket) = machine()?;
    let qmp = vm.qmp();
    let hours = 10_000_000_000_000u64;
    let slow = json!({"driver": "null-co", "node-name": "slow", "size": SIZE, "latency-ns": hours});
    qmp.run("blockdev-add", slow)?;
    qmp.run("blockdev-add", json!({"driver": "raw", "node-name": "stuck", "file": "slow"}))?;
    qmp.run("block-export-add", json!({"type": "nbd", "id": "s", "node-name": "stuck", "writable": true}))?;
    let waiting = outstanding(&socket, "stuck")?;
    ask_everything(qmp)?;
    // A command that has to wait for them keeps those who ask in other sessions from nothing.
    let mut second = Qmp::connect(Path::new(&dir.file("second.sock")), SOON)?;
    let job = json!({"job-id": "j", "device": "stuck", "target": "other", "sync": "full"});
    second.send_raw(format!("{{\"execute\": \"blockdev-mirror\", \"arguments\": {job}}}\n").as_bytes())?;
    ask_everything(qmp)?;
    drop(vm);
    for w in waiting {
        w.join().expect("no panic");
    }
    Ok(())
}
