//! Registers of the Goldfish real-time clock (Android's documentation, "GOLDFISH VIRTUAL HARDWARE", goldfish_rtc).

/// Low half of the time in nanoseconds since 1970; reading it latches the high half.
pub const TIME_LOW: u64 = 0x00;
/// High half of the time; when written, it is to be written before the low half.
pub const TIME_HIGH: u64 = 0x04;
/// Low half of the alarm; writing it sets the alarm.
pub const ALARM_LOW: u64 = 0x08;
/// High half of the alarm, written first.
pub const ALARM_HIGH: u64 = 0x0c;
/// Bit 0: the alarm's interrupt is let through.
pub const IRQ_ENABLED: u64 = 0x10;
/// Any write takes the alarm away.
pub const CLEAR_ALARM: u64 = 0x14;
/// Reads 1 while an alarm is set.
pub const ALARM_STATUS: u64 = 0x18;
/// Any write takes the interrupt back.
pub const CLEAR_INTERRUPT: u64 = 0x1c;
/// The registers' length.
pub const LEN: u64 = 0x24;
