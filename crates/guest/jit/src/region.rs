//! Which instructions are translated together.
//!
//! A region has one entry, where control comes often, and everything of the same page that is reached from there by
//! branches and jumps, up to a limit. Loops inside of it are loops of the native code.

use isa_riscv::SLOTS;
use isa_riscv::decode::decode;
use isa_riscv::insn::{Ext, Format, Insn};
use isa_riscv::table::{Op, TABLE};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

/// The most instructions of a region.
const MOST: usize = 192;

/// A run of instructions that is entered at its beginning only.
#[derive(Debug)]
pub(crate) struct Block {
    /// Its first slot: the number of the halfword in the page.
    pub(crate) start: usize,
    /// Slot and instruction.
    pub(crate) insns: Vec<(usize, Insn)>,
    /// Registers that may differ from what the hart's state says when it is entered: bit `n` for `xn`, bit 32 + `n` for `fn`.
    pub(crate) dirty: u64,
    /// Where control goes, as slots; those below 0 or from [`SLOTS`] on are other pages. An indirect jump goes nowhere.
    pub(crate) next: Vec<i64>,
}

/// What is translated together.
#[derive(Debug)]
pub(crate) struct Region {
    /// By their first slot.
    pub(crate) blocks: Vec<Block>,
    /// Registers that are read or written, numbered as in [`Block::dirty`].
    pub(crate) used: u64,
}

/// Operands of each operation.
static FORMATS: LazyLock<[Format; 512]> = LazyLock::new(|| {
    let mut v = [Format::None; 512];
    for e in TABLE {
        v[e.op as usize] = e.format;
    }
    v
});

/// Control and status registers whose reads and writes concern nothing that native code knows: those of traps, of supervisor
/// mode's state, and the time.
const PLAIN_CSRS: [u16; 9] = [0x100, 0x104, 0x105, 0x140, 0x141, 0x142, 0x143, 0x144, 0xc01];

/// Whether an instruction can be translated; with `csrs` also accesses to [`PLAIN_CSRS`].
fn is_native(i: Insn, csrs: bool) -> bool {
    if matches!(FORMATS[i.op as usize], Format::Csr | Format::CsrI) {
        return csrs && PLAIN_CSRS.contains(&i.csr());
    }
    !matches!(
        i.op,
        Op::Undecoded
            | Op::Straddle
            | Op::Illegal
            | Op::Native
            | Op::FenceI
            | Op::Ecall
            | Op::Ebreak
            | Op::Sret
            | Op::Mret
            | Op::Wfi
            | Op::WrsNto
            | Op::WrsSto
            | Op::SfenceVma
    )
}

fn x(r: usize) -> u64 {
    1 << r & !1
}

fn f(r: usize) -> u64 {
    1 << (32 + r)
}

/// The register that an instruction changes.
pub(crate) fn writes(i: Insn) -> u64 {
    match FORMATS[i.op as usize] {
        Format::None
        | Format::S
        | Format::B
        | Format::Fence
        | Format::Rs
        | Format::FpStore
        | Format::Block => 0,
        Format::FpLoad
        | Format::FpR
        | Format::Fp4
        | Format::Fp1
        | Format::FpN
        | Format::FpFromX
        | Format::FpFromXn
        | Format::FpConst => f(i.rd()),
        _ => x(i.rd()),
    }
}

/// The registers that an instruction reads, or more.
pub(crate) fn reads(i: Insn) -> u64 {
    match FORMATS[i.op as usize] {
        Format::FpLoad | Format::FpFromX | Format::FpFromXn => x(i.rs1()),
        Format::FpStore => x(i.rs1()) | f(i.rs2()),
        Format::FpR | Format::FpN | Format::FpCmp => f(i.rs1()) | f(i.rs2()),
        Format::Fp4 => f(i.rs1()) | f(i.rs2()) | f(i.rs3()),
        Format::Fp1 | Format::FpToX | Format::FpToXn => f(i.rs1()),
        Format::None | Format::U | Format::J | Format::Fence | Format::FpConst => 0,
        Format::I
        | Format::Load
        | Format::Shift5
        | Format::Shift6
        | Format::R1
        | Format::Lr
        | Format::Round => x(i.rs1()),
        _ => x(i.rs1()) | x(i.rs2()),
    }
}

