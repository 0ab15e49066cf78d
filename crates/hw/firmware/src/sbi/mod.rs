//! The built-in SBI: what an M-mode firmware would do for a supervisor, done by the machine itself (RISC-V Supervisor
//! Binary Interface specification 2.0).
//!
//! [`Sbi`] decodes calls and checks their parameters; a [`Platform`] does what they ask for.

pub mod spec;

use mem::Dma;
use spec::{VERSION, err, ext, hart, reset};
use std::sync::Arc;

/// What the built-in SBI needs of its machine. Harts are numbered from 0 without holes. Calls come from vCPU threads.
pub trait Platform: Send + Sync {
    /// How many harts there are, at least one.
    fn harts(&self) -> u32;

    /// Starts a stopped hart in S-mode at `pc` with its number in `a0` and `opaque` in `a1`; `false` if it was not
    /// stopped.
    fn start_hart(&self, hart: u32, pc: u64, opaque: u64) -> bool;

    /// A hart's state, a number of [`spec::hart`].
    fn hart_state(&self, hart: u32) -> u64;

    /// Sets the supervisor timer of a hart: its interrupt is pending from `ticks` on.
    fn set_timer(&self, hart: u32, ticks: u64);

    /// Sets or clears the supervisor software interrupt of a hart.
    fn set_ipi(&self, hart: u32, pending: bool);

    /// Makes a fence on the harts of a list; it is done when this returns.
    fn fence(&self, harts: &[u32], fence: Fence);

    /// Asks for a reset or the machine's end; returns at once.
    fn reset(&self, request: ResetRequest);

    /// Writes to the console without waiting; returns how many bytes were taken.
    fn console_write(&self, bytes: &[u8]) -> usize;

    /// Reads what the console has; returns how many bytes that are.
    fn console_read(&self, bytes: &mut [u8]) -> usize;

    /// The RAM that the supervisor's buffers lie in.
    fn memory(&self) -> &Dma;

    /// `mvendorid`, `marchid` and `mimpid`.
    fn machine_ids(&self) -> [u64; 3];
}

/// A remote fence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fence {
    /// `FENCE.I`.
    Instruction,
    /// `SFENCE.VMA` over a range (all of memory if `size` is `u64::MAX`), for one address space or all.
    Vma {
        /// The first virtual address.
        start: u64,
        /// The range's length in bytes; `u64::MAX` is everything.
        size: u64,
        /// The address space.
        asid: Option<u64>,
    },
}

/// What a supervisor asks for by a system reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResetRequest {
    /// Power off; `failed` if the reason was a system failure.
    Shutdown {
        /// The supervisor says that the system failed.
        failed: bool,
    },
    /// Start again.
    Reboot,
}

/// What becomes of the calling hart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The call returns: `a0` and `a1`.
    Return(i64, u64),
    /// A legacy call returns: `a0` only.
    Legacy(i64),
    /// The hart stops; its next start is another hart's business.
    Stop,
    /// The hart sleeps until an interrupt and then returns success.
    Suspend,
    /// The hart sleeps until an interrupt and then starts anew in S-mode at `pc` with `opaque` in `a1`.
    SuspendAnew {
        /// Where it starts.
        pc: u64,
        /// What `a1` is then.
        opaque: u64,
    },
}

const OK: Outcome = Outcome::Return(err::SUCCESS, 0);
const fn error(code: i64) -> Outcome {
    Outcome::Return(code, 0)
}

/// Bytes that one console call moves at most; the supervisor is told how many and calls again.
const CONSOLE_CHUNK: usize = 1024;

/// The built-in SBI.
pub struct Sbi {
    platform: Arc<dyn Platform>,
}

impl Sbi {
    /// The SBI of a machine.
    pub fn new(platform: Arc<dyn Platform>) -> Sbi {
        Sbi { platform }
    }

    /// An `ecall` of hart `caller` with `a7`, `a6` and `a0` to `a5`.
    pub fn call(&self, caller: u32, extension: u64, function: u64, a: [u64; 6]) -> Outcome {
        match extension {
            ext::BASE => self.base(function, a[0]),
            ext::TIME => match function {
                0 => {
                    self.platform.set_timer(caller, a[0]);
                    OK
                }
                _ => error(err::NOT_SUPPORTED),
            },
            ext::IPI if function == 0 => self.on_harts(a[0], a[1], |harts| {
                harts.iter().for_each(|h| self.platform.set_ipi(*h, true));
            }),
            ext::RFENCE => self.rfence(function, a),
            ext::HSM => self.hsm(caller, function, a),
            ext::SRST if function == 0 => self.srst(a[0], a[1]),
            ext::DBCN => self.dbcn(function, a),
            ext::LEGACY_SET_TIMER => {
                self.platform.set_timer(caller, a[0]);
                Outcome::Legacy(0)
            }
            ext::LEGACY_PUTCHAR => {
                self.platform.console_write(&[a[0] as u8]);
                Outcome::Legacy(0)
            }
            ext::LEGACY_GETCHAR => {
                let mut b = [0];
                Outcome::Legacy(if self.platform.console_read(&mut b) == 1 { b[0].into() } else { -1 })
            }
            ext::LEGACY_CLEAR_IPI => {
                self.platform.set_ipi(caller, false);
                Outcome::Legacy(0)
            }
            ext::LEGACY_SHUTDOWN => {
                self.platform.reset(ResetRequest::Shutdown { failed: false });
                Outcome::Stop
            }
            _ => {
                trace::log!(Unimp, "SBI: extension 0x{extension:x}, function {function}");
                error(err::NOT_SUPPORTED)
            }
        }
    }

