//! The main job, shown: a running guest's disk gets another backing file, and the guest itself proves it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::{DebianGuest, Qmp, ScratchDir, Vm, VmBuilder, embedded_guest, rhea_binary, run_tool};
use serde_json::{Value, json};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only the embedded guest, which needs nothing but the repository
    #[arg(long)]
    embedded_only: bool,
}

/// Prints what happens, with the time since the start.
struct Teller {
    start: Instant,
}

impl Teller {
    fn part(&self, title: &str) {
        println!("\n== {title} {}", "=".repeat(92usize.saturating_sub(title.len())));
    }

    fn say(&self, text: &str) {
        println!("{:7.2}s  {text}", self.start.elapsed().as_secs_f64());
    }

    /// Text of several lines, set in.
    fn show(&self, text: &str) {
        for line in text.lines().filter(|l| !l.trim().is_empty()) {
            println!("          | {line}");
        }
    }
}

pub(crate) fn run(args: Args) -> Result<()> {
    crate::setup::run(if args.embedded_only { &["build"] } else { &["build", "guests"] })?;
    crate::test::build_release()?;
    let t = Teller { start: Instant::now() };
    t.part("1. Embedded guest: a program of ours on the bare riscv64 machine");
    embedded(&t).context("the embedded guest's part failed")?;
    if args.embedded_only {
        println!("\nDone: everything that the embedded guest claims held.");
        return Ok(());
    }
    t.part("2. Debian guest: Debian's riscv64 kernel, ext4 on the overlay");
    match crate::guests::make() {
        Ok(guest) => {
            debian(&t, &guest).context("the Debian guest's part failed")?;
            println!("\nDone: everything that both guests claim held.");
        }
        Err(e) => {
            println!("The Debian guest cannot be made here: {e:#}");
            println!("\nDone: everything that the embedded guest claims held; the Debian guest was not run.");
        }
    }
    Ok(())
}

/// What both parts have in common: an overlay `disk` whose file node is `disk-file`, on the node `base-a`.
struct Disk {
    base_a: String,
    base_b: String,
    overlay: String,
    base_driver: &'static str,
}

impl Disk {
    fn blockdevs(&self) -> [String; 6] {
        let node = |v: Value| ["-blockdev".to_string(), v.to_string()];
        let [a, b] = node(json!({
            "driver": self.base_driver, "node-name": "base-a", "read-only": true,
            "file": { "driver": "file", "node-name": "base-a-file", "filename": self.base_a, "auto-read-only": true }
        }));
        let [c, d] = node(json!({
            "driver": "file", "node-name": "disk-file", "filename": self.overlay, "auto-read-only": true
        }));
        let [e, f] =
            node(json!({ "driver": "qcow2", "node-name": "disk", "file": "disk-file", "backing": "base-a" }));
        [a, b, c, d, e, f]
    }

    /// Builds the new backing node, exchanges it for the old one, and takes the old one down.
    fn swap(&self, t: &Teller, vm: &mut Vm) -> Result<()> {
        t.say("the graph before:");
        t.show(&graph(vm.qmp())?);
        self.show_descriptors(t, vm)?;
        let add = json!({
            "driver": self.base_driver, "node-name": "base-b", "read-only": true,
            "file": { "driver": "file", "node-name": "base-b-file", "filename": self.base_b, "auto-read-only": true }
        });
        t.say(&format!("QMP blockdev-add {add}"));
        vm.qmp().run("blockdev-add", add)?;
        // What cannot be is refused, and nothing has changed.
        let cycle = json!({ "options": [{
            "driver": "qcow2", "node-name": "disk", "file": "disk-file", "backing": "disk"
        }]});
        if let Err(e) = vm.qmp().try_run("blockdev-reopen", cycle)? {
            t.say(&format!("QMP a cycle is refused: \"{}\"", e.desc));
        } else {
            anyhow::bail!("a cycle was accepted");
        }
        let reopen = json!({ "options": [{
            "driver": "qcow2", "node-name": "disk", "file": "disk-file", "backing": "base-b"
        }]});
        t.say(&format!("QMP blockdev-reopen {reopen}"));
        let began = Instant::now();
        vm.qmp().run("blockdev-reopen", reopen)?;
        t.say(&format!(
            "    done in {:.1} ms, with the guest's requests in flight",
            began.elapsed().as_secs_f64() * 1e3
        ));
        vm.qmp().run("blockdev-del", json!({ "node-name": "base-a" }))?;
        t.say("QMP blockdev-del base-a: the old backing file is closed");
        t.say("the graph after:");
        t.show(&graph(vm.qmp())?);
        self.show_descriptors(t, vm)
    }

