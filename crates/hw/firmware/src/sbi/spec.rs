//! Numbers of the RISC-V Supervisor Binary Interface specification 2.0.

/// The version that is implemented, as `sbi_get_spec_version` gives it.
pub const VERSION: u64 = 2 << 24;
/// The implementation's number, "Rhea"; it is not in the specification's list.
pub const IMPLEMENTATION: u64 = 0x5268_6561;

/// Extensions.
pub mod ext {
    /// Legacy: set the timer.
    pub const LEGACY_SET_TIMER: u64 = 0;
    /// Legacy: write a character.
    pub const LEGACY_PUTCHAR: u64 = 1;
    /// Legacy: read a character.
    pub const LEGACY_GETCHAR: u64 = 2;
    /// Legacy: clear the hart's own software interrupt.
    pub const LEGACY_CLEAR_IPI: u64 = 3;
    /// Legacy: shut the machine down.
    pub const LEGACY_SHUTDOWN: u64 = 8;
    /// Base.
    pub const BASE: u64 = 0x10;
    /// "TIME": timer.
    pub const TIME: u64 = 0x5449_4d45;
    /// "sPI": inter-processor interrupts.
    pub const IPI: u64 = 0x0073_5049;
    /// "RFNC": remote fences.
    pub const RFENCE: u64 = 0x5246_4e43;
    /// "HSM": hart state management.
    pub const HSM: u64 = 0x0048_534d;
    /// "SRST": system reset.
    pub const SRST: u64 = 0x5352_5354;
    /// "DBCN": debug console.
    pub const DBCN: u64 = 0x4442_434e;
    /// All that a probe finds.
    pub const ALL: [u64; 12] = [
        LEGACY_SET_TIMER,
        LEGACY_PUTCHAR,
        LEGACY_GETCHAR,
        LEGACY_CLEAR_IPI,
        LEGACY_SHUTDOWN,
        BASE,
        TIME,
        IPI,
        RFENCE,
        HSM,
        SRST,
        DBCN,
    ];
}

/// Standard error codes.
pub mod err {
    /// No error.
    pub const SUCCESS: i64 = 0;
    /// It failed, for no reason of the following.
    pub const FAILED: i64 = -1;
    /// There is no such call.
    pub const NOT_SUPPORTED: i64 = -2;
    /// A parameter is wrong.
    pub const INVALID_PARAM: i64 = -3;
    /// An address is not usable.
    pub const INVALID_ADDRESS: i64 = -5;
    /// It is available already.
    pub const ALREADY_AVAILABLE: i64 = -6;
    /// It is started already.
    pub const ALREADY_STARTED: i64 = -7;
}

/// States of harts in the HSM extension.
pub mod hart {
    /// Runs.
    pub const STARTED: u64 = 0;
    /// Stands still until it is started.
    pub const STOPPED: u64 = 1;
    /// Is about to run.
    pub const START_PENDING: u64 = 2;
    /// Sleeps until an interrupt.
    pub const SUSPENDED: u64 = 4;
    /// Suspend type: keeps its state and returns.
    pub const RETENTIVE: u64 = 0;
    /// Suspend type: starts anew at an address.
    pub const NON_RETENTIVE: u64 = 0x8000_0000;
}

/// Types of system resets.
pub mod reset {
    /// Power off.
    pub const SHUTDOWN: u64 = 0;
    /// Power-cycle.
    pub const COLD_REBOOT: u64 = 1;
    /// Reset the processors only.
    pub const WARM_REBOOT: u64 = 2;
    /// Reason: none.
    pub const NO_REASON: u64 = 0;
    /// Reason: the system failed.
    pub const SYSTEM_FAILURE: u64 = 1;
}
