//! `info`.

use super::args::{FORMAT, HELP, IMAGE_OPTS, OBJECT, OUTPUT, Parsed, SHARE, flag};
use super::{CmdResult, Command, Tool, wait};
use crate::info;
use crate::open::OpenFlags;

/// `info`.
pub(super) static COMMAND: Command = Command {
    name: "info",
    about: "Tell what an image is",
    usage: "[-f FMT | --image-opts] [--backing-chain] [--output human|json] [--object OBJDEF] [-U] FILENAME",
    options: &[
        HELP,
        FORMAT,
        IMAGE_OPTS,
        flag('b', "backing-chain", "describe the backing files too"),
        SHARE,
        OUTPUT,
        OBJECT,
    ],
    notes: "",
    run,
};

fn run(tool: &mut Tool<'_>, p: Parsed) -> CmdResult {
    let json = tool.json_wanted(&p)?;
    let [name] = &p.rest[..] else { return tool.usage("Expecting one image file name") };
    tool.format_or_options(&p)?;
    let source = tool.source(&p, name)?;
    let flags = OpenFlags { force_share: p.has("force-share"), ..OpenFlags::default() };
    let chain = p.has("backing-chain");
    match wait(tool, info::info(&source, flags, chain))? {
        Ok(list) => {
            tool.print(&if json { info::json(&list, chain) } else { info::human(&list) });
            Ok(0)
        }
        Err(e) => tool.fail_with(&e),
    }
}
