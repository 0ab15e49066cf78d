//! One 16-bit flash chip as a pure state machine over its cells.

use super::spec::{self, BUFFER_WORDS, cmd, status};

/// The words that a chip holds.
pub trait Cells {
    /// Reads a word.
    fn get(&self, word: u32) -> u16;
    /// Stores a word, as it is.
    fn set(&mut self, word: u32, v: u16);
    /// Sets all bits of `words` words from `word`.
    fn erase(&mut self, word: u32, words: u32);
}

/// What a read shows, and what the next write means.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Mode {
    Array,
    Status,
    Id,
    Query,
    /// The next write is the word.
    Program,
    /// The next write confirms.
    Erase,
    Lock,
    /// The next write is the number of words less one, for this block.
    BufferCount {
        block: u32,
    },
    /// Words come in: how many are expected, and what has come.
    BufferData {
        block: u32,
        expect: usize,
        words: Vec<(u32, u16)>,
    },
}

/// The chip, without its cells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chip {
    mode: Mode,
    status: u8,
    size_log2: u8,
    block: u32,
}

impl Chip {
    /// A chip of 2^`size_log2` bytes in erase blocks of `block` bytes (both within what a query table can say).
    pub fn new(size_log2: u8, block: u32) -> Chip {
        assert!(size_log2 < 32 && block.is_power_of_two() && (256..1 << size_log2).contains(&block));
        Chip { mode: Mode::Array, status: status::READY, size_log2, block }
    }

    /// As after power-on; the cells stay.
    pub fn reset(&mut self) {
        (self.mode, self.status) = (Mode::Array, status::READY);
    }

    /// Whether reads show the cells, so that nobody need ask the chip.
    pub fn in_array_mode(&self) -> bool {
        self.mode == Mode::Array
    }

    fn block_words(&self) -> u32 {
        self.block / 2
    }

    fn block_of(&self, word: u32) -> u32 {
        word & !(self.block_words() - 1)
    }

    /// Reads the word at `word`.
    pub fn read(&self, word: u32, cells: &impl Cells) -> u16 {
        match &self.mode {
            Mode::Array => cells.get(word),
            Mode::Id => match word & 0xff {
                0 => spec::MANUFACTURER,
                1 => spec::DEVICE,
                _ => 0, // Block lock states: no block is locked.
            },
            Mode::Query => {
                let blocks = (1u32 << self.size_log2) / self.block;
                u16::from(spec::query(word & 0xff, self.size_log2, blocks, self.block))
            }
            _ => self.status.into(),
        }
    }

    /// Writes the bits `mask` of the word at `word`; a command counts by its low byte.
    pub fn write(&mut self, word: u32, v: u16, mask: u16, cells: &mut impl Cells) {
        let c = (v & mask) as u8;
        self.mode = match std::mem::replace(&mut self.mode, Mode::Status) {
            Mode::Program => {
                // Programming can only clear bits.
                cells.set(word, cells.get(word) & (v | !mask));
                Mode::Status
            }
            Mode::Erase => {
                if c == cmd::CONFIRM {
                    cells.erase(self.block_of(word), self.block_words());
                } else {
                    self.sequence_error();
                }
                Mode::Status
            }
            Mode::Lock => {
                if !matches!(c, cmd::CONFIRM | cmd::SET_LOCK | cmd::LOCK_DOWN) {
                    self.sequence_error();
                }
                Mode::Status
            }
            Mode::BufferCount { block } => {
                let expect = usize::from(v & mask) + 1;
                if expect > BUFFER_WORDS {
                    self.sequence_error();
                    Mode::Status
                } else {
                    Mode::BufferData { block, expect, words: Vec::with_capacity(expect) }
                }
            }
            Mode::BufferData { block, expect, mut words } if words.len() < expect => {
                words.push((word, v | !mask));
                Mode::BufferData { block, expect, words }
            }
            Mode::BufferData { block, words, .. } => {
                if c == cmd::CONFIRM && words.iter().all(|(w, _)| self.block_of(*w) == block) {
                    for (w, v) in words {
                        cells.set(w, cells.get(w) & v);
                    }
                } else {
                    self.sequence_error();
                }
                Mode::Status
            }
            mode @ (Mode::Array | Mode::Status | Mode::Id | Mode::Query) => match c {
                cmd::READ_ARRAY => Mode::Array,
                cmd::READ_ID => Mode::Id,
                cmd::READ_QUERY => Mode::Query,
                cmd::READ_STATUS => Mode::Status,
                cmd::CLEAR_STATUS => {
                    self.status = status::READY;
                    mode
                }
                cmd::PROGRAM | cmd::PROGRAM_ALT => Mode::Program,
                cmd::ERASE => Mode::Erase,
                cmd::LOCK => Mode::Lock,
                cmd::BUFFER => Mode::BufferCount { block: self.block_of(word) },
                // Resume with nothing suspended; and what is no command: ignored, as real chips do.
                _ => mode,
            },
        };
    }

