//! Random commands: sequences that mean something often enough to get far, and nonsense between them.

use crate::run::{Answer, Peer};
use qapi::Value;
use rt::sim::Rng;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

/// The images that stand in the folder when a sequence begins, as lines `image …` of a transcript. Only the `i` ones are
/// always opened as what they are, so that they must stay sound; the others may be written as plain files, too.
pub const IMAGES: &[&str] = &[
    "i0.q 1M",
    "i1.q 1M $D/i0.q",
    "i2.q 1M $D/i1.q",
    "i3.q 1M",
    "i4.q 2M",
    "j0.q 1M",
    "raw r0.raw 1M",
    "raw r1.raw 1M",
];

/// One command.
#[derive(Clone, Debug)]
pub struct Step {
    /// Its name.
    pub command: String,
    /// Its arguments, as JSON with single quotes and `$D` for the folder.
    pub arguments: String,
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "-> {} {}", self.command, self.arguments)
    }
}

impl Step {
    /// Runs it; names of the folder are shown as `$D` in the answer, and made-up node names without their number.
    pub fn run(&self, peer: &mut dyn Peer, dir: &Path) -> Result<Value, String> {
        let dir = dir.display().to_string();
        let text = self.arguments.replace("$D", &dir);
        let arguments = Value::parse_json(&text).map_err(|e| format!("{text}: {e}"))?;
        let answer: Answer = peer.call(&self.command, arguments);
        answer.map_err(|(class, text)| format!("{class}: {}", plain(&text, &dir)))
    }
}

impl Step {
    /// Whether it is a `blockdev-reopen` that names a node twice.
    pub fn reopens_twice(&self) -> bool {
        let nodes: Vec<&str> =
            self.arguments.split("{'node-name':'").skip(1).filter_map(|r| r.split('\'').next()).collect();
        let twice = |(i, n): (usize, &&str)| nodes[..i].contains(n);
        self.command == "blockdev-reopen" && nodes.iter().enumerate().any(twice)
    }
}

/// A message without what differs from run to run.
fn plain(text: &str, dir: &str) -> String {
    let text = text.replace(dir, "$D");
    let mut out = String::new();
    let mut rest = text.as_str();
    while let Some((before, after)) = rest.split_once("#block") {
        out.push_str(before);
        out.push_str("#block");
        rest = after.trim_start_matches(|c: char| c.is_ascii_digit());
    }
    out.push_str(rest);
    // The members of a made-up name have no order.
    match out.find("json:{") {
        Some(at) => out[..at].to_owned() + "json:",
        None => out,
    }
}

/// Makes up commands. The same seed and the same answers give the same sequence.
pub struct Source {
    rng: Rng,
    live: Vec<String>,
    jobs: Vec<String>,
    /// What the nodes were made with.
    options: BTreeMap<String, String>,
    fresh: u32,
}

impl Source {
    /// The sequence of a seed.
    pub fn new(seed: u64) -> Source {
        Source { rng: Rng::new(seed), live: Vec::new(), jobs: Vec::new(), options: BTreeMap::new(), fresh: 0 }
    }

    /// What is there now, and whether the last command was obeyed.
    pub fn learn(&mut self, step: &Step, obeyed: bool, nodes: Vec<String>, jobs: Vec<String>) {
        if obeyed
            && step.command == "blockdev-add"
            && let Some(name) = word_after(&step.arguments, "'node-name':'")
        {
            self.options.insert(name.to_owned(), step.arguments.clone());
        }
        (self.live, self.jobs) = (nodes, jobs);
    }

