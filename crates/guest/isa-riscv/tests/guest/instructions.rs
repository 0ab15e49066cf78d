//! What single instructions do, by the specification.

use crate::bench::Bare;
use isa_riscv::Ext;
use isa_riscv::decode::{decode, find, find16};
use isa_riscv::encode::{entry, op};
use isa_riscv::insn::Format;
use isa_riscv::table::Op;
use proptest::prelude::*;

const MIN: u64 = 1 << 63;
const M1: u64 = u64::MAX;

/// `x12 = name(x10, x11)`, or with the immediate `b`.
fn eval(name: &str, a: u64, b: u64) -> u64 {
    let mut t = Bare::new();
    t.set_x(10, a);
    t.set_x(11, b);
    let immediate = matches!(entry(name).format, Format::I | Format::Shift6 | Format::Shift5);
    let imm = if immediate { b as i32 } else { 0 };
    t.run(&[op(name, 12, 10, 11, imm)]);
    t.x(12)
}

#[test]
fn integer_instructions() {
    let cases: &[(&str, u64, u64, u64)] = &[
        ("add", M1, 1, 0),
        ("sub", 0, 1, M1),
        ("sll", 1, 64 + 63, MIN),
        ("slt", M1, 0, 1),
        ("sltu", M1, 0, 0),
        ("xor", 5, 3, 6),
        ("srl", MIN, 63, 1),
        ("sra", MIN, 63, M1),
        ("or", 5, 3, 7),
        ("and", 5, 3, 1),
        ("addi", 1, -2i64 as u64, M1),
        ("slti", MIN, 0, 1),
        ("sltiu", 5, M1, 1),
        ("xori", 5, M1, !5),
        ("slli", 1, 63, MIN),
        ("srai", MIN, 62, M1 << 1),
        ("addw", 0x7fff_ffff, 1, 0xffff_ffff_8000_0000),
        ("subw", 0x8000_0000, 1, 0x7fff_ffff),
        ("sllw", 1, 31, 0xffff_ffff_8000_0000),
        ("sllw", 1, 32, 1),
        ("srlw", 0xffff_ffff_8000_0000, 31, 1),
        ("sraw", 0x8000_0000, 31, M1),
        ("srliw", M1, 4, 0x0fff_ffff),
        ("mul", M1, M1, 1),
        ("mulh", MIN, MIN, 1 << 62),
        ("mulh", M1, 1, M1),
        ("mulhu", M1, M1, M1 - 1),
        ("mulhsu", M1, M1, M1),
        ("mulhsu", 2, M1, 1),
        ("mulw", 0xffff_ffff, 2, -2i64 as u64),
        ("div", 7, -2i64 as u64, -3i64 as u64),
        ("div", 7, 0, M1),
        ("div", MIN, M1, MIN),
        ("divu", MIN, M1, 0),
        ("divu", 7, 0, M1),
        ("rem", -7i64 as u64, 2, M1),
        ("rem", 7, 0, 7),
        ("rem", MIN, M1, 0),
        ("remu", 7, 0, 7),
        ("divw", 0x8000_0000, M1, 0xffff_ffff_8000_0000),
        ("divw", 7, 1 << 32, M1),
        ("divuw", 0xffff_ffff, 1, M1),
        ("remw", 0x8000_0000, M1, 0),
        ("remuw", 0x8000_0001, 0, 0xffff_ffff_8000_0001),
        ("add.uw", M1, 1, 1 << 32),
        ("sh1add", 3, 1, 7),
        ("sh2add", 3, 1, 13),
        ("sh3add", 3, 1, 25),
        ("sh3add.uw", M1, 0, 0x7_ffff_fff8),
        ("slli.uw", M1, 32, 0xffff_ffff_0000_0000),
        ("andn", 7, 2, 5),
        ("orn", 0, M1 - 4, 4),
        ("xnor", 5, 3, !6),
        ("clz", 0, 0, 64),
        ("clz", 1, 0, 63),
        ("ctz", 0, 0, 64),
        ("ctz", MIN, 0, 63),
        ("cpop", M1, 0, 64),
        ("clzw", 0xffff_ffff_0000_0001, 0, 31),
        ("clzw", M1 << 32, 0, 32),
        ("ctzw", 1 << 32, 0, 32),
        ("cpopw", M1, 0, 32),
        ("max", M1, 1, 1),
        ("maxu", M1, 1, M1),
        ("min", M1, 1, M1),
        ("minu", M1, 1, 1),
        ("sext.b", 0x180, 0, 0xffff_ffff_ffff_ff80),
        ("sext.h", 0x1_7fff, 0, 0x7fff),
        ("zext.h", M1, 0, 0xffff),
        ("rol", MIN | 2, 1, 5),
        ("ror", 1, 1, MIN),
        ("rori", 1, 4, 1 << 60),
        ("rolw", 0x8000_0000, 1, 1),
        ("rorw", 1, 1, 0xffff_ffff_8000_0000),
        ("rorw", 5, 32, 5),
        ("roriw", 0x10, 4, 1),
        ("orc.b", 0x0100_8000_0010_0200, 0, 0xff00_ff00_00ff_ff00),
        ("orc.b", 0x8080_8080_8080_8080, 0, M1),
        ("rev8", 0x0102_0304_0506_0708, 0, 0x0807_0605_0403_0201),
        ("bclr", M1, 64 + 3, !8),
        ("bext", 8, 3, 1),
        ("binv", 8, 3, 0),
        ("bset", 0, 63, MIN),
        ("clmul", 0b1011, 0b110, 0b111010),
        ("clmulh", MIN, 6, 3),
        ("clmulr", MIN, 6, 6),
        ("czero.eqz", 5, 0, 0),
        ("czero.eqz", 5, 1, 5),
        ("czero.nez", 5, 0, 5),
        ("czero.nez", 5, 1, 0),
        ("mop.r.n", 5, 0, 0),
        ("mop.rr.n", 5, 5, 0),
        ("pack", 0x1_2345_6789, 0xabcd_ef01, 0xabcd_ef01_2345_6789),
        ("packh", 0x1ff, 0x112, 0x12ff),
        ("packw", 0x1_ffff, 0x8000, 0xffff_ffff_8000_ffff),
        ("brev8", 0x0102_0408_1020_40ff, 0, 0x8040_2010_0804_02ff),
        ("xperm8", 0x8877_6655_4433_2211, 0x0001_0203_0405_0608, 0x1122_3344_5566_7700),
        ("xperm4", 0xfedc_ba98_7654_3210, 0x0123_4567_89ab_cdef, 0x0123_4567_89ab_cdef),
        // SubBytes of equal bytes, which nothing else changes.
        ("aes64es", 0x5353_5353_5353_5353, 0x5353_5353_5353_5353, 0xeded_eded_eded_eded),
        ("aes64dsm", 0xeded_eded_eded_eded, 0xeded_eded_eded_eded, 0x5353_5353_5353_5353),
        ("aes64im", 0x0000_0000_0000_0001, 0, 0x0b0d_090e),
        ("aes64ks2", 0x1111_1111_0000_0000, 0x3333_3333_2222_2222, 0x0000_0000_3333_3333),
        ("sha256sum0", 1, 0, 0x4008_0400),
        ("sha256sig0", 1 << 31, 0, 0x1100_2000),
        ("sha512sum1", 1, 0, 0x0004_4000_0080_0000),
        ("sha512sig1", 1 << 6, 0, 0x0008_0000_0000_0201),
        ("sm3p0", 1, 0, 0x2_0201),
        ("sm3p1", 1, 0, 0x80_8001),
        ("bexti", MIN, 63, 1),
        ("bclri", MIN, 63, 0),
    ];
    for &(name, a, b, want) in cases {
        let got = eval(name, a, b);
        assert_eq!(got, want, "{name} {a:#x}, {b:#x}: {got:#x}");
    }
}

