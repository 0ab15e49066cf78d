//! The semantics of instructions, as machine code: [`Sem`] on [`V`]alues.

use super::Quick;
use super::asm::{Alu, Cc, RDX, Rm};
use super::memory::Cold;
use super::thunks;
use super::values::{B, Bin, Un, V};
use crate::helpers::{self, Atomic};
use isa_riscv::engine::CsrAccess;
use isa_riscv::semantics::{BlockOp, CryptoOp, CsrOp, RvSem, SysOp};
use sem::{AmoOp, Cond, FpOp, FpRound, Sem, Width};
use std::convert::Infallible;

/// Where control goes after the last instruction of a block.
#[derive(Clone, Copy, Debug)]
pub(super) enum Then {
    /// Where a jump goes, or what follows in memory.
    On,
    /// Where a branch goes if true, else to what follows in memory.
    Either(B),
    /// To an address.
    To(V),
}

impl Quick {
    fn atomic(&mut self, what: Atomic, addr: V, v: V, size: Width) -> V {
        let what = V::Imm(what.number(size));
        self.call_or_trap(helpers::atomic as *const () as usize, &[what, addr, v])
    }

    fn call_or_trap(&mut self, function: usize, args: &[V]) -> V {
        self.v.call_helper(&self.thunks, Some(self.here), function, true, args)
    }

    /// Leaves to the interpreter before the present instruction if the condition holds.
    pub(super) fn step_if(&mut self, cc: Cc) {
        let entry = self.v.a.label();
        self.v.a.jcc(cc, entry);
        self.cold.push(Cold::Step { entry, info: self.here.info(0) });
    }
}

macro_rules! binary {
    ($($name:ident $op:ident;)*) => { $(
        fn $name(&mut self, a: V, b: V) -> V {
            self.v.bin(Bin::$op, a, b)
        }
    )* };
}

macro_rules! unary {
    ($($name:ident $op:ident;)*) => { $(
        fn $name(&mut self, a: V) -> V {
            self.v.un(Un::$op, a)
        }
    )* };
}

impl Sem for Quick {
    type V = V;
    type B = B;
    type Exit = Infallible;

    fn imm(&mut self, v: u64) -> V {
        V::Imm(v)
    }

    binary! {
        add Add;
        sub Sub;
        mul Mul;
        mulh Mulh;
        mulhu Mulhu;
        sdiv Sdiv;
        udiv Udiv;
        srem Srem;
        urem Urem;
        and And;
        or Or;
        xor Xor;
        shl Shl;
        shr Shr;
        sar Sar;
        ror Ror;
    }

    unary! {
        clz Clz;
        ctz Ctz;
        popcount Popcount;
        bswap Bswap;
    }

    fn sext(&mut self, a: V, from: Width) -> V {
        self.v.un(Un::Sext(from), a)
    }

    fn zext(&mut self, a: V, from: Width) -> V {
        self.v.un(Un::Zext(from), a)
    }

    fn cmp(&mut self, c: Cond, a: V, b: V) -> B {
        B::Cmp(c, a, b)
    }

    fn both(&mut self, a: B, b: B) -> B {
        let (a, b) = (self.v.bit(a), self.v.bit(b));
        B::Is(self.v.bin(Bin::And, a, b))
    }

    fn either(&mut self, a: B, b: B) -> B {
        let (a, b) = (self.v.bit(a), self.v.bit(b));
        B::Is(self.v.bin(Bin::Or, a, b))
    }

    fn bit(&mut self, b: B) -> V {
        self.v.bit(b)
    }

    fn select(&mut self, c: B, a: V, b: V) -> V {
        match self.boxed_operand(c, a, b) {
            Some(v) => v,
            None => self.v.select(c, a, b),
        }
    }

    fn clmul(&mut self, a: V, b: V, high: bool) -> V {
        let args = [a, b, V::Imm(high.into())];
        self.v.call_helper(&self.thunks, None, helpers::clmul as *const () as usize, false, &args)
    }

    fn load(&mut self, addr: V, size: Width, signed: bool) -> Result<V, Infallible> {
        if let (Some(dst), Width::W32 | Width::W64) = (self.loads_float, size) {
            return Ok(self.v.load_float(&mut self.cold, self.here, addr, size == Width::W32, dst));
        }
        Ok(self.v.load(&mut self.cold, self.here, addr, size, signed, self.loads_to))
    }

    fn store(&mut self, addr: V, v: V, size: Width) -> Result<(), Infallible> {
        self.v.store(&mut self.cold, self.here, addr, v, size);
        Ok(())
    }

    fn amo(&mut self, op: AmoOp, addr: V, v: V, size: Width) -> Result<V, Infallible> {
        Ok(self.atomic(Atomic::Amo(op), addr, v, size))
    }

