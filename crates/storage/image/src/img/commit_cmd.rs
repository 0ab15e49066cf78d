//! `commit`.

use qapi::qerr;

use super::args::{FORMAT, HELP, IMAGE_OPTS, OBJECT, PROGRESS, Parsed, QUIET, Spec, flag, value};
use super::progress::Progress;
use super::{CmdResult, Command, Tool, could_not_open};
use crate::commit::{Plan, commit};
use crate::open::{OpenFlags, open};

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
    let (asked, quiet, terminal) = tool.show_progress(&p);
    let mut warning = None;
    let mut opened = false;
    let done = {
        let mut progress = Progress::new(asked, quiet, terminal, &mut *tool.out, &mut *tool.err);
        let work = async {
            let image = open(&source, flags).await.map_err(|e| could_not_open(name, &e))?;
            warning = image.warning(&source);
            opened = true;
            progress.begin();
            let done = commit(&image, name, &plan, &mut |at, of| progress.at(at, of)).await;
            image.close().await;
            done?;
            progress.finished();
            Ok(())
        };
        match rt::Executor::new() {
            Ok(x) => x.block_on(work),
            Err(e) => Err(qerr!("Could not start: {e}")),
        }
    };
    if let Some(w) = warning {
        tool.warn(&w);
    }
    if let Err(e) = done {
        tool.line_open &= opened;
        return tool.fail_with(&e);
    }
    tool.end_line();
    if !quiet {
        tool.print("Image committed.\n");
    }
    Ok(0)
}