/// The instruction in a slot; `None` if it goes on in another page, or cannot be translated.
fn at(halves: &[u16; SLOTS], slot: usize, ext: Ext, csrs: bool) -> Option<Insn> {
    let low = *halves.get(slot)?;
    let high = if low & 3 == 3 { *halves.get(slot + 1)? } else { 0 };
    Some(decode(u32::from(high) << 16 | u32::from(low), ext)).filter(|i| is_native(*i, csrs))
}

/// Where control goes from an instruction in a slot; `None`: only on to the next one.
fn targets(slot: usize, i: Insn) -> Option<Vec<i64>> {
    let there = slot as i64 + i.imm() / 2;
    match FORMATS[i.op as usize] {
        Format::B => Some(vec![there, slot as i64 + (i.len() / 2) as i64]),
        Format::J => Some(vec![there]),
        _ if i.op == Op::Jalr => Some(Vec::new()),
        _ => None,
    }
}

impl Region {
    /// What is reached from `entry`; `None` if the instruction there cannot be translated. `csrs`: the translator knows accesses to
    /// control and status registers.
    pub(crate) fn find(halves: &[u16; SLOTS], entry: usize, ext: Ext, csrs: bool) -> Option<Region> {
        at(halves, entry, ext, csrs)?;
        let mut insns: BTreeMap<usize, Insn> = BTreeMap::new();
        let mut leaders = BTreeSet::from([entry]);
        let mut waiting = vec![entry];
        'walk: while let Some(start) = waiting.pop() {
            let mut slot = start;
            while let (false, Some(i)) = (insns.contains_key(&slot), at(halves, slot, ext, csrs)) {
                if insns.len() == MOST {
                    break 'walk;
                }
                insns.insert(slot, i);
                let Some(to) = targets(slot, i) else {
                    slot += (i.len() / 2) as usize;
                    continue;
                };
                // What follows in memory is looked at first: it is popped first.
                for t in to {
                    if let Ok(t) = usize::try_from(t)
                        && t < SLOTS
                        && leaders.insert(t)
                    {
                        waiting.push(t);
                    }
                }
                break;
            }
        }
        let mut blocks: Vec<Block> = leaders
            .iter()
            .filter(|l| insns.contains_key(l))
            .map(|l| Block::from(*l, &insns, &leaders))
            .collect();
        spread_dirt(&mut blocks);
        let used = insns.values().fold(0, |u, i| u | reads(*i) | writes(*i));
        Some(Region { blocks, used })
    }

    /// The operands of an instruction.
    pub(crate) fn format(i: Insn) -> Format {
        FORMATS[i.op as usize]
    }

    /// The number of the block that begins in a slot.
    pub(crate) fn block(&self, slot: i64) -> Option<usize> {
        let slot = usize::try_from(slot).ok()?;
        self.blocks.binary_search_by_key(&slot, |b| b.start).ok()
    }

    /// Whether there are floating-point instructions.
    pub(crate) fn has_float(&self) -> bool {
        self.blocks.iter().flat_map(|b| &b.insns).any(|(_, i)| FORMATS[i.op as usize].is_float())
    }

    /// How often each block is run, by guess: more often in loops.
    pub(crate) fn weights(&self) -> Vec<u32> {
        let mut weights = vec![1u32; self.blocks.len()];
        for (n, block) in self.blocks.iter().enumerate() {
            for t in block.next.iter().filter_map(|to| self.block(*to)).filter(|t| *t <= n) {
                weights[t..=n].iter_mut().for_each(|w| *w = (*w * 8).min(1 << 12));
            }
        }
        weights
    }

    /// Their bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.blocks.iter().flat_map(|b| &b.insns).map(|(_, insn)| insn.len()).sum()
    }

    /// How many instructions there are.
    pub(crate) fn len(&self) -> usize {
        self.blocks.iter().map(|b| b.insns.len()).sum()
    }
}

