//! A persistent dirty bitmap outlives its process, whatever ends that.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::{Qmp, ScratchDir, Vm, VmBuilder, rhea_binary, run_tool, skip};
use serde_json::{Value, json};

const TOOLS: [&str; 4] = ["qemu-img", "qemu-io", "qemu-nbd", "nbdinfo"];
const PIECE: u64 = 64 << 10;

#[test]
fn a_bitmap_survives_kill_9() {
    if let Some(tool) = TOOLS.into_iter().find(|t| Command::new(t).arg("--version").output().is_err()) {
        skip!("{tool} is not installed");
    }
    killed().unwrap();
}

fn serve(image: &str, socket: &str) -> Result<Vm> {
    let mut vm = VmBuilder::riscv64().args(["-M", "none"]).start()?;
    let qmp = vm.qmp();
    let file = json!({ "driver": "file", "filename": image });
    qmp.run(
        "blockdev-add",
        json!({ "driver": "qcow2", "node-name": "d", "discard": "unmap", "file": file }),
    )?;
    let addr = json!({ "type": "unix", "data": { "path": socket } });
    qmp.run("nbd-server-start", json!({ "addr": addr }))?;
    let export = json!({ "type": "nbd", "id": "e", "node-name": "d", "name": "d", "writable": true });
    qmp.run("block-export-add", export)?;
    Ok(vm)
}

fn bitmap(qmp: &mut Qmp) -> Result<Value> {
    let nodes = qmp.run("query-named-block-nodes", json!({}))?;
    let all = nodes.as_array().context("a list of nodes")?;
    let node = all.iter().find(|n| n["node-name"] == "d").context("the node")?;
    Ok(node["dirty-bitmaps"][0].clone())
}

fn killed() -> Result<()> {
    let dir = ScratchDir::new("bitmap-kill")?;
    let (image, socket) = (dir.file("d.qcow2"), dir.file("nbd.sock"));
    run_tool(rhea_binary(), &["img", "create", "-q", "-f", "qcow2", "-o", "cluster_size=4k", &image, "8G"])?;
    let mut vm = serve(&image, &socket)?;
    let url = format!("nbd+unix:///d?socket={socket}");
    run_tool("qemu-io", &["-f", "raw", "-c", "write 0 256k", &url])?;
    let add = json!({ "node": "d", "name": "since", "persistent": true, "granularity": PIECE });
    vm.qmp().run("block-dirty-bitmap-add", add)?;

    // One that writes all over the disk and says what was acknowledged; in the midst of it the lights go out.
    let places: Vec<u64> = (0..4000u64).map(|i| (i * 7919 + 13) % (8 << 14)).collect();
    let mut args = vec!["-f".to_owned(), "raw".to_owned()];
    for p in &places {
        args.extend(["-c".to_owned(), format!("write -P 3 {} 4096", p * PIECE)]);
    }
    let mut writer =
        Command::new("qemu-io").args(&args).arg(&url).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let out = BufReader::new(writer.stdout.take().context("its output")?);
    let mut acknowledged = 0;
    for line in out.lines() {
        if line?.starts_with("wrote ") {
            acknowledged += 1;
            if acknowledged == 300 {
                Command::new("kill").args(["-9", &vm.pid().to_string()]).status()?;
            }
        }
    }
    writer.wait()?;
    ensure!((300..4000).contains(&acknowledged), "{acknowledged} writes");
    let (status, _) = vm.wait(Duration::from_secs(10))?;
    ensure!(!status.success());

    // For others it is a sound image with a bitmap in use.
    let info = run_tool("qemu-img", &["info", &image])?;
    ensure!(info.contains("in-use"), "{info}");
    let check = Command::new("qemu-img").args(["check", "-q", &image]).status()?.code();
    ensure!(matches!(check, Some(0 | 3)), "qemu-img check: {check:?}");

    // For us it goes on where it was.
    let _ = std::fs::remove_file(&socket);
    let mut vm = serve(&image, &socket)?;
    let b = bitmap(vm.qmp())?;
    ensure!(b["name"] == "since" && b["recording"] == true && b.get("inconsistent").is_none(), "{b}");
    run_tool("qemu-io", &["-f", "raw", "-c", "write 8000M 64k", &url])?;
    vm.qmp().run("quit", json!({}))?;
    let (status, errors) = vm.wait(Duration::from_secs(30))?;
    ensure!(status.success(), "{status}: {errors}");

    // Closed properly now, so that everybody can read it.
    run_tool("qemu-img", &["check", "-q", "-r", "leaks", &image])?;
    let map = dirty_map(&image, &dir.file("q.sock"))?;
    let dirty = |off: u64| map.iter().any(|(at, len, d)| *d && *at <= off && off < at + len);
    for p in places.iter().take(acknowledged).map(|p| p * PIECE).chain([8000 << 20]) {
        ensure!(dirty(p), "the write to {p} is missed");
    }
    let clean: u64 = map.iter().filter(|e| !e.2).map(|e| e.1).sum();
    ensure!(clean > 1 << 30, "only {clean} bytes are clean");
    Ok(())
}

