//! The NBD servers that are compared.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::{ScratchDir, rhea_binary};

/// A program that serves images over NBD.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Rhea,
    Qsd,
    QemuNbd,
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::Rhea => "rhea",
            Kind::Qsd => "qemu-storage-daemon",
            Kind::QemuNbd => "qemu-nbd",
        }
    }

    /// Its file.
    pub(super) fn program(self) -> PathBuf {
        match self {
            Kind::Rhea => rhea_binary(),
            other => other.name().into(),
        }
    }

    /// Whether it can be run here.
    pub(super) fn is_there(self) -> bool {
        let version = Command::new(self.program()).arg("--version").stdout(Stdio::null()).status();
        version.is_ok_and(|s| s.success())
    }
}

/// How a client reaches an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Nbd,
    VhostUser,
}

/// A running server with one export for each image, spread over its iothreads.
pub(super) struct Server {
    child: Child,
    dir: ScratchDir,
}

impl Server {
    /// Serves these images of one format. `qemu-nbd` serves the first only.
    pub(super) fn start(
        kind: Kind,
        way: Way,
        format: &str,
        images: &[PathBuf],
        iothreads: usize,
    ) -> Result<Server> {
        let dir = ScratchDir::new("bench")?;
        let socket = dir.file("nbd.sock");
        let mut command = Command::new(kind.program());
        match kind {
            Kind::QemuNbd => {
                command.args(["-t", "-e", "16", "-k", &socket, "-x", "e0", "-f", format]).arg(&images[0]);
            }
            Kind::Rhea | Kind::Qsd => {
                if kind == Kind::Rhea {
                    command.arg("storage-daemon");
                }
                command.args(["--nbd-server", &format!("addr.type=unix,addr.path={socket}")]);
                for i in 0..iothreads {
                    command.args(["--object", &format!("iothread,id=io{i}")]);
                }
                for (i, image) in images.iter().enumerate() {
                    let (image, io) = (image.display(), i % iothreads);
                    command.args(["--blockdev", &format!("file,node-name=f{i},filename={image}")]);
                    command.args(["--blockdev", &format!("{format},node-name=n{i},file=f{i}")]);
                    let export = match way {
                        Way::Nbd => format!("nbd,name=e{i}"),
                        Way::VhostUser => {
                            format!("vhost-user-blk,addr.type=unix,addr.path={}", dir.file(&format!("v{i}")))
                        }
                    };
                    command.args([
                        "--export",
                        &format!("{export},id=e{i},node-name=n{i},writable=on,iothread=io{io}"),
                    ]);
                }
            }
        }
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("starting {}", kind.name()))?;
        let mut server = Server { child, dir };
        server.wait_until_it_listens(kind)?;
        Ok(server)
    }

    fn wait_until_it_listens(&mut self, kind: Kind) -> Result<()> {
        let end = Instant::now() + Duration::from_secs(20);
        while std::os::unix::net::UnixStream::connect(self.dir.file("nbd.sock")).is_err() {
            if let Some(status) = self.child.try_wait()? {
                anyhow::bail!("{} ended with {status}", kind.name());
            }
            ensure!(Instant::now() < end, "{} does not listen", kind.name());
            std::thread::sleep(Duration::from_millis(10));
        }
        // It may still be busy with the client that came and went.
        std::thread::sleep(Duration::from_millis(50));
        Ok(())
    }

    /// Where export number `i` is.
    pub(super) fn uri(&self, i: usize) -> String {
        format!("nbd+unix:///e{i}?socket={}", self.dir.file("nbd.sock"))
    }

    /// The socket of the vhost-user export number `i`.
    pub(super) fn vhost_socket(&self, i: usize) -> PathBuf {
        self.dir.file(&format!("v{i}")).into()
    }

    /// CPU seconds that it has used so far, of all its threads, in its own code and the kernel's.
    pub(super) fn cpu_seconds(&self) -> Result<f64> {
        cpu_seconds(self.child.id())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // In order, so that what is cached for one server's image does not burden the next.
        _ = Command::new("kill").arg(self.child.id().to_string()).status();
        let end = Instant::now() + Duration::from_secs(20);
        while Instant::now() < end && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(10));
        }
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// As `/proc/PID/stat` counts it, in ticks of 10 ms, threads that have ended among it (proc_pid_stat(5)).
pub(super) fn cpu_seconds(pid: u32) -> Result<f64> {
    let stat = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat"))?;
    // The name in parentheses may hold anything; `utime` and `stime` are the fields 14 and 15, counted from 1.
    let (_, rest) = stat.rsplit_once(')').context("no name in /proc/PID/stat")?;
    let ticks = rest.split_whitespace().skip(11).take(2).map(|t| t.parse::<f64>());
    Ok(ticks.sum::<Result<f64, _>>()? / 100.0)
}
