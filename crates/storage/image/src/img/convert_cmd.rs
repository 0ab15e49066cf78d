//! `convert`.

use std::sync::Arc;

use block::Root;
use block::create::CreateOption;
use qapi::{QError, qerr};

use super::args::{HELP, OBJECT, PROGRESS, Parsed, QUIET, SHARE, Spec, flag, long_flag, value};
use super::create_cmd::list_options as create_list;
use super::progress::Progress;
use super::{CmdResult, Command, Tool, could_not_open};
use crate::bitmap;
use crate::convert::{Plan, Told, copy};
use crate::create::{NewImage, create, maker, options_of};
use crate::open::{Cache, OpenFlags, Opened, Source, open, open_with};
use crate::options::{Options, wants_help};

/// The longest run of zeroes that `-S` takes, bytes.
const MAX_SPARSE: u64 = 16 << 20;
/// The most requests at a time.
const MAX_PARALLEL: u64 = 16;

/// `convert`.
pub(super) static COMMAND: Command = Command {
    name: "convert",
    about: "Copy images into a new one, of another format if need be",
    usage: "[-f FMT | --image-opts] [-l SNAPSHOT] [-T CACHE] [-O FMT] [-o OPTIONS | --target-image-opts] [-t CACHE] \
            [-c] [-n [--target-is-zero]] [-B BACKING [-F FMT]] [-S SIZE] [--bitmaps [--skip-broken-bitmaps]] \
            [-m N] [-W] [-C] [-r RATE] [--salvage] [--object OBJDEF] [-p] [-q] [-U] FILENAME [FILENAME2 [...]] OUTPUT",
    options: OPTIONS,
    notes: "Several images are copied one behind the other. What reads as zeroes is neither read nor written.",
    run,
};

const OPTIONS: &[Spec] = &[
    HELP,
    QUIET,
    PROGRESS,
    value('f', "format", "FMT", "the source's format; found out where it is not given")
        .alias(&["source-format"]),
    long_flag("image-opts", "FILENAME is a description (driver=...,file.filename=...), not a file name")
        .alias(&["source-image-opts"]),
    value(
        'l',
        "snapshot",
        "SNAPSHOT",
        "copy what a snapshot in the source shows (its name, or snapshot.id=ID or snapshot.name=NAME)",
    )
    .alias(&["source-snapshot"]),
    value('T', "source-cache", "MODE", "how the host's cache is used for sources (default writeback)"),
    value('O', "target-format", "FMT", "the new image's format (default raw)"),
    long_flag("target-image-opts", "OUTPUT is a description; needs -n"),
    value('o', "target-options", "A=B,...", "options of the new image; '-o help' lists them"),
    flag('c', "compress", "compress the new image"),
    value('t', "target-cache", "MODE", "how the host's cache is used for the new image (default unsafe)"),
    value('B', "backing", "NAME", "the image behind the new one: only what differs is copied")
        .alias(&["target-backing"]),
    value('F', "backing-format", "FMT", "its format"),
    flag('n', "no-create", "write into an image that is there already"),
    long_flag("target-is-zero", "that image reads as zeroes all over; needs -n"),
    value(
        'S',
        "sparse-size",
        "SIZE",
        "leave out zeroes from so many bytes on (default 4k; 0: write everything)",
    ),
    long_flag("bitmaps", "also copy the dirty bitmaps that the source keeps"),
    long_flag("skip-broken-bitmaps", "leave out those that are broken"),
    SHARE,
    value('r', "rate-limit", "RATE", "bytes a second at most").alias(&["rate"]),
    value('m', "parallel", "N", "requests at a time (1 to 16, default 8)"),
    flag('C', "copy-range-offloading", "let the file system copy where it can").alias(&["copy-range"]),
    long_flag("salvage", "what cannot be read is zeroes"),
    flag('W', "oob-writes", "write in any order"),
    OBJECT,
];

struct Job {
    sources: Vec<Source>,
    snapshot: Option<String>,
    source_flags: OpenFlags,
    target: Source,
    format: String,
    options: Vec<String>,
    backing: Option<String>,
    backing_format: Option<String>,
    cache: String,
    compress: bool,
    create: bool,
    target_is_zero: bool,
    sparse: u64,
    parallel: usize,
    salvage: bool,
    bitmaps: bool,
    skip_broken: bool,
    rate: Option<u64>,
}

