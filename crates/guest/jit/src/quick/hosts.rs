//! Which guest registers have a host register in a region.
//!
//! Between regions it is always the same ones. A region with a loop that uses others more has those instead: they change places
//! where the region is entered and left, and around calls of helpers.

use super::asm::{Asm, Label, Reg, Rm};
use super::thunks::{PINNED, home, pinned};
use crate::region::{Region, reads, writes};

/// What an exchange costs more than the accesses to memory that it saves, in uses of a register outside of loops.
const COST: u32 = 32;

/// A host register, the guest register that has it elsewhere, and the one that has it here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Exchange {
    host: Reg,
    elsewhere: u8,
    here: u8,
}

/// The places of guest registers in a region.
#[derive(Debug, Default)]
pub(super) struct Hosts {
    of: [Option<Reg>; 32],
    exchanges: Vec<Exchange>,
    /// Code that brings registers to their places elsewhere, and back to those here; both keep scratch registers.
    code: Option<(Label, Label)>,
}

impl Hosts {
    /// Chooses for a region, whose blocks have these weights.
    pub(super) fn of(region: &Region, weights: &[u32], a: &mut Asm) -> Hosts {
        let mut of = [None; 32];
        for (x, host) in PINNED {
            of[usize::from(x)] = Some(host);
        }
        let mut hosts = Hosts { of, ..Hosts::default() };
        if weights.iter().all(|w| *w == 1) {
            return hosts;
        }
        let mut uses = [0u32; 32];
        for (block, weight) in region.blocks.iter().zip(weights) {
            for (_, i) in &block.insns {
                for used in [reads(*i), writes(*i)] {
                    (0..32).filter(|r| used >> r & 1 != 0).for_each(|r| uses[r] += weight);
                }
            }
        }
        let mut others: Vec<u8> = (1..32).filter(|r| pinned(*r).is_none()).collect();
        others.sort_by_key(|r| std::cmp::Reverse(uses[usize::from(*r)]));
        let mut few = PINNED;
        few.sort_by_key(|(r, _)| uses[usize::from(*r)]);
        for (here, (elsewhere, host)) in others.into_iter().zip(few) {
            if uses[usize::from(here)] <= uses[usize::from(elsewhere)] + COST {
                break;
            }
            (hosts.of[usize::from(here)], hosts.of[usize::from(elsewhere)]) = (Some(host), None);
            hosts.exchanges.push(Exchange { host, elsewhere, here });
        }
        if !hosts.exchanges.is_empty() {
            hosts.code = Some((a.label(), a.label()));
        }
        hosts
    }

    /// The host register of `x[r]`.
    pub(super) fn register(&self, r: u8) -> Option<Reg> {
        self.of[usize::from(r & 31)]
    }

    /// Where `x[r]` is.
    pub(super) fn x(&self, r: u8) -> Rm {
        self.register(r).map_or_else(|| home(r), Rm::Reg)
    }

    /// Whether registers have other places here than elsewhere.
    pub(super) fn differ(&self) -> bool {
        !self.exchanges.is_empty()
    }

    /// Brings registers to their places elsewhere.
    pub(super) fn leave(&self, a: &mut Asm) {
        for e in &self.exchanges {
            a.mov_to(home(e.here), e.host);
            a.mov(e.host, home(e.elsewhere));
        }
    }

    /// Brings registers to their places here.
    pub(super) fn enter(&self, a: &mut Asm) {
        for e in &self.exchanges {
            a.mov_to(home(e.elsewhere), e.host);
            a.mov(e.host, home(e.here));
        }
    }

    /// As [`Hosts::leave`], in few bytes.
    pub(super) fn call_leave(&self, a: &mut Asm) {
        if let Some((leave, _)) = self.code {
            a.call_label(leave);
        }
    }

    /// As [`Hosts::enter`], in few bytes.
    pub(super) fn call_enter(&self, a: &mut Asm) {
        if let Some((_, enter)) = self.code {
            a.call_label(enter);
        }
    }

    /// The code that the calls lead to.
    pub(super) fn write(&self, a: &mut Asm) {
        if let Some((leave, enter)) = self.code {
            a.bind(leave);
            self.leave(a);
            a.ret();
            a.bind(enter);
            self.enter(a);
            a.ret();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use isa_riscv::SLOTS;
    use isa_riscv::insn::Ext;

    fn hosts(code: &[u32]) -> Hosts {
        let mut halves = [0u16; SLOTS];
        for (n, w) in code.iter().enumerate() {
            (halves[2 * n], halves[2 * n + 1]) = (*w as u16, (*w >> 16) as u16);
        }
        let region = Region::find(&halves, 0, Ext::ALL, true).unwrap();
        Hosts::of(&region, &region.weights(), &mut Asm::default())
    }

    const ADD_T0_T0_T1: u32 = 0x0062_82b3; // add t0, t0, t1
    const ADD_A0_A0_A1: u32 = 0x00b5_0533; // add a0, a0, a1
    const BNE_T0_ZERO_BACK: u32 = 0xfe02_9ce3; // bne t0, zero, -8

    #[test]
    fn what_a_loop_uses_most_has_host_registers() {
        let h = hosts(&[ADD_A0_A0_A1, ADD_T0_T0_T1, ADD_T0_T0_T1, BNE_T0_ZERO_BACK]);
        assert!(h.register(5).is_some() && h.register(6).is_none());
        let [only] = h.exchanges[..] else { panic!("{h:?}") };
        assert_eq!((only.here, h.register(only.elsewhere)), (5, None));
        assert_eq!((h.register(10), h.register(11)), (pinned(10), pinned(11)));
    }

    #[test]
    fn without_a_loop_the_places_are_the_usual_ones() {
        let h = hosts(&[ADD_T0_T0_T1; 60]);
        assert!(!h.differ() && h.register(5).is_none());
    }
}
