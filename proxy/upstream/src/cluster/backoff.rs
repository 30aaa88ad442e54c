//! How long to wait before a retry: exponential backoff with full jitter.
//!
//! The pause is drawn evenly between zero and min(cap, base · 2^n). Full jitter spreads clients that failed together
//! more evenly than other kinds of jitter, and costs the upstream the fewest tries.

use std::time::Duration;

use pillion_model::policy::Backoff;

/// The pause before retry number `retry`, counted from zero.
pub fn pause(backoff: &Backoff, retry: u32, rng: &mut fastrand::Rng) -> Duration {
    let nanos = u64::try_from(ceiling(backoff, retry).as_nanos()).unwrap_or(u64::MAX);
    Duration::from_nanos(rng.u64(0..=nanos))
}

fn ceiling(backoff: &Backoff, retry: u32) -> Duration {
    // 2^31 times any useful base is above every max.
    backoff.base.saturating_mul(1 << retry.min(31)).min(backoff.cap())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MILLI: Duration = Duration::from_millis(1);
    const DEFAULT: Backoff = Backoff { base: Duration::from_millis(25), max: None };

    #[test]
    fn the_ceiling_doubles_up_to_the_maximum() {
        let ceilings: Vec<_> = (0..6).map(|retry| ceiling(&DEFAULT, retry).as_millis()).collect();
        assert_eq!(ceilings, [25, 50, 100, 200, 250, 250]);
    }

    #[test]
    fn extreme_backoff_values_do_not_overflow() {
        let huge = Backoff { base: Duration::MAX, max: Some(Duration::MAX) };
        assert_eq!(ceiling(&huge, u32::MAX), Duration::MAX);
        assert!(pause(&huge, u32::MAX, &mut fastrand::Rng::with_seed(1)) <= Duration::MAX);
        let none = Backoff { base: Duration::ZERO, max: Some(Duration::ZERO) };
        assert_eq!(pause(&none, 3, &mut fastrand::Rng::with_seed(1)), Duration::ZERO);
    }

    #[test]
    fn pauses_are_spread_evenly_from_zero_to_the_ceiling() {
        let mut rng = fastrand::Rng::with_seed(1);
        let mut tenths = [0; 10];
        for _ in 0..10_000 {
            let share = pause(&DEFAULT, 1, &mut rng).as_secs_f64() / 0.050;
            tenths[((share * 10.0) as usize).min(9)] += 1;
        }
        assert!(tenths.iter().all(|count| (850..1150).contains(count)), "{tenths:?}");
    }

    proptest! {
        #[test]
        fn a_pause_is_never_above_the_ceiling(base in 0..10_000_u32, max in 0..10_000_u32, retry: u32, seed: u64) {
            let backoff = Backoff { base: MILLI * base, max: Some(MILLI * max) };
            let pause = pause(&backoff, retry, &mut fastrand::Rng::with_seed(seed));
            prop_assert!(pause <= backoff.cap());
            prop_assert!(pause <= backoff.base.saturating_mul(2_u32.saturating_pow(retry)));
        }
    }
}
