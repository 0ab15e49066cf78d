//! One device shared by several front ends, as a terminal is by a serial port and a monitor.
//!
//! Input goes to the front end in focus; the escape (Ctrl-A unless set otherwise) changes it. Output of all goes out, but for
//! a human monitor's, which waits for its focus.

use crate::core::{Chardev, PIECE};
use device::{CharBackend, CharEvent, CharFrontend};
use parking_lot::Mutex;
use qapi::{QError, qerr};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

/// The most front ends of one device.
pub const MAX_PORTS: usize = 4;

/// Ctrl-L, which a monitor answers with its prompt and the line typed so far.
const REDRAW: u8 = 0x0c;

pub(crate) type QuitHook = Arc<Mutex<Option<Arc<dyn Fn() + Send + Sync>>>>;

#[derive(Default)]
struct State {
    ports: Vec<Weak<MuxPort>>,
    focus: Option<usize>,
    escape: bool,
}

/// The multiplexer: the front end of the device underneath.
pub(crate) struct Mux {
    base: Arc<Chardev>,
    handle: rt::Handle,
    state: Mutex<State>,
    /// A human monitor gets no focus before another front end has had it.
    monitor_waits: bool,
    quit: QuitHook,
    /// The byte that begins a command.
    escape: u8,
}

struct Below(Weak<Mux>);

/// One front end's place at a shared device.
pub struct MuxPort {
    mux: Arc<Mux>,
    index: usize,
    monitor: bool,
    front: Mutex<Option<Arc<dyn CharFrontend>>>,
    writable: Mutex<Option<Arc<dyn Fn() + Send + Sync>>>,
    pending: Mutex<VecDeque<u8>>,
    delivering: AtomicBool,
    had_focus: AtomicBool,
    /// The front end was told that the other end is open.
    announced: AtomicBool,
}

impl Mux {
    pub(crate) fn new(
        base: Arc<Chardev>,
        handle: rt::Handle,
        monitor_waits: bool,
        quit: QuitHook,
        escape: u8,
    ) -> Result<Arc<Mux>, QError> {
        let mux = Arc::new(Mux {
            base: base.clone(),
            handle,
            state: Mutex::default(),
            monitor_waits,
            quit,
            escape,
        });
        base.attach(Arc::new(Below(Arc::downgrade(&mux))))?;
        let weak = Arc::downgrade(&mux);
        base.on_writable(Arc::new(move || {
            if let Some(mux) = weak.upgrade() {
                for p in mux.ports() {
                    p.call_writable();
                }
            }
        }));
        Ok(mux)
    }

    /// A place for one more front end.
    pub(crate) fn port(self: &Arc<Mux>, monitor: bool) -> Result<Arc<MuxPort>, QError> {
        let mut s = self.state.lock();
        let free = s.ports.iter().position(|p| p.strong_count() == 0);
        let index = free.unwrap_or(s.ports.len());
        if index >= MAX_PORTS {
            return Err(qerr!(
                "too many uses of multiplexed chardev '{}' (maximum is {MAX_PORTS})",
                self.base.id()
            ));
        }
        let port = Arc::new(MuxPort {
            mux: self.clone(),
            index,
            monitor,
            front: Mutex::default(),
            writable: Mutex::default(),
            pending: Mutex::default(),
            delivering: AtomicBool::new(false),
            had_focus: AtomicBool::new(false),
            announced: AtomicBool::new(false),
        });
        match s.ports.get_mut(index) {
            Some(place) => *place = Arc::downgrade(&port),
            None => s.ports.push(Arc::downgrade(&port)),
        }
        Ok(port)
    }

    /// Whether a front end is attached to any place.
    pub(crate) fn is_used(&self) -> bool {
        self.ports().iter().any(|p| p.front.lock().is_some())
    }

    fn ports(&self) -> Vec<Arc<MuxPort>> {
        self.state.lock().ports.iter().filter_map(Weak::upgrade).collect()
    }

    fn focused(&self) -> Option<Arc<MuxPort>> {
        let s = self.state.lock();
        s.focus.and_then(|i| s.ports.get(i)).and_then(Weak::upgrade)
    }

    fn focus(&self, port: &Arc<MuxPort>) {
        self.state.lock().focus = Some(port.index);
        let again = port.had_focus.swap(true, Ordering::AcqRel);
        if port.monitor && again {
            port.pending.lock().push_back(REDRAW);
            port.schedule();
        }
        port.call_writable();
        self.base.accept_input();
    }

    /// Moves the focus to the next front end after the one that has it.
    fn next(&self) {
        let at = self.state.lock().focus.map_or(0, |f| f + 1);
        let mut ports: Vec<_> = self.ports().into_iter().filter(|p| p.front.lock().is_some()).collect();
        ports.sort_by_key(|p| (p.index + MAX_PORTS - at % MAX_PORTS) % MAX_PORTS);
        match ports.first() {
            Some(p) => self.focus(p),
            None => self.state.lock().focus = None,
        }
    }

    fn say(&self, text: &str) {
        // The terminal may be stuck; help and farewell are not worth waiting for.
        self.base.write(text.as_bytes());
    }

