//! Commands and tables of parallel NOR flash: JEDEC JESD68.01 (the Common Flash Interface) and JEP137 command set 0001
//! (Intel/Sharp extended).

/// Commands, written to the chip's data lines.
pub mod cmd {
    /// Back to reading the array.
    pub const READ_ARRAY: u8 = 0xff;
    /// The identification codes.
    pub const READ_ID: u8 = 0x90;
    /// The query table of the Common Flash Interface.
    pub const READ_QUERY: u8 = 0x98;
    /// The status register.
    pub const READ_STATUS: u8 = 0x70;
    /// Clears the status register's error bits.
    pub const CLEAR_STATUS: u8 = 0x50;
    /// Programs one word; the next write carries it.
    pub const PROGRAM: u8 = 0x40;
    /// The same, older.
    pub const PROGRAM_ALT: u8 = 0x10;
    /// Erases a block, after a confirmation.
    pub const ERASE: u8 = 0x20;
    /// Writes a buffer: count less one, words, confirmation.
    pub const BUFFER: u8 = 0xe8;
    /// Locks and configuration: one of the confirmations follows.
    pub const LOCK: u8 = 0x60;
    /// Confirms, resumes or unlocks.
    pub const CONFIRM: u8 = 0xd0;
    /// Locks the block.
    pub const SET_LOCK: u8 = 0x01;
    /// Locks the block until the next reset.
    pub const LOCK_DOWN: u8 = 0x2f;
}

/// The status register.
pub mod status {
    /// The chip is ready.
    pub const READY: u8 = 0x80;
    /// An erase failed; with [`PROGRAM_ERROR`], a command sequence was wrong.
    pub const ERASE_ERROR: u8 = 0x20;
    /// Programming failed.
    pub const PROGRAM_ERROR: u8 = 0x10;
}

/// Identification: the manufacturer (Intel).
pub const MANUFACTURER: u16 = 0x89;
/// Identification: the device.
pub const DEVICE: u16 = 0x18;
/// The write buffer's size: 2^n bytes.
pub const BUFFER_LOG2: u8 = 5;
/// The write buffer's size in words.
pub const BUFFER_WORDS: usize = (1 << BUFFER_LOG2) / 2;

/// The byte at `at` of the query table of a 16-bit chip of 2^`size_log2` bytes in `blocks` blocks of `block` bytes.
pub fn query(at: u32, size_log2: u8, blocks: u32, block: u32) -> u8 {
    let regions = [(blocks - 1) as u8, ((blocks - 1) >> 8) as u8, (block >> 8) as u8, (block >> 16) as u8];
    match at {
        0x10..=0x12 => b"QRY"[at as usize - 0x10],
        0x13 => 0x01,        // Primary command set 0001…
        0x15 => 0x31,        // …whose table is at 0x31.
        0x1b => 0x45,        // Supply voltage from 4.5 V…
        0x1c => 0x55,        // …to 5.5 V.
        0x1f => 0x07,        // Typical times, powers of two: a word 128 µs…
        0x20 => 0x07,        // …a buffer 128 µs…
        0x21 => 0x0a,        // …a block's erasure 1 s.
        0x23..=0x25 => 0x04, // The longest, powers of two of the typical.
        0x27 => size_log2,
        0x28 => 0x01, // Interface: 16 bits, asynchronous.
        0x2a => BUFFER_LOG2,
        0x2c => 1, // One region of equal blocks.
        0x2d..=0x30 => regions[at as usize - 0x2d],
        0x31..=0x35 => b"PRI10"[at as usize - 0x31],
        0x3f => 0x01, // One protection register field follows.
        _ => 0,
    }
}
