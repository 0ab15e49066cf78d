//! The machine as the protocol's library sees it.

use crate::registers::{Core, Id, Riscv64, description};
use gdbstub::common::{Signal, Tid};
use gdbstub::target::ext::base::BaseOps;
use gdbstub::target::ext::base::multithread::{
    MultiThreadBase, MultiThreadRangeStepping, MultiThreadRangeSteppingOps, MultiThreadResume,
    MultiThreadResumeOps, MultiThreadSchedulerLocking, MultiThreadSchedulerLockingOps, MultiThreadSingleStep,
    MultiThreadSingleStepOps,
};
use gdbstub::target::ext::base::single_register_access::{SingleRegisterAccess, SingleRegisterAccessOps};
use gdbstub::target::ext::breakpoints::{
    Breakpoints, BreakpointsOps, HwBreakpoint, HwBreakpointOps, HwWatchpoint, HwWatchpointOps, SwBreakpoint,
    SwBreakpointOps, WatchKind as ProtocolKind,
};
use gdbstub::target::ext::monitor_cmd::{ConsoleOutput, MonitorCmd, MonitorCmdOps};
use gdbstub::target::ext::target_description_xml_override::{
    TargetDescriptionXmlOverride, TargetDescriptionXmlOverrideOps,
};
use gdbstub::target::ext::thread_extra_info::{ThreadExtraInfo, ThreadExtraInfoOps};
use gdbstub::target::{Target, TargetError, TargetResult};
use mem::AddressSpace;
use std::collections::BTreeSet;
use std::convert::Infallible;
use std::io::Write as _;
use std::sync::Arc;
use vcpu::{CpuSet, HartMask, HartState, Plan, Register, Stops, Watch, WatchKind};

/// Runs a line of the human monitor and gives its output. Called on the debugger's thread, which waits.
pub(crate) type RunLine = Arc<dyn Fn(&str) -> String + Send + Sync>;

/// What a debugger works on. Threads are harts, numbered from 1.
pub(crate) struct Guest {
    pub(crate) cpus: Arc<CpuSet>,
    pub(crate) memory: Arc<AddressSpace>,
    pub(crate) run_line: RunLine,
    /// Addresses with breakpoints of the two kinds that debuggers tell apart; there is no difference here.
    soft: BTreeSet<u64>,
    hard: BTreeSet<u64>,
    watches: BTreeSet<Watch>,
    plans: Vec<(u32, Plan)>,
    others: Plan,
    /// The debugger wants the machine to go on.
    pub(crate) go: bool,
}

/// The thread of a hart.
pub(crate) fn tid(hart: u32) -> Tid {
    Tid::MIN.saturating_add(hart as usize)
}

fn hart(tid: Tid) -> u32 {
    (tid.get() - 1) as u32
}

fn kind(kind: ProtocolKind) -> WatchKind {
    match kind {
        ProtocolKind::Write => WatchKind::Write,
        ProtocolKind::Read => WatchKind::Read,
        ProtocolKind::ReadWrite => WatchKind::Access,
    }
}

/// The kind as the protocol has it.
pub(crate) fn protocol_kind(kind: WatchKind) -> ProtocolKind {
    match kind {
        WatchKind::Write => ProtocolKind::Write,
        WatchKind::Read => ProtocolKind::Read,
        WatchKind::Access => ProtocolKind::ReadWrite,
    }
}

impl Guest {
    pub(crate) fn new(cpus: Arc<CpuSet>, memory: Arc<AddressSpace>, run_line: RunLine) -> Guest {
        Guest {
            cpus,
            memory,
            run_line,
            soft: BTreeSet::new(),
            hard: BTreeSet::new(),
            watches: BTreeSet::new(),
            plans: Vec::new(),
            others: Plan::Run,
            go: false,
        }
    }

    fn tell_stops(&self) {
        let breakpoints = self.soft.union(&self.hard).copied().collect();
        self.cpus.set_stops(&Arc::new(Stops { breakpoints, watches: self.watches.clone() }));
    }

    /// Has the harts do what the debugger asked for, once the machine goes on.
    pub(crate) fn tell_plans(&self) {
        for h in 0..self.cpus.len() as u32 {
            let plan = self.plans.iter().find(|(n, _)| *n == h).map_or(self.others, |(_, p)| *p);
            self.cpus.set_plan(h, plan);
        }
    }

    fn plan(&mut self, tid: Tid, plan: Plan) {
        self.plans.push((hart(tid), plan));
    }

