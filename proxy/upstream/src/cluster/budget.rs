//! Limits the retries of a cluster by the number of first tries of the last ten seconds.
//!
//! Within the window a retry is allowed while
//!
//! ```text
//! retries + 1 <= max(ratio × first tries, min_per_second × 10)
//! ```
//!
//! The limit is the larger of the two, and not their sum as in linkerd and Finagle. So a busy service multiplies its
//! load by no more than the configured ratio, and `min_per_second` is a floor for services with too few requests for
//! the ratio to matter. The window is the current second and the nine seconds before it. A refused retry takes nothing
//! from the budget.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use parking_lot::Mutex;
use pillion_model::policy::RetryBudget;

/// The window in seconds, as in linkerd and Finagle: long enough that one slow second does not empty the budget.
const WINDOW: usize = 10;

/// Shares are integers in millionths: 29 % of 100 tries are exactly 29 retries, where floating point would give 28.
const MILLION: u64 = 1_000_000;

/// The retry budget of one cluster, shared by all workers.
#[derive(Debug)]
pub struct Budget {
    epoch: Instant,
    ratio_millionths: u64,
    floor: u64,
    first_tries: FirstTries,
    retries: Mutex<Retries>,
}

impl Budget {
    /// `epoch` is any moment before the first use. Earlier times count as `epoch`.
    pub fn new(rule: &RetryBudget, epoch: Instant) -> Self {
        Self {
            epoch,
            ratio_millionths: (rule.ratio * MILLION as f64).round() as u64,
            floor: u64::from(rule.min_per_second) * WINDOW as u64,
            first_tries: FirstTries::default(),
            retries: Mutex::default(),
        }
    }

    /// Counts a first try. Called once for each request that may be retried. Takes no lock.
    pub fn deposit(&self, now: Instant) {
        self.first_tries.add(self.second(now));
    }

    /// Removes the first try that was counted at `deposited`.
    fn take_back(&self, deposited: Instant) {
        self.first_tries.remove(self.second(deposited));
    }

    /// Asks for one retry. Called once before each retry. Withdrawals take a lock, so that two cannot both take the
    /// last retry. A first try that is counted meanwhile only raises the allowance.
    pub fn try_withdraw(&self, now: Instant) -> bool {
        let mut retries = self.retries.lock();
        let second = retries.advance(self.second(now));
        let allowed = retries.sum() < self.allowance(second);
        retries.add(u32::from(allowed));
        allowed
    }

    /// The retries that would be allowed now, for the admin pages.
    pub fn left(&self, now: Instant) -> u64 {
        let mut retries = self.retries.lock();
        let second = retries.advance(self.second(now));
        self.allowance(second).saturating_sub(retries.sum())
    }

    fn allowance(&self, second: u32) -> u64 {
        let by_ratio = self.ratio_millionths.saturating_mul(self.first_tries.sum(second)) / MILLION;
        by_ratio.max(self.floor)
    }

    fn second(&self, now: Instant) -> u32 {
        u32::try_from(now.saturating_duration_since(self.epoch).as_secs()).unwrap_or(u32::MAX)
    }
}

/// The first try of a connection that was dialled before it was known whether its client sends requests, which count
/// first tries of their own. It counts while the deposit is held, and for good once the deposit is kept.
#[derive(Debug)]
#[must_use = "a deposit that is dropped is taken back"]
pub struct Deposit {
    /// `None` once the deposit is kept.
    budget: Option<Arc<Budget>>,
    at: Instant,
}

impl Deposit {
    pub fn into(budget: &Arc<Budget>, now: Instant) -> Self {
        budget.deposit(now);
        Self { budget: Some(budget.clone()), at: now }
    }

    pub fn keep(mut self) {
        self.budget = None;
    }
}

impl Drop for Deposit {
    fn drop(&mut self) {
        if let Some(budget) = &self.budget {
            budget.take_back(self.at);
        }
    }
}

/// A count for each second. Each slot is one word (upper half: the second; lower half: the count), so that the count
/// and its second always change together.
#[derive(Debug, Default)]
struct FirstTries([AtomicU64; WINDOW]);

impl FirstTries {
    fn add(&self, second: u32) {
        let Some(slot) = self.0.get(second as usize % WINDOW) else { return };
        let mut word = slot.load(Relaxed);
        while let Some(next) = Self::counted(word, second) {
            match slot.compare_exchange_weak(word, next, Relaxed, Relaxed) {
                Ok(_) => return,
                Err(current) => word = current,
            }
        }
    }

