//! `rhea nbd`: serves a disk image over NBD.

use crate::process::{PidFile, Stop, add_patterns, daemon, on_signals};
use image::nbd::{Bad, Connection, Options, Wanted};
use qapi::QError;
use std::path::Path;
use std::sync::Arc;

/// Runs the program called `program`; returns the exit code.
pub(crate) fn main(program: &str, args: &[String]) -> i32 {
    trace::set_program_name(program);
    trace::init();
    let wanted = match image::nbd::parse(program, args) {
        Ok(wanted) => wanted,
        Err(Bad(text)) => {
            base::print_error(&text);
            return 1;
        }
    };
    let done = match wanted {
        Wanted::Help => {
            base::print(&image::nbd::help(program));
            Ok(0)
        }
        Wanted::Version => {
            base::print(&image::nbd::version(program));
            Ok(0)
        }
        Wanted::List(server) => list(&server),
        Wanted::Disconnect(device) => image::nbd::disconnect(&device).map(|said| {
            base::print(&said);
            0
        }),
        Wanted::Serve(o) if o.fork && !daemon::is_child() => {
            Ok(daemon::parent(&format!("{program}: Failed to fork")))
        }
        Wanted::Serve(o) => serve(program, &o).map(|()| 0),
    };
    done.unwrap_or_else(|e| {
        base::print_error(&format!("{program}: {}\n", e.desc()));
        if let Some(hint) = e.hint() {
            base::print_error(&format!("{}\n", hint.trim_end()));
        }
        1
    })
}

fn executor() -> Result<rt::Executor, QError> {
    rt::Executor::new().map_err(|e| QError::new(format!("cannot set up the control thread: {e}")))
}

fn list(server: &Connection) -> Result<i32, QError> {
    let text = executor()?.block_on(image::nbd::list(server))?;
    base::print(&text);
    Ok(0)
}

fn serve(program: &str, o: &Options) -> Result<(), QError> {
    for warning in &o.warnings {
        base::print_error(&format!("{program}: {warning}\n"));
    }
    if o.fork {
        daemon::enter();
    }
    let mut patterns = trace::Patterns::default();
    for t in &o.trace {
        add_patterns(t, &mut patterns).map_err(QError::new)?;
    }
    if !patterns.is_empty() {
        trace::select(patterns);
    }
    let stop = Arc::new(Stop::default());
    let asked = stop.clone();
    on_signals(false, move || asked.ask()).map_err(QError::new)?;
    executor()?.block_on(async {
        let listener = image::nbd::bind(o).await?;
        let mut held = None;
        let ready = || {
            if let Some(path) = &o.pid_file {
                let made = PidFile::create(Path::new(path));
                held = Some(made.map_err(|e| QError::new(e.trim_start_matches("cannot create PID file: ")))?);
            }
            match o.fork {
                true => daemon::ready().map_err(|e| QError::new(format!("cannot go to the background: {e}"))),
                false => Ok(()),
            }
        };
        image::nbd::serve(o, listener, &mut |text| base::print_error(text), ready, stop.wait()).await
    })
}
