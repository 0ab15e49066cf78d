//! Machine code of x86-64, one instruction behind the other, with labels.

use cranelift_assembler_x64::{
    Amode, AmodeOffset, AmodeOffsetPlusKnownOffset, CodeSink, GprMem, NonRspGpr, Registers, Scale, TrapCode,
    inst,
};
use std::num::NonZeroU8;

/// A general register, by its number.
pub(super) type Reg = u8;

pub(super) const RAX: Reg = 0;
pub(super) const RCX: Reg = 1;
pub(super) const RDX: Reg = 2;
pub(super) const RBX: Reg = 3;
pub(super) const RSP: Reg = 4;
pub(super) const RBP: Reg = 5;
pub(super) const RSI: Reg = 6;
pub(super) const RDI: Reg = 7;
pub(super) const R8: Reg = 8;
pub(super) const R9: Reg = 9;
pub(super) const R10: Reg = 10;
pub(super) const R11: Reg = 11;
pub(super) const R12: Reg = 12;
pub(super) const R13: Reg = 13;
pub(super) const R14: Reg = 14;
pub(super) const R15: Reg = 15;

/// Registers are numbers.
pub(super) struct Regs;

impl Registers for Regs {
    type ReadGpr = u8;
    type ReadWriteGpr = u8;
    type WriteGpr = u8;
    type ReadXmm = u8;
    type ReadWriteXmm = u8;
    type WriteXmm = u8;
}

/// A register, or memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rm {
    Reg(Reg),
    /// At a register and a distance.
    Mem(Reg, i32),
    /// At the sum of two registers and a distance.
    Sum(Reg, Reg, i32),
}

impl Rm {
    pub(super) fn amode(self) -> Amode<u8> {
        match self {
            Rm::Reg(base) => Rm::Mem(base, 0).amode(),
            Rm::Mem(base, disp) => Amode::ImmReg {
                base,
                simm32: AmodeOffsetPlusKnownOffset { simm32: AmodeOffset::new(disp), offset: None },
                trap: None,
            },
            Rm::Sum(base, index, disp) => Amode::ImmRegRegShift {
                base,
                index: NonRspGpr::new(index),
                scale: Scale::One,
                simm32: AmodeOffset::new(disp),
                trap: None,
            },
        }
    }

    fn either(self) -> GprMem<u8, u8> {
        match self {
            Rm::Reg(r) => GprMem::Gpr(r),
            m => GprMem::Mem(m.amode()),
        }
    }
}

impl From<Reg> for Rm {
    fn from(r: Reg) -> Rm {
        Rm::Reg(r)
    }
}

/// Operations with two operands, of which the first is the result too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Alu {
    Add,
    Sub,
    And,
    Or,
    Xor,
    /// Sets the flags only.
    Cmp,
}

/// Shifts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shift {
    Left,
    Right,
    Arithmetic,
}

/// Conditions, by their numbers in instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Cc {
    O = 0,
    B = 2,
    Ae = 3,
    E = 4,
    Ne = 5,
    Be = 6,
    A = 7,
    S = 8,
    /// After comparing numbers: one is a NaN.
    P = 10,
    Np = 11,
    L = 12,
    Ge = 13,
    Le = 14,
    G = 15,
}

/// A place in the code, perhaps not known yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Label(u32);

const NOWHERE: u32 = u32::MAX;

/// Code that is being written.
#[derive(Default)]
pub(super) struct Asm {
    pub(super) code: Vec<u8>,
    labels: Vec<u32>,
    /// Where distances to labels are missing.
    uses: Vec<(u32, Label)>,
    /// Where distances to addresses outside are missing, which depend on where the code will be.
    pub(super) outside: Vec<(u32, u64)>,
}

macro_rules! put {
    ($self:ident, $name:ident, $($arg:expr),*) => {
        inst::$name::<Regs>::new($($arg),*).encode(&mut $self.code)
    };
}

macro_rules! register_from_either {
    ($($name:ident $ins:ident;)*) => { $(
        pub(super) fn $name(&mut self, dst: Reg, src: Rm) {
            put!(self, $ins, dst, src.either());
        }
    )* };
}

