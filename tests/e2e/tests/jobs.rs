//! Jobs and exports on real images: what other people's tools read afterwards is what was to be there.

use std::time::Duration;

use anyhow::{Result, ensure};
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
