//! Floating point: operations as the host's instructions, under the guest's rounding mode.
//!
//! The state has every `f` register at all times. Those that a region uses most have a vector register, too: it is loaded where
//! the region is entered and after helpers, and written together with the state. What the host does otherwise than RISC-V is
//! left to the interpreter, or to a helper.

use super::Quick;
use super::asm::{Alu, Cc, RAX, RCX, Rm};
use super::asm_fp::{Arith, Signs, Xm, Xmm};
use super::memory::Cold;
use super::thunks::{self, field};
use super::values::{B, Bin, Kind, Un, V};
use crate::region::{Region, reads, writes};
use isa_riscv::engine::layout;
use isa_riscv::insn::Format;
use sem::{Cond, FpFormat, FpOp, FpRound, IntFormat, Width};

/// Vector registers for the present operation.
pub(super) const XMM0: Xmm = 0;
const XMM1: Xmm = 1;
const XMM15: Xmm = 15;
/// Those for guest registers.
const HOMES: std::ops::Range<Xmm> = 2..15;

/// The ones above a binary32 in a register.
pub(super) const BOX: u64 = 0xffff_ffff_0000_0000;
const NAN32: u64 = 0x7fc0_0000;
const NAN64: u64 = 0x7ff8_0000_0000_0000;

/// The second byte of `mstatus` has the field that says whether the floating-point unit is on.
fn fs_byte() -> Rm {
    field(layout::MSTATUS + 1)
}
const FS_LOW: u8 = 0x20;
const FS_HIGH: u8 = 0x40;

/// Whether this host has the instructions for it.
pub(crate) fn is_possible() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::is_x86_feature_detected!("avx") && std::is_x86_feature_detected!("fma");
    #[cfg(not(target_arch = "x86_64"))]
    return false;
}

/// Which vector registers have which guest registers in a region.
#[derive(Debug, Default)]
pub(super) struct Homes {
    pub(super) of: [Option<Xmm>; 32],
    /// Registers with a vector register that are read before they are written, from each block on: bit `n` for `fn`.
    pub(super) live: Vec<u32>,
}

fn float_bits(registers: u64) -> u32 {
    (registers >> 32) as u32
}

impl Homes {
    /// Chooses for a region.
    pub(super) fn of(region: &Region) -> Homes {
        let mut homes = Homes { of: [None; 32], live: vec![0; region.blocks.len()] };
        if float_bits(region.used) == 0 {
            return homes;
        }
        let mut score = [0u32; 32];
        for (block, weight) in region.blocks.iter().zip(region.weights()) {
            for (_, i) in &block.insns {
                let used = float_bits(reads(*i) | writes(*i));
                (0..32).filter(|r| used >> r & 1 != 0).for_each(|r| score[r] += weight);
            }
        }
        let mut order: Vec<usize> = (0..32).filter(|r| score[*r] > 1).collect();
        order.sort_by_key(|r| std::cmp::Reverse(score[*r]));
        for (r, xmm) in order.into_iter().zip(HOMES) {
            homes.of[r] = Some(xmm);
        }
        homes.find_live(region);
        homes
    }

    fn find_live(&mut self, region: &Region) {
        let has_home = self.all();
        let mut again = true;
        while std::mem::take(&mut again) {
            for (n, block) in region.blocks.iter().enumerate().rev() {
                let next = block.next.iter().filter_map(|to| region.block(*to));
                let after = next.fold(0, |l, t| l | self.live[t]);
                let live =
                    block.insns.iter().rev().fold(after, |l, (_, i)| {
                        l & !float_bits(writes(*i)) | float_bits(reads(*i)) & has_home
                    });
                again |= live != self.live[n];
                self.live[n] = live;
            }
        }
    }

    /// Registers that have a vector register.
    pub(super) fn all(&self) -> u32 {
        (0..32).filter(|r| self.of[*r].is_some()).fold(0, |m, r| m | 1 << r)
    }
}

/// What an operation's rounding asks of the mode that the host is in.
enum Mode {
    Any,
    /// `frm` is this.
    Is(u8),
    /// The host has none.
    Other,
}

