//! The commands of the human monitor.

use super::args::{HmpArgs, Param, next_word, parse, parse_spec};
use crate::table::LocalFuture;
use qapi::QError;
use std::fmt::Write as _;
use std::future::Future;
use std::sync::Arc;

/// What a command's handler may give: text, or an error that is shown as `Error: …`.
pub trait HmpOutput {
    /// The text to show.
    fn into_text(self) -> String;
}

impl HmpOutput for String {
    fn into_text(self) -> String {
        self
    }
}

impl HmpOutput for () {
    fn into_text(self) -> String {
        String::new()
    }
}

impl<T: HmpOutput> HmpOutput for Result<T, QError> {
    fn into_text(self) -> String {
        match self {
            Ok(t) => t.into_text(),
            Err(e) => match e.hint() {
                Some(hint) => format!("Error: {}\n{}\n", e.desc(), hint.trim_end()),
                None => format!("Error: {}\n", e.desc()),
            },
        }
    }
}

type Handler = Arc<dyn Fn(HmpArgs) -> LocalFuture<String> + Send + Sync>;

struct Entry {
    /// The group (`info`) that the command is in; empty for none.
    group: &'static str,
    /// The command's names, as help shows them: `stop|s`.
    names: &'static str,
    params: Vec<Param>,
    shown: String,
    help: &'static str,
    handler: Handler,
}

impl Entry {
    fn is_named(&self, name: &str) -> bool {
        self.names.split('|').any(|n| n == name)
    }

    fn help_line(&self) -> String {
        let sep = if self.group.is_empty() { "" } else { " " };
        format!("{}{sep}{} {} -- {}\n", self.group, self.names, self.shown, self.help)
    }
}

/// A command line that was understood.
pub(crate) struct Call {
    pub(crate) handler: Handler,
    pub(crate) args: HmpArgs,
}

/// The commands of the human monitor. `info` and `help` are there from the start.
#[derive(Default)]
pub struct HmpTable {
    entries: Vec<Entry>,
}

const GROUP: &str = "info";

impl HmpTable {
    /// A table with `help` and `info` alone.
    pub fn new() -> HmpTable {
        HmpTable::default()
    }

    /// Registers a command.
    ///
    /// `name` is its name, `info NAME` for one that shows information, with short names behind bars:
    /// `stop|s`. `args` are its parameters as help shows them: `[-n]` a flag, `device` a word, `[device]` a
    /// word that may be missing, `device:B` the name of a block device, `count:i` an integer, `size:o` a size in
    /// bytes (MiB without a suffix), `state:b` `on` or `off`, `command...` the rest of the line. The handler runs
    /// on the control executor; lines of its text end with `\n`.
    ///
    /// # Panics
    /// Where the name is taken or `args` is not well formed: both are bugs of the program.
    pub fn register<F, Fut>(&mut self, name: &'static str, args: &str, help: &'static str, f: F)
    where
        F: Fn(HmpArgs) -> Fut + Send + Sync + 'static,
        Fut: Future + 'static,
        Fut::Output: HmpOutput,
    {
        let (group, names) = match name.split_once(' ') {
            Some((g, n)) => (g, n),
            None => ("", name),
        };
        assert!(group.is_empty() || group == GROUP, "unknown group of commands: {name}");
        for n in names.split('|') {
            let reserved = group.is_empty() && ["help", "?", GROUP].contains(&n);
            assert!(!reserved && self.find(group, n).is_none(), "command {n} is registered twice");
        }
        let (params, shown) = parse_spec(args);
        let f = Arc::new(f);
        let handler: Handler = Arc::new(move |args| {
            let f = f.clone();
            Box::pin(async move { f(args).await.into_text() })
        });
        self.entries.push(Entry { group, names, params, shown, help, handler });
        self.entries.sort_by_key(|e| (e.group, e.names));
    }

    /// As [`HmpTable::register`], for a command whose parameters help shows in words of their own.
    pub fn register_shown<F, Fut>(
        &mut self,
        name: &'static str,
        (args, shown): (&str, &str),
        help: &'static str,
        f: F,
    ) where
        F: Fn(HmpArgs) -> Fut + Send + Sync + 'static,
        Fut: Future + 'static,
        Fut::Output: HmpOutput,
    {
        self.register(name, args, help, f);
        if let Some(e) = self.entries.iter_mut().find(|e| e.group.is_empty() && e.names == name) {
            e.shown = shown.to_owned();
        }
    }

    fn find(&self, group: &str, name: &str) -> Option<&Entry> {
        self.entries.iter().find(|e| e.group == group && e.is_named(name))
    }

