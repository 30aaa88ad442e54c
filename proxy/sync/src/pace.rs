//! How long to wait: after failures, and between two looks. Pure: `dice` is a random number in [0, 1).

use std::time::Duration;

/// After the first failure; doubled with each further one.
const FIRST: Duration = Duration::from_millis(500);
/// A source that is back is noticed within this time, and half as long again.
const LONGEST: Duration = Duration::from_secs(30);

/// The pause after so many failures in a row. Sidecars that lost their source at once do not ask at once.
pub(crate) fn after_failures(failures: u32, dice: f64) -> Duration {
    let doubled = FIRST.saturating_mul(1 << failures.saturating_sub(1).min(8));
    doubled.min(LONGEST).mul_f64(0.5 + dice)
}

/// The time between two looks, a tenth more or less.
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
        let every = Duration::from_secs(10);
        assert!(between(every, 0.0) < every && every < between(every, 0.9));
    }
}
