//! `inspect`. Exit codes: 0 accepted, 1 it could not be looked at, 2 refused.

use std::time::Duration;

use qapi::{Dict, Value};

use super::args::{HELP, Parsed, flag, long_flag, long_value, value};
use super::{CmdResult, Command, Tool};
use crate::inspect::{Ask, Limits, Outcome, inspect, judge};

/// `inspect`.
pub(super) static COMMAND: Command = Command {
    name: "inspect",
    about: "Tell in a sandbox whether an image of anybody's is acceptable",
    usage: "--untrusted [-f FMT] [--max-virtual-size SIZE] [--max-size SIZE] [--max-tables SIZE] [--max-snapshots N] \
            [--allow-format FMT]... [--allow-backing NAME]... [--allow-encrypted] [--no-check] [--timeout SECONDS] \
            [--max-memory SIZE] [--require-sandbox] FILENAME",
    options: &[
        HELP,
        flag(
            'u',
            "untrusted",
            "the image may be anybody's; it is the only way to inspect that there is, and must be given",
        ),
        value('f', "format", "FMT", "the image's format; found out where it is not given"),
        long_value("max-virtual-size", "SIZE", "refuse an image that shows a guest more than this"),
        long_value("max-size", "SIZE", "refuse a file that is longer, or takes more space"),
        long_value(
            "max-tables",
            "SIZE",
            "refuse an image with larger tables to be read when it is opened (default 64M)",
        ),
        long_value("max-snapshots", "N", "refuse an image with more snapshots, or more bitmaps (default 64)"),
        long_value("allow-format", "FMT", "refuse other formats; may be given several times"),
        long_value(
            "allow-backing",
            "NAME",
            "take an image whose header has just this name for its backing file; may be given several times",
        ),
        long_flag("allow-encrypted", "take encrypted images"),
        long_flag("no-check", "do not look for damage"),
        long_value(
            "timeout",
            "SECONDS",
            "how long it may take, by the clock and of the processor (default 30)",
        ),
        long_value("max-memory", "SIZE", "the address space that reading it may take (default 1G)"),
        long_flag("require-sandbox", "refuse where the kernel lacks a part of the sandbox"),
    ],
    notes: "Prints JSON: what the image is, `verdict` (`accept` or `refuse`), and the reasons to refuse it. The image is read by a \
            process of its own that can open no other file, has no network, starts no program, and has the memory and time that \
            the options give. `sandbox` tells what of that the kernel had: `landlock` (`full`, `partial`, `none`), `seccomp`, \
            `limits`. An image that names a data file or extents is always refused, and one with features that are not \
            known; leaks are no reason.\n\nExit codes: 0 accepted, 1 it could not be looked at, 2 refused.",
    run,
};

fn run(tool: &mut Tool<'_>, p: Parsed) -> CmdResult {
    if !p.has("untrusted") {
        return tool.usage("Use --untrusted");
    }
    let mut number = |option: &str, what| match p.get(option) {
        Some(t) => tool.number(what, t, 0, i64::MAX as u64).map(Some),
        None => Ok(None),
    };
    let mut limits = Limits {
        virtual_size: number("max-virtual-size", "virtual size")?,
        size: number("max-size", "size")?,
        formats: p.all("allow-format"),
        backing: p.all("allow-backing"),
        encrypted: p.has("allow-encrypted"),
        sandbox: p.has("require-sandbox"),
        ..Limits::default()
    };
    limits.tables = number("max-tables", "table size")?.unwrap_or(limits.tables);
    limits.snapshots = number("max-snapshots", "number of snapshots")?.unwrap_or(limits.snapshots);
    let memory = number("max-memory", "memory size")?.unwrap_or(1 << 30);
    let seconds = match p.get("timeout") {
        Some(t) => tool.number("timeout", t, 1, 1_000_000)?,
        None => 30,
    };
    let [name] = &p.rest[..] else { return tool.usage("Expecting one image file name") };
    for f in limits.formats.iter().chain(p.get("format").map(str::to_owned).as_ref()) {
        if let Err(e) = crate::open::driver(f) {
            return tool.fail_with(&e);
        }
    }
    let ask = Ask {
        name: name.clone(),
        format: p.get("format").map(str::to_owned),
        timeout: Duration::from_secs(seconds),
        memory,
        check: !p.has("no-check"),
    };
    match inspect(&ask) {
        Ok(o) => {
            let reasons = judge(&o, &limits);
            let refused = !reasons.is_empty();
            tool.print(&(Value::Dict(report(name, o, reasons)).to_json_pretty() + "\n"));
            Ok(if refused { 2 } else { 0 })
        }
        Err(e) => tool.fail_with(&e),
    }
}

fn report(name: &str, o: Outcome, reasons: Vec<String>) -> Dict {
    let mut d = Dict::from_iter([("filename", name)]);
    d.insert("verdict", if reasons.is_empty() { "accept" } else { "refuse" });
    d.insert("reasons", reasons);
    d.insert("file-size", o.file_size);
    d.insert("disk-size", o.disk_size);
    if let Some(f) = o.format {
        d.insert("format", f);
    }
    if let Some(i) = o.image {
        let names = ["backing", "data-file", "extents"].iter().any(|n| i.contains_key(n));
        d.insert("names-files", names);
        if let Some(Value::Int(n)) = i.get("virtual-size") {
            d.insert("ratio", *n as f64 / o.disk_size.max(1) as f64);
        }
        d.insert("image", i);
    }
    for (name, part) in [("check", o.check), ("sandbox", o.sandbox)] {
        if let Some(part) = part {
            d.insert(name, part);
        }
    }
    d
}
