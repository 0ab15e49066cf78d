//! What the encoder makes, and what the table says.

use isa_riscv::encode::encode;
use isa_riscv::insn::Format;
use isa_riscv::table::TABLE;

#[test]
fn what_is_encoded_decodes_to_itself() {
    // `packw` of `x0` is `zext.h`.
    for e in TABLE {
        for (rd, rs1, rs2) in [(1, 2, 3), (31, 30, 29), (0, 17, 0)] {
            for imm in [0, 4, -4, 2046, -2048, 0x7a5 & !1] {
                let imm = match e.format {
                    Format::U => imm << 12,
                    Format::B | Format::J => imm & !1,
                    Format::Shift6 => imm & 63,
                    Format::Shift5 => imm & 31,
                    Format::Csr | Format::CsrI | Format::Fence => imm & 0xfff,
                    Format::Fp4 => (imm & 31) | 0x700,
                    Format::Round => imm & 7,
                    Format::Byte => imm & 3,
                    f if f.has_rm() => 0x300,
                    Format::I | Format::Load | Format::FpLoad | Format::S | Format::FpStore => imm,
                    _ => 0,
                };
                if e.name == "packw" && rs2 == 0 {
                    continue;
                }
                let raw = encode(e, rd, rs1, rs2, imm);
                let i = isa_riscv::decode::decode(raw, isa_riscv::Ext::ALL);
                assert_eq!((i.op, i.len()), (e.op, 4), "{} {raw:#010x}", e.name);
                assert_eq!(i.imm(), imm as i64, "{} {raw:#010x}", e.name);
                if !matches!(
                    e.format,
                    Format::None | Format::S | Format::FpStore | Format::B | Format::Rs | Format::Block
                ) {
                    assert_eq!(i.rd(), rd as usize, "{}", e.name);
                }
                if !matches!(e.format, Format::None | Format::U | Format::J) {
                    assert_eq!(i.rs1(), rs1 as usize, "{}", e.name);
                }
                if matches!(
                    e.format,
                    Format::R | Format::S | Format::B | Format::Amo | Format::FpR | Format::Fp4
                ) {
                    assert_eq!(i.rs2(), rs2 as usize, "{}", e.name);
                }
            }
        }
    }
}

#[test]
fn no_encoding_has_two_meanings() {
    for (n, a) in TABLE.iter().enumerate() {
        assert_eq!(a.bits & !a.mask, 0, "{}", a.name);
        for b in &TABLE[n + 1..] {
            if (a.name, b.name) == ("zext.h", "packw") {
                continue;
            }
            assert_ne!(a.bits & b.mask & a.mask, b.bits & a.mask & b.mask, "{} and {}", a.name, b.name);
        }
    }
}
