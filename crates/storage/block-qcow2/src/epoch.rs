//! Readers and freed clusters: a cluster is not given to other data while somebody who looked it up may still read it.
//!
//! Whoever looks up where bytes are and then reads them enters the current epoch first and leaves it when it has read.
//! When references are dropped, the epoch ends, and the clusters become free once everybody has left it (and those
//! before it): whoever comes later finds the new mapping.

use std::sync::Arc;

use parking_lot::RwLock;

/// The current epoch.
#[derive(Debug, Default)]
pub struct Epochs(RwLock<Arc<()>>);

impl Epochs {
    /// Enters the current epoch; dropping the value leaves it.
    pub fn enter(&self) -> Arc<()> {
        self.0.read().clone()
    }

    /// Begins a new epoch; answers the one that ended.
    pub fn turn(&self) -> Arc<()> {
        std::mem::take(&mut self.0.write())
    }
}

/// Whether everybody has left an epoch that ended.
pub fn is_over(ended: &mut Arc<()>) -> bool {
    // Not the mere count: this also orders the readers' last reads before what follows.
    Arc::get_mut(ended).is_some()
}
