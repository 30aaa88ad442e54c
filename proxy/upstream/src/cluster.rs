//! The running state of a cluster: its endpoints with their connections, its balancer, retry budget and limits.
//!
//! `pillion_model::Cluster` is the configuration of a cluster. This [`Cluster`] is what lives on while it is used. The
//! application behind the inbound side is a cluster as well, with one endpoint.

pub mod alike;
pub mod backoff;
pub mod balance;
mod before;
pub mod budget;
pub mod endpoint;
pub mod ewma;
mod gauges;
pub mod gradient;
pub mod hashing;
pub mod health;
pub mod latencies;
pub mod outlier;
mod pick;
mod picture;
mod places;
pub mod pools;
pub mod retry;
pub mod set;
mod single;
pub mod update;

use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use parking_lot::Mutex;
use pillion_model as config;
use pillion_model::EndpointUpdate;
use pillion_model::cluster::{ClusterKind, LoadBalancer, UpstreamProtocol, UpstreamTls};
use pillion_model::policy::{ConnectionPolicy, HealthCheck, OutlierDetection, Retry, Timeouts};
use tokio::time::Instant;

use crate::slots::{Slots, Waiting};
use alike::Policies;
use balance::Candidate as _;
pub use before::PreviousCluster;
use budget::Budget;
use endpoint::Endpoint;
use gradient::Gradient;
use latencies::Latencies;
use outlier::Ejections;
use pillion_base::ground::Ground;
use pillion_base::limits::Limit;
use pillion_base::net::Leg;
use pillion_cache::Cache;
use pillion_model::Direction;
use pillion_telemetry::{ConnectionOutcome, Metrics, Protocol, ServiceMetrics, Symbol, Tls};
use pillion_tls::client::ClientTls;
use pools::Pools;
use set::{EndpointSet, Make};

pub struct Cluster {
    pub name: Arc<str>,
    /// Whether it is a service, the application, or a destination that is not configured.
    pub kind: ClusterKind,
    /// The leg that its connections are dialled as.
    pub leg: Leg,
    pub symbol: Symbol,
    /// Replaced as a whole when the source of endpoints reports a change. Two loads in a row may see two different
    /// sets.
    endpoints: ArcSwap<EndpointSet>,
    /// The endpoints that were removed, while requests to them are under way.
    leaving: Arc<Mutex<Vec<Weak<Endpoint>>>>,
    load_balancer: LoadBalancer,
    /// The zone of this sidecar.
    zone: Option<Arc<str>>,
    /// How long an endpoint that has become ready gets fewer requests.
    slow_start: Option<Duration>,
    /// The number of workers, for the pools of endpoints that are added later.
    workers: usize,
    pub pools: Arc<Pools>,
    pub protocol: ClusterProtocol,
    pub connect_timeout: Duration,
    /// This and the next two are shared by all clusters with equal policies.
    pub timeouts: Arc<Timeouts>,
    pub connection: Arc<ConnectionPolicy>,
    pub retry: Option<Arc<Retry>>,
    pub budget: Option<Arc<Budget>>,
    pub limits: ClusterLimits,
    /// What moves `limits.requests`; `None`: it stays where it is configured.
    adaptive: Option<Arc<Mutex<Gradient>>>,
    /// The largest request body, in bytes.
    pub max_body: Option<u64>,
    ejections: Arc<Ejections>,
    health_check: Option<Arc<HealthCheck>>,
    cache: Option<Arc<Cache>>,
    slots: Arc<Slots>,
    /// The requests that wait for a place in `slots`.
    waiting: Arc<Waiting>,
    /// Also applied to endpoints that are added later.
    max_connections_per_endpoint: Option<u32>,
    /// See [`Cluster::remember`].
    remembered: AtomicU8,
    tls: Option<ClientTls>,
    verifies_peers: bool,
    metrics: Arc<ServiceMetrics>,
    /// Filled only where a `hedge_after` is p95.
    latencies: OnceLock<Arc<Latencies>>,
}

/// The values that all clusters of a sidecar are made with.
#[derive(Clone)]
pub struct ClusterContext {
    pub metrics: Arc<Metrics>,
    pub pools: Arc<Pools>,
    /// The number of threads that keep connections of their own.
    pub workers: usize,
    /// The zone in which this sidecar runs.
    pub zone: Option<Arc<str>>,
}

impl ClusterContext {
    pub fn new(metrics: &Arc<Metrics>, workers: usize) -> Self {
        Self { metrics: metrics.clone(), pools: Arc::default(), workers, zone: None }
    }
}

/// The protocol to the endpoints of a cluster, as far as it is known before a connection comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClusterProtocol {
    /// For a service: by ALPN if it uses TLS, otherwise the client's own version.
    Auto,
    Http1,
    Http2,
    /// Opaque bytes. Nothing is detected.
    Tcp,
    /// For the application: HTTP/2 for gRPC, HTTP/1.1 for all other HTTP.
    AppAuto,
}

