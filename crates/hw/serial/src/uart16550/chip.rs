//! The PC16550D as a pure state machine.
//!
//! The chip knows no time: [`Chip::timeout_chars`] says that its character timeout should run, and the glue calls
//! [`Chip::character_timeout`] when that much of guest time has passed. The line is infinitely fast: a byte leaves the
//! transmitter as soon as the glue takes it, so a slow back end shows as a transmitter that stays busy.

use super::spec::{FIFO_SIZE, fcr, ier, iir, lcr, lsr, mcr, msr, reg};
use device::StateBytes;
use std::collections::VecDeque;

/// The line inputs of the other end while nothing is looped back: somebody is there and ready.
const LINE_INPUTS: u8 = msr::CTS | msr::DSR | msr::DCD;

/// A received character with its error bits (`LSR.PE | FE | BI`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rx {
    byte: u8,
    errors: u8,
}

/// What is not derived from something else; also what a saved state holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chip {
    divisor: u16,
    ier: u8,
    fcr: u8,
    lcr: u8,
    mcr: u8,
    scr: u8,
    msr: u8,
    /// `LSR.OE`, and the error bits of the character on top that the driver has not read yet.
    errors: u8,
    rx: VecDeque<Rx>,
    tx: VecDeque<u8>,
    /// The latched "transmitter holding register empty" interrupt.
    thre_pending: bool,
    /// The latched character timeout.
    timeout_pending: bool,
}

impl Default for Chip {
    fn default() -> Self {
        Self::new()
    }
}

impl Chip {
    /// A chip after master reset (data sheet, table III), with the divisor for 9600 baud of a PC's clock.
    pub fn new() -> Chip {
        Chip {
            divisor: 0x0c,
            ier: 0,
            fcr: 0,
            lcr: 0,
            mcr: mcr::OUT2,
            scr: 0,
            msr: LINE_INPUTS,
            errors: 0,
            rx: VecDeque::with_capacity(FIFO_SIZE),
            tx: VecDeque::with_capacity(FIFO_SIZE),
            thre_pending: false,
            timeout_pending: false,
        }
    }

    fn fifo(&self) -> bool {
        self.fcr & fcr::ENABLE != 0
    }

    fn dlab(&self) -> bool {
        self.lcr & lcr::DLAB != 0
    }

    /// Whether the transmitter is wired to the receiver.
    pub fn loopback(&self) -> bool {
        self.mcr & mcr::LOOP != 0
    }

    fn capacity(&self) -> usize {
        if self.fifo() { FIFO_SIZE } else { 1 }
    }

    fn trigger(&self) -> usize {
        if !self.fifo() {
            return 1;
        }
        [1, 4, 8, 14][usize::from(self.fcr >> 6)]
    }

    /// How many characters the receiver takes without an overrun. None in loopback: its input is cut off, and a host's
    /// bytes wait rather than vanish.
    pub fn room(&self) -> usize {
        if self.loopback() { 0 } else { self.capacity().saturating_sub(self.rx.len()) }
    }

    /// How many received characters wait to be read.
    pub fn rx_len(&self) -> usize {
        self.rx.len()
    }

    /// A character arrives from outside; in loopback it is lost, as on the wire.
    pub fn receive(&mut self, byte: u8) {
        if !self.loopback() {
            self.push_rx(Rx { byte, errors: 0 });
        }
    }

    /// A break condition arrives from outside: one zero character marked so.
    pub fn receive_break(&mut self) {
        if !self.loopback() {
            self.push_rx(Rx { byte: 0, errors: lsr::BI });
        }
    }

    fn push_rx(&mut self, c: Rx) {
        self.timeout_pending = false;
        if self.rx.len() >= self.capacity() {
            self.errors |= lsr::OE;
            if !self.fifo() {
                // Without FIFOs the new character overwrites the old one.
                self.rx.clear();
            } else {
                return;
            }
        }
        if self.rx.is_empty() {
            self.errors |= c.errors;
        }
        self.rx.push_back(c);
    }

    /// The characters to send, oldest first.
    pub fn tx_pending(&self) -> &VecDeque<u8> {
        &self.tx
    }

    /// The back end took the oldest `n` characters.
    ///
    /// A FIFO that was cleared meanwhile has fewer; what is gone is gone.
    pub fn tx_done(&mut self, n: usize) {
        let n = n.min(self.tx.len());
        self.tx.drain(..n);
        if n > 0 && self.tx.is_empty() {
            self.thre_pending = true;
        }
    }

    /// The character timeout has run out (data sheet 8.11, "RCVR FIFO timeout").
    pub fn character_timeout(&mut self) {
        if self.timeout_runs() {
            self.timeout_pending = true;
        }
    }

    fn timeout_runs(&self) -> bool {
        self.fifo() && !self.rx.is_empty() && !self.timeout_pending
    }

