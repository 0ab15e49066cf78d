//! A vhost-user front end that is not to be trusted: its messages, and what its rings hold.
//!
//! The input is a script. Each step begins with a byte that says what is done: a message with or without descriptors, a
//! piece of the shared memory, a kick, or raw bytes. So an input reaches the rings without first having to guess a
//! whole conversation, and still may say anything.

use base::IoResult;
use device::{LocalBoxFuture, NoHost};
use io::Stream;
use mem::IoBuf;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;
use vhost_user::session::{self, Notices};
use vhost_user::spec::*;
use virtio::VirtioDevice;
use virtio::blk::{BlkConf, BlockPort, OnError, VirtioBlk};
use virtio::spec::feature;

/// The disk's bytes.
const DISK: u64 = 1 << 20;
/// The shared memory, bytes; it begins at 0 for the machine, and at [`USER`] for the front end.
const RAM: u64 = 1 << 16;
const USER: u64 = 1 << 32;
/// Most steps of one script.
const STEPS: usize = 64;
/// How long a session may go on after its front end has gone.
const PATIENCE: Duration = Duration::from_secs(10);

/// A disk that takes everything and holds zeroes.
struct Disk;

fn done(off: u64, len: u64) -> LocalBoxFuture<'static, IoResult<()>> {
    assert!(
        off.checked_add(len).is_some_and(|end| end <= DISK),
        "{len} bytes at {off}: behind the disk's end"
    );
    Box::pin(std::future::ready(Ok(())))
}

impl BlockPort for Disk {
    fn read(&self, off: u64, buf: IoBuf) -> LocalBoxFuture<'_, IoResult<()>> {
        buf.fill(0);
        done(off, buf.len() as u64)
    }

    fn write(&self, off: u64, buf: IoBuf, _: bool) -> LocalBoxFuture<'_, IoResult<()>> {
        done(off, buf.len() as u64)
    }

    fn write_zeroes(&self, off: u64, len: u64, _: bool, _: bool) -> LocalBoxFuture<'_, IoResult<()>> {
        done(off, len)
    }

    fn discard(&self, off: u64, len: u64) -> LocalBoxFuture<'_, IoResult<()>> {
        done(off, len)
    }

    fn flush(&self) -> LocalBoxFuture<'_, IoResult<()>> {
        done(0, 0)
    }

    fn len(&self) -> u64 {
        DISK
    }

    fn read_only(&self) -> bool {
        false
    }

    fn name(&self) -> &str {
        ""
    }
}

fn conf() -> BlkConf {
    BlkConf {
        common_features: feature::INDIRECT_DESC
            | feature::EVENT_IDX
            | feature::RING_PACKED
            | feature::VERSION_1,
        serial: "fuzz".into(),
        num_queues: 2,
        queue_size: 256,
        seg_max: 126,
        logical_block_size: 512,
        physical_block_size: 512,
        min_io_size: 0,
        opt_io_size: 512,
        geometry: None,
        config_wce: true,
        writeback: true,
        discard: true,
        discard_alignment: 512,
        max_discard_sectors: 1 << 20,
        write_zeroes: true,
        max_write_zeroes_sectors: 1 << 20,
        rerror: Some(OnError::Report),
        werror: Some(OnError::Report),
    }
}

struct Script<'a>(&'a [u8]);

impl<'a> Script<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (b, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*b)
    }

    fn word(&mut self) -> Option<u16> {
        Some(u16::from_le_bytes([self.byte()?, self.byte()?]))
    }

    /// Up to `n` bytes.
    fn take(&mut self, n: usize) -> &'a [u8] {
        let (piece, rest) = self.0.split_at(n.min(self.0.len()));
        self.0 = rest;
        piece
    }
}

struct Front {
    stream: Stream,
    ram: OwnedFd,
    kick: OwnedFd,
}

