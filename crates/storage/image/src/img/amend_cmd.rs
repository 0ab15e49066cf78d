//! `amend`.

use api::block_core::{BlockdevAmendOptions, BlockdevAmendOptionsQcow2};
use api::crypto::{QCryptoBlockAmendOptions, QCryptoBlockAmendOptionsLUKS, QCryptoBlockLUKSKeyslotState};
use qapi::{QError, QapiEnum, qerr};

use super::args::{FORMAT, HELP, IMAGE_OPTS, OBJECT, PROGRESS, Parsed, QUIET, long_flag, value};
use super::progress::Progress;
use super::{CmdResult, Command, Tool};
use crate::amend::{Change, amend};
use crate::create::maker;
use crate::open::{OpenFlags, Source, open};
use crate::options::{Options as Values, checked, help_line, pair, split};
use block::create::{CreateOption as Opt, OptionType as Type};

/// `amend`.
pub(super) static COMMAND: Command = Command {
    name: "amend",
    about: "Change what an image is",
    usage: "[-f FMT | --image-opts] [-t CACHE] [-p] [-q] [--force] [--object OBJDEF] -o OPTIONS FILENAME",
    options: &[
        HELP,
        QUIET,
        PROGRESS,
        FORMAT,
        IMAGE_OPTS,
        value('t', "cache", "MODE", "how the host's cache is used"),
        long_flag("force", "do it even if it makes data unreadable for good"),
        value('o', "options", "A=B,...", "what to change; '-o help' lists it"),
        OBJECT,
    ],
    notes: "",
    run,
};

const fn opt(name: &'static str, ty: Type, help: &'static str) -> Opt {
    Opt::new(name, ty, help)
}

const QCOW2: &[Opt] = &[
    opt("backing_file", Type::Str, "File name of a base image"),
    opt("backing_fmt", Type::Str, "Image format of the base image"),
    opt("compat", Type::Str, "Compatibility level (v2 [0.10] or v3 [1.1])"),
    opt("data_file", Type::Str, "File name of an external data file"),
    opt("data_file_raw", Type::Bool, "The external data file must stay valid as a raw image"),
    opt("encrypt.iter-time", Type::Num, "Time to spend in PBKDF in milliseconds"),
    opt("encrypt.keyslot", Type::Num, "Select a single keyslot to modify explicitly"),
    opt("encrypt.new-secret", Type::Str, "New secret to set in the matching keyslots. Empty string to erase"),
    opt("encrypt.old-secret", Type::Str, "Select all keyslots that match this password"),
    opt("encrypt.state", Type::Str, "Select new state of affected keyslots (active/inactive)"),
    opt("lazy_refcounts", Type::Bool, "Postpone refcount updates"),
    opt("refcount_bits", Type::Num, "Width of a reference count entry in bits"),
    opt("size", Type::Size, "Virtual disk size"),
];

const LUKS: &[Opt] = &[
    opt("iter-time", Type::Num, "Time to spend in PBKDF in milliseconds"),
    opt("keyslot", Type::Num, "Select a single keyslot to modify explicitly"),
    opt("new-secret", Type::Str, "New secret to set in the matching keyslots. Empty string to erase"),
    opt("old-secret", Type::Str, "Select all keyslots that match this password"),
    opt("state", Type::Str, "Select new state of affected keyslots (active/inactive)"),
];

fn options_of(format: &str) -> Result<&'static [Opt], QError> {
    match format {
        "qcow2" => Ok(QCOW2),
        "luks" => Ok(LUKS),
        f if crate::drivers().iter().any(|d| d.name == f) => {
            Err(qerr!("Format driver '{f}' does not support option amendment"))
        }
        f => Err(qerr!("Unknown file format '{f}'")),
    }
}

