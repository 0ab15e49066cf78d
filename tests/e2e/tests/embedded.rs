//! The embedded guest: virtio-blk over real images, and a backing file exchanged under running I/O.

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::{ScratchDir, Vm, VmBuilder, embedded_guest, rhea_binary, run_tool};
use serde_json::json;

const SOON: Duration = Duration::from_secs(60);

fn img(args: &[&str]) -> Result<String> {
    run_tool(rhea_binary(), &[&["img"], args].concat())
}

fn machine(append: &str) -> VmBuilder {
    VmBuilder::riscv64().args([
        "-m",
        "64",
        "-kernel",
        &embedded_guest().display().to_string(),
        "-append",
        append,
    ])
}

fn passes(mut vm: Vm) -> Result<()> {
    vm.console.expect("PASS", SOON)?;
    let (status, errors) = vm.wait(SOON)?;
    ensure!(status.success(), "{status}: {errors}");
    Ok(())
}

/// Has the guest fill the image with a pattern, through the given `-drive` (and further options).
fn fill(pattern: u32, drive: &str, device: &str) -> Result<()> {
    let vm = machine(&format!("fill={pattern}"))
        .args(["-drive", &format!("{drive},if=none,id=d"), "-device", &format!("{device},drive=d")])
        .without_qmp()
        .start()?;
    passes(vm)
}

fn verify(pattern: u32, drive: &str, more: &[&str]) -> Result<()> {
    let vm = machine(&format!("verify={pattern}"))
        .args(["-drive", &format!("{drive},if=none,id=d"), "-device", "virtio-blk-device,drive=d"])
        .args(more.iter().copied())
        .without_qmp()
        .start()?;
    passes(vm)
}

#[test]
fn every_way_to_open_a_file_writes_and_reads_the_same() -> Result<()> {
    let dir = ScratchDir::new("aio")?;
    for (i, options) in [
        "aio=threads",
        "aio=io_uring",
        "aio=native,cache.direct=on",
        "cache=none",
        "cache=unsafe",
        "cache=writethrough",
    ]
    .iter()
    .enumerate()
    {
        let file = dir.file(&format!("{i}.qcow2"));
        img(&["create", "-q", "-f", "qcow2", &file, "4M"])?;
        fill(3, &format!("file={file},format=qcow2,{options}"), "virtio-blk-device")?;
        verify(3, &format!("file={file},format=qcow2"), &[])?;
    }
    Ok(())
}

#[test]
fn raw_images_and_both_virtio_generations() -> Result<()> {
    let dir = ScratchDir::new("raw")?;
    let file = dir.file("disk.raw");
    std::fs::File::create(&file)?.set_len(4 << 20)?;
    fill(4, &format!("file={file},format=raw"), "virtio-blk-device")?;
    verify(4, &format!("file={file},format=raw,readonly=on"), &[])?;
    let modern = ["-global", "virtio-mmio.force-legacy=off"];
    verify(4, &format!("file={file},format=raw"), &modern)
}

#[test]
fn a_guest_with_wrong_data_fails_and_the_exit_code_says_so() -> Result<()> {
    let dir = ScratchDir::new("wrong")?;
    let file = dir.file("disk.qcow2");
    img(&["create", "-q", "-f", "qcow2", &file, "1M"])?;
    let mut vm = machine("verify=9")
        .args([
            "-drive",
            &format!("file={file},format=qcow2,if=none,id=d"),
            "-device",
            "virtio-blk-device,drive=d",
        ])
        .without_qmp()
        .start()?;
    vm.console.expect("wrong data", SOON)?;
    let (status, _) = vm.wait(SOON)?;
    ensure!(status.code() == Some(1), "the test finisher's code 1 is the exit code, not {status}");
    Ok(())
}

