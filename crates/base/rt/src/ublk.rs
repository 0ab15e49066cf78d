//! The system calls of the kernel's driver for block devices in user space, `ublk` (`linux/ublk_cmd.h`; the kernel's
//! documentation, "Userspace block device driver"). What the commands mean stands in the crate `ublk`; here is what the
//! kernel is given addresses of.
//!
//! A device has a control side, `/dev/ublk-control`, whose commands need a ring with long entries and may wait in the
//! kernel: they are sent from threads that may block. Its queues are served through `/dev/ublkcN`: every request has a tag,
//! and for every tag one command waits in the executor's ring. All commands of a queue must come from one thread.

use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use base::{Errno, IoResult};
use io_uring::{IoUring, cqueue, opcode, squeue, types};
use mem::IoBuf;
use rustix::fs::{Mode, OFlags};

use crate::executor;
use crate::file::iovecs;
use crate::reactor::{Memory, Op, Reactor};

/// Tells about a device.
pub const GET_DEV_INFO: u8 = 0x02;
const GET_PARAMS: u8 = 0x09;
const GET_QUEUE_AFFINITY: u8 = 0x01;
const GET_FEATURES: u8 = 0x13;
/// Takes a queue's tag into service.
const FETCH: u8 = 0x20;
/// Answers a request, and takes the tag into service again.
const COMMIT_AND_FETCH: u8 = 0x21;

/// Bytes of `struct ublksrv_ctrl_dev_info`.
pub const DEV_INFO: usize = 64;
/// Bytes of `struct ublksrv_io_desc`.
pub const DESCRIPTOR: usize = 24;
/// The most tags of a queue: what the places of queues in the mapping are made for.
const MOST_TAGS: u64 = 4096;
/// How long a command has to end that was taken back.
const LAST: Duration = Duration::from_secs(5);

/// A command's number as it is sent: with the direction and the size of its argument, as those of `ioctl` are, or plain
/// (Linux before 6.4).
fn encoded(number: u8, plain: bool) -> u32 {
    let number32 = u32::from(number);
    if plain {
        return number32;
    }
    let (direction, size) = match number {
        GET_DEV_INFO | GET_PARAMS | GET_QUEUE_AFFINITY | GET_FEATURES => (2, 32),
        FETCH.. => (3, 16),
        _ => (3, 32),
    };
    direction << 30 | size << 16 | u32::from(b'u') << 8 | number32
}

/// Whether this executor can serve queues: it has a ring.
pub fn is_able() -> bool {
    executor::with_current(|l| matches!(l.reactor, Some(Reactor::Uring(_)))).unwrap_or(false)
}

/// A command to the control side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Command {
    /// Its number, without direction and size.
    pub number: u8,
    /// The device.
    pub device: u32,
    /// A number that comes along.
    pub inline: u64,
}

impl Command {
    /// `struct ublksrv_ctrl_cmd`, in a long entry's room.
    fn body(&self, addr: u64, len: u16) -> [u8; 80] {
        let mut b = [0; 80];
        b[..4].copy_from_slice(&self.device.to_ne_bytes());
        // No queue is meant.
        b[4..6].copy_from_slice(&u16::MAX.to_ne_bytes());
        b[6..8].copy_from_slice(&len.to_ne_bytes());
        b[8..16].copy_from_slice(&addr.to_ne_bytes());
        b[16..24].copy_from_slice(&self.inline.to_ne_bytes());
        b
    }
}

/// The control side.
#[derive(Clone, Debug)]
pub struct Control {
    fd: Arc<OwnedFd>,
    features: Option<u64>,
}

fn open(path: &str) -> IoResult<OwnedFd> {
    rustix::fs::open(path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| Errno::from_raw(e.raw_os_error()))
}

impl Control {
    /// Opens it. Blocks.
    ///
    /// # Errors
    /// The system's: `ENOENT` where the kernel has no ublk, or its module is not loaded.
    pub fn open() -> IoResult<Control> {
        let mut control = Control { fd: Arc::new(open("/dev/ublk-control")?), features: Some(0) };
        let bits = IoBuf::zeroed(8);
        let ask = Command { number: GET_FEATURES, device: u32::MAX, inline: 0 };
        control.features = match control.send(ask, &bits, Some(LAST)) {
            Ok(()) => {
                let mut b = [0; 8];
                bits.copy_to(0, &mut b);
                Some(u64::from_ne_bytes(b))
            }
            // A kernel that does not know the command. One that is not allowed will say so again.
            Err(_) => None,
        };
        Ok(control)
    }

