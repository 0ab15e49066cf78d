//! What native code calls.
//!
//! A panic must not run through native code, which nobody can unwind: it is kept, native code is left as by a trap, and the
//! panic goes on where native code was entered.

use isa_riscv::Cpu;
use isa_riscv::engine::CsrAccess;
use isa_riscv::semantics::{BlockOp, CryptoOp, CsrOp};
use sem::{AmoOp, FpFormat, FpOp, FpRound, IntFormat, Width};
use std::any::Any;
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::LazyLock;

use crate::host_fp;

/// A value, and whether it is none: then a trap is recorded.
#[repr(C)]
pub(crate) struct Pair {
    value: u64,
    trap: u64,
}

thread_local! {
    static PANIC: RefCell<Option<Box<dyn Any + Send>>> = const { RefCell::new(None) };
}

/// The panic that ended native code on this thread, if one did.
pub(crate) fn take_panic() -> Option<Box<dyn Any + Send>> {
    PANIC.take()
}

/// Does what may reach any device, under the floating-point environment that Rust code expects.
fn guarded(f: impl FnOnce() -> Option<u64>) -> Pair {
    let _usual = host_fp::Usual::enter();
    match catch_unwind(AssertUnwindSafe(f)) {
        Ok(Some(value)) => Pair { value, trap: 0 },
        Ok(None) => Pair { value: 0, trap: 1 },
        Err(p) => {
            PANIC.set(Some(p));
            Pair { value: 0, trap: 1 }
        }
    }
}

/// The hart's state.
///
/// # Safety
/// It is what native code was entered with, and no other reference to it is in use: [`crate::Jit`]'s is not while native code runs.
unsafe fn state<'a>(cpu: *mut Cpu) -> &'a mut Cpu {
    // SAFETY: the caller's promise.
    unsafe { &mut *cpu }
}

/// A load of `len` bytes that missed the TLB, zero-extended.
pub(crate) extern "C" fn load(cpu: *mut Cpu, addr: u64, len: u64) -> Pair {
    // SAFETY: native code passes what it got.
    let cpu = unsafe { state(cpu) };
    guarded(|| cpu.native_load(addr, len))
}

/// A store of the low `len` bytes of `v` that missed the TLB.
pub(crate) extern "C" fn store(cpu: *mut Cpu, addr: u64, v: u64, len: u64) -> Pair {
    // SAFETY: as above.
    let cpu = unsafe { state(cpu) };
    guarded(|| cpu.native_store(addr, v, len).map(|()| 0))
}

/// Atomic operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Atomic {
    Amo(AmoOp),
    LoadReserved,
    StoreConditional,
}

const ATOMICS: [Atomic; 11] = [
    Atomic::Amo(AmoOp::Swap),
    Atomic::Amo(AmoOp::Add),
    Atomic::Amo(AmoOp::Xor),
    Atomic::Amo(AmoOp::And),
    Atomic::Amo(AmoOp::Or),
    Atomic::Amo(AmoOp::Min),
    Atomic::Amo(AmoOp::Max),
    Atomic::Amo(AmoOp::Minu),
    Atomic::Amo(AmoOp::Maxu),
    Atomic::LoadReserved,
    Atomic::StoreConditional,
];

impl Atomic {
    /// What [`atomic`] understands.
    pub(crate) fn number(self, size: Width) -> u64 {
        let n = ATOMICS.iter().position(|a| *a == self).unwrap_or(0) as u64;
        n << 1 | u64::from(size == Width::W64)
    }
}

/// An atomic operation by its number.
pub(crate) extern "C" fn atomic(cpu: *mut Cpu, what: u64, addr: u64, v: u64) -> Pair {
    // SAFETY: as above.
    let cpu = unsafe { state(cpu) };
    let size = if what & 1 != 0 { Width::W64 } else { Width::W32 };
    guarded(|| match ATOMICS[(what >> 1) as usize] {
        Atomic::Amo(op) => cpu.native_amo(op, addr, v, size),
        Atomic::LoadReserved => cpu.native_load_reserved(addr, size),
        Atomic::StoreConditional => cpu.native_store_conditional(addr, v, size),
    })
}

const ROUNDS: [FpRound; 6] = [
    FpRound::Dynamic,
    FpRound::NearestEven,
    FpRound::TowardZero,
    FpRound::Down,
    FpRound::Up,
    FpRound::NearestMaxMagnitude,
];

/// Floating-point operations by number.
static OPERATIONS: LazyLock<Vec<FpOp>> = LazyLock::new(|| {
    const FORMATS: [FpFormat; 4] = [FpFormat::F16, FpFormat::BF16, FpFormat::F32, FpFormat::F64];
    const INTS: [IntFormat; 4] = [IntFormat::I32, IntFormat::U32, IntFormat::I64, IntFormat::U64];
    let mut all = vec![FpOp::ToIntModular];
    for f in FORMATS {
        all.extend([FpOp::Add(f), FpOp::Sub(f), FpOp::Mul(f), FpOp::Div(f), FpOp::Sqrt(f), FpOp::Fma(f)]);
        all.extend([FpOp::Min(f), FpOp::Max(f), FpOp::MinNan(f), FpOp::MaxNan(f), FpOp::Class(f)]);
        all.extend([FpOp::Eq(f), FpOp::Lt(f), FpOp::Le(f), FpOp::LtQuiet(f), FpOp::LeQuiet(f)]);
        all.extend([FpOp::Round(f), FpOp::RoundExact(f)]);
        all.extend(INTS.iter().flat_map(|i| [FpOp::ToInt(f, *i), FpOp::FromInt(*i, f)]));
        all.extend(FORMATS.map(|to| FpOp::Convert(f, to)));
    }
    all
});

