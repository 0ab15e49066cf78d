//! Lines from standard input, each after a prompt.

use super::session::{Done, Session};
use super::table::COMMANDS;
use std::io::{BufRead, BufReader, IsTerminal, Read, Stdin};
use std::sync::{Arc, Mutex};

/// The longest line, bytes; what is over is a line of its own.
const MAX_LINE: u64 = 1 << 20;

/// Runs all lines; answers whether one failed.
pub(super) fn all(s: &mut Session, executor: &rt::Executor) -> bool {
    let prompt = format!("{}> ", s.program);
    let mut lines: Box<dyn Lines> = match std::io::stdin().is_terminal() {
        true => match Edited::new() {
            Some(e) => Box::new(e),
            None => Box::new(Plain::new()),
        },
        false => Box::new(Plain::new()),
    };
    let mut failed = false;
    while let Some(line) = lines.next(s, executor, &prompt) {
        match executor.block_on(s.run(&line)) {
            Done::Well => {}
            Done::Failed => failed = true,
            Done::Quit => break,
        }
    }
    failed
}

/// Where lines come from.
trait Lines {
    /// Shows the prompt and waits for a line, while requests in the background go on.
    fn next(&mut self, s: &Session, executor: &rt::Executor, prompt: &str) -> Option<String>;
}

/// A pipe or a file.
struct Plain(Arc<Mutex<BufReader<Stdin>>>);

impl Plain {
    fn new() -> Plain {
        Plain(Arc::new(Mutex::new(BufReader::new(std::io::stdin()))))
    }
}

impl Lines for Plain {
    fn next(&mut self, s: &Session, executor: &rt::Executor, prompt: &str) -> Option<String> {
        s.text.print(prompt);
        s.text.flush();
        let from = self.0.clone();
        let read = move || {
            let mut line = Vec::new();
            let mut from = from.lock().ok()?;
            let n = (&mut *from).take(MAX_LINE).read_until(b'\n', &mut line).ok()?;
            (n > 0).then(|| String::from_utf8_lossy(line.strip_suffix(b"\n").unwrap_or(&line)).into_owned())
        };
        // Only where something goes on meanwhile another thread need wait.
        if s.background.any() && !self.ready() { executor.block_on(rt::unblock(read)) } else { read() }
    }
}

impl Plain {
    /// Whether there is input already.
    fn ready(&self) -> bool {
        if self.0.lock().is_ok_and(|r| !r.buffer().is_empty()) {
            return true;
        }
        let stdin = std::io::stdin();
        let mut fds = [rustix::event::PollFd::new(&stdin, rustix::event::PollFlags::IN)];
        let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        rustix::event::poll(&mut fds, Some(&now)).is_ok_and(|n| n > 0)
    }
}

/// A person at a terminal, with a history and completion of commands.
struct Edited(Arc<Mutex<rustyline::Editor<Names, rustyline::history::DefaultHistory>>>);

impl Edited {
    fn new() -> Option<Edited> {
        let mut editor = rustyline::Editor::new().ok()?;
        editor.set_helper(Some(Names));
        Some(Edited(Arc::new(Mutex::new(editor))))
    }
}

impl Lines for Edited {
    fn next(&mut self, s: &Session, executor: &rt::Executor, prompt: &str) -> Option<String> {
        s.text.flush();
        let (from, prompt) = (self.0.clone(), prompt.to_owned());
        executor.block_on(rt::unblock(move || {
            let mut from = from.lock().ok()?;
            let line = from.readline(&prompt).ok()?;
            let _ = from.add_history_entry(&line);
            Some(line)
        }))
    }
}

/// Completes the names of commands.
struct Names;

impl rustyline::completion::Completer for Names {
    type Candidate = String;

    fn complete(
        &self,
        line: &str,
        at: usize,
        _: &rustyline::Context<'_>,
    ) -> rustyline::Result<(usize, Vec<String>)> {
        let begun = &line[..at];
        let word = begun.strip_prefix("help ").unwrap_or(begun);
        let names = COMMANDS.iter().filter(|c| c.name.starts_with(word)).map(|c| c.name.to_owned());
        Ok((at - word.len(), names.collect()))
    }
}

impl rustyline::hint::Hinter for Names {
    type Hint = String;
}
impl rustyline::highlight::Highlighter for Names {}
impl rustyline::validate::Validator for Names {}
impl rustyline::Helper for Names {}
