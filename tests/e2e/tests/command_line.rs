//! The command line: mistakes get an error that names the cause, and exit code 1.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::{Qmp, ScratchDir, embedded_guest, rhea_binary};
use serde_json::json;

/// Runs the binary under a name, with a time limit; gives the exit code, standard output and standard error.
fn run_as(name: Option<&str>, args: &[&str]) -> Result<(i32, String, String)> {
    let dir = ScratchDir::new("cli")?;
    let program = match name {
        Some(n) => {
            let link = dir.path().join(n);
            std::os::unix::fs::symlink(rhea_binary(), &link)?;
            link
        }
        None => rhea_binary(),
    };
    let out = Command::new("timeout").arg("20").arg(program).args(args).stdin(Stdio::null()).output()?;
    let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
    Ok((out.status.code().context("killed")?, text(&out.stdout), text(&out.stderr)))
}

fn system(args: &[&str]) -> Result<(i32, String, String)> {
    run_as(Some("qemu-system-riscv64"), args)
}

#[test]
fn mistakes_are_named() -> Result<()> {
    let dir = ScratchDir::new("bad")?;
    let bad_image = dir.file("bad.qcow2");
    std::fs::write(&bad_image, b"QFI\xfb\0\0\0\x03rubbish")?;
    let bad_tree = dir.file("bad.dtb");
    std::fs::write(&bad_tree, b"\xd0\x0d\xfe\xed\xff\xff\xff\xff no tree")?;
    let kernel = embedded_guest().display().to_string();
    let bad_drive = format!("driver=qcow2,node-name=n,file.driver=file,file.filename={bad_image}");
    let cases: &[(&[&str], &str)] = &[
        (&["-foo"], "-foo: invalid option"),
        (&["-kernel"], "-kernel: requires an argument"),
        (&["-M", "foo"], "unsupported machine type: \"foo\""),
        (&["-M", "virt", "-m", "12x"], "Parameter 'size' expects a non-negative number below 2^64"),
        (&["-M", "virt", "-device", "foo"], "'foo' is not a valid device model name"),
        (&["-M", "virt", "-device", "virtio-blk-device,foo=1"], "Property 'virtio-blk-device.foo' not found"),
        (
            &["-M", "virt", "-device", "virtio-blk-device,drive=x"],
            "Property 'virtio-blk-device.drive' can't find value 'x'",
        ),
        (&["-M", "virt", "-chardev", "foo,id=x"], "'foo' is not a valid char driver name"),
        (&["-M", "virt", "-blockdev", "foo"], "Parameter 'driver' does not accept value 'foo'"),
        (&["-M", "virt", "-blockdev", "driver=null-co,node-name=1bad"], "Invalid node-name: '1bad'"),
        (&["-M", "virt", "-blockdev", "{\"driver\": \"null-co\""], "JSON parse error"),
        (&["-M", "virt", "-blockdev", &bad_drive], "qcow2"),
        (&["-M", "virt", "-kernel", "/nonexistent"], "could not load kernel '/nonexistent'"),
        (&["-M", "virt", "-kernel", &kernel, "-dtb", &bad_tree], "bad.dtb"),
        (&["-M", "virt", "-object", "foo,id=x"], "foo"),
        (&["-M", "virt", "-smp", "9999"], "Invalid SMP CPUs 9999"),
        (&["-M", "virt", "-cpu", "foo"], "unable to find CPU model 'foo'"),
        (&["-M", "virt", "-sandbox", "on"], "-sandbox: Rhea does not have this option yet"),
        (&["-M", "virt", "-qmp", "unix:/nonexistent/socket,server=on,wait=off"], "/nonexistent/socket"),
    ];
    for (args, wanted) in cases {
        let args = [args, &["-display", "none", "-S"][..]].concat();
        // The mistake comes last where it is the missing argument.
        let args = if args[0] == "-kernel" && args[1] == "-display" { vec!["-kernel"] } else { args };
        let (code, _, errors) = system(&args)?;
        ensure!(code == 1, "{args:?} ended with {code}: {errors}");
        ensure!(errors.contains(wanted), "{args:?} said {errors:?}, not {wanted:?}");
        ensure!(errors.starts_with("qemu-system-riscv64: "), "{errors:?}");
        ensure!(!errors.contains("panicked"), "{errors}");
    }
    Ok(())
}

