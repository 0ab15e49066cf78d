//! The controller as a pure state machine: levels in, one notification a context out.

use super::spec::{CLAIM, CONTEXT, CONTEXT_STRIDE, ENABLE, ENABLE_STRIDE, PENDING, PRIORITY, THRESHOLD};

/// Priorities are three bits wide: 0 (never interrupts) to 7.
const PRIORITY_MASK: u32 = 7;

/// The interrupts that a target may take: one privilege mode of one hart.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Context {
    enable: Vec<u32>,
    threshold: u32,
}

/// A controller with a number of sources and contexts that stay what they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chip {
    /// By source, 0 included (which stays 0).
    priority: Vec<u32>,
    /// The wires as they are now.
    level: Vec<u32>,
    /// Requests that no context has claimed.
    pending: Vec<u32>,
    /// Claimed and not yet completed: the gateway holds further requests back.
    claimed: Vec<u32>,
    contexts: Vec<Context>,
}

fn bit(words: &[u32], n: u32) -> bool {
    words.get(n as usize / 32).is_some_and(|w| w >> (n % 32) & 1 != 0)
}

fn set_bit(words: &mut [u32], n: u32, on: bool) {
    if let Some(w) = words.get_mut(n as usize / 32) {
        *w = *w & !(1 << (n % 32)) | u32::from(on) << (n % 32);
    }
}

impl Chip {
    /// A controller for sources 1 to `sources - 1` and `contexts` contexts; everything is off.
    pub fn new(sources: u32, contexts: u32) -> Chip {
        let words = sources.div_ceil(32) as usize;
        Chip {
            priority: vec![0; sources as usize],
            level: vec![0; words],
            pending: vec![0; words],
            claimed: vec![0; words],
            contexts: vec![Context { enable: vec![0; words], threshold: 0 }; contexts as usize],
        }
    }

    /// Back to the state after power-on. The wires keep their levels and ask again where they are high.
    pub fn reset(&mut self) {
        let level = std::mem::take(&mut self.level);
        *self = Chip::new(self.priority.len() as u32, self.contexts.len() as u32);
        self.pending.clone_from(&level);
        self.level = level;
    }

    /// How many contexts there are.
    pub fn contexts(&self) -> u32 {
        self.contexts.len() as u32
    }

    /// A source's wire changes (chapter 5, interrupt gateways, level-sensitive). A request that was accepted stays
    /// pending when the wire goes low before anybody claims it.
    pub fn set_level(&mut self, source: u32, high: bool) {
        if source == 0 || source as usize >= self.priority.len() {
            return;
        }
        set_bit(&mut self.level, source, high);
        if high && !bit(&self.claimed, source) {
            set_bit(&mut self.pending, source, true);
        }
    }

    /// The best pending source that `context` may take and its priority; the lowest number wins a tie (chapter 4).
    fn best(&self, context: &Context) -> Option<(u32, u32)> {
        let mut best: Option<(u32, u32)> = None;
        for (w, (p, e)) in self.pending.iter().zip(&context.enable).enumerate() {
            let mut m = p & e;
            while m != 0 {
                let n = w as u32 * 32 + m.trailing_zeros();
                m &= m - 1;
                let priority = self.priority[n as usize];
                if priority > best.map_or(0, |b| b.1) {
                    best = Some((n, priority));
                }
            }
        }
        best
    }

    /// Whether `context` is notified: something pending is above its threshold.
    pub fn output(&self, context: u32) -> bool {
        self.contexts
            .get(context as usize)
            .is_some_and(|c| self.best(c).is_some_and(|(_, p)| p > c.threshold))
    }

    /// Takes the best request of a context, 0 if there is none. The threshold does not matter here (chapter 9).
    fn claim(&mut self, context: usize) -> u32 {
        let Some((n, _)) = self.best(&self.contexts[context]) else { return 0 };
        set_bit(&mut self.pending, n, false);
        set_bit(&mut self.claimed, n, true);
        n
    }

    /// Ends the service of `source`; ignored for one that the context may not take (chapter 10).
    fn complete(&mut self, context: usize, source: u32) {
        if source as usize >= self.priority.len() || !bit(&self.contexts[context].enable, source) {
            return;
        }
        set_bit(&mut self.claimed, source, false);
        if bit(&self.level, source) {
            set_bit(&mut self.pending, source, true);
        }
    }

    /// Reads the 32-bit register at `off`; what does not exist reads 0.
    pub fn read(&mut self, off: u64) -> u32 {
        match self.decode(off) {
            Some(Reg::Priority(n)) => self.priority[n],
            Some(Reg::Pending(w)) => self.pending[w],
            Some(Reg::Enable(c, w)) => self.contexts[c].enable[w],
            Some(Reg::Threshold(c)) => self.contexts[c].threshold,
            Some(Reg::Claim(c)) => self.claim(c),
            None => 0,
        }
    }