fn mode_of(op: FpOp, round: FpRound) -> Mode {
    // Those that do not round do not care.
    let exact = matches!(
        op,
        FpOp::Eq(_)
            | FpOp::Lt(_)
            | FpOp::Le(_)
            | FpOp::LtQuiet(_)
            | FpOp::LeQuiet(_)
            | FpOp::Min(_)
            | FpOp::Max(_)
            | FpOp::Convert(FpFormat::F32, FpFormat::F64)
            | FpOp::FromInt(IntFormat::I32 | IntFormat::U32, FpFormat::F64)
    );
    match round {
        FpRound::Dynamic => Mode::Any,
        FpRound::TowardZero if matches!(op, FpOp::ToInt(..)) => Mode::Any,
        _ if exact => Mode::Any,
        FpRound::NearestEven => Mode::Is(0),
        FpRound::TowardZero => Mode::Is(1),
        FpRound::Down => Mode::Is(2),
        FpRound::Up => Mode::Is(3),
        FpRound::NearestMaxMagnitude => Mode::Other,
    }
}

fn is_single(f: FpFormat) -> Option<bool> {
    match f {
        FpFormat::F32 => Some(true),
        FpFormat::F64 => Some(false),
        FpFormat::F16 | FpFormat::BF16 => None,
    }
}

impl Quick {
    /// Leaves where the floating-point unit is off.
    pub(super) fn check_fp_on(&mut self) {
        if !std::mem::replace(&mut self.fp_on, true) {
            self.v.a.test8_imm(fs_byte(), FS_LOW | FS_HIGH);
            self.step_if(Cc::E);
        }
    }

    /// Notes that a register changes.
    pub(super) fn mark_fp_dirty(&mut self) {
        if std::mem::replace(&mut self.fp_dirty, true) {
            return;
        }
        let (entry, back) = (self.v.a.label(), self.v.a.label());
        for bit in [FS_LOW, FS_HIGH] {
            self.v.a.test8_imm(fs_byte(), bit);
            self.v.a.jcc(Cc::E, entry);
        }
        self.v.a.bind(back);
        self.cold.push(Cold::Dirty { entry, back });
    }

    /// Leaves where the host has not got the guest's dynamic rounding mode.
    pub(super) fn check_frm(&mut self) {
        if !std::mem::replace(&mut self.frm_seen, true) {
            self.v.a.cmp8_imm(field(layout::FRM), 3);
            self.step_if(Cc::A);
        }
    }

    /// The vector register that the present instruction's result should be in.
    fn float_dst(&self) -> Xmm {
        self.float_to.unwrap_or(XMM0)
    }

    /// `v` as an operand. `temp`: a register that nothing needs.
    fn float_operand(&mut self, v: V, single: bool, temp: Xmm) -> Xm {
        let r = match v {
            V::F(r) if !single => Some(r),
            _ if single => self.v.boxed_register(v),
            _ => None,
        };
        if let Some(r) = r {
            let home = self.v.homes.of[usize::from(r)];
            return home.map_or(Xm::At(thunks::f(r)), Xm::Xmm);
        }
        self.v.prepare(v);
        self.v.unlock();
        let from = self.v.in_register(v);
        if single {
            self.v.a.mov_to_boxed(temp, from);
        } else {
            self.v.a.mov_to_xmm(temp, from);
        }
        self.v.unlock();
        Xm::Xmm(temp)
    }

    /// The operand in a register, with all of its bits.
    fn in_xmm(&mut self, x: Xm, temp: Xmm) -> Xmm {
        match x {
            Xm::Xmm(r) => r,
            Xm::At(m) => {
                self.v.a.load_xmm(temp, m);
                temp
            }
        }
    }

    fn float_value(&self, single: bool, x: Xmm) -> V {
        if single { V::S(x) } else { V::D(x) }
    }

    /// Makes a NaN the canonical one.
    fn canonical(&mut self, single: bool, dst: Xmm) {
        self.v.a.compare_quietly(single, dst, Xm::Xmm(dst));
        let (entry, back) = (self.v.a.label(), self.v.a.label());
        self.v.a.jcc(Cc::P, entry);
        self.v.a.bind(back);
        let (nan, single) = if single { (NAN32, true) } else { (NAN64, false) };
        self.cold.push(Cold::Nan { entry, back, dst, nan, single });
    }

