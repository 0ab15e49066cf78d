//! What native code calls.
//!
//! A panic must not run through native code, which nobody can unwind: it is kept, native code is left as by a trap, and the
//! panic goes on where native code was entered.

use isa_riscv::Cpu;
use sem::{AmoOp, FpFormat, FpOp, FpRound, IntFormat, Width};
use std::any::Any;
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};

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

const FORMATS: [FpFormat; 2] = [FpFormat::F32, FpFormat::F64];
const INTS: [IntFormat; 4] = [IntFormat::I32, IntFormat::U32, IntFormat::I64, IntFormat::U64];
const ROUNDS: [FpRound; 6] = [
    FpRound::Dynamic,
    FpRound::NearestEven,
    FpRound::TowardZero,
    FpRound::Down,
    FpRound::Up,
    FpRound::NearestMaxMagnitude,
];

/// Floating-point operations by number: those of one format come in pairs.
fn operation(n: u64) -> FpOp {
    let f = FORMATS[(n & 1) as usize];
    let i = INTS[(n >> 1 & 3) as usize];
    match n >> 1 {
        0 => FpOp::Add(f),
        1 => FpOp::Sub(f),
        2 => FpOp::Mul(f),
        3 => FpOp::Div(f),
        4 => FpOp::Sqrt(f),
        5 => FpOp::Fma(f),
        6 => FpOp::Min(f),
        7 => FpOp::Max(f),
        8 => FpOp::Eq(f),
        9 => FpOp::Lt(f),
        10 => FpOp::Le(f),
        11 => FpOp::Class(f),
        12..=15 => FpOp::ToInt(f, i),
        16..=19 => FpOp::FromInt(i, f),
        n => FpOp::Convert(f, FORMATS[(n & 1) as usize]),
    }
}

/// Of so many numbers.
const OPERATIONS: u64 = 2 * 22;

/// What [`float`] understands.
pub(crate) fn number_of(op: FpOp, round: FpRound) -> u64 {
    let n = (0..OPERATIONS).find(|n| operation(*n) == op).unwrap_or(0);
    let r = ROUNDS.iter().position(|r| *r == round).unwrap_or(0) as u64;
    n << 3 | r
}

/// A floating-point operation in software.
pub(crate) extern "C" fn float(cpu: *mut Cpu, what: u64, a: u64, b: u64, c: u64) -> u64 {
    // SAFETY: as above.
    let cpu = unsafe { state(cpu) };
    guarded(|| Some(cpu.native_float(operation(what >> 3), [a, b, c], ROUNDS[(what & 7) as usize]))).value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_has_a_number_of_its_own() {
        let mut all: Vec<FpOp> = (0..OPERATIONS).map(operation).collect();
        for (n, op) in all.iter().enumerate() {
            assert_eq!(number_of(*op, FpRound::Up), (n as u64) << 3 | 4);
        }
        all.dedup();
        assert_eq!(all.len() as u64, OPERATIONS);
        assert_eq!(Atomic::StoreConditional.number(Width::W64), 21);
    }
}
