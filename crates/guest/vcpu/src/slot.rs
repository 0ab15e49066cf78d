//! One hart's place in the set: its control block, and the thread that runs it.

use crate::accel::{Vcpu, VmExit};
use crate::clock::CpuClock;
use crate::debug::Listener;
use crate::set::{HartState, SbiHandler, SbiResult};
use isa_riscv::{Halt, HartPins, Mode};
use parking_lot::{Condvar, Mutex, MutexGuard};
use std::sync::Arc;
use std::thread::ThreadId;
use std::time::Duration;

/// Where a started hart begins.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Start {
    pub(crate) pc: u64,
    pub(crate) a0: u64,
    pub(crate) a1: u64,
    pub(crate) mode: Mode,
}

/// What one hart asks another to forget.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fence {
    Code,
    Tlb { range: Option<(u64, u64)>, asid: Option<u64> },
}

/// Fences that are kept one by one; more become one that forgets everything.
const MAX_FENCES: usize = 32;

pub(crate) struct Ctl {
    pub(crate) quit: bool,
    pub(crate) paused: bool,
    /// It stopped for its debugger.
    pub(crate) halted: bool,
    /// The debugger has it stand still while others run.
    pub(crate) held: bool,
    /// Threads that want the registers.
    pub(crate) borrowers: u32,
    /// The thread runs guest code, or is about to.
    pub(crate) in_guest: bool,
    pub(crate) state: HartState,
    pub(crate) start: Option<Start>,
    fences: Vec<Fence>,
    /// Counts fences asked for and done.
    asked: u64,
    done: u64,
    pub(crate) thread: Option<ThreadId>,
}

impl Ctl {
    /// Whether somebody wants the hart to stand still.
    fn stands(&self) -> bool {
        self.paused || self.halted || self.held || self.borrowers > 0
    }
}

pub(crate) struct Slot {
    pub(crate) id: u32,
    pub(crate) pins: Arc<HartPins>,
    pub(crate) clock: Arc<CpuClock>,
    pub(crate) sbi: Option<Arc<dyn SbiHandler>>,
    listener: Listener,
    pub(crate) ctl: Mutex<Ctl>,
    /// Signalled when the hart leaves guest code, and when `ctl` changes so that it may go on.
    pub(crate) changed: Condvar,
    /// Held by the hart's thread while it runs guest code, else by whoever looks at the registers.
    pub(crate) cpu: Mutex<Box<dyn Vcpu>>,
}

impl Slot {
    pub(crate) fn new(
        id: u32,
        pins: Arc<HartPins>,
        clock: Arc<CpuClock>,
        sbi: Option<Arc<dyn SbiHandler>>,
        listener: Listener,
        cpu: Box<dyn Vcpu>,
    ) -> Slot {
        let state = if sbi.is_some() { HartState::Stopped } else { HartState::Started };
        Slot {
            id,
            pins,
            clock,
            sbi,
            listener,
            ctl: Mutex::new(Ctl {
                quit: false,
                paused: true,
                halted: false,
                held: false,
                borrowers: 0,
                in_guest: false,
                state,
                start: None,
                fences: Vec::new(),
                asked: 0,
                done: 0,
                thread: None,
            }),
            changed: Condvar::new(),
            cpu: Mutex::new(cpu),
        }
    }

    /// Changes the control block and makes the hart look at it.
    pub(crate) fn control<R>(&self, f: impl FnOnce(&mut Ctl) -> R) -> R {
        let r = f(&mut self.ctl.lock());
        self.changed.notify_all();
        self.pins.kick();
        r
    }

