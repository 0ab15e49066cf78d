//! The machine: reset and power.

use qapi::Qapi;

/// Resets the machine, as its reset button would.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
#[qapi(command = "system_reset")]
pub struct SystemReset;

/// Asks the guest to power down, as its power button would; a guest may ignore that.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
#[qapi(command = "system_powerdown")]
pub struct SystemPowerdown;
