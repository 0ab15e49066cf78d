//! Case files: parsing, running, and writing anew.

use crate::shell::{Output, Tools};
use std::path::Path;

/// A command and what it must print.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// What stands before it: comments and empty lines.
    pub before: Vec<String>,
    /// What the shell runs.
    pub command: String,
    /// What must come of it.
    pub output: Output,
    /// Why the reference differs.
    pub differs: Option<String>,
    /// In what Rhea still differs.
    pub wrong: Option<String>,
    line: usize,
}

/// A file with cases.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Case {
    /// The commands.
    pub steps: Vec<Step>,
    /// What stands behind the last of them: comments and empty lines.
    pub after: Vec<String>,
    /// The images that both sides must understand alike.
    pub images: Vec<String>,
}

impl Case {
    /// Reads a file's text.
    ///
    /// # Errors
    /// The line that is none of the language.
    pub fn parse(text: &str) -> Result<Case, String> {
        let mut case = Case::default();
        let mut before = Vec::new();
        for (i, line) in text.split_terminator('\n').enumerate() {
            let wrong = || format!("line {}: {line}", i + 1);
            if line.is_empty() || line.starts_with('#') {
                before.push(line.to_owned());
            } else if let Some(names) = line.strip_prefix("images:") {
                case.images = names.split_whitespace().map(str::to_owned).collect();
            } else if let Some(command) = line.strip_prefix("$ ") {
                case.steps.push(Step {
                    before: std::mem::take(&mut before),
                    command: command.to_owned(),
                    line: i + 1,
                    ..Step::default()
                });
            } else {
                let step = case.steps.last_mut().filter(|_| before.is_empty()).ok_or_else(wrong)?;
                if let Some(why) = line.strip_prefix("reference differs:") {
                    step.differs = Some(why.trim().to_owned());
                } else if let Some(why) = line.strip_prefix("rhea differs:") {
                    step.wrong = Some(why.trim().to_owned());
                } else if let Some(code) = line.strip_prefix("= ") {
                    step.output.code = code.parse().map_err(|_| wrong())?;
                } else {
                    let (stream, rest) = match line.split_at(1) {
                        ("|", rest) => (&mut step.output.out, rest),
                        ("!", rest) => (&mut step.output.err, rest),
                        _ => return Err(wrong()),
                    };
                    let text = rest.strip_prefix(' ').unwrap_or(rest);
                    match text.strip_suffix('\\') {
                        Some(text) => stream.push_str(text),
                        None => {
                            stream.push_str(text);
                            stream.push('\n');
                        }
                    }
                }
            }
        }
        case.after = before;
        Ok(case)
    }

    /// The file's text.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let mut line = |t: &str| {
            text.push_str(t);
            text.push('\n');
        };
        for step in &self.steps {
            step.before.iter().for_each(|b| line(b));
            line(&format!("$ {}", step.command));
            if let Some(why) = &step.differs {
                line(&format!("reference differs: {why}"));
            }
            if let Some(why) = &step.wrong {
                line(&format!("rhea differs: {why}"));
            }
            for (mark, stream) in [('|', &step.output.out), ('!', &step.output.err)] {
                for part in stream.split_inclusive('\n') {
                    match part.strip_suffix('\n') {
                        Some("") => line(&mark.to_string()),
                        Some(t) => line(&format!("{mark} {t}")),
                        None => line(&format!("{mark} {part}\\")),
                    }
                }
            }
            if step.output.code != 0 {
                line(&format!("= {}", step.output.code));
            }
        }
        self.after.iter().for_each(|b| line(b));
        if !self.images.is_empty() {
            line(&format!("images: {}", self.images.join(" ")));
        }
        text
    }

    /// Runs all commands in the folder `dir` and answers what differs from what must be.
    pub fn run(&self, dir: &Path, tools: &Tools) -> Vec<String> {
        let mut wrong = Vec::new();
        for step in &self.steps {
            let got = tools.run(dir, &step.command);
            let line = step.line;
            let (command, want) = (&step.command, &step.output);
            if tools.is_reference() && step.differs.is_some() {
                continue;
            }
            if !tools.is_reference() && step.wrong.is_some() {
                if got == *want {
                    wrong.push(format!(
                        "line {line}: $ {command}\n  it differs no more: take the line away\n"
                    ));
                }
                continue;
            }
            if got != *want {
                wrong.push(format!(
                    "line {line}: $ {command}\n  it must print:\n{}  it prints:\n{}",
                    want.shown(),
                    got.shown()
                ));
            }
        }
        tools.sweep(dir);
        wrong
    }

    /// Takes over what the tools print: Rhea's where the reference is said to differ, else the reference's.
    pub fn bless(&mut self, dir: &Path, tools: &Tools) {
        for step in &mut self.steps {
            let got = tools.run(dir, &step.command);
            if step.differs.is_some() != tools.is_reference() {
                step.output = got;
            }
        }
        tools.sweep(dir);
    }
}
