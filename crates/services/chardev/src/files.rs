//! Devices that are files, or nothing.

use crate::config::Config;
use crate::core::{Chardev, Core, Hangup, Sink, pump};
use io::Stream;
use parking_lot::Mutex;
use qapi::{QError, qerr};
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

/// Opens the file that gets a copy of the output.
pub(crate) fn open_log(config: &Config) -> Result<Option<File>, QError> {
    config.logfile.as_deref().map(|p| create(p, config.logappend, "create")).transpose()
}

fn create(path: &Path, append: bool, verb: &str) -> Result<File, QError> {
    let mut o = File::options();
    o.create(true);
    let o = if append { o.append(true) } else { o.write(true).truncate(true) };
    o.open(path).map_err(|e| qerr!("Could not {verb} '{}': {}", path.display(), base::Errno::from(e)))
}

pub(crate) fn file(
    core: Arc<Core>,
    path: &Path,
    input: Option<&Path>,
    append: bool,
    log: Option<File>,
) -> Result<Arc<Chardev>, QError> {
    let out = create(path, append, "open")?;
    let task = match input {
        Some(input) => {
            let file = File::open(input)
                .map_err(|e| qerr!("Could not open '{}': {}", input.display(), base::Errno::from(e)))?;
            let stream = Stream::from_pair(Some(file.into()), None)
                .map_err(|e| qerr!("Could not open '{}': {e}", input.display()))?;
            let c = core.clone();
            Some(core.handle.spawn(move || async move {
                c.set_open(true);
                pump(&c, &stream, Hangup::Drains, |_| {}).await;
            }))
        }
        None => None,
    };
    core.set_open(true);
    Ok(Chardev::new(core, Sink::File(Mutex::new(out)), log, None, task))
}
