//! Physical memory protection: section "Physical Memory Protection" of the privileged specification.

use crate::spec::Mode;

/// The number of entries.
pub const ENTRIES: usize = 16;

const R: u8 = 1;
const W: u8 = 2;
const X: u8 = 4;
const A_SHIFT: u8 = 3;
const LOCKED: u8 = 1 << 7;
const TOR: u8 = 1;
const NA4: u8 = 2;
const NAPOT: u8 = 3;
/// Physical addresses have 56 bits, of which `pmpaddr` leaves out two.
const ADDR_MASK: u64 = (1 << 54) - 1;

/// What an access does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Loads.
    Read,
    /// Stores.
    Write,
    /// Fetches an instruction.
    Fetch,
}

/// The PMP registers of a hart.
#[derive(Clone, Debug, Default)]
pub struct Pmp {
    cfg: [u8; ENTRIES],
    addr: [u64; ENTRIES],
    /// Entries that match anything: `(first, last, cfg)`, in order of priority.
    rules: Vec<(u64, u64, u8)>,
    /// There is no M-mode software to set entries: everything is allowed.
    pub(crate) absent: bool,
}

impl Pmp {
    /// `pmpcfg<2 n>`: eight entries' configurations; entries beyond the last read as zero.
    pub(crate) fn read_cfg(&self, reg: usize) -> u64 {
        let mut b = [0; 8];
        for (i, b) in b.iter_mut().enumerate() {
            *b = self.cfg.get(reg * 4 + i).copied().unwrap_or(0);
        }
        u64::from_le_bytes(b)
    }

    /// Writes `pmpcfg<reg>`, `reg` even; locked entries keep their value.
    pub(crate) fn write_cfg(&mut self, reg: usize, v: u64) {
        for (i, b) in v.to_le_bytes().into_iter().enumerate() {
            let Some(cfg) = self.cfg.get_mut(reg * 4 + i) else { break };
            if *cfg & LOCKED != 0 {
                continue;
            }
            let mut b = b & !0x60;
            if b & (R | W) == W {
                b &= !W; // reserved
            }
            *cfg = b;
        }
        self.compile();
    }

    /// `pmpaddr<i>`.
    pub(crate) fn read_addr(&self, i: usize) -> u64 {
        self.addr.get(i).copied().unwrap_or(0)
    }

    /// Writes `pmpaddr<i>` unless it is locked, or is the base of a locked range.
    pub(crate) fn write_addr(&mut self, i: usize, v: u64) {
        if i >= ENTRIES || self.cfg[i] & LOCKED != 0 {
            return;
        }
        if let Some(&next) = self.cfg.get(i + 1)
            && next & LOCKED != 0
            && (next >> A_SHIFT) & 3 == TOR
        {
            return;
        }
        self.addr[i] = v & ADDR_MASK;
        self.compile();
    }

    fn compile(&mut self) {
        self.rules.clear();
        for i in 0..ENTRIES {
            let a = self.addr[i];
            let (first, last) = match (self.cfg[i] >> A_SHIFT) & 3 {
                TOR => {
                    let low = if i == 0 { 0 } else { self.addr[i - 1] };
                    if low >= a {
                        continue;
                    }
                    (low << 2, (a << 2) - 1)
                }
                NA4 => (a << 2, (a << 2) + 3),
                NAPOT => {
                    let ones = a.trailing_ones();
                    let low = a & !((1u64 << ones) - 1);
                    let size = 1u64 << (ones + 3).min(63);
                    let first = low << 2;
                    (first, first.saturating_add(size - 1))
                }
                _ => continue,
            };
            self.rules.push((first, last, self.cfg[i]));
        }
    }

    /// Whether `mode` may access `len` bytes at `addr`.
    pub fn allows(&self, addr: u64, len: u64, access: Access, mode: Mode) -> bool {
        if self.absent {
            return true;
        }
        let end = addr.saturating_add(len - 1);
        for &(first, last, cfg) in &self.rules {
            if end < first || addr > last {
                continue;
            }
            if addr < first || end > last {
                return false; // partly inside
            }
            if mode == Mode::M && cfg & LOCKED == 0 {
                return true;
            }
            let bit = match access {
                Access::Read => R,
                Access::Write => W,
                Access::Fetch => X,
            };
            return cfg & bit != 0;
        }
        mode == Mode::M
    }

