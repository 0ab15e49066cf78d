//! The commands.

use crate::Exports;
use api::block_export::{
    BlockExportAdd, BlockExportDel, BlockExportDeletedEvent, NbdServerAdd, NbdServerOptions, NbdServerRemove,
    NbdServerStart, NbdServerStop, QueryBlockExports,
};
use monitor::CommandTable;
use std::sync::Arc;

/// Registers the commands and the event.
pub fn register(table: &mut CommandTable, exports: &Arc<Exports>) {
    let x = exports.clone();
    table.register(move |c: BlockExportAdd| {
        let x = x.clone();
        async move { x.add(c.0).await }
    });
    let x = exports.clone();
    table.register(move |c: BlockExportDel| {
        let x = x.clone();
        async move { x.del(&c.id, c.mode).await }
    });
    let x = exports.clone();
    table.register(move |_: QueryBlockExports| std::future::ready(Ok(x.query())));
    let x = exports.clone();
    table.register(move |c: NbdServerStart| {
        let x = x.clone();
        let options = NbdServerOptions {
            handshake_max_seconds: c.handshake_max_seconds,
            max_connections: c.max_connections,
            tls_creds: c.tls_creds,
            tls_authz: c.tls_authz,
            addr: c.addr.into(),
        };
        async move { x.start_server(options).await }
    });
    let x = exports.clone();
    table.register(move |c: NbdServerAdd| {
        let x = x.clone();
        async move { x.add_old(c).await }
    });
    let x = exports.clone();
    table.register(move |c: NbdServerRemove| {
        let x = x.clone();
        async move { x.del(&c.name, c.mode).await }
    });
    let x = exports.clone();
    table.register(move |_: NbdServerStop| {
        let x = x.clone();
        async move { x.stop_server().await }
    });
    table.event::<BlockExportDeletedEvent>();
}
