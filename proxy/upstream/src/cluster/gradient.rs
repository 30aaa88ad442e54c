//! A limit of requests in flight that follows the latency of the upstream: it falls while requests take longer than they
//! used to, because then they wait in a queue.
//!
//! Pure: the caller passes how long a request took, and `now`. Samples are gathered in windows. After each window
//!
//! ```text
//! gradient = tolerance × usual latency ÷ latency of the window, from 0.5 to 1
//! limit    = limit × gradient + √limit, from LEAST to max_requests
//! ```
//!
//! as in Gradient2 of Netflix's concurrency-limits and in Envoy's adaptive concurrency. The usual latency is an average
//! over many windows, so that a service which becomes slower for good gets its limit back. The limit begins at
//! `max_requests`: nothing is refused before latency has risen.

use std::time::{Duration, Instant};

/// The least limit. With fewer requests in flight a small service would be refused after a single slow answer.
pub const LEAST: u32 = 10;

/// A window ends when it has lasted this long and has [`LEAST_SAMPLES`] samples.
const WINDOW: Duration = Duration::from_millis(250);
const LEAST_SAMPLES: u32 = 10;

/// Latency may rise to half above the usual one before the limit falls, as in Gradient2.
const TOLERANCE: f64 = 1.5;

/// The limit falls by half in one window at most.
const STEEPEST: f64 = 0.5;

/// The number of windows of the usual latency: 600, as in Gradient2. In the first windows it is their plain average.
const USUAL_WINDOWS: f64 = 600.0;
const FIRST_WINDOWS: u32 = 10;

/// While the limit is lowered, a usual latency above twice that of the window comes from an overload that is over, and
/// falls by this factor. At the upper bound it does not: there, quick answers are another kind of request.
const RECOVERY: f64 = 0.95;

#[derive(Debug)]
pub struct Gradient {
    most: f64,
    limit: f64,
    /// Nanoseconds.
    usual: f64,
    windows: u32,
    began: Instant,
    sum: f64,
    samples: u32,
    /// Whether a reload has taken the limit out of use.
    is_retired: bool,
}

impl Gradient {
    /// `most` is `max_requests`.
    pub fn new(most: u32, now: Instant) -> Self {
        let most = f64::from(most);
        Self {
            most,
            limit: most,
            usual: 0.0,
            windows: 0,
            began: now,
            sum: 0.0,
            samples: 0,
            is_retired: false,
        }
    }

    /// Changes the upper bound.
    pub fn set_most(&mut self, most: u32) {
        let most = f64::from(most);
        // A limit that was not lowered stays at its upper bound.
        self.limit = if self.limit >= self.most { most } else { self.limit.min(most) };
        self.most = most;
    }

    /// Ends its use: requests that were sent before a reload move the limit no more.
    pub const fn retire(&mut self) {
        self.is_retired = true;
    }

    pub const fn limit(&self) -> u32 {
        self.limit as u32
    }

    /// Adds a request that was answered, or timed out, after this time. `Some` at the end of a window: the limit from
    /// now on.
    pub fn observe(&mut self, took: Duration, now: Instant) -> Option<u32> {
        if self.is_retired {
            return None;
        }
        self.sum += took.as_nanos() as f64;
        self.samples += 1;
        let is_over = now.saturating_duration_since(self.began) >= WINDOW && self.samples >= LEAST_SAMPLES;
        is_over.then(|| {
            let latency = (self.sum / f64::from(self.samples)).max(1.0);
            (self.began, self.sum, self.samples) = (now, 0.0, 0);
            self.follow(latency);
            self.limit()
        })
    }

    /// Adds a request that was given up after this time, and would have taken at least so long. A shorter time than usual
    /// says nothing.
    pub fn observe_at_least(&mut self, took: Duration, now: Instant) -> Option<u32> {
        let says_more = self.windows > 0 && took.as_nanos() as f64 > self.usual;
        if says_more { self.observe(took, now) } else { None }
    }

