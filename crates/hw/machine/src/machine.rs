//! A machine and its life: built, started, stopped, reset, shut down.

use crate::config::{MachineConfig, MachineKind};
use crate::host::Host;
use crate::identity::Uuid;
use crate::requests::{Pending, Requests};
use crate::runstate::{
    Actions, RebootAction, RunState, ShutdownAction, ShutdownCause, by_guest, needs_reset,
};
use crate::virt::{Board, BoardEnv, GuestClock};
use api::run_state::{PowerdownEvent, ResetEvent, ResumeEvent, ShutdownEvent, StatusInfo, StopEvent};
use block::BlockGraph;
use device::{Device, DeviceTree, Instance, PlugEnv, RawValue, Registry, Reset, Resources, TimerService};
use jit::JitInfo;
use mem::AddressSpace;
use monitor::EventBus;
use parking_lot::Mutex;
use qapi::{QError, qerr};
use rt::sync::Notify;
use std::path::Path;
use std::sync::Arc;
use vcpu::{CpuClock, CpuSet};

/// What a machine is built into.
pub struct MachineEnv {
    /// Where its events go.
    pub events: EventBus,
    /// The block nodes that it drains and flushes when it stops.
    pub graph: Option<Arc<BlockGraph>>,
}

/// A machine.
///
/// It is built and its asynchronous functions are called on the control thread; [`Requests`] may be made, and its
/// state read, from any thread. Call [`Machine::close`] before dropping it.
pub struct Machine {
    kind: MachineKind,
    name: Option<String>,
    uuid: Uuid,
    actions: Actions,
    registry: Registry,
    events: EventBus,
    graph: Option<Arc<BlockGraph>>,
    clock: Arc<CpuClock>,
    timers: TimerService,
    requests: Arc<Requests>,
    host: Arc<Host>,
    tree: DeviceTree,
    board: Option<Board>,
    /// Runs devices without an I/O thread of their own; apart from the control thread, so that a vCPU that waits for
    /// a device never waits for a command.
    io: rt::IoThread,
    state: Mutex<RunState>,
    /// Held while the run state changes: changes come one after the other.
    changing: rt::sync::Mutex<()>,
    exit: Mutex<Option<i32>>,
    exited: Notify,
}

impl Machine {
    /// Builds a machine; it is in the state `prelaunch`. A task on the current executor does what is asked by
    /// [`Machine::requests`].
    ///
    /// # Errors
    /// Files that cannot be read, images that do not fit, impossible device trees, resources that the host does not give.
    pub async fn build(cfg: MachineConfig, env: MachineEnv) -> Result<Arc<Machine>, QError> {
        let kind = cfg.options.kind;
        if kind == MachineKind::None {
            for (option, given) in [
                ("-kernel", cfg.kernel.is_some() || cfg.options.kernel.is_some()),
                ("-initrd", cfg.initrd.is_some() || cfg.options.initrd.is_some()),
                ("-append", cfg.append.is_some() || cfg.options.append.is_some()),
            ] {
                if given {
                    return Err(qerr!("The {option} parameter is not supported by machine 'none'"));
                }
            }
        }
        let clock = Arc::new(CpuClock::new());
        let host_error = |e| qerr!("cannot set up the machine's threads: {e}");
        let timers = TimerService::new(Arc::new(GuestClock(clock.clone()))).map_err(host_error)?;
        let io = rt::IoThread::spawn("devices").map_err(host_error)?;
        let requests = Arc::new(Requests::default());
        let tree = DeviceTree::new();
        let board = match kind {
            MachineKind::None => None,
            MachineKind::Virt => {
                let env = BoardEnv {
                    clock: &clock,
                    timers: &timers,
                    requests: &requests,
                    tree: &tree,
                    graph: env.graph.as_ref(),
                    io: io.handle(),
                };
                Some(Board::build(&cfg, env).await?)
            }
        };
        let host = Arc::new(Host { requests: requests.clone(), events: env.events.clone() });
        let machine = Arc::new(Machine {
            kind,
            name: cfg.name,
            uuid: cfg.uuid,
            actions: cfg.actions,
            registry: cfg.registry,
            events: env.events,
            graph: env.graph,
            clock,
            timers,
            requests,
            host,
            tree,
            board,
            io,
            state: Mutex::new(RunState::Prelaunch),
            changing: rt::sync::Mutex::new(()),
            exit: Mutex::new(None),
            exited: Notify::new(),
        });
        machine.reset_hardware(Reset::Cold)?;
        let weak = Arc::downgrade(&machine);
        let requests = machine.requests.clone();
        drop(rt::spawn_local(async move {
            loop {
                let pending = requests.next().await;
                let Some(m) = weak.upgrade() else { return };
                m.serve(pending).await;
            }
        }));
        Ok(machine)
    }