    fn pick<'a>(&mut self, of: &[&'a str]) -> &'a str {
        let i = self.rng.below(of.len() as u64) as usize;
        of[i]
    }

    fn flag(&mut self) -> bool {
        self.rng.chance(1, 2)
    }

    fn new_name(&mut self) -> String {
        format!("n{}", self.rng.below(9))
    }

    fn node(&mut self) -> String {
        if self.live.is_empty() || self.rng.chance(1, 12) {
            return self.new_name();
        }
        let i = self.rng.below(self.live.len() as u64) as usize;
        self.live[i].clone()
    }

    fn job(&mut self) -> String {
        if self.jobs.is_empty() || self.rng.chance(1, 8) {
            return format!("j{}", self.rng.below(4));
        }
        let i = self.rng.below(self.jobs.len() as u64) as usize;
        self.jobs[i].clone()
    }

    fn file(&mut self) -> String {
        format!("$D/{}", self.pick(&["j0.q", "j0.q", "r0.raw", "r1.raw"]))
    }

    /// Options that every node takes, some of the time.
    fn common(&mut self) -> String {
        let mut out = String::new();
        for (odds, text) in [
            (4, "'read-only':true"),
            (6, "'read-only':false"),
            (5, "'auto-read-only':true"),
            (6, "'discard':'unmap'"),
            (8, "'detect-zeroes':'on'"),
            (20, "'detect-zeroes':'unmap'"),
            (12, "'cache':{'no-flush':true}"),
            (25, "'force-share':true"),
        ] {
            let key = text.split(':').next().unwrap_or_default();
            if self.rng.chance(1, odds) && !out.contains(key) {
                out.push(',');
                out.push_str(text);
            }
        }
        out
    }

    /// A child: by name, or made on the spot.
    fn child(&mut self, depth: u32) -> String {
        if depth > 2 || self.rng.chance(1, 2) {
            return format!("'{}'", self.node());
        }
        let name = if self.flag() { format!("'node-name':'{}',", self.new_name()) } else { String::new() };
        let body = self.body(depth + 1);
        format!("{{{name}{body}}}")
    }

    /// A node's options but for its name.
    fn body(&mut self, depth: u32) -> String {
        let common = self.common();
        let kind = self.rng.below(14);
        let rest = match kind {
            0..=3 => format!("'driver':'file','filename':'{}'", self.file()),
            4..=7 => {
                let backing = match self.rng.below(4) {
                    0 => ",'backing':null".into(),
                    1 => format!(",'backing':{}", self.child(depth + 1)),
                    _ => String::new(),
                };
                format!("'driver':'qcow2','file':{}{backing}", self.child(depth))
            }
            8 => {
                let window = match self.rng.below(5) {
                    0 => ",'offset':65536",
                    1 => ",'size':65536",
                    2 => ",'offset':512,'size':512000",
                    _ => "",
                };
                format!("'driver':'raw','file':{}{window}", self.child(depth))
            }
            9 => format!("'driver':'null-co','size':{}", self.pick(&["1048576", "0", "65536", "2097152"])),
            10 => format!("'driver':'copy-on-read','file':{}", self.child(depth)),
            11 => format!(
                "'driver':'throttle','throttle-group':'{}','file':{}",
                self.pick(&["tg", "tg", "no"]),
                self.child(depth)
            ),
            12 => format!(
                "'driver':'copy-before-write','file':{},'target':{}",
                self.child(depth),
                self.child(depth)
            ),
            _ => format!("'driver':'snapshot-access','file':{}", self.child(depth)),
        };
        format!("{rest}{common}")
    }

    fn add(&mut self) -> String {
        let name = self.new_name();
        // Mostly what people do: a format over a file.
        if self.flag() {
            let n = self.rng.below(5);
            let backing = match self.rng.below(3) {
                0 => ",'backing':null".into(),
                1 => format!(",'backing':'{}'", self.node()),
                _ => String::new(),
            };
            let common = self.common();
            return format!(
                "{{'node-name':'{name}','driver':'qcow2','file':{{'driver':'file','filename':'$D/i{n}.q'}}{backing}{common}}}"
            );
        }
        format!("{{'node-name':'{name}',{}}}", self.body(0))
    }

    fn reopen(&mut self) -> String {
        let mut list = Vec::new();
        for _ in 0..=self.rng.below(2) {
            let name = self.node();
            let old = self.options.get(&name).cloned();
            let mut text = match old {
                Some(o) if !self.rng.chance(1, 6) => o,
                _ => format!("{{'node-name':'{name}',{}}}", self.body(1)),
            };
            match self.rng.below(6) {
                0 => text = text.replace("'read-only':true", "'read-only':false"),
                1 if !text.contains("'read-only'") => text = insert(&text, "'read-only':true"),
                2 if !text.contains("'backing'") => {
                    let to = if self.flag() { "null".into() } else { format!("'{}'", self.node()) };
                    text = insert(&text, &format!("'backing':{to}"));
                }
                3 if !text.contains("'detect-zeroes'") => text = insert(&text, "'detect-zeroes':'on'"),
                4 if text.contains("'driver':'raw'") => {
                    let to = self.node();
                    if let Some(at) = text.find("'file':'") {
                        let end = text[at + 8..].find('\'').map_or(text.len(), |e| at + 9 + e);
                        text.replace_range(at..end, &format!("'file':'{to}'"));
                    }
                }
                _ => (),
            }
            list.push(text);
        }
        format!("{{'options':[{}]}}", list.join(","))
    }

    fn bitmap(&mut self) -> String {
        self.pick(&["b0", "b1", "b2"]).to_owned()
    }

    /// One of the commands that are a transaction's actions, too.
    fn action(&mut self) -> Step {
        let (command, arguments) = match self.rng.below(10) {
            0 | 1 => {
                let extra = ["", ",'persistent':true", ",'disabled':true", ",'granularity':4096"];
                let (extra, bitmap) = (self.pick(&extra), self.bitmap());
                ("block-dirty-bitmap-add", format!("{{'node':'{}','name':'{bitmap}'{extra}}}", self.node()))
            }
            2 => {
                let command = self.pick(&[
                    "block-dirty-bitmap-remove",
                    "block-dirty-bitmap-clear",
                    "block-dirty-bitmap-enable",
                    "block-dirty-bitmap-disable",
                ]);
                let bitmap = self.bitmap();
                (command, format!("{{'node':'{}','name':'{bitmap}'}}", self.node()))
            }
            3 => {
                let (a, b, node, other) = (self.bitmap(), self.bitmap(), self.node(), self.node());
                let from =
                    if self.flag() { format!("'{b}'") } else { format!("{{'node':'{other}','name':'{b}'}}") };
                ("block-dirty-bitmap-merge", format!("{{'node':'{node}','target':'{a}','bitmaps':[{from}]}}"))
            }
            4 | 5 => {
                ("blockdev-snapshot", format!("{{'node':'{}','overlay':'{}'}}", self.node(), self.node()))
            }
            6 => {
                self.fresh += 1;
                let mode = self.pick(&["", ",'mode':'existing'"]);
                let (node, n) = (self.node(), self.fresh);
                (
                    "blockdev-snapshot-sync",
                    format!(
                        "{{'node-name':'{node}','snapshot-file':'$D/s{n}.q','snapshot-node-name':'{}'{mode}}}",
                        self.new_name()
                    ),
                )
            }
            7 => (
                "blockdev-snapshot-internal-sync",
                format!("{{'device':'{}','name':'{}'}}", self.node(), self.pick(&["s0", "s1"])),
            ),
            _ => {
                let sync = match self.rng.below(6) {
                    0 => format!(
                        "'bitmap','bitmap':'{}','bitmap-mode':'{}'",
                        self.bitmap(),
                        self.pick(&["never", "always", "on-success"])
                    ),
                    1 => format!("'incremental','bitmap':'{}'", self.bitmap()),
                    2 => "'none'".into(),
                    3 => "'top'".into(),
                    _ => "'full'".into(),
                };
                let (id, device, target, end) = (self.rng.below(4), self.node(), self.node(), self.ending());
                (
                    "blockdev-backup",
                    format!(
                        "{{'job-id':'j{id}','device':'{device}','target':'{target}','sync':{sync}{end}}}"
                    ),
                )
            }
        };
        Step { command: command.into(), arguments }
    }

    /// Whether a job ends by itself.
    fn ending(&mut self) -> &'static str {
        self.pick(&["", "", ",'auto-dismiss':false", ",'auto-finalize':false"])
    }

    /// The next command.
    pub fn step(&mut self) -> Step {
        let id = self.rng.below(4);
        let (command, arguments) = match self.rng.below(40) {
            0..=11 => ("blockdev-add", self.add()),
            12..=14 => ("blockdev-del", format!("{{'node-name':'{}'}}", self.node())),
            15..=18 => ("blockdev-reopen", self.reopen()),
            19..=23 => return self.action(),
            24 => {
                let actions: Vec<String> = (0..=self.rng.below(2))
                    .map(|_| self.action())
                    .map(|s| format!("{{'type':'{}','data':{}}}", s.command, s.arguments))
                    .collect();
                let grouped =
                    if self.rng.chance(1, 4) { ",'properties':{'completion-mode':'grouped'}" } else { "" };
                ("transaction", format!("{{'actions':[{}]{grouped}}}", actions.join(",")))
            }
            25 | 26 => {
                let (device, end) = (self.node(), self.ending());
                let mut more = String::new();
                if self.flag() {
                    more.push_str(&format!(",'top-node':'{}'", self.node()));
                }
                if self.flag() {
                    more.push_str(&format!(",'base-node':'{}'", self.node()));
                }
                ("block-commit", format!("{{'job-id':'j{id}','device':'{device}'{more}{end}}}"))
            }
            27 | 28 => {
                let (device, end) = (self.node(), self.ending());
                let more = match self.rng.below(3) {
                    0 => format!(",'base-node':'{}'", self.node()),
                    1 => format!(",'bottom':'{}'", self.node()),
                    _ => String::new(),
                };
                ("block-stream", format!("{{'job-id':'j{id}','device':'{device}'{more}{end}}}"))
            }
            29 | 30 => {
                let (device, target, end) = (self.node(), self.node(), self.ending());
                let sync = self.pick(&["full", "top", "none", "full"]);
                let more = match self.rng.below(5) {
                    0 => format!(",'replaces':'{}'", self.node()),
                    1 => ",'copy-mode':'write-blocking'".into(),
                    2 => format!(",'filter-node-name':'{}'", self.new_name()),
                    _ => String::new(),
                };
                (
                    "blockdev-mirror",
                    format!(
                        "{{'job-id':'j{id}','device':'{device}','target':'{target}','sync':'{sync}'{more}{end}}}"
                    ),
                )
            }
            31..=34 => {
                let verb = self.pick(&[
                    "job-complete",
                    "job-complete",
                    "job-dismiss",
                    "job-finalize",
                    "job-cancel",
                    "job-pause",
                    "job-resume",
                ]);
                (verb, format!("{{'id':'{}'}}", self.job()))
            }
            35 => {
                let (node, to) = (self.node(), self.pick(&["1048576", "2097152", "524288", "0", "1000"]));
                ("block_resize", format!("{{'node-name':'{node}','size':{to}}}"))
            }
            36 => (
                "change-backing-file",
                format!(
                    "{{'device':'{}','image-node-name':'{}','backing-file':'$D/i0.q'}}",
                    self.node(),
                    self.node()
                ),
            ),
            37 => {
                let wr = self.pick(&["", ",'writable':true"]);
                (
                    "block-export-add",
                    format!("{{'type':'nbd','id':'e{id}','node-name':'{}'{wr}}}", self.node()),
                )
            }
            38 => ("block-export-del", format!("{{'id':'e{id}'{}}}", self.pick(&["", ",'mode':'hard'"]))),
            _ => match self.rng.below(4) {
                0 => (
                    "blockdev-set-active",
                    format!("{{'node-name':'{}','active':{}}}", self.node(), self.flag()),
                ),
                1 => (
                    "block-set-write-threshold",
                    format!(
                        "{{'node-name':'{}','write-threshold':{}}}",
                        self.node(),
                        self.pick(&["0", "4096"])
                    ),
                ),
                2 => (
                    "blockdev-snapshot-delete-internal-sync",
                    format!("{{'device':'{}','name':'{}'}}", self.node(), self.pick(&["s0", "s1"])),
                ),
                _ => (
                    "block-dirty-bitmap-remove",
                    format!("{{'node':'{}','name':'{}'}}", self.node(), self.bitmap()),
                ),
            },
        };
        Step { command: command.into(), arguments }
    }
}

