//! Arguments of human monitor commands.
//!
//! A command's parameters are written as help shows them, which is also what they are parsed by:
//! `[-n]` a flag, `device` a word, `[device]` a word that may be missing, `device:B` a word that names a block device,
//! `count:i` an integer, `size:o` a size with a suffix, in MiB without, `state:b` `on` or `off`, `command...` the rest of the
//! line. What stands behind a colon is not shown.

use base::units::{self, SizeError};
use std::collections::{HashMap, HashSet};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Flag(char),
    Word,
    Block,
    Int,
    Size,
    OnOff,
    Rest,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Param {
    name: String,
    kind: Kind,
    optional: bool,
}

/// The parameters in a specification, and the specification as help shows it.
///
/// # Panics
/// On a specification that is not well formed: it is part of the program.
pub(crate) fn parse_spec(spec: &str) -> (Vec<Param>, String) {
    let mut params = Vec::new();
    let mut shown = Vec::new();
    for token in spec.split_whitespace() {
        let (body, optional) = match token.strip_prefix('[') {
            Some(t) => (t.strip_suffix(']').expect("a bracket is closed in its word"), true),
            None => (token, false),
        };
        if let Some(flag) = body.strip_prefix('-') {
            let mut c = flag.chars();
            let letter = c.next().expect("a flag has a letter");
            assert!(c.next().is_none(), "flags have one letter: {spec}");
            params.push(Param { name: letter.to_string(), kind: Kind::Flag(letter), optional: true });
            shown.push(token.to_owned());
            continue;
        }
        let (name, kind) = if let Some(n) = body.strip_suffix("...") {
            (n, Kind::Rest)
        } else if let Some(n) = body.strip_suffix(":i") {
            (n, Kind::Int)
        } else if let Some(n) = body.strip_suffix(":B") {
            (n, Kind::Block)
        } else if let Some(n) = body.strip_suffix(":o") {
            (n, Kind::Size)
        } else if let Some(n) = body.strip_suffix(":b") {
            (n, Kind::OnOff)
        } else {
            (body, Kind::Word)
        };
        params.push(Param { name: name.to_owned(), kind, optional });
        shown.push(if optional { format!("[{name}]") } else { name.to_owned() });
    }
    (params, shown.join(" "))
}

/// The arguments of one call, checked against the command's specification.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HmpArgs {
    flags: HashSet<char>,
    words: HashMap<String, String>,
    ints: HashMap<String, i64>,
}

impl HmpArgs {
    /// Whether flag `-x` was given.
    pub fn flag(&self, x: char) -> bool {
        self.flags.contains(&x)
    }

    /// The word given for parameter `name`.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.words.get(name).map(String::as_str)
    }

    /// The word given for parameter `name`, or an empty one.
    pub fn str(&self, name: &str) -> &str {
        self.get(name).unwrap_or("")
    }

    /// The integer or the size in bytes given for parameter `name`.
    pub fn int(&self, name: &str) -> Option<i64> {
        self.ints.get(name).copied()
    }

    /// The state given for parameter `name`.
    pub fn on_off(&self, name: &str) -> Option<bool> {
        self.get(name).map(|v| v == "on")
    }
}

/// Cuts the next word off `line`: quoted with `"`, where a backslash escapes, or up to white space.
pub(crate) fn next_word(line: &mut &str) -> Result<Option<String>, String> {
    let s = line.trim_start();
    let Some(quoted) = s.strip_prefix('"') else {
        let end = s.find(char::is_whitespace).unwrap_or(s.len());
        let (word, rest) = s.split_at(end);
        *line = rest;
        return Ok((!word.is_empty()).then(|| word.to_owned()));
    };
    let mut out = String::new();
    let mut chars = quoted.char_indices();
    while let Some((i, c)) = chars.next() {
        match c {
            '"' => {
                *line = &quoted[i + 1..];
                return Ok(Some(out));
            }
            '\\' => match chars.next().map(|(_, c)| c) {
                Some('n') => out.push('\n'),
                Some('r') => out.push('\r'),
                Some(c @ ('\\' | '\'' | '"')) => out.push(c),
                Some(c) => return Err(format!("unsupported escape code: '\\{c}'")),
                None => break,
            },
            c => out.push(c),
        }
    }
    *line = "";
    Err(String::from("unterminated string"))
}

fn parse_int(word: &str) -> Result<i64, String> {
    let (neg, digits) = match word.strip_prefix('-') {
        Some(d) => (true, d),
        None => (false, word),
    };
    let value = match digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => digits.parse::<u64>().ok(),
    };
    match value {
        Some(v) if neg => Ok(v.cast_signed().wrapping_neg()),
        Some(v) => Ok(v.cast_signed()),
        None => match digits.chars().find(|c| !c.is_ascii_digit()) {
            Some(c) => Err(format!("invalid char '{c}' in expression")),
            None if digits.is_empty() => Err(String::from("unexpected end of expression")),
            None => Err(format!("integer '{word}' is out of range")),
        },
    }
}

