//! Where a message ends, and what comes after an error.

use std::collections::VecDeque;

use super::lex::{Kind, Lexer, Token};
use super::{MAX_MESSAGE_BYTES, MAX_MESSAGE_TOKENS, MAX_NESTING, parse};
use crate::{QError, Value};

/// Reads JSON values from a stream of bytes that come in pieces.
///
/// Rubbish gives an error and is skipped; reading goes on behind it.
#[derive(Debug, Default)]
pub struct JsonStream {
    lexer: Lexer,
    message: Message,
    ready: VecDeque<Result<Value, QError>>,
}

/// The tokens of a message that is not complete.
#[derive(Debug, Default)]
struct Message {
    tokens: Vec<Token>,
    bytes: usize,
    braces: isize,
    brackets: isize,
}

impl Message {
    fn take(&mut self) -> Vec<Token> {
        std::mem::take(self).tokens
    }

    /// Adds a token; returns what became of the message when it ended.
    fn push(&mut self, token: Token) -> Option<Result<Value, QError>> {
        match token.kind {
            Kind::Stray => {
                self.take();
                return Some(Err(parse::error(format_args!("stray '{}'", parse::c_text(&token.text)))));
            }
            Kind::Punct(b'{') => self.braces += 1,
            Kind::Punct(b'}') => self.braces -= 1,
            Kind::Punct(b'[') => self.brackets += 1,
            Kind::Punct(b']') => self.brackets -= 1,
            _ => {}
        }
        let exceeded = if self.bytes + token.text.len() > MAX_MESSAGE_BYTES {
            "JSON token size limit exceeded"
        } else if self.tokens.len() >= MAX_MESSAGE_TOKENS {
            "JSON token count limit exceeded"
        } else if self.braces + self.brackets > MAX_NESTING as isize {
            "JSON nesting depth limit exceeded"
        } else {
            ""
        };
        if !exceeded.is_empty() {
            self.take();
            return Some(Err(QError::new(exceeded)));
        }
        self.bytes += token.text.len();
        self.tokens.push(token);
        let open = (self.braces > 0 || self.brackets > 0) && self.braces >= 0 && self.brackets >= 0;
        if open { None } else { Some(parse::parse(self.take())) }
    }
}

impl JsonStream {
    /// A stream of which nothing was read yet.
    pub fn new() -> JsonStream {
        JsonStream::default()
    }

    /// Takes the next bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        let JsonStream { lexer, message, ready } = self;
        for &b in bytes {
            lexer.push(b, |token| ready.extend(message.push(token)));
            if lexer.pending() > MAX_MESSAGE_BYTES {
                lexer.abandon();
                message.take();
                ready.push_back(Err(QError::new("JSON token size limit exceeded")));
            }
        }
    }

    /// The input ended: what is left of it is a value, or an error.
    pub fn finish(&mut self) {
        if let Some(token) = self.lexer.finish() {
            self.ready.extend(self.message.push(token));
        }
        if !self.message.tokens.is_empty() {
            self.ready.push_back(parse::parse(self.message.take()));
        }
    }

    /// Whether a message has been begun but not completed.
    pub fn is_partial(&self) -> bool {
        self.lexer.pending() > 0 || !self.message.tokens.is_empty()
    }
}

/// Takes the next value or error that is complete; `None` when more bytes are needed.
impl Iterator for JsonStream {
    type Item = Result<Value, QError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.ready.pop_front()
    }
}
