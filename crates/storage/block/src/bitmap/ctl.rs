//! Operations on bitmaps, as the monitor asks for them.

use super::{Bitmap, Tolerate};
use crate::control::BlockGraph;
use crate::driver::Cx;
use crate::graph::{Graph, Node};
use qapi::{QError, qerr};
use std::sync::Arc;

/// The granularity unless given: the format's cluster size within these bounds.
const DEFAULT_GRANULARITY: (u64, u64) = (4096, 65536);

/// Where bits to merge come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BitmapSource {
    /// The node; the target's own where it is not given.
    pub node: Option<String>,
    /// The bitmap's name.
    pub name: String,
}

fn node<'g>(graph: &'g Graph, name: &str) -> Result<&'g Arc<Node>, QError> {
    // A drive's name stands for its node.
    let drive = graph.drive(name).and_then(|d| d.node).and_then(|n| graph.node(n));
    drive
        .or_else(|| graph.by_name(name))
        .ok_or_else(|| qerr!("Cannot find device='{name}' nor node-name='{name}'"))
}

fn bitmap(node: &Node, name: &str) -> Result<Arc<Bitmap>, QError> {
    node.live.bitmaps.find(name).ok_or_else(|| qerr!("Dirty bitmap '{name}' not found"))
}

impl BlockGraph {
    /// The bitmap of a node, for an operation that tolerates what it says.
    pub fn bitmap(&self, node_name: &str, name: &str, tolerate: Tolerate) -> Result<Arc<Bitmap>, QError> {
        let graph = self.snapshot();
        let node = node(&graph, node_name)?;
        let b = bitmap(node, name)?;
        b.check(!node.writable(), tolerate)?;
        Ok(b)
    }

    /// Adds a bitmap to a node.
    pub async fn bitmap_add(
        &self,
        node_name: &str,
        name: &str,
        granularity: Option<u32>,
        persistent: bool,
        disabled: bool,
    ) -> Result<(), QError> {
        let _one = self.changing.lock().await;
        let graph = self.snapshot();
        if name.is_empty() {
            return Err(qerr!("Bitmap name cannot be empty"));
        }
        let node = node(&graph, node_name)?;
        let cx = Cx { graph: &graph, node };
        let granularity = granularity.unwrap_or_else(|| {
            let cluster = node.driver.as_ref().and_then(|d| d.info(&cx).cluster_size);
            cluster.unwrap_or(DEFAULT_GRANULARITY.1).clamp(DEFAULT_GRANULARITY.0, DEFAULT_GRANULARITY.1)
                as u32
        });
        let new = Bitmap::new(name, cx.len(), granularity, persistent, !disabled)?;
        if node.live.bitmaps.find(name).is_some() {
            return Err(qerr!("Bitmap already exists: {name}"));
        }
        if persistent {
            if !node.writable() {
                return Err(qerr!(
                    "Can't make bitmap '{name}' persistent in '{}': The node is read-only",
                    node.name
                ));
            }
            let driver = node.driver.as_ref().ok_or_else(|| qerr!("Node '{}' is not open", node.name))?;
            driver.can_store_bitmap(&cx, name, granularity)?;
        }
        node.live.bitmaps.add(Arc::new(new));
        Ok(())
    }

    /// Removes a bitmap, also from the image that keeps it.
    pub async fn bitmap_remove(&self, node_name: &str, name: &str) -> Result<(), QError> {
        let _one = self.changing.lock().await;
        let graph = self.snapshot();
        let node = node(&graph, node_name)?;
        let b = bitmap(node, name)?;
        b.check(!node.writable(), Tolerate { inconsistent: true, ..Tolerate::default() })?;
        if b.persistent()
            && let Some(d) = &node.driver
        {
            d.remove_bitmap(&Cx { graph: &graph, node }, name).await?;
        }
        node.live.bitmaps.remove(name);
        Ok(())
    }

    /// Makes the image ready for its stored bitmaps to differ from those in memory.
    async fn bitmap_changes(&self, graph: &Arc<Graph>, node: &Arc<Node>, b: &Bitmap) -> Result<(), QError> {
        if b.persistent()
            && node.writable()
            && let Some(d) = &node.driver
        {
            let cx = Cx { graph, node };
            d.bitmaps_change(&cx)
                .await
                .map_err(|e| qerr!("Could not mark bitmap '{}' as in use: {e}", b.name()))?;
        }
        Ok(())
    }

    /// Makes a bitmap clean; answers what was dirty, so that it can be put back.
    pub async fn bitmap_clear(&self, node_name: &str, name: &str) -> Result<super::bits::Bits, QError> {
        let b = self.bitmap(node_name, name, Tolerate::default())?;
        let graph = self.snapshot();
        self.bitmap_changes(&graph, node(&graph, node_name)?, &b).await?;
        Ok(b.clear())
    }

    /// Makes a bitmap record, or not; answers what it did before.
    pub async fn bitmap_enable(&self, node_name: &str, name: &str, on: bool) -> Result<bool, QError> {
        let tolerate = Tolerate { read_only: true, ..Tolerate::default() };
        let b = self.bitmap(node_name, name, tolerate)?;
        let graph = self.snapshot();
        self.bitmap_changes(&graph, node(&graph, node_name)?, &b).await?;
        let was = b.enabled();
        b.set_enabled(on);
        Ok(was)
    }

    /// Adds what is dirty in `sources` to `target`, all or nothing. Answers the bits as they were before.
    pub async fn bitmap_merge(
        &self,
        node_name: &str,
        target: &str,
        sources: &[BitmapSource],
    ) -> Result<super::bits::Bits, QError> {
        let to = self.bitmap(node_name, target, Tolerate::default())?;
        let graph = self.snapshot();
        let own = node(&graph, node_name)?;
        let tolerate = Tolerate { read_only: true, ..Tolerate::default() };
        let mut from = Vec::new();
        for s in sources {
            let n = match &s.node {
                Some(n) => node(&graph, n).map_err(|_| qerr!("Node '{n}' not found"))?,
                None => own,
            };
            let b = bitmap(n, &s.name)?;
            b.check(!n.writable(), tolerate)?;
            if b.size() != to.size() {
                return Err(qerr!(
                    "Bitmaps are of different sizes (destination size is {}, source size is {}) and can't be merged",
                    to.size(),
                    b.size()
                ));
            }
            from.push(b);
        }
        self.bitmap_changes(&graph, own, &to).await?;
        let before = to.bits();
        // A copy first: a source may be the target itself.
        for b in from {
            let bits = b.bits();
            to.put_back(&bits);
        }
        Ok(before)
    }

    /// The SHA-256 sum of a bitmap's bits, in hexadecimal: for tests.
    pub fn bitmap_sha256(&self, node_name: &str, name: &str) -> Result<String, QError> {
        use sha2::Digest;
        use std::fmt::Write;
        let graph = self.snapshot();
        let b = bitmap(node(&graph, node_name)?, name)?;
        let mut sum = sha2::Sha256::new();
        for w in b.bits().word_bytes() {
            sum.update(w);
        }
        let mut text = String::with_capacity(64);
        for byte in sum.finalize() {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02x}");
        }
        Ok(text)
    }
}
