//! The events of block devices.

use qapi::Qapi;

/// A direction of I/O.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Qapi)]
pub enum IoOperationType {
    /// Reading.
    #[default]
    Read,
    /// Writing.
    Write,
}

/// What was done about an I/O error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Qapi)]
pub enum BlockErrorAction {
    /// Nothing: the guest was told that all is well.
    Ignore,
    /// The guest was told of the error.
    #[default]
    Report,
    /// The machine was stopped; the request is tried again when it goes on.
    Stop,
}

/// A guest's disk met an I/O error.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
#[qapi(event = "BLOCK_IO_ERROR")]
pub struct BlockIoErrorEvent {
    /// The object path of the disk.
    pub qom_path: String,
    /// The name of the block backend; may be empty.
    pub device: String,
    /// The node that the disk is on; missing where it is on none.
    pub node_name: Option<String>,
    /// Whether it was reading or writing.
    pub operation: IoOperationType,
    /// What was done.
    pub action: BlockErrorAction,
    /// Whether the cause was that no space was left; missing where errors do not stop the machine.
    pub nospace: Option<bool>,
    /// The cause, for people.
    pub reason: String,
}
