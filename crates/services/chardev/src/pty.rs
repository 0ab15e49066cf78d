//! A pseudo-terminal.

use crate::core::{Chardev, Core, Hangup, Sink, Slot, pump};
use io::Stream;
use qapi::{QError, qerr};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How often to look whether somebody has opened the terminal: the kernel does not tell.
const LOOK: Duration = Duration::from_millis(100);

struct Unlink(PathBuf);

impl Drop for Unlink {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

pub(crate) fn pty(core: Arc<Core>, link: Option<&Path>, log: Option<File>) -> Result<Arc<Chardev>, QError> {
    let failed =
        |e: rustix::io::Errno| qerr!("Failed to create PTY: {}", base::Errno::from_raw(e.raw_os_error()));
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).map_err(failed)?;
    grantpt(&master).map_err(failed)?;
    unlockpt(&master).map_err(failed)?;
    let name = ptsname(&master, Vec::new()).map_err(failed)?.to_string_lossy().into_owned();
    {
        // Opened once and closed: raw from the start, and hung up until somebody else opens it.
        let slave = File::options()
            .read(true)
            .write(true)
            .open(&name)
            .map_err(|e| qerr!("Failed to open PTY: {}", base::Errno::from(e)))?;
        let mut t = tcgetattr(&slave).map_err(failed)?;
        t.make_raw();
        tcsetattr(&slave, OptionalActions::Now, &t).map_err(failed)?;
    }
    let unlink: Option<Box<dyn Send + Sync>> = match link {
        Some(path) => {
            std::os::unix::fs::symlink(&name, path).map_err(|e| {
                qerr!("Failed to create PTY symlink '{}': {}", path.display(), base::Errno::from(e))
            })?;
            Some(Box::new(Unlink(path.to_owned())))
        }
        None => None,
    };
    let stream = Stream::from_pair(Some(master.try_clone().map_err(|e| qerr!("{e}"))?), Some(master))
        .map_err(|e| qerr!("Failed to create PTY: {e}"))?;
    core.set_filename(format!("pty:{name}"));
    let slot = Slot::new(false);
    let (c, s) = (core.clone(), slot.clone());
    let task = core.handle.spawn(move || async move {
        loop {
            while stream.is_hung_up() {
                rt::sleep(LOOK).await;
            }
            s.set(Some(stream.clone()));
            c.set_open(true);
            pump(&c, &stream, Hangup::Ends, |_| {}).await;
            s.set(None);
            c.set_open(false);
        }
    });
    Ok(Chardev::new(core, Sink::Slot(slot), log, unlink, Some(task)))
}
