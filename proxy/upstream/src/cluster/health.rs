//! What active checks have found of an endpoint.
//!
//! Pure: the caller passes `now` and the result of each check. The first check of an endpoint decides alone; from then on so
//! many results in a row against the state change it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use pillion_model::policy::HealthCheck;

/// An endpoint's state by its checks. Until its first one it is healthy.
#[derive(Debug, Clone, Default)]
pub struct Health {
    pub is_unhealthy: bool,
    /// Results in a row that are against the state.
    against: u32,
    pub last: Option<Check>,
}

/// The last check that has ended.
#[derive(Debug, Clone)]
pub struct Check {
    pub at: Instant,
    /// Why it failed.
    pub failure: Option<Arc<str>>,
}

impl Health {
    /// Takes the result of a check. Returns whether the state has changed.
    pub fn record(&mut self, failure: Option<Arc<str>>, rule: &HealthCheck, now: Instant) -> bool {
        let has_failed = failure.is_some();
        let is_first = self.last.replace(Check { at: now, failure }).is_none();
        if has_failed == self.is_unhealthy {
            self.against = 0;
            return false;
        }
        self.against = self.against.saturating_add(1);
        let enough = if self.is_unhealthy { rule.healthy } else { rule.unhealthy };
        if !is_first && self.against < enough {
            return false;
        }
        self.is_unhealthy = has_failed;
        self.against = 0;
        true
    }
}

/// The pause before the next check: `interval`, up to a tenth shorter or longer. `dice`: from 0 to 1.
pub fn pause(interval: Duration, dice: f64) -> Duration {
    interval.mul_f64(0.9 + 0.2 * dice)
}

/// The pause before the first check of an endpoint that has just come: soon, and not all at once.
pub fn first_pause(interval: Duration, dice: f64) -> Duration {
    interval.min(Duration::from_secs(1)).mul_f64(dice / 4.0)
}

#[cfg(test)]
mod tests {
    use pillion_model::listener::Question;
    use proptest::prelude::*;

    use super::*;

    fn rule(healthy: u32, unhealthy: u32) -> HealthCheck {
        HealthCheck { healthy, unhealthy, ..HealthCheck::of(Question::Tcp) }
    }

    /// The states after each of these results: `.` passed, `x` failed.
    fn states(rule: &HealthCheck, results: &str) -> String {
        let (mut health, now) = (Health::default(), Instant::now());
        let state = |result| {
            health.record((result == 'x').then(|| "refused".into()), rule, now);
            if health.is_unhealthy { 'x' } else { '.' }
        };
        results.chars().map(state).collect()
    }

    #[test]
    fn the_first_check_decides_alone_and_then_as_many_in_a_row_as_are_asked_for() {
        let table = [
            ("x", "x"),
            (".xx.xxx", "......x"),
            (".xxx.x..", "...xxxx."),
            ("x.x..", "xxxx."),
            ("xxxx", "xxxx"),
            ("....", "...."),
        ];
        for (results, expected) in table {
            assert_eq!(states(&rule(2, 3), results), expected, "{results}");
        }
        assert_eq!(states(&rule(1, 1), ".x.x"), ".x.x");
    }

    #[test]
    fn a_change_is_reported_once_and_the_failure_is_remembered() {
        let (mut health, now) = (Health::default(), Instant::now());
        assert!(health.record(Some("refused".into()), &rule(2, 3), now));
        assert!(!health.record(Some("timed out".into()), &rule(2, 3), now));
        let last = health.last.and_then(|check| check.failure);
        assert_eq!(last.as_deref(), Some("timed out"));
    }

    proptest! {
        #[test]
        fn behaves_as_a_look_at_the_whole_row_does(
            healthy in 1..5_u32, unhealthy in 1..5_u32, passed in prop::collection::vec(any::<bool>(), 0..60),
        ) {
            let results: String = passed.iter().map(|passed| if *passed { '.' } else { 'x' }).collect();
            let mut expected = String::new();
            let mut state = '.';
            for end in 1..=results.len() {
                let row = results[..end].chars().rev().take_while(|result| *result != state).count();
                let enough = if state == 'x' { healthy } else { unhealthy };
                if row >= enough as usize || (end == 1 && row == 1) {
                    state = if state == 'x' { '.' } else { 'x' };
                }
                expected.push(state);
            }
            prop_assert_eq!(states(&rule(healthy, unhealthy), &results), expected);
        }

        #[test]
        fn pauses_stay_near_the_interval(millis in 100..100_000_u64, dice in 0.0..=1.0_f64) {
            let interval = Duration::from_millis(millis);
            let next = pause(interval, dice);
            prop_assert!(next >= interval.mul_f64(0.899) && next <= interval.mul_f64(1.101));
            prop_assert!(first_pause(interval, dice) <= Duration::from_millis(250));
        }
    }
}
