//! How long to wait: after failures, and between two looks. Pure: `dice` is a random number in [0, 1).

use std::time::Duration;

/// After the first failure; doubled with each further one.
const FIRST: Duration = Duration::from_millis(500);
/// A source that is back is noticed within this time, and half as long again.
const LONGEST: Duration = Duration::from_secs(30);

/// The least time between two questions to a store.
const LEAST: Duration = Duration::from_millis(50);
/// The time within which it is noticed that another program has changed what was written, where the source is asked as often.
const PLACE: Duration = Duration::from_secs(5);

/// The pause after so many failures in a row. Sidecars that lost their source at once do not ask at once.
pub(crate) fn after_failures(failures: u32, dice: f64) -> Duration {
    let doubled = FIRST.saturating_mul(1 << failures.saturating_sub(1).min(8));
    doubled.min(LONGEST).mul_f64(0.5 + dice)
}

/// The time between two questions to a store, after so many answers in a row that came at once and brought nothing new: an index
/// that is busy without a change must not keep both ends busy.
pub(crate) fn between_questions(idle: u32) -> Duration {
    LEAST * (1 << idle.min(6))
}

/// The time between two looks at what was written, which are as dear as those at files of a source, and less urgent.
pub(crate) fn between_looks_at_place(every: Duration) -> Duration {
    every.saturating_mul(10).min(PLACE)
}

/// The time between two looks at so many files: about a hundred are looked at within a second.
pub(crate) fn between_looks(every: Duration, files: usize) -> Duration {
    every.saturating_mul(u32::try_from(files.div_ceil(50)).unwrap_or(u32::MAX).max(1))
}

/// The time until a whole number of intervals has passed. `passed`: the time since the first moment of all entries. Entries with the
/// same interval look at their files at the same moment. At least half an interval, because a file that is being written must have
/// the time to become another one between two looks.
pub(crate) fn until_next_look(passed: Duration, every: Duration) -> Duration {
    let gone = passed.as_nanos().checked_rem(every.as_nanos()).unwrap_or(0);
    let left = every.saturating_sub(Duration::from_nanos(gone.try_into().unwrap_or(0)));
    if left < every / 2 { left + every } else { left }
}

/// The time between two questions to a server, a tenth more or less.
pub(crate) fn between(every: Duration, dice: f64) -> Duration {
    every.mul_f64(0.9 + 0.2 * dice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_are_spread() {
        let of = |failures| after_failures(failures, 0.5).as_millis();
        assert_eq!([0, 1, 2, 3, 4, 7, 8, 99].map(of), [500, 500, 1000, 2000, 4000, 30_000, 30_000, 30_000]);
        assert!(after_failures(1, 0.0) < after_failures(1, 0.9));
        assert_eq!(
            [0, 1, 2, 6, 7, 99].map(|idle| between_questions(idle).as_millis()),
            [50, 100, 200, 3200, 3200, 3200]
        );
        let looks =
            [0, 1, 50, 100, 1000].map(|files| between_looks(Duration::from_millis(500), files).as_millis());
        assert_eq!(looks, [500, 500, 500, 1000, 10_000]);
        let every = Duration::from_secs(10);
        let next = [0, 1, 9_999, 10_000, 25_000]
            .map(|ms| until_next_look(Duration::from_millis(ms), every).as_millis());
        assert_eq!(next, [10_000, 9_999, 10_001, 10_000, 5_000], "never just after the last one");
        assert_eq!(until_next_look(every, Duration::ZERO), Duration::ZERO);
        assert!(between(every, 0.0) < every && every < between(every, 0.9));
    }
}
