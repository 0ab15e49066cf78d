//! The signals that end a program.

/// Calls `end` on SIGINT, SIGHUP and SIGTERM, on a thread of its own; a second one ends the process at once. `tell`: the
/// signal is told to the user.
pub(crate) fn on_signals(tell: bool, end: impl Fn() + Send + 'static) -> Result<(), String> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGHUP, SIGTERM])
        .map_err(|e| format!("cannot catch signals: {e}"))?;
    let watch = move || {
        for (n, signal) in signals.forever().enumerate() {
            if n > 0 {
                chardev::restore_terminal();
                std::process::exit(128 + signal);
            }
            if tell {
                ::tracing::info!("terminating on signal {signal}");
            }
            end();
        }
    };
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(watch)
        .map(drop)
        .map_err(|e| format!("cannot start a thread: {e}"))
}
