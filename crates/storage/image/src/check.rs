//! Checking and repairing an image.

use api::block_core::ImageCheck;
use block::Perm;
use block::check::{CheckCx, Fix, Report};
use qapi::QError;

use crate::open::{
    OpenFlags, Source, described_format, driver, is_described, open, open_below, open_container,
};

/// Why there is no report.
#[derive(Debug)]
pub enum CheckError {
    /// The image could not be opened.
    Open(QError),
    /// The format, which is this one, has no checks.
    Unsupported(String),
    /// The check itself failed.
    Failed(QError),
}

/// What a check found, and in what format.
#[derive(Clone, Debug)]
pub struct Checked {
    /// The format.
    pub format: String,
    /// What was found.
    pub report: Report,
}

/// Checks an image; `log` gets a line for each finding.
pub async fn check(
    source: &Source,
    flags: OpenFlags,
    fix: Fix,
    log: &mut dyn FnMut(&str),
) -> Result<Checked, CheckError> {
    let flags = OpenFlags { write: fix != Fix::None, checking: true, ..flags };
    let format = if is_described(source) {
        described_format(source).await.map_err(CheckError::Open)?
    } else {
        let look = OpenFlags { write: false, ..flags };
        let look = if flags.write && flags.force_share { flags } else { look };
        let image = open_container(source, look).await.map_err(CheckError::Open)?;
        let format = image.format.clone();
        image.close().await;
        format
    };
    let ty = driver(&format).map_err(CheckError::Open)?;
    let report = match ty.check {
        // Only the file is needed; and an image that is too damaged to be opened may still be repaired.
        Some(check) => {
            backing_files(source, &format, ty.supports_backing, flags).await?;
            let image = open_below(source, flags).await.map_err(CheckError::Open)?;
            let (perm, shared) = permissions(flags.write);
            let root = image.root(&image.node, perm, shared).await.map_err(CheckError::Open)?;
            let done = check(CheckCx { file: &root, fix, log }).await;
            root.detach().await;
            image.close().await;
            done.map_err(CheckError::Open)?.map_err(CheckError::Failed)?
        }
        None => {
            let named = Source { format: Some(format.clone()), ..source.clone() };
            let whole = OpenFlags { chain: true, ..flags };
            let image = open(&named, whole).await.map_err(CheckError::Open)?;
            let done = image.graph.check(&image.node, fix, log).await;
            image.close().await;
            done.map_err(CheckError::Failed)?.ok_or(CheckError::Unsupported(format.clone()))?
        }
    };
    Ok(Checked { format, report })
}

/// Has the image opened once with its backing files, which must be there.
async fn backing_files(
    source: &Source,
    format: &str,
    backed: bool,
    flags: OpenFlags,
) -> Result<(), CheckError> {
    let named = Source { format: Some(format.to_owned()), ..source.clone() };
    let look = OpenFlags { write: false, no_io: true, chain: true, ..flags };
    if !backed || (flags.write && flags.force_share) {
        return Ok(());
    }
    match open(&named, look).await {
        Ok(image) => {
            let encrypted =
                image.graph.image_info(&image.node).is_some_and(|i| i.base.encrypted == Some(true));
            image.close().await;
            if encrypted {
                // Whoever checks an image must be able to read it.
                let look = OpenFlags { no_io: false, ..look };
                open(&named, look).await.map_err(CheckError::Open)?.close().await;
            }
        }
        Err(e) if e.desc().starts_with("Could not open backing file") => return Err(CheckError::Open(e)),
        // What is wrong with the image itself is what the check tells.
        Err(_) => {}
    }
    Ok(())
}

fn permissions(write: bool) -> (Perm, Perm) {
    match write {
        true => (Perm::all() - Perm::WRITE_UNCHANGED, Perm::CONSISTENT_READ),
        // What is written meanwhile would look like damage.
        false => (Perm::CONSISTENT_READ, Perm::all() - Perm::WRITE - Perm::RESIZE),
    }
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