    /// Pieces of a range of virtual addresses: the length and the physical address of each, up to the first that there is
    /// none for.
    fn pieces(&self, hart: u32, start: u64, len: usize) -> Vec<(usize, u64)> {
        let mut out = Vec::new();
        let mut at = start;
        let mut left = len;
        while left > 0 {
            let n = left.min((0x1000 - (at & 0xfff)) as usize);
            let Some(pa) = self.cpus.translate(hart, at) else { break };
            out.push((n, pa));
            at = at.wrapping_add(n as u64);
            left -= n;
        }
        out
    }
}

impl Target for Guest {
    type Arch = Riscv64;
    type Error = Infallible;

    fn base_ops(&mut self) -> BaseOps<'_, Riscv64, Infallible> {
        BaseOps::MultiThread(self)
    }

    fn support_breakpoints(&mut self) -> Option<BreakpointsOps<'_, Self>> {
        Some(self)
    }

    fn support_monitor_cmd(&mut self) -> Option<MonitorCmdOps<'_, Self>> {
        Some(self)
    }

    fn support_target_description_xml_override(
        &mut self,
    ) -> Option<TargetDescriptionXmlOverrideOps<'_, Self>> {
        Some(self)
    }
}

impl MultiThreadBase for Guest {
    fn read_registers(&mut self, regs: &mut Core, tid: Tid) -> TargetResult<(), Self> {
        let s = self.cpus.registers(hart(tid)).ok_or(TargetError::NonFatal)?;
        *regs = Core { x: s.x, pc: s.pc };
        Ok(())
    }

    fn write_registers(&mut self, regs: &Core, tid: Tid) -> TargetResult<(), Self> {
        let all = (0..32).map(|n| (Register::X(n), regs.x[usize::from(n)])).chain([(Register::Pc, regs.pc)]);
        for (r, v) in all {
            if !self.cpus.set_register(hart(tid), r, v) {
                return Err(TargetError::NonFatal);
            }
        }
        Ok(())
    }

    fn support_single_register_access(&mut self) -> Option<SingleRegisterAccessOps<'_, Tid, Self>> {
        Some(self)
    }

    fn read_addrs(&mut self, start: u64, data: &mut [u8], tid: Tid) -> TargetResult<usize, Self> {
        let mut done = 0;
        for (n, pa) in self.pieces(hart(tid), start, data.len()) {
            if self.memory.read(pa, &mut data[done..done + n]).is_err() {
                break;
            }
            done += n;
        }
        if done == 0 { Err(TargetError::NonFatal) } else { Ok(done) }
    }

    fn write_addrs(&mut self, start: u64, data: &[u8], tid: Tid) -> TargetResult<(), Self> {
        let pieces = self.pieces(hart(tid), start, data.len());
        if pieces.iter().map(|(n, _)| n).sum::<usize>() < data.len() {
            return Err(TargetError::NonFatal);
        }
        let mut done = 0;
        for (n, pa) in pieces {
            let part = &data[done..done + n];
            // Debuggers write to read-only memory too; registers are written as the guest does.
            self.memory
                .write_rom(pa, part)
                .or_else(|_| self.memory.write(pa, part))
                .map_err(|_| TargetError::NonFatal)?;
            done += n;
        }
        self.cpus.fence_i(HartMask::All);
        Ok(())
    }

    fn list_active_threads(&mut self, thread_is_active: &mut dyn FnMut(Tid)) -> Result<(), Infallible> {
        (0..self.cpus.len() as u32).for_each(|h| thread_is_active(tid(h)));
        Ok(())
    }

    fn support_resume(&mut self) -> Option<MultiThreadResumeOps<'_, Self>> {
        Some(self)
    }

    fn support_thread_extra_info(&mut self) -> Option<ThreadExtraInfoOps<'_, Self>> {
        Some(self)
    }
}

impl SingleRegisterAccess<Tid> for Guest {
    fn read_register(&mut self, tid: Tid, id: Id, buf: &mut [u8]) -> TargetResult<usize, Self> {
        let v = self.cpus.register(hart(tid), id.register).ok_or(TargetError::NonFatal)?;
        let size = id.size.min(buf.len());
        buf[..size].copy_from_slice(&v.to_le_bytes()[..size]);
        Ok(size)
    }

    fn write_register(&mut self, tid: Tid, id: Id, val: &[u8]) -> TargetResult<(), Self> {
        let mut bytes = [0; 8];
        let n = val.len().min(8);
        bytes[..n].copy_from_slice(&val[..n]);
        let done = self.cpus.set_register(hart(tid), id.register, u64::from_le_bytes(bytes));
        if done { Ok(()) } else { Err(TargetError::NonFatal) }
    }
}

impl ThreadExtraInfo for Guest {
    fn thread_extra_info(&self, tid: Tid, buf: &mut [u8]) -> Result<usize, Infallible> {
        let running = self.cpus.hart_state(hart(tid)) == Some(HartState::Started);
        let what = if running { "running" } else { "halted " };
        let room = buf.len();
        let mut rest = buf;
        // What does not fit is left out.
        let _ = write!(rest, "CPU#{} [{what}]", hart(tid));
        let left = rest.len();
        Ok(room - left)
    }
}

