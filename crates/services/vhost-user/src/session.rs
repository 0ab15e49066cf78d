//! One conversation with a front end.

use crate::memory::{MAX_SLOTS, Table};
use crate::message::{self, Broken, HEAD, Head, answer};
use crate::ring::{Kick, Ring, Wires};
use crate::spec::*;
use base::{Errno, IoResult};
use io::Stream;
use parking_lot::Mutex;
use rt::AsyncFd;
use rustix::fs::{AtFlags, FileType, StatxFlags};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use virtio::queue::VirtQueue;
use virtio::{TransportEvents, VirtioDevice};

/// The protocol features that there are.
const PROTOCOL: u64 = P_MQ | P_REPLY_ACK | P_BACKEND_REQ | P_CONFIG | P_RESET_DEVICE | P_CONFIGURE_MEM_SLOTS;

/// The way back: what the device tells whoever has it at the time. Given to [`VirtioDevice::connect`].
#[derive(Default)]
pub struct Notices(Mutex<Option<Stream>>);

impl TransportEvents for Notices {
    fn config_changed(&self) {
        let mut to = self.0.lock();
        let Some(stream) = &*to else { return };
        let mut m = answer(BACKEND_CONFIG_CHANGE_MSG, &[]);
        m[4..8].copy_from_slice(&VERSION.to_le_bytes());
        match stream.try_write(&m) {
            Ok(HEAD) => {}
            // A front end that does not read has earlier ones still to come.
            Err(Errno::AGAIN) => {}
            _ => *to = None,
        }
    }
}