/// What [`float`] understands.
pub(crate) fn number_of(op: FpOp, round: FpRound) -> u64 {
    let n = OPERATIONS.iter().position(|o| *o == op).unwrap_or(0) as u64;
    let r = ROUNDS.iter().position(|r| *r == round).unwrap_or(0) as u64;
    n << 3 | r
}

/// A floating-point operation in software.
pub(crate) extern "C" fn float(cpu: *mut Cpu, what: u64, a: u64, b: u64, c: u64) -> u64 {
    // SAFETY: as above.
    let cpu = unsafe { state(cpu) };
    let op = OPERATIONS[(what >> 3) as usize];
    guarded(|| Some(cpu.native_float(op, [a, b, c], ROUNDS[(what & 7) as usize]))).value
}

const BLOCK_OPS: [BlockOp; 4] = [BlockOp::Inval, BlockOp::Clean, BlockOp::Flush, BlockOp::Zero];

/// What [`block`] understands.
pub(crate) fn number_of_block(op: BlockOp) -> u64 {
    BLOCK_OPS.iter().position(|o| *o == op).unwrap_or(0) as u64
}

/// An operation on a cache block: 1 if the interpreter has to say why it is not done.
pub(crate) extern "C" fn block(cpu: *mut Cpu, what: u64, addr: u64) -> Pair {
    // SAFETY: as above.
    let cpu = unsafe { state(cpu) };
    guarded(|| cpu.native_block(BLOCK_OPS[what as usize], addr).map(|done| !done as u64))
}

const CSR_OPS: [CsrOp; 3] = [CsrOp::Write, CsrOp::Set, CsrOp::Clear];

/// What [`csr`] understands.
pub(crate) fn number_of_csr(a: CsrAccess) -> u64 {
    let op = CSR_OPS.iter().position(|o| *o == a.op).unwrap_or(0) as u64;
    u64::from(a.csr) | op << 12 | u64::from(a.read) << 14 | u64::from(a.write) << 15
}

/// An access to a control and status register. In the place of a trap: 1 if the interpreter has to say why it is not done, 2 if
/// an interrupt is to be taken afterwards.
pub(crate) extern "C" fn csr(cpu: *mut Cpu, what: u64, operand: u64) -> Pair {
    // SAFETY: as above.
    let cpu = unsafe { state(cpu) };
    let op = CSR_OPS[(what >> 12 & 3) as usize];
    let access =
        CsrAccess { op, csr: (what & 0xfff) as u16, read: what >> 14 & 1 != 0, write: what >> 15 & 1 != 0 };
    let mut look = false;
    let done = guarded(|| {
        let (v, interrupt) = cpu.native_csr(access, operand)?;
        look = interrupt;
        Some(v)
    });
    if look { Pair { trap: 2, ..done } } else { done }
}

const CRYPTO_OPS: [CryptoOp; 17] = [
    CryptoOp::AesEncryptLast,
    CryptoOp::AesEncrypt,
    CryptoOp::AesDecryptLast,
    CryptoOp::AesDecrypt,
    CryptoOp::AesInverseMix,
    CryptoOp::AesKey1,
    CryptoOp::AesKey2,
    CryptoOp::Sm4Round(0),
    CryptoOp::Sm4Round(1),
    CryptoOp::Sm4Round(2),
    CryptoOp::Sm4Round(3),
    CryptoOp::Sm4Key(0),
    CryptoOp::Sm4Key(1),
    CryptoOp::Sm4Key(2),
    CryptoOp::Sm4Key(3),
    CryptoOp::Permute4,
    CryptoOp::Permute8,
];

/// What [`crypto`] understands.
pub(crate) fn number_of_crypto(op: CryptoOp) -> u64 {
    CRYPTO_OPS.iter().position(|o| *o == op).unwrap_or(0) as u64
}

/// An operation of scalar cryptography.
pub(crate) extern "C" fn crypto(what: u64, a: u64, b: u64) -> u64 {
    isa_riscv::semantics::crypto(CRYPTO_OPS[what as usize], a, b)
}

/// A carry-less multiplication.
pub(crate) extern "C" fn clmul(a: u64, b: u64, high: u64) -> u64 {
    isa_riscv::semantics::clmul(a, b, high != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_has_a_number_of_its_own() {
        for (n, op) in OPERATIONS.iter().enumerate() {
            assert_eq!(number_of(*op, FpRound::Up), (n as u64) << 3 | 4);
        }
        assert_eq!(Atomic::StoreConditional.number(Width::W64), 21);
    }
}
