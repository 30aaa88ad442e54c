//! One address of a cluster: its load, its health, and the connections to it.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::balance::Candidate;
use super::ewma::Ewma;
use super::health::Health;
use super::outlier::{Cause, Ejected, Outlier};
use super::{Cluster, ClusterProtocol};
use crate::pool::{Pool, Want};
use crate::slots::Slots;
use pillion_model::policy::HealthCheck;

pub struct Endpoint {
    pub id: usize,
    pub address: SocketAddr,
    weight: AtomicU32,
    /// Any moment before its first use.
    epoch: Instant,
    /// When the endpoint became ready where others were, or ready again: nanoseconds since `epoch`, and one more. Zero: it
    /// has been ready since the start.
    ready_at: AtomicU64,
    /// Dropping the endpoint closes its idle connections.
    pub pool: Pool,
    /// The places of `max_connections_per_endpoint`. `None` when it is off. Locked for each dial, and never for a
    /// request that finds a connection.
    slots: Mutex<Option<Arc<Slots>>>,
    in_flight: AtomicU32,
    /// The tries that it has got, and those that failed by its fault. For the admin pages alone.
    tries: AtomicU64,
    failures: AtomicU64,
    latency: Ewma,
    pub outlier: Outlier,
    /// A copy of what `health` says, for the way of a request.
    is_unhealthy: AtomicBool,
    health: Mutex<Health>,
    /// The version that the endpoint chose by ALPN the last time.
    learnt: AtomicU8,
    /// Whether the endpoint was removed: no new request comes here.
    has_left: AtomicBool,
}

/// The version that a request prefers for its connection. The endpoint decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preference {
    /// The client used HTTP/1.
    Http1,
    /// The client used HTTP/2, or the request needs it (gRPC).
    Http2,
    /// The request becomes a tunnel. With HTTP/1.1 the endpoint needs no extension for this.
    OnlyHttp1,
}

/// The HTTP version that an endpoint was found to speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Speaks {
    Http1 = 1,
    Http2 = 2,
}

/// A failed try counts as at least this slow, so that an endpoint that fails fast does not look fast.
const FAILURE_COSTS: Duration = Duration::from_millis(50);

impl Endpoint {
    pub fn new(
        id: usize,
        spec: &pillion_model::Endpoint,
        outlier: Outlier,
        workers: usize,
        epoch: Instant,
    ) -> Self {
        Self {
            id,
            address: spec.address,
            weight: AtomicU32::new(spec.weight.get()),
            epoch,
            ready_at: AtomicU64::new(0),
            pool: Pool::new(workers),
            slots: Mutex::new(None),
            in_flight: AtomicU32::new(0),
            tries: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            latency: Ewma::new(epoch),
            outlier,
            is_unhealthy: AtomicBool::new(false),
            health: Mutex::default(),
            learnt: AtomicU8::new(0),
            has_left: AtomicBool::new(false),
        }
    }

    /// The tries that it has got since it was made, and those that failed by its fault.
    pub fn tries(&self) -> (u64, u64) {
        (self.tries.load(Relaxed), self.failures.load(Relaxed))
    }

    /// Whether its health check has failed.
    pub fn is_unhealthy(&self) -> bool {
        self.is_unhealthy.load(Relaxed)
    }

    /// What checks have found of it.
    pub fn health(&self) -> Health {
        self.health.lock().clone()
    }

    /// A check has ended; `failure`: why it failed. Tells a change in the log.
    pub fn checked(&self, failure: Option<Arc<str>>, rule: &HealthCheck, cluster: &Cluster, now: Instant) {
        let mut health = self.health.lock();
        let has_changed = health.record(failure.clone(), rule, now);
        self.is_unhealthy.store(health.is_unhealthy, Relaxed);
        drop(health);
        let (service, endpoint) = (&*cluster.name, self.address);
        match failure {
            Some(why) if has_changed => {
                tracing::info!(service, %endpoint, why = &*why, "endpoint is unhealthy: its health check failed");
            }
            None if has_changed => {
                self.start_slowly(now);
                tracing::info!(service, %endpoint, "endpoint is healthy: its health check passed")
            }
            _ => {}
        }
    }

    /// Notes that the endpoint has just come, or come back: with `slow_start` it gets fewer requests for a while.
    pub(super) fn start_slowly(&self, now: Instant) {
        let since = now.saturating_duration_since(self.epoch).as_nanos();
        self.ready_at.store(u64::try_from(since).unwrap_or(u64::MAX).saturating_add(1), Relaxed);
    }

    /// It is not checked any more, and so counts as healthy.
    pub fn forget_health(&self) {
        *self.health.lock() = Health::default();
        self.is_unhealthy.store(false, Relaxed);
    }

    /// When it was made.
    pub(super) const fn epoch(&self) -> Instant {
        self.epoch
    }

    /// It takes the place of another endpoint at its address, whose `epoch` it has, too.
    pub(super) fn inherit_readiness(&self, of: &Self) {
        self.ready_at.store(of.ready_at.load(Relaxed), Relaxed);
        let health = of.health();
        self.is_unhealthy.store(health.is_unhealthy, Relaxed);
        *self.health.lock() = health;
    }

    /// Marks the endpoint as removed from its cluster: it finishes what it has begun, and gets no new request.
    pub(super) fn leave(&self) {
        self.has_left.store(true, Relaxed);
    }

    /// Closes connections that were idle for too long. A removed endpoint closes every idle connection.
    pub fn sweep(&self, now: tokio::time::Instant) {
        self.pool.sweep(self.has_left.load(Relaxed), now);
    }

