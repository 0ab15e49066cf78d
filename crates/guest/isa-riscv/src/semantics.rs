//! What each instruction does, once, for whatever implements [`RvSem`].

mod crypto;
mod float;
mod int;

use crate::insn::Insn;
use crate::table::Op;
pub use crypto::{CryptoOp, crypto};
use float::Sign;
use sem::FpFormat::{BF16, F16, F32, F64};
use sem::{AmoOp, Cond, FpOp, FpRound, IntFormat, Sem, Width};

/// How an instruction changes a CSR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CsrOp {
    /// Writes the operand.
    Write,
    /// Sets the operand's bits.
    Set,
    /// Clears the operand's bits.
    Clear,
}

/// Instructions that are the processor's own business.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SysOp {
    /// Raises the illegal instruction exception.
    Illegal,
    /// `ecall`.
    Ecall,
    /// `ebreak`.
    Ebreak,
    /// `mret`.
    Mret,
    /// `sret`.
    Sret,
    /// `wfi`.
    Wfi,
    /// `wrs.nto`.
    WrsNto,
    /// `wrs.sto`.
    WrsSto,
    /// `fence.i`.
    FenceI,
    /// No instruction: a slot of an interpreter's code page that was not decoded yet.
    Undecoded,
    /// No instruction: a slot whose instruction goes on in the next page.
    Straddle,
    /// No instruction: a slot that native code stands behind.
    Native,
}

/// The low or high half of a carry-less product.
pub fn clmul(a: u64, b: u64, high: bool) -> u64 {
    let product = (0..64).filter(|n| b >> n & 1 != 0).fold(0, |sum, n| sum ^ u128::from(a) << n);
    (product >> if high { 64 } else { 0 }) as u64
}

/// What is done to a cache block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockOp {
    /// `cbo.inval`.
    Inval,
    /// `cbo.clean`.
    Clean,
    /// `cbo.flush`.
    Flush,
    /// `cbo.zero`.
    Zero,
}

/// What RISC-V has beyond [`Sem`].
pub trait RvSem: Sem {
    /// Register `x[r]`; `x0` is zero.
    fn x(&mut self, r: usize) -> Self::V;
    /// Sets `x[r]`; setting `x0` does nothing.
    fn set_x(&mut self, r: usize, v: Self::V);
    /// Register `f[r]`, raw.
    fn f(&mut self, r: usize) -> Self::V;
    /// Sets `f[r]`, raw, and marks the floating-point state dirty.
    fn set_f(&mut self, r: usize, v: Self::V);
    /// An illegal instruction where the floating-point unit is off.
    fn fp_enter(&mut self) -> Result<(), Self::Exit>;
    /// What the rounding mode field `rm` (0..=4 or 7) says; an illegal instruction where it is 7 and `frm`
    /// is reserved.
    fn fp_round(&mut self, rm: u8) -> Result<FpRound, Self::Exit>;
    /// Accesses a CSR: gives the old value, then changes it by `operand` unless that is `None`. Where `read`
    /// is false the old value is not wanted, and reading has no effects.
    fn csr(
        &mut self,
        op: CsrOp,
        csr: u16,
        operand: Option<Self::V>,
        read: bool,
    ) -> Result<Self::V, Self::Exit>;
    /// Does a system instruction.
    fn system(&mut self, op: SysOp) -> Result<(), Self::Exit>;
    /// What [`crypto`](fn@crypto) gives.
    fn crypto(&mut self, op: CryptoOp, a: Self::V, b: Self::V) -> Self::V;
    /// An operation on the cache block that `addr` is in; an illegal instruction where it is not allowed in this mode.
    fn block(&mut self, op: BlockOp, addr: Self::V) -> Result<(), Self::Exit>;
    /// `sfence.vma`: later translations see page tables as earlier stores left them; all addresses or one,
    /// all address spaces or one.
    fn sfence_vma(&mut self, addr: Option<Self::V>, asid: Option<Self::V>) -> Result<(), Self::Exit>;
}

#[inline(always)]
fn rr<S: RvSem>(s: &mut S, i: Insn, f: impl FnOnce(&mut S, S::V, S::V) -> S::V) {
    let a = s.x(i.rs1());
    let b = s.x(i.rs2());
    let v = f(s, a, b);
    s.set_x(i.rd(), v);
}

