//! The character devices of a process, by id.

use crate::config::{Config, Kind, well_formed};
use crate::core::{Chardev, Core, Sink};
use crate::legacy::Legacy;
use crate::mux::{Mux, QuitHook};
use crate::ring::Ring;
use crate::stream::CharStream;
use crate::tls::Tls;
use crate::{files, pty, socket, stdio};
use device::CharBackend;
use monitor::HmpTable;
use parking_lot::Mutex;
use qapi::{QError, qerr};
use qom::ObjectTree;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};

#[derive(Clone)]
struct Entry {
    chardev: Arc<Chardev>,
    mux: Option<Arc<Mux>>,
}

struct Inner {
    handle: rt::Handle,
    devices: Mutex<BTreeMap<String, Option<Entry>>>,
    quit: QuitHook,
    objects: OnceLock<Arc<ObjectTree>>,
    escape: AtomicU8,
}

/// Makes character devices and keeps them by id. Clones are the same collection; any thread.
#[derive(Clone)]
pub struct Chardevs(Arc<Inner>);

/// What [`Chardevs::open_legacy`] made of a short form.
pub struct LegacyDevice {
    /// The back end for the front end that the option is about; `None` for `none`.
    pub backend: Option<Arc<dyn CharBackend>>,
    /// The id of the device that a human monitor is to share (`mon:…`).
    pub monitor: Option<String>,
}

impl Chardevs {
    /// No devices yet; the I/O of those to come runs on `handle`'s executor.
    pub fn new(handle: rt::Handle) -> Chardevs {
        Chardevs(Arc::new(Inner {
            handle,
            devices: Mutex::default(),
            quit: QuitHook::default(),
            objects: OnceLock::new(),
            escape: AtomicU8::new(1),
        }))
    }

    /// Says where the objects are that options may refer to (TLS credentials, who may connect). Once.
    pub fn set_objects(&self, objects: Arc<ObjectTree>) {
        let _ = self.0.objects.set(objects);
    }

    /// Sets the byte that begins a command on shared terminals that are made from now on; Ctrl-A unless set.
    pub fn set_escape(&self, byte: u8) {
        self.0.escape.store(byte, Ordering::Relaxed);
    }

    /// Sets what C-a x does on a shared terminal. Called on the devices' thread; it must not wait.
    pub fn on_quit(&self, f: Arc<dyn Fn() + Send + Sync>) {
        *self.0.quit.lock() = Some(f);
    }

    /// Makes a device. A socket server with `wait` is there only once its first client is.
    ///
    /// # Errors
    /// The id is taken, or what stands behind the device cannot be opened.
    pub async fn add(&self, config: Config) -> Result<Arc<Chardev>, QError> {
        self.make(config, false).await
    }

    async fn make(&self, config: Config, monitor_waits: bool) -> Result<Arc<Chardev>, QError> {
        let id = config.id.clone();
        if !well_formed(&id) {
            return Err(QError::new("Parameter 'id' expects an identifier"));
        }
        {
            let mut d = self.0.devices.lock();
            if d.contains_key(&id) {
                return Err(qerr!("Duplicate ID '{id}' for chardev"));
            }
            // Taken while the device is being made.
            d.insert(id.clone(), None);
        }
        let reserved = Reserved { devices: self, id: &id, keep: false };
        let mux = config.mux;
        let waits = matches!(&config.kind, Kind::Socket(s) if s.server && s.wait);
        let chardev = self.open(config).await?;
        if waits {
            tracing::info!("QEMU waiting for connection on: {}", chardev.filename());
            chardev.until_open().await;
        }
        let mux = if mux {
            let (handle, quit) = (self.0.handle.clone(), self.0.quit.clone());
            Some(Mux::new(
                chardev.clone(),
                handle,
                monitor_waits,
                quit,
                self.0.escape.load(Ordering::Relaxed),
            )?)
        } else {
            None
        };
        reserved.fill(Entry { chardev: chardev.clone(), mux });
        Ok(chardev)
    }

    async fn open(&self, config: Config) -> Result<Arc<Chardev>, QError> {
        let log = files::open_log(&config)?;
        let core = |name: &str| Core::new(&config.id, self.0.handle.clone(), name);
        match &config.kind {
            Kind::Null => {
                let core = core("null");
                core.set_open(true);
                Ok(Chardev::new(core, Sink::Null, log, None, None))
            }
            Kind::Ringbuf { size } => {
                let core = core("ringbuf");
                core.set_open(true);
                Ok(Chardev::new(core, Sink::Ring(Mutex::new(Ring::new(*size))), log, None, None))
            }
            Kind::File { path, input, append } => {
                files::file(core("file"), path, input.as_deref(), *append, log)
            }
            Kind::Stdio { signal } => stdio::stdio(core("stdio"), *signal, log),
            Kind::Pty { path } => {
                let dev = pty::pty(core("pty"), path.as_deref(), log)?;
                let name = dev.filename();
                let name = name.strip_prefix("pty:").unwrap_or(&name);
                base::print(&format!("char device redirected to {name} (label {})\n", config.id));
                Ok(dev)
            }
            Kind::Socket(s) => {
                let tls = Tls::new(s, self.0.objects.get())?;
                socket::socket(core("socket"), s.clone(), tls, log).await
            }
        }
    }