    /// What the kernel can do, as flags of devices (Linux 6.5 and newer; no flags before).
    pub fn features(&self) -> u64 {
        self.features.unwrap_or(0)
    }

    /// Sends a command and waits for its end. Blocks; with a limit, the command is taken back when the time is up.
    /// `data` is what it reads or fills: one piece, or nothing.
    ///
    /// # Errors
    /// The kernel's answer; `ETIME` when the time was up, and then the command may have been carried out or not.
    pub fn send(&self, command: Command, data: &IoBuf, limit: Option<Duration>) -> IoResult<()> {
        let mut pieces = data.segments();
        let addr = pieces.next().map_or(0, |s| s.raw_ptr() as u64);
        if pieces.next().is_some() {
            return Err(Errno::INVAL);
        }
        let len = u16::try_from(data.len()).map_err(|_| Errno::INVAL)?;
        let mut ring: IoUring<squeue::Entry128, cqueue::Entry> = IoUring::builder().build(4)?;
        let op = encoded(command.number, self.features.is_none());
        let entry = opcode::UringCmd80::new(types::Fd(self.fd.as_raw_fd()), op).cmd(command.body(addr, len));
        let done = run(&mut ring, entry.build(), limit);
        if done.is_none() {
            // Nobody knows when the kernel is done with it.
            std::mem::forget(data.clone());
        }
        match done {
            Some(res) if res < 0 => Err(Errno::from_raw(-res)),
            Some(_) => Ok(()),
            None => Err(Errno::from_raw(libc::ETIME)),
        }
    }
}

/// Carries out one command. `None`: it goes on in the kernel.
fn run(
    ring: &mut IoUring<squeue::Entry128, cqueue::Entry>,
    entry: squeue::Entry128,
    limit: Option<Duration>,
) -> Option<i32> {
    const COMMAND: u64 = 1;
    let mut push = Some(entry.user_data(COMMAND));
    let mut end = limit.map(|l| Instant::now() + l);
    let mut taken_back = false;
    loop {
        if let Some(entry) = push.take() {
            // SAFETY: the caller holds what the entry points at until this ends, or for ever if it ends without an answer.
            let pushed = unsafe { ring.submission().push(&entry) };
            assert!(pushed.is_ok(), "the ring has room for both entries");
        }
        let done = match end {
            None => ring.submit_and_wait(1),
            Some(end) => {
                let left = types::Timespec::from(end.saturating_duration_since(Instant::now()));
                ring.submitter().submit_with_args(1, &types::SubmitArgs::new().timespec(&left))
            }
        };
        if let Some(c) = ring.completion().find(|c| c.user_data() == COMMAND) {
            return Some(c.result());
        }
        match done.map_err(|e| Errno::from(e).raw()) {
            Ok(_) | Err(libc::EINTR | libc::EAGAIN | libc::EBUSY) => {}
            Err(libc::ETIME) if !taken_back => {
                taken_back = true;
                end = Some(Instant::now() + LAST);
                push = Some(opcode::AsyncCancel::new(COMMAND).build().into());
            }
            Err(_) => return None,
        }
    }
}

/// The side of a device where its requests come.
#[derive(Clone, Debug)]
pub struct Device {
    fd: Arc<OwnedFd>,
    plain: bool,
    queues: u16,
    depth: u16,
    most: usize,
}