#[test]
fn jumps_link_and_clear_bit_zero() {
    let mut t = Bare::new();
    let at = t.code();
    t.set_x(10, at + 13);
    // jalr with an odd target skips to the third word; jal there skips a word, too.
    t.run(&[
        op("jalr", 1, 10, 0, 0),
        op("addi", 20, 20, 0, 1),
        op("addi", 20, 20, 0, 1),
        op("jal", 5, 0, 0, 8),
        op("addi", 20, 20, 0, 1),
        op("auipc", 6, 0, 0, -4096),
        op("lui", 7, 0, 0, 0x8000_0000u32 as i32),
    ]);
    assert_eq!((t.x(1), t.x(5), t.x(20)), (at + 4, at + 16, 0));
    assert_eq!((t.x(6), t.x(7)), (at + 20 - 4096, 0xffff_ffff_8000_0000));
    // The link register may be the base.
    let mut t = Bare::new();
    t.set_x(1, t.code() + 8);
    t.run(&[op("jalr", 1, 1, 0, 0), op("addi", 20, 20, 0, 1), op("addi", 21, 0, 0, 1)]);
    assert_eq!((t.x(1), t.x(20), t.x(21)), (t.code() + 4, 0, 1));
}

#[test]
fn x0_stays_zero() {
    let mut t = Bare::new();
    t.run(&[op("addi", 0, 0, 0, 5), op("lui", 0, 0, 0, 4096), op("add", 10, 0, 0, 0)]);
    assert_eq!((t.x(0), t.x(10)), (0, 0));
}