impl Asm {
    pub(super) fn clear(&mut self) {
        self.code.clear();
        self.labels.clear();
        self.uses.clear();
        self.outside.clear();
    }

    /// Bytes so far.
    pub(super) fn at(&self) -> u32 {
        self.code.len() as u32
    }

    pub(super) fn label(&mut self) -> Label {
        self.labels.push(NOWHERE);
        Label(self.labels.len() as u32 - 1)
    }

    /// The label is here.
    pub(super) fn bind(&mut self, l: Label) {
        self.labels[l.0 as usize] = self.at();
    }

    pub(super) fn place(&self, l: Label) -> u32 {
        self.labels[l.0 as usize]
    }

    /// Fills in the distances to labels.
    pub(super) fn finish(&mut self) {
        for (at, label) in self.uses.drain(..) {
            let to = self.labels[label.0 as usize];
            assert_ne!(to, NOWHERE, "every label is somewhere");
            put_distance(&mut self.code, at, i64::from(to));
        }
    }

    pub(super) fn distance_to(&mut self, l: Label) {
        self.uses.push((self.at(), l));
        self.code.put4(0);
    }

    fn distance_outside(&mut self, to: u64) {
        self.outside.push((self.at(), to));
        self.code.put4(0);
    }

    pub(super) fn jmp(&mut self, l: Label) {
        self.code.put1(0xe9);
        self.distance_to(l);
    }

    pub(super) fn jcc(&mut self, cc: Cc, l: Label) {
        self.code.put1(0x0f);
        self.code.put1(0x80 | cc as u8);
        self.distance_to(l);
    }

    /// Jumps to an address outside.
    pub(super) fn jmp_out(&mut self, to: u64) {
        self.code.put1(0xe9);
        self.distance_outside(to);
    }

    /// Calls an address outside.
    pub(super) fn call_out(&mut self, to: u64) {
        self.code.put1(0xe8);
        self.distance_outside(to);
    }

    /// Jumps to where a word at an address outside says.
    pub(super) fn jmp_through(&mut self, word: u64) {
        self.code.put1(0xff);
        self.code.put1(0x25);
        self.distance_outside(word);
    }

    /// The address of what is outside.
    pub(super) fn lea_out(&mut self, dst: Reg, what: u64) {
        self.code.put1(if dst < 8 { 0x48 } else { 0x4c });
        self.code.put1(0x8d);
        self.code.put1((dst & 7) << 3 | 5);
        self.distance_outside(what);
    }

    pub(super) fn jmp_to(&mut self, to: Rm) {
        put!(self, jmpq_m, to.either());
    }

    pub(super) fn call(&mut self, to: Rm) {
        put!(self, callq_m, to.either());
    }

    pub(super) fn ret(&mut self) {
        inst::retq_zo::new().encode(&mut self.code);
    }

    pub(super) fn push(&mut self, r: Reg) {
        put!(self, pushq_o, r);
    }

    pub(super) fn pop(&mut self, r: Reg) {
        put!(self, popq_o, r);
    }

    /// Does not change the flags.
    pub(super) fn mov(&mut self, dst: Reg, src: Rm) {
        if src != Rm::Reg(dst) {
            put!(self, movq_rm, dst, src.either());
        }
    }

    pub(super) fn mov_to(&mut self, dst: Rm, src: Reg) {
        put!(self, movq_mr, dst.either(), src);
    }

    /// Does not change the flags.
    pub(super) fn mov_imm(&mut self, dst: Reg, v: u64) {
        if let Ok(v) = u32::try_from(v) {
            put!(self, movl_oi, dst, v);
        } else if let Ok(v) = i32::try_from(v as i64) {
            put!(self, movq_mi_sxl, dst, v);
        } else {
            put!(self, movabsq_oi, dst, v);
        }
    }

    pub(super) fn mov_to_imm(&mut self, dst: Rm, v: i32) {
        put!(self, movq_mi_sxl, dst.either(), v);
    }

