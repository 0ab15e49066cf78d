//! As much telnet (RFC 854) as a serial console needs: character mode, BREAK, and doubled 0xff bytes.

use base::{Errno, IoResult};

const IAC: u8 = 255;
const SB: u8 = 250;
const SE: u8 = 240;
const BREAK: u8 = 243;
const WILL: u8 = 251;
const DO: u8 = 253;
const DONT: u8 = 254;

/// What a server says first: it echoes, suppresses go-ahead, and both sides are binary
/// (RFC 857, 858, 856).
pub(crate) const HELLO: [u8; 12] = [IAC, WILL, 1, IAC, WILL, 3, IAC, WILL, 0, IAC, DO, 0];

#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    Data,
    Iac,
    Option,
    Sub,
    SubIac,
}

/// Takes telnet's commands out of input.
#[derive(Default)]
pub(crate) struct Filter(State);

impl Filter {
    /// Leaves the data in `bytes`; the number of BREAKs that were among it.
    pub(crate) fn filter(&mut self, bytes: &mut Vec<u8>) -> usize {
        let mut breaks = 0;
        bytes.retain(|&b| {
            let (next, keep) = match (self.0, b) {
                (State::Data, IAC) => (State::Iac, false),
                (State::Data, _) => (State::Data, true),
                (State::Iac, IAC) => (State::Data, true),
                (State::Iac, SB) => (State::Sub, false),
                (State::Iac, WILL..=DONT) => (State::Option, false),
                (State::Iac, BREAK) => {
                    breaks += 1;
                    (State::Data, false)
                }
                (State::Iac | State::Option, _) => (State::Data, false),
                (State::Sub, IAC) => (State::SubIac, false),
                (State::SubIac, SE) => (State::Data, false),
                (State::Sub | State::SubIac, _) => (State::Sub, false),
            };
            self.0 = next;
            keep
        });
        breaks
    }
}

/// Doubles 0xff bytes in output.
#[derive(Default)]
pub(crate) struct Escaper {
    /// The second byte of a pair of which the first was written.
    owed: bool,
}

impl Escaper {
    /// Writes what it can through `write` (which may take less, and fails with `EAGAIN` where it takes
    /// nothing); how many of `bytes` are done with.
    pub(crate) fn write(
        &mut self,
        bytes: &[u8],
        mut write: impl FnMut(&[u8]) -> IoResult<usize>,
    ) -> IoResult<usize> {
        if self.owed {
            if write(&[IAC])? == 0 {
                return Err(Errno::AGAIN);
            }
            self.owed = false;
        }
        match bytes.iter().position(|b| *b == IAC) {
            Some(0) => {
                let n = write(&[IAC, IAC])?;
                self.owed = n == 1;
                Ok(n.min(1))
            }
            Some(at) => write(&bytes[..at]),
            None => write(bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn input() {
        let input = [b'a', IAC, WILL, 1, b'b', IAC, IAC, IAC, SB, 1, IAC, 2, IAC, SE, b'c', IAC, BREAK, b'd'];
        // In one piece and byte by byte.
        for piece in [input.len(), 1] {
            let mut f = Filter::default();
            let (mut out, mut breaks) = (Vec::new(), 0);
            for p in input.chunks(piece) {
                let mut p = p.to_vec();
                breaks += f.filter(&mut p);
                out.extend(p);
            }
            assert_eq!(out, [b'a', b'b', IAC, b'c', b'd']);
            assert_eq!(breaks, 1);
        }
    }

    #[test]
    fn output_through_a_narrow_channel() {
        let data = [1, IAC, 2, IAC, IAC, 3];
        for width in 1..4 {
            let mut sent = Vec::new();
            let mut e = Escaper::default();
            let mut done = 0;
            while done < data.len() {
                done += e
                    .write(&data[done..], |b| {
                        let n = b.len().min(width);
                        sent.extend_from_slice(&b[..n]);
                        Ok(n)
                    })
                    .unwrap();
            }
            if e.owed {
                sent.push(IAC);
            }
            assert_eq!(sent, [1, IAC, IAC, 2, IAC, IAC, IAC, IAC, 3], "{width}");
        }
    }
}
