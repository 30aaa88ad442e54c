//! The recent latency of an endpoint: the average, sensitive to peaks, that peak EWMA balances by.
//!
//! Pure: the caller passes `now` and how long an answer took. A sample above the average replaces it at once; a sample
//! below lowers it over ten seconds. Without samples the average fades, so that an endpoint that was avoided is tried
//! again. The endpoint itself counts its requests in flight; [`load`] combines both.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// The time in which the weight of a sample falls to 1/e: 10 s, as in Finagle and linkerd.
const DECAY: Duration = Duration::from_secs(10);

/// The cost, in nanoseconds, of one request in flight on an endpoint that has not answered yet: 1,000 s, which is above
/// the latency of any endpoint that answers. With nothing in flight such an endpoint costs nothing and is asked at once;
/// then others are preferred until it has answered. So an endpoint that never answers gets one request and not a share
/// of them, as in Finagle and linkerd.
const UNMEASURED: f64 = 1e12;

/// Nanoseconds in a tick, as a power of two: about one millisecond. Samples within one tick of the last change count
/// only if they are peaks. Over ten seconds of decay the others make no difference, and skipping them saves writes to a
/// word that all workers share.
const TICK_BITS: u32 = 20;

/// The latency of one endpoint, shared by all workers without a lock.
#[derive(Debug)]
pub struct Ewma {
    /// Upper half: the average in nanoseconds as `f32`. Lower half: the tick of its last change. Both are in one word,
    /// so that no reader combines an average with another average's tick. Zero means not measured yet.
    word: AtomicU64,
    epoch: Instant,
}

#[derive(Clone, Copy)]
struct Average {
    nanos: f32,
    tick: u32,
}

impl Ewma {
    /// `epoch` is any moment before the first use. Earlier times count as `epoch`.
    pub fn new(epoch: Instant) -> Self {
        Self { word: AtomicU64::new(0), epoch }
    }

    /// Adds a sample. Call it for every try that ended, also for failed ones: otherwise an endpoint that refuses
    /// everything would look unused for ever.
    pub fn observe(&self, took: Duration, now: Instant) {
        // At least one nanosecond: zero bits mean "not measured".
        let sample = (took.as_nanos() as f32).max(1.0);
        let tick = self.tick(now);
        let mut word = self.word.load(Relaxed);
        while let Some(next) = Average::unpack(word).map_or(Some(sample), |before| before.with(sample, tick))
        {
            match self.word.compare_exchange_weak(
                word,
                Average { nanos: next, tick }.pack(),
                Relaxed,
                Relaxed,
            ) {
                Ok(_) => return,
                Err(current) => word = current,
            }
        }
    }

    /// Adds a try that was ended after this time without an answer. It would have taken longer, so it cannot lower the
    /// latency, and it is no measure of an endpoint that was never measured.
    pub fn observe_at_least(&self, took: Duration, now: Instant) {
        if self.latency(now).is_some_and(|known| took.as_nanos() as f64 > known) {
            self.observe(took, now);
        }
    }

    /// The latency in nanoseconds, faded since the last answer. `None` when it is not measured yet.
    pub fn latency(&self, now: Instant) -> Option<f64> {
        let average = Average::unpack(self.word.load(Relaxed))?;
        Some(f64::from(average.nanos) * average.kept(self.tick(now)))
    }

    /// Wraps after 52 days, which matters only for an endpoint that was silent for weeks.
    fn tick(&self, now: Instant) -> u32 {
        (now.saturating_duration_since(self.epoch).as_nanos() >> TICK_BITS) as u32
    }
}

impl Average {
    fn unpack(word: u64) -> Option<Self> {
        (word != 0).then(|| Self { nanos: f32::from_bits((word >> 32) as u32), tick: word as u32 })
    }

    fn pack(self) -> u64 {
        u64::from(self.nanos.to_bits()) << 32 | u64::from(self.tick)
    }

    /// The average with one more sample. `None` when the sample changes nothing.
    fn with(self, sample: f32, tick: u32) -> Option<f32> {
        if sample >= self.nanos {
            return (sample > self.nanos || self.age(tick) > 0).then_some(sample);
        }
        let kept = self.kept(tick);
        (kept < 1.0).then(|| (f64::from(self.nanos) * kept + f64::from(sample) * (1.0 - kept)) as f32)
    }

    /// The share of the average that is left at `tick`.
    fn kept(self, tick: u32) -> f64 {
        match self.age(tick) {
            0 => 1.0,
            age => (-f64::from(age) * f64::from(1 << TICK_BITS) / DECAY.as_nanos() as f64).exp(),
        }
    }

    /// Ticks since the last change, never below zero: the clock reads of two workers may arrive in another order.
    fn age(self, tick: u32) -> u32 {
        u32::try_from(tick.wrapping_sub(self.tick).cast_signed()).unwrap_or(0)
    }
}

