//! The cache of decoded code, by physical page.
//!
//! A page's bytes are copied when it is first entered and decoded from that copy, instruction by instruction
//! as they are reached. So stores to code change nothing until a `fence.i`, as the architecture allows. A
//! `fence.i` (by this hart, or for it) does not throw anything away: it only makes every page suspect, and a
//! suspect page compares its copy with memory when it is next entered, which takes about as long as decoding
//! a few instructions. Nothing has to watch stores, by whatever processor or device.

use crate::decode::decode;
use crate::engine::{CodeBytes, Engine, Translation};
use crate::insn::{Ext, Insn};
use crate::table::Op;
use crate::text;
use mem::{PAGE_SIZE, RamPage};
use std::collections::HashMap;
use std::sync::Arc;

/// Slots of a page, one for each possible start of an instruction.
pub const SLOTS: usize = PAGE_SIZE / 2;
/// Pages that are kept: about 20 KiB each.
const MAX_PAGES: usize = 1024;
/// How many instructions are decoded at once at most.
const RUN: usize = 64;

/// One page of code.
pub(crate) struct CodePage {
    /// Its physical page number.
    number: u64,
    ram: RamPage,
    epoch: u64,
    pub(crate) ops: Box<[Insn; SLOTS]>,
    halves: Box<[u16; SLOTS]>,
    /// The translations, once they were asked for, and the addresses that slots with [`Op::Native`] stand for.
    translated: Option<Arc<CodeBytes>>,
    natives: Vec<u64>,
    /// The version of the translations that is known here.
    seen: u64,
}

impl CodePage {
    fn new(number: u64, ram: RamPage, epoch: u64) -> CodePage {
        let mut page = CodePage {
            number,
            ram,
            epoch,
            ops: Box::new([Insn::UNDECODED; SLOTS]),
            halves: Box::new([0; SLOTS]),
            translated: None,
            natives: Vec::new(),
            seen: 0,
        };
        page.copy();
        page
    }

    /// Copies the page's bytes; whether they differ from the copy that was there.
    fn copy(&mut self) -> bool {
        let mut differs = false;
        for (i, four) in self.halves.chunks_exact_mut(4).enumerate() {
            let now = self.ram.load::<u64>(i * 8);
            for (n, h) in four.iter_mut().enumerate() {
                let v = (now >> (16 * n)) as u16;
                differs |= *h != v;
                *h = v;
            }
        }
        differs
    }

    /// Makes the decodes fit memory as it is now.
    fn refresh(&mut self, epoch: u64) {
        if self.epoch != epoch {
            self.epoch = epoch;
            if self.copy() {
                self.ops.fill(Insn::UNDECODED);
                self.translated = None;
                self.natives.clear();
                self.seen = 0;
            }
        }
    }

    /// The bits of the instruction in `slot`; in the last slot of a page its first half at least.
    pub(crate) fn raw(&self, slot: usize) -> u32 {
        let low = self.halves[slot % SLOTS];
        let high = if low & 3 == 3 { self.halves.get(slot % SLOTS + 1).copied().unwrap_or(0) } else { 0 };
        u32::from(high) << 16 | u32::from(low)
    }

    /// Control comes to `slot` often: uses its native code if there is some, and asks for it if nobody has.
    pub(crate) fn heat(&mut self, slot: usize, engine: &dyn Engine, ext: Ext) {
        if matches!(self.ops[slot].op, Op::Undecoded | Op::Native) {
            return;
        }
        let page = self.translated.get_or_insert_with(|| engine.page(self.number, &self.halves));
        if page.translation(slot) == Translation::None {
            engine.translate(page, slot, ext);
        }
        self.adopt();
    }

    /// Uses native code that was made since this was last called, by whichever hart.
    #[inline(always)]
    pub(crate) fn adopt(&mut self) {
        if self.translated.as_ref().is_some_and(|page| page.version() != self.seen) {
            self.adopt_new();
        }
    }

    #[cold]
    fn adopt_new(&mut self) {
        let Some(page) = &self.translated else { return };
        self.seen = page.version();
        for (slot, code) in page.natives() {
            if self.ops[slot].op != Op::Native {
                self.ops[slot] = Insn::native(self.natives.len());
                self.natives.push(code);
            }
        }
    }

    /// The native code behind `slot`.
    #[inline(always)]
    pub(crate) fn native(&self, slot: usize) -> Option<u64> {
        let insn = self.ops[slot];
        if insn.op == Op::Native { self.natives.get(insn.imm() as usize).copied() } else { None }
    }

    /// Decodes from `slot` on, until control flow surely goes elsewhere; the slot behind what was decoded.
    pub(crate) fn decode_from(&mut self, slot: usize, ext: Ext) -> usize {
        let mut at = slot;
        for _ in 0..RUN {
            if at >= SLOTS || self.ops[at].op != Op::Undecoded {
                break;
            }
            if at == SLOTS - 1 && self.halves[at] & 3 == 3 {
                self.ops[at] = Insn::new(Op::Straddle, 0, 0, 0, 0, false);
                break;
            }
            let insn = decode(self.raw(at), ext);
            self.ops[at] = insn;
            at += insn.len() as usize / 2;
            if matches!(insn.op, Op::Jal | Op::Jalr | Op::Illegal | Op::Mret | Op::Sret | Op::Ebreak) {
                break;
            }
        }
        at
    }

    /// A listing of the instructions from `slot` to before `end`, where the page is seen at `base`.
    pub(crate) fn listing(&self, slot: usize, end: usize, base: u64) -> String {
        let mut out = String::new();
        let mut at = slot;
        while at < end {
            let raw = self.raw(at);
            out.push_str(&text::line(raw, base + 2 * at as u64));
            out.push('\n');
            at += text::length(raw as u16) as usize / 2;
        }
        out
    }
}

/// The decoded pages of one hart.
#[derive(Default)]
pub(crate) struct CodeCache {
    pub(crate) pages: Vec<CodePage>,
    index: HashMap<u64, u32>,
}

impl CodeCache {
    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        self.pages.clear();
        self.index.clear();
    }

    /// Whether page `i` was checked since the last `fence.i`.
    #[inline(always)]
    pub(crate) fn is_fresh(&self, i: u32, epoch: u64) -> bool {
        self.pages.get(i as usize).is_some_and(|p| p.epoch == epoch)
    }

    /// Brings page `i` up to date.
    pub(crate) fn refresh(&mut self, i: u32, epoch: u64) {
        if let Some(p) = self.pages.get_mut(i as usize) {
            p.refresh(epoch);
        }
    }

    /// The index of the page at physical page number `ppn`; `None` means that the cache was full, is empty
    /// now, and whoever remembers an index has to forget it before asking again.
    pub(crate) fn enter(&mut self, ppn: u64, ram: &RamPage, epoch: u64) -> Option<u32> {
        if let Some(&i) = self.index.get(&ppn) {
            self.refresh(i, epoch);
            return Some(i);
        }
        if self.pages.len() >= MAX_PAGES {
            self.clear();
            return None;
        }
        let i = self.pages.len() as u32;
        self.pages.push(CodePage::new(ppn, ram.clone(), epoch));
        self.index.insert(ppn, i);
        Some(i)
    }
}
