//! Debian's kernel and user space.

use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use e2e::{Console, DebianGuest, Qmp, ScratchDir, VmBuilder, rhea_binary, run_tool, skip};
use serde_json::json;

const OPENSBI: &str = "/usr/lib/riscv64-linux-gnu/opensbi/generic/fw_dynamic.bin";

/// The time in which the guest must reach its init on a machine of two cores.
const BOOT: Duration = Duration::from_secs(60);

fn guest_or_reason() -> Result<DebianGuest, &'static str> {
    DebianGuest::find()
        .ok_or("no Debian guest: 'cargo xtask guests' makes it where Debian's mirror is reached")
}

fn boot(guest: &DebianGuest, smp: u32, more: &[&str]) -> Result<()> {
    let began = Instant::now();
    let mut vm = VmBuilder::riscv64()
        .args(["-m", "512", "-smp", &smp.to_string(), "-append", "console=ttyS0 rhea.test=boot"])
        .args(["-kernel".into(), guest.kernel.display().to_string()])
        .args(["-initrd".into(), guest.initrd.display().to_string()])
        .args(more.iter().copied())
        .without_qmp()
        .start()?;
    let line = vm.console.expect("RHEA: init of", 2 * BOOT)?;
    let took = began.elapsed();
    ensure!(line.ends_with(&format!("{smp} harts")), "{line}");
    ensure!(took < BOOT, "init came after {took:?}");
    vm.console.expect("RHEA: PASS", BOOT)?;
    let (status, errors) = vm.wait(BOOT)?;
    ensure!(status.success(), "{status}: {errors}");
    Ok(())
}

macro_rules! boots {
    ($($name:ident: $smp:literal, $bios:expr;)*) => {$(
        #[test]
        fn $name() {
            let guest = match guest_or_reason() { Ok(g) => g, Err(why) => skip!("{why}") };
            let bios: Option<&str> = $bios;
            if bios.is_some_and(|b| !std::path::Path::new(b).exists()) {
                skip!("{OPENSBI} is not installed (package opensbi)");
            }
            let more: Vec<&str> = bios.into_iter().flat_map(|b| ["-bios", b]).collect();
            boot(&guest, $smp, &more).unwrap();
        }
    )*};
}

boots! {
    boots_with_the_built_in_sbi: 1, None;
    boots_with_the_built_in_sbi_on_two_harts: 2, None;
    boots_with_opensbi: 1, Some(OPENSBI);
    boots_with_opensbi_on_two_harts: 2, Some(OPENSBI);
}

#[test]
fn the_backing_file_is_exchanged_under_a_mounted_file_system() {
    let guest = match guest_or_reason() {
        Ok(g) => g,
        Err(why) => skip!("{why}"),
    };
    swap(&guest).unwrap();
}

fn swap(guest: &DebianGuest) -> Result<()> {
    let dir = ScratchDir::new("debian")?;
    let overlay = dir.file("overlay.qcow2");
    let base = guest.disk_a.display().to_string();
    run_tool(rhea_binary(), &["img", "create", "-q", "-f", "qcow2", "-b", &base, "-F", "raw", &overlay])?;
    let node = |name: &str, file: &std::path::Path| {
        json!({ "driver": "raw", "node-name": name, "read-only": true,
                "file": { "driver": "file", "filename": file, "auto-read-only": true } })
    };
    let mut vm = VmBuilder::riscv64()
        .args(["-m", "512", "-smp", "2", "-append", "console=ttyS0 quiet rhea.test=swap"])
        .args(["-kernel".into(), guest.kernel.display().to_string()])
        .args(["-initrd".into(), guest.initrd.display().to_string()])
        .args(["-blockdev", &node("a", &guest.disk_a).to_string()])
        .args([
            "-blockdev",
            &format!("driver=qcow2,node-name=disk,file.driver=file,file.filename={overlay},backing=a"),
        ])
        .args(["-device", "virtio-blk-device,drive=disk"])
        .start()?;
    let limit = Duration::from_secs(300);
    let marker = vm.console.expect("RHEA: marker", limit)?;
    ensure!(marker.ends_with("backing-A"), "{marker}");
    vm.console.expect("RHEA: ready for the swap", limit)?;
    vm.qmp().run("blockdev-add", node("b", &guest.disk_b))?;
    let options = json!({ "driver": "qcow2", "node-name": "disk", "backing": "b",
                          "file": { "driver": "file", "filename": overlay } });
    vm.qmp().run("blockdev-reopen", json!({ "options": [options] }))?;
    vm.qmp().run("blockdev-del", json!({ "node-name": "a" }))?;
    vm.console.send("swapped\n")?;
    let marker = vm.console.expect("RHEA: marker", limit)?;
    ensure!(marker.ends_with("backing-B"), "{marker}");
    vm.console.expect("RHEA: PASS", limit)?;
    let (status, errors) = vm.wait(limit)?;
    ensure!(status.success(), "{status}: {errors}");
    run_tool(rhea_binary(), &["img", "check", &overlay])?;
    Ok(())
}