    fn follow(&mut self, latency: f64) {
        let share = match self.windows {
            windows if windows < FIRST_WINDOWS => 1.0 / f64::from(windows + 1),
            _ => 2.0 / (USUAL_WINDOWS + 1.0),
        };
        self.windows = self.windows.saturating_add(1);
        self.usual += (latency - self.usual) * share;
        let gradient = (TOLERANCE * self.usual / latency).clamp(STEEPEST, 1.0);
        if self.limit < self.most && self.usual > 2.0 * latency {
            self.usual *= RECOVERY;
        }
        let least = f64::from(LEAST).min(self.most);
        self.limit = (self.limit * gradient + self.limit.sqrt()).clamp(least, self.most);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MILLI: Duration = Duration::from_millis(1);

    /// A server that works on `capacity` requests at once; further ones wait their turn. Clients want `wanted` at once.
    struct Simulated {
        gradient: Gradient,
        now: Instant,
        capacity: u32,
        latency: Duration,
    }

    impl Simulated {
        fn new(most: u32, capacity: u32, latency: Duration) -> Self {
            let now = Instant::now();
            Self { gradient: Gradient::new(most, now), now, capacity, latency }
        }

        /// Returns the limit after so many windows.
        fn run(&mut self, wanted: u32, windows: u32) -> u32 {
            for _ in 0..windows {
                let in_flight = self.gradient.limit().min(wanted);
                let took = self.latency.mul_f64((f64::from(in_flight) / f64::from(self.capacity)).max(1.0));
                (1..LEAST_SAMPLES).for_each(|_| assert_eq!(self.gradient.observe(took, self.now), None));
                self.now += WINDOW;
                assert_eq!(self.gradient.observe(took, self.now), Some(self.gradient.limit()));
            }
            self.gradient.limit()
        }
    }

    #[test]
    fn nothing_is_limited_while_latency_is_as_usual() {
        let mut simulated = Simulated::new(1024, 50, MILLI * 10);
        assert_eq!(simulated.run(40, 200), 1024);
    }

    #[test]
    fn a_window_needs_its_time_and_its_samples() {
        let start = Instant::now();
        let mut gradient = Gradient::new(100, start);
        (0..50).for_each(|_| assert_eq!(gradient.observe(MILLI, start), None));
        let mut gradient = Gradient::new(100, start);
        (0..9).for_each(|_| assert_eq!(gradient.observe(MILLI, start + WINDOW * 2), None));
        assert_eq!(gradient.observe(MILLI, start + WINDOW * 2), Some(100));
    }

    #[test]
    fn a_service_that_is_slower_for_good_gets_its_limit_back() {
        let mut simulated = Simulated::new(1024, 2000, MILLI * 10);
        simulated.run(40, 50);
        simulated.latency = MILLI * 30;
        assert!(simulated.run(40, 20) < 100);
        assert_eq!(simulated.run(40, 1000), 1024);
    }

    #[test]
    fn quick_answers_for_a_while_do_not_make_the_usual_latency_look_slow() {
        let mut simulated = Simulated::new(500, 500, MILLI * 100);
        simulated.run(30, 50);
        simulated.latency = MILLI;
        simulated.run(30, 80);
        simulated.latency = MILLI * 100;
        assert_eq!(simulated.run(30, 20), 500);
    }

    #[test]
    fn requests_that_are_given_up_late_lower_the_limit_and_early_ones_say_nothing() {
        for (took, falls) in [(MILLI * 100, true), (MILLI, false)] {
            let mut simulated = Simulated::new(1024, 2000, MILLI * 10);
            simulated.run(40, 50);
            let Simulated { mut gradient, mut now, .. } = simulated;
            for _ in 0..1000 {
                now += MILLI * 10;
                gradient.observe_at_least(took, now);
            }
            assert_eq!(gradient.limit() < 100, falls, "{took:?}: {gradient:?}");
        }
    }

    #[test]
    fn a_retired_limit_does_not_move() {
        let start = Instant::now();
        let mut gradient = Gradient::new(100, start);
        gradient.retire();
        (0..50).for_each(|_| assert_eq!(gradient.observe(MILLI, start + WINDOW), None));
    }

    #[test]
    fn a_changed_bound_is_kept_to_and_an_unlowered_limit_follows_it() {
        let mut gradient = Gradient::new(100, Instant::now());
        gradient.set_most(200);
        assert_eq!(gradient.limit(), 200);
        gradient.limit = 50.0;
        gradient.set_most(300);
        assert_eq!(gradient.limit(), 50);
        gradient.set_most(5);
        assert_eq!(gradient.limit(), 5);
        gradient.follow(1.0);
        assert_eq!(gradient.limit(), 5, "below LEAST, which max_requests wins over");
    }

    proptest! {
        #[test]
        fn under_overload_the_limit_comes_near_the_capacity_and_afterwards_it_recovers(
            capacity in 20..300_u32, factor in 3..10_u32, millis in 1..500_u32,
        ) {
            let mut simulated = Simulated::new(4000, capacity, MILLI * millis);
            simulated.run(capacity / 2, 30);
            let limit = simulated.run(capacity * factor, 60);
            prop_assert!((capacity..capacity * 5 / 2 + 10).contains(&limit), "{limit} for {capacity}");
            prop_assert_eq!(simulated.run(capacity / 2, 400), 4000);
        }

        #[test]
        fn the_limit_stays_within_its_bounds_whatever_the_samples(
            most in 1..5000_u32,
            samples in prop::collection::vec((any::<u64>(), 0..100_u64), 0..2000),
        ) {
            let mut now = Instant::now();
            let mut gradient = Gradient::new(most, now);
            for (nanos, millis) in samples {
                now += Duration::from_millis(millis);
                gradient.observe(Duration::from_nanos(nanos), now);
                prop_assert!((LEAST.min(most)..=most).contains(&gradient.limit()), "{:?}", gradient);
            }
        }
    }
}
