//! Machine code of x86-64 for floating point: AVX and FMA, one number in a register.
//!
//! The upper part of a result is the first operand's, so what is boxed as RISC-V wants it stays boxed.

use super::asm::{Asm, Label, Reg, Regs, Rm};
use cranelift_assembler_x64::{CodeSink, GprMem, XmmMem, inst};

/// A vector register, by its number.
pub(super) type Xmm = u8;

/// A vector register, or memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Xm {
    Xmm(Xmm),
    At(Rm),
}

impl Xm {
    fn either(self) -> XmmMem<u8, u8> {
        match self {
            Xm::Xmm(r) => XmmMem::Xmm(r),
            Xm::At(m) => XmmMem::Mem(m.amode()),
        }
    }
}

/// Operations with two operands and a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arith {
    Add,
    Sub,
    Mul,
    Div,
    Min,
    Max,
}

/// `a * b + c` with signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Signs {
    /// Of the product.
    pub(super) product: bool,
    /// Of `c`.
    pub(super) c: bool,
}

macro_rules! put {
    ($self:ident, $name:ident, $($arg:expr),*) => {
        inst::$name::<Regs>::new($($arg),*).encode(&mut $self.code)
    };
}

/// The form for binary32 or that for binary64.
macro_rules! put_as {
    ($self:ident, $single:expr, $s:ident, $d:ident, $($arg:expr),*) => {
        if $single { put!($self, $s, $($arg),*) } else { put!($self, $d, $($arg),*) }
    };
}

fn gpr(m: Rm) -> GprMem<u8, u8> {
    match m {
        Rm::Reg(r) => GprMem::Gpr(r),
        m => GprMem::Mem(m.amode()),
    }
}

impl Asm {
    pub(super) fn arith(&mut self, op: Arith, single: bool, dst: Xmm, a: Xmm, b: Xm) {
        let b = b.either();
        match op {
            Arith::Add => put_as!(self, single, vaddss_b, vaddsd_b, dst, a, b),
            Arith::Sub => put_as!(self, single, vsubss_b, vsubsd_b, dst, a, b),
            Arith::Mul => put_as!(self, single, vmulss_b, vmulsd_b, dst, a, b),
            Arith::Div => put_as!(self, single, vdivss_b, vdivsd_b, dst, a, b),
            Arith::Min => put_as!(self, single, vminss_b, vminsd_b, dst, a, b),
            Arith::Max => put_as!(self, single, vmaxss_b, vmaxsd_b, dst, a, b),
        }
    }

    /// The square root; what is above the number is that of `upper`.
    pub(super) fn sqrt(&mut self, single: bool, dst: Xmm, upper: Xmm, src: Xm) {
        put_as!(self, single, vsqrtss_b, vsqrtsd_b, dst, upper, src.either());
    }

    /// `c = a * b + c`.
    pub(super) fn fma_to_sum(&mut self, signs: Signs, single: bool, c: Xmm, a: Xmm, b: Xm) {
        let b = b.either();
        match (signs.product, signs.c) {
            (false, false) => put_as!(self, single, vfmadd231ss_a, vfmadd231sd_a, c, a, b),
            (false, true) => put_as!(self, single, vfmsub231ss_a, vfmsub231sd_a, c, a, b),
            (true, false) => put_as!(self, single, vfnmadd231ss_a, vfnmadd231sd_a, c, a, b),
            (true, true) => put_as!(self, single, vfnmsub231ss_a, vfnmsub231sd_a, c, a, b),
        }
    }

    /// `a = a * b + c`.
    pub(super) fn fma_to_factor(&mut self, signs: Signs, single: bool, a: Xmm, b: Xmm, c: Xm) {
        let c = c.either();
        match (signs.product, signs.c) {
            (false, false) => put_as!(self, single, vfmadd213ss_a, vfmadd213sd_a, a, b, c),
            (false, true) => put_as!(self, single, vfmsub213ss_a, vfmsub213sd_a, a, b, c),
            (true, false) => put_as!(self, single, vfnmadd213ss_a, vfnmadd213sd_a, a, b, c),
            (true, true) => put_as!(self, single, vfnmsub213ss_a, vfnmsub213sd_a, a, b, c),
        }
    }

    /// Sets the flags as for unsigned integers; parity: one is a NaN. Raises invalid for signaling NaNs.
    pub(super) fn compare_quietly(&mut self, single: bool, a: Xmm, b: Xm) {
        put_as!(self, single, vucomiss_a, vucomisd_a, a, b.either());
    }

    /// The same, raising invalid for every NaN.
    pub(super) fn compare_signaling(&mut self, single: bool, a: Xmm, b: Xm) {
        let start = self.code.len();
        self.compare_quietly(single, a, b);
        // The assembler knows only the other one, whose operation code is one less.
        let op = start + if self.code[start] == 0xc5 { 2 } else { 3 };
        assert_eq!(self.code[op], 0x2e, "the operation code is behind the prefix");
        self.code[op] = 0x2f;
    }

