use super::spec::{MAX_HARTS, MTIME, MTIMECMP, MTIMER, SWI_LEN};
use device::{Device, IrqLine, Reset, StateBlob, StateError, Timer, TimerService};
use mem::{Mmio, Size, SplitRegs, read_split, write_split};
use parking_lot::Mutex;
use std::sync::{Arc, Weak};

/// The interrupt inputs of one hart that the device drives.
#[derive(Clone, Default)]
pub struct AclintLines {
    /// Machine software interrupt: `mip.MSIP`.
    pub msip: IrqLine,
    /// Machine timer interrupt: `mip.MTIP`.
    pub mtip: IrqLine,
    /// Supervisor software interrupt: a high level sets `mip.SSIP`, which software clears.
    pub ssip: IrqLine,
}

/// The interruptor of a number of harts, numbered from 0.
pub struct Aclint {
    timers: TimerService,
    hz: u64,
    harts: Vec<Hart>,
    state: Mutex<State>,
    /// Held while timer lines are set, so that levels arrive in order.
    order: Mutex<()>,
}

struct Hart {
    lines: AclintLines,
    timer: Timer,
}

struct State {
    /// What a write to MTIME added to the clock, in ticks.
    offset: u64,
    msip: Vec<bool>,
    mtimecmp: Vec<u64>,
}

device::saved_state! {
    /// The saved state of the core-local interruptor.
    pub struct AclintState: "aclint", 1 {
        /// The time in ticks when the state was saved.
        pub mtime: u64,
        /// By hart.
        pub msip: Vec<bool>,
        /// By hart.
        pub mtimecmp: Vec<u64>,
    }
}

impl Aclint {
    /// A device for the harts with these inputs; `hz` is the timer's frequency in ticks a second (at most 1 GHz).
    pub fn new(harts: Vec<AclintLines>, hz: u64, timers: &TimerService) -> Arc<Aclint> {
        assert!(harts.len() <= MAX_HARTS && (1..=1_000_000_000).contains(&hz));
        Arc::new_cyclic(|me: &Weak<Aclint>| {
            let hart = |(n, lines)| {
                let weak = me.clone();
                let fire = move || {
                    if let Some(a) = weak.upgrade() {
                        a.sync_timer(n);
                    }
                };
                Hart { lines, timer: timers.timer(Arc::new(fire)) }
            };
            let n = harts.len();
            Aclint {
                timers: timers.clone(),
                hz,
                harts: harts.into_iter().enumerate().map(hart).collect(),
                state: Mutex::new(State { offset: 0, msip: vec![false; n], mtimecmp: vec![u64::MAX; n] }),
                order: Mutex::new(()),
            }
        })
    }

    /// The window of the machine software interrupts, [`SWI_LEN`] bytes.
    pub fn mswi(self: &Arc<Self>) -> Arc<Window> {
        Arc::new(Window { of: self.clone(), kind: Kind::Mswi })
    }

    /// The window of the machine timer in a CLINT's layout, [`MTIMER_LEN`](super::spec::MTIMER_LEN) bytes.
    pub fn mtimer(self: &Arc<Self>) -> Arc<Window> {
        Arc::new(Window { of: self.clone(), kind: Kind::Mtimer })
    }

    /// The window of the supervisor software interrupts, [`SWI_LEN`] bytes.
    pub fn sswi(self: &Arc<Self>) -> Arc<Window> {
        Arc::new(Window { of: self.clone(), kind: Kind::Sswi })
    }

    fn clock_ticks(&self) -> u64 {
        (u128::from(self.timers.now_ns()) * u128::from(self.hz) / 1_000_000_000) as u64
    }

    /// Raises or lowers the timer line of a hart, and arms its timer for when it is to rise.
    fn sync_timer(&self, hart: usize) {
        let _order = self.order.lock();
        let h = &self.harts[hart];
        let (cmp, now) = {
            let s = self.state.lock();
            (s.mtimecmp[hart], self.clock_ticks().wrapping_add(s.offset))
        };
        h.lines.mtip.set(now >= cmp);
        if now >= cmp {
            h.timer.cancel();
            return;
        }
        // Nanoseconds until then, rounded up, so that the timer does not fire a tick early.
        let ns = (u128::from(cmp - now) * 1_000_000_000).div_ceil(u128::from(self.hz));
        let at = u128::from(self.timers.now_ns()) + ns;
        match u64::try_from(at) {
            Ok(at) => h.timer.arm_at(at),
            Err(_) => h.timer.cancel(), // More than five centuries away.
        }
    }

    fn sync(&self) {
        for n in 0..self.harts.len() {
            self.sync_timer(n);
            let _order = self.order.lock();
            let level = self.state.lock().msip[n];
            self.harts[n].lines.msip.set(level);
        }
    }
}

impl Device for Aclint {
    fn reset(&self, _kind: Reset) {
        // The time goes on: it is the harts' `time` too.
        {
            let mut s = self.state.lock();
            s.msip.fill(false);
            s.mtimecmp.fill(u64::MAX);
        }
        self.sync();
    }

