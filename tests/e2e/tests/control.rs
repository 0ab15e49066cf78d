//! The control plane from outside: run states, several clients, rubbish, clients that vanish.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::{Qmp, ScratchDir, Vm, VmBuilder, embedded_guest};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(30);

/// A machine with a disk whose guest runs and does nothing.
fn idle_machine(more: &[&str]) -> Result<(Vm, ScratchDir)> {
    let dir = ScratchDir::new("control")?;
    let disk = dir.file("disk.raw");
    std::fs::File::create(&disk)?.set_len(1 << 20)?;
    let vm = VmBuilder::riscv64()
        .args(["-m", "64", "-kernel", &embedded_guest().display().to_string(), "-append", "idle"])
        .args([
            "-drive",
            &format!("file={disk},format=raw,if=none,id=d"),
            "-device",
            "virtio-blk-device,drive=d,id=blk0",
        ])
        .args(more.iter().copied())
        .start()?;
    Ok((vm, dir))
}

fn status(qmp: &mut Qmp) -> Result<String> {
    let v = qmp.run("query-status", json!({}))?;
    ensure!(v["running"] == (v["status"] == "running"), "{v}");
    Ok(v["status"].as_str().unwrap_or_default().to_string())
}

#[test]
fn quit_is_answered_after_the_event() -> Result<()> {
    for _ in 0..10 {
        let mut vm = VmBuilder::riscv64().args(["-M", "none"]).start()?;
        vm.qmp().send_raw(b"{\"execute\": \"quit\"}\n")?;
        let first = vm.qmp().receive_raw()?;
        ensure!(first["event"] == "SHUTDOWN", "{first}");
        let second = vm.qmp().receive_raw()?;
        ensure!(second == json!({ "return": {} }), "{second}");
        let (status, errors) = vm.wait(SOON)?;
        ensure!(status.success(), "{status}: {errors}");
    }
    Ok(())
}

#[test]
fn run_states_and_their_events() -> Result<()> {
    let (mut vm, _dir) = idle_machine(&["-S", "-no-shutdown"])?;
    let qmp = vm.qmp();
    ensure!(status(qmp)? == "prelaunch");
    qmp.run("cont", json!({}))?;
    qmp.event("RESUME")?;
    qmp.run("stop", json!({}))?;
    qmp.event("STOP")?;
    ensure!(status(qmp)? == "paused");
    qmp.run("system_reset", json!({}))?;
    let e = qmp.event("RESET")?;
    ensure!(e["data"] == json!({ "guest": false, "reason": "host-qmp-system-reset" }), "{e}");
    ensure!(e["timestamp"]["seconds"].is_u64() && e["timestamp"]["microseconds"].is_u64(), "{e}");
    qmp.run("cont", json!({}))?;
    qmp.run("system_powerdown", json!({}))?;
    qmp.event("POWERDOWN")?;
    qmp.run("quit", json!({}))?;
    let e = qmp.event("SHUTDOWN")?;
    ensure!(e["data"] == json!({ "guest": false, "reason": "host-qmp-quit" }), "{e}");
    let (status, errors) = vm.wait(SOON)?;
    ensure!(status.success(), "{status}: {errors}");
    Ok(())
}

