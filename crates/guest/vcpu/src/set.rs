//! All harts of a machine.

use crate::clock::CpuClock;
use crate::debug::Listener;
use crate::slot::{Fence, Slot, Start};
use isa_riscv::engine::Engine;
use isa_riscv::{CpuState, Ext, Hart, HartOptions, HartPins, Mode};
use mem::AddressSpace;
use parking_lot::Mutex;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::{fmt, io};

/// How often code is interpreted before native code is asked for.
const HOT: u16 = 16;

/// The state of a hart as the SBI's hart state management has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HartState {
    /// Running, or waiting for an interrupt.
    Started,
    /// Not running until it is started.
    Stopped,
    /// A start was asked for.
    StartPending,
    /// Suspended until an interrupt comes.
    Suspended,
}

/// What a firmware call comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SbiResult {
    /// It returns `error` in `a0` and `value` in `a1`.
    Ret {
        /// 0 or one of the SBI's error codes.
        error: i64,
        /// The value.
        value: u64,
    },
    /// It returns `value` in `a0` and leaves `a1` alone, as the legacy extensions do.
    Legacy {
        /// The value or error.
        value: i64,
    },
    /// The hart stops; it does not return.
    Stop,
    /// The hart sleeps until an enabled interrupt is pending.
    Suspend {
        /// `None`: then the call returns success. Else the hart begins anew at this address with its id in
        /// `a0` and the second value in `a1`.
        resume: Option<(u64, u64)>,
    },
}

/// Firmware that is built in.
pub trait SbiHandler: Send + Sync {
    /// Does what the S-mode software of `hart` asks for by `ecall`: extension `a7`, function `a6`, arguments
    /// `a0` to `a5`. Called on the hart's thread, outside of guest code and with no lock held, so it may use
    /// everything that [`CpuSet`] offers except waiting for its own hart to pause.
    fn call(&self, hart: u32, ext: u64, func: u64, args: [u64; 6]) -> SbiResult;
}

/// What one hart is.
#[derive(Clone)]
pub struct HartConfig {
    /// Its number: `mhartid`, and its place in the set.
    pub id: u32,
    /// Its extensions.
    pub ext: Ext,
    /// Firmware that is built in: the hart waits for [`CpuSet::start_hart`] and runs in S-mode. `None`: it
    /// starts in M-mode at `reset_pc` when the machine does.
    pub sbi: Option<Arc<dyn SbiHandler>>,
    /// Where it starts without built-in firmware.
    pub reset_pc: u64,
    /// What it sees of the machine.
    pub mem: Arc<AddressSpace>,
    /// Guest time; the timebase is [`crate::TIMEBASE_HZ`].
    pub clock: Arc<CpuClock>,
    /// Makes native code of what the hart does often, if anybody does.
    pub engine: Option<Arc<dyn Engine>>,
}

/// A set of harts by number; numbers beyond 63 cannot be named singly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HartMask {
    /// All harts.
    All,
    /// Those whose bit is set.
    Some(u64),
}

impl HartMask {
    /// The one hart.
    pub fn one(hart: u32) -> HartMask {
        HartMask::Some(1u64.checked_shl(hart).unwrap_or(0))
    }

    /// Whether the hart is in it.
    pub fn contains(self, hart: u32) -> bool {
        match self {
            HartMask::All => true,
            HartMask::Some(bits) => hart < 64 && bits >> hart & 1 != 0,
        }
    }
}

/// Why a hart was not started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartError {
    /// There is no such hart.
    NoSuchHart,
    /// It runs already, or was asked to.
    AlreadyStarted,
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            StartError::NoSuchHart => "there is no such hart",
            StartError::AlreadyStarted => "the hart is started already",
        })
    }
}

impl std::error::Error for StartError {}