impl Device {
    /// Opens it, and learns how long its requests may be. Blocks.
    ///
    /// # Errors
    /// There is no such device, or it has a server; else the system's.
    pub fn open(control: &Control, number: u32) -> IoResult<Device> {
        let fd = open(&format!("/dev/ublkc{number}"))?;
        let info = IoBuf::zeroed(DEV_INFO);
        let ask = Command { number: GET_DEV_INFO, device: number, inline: 0 };
        control.send(ask, &info, Some(LAST))?;
        let b = info.to_vec();
        let u16_at = |at: usize| u16::from_ne_bytes([b[at], b[at + 1]]);
        let most = u32::from_ne_bytes([b[8], b[9], b[10], b[11]]);
        let most = usize::try_from(most).map_err(|_| Errno::INVAL)?;
        let (queues, depth) = (u16_at(0), u16_at(2));
        Ok(Device { fd: Arc::new(fd), plain: control.features.is_none(), queues, depth, most })
    }

    /// How many queues it has.
    pub fn queues(&self) -> u16 {
        self.queues
    }

    /// How many tags each queue has.
    pub fn depth(&self) -> u16 {
        self.depth
    }

    /// The longest request's data, bytes.
    pub fn most(&self) -> usize {
        self.most
    }

    /// One of its queues.
    ///
    /// # Errors
    /// The system's.
    pub fn queue(&self, number: u16) -> IoResult<Queue> {
        use rustix::mm::{MapFlags, ProtFlags, mmap};
        if number >= self.queues {
            return Err(Errno::INVAL);
        }
        let len = usize::from(self.depth) * DESCRIPTOR;
        let len = len.next_multiple_of(rustix::param::page_size());
        let place = u64::from(number) * MOST_TAGS * DESCRIPTOR as u64;
        // SAFETY: a fresh mapping at an address that the kernel chooses aliases nothing of ours.
        let p =
            unsafe { mmap(std::ptr::null_mut(), len, ProtFlags::READ, MapFlags::SHARED, &*self.fd, place) }
                .map_err(|e| Errno::from_raw(e.raw_os_error()))?;
        let start = NonNull::new(p.cast::<AtomicU64>()).ok_or(Errno::NOMEM)?;
        Ok(Queue { device: self.clone(), number, map: Map { start, len } })
    }
}

/// Descriptions of requests, which the kernel writes.
#[derive(Debug)]
struct Map {
    start: NonNull<AtomicU64>,
    len: usize,
}

// SAFETY: the mapping is only read, by atomic loads.
unsafe impl Send for Map {}
// SAFETY: as above.
unsafe impl Sync for Map {}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: this is the mapping's whole range, and nothing refers to it any more.
        _ = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

/// A queue. All its tags are to be served on one executor.
#[derive(Debug)]
pub struct Queue {
    device: Device,
    number: u16,
    map: Map,
}

impl Queue {
    /// The description of the request that a tag has brought (`struct ublksrv_io_desc`). Panics for a tag that the queue
    /// does not have.
    pub fn descriptor(&self, tag: u16) -> [u8; DESCRIPTOR] {
        assert!(tag < self.device.depth, "a tag of the queue");
        const WORDS: usize = DESCRIPTOR / 8;
        let mut b = [0; DESCRIPTOR];
        for (i, word) in b.chunks_exact_mut(8).enumerate() {
            // SAFETY: the mapping has `depth` descriptions, each of whole words, and is aligned to pages.
            let value = unsafe { &*self.map.start.as_ptr().add(usize::from(tag) * WORDS + i) };
            word.copy_from_slice(&value.load(Ordering::Relaxed).to_ne_bytes());
        }
        b
    }

    /// Takes a tag into service, and waits until it brings a request. `answer` is what becomes of the one that it brought
    /// before: bytes, or `-errno`. `data` holds what a write brings and what a read has read, from its start; it must be one
    /// piece of the device's longest request, and the same each time.
    ///
    /// # Errors
    /// `ENODEV` when the device has ended: there is nothing more to come. `ENOSYS` on an executor without a ring; `EINVAL`
    /// where `data` does not fit; else the kernel's.
    pub async fn next(&self, tag: u16, answer: Option<i32>, data: &IoBuf) -> IoResult<()> {
        let mut pieces = data.segments();
        let addr = pieces.next().map_or(0, |s| s.raw_ptr() as u64);
        if pieces.next().is_some() || data.len() < self.device.most || data.is_empty() {
            return Err(Errno::INVAL);
        }
        let number = if answer.is_some() { COMMIT_AND_FETCH } else { FETCH };
        let op = {
            let local = executor::current_local();
            let Some(Reactor::Uring(_)) = &local.reactor else {
                return Err(Errno::from_raw(libc::ENOSYS));
            };
            let fd = types::Fd(self.device.fd.as_raw_fd());
            let entry = opcode::UringCmd16::new(fd, encoded(number, self.device.plain));
            let entry = entry.cmd(io_body(self.number, tag, answer.unwrap_or(0), addr));
            let memory = Memory { buf: data.clone(), iov: iovecs(data), fd: self.device.fd.clone() };
            // SAFETY: the entry holds the address of the piece of memory that `memory` holds, and the kernel touches no more
            // of it than the device's longest request, which fits.
            unsafe { Op::start(&local, entry.build(), memory) }
        };
        match op.await {
            0 => Ok(()),
            // One that wants its data to be asked for first; no device is made so.
            res if res > 0 => Err(Errno::PROTO),
            res => Err(Errno::from_raw(-res)),
        }
    }
}