/// The limits of the circuit breaker. The slots limit connections.
#[derive(Clone)]
pub struct ClusterLimits {
    pub pending: Arc<Limit>,
    pub requests: Arc<Limit>,
    pub retries: Arc<Limit>,
}

impl Cluster {
    /// A service that the application calls. `said` is what the source of its endpoints can report at once. Without it
    /// the endpoints of the previous cluster stay in use.
    pub fn service(
        of: &config::Cluster,
        said: Option<EndpointUpdate>,
        tls: Option<ClientTls>,
        before: Option<PreviousCluster<'_>>,
        policies: &mut Policies,
        common: &ClusterContext,
    ) -> Arc<Self> {
        let ClusterContext { metrics, .. } = common;
        let symbol = metrics.intern(&of.name);
        let never = OutlierDetection::never();
        let outliers = policies.outliers.share(of.outlier_detection.as_ref().unwrap_or(&never));
        let ejections = before::ejections(outliers, before);
        let endpoints = before::endpoints(of, said, &ejections, before, common);
        ejections.allow_of(endpoints.all.len(), endpoints.before_last());
        let limits = before::limits(&of.limits, before);
        let adaptive = before::adaptive(&of.limits, &limits.requests, before);
        let metrics = metrics.service(Direction::Outbound, symbol);
        let cache = before::cache(of.cache, before, &metrics);
        Arc::new(Self {
            name: of.name.as_str().into(),
            kind: ClusterKind::Service,
            leg: Leg::Outbound,
            symbol,
            endpoints: ArcSwap::from_pointee(endpoints),
            load_balancer: of.load_balancer.clone(),
            zone: common.zone.clone(),
            slow_start: of.slow_start,
            workers: common.workers,
            pools: common.pools.clone(),
            protocol: match of.protocol {
                UpstreamProtocol::Auto => ClusterProtocol::Auto,
                UpstreamProtocol::Http1 => ClusterProtocol::Http1,
                UpstreamProtocol::Http2 => ClusterProtocol::Http2,
                UpstreamProtocol::Tcp => ClusterProtocol::Tcp,
            },
            connect_timeout: of.timeouts.connect,
            timeouts: policies.timeouts.share(&of.timeouts),
            connection: policies.connections.share(&of.connection),
            budget: before::budget(of.retry.as_ref(), before),
            retry: of.retry.as_ref().map(|retry| policies.retries.share(retry)),
            limits,
            adaptive,
            max_body: None,
            ejections,
            health_check: of.health_check.clone().map(Arc::new),
            cache,
            slots: before::slots(of.limits.max_connections, before),
            waiting: before.map(|before| before.cluster.waiting.clone()).unwrap_or_default(),
            leaving: before.map(|before| before.cluster.leaving.clone()).unwrap_or_default(),
            max_connections_per_endpoint: of.limits.max_connections_per_endpoint,
            remembered: AtomicU8::new(before.map_or(0, |before| before.cluster.remembered.load(Relaxed))),
            tls,
            verifies_peers: matches!(of.tls, UpstreamTls::Mutual { .. }),
            metrics,
            latencies: before.map(|before| before.cluster.latencies.clone()).unwrap_or_default(),
        })
    }

    /// Whether this is a destination that matches no service.
    pub fn is_passthrough(&self) -> bool {
        self.kind == ClusterKind::Passthrough
    }

    /// The direction of its traffic.
    pub const fn direction(&self) -> Direction {
        self.kind.direction()
    }

    /// The present endpoints. Do not hold the guard across an await.
    pub fn endpoints(&self) -> Guard<Arc<EndpointSet>> {
        self.endpoints.load()
    }

    /// Replaces what the source of the endpoints reported before by `said`, in one step. Nothing else of the cluster
    /// changes. Endpoints in both sets keep their connections, load and standing; endpoints that are removed finish the
    /// requests they have begun. Only one caller at a time may call this. Returns whether the endpoints changed.
    pub fn update(&self, said: EndpointUpdate) -> bool {
        let before = self.endpoints.load_full();
        // A new source that knows no endpoint yet does not remove the endpoints of the former source.
        let keeps_others = before.is_of_former_source && said.endpoints.is_empty() && !before.all.is_empty();
        if keeps_others || (before.said == said && !before.is_of_former_source) {
            return false;
        }
        let make = Make {
            balancer: &self.load_balancer,
            zone: self.zone.as_deref(),
            slow_start: self.slow_start,
            ejections: &self.ejections,
            max_connections: self.max_connections_per_endpoint,
            is_checked: self.health_check.is_some(),
            workers: self.workers,
        };
        let next = EndpointSet::new(said, Some(&before), true, &make);
        self.ejections.allow_of(next.all.len(), next.before_last());
        let next = Arc::new(next);
        self.endpoints.store(next.clone());
        self.note_leaving(before.leave_for(Some(&next)));
        true
    }

    /// Tells the endpoints that another cluster of this name takes over, or that none does.
    pub fn leave_for(&self, next: Option<&Self>) {
        let next = next.map(|next| next.endpoints.load_full());
        self.note_leaving(self.endpoints.load().leave_for(next.as_deref()));
    }

