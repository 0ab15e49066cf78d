//! `measure`.

use block::create::Measure;
use qapi::{Dict, QError, Value, qerr};

use super::args::{FORMAT, HELP, IMAGE_OPTS, OBJECT, OUTPUT, Parsed, SHARE, value};
use super::convert_cmd::{snapshot_of, snapshot_parameters};
use super::{CmdResult, Command, Tool, could_not_open, wait};
use crate::create::{NewImage, options_of};
use crate::measure::measure;
use crate::open::{Cache, OpenFlags, open};
use crate::options::Options;

/// `measure`.
pub(super) static COMMAND: Command = Command {
    name: "measure",
    about: "Tell how much space a new image takes",
    usage: "[-f FMT | --image-opts] [-l SNAPSHOT] [-O FMT] [-o OPTIONS] [--output human|json] [--object OBJDEF] [-U] \
            (--size SIZE | FILENAME)",
    options: &[
        HELP,
        value('O', "target-format", "FMT", "the new image's format (default raw)"),
        value('o', "target-options", "A=B,...", "its options; '-o help' lists them"),
        value('s', "size", "SIZE", "the new image is empty and of this size"),
        FORMAT,
        IMAGE_OPTS,
        value('l', "snapshot", "SNAPSHOT", "what a snapshot in the source shows"),
        OUTPUT,
        SHARE,
        OBJECT,
    ],
    notes: "",
    run,
};

fn run(tool: &mut Tool<'_>, p: Parsed) -> CmdResult {
    if let Some(s) = p.get("snapshot") {
        snapshot_parameters(tool, s)?;
    }
    let json = tool.json_wanted(&p)?;
    let size = match p.get("size") {
        Some(t) => Some(tool.number("image size", t, 0, i64::MAX as u64)?),
        None => None,
    };
    let options = p.all("target-options");
    let format = p.get("target-format").unwrap_or("raw");
    tool.option_lists(&options)?;
    let filename = match &p.rest[..] {
        [] => None,
        [one] => Some(one),
        _ => return tool.fail("At most one filename argument is allowed."),
    };
    if filename.is_none() {
        if p.has("format") || p.has("image-opts") || p.has("snapshot") {
            return tool.fail("--image-opts, -f, and -l require a filename argument.");
        }
        if size.is_none() {
            return tool.fail("Either --size N or one filename must be specified.");
        }
    } else if size.is_some() {
        return tool.fail("--size N cannot be used together with a filename.");
    }
    let source = tool.source(&p, filename.map_or("", String::as_str))?;
    let flags = OpenFlags { force_share: p.has("force-share"), chain: true, ..OpenFlags::default() };
    let prog = tool.prog.clone();
    let done = wait(tool, async {
        let image = match filename {
            Some(name) => Some(open(&source, flags).await.map_err(|e| could_not_open(name, &e))?),
            None => None,
        };
        let found = async {
            // The options of a file are taken too, as for a new image.
            let table = options_of(format, Some("")).await.unwrap_or_default();
            let mut o = Options::default();
            o.parse(&table, &options).map_err(|e| {
                let again = format!("{prog}: Invalid options for file format '{format}'");
                qerr!("{}", e.desc()).with_hint(again)
            })?;
            if let Some(s) = size {
                o.set("size", s.to_string());
            }
            let image_of = |o: Options| NewImage {
                name: String::new(),
                format: format.to_owned(),
                options: o,
                objects: source.objects.clone(),
                cache: Cache::default(),
            };
            let Some(i) = &image else { return measure(&image_of(o), None).await };
            if let Some(s) = p.get("snapshot") {
                let (id, name) = snapshot_of(s);
                let failed = |e: QError| qerr!("Failed to load snapshot: {}", e.desc());
                i.graph.show_snapshot(&i.node, id, name).await.map_err(failed)?;
            }
            let root = i.reader().await?;
            o.set("size", root.len().to_string());
            let done = measure(&image_of(o), Some((i, &root))).await;
            root.detach().await;
            done
        };
        let found = found.await;
        if let Some(i) = image {
            i.close().await;
        }
        found
    })?;
    match done {
        Ok(m) => {
            tool.print(&if json { as_json(&m) } else { human(&m) });
            Ok(0)
        }
        Err(e) => tool.fail_with(&e),
    }
}

fn human(m: &Measure) -> String {
    let bitmaps = m.bitmaps.map_or_else(String::new, |b| format!("bitmaps size: {b}\n"));
    format!("required size: {}\nfully allocated size: {}\n{bitmaps}", m.required, m.fully_allocated)
}

fn as_json(m: &Measure) -> String {
    let mut d = Dict::new();
    if let Some(b) = m.bitmaps {
        d.insert("bitmaps", b);
    }
    d.insert("required", m.required);
    d.insert("fully-allocated", m.fully_allocated);
    Value::Dict(d).to_json_ranked(true) + "\n"
}
