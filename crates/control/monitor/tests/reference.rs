//! The same conversation with another implementation of the protocol, where it is installed.

#[allow(dead_code, reason = "each test file uses its part")]
mod common;

use common::{CAPS_OOB, rig};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// Requests whose replies do not depend on what the commands do. Each gives one line.
const REQUESTS: &[&str] = &[
    r#"{"execute":"query-version","id":1}"#,
    r#"{"execute":"no-such-command"}"#,
    r#"{"exec-oob":"query-version"}"#,
    r#"{"execute":"qmp_capabilities","arguments":{"x":1}}"#,
    r#"{"execute":"qmp_capabilities","arguments":{"enable":"oob"}}"#,
    r#"{"execute":"qmp_capabilities","arguments":[]}"#,
    CAPS_OOB,
    r#"{"execute":"qmp_capabilities","id":"again"}"#,
    "1 ",
    "[1]",
    "\"x\"",
    "null ",
    "{}",
    r#"{"id": 7}"#,
    r#"{"execute":1, "id": 7}"#,
    r#"{"exec-oob":1}"#,
    r#"{"execute":"query-commands","x":1,"id":{"a":[null,true]}}"#,
    r#"{"execute":"query-commands","arguments":1}"#,
    r#"{"execute":"query-commands","arguments":{"a":1}}"#,
    r#"{"execute":"query-commands","exec-oob":"x"}"#,
    r#"{"exec-oob":"query-commands","id":3.5}"#,
    r#"{"exec-oob":"no-such-command","id":"\u00e9\n\"\\"}"#,
    r#"{'execute':'no-such-command','id':'it\'s'}"#,
    r#"{"execute":"no\u0007such"}"#,
    "nonsense\n",
    "}",
    "]",
    r#"{"execute": tru}"#,
    r#"{"execute" "x"}"#,
    r#"{"execute": }"#,
    r#"{"execute": "x" "y": 1}"#,
    "[1 2]",
    r#"{"execute":"a","execute":"b"}"#,
    r#"{1: 2}"#,
    "\x01",
    "\"\x01\"\n",
    r#"{"execute": "\q"}"#,
    "-\n",
    "-a {}",
    "01\n",
    "1.e\n",
    "18446744073709551616 ",
    r#"{"execute":"no-such","id":18446744073709551615}"#,
    r#"{"execute":"no-such","id":{"driver":1,"file":{"minor":0,"micro":2,"major":10},"status":[{"offset":2,"id":3}]}}"#,
    r#"{"execute":"no-such","id":-9223372036854775808}"#,
    r#"{"execute":"no-such","id":1e3}"#,
];

struct Reference(Child);

impl Drop for Reference {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn replies_are_those_of_the_reference() {
    let spawned = Command::new("qemu-storage-daemon")
        .args(["--chardev", "stdio,id=m", "--monitor", "chardev=m"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let Ok(child) = spawned else {
        println!("skipped: qemu-storage-daemon is not installed");
        return;
    };
    let mut reference = Reference(child);
    let mut input = reference.0.stdin.take().unwrap();
    let output = BufReader::new(reference.0.stdout.take().unwrap());
    let (tx, rx) = mpsc::channel();
    std::thread::spawn(move || output.lines().map_while(Result::ok).all(|l| tx.send(l).is_ok()));
    let theirs =
        |to: &str| rx.recv_timeout(Duration::from_secs(10)).unwrap_or_else(|_| panic!("no answer to {to}"));
    let rig = rig("reference");
    let mut ours = rig.greeted();
    let line = theirs("");
    assert!(line.starts_with("{\"QMP\": {\"version\": {\"qemu\": {\"micro\": "), "{line}");
    let mut different = Vec::new();
    for request in REQUESTS {
        input.write_all(request.as_bytes()).unwrap();
        let (theirs, ours) = (theirs(request), ours.ask(request));
        if theirs.trim_end() != ours {
            different.push(format!("{request}\n  reference: {theirs}\n  ours:      {ours}"));
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
}