fn run(tool: &mut Tool<'_>, p: Parsed) -> CmdResult {
    let options = p.all("target-options");
    let format = p.get("target-format").unwrap_or("raw").to_owned();
    let sparse = match p.get("sparse-size") {
        None => 4096,
        Some(t) => {
            let n = tool.number("buffer size for sparse output", t, 0, i64::MAX as u64)?;
            if n % 512 != 0 || n > MAX_SPARSE {
                return tool.fail(&format!(
                    "Invalid buffer size for sparse output specified. Valid sizes are multiples of 512 up to \
                     {MAX_SPARSE}. Select 0 to disable sparse detection (fully allocates output)."
                ));
            }
            n
        }
    };
    let parallel = match p.get("parallel") {
        None => 8,
        Some(t) => match t.parse::<u64>() {
            Ok(n) if (1..=MAX_PARALLEL).contains(&n) => n as usize,
            _ => {
                return tool.fail(&format!(
                    "Invalid number of coroutines. Allowed number of coroutines is between 1 and {MAX_PARALLEL}"
                ));
            }
        },
    };
    let rate = match p.get("rate-limit") {
        None => None,
        Some(t) => Some(tool.number("rate limit", t, 0, i64::MAX as u64)?).filter(|r| *r > 0),
    };
    tool.option_lists(&options)?;
    if wants_help(&options) && !p.has("no-create") {
        let name = p.rest.last().filter(|_| p.rest.len() > 1).map(String::as_str);
        return create_list(tool, &format, name);
    }
    let (copy_range, compress) = (p.has("copy-range-offloading"), p.has("compress"));
    if p.has("salvage") && copy_range && !p.has("sparse-size") {
        return tool.fail("Cannot use copy offloading in salvaging mode");
    }
    if p.has("image-opts") && p.has("format") {
        return tool.fail("--image-opts and --format are mutually exclusive");
    }
    if p.has("target-image-opts") && !p.has("no-create") {
        return tool.fail("--target-image-opts requires use of -n flag");
    }
    if p.has("target-image-opts") && p.has("target-format") {
        return tool.fail("--image-opts and --format are mutually exclusive");
    }
    if copy_range && p.has("sparse-size") {
        return tool.fail("Cannot enable copy offloading when -S is used");
    }
    if copy_range && compress {
        return tool.fail("Cannot enable copy offloading when -c is used");
    }
    if p.has("target-is-zero") && !p.has("no-create") {
        return tool.fail("--target-is-zero requires use of -n flag");
    }
    if p.has("skip-broken-bitmaps") && !p.has("bitmaps") {
        return tool.fail("Use of --skip-broken-bitmaps requires --bitmaps");
    }
    let Some((out, names)) = p.rest.split_last().filter(|(_, names)| !names.is_empty()) else {
        return tool.fail("Must specify image file name");
    };
    if p.has("no-create") && !options.is_empty() {
        return tool.fail("-o has no effect when skipping image creation");
    }
    if p.has("snapshot") && names.len() > 1 {
        return tool.fail("No support for concatenating multiple snapshot");
    }
    let source_cache = tool.cache(&p, "source-cache", "writeback", "source cache")?;
    if let Some(s) = p.get("snapshot") {
        snapshot_parameters(tool, s)?;
    }
    let mut sources = Vec::new();
    for name in names {
        sources.push(tool.source(&p, name)?);
    }
    let objects = sources.first().and_then(|s| s.objects.clone());
    let job = Job {
        sources,
        snapshot: p.get("snapshot").map(str::to_owned),
        source_flags: OpenFlags {
            force_share: p.has("force-share"),
            chain: true,
            cache: source_cache,
            ..OpenFlags::default()
        },
        target: Source {
            name: out.clone(),
            format: (!p.has("target-image-opts")).then(|| format.clone()),
            image_opts: p.has("target-image-opts"),
            objects,
        },
        format,
        options,
        backing: p.get("backing").map(str::to_owned),
        backing_format: p.get("backing-format").map(str::to_owned),
        cache: p.get("target-cache").unwrap_or("unsafe").to_owned(),
        compress,
        create: !p.has("no-create"),
        target_is_zero: p.has("target-is-zero"),
        sparse,
        parallel,
        salvage: p.has("salvage"),
        bitmaps: p.has("bitmaps"),
        skip_broken: p.has("skip-broken-bitmaps"),
        rate,
    };
    tool.short_forms(&job.target);
    let (asked, quiet, terminal) = tool.show_progress(&p);
    let mut said = Vec::new();
    let done = {
        let mut progress = Progress::new(asked, quiet, terminal, &mut *tool.out, &mut *tool.err);
        progress.begin();
        match crate::executor() {
            Ok(x) => x.block_on(job.run(&mut progress, &mut said)),
            Err(e) => Err(qerr!("Could not start: {e}")),
        }
    };
    if !quiet {
        for line in said {
            let text = format!("{}: warning: {line}\n", tool.prog);
            tool.warn(&text);
        }
    }
    match done {
        Ok(()) => Ok(0),
        Err(e) => tool.fail_with(&e),
    }
}

