//! What the end waits for: connections at work, counted by each worker for itself.

use std::iter::Sum;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::{Drain, Phase};
use pillion_model::Direction;

/// Silence that means rest: a client that has just connected, or was just answered, may be about to speak.
pub const QUIET: Duration = Duration::from_secs(1);

/// A connection, as the drain sees it: at work, or at rest. Nobody waits for one that rests.
#[derive(Debug)]
pub struct Work {
    roll: Arc<Roll>,
    direction: Direction,
    at_work: AtomicBool,
}

/// Who is at work for one worker.
#[derive(Debug)]
pub struct Roll {
    drain: Drain,
    inbound: Tally,
    outbound: Tally,
}

#[derive(Debug, Default)]
struct Tally {
    at_work: AtomicUsize,
    /// How often somebody began.
    begun: AtomicU64,
}

/// A look at the rolls of all workers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Count {
    /// At work, of each side.
    pub(super) inbound: usize,
    pub(super) outbound: usize,
    /// How often somebody began.
    pub(super) outbound_begun: u64,
}

impl Work {
    /// At work from the first moment.
    pub fn begin(roll: &Arc<Roll>, direction: Direction) -> Self {
        let work = Self { roll: roll.clone(), direction, at_work: AtomicBool::new(false) };
        work.wake();
        work
    }

    pub const fn direction(&self) -> Direction {
        self.direction
    }

    /// Something is asked of it.
    pub fn wake(&self) {
        if !self.at_work.swap(true, Relaxed) {
            let tally = self.tally();
            tally.begun.fetch_add(1, Relaxed);
            tally.at_work.fetch_add(1, Relaxed);
        }
    }

    /// Nothing is asked of it, and everything answered.
    pub fn rest(&self) {
        if self.at_work.swap(false, Relaxed) {
            self.tally().at_work.fetch_sub(1, Relaxed);
        }
    }

    /// For a connection whose client has been silent since then: it rests after a second of that. Ready when the
    /// connection is not to be waited for any longer, which an outbound one always is.
    pub async fn dismissed(&self, silent_since: Instant) {
        if self.at_work.load(Relaxed) {
            sleep_until(silent_since + QUIET).await;
            self.rest();
        }
        match self.direction {
            Direction::Inbound => self.roll.drain.reached(Phase::Closing).await,
            Direction::Outbound => std::future::pending().await,
        }
    }

    /// Ready when an HTTP/2 client must hear that it had better go elsewhere: when the drain begins; for one that
    /// comes later, which has perhaps nowhere else to go, after a second.
    pub async fn goodbye(&self) {
        if !self.roll.drain.has_begun() {
            return self.roll.drain.reached(Phase::Goodbye).await;
        }
        let second = tokio::time::sleep(QUIET);
        match self.direction {
            Direction::Outbound => second.await,
            Direction::Inbound => tokio::select! { // nothing is lost with either
                () = second => {}
                () = self.roll.drain.reached(Phase::Closing) => {}
            },
        }
    }

    /// New requests are refused.
    pub fn refuses(&self) -> bool {
        self.direction == Direction::Inbound && self.roll.drain.is_closing()
    }

    /// Answers say that the connection had better not be used again.
    pub fn says_goodbye(&self) -> bool {
        self.roll.drain.has_begun()
    }

    fn tally(&self) -> &Tally {
        match self.direction {
            Direction::Inbound => &self.roll.inbound,
            Direction::Outbound => &self.roll.outbound,
        }
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        self.rest();
    }
}

impl Roll {
    pub(super) fn new(drain: Drain) -> Self {
        Self { drain, inbound: Tally::default(), outbound: Tally::default() }
    }

    pub(super) fn count(&self) -> Count {
        let Self { inbound, outbound, .. } = self;
        Count {
            inbound: inbound.at_work.load(Relaxed),
            // Before `begun`: who begins in between is seen in one of the two.
            outbound: outbound.at_work.load(Relaxed),
            outbound_begun: outbound.begun.load(Relaxed),
        }
    }
}

impl Sum for Count {
    fn sum<I: Iterator<Item = Self>>(counts: I) -> Self {
        counts.fold(Self::default(), |sum, count| Self {
            inbound: sum.inbound + count.inbound,
            outbound: sum.outbound + count.outbound,
            outbound_begun: sum.outbound_begun + count.outbound_begun,
        })
    }
}
