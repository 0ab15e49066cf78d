//! The process that reads the image: it has the image as its standard input, and tells what it found on its standard output, a
//! line of JSON for each step.

use std::io::Write;
use std::os::fd::AsFd;

use block::Perm;
use block::check::{CheckCx, Fix};
use block::driver::{DriverType, Kind};
use qapi::{Dict, QError, Value, qerr};

use super::sandbox::{self, Bounds};
use crate::open::{Named, OpenFlags, Opened, Source, driver, open_container};

/// The word that the process is started with, in the place of a command's.
pub const WORD: &str = "--inspect-standard-input";

/// Where the image is seen.
const IMAGE: &str = "/proc/self/fd/0";

/// Longest text that is told of anything, bytes.
const MAX_TEXT: usize = 4096;
/// Most names of files that are told.
const MAX_NAMES: usize = 64;

/// What the parent says: everything in numbers, the format last.
pub(super) fn arguments(bounds: Bounds, check: bool, format: Option<&str>) -> Vec<String> {
    let mut all =
        vec![WORD.to_owned(), bounds.memory.to_string(), bounds.seconds.to_string(), check.to_string()];
    all.extend(format.map(str::to_owned));
    all
}

/// Runs in the process that was started so. Answers its exit code.
pub fn main(args: &[String]) -> i32 {
    let [memory, seconds, check, format @ ..] = args else { return 1 };
    let (Ok(memory), Ok(seconds), Ok(check)) = (memory.parse(), seconds.parse(), check.parse()) else {
        return 1;
    };
    let stdin = std::io::stdin();
    let mut force = sandbox::close_files(stdin.as_fd(), Bounds { memory, seconds });
    let Ok(executor) = rt::Executor::new() else { return 1 };
    executor.block_on(async {
        let flags = OpenFlags { no_io: true, force_share: true, alone: true, ..OpenFlags::default() };
        // As raw: only the file is opened, and nothing of it is read.
        let file = match open_container(&Source::file(IMAGE, Some("raw")), flags).await {
            Ok(f) => f,
            Err(e) => return tell("error", Value::from(cut(e.desc()))),
        };
        force.seccomp = sandbox::close_calls();
        let mut d = Dict::new();
        d.insert("limits", force.limits);
        d.insert("landlock", force.landlock);
        d.insert("seccomp", force.seccomp);
        tell("sandbox", Value::Dict(d));
        if let Err(e) = look(file, format.first().map(String::as_str), flags, check).await {
            tell("error", Value::from(cut(e.desc())));
        }
    });
    0
}

/// Tells about the image in an open file.
async fn look(mut file: Opened, format: Option<&str>, flags: OpenFlags, check: bool) -> Result<(), QError> {
    file.format = match format {
        Some(f) => f.to_owned(),
        None => file.probe(IMAGE).await?,
    };
    let ty = driver(&file.format)?;
    if ty.kind != Kind::Format {
        return Err(qerr!("'{}' is no image format", ty.name));
    }
    tell("format", Value::from(ty.name));
    let image = file.with_format(flags, &[]).await?;
    let named = image.named();
    tell("image", Value::Dict(facts(&image, &named).await?));
    if check {
        tell("check", Value::Dict(checked(&image, ty, &named).await?));
    }
    image.close().await;
    tell("end", Value::from(true));
    Ok(())
}

async fn facts(image: &Opened, named: &Named) -> Result<Dict, QError> {
    let root = image.reader().await?;
    let (len, info, taken) = (root.len(), root.info(), root.allocated());
    root.detach().await;
    let mut d = Dict::new();
    d.insert("virtual-size", len);
    if let Some(n) = taken {
        d.insert("actual-size", n);
    }
    if let Some(n) = info.cluster_size {
        d.insert("cluster-size", n);
    }
    if let Some(n) = info.tables {
        d.insert("table-size", n);
    }
    d.insert("encrypted", info.encrypted == Some(true));
    d.insert("dirty-flag", info.dirty == Some(true));
    d.insert("snapshots", info.snapshots.len() as u64);
    d.insert("bitmaps", crate::bitmap::stored(image).len() as u64);
    let unknown = info.unknown.iter().map(|u| Value::from(cut(u)));
    d.insert("unknown-features", Value::List(unknown.take(MAX_NAMES).collect()));
    if let Some(b) = &named.backing {
        let mut one = Dict::from_iter([("filename", cut(&b.filename))]);
        if let Some(f) = &b.format {
            one.insert("format", cut(f));
        }
        d.insert("backing", one);
    }
    if let Some(n) = &named.data_file {
        d.insert("data-file", cut(n));
    }
    if !named.extents.is_empty() {
        let all = named.extents.iter().map(|n| Value::from(cut(n)));
        d.insert("extents", Value::List(all.take(MAX_NAMES).collect()));
    }
    Ok(d)
}

async fn checked(image: &Opened, ty: &DriverType, named: &Named) -> Result<Dict, QError> {
    let mut d = Dict::new();
    // What it finds is counted; the lines could be as many as the image has clusters.
    let mut log = |_: &str| {};
    let done = match ty.check {
        Some(check) => {
            let file = image.file.as_deref().unwrap_or(&image.node);
            let root = image.root(file, Perm::CONSISTENT_READ, Perm::all()).await?;
            let done = check(CheckCx { file: &root, fix: Fix::None, log: &mut log }).await;
            root.detach().await;
            done.and_then(|r| r).map(Some)
        }
        None if !named.extents.is_empty() => {
            d.insert("state", "not-done");
            return Ok(d);
        }
        None => image.graph.check(&image.node, Fix::None, &mut log).await,
    };
    let state = match &done {
        Ok(None) => "unsupported",
        Ok(Some(r)) if r.check_errors > 0 => "failed",
        Ok(Some(r)) if r.corruptions > 0 => "damaged",
        Ok(Some(r)) if r.leaks > 0 => "leaks",
        Ok(Some(_)) => "sound",
        Err(e) => {
            d.insert("error", cut(e.desc()));
            "failed"
        }
    };
    d.insert("state", state);
    if let Ok(Some(r)) = &done {
        let counts = [("corruptions", r.corruptions), ("leaks", r.leaks), ("check-errors", r.check_errors)];
        for (name, n) in counts.into_iter().chain([
            ("total-clusters", r.total_clusters),
            ("allocated-clusters", r.allocated_clusters),
            ("compressed-clusters", r.compressed_clusters),
        ]) {
            d.insert(name, n);
        }
    }
    Ok(d)
}

fn cut(text: &str) -> &str {
    match text.char_indices().find(|(at, _)| *at >= MAX_TEXT) {
        Some((at, _)) => &text[..at],
        None => text,
    }
}

fn tell(what: &'static str, value: Value) {
    let line = Value::Dict(Dict::from_iter([(what, value)])).to_json();
    let mut out = std::io::stdout();
    // Whoever does not listen gets nothing.
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}