/// What every sequence begins with.
pub fn prologue() -> Vec<Step> {
    [
        ("object-add", "{'qom-type':'throttle-group','id':'tg','limits':{'iops-total':0}}"),
        ("nbd-server-start", "{'addr':{'type':'unix','data':{'path':'$D/s'}}}"),
    ]
    .map(|(c, a)| Step { command: c.into(), arguments: a.into() })
    .to_vec()
}

fn insert(object: &str, member: &str) -> String {
    match object.strip_suffix('}') {
        Some(o) => format!("{o},{member}}}"),
        None => object.to_owned(),
    }
}

fn word_after<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let rest = &text[text.find(key)? + key.len()..];
    rest.split('\'').next()
}

/// What can be seen of a peer.
#[derive(Debug, PartialEq, Eq)]
pub struct Seen {
    /// The names that users gave to nodes.
    pub names: Vec<String>,
    /// The jobs' names.
    pub jobs: Vec<String>,
    /// Everything that is compared, a line each.
    pub lines: Vec<String>,
}

fn list(peer: &mut dyn Peer, command: &str, arguments: &str) -> Result<Vec<Value>, String> {
    let arguments = Value::parse_json(arguments).map_err(|e| e.to_string())?;
    match peer.call(command, arguments) {
        Ok(Value::List(l)) => Ok(l),
        other => Err(format!("{command}: {other:?}")),
    }
}

