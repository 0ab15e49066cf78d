//! What running devices tell their machine.

use crate::requests::Requests;
use crate::runstate::RunState;
use device::{HostEvents, IoErrorReport};
use monitor::EventBus;
use qapi::{Dict, Value};
use std::sync::Arc;

pub(crate) struct Host {
    pub(crate) requests: Arc<Requests>,
    pub(crate) events: EventBus,
}

impl HostEvents for Host {
    fn io_error(&self, r: IoErrorReport) {
        let mut d = Dict::new();
        d.insert("device", r.device);
        d.insert("qom-path", r.qom_path);
        d.insert("operation", if r.write { "write" } else { "read" });
        d.insert("action", r.action);
        d.insert("nospace", r.nospace);
        d.insert("reason", r.reason);
        self.events.emit_value("BLOCK_IO_ERROR", Some(Value::Dict(d)));
        if r.action == "stop" {
            self.requests.stop(RunState::IoError);
        }
    }

    fn port_open(&self, id: &str, open: bool) {
        let mut d = Dict::new();
        d.insert("id", id);
        d.insert("open", open);
        self.events.emit_value("VSERPORT_CHANGE", Some(Value::Dict(d)));
    }
}
