//! A QMP client, as a management tool would write it: strict about line ends, tolerant about events.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

/// An error reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QmpError {
    /// Its class, mostly `GenericError`.
    pub class: String,
    /// Its text.
    pub desc: String,
}

impl std::fmt::Display for QmpError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.class, self.desc)
    }
}

impl std::error::Error for QmpError {}

/// A negotiated QMP session over a unix socket.
pub struct Qmp {
    reader: BufReader<UnixStream>,
    writer: UnixStream,
    events: VecDeque<Value>,
    /// The greeting that the server sent.
    pub greeting: Value,
}

impl Qmp {
    /// Connects, waiting up to `limit` for the socket to appear, and negotiates.
    pub fn connect(path: &Path, limit: Duration) -> Result<Qmp> {
        let end = Instant::now() + limit;
        let stream = loop {
            match UnixStream::connect(path) {
                Ok(s) => break s,
                Err(e) if Instant::now() > end => {
                    return Err(e).with_context(|| format!("connecting to {}", path.display()));
                }
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        };
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        let mut qmp = Qmp {
            reader: BufReader::new(stream.try_clone()?),
            writer: stream,
            events: VecDeque::new(),
            greeting: Value::Null,
        };
        qmp.greeting = qmp.line()?;
        ensure!(qmp.greeting.get("QMP").is_some(), "no greeting: {}", qmp.greeting);
        qmp.run("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    fn line(&mut self) -> Result<Value> {
        let mut line = String::new();
        self.reader.read_line(&mut line).context("reading from QMP")?;
        ensure!(!line.is_empty(), "QMP closed the connection");
        ensure!(line.ends_with("\r\n"), "a QMP line ends with CR LF, this one does not: {line:?}");
        serde_json::from_str(&line).with_context(|| format!("not JSON: {line}"))
    }

    /// Sends a command and waits for its reply; events that come in between are kept. The outer error is one of the
    /// conversation, the inner one the command's.
    pub fn try_run(&mut self, command: &str, arguments: Value) -> Result<Result<Value, QmpError>> {
        let request = json!({ "execute": command, "arguments": arguments });
        // At once: who is told to quit may be gone before the end of the line.
        self.writer.write_all(format!("{request}\n").as_bytes())?;
        loop {
            let mut reply = self.line()?;
            if reply.get("event").is_some() {
                self.events.push_back(reply);
            } else if let Some(value) = reply.get_mut("return") {
                return Ok(Ok(value.take()));
            } else if let Some(error) = reply.get("error") {
                let text = |k: &str| error[k].as_str().unwrap_or_default().to_string();
                return Ok(Err(QmpError { class: text("class"), desc: text("desc") }));
            } else {
                bail!("neither reply nor event: {reply}");
            }
        }
    }

    /// As [`Qmp::try_run`], where the command is to succeed.
    pub fn run(&mut self, command: &str, arguments: Value) -> Result<Value> {
        self.try_run(command, arguments)?.with_context(|| format!("QMP command {command}"))
    }

    /// The next event of that name, from those kept or still to come.
    pub fn event(&mut self, name: &str) -> Result<Value> {
        if let Some(i) = self.events.iter().position(|e| e["event"] == name) {
            return Ok(self.events.remove(i).unwrap_or_default());
        }
        loop {
            let line = self.line().with_context(|| format!("waiting for event {name}"))?;
            if line["event"] == name {
                return Ok(line);
            }
            self.events.push_back(line);
        }
    }

    /// All events that came before the reply to a command sent now.
    pub fn events(&mut self) -> Result<Vec<Value>> {
        self.run("query-version", json!({}))?;
        Ok(self.events.drain(..).collect())
    }

    /// Sends bytes as they are, for tests of bad input.
    pub fn send_raw(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.writer.write_all(bytes)?)
    }

    /// The next line, whatever it is.
    pub fn receive_raw(&mut self) -> Result<Value> {
        self.line()
    }
}
