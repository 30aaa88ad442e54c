//! How fast an endpoint has been answering of late: the peak-sensitive average that peak EWMA balances by.
//!
//! Pure: callers bring `now` and the time an answer took. A sample above the average replaces it at once, one
//! below pulls it down over ten seconds; with no samples the average fades, so that an endpoint nobody
//! dared to use is tried again. What is in flight is the endpoint's own count; [`load`] joins the two.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Time in which a sample's weight falls to 1/e: 10 s, as Finagle and linkerd have it.
const DECAY: Duration = Duration::from_secs(10);

/// What one request in flight costs on an endpoint that has not answered yet, in nanoseconds. 1 ms: with
/// nothing in flight such an endpoint costs nothing and is asked at once, but a silent one does not attract
/// a crowd.
const UNMEASURED: f64 = 1e6;

/// Nanoseconds in a tick, as a power of two: about a millisecond. Samples within one tick of the last change
/// count only if they are peaks; over ten seconds of decay the rest would not be noticed, and the word
/// shared by all workers is left alone.
const TICK_BITS: u32 = 20;

/// Latency of one endpoint, shared by all workers without a lock.
#[derive(Debug)]
pub struct Ewma {
    /// Upper half: the average in nanoseconds as `f32`. Lower half: the tick of its last change. One word,
    /// so that nobody ever pairs an average with another's time. Zero: not measured yet.
    word: AtomicU64,
    epoch: Instant,
}

#[derive(Clone, Copy)]
struct Average {
    nanos: f32,
    tick: u32,
}

impl Ewma {
    /// `epoch`: any moment not after the first use; times before it count as it.
    pub fn new(epoch: Instant) -> Self {
        Self { word: AtomicU64::new(0), epoch }
    }

    /// Call for every try that ended, failed ones too, lest an endpoint that refuses everything looks
    /// fresh for ever.
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

    /// Nanoseconds, faded since the last answer. `None`: not measured yet.
    pub fn latency(&self, now: Instant) -> Option<f64> {
        let average = Average::unpack(self.word.load(Relaxed))?;
        Some(f64::from(average.nanos) * average.kept(self.tick(now)))
    }

    /// Wraps after 52 days; only an endpoint silent for weeks could tell.
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

    /// The average with one more sample, or `None` if that changes nothing.
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

    /// Ticks since the last change. Workers' clock reads may overtake each other: never below zero.
    fn age(self, tick: u32) -> u32 {
        u32::try_from(tick.wrapping_sub(self.tick).cast_signed()).unwrap_or(0)
    }
}

/// What one more request would cost on an endpoint: latency × (in flight / weight + 1).
///
/// The weight divides the queue and not the latency: of idle, equally fast endpoints none is cheaper than the
/// other, so the draw by weights decides; under load the queues come to stand in proportion to the weights.
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

    struct Story {
        start: Instant,
        ewma: Ewma,
    }

    impl Story {
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
        let story = Story::begin();
        story.at(0, 5).at(0, 900);
        assert!((story.latency_ms(0) - 900.0).abs() < 0.01);
    }

    #[test]
    fn faster_answers_pull_the_average_down_slowly() {
        let story = Story::begin();
        story.at(0, 100).at(10_000, 10);
        let expected = 100.0 * (-1.0_f64).exp() + 10.0 * (1.0 - (-1.0_f64).exp());
        assert!((story.latency_ms(10_000) - expected).abs() < 0.1, "{}", story.latency_ms(10_000));
    }

    #[test]
    fn many_small_steps_come_to_where_few_large_ones_do() {
        let story = Story::begin();
        story.at(0, 100);
        for after in 1..=10_000 {
            story.at(after, 10);
        }
        let expected = 100.0 * (-1.0_f64).exp() + 10.0 * (1.0 - (-1.0_f64).exp());
        assert!((story.latency_ms(10_000) - expected).abs() < 1.0, "{}", story.latency_ms(10_000));
    }

    #[test]
    fn an_endpoint_nobody_asks_fades_and_is_asked_again() {
        let story = Story::begin();
        story.at(0, 5_000);
        assert!(story.latency_ms(60_000) < 15.0);
        assert!(story.latency_ms(60_000) > 10.0);
    }

    #[test]
    fn a_clock_read_that_was_overtaken_changes_nothing() {
        let story = Story::begin();
        story.at(5_000, 100);
        assert!((story.latency_ms(1_000) - 100.0).abs() < 0.01);
        story.at(1_000, 1);
        assert!((story.latency_ms(5_000) - 100.0).abs() < 0.01);
    }

    #[test]
    fn an_instant_answer_is_still_a_measurement() {
        let story = Story::begin();
        story.at(0, 0);
        assert!(story.ewma.latency(story.start).is_some());
    }

    #[test]
    fn an_unmeasured_endpoint_is_asked_first_but_draws_no_crowd() {
        let measured = load(Some(5e6), 0, ONE);
        assert!(load(None, 0, ONE) < measured, "asked before one that takes 5 ms");
        assert!(load(None, 6, ONE) > measured, "six unanswered requests are enough");
    }

    #[test]
    fn weight_divides_the_queue_and_not_the_latency() {
        let four = NonZeroU32::new(4).expect("four is not zero");
        assert!((load(Some(1e6), 0, ONE) - load(Some(1e6), 0, four)).abs() < f64::EPSILON);
        assert!((load(Some(1e6), 1, ONE) - load(Some(1e6), 4, four)).abs() < f64::EPSILON);
    }
}