#[test]
fn help_and_version() -> Result<()> {
    let (code, out, _) = run_as(None, &["vm", "--arch", "riscv64", "--version"])?;
    ensure!(code == 0 && out.starts_with("QEMU emulator version 10.0.2 ("), "{out}");
    let (code, out, _) = run_as(None, &["vm", "--arch", "riscv64", "-h"])?;
    ensure!(code == 0 && out.contains("-blockdev"), "{out}");
    let (code, out, _) = run_as(None, &["--help"])?;
    ensure!(code == 0 && out.contains("rhea vm") && out.contains("rhea img"), "{out}");
    for (args, word) in [
        (&["-machine", "help"][..], "virt "),
        (&["-cpu", "help"], "rv64"),
        (&["-device", "help"], "name \"virtio-blk-device\", bus virtio-bus"),
        (&["-device", "virtio-blk-device,help"], "drive=<str>"),
        (&["-object", "help"], "rng-random"),
        (&["-chardev", "help"], "socket"),
        (&["-d", "help"], "guest_errors"),
    ] {
        let (code, out, errors) = system(args)?;
        ensure!(code == 0 && out.contains(word), "{args:?}: {code} {out} {errors}");
    }
    let (code, out, _) = run_as(Some("qemu-img"), &["--version"])?;
    ensure!(code == 0 && out.starts_with("qemu-img version 10.0.2"), "{out}");
    Ok(())
}

#[test]
fn a_daemon_is_ready_when_its_parent_ends() -> Result<()> {
    let dir = ScratchDir::new("daemon")?;
    let (socket, pidfile) = (dir.file("qmp.sock"), dir.file("pid"));
    let (code, _, errors) = system(&[
        "-S",
        "-no-user-config",
        "-nodefaults",
        "-nographic",
        "-machine",
        "none,accel=kvm:tcg",
        "-qmp",
        &format!("unix:{socket},server=on,wait=off"),
        "-pidfile",
        &pidfile,
        "-daemonize",
    ])?;
    ensure!(code == 0, "{code}: {errors}");
    // No waiting here: the socket listens and the file is written.
    let pid = std::fs::read_to_string(&pidfile)?.trim().to_string();
    ensure!(std::path::Path::new("/proc").join(&pid).exists(), "no process {pid}");
    let mut qmp = Qmp::connect(socket.as_ref(), Duration::ZERO)?;
    qmp.run("query-status", json!({}))?;
    qmp.run("quit", json!({}))?;
    let end = Instant::now() + Duration::from_secs(10);
    while std::path::Path::new(&pidfile).exists() {
        ensure!(Instant::now() < end, "the pid file is still there");
        std::thread::sleep(Duration::from_millis(10));
    }
    // A mistake is the parent's exit code and message.
    let (code, _, errors) = system(&["-M", "virt", "-device", "foo", "-daemonize", "-display", "none"])?;
    ensure!(code == 1 && errors.contains("'foo' is not a valid device model name"), "{code} {errors}");
    Ok(())
}

#[test]
fn nobody_has_to_read_what_is_printed() -> Result<()> {
    for args in [
        &["--help"][..],
        &["--foo"],
        &["storage-daemon", "--help"],
        &["storage-daemon", "--trace", "help"],
        &["storage-daemon", "--foo"],
        &["nbd", "--help"],
        &["nbd", "--foo"],
        &["img", "--help"],
        &["img", "foo"],
        &["io", "--foo"],
        &["vm", "--arch", "riscv64", "-h"],
        &["vm", "--arch", "riscv64", "-foo"],
    ] {
        // Pipes whose other ends are closed before the program writes.
        let closed = || {
            let (reader, writer) = std::io::pipe()?;
            drop(reader);
            anyhow::Ok(writer)
        };
        let status = Command::new(rhea_binary())
            .args(args)
            .stdin(Stdio::null())
            .stdout(closed()?)
            .stderr(closed()?)
            .status()?;
        ensure!(matches!(status.code(), Some(0 | 1)), "{args:?}: {status}");
    }
    Ok(())
}
