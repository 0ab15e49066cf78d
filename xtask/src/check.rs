//! What must hold for the sources: formatting, lints, documentation, floors.

use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

/// The house, lowest floor first; in a floor, a crate may use those before it. A new crate gets its line here.
/// A star marks the crates that may contain `unsafe`.
const FLOORS: &[(&str, &[&str])] = &[
    ("base", &["base", "mem*", "rt*", "io", "trace"]),
    ("control", &["qapi-derive", "qapi", "api", "monitor", "crypto", "qom"]),
    (
        "storage",
        &[
            "block",
            "block-file*",
            "block-crypto",
            "block-formats",
            "block-filters",
            "block-test",
            "block-quorum",
            "block-qcow2",
            "nbd",
            "block-net",
            "block-http",
            "block-ssh",
            "block-rbd*",
            "export",
            "fuse",
            "ublk",
            "block-jobs",
            "image",
        ],
    ),
    ("guest", &["fpu", "sem", "isa-riscv", "disas", "jit*", "vcpu"]),
    ("hw", &["device", "serial", "virtio", "misc", "firmware", "machine"]),
    ("services", &["chardev", "vhost-user", "gdb"]),
];

pub(crate) fn run() -> Result<()> {
    floors()?;
    cargo("formatting", &["fmt", "--all", "--check"], &[])?;
    cargo("lints", &["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"], &[])?;
    cargo(
        "documentation",
        &["doc", "--quiet", "--workspace", "--no-deps", "--document-private-items"],
        &[("RUSTDOCFLAGS", "-D warnings -A rustdoc::private_intra_doc_links")],
    )?;
    println!("check: all clean");
    Ok(())
}

fn cargo(what: &str, args: &[&str], env: &[(&str, &str)]) -> Result<()> {
    println!("check: {what} (cargo {})", args.join(" "));
    let status =
        Command::new("cargo").args(args).envs(env.iter().copied()).status().context("starting cargo")?;
    ensure!(status.success(), "{what}: see above");
    Ok(())
}

/// Every crate stands on its floor, depends only downward, and says why if it allows `unsafe`.
fn floors() -> Result<()> {
    println!("check: floors");
    let order: Vec<(&str, &str, bool)> = FLOORS
        .iter()
        .flat_map(|(floor, crates)| {
            crates.iter().map(move |c| (*floor, c.trim_end_matches('*'), c.ends_with('*')))
        })
        .collect();
    let place = |name: &str| order.iter().position(|(_, c, _)| *c == name);
    let meta = e2e::run_tool("cargo", &["metadata", "--no-deps", "--format-version", "1"])?;
    let meta: serde_json::Value = serde_json::from_str(&meta)?;
    let mut faults = Vec::new();
    for package in meta["packages"].as_array().context("no packages")? {
        let name = package["name"].as_str().unwrap_or_default();
        let manifest = package["manifest_path"].as_str().unwrap_or_default();
        if !manifest.contains("/crates/") {
            continue;
        }
        let Some(here) = place(name) else {
            faults.push(format!("crate {name} has no place in the table of xtask/src/check.rs"));
            continue;
        };
        let (floor, _, may_unsafe) = order[here];
        if !manifest.ends_with(&format!("/crates/{floor}/{name}/Cargo.toml")) {
            faults.push(format!("crate {name} belongs to crates/{floor}/{name}"));
        }
        for dep in package["dependencies"].as_array().into_iter().flatten() {
            let on = dep["name"].as_str().unwrap_or_default();
            if dep["kind"].is_null() && dep["path"].is_string() {
                match place(on) {
                    Some(there) if there < here => {}
                    _ => faults.push(format!("crate {name} may not depend on {on}, which is not below it")),
                }
            }
        }
        let lib = manifest.replace("Cargo.toml", "src/lib.rs");
        let source = std::fs::read_to_string(&lib).unwrap_or_default();
        let allows = source.contains("allow(unsafe_code)");
        if allows && !may_unsafe {
            faults.push(format!("crate {name} allows unsafe code, but is not among those that may"));
        }
        if allows && !source.contains("UNSAFETY:") {
            faults.push(format!("crate {name} allows unsafe code without saying why (// UNSAFETY:)"));
        }
    }
    if !faults.is_empty() {
        bail!("the house is out of order:\n{}", faults.join("\n"));
    }
    Ok(())
}
