//! What every character device is made of: the place of its front end, and where its output goes.

use crate::ring::Ring;
use crate::telnet::Escaper;
use base::Errno;
use device::{CharBackend, CharEvent, CharFrontend};
use event_listener::Event;
use io::Stream;
use parking_lot::Mutex;
use qapi::{QError, qerr};
use std::fs::File;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The most bytes taken from the outside in one piece.
pub(crate) const PIECE: usize = 4096;

type Callback = Arc<dyn Fn() + Send + Sync>;

#[derive(Default)]
struct Front {
    front: Option<Arc<dyn CharFrontend>>,
    /// It was told that the other end is open.
    announced: bool,
}

/// The part that the tasks which move bytes hold.
pub(crate) struct Core {
    pub(crate) id: String,
    pub(crate) handle: rt::Handle,
    front: Mutex<Front>,
    writable: Mutex<Option<Callback>>,
    /// A front end came, or has room again.
    wake: Event,
    open: AtomicBool,
    opened: Event,
    pub(crate) linger: AtomicBool,
    filename: Mutex<String>,
}

impl Core {
    pub(crate) fn new(id: &str, handle: rt::Handle, filename: &str) -> Arc<Core> {
        Arc::new(Core {
            id: id.to_owned(),
            handle,
            front: Mutex::default(),
            writable: Mutex::default(),
            wake: Event::new(),
            open: AtomicBool::new(false),
            opened: Event::new(),
            linger: AtomicBool::new(false),
            filename: Mutex::new(filename.to_owned()),
        })
    }

    pub(crate) fn set_filename(&self, name: String) {
        *self.filename.lock() = name;
    }

    pub(crate) fn filename(&self) -> String {
        self.filename.lock().clone()
    }

    fn front(&self) -> Option<Arc<dyn CharFrontend>> {
        self.front.lock().front.clone()
    }

    /// Tells a front end that has not heard of it that the other end is open.
    fn announce(&self) {
        let front = {
            let mut f = self.front.lock();
            if f.announced || !self.open.load(Ordering::Acquire) || f.front.is_none() {
                return;
            }
            f.announced = true;
            f.front.clone()
        };
        if let Some(front) = front {
            front.event(CharEvent::Opened);
        }
    }

    /// The other end came or went. On the device's thread.
    pub(crate) fn set_open(&self, open: bool) {
        self.open.store(open, Ordering::Release);
        if open {
            self.opened.notify(usize::MAX);
            self.announce();
        } else {
            let front = {
                let mut f = self.front.lock();
                if std::mem::take(&mut f.announced) { f.front.clone() } else { None }
            };
            if let Some(front) = front {
                front.event(CharEvent::Closed);
            }
            // Whoever waits to write may go on: output to nobody is thrown away.
            self.call_writable();
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire)
    }

    /// Waits until the other end is open.
    pub(crate) async fn until_open(&self) {
        loop {
            let opened = self.opened.listen();
            if self.is_open() {
                return;
            }
            opened.await;
        }
    }

    /// Waits until the front end takes bytes: how many. By then it has been told that the other end is open,
    /// so that it also hears of an end that comes at once.
    pub(crate) async fn room(&self) -> usize {
        loop {
            let wake = self.wake.listen();
            self.announce();
            let room = self.front().map_or(0, |f| f.room());
            if room > 0 {
                return room;
            }
            wake.await;
        }
    }

    /// Gives bytes to the front end. On the device's thread, at most what [`Core::room`] said.
    pub(crate) fn deliver(&self, bytes: &[u8]) {
        self.announce();
        if let Some(f) = self.front()
            && !bytes.is_empty()
        {
            f.receive(bytes);
        }
    }

    pub(crate) fn send_event(&self, event: CharEvent) {
        if let Some(f) = self.front() {
            f.event(event);
        }
    }

    pub(crate) fn call_writable(&self) {
        let f = self.writable.lock().clone();
        if let Some(f) = f {
            f();
        }
    }
}

