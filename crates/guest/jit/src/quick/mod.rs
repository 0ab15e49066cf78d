//! The quick translator: from a region to machine code, one instruction behind the other.
//!
//! It takes some hundred nanoseconds for a guest instruction, so everything that is warm gets native code at once. Ten guest
//! registers have a host register of their own wherever control goes from region to region, the others are in the hart's state,
//! where the host's instructions take them as operands. So each block can be entered from outside, and going from region to
//! region is a jump.
//!
//! What a region has of its own - vector registers ([`float`]), pages that were found ([`groups`], [`loops`]) - is set up where it is
//! entered, and again after each call of a helper.

mod asm;
mod asm_fp;
mod float;
mod groups;
mod loops;
mod memory;
mod sem;
mod thunks;
mod values;

use self::sem::Then;
use crate::region::{Block, Region, writes};
use crate::report::Made;
use asm::*;
use asm_fp::Xmm;
use float::Homes;
pub(crate) use float::is_possible as is_float_possible;
use groups::Groups;
use isa_riscv::SLOTS;
use isa_riscv::engine::layout;
use isa_riscv::insn::Format;
use isa_riscv::semantics::execute;
use loops::Kept;
use memory::{Cold, Here};
pub(crate) use thunks::Thunks;
use thunks::field;
use values::{V, Values};

/// Whether this host has the instructions that quick code is made of.
pub(crate) fn is_possible() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::is_x86_feature_detected!("bmi1")
        && std::is_x86_feature_detected!("bmi2")
        && std::is_x86_feature_detected!("lzcnt")
        && std::is_x86_feature_detected!("popcnt");
    #[cfg(not(target_arch = "x86_64"))]
    return false;
}

/// Native code that does not know its address yet.
pub(crate) struct QuickCode {
    pub(crate) made: Made,
    /// Where each block begins: its slot, and bytes of code.
    pub(crate) entries: Vec<(usize, u32)>,
    /// Links, and where in the code they lead first.
    pub(crate) links: Vec<(u64, u32)>,
    /// Where distances to addresses outside belong.
    outside: Vec<(u32, u64)>,
}

impl QuickCode {
    /// Fills in what depends on the address.
    pub(crate) fn place(&mut self, at: u64) {
        for (offset, to) in &self.outside {
            put_distance(&mut self.made.code, *offset, to.wrapping_sub(at) as i64);
        }
    }
}

/// Translates.
pub(crate) struct Quick {
    thunks: Thunks,
    v: Values,
    cold: Vec<Cold>,
    /// Where branches leave the region, and to which slot.
    aways: Vec<(Label, i64)>,
    /// Where code finds that no instruction is left, and the slot that it was going to.
    ways: Vec<(Label, i64)>,
    links: Vec<(u64, Label)>,
    here: Here,
    /// The present instruction's length, bytes.
    len: u64,
    /// What the present instruction writes, and where.
    result: Option<(Rm, V)>,
    /// What is not zero if the hart has to look around after the present instruction.
    look: Option<Rm>,
    /// The register of the `f` register that the present instruction writes.
    result_f: Option<(u8, V)>,
    /// The register that the present instruction does nothing but load.
    loads_to: Option<Reg>,
    /// The vector register that it loads a number to.
    loads_float: Option<Xmm>,
    /// That of the `f` register that it writes.
    float_to: Option<Xmm>,
    then: Then,
    /// What was seen to in this block; see [`crate::emit::Emit`].
    fp_on: bool,
    fp_dirty: bool,
    frm_seen: bool,
    /// What the dynamic rounding mode is, if that was looked at.
    frm_is: Option<u8>,
}

impl Quick {
    /// A translator whose code uses these.
    pub(crate) fn new(thunks: Thunks) -> Quick {
        Quick {
            thunks,
            v: Values::default(),
            cold: Vec::new(),
            aways: Vec::new(),
            ways: Vec::new(),
            links: Vec::new(),
            here: Here::default(),
            len: 0,
            result: None,
            look: None,
            result_f: None,
            loads_to: None,
            loads_float: None,
            float_to: None,
            then: Then::On,
            fp_on: false,
            fp_dirty: false,
            frm_seen: false,
            frm_is: None,
        }
    }