/// All harts of a machine, each on a thread of its own. New sets are paused.
///
/// Any thread may call any function. Those that wait for harts to leave guest code ([`CpuSet::pause`],
/// [`CpuSet::reset`], [`CpuSet::registers`], [`CpuSet::set_registers`]) must not be called from a device's
/// register handler, because a hart is inside of it: hand the wish to another thread.
pub struct CpuSet {
    pub(crate) slots: Vec<Arc<Slot>>,
    pub(crate) listener: Listener,
    clock: Option<Arc<CpuClock>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl CpuSet {
    /// Creates the harts (`configs[i].id` is `i`) and their threads.
    ///
    /// # Errors
    /// A thread that could not be started.
    pub fn new(configs: Vec<HartConfig>) -> io::Result<Arc<CpuSet>> {
        let clock = configs.first().map(|c| c.clock.clone());
        let mut slots = Vec::with_capacity(configs.len());
        let listener = Listener::default();
        for c in configs {
            let pins = Arc::new(HartPins::new());
            let opts = HartOptions {
                id: u64::from(c.id),
                ext: c.ext,
                sbi: c.sbi.is_some(),
                reset_pc: c.reset_pc,
                vendor: [0; 3],
            };
            let mut hart = Hart::new(opts, c.mem, pins.clone(), c.clock.clone());
            if let Some(engine) = c.engine {
                hart.set_engine(engine, HOT);
            }
            slots.push(Arc::new(Slot::new(c.id, pins, c.clock, c.sbi, listener.clone(), Box::new(hart))));
        }
        let set = Arc::new(CpuSet { slots, listener, clock, threads: Mutex::default() });
        for slot in &set.slots {
            let s = slot.clone();
            let name = format!("vcpu {}", slot.id);
            let t = std::thread::Builder::new().name(name).spawn(move || s.run_thread());
            match t {
                Ok(t) => set.threads.lock().push(t),
                Err(e) => {
                    set.shutdown();
                    return Err(e);
                }
            }
        }
        Ok(set)
    }

    /// The number of harts.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// The interrupt inputs of a hart.
    ///
    /// # Panics
    /// If there is no such hart.
    pub fn pins(&self, hart: u32) -> Arc<HartPins> {
        self.slots[hart as usize].pins.clone()
    }

    /// Starts a stopped hart at `pc` in `mode`, with `a0` and `a1`, paging off and interrupts masked.
    ///
    /// # Errors
    /// There is no such hart, or it is not stopped.
    pub fn start_hart(&self, hart: u32, pc: u64, a0: u64, a1: u64, mode: Mode) -> Result<(), StartError> {
        let slot = self.slots.get(hart as usize).ok_or(StartError::NoSuchHart)?;
        slot.control(|c| {
            if c.state != HartState::Stopped || c.start.is_some() {
                return Err(StartError::AlreadyStarted);
            }
            c.start = Some(Start { pc, a0, a1, mode });
            Ok(())
        })
    }

    /// The state of a hart; `None` if there is no such hart.
    pub fn hart_state(&self, hart: u32) -> Option<HartState> {
        let ctl = self.slots.get(hart as usize)?.ctl.lock();
        Some(if ctl.start.is_some() { HartState::StartPending } else { ctl.state })
    }

    /// Stops all harts and guest time; returns when all are out of guest code. Interrupt inputs still take
    /// changes. Pausing twice is pausing once.
    pub fn pause(&self) {
        for s in &self.slots {
            s.control(|c| c.paused = true);
        }
        for s in &self.slots {
            s.wait_paused();
        }
        if let Some(c) = &self.clock {
            c.pause();
        }
    }

    /// Lets guest time and all harts go on.
    pub fn resume(&self) {
        if let Some(c) = &self.clock {
            c.resume();
        }
        for s in &self.slots {
            s.control(|c| {
                c.paused = false;
                c.halted = false;
            });
        }
    }

    /// Resets all harts; they stay paused or running as they were. Harts with built-in firmware are stopped
    /// afterwards; others are at their reset vector. Interrupt inputs are low.
    pub fn reset(&self) {
        let paused: Vec<bool> =
            self.slots.iter().map(|s| s.control(|c| std::mem::replace(&mut c.paused, true))).collect();
        for s in &self.slots {
            s.wait_paused();
        }
        for s in &self.slots {
            s.pins.reset();
            s.borrow(|cpu| cpu.reset());
            s.control(|c| {
                c.start = None;
                c.halted = false;
                c.state = if s.sbi.is_some() { HartState::Stopped } else { HartState::Started };
            });
        }
        for (s, p) in self.slots.iter().zip(paused) {
            s.control(|c| c.paused = p);
        }
    }

    /// Ends all threads and waits for them. The harts do not run again.
    pub fn shutdown(&self) {
        for s in &self.slots {
            s.control(|c| c.quit = true);
        }
        let me = std::thread::current().id();
        for t in std::mem::take(&mut *self.threads.lock()) {
            if t.thread().id() != me {
                // A hart that panicked has said so already.
                let _ = t.join();
            }
        }
    }

    /// Has the harts forget decoded code, as their own `fence.i` would. When it returns, no hart of the set
    /// executes an instruction from before.
    pub fn fence_i(&self, harts: HartMask) {
        self.fence(harts, Fence::Code);
    }

    /// Has the harts forget translations, as their own `sfence.vma` would: of a range of `(start, bytes)` (all:
    /// `None`) in an address space (all: `None`). When it returns, no hart of the set uses one from before.
    pub fn sfence_vma(&self, harts: HartMask, range: Option<(u64, u64)>, asid: Option<u64>) {
        self.fence(harts, Fence::Tlb { range, asid });
    }

    fn fence(&self, harts: HartMask, fence: Fence) {
        let its = || self.slots.iter().filter(|s| harts.contains(s.id));
        let tickets: Vec<u64> = its().map(|s| s.ask_fence(fence)).collect();
        for (s, t) in its().zip(tickets) {
            s.wait_fence(t);
        }
    }

    /// Raises the software interrupt of the harts.
    pub fn send_ipi(&self, harts: HartMask) {
        for s in self.slots.iter().filter(|s| harts.contains(s.id)) {
            s.pins.set(1, true);
        }
    }

    /// Sets the timer that built-in firmware gives a hart: the deadline in ticks; all ones: none.
    pub fn set_timer(&self, hart: u32, ticks: u64) {
        if let Some(s) = self.slots.get(hart as usize) {
            s.pins.set_sbi_timer(ticks);
        }
    }

    /// A hart's registers; `None` if there is no such hart. A running hart is interrupted for a moment.
    pub fn registers(&self, hart: u32) -> Option<CpuState> {
        Some(self.slots.get(hart as usize)?.borrow(|cpu| cpu.state()))
    }

    /// Sets a hart's registers.
    pub fn set_registers(&self, hart: u32, state: &CpuState) {
        if let Some(s) = self.slots.get(hart as usize) {
            s.borrow(|cpu| cpu.set_state(state));
        }
    }
}

impl Drop for CpuSet {
    fn drop(&mut self) {
        self.shutdown();
    }
}