impl MultiThreadResume for Guest {
    fn resume(&mut self) -> Result<(), Infallible> {
        self.go = true;
        Ok(())
    }

    fn clear_resume_actions(&mut self) -> Result<(), Infallible> {
        self.plans.clear();
        self.others = Plan::Run;
        Ok(())
    }

    fn set_resume_action_continue(&mut self, tid: Tid, _: Option<Signal>) -> Result<(), Infallible> {
        self.plan(tid, Plan::Run);
        Ok(())
    }

    fn support_single_step(&mut self) -> Option<MultiThreadSingleStepOps<'_, Self>> {
        Some(self)
    }

    fn support_range_step(&mut self) -> Option<MultiThreadRangeSteppingOps<'_, Self>> {
        Some(self)
    }

    fn support_scheduler_locking(&mut self) -> Option<MultiThreadSchedulerLockingOps<'_, Self>> {
        Some(self)
    }
}

impl MultiThreadSingleStep for Guest {
    fn set_resume_action_step(&mut self, tid: Tid, _: Option<Signal>) -> Result<(), Infallible> {
        self.plan(tid, Plan::Step { start: 0, end: 0 });
        Ok(())
    }
}

impl MultiThreadRangeStepping for Guest {
    fn set_resume_action_range_step(&mut self, tid: Tid, start: u64, end: u64) -> Result<(), Infallible> {
        self.plan(tid, Plan::Step { start, end });
        Ok(())
    }
}

impl MultiThreadSchedulerLocking for Guest {
    fn set_resume_action_scheduler_lock(&mut self) -> Result<(), Infallible> {
        self.others = Plan::Hold;
        Ok(())
    }
}

impl Breakpoints for Guest {
    fn support_sw_breakpoint(&mut self) -> Option<SwBreakpointOps<'_, Self>> {
        Some(self)
    }

    fn support_hw_breakpoint(&mut self) -> Option<HwBreakpointOps<'_, Self>> {
        Some(self)
    }

    fn support_hw_watchpoint(&mut self) -> Option<HwWatchpointOps<'_, Self>> {
        Some(self)
    }
}

impl SwBreakpoint for Guest {
    fn add_sw_breakpoint(&mut self, addr: u64, _: usize) -> TargetResult<bool, Self> {
        self.soft.insert(addr);
        self.tell_stops();
        Ok(true)
    }

    fn remove_sw_breakpoint(&mut self, addr: u64, _: usize) -> TargetResult<bool, Self> {
        let was = self.soft.remove(&addr);
        self.tell_stops();
        Ok(was)
    }
}

impl HwBreakpoint for Guest {
    fn add_hw_breakpoint(&mut self, addr: u64, _: usize) -> TargetResult<bool, Self> {
        self.hard.insert(addr);
        self.tell_stops();
        Ok(true)
    }

    fn remove_hw_breakpoint(&mut self, addr: u64, _: usize) -> TargetResult<bool, Self> {
        let was = self.hard.remove(&addr);
        self.tell_stops();
        Ok(was)
    }
}

impl HwWatchpoint for Guest {
    fn add_hw_watchpoint(&mut self, addr: u64, len: u64, k: ProtocolKind) -> TargetResult<bool, Self> {
        if len == 0 {
            return Ok(false);
        }
        self.watches.insert(Watch { addr, len, kind: kind(k) });
        self.tell_stops();
        Ok(true)
    }

    fn remove_hw_watchpoint(&mut self, addr: u64, len: u64, k: ProtocolKind) -> TargetResult<bool, Self> {
        let was = self.watches.remove(&Watch { addr, len, kind: kind(k) });
        self.tell_stops();
        Ok(was)
    }
}

impl MonitorCmd for Guest {
    fn handle_monitor_cmd(&mut self, cmd: &[u8], mut out: ConsoleOutput<'_>) -> Result<(), Infallible> {
        out.write_raw((self.run_line)(&String::from_utf8_lossy(cmd)).as_bytes());
        Ok(())
    }
}

impl TargetDescriptionXmlOverride for Guest {
    fn target_description_xml(
        &self,
        annex: &[u8],
        offset: u64,
        length: usize,
        buf: &mut [u8],
    ) -> TargetResult<usize, Self> {
        if annex != b"target.xml" {
            return Err(TargetError::NonFatal);
        }
        let text = description(|r| self.cpus.register(0, r));
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(text.len());
        let n = length.min(buf.len()).min(text.len() - from);
        buf[..n].copy_from_slice(&text.as_bytes()[from..from + n]);
        Ok(n)
    }
}
