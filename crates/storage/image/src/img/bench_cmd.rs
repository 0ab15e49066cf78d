//! `bench`.

use super::args::{
    FORMAT, HELP, IMAGE_OPTS, OBJECT, Parsed, SHARE, Spec, flag, long_flag, long_value, value,
};
use super::{CmdResult, Command, Tool, could_not_open, wait};
use crate::bench::{Load, run as bench};
use crate::open::{Cache, OpenFlags, open};
use qapi::{QError, qerr};

/// `bench`.
pub(super) static COMMAND: Command = Command {
    name: "bench",
    about: "Time requests to an image",
    usage: "[-f FMT | --image-opts] [-t CACHE] [-c COUNT] [-d DEPTH] [-o OFFSET] [-s SIZE] [-S STEP] [-i AIO] [-n] \
            [-w [--pattern PATTERN] [--flush-interval INTERVAL [--no-drain]]] [--object OBJDEF] [-q] [-U] FILENAME",
    options: OPTIONS,
    notes: "",
    run,
};

/// Native asynchronous I/O is not for the page cache.
const NEEDS_DIRECT: &str =
    "aio=native was specified, but it requires cache.direct=on, which was not specified.";

/// Whether a driver is of files or devices of this host.
fn is_of_host(driver: &str) -> bool {
    ["file", "host_device", "host_cdrom"].contains(&driver)
}

const OPTIONS: &[Spec] = &[
    HELP,
    flag('q', "quiet", "accepted for compatibility"),
    FORMAT,
    IMAGE_OPTS,
    value('t', "cache", "MODE", "how the host's cache is used (default writeback)"),
    value('c', "count", "COUNT", "requests (default 75000)"),
    value('s', "buffer-size", "SIZE", "bytes of a request (default 4k)"),
    value('d', "depth", "DEPTH", "requests at a time (default 64)"),
    value('o', "offset", "OFFSET", "where the first one begins"),
    value('S', "step-size", "STEP", "how far each is behind the one before (default: its size)"),
    value(
        'i',
        "aio",
        "AIO",
        "accepted for compatibility (threads, native, io_uring); native needs -t none or directsync",
    ),
    flag('n', "native", "-i native"),
    flag('w', "write", "write, instead of reading"),
    long_value("pattern", "PATTERN", "the byte that is written (default 0)"),
    long_value("flush-interval", "INTERVAL", "make what was written stable after so many requests"),
    long_flag("no-drain", "go on meanwhile"),
    SHARE,
    OBJECT,
];

fn run(tool: &mut Tool<'_>, p: Parsed) -> CmdResult {
    const MAX: u64 = i32::MAX as u64;
    let number = |tool: &mut Tool<'_>, option, what, min, max, default| match p.get(option) {
        Some(t) => tool.number(what, t, min, max),
        None => Ok(default),
    };
    let count = number(tool, "count", "request count", 1, MAX, 75000)?;
    let depth = number(tool, "depth", "queue depth", 1, MAX, 64)?;
    let offset = number(tool, "offset", "offset", 0, i64::MAX as u64, 0)?;
    let size = number(tool, "buffer-size", "buffer size", 1, MAX, 4096)?;
    let step = number(tool, "step-size", "step size", 0, MAX, 0)?;
    let pattern = number(tool, "pattern", "pattern byte", 0, 0xff, 0)?;
    let flush_interval = number(tool, "flush-interval", "flush interval", 0, MAX, 0)?;
    let cache = match p.get("cache").map(Cache::parse) {
        None => Cache::default(),
        Some(Some(c)) => c,
        Some(None) => return tool.fail("Invalid cache mode"),
    };
    if let Some(aio) = p.get("aio").filter(|a| !["threads", "native", "io_uring"].contains(a)) {
        return tool.fail(&format!("Invalid aio option: {aio}"));
    }
    let native = p.has("native") || p.get("aio") == Some("native");
    let [name] = &p.rest[..] else { return tool.usage("Expecting one image file name") };
    let write = p.has("write");
    if !write && flush_interval > 0 {
        return tool.fail("--flush-interval is only available in write tests");
    }
    if flush_interval > 0 && flush_interval < depth {
        return tool.fail("Flush interval can't be smaller than depth");
    }
    tool.format_or_options(&p)?;
    let source = tool.source(&p, name)?;
    let load = Load {
        count,
        depth: depth as usize,
        offset,
        size,
        step: if step > 0 { step } else { size },
        write: write.then_some(pattern as u8),
        flush_interval,
        no_drain: p.has("no-drain"),
    };
    let flags =
        OpenFlags { write, force_share: p.has("force-share"), chain: true, cache, ..OpenFlags::default() };
    let mut said = String::new();
    let mut warning = None;
    let done = wait(tool, async {
        let image = open(&source, flags).await.map_err(|e| could_not_open(name, &e))?;
        if native && !cache.direct && image.graph.snapshot().nodes().any(|n| is_of_host(n.ty.name)) {
            image.close().await;
            return Err(could_not_open(name, &QError::new(NEEDS_DIRECT)));
        }
        warning = image.warning(&source);
        let done = async {
            let root = if write { image.writer().await? } else { image.reader().await? };
            if root.is_empty() {
                root.detach().await;
                return Err(qerr!("The image has no bytes"));
            }
            said.push_str(&format!(
                "Sending {count} {} requests, {size} bytes each, {depth} in parallel (starting at offset {offset}, \
                 step size {})\n",
                if write { "write" } else { "read" },
                load.step
            ));
            if flush_interval > 0 {
                said.push_str(&format!("Sending flush every {flush_interval} requests\n"));
            }
            let took = bench(&root, load).await.map_err(|e| qerr!("Failed request: {e}"));
            root.detach().await;
            took
        }
        .await;
        image.close().await;
        done
    })?;
    if let Some(w) = warning {
        tool.warn(&w);
    }
    tool.print(&said);
    match done {
        Ok(took) => {
            tool.print(&format!("Run completed in {:.3} seconds.\n", took.as_secs_f64()));
            Ok(0)
        }
        Err(e) => tool.fail_with(&e),
    }
}