impl Front {
    async fn send(&self, request: u32, flags: u32, payload: &[u8], fds: &[BorrowedFd<'_>]) {
        let head = [request, flags, payload.len() as u32];
        let mut m: Vec<u8> = head.iter().flat_map(|v| v.to_le_bytes()).collect();
        m.extend(payload);
        // It may be gone.
        _ = match fds {
            [] => self.stream.write_all(&m).await,
            fds => self.stream.write_with_fds(&m, fds).await.map(drop),
        };
    }

    /// Sets queue 0 up as a driver that behaves would: the rings lie where the script's memory begins.
    async fn set_up(&self, features: u64) {
        let longs = |l: &[u64]| l.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
        let words = |l: &[u32]| l.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
        self.send(SET_FEATURES, VERSION, &longs(&[features | F_PROTOCOL_FEATURES]), &[]).await;
        let table = [words(&[1, 0]), longs(&[0, RAM, USER, 0])].concat();
        self.send(SET_MEM_TABLE, VERSION, &table, &[self.ram.as_fd()]).await;
        self.send(SET_VRING_NUM, VERSION, &words(&[0, 8]), &[]).await;
        let base = if features & feature::RING_PACKED != 0 { 0x8000_8000 } else { 0 };
        self.send(SET_VRING_BASE, VERSION, &words(&[0, base]), &[]).await;
        let addr = [words(&[0, 0]), longs(&[USER, USER + 0x100, USER + 0x80, 0])].concat();
        self.send(SET_VRING_ADDR, VERSION, &addr, &[]).await;
        self.send(SET_VRING_KICK, VERSION, &longs(&[0]), &[self.kick.as_fd()]).await;
        self.send(SET_VRING_ENABLE, VERSION, &words(&[0, 1]), &[]).await;
    }

    async fn play(&self, mut script: Script<'_>) -> Option<()> {
        for _ in 0..STEPS {
            match script.byte()? % 6 {
                0 => {
                    let (request, flags, n) = (script.byte()?, script.byte()?, script.byte()?);
                    let (kind, count) = (flags >> 4, usize::from(script.byte()? % 10));
                    let fd = if kind & 1 == 0 { self.ram.as_fd() } else { self.kick.as_fd() };
                    let payload = script.take(n.into());
                    self.send(request.into(), (flags & 0xf).into(), payload, &vec![fd; count]).await;
                }
                1 => {
                    let (at, n) = (script.word()?, script.byte()?);
                    let bytes = script.take(n.into());
                    _ = rustix::io::pwrite(&self.ram, bytes, u64::from(at).min(RAM - bytes.len() as u64));
                }
                2 => {
                    _ = rustix::io::write(&self.kick, &1u64.to_ne_bytes());
                    rt::sleep(Duration::from_micros(200)).await;
                }
                3 => {
                    let n = script.byte()?;
                    _ = self.stream.write_all(script.take(n.into())).await;
                }
                4 => {
                    let packed = if script.byte()? & 1 == 0 { 0 } else { feature::RING_PACKED };
                    let features = feature::VERSION_1 | feature::INDIRECT_DESC | feature::EVENT_IDX;
                    self.set_up(features | packed).await;
                }
                _ => rt::sleep(Duration::from_micros(100)).await,
            }
        }
        None
    }
}

/// Plays a script to a session, which must end soon after its front end.
pub fn vhost_user(data: &[u8]) {
    rt::block_on(async {
        let Ok((front, back)) = Stream::pair() else { return };
        let ram = rustix::fs::memfd_create("fuzz", rustix::fs::MemfdFlags::CLOEXEC).expect("memory");
        rustix::fs::ftruncate(&ram, RAM).expect("memory");
        let kick = rustix::event::eventfd(0, rustix::event::EventfdFlags::NONBLOCK).expect("a descriptor");
        let device = VirtioBlk::new(conf(), "fuzz", Arc::new(Disk), rt::current(), Arc::new(NoHost), None);
        let notices = Arc::new(Notices::default());
        device.connect(notices.clone());
        let served = rt::spawn_local(async move { session::serve(&back, device, notices).await });
        let front = Front { stream: front, ram, kick };
        // What it answers is not read; a script is too short to fill the socket.
        front.play(Script(data)).await;
        front.stream.shutdown();
        let end = rt::timeout(PATIENCE, served).await;
        assert!(end.is_some(), "the session goes on without its front end");
    });
}

/// Scripts: a request over a split ring, one over a packed ring, a conversation about the configuration.
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let memory = |at: u16, bytes: &[u8]| {
        let mut s = vec![1];
        s.extend(at.to_le_bytes());
        s.push(bytes.len() as u8);
        s.extend(bytes);
        s
    };
    let desc = |addr: u64, len: u32, flags: u16, next: u16| {
        let mut d = addr.to_le_bytes().to_vec();
        d.extend(len.to_le_bytes());
        d.extend(flags.to_le_bytes());
        d.extend(next.to_le_bytes());
        d
    };
    let mut all = Vec::new();
    // Read, write, flush, discard, write zeroes, and the disk's name.
    for kind in [0u8, 1, 4, 11, 13, 8] {
        let back = if kind == 0 || kind == 8 { 2 } else { 0 };
        let head = [kind, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0];
        let chain = [
            desc(0x1000, 16, 1, 1),
            desc(0x2000, if kind >= 11 { 16 } else { 512 }, 1 | back, 2),
            desc(0x3000, 1, 2, 0),
        ];
        let range = [0u8, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0];
        let mut split = vec![4, 0];
        split.extend(memory(0x1000, &head));
        split.extend(memory(0x2000, &range));
        split.extend(memory(0, &chain.concat()));
        split.extend(memory(0x80, &[0, 0, 1, 0, 0, 0]));
        split.extend([2, 5, 2]);
        all.push(split);
        // In a packed ring: the id stands before the flags, which say that the descriptor is available.
        let packed = |addr: u64, len: u32, flags: u16| desc(addr, len, 7, flags | 0x80);
        let chain = [
            packed(0x1000, 16, 1),
            packed(0x2000, if kind >= 11 { 16 } else { 512 }, 1 | back),
            packed(0x3000, 1, 2),
        ];
        let mut ring = vec![4, 1];
        ring.extend(memory(0x1000, &head));
        ring.extend(memory(0x2000, &range));
        ring.extend(memory(0, &chain.concat()));
        ring.extend([2, 5, 2]);
        all.push(ring);
    }
    let mut talk = Vec::new();
    for request in [GET_FEATURES, GET_PROTOCOL_FEATURES, GET_QUEUE_NUM, GET_MAX_MEM_SLOTS, RESET_DEVICE] {
        talk.extend([0, request as u8, 1, 0, 0]);
    }
    talk.extend([0, GET_CONFIG as u8, 1, 72, 0, 0, 0, 0, 0, 60, 0, 0, 0, 0, 0, 0, 0]);
    talk.extend([0; 60]);
    // A region more, and one less.
    for (request, count) in [(ADD_MEM_REG, 1), (REM_MEM_REG, 0)] {
        talk.extend([0, request as u8, 1, 40, count, 0, 0, 0, 0, 0, 0, 0, 0]);
        talk.extend([0u64, RAM, USER, 0].iter().flat_map(|v| v.to_le_bytes()));
    }
    all.push(talk);
    all
}