#[inline(always)]
fn ri<S: RvSem>(s: &mut S, i: Insn, f: impl FnOnce(&mut S, S::V, S::V) -> S::V) {
    let a = s.x(i.rs1());
    let b = s.imm(i.imm() as u64);
    let v = f(s, a, b);
    s.set_x(i.rd(), v);
}

#[inline(always)]
fn r1<S: RvSem>(s: &mut S, i: Insn, f: impl FnOnce(&mut S, S::V) -> S::V) {
    let a = s.x(i.rs1());
    let v = f(s, a);
    s.set_x(i.rd(), v);
}

#[inline(always)]
fn branch<S: RvSem>(s: &mut S, i: Insn, c: Cond) {
    let a = s.x(i.rs1());
    let b = s.x(i.rs2());
    let taken = s.cmp(c, a, b);
    s.branch(taken, i.imm());
}

#[inline(always)]
fn address<S: RvSem>(s: &mut S, i: Insn) -> S::V {
    let base = s.x(i.rs1());
    let off = s.imm(i.imm() as u64);
    s.add(base, off)
}

#[inline(always)]
fn load<S: RvSem>(s: &mut S, i: Insn, size: Width, signed: bool) -> Result<(), S::Exit> {
    let addr = address(s, i);
    let v = s.load(addr, size, signed)?;
    s.set_x(i.rd(), v);
    Ok(())
}

#[inline(always)]
fn store<S: RvSem>(s: &mut S, i: Insn, size: Width) -> Result<(), S::Exit> {
    let addr = address(s, i);
    let v = s.x(i.rs2());
    s.store(addr, v, size)
}

#[inline(always)]
fn amo<S: RvSem>(s: &mut S, i: Insn, op: AmoOp, size: Width) -> Result<(), S::Exit> {
    let addr = s.x(i.rs1());
    let v = s.x(i.rs2());
    let old = s.amo(op, addr, v, size)?;
    s.set_x(i.rd(), old);
    Ok(())
}

#[inline(always)]
fn lr<S: RvSem>(s: &mut S, i: Insn, size: Width) -> Result<(), S::Exit> {
    let addr = s.x(i.rs1());
    let v = s.load_reserved(addr, size)?;
    s.set_x(i.rd(), v);
    Ok(())
}

#[inline(always)]
fn sc<S: RvSem>(s: &mut S, i: Insn, size: Width) -> Result<(), S::Exit> {
    let addr = s.x(i.rs1());
    let v = s.x(i.rs2());
    let failed = s.store_conditional(addr, v, size)?;
    s.set_x(i.rd(), failed);
    Ok(())
}

/// `csrrw` with `rd` = x0 does not read; `csrrs` and `csrrc` with a zero operand field do not write.
#[inline(always)]
fn csr<S: RvSem>(s: &mut S, i: Insn, op: CsrOp, immediate: bool) -> Result<(), S::Exit> {
    let read = op != CsrOp::Write || i.rd() != 0;
    let write = op == CsrOp::Write || i.rs1() != 0;
    let operand = match (write, immediate) {
        (false, _) => None,
        (true, true) => Some(s.imm(i.rs1() as u64)),
        (true, false) => Some(s.x(i.rs1())),
    };
    let old = s.csr(op, i.csr(), operand, read)?;
    s.set_x(i.rd(), old);
    Ok(())
}

#[inline(always)]
fn slt<S: RvSem>(s: &mut S, a: S::V, b: S::V) -> S::V {
    let c = s.cmp(Cond::Lt, a, b);
    s.bit(c)
}

#[inline(always)]
fn sltu<S: RvSem>(s: &mut S, a: S::V, b: S::V) -> S::V {
    let c = s.cmp(Cond::Ltu, a, b);
    s.bit(c)
}

#[inline(always)]
fn addw<S: RvSem>(s: &mut S, a: S::V, b: S::V) -> S::V {
    let v = s.add(a, b);
    s.sext(v, Width::W32)
}

#[inline(always)]
fn subw<S: RvSem>(s: &mut S, a: S::V, b: S::V) -> S::V {
    let v = s.sub(a, b);
    s.sext(v, Width::W32)
}

/// The low five bits: the count of a 32-bit shift.
#[inline(always)]
fn count32<S: RvSem>(s: &mut S, n: S::V) -> S::V {
    let mask = s.imm(31);
    s.and(n, mask)
}

#[inline(always)]
fn sllw<S: RvSem>(s: &mut S, a: S::V, n: S::V) -> S::V {
    let n = count32(s, n);
    let v = s.shl(a, n);
    s.sext(v, Width::W32)
}

