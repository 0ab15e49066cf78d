//! Kinds of exports beside NBD, which other crates bring along.

use api::block_export::{BlockExportOptions, BlockExportType};
use block::{BlockGraph, Root, RootConfig};
use qapi::QError;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

/// What is awaited on the control thread.
pub type LocalFuture<'a, T = ()> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// A kind of export. [`crate::Exports::register`] makes it known.
pub trait ExportKind: Send + Sync {
    /// Which one.
    fn ty(&self) -> BlockExportType;

    /// Starts an export of this kind, on the control thread.
    ///
    /// # Errors
    /// Its options make no sense, or the node's other users do not admit it. Nothing is left behind then.
    fn start<'a>(&'a self, new: NewExport<'a>) -> LocalFuture<'a, Result<Arc<dyn Running>, QError>>;
}

/// What an export is started with. What all kinds have in common was checked.
pub struct NewExport<'a> {
    /// Its options.
    pub options: &'a BlockExportOptions,
    /// The graph that has the node.
    pub graph: &'a Arc<BlockGraph>,
    /// What to attach to the node with: permissions as `writable` says. `on_change` may be added.
    pub root: RootConfig,
    /// The `iothread` object, if one was named. To be held as long as the export lives.
    pub iothread: Option<Arc<dyn qom::Object>>,
}

/// An export that runs.
pub trait Running: Send + Sync {
    /// Its hold on the graph.
    fn root(&self) -> &Arc<Root>;

    /// The block device of this host that shows the node, for kinds that make one.
    fn device(&self) -> Option<String> {
        None
    }

    /// Whether it takes no clients any more.
    fn is_closed(&self) -> bool;

    /// Takes no clients any more. Unless `hard`, only if there is none now. Whether it is closed; once it is, it stays so.
    fn close(&self, hard: bool) -> bool;

    /// Ends what was closed: disconnects the clients, waits for their last requests, and lets go of the node.
    fn end(self: Arc<Self>) -> LocalFuture<'static>;
}
