//! Numbers of the vhost-user protocol, under its names. All on the wire is in the host's byte order; only little-endian
//! hosts are supported.

/// Feature: [`GET_PROTOCOL_FEATURES`] is known, and rings are to be enabled one by one.
pub const F_PROTOCOL_FEATURES: u64 = 1 << 30;

/// Protocol feature: several queues.
pub const P_MQ: u64 = 1 << 0;
/// Protocol feature: any message may ask for an answer.
pub const P_REPLY_ACK: u64 = 1 << 3;
/// Protocol feature: the back end may send messages.
pub const P_BACKEND_REQ: u64 = 1 << 5;
/// Protocol feature: the configuration space.
pub const P_CONFIG: u64 = 1 << 9;
/// Protocol feature: [`RESET_DEVICE`].
pub const P_RESET_DEVICE: u64 = 1 << 13;
/// Protocol feature: memory regions one by one.
pub const P_CONFIGURE_MEM_SLOTS: u64 = 1 << 15;

/// In a header's flags: the version, which is 1.
pub const VERSION_MASK: u32 = 3;
/// The version.
pub const VERSION: u32 = 1;
/// In a header's flags: an answer.
pub const FLAG_REPLY: u32 = 1 << 2;
/// In a header's flags: an answer is wanted in any case.
pub const FLAG_NEED_REPLY: u32 = 1 << 3;

/// In the payload of messages that hand over a ring's descriptor: its number.
pub const VRING_INDEX_MASK: u64 = 0xff;
/// In such a payload: there is no descriptor.
pub const VRING_NO_FD: u64 = 1 << 8;

/// The longest part of the configuration space that one message moves, bytes.
pub const MAX_CONFIG: usize = 256;
/// Most regions in one [`SET_MEM_TABLE`].
pub const MAX_REGIONS: usize = 8;
/// Longest payload that is looked at, bytes.
pub const MAX_PAYLOAD: usize = 1024;

#[allow(missing_docs)] // The names say it; the protocol explains them.
mod requests {
    pub const GET_FEATURES: u32 = 1;
    pub const SET_FEATURES: u32 = 2;
    pub const SET_OWNER: u32 = 3;
    pub const RESET_OWNER: u32 = 4;
    pub const SET_MEM_TABLE: u32 = 5;
    pub const SET_VRING_NUM: u32 = 8;
    pub const SET_VRING_ADDR: u32 = 9;
    pub const SET_VRING_BASE: u32 = 10;
    pub const GET_VRING_BASE: u32 = 11;
    pub const SET_VRING_KICK: u32 = 12;
    pub const SET_VRING_CALL: u32 = 13;
    pub const SET_VRING_ERR: u32 = 14;
    pub const GET_PROTOCOL_FEATURES: u32 = 15;
    pub const SET_PROTOCOL_FEATURES: u32 = 16;
    pub const GET_QUEUE_NUM: u32 = 17;
    pub const SET_VRING_ENABLE: u32 = 18;
    pub const SET_BACKEND_REQ_FD: u32 = 21;
    pub const GET_CONFIG: u32 = 24;
    pub const SET_CONFIG: u32 = 25;
    pub const RESET_DEVICE: u32 = 34;
    pub const GET_MAX_MEM_SLOTS: u32 = 36;
    pub const ADD_MEM_REG: u32 = 37;
    pub const REM_MEM_REG: u32 = 38;
    /// From the back end to the front end.
    pub const BACKEND_CONFIG_CHANGE_MSG: u32 = 2;
}
pub use requests::*;
