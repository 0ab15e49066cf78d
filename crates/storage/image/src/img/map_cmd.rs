//! `map`.

use super::args::{FORMAT, HELP, IMAGE_OPTS, OBJECT, OUTPUT, Parsed, SHARE, value};
use super::{CmdResult, Command, Tool, could_not_open, wait};
use crate::map::{Range, map};
use crate::open::{OpenFlags, open};

/// `map`.
pub(super) static COMMAND: Command = Command {
    name: "map",
    about: "Tell where an image's bytes are",
    usage: "[-f FMT | --image-opts] [--start-offset OFFSET] [--max-length LENGTH] [--output human|json] \
            [--object OBJDEF] [-U] FILENAME",
    options: &[
        HELP,
        FORMAT,
        IMAGE_OPTS,
        value('s', "start-offset", "OFFSET", "where to begin"),
        value('l', "max-length", "LENGTH", "how far to go"),
        OUTPUT,
        SHARE,
        OBJECT,
    ],
    notes: "",
    run,
};

/// What is printed of all ranges.
fn json(list: &[Range]) -> String {
    let one = |r: &Range| {
        let offset = r.offset.map_or_else(String::new, |o| format!(", \"offset\": {o}"));
        format!(
            "{{ \"start\": {}, \"length\": {}, \"depth\": {}, \"present\": {}, \"zero\": {}, \"data\": {}, \
             \"compressed\": {}{offset}}}",
            r.start, r.len, r.depth, r.present, r.zero, r.data, r.compressed
        )
    };
    let mut all: Vec<String> = list.iter().map(one).collect();
    if all.is_empty() {
        // Of nothing, too, something is said.
        all.push(one(&Range::default()));
    }
    format!("[{}]\n", all.join(",\n"))
}

fn run(tool: &mut Tool<'_>, p: Parsed) -> CmdResult {
    let json_wanted = tool.json_wanted(&p)?;
    let mut number = |option, what| match p.get(option) {
        Some(t) => tool.number(what, t, 0, i64::MAX as u64).map(Some),
        None => Ok(None),
    };
    let start = number("start-offset", "start offset")?.unwrap_or(0);
    let len = number("max-length", "max length")?.unwrap_or(u64::MAX);
    let [name] = &p.rest[..] else { return tool.usage("Expecting one image file name") };
    tool.format_or_options(&p)?;
    let source = tool.source(&p, name)?;
    let flags = OpenFlags { force_share: p.has("force-share"), chain: true, ..OpenFlags::default() };
    let mut text = String::new();
    let mut list = Vec::new();
    let mut broken = false;
    let mut begun = false;
    let done = wait(tool, async {
        let image = open(&source, flags).await.map_err(|e| could_not_open(name, &e))?;
        let done = match image.reader().await {
            Ok(root) => {
                begun = true;
                let mut tell = |r: Range| {
                    if json_wanted {
                        list.push(r);
                    } else if r.data && r.offset.is_none() {
                        broken = true;
                    } else if r.data && !r.zero && !broken {
                        text.push_str(&format!(
                            "{:<16}{:<16}{:<16}{}\n",
                            hex(r.start),
                            hex(r.len),
                            hex(r.offset.unwrap_or(0)),
                            r.filename.unwrap_or_default()
                        ));
                    }
                };
                let shown = image.graph.snapshot().by_name(&image.node).is_none_or(|n| n.ty.shows_places);
                let done = match shown {
                    true => map(&root, start, len, &mut tell).await,
                    false => {
                        let len = root.len().saturating_sub(start).min(len);
                        if len > 0 {
                            tell(Range { start, len, present: true, data: true, ..Range::default() });
                        }
                        Ok(())
                    }
                };
                root.detach().await;
                done.map_err(|(_, e)| qapi::qerr!("Could not read file metadata: {e}"))
            }
            Err(e) => Err(e),
        };
        image.close().await;
        done
    })?;
    if let Err(e) = done {
        if begun {
            // What was found until then is shown, without an end.
            let said = if json_wanted { begun_json(&list) } else { human(&text) };
            tool.print(&said);
        }
        return tool.fail_with(&e);
    }
    if json_wanted {
        tool.print(&json(&list));
        return Ok(0);
    }
    tool.print(&human(&text));
    match broken {
        true => tool.fail("File contains external, encrypted or compressed clusters."),
        false => Ok(0),
    }
}

/// The table that people read.
fn human(lines: &str) -> String {
    format!("{:<16}{:<16}{:<16}{}\n{lines}", "Offset", "Length", "Mapped to", "File")
}

/// A list without its end; the last range is still held back.
fn begun_json(list: &[Range]) -> String {
    let whole = json(list);
    let text = whole.trim_end_matches("]\n");
    if list.is_empty() { format!("{text}\n") } else { format!("{text},\n") }
}

/// Hexadecimal, but a plain 0.
fn hex(n: u64) -> String {
    if n == 0 { "0".into() } else { format!("{n:#x}") }
}
