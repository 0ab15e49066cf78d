//! Changes of bitmaps as part of a transaction: prepared one after another, made real together or not at all.

use super::bits::Bits;
use super::{Bitmap, BitmapSource, Busy, Tolerate};
use crate::driver::Cx;
use crate::graph::{Graph, Node, NodeId};
use crate::track::Live;
use qapi::{QError, qerr};
use std::collections::BTreeSet;
use std::sync::Arc;

/// The granularity unless given: the format's cluster size within these bounds.
const DEFAULT_GRANULARITY: (u64, u64) = (4096, 65536);

/// Prepared changes. Dropping them leaves every bitmap as it is.
#[derive(Default)]
pub(crate) struct BitmapPlan {
    entries: Vec<Entry>,
}

/// What is to become of one bitmap.
struct Entry {
    node: NodeId,
    live: Arc<Live>,
    bitmap: Arc<Bitmap>,
    /// It is to be added.
    fresh: bool,
    /// It is to be removed.
    removed: bool,
    /// It is to be made clean, before what follows is added.
    cleared: bool,
    merged: Vec<Bits>,
    enabled: Option<bool>,
}

impl Entry {
    /// The bits that it will have, as far as nobody writes.
    fn bits(&self) -> Bits {
        let mut bits = self.bitmap.bits();
        if self.cleared {
            bits = bits.clean_copy();
        }
        for m in &self.merged {
            bits.merge(m);
        }
        bits
    }
}

/// A new bitmap, as a user asks for it.
#[derive(Clone, Debug)]
pub struct NewBitmap {
    /// Its name.
    pub name: String,
    /// Bytes that one bit stands for; the cluster size within bounds where it is not given.
    pub granularity: Option<u32>,
    /// Kept in the image.
    pub persistent: bool,
    /// Not recording yet.
    pub disabled: bool,
}

/// The node of a drive or node name, whose bitmaps are meant.
pub(crate) fn node<'g>(graph: &'g Graph, name: &str) -> Result<&'g Arc<Node>, QError> {
    graph.drive_or_node(name).ok_or_else(|| qerr!("Node '{name}' not found"))
}

impl BitmapPlan {
    fn at(&self, node: NodeId, name: &str) -> Option<usize> {
        self.entries.iter().position(|e| e.node == node && e.bitmap.name() == name)
    }

    /// The bitmap of this name as it will be.
    pub(crate) fn find(&self, node: &Node, name: &str) -> Result<Arc<Bitmap>, QError> {
        match self.at(node.id, name).map(|i| &self.entries[i]) {
            Some(e) if e.removed => {
                Err(qerr!("Bitmap '{name}' is currently in use by another operation and cannot be used"))
            }
            Some(e) => Ok(e.bitmap.clone()),
            None => node.live.bitmaps.find(name).ok_or_else(|| qerr!("Dirty bitmap '{name}' not found")),
        }
    }

    /// The entry of a bitmap that an operation may use.
    fn entry(&mut self, node: &Arc<Node>, name: &str, tolerate: Tolerate) -> Result<&mut Entry, QError> {
        let bitmap = self.find(node, name)?;
        bitmap.check(!node.writable(), tolerate)?;
        let i = self.at(node.id, name).unwrap_or_else(|| {
            self.entries.push(Entry {
                node: node.id,
                live: node.live.clone(),
                bitmap,
                fresh: false,
                removed: false,
                cleared: false,
                merged: Vec::new(),
                enabled: None,
            });
            self.entries.len() - 1
        });
        Ok(&mut self.entries[i])
    }

    /// Makes the image ready for its stored bitmaps to differ from those in memory.
    async fn will_change(cx: &Cx<'_>, b: &Bitmap) -> Result<(), QError> {
        if b.persistent()
            && cx.node.writable()
            && let Some(d) = &cx.node.driver
        {
            let marked = d.bitmaps_change(cx).await;
            marked.map_err(|e| qerr!("Could not mark bitmap '{}' as in use: {e}", b.name()))?;
        }
        Ok(())
    }

    /// A job takes a bitmap for itself, and may change it (`changes`) when it ends: the bitmap, its bits, and whether it
    /// records, all as they will be.
    pub(crate) async fn take(
        &mut self,
        cx: &Cx<'_>,
        name: &str,
        changes: bool,
    ) -> Result<(Busy, Bits, bool), QError> {
        let tolerate = Tolerate { read_only: !changes, ..Tolerate::default() };
        let entry = self.entry(cx.node, name, tolerate)?;
        let (bitmap, bits) = (entry.bitmap.clone(), entry.bits());
        let records = entry.enabled.unwrap_or_else(|| bitmap.enabled());
        if changes {
            Self::will_change(cx, &bitmap).await?;
        }
        let busy = bitmap.occupy().ok_or_else(|| {
            qerr!("Bitmap '{name}' is currently in use by another operation and cannot be used")
        })?;
        Ok((busy, bits, records))
    }

