//! The QMP reference, `docs/qmp.md`, written from the contract's own types; and the tests that keep the manual true.
//!
//! What there is comes from a running `rhea` (it declares exactly what it has registered); what it means comes from the
//! descriptions of the types in the crate `api`.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use e2e::{VmBuilder, workspace};
use qapi::Introspection;
use qapi::schema::{Entry, MemberDef, ObjectBuilder, Schema, Shape, TypeRef};
use serde_json::{Value, json};

const PAGE: &str = "docs/qmp.md";

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Changes nothing; fails where the committed page is not current
    #[arg(long)]
    check: bool,
}

pub(crate) fn run(args: Args) -> Result<()> {
    if std::env::var_os("RHEA_BIN").is_none() {
        crate::test::build_release()?;
    }
    let page = page(&ask()?)?;
    let path = workspace().join(PAGE);
    if args.check {
        ensure!(std::fs::read_to_string(&path)? == page, "{PAGE} is not current: run `cargo xtask docs`");
        println!("docs: {PAGE} is current");
    } else {
        std::fs::write(&path, page)?;
        println!("docs: wrote {PAGE}");
    }
    Ok(())
}

/// What a running program says of itself.
struct Said {
    /// The names of its commands and events.
    names: BTreeSet<String>,
    /// The human monitor's own help, without and with `info`.
    hmp: [String; 2],
}

fn ask() -> Result<Said> {
    let mut vm = VmBuilder::riscv64().args(["-S"]).start()?;
    let schema = vm.qmp().run("query-qmp-schema", json!({}))?;
    let names = schema
        .as_array()
        .context("query-qmp-schema returned no list")?
        .iter()
        .filter(|e| e["meta-type"] == "command" || e["meta-type"] == "event")
        .filter_map(|e| e["name"].as_str().map(str::to_owned))
        .collect();
    let mut help = |line: &str| -> Result<String> {
        let text = vm.qmp().run("human-monitor-command", json!({ "command-line": line }))?;
        Ok(text.as_str().unwrap_or_default().replace('\r', ""))
    };
    let hmp = [help("help")?, help("help info")?];
    vm.qmp().run("quit", Value::Object(serde_json::Map::new()))?;
    vm.wait(Duration::from_secs(30))?;
    Ok(Said { names, hmp })
}

const HEAD: &str = "\
# QMP reference

<!-- Written by `cargo xtask docs` from the types of the crate `api`. Do not edit. -->

The commands and events that `rhea vm` has, and their types. A program should ask `query-qmp-schema` for them; this page
is for people. How a session goes (greeting, negotiation, `id`, out-of-band execution, line ends) stands at
[the end](#the-wire).

A member marked *optional* may be left out. Input is strict: a member that is unknown, missing, given twice or of the wrong
type is an error that names it by its path.
";

const WIRE: &str = r#"
## The wire

- The server greets with `{"QMP": {"version": …, "capabilities": ["oob"]}}`. A client sends `qmp_capabilities`, with
  `"enable": ["oob"]` if it wants out-of-band execution, before any other command.
- A request is `{"execute": NAME, "arguments": {…}, "id": ANYTHING}`; `arguments` and `id` may be left out. The reply is
  `{"return": …}` or `{"error": {"class": …, "desc": …}}`, with the request's `id`. `exec-oob` in place of `execute` runs a
  command that allows it at once, past those that wait.
- Lines of the server end with CR LF. Requests may be separated by anything that JSON allows between values.
- An event is `{"timestamp": {"seconds": …, "microseconds": …}, "event": NAME, "data": {…}}` and may come at any time.
- A client that does not read is not served any further, and is disconnected once 8 MiB of events wait for it.
"#;

/// The whole page.
fn page(said: &Said) -> Result<String> {
    let all = api::introspection();
    let known: BTreeSet<&str> = all.names().collect();
    if let Some(name) = said.names.iter().find(|n| !known.contains(n.as_str())) {
        bail!("{name} is registered but is missing in `api::introspection`");
    }
    let entries: Vec<&Entry> = {
        let mut e: Vec<_> = all.entries().iter().filter(|e| said.names.contains(e.name)).collect();
        e.sort_by_key(|e| e.name);
        e
    };
    let mut w = Writer::new(&all, &entries);
    w.out += HEAD;
    for (title, command) in [("Commands", true), ("Events", false)] {
        let _ = write!(w.out, "\n## {title}\n");
        for e in entries.iter().filter(|e| e.ret.is_some() == command) {
            w.entry(e);
        }
    }
    w.types();
    w.out += "\n## The human monitor\n\nCommands of the human monitor (`-monitor`, and `human-monitor-command` here):\n\n```\n";
    w.out += &said.hmp.concat();
    w.out += "```\n";
    w.out += WIRE;
    Ok(w.out)
}

struct Writer<'a> {
    schema: &'a Schema,
    /// Types that are met, in the order in which they are met, and how often they are referred to.
    uses: HashMap<TypeRef, usize>,
    met: Vec<TypeRef>,
    /// Types whose members stand with their only user.
    inline: Vec<TypeRef>,
    out: String,
}

