//! Machine code of the host as text, for logs. (That of a guest is in its own crate, beside the table of its instructions.)

use iced_x86::{Decoder, DecoderOptions, Formatter, GasFormatter, Instruction};
use std::fmt::Write as _;

/// Columns of an instruction's bytes.
const BYTES: usize = 24;
/// Columns of its mnemonic, with the space behind it.
const MNEMONIC: u32 = 9;

/// One instruction of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Where it is in the code, bytes.
    pub offset: usize,
    /// Its address, bytes and text.
    pub text: String,
}

/// The x86-64 code that lies at address `at`. What is no instruction is shown as such, byte by byte.
pub fn x86_64(code: &[u8], at: u64) -> Vec<Line> {
    let mut formatter = GasFormatter::new();
    let o = formatter.options_mut();
    o.set_first_operand_char_index(MNEMONIC);
    o.set_space_after_operand_separator(true);
    o.set_gas_show_mnemonic_size_suffix(true);
    o.set_uppercase_hex(false);
    o.set_small_hex_numbers_in_decimal(true);
    o.set_branch_leading_zeros(false);
    o.set_rip_relative_addresses(true);
    let mut decoder = Decoder::with_ip(64, code, at, DecoderOptions::NONE);
    let mut insn = Instruction::default();
    let mut lines = Vec::new();
    while decoder.can_decode() {
        let offset = decoder.position();
        decoder.decode_out(&mut insn);
        let mut text = format!("0x{:08x}:  ", insn.ip());
        let mut bytes = String::with_capacity(3 * insn.len());
        for b in &code[offset..offset + insn.len()] {
            let _ = write!(bytes, "{b:02x} ");
        }
        let _ = write!(text, "{:<BYTES$} ", bytes.trim_end());
        formatter.format(&insn, &mut text);
        lines.push(Line { offset, text });
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_stand_in_columns() {
        let code = [0x8b, 0x5d, 0xf8, 0x48, 0x83, 0xc3, 0x28, 0xe9, 0xf4, 0xff, 0xff, 0xff, 0x06];
        let lines = x86_64(&code, 0x7f00_0000_1000);
        let text: Vec<&str> = lines.iter().map(|l| l.text.as_str()).collect();
        assert_eq!(
            text,
            [
                "0x7f0000001000:  8b 5d f8                 movl     -8(%rbp), %ebx",
                "0x7f0000001003:  48 83 c3 28              addq     $0x28, %rbx",
                "0x7f0000001007:  e9 f4 ff ff ff           jmp      0x7f0000001000",
                "0x7f000000100c:  06                       (bad)",
            ]
        );
        assert_eq!(lines[2].offset, 7);
    }
}