/// Why a message was not done.
enum Refused {
    /// The front end is told if it wants to know, and the session goes on; it ends otherwise.
    No(&'static str),
    /// The session ends.
    Broken(&'static str),
}

impl From<Broken> for Refused {
    fn from(b: Broken) -> Refused {
        Refused::Broken(b.0)
    }
}

/// What a payload says, if it says something.
fn said<T>(v: Option<T>) -> Result<T, Refused> {
    v.ok_or(Refused::Broken("a malformed message"))
}

struct Session {
    device: Arc<dyn VirtioDevice>,
    notices: Arc<Notices>,
    table: Table,
    features: u64,
    protocol: u64,
    /// The device was handed its (empty) list of queues.
    active: bool,
    wires: Arc<Wires>,
    rings: Vec<Ring>,
}

/// Serves a front end until it goes, breaks the protocol, or the stream is shut down. Afterwards the device has no queue
/// and touches no memory of the machine. One session at a time for a device, on the executor that serves its queues.
///
/// # Errors
/// `EPIPE` where the front end is gone; `EPROTO` where it broke the protocol.
pub async fn serve(stream: &Stream, device: Arc<dyn VirtioDevice>, notices: Arc<Notices>) -> IoResult<()> {
    let n = device.queue_sizes().len();
    let mut session = Session {
        device,
        notices,
        table: Table::default(),
        features: 0,
        protocol: 0,
        active: false,
        wires: Arc::new(Wires((0..n).map(|_| Default::default()).collect())),
        rings: (0..n).map(|_| Ring::default()).collect(),
    };
    let end = session.talk(stream).await;
    session.end().await;
    end
}

impl Session {
    async fn talk(&mut self, stream: &Stream) -> IoResult<()> {
        let mut payload = Vec::new();
        loop {
            drop(stream.take_fds());
            let mut head = [0; HEAD];
            stream.read_exact(&mut head).await?;
            let head = Head::parse(&head).map_err(|b| broken(b.0))?;
            payload.resize(head.size, 0);
            stream.read_exact(&mut payload).await?;
            let fds = stream.take_fds();
            let wants = head.flags & FLAG_NEED_REPLY != 0 && self.protocol & P_REPLY_ACK != 0;
            let done = self.handle(head.request, &payload, fds).await;
            let reply = match done {
                Ok(Some(reply)) => Some(reply),
                Ok(None) => wants.then(|| 0u64.to_le_bytes().to_vec()),
                Err(Refused::No(why)) if wants => {
                    tracing::warn!(request = head.request, "vhost-user: refused: {why}");
                    Some(1u64.to_le_bytes().to_vec())
                }
                Err(Refused::No(why) | Refused::Broken(why)) => return Err(broken(why)),
            };
            if let Some(reply) = reply {
                stream.write_all(&answer(head.request, &reply)).await?;
            }
        }
    }

    async fn end(&mut self) {
        *self.notices.0.lock() = None;
        // No request is dropped half-way, and none is in flight when the device lets go.
        self.device.pause().await;
        for r in &mut self.rings {
            r.running = None;
        }
        self.device.deactivate();
        self.device.resume();
    }

    fn ring(&mut self, index: u64) -> Result<(usize, &mut Ring), Refused> {
        let i = usize::try_from(index).unwrap_or(usize::MAX);
        let r = self.rings.get_mut(i).ok_or(Refused::Broken("a ring that there is not"))?;
        Ok((i, r))
    }

    /// The same, if the ring stands still.
    fn still(&mut self, index: u32) -> Result<&mut Ring, Refused> {
        let (_, ring) = self.ring(index.into())?;
        if ring.running.is_some() {
            return Err(Refused::No("the ring is running"));
        }
        Ok(ring)
    }

    async fn handle(
        &mut self,
        request: u32,
        payload: &[u8],
        mut fds: Vec<OwnedFd>,
    ) -> Result<Option<Vec<u8>>, Refused> {
        let reply = |v: u64| Ok(Some(v.to_le_bytes().to_vec()));
        match request {
            GET_FEATURES => return reply(self.device.features() | F_PROTOCOL_FEATURES),
            SET_FEATURES => self.set_features(said(message::number(payload))?)?,
            GET_PROTOCOL_FEATURES => return reply(PROTOCOL),
            SET_PROTOCOL_FEATURES => {
                let v = said(message::number(payload))?;
                if v & !PROTOCOL != 0 {
                    return Err(Refused::Broken("protocol features that were not offered"));
                }
                self.protocol = v;
            }
            SET_OWNER => {}
            RESET_OWNER | RESET_DEVICE => {
                self.stop_all().await;
                self.let_go();
            }
            GET_QUEUE_NUM => return reply(self.rings.len() as u64),
            GET_MAX_MEM_SLOTS => return reply(MAX_SLOTS as u64),
            SET_MEM_TABLE => {
                let list = said(message::mem_table(payload))?;
                self.table.replace(&list, &fds).map_err(|_| Refused::No("memory cannot be shared"))?;
                self.follow().await?;
            }
            ADD_MEM_REG => {
                let region = said(message::mem_region(payload))?;
                let fd = one(fds)?;
                self.table.add(region, &fd).map_err(|_| Refused::No("memory cannot be shared"))?;
            }
            REM_MEM_REG => {
                let region = said(message::mem_region(payload))?;
                self.table.remove(&region).map_err(|_| Refused::No("no such memory is shared"))?;
            }
            SET_VRING_NUM => {
                let (i, n) = said(message::vring_state(payload))?;
                self.still(i)?.size = u16::try_from(n).map_err(|_| Refused::No("too large a ring"))?;
            }
            SET_VRING_BASE => {
                let (i, n) = said(message::vring_state(payload))?;
                self.still(i)?.position = n;
            }
            SET_VRING_ADDR => {
                let addr = said(message::vring_addr(payload))?;
                let (_, ring) = self.ring(addr.index.into())?;
                ring.addr = Some(addr);
                self.follow().await?;
            }
            GET_VRING_BASE => {
                let (i, _) = said(message::vring_state(payload))?;
                let (n, _) = self.ring(i.into())?;
                self.stop(n).await;
                // It runs again when it is kicked off anew.
                self.rings[n].kick = None;
                let state = [i, self.rings[n].position];
                return Ok(Some(state.iter().flat_map(|v| v.to_le_bytes()).collect()));
            }
            SET_VRING_KICK => {
                let v = said(message::number(payload))?;
                let (i, _) = self.ring(v & VRING_INDEX_MASK)?;
                let kick = if v & VRING_NO_FD != 0 {
                    Kick::Poll
                } else {
                    let fd = notifier(fds)?;
                    let watched = rustix::io::ioctl_fionbio(&fd, true)
                        .ok()
                        .and_then(|()| AsyncFd::new(fd).ok())
                        .ok_or(Refused::No("a descriptor that cannot be waited for"))?;
                    Kick::Fd(watched)
                };
                self.stop(i).await;
                self.rings[i].kick = Some(kick);
                self.start(i)?;
            }
            SET_VRING_CALL | SET_VRING_ERR => {
                let v = said(message::number(payload))?;
                let (i, _) = self.ring(v & VRING_INDEX_MASK)?;
                let fd = if v & VRING_NO_FD != 0 {
                    None
                } else {
                    let fd = notifier(std::mem::take(&mut fds))?;
                    rustix::io::ioctl_fionbio(&fd, true)
                        .map_err(|_| Refused::No("a descriptor that would block"))?;
                    Some(Arc::new(fd))
                };
                let wire = &self.wires.0[i];
                if request == SET_VRING_CALL { &wire.call } else { &wire.err }.store(fd);
            }
            SET_VRING_ENABLE => {
                let (i, on) = said(message::vring_state(payload))?;
                let (n, ring) = self.ring(i.into())?;
                ring.enabled = on != 0;
                if on != 0 { self.start(n)? } else { self.stop(n).await }
            }
            SET_BACKEND_REQ_FD => {
                let stream = Stream::from_fd(one(fds)?).map_err(|_| Refused::No("no socket"))?;
                *self.notices.0.lock() = Some(stream);
            }
            GET_CONFIG => {
                let (offset, _, bytes) = said(message::config(payload))?;
                let mut back = payload.to_vec();
                let at = back.len() - bytes.len();
                self.device.read_config(offset.into(), &mut back[at..]);
                return Ok(Some(back));
            }
            SET_CONFIG => {
                let (offset, _, bytes) = said(message::config(payload))?;
                self.device.write_config(offset.into(), bytes);
            }
            _ => return Err(Refused::No("a request that is not known")),
        }
        Ok(None)
    }

    fn set_features(&mut self, v: u64) -> Result<(), Refused> {
        if v & !(self.device.features() | F_PROTOCOL_FEATURES) != 0 {
            return Err(Refused::No("features that were not offered"));
        }
        if v == self.features {
            return Ok(());
        }
        if self.rings.iter().any(|r| r.running.is_some()) {
            return Err(Refused::No("features change while a ring is running"));
        }
        self.let_go();
        self.features = v;
        // Without this feature there is no message to enable a ring.
        if v & F_PROTOCOL_FEATURES == 0 {
            self.rings.iter_mut().for_each(|r| r.enabled = true);
        }
        self.device.negotiated(v & !F_PROTOCOL_FEATURES);
        Ok(())
    }

    /// The device forgets its queues, none of which runs.
    fn let_go(&mut self) {
        if std::mem::take(&mut self.active) {
            self.device.deactivate();
            self.device.negotiated(self.features & !F_PROTOCOL_FEATURES);
        }
    }

    /// Starts a ring, if all that it needs was said.
    fn start(&mut self, i: usize) -> Result<(), Refused> {
        let features = self.features & !F_PROTOCOL_FEATURES;
        let ring = &self.rings[i];
        let Some(kick) = ring.kick.clone().filter(|_| ring.enabled && ring.running.is_none()) else {
            return Ok(());
        };
        let layout = ring.layout(&self.table, features).ok_or(Refused::No("a ring outside of the memory"))?;
        let queue =
            VirtQueue::at_position(i as u16, layout, self.table.dma(), self.wires.clone(), ring.position)
                .map_err(|_| Refused::No("an impossible ring"))?;
        if !self.active {
            self.device.activate(features, vec![None; self.rings.len()]);
            self.active = true;
        }
        self.device.restart_queue(queue.clone());
        self.rings[i].run(&self.device, queue, layout, kick);
        Ok(())
    }

    /// Stops a ring: when this returns, every request that was taken from it was given back.
    async fn stop(&mut self, i: usize) {
        if let Some(running) = self.rings[i].running.take() {
            self.device.pause().await;
            self.rings[i].position = running.queue.position();
            self.device.reset_queue(i as u16);
            self.device.resume();
        }
    }

    async fn stop_all(&mut self) {
        for i in 0..self.rings.len() {
            self.stop(i).await;
            self.rings[i].kick = None;
        }
    }

    /// Rings that are somewhere else now go on there.
    async fn follow(&mut self) -> Result<(), Refused> {
        let features = self.features & !F_PROTOCOL_FEATURES;
        for i in 0..self.rings.len() {
            let now = self.rings[i].layout(&self.table, features);
            if self.rings[i].running.as_ref().is_some_and(|r| Some(r.layout) != now) {
                self.stop(i).await;
                self.start(i)?;
            }
        }
        Ok(())
    }
}

/// The descriptor that comes with a message.
fn one(mut fds: Vec<OwnedFd>) -> Result<OwnedFd, Refused> {
    match fds.len() {
        1 => Ok(fds.remove(0)),
        _ => Err(Refused::Broken("a message without its descriptor")),
    }
}

/// The descriptor of something that notifies. A file is nothing such, and could keep whoever reads it waiting, since it
/// knows no other way. (Nor may its file system be asked for its kind.)
fn notifier(fds: Vec<OwnedFd>) -> Result<OwnedFd, Refused> {
    let fd = one(fds)?;
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let kind = rustix::fs::statx(&fd, c"", flags, StatxFlags::TYPE).map(|s| u32::from(s.stx_mode));
    match kind.map(FileType::from_raw_mode) {
        Ok(FileType::Fifo | FileType::Socket | FileType::Unknown) => Ok(fd),
        _ => Err(Refused::No("a descriptor that does not notify")),
    }
}

fn broken(why: &str) -> Errno {
    tracing::warn!("vhost-user: a session ends: {why}");
    Errno::PROTO
}
