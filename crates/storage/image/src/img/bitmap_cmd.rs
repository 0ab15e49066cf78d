//! `bitmap`.

use block::bitmap::BitmapSource;
use qapi::{QError, qerr};

use super::args::{FORMAT, HELP, IMAGE_OPTS, OBJECT, Parsed, long_flag, long_value, value};
use super::{CmdResult, Command, Tool, could_not_open, wait};
use crate::bitmap::merge_from;
use crate::open::{OpenFlags, Opened, Source, open};

/// `bitmap`.
pub(super) static COMMAND: Command = Command {
    name: "bitmap",
    about: "Change the dirty bitmaps that an image keeps",
    usage: "( --merge SOURCE | --add | --remove | --clear | --enable | --disable )... [-f FMT | --image-opts] \
            [-b FILENAME [-F FMT]] [-g GRANULARITY] [--object OBJDEF] FILENAME BITMAP",
    options: &[
        HELP,
        FORMAT,
        IMAGE_OPTS,
        long_flag("add", "make it, and have it record"),
        value('g', "granularity", "SIZE", "bytes of a bit, with --add"),
        long_flag("remove", "delete it"),
        long_flag("clear", "forget what it has recorded"),
        long_flag("enable", "have it record from now on"),
        long_flag("disable", "have it record no more"),
        long_value("merge", "SOURCE", "add what the bitmap SOURCE has recorded"),
        value('b', "source-file", "FILENAME", "the image that keeps SOURCE"),
        value('F', "source-format", "FMT", "its format"),
        OBJECT,
    ],
    notes: "What is asked for is done in the order in which it is given.",
    run,
};

const ACTIONS: [&str; 6] = ["add", "remove", "clear", "enable", "disable", "merge"];

fn run(tool: &mut Tool<'_>, p: Parsed) -> CmdResult {
    let granularity = match p.get("granularity") {
        Some(t) => Some(tool.number("granularity", t, 1, i64::MAX as u64)?),
        None => None,
    };
    let actions: Vec<(&str, String)> =
        p.options.iter().filter(|o| ACTIONS.contains(&o.0)).map(|o| (o.0, o.1.clone())).collect();
    let given = |what: &str| actions.iter().any(|a| a.0 == what);
    if actions.is_empty() {
        return tool.fail("Need at least one of --add, --remove, --clear, --enable, --disable, or --merge");
    }
    if granularity.is_some() && !given("add") {
        return tool.fail("granularity only supported with --add");
    }
    if p.has("source-format") && !p.has("source-file") {
        return tool.fail("-F only supported with -b");
    }
    if p.has("source-file") && !given("merge") {
        return tool.fail("Merge bitmap source file only supported with --merge");
    }
    let [name, bitmap] = &p.rest[..] else { return tool.fail("Expecting filename and bitmap name") };
    tool.format_or_options(&p)?;
    let source = tool.source(&p, name)?;
    let from = p.get("source-file").map(|f| Source::file(f, p.get("source-format")));
    let mut warning = None;
    let done = wait(tool, async {
        let flags = OpenFlags { write: true, late_bitmaps: true, ..OpenFlags::default() };
        let image = open(&source, flags).await.map_err(|e| could_not_open(name, &e))?;
        warning = image.warning(&source);
        let other = match &from {
            Some(s) => match open(s, OpenFlags::default()).await {
                Ok(o) => Some(o),
                Err(e) => {
                    image.close().await;
                    return Err(could_not_open(&s.name, &e));
                }
            },
            None => None,
        };
        let mut done = Ok(());
        for (action, argument) in &actions {
            let one = act(&image, other.as_ref(), bitmap, action, argument, granularity).await;
            if let Err(e) = one {
                done = Err(qerr!("Operation {action} on bitmap {bitmap} failed: {}", e.desc()));
                break;
            }
        }
        image.close().await;
        if let Some(o) = other {
            o.close().await;
        }
        done
    })?;
    if let Some(w) = warning {
        tool.warn(&w);
    }
    match done {
        Ok(()) => Ok(0),
        Err(e) => tool.fail_with(&e),
    }
}

async fn act(
    image: &Opened,
    other: Option<&Opened>,
    bitmap: &str,
    action: &str,
    argument: &str,
    granularity: Option<u64>,
) -> Result<(), QError> {
    let (graph, node) = (&image.graph, &image.node);
    match action {
        "add" => {
            let granularity = granularity.map(|g| u32::try_from(g).unwrap_or(u32::MAX));
            graph.bitmap_add(node, bitmap, granularity, true, false).await
        }
        "remove" => graph.bitmap_remove(node, bitmap).await,
        "clear" => graph.bitmap_clear(node, bitmap).await,
        "enable" => graph.bitmap_enable(node, bitmap, true).await,
        "disable" => graph.bitmap_enable(node, bitmap, false).await,
        _ => match other {
            Some(o) => merge_from(image, bitmap, o, argument).await,
            None => {
                let here = BitmapSource { node: None, name: argument.to_owned() };
                graph.bitmap_merge(node, bitmap, &[here]).await
            }
        },
    }
}
