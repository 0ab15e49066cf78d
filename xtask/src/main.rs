//! `cargo xtask …`: the project's own commands.

mod bench;
mod check;
mod demo;
mod docs;
mod fuzz;
mod guests;
mod setup;
mod sim;
mod test;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Rhea's own commands. Each does the set-up that it needs.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Builds Rhea and runs its main job: a guest's backing file is exchanged while it does I/O
    Demo(demo::Args),
    /// Sets everything up and runs every test
    Test(test::Args),
    /// Formatting, lints, documentation, and the direction of the dependencies between crates
    Check,
    /// Fetches Debian's riscv64 kernel and busybox and makes the guests' disks under target/guests
    Guests(guests::Args),
    /// Writes the QMP reference (docs/qmp.md) from the contract's types
    Docs(docs::Args),
    /// Runs the block layer's seeded simulation for longer than the tests do
    Sim(sim::Args),
    /// Fuzzes what takes untrusted bytes
    Fuzz(fuzz::Args),
    /// Measures, side by side with QEMU where that is installed
    Bench(bench::Args),
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    // Commands run from the root, wherever they were called.
    std::env::set_current_dir(e2e::workspace())?;
    match Cli::parse().command {
        Command::Demo(args) => demo::run(args),
        Command::Test(args) => test::run(args),
        Command::Check => check::run(),
        Command::Guests(args) => guests::run(args),
        Command::Docs(args) => docs::run(args),
        Command::Sim(args) => sim::run(args),
        Command::Fuzz(args) => fuzz::run(args),
        Command::Bench(args) => bench::run(args),
    }
}