    /// Writes the 32-bit register at `off`; what does not exist or is read-only is ignored.
    pub fn write(&mut self, off: u64, v: u32) {
        match self.decode(off) {
            Some(Reg::Priority(n)) if n > 0 => self.priority[n] = v & PRIORITY_MASK,
            Some(Reg::Enable(c, w)) => {
                let sources = self.priority.len() - w * 32;
                let exist = if sources >= 32 { !0 } else { (1 << sources) - 1 };
                self.contexts[c].enable[w] = v & exist & !u32::from(w == 0);
            }
            Some(Reg::Threshold(c)) => self.contexts[c].threshold = v & PRIORITY_MASK,
            Some(Reg::Claim(c)) => self.complete(c, v),
            Some(Reg::Priority(_) | Reg::Pending(_)) | None => {}
        }
    }

    fn decode(&self, off: u64) -> Option<Reg> {
        if !off.is_multiple_of(4) {
            return None;
        }
        let within = |base: u64, count: usize| {
            let n = usize::try_from(off.checked_sub(base)? / 4).ok()?;
            (n < count).then_some(n)
        };
        if let Some(n) = within(PRIORITY, self.priority.len()) {
            return Some(Reg::Priority(n));
        }
        if let Some(w) = within(PENDING, self.pending.len()) {
            return Some(Reg::Pending(w));
        }
        if off >= CONTEXT {
            let c = usize::try_from((off - CONTEXT) / CONTEXT_STRIDE)
                .ok()
                .filter(|&c| c < self.contexts.len())?;
            return match (off - CONTEXT) % CONTEXT_STRIDE {
                THRESHOLD => Some(Reg::Threshold(c)),
                CLAIM => Some(Reg::Claim(c)),
                _ => None,
            };
        }
        let rel = off.checked_sub(ENABLE)?;
        let c = usize::try_from(rel / ENABLE_STRIDE).ok().filter(|&c| c < self.contexts.len())?;
        let w = usize::try_from(rel % ENABLE_STRIDE / 4).ok().filter(|&w| w < self.pending.len())?;
        Some(Reg::Enable(c, w))
    }

    /// The state as its published schema.
    pub fn save(&self) -> PlicState {
        PlicState {
            priority: self.priority.clone(),
            level: self.level.clone(),
            pending: self.pending.clone(),
            claimed: self.claimed.clone(),
            enable: self.contexts.iter().map(|c| c.enable.clone()).collect(),
            threshold: self.contexts.iter().map(|c| c.threshold).collect(),
        }
    }

    /// The controller that [`Chip::save`] described, of the same shape as this one; `None` if it cannot be.
    pub fn restored(&self, s: &PlicState) -> Option<Chip> {
        let contexts = s.enable.iter().zip(&s.threshold);
        let next = Chip {
            priority: s.priority.clone(),
            level: s.level.clone(),
            pending: s.pending.clone(),
            claimed: s.claimed.clone(),
            contexts: contexts.map(|(e, &threshold)| Context { enable: e.clone(), threshold }).collect(),
        };
        let words = self.level.len();
        let possible = next.priority.len() == self.priority.len()
            && (s.enable.len(), s.threshold.len()) == (self.contexts.len(), self.contexts.len())
            && next.bit_sets().all(|b| b.len() == words)
            && next.priority[0] == 0
            && next.priority.iter().all(|p| *p <= PRIORITY_MASK)
            && next.contexts.iter().all(|c| c.threshold <= PRIORITY_MASK)
            && next.bits_exist();
        possible.then_some(next)
    }

    fn bit_sets(&self) -> impl Iterator<Item = &Vec<u32>> {
        let sets = [&self.level, &self.pending, &self.claimed];
        sets.into_iter().chain(self.contexts.iter().map(|c| &c.enable))
    }

    /// No bit stands for source 0 or for one beyond the last.
    fn bits_exist(&self) -> bool {
        let n = self.priority.len() as u32;
        self.bit_sets().all(|s| !bit(s, 0) && (n..s.len() as u32 * 32).all(|i| !bit(s, i)))
    }
}

device::saved_state! {
    /// The saved state of a platform-level interrupt controller; bits stand by source in 32-bit words.
    pub struct PlicState: "plic", 1 {
        /// By source.
        pub priority: Vec<u32>,
        /// The wires.
        pub level: Vec<u32>,
        /// Requests that nobody has claimed.
        pub pending: Vec<u32>,
        /// Requests in service.
        pub claimed: Vec<u32>,
        /// By context.
        pub enable: Vec<Vec<u32>>,
        /// By context.
        pub threshold: Vec<u32>,
    }
}

/// A register by meaning; every index is in range.
enum Reg {
    Priority(usize),
    Pending(usize),
    Enable(usize, usize),
    Threshold(usize),
    Claim(usize),
}

#[cfg(test)]
mod tests {
    use super::*;

    const CTX1: u64 = CONTEXT + CONTEXT_STRIDE;

    /// Sources 1..96, contexts 0 and 1, and sources 3 and 40 of priority 2 and 5 enabled for context 1.
    fn chip() -> Chip {
        let mut c = Chip::new(96, 2);
        c.write(PRIORITY + 4 * 3, 2);
        c.write(PRIORITY + 4 * 40, 5);
        c.write(ENABLE + ENABLE_STRIDE, 1 << 3);
        c.write(ENABLE + ENABLE_STRIDE + 4, 1 << 8);
        c
    }

