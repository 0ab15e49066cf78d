//! Measurements, side by side with QEMU in one run.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::{DebianGuest, VmBuilder, rhea_binary};

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
}

pub(crate) fn run(args: Args) -> Result<()> {
    crate::test::build_release()?;
    match args.what {
        What::Boot { runs, smp } => boot(runs.max(1), smp),
    }
}

fn boot(runs: usize, smp: u32) -> Result<()> {
    let guest = crate::guests::make()?;
    let rhea = || VmBuilder::riscv64();
    let qemu = || VmBuilder::new("qemu-system-riscv64".into(), &[]);
    let have_qemu = Command::new("qemu-system-riscv64").arg("--version").output().is_ok();
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for i in 0..runs {
        println!("run {} of {runs}", i + 1);
        ours.push(boot_once(rhea(), &guest, smp)?);
        if have_qemu {
            theirs.push(boot_once(qemu(), &guest, smp)?);
        }
    }
    println!("Debian boot, {smp} hart(s), median of {runs}      to init     to the end");
    let ours = (median(ours.iter().map(|t| t.0)), median(ours.iter().map(|t| t.1)));
    println!("  rhea ({})  {:8.2} s  {:8.2} s", rhea_binary().display(), ours.0, ours.1);
    if theirs.is_empty() {
        println!("  qemu-system-riscv64 is not installed: no comparison");
        return Ok(());
    }
    let theirs = (median(theirs.iter().map(|t| t.0)), median(theirs.iter().map(|t| t.1)));
    println!("  qemu-system-riscv64  {:8.2} s  {:8.2} s", theirs.0, theirs.1);
    println!("  rhea / qemu          {:8.2}    {:8.2}", ours.0 / theirs.0, ours.1 / theirs.1);
    Ok(())
}

/// Seconds from the start to the guest's init, and to the end of the process.
fn boot_once(vm: VmBuilder, guest: &DebianGuest, smp: u32) -> Result<(f64, f64)> {
    let start = Instant::now();
    let mut vm = vm
        .args(["-m", "512", "-smp", &smp.to_string()])
        .args(["-kernel".into(), guest.kernel.display().to_string()])
        .args(["-initrd".into(), guest.initrd.display().to_string()])
        .args(["-append", "console=ttyS0 quiet rhea.test=boot"])
        .without_qmp()
        .start()?;
    vm.console.expect("RHEA: init of", Duration::from_secs(600))?;
    let init = start.elapsed().as_secs_f64();
    vm.console.expect("RHEA: PASS", Duration::from_secs(600))?;
    let (status, errors) = vm.wait(Duration::from_secs(60)).context("after the guest's power-off")?;
    ensure!(status.success(), "ended with {status}: {errors}");
    Ok((init, start.elapsed().as_secs_f64()))
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut v: Vec<f64> = values.collect();
    v.sort_by(f64::total_cmp);
    v[v.len() / 2]
}