    /// Which image files the process holds open, and how: auto-read-only at work.
    fn show_descriptors(&self, t: &Teller, vm: &Vm) -> Result<()> {
        let mut lines = Vec::new();
        let pid = vm.pid();
        for entry in std::fs::read_dir(format!("/proc/{pid}/fd"))? {
            let entry = entry?;
            let Ok(target) = std::fs::read_link(entry.path()) else { continue };
            let target = target.display().to_string();
            if ![&self.base_a, &self.base_b, &self.overlay].contains(&&target) {
                continue;
            }
            let info =
                std::fs::read_to_string(format!("/proc/{pid}/fdinfo/{}", entry.file_name().display()))?;
            let flags = info.lines().find_map(|l| l.strip_prefix("flags:")).unwrap_or("0").trim().to_string();
            let writable = u32::from_str_radix(&flags, 8)? & 3 != 0;
            let name = target.rsplit('/').next().unwrap_or_default().to_string();
            let is_overlay = target == self.overlay;
            ensure!(
                writable == is_overlay,
                "{name} is open {}",
                if writable { "for writing" } else { "read-only" }
            );
            lines.push(format!("{name}: open {}", if writable { "read-write" } else { "read-only" }));
        }
        lines.sort();
        t.say(&format!("descriptors: {}", lines.join(", ")));
        Ok(())
    }
}

/// The nodes and who uses whom, as a drawing.
fn graph(qmp: &mut Qmp) -> Result<String> {
    let text = qmp.run("human-monitor-command", json!({ "command-line": "info block-graph" }))?;
    Ok(text.as_str().unwrap_or_default().to_string())
}

/// The word of the overlay's own check, and that of other people's tool where it is installed.
fn check_image(t: &Teller, path: &str) -> Result<()> {
    let rhea = rhea_binary();
    let said = run_tool(&rhea, &["img", "check", path])?;
    t.say(&format!("rhea img check: {}", said.lines().next().unwrap_or_default()));
    if std::process::Command::new("qemu-img").arg("--version").output().is_ok() {
        let said = run_tool("qemu-img", &["check", path])?;
        t.say(&format!("qemu-img check: {}", said.lines().next().unwrap_or_default()));
    }
    Ok(())
}

fn guest_line(line: &str) {
    println!("          > {line}");
}

