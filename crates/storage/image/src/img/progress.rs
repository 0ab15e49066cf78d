//! How far long work is.

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

/// Where it is shown.
enum Shown {
    Nowhere,
    /// On standard output, as scripts read it.
    Plain,
    /// A bar for a person at a terminal.
    Bar,
}

/// Somebody has asked how far the work is, by a signal.
static ASKED: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// From now on `SIGUSR1` asks how far the work is, and does not end the process.
pub fn answer_signals() {
    let asked = ASKED.get_or_init(Arc::default).clone();
    // Without it the signal ends the process, as it does elsewhere.
    let _ = signal_hook::flag::register(signal_hook::consts::SIGUSR1, asked);
}

/// How far long work is, as `-p` shows it; or as a bar where a person looks. Where `-p` is not given, `SIGUSR1` has it
/// written to standard error.
pub struct Progress<'a> {
    shown: Shown,
    out: &'a mut dyn Write,
    /// Where a signal is answered.
    answers: Option<&'a mut dyn Write>,
    last: f64,
    /// Whether anything is on the bar's line.
    drawn: bool,
}

const WIDTH: usize = 40;

impl<'a> Progress<'a> {
    /// `asked`: `-p`. `quiet`: `-q`. `terminal`: a person looks at `err`.
    pub fn new(
        asked: bool,
        quiet: bool,
        terminal: bool,
        out: &'a mut dyn Write,
        err: &'a mut dyn Write,
    ) -> Progress<'a> {
        let (shown, out, answers) = match (asked, quiet, terminal) {
            (_, true, _) | (false, _, false) => (Shown::Nowhere, out, Some(err)),
            (true, _, _) => (Shown::Plain, out, None),
            (false, _, true) => (Shown::Bar, err, None),
        };
        Progress { shown, out, answers, last: 0.0, drawn: false }
    }

    /// Whether anybody sees it.
    pub fn is_shown(&self) -> bool {
        !matches!(self.shown, Shown::Nowhere)
    }

    /// The work begins.
    pub fn begin(&mut self) {
        self.print(0.0);
    }

    /// `done` of `all` is done.
    pub fn at(&mut self, done: u64, all: u64) {
        let percent = if all == 0 { 100.0 } else { done as f64 * 100.0 / all as f64 };
        self.answer(percent);
        if percent > self.last + 1.0 || percent >= 100.0 {
            self.last = percent;
            self.print(percent);
        }
    }

    /// All is done.
    pub fn finished(&mut self) {
        self.answer(100.0);
        self.print(100.0);
    }

    /// Answers a signal.
    fn answer(&mut self, percent: f64) {
        let asked = ASKED.get().is_some_and(|a| a.swap(false, Ordering::Relaxed));
        if let (true, Some(to)) = (asked, &mut self.answers) {
            let _ = to.write_all(format!("    ({percent:.2}/100%)\n").as_bytes()).and_then(|()| to.flush());
        }
    }

    fn print(&mut self, percent: f64) {
        let text = match self.shown {
            Shown::Nowhere => return,
            Shown::Plain => format!("    ({percent:.2}/100%)\r"),
            Shown::Bar if percent == 0.0 => return,
            Shown::Bar => {
                let full = (percent / 100.0 * WIDTH as f64) as usize;
                format!("\r[{}{}] {percent:5.1} %", "=".repeat(full), " ".repeat(WIDTH - full.min(WIDTH)))
            }
        };
        self.drawn = true;
        // A reader that went away is no error of ours.
        let _ = self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush());
    }
}

impl Drop for Progress<'_> {
    fn drop(&mut self) {
        let end = match self.shown {
            Shown::Bar if self.drawn => format!("\r{}\r", " ".repeat(WIDTH + 12)),
            _ => return,
        };
        let _ = self.out.write_all(end.as_bytes()).and_then(|()| self.out.flush());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_shown_as_scripts_know_it() {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut p = Progress::new(true, false, true, &mut out, &mut err);
        p.begin();
        p.at(1, 1000);
        p.at(100, 1000);
        p.finished();
        drop(p);
        assert_eq!(out, b"    (0.00/100%)\r    (10.00/100%)\r    (100.00/100%)\r");
        assert!(err.is_empty());
        drop(Progress::new(true, true, true, &mut out, &mut err));
        drop(Progress::new(false, false, false, &mut out, &mut err));
        assert!(err.is_empty());
        let mut p = Progress::new(false, false, true, &mut out, &mut err);
        p.at(500, 1000);
        drop(p);
        assert!(String::from_utf8(err).unwrap().contains("====="));
    }

    #[test]
    fn a_signal_is_answered_once() {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let asked = ASKED.get_or_init(Arc::default);
        let mut p = Progress::new(false, false, false, &mut out, &mut err);
        p.begin();
        p.at(1, 4);
        asked.store(true, Ordering::Relaxed);
        p.at(2, 4);
        p.at(3, 4);
        p.finished();
        drop(p);
        assert!(out.is_empty());
        assert_eq!(err, b"    (50.00/100%)\n");
    }
}