    /// `Some(4)` while the timeout runs: four character times after the last character came in or was read.
    pub fn timeout_chars(&self) -> Option<u32> {
        (self.timeout_runs() && self.rx.len() < self.trigger()).then_some(4)
    }

    /// Bit times of one character: start, data, parity and stop bits.
    pub fn char_bits(&self) -> u32 {
        let data = 5 + u32::from(self.lcr & lcr::WLS);
        let stop = if self.lcr & lcr::STB != 0 { 2 } else { 1 };
        1 + data + u32::from(self.lcr & lcr::PEN != 0) + stop
    }

    /// The divisor of the baud generator, at least one.
    pub fn divisor(&self) -> u16 {
        self.divisor.max(1)
    }

    /// The interrupt that the identification register shows, by priority.
    fn pending(&self) -> u8 {
        if self.ier & ier::ELSI != 0 && self.errors & lsr::ERRORS != 0 {
            iir::RLS
        } else if self.ier & ier::ERBFI != 0 && self.rx.len() >= self.trigger() {
            iir::RDA
        } else if self.ier & ier::ERBFI != 0 && self.timeout_pending {
            iir::CTI
        } else if self.ier & ier::ETBEI != 0 && self.thre_pending {
            iir::THRE
        } else if self.ier & ier::EDSSI != 0 && self.msr & msr::DELTAS != 0 {
            iir::MS
        } else {
            iir::NONE
        }
    }

    /// The level of the INTR pin.
    pub fn irq(&self) -> bool {
        self.pending() != iir::NONE
    }

    fn line_status(&self) -> u8 {
        let mut v = self.errors;
        if !self.rx.is_empty() {
            v |= lsr::DR;
        }
        if self.tx.is_empty() {
            v |= lsr::THRE | lsr::TEMT;
        }
        if self.fifo()
            && (self.errors & (lsr::ERRORS & !lsr::OE) != 0 || self.rx.iter().any(|c| c.errors != 0))
        {
            v |= lsr::FIFO_ERROR;
        }
        v
    }

    /// Reads register `r` (0..8).
    pub fn read(&mut self, r: u8) -> u8 {
        match r {
            reg::DLL if self.dlab() => self.divisor as u8,
            reg::RBR => self.read_data(),
            reg::DLM if self.dlab() => (self.divisor >> 8) as u8,
            reg::IER => self.ier,
            reg::IIR => {
                let id = self.pending();
                if id == iir::THRE {
                    self.thre_pending = false;
                }
                id | if self.fifo() { iir::FIFOS } else { 0 }
            }
            reg::LCR => self.lcr,
            reg::MCR => self.mcr,
            reg::LSR => {
                let v = self.line_status();
                self.errors = 0;
                // The errors of the character on top have been told.
                if let Some(c) = self.rx.front_mut() {
                    c.errors = 0;
                }
                v
            }
            reg::MSR => {
                let v = self.msr;
                self.msr &= !msr::DELTAS;
                v
            }
            _ => self.scr,
        }
    }

    fn read_data(&mut self) -> u8 {
        self.timeout_pending = false;
        let byte = self.rx.pop_front().map_or(0, |c| c.byte);
        // The next character's errors show when it comes to the top; those of the one taken away go with it.
        self.errors &= lsr::OE;
        if let Some(c) = self.rx.front() {
            self.errors |= c.errors;
        }
        byte
    }

    /// Writes register `r` (0..8).
    pub fn write(&mut self, r: u8, v: u8) {
        match r {
            reg::DLL if self.dlab() => self.divisor = self.divisor & 0xff00 | u16::from(v),
            reg::THR => self.write_data(v),
            reg::DLM if self.dlab() => self.divisor = self.divisor & 0x00ff | u16::from(v) << 8,
            reg::IER => {
                let v = v & ier::MASK;
                // Enabling the interrupt while the register is empty raises it at once.
                if v & !self.ier & ier::ETBEI != 0 && self.tx.is_empty() {
                    self.thre_pending = true;
                }
                self.ier = v;
            }
            reg::FCR => self.write_fifo_control(v),
            reg::LCR => self.lcr = v,
            reg::MCR => self.write_modem_control(v & mcr::MASK),
            reg::LSR | reg::MSR => {} // Meant for factory tests; driver writes have no effect.
            _ => self.scr = v,
        }
    }

    fn write_data(&mut self, v: u8) {
        self.thre_pending = false;
        if self.loopback() {
            // Only as many bits as a character has travel round the loop.
            let mask = 0xff >> (3 - (self.lcr & lcr::WLS));
            self.push_rx(Rx { byte: v & mask, errors: 0 });
            self.thre_pending = true;
            return;
        }
        if self.tx.len() >= self.capacity() {
            // The driver wrote without looking: the newest character is overwritten.
            self.tx.pop_back();
        }
        self.tx.push_back(v);
    }

