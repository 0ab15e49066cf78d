//! Accesses of a block at distances from one register: their page is looked for once.
//!
//! The first of a group looks for the page that all of them should be in and keeps in the frame what has to be added to their
//! addresses. Where they are not in one page, or it is not in the TLB, each of them looks for its own.

use crate::region::{Block, Region, writes};
use isa_riscv::insn::Format;

/// How many groups may be in use at the same time.
pub(super) const MOST: usize = 8;

/// No access is of more bytes.
const WIDEST: i32 = 8;

/// What the frame has for a group whose page is not known: it cannot be added to any address of a page.
pub(super) const UNKNOWN: i32 = -1;

/// An access of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Member {
    /// The group's place in the frame.
    pub(super) place: u8,
    pub(super) first: bool,
    /// The least distance of the group, and how many bytes it spans.
    pub(super) low: i32,
    pub(super) bytes: i32,
    /// One of the group stores.
    pub(super) stores: bool,
}

struct Group {
    members: Vec<usize>,
    low: i32,
    high: i32,
    stores: bool,
}

/// Which instructions of a block are members of groups, and after which one each place is not used any more.
#[derive(Debug, Default)]
pub(super) struct Groups {
    pub(super) of: Vec<Option<Member>>,
    pub(super) last: Vec<u8>,
}

impl Groups {
    pub(super) fn of(block: &Block) -> Groups {
        let groups = find(block);
        let mut plan = Groups { of: vec![None; block.insns.len()], last: vec![0; block.insns.len()] };
        // The instruction after which each place is free.
        let mut taken = [None::<usize>; MOST];
        for g in groups {
            let (Some(&first), Some(&last)) = (g.members.first(), g.members.last()) else { continue };
            let Some(place) = taken.iter().position(|t| t.is_none_or(|until| until < first)) else {
                continue;
            };
            taken[place] = Some(last);
            for n in g.members {
                plan.of[n] = Some(Member {
                    place: place as u8,
                    first: n == first,
                    low: g.low,
                    bytes: g.high + WIDEST - g.low,
                    stores: g.stores,
                });
            }
            plan.last[last] |= 1 << place;
        }
        plan
    }
}

/// The groups of a block, by their first members.
fn find(block: &Block) -> Vec<Group> {
    let mut open: [Option<Group>; 32] = [const { None }; 32];
    let mut done = Vec::new();
    let mut close = |g: &mut Option<Group>| done.extend(g.take().filter(|g| g.members.len() > 1));
    for (n, (_, i)) in block.insns.iter().enumerate() {
        let stores = match Region::format(*i) {
            Format::Load | Format::FpLoad => Some(false),
            Format::S | Format::FpStore => Some(true),
            // They may change what is mapped, or who may access it.
            Format::Csr | Format::CsrI | Format::Amo | Format::Lr | Format::Block => {
                open.iter_mut().for_each(&mut close);
                None
            }
            _ => None,
        };
        if let (Some(stores), base @ 1..) = (stores, i.rs1()) {
            let at = i.imm() as i32;
            match &mut open[base] {
                // Two pages at most, whatever the register is.
                Some(g) if g.high.max(at) - g.low.min(at) < 2048 => {
                    g.members.push(n);
                    (g.low, g.high) = (g.low.min(at), g.high.max(at));
                    g.stores |= stores;
                }
                other => {
                    close(other);
                    *other = Some(Group { members: vec![n], low: at, high: at, stores });
                }
            }
        }
        let written = writes(*i) as u32;
        (0..32).filter(|r| written >> r & 1 != 0).for_each(|r| close(&mut open[r]));
    }
    open.iter_mut().for_each(close);
    done.sort_by_key(|g| g.members[0]);
    done
}

#[cfg(test)]
mod tests {
    use super::*;
    use isa_riscv::SLOTS;
    use isa_riscv::insn::Ext;

    fn groups(code: &[u32]) -> Vec<Option<(u8, bool, i32, i32, bool)>> {
        let mut halves = [0u16; SLOTS];
        for (n, w) in code.iter().enumerate() {
            (halves[2 * n], halves[2 * n + 1]) = (*w as u16, (*w >> 16) as u16);
        }
        let region = Region::find(&halves, 0, Ext::ALL, true).unwrap();
        let plan = Groups::of(&region.blocks[0]);
        plan.of.iter().map(|m| m.map(|m| (m.place, m.first, m.low, m.bytes, m.stores))).collect()
    }

    const LD_A0_0_A0: u32 = 0x0005_3503; // ld a0, 0(a0)
    const LD_A1_8_A0: u32 = 0x0085_3583; // ld a1, 8(a0)
    const SD_A1_16_SP: u32 = 0x00b1_3823; // sd a1, 16(sp)
    const LD_RA_8_SP: u32 = 0x0081_3083; // ld ra, 8(sp)
    const CSRR: u32 = 0x1000_2673; // csrr a2, sstatus

    #[test]
    fn a_group_is_what_one_value_of_a_register_is_the_base_of() {
        let code = [SD_A1_16_SP, LD_A1_8_A0, LD_RA_8_SP, LD_A0_0_A0, LD_A1_8_A0];
        let sp = |first| Some((0, first, 8, 16, true));
        let a0 = |first| Some((1, first, 0, 16, false));
        assert_eq!(groups(&code), [sp(true), a0(true), sp(false), a0(false), None]);
    }

    #[test]
    fn what_may_change_the_mapping_ends_a_group() {
        assert_eq!(groups(&[SD_A1_16_SP, CSRR, LD_RA_8_SP]), [None; 3]);
    }

    #[test]
    fn places_are_used_again() {
        let code = [LD_A1_8_A0, LD_A0_0_A0, LD_A1_8_A0, LD_A0_0_A0];
        let g = groups(&code);
        assert_eq!(
            g.iter().map(|m| m.map(|m| (m.0, m.1))).collect::<Vec<_>>(),
            [Some((0, true)), Some((0, false)), Some((0, true)), Some((0, false))]
        );
    }
}
