//! Numbers of ublk's interface: `linux/ublk_cmd.h`, and "Userspace block device driver (ublk driver)" in the kernel's
//! documentation.

/// Command: make a device.
pub const ADD_DEV: u8 = 0x04;
/// Command: remove it, when everybody has closed its queues' side.
pub const DEL_DEV: u8 = 0x05;
/// Command: show the disk, when all tags are in service. The number that comes along is the server's process id.
pub const START_DEV: u8 = 0x06;
/// Command: take the disk away, after its last request.
pub const STOP_DEV: u8 = 0x07;
/// Command: say what the disk is like.
pub const SET_PARAMS: u8 = 0x08;

/// The device's number that asks for any that is free.
pub const ANY_DEVICE: u32 = u32::MAX;

/// Bytes of the sectors that requests and lengths are counted in.
pub const SECTOR: u64 = 512;

/// Request: read.
pub const OP_READ: u8 = 0;
/// Request: write.
pub const OP_WRITE: u8 = 1;
/// Request: make stable what was written.
pub const OP_FLUSH: u8 = 2;
/// Request: the contents are not needed any more.
pub const OP_DISCARD: u8 = 3;
/// Request: write zeroes.
pub const OP_WRITE_ZEROES: u8 = 5;

/// Of a request: it is to be stable when it is answered.
pub const FLAG_FUA: u32 = 1 << 13;
/// Of zeroes: the space is to stay allocated.
pub const FLAG_NOUNMAP: u32 = 1 << 15;

/// There are basic parameters.
pub const PARAM_BASIC: u32 = 1;
/// There are parameters of discarding.
pub const PARAM_DISCARD: u32 = 2;

/// The disk cannot be written.
pub const ATTR_READ_ONLY: u32 = 1;
/// Writes are stable after a flush only.
pub const ATTR_VOLATILE_CACHE: u32 = 1 << 2;
/// [`FLAG_FUA`] may come.
pub const ATTR_FUA: u32 = 1 << 3;
