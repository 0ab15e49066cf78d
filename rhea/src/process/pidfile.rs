//! The file that holds the process's number.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, fcntl_lock};

/// A pid file, locked while the process lives and removed when dropped.
#[derive(Debug)]
pub(crate) struct PidFile {
    path: PathBuf,
    _file: File,
}

impl PidFile {
    /// Writes this process's number to `path`. A file that another live process holds is an error.
    pub(crate) fn create(path: &Path) -> Result<PidFile, String> {
        let fail = |what: &str, e: std::io::Error| {
            let e = e.to_string();
            format!("cannot create PID file: {what}: {}", e.split(" (os error").next().unwrap_or(&e))
        };
        let mut file = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(|e| fail(&format!("Could not create '{}'", path.display()), e))?;
        fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive)
            .map_err(|e| fail("Cannot lock pid file", e.into()))?;
        file.set_len(0)
            .and_then(|()| writeln!(file, "{}", std::process::id()))
            .map_err(|e| fail("Failed to write pid file", e))?;
        // Going to the background changes the folder.
        let path = std::path::absolute(path).unwrap_or_else(|_| path.into());
        Ok(PidFile { path, _file: file })
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        _ = std::fs::remove_file(&self.path);
    }
}
