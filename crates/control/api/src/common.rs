//! Types that several schema files share.

use qapi::Qapi;

/// A choice that may be left to the program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Qapi)]
pub enum OnOffAuto {
    /// Whatever suits best.
    #[default]
    Auto,
    /// Switch it on; failing to is an error.
    On,
    /// Leave it off.
    Off,
}

/// A choice between two, one of which may be left to the program, and splitting.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Qapi)]
pub enum OnOffSplit {
    /// Switched on.
    On,
    /// Switched off.
    #[default]
    Off,
    /// Shared between the kernel and this program.
    Split,
}

/// Text, or nothing.
#[derive(Clone, Debug, PartialEq, Eq, Qapi)]
#[qapi(alternate)]
pub enum StrOrNull {
    /// Text.
    S(String),
    /// Nothing.
    N,
}
