//! The command line of `rhea img` (and of the same binary called as `qemu-img`).

mod amend_cmd;
mod args;
mod check_cmd;
mod create_cmd;
mod info_cmd;
mod time;

pub use time::local_time;

use qom::ObjectTree;
use std::future::Future;
use std::io::Write;
use std::sync::Arc;

/// Where a command's text goes, and how the program calls itself in it.
pub struct Tool<'a> {
    prog: String,
    out: &'a mut dyn Write,
    err: &'a mut dyn Write,
}

/// A command has failed and has said why; its exit code.
pub struct Failed(pub i32);

type CmdResult = Result<i32, Failed>;

impl Tool<'_> {
    fn print(&mut self, text: &str) {
        // A reader that went away is no error of ours.
        let _ = self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush());
    }

    fn warn(&mut self, text: &str) {
        let _ = self.err.write_all(text.as_bytes()).and_then(|()| self.err.flush());
    }

    /// `PROG: text`, and the hint on its own line.
    fn report(&mut self, text: &str, hint: Option<&str>) {
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
    fn usage<T>(&mut self, command: &str, text: &str) -> Result<T, Failed> {
        self.report(text, None);
        self.try_help(command)
    }

    fn try_help<T>(&mut self, command: &str) -> Result<T, Failed> {
        let gap = if command.is_empty() { "" } else { " " };
        let text = format!("Try '{}{gap}{command} --help' for more info\n", self.prog);
        self.warn(&text);
        Err(Failed(1))
    }

    fn parse(
        &mut self,
        command: &str,
        specs: &[args::Spec],
        given: &[String],
    ) -> Result<args::Parsed, Failed> {
        match args::parse(specs, given) {
            Ok(p) => Ok(p),
            Err(text) => {
                let line = format!("{} {command}: {text}\n", self.prog);
                self.warn(&line);
                self.try_help(command)
            }
        }
    }

    fn json_wanted(&mut self, command: &str, v: &str) -> Result<bool, Failed> {
        match v {
            "json" => Ok(true),
            "human" => Ok(false),
            other => self.usage(command, &format!("--output expects 'human' or 'json' not '{other}'")),
        }
    }
}

/// Runs a future to its end on an executor of its own.
fn wait<F: Future>(tool: &mut Tool<'_>, f: F) -> Result<F::Output, Failed> {
    match rt::Executor::new() {
        Ok(x) => Ok(x.block_on(f)),
        Err(e) => tool.fail(&format!("Could not start: {e}")),
    }
}

/// Makes the objects that `--object` describes.
fn objects(tool: &mut Tool<'_>, given: &[String]) -> Result<Arc<ObjectTree>, Failed> {
    let tree = ObjectTree::new();
    for g in given {
        let made = qapi::from_arg(g, Some("qom-type")).and_then(|o| tree.add(&o));
        if let Err(e) = made {
            return tool.fail_with(&e);
        }
    }
    Ok(Arc::new(tree))
}

const COMMANDS: [(&str, &str, fn(&mut Tool<'_>, &[String]) -> CmdResult); 4] = [
    ("amend", "Change what an image is", amend_cmd::run),
    ("check", "Look for damage and wasted space in an image, and repair it", check_cmd::run),
    ("create", "Make a new image", create_cmd::run),
    ("info", "Tell what an image is", info_cmd::run),
];

/// Commands of the reference that are to come.
const LATER: [&str; 11] = [
    "bench", "bitmap", "commit", "compare", "convert", "dd", "map", "measure", "rebase", "resize", "snapshot",
];

fn help(tool: &mut Tool<'_>) {
    let mut text = format!(
        "{}Disk image utility.\n\nUsage: {} [-h | --help] [-V | --version] COMMAND [OPTIONS]\n\nCommands ('{} COMMAND --help' tells more):\n\n",
        version(&tool.prog),
        tool.prog,
        tool.prog
    );
    for (name, what, _) in COMMANDS {
        text.push_str(&format!("  {name:<8} {what}\n"));
    }
    let mut formats: Vec<&str> = crate::drivers().iter().map(|d| d.name).collect();
    formats.sort_unstable();
    text.push_str(&format!("\nSupported image formats:\n\n  {}\n", formats.join(" ")));
    tool.print(&text);
}

fn version(prog: &str) -> String {
    format!("{prog} version 10.0.2 (Rhea {})\n", env!("CARGO_PKG_VERSION"))
}

/// Runs `PROG ARGS…` with its text to the given writers; answers the exit code.
pub fn run(prog: &str, given: &[String], out: &mut dyn Write, err: &mut dyn Write) -> i32 {
    let mut tool = Tool { prog: prog.to_string(), out, err };
    match dispatch(&mut tool, given) {
        Ok(code) | Err(Failed(code)) => code,
    }
}

fn dispatch(tool: &mut Tool<'_>, given: &[String]) -> CmdResult {
    match given.first().map(String::as_str) {
        None => tool.usage("", "Not enough arguments"),
        Some("-h" | "--help" | "help") => {
            help(tool);
            Ok(0)
        }
        Some("-V" | "--version") => {
            let text = version(&tool.prog);
            tool.print(&text);
            Ok(0)
        }
        Some(o) if o.starts_with('-') => {
            let what = match o.strip_prefix("--") {
                Some(_) => format!("unrecognized option '{o}'"),
                None => format!("invalid option -- '{}'", o.chars().nth(1).unwrap_or('-')),
            };
            tool.usage("", &what)
        }
        Some(name) => match COMMANDS.iter().find(|c| c.0 == name) {
            Some((_, _, f)) => f(tool, &given[1..]),
            None if LATER.contains(&name) => tool.fail(&format!("Command '{name}' is not supported yet")),
            None => tool.usage("", &format!("Command not found: {name}")),
        },
    }
}

/// The command line of `rhea img`: everything after `img`. Answers the exit code.
pub fn main(given: &[String]) -> i32 {
    main_as("rhea img", given)
}

/// [`main`] under another name, such as `qemu-img`.
pub fn main_as(prog: &str, given: &[String]) -> i32 {
    run(prog, given, &mut std::io::stdout(), &mut std::io::stderr())
}