    register_from_either! {
        mov32 movl_rm;
        movzx8 movzbl_rm;
        movzx16 movzwl_rm;
        movsx8 movsbq_rm;
        movsx16 movswq_rm;
        movsx32 movslq_rm;
        imul imulq_rm;
        lzcnt lzcntq_rm;
        tzcnt tzcntq_a;
        popcnt popcntq_rm;
    }

    pub(super) fn imul_imm(&mut self, dst: Reg, src: Rm, v: i32) {
        put!(self, imulq_rmi_sxl, dst, src.either(), v);
    }

    pub(super) fn lea(&mut self, dst: Reg, of: Rm) {
        put!(self, leaq_rm, dst, of.amode());
    }

    /// Stores the low bytes of a register.
    pub(super) fn store(&mut self, dst: Rm, src: Reg, bytes: u64) {
        match bytes {
            1 => put!(self, movb_mr, dst.either(), src),
            2 => put!(self, movw_mr, dst.either(), src),
            4 => put!(self, movl_mr, dst.either(), src),
            _ => put!(self, movq_mr, dst.either(), src),
        }
    }

    pub(super) fn alu(&mut self, op: Alu, dst: Reg, src: Rm) {
        let s = src.either();
        match op {
            Alu::Add => put!(self, addq_rm, dst, s),
            Alu::Sub => put!(self, subq_rm, dst, s),
            Alu::And => put!(self, andq_rm, dst, s),
            Alu::Or => put!(self, orq_rm, dst, s),
            Alu::Xor => put!(self, xorq_rm, dst, s),
            Alu::Cmp => put!(self, cmpq_rm, dst, s),
        }
    }

    /// Memory or a register with a constant.
    pub(super) fn alu_imm(&mut self, op: Alu, dst: Rm, v: i32) {
        let d = dst.either();
        if let Ok(v) = i8::try_from(v) {
            match op {
                Alu::Add => put!(self, addq_mi_sxb, d, v),
                Alu::Sub => put!(self, subq_mi_sxb, d, v),
                Alu::And => put!(self, andq_mi_sxb, d, v),
                Alu::Or => put!(self, orq_mi_sxb, d, v),
                Alu::Xor => put!(self, xorq_mi_sxb, d, v),
                Alu::Cmp => put!(self, cmpq_mi_sxb, d, v),
            }
        } else {
            match op {
                Alu::Add => put!(self, addq_mi_sxl, d, v),
                Alu::Sub => put!(self, subq_mi_sxl, d, v),
                Alu::And => put!(self, andq_mi_sxl, d, v),
                Alu::Or => put!(self, orq_mi_sxl, d, v),
                Alu::Xor => put!(self, xorq_mi_sxl, d, v),
                Alu::Cmp => put!(self, cmpq_mi, d, v),
            }
        }
    }

    /// Memory with a register.
    pub(super) fn alu_to(&mut self, op: Alu, dst: Rm, src: Reg) {
        let d = dst.either();
        match op {
            Alu::Add => put!(self, addq_mr, d, src),
            Alu::Sub => put!(self, subq_mr, d, src),
            Alu::And => put!(self, andq_mr, d, src),
            Alu::Or => put!(self, orq_mr, d, src),
            Alu::Xor => put!(self, xorq_mr, d, src),
            Alu::Cmp => put!(self, cmpq_mr, d, src),
        }
    }

    pub(super) fn and32_imm(&mut self, dst: Reg, v: u32) {
        put!(self, andl_mi, dst, v);
    }

    pub(super) fn shr32_imm(&mut self, dst: Reg, n: u8) {
        put!(self, shrl_mi, dst, n);
    }

    pub(super) fn shl32_imm(&mut self, dst: Reg, n: u8) {
        put!(self, shll_mi, dst, n);
    }

    pub(super) fn test(&mut self, r: Reg) {
        put!(self, testq_mr, r, r);
    }

    pub(super) fn shift_imm(&mut self, s: Shift, dst: Reg, n: u8) {
        match s {
            Shift::Left => put!(self, shlq_mi, dst, n),
            Shift::Right => put!(self, shrq_mi, dst, n),
            Shift::Arithmetic => put!(self, sarq_mi, dst, n),
        }
    }

