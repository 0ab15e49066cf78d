//! The command line of `rhea img` (and of the same binary called as `qemu-img`).

mod amend_cmd;
pub mod args;
mod bench_cmd;
mod bitmap_cmd;
mod check_cmd;
mod commit_cmd;
mod compare_cmd;
mod convert_cmd;
mod create_cmd;
mod dd_cmd;
mod info_cmd;
mod inspect_cmd;
pub mod manual;
mod map_cmd;
mod measure_cmd;
mod on_image;
pub mod progress;
mod rebase_cmd;
mod resize_cmd;
mod snapshot_cmd;
mod time;
mod tree_cmd;

pub use time::local_time;

use self::args::{Parsed, Spec};
use crate::open::{Cache, Source};
use base::units::SizeError;
use qapi::QError;
use qom::ObjectTree;
use std::future::Future;
use std::io::{IsTerminal, Write};
use std::sync::Arc;

/// Where a command's text goes, and how the program calls itself in it.
pub struct Tool<'a> {
    prog: String,
    out: &'a mut dyn Write,
    err: &'a mut dyn Write,
    /// A person looks at `err`.
    terminal: bool,
    /// Progress is shown on `out`: its line ends when all is said.
    line_open: bool,
}

/// A command has failed and has said why; its exit code.
pub struct Failed(pub i32);

type CmdResult = Result<i32, Failed>;

impl Tool<'_> {
    fn print(&mut self, text: &str) {
        // A reader that went away is no error of ours.
        let _ = self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush());
    }

    /// Whether progress is shown as `-p` asks for, from now on.
    fn show_progress(&mut self, p: &Parsed) -> (bool, bool, bool) {
        let (asked, quiet) = (p.has("progress"), p.has("quiet"));
        self.line_open = asked && !quiet;
        (asked, quiet, self.terminal)
    }

    /// Ends the line on which progress is shown.
    fn end_line(&mut self) {
        if std::mem::take(&mut self.line_open) {
            self.print("\n");
        }
    }

    fn warn(&mut self, text: &str) {
        let _ = self.err.write_all(text.as_bytes()).and_then(|()| self.err.flush());
    }

    /// `PROG: text`, and the hint on its own line.
    fn report(&mut self, text: &str, hint: Option<&str>) {
        // What two images that must show the same disagree about has been told, and is why.
        if block_test::disagreed() {
            return;
        }
        let prog = self.prog.clone();
        self.warn(&format!("{prog}: {text}\n"));
        if let Some(h) = hint {
            self.warn(h.trim_end_matches('\n'));
            self.warn("\n");
        }
    }

    fn fail<T>(&mut self, text: &str) -> Result<T, Failed> {
        self.report(text, None);
        Err(Failed(1))
    }

    fn fail_with<T>(&mut self, e: &qapi::QError) -> Result<T, Failed> {
        self.report(e.desc(), e.hint());
        Err(Failed(1))
    }

    /// A wrong command line: where to read what is right.
    fn usage<T>(&mut self, text: &str) -> Result<T, Failed> {
        let hint = format!("Try '{} --help' for more information", self.prog);
        self.report(text, Some(&hint));
        Err(Failed(1))
    }

    /// Whether `--output` asks for JSON.
    fn json_wanted(&mut self, p: &Parsed) -> Result<bool, Failed> {
        match p.get("output") {
            Some("json") => Ok(true),
            Some("human") | None => Ok(false),
            Some(_) => self.fail("--output must be used with human or json as argument."),
        }
    }

    /// The size or number that an argument says.
    fn number(&mut self, what: &str, text: &str, min: u64, max: u64) -> Result<u64, Failed> {
        match crate::options::size(text) {
            Ok(n) if (min..=max).contains(&n) => Ok(n),
            Ok(_) | Err(SizeError::OutOfRange) => {
                self.fail(&format!("Invalid {what} specified. Must be between {min} and {max}."))
            }
            Err(SizeError::Invalid) => {
                self.report(
                    &format!("Invalid {what} specified. You may use k, M, G, T, P or E suffixes for"),
                    None,
                );
                self.fail("kilobytes, megabytes, gigabytes, terabytes, petabytes and exabytes.")
            }
        }
    }

    /// Whether what `-o` was given are lists of options.
    fn option_lists(&mut self, given: &[String]) -> Result<(), Failed> {
        match given.iter().find(|o| !crate::options::is_list(o)) {
            Some(o) => self.fail(&format!("Invalid option list: {o}")),
            None => Ok(()),
        }
    }

    /// The cache mode that an option names; `default` where it is not given.
    fn cache(&mut self, p: &Parsed, option: &str, default: &str, what: &str) -> Result<Cache, Failed> {
        let mode = p.get(option).unwrap_or(default);
        match Cache::parse(mode) {
            Some(c) => Ok(c),
            None => self.fail(&format!("Invalid {what} option: {mode}")),
        }
    }

    /// The image that a command line names.
    fn source(&mut self, p: &Parsed, name: &str) -> Result<Source, Failed> {
        let source = self.named(p, name)?;
        self.sharing(&source, p.has("force-share"))?;
        Ok(source)
    }

    /// The same, before anything but its form is looked at.
    fn named(&mut self, p: &Parsed, name: &str) -> Result<Source, Failed> {
        let objects = Some(objects(self, &p.all("object"))?);
        let source = Source {
            name: name.to_owned(),
            format: p.get("format").map(str::to_owned),
            image_opts: p.has("image-opts"),
            objects,
        };
        self.short_forms(&source);
        Ok(source)
    }

    /// Tells of options of a description that have no value.
    fn short_forms(&mut self, source: &Source) {
        if source.image_opts {
            qapi::opts_short_forms(&source.name, Some("file")).iter().for_each(|w| self.report(w, None));
        }
    }

    /// `-U` and a description that says otherwise exclude each other.
    fn sharing(&mut self, source: &Source, force_share: bool) -> Result<(), Failed> {
        match force_share && source.image_opts && crate::open::shares_otherwise(&source.name) {
            true => self.fail("--force-share/-U conflicts with image options"),
            false => Ok(()),
        }
    }

    /// `--image-opts` and a format exclude each other.
    fn format_or_options(&mut self, p: &Parsed) -> Result<(), Failed> {
        match p.has("image-opts") && p.has("format") {
            true => self.fail("--image-opts and --format are mutually exclusive"),
            false => Ok(()),
        }
    }
}

