//! `qemu-io` of the human monitor: requests by hand to the disks of a machine.

use anyhow::{Result, ensure};
use e2e::{Qmp, ScratchDir, Vm, VmBuilder, embedded_guest};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(20);

/// A machine that does nothing: a disk that a guest has (`used`, device `blk0`), one that nobody has (`free`), a drive
/// without a medium (`empty`) and a node (`zero`). Its second monitor is `second`.
fn machine() -> Result<(Vm, ScratchDir)> {
    let dir = ScratchDir::new("monitor-io")?;
    let mut args: Vec<String> = ["-S", "-m", "64", "-append", "idle"].map(String::from).into();
    args.extend(["-kernel".into(), embedded_guest().display().to_string()]);
    for name in ["used", "free"] {
        let file = dir.file(name);
        std::fs::File::create(&file)?.set_len(1 << 20)?;
        args.extend(["-drive".into(), format!("file={file},format=raw,if=none,id={name}")]);
    }
    args.extend(["-device", "virtio-blk-device,drive=used,id=blk0"].map(String::from));
    args.extend(["-drive", "if=none,id=empty"].map(String::from));
    args.extend(["-blockdev", "null-co,node-name=zero,read-zeroes=on,size=1048576"].map(String::from));
    args.extend(["-qmp".into(), format!("unix:{},server=on,wait=off", dir.file("second"))]);
    Ok((VmBuilder::riscv64().args(args).start()?, dir))
}

/// What the monitor answers to a command of the tool.
fn io(qmp: &mut Qmp, line: &str) -> Result<String> {
    let v = qmp.run("human-monitor-command", json!({ "command-line": format!("qemu-io {line}") }))?;
    Ok(v.as_str().unwrap_or_default().to_owned())
}

/// The drive `name`.
fn drive(vm: &mut Vm, name: &str) -> Result<Value> {
    let all = vm.qmp().run("query-block", json!({}))?;
    Ok(all.as_array().and_then(|a| a.iter().find(|b| b["device"] == name)).cloned().unwrap_or_default())
}

