//! A ring buffer of the last bytes written.

use std::collections::VecDeque;

pub(crate) struct Ring {
    bytes: VecDeque<u8>,
    size: usize,
}

impl Ring {
    pub(crate) fn new(size: usize) -> Ring {
        Ring { bytes: VecDeque::new(), size }
    }

    pub(crate) fn put(&mut self, bytes: &[u8]) {
        let bytes = &bytes[bytes.len().saturating_sub(self.size)..];
        let over = (self.bytes.len() + bytes.len()).saturating_sub(self.size);
        self.bytes.drain(..over);
        self.bytes.extend(bytes);
    }

    pub(crate) fn take(&mut self, max: usize) -> Vec<u8> {
        let n = max.min(self.bytes.len());
        self.bytes.drain(..n).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_last_bytes() {
        let mut r = Ring::new(8);
        r.put(b"abc");
        r.put(b"defghij");
        assert_eq!(r.take(3), b"cde");
        r.put(b"0123456789abcdef");
        assert_eq!(r.take(100), b"89abcdef");
        assert!(r.take(1).is_empty());
    }
}
