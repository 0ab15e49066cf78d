//! What management tools do with the disk of a machine, step by step as they do it: transcripts in the language of the crate
//! `rules`, against Rhea and, where it is installed, against QEMU.
//!
//! `RHEA_OPERATION=word` runs only those whose name contains the word.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use e2e::{ScratchDir, Vm, VmBuilder, rhea_binary, run_tool, skip};
use rules::{Answer, Peer, run};

/// A machine that has not started, with a disk `disk` over `base`.
struct Machine {
    vm: Option<Vm>,
    pid: u32,
    reference: bool,
}

impl Machine {
    fn start(builder: VmBuilder, dir: &Path, reference: bool) -> Result<Machine> {
        let file = |name: &str| dir.join(name).display().to_string();
        let mut args: Vec<String> = vec!["-S".into(), "-nodefaults".into()];
        for (name, backing) in [("base", "null"), ("disk", r#""base""#)] {
            let read_only = name == "base";
            args.extend([
                "-blockdev".into(),
                format!(
                    r#"{{"driver":"file","filename":"{}","node-name":"{name}-file","auto-read-only":true,"discard":"unmap"}}"#,
                    file(&format!("{name}.qcow2"))
                ),
                "-blockdev".into(),
                format!(
                    r#"{{"node-name":"{name}","read-only":{read_only},"discard":"unmap","driver":"qcow2","file":"{name}-file","backing":{backing}}}"#
                ),
            ]);
        }
        args.extend([
            "-device".into(),
            r#"{"driver":"virtio-blk-device","drive":"disk","id":"virtio-disk0","bootindex":1}"#.into(),
        ]);
        let vm = builder.args(args).start()?;
        Ok(Machine { pid: vm.pid(), vm: Some(vm), reference })
    }

    fn try_call(&mut self, command: &str, arguments: &qapi::Value) -> Result<Answer> {
        let vm = self.vm.as_mut().context("the machine is gone")?;
        let answer = vm.qmp().try_run(command, serde_json::from_str(&arguments.to_json())?)?;
        if command == "quit"
            && let Some(vm) = self.vm.take()
        {
            vm.wait(Duration::from_secs(30))?;
        }
        Ok(match answer {
            Ok(v) => Ok(value(&v)?),
            Err(e) => Err((e.class, e.desc)),
        })
    }

    fn try_events(&mut self) -> Result<Vec<qapi::Value>> {
        let vm = self.vm.as_mut().context("the machine is gone")?;
        let mut events = Vec::new();
        // A drain shows in the reference as a job that is paused for a moment, whenever it happens.
        let mut resumes = false;
        for e in vm.qmp().events()? {
            let status = e["data"]["status"].as_str().unwrap_or_default();
            if e["event"] == "JOB_STATUS_CHANGE" && (resumes || ["paused", "standby"].contains(&status)) {
                resumes = !resumes;
                continue;
            }
            events.push(value(&e)?);
        }
        Ok(events)
    }
}

fn value(v: &serde_json::Value) -> Result<qapi::Value> {
    qapi::Value::parse_json(&v.to_string()).map_err(|e| anyhow::anyhow!("{}", e.desc()))
}

impl Peer for Machine {
    fn call(&mut self, command: &str, arguments: qapi::Value) -> Answer {
        self.try_call(command, &arguments).unwrap_or_else(|e| panic!("{command}: {e:#}"))
    }

    fn events(&mut self) -> Vec<qapi::Value> {
        self.try_events().unwrap_or_else(|e| panic!("{e:#}"))
    }

    fn wait(&mut self, time: Duration) {
        std::thread::sleep(time);
    }

    fn pid(&self) -> u32 {
        self.pid
    }

    fn is_reference(&self) -> bool {
        self.reference
    }
}

/// The two images of the disk, with data of their own, and what the guest would see of them.
fn images(dir: &ScratchDir) -> Result<()> {
    let [base, disk, want] = ["base.qcow2", "disk.qcow2", "want.raw"].map(|n| dir.file(n));
    run_tool("qemu-img", &["create", "-q", "-f", "qcow2", &base, "64M"])?;
    run_tool("qemu-io", &["-c", "write -P 1 0 8M", "-c", "write -P 2 40M 1M", &base])?;
    run_tool("qemu-img", &["create", "-q", "-f", "qcow2", "-b", &base, "-F", "qcow2", &disk])?;
    run_tool("qemu-io", &["-c", "write -P 3 4M 6M", "-c", "write -z 40M 64k", &disk])?;
    run_tool("qemu-img", &["convert", "-O", "raw", &disk, &want])?;
    Ok(())
}

fn each(who: &str, reference: bool, builder: impl Fn() -> VmBuilder) {
    let mut all: Vec<_> = std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("management"))
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    all.sort();
    if let Ok(only) = std::env::var("RHEA_OPERATION") {
        all.retain(|p| p.to_string_lossy().contains(&only));
    }
    assert!(!all.is_empty());
    let mut failed = Vec::new();
    for path in all {
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let text = std::fs::read_to_string(&path).unwrap();
        let dir = ScratchDir::new(&format!("{who}-{name}")).unwrap();
        images(&dir).unwrap();
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let mut machine = Machine::start(builder(), dir.path(), reference).unwrap();
            run(&name, &text, dir.path(), &mut machine);
        }));
        if done.is_err() {
            failed.push(name);
        }
    }
    assert!(failed.is_empty(), "{who}: {failed:?}");
}

fn missing(tools: &[&'static str]) -> Option<&'static str> {
    tools.iter().copied().find(|t| Command::new(t).arg("--version").output().is_err())
}

#[test]
fn rhea_does_what_management_tools_ask() {
    if let Some(tool) = missing(&["qemu-img", "qemu-io", "nbdcopy"]) {
        skip!("{tool} is not installed");
    }
    each("rhea", false, || VmBuilder::new(rhea_binary(), &["vm", "--arch", "riscv64"]));
}

#[test]
fn the_reference_says_the_same() {
    if let Some(tool) = missing(&["qemu-system-riscv64", "qemu-img", "qemu-io", "nbdcopy"]) {
        skip!("{tool} is not installed");
    }
    each("reference", true, || VmBuilder::new("qemu-system-riscv64".into(), &["-accel", "tcg"]));
}
