//! Tokens to a value.

use std::fmt;

use super::lex::{Kind, Token};
use crate::{Dict, QError, Value};

/// A parse error with the words that stand before each.
pub(super) fn error(what: impl fmt::Display) -> QError {
    QError::new(format!("JSON parse error, {what}"))
}

/// Bytes of a token as they may stand in a message: up to the first NUL, with U+FFFD for what is not UTF-8.
///
/// A sequence that has the form of UTF-8 but stands for no character that is ever exchanged counts as one.
pub(super) fn c_text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
    let mut rest = &bytes[..end];
    let mut out = String::with_capacity(rest.len());
    while let Some(&lead) = rest.first() {
        let form = match lead {
            0xc0..0xe0 => 2,
            0xe0..0xf0 => 3,
            0xf0..0xf8 => 4,
            0xf8..0xfc => 5,
            0xfc..0xfe => 6,
            _ => 1,
        };
        let tail = rest[1..].iter().take(form - 1).take_while(|&&b| b & 0xc0 == 0x80).count();
        let (sequence, after) = rest.split_at(1 + tail);
        let c = std::str::from_utf8(sequence).ok().and_then(|s| s.chars().next());
        out.push(c.filter(|c| !noncharacter(*c as u32)).unwrap_or(char::REPLACEMENT_CHARACTER));
        rest = after;
    }
    out
}

/// The value of the tokens of one message. Nesting is at most [`super::MAX_NESTING`], so recursion is bounded.
pub(super) fn parse(tokens: Vec<Token>) -> Result<Value, QError> {
    Parser { tokens: tokens.into_iter() }.value()
}

struct Parser {
    tokens: std::vec::IntoIter<Token>,
}

impl Parser {
    fn next(&mut self) -> Result<Token, QError> {
        self.tokens.next().ok_or_else(|| error("premature EOI"))
    }

    /// Whether the next token is `p`, which is then taken.
    fn take(&mut self, p: u8) -> Result<bool, QError> {
        match self.tokens.as_slice().first() {
            None => Err(error("premature EOI")),
            Some(t) if t.kind == Kind::Punct(p) => {
                self.tokens.next();
                Ok(true)
            }
            Some(_) => Ok(false),
        }
    }

    fn value(&mut self) -> Result<Value, QError> {
        let token = self.next()?;
        match token.kind {
            Kind::Punct(b'{') => self.object().map(Value::Dict),
            Kind::Punct(b'[') => self.list().map(Value::List),
            Kind::Punct(_) => Err(error("expecting value")),
            Kind::Str => string(&token.text).map(Value::Str),
            Kind::Int | Kind::Float => number(&token),
            Kind::Keyword => match token.text.as_slice() {
                b"null" => Ok(Value::Null),
                b"true" => Ok(Value::Bool(true)),
                b"false" => Ok(Value::Bool(false)),
                other => Err(error(format_args!("invalid keyword '{}'", c_text(other)))),
            },
            // The stream answers these itself.
            Kind::Stray => Err(error("expecting value")),
        }
    }

    fn object(&mut self) -> Result<Dict, QError> {
        let mut dict = Dict::new();
        if self.take(b'}')? {
            return Ok(dict);
        }
        loop {
            let Value::Str(key) = self.value()? else {
                return Err(error("key is not a string in object"));
            };
            if !self.take(b':')? {
                return Err(error("missing : in object pair"));
            }
            let value = self.value()?;
            if dict.contains_key(&key) {
                return Err(error("duplicate key"));
            }
            dict.insert(key, value);
            if self.take(b'}')? {
                return Ok(dict);
            }
            if !self.take(b',')? {
                return Err(error("expected separator in dict"));
            }
        }
    }

    fn list(&mut self) -> Result<Vec<Value>, QError> {
        let mut list = Vec::new();
        if self.take(b']')? {
            return Ok(list);
        }
        loop {
            list.push(self.value()?);
            if self.take(b']')? {
                return Ok(list);
            }
            if !self.take(b',')? {
                return Err(error("expected separator in list"));
            }
        }
    }
}

fn number(token: &Token) -> Result<Value, QError> {
    // The lexer lets only ASCII into numbers.
    let text = c_text(&token.text);
    if token.kind == Kind::Int {
        if let Ok(n) = text.parse() {
            return Ok(Value::Int(n));
        }
        if let Ok(n) = text.parse() {
            return Ok(Value::Uint(n));
        }
    }
    match text.parse::<f64>() {
        Ok(n) if n.is_finite() => Ok(Value::Num(n)),
        _ => Err(error(format_args!("number '{text}' is out of range"))),
    }
}

/// Code points that Unicode sets aside for internal use, which are never exchanged.
fn noncharacter(c: u32) -> bool {
    (0xfdd0..=0xfdef).contains(&c) || c & 0xfffe == 0xfffe
}

/// The string that a token with quotes and escapes stands for.
fn string(token: &[u8]) -> Result<String, QError> {
    let body = &token[1..token.len() - 1];
    let mut out = String::with_capacity(body.len());
    let mut rest = body;
    while let Some(at) = rest.iter().position(|&b| b == b'\\') {
        plain(&rest[..at], &mut out)?;
        // The lexer ends no string behind a lone backslash.
        let escape = rest[at + 1];
        let mut used = 2;
        out.push(match escape {
            b'"' | b'\'' | b'\\' | b'/' => escape as char,
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                // A message shows what follows the backslash, up to the closing quote.
                let shown = &token[1 + (body.len() - rest.len()) + at..];
                let bad = || {
                    let end = shown.len().min(6);
                    error(format_args!("{} is not a valid Unicode character", c_text(&shown[..end])))
                };
                let (c, len) = unicode_escape(&rest[at..]).ok_or_else(bad)?;
                used = len;
                c
            }
            _ => return Err(error("invalid escape sequence in string")),
        });
        rest = &rest[at + used..];
    }
    plain(rest, &mut out)?;
    Ok(out)
}

/// The character of a `\uXXXX`, or of a surrogate pair of them, at the start of `text`, and its length.
fn unicode_escape(text: &[u8]) -> Option<(char, usize)> {
    fn unit(text: &[u8]) -> Option<u32> {
        let digits = text.strip_prefix(b"\\u")?.get(..4)?;
        digits.iter().try_fold(0, |n, &d| Some(n << 4 | (d as char).to_digit(16)?))
    }
    let first = unit(text)?;
    let (code, len) = if (0xd800..0xdc00).contains(&first) {
        let second = unit(&text[6..]).filter(|u| (0xdc00..0xe000).contains(u))?;
        (0x10000 + ((first & 0x3ff) << 10 | second & 0x3ff), 12)
    } else {
        (first, 6)
    };
    if noncharacter(code) { None } else { char::from_u32(code).map(|c| (c, len)) }
}

/// Appends bytes without escapes.
fn plain(bytes: &[u8], out: &mut String) -> Result<(), QError> {
    let bad = || error("invalid UTF-8 sequence in string");
    let text = std::str::from_utf8(bytes).map_err(|_| bad())?;
    if !text.is_ascii() && text.chars().any(|c| noncharacter(c as u32)) {
        return Err(bad());
    }
    out.push_str(text);
    Ok(())
}
