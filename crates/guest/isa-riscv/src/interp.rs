//! The interpreter: [`Sem`] on plain numbers.

use crate::cpu::{Cpu, Reservation, Stop};
use crate::csr::{After, Illegal};
use crate::insn::CACHE_BLOCK;
use crate::pmp::Access;
use crate::semantics::{BlockOp, CryptoOp, CsrOp, RvSem, SysOp, clmul, crypto};
use crate::spec::{Mode, cause, envcfg, mstatus};
use fpu::{Flags, RiscV, Rounding};
use mem::{RamPage, RmwOp, Scalar, Size};
use sem::{AmoOp, Cond, FpFormat, FpOp, FpRound, IntFormat, Sem, Width};

/// One instruction being executed. Lives in the inner loop, so that its fields stay in registers: what is not
/// inlined takes the [`Cpu`] and never a reference to this.
pub(crate) struct Exec<'a> {
    pub(crate) cpu: &'a mut Cpu,
    pub(crate) pc: u64,
    pub(crate) next: u64,
    /// Instructions until the loop looks around; `limit - left` are retired.
    pub(crate) left: u64,
    pub(crate) limit: u64,
}

impl Exec<'_> {
    /// Counts where control comes to; the loop ends after this instruction where that is hot now.
    #[inline(always)]
    fn came_to(&mut self, pc: u64) {
        if self.cpu.heat.count(pc) {
            self.limit -= self.left - 1;
            self.left = 1;
        }
    }

    #[inline(always)]
    fn ld<T: Scalar>(&mut self, addr: u64, size: Size) -> Result<T, Stop> {
        let len = T::SIZE as u64;
        if let Some(page) = self.cpu.tlb.read(addr, len) {
            return Ok(page.load::<T>((addr & 0xfff & !(len - 1)) as usize));
        }
        self.cpu.load_slow(addr, size).map(T::from_u64)
    }

    #[inline(always)]
    fn st<T: Scalar>(&mut self, addr: u64, v: u64, size: Size) -> Result<(), Stop> {
        let len = T::SIZE as u64;
        if let Some(page) = self.cpu.tlb.write(addr, len) {
            page.store::<T>((addr & 0xfff & !(len - 1)) as usize, T::from_u64(v));
            return Ok(());
        }
        self.cpu.store_slow(addr, v, size)
    }
}

#[inline(never)]
pub(crate) fn load_reserved(cpu: &mut Cpu, addr: u64, size: Width) -> Result<u64, Stop> {
    let len = size.bytes();
    let page = if let Some(page) = cpu.tlb.read(addr, len) {
        page
    } else if !addr.is_multiple_of(len) {
        return Err(cpu.raise(cause::LOAD_MISALIGNED, addr));
    } else {
        &cpu.atomic_page(addr, len, Access::Read)?
    };
    let off = (addr & 0xfff) as usize;
    let value = match size {
        Width::W64 => page.load::<u64>(off & 0xff8),
        _ => page.load::<u32>(off & 0xffc) as i32 as u64,
    };
    let at = page.host_addr() + off;
    std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
    cpu.reservation = Some(Reservation { at, len, value });
    Ok(value)
}

/// Stores if memory still has the value that was loaded: like most emulators, one cannot tell a value that
/// was changed and changed back.
#[inline(never)]
pub(crate) fn store_conditional(cpu: &mut Cpu, addr: u64, v: u64, size: Width) -> Result<u64, Stop> {
    let len = size.bytes();
    if !addr.is_multiple_of(len) {
        return Err(cpu.raise(cause::STORE_MISALIGNED, addr));
    }
    let Some(r) = cpu.reservation.take() else { return Ok(1) };
    let page = match cpu.tlb.write(addr, len) {
        Some(page) => page,
        None => &cpu.atomic_page(addr, len, Access::Write)?,
    };
    let off = (addr & 0xfff) as usize;
    if r.at != page.host_addr() + off || r.len != len {
        return Ok(1);
    }
    let stored = match size {
        Width::W64 => page.cmpxchg_u64(off & 0xff8, r.value, v).is_ok(),
        _ => page.cmpxchg_u32(off & 0xffc, r.value as u32, v as u32).is_ok(),
    };
    Ok(u64::from(!stored))
}

