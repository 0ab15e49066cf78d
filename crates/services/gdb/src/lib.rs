//! The server for debuggers (`-gdb`, `-s`, `gdbserver`): the GDB remote serial protocol over a machine's harts and memory.
//!
//! The problem: a debugger stops a machine that is made to run, sees it as one program with a thread a hart, and may
//! vanish at any time. The protocol itself is the crate `gdbstub`'s; what is here is the machine behind it.
//!
//! - A debugger that connects stops the machine. It finds harts as threads 1, 2, …, registers by GDB's own names (with all
//!   control and status registers that the hart has), and memory by virtual address as the chosen hart translates it.
//! - Breakpoints and watchpoints are the harts' own ([`vcpu::Stops`]): nothing is written to the guest's memory, and their
//!   number is not limited. A step is one instruction, or goes on while the pc stays in a range; no interrupt is taken in it.
//! - When it detaches, its breakpoints go and the machine goes on; when it vanishes, they go and the machine stays as it is.
//! - `monitor LINE` runs a line of the human monitor.
//!
//! Connections are served one after another on a thread of their own, so that a debugger that does not read makes nobody
//! wait. What changes the machine's state runs on the control thread.

mod registers;
mod session;
mod target;

use base::IoResult;
use chardev::{Chardevs, Legacy};
use io::Acceptor;
use machine::Machine;
use monitor::{HmpTable, Monitor};
use parking_lot::Mutex;
use qapi::{QError, qerr};
use rt::sync::Notify;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, Weak};
use std::time::Duration;
use target::RunLine;

/// How often somebody who waits for a command looks whether the machine has ended.
const PATIENCE: Duration = Duration::from_millis(100);

/// What sessions share.
pub(crate) struct Shared {
    pub(crate) machine: Arc<Machine>,
    control: rt::Handle,
    monitor: Mutex<Weak<Monitor>>,
    /// A debugger is there.
    pub(crate) attached: AtomicBool,
    /// The exit code with which the machine ended, and one more; 0: it has not.
    ended: Arc<AtomicU64>,
    end: Notify,
}

impl Shared {
    /// Does what needs the control thread.
    pub(crate) async fn control<F, Fut, T>(&self, f: F) -> T
    where
        F: FnOnce(Arc<Machine>) -> Fut + Send + 'static,
        Fut: Future<Output = T> + 'static,
        T: Send + 'static,
    {
        let machine = self.machine.clone();
        self.control.spawn(move || f(machine)).await
    }

    /// Waits until the machine has ended; its exit code.
    pub(crate) async fn closed(&self) -> i32 {
        loop {
            let end = self.end.notified();
            match self.ended.load(Ordering::Acquire) {
                0 => end.await,
                n => return (n - 1) as u32 as i32,
            }
        }
    }

    /// Runs lines of the human monitor.
    pub(crate) fn run_line(&self) -> RunLine {
        let (control, monitor, ended) =
            (self.control.clone(), self.monitor.lock().clone(), self.ended.clone());
        Arc::new(move |line| {
            let Some(monitor) = monitor.upgrade() else { return "there is no monitor\n".into() };
            let (tx, rx) = std::sync::mpsc::channel();
            let line = line.to_owned();
            drop(control.spawn(move || async move { tx.send(monitor.hmp_command(&line).await) }));
            // The control thread waits for this one at the end, so this one must not wait for it then.
            loop {
                match rx.recv_timeout(PATIENCE) {
                    Ok(answer) => return answer,
                    Err(RecvTimeoutError::Timeout) if ended.load(Ordering::Acquire) == 0 => {}
                    Err(_) => return "the machine has ended\n".into(),
                }
            }
        })
    }
}

/// The server. Dropping it ends its connections.
pub struct GdbServer {
    shared: Arc<Shared>,
    chardevs: Chardevs,
    /// Serves; there from the first device on.
    thread: Mutex<Option<rt::IoThread>>,
    /// Counts the devices, of which the last is served.
    generation: Arc<AtomicU32>,
    changed: Arc<Notify>,
    /// The character device of our own that is in use.
    device: Mutex<Option<String>>,
}

impl GdbServer {
    /// A server that serves nobody yet. To be called on the control executor.
    pub fn new(machine: &Arc<Machine>, chardevs: &Chardevs) -> Arc<GdbServer> {
        let shared = Shared {
            machine: machine.clone(),
            control: rt::current(),
            monitor: Mutex::default(),
            attached: AtomicBool::new(false),
            ended: Arc::default(),
            end: Notify::new(),
        };
        Arc::new(GdbServer {
            shared: Arc::new(shared),
            chardevs: chardevs.clone(),
            thread: Mutex::default(),
            generation: Arc::default(),
            changed: Arc::default(),
            device: Mutex::default(),
        })
    }

