//! Loads, stores, and calls of helpers.

use super::asm::*;
use super::asm_fp::Xmm;
use super::thunks::{self, Thunks, field};
use super::values::{Src, V, Values};
use isa_riscv::engine::layout;
use sem::Width;

/// Code that is seldom run, which is put behind all other.
pub(super) enum Cold {
    Load {
        entry: Label,
        back: Label,
        base: Result<Rm, u64>,
        disp: i32,
        dst: Reg,
        size: Width,
        signed: bool,
        info: u64,
    },
    /// A load to a vector register.
    LoadFloat {
        entry: Label,
        back: Label,
        base: Result<Rm, u64>,
        disp: i32,
        dst: Xmm,
        single: bool,
        info: u64,
    },
    Store {
        entry: Label,
        back: Label,
        base: Result<Rm, u64>,
        disp: i32,
        value: Src,
        info: u64,
    },
    /// The instruction is for the interpreter.
    Step {
        entry: Label,
        info: u64,
    },
    /// The floating-point unit is not marked as changed.
    Dirty {
        entry: Label,
        back: Label,
    },
    /// The result is a NaN.
    Nan {
        entry: Label,
        back: Label,
        dst: Xmm,
        nan: u64,
        single: bool,
    },
    /// The hart has to look around before it goes on `next` bytes into the page.
    Look {
        entry: Label,
        next: u64,
        done: u64,
    },
}

impl Cold {
    /// `reload`: brings back vector registers.
    pub(super) fn write(self, a: &mut Asm, thunks: &Thunks, reload: Option<Label>) {
        let back_from_helper = |a: &mut Asm| {
            if let Some(reload) = reload {
                a.call_label(reload);
            }
        };
        let address = |a: &mut Asm, base: Result<Rm, u64>, disp: i32| match base {
            Ok(Rm::Reg(r)) => a.lea(RAX, Rm::Mem(r, disp)),
            Ok(m) => {
                a.mov(RAX, m);
                if disp != 0 {
                    a.alu_imm(Alu::Add, Rm::Reg(RAX), disp);
                }
            }
            Err(i) => a.mov_imm(RAX, i.wrapping_add(disp as u64)),
        };
        match self {
            Cold::Load { entry, back, base, disp, dst, size, signed, info } => {
                a.bind(entry);
                address(a, base, disp);
                a.mov_imm(RCX, info);
                a.call_out(thunks.load);
                back_from_helper(a);
                extend(a, dst, Rm::Reg(RAX), size, signed);
                a.jmp(back);
            }
            Cold::Store { entry, back, base, disp, value, info } => {
                a.bind(entry);
                address(a, base, disp);
                match value {
                    Src::Imm(i) => a.mov_imm(RDX, i as u64),
                    Src::At(m) => a.mov(RDX, m),
                }
                a.mov_imm(RCX, info);
                a.call_out(thunks.store);
                back_from_helper(a);
                a.jmp(back);
            }
            Cold::LoadFloat { entry, back, base, disp, dst, single, info } => {
                a.bind(entry);
                address(a, base, disp);
                a.mov_imm(RCX, info);
                a.call_out(thunks.load);
                back_from_helper(a);
                if single {
                    a.mov_to_boxed(dst, RAX);
                } else {
                    a.mov_to_xmm(dst, RAX);
                }
                a.jmp(back);
            }
            Cold::Dirty { entry, back } => {
                a.bind(entry);
                a.or32_imm(field(layout::MSTATUS), 3 << 13);
                a.jmp(back);
            }
            Cold::Nan { entry, back, dst, nan, single } => {
                a.bind(entry);
                a.mov_imm(RAX, nan);
                if single {
                    a.mov_to_boxed(dst, RAX);
                } else {
                    a.mov_to_xmm(dst, RAX);
                }
                a.jmp(back);
            }
            Cold::Step { entry, info } => {
                a.bind(entry);
                a.mov_imm(RCX, info);
                a.jmp_out(thunks.step);
            }
            Cold::Look { entry, next, done } => {
                a.bind(entry);
                a.alu_imm(Alu::Sub, Rm::Reg(thunks::LEFT), done as i32);
                a.mov_imm(RAX, next);
                a.jmp_out(thunks.budget);
            }
        }
    }
}

/// The low bytes of a register, or of memory, extended.
fn extend(a: &mut Asm, dst: Reg, src: Rm, size: Width, signed: bool) {
    match (size, signed) {
        (Width::W8, false) => a.movzx8(dst, src),
        (Width::W8, true) => a.movsx8(dst, src),
        (Width::W16, false) => a.movzx16(dst, src),
        (Width::W16, true) => a.movsx16(dst, src),
        (Width::W32, false) => a.mov32(dst, src),
        (Width::W32, true) => a.movsx32(dst, src),
        (Width::W64, _) => a.mov(dst, src),
    }
}

/// The instruction that an access belongs to.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Here {
    /// Bytes into the page.
    pub(super) at: u64,
    /// Instructions of the block that are done.
    pub(super) done: u64,
}

impl Here {
    pub(super) fn info(self, bytes: u64) -> u64 {
        thunks::info(self.at, self.done, bytes)
    }
}

