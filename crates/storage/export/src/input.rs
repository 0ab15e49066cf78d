//! What a client sends, read in large pieces.

use base::{Errno, IoResult};
use io::Stream;
use mem::IoBuf;

/// Bytes that are read at once.
const SIZE: usize = 128 << 10;

/// So many bytes and more are read where they are to be, instead of being copied there.
const DIRECT: usize = 16 << 10;

/// A stream's bytes, some of them read ahead.
pub(crate) struct Input {
    stream: Stream,
    buf: Vec<u8>,
    start: usize,
    end: usize,
    /// The last read took all that there was: the next one would find nothing.
    dry: bool,
}

impl Input {
    pub(crate) fn new(stream: Stream) -> Input {
        Input { stream, buf: vec![0; SIZE], start: 0, end: 0, dry: true }
    }

    async fn more(&mut self) -> IoResult<()> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.end == SIZE {
            self.buf.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        if self.dry {
            self.stream.readable().await?;
        }
        let room = SIZE - self.end;
        match self.stream.read(&mut self.buf[self.end..]).await? {
            0 => Err(Errno::PIPE),
            n => {
                self.end += n;
                self.dry = n < room;
                Ok(())
            }
        }
    }

    /// Takes the next `n` bytes: a header, far shorter than what is read at once.
    pub(crate) async fn take(&mut self, n: usize) -> IoResult<&[u8]> {
        while self.end - self.start < n {
            self.more().await?;
        }
        let at = self.start;
        self.start += n;
        Ok(&self.buf[at..at + n])
    }

    /// Fills `buf` with the next bytes.
    pub(crate) async fn fill(&mut self, buf: &IoBuf) -> IoResult<()> {
        let mut done = 0;
        while done < buf.len() {
            if self.start == self.end {
                if buf.len() - done >= DIRECT {
                    match self.stream.read_into(&buf.slice(done..buf.len())).await? {
                        0 => return Err(Errno::PIPE),
                        n => done += n,
                    }
                    continue;
                }
                self.more().await?;
            }
            let n = (self.end - self.start).min(buf.len() - done);
            buf.copy_from(done, &self.buf[self.start..self.start + n]);
            self.start += n;
            done += n;
        }
        Ok(())
    }

    /// Takes the next `n` bytes and forgets them.
    pub(crate) async fn skip(&mut self, mut n: u64) -> IoResult<()> {
        while n > 0 {
            if self.start == self.end {
                self.more().await?;
            }
            let some = ((self.end - self.start) as u64).min(n);
            self.start += some as usize;
            n -= some;
        }
        Ok(())
    }
}
