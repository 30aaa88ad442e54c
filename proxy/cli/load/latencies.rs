//! Latencies as counts in buckets, each at most 1/128 wider than its lower bound.
//!
//! The size is fixed (30 KiB), however long the load lasts: buckets are exact below 128 µs, and there are 128 for each
//! power of two.

use std::time::Duration;

/// The number of buckets for each power of two, as a power of two: 128.
const STEP_BITS: u32 = 7;
const STEPS: usize = 1 << STEP_BITS;
/// 2^36 µs are 19 hours, longer than every timeout of a request. Longer latencies count as this long.
const TOP_BITS: u32 = 36;
const BUCKETS: usize = (TOP_BITS - STEP_BITS + 1) as usize * STEPS;

#[derive(Debug, Clone)]
pub(crate) struct Latencies {
    counts: Box<[u64]>,
    total: u64,
    longest: Duration,
}

impl Default for Latencies {
    fn default() -> Self {
        Self { counts: vec![0; BUCKETS].into(), total: 0, longest: Duration::ZERO }
    }
}

impl Latencies {
    pub(crate) fn record(&mut self, took: Duration) {
        self.count(1, took);
    }

    /// Records so many latencies, each of which is at most as long as the one before it. The time that this takes depends on the
    /// number of buckets, and hardly on that of the latencies.
    pub(crate) fn record_falling(&mut self, many: u64, nth: impl Fn(u64) -> Duration) {
        let mut next = 0;
        while next < many {
            let first = nth(next);
            let (mut inside, mut outside) = (next, many);
            while outside - inside > 1 {
                let middle = inside + (outside - inside) / 2;
                match bucket(micros(nth(middle))) == bucket(micros(first)) {
                    true => inside = middle,
                    false => outside = middle,
                }
            }
            self.count(outside - next, first);
            next = outside;
        }
    }

    fn count(&mut self, many: u64, took: Duration) {
        if let Some(count) = self.counts.get_mut(bucket(micros(took))) {
            *count += many;
            self.total += many;
        }
        self.longest = self.longest.max(took);
    }

    /// The longest latency, exactly.
    pub(crate) const fn longest(&self) -> Duration {
        self.longest
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.counts.iter_mut().zip(&other.counts).for_each(|(count, more)| *count += more);
        self.total += other.total;
        self.longest = self.longest.max(other.longest);
    }

    /// The latency that `share` (0 to 1) of the responses did not exceed, at most 1/128 too long. Zero if there are no
    /// responses.
    pub(crate) fn percentile(&self, share: f64) -> Duration {
        let rank = ((self.total as f64 * share).ceil() as u64).max(1);
        let mut seen = 0;
        let reached = self.counts.iter().position(|count| {
            seen += count;
            seen >= rank
        });
        reached.map_or(Duration::ZERO, |bucket| Duration::from_micros(longest_in(bucket)).min(self.longest))
    }
}

fn micros(took: Duration) -> u64 {
    u64::try_from(took.as_micros()).unwrap_or(u64::MAX).min((1 << TOP_BITS) - 1)
}

fn bucket(micros: u64) -> usize {
    let shift = micros.max(1).ilog2().saturating_sub(STEP_BITS);
    shift as usize * STEPS + (micros >> shift) as usize
}

/// The longest latency that counts in `bucket`.
const fn longest_in(bucket: usize) -> u64 {
    let shift = (bucket / STEPS).saturating_sub(1);
    (((bucket - shift * STEPS + 1) as u64) << shift) - 1
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn without_responses_every_percentile_is_zero() {
        assert_eq!(Latencies::default().percentile(0.99), Duration::ZERO);
    }

    #[test]
    fn one_slow_response_in_a_hundred_is_beyond_the_99th_percentile() {
        let mut latencies = Latencies::default();
        (0..99).for_each(|_| latencies.record(Duration::from_micros(20)));
        latencies.record(Duration::from_secs(1_000_000));
        assert_eq!(latencies.percentile(0.5), Duration::from_micros(20));
        assert_eq!(latencies.percentile(0.99), Duration::from_micros(20));
        assert_eq!(latencies.percentile(1.0), Duration::from_micros((1 << TOP_BITS) - 1));
    }

    #[test]
    fn two_histograms_of_latencies_are_added() {
        let (mut one, mut two) = (Latencies::default(), Latencies::default());
        one.record(Duration::from_micros(5));
        two.record(Duration::from_micros(25));
        one.add(&two);
        assert_eq!((one.percentile(0.5).as_micros(), one.percentile(1.0).as_micros()), (5, 25));
    }

    proptest! {
        #[test]
        fn many_falling_latencies_count_as_each_of_them_does(many in 0..500_u64, step in 1..100_000_u64, last in 0..1_000_000_u64) {
            let nth = |nth: u64| Duration::from_micros(last + (many - 1 - nth) * step);
            let (mut one_by_one, mut at_once) = (Latencies::default(), Latencies::default());
            (0..many).for_each(|number| one_by_one.record(nth(number)));
            at_once.record_falling(many, nth);
            prop_assert_eq!(&one_by_one.counts, &at_once.counts);
            prop_assert_eq!((one_by_one.total, one_by_one.longest), (at_once.total, at_once.longest));
        }

        #[test]
        fn a_latency_is_reported_at_most_1_in_128_too_long(micros in 0..1u64 << TOP_BITS) {
            let longest = longest_in(bucket(micros));
            prop_assert!(longest >= micros && longest - micros <= micros / 128, "{micros} in the bucket up to {longest}");
        }
    }
}