    /// The native code of a region. `new_link` makes a link, a word that says where code goes on: it must lie less than 2 GiB from
    /// where the code will be. `None`: there are no links any more.
    pub(crate) fn region(
        &mut self,
        region: &Region,
        places: bool,
        mut new_link: impl FnMut() -> Option<u64>,
    ) -> Option<QuickCode> {
        // Also what a translation left that was given up.
        (self.result, self.result_f, self.look) = (None, None, None);
        self.v.finish();
        self.v.a.clear();
        self.cold.clear();
        self.aways.clear();
        self.ways.clear();
        self.links.clear();
        let labels: Vec<Label> = region.blocks.iter().map(|_| self.v.a.label()).collect();
        self.v.homes = Homes::of(region);
        let groups: Vec<Groups> = region.blocks.iter().map(Groups::of).collect();
        let kept = Kept::of(region, &groups);
        let reloads = self.v.homes.all() != 0 || kept.places != 0;
        self.v.reload = reloads.then(|| self.v.a.label());
        let is_header = headers(region);
        let mut marks = Vec::new();
        let mut listing = trace::enabled(trace::Item::Op).then(String::new);
        for (n, block) in region.blocks.iter().enumerate() {
            self.v.a.bind(labels[n]);
            if is_header[n] {
                // A loop goes back here.
                self.v.a.test(thunks::LEFT);
                let out = self.v.a.label();
                self.v.a.jcc(Cc::S, out);
                self.ways.push((out, block.start as i64));
            }
            self.forget_float();
            self.v.boxed = 0;
            self.v.open = 0;
            self.then = Then::On;
            for (done, (slot, insn)) in block.insns.iter().enumerate() {
                if places {
                    marks.push((self.v.a.at() as usize, *slot));
                }
                self.v.finish();
                self.v.member = groups[n].of[done];
                self.v.kept = kept.place(n, done);
                self.here = Here { at: 2 * *slot as u64, done: done as u64 };
                self.len = insn.len();
                let loads = Region::format(*insn) == Format::Load;
                self.loads_to = thunks::pinned(insn.rd() as u8).filter(|_| loads);
                self.aim_float(insn.rd(), Region::format(*insn), writes(*insn));
                match execute(self, *insn) {
                    Ok(()) => {}
                    Err(never) => match never {},
                }
                if let Some(text) = &mut listing {
                    text.push_str(&format!("---- {:03x} {:?}\n", 2 * slot, insn.op).to_lowercase());
                    self.list(text);
                }
                self.finish_insn();
                self.v.open &= !groups[n].last[done];
            }
            self.end(region, &labels, n, block, &mut new_link)?;
        }
        if let Some(text) = listing {
            trace::log!(Op, "OP:\n{text}");
        }
        for (label, slot) in std::mem::take(&mut self.aways) {
            self.v.a.bind(label);
            self.leave(slot, true, &mut new_link)?;
        }
        for (label, slot) in std::mem::take(&mut self.ways) {
            self.v.a.bind(label);
            self.v.a.mov_imm(RAX, (2 * slot) as u64);
            self.v.a.jmp_out(self.thunks.budget);
        }
        for cold in self.cold.drain(..) {
            cold.write(&mut self.v.a, &self.thunks, self.v.reload);
        }
        if let Some(reload) = self.v.reload {
            self.v.a.bind(reload);
            self.load_floats(u32::MAX);
            self.forget_pages(kept.places, 8);
            self.v.a.ret();
        }
        let entries: Vec<Label> =
            (0..labels.len()).map(|n| self.entry(labels[n], self.v.homes.live[n], kept.places)).collect();
        self.v.a.finish();
        let a = &mut self.v.a;
        let entries = region.blocks.iter().zip(&entries).map(|(b, l)| (b.start, a.place(*l))).collect();
        let links = self.links.drain(..).map(|(link, l)| (link, a.place(l))).collect();
        let made = Made { code: std::mem::take(&mut a.code), places: marks };
        Some(QuickCode { made, entries, links, outside: std::mem::take(&mut a.outside) })
    }

