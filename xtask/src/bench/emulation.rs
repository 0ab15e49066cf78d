//! How fast guest code runs: loads of `tests/guests/bench`, under Debian's kernel, in Rhea and in QEMU.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::{DebianGuest, VmBuilder, rhea_binary, run_tool, workspace};

use super::{children, median};

#[derive(clap::Args)]
pub(super) struct Args {
    /// How often each is run; the medians are printed
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// How many harts the guest has; with two, some loads run twice at once
    #[arg(long, default_value_t = 2)]
    smp: u32,
}

/// Loads that compute with integers, and with floating point, whose means are printed.
const INTEGER: [&str; 5] = ["sha256", "sort", "compress", "search", "chase"];
const FLOAT: [&str; 5] = ["matmul-f64", "matmul-f32", "nbody", "fft", "convert"];

/// What one run showed: each load's name, seconds by the guest's clock, and result.
struct Run {
    loads: Vec<(String, f64, u64)>,
    /// From the process's start to its end, and its processor time, seconds.
    wall: f64,
    cpu: f64,
}

pub(super) fn run(args: &Args) -> Result<()> {
    crate::setup::run(&["guests", "tests"])?;
    let mut guest = crate::guests::make()?;
    guest.initrd = initrd(&guest, &program()?)?;
    let have_qemu = Command::new("qemu-system-riscv64").arg("--version").output().is_ok();
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for i in 0..args.runs.max(1) {
        println!("run {} of {}", i + 1, args.runs.max(1));
        ours.push(once(VmBuilder::riscv64(), &guest, args.smp)?);
        if have_qemu {
            theirs.push(once(VmBuilder::new("qemu-system-riscv64".into(), &[]), &guest, args.smp)?);
        }
    }
    println!("seconds, median of {}; {}", ours.len(), rhea_binary().display());
    if !have_qemu {
        println!("qemu-system-riscv64 is not installed: no comparison");
    }
    let mut speeds = Vec::new();
    for (n, (name, ..)) in ours[0].loads.iter().enumerate() {
        let of = |runs: &[Run]| median(runs.iter().filter_map(|r| r.loads.get(n)).map(|l| l.1));
        let a = of(&ours);
        if theirs.is_empty() {
            println!("  {name:14} rhea {a:7.3}");
            continue;
        }
        let b = of(&theirs);
        ensure!(
            theirs[0].loads.get(n).is_some_and(|l| l.2 == ours[0].loads[n].2),
            "{name} computed another result than under qemu"
        );
        println!("  {name:14} rhea {a:7.3}   qemu {b:7.3}   times as fast {:5.2}", b / a);
        speeds.push((name.as_str(), b / a));
    }
    for (what, of) in [("wall time", (|r: &Run| r.wall) as fn(&Run) -> f64), ("processor time", |r| r.cpu)] {
        let a = median(ours.iter().map(of));
        if theirs.is_empty() {
            println!("  {what:14} rhea {a:7.3}");
        } else {
            let b = median(theirs.iter().map(of));
            println!("  {what:14} rhea {a:7.3}   qemu {b:7.3}   rhea / qemu   {:5.2}", a / b);
        }
    }
    for (what, names) in [("integer", INTEGER), ("floating point", FLOAT)] {
        let logs: Vec<f64> = speeds.iter().filter(|(n, _)| names.contains(n)).map(|(_, s)| s.ln()).collect();
        if !logs.is_empty() {
            let mean = (logs.iter().sum::<f64>() / logs.len() as f64).exp();
            println!("  {what}: {mean:.2} times as fast as qemu (geometric mean)");
        }
    }
    Ok(())
}

/// The program, built anew by Debian's cross compiler.
fn program() -> Result<PathBuf> {
    let dir = workspace().join("target/bench");
    std::fs::create_dir_all(&dir)?;
    let to = dir.join("bench.elf");
    let source = workspace().join("tests/guests/bench/bench.c");
    let mut args: Vec<String> =
        "-O2 -static -nostdlib -ffreestanding -fno-stack-protector -fno-pie -no-pie -march=rv64gc \
         -mabi=lp64d -Wall -Wextra -Werror -fno-tree-loop-distribute-patterns -o"
            .split_whitespace()
            .map(str::to_owned)
            .collect();
    args.push(to.display().to_string());
    args.push(source.display().to_string());
    run_tool("riscv64-linux-gnu-gcc", &args)?;
    Ok(to)
}

/// The guest's initrd with another init: a second archive behind the first replaces its files.
fn initrd(guest: &DebianGuest, init: &Path) -> Result<PathBuf> {
    let to = workspace().join("target/bench/initrd");
    let mut all = std::fs::read(&guest.initrd)?;
    all.resize(all.len().next_multiple_of(4), 0);
    all.extend(crate::guests::archive_of_init(&std::fs::read(init)?)?);
    std::fs::write(&to, all)?;
    Ok(to)
}

fn once(vm: VmBuilder, guest: &DebianGuest, smp: u32) -> Result<Run> {
    let (start, cpu) = (Instant::now(), children()?);
    let mut vm = vm
        .args(["-m", "512", "-smp", &smp.to_string()])
        .args(["-kernel".into(), guest.kernel.display().to_string()])
        .args(["-initrd".into(), guest.initrd.display().to_string()])
        .args(["-append", "console=ttyS0 quiet"])
        .without_qmp()
        .start()?;
    vm.console.expect("BENCH end", Duration::from_secs(1800))?;
    let text = vm.console.text();
    let (status, errors) = vm.wait(Duration::from_secs(60)).context("after the guest's power-off")?;
    ensure!(status.success(), "ended with {status}: {errors}");
    let loads = text.lines().filter_map(load).collect();
    Ok(Run { loads, wall: start.elapsed().as_secs_f64(), cpu: children()? - cpu })
}

/// A line of the guest's: `BENCH name nanoseconds result`.
fn load(line: &str) -> Option<(String, f64, u64)> {
    let mut words = line.trim().strip_prefix("BENCH ")?.split_whitespace();
    let (name, ns, result) = (words.next()?, words.next()?.parse::<f64>().ok()?, words.next()?.parse().ok()?);
    (ns > 0.0).then(|| (name.to_owned(), ns / 1e9, result))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_guest() {
        assert_eq!(load("BENCH sort 1500000000 7\r"), Some(("sort".into(), 1.5, 7)));
        assert_eq!(load("BENCH begin 0 0"), None);
        assert_eq!(load("[    1.0] BENCH"), None);
    }
}
