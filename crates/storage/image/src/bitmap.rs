//! Dirty bitmaps of images that nobody uses.

use std::sync::Arc;

use block::bitmap::{Bitmap, BitmapSource, Tolerate};
use qapi::{QError, qerr};

use crate::open::Opened;

/// The bitmap that carries bits from one graph to another.
const TEMPORARY: &str = "rhea-tmp-merge";

/// All bitmaps that an image keeps, in the order in which it has them.
pub fn stored(image: &Opened) -> Vec<Arc<Bitmap>> {
    let mut list = image.graph.bitmaps_of(&image.node);
    list.retain(|b| b.persistent());
    list
}

/// Adds the bits of another image's bitmap to a bitmap of this one, all or nothing.
///
/// # Errors
/// There is no such bitmap; the two do not fit.
pub async fn merge_from(image: &Opened, name: &str, from: &Opened, source: &str) -> Result<(), QError> {
    let (graph, node) = (&image.graph, &image.node);
    let target = graph.bitmap(node, name, Tolerate { read_only: true, inconsistent: true })?;
    let all = stored(from);
    let bits = all.iter().find(|b| b.name() == source);
    let bits = bits.ok_or_else(|| qerr!("Dirty bitmap '{source}' not found"))?;
    bits.check(false, Tolerate { read_only: true, inconsistent: false })?;
    if target.size() != bits.size() {
        return Err(qerr!(
            "Bitmaps are of different sizes (destination size is {}, source size is {}) and can't be merged",
            target.size(),
            bits.size()
        ));
    }
    graph.bitmap_add(node, TEMPORARY, Some(bits.granularity()), false, true).await?;
    let done = async {
        let copy = graph.bitmap(node, TEMPORARY, Tolerate::default())?;
        let mut at = 0;
        while let Some((off, len)) = bits.next_dirty(at, bits.size()) {
            copy.set(off, len);
            at = off + len;
        }
        let here = BitmapSource { node: None, name: TEMPORARY.into() };
        graph.bitmap_merge(node, name, &[here]).await
    }
    .await;
    done.and(graph.bitmap_remove(node, TEMPORARY).await)
}

/// Copies all bitmaps that an image keeps to another of the same length. `skip`: broken ones are left out, and `tell` hears of
/// them.
///
/// # Errors
/// A broken bitmap; the target cannot keep them.
pub async fn copy_all(
    from: &Opened,
    to: &Opened,
    skip: bool,
    tell: &mut dyn FnMut(&str),
) -> Result<(), QError> {
    for b in stored(from) {
        let name = b.name().to_owned();
        if b.inconsistent() {
            if skip {
                tell(&name);
                continue;
            }
            return Err(qerr!("Cannot copy inconsistent bitmap '{name}'")
                .with_hint("Try --skip-broken-bitmaps, or use 'qemu-img bitmap --remove' to delete it"));
        }
        let failed = |e: QError| qerr!("Failed to create bitmap {name}: {}", e.desc());
        to.graph.bitmap_add(&to.node, &name, Some(b.granularity()), true, true).await.map_err(failed)?;
        let failed = |e: QError| qerr!("Failed to populate bitmap {name}: {}", e.desc());
        merge_from(to, &name, from, &name).await.map_err(failed)?;
        if b.enabled() {
            to.graph.bitmap_enable(&to.node, &name, true).await?;
        }
    }
    Ok(())
}
