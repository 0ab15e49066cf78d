//! QEMU's storage daemon as a child, where it is installed.

use crate::run::{Answer, Peer};
use qapi::{Dict, Value};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// The reference.
pub struct Reference {
    child: Child,
    input: ChildStdin,
    lines: Receiver<Value>,
    events: Vec<Value>,
}

impl Reference {
    /// Starts it; `None` where it is not installed.
    pub fn start() -> Option<Reference> {
        let child = Command::new("qemu-storage-daemon")
            .args(["--chardev", "stdio,id=c", "--monitor", "chardev=c"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        let mut child = child.ok()?;
        let (input, output) = (child.stdin.take()?, child.stdout.take()?);
        let (tx, lines) = channel();
        std::thread::spawn(move || {
            // Other lines are for people.
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if let Ok(v) = Value::parse_json(line.trim())
                    && tx.send(v).is_err()
                {
                    return;
                }
            }
        });
        let mut r = Reference { child, input, lines, events: Vec::new() };
        r.lines.recv_timeout(PATIENCE).expect("the reference's greeting");
        r.call("qmp_capabilities", Value::Dict(Dict::new())).expect("qmp_capabilities");
        Some(r)
    }
}

impl Peer for Reference {
    fn call(&mut self, command: &str, arguments: Value) -> Answer {
        let mut message = Dict::new();
        message.insert("execute", command);
        message.insert("arguments", arguments);
        let line = Value::Dict(message).to_json();
        self.input.write_all(format!("{line}\n").as_bytes()).expect("the reference reads");
        loop {
            let v = self.lines.recv_timeout(PATIENCE).unwrap_or_else(|e| panic!("{line}: no answer: {e}"));
            if v.get("event").is_some() {
                self.events.push(v);
            } else if let Some(e) = v.get("error") {
                let text = |k: &str| e.get(k).and_then(Value::as_str).unwrap_or("").to_owned();
                return Err((text("class"), text("desc")));
            } else {
                return Ok(v.get("return").cloned().unwrap_or(Value::Null));
            }
        }
    }

    fn events(&mut self) -> Vec<Value> {
        self.events.extend(self.lines.try_iter());
        std::mem::take(&mut self.events)
    }

    fn wait(&mut self, time: Duration) {
        std::thread::sleep(time);
    }

    fn pid(&self) -> u32 {
        self.child.id()
    }

    fn is_reference(&self) -> bool {
        true
    }
}

impl Drop for Reference {
    fn drop(&mut self) {
        // It ends at once; its images are in a folder that goes too.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