    fn entry(&self, id: &str) -> Result<Entry, QError> {
        self.get_entry(id).ok_or_else(|| qerr!("chardev \"{id}\" not found"))
    }

    fn get_entry(&self, id: &str) -> Option<Entry> {
        self.0.devices.lock().get(id).cloned().flatten()
    }

    /// The device `id`.
    pub fn get(&self, id: &str) -> Option<Arc<Chardev>> {
        self.get_entry(id).map(|e| e.chardev)
    }

    /// A back end for one front end: the device itself, or a new place at one that several share.
    ///
    /// # Errors
    /// There is no such device, or it is shared by too many already. (That a device of its own is in use
    /// already comes out when the front end is attached.)
    pub fn claim(&self, id: &str) -> Result<Arc<dyn CharBackend>, QError> {
        let e = self.entry(id)?;
        Ok(match e.mux {
            Some(mux) => mux.port(false)?,
            None => e.chardev,
        })
    }

    /// The device `id` as a source of channels for a monitor. A human monitor on a shared terminal speaks only
    /// while it has the focus.
    ///
    /// # Errors
    /// As for [`Chardevs::claim`], or the device is in use.
    pub fn monitor_stream(&self, id: &str, human: bool) -> Result<Arc<CharStream>, QError> {
        let e = self.entry(id)?;
        match e.mux {
            Some(mux) => CharStream::new(mux.port(human)?),
            None => CharStream::of_device(e.chardev),
        }
    }

    /// Whether several front ends share device `id`.
    pub fn is_mux(&self, id: &str) -> bool {
        self.get_entry(id).is_some_and(|e| e.mux.is_some())
    }

    /// Makes (or finds) what a short form means; a new device gets the id `label`.
    ///
    /// # Errors
    /// As for [`Legacy::parse`], [`Chardevs::add`] and [`Chardevs::claim`].
    pub async fn open_legacy(&self, text: &str, label: &str) -> Result<LegacyDevice, QError> {
        match Legacy::parse(text, label)? {
            Legacy::None => Ok(LegacyDevice { backend: None, monitor: None }),
            Legacy::Existing(id) => Ok(LegacyDevice { backend: Some(self.claim(&id)?), monitor: None }),
            Legacy::New { config, monitor } => {
                self.make(config, monitor).await?;
                let backend = Some(self.claim(label)?);
                Ok(LegacyDevice { backend, monitor: monitor.then(|| label.to_owned()) })
            }
        }
    }

    /// Removes device `id`.
    ///
    /// # Errors
    /// There is none, or a front end uses it.
    pub fn remove(&self, id: &str) -> Result<(), QError> {
        let e = self.get_entry(id).ok_or_else(|| qerr!("Chardev '{id}' not found"))?;
        let busy = match &e.mux {
            Some(mux) => mux.is_used(),
            None => e.chardev.is_attached(),
        };
        if busy {
            return Err(qerr!("Chardev '{id}' is busy"));
        }
        self.0.devices.lock().remove(id);
        Ok(())
    }

    /// The ids of the devices, sorted.
    pub fn ids(&self) -> Vec<String> {
        self.0.devices.lock().iter().filter(|(_, e)| e.is_some()).map(|(id, _)| id.clone()).collect()
    }

    /// Each device and what stands behind it, as `info chardev` shows them.
    pub fn describe(&self) -> String {
        let devices: Vec<_> = self.0.devices.lock().values().flatten().cloned().collect();
        devices.iter().map(|e| format!("{}: filename={}\n", e.chardev.id(), e.chardev.filename())).collect()
    }

    /// Lets go of all devices that are not in use elsewhere, and restores the terminal.
    pub fn close_all(&self) {
        let devices = std::mem::take(&mut *self.0.devices.lock());
        drop(devices);
        crate::restore_terminal();
    }
}

/// An id that is taken while its device is being made; given back unless filled.
struct Reserved<'a> {
    devices: &'a Chardevs,
    id: &'a str,
    keep: bool,
}

impl Reserved<'_> {
    fn fill(mut self, entry: Entry) {
        self.keep = true;
        self.devices.0.devices.lock().insert(self.id.to_owned(), Some(entry));
    }
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        if !self.keep {
            self.devices.0.devices.lock().remove(self.id);
        }
    }
}

/// Registers the human monitor's commands about character devices.
pub fn register_hmp(hmp: &mut HmpTable, chardevs: &Chardevs) {
    let c = chardevs.clone();
    hmp.register("info chardev", "", "show the character devices", move |_| {
        let text = c.describe();
        async move { text }
    });
}