    fn save(&self) -> StateBlob {
        let s = self.state.lock();
        let mtime = self.clock_ticks().wrapping_add(s.offset);
        AclintState { mtime, msip: s.msip.clone(), mtimecmp: s.mtimecmp.clone() }.to_blob()
    }

    fn load(&self, state: &StateBlob) -> Result<(), StateError> {
        let saved = AclintState::from_blob(state)?;
        let n = self.harts.len();
        if (saved.msip.len(), saved.mtimecmp.len()) != (n, n) {
            return Err(StateError::new("aclint: another number of harts"));
        }
        {
            let mut s = self.state.lock();
            s.offset = saved.mtime.wrapping_sub(self.clock_ticks());
            s.msip = saved.msip;
            s.mtimecmp = saved.mtimecmp;
        }
        self.sync();
        Ok(())
    }

    fn name(&self) -> &str {
        "riscv.aclint"
    }
}

/// One of the register windows of an [`Aclint`].
pub struct Window {
    of: Arc<Aclint>,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Mswi,
    Mtimer,
    Sswi,
}

impl SplitRegs for Window {
    const WIDTH: Size = Size::B4;

    fn read_reg(&self, off: u64) -> u64 {
        let a = &*self.of;
        let half = |v: u64| if off % 8 == 4 { v >> 32 } else { v & 0xffff_ffff };
        match self.kind {
            Kind::Mswi => {
                let msip = usize::try_from(off / 4).ok().and_then(|n| a.state.lock().msip.get(n).copied());
                msip.unwrap_or(false).into()
            }
            Kind::Mtimer if off & !7 == MTIME => half(a.clock_ticks().wrapping_add(a.state.lock().offset)),
            Kind::Mtimer => {
                let s = a.state.lock();
                half(compare(&s, off).map_or(0, |n| s.mtimecmp[n]))
            }
            Kind::Sswi => 0,
        }
    }

    fn write_reg(&self, off: u64, value: u64, mask: u64) {
        let a = &*self.of;
        let shift = 8 * (off % 8);
        let merge = |old: u64| old & !(mask << shift) | value << shift;
        match self.kind {
            Kind::Mswi => {
                let n = (off / 4) as usize;
                if n < a.harts.len() && mask & 1 != 0 {
                    let _order = a.order.lock();
                    a.state.lock().msip[n] = value & 1 != 0;
                    a.harts[n].lines.msip.set(value & 1 != 0);
                }
            }
            Kind::Mtimer if off & !7 == MTIME => {
                {
                    let mut s = a.state.lock();
                    let clock = a.clock_ticks();
                    s.offset = merge(clock.wrapping_add(s.offset)).wrapping_sub(clock);
                }
                (0..a.harts.len()).for_each(|n| a.sync_timer(n));
            }
            Kind::Mtimer => {
                let n = {
                    let mut s = a.state.lock();
                    let Some(n) = compare(&s, off) else { return };
                    s.mtimecmp[n] = merge(s.mtimecmp[n]);
                    n
                };
                a.sync_timer(n);
            }
            Kind::Sswi => {
                let n = (off / 4) as usize;
                if n < a.harts.len() && value & 1 != 0 {
                    a.harts[n].lines.ssip.raise();
                }
            }
        }
    }
}

/// The hart whose MTIMECMP the offset lies in.
fn compare(s: &State, off: u64) -> Option<usize> {
    let n = usize::try_from((off - MTIMECMP) / 8).ok()?;
    (n < s.mtimecmp.len()).then_some(n)
}

impl Mmio for Window {
    fn read(&self, off: u64, size: Size) -> u64 {
        read_split(self, off, size)
    }

    fn write(&self, off: u64, value: u64, size: Size) {
        // A wide store reaches MTIME or MTIMECMP at once: an intermediate value must not raise an interrupt.
        if self.kind == Kind::Mtimer && size == Size::B8 && off.is_multiple_of(8) {
            let a = &*self.of;
            if off == MTIME {
                a.state.lock().offset = value.wrapping_sub(a.clock_ticks());
                (0..a.harts.len()).for_each(|n| a.sync_timer(n));
            } else {
                let n = {
                    let mut s = a.state.lock();
                    let Some(n) = compare(&s, off) else { return };
                    s.mtimecmp[n] = value;
                    n
                };
                a.sync_timer(n);
            }
            return;
        }
        write_split(self, off, value, size);
    }

    fn accepts(&self, off: u64, size: Size, _write: bool) -> bool {
        off.is_multiple_of(size.bytes() as u64) && matches!(size, Size::B4 | Size::B8)
    }

    fn name(&self) -> &str {
        match self.kind {
            Kind::Mswi => "riscv.aclint.swi",
            Kind::Mtimer => "riscv.aclint.mtimer",
            Kind::Sswi => "riscv.aclint.sswi",
        }
    }
}

const _: () = assert!(SWI_LEN == MTIMER, "MSWI and MTIMER stand side by side in a CLINT");

