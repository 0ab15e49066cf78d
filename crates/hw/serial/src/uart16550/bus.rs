//! The UART on a bus: eight byte-wide registers, an interrupt line, a timer and a character back end.

use super::chip::{Chip, Uart16550State};
use super::spec::FIFO_SIZE;
use device::{
    BoxFuture, CharBackend, CharEvent, CharFrontend, Device, IrqLine, Reset, StateBlob, StateError, Timer,
    TimerService,
};
use mem::{Mmio, Size};
use parking_lot::Mutex;
use qapi::QError;
use std::sync::{Arc, Weak};

/// What a UART is wired to.
pub struct UartConfig {
    /// Its name, for people.
    pub name: String,
    /// The input clock in hertz; the baud rate is this over 16 and the divisor.
    pub clock_hz: u32,
    /// The INTR pin.
    pub irq: IrqLine,
    /// The other end of the line; what is sent to nobody is gone.
    pub chardev: Option<Arc<dyn CharBackend>>,
}

/// A 16550A on a bus.
pub struct Uart16550 {
    name: String,
    clock_hz: u32,
    irq: IrqLine,
    /// Held while the line is set, so that levels arrive in the order in which they were computed.
    irq_order: Mutex<()>,
    chardev: Option<Arc<dyn CharBackend>>,
    state: Mutex<State>,
    timeout: Timer,
}

struct State {
    chip: Chip,
    /// Somebody is handing bytes to the back end; others leave it to them, so that bytes keep their order.
    sending: bool,
    /// The back end has room again, which whoever is sending may not have seen.
    writable: bool,
    /// The back end was refused for want of room and waits to be called.
    input_waits: bool,
    /// The machine stands still: input waits outside.
    paused: bool,
    /// The length of the receiver's queue when the timeout was last armed; it starts anew when that changes.
    timeout_for: Option<usize>,
}

impl State {
    /// How many characters may come in.
    fn room(&self) -> usize {
        if self.paused { 0 } else { self.chip.room() }
    }
}

impl Uart16550 {
    /// A UART after power-on, attached to its back end.
    ///
    /// # Errors
    /// Where the back end has a front end already.
    pub fn new(cfg: UartConfig, timers: &TimerService) -> Result<Arc<Uart16550>, QError> {
        let uart = Arc::new_cyclic(|me: &Weak<Uart16550>| {
            let weak = me.clone();
            let timeout = timers.timer(Arc::new(move || {
                if let Some(u) = weak.upgrade() {
                    u.state.lock().chip.character_timeout();
                    u.sync();
                }
            }));
            Uart16550 {
                name: cfg.name,
                clock_hz: cfg.clock_hz.max(16),
                irq: cfg.irq,
                irq_order: Mutex::new(()),
                chardev: cfg.chardev,
                state: Mutex::new(State {
                    chip: Chip::new(),
                    sending: false,
                    writable: false,
                    input_waits: false,
                    paused: false,
                    timeout_for: None,
                }),
                timeout,
            }
        });
        if let Some(c) = &uart.chardev {
            let weak = Arc::downgrade(&uart);
            c.on_writable(Arc::new(move || {
                if let Some(u) = weak.upgrade() {
                    u.state.lock().writable = true;
                    u.send();
                    u.sync();
                }
            }));
            c.attach(Arc::new(Front(Arc::downgrade(&uart))))?;
        }
        Ok(uart)
    }

    /// Hands what the transmitter holds to the back end, until that takes no more.
    fn send(&self) {
        let mut buf = [0; FIFO_SIZE];
        let mut s = self.state.lock();
        while !s.sending && !s.chip.tx_pending().is_empty() {
            let n = s.chip.tx_pending().len().min(buf.len());
            buf.iter_mut().zip(s.chip.tx_pending()).for_each(|(b, v)| *b = *v);
            s.sending = true;
            s.writable = false;
            drop(s);
            let taken = self.chardev.as_ref().map_or(n, |c| c.write(&buf[..n]).min(n));
            s = self.state.lock();
            s.sending = false;
            s.chip.tx_done(taken);
            if taken == 0 && !s.writable {
                return;
            }
        }
    }

    /// Brings the interrupt line and the timeout to what the chip's state asks for, and calls the back end if it waits
    /// for room.
    fn sync(&self) {
        {
            let _order = self.irq_order.lock();
            let mut s = self.state.lock();
            let level = s.chip.irq();
            let wanted = s.chip.timeout_chars();
            let queued = wanted.map(|_| s.chip.rx_len());
            if queued != s.timeout_for {
                s.timeout_for = queued;
                match wanted {
                    Some(chars) => {
                        let bits = u64::from(chars * s.chip.char_bits());
                        let ns = bits * u64::from(s.chip.divisor()) * 16 * 1_000_000_000
                            / u64::from(self.clock_hz);
                        self.timeout.arm_after(ns);
                    }
                    None => self.timeout.cancel(),
                }
            }
            drop(s);
            self.irq.set(level);
        }
        let woken = {
            let mut s = self.state.lock();
            s.room() > 0 && std::mem::take(&mut s.input_waits)
        };
        if woken && let Some(c) = &self.chardev {
            c.accept_input();
        }
    }
}