/// A system instruction at `pc`; where `mret` and `sret` go.
#[inline(never)]
fn system(cpu: &mut Cpu, op: SysOp, pc: u64) -> (Stop, Option<u64>) {
    let stop = match op {
        SysOp::Illegal => Stop::Illegal,
        SysOp::Undecoded => Stop::Undecoded,
        SysOp::Straddle => Stop::Straddle,
        SysOp::Native => Stop::Native,
        SysOp::Ecall => match cpu.mode {
            Mode::S if cpu.opts.sbi => Stop::Sbi,
            Mode::U => cpu.raise(cause::ECALL_U, 0),
            Mode::S => cpu.raise(cause::ECALL_S, 0),
            Mode::M => cpu.raise(cause::ECALL_M, 0),
        },
        SysOp::Ebreak => cpu.raise(cause::BREAKPOINT, pc),
        SysOp::Mret | SysOp::Sret => {
            let to = if op == SysOp::Mret { cpu.mret() } else { cpu.sret() };
            return (if to.is_some() { Stop::Leave } else { Stop::Illegal }, to);
        }
        SysOp::Wfi => {
            let forbidden = cpu.mode == Mode::U || cpu.mode == Mode::S && cpu.mstatus & mstatus::TW != 0;
            if forbidden { Stop::Illegal } else { Stop::Wfi }
        }
        // The reservation may be lost at any time: waiting until then is to let others go first.
        SysOp::WrsNto if cpu.mode != Mode::M && cpu.mstatus & mstatus::TW != 0 => Stop::Illegal,
        SysOp::WrsNto | SysOp::WrsSto => {
            std::thread::yield_now();
            Stop::Leave
        }
        SysOp::FenceI => {
            cpu.suspect_code();
            Stop::Leave
        }
    };
    (stop, None)
}

/// An operation on a cache block. There is no cache to manage, so all but zeroing is checking.
#[inline(never)]
pub(crate) fn block(cpu: &mut Cpu, op: BlockOp, addr: u64) -> Result<(), Stop> {
    let allowed = |cfg: u64| match op {
        BlockOp::Inval => cfg & envcfg::CBIE != 0,
        BlockOp::Clean | BlockOp::Flush => cfg & envcfg::CBCFE != 0,
        BlockOp::Zero => cfg & envcfg::CBZE != 0,
    };
    let legal = match cpu.mode {
        Mode::M => true,
        Mode::S => allowed(cpu.menvcfg),
        Mode::U => allowed(cpu.menvcfg) && allowed(cpu.senvcfg),
    };
    if !legal {
        return Err(Stop::Illegal);
    }
    let start = addr & !(CACHE_BLOCK - 1);
    if op == BlockOp::Zero {
        for addr in (start..=start | (CACHE_BLOCK - 1)).step_by(8) {
            // The first store finds the page, where there is one.
            match atomic_hit(cpu, addr, 8) {
                Some(page) => page.store((addr & 0xff8) as usize, 0u64),
                None => cpu.store_slow(addr, 0, Size::B8)?,
            }
        }
        return Ok(());
    }
    cpu.check_block(start)
}

#[inline(never)]
fn sfence_vma(cpu: &mut Cpu, addr: Option<u64>, asid: Option<u64>) -> Stop {
    if cpu.mode == Mode::U || cpu.mode == Mode::S && cpu.mstatus & mstatus::TVM != 0 {
        return Stop::Illegal;
    }
    cpu.flush_tlb(addr.map(|a| (a, 1)), asid.map(|a| a & 0xffff));
    Stop::Leave
}

#[inline(never)]
fn csr(
    cpu: &mut Cpu,
    retired: u64,
    op: CsrOp,
    csr: u16,
    operand: Option<u64>,
    read: bool,
) -> Result<(u64, After), Illegal> {
    cpu.retired = retired;
    cpu.csr_access(op, csr, operand, read)
}