    /// The operation by instructions of the host; `None` if it has none.
    pub(super) fn float(&mut self, op: FpOp, [a, b, c]: [V; 3], round: FpRound) -> Option<V> {
        if op.formats().iter().flatten().any(|f| is_single(*f).is_none()) {
            return None;
        }
        let known = matches!(
            op,
            FpOp::Add(_)
                | FpOp::Sub(_)
                | FpOp::Mul(_)
                | FpOp::Div(_)
                | FpOp::Sqrt(_)
                | FpOp::Fma(_)
                | FpOp::Min(_)
                | FpOp::Max(_)
                | FpOp::Eq(_)
                | FpOp::Lt(_)
                | FpOp::Le(_)
                | FpOp::LtQuiet(_)
                | FpOp::LeQuiet(_)
                | FpOp::Convert(..)
                | FpOp::FromInt(..)
                | FpOp::ToInt(..)
        );
        if !known || matches!(op, FpOp::Convert(from, to) if from == to) {
            return None;
        }
        if let FpOp::ToInt(_, IntFormat::U32 | IntFormat::U64) = op
            && round != FpRound::TowardZero
        {
            return None;
        }
        match mode_of(op, round) {
            Mode::Any => {}
            Mode::Is(mode) => {
                if self.frm_is.replace(mode) != Some(mode) {
                    self.v.a.cmp8_imm(field(layout::FRM), mode);
                    self.step_if(Cc::Ne);
                }
            }
            Mode::Other => return None,
        }
        Some(match op {
            FpOp::Add(f) => self.arith(Arith::Add, is_single(f)?, a, b),
            FpOp::Sub(f) => self.arith(Arith::Sub, is_single(f)?, a, b),
            FpOp::Mul(f) => self.arith(Arith::Mul, is_single(f)?, a, b),
            FpOp::Div(f) => self.arith(Arith::Div, is_single(f)?, a, b),
            FpOp::Min(f) => self.min_max(Arith::Min, is_single(f)?, a, b),
            FpOp::Max(f) => self.min_max(Arith::Max, is_single(f)?, a, b),
            FpOp::Sqrt(f) => {
                let (single, dst) = (is_single(f)?, self.float_dst());
                let a = self.float_operand(a, single, XMM1);
                let a = self.in_xmm(a, XMM1);
                self.v.a.sqrt(single, dst, a, Xm::Xmm(a));
                self.canonical(single, dst);
                self.float_value(single, dst)
            }
            FpOp::Fma(f) => self.fma(is_single(f)?, [a, b, c]),
            FpOp::Eq(f) => self.compare(is_single(f)?, Cc::E, true, a, b),
            FpOp::Lt(f) => self.compare(is_single(f)?, Cc::A, false, b, a),
            FpOp::Le(f) => self.compare(is_single(f)?, Cc::Ae, false, b, a),
            FpOp::LtQuiet(f) => self.compare(is_single(f)?, Cc::A, true, b, a),
            FpOp::LeQuiet(f) => self.compare(is_single(f)?, Cc::Ae, true, b, a),
            FpOp::Convert(from, to) => {
                let (narrow, dst) = (is_single(to)?, self.float_dst());
                let a = self.float_operand(a, is_single(from)?, XMM1);
                if narrow {
                    let upper = if a == Xm::Xmm(dst) { XMM15 } else { dst };
                    self.v.a.ones(upper);
                    self.v.a.convert(true, dst, upper, a);
                } else {
                    let a = self.in_xmm(a, XMM1);
                    self.v.a.convert(false, dst, a, Xm::Xmm(a));
                }
                self.canonical(narrow, dst);
                self.float_value(narrow, dst)
            }
            FpOp::FromInt(from, to) => self.int_to_float(from, is_single(to)?, a),
            FpOp::ToInt(from, to) => self.float_to_int(is_single(from)?, to, round == FpRound::TowardZero, a),
            _ => return None,
        })
    }

