//! `tree`.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use base::units::human_size;
use qapi::{Dict, Value};

use super::args::{HELP, OUTPUT, Parsed, flag};
use super::{CmdResult, Command, Tool, wait};
use crate::tree::{Ask, Facts, Image, Link, Purpose, Target, look};

/// `tree`.
pub(super) static COMMAND: Command = Command {
    name: "tree",
    about: "Draw which image backs which",
    usage: "[-r] [--follow] [--output human|json] FILENAME|FOLDER...",
    options: &[
        HELP,
        flag('r', "recursive", "look into folders within folders, too"),
        flag('L', "follow", "also open the plain files that headers name, wherever they are"),
        OUTPUT,
    ],
    notes: "Of a folder all regular files are looked at, but for hidden ones; symbolic links in it are not opened. \
            Nothing that a header names is opened unless --follow is given; whether it is there is told only of files in \
            the folders of the images that were named. An image that cannot be read is shown with the reason, and \
            the exit code is then 1.",
    run,
};

/// How deep is drawn.
const MAX_DRAWN: usize = 200;

fn run(tool: &mut Tool<'_>, p: Parsed) -> CmdResult {
    let json = tool.json_wanted(&p)?;
    if p.rest.is_empty() {
        return tool.usage("Expecting image file names or folders");
    }
    let ask = Ask { names: p.rest.clone(), recursive: p.has("recursive"), follow: p.has("follow") };
    match wait(tool, look(&ask))? {
        Ok(list) => {
            tool.print(&if json { as_json(&list) } else { Drawing::new(&list).draw() });
            Ok(i32::from(list.iter().any(|i| i.facts.is_err())))
        }
        Err(e) => tool.fail_with(&e),
    }
}

fn as_json(list: &[Image]) -> String {
    let images = list.iter().map(|i| Value::Dict(image(list, i))).collect();
    Value::Dict(Dict::from_iter([("images", Value::List(images))])).to_json_pretty() + "\n"
}

fn image(list: &[Image], i: &Image) -> Dict {
    let mut d = Dict::from_iter([("filename", i.name.as_str())]);
    match &i.facts {
        Ok(f) => {
            d.insert("format", f.format.as_str());
            d.insert("virtual-size", f.virtual_size);
            if let Some(n) = f.actual_size {
                d.insert("actual-size", n);
            }
            if f.encrypted {
                d.insert("encrypted", true);
            }
            if f.dirty {
                d.insert("dirty-flag", true);
            }
            d.insert("snapshot-count", f.snapshots as u64);
        }
        Err(e) => {
            d.insert("error", e.as_str());
        }
    }
    let links =
        |p: Purpose| i.links.iter().filter(move |l| l.purpose == p).map(|l| Value::Dict(link(list, l)));
    for (name, purpose) in [("backing", Purpose::Backing), ("data-file", Purpose::Data)] {
        if let Some(l) = links(purpose).next() {
            d.insert(name, l);
        }
    }
    let extents: Vec<Value> = links(Purpose::Extent).collect();
    if !extents.is_empty() {
        d.insert("extents", Value::List(extents));
    }
    if !i.overlays.is_empty() {
        let names = i.overlays.iter().map(|o| Value::from(list[*o].name.as_str()));
        d.insert("overlays", Value::List(names.collect()));
    }
    if i.looped {
        d.insert("loop", true);
    }
    if !i.given {
        d.insert("followed", true);
    }
    d
}

fn link(list: &[Image], l: &Link) -> Dict {
    let mut d = Dict::from_iter([("name", l.name.as_str())]);
    if let Target::Image(n) = l.target {
        d.insert("filename", list[n].name.as_str());
    }
    if let Some(f) = &l.format {
        d.insert("format", f.as_str());
    }
    d.insert("state", state(l.target));
    d
}

fn state(t: Target) -> &'static str {
    match t {
        Target::Image(_) => "found",
        Target::Missing => "missing",
        Target::Elsewhere => "elsewhere",
        Target::NoFile => "no-file",
    }
}

