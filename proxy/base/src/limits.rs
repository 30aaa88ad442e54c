//! How much of something may be going on at once: connections, requests, retries.
//!
//! A [`Permit`] is held for as long as the thing lasts (a request's until its response body has ended) and
//! gives its place back when dropped. Nobody waits here: past the limit the answer is no, at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// As many as the runtime's own counters can count.
pub const NO_LIMIT: u32 = (u32::MAX) >> 3;

#[derive(Debug)]
pub struct Limit {
    name: &'static str,
    max: AtomicU32,
    used: AtomicU32,
}

/// One place taken.
#[derive(Debug)]
#[must_use = "dropping a permit gives the place back at once"]
pub struct Permit(Arc<Limit>);

impl Limit {
    /// `name`: as the configuration spells it (`max_requests`); told to callers and in metrics.
    pub fn new(name: &'static str, max: u32) -> Arc<Self> {
        Arc::new(Self { name, max: AtomicU32::new(max), used: AtomicU32::new(0) })
    }

    pub fn name(&self) -> &'static str {
        self.name
    }

    pub fn max(&self) -> u32 {
        self.max.load(Relaxed)
    }

    /// From now on. What was let in beyond it stays, and keeps others out until enough of it has ended.
    pub fn set_max(&self, max: u32) {
        self.max.store(max, Relaxed);
    }

    /// Places taken.
    pub fn used(&self) -> u32 {
        self.used.load(Relaxed)
    }

    /// `None`: all places are taken.
    pub fn try_acquire(self: &Arc<Self>) -> Option<Permit> {
        // Not "add, then look": a refused one would for a moment take the place of one that fits.
        let max = self.max();
        let taken = self.used.fetch_update(Relaxed, Relaxed, |used| (used < max).then(|| used + 1));
        taken.is_ok().then(|| Permit(Arc::clone(self)))
    }
}

impl Permit {
    /// Whether there are only so many.
    pub fn is_scarce(&self) -> bool {
        self.0.max() < NO_LIMIT
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.used.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn past_the_limit_the_answer_is_no_until_a_permit_is_dropped() {
        let limit = Limit::new("max_requests", 2);
        let first = limit.try_acquire().expect("a free place");
        let _second = limit.try_acquire().expect("a free place");
        assert!(limit.try_acquire().is_none());
        drop(first);
        assert_eq!(limit.used(), 1);
        assert!(limit.try_acquire().is_some());
    }

    #[test]
    fn a_limit_of_nothing_lets_nothing_through() {
        assert!(Limit::new("max_retries", 0).try_acquire().is_none());
    }

    #[test]
    fn a_lowered_limit_waits_for_what_was_let_in_before() {
        let limit = Limit::new("max_requests", 2);
        let (first, second) = (limit.try_acquire(), limit.try_acquire());
        limit.set_max(1);
        drop(first);
        assert!(limit.try_acquire().is_none());
        drop(second);
        assert!(limit.try_acquire().is_some());
    }

    #[test]
    fn threads_never_hold_more_than_the_limit_together() {
        let limit = Limit::new("max_connections", 3);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..2_000 {
                        let permit = limit.try_acquire();
                        assert!(limit.used() <= 3);
                        drop(permit);
                    }
                });
            }
        });
        assert_eq!(limit.used(), 0);
    }
}
