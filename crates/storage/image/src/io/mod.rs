//! The command line of `rhea io` (and of the same binary called as `qemu-io`): requests to an image, by hand.
//!
//! A line is a command of `table`; it runs in a `session`, which holds the open image. Lines come from `-c`, or from standard
//! input with a prompt. Requests that were started in the background go on while other commands run, and are waited for
//! in the end.

mod data;
mod debug;
mod graph;
pub mod hmp;
mod letters;
mod number;
mod opening;
mod other;
mod prompt;
mod session;
mod table;
mod text;
mod zones;

use crate::img::args::{self, Spec, flag, long_flag, value};
use opening::Request;
use session::{Done, Session};
use std::io::{IsTerminal, Write};
use std::rc::Rc;
use text::Text;

const SPECS: &[Spec] = &[
    value(
        'c',
        "cmd",
        "LINE",
        "run this command (may be repeated); without it commands are read from standard input",
    ),
    args::FORMAT,
    long_flag("image-opts", "FILE is a description (driver=...,file.filename=...), not a file name"),
    args::OBJECT,
    flag('r', "read-only", "open the image for reading only"),
    flag('s', "snapshot", "what is written goes to a file that is lost in the end"),
    flag('C', "copy-on-read", "what is read from a backing file is kept"),
    flag('U', "force-share", "also beside somebody who writes"),
    flag('n', "nocache", "without the host's cache: -t none"),
    value('t', "cache", "MODE", "none, writeback, writethrough, directsync, unsafe"),
    value('d', "discard", "MODE", "ignore, unmap"),
    flag('k', "native-aio", "-i native"),
    value('i', "aio", "MODE", "threads, native, io_uring"),
    flag('m', "misalign", "accepted for compatibility"),
    value('T', "trace", "PATTERN", "what is traced: [enable=]PATTERN[,events=FILE][,file=FILE]"),
    args::HELP,
    flag('V', "version", "print the version"),
];

/// An error of the parser in the words of getopt.
fn in_words_of_getopt(e: &str) -> String {
    let Some(word) = e.split('\'').nth(1) else { return e.to_owned() };
    let missing = e.starts_with("missing");
    if let Some(long) = word.strip_prefix("--") {
        let name = long.split('=').next().unwrap_or(long);
        return match SPECS.iter().any(|s| s.long == name) {
            true if missing => format!("option '--{name}' requires an argument"),
            true => format!("option '--{name}' doesn't allow an argument"),
            false => e.to_owned(),
        };
    }
    let unknown = |c: &char| !SPECS.iter().any(|s| s.short == Some(*c));
    match word.chars().skip(1).find(unknown) {
        Some(c) if !missing => format!("invalid option -- '{c}'"),
        _ => format!("option requires an argument -- '{}'", word.chars().last().unwrap_or('-')),
    }
}

/// The command line of `rhea io` under the name `prog`. Answers the exit code.
pub fn main_as(prog: &str, given: &[String]) -> i32 {
    trace::set_program_name(prog);
    trace::init_plain();
    let out = std::io::stdout();
    let seen = out.is_terminal();
    run(prog, given, Box::new(out), Box::new(std::io::stderr()), seen)
}

/// Runs `PROG ARGS…` with its text to the given writers, `out` line by line where a person looks (`seen`); answers the exit
/// code.
pub fn run(prog: &str, given: &[String], out: Box<dyn Write>, err: Box<dyn Write>, seen: bool) -> i32 {
    let text = Text::new(out, err, seen);
    let code = match rt::Executor::new() {
        Ok(executor) => work(prog, given, &text, &executor),
        Err(e) => {
            text.warn(&format!("{prog}: Could not start: {e}"));
            1
        }
    };
    text.flush();
    code
}

fn usage(prog: &str) -> String {
    format!(
        "Usage: {prog} [OPTIONS]... [-c LINE]... [FILE]\nMakes requests to a disk image.\n\n{}\n'{prog} -c help' lists the commands.\n",
        args::help(SPECS)
    )
}

