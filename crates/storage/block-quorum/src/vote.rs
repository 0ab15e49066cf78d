//! The votes, without I/O.

use base::{Errno, IoResult};
use mem::IoBuf;

/// What many requests for the same came to, where `threshold` of them must succeed: the error that most of them ended
/// with otherwise; of equally frequent ones the last.
pub(crate) fn outcome(results: &[IoResult<()>], threshold: usize) -> IoResult<()> {
    if results.iter().filter(|r| r.is_ok()).count() >= threshold {
        return Ok(());
    }
    let errors: Vec<Errno> = results.iter().filter_map(|r| r.err()).collect();
    Err(winner(&errors, |a, b| a == b).map_or(Errno::IO, |(i, _)| errors[i]))
}

/// What most say, and how many do: the number of the first that says so. Of equally frequent ones that which was said
/// first by the later one. `None` if nobody says anything.
pub(crate) fn winner<T>(said: &[T], same: impl Fn(&T, &T) -> bool) -> Option<(usize, usize)> {
    let mut versions: Vec<(usize, usize)> = Vec::new();
    for (i, s) in said.iter().enumerate() {
        match versions.iter_mut().find(|(first, _)| same(&said[*first], s)) {
            Some((_, votes)) => *votes += 1,
            None => versions.push((i, 1)),
        }
    }
    // Of several maxima, this gives the last.
    versions.into_iter().max_by_key(|(_, votes)| *votes)
}

/// Where two buffers of one length differ first.
pub(crate) fn difference(a: &IoBuf, b: &IoBuf) -> Option<usize> {
    const STEP: usize = 4096;
    let (mut x, mut y) = ([0; STEP], [0; STEP]);
    let len = a.len().min(b.len());
    let mut at = 0;
    while at < len {
        let n = (len - at).min(STEP);
        a.copy_to(at, &mut x[..n]);
        b.copy_to(at, &mut y[..n]);
        if x[..n] != y[..n] {
            return (0..n).find(|i| x[*i] != y[*i]).map(|i| at + i);
        }
        at += n;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn enough_successes_are_a_success() {
        let (ok, e) = (Ok(()), Err(Errno::IO));
        assert_eq!(outcome(&[ok, e, ok], 2), ok);
        assert_eq!(outcome(&[ok, e, e], 2), e);
        assert_eq!(outcome(&[ok, e, e], 1), ok);
        assert_eq!(outcome(&[], 1), e);
    }

    #[test]
    fn the_most_frequent_error_and_of_several_the_last() {
        let (a, b, c) = (Err(Errno::IO), Err(Errno::NOSPC), Err(Errno::PERM));
        assert_eq!(outcome(&[a, b, a], 1), a);
        assert_eq!(outcome(&[Ok(()), a, b], 2), b);
        assert_eq!(outcome(&[Ok(()), b, a], 2), a);
        assert_eq!(outcome(&[c, b, a], 1), a);
        assert_eq!(outcome(&[a, c, b], 2), b);
        assert_eq!(outcome(&[a, b, b, a], 3), b, "the version that came last, not the vote that came last");
    }

    #[test]
    fn the_winner() {
        let same = |a: &char, b: &char| a == b;
        assert_eq!(winner(&['a', 'b', 'a'], same), Some((0, 2)));
        assert_eq!(winner(&['a', 'b', 'b', 'a'], same), Some((1, 2)));
        assert_eq!(winner(&['a', 'b', 'c'], same), Some((2, 1)));
        assert_eq!(winner(&[], same), None);
    }

    #[test]
    fn differences_are_found_where_they_are() {
        let a = IoBuf::zeroed(10_000);
        let b = IoBuf::zeroed(10_000);
        assert_eq!(difference(&a, &b), None);
        for at in [9_999, 4_096, 4_095, 0] {
            b.copy_from(at, &[1]);
            assert_eq!(difference(&a, &b), Some(at));
        }
    }
}
