//! The decoded form of an instruction.

use crate::table::Op;

/// A decoded instruction: eight bytes, so that a page of code costs 16 KiB of decodes.
///
/// Compressed instructions decode to the operation that they abbreviate; only [`Insn::len`] tells them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Insn {
    /// The operation.
    pub op: Op,
    // Five bits each for rd, rs1 and rs2; above them: two bytes long.
    regs: u16,
    imm: i32,
}

const _: () = assert!(size_of::<Insn>() == 8);

impl Insn {
    /// A slot of a code page that has not been decoded yet.
    pub(crate) const UNDECODED: Insn = Insn { op: Op::Undecoded, regs: 0, imm: 0 };

    /// A slot of a code page for which there is native code number `n`.
    pub(crate) fn native(n: usize) -> Insn {
        Insn { op: Op::Native, regs: 0, imm: n as i32 }
    }

    /// Register numbers are 0..32; `imm` is what the operation's format says.
    pub(crate) fn new(op: Op, rd: u32, rs1: u32, rs2: u32, imm: i32, short: bool) -> Insn {
        let regs = rd & 31 | (rs1 & 31) << 5 | (rs2 & 31) << 10 | (short as u32) << 15;
        Insn { op, regs: regs as u16, imm }
    }

    /// Its length in bytes, 2 or 4.
    #[inline(always)]
    pub fn len(self) -> u64 {
        4 - ((self.regs >> 14) & 2) as u64
    }

    /// Always false; an instruction has a length.
    pub fn is_empty(self) -> bool {
        false
    }

    /// The destination register.
    #[inline(always)]
    pub fn rd(self) -> usize {
        (self.regs & 31) as usize
    }

    /// The first source register; the 5-bit immediate of the `csrr?i` forms and of `fli`.
    #[inline(always)]
    pub fn rs1(self) -> usize {
        ((self.regs >> 5) & 31) as usize
    }

    /// The second source register.
    #[inline(always)]
    pub fn rs2(self) -> usize {
        ((self.regs >> 10) & 31) as usize
    }

    /// The third source register of the fused multiply-adds.
    #[inline(always)]
    pub fn rs3(self) -> usize {
        (self.imm & 31) as usize
    }

    /// The immediate: offset, shift amount, CSR number or, of an illegal instruction, its bits.
    #[inline(always)]
    pub fn imm(self) -> i64 {
        self.imm as i64
    }

    /// The CSR number.
    #[inline(always)]
    pub fn csr(self) -> u16 {
        (self.imm & 0xfff) as u16
    }

    /// The rounding mode field of a floating-point instruction, 0..8.
    #[inline(always)]
    pub fn rm(self) -> u8 {
        ((self.imm >> 8) & 7) as u8
    }
}

/// How the operands lie in a 32-bit instruction, by the names of the unprivileged specification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// No operands.
    None,
    /// `rd, rs1, rs2`.
    R,
    /// `rd, rs1`.
    R1,
    /// `rd, rs1, imm[11:0]`.
    I,
    /// `rd, imm(rs1)`: a load.
    Load,
    /// `rd, rs1, shamt[5:0]`.
    Shift6,
    /// `rd, rs1, shamt[4:0]`.
    Shift5,
    /// `rs2, imm(rs1)`: a store.
    S,
    /// `rs1, rs2, offset`: a branch.
    B,
    /// `rd, imm[31:12]`.
    U,
    /// `rd, offset`.
    J,
    /// `pred, succ`.
    Fence,
    /// `rd, csr, rs1`.
    Csr,
    /// `rd, csr, uimm[4:0]`.
    CsrI,
    /// `rs1, rs2` (`sfence.vma`).
    Rs,
    /// `rd, rs2, (rs1)`: an atomic.
    Amo,
    /// `rd, (rs1)`: load-reserved.
    Lr,
    /// `fd, fs1, fs2, rm`.
    FpR,
    /// `fd, fs1, fs2` without a rounding mode.
    FpN,
    /// `fd, fs1, fs2, fs3, rm`.
    Fp4,
    /// `fd, fs1, rm`.
    Fp1,
    /// `rd, fs1, fs2`: a comparison.
    FpCmp,
    /// `rd, fs1, rm`: to an integer register.
    FpToX,
    /// `rd, fs1` without a rounding mode (`fmv.x.d`, `fclass.d`).
    FpToXn,
    /// `fd, rs1, rm`: from an integer register.
    FpFromX,
    /// `fd, rs1` without a rounding mode (`fmv.d.x`).
    FpFromXn,
    /// `fd, constant`: the number of a constant stands in `rs1`'s place (`fli`).
    FpConst,
    /// `rd, rs1, rnum`: the number of a round, 0 to 10.
    Round,
    /// `rd, rs1, rs2, bs`: the number of a byte.
    Byte,
    /// `(rs1)`: a cache block.
    Block,
    /// `fd, imm(rs1)`.
    FpLoad,
    /// `fs2, imm(rs1)`.
    FpStore,
}

