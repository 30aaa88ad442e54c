//! The recent latencies of a cluster, as far as their 95th percentile needs them: a histogram of fixed size, which
//! forgets.
//!
//! Pure: the caller passes `now`. Each octave of microseconds has eight buckets, so that the result is at most an eighth
//! above the exact percentile. All counts are halved every [`HALF_LIFE`].

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Buckets of one octave, as a power of two.
const FINENESS: u32 = 3;
/// 2^33 µs are more than two hours; whatever is slower counts as that.
const OCTAVES: u32 = 33;
const BUCKETS: usize = ((OCTAVES - FINENESS + 1) << FINENESS) as usize;

/// 10 s, as in the other estimates of latency.
const HALF_LIFE: Duration = Duration::from_secs(10);

/// With fewer samples the percentile is not known: one of twenty is above it.
const LEAST_SAMPLES: u32 = 20;

/// Shared by all workers. Locked once for a request whose route hedges by p95.
#[derive(Debug)]
pub struct Latencies(Mutex<Histogram>);

#[derive(Debug)]
struct Histogram {
    counts: Box<[u32; BUCKETS]>,
    total: u32,
    halved: Instant,
}

impl Latencies {
    pub fn new(now: Instant) -> Self {
        Self(Mutex::new(Histogram { counts: Box::new([0; BUCKETS]), total: 0, halved: now }))
    }

    /// A request that was answered, or given up, after this time.
    pub fn observe(&self, took: Duration, now: Instant) {
        let mut histogram = self.0.lock();
        histogram.age(now);
        histogram.add(took);
    }

    /// The time within which 95 % of the recent requests were answered. `None`: too few are known.
    pub fn p95(&self, now: Instant) -> Option<Duration> {
        let mut histogram = self.0.lock();
        histogram.age(now);
        histogram.p95()
    }
}

impl Histogram {
    fn add(&mut self, took: Duration) {
        if self.total == u32::MAX {
            self.halve(1);
        }
        if let Some(count) = self.counts.get_mut(bucket(took)) {
            *count += 1;
            self.total += 1;
        }
    }

    /// Halves the counts once for each half-life that has passed.
    fn age(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.halved).as_secs() / HALF_LIFE.as_secs();
        if passed > 0 {
            self.halve(u32::try_from(passed).unwrap_or(u32::MAX));
            self.halved = now;
        }
    }

    fn halve(&mut self, times: u32) {
        self.counts.iter_mut().for_each(|count| *count = count.checked_shr(times).unwrap_or(0));
        self.total = self.counts.iter().sum();
    }

    fn p95(&self) -> Option<Duration> {
        if self.total < LEAST_SAMPLES {
            return None;
        }
        // From the slow end, because it has the fewest samples.
        let mut above = self.total / 20;
        for (bucket, &count) in self.counts.iter().enumerate().rev() {
            match above.checked_sub(count) {
                Some(rest) => above = rest,
                None => return Some(upper(bucket)),
            }
        }
        None
    }
}

/// The bucket of a latency. Below 2^FINENESS microseconds each has a bucket of its own.
fn bucket(took: Duration) -> usize {
    let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).min((1 << OCTAVES) - 1);
    let octave = (u64::BITS - micros.leading_zeros()).saturating_sub(FINENESS + 1);
    ((u64::from(octave) << FINENESS) + (micros >> octave)) as usize
}

/// The end of a bucket, which no latency in it reaches.
fn upper(bucket: usize) -> Duration {
    let bucket = bucket as u64;
    let octave = (bucket >> FINENESS).saturating_sub(1);
    Duration::from_micros((bucket - (octave << FINENESS) + 1) << octave)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MICRO: Duration = Duration::from_micros(1);

    #[test]
    fn every_latency_is_in_its_bucket_and_buckets_are_an_eighth_wide_at_most() {
        for micros in
            (0..100_000_u64).chain((17..63).flat_map(|bit| [(1 << bit) - 1, 1 << bit, (1 << bit) + 1]))
        {
            let took = Duration::from_micros(micros);
            let place = bucket(took);
            assert!(place < BUCKETS, "{micros}");
            if micros < 1 << OCTAVES {
                assert!(took < upper(place), "{micros} in {place}");
                assert!(place == 0 || took >= upper(place - 1), "{micros} in {place}");
                assert!(upper(place) - MICRO <= took + took / 8, "{micros} in {place}");
            }
        }
    }

    #[test]
    fn p95_is_unknown_with_few_samples_and_known_with_twenty() {
        let start = Instant::now();
        let latencies = Latencies::new(start);
        (0..19).for_each(|_| latencies.observe(Duration::from_millis(1), start));
        assert_eq!(latencies.p95(start), None);
        latencies.observe(Duration::from_secs(1), start);
        assert_eq!(latencies.p95(start), Some(MICRO * 1024), "one of twenty is above it");
    }

    #[test]
    fn samples_are_forgotten() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let latencies = Latencies::new(start);
        (0..1000).for_each(|_| latencies.observe(Duration::from_secs(1), at(0)));
        (0..1000).for_each(|_| latencies.observe(Duration::from_millis(1), at(60)));
        assert_eq!(latencies.p95(at(60)), Some(MICRO * 1024), "15 slow ones are left of a thousand");
        assert_eq!(latencies.p95(at(120)), None, "15 are left of all");
        assert_eq!(latencies.p95(at(10_000_000)), None);
    }

    #[test]
    fn the_counts_do_not_overflow() {
        let mut histogram =
            Histogram { counts: Box::new([0; BUCKETS]), total: u32::MAX, halved: Instant::now() };
        histogram.counts[5] = u32::MAX;
        histogram.add(Duration::from_micros(5));
        assert_eq!((histogram.counts[5], histogram.total), (u32::MAX / 2 + 1, u32::MAX / 2 + 1));
    }

    proptest! {
        #[test]
        fn the_estimate_is_the_exact_percentile_rounded_up_to_its_bucket(
            mut micros in prop::collection::vec(prop_oneof![0..50_u64, 0..100_000_u64, 0..10_000_000_000_u64], 20..500),
        ) {
            let start = Instant::now();
            let latencies = Latencies::new(start);
            micros.iter().for_each(|&micros| latencies.observe(Duration::from_micros(micros), start));
            micros.sort_unstable();
            // The smallest sample that at most a twentieth of all samples is above.
            let exact = Duration::from_micros(micros[micros.len() - 1 - micros.len() / 20].min((1 << OCTAVES) - 1));
            prop_assert_eq!(latencies.p95(start), Some(upper(bucket(exact))));
        }
    }
}
