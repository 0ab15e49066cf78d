//! Where the tool's text goes, and its longer forms: reports of requests, and dumps.

use super::number::shown;
use std::cell::RefCell;
use std::io::Write;
use std::rc::Rc;
use std::time::Duration;

/// How much is kept back where nobody looks.
const KEPT: usize = 4096;

/// What a program prints. Text for a person appears line by line; other text is kept back and written in blocks, at a prompt
/// and at the end: scripts that put both streams into one file rely on that order.
pub(super) struct Text {
    out: RefCell<Stream>,
    err: RefCell<Box<dyn Write>>,
}

struct Stream {
    to: Box<dyn Write>,
    lines: bool,
    kept: Vec<u8>,
}

impl Text {
    /// `lines`: a person looks at `out`.
    pub(super) fn new(out: Box<dyn Write>, err: Box<dyn Write>, lines: bool) -> Rc<Text> {
        let out = RefCell::new(Stream { to: out, lines, kept: Vec::new() });
        Rc::new(Text { out, err: RefCell::new(err) })
    }

    /// Prints as it is.
    pub(super) fn print(&self, text: &str) {
        let mut out = self.out.borrow_mut();
        out.kept.extend_from_slice(text.as_bytes());
        let ready = match out.lines {
            true => out.kept.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1),
            false => out.kept.len() / KEPT * KEPT,
        };
        out.write(ready);
    }

    /// Prints a line.
    pub(super) fn line(&self, text: &str) {
        self.print(&format!("{text}\n"));
    }

    /// Writes what was kept back.
    pub(super) fn flush(&self) {
        let mut out = self.out.borrow_mut();
        let all = out.kept.len();
        out.write(all);
        // A reader that went away is no error of ours.
        let _ = out.to.flush();
    }

    /// A line for standard error.
    pub(super) fn warn(&self, text: &str) {
        let mut err = self.err.borrow_mut();
        let _ = writeln!(err, "{text}").and_then(|()| err.flush());
    }
}

impl Stream {
    fn write(&mut self, n: usize) {
        if n > 0 {
            let _ = self
                .to
                .write_all(&self.kept[..n])
                .and_then(|()| if self.lines { self.to.flush() } else { Ok(()) });
            self.kept.drain(..n);
        }
    }
}

/// A finished request.
pub(super) struct Report<'a> {
    /// What it did.
    pub(super) verb: &'a str,
    /// Where it began.
    pub(super) offset: u64,
    /// How many bytes.
    pub(super) bytes: u64,
    /// How long it took.
    pub(super) time: Duration,
    /// For programs.
    pub(super) machine: bool,
}

impl Report<'_> {
    /// Its lines.
    pub(super) fn text(&self) -> String {
        let (bytes, seconds) = (self.bytes, self.time.as_secs_f64());
        let rate = |n: f64| if n == 0.0 { 0.0 } else { n / seconds };
        let (bytes_rate, ops_rate) = (rate(bytes as f64), rate(1.0));
        if self.machine {
            return format!("{bytes},1,{},{bytes_rate:.3},{ops_rate:.3}\n", clock(self.time, true));
        }
        format!(
            "{} {bytes}/{bytes} bytes at offset {}\n{}, 1 ops; {} ({}/sec and {ops_rate:.4} ops/sec)\n",
            self.verb,
            self.offset,
            shown(bytes as f64),
            clock(self.time, false),
            shown(bytes_rate),
        )
    }
}

fn clock(time: Duration, long: bool) -> String {
    let (all, hundredths) = (time.as_secs(), time.subsec_millis() / 10);
    let (hours, minutes, seconds) = (all / 3600, all / 60 % 60, all % 60);
    if long || hours > 0 || minutes > 0 {
        format!("{hours}:{minutes:02}:{seconds:02}.{hundredths:02}")
    } else {
        format!("{seconds:02}.{hundredths:02} sec")
    }
}

/// The lines that show bytes which stand at `offset`.
pub(super) fn dump(bytes: &[u8], offset: u64) -> String {
    let mut text = String::new();
    for (n, line) in bytes.chunks(16).enumerate() {
        text.push_str(&format!("{:08x}:  ", offset + 16 * n as u64));
        for b in line {
            text.push_str(&format!("{b:02x} "));
        }
        text.push(' ');
        text.extend(
            line.iter().map(|b| if b.is_ascii_graphic() || *b == b' ' { char::from(*b) } else { '.' }),
        );
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports() {
        let r = |bytes, millis, machine| {
            Report { verb: "read", offset: 7, bytes, time: Duration::from_millis(millis), machine }.text()
        };
        assert_eq!(
            r(512, 1000, false),
            "read 512/512 bytes at offset 7\n512 bytes, 1 ops; 01.00 sec (512 bytes/sec and 1.0000 ops/sec)\n"
        );
        assert_eq!(
            r(0, 500, false),
            "read 0/0 bytes at offset 7\n0 bytes, 1 ops; 00.50 sec (0 bytes/sec and 2.0000 ops/sec)\n"
        );
        assert_eq!(r(1024, 3_725_990, true), "1024,1,1:02:05.99,0.275,0.000\n");
        assert!(r(1, 61_000, false).contains("; 0:01:01.00 ("));
    }

    #[test]
    fn dumps() {
        let bytes: Vec<u8> = (0x3e..0x50).collect();
        assert_eq!(
            dump(&bytes, 3),
            "00000003:  3e 3f 40 41 42 43 44 45 46 47 48 49 4a 4b 4c 4d  >?@ABCDEFGHIJKLM\n00000013:  4e 4f  NO\n"
        );
    }

    #[test]
    fn text_waits_where_nobody_looks() {
        #[derive(Clone, Default)]
        struct Shared(Rc<RefCell<Vec<u8>>>);
        impl Write for Shared {
            fn write(&mut self, b: &[u8]) -> std::io::Result<usize> {
                self.0.borrow_mut().extend_from_slice(b);
                Ok(b.len())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let (to, both) = (Shared::default(), Shared::default());
        let text = Text::new(Box::new(to.clone()), Box::new(both.clone()), false);
        text.line("a");
        assert!(to.0.borrow().is_empty());
        text.print(&"b".repeat(KEPT));
        assert_eq!(to.0.borrow().len(), KEPT);
        text.flush();
        assert_eq!(to.0.borrow().len(), KEPT + 2);
        let seen = Text::new(Box::new(both.clone()), Box::new(both.clone()), true);
        seen.print("x\ny");
        assert_eq!(*both.0.borrow(), b"x\n");
    }
}