#[test]
fn queries_answer_and_show_the_device() -> Result<()> {
    let (mut vm, _dir) = idle_machine(&["-S"])?;
    let qmp = vm.qmp();
    let version = qmp.run("query-version", json!({}))?;
    ensure!(version["qemu"] == json!({ "major": 10, "minor": 0, "micro": 2 }), "{version}");
    let commands = qmp.run("query-commands", json!({}))?;
    let names: Vec<&str> = commands.as_array().unwrap().iter().filter_map(|c| c["name"].as_str()).collect();
    let schema = qmp.run("query-qmp-schema", json!({}))?;
    let declared: Vec<&str> = schema
        .as_array()
        .unwrap()
        .iter()
        .filter(|e| e["meta-type"] == "command")
        .filter_map(|c| c["name"].as_str())
        .collect();
    for n in &names {
        ensure!(declared.contains(n), "{n} is not in the schema");
    }
    ensure!(names.len() == declared.len());
    let block = qmp.run("query-block", json!({}))?;
    ensure!(block[0]["qdev"].as_str().unwrap_or_default().contains("blk0"), "{block}");
    ensure!(block[0]["inserted"]["drv"] == "raw", "{block}");
    let info = qmp.run("human-monitor-command", json!({ "command-line": "info block" }))?;
    ensure!(info.as_str().unwrap_or_default().contains("disk.raw"), "{info}");
    // Its text goes to the program's output.
    let mut io = |line: &str| qmp.run("human-monitor-command", json!({ "command-line": line }));
    ensure!(io("qemu-io -d blk0 \"read 0 512\"")? == "");
    let none = io("qemu-io nope \"read 0 512\"")?;
    ensure!(none == "Error: Cannot find device='' nor node-name='nope'\r\n", "{none}");
    let info = qmp.run("human-monitor-command", json!({ "command-line": "info status" }))?;
    ensure!(info == "VM status: paused (prelaunch)\r\n", "{info}");
    let e = qmp.try_run("no-such-command", json!({}))?.unwrap_err();
    ensure!(
        e.class == "CommandNotFound" && e.desc == "The command no-such-command has not been found",
        "{e}"
    );
    Ok(())
}

#[test]
fn a_machine_tells_what_it_was_called() -> Result<()> {
    let uuid = "00112233-4455-6677-8899-aabbccddeeff";
    let (mut vm, _dir) =
        idle_machine(&["-name", "guest=web,process=web-vm,debug-threads=on", "-uuid", uuid])?;
    let comm = std::fs::read_to_string(format!("/proc/{}/comm", vm.pid()))?;
    ensure!(comm == "web-vm\n", "{comm}");
    let qmp = vm.qmp();
    ensure!(qmp.run("query-name", json!({}))? == json!({ "name": "web" }));
    ensure!(qmp.run("query-uuid", json!({}))? == json!({ "UUID": uuid }));
    let (mut vm, _dir) = idle_machine(&[])?;
    ensure!(vm.qmp().run("query-name", json!({}))? == json!({}));
    let zeroes = "00000000-0000-0000-0000-000000000000";
    ensure!(vm.qmp().run("query-uuid", json!({}))? == json!({ "UUID": zeroes }));
    Ok(())
}

#[test]
fn rubbish_gets_an_error_and_the_session_goes_on() -> Result<()> {
    let (mut vm, _dir) = idle_machine(&["-S"])?;
    let qmp = vm.qmp();
    for rubbish in [
        &b"{\"execute\": \r\n"[..],
        b"}}}}]]]\n",
        b"{'execute': 'query-status', 'bogus': 1}\n",
        b"[1,2,3]\n",
        b"\xff\xfe\x00\x01\n",
        b"{\"execute\": 7}\n",
        b"{}\n",
        b"\"unterminated\n",
    ] {
        qmp.send_raw(rubbish)?;
        // Whatever was left open is closed by the token that the protocol reserves for that.
        qmp.send_raw(b"\xff\n")?;
    }
    qmp.send_raw(b"{\"execute\": \"query-status\", \"id\": \"after\"}\n")?;
    let mut errors = 0;
    loop {
        let reply = qmp.receive_raw()?;
        if reply["id"] == "after" {
            ensure!(reply["return"]["status"] == "prelaunch", "{reply}");
            break;
        }
        ensure!(reply["error"]["class"] == "GenericError", "{reply}");
        errors += 1;
    }
    ensure!(errors >= 6, "only {errors} errors");
    Ok(())
}

