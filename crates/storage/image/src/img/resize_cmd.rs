//! `resize`.

use api::block_core::PreallocMode;
use base::units::SizeError;
use block::create::prealloc;
use qapi::{QapiEnum, qerr};

use super::args::{FORMAT, HELP, IMAGE_OPTS, OBJECT, Parsed, QUIET, Spec, long_flag, long_value};
use super::{CmdResult, Command, Tool, could_not_open};
use crate::open::{OpenFlags, open};

/// `resize`.
pub(super) static COMMAND: Command = Command {
    name: "resize",
    about: "Make an image's disk longer or shorter",
    usage: "[-f FMT | --image-opts] [--preallocation PREALLOC] [--shrink] [--object OBJDEF] [-q] FILENAME [+-]SIZE",
    options: OPTIONS,
    notes: "SIZE takes a suffix (b k M G T P E). With + or - before it, it is by how much the disk grows or shrinks.",
    run,
};

const OPTIONS: &[Spec] = &[
    HELP,
    QUIET,
    FORMAT,
    IMAGE_OPTS,
    long_flag("shrink", "the disk may lose its end, and what is there"),
    long_value("preallocation", "PREALLOC", "what to allocate of the new part (off, metadata, falloc, full)"),
    OBJECT,
];

/// What the size argument asks for.
enum Wanted {
    Exactly(u64),
    More(u64),
    Less(u64),
}

/// Options, and the arguments among which a size may begin with a dash.
fn parse_arguments(p: Parsed) -> Option<(String, String)> {
    match &p.rest[..] {
        [name, size] => Some((name.clone(), size.clone())),
        _ => None,
    }
}

fn run(tool: &mut Tool<'_>, p: Parsed) -> CmdResult {
    let (quiet, shrink) = (p.has("quiet"), p.has("shrink"));
    let mode = match p.get("preallocation") {
        None => PreallocMode::Off,
        Some(m) => match PreallocMode::from_str(m) {
            Some(m) => m,
            None => return tool.fail(&format!("Invalid preallocation mode '{m}'")),
        },
    };
    let first = p.rest.first().cloned().unwrap_or_default();
    let source = tool.source(&p, &first)?;
    let both = p.has("image-opts") && p.has("format");
    let Some((name, size)) = parse_arguments(p) else {
        return tool.usage("Expecting image file name and size");
    };
    let number = size.strip_prefix(['+', '-']).unwrap_or(&size);
    let wanted = match (crate::options::size(number), size.chars().next()) {
        (Ok(n), Some('+')) => Wanted::More(n),
        (Ok(n), Some('-')) => Wanted::Less(n),
        (Ok(n), _) => Wanted::Exactly(n),
        (Err(SizeError::OutOfRange), _) => {
            return tool.fail(&format!("Value '{number}' is out of range for parameter 'size'"));
        }
        (Err(SizeError::Invalid), _) => {
            let e = qerr!("Parameter 'size' expects a non-negative number below 2^64").with_hint(
                "Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-\nand exabytes, respectively.",
            );
            return tool.fail_with(&e);
        }
    };
    if both {
        return tool.fail("--image-opts and --format are mutually exclusive");
    }
    // With its backing files: what is new of a longer image must not show theirs.
    let flags = OpenFlags { write: true, chain: true, ..OpenFlags::default() };
    let (mut warning, mut told) = (None, None);
    let prog = tool.prog.clone();
    let executor = match crate::executor() {
        Ok(x) => x,
        Err(e) => return tool.fail(&format!("Could not start: {e}")),
    };
    let done = executor.block_on(async {
        let image = open(&source, flags).await.map_err(|e| could_not_open(&name, &e))?;
        warning = image.warning(&source);
        let done = async {
            let now = image.len();
            let total = match wanted {
                Wanted::Exactly(n) => Some(n),
                Wanted::More(n) => now.checked_add(n),
                Wanted::Less(n) => now.checked_sub(n),
            };
            let total = total.filter(|t| *t > 0 && *t <= i64::MAX as u64);
            let total = total.ok_or_else(|| qerr!("New image size must be positive"))?;
            if total <= now && mode != PreallocMode::Off {
                return Err(qerr!("Preallocation can only be used for growing images"));
            }
            if total < now && !shrink {
                return Err(qerr!("Use the --shrink option to perform a shrink operation.").with_hint(format!(
                    "{prog}: warning: Shrinking an image will delete all data beyond the shrunken image's end. \
                     Before performing such an operation, make sure there is no important data there."
                )));
            }
            let done = image.graph.resize("", &image.node, total, prealloc(mode)).await;
            if let (Err(e), None) = (&done, &warning) {
                // Before what closing the image may have to tell.
                told = tool.fail_with::<()>(e).err();
            }
            done
        }
        .await;
        image.close().await;
        done
    });
    if let Some(w) = warning {
        tool.warn(&w);
    }
    match done {
        Ok(()) => {
            if !quiet {
                tool.print("Image resized.\n");
            }
            Ok(0)
        }
        Err(e) => told.map_or_else(|| tool.fail_with(&e), Err),
    }
}
