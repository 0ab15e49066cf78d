//! The storage daemon from outside: its command line, its monitor, its NBD server with other people's clients, its end.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::nbd::NbdClient;
use e2e::{Qmp, ScratchDir, StorageDaemon, rhea_binary, run_tool};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(30);

fn is_there(tool: &str) -> bool {
    Command::new(tool).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
}

fn missing<'a>(tools: &[&'a str]) -> Option<&'a str> {
    tools.iter().copied().find(|t| !is_there(t))
}

/// Exit code and standard error of a daemon that ends by itself.
fn fails(program: &Path, first: &[&str], args: &str) -> Result<(Option<i32>, String)> {
    let out = Command::new(program)
        .args(first)
        .args(args.split(' '))
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("starting {}", program.display()))?;
    Ok((out.status.code(), String::from_utf8_lossy(&out.stderr).into_owned()))
}

/// A command line that is wrong, and what is said about it.
const MISTAKES: &[(&str, &str)] = &[
    ("--foo", "unrecognized option '--foo'"),
    ("foo", "foo: Unexpected argument"),
    ("--blockdev", "option '--blockdev' requires an argument"),
    ("-x", "invalid option -- 'x'"),
    ("--version=3", "option '--version' doesn't allow an argument"),
    ("--blockdev driver=file", "--blockdev driver=file: Parameter 'filename' is missing"),
    ("--blockdev=foo", "--blockdev=foo: Parameter 'driver' does not accept value 'foo'"),
    (
        "--blockdev {\"driver\":\"null-co\"",
        "--blockdev {\"driver\":\"null-co\": JSON parse error, premature EOI",
    ),
    (
        "--blockdev null-co,node-name=a --blockdev null-co,node-name=a",
        "--blockdev null-co,node-name=a: Duplicate nodes with node-name='a'",
    ),
    ("--export type=foo", "--export type=foo: Parameter 'type' does not accept value 'foo'"),
    ("--export nbd", "--export nbd: Parameter 'id' is missing"),
    (
        "--export nbd,id=e,node-name=a --blockdev null-co,node-name=a",
        "--export nbd,id=e,node-name=a: Cannot find device='' nor node-name='a'",
    ),
    (
        "--blockdev null-co,node-name=a --export nbd,id=e,node-name=a",
        "--export nbd,id=e,node-name=a: NBD server not running",
    ),
    ("--nbd-server foo", "--nbd-server foo: Expected '=' after parameter 'foo'"),
    (
        "--nbd-server addr.type=unix,addr.path=/nope/x",
        "--nbd-server addr.type=unix,addr.path=/nope/x: Failed to bind socket to /nope/x: No such file or directory",
    ),
    (
        "--object iothread,id=1a",
        "--object iothread,id=1a: Parameter 'id' expects an identifier\n\
         Identifiers consist of letters, digits, '-', '.', '_', starting with a letter.",
    ),
    (
        "--object iothread,id=a --object iothread,id=a",
        "--object iothread,id=a: attempt to add duplicate property 'a' to object (type 'container')",
    ),
    ("--chardev foo,id=a", "--chardev foo,id=a: 'foo' is not a valid char driver name"),
    ("--monitor nope", "--monitor nope: chardev \"nope\" not found"),
    ("--monitor a,mode=foo", "--monitor a,mode=foo: Parameter 'mode' does not accept value 'foo'"),
    ("--chardev null,id=a --monitor a,mode=readline", "--monitor a,mode=readline: Only QMP is supported"),
    ("--chardev null,id=a --monitor a --monitor a", "--monitor a: chardev 'a' is already in use"),
    ("--daemonize --chardev stdio,id=a", "--chardev stdio,id=a: cannot use stdio with -daemonize"),
    ("--daemonize --blockdev bad", "--blockdev bad: Parameter 'driver' does not accept value 'bad'"),
    ("--pidfile /nope/p", "cannot create PID file: Could not create '/nope/p': No such file or directory"),
];