    /// Carries out the key after the escape; a byte for the front end, if it is one.
    fn command(&self, key: u8) -> Option<u8> {
        match key {
            _ if key == self.escape => return Some(key),
            b'h' | b'?' => {
                let e = match self.escape {
                    c @ 1..=26 => format!("C-{}", char::from(c - 1 + b'a')),
                    c => char::from(c).escape_default().to_string(),
                };
                self.say(&format!(
                    "\r\n{e} h    this help\r\n\
                     {e} x    end the emulator\r\n\
                     {e} c    switch between console and monitor\r\n\
                     {e} b    send a break\r\n\
                     {e} {e}  send {e}\r\n"
                ));
            }
            b'x' => {
                self.say("\r\nRhea: Terminated\r\n");
                let quit = self.quit.lock().clone();
                if let Some(quit) = quit {
                    quit();
                }
            }
            b'b' => {
                if let Some(p) = self.focused() {
                    p.tell(CharEvent::Break);
                }
            }
            b'c' => self.next(),
            _ => {}
        }
        None
    }
}

impl CharFrontend for Below {
    fn room(&self) -> usize {
        let Some(mux) = self.0.upgrade() else { return 0 };
        match mux.focused() {
            Some(p) => PIECE.saturating_sub(p.pending.lock().len()),
            // Nobody is in focus: what is typed is lost, but the escape works.
            None if mux.is_used() => PIECE,
            None => 0,
        }
    }

    fn receive(&self, bytes: &[u8]) {
        let Some(mux) = self.0.upgrade() else { return };
        for &b in bytes {
            let escaped = std::mem::take(&mut mux.state.lock().escape);
            let byte = if escaped {
                mux.command(b)
            } else if b == mux.escape {
                mux.state.lock().escape = true;
                None
            } else {
                Some(b)
            };
            if let (Some(byte), Some(port)) = (byte, mux.focused()) {
                port.pending.lock().push_back(byte);
            }
        }
        for p in mux.ports() {
            p.deliver();
        }
    }

    fn event(&self, event: CharEvent) {
        let Some(mux) = self.0.upgrade() else { return };
        match event {
            CharEvent::Opened => mux.ports().iter().for_each(|p| p.announce()),
            CharEvent::Closed => {
                for p in mux.ports() {
                    if p.announced.swap(false, Ordering::AcqRel) {
                        p.tell(CharEvent::Closed);
                    }
                }
            }
            CharEvent::Break => {
                if let Some(p) = mux.focused() {
                    p.tell(CharEvent::Break);
                }
            }
        }
    }
}

impl MuxPort {
    fn call_writable(&self) {
        let f = self.writable.lock().clone();
        if let Some(f) = f {
            f();
        }
    }

    fn tell(&self, event: CharEvent) {
        let front = self.front.lock().clone();
        if let Some(f) = front {
            f.event(event);
        }
    }

    /// Tells a front end that has not heard of it that the other end is open. On the device's thread.
    fn announce(&self) {
        if self.mux.base.is_open()
            && self.front.lock().is_some()
            && !self.announced.swap(true, Ordering::AcqRel)
        {
            self.tell(CharEvent::Opened);
        }
    }

    fn has_focus(&self) -> bool {
        self.mux.state.lock().focus == Some(self.index)
    }

    /// Gives the front end what is there for it. On the device's thread.
    fn deliver(&self) {
        self.announce();
        loop {
            let Some(front) = self.front.lock().clone() else { return };
            let bytes: Vec<u8> = {
                let mut p = self.pending.lock();
                let n = front.room().min(p.len());
                p.drain(..n).collect()
            };
            if bytes.is_empty() {
                return;
            }
            front.receive(&bytes);
        }
    }

    /// Has [`MuxPort::deliver`] called on the device's thread, then wakes the device's reader.
    fn schedule(self: &Arc<Self>) {
        if !self.delivering.swap(true, Ordering::AcqRel) {
            let port = self.clone();
            drop(self.mux.handle.spawn(move || async move {
                port.delivering.store(false, Ordering::Release);
                port.deliver();
                port.mux.base.accept_input();
            }));
        }
    }

    fn me(&self) -> Option<Arc<MuxPort>> {
        self.mux.state.lock().ports.get(self.index).and_then(Weak::upgrade)
    }
}

impl Drop for MuxPort {
    fn drop(&mut self) {
        let mut s = self.mux.state.lock();
        if s.focus == Some(self.index) {
            s.focus = None;
        }
    }
}

impl CharBackend for MuxPort {
    fn id(&self) -> &str {
        self.mux.base.id()
    }

    fn attach(&self, front: Arc<dyn CharFrontend>) -> Result<(), QError> {
        {
            let mut f = self.front.lock();
            if f.is_some() {
                return Err(qerr!("chardev '{}' is already in use", self.id()));
            }
            *f = Some(front);
            self.announced.store(false, Ordering::Release);
        }
        if let Some(me) = self.me() {
            let nobody = self.mux.state.lock().focus.is_none();
            if !self.monitor || (nobody && !self.mux.monitor_waits) {
                self.mux.focus(&me);
            }
            me.schedule();
        }
        Ok(())
    }

    fn detach(&self) {
        *self.front.lock() = None;
        *self.writable.lock() = None;
        self.pending.lock().clear();
        if self.has_focus() {
            self.mux.next();
        }
    }

    fn write(&self, bytes: &[u8]) -> usize {
        if self.monitor && !self.has_focus() { 0 } else { self.mux.base.write(bytes) }
    }

    fn accept_input(&self) {
        if let Some(me) = self.me() {
            me.schedule();
        }
    }

    fn on_writable(&self, f: Arc<dyn Fn() + Send + Sync>) {
        *self.writable.lock() = Some(f);
    }
}
