//! Runs the fuzz targets under libFuzzer, guided by coverage.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// What is fuzzed; everything, one after another, unless given
    target: Option<String>,
    /// For how long each is fuzzed
    #[arg(long, default_value_t = 600)]
    seconds: u64,
    /// How many processes fuzz at a time
    #[arg(long, default_value_t = 1)]
    jobs: u32,
}

/// Has the compiler count which edges are taken and tell libFuzzer what is compared, and keeps checks in.
const FLAGS: &[&str] = &[
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Cdebug-assertions=on",
    "-Coverflow-checks=on",
];

/// An input may take so many seconds, and so many MiB.
const SLOW: u32 = 20;
const BIG: u32 = 2048;

pub(crate) fn run(args: Args) -> Result<()> {
    crate::setup::run(&["build", "fuzz"])?;
    let host = host()?;
    let dir = PathBuf::from("target/fuzz");
    let corpus = dir.join("corpus");
    let all = e2e::run_tool(
        "cargo",
        &["run", "--quiet", "-p", "fuzz", "--bin", "fuzz-seeds", "--", &corpus.to_string_lossy()],
    )?;
    let all: Vec<&str> = all.lines().collect();
    let names = match args.target.as_deref() {
        None => all,
        Some(name) if all.contains(&name) => vec![name],
        Some(name) => bail!("no target '{name}': there are {}", all.join(", ")),
    };
    println!("fuzz: building (into {})", dir.display());
    let status = Command::new("cargo")
        .args(["build", "--release", "-p", "fuzz", "--features", "libfuzzer", "--target", &host])
        .args(names.iter().flat_map(|name| ["--bin".to_string(), format!("fuzz-{name}")]))
        .arg("--target-dir")
        .arg(&dir)
        // Not the build scripts: flags count for the target alone where one is given.
        .env("RUSTFLAGS", FLAGS.join(" "))
        .env("CARGO_PROFILE_RELEASE_LTO", "off")
        .status()
        .context("starting cargo")?;
    ensure!(status.success(), "the fuzz targets were not built");
    let bin = dir.join(&host).join("release");
    for name in names {
        fuzz(name, &bin, &dir, &args)?;
    }
    println!("fuzz: no finding");
    Ok(())
}

fn fuzz(name: &str, bin: &Path, dir: &Path, args: &Args) -> Result<()> {
    println!("fuzz: {name}, {} s", args.seconds);
    let findings = dir.join("findings").join(name);
    std::fs::create_dir_all(&findings)?;
    let status = Command::new(bin.join(format!("fuzz-{name}")))
        .arg(dir.join("corpus").join(name))
        .arg(format!("-artifact_prefix={}/", findings.display()))
        .arg(format!("-max_total_time={}", args.seconds))
        .arg(format!("-timeout={SLOW}"))
        .arg(format!("-rss_limit_mb={BIG}"))
        .arg(format!("-fork={}", args.jobs))
        .status()
        .with_context(|| format!("starting fuzz-{name}"))?;
    ensure!(status.success(), "a finding: the input is in {}", findings.display());
    Ok(())
}

/// The target triple of this machine.
fn host() -> Result<String> {
    let text = e2e::run_tool("rustc", &["-vV"])?;
    let host = text.lines().find_map(|l| l.strip_prefix("host: ")).context("rustc tells no host")?;
    Ok(host.to_string())
}
