//! The argument of `-T`: what is traced.
//!
//! Trace points have names of their own here. Scripts that switch on others are told that there are none of that name, and go
//! on.

/// What is to be traced.
#[derive(Default)]
pub(crate) struct Traced(trace::Patterns);

impl Traced {
    /// Adds what an argument says: `[enable=]PATTERN[,events=FILE][,file=FILE]`. Answers names that stand for themselves and
    /// that no trace point is known to have.
    ///
    /// # Errors
    /// A file that cannot be read or written, as the program's name and a colon go before it.
    pub(crate) fn add(&mut self, argument: &str) -> Result<Vec<String>, String> {
        let mut unknown = Vec::new();
        for (key, value) in qapi::opts_parse(argument, Some("enable")) {
            match key.as_str() {
                "enable" => {
                    // A trace point is known once it is reached only: names in the form of the reference's are not ours.
                    if !value.contains(['*', '?', ':']) {
                        unknown.push(value.trim_start_matches('-').to_owned());
                    }
                    self.0.push(&value);
                }
                "events" => {
                    let text = std::fs::read_to_string(&value);
                    let text = text.map_err(|e| format!("{value}: {}", base::Errno::from(e)))?;
                    trace::parse_events_file(&text).iter().for_each(|p| self.0.push(p));
                }
                "file" => trace::open_file(&value).map_err(|e| format!(" {e}"))?,
                _ => return Err(format!(" Invalid parameter '{key}'")),
            }
        }
        Ok(unknown)
    }

    /// Traces that from now on.
    pub(crate) fn select(self) {
        if !self.0.is_empty() {
            trace::select(self.0);
        }
    }
}

/// What is said of a name that no trace point has.
pub(crate) fn unknown(name: &str) -> String {
    format!("warning: trace event '{name}' does not exist")
}
