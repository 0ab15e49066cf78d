//! Constants of the NBD protocol ("The NBD protocol", sections "Protocol phases" and "Values"). All numbers on the
//! wire are big endian.

/// First word that a server sends: "NBDMAGIC".
pub const INIT_MAGIC: u64 = 0x4e42_444d_4147_4943;
/// Second word, and first of each option: "IHAVEOPT".
pub const OPTS_MAGIC: u64 = 0x4948_4156_454f_5054;
/// Second word of a server of the old style, which has one export and no options.
pub const OLDSTYLE_MAGIC: u64 = 0x0000_4202_8186_1253;
/// First word of a reply to an option.
pub const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// First word of a compact request.
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
/// First word of an extended request.
pub const EXTENDED_REQUEST_MAGIC: u32 = 0x21e4_1c71;
/// First word of a simple reply.
pub const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// First word of a chunk of a structured reply.
pub const STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;
/// First word of a chunk of an extended reply.
pub const EXTENDED_REPLY_MAGIC: u32 = 0x6e8a_278c;

/// Handshake flag, both ways: fixed newstyle.
pub const FLAG_FIXED_NEWSTYLE: u16 = 1;
/// Handshake flag, both ways: no 124 zero bytes after `EXPORT_NAME`.
pub const FLAG_NO_ZEROES: u16 = 2;

/// Option: choose an export and begin, without an answer.
pub const OPT_EXPORT_NAME: u32 = 1;
/// Option: end the session.
pub const OPT_ABORT: u32 = 2;
/// Option: list the exports.
pub const OPT_LIST: u32 = 3;
/// Option: encrypt from here on.
pub const OPT_STARTTLS: u32 = 5;
/// Option: tell about an export.
pub const OPT_INFO: u32 = 6;
/// Option: tell about an export and begin.
pub const OPT_GO: u32 = 7;
/// Option: use structured replies.
pub const OPT_STRUCTURED_REPLY: u32 = 8;
/// Option: list metadata contexts.
pub const OPT_LIST_META_CONTEXT: u32 = 9;
/// Option: choose metadata contexts.
pub const OPT_SET_META_CONTEXT: u32 = 10;
/// Option: use extended headers.
pub const OPT_EXTENDED_HEADERS: u32 = 11;

/// Option reply: done.
pub const REP_ACK: u32 = 1;
/// Option reply: an export.
pub const REP_SERVER: u32 = 2;
/// Option reply: a fact about an export.
pub const REP_INFO: u32 = 3;
/// Option reply: a metadata context.
pub const REP_META_CONTEXT: u32 = 4;
/// Set in all option replies that are errors.
pub const REP_FLAG_ERROR: u32 = 1 << 31;
/// Option error: not known.
pub const REP_ERR_UNSUP: u32 = REP_FLAG_ERROR | 1;
/// Option error: not allowed.
pub const REP_ERR_POLICY: u32 = REP_FLAG_ERROR | 2;
/// Option error: malformed.
pub const REP_ERR_INVALID: u32 = REP_FLAG_ERROR | 3;
/// Option error: the server's platform cannot do it.
pub const REP_ERR_PLATFORM: u32 = REP_FLAG_ERROR | 4;
/// Option error: TLS is needed.
pub const REP_ERR_TLS_REQD: u32 = REP_FLAG_ERROR | 5;
/// Option error: no such export.
pub const REP_ERR_UNKNOWN: u32 = REP_FLAG_ERROR | 6;
/// Option error: the server ends.
pub const REP_ERR_SHUTDOWN: u32 = REP_FLAG_ERROR | 7;
/// Option error: the client must heed the block size.
pub const REP_ERR_BLOCK_SIZE_REQD: u32 = REP_FLAG_ERROR | 8;
/// Option error: too long.
pub const REP_ERR_TOO_BIG: u32 = REP_FLAG_ERROR | 9;
/// Option error: extended headers are in use already.
pub const REP_ERR_EXT_HEADER_REQD: u32 = REP_FLAG_ERROR | 10;

/// Fact: size and flags.
pub const INFO_EXPORT: u16 = 0;
/// Fact: the canonical name.
pub const INFO_NAME: u16 = 1;
/// Fact: the description.
pub const INFO_DESCRIPTION: u16 = 2;
/// Fact: the block sizes.
pub const INFO_BLOCK_SIZE: u16 = 3;