/// An open image and its user.
struct Disk {
    image: Opened,
    root: Arc<Root>,
}

impl Disk {
    async fn close(self) {
        self.root.detach().await;
        self.image.close().await;
    }
}

async fn close_all(disks: Vec<Disk>) {
    for d in disks {
        d.close().await;
    }
}

impl Job {
    async fn run(&self, progress: &mut Progress<'_>, said: &mut Vec<String>) -> Result<(), QError> {
        let mut disks = Vec::new();
        for s in &self.sources {
            let opened = open(s, self.source_flags).await.map_err(|e| could_not_open(&s.name, &e));
            let disk = match opened {
                // Unless whoever asks takes what is written meanwhile into the bargain.
                Ok(image) => match if self.source_flags.force_share {
                    image.reader().await
                } else {
                    image.only_reader().await
                } {
                    Ok(root) => Ok(Disk { image, root }),
                    Err(e) => {
                        image.close().await;
                        Err(could_not_open(&s.name, &e))
                    }
                },
                Err(e) => Err(e),
            };
            match disk {
                Ok(d) => disks.push(d),
                Err(e) => {
                    close_all(disks).await;
                    return Err(e);
                }
            }
        }
        let done = self.with_sources(&disks, progress, said).await;
        close_all(disks).await;
        done
    }

    async fn with_sources(
        &self,
        disks: &[Disk],
        progress: &mut Progress<'_>,
        said: &mut Vec<String>,
    ) -> Result<(), QError> {
        if let (Some(s), [only]) = (&self.snapshot, disks) {
            let failed = |e: QError| qerr!("Failed to load snapshot: {}", e.desc());
            let (id, name) = snapshot_of(s);
            if !only.image.graph.has_internal_snapshots(&only.image.node) {
                return Err(failed(qerr!(
                    "Block format '{}' used by device '' does not support temporarily loading internal snapshots",
                    only.image.format
                )));
            }
            only.image.graph.show_snapshot(&only.image.node, id, name).await.map_err(failed)?;
        }
        if self.bitmaps && !disks.iter().all(|d| d.image.graph.keeps_bitmaps(&d.image.node)) {
            return Err(qerr!("Source lacks bitmap support"));
        }
        let total: u64 = disks.iter().map(|d| d.root.len()).sum();
        let mut backing = self.backing.is_some();
        let mut secrets = Vec::new();
        if self.create {
            let image = self.new_image(disks, total).await?;
            backing |= image.options.get("backing_file").is_some();
            let failed = |e: QError| {
                let said =
                    qerr!("{}: error while converting {}: {}", self.target.name, self.format, e.desc());
                match e.hint() {
                    Some(h) => said.with_hint(h),
                    None => said,
                }
            };
            create(&image).await.map_err(failed)?;
            for name in ["key-secret", "encrypt.key-secret", "encrypt.format"] {
                if let Some(v) = image.options.get(name) {
                    secrets.push((name.to_owned(), v.to_owned()));
                }
            }
        }
        if self.bitmaps && !self.target.image_opts {
            self.check_bitmaps(&self.format)?;
        }
        // Looked at when there is something to open.
        let cache = Cache::parse(&self.cache).ok_or_else(|| qerr!("Invalid cache option: {}", self.cache))?;
        let flags = OpenFlags {
            write: true,
            // What an existing image shows through its backing file is overwritten too.
            chain: backing || !self.create,
            cache,
            unmap: self.sparse > 0,
            late_bitmaps: self.bitmaps,
            ..OpenFlags::default()
        };
        let image = open_with(&self.target, flags, &secrets)
            .await
            .map_err(|e| could_not_open(&self.target.name, &e))?;
        let done = self.into(disks, &image, total, backing, progress, said).await;
        image.close().await;
        done
    }