    /// An integer of 64 bits if `wide`, else 32, `cut` off or rounded; the least integer where there is none.
    pub(super) fn cvt_to_int(&mut self, single: bool, wide: bool, cut: bool, dst: Reg, src: Xm) {
        let src = src.either();
        match (wide, cut) {
            (true, true) => put_as!(self, single, vcvttss2si_aq, vcvttsd2si_aq, dst, src),
            (true, false) => put_as!(self, single, vcvtss2si_aq, vcvtsd2si_aq, dst, src),
            (false, true) => put_as!(self, single, vcvttss2si_a, vcvttsd2si_a, dst, src),
            (false, false) => put_as!(self, single, vcvtss2si_a, vcvtsd2si_a, dst, src),
        }
    }

    pub(super) fn cvt_from_int(&mut self, single: bool, wide: bool, dst: Xmm, upper: Xmm, src: Rm) {
        let src = gpr(src);
        if wide {
            put_as!(self, single, vcvtsi2ssq_b, vcvtsi2sdq_b, dst, upper, src);
        } else {
            put_as!(self, single, vcvtsi2ssl_b, vcvtsi2sdl_b, dst, upper, src);
        }
    }

    /// From binary64 to binary32 if `narrow`, else the other way.
    pub(super) fn convert(&mut self, narrow: bool, dst: Xmm, upper: Xmm, src: Xm) {
        put_as!(self, narrow, vcvtsd2ss_b, vcvtss2sd_b, dst, upper, src.either());
    }

    /// All bits set.
    pub(super) fn ones(&mut self, dst: Xmm) {
        put!(self, vpcmpeqd_b, dst, dst, XmmMem::Xmm(dst));
    }

    pub(super) fn zero(&mut self, dst: Xmm) {
        put!(self, vxorps_b, dst, dst, XmmMem::Xmm(dst));
    }

    pub(super) fn or_bits(&mut self, dst: Xmm, a: Xmm, b: Xmm) {
        put!(self, vorps_b, dst, a, XmmMem::Xmm(b));
    }

    pub(super) fn and_bits(&mut self, dst: Xmm, a: Xmm, b: Xmm) {
        put!(self, vandps_b, dst, a, XmmMem::Xmm(b));
    }

    pub(super) fn mov_xmm(&mut self, dst: Xmm, src: Xmm) {
        if dst != src {
            put!(self, vmovaps_a, dst, XmmMem::Xmm(src));
        }
    }

    /// 64 bits of memory.
    pub(super) fn load_xmm(&mut self, dst: Xmm, src: Rm) {
        put!(self, vmovsd_d, dst, src.amode());
    }

    /// 32 bits of memory, boxed.
    pub(super) fn load_boxed(&mut self, dst: Xmm, src: Rm) {
        self.ones(dst);
        put!(self, vinsertps_b, dst, dst, XmmMem::Mem(src.amode()), 0);
    }

    /// The low 32 bits if `single`, else 64.
    pub(super) fn store_xmm(&mut self, single: bool, dst: Rm, src: Xmm) {
        put_as!(self, single, vmovss_c_m, vmovsd_c_m, dst.amode(), src);
    }

    pub(super) fn mov_to_xmm(&mut self, dst: Xmm, src: Reg) {
        put!(self, vmovq_a, dst, GprMem::Gpr(src));
    }

    /// The low 32 bits of a register, boxed.
    pub(super) fn mov_to_boxed(&mut self, dst: Xmm, src: Reg) {
        self.ones(dst);
        put!(self, vpinsrd_b, dst, dst, GprMem::Gpr(src), 0);
    }

    pub(super) fn mov_from_xmm(&mut self, dst: Reg, src: Xmm) {
        put!(self, vmovq_b, GprMem::Gpr(dst), src);
    }

    /// The low 32 bits, zero-extended.
    pub(super) fn mov_from_xmm32(&mut self, dst: Reg, src: Xmm) {
        put!(self, vmovd_b, GprMem::Gpr(dst), src);
    }

    pub(super) fn test8_imm(&mut self, m: Rm, v: u8) {
        put!(self, testb_mi, gpr(m), v);
    }

    pub(super) fn cmp8_imm(&mut self, m: Rm, v: u8) {
        put!(self, cmpb_mi, gpr(m), v);
    }

    pub(super) fn cmp32_imm(&mut self, m: Rm, v: i8) {
        put!(self, cmpl_mi_sxb, gpr(m), v);
    }

    pub(super) fn or32_imm(&mut self, m: Rm, v: u32) {
        put!(self, orl_mi, gpr(m), v);
    }

    /// Calls what is at a label.
    pub(super) fn call_label(&mut self, l: Label) {
        self.code.put1(0xe8);
        self.distance_to(l);
    }
}