impl Mmio for Uart16550 {
    // Only the low byte lane is wired: a wide access reaches one register.
    fn read(&self, off: u64, _size: Size) -> u64 {
        let v = self.state.lock().chip.read(off as u8 & 7);
        self.sync();
        v.into()
    }

    fn write(&self, off: u64, value: u64, _size: Size) {
        self.state.lock().chip.write(off as u8 & 7, value as u8);
        self.send();
        self.sync();
    }

    fn name(&self) -> &str {
        &self.name
    }
}

impl Device for Uart16550 {
    fn reset(&self, _kind: Reset) {
        {
            let mut s = self.state.lock();
            s.chip = Chip::new();
            s.timeout_for = None;
        }
        self.timeout.cancel();
        self.sync();
    }

    fn pause(&self) -> BoxFuture<'_> {
        self.state.lock().paused = true;
        Box::pin(std::future::ready(()))
    }

    fn resume(&self) {
        self.state.lock().paused = false;
        self.send();
        self.sync();
    }

    fn save(&self) -> StateBlob {
        self.state.lock().chip.save().to_blob()
    }

    fn load(&self, state: &StateBlob) -> Result<(), StateError> {
        let saved = Uart16550State::from_blob(state)?;
        let chip = Chip::restore(&saved).ok_or_else(|| StateError::new("uart16550: an impossible state"))?;
        {
            let mut s = self.state.lock();
            s.chip = chip;
            s.timeout_for = None;
        }
        self.timeout.cancel();
        self.sync();
        Ok(())
    }

    fn name(&self) -> &str {
        &self.name
    }
}

/// What the back end sees; it does not keep the UART alive.
struct Front(Weak<Uart16550>);

impl CharFrontend for Front {
    fn room(&self) -> usize {
        let Some(u) = self.0.upgrade() else { return 0 };
        let mut s = u.state.lock();
        let room = s.room();
        s.input_waits |= room == 0;
        room
    }

    fn receive(&self, bytes: &[u8]) {
        if let Some(u) = self.0.upgrade() {
            {
                let mut s = u.state.lock();
                bytes.iter().for_each(|b| s.chip.receive(*b));
                s.input_waits |= s.room() == 0;
            }
            u.sync();
        }
    }

