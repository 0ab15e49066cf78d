//! What drivers of the network tell beside the errors of requests, which are numbers: why it was.

use std::fmt::Write as _;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// The crates whose errors are shown. Those of others are told by the commands themselves.
const SHOWN: &[&str] = &["block_http"];

/// Shows errors on standard error, with the name of the program.
struct Told {
    prog: String,
}

/// The message of an event.
#[derive(Default)]
struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        if field.name() == "message" {
            // Writing to a String cannot fail.
            let _ = write!(self.0, "{value:?}");
        }
    }
}

impl Subscriber for Told {
    fn enabled(&self, meta: &Metadata<'_>) -> bool {
        let target = meta.target();
        let krate = target.split("::").next().unwrap_or(target);
        meta.is_event() && *meta.level() <= Level::ERROR && SHOWN.contains(&krate)
    }

    fn event(&self, event: &Event<'_>) {
        let mut message = Message::default();
        event.record(&mut message);
        // A server has a part in the text.
        let text: String = message.0.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
        base::print_error(&format!("{}: {text}\n", self.prog));
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// Begins to show them, for the whole process, unless something else shows events already.
pub(crate) fn begin(prog: &str) {
    let _ = tracing::subscriber::set_global_default(Told { prog: prog.to_owned() });
}
