//! The oracle: a disk as a flat array of bytes, as it is now, and as it may be after a crash.

use std::cell::RefCell;
use std::rc::Rc;

/// A byte that may have any value.
pub const ANY: u16 = 256;
/// A byte that a change no longer stands for.
const NOTHING: u16 = 257;

/// A disk's bytes at one moment; [`ANY`] where a request was in the air.
pub type Past = Rc<RefCell<Vec<u16>>>;

/// A change that is not known to be stable.
#[derive(Clone, Debug)]
struct Change {
    id: u64,
    off: u64,
    bytes: Vec<u16>,
    done: bool,
}

/// A disk.
#[derive(Debug, Default)]
pub struct Model {
    now: Vec<u16>,
    stable: Vec<u16>,
    since: Vec<Change>,
    watches: Vec<Past>,
    next: u64,
}

/// What a disk may hold after a crash.
#[derive(Debug)]
pub struct Allowed {
    stable: Vec<u16>,
    since: Vec<Change>,
}

impl Model {
    /// A disk that holds these bytes, and would after a crash.
    pub fn new(bytes: &[u8]) -> Model {
        let now: Vec<u16> = bytes.iter().map(|b| u16::from(*b)).collect();
        Model { stable: now.clone(), now, ..Model::default() }
    }

    /// The bytes of a range as a reader sees them.
    pub fn bytes(&self, off: u64, len: u64) -> &[u16] {
        &self.now[off as usize..(off + len) as usize]
    }

    /// All bytes.
    pub fn all(&self) -> &[u16] {
        &self.now
    }

    /// A change begins. Nobody else may change or read its range until [`Model::end`].
    pub fn begin(&mut self, off: u64, bytes: Vec<u16>) -> u64 {
        self.next += 1;
        for w in &self.watches {
            w.borrow_mut()[off as usize..off as usize + bytes.len()].fill(ANY);
        }
        self.since.push(Change { id: self.next, off, bytes, done: false });
        self.next
    }

    /// A change is over. One that failed leaves any bytes; `stable`: a crash cannot take it away.
    pub fn end(&mut self, id: u64, ok: bool, stable: bool) {
        let Some(at) = self.since.iter().position(|c| c.id == id) else { return };
        // In the order of their ends.
        let mut c = self.since.remove(at);
        if !ok {
            c.bytes.fill(ANY);
        }
        c.done = true;
        self.now[c.off as usize..c.off as usize + c.bytes.len()].copy_from_slice(&c.bytes);
        if ok && stable {
            self.settle(c);
        } else {
            self.since.push(c);
        }
    }

    fn settle(&mut self, c: Change) {
        let (lo, hi) = (c.off, c.off + c.bytes.len() as u64);
        for (k, b) in c.bytes.iter().enumerate().filter(|(_, b)| **b != NOTHING) {
            self.stable[lo as usize + k] = *b;
        }
        // What was there before cannot come back.
        for e in self.since.iter_mut().filter(|e| e.done) {
            let (a, z) = (e.off.max(lo), (e.off + e.bytes.len() as u64).min(hi));
            if a < z && e.id < c.id {
                e.bytes[(a - e.off) as usize..(z - e.off) as usize].fill(NOTHING);
            }
        }
    }

    /// A flush begins: what it will make stable.
    pub fn flush_begin(&self) -> Vec<u64> {
        self.since.iter().filter(|c| c.done).map(|c| c.id).collect()
    }

    /// It has succeeded.
    pub fn flush_end(&mut self, ids: &[u64]) {
        let (settled, rest) = std::mem::take(&mut self.since).into_iter().partition(|c| ids.contains(&c.id));
        self.since = rest;
        let settled: Vec<Change> = settled;
        for c in settled {
            self.settle(c);
        }
    }

    /// Begins to take a copy: what changes from now until [`Model::unwatch`] is [`ANY`] in it.
    pub fn watch(&mut self) -> Past {
        let mut copy = self.now.clone();
        for c in self.since.iter().filter(|c| !c.done) {
            copy[c.off as usize..c.off as usize + c.bytes.len()].fill(ANY);
        }
        let past = Rc::new(RefCell::new(copy));
        self.watches.push(past.clone());
        past
    }

