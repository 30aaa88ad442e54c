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
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).min((1 << TOP_BITS) - 1);
        if let Some(count) = self.counts.get_mut(bucket(micros)) {
            *count += 1;
            self.total += 1;
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
        fn a_latency_is_reported_at_most_1_in_128_too_long(micros in 0..1u64 << TOP_BITS) {
            let longest = longest_in(bucket(micros));
            prop_assert!(longest >= micros && longest - micros <= micros / 128, "{micros} in the bucket up to {longest}");
        }
    }
}
