//! Loads, stores, and calls of helpers.

use super::asm::*;
use super::asm_fp::Xmm;
use super::groups::{self, Member};
use super::thunks::{self, Thunks, field};
use super::values::{Src, V, Values};
use isa_riscv::engine::layout;
use sem::Width;

/// An access to memory that did not find its page.
#[derive(Clone, Copy, Debug)]
pub(super) struct Missed {
    entry: Label,
    back: Label,
    base: Result<Rm, u64>,
    disp: i32,
    size: Width,
    stores: bool,
    info: u64,
    member: Option<Member>,
    kept: Option<u8>,
    /// Places of groups that are in use: bit `n` for place `n`.
    open: u8,
}

/// Code that is seldom run, which is put behind all other.
pub(super) enum Cold {
    Load {
        missed: Missed,
        dst: Reg,
        signed: bool,
    },
    /// A load to a vector register.
    LoadFloat {
        missed: Missed,
        dst: Xmm,
    },
    Store {
        missed: Missed,
        value: Src,
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
        match self {
            Cold::Load { missed, dst, signed } => {
                missed.alone(a, |a, at| extend(a, dst, at, missed.size, signed));
                missed.address(a);
                a.call_out(thunks.load);
                back_from_helper(a);
                missed.forget(a);
                extend(a, dst, Rm::Reg(RAX), missed.size, signed);
                a.jmp(missed.back);
            }
            Cold::LoadFloat { missed, dst } => {
                let single = missed.size == Width::W32;
                missed.alone(a, |a, at| load_float(a, single, dst, at));
                missed.address(a);
                a.call_out(thunks.load);
                back_from_helper(a);
                missed.forget(a);
                if single {
                    a.mov_to_boxed(dst, RAX);
                } else {
                    a.mov_to_xmm(dst, RAX);
                }
                a.jmp(missed.back);
            }
            Cold::Store { missed, value } => {
                let bytes = missed.size.bytes();
                missed.alone(a, |a, at| match value {
                    Src::At(Rm::Reg(r)) => a.store(at, r, bytes),
                    v => {
                        put(a, RDX, v);
                        a.store(at, RDX, bytes);
                    }
                });
                missed.address(a);
                put(a, RDX, value);
                a.call_out(thunks.store);
                back_from_helper(a);
                missed.forget(a);
                a.jmp(missed.back);
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

/// Looks for the page of `bytes` bytes in the TLB; where it is not, or they are not in one page, goes to `missed`. Gives the
/// register with the address, and the one with what is to be added to it.
fn look_up(
    a: &mut Asm,
    base: Result<Rm, u64>,
    disp: i32,
    bytes: i32,
    stores: bool,
    missed: Label,
) -> (Reg, Reg) {
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
    let table = if stores { layout::TLB_WRITE } else { layout::TLB_READ };
    let shift = layout::TLB_ENTRY.trailing_zeros() as u8;
    let (tag, addend) = (table + layout::TLB_ENTRY_TAG, table + layout::TLB_ENTRY_ADDEND);
    a.ror32_imm(RCX, Rm::Reg(addr), 12 - shift);
    a.and32_imm(RCX, (layout::TLB_ENTRIES as u32 - 1) << shift);
    a.alu(Alu::Add, RCX, field(layout::TLB));
    // The last byte's page: what goes over the end of a page misses.
    a.lea(RDX, Rm::Mem(addr, bytes - 1));
    a.alu_imm(Alu::And, Rm::Reg(RDX), !0xfff);
    a.alu(Alu::Cmp, RDX, Rm::Mem(RCX, tag as i32));
    a.jcc(Cc::Ne, missed);
    a.mov(RCX, Rm::Mem(RCX, addend as i32));
    (addr, RCX)
}

/// Finds the host's memory for an access; where that is not possible, goes to `missed`.
fn find(a: &mut Asm, m: &Missed) -> Rm {
    if let Some(place) = m.kept {
        return find_kept(a, m, place);
    }
    let Some(member) = m.member else {
        let (addr, addend) = look_up(a, m.base, m.disp, m.size.bytes() as i32, m.stores, m.entry);
        return Rm::Sum(addr, addend, 0);
    };
    if member.first {
        let (addr, addend) = look_up(a, m.base, member.low, member.bytes, member.stores, m.entry);
        a.mov_to(thunks::group(member.place), addend);
        return match m.base {
            Ok(Rm::Reg(r)) => Rm::Sum(r, addend, m.disp),
            _ => Rm::Sum(addr, addend, m.disp - member.low),
        };
    }
    a.mov(RCX, thunks::group(member.place));
    a.alu_imm(Alu::Cmp, Rm::Reg(RCX), groups::UNKNOWN);
    a.jcc(Cc::E, m.entry);
    match m.base {
        Ok(Rm::Reg(r)) => Rm::Sum(r, RCX, m.disp),
        Ok(base) => {
            a.mov(RAX, base);
            Rm::Sum(RAX, RCX, m.disp)
        }
        Err(_) => unreachable!("a group has a register"),
    }
}

/// The same for an access whose page was kept. What is not aligned is not found.
fn find_kept(a: &mut Asm, m: &Missed, place: u8) -> Rm {
    let base = match m.base {
        Ok(Rm::Reg(r)) => r,
        Ok(base) => {
            a.mov(RAX, base);
            RAX
        }
        Err(_) => unreachable!("a kept page has a register"),
    };
    let (page, addend) = thunks::kept_page(place);
    a.lea(RDX, Rm::Mem(base, m.disp));
    a.alu_imm(Alu::And, Rm::Reg(RDX), !0xfff | (m.size.bytes() as i32 - 1));
    a.alu(Alu::Cmp, RDX, page);
    a.jcc(Cc::Ne, m.entry);
    a.mov(RCX, addend);
    Rm::Sum(base, RCX, m.disp)
}

fn put(a: &mut Asm, dst: Reg, v: Src) {
    match v {
        Src::Imm(i) => a.mov_imm(dst, i as u64),
        Src::At(m) => a.mov(dst, m),
    }
}

fn load_float(a: &mut Asm, single: bool, dst: Xmm, at: Rm) {
    if single {
        a.load_boxed(dst, at);
    } else {
        a.load_xmm(dst, at);
    }
}

impl Missed {
    /// Where an access comes of a group, or one whose page was kept: it looks for its page in the TLB.
    fn alone(&self, a: &mut Asm, access: impl FnOnce(&mut Asm, Rm)) {
        a.bind(self.entry);
        if self.member.is_none() && self.kept.is_none() {
            return;
        }
        if let Some(member) = self.member.filter(|m| m.first) {
            a.mov_to_imm(thunks::group(member.place), groups::UNKNOWN);
        }
        let missed = a.label();
        let (addr, addend) = look_up(a, self.base, self.disp, self.size.bytes() as i32, self.stores, missed);
        if let Some(place) = self.kept {
            // The page is what was compared.
            let (page, there) = thunks::kept_page(place);
            a.mov_to(page, RDX);
            a.mov_to(there, addend);
        }
        access(a, Rm::Sum(addr, addend, 0));
        a.jmp(self.back);
        a.bind(missed);
    }

    /// Puts what the helper wants to know into its registers.
    fn address(&self, a: &mut Asm) {
        match self.base {
            Ok(Rm::Reg(r)) => a.lea(RAX, Rm::Mem(r, self.disp)),
            Ok(m) => {
                a.mov(RAX, m);
                if self.disp != 0 {
                    a.alu_imm(Alu::Add, Rm::Reg(RAX), self.disp);
                }
            }
            Err(i) => a.mov_imm(RAX, i.wrapping_add(self.disp as u64)),
        }
        a.mov_imm(RCX, self.info);
    }

    /// The helper may have changed the TLB.
    fn forget(&self, a: &mut Asm) {
        for place in (0..groups::MOST as u8).filter(|p| self.open >> p & 1 != 0) {
            a.mov_to_imm(thunks::group(place), groups::UNKNOWN);
        }
    }
}

impl Values {
    /// The place of an address without a register; its distance.
    fn base_of(&mut self, addr: V) -> (Result<Rm, u64>, i32) {
        let (base, disp) = self.split(addr);
        self.keep(base);
        self.prepare(base);
        self.spill_all();
        (self.source_unloaded(base), disp)
    }

    /// What an access is.
    fn access(&mut self, here: Here, addr: V, size: Width, stores: bool) -> Missed {
        let (base, disp) = self.base_of(addr);
        let (entry, back) = (self.a.label(), self.a.label());
        let info = here.info(size.bytes());
        if let Some(m) = self.member.filter(|m| m.first) {
            self.open |= 1 << m.place;
        }
        Missed {
            entry,
            back,
            base,
            disp,
            size,
            stores,
            info,
            member: self.member,
            kept: self.kept,
            open: self.open,
        }
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
        let missed = self.access(here, addr, size, false);
        let at = find(&mut self.a, &missed);
        let dst = dst.unwrap_or(RAX);
        extend(&mut self.a, dst, at, size, signed);
        self.a.bind(missed.back);
        cold.push(Cold::Load { missed, dst, signed });
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
        let missed = self.access(here, addr, if single { Width::W32 } else { Width::W64 }, false);
        let at = find(&mut self.a, &missed);
        load_float(&mut self.a, single, dst, at);
        self.a.bind(missed.back);
        cold.push(Cold::LoadFloat { missed, dst });
        if single { V::S(dst) } else { V::D(dst) }
    }

    pub(super) fn store(&mut self, cold: &mut Vec<Cold>, here: Here, addr: V, v: V, size: Width) {
        self.keep(v);
        self.prepare(v);
        let missed = self.access(here, addr, size, true);
        let to = find(&mut self.a, &missed);
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
        self.a.bind(missed.back);
        cold.push(Cold::Store { missed, value });
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
