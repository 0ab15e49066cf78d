//! Runs every test, after all set-up.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only tests whose name contains this
    filter: Option<String>,
    /// Does not install packages nor make the Debian guest; tests that miss something say so
    #[arg(long)]
    no_setup: bool,
}

pub(crate) fn run(args: Args) -> Result<()> {
    if !args.no_setup {
        crate::setup::run(&["build", "guests", "tests"])?;
        if let Err(e) = crate::guests::make() {
            println!("test: no Debian guest, its tests will be skipped: {e:#}");
        }
    }
    build_release()?;
    let mut command = Command::new("cargo");
    command.args(["test", "--workspace", "--no-fail-fast", "--"]).arg("--show-output");
    command.args(&args.filter).env("RHEA_BIN", e2e::rhea_binary());
    let mut child = command.stdout(Stdio::piped()).spawn().context("starting cargo")?;
    let output = child.stdout.take().context("no output")?;
    let mut skipped = Vec::new();
    // What passing tests print is left out, but for the word that they were skipped.
    let mut in_successes = false;
    let mut quiet = false;
    for line in BufReader::new(output).lines() {
        let line = line?;
        if line.starts_with("skipped: ") {
            skipped.push(line.clone());
        }
        match line.as_str() {
            "successes:" => in_successes = true,
            "failures:" => in_successes = false,
            l if l.starts_with("test result:") => in_successes = false,
            _ => {}
        }
        // One blank line is enough.
        let blank_again = quiet && line.is_empty();
        if !(in_successes || blank_again) {
            println!("{line}");
        }
        quiet = line.is_empty() || in_successes;
    }
    let status = child.wait()?;
    skipped.sort();
    skipped.dedup();
    for s in &skipped {
        println!("{s}");
    }
    ensure!(status.success(), "tests failed");
    println!("test: all passed, {} reasons to skip", skipped.len());
    Ok(())
}

/// Builds the release binary that end-to-end tests, demo and benchmarks run.
pub(crate) fn build_release() -> Result<()> {
    println!("building rhea (release)");
    let status = Command::new("cargo")
        .args(["build", "--release", "-p", "rhea"])
        .status()
        .context("starting cargo")?;
    ensure!(status.success(), "the build failed");
    Ok(())
}