impl Format {
    /// Whether the instruction has a rounding mode field.
    pub fn has_rm(self) -> bool {
        matches!(self, Format::FpR | Format::Fp4 | Format::Fp1 | Format::FpToX | Format::FpFromX)
    }

    /// Whether the instruction has an operand in an `f` register.
    pub fn is_float(self) -> bool {
        let others = matches!(
            self,
            Format::FpLoad
                | Format::FpStore
                | Format::FpN
                | Format::FpCmp
                | Format::FpToXn
                | Format::FpFromXn
                | Format::FpConst
        );
        others || self.has_rm()
    }
}

/// Extensions of the base instruction set, as bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ext(u64);

#[allow(missing_docs, reason = "the standard's names")]
impl Ext {
    pub const I: Ext = Ext(1);
    pub const M: Ext = Ext(1 << 1);
    pub const A: Ext = Ext(1 << 2);
    pub const F: Ext = Ext(1 << 3);
    pub const D: Ext = Ext(1 << 4);
    pub const C: Ext = Ext(1 << 5);
    pub const ZBA: Ext = Ext(1 << 6);
    pub const ZBB: Ext = Ext(1 << 7);
    pub const ZBS: Ext = Ext(1 << 8);
    pub const SSTC: Ext = Ext(1 << 9);
    pub const SV48: Ext = Ext(1 << 10);
    pub const ZBC: Ext = Ext(1 << 11);
    pub const ZICOND: Ext = Ext(1 << 12);
    pub const ZCB: Ext = Ext(1 << 13);
    pub const ZIMOP: Ext = Ext(1 << 14);
    pub const ZCMOP: Ext = Ext(1 << 15);
    pub const ZAWRS: Ext = Ext(1 << 16);
    pub const ZICBOM: Ext = Ext(1 << 17);
    pub const ZICBOP: Ext = Ext(1 << 18);
    pub const ZICBOZ: Ext = Ext(1 << 19);
    pub const ZFHMIN: Ext = Ext(1 << 20);
    pub const ZFH: Ext = Ext(1 << 21);
    pub const ZFBFMIN: Ext = Ext(1 << 22);
    pub const ZFA: Ext = Ext(1 << 23);
    pub const SVADU: Ext = Ext(1 << 24);
    pub const SVNAPOT: Ext = Ext(1 << 25);
    pub const SVPBMT: Ext = Ext(1 << 26);
    pub const SVADE: Ext = Ext(1 << 27);
    /// Loads, stores and moves of 16-bit numbers: part of Zfhmin and of Zfbfmin.
    pub const HALF: Ext = Ext(1 << 28);
    pub const ZBKB: Ext = Ext(1 << 29);
    pub const ZBKC: Ext = Ext(1 << 30);
    pub const ZBKX: Ext = Ext(1 << 31);
    pub const ZKND: Ext = Ext(1 << 32);
    pub const ZKNE: Ext = Ext(1 << 33);
    pub const ZKNH: Ext = Ext(1 << 34);
    pub const ZKSED: Ext = Ext(1 << 35);
    pub const ZKSH: Ext = Ext(1 << 36);
    /// Rotations and the like: part of Zbb and of Zbkb.
    pub const ROTATE: Ext = Ext(1 << 37);
    /// Carry-less multiplication: part of Zbc and of Zbkc.
    pub const CLMUL: Ext = Ext(1 << 38);
    /// AES's key schedule: part of Zknd and of Zkne.
    pub const AESKEY: Ext = Ext(1 << 39);
}

/// Names of extensions with more than a letter, in canonical order; those without bits every hart has.
static NAMES: &[(Ext, &str)] = &[
    (Ext::ZICBOM, "zicbom"),
    (Ext::ZICBOP, "zicbop"),
    (Ext::ZICBOZ, "zicboz"),
    (Ext::I, "zicntr"),
    (Ext::ZICOND, "zicond"),
    (Ext::I, "zicsr"),
    (Ext::I, "zifencei"),
    (Ext::I, "zihpm"),
    (Ext::ZIMOP, "zimop"),
    (Ext::ZAWRS, "zawrs"),
    (Ext::ZFA, "zfa"),
    (Ext::ZFBFMIN, "zfbfmin"),
    (Ext::ZFH, "zfh"),
    (Ext::ZFHMIN, "zfhmin"),
    (Ext::ZCB, "zcb"),
    (Ext::ZCMOP, "zcmop"),
    (Ext::ZBA, "zba"),
    (Ext::ZBB, "zbb"),
    (Ext::ZBC, "zbc"),
    (Ext::ZBKB, "zbkb"),
    (Ext::ZBKC, "zbkc"),
    (Ext::ZBKX, "zbkx"),
    (Ext::ZBS, "zbs"),
    (Ext::ZKND, "zknd"),
    (Ext::ZKNE, "zkne"),
    (Ext::ZKNH, "zknh"),
    (Ext::ZKSED, "zksed"),
    (Ext::ZKSH, "zksh"),
    (Ext::SSTC, "sstc"),
    (Ext::SVADE, "svade"),
    (Ext::SVADU, "svadu"),
    (Ext::SVNAPOT, "svnapot"),
    (Ext::SVPBMT, "svpbmt"),
];