/// The page of an atomic that hits the TLB.
#[inline(always)]
fn atomic_hit(cpu: &Cpu, addr: u64, len: u64) -> Option<&RamPage> {
    cpu.tlb.write(addr, len)
}

fn rmw(page: &RamPage, off: usize, op: AmoOp, v: u64, size: Width) -> u64 {
    let op = match op {
        AmoOp::Swap => RmwOp::Swap,
        AmoOp::Add => RmwOp::Add,
        AmoOp::Xor => RmwOp::Xor,
        AmoOp::And => RmwOp::And,
        AmoOp::Or => RmwOp::Or,
        AmoOp::Min => RmwOp::Min,
        AmoOp::Max => RmwOp::Max,
        AmoOp::Minu => RmwOp::Minu,
        AmoOp::Maxu => RmwOp::Maxu,
    };
    match size {
        Width::W64 => page.rmw_u64(off & 0xff8, op, v),
        _ => page.rmw_u32(off & 0xffc, op, v as u32) as i32 as u64,
    }
}

#[inline(always)]
pub(crate) fn amo(cpu: &mut Cpu, op: AmoOp, addr: u64, v: u64, size: Width) -> Result<u64, Stop> {
    let len = size.bytes();
    if let Some(page) = atomic_hit(cpu, addr, len) {
        return Ok(rmw(page, (addr & 0xfff) as usize, op, v, size));
    }
    if !addr.is_multiple_of(len) {
        return Err(cpu.raise(cause::STORE_MISALIGNED, addr));
    }
    let page = cpu.atomic_page(addr, len, Access::Write)?;
    Ok(rmw(&page, (addr & 0xfff) as usize, op, v, size))
}

/// A floating-point operation, with its flags.
#[inline(always)]
pub(crate) fn float(cpu: &mut Cpu, op: FpOp, a: u64, b: u64, c: u64, round: FpRound) -> u64 {
    let rm = match round {
        FpRound::NearestEven => Rounding::NearestEven,
        FpRound::TowardZero => Rounding::TowardZero,
        FpRound::Down => Rounding::Down,
        FpRound::Up => Rounding::Up,
        FpRound::NearestMaxMagnitude => Rounding::NearestMaxMagnitude,
        FpRound::Dynamic => Rounding::from_frm(cpu.frm).unwrap_or(Rounding::NearestEven),
    };
    let mut flags = Flags::NONE;
    let v = fp_op(op, a, b, c, rm, &mut flags);
    cpu.accrue(flags.bits());
    v
}

