//! A back end as a source of channels for a monitor: each opening of the device is a channel.

use crate::core::Chardev;
use base::{Errno, IoResult};
use device::{CharBackend, CharEvent, CharFrontend};
use event_listener::Event;
use io::{Acceptor, Channel, IoFut};
use parking_lot::Mutex;
use qapi::QError;
use std::collections::VecDeque;
use std::sync::{Arc, Weak};

const BUFFER: usize = 4096;

#[derive(Default)]
struct State {
    input: VecDeque<u8>,
    /// Counts the openings.
    generation: u64,
    open: bool,
    accepted: u64,
    /// The device's number for what opened last.
    connection: u64,
}

struct Inner {
    backend: Arc<dyn CharBackend>,
    /// The device, where a client can be dropped from it.
    device: Option<Weak<Chardev>>,
    state: Mutex<State>,
    /// Input came, or the device opened or closed, or a channel was shut down.
    changed: Event,
    writable: Event,
}

struct Front(Weak<Inner>);

/// The front end of a back end that a monitor uses. Dropping it lets the back end go.
pub struct CharStream(Arc<Inner>);

struct CharChannel {
    inner: Arc<Inner>,
    generation: u64,
    shut: std::sync::atomic::AtomicBool,
}

impl CharStream {
    /// Takes `backend`.
    ///
    /// # Errors
    /// Where it has a front end already.
    pub fn new(backend: Arc<dyn CharBackend>) -> Result<Arc<CharStream>, QError> {
        CharStream::make(backend, None)
    }

    /// The same for a device of its own, from which a client can be dropped.
    pub(crate) fn of_device(device: Arc<Chardev>) -> Result<Arc<CharStream>, QError> {
        let weak = Arc::downgrade(&device);
        let stream = CharStream::make(device.clone(), Some(weak))?;
        device.set_linger();
        Ok(stream)
    }

    fn make(backend: Arc<dyn CharBackend>, device: Option<Weak<Chardev>>) -> Result<Arc<CharStream>, QError> {
        let inner = Arc::new(Inner {
            backend: backend.clone(),
            device,
            state: Mutex::default(),
            changed: Event::new(),
            writable: Event::new(),
        });
        backend.attach(Arc::new(Front(Arc::downgrade(&inner))))?;
        let weak = Arc::downgrade(&inner);
        backend.on_writable(Arc::new(move || {
            if let Some(i) = weak.upgrade() {
                i.writable.notify(usize::MAX);
            }
        }));
        Ok(Arc::new(CharStream(inner)))
    }
}

impl Drop for CharStream {
    fn drop(&mut self) {
        self.0.backend.detach();
        self.0.state.lock().open = false;
        self.0.changed.notify(usize::MAX);
        self.0.writable.notify(usize::MAX);
    }
}

impl CharFrontend for Front {
    fn room(&self) -> usize {
        self.0.upgrade().map_or(0, |i| BUFFER.saturating_sub(i.state.lock().input.len()))
    }

    fn receive(&self, bytes: &[u8]) {
        if let Some(i) = self.0.upgrade() {
            i.state.lock().input.extend(bytes);
            i.changed.notify(usize::MAX);
        }
    }

    fn event(&self, event: CharEvent) {
        let Some(i) = self.0.upgrade() else { return };
        // On the device's thread: the connection that this is about is the one that there is.
        let connection = i.device.as_ref().and_then(Weak::upgrade).map_or(0, |d| d.connection());
        {
            let mut s = i.state.lock();
            match event {
                CharEvent::Opened => {
                    s.connection = connection;
                    s.generation += 1;
                    s.open = true;
                    s.input.clear();
                }
                CharEvent::Closed => s.open = false,
                CharEvent::Break => return,
            }
        }
        i.changed.notify(usize::MAX);
        i.writable.notify(usize::MAX);
    }
}

impl Acceptor for CharStream {
    fn accept<'a>(&'a self) -> IoFut<'a, Arc<dyn Channel>> {
        Box::pin(async {
            loop {
                let changed = self.0.changed.listen();
                {
                    let mut s = self.0.state.lock();
                    // Even if it has closed by now: what is to be read or said is said.
                    if s.generation > s.accepted {
                        s.accepted = s.generation;
                        return Ok(Arc::new(CharChannel {
                            inner: self.0.clone(),
                            generation: s.generation,
                            shut: false.into(),
                        }) as Arc<dyn Channel>);
                    }
                }
                changed.await;
            }
        })
    }
}

impl CharChannel {
    fn is_over(&self, s: &State) -> bool {
        s.generation != self.generation || self.shut.load(std::sync::atomic::Ordering::Acquire)
    }

    async fn read_some(&self, buf: &mut [u8]) -> IoResult<usize> {
        loop {
            let changed = self.inner.changed.listen();
            let n = {
                let mut s = self.inner.state.lock();
                if self.is_over(&s) {
                    return Ok(0);
                }
                let n = s.input.len().min(buf.len());
                for (to, from) in buf.iter_mut().zip(s.input.drain(..n)) {
                    *to = from;
                }
                if n == 0 && !s.open {
                    return Ok(0);
                }
                n
            };
            if n > 0 {
                self.inner.backend.accept_input();
                return Ok(n);
            }
            changed.await;
        }
    }

    async fn write_some(&self, buf: &[u8]) -> IoResult<usize> {
        loop {
            let writable = self.inner.writable.listen();
            if self.is_over(&self.inner.state.lock()) {
                return Err(Errno::PIPE);
            }
            // A device of which only the input has ended still takes output.
            match self.inner.backend.write(buf) {
                0 => writable.await,
                n => return Ok(n),
            }
        }
    }
}

impl Channel for CharChannel {
    fn read<'a>(&'a self, buf: &'a mut [u8]) -> IoFut<'a, usize> {
        Box::pin(self.read_some(buf))
    }

    fn write<'a>(&'a self, buf: &'a [u8]) -> IoFut<'a, usize> {
        Box::pin(self.write_some(buf))
    }

    fn shutdown(&self) {
        let first = !self.shut.swap(true, std::sync::atomic::Ordering::AcqRel);
        let connection = {
            let s = self.inner.state.lock();
            (first && s.generation == self.generation).then_some(s.connection)
        };
        let device = self.inner.device.as_ref().and_then(Weak::upgrade);
        if let (Some(connection), Some(device)) = (connection, device) {
            device.hang_up(connection);
        }
        self.inner.changed.notify(usize::MAX);
        self.inner.writable.notify(usize::MAX);
    }

    fn peer(&self) -> String {
        format!("of chardev '{}'", self.inner.backend.id())
    }
}