    /// Says which monitor runs the debuggers' `monitor` lines.
    pub fn set_monitor(&self, monitor: &Arc<Monitor>) {
        *self.shared.monitor.lock() = Arc::downgrade(monitor);
    }

    /// Waits for debuggers at `device`: what `-gdb` takes (`tcp::1234`, `unix:PATH`, `stdio`, `chardev:ID`, …); at none
    /// with `none`. What was served before is not served any more. Whether a debugger can connect now.
    ///
    /// # Errors
    /// The machine has no harts, or the device cannot be opened; the server is as it was with `none` then.
    pub async fn open(&self, device: &str) -> Result<bool, QError> {
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.changed.notify_all();
        if let Some(old) = self.device.lock().take() {
            let _ = self.chardevs.remove(&old);
        }
        if device == "none" {
            return Ok(false);
        }
        if self.shared.machine.cpus().is_none() {
            return Err(QError::new("gdbstub: meaningless to attach gdb to a machine without any CPU."));
        }
        // A name of its own each time: the one before may still be closing.
        let label = match self.generation.load(Ordering::Acquire) {
            1 => "gdb".to_owned(),
            n => format!("gdb{n}"),
        };
        let text = match device.split_once(':') {
            Some(("tcp" | "unix", _)) => format!("{device},wait=off,server=on"),
            _ => device.to_owned(),
        };
        let id = match Legacy::parse(&text, &label)? {
            Legacy::None => return Ok(false),
            Legacy::Existing(id) => id,
            Legacy::New { config, .. } => {
                self.chardevs.add(config).await?;
                *self.device.lock() = Some(label.clone());
                label
            }
        };
        let source = self.chardevs.monitor_stream(&id, false)?;
        self.serve(source).map_err(|e| qerr!("gdbstub: cannot set up the server's thread: {e}"))?;
        Ok(true)
    }

    fn serve(&self, source: Arc<dyn Acceptor>) -> IoResult<()> {
        let mut thread = self.thread.lock();
        let thread = match &mut *thread {
            Some(t) => t,
            none => none.insert(rt::IoThread::spawn("gdb")?),
        };
        let (shared, generation, changed) =
            (self.shared.clone(), self.generation.clone(), self.changed.clone());
        let mine = generation.load(Ordering::Acquire);
        drop(thread.handle().spawn(move || async move {
            let other = async {
                loop {
                    let change = changed.notified();
                    if generation.load(Ordering::Acquire) != mine {
                        return;
                    }
                    change.await;
                }
            };
            let serving = async {
                while let Ok(channel) = source.accept().await {
                    session::serve(&shared, &*channel).await;
                }
            };
            let (other, serving) = (std::pin::pin!(other), std::pin::pin!(serving));
            futures_util::future::select(other, serving).await;
        }));
        Ok(())
    }

    /// Whether a debugger is there.
    pub fn is_attached(&self) -> bool {
        self.shared.attached.load(Ordering::Acquire)
    }

    /// Tells a debugger that the machine ended with `code`.
    pub fn machine_ended(&self, code: i32) {
        self.shared.ended.store(u64::from(code as u32) + 1, Ordering::Release);
        self.shared.end.notify_all();
    }
}

impl Drop for GdbServer {
    fn drop(&mut self) {
        // Nobody on the server's thread waits for this one any more.
        if self.shared.ended.load(Ordering::Acquire) == 0 {
            self.machine_ended(0);
        }
    }
}

/// Registers the human monitor's `gdbserver`.
pub fn register_hmp(hmp: &mut HmpTable, server: &Arc<GdbServer>) {
    let server = Arc::downgrade(server);
    let help = "start gdbserver on given device (default 'tcp::1234'), stop with 'none'";
    hmp.register("gdbserver", "[device]", help, move |a| {
        let server = server.clone();
        let device = a.get("device").unwrap_or("tcp::1234").to_owned();
        async move {
            let Some(server) = server.upgrade() else { return String::new() };
            match server.open(&device).await {
                Ok(true) => format!("Waiting for gdb connection on device '{device}'\n"),
                Ok(false) => "Disabled gdbserver\n".into(),
                Err(e) => {
                    format!("{}\nCould not open gdbserver on device '{device}'\n", e.desc())
                }
            }
        }
    });
}