/// Transmission flag: the flags mean something.
pub const TF_HAS_FLAGS: u16 = 1 << 0;
/// Transmission flag: writes are refused.
pub const TF_READ_ONLY: u16 = 1 << 1;
/// Transmission flag: `FLUSH` is known.
pub const TF_SEND_FLUSH: u16 = 1 << 2;
/// Transmission flag: `FUA` is known.
pub const TF_SEND_FUA: u16 = 1 << 3;
/// Transmission flag: a spinning disk.
pub const TF_ROTATIONAL: u16 = 1 << 4;
/// Transmission flag: `TRIM` is known.
pub const TF_SEND_TRIM: u16 = 1 << 5;
/// Transmission flag: `WRITE_ZEROES` is known.
pub const TF_SEND_WRITE_ZEROES: u16 = 1 << 6;
/// Transmission flag: `DF` is known.
pub const TF_SEND_DF: u16 = 1 << 7;
/// Transmission flag: several connections see each other's writes.
pub const TF_CAN_MULTI_CONN: u16 = 1 << 8;
/// Transmission flag: `RESIZE` is known (an extension that nobody ships).
pub const TF_SEND_RESIZE: u16 = 1 << 9;
/// Transmission flag: `CACHE` is known.
pub const TF_SEND_CACHE: u16 = 1 << 10;
/// Transmission flag: `FAST_ZERO` is known.
pub const TF_SEND_FAST_ZERO: u16 = 1 << 11;
/// Transmission flag: `BLOCK_STATUS` may have a payload that chooses among the contexts (extended headers).
pub const TF_BLOCK_STATUS_PAYLOAD: u16 = 1 << 12;

/// Command: read.
pub const CMD_READ: u16 = 0;
/// Command: write.
pub const CMD_WRITE: u16 = 1;
/// Command: end the session.
pub const CMD_DISC: u16 = 2;
/// Command: make completed writes stable.
pub const CMD_FLUSH: u16 = 3;
/// Command: the content does not matter any more.
pub const CMD_TRIM: u16 = 4;
/// Command: read ahead.
pub const CMD_CACHE: u16 = 5;
/// Command: write zeroes.
pub const CMD_WRITE_ZEROES: u16 = 6;
/// Command: metadata of ranges.
pub const CMD_BLOCK_STATUS: u16 = 7;

/// Command flag: stable when answered.
pub const CMD_FLAG_FUA: u16 = 1 << 0;
/// Command flag: write zeroes without making a hole.
pub const CMD_FLAG_NO_HOLE: u16 = 1 << 1;
/// Command flag: answer in one chunk.
pub const CMD_FLAG_DF: u16 = 1 << 2;
/// Command flag: one extent for each context.
pub const CMD_FLAG_REQ_ONE: u16 = 1 << 3;
/// Command flag: fail rather than write zeroes slowly.
pub const CMD_FLAG_FAST_ZERO: u16 = 1 << 4;
/// Command flag: the request's length is that of its payload (extended headers).
pub const CMD_FLAG_PAYLOAD_LEN: u16 = 1 << 5;

/// Chunk flag: the last of its reply.
pub const REPLY_FLAG_DONE: u16 = 1;

/// Chunk: nothing.
pub const REPLY_NONE: u16 = 0;
/// Chunk: bytes at an offset.
pub const REPLY_OFFSET_DATA: u16 = 1;
/// Chunk: zeroes at an offset.
pub const REPLY_OFFSET_HOLE: u16 = 2;
/// Chunk: extents of a context.
pub const REPLY_BLOCK_STATUS: u16 = 5;
/// Chunk: extents of a context, 64 bits wide.
pub const REPLY_BLOCK_STATUS_EXT: u16 = 6;
/// Set in all chunks that are errors.
pub const REPLY_ERROR_BIT: u16 = 1 << 15;
/// Chunk: the request failed.
pub const REPLY_ERROR: u16 = REPLY_ERROR_BIT | 1;
/// Chunk: the request failed at an offset.
pub const REPLY_ERROR_OFFSET: u16 = REPLY_ERROR_BIT | 2;

/// The context that tells holes and zeroes.
pub const CONTEXT_ALLOCATION: &str = "base:allocation";
/// The context that tells how far down the chain of backing files bytes are.
pub const CONTEXT_DEPTH: &str = "qemu:allocation-depth";
/// What the names of contexts that tell dirty bitmaps begin with; the bitmap's name follows.
pub const CONTEXT_BITMAP: &str = "qemu:dirty-bitmap:";
/// In a [`CONTEXT_BITMAP`]: dirty.
pub const STATE_DIRTY: u32 = 1;
/// In [`CONTEXT_ALLOCATION`]: no space is taken.
pub const STATE_HOLE: u32 = 1;
/// In [`CONTEXT_ALLOCATION`]: reads as zeroes.
pub const STATE_ZERO: u32 = 2;

/// Longest string in a handshake, bytes (section "Values").
pub const MAX_STRING: usize = 4096;
/// Longest option that is looked at, bytes; longer ones are refused or end the handshake.
pub const MAX_OPTION: usize = 64 << 10;
/// Longest payload of a read or write, bytes: what the protocol lets every side count on.
pub const MAX_PAYLOAD: u32 = 32 << 20;
