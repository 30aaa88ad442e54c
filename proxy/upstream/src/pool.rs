//! The open connections of one endpoint: those in use, those that are free, and the requests that wait for one.
//!
//! Each endpoint has one [`shard::Shard`] for each worker, so that workers share nothing while connections last. Only
//! at `max_connections` a worker closes idle connections of the other workers.
//!
//! A pool opens no connection and knows no cluster: [`crate::lease`] does both. [`Terms`] hold what a pool must know of
//! its cluster.

mod aftermath;
pub(crate) mod http1;
pub(crate) mod http2;
mod lease;
mod send_failure;
pub(crate) mod shard;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use pillion_model::policy::ConnectionPolicy;
use tokio::time::Instant;

use crate::slots::Waiting;
use shard::Shard;

pub use aftermath::Patience;
pub use lease::Lease;
pub use send_failure::SendFailure;
pub(crate) use send_failure::reason_http2;

/// The interval at which pools are searched for connections that were idle for too long.
pub const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// The kind of connection that a request can use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    Http1,
    Http2,
    /// HTTP/1.1, also when the endpoint speaks other versions.
    OnlyHttp1,
    /// The version that the endpoint will choose by ALPN, which is not known yet.
    Negotiated,
}

impl Want {
    /// Whether other requests may use the connection at the same time.
    pub(crate) const fn is_shared(self) -> bool {
        matches!(self, Self::Http2 | Self::Negotiated)
    }
}

/// All connections of one endpoint. Most endpoints of a large configuration are never used, so the content of a pool is
/// made with its first connection.
pub struct Pool {
    used: OnceLock<Box<Used>>,
    workers: usize,
}

struct Used {
    /// One shard for each worker, never empty.
    shards: Box<[Arc<Shard>]>,
    open: Counted,
    /// The requests that wait for a place at this endpoint, from all workers.
    waiting: Arc<Waiting>,
}

/// What a pool must know of its cluster. It never changes: an endpoint whose `connection` policy changes is replaced by
/// a new endpoint, and all clusters of one name share the count of waiting requests.
#[derive(Clone)]
pub(crate) struct Terms {
    pub(crate) policy: Arc<ConnectionPolicy>,
    /// The requests that wait for a place in the cluster.
    pub(crate) waiting: Arc<Waiting>,
}

/// Held by the pool and by each of its open connections: the number of references counts the connections.
pub(crate) type Counted = Arc<()>;

/// The HTTP connections of a pool at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connections {
    /// The number of open connections that no request uses.
    pub idle: usize,
    pub open: usize,
}

impl Pool {
    pub const fn new(workers: usize) -> Self {
        Self { used: OnceLock::new(), workers }
    }

    /// `None` when no connection was needed yet.
    pub(crate) fn shard(&self, worker: usize) -> Option<&Arc<Shard>> {
        self.used.get().map(|used| used.shard(worker))
    }

    /// The shard of a worker that is about to connect. `at_first` is called once in the life of a pool.
    pub(crate) fn shard_or_make(&self, worker: usize, at_first: impl FnOnce() -> Terms) -> &Arc<Shard> {
        let used = self.used.get_or_init(|| {
            let terms = at_first();
            let waiting = Arc::<Waiting>::default();
            let shard = |_| Arc::new(Shard::new(terms.clone(), waiting.clone()));
            let shards = (0..self.workers.max(1)).map(shard).collect();
            Box::new(Used { shards, open: Counted::default(), waiting })
        });
        used.shard(worker)
    }

    /// Closes one idle connection of any worker, to make room for another connection.
    pub fn evict_idle(&self) -> bool {
        self.shards().any(|shard| shard.evict_idle())
    }

    /// Closes connections that were idle for too long. With `has_left` it closes every idle connection, because the
    /// endpoint gets no new request.
    pub fn sweep(&self, has_left: bool, now: Instant) {
        self.shards().for_each(|shard| shard.sweep(has_left, now));
    }

    /// No further request uses a connection that has been opened until now. What is under way ends in order.
    pub fn retire(&self) {
        let now = Instant::now();
        self.shards().for_each(|shard| shard.retire_all(now));
    }

    /// The requests that wait for a place at this endpoint. `None` when no connection was needed yet.
    pub fn waiting(&self) -> Option<&Waiting> {
        self.used.get().map(|used| &*used.waiting)
    }

    /// Counts one more connection for as long as the returned value is held.
    pub(crate) fn count(&self) -> Counted {
        self.used.get().map(|used| used.open.clone()).unwrap_or_default()
    }

    /// The number of connections, for the admin pages.
    pub fn connections(&self) -> Connections {
        let idle = self.shards().map(|shard| shard.idle()).sum();
        let open = self.used.get().map_or(0, |used| Arc::strong_count(&used.open) - 1);
        Connections { idle, open }
    }

    fn shards(&self) -> impl Iterator<Item = &Arc<Shard>> {
        self.used.get().into_iter().flat_map(|used| &used.shards)
    }
}

impl Used {
    #[allow(clippy::indexing_slicing)] // the remainder is within, and there is at least one
    fn shard(&self, worker: usize) -> &Arc<Shard> {
        &self.shards[worker % self.shards.len()]
    }
}

/// When a connection that is idle must be closed, without a read of the clock for each request: the sweep notes it when
/// it finds the connection idle for the first time, at most [`SWEEP_EVERY`] late.
#[derive(Debug, Clone, Copy, Default)]
struct Idle(Option<Instant>);

impl Idle {
    /// Whether the connection must be closed at `now`, so that it is closed before it was idle for `most`. That is
    /// always the same, or zero.
    fn is_over(&mut self, most: Option<Duration>, now: Instant) -> bool {
        let Some(most) = most else { return false };
        let rest = most.saturating_sub(2 * SWEEP_EVERY).min(LONGEST_IDLE);
        rest.is_zero() || now >= *self.0.get_or_insert_with(|| now + rest)
    }
}

/// A year, so that the end of an idle time can be told.
const LONGEST_IDLE: Duration = Duration::from_secs(365 * 24 * 3600);

/// The age and the peer of a connection.
#[derive(Clone, Copy)]
pub(crate) struct About {
    /// When its dial began: its handshake used the credentials of that moment.
    opened: Instant,
    uses: u64,
    /// Whether the peer is a sidecar whose identity was verified. Its headers are trusted.
    pub(crate) is_sidecar: bool,
}

impl About {
    pub(crate) const fn new(is_sidecar: bool, opened: Instant) -> Self {
        Self { opened, uses: 0, is_sidecar }
    }

    fn is_worn(&self, policy: &ConnectionPolicy) -> bool {
        policy.max_requests.is_some_and(|max| self.uses >= u64::from(max))
            || policy.max_age.is_some_and(|max| self.opened.elapsed() >= max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_closed_before_it_was_idle_for_too_long_and_at_once_where_it_may_not_be_idle() {
        let (start, seconds) = (Instant::now(), Duration::from_secs);
        let over_at = |most: Option<Duration>| {
            let mut idle = Idle::default();
            (0..100).find(|second| idle.is_over(most, start + seconds(*second)))
        };
        assert_eq!(
            [None, Some(seconds(60)), Some(seconds(1)), Some(Duration::MAX)].map(over_at),
            [None, Some(58), Some(0), None]
        );
        let mut idle = Idle::default();
        assert!(!idle.is_over(Some(seconds(60)), start));
        assert!(idle.is_over(Some(Duration::ZERO), start), "its endpoint has left");
    }
}