/// A size in bytes that the machine can have.
fn parse_size(name: &str, word: &str) -> Result<i64, String> {
    let behind = || format!("{name}: extraneous characters at the end of line");
    // What is behind a number is not part of it.
    let number = |c: char| c.is_ascii_digit() || c == '.';
    let digits = word.find(|c| !number(c)).unwrap_or(word.len());
    match units::parse_size(word, units::MIB) {
        Ok(v) => i64::try_from(v).map_err(|_| String::from("invalid size")),
        Err(SizeError::Invalid) if digits > 0 && units::parse_size(&word[..digits], units::MIB).is_ok() => {
            Err(behind())
        }
        Err(_) => Err(String::from("invalid size")),
    }
}

/// Parses the rest of a command line; `name` is the command's for messages.
pub(crate) fn parse(name: &str, params: &[Param], line: &str) -> Result<HmpArgs, String> {
    let mut args = HmpArgs::default();
    let mut rest = line;
    let known: Vec<char> = params
        .iter()
        .filter_map(|p| match p.kind {
            Kind::Flag(c) => Some(c),
            _ => None,
        })
        .collect();
    // Flags come first; without any, a word may start with a dash.
    while !known.is_empty() && rest.trim_start().starts_with('-') {
        let Some(word) = next_word(&mut rest)? else { break };
        for c in word.chars().skip(1) {
            if !known.contains(&c) {
                return Err(format!("{name}: unsupported option -{c}"));
            }
            args.flags.insert(c);
        }
        if word == "-" {
            return Err(format!("{name}: unsupported option -"));
        }
    }
    for p in params {
        let word = match p.kind {
            Kind::Flag(_) => continue,
            Kind::Rest => {
                let text = rest.trim().to_owned();
                rest = "";
                (!text.is_empty()).then_some(text)
            }
            _ => next_word(&mut rest)?,
        };
        match (word, p.kind) {
            (None, _) if p.optional => {}
            (None, Kind::Int) => return Err(String::from("unexpected end of expression")),
            (None, Kind::Size) => return Err(String::from("invalid size")),
            (None, Kind::Block) => return Err(format!("{name}: block device name expected")),
            (None, Kind::OnOff) => return Err(String::from("Expected 'on' or 'off'")),
            (None, _) => return Err(format!("{name}: string expected")),
            (Some(w), Kind::Int) => {
                args.ints.insert(p.name.clone(), parse_int(&w)?);
            }
            (Some(w), Kind::Size) => {
                args.ints.insert(p.name.clone(), parse_size(name, &w)?);
            }
            (Some(w), Kind::OnOff) if w != "on" && w != "off" => {
                return Err(String::from("Expected 'on' or 'off'"));
            }
            (Some(w), _) => {
                args.words.insert(p.name.clone(), w);
            }
        }
    }
    if rest.trim().is_empty() {
        Ok(args)
    } else {
        Err(format!("{name}: extraneous characters at the end of line"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn go(spec: &str, line: &str) -> Result<HmpArgs, String> {
        parse("cmd", &parse_spec(spec).0, line)
    }

    #[test]
    fn specifications() {
        let (p, shown) = parse_spec("[-n] device [size:i] state:b rest...");
        assert_eq!(shown, "[-n] device [size] state rest");
        assert_eq!(
            p.iter().map(|p| p.kind).collect::<Vec<_>>(),
            [Kind::Flag('n'), Kind::Word, Kind::Int, Kind::OnOff, Kind::Rest]
        );
    }

    #[test]
    fn arguments() {
        let a = go("[-n] [-v] [device]", " -nv  \"a \\\"b\" ").unwrap();
        assert!(a.flag('n') && a.flag('v') && !a.flag('x'));
        assert_eq!(a.get("device"), Some("a \"b"));
        assert_eq!(go("[-n] [device]", "").unwrap(), HmpArgs::default());
        assert_eq!(go("v:i", "0x10").unwrap().int("v"), Some(16));
        assert_eq!(go("v:i", "-3").unwrap().int("v"), Some(-3));
        for (text, want) in
            [("3", 3 << 20), ("1.5k", 1536), ("2.5m", 2560 << 10), ("512b", 512), ("0x10", 16 << 20)]
        {
            assert_eq!(go("s:o", text).unwrap().int("s"), Some(want), "{text}");
        }
        assert_eq!(go("v:b", "off").unwrap().on_off("v"), Some(false));
        assert_eq!(go("d c...", "x  a b  c ").unwrap().get("c"), Some("a b  c"));
        assert_eq!(go("word", "-x").unwrap().get("word"), Some("-x"));
    }

    #[test]
    fn messages() {
        for (spec, line, want) in [
            ("", "x", "cmd: extraneous characters at the end of line"),
            ("[-n]", "-z", "cmd: unsupported option -z"),
            ("device", "", "cmd: string expected"),
            ("[d]", "\"a b", "unterminated string"),
            ("[d]", "\"a\\q\"", "unsupported escape code: '\\q'"),
            ("n:i", "x", "invalid char 'x' in expression"),
            ("n:i", "", "unexpected end of expression"),
            ("n:i", "99999999999999999999", "integer '99999999999999999999' is out of range"),
            ("d:B", "", "cmd: block device name expected"),
            ("s:o", "", "invalid size"),
            ("s:o", "-5", "invalid size"),
            ("s:o", "9999999999999", "invalid size"),
            ("s:o", "1x", "cmd: extraneous characters at the end of line"),
            ("n:b", "x", "Expected 'on' or 'off'"),
        ] {
            assert_eq!(go(spec, line), Err(want.to_owned()), "{spec} / {line}");
        }
    }
}
