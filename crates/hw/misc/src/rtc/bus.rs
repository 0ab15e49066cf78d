use super::spec;
use device::{Device, IrqLine, Reset, StateBlob, StateError, Timer, TimerService};
use mem::{Mmio, Size};
use parking_lot::Mutex;
use std::sync::{Arc, Weak};

/// The host's idea of the time: nanoseconds since 1970.
pub type WallClock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// The clock on its bus.
pub struct GoldfishRtc {
    wall: WallClock,
    irq: IrqLine,
    state: Mutex<State>,
    /// Held while the line is set, so that levels arrive in order.
    order: Mutex<()>,
    timer: Timer,
}

#[derive(Default)]
struct State {
    /// What the guest's setting of the time added to the host's.
    offset: u64,
    /// What the last read of TIME_LOW latched.
    time_high: u32,
    /// What was written to TIME_HIGH.
    set_high: u32,
    alarm_high: u32,
    alarm: u64,
    armed: bool,
    pending: bool,
    enabled: bool,
}

device::saved_state! {
    /// The saved state of the Goldfish real-time clock.
    pub struct GoldfishRtcState: "goldfish_rtc", 1 {
        /// What the guest's setting of the time added to the host's, in nanoseconds.
        pub offset: u64,
        /// The latched high half of the time.
        pub time_high: u32,
        /// The high half of the time that is being set.
        pub set_high: u32,
        /// The high half of the alarm that is being set.
        pub alarm_high: u32,
        /// The alarm, nanoseconds since 1970.
        pub alarm: u64,
        /// Whether the alarm is set.
        pub armed: bool,
        /// Whether the interrupt is pending.
        pub pending: bool,
        /// Whether it is let through.
        pub enabled: bool,
    }
}

impl GoldfishRtc {
    /// A clock that follows `wall`; alarms run on the guest's clock, so none comes while the machine stands still.
    pub fn new(irq: IrqLine, timers: &TimerService, wall: WallClock) -> Arc<GoldfishRtc> {
        Arc::new_cyclic(|me: &Weak<GoldfishRtc>| {
            let weak = me.clone();
            let ring = move || {
                if let Some(r) = weak.upgrade() {
                    r.check_alarm();
                    r.sync();
                }
            };
            let timer = timers.timer(Arc::new(ring));
            GoldfishRtc { wall, irq, state: Mutex::default(), order: Mutex::new(()), timer }
        })
    }

    fn now(&self, s: &State) -> u64 {
        (self.wall)().wrapping_add(s.offset)
    }

    /// Rings if the alarm's time has come, else sets the timer for it.
    fn check_alarm(&self) {
        let mut s = self.state.lock();
        if !s.armed {
            self.timer.cancel();
            return;
        }
        let now = self.now(&s);
        if s.alarm <= now {
            s.armed = false;
            s.pending = true;
            self.timer.cancel();
        } else {
            self.timer.arm_after(s.alarm - now);
        }
    }

    fn sync(&self) {
        let _order = self.order.lock();
        let level = {
            let s = self.state.lock();
            s.pending && s.enabled
        };
        self.irq.set(level);
    }
}

impl Mmio for GoldfishRtc {
    fn read(&self, off: u64, _size: Size) -> u64 {
        let mut s = self.state.lock();
        match off {
            spec::TIME_LOW => {
                let now = self.now(&s);
                s.time_high = (now >> 32) as u32;
                now & 0xffff_ffff
            }
            spec::TIME_HIGH => s.time_high.into(),
            spec::ALARM_LOW => s.alarm & 0xffff_ffff,
            spec::ALARM_HIGH => s.alarm >> 32,
            spec::IRQ_ENABLED => s.enabled.into(),
            spec::ALARM_STATUS => s.armed.into(),
            _ => 0,
        }
    }

    fn write(&self, off: u64, value: u64, _size: Size) {
        let value = value as u32;
        {
            let mut s = self.state.lock();
            match off {
                spec::TIME_HIGH => s.set_high = value,
                spec::TIME_LOW => {
                    let time = u64::from(s.set_high) << 32 | u64::from(value);
                    s.offset = time.wrapping_sub((self.wall)());
                }
                spec::ALARM_HIGH => s.alarm_high = value,
                spec::ALARM_LOW => {
                    s.alarm = u64::from(s.alarm_high) << 32 | u64::from(value);
                    s.armed = true;
                }
                spec::IRQ_ENABLED => s.enabled = value & 1 != 0,
                spec::CLEAR_ALARM => s.armed = false,
                spec::CLEAR_INTERRUPT => s.pending = false,
                _ => {}
            }
        }
        self.check_alarm();
        self.sync();
    }

    fn accepts(&self, _off: u64, size: Size, _write: bool) -> bool {
        size == Size::B4
    }

    fn name(&self) -> &str {
        "goldfish_rtc"
    }
}

impl Device for GoldfishRtc {
    fn reset(&self, kind: Reset) {
        {
            let mut s = self.state.lock();
            // The battery keeps the time over a reset.
            let offset = if kind == Reset::Cold { 0 } else { s.offset };
            *s = State { offset, ..State::default() };
        }
        self.check_alarm();
        self.sync();
    }

    fn resume(&self) {
        self.check_alarm();
        self.sync();
    }

    fn save(&self) -> StateBlob {
        let s = self.state.lock();
        GoldfishRtcState {
            offset: s.offset,
            time_high: s.time_high,
            set_high: s.set_high,
            alarm_high: s.alarm_high,
            alarm: s.alarm,
            armed: s.armed,
            pending: s.pending,
            enabled: s.enabled,
        }
        .to_blob()
    }