/// Names that are properties of `-cpu` and not in the device tree's list.
static OTHER_NAMES: &[(Ext, &str)] =
    &[(Ext::M, "m"), (Ext::A, "a"), (Ext::F, "f"), (Ext::D, "d"), (Ext::C, "c"), (Ext::SV48, "sv48")];

/// Bytes of a cache block, for the instructions that work on one.
pub const CACHE_BLOCK: u64 = 64;

impl Ext {
    /// Nothing but what every hart has: RV64I with Zicsr and Zifencei.
    pub const BASE: Ext = Ext::I;
    /// All that is implemented, except Svade, which takes something away.
    pub const ALL: Ext = Ext(((1 << 40) - 1) & !Ext::SVADE.0);
    /// What the model `rv64` has.
    pub const RV64: Ext = Ext::I
        .with(Ext::M)
        .with(Ext::A)
        .with(Ext::F)
        .with(Ext::D)
        .with(Ext::C)
        .with(Ext::ZBA)
        .with(Ext::ZBB)
        .with(Ext::ZBC)
        .with(Ext::ZBS)
        .with(Ext::SSTC)
        .with(Ext::SV48)
        .with(Ext::ZAWRS)
        .with(Ext::ZFA)
        .with(Ext::ZICBOM)
        .with(Ext::ZICBOP)
        .with(Ext::ZICBOZ)
        .with(Ext::SVADU);

    /// Both together, and what they imply.
    pub const fn with(self, other: Ext) -> Ext {
        Ext(self.0 | other.0).closed()
    }

    /// Without those of `other`, and those that cannot be without them.
    pub const fn without(self, other: Ext) -> Ext {
        let mut gone = other.0;
        if gone & Ext::F.0 != 0 {
            gone |= Ext::D.0 | Ext::ZFA.0 | Ext::ZFHMIN.0 | Ext::ZFBFMIN.0;
        }
        if gone & Ext::ZFHMIN.0 != 0 {
            gone |= Ext::ZFH.0;
        }
        if gone & Ext::C.0 != 0 {
            gone |= Ext::ZCB.0 | Ext::ZCMOP.0;
        }
        Ext(self.0 & !(gone | Ext::SHARED) | Ext::I.0).closed()
    }

    /// Parts of several extensions.
    const SHARED: u64 = Ext::HALF.0 | Ext::ROTATE.0 | Ext::CLMUL.0 | Ext::AESKEY.0;

    const fn closed(self) -> Ext {
        let mut v = self.0;
        if v & Ext::ZFH.0 != 0 {
            v |= Ext::ZFHMIN.0;
        }
        if v & (Ext::ZFHMIN.0 | Ext::ZFBFMIN.0) != 0 {
            v |= Ext::HALF.0;
        }
        if v & (Ext::ZBB.0 | Ext::ZBKB.0) != 0 {
            v |= Ext::ROTATE.0;
        }
        if v & (Ext::ZBC.0 | Ext::ZBKC.0) != 0 {
            v |= Ext::CLMUL.0;
        }
        if v & (Ext::ZKND.0 | Ext::ZKNE.0) != 0 {
            v |= Ext::AESKEY.0;
        }
        Ext(v)
    }

    /// Whether all of `other` are here.
    #[inline(always)]
    pub const fn has(self, other: Ext) -> bool {
        self.0 & other.0 == other.0
    }

    /// The `riscv,isa` string of the device tree, and of `/proc/cpuinfo` in the guest.
    pub fn isa_string(self) -> String {
        let mut s = String::from("rv64i");
        for (e, c) in [(Ext::M, 'm'), (Ext::A, 'a'), (Ext::F, 'f'), (Ext::D, 'd'), (Ext::C, 'c')] {
            if self.has(e) {
                s.push(c);
            }
        }
        for name in self.named() {
            s.push('_');
            s.push_str(name);
        }
        s
    }

    /// The names of `riscv,isa-extensions`, in canonical order.
    pub fn isa_extensions(self) -> Vec<&'static str> {
        let mut v = vec!["i"];
        for (e, c) in [(Ext::M, "m"), (Ext::A, "a"), (Ext::F, "f"), (Ext::D, "d"), (Ext::C, "c")] {
            if self.has(e) {
                v.push(c);
            }
        }
        v.extend(self.named());
        v
    }

    fn named(self) -> impl Iterator<Item = &'static str> {
        NAMES.iter().filter(move |(e, _)| self.has(*e)).map(|(_, n)| *n)
    }

    /// Looks an extension up by the name of a `-cpu` property (`zba`, `c`, …).
    pub fn by_name(name: &str) -> Option<Ext> {
        NAMES.iter().chain(OTHER_NAMES).find(|(e, n)| *n == name && *e != Ext::I).map(|(e, _)| *e)
    }
}