/// The text for an image that cannot be opened.
fn could_not_open(name: &str, e: &QError) -> QError {
    let said = QError::new(format!("Could not open '{name}': {}", e.desc()));
    match e.hint() {
        Some(h) => said.with_hint(h),
        None => said,
    }
}

/// Runs a future to its end on an executor of its own.
fn wait<F: Future>(tool: &mut Tool<'_>, f: F) -> Result<F::Output, Failed> {
    match crate::executor() {
        Ok(x) => Ok(x.block_on(f)),
        Err(e) => tool.fail(&format!("Could not start: {e}")),
    }
}

/// What an `--object` that asks for help is answered with.
pub(crate) fn object_help(given: &str) -> Option<Result<String, QError>> {
    let asks = |t: &str| t == "help" || t == "?";
    if asks(given) {
        return Some(Ok(qom::help()));
    }
    let (kind, rest) = given.split_once(',')?;
    let kind = kind.strip_prefix("qom-type=").unwrap_or(kind);
    crate::options::split(rest).iter().any(|o| asks(o)).then(|| qom::type_help(kind))
}

/// Makes the objects that `--object` describes.
fn objects(tool: &mut Tool<'_>, given: &[String]) -> Result<Arc<ObjectTree>, Failed> {
    let tree = ObjectTree::new();
    for g in given {
        if let Some(text) = object_help(g) {
            return match text {
                Ok(text) => {
                    tool.print(&text);
                    Err(Failed(0))
                }
                Err(e) => tool.fail_with(&e),
            };
        }
        let made = qapi::from_arg(g, Some("qom-type")).and_then(|o| tree.add(&o));
        if let Err(e) = made {
            return tool.fail_with(&e);
        }
    }
    Ok(Arc::new(tree))
}