fn embedded(t: &Teller) -> Result<()> {
    let dir = ScratchDir::new("demo")?;
    let rhea = rhea_binary();
    let disk = Disk {
        base_a: dir.file("base-a.qcow2"),
        base_b: dir.file("base-b.qcow2"),
        overlay: dir.file("overlay.qcow2"),
        base_driver: "qcow2",
    };
    let kernel = embedded_guest().display().to_string();
    for (path, pattern) in [(&disk.base_a, 1), (&disk.base_b, 2)] {
        t.say(&format!(
            "rhea img create -f qcow2 {} 16M, and the guest fills it with pattern {pattern}",
            name(path)
        ));
        run_tool(&rhea, &["img", "create", "-q", "-f", "qcow2", path, "16M"])?;
        let vm = VmBuilder::riscv64()
            .args(["-m", "128", "-kernel", &kernel, "-append", &format!("fill={pattern}")])
            .args(["-drive", &format!("file={path},format=qcow2,if=none,id=d")])
            .args(["-device", "virtio-blk-device,drive=d"])
            .without_qmp()
            .start()?;
        finish(vm, "PASS")?;
    }
    t.say(&format!("rhea img create -f qcow2 -b {} -F qcow2 {}", name(&disk.base_a), name(&disk.overlay)));
    run_tool(
        &rhea,
        &["img", "create", "-q", "-f", "qcow2", "-b", &disk.base_a, "-F", "qcow2", &disk.overlay],
    )?;
    t.say("rhea vm --arch riscv64 -M virt -kernel embedded.elf -append swap=1,2 -blockdev … -device virtio-blk-device,drive=disk");
    let mut vm = VmBuilder::riscv64()
        .args(["-m", "128", "-kernel", &kernel, "-append", "swap=1,2"])
        .args(disk.blockdevs())
        .args(["-device", "virtio-blk-device,drive=disk"])
        .on_line(guest_line)
        .start()?;
    vm.console.expect("ready:", Duration::from_secs(60))?;
    disk.swap(t, &mut vm)?;
    vm.console.expect("swapped: seen after", Duration::from_secs(60))?;
    finish(vm, "PASS")?;
    t.say("the guest has switched the machine off");
    check_image(t, &disk.overlay)
}

fn debian(t: &Teller, guest: &DebianGuest) -> Result<()> {
    let dir = ScratchDir::new("demo-debian")?;
    let disk = Disk {
        base_a: guest.disk_a.display().to_string(),
        base_b: guest.disk_b.display().to_string(),
        overlay: dir.file("overlay.qcow2"),
        base_driver: "raw",
    };
    run_tool(
        rhea_binary(),
        &["img", "create", "-q", "-f", "qcow2", "-b", &disk.base_a, "-F", "raw", &disk.overlay],
    )?;
    t.say("rhea vm --arch riscv64 -M virt -m 512 -smp 2 -kernel vmlinux -initrd initrd …");
    let mut vm = VmBuilder::riscv64()
        .args(["-m", "512", "-smp", "2"])
        .args(["-kernel".into(), guest.kernel.display().to_string()])
        .args(["-initrd".into(), guest.initrd.display().to_string()])
        .args(["-append", "console=ttyS0 quiet rhea.test=swap"])
        .args(disk.blockdevs())
        .args(["-device", "virtio-blk-device,drive=disk"])
        .on_line(guest_line)
        .start()?;
    let began = Instant::now();
    vm.console.expect("RHEA: init of", Duration::from_secs(120))?;
    t.say(&format!("the kernel reached its init after {:.1} s", began.elapsed().as_secs_f64()));
    let marker = vm.console.expect("RHEA: marker", Duration::from_secs(300))?;
    ensure!(marker.ends_with("backing-A"), "the guest read '{marker}' before the swap");
    vm.console.expect("RHEA: ready for the swap", Duration::from_secs(300))?;
    disk.swap(t, &mut vm)?;
    vm.console.send("swapped\n")?;
    let marker = vm.console.expect("RHEA: marker", Duration::from_secs(300))?;
    ensure!(marker.ends_with("backing-B"), "the guest read '{marker}' after the swap");
    finish(vm, "RHEA: PASS")?;
    t.say("Debian has unmounted its disk and switched the machine off");
    check_image(t, &disk.overlay)
}

/// Waits for the guest's last word and for the machine to end as it should.
fn finish(mut vm: Vm, word: &str) -> Result<()> {
    vm.console.expect(word, Duration::from_secs(300))?;
    let (status, errors) = vm.wait(Duration::from_secs(30))?;
    ensure!(status.success(), "rhea ended with {status}: {errors}");
    Ok(())
}

fn name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}