impl Sem for Exec<'_> {
    type V = u64;
    type B = bool;
    type Exit = Stop;

    #[inline(always)]
    fn imm(&mut self, v: u64) -> u64 {
        v
    }

    #[inline(always)]
    fn add(&mut self, a: u64, b: u64) -> u64 {
        a.wrapping_add(b)
    }

    #[inline(always)]
    fn sub(&mut self, a: u64, b: u64) -> u64 {
        a.wrapping_sub(b)
    }

    #[inline(always)]
    fn mul(&mut self, a: u64, b: u64) -> u64 {
        a.wrapping_mul(b)
    }

    #[inline(always)]
    fn mulh(&mut self, a: u64, b: u64) -> u64 {
        ((i128::from(a as i64) * i128::from(b as i64)) >> 64) as u64
    }

    #[inline(always)]
    fn mulhu(&mut self, a: u64, b: u64) -> u64 {
        ((u128::from(a) * u128::from(b)) >> 64) as u64
    }

    #[inline(always)]
    fn sdiv(&mut self, a: u64, b: u64) -> u64 {
        (a as i64).checked_div(b as i64).unwrap_or(0) as u64
    }

    #[inline(always)]
    fn udiv(&mut self, a: u64, b: u64) -> u64 {
        a.checked_div(b).unwrap_or(0)
    }

    #[inline(always)]
    fn srem(&mut self, a: u64, b: u64) -> u64 {
        (a as i64).checked_rem(b as i64).unwrap_or(0) as u64
    }

    #[inline(always)]
    fn urem(&mut self, a: u64, b: u64) -> u64 {
        a.checked_rem(b).unwrap_or(0)
    }

    #[inline(always)]
    fn clmul(&mut self, a: u64, b: u64, high: bool) -> u64 {
        clmul(a, b, high)
    }

    #[inline(always)]
    fn and(&mut self, a: u64, b: u64) -> u64 {
        a & b
    }

    #[inline(always)]
    fn or(&mut self, a: u64, b: u64) -> u64 {
        a | b
    }

    #[inline(always)]
    fn xor(&mut self, a: u64, b: u64) -> u64 {
        a ^ b
    }

    #[inline(always)]
    fn shl(&mut self, a: u64, n: u64) -> u64 {
        a << (n & 63)
    }

    #[inline(always)]
    fn shr(&mut self, a: u64, n: u64) -> u64 {
        a >> (n & 63)
    }

    #[inline(always)]
    fn sar(&mut self, a: u64, n: u64) -> u64 {
        (a as i64 >> (n & 63)) as u64
    }

    #[inline(always)]
    fn ror(&mut self, a: u64, n: u64) -> u64 {
        a.rotate_right((n & 63) as u32)
    }

    #[inline(always)]
    fn clz(&mut self, a: u64) -> u64 {
        u64::from(a.leading_zeros())
    }

    #[inline(always)]
    fn ctz(&mut self, a: u64) -> u64 {
        u64::from(a.trailing_zeros())
    }

    #[inline(always)]
    fn popcount(&mut self, a: u64) -> u64 {
        u64::from(a.count_ones())
    }

    #[inline(always)]
    fn bswap(&mut self, a: u64) -> u64 {
        a.swap_bytes()
    }

    #[inline(always)]
    fn sext(&mut self, a: u64, from: Width) -> u64 {
        match from {
            Width::W8 => a as i8 as u64,
            Width::W16 => a as i16 as u64,
            Width::W32 => a as i32 as u64,
            Width::W64 => a,
        }
    }

    #[inline(always)]
    fn zext(&mut self, a: u64, from: Width) -> u64 {
        match from {
            Width::W8 => u64::from(a as u8),
            Width::W16 => u64::from(a as u16),
            Width::W32 => u64::from(a as u32),
            Width::W64 => a,
        }
    }

    #[inline(always)]
    fn cmp(&mut self, c: Cond, a: u64, b: u64) -> bool {
        match c {
            Cond::Eq => a == b,
            Cond::Ne => a != b,
            Cond::Lt => (a as i64) < b as i64,
            Cond::Ge => a as i64 >= b as i64,
            Cond::Ltu => a < b,
            Cond::Geu => a >= b,
        }
    }

    #[inline(always)]
    fn both(&mut self, a: bool, b: bool) -> bool {
        a & b
    }

    #[inline(always)]
    fn either(&mut self, a: bool, b: bool) -> bool {
        a | b
    }

    #[inline(always)]
    fn bit(&mut self, b: bool) -> u64 {
        u64::from(b)
    }

    #[inline(always)]
    fn select(&mut self, c: bool, a: u64, b: u64) -> u64 {
        if c { a } else { b }
    }

    #[inline(always)]
    fn load(&mut self, addr: u64, size: Width, signed: bool) -> Result<u64, Stop> {
        Ok(match (size, signed) {
            (Width::W8, false) => u64::from(self.ld::<u8>(addr, Size::B1)?),
            (Width::W8, true) => self.ld::<u8>(addr, Size::B1)? as i8 as u64,
            (Width::W16, false) => u64::from(self.ld::<u16>(addr, Size::B2)?),
            (Width::W16, true) => self.ld::<u16>(addr, Size::B2)? as i16 as u64,
            (Width::W32, false) => u64::from(self.ld::<u32>(addr, Size::B4)?),
            (Width::W32, true) => self.ld::<u32>(addr, Size::B4)? as i32 as u64,
            (Width::W64, _) => self.ld::<u64>(addr, Size::B8)?,
        })
    }

    #[inline(always)]
    fn store(&mut self, addr: u64, v: u64, size: Width) -> Result<(), Stop> {
        match size {
            Width::W8 => self.st::<u8>(addr, v, Size::B1),
            Width::W16 => self.st::<u16>(addr, v, Size::B2),
            Width::W32 => self.st::<u32>(addr, v, Size::B4),
            Width::W64 => self.st::<u64>(addr, v, Size::B8),
        }
    }

    #[inline(always)]
    fn amo(&mut self, op: AmoOp, addr: u64, v: u64, size: Width) -> Result<u64, Stop> {
        amo(self.cpu, op, addr, v, size)
    }

    #[inline(always)]
    fn load_reserved(&mut self, addr: u64, size: Width) -> Result<u64, Stop> {
        load_reserved(self.cpu, addr, size)
    }

    #[inline(always)]
    fn store_conditional(&mut self, addr: u64, v: u64, size: Width) -> Result<u64, Stop> {
        store_conditional(self.cpu, addr, v, size)
    }

    #[inline(always)]
    fn fence(&mut self, full: bool) {
        use std::sync::atomic::{Ordering, fence};
        fence(if full { Ordering::SeqCst } else { Ordering::AcqRel });
    }

    #[inline(always)]
    fn pc(&mut self) -> u64 {
        self.pc
    }

    #[inline(always)]
    fn next_pc(&mut self) -> u64 {
        self.next
    }

    #[inline(always)]
    fn jump(&mut self, offset: i64) {
        self.next = self.pc.wrapping_add(offset as u64);
        self.came_to(self.next);
    }

    #[inline(always)]
    fn jump_to(&mut self, target: u64) {
        self.next = target;
        self.came_to(target);
    }

    #[inline(always)]
    fn branch(&mut self, c: bool, offset: i64) {
        if c {
            self.next = self.pc.wrapping_add(offset as u64);
            self.came_to(self.next);
        }
    }

    #[inline(always)]
    fn fp(&mut self, op: FpOp, a: u64, b: u64, c: u64, round: FpRound) -> u64 {
        float(self.cpu, op, a, b, c, round)
    }
}

