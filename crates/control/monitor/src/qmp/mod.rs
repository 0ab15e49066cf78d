//! QMP: the envelope of requests and replies, and sessions.

mod request;
mod session;

pub(crate) use session::{Session, run};
