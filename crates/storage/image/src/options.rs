//! Options of new images as `-o` writes them.

use base::units::parse_size;
use block::create::{CreateOption, OptionType};
use qapi::{QError, qerr};

/// Names and values of options, checked against a format's table, each once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options(Vec<(&'static str, String)>);

impl Options {
    /// The value of an option.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|v| v.0 == name).map(|v| v.1.as_str())
    }

    /// The value of an option that is a number or a size.
    pub fn number(&self, name: &str) -> Option<u64> {
        self.get(name)?.parse().ok()
    }

    /// Sets an option; the text is what is printed.
    pub fn set(&mut self, name: &'static str, value: impl Into<String>) {
        self.0.retain(|e| e.0 != name);
        self.0.push((name, value.into()));
    }

    /// Takes an option away.
    pub fn unset(&mut self, name: &str) {
        self.0.retain(|e| e.0 != name);
    }

    /// Their names.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.0.iter().map(|v| v.0)
    }

    /// Names and values.
    pub fn pairs(&self) -> Vec<(&str, &str)> {
        self.0.iter().map(|(n, v)| (*n, v.as_str())).collect()
    }

    /// Sets the options that texts of the form `A=B,C=D` give.
    ///
    /// # Errors
    /// An unknown name; a value that does not fit.
    pub fn parse(&mut self, table: &[CreateOption], texts: &[String]) -> Result<(), QError> {
        for o in texts.iter().flat_map(|o| split(o)) {
            let (name, text) = o.split_once('=').unwrap_or((&o, "on"));
            let spec = table.iter().find(|s| s.name == name);
            let spec = spec.ok_or_else(|| qerr!("Invalid parameter '{name}'"))?;
            self.set(spec.name, checked(spec, text)?);
        }
        Ok(())
    }

    /// Sets defaults where nothing is given.
    pub fn defaults(&mut self, table: &[CreateOption]) {
        for o in table {
            if let Some(d) = o.default
                && self.get(o.name).is_none()
            {
                self.set(o.name, d);
            }
        }
    }

    /// ` A=B C=D`, in the order of a table.
    pub fn line(&self, table: &[CreateOption]) -> String {
        let shown = table.iter().filter_map(|o| Some(format!(" {}={}", o.name, self.get(o.name)?)));
        shown.collect()
    }
}

/// Splits at commas; a doubled comma is one of the text.
pub fn split(text: &str) -> Vec<String> {
    let mut out = vec![String::new()];
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match (c, out.last_mut()) {
            (',', Some(last)) if chars.peek() == Some(&',') => {
                chars.next();
                last.push(',');
            }
            (',', _) => out.push(String::new()),
            (c, Some(last)) => last.push(c),
            (_, None) => {}
        }
    }
    out.retain(|s| !s.is_empty());
    out
}

/// A value as it is kept and printed: sizes in bytes, switches as `on` or `off`.
///
/// # Errors
/// It does not fit the option.
pub fn checked(o: &CreateOption, v: &str) -> Result<String, QError> {
    const SUFFIXES: &str = "Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-\nand exabytes, respectively.";
    Ok(match o.ty {
        OptionType::Str => v.to_string(),
        OptionType::Size => parse_size(v, 1)
            .map_err(|_| {
                qerr!("Parameter '{}' expects a non-negative number below 2^64", o.name).with_hint(SUFFIXES)
            })?
            .to_string(),
        OptionType::Bool => match v {
            "on" | "yes" | "true" | "y" => "on".to_string(),
            "off" | "no" | "false" | "n" => "off".to_string(),
            _ => return Err(qerr!("Parameter '{}' expects 'on' or 'off'", o.name)),
        },
        OptionType::Num => {
            v.parse::<u64>().map_err(|_| qerr!("Parameter '{}' expects a number", o.name))?.to_string()
        }
    })
}

/// Its line in a list of options.
pub fn help_line(o: &CreateOption) -> String {
    format!("  {:<22} - {}\n", format!("{}=<{}>", o.name, o.ty.text()), o.help)
}

/// Whether the options ask for the list of options.
pub fn wants_help(texts: &[String]) -> bool {
    texts.iter().flat_map(|o| split(o)).any(|o| o == "help" || o == "?")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn option_lists_split_at_single_commas() {
        assert_eq!(split("a=b,c=d,,e,"), ["a=b", "c=d,e"]);
        assert_eq!(split(""), Vec::<String>::new());
    }
}
