//! Operations on bitmaps, as the monitor asks for them one by one.

use super::plan::{BitmapPlan, NewBitmap, node};
use super::{Bitmap, Tolerate};
use crate::control::BlockGraph;
use crate::driver::Cx;
use crate::txn::Txn;
use qapi::{QError, qerr};
use std::sync::Arc;

/// Where bits to merge come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BitmapSource {
    /// The node; the target's own where it is not given.
    pub node: Option<String>,
    /// The bitmap's name.
    pub name: String,
}

impl Cx<'_> {
    /// The bitmap of any node in this snapshot of the graph, for an operation that only reads it.
    pub fn bitmap_of(&self, node_name: &str, name: &str) -> Result<Arc<Bitmap>, QError> {
        let b = node(self.graph, node_name)?.live.bitmaps.find(name);
        let b = b.ok_or_else(|| qerr!("Dirty bitmap '{name}' not found"))?;
        b.check(false, Tolerate { read_only: true, inconsistent: false })?;
        Ok(b)
    }
}

impl BlockGraph {
    /// The bitmap of a node, for an operation that tolerates what it says.
    pub fn bitmap(&self, node_name: &str, name: &str, tolerate: Tolerate) -> Result<Arc<Bitmap>, QError> {
        let graph = self.snapshot();
        let node = node(&graph, node_name)?;
        let b = BitmapPlan::default().find(node, name)?;
        b.check(!node.writable(), tolerate)?;
        Ok(b)
    }

    /// All bitmaps of a node, the youngest first.
    pub fn bitmaps_of(&self, node_name: &str) -> Vec<Arc<Bitmap>> {
        let graph = self.snapshot();
        graph.by_name(node_name).map(|n| n.live.bitmaps.all()).unwrap_or_default()
    }

    /// Whether the node's format can keep bitmaps in its images.
    pub fn keeps_bitmaps(&self, node_name: &str) -> bool {
        let graph = self.snapshot();
        let Some(node) = graph.by_name(node_name) else { return false };
        node.driver.as_ref().is_some_and(|d| d.keeps_bitmaps())
    }

    /// Prepares one change of a node's bitmaps, and makes it real; to the end, whoever waits for it.
    async fn one<F>(&self, node_name: &str, persistent: bool, f: F) -> Result<(), QError>
    where
        F: AsyncFnOnce(&mut BitmapPlan, &Cx<'_>) -> Result<(), QError> + 'static,
    {
        let node_name = node_name.to_owned();
        self.run(|me| async move { me.do_one(&node_name, persistent, f).await }).await
    }

    async fn do_one(
        &self,
        node_name: &str,
        persistent: bool,
        f: impl AsyncFnOnce(&mut BitmapPlan, &Cx<'_>) -> Result<(), QError>,
    ) -> Result<(), QError> {
        let now = self.snapshot();
        let about = node(&now, node_name)?;
        if persistent || about.live.bitmaps.any_persistent() {
            // The image may be written to.
            self.sound(&[about.id]).await;
        }
        let _one = self.changing.lock().await;
        let graph = self.snapshot();
        let node = node(&graph, node_name)?;
        let mut plan = BitmapPlan::default();
        f(&mut plan, &Cx { graph: &graph, node }).await?;
        let mut rest = Txn::new(self);
        if plan.adds_persistent() {
            // Requests in flight began before anybody kept in the image what they write.
            rest.drain(&[node.id]).await;
        }
        plan.commit().keep(&graph).await;
        Ok(())
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
        if self.snapshot().drive_or_node(node_name).is_none() {
            return Err(qerr!("Cannot find device='{node_name}' nor node-name='{node_name}'"));
        }
        let new = NewBitmap { name: name.to_owned(), granularity, persistent, disabled };
        self.one(node_name, persistent, async move |plan, cx| plan.add(cx, &new)).await
    }

    /// Removes a bitmap, also from the image that keeps it.
    pub async fn bitmap_remove(&self, node_name: &str, name: &str) -> Result<(), QError> {
        let name = name.to_owned();
        self.one(node_name, false, async move |plan, cx| {
            let b = plan.find(cx.node, &name)?;
            b.check(!cx.node.writable(), Tolerate { inconsistent: true, ..Tolerate::default() })?;
            if b.persistent()
                && let Some(d) = &cx.node.driver
            {
                d.remove_bitmap(cx, &name).await?;
            }
            plan.remove(cx, &name).await
        })
        .await
    }

    /// Makes a bitmap clean.
    pub async fn bitmap_clear(&self, node_name: &str, name: &str) -> Result<(), QError> {
        let name = name.to_owned();
        self.one(node_name, false, async move |plan, cx| plan.clear(cx, &name).await).await
    }

    /// Makes a bitmap record, or not.
    pub async fn bitmap_enable(&self, node_name: &str, name: &str, on: bool) -> Result<(), QError> {
        let name = name.to_owned();
        self.one(node_name, false, async move |plan, cx| plan.enable(cx, &name, on).await).await
    }

    /// Adds what is dirty in `sources` to `target`, all or nothing.
    pub async fn bitmap_merge(
        &self,
        node_name: &str,
        target: &str,
        sources: &[BitmapSource],
    ) -> Result<(), QError> {
        let (target, sources) = (target.to_owned(), sources.to_vec());
        self.one(node_name, false, async move |plan, cx| plan.merge(cx, &target, &sources).await).await
    }

    /// The SHA-256 sum of a bitmap's bits, in hexadecimal: for tests.
    pub fn bitmap_sha256(&self, node_name: &str, name: &str) -> Result<String, QError> {
        use sha2::Digest;
        use std::fmt::Write;
        let graph = self.snapshot();
        let b = BitmapPlan::default().find(node(&graph, node_name)?, name)?;
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