/// The types that a type's definition refers to.
fn refers(shape: &Shape) -> Vec<TypeRef> {
    match shape {
        Shape::Array(element) => vec![*element],
        Shape::Object(o) => o.members.iter().map(|m| m.ty).chain(o.branches.iter().map(|b| b.1)).collect(),
        Shape::Alternate(types) => types.clone(),
        Shape::Builtin(_) | Shape::Enum(_) | Shape::Undefined => Vec::new(),
    }
}

/// A description without the links that only the source has.
fn text(doc: &str) -> String {
    doc.trim().replace("[`", "`").replace("`]", "`")
}

/// The same as one line.
fn line(doc: &str) -> String {
    text(doc).split_whitespace().collect::<Vec<_>>().join(" ")
}

fn features(features: &[&str]) -> String {
    features.iter().map(|f| format!(" *Feature `{f}`.*")).collect()
}

impl<'a> Writer<'a> {
    fn new(all: &'a Introspection, entries: &[&Entry]) -> Writer<'a> {
        let schema = all.schema();
        let mut w =
            Writer { schema, uses: HashMap::new(), met: Vec::new(), inline: Vec::new(), out: String::new() };
        for e in entries {
            for ty in std::iter::once(e.arg).chain(e.ret) {
                w.meet(ty);
            }
        }
        let mut at = 0;
        while at < w.met.len() {
            let ty = w.met[at];
            at += 1;
            for t in refers(&schema.get(ty).shape) {
                w.meet(t);
            }
        }
        let only_here = |e: &&Entry| w.uses[&e.arg] == 1;
        w.inline = entries.iter().copied().filter(only_here).map(|e| e.arg).collect();
        w
    }

    fn meet(&mut self, ty: TypeRef) {
        let n = self.uses.entry(ty).or_default();
        *n += 1;
        if *n == 1 {
            self.met.push(ty);
        }
    }

    fn object(&self, ty: TypeRef) -> Option<&'a ObjectBuilder> {
        match &self.schema.get(ty).shape {
            Shape::Object(o) => Some(o),
            _ => None,
        }
    }

    fn is_empty(&self, ty: TypeRef) -> bool {
        self.object(ty).is_some_and(|o| o.members.is_empty() && o.branches.is_empty())
    }

