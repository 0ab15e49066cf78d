//! `compare`. Exit codes: 0 the same, 1 different, 2 an image cannot be opened, 3 looking for extents failed, 4 reading failed.

use super::args::{HELP, OBJECT, PROGRESS, Parsed, QUIET, SHARE, flag, long_flag, value};
use super::progress::Progress;
use super::{CmdResult, Command, Failed, Tool, could_not_open};
use crate::compare::{Failure, Outcome, Which, compare};
use crate::open::{OpenFlags, Source, open};
use qapi::QError;

/// `compare`.
pub(super) static COMMAND: Command = Command {
    name: "compare",
    about: "Tell whether two images show the same",
    usage: "[--image-opts | [-f FMT] [-F FMT]] [-s] [-T CACHE] [--object OBJDEF] [-p] [-q] [-U] FILENAME1 FILENAME2",
    options: &[
        HELP,
        QUIET,
        PROGRESS,
        value('f', "format", "FMT", "the first image's format; found out where it is not given")
            .alias(&["a-format"]),
        value('F', "b-format", "FMT", "the second image's"),
        long_flag("image-opts", "file names are descriptions (driver=...,file.filename=...)"),
        flag('s', "strict", "they must also have the same length and store the same ranges"),
        value('T', "cache", "MODE", "how the host's cache is used (default writeback)"),
        SHARE,
        OBJECT,
    ],
    notes: "Exit codes: 0 they show the same, 1 they do not, 2 one cannot be opened, 3 looking for what is stored failed, \
            4 reading failed.",
    run,
};

/// What is said of images of different lengths where that is no difference.
const WARNING: &str = "Warning: Image size mismatch!\n";

/// How it ended.
enum End {
    Open(QError),
    /// With both lengths.
    Failed(Failure, (u64, u64)),
    Done(Outcome, (u64, u64)),
}

fn run(tool: &mut Tool<'_>, p: Parsed) -> CmdResult {
    let [first, second] = &p.rest[..] else { return tool.usage("Expecting two image file names") };
    let cache = tool.cache(&p, "cache", "writeback", "source cache").map_err(|_| Failed(2))?;
    tool.format_or_options(&p).map_err(|_| Failed(2))?;
    let one = tool.named(&p, first)?;
    let two = Source { name: second.clone(), format: p.get("b-format").map(str::to_owned), ..one.clone() };
    tool.short_forms(&two);
    for image in [&one, &two] {
        tool.sharing(image, p.has("force-share")).map_err(|_| Failed(2))?;
    }
    let flags = OpenFlags { force_share: p.has("force-share"), chain: true, cache, ..OpenFlags::default() };
    let strict = p.has("strict");
    let (asked, quiet, terminal) = tool.show_progress(&p);
    let end = {
        // No bar: scripts look at how it ends.
        let mut progress = Progress::new(asked, quiet, terminal, &mut *tool.out, &mut *tool.err);
        let work = async {
            let a = match open(&one, flags).await {
                Ok(a) => a,
                Err(e) => return End::Open(could_not_open(first, &e)),
            };
            let b = match open(&two, flags).await {
                Ok(b) => b,
                Err(e) => {
                    a.close().await;
                    return End::Open(could_not_open(second, &e));
                }
            };
            let end = match (a.reader().await, b.reader().await) {
                (Ok(x), Ok(y)) => {
                    progress.begin();
                    let done = compare(&x, &y, strict, &mut |at, of| progress.at(at, of)).await;
                    let lens = (x.len(), y.len());
                    x.detach().await;
                    y.detach().await;
                    match done {
                        Ok(o) => End::Done(o, lens),
                        Err(f) => End::Failed(f, lens),
                    }
                }
                (Err(e), _) | (_, Err(e)) => End::Open(e),
            };
            a.close().await;
            b.close().await;
            end
        };
        match crate::executor() {
            Ok(x) => x.block_on(work),
            Err(e) => End::Open(qapi::qerr!("Could not start: {e}")),
        }
    };
    let name = |w| if w == Which::First { first } else { second };
    let (code, said) = match end {
        End::Open(e) => {
            tool.report(e.desc(), e.hint());
            return Err(Failed(2));
        }
        End::Failed(Failure::Read(w, at, e), (a, b)) => {
            tool.report(&format!("Error while reading offset {at} of {}: {e}", name(w)), None);
            if a != b && at >= a.min(b) && !quiet {
                tool.print(WARNING);
            }
            return Err(Failed(4));
        }
        End::Failed(Failure::Look(w, _), _) => {
            tool.report(&format!("Sector allocation test failed for {}", name(w)), None);
            return Err(Failed(3));
        }
        End::Done(Outcome::Length, _) => (1, "Strict mode: Image size mismatch!\n".to_string()),
        End::Done(Outcome::Stored(at), _) => {
            (1, format!("Strict mode: Offset {at} block status mismatch!\n"))
        }
        End::Done(o, (a, b)) => {
            let behind = |at: u64| at >= a.min(b);
            let warned = a != b && !matches!(o, Outcome::Differs(at) if !behind(at));
            let warning = if warned { WARNING } else { "" };
            match o {
                Outcome::Differs(at) => (1, format!("{warning}Content mismatch at offset {at}!\n")),
                _ => (0, format!("{warning}Images are identical.\n")),
            }
        }
    };
    if !quiet {
        tool.print(&said);
    }
    Ok(code)
}