#[test]
fn singles_are_boxed() {
    let mut t = Bare::new();
    t.enable_fp();
    t.set_x(10, 0x3f80_0000); // 1.0f
    t.set_f(1, 0x3f80_0000); // not boxed: reads as the canonical NaN
    t.run(&[
        op("fmv.w.x", 2, 10, 0, 0),
        op("fadd.s", 3, 2, 2, 0),
        op("fadd.s", 4, 1, 2, 0),
        op("fmv.x.w", 11, 1, 0, 0),
        op("fsgnj.s", 5, 1, 1, 0),
        op("fclass.s", 12, 1, 0, 0),
        op("fmadd.s", 6, 2, 2, 2 << 8 | 3),
        op("fnmadd.d", 7, 8, 8, 8),
    ]);
    assert_eq!(t.f(2), 0xffff_ffff_3f80_0000);
    assert_eq!(t.f(3), 0xffff_ffff_4000_0000);
    assert_eq!(t.f(4), 0xffff_ffff_7fc0_0000);
    assert_eq!(t.x(11), 0x3f80_0000);
    assert_eq!(t.f(5), 0xffff_ffff_7fc0_0000);
    assert_eq!(t.x(12), 1 << 9);
    assert_eq!(t.f(6), 0xffff_ffff_4040_0000, "1 * 1 + 2");
    assert_eq!(t.f(7), MIN, "-(0 * 0) - 0");
}

#[test]
fn dynamic_rounding_obeys_frm_and_flags_accumulate() {
    let mut t = Bare::new();
    t.enable_fp();
    t.set_f(1, 0x3ff0_0000_0000_0000); // 1
    t.set_f(2, 0x4008_0000_0000_0000); // 3
    t.run(&[
        op("csrrwi", 0, 3, 0, 2), // frm = up
        op("fdiv.d", 3, 1, 2, 7 << 8),
        op("fdiv.d", 4, 1, 2, 1 << 8),
        op("fdiv.d", 5, 1, 6, 0),
        op("csrrs", 10, 0, 0, 3),
    ]);
    assert_eq!(t.f(3), t.f(4) + 1);
    assert_eq!(t.f(5), 0x7ff0_0000_0000_0000);
    assert_eq!(t.x(10), 3 << 5 | 8 | 1);
}

#[test]
fn compressed_instructions_abbreviate() {
    let cases: &[(u16, Op, usize, usize, usize, i64)] = &[
        (0x1141, Op::Addi, 2, 2, 0, -16),
        (0xe406, Op::Sd, 0, 2, 1, 8),
        (0x60a2, Op::Ld, 1, 2, 0, 8),
        (0x8082, Op::Jalr, 0, 1, 0, 0),
        (0x4501, Op::Addi, 10, 0, 0, 0),
        (0x6105, Op::Addi, 2, 2, 0, 32),
        (0x7179, Op::Addi, 2, 2, 0, -48),
        (0x0828, Op::Addi, 10, 2, 0, 24),
        (0x67c5, Op::Lui, 15, 0, 0, 0x11000),
        (0x77fd, Op::Lui, 15, 0, 0, -4096),
        (0x853e, Op::Add, 10, 0, 15, 0),
        (0x953e, Op::Add, 10, 10, 15, 0),
        (0x9d1d, Op::Subw, 10, 10, 15, 0),
        (0x2505, Op::Addiw, 10, 10, 0, 1),
        (0x050e, Op::Slli, 10, 10, 0, 3),
        (0x9101, Op::Srli, 10, 10, 0, 32),
        (0x8d7d, Op::And, 10, 10, 15, 0),
        (0x897d, Op::Andi, 10, 10, 0, 31),
        (0xa001, Op::Jal, 0, 0, 0, 0),
        (0xbffd, Op::Jal, 0, 0, 0, -2),
        (0xc111, Op::Beq, 0, 10, 0, 4),
        (0xfd75, Op::Bne, 0, 10, 0, -4),
        (0x4148, Op::Lw, 10, 10, 0, 4),
        (0xe11c, Op::Sd, 0, 10, 15, 0),
        (0x2108, Op::Fld, 10, 10, 0, 0),
        (0x9002, Op::Ebreak, 0, 0, 0, 0),
        (0x9782, Op::Jalr, 1, 15, 0, 0),
    ];
    for &(raw, o, rd, rs1, rs2, imm) in cases {
        let i = decode(u32::from(raw), Ext::ALL);
        assert_eq!(
            (i.op, i.rd(), i.rs1(), i.rs2(), i.imm(), i.len()),
            (o, rd, rs1, rs2, imm, 2),
            "{raw:#06x}"
        );
    }
    // Reserved encodings.
    for raw in [0x0000, 0x0004 & !0x1fe0, 0x2001, 0x6101, 0x6001, 0x4002, 0x6002, 0x8002, 0x9c79, 0x9c7d] {
        assert_eq!(decode(raw, Ext::ALL).op, Op::Illegal, "{raw:#06x}");
    }
}