#[inline(always)]
fn fp_op(op: FpOp, a: u64, b: u64, c: u64, rm: Rounding, f: &mut Flags) -> u64 {
    use FpFormat::{F32, F64};
    let (a32, b32, c32) = (a as u32, b as u32, c as u32);
    match op {
        FpOp::Add(F32) => fpu::f32_add(a32, b32, rm, f).into(),
        FpOp::Add(F64) => fpu::f64_add(a, b, rm, f),
        FpOp::Sub(F32) => fpu::f32_sub(a32, b32, rm, f).into(),
        FpOp::Sub(F64) => fpu::f64_sub(a, b, rm, f),
        FpOp::Mul(F32) => fpu::f32_mul(a32, b32, rm, f).into(),
        FpOp::Mul(F64) => fpu::f64_mul(a, b, rm, f),
        FpOp::Div(F32) => fpu::f32_div(a32, b32, rm, f).into(),
        FpOp::Div(F64) => fpu::f64_div(a, b, rm, f),
        FpOp::Sqrt(F32) => fpu::f32_sqrt(a32, rm, f).into(),
        FpOp::Sqrt(F64) => fpu::f64_sqrt(a, rm, f),
        FpOp::Fma(F32) => fpu::f32_fma(a32, b32, c32, rm, f).into(),
        FpOp::Fma(F64) => fpu::f64_fma(a, b, c, rm, f),
        FpOp::Min(F32) => fpu::f32_min(a32, b32, f).into(),
        FpOp::Min(F64) => fpu::f64_min(a, b, f),
        FpOp::Max(F32) => fpu::f32_max(a32, b32, f).into(),
        FpOp::Max(F64) => fpu::f64_max(a, b, f),
        FpOp::Eq(F32) => fpu::f32_eq(a32, b32, f).into(),
        FpOp::Eq(F64) => fpu::f64_eq(a, b, f).into(),
        FpOp::Lt(F32) => fpu::f32_lt(a32, b32, f).into(),
        FpOp::Lt(F64) => fpu::f64_lt(a, b, f).into(),
        FpOp::Le(F32) => fpu::f32_le(a32, b32, f).into(),
        FpOp::Le(F64) => fpu::f64_le(a, b, f).into(),
        FpOp::Class(F32) => fpu::f32_classify(a32).into(),
        FpOp::Class(F64) => fpu::f64_classify(a).into(),
        FpOp::ToInt(F32, IntFormat::I32) => fpu::f32_to_i32(a32, rm, f) as u64,
        FpOp::ToInt(F32, IntFormat::U32) => fpu::f32_to_u32(a32, rm, f) as i32 as u64,
        FpOp::ToInt(F32, IntFormat::I64) => fpu::f32_to_i64(a32, rm, f) as u64,
        FpOp::ToInt(F32, IntFormat::U64) => fpu::f32_to_u64(a32, rm, f),
        FpOp::ToInt(F64, IntFormat::I32) => fpu::f64_to_i32(a, rm, f) as u64,
        FpOp::ToInt(F64, IntFormat::U32) => fpu::f64_to_u32(a, rm, f) as i32 as u64,
        FpOp::ToInt(F64, IntFormat::I64) => fpu::f64_to_i64(a, rm, f) as u64,
        FpOp::ToInt(F64, IntFormat::U64) => fpu::f64_to_u64(a, rm, f),
        FpOp::FromInt(IntFormat::I32, F32) => fpu::i32_to_f32(a as i32, rm, f).into(),
        FpOp::FromInt(IntFormat::U32, F32) => fpu::u32_to_f32(a as u32, rm, f).into(),
        FpOp::FromInt(IntFormat::I64, F32) => fpu::i64_to_f32(a as i64, rm, f).into(),
        FpOp::FromInt(IntFormat::U64, F32) => fpu::u64_to_f32(a, rm, f).into(),
        FpOp::FromInt(IntFormat::I32, F64) => fpu::i32_to_f64(a as i32, rm, f),
        FpOp::FromInt(IntFormat::U32, F64) => fpu::u32_to_f64(a as u32, rm, f),
        FpOp::FromInt(IntFormat::I64, F64) => fpu::i64_to_f64(a as i64, rm, f),
        FpOp::FromInt(IntFormat::U64, F64) => fpu::u64_to_f64(a, rm, f),
        FpOp::Convert(F32, F64) => fpu::f32_to_f64(a32, f),
        FpOp::Convert(F64, F32) => fpu::f64_to_f32(a, rm, f).into(),
        _ => rare_fp_op(op, a, b, c, rm, f),
    }
}