#[test]
fn a_mounted_file_system_is_copied_merged_and_moved() {
    let guest = match guest_or_reason() {
        Ok(g) => g,
        Err(why) => skip!("{why}"),
    };
    for tool in ["qemu-img", "e2fsck"] {
        if std::process::Command::new(tool).arg("-V").output().is_err() {
            skip!("{tool} is not installed");
        }
    }
    jobs(&guest).unwrap();
}

/// While the guest writes files and reads them back, its disk is backed up, gets an overlay that is merged again, and
/// is moved to another image.
fn jobs(guest: &DebianGuest) -> Result<()> {
    let dir = ScratchDir::new("debian-jobs")?;
    let file = |name: &str| dir.file(&format!("{name}.qcow2"));
    let base = guest.disk_a.display().to_string();
    let size = std::fs::metadata(&guest.disk_a)?.len().to_string();
    let create = ["img", "create", "-q", "-f", "qcow2"];
    run_tool(rhea_binary(), &[&create[..], &["-b", &base, "-F", "raw", &file("disk")]].concat())?;
    for name in ["copy", "top", "moved"] {
        run_tool(rhea_binary(), &[&create[..], &[&file(name), &size]].concat())?;
    }
    let mut vm = VmBuilder::riscv64()
        .args(["-m", "512", "-smp", "2", "-append", "console=ttyS0 quiet rhea.test=swap"])
        .args(["-kernel".into(), guest.kernel.display().to_string()])
        .args(["-initrd".into(), guest.initrd.display().to_string()])
        .args([
            "-blockdev",
            &format!("driver=qcow2,node-name=disk,file.driver=file,file.filename={}", file("disk")),
        ])
        .args(["-device", "virtio-blk-device,drive=disk"])
        .start()?;
    let limit = Duration::from_secs(300);
    vm.console.expect("RHEA: ready for the swap", limit)?;
    let qmp = vm.qmp();
    for name in ["copy", "top", "moved"] {
        let image = json!({ "driver": "qcow2", "node-name": name, "backing": null,
                            "file": { "driver": "file", "filename": file(name) } });
        qmp.run("blockdev-add", image)?;
    }
    let ends = |qmp: &mut Qmp, id: &str| {
        let e = qmp.event("BLOCK_JOB_COMPLETED")?;
        ensure!(e["data"]["device"] == id && e["data"].get("error").is_none(), "{e}");
        Ok(())
    };
    let args = json!({ "job-id": "backup", "device": "disk", "target": "copy", "sync": "full" });
    qmp.run("blockdev-backup", args)?;
    ends(qmp, "backup")?;
    qmp.run("blockdev-snapshot", json!({ "node": "disk", "overlay": "top" }))?;
    qmp.run("block-commit", json!({ "job-id": "commit", "device": "top", "base-node": "disk" }))?;
    qmp.event("BLOCK_JOB_READY")?;
    qmp.run("block-job-complete", json!({ "device": "commit" }))?;
    ends(qmp, "commit")?;
    qmp.run("blockdev-del", json!({ "node-name": "top" }))?;
    let args = json!({ "job-id": "mirror", "device": "disk", "target": "moved", "sync": "full" });
    qmp.run("blockdev-mirror", args)?;
    qmp.event("BLOCK_JOB_READY")?;
    qmp.run("block-job-complete", json!({ "device": "mirror" }))?;
    ends(qmp, "mirror")?;
    for name in ["disk", "copy"] {
        qmp.run("blockdev-del", json!({ "node-name": name }))?;
    }
    // The guest goes on for some rounds, and checks everything.
    vm.console.send("swapped\n")?;
    let marker = vm.console.expect("RHEA: marker", limit)?;
    ensure!(marker.ends_with("backing-A"), "{marker}");
    vm.console.expect("RHEA: PASS", limit)?;
    let (status, errors) = vm.wait(limit)?;
    ensure!(status.success(), "{status}: {errors}");
    // The file system was unmounted in the end; in the backup it is as after a loss of power.
    for (name, mode) in [("moved", "-fn"), ("copy", "-fp")] {
        run_tool(rhea_binary(), &["img", "check", &file(name)])?;
        let raw = dir.file(name);
        run_tool("qemu-img", &["convert", "-O", "raw", &file(name), &raw])?;
        let e2fsck = std::process::Command::new("e2fsck").args([mode, &raw]).output()?;
        let said = String::from_utf8_lossy(&e2fsck.stdout);
        ensure!(
            matches!(e2fsck.status.code(), Some(0)) || (mode == "-fp" && e2fsck.status.code() == Some(1)),
            "{name}: {said}"
        );
    }
    Ok(())
}

