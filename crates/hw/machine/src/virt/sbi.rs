//! The built-in SBI on the `virt` board.

use crate::requests::Requests;
use crate::runstate::ShutdownCause;
use firmware::sbi::spec::hart;
use firmware::sbi::{Fence, Outcome, Platform, ResetRequest, Sbi};
use mem::{Dma, Mmio, Size};
use serial::Uart16550;
use serial::uart16550::spec::{lsr, reg};
use std::sync::{Arc, OnceLock, Weak};
use vcpu::{CpuSet, HartMask, HartState, Mode, SbiHandler, SbiResult};

/// What SBI calls act on. The harts and the console are there once the board is built, before any guest code runs.
pub(crate) struct VirtSbi {
    pub(crate) harts: u32,
    pub(crate) dma: Dma,
    pub(crate) requests: Arc<Requests>,
    pub(crate) cpus: OnceLock<Weak<CpuSet>>,
    pub(crate) uart: OnceLock<Arc<Uart16550>>,
}

impl VirtSbi {
    fn cpus(&self) -> Option<Arc<CpuSet>> {
        self.cpus.get().and_then(Weak::upgrade)
    }

    fn uart_ready(&self, bit: u8) -> Option<&Uart16550> {
        let uart = self.uart.get()?;
        (uart.read(reg::LSR.into(), Size::B1) as u8 & bit != 0).then_some(&**uart)
    }
}

/// The harts of a list as a mask; the board has no more than 64.
fn mask(harts: &[u32]) -> HartMask {
    HartMask::Some(harts.iter().fold(0, |m, h| m | 1u64.checked_shl(*h).unwrap_or(0)))
}

impl Platform for VirtSbi {
    fn harts(&self) -> u32 {
        self.harts
    }

    fn start_hart(&self, hart: u32, pc: u64, opaque: u64) -> bool {
        self.cpus().is_some_and(|c| c.start_hart(hart, pc, hart.into(), opaque, Mode::S).is_ok())
    }

    fn hart_state(&self, hart: u32) -> u64 {
        match self.cpus().and_then(|c| c.hart_state(hart)) {
            Some(HartState::Started) => hart::STARTED,
            Some(HartState::StartPending) => hart::START_PENDING,
            Some(HartState::Suspended) => hart::SUSPENDED,
            Some(HartState::Stopped) | None => hart::STOPPED,
        }
    }

    fn set_timer(&self, hart: u32, ticks: u64) {
        if let Some(c) = self.cpus() {
            c.set_timer(hart, ticks);
        }
    }

    fn set_ipi(&self, hart: u32, pending: bool) {
        if let Some(c) = self.cpus() {
            c.pins(hart).set(1, pending);
        }
    }

    fn fence(&self, harts: &[u32], fence: Fence) {
        let Some(c) = self.cpus() else { return };
        match fence {
            Fence::Instruction => c.fence_i(mask(harts)),
            Fence::Vma { start, size, asid } => {
                let range = (size != u64::MAX).then_some((start, size));
                c.sfence_vma(mask(harts), range, asid);
            }
        }
    }

    fn reset(&self, request: ResetRequest) {
        match request {
            ResetRequest::Shutdown { failed: false } => {
                self.requests.shutdown(ShutdownCause::GuestShutdown, 0)
            }
            ResetRequest::Shutdown { failed: true } => self.requests.shutdown(ShutdownCause::GuestPanic, 1),
            ResetRequest::Reboot => self.requests.reset(ShutdownCause::GuestReset),
        }
    }

    // The console is the first serial port, driven by its registers as a firmware in M-mode would.
    fn console_write(&self, bytes: &[u8]) -> usize {
        let mut done = 0;
        for b in bytes {
            let Some(uart) = self.uart_ready(lsr::THRE) else { break };
            uart.write(reg::THR.into(), (*b).into(), Size::B1);
            done += 1;
        }
        done
    }

    fn console_read(&self, bytes: &mut [u8]) -> usize {
        let mut done = 0;
        for b in bytes {
            let Some(uart) = self.uart_ready(lsr::DR) else { break };
            *b = uart.read(reg::RBR.into(), Size::B1) as u8;
            done += 1;
        }
        done
    }

    fn memory(&self) -> &Dma {
        &self.dma
    }

    fn machine_ids(&self) -> [u64; 3] {
        [0; 3]
    }
}

/// The SBI as the harts call it.
pub(crate) struct Handler(pub(crate) Sbi);

impl SbiHandler for Handler {
    fn call(&self, hart: u32, ext: u64, func: u64, args: [u64; 6]) -> SbiResult {
        match self.0.call(hart, ext, func, args) {
            Outcome::Return(error, value) => SbiResult::Ret { error, value },
            Outcome::Legacy(value) => SbiResult::Legacy { value },
            Outcome::Stop => SbiResult::Stop,
            Outcome::Suspend => SbiResult::Suspend { resume: None },
            Outcome::SuspendAnew { pc, opaque } => SbiResult::Suspend { resume: Some((pc, opaque)) },
        }
    }
}