/// A name as it can be shown to a person: it may come from anybody, and what steers terminals is made visible.
fn shown(name: &str) -> String {
    let visible = |c: char| match c {
        c if c.is_control()
            || ('\u{202a}'..='\u{202e}').contains(&c)
            || ('\u{2066}'..='\u{2069}').contains(&c) =>
        {
            c.escape_default().to_string()
        }
        c => c.to_string(),
    };
    name.chars().map(visible).collect()
}

struct Drawing<'a> {
    list: &'a [Image],
    text: String,
    drawn: Vec<bool>,
}

impl<'a> Drawing<'a> {
    fn new(list: &'a [Image]) -> Drawing<'a> {
        Drawing { list, text: String::new(), drawn: vec![false; list.len()] }
    }

    fn draw(mut self) -> String {
        let list = self.list;
        // Those with a base that is not among the images stand below its name.
        let mut bases: BTreeMap<(String, &str), Vec<usize>> = BTreeMap::new();
        for (i, image) in list.iter().enumerate() {
            match image.backing() {
                Some(Link { target: Target::Image(_), .. }) => {}
                Some(l) => {
                    let name = match l.target {
                        Target::NoFile => l.name.clone(),
                        _ => crate::create::beside(&image.name, &l.name),
                    };
                    bases.entry((name, state(l.target))).or_default().push(i);
                }
                // What only holds the data of another is drawn there.
                None if image.part && image.overlays.is_empty() => {}
                None => self.tree(i, "", 0),
            }
        }
        for ((name, state), overlays) in bases {
            let what = match state {
                "missing" => "missing",
                "elsewhere" => "elsewhere, not looked at",
                _ => "no plain file name, not looked at",
            };
            let _ = writeln!(self.text, "{}  ({what})", shown(&name));
            self.below(&overlays, "", 0);
        }
        for (i, image) in list.iter().enumerate() {
            if image.looped && !self.drawn[i] {
                self.tree(i, "", 0);
            }
        }
        self.text
    }

    fn tree(&mut self, at: usize, pad: &str, depth: usize) {
        let image = &self.list[at];
        let again = std::mem::replace(&mut self.drawn[at], true);
        let told = match &image.facts {
            _ if again => "(a loop: it backs itself)".to_owned(),
            Ok(f) => facts(f),
            Err(e) => format!("(cannot be read: {})", shown(e)),
        };
        let _ = writeln!(self.text, "{}  {told}", shown(&image.name));
        if again {
            return;
        }
        let bar = if image.overlays.is_empty() { "    " } else { "│   " };
        for l in image.links.iter().filter(|l| l.purpose != Purpose::Backing) {
            let what = if l.purpose == Purpose::Data { "data" } else { "extent" };
            let told = match l.target {
                Target::Image(n) => self.list[n].facts.as_ref().map_or_else(|e| shown(e), facts),
                t => format!("({})", state(t)),
            };
            let _ = writeln!(self.text, "{pad}{bar}{what}: {}  {told}", shown(&l.name));
        }
        self.below(&image.overlays, pad, depth);
    }

    fn below(&mut self, overlays: &[usize], pad: &str, depth: usize) {
        if depth >= MAX_DRAWN && !overlays.is_empty() {
            let _ = writeln!(self.text, "{pad}└── … more than {MAX_DRAWN} stand on one another");
            return;
        }
        for (n, o) in overlays.iter().enumerate() {
            let (arm, bar) =
                if n + 1 == overlays.len() { ("└── ", "    ") } else { ("├── ", "│   ") };
            let _ = write!(self.text, "{pad}{arm}");
            self.tree(*o, &format!("{pad}{bar}"), depth + 1);
        }
    }
}

fn facts(f: &Facts) -> String {
    let mut s = format!("{}, {}", f.format, human_size(f.virtual_size));
    if let Some(n) = f.actual_size {
        let _ = write!(s, " ({} on disk)", human_size(n));
    }
    if f.snapshots > 0 {
        let _ = write!(s, ", {} snapshot{}", f.snapshots, if f.snapshots == 1 { "" } else { "s" });
    }
    for (is, word) in [(f.encrypted, "encrypted"), (f.dirty, "not closed properly")] {
        if is {
            let _ = write!(s, ", {word}");
        }
    }
    s
}
