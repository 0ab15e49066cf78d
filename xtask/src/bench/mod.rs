//! Measurements, side by side with QEMU in one run.

mod boot;
mod graph;
mod image;
mod jobs;
mod servers;
mod storage;
mod vhost;

use anyhow::Result;

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
