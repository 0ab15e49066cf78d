//! `quorum`: several nodes that hold the same, and a vote on what they say.

use qapi::Qapi;

use super::BlockdevRef;

/// How `quorum` reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Qapi)]
pub enum QuorumReadPattern {
    /// From all children, and they vote.
    #[default]
    Quorum,
    /// From the first child; from the next where that fails.
    Fifo,
}

/// Options of `quorum`.
#[derive(Clone, Debug, PartialEq, Qapi)]
pub struct BlockdevOptionsQuorum {
    /// For tests: any difference between the two children is an error. Needs two children and a threshold of 2.
    /// Off unless given.
    pub blkverify: Option<bool>,
    /// The nodes, at least one; all of one length.
    pub children: Vec<BlockdevRef>,
    /// How many children must agree: from 1 to the number of children.
    pub vote_threshold: i64,
    /// Write what was voted for to the children that said otherwise. Off unless given.
    pub rewrite_corrupted: Option<bool>,
    /// How to read. `quorum` unless given.
    pub read_pattern: Option<QuorumReadPattern>,
}

/// A kind of request that `quorum` hands to its children.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Qapi)]
pub enum QuorumOpType {
    /// Read.
    #[default]
    Read,
    /// Write.
    Write,
    /// Flush.
    Flush,
}

/// Too few children of a `quorum` agree: a request failed. At most one a second; the last one is not lost.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
#[qapi(event = "QUORUM_FAILURE")]
pub struct QuorumFailureEvent {
    /// The node.
    pub reference: String,
    /// The first sector, of 512 bytes, that the request touches.
    pub sector_num: i64,
    /// How many sectors it touches.
    pub sectors_count: i64,
}

/// A child of a `quorum` failed, or said what the others did not. At most one a second for each child; the last one is
/// not lost.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
#[qapi(event = "QUORUM_REPORT_BAD")]
pub struct QuorumReportBadEvent {
    /// What it was asked to do.
    pub r#type: QuorumOpType,
    /// The error, for people; missing where it only said something else.
    pub error: Option<String>,
    /// The child.
    pub node_name: String,
    /// The first sector, of 512 bytes, that the request touches.
    pub sector_num: i64,
    /// How many sectors it touches.
    pub sectors_count: i64,
}
