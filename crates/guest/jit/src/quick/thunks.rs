//! The ways into quick code and out of it, which all regions share, and the places of the guest's registers meanwhile.

use super::asm::*;
use super::groups;
use super::loops;
use crate::helpers;
use isa_riscv::engine::{Left, layout};

/// Guest registers that are in host registers throughout. The C extension's short forms reach most of them, so most code uses
/// them most.
const PINNED: [(u8, Reg); 10] =
    [(2, RBX), (8, R12), (9, R13), (10, RSI), (11, RDI), (12, R8), (13, R9), (14, R10), (15, R11), (16, R14)];
/// Instructions that are left.
pub(super) const LEFT: Reg = R15;
/// In the middle of the `x` registers, so that all of them are near.
const STATE: Reg = RBP;
const MIDDLE: i32 = layout::X as i32 + 128;

/// What the stack has: arguments of helpers, what a call is for, and values that found no register.
const ARGS: i32 = 0;
const INFO: i32 = 64;
const SLOT0: i32 = 72;
pub(super) const FRAME_SLOTS: usize = 40;
/// What is to be added to addresses of groups.
const GROUPS: i32 = SLOT0 + 8 * FRAME_SLOTS as i32;
/// Pages that are kept, and what is to be added to their addresses.
const KEPT_PAGES: i32 = GROUPS + 8 * groups::MOST as i32;
/// With what is pushed before, a multiple of 16.
const FRAME: i32 = KEPT_PAGES + 16 * loops::MOST as i32;
const _: () = assert!(FRAME % 16 == 8);

/// Registers that functions keep.
const KEPT: [Reg; 6] = [RBP, RBX, R12, R13, R14, R15];

/// A field of the hart's state.
pub(super) fn field(offset: usize) -> Rm {
    Rm::Mem(STATE, offset as i32 - MIDDLE)
}

/// Where `x[r]` is.
pub(super) fn x(r: u8) -> Rm {
    pinned(r).map_or_else(|| home(r), Rm::Reg)
}

/// Where `f[r]` is.
pub(super) fn f(r: u8) -> Rm {
    field(layout::F + 8 * usize::from(r))
}

pub(super) fn pinned(r: u8) -> Option<Reg> {
    PINNED.iter().find(|p| p.0 == r).map(|p| p.1)
}

/// Place `n` for a value.
pub(super) fn slot(n: usize) -> Rm {
    Rm::Mem(RSP, SLOT0 + 8 * n as i32)
}

/// Where what is to be added to addresses of a group is.
pub(super) fn group(place: u8) -> Rm {
    Rm::Mem(RSP, GROUPS + 8 * i32::from(place))
}

/// Where a kept page is, and what is to be added to its addresses.
pub(super) fn kept_page(place: u8) -> (Rm, Rm) {
    let at = KEPT_PAGES + 16 * i32::from(place);
    (Rm::Mem(RSP, at), Rm::Mem(RSP, at + 8))
}

/// Argument `n` of a helper.
pub(super) fn arg(n: usize) -> Rm {
    Rm::Mem(RSP, ARGS + 8 * n as i32)
}

/// Puts the address of the hart's state into `dst`.
pub(super) fn state_address(a: &mut Asm, dst: Reg) {
    a.lea(dst, Rm::Mem(STATE, -MIDDLE));
}

/// Which instruction of its block and page a call is for, in one number: `at` bytes into the page, `done` instructions of the
/// block are done.
pub(super) fn info(at: u64, done: u64, bytes: u64) -> u64 {
    at | done << 12 | bytes << 24
}

/// Addresses of shared code.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Thunks {
    /// `(state, code, pc)`, called as C functions are, and as Cranelift's tail calls.
    pub(crate) enter: u64,
    /// Goes on as a function `(state, pc)` at `rax`; `rcx`: bytes from the page to its entry.
    pub(super) function: u64,
    /// Returns to the hart. `rax`: bytes from the page to where control goes; `rcx`: the link.
    pub(super) link: u64,
    /// `rax`: where control goes.
    pub(super) on: u64,
    /// As `link`, without one, as no instruction is left.
    pub(super) budget: u64,
    /// As `on`.
    pub(super) budget_at: u64,
    /// `rcx`: [`info`].
    pub(super) step: u64,
    /// Loads by a helper: `rax` from the address `rax`, zero-extended; `rcx`: [`info`].
    pub(super) load: u64,
    /// Stores by a helper: `rdx` to the address `rax`; `rcx`: [`info`].
    pub(super) store: u64,
    /// Calls the helper at `rax`: `rax` is its value.
    pub(super) call: u64,
    /// The same, where it may trap; `rcx`: [`info`].
    pub(super) call_or_trap: u64,
}

