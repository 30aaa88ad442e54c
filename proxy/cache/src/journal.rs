//! Remembers what was invalidated of late, so that an answer that was asked for before is not stored afterwards.

/// 64: an answer that was under way while more keys were invalidated is not stored, whatever its key is.
const REMEMBERED: usize = 64;

/// When a request was sent, counted in invalidations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment(u64);

#[derive(Debug)]
pub(crate) struct Journal {
    /// The number of invalidations so far.
    count: u64,
    /// The hashes of the last ones, each at its number.
    last: [u64; REMEMBERED],
    /// Requests before this moment have answers of before a purge.
    purged: u64,
}

impl Default for Journal {
    fn default() -> Self {
        Self { count: 0, last: [0; REMEMBERED], purged: 0 }
    }
}

impl Journal {
    pub(crate) const fn now(&self) -> Moment {
        Moment(self.count)
    }

    /// Notes that the key with this hash was invalidated.
    pub(crate) fn invalidate(&mut self, hash: u64) {
        let place = usize::try_from(self.count % REMEMBERED as u64).unwrap_or_default();
        if let Some(place) = self.last.get_mut(place) {
            *place = hash;
        }
        self.count += 1;
    }

    /// Notes that keys were purged, whichever they were.
    pub(crate) const fn purge(&mut self) {
        self.count += 1;
        self.purged = self.count;
    }

    /// Whether an answer of this key that was asked for at `asked` may be older than an invalidation of the key.
    pub(crate) fn is_outdated(&self, Moment(asked): Moment, hash: u64) -> bool {
        let since = self.count.saturating_sub(asked);
        if since == 0 {
            return false; // nearly always
        }
        let mut numbers = asked..self.count;
        let is_it = |number: u64| {
            let place = usize::try_from(number % REMEMBERED as u64).unwrap_or_default();
            self.last.get(place) == Some(&hash)
        };
        self.purged > asked || since > REMEMBERED as u64 || numbers.any(is_it)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_was_asked_for_before_an_invalidation_of_its_key_is_outdated() {
        let mut journal = Journal::default();
        let before = journal.now();
        assert!(!journal.is_outdated(before, 1));
        journal.invalidate(1);
        assert!(journal.is_outdated(before, 1) && !journal.is_outdated(before, 2));
        let after = journal.now();
        assert!(!journal.is_outdated(after, 1));
        (0..REMEMBERED as u64 - 1).for_each(|nth| journal.invalidate(100 + nth));
        assert!(journal.is_outdated(before, 1) && !journal.is_outdated(before, 2));
        journal.invalidate(3);
        assert!(journal.is_outdated(before, 2), "more than is remembered");
    }

    #[test]
    fn everything_that_was_asked_for_before_a_purge_is_outdated() {
        let mut journal = Journal::default();
        let before = journal.now();
        journal.purge();
        assert!(journal.is_outdated(before, 7) && !journal.is_outdated(journal.now(), 7));
    }
}