    fn event(&self, event: CharEvent) {
        if event == CharEvent::Break
            && let Some(u) = self.0.upgrade()
        {
            u.state.lock().chip.receive_break();
            u.sync();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::spec::{fcr, ier, iir, lsr, mcr, reg};
    use super::*;
    use device::{ClockSource, IrqSink};
    use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};

    /// A back end that takes a limited number of bytes.
    #[derive(Default)]
    struct Peer {
        out: Mutex<Vec<u8>>,
        takes: AtomicUsize,
        accepts: AtomicUsize,
        front: Mutex<Option<Arc<dyn CharFrontend>>>,
        writable: Mutex<Option<Arc<dyn Fn() + Send + Sync>>>,
    }

    impl Peer {
        fn front(&self) -> Arc<dyn CharFrontend> {
            self.front.lock().clone().unwrap()
        }

        fn make_room(&self, n: usize) {
            self.takes.store(n, SeqCst);
            let f = self.writable.lock().clone().unwrap();
            f();
        }
    }

    impl CharBackend for Peer {
        fn id(&self) -> &str {
            "peer"
        }
        fn attach(&self, front: Arc<dyn CharFrontend>) -> Result<(), QError> {
            *self.front.lock() = Some(front);
            Ok(())
        }
        fn detach(&self) {
            *self.front.lock() = None;
        }
        fn write(&self, bytes: &[u8]) -> usize {
            let n = bytes.len().min(self.takes.load(SeqCst));
            self.takes.fetch_sub(n, SeqCst);
            self.out.lock().extend(&bytes[..n]);
            n
        }
        fn accept_input(&self) {
            self.accepts.fetch_add(1, SeqCst);
        }
        fn on_writable(&self, f: Arc<dyn Fn() + Send + Sync>) {
            *self.writable.lock() = Some(f);
        }
    }

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

    struct Rig {
        uart: Arc<Uart16550>,
        peer: Arc<Peer>,
        pin: Arc<Pin>,
        clock: Arc<Hand>,
        timers: TimerService,
    }

    impl Rig {
        fn new(takes: usize) -> Rig {
            let (peer, pin, clock) =
                (Arc::new(Peer::default()), Arc::new(Pin::default()), Arc::new(Hand::default()));
            peer.takes.store(takes, SeqCst);
            let timers = TimerService::manual(clock.clone());
            let cfg = UartConfig {
                name: "serial".into(),
                clock_hz: 3_686_400,
                irq: IrqLine::new(pin.clone(), 0),
                chardev: Some(peer.clone()),
            };
            let uart = Uart16550::new(cfg, &timers).unwrap();
            uart.reset(Reset::Cold);
            Rig { uart, peer, pin, clock, timers }
        }

        fn w(&self, r: u8, v: u8) {
            Mmio::write(&*self.uart, r.into(), v.into(), Size::B1);
        }

        fn r(&self, r: u8) -> u8 {
            Mmio::read(&*self.uart, r.into(), Size::B1) as u8
        }

        fn irq(&self) -> bool {
            self.pin.0.load(SeqCst)
        }
    }

    #[test]
    fn bytes_go_out_and_a_slow_back_end_holds_the_transmitter() {
        let t = Rig::new(3);
        t.w(reg::FCR, fcr::ENABLE);
        t.w(reg::IER, ier::ETBEI);
        t.r(reg::IIR);
        for b in b"hello" {
            t.w(reg::THR, *b);
        }
        assert_eq!(*t.peer.out.lock(), b"hel");
        assert_eq!(t.r(reg::LSR) & (lsr::THRE | lsr::TEMT), 0);
        assert!(!t.irq());
        t.peer.make_room(1);
        assert_eq!(*t.peer.out.lock(), b"hell");
        t.peer.make_room(100);
        assert_eq!(*t.peer.out.lock(), b"hello");
        assert_eq!(t.r(reg::LSR) & lsr::THRE, lsr::THRE);
        assert!(t.irq());
    }

    #[test]
    fn input_waits_for_room_and_is_asked_for_again() {
        let t = Rig::new(100);
        let f = t.peer.front();
        assert_eq!(f.room(), 1);
        f.receive(b"a");
        assert_eq!((f.room(), t.peer.accepts.load(SeqCst)), (0, 0));
        assert_eq!(t.r(reg::RBR), b'a');
        assert_eq!(t.peer.accepts.load(SeqCst), 1);
        t.w(reg::MCR, mcr::LOOP);
        assert_eq!(f.room(), 0);
        t.w(reg::MCR, 0);
        assert_eq!((f.room(), t.peer.accepts.load(SeqCst)), (1, 2));
        t.w(reg::FCR, fcr::ENABLE);
        assert_eq!(f.room(), 16);
    }

    #[test]
    fn the_character_timeout_takes_four_characters_of_guest_time() {
        let t = Rig::new(0);
        t.w(reg::LCR, 3);
        t.w(reg::FCR, fcr::ENABLE | 0xc0);
        t.w(reg::IER, ier::ERBFI);
        t.peer.front().receive(b"ab");
        t.timers.run_due();
        assert!(!t.irq());
        // 40 bits at 3686400 / 16 / 12 = 19200 baud: 2083 µs.
        t.clock.0.store(2_083_000, SeqCst);
        t.timers.run_due();
        assert!(!t.irq());
        t.clock.0.store(2_084_000, SeqCst);
        t.timers.run_due();
        assert!(t.irq());
        assert_eq!(t.r(reg::IIR) & 0x0f, iir::CTI);
    }

    #[test]
    fn a_pause_keeps_input_outside() {
        let t = Rig::new(100);
        let f = t.peer.front();
        drop(t.uart.pause());
        let before = t.uart.save();
        assert_eq!((f.room(), t.uart.save()), (0, before));
        t.uart.resume();
        assert_eq!((f.room(), t.peer.accepts.load(SeqCst)), (1, 1));
    }

    #[test]
    fn a_break_arrives_and_reset_is_as_fresh() {
        let t = Rig::new(0);
        t.w(reg::IER, ier::ELSI | ier::ETBEI);
        t.peer.front().event(CharEvent::Break);
        t.w(reg::THR, b'x');
        assert!(t.irq());
        assert_eq!(t.r(reg::LSR) & lsr::BI, lsr::BI);
        t.uart.reset(Reset::Warm);
        assert!(!t.irq());
        assert_eq!(t.uart.save(), Rig::new(0).uart.save());
    }

    #[test]
    fn state_moves_to_another_uart() {
        let t = Rig::new(0);
        t.w(reg::FCR, fcr::ENABLE);
        t.w(reg::IER, ier::ERBFI);
        t.w(reg::THR, b'x');
        t.peer.front().receive(b"in");
        let saved = t.uart.save();
        let u = Rig::new(100);
        u.uart.load(&saved).unwrap();
        assert_eq!(u.uart.save(), saved);
        assert!(u.irq(), "the line follows");
        u.uart.resume();
        assert_eq!(*u.peer.out.lock(), b"x", "what was not sent goes out here");
        assert!(u.uart.load(&StateBlob::empty("other")).is_err());
    }

    #[test]
    fn bytes_of_many_threads_all_arrive() {
        let t = Rig::new(usize::MAX >> 1);
        t.w(reg::FCR, fcr::ENABLE);
        std::thread::scope(|s| {
            for _ in 0..3 {
                s.spawn(|| {
                    for _ in 0..500 {
                        while t.r(reg::LSR) & lsr::THRE == 0 {
                            std::thread::yield_now();
                        }
                        t.w(reg::THR, b'.');
                    }
                });
            }
        });
        // Three writers may find the FIFO free at the same time; it has room for all of them.
        assert_eq!(t.peer.out.lock().len(), 1500);
        assert_eq!(t.r(reg::LSR) & lsr::TEMT, lsr::TEMT);
    }
}
