//! Jobs that copy a disk: how long they take, and what they cost the daemon.
//!
//! The programs take turns, each time with fresh targets, so that ratios are of like with like. The source holds random
//! bytes, which no program can save itself from copying; or it is a sparse disk, whose zeroes nobody should have to copy.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use e2e::{ScratchDir, StorageDaemon, rhea_binary, run_tool, workspace};
use serde_json::{Value, json};

use super::median;
use super::servers::{Kind, cpu_seconds};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// How often each is run; the medians are printed
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Size of the disk in MiB; two of them should fit into the page cache
    #[arg(long, default_value_t = 2048)]
    size: u32,
    /// Where the images are made
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Only measurements whose name contains this
    #[arg(default_value = "")]
    filter: String,
}

/// A job: its verb, the formats of its source and its target, and whether the disk is sparse.
type What = (&'static str, &'static str, &'static str, bool);

const JOBS: &[What] = &[
    ("backup", "raw", "qcow2", false),
    ("backup", "qcow2", "raw", false),
    ("mirror", "raw", "qcow2", false),
    ("mirror", "qcow2", "raw", false),
    // Into an image that has nothing of its own.
    ("stream", "raw", "qcow2", false),
    ("stream", "qcow2", "qcow2", false),
    // Of an image that has all, into one that is empty.
    ("commit", "qcow2", "raw", false),
    ("commit", "qcow2", "qcow2", false),
    ("backup", "qcow2", "qcow2", true),
    ("mirror", "qcow2", "qcow2", true),
    ("stream", "qcow2", "qcow2", true),
    ("commit", "qcow2", "qcow2", true),
];

/// A disk that is copied.
struct Disk {
    raw: PathBuf,
    qcow2: PathBuf,
    /// As the tools take it.
    size: String,
}

/// Seconds, and CPU seconds of the daemon.
struct Figure {
    wall: f64,
    cpu: f64,
}

pub(super) fn run(args: &Args) -> Result<()> {
    let dir = args.dir.clone().unwrap_or_else(|| workspace().join("target/bench"));
    std::fs::create_dir_all(&dir)?;
    let mut kinds = vec![Kind::Rhea];
    match Kind::Qsd.is_there() {
        true => kinds.push(Kind::Qsd),
        false => println!("{} is not installed: no comparison", Kind::Qsd.name()),
    }
    println!("medians of {} runs; {} MiB of random bytes in {}", args.runs, args.size, dir.display());
    println!("seconds, and seconds of the daemon's CPU time; ratios: rhea / other");
    let (full, sparse) = (source(&dir, args.size)?, sparse(&dir)?);
    for job in JOBS {
        let disk = if job.3 { &sparse } else { &full };
        let kind = if job.3 { ", sparse 1 TiB" } else { "" };
        let name = format!("{} {} to {}{kind}", job.0, job.1, job.2);
        if !name.contains(&args.filter) {
            continue;
        }
        // Memory that nobody used for a while may have to come from the host's host first: that hits whoever begins.
        once(kinds[0], *job, disk, &dir).with_context(|| format!("{name}, beforehand"))?;
        let mut all: Vec<Vec<Figure>> = kinds.iter().map(|_| Vec::new()).collect();
        for _ in 0..args.runs.max(1) {
            for (kind, figures) in kinds.iter().zip(&mut all) {
                figures
                    .push(once(*kind, *job, disk, &dir).with_context(|| format!("{name}, {}", kind.name()))?);
            }
        }
        let mut line = format!("{name:39}");
        let median = |f: &[Figure], of: fn(&Figure) -> f64| median(f.iter().map(of));
        let (wall, cpu) = (median(&all[0], |f| f.wall), median(&all[0], |f| f.cpu));
        for (kind, figures) in kinds.iter().zip(&all) {
            let (w, c) = (median(figures, |f| f.wall), median(figures, |f| f.cpu));
            line += &format!("  {} {w:.2} s, cpu {c:.2} s", kind.name());
            if *kind != Kind::Rhea {
                line += &format!(" (time {:.2}, cpu {:.2})", wall / w, cpu / c.max(0.01));
            }
        }
        println!("{line}");
    }
    for f in [&full.raw, &full.qcow2, &sparse.qcow2] {
        _ = std::fs::remove_file(f);
    }
    Ok(())
}

/// A disk of 1 TiB with data in a few places, as a qcow2 image only.
fn sparse(dir: &Path) -> Result<Disk> {
    let (qcow2, size) = (dir.join("jobs-sparse.qcow2"), "1T".to_owned());
    let q = qcow2.display().to_string();
    run_tool(rhea_binary(), &["img", "create", "-q", "-f", "qcow2", &q, &size])?;
    let writes = (0..16u64).flat_map(|i| ["-c".to_owned(), format!("write -q {}G 1M", i * 61)]);
    let args: Vec<String> =
        ["io", "-f", "qcow2"].into_iter().map(str::to_owned).chain(writes).chain([q]).collect();
    run_tool(rhea_binary(), &args)?;
    Ok(Disk { raw: PathBuf::new(), qcow2, size })
}

/// A disk of random bytes.
fn source(dir: &Path, mib: u32) -> Result<Disk> {
    let (raw, qcow2) = (dir.join("jobs-source.raw"), dir.join("jobs-source.qcow2"));
    let mut out = std::io::BufWriter::with_capacity(1 << 20, std::fs::File::create(&raw)?);
    let mut random = 0x9E37_79B9_7F4A_7C15u64;
    for _ in 0..u64::from(mib) << 17 {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        out.write_all(&random.to_le_bytes())?;
    }
    out.flush()?;
    drop(out);
    let (r, q) = (raw.display().to_string(), qcow2.display().to_string());
    run_tool(rhea_binary(), &["img", "convert", "-f", "raw", "-O", "qcow2", &r, &q])?;
    run_tool("sync", &[] as &[&str])?;
    Ok(Disk { raw, qcow2, size: format!("{mib}M") })
}

fn node(name: &str, format: &str, file: &Path, backing: Option<&str>) -> Value {
    let mut v = json!({ "driver": format, "node-name": name,
        "file": { "driver": "file", "filename": file.display().to_string() } });
    if let Some(b) = backing {
        v["backing"] = b.into();
    }
    v
}

fn once(kind: Kind, (job, from, to, _): What, disk: &Disk, dir: &Path) -> Result<Figure> {
    let scratch = ScratchDir::new("bench-jobs")?;
    let source = if from == "raw" { &disk.raw } else { &disk.qcow2 };
    let target = dir.join(format!("jobs-target.{to}"));
    let size = &disk.size;
    let create = |format: &str, file: &Path, more: &[&str]| {
        let file = file.display().to_string();
        let args = [&["img", "create", "-q", "-f", format], more, &[&*file, size]].concat();
        run_tool(rhea_binary(), &args)
    };
    let args: &[&str] = if kind == Kind::Rhea { &["storage-daemon"] } else { &[] };
    let mut daemon = StorageDaemon::start_program(kind.program(), args)?;
    let pid = daemon.pid();
    let qmp = daemon.qmp();
    let (command, arguments) = match job {
        "backup" | "mirror" => {
            create(to, &target, &[])?;
            qmp.run("blockdev-add", node("source", from, source, None))?;
            qmp.run("blockdev-add", node("target", to, &target, None))?;
            (
                if job == "backup" { "blockdev-backup" } else { "blockdev-mirror" },
                json!({ "job-id": "j", "device": "source", "target": "target", "sync": "full" }),
            )
        }
        "stream" => {
            create(to, &target, &[])?;
            qmp.run("blockdev-add", node("source", from, source, None))?;
            qmp.run("blockdev-add", node("target", to, &target, Some("source")))?;
            ("block-stream", json!({ "job-id": "j", "device": "target" }))
        }
        _ => {
            // Merging changes the upper image's header only after all has been copied; its data stay.
            create(to, &target, &[])?;
            let above = scratch.path().join("above.qcow2");
            create("qcow2", &above, &[])?;
            qmp.run("blockdev-add", node("base", to, &target, None))?;
            qmp.run("blockdev-add", node("source", from, source, Some("base")))?;
            qmp.run("blockdev-add", node("above", "qcow2", &above, Some("source")))?;
            (
                "block-commit",
                json!({ "job-id": "j", "device": "above", "top-node": "source", "base-node": "base" }),
            )
        }
    };
    let cpu = cpu_seconds(pid)?;
    let start = Instant::now();
    qmp.run(command, arguments)?;
    if job == "mirror" {
        qmp.event("BLOCK_JOB_READY")?;
    } else {
        let e = qmp.event("BLOCK_JOB_COMPLETED")?;
        ensure!(e["data"].get("error").is_none(), "{e}");
    }
    let figure = Figure { wall: start.elapsed().as_secs_f64(), cpu: cpu_seconds(pid)? - cpu };
    drop(daemon);
    _ = std::fs::remove_file(&target);
    Ok(figure)
}
