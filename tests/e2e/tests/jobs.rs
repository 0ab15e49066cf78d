//! Jobs and exports on real images: what other people's tools read afterwards is what was to be there.

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::nbd::{Load, NbdClient, replay, youngest};
use e2e::{Qmp, ScratchDir, VmBuilder, rhea_binary, run_tool, skip};
use serde_json::{Value, json};

const TOOLS: [&str; 3] = ["qemu-img", "qemu-io", "nbdcopy"];

fn missing() -> Option<&'static str> {
    TOOLS.into_iter().find(|t| std::process::Command::new(t).arg("--version").output().is_err())
}

/// A qcow2 node over a file.
fn node(name: &str, file: &str, backing: Option<&str>) -> Value {
    let mut v =
        json!({ "driver": "qcow2", "node-name": name, "file": { "driver": "file", "filename": file } });
    if let Some(b) = backing {
        v["backing"] = b.into();
    }
    v
}

fn job_ends(qmp: &mut Qmp, id: &str) -> Result<()> {
    let e = qmp.event("BLOCK_JOB_COMPLETED")?;
    ensure!(e["data"]["device"] == id && e["data"].get("error").is_none(), "{e}");
    Ok(())
}

#[test]
fn a_chain_is_committed_mirrored_and_exported() {
    if let Some(tool) = missing() {
        skip!("{tool} is not installed");
    }
    chain().unwrap();
}

fn chain() -> Result<()> {
    let dir = ScratchDir::new("jobs")?;
    let [base, mid, top, copy] = ["base", "mid", "top", "copy"].map(|n| dir.file(&format!("{n}.qcow2")));
    let img =
        |args: &[&str]| run_tool(rhea_binary(), &[&["img", "create", "-q", "-f", "qcow2"], args].concat());
    img(&[&base, "16M"])?;
    img(&["-b", &base, "-F", "qcow2", &mid])?;
    img(&["-b", &mid, "-F", "qcow2", &top])?;
    img(&[&copy, "16M"])?;
    for (file, write) in [(&base, "write -P 1 0 8M"), (&mid, "write -P 2 4M 6M"), (&top, "write -P 3 9M 2M")]
    {
        run_tool("qemu-io", &["-c", write, file])?;
    }
    let (want, got) = (dir.file("want.raw"), dir.file("got.raw"));
    run_tool("qemu-img", &["convert", "-O", "raw", &top, &want])?;

    let mut vm = VmBuilder::riscv64().args(["-M", "none"]).start()?;
    let qmp = vm.qmp();
    qmp.run("blockdev-add", node("base", &base, None))?;
    qmp.run("blockdev-add", node("mid", &mid, Some("base")))?;
    qmp.run("blockdev-add", node("top", &top, Some("mid")))?;
    qmp.run("blockdev-add", node("copy", &copy, None))?;
    qmp.run(
        "block-commit",
        json!({ "job-id": "c", "device": "top", "top-node": "mid", "base-node": "base" }),
    )?;
    job_ends(qmp, "c")?;
    qmp.run("blockdev-mirror", json!({ "job-id": "m", "device": "top", "target": "copy", "sync": "full" }))?;
    qmp.event("BLOCK_JOB_READY")?;
    qmp.run("job-complete", json!({ "id": "m" }))?;
    job_ends(qmp, "m")?;
    qmp.run("block-dirty-bitmap-add", json!({ "node": "top", "name": "since", "persistent": true }))?;
    let socket = dir.file("nbd.sock");
    qmp.run("nbd-server-start", json!({ "addr": { "type": "unix", "data": { "path": socket } } }))?;
    qmp.run("block-export-add", json!({ "type": "nbd", "id": "e", "node-name": "top", "name": "disk" }))?;
    run_tool("nbdcopy", &[&format!("nbd+unix:///disk?socket={socket}"), &got])?;
    ensure!(std::fs::read(&want)? == std::fs::read(&got)?, "the export shows something else");
    qmp.run("quit", json!({}))?;
    let (status, errors) = vm.wait(Duration::from_secs(30))?;
    ensure!(status.success(), "{status}: {errors}");

    for file in [&base, &top, &copy] {
        run_tool("qemu-img", &["check", "-q", file])?;
    }
    for file in [&top, &copy] {
        run_tool("qemu-img", &["compare", "-q", file, &want])?;
    }
    let info = run_tool("qemu-img", &["info", "--output=json", &top])?;
    let info: Value = serde_json::from_str(&info)?;
    ensure!(info["backing-filename"] == base.as_str(), "{info}");
    ensure!(info["format-specific"]["data"]["bitmaps"][0]["name"] == "since", "{info}");
    Ok(())
}

