//! Going to the background.
//!
//! A process of several threads must not fork. So `-daemonize` starts the program a second time in a session of its
//! own, with the same arguments, and waits for its word that everything is set up: the parent's exit code tells whether
//! the machine stands, and what went wrong is said on the parent's standard error.

use std::io::Read;
use std::process::{Command, Stdio};

/// Marks the second process. Its standard output is the pipe on which it gives its word.
const MARK: &str = "RHEA_DAEMON";
const READY: u8 = b'+';

/// Whether this process is the one that shall go to the background.
pub(crate) fn is_child() -> bool {
    std::env::var_os(MARK).is_some()
}

/// Starts the second process and waits for its word; returns the exit code. `blame` begins the message where it cannot be
/// started.
pub(crate) fn parent(blame: &str) -> i32 {
    let child = std::env::current_exe().and_then(|exe| {
        let mut args = std::env::args_os();
        let mut command = Command::new(exe);
        if let Some(name) = args.next() {
            std::os::unix::process::CommandExt::arg0(&mut command, name);
        }
        command.args(args).env(MARK, "1").stdin(Stdio::null()).stdout(Stdio::piped()).spawn()
    });
    let mut child = match child {
        Ok(c) => c,
        Err(e) => {
            base::print_error(&format!("{blame}: cannot start the background process: {e}\n"));
            return 1;
        }
    };
    let mut word = [0];
    let ready =
        child.stdout.take().is_some_and(|mut pipe| pipe.read_exact(&mut word).is_ok()) && word[0] == READY;
    if ready {
        return 0;
    }
    child.wait().ok().and_then(|s| s.code()).filter(|c| *c != 0).unwrap_or(1)
}

/// In the second process, before anything else: leaves the terminal's session.
pub(crate) fn enter() {
    // Fails only where it leads its session already, which is as good.
    _ = rustix::process::setsid();
}

/// In the second process, once everything is set up: gives the word, and lets go of the terminal.
pub(crate) fn ready() -> std::io::Result<()> {
    let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
    rustix::process::chdir("/")?;
    rustix::io::write(rustix::stdio::stdout(), &[READY])?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    Ok(())
}