#[test]
fn mistakes_are_told_as_the_reference_tells_them() -> Result<()> {
    for (args, wanted) in MISTAKES {
        let (code, text) = fails(&rhea_binary(), &["storage-daemon"], args)?;
        ensure!(
            code == Some(1) && text == format!("rhea storage-daemon: {wanted}\n"),
            "{args}: {code:?}\n{text}"
        );
    }
    Ok(())
}

#[test]
fn the_reference_tells_these_mistakes_so() -> Result<()> {
    if let Some(tool) = missing(&["qemu-storage-daemon"]) {
        eprintln!("skipped: {tool} is not installed");
        return Ok(());
    }
    for (args, wanted) in MISTAKES {
        let (code, text) = fails("qemu-storage-daemon".as_ref(), &[], args)?;
        ensure!(
            code == Some(1) && text == format!("qemu-storage-daemon: {wanted}\n"),
            "{args}: {code:?}\n{text}"
        );
    }
    Ok(())
}

#[test]
fn help_and_version_are_printed() -> Result<()> {
    for (args, wanted) in [
        (&["--help"][..], "--nbd-server"),
        (&["-V"], "version 10.0.2"),
        (&["--blockdev", "qcow2,help"], "file=<node-name>"),
        (&["--export", "help"], "  nbd\n"),
        (&["--object", "help"], "  iothread\n"),
        (&["--chardev", "help"], "  socket\n"),
    ] {
        let text = run_tool(rhea_binary(), &[&["storage-daemon"], args].concat())?;
        ensure!(text.contains(wanted), "{args:?}: {text}");
    }
    Ok(())
}

fn names(qmp: &mut Qmp) -> Result<BTreeSet<String>> {
    let commands = qmp.run("query-commands", json!({}))?;
    let names = commands.as_array().context("not a list")?.iter();
    Ok(names.filter_map(|c| c["name"].as_str().map(String::from)).collect())
}

#[test]
fn there_are_the_commands_of_storage_and_no_others() -> Result<()> {
    let mut daemon = StorageDaemon::start(&[])?;
    let ours = names(daemon.qmp())?;
    for wanted in ["blockdev-add", "block-export-add", "nbd-server-start", "object-add", "query-jobs", "quit"]
    {
        ensure!(ours.contains(wanted), "{wanted} is not there");
    }
    for unwanted in ["system_reset", "stop", "query-status", "human-monitor-command", "device_add"] {
        ensure!(!ours.contains(unwanted), "{unwanted} is there");
    }
    let schema = daemon.qmp().run("query-qmp-schema", json!({}))?;
    let of_kind = |kind: &str| -> BTreeSet<String> {
        let entries = schema.as_array().into_iter().flatten().filter(|e| e["meta-type"] == kind);
        entries.filter_map(|e| e["name"].as_str().map(String::from)).collect()
    };
    ensure!(of_kind("command") == ours);
    ensure!(!of_kind("event").contains("RESET") && of_kind("event").contains("BLOCK_EXPORT_DELETED"));
    if let Some(tool) = missing(&["qemu-storage-daemon"]) {
        eprintln!("skipped: {tool} is not installed");
        return Ok(());
    }
    let mut reference = StorageDaemon::start_program("qemu-storage-daemon".into(), &[])?;
    let theirs = names(reference.qmp())?;
    let more: Vec<_> = ours.difference(&theirs).collect();
    ensure!(more.is_empty(), "the reference has not: {more:?}");
    Ok(())
}