/// The connection that output goes to, while there is one.
pub(crate) struct Slot {
    /// The connection, and how many there were.
    stream: Mutex<(Option<Stream>, u64)>,
    /// A task waits for the stream to take more.
    armed: AtomicBool,
    telnet: Option<Mutex<Escaper>>,
}

impl Slot {
    pub(crate) fn new(telnet: bool) -> Arc<Slot> {
        Arc::new(Slot {
            stream: Mutex::default(),
            armed: AtomicBool::new(false),
            telnet: telnet.then(Mutex::default),
        })
    }

    pub(crate) fn set(&self, stream: Option<Stream>) {
        if let Some(t) = &self.telnet {
            *t.lock() = Escaper::default();
        }
        let mut s = self.stream.lock();
        s.1 += u64::from(stream.is_some());
        s.0 = stream;
    }

    fn write(self: &Arc<Slot>, core: &Arc<Core>, bytes: &[u8]) -> usize {
        let Some(stream) = self.stream.lock().0.clone() else { return bytes.len() };
        let mut done = 0;
        let mut full = false;
        while done < bytes.len() {
            let rest = &bytes[done..];
            let r = match &self.telnet {
                Some(t) => t.lock().write(rest, |b| stream.try_write(b)),
                None => stream.try_write(rest),
            };
            match r {
                Ok(n) => done += n,
                Err(Errno::AGAIN) => {
                    full = true;
                    break;
                }
                Err(_) => {
                    // The reading side will find the end and tidy up.
                    stream.shutdown();
                    return bytes.len();
                }
            }
        }
        if full || !stream.is_flushed() {
            self.arm(core, stream);
        }
        done
    }

    fn arm(self: &Arc<Slot>, core: &Arc<Core>, stream: Stream) {
        if self.armed.swap(true, Ordering::AcqRel) {
            return;
        }
        let (slot, core2) = (self.clone(), core.clone());
        drop(core.handle.spawn(move || async move {
            // What is encrypted already is sent; nobody may write again for a long time.
            let _ = stream.flush().await;
            let _ = stream.writable().await;
            slot.armed.store(false, Ordering::Release);
            core2.call_writable();
        }));
    }
}

/// Where a device's output goes.
pub(crate) enum Sink {
    Null,
    Ring(Mutex<Ring>),
    File(Mutex<File>),
    Slot(Arc<Slot>),
}