/// Size of the images, MiB: `RHEA_LOAD_MIB` for a longer run.
fn load_mib() -> usize {
    std::env::var("RHEA_LOAD_MIB").ok().and_then(|v| v.parse().ok()).unwrap_or(64)
}

/// Every kind of copying while an NBD client writes all the time: afterwards each byte is what it must be.
#[test]
fn jobs_under_load() {
    if let Some(tool) = missing() {
        skip!("{tool} is not installed");
    }
    under_load().unwrap();
}

fn raw(image: &str, to: &str) -> Result<Vec<u8>> {
    run_tool("qemu-img", &["convert", "-U", "-O", "raw", image, to])?;
    Ok(std::fs::read(to)?)
}

fn same(what: &str, got: &[u8], want: &[u8]) -> Result<()> {
    ensure!(got.len() == want.len(), "{what}: {} bytes instead of {}", got.len(), want.len());
    let at = got.iter().zip(want).position(|(a, b)| a != b);
    ensure!(at.is_none(), "{what}: differs at {at:?}");
    Ok(())
}

fn under_load() -> Result<()> {
    let mib = load_mib();
    let size = format!("{mib}M");
    let dir = ScratchDir::new("load")?;
    let [base, mid, top, copy, over, past] =
        ["base", "mid", "top", "copy", "over", "past"].map(|n| dir.file(&format!("{n}.qcow2")));
    let img =
        |args: &[&str]| run_tool(rhea_binary(), &[&["img", "create", "-q", "-f", "qcow2"], args].concat());
    img(&[&base, &size])?;
    img(&["-b", &base, "-F", "qcow2", &mid])?;
    img(&["-b", &mid, "-F", "qcow2", &top])?;
    for file in [&copy, &over, &past] {
        img(&[file, &size])?;
    }
    let half = mib / 2;
    // No longer than one request may be.
    let fill = |file: &str, pattern: &str, from: usize| -> Result<()> {
        for at in (0..half).step_by(1 << 10) {
            let n = (half - at).min(1 << 10);
            run_tool("qemu-io", &["-c", &format!("write -q -P {pattern} {}M {n}M", from + at), file])?;
        }
        Ok(())
    };
    fill(&base, "0xa1", 0)?;
    fill(&mid, "0xa2", mib / 4)?;
    let scratch = dir.file("raw");
    let before = raw(&top, &scratch)?;

    let mut vm = VmBuilder::riscv64().args(["-M", "none"]).start()?;
    let qmp = vm.qmp();
    qmp.run("blockdev-add", node("base", &base, None))?;
    qmp.run("blockdev-add", node("mid", &mid, Some("base")))?;
    qmp.run("blockdev-add", node("top", &top, Some("mid")))?;
    qmp.run("blockdev-add", node("copy", &copy, None))?;
    qmp.run("blockdev-add", node("past", &past, None))?;
    let mut overlay = node("over", &over, None);
    overlay["backing"] = Value::Null;
    qmp.run("blockdev-add", overlay)?;
    let socket = dir.file("nbd.sock");
    qmp.run("nbd-server-start", json!({ "addr": { "type": "unix", "data": { "path": socket } } }))?;
    qmp.run(
        "block-export-add",
        json!({ "type": "nbd", "id": "e", "node-name": "top", "name": "disk", "writable": true }),
    )?;
    let load = Load::start(&socket, "disk")?;
    let mut times = Vec::new();
    let mut done = |what: &'static str, since: std::time::Instant, from: u64| {
        times.push((what, since.elapsed().as_secs_f64(), load.done() - from));
    };
    load.more(50)?;

    // Two images below become one.
    let (since, from) = (std::time::Instant::now(), load.done());
    qmp.run(
        "block-commit",
        json!({ "job-id": "commit", "device": "top", "top-node": "mid", "base-node": "base" }),
    )?;
    job_ends(qmp, "commit")?;
    done("commit", since, from);
    load.more(50)?;
    // The image gets all that it lacks.
    let (since, from) = (std::time::Instant::now(), load.done());
    qmp.run("block-stream", json!({ "job-id": "stream", "device": "top" }))?;
    job_ends(qmp, "stream")?;
    done("stream", since, from);
    load.more(50)?;
    // A copy as it is at one moment between these two counts of writes.
    let (since, first) = (std::time::Instant::now(), load.done());
    qmp.run(
        "blockdev-backup",
        json!({ "job-id": "backup", "device": "top", "target": "past", "sync": "full" }),
    )?;
    let last = load.done() + 1;
    job_ends(qmp, "backup")?;
    done("backup", since, first);
    load.more(50)?;
    // The client goes on writing to the copy without noticing.
    let (since, from) = (std::time::Instant::now(), load.done());
    qmp.run(
        "blockdev-mirror",
        json!({ "job-id": "mirror", "device": "top", "target": "copy", "sync": "full" }),
    )?;
    qmp.event("BLOCK_JOB_READY")?;
    load.more(50)?;
    qmp.run("job-complete", json!({ "id": "mirror" }))?;
    job_ends(qmp, "mirror")?;
    done("mirror", since, from);
    load.more(50)?;
    // An overlay comes and is merged again while it is written to.
    let (since, from) = (std::time::Instant::now(), load.done());
    qmp.run("blockdev-snapshot", json!({ "node": "copy", "overlay": "over" }))?;
    load.more(100)?;
    qmp.run("block-commit", json!({ "job-id": "active", "device": "over", "base-node": "copy" }))?;
    qmp.event("BLOCK_JOB_READY")?;
    load.more(50)?;
    qmp.run("job-complete", json!({ "id": "active" }))?;
    job_ends(qmp, "active")?;
    done("active commit", since, from);
    load.more(50)?;

    let log = load.stop()?;
    let mut want = before.clone();
    replay(&mut want, &log, log.len());
    let mut client = NbdClient::connect(&socket, "disk")?;
    let mut got = vec![0; want.len()];
    for (i, piece) in got.chunks_mut(1 << 20).enumerate() {
        client.read((i as u64) << 20, piece)?;
    }
    same("the export", &got, &want)?;
    drop((client, got));
    qmp.run("quit", json!({}))?;
    let (status, errors) = vm.wait(Duration::from_secs(60))?;
    ensure!(status.success(), "{status}: {errors}");
    for (what, seconds, writes) in times {
        println!("{what:14} {seconds:7.2} s, {writes} writes meanwhile ({mib} MiB)");
    }
    for file in [&base, &top, &copy, &past] {
        run_tool("qemu-img", &["check", "-q", file])?;
    }
    same("the mirror's copy", &raw(&copy, &scratch)?, &want)?;
    let backup = raw(&past, &scratch)?;
    let at = youngest(&backup, &before, &log);
    ensure!((first as usize..=last as usize).contains(&at), "the backup is of {at}, not {first} to {last}");
    let mut want = before.clone();
    replay(&mut want, &log, at);
    same("the backup", &backup, &want)
}
