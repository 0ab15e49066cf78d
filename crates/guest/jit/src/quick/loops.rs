//! Accesses in loops whose address moves slowly: the page of the last time is kept in the frame and looked at first.
//!
//! Walking through memory stays in a page for long, and what comes next does not wait for the TLB's entry then. Where addresses
//! jump about, looking there first would be in vain; so only registers count that a loop changes by small constants, or computes
//! from such ones as places in arrays are computed from their numbers.

use super::groups::Groups;
use crate::region::{Block, Region, writes};
use isa_riscv::insn::{Format, Insn};
use isa_riscv::table::Op;

/// How many pages are kept.
pub(super) const MOST: usize = 12;

/// What is taken for a small step, bytes.
const STEP: i64 = 256;

/// What the frame has for a page that is not known; no address is compared with it after the low bits are cleared.
pub(super) const UNKNOWN: i32 = -1;

/// Which accesses have a kept page: for each block and instruction, its place.
#[derive(Debug, Default)]
pub(super) struct Kept {
    of: Vec<Vec<Option<u8>>>,
    /// How many places are in use.
    pub(super) places: u8,
}

/// Blocks that run again and again without calls, the first and the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Loop {
    first: usize,
    last: usize,
    /// Registers whose values jump: bit `n` for `xn`.
    jumpy: u32,
}

fn loops(region: &Region) -> Vec<Loop> {
    let mut all = Vec::new();
    for (last, block) in region.blocks.iter().enumerate() {
        for first in block.next.iter().filter_map(|to| region.block(*to)).filter(|t| *t <= last) {
            let blocks = &region.blocks[first..=last];
            // Whoever comes back, or calls a helper, knows no page any more.
            if !blocks.iter().flat_map(|b| &b.insns).any(|(_, i)| forgets(*i)) {
                all.push(Loop { first, last, jumpy: jumpy(blocks) });
            }
        }
    }
    // The innermost first.
    all.sort_by_key(|l| l.last - l.first);
    all
}

/// Whether control leaves quick code for an instruction, surely or as a rule.
fn forgets(i: Insn) -> bool {
    let by_helper =
        matches!(Region::format(i), Format::Csr | Format::CsrI | Format::Amo | Format::Lr | Format::Block);
    by_helper || i.op == Op::Jalr || i.op == Op::Jal && i.rd() != 0
}

/// Registers that do not move slowly from round to round of a loop of these blocks: bit `n` for `xn`.
fn jumpy(blocks: &[Block]) -> u32 {
    let mut jumpy = 0u32;
    loop {
        let mut ends = jumpy;
        for block in blocks {
            let mut now = Now::at_start(jumpy);
            block.insns.iter().for_each(|(_, i)| now.pass(*i));
            ends |= now.jumpy;
        }
        if ends == jumpy {
            return jumpy;
        }
        jumpy = ends;
    }
}

/// What is known of registers somewhere in a block of a loop.
struct Now {
    /// Registers whose values jump.
    jumpy: u32,
    /// Registers that do not have a value of the loop's last round any more.
    new: u32,
}

impl Now {
    fn at_start(jumpy: u32) -> Now {
        Now { jumpy, new: 0 }
    }

    /// Goes past an instruction.
    fn pass(&mut self, i: Insn) {
        let written = writes(i) as u32;
        if is_slow(i, self.jumpy, self.new) {
            self.jumpy &= !written;
        } else {
            self.jumpy |= written;
        }
        if i.rd() != i.rs1() {
            self.new |= written;
        }
    }
}

/// Whether what an instruction gives moves slowly if registers do that are not `jumpy`; `new`: those that do not have the value of
/// the loop's last round any more.
fn is_slow(i: Insn, jumpy: u32, new: u32) -> bool {
    let (a, b) = (jumpy >> i.rs1() & 1 == 0, jumpy >> i.rs2() & 1 == 0);
    match i.op {
        Op::Addi | Op::Addiw => a && i.imm().abs() <= STEP,
        Op::Lui | Op::Auipc => true,
        // To the size of an element; or up and down again, which cuts off the upper half.
        Op::Slli | Op::SlliUw => a && matches!(i.imm(), 0..=3 | 32),
        Op::Srli => a && matches!(i.imm(), 29..=32),
        // What is added to itself round by round may be a long way.
        Op::Add | Op::AddUw | Op::Sh1add | Op::Sh2add | Op::Sh3add => {
            let carried = |r: usize| r == i.rd() && new >> r & 1 == 0;
            a && b && !carried(i.rs1()) && !carried(i.rs2())
        }
        _ => writes(i) == 0,
    }
}

