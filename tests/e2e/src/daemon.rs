//! A running storage daemon, with its QMP session.

use std::io::Read;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::{Qmp, ScratchDir, rhea_binary};

/// A storage daemon; killed when dropped.
pub struct StorageDaemon {
    child: Child,
    qmp: Qmp,
    errors: Option<std::thread::JoinHandle<String>>,
    dir: ScratchDir,
}

impl StorageDaemon {
    /// Starts `rhea storage-daemon` with these options and a monitor.
    pub fn start(args: &[&str]) -> Result<StorageDaemon> {
        StorageDaemon::start_program(rhea_binary(), &[&["storage-daemon"], args].concat())
    }

    /// Starts any program that takes a storage daemon's options.
    pub fn start_program(program: PathBuf, args: &[&str]) -> Result<StorageDaemon> {
        let dir = ScratchDir::new("daemon")?;
        let socket = dir.path().join("qmp.sock");
        let mut child = Command::new(&program)
            .args(args)
            .arg("--chardev")
            .arg(format!("socket,id=test-monitor,path={},server=on,wait=off", socket.display()))
            .args(["--monitor", "test-monitor"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {}", program.display()))?;
        let mut errors = child.stderr.take().context("no standard error")?;
        let errors = std::thread::spawn(move || {
            let mut text = String::new();
            _ = errors.read_to_string(&mut text);
            text
        });
        match Qmp::connect(&socket, Duration::from_secs(10)) {
            Ok(qmp) => Ok(StorageDaemon { child, qmp, errors: Some(errors), dir }),
            Err(e) => {
                _ = child.kill();
                _ = child.wait();
                Err(e.context(format!("the daemon did not start: {}", errors.join().unwrap_or_default())))
            }
        }
    }

    /// The QMP session.
    pub fn qmp(&mut self) -> &mut Qmp {
        &mut self.qmp
    }

    /// The process's number.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The daemon's folder, for sockets.
    pub fn dir(&self) -> &ScratchDir {
        &self.dir
    }

    /// Waits for the process to end by itself; returns its status and what it wrote to standard error.
    pub fn wait(mut self, limit: Duration) -> Result<(ExitStatus, String)> {
        let end = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait()? {
                let errors = self.errors.take().and_then(|t| t.join().ok()).unwrap_or_default();
                return Ok((status, errors));
            }
            ensure!(Instant::now() < end, "the daemon did not end within {limit:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for StorageDaemon {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}