    /// The machine's kind.
    pub fn kind(&self) -> MachineKind {
        self.kind
    }

    /// What the user calls it.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// Its UUID; zeroes where the user gave none.
    pub fn uuid(&self) -> Uuid {
        self.uuid
    }

    /// Where vCPUs, devices, signals ask for something.
    pub fn requests(&self) -> &Arc<Requests> {
        &self.requests
    }

    /// Where its events go.
    pub fn events(&self) -> &EventBus {
        &self.events
    }

    /// Its guest time.
    pub fn clock(&self) -> &Arc<CpuClock> {
        &self.clock
    }

    /// The devices that users plugged.
    pub fn devices(&self) -> &DeviceTree {
        &self.tree
    }

    /// Its harts; none for the empty machine.
    pub fn cpus(&self) -> Option<&Arc<CpuSet>> {
        self.board.as_ref().map(|b| &b.cpus)
    }

    /// Its guest physical memory; none for the empty machine.
    pub fn memory(&self) -> Option<&Arc<AddressSpace>> {
        self.board.as_ref().map(|b| &b.space)
    }

    /// What was translated to native code so far; none where everything is interpreted.
    pub fn translation(&self) -> Option<JitInfo> {
        self.board.as_ref()?.jit.as_ref().map(|j| j.info())
    }

    /// What it is doing.
    pub fn run_state(&self) -> RunState {
        *self.state.lock()
    }

    /// What `query-status` answers.
    pub fn status(&self) -> StatusInfo {
        let status = self.run_state();
        StatusInfo { running: status == RunState::Running, status }
    }

    /// Writes the device tree's blob to a file (`-machine dumpdtb=`).
    ///
    /// # Errors
    /// A machine without one, or a file that cannot be written.
    pub fn dump_dtb(&self, path: &Path) -> Result<(), QError> {
        let board = self.board.as_ref().ok_or_else(|| qerr!("This machine doesn't have a FDT"))?;
        std::fs::write(path, board.dtb()).map_err(|e| {
            let why = base::Errno::from(e);
            qerr!("Error saving FDT to file {}: {why}", path.display())
        })
    }

    /// Makes a device (`-device`, `device_add`): `options` are `driver`, `id`, `bus` and its properties.
    ///
    /// # Errors
    /// The reference's messages on what cannot be.
    pub async fn plug(
        &self,
        options: &[(String, RawValue)],
        resources: &dyn Resources,
    ) -> Result<Arc<Instance>, QError> {
        let env = PlugEnv {
            resources,
            timers: &self.timers,
            io: self.io.handle(),
            host: self.host.clone(),
            hotplug: self.run_state() != RunState::Prelaunch,
        };
        let made = self.tree.plug(&self.registry, options, env).await?;
        made.device.reset(Reset::Cold);
        Ok(made)
    }

    /// All devices, the board's first.
    fn all_devices(&self) -> Vec<Arc<dyn Device>> {
        let chips = self.board.iter().flat_map(|b| b.chips.iter().cloned());
        chips.chain(self.tree.devices().iter().map(|i| i.device.clone())).collect()
    }

    /// Waits until no hart is in guest code and guest time stands still. Not on this thread: a hart may be inside of
    /// a device that waits for storage.
    async fn pause_harts(&self) {
        if let Some(cpus) = self.cpus().cloned() {
            rt::unblock(move || cpus.pause()).await;
        }
        self.timers.clock_changed();
    }

    fn resume_harts(&self) {
        match self.cpus() {
            Some(c) => c.resume(),
            None => self.clock.resume(),
        }
        self.timers.clock_changed();
    }

    /// Starts the machine, unless it was only to be built (`-S`).
    ///
    /// # Errors
    /// As [`Machine::cont`].
    pub async fn start(&self) -> Result<(), QError> {
        self.cont().await
    }

    /// Lets the machine go on.
    ///
    /// # Errors
    /// `Resetting the Virtual Machine is required` after a shutdown.
    pub async fn cont(&self) -> Result<(), QError> {
        let _changing = self.changing.lock().await;
        let state = self.run_state();
        if needs_reset(state) {
            return Err(qerr!("Resetting the Virtual Machine is required"));
        }
        if state != RunState::Running && self.exit.lock().is_none() {
            self.all_devices().iter().for_each(|d| d.resume());
            *self.state.lock() = RunState::Running;
            self.events.emit(ResumeEvent);
            self.resume_harts();
        }
        Ok(())
    }

    /// Stops the machine: guest time, harts and devices; then everything that was written is made stable.
    pub async fn stop(&self) {
        let _changing = self.changing.lock().await;
        self.stop_in(RunState::Paused).await;
    }