#[inline(always)]
fn srlw<S: RvSem>(s: &mut S, a: S::V, n: S::V) -> S::V {
    let n = count32(s, n);
    let a = s.zext(a, Width::W32);
    let v = s.shr(a, n);
    s.sext(v, Width::W32)
}

#[inline(always)]
fn sraw<S: RvSem>(s: &mut S, a: S::V, n: S::V) -> S::V {
    let n = count32(s, n);
    let a = s.sext(a, Width::W32);
    s.sar(a, n)
}

#[inline(always)]
fn cbo<S: RvSem>(s: &mut S, i: Insn, op: BlockOp) -> Result<(), S::Exit> {
    let addr = s.x(i.rs1());
    s.block(op, addr)
}

/// Does (or records) one instruction.
///
/// # Errors
/// What ends the instruction early; then no register was changed.
#[inline(always)]
pub fn execute<S: RvSem>(s: &mut S, i: Insn) -> Result<(), S::Exit> {
    match i.op {
        // RV64I
        Op::Lui => {
            let v = s.imm(i.imm() as u64);
            s.set_x(i.rd(), v);
        }
        Op::Auipc => {
            let pc = s.pc();
            let off = s.imm(i.imm() as u64);
            let v = s.add(pc, off);
            s.set_x(i.rd(), v);
        }
        Op::Jal => {
            let link = s.next_pc();
            s.set_x(i.rd(), link);
            s.jump(i.imm());
        }
        Op::Jalr => {
            let base = s.x(i.rs1());
            let off = s.imm(i.imm() as u64);
            let sum = s.add(base, off);
            let even = s.imm(!1);
            let target = s.and(sum, even);
            let link = s.next_pc();
            s.set_x(i.rd(), link);
            s.jump_to(target);
        }
        Op::Beq => branch(s, i, Cond::Eq),
        Op::Bne => branch(s, i, Cond::Ne),
        Op::Blt => branch(s, i, Cond::Lt),
        Op::Bge => branch(s, i, Cond::Ge),
        Op::Bltu => branch(s, i, Cond::Ltu),
        Op::Bgeu => branch(s, i, Cond::Geu),
        Op::Lb => load(s, i, Width::W8, true)?,
        Op::Lh => load(s, i, Width::W16, true)?,
        Op::Lw => load(s, i, Width::W32, true)?,
        Op::Ld => load(s, i, Width::W64, true)?,
        Op::Lbu => load(s, i, Width::W8, false)?,
        Op::Lhu => load(s, i, Width::W16, false)?,
        Op::Lwu => load(s, i, Width::W32, false)?,
        Op::Sb => store(s, i, Width::W8)?,
        Op::Sh => store(s, i, Width::W16)?,
        Op::Sw => store(s, i, Width::W32)?,
        Op::Sd => store(s, i, Width::W64)?,
        Op::Addi => ri(s, i, S::add),
        Op::Slti => ri(s, i, slt),
        Op::Sltiu => ri(s, i, sltu),
        Op::Xori => ri(s, i, S::xor),
        Op::Ori => ri(s, i, S::or),
        Op::Andi => ri(s, i, S::and),
        Op::Slli => ri(s, i, S::shl),
        Op::Srli => ri(s, i, S::shr),
        Op::Srai => ri(s, i, S::sar),
        Op::Add => rr(s, i, S::add),
        Op::Sub => rr(s, i, S::sub),
        Op::Sll => rr(s, i, S::shl),
        Op::Slt => rr(s, i, slt),
        Op::Sltu => rr(s, i, sltu),
        Op::Xor => rr(s, i, S::xor),
        Op::Srl => rr(s, i, S::shr),
        Op::Sra => rr(s, i, S::sar),
        Op::Or => rr(s, i, S::or),
        Op::And => rr(s, i, S::and),
        Op::Addiw => ri(s, i, addw),
        Op::Slliw => ri(s, i, sllw),
        Op::Srliw => ri(s, i, srlw),
        Op::Sraiw => ri(s, i, sraw),
        Op::Addw => rr(s, i, addw),
        Op::Subw => rr(s, i, subw),
        Op::Sllw => rr(s, i, sllw),
        Op::Srlw => rr(s, i, srlw),
        Op::Sraw => rr(s, i, sraw),
        // Earlier writes (pred: W, O) before later reads (succ: R, I) is what hosts do not keep by themselves.
        Op::Fence => s.fence(i.imm() & 0x50 != 0 && i.imm() & 0x0a != 0),
        Op::FenceI => s.system(SysOp::FenceI)?,
        Op::Ecall => s.system(SysOp::Ecall)?,
        Op::Ebreak => s.system(SysOp::Ebreak)?,
        Op::Sret => s.system(SysOp::Sret)?,
        Op::Mret => s.system(SysOp::Mret)?,
        Op::Wfi => s.system(SysOp::Wfi)?,
        Op::SfenceVma => {
            let addr = (i.rs1() != 0).then(|| s.x(i.rs1()));
            let asid = (i.rs2() != 0).then(|| s.x(i.rs2()));
            s.sfence_vma(addr, asid)?;
        }
        Op::Csrrw => csr(s, i, CsrOp::Write, false)?,
        Op::Csrrs => csr(s, i, CsrOp::Set, false)?,
        Op::Csrrc => csr(s, i, CsrOp::Clear, false)?,
        Op::Csrrwi => csr(s, i, CsrOp::Write, true)?,
        Op::Csrrsi => csr(s, i, CsrOp::Set, true)?,
        Op::Csrrci => csr(s, i, CsrOp::Clear, true)?,

        // M
        Op::Mul => rr(s, i, S::mul),
        Op::Mulh => rr(s, i, S::mulh),
        Op::Mulhsu => rr(s, i, int::mulhsu),
        Op::Mulhu => rr(s, i, S::mulhu),
        Op::Div => rr(s, i, int::div),
        Op::Divu => rr(s, i, int::divu),
        Op::Rem => rr(s, i, int::rem),
        Op::Remu => rr(s, i, int::remu),
        Op::Mulw => rr(s, i, int::mulw),
        Op::Divw => rr(s, i, int::divw),
        Op::Divuw => rr(s, i, int::divuw),
        Op::Remw => rr(s, i, int::remw),
        Op::Remuw => rr(s, i, int::remuw),

        // A
        Op::LrW => lr(s, i, Width::W32)?,
        Op::ScW => sc(s, i, Width::W32)?,
        Op::AmoswapW => amo(s, i, AmoOp::Swap, Width::W32)?,
        Op::AmoaddW => amo(s, i, AmoOp::Add, Width::W32)?,
        Op::AmoxorW => amo(s, i, AmoOp::Xor, Width::W32)?,
        Op::AmoandW => amo(s, i, AmoOp::And, Width::W32)?,
        Op::AmoorW => amo(s, i, AmoOp::Or, Width::W32)?,
        Op::AmominW => amo(s, i, AmoOp::Min, Width::W32)?,
        Op::AmomaxW => amo(s, i, AmoOp::Max, Width::W32)?,
        Op::AmominuW => amo(s, i, AmoOp::Minu, Width::W32)?,
        Op::AmomaxuW => amo(s, i, AmoOp::Maxu, Width::W32)?,
        Op::LrD => lr(s, i, Width::W64)?,
        Op::ScD => sc(s, i, Width::W64)?,
        Op::AmoswapD => amo(s, i, AmoOp::Swap, Width::W64)?,
        Op::AmoaddD => amo(s, i, AmoOp::Add, Width::W64)?,
        Op::AmoxorD => amo(s, i, AmoOp::Xor, Width::W64)?,
        Op::AmoandD => amo(s, i, AmoOp::And, Width::W64)?,
        Op::AmoorD => amo(s, i, AmoOp::Or, Width::W64)?,
        Op::AmominD => amo(s, i, AmoOp::Min, Width::W64)?,
        Op::AmomaxD => amo(s, i, AmoOp::Max, Width::W64)?,
        Op::AmominuD => amo(s, i, AmoOp::Minu, Width::W64)?,
        Op::AmomaxuD => amo(s, i, AmoOp::Maxu, Width::W64)?,

        // Zba
        Op::AddUw => rr(s, i, int::add_uw),
        Op::Sh1add => rr(s, i, int::sh1add),
        Op::Sh2add => rr(s, i, int::sh2add),
        Op::Sh3add => rr(s, i, int::sh3add),
        Op::Sh1addUw => rr(s, i, int::sh1add_uw),
        Op::Sh2addUw => rr(s, i, int::sh2add_uw),
        Op::Sh3addUw => rr(s, i, int::sh3add_uw),
        Op::SlliUw => ri(s, i, int::sll_uw),

        // Zbb
        Op::Andn => rr(s, i, int::andn),
        Op::Orn => rr(s, i, int::orn),
        Op::Xnor => rr(s, i, int::xnor),
        Op::Max => rr(s, i, int::max),
        Op::Maxu => rr(s, i, int::maxu),
        Op::Min => rr(s, i, int::min),
        Op::Minu => rr(s, i, int::minu),
        Op::Rol => rr(s, i, int::rol),
        Op::Ror => rr(s, i, S::ror),
        Op::Rolw => rr(s, i, int::rolw),
        Op::Rorw => rr(s, i, int::rorw),
        Op::Rori => ri(s, i, S::ror),
        Op::Roriw => ri(s, i, int::rorw),
        Op::Clz => r1(s, i, S::clz),
        Op::Ctz => r1(s, i, S::ctz),
        Op::Cpop => r1(s, i, S::popcount),
        Op::Clzw => r1(s, i, int::clzw),
        Op::Ctzw => r1(s, i, int::ctzw),
        Op::Cpopw => r1(s, i, int::cpopw),
        Op::SextB => r1(s, i, |s: &mut S, a| s.sext(a, Width::W8)),
        Op::SextH => r1(s, i, |s: &mut S, a| s.sext(a, Width::W16)),
        Op::ZextH => r1(s, i, |s: &mut S, a| s.zext(a, Width::W16)),
        Op::OrcB => r1(s, i, int::orc_b),
        Op::Rev8 => r1(s, i, S::bswap),

        // Zbs
        Op::Bclr => rr(s, i, int::bclr),
        Op::Bclri => ri(s, i, int::bclr),
        Op::Bext => rr(s, i, int::bext),
        Op::Bexti => ri(s, i, int::bext),
        Op::Binv => rr(s, i, int::binv),
        Op::Binvi => ri(s, i, int::binv),
        Op::Bset => rr(s, i, int::bset),
        Op::Bseti => ri(s, i, int::bset),

        // F
        Op::Flw => float::load(s, i, F32)?,
        Op::Fsw => float::store(s, i, Width::W32)?,
        Op::FmaddS => float::fma(s, i, F32, false, false)?,
        Op::FmsubS => float::fma(s, i, F32, false, true)?,
        Op::FnmsubS => float::fma(s, i, F32, true, false)?,
        Op::FnmaddS => float::fma(s, i, F32, true, true)?,
        Op::FaddS => float::arith(s, i, FpOp::Add(F32), F32)?,
        Op::FsubS => float::arith(s, i, FpOp::Sub(F32), F32)?,
        Op::FmulS => float::arith(s, i, FpOp::Mul(F32), F32)?,
        Op::FdivS => float::arith(s, i, FpOp::Div(F32), F32)?,
        Op::FsqrtS => float::arith(s, i, FpOp::Sqrt(F32), F32)?,
        Op::FsgnjS => float::sign(s, i, F32, Sign::Copy)?,
        Op::FsgnjnS => float::sign(s, i, F32, Sign::Negate)?,
        Op::FsgnjxS => float::sign(s, i, F32, Sign::Xor)?,
        Op::FminS => float::minmax(s, i, FpOp::Min(F32), F32)?,
        Op::FmaxS => float::minmax(s, i, FpOp::Max(F32), F32)?,
        Op::FeqS => float::to_x(s, i, FpOp::Eq(F32), F32, None)?,
        Op::FltS => float::to_x(s, i, FpOp::Lt(F32), F32, None)?,
        Op::FleS => float::to_x(s, i, FpOp::Le(F32), F32, None)?,
        Op::FclassS => float::to_x(s, i, FpOp::Class(F32), F32, None)?,
        Op::FcvtWS => float::to_x(s, i, FpOp::ToInt(F32, IntFormat::I32), F32, Some(i.rm()))?,
        Op::FcvtSW => float::from_x(s, i, FpOp::FromInt(IntFormat::I32, F32), F32)?,
        Op::FcvtWuS => float::to_x(s, i, FpOp::ToInt(F32, IntFormat::U32), F32, Some(i.rm()))?,
        Op::FcvtSWu => float::from_x(s, i, FpOp::FromInt(IntFormat::U32, F32), F32)?,
        Op::FcvtLS => float::to_x(s, i, FpOp::ToInt(F32, IntFormat::I64), F32, Some(i.rm()))?,
        Op::FcvtSL => float::from_x(s, i, FpOp::FromInt(IntFormat::I64, F32), F32)?,
        Op::FcvtLuS => float::to_x(s, i, FpOp::ToInt(F32, IntFormat::U64), F32, Some(i.rm()))?,
        Op::FcvtSLu => float::from_x(s, i, FpOp::FromInt(IntFormat::U64, F32), F32)?,
        Op::FmvXW => float::move_to_x(s, i, Width::W32)?,
        Op::FmvWX => float::move_from_x(s, i, F32)?,

        // D
        Op::Fld => float::load(s, i, F64)?,
        Op::Fsd => float::store(s, i, Width::W64)?,
        Op::FmaddD => float::fma(s, i, F64, false, false)?,
        Op::FmsubD => float::fma(s, i, F64, false, true)?,
        Op::FnmsubD => float::fma(s, i, F64, true, false)?,
        Op::FnmaddD => float::fma(s, i, F64, true, true)?,
        Op::FaddD => float::arith(s, i, FpOp::Add(F64), F64)?,
        Op::FsubD => float::arith(s, i, FpOp::Sub(F64), F64)?,
        Op::FmulD => float::arith(s, i, FpOp::Mul(F64), F64)?,
        Op::FdivD => float::arith(s, i, FpOp::Div(F64), F64)?,
        Op::FsqrtD => float::arith(s, i, FpOp::Sqrt(F64), F64)?,
        Op::FsgnjD => float::sign(s, i, F64, Sign::Copy)?,
        Op::FsgnjnD => float::sign(s, i, F64, Sign::Negate)?,
        Op::FsgnjxD => float::sign(s, i, F64, Sign::Xor)?,
        Op::FminD => float::minmax(s, i, FpOp::Min(F64), F64)?,
        Op::FmaxD => float::minmax(s, i, FpOp::Max(F64), F64)?,
        Op::FeqD => float::to_x(s, i, FpOp::Eq(F64), F64, None)?,
        Op::FltD => float::to_x(s, i, FpOp::Lt(F64), F64, None)?,
        Op::FleD => float::to_x(s, i, FpOp::Le(F64), F64, None)?,
        Op::FclassD => float::to_x(s, i, FpOp::Class(F64), F64, None)?,
        Op::FcvtWD => float::to_x(s, i, FpOp::ToInt(F64, IntFormat::I32), F64, Some(i.rm()))?,
        Op::FcvtDW => float::from_x(s, i, FpOp::FromInt(IntFormat::I32, F64), F64)?,
        Op::FcvtWuD => float::to_x(s, i, FpOp::ToInt(F64, IntFormat::U32), F64, Some(i.rm()))?,
        Op::FcvtDWu => float::from_x(s, i, FpOp::FromInt(IntFormat::U32, F64), F64)?,
        Op::FcvtLD => float::to_x(s, i, FpOp::ToInt(F64, IntFormat::I64), F64, Some(i.rm()))?,
        Op::FcvtDL => float::from_x(s, i, FpOp::FromInt(IntFormat::I64, F64), F64)?,
        Op::FcvtLuD => float::to_x(s, i, FpOp::ToInt(F64, IntFormat::U64), F64, Some(i.rm()))?,
        Op::FcvtDLu => float::from_x(s, i, FpOp::FromInt(IntFormat::U64, F64), F64)?,
        Op::FmvXD => float::move_to_x(s, i, Width::W64)?,
        Op::FmvDX => float::move_from_x(s, i, F64)?,
        Op::FcvtSD => float::convert(s, i, F64, F32)?,
        Op::FcvtDS => float::convert(s, i, F32, F64)?,

        // Zfh, Zfhmin, Zfbfmin
        Op::Flh => float::load(s, i, F16)?,
        Op::Fsh => float::store(s, i, Width::W16)?,
        Op::FmaddH => float::fma(s, i, F16, false, false)?,
        Op::FmsubH => float::fma(s, i, F16, false, true)?,
        Op::FnmsubH => float::fma(s, i, F16, true, false)?,
        Op::FnmaddH => float::fma(s, i, F16, true, true)?,
        Op::FaddH => float::arith(s, i, FpOp::Add(F16), F16)?,
        Op::FsubH => float::arith(s, i, FpOp::Sub(F16), F16)?,
        Op::FmulH => float::arith(s, i, FpOp::Mul(F16), F16)?,
        Op::FdivH => float::arith(s, i, FpOp::Div(F16), F16)?,
        Op::FsqrtH => float::arith(s, i, FpOp::Sqrt(F16), F16)?,
        Op::FsgnjH => float::sign(s, i, F16, Sign::Copy)?,
        Op::FsgnjnH => float::sign(s, i, F16, Sign::Negate)?,
        Op::FsgnjxH => float::sign(s, i, F16, Sign::Xor)?,
        Op::FminH => float::minmax(s, i, FpOp::Min(F16), F16)?,
        Op::FmaxH => float::minmax(s, i, FpOp::Max(F16), F16)?,
        Op::FeqH => float::to_x(s, i, FpOp::Eq(F16), F16, None)?,
        Op::FltH => float::to_x(s, i, FpOp::Lt(F16), F16, None)?,
        Op::FleH => float::to_x(s, i, FpOp::Le(F16), F16, None)?,
        Op::FclassH => float::to_x(s, i, FpOp::Class(F16), F16, None)?,
        Op::FcvtWH => float::to_x(s, i, FpOp::ToInt(F16, IntFormat::I32), F16, Some(i.rm()))?,
        Op::FcvtHW => float::from_x(s, i, FpOp::FromInt(IntFormat::I32, F16), F16)?,
        Op::FcvtWuH => float::to_x(s, i, FpOp::ToInt(F16, IntFormat::U32), F16, Some(i.rm()))?,
        Op::FcvtHWu => float::from_x(s, i, FpOp::FromInt(IntFormat::U32, F16), F16)?,
        Op::FcvtLH => float::to_x(s, i, FpOp::ToInt(F16, IntFormat::I64), F16, Some(i.rm()))?,
        Op::FcvtHL => float::from_x(s, i, FpOp::FromInt(IntFormat::I64, F16), F16)?,
        Op::FcvtLuH => float::to_x(s, i, FpOp::ToInt(F16, IntFormat::U64), F16, Some(i.rm()))?,
        Op::FcvtHLu => float::from_x(s, i, FpOp::FromInt(IntFormat::U64, F16), F16)?,
        Op::FmvXH => float::move_to_x(s, i, Width::W16)?,
        Op::FmvHX => float::move_from_x(s, i, F16)?,
        Op::FcvtSH => float::convert(s, i, F16, F32)?,
        Op::FcvtHS => float::convert(s, i, F32, F16)?,
        Op::FcvtDH => float::convert(s, i, F16, F64)?,
        Op::FcvtHD => float::convert(s, i, F64, F16)?,
        Op::FcvtSBf16 => float::convert(s, i, BF16, F32)?,
        Op::FcvtBf16S => float::convert(s, i, F32, BF16)?,

        // Zfa
        Op::FliS => float::constant(s, i, F32)?,
        Op::FminmS => float::minmax(s, i, FpOp::MinNan(F32), F32)?,
        Op::FmaxmS => float::minmax(s, i, FpOp::MaxNan(F32), F32)?,
        Op::FroundS => float::arith(s, i, FpOp::Round(F32), F32)?,
        Op::FroundnxS => float::arith(s, i, FpOp::RoundExact(F32), F32)?,
        Op::FltqS => float::to_x(s, i, FpOp::LtQuiet(F32), F32, None)?,
        Op::FleqS => float::to_x(s, i, FpOp::LeQuiet(F32), F32, None)?,
        Op::FliD => float::constant(s, i, F64)?,
        Op::FminmD => float::minmax(s, i, FpOp::MinNan(F64), F64)?,
        Op::FmaxmD => float::minmax(s, i, FpOp::MaxNan(F64), F64)?,
        Op::FroundD => float::arith(s, i, FpOp::Round(F64), F64)?,
        Op::FroundnxD => float::arith(s, i, FpOp::RoundExact(F64), F64)?,
        Op::FltqD => float::to_x(s, i, FpOp::LtQuiet(F64), F64, None)?,
        Op::FleqD => float::to_x(s, i, FpOp::LeQuiet(F64), F64, None)?,
        Op::FliH => float::constant(s, i, F16)?,
        Op::FminmH => float::minmax(s, i, FpOp::MinNan(F16), F16)?,
        Op::FmaxmH => float::minmax(s, i, FpOp::MaxNan(F16), F16)?,
        Op::FroundH => float::arith(s, i, FpOp::Round(F16), F16)?,
        Op::FroundnxH => float::arith(s, i, FpOp::RoundExact(F16), F16)?,
        Op::FltqH => float::to_x(s, i, FpOp::LtQuiet(F16), F16, None)?,
        Op::FleqH => float::to_x(s, i, FpOp::LeQuiet(F16), F16, None)?,
        Op::FcvtmodWD => float::to_x(s, i, FpOp::ToIntModular, F64, Some(1))?,

        // Zbc, Zicond, Zimop, Zawrs, Zicbom, Zicboz
        Op::Clmul => rr(s, i, |s, a, b| s.clmul(a, b, false)),
        Op::Clmulh => rr(s, i, |s, a, b| s.clmul(a, b, true)),
        Op::Clmulr => rr(s, i, int::clmulr),
        Op::Pack => rr(s, i, int::pack),
        Op::Packh => rr(s, i, int::packh),
        Op::Packw => rr(s, i, int::packw),
        Op::Brev8 => r1(s, i, int::brev8),
        Op::Xperm4 => rr(s, i, |s, a, b| s.crypto(CryptoOp::Permute4, a, b)),
        Op::Xperm8 => rr(s, i, |s, a, b| s.crypto(CryptoOp::Permute8, a, b)),
        Op::Aes64es => rr(s, i, |s, a, b| s.crypto(CryptoOp::AesEncryptLast, a, b)),
        Op::Aes64esm => rr(s, i, |s, a, b| s.crypto(CryptoOp::AesEncrypt, a, b)),
        Op::Aes64ds => rr(s, i, |s, a, b| s.crypto(CryptoOp::AesDecryptLast, a, b)),
        Op::Aes64dsm => rr(s, i, |s, a, b| s.crypto(CryptoOp::AesDecrypt, a, b)),
        Op::Aes64im => r1(s, i, |s, a| s.crypto(CryptoOp::AesInverseMix, a, a)),
        Op::Aes64ks1i => ri(s, i, |s, a, b| s.crypto(CryptoOp::AesKey1, a, b)),
        Op::Aes64ks2 => rr(s, i, |s, a, b| s.crypto(CryptoOp::AesKey2, a, b)),
        Op::Sm4ed => rr(s, i, |s, a, b| s.crypto(CryptoOp::Sm4Round(i.imm() as u8), a, b)),
        Op::Sm4ks => rr(s, i, |s, a, b| s.crypto(CryptoOp::Sm4Key(i.imm() as u8), a, b)),
        Op::Sha256sum0 => r1(s, i, |s, a| int::rotations32(s, a, [2, 13, 22], None)),
        Op::Sha256sum1 => r1(s, i, |s, a| int::rotations32(s, a, [6, 11, 25], None)),
        Op::Sha256sig0 => r1(s, i, |s, a| int::rotations32(s, a, [7, 18], Some(3))),
        Op::Sha256sig1 => r1(s, i, |s, a| int::rotations32(s, a, [17, 19], Some(10))),
        Op::Sha512sum0 => r1(s, i, |s, a| int::rotations(s, a, [28, 34, 39], None)),
        Op::Sha512sum1 => r1(s, i, |s, a| int::rotations(s, a, [14, 18, 41], None)),
        Op::Sha512sig0 => r1(s, i, |s, a| int::rotations(s, a, [1, 8], Some(7))),
        Op::Sha512sig1 => r1(s, i, |s, a| int::rotations(s, a, [19, 61], Some(6))),
        Op::Sm3p0 => r1(s, i, |s, a| int::rotations32(s, a, [0, 32 - 9, 32 - 17], None)),
        Op::Sm3p1 => r1(s, i, |s, a| int::rotations32(s, a, [0, 32 - 15, 32 - 23], None)),
        Op::CzeroEqz => rr(s, i, |s, a, b| int::czero(s, a, b, Cond::Eq)),
        Op::CzeroNez => rr(s, i, |s, a, b| int::czero(s, a, b, Cond::Ne)),
        Op::MopR | Op::MopRr => {
            let zero = s.imm(0);
            s.set_x(i.rd(), zero);
        }
        Op::WrsNto => s.system(SysOp::WrsNto)?,
        Op::WrsSto => s.system(SysOp::WrsSto)?,
        Op::CboInval => cbo(s, i, BlockOp::Inval)?,
        Op::CboClean => cbo(s, i, BlockOp::Clean)?,
        Op::CboFlush => cbo(s, i, BlockOp::Flush)?,
        Op::CboZero => cbo(s, i, BlockOp::Zero)?,

        Op::Illegal => s.system(SysOp::Illegal)?,
        Op::Undecoded => s.system(SysOp::Undecoded)?,
        Op::Straddle => s.system(SysOp::Straddle)?,
        Op::Native => s.system(SysOp::Native)?,
    }
    Ok(())
}
