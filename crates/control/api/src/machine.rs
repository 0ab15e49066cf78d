//! The machine: identity, reset and power.

use qapi::Qapi;

/// Returns the machine's UUID.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
#[qapi(command = "query-uuid", ret = UuidInfo)]
pub struct QueryUuid;

/// A machine's UUID.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
pub struct UuidInfo {
    /// The UUID of the option `-uuid`, or zeroes.
    #[qapi(name = "UUID")]
    pub uuid: String,
}

/// Resets the machine, as its reset button would.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
#[qapi(command = "system_reset")]
pub struct SystemReset;

/// Asks the guest to power down, as its power button would; a guest may ignore that.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
#[qapi(command = "system_powerdown")]
pub struct SystemPowerdown;
