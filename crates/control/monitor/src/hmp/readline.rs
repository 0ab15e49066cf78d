//! A line editor for a terminal at the other end of a byte stream. Pure: bytes in, text out.

const HISTORY: usize = 64;
const MAX_LINE: usize = 4095;

/// What a byte led to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Key {
    /// Nothing but a changed display.
    None,
    /// The line is complete.
    Line(String),
    /// Candidates for the text up to the cursor are wanted.
    Complete(String),
    /// End of input on an empty line.
    End,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Escape {
    No,
    Esc,
    Csi(u16),
    Ss3,
}

/// The editor's state: the line being edited and those before it.
pub(crate) struct Editor {
    prompt: &'static str,
    line: Vec<char>,
    cursor: usize,
    history: Vec<String>,
    /// Where in the history the line comes from; `history.len()` is the line being typed.
    at: usize,
    typed: Vec<char>,
    escape: Escape,
    after_cr: bool,
    utf8: Vec<u8>,
}

impl Editor {
    pub(crate) fn new(prompt: &'static str) -> Editor {
        Editor {
            prompt,
            line: Vec::new(),
            cursor: 0,
            history: Vec::new(),
            at: 0,
            typed: Vec::new(),
            escape: Escape::No,
            after_cr: false,
            utf8: Vec::new(),
        }
    }

    /// Begins a new line: what to show.
    pub(crate) fn start(&mut self) -> String {
        self.line.clear();
        self.cursor = 0;
        self.at = self.history.len();
        self.prompt.to_owned()
    }

    /// Shows the line anew, on a fresh terminal line.
    pub(crate) fn redraw(&self) -> String {
        let mut s = format!("\r\x1b[K{}", self.prompt);
        s.extend(&self.line);
        if self.cursor < self.line.len() {
            s.push_str(&format!("\x1b[{}D", self.line.len() - self.cursor));
        }
        s
    }

    fn set(&mut self, line: Vec<char>) {
        self.cursor = line.len();
        self.line = line;
    }

    fn recall(&mut self, at: usize) {
        if self.at == self.history.len() {
            self.typed = self.line.clone();
        }
        self.at = at;
        let line = match self.history.get(at) {
            Some(h) => h.chars().collect(),
            None => std::mem::take(&mut self.typed),
        };
        self.set(line);
    }

    fn word_start(&self) -> usize {
        let mut i = self.cursor;
        while i > 0 && self.line[i - 1] == ' ' {
            i -= 1;
        }
        while i > 0 && self.line[i - 1] != ' ' {
            i -= 1;
        }
        i
    }

    /// Inserts `text` at the cursor: what to show.
    pub(crate) fn insert(&mut self, text: &str) -> String {
        let mut shown = String::new();
        let at_end = self.cursor == self.line.len();
        for c in text.chars().filter(|c| !c.is_control()) {
            if self.line.len() >= MAX_LINE {
                break;
            }
            self.line.insert(self.cursor, c);
            self.cursor += 1;
            shown.push(c);
        }
        if at_end { shown } else { self.redraw() }
    }

    /// Takes a byte from the terminal; adds what to show to `out`.
    pub(crate) fn feed(&mut self, byte: u8, out: &mut String) -> Key {
        let after_cr = std::mem::take(&mut self.after_cr);
        match self.escape {
            Escape::No => {}
            Escape::Esc => {
                self.escape = match byte {
                    b'[' => Escape::Csi(0),
                    b'O' => Escape::Ss3,
                    _ => Escape::No,
                };
                return Key::None;
            }
            Escape::Csi(n) => {
                if byte.is_ascii_digit() {
                    let n = n.saturating_mul(10).saturating_add((byte - b'0').into());
                    self.escape = Escape::Csi(n);
                    return Key::None;
                }
                self.escape = Escape::No;
                let control = match (byte, n) {
                    (b'A', _) => 0x10,
                    (b'B', _) => 0x0e,
                    (b'C', _) => 0x06,
                    (b'D', _) => 0x02,
                    (b'H', _) | (b'~', 1) => 0x01,
                    (b'F', _) | (b'~', 4) => 0x05,
                    (b'~', 3) if self.cursor < self.line.len() => 0x04,
                    _ => return Key::None,
                };
                return self.control(control, out);
            }
            Escape::Ss3 => {
                self.escape = Escape::No;
                return match byte {
                    b'H' => self.control(0x01, out),
                    b'F' => self.control(0x05, out),
                    _ => Key::None,
                };
            }
        }
        match byte {
            b'\n' if after_cr => Key::None,
            0x1b => {
                self.escape = Escape::Esc;
                Key::None
            }
            0..=0x1f | 0x7f => {
                self.after_cr = byte == b'\r';
                self.control(byte, out)
            }
            0x20..=0x7e => {
                self.utf8.clear();
                let text = [byte];
                out.push_str(&self.insert(std::str::from_utf8(&text).unwrap_or("")));
                Key::None
            }
            _ => {
                self.utf8.push(byte);
                match std::str::from_utf8(&self.utf8) {
                    Ok(s) => {
                        let s = s.to_owned();
                        self.utf8.clear();
                        out.push_str(&self.insert(&s));
                    }
                    Err(e) if e.error_len().is_some() || self.utf8.len() >= 4 => self.utf8.clear(),
                    Err(_) => {}
                }
                Key::None
            }
        }
    }