#[test]
fn an_extension_that_is_off_is_illegal() {
    for (name, ext) in [
        ("mul", Ext::M),
        ("amoadd.w", Ext::A),
        ("fadd.s", Ext::F),
        ("fadd.d", Ext::D),
        ("sh1add", Ext::ZBA),
        ("clz", Ext::ZBB),
        ("bset", Ext::ZBS),
        ("clmulr", Ext::ZBC),
        ("rol", Ext::ZBB.with(Ext::ZBKB)),
        ("clmul", Ext::ZBC.with(Ext::ZBKC)),
        ("pack", Ext::ZBKB),
        ("xperm8", Ext::ZBKX),
        ("aes64es", Ext::ZKNE),
        ("aes64ds", Ext::ZKND),
        ("aes64ks2", Ext::ZKND.with(Ext::ZKNE)),
        ("sha512sum0", Ext::ZKNH),
        ("sm4ed", Ext::ZKSED),
        ("sm3p0", Ext::ZKSH),
        ("czero.eqz", Ext::ZICOND),
        ("mop.r.n", Ext::ZIMOP),
        ("wrs.nto", Ext::ZAWRS),
        ("cbo.clean", Ext::ZICBOM),
        ("cbo.zero", Ext::ZICBOZ),
        ("fadd.h", Ext::ZFH),
        ("fadd.h", Ext::F),
        ("fcvt.s.h", Ext::ZFHMIN),
        ("fcvt.d.h", Ext::D),
        ("fcvt.s.bf16", Ext::ZFBFMIN),
        ("flh", Ext::ZFHMIN.with(Ext::ZFBFMIN)),
        ("fli.s", Ext::ZFA),
        ("fli.h", Ext::ZFH),
        ("fround.d", Ext::D),
    ] {
        let raw = op(name, 1, 2, 3, 0);
        assert_eq!(decode(raw, Ext::BASE).op, Op::Illegal);
        assert_ne!(decode(raw, Ext::ALL).op, Op::Illegal);
        let i = decode(raw, Ext::ALL.without(ext));
        assert_eq!((i.op, i.imm() as u32), (Op::Illegal, raw), "{name}");
    }
    assert_eq!(decode(0x8082, Ext::ALL.without(Ext::C)).op, Op::Illegal);
    assert_eq!(decode(0x2108, Ext::ALL.without(Ext::D)).op, Op::Illegal);
    assert_eq!(
        Ext::RV64.isa_string(),
        "rv64imafdc_zicbom_zicbop_zicboz_zicntr_zicsr_zifencei_zihpm_zawrs_zfa_zba_zbb_zbc_zbs_sstc_svadu"
    );
    assert_eq!(
        Ext::ALL.isa_string(),
        "rv64imafdc_zicbom_zicbop_zicboz_zicntr_zicond_zicsr_zifencei_zihpm_zimop_zawrs_zfa_zfbfmin_zfh_zfhmin_zcb_zcmop_zba_zbb_zbc_zbkb_zbkc_zbkx_zbs_zknd_zkne_zknh_zksed_zksh_sstc_svadu_svnapot_svpbmt"
    );
    assert_eq!(Ext::by_name("zbs"), Some(Ext::ZBS));
}

#[test]
fn all_halfwords_decode_to_something() {
    for raw in (0..=u16::MAX).filter(|r| r & 3 != 3) {
        let i = decode(u32::from(raw), Ext::ALL);
        assert_eq!(i.len(), 2);
        assert!(i.op == Op::Illegal || find16(raw).is_some_and(|e| e.op == i.op), "{raw:#06x}");
    }
}

proptest! {
    #[test]
    fn words_decode_as_the_table_says(raw: u32) {
        let raw = raw | 3;
        let i = decode(raw, Ext::ALL);
        prop_assert_eq!(i.len(), 4);
        match find(raw) {
            None => prop_assert_eq!((i.op, i.imm() as u32), (Op::Illegal, raw)),
            Some(e) => {
                prop_assert_eq!(raw & e.mask, e.bits);
                let rm = raw >> 12 & 7;
                if e.format == Format::Round && raw >> 20 & 15 > 10 {
                    prop_assert_eq!(i.op, Op::Illegal);
                } else if e.format.has_rm() && (rm == 5 || rm == 6) {
                    prop_assert_eq!(i.op, Op::Illegal);
                } else {
                    prop_assert_eq!(i.op, e.op);
                }
            }
        }
    }
}