    /// Where a block is entered from outside, if these `f` registers are wanted in vector registers.
    fn entry(&mut self, block: Label, live: u32, pages: u8) -> Label {
        if live == 0 && pages == 0 {
            return block;
        }
        let entry = self.v.a.label();
        self.v.a.bind(entry);
        self.load_floats(live);
        self.forget_pages(pages, 0);
        self.v.a.jmp(block);
        entry
    }

    /// Pages that were kept are not known any more. `above`: how much more is on the stack than the frame, bytes.
    fn forget_pages(&mut self, places: u8, above: i32) {
        for place in 0..places {
            let (Rm::Mem(base, at), _) = thunks::kept_page(place) else { continue };
            self.v.a.mov_to_imm(Rm::Mem(base, at + above), loops::UNKNOWN);
        }
    }

    /// Loads the vector registers of these `f` registers.
    fn load_floats(&mut self, which: u32) {
        for r in (0..32).filter(|r| which >> r & 1 != 0) {
            if let Some(home) = self.v.homes.of[usize::from(r)] {
                self.v.a.load_xmm(home, thunks::f(r));
            }
        }
    }

    /// Nothing is known of the floating-point unit any more.
    fn forget_float(&mut self) {
        (self.fp_on, self.fp_dirty, self.frm_seen, self.frm_is) = (false, false, false, None);
    }

    /// Tells what the present instruction does.
    fn list(&self, text: &mut String) {
        text.push_str(&self.v.listing());
        if let Some((to, v)) = self.result {
            text.push_str(&format!(" {to:?} = {v}\n").to_lowercase());
        }
        if let Some((r, v)) = self.result_f {
            text.push_str(&format!(" f{r} = {v}\n"));
        }
        match self.then {
            Then::On => {}
            Then::Either(c) => text.push_str(&format!(" branch {c}\n")),
            Then::To(v) => text.push_str(&format!(" jump {v}\n")),
        }
    }

    /// Writes what the instruction gave, after everything that needs the registers as they were.
    fn finish_insn(&mut self) {
        if let Then::To(target) = self.then {
            self.v.prepare(target);
        }
        if let Some((to, v)) = self.result.take() {
            self.v.write(to, v);
        }
        if let Some((r, v)) = self.result_f.take() {
            self.write_float(r, v);
        }
        if let Some(look) = self.look.take() {
            self.v.a.alu_imm(Alu::Cmp, look, 0);
            let entry = self.v.a.label();
            self.v.a.jcc(Cc::Ne, entry);
            self.cold.push(Cold::Look { entry, next: self.here.at + self.len, done: self.here.done + 1 });
        }
    }

    /// Ends a block.
    fn end(
        &mut self,
        region: &Region,
        labels: &[Label],
        n: usize,
        block: &Block,
        new_link: &mut impl FnMut() -> Option<u64>,
    ) -> Option<()> {
        let count = block.insns.len() as i32;
        let then = std::mem::replace(&mut self.then, Then::On);
        if let Then::To(target) = then {
            self.v.unlock();
            let r = self.v.in_register(target);
            if r != RAX {
                self.v.a.mov(RAX, Rm::Reg(r));
            }
        }
        self.v.a.alu_imm(Alu::Sub, Rm::Reg(thunks::LEFT), count);
        match (then, &block.next[..]) {
            (Then::To(_), _) => {
                let out = self.v.a.label();
                self.v.a.jcc(Cc::S, out);
                self.by_jump_cache();
                self.v.a.bind(out);
                self.v.a.jmp_out(self.thunks.budget_at);
                Some(())
            }
            (Then::Either(c), &[taken, next]) => {
                let cc = self.v.flags(c);
                let to = match region.block(taken) {
                    Some(t) => labels[t],
                    None => {
                        let away = self.v.a.label();
                        self.aways.push((away, taken));
                        away
                    }
                };
                self.v.a.jcc(cc, to);
                self.to(region, labels, n, next, true, new_link)
            }
            (_, next) => self.to(region, labels, n, next.first().copied().unwrap_or(0), false, new_link),
        }
    }

