//! Checking images: what is asked of a format, and what it answers.

use crate::driver::CtlFuture;
use crate::root::Root;

/// What to repair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fix {
    /// Nothing.
    None,
    /// Wasted space.
    Leaks,
    /// Everything that can be.
    All,
}

/// What a check found. Numbers of things that the format does not count stay 0.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Things that could not be checked.
    pub check_errors: u64,
    /// Corruptions that are still there.
    pub corruptions: u64,
    /// Leaked clusters that are still there.
    pub leaks: u64,
    /// Corruptions repaired.
    pub corruptions_fixed: u64,
    /// Leaks repaired.
    pub leaks_fixed: u64,
    /// Where the last used cluster of the file ends.
    pub image_end_offset: u64,
    /// Guest clusters.
    pub total_clusters: u64,
    /// Those that are allocated.
    pub allocated_clusters: u64,
    /// Those that are compressed.
    pub compressed_clusters: u64,
    /// Those that do not follow the one before them in the file.
    pub fragmented_clusters: u64,
}

/// What a check works on: the file of an image that nobody has open.
pub struct CheckCx<'a> {
    /// The file's bytes; it may be written where something is to be repaired.
    pub file: &'a Root,
    /// What to repair.
    pub fix: Fix,
    /// Gets a line for each finding.
    pub log: &'a mut dyn FnMut(&str),
}

/// A format's way to check an image by its file alone ([`crate::driver::DriverType::check`]).
///
/// An error of the outer kind: the image cannot be opened. Of the inner: the check failed.
pub type CheckFn = for<'a> fn(CheckCx<'a>) -> CtlFuture<'a, Result<Report, qapi::QError>>;