/// The operations of the other formats, and those of Zfa.
#[inline(never)]
fn rare_fp_op(op: FpOp, a: u64, b: u64, c: u64, rm: Rounding, f: &mut Flags) -> u64 {
    use FpFormat::{BF16, F16, F32, F64};
    match op {
        FpOp::Convert(x, y) if x == y => a,
        FpOp::Convert(BF16, F32) => fpu::bf16_to_f32(a as u16, f).into(),
        FpOp::Convert(F32, BF16) => fpu::f32_to_bf16(a as u32, rm, f).into(),
        FpOp::Convert(F16, F32) => fpu::f16_to_f32(a as u16, f).into(),
        FpOp::Convert(F16, F64) => fpu::f16_to_f64(a as u16, f),
        FpOp::Convert(F32, F16) => fpu::f32_to_f16(a as u32, rm, f).into(),
        FpOp::Convert(F64, F16) => fpu::f64_to_f16(a, rm, f).into(),
        FpOp::Convert(x, y) => {
            // What no instruction asks for goes by way of the widest, which loses nothing.
            let wide = rare_fp_op(FpOp::Convert(x, F64), a, b, c, rm, f);
            rare_fp_op(FpOp::Convert(F64, y), wide, b, c, rm, f)
        }
        FpOp::Add(x)
        | FpOp::Sub(x)
        | FpOp::Mul(x)
        | FpOp::Div(x)
        | FpOp::Sqrt(x)
        | FpOp::Fma(x)
        | FpOp::Min(x)
        | FpOp::Max(x)
        | FpOp::Eq(x)
        | FpOp::Lt(x)
        | FpOp::Le(x)
        | FpOp::Class(x)
        | FpOp::MinNan(x)
        | FpOp::MaxNan(x)
        | FpOp::LtQuiet(x)
        | FpOp::LeQuiet(x)
        | FpOp::Round(x)
        | FpOp::RoundExact(x)
        | FpOp::ToInt(x, _)
        | FpOp::FromInt(_, x) => match x {
            F16 => any_fp_op::<fpu::F16>(op, a, b, c, rm, f),
            BF16 => any_fp_op::<fpu::BF16>(op, a, b, c, rm, f),
            F32 => any_fp_op::<fpu::F32>(op, a, b, c, rm, f),
            F64 => any_fp_op::<fpu::F64>(op, a, b, c, rm, f),
        },
        FpOp::ToIntModular => fpu::to_int_modular::<fpu::F64, i32>(a, rm, RiscV, f) as u64,
    }
}