    /// Goes from block `n` to a slot; `test`: the flags do not tell any more whether instructions are left.
    fn to(
        &mut self,
        region: &Region,
        labels: &[Label],
        n: usize,
        slot: i64,
        test: bool,
        new_link: &mut impl FnMut() -> Option<u64>,
    ) -> Option<()> {
        match region.block(slot) {
            Some(t) if t == n + 1 => Some(()),
            Some(t) => {
                self.v.a.jmp(labels[t]);
                Some(())
            }
            None => self.leave(slot, test, new_link),
        }
    }

    /// Leaves the region to a slot, if instructions are left.
    fn leave(&mut self, slot: i64, test: bool, new_link: &mut impl FnMut() -> Option<u64>) -> Option<()> {
        let out = self.v.a.label();
        if test {
            self.v.a.test(thunks::LEFT);
        }
        self.v.a.jcc(Cc::S, out);
        self.ways.push((out, slot));
        if usize::try_from(slot).is_ok_and(|s| s < SLOTS) {
            let link = new_link()?;
            self.v.a.jmp_through(link);
            let first = self.v.a.label();
            self.v.a.bind(first);
            self.links.push((link, first));
            self.v.a.mov_imm(RAX, (2 * slot) as u64);
            self.v.a.lea_out(RCX, link);
            self.v.a.jmp_out(self.thunks.link);
        } else {
            self.v.a.mov(RAX, field(layout::PAGE));
            self.v.a.alu_imm(Alu::Add, Rm::Reg(RAX), (2 * slot) as i32);
            self.by_jump_cache();
        }
        Some(())
    }

    /// Goes on at the virtual address in `rax`.
    fn by_jump_cache(&mut self) {
        let a = &mut self.v.a;
        let shift = layout::JUMPS_ENTRY.trailing_zeros() as u8 - 1;
        let missed = a.label();
        a.mov32(RCX, Rm::Reg(RAX));
        a.shl32_imm(RCX, shift);
        a.and32_imm(RCX, ((layout::JUMPS_ENTRIES - 1) * layout::JUMPS_ENTRY) as u32);
        a.alu(Alu::Add, RCX, field(layout::JUMPS));
        a.alu(Alu::Cmp, RAX, Rm::Mem(RCX, layout::JUMPS_ENTRY_PC as i32));
        a.jcc(Cc::Ne, missed);
        a.mov(RDX, field(layout::JUMPS_NOW));
        a.alu(Alu::Cmp, RDX, Rm::Mem(RCX, layout::JUMPS_ENTRY_WHEN as i32));
        a.jcc(Cc::Ne, missed);
        a.alu_imm(Alu::And, Rm::Reg(RAX), !0xfff);
        a.mov_to(field(layout::PAGE), RAX);
        a.jmp_to(Rm::Mem(RCX, layout::JUMPS_ENTRY_CODE as i32));
        a.bind(missed);
        a.jmp_out(self.thunks.on);
    }
}

/// Which blocks another one, or itself, goes back to.
fn headers(region: &Region) -> Vec<bool> {
    let mut is = vec![false; region.blocks.len()];
    for (n, block) in region.blocks.iter().enumerate() {
        for t in block.next.iter().filter_map(|to| region.block(*to)) {
            is[t] |= t <= n;
        }
    }
    is
}

/// Code that goes on as a function of another translator, whose address is not known here: `entry` bytes from the page.
pub(crate) fn function_entry(thunks: &Thunks, function: u64, entry: u64) -> QuickCode {
    let mut a = Asm::default();
    a.lea_out(RAX, function);
    a.mov_imm(RCX, entry);
    a.jmp_out(thunks.function);
    let outside = std::mem::take(&mut a.outside);
    QuickCode {
        made: Made { code: a.code, places: Vec::new() },
        entries: Vec::new(),
        links: Vec::new(),
        outside,
    }
}