fn work(prog: &str, given: &[String], text: &Rc<Text>, executor: &rt::Executor) -> i32 {
    let mut s = Session::new(prog, text.clone());
    let parsed = match args::parse(SPECS, given) {
        Ok(p) => p,
        Err(e) => {
            s.error(&in_words_of_getopt(&e));
            text.print(&usage(prog));
            return 1;
        }
    };
    let (mut request, mut lines, mut format, mut image_opts) = (Request::default(), Vec::new(), None, false);
    let mut traced = crate::traces::Traced::default();
    for (name, v) in parsed.options {
        let letter = match name {
            "help" => {
                text.print(&usage(prog));
                return 0;
            }
            "version" => {
                text.print(&crate::img::version(prog));
                return 0;
            }
            "cmd" => {
                lines.push(v);
                continue;
            }
            "format" => {
                format = Some(v);
                continue;
            }
            "image-opts" => {
                image_opts = true;
                continue;
            }
            "object" if crate::img::object_help(&v).is_some() => {
                return match crate::img::object_help(&v) {
                    Some(Err(e)) => {
                        s.error_of(&e);
                        1
                    }
                    Some(Ok(help)) => {
                        text.print(&help);
                        0
                    }
                    None => 0,
                };
            }
            "object" => {
                let made = qapi::from_arg(&v, Some("qom-type")).and_then(|o| s.objects.add(&o));
                if let Err(e) = made {
                    s.error_of(&e);
                    return 1;
                }
                continue;
            }
            "trace" => {
                match traced.add(&v) {
                    Ok(names) => names.iter().for_each(|n| {
                        s.error(&crate::traces::unknown(n));
                    }),
                    Err(e) => {
                        text.warn(&format!("{prog}:{e}"));
                        return 1;
                    }
                }
                continue;
            }
            "read-only" => 'r',
            "snapshot" => 's',
            "nocache" => 'n',
            "copy-on-read" => 'C',
            "native-aio" => 'k',
            "aio" => 'i',
            "cache" => 't',
            "discard" => 'd',
            "force-share" => 'U',
            _ => continue,
        };
        if let Err(e) = request.letter(letter, &v) {
            s.error(&e);
            return 1;
        }
    }
    traced.select();
    if parsed.rest.len() > 1 {
        text.print(&usage(prog));
        return 1;
    }
    if format.is_some() && image_opts {
        s.error("--image-opts and -f are mutually exclusive");
        return 1;
    }
    s.image_opts = image_opts;
    if let Some(name) = parsed.rest.first() {
        if image_opts {
            if let Err(e) = request.options(&s, name) {
                s.error_of(&e);
                return 1;
            }
        } else {
            request.name = Some(name.clone());
            if let Some(f) = format {
                request.given.insert("driver", f);
            }
        }
        if executor.block_on(opening::open(&mut s, request)) != Done::Well {
            return 1;
        }
    }
    let failed =
        if lines.is_empty() { prompt::all(&mut s, executor) } else { each(&mut s, executor, &lines) };
    executor.block_on(s.close());
    i32::from(failed)
}

/// Runs lines; answers whether one failed.
fn each(s: &mut Session, executor: &rt::Executor, lines: &[String]) -> bool {
    let mut failed = false;
    for line in lines {
        match executor.block_on(s.run(line)) {
            Done::Well => {}
            Done::Failed => failed = true,
            Done::Quit => break,
        }
    }
    failed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_getopts() {
        for (line, want) in [
            ("-z", "invalid option -- 'z'"),
            ("-rz", "invalid option -- 'z'"),
            ("-c", "option requires an argument -- 'c'"),
            ("-rc", "option requires an argument -- 'c'"),
            ("--cmd", "option '--cmd' requires an argument"),
            ("--bogus", "unrecognized option '--bogus'"),
            ("--read-only=1", "option '--read-only' doesn't allow an argument"),
        ] {
            let e = args::parse(SPECS, &[line.to_owned()]).unwrap_err();
            assert_eq!(in_words_of_getopt(&e), want);
        }
    }
}
