//! Installs the Debian packages that packages.txt lists.

use std::process::{Command, Stdio};

use anyhow::{Context, Result};

const LIST: &str = include_str!("../packages.txt");

/// The packages of the list: their purpose (`build`, `guests`, `tests`, `bench`) and the alternatives.
fn packages() -> impl Iterator<Item = (&'static str, Vec<&'static str>)> {
    LIST.lines().filter(|l| !l.starts_with('#')).filter_map(|l| {
        let (purpose, rest) = l.split_once(':')?;
        Some((purpose, rest.split_whitespace().next()?.split('|').collect()))
    })
}

fn installed(package: &str) -> bool {
    Command::new("dpkg-query")
        .args(["-W", "-f", "${Status}", package])
        .stderr(Stdio::null())
        .output()
        .is_ok_and(|o| String::from_utf8_lossy(&o.stdout).ends_with("ok installed"))
}

fn known_to_apt(package: &str) -> bool {
    Command::new("apt-cache")
        .args(["show", "--no-all-versions", package])
        .stderr(Stdio::null())
        .output()
        .is_ok_and(|o| o.status.success() && !o.stdout.is_empty())
}

/// Whether this process may install packages.
fn is_root() -> bool {
    Command::new("id").arg("-u").output().is_ok_and(|o| o.stdout == b"0\n")
}

/// Installs what is missing of the packages for the given purposes, or says what to run where it may not.
///
/// A machine without apt, or without a reachable mirror, is no error: what needs a package says so itself.
pub(crate) fn run(purposes: &[&str]) -> Result<()> {
    let wanted: Vec<_> = packages().filter(|(p, _)| purposes.contains(p)).map(|(_, names)| names).collect();
    let missing: Vec<_> = wanted.into_iter().filter(|names| !names.iter().any(|n| installed(n))).collect();
    if missing.is_empty() {
        return Ok(());
    }
    if Command::new("apt-get").arg("--version").stdout(Stdio::null()).status().is_err() {
        let names: Vec<_> = missing.iter().map(|n| n[0]).collect();
        println!("set-up: no apt here; please install what corresponds to: {}", names.join(" "));
        return Ok(());
    }
    if is_root() {
        println!("set-up: apt-get update");
        let status = Command::new("apt-get").args(["update", "-q"]).stdout(Stdio::null()).status();
        if !status.context("starting apt-get")?.success() {
            println!("set-up: apt-get update failed; going on with the package lists that are there");
        }
    }
    let names: Vec<&str> =
        missing.iter().map(|n| n.iter().copied().find(|p| known_to_apt(p)).unwrap_or(n[0])).collect();
    let line = format!("apt-get install -y --no-install-recommends {}", names.join(" "));
    if !is_root() {
        println!(
            "set-up: packages are missing, and installing them takes root. Please run:\n    sudo {line}"
        );
        println!("set-up: going on without them; what needs them will say so");
        return Ok(());
    }
    println!("set-up: {line}");
    let status = Command::new("apt-get")
        .args(["install", "-y", "-q", "--no-install-recommends"])
        .args(&names)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .context("starting apt-get")?;
    if !status.success() {
        println!("set-up: that failed; going on without, what needs the packages will say so");
    }
    Ok(())
}