fn any_fp_op<F: fpu::Format>(op: FpOp, a: u64, b: u64, c: u64, rm: Rounding, f: &mut Flags) -> u64 {
    use fpu::{Bits, MinMax, Which};
    let of = |v: u64| F::Bits::of(v.into());
    let (x, y) = (of(a), of(b));
    let float = |v: F::Bits| v.wide() as u64;
    match op {
        FpOp::Add(_) => float(fpu::add::<F>(x, y, rm, RiscV, f)),
        FpOp::Sub(_) => float(fpu::sub::<F>(x, y, rm, RiscV, f)),
        FpOp::Mul(_) => float(fpu::mul::<F>(x, y, rm, RiscV, f)),
        FpOp::Div(_) => float(fpu::div::<F>(x, y, rm, RiscV, f)),
        FpOp::Sqrt(_) => float(fpu::sqrt::<F>(x, rm, RiscV, f)),
        FpOp::Fma(_) => float(fpu::fma::<F>(x, y, of(c), rm, RiscV, f)),
        FpOp::Min(_) => float(fpu::min_max::<F>(x, y, Which::Min, MinMax::Number, RiscV, f)),
        FpOp::Max(_) => float(fpu::min_max::<F>(x, y, Which::Max, MinMax::Number, RiscV, f)),
        FpOp::MinNan(_) => float(fpu::min_max::<F>(x, y, Which::Min, MinMax::Propagating, RiscV, f)),
        FpOp::MaxNan(_) => float(fpu::min_max::<F>(x, y, Which::Max, MinMax::Propagating, RiscV, f)),
        FpOp::Eq(_) => fpu::compare::<F>(x, y, RiscV, f).is_some_and(|o| o.is_eq()).into(),
        FpOp::Lt(_) => fpu::compare_signalling::<F>(x, y, RiscV, f).is_some_and(|o| o.is_lt()).into(),
        FpOp::Le(_) => fpu::compare_signalling::<F>(x, y, RiscV, f).is_some_and(|o| o.is_le()).into(),
        FpOp::LtQuiet(_) => fpu::compare::<F>(x, y, RiscV, f).is_some_and(|o| o.is_lt()).into(),
        FpOp::LeQuiet(_) => fpu::compare::<F>(x, y, RiscV, f).is_some_and(|o| o.is_le()).into(),
        FpOp::Class(_) => fpu::classify::<F>(x).into(),
        FpOp::Round(_) => float(fpu::round_to_integral::<F>(x, rm, false, RiscV, f)),
        FpOp::RoundExact(_) => float(fpu::round_to_integral::<F>(x, rm, true, RiscV, f)),
        FpOp::ToInt(_, IntFormat::I32) => fpu::to_int::<F, i32>(x, rm, RiscV, f) as u64,
        FpOp::ToInt(_, IntFormat::U32) => fpu::to_int::<F, u32>(x, rm, RiscV, f) as i32 as u64,
        FpOp::ToInt(_, IntFormat::I64) => fpu::to_int::<F, i64>(x, rm, RiscV, f) as u64,
        FpOp::ToInt(_, IntFormat::U64) => fpu::to_int::<F, u64>(x, rm, RiscV, f),
        FpOp::FromInt(IntFormat::I32, _) => float(fpu::from_int::<i32, F>(a as i32, rm, RiscV, f)),
        FpOp::FromInt(IntFormat::U32, _) => float(fpu::from_int::<u32, F>(a as u32, rm, RiscV, f)),
        FpOp::FromInt(IntFormat::I64, _) => float(fpu::from_int::<i64, F>(a as i64, rm, RiscV, f)),
        FpOp::FromInt(IntFormat::U64, _) => float(fpu::from_int::<u64, F>(a, rm, RiscV, f)),
        FpOp::ToIntModular | FpOp::Convert(..) => a,
    }
}

