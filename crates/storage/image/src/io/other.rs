//! Commands that concern no image.

use super::number;
use super::session::{Done, Session};
use super::table::{COMMANDS, Words};
use std::time::Duration;

pub(super) async fn help(s: &mut Session, w: Words<'_>) -> Done {
    let Some(name) = w.words.first() else {
        for c in COMMANDS.iter().filter(|c| s.knows(c)) {
            s.text.line(&c.usage());
        }
        s.text.print("\nUse 'help commandname' for extended help.\n");
        return Done::Well;
    };
    let Some(c) = s.command(name) else { return fail_unknown(s, name) };
    s.text.line(&c.usage());
    if !c.more.is_empty() {
        s.text.print(&format!("\n{}\n", c.more));
    }
    Done::Well
}

/// The reference does not fail because of it.
fn fail_unknown(s: &Session, name: &str) -> Done {
    s.fail(&format!("command {name} not found"))
}

pub(super) async fn quit(_: &mut Session, _: Words<'_>) -> Done {
    Done::Quit
}

pub(super) async fn sleep(s: &mut Session, w: Words<'_>) -> Done {
    let given = w.words.first().map_or("", String::as_str);
    let Some(millis) = number::integer(given).and_then(|n| u64::try_from(n).ok()) else {
        return s.fail(&format!("{given} is not a valid number"));
    };
    rt::sleep(Duration::from_millis(millis)).await;
    Done::Well
}

pub(super) async fn abort(_: &mut Session, _: Words<'_>) -> Done {
    std::process::abort()
}

pub(super) async fn sigraise(s: &mut Session, w: Words<'_>) -> Done {
    let given = w.words.first().map_or("", String::as_str);
    let n = match s.size(given) {
        Ok(n) => n,
        Err(failed) => return failed,
    };
    let Some(n) = i32::try_from(n).ok().filter(|n| *n <= 65) else {
        return s.fail(&format!("signal argument '{given}' is too large to be a valid signal"));
    };
    // The reference's threads keep these two for themselves.
    if [signal_hook::consts::SIGUSR1, signal_hook::consts::SIGALRM].contains(&n) {
        return Done::Well;
    }
    s.text.flush();
    // A number that is no signal does nothing.
    let _ = signal_hook::low_level::raise(n);
    Done::Well
}
