//! A virtual machine's disk driver, as far as a vhost-user-blk export sees one: it keeps requests of one size in flight at
//! random places, through one split virtqueue (virtio 1.2, sections 2.7 and 5.2), and sleeps while there is nothing to do.

use std::io::{IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mem::Memory;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

/// How long a request may take.
const PATIENCE: Timespec = Timespec { tv_sec: 20, tv_nsec: 0 };

/// Bytes of a request.
pub(super) const BLOCK: u64 = 4096;
/// Most requests in flight.
pub(super) const MOST: u64 = 64;

// Requests of the vhost-user protocol.
const GET_FEATURES: u32 = 1;
const SET_FEATURES: u32 = 2;
const SET_OWNER: u32 = 3;
const SET_MEM_TABLE: u32 = 5;
const SET_VRING_NUM: u32 = 8;
const SET_VRING_ADDR: u32 = 9;
const SET_VRING_BASE: u32 = 10;
const SET_VRING_KICK: u32 = 12;
const SET_VRING_CALL: u32 = 13;
const GET_PROTOCOL_FEATURES: u32 = 15;
const SET_PROTOCOL_FEATURES: u32 = 16;
const SET_VRING_ENABLE: u32 = 18;

// Features of the device. A driver that knows FLUSH lets the device keep writes in a cache (section 5.2.6.2).
const FLUSH: u64 = 1 << 9;
const EVENT_IDX: u64 = 1 << 29;
const PROTOCOL_FEATURES: u64 = 1 << 30;
const VERSION_1: u64 = 1 << 32;

// The memory: the queue's three parts, heads and states of requests, and their data.
const SIZE: u16 = 256;
const DESC: u64 = 0;
const AVAIL: u64 = 0x1000;
const USED: u64 = 0x2000;
const HEADS: u64 = 0x4000;
const DATA: u64 = 0x10000;
const RAM: u64 = DATA + MOST * BLOCK;
/// Where in the front end's own address space the memory is said to be.
const USER: u64 = 0x7f00_0000_0000;

const NEXT: u16 = 1;
const DEVICE_WRITES: u16 = 2;

/// The driver, connected and with its queue running.
pub(super) struct Disk {
    socket: UnixStream,
    ram: Arc<Memory>,
    fd: OwnedFd,
    kick: OwnedFd,
    call: OwnedFd,
    /// Requests made available and taken back so far, modulo 2^16.
    avail: u16,
    used: u16,
    /// What the device has been told of `avail`.
    told: u16,
}

fn bytes<T: Copy, const N: usize>(list: &[T], f: impl Fn(T) -> [u8; N]) -> Vec<u8> {
    list.iter().flat_map(|v| f(*v)).collect()
}

impl Disk {
    /// Connects to the export at a unix socket.
    pub(super) fn connect(path: &Path) -> Result<Disk> {
        let end = Instant::now() + Duration::from_secs(20);
        let socket = loop {
            match UnixStream::connect(path) {
                Ok(s) => break s,
                Err(e) if Instant::now() > end => return Err(e).context("connecting to the export"),
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        };
        let fd = memfd_create("ram", MemfdFlags::CLOEXEC)?;
        ftruncate(&fd, RAM)?;
        let ram = Memory::shared("ram", fd.as_fd(), 0, RAM).map_err(|e| anyhow::anyhow!("memory: {e}"))?;
        let event = || eventfd(0, EventfdFlags::CLOEXEC);
        let (kick, call) = (event()?, event()?);
        let disk = Disk { socket, ram, fd, kick, call, avail: 0, used: 0, told: 0 };
        disk.start()?;
        Ok(disk)
    }

    fn start(&self) -> Result<()> {
        let wanted = VERSION_1 | EVENT_IDX | FLUSH | PROTOCOL_FEATURES;
        ensure!(self.ask(GET_FEATURES)? & wanted == wanted, "the export lacks a feature");
        self.ask(GET_PROTOCOL_FEATURES)?;
        let long = |v: &[u64]| bytes(v, u64::to_le_bytes);
        let word = |v: &[u32]| bytes(v, u32::to_le_bytes);
        self.tell(SET_PROTOCOL_FEATURES, &long(&[0]), &[])?;
        self.tell(SET_OWNER, &[], &[])?;
        self.tell(SET_FEATURES, &long(&[wanted]), &[])?;
        let table = [word(&[1, 0]), long(&[0, RAM, USER, 0])].concat();
        self.tell(SET_MEM_TABLE, &table, &[self.fd.as_fd()])?;
        self.tell(SET_VRING_NUM, &word(&[0, SIZE.into()]), &[])?;
        self.tell(SET_VRING_BASE, &word(&[0, 0]), &[])?;
        let at = [word(&[0, 0]), long(&[USER + DESC, USER + USED, USER + AVAIL, 0])].concat();
        self.tell(SET_VRING_ADDR, &at, &[])?;
        self.tell(SET_VRING_CALL, &long(&[0]), &[self.call.as_fd()])?;
        self.tell(SET_VRING_KICK, &long(&[0]), &[self.kick.as_fd()])?;
        self.tell(SET_VRING_ENABLE, &word(&[0, 1]), &[])?;
        // The answer comes after all that was told.
        self.ask(GET_FEATURES).map(drop)
    }

    fn tell(&self, request: u32, payload: &[u8], fds: &[BorrowedFd<'_>]) -> Result<()> {
        let head = bytes(&[request, 1, payload.len() as u32], u32::to_le_bytes);
        let message = [head.as_slice(), payload].concat();
        if fds.is_empty() {
            return Ok((&self.socket).write_all(&message)?);
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        ensure!(control.push(SendAncillaryMessage::ScmRights(fds)), "too many descriptors");
        let sent = sendmsg(&self.socket, &[IoSlice::new(&message)], &mut control, SendFlags::NOSIGNAL)?;
        ensure!(sent == message.len(), "the socket is full");
        Ok(())
    }

    /// Asks for a number.
    fn ask(&self, request: u32) -> Result<u64> {
        self.tell(request, &[], &[])?;
        let mut answer = [0; 20];
        (&self.socket).read_exact(&mut answer)?;
        let (head, value) = answer.split_at(12);
        ensure!(head[..4] == request.to_le_bytes(), "an answer to another question");
        Ok(u64::from_le_bytes(value.try_into()?))
    }

    /// Keeps `depth` requests in flight on a disk of `blocks` blocks for so long; how many were done, and in what time.
    pub(super) fn run(
        &mut self,
        writes: bool,
        depth: u64,
        blocks: u64,
        time: Duration,
    ) -> Result<(u64, f64)> {
        ensure!(depth > 0 && depth <= MOST && blocks > 0, "no such load");
        for slot in 0..depth {
            self.describe(slot, writes);
        }
        let begun = Instant::now();
        let mut random = 0x9e37_79b9_7f4a_7c15u64;
        let mut free: Vec<u64> = (0..depth).collect();
        let (mut done, mut in_flight) = (0, 0);
        loop {
            let more = begun.elapsed() < time;
            if !more && in_flight == 0 {
                return Ok((done, begun.elapsed().as_secs_f64()));
            }
            while let Some(slot) = free.pop_if(|_| more) {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                self.begin(slot, random % blocks);
                in_flight += 1;
            }
            self.publish()?;
            let before = free.len();
            self.wait(&mut free)?;
            let ended = (free.len() - before) as u64;
            (done, in_flight) = (done + ended, in_flight - ended);
        }
    }

    /// Writes the descriptors of a slot, which stay the same.
    fn describe(&self, slot: u64, writes: bool) {
        let head = HEADS + slot * 32;
        let data = if writes { NEXT } else { NEXT | DEVICE_WRITES };
        let parts =
            [(head, 16, NEXT), (DATA + slot * BLOCK, BLOCK as u32, data), (head + 16, 1, DEVICE_WRITES)];
        for (i, (addr, len, flags)) in (3 * slot..).zip(parts) {
            let at = DESC + 16 * i;
            self.ram.store(at, addr);
            self.ram.store(at + 8, len);
            self.ram.store(at + 12, flags);
            self.ram.store(at + 14, (i + 1) as u16);
        }
        self.ram.store(head, u32::from(writes));
    }

    fn begin(&mut self, slot: u64, block: u64) {
        self.ram.store(HEADS + slot * 32 + 8, block * (BLOCK / 512));
        self.ram.store(HEADS + slot * 32 + 16, 0xffu8);
        self.ram.store(AVAIL + 4 + 2 * u64::from(self.avail % SIZE), (3 * slot) as u16);
        self.avail = self.avail.wrapping_add(1);
    }

    /// Shows the device what is new, and wakes it if it wants to be (section 2.7.10).
    fn publish(&mut self) -> Result<()> {
        let news = self.avail.wrapping_sub(self.told);
        if news == 0 {
            return Ok(());
        }
        fence(Ordering::SeqCst);
        self.ram.store(AVAIL + 2, self.avail);
        fence(Ordering::SeqCst);
        let wanted: u16 = self.ram.load(USED + 4 + 8 * u64::from(SIZE));
        self.told = self.avail;
        if self.avail.wrapping_sub(wanted).wrapping_sub(1) < news {
            rustix::io::write(&self.kick, &1u64.to_ne_bytes())?;
        }
        Ok(())
    }

    /// Waits for requests to end, and gives their slots back.
    fn wait(&mut self, free: &mut Vec<u64>) -> Result<()> {
        loop {
            fence(Ordering::SeqCst);
            let used: u16 = self.ram.load(USED + 2);
            fence(Ordering::SeqCst);
            if used != self.used {
                while self.used != used {
                    let id: u32 = self.ram.load(USED + 4 + 8 * u64::from(self.used % SIZE));
                    let slot = u64::from(id) / 3;
                    ensure!(id.is_multiple_of(3) && slot < MOST, "the device gives back what it did not get");
                    let status: u8 = self.ram.load(HEADS + slot * 32 + 16);
                    ensure!(status == 0, "a request failed with status {status}");
                    free.push(slot);
                    self.used = self.used.wrapping_add(1);
                }
                return Ok(());
            }
            // To be woken by the next one that ends, and not to miss one that just did.
            self.ram.store(AVAIL + 4 + 2 * u64::from(SIZE), self.used);
            fence(Ordering::SeqCst);
            if self.ram.load::<u16>(USED + 2) == self.used {
                let mut fds = [PollFd::new(&self.call, PollFlags::IN)];
                ensure!(poll(&mut fds, Some(&PATIENCE))? > 0, "the device does not answer");
                rustix::io::read(&self.call, &mut [0; 8])?;
            }
        }
    }
}