    async fn stop_in(&self, state: RunState) {
        if self.run_state() == RunState::Running {
            self.pause_harts().await;
            for d in self.all_devices() {
                d.pause().await;
            }
            *self.state.lock() = state;
            self.events.emit(StopEvent);
        }
        self.settle().await;
    }

    /// Waits for all requests in flight and makes what was written stable.
    async fn settle(&self) {
        let Some(g) = &self.graph else { return };
        drop(g.drain_all().await);
        if let Err(e) = g.flush_all().await {
            tracing::error!("{}", e.desc());
        }
    }

    /// Resets the machine (`system_reset`).
    ///
    /// # Errors
    /// Images that can no longer be loaded.
    pub async fn system_reset(&self) -> Result<(), QError> {
        self.reset(ShutdownCause::HostQmpSystemReset).await
    }

    async fn reset(&self, cause: ShutdownCause) -> Result<(), QError> {
        if self.actions.reboot == RebootAction::Shutdown {
            self.shut_down(cause, 0, self.actions.shutdown).await;
            return Ok(());
        }
        let _changing = self.changing.lock().await;
        let running = self.run_state() == RunState::Running;
        self.pause_harts().await;
        for d in self.all_devices() {
            d.pause().await;
        }
        let done = self.reset_hardware(Reset::Warm);
        self.events.emit(ResetEvent { guest: by_guest(cause), reason: cause });
        if let Err(e) = done {
            *self.state.lock() = RunState::InternalError;
            if running {
                self.events.emit(StopEvent);
            }
            return Err(e);
        }
        if running {
            self.all_devices().iter().for_each(|d| d.resume());
            self.resume_harts();
        } else {
            *self.state.lock() = RunState::Prelaunch;
        }
        Ok(())
    }

    /// Resets harts and devices, and loads the images. Everything stands still.
    fn reset_hardware(&self, kind: Reset) -> Result<(), QError> {
        let Some(board) = &self.board else { return Ok(()) };
        trace::log!(CpuReset, "CPU reset{}", crate::registers::info(self, true));
        // The harts first: their inputs go low, and the devices then say what is high.
        board.cpus.reset();
        self.all_devices().iter().for_each(|d| d.reset(kind));
        board.boot()
    }

    /// Presses the power button. The board has none; management tools are told that it was pressed.
    pub fn powerdown(&self) {
        self.events.emit(PowerdownEvent);
    }

    /// Ends the machine for good (`quit`), also where `-no-shutdown` was given.
    pub async fn quit(&self) {
        self.shut_down(ShutdownCause::HostQmpQuit, 0, ShutdownAction::Poweroff).await;
    }

    async fn shut_down(&self, cause: ShutdownCause, code: i32, action: ShutdownAction) {
        let _changing = self.changing.lock().await;
        if self.exit.lock().is_some() {
            return;
        }
        self.events.emit(ShutdownEvent { guest: by_guest(cause), reason: cause });
        if action == ShutdownAction::Pause {
            self.stop_in(RunState::Shutdown).await;
            // Also where it stood still already.
            *self.state.lock() = RunState::Shutdown;
            return;
        }
        self.pause_harts().await;
        for d in self.all_devices() {
            d.pause().await;
        }
        *self.state.lock() = RunState::Shutdown;
        self.settle().await;
        *self.exit.lock() = Some(code);
        self.exited.notify_all();
    }

    async fn serve(&self, p: Pending) {
        if let Some(state) = p.stop {
            let _changing = self.changing.lock().await;
            self.stop_in(state).await;
        }
        if let Some((cause, code)) = p.shutdown {
            // A signal ends the program whatever is to happen on shutdowns.
            let action = match cause {
                ShutdownCause::HostSignal | ShutdownCause::HostQmpQuit => ShutdownAction::Poweroff,
                _ => self.actions.shutdown,
            };
            self.shut_down(cause, code, action).await;
        } else if let Some(cause) = p.reset
            && let Err(e) = self.reset(cause).await
        {
            tracing::error!("reset failed: {}", e.desc());
        }
        if p.powerdown {
            self.powerdown();
        }
    }

    /// Waits until the machine has ended; the program's exit code.
    pub async fn wait_exit(&self) -> i32 {
        loop {
            let exited = self.exited.notified();
            if let Some(code) = *self.exit.lock() {
                return code;
            }
            exited.await;
        }
    }

    /// Ends the harts' threads. The machine does not run any more afterwards.
    pub async fn close(&self) {
        self.pause_harts().await;
        if let Some(cpus) = self.cpus().cloned() {
            rt::unblock(move || cpus.shutdown()).await;
        }
    }
}
