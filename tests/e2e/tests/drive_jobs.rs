//! `drive-mirror` and `drive-backup`: jobs that make or open the images that they copy to, while a client writes.

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::nbd::{Load, replay, youngest};
use e2e::{Qmp, ScratchDir, StorageDaemon, run_tool, skip};
use serde_json::{Value, json};

const TOOLS: [&str; 2] = ["qemu-img", "qemu-io"];

fn job_ends(qmp: &mut Qmp, id: &str) -> Result<()> {
    let e = qmp.event("BLOCK_JOB_COMPLETED")?;
    ensure!(e["data"]["device"] == id && e["data"].get("error").is_none(), "{e}");
    Ok(())
}

fn raw(image: &str, to: &str) -> Result<Vec<u8>> {
    run_tool("qemu-img", &["convert", "-U", "-O", "raw", image, to])?;
    Ok(std::fs::read(to)?)
}

fn backing_of(image: &str) -> Result<Option<String>> {
    let info: Value = serde_json::from_str(&run_tool("qemu-img", &["info", "-U", "--output=json", image])?)?;
    Ok(info["backing-filename"].as_str().map(str::to_owned))
}

#[test]
fn images_are_made_and_found_by_the_jobs() {
    if let Some(t) = TOOLS.iter().find(|t| std::process::Command::new(t).arg("--version").output().is_err()) {
        skip!("{t} is not installed");
    }
    found_and_made().unwrap();
}

/// What a mirror of the topmost image goes to: the options of an image that is there, or none.
const TARGETS: &[(&str, Option<&str>, &str)] = &[
    ("made", None, "background"),
    ("made-blocking", None, "write-blocking"),
    // A piece is less than a cluster: what is around it must come from the backing file that is not open yet.
    ("wide", Some("cluster_size=2M"), "background"),
    ("wide-blocking", Some("cluster_size=2M"), "write-blocking"),
    // Its clusters cannot say that they are zero.
    ("old", Some("compat=0.10"), "background"),
    ("old-blocking", Some("compat=0.10"), "write-blocking"),
    ("narrow", Some("cluster_size=4k"), "write-blocking"),
];

fn found_and_made() -> Result<()> {
    let dir = ScratchDir::new("drive-jobs")?;
    let file = |n: &str| dir.file(&format!("{n}.qcow2"));
    let (base, top) = (file("base"), file("top"));
    run_tool("qemu-img", &["create", "-q", "-f", "qcow2", &base, "12M"])?;
    run_tool("qemu-img", &["create", "-q", "-f", "qcow2", "-b", &base, "-F", "qcow2", &top])?;
    run_tool("qemu-io", &["-c", "write -q -P 0xa1 0 12M", &base])?;
    run_tool("qemu-io", &["-c", "write -q -P 0xa2 1M 2M", "-c", "write -q -z 4M 3M", &top])?;
    let scratch = dir.file("raw");
    let before = raw(&top, &scratch)?;

    let mut daemon = StorageDaemon::start(&[])?;
    let qmp = daemon.qmp();
    let options =
        json!({ "driver": "qcow2", "node-name": "top", "file": { "driver": "file", "filename": top } });
    qmp.run("blockdev-add", options)?;
    let socket = dir.file("nbd.sock");
    qmp.run("nbd-server-start", json!({ "addr": { "type": "unix", "data": { "path": socket } } }))?;
    let export = json!({ "type": "nbd", "id": "e", "node-name": "top", "name": "disk", "writable": true });
    qmp.run("block-export-add", export)?;
    let load = Load::start(&socket, "disk")?;
    let mut node = "top".to_owned();
    for (name, options, mode) in TARGETS {
        let target = file(name);
        let mut arguments = json!({ "job-id": "m", "device": node, "target": target, "sync": "top",
            "node-name": name, "format": "qcow2", "copy-mode": mode });
        if let Some(o) = options {
            let create = ["create", "-q", "-f", "qcow2", "-o", o, "-b", &base, "-F", "qcow2", &target];
            run_tool("qemu-img", &create)?;
            arguments["mode"] = "existing".into();
        }
        qmp.run("drive-mirror", arguments)?;
        qmp.event("BLOCK_JOB_READY")?;
        load.more(30)?;
        qmp.run("job-complete", json!({ "id": "m" }))?;
        job_ends(qmp, "m")?;
        load.more(10)?;
        ensure!(backing_of(&target)?.as_deref() == Some(&*base), "{name}");
        node = (*name).to_owned();
    }
    // Backups of moments between two counts of writes.
    let mut moments = Vec::new();
    for sync in ["full", "top"] {
        let (target, first) = (file(&format!("backup-{sync}")), load.done());
        let arguments = json!({ "job-id": "b", "device": node, "target": target, "sync": sync });
        qmp.run("drive-backup", arguments)?;
        let last = load.done() + 1;
        load.more(20)?;
        job_ends(qmp, "b")?;
        moments.push((target, first as usize..=last as usize));
    }
    ensure!(backing_of(&moments[1].0)?.as_deref() == Some(&*base), "the backup stands on something else");
    // The copy stands on what was copied, and all that comes goes there.
    let last = file("last");
    let arguments = json!({ "job-id": "m", "device": node, "target": last, "sync": "none",
        "node-name": "last" });
    qmp.run("drive-mirror", arguments)?;
    qmp.event("BLOCK_JOB_READY")?;
    load.more(30)?;
    qmp.run("job-complete", json!({ "id": "m" }))?;
    job_ends(qmp, "m")?;
    load.more(30)?;

    let log = load.stop()?;
    qmp.run("quit", json!({}))?;
    let (status, errors) = daemon.wait(Duration::from_secs(30))?;
    ensure!(status.success(), "{status}: {errors}");
    let mut want = before.clone();
    replay(&mut want, &log, log.len());
    let got = raw(&last, &scratch)?;
    let differ = got.iter().zip(&want).position(|(a, b)| a != b);
    ensure!(differ.is_none() && got.len() == want.len(), "the last copy differs at {differ:?}");
    for (image, moment) in moments {
        let got = raw(&image, &scratch)?;
        let at = youngest(&got, &before, &log);
        ensure!(moment.contains(&at), "{image} is of {at}, not of {moment:?}");
        let mut want = before.clone();
        replay(&mut want, &log, at);
        ensure!(got == want, "{image} is wrong");
        run_tool("qemu-img", &["check", "-q", &image])?;
    }
    run_tool("qemu-img", &["check", "-q", &last]).map(drop)
}