    fn control(&mut self, byte: u8, out: &mut String) -> Key {
        match byte {
            b'\r' | b'\n' => {
                out.push_str("\r\n");
                let line: String = std::mem::take(&mut self.line).into_iter().collect();
                self.cursor = 0;
                if !line.trim().is_empty() && self.history.last() != Some(&line) {
                    if self.history.len() == HISTORY {
                        self.history.remove(0);
                    }
                    self.history.push(line.clone());
                }
                self.at = self.history.len();
                return Key::Line(line);
            }
            b'\t' => return Key::Complete(self.line[..self.cursor].iter().collect()),
            0x01 => self.cursor = 0,
            0x02 => self.cursor = self.cursor.saturating_sub(1),
            0x03 | 0x15 => self.set(Vec::new()),
            0x04 if self.line.is_empty() => return Key::End,
            0x04 if self.cursor < self.line.len() => {
                self.line.remove(self.cursor);
            }
            0x05 => self.cursor = self.line.len(),
            0x06 => self.cursor = (self.cursor + 1).min(self.line.len()),
            0x08 | 0x7f if self.cursor > 0 => {
                self.cursor -= 1;
                self.line.remove(self.cursor);
            }
            0x0b => self.line.truncate(self.cursor),
            0x0e if self.at < self.history.len() => self.recall(self.at + 1),
            0x10 if self.at > 0 => self.recall(self.at - 1),
            0x17 => {
                let start = self.word_start();
                self.line.drain(start..self.cursor);
                self.cursor = start;
            }
            0x0c => {}
            _ => return Key::None,
        }
        out.push_str(&self.redraw());
        Key::None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(input: &[u8]) -> (Vec<String>, String) {
        let mut e = Editor::new("> ");
        let mut out = e.start();
        let mut lines = Vec::new();
        for b in input {
            if let Key::Line(l) = e.feed(*b, &mut out) {
                lines.push(l);
                out.push_str(&e.start());
            }
        }
        (lines, out)
    }

    #[test]
    fn typing_is_echoed() {
        let (l, out) = lines(b"stop\r\ncont\n");
        assert_eq!(l, ["stop", "cont"]);
        assert_eq!(out, "> stop\r\n> cont\r\n> ");
    }

    #[test]
    fn editing() {
        for (input, want) in [
            (&b"fooo\x7f\x7fbar\r"[..], "fobar"),
            (b"bc\x01a\x05d\r", "abcd"),
            (b"abc\x02\x02\x0b\r", "a"),
            (b"one two\x17\x17x\r", "x"),
            (b"abc\x1b[D\x1b[3~\r", "ab"),
            (b"abc\x1b[H\x04\r", "bc"),
            (b"junk\x15ok\r", "ok"),
            (b"a\x1b[99999999zb\x1bOFc\r", "abc"),
            ("ü\x7fé\r".as_bytes(), "é"),
            (b"a\xff\xfeb\r", "ab"),
        ] {
            assert_eq!(lines(input).0, [want], "{input:?}");
        }
    }

    #[test]
    fn history() {
        let (l, _) = lines(b"one\rtwo\rtwo\r\x10\x10\r\x10\x10\x10\x0e\rnew\x10\x0e!\r");
        assert_eq!(l, ["one", "two", "two", "one", "two", "new!"]);
    }

    #[test]
    fn a_line_is_bounded() {
        let mut input = vec![b'x'; 10_000];
        input.push(b'\r');
        assert_eq!(lines(&input).0[0].len(), MAX_LINE);
    }

    #[test]
    fn end_and_completion() {
        let mut e = Editor::new("");
        let mut out = String::new();
        assert_eq!(e.feed(4, &mut out), Key::End);
        e.feed(b'a', &mut out);
        assert_eq!(e.feed(4, &mut out), Key::None);
        assert_eq!(e.feed(9, &mut out), Key::Complete("a".into()));
    }
}
