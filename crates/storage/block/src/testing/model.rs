//! The oracle: each image as a flat array of bytes, some of them unknown.
//!
//! A byte is unknown after a write to it failed or was given up. Whether a cluster is allocated matters too: what is
//! not allocated changes when the backing file is exchanged.

/// A byte that may have any value.
pub(super) const ANY: u16 = 256;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Alloc {
    No,
    Yes,
    /// A failed or unmapping operation left it open.
    Maybe,
}

/// What an image stands on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Below {
    Nothing,
    /// Plain bytes.
    Flat(usize),
    /// Another image.
    Image(usize),
}

/// One copy-on-write image.
#[derive(Debug)]
pub(super) struct Image {
    pub(super) below: Below,
    cluster: u64,
    own: Vec<u16>,
    alloc: Vec<Alloc>,
}

/// All images of a simulation.
#[derive(Debug, Default)]
pub(super) struct Model {
    pub(super) flats: Vec<Vec<u8>>,
    pub(super) images: Vec<Image>,
    /// What each image may stand on instead while a reopen is under way.
    pub(super) pending: Option<Vec<Below>>,
}

impl Image {
    pub(super) fn new(size: u64, cluster: u64, below: Below) -> Image {
        let alloc = vec![Alloc::No; size.div_ceil(cluster) as usize];
        Image { below, cluster, own: vec![0; size as usize], alloc }
    }

    fn clusters(&self, off: u64, len: u64) -> (u64, u64) {
        let lo = off - off % self.cluster;
        (lo, ((off + len).div_ceil(self.cluster) * self.cluster).min(self.own.len() as u64))
    }
}

impl Model {
    /// The byte that a reader of image `i` sees.
    pub(super) fn byte(&self, i: usize, off: u64) -> u16 {
        let image = &self.images[i];
        let Some(own) = image.own.get(off as usize).copied() else { return 0 };
        let alloc = image.alloc[(off / image.cluster) as usize];
        if alloc == Alloc::Yes {
            return own;
        }
        let below = match image.below {
            Below::Nothing => 0,
            Below::Flat(f) => self.flats[f].get(off as usize).map_or(0, |b| u16::from(*b)),
            Below::Image(j) => self.byte(j, off),
        };
        if alloc == Alloc::No || own == below { below } else { ANY }
    }

    pub(super) fn bytes(&self, i: usize, off: u64, len: u64) -> Vec<u16> {
        (off..off + len).map(|o| self.byte(i, o)).collect()
    }

    /// All that a read of image `i` may see now.
    pub(super) fn allowed(&mut self, i: usize, off: u64, len: u64) -> Vec<Vec<u16>> {
        let mut all = vec![self.bytes(i, off, len)];
        if self.pending.is_some() {
            self.exchange();
            all.push(self.bytes(i, off, len));
            self.exchange();
        }
        all
    }

    /// Swaps what the images stand on with what is pending.
    fn exchange(&mut self) {
        for (image, below) in self.images.iter_mut().zip(self.pending.iter_mut().flatten()) {
            std::mem::swap(&mut image.below, below);
        }
    }

    /// A reopen is over; if it succeeded, what was pending is so now.
    pub(super) fn settle(&mut self, success: bool) {
        if success {
            self.exchange();
        }
        self.pending = None;
    }

    /// What is visible in the clusters that a write touches: to be taken before the write.
    pub(super) fn around(&self, i: usize, off: u64, len: u64) -> Vec<u16> {
        let (lo, hi) = self.images[i].clusters(off, len);
        self.bytes(i, lo, hi - lo)
    }

    /// The bytes around a write that may have copied them up before or after the backing file was exchanged.
    fn copy_up(&mut self, i: usize, off: u64, len: u64, before: &[u16], to: Alloc) {
        let (lo, hi) = self.images[i].clusters(off, len);
        let now = self.allowed(i, lo, hi - lo);
        let image = &mut self.images[i];
        for (k, o) in (lo..hi).enumerate() {
            if image.alloc[(o / image.cluster) as usize] != Alloc::Yes {
                let same = now.iter().all(|n| n[k] == before[k]);
                image.own[o as usize] = if same { before[k] } else { ANY };
            }
        }
        for c in lo / image.cluster..hi.div_ceil(image.cluster) {
            let a = &mut image.alloc[c as usize];
            if *a != Alloc::Yes {
                *a = to;
            }
        }
    }

    /// A write has succeeded.
    pub(super) fn wrote(&mut self, i: usize, off: u64, data: &[u8], before: &[u16]) {
        self.copy_up(i, off, data.len() as u64, before, Alloc::Yes);
        for (k, b) in data.iter().enumerate() {
            self.images[i].own[off as usize + k] = u16::from(*b);
        }
    }

    /// A request for zeroes has succeeded.
    pub(super) fn zeroed(&mut self, i: usize, off: u64, len: u64, before: &[u16], unmap: bool) {
        let bare = self.images[i].below == Below::Nothing;
        // Where nothing is below, a format may leave zeroes unallocated or make them so.
        self.copy_up(i, off, len, before, if bare { Alloc::Maybe } else { Alloc::Yes });
        let image = &mut self.images[i];
        if bare && unmap {
            let (lo, hi) = image.clusters(off, len);
            for c in lo / image.cluster..hi.div_ceil(image.cluster) {
                image.alloc[c as usize] = Alloc::Maybe;
            }
        }
        image.own[off as usize..(off + len) as usize].fill(0);
    }

    /// A write, successful or not, left its range with any content; so does a discard.
    pub(super) fn spoiled(&mut self, i: usize, off: u64, len: u64, before: &[u16], discard: bool) {
        self.copy_up(i, off, len, before, Alloc::Maybe);
        let image = &mut self.images[i];
        image.own[off as usize..(off + len) as usize].fill(ANY);
        if discard {
            let (lo, hi) = image.clusters(off, len);
            for c in lo / image.cluster..hi.div_ceil(image.cluster) {
                image.alloc[c as usize] = Alloc::Maybe;
            }
        }
    }
}

/// Whether read bytes are among those that each of `allowed` lets be.
pub(super) fn agrees(read: &[u8], allowed: &[Vec<u16>]) -> Result<(), usize> {
    let fits = |k: usize, b: u8| allowed.iter().any(|a| a[k] == ANY || a[k] == u16::from(b));
    match read.iter().enumerate().find(|(k, b)| !fits(*k, **b)) {
        Some((k, _)) => Err(k),
        None => Ok(()),
    }
}