fn run(tool: &mut Tool<'_>, p: Parsed) -> CmdResult {
    let (mut format, mut image_opts, mut quiet, mut progress, mut force) = (None, false, false, false, false);
    let (mut options, mut objects, mut cache) = (Vec::new(), Vec::new(), None);
    for (name, v) in p.options {
        match name {
            "quiet" => quiet = true,
            "progress" => progress = true,
            "format" => format = Some(v),
            "image-opts" => image_opts = true,
            "cache" => cache = Some(v),
            "force" => force = true,
            "options" => options.push(v),
            "object" => objects.push(v),
            _ => {}
        }
    }
    if options.is_empty() {
        return tool.usage("Must specify options (-o)");
    }
    tool.option_lists(&options)?;
    let options: Vec<String> = options.iter().flat_map(|o| split(o)).collect();
    let help = options.iter().any(|o| o == "help" || o == "?");
    if let (true, Some(f)) = (help, &format) {
        return list(tool, f);
    }
    let [name] = &p.rest[..] else { return tool.fail("Expecting one image file name") };
    if image_opts && format.is_some() {
        return tool.fail("--image-opts and --format are mutually exclusive");
    }
    if let Some(c) = cache.filter(|c| crate::open::Cache::parse(c).is_none()) {
        return tool.fail(&format!("Invalid cache option: {c}"));
    }
    let objects = Some(super::objects(tool, &objects)?);
    let source = Source { name: name.clone(), format, image_opts, objects };
    tool.short_forms(&source);
    let show = progress && !quiet;
    // A list of options shows no progress.
    tool.line_open = show && !help;
    let (mut warning, mut begun) = (None, false);
    let done = {
        let mut progress = Progress::new(show, quiet, tool.terminal, &mut *tool.out, &mut *tool.err);
        let work = async {
            // With its backing files: what is new of a longer image must not show theirs.
            let flags = OpenFlags { write: true, chain: true, ..OpenFlags::default() };
            let image =
                open(&source, flags).await.map_err(|e| e.prepend(&format!("Could not open '{name}'")))?;
            let format = image.format.clone();
            warning = image.warning(&source);
            if help {
                image.close().await;
                return Ok(Some(format));
            }
            let change = options_of(&format).and_then(|known| change(&format, known, &options, &mut begun));
            if begun {
                progress.begin();
            }
            let done = match change {
                Ok(c) => {
                    let tell = &mut |at, of| if at == 0 { progress.begin() } else { progress.at(at, of) };
                    amend(&source, image, &c, force, tell).await.map(|()| None)
                }
                Err(e) => {
                    image.close().await;
                    Err(e)
                }
            };
            if begun {
                progress.finished();
            }
            done
        };
        match crate::executor() {
            Ok(x) => x.block_on(work),
            Err(e) => Err(qerr!("Could not start: {e}")),
        }
    };
    if let Some(w) = warning {
        tool.warn(&w);
    }
    match done {
        Ok(Some(format)) => list(tool, &format),
        Ok(None) => Ok(0),
        Err(e) => tool.fail_with(&e),
    }
}

fn list(tool: &mut Tool<'_>, format: &str) -> CmdResult {
    match options_of(format) {
        Ok(list) => {
            let mut text = format!("Amend options for '{format}':\n");
            list.iter().for_each(|o| text.push_str(&help_line(o)));
            tool.print(&text);
            Ok(0)
        }
        Err(e) => tool.fail_with(&e),
    }
}

/// What the options ask for. `begun`: they are options of the format; whether their values will do is another question.
fn change(format: &str, known: &'static [Opt], given: &[String], begun: &mut bool) -> Result<Change, QError> {
    let mut v = Values::default();
    for o in given {
        let (name, text) = pair(o);
        let Some(spec) = known.iter().find(|s| s.name == name) else {
            let e = qerr!("Invalid parameter '{name}'");
            let other = maker(format).is_ok_and(|(_, c)| c.options.iter().any(|o| o.name == name));
            return Err(if other {
                e.with_hint("This option is only supported for image creation")
            } else {
                e
            });
        };
        v.set(spec.name, checked(spec, text)?);
    }
    *begun = true;
    if format == "luks" {
        return Ok(Change::Options(BlockdevAmendOptions::Luks(slots(&v, "")?)));
    }
    let c = block_qcow2::amend::Amend {
        version: match v.get("compat") {
            None => None,
            Some("0.10" | "v2") => Some(2),
            Some("1.1" | "v3") => Some(3),
            Some(other) => return Err(qerr!("Unknown compatibility level {other}")),
        },
        refcount_bits: v.number("refcount_bits"),
        lazy_refcounts: v.get("lazy_refcounts").map(|t| t == "on"),
        data_file: v.get("data_file").map(Into::into),
        ..Default::default()
    };
    let encrypt = match v.names().any(|n| n.starts_with("encrypt.")) {
        true => Some(QCryptoBlockAmendOptions::Luks(slots(&v, "encrypt.")?)),
        false => None,
    };
    Ok(Change::Qcow2 {
        amend: Box::new(c),
        size: v.number("size"),
        encrypt: encrypt.map(|e| BlockdevAmendOptions::Qcow2(BlockdevAmendOptionsQcow2 { encrypt: Some(e) })),
        backing_file: v.get("backing_file").map(Into::into),
        backing_format: v.get("backing_fmt").map(Into::into),
        raw: v.get("data_file_raw") == Some("on"),
    })
}

fn slots(v: &Values, prefix: &str) -> Result<QCryptoBlockAmendOptionsLUKS, QError> {
    let get = |n: &str| v.get(&format!("{prefix}{n}"));
    let number = |n: &str| v.number(&format!("{prefix}{n}")).map(|n| i64::try_from(n).unwrap_or(i64::MAX));
    let state = get("state").ok_or_else(|| qerr!("Parameter 'state' is missing"))?;
    let bad = || qerr!("Parameter 'state' does not accept value '{state}'");
    Ok(QCryptoBlockAmendOptionsLUKS {
        state: QCryptoBlockLUKSKeyslotState::from_str(state).ok_or_else(bad)?,
        new_secret: get("new-secret").map(Into::into),
        old_secret: get("old-secret").map(Into::into),
        keyslot: number("keyslot"),
        iter_time: number("iter-time"),
        secret: None,
    })
}