    /// The copy is taken.
    pub fn unwatch(&mut self, past: &Past) {
        self.watches.retain(|w| !Rc::ptr_eq(w, past));
    }

    /// What may be there after a crash at this moment.
    pub fn allowed(&self) -> Allowed {
        Allowed { stable: self.stable.clone(), since: self.since.clone() }
    }
}

impl Allowed {
    /// Whether these bytes may be what a crash left; the first place that is wrong otherwise.
    pub fn check(&self, read: &[u8]) -> Result<(), String> {
        for (k, b) in read.iter().enumerate() {
            let b = u16::from(*b);
            let fits = |v: u16| v == b || v == ANY;
            let changed = |c: &Change| {
                (k as u64).checked_sub(c.off).and_then(|i| c.bytes.get(i as usize)).is_some_and(|v| fits(*v))
            };
            if !self.stable.get(k).is_none_or(|v| fits(*v)) && !self.since.iter().any(changed) {
                return Err(format!("byte {k} is {b}, flushed was {:?}", self.stable.get(k)));
            }
        }
        Ok(())
    }
}

/// Whether bytes agree with a copy; the first place where they do not.
pub fn agrees(read: &[u8], want: &[u16]) -> Result<(), String> {
    match read.iter().zip(want).enumerate().find(|(_, (b, w))| **w != ANY && u16::from(**b) != **w) {
        Some((k, (b, w))) => Err(format!("byte {k} is {b}, not {w}")),
        None => Ok(()),
    }
}

/// What differs for certain between bytes and a copy.
pub fn differences<'a>(read: &'a [u8], old: &'a [u16]) -> impl Iterator<Item = u64> + 'a {
    let differs = |(b, o): (&u8, &u16)| *o != ANY && u16::from(*b) != *o;
    read.iter().zip(old).enumerate().filter(move |(_, p)| differs(*p)).map(|(k, _)| k as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crash_keeps_what_was_flushed() {
        let mut m = Model::new(&[0; 8]);
        let a = m.begin(0, vec![1; 4]);
        m.end(a, true, false);
        let f = m.flush_begin();
        let b = m.begin(2, vec![2; 4]);
        m.flush_end(&f);
        let now = m.allowed();
        for good in [[1, 1, 1, 1, 0, 0, 0, 0], [1, 1, 2, 1, 0, 2, 0, 0]] {
            now.check(&good).unwrap();
        }
        assert!(now.check(&[0, 1, 1, 1, 0, 0, 0, 0]).is_err());
        m.end(b, true, true);
        assert!(m.allowed().check(&[1, 1, 1, 2, 2, 2, 0, 0]).is_err());
        m.allowed().check(&[1, 1, 2, 2, 2, 2, 0, 0]).unwrap();
    }

    #[test]
    fn a_stable_change_hides_what_was_there() {
        let mut m = Model::new(&[0; 4]);
        let a = m.begin(0, vec![1; 4]);
        m.end(a, true, false);
        let b = m.begin(1, vec![2; 2]);
        m.end(b, true, true);
        assert!(m.allowed().check(&[1, 1, 2, 1]).is_err());
        m.allowed().check(&[0, 2, 2, 1]).unwrap();
    }

    #[test]
    fn copies_know_what_was_in_the_air() {
        let mut m = Model::new(&[0; 4]);
        let a = m.begin(0, vec![1]);
        let past = m.watch();
        let b = m.begin(1, vec![1]);
        m.unwatch(&past);
        m.begin(2, vec![1]);
        m.end(a, true, false);
        m.end(b, false, false);
        assert_eq!(*past.borrow(), [ANY, ANY, 0, 0]);
        assert_eq!(m.bytes(0, 3), [1, ANY, 0]);
        assert_eq!(differences(&[7, 7, 7, 0], &past.borrow()).collect::<Vec<_>>(), [2]);
    }
}