    /// Closes every connection that no request uses. Returns how many there were.
    pub fn close_idle(&self) -> usize {
        let idle = self.pool.connections().idle;
        self.pool.sweep(true, tokio::time::Instant::now());
        idle
    }

    /// Sets the weight, which a reload may change.
    pub fn set_weight(&self, weight: NonZeroU32) {
        self.weight.store(weight.get(), Relaxed);
    }

    /// Sets the limit, which a reload may change. A changed limit counts only the connections that are opened from then
    /// on.
    pub(super) fn limit_connections(&self, most: Option<u32>) {
        let mut slots = self.slots.lock();
        if slots.as_ref().map(|slots| slots.max()) != most {
            *slots = most.map(Slots::new);
        }
    }

    /// The places for its connections. `None` when it has no limit of its own.
    pub fn slots(&self) -> Option<Arc<Slots>> {
        self.slots.lock().clone()
    }

    /// Whether all places of its own limit are taken.
    pub fn is_full(&self) -> bool {
        self.slots.lock().as_ref().is_some_and(|slots| slots.is_full())
    }

    /// The kind of connection that a request with this preference gets at this endpoint.
    pub fn want(&self, cluster: &Cluster, preference: Preference) -> Want {
        let is_http2 = match preference {
            Preference::OnlyHttp1 => return Want::OnlyHttp1,
            preference => preference == Preference::Http2,
        };
        match cluster.protocol {
            ClusterProtocol::Http1 | ClusterProtocol::Tcp => Want::Http1,
            ClusterProtocol::Http2 => Want::Http2,
            ClusterProtocol::AppAuto => callers(is_http2),
            ClusterProtocol::Auto if cluster.tls().is_none() => callers(is_http2),
            ClusterProtocol::Auto => match self.learnt.load(Relaxed) {
                1 => Want::Http1,
                2 => Want::Http2,
                _ => Want::Negotiated,
            },
        }
    }

    pub fn learn(&self, speaks: Speaks) {
        self.learnt.store(speaks as u8, Relaxed);
    }

    pub fn answered(&self, took: Duration, cluster: &Cluster, now: Instant) {
        self.latency.observe(took, now);
        if self.outlier.on_success(now) {
            self.start_slowly(now);
            let (service, endpoint) = (&*cluster.name, self.address);
            tracing::info!(service, %endpoint, "endpoint is back: it answered the probe after its ejection");
        }
    }

    /// Another try of the same request was answered before this one, which took at least so long. A first try had its
    /// time before the other one began: that counts as a timeout, as otherwise an endpoint that never answers would stay
    /// in use. The second try had less time, and says nothing.
    pub fn outrun(&self, took: Duration, is_first: bool, cluster: &Cluster, now: Instant) {
        self.latency.observe_at_least(took, now);
        match is_first.then(|| self.outlier.on_error(now, Cause::Timeout)) {
            Some(Some(ejected)) => self.tell(ejected, "outrun", cluster),
            Some(None) => {}
            None => self.outlier.on_neither(now),
        }
    }

    pub fn failed(&self, took: Duration, cause: Cause, cluster: &Cluster, now: Instant) {
        self.failures.fetch_add(1, Relaxed);
        self.latency.observe(took.max(FAILURE_COSTS), now);
        if let Some(ejected) = self.outlier.on_error(now, cause) {
            self.tell(ejected, cause.label(), cluster);
        }
    }

    /// A kept connection ended under its request: see [`Outlier::on_lost_connection`].
    pub fn lost_connection(&self, cluster: &Cluster, now: Instant) {
        self.failures.fetch_add(1, Relaxed);
        if let Some(ejected) = self.outlier.on_lost_connection(now) {
            self.tell(ejected, Cause::Reset.label(), cluster);
        }
    }

    /// Counts and logs an ejection. `last`: the error that caused it.
    fn tell(&self, ejected: Ejected, last: &str, cluster: &Cluster) {
        cluster.metrics().ejections(ejected.cause).inc();
        tracing::info!(
            service = &*cluster.name,
            endpoint = %self.address,
            cause = ejected.cause.as_str(),
            last,
            rest_ms = ejected.rest.as_millis() as u64,
            "endpoint ejected"
        );
    }
}

const fn callers(is_http2: bool) -> Want {
    if is_http2 { Want::Http2 } else { Want::Http1 }
}

impl Candidate for Endpoint {
    fn id(&self) -> usize {
        self.id
    }

    fn address(&self) -> SocketAddr {
        self.address
    }

    fn weight(&self) -> NonZeroU32 {
        NonZeroU32::new(self.weight.load(Relaxed)).unwrap_or(NonZeroU32::MIN)
    }

    fn in_flight(&self) -> u32 {
        self.in_flight.load(Relaxed)
    }

    fn latency(&self, now: Instant) -> Option<f64> {
        self.latency.latency(now)
    }

    fn is_usable(&self, now: Instant) -> bool {
        self.outlier.is_usable(now) && !self.is_unhealthy()
    }

    fn ready_for(&self, now: Instant) -> Option<Duration> {
        let since = self.ready_at.load(Relaxed).checked_sub(1)?;
        Some(now.saturating_duration_since(self.epoch).saturating_sub(Duration::from_nanos(since)))
    }
}

/// One request at an endpoint, until the last byte of its answer.
pub struct InFlight(Arc<Endpoint>);

impl InFlight {
    pub fn at(endpoint: &Arc<Endpoint>) -> Self {
        endpoint.in_flight.fetch_add(1, Relaxed);
        endpoint.tries.fetch_add(1, Relaxed);
        Self(endpoint.clone())
    }

    pub const fn endpoint(&self) -> &Arc<Endpoint> {
        &self.0
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Relaxed);
    }
}