    fn check_bitmaps(&self, format: &str) -> Result<(), QError> {
        // Every format that can keep bitmaps says so of an image; before there is one, its options tell it from plain files.
        match maker(format) {
            Ok((ty, _)) if ty.supports_backing => Ok(()),
            Ok(_) => Err(qerr!("Format driver '{format}' does not support bitmaps")),
            Err(e) => Err(e),
        }
    }

    /// The image to be made.
    async fn new_image(&self, disks: &[Disk], total: u64) -> Result<NewImage, QError> {
        let (_, creation) = maker(&self.format)?;
        let table: Vec<CreateOption> = options_of(&self.format, Some(&self.target.name)).await?;
        let mut options = Options::default();
        options.defaults(&table);
        options.parse(&table, &self.options)?;
        for (name, given, what) in [
            ("backing_file", &self.backing, "Backing file"),
            ("backing_fmt", &self.backing_format, "Backing file format"),
        ] {
            if let Some(g) = given {
                if !creation.options.iter().any(|o| o.name == name) {
                    return Err(qerr!("{what} not supported for file format '{}'", self.format));
                }
                options.set(name, g.clone());
            }
        }
        if options.get("backing_file").is_some() {
            if disks.len() > 1 {
                return Err(qerr!(
                    "Having a backing file for the target makes no sense when concatenating multiple input images"
                ));
            }
            if options.get("backing_fmt").is_none() {
                return Err(qerr!("Use of backing file requires explicit backing format"));
            }
        }
        if self.compress {
            if !crate::open::driver(&self.format)?.may_compress {
                return Err(qerr!("Compression not supported for this file format"));
            }
            let encrypted =
                options.get("encryption") == Some("on") || options.get("encrypt.format").is_some();
            let prealloc = options.get("preallocation").is_some_and(|p| p != "off");
            if encrypted {
                return Err(qerr!("Compression and encryption not supported at the same time"));
            }
            if prealloc {
                return Err(qerr!("Compression and preallocation not supported at the same time"));
            }
        }
        if self.bitmaps && disks.len() > 1 {
            return Err(qerr!("Copying bitmaps only possible with single source"));
        }
        options.set("size", total.to_string());
        Ok(NewImage {
            name: self.target.name.clone(),
            format: self.format.clone(),
            options,
            objects: self.target.objects.clone(),
            // Nothing of a new image is worth waiting for: what is copied is made stable at the end, where that is asked for.
            cache: Cache { no_flush: true, ..Cache::default() },
        })
    }

    async fn into(
        &self,
        disks: &[Disk],
        image: &Opened,
        total: u64,
        backing: bool,
        progress: &mut Progress<'_>,
        said: &mut Vec<String>,
    ) -> Result<(), QError> {
        let root = image.writer().await.map_err(|e| could_not_open(&self.target.name, &e))?;
        let done = self.fill(disks, image, &root, total, backing, progress, said).await;
        root.detach().await;
        done?;
        if self.bitmaps
            && let [only] = disks
        {
            if !image.graph.keeps_bitmaps(&image.node) {
                return Err(qerr!("Format driver '{}' does not support bitmaps", image.format));
            }
            let mut skipped = |name: &str| said.push(format!("Skipping inconsistent bitmap '{name}'"));
            bitmap::copy_all(&only.image, image, self.skip_broken, &mut skipped).await?;
        }
        Ok(())
    }