/// The cost of one more request on an endpoint: latency × (in flight / weight + 1).
///
/// The weight divides the queue and not the latency. So idle endpoints of equal latency cost the same, and the draw by
/// weight decides; under load the queues become proportional to the weights.
pub fn load(latency: Option<f64>, in_flight: u32, weight: NonZeroU32) -> f64 {
    let queue = f64::from(in_flight) / f64::from(weight.get());
    latency.map_or(queue * UNMEASURED, |latency| latency * (queue + 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: NonZeroU32 = NonZeroU32::MIN;

    fn millis(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    struct Scenario {
        start: Instant,
        ewma: Ewma,
    }

    impl Scenario {
        fn begin() -> Self {
            let start = Instant::now();
            Self { start, ewma: Ewma::new(start) }
        }

        fn at(&self, after: u64, took: u64) -> &Self {
            self.ewma.observe(millis(took), self.start + millis(after));
            self
        }

        fn latency_ms(&self, after: u64) -> f64 {
            self.ewma.latency(self.start + millis(after)).expect("measured") / 1e6
        }
    }

    #[test]
    fn a_peak_replaces_the_average_at_once_even_within_a_tick() {
        let scenario = Scenario::begin();
        scenario.at(0, 5).at(0, 900);
        assert!((scenario.latency_ms(0) - 900.0).abs() < 0.01);
    }

    #[test]
    fn faster_answers_pull_the_average_down_slowly() {
        let scenario = Scenario::begin();
        scenario.at(0, 100).at(10_000, 10);
        let expected = 100.0 * (-1.0_f64).exp() + 10.0 * (1.0 - (-1.0_f64).exp());
        assert!((scenario.latency_ms(10_000) - expected).abs() < 0.1, "{}", scenario.latency_ms(10_000));
    }

    #[test]
    fn many_small_steps_give_the_same_average_as_a_few_large_ones() {
        let scenario = Scenario::begin();
        scenario.at(0, 100);
        for after in 1..=10_000 {
            scenario.at(after, 10);
        }
        let expected = 100.0 * (-1.0_f64).exp() + 10.0 * (1.0 - (-1.0_f64).exp());
        assert!((scenario.latency_ms(10_000) - expected).abs() < 1.0, "{}", scenario.latency_ms(10_000));
    }

    #[test]
    fn a_try_that_was_ended_early_raises_the_latency_and_never_lowers_it() {
        let (epoch, milli) = (Instant::now(), Duration::from_millis(1));
        let ewma = Ewma::new(epoch);
        ewma.observe_at_least(milli, epoch);
        assert_eq!(ewma.latency(epoch), None, "it says nothing about an unmeasured endpoint");
        ewma.observe(milli * 100, epoch);
        ewma.observe_at_least(milli, epoch + Duration::from_secs(1));
        let after = ewma.latency(epoch + Duration::from_secs(1)).expect("measured");
        assert!(after > 90e6, "only the time that has passed lowers it: {after}");
        ewma.observe_at_least(milli * 900, epoch + Duration::from_secs(1));
        assert!(ewma.latency(epoch + Duration::from_secs(1)).expect("measured") > 800e6);
    }

    #[test]
    fn the_latency_of_an_unused_endpoint_fades_so_that_it_is_tried_again() {
        let scenario = Scenario::begin();
        scenario.at(0, 5_000);
        assert!(scenario.latency_ms(60_000) < 15.0);
        assert!(scenario.latency_ms(60_000) > 10.0);
    }

    #[test]
    fn a_sample_with_an_older_time_changes_nothing() {
        let scenario = Scenario::begin();
        scenario.at(5_000, 100);
        assert!((scenario.latency_ms(1_000) - 100.0).abs() < 0.01);
        scenario.at(1_000, 1);
        assert!((scenario.latency_ms(5_000) - 100.0).abs() < 0.01);
    }

    #[test]
    fn an_answer_within_zero_time_counts_as_a_measurement() {
        let scenario = Scenario::begin();
        scenario.at(0, 0);
        assert!(scenario.ewma.latency(scenario.start).is_some());
    }

    #[test]
    fn an_unmeasured_endpoint_is_asked_first_and_then_only_once_it_has_answered() {
        assert!(load(None, 0, ONE) < load(Some(1.0), 0, ONE), "asked before any other");
        assert!(load(None, 1, ONE) > load(Some(15e9), 10, ONE), "one unanswered request is enough");
        assert!(load(None, 1, ONE) < load(None, 2, ONE), "among unmeasured ones the queue decides");
    }

    #[test]
    fn weight_divides_the_queue_and_not_the_latency() {
        let four = NonZeroU32::new(4).expect("four is not zero");
        assert!((load(Some(1e6), 0, ONE) - load(Some(1e6), 0, four)).abs() < f64::EPSILON);
        assert!((load(Some(1e6), 1, ONE) - load(Some(1e6), 4, four)).abs() < f64::EPSILON);
    }
}
