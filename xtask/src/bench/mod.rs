//! Measurements, side by side with QEMU in one run.

mod boot;
mod emulation;
mod graph;
mod image;
mod jobs;
mod servers;
mod storage;
mod vhost;

use anyhow::{Context, Result};

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// The Debian guest, from the start of the process to its init and to its end
    Boot {
        /// How often each is run; the medians are printed
        #[arg(long, default_value_t = 3)]
        runs: usize,
        /// How many harts the guest has
        #[arg(long, default_value_t = 1)]
        smp: u32,
    },
    /// Loads in the Debian guest: integers, floating point, processes, memory
    Emulation(emulation::Args),
    /// A long chain of images: adding it, and asking for all of its nodes
    Graph {
        /// How many images are in the chain
        #[arg(long, default_value_t = 100)]
        images: usize,
        /// How often each is run; the medians are printed
        #[arg(long, default_value_t = 5)]
        runs: usize,
    },
    /// The image tools: convert, compare, check, map, measure
    Image(image::Args),
    /// Jobs that copy a disk: backup, mirror, stream, commit
    Jobs(jobs::Args),
    /// The exports on qcow2 and on raw images: requests a second, and what they cost the server
    Storage(storage::Args),
}

pub(crate) fn run(args: Args) -> Result<()> {
    if std::env::var_os("RHEA_BIN").is_none() {
        crate::test::build_release()?;
    }
    match args.what {
        What::Boot { runs, smp } => boot::run(runs.max(1), smp),
        What::Emulation(args) => emulation::run(&args),
        What::Graph { images, runs } => graph::run(images.max(1), runs.max(1)),
        What::Image(args) => image::run(&args),
        What::Jobs(args) => jobs::run(&args),
        What::Storage(args) => storage::run(&args),
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut v: Vec<f64> = values.collect();
    v.sort_by(f64::total_cmp);
    v[v.len() / 2]
}

/// CPU seconds of children that have ended (proc(5), fields 16 and 17; hundredths).
fn children() -> Result<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let rest = stat.rsplit_once(')').context("/proc/self/stat")?.1;
    let ticks: Vec<f64> = rest.split_whitespace().skip(13).take(2).filter_map(|t| t.parse().ok()).collect();
    Ok(ticks.iter().sum::<f64>() / 100.0)
}
