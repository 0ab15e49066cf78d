//! Checking and repairing an image.

use api::block_core::ImageCheck;
use block::Perm;
use block_qcow2::check::{Fix, Report, check as check_qcow2};
use block_qcow2::host::RootHost;
use block_qcow2::image::read_header;
use qapi::QError;

use crate::open::{OpenFlags, Source, described_format, open_below, open_container};

/// Why there is no report.
#[derive(Debug)]
pub enum CheckError {
    /// The image could not be opened.
    Open(QError),
    /// The format has no checks.
    Unsupported,
    /// The check itself failed.
    Failed(QError),
}

/// Checks an image; `log` gets a line for each finding.
pub async fn check(
    source: &Source,
    flags: OpenFlags,
    fix: Fix,
    log: &mut dyn FnMut(&str),
) -> Result<Report, CheckError> {
    let flags = OpenFlags { write: fix != Fix::None, ..flags };
    // Only the file is needed; and an image that is too damaged to be opened may still be repaired.
    let image = if source.image_opts {
        if described_format(source).map_err(CheckError::Open)? != "qcow2" {
            return Err(CheckError::Unsupported);
        }
        open_below(source, flags).await.map_err(CheckError::Open)?
    } else {
        let image = open_container(source, flags).await.map_err(CheckError::Open)?;
        if image.format != "qcow2" {
            image.close().await;
            return Err(CheckError::Unsupported);
        }
        image
    };
    let node = image.file.clone().unwrap_or_else(|| image.node.clone());
    let (perm, shared) = if flags.write {
        (Perm::all() - Perm::WRITE_UNCHANGED, Perm::CONSISTENT_READ)
    } else {
        (Perm::CONSISTENT_READ, Perm::all())
    };
    let root = image.root(&node, perm, shared).await.map_err(CheckError::Open)?;
    let report = match read_header(&RootHost(&root)).await {
        Ok(_) => check_qcow2(&RootHost(&root), fix, log).await.map_err(CheckError::Failed),
        Err(e) => Err(CheckError::Open(e)),
    };
    root.detach().await;
    image.close().await;
    report
}

/// The report as the schema has it: what is zero is left out.
pub fn image_check(name: &str, format: &str, r: &Report) -> ImageCheck {
    let some = |v: u64| (v > 0).then_some(v as i64);
    ImageCheck {
        filename: name.into(),
        format: format.into(),
        check_errors: r.check_errors as i64,
        image_end_offset: some(r.image_end_offset),
        corruptions: some(r.corruptions),
        leaks: some(r.leaks),
        corruptions_fixed: some(r.corruptions_fixed),
        leaks_fixed: some(r.leaks_fixed),
        total_clusters: some(r.total_clusters),
        allocated_clusters: some(r.allocated_clusters),
        fragmented_clusters: some(r.fragmented_clusters),
        compressed_clusters: some(r.compressed_clusters),
    }
}

/// The report as people read it.
pub fn human(r: &Report) -> String {
    use std::fmt::Write;
    let mut s = String::new();
    // Writing into a string does not fail.
    if r.corruptions + r.leaks + r.check_errors == 0 {
        s.push_str("No errors were found on the image.\n");
    }
    if r.corruptions > 0 {
        let _ = write!(
            s,
            "\n{} errors were found on the image.\n\
             Data may be corrupted, or further writes to the image may corrupt it.\n",
            r.corruptions
        );
    }
    if r.leaks > 0 {
        let _ = write!(
            s,
            "\n{} leaked clusters were found on the image.\nThis means waste of disk space, but no harm to data.\n",
            r.leaks
        );
    }
    if r.check_errors > 0 {
        let _ = write!(s, "\n{} internal errors have occurred during the check.\n", r.check_errors);
    }
    if r.total_clusters > 0 && r.allocated_clusters > 0 {
        let percent = |n: u64, of: u64| n as f64 * 100.0 / of as f64;
        let _ = writeln!(
            s,
            "{}/{} = {:.2}% allocated, {:.2}% fragmented, {:.2}% compressed clusters",
            r.allocated_clusters,
            r.total_clusters,
            percent(r.allocated_clusters, r.total_clusters),
            percent(r.fragmented_clusters, r.allocated_clusters),
            percent(r.compressed_clusters, r.allocated_clusters),
        );
    }
    if r.image_end_offset > 0 {
        let _ = writeln!(s, "Image end offset: {}", r.image_end_offset);
    }
    s
}