    fn write_fifo_control(&mut self, v: u8) {
        let toggled = (v ^ self.fcr) & fcr::ENABLE != 0;
        let enabled = v & fcr::ENABLE != 0;
        if toggled || enabled && v & fcr::RX_RESET != 0 {
            self.rx.clear();
            self.timeout_pending = false;
            self.errors &= lsr::OE;
        }
        if toggled || enabled && v & fcr::TX_RESET != 0 {
            let busy = !self.tx.is_empty();
            self.tx.clear();
            self.thre_pending |= busy;
        }
        self.fcr = if enabled { v & (fcr::ENABLE | fcr::DMA | fcr::TRIGGER) } else { 0 };
    }

    fn write_modem_control(&mut self, v: u8) {
        self.mcr = v;
        let inputs = if v & mcr::LOOP != 0 {
            // 8.8: RTS feeds CTS, DTR feeds DSR, OUT1 feeds RI and OUT2 feeds DCD.
            let wire = |from: u8, to: u8| if v & from != 0 { to } else { 0 };
            wire(mcr::RTS, msr::CTS)
                | wire(mcr::DTR, msr::DSR)
                | wire(mcr::OUT1, msr::RI)
                | wire(mcr::OUT2, msr::DCD)
        } else {
            LINE_INPUTS
        };
        let changed = inputs ^ self.msr;
        let mut deltas = 0;
        if changed & msr::CTS != 0 {
            deltas |= msr::DCTS;
        }
        if changed & msr::DSR != 0 {
            deltas |= msr::DDSR;
        }
        // TERI: the trailing edge of RI, i.e. from asserted to not asserted.
        if changed & self.msr & msr::RI != 0 {
            deltas |= msr::TERI;
        }
        if changed & msr::DCD != 0 {
            deltas |= msr::DDCD;
        }
        self.msr = inputs | self.msr & msr::DELTAS | deltas;
    }

    /// The state as its published schema.
    pub fn save(&self) -> Uart16550State {
        Uart16550State {
            divisor: self.divisor,
            ier: self.ier,
            fcr: self.fcr,
            lcr: self.lcr,
            mcr: self.mcr,
            scr: self.scr,
            msr: self.msr,
            errors: self.errors,
            rx: StateBytes(self.rx.iter().map(|c| c.byte).collect()),
            rx_errors: StateBytes(self.rx.iter().map(|c| c.errors).collect()),
            tx: StateBytes(self.tx.iter().copied().collect()),
            thre_pending: self.thre_pending,
            timeout_pending: self.timeout_pending,
        }
    }

    /// The chip that [`Chip::save`] described; `None` if no chip can be in that state.
    pub fn restore(s: &Uart16550State) -> Option<Chip> {
        let rx = s.rx.0.iter().zip(&s.rx_errors.0).map(|(&byte, &errors)| Rx { byte, errors });
        let chip = Chip {
            divisor: s.divisor,
            ier: s.ier,
            fcr: s.fcr,
            lcr: s.lcr,
            mcr: s.mcr,
            scr: s.scr,
            msr: s.msr,
            errors: s.errors,
            rx: rx.collect(),
            tx: s.tx.0.iter().copied().collect(),
            thre_pending: s.thre_pending,
            timeout_pending: s.timeout_pending,
        };
        let fcr_bits = fcr::ENABLE | fcr::DMA | fcr::TRIGGER;
        let sound = chip.ier & !ier::MASK == 0
            && chip.mcr & !mcr::MASK == 0
            && chip.errors & !lsr::ERRORS == 0
            && (chip.fcr == 0 || chip.fcr & fcr::ENABLE != 0 && chip.fcr & !fcr_bits == 0)
            && s.rx.0.len() == s.rx_errors.0.len()
            && chip.rx.len() <= chip.capacity()
            && chip.rx.iter().all(|c| c.errors & !(lsr::ERRORS & !lsr::OE) == 0)
            && chip.tx.len() <= chip.capacity();
        sound.then_some(chip)
    }
}

device::saved_state! {
    /// The saved state of a 16550A: its registers by their names in the data sheet.
    pub struct Uart16550State: "uart16550", 1 {
        /// The divisor latch.
        pub divisor: u16,
        /// Interrupt enable.
        pub ier: u8,
        /// FIFO control, without the bits that clear themselves.
        pub fcr: u8,
        /// Line control.
        pub lcr: u8,
        /// Modem control.
        pub mcr: u8,
        /// Scratch.
        pub scr: u8,
        /// Modem status.
        pub msr: u8,
        /// The error bits of the line status.
        pub errors: u8,
        /// Received characters, oldest first.
        pub rx: StateBytes,
        /// The error bits of each of them.
        pub rx_errors: StateBytes,
        /// Characters to send, oldest first.
        pub tx: StateBytes,
        /// The latched transmitter interrupt.
        pub thre_pending: bool,
        /// The latched character timeout.
        pub timeout_pending: bool,
    }
}
