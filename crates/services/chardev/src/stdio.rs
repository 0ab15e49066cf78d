//! Standard input and output as a character device.

use crate::core::{Chardev, Core, Hangup, Sink, Slot, pump};
use io::Stream;
use parking_lot::Mutex;
use qapi::{QError, qerr};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::termios::{
    InputModes, LocalModes, OptionalActions, OutputModes, SpecialCodeIndex, Termios, isatty, tcgetattr,
    tcsetattr,
};
use std::fs::File;
use std::io::{stdin, stdout};
use std::os::fd::AsFd;
use std::sync::Arc;

/// How the terminal was before. There is one per process, as there is one standard input.
#[derive(Default)]
struct Before {
    used: bool,
    termios: Option<Termios>,
    flags_in: Option<OFlags>,
    flags_out: Option<OFlags>,
}

static BEFORE: Mutex<Before> =
    Mutex::new(Before { used: false, termios: None, flags_in: None, flags_out: None });

/// Puts the terminal back as it was before a device took it. To be called before the process ends in any
/// way that drops no devices; does nothing where there is nothing to do.
pub fn restore_terminal() {
    let mut b = BEFORE.lock();
    if let Some(t) = b.termios.take() {
        let _ = tcsetattr(stdin(), OptionalActions::Now, &t);
    }
    // The descriptions are shared with the shell, which does not expect them to be non-blocking.
    if let Some(f) = b.flags_in.take() {
        let _ = fcntl_setfl(stdin(), f);
    }
    if let Some(f) = b.flags_out.take() {
        let _ = fcntl_setfl(stdout(), f);
    }
}

struct Restore;

impl Drop for Restore {
    fn drop(&mut self) {
        restore_terminal();
        BEFORE.lock().used = false;
    }
}

/// No echo, no line mode, every byte as it comes; output still turns `\n` into `\r\n`.
pub(crate) fn raw_mode(t: &Termios, signal: bool) -> Termios {
    let mut t = t.clone();
    t.input_modes &= !(InputModes::IGNBRK
        | InputModes::BRKINT
        | InputModes::PARMRK
        | InputModes::ISTRIP
        | InputModes::INLCR
        | InputModes::IGNCR
        | InputModes::ICRNL
        | InputModes::IXON);
    t.output_modes |= OutputModes::OPOST;
    t.local_modes &= !(LocalModes::ECHO | LocalModes::ECHONL | LocalModes::ICANON | LocalModes::IEXTEN);
    if !signal {
        t.local_modes &= !LocalModes::ISIG;
    }
    t.special_codes[SpecialCodeIndex::VMIN] = 1;
    t.special_codes[SpecialCodeIndex::VTIME] = 0;
    t
}

pub(crate) fn stdio(core: Arc<Core>, signal: bool, log: Option<File>) -> Result<Arc<Chardev>, QError> {
    {
        let mut b = BEFORE.lock();
        if b.used {
            return Err(QError::new("cannot use stdio by multiple character devices"));
        }
        b.used = true;
        b.flags_in = fcntl_getfl(stdin()).ok();
        b.flags_out = fcntl_getfl(stdout()).ok();
        if isatty(stdin())
            && let Ok(t) = tcgetattr(stdin())
        {
            let _ = tcsetattr(stdin(), OptionalActions::Now, &raw_mode(&t, signal));
            b.termios = Some(t);
        }
    }
    let restore = Restore;
    let stream = (|| {
        let input = stdin().as_fd().try_clone_to_owned()?;
        let output = stdout().as_fd().try_clone_to_owned()?;
        Stream::from_pair(Some(input), Some(output)).map_err(std::io::Error::from)
    })()
    .map_err(|e| qerr!("cannot use stdio: {}", base::Errno::from(e)))?;
    let slot = Slot::new(false);
    slot.set(Some(stream.clone()));
    let c = core.clone();
    let task = core.handle.spawn(move || async move {
        c.set_open(true);
        pump(&c, &stream, Hangup::Drains, |_| {}).await;
        // Input is over; output goes on.
        c.set_open(false);
    });
    Ok(Chardev::new(core, Sink::Slot(slot), log, Some(Box::new(restore)), Some(task)))
}