#[test]
fn objects_come_and_go() -> Result<()> {
    let mut daemon =
        StorageDaemon::start(&["--object", "iothread,id=a", "--blockdev", "null-co,node-name=n"])?;
    let socket = daemon.dir().file("nbd.sock");
    let q = daemon.qmp();
    q.run("object-add", json!({ "qom-type": "iothread", "id": "b" }))?;
    let list = q.run("qom-list", json!({ "path": "/objects" }))?;
    let listed: Vec<_> =
        list.as_array().into_iter().flatten().map(|p| p["name"].as_str().unwrap_or("")).collect();
    ensure!(listed == ["type", "a", "b"], "{list}");
    q.run("nbd-server-start", json!({ "addr": { "type": "unix", "data": { "path": socket } } }))?;
    q.run("block-export-add", json!({ "type": "nbd", "id": "e", "node-name": "n", "iothread": "b" }))?;
    let e = q.try_run("object-del", json!({ "id": "b" }))?.err().context("an object in use is deleted")?;
    ensure!(e.desc == "object 'b' is in use, can not be deleted", "{}", e.desc);
    q.run("block-export-del", json!({ "id": "e" }))?;
    q.event("BLOCK_EXPORT_DELETED")?;
    q.run("object-del", json!({ "id": "b" }))?;
    ensure!(q.try_run("qom-get", json!({ "path": "/objects/b", "property": "type" }))?.is_err());
    Ok(())
}

/// Options of a daemon that serves a qcow2 image for writing at `socket`.
fn serving(image: &str, socket: &str) -> Vec<String> {
    [
        "--object",
        "iothread,id=io",
        "--blockdev",
        &format!("file,node-name=f,filename={image}"),
        "--blockdev",
        "{\"driver\": \"qcow2\", \"node-name\": \"q\", \"file\": \"f\"}",
        "--nbd-server",
        &format!("addr.type=unix,addr.path={socket}"),
        "--export",
        "nbd,id=e,node-name=q,name=disk,writable=on,iothread=io",
    ]
    .map(String::from)
    .into()
}

fn image(dir: &ScratchDir) -> Result<String> {
    let image = dir.file("disk.qcow2");
    run_tool(rhea_binary(), &["img", "create", "-q", "-f", "qcow2", &image, "16M"])?;
    Ok(image)
}

fn pattern(dir: &ScratchDir) -> Result<String> {
    let file = dir.file("pattern.raw");
    let bytes: Vec<u8> = (0u32..16 << 18).flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    std::fs::write(&file, bytes)?;
    Ok(file)
}

#[test]
fn other_peoples_clients_read_and_write() -> Result<()> {
    if let Some(tool) = missing(&["nbdinfo", "nbdcopy", "qemu-img", "qemu-io"]) {
        eprintln!("skipped: {tool} is not installed");
        return Ok(());
    }
    let dir = ScratchDir::new("daemon-nbd")?;
    let (image, pattern, socket) = (image(&dir)?, pattern(&dir)?, dir.file("nbd.sock"));
    let args = serving(&image, &socket);
    let mut daemon = StorageDaemon::start(&args.iter().map(String::as_str).collect::<Vec<_>>())?;
    let uri = format!("nbd+unix:///disk?socket={socket}");
    let info: Value = serde_json::from_str(&run_tool("nbdinfo", &["--json", &uri])?)?;
    let export = &info["exports"][0];
    ensure!(export["export-name"] == "disk" && export["export-size"] == 16 << 20, "{info}");
    ensure!(export["is_read_only"] == false, "{info}");
    run_tool("nbdcopy", &[&pattern, &uri])?;
    run_tool("qemu-img", &["compare", "-q", &pattern, &uri])?;
    run_tool("qemu-io", &["-f", "raw", "-c", "write -P 7 1M 64k", "-c", "flush", &uri])?;
    let back = dir.file("back.raw");
    run_tool("nbdcopy", &[&uri, &back])?;
    let (mut want, got) = (std::fs::read(&pattern)?, std::fs::read(&back)?);
    want[1 << 20..(1 << 20) + (64 << 10)].fill(7);
    ensure!(want == got, "something else is read than was written");
    let exports = daemon.qmp().run("query-block-exports", json!({}))?;
    ensure!(exports[0]["id"] == "e" && exports[0]["node-name"] == "q", "{exports}");
    daemon.qmp().send_raw(b"{\"execute\": \"quit\"}\n")?;
    // The answer comes behind what ends.
    let first = daemon.qmp().receive_raw()?;
    ensure!(first["event"] == "BLOCK_EXPORT_DELETED", "{first}");
    let last = daemon.qmp().receive_raw()?;
    ensure!(last == json!({ "return": {} }), "{last}");
    let (status, errors) = daemon.wait(SOON)?;
    ensure!(status.success() && errors.is_empty(), "{status}: {errors}");
    run_tool("qemu-img", &["check", "-q", &image])?;
    ensure!(Path::new(&socket).exists(), "the socket is gone");
    Ok(())
}