#[cfg(test)]
mod tests {
    use super::*;
    use device::{ClockSource, IrqSink};
    use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};

    #[derive(Default)]
    struct Pins(AtomicU32);

    impl IrqSink for Pins {
        fn set_irq(&self, n: u32, level: bool) {
            if level {
                self.0.fetch_or(1 << n, SeqCst);
            } else {
                self.0.fetch_and(!(1 << n), SeqCst);
            }
        }
    }

    #[derive(Default)]
    struct Hand(AtomicU64);

    impl ClockSource for Hand {
        fn now_ns(&self) -> u64 {
            self.0.load(SeqCst)
        }
    }

    struct Rig {
        a: Arc<Aclint>,
        pins: Arc<Pins>,
        clock: Arc<Hand>,
        timers: TimerService,
    }

    /// Two harts; hart n drives the pins n (msip), n + 2 (mtip) and n + 4 (ssip).
    fn rig() -> Rig {
        let (pins, clock) = (Arc::new(Pins::default()), Arc::new(Hand::default()));
        let timers = TimerService::manual(clock.clone());
        let pin = |n| IrqLine::new(pins.clone(), n);
        let harts =
            (0..2).map(|n| AclintLines { msip: pin(n), mtip: pin(n + 2), ssip: pin(n + 4) }).collect();
        Rig { a: Aclint::new(harts, 10_000_000, &timers), pins, clock, timers }
    }

    #[test]
    fn the_timer_rises_at_its_time_and_falls_with_a_new_one() {
        let t = rig();
        let m = t.a.mtimer();
        Mmio::write(&*m, 8, 100, Size::B8);
        t.clock.0.store(9_999, SeqCst);
        t.timers.run_due();
        assert_eq!(t.pins.0.load(SeqCst), 0);
        assert_eq!(Mmio::read(&*m, MTIME, Size::B8), 99);
        t.clock.0.store(10_000, SeqCst);
        t.timers.run_due();
        assert_eq!(t.pins.0.load(SeqCst), 1 << 3);
        Mmio::write(&*m, 8, 200, Size::B8);
        assert_eq!(t.pins.0.load(SeqCst), 0);
        Mmio::write(&*m, 8, 50, Size::B8);
        assert_eq!(t.pins.0.load(SeqCst), 1 << 3, "a time in the past is now");
        Mmio::write(&*m, 12, 1, Size::B4);
        assert_eq!(Mmio::read(&*m, 8, Size::B8), 1 << 32 | 50);
        assert_eq!(t.pins.0.load(SeqCst), 0);
        // The furthest time overflows nothing.
        Mmio::write(&*m, 8, u64::MAX, Size::B8);
        assert_eq!(t.timers.run_due(), None);
    }

    #[test]
    fn the_time_can_be_set() {
        let t = rig();
        let m = t.a.mtimer();
        t.clock.0.store(1_000, SeqCst);
        Mmio::write(&*m, 0, 1_000, Size::B8);
        Mmio::write(&*m, MTIME, 999, Size::B8);
        assert_eq!(t.pins.0.load(SeqCst), 0);
        t.clock.0.store(1_100, SeqCst);
        t.timers.run_due();
        assert_eq!(t.pins.0.load(SeqCst), 1 << 2);
        Mmio::write(&*m, MTIME + 4, 5, Size::B4);
        assert_eq!(Mmio::read(&*m, MTIME, Size::B8), 5 << 32 | 1000);
    }

    #[test]
    fn software_interrupts() {
        let t = rig();
        let (m, s) = (t.a.mswi(), t.a.sswi());
        Mmio::write(&*m, 4, 0xffff_ffff, Size::B4);
        assert_eq!((t.pins.0.load(SeqCst), Mmio::read(&*m, 4, Size::B4)), (2, 1));
        Mmio::write(&*m, 4, 0, Size::B4);
        Mmio::write(&*s, 0, 1, Size::B4);
        assert_eq!((t.pins.0.load(SeqCst), Mmio::read(&*s, 0, Size::B4)), (1 << 4, 0));
        Mmio::write(&*m, 8, 1, Size::B4);
        Mmio::write(&*s, 0x3ffc, 1, Size::B4);
        assert_eq!(Mmio::read(&*m, 0x3ffc, Size::B4), 0);
        assert_eq!(t.pins.0.load(SeqCst), 1 << 4);
    }

    #[test]
    fn reset_and_saved_state() {
        let t = rig();
        t.clock.0.store(5_000, SeqCst);
        Mmio::write(&*t.a.mswi(), 0, 1, Size::B4);
        Mmio::write(&*t.a.mtimer(), 0, 10, Size::B8);
        let saved = t.a.save();
        let u = rig();
        u.a.load(&saved).unwrap();
        assert_eq!(u.pins.0.load(SeqCst), 1 | 1 << 2);
        assert_eq!(u.a.save(), saved);
        u.a.reset(Reset::Warm);
        assert_eq!(u.pins.0.load(SeqCst), 0);
        let mut bad = AclintState::from_blob(&saved).unwrap();
        bad.msip.push(true);
        assert!(u.a.load(&bad.to_blob()).is_err());
    }
}