#[test]
fn clients_come_and_go_and_do_not_disturb_each_other() -> Result<()> {
    let dir = ScratchDir::new("clients")?;
    let second = dir.file("second.sock");
    let (mut vm, _disk) = idle_machine(&["-S", "-qmp", &format!("unix:{second},server=on,wait=off")])?;
    for i in 0..20 {
        let mut s = UnixStream::connect(&second).context("connecting")?;
        let mut greeting = String::new();
        BufReader::new(s.try_clone()?).read_line(&mut greeting)?;
        ensure!(greeting.starts_with("{\"QMP\""), "{greeting}");
        // Gone in the middle of a command, or with replies unread.
        let text: &[u8] = match i % 3 {
            0 => b"{\"execute\": \"qmp_cap",
            1 => b"{\"execute\": \"qmp_capabilities\"}{\"execute\": \"query-qmp-schema\"}{\"execute\": \"query-qmp-schema\"}",
            _ => b"",
        };
        s.write_all(text)?;
        drop(s);
        ensure!(status(vm.qmp())? == "prelaunch");
    }
    let mut last = Qmp::connect(second.as_ref(), SOON)?;
    ensure!(status(&mut last)? == "prelaunch");
    // An event reaches both.
    vm.qmp().run("cont", json!({}))?;
    vm.qmp().event("RESUME")?;
    last.event("RESUME")?;
    Ok(())
}

#[test]
fn a_client_that_never_reads_holds_up_nobody() -> Result<()> {
    let dir = ScratchDir::new("deaf")?;
    let second = dir.file("second.sock");
    let (mut vm, _disk) = idle_machine(&["-S", "-qmp", &format!("unix:{second},server=on,wait=off")])?;
    let mut deaf = UnixStream::connect(&second)?;
    deaf.set_write_timeout(Some(Duration::from_millis(200)))?;
    deaf.write_all(b"{\"execute\": \"qmp_capabilities\"}")?;
    for _ in 0..2000 {
        if deaf.write_all(b"{\"execute\": \"query-qmp-schema\"}").is_err() {
            break;
        }
    }
    for _ in 0..200 {
        ensure!(status(vm.qmp())? == "prelaunch");
    }
    let rss = std::fs::read_to_string(format!("/proc/{}/status", vm.pid()))?;
    let kib: u64 = rss
        .lines()
        .find_map(|l| l.strip_prefix("VmRSS:"))
        .and_then(|l| l.trim().trim_end_matches(" kB").parse().ok())
        .context("no VmRSS")?;
    ensure!(kib < 300 * 1024, "{kib} KiB in use");
    Ok(())
}

#[test]
fn out_of_band_overtakes() -> Result<()> {
    let dir = ScratchDir::new("oob")?;
    let second = dir.file("second.sock");
    let (_vm, _disk) = idle_machine(&["-S", "-qmp", &format!("unix:{second},server=on,wait=off")])?;
    let mut s = UnixStream::connect(&second)?;
    s.set_read_timeout(Some(SOON))?;
    let mut lines = BufReader::new(s.try_clone()?).lines();
    lines.next();
    s.write_all(b"{\"execute\": \"qmp_capabilities\", \"arguments\": {\"enable\": [\"oob\"]}}\n")?;
    let mut reply = || -> Result<Value> { Ok(serde_json::from_str(&lines.next().context("closed")??)?) };
    ensure!(reply()?["return"] == json!({}));
    // A command that is not marked for it is refused out of band.
    s.write_all(b"{\"exec-oob\": \"query-status\", \"id\": 1}\n")?;
    let r = reply()?;
    ensure!(r["id"] == 1 && r["error"]["desc"] == "The command query-status does not support OOB", "{r}");
    Ok(())
}

#[test]
fn the_human_monitor_answers() -> Result<()> {
    let dir = ScratchDir::new("hmp")?;
    let socket = dir.file("hmp.sock");
    let (_vm, _disk) = idle_machine(&["-S", "-monitor", &format!("unix:{socket},server=on,wait=off")])?;
    let mut s = UnixStream::connect(&socket)?;
    s.set_read_timeout(Some(SOON))?;
    s.write_all(b"info status\n")?;
    let mut text = String::new();
    let mut buffer = [0; 1024];
    while !text.contains("VM status: paused (prelaunch)") {
        let n = s.read(&mut buffer).with_context(|| format!("after {text:?}"))?;
        ensure!(n > 0, "closed after {text:?}");
        text += &String::from_utf8_lossy(&buffer[..n]);
    }
    ensure!(text.contains("(qemu) "), "{text:?}");
    Ok(())
}
