//! Options of new images as `-o` writes them.

use base::units::{SizeError, parse_size};
use block::create::{CreateOption, OptionType};
use qapi::{QError, qerr};

/// Names and values of options, checked against a format's table, each once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options(Vec<Given>);

/// An option with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Given {
    name: &'static str,
    value: String,
    /// How the user wrote a switch, which is printed so.
    written: Option<String>,
}

impl Options {
    /// The value of an option.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|o| o.name == name).map(|o| o.value.as_str())
    }

    /// The value of an option that is a number or a size.
    pub fn number(&self, name: &str) -> Option<u64> {
        self.get(name)?.parse().ok()
    }

    /// Sets an option; the text is what is printed.
    pub fn set(&mut self, name: &'static str, value: impl Into<String>) {
        self.unset(name);
        self.0.push(Given { name, value: value.into(), written: None });
    }

    /// Takes an option away.
    pub fn unset(&mut self, name: &str) {
        self.0.retain(|o| o.name != name);
    }

    /// Their names.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.0.iter().map(|o| o.name)
    }

    /// Names and values.
    pub fn pairs(&self) -> Vec<(&str, &str)> {
        self.0.iter().map(|o| (o.name, o.value.as_str())).collect()
    }

    /// Sets the options that texts of the form `A=B,C=D` give.
    ///
    /// # Errors
    /// An unknown name; a value that does not fit.
    pub fn parse(&mut self, table: &[CreateOption], texts: &[String]) -> Result<(), QError> {
        for o in texts.iter().flat_map(|o| split(o)) {
            let (name, text) = pair(&o);
            let spec = table.iter().find(|s| s.name == name);
            let spec = spec.ok_or_else(|| qerr!("Invalid parameter '{name}'"))?;
            let value = checked(spec, text)?;
            let written = (spec.ty == OptionType::Bool).then(|| text.to_owned());
            self.unset(spec.name);
            self.0.push(Given { name: spec.name, value, written });
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

    /// ` A=B C=D`, in the order of a table. Scripts may take it for a list of options: a comma is doubled.
    pub fn line(&self, table: &[CreateOption]) -> String {
        let shown = table.iter().filter_map(|o| {
            let given = self.0.iter().find(|g| g.name == o.name)?;
            let value = given.written.as_ref().unwrap_or(&given.value);
            // Scripts know numbers as those with a sign.
            let value = match (o.ty, value.parse::<u64>()) {
                (OptionType::Num | OptionType::Size, Ok(n)) => n.cast_signed().to_string(),
                _ => value.replace(',', ",,"),
            };
            Some(format!(" {}={value}", o.name))
        });
        shown.collect()
    }
}

/// The name and value of `A=B`; a name alone is a switch that is on, or off with `no` before it.
pub fn pair(text: &str) -> (&str, &str) {
    match (text.split_once('='), text.strip_prefix("no")) {
        (Some(pair), _) => pair,
        (None, Some(name)) => (name, "off"),
        (None, None) => (text, "on"),
    }
}

/// Whether a text is a list of options: there is something in it, and no comma at its ends that parts nothing.
pub fn is_list(text: &str) -> bool {
    let last = text.len() - text.trim_end_matches(',').len();
    !text.is_empty() && !text.starts_with(',') && last.is_multiple_of(2)
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

/// A size in bytes; one below zero, without a suffix, is a number, but none that there is.
///
/// # Errors
/// It is no number, or none that there is.
pub fn size(text: &str) -> Result<u64, SizeError> {
    match (parse_size(text, 1), text.trim_start().strip_prefix('-')) {
        (Err(SizeError::Invalid), Some(t)) if !t.is_empty() && t.bytes().all(|b| b.is_ascii_digit()) => {
            Err(SizeError::OutOfRange)
        }
        (done, _) => done,
    }
}

/// The amount of a whole number in C's notation (decimal, `0x…`, `0…`), and whether it is below zero.
///
/// # Errors
/// It is no number, or its amount does not fit 64 bits.
pub(crate) fn integer(text: &str) -> Result<(bool, u64), SizeError> {
    let t = text.trim_start();
    let (negative, t) = match t.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, t.strip_prefix('+').unwrap_or(t)),
    };
    let (digits, radix) = match t.strip_prefix("0x").or_else(|| t.strip_prefix("0X")) {
        Some(hex) => (hex, 16),
        None if t.len() > 1 && t.starts_with('0') => (&t[1..], 8),
        None => (t, 10),
    };
    if digits.is_empty() || !digits.chars().all(|c| c.is_digit(radix)) {
        return Err(SizeError::Invalid);
    }
    let amount = u64::from_str_radix(digits, radix).map_err(|_| SizeError::OutOfRange)?;
    Ok((negative, amount))
}