    /// A bitmap is to be added.
    pub(crate) fn add(&mut self, cx: &Cx<'_>, new: &NewBitmap) -> Result<(), QError> {
        let NewBitmap { name, granularity, persistent, disabled } = new;
        if name.is_empty() {
            return Err(qerr!("Bitmap name cannot be empty"));
        }
        let driver = cx.node.driver.as_ref();
        let granularity = granularity.unwrap_or_else(|| {
            let cluster = driver.and_then(|d| d.info(cx).cluster_size).unwrap_or(DEFAULT_GRANULARITY.1);
            cluster.clamp(DEFAULT_GRANULARITY.0, DEFAULT_GRANULARITY.1) as u32
        });
        let bitmap = Bitmap::new(name, cx.len(), granularity, *persistent, !disabled)?;
        // One that this transaction removes is there until its end.
        if self.at(cx.node.id, name).is_some() || cx.node.live.bitmaps.find(name).is_some() {
            return Err(qerr!("Bitmap already exists: {name}"));
        }
        if *persistent {
            let node = &cx.node.name;
            if !cx.node.writable() {
                return Err(qerr!(
                    "Can't make bitmap '{name}' persistent in '{node}': The node is read-only"
                ));
            }
            let driver = driver.ok_or_else(|| qerr!("Node '{node}' is not open"))?;
            driver.can_store_bitmap(cx, name, granularity)?;
        }
        self.entries.push(Entry {
            node: cx.node.id,
            live: cx.node.live.clone(),
            bitmap: Arc::new(bitmap),
            fresh: true,
            removed: false,
            cleared: false,
            merged: Vec::new(),
            enabled: None,
        });
        Ok(())
    }

    /// A bitmap is to be removed.
    pub(crate) async fn remove(&mut self, cx: &Cx<'_>, name: &str) -> Result<(), QError> {
        let entry = self.entry(cx.node, name, Tolerate { inconsistent: true, ..Tolerate::default() })?;
        if !entry.fresh && !entry.bitmap.inconsistent() {
            Self::will_change(cx, &entry.bitmap).await?;
        }
        entry.removed = true;
        Ok(())
    }

    /// A bitmap is to be made clean.
    pub(crate) async fn clear(&mut self, cx: &Cx<'_>, name: &str) -> Result<(), QError> {
        let entry = self.entry(cx.node, name, Tolerate::default())?;
        if !entry.fresh {
            Self::will_change(cx, &entry.bitmap).await?;
        }
        entry.cleared = true;
        entry.merged.clear();
        Ok(())
    }

    /// A bitmap is to record, or not.
    pub(crate) async fn enable(&mut self, cx: &Cx<'_>, name: &str, on: bool) -> Result<(), QError> {
        let entry = self.entry(cx.node, name, Tolerate { read_only: true, ..Tolerate::default() })?;
        if !entry.fresh {
            Self::will_change(cx, &entry.bitmap).await?;
        }
        entry.enabled = Some(on);
        Ok(())
    }

    /// What is dirty in `sources` is to be added to `target`.
    pub(crate) async fn merge(
        &mut self,
        cx: &Cx<'_>,
        target: &str,
        sources: &[BitmapSource],
    ) -> Result<(), QError> {
        let to = self.entry(cx.node, target, Tolerate::default())?.bitmap.clone();
        let tolerate = Tolerate { read_only: true, ..Tolerate::default() };
        let mut from = Vec::new();
        for s in sources {
            let n = match &s.node {
                Some(n) => node(cx.graph, n)?,
                None => cx.node,
            };
            let b = self.find(n, &s.name)?;
            b.check(!n.writable(), tolerate)?;
            if b.size() != to.size() {
                return Err(qerr!(
                    "Bitmaps are of different sizes (destination size is {}, source size is {}) and can't be merged",
                    to.size(),
                    b.size()
                ));
            }
            from.push(self.at(n.id, &s.name).map_or_else(|| b.bits(), |i| self.entries[i].bits()));
        }
        let entry = self.entry(cx.node, target, Tolerate::default())?;
        if !entry.fresh {
            Self::will_change(cx, &to).await?;
        }
        entry.merged.extend(from);
        Ok(())
    }

    /// Whether a bitmap is to be added that an image keeps.
    pub(crate) fn adds_persistent(&self) -> bool {
        self.entries.iter().any(|e| e.fresh && !e.removed && e.bitmap.persistent())
    }

    /// Makes it all real in memory.
    pub(crate) fn commit(self) -> Done {
        let mut gone = Vec::new();
        let mut changed = BTreeSet::new();
        for e in self.entries {
            if !e.removed && e.bitmap.persistent() {
                changed.insert(e.node);
            }
            if e.removed {
                if !e.fresh {
                    e.live.bitmaps.remove(e.bitmap.name());
                    if e.bitmap.persistent() {
                        gone.push((e.node, e.bitmap.name().to_owned()));
                    }
                }
                continue;
            }
            if e.cleared {
                e.bitmap.clear();
            }
            for m in &e.merged {
                e.bitmap.put_back(m);
            }
            if let Some(on) = e.enabled {
                e.bitmap.set_enabled(on);
            }
            if e.fresh {
                e.live.bitmaps.add(e.bitmap);
            }
        }
        Done { gone, changed }
    }
}

/// What images have to be told after a change of bitmaps.
#[derive(Default)]
pub(crate) struct Done {
    /// Stored bitmaps that are to go.
    pub(crate) gone: Vec<(NodeId, String)>,
    /// Nodes whose persistent bitmaps have changed.
    changed: BTreeSet<NodeId>,
}

impl Done {
    /// Has the images keep the bitmaps as they are now. No request that began before bitmaps were added is in flight.
    pub(crate) async fn keep(&self, graph: &Arc<Graph>) {
        for node in self.changed.iter().filter_map(|id| graph.node(*id)).filter(|n| n.writable()) {
            let Some(driver) = &node.driver else { continue };
            if let Err(e) = driver.bitmaps_changed(&Cx { graph, node }).await {
                tracing::warn!(node = %node.name, "persistent bitmaps are not kept in the image: {e}");
            }
        }
    }
}