#[test]
fn a_bitmap_survives_kill_9_in_the_midst_of_a_backup() {
    if let Some(tool) = TOOLS.into_iter().find(|t| Command::new(t).arg("--version").output().is_err()) {
        skip!("{tool} is not installed");
    }
    for mode in ["on-success", "always"] {
        killed_in_a_backup(mode).with_context(|| mode).unwrap();
    }
}

/// What was dirty before the backup, and what was written since, is dirty after the crash, whatever the backup has copied.
fn killed_in_a_backup(mode: &str) -> Result<()> {
    let dir = ScratchDir::new("bitmap-backup-kill")?;
    let (image, target, socket) = (dir.file("d.qcow2"), dir.file("t.qcow2"), dir.file("nbd.sock"));
    for i in [&image, &target] {
        run_tool(rhea_binary(), &["img", "create", "-q", "-f", "qcow2", i, "64M"])?;
    }
    let mut vm = serve(&image, &socket)?;
    let url = format!("nbd+unix:///d?socket={socket}");
    let add = json!({ "node": "d", "name": "since", "persistent": true, "granularity": PIECE });
    vm.qmp().run("block-dirty-bitmap-add", add)?;
    run_tool("qemu-io", &["-f", "raw", "-c", "write -P 1 8M 8M", &url])?;
    let file = json!({ "driver": "file", "filename": target });
    vm.qmp().run("blockdev-add", json!({ "driver": "qcow2", "node-name": "t", "file": file }))?;
    let backup = json!({ "job-id": "b", "device": "d", "target": "t", "sync": "bitmap", "bitmap": "since",
                         "bitmap-mode": mode, "speed": 2 << 20 });
    vm.qmp().run("blockdev-backup", backup)?;
    run_tool(
        "qemu-io",
        &["-f", "raw", "-c", "write -P 2 9M 64k", "-c", "write -P 2 40M 1M", "-c", "flush", &url],
    )?;
    let offset = vm.qmp().run("query-block-jobs", json!({}))?[0]["offset"].as_u64();
    ensure!(offset.is_some_and(|o| o < 8 << 20), "the backup is at {offset:?}");
    Command::new("kill").args(["-9", &vm.pid().to_string()]).status()?;
    let (status, _) = vm.wait(Duration::from_secs(10))?;
    ensure!(!status.success());

    let _ = std::fs::remove_file(&socket);
    let mut vm = serve(&image, &socket)?;
    let b = bitmap(vm.qmp())?;
    ensure!(b["busy"] == false && b["recording"] == true && b.get("inconsistent").is_none(), "{b}");
    vm.qmp().run("quit", json!({}))?;
    let (status, errors) = vm.wait(Duration::from_secs(30))?;
    ensure!(status.success(), "{status}: {errors}");
    run_tool("qemu-img", &["check", "-q", "-r", "leaks", &image])?;
    let map = dirty_map(&image, &dir.file("q.sock"))?;
    for (from, to) in [(8u64, 16), (40, 41)] {
        for at in (from << 20..to << 20).step_by(PIECE as usize) {
            ensure!(
                map.iter().any(|(off, n, d)| *d && *off <= at && at < off + n),
                "{at} is missed: {map:?}"
            );
        }
    }
    ensure!(map.iter().any(|(off, n, d)| !*d && *off <= 20 << 20 && 20 << 20 < off + n), "all is dirty");
    Ok(())
}

/// A stored bitmap as the reference reads it: (offset, length, dirty).
fn dirty_map(image: &str, socket: &str) -> Result<Vec<(u64, u64, bool)>> {
    let mut server =
        Command::new("qemu-nbd").args(["-r", "-f", "qcow2", "-B", "since", "-k", socket, image]).spawn()?;
    let url = format!("nbd+unix:///?socket={socket}");
    let mut map = Err(anyhow::anyhow!("the server did not start"));
    for _ in 0..100 {
        std::thread::sleep(Duration::from_millis(50));
        map = run_tool("nbdinfo", &["--json", "--map=qemu:dirty-bitmap:since", &url]);
        if map.is_ok() {
            break;
        }
    }
    // It ends with its first client.
    if map.is_err() {
        server.kill()?;
    }
    server.wait()?;
    let map: Vec<Value> = serde_json::from_str(&map?)?;
    let number = |e: &Value, k: &str| e[k].as_u64().context("a number");
    map.iter()
        .map(|e| Ok((number(e, "offset")?, number(e, "length")?, number(e, "type")? & 1 == 1)))
        .collect()
}