    /// Both error bits together say that the sequence of commands was wrong.
    fn sequence_error(&mut self) {
        self.status |= status::ERASE_ERROR | status::PROGRAM_ERROR;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Words(Vec<u16>);

    impl Cells for Words {
        fn get(&self, word: u32) -> u16 {
            self.0[word as usize]
        }
        fn set(&mut self, word: u32, v: u16) {
            self.0[word as usize] = v;
        }
        fn erase(&mut self, word: u32, words: u32) {
            self.0[word as usize..(word + words) as usize].fill(0xffff);
        }
    }

    /// 64 KiB in blocks of 4 KiB, all zero.
    fn chip() -> (Chip, Words) {
        (Chip::new(16, 4096), Words(vec![0; 32768]))
    }

    fn send(c: &mut Chip, w: &mut Words, writes: &[(u32, u16)]) {
        for &(at, v) in writes {
            c.write(at, v, 0xffff, w);
        }
    }

    #[test]
    fn the_query_table_says_what_the_chip_is() {
        let (mut c, mut w) = chip();
        send(&mut c, &mut w, &[(0x55, 0x98)]);
        assert!(!c.in_array_mode());
        let t: Vec<u16> = (0..0x40).map(|i| c.read(i, &w)).collect();
        assert_eq!(t[0x10..0x13], [0x51, 0x52, 0x59]);
        assert_eq!((t[0x13], t[0x14], t[0x15]), (1, 0, 0x31));
        assert_eq!((t[0x27], t[0x28], t[0x2c]), (16, 1, 1));
        assert_eq!(t[0x2d..0x31], [15, 0, 16, 0]);
        assert_eq!(t[0x31..0x34], [0x50, 0x52, 0x49]);
        send(&mut c, &mut w, &[(0, 0xff)]);
        assert!(c.in_array_mode());
        send(&mut c, &mut w, &[(0, 0x90)]);
        assert_eq!((c.read(0, &w), c.read(1, &w), c.read(2, &w)), (0x89, 0x18, 0));
    }

    #[test]
    fn erasing_sets_a_block_and_programming_clears_bits() {
        let (mut c, mut w) = chip();
        send(&mut c, &mut w, &[(2050, 0x20), (2050, 0xd0)]);
        assert_eq!(c.read(0, &w), 0x80);
        send(&mut c, &mut w, &[(2050, 0x40), (2050, 0x1234), (2050, 0x10), (2050, 0xff0f)]);
        send(&mut c, &mut w, &[(0, 0xff)]);
        assert_eq!((c.read(2047, &w), c.read(2048, &w)), (0, 0xffff));
        assert_eq!((c.read(4095, &w), c.read(4096, &w)), (0xffff, 0));
        assert_eq!(c.read(2050, &w), 0x1204, "programming ANDs");
    }

    #[test]
    fn a_byte_write_programs_a_byte() {
        let (mut c, mut w) = chip();
        w.0[0] = 0xffff;
        c.write(0, 0x40, 0xff, &mut w);
        c.write(0, 0x1200, 0xff00, &mut w);
        assert_eq!(w.0[0], 0x12ff);
    }

    #[test]
    fn a_buffer_is_written_whole_or_not_at_all() {
        let (mut c, mut w) = chip();
        send(&mut c, &mut w, &[(0, 0x20), (0, 0xd0)]);
        send(&mut c, &mut w, &[(8, 0xe8)]);
        assert_eq!(c.read(0, &w) & 0x80, 0x80, "the buffer is free");
        send(&mut c, &mut w, &[(8, 1), (8, 0xaaaa), (9, 0xbbbb), (8, 0xd0)]);
        assert_eq!((w.0[8], w.0[9], w.0[10]), (0xaaaa, 0xbbbb, 0xffff));
        assert_eq!(c.read(0, &w), 0x80);
        // Not confirmed; outside its block; too long.
        for bad in [
            &[(8, 0xe8), (8, 0), (8, 0), (8, 0xff)][..],
            &[(8, 0xe8), (8, 0), (5000, 0), (8, 0xd0)],
            &[(8, 0xe8), (8, 16)],
        ] {
            let before = w.0.clone();
            send(&mut c, &mut w, bad);
            assert_eq!(c.read(0, &w), 0xb0);
            assert_eq!(w.0, before);
            send(&mut c, &mut w, &[(0, 0x50)]);
            assert_eq!(c.read(0, &w), 0x80);
        }
    }

    #[test]
    fn an_unconfirmed_erase_is_an_error_and_changes_nothing() {
        let (mut c, mut w) = chip();
        send(&mut c, &mut w, &[(0, 0x20), (0, 0xff)]);
        assert_eq!(c.read(0, &w), 0xb0);
        assert!(w.0.iter().all(|v| *v == 0));
        c.reset();
        assert_eq!(c, chip().0);
        send(&mut c, &mut w, &[(0, 0x60), (0, 0xd0)]);
        assert_eq!(c.read(0, &w), 0x80, "unlocking is taken");
    }
}