/// A number of an option; one below zero counts down from 2^64.
fn number(text: &str) -> Result<u64, SizeError> {
    integer(text).map(|(negative, n)| if negative { n.wrapping_neg() } else { n })
}

/// A value as it is kept and printed: sizes in bytes, switches as `on` or `off`.
///
/// # Errors
/// It does not fit the option.
pub fn checked(o: &CreateOption, v: &str) -> Result<String, QError> {
    const SUFFIXES: &str = "Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-\nand exabytes, respectively.";
    Ok(match o.ty {
        OptionType::Str => v.to_string(),
        OptionType::Size => match size(v) {
            Ok(n) => n.to_string(),
            Err(SizeError::OutOfRange) => {
                return Err(qerr!("Value '{v}' is out of range for parameter '{}'", o.name));
            }
            Err(SizeError::Invalid) => {
                let e = qerr!("Parameter '{}' expects a non-negative number below 2^64", o.name);
                return Err(e.with_hint(SUFFIXES));
            }
        },
        OptionType::Bool => match v {
            "on" | "yes" | "true" | "y" => "on".to_string(),
            "off" | "no" | "false" | "n" => "off".to_string(),
            _ => return Err(qerr!("Parameter '{}' expects 'on' or 'off'", o.name)),
        },
        OptionType::Num => match number(v) {
            Ok(n) => n.to_string(),
            Err(SizeError::OutOfRange) => {
                return Err(qerr!("Value '{v}' is too large for parameter '{}'", o.name));
            }
            Err(SizeError::Invalid) => return Err(qerr!("Parameter '{}' expects a number", o.name)),
        },
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
        for (text, is) in
            [("a", true), ("a,,", true), ("a,", false), ("a,,,", false), (",a", false), ("", false)]
        {
            assert_eq!(is_list(text), is, "{text}");
        }
    }

    #[test]
    fn switches_are_on_or_off() {
        let pairs = ["a=b=c", "lazy", "nolazy", "nocow", "no", "no=1"].map(pair);
        let want = [("a", "b=c"), ("lazy", "on"), ("lazy", "off"), ("cow", "off"), ("", "off"), ("no", "1")];
        assert_eq!(pairs, want);
    }

    #[test]
    fn numbers_are_those_of_c() {
        let found = ["16", "0x10", "020", "+16", "-1", "0"].map(|t| number(t).unwrap());
        assert_eq!(found, [16, 16, 16, 16, u64::MAX, 0]);
        assert_eq!(number("99999999999999999999"), Err(SizeError::OutOfRange));
        for bad in ["", "-", "1x", "8G", "0x", "08", "1.5", "+-1"] {
            assert_eq!(number(bad), Err(SizeError::Invalid), "{bad}");
        }
        assert_eq!(size("-1024"), Err(SizeError::OutOfRange));
        assert_eq!(size("-1k"), Err(SizeError::Invalid));
        assert_eq!(size("16E"), Err(SizeError::OutOfRange));
        assert_eq!(size("-x"), Err(SizeError::Invalid));
        assert_eq!(size("1k"), Ok(1024));
    }

    #[test]
    fn a_line_can_be_read_again() {
        let table =
            [CreateOption::new("a", OptionType::Str, ""), CreateOption::new("n", OptionType::Num, "")];
        let mut o = Options::default();
        o.parse(&table, &["a=x,,y,n=-2".into()]).unwrap();
        assert_eq!(o.line(&table), " a=x,,y n=-2");
        assert_eq!(o.number("n"), Some(u64::MAX - 1));
    }

    #[test]
    fn switches_are_printed_as_they_were_written() {
        let table = [CreateOption::new("s", OptionType::Bool, "")];
        let mut o = Options::default();
        o.parse(&table, &["s=yes".into()]).unwrap();
        assert_eq!((o.get("s"), o.line(&table).as_str()), (Some("on"), " s=yes"));
        o.parse(&table, &["s=no,nos".into()]).unwrap();
        assert_eq!((o.pairs(), o.line(&table).as_str()), (vec![("s", "off")], " s=off"));
        o.parse(&table, &["s=true".into()]).unwrap();
        o.set("s", "off");
        assert_eq!(o.line(&table), " s=off");
        o.unset("s");
        assert_eq!((o.line(&table), o.names().count()), (String::new(), 0));
    }
}
