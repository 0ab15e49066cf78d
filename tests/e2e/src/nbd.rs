//! A small NBD client that writes all the time and remembers what it wrote.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

/// A connection to one export, by the oldest of the fixed newstyle options and simple replies.
pub struct NbdClient {
    stream: UnixStream,
    /// The length of the export, bytes.
    pub size: u64,
    cookie: u64,
}

const READ: u16 = 0;
const WRITE: u16 = 1;
const FLUSH: u16 = 3;

impl NbdClient {
    /// Connects to the export of this name.
    pub fn connect(socket: &str, export: &str) -> Result<NbdClient> {
        let mut s = UnixStream::connect(socket).with_context(|| format!("connecting to {socket}"))?;
        s.set_read_timeout(Some(Duration::from_secs(60)))?;
        let mut hello = [0; 18];
        s.read_exact(&mut hello)?;
        ensure!(&hello[..16] == b"NBDMAGICIHAVEOPT", "no NBD server: {hello:?}");
        // Fixed newstyle, and no padding after the reply.
        s.write_all(&3u32.to_be_bytes())?;
        s.write_all(b"IHAVEOPT")?;
        s.write_all(&1u32.to_be_bytes())?;
        s.write_all(&(export.len() as u32).to_be_bytes())?;
        s.write_all(export.as_bytes())?;
        let mut info = [0; 10];
        s.read_exact(&mut info).context("the export was refused")?;
        let size = u64::from_be_bytes(info[..8].try_into()?);
        Ok(NbdClient { stream: s, size, cookie: 0 })
    }

    fn request(&mut self, kind: u16, off: u64, len: u32, data: &[u8], into: &mut [u8]) -> Result<()> {
        self.cookie += 1;
        let mut m = Vec::with_capacity(28 + data.len());
        m.extend(0x2560_9513u32.to_be_bytes());
        m.extend([0; 2]);
        m.extend(kind.to_be_bytes());
        m.extend(self.cookie.to_be_bytes());
        m.extend(off.to_be_bytes());
        m.extend(len.to_be_bytes());
        m.extend(data);
        self.stream.write_all(&m)?;
        let mut reply = [0; 16];
        self.stream.read_exact(&mut reply)?;
        ensure!(reply[..4] == 0x6744_6698u32.to_be_bytes(), "no reply: {reply:?}");
        ensure!(reply[8..] == self.cookie.to_be_bytes(), "the reply to another request");
        let error = u32::from_be_bytes(reply[4..8].try_into()?);
        ensure!(error == 0, "request {kind} of {len} bytes at {off} failed: error {error}");
        self.stream.read_exact(into)?;
        Ok(())
    }

    /// Writes.
    pub fn write(&mut self, off: u64, data: &[u8]) -> Result<()> {
        self.request(WRITE, off, data.len() as u32, data, &mut [])
    }

    /// Reads.
    pub fn read(&mut self, off: u64, into: &mut [u8]) -> Result<()> {
        self.request(READ, off, into.len() as u32, &[], into)
    }

    /// Makes stable what was written.
    pub fn flush(&mut self) -> Result<()> {
        self.request(FLUSH, 0, 0, &[], &mut [])
    }
}

/// Bytes that writes are made of: their numbers.
const WORD: u64 = 8;

/// One write: offset and length in bytes. The n-th of a log (from 1) wrote the number n, as little-endian words.
pub type Logged = (u64, u64);

/// Writes to an export until it is stopped, one request at a time.
pub struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    thread: JoinHandle<Result<Vec<Logged>>>,
}

impl Load {
    /// Begins to write to random places, 4 KiB to 64 KiB at a time.
    pub fn start(socket: &str, export: &str) -> Result<Load> {
        let mut client = NbdClient::connect(socket, export)?;
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stop2, done2) = (stop.clone(), done.clone());
        let thread = std::thread::spawn(move || {
            let mut log = Vec::new();
            let mut random = 0x9E37_79B9_7F4A_7C15u64;
            while !stop2.load(SeqCst) {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                let len = 4096 * (1 + random % 16);
                let off = (random >> 8) % ((client.size - len) / 512) * 512;
                log.push((off, len));
                client.write(off, &number(log.len() as u64, len))?;
                done2.store(log.len() as u64, SeqCst);
            }
            client.flush()?;
            Ok(log)
        });
        Ok(Load { stop, done, thread })
    }

    /// How many writes have been answered.
    pub fn done(&self) -> u64 {
        self.done.load(SeqCst)
    }

    /// Waits until so many more writes have been answered.
    pub fn more(&self, writes: u64) -> Result<()> {
        let until = self.done() + writes;
        while self.done() < until {
            ensure!(!self.thread.is_finished(), "the writer has stopped");
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Stops; what was written.
    pub fn stop(self) -> Result<Vec<Logged>> {
        self.stop.store(true, SeqCst);
        match self.thread.join() {
            Ok(log) => log,
            Err(_) => anyhow::bail!("the writer panicked"),
        }
    }
}

fn number(n: u64, len: u64) -> Vec<u8> {
    n.to_le_bytes().repeat((len / WORD) as usize)
}

/// Does the first `n` writes of a log to `bytes`.
pub fn replay(bytes: &mut [u8], log: &[Logged], n: usize) {
    for (i, (off, len)) in log.iter().take(n).enumerate() {
        bytes[*off as usize..(off + len) as usize].copy_from_slice(&number(i as u64 + 1, *len));
    }
}

/// The youngest write of a log that can be seen in `bytes`; `base` is what was there before the first.
pub fn youngest(bytes: &[u8], base: &[u8], log: &[Logged]) -> usize {
    let words = bytes.chunks_exact(WORD as usize).zip(base.chunks_exact(WORD as usize));
    let numbers = words.filter(|(b, old)| b != old).map(|(b, _)| {
        let mut w = [0; WORD as usize];
        w.copy_from_slice(b);
        u64::from_le_bytes(w) as usize
    });
    numbers.filter(|n| *n <= log.len()).max().unwrap_or(0)
}
