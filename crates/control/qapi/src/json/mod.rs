//! JSON as it is spoken on QMP: RFC 8259, with strings in single quotes accepted as well, names unique in an
//! object, whole numbers of 64 bits exact, and limits on what one message may be.
//!
//! A message goes through three steps: `lex` cuts bytes into tokens, `stream` finds where a message ends by counting
//! brackets, `parse` makes a value of its tokens. A lexical error throws away what there is of the message; the lexer then skips
//! to the next bracket, comma, colon or control character, so that a client that sent rubbish can go on.
//!
//! Two things differ from the reference on purpose: `0e1` is a number, as the RFC says, and a number too large for 64 bits of floating
//! point is an error instead of infinity, which could not be written again.

mod lex;
mod parse;
mod stream;
mod write;

pub use stream::JsonStream;

use crate::{QError, Value};

/// The most bytes that the tokens of one message may have.
pub const MAX_MESSAGE_BYTES: usize = 64 << 20;
/// The most tokens of one message.
pub const MAX_MESSAGE_TOKENS: usize = 2 << 20;
/// How deep lists and objects may be nested.
pub const MAX_NESTING: usize = 1024;

impl Value {
    /// Reads exactly one JSON value.
    pub fn parse_json(text: &str) -> Result<Value, QError> {
        Value::parse_json_bytes(text.as_bytes())
    }

    /// Reads exactly one JSON value from bytes, which need not be valid UTF-8 (an error tells where they are not).
    pub fn parse_json_bytes(text: &[u8]) -> Result<Value, QError> {
        let mut stream = JsonStream::new();
        stream.push(text);
        stream.finish();
        let value = stream.next().unwrap_or_else(|| Err(QError::new("Expecting a JSON value")))?;
        match stream.next() {
            None => Ok(value),
            Some(Ok(_)) => Err(QError::new("Expecting at most one JSON value")),
            Some(Err(e)) => Err(e),
        }
    }

    /// The value as JSON on one line: ASCII only, a space after `:` and `,`.
    pub fn to_json(&self) -> String {
        write::text(self, false, false)
    }

    /// The value as JSON with one member or element a line, indented by four spaces.
    pub fn to_json_pretty(&self) -> String {
        write::text(self, true, false)
    }

    /// The same, on one line or `pretty`, with the members of all objects in the reference's [order](crate::order): so they
    /// stand on QMP.
    pub fn to_json_ranked(&self, pretty: bool) -> String {
        write::text(self, pretty, true)
    }
}

#[cfg(test)]
mod tests;
