//! The connections at work, for which the drain waits. Each worker counts its own.

use std::iter::Sum;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::{Drain, Phase, Reached};
use pillion_model::Direction;

/// A connection counts as at rest after this silence. A client that has just connected, or was just answered, may be
/// about to send a request.
pub const QUIET: Duration = Duration::from_secs(1);

/// A connection as the drain sees it: at work or at rest. The drain does not wait for a connection at rest.
#[derive(Debug)]
pub struct Work {
    roll: Arc<Roll>,
    direction: Direction,
    at_work: AtomicBool,
}

/// The connections of one worker, at work and at rest.
#[derive(Debug)]
pub struct Roll {
    drain: Drain,
    inbound: Tally,
    outbound: Tally,
}

#[derive(Debug, Default)]
struct Tally {
    at_work: AtomicUsize,
    at_rest: AtomicUsize,
    /// How often a connection has begun to work.
    begun: AtomicU64,
}

/// The sum over the rolls of all workers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Count {
    /// Connections at work, for each side.
    pub(super) inbound: usize,
    pub(super) outbound: usize,
    /// Inbound connections at rest.
    pub(super) resting: usize,
    /// How often an outbound connection has begun to work.
    pub(super) outbound_begun: u64,
}

impl Work {
    /// Registers a connection. It counts as at work from the start.
    pub fn begin(roll: &Arc<Roll>, direction: Direction) -> Self {
        let work = Self { roll: roll.clone(), direction, at_work: AtomicBool::new(true) };
        work.tally().begin();
        work
    }

    pub const fn direction(&self) -> Direction {
        self.direction
    }

    /// Marks the connection as at work: a client asks something of it.
    pub fn wake(&self) {
        if !self.at_work.swap(true, Relaxed) {
            let tally = self.tally();
            tally.begin();
            tally.at_rest.fetch_sub(1, Release); // after the other: in between it counts twice rather than not at all
        }
    }

    /// Marks the connection as at rest: all requests are answered.
    pub fn rest(&self) {
        if self.at_work.swap(false, Relaxed) {
            let tally = self.tally();
            tally.at_rest.fetch_add(1, Relaxed);
            tally.at_work.fetch_sub(1, Release);
        }
    }

    /// For a connection whose client has been silent since `silent_since`: marks it as at rest after one second of
    /// silence. Returns when the drain closes such connections.
    pub async fn dismissed(&self, silent_since: Instant) {
        if self.at_work.load(Relaxed) {
            sleep_until(silent_since + QUIET).await;
            self.rest();
        }
        self.dismissal().await;
    }

    /// Ready when the drain closes connections at rest. Those of outbound are only closed by a process whose successor
    /// serves.
    pub fn dismissal(&self) -> Reached {
        self.roll.drain.reached(self.direction, Phase::Dismissing)
    }

    /// Whether the drain closes connections at rest.
    pub fn dismisses(&self) -> bool {
        self.roll.drain.has_come_to(self.direction, Phase::Dismissing)
    }

    /// Returns when an HTTP/2 client must be asked to go elsewhere (GOAWAY): when the drain begins. A client that
    /// connects during the drain may have no other place to go, and is asked one second later.
    pub async fn goaway_due(&self) {
        if !self.roll.drain.has_begun(self.direction) {
            return self.roll.drain.reached(self.direction, Phase::Announcing).await;
        }
        let second = tokio::time::sleep(QUIET);
        match self.direction {
            Direction::Outbound => second.await,
            Direction::Inbound => tokio::select! { // dropping either branch loses nothing
                biased;
                () = second => {}
                () = self.roll.drain.reached(Direction::Inbound, Phase::Closing) => {}
            },
        }
    }

    /// Whether the connection refuses new requests.
    pub fn refuses(&self) -> bool {
        self.direction == Direction::Inbound && self.roll.drain.is_closing()
    }

    /// Whether answers announce that the connection will close.
    pub fn announces_close(&self) -> bool {
        self.roll.drain.has_begun(self.direction)
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
        let tally = self.tally();
        let counted = if self.at_work.load(Relaxed) { &tally.at_work } else { &tally.at_rest };
        counted.fetch_sub(1, Relaxed);
    }
}

impl Tally {
    fn begin(&self) {
        self.begun.fetch_add(1, Relaxed);
        self.at_work.fetch_add(1, Relaxed);
    }
}

impl Roll {
    pub(super) fn new(drain: Drain) -> Self {
        Self { drain, inbound: Tally::default(), outbound: Tally::default() }
    }

    pub(super) fn count(&self) -> Count {
        let Self { inbound, outbound, .. } = self;
        let rested = inbound.at_rest.load(Acquire); // one that wakes or goes to rest meanwhile is seen in one of the three
        let at_work = inbound.at_work.load(Acquire);
        Count {
            inbound: at_work,
            resting: rested.max(inbound.at_rest.load(Relaxed)),
            // Read before `begun`: a connection that begins in between is seen in one of the two.
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
            resting: sum.resting + count.resting,
            outbound_begun: sum.outbound_begun + count.outbound_begun,
        })
    }
}