impl Block {
    fn from(start: usize, insns: &BTreeMap<usize, Insn>, leaders: &BTreeSet<usize>) -> Block {
        let mut block = Block { start, insns: Vec::new(), dirty: 0, next: Vec::new() };
        let mut slot = start;
        while let Some(i) = insns.get(&slot) {
            block.insns.push((slot, *i));
            if let Some(to) = targets(slot, *i) {
                block.next = to;
                return block;
            }
            slot += (i.len() / 2) as usize;
            if leaders.contains(&slot) {
                break;
            }
        }
        block.next = vec![slot as i64];
        block
    }
}

/// Finds out which registers may be changed at the beginning of each block.
fn spread_dirt(blocks: &mut [Block]) {
    let starts: Vec<usize> = blocks.iter().map(|b| b.start).collect();
    let mut again = true;
    while std::mem::take(&mut again) {
        for n in 0..blocks.len() {
            let out = blocks[n].insns.iter().fold(blocks[n].dirty, |d, (_, i)| d | writes(*i));
            for to in blocks[n].next.clone() {
                let Some(t) = usize::try_from(to).ok().and_then(|t| starts.binary_search(&t).ok()) else {
                    continue;
                };
                if blocks[t].dirty | out != blocks[t].dirty {
                    blocks[t].dirty |= out;
                    again = true;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `code` at the end of a page whose other halfwords are no instructions.
    fn page(at: usize, code: &[u32]) -> [u16; SLOTS] {
        let mut halves = [0; SLOTS];
        for (n, w) in code.iter().enumerate() {
            halves[at + 2 * n] = *w as u16;
            if at + 2 * n + 1 < SLOTS {
                halves[at + 2 * n + 1] = (*w >> 16) as u16;
            }
        }
        halves
    }

    const ADDI_A0: u32 = 0x0015_0513; // addi a0, a0, 1
    const BNE_BACK: u32 = 0xfeb5_1ee3; // bne a0, a1, -4
    const SD_A2: u32 = 0x00a6_3023; // sd a0, 0(a2)
    const ECALL: u32 = 0x73;

    #[test]
    fn a_loop_is_a_block_that_goes_to_itself() {
        let r = Region::find(&page(10, &[ADDI_A0, BNE_BACK, SD_A2, ECALL]), 10, Ext::ALL, false).unwrap();
        let starts: Vec<_> =
            r.blocks.iter().map(|b| (b.start, b.insns.len(), b.next.clone(), b.dirty)).collect();
        let a0 = 1 << 10;
        assert_eq!(starts, [(10, 2, vec![10, 14], a0), (14, 1, vec![16], a0)]);
        assert_eq!(r.used, 7 << 10);
        assert_eq!((r.block(14), r.block(16), r.block(-2), r.len()), (Some(1), None, None, 3));
    }

    #[test]
    fn what_cannot_be_translated_has_no_region() {
        assert!(Region::find(&page(0, &[ECALL]), 0, Ext::ALL, false).is_none());
        // Four bytes of which two are in the next page.
        assert!(Region::find(&page(SLOTS - 1, &[ADDI_A0]), SLOTS - 1, Ext::ALL, false).is_none());
        let r = Region::find(&page(SLOTS - 2, &[ADDI_A0]), SLOTS - 2, Ext::ALL, false).unwrap();
        assert_eq!(r.blocks[0].next, [SLOTS as i64]);
    }

    #[test]
    fn a_page_full_of_code_is_cut() {
        let r = Region::find(&page(0, &[ADDI_A0; 1024]), 0, Ext::ALL, false).unwrap();
        assert_eq!((r.len(), r.blocks[0].next.clone()), (MOST, vec![2 * MOST as i64]));
    }
}