/// Waits until somebody has the drive `free`, or nobody.
fn taken(vm: &mut Vm, wanted: bool) -> Result<()> {
    let begun = Instant::now();
    while drive(vm, "free")?["removable"] == wanted {
        ensure!(begun.elapsed() < SOON, "the drive is taken: {}", !wanted);
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

#[test]
fn what_is_written_is_read_by_others() -> Result<()> {
    let (mut vm, dir) = machine()?;
    for (device, disk) in [("free", "free"), ("used", "used"), ("-d blk0", "used")] {
        let pattern = device.len() as u8;
        ensure!(io(vm.qmp(), &format!("{device} \"write -P {pattern} 4k 8k\""))?.is_empty());
        ensure!(io(vm.qmp(), &format!("{device} \"read -q -P {pattern} 4k 8k\""))?.is_empty());
        vm.console.expect("wrote 8192/8192 bytes at offset 4096", SOON)?;
        ensure!(io(vm.qmp(), &format!("{device} \"flush\""))?.is_empty());
        let bytes = std::fs::read(dir.file(disk))?;
        ensure!(bytes[4096..12288].iter().all(|b| *b == pattern) && bytes[12288] == 0, "{device}");
        ensure!(io(vm.qmp(), &format!("{device} \"read -P 99 4k 512\""))?.is_empty());
        vm.console.expect("Pattern verification failed at offset 4096, 512 bytes", SOON)?;
    }
    // What was started in the background ends as well, and then nobody has the drive.
    ensure!(io(vm.qmp(), "free \"aio_write -P 7 64k 4k\"")?.is_empty());
    vm.console.expect("wrote 4096/4096 bytes at offset 65536", SOON)?;
    ensure!(io(vm.qmp(), "free \"read -P 7 64k 4k\"")?.is_empty());
    vm.console.expect("read 4096/4096 bytes at offset 65536", SOON)?;
    taken(&mut vm, false)
}

#[test]
fn the_machine_is_not_ended() -> Result<()> {
    let (mut vm, _dir) = machine()?;
    for (line, wanted) in [
        ("free \"abort\"", "Error: 'abort' would end the whole machine: it cannot be used here\r\n"),
        ("used \"sigraise 9\"", "Error: 'sigraise' would end the whole machine: it cannot be used here\r\n"),
        ("nope \"abort\"", "Error: Cannot find device='' nor node-name='nope'\r\n"),
        ("nope \"quit\"", "Error: Cannot find device='' nor node-name='nope'\r\n"),
        ("free \"quit\"", ""),
        ("free \"open x\"", ""),
    ] {
        let said = io(vm.qmp(), line)?;
        ensure!(said == wanted, "{line}: {said}");
    }
    vm.qmp().run("query-status", json!({}))?;
    Ok(())
}

#[test]
fn a_drive_without_a_medium_says_so() -> Result<()> {
    let (mut vm, _dir) = machine()?;
    for (command, printed) in [
        ("read 0 512", "read failed: No medium found"),
        ("readv 0 512", "readv failed: No medium found"),
        ("aio_read 0 512", "readv failed: No medium found"),
        ("write 0 512", "write failed: No medium found"),
        ("write -z 0 512", "write failed: No medium found"),
        ("writev 0 512", "writev failed: No medium found"),
        ("aio_write 0 512", "aio_write failed: No medium found"),
        ("discard 0 512", "discard failed: No medium found"),
        ("length", "getlength: No medium found"),
        ("alloc 0", "is_allocated failed: No medium found"),
        ("zone_report 0 1", "zone report failed: No medium found"),
    ] {
        let said = io(vm.qmp(), &format!("empty \"{command}\""))?;
        ensure!(said.is_empty(), "{command}: {said}");
        vm.console.expect(printed, SOON)?;
    }
    for (command, wanted) in [
        ("truncate 1k", "No medium inserted\r\n"),
        ("reopen -r", "No medium inserted\r\n"),
        ("map", "Failed to query image length: No medium found\r\n"),
        ("info", "No medium found\r\n"),
        ("flush", ""),
    ] {
        let said = io(vm.qmp(), &format!("empty \"{command}\""))?;
        ensure!(said == wanted, "{command}: {said}");
    }
    Ok(())
}

#[test]
fn a_reopen_leaves_the_guest_its_disk() -> Result<()> {
    let (mut vm, _dir) = machine()?;
    for line in ["used \"reopen -r\"", "used \"reopen -w -c none\"", "-d blk0 \"reopen -c writethrough\""] {
        let said = io(vm.qmp(), line)?;
        if line.contains("writethrough") {
            ensure!(said == "Cannot change cache.writeback: Device attached\r\n", "{said}");
        }
        let used = drive(&mut vm, "used")?;
        ensure!(used["qdev"].as_str().unwrap_or_default().contains("blk0"), "{line}: {used}");
    }
    let said = io(vm.qmp(), "free \"reopen -r\"")?;
    ensure!(said.is_empty(), "{said}");
    let said = io(vm.qmp(), "free \"write 0 512\"")?;
    ensure!(said == "Block node is read-only\r\n", "{said}");
    let said = io(vm.qmp(), "free \"reopen -r -w\"")?;
    ensure!(said == "Only one -r/-w option may be given\r\n", "{said}");
    taken(&mut vm, false)
}

#[test]
fn who_sleeps_keeps_up_nobody_else() -> Result<()> {
    let (mut vm, dir) = machine()?;
    let second = dir.file("second");
    let mut other = Qmp::connect(std::path::Path::new(&second), SOON)?;
    let line = "{\"execute\": \"human-monitor-command\", \"arguments\": \
                {\"command-line\": \"qemu-io free \\\"sleep 3600000\\\"\"}}\n";
    other.send_raw(line.as_bytes())?;
    std::thread::sleep(Duration::from_millis(50));
    taken(&mut vm, false)?;
    ensure!(io(vm.qmp(), "free \"write -q 0 512\"")?.is_empty());
    drop(other);
    taken(&mut vm, false)
}
