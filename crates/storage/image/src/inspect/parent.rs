//! Starts the process that reads the image, and takes what it tells.

use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use qapi::{Dict, QError, Value, qerr};
use rustix::fs::{FileType, Mode, OFlags};

use super::child::arguments;
use super::sandbox::Bounds;

/// Most bytes that the process may tell.
const MAX_TOLD: u64 = 4 << 20;
/// How often it is looked whether it has ended.
const LOOK: Duration = Duration::from_millis(5);

/// What to look at, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// The image's path.
    pub name: String,
    /// Its format, where it is not to be found out.
    pub format: Option<String>,
    /// How long it may take, by the clock and of the processor's time, whole seconds.
    pub timeout: Duration,
    /// Bytes of address space.
    pub memory: u64,
    /// Check it, too.
    pub check: bool,
}

/// What was found out.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// Bytes of the file.
    pub file_size: u64,
    /// Bytes that it takes.
    pub disk_size: u64,
    /// What of the sandbox was in force; `None` where the process did not come so far.
    pub sandbox: Option<Dict>,
    /// The format.
    pub format: Option<String>,
    /// About the image.
    pub image: Option<Dict>,
    /// What the check found.
    pub check: Option<Dict>,
    /// Why it did not come to its end: reasons to refuse the image.
    pub ended: Vec<String>,
}

/// Looks at an image.
///
/// # Errors
/// The file cannot be opened, or the process cannot be started: nothing is known of the image.
pub fn inspect(ask: &Ask) -> Result<Outcome, QError> {
    let cannot = |e: rustix::io::Errno| {
        qerr!("Could not open '{}': {}", ask.name, base::Errno::from_raw(e.raw_os_error()))
    };
    // Nothing is waited for, should it be a pipe.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
    let image: OwnedFd = rustix::fs::open(&*ask.name, flags, Mode::empty()).map_err(cannot)?;
    let stat = rustix::fs::fstat(&image).map_err(cannot)?;
    let mut out = Outcome {
        file_size: u64::try_from(stat.st_size).unwrap_or(0),
        disk_size: u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512),
        ..Outcome::default()
    };
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        out.ended.push("It is no regular file".into());
        return Ok(out);
    }
    rustix::fs::fcntl_setfl(image.as_fd(), OFlags::empty()).map_err(cannot)?;
    let mut child = start(ask, image)?;
    let deadline = Instant::now() + ask.timeout;
    let Some(stdout) = child.stdout.take() else { return Err(qerr!("The process has no output")) };
    let reader = std::thread::spawn(move || {
        let mut told = Vec::new();
        // What is too long is cut, and then ends within a line.
        let done = stdout.take(MAX_TOLD).read_to_end(&mut told);
        done.map(|_| told).unwrap_or_default()
    });
    let status = wait(&mut child, deadline).map_err(|e| qerr!("Could not wait for the process: {e}"))?;
    // Its end closes the pipe: it has no children.
    let told = reader.join().unwrap_or_default();
    let ended = take(&mut out, &told);
    match status {
        None => out.ended.push(format!("It was not looked through within {} seconds", ask.timeout.as_secs())),
        Some(s) if !s.success() => out.ended.push(death(s, ask)),
        Some(_) if !ended && out.ended.is_empty() => {
            out.ended.push("It was not looked through to its end".into())
        }
        Some(_) => {}
    }
    Ok(out)
}

fn start(ask: &Ask, image: OwnedFd) -> Result<Child, QError> {
    let cannot = |e: std::io::Error| {
        qerr!("Could not start the process that reads the image: {}", base::Errno::from(e))
    };
    let bounds = Bounds { memory: ask.memory, seconds: ask.timeout.as_secs().max(1) };
    // This very program, by its own name: it may be called by another, and be another by then where it was.
    let mut command = Command::new("/proc/self/exe");
    command.arg0("rhea").arg("img").args(arguments(bounds, ask.check, ask.format.as_deref()));
    // Nothing of the environment. The kernel's ring would do what seccomp does not see; and each thread's own heap takes
    // address space.
    command.env_clear().env("RHEA_AIO_FALLBACK", "1").env("MALLOC_ARENA_MAX", "1");
    command.current_dir("/").stdin(image).stdout(Stdio::piped()).stderr(Stdio::null());
    command.spawn().map_err(cannot)
}

/// Its end, or `None` where it came too late and the process was ended.
fn wait(child: &mut Child, deadline: Instant) -> std::io::Result<Option<ExitStatus>> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline {
            // It may have ended meanwhile.
            let _ = child.kill();
            child.wait()?;
            return Ok(None);
        }
        std::thread::sleep(LOOK);
    }
}

/// Takes what the process told. Whether that was all it had to tell.
fn take(out: &mut Outcome, told: &[u8]) -> bool {
    let text = String::from_utf8_lossy(told);
    let mut ended = false;
    for line in text.lines() {
        let Ok(Value::Dict(d)) = Value::parse_json(line) else {
            out.ended.push("What its reader told is not understood".into());
            return false;
        };
        for (what, v) in d {
            match (&*what, v) {
                ("sandbox", Value::Dict(d)) => out.sandbox = Some(d),
                ("format", Value::Str(s)) => out.format = Some(s),
                ("image", Value::Dict(d)) => out.image = Some(d),
                ("check", Value::Dict(d)) => out.check = Some(d),
                ("error", Value::Str(s)) => out.ended.push(s),
                ("end", _) => ended = true,
                _ => {}
            }
        }
    }
    ended
}

fn death(status: ExitStatus, ask: &Ask) -> String {
    const ABRT: i32 = 6;
    const KILL: i32 = 9;
    const XCPU: i32 = 24;
    const SYS: i32 = 31;
    match status.signal() {
        Some(ABRT) => {
            format!("Its reader gave up; it may have wanted more than {} bytes of memory", ask.memory)
        }
        Some(XCPU | KILL) => {
            format!("Its reader took more than {} seconds of the processor", ask.timeout.as_secs())
        }
        Some(SYS) => "Its reader did what it must not".into(),
        Some(n) => format!("Its reader died of signal {n}"),
        None => format!("Its reader failed with code {}", status.code().unwrap_or(-1)),
    }
}
