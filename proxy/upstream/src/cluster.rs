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
pub mod gradient;
pub mod hashing;
pub mod health;
pub mod latencies;
pub mod outlier;
mod picture;
pub mod pools;
pub mod retry;
pub mod set;
pub mod update;

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::sync::{Arc, LazyLock, OnceLock, Weak};
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use parking_lot::Mutex;
use pillion_model as config;
use pillion_model::cluster::{ClusterKind, HashKey, LoadBalancer, UpstreamProtocol, UpstreamTls};
use pillion_model::endpoint::Problem;
use pillion_model::listener::{AppProtocol, Inbound};
use pillion_model::policy::{
    Backoff, ConnectionPolicy, HealthCheck, IdleTimeout, OutlierDetection, Retry, RetryBudget, RetryMethods,
    Timeout, Timeouts,
};
use pillion_model::{Endpoint as Spec, EndpointUpdate};
use tokio::sync::{AcquireError, OwnedSemaphorePermit};
use tokio::time::Instant;

use crate::pool::Terms;
use crate::slots::{Slot, Slots, Waiting};
use alike::Policies;
use balance::{Candidate as _, Tried};
pub use before::PreviousCluster;
use budget::Budget;
use endpoint::Endpoint;
use gradient::Gradient;
use hashing::KeyHash;
use latencies::Latencies;
use outlier::Ejections;
use pillion_base::error::Error;
use pillion_base::ground::Ground;
use pillion_base::limits::{Limit, NO_LIMIT};
use pillion_base::net::Leg;
use pillion_cache::Cache;
use pillion_model::Direction;
use pillion_model::Reason;
use pillion_telemetry::{ConnectionOutcome, EndpointState, Metrics, Protocol, ServiceMetrics, Symbol};
use pillion_telemetry::{LimitLabel, Tls};
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
            cache: before::cache(of.cache, before),
            slots: before::slots(of.limits.max_connections, before),
            waiting: before.map(|before| before.cluster.waiting.clone()).unwrap_or_default(),
            leaving: before.map(|before| before.cluster.leaving.clone()).unwrap_or_default(),
            max_connections_per_endpoint: of.limits.max_connections_per_endpoint,
            remembered: AtomicU8::new(before.map_or(0, |before| before.cluster.remembered.load(Relaxed))),
            tls,
            verifies_peers: matches!(of.tls, UpstreamTls::Mutual { .. }),
            metrics: metrics.service(Direction::Outbound, symbol),
            latencies: before.map(|before| before.cluster.latencies.clone()).unwrap_or_default(),
        })
    }

    /// The application of this sidecar, at `address`. All addresses of an application share `requests`.
    pub fn application(
        of: &Inbound,
        address: SocketAddr,
        leg: Leg,
        requests: &Arc<Limit>,
        common: &ClusterContext,
    ) -> Arc<Self> {
        let declared = of.ports.get(&address.port()).and_then(|port| port.protocol).unwrap_or(of.protocol);
        let timeouts = Timeouts {
            connect: APP_CONNECT_TIMEOUT,
            request: of.timeout.map_or(Timeout::Off, Timeout::Set),
            stream_idle: of.stream_idle,
            max_duration: None,
        };
        let single = Single {
            name: "app",
            kind: ClusterKind::Application,
            leg,
            symbol: Symbol::APP,
            address,
            protocol: match declared {
                AppProtocol::Auto => ClusterProtocol::AppAuto,
                AppProtocol::Http1 => ClusterProtocol::Http1,
                AppProtocol::Http2 => ClusterProtocol::Http2,
                AppProtocol::Tcp | AppProtocol::Tls => ClusterProtocol::Tcp,
            },
            timeouts,
            idle_timeout: APP_IDLE_TIMEOUT,
            retry: Some(stale_only()),
            requests: requests.clone(),
            max_body: of.max_body,
        };
        single.cluster(common)
    }

    /// A destination that matches no service. It is connected to, and everything else is left to the application.
    pub fn passthrough(address: SocketAddr, common: &ClusterContext) -> Arc<Self> {
        let timeouts = Timeouts {
            connect: PASSTHROUGH_CONNECT_TIMEOUT,
            request: Timeout::Off,
            stream_idle: IdleTimeout::Set(PASSTHROUGH_IDLE),
            max_duration: None,
        };
        let single = Single {
            name: "passthrough",
            kind: ClusterKind::Passthrough,
            leg: Leg::Outbound,
            symbol: Symbol::PASSTHROUGH,
            address,
            protocol: ClusterProtocol::Auto,
            timeouts,
            idle_timeout: APP_IDLE_TIMEOUT,
            retry: Some(stale_only()),
            requests: Limit::new("max_requests", NO_LIMIT),
            max_body: None,
        };
        single.cluster(common)
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

    /// Picks an endpoint that was not tried yet, if there is one, and adds it to `tried`. `key` is the hash of the request
    /// or connection, where [`Self::hash_key`] names one and it has it.
    pub fn pick(
        &self,
        tried: &mut Tried,
        key: Option<KeyHash>,
        now: Instant,
        rng: &mut fastrand::Rng,
    ) -> Option<Arc<Endpoint>> {
        if self.waits_for().is_some() {
            return None; // not the fault of an endpoint
        }
        let (now, endpoints) = (now.into_std(), self.endpoints.load());
        let mut avoid = *tried;
        // An endpoint whose ejection is over admits one probe at a time. A request that is not the probe picks again.
        let picked = std::iter::repeat_with(|| {
            let endpoint = endpoints.pick(&avoid, key, now, rng)?;
            avoid.insert(endpoint.id);
            Some((endpoint, endpoint.outlier.admit(now)))
        });
        let mut last = None;
        for candidate in picked.take(endpoints.all.len().clamp(1, 8)) {
            let Some((endpoint, admitted)) = candidate else { break };
            last = Some(endpoint);
            if admitted {
                break;
            }
        }
        let endpoint = last?;
        tried.insert(endpoint.id);
        Some(endpoint.clone())
    }

    /// An endpoint of the other IP family that is neither ejected nor waiting for its probe, was not tried yet, and has
    /// the zone and priority of `than`. The pick is not hashed.
    pub fn pick_of_other_family(
        &self,
        than: &Endpoint,
        tried: &Tried,
        now: Instant,
        rng: &mut fastrand::Rng,
    ) -> Option<Arc<Endpoint>> {
        self.endpoints.load().pick_of_other_family(than, tried, now.into_std(), rng).cloned()
    }

    /// What its balancer hashes requests by, if it does.
    pub const fn hash_key(&self) -> Option<&HashKey> {
        self.load_balancer.hash_key()
    }

    /// The hash of an opaque connection of this client. Headers, cookies and paths are not in it.
    pub fn hash_of_client(&self, client: IpAddr) -> Option<KeyHash> {
        let is_source = matches!(self.hash_key(), Some(HashKey::Source));
        is_source.then(|| KeyHash::of_client(client))
    }

    /// Why certificates are missing, without which no endpoint is called.
    fn waits_for(&self) -> Option<&str> {
        self.tls.as_ref().and_then(ClientTls::waits_for)
    }

    /// The error that says why [`Self::pick`] found no endpoint.
    pub fn no_endpoint(&self) -> Error {
        let (name, endpoints) = (&self.name, self.endpoints.load());
        let known = endpoints.all.len();
        if let Some(why) = self.waits_for() {
            return Error::new(
                Reason::TlsError,
                format!("\"{name}\" needs certificates that are missing: {why}"),
            );
        }
        match (known, &endpoints.said.problem) {
            (0, Some(problem)) => Error::new(
                match problem {
                    Problem::Dns(_) => Reason::DnsError,
                    Problem::None(_) => Reason::NoEndpoints,
                },
                format!(
                    "no endpoint of \"{name}\" is known: {}; see /clusters on the admin port",
                    problem.text()
                ),
            ),
            (0, None) => Error::new(
                Reason::NoEndpoints,
                format!("\"{name}\" has no endpoints: see /clusters on the admin port"),
            ),
            _ => Error::new(
                Reason::AllUnhealthy,
                format!(
                    "all {known} endpoints of \"{name}\" {}: see /clusters on the admin port",
                    self.why_unusable()
                ),
            ),
        }
    }

    fn why_unusable(&self) -> String {
        let endpoints = self.endpoints.load();
        match endpoints.all.iter().filter(|endpoint| endpoint.is_unhealthy()).count() {
            0 => "are ejected".to_owned(),
            all if all == endpoints.all.len() => "failed their health check".to_owned(),
            some => {
                format!("are out: {some} failed their health check, the others are ejected")
            }
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

    /// A place in the cluster for a connection that cannot be shared. Does not wait.
    pub fn slot_now(&self) -> Result<OwnedSemaphorePermit, Error> {
        self.slots.try_take().ok_or_else(|| {
            self.rejected(LimitLabel::Connections);
            let (name, most) = (&self.name, self.slots.max());
            Error::new(
                Reason::Overloaded,
                format!(
                    "{most} connections to \"{name}\" are open (circuit_breaker.max_connections is {most})"
                ),
            )
        })
    }

    /// A place at one endpoint for such a connection. Does not wait. `None` when the endpoint has no limit of its own.
    pub fn slot_now_at(&self, endpoint: &Endpoint) -> Result<Option<OwnedSemaphorePermit>, Error> {
        let Some(slots) = endpoint.slots() else { return Ok(None) };
        slots.try_take().map(Some).ok_or_else(|| self.endpoint_is_full(endpoint))
    }

    /// The error of an endpoint that is at its limit of connections.
    pub fn endpoint_is_full(&self, endpoint: &Endpoint) -> Error {
        self.rejected(LimitLabel::ConnectionsPerEndpoint);
        let (name, address) = (&self.name, endpoint.address);
        let most = endpoint.slots().map_or(NO_LIMIT, |slots| slots.max());
        Error::new(
            Reason::Overloaded,
            format!(
                "{most} connections to {address} of \"{name}\" are open \
                 (circuit_breaker.max_connections_per_endpoint is {most})"
            ),
        )
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

    /// A place for one more connection. When a limit is reached, an idle connection is closed, so that there is a place
    /// soon.
    pub fn try_slot(&self, to: &Endpoint) -> Option<Slot> {
        let at_endpoint = match to.slots().map(|slots| slots.try_take()) {
            None => None,
            Some(Some(slot)) => Some(slot),
            Some(None) => {
                let _evicted = to.pool.evict_idle();
                self.rejected(LimitLabel::ConnectionsPerEndpoint);
                return None;
            }
        };
        let Some(slot) = self.slots.try_take() else {
            let endpoints = self.endpoints.load();
            let elsewhere = endpoints.all.iter().map(Arc::as_ref).filter(|other| other.id != to.id);
            let _evicted = elsewhere.chain([to]).any(|endpoint| endpoint.pool.evict_idle());
            self.rejected(LimitLabel::Connections);
            return None;
        };
        Some(Slot::new(slot, at_endpoint))
    }

    /// Waits for a place, first at the endpoint: a request that waits there must not hold a place of the cluster.
    pub async fn slot(&self, to: &Endpoint) -> Result<Slot, Error> {
        let gone = |_closed: AcquireError| Error::new(Reason::InternalError, "the cluster's slots are gone");
        let at_endpoint = match to.slots().zip(to.pool.waiting()) {
            None => None,
            Some((slots, waiting)) => Some(slots.take(waiting).await.map_err(gone)?),
        };
        Ok(Slot::new(self.slots.take(&self.waiting).await.map_err(gone)?, at_endpoint))
    }

    /// What a pool of its endpoints needs to know about the cluster.
    pub(crate) fn terms(&self) -> Terms {
        Terms { policy: self.connection.clone(), waiting: self.waiting.clone() }
    }

    pub fn rejected(&self, limit: LimitLabel) {
        self.metrics.breaker_rejections(limit).inc();
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

    /// Sets the gauges that mirror the present state. Called when metrics are read.
    pub fn tell(&self) {
        if !self.metrics.is_used() {
            return;
        }
        let (most_used, most) = self.fullest_endpoint();
        let limits = [
            (LimitLabel::Connections, self.slots.used(), self.slots.max()),
            (LimitLabel::ConnectionsPerEndpoint, most_used, most),
            (LimitLabel::Pending, self.limits.pending.used(), self.limits.pending.max()),
            (LimitLabel::Requests, self.limits.requests.used(), self.limits.requests.max()),
            (LimitLabel::Retries, self.limits.retries.used(), self.limits.retries.max()),
        ];
        for (limit, used, max) in limits {
            self.metrics.breaker_used(limit).set(i64::from(used));
            self.metrics.breaker_limit(limit).set(i64::from(max));
        }
        let (healthy, ejected, unhealthy) = self.endpoints_by_state();
        self.metrics.endpoints(EndpointState::Healthy).set(healthy);
        self.metrics.endpoints(EndpointState::Ejected).set(ejected);
        self.metrics.endpoints(EndpointState::Unhealthy).set(unhealthy);
        self.metrics.endpoints(EndpointState::Draining).set(self.draining());
        if let Some(cache) = &self.cache {
            self.metrics.cache_bytes().set(i64::try_from(cache.bytes()).unwrap_or(i64::MAX));
        }
    }

    /// How many are healthy, ejected, unhealthy. One that is both ejected and unhealthy counts as unhealthy.
    fn endpoints_by_state(&self) -> (i64, i64, i64) {
        let endpoints = self.endpoints.load();
        let count = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        let known = count(endpoints.all.len());
        if self.health_check.is_none() {
            let ejected = i64::from(self.ejections.ejected());
            return (known - ejected, ejected, 0);
        }
        let (unhealthy, others): (Vec<_>, Vec<_>) =
            endpoints.all.iter().partition(|endpoint| endpoint.is_unhealthy());
        let ejected = count(others.iter().filter(|endpoint| !endpoint.outlier.is_closed()).count());
        (known - ejected - count(unhealthy.len()), ejected, count(unhealthy.len()))
    }

    /// The places that are taken at the fullest endpoint, and the limit of each endpoint.
    fn fullest_endpoint(&self) -> (u32, u32) {
        let Some(limit) = self.max_connections_per_endpoint else { return (0, NO_LIMIT) };
        let endpoints = self.endpoints.load();
        let used = endpoints.all.iter().filter_map(|endpoint| Some(endpoint.slots()?.used()));
        (used.max().unwrap_or(0), limit)
    }

    /// Sets the gauges to zero because the cluster is no longer configured. Work that is still under way is not shown.
    pub fn note_removed(&self) {
        if !self.metrics.is_used() {
            return;
        }
        for limit in LimitLabel::ALL {
            self.metrics.breaker_used(*limit).set(0);
            self.metrics.breaker_limit(*limit).set(0);
        }
        EndpointState::ALL.iter().for_each(|state| self.metrics.endpoints(*state).set(0));
    }
}

/// Whether requests to a removed endpoint are under way.
fn is_busy(endpoint: &Weak<Endpoint>) -> bool {
    endpoint.upgrade().is_some_and(|endpoint| endpoint.in_flight() > 0)
}

/// A cluster with one endpoint and without limits of its own.
struct Single {
    name: &'static str,
    kind: ClusterKind,
    leg: Leg,
    symbol: Symbol,
    address: SocketAddr,
    protocol: ClusterProtocol,
    timeouts: Timeouts,
    idle_timeout: Duration,
    retry: Option<Retry>,
    requests: Arc<Limit>,
    max_body: Option<u64>,
}

impl Single {
    fn cluster(self, common: &ClusterContext) -> Arc<Cluster> {
        let epoch = Instant::now().into_std();
        let ejections = Ejections::new(NEVER_EJECTED.clone());
        let outlier = outlier::Outlier::new(ejections.clone(), epoch);
        let endpoint = Endpoint::new(0, &Spec::at(self.address), outlier, common.workers, epoch);
        Arc::new(Cluster {
            name: self.name.into(),
            kind: self.kind,
            leg: self.leg,
            symbol: self.symbol,
            leaving: Arc::default(),
            endpoints: ArcSwap::from_pointee(EndpointSet::single(endpoint)),
            load_balancer: LoadBalancer::Random,
            zone: None,
            slow_start: None,
            workers: common.workers,
            pools: common.pools.clone(),
            protocol: self.protocol,
            connect_timeout: self.timeouts.connect,
            timeouts: Arc::new(self.timeouts),
            connection: Arc::new(ConnectionPolicy {
                idle_timeout: Some(self.idle_timeout),
                max_age: None,
                max_requests: None,
                keepalive: (self.leg == Leg::Outbound).then_some(PASSTHROUGH_KEEPALIVE),
            }),
            budget: None,
            retry: self.retry.map(Arc::new),
            limits: ClusterLimits {
                pending: Limit::new("max_pending_requests", NO_LIMIT),
                requests: self.requests,
                retries: Limit::new("max_retries", 0),
            },
            adaptive: None,
            max_body: self.max_body,
            ejections,
            health_check: None,
            cache: None,
            slots: Slots::new(NO_LIMIT),
            waiting: Arc::default(),
            max_connections_per_endpoint: None,
            remembered: AtomicU8::new(0),
            tls: None,
            verifies_peers: false,
            metrics: common.metrics.service(self.kind.direction(), self.symbol),
            latencies: OnceLock::new(),
        })
    }
}

/// The policy of outlier detection that is switched off.
static NEVER_EJECTED: LazyLock<Arc<OutlierDetection>> = LazyLock::new(|| Arc::new(OutlierDetection::never()));

const REMEMBERS_HTTP: u8 = 1;
const REMEMBERS_OPAQUE: u8 = 2;

/// The default of services.
const PASSTHROUGH_CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// The idle timeout, which is the only timeout of a destination that is not configured.
const PASSTHROUGH_IDLE: Duration = Duration::from_secs(3600);
/// The default of services.
const PASSTHROUGH_KEEPALIVE: Duration = Duration::from_secs(60);

/// For the application on the same host, which accepts at once or not at all. Envoy uses the same default for a local
/// cluster.
const APP_CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// 4 s is below Node's 5 s, the shortest keep-alive in wide use: a connection that the application is about to close is
/// not used for another request.
const APP_IDLE_TIMEOUT: Duration = Duration::from_secs(4);

/// Requests to the application are not retried, with one exception: an idempotent request is sent once more if the
/// application had just closed its pooled connection.
fn stale_only() -> Retry {
    Retry {
        attempts: 0,
        conditions: Vec::new(),
        methods: RetryMethods::Idempotent,
        per_try_timeout: None,
        backoff: Backoff { base: Duration::ZERO, max: Some(Duration::ZERO) },
        budget: RetryBudget { ratio: 0.0, min_per_second: 0 },
        max_body: 64 * 1024,
        hedge_after: None,
    }
}