impl Values {
    /// Looks for the page of an access in the TLB; where it is not, goes to `missed`. Gives the register with the address, and
    /// the one with what is to be added to it.
    fn look_up(
        &mut self,
        base: Result<Rm, u64>,
        disp: i32,
        size: Width,
        table: usize,
        missed: Label,
    ) -> (Reg, Reg) {
        let a = &mut self.a;
        let addr = match base {
            Ok(Rm::Reg(r)) if disp == 0 => r,
            Ok(Rm::Reg(r)) => {
                a.lea(RAX, Rm::Mem(r, disp));
                RAX
            }
            Ok(m) => {
                a.mov(RAX, m);
                if disp != 0 {
                    a.alu_imm(Alu::Add, Rm::Reg(RAX), disp);
                }
                RAX
            }
            Err(i) => {
                a.mov_imm(RAX, i.wrapping_add(disp as u64));
                RAX
            }
        };
        let shift = layout::TLB_ENTRY.trailing_zeros() as u8;
        let (tag, addend) = (table + layout::TLB_ENTRY_TAG, table + layout::TLB_ENTRY_ADDEND);
        a.ror32_imm(RCX, Rm::Reg(addr), 12 - shift);
        a.and32_imm(RCX, (layout::TLB_ENTRIES as u32 - 1) << shift);
        a.alu(Alu::Add, RCX, field(layout::TLB));
        // The last byte's page: an access over the end of a page misses.
        a.lea(RDX, Rm::Mem(addr, size.bytes() as i32 - 1));
        a.alu_imm(Alu::And, Rm::Reg(RDX), !0xfff);
        a.alu(Alu::Cmp, RDX, Rm::Mem(RCX, tag as i32));
        a.jcc(Cc::Ne, missed);
        a.mov(RCX, Rm::Mem(RCX, addend as i32));
        (addr, RCX)
    }

    /// The place of an address without a register; its distance.
    fn base_of(&mut self, addr: V) -> (Result<Rm, u64>, i32) {
        let (base, disp) = self.split(addr);
        self.keep(base);
        self.prepare(base);
        self.spill_all();
        (self.source_unloaded(base), disp)
    }

    /// A load to `dst`, or to a scratch register.
    pub(super) fn load(
        &mut self,
        cold: &mut Vec<Cold>,
        here: Here,
        addr: V,
        size: Width,
        signed: bool,
        dst: Option<Reg>,
    ) -> V {
        let (base, disp) = self.base_of(addr);
        let (entry, back) = (self.a.label(), self.a.label());
        let (addr, addend) = self.look_up(base, disp, size, layout::TLB_READ, entry);
        let dst = dst.unwrap_or(RAX);
        extend(&mut self.a, dst, Rm::Sum(addr, addend, 0), size, signed);
        self.a.bind(back);
        cold.push(Cold::Load { entry, back, base, disp, dst, size, signed, info: here.info(size.bytes()) });
        self.given(dst)
    }

    /// A load of a number to a vector register.
    pub(super) fn load_float(
        &mut self,
        cold: &mut Vec<Cold>,
        here: Here,
        addr: V,
        single: bool,
        dst: Xmm,
    ) -> V {
        let (base, disp) = self.base_of(addr);
        let (entry, back) = (self.a.label(), self.a.label());
        let size = if single { Width::W32 } else { Width::W64 };
        let (addr, addend) = self.look_up(base, disp, size, layout::TLB_READ, entry);
        let at = Rm::Sum(addr, addend, 0);
        if single {
            self.a.load_boxed(dst, at);
        } else {
            self.a.load_xmm(dst, at);
        }
        self.a.bind(back);
        cold.push(Cold::LoadFloat { entry, back, base, disp, dst, single, info: here.info(size.bytes()) });
        if single { V::S(dst) } else { V::D(dst) }
    }

    pub(super) fn store(&mut self, cold: &mut Vec<Cold>, here: Here, addr: V, v: V, size: Width) {
        self.keep(v);
        self.prepare(v);
        let (base, disp) = self.base_of(addr);
        let (entry, back) = (self.a.label(), self.a.label());
        let (addr, addend) = self.look_up(base, disp, size, layout::TLB_WRITE, entry);
        self.unlock();
        let value = match self.source_unloaded(v) {
            Ok(m) => Src::At(m),
            Err(i) => match i32::try_from(i as i64) {
                Ok(i) => Src::Imm(i),
                // What is stored has no more bits, or is made by more than one instruction.
                Err(_) => {
                    let slot = self.new_slot();
                    self.a.mov_imm(RDX, i);
                    self.a.mov_to(slot, RDX);
                    Src::At(slot)
                }
            },
        };
        let to = Rm::Sum(addr, addend, 0);
        let home = if let V::F(r) = v { self.homes.of[usize::from(r)] } else { None };
        match (home, value) {
            (Some(x), _) if matches!(size, Width::W32 | Width::W64) => {
                self.a.store_xmm(size == Width::W32, to, x);
            }
            (_, Src::At(Rm::Reg(r))) => self.a.store(to, r, size.bytes()),
            (_, s) => {
                self.put(RDX, s);
                self.a.store(to, RDX, size.bytes());
            }
        }
        self.a.bind(back);
        cold.push(Cold::Store { entry, back, base, disp, value, info: here.info(size.bytes()) });
    }

    /// Calls a helper, with the hart's state first if `state`; one that may trap if `here` is given.
    pub(super) fn call_helper(
        &mut self,
        thunks: &Thunks,
        here: Option<Here>,
        function: usize,
        state: bool,
        args: &[V],
    ) -> V {
        args.iter().for_each(|v| self.keep(*v));
        let first = usize::from(state);
        for (n, v) in args.iter().enumerate() {
            self.write(thunks::arg(first + n), *v);
        }
        self.spill_all();
        if state {
            thunks::state_address(&mut self.a, RAX);
            self.a.mov_to(thunks::arg(0), RAX);
        }
        self.a.mov_imm(RAX, function as u64);
        match here {
            Some(here) => {
                self.a.mov_imm(RCX, here.info(0));
                self.a.call_out(thunks.call_or_trap);
            }
            None => self.a.call_out(thunks.call),
        }
        if let Some(reload) = self.reload {
            self.a.call_label(reload);
        }
        self.given(RAX)
    }
}