/// A task that ends with its device.
pub(crate) struct Task(rt::JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A character device.
pub struct Chardev {
    core: Arc<Core>,
    sink: Sink,
    log: Option<Mutex<File>>,
    sockets: bool,
    /// Dropped with the device: undoes what making it did to the world.
    _undo: Option<Box<dyn Send + Sync>>,
    _task: Option<Task>,
}

impl Chardev {
    pub(crate) fn new(
        core: Arc<Core>,
        sink: Sink,
        log: Option<File>,
        undo: Option<Box<dyn Send + Sync>>,
        task: Option<rt::JoinHandle<()>>,
    ) -> Arc<Chardev> {
        let log = log.map(Mutex::new);
        Arc::new(Chardev { core, sink, log, sockets: false, _undo: undo, _task: task.map(Task) })
    }

    /// A device whose connection can be ended.
    pub(crate) fn of_socket(
        core: Arc<Core>,
        slot: Arc<Slot>,
        log: Option<File>,
        task: rt::JoinHandle<()>,
    ) -> Arc<Chardev> {
        let log = log.map(Mutex::new);
        let _task = Some(Task(task));
        Arc::new(Chardev { core, sink: Sink::Slot(slot), log, sockets: true, _undo: None, _task })
    }

    /// What stands behind the device now, in the words of `info chardev`: `unix:/run/x,server=on`,
    /// `pty:/dev/pts/3`; with `disconnected:` before it where nobody is at the other end.
    pub fn filename(&self) -> String {
        self.core.filename()
    }

    /// Whether somebody is at the other end.
    pub fn is_open(&self) -> bool {
        self.core.is_open()
    }

    /// Waits until somebody is at the other end.
    pub async fn until_open(&self) {
        self.core.until_open().await;
    }

    /// The number of the connection that there is, or was last.
    pub(crate) fn connection(&self) -> u64 {
        match &self.sink {
            Sink::Slot(slot) => slot.stream.lock().1,
            _ => 0,
        }
    }

    /// Ends a socket's connection if it is still the one of this number; nothing happens to another kind of
    /// device.
    pub(crate) fn hang_up(&self, connection: u64) {
        if let (true, Sink::Slot(slot)) = (self.sockets, &self.sink) {
            let s = slot.stream.lock();
            if let (Some(stream), true) = (&s.0, s.1 == connection) {
                stream.shutdown();
            }
        }
    }

    /// Whether a client that has ended its side may still be answered: the front end will hang up.
    pub(crate) fn set_linger(&self) {
        self.core.linger.store(true, Ordering::Release);
    }

    /// Whether a front end is attached.
    pub fn is_attached(&self) -> bool {
        self.core.front().is_some()
    }

    /// Takes up to `max` of the oldest bytes out of a ring buffer; `None` for another kind of device.
    pub fn take_ring(&self, max: usize) -> Option<Vec<u8>> {
        match &self.sink {
            Sink::Ring(r) => Some(r.lock().take(max)),
            _ => None,
        }
    }
}

impl Drop for Chardev {
    fn drop(&mut self) {
        if let Sink::Slot(slot) = &self.sink {
            slot.set(None);
        }
    }
}

impl CharBackend for Chardev {
    fn id(&self) -> &str {
        &self.core.id
    }

    fn attach(&self, front: Arc<dyn CharFrontend>) -> Result<(), QError> {
        {
            let mut f = self.core.front.lock();
            if f.front.is_some() {
                return Err(qerr!("chardev '{}' is already in use", self.core.id));
            }
            *f = Front { front: Some(front), announced: false };
        }
        let core = self.core.clone();
        drop(self.core.handle.spawn(move || async move { core.announce() }));
        self.core.wake.notify(usize::MAX);
        Ok(())
    }

    fn detach(&self) {
        *self.core.front.lock() = Front::default();
        *self.core.writable.lock() = None;
        self.core.linger.store(false, Ordering::Release);
    }

    fn write(&self, bytes: &[u8]) -> usize {
        let n = match &self.sink {
            Sink::Null => bytes.len(),
            Sink::Ring(r) => {
                r.lock().put(bytes);
                bytes.len()
            }
            Sink::File(f) => {
                // A full disk loses output; the guest has nobody to tell.
                let _ = f.lock().write_all(bytes);
                bytes.len()
            }
            Sink::Slot(slot) => slot.write(&self.core, bytes),
        };
        if let Some(log) = &self.log {
            let _ = log.lock().write_all(&bytes[..n]);
        }
        n
    }

    fn accept_input(&self) {
        self.core.wake.notify(usize::MAX);
    }

    fn on_writable(&self, f: Arc<dyn Fn() + Send + Sync>) {
        *self.core.writable.lock() = Some(f);
    }
}

/// What the other end's hanging up means while the front end takes no bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hangup {
    /// The connection is over; the next one may come although this one's last bytes were not taken.
    Ends,
    /// Bytes that are left are kept until they are taken: there will be no other connection.
    Drains,
}

/// How often to look for a hang-up while the front end takes no bytes.
const LOOK: Duration = Duration::from_secs(1);

/// Moves bytes from `stream` to the front end until the stream ends.
pub(crate) async fn pump(core: &Core, stream: &Stream, hangup: Hangup, mut filter: impl FnMut(&mut Vec<u8>)) {
    let mut buf = [0; PIECE];
    loop {
        let room = match hangup {
            Hangup::Drains => core.room().await,
            Hangup::Ends => match rt::timeout(LOOK, core.room()).await {
                Some(room) => room,
                None if stream.is_hung_up() => return,
                None => continue,
            },
        };
        match stream.read(&mut buf[..room.min(PIECE)]).await {
            Ok(n) if n > 0 => {
                let mut bytes = buf[..n].to_vec();
                filter(&mut bytes);
                core.deliver(&bytes);
            }
            _ => return,
        }
    }
}