    /// Removes one try that was added in `second`, unless that second has left the window.
    fn remove(&self, second: u32) {
        let Some(slot) = self.0.get(second as usize % WINDOW) else { return };
        let less = |word| {
            let (held, count) = Self::unpack(word);
            (held == second && count > 0).then(|| word - 1)
        };
        let _taken: Result<u64, u64> = slot.fetch_update(Relaxed, Relaxed, less); // fails when the second has left the window
    }

    /// The next value of the word. `None` when the slot already belongs to a later second, or is full.
    fn counted(word: u64, second: u32) -> Option<u64> {
        let (held, count) = Self::unpack(word);
        match held.cmp(&second) {
            std::cmp::Ordering::Less => Some(u64::from(second) << 32 | 1),
            std::cmp::Ordering::Equal => (count < u32::MAX).then(|| word + 1),
            std::cmp::Ordering::Greater => None,
        }
    }

    /// The count in the window that ends with `second`. Later seconds count as well: another worker may have read the
    /// clock a moment later.
    fn sum(&self, second: u32) -> u64 {
        let words = self.0.iter().map(|slot| Self::unpack(slot.load(Relaxed)));
        words
            .filter(|(held, _)| u64::from(*held) + WINDOW as u64 > u64::from(second))
            .map(|(_, n)| u64::from(n))
            .sum()
    }

    fn unpack(word: u64) -> (u32, u32) {
        ((word >> 32) as u32, word as u32)
    }
}

/// A count for each second up to `latest`.
#[derive(Debug, Default)]
struct Retries {
    counts: [u32; WINDOW],
    latest: u32,
}

impl Retries {
    /// Forgets the seconds that have left the window. A `second` before `latest`, read before another worker took the
    /// lock, counts as `latest`.
    fn advance(&mut self, second: u32) -> u32 {
        let passed = second.saturating_sub(self.latest);
        self.latest = self.latest.max(second);
        for back in 0..passed.min(WINDOW as u32) {
            *self.slot(self.latest - back) = 0;
        }
        self.latest
    }

    fn add(&mut self, count: u32) {
        *self.slot(self.latest) += count;
    }

    fn sum(&self) -> u64 {
        self.counts.iter().copied().map(u64::from).sum()
    }

