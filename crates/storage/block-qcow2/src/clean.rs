//! Cache entries that nobody uses any more are given up after a while (`cache-clean-interval`).

use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;

use crate::image::Image;

/// The task that looks after an image's caches; it ends with the image.
#[derive(Default)]
pub(crate) struct Cleaner(Mutex<Option<rt::JoinHandle<()>>>);

impl Cleaner {
    fn set(&self, task: Option<rt::JoinHandle<()>>) {
        if let Some(old) = std::mem::replace(&mut *self.0.lock(), task) {
            old.abort();
        }
    }
}

impl Drop for Cleaner {
    fn drop(&mut self) {
        self.set(None);
    }
}

/// Has an image's caches looked after as its options say. On the control thread.
pub(crate) fn begin(image: &Arc<Image>) {
    let seconds = image.config.read().cache_clean_interval;
    begin_every(image, seconds);
}

/// The same with this interval, in seconds; 0 for never.
pub(crate) fn begin_every(image: &Arc<Image>, seconds: u32) {
    let of = Arc::downgrade(image);
    let task = (seconds > 0).then(|| rt::spawn_local(every(of, Duration::from_secs(seconds.into()))));
    image.cleaner.set(task);
}

async fn every(of: Weak<Image>, interval: Duration) {
    loop {
        rt::sleep(interval).await;
        let Some(image) = of.upgrade() else { return };
        image.drop_unused().await;
    }
}

impl Image {
    /// Gives up what is clean in the caches and was not used since this was done last. Any thread.
    pub(crate) async fn drop_unused(&self) {
        self.map.write().drop_unused();
        let mut m = self.meta.lock().await;
        m.blocks.retain(|_, b| std::mem::replace(&mut b.used, false) || b.dirty);
        m.blocks.shrink_to_fit();
        let m = &mut *m;
        m.clock.retain(|off| m.blocks.contains_key(off));
    }
}
