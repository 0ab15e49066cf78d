//! A value to text.

use std::fmt::Write as _;

use crate::Value;
use crate::order::by_rank;

/// `pretty`: a member or element a line; `ranked`: members in the reference's order.
pub(super) fn text(value: &Value, pretty: bool, ranked: bool) -> String {
    let mut w = Writer { out: String::new(), pretty, ranked, depth: 0 };
    w.value(value);
    w.out
}

struct Writer {
    out: String,
    pretty: bool,
    ranked: bool,
    depth: usize,
}

impl Writer {
    fn value(&mut self, value: &Value) {
        // Writing to a String cannot fail, so the results of write! are dropped.
        match value {
            Value::Null => self.out.push_str("null"),
            Value::Bool(b) => self.out.push_str(if *b { "true" } else { "false" }),
            Value::Int(n) => drop(write!(self.out, "{n}")),
            Value::Uint(n) => drop(write!(self.out, "{n}")),
            Value::Num(n) => self.out.push_str(&number(*n)),
            Value::Str(s) => self.string(s),
            Value::List(l) => self.sequence('[', ']', l.iter(), |w, v| w.value(v)),
            Value::Dict(d) if self.ranked && d.len() > 1 => {
                self.sequence('{', '}', by_rank(d).into_iter(), Writer::member);
            }
            Value::Dict(d) => self.sequence('{', '}', d.iter(), Writer::member),
        }
    }

    fn member(&mut self, (key, value): (&str, &Value)) {
        self.string(key);
        self.out.push_str(": ");
        self.value(value);
    }

    fn sequence<T>(
        &mut self,
        open: char,
        close: char,
        items: impl Iterator<Item = T>,
        mut item: impl FnMut(&mut Self, T),
    ) {
        self.out.push(open);
        self.depth += 1;
        for (i, v) in items.enumerate() {
            if i > 0 {
                self.out.push_str(if self.pretty { "," } else { ", " });
            }
            self.new_line();
            item(self, v);
        }
        self.depth -= 1;
        self.new_line();
        self.out.push(close);
    }

    fn new_line(&mut self) {
        if self.pretty {
            self.out.push('\n');
            self.out.extend(std::iter::repeat_n("    ", self.depth));
        }
    }

    fn string(&mut self, s: &str) {
        self.out.push('"');
        // Mostly nothing is to be escaped, and what stands as it is goes in one piece.
        let plain = |b: &u8| matches!(b, b' '..=b'~') && *b != b'"' && *b != b'\\';
        let n = s.as_bytes().iter().position(|b| !plain(b)).unwrap_or(s.len());
        self.out.push_str(&s[..n]);
        for c in s[n..].chars() {
            match c {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\u{8}' => self.out.push_str("\\b"),
                '\u{c}' => self.out.push_str("\\f"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                ' '..='~' => self.out.push(c),
                _ => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        let _ = write!(self.out, "\\u{unit:04X}");
                    }
                }
            }
        }
        self.out.push('"');
    }
}

/// A number with 17 significant digits, enough to read the same one back, in the shorter of the usual and the
/// exponential notation and without trailing zeroes (C's `%.17g`).
fn number(n: f64) -> String {
    const DIGITS: i32 = 17;
    if !n.is_finite() {
        // JSON has no such number, and none is made from input; an internal one must not break a client.
        return "null".to_owned();
    }
    let text = format!("{n:.*e}", DIGITS as usize - 1);
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let trim = |s: &str| {
        if s.contains('.') { s.trim_end_matches('0').trim_end_matches('.').to_owned() } else { s.to_owned() }
    };
    if (-4..DIGITS).contains(&exponent) {
        trim(&format!("{n:.*}", (DIGITS - 1 - exponent) as usize))
    } else {
        let sign = if exponent < 0 { '-' } else { '+' };
        format!("{}e{sign}{:02}", trim(mantissa), exponent.abs())
    }
}
