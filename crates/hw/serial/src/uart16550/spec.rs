//! Registers of the PC16550D (National Semiconductor's data sheet "PC16550D Universal Asynchronous
//! Receiver/Transmitter with FIFOs", section 8).

/// Register numbers: the address lines A2..A0.
pub mod reg {
    /// Receiver buffer (read), with DLAB = 0.
    pub const RBR: u8 = 0;
    /// Transmitter holding register (write), with DLAB = 0.
    pub const THR: u8 = 0;
    /// Divisor latch, low byte, with DLAB = 1.
    pub const DLL: u8 = 0;
    /// Interrupt enable, with DLAB = 0.
    pub const IER: u8 = 1;
    /// Divisor latch, high byte, with DLAB = 1.
    pub const DLM: u8 = 1;
    /// Interrupt identification (read).
    pub const IIR: u8 = 2;
    /// FIFO control (write).
    pub const FCR: u8 = 2;
    /// Line control.
    pub const LCR: u8 = 3;
    /// Modem control.
    pub const MCR: u8 = 4;
    /// Line status.
    pub const LSR: u8 = 5;
    /// Modem status.
    pub const MSR: u8 = 6;
    /// Scratch.
    pub const SCR: u8 = 7;
}

/// Interrupt enable register (8.7).
pub mod ier {
    /// Received data available, and the character timeout of the FIFO mode.
    pub const ERBFI: u8 = 0x01;
    /// Transmitter holding register empty.
    pub const ETBEI: u8 = 0x02;
    /// Receiver line status.
    pub const ELSI: u8 = 0x04;
    /// Modem status.
    pub const EDSSI: u8 = 0x08;
    /// The bits that exist.
    pub const MASK: u8 = 0x0f;
}

/// Interrupt identification register (8.6); priorities from high to low are RLS, RDA and CTI, THRE, MS.
pub mod iir {
    /// No interrupt is pending.
    pub const NONE: u8 = 0x01;
    /// Receiver line status.
    pub const RLS: u8 = 0x06;
    /// Received data available.
    pub const RDA: u8 = 0x04;
    /// Character timeout.
    pub const CTI: u8 = 0x0c;
    /// Transmitter holding register empty.
    pub const THRE: u8 = 0x02;
    /// Modem status.
    pub const MS: u8 = 0x00;
    /// Both bits are set while the FIFOs are enabled.
    pub const FIFOS: u8 = 0xc0;
}

/// FIFO control register (8.5).
pub mod fcr {
    /// Enables both FIFOs; the other bits are taken only together with it.
    pub const ENABLE: u8 = 0x01;
    /// Clears the receiver FIFO; clears itself.
    pub const RX_RESET: u8 = 0x02;
    /// Clears the transmitter FIFO; clears itself.
    pub const TX_RESET: u8 = 0x04;
    /// DMA mode; no pin of it is wired.
    pub const DMA: u8 = 0x08;
    /// The receiver's trigger level: 1, 4, 8 or 14 characters.
    pub const TRIGGER: u8 = 0xc0;
}

/// Line control register (8.1).
pub mod lcr {
    /// Word length: 5 to 8 bits.
    pub const WLS: u8 = 0x03;
    /// Two stop bits (one and a half with five data bits).
    pub const STB: u8 = 0x04;
    /// Parity bit.
    pub const PEN: u8 = 0x08;
    /// Break control.
    pub const BREAK: u8 = 0x40;
    /// Divisor latch access.
    pub const DLAB: u8 = 0x80;
}

/// Modem control register (8.8).
pub mod mcr {
    /// Data terminal ready.
    pub const DTR: u8 = 0x01;
    /// Request to send.
    pub const RTS: u8 = 0x02;
    /// Auxiliary output 1.
    pub const OUT1: u8 = 0x04;
    /// Auxiliary output 2.
    pub const OUT2: u8 = 0x08;
    /// Loopback for diagnosis.
    pub const LOOP: u8 = 0x10;
    /// The bits that exist.
    pub const MASK: u8 = 0x1f;
}

/// Line status register (8.4).
pub mod lsr {
    /// Data ready.
    pub const DR: u8 = 0x01;
    /// Overrun error.
    pub const OE: u8 = 0x02;
    /// Parity error.
    pub const PE: u8 = 0x04;
    /// Framing error.
    pub const FE: u8 = 0x08;
    /// Break interrupt.
    pub const BI: u8 = 0x10;
    /// Transmitter holding register (or FIFO) empty.
    pub const THRE: u8 = 0x20;
    /// Transmitter empty, shift register included.
    pub const TEMT: u8 = 0x40;
    /// At least one error somewhere in the receiver FIFO.
    pub const FIFO_ERROR: u8 = 0x80;
    /// What raises the receiver line status interrupt.
    pub const ERRORS: u8 = OE | PE | FE | BI;
}

/// Modem status register (8.9).
pub mod msr {
    /// CTS has changed.
    pub const DCTS: u8 = 0x01;
    /// DSR has changed.
    pub const DDSR: u8 = 0x02;
    /// RI went from low to high.
    pub const TERI: u8 = 0x04;
    /// DCD has changed.
    pub const DDCD: u8 = 0x08;
    /// Clear to send.
    pub const CTS: u8 = 0x10;
    /// Data set ready.
    pub const DSR: u8 = 0x20;
    /// Ring indicator.
    pub const RI: u8 = 0x40;
    /// Data carrier detect.
    pub const DCD: u8 = 0x80;
    /// The four change bits, which a read clears.
    pub const DELTAS: u8 = 0x0f;
}

/// Characters that each FIFO holds.
pub const FIFO_SIZE: usize = 16;
