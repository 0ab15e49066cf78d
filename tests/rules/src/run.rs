//! Holding a transcript against somebody who answers.

use qapi::{Dict, Value};
use std::collections::VecDeque;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// What came back: the value, or the error's class and text.
pub type Answer = Result<Value, (String, String)>;

/// Somebody who answers QMP commands.
pub trait Peer {
    /// Runs a command.
    fn call(&mut self, command: &str, arguments: Value) -> Answer;
    /// The events since the last call, in QMP's form.
    fn events(&mut self) -> Vec<Value>;
    /// Lets a little time pass.
    fn wait(&mut self, time: Duration);
    /// The process that has the images open.
    fn pid(&self) -> u32;
    /// Whether it is the reference.
    fn is_reference(&self) -> bool;
}

/// Runs a transcript in the folder `dir`; panics with the line where something is not as it should be.
pub fn run(name: &str, text: &str, dir: &Path, peer: &mut dyn Peer) {
    let mut r = Run { dir, peer, last: None, expected: true, lenient: false, differs: Default::default() };
    let mut lines = text.lines().enumerate().peekable();
    // For each command, whether the reference is said to differ in what follows it.
    let mut differs = Vec::new();
    for line in text.lines() {
        if line.starts_with("-> ") {
            differs.push(false);
        } else if line.starts_with("reference differs:")
            && let Some(last) = differs.last_mut()
        {
            *last = true;
        }
    }
    r.differs = differs.into();
    while let Some((i, line)) = lines.next() {
        let mut line = line.trim_end().to_owned();
        while let Some((_, more)) = lines.next_if(|(_, l)| l.starts_with("   ") && !l.trim().is_empty()) {
            line.push(' ');
            line.push_str(more.trim());
        }
        if let Some(why) = line.strip_prefix("reference ends:") {
            if r.peer.is_reference() {
                println!("{name}: the rest is not held against the reference:{why}");
                return r.settle(name, i);
            }
            continue;
        }
        if let Err(e) = r.line(&line) {
            panic!("{name}, line {}: {line}\n{e}", i + 1);
        }
    }
    r.settle(name, text.lines().count());
}

struct Run<'a> {
    dir: &'a Path,
    peer: &'a mut dyn Peer,
    last: Option<Answer>,
    /// The last answer was held against something.
    expected: bool,
    /// What follows the last command is not compared.
    lenient: bool,
    /// For each command to come, whether that is so.
    differs: VecDeque<bool>,
}

