//! How long the Debian guest takes to boot.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::{DebianGuest, VmBuilder, rhea_binary};

use super::median;

pub(super) fn run(runs: usize, smp: u32) -> Result<()> {
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