/// A subcommand.
pub struct Command {
    /// Its name.
    pub name: &'static str,
    /// What it does, in one line.
    pub about: &'static str,
    /// What follows its name.
    pub usage: &'static str,
    /// Its options.
    pub options: &'static [Spec],
    /// What else there is to know.
    pub notes: &'static str,
    run: fn(&mut Tool<'_>, Parsed) -> CmdResult,
}

impl Command {
    /// What `--help` says.
    pub fn help(&self, prog: &str) -> String {
        let notes = if self.notes.is_empty() { String::new() } else { format!("\n{}\n", self.notes) };
        format!(
            "Usage:\n{}.  Usage:\n\n  {prog} {} {}\n\nArguments:\n{}{notes}",
            self.about,
            self.name,
            self.usage,
            args::help(self.options)
        )
    }
}

/// All subcommands, in the order of the alphabet.
pub static COMMANDS: &[&Command] = &[
    &amend_cmd::COMMAND,
    &bench_cmd::COMMAND,
    &bitmap_cmd::COMMAND,
    &check_cmd::COMMAND,
    &commit_cmd::COMMAND,
    &compare_cmd::COMMAND,
    &convert_cmd::COMMAND,
    &create_cmd::COMMAND,
    &dd_cmd::COMMAND,
    &info_cmd::COMMAND,
    &inspect_cmd::COMMAND,
    &map_cmd::COMMAND,
    &measure_cmd::COMMAND,
    &rebase_cmd::COMMAND,
    &resize_cmd::COMMAND,
    &snapshot_cmd::COMMAND,
    &tree_cmd::COMMAND,
];

fn help(tool: &mut Tool<'_>) {
    let mut text = format!(
        "{}Disk image utility.\n\nUsage: {} [-h | --help] [-V | --version] COMMAND [OPTIONS]\n\nCommands ('{} COMMAND --help' tells more):\n\n",
        version(&tool.prog),
        tool.prog,
        tool.prog
    );
    for c in COMMANDS {
        text.push_str(&format!("  {:<8} {}\n", c.name, c.about));
    }
    let mut formats: Vec<&str> = crate::drivers().iter().map(|d| d.name).collect();
    formats.sort_unstable();
    text.push_str(&format!("\nSupported image formats:\n\n  {}\n", formats.join(" ")));
    tool.print(&text);
}

pub(crate) fn version(prog: &str) -> String {
    format!("{prog} version 10.0.2 (Rhea {})\n", env!("CARGO_PKG_VERSION"))
}

/// Runs `PROG ARGS…` with its text to the given writers; answers the exit code.
pub fn run(prog: &str, given: &[String], out: &mut dyn Write, err: &mut dyn Write) -> i32 {
    run_at(prog, given, out, err, false)
}

fn run_at(prog: &str, given: &[String], out: &mut dyn Write, err: &mut dyn Write, terminal: bool) -> i32 {
    let mut tool = Tool { prog: prog.to_string(), out, err, terminal, line_open: false };
    let (Ok(code) | Err(Failed(code))) = dispatch(&mut tool, given);
    tool.end_line();
    code
}

/// Takes the options before the command that say what is traced; answers what follows.
fn take_traces<'a>(tool: &mut Tool<'_>, mut given: &'a [String]) -> Result<&'a [String], Failed> {
    let mut traced = crate::traces::Traced::default();
    loop {
        let (argument, rest) = match given {
            [first, argument, rest @ ..] if first == "-T" || first == "--trace" => (argument.as_str(), rest),
            [first, rest @ ..] if first.starts_with("--trace=") => (&first["--trace=".len()..], rest),
            _ => break,
        };
        match traced.add(argument) {
            Ok(unknown) => {
                for name in unknown {
                    tool.report(&crate::traces::unknown(&name), None);
                }
            }
            Err(e) => {
                let prog = tool.prog.clone();
                tool.warn(&format!("{prog}:{e}\n"));
                return Err(Failed(1));
            }
        }
        given = rest;
    }
    traced.select();
    Ok(given)
}

fn dispatch(tool: &mut Tool<'_>, given: &[String]) -> CmdResult {
    let given = take_traces(tool, given)?;
    match given.first().map(String::as_str) {
        None => tool.usage("Not enough arguments"),
        Some("-h" | "--help" | "help") => {
            help(tool);
            Ok(0)
        }
        Some("-V" | "--version") => {
            let text = version(&tool.prog);
            tool.print(&text);
            Ok(0)
        }
        // What `inspect` starts.
        Some(crate::inspect::child::WORD) => Ok(crate::inspect::child::main(&given[1..])),
        Some(o) if o.starts_with('-') => tool.usage(&format!("unrecognized option '{o}'")),
        Some(name) => match COMMANDS.iter().find(|c| c.name == name) {
            Some(c) => {
                let mut words = given[1..].to_vec();
                // A size that is a difference looks like an option.
                if name == "resize"
                    && let Some(last) = words.last().cloned()
                    && last.len() > 1
                    && last.starts_with('-')
                    && last[1..].starts_with(|c: char| c.is_ascii_digit())
                    && !words.iter().any(|w| w == "--")
                {
                    words.insert(words.len() - 1, "--".into());
                }
                let p = match args::parse(c.options, &words) {
                    Ok(p) => p,
                    Err(text) => return tool.usage(&text),
                };
                if p.has("help") {
                    let text = c.help(&tool.prog);
                    tool.print(&text);
                    return Ok(0);
                }
                if let Some(asked) = p.all("object").iter().find(|o| object_help(o).is_some()) {
                    objects(tool, std::slice::from_ref(asked))?;
                }
                (c.run)(tool, p)
            }
            None => tool.usage(&format!("Command not found: {name}")),
        },
    }
}

/// The command line of `rhea img`: everything after `img`. Answers the exit code.
pub fn main(given: &[String]) -> i32 {
    main_as("rhea img", given)
}

/// [`main`] under another name, such as `qemu-img`.
pub fn main_as(prog: &str, given: &[String]) -> i32 {
    trace::set_program_name(prog);
    trace::init_plain();
    progress::answer_signals();
    let terminal = std::io::stderr().is_terminal();
    run_at(prog, given, &mut std::io::stdout(), &mut std::io::stderr(), terminal)
}