    fn base(&self, function: u64, a0: u64) -> Outcome {
        let ids = self.platform.machine_ids();
        let value = match function {
            0 => VERSION,
            1 => spec::IMPLEMENTATION,
            2 => 1,
            3 => ext::ALL.contains(&a0).into(),
            4..=6 => ids[function as usize - 4],
            _ => return error(err::NOT_SUPPORTED),
        };
        Outcome::Return(err::SUCCESS, value)
    }

    /// Calls `f` with the harts that a mask and its base mean (section 3.1).
    fn on_harts(&self, mask: u64, base: u64, f: impl FnOnce(&[u32])) -> Outcome {
        let n = self.platform.harts();
        let harts: Option<Vec<u32>> = if base == u64::MAX {
            Some((0..n).collect())
        } else {
            let bits = (0..64u64).filter(|i| mask >> i & 1 != 0);
            bits.map(|i| base.checked_add(i).filter(|h| *h < n.into()).map(|h| h as u32)).collect()
        };
        match harts {
            Some(h) => {
                f(&h);
                OK
            }
            None => error(err::INVALID_PARAM),
        }
    }

    fn rfence(&self, function: u64, a: [u64; 6]) -> Outcome {
        // A size of 0 with a start of 0, or one of all ones, is all of memory (section 8).
        let whole = a[2] == 0 && a[3] == 0 || a[3] == u64::MAX;
        let (start, size) = if whole { (0, u64::MAX) } else { (a[2], a[3]) };
        let fence = match function {
            0 => Fence::Instruction,
            1 => Fence::Vma { start, size, asid: None },
            2 => Fence::Vma { start, size, asid: Some(a[4]) },
            _ => return error(err::NOT_SUPPORTED), // The hypervisor's fences.
        };
        if function != 0 && !whole && start.checked_add(size).is_none() {
            return error(err::INVALID_ADDRESS);
        }
        self.on_harts(a[0], a[1], |harts| self.platform.fence(harts, fence))
    }

    fn hsm(&self, caller: u32, function: u64, a: [u64; 6]) -> Outcome {
        let known = |h: u64| h < u64::from(self.platform.harts());
        match function {
            0 if !known(a[0]) => error(err::INVALID_PARAM),
            0 if !a[1].is_multiple_of(2) || self.platform.memory().read(a[1], &mut [0; 2]).is_err() => {
                error(err::INVALID_ADDRESS)
            }
            0 if a[0] == u64::from(caller) => error(err::ALREADY_AVAILABLE),
            0 => match self.platform.hart_state(a[0] as u32) {
                hart::STOPPED if self.platform.start_hart(a[0] as u32, a[1], a[2]) => OK,
                hart::START_PENDING => error(err::ALREADY_STARTED),
                _ => error(err::ALREADY_AVAILABLE),
            },
            1 => Outcome::Stop,
            2 if known(a[0]) => Outcome::Return(err::SUCCESS, self.platform.hart_state(a[0] as u32)),
            2 => error(err::INVALID_PARAM),
            3 => match a[0] {
                hart::RETENTIVE => Outcome::Suspend,
                hart::NON_RETENTIVE if self.platform.memory().read(a[1], &mut [0; 2]).is_err() => {
                    error(err::INVALID_ADDRESS)
                }
                hart::NON_RETENTIVE => Outcome::SuspendAnew { pc: a[1], opaque: a[2] },
                // Others are the platform's own or reserved.
                t if (1..0x1000_0000).contains(&t) || t > u32::MAX.into() => error(err::INVALID_PARAM),
                _ => error(err::NOT_SUPPORTED),
            },
            _ => error(err::NOT_SUPPORTED),
        }
    }

    fn srst(&self, kind: u64, reason: u64) -> Outcome {
        if reason > reset::SYSTEM_FAILURE {
            return error(err::INVALID_PARAM);
        }
        let request = match kind {
            reset::SHUTDOWN => ResetRequest::Shutdown { failed: reason == reset::SYSTEM_FAILURE },
            reset::COLD_REBOOT | reset::WARM_REBOOT => ResetRequest::Reboot,
            _ => return error(err::INVALID_PARAM),
        };
        self.platform.reset(request);
        // A successful call does not return; the hart stands still until the machine does what was asked for.
        Outcome::Stop
    }

    fn dbcn(&self, function: u64, a: [u64; 6]) -> Outcome {
        let n = a[0].min(CONSOLE_CHUNK as u64) as usize;
        let mut buf = [0; CONSOLE_CHUNK];
        let buf = &mut buf[..n];
        // The address is two registers wide; nothing lies beyond the first on a 64-bit machine.
        match function {
            0 | 1 if a[2] != 0 => error(err::INVALID_PARAM),
            0 if self.platform.memory().read(a[1], buf).is_err() => error(err::INVALID_PARAM),
            0 => Outcome::Return(err::SUCCESS, self.platform.console_write(buf) as u64),
            1 => {
                // What is read from the console is gone from there: see first that it can be delivered.
                if self.platform.memory().iobuf(a[1], n as u64, true).is_err() {
                    return error(err::INVALID_PARAM);
                }
                let got = self.platform.console_read(buf);
                match self.platform.memory().write(a[1], &buf[..got]) {
                    Ok(()) => Outcome::Return(err::SUCCESS, got as u64),
                    Err(_) => error(err::FAILED),
                }
            }
            2 => {
                // This call waits: a byte that finds no room is dropped rather than stopping the machine.
                self.platform.console_write(&[a[0] as u8]);
                OK
            }
            _ => error(err::NOT_SUPPORTED),
        }
    }
}

#[cfg(test)]
mod tests;