impl Run<'_> {
    /// A command that nothing was said of must have succeeded.
    fn check_last(&mut self) -> Result<(), String> {
        match &self.last {
            Some(Err((_, text))) if !self.expected && !self.lenient => {
                Err(format!("the command before it failed: {text}"))
            }
            _ => Ok(()),
        }
    }

    fn settle(&mut self, name: &str, line: usize) {
        if let Err(e) = self.check_last() {
            panic!("{name}, line {line}: {e}");
        }
    }

    fn line(&mut self, line: &str) -> Result<(), String> {
        let line = self.fill(line);
        if line.is_empty() || line.starts_with('#') {
            return Ok(());
        }
        if let Some(rest) = line.strip_prefix("-> ") {
            self.check_last()?;
            let (command, args) = rest.split_once(' ').unwrap_or((rest, "{}"));
            let args = Value::parse_json(args).map_err(|e| format!("{args}: {e}"))?;
            let answer = self.peer.call(command, args);
            let differs = self.differs.pop_front().unwrap_or(false) && self.peer.is_reference();
            (self.last, self.expected, self.lenient) = (Some(answer), false, differs);
            return Ok(());
        }
        if line.starts_with("reference differs:") {
            return Ok(());
        }
        if let Some(rest) = line.strip_prefix("image ") {
            return crate::make_image(self.dir, rest);
        }
        if let Some(tool) = line.strip_prefix("! ") {
            self.check_last()?;
            return shell(tool);
        }
        if self.lenient {
            return Ok(());
        }
        if let Some(rest) = line.strip_prefix("<- ") {
            self.expected = true;
            return self.answer(rest);
        }
        self.check_last()?;
        let Some(rest) = line.strip_prefix("-- ") else { return Err("no such line".into()) };
        let words: Vec<&str> = rest.split_whitespace().collect();
        match words.as_slice() {
            ["nodes", names @ ..] => self.nodes(names),
            ["file", name, how] => self.file(name, how),
            ["events", want @ ..] => self.told(want),
            ["job", id, status] => self.job(id, status),
            [node, member, value @ ..] => self.member(node, member, &value.join(" ")),
            _ => Err("no such line".into()),
        }
    }

    fn fill(&self, line: &str) -> String {
        let mut line = line.replace("$D", &self.dir.display().to_string());
        for n in 0..10 {
            let options = format!(
                "'driver':'qcow2','node-name':'hd{n}','file':{{'driver':'file','node-name':'hd{n}-file','filename':'{}/h{n}.q'}}",
                self.dir.display()
            );
            line = line.replace(&format!("${n}"), &options);
        }
        line
    }

    fn answer(&self, want: &str) -> Result<(), String> {
        let got = self.last.as_ref().ok_or("no command before it")?;
        if let Some(text) = want.strip_prefix("error ") {
            let (class, text) = match text.split_once(": ") {
                Some((c, t)) if ["CommandNotFound", "DeviceNotFound", "DeviceNotActive"].contains(&c) => {
                    (c, t)
                }
                _ => ("GenericError", text),
            };
            return match got {
                Err((c, t)) if c == class && t == text => Ok(()),
                Err((c, t)) => Err(format!("the error is {c}: {t}")),
                Ok(v) => Err(format!("it succeeded: {}", v.to_json())),
            };
        }
        let want = Value::parse_json(want).map_err(|e| e.desc().to_owned())?;
        match got {
            Ok(v) if within(&want, v) => Ok(()),
            Ok(v) => Err(format!("the answer is {}", v.to_json())),
            Err((c, t)) => Err(format!("the error is {c}: {t}")),
        }
    }

    fn query(&mut self) -> Result<Vec<Value>, String> {
        let args = Value::Dict([("flat".to_owned(), Value::Bool(true))].into_iter().collect::<Dict>());
        match self.peer.call("query-named-block-nodes", args) {
            Ok(Value::List(l)) => Ok(l),
            other => Err(format!("{other:?}")),
        }
    }

    fn nodes(&mut self, names: &[&str]) -> Result<(), String> {
        let name = |v: &Value| v.get("node-name").and_then(Value::as_str).unwrap_or("").to_owned();
        let mut got: Vec<String> = self.query()?.iter().map(name).filter(|n| !n.starts_with('#')).collect();
        got.sort();
        let mut want: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
        want.sort();
        if got == want { Ok(()) } else { Err(format!("the nodes are {}", got.join(" "))) }
    }

    fn member(&mut self, node: &str, member: &str, want: &str) -> Result<(), String> {
        let all = self.query()?;
        let found = all.iter().find(|v| v.get("node-name").and_then(Value::as_str) == Some(node));
        let mut at = found.ok_or_else(|| format!("there is no node {node}"))?;
        for key in member.split('.') {
            match at.get(key) {
                Some(v) => at = v,
                None if want == "none" => return Ok(()),
                None => return Err(format!("there is no {key}")),
            }
        }
        let got = at.as_str().map_or_else(|| at.to_json(), str::to_owned);
        let wanted = Value::parse_json(want).ok();
        let same = got == want || wanted.is_some_and(|w| within(&w, at));
        if same { Ok(()) } else { Err(format!("it is {got}")) }
    }

    fn file(&mut self, name: &str, how: &str) -> Result<(), String> {
        let path = self.dir.join(name);
        let base = format!("/proc/{}", self.peer.pid());
        let mut modes = Vec::new();
        for fd in std::fs::read_dir(format!("{base}/fd")).map_err(|e| e.to_string())?.flatten() {
            if std::fs::read_link(fd.path()).is_ok_and(|p| p == path) {
                let info = format!("{base}/fdinfo/{}", fd.file_name().to_string_lossy());
                let info = std::fs::read_to_string(info).map_err(|e| e.to_string())?;
                let flags = info.lines().find_map(|l| l.strip_prefix("flags:")).unwrap_or("").trim();
                let writes = u32::from_str_radix(flags, 8).unwrap_or(0) & 3 != 0;
                modes.push(if writes { "rw" } else { "ro" });
            }
        }
        let got = if modes.is_empty() {
            "closed"
        } else if modes.contains(&"rw") {
            "rw"
        } else {
            "ro"
        };
        if got == how { Ok(()) } else { Err(format!("it is {got}")) }
    }

    fn told(&mut self, want: &[&str]) -> Result<(), String> {
        let told = |e: &Value| {
            let name = e.get("event").and_then(Value::as_str).unwrap_or("");
            let status = e.get("data").and_then(|d| d.get("status")).and_then(Value::as_str);
            if name == "JOB_STATUS_CHANGE" { status.unwrap_or("").to_owned() } else { name.to_owned() }
        };
        let got: Vec<String> = self.peer.events().iter().map(told).collect();
        if like(&got, want) { Ok(()) } else { Err(format!("the events are {}", got.join(" "))) }
    }

    fn job(&mut self, id: &str, status: &str) -> Result<(), String> {
        let mut now = String::new();
        for _ in 0..1000 {
            let jobs = self.peer.call("query-jobs", Value::Dict(Dict::new())).map_err(|e| e.1)?;
            let Value::List(jobs) = jobs else { return Err("no list".into()) };
            let job = jobs.iter().find(|j| j.get("id").and_then(Value::as_str) == Some(id));
            let field = job.and_then(|j| j.get("status")).and_then(Value::as_str);
            now = field.unwrap_or("null").to_owned();
            if now == status {
                return Ok(());
            }
            self.peer.wait(Duration::from_millis(10));
        }
        Err(format!("it stays {now}"))
    }
}

/// Runs a line of other programs, which must succeed.
fn shell(line: &str) -> Result<(), String> {
    let out = Command::new("sh").args(["-c", line]).output().map_err(|e| e.to_string())?;
    if out.status.success() {
        return Ok(());
    }
    let text = [out.stdout, out.stderr].map(|t| String::from_utf8_lossy(&t).into_owned()).concat();
    Err(format!("{}: {text}", out.status))
}

/// Whether the names are as wanted; `…` stands for any number of them.
fn like(got: &[String], want: &[&str]) -> bool {
    match want.split_first() {
        None => got.is_empty(),
        Some((&"…", rest)) => (0..=got.len()).any(|i| like(&got[i..], rest)),
        Some((w, rest)) => got.first().is_some_and(|g| g == w) && like(&got[1..], rest),
    }
}

/// Whether everything that `want` names is so in `got`.
fn within(want: &Value, got: &Value) -> bool {
    match (want, got) {
        (Value::Dict(w), Value::Dict(_)) => w.iter().all(|(k, v)| got.get(k).is_some_and(|g| within(v, g))),
        (Value::List(w), Value::List(g)) => w.len() == g.len() && w.iter().zip(g).all(|(w, g)| within(w, g)),
        _ => want.to_json() == got.to_json(),
    }
}