    /// Whether all of the page at `addr` falls under the same rule, so that one answer holds for it.
    pub fn uniform(&self, page: u64) -> bool {
        if self.absent {
            return true;
        }
        let end = page | 0xfff;
        for &(first, last, _) in &self.rules {
            if end < first || page > last {
                continue;
            }
            return page >= first && end <= last;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pmp(entries: &[(u8, u64)]) -> Pmp {
        let mut p = Pmp::default();
        for (i, &(_, addr)) in entries.iter().enumerate() {
            p.write_addr(i, addr);
        }
        for r in 0..2 {
            let mut b = [0u8; 8];
            for (i, b) in b.iter_mut().enumerate() {
                *b = entries.get(r * 8 + i).map_or(0, |e| e.0);
            }
            p.write_cfg(r * 2, u64::from_le_bytes(b));
        }
        p
    }

    #[test]
    fn without_rules_only_machine_mode_may() {
        let p = Pmp::default();
        assert!(p.allows(0x8000_0000, 8, Access::Write, Mode::M));
        assert!(!p.allows(0x8000_0000, 8, Access::Read, Mode::S));
        let all = pmp(&[(NAPOT << 3 | R | W | X, u64::MAX)]);
        assert!(all.allows(0, 8, Access::Fetch, Mode::U));
        assert!(all.allows((1 << 56) - 8, 8, Access::Write, Mode::S));
    }

    #[test]
    fn the_first_match_decides() {
        // 4 KiB at 0x8000_0000 read-only, then everything up to 0x9000_0000 by TOR.
        let p = pmp(&[(NAPOT << 3 | R, 0x8000_0000 >> 2 | 0x1ff), (TOR << 3 | R | W | X, 0x9000_0000 >> 2)]);
        // TOR's base is the first entry's raw address register, inside that page.
        assert!(p.allows(0x8000_0ff8, 8, Access::Read, Mode::S));
        assert!(!p.allows(0x8000_0ff8, 8, Access::Write, Mode::S));
        assert!(!p.allows(0x8000_0ffc, 8, Access::Read, Mode::S), "straddles");
        assert!(p.allows(0x8000_1000, 8, Access::Write, Mode::U));
        assert!(!p.allows(0x9000_0000, 1, Access::Read, Mode::U));
        assert!(
            p.allows(0x8000_0ff8, 8, Access::Write, Mode::M),
            "an unlocked rule does not bind machine mode"
        );
        assert!(p.uniform(0x8000_0000) && p.uniform(0x8000_1000) && p.uniform(0x9000_0000));
    }

    #[test]
    fn locks_hold_for_machine_mode_and_for_writes() {
        let mut p = pmp(&[(0, 0x2000_0000), (LOCKED | TOR << 3 | R, 0x2000_0400)]);
        assert!(!p.allows(0x8000_0000, 4, Access::Write, Mode::M));
        assert!(p.allows(0x8000_0000, 4, Access::Read, Mode::M));
        p.write_addr(1, 0);
        p.write_addr(0, 0); // the locked range's base
        p.write_cfg(0, 0);
        assert_eq!((p.read_addr(0), p.read_addr(1)), (0x2000_0000, 0x2000_0400));
        assert_eq!(p.read_cfg(0), ((LOCKED | TOR << 3 | R) as u64) << 8);
    }

    #[test]
    fn na4_makes_a_page_mixed_and_reserved_bits_read_zero() {
        let p = pmp(&[(NA4 << 3 | R | 0x60, 0x8000_0010 >> 2)]);
        assert!(!p.uniform(0x8000_0000));
        assert!(p.uniform(0x8000_1000));
        assert!(p.allows(0x8000_0010, 4, Access::Read, Mode::U));
        assert!(!p.allows(0x8000_0010, 8, Access::Read, Mode::U));
        assert_eq!(p.read_cfg(0), (NA4 << 3 | R) as u64);
        assert_eq!(pmp(&[(W | NAPOT << 3, 0)]).read_cfg(0), (NAPOT << 3) as u64, "W without R is reserved");
    }
}
