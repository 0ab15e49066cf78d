//! The console device's numbers (section 5.3), under their names.

/// Several ports, and the control queues.
pub(super) const F_MULTIPORT: u64 = 1 << 1;
/// `emerg_wr` is there.
pub(super) const F_EMERG_WRITE: u64 = 1 << 2;

/// Driver: it is ready for ports.
pub(super) const DEVICE_READY: u16 = 0;
/// Device: there is a port.
pub(super) const DEVICE_ADD: u16 = 1;
/// Driver: it is ready for the port's events.
pub(super) const PORT_READY: u16 = 3;
/// Device: the port is a console.
pub(super) const CONSOLE_PORT: u16 = 4;
/// Both: the port was opened or closed on the sender's side.
pub(super) const PORT_OPEN: u16 = 6;
/// Device: the port's name follows.
pub(super) const PORT_NAME: u16 = 7;

/// A control message: port u32, event u16, value u16.
pub(super) const CONTROL: usize = 8;

/// The control queues: to the driver, and from it.
pub(super) const CONTROL_RX: u16 = 2;
pub(super) const CONTROL_TX: u16 = 3;

/// The queue to the driver of port `nr`; the one from it follows.
pub(super) fn port_queue(nr: u32) -> u16 {
    // At most 511 ports.
    if nr == 0 { 0 } else { (2 + 2 * nr) as u16 }
}

/// Offsets in the configuration space.
pub(super) mod config {
    pub(in crate::console) const MAX_NR_PORTS: usize = 4;
    pub(in crate::console) const EMERG_WR: u64 = 8;
    pub(in crate::console) const LEN: usize = 12;
}