impl RvSem for Exec<'_> {
    #[inline(always)]
    fn x(&mut self, r: usize) -> u64 {
        self.cpu.x[r & 31]
    }

    #[inline(always)]
    fn set_x(&mut self, r: usize, v: u64) {
        // Cheaper than a branch.
        self.cpu.x[r & 31] = v;
        self.cpu.x[0] = 0;
    }

    #[inline(always)]
    fn f(&mut self, r: usize) -> u64 {
        self.cpu.f[r & 31]
    }

    #[inline(always)]
    fn set_f(&mut self, r: usize, v: u64) {
        self.cpu.f[r & 31] = v;
        self.cpu.mstatus |= mstatus::FS;
    }

    #[inline(always)]
    fn fp_enter(&mut self) -> Result<(), Stop> {
        if self.cpu.mstatus & mstatus::FS == 0 { Err(Stop::Illegal) } else { Ok(()) }
    }

    #[inline(always)]
    fn fp_round(&mut self, rm: u8) -> Result<FpRound, Stop> {
        Ok(match rm {
            0 => FpRound::NearestEven,
            1 => FpRound::TowardZero,
            2 => FpRound::Down,
            3 => FpRound::Up,
            4 => FpRound::NearestMaxMagnitude,
            _ if self.cpu.frm <= 4 => FpRound::Dynamic,
            _ => return Err(Stop::Illegal),
        })
    }

    #[inline(always)]
    fn csr(&mut self, op: CsrOp, n: u16, operand: Option<u64>, read: bool) -> Result<u64, Stop> {
        match csr(self.cpu, self.limit - self.left, op, n, operand, read) {
            Ok((v, After::GoOn)) => {
                // What follows is where native code can go on.
                self.came_to(self.next);
                Ok(v)
            }
            Ok((v, After::Look)) => {
                // Ends the loop after this instruction, whose result is still to be written.
                self.limit -= self.left - 1;
                self.left = 1;
                Ok(v)
            }
            Err(Illegal) => Err(Stop::Illegal),
        }
    }

    #[inline(always)]
    fn system(&mut self, op: SysOp) -> Result<(), Stop> {
        let (stop, to) = system(self.cpu, op, self.pc);
        if let Some(to) = to {
            self.next = to;
        }
        Err(stop)
    }

    #[inline(always)]
    fn crypto(&mut self, op: CryptoOp, a: u64, b: u64) -> u64 {
        crypto(op, a, b)
    }

    #[inline(always)]
    fn block(&mut self, op: BlockOp, addr: u64) -> Result<(), Stop> {
        block(self.cpu, op, addr)
    }

    #[inline(always)]
    fn sfence_vma(&mut self, addr: Option<u64>, asid: Option<u64>) -> Result<(), Stop> {
        Err(sfence_vma(self.cpu, addr, asid))
    }
}
