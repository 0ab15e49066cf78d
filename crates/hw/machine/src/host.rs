//! What running devices tell their machine.

use crate::requests::Requests;
use crate::runstate::RunState;
use api::block_core::{BlockErrorAction, BlockIoErrorEvent, IoOperationType};
use api::char::VserportChangeEvent;
use device::{HostEvents, IoErrorReport};
use monitor::EventBus;
use qapi::QapiEnum;
use std::sync::Arc;

pub(crate) struct Host {
    pub(crate) requests: Arc<Requests>,
    pub(crate) events: EventBus,
}

impl HostEvents for Host {
    fn io_error(&self, r: IoErrorReport) {
        let stop = r.action == "stop";
        self.events.emit(BlockIoErrorEvent {
            qom_path: r.qom_path,
            device: r.device,
            node_name: None,
            operation: if r.write { IoOperationType::Write } else { IoOperationType::Read },
            action: BlockErrorAction::from_str(r.action).unwrap_or_default(),
            nospace: stop.then_some(r.nospace),
            reason: r.reason,
        });
        if stop {
            self.requests.stop(RunState::IoError);
        }
    }

    fn port_open(&self, id: &str, open: bool) {
        self.events.emit(VserportChangeEvent { id: id.to_owned(), open });
    }
}