    /// Understands a command line: the call to make, or the text to show at once.
    pub(crate) fn parse(&self, line: &str) -> Result<Call, String> {
        let mut rest = line;
        let word = |rest: &mut &str| next_word(rest).unwrap_or_default().unwrap_or_default();
        let first = word(&mut rest);
        let (group, name) = match first.as_str() {
            "" => return Err(String::new()),
            "help" | "?" => return Err(self.help(rest.trim())),
            GROUP => match word(&mut rest) {
                w if w.is_empty() => return Err(self.help(GROUP)),
                w => (GROUP, w),
            },
            _ => ("", first),
        };
        let full = if group.is_empty() { name.clone() } else { format!("{group} {name}") };
        let Some(e) = self.find(group, &name) else {
            return Err(format!("unknown command: '{full}'\n"));
        };
        let args = parse(e.names, &e.params, rest)
            .map_err(|m| format!("{m}\nTry \"help {full}\" for more information\n"))?;
        Ok(Call { handler: e.handler.clone(), args })
    }

    fn help(&self, of: &str) -> String {
        const HELP: &str = "help|? [cmd] -- show the help\n";
        const INFO: &str = "info [subcommand] -- show information about the system's state\n";
        let mut words = of.split_whitespace();
        match (words.next(), words.next()) {
            (None, _) => {
                let mut lines: Vec<String> =
                    self.entries.iter().filter(|e| e.group.is_empty()).map(Entry::help_line).collect();
                lines.extend([HELP.to_owned(), INFO.to_owned()]);
                lines.sort();
                lines.concat()
            }
            (Some(GROUP), None) => {
                self.entries.iter().filter(|e| e.group == GROUP).map(Entry::help_line).collect()
            }
            (Some(GROUP), Some(name)) => match self.find(GROUP, name) {
                Some(e) => e.help_line(),
                None => format!("unknown command: '{GROUP} {name}'\n"),
            },
            (Some("help" | "?"), _) => HELP.to_owned(),
            (Some(name), _) => match self.find("", name) {
                Some(e) => e.help_line(),
                None => format!("unknown command: '{name}'\n"),
            },
        }
    }

    /// Words that the last word of `line` may be completed to, sorted.
    pub(crate) fn complete(&self, line: &str) -> Vec<&'static str> {
        let words: Vec<&str> = line.split(' ').filter(|w| !w.is_empty()).collect();
        let partial = if line.ends_with(' ') { "" } else { words.last().copied().unwrap_or("") };
        let before = if partial.is_empty() { &words[..] } else { &words[..words.len() - 1] };
        let names = |group: &'static str| {
            self.entries.iter().filter(move |e| e.group == group).flat_map(|e| e.names.split('|'))
        };
        let mut found: Vec<&'static str> = match before {
            [] | ["help" | "?"] => names("").chain(["help", "?", GROUP]).collect(),
            [GROUP] | ["help" | "?", GROUP] => names(GROUP).collect(),
            _ => Vec::new(),
        };
        found.retain(|n| n.starts_with(partial));
        found.sort_unstable();
        found
    }

    /// Every command's name and parameters, one a line, for a manual.
    pub fn manual(&self) -> String {
        self.entries.iter().fold(String::new(), |mut s, e| {
            let _ = writeln!(s, "{}", e.help_line().trim_end());
            s
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> HmpTable {
        let mut t = HmpTable::new();
        t.register("stop|s", "", "stop emulation", |_| async {});
        t.register("info block", "[-n] [device]", "show disks", |a: HmpArgs| async move {
            if a.flag('n') { Err(qapi::qerr!("no nodes")) } else { Ok(format!("[{}]\n", a.str("device"))) }
        });
        t.register("info version", "", "show the version", |_| async { String::from("1\n") });
        t
    }

    fn run(line: &str) -> String {
        match table().parse(line) {
            Ok(c) => rt::block_on((c.handler)(c.args)),
            Err(text) => text,
        }
    }

    #[test]
    fn calls_and_messages() {
        assert_eq!(run("info block sd0"), "[sd0]\n");
        assert_eq!(run(" info  block -n"), "Error: no nodes\n");
        assert_eq!(run("s"), "");
        assert_eq!(run(""), "");
        assert_eq!(run("foo bar"), "unknown command: 'foo'\n");
        assert_eq!(run("info foo"), "unknown command: 'info foo'\n");
        assert_eq!(
            run("info version x"),
            "version: extraneous characters at the end of line\nTry \"help info version\" for more information\n"
        );
        assert_eq!(
            run("stop x"),
            "stop|s: extraneous characters at the end of line\nTry \"help stop\" for more information\n"
        );
    }

    #[test]
    fn help_texts() {
        assert_eq!(run("help stop"), "stop|s  -- stop emulation\n");
        assert_eq!(run("help info block"), "info block [-n] [device] -- show disks\n");
        assert_eq!(run("help foo"), "unknown command: 'foo'\n");
        assert_eq!(run("info"), run("help info"));
        assert_eq!(run("?").lines().count(), 3);
        assert_eq!(run("help help"), "help|? [cmd] -- show the help\n");
    }

    #[test]
    fn completion() {
        let t = table();
        assert_eq!(t.complete("in"), ["info"]);
        assert_eq!(t.complete("info "), ["block", "version"]);
        assert_eq!(t.complete("info v"), ["version"]);
        assert_eq!(t.complete("help info b"), ["block"]);
        assert_eq!(t.complete("zzz "), [""; 0]);
        assert_eq!(t.complete(""), ["?", "help", "info", "s", "stop"]);
    }
}
