//! When the flaky replica is well, answers 503 or refuses connections. The schedule is known before the first request.
//!
//! Pure: a seed determines an endless schedule, and the behaviour of the proxy does not change it.

use std::ops::RangeInclusive;
use std::time::Duration;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReplicaState {
    Well,
    /// Answers every request with 503.
    Failing,
    /// Its port is closed, and its connections have been closed.
    Refusing,
}

/// A period in one state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Period {
    pub(crate) state: ReplicaState,
    pub(crate) lasts: Duration,
}

const PAUSE: RangeInclusive<u32> = 30..=60;
/// Too short for an ejection: retries alone must handle it.
const SHORT_FAILURE: RangeInclusive<u32> = 2..=5;
/// Five errors in a row eject an endpoint. At the demo's rate, a replica gets several times as many requests in this
/// time.
const LONG_FAILURE: RangeInclusive<u32> = 50..=90;

/// The states in their order, repeated forever. Each lasts this many hundredths of the pace.
const ROUND: [(ReplicaState, RangeInclusive<u32>); 8] = [
    (ReplicaState::Well, PAUSE),
    (ReplicaState::Failing, SHORT_FAILURE),
    (ReplicaState::Well, PAUSE),
    (ReplicaState::Failing, LONG_FAILURE),
    (ReplicaState::Well, PAUSE),
    (ReplicaState::Failing, SHORT_FAILURE),
    (ReplicaState::Well, PAUSE),
    (ReplicaState::Refusing, LONG_FAILURE),
];

/// Endless periods.
#[derive(Debug, Clone)]
pub(crate) struct Schedule {
    dice: fastrand::Rng,
    pace: Duration,
    round: std::iter::Cycle<std::array::IntoIter<(ReplicaState, RangeInclusive<u32>), 8>>,
}

impl Schedule {
    pub(crate) fn new(seed: u64, pace: Duration) -> Self {
        Self { dice: fastrand::Rng::with_seed(seed), pace, round: ROUND.into_iter().cycle() }
    }
}

impl Iterator for Schedule {
    type Item = Period;

    fn next(&mut self) -> Option<Period> {
        let (state, hundredths) = self.round.next()?;
        Some(Period { state, lasts: self.pace * self.dice.u32(hundredths) / 100 })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PACE: Duration = Duration::from_secs(1);

    /// The periods of the first seconds, and when each begins.
    fn first_seconds(seed: u64, seconds: u64) -> Vec<(Duration, Period)> {
        let mut clock = Duration::ZERO;
        let dated = Schedule::new(seed, PACE).map(|period| {
            let begins = clock;
            clock += period.lasts;
            (begins, period)
        });
        dated.take_while(|(begins, _)| begins.as_secs() < seconds).collect()
    }

    #[test]
    fn a_seed_determines_the_schedule() {
        assert_eq!(first_seconds(7, 60), first_seconds(7, 60));
        assert_ne!(first_seconds(7, 60), first_seconds(8, 60));
    }

    proptest! {
        #[test]
        fn ten_seconds_contain_every_kind_of_failure_early_enough(seed: u64) {
            let story = first_seconds(seed, 10);
            let illness = |state| {
                story.iter().find(|(_, period)| period.state == state && period.lasts >= PACE / 2).map(|(at, _)| *at)
            };
            prop_assert!(illness(ReplicaState::Failing).is_some_and(|at| at < Duration::from_secs(2)));
            prop_assert!(illness(ReplicaState::Refusing).is_some_and(|at| at < Duration::from_secs(5)));
        }

        #[test]
        fn a_replica_is_well_between_two_failures(seed: u64) {
            let moods: Vec<ReplicaState> = first_seconds(seed, 30).iter().map(|(_, period)| period.state).collect();
            prop_assert!(moods.windows(2).all(|two| (two[0] == ReplicaState::Well) != (two[1] == ReplicaState::Well)));
        }
    }
}
