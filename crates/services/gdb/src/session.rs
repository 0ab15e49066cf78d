//! One debugger's connection, from its first byte to its last.

use crate::Shared;
use crate::target::{Guest, protocol_kind, tid};
use futures_util::future::{Either, select};
use gdbstub::common::Signal;
use gdbstub::conn::Connection;
use gdbstub::stub::state_machine::GdbStubStateMachine;
use gdbstub::stub::{DisconnectReason, GdbStub, MultiThreadStopReason};
use io::{Channel, write_all};
use machine::{RunState, ShutdownCause};
use monitor::{EventRecord, EventSink};
use parking_lot::Mutex;
use rt::sync::Notify;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use vcpu::{CpuSet, Halt, Plan};

/// Bytes of the longest packet.
const PACKET: usize = 16 << 10;

/// What happened to the machine since the debugger was told last.
#[derive(Default)]
pub(crate) struct Happened {
    state: Mutex<State>,
    arrived: Notify,
}

#[derive(Default)]
struct State {
    /// It stands still.
    stopped: bool,
    /// Harts that stopped for the debugger; each does so once until it goes on.
    halts: VecDeque<(u32, Halt)>,
}

impl Happened {
    fn halted(&self, hart: u32, halt: Halt) {
        self.state.lock().halts.push_back((hart, halt));
    }

    /// Forgets what was before the machine goes on.
    fn clear(&self) {
        *self.state.lock() = State::default();
    }

    /// Waits until the machine stands still; the hart that caused it and why, if one did.
    async fn stopped(&self) -> Option<(u32, Halt)> {
        loop {
            let arrived = self.arrived.notified();
            {
                let mut s = self.state.lock();
                if s.stopped {
                    return s.halts.pop_front();
                }
            }
            arrived.await;
        }
    }
}

impl EventSink for Happened {
    fn event(&self, event: &Arc<EventRecord>) -> bool {
        if event.name == "STOP" {
            self.state.lock().stopped = true;
            self.arrived.notify_all();
        }
        true
    }
}

/// What is to be sent.
#[derive(Default)]
struct Output(Vec<u8>);

impl Connection for Output {
    type Error = Infallible;

    fn write(&mut self, byte: u8) -> Result<(), Infallible> {
        self.0.push(byte);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Infallible> {
        Ok(())
    }
}

/// What came from the debugger and was not looked at yet.
struct Input<'a> {
    channel: &'a dyn Channel,
    buf: Box<[u8; 4096]>,
    have: std::ops::Range<usize>,
}

impl Input<'_> {
    /// The next byte; `None` at the end. Dropping the future loses nothing.
    async fn next(&mut self) -> Option<u8> {
        if self.have.is_empty() {
            let n = self.channel.read(&mut self.buf[..]).await.ok().filter(|n| *n > 0)?;
            self.have = 0..n;
        }
        self.have.next().map(|i| self.buf[i])
    }
}

/// That a debugger is there. Dropping it leaves the harts as if none had been.
struct Attached<'a> {
    shared: &'a Shared,
    cpus: Arc<CpuSet>,
}

impl Drop for Attached<'_> {
    fn drop(&mut self) {
        self.cpus.on_halt(None);
        self.cpus.set_stops(&Arc::default());
        for h in 0..self.cpus.len() as u32 {
            self.cpus.set_plan(h, Plan::Run);
        }
        self.shared.attached.store(false, Ordering::Release);
    }
}

/// Serves a debugger until it leaves, or the machine ends.
pub(crate) async fn serve(shared: &Shared, channel: &dyn Channel) {
    let (Some(cpus), Some(memory)) = (shared.machine.cpus(), shared.machine.memory()) else { return };
    shared.attached.store(true, Ordering::Release);
    let attached = Attached { shared, cpus: cpus.clone() };
    let happened = Arc::new(Happened::default());
    let _events = shared.machine.events().subscribe(happened.clone());
    let (h, requests) = (happened.clone(), shared.machine.requests().clone());
    cpus.on_halt(Some(Arc::new(move |hart, halt| {
        h.halted(hart, halt);
        requests.stop(RunState::Debug);
    })));
    shared.control(|m| async move { m.stop().await }).await;
    let mut guest = Guest::new(cpus.clone(), memory.clone(), shared.run_line());
    let end = talk(shared, channel, &happened, &mut guest).await;
    drop(attached);
    match end {
        Some(DisconnectReason::Disconnect) => {
            // A machine that cannot go on stays as it is.
            shared.control(|m| async move { drop(m.cont().await) }).await;
        }
        Some(DisconnectReason::Kill) => {
            // The library answers this one only where a debugger could start another program.
            let _ = write_all(channel, b"$OK#9a").await;
            shared.machine.requests().shutdown(ShutdownCause::HostSignal, 0);
        }
        _ => {}
    }
    channel.shutdown();
}