    /// By the low six bits of `n`.
    pub(super) fn shift(&mut self, s: Shift, dst: Reg, src: Rm, n: Reg) {
        match s {
            Shift::Left => put!(self, shlxq_rmv, dst, src.either(), n),
            Shift::Right => put!(self, shrxq_rmv, dst, src.either(), n),
            Shift::Arithmetic => put!(self, sarxq_rmv, dst, src.either(), n),
        }
    }

    pub(super) fn ror_imm(&mut self, dst: Reg, src: Rm, n: u8) {
        put!(self, rorxq_rmi, dst, src.either(), n);
    }

    /// Zero-extends.
    pub(super) fn ror32_imm(&mut self, dst: Reg, src: Rm, n: u8) {
        put!(self, rorxl_rmi, dst, src.either(), n);
    }

    /// Rotates right by `cl`.
    pub(super) fn ror_cl(&mut self, dst: Reg) {
        put!(self, rorq_mc, dst, RCX);
    }

    pub(super) fn bswap(&mut self, r: Reg) {
        put!(self, bswapq_o, r);
    }

    /// `rdx:rax` = `rax` * `by`.
    pub(super) fn mul_wide(&mut self, signed: bool, by: Rm) {
        if signed {
            put!(self, imulq_m, RAX, RDX, by.either());
        } else {
            put!(self, mulq_m, RAX, RDX, by.either());
        }
    }

    /// `rax` and the rest `rdx` of `rax` / `by`.
    pub(super) fn div(&mut self, signed: bool, by: Rm) {
        let trap = TrapCode(NonZeroU8::MIN);
        if signed {
            put!(self, cqto_zo, RDX, RAX);
            put!(self, idivq_m, RAX, RDX, by.either(), trap);
        } else {
            put!(self, xorl_rm, RDX, RDX);
            put!(self, divq_m, RAX, RDX, by.either(), trap);
        }
    }

    pub(super) fn mfence(&mut self) {
        inst::mfence_zo::new().encode(&mut self.code);
    }

    /// 1 if the condition holds, else 0.
    pub(super) fn set(&mut self, cc: Cc, dst: Reg) {
        // The assembler has a function for each condition; the number is all that differs.
        if dst >= 4 {
            self.code.put1(if dst < 8 { 0x40 } else { 0x41 });
        }
        self.code.put1(0x0f);
        self.code.put1(0x90 | cc as u8);
        self.code.put1(0xc0 | dst & 7);
        self.movzx8(dst, Rm::Reg(dst));
    }

    pub(super) fn cmov(&mut self, cc: Cc, dst: Reg, src: Rm) {
        let s = src.either();
        match cc {
            Cc::O => put!(self, cmovoq_rm, dst, s),
            Cc::P => put!(self, cmovpq_rm, dst, s),
            Cc::Np => put!(self, cmovnpq_rm, dst, s),
            Cc::B => put!(self, cmovbq_rm, dst, s),
            Cc::Ae => put!(self, cmovaeq_rm, dst, s),
            Cc::E => put!(self, cmoveq_rm, dst, s),
            Cc::Ne => put!(self, cmovneq_rm, dst, s),
            Cc::Be => put!(self, cmovbeq_rm, dst, s),
            Cc::A => put!(self, cmovaq_rm, dst, s),
            Cc::S => put!(self, cmovsq_rm, dst, s),
            Cc::L => put!(self, cmovlq_rm, dst, s),
            Cc::Ge => put!(self, cmovgeq_rm, dst, s),
            Cc::Le => put!(self, cmovleq_rm, dst, s),
            Cc::G => put!(self, cmovgq_rm, dst, s),
        }
    }
}

/// Writes into four bytes at `at` how far it is from behind them to `to`.
pub(super) fn put_distance(code: &mut [u8], at: u32, to: i64) {
    let at = at as usize;
    let distance = (to - (at as i64 + 4)) as i32;
    code[at..at + 4].copy_from_slice(&distance.to_le_bytes());
}