fn text<'a>(v: &'a Value, key: &str) -> &'a str {
    v.get(key).and_then(Value::as_str).unwrap_or("")
}

/// Waits until jobs rest, and looks.
pub fn look(peer: &mut dyn Peer, dir: &Path) -> Result<Seen, String> {
    let dir = dir.display().to_string();
    let mut jobs = Vec::new();
    for tries in 0..1000 {
        jobs = list(peer, "query-jobs", "{}")?;
        let busy = |j: &&Value| ["created", "running", "waiting", "aborting"].contains(&text(j, "status"));
        // One that has to be finalized stays pending.
        let ending = tries < 150 && jobs.iter().any(|j| text(j, "status") == "pending");
        // One that makes way for a change of the graph is paused for a moment.
        let rests = |j: &Value| ["paused", "standby"].contains(&text(j, "status"));
        let ending = ending || (tries < 400 && jobs.iter().any(rests));
        // A copy that only waits for writes goes on.
        let waits = tries > 200 && jobs.iter().filter(busy).all(|j| text(j, "type") == "backup");
        if !ending && (waits || !jobs.iter().any(|j| busy(&j))) {
            break;
        }
        peer.wait(Duration::from_millis(2));
    }
    let mut lines = Vec::new();
    let (mut names, mut job_names) = (Vec::new(), Vec::new());
    for j in &jobs {
        job_names.push(text(j, "id").to_owned());
        lines.push(format!(
            "job {} {} {} {}",
            text(j, "id"),
            text(j, "type"),
            text(j, "status"),
            plain(text(j, "error"), &dir)
        ));
    }
    for n in list(peer, "query-named-block-nodes", "{'flat':true}")? {
        let name = text(&n, "node-name");
        if name.starts_with('#') {
            continue;
        }
        names.push(name.to_owned());
        let member = |k: &str| n.get(k).map_or(String::new(), Value::to_json);
        // How long an image's file is, is the format's affair.
        let image = n.get("image").filter(|_| text(&n, "drv") != "file");
        let size = image.and_then(|i| i.get("virtual-size")).map_or(String::new(), Value::to_json);
        let mut bitmaps: Vec<String> = n
            .get("dirty-bitmaps")
            .and_then(Value::as_list)
            .unwrap_or_default()
            .iter()
            // Those without a name are a filter's own.
            .filter(|b| !text(b, "name").is_empty())
            .map(|b| {
                let is = |k: &str| b.get(k).and_then(Value::as_bool).unwrap_or(false);
                format!("{}/{}/{}/{}", text(b, "name"), is("recording"), is("busy"), is("persistent"))
            })
            .collect();
        bitmaps.sort();
        lines.push(format!(
            "node {name} {} ro={} active={} zeroes={} depth={} backing={} size={size} bitmaps={}",
            text(&n, "drv"),
            member("ro"),
            member("active"),
            text(&n, "detect_zeroes"),
            member("backing_file_depth"),
            plain(text(&n, "backing_file"), &dir),
            bitmaps.join(",")
        ));
    }
    for e in list(peer, "query-block-exports", "{}")? {
        lines.push(format!("export {} {}", text(&e, "id"), plain(text(&e, "node-name"), &dir)));
    }
    lines.sort();
    names.sort();
    Ok(Seen { names, jobs: job_names, lines })
}
