//! The storage daemon: block nodes, jobs and exports with QMP, and no machine.

mod help;
mod options;
mod run;

use crate::process::{add_patterns, daemon};
use options::{Given, Name};

/// Runs the storage daemon called `program`; returns the exit code.
pub(crate) fn main(program: &str, args: &[String]) -> i32 {
    trace::set_program_name(program);
    trace::init();
    match run(program, args) {
        Ok(code) => code,
        Err(message) => {
            base::print_error(&format!("{program}: {message}\n"));
            1
        }
    }
}

/// A mistake in an option.
fn at(g: &Given, message: impl std::fmt::Display) -> String {
    format!("{}: {message}", g.spelt)
}

fn run(program: &str, args: &[String]) -> Result<i32, String> {
    let (given, parsed) = options::parse(args);
    for g in &given {
        match g.name {
            Name::Help => {
                base::print(&help::text(program));
                return Ok(0);
            }
            Name::Version => {
                base::print(&help::version(program));
                return Ok(0);
            }
            _ => {}
        }
    }
    parsed?;
    if let Some(g) = given.iter().find(|g| g.name == Name::Daemonize) {
        if !daemon::is_child() {
            return Ok(daemon::parent(&format!("{program}: {}", g.spelt)));
        }
        daemon::enter();
    }
    let mut patterns = trace::Patterns::default();
    for g in given.iter().filter(|g| g.name == Name::Trace) {
        if let Some(text) = help::answer(g).map_err(|e| at(g, e))? {
            base::print(&text);
            return Ok(0);
        }
        add_patterns(&g.value, &mut patterns).map_err(|e| at(g, e))?;
    }
    if !patterns.is_empty() {
        trace::select(patterns);
    }
    let executor = rt::Executor::new().map_err(|e| format!("cannot set up the control thread: {e}"))?;
    executor.block_on(run::run(&given))
}
