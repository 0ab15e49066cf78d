//! `check`. Exit codes: 0 sound, 1 the check failed, 2 damaged, 3 leaks only, 63 the format has no checks.

use base::Errno;
use block::check::Fix;

use super::args::{FORMAT, HELP, IMAGE_OPTS, OBJECT, OUTPUT, Parsed, QUIET, SHARE, value};
use super::{CmdResult, Command, Failed, Tool};
use crate::check::{self, CheckError, Checked};
use crate::open::{OpenFlags, Source};

/// `check`.
pub(super) static COMMAND: Command = Command {
    name: "check",
    about: "Look for damage in an image, and repair it",
    usage: "[-f FMT | --image-opts] [-T CACHE] [-r leaks|all] [--output human|json] [--object OBJDEF] [-q] [-U] FILENAME",
    options: &[
        HELP,
        QUIET,
        FORMAT,
        IMAGE_OPTS,
        value('T', "cache", "MODE", "how the host's cache is used"),
        SHARE,
        OUTPUT,
        OBJECT,
        value('r', "repair", "leaks|all", "repair wasted space, or everything that can be repaired"),
    ],
    notes: "Exit codes: 0 sound, 1 the check failed, 2 damaged, 3 space is wasted and no more, 63 the format has no checks.",
    run,
};

fn run(tool: &mut Tool<'_>, p: Parsed) -> CmdResult {
    let (mut format, mut image_opts, mut json, mut quiet, mut fix) = (None, false, false, false, Fix::None);
    let mut flags = OpenFlags::default();
    let mut objects = Vec::new();
    for (name, v) in &p.options {
        match *name {
            "format" => format = Some(v.clone()),
            "image-opts" => image_opts = true,
            "quiet" => quiet = true,
            "object" => objects.push(v.clone()),
            "force-share" => flags.force_share = true,
            "output" => json = tool.json_wanted(&p)?,
            "cache" if crate::open::Cache::parse(v).is_none() => {
                return tool.fail(&format!("Invalid source cache option: {v}"));
            }
            "repair" => {
                fix = match v.as_str() {
                    "leaks" => Fix::Leaks,
                    "all" => Fix::All,
                    _ => {
                        let text = format!("Unknown option value for -r (expecting 'leaks' or 'all'): {v}");
                        return tool.usage(&text);
                    }
                }
            }
            _ => {}
        }
    }
    let [name] = &p.rest[..] else { return tool.usage("Expecting one image file name") };
    if image_opts && format.is_some() {
        return tool.fail("--image-opts and --format are mutually exclusive");
    }
    let objects = Some(super::objects(tool, &objects)?);
    let source = Source { name: name.clone(), format, image_opts, objects };
    tool.short_forms(&source);
    tool.sharing(&source, flags.force_share)?;
    let Checked { format, mut report } = one(tool, &source, flags, fix)?;
    if report.corruptions_fixed + report.leaks_fixed > 0 {
        let (leaks, corruptions) = (report.leaks_fixed, report.corruptions_fixed);
        if !json && !quiet {
            tool.print(&format!(
                "The following inconsistencies were found and repaired:\n\n    {leaks} leaked clusters\n    \
                 {corruptions} corruptions\n\nDouble checking the fixed image now...\n"
            ));
        }
        report = one(tool, &source, flags, Fix::None)?.report;
        (report.leaks_fixed, report.corruptions_fixed) = (leaks, corruptions);
    }
    if json {
        let value = qapi::to_value(&check::image_check(name, &format, &report));
        tool.print(&(value.to_json_ranked(true) + "\n"));
    } else if !quiet {
        tool.print(&check::human(&report));
    }
    Ok(match &report {
        r if r.check_errors > 0 => return tool.fail("Check failed"),
        r if r.corruptions > 0 => 2,
        r if r.leaks > 0 => 3,
        _ => 0,
    })
}

fn one(tool: &mut Tool<'_>, source: &Source, flags: OpenFlags, fix: Fix) -> Result<Checked, Failed> {
    let mut lines = Vec::new();
    let result = {
        let err = &mut *tool.err;
        let mut log = |line: &str| {
            // Findings appear while the check runs.
            let _ = writeln!(err, "{line}");
        };
        match crate::executor() {
            Ok(x) => Ok(x.block_on(check::check(source, flags, fix, &mut log))),
            Err(e) => {
                lines.push(format!("Could not start: {e}"));
                Err(())
            }
        }
    };
    match result {
        Ok(Ok(r)) => Ok(r),
        Ok(Err(CheckError::Unsupported(format))) => {
            let guessed = source.format.is_none() && !crate::open::is_described(source);
            if fix != Fix::None && guessed && format == "raw" {
                tool.warn(&format!("WARNING: {}\n", block::probe::raw_warning(&source.name)));
            }
            tool.report("This image format does not support checks", None);
            Err(Failed(63))
        }
        Ok(Err(CheckError::Open(e))) => {
            tool.fail_with(&e.prepend(&format!("Could not open '{}'", source.name)))
        }
        Ok(Err(CheckError::Failed(e))) if e.desc().starts_with("ERROR ") => {
            // What the check could not go on with, and then that it did not.
            tool.report(e.desc(), e.hint());
            let why = if e.desc().ends_with(" invalid") { Errno::INVAL } else { Errno::FBIG };
            tool.fail(&format!("Check failed: {why}"))
        }
        Ok(Err(CheckError::Failed(e))) => tool.fail_with(&e.prepend("Check failed")),
        Err(()) => tool.fail(&lines.join("\n")),
    }
}