    fn note_leaving(&self, gone: Vec<Weak<Endpoint>>) {
        let mut leaving = self.leaving.lock();
        leaving.retain(is_busy);
        leaving.extend(gone);
    }

    /// How many removed endpoints have requests under way.
    fn draining(&self) -> i64 {
        let mut leaving = self.leaving.lock();
        leaving.retain(is_busy);
        i64::try_from(leaving.len()).unwrap_or(i64::MAX)
    }

    /// The next requests use new connections, where the cluster uses TLS: the credentials have changed, and a server of
    /// before may not be trusted any more.
    pub fn retire_connections(&self) {
        if self.tls().is_some() {
            self.endpoints.load().all.iter().for_each(|endpoint| endpoint.pool.retire());
        }
    }

    /// How long its recent requests took. Begins to count when it is first asked for.
    pub fn latencies(&self) -> &Latencies {
        self.latencies.get_or_init(|| Arc::new(Latencies::new(Instant::now().into_std())))
    }

    /// A request was answered, or timed out, after this time. Moves the adaptive limit, if there is one.
    pub fn note_latency(&self, took: Duration, now: Instant) {
        self.move_limit(|gradient| gradient.observe(took, now.into_std()));
    }

    /// A request was given up without an answer after this time.
    pub fn note_latency_of_at_least(&self, took: Duration, now: Instant) {
        self.move_limit(|gradient| gradient.observe_at_least(took, now.into_std()));
    }

    fn move_limit(&self, observe: impl FnOnce(&mut Gradient) -> Option<u32>) {
        let Some(adaptive) = &self.adaptive else { return };
        let mut gradient = adaptive.lock();
        if let Some(limit) = observe(&mut gradient) {
            self.limits.requests.set_max(limit); // under the lock, so that limits are set in their order
        }
    }

    /// The key that sets the limit of requests in flight.
    pub const fn key_of_requests(&self) -> &'static str {
        if self.adaptive.is_some() { "circuit_breaker.adaptive" } else { "max_requests" }
    }

    /// How its endpoints are checked; `None`: they are not.
    pub const fn health_check(&self) -> Option<&Arc<HealthCheck>> {
        self.health_check.as_ref()
    }

    /// Where its answers are kept; `None`: nowhere.
    pub const fn cache(&self) -> Option<&Arc<Cache>> {
        self.cache.as_ref()
    }

    /// Remembers the protocol of the last connection whose protocol was not declared.
    pub fn remember(&self, is_http: bool) {
        self.remembered.store(if is_http { REMEMBERS_HTTP } else { REMEMBERS_OPAQUE }, Relaxed);
    }

    pub fn expects_http(&self) -> bool {
        self.remembered.load(Relaxed) == REMEMBERS_HTTP
    }

    /// How long a client may be silent before its destination is dialled, to find out whether the server speaks first.
    pub fn patience(&self) -> Duration {
        match self.remembered.load(Relaxed) {
            REMEMBERS_OPAQUE => Duration::ZERO,
            REMEMBERS_HTTP => Duration::from_secs(1), // long, because a service rarely changes its protocol
            _ => Duration::from_millis(1),
        }
    }

    pub const fn tls(&self) -> Option<&ClientTls> {
        self.tls.as_ref()
    }

    /// Whether the endpoints' identity is verified. Only then are the headers of a sidecar trusted.
    pub const fn verifies_peers(&self) -> bool {
        self.verifies_peers
    }

    /// Whether an endpoint can report that it did not process a request: HTTP/2 can (REFUSED_STREAM, GOAWAY), and a
    /// verified sidecar can. `is_http2` says that the client used HTTP/2, or that its request needs it (gRPC).
    pub const fn may_refuse(&self, is_http2: bool) -> bool {
        let may_be_http2 = match self.protocol {
            ClusterProtocol::Http1 | ClusterProtocol::Tcp => false,
            ClusterProtocol::Http2 => true,
            ClusterProtocol::Auto => is_http2 || self.tls.is_some(),
            ClusterProtocol::AppAuto => is_http2,
        };
        self.verifies_peers || may_be_http2
    }

    pub fn metrics(&self) -> &ServiceMetrics {
        &self.metrics
    }

    /// Counts a connection that was dialled, with its outcome.
    pub fn connection_opened(&self, ground: &Ground, protocol: Protocol, outcome: ConnectionOutcome) {
        ground.metrics.connections(self.direction(), self.symbol, protocol, self.tls_label(), outcome).inc();
    }

    pub const fn tls_label(&self) -> Tls {
        match (&self.tls, self.verifies_peers) {
            (None, _) => Tls::None,
            (Some(_), true) => Tls::Mutual,
            (Some(_), false) => Tls::ServerOnly,
        }
    }
}

/// Whether requests to a removed endpoint are under way.
fn is_busy(endpoint: &Weak<Endpoint>) -> bool {
    endpoint.upgrade().is_some_and(|endpoint| endpoint.in_flight() > 0)
}

const REMEMBERS_HTTP: u8 = 1;
const REMEMBERS_OPAQUE: u8 = 2;