    #[allow(clippy::too_many_arguments)] // One call, whose arguments have nothing else in common.
    async fn fill(
        &self,
        disks: &[Disk],
        image: &Opened,
        root: &Arc<Root>,
        total: u64,
        backing: bool,
        progress: &mut Progress<'_>,
        said: &mut Vec<String>,
    ) -> Result<(), QError> {
        if self.compress && !crate::open::driver(&image.format)?.may_compress {
            return Err(qerr!("Compression not supported for this file format"));
        }
        if root.len() < total {
            return Err(qerr!("output file is smaller than input file"));
        }
        let info = image.graph.image_info(&image.node).map(|i| i.base);
        let cluster = info.as_ref().and_then(|i| i.cluster_size).map_or(512, |c| c.max(512) as u64);
        let encrypted = info.as_ref().is_some_and(|i| i.encrypted == Some(true));
        let fresh = self.create && !encrypted && image.graph.fresh_files_are_zero(&image.node);
        let over_backing = match backing {
            true => Some(image.graph.backing_len(&image.node).unwrap_or(0)),
            false => None,
        };
        let plan = Plan {
            inputs: disks.iter().map(|d| d.root.clone()).collect(),
            target: root.clone(),
            skip: 0,
            total,
            zero_init: (fresh || self.target_is_zero) && !backing,
            over_backing,
            compress: self.compress.then_some(cluster),
            cluster: if self.compress { cluster } else { unit(info.as_ref(), cluster) },
            sparse: self.sparse,
            parallel: if self.compress { self.parallel.max(16) } else { self.parallel },
            salvage: self.salvage,
            rate: self.rate,
            telling: progress.is_shown(),
        };
        let mut tell = |t: Told| match t {
            Told::At(at, of) => progress.at(at, of),
            Told::Lost(at, e) => said.push(format!("error while reading offset {at}: {e}")),
            Told::Unknown(at, e) => {
                said.push(format!("error while reading block status at offset {at}: {e}"))
            }
        };
        copy(plan, &mut tell).await.map_err(|e| qerr!("{e}"))?;
        progress.finished();
        Ok(())
    }
}

/// The unit in which an image allocates: clusters, or parts of them.
fn unit(info: Option<&api::block_core::BlockNodeInfo>, cluster: u64) -> u64 {
    use api::block_core::ImageInfoSpecific::Qcow2;
    let parts = matches!(info.and_then(|i| i.format_specific.as_ref()), Some(Qcow2(q)) if q.extended_l2 == Some(true));
    if parts { cluster / 32 } else { cluster }
}

/// Refuses parameters of a snapshot that are none.
pub(super) fn snapshot_parameters(tool: &mut Tool<'_>, text: &str) -> Result<(), super::Failed> {
    if !text.starts_with("snapshot.") {
        return Ok(());
    }
    qapi::opts_short_forms(text, None).iter().for_each(|w| tool.report(w, None));
    for (name, _) in qapi::opts_parse(text, None) {
        if !["snapshot.id", "snapshot.name"].contains(&name.as_str()) {
            tool.report(&format!("Invalid parameter '{name}'"), None);
            return tool.fail(&format!("Failed in parsing snapshot param '{text}'"));
        }
    }
    Ok(())
}

/// The id and the name that a snapshot's parameters give.
pub(super) fn snapshot_of(text: &str) -> (Option<String>, Option<String>) {
    if !text.starts_with("snapshot.") {
        return (None, Some(text.to_owned()));
    }
    let (mut id, mut name) = (None, None);
    for (key, value) in qapi::opts_parse(text, None) {
        match key.as_str() {
            "snapshot.id" => id = Some(value),
            "snapshot.name" => name = Some(value),
            _ => {}
        }
    }
    (id, name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snapshots_are_named_in_two_ways() {
        assert_eq!(snapshot_of("a,b"), (None, Some("a,b".into())));
        assert_eq!(snapshot_of("snapshot.id=1,snapshot.name=x"), (Some("1".into()), Some("x".into())));
    }
}