    fn arith(&mut self, op: Arith, single: bool, a: V, b: V) -> V {
        let dst = self.float_dst();
        let (a, b) = (self.float_operand(a, single, XMM1), self.float_operand(b, single, XMM15));
        let a = self.in_xmm(a, XMM1);
        self.v.a.arith(op, single, dst, a, b);
        self.canonical(single, dst);
        self.float_value(single, dst)
    }

    /// The lesser or greater; of zeros that with a sign is the lesser.
    fn min_max(&mut self, op: Arith, single: bool, a: V, b: V) -> V {
        let dst = self.float_dst();
        let (a, b) = (self.float_operand(a, single, XMM1), self.float_operand(b, single, XMM15));
        let (a, b) = (self.in_xmm(a, XMM1), self.in_xmm(b, XMM15));
        self.v.a.compare_quietly(single, a, Xm::Xmm(b));
        self.step_if(Cc::P);
        let (differ, done) = (self.v.a.label(), self.v.a.label());
        self.v.a.jcc(Cc::Ne, differ);
        // Equal numbers have the same bits, but for the signs of zeros.
        if op == Arith::Min {
            self.v.a.or_bits(dst, a, b);
        } else {
            self.v.a.and_bits(dst, a, b);
        }
        self.v.a.jmp(done);
        self.v.a.bind(differ);
        self.v.a.arith(op, single, dst, a, Xm::Xmm(b));
        self.v.a.bind(done);
        self.float_value(single, dst)
    }

    fn fma(&mut self, single: bool, [a, b, c]: [V; 3]) -> V {
        let sign = if single { 1 << 31 } else { 1 << 63 };
        let (product, a) = self.v.without_sign(a, sign);
        let (minus, c) = self.v.without_sign(c, sign);
        let signs = Signs { product, c: minus };
        let dst = self.float_dst();
        let a = self.float_operand(a, single, XMM1);
        let b = self.float_operand(b, single, XMM15);
        let c = self.float_operand(c, single, XMM0);
        let here = Xm::Xmm(dst);
        if c != here && (a == here || b == here) {
            let other = if a == here { b } else { a };
            let other = self.in_xmm(other, XMM1);
            self.v.a.fma_to_factor(signs, single, dst, other, c);
        } else {
            let a = self.in_xmm(a, XMM1);
            match c {
                Xm::Xmm(c) => self.v.a.mov_xmm(dst, c),
                Xm::At(m) => self.v.a.load_xmm(dst, m),
            }
            self.v.a.fma_to_sum(signs, single, dst, a, b);
        }
        // Infinity times zero plus a NaN raises invalid here, but not on every host.
        self.v.a.compare_quietly(single, dst, Xm::Xmm(dst));
        self.step_if(Cc::P);
        self.float_value(single, dst)
    }

    fn compare(&mut self, single: bool, cc: Cc, quiet: bool, a: V, b: V) -> V {
        let (a, b) = (self.float_operand(a, single, XMM1), self.float_operand(b, single, XMM15));
        let a = self.in_xmm(a, XMM1);
        self.v.spill_all();
        if quiet {
            self.v.a.compare_quietly(single, a, b);
        } else {
            self.v.a.compare_signaling(single, a, b);
        }
        self.v.a.set(cc, RAX);
        if cc == Cc::E {
            // A NaN looks equal.
            self.v.a.set(Cc::Np, RCX);
            self.v.a.alu(Alu::And, RAX, Rm::Reg(RCX));
        }
        self.v.given(RAX)
    }

    fn int_to_float(&mut self, from: IntFormat, single: bool, a: V) -> V {
        let dst = self.float_dst();
        let a = if from == IntFormat::U32 { self.v.un(Un::Zext(Width::W32), a) } else { a };
        self.v.prepare(a);
        self.v.unlock();
        let at = Rm::Reg(self.v.in_register(a));
        if let (IntFormat::U64, Rm::Reg(r)) = (from, at) {
            self.v.a.test(r);
            self.step_if(Cc::S);
        }
        self.v.unlock();
        if single {
            self.v.a.ones(dst);
        } else {
            self.v.a.zero(dst);
        }
        self.v.a.cvt_from_int(single, from != IntFormat::I32, dst, dst, at);
        self.float_value(single, dst)
    }