/// The main job, over several kinds of old and new backing file, with the graph's rules held against it on the way.
#[test]
fn the_backing_file_is_exchanged_under_running_io() -> Result<()> {
    let dir = ScratchDir::new("swap")?;
    let image = |name: &str| dir.file(name);
    for (file, options, pattern) in [
        (image("a.qcow2"), vec!["-f", "qcow2"], 1),
        (image("b.qcow2"), vec!["-f", "qcow2", "-o", "cluster_size=4k,compat=0.10"], 2),
    ] {
        img(&[&["create", "-q"], &options[..], &[&file, "8M"]].concat())?;
        fill(pattern, &format!("file={file},format=qcow2"), "virtio-blk-device")?;
    }
    let overlay = image("overlay.qcow2");
    img(&["create", "-q", "-f", "qcow2", "-b", &image("a.qcow2"), "-F", "qcow2", &overlay])?;
    let node = |name: &str, file: &str| {
        json!({ "driver": "qcow2", "node-name": name, "read-only": true,
                "file": { "driver": "file", "node-name": format!("{name}-file"), "filename": file,
                          "auto-read-only": true } })
    };
    let mut vm = machine("swap=1,2")
        .args(["-blockdev", &node("a", &image("a.qcow2")).to_string()])
        .args(["-blockdev", &format!("driver=file,node-name=disk-file,filename={overlay}")])
        .args(["-blockdev", "driver=qcow2,node-name=disk,file=disk-file,backing=a"])
        .args(["-device", "virtio-blk-device,drive=disk,id=d0"])
        .start()?;
    vm.console.expect("ready:", SOON)?;
    let disk = |backing: serde_json::Value| json!({ "driver": "qcow2", "node-name": "disk", "file": "disk-file", "backing": backing });
    let qmp = vm.qmp();
    let before = qmp.run("query-named-block-nodes", json!({}))?;
    let refused =
        |qmp: &mut e2e::Qmp, command: &str, arguments: serde_json::Value, text: &str| -> Result<()> {
            match qmp.try_run(command, arguments)? {
                Ok(_) => anyhow::bail!("{command} was to fail: {text}"),
                Err(e) => ensure!(e.desc == text, "'{}' instead of '{text}'", e.desc),
            }
            Ok(())
        };
    let reopen = |list: serde_json::Value| json!({ "options": list });
    refused(
        qmp,
        "blockdev-reopen",
        reopen(json!([disk("nope".into())])),
        "Cannot find device='' nor node-name='nope'",
    )?;
    refused(
        qmp,
        "blockdev-reopen",
        reopen(json!([disk("disk".into())])),
        "Making 'disk' a backing child of 'disk' would create a cycle",
    )?;
    let mut missing = disk(json!(null));
    missing.as_object_mut().unwrap().remove("backing");
    refused(qmp, "blockdev-reopen", reopen(json!([missing])), "backing is missing for 'disk'")?;
    refused(
        qmp,
        "blockdev-reopen",
        reopen(json!([{ "driver": "qcow2", "node-name": "disk", "file": "disk-file", "bogus": 1 }])),
        "Parameter 'options[0].bogus' is unexpected",
    )?;
    refused(
        qmp,
        "blockdev-del",
        json!({ "node-name": "a" }),
        "Node 'a' is busy: node is used as backing hd of 'disk'",
    )?;
    // One bad entry undoes the good one before it.
    qmp.run("blockdev-add", node("b", &image("b.qcow2")))?;
    refused(
        qmp,
        "blockdev-reopen",
        reopen(json!([disk("b".into()), { "driver": "qcow2", "node-name": "nope", "file": "x" }])),
        "Failed to find node with node-name='nope'",
    )?;
    qmp.run("blockdev-del", json!({ "node-name": "b" }))?;
    let after = qmp.run("query-named-block-nodes", json!({}))?;
    ensure!(before == after, "a refused request changed the graph");

    qmp.run("blockdev-add", node("b", &image("b.qcow2")))?;
    qmp.run("blockdev-reopen", reopen(json!([disk("b".into())])))?;
    qmp.run("blockdev-del", json!({ "node-name": "a" }))?;
    vm.console.expect("swapped: seen after", SOON)?;
    passes(vm)?;
    img(&["check", &overlay])?;
    Ok(())
}

/// To and fro many times while the guest works: with equal content, it must never see anything else.
#[test]
fn the_backing_file_goes_to_and_fro() -> Result<()> {
    let dir = ScratchDir::new("to-and-fro")?;
    for name in ["a.qcow2", "b.qcow2"] {
        let file = dir.file(name);
        img(&["create", "-q", "-f", "qcow2", &file, "8M"])?;
        fill(1, &format!("file={file},format=qcow2"), "virtio-blk-device")?;
    }
    let c = dir.file("c.qcow2");
    img(&["create", "-q", "-f", "qcow2", &c, "8M"])?;
    fill(2, &format!("file={c},format=qcow2"), "virtio-blk-device")?;
    let overlay = dir.file("overlay.qcow2");
    img(&["create", "-q", "-f", "qcow2", "-b", &dir.file("a.qcow2"), "-F", "qcow2", &overlay])?;
    let base = |n: &str| {
        format!(
            "driver=qcow2,node-name={n},read-only=on,file.driver=file,file.filename={}",
            dir.file(&format!("{n}.qcow2"))
        )
    };
    let mut vm = machine("swap=1,2")
        .args(["-blockdev", &base("a"), "-blockdev", &base("b"), "-blockdev", &base("c")])
        .args([
            "-blockdev",
            &format!("driver=qcow2,node-name=disk,file.driver=file,file.filename={overlay},backing=a"),
        ])
        .args(["-device", "virtio-blk-device,drive=disk"])
        .start()?;
    vm.console.expect("ready:", SOON)?;
    let to = |n: &str| {
        json!({ "options": [{ "driver": "qcow2", "node-name": "disk", "backing": n,
                              "file": { "driver": "file", "filename": overlay } }] })
    };
    for i in 0..40 {
        vm.qmp().run("blockdev-reopen", to(if i % 2 == 0 { "b" } else { "a" }))?;
    }
    vm.qmp().run("blockdev-reopen", to("c"))?;
    vm.console.expect("swapped: seen after", SOON)?;
    passes(vm)
}