    fn slot(&mut self, second: u32) -> &mut u32 {
        &mut self.counts[second as usize % WINDOW] // the index is below WINDOW, the array's length
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn rule(ratio: f64, min_per_second: u32) -> RetryBudget {
        RetryBudget { ratio, min_per_second }
    }

    struct Scenario {
        start: Instant,
        budget: Budget,
    }

    impl Scenario {
        fn begin(ratio: f64, min_per_second: u32) -> Self {
            let start = Instant::now();
            Self { start, budget: Budget::new(&rule(ratio, min_per_second), start) }
        }

        fn first_tries(&self, count: usize, at: u64) -> &Self {
            (0..count).for_each(|_| self.budget.deposit(self.start + Duration::from_millis(at)));
            self
        }

        /// The number of the `wanted` retries that are allowed.
        fn retries(&self, wanted: usize, at: u64) -> usize {
            (0..wanted).filter(|_| self.budget.try_withdraw(self.start + Duration::from_millis(at))).count()
        }
    }

    #[test]
    fn without_first_tries_and_without_a_floor_no_retry_is_allowed() {
        assert_eq!(Scenario::begin(0.2, 0).retries(10, 0), 0);
        assert_eq!(Scenario::begin(0.0, 0).first_tries(1_000, 0).retries(10, 0), 0);
    }

    #[test]
    fn the_ratio_is_exact_for_every_percentage() {
        for percent in 0..=200_u32 {
            let scenario = Scenario::begin(f64::from(percent) / 100.0, 0);
            let retries = scenario.first_tries(100, 0).retries(300, 0);
            assert_eq!(retries, percent as usize, "{percent} % of 100");
        }
    }

    #[test]
    fn a_ratio_of_twenty_percent_allows_one_retry_after_five_first_tries() {
        let scenario = Scenario::begin(0.2, 0);
        assert_eq!(scenario.first_tries(4, 0).retries(1, 0), 0);
        assert_eq!(scenario.first_tries(1, 0).retries(2, 0), 1);
    }

    #[test]
    fn a_quiet_service_has_its_floor_and_a_busy_one_no_more_than_its_ratio() {
        assert_eq!(Scenario::begin(0.2, 10).first_tries(1, 0).retries(500, 0), 100);
        assert_eq!(Scenario::begin(0.2, 10).first_tries(1_000, 0).retries(500, 0), 200);
    }

    #[test]
    fn first_tries_count_for_ten_seconds() {
        assert_eq!(Scenario::begin(0.2, 0).first_tries(10, 900).retries(9, 9_999), 2);
        assert_eq!(Scenario::begin(0.2, 0).first_tries(10, 900).retries(9, 10_000), 0);
    }

    #[test]
    fn retries_count_against_the_budget_for_ten_seconds() {
        let scenario = Scenario::begin(0.0, 1);
        assert_eq!(scenario.retries(99, 500), 10);
        assert_eq!(scenario.retries(99, 9_999), 0);
        assert_eq!(scenario.retries(99, 10_000), 10);
        assert_eq!(scenario.retries(99, 500_000), 10);
    }

    #[test]
    fn a_refused_retry_takes_nothing() {
        let scenario = Scenario::begin(0.2, 0);
        assert_eq!(scenario.retries(50, 0), 0);
        assert_eq!(scenario.first_tries(5, 0).retries(50, 0), 1);
    }

    #[test]
    fn a_clock_read_that_arrives_late_does_not_reopen_a_past_second() {
        let scenario = Scenario::begin(0.0, 1);
        assert_eq!(scenario.retries(99, 20_000), 10);
        assert_eq!(scenario.retries(99, 3_000), 0);
    }

    #[test]
    fn a_deposit_counts_while_it_is_held_and_for_good_once_it_is_kept() {
        let start = Instant::now();
        let budget = Arc::new(Budget::new(&rule(1.0, 0), start));
        let (kept, dropped) = (Deposit::into(&budget, start), Deposit::into(&budget, start));
        assert_eq!(budget.left(start), 2);
        drop(dropped);
        kept.keep();
        assert_eq!(budget.left(start), 1);
    }

    #[test]
    fn a_deposit_that_left_the_window_is_not_taken_back_from_later_first_tries() {
        let start = Instant::now();
        let later = start + Duration::from_secs(WINDOW as u64);
        let budget = Arc::new(Budget::new(&rule(1.0, 0), start));
        let early = Deposit::into(&budget, start);
        budget.deposit(later);
        drop(early);
        assert_eq!(budget.left(later), 1);
    }

    #[test]
    fn several_threads_together_never_exceed_the_budget() {
        let scenario = Scenario::begin(0.2, 0);
        let (tries, retries) = (AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for step in 0..5_000 {
                        if step % 3 == 0 {
                            // Counted before it is deposited, so `tries` is never behind the budget.
                            tries.fetch_add(1, Relaxed);
                            scenario.first_tries(1, 0);
                        }
                        retries.fetch_add(scenario.retries(1, 0), Relaxed);
                        let taken = retries.load(Relaxed);
                        assert!(taken * 5 <= tries.load(Relaxed), "{taken} retries");
                    }
                });
            }
        });
        scenario.retries(1, 0);
        assert_eq!(retries.load(Relaxed), tries.load(Relaxed) / 5, "the whole budget was used");
    }

    #[derive(Debug, Clone, Copy)]
    enum Event {
        FirstTry,
        Retry,
        Pass { millis: u64 },
    }

    /// A reference model: two lists of moments and the formula.
    struct Model {
        percent: u64,
        floor: u64,
        first_tries: Vec<u64>,
        retries: Vec<u64>,
    }

    impl Model {
        fn within(moments: &[u64], now: u64) -> u64 {
            moments.iter().filter(|&&at| at / 1000 + 10 > now / 1000).count() as u64
        }

        fn may_retry(&mut self, now: u64) -> bool {
            let wanted = Self::within(&self.retries, now) + 1;
            let allowed = wanted * 100 <= self.percent * Self::within(&self.first_tries, now);
            let allowed = allowed || wanted <= self.floor * 10;
            self.retries.extend(allowed.then_some(now));
            allowed
        }
    }

    fn events() -> impl Strategy<Value = Vec<Event>> {
        let event = prop_oneof![
            5 => Just(Event::FirstTry),
            3 => Just(Event::Retry),
            1 => (0..3_000_u64).prop_map(|millis| Event::Pass { millis }),
            1 => (0..30_000_u64).prop_map(|millis| Event::Pass { millis }),
        ];
        prop::collection::vec(event, 0..400)
    }

    proptest! {
        #[test]
        fn the_budget_decides_as_the_formula_does(percent in 0..150_u32, floor in 0..3_u32, events in events()) {
            let scenario = Scenario::begin(f64::from(percent) / 100.0, floor);
            let mut model = Model {
                percent: percent.into(), floor: floor.into(), first_tries: Vec::new(), retries: Vec::new(),
            };
            let mut now = 0;
            for event in events {
                match event {
                    Event::Pass { millis } => now += millis,
                    Event::FirstTry => {
                        scenario.first_tries(1, now);
                        model.first_tries.push(now);
                    }
                    Event::Retry => prop_assert_eq!(scenario.retries(1, now) == 1, model.may_retry(now)),
                }
            }
        }
    }
}
