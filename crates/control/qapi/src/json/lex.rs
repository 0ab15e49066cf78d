//! Bytes to tokens, one byte at a time.

/// The kind of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// One of `{ } [ ] : ,`.
    Punct(u8),
    /// A string with its quotes, escapes as they were written.
    Str,
    /// A whole number.
    Int,
    /// A number with a fraction or an exponent.
    Float,
    /// Lower-case letters.
    Keyword,
    /// Bytes that are no token.
    Stray,
}

/// A token and its bytes.
#[derive(Debug)]
pub(super) struct Token {
    pub kind: Kind,
    pub text: Vec<u8>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// Between tokens.
    #[default]
    Start,
    Keyword,
    /// In a string that ends with this quote.
    Str(u8),
    /// After a backslash in it.
    Escape(u8),
    /// After `-`.
    Sign,
    /// After a leading zero, which no digit may follow.
    Zero,
    Digits,
    /// After the point; a digit must follow.
    Point,
    Fraction,
    /// After `e`; a digit or sign must follow.
    Exp,
    /// After the exponent's sign; a digit must follow.
    ExpSign,
    ExpDigits,
    /// After an error.
    Recover,
}

/// What came of a byte.
enum Step {
    /// It belongs to the current token.
    Take(State),
    /// The token ended before it.
    EndBefore(Kind),
    /// The token ends with it.
    EndWith(Kind),
    /// It was skipped.
    Skip(State),
    /// It was not looked at yet; do so in this state.
    Again(State),
}

#[derive(Debug, Default)]
pub(super) struct Lexer {
    state: State,
    text: Vec<u8>,
}

fn punctuation(b: u8) -> bool {
    matches!(b, b'{' | b'}' | b'[' | b']' | b':' | b',')
}

impl Lexer {
    fn step(&self, b: u8) -> Step {
        use State::*;
        use Step::*;
        let stray = EndWith(Kind::Stray);
        match (self.state, b) {
            (Start, b' ' | b'\t' | b'\r' | b'\n') => Skip(Start),
            (Start, b'"' | b'\'') => Take(Str(b)),
            (Start, b'-') => Take(Sign),
            (Start, b'0') => Take(Zero),
            (Start, b'1'..=b'9') => Take(Digits),
            (Start, b'a'..=b'z') => Take(Keyword),
            (Start, _) if punctuation(b) => EndWith(Kind::Punct(b)),
            (Start, _) => stray,
            (Keyword, b'a'..=b'z') => Take(Keyword),
            (Keyword, _) => EndBefore(Kind::Keyword),
            (Str(quote), b'\\') => Take(Escape(quote)),
            (Str(quote), _) if b == quote => EndWith(Kind::Str),
            (Str(quote) | Escape(quote), 0x20..=0xfd) => Take(Str(quote)),
            (Str(_) | Escape(_), _) => stray,
            (Sign, b'0') => Take(Zero),
            (Sign, b'1'..=b'9') => Take(Digits),
            (Sign, _) => stray,
            (Zero, b'0'..=b'9') => stray,
            (Digits, b'0'..=b'9') => Take(Digits),
            (Zero | Digits, b'.') => Take(Point),
            (Zero | Digits | Fraction, b'e' | b'E') => Take(Exp),
            (Zero | Digits, _) => EndBefore(Kind::Int),
            (Point | Fraction, b'0'..=b'9') => Take(Fraction),
            (Exp, b'+' | b'-') => Take(ExpSign),
            (Exp | ExpSign | ExpDigits, b'0'..=b'9') => Take(ExpDigits),
            (Point | Exp | ExpSign, _) => stray,
            (Fraction | ExpDigits, _) => EndBefore(Kind::Float),
            (Recover, _) if punctuation(b) => Again(Start),
            (Recover, b'\t' | 0x20..=0xfd) => Skip(Recover),
            (Recover, _) => Again(Start),
        }
    }

    fn end(&mut self, kind: Kind) -> Token {
        self.state = if kind == Kind::Stray { State::Recover } else { State::Start };
        Token { kind, text: std::mem::take(&mut self.text) }
    }

    /// Takes one byte; hands every token that it completes (at most two) to `out`.
    pub(super) fn push(&mut self, b: u8, mut out: impl FnMut(Token)) {
        loop {
            match self.step(b) {
                Step::Take(next) => {
                    self.text.push(b);
                    self.state = next;
                    return;
                }
                Step::EndWith(kind) => {
                    self.text.push(b);
                    let token = self.end(kind);
                    out(token);
                    return;
                }
                Step::EndBefore(kind) => {
                    let token = self.end(kind);
                    out(token);
                }
                Step::Skip(next) => {
                    self.state = next;
                    return;
                }
                Step::Again(next) => self.state = next,
            }
        }
    }

    /// The input ended: the token that was begun, if one was.
    pub(super) fn finish(&mut self) -> Option<Token> {
        let kind = match self.state {
            State::Start | State::Recover => {
                self.state = State::Start;
                return None;
            }
            State::Keyword => Kind::Keyword,
            State::Zero | State::Digits => Kind::Int,
            State::Fraction | State::ExpDigits => Kind::Float,
            _ => Kind::Stray,
        };
        let token = self.end(kind);
        self.state = State::Start;
        Some(token)
    }

    /// Bytes of the token begun.
    pub(super) fn pending(&self) -> usize {
        self.text.len()
    }

    /// Forgets the token begun and skips what follows it.
    pub(super) fn abandon(&mut self) {
        self.text = Vec::new();
        self.state = State::Recover;
    }
}