/// `struct ublksrv_io_cmd`.
fn io_body(queue: u16, tag: u16, answer: i32, addr: u64) -> [u8; 16] {
    let mut b = [0; 16];
    b[..2].copy_from_slice(&queue.to_ne_bytes());
    b[2..4].copy_from_slice(&tag.to_ne_bytes());
    b[4..8].copy_from_slice(&answer.to_ne_bytes());
    b[8..].copy_from_slice(&addr.to_ne_bytes());
    b
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The numbers are those that `linux/ublk_cmd.h` makes with `_IOR` and `_IOWR`.
    #[test]
    fn numbers_are_encoded() {
        assert_eq!(encoded(0x13, false), 0x8020_7513, "UBLK_U_CMD_GET_FEATURES");
        assert_eq!(encoded(0x02, false), 0x8020_7502, "UBLK_U_CMD_GET_DEV_INFO");
        assert_eq!(encoded(0x04, false), 0xc020_7504, "UBLK_U_CMD_ADD_DEV");
        assert_eq!(encoded(0x15, false), 0xc020_7515, "UBLK_U_CMD_UPDATE_SIZE");
        assert_eq!(encoded(0x20, false), 0xc010_7520, "UBLK_U_IO_FETCH_REQ");
        assert_eq!(encoded(0x21, false), 0xc010_7521, "UBLK_U_IO_COMMIT_AND_FETCH_REQ");
        assert_eq!(encoded(0x21, true), 0x21);
    }

    #[test]
    fn commands_are_laid_out() {
        let b = Command { number: 4, device: 7, inline: 99 }.body(0x1122_3344_5566, 64);
        assert_eq!(b[..4], 7u32.to_ne_bytes());
        assert_eq!(b[4..6], [0xff; 2]);
        assert_eq!(b[6..8], 64u16.to_ne_bytes());
        assert_eq!(b[8..16], 0x1122_3344_5566u64.to_ne_bytes());
        assert_eq!(b[16..24], 99u64.to_ne_bytes());
        assert_eq!(b[24..], [0; 56]);
        let b = io_body(3, 9, -5, 0x4000);
        assert_eq!((&b[..2], &b[2..4]), (&3u16.to_ne_bytes()[..], &9u16.to_ne_bytes()[..]));
        assert_eq!((&b[4..8], &b[8..]), (&(-5i32).to_ne_bytes()[..], &0x4000u64.to_ne_bytes()[..]));
    }

    /// A descriptor that takes no commands: the answer comes, and comes in time.
    #[test]
    fn what_takes_no_commands_says_so() {
        let fd = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap();
        let fd = Arc::new(fd);
        let control = Control { fd, features: Some(0) };
        let ask = Command { number: GET_FEATURES, device: 0, inline: 0 };
        let done = control.send(ask, &IoBuf::zeroed(8), Some(Duration::from_secs(5)));
        assert!(done.is_err_and(|e| e.raw() != libc::ETIME), "{done:?}");
        let mut two = IoBuf::zeroed(8);
        two.append(IoBuf::zeroed(8));
        assert_eq!(control.send(ask, &two, None), Err(Errno::INVAL));
        assert_eq!(control.send(ask, &IoBuf::zeroed(1 << 17), None), Err(Errno::INVAL));
    }
}