#[test]
fn a_driver_works_with_the_console_and_the_entropy_device() {
    let guest = match guest_or_reason() {
        Ok(g) => g,
        Err(why) => skip!("{why}"),
    };
    // Register layout 1 with split rings, and layout 2 with packed ones.
    devices(&guest, &[], "").unwrap();
    devices(&guest, &["-global", "virtio-mmio.force-legacy=off"], ",packed=on").unwrap();
}

fn devices(guest: &DebianGuest, more: &[&str], ring: &str) -> Result<()> {
    let dir = ScratchDir::new("devices")?;
    let (console, port) = (dir.file("console"), dir.file("port"));
    let mut vm = VmBuilder::riscv64()
        .args(["-m", "512", "-smp", "2", "-append", "console=ttyS0 quiet rhea.test=devices"])
        .args(["-kernel".into(), guest.kernel.display().to_string()])
        .args(["-initrd".into(), guest.initrd.display().to_string()])
        .args(["-chardev", &format!("socket,id=c,path={console},server=on,wait=off")])
        .args(["-chardev", &format!("socket,id=p,path={port},server=on,wait=off")])
        .args(["-device", &format!("virtio-serial-device{ring}")])
        .args(["-device", "virtconsole,chardev=c", "-device", "virtserialport,chardev=p,name=org.rhea.test"])
        .args(["-object", "rng-random,id=r,filename=/dev/urandom"])
        .args(["-device", &format!("virtio-rng-device,rng=r{ring}")])
        .args(more.iter().copied())
        .start()?;
    let limit = Duration::from_secs(120);
    let attach = |path: &str| -> Result<Console> {
        let socket = UnixStream::connect(path)?;
        Ok(Console::new(socket.try_clone()?, Some(Box::new(socket)), None))
    };
    for (mut line, name) in [(attach(&console)?, "hvc0"), (attach(&port)?, "vport0p1")] {
        line.expect(&format!("this is {name}"), limit)?;
        for word in ["one", "two", "end"] {
            line.send(&format!("{word}\n"))?;
            line.expect(&format!("{name} got {word}"), limit)?;
        }
        if name == "vport0p1" {
            // 300 kB come whole.
            line.expect(&"x".repeat(300_000), limit)?;
        }
    }
    vm.console.expect("RHEA: PASS", limit)?;
    let (status, errors) = vm.wait(limit)?;
    ensure!(status.success(), "{status}: {errors}");
    Ok(())
}
