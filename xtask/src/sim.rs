//! Runs the seeded simulation of the block layer for longer than the tests do.

use std::process::Command;

use anyhow::{Context, Result, ensure};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// How many seeds
    #[arg(long, default_value_t = 10_000)]
    runs: u64,
    /// The first seed
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// The whole block layer; the packages below are parts of it, with other formats and graphs.
const WHOLE: &str = "simulation";

/// The packages that have a test `sim`: the core with a small format of the tests, and real qcow2 nodes.
const PACKAGES: [&str; 2] = ["block", "block-qcow2"];

pub(crate) fn run(args: Args) -> Result<()> {
    for package in PACKAGES {
        println!(
            "sim: {package}, seeds {} to {}",
            args.seed,
            args.seed.saturating_add(args.runs.saturating_sub(1))
        );
        let status = Command::new("cargo")
            .args(["test", "--release", "-p", package, "--test", "sim", "--", "--nocapture"])
            .env("RHEA_SIM_RUNS", args.runs.to_string())
            .env("RHEA_SIM_SEED", args.seed.to_string())
            .status()
            .context("starting cargo")?;
        ensure!(status.success(), "a difference: the seed stands above");
    }
    println!("sim: the whole");
    let numbers = [args.runs.to_string(), args.seed.to_string()];
    let status = Command::new("cargo")
        .args(["run", "--release", "-p", WHOLE, "--", "--runs", &numbers[0], "--seed", &numbers[1]])
        .status()
        .context("starting cargo")?;
    ensure!(status.success(), "a difference: the seed stands above");
    println!("sim: no difference");
    Ok(())
}
