//! What a debugger does to harts.

use crate::set::CpuSet;
use isa_riscv::{Halt, Register, Stops};
use parking_lot::Mutex;
use std::sync::Arc;

/// What a hart does when the machine goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Plan {
    /// It runs.
    #[default]
    Run,
    /// It does an instruction, and more while its pc stays in `start..end`; then it stops.
    Step {
        /// The first address.
        start: u64,
        /// The one after the last.
        end: u64,
    },
    /// It stands still.
    Hold,
}

/// Is told which hart stopped and why. Called on the hart's thread with no lock held; it must not wait for harts.
pub type OnHalt = Arc<dyn Fn(u32, Halt) + Send + Sync>;

/// Who is told of harts that stop.
#[derive(Clone, Default)]
pub(crate) struct Listener(Arc<Mutex<Option<OnHalt>>>);

impl Listener {
    pub(crate) fn get(&self) -> Option<OnHalt> {
        self.0.lock().clone()
    }
}

/// For debuggers. The functions interrupt a running hart for a moment; they must not be called from a device's register
/// handler.
impl CpuSet {
    /// Has `f` be told when a hart stops for the debugger; such a hart stands still until [`CpuSet::resume`]. `None`: the
    /// debugger is gone, and harts stop for nobody.
    pub fn on_halt(&self, f: Option<OnHalt>) {
        *self.listener.0.lock() = f;
    }

    /// Says where harts are to stop from now on.
    pub fn set_stops(&self, stops: &Arc<Stops>) {
        for s in &self.slots {
            s.borrow(|cpu| cpu.set_stops(stops.clone()));
        }
    }

    /// Says what a hart does when the machine goes on.
    pub fn set_plan(&self, hart: u32, plan: Plan) {
        if let Some(s) = self.slots.get(hart as usize) {
            let range = match plan {
                Plan::Step { start, end } => Some(start..end),
                _ => None,
            };
            s.borrow(|cpu| cpu.set_step(range));
            s.control(|c| c.held = plan == Plan::Hold);
        }
    }

    /// A register; `None` if there is no such hart or register.
    pub fn register(&self, hart: u32, r: Register) -> Option<u64> {
        self.slots.get(hart as usize)?.borrow(|cpu| cpu.register(r))
    }

    /// Sets a register; false if there is none, or it cannot be set.
    pub fn set_register(&self, hart: u32, r: Register, v: u64) -> bool {
        self.slots.get(hart as usize).is_some_and(|s| s.borrow(|cpu| cpu.set_register(r, v)))
    }

    /// The physical address of a virtual one as the hart sees it now, without regard to permissions and without a trace in
    /// the page tables; `None` if there is none.
    pub fn translate(&self, hart: u32, addr: u64) -> Option<u64> {
        self.slots.get(hart as usize)?.borrow(|cpu| cpu.translate(addr))
    }
}