#[test]
fn a_signal_ends_it_with_everything_written() -> Result<()> {
    if let Some(tool) = missing(&["nbdcopy", "qemu-img"]) {
        eprintln!("skipped: {tool} is not installed");
        return Ok(());
    }
    for signal in ["TERM", "INT", "HUP"] {
        let dir = ScratchDir::new("daemon-signal")?;
        let (image, pattern, socket) = (image(&dir)?, pattern(&dir)?, dir.file("nbd.sock"));
        let args = serving(&image, &socket);
        let daemon = StorageDaemon::start(&args.iter().map(String::as_str).collect::<Vec<_>>())?;
        run_tool("nbdcopy", &[&pattern, &format!("nbd+unix:///disk?socket={socket}")])?;
        run_tool("kill", &[&format!("-{signal}"), &daemon.pid().to_string()])?;
        let (status, errors) = daemon.wait(SOON)?;
        ensure!(status.success(), "{signal}: {status}: {errors}");
        run_tool("qemu-img", &["check", "-q", &image])?;
        run_tool("qemu-img", &["compare", "-q", &pattern, &image])?;
    }
    Ok(())
}

#[test]
fn it_goes_to_the_background() -> Result<()> {
    let dir = ScratchDir::new("daemon-background")?;
    let (pidfile, socket) = (dir.file("pid"), dir.file("qmp.sock"));
    let chardev = format!("socket,id=c,path={socket},server=on,wait=off");
    run_tool(
        rhea_binary(),
        &["storage-daemon", "--daemonize", "--pidfile", &pidfile, "--chardev", &chardev, "--monitor", "c"],
    )?;
    let pid = std::fs::read_to_string(&pidfile)?;
    ensure!(Path::new(&format!("/proc/{}", pid.trim())).exists(), "{pid}");
    let mut qmp = Qmp::connect(Path::new(&socket), SOON)?;
    qmp.run("quit", json!({}))?;
    let end = Instant::now() + SOON;
    while Path::new(&pidfile).exists() {
        ensure!(Instant::now() < end, "the pid file is still there");
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// All that a daemon prints that is told `requests` on its standard input.
fn prints(program: &Path, first: &[&str], requests: &str) -> Result<String> {
    let mut daemon = Command::new(program)
        .args(first)
        .args(["--chardev", "stdio,id=m", "--monitor", "m"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting {}", program.display()))?;
    daemon.stdin.take().context("no standard input")?.write_all(requests.as_bytes())?;
    Ok(String::from_utf8_lossy(&daemon.wait_with_output()?.stdout).into_owned())
}

#[test]
fn images_that_are_made_are_announced() -> Result<()> {
    let node = |name: &str| json!({"execute": "blockdev-add", "arguments": {"driver": "null-co", "node-name": name, "size": 1048576}});
    let mut programs = vec![(rhea_binary(), &["storage-daemon"][..])];
    if is_there("qemu-storage-daemon") {
        programs.push(("qemu-storage-daemon".into(), &[]));
    }
    for (program, first) in programs {
        let dir = ScratchDir::new("daemon-announces")?;
        let copy = json!({"execute": "drive-backup", "arguments": {
            "device": "a", "job-id": "j", "sync": "full", "format": "qcow2", "target": dir.file("a.q")
        }});
        let caps = json!({"execute": "qmp_capabilities"});
        let quit = json!({"execute": "quit"});
        let out = prints(&program, first, &format!("{caps}{}{copy}{quit}", node("a")))?;
        let line = format!(
            "Formatting '{}', fmt=qcow2 cluster_size=65536 extended_l2=off compression_type=zlib size=1048576 \
             lazy_refcounts=off refcount_bits=16\n",
            dir.file("a.q")
        );
        ensure!(out.contains(&line), "{}: {out}", program.display());
    }
    Ok(())
}

#[test]
fn a_directory_is_written_through_a_disk() -> Result<()> {
    if let Some(tool) = missing(&["mcopy"]) {
        eprintln!("skipped: {tool} is not installed");
        return Ok(());
    }
    let dir = ScratchDir::new("vvfat")?;
    let (tree, socket) = (dir.file("tree"), dir.file("nbd.sock"));
    std::fs::create_dir_all(format!("{tree}/sub"))?;
    std::fs::write(format!("{tree}/sub/old name.txt"), "old")?;
    std::fs::write(format!("{tree}/gone"), "gone")?;
    let mut daemon = StorageDaemon::start(&[
        "--blockdev",
        &format!("vvfat,node-name=f,dir={tree},rw=on,floppy=on"),
        "--nbd-server",
        &format!("addr.type=unix,addr.path={socket}"),
        "--export",
        "nbd,id=e,node-name=f,name=disk,writable=on",
    ])?;
    let mut client = NbdClient::connect(&socket, "disk")?;
    let mut disk = vec![0; 2_949_120];
    for (at, part) in (0u64..).step_by(1 << 16).zip(disk.chunks_mut(1 << 16)) {
        client.read(at, part)?;
    }
    let image = dir.file("image");
    std::fs::write(&image, &disk)?;
    let new = dir.file("new");
    std::fs::write(&new, "new ".repeat(5000))?;
    for words in [
        &["mcopy", "-i", &image, &new, "::sub/A new file.txt"][..],
        &["mren", "-i", &image, "::sub/old name.txt", "::sub/renamed file.txt"],
        &["mdel", "-i", &image, "::gone"],
        &["mmd", "-i", &image, "::A directory"],
    ] {
        run_tool(words[0], &words[1..])?;
    }
    let now = std::fs::read(&image)?;
    for (at, (then, now)) in (0u64..).step_by(512).zip(disk.chunks(512).zip(now.chunks(512))) {
        if then != now {
            client.write(at, now)?;
        }
    }
    client.flush()?;
    let read = |name: &str| std::fs::read_to_string(format!("{tree}/{name}")).unwrap_or_default();
    ensure!(read("sub/A new file.txt") == "new ".repeat(5000));
    ensure!(read("sub/renamed file.txt") == "old");
    ensure!(Path::new(&format!("{tree}/A directory")).is_dir());
    ensure!(!Path::new(&format!("{tree}/gone")).exists());
    ensure!(!Path::new(&format!("{tree}/sub/old name.txt")).exists());
    // What the host changed is kept, and that is told.
    std::fs::write(format!("{tree}/sub/renamed file.txt"), "by the host")?;
    let sector = now.chunks(512).position(|s| s.starts_with(b"old\0")).context("no such sector")?;
    client.write(sector as u64 * 512, &[b'x'; 512])?;
    ensure!(client.flush().is_err());
    ensure!(read("sub/renamed file.txt") == "by the host");
    drop(client);
    daemon.qmp().run("quit", json!({}))?;
    let (status, said) = daemon.wait(SOON)?;
    let told = "'sub/renamed file.txt' is not on the host as the guest has it: it was changed on the host";
    ensure!(status.success() && said.matches(told).count() == 1, "{said}");
    Ok(())
}
