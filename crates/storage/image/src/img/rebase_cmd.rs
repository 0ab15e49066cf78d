//! `rebase`.

use super::args::{FORMAT, HELP, IMAGE_OPTS, OBJECT, PROGRESS, Parsed, QUIET, SHARE, Spec, flag, value};
use super::on_image::{Begin, on_image};
use super::{CmdResult, Command, Tool};
use crate::open::OpenFlags;
use crate::rebase::{Rebase, rebase};

/// `rebase`.
pub(super) static COMMAND: Command = Command {
    name: "rebase",
    about: "Give an image another backing file, or none",
    usage: "[-f FMT | --image-opts] [-t CACHE] [-b BACKING [-F BACKING_FMT] [-T BACKING_CACHE]] [-u] [-c] [-U] [--object OBJDEF] [-p] [-q] FILENAME",
    options: OPTIONS,
    notes: "FILENAME shows the same disk afterwards, unless -u is given: then nothing but its header is changed. With an empty\nBACKING it gets along without a backing file.",
    run,
};

const OPTIONS: &[Spec] = &[
    HELP,
    QUIET,
    PROGRESS,
    FORMAT,
    IMAGE_OPTS,
    value('t', "cache", "CACHE", "how the host's cache is used for FILENAME (default writeback)"),
    value('b', "backing", "BACKING", "the new backing file, relative to the directory of FILENAME"),
    value('F', "backing-format", "BACKING_FMT", "its format").alias(&["backing-fmt"]),
    value('T', "backing-cache", "BACKING_CACHE", "how the host's cache is used for it (default writeback)"),
    flag('u', "backing-unsafe", "change the header only; the backing file need not be there"),
    flag('c', "compress", "what is copied into FILENAME is compressed"),
    SHARE,
    OBJECT,
];

fn run(tool: &mut Tool<'_>, p: Parsed) -> CmdResult {
    let [name] = &p.rest[..] else { return tool.usage("Expecting one image file name") };
    let unchecked = p.has("backing-unsafe");
    if !unchecked && !p.has("backing") {
        return tool.usage("Must specify backing file (-b) or use unsafe mode (-u)");
    }
    tool.format_or_options(&p)?;
    let source = tool.source(&p, name)?;
    let cache = tool.cache(&p, "cache", "writeback", "cache")?;
    let what = Rebase {
        backing: p.get("backing").map(str::to_owned),
        format: p.get("backing-format").map(str::to_owned),
        cache: tool.cache(&p, "backing-cache", "writeback", "source cache")?,
        force_share: p.has("force-share"),
        unchecked,
        compress: p.has("compress"),
    };
    let flags = OpenFlags { write: true, chain: !unchecked, cache, ..OpenFlags::default() };
    let ended = on_image(tool, &p, (&source, flags), Begin::BeforeOpening, async |image, progress| {
        rebase(image, &what, &mut |at, of| progress.at(at, of)).await
    });
    match ended.done {
        Ok(()) => Ok(0),
        Err(e) => tool.fail_with(&e),
    }
}