#[test]
fn a_mirror_that_cannot_have_its_backing_file_changes_nothing() {
    if let Some(t) = TOOLS.iter().find(|t| std::process::Command::new(t).arg("--version").output().is_err()) {
        skip!("{t} is not installed");
    }
    no_backing_file().unwrap();
}

fn no_backing_file() -> Result<()> {
    let dir = ScratchDir::new("drive-jobs-gone")?;
    let [base, top, copy] = ["base", "top", "copy"].map(|n| dir.file(&format!("{n}.qcow2")));
    run_tool("qemu-img", &["create", "-q", "-f", "qcow2", &base, "4M"])?;
    run_tool("qemu-img", &["create", "-q", "-f", "qcow2", "-b", &base, "-F", "qcow2", &top])?;
    let gone = dir.file("gone.qcow2");
    let create = ["create", "-q", "-u", "-f", "qcow2", "-b", &gone, "-F", "qcow2", &copy, "4M"];
    run_tool("qemu-img", &create)?;
    let mut daemon = StorageDaemon::start(&[])?;
    let qmp = daemon.qmp();
    let options =
        json!({ "driver": "qcow2", "node-name": "top", "file": { "driver": "file", "filename": top } });
    qmp.run("blockdev-add", options)?;
    let arguments = json!({ "job-id": "m", "device": "top", "target": copy, "sync": "top",
        "mode": "existing", "node-name": "copy" });
    qmp.run("drive-mirror", arguments)?;
    qmp.event("BLOCK_JOB_READY")?;
    qmp.run("job-complete", json!({ "id": "m" }))?;
    let e = qmp.event("BLOCK_JOB_COMPLETED")?;
    let text = e["data"]["error"].as_str().unwrap_or_default();
    ensure!(text.starts_with("Could not open backing file: Could not open"), "{e}");
    qmp.event("JOB_STATUS_CHANGE")?;
    let nodes = qmp.run("query-named-block-nodes", json!({ "flat": true }))?;
    let names: Vec<_> =
        nodes.as_array().into_iter().flatten().filter_map(|n| n["node-name"].as_str()).collect();
    ensure!(names.contains(&"top") && !names.contains(&"copy"), "{names:?}");
    Ok(())
}
