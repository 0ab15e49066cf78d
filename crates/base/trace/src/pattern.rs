//! Patterns that select trace points.

/// An ordered list of patterns; of those that match a name, the last one decides.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Patterns(Vec<(bool, String)>);

impl Patterns {
    /// No pattern: nothing is selected.
    pub const fn new() -> Patterns {
        Patterns(Vec::new())
    }

    /// Adds a pattern: `*` and `?` are wild cards, a leading `-` leaves out what matches.
    pub fn push(&mut self, pattern: &str) {
        match pattern.strip_prefix('-') {
            Some(p) => self.0.push((false, p.to_owned())),
            None => self.0.push((true, pattern.to_owned())),
        }
    }

    /// Whether no pattern was given.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `name` is selected.
    pub fn selects(&self, name: &str) -> bool {
        self.decide(name).unwrap_or(false)
    }

    pub(crate) fn decide(&self, name: &str) -> Option<bool> {
        self.0.iter().rev().find(|(_, p)| matches(p.as_bytes(), name.as_bytes())).map(|(on, _)| *on)
    }
}

impl<S: AsRef<str>> FromIterator<S> for Patterns {
    fn from_iter<I: IntoIterator<Item = S>>(it: I) -> Patterns {
        let mut p = Patterns::default();
        for s in it {
            p.push(s.as_ref());
        }
        p
    }
}

/// Reads a file of patterns (`-trace events=FILE`): one a line, `#` starts a comment.
pub fn parse_events_file(text: &str) -> Vec<String> {
    text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')).map(str::to_owned).collect()
}

/// Linear in `pattern` times `name`: a failed match returns to the last `*` only.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(c) if *c == b'?' || *c == name[n] => {
                p += 1;
                n += 1;
            }
            _ => match star {
                Some((sp, sn)) => {
                    p = sp + 1;
                    n = sn + 1;
                    star = Some((sp, n));
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wild_cards() {
        for (p, n, want) in [
            ("*", "", true),
            ("*", "abc", true),
            ("a*c", "abbbc", true),
            ("a*c", "abbbd", false),
            ("*a*b*", "xxaxxbxx", true),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("abc", "abc", true),
            ("abc", "abcd", false),
            ("", "", true),
            ("", "x", false),
            ("virtio_*", "virtio_queue_notify", true),
        ] {
            assert_eq!(matches(p.as_bytes(), n.as_bytes()), want, "{p} {n}");
        }
        // No exponential case.
        assert!(!matches("*a".repeat(50).as_bytes(), "a".repeat(49).as_bytes()));
    }

    #[test]
    fn the_last_match_decides() {
        let p: Patterns = ["virtio_*", "-virtio_blk_*", "virtio_blk_read"].into_iter().collect();
        assert!(p.selects("virtio_queue"));
        assert!(!p.selects("virtio_blk_write"));
        assert!(p.selects("virtio_blk_read"));
        assert!(!p.selects("other"));
    }

    #[test]
    fn files() {
        assert_eq!(parse_events_file("# x\n\n a*\n-ab\n"), ["a*", "-ab"]);
    }
}
