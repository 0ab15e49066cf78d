//! QMP and HMP sessions, command tables, events.
//!
//! The problem: a management tool must always get an answer. It may be one of several, it may send
//! rubbish, vanish in mid-command or stop reading; commands may take long; and none of that may
//! disturb the machine, another client, or the order of replies.
//!
//! So there are two sides. Sessions live on the monitor's own thread: it parses input, writes output, and
//! runs out-of-band commands, which never wait. In-band commands run on the control executor, one after another
//! within a session. Each session's output is a bounded queue: events go in from any thread without waiting,
//! and a client that does not read is first not served and at last disconnected.
//!
//! - [`CommandTable`]: QMP commands, registered by type; names, strict input and introspection come from the type.
//! - [`HmpTable`]: the commands of the human monitor.
//! - [`EventBus`]: where everybody emits events.
//! - [`Monitor`]: serves sessions over [`io::Acceptor`]s: listeners or character devices.

mod events;
mod hmp;
mod outq;
mod own;
mod qmp;
mod server;
mod table;

pub use events::{EventBus, EventKey, EventRecord, EventSink, EventStream, Subscription};
pub use hmp::{HmpArgs, HmpOutput, HmpTable};
pub use own::{hmp_version_text, version};
pub use server::{HmpOptions, Monitor, QmpOptions};
pub use table::{CommandTable, LocalFuture};
