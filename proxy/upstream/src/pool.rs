//! The open connections of one endpoint: who has one, which are free, and who waits for one.
//!
//! Each endpoint has one [`shard::Shard`] per worker, so that workers share nothing while connections last. Only at
//! `max_connections` does a worker close idle connections of the others.
//!
//! A pool opens no connection and knows no cluster: [`crate::lease`] does both. What it must know of its cluster it holds
//! as [`Terms`].

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

pub use lease::Lease;
pub use send_failure::SendFailure;
pub(crate) use send_failure::reason_http2;

/// How often pools are looked through for connections that were idle too long.
pub const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// What a connection must speak that a request can be given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    Http1,
    Http2,
    /// HTTP/1.1 whatever else the endpoint speaks.
    OnlyHttp1,
    /// Whatever the endpoint chooses by ALPN, which is not known yet.
    Negotiated,
}

impl Want {
    /// Whether others may use the connection at the same time.
    pub(crate) const fn is_shared(self) -> bool {
        matches!(self, Self::Http2 | Self::Negotiated)
    }
}

/// All connections of one endpoint. Most endpoints of a large configuration are never used: what a pool needs is made
/// with its first connection.
pub struct Pool {
    used: OnceLock<Box<Used>>,
    workers: usize,
}

struct Used {
    /// One for each worker, never empty.
    shards: Box<[Arc<Shard>]>,
    open: Counted,
    /// Who waits for a place at this endpoint, whichever worker asked.
    waiting: Arc<Waiting>,
}

/// What a pool is told of its cluster. It stays for as long as the pool does: an endpoint whose `connection` policy
/// changes is another endpoint from then on, and who waits for a cluster is counted by the clusters of one name together.
#[derive(Clone)]
pub(crate) struct Terms {
    pub(crate) policy: Arc<ConnectionPolicy>,
    /// Who waits for a place in the cluster.
    pub(crate) waiting: Arc<Waiting>,
}

/// Held by every open connection of a pool, and by the pool: how many hold it is how many there are.
pub(crate) type Counted = Arc<()>;

/// HTTP connections of a pool at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connections {
    /// Those of the open ones that no request uses.
    pub idle: usize,
    pub open: usize,
}

impl Pool {
    pub const fn new(workers: usize) -> Self {
        Self { used: OnceLock::new(), workers }
    }

    /// `None`: nobody has been here yet.
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

    /// Closes one idle connection, of whichever worker, to make room for another.
    pub fn evict_idle(&self) -> bool {
        self.shards().any(|shard| shard.evict_idle())
    }

    /// Closes what was idle for too long; `has_left`: all that is idle, as nobody new comes here.
    pub fn sweep(&self, has_left: bool) {
        self.shards().for_each(|shard| shard.sweep(has_left));
    }

    /// Who waits for a place at this endpoint. `None`: nobody has been here yet.
    pub fn waiting(&self) -> Option<&Waiting> {
        self.used.get().map(|used| &*used.waiting)
    }

    /// One more, for as long as it is held.
    pub(crate) fn count(&self) -> Counted {
        self.used.get().map(|used| used.open.clone()).unwrap_or_default()
    }

    /// For people who ask.
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

/// How long a connection has been idle, without reading the clock per request: the sweep notices when it finds it
/// idle for the first time, at most [`SWEEP_EVERY`] late.
#[derive(Debug, Clone, Copy, Default)]
struct Idle(Option<Instant>);

impl Idle {
    /// Whether it is to be closed at `now`, before it was idle for `most`.
    fn is_over(&mut self, most: Option<Duration>, now: Instant) -> bool {
        let noticed = *self.0.get_or_insert(now);
        most.is_some_and(|most| now.duration_since(noticed) + 2 * SWEEP_EVERY >= most)
    }
}

/// What a pool must know of a connection besides how to use it.
#[derive(Clone, Copy)]
pub(crate) struct About {
    opened: Instant,
    uses: u64,
    /// A sidecar of ours whose identity was verified: its word is trusted.
    pub(crate) is_sidecar: bool,
}

impl About {
    pub(crate) fn new(is_sidecar: bool) -> Self {
        Self { opened: Instant::now(), uses: 0, is_sidecar }
    }

    fn is_worn(&self, policy: &ConnectionPolicy) -> bool {
        policy.max_requests.is_some_and(|max| self.uses >= u64::from(max))
            || policy.max_age.is_some_and(|max| self.opened.elapsed() >= max)
    }
}