/// The conversation; why it ended, unless the debugger vanished.
async fn talk(
    shared: &Shared,
    channel: &dyn Channel,
    happened: &Happened,
    guest: &mut Guest,
) -> Option<DisconnectReason> {
    let mut input = Input { channel, buf: Box::new([0; 4096]), have: 0..0 };
    let stub = GdbStub::builder(Output::default()).packet_buffer_size(PACKET).build().ok()?;
    let mut state = stub.run_state_machine(guest).ok()?;
    loop {
        let out = match &mut state {
            GdbStubStateMachine::Idle(i) => std::mem::take(i.borrow_conn()),
            GdbStubStateMachine::Running(i) => std::mem::take(i.borrow_conn()),
            GdbStubStateMachine::CtrlCInterrupt(i) => std::mem::take(i.borrow_conn()),
            GdbStubStateMachine::Disconnected(i) => std::mem::take(i.borrow_conn()),
        };
        if !out.0.is_empty() {
            write_all(channel, &out.0).await.ok()?;
        }
        let next = match state {
            GdbStubStateMachine::Idle(i) => {
                let byte = match select(pin!(input.next()), pin!(shared.closed())).await {
                    Either::Left((byte, _)) => byte?,
                    Either::Right(_) => return None,
                };
                i.incoming_data(guest, byte)
            }
            GdbStubStateMachine::Running(i) => {
                if std::mem::take(&mut guest.go) {
                    happened.clear();
                    guest.tell_plans();
                    if !shared.control(|m| async move { m.cont().await.is_ok() }).await {
                        // It needs a reset first: it stands where it stood.
                        state = i.report_stop(guest, stopped(None)).ok()?;
                        continue;
                    }
                }
                let (stop, end) = (pin!(happened.stopped()), pin!(shared.closed()));
                let happening = match select(pin!(input.next()), select(stop, end)).await {
                    Either::Left((byte, _)) => Err(byte?),
                    Either::Right((event, _)) => Ok(event),
                };
                match happening {
                    Err(byte) => i.incoming_data(guest, byte),
                    Ok(Either::Left((halt, _))) => i.report_stop(guest, stopped(halt)),
                    Ok(Either::Right((code, _))) => {
                        i.report_stop(guest, MultiThreadStopReason::Exited(code as u8))
                    }
                }
            }
            GdbStubStateMachine::CtrlCInterrupt(i) => {
                shared.control(|m| async move { m.stop().await }).await;
                i.interrupt_handled(guest, Some(stopped(None)))
            }
            GdbStubStateMachine::Disconnected(i) => return Some(i.get_reason()),
        };
        state = match next {
            Ok(s) => s,
            Err(e) => {
                tracing::warn!("gdbstub: the debugger's connection ends: {e}");
                return None;
            }
        };
    }
}

/// How a stop is told.
fn stopped(halt: Option<(u32, Halt)>) -> MultiThreadStopReason<u64> {
    match halt {
        None => MultiThreadStopReason::SignalWithThread { tid: tid(0), signal: Signal::SIGINT },
        Some((hart, Halt::Breakpoint)) => MultiThreadStopReason::SwBreak(tid(hart)),
        Some((hart, Halt::Watch(w))) => {
            MultiThreadStopReason::Watch { tid: tid(hart), kind: protocol_kind(w.kind), addr: w.addr }
        }
        Some((hart, Halt::Step)) => {
            MultiThreadStopReason::SignalWithThread { tid: tid(hart), signal: Signal::SIGTRAP }
        }
    }
}