impl Thunks {
    /// The code, which will be at `base`.
    pub(crate) fn make(base: u64) -> (Vec<u8>, Thunks) {
        let mut a = Asm::default();
        let mut t = Thunks::default();
        let (leave, trapped) = (a.label(), a.label());

        t.enter = base + u64::from(a.at());
        KEPT.iter().for_each(|r| a.push(*r));
        a.alu_imm(Alu::Sub, Rm::Reg(RSP), FRAME);
        a.lea(STATE, Rm::Mem(RDI, MIDDLE));
        a.mov(RAX, Rm::Reg(RSI));
        a.alu_imm(Alu::And, Rm::Reg(RDX), !0xfff);
        a.mov_to(field(layout::PAGE), RDX);
        a.mov(LEFT, field(layout::LEFT));
        PINNED.iter().for_each(|(x, r)| a.mov(*r, home(*x)));
        a.jmp_to(Rm::Reg(RAX));

        t.function = base + u64::from(a.at());
        write_back(&mut a);
        a.mov_to(field(layout::LEFT), LEFT);
        a.mov(RSI, field(layout::PAGE));
        a.alu(Alu::Add, RSI, Rm::Reg(RCX));
        state_address(&mut a, RDI);
        unwind(&mut a);
        a.jmp_to(Rm::Reg(RAX));

        t.link = base + u64::from(a.at());
        a.alu(Alu::Add, RAX, field(layout::PAGE));
        a.mov_to(field(layout::LINK), RCX);
        t.on = base + u64::from(a.at());
        a.mov_imm(RDX, Left::On as u64);
        a.jmp(leave);

        t.budget = base + u64::from(a.at());
        a.alu(Alu::Add, RAX, field(layout::PAGE));
        t.budget_at = base + u64::from(a.at());
        a.mov_imm(RDX, Left::Budget as u64);
        a.bind(leave);
        write_back(&mut a);
        a.mov_to(field(layout::PC), RAX);
        a.mov_to(field(layout::LEFT), LEFT);
        a.mov(RAX, Rm::Reg(RDX));
        unwind(&mut a);
        a.ret();

        t.step = base + u64::from(a.at());
        a.mov_imm(RDX, Left::Step as u64);
        let before = a.label();
        a.bind(before);
        a.mov(RAX, Rm::Reg(RCX));
        a.shr32_imm(RAX, 12);
        a.and32_imm(RAX, 0xfff);
        a.alu(Alu::Sub, LEFT, Rm::Reg(RAX));
        a.and32_imm(RCX, 0xfff);
        a.mov(RAX, field(layout::PAGE));
        a.alu(Alu::Add, RAX, Rm::Reg(RCX));
        a.jmp(leave);

        // A helper trapped: the address that its thunk would return to is dropped.
        a.bind(trapped);
        reload(&mut a);
        a.alu_imm(Alu::Add, Rm::Reg(RSP), 8);
        a.mov(RCX, Rm::Mem(RSP, INFO));
        a.mov_imm(RDX, Left::Trap as u64);
        a.jmp(before);

        for store in [false, true] {
            let at = base + u64::from(a.at());
            *(if store { &mut t.store } else { &mut t.load }) = at;
            a.mov_to(Rm::Mem(RSP, 8 + INFO), RCX);
            write_back(&mut a);
            state_address(&mut a, RDI);
            a.mov(RSI, Rm::Reg(RAX));
            a.shr32_imm(RCX, 24);
            if !store {
                a.mov(RDX, Rm::Reg(RCX));
            }
            let helper = if store { helpers::store as *const () } else { helpers::load as *const () };
            a.mov_imm(RAX, helper as usize as u64);
            call(&mut a);
            a.test(RDX);
            a.jcc(Cc::Ne, trapped);
            reload(&mut a);
            a.ret();
        }

        for may_trap in [false, true] {
            let at = base + u64::from(a.at());
            *(if may_trap { &mut t.call_or_trap } else { &mut t.call }) = at;
            a.mov_to(Rm::Mem(RSP, 8 + INFO), RCX);
            write_back(&mut a);
            for (n, r) in [RDI, RSI, RDX, RCX, R8].into_iter().enumerate() {
                a.mov(r, Rm::Mem(RSP, 8 + ARGS + 8 * n as i32));
            }
            call(&mut a);
            if may_trap {
                a.test(RDX);
                a.jcc(Cc::Ne, trapped);
            }
            reload(&mut a);
            a.ret();
        }

        a.finish();
        debug_assert!(a.outside.is_empty());
        (a.code, t)
    }
}

fn home(x: u8) -> Rm {
    field(layout::X + 8 * usize::from(x))
}

fn write_back(a: &mut Asm) {
    PINNED.iter().for_each(|(x, r)| a.mov_to(home(*x), *r));
}

/// Brings back what functions do not keep.
fn reload(a: &mut Asm) {
    PINNED.iter().filter(|(_, r)| !KEPT.contains(r)).for_each(|(x, r)| a.mov(*r, home(*x)));
}

/// Calls the function at `rax` from a thunk that was called, so that the stack is aligned.
fn call(a: &mut Asm) {
    a.alu_imm(Alu::Sub, Rm::Reg(RSP), 8);
    a.call(Rm::Reg(RAX));
    a.alu_imm(Alu::Add, Rm::Reg(RSP), 8);
}

fn unwind(a: &mut Asm) {
    a.alu_imm(Alu::Add, Rm::Reg(RSP), FRAME);
    KEPT.iter().rev().for_each(|r| a.pop(*r));
}