    fn load(&self, state: &StateBlob) -> Result<(), StateError> {
        let s = GoldfishRtcState::from_blob(state)?;
        *self.state.lock() = State {
            offset: s.offset,
            time_high: s.time_high,
            set_high: s.set_high,
            alarm_high: s.alarm_high,
            alarm: s.alarm,
            armed: s.armed,
            pending: s.pending,
            enabled: s.enabled,
        };
        self.check_alarm();
        self.sync();
        Ok(())
    }

    fn name(&self) -> &str {
        "goldfish_rtc"
    }
}

#[cfg(test)]
mod tests {
    use super::super::spec::*;
    use super::*;
    use device::{ClockSource, IrqSink};
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

    #[derive(Default)]
    struct Pin(AtomicBool);

    impl IrqSink for Pin {
        fn set_irq(&self, _n: u32, level: bool) {
            self.0.store(level, SeqCst);
        }
    }

    #[derive(Default)]
    struct Hand(AtomicU64);

    impl ClockSource for Hand {
        fn now_ns(&self) -> u64 {
            self.0.load(SeqCst)
        }
    }

    const EPOCH: u64 = 1_700_000_000_000_000_000;

    fn rig() -> (Arc<GoldfishRtc>, Arc<Pin>, Arc<Hand>, TimerService) {
        let (pin, clock) = (Arc::new(Pin::default()), Arc::new(Hand::default()));
        let timers = TimerService::manual(clock.clone());
        let wall = clock.clone();
        let rtc =
            GoldfishRtc::new(IrqLine::new(pin.clone(), 0), &timers, Arc::new(move || EPOCH + wall.now_ns()));
        (rtc, pin, clock, timers)
    }

    fn w(r: &GoldfishRtc, off: u64, v: u64) {
        Mmio::write(r, off, v & 0xffff_ffff, Size::B4);
    }

    fn time(r: &GoldfishRtc) -> u64 {
        let low = Mmio::read(r, TIME_LOW, Size::B4);
        Mmio::read(r, TIME_HIGH, Size::B4) << 32 | low
    }

    #[test]
    fn the_time_is_the_hosts_until_it_is_set() {
        let (r, _, clock, _t) = rig();
        clock.0.store(5, SeqCst);
        assert_eq!(time(&r), EPOCH + 5);
        w(&r, TIME_HIGH, 1);
        w(&r, TIME_LOW, 2);
        clock.0.store(10, SeqCst);
        assert_eq!(time(&r), (1 << 32) + 7);
        r.reset(Reset::Warm);
        assert_eq!(time(&r), (1 << 32) + 7);
        r.reset(Reset::Cold);
        assert_eq!(time(&r), EPOCH + 10);
    }

    #[test]
    fn the_high_half_is_latched() {
        let (r, _, clock, _t) = rig();
        w(&r, TIME_HIGH, 1);
        w(&r, TIME_LOW, 0xffff_ffff);
        assert_eq!(Mmio::read(&*r, TIME_LOW, Size::B4), 0xffff_ffff);
        clock.0.store(1, SeqCst);
        assert_eq!(Mmio::read(&*r, TIME_HIGH, Size::B4), 1);
        assert_eq!(time(&r), 2 << 32);
    }

    #[test]
    fn an_alarm_rings_once_and_is_cleared() {
        let (r, pin, clock, timers) = rig();
        let at = EPOCH + 1000;
        w(&r, IRQ_ENABLED, 1);
        w(&r, ALARM_HIGH, at >> 32);
        w(&r, ALARM_LOW, at);
        assert_eq!(Mmio::read(&*r, ALARM_STATUS, Size::B4), 1);
        clock.0.store(999, SeqCst);
        timers.run_due();
        assert!(!pin.0.load(SeqCst));
        clock.0.store(1000, SeqCst);
        timers.run_due();
        assert!(pin.0.load(SeqCst));
        assert_eq!(Mmio::read(&*r, ALARM_STATUS, Size::B4), 0);
        w(&r, CLEAR_INTERRUPT, 1);
        assert!(!pin.0.load(SeqCst));
        // In the past: at once. Disabled: not let through. Cleared: never.
        w(&r, IRQ_ENABLED, 0);
        w(&r, ALARM_LOW, at);
        assert!(!pin.0.load(SeqCst));
        w(&r, IRQ_ENABLED, 1);
        assert!(pin.0.load(SeqCst));
        w(&r, CLEAR_INTERRUPT, 1);
        w(&r, ALARM_HIGH, (at >> 32) + 1);
        w(&r, ALARM_LOW, 0);
        w(&r, CLEAR_ALARM, 1);
        clock.0.store(1 << 40, SeqCst);
        assert_eq!(timers.run_due(), None);
        assert!(!pin.0.load(SeqCst));
    }

    #[test]
    fn saved_state_rings_elsewhere() {
        let (r, _, _, _t) = rig();
        w(&r, IRQ_ENABLED, 1);
        w(&r, ALARM_HIGH, (EPOCH + 1000) >> 32);
        w(&r, ALARM_LOW, EPOCH + 1000);
        let (s, pin, clock, timers) = rig();
        s.load(&r.save()).unwrap();
        assert_eq!(s.save(), r.save());
        clock.0.store(1000, SeqCst);
        timers.run_due();
        assert!(pin.0.load(SeqCst));
        s.reset(Reset::Warm);
        assert!(!pin.0.load(SeqCst));
    }
}
