//! Remembers what was invalidated, so that an answer that was asked for before is not stored afterwards.

/// 1,024: keys whose hashes share a place are invalidated together: one in so many of the answers that are under way is
/// not stored although its own key was not invalidated. The table takes 8 KiB.
const PLACES: usize = 1024;

/// When a request was sent, counted in invalidations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment(u64);

#[derive(Debug)]
pub(crate) struct Journal {
    /// The number of invalidations so far.
    count: u64,
    /// The number of the last invalidation of the keys of each place.
    last: Box<[u64]>,
    /// Requests before this moment have answers of before a purge.
    purged: u64,
}

impl Default for Journal {
    fn default() -> Self {
        Self { count: 0, last: vec![0; PLACES].into(), purged: 0 }
    }
}

fn place(hash: u64) -> usize {
    usize::try_from(hash % PLACES as u64).unwrap_or_default()
}

impl Journal {
    pub(crate) const fn now(&self) -> Moment {
        Moment(self.count)
    }

    /// Notes that the key with this hash was invalidated.
    pub(crate) fn invalidate(&mut self, hash: u64) {
        self.count += 1;
        if let Some(last) = self.last.get_mut(place(hash)) {
            *last = self.count;
        }
    }

    /// Notes that keys were purged, whichever they were.
    pub(crate) const fn purge(&mut self) {
        self.count += 1;
        self.purged = self.count;
    }

    /// Whether an answer of this key that was asked for at `asked` may be older than an invalidation of the key.
    pub(crate) fn is_outdated(&self, Moment(asked): Moment, hash: u64) -> bool {
        self.purged > asked || self.last.get(place(hash)).is_none_or(|last| *last > asked)
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
        (0..10_000).for_each(|_| journal.invalidate(3));
        assert!(journal.is_outdated(before, 1) && !journal.is_outdated(before, 2), "however many there were");
        assert!(!journal.is_outdated(after, 1));
    }

    #[test]
    fn everything_that_was_asked_for_before_a_purge_is_outdated() {
        let mut journal = Journal::default();
        let before = journal.now();
        journal.purge();
        assert!(journal.is_outdated(before, 7) && !journal.is_outdated(journal.now(), 7));
    }
}
