//! Limits how many things of a kind may be going on at once: connections, requests, retries.
//!
//! A [`Permit`] is held for as long as the thing lasts (a request's permit until its response body has ended). Dropping
//! it gives the place back. No caller waits here: when all places are taken, the refusal is immediate.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// The value that means "no limit": as many as the counters of the async runtime can count.
pub const NO_LIMIT: u32 = (u32::MAX) >> 3;

#[derive(Debug)]
pub struct Limit {
    name: &'static str,
    max: AtomicU32,
    used: AtomicU32,
}

/// One place that is taken.
#[derive(Debug)]
#[must_use = "dropping a permit gives the place back at once"]
pub struct Permit(Arc<Limit>);

impl Limit {
    /// `name` is the configuration's name of the limit (`max_requests`). Error texts and metrics show it.
    pub fn new(name: &'static str, max: u32) -> Arc<Self> {
        Arc::new(Self { name, max: AtomicU32::new(max), used: AtomicU32::new(0) })
    }

    pub fn name(&self) -> &'static str {
        self.name
    }

    pub fn max(&self) -> u32 {
        self.max.load(Relaxed)
    }

    /// Sets the limit from now on. Permits beyond a lowered limit stay valid, and no new ones are given until enough of
    /// them were dropped.
    pub fn set_max(&self, max: u32) {
        self.max.store(max, Relaxed);
    }

    /// The number of places that are taken.
    pub fn used(&self) -> u32 {
        self.used.load(Relaxed)
    }

    /// `None` when all places are taken.
    pub fn try_acquire(self: &Arc<Self>) -> Option<Permit> {
        // Not "add, then check": a refused caller would for a moment take the place of another caller that fits.
        let max = self.max();
        let taken = self.used.fetch_update(Relaxed, Relaxed, |used| (used < max).then(|| used + 1));
        taken.is_ok().then(|| Permit(Arc::clone(self)))
    }
}

impl Permit {
    /// How many permits of its kind there are.
    pub fn max(&self) -> u32 {
        self.0.max()
    }

    /// Whether the limit is a real one, and not [`NO_LIMIT`].
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
    fn permits_beyond_the_limit_are_refused_until_one_is_dropped() {
        let limit = Limit::new("max_requests", 2);
        let first = limit.try_acquire().expect("a free place");
        let _second = limit.try_acquire().expect("a free place");
        assert!(limit.try_acquire().is_none());
        drop(first);
        assert_eq!(limit.used(), 1);
        assert!(limit.try_acquire().is_some());
    }

    #[test]
    fn a_limit_of_zero_gives_no_permit() {
        assert!(Limit::new("max_retries", 0).try_acquire().is_none());
    }

    #[test]
    fn a_lowered_limit_gives_no_permit_until_enough_older_ones_are_dropped() {
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
