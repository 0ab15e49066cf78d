//! A running `rhea vm`, with its console and its QMP session.

use std::ffi::OsStr;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::console::{Console, LineHook};
use crate::{Qmp, workspace};

/// The binary under test: `$RHEA_BIN`, or the release build of this repository.
pub fn rhea_binary() -> PathBuf {
    std::env::var_os("RHEA_BIN").map_or_else(|| workspace().join("target/release/rhea"), PathBuf::from)
}

/// Runs a command to its end and returns its standard output; an error shows what it printed.
pub fn run_tool<S: AsRef<OsStr>>(program: impl AsRef<OsStr>, args: &[S]) -> Result<String> {
    let program = program.as_ref();
    let out = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("starting {}", program.display()))?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    if !out.status.success() {
        let line: Vec<_> = args.iter().map(|a| a.as_ref().to_string_lossy()).collect();
        bail!(
            "{} {} failed ({}):\n{text}{}",
            program.display(),
            line.join(" "),
            out.status,
            String::from_utf8_lossy(&out.stderr)
        );
    }
    Ok(text)
}

/// A folder for one test, removed when dropped.
pub struct ScratchDir(PathBuf);

impl ScratchDir {
    /// A new, empty folder below the system's temporary one.
    pub fn new(name: &str) -> Result<ScratchDir> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let unique = format!("rhea-{name}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(unique);
        std::fs::create_dir_all(&path)?;
        Ok(ScratchDir(path))
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The path of `name` in it, as text for a command line.
    pub fn file(&self, name: &str) -> String {
        self.0.join(name).to_string_lossy().into_owned()
    }
}

impl Drop for ScratchDir {
    fn drop(&mut self) {
        _ = std::fs::remove_dir_all(&self.0);
    }
}

/// How to start a machine.
pub struct VmBuilder {
    program: PathBuf,
    args: Vec<String>,
    hook: Option<LineHook>,
    with_qmp: bool,
}

impl VmBuilder {
    /// `rhea vm --arch riscv64`, with the serial console on standard input and output.
    pub fn riscv64() -> VmBuilder {
        VmBuilder::new(rhea_binary(), &["vm", "--arch", "riscv64"])
    }

    /// Any program that takes QEMU's system options, with the serial console on standard input and output.
    pub fn new(program: PathBuf, first: &[&str]) -> VmBuilder {
        let mut args: Vec<String> = first.iter().map(|s| s.to_string()).collect();
        args.extend(
            ["-M", "virt", "-display", "none", "-monitor", "none", "-serial", "stdio"].map(String::from),
        );
        VmBuilder { program, args, hook: None, with_qmp: true }
    }

    /// Adds options.
    pub fn args<S: Into<String>>(mut self, args: impl IntoIterator<Item = S>) -> VmBuilder {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Leaves out the QMP session.
    pub fn without_qmp(mut self) -> VmBuilder {
        self.with_qmp = false;
        self
    }

    /// Calls `hook` with each line of the console.
    pub fn on_line(mut self, hook: impl Fn(&str) + Send + 'static) -> VmBuilder {
        self.hook = Some(Box::new(hook));
        self
    }

    /// Starts the machine and, unless left out, connects to QMP.
    pub fn start(mut self) -> Result<Vm> {
        let dir = ScratchDir::new("vm")?;
        let socket = dir.path().join("qmp.sock");
        if self.with_qmp {
            self.args.extend(["-qmp".into(), format!("unix:{},server=on,wait=off", socket.display())]);
        }
        let mut child = Command::new(&self.program)
            .args(&self.args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {}", self.program.display()))?;
        let output = child.stdout.take().context("no standard output")?;
        let input = child.stdin.take().context("no standard input")?;
        let mut errors = child.stderr.take().context("no standard error")?;
        let errors = std::thread::spawn(move || {
            let mut text = String::new();
            _ = errors.read_to_string(&mut text);
            text
        });
        let console = Console::new(output, Some(Box::new(input)), self.hook);
        let mut vm = Vm { child, console, qmp: None, errors: Some(errors), _dir: dir };
        if self.with_qmp {
            match Qmp::connect(&socket, Duration::from_secs(10)) {
                Ok(q) => vm.qmp = Some(q),
                Err(e) => {
                    _ = vm.child.kill();
                    _ = vm.child.wait();
                    let said = vm.take_errors();
                    return Err(e.context(format!("the machine did not start: {said}")));
                }
            }
        }
        Ok(vm)
    }
}

/// A running machine; killed when dropped.
pub struct Vm {
    child: Child,
    /// The serial console.
    pub console: Console,
    qmp: Option<Qmp>,
    errors: Option<std::thread::JoinHandle<String>>,
    _dir: ScratchDir,
}

impl Vm {
    /// The QMP session.
    ///
    /// # Panics
    /// Where the machine was started without one.
    pub fn qmp(&mut self) -> &mut Qmp {
        self.qmp.as_mut().expect("started with QMP")
    }

    /// The process's number.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    fn take_errors(&mut self) -> String {
        self.errors.take().and_then(|t| t.join().ok()).unwrap_or_default()
    }

    /// Waits for the process to end by itself; returns its status and what it wrote to standard error.
    pub fn wait(mut self, limit: Duration) -> Result<(ExitStatus, String)> {
        let end = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok((status, self.take_errors()));
            }
            ensure!(Instant::now() < end, "the machine did not end within {limit:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}
