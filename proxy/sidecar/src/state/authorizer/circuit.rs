//! Spares requests the dials to an authorizer that cannot be reached.
//!
//! Only failed connects count: a request can make an authorizer slow or break off, and one client must not decide for all.
//! Pure: callers bring `now`. Outlier detection of clusters would do the same, but never ejects the only endpoint.
//!
//! ```text
//! Closed ── MOST checks in a row without a connection ──▶ Open(until)
//!   ▲                                                        │ until has passed: one check is a probe
//!   └──────────────────── a connection ──────────────────────┤
//!                                                            └─ none ──▶ Open(until), twice as long
//! ```

use std::time::Duration;

use tokio::time::Instant;

/// 5 in a row: the default of `outlier_detection.consecutive_errors`.
const MOST: u32 = 5;
/// 1 s: an authorizer that restarts is back about then.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// 30 s: how long an authorizer that is back may go unnoticed.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

#[derive(Debug, Default)]
pub(super) struct Circuit {
    /// Checks in a row without a connection, while it is closed.
    failed: u32,
    /// `None`: it is closed.
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    /// No check before. While a probe is under way: when the next one may begin, although this one has not ended.
    until: Instant,
    pause: Duration,
}

/// How a check was admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    Usual,
    /// Its result alone says whether the authorizer stays unasked.
    Probe,
}

impl Circuit {
    /// `None`: the authorizer must not be asked now. `longest`: when a probe has ended for sure. A client that leaves may
    /// end it before, without a result.
    pub(super) fn admit(&mut self, now: Instant, longest: Duration) -> Option<Admission> {
        match &mut self.open {
            None => Some(Admission::Usual),
            Some(open) if now < open.until => None,
            Some(open) => {
                open.until = now + longest;
                Some(Admission::Probe)
            }
        }
    }

    /// Notes that no connection could be made for a check. Returns the pause that begins now, if one does.
    pub(super) fn was_unreachable(&mut self, admission: Admission, now: Instant) -> Option<Duration> {
        let pause = match (&self.open, admission) {
            (Some(open), Admission::Probe) => open.pause.saturating_mul(2).min(LONGEST_PAUSE),
            (Some(_), Admission::Usual) => return None, // it was sent before
            (None, _) => {
                self.failed = self.failed.saturating_add(1);
                if self.failed < MOST {
                    return None;
                }
                FIRST_PAUSE
            }
        };
        self.open = Some(Open { until: now + pause, pause });
        Some(pause)
    }

    /// Notes that there was a connection for a check.
    pub(super) fn was_reached(&mut self) {
        *self = Self::default();
    }

    /// Notes that the probe ended without a result, so that the next check may be one.
    pub(super) fn probe_was_given_up(&mut self, now: Instant) {
        if let Some(open) = &mut self.open {
            open.until = now;
        }
    }

    pub(super) const fn is_open(&self) -> bool {
        self.open.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_millis(200);

    struct Story {
        circuit: Circuit,
        start: Instant,
    }

    impl Story {
        fn new() -> Self {
            Self { circuit: Circuit::default(), start: Instant::now() }
        }

        fn at(&self, ms: u64) -> Instant {
            self.start + Duration::from_millis(ms)
        }

        fn admit(&mut self, ms: u64) -> Option<Admission> {
            let at = self.at(ms);
            self.circuit.admit(at, TIMEOUT)
        }

        /// The pause that begins, in seconds.
        fn silent(&mut self, admission: Admission, ms: u64) -> Option<u64> {
            let at = self.at(ms);
            self.circuit.was_unreachable(admission, at).map(|pause| pause.as_secs())
        }
    }

    use Admission::{Probe, Usual};

    #[test]
    fn five_checks_in_a_row_without_a_connection_open_it_and_one_among_them_does_not() {
        let mut story = Story::new();
        for _ in 0..4 {
            assert_eq!((story.admit(0), story.silent(Usual, 0)), (Some(Usual), None));
        }
        story.circuit.was_reached();
        for _ in 0..4 {
            assert_eq!((story.admit(1), story.silent(Usual, 1)), (Some(Usual), None));
        }
        assert_eq!((story.silent(Usual, 2), story.circuit.is_open()), (Some(1), true));
        assert_eq!((story.admit(2), story.admit(1001)), (None, None));
        assert_eq!(story.silent(Usual, 3), None, "it was sent before");
    }

    #[test]
    fn a_pause_ends_with_one_probe_and_doubles_up_to_30_s() {
        let mut story = Story::new();
        (0..5).for_each(|_| _ = story.silent(Usual, 0));
        let (mut now, mut pauses) = (1000, Vec::new());
        for _ in 0..7 {
            assert_eq!(story.admit(now - 1), None, "{now}");
            assert_eq!((story.admit(now), story.admit(now)), (Some(Probe), None), "{now}");
            assert_eq!(story.silent(Usual, now), None, "a check from before says nothing of the probe");
            let pause = story.silent(Probe, now + 200).expect("a pause");
            now += 200 + pause * 1000;
            pauses.push(pause);
        }
        assert_eq!(pauses, [2, 4, 8, 16, 30, 30, 30]);
        assert_eq!(story.admit(now), Some(Probe));
        story.circuit.was_reached();
        assert_eq!((story.admit(now), story.circuit.is_open()), (Some(Usual), false));
        (0..4).for_each(|_| assert_eq!(story.silent(Usual, now), None));
        assert_eq!(story.silent(Usual, now), Some(1), "it begins anew");
    }

    #[test]
    fn a_probe_without_a_result_lets_the_next_check_probe_when_it_would_have_ended() {
        let mut story = Story::new();
        (0..5).for_each(|_| _ = story.silent(Usual, 0));
        assert_eq!(
            (story.admit(1000), story.admit(1199), story.admit(1200)),
            (Some(Probe), None, Some(Probe))
        );
        story.circuit.probe_was_given_up(story.start + Duration::from_millis(1201));
        assert_eq!((story.admit(1201), story.admit(1202)), (Some(Probe), None));
    }
}
