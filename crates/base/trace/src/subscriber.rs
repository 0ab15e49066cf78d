//! The `tracing` subscriber behind trace points and messages.

use crate::pattern::Patterns;
use crate::sink::{program_name, write_line};
use std::fmt::{self, Write as _};
use std::io::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Once, PoisonError, RwLock};
use std::time::SystemTime;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::subscriber::Interest;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};

static SELECTED: RwLock<Patterns> = RwLock::new(Patterns::new());
static STAMPS: AtomicBool = AtomicBool::new(false);
static ONLY_PLAIN: AtomicBool = AtomicBool::new(false);
static INIT: Once = Once::new();

/// Installs the subscriber for the whole process. Later calls do nothing, nor does the first one where the
/// process has another subscriber already.
pub fn init() {
    INIT.call_once(|| {
        let _ = tracing::subscriber::set_global_default(tracing_subscriber::registry().with(Reports));
    });
}

/// The target of `tracing` events whose texts stand as they are, without the program's name: what happened to an image,
/// line by line. Warnings have the name all the same.
pub const PLAIN: &str = "plain";
/// The target of events that tell people more than the error of a request can, which is a number.
pub const REPORT: &str = "report";

/// [`init`] for programs that say themselves what goes wrong: of the messages, only those of [`PLAIN`] and [`REPORT`] are
/// shown.
pub fn init_plain() {
    ONLY_PLAIN.store(true, Ordering::Relaxed);
    init();
}

/// Selects the trace points that `patterns` match, in place of those selected before. Any thread, any time.
pub fn select(patterns: Patterns) {
    *SELECTED.write().unwrap_or_else(PoisonError::into_inner) = patterns;
    // Call sites remember whether anybody is interested: that is what makes them cheap.
    tracing::callsite::rebuild_interest_cache();
}

/// Whether messages for the user begin with the time, as `-msg timestamp=on` asks.
pub fn set_timestamps(on: bool) {
    STAMPS.store(on, Ordering::Relaxed);
}

/// A time of day in UTC as ISO 8601 writes it, with a blank behind it.
fn stamp(t: SystemTime) -> String {
    let since = t.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let (days, secs) = (since.as_secs() / 86400, since.as_secs() % 86400);
    // Days since 0000-03-01, in eras of 400 years: a year that begins in March ends with the leap day.
    let z = days + 719_468;
    let (era, doe) = (z / 146_097, z % 146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let (day, month) = (doy - (153 * mp + 2) / 5 + 1, if mp < 10 { mp + 3 } else { mp - 9 });
    let year = yoe + era * 400 + u64::from(month <= 2);
    let (h, m, s) = (secs / 3600, secs / 60 % 60, secs % 60);
    format!("{year:04}-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}.{:06}Z ", since.subsec_micros())
}

/// The patterns selected now.
pub fn selected() -> Patterns {
    SELECTED.read().unwrap_or_else(PoisonError::into_inner).clone()
}

fn wanted(meta: &Metadata<'_>) -> bool {
    if *meta.level() <= Level::INFO {
        return [PLAIN, REPORT].contains(&meta.target()) || !ONLY_PLAIN.load(Ordering::Relaxed);
    }
    let p = SELECTED.read().unwrap_or_else(PoisonError::into_inner);
    !p.is_empty() && p.decide(meta.name()).or_else(|| p.decide(meta.target())).unwrap_or(false)
}

struct Reports;

impl<S: Subscriber> Layer<S> for Reports {
    fn register_callsite(&self, meta: &'static Metadata<'static>) -> Interest {
        if wanted(meta) { Interest::always() } else { Interest::never() }
    }

    fn enabled(&self, meta: &Metadata<'_>, _: Context<'_, S>) -> bool {
        wanted(meta)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        let none = SELECTED.read().unwrap_or_else(PoisonError::into_inner).is_empty();
        Some(if none { LevelFilter::INFO } else { LevelFilter::TRACE })
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let meta = event.metadata();
        let mut text = Fields::default();
        event.record(&mut text);
        let severity = match *meta.level() {
            Level::ERROR => "",
            Level::WARN => "warning: ",
            Level::INFO => "info: ",
            _ => {
                // An event without a name of its own is called `event FILE:LINE`.
                let named = !meta.name().starts_with("event ");
                let name = if named { meta.name() } else { meta.target() };
                write_line(format_args!("{name}{}", text.all()));
                return;
            }
        };
        if meta.target() == PLAIN && *meta.level() != Level::WARN {
            let _ = std::io::stderr().write_all(format!("{}\n", text.message).as_bytes());
            return;
        }
        let stamp = if STAMPS.load(Ordering::Relaxed) { stamp(SystemTime::now()) } else { String::new() };
        let line = format!("{stamp}{}: {severity}{}\n", program_name(), text.all().trim_start());
        // Not to the -D file: these are for the person who runs the program.
        let _ = std::io::stderr().write_all(line.as_bytes());
    }
}

#[derive(Default)]
struct Fields {
    message: String,
    rest: String,
}

impl Fields {
    fn all(&self) -> String {
        let sep = if self.message.is_empty() { "" } else { " " };
        format!("{sep}{}{}", self.message, self.rest)
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.rest, " {name}={value:?}"),
        };
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        let _ = match field.name() {
            "message" => write!(self.message, "{value}"),
            name => write!(self.rest, " {name}={value}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn stamps_are_iso_8601() {
        let at = |secs| stamp(SystemTime::UNIX_EPOCH + Duration::from_secs(secs));
        assert_eq!(at(0), "1970-01-01T00:00:00.000000Z ");
        assert_eq!(at(951_782_400), "2000-02-29T00:00:00.000000Z ");
        assert_eq!(at(1_795_305_599), "2026-11-21T23:59:59.000000Z ");
    }
}