    fn load_reserved(&mut self, addr: V, size: Width) -> Result<V, Infallible> {
        Ok(self.atomic(Atomic::LoadReserved, addr, V::Imm(0), size))
    }

    fn store_conditional(&mut self, addr: V, v: V, size: Width) -> Result<V, Infallible> {
        Ok(self.atomic(Atomic::StoreConditional, addr, v, size))
    }

    fn fence(&mut self, full: bool) {
        // Everything else is in order on this host anyway.
        if full {
            self.v.a.mfence();
        }
    }

    fn pc(&mut self) -> V {
        self.v.place(self.here.at as i64)
    }

    fn next_pc(&mut self) -> V {
        self.v.place((self.here.at + self.len) as i64)
    }

    fn jump(&mut self, _: i64) {
        // The region knows where.
        self.then = Then::On;
    }

    fn jump_to(&mut self, target: V) {
        self.v.keep(target);
        self.then = Then::To(target);
    }

    fn branch(&mut self, c: B, _: i64) {
        match c {
            B::Cmp(_, a, b) => {
                self.v.keep(a);
                self.v.keep(b);
            }
            B::Is(v) => self.v.keep(v),
        }
        self.then = Then::Either(c);
    }

    fn fp(&mut self, op: FpOp, a: V, b: V, c: V, round: FpRound) -> V {
        if let Some(v) = self.float(op, [a, b, c], round) {
            return v;
        }
        let what = V::Imm(helpers::number_of(op, round));
        let function = helpers::float as *const () as usize;
        self.v.call_helper(&self.thunks, None, function, true, &[what, a, b, c])
    }
}

impl RvSem for Quick {
    fn x(&mut self, r: usize) -> V {
        if r == 0 { V::Imm(0) } else { V::X(r as u8 & 31) }
    }

    fn set_x(&mut self, r: usize, v: V) {
        if r != 0 {
            self.v.keep(v);
            self.result = Some((thunks::x(r as u8 & 31), v));
        }
    }

    fn f(&mut self, r: usize) -> V {
        V::F(r as u8 & 31)
    }

    fn set_f(&mut self, r: usize, v: V) {
        let r = r as u8 & 31;
        self.v.keep(v);
        self.result_f = Some((r, v));
        let boxed = match v {
            _ if self.v.boxes => 1,
            V::F(s) => self.v.boxed >> s & 1,
            _ => 0,
        };
        self.v.boxed = self.v.boxed & !(1 << r) | boxed << r;
        self.mark_fp_dirty();
    }

    fn fp_enter(&mut self) -> Result<(), Infallible> {
        self.check_fp_on();
        Ok(())
    }

    fn fp_round(&mut self, rm: u8) -> Result<FpRound, Infallible> {
        Ok(match rm {
            0 => FpRound::NearestEven,
            1 => FpRound::TowardZero,
            2 => FpRound::Down,
            3 => FpRound::Up,
            4 => FpRound::NearestMaxMagnitude,
            _ => {
                self.check_frm();
                FpRound::Dynamic
            }
        })
    }

    fn csr(&mut self, op: CsrOp, csr: u16, operand: Option<V>, read: bool) -> Result<V, Infallible> {
        let access = CsrAccess { op, csr, read, write: operand.is_some() };
        let args = [V::Imm(helpers::number_of_csr(access)), operand.unwrap_or(V::Imm(0))];
        let old = self.v.call_helper(&self.thunks, None, helpers::csr as *const () as usize, true, &args);
        // How it ended is in `rdx`.
        self.v.a.alu_imm(Alu::Cmp, Rm::Reg(RDX), 1);
        self.step_if(Cc::E);
        if access.write {
            let slot = self.v.new_slot();
            self.v.a.mov_to(slot, RDX);
            self.look = Some(slot);
        }
        // It may have been the floating-point unit's switch.
        self.forget_float();
        Ok(old)
    }

    fn system(&mut self, _: SysOp) -> Result<(), Infallible> {
        unreachable!("no region has such an instruction")
    }

    fn crypto(&mut self, op: CryptoOp, a: V, b: V) -> V {
        let args = [V::Imm(helpers::number_of_crypto(op)), a, b];
        self.v.call_helper(&self.thunks, None, helpers::crypto as *const () as usize, false, &args)
    }

    fn block(&mut self, op: BlockOp, addr: V) -> Result<(), Infallible> {
        let what = V::Imm(helpers::number_of_block(op));
        let undone = self.call_or_trap(helpers::block as *const () as usize, &[what, addr]);
        let cc = self.v.flags(B::Is(undone));
        self.step_if(cc);
        Ok(())
    }

    fn sfence_vma(&mut self, _: Option<V>, _: Option<V>) -> Result<(), Infallible> {
        unreachable!("no region has such an instruction")
    }
}