    /// Waits until the hart is outside of guest code; at once for the hart's own thread.
    fn wait_outside<'a>(&self, mut ctl: MutexGuard<'a, Ctl>) -> MutexGuard<'a, Ctl> {
        if ctl.thread == Some(std::thread::current().id()) {
            return ctl;
        }
        while ctl.in_guest {
            self.changed.wait(&mut ctl);
        }
        ctl
    }

    /// Waits until the hart, which was paused, is outside of guest code.
    pub(crate) fn wait_paused(&self) {
        drop(self.wait_outside(self.ctl.lock()));
    }

    /// Runs `f` on the vCPU, which is out of guest code meanwhile.
    pub(crate) fn borrow<R>(&self, f: impl FnOnce(&mut dyn Vcpu) -> R) -> R {
        self.control(|c| c.borrowers += 1);
        let r = f(&mut **self.cpu.lock());
        self.control(|c| c.borrowers -= 1);
        r
    }

    /// Asks for a fence. The ticket is for [`Slot::wait_fence`].
    pub(crate) fn ask_fence(&self, fence: Fence) -> u64 {
        let (ticket, running) = {
            let mut c = self.ctl.lock();
            if c.fences.len() >= MAX_FENCES {
                c.fences.clear();
                c.fences.push(Fence::Code);
                c.fences.push(Fence::Tlb { range: None, asid: None });
            } else {
                c.fences.push(fence);
            }
            c.asked += 1;
            (c.asked, c.in_guest)
        };
        if running {
            self.pins.kick();
        }
        ticket
    }

    /// Waits until the fence is done, or sure to be before the hart's next instruction.
    pub(crate) fn wait_fence(&self, ticket: u64) {
        let mut ctl = self.ctl.lock();
        if ctl.thread == Some(std::thread::current().id()) {
            return;
        }
        while ctl.in_guest && ctl.done < ticket {
            self.changed.wait(&mut ctl);
        }
    }

    /// The hart's thread.
    pub(crate) fn run_thread(&self) {
        self.pins.bind_thread(std::thread::current());
        self.ctl.lock().thread = Some(std::thread::current().id());
        while let Some(start) = self.wait_runnable() {
            let exit = {
                let mut cpu = self.cpu.lock();
                self.enter(&mut **cpu, start);
                cpu.run(self.pins.flag())
            };
            {
                let mut ctl = self.ctl.lock();
                ctl.in_guest = false;
            }
            self.changed.notify_all();
            match exit {
                VmExit::Attention => {}
                VmExit::Wfi => self.sleep(),
                VmExit::Sbi { ext, func, args } => self.call(ext, func, args),
                VmExit::Debug(halt) => self.halt(halt),
            }
        }
    }

    /// Waits until the hart may run, and marks it as running; the start request if there is one. `None`: the
    /// thread shall end.
    fn wait_runnable(&self) -> Option<Option<Start>> {
        let mut ctl = self.ctl.lock();
        loop {
            if ctl.quit {
                return None;
            }
            let ready = ctl.state == HartState::Started || ctl.start.is_some();
            if ready && !ctl.stands() {
                break;
            }
            self.changed.wait(&mut ctl);
        }
        // What was asked for before is in `ctl`; what is asked for from now on raises the flag again.
        self.pins.flag().take();
        ctl.in_guest = true;
        ctl.state = HartState::Started;
        Some(ctl.start.take())
    }

    fn enter(&self, cpu: &mut dyn Vcpu, start: Option<Start>) {
        let (fences, asked) = {
            let mut ctl = self.ctl.lock();
            (std::mem::take(&mut ctl.fences), ctl.asked)
        };
        if let Some(s) = start {
            cpu.start(s.pc, s.a0, s.a1, s.mode);
        }
        for f in &fences {
            match *f {
                Fence::Code => cpu.fence_i(),
                Fence::Tlb { range, asid } => cpu.sfence_vma(range, asid),
            }
        }
        if !fences.is_empty() {
            self.ctl.lock().done = asked;
            self.changed.notify_all();
        }
    }

    /// Sleeps until an interrupt is pending or somebody wants something.
    fn sleep(&self) {
        let deadline = {
            let cpu = self.cpu.lock();
            if cpu.wakes() {
                return;
            }
            cpu.deadline()
        };
        while !self.pins.flag().is_raised() {
            match deadline {
                None => std::thread::park(),
                Some(_) if !self.clock.is_running() => std::thread::park_timeout(Duration::from_millis(10)),
                Some(ticks) => {
                    let now = self.clock.now_ns();
                    let at = CpuClock::ns_of_ticks(ticks);
                    if at <= now {
                        return;
                    }
                    std::thread::park_timeout(Duration::from_nanos(at - now));
                }
            }
        }
    }

    /// Stands still for the debugger, and tells it.
    fn halt(&self, halt: Halt) {
        if let Some(f) = self.listener.get() {
            self.ctl.lock().halted = true;
            f(self.id, halt);
        }
    }

    fn call(&self, ext: u64, func: u64, args: [u64; 6]) {
        let Some(sbi) = &self.sbi else { return };
        match sbi.call(self.id, ext, func, args) {
            SbiResult::Ret { error, value } => self.cpu.lock().set_arguments(error as u64, value),
            SbiResult::Legacy { value } => {
                let mut cpu = self.cpu.lock();
                let a1 = cpu.state().x[11];
                cpu.set_arguments(value as u64, a1);
            }
            SbiResult::Stop => {
                let mut ctl = self.ctl.lock();
                if ctl.start.is_none() {
                    ctl.state = HartState::Stopped;
                }
            }
            SbiResult::Suspend { resume } => self.suspend(resume),
        }
    }

    /// A hart that is suspended: until an interrupt that `sie` enables is pending.
    fn suspend(&self, resume: Option<(u64, u64)>) {
        self.ctl.lock().state = HartState::Suspended;
        loop {
            {
                let mut ctl = self.ctl.lock();
                // A reset or a pause, and whoever wants the registers, come first.
                while ctl.stands() && !ctl.quit && ctl.state == HartState::Suspended {
                    self.changed.wait(&mut ctl);
                }
                if ctl.quit || ctl.state != HartState::Suspended {
                    return;
                }
            }
            self.pins.flag().take();
            if self.cpu.lock().wakes() {
                break;
            }
            self.sleep();
        }
        let mut ctl = self.ctl.lock();
        if ctl.state != HartState::Suspended {
            return;
        }
        ctl.state = HartState::Started;
        match resume {
            Some((pc, a1)) => {
                ctl.start = Some(Start { pc, a0: u64::from(self.id), a1, mode: Mode::S });
            }
            None => {
                drop(ctl);
                self.cpu.lock().set_arguments(0, 0);
            }
        }
    }
}
