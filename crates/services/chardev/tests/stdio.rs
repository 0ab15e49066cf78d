//! Standard input and output, in a process of their own behind a pseudo-terminal or pipes.

#[allow(dead_code, reason = "each test file uses its part")]
mod common;

use common::{PLENTY, Probe, add, eventually, rig};
use device::CharEvent;
use rustix::termios::{LocalModes, tcgetattr};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};

/// Not a test of its own: what the other process of the tests below runs.
#[test]
fn child() {
    if std::env::var_os("RHEA_TEST_STDIO").is_none() {
        return;
    }
    let (_t, devices) = rig();
    let dev = add(&devices, "stdio,id=s,signal=off");
    let again = chardev::Config::parse("stdio,id=t").unwrap();
    assert_eq!(
        rt::block_on(devices.add(again)).err().unwrap().desc(),
        "cannot use stdio by multiple character devices"
    );
    let probe = Probe::new(PLENTY);
    dev.attach(probe.clone()).unwrap();
    dev.write(b"<ready>");
    eventually("a line, or the end", || {
        probe.text().contains('!') || probe.events.lock().contains(&CharEvent::Closed)
    });
    dev.write(format!("<got {:?}>", probe.text()).as_bytes());
    drop(dev);
    devices.close_all();
    // Free again once it is gone.
    let dev = add(&devices, "stdio,id=u");
    dev.write(b"<again>");
    chardev::restore_terminal();
}

fn spawn(input: Stdio, output: Stdio) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture", "--test-threads=1"])
        .env("RHEA_TEST_STDIO", "1")
        .stdin(input)
        .stdout(output)
        .spawn()
        .unwrap()
}

fn read_until(from: &mut impl Read, end: &str) -> String {
    let mut got = Vec::new();
    let mut b = [0];
    while !got.ends_with(end.as_bytes()) {
        assert_eq!(from.read(&mut b).unwrap_or(0), 1, "{:?}", String::from_utf8_lossy(&got));
        got.push(b[0]);
    }
    String::from_utf8_lossy(&got).into_owned()
}

#[test]
fn a_terminal_is_raw_meanwhile_and_restored() {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    let master: OwnedFd = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
    let slave = File::options().read(true).write(true).open(name).unwrap();
    let cooked = tcgetattr(&slave).unwrap().local_modes;
    assert!(cooked.contains(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG));
    let mut child = spawn(slave.try_clone().unwrap().into(), slave.try_clone().unwrap().into());
    let mut master = File::from(master);
    read_until(&mut master, "<ready>");
    let raw = tcgetattr(&slave).unwrap().local_modes;
    assert!(!raw.intersects(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG));
    // Ctrl-C is a byte like any other with signal=off.
    master.write_all(b"a\x03!").unwrap();
    let text = read_until(&mut master, "<again>");
    assert!(text.contains(r#"<got "a\u{3}!">"#), "{text}");
    assert!(child.wait().unwrap().success());
    let after = tcgetattr(&slave).unwrap();
    assert_eq!(after.local_modes, cooked);
    let flags = rustix::fs::fcntl_getfl(&slave).unwrap();
    assert!(!flags.contains(rustix::fs::OFlags::NONBLOCK));
}

#[test]
fn pipes_and_files() {
    let mut child = spawn(Stdio::piped(), Stdio::piped());
    let mut out = child.stdout.take().unwrap();
    read_until(&mut out, "<ready>");
    child.stdin.take().unwrap().write_all(b"bytes").unwrap();
    // Output goes on after the input's end.
    assert!(read_until(&mut out, "<again>").contains(r#"<got "bytes">"#));
    assert!(child.wait().unwrap().success());

    let mut child = spawn(Stdio::null(), Stdio::piped());
    let mut out = child.stdout.take().unwrap();
    assert!(read_until(&mut out, "<again>").contains(r#"<got "">"#));
    assert!(child.wait().unwrap().success());
}