    #[test]
    fn a_level_is_pending_until_claimed_and_again_after_completion() {
        let mut c = chip();
        c.set_level(3, true);
        assert!(c.output(1) && !c.output(0));
        assert_eq!(c.read(PENDING), 1 << 3);
        assert_eq!(c.read(CTX1 + CLAIM), 3);
        assert!(!c.output(1));
        assert_eq!(c.read(CTX1 + CLAIM), 0);
        c.set_level(3, true);
        assert!(!c.output(1), "the gateway holds back what is in service");
        c.write(CTX1 + CLAIM, 3);
        assert!(c.output(1), "still high: asks again");
        assert_eq!(c.read(CTX1 + CLAIM), 3);
        c.set_level(3, false);
        c.write(CTX1 + CLAIM, 3);
        assert!(!c.output(1));
    }

    #[test]
    fn a_request_survives_its_wire_going_low() {
        let mut c = chip();
        c.set_level(3, true);
        c.set_level(3, false);
        assert_eq!(c.read(CTX1 + CLAIM), 3);
        c.write(CTX1 + CLAIM, 3);
        assert!(!c.output(1));
    }

    #[test]
    fn priorities_then_numbers_decide_and_the_threshold_masks() {
        let mut c = chip();
        c.set_level(3, true);
        c.set_level(40, true);
        c.write(CTX1 + THRESHOLD, 5);
        assert!(!c.output(1), "not above the threshold");
        assert_eq!(c.read(CTX1 + CLAIM), 40, "a claim does not look at the threshold");
        c.write(CTX1 + CLAIM, 40);
        c.write(CTX1 + THRESHOLD, 4);
        assert!(c.output(1));
        c.write(PRIORITY + 4 * 3, 5);
        assert_eq!(c.read(CTX1 + CLAIM), 3, "the lower number wins a tie");
        c.write(PRIORITY + 4 * 40, 0);
        assert!(!c.output(1), "priority 0 never interrupts");
        assert_eq!(c.read(CTX1 + CLAIM), 0);
    }

    #[test]
    fn completion_is_ignored_from_a_context_that_may_not_take_the_source() {
        let mut c = chip();
        c.set_level(3, true);
        assert_eq!(c.read(CTX1 + CLAIM), 3);
        c.write(CONTEXT + CLAIM, 3);
        c.write(CTX1 + CLAIM, 0xffff_ffff);
        assert!(!c.output(1));
        c.write(CTX1 + CLAIM, 3);
        assert!(c.output(1));
    }

    #[test]
    fn what_does_not_exist_reads_zero_and_takes_nothing() {
        let mut c = chip();
        for off in [
            PRIORITY,
            PRIORITY + 4 * 96,
            PENDING + 12,
            ENABLE + 2 * ENABLE_STRIDE,
            CONTEXT + 8,
            CTX1 + 0x1000,
        ] {
            c.write(off, !0);
            assert_eq!(c.read(off), 0, "{off:#x}");
        }
        c.write(ENABLE, !0);
        assert_eq!(c.read(ENABLE), !1, "there is no source 0");
        c.write(PRIORITY + 4, 0xff);
        assert_eq!(c.read(PRIORITY + 4), 7);
        c.set_level(0, true);
        c.set_level(96, true);
        assert_eq!(c.read(PENDING), 0);
        let mut odd = Chip::new(35, 1);
        odd.write(ENABLE + 4, !0);
        assert_eq!(odd.read(ENABLE + 4), 7);
    }

    #[test]
    fn reset_keeps_the_wires_only() {
        let mut c = chip();
        c.set_level(3, true);
        c.reset();
        assert!(!c.output(1));
        assert_eq!(c.read(ENABLE + ENABLE_STRIDE), 0);
        assert_eq!(c.read(PENDING), 1 << 3);
        c.set_level(3, false);
        let mut fresh = Chip::new(96, 2);
        fresh.set_level(3, true);
        fresh.set_level(3, false);
        assert_eq!(c, fresh);
    }

    #[test]
    fn saved_state_comes_back_and_rubbish_does_not() {
        let mut c = chip();
        c.set_level(3, true);
        c.set_level(40, true);
        c.read(CTX1 + CLAIM);
        let saved = c.save();
        let d = Chip::new(96, 2);
        assert_eq!(d.restored(&saved), Some(c));
        assert_eq!(Chip::new(96, 4).restored(&saved), None);
        assert_eq!(Chip::new(95, 2).restored(&saved), None);
        let refused = |change: fn(&mut PlicState)| {
            let mut s = saved.clone();
            change(&mut s);
            d.restored(&s).is_none()
        };
        assert!(refused(|s| s.priority[0] = 1), "a priority for source 0");
        assert!(refused(|s| s.priority[1] = 8));
        assert!(refused(|s| s.pending[0] = 1));
        assert!(refused(|s| s.enable[1].push(0)));
        assert!(refused(|s| s.threshold.clear()));
    }
}