    /// The only member of a type that is not described: it stands for a branch whose members stand in a member.
    fn wrapped(&self, ty: TypeRef) -> Option<&'a MemberDef> {
        let plain = self.schema.get(ty).doc.is_empty();
        self.object(ty)
            .filter(|o| plain && o.branches.is_empty() && o.members.len() == 1)
            .map(|o| &o.members[0])
    }

    fn name(&self, ty: TypeRef) -> String {
        let def = self.schema.get(ty);
        match &def.shape {
            Shape::Builtin("value") => "any value".into(),
            Shape::Builtin("int") => "integer".into(),
            Shape::Builtin(json) => (*json).into(),
            Shape::Array(element) => format!("list of {}", self.name(*element)),
            _ if self.is_empty(ty) => "nothing".into(),
            _ => format!("[{}](#{})", def.name, def.name.to_lowercase()),
        }
    }

    fn entry(&mut self, e: &Entry) {
        let _ = write!(self.out, "\n### {}\n\n{}{}\n", e.name, text(e.doc), features(e.features));
        let what = if e.ret.is_some() { "Arguments" } else { "Data" };
        if self.inline.contains(&e.arg) && !self.is_empty(e.arg) {
            let _ = write!(self.out, "\n{what}:\n\n");
            self.members(e.arg);
        } else if !self.is_empty(e.arg) {
            let _ = write!(self.out, "\n{what}: {}.\n", self.name(e.arg));
        }
        if let Some(ret) = e.ret.filter(|r| !self.is_empty(*r)) {
            let _ = write!(self.out, "\nReturns: {}.\n", self.name(ret));
        }
        if e.allow_oob {
            self.out += "\nMay run out of band.\n";
        }
    }

    fn members(&mut self, ty: TypeRef) {
        let Some(object) = self.object(ty) else { return };
        for m in &object.members {
            self.member(m, object);
        }
    }

    fn member(&mut self, m: &MemberDef, of: &ObjectBuilder) {
        let optional = if m.optional { ", optional" } else { "" };
        let ty = self.name(m.ty);
        let _ = write!(self.out, "- `{}` ({ty}{optional}): {}{}", m.name, line(m.doc), features(m.features));
        if of.tag == Some(m.name) {
            self.out += " It decides about further members:\n";
            for (case, ty) in &of.branches {
                let more = match self.wrapped(*ty) {
                    Some(m) => format!("`{}` ({})", m.name, self.name(m.ty)),
                    None if self.is_empty(*ty) => "none".into(),
                    None => self.name(*ty),
                };
                let _ = writeln!(self.out, "  - `{case}`: {more}");
            }
        } else {
            self.out += "\n";
        }
    }

    fn types(&mut self) {
        self.out += "\n## Types\n";
        let mut list: Vec<TypeRef> = self
            .met
            .iter()
            .copied()
            .filter(|t| !self.inline.contains(t) && !self.is_empty(*t) && self.wrapped(*t).is_none())
            .filter(|t| !matches!(self.schema.get(*t).shape, Shape::Builtin(_) | Shape::Array(_)))
            .collect();
        list.sort_by_key(|t| &self.schema.get(*t).name);
        for ty in list {
            let def = self.schema.get(ty);
            let _ = write!(self.out, "\n### {}\n\n", def.name);
            if !def.doc.is_empty() {
                let _ = write!(self.out, "{}{}\n\n", text(def.doc), features(def.features));
            }
            match &def.shape {
                Shape::Enum(values) => {
                    for v in values {
                        let _ = writeln!(self.out, "- `{}`: {}{}", v.name, line(v.doc), features(v.features));
                    }
                }
                Shape::Alternate(types) => {
                    let names: Vec<String> = types.iter().map(|t| self.name(*t)).collect();
                    let _ = writeln!(self.out, "One of: {}.", names.join("; "));
                }
                _ => self.members(ty),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::{Path, PathBuf};

    /// Every page of the manual, with its text.
    fn pages() -> Vec<(PathBuf, String)> {
        let root = workspace();
        let mut files: Vec<PathBuf> =
            ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"].iter().map(|n| root.join(n)).collect();
        let docs = std::fs::read_dir(root.join("docs")).unwrap().flatten().map(|e| e.path());
        files.extend(docs.filter(|p| p.extension().is_some_and(|e| e == "md")));
        files.sort();
        files.into_iter().map(|p| (p.clone(), std::fs::read_to_string(p).unwrap())).collect()
    }

    /// The text outside of fenced blocks.
    fn prose(text: &str) -> String {
        let mut inside = false;
        let mut out = String::new();
        for l in text.lines() {
            if l.trim_start().starts_with("```") {
                inside = !inside;
            } else if !inside {
                out += l;
                out.push('\n');
            }
        }
        assert!(!inside, "a fence is not closed");
        out
    }

    /// The anchors of a page's headings, as forges make them.
    fn anchors(text: &str) -> BTreeSet<String> {
        let slug = |h: &str| {
            let kept = h.trim().to_lowercase();
            let kept = kept.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
            kept.collect::<String>().replace(' ', "-")
        };
        prose(text).lines().filter(|l| l.starts_with('#')).map(|l| slug(l.trim_start_matches('#'))).collect()
    }

    #[test]
    fn every_link_leads_somewhere() {
        for (path, text) in pages() {
            let page = path.display();
            for rest in prose(&text).split("](").skip(1) {
                let target = rest.split(')').next().unwrap_or_default();
                if target.contains("://") {
                    continue;
                }
                let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
                let to = if file.is_empty() { path.clone() } else { path.parent().unwrap().join(file) };
                assert!(to.exists(), "{page}: {target} is not there");
                if !anchor.is_empty() {
                    let there = anchors(&std::fs::read_to_string(&to).unwrap());
                    assert!(there.contains(anchor), "{page}: {target} has no such heading");
                }
            }
        }
    }

    #[test]
    fn every_file_that_is_named_is_there() {
        const ENDS: [&str; 7] = [".rs", ".md", ".sh", ".toml", ".txt", ".golden", ".elf"];
        for (path, text) in pages() {
            for (i, span) in prose(&text).split('`').enumerate() {
                let plain = span.chars().all(|c| c.is_ascii_alphanumeric() || "_-./".contains(c));
                let is_path = i % 2 == 1 && plain && span.contains('/') && !span.starts_with('/');
                if is_path && ENDS.iter().any(|e| span.ends_with(e)) {
                    assert!(workspace().join(span).exists(), "{}: no file {span}", path.display());
                }
            }
        }
    }

    #[test]
    fn the_qmp_page_is_current() {
        if !e2e::rhea_binary().exists() {
            e2e::skip!("{} is not built", e2e::rhea_binary().display());
        }
        let ours = page(&ask().unwrap()).unwrap();
        let committed = std::fs::read_to_string(workspace().join(PAGE)).unwrap();
        assert!(ours == committed, "{PAGE} is not current: run `cargo xtask docs`");
    }

    #[test]
    fn every_option_of_the_system_emulator_is_described() {
        if !e2e::rhea_binary().exists() {
            e2e::skip!("{} is not built", e2e::rhea_binary().display());
        }
        let help = e2e::run_tool(e2e::rhea_binary(), &["vm", "--arch", "riscv64", "-h"]).unwrap();
        let manual = read("docs/rhea-vm.md");
        let options = help.lines().filter_map(|l| l.strip_prefix("  -")).map(|l| {
            let name: String = l.chars().take_while(|c| !" ,\n".contains(*c)).collect();
            format!("`-{name}")
        });
        let missing: Vec<String> = options.filter(|o| !manual.contains(o)).collect();
        assert!(missing.is_empty(), "docs/rhea-vm.md does not describe {missing:?}");
    }

    #[test]
    fn every_page_is_in_the_index() {
        let index = read("docs/index.md");
        for (path, _) in pages() {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            assert!(
                name == "index.md" || index.contains(&format!("{name})")),
                "{name} is not in docs/index.md"
            );
        }
    }

    fn read(path: impl AsRef<Path>) -> String {
        std::fs::read_to_string(workspace().join(path)).unwrap()
    }
}
