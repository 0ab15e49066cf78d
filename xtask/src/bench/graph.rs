//! A long chain of images: adding it, and asking for all of its nodes.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Result, ensure};
use e2e::{ScratchDir, StorageDaemon, rhea_binary, run_tool};
use serde_json::{Value, json};

/// What one program needed.
struct Figures {
    /// Seconds for `blockdev-add` of the topmost image, which opens all those that the headers name.
    add: f64,
    /// Seconds and bytes for `query-named-block-nodes`.
    all: (f64, usize),
    /// The same with `flat`.
    flat: (f64, usize),
}

/// Measures a chain of `images` qcow2 images, `runs` times; prints the medians.
pub(crate) fn run(images: usize, runs: usize) -> Result<()> {
    let dir = ScratchDir::new("bench-graph")?;
    let rhea = rhea_binary();
    let name = |i: usize| dir.path().join(format!("i{i}.q")).display().to_string();
    for i in 0..images {
        let below = i.checked_sub(1).map(name);
        let backing = below.as_deref().map(|b| ["-b", b, "-F", "qcow2"]);
        let mut args = vec!["img", "create", "-q", "-f", "qcow2"];
        args.extend(backing.iter().flatten());
        let name = name(i);
        args.push(&name);
        args.extend(backing.is_none().then_some("1G"));
        run_tool(rhea.display().to_string(), &args)?;
    }
    let top = name(images.saturating_sub(1));
    let mut programs: Vec<(PathBuf, &[&str])> = vec![(rhea, &["storage-daemon"])];
    match run_tool("qemu-storage-daemon", &["--version"]) {
        Ok(_) => programs.push(("qemu-storage-daemon".into(), &[])),
        Err(_) => println!("qemu-storage-daemon is not installed: no comparison"),
    }
    println!("A chain of {images} qcow2 images, median of {runs}:");
    println!("  {:20}  blockdev-add   query-named-block-nodes    with flat", "");
    for (program, args) in programs {
        let mut all = Vec::new();
        for _ in 0..runs {
            all.push(once(&program, args, &top, images)?);
        }
        let median = |f: &dyn Fn(&Figures) -> f64| super::median(all.iter().map(f)) * 1000.0;
        let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        println!(
            "  {name:20}  {:9.1} ms   {:9.1} ms {:7} kB   {:7.1} ms {:5} kB",
            median(&|f| f.add),
            median(&|f| f.all.0),
            all[0].all.1 / 1000,
            median(&|f| f.flat.0),
            all[0].flat.1 / 1000
        );
    }
    Ok(())
}

fn once(program: &std::path::Path, args: &[&str], top: &str, images: usize) -> Result<Figures> {
    let mut daemon = StorageDaemon::start_program(program.into(), args)?;
    let options = json!({"driver": "qcow2", "node-name": "top", "file": {"driver": "file", "filename": top}});
    let start = Instant::now();
    daemon.qmp().run("blockdev-add", options)?;
    let add = start.elapsed().as_secs_f64();
    let mut query = |flat: bool| -> Result<(f64, usize)> {
        let start = Instant::now();
        let nodes = daemon.qmp().run("query-named-block-nodes", json!({"flat": flat}))?;
        let time = start.elapsed().as_secs_f64();
        let count = nodes.as_array().map_or(0, Vec::len);
        ensure!(count == 2 * images, "{count} nodes instead of {}", 2 * images);
        Ok((time, size(&nodes)))
    };
    Ok(Figures { add, all: query(false)?, flat: query(true)? })
}

/// The bytes of an answer as it came, within a few per cent: without the blanks that a program may put in.
fn size(v: &Value) -> usize {
    v.to_string().len()
}
