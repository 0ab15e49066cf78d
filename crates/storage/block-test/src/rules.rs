//! The rules of `blkdebug`: events, states, and the errors that follow. Without I/O.

use api::block_core::{BlkdebugEvent, BlkdebugIOType, BlkdebugInjectErrorOptions, BlkdebugSetStateOptions};
use base::Errno;

/// A request, as rules look at it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Io {
    pub(crate) kind: BlkdebugIOType,
    pub(crate) off: u64,
    pub(crate) len: u64,
}

/// A request that is to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Injected {
    /// `None`: let it pass nevertheless.
    pub(crate) error: Option<Errno>,
    /// Without waiting a turn.
    pub(crate) immediately: bool,
}

/// Rules, and where they stand.
#[derive(Debug)]
pub(crate) struct Rules {
    errors: Vec<BlkdebugInjectErrorOptions>,
    states: Vec<BlkdebugSetStateOptions>,
    state: i64,
    /// Rules of `once` that had their time.
    spent: Vec<bool>,
    /// The rules in `errors` that count now; the one that is asked first comes first.
    active: Vec<usize>,
}

impl Rules {
    pub(crate) fn new(
        errors: Vec<BlkdebugInjectErrorOptions>,
        states: Vec<BlkdebugSetStateOptions>,
    ) -> Rules {
        let spent = vec![false; errors.len()];
        let mut rules = Rules { errors, states, state: 1, spent, active: Vec::new() };
        rules.event(BlkdebugEvent::None);
        rules
    }

    /// Something happens.
    pub(crate) fn event(&mut self, event: BlkdebugEvent) {
        let now = |state: Option<i64>| state.unwrap_or(0) == 0 || state == Some(self.state);
        let counts = |e: &BlkdebugInjectErrorOptions| e.event == event && now(e.state);
        // The youngest is asked first.
        let all = (0..self.errors.len()).rev();
        let found: Vec<usize> = all.filter(|i| !self.spent[*i] && counts(&self.errors[*i])).collect();
        let next = self.states.iter().rfind(|s| s.event == event && now(s.state));
        let next = next.map_or(self.state, |s| s.new_state);
        if !found.is_empty() {
            self.active = found;
        }
        self.state = next;
    }

    /// What becomes of a request.
    pub(crate) fn check(&mut self, io: Io) -> Option<Injected> {
        let hit = |r: &BlkdebugInjectErrorOptions| {
            let kind = match r.iotype {
                Some(k) => k == io.kind,
                None => io.kind != BlkdebugIOType::BlockStatus,
            };
            let at = match r.sector.and_then(|s| u64::try_from(s).ok()).and_then(|s| s.checked_mul(512)) {
                Some(at) => io.off <= at && at - io.off < io.len,
                None => r.sector.is_none_or(|s| s < 0),
            };
            kind && at
        };
        let i = self.active.iter().position(|i| hit(&self.errors[*i]))?;
        let rule = &self.errors[self.active[i]];
        let error = match rule.errno.unwrap_or(i64::from(Errno::IO.raw())) {
            0 => None,
            n => Some(i32::try_from(n).map_or(Errno::IO, Errno::from_raw)),
        };
        let injected = Injected { error, immediately: rule.immediately.unwrap_or(false) };
        if rule.once == Some(true) {
            self.spent[self.active[i]] = true;
            self.active.remove(i);
        }
        Some(injected)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use BlkdebugEvent as E;
    use BlkdebugIOType as T;

    fn io(kind: T, off: u64, len: u64) -> Io {
        Io { kind, off, len }
    }

    fn error(event: E) -> BlkdebugInjectErrorOptions {
        BlkdebugInjectErrorOptions { event, ..Default::default() }
    }

    #[test]
    fn a_rule_counts_from_its_event_on() {
        let mut r = Rules::new(vec![error(E::ReadAio)], vec![]);
        assert_eq!(r.check(io(T::Read, 0, 512)), None);
        r.event(E::WriteAio);
        assert_eq!(r.check(io(T::Read, 0, 512)), None);
        r.event(E::ReadAio);
        let eio = Some(Injected { error: Some(Errno::IO), immediately: false });
        assert_eq!(r.check(io(T::Read, 0, 512)), eio);
        assert_eq!(r.check(io(T::Flush, 0, 0)), eio);
        assert_eq!(r.check(io(T::BlockStatus, 0, 512)), None);
    }

    #[test]
    fn kind_place_number_and_once() {
        let rule = BlkdebugInjectErrorOptions {
            iotype: Some(T::Write),
            sector: Some(3),
            errno: Some(28),
            once: Some(true),
            immediately: Some(true),
            ..error(E::None)
        };
        let mut r = Rules::new(vec![rule], vec![]);
        for miss in
            [io(T::Read, 1536, 512), io(T::Write, 0, 1536), io(T::Write, 2048, 512), io(T::Write, 1536, 0)]
        {
            assert_eq!(r.check(miss), None, "{miss:?}");
        }
        let nospc = Some(Injected { error: Some(Errno::NOSPC), immediately: true });
        assert_eq!(r.check(io(T::Write, 1024, 513)), nospc);
        assert_eq!(r.check(io(T::Write, 1024, 513)), None);
    }

    #[test]
    fn once_is_once_whatever_happens_later() {
        let rule = BlkdebugInjectErrorOptions { once: Some(true), ..error(E::ReadAio) };
        let mut r = Rules::new(vec![rule], vec![]);
        r.event(E::ReadAio);
        assert!(r.check(io(T::Read, 0, 512)).is_some());
        r.event(E::ReadAio);
        assert_eq!(r.check(io(T::Read, 0, 512)), None);
    }

    #[test]
    fn states_follow_each_other() {
        let second = BlkdebugInjectErrorOptions { state: Some(2), ..error(E::WriteAio) };
        let step =
            |from, to| BlkdebugSetStateOptions { event: E::WriteAio, state: Some(from), new_state: to };
        let mut r = Rules::new(vec![second], vec![step(1, 2), step(2, 3)]);
        r.event(E::WriteAio);
        assert_eq!(r.check(io(T::Write, 0, 512)), None);
        r.event(E::WriteAio);
        assert!(r.check(io(T::Write, 0, 512)).is_some());
        assert_eq!(r.state, 3);
    }

    #[test]
    fn number_0_lets_a_request_pass() {
        let rule = BlkdebugInjectErrorOptions { errno: Some(0), ..error(E::None) };
        let mut r = Rules::new(vec![rule], vec![]);
        assert_eq!(r.check(io(T::Read, 0, 1)).unwrap().error, None);
    }
}