impl Kept {
    /// Chooses for a region whose blocks have these groups; members of groups are left out.
    pub(super) fn of(region: &Region, groups: &[Groups]) -> Kept {
        let loops = loops(region);
        if loops.is_empty() {
            return Kept::default();
        }
        let mut kept = Kept { of: Vec::new(), places: 0 };
        // The loop, the register, and whether it is for stores, of each place.
        let mut places: Vec<(usize, usize, bool)> = Vec::new();
        for (n, block) in region.blocks.iter().enumerate() {
            let inner = loops.iter().position(|l| (l.first..=l.last).contains(&n));
            let Some(inner) = inner else {
                kept.of.push(Vec::new());
                continue;
            };
            let mut now = Now::at_start(loops[inner].jumpy);
            let of = block.insns.iter().zip(&groups[n].of).map(|((_, i), member)| {
                let (base, jumps) = (i.rs1(), now.jumpy >> i.rs1() & 1 != 0);
                now.pass(*i);
                let stores = match Region::format(*i) {
                    Format::Load | Format::FpLoad => false,
                    Format::S | Format::FpStore => true,
                    _ => return None,
                };
                if member.is_some() || base == 0 || jumps {
                    return None;
                }
                let key = (inner, base, stores);
                let known = places.iter().position(|p| *p == key);
                if known.is_none() && places.len() < MOST {
                    places.push(key);
                }
                places.iter().position(|p| *p == key).map(|p| p as u8)
            });
            kept.of.push(of.collect());
        }
        kept.places = places.len() as u8;
        kept
    }

    /// The place of an instruction of a block.
    pub(super) fn place(&self, block: usize, insn: usize) -> Option<u8> {
        *self.of.get(block)?.get(insn)?
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use isa_riscv::SLOTS;
    use isa_riscv::insn::Ext;

    fn kept(code: &[u32]) -> Vec<Vec<Option<u8>>> {
        let mut halves = [0u16; SLOTS];
        for (n, w) in code.iter().enumerate() {
            (halves[2 * n], halves[2 * n + 1]) = (*w as u16, (*w >> 16) as u16);
        }
        let region = Region::find(&halves, 0, Ext::ALL, true).unwrap();
        let groups: Vec<Groups> = region.blocks.iter().map(Groups::of).collect();
        Kept::of(&region, &groups).of
    }

    const LD_A1_0_A0: u32 = 0x0005_3583; // ld a1, 0(a0)
    const LD_A2_0_A1: u32 = 0x0005_b603; // ld a2, 0(a1)
    const SD_A1_0_A0: u32 = 0x00b5_3023; // sd a1, 0(a0)
    const ADDI_A0_A0_8: u32 = 0x0085_0513; // addi a0, a0, 8
    const BNE_BACK_12: u32 = 0xfe06_1ae3; // bne a2, zero, -12

    #[test]
    fn what_steps_is_kept_and_what_jumps_is_not() {
        let code = [LD_A1_0_A0, LD_A2_0_A1, ADDI_A0_A0_8, BNE_BACK_12, SD_A1_0_A0];
        assert_eq!(kept(&code), [vec![Some(0), None, None, None], vec![]]);
    }

    #[test]
    fn a_register_may_be_an_address_first_and_what_is_there_then() {
        const ADD_A1_A0_A3: u32 = 0x00d5_05b3;
        const LD_A1_0_A1: u32 = 0x0005_b583;
        let code = [ADD_A1_A0_A3, LD_A1_0_A1, ADDI_A0_A0_8, BNE_BACK_12];
        assert_eq!(kept(&code), [[None, Some(0), None, None]]);
    }

    #[test]
    fn elements_by_their_numbers_are_kept_and_columns_are_not() {
        const SLLI_A0_A3_3: u32 = 0x0036_9513;
        const ADD_A0_A0_A4: u32 = 0x00e5_0533;
        const ADDI_A3_A3_1: u32 = 0x0016_8693;
        const BNE_BACK_16: u32 = 0xfe06_18e3; // bne a2, zero, -16
        let code = [SLLI_A0_A3_3, ADD_A0_A0_A4, LD_A1_0_A0, ADDI_A3_A3_1, BNE_BACK_16];
        assert_eq!(kept(&code)[0][2], Some(0));
        let code = [ADD_A0_A0_A4, LD_A1_0_A0, ADDI_A3_A3_1, BNE_BACK_12];
        assert_eq!(kept(&code)[0][1], None);
    }

    #[test]
    fn loads_and_stores_have_pages_of_their_own() {
        let code = [SD_A1_0_A0, ADDI_A0_A0_8, LD_A1_0_A0, BNE_BACK_12 & 0x01ff_ffff | 0xfe00_0000];
        let of = kept(&code);
        assert_eq!((of[0][0], of[0][2]), (Some(0), Some(1)));
    }
}
