//! `commit`.

use super::args::{FORMAT, HELP, IMAGE_OPTS, OBJECT, PROGRESS, Parsed, QUIET, Spec, flag, value};
use super::on_image::{Begin, on_image};
use super::{CmdResult, Command, Tool};
use crate::commit::{Plan, commit};
use crate::open::OpenFlags;

/// `commit`.
pub(super) static COMMAND: Command = Command {
    name: "commit",
    about: "Merge an image into an image below it",
    usage: "[-f FMT | --image-opts] [-t CACHE] [-b BASE] [-d] [-r RATE] [--object OBJDEF] [-p] [-q] FILENAME",
    options: OPTIONS,
    notes: "Images between FILENAME and BASE make no sense any more afterwards, nor do other images on BASE.",
    run,
};

const OPTIONS: &[Spec] = &[
    HELP,
    QUIET,
    PROGRESS,
    FORMAT,
    IMAGE_OPTS,
    value('t', "cache", "CACHE", "how the host's cache is used (default writeback)"),
    flag('d', "drop", "leave FILENAME as it is; otherwise it is empty afterwards"),
    value('b', "base", "BASE", "merge into this image of the chain, not into the next one; implies -d"),
    value('r', "rate-limit", "RATE", "bytes a second at most").alias(&["rate"]),
    OBJECT,
];

fn run(tool: &mut Tool<'_>, p: Parsed) -> CmdResult {
    let rate = match p.get("rate-limit") {
        None => 0,
        Some(t) => tool.number("rate limit", t, 0, i64::MAX as u64)?,
    };
    let [name] = &p.rest[..] else { return tool.usage("Expecting one image file name") };
    tool.format_or_options(&p)?;
    let source = tool.source(&p, name)?;
    let cache = tool.cache(&p, "cache", "writeback", "cache")?;
    let plan = Plan { base: p.get("base").map(str::to_owned), drop: p.has("drop"), rate };
    let flags = OpenFlags { write: true, chain: true, unmap: true, cache, ..OpenFlags::default() };
    let ended = on_image(tool, &p, (&source, flags), Begin::Opened, async |image, progress| {
        commit(image, name, &plan, &mut |at, of| {
            // The end is told once the image is closed, and a job may be at its end for some time.
            if at < of {
                progress.at(at, of);
            }
        })
        .await
    });
    if let Err(e) = ended.done {
        tool.line_open &= ended.opened;
        return tool.fail_with(&e);
    }
    tool.end_line();
    if !p.has("quiet") {
        tool.print("Image committed.\n");
    }
    Ok(0)
}
