//! The system emulator: from a command line to a running machine.

mod build;
mod config;
mod help;
mod logging;
mod options;
mod parse;
mod queries;

use crate::personality::Arch;
use crate::process::daemon;

/// Runs the system emulator called `program`; returns the exit code.
pub(crate) fn main(program: &str, arch: Arch, args: &[String]) -> i32 {
    trace::set_program_name(program);
    trace::init();
    match run(program, arch, args) {
        Ok(code) => code,
        Err(message) => {
            base::print_error(&format!("{program}: {message}\n"));
            1
        }
    }
}

fn run(program: &str, arch: Arch, args: &[String]) -> Result<i32, String> {
    let given = parse::parse(args)?;
    if given.iter().any(|g| g.name == "h") {
        base::print(&help::text(program));
        return Ok(0);
    }
    if given.iter().any(|g| g.name == "version") {
        base::print(&help::version());
        return Ok(0);
    }
    if let Some(text) = queries::answer(&given)? {
        base::print(&text);
        return Ok(0);
    }
    let config = config::config(given)?;
    match arch {
        Arch::Riscv64 => {}
    }
    if config.daemonize && !daemon::is_child() {
        return Ok(daemon::parent("rhea: -daemonize"));
    }
    if config.daemonize {
        daemon::enter();
    }
    if let Some(process) = &config.name.process {
        // The process is called what its first thread is called; the kernel keeps 15 bytes.
        let text = process.bytes().filter(|b| *b != 0).take(15).collect::<Vec<_>>();
        let text = std::ffi::CString::new(text).unwrap_or_default();
        rustix::thread::set_name(&text).map_err(|e| format!("-name: cannot set the process's name: {e}"))?;
    }
    logging::set_up(&config)?;
    let executor = rt::Executor::new().map_err(|e| format!("cannot set up the control thread: {e}"))?;
    executor.block_on(build::run(config))
}
