//! The kernel's network block devices: one of them as the client of this server.
//!
//! The kernel speaks the protocol itself; the handshake is done for it. One thread stays in the kernel as long as the device is
//! connected: all that sets the device up comes from that thread.

use base::{Errno, IoResult};
use block_file::nbd_device::NbdDevice;
use nbd::client::{Handshake, Offer, Step};
use qapi::{QError, qerr};
use rt::JoinHandle;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

/// Bytes of a sector: the kernel's devices have no smaller blocks.
const SECTOR: u32 = 512;
/// Bytes of the largest block that a device may have: a page.
const PAGE: u32 = 4096;
/// How long the handshake with ourselves, and the kernel with its beginning, may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long the kernel has for looking for partitions, and for its end.
const LAST: Duration = Duration::from_secs(10);
/// How often it is looked whether the kernel has begun.
const TICK: Duration = Duration::from_millis(5);

/// The socket on which a device's server listens unless the user names one.
pub(super) fn socket(device: &str) -> PathBuf {
    let name = Path::new(device).file_name().map_or_else(|| "device".into(), |n| n.to_string_lossy());
    PathBuf::from(format!("/var/lock/qemu-nbd-{name}"))
}

/// Ends a device's connection, whoever serves it, and tells so.
///
/// # Errors
/// The device cannot be opened.
pub fn disconnect(device: &str) -> Result<String, QError> {
    let open = NbdDevice::open(Path::new(device));
    open.map_err(|e| qerr!("Cannot open {device}: {e}"))?.disconnect();
    Ok(format!("{device} disconnected\n"))
}

/// A device that is open.
pub(super) struct Device {
    path: String,
    open: Arc<NbdDevice>,
}

/// A device that the kernel serves from us.
pub(super) struct Connected {
    open: Arc<NbdDevice>,
    /// The thread in the kernel; `None` once it has come back.
    run: Option<JoinHandle<IoResult<()>>>,
}

impl Device {
    /// Opens it.
    ///
    /// # Errors
    /// The system's.
    pub(super) async fn open(path: &str) -> Result<Device, QError> {
        let name = PathBuf::from(path);
        let open = rt::unblock(move || NbdDevice::open(&name)).await;
        let open = open.map_err(|e| qerr!("Failed to open {path}: {e}"))?;
        Ok(Device { path: path.to_owned(), open: Arc::new(open) })
    }

    /// Makes it the client of the server at `socket`. When this is through, the device has its size and its partitions.
    ///
    /// # Errors
    /// It is in use, or no such device; the server refuses.
    pub(super) async fn connect(self, socket: PathBuf, export: String) -> Result<Connected, QError> {
        let (tell, told) = mpsc::channel();
        let open = self.open.clone();
        let run = rt::spawn_local(rt::unblock(move || {
            let set = hello(&socket, &export)
                .and_then(|(stream, offer)| set_up(&open, &stream, &offer).map(|()| offer.size));
            let good = set.is_ok();
            _ = tell.send(set);
            if good { open.serve() } else { Ok(()) }
        }));
        let gone = || qerr!("Failed to connect {}: its thread has ended", self.path);
        let size = rt::unblock(move || told.recv()).await.map_err(|_| gone())??;
        let connected = Connected { open: self.open.clone(), run: Some(run) };
        let connected = self.wait(connected, size).await?;
        let open = self.open;
        // Whoever cannot look for partitions has none.
        _ = rt::timeout(LAST, rt::unblock(move || open.find_partitions())).await;
        Ok(connected)
    }

    /// Waits until the kernel serves the device, and shows its size.
    async fn wait(&self, mut connected: Connected, size: u64) -> Result<Connected, QError> {
        let path = PathBuf::from(&self.path);
        let name = rt::unblock(move || std::fs::canonicalize(path)).await.unwrap_or_default();
        let name = name.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
        let (folder, begun) = (format!("/sys/block/{name}"), format!("/sys/block/{name}/pid"));
        let end = rt::now() + PATIENCE;
        while rt::now() < end {
            if let Some(run) = connected.run.take_if(|r| r.is_finished()) {
                let why = run.await;
                return Err(qerr!("Failed to start {}: {}", self.path, why.err().unwrap_or(Errno::PIPE)));
            }
            let there = |p: &String| Path::new(p).exists();
            let shown = std::fs::read_to_string(format!("{folder}/size")).is_ok_and(|s| s.trim() != "0");
            if there(&begun) && (shown || size < u64::from(SECTOR)) || !there(&folder) {
                return Ok(connected);
            }
            rt::sleep(TICK).await;
        }
        Ok(connected)
    }
}

impl Connected {
    /// Waits until the device is not connected any more.
    pub(super) async fn ended(&mut self) {
        let Some(run) = &mut self.run else { return };
        if let Err(e) = run.await {
            tracing::debug!("the device's connection has ended: {e}");
        }
        self.run = None;
    }

    /// Disconnects it, if it is connected still, and waits for the kernel.
    pub(super) async fn disconnect(mut self) {
        if self.run.is_none() {
            return;
        }
        let open = self.open.clone();
        _ = rt::timeout(LAST, rt::unblock(move || open.disconnect())).await;
        _ = rt::timeout(LAST, self.ended()).await;
    }
}

/// Connects to the server and does the handshake as the kernel needs it.
fn hello(socket: &Path, export: &str) -> Result<(UnixStream, Offer), QError> {
    let failed = |e: std::io::Error| qerr!("Failed to connect to '{}': {}", socket.display(), Errno::from(e));
    let refused = |e: nbd::client::Refused| QError::new(e.text);
    let mut stream = UnixStream::connect(socket).map_err(failed)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
    let mut hand = Handshake::new(export).map_err(refused)?.simple();
    let mut out = Vec::new();
    let offer = loop {
        let mut bytes = vec![0; hand.want()];
        let read = stream.read_exact(&mut bytes);
        read.map_err(|e| qerr!("Failed to read {}: {}", hand.reading(), Errno::from(e)))?;
        match hand.feed(&bytes, &mut out).map_err(refused)? {
            Step::More => {}
            Step::StartTls => return Err(qerr!("TLS is not supported with a host device")),
            Step::Begin(offer) => break offer,
        }
        stream.write_all(&out).map_err(failed)?;
        out.clear();
    };
    // From now on it is the kernel's.
    stream.set_read_timeout(None).map_err(failed)?;
    Ok((stream, offer))
}

fn set_up(device: &NbdDevice, stream: &UnixStream, offer: &Offer) -> Result<(), QError> {
    // As the reference says it, without a reason.
    device.set_socket(stream.as_fd()).map_err(|_| qerr!("Failed to set NBD socket"))?;
    let block = offer.min_block.clamp(SECTOR, PAGE);
    let done = device.set_size(block, offer.size / u64::from(block));
    let done = done.map_err(|e| qerr!("Failed to set the size of the device: {e}"));
    let flags = || device.set_flags(offer.flags).map_err(|e| qerr!("Failed to set flags of the device: {e}"));
    done.and_then(|()| flags()).inspect_err(|_| device.clear())
}
