//! `map`.

use super::args::{FORMAT, HELP, IMAGE_OPTS, OBJECT, OUTPUT, Parsed, SHARE, value};
use super::{CmdResult, Command, Tool, could_not_open};
use crate::map::{Range, map};
use crate::open::{OpenFlags, open};
use std::fmt::Write;

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

/// How much text is put together before it is printed, bytes.
const TEXT: usize = 64 << 10;

/// How much text the reference holds back where it does not write to a terminal, bytes.
const BUFFER: usize = 4096;

/// What is printed, range by range.
struct Listing<'a, 't> {
    tool: &'a mut Tool<'t>,
    json: bool,
    /// What is not printed yet.
    text: String,
    /// Nothing was said of any range yet.
    none: bool,
    /// Something is stored where people cannot be told of it: nothing behind it is listed.
    broken: bool,
}

impl Listing<'_, '_> {
    fn add(&mut self, r: &Range) {
        let none = std::mem::take(&mut self.none);
        if self.json {
            self.text.push_str(if none { "[" } else { ",\n" });
            self.json(r);
        } else if r.data && r.offset.is_none() {
            self.broken = true;
        } else if r.data && !r.zero && !self.broken {
            let name = r.filename.as_deref().unwrap_or_default();
            self.row(&hex(r.start), &hex(r.len), &hex(r.offset.unwrap_or(0)), name);
        }
        if self.text.len() >= TEXT {
            self.tool.print(&std::mem::take(&mut self.text));
        }
    }

    fn json(&mut self, r: &Range) {
        let begun = write!(
            self.text,
            "{{ \"start\": {}, \"length\": {}, \"depth\": {}, \"present\": {}, \"zero\": {}, \"data\": {}, \
             \"compressed\": {}",
            r.start, r.len, r.depth, r.present, r.zero, r.data, r.compressed
        );
        let offset = r.offset.map_or(Ok(()), |o| write!(self.text, ", \"offset\": {o}"));
        debug_assert!(begun.and(offset).is_ok(), "text is written to memory");
        self.text.push('}');
    }

    /// A row of the table that people read.
    fn row(&mut self, start: &str, len: &str, offset: &str, file: &str) {
        let written = writeln!(self.text, "{start:<16}{len:<16}{offset:<16}{file}");
        debug_assert!(written.is_ok(), "text is written to memory");
    }

    /// Prints what is left, and the end; without it where not all was found.
    fn end(mut self, whole: bool) {
        if self.json {
            let end = if whole { "]\n" } else { ",\n" };
            // Of nothing, too, something is said.
            let end = match std::mem::take(&mut self.none) {
                true => {
                    self.text.push('[');
                    self.json(&Range::default());
                    if whole { end } else { "\n" }
                }
                false => end,
            };
            self.text.push_str(end);
        }
        self.tool.print(&self.text);
    }
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
    let executor = match crate::executor() {
        Ok(x) => x,
        Err(e) => return tool.fail(&format!("Could not start: {e}")),
    };
    let mut listing = Listing { tool, json: json_wanted, text: String::new(), none: true, broken: false };
    let mut begun = false;
    let done = executor.block_on(async {
        let image = open(&source, flags).await.map_err(|e| could_not_open(name, &e))?;
        let done = match image.reader().await {
            Ok(root) => {
                begun = true;
                if !json_wanted {
                    listing.row("Offset", "Length", "Mapped to", "File");
                }
                let mut tell = |mut r: Range| {
                    if !json_wanted && r.data && r.offset.is_some() && r.filename.is_none() {
                        r.filename = image.storage_name(r.depth);
                    }
                    listing.add(&r);
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
    });
    let broken = listing.broken;
    if broken && !json_wanted && done.is_ok() {
        // Where nobody looks, the reference's last lines are still in its buffer when it complains.
        let text = std::mem::take(&mut listing.text);
        let said = if listing.tool.terminal { text.len() } else { whole_buffers(&text) };
        listing.tool.print(&text[..said]);
        let failed = listing.tool.fail("File contains external, encrypted or compressed clusters.");
        listing.tool.print(&text[said..]);
        return failed;
    }
    if begun {
        // What was found until an error is shown, without an end.
        listing.end(done.is_ok());
    }
    match done {
        Err(e) => tool.fail_with(&e),
        Ok(()) => Ok(0),
    }
}

/// How much of a text whole buffers hold, up to the character that begins in the last of them.
fn whole_buffers(text: &str) -> usize {
    let end = text.len() / BUFFER * BUFFER;
    (0..=end).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0)
}

/// Hexadecimal, but a plain 0.
fn hex(n: u64) -> String {
    if n == 0 { "0".into() } else { format!("{n:#x}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_between_characters() {
        assert_eq!(whole_buffers(&"x".repeat(BUFFER - 1)), 0);
        assert_eq!(whole_buffers(&"x".repeat(2 * BUFFER + 1)), 2 * BUFFER);
        // Each takes two bytes, and the first stands at an odd place.
        assert_eq!(whole_buffers(&format!("x{}", "\u{e4}".repeat(BUFFER))), 2 * BUFFER - 1);
    }
}
