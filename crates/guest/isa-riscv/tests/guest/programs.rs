//! Programs for the privileged architecture, in C.

use crate::bench::{TempDir, run_here, run_there};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Compiles `programs/<name>.c` to a raw image; `None`, having said why, if there is no compiler.
fn build(name: &str, dir: &Path) -> Option<Vec<u8>> {
    let src: PathBuf = [env!("CARGO_MANIFEST_DIR"), "tests", "guest", "programs"].iter().collect();
    let elf = dir.join("program.elf");
    let bin = dir.join("program.bin");
    let done = Command::new("riscv64-linux-gnu-gcc")
        .args(["-march=rv64gc", "-mabi=lp64d", "-mcmodel=medany", "-O2", "-Wall", "-nostdlib", "-static"])
        .args(["-ffreestanding", "-fno-pic", "-no-pie", "-fno-stack-protector", "-Wl,--build-id=none"])
        .arg("-T")
        .arg(src.join("link.ld"))
        .arg("-o")
        .arg(&elf)
        .arg(src.join("start.S"))
        .arg(src.join(format!("{name}.c")))
        .output();
    let done = match done {
        Ok(d) => d,
        Err(e) => {
            println!("skipped: riscv64-linux-gnu-gcc: {e}");
            return None;
        }
    };
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let copied = Command::new("riscv64-linux-gnu-objcopy")
        .args(["-O", "binary"])
        .arg(&elf)
        .arg(&bin)
        .status()
        .unwrap();
    assert!(copied.success());
    Some(std::fs::read(bin).unwrap())
}

fn compare(name: &str) {
    let dir = TempDir::new(name);
    let Some(image) = build(name, &dir.0) else { return };
    let here = run_here(&image);
    assert!(here.len() > 100, "{name}: only {} bytes", here.len());
    let Some(there) = run_there(&image, &dir.0) else { return };
    if here != there {
        let at = here.iter().zip(&there).position(|(a, b)| a != b).unwrap_or(here.len().min(there.len()));
        let near = |v: &[u8]| v[at.saturating_sub(48).min(v.len())..(at + 32).min(v.len())].to_vec();
        panic!(
            "{name}: byte {at} of {} and {}; from 48 bytes before:\nhere  {:02x?}\nthere {:02x?}",
            here.len(),
            there.len(),
            near(&here),
            near(&there)
        );
    }
}

#[test]
fn page_tables_permit_the_same_accesses() {
    compare("paging");
}

#[test]
fn exceptions_and_modes_are_the_same() {
    compare("traps");
}

#[test]
fn interrupts_are_taken_in_the_same_order() {
    compare("interrupts");
}

#[test]
fn memory_protection_permits_the_same_accesses() {
    compare("pmp");
}
