//! What is known to be data: asking the file system again and again may be slow.

use parking_lot::Mutex;

/// The run of data that was found last. Only this program's zeroing, discarding and truncating make it a hole again; a
/// hole that another program makes is then called data, which is never wrong, only slower.
#[derive(Debug, Default)]
pub(crate) struct KnownData(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    start: u64,
    end: u64,
    /// Counts how often it was forgotten.
    times: u64,
}

impl KnownData {
    /// Where the data that begins at or before `off` ends; otherwise what to hand to [`KnownData::learn`].
    pub(crate) fn at(&self, off: u64) -> Result<u64, u64> {
        let k = self.0.lock();
        if (k.start..k.end).contains(&off) { Ok(k.end) } else { Err(k.times) }
    }

    /// There is data from `start` to `end`, as was asked after [`KnownData::at`] had answered `times`.
    pub(crate) fn learn(&self, times: u64, start: u64, end: u64) {
        let mut k = self.0.lock();
        if k.times == times {
            (k.start, k.end) = (start, end);
        }
    }

    /// Data becomes a hole: to be called before and after.
    pub(crate) fn forget(&self) {
        let mut k = self.0.lock();
        *k = Known { times: k.times + 1, ..Known::default() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_asked_before_a_change_is_not_believed_after_it() {
        let k = KnownData::default();
        let t = k.at(5).unwrap_err();
        k.learn(t, 5, 9);
        assert_eq!((k.at(5), k.at(8)), (Ok(9), Ok(9)));
        assert!(k.at(4).is_err() && k.at(9).is_err());
        let t = k.at(20).unwrap_err();
        k.forget();
        assert!(k.at(5).is_err());
        k.learn(t, 20, 30);
        assert!(k.at(20).is_err());
    }
}