    fn float_to_int(&mut self, single: bool, to: IntFormat, cut: bool, a: V) -> V {
        let a = self.float_operand(a, single, XMM1);
        self.v.spill_all();
        let wide = to != IntFormat::I32;
        if matches!(to, IntFormat::U32 | IntFormat::U64) {
            let a = self.in_xmm(a, XMM1);
            let high = if to == IntFormat::U32 { 4294967296.0f64 } else { 9223372036854775808.0 };
            // What is above the first and below the second fits; of the rest the interpreter knows more.
            for (limit, cc) in [(-1.0f64, Cc::Be), (high, Cc::Ae)] {
                let bits = if single { (limit as f32).to_bits().into() } else { limit.to_bits() };
                self.v.a.mov_imm(RAX, bits);
                self.v.a.mov_to_xmm(XMM0, RAX);
                self.v.a.compare_quietly(single, a, Xm::Xmm(XMM0));
                self.step_if(cc);
            }
        }
        self.v.a.cvt_to_int(single, wide, cut, RAX, a);
        match to {
            // The least integer is also given where there is none.
            IntFormat::I64 => {
                self.v.a.alu_imm(Alu::Cmp, Rm::Reg(RAX), 1);
                self.step_if(Cc::O);
            }
            IntFormat::I32 => {
                self.v.a.cmp32_imm(Rm::Reg(RAX), 1);
                self.step_if(Cc::O);
                self.v.a.movsx32(RAX, Rm::Reg(RAX));
            }
            IntFormat::U32 => self.v.a.movsx32(RAX, Rm::Reg(RAX)),
            IntFormat::U64 => {}
        }
        self.v.given(RAX)
    }

    /// Recognizes the test whether a register has a boxed number: makes it, unless the answer is known; what is not boxed is the
    /// interpreter's.
    pub(super) fn boxed_operand(&mut self, c: B, x: V, y: V) -> Option<V> {
        let (B::Cmp(Cond::Eq, high, V::Imm(BOX)), V::Imm(NAN32)) = (c, y) else { return None };
        let Some(Kind::Bin(Bin::And, V::F(r), V::Imm(BOX))) = self.v.kind(high) else { return None };
        if self.v.kind(x) != Some(Kind::Un(Un::Zext(Width::W32), V::F(r))) {
            return None;
        }
        if self.v.boxed >> r & 1 == 0 {
            let Rm::Mem(base, at) = thunks::f(r) else { return None };
            self.v.a.cmp32_imm(Rm::Mem(base, at + 4), -1);
            self.step_if(Cc::Ne);
            self.v.boxed |= 1 << r;
        }
        Some(x)
    }

    /// Writes what the instruction gave into `f[r]`.
    pub(super) fn write_float(&mut self, r: u8, v: V) {
        let home = self.v.homes.of[usize::from(r)];
        let state = thunks::f(r);
        let from = match v {
            V::D(x) => x,
            V::F(s) => match self.v.homes.of[usize::from(s)] {
                Some(x) => x,
                None => {
                    let x = home.unwrap_or(XMM0);
                    self.v.a.load_xmm(x, thunks::f(s));
                    x
                }
            },
            v => {
                match home {
                    None => self.v.write(state, v),
                    Some(home) => {
                        self.v.prepare(v);
                        self.v.unlock();
                        let from = self.v.in_register(v);
                        self.v.a.mov_to(state, from);
                        self.v.a.mov_to_xmm(home, from);
                        self.v.unlock();
                    }
                }
                return;
            }
        };
        self.v.a.store_xmm(false, state, from);
        if let Some(home) = home {
            self.v.a.mov_xmm(home, from);
        }
    }

    /// The vector register for what the present instruction loads or computes.
    pub(super) fn aim_float(&mut self, rd: usize, format: Format, writes: u64) {
        let float = float_bits(writes) != 0;
        self.float_to = self.v.homes.of[rd & 31].filter(|_| float);
        self.loads_float = (float && format == Format::FpLoad).then(|| self.float_dst());
    }
}
