//! A cluster alive: its endpoints with their connections, its balancer, budget and limits.
//!
//! What the operator said of it is `pillion_model::Cluster`; this is what lives on while it is used. The
//! application behind the inbound side is a cluster too, of one endpoint.

pub(crate) mod backoff;
pub(crate) mod balance;
mod before;
pub(crate) mod budget;
pub(crate) mod connect;
pub(crate) mod endpoint;
pub(crate) mod ewma;
pub(crate) mod limits;
pub(crate) mod outlier;
mod picture;

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use pillion_model as config;
use pillion_model::cluster::{Kind, UpstreamProtocol, UpstreamTls};
use pillion_model::listener::{AppProtocol, Inbound};
use pillion_model::policy::{
    Backoff, ConnectionPolicy, IdleTimeout, OutlierDetection, Retry, RetryBudget, RetryMethods, Timeout,
    Timeouts,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::error::{Error, Reason};
use crate::net::Leg;
use crate::runtime::ground::Ground;
use crate::telemetry::{
    ConnectionOutcome, Direction, EndpointState, Metrics, Protocol, ServiceMetrics, Symbol,
};
use crate::telemetry::{Limit as LimitLabel, Tls};
use crate::tls::client::ClientTls;
use balance::{Balancer, Tried};
pub(crate) use before::Before;
use budget::Budget;
use endpoint::Endpoint;
use limits::Limit;
use outlier::Ejections;

pub(crate) struct Cluster {
    pub(crate) name: Arc<str>,
    /// Whether it is a service, the application, or a destination that nobody configured.
    pub(crate) kind: Kind,
    /// What its connections are made as.
    pub(crate) leg: Leg,
    pub(crate) symbol: Symbol,
    pub(crate) endpoints: Box<[Arc<Endpoint>]>,
    pub(crate) balancer: Balancer,
    pub(crate) protocol: Spoken,
    pub(crate) connect_timeout: Duration,
    pub(crate) timeouts: Timeouts,
    pub(crate) connection: ConnectionPolicy,
    pub(crate) retry: Option<Retry>,
    pub(crate) budget: Option<Arc<Budget>>,
    pub(crate) limits: Limits,
    /// Bytes of one request body.
    pub(crate) max_body: Option<u64>,
    ejections: Arc<Ejections>,
    slots: Arc<Slots>,
    /// See [`Cluster::remember`].
    remembered: AtomicU8,
    /// Why no endpoint has been learnt; `None`: they are written, or known.
    pub(crate) unlearnt: Option<Arc<str>>,
    tls: Option<ClientTls>,
    verifies_peers: bool,
    metrics: Arc<ServiceMetrics>,
}

/// What a cluster's endpoints are spoken to with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spoken {
    /// A service's: by ALPN over TLS, else the caller's own version.
    Auto,
    Http1,
    Http2,
    /// Opaque bytes; nothing is detected.
    Tcp,
    /// The application's: gRPC as HTTP/2, all other HTTP as HTTP/1.1.
    AppAuto,
}

/// Where a service runs, as far as that is known.
pub(crate) struct Membership {
    pub(crate) endpoints: Vec<config::Endpoint>,
    /// Why no endpoint has been learnt.
    pub(crate) unlearnt: Option<Arc<str>>,
}

/// `max_connections`: a slot for each.
struct Slots {
    free: Arc<Semaphore>,
    max: u32,
    /// Dials that wait for one.
    waiting: AtomicU32,
}

impl Slots {
    fn new(max: u32) -> Arc<Self> {
        let free = Arc::new(Semaphore::new(max as usize));
        Arc::new(Self { free, max, waiting: AtomicU32::new(0) })
    }
}

/// The circuit breaker; connections are bounded by the slots.
#[derive(Clone)]
pub(crate) struct Limits {
    pub(crate) pending: Arc<Limit>,
    pub(crate) requests: Arc<Limit>,
    pub(crate) retries: Arc<Limit>,
}

impl Cluster {
    /// A service that the application calls.
    pub(crate) fn service(
        of: &config::Cluster,
        membership: Membership,
        tls: Option<ClientTls>,
        before: Option<Before<'_>>,
        metrics: &Arc<Metrics>,
        workers: usize,
    ) -> Arc<Self> {
        let Membership { endpoints, unlearnt } = membership;
        let symbol = metrics.intern(&of.name);
        let outliers = of.outlier_detection.as_ref().unwrap_or(&NEVER_EJECTED);
        let ejections = before::ejections(outliers, endpoints.len(), before);
        Arc::new(Self {
            name: of.name.as_str().into(),
            kind: Kind::Service,
            leg: Leg::Outbound,
            symbol,
            endpoints: before::endpoints(of, &endpoints, &ejections, before, workers),
            balancer: Balancer::new(of.load_balancer, endpoints.iter().map(|endpoint| endpoint.weight)),
            protocol: match of.protocol {
                UpstreamProtocol::Auto => Spoken::Auto,
                UpstreamProtocol::Http1 => Spoken::Http1,
                UpstreamProtocol::Http2 => Spoken::Http2,
                UpstreamProtocol::Tcp => Spoken::Tcp,
            },
            connect_timeout: of.timeouts.connect,
            timeouts: of.timeouts.clone(),
            connection: of.connection.clone(),
            budget: before::budget(of.retry.as_ref(), before),
            retry: of.retry.clone(),
            limits: before::limits(&of.limits, before),
            max_body: None,
            ejections,
            slots: before::slots(of.limits.max_connections, before),
            remembered: AtomicU8::new(before.map_or(0, |before| before.cluster.remembered.load(Relaxed))),
            unlearnt,
            tls,
            verifies_peers: matches!(of.tls, UpstreamTls::Mutual { .. }),
            metrics: metrics.service(Direction::Outbound, symbol),
        })
    }

    /// The application at `address`, beside the sidecar. All addresses of an application share `requests`.
    pub(crate) fn application(
        of: &Inbound,
        address: SocketAddr,
        leg: Leg,
        requests: &Arc<Limit>,
        metrics: &Arc<Metrics>,
        workers: usize,
    ) -> Arc<Self> {
        let declared = of.ports.get(&address.port()).and_then(|port| port.protocol).unwrap_or(of.protocol);
        let timeouts = Timeouts {
            connect: APP_CONNECT_TIMEOUT,
            request: of.timeout.map_or(Timeout::Off, Timeout::Set),
            stream_idle: IdleTimeout::Default,
            max_duration: None,
        };
        let single = Single {
            name: "app",
            kind: Kind::Application,
            leg,
            symbol: Symbol::APP,
            address,
            protocol: match declared {
                AppProtocol::Auto => Spoken::AppAuto,
                AppProtocol::Http1 => Spoken::Http1,
                AppProtocol::Http2 => Spoken::Http2,
                AppProtocol::Tcp | AppProtocol::Tls => Spoken::Tcp,
            },
            timeouts,
            idle_timeout: APP_IDLE_TIMEOUT,
            retry: Some(stale_only()),
            requests: requests.clone(),
            max_body: of.max_body,
        };
        single.cluster(metrics, workers)
    }

    /// A destination that no service matches: connected to, and otherwise left to the application.
    pub(crate) fn passthrough(address: SocketAddr, metrics: &Arc<Metrics>, workers: usize) -> Arc<Self> {
        let timeouts = Timeouts {
            connect: PASSTHROUGH_CONNECT_TIMEOUT,
            request: Timeout::Off,
            stream_idle: IdleTimeout::Set(PASSTHROUGH_IDLE),
            max_duration: None,
        };
        let single = Single {
            name: "passthrough",
            kind: Kind::Passthrough,
            leg: Leg::Outbound,
            symbol: Symbol::PASSTHROUGH,
            address,
            protocol: Spoken::Auto,
            timeouts,
            idle_timeout: APP_IDLE_TIMEOUT,
            retry: Some(stale_only()),
            requests: Limit::new("max_requests", NO_LIMIT),
            max_body: None,
        };
        single.cluster(metrics, workers)
    }

    /// Whether this stands for a destination that no service matches.
    pub(crate) fn is_passthrough(&self) -> bool {
        self.kind == Kind::Passthrough
    }

    /// Which way its traffic goes.
    pub(crate) const fn direction(&self) -> Direction {
        self.kind.direction()
    }

    /// An endpoint that was not tried yet, where there is one; from now on it was.
    pub(crate) fn pick(
        &self,
        tried: &mut Tried,
        now: Instant,
        rng: &mut fastrand::Rng,
    ) -> Option<&Arc<Endpoint>> {
        if self.waits_for().is_some() {
            return None; // no endpoint's fault
        }
        let now = now.into_std();
        let mut avoid = *tried;
        // A resting endpoint lets one probe through at a time: whoever comes too late picks again.
        let picked = std::iter::repeat_with(|| {
            let endpoint = self.balancer.pick(&self.endpoints, &avoid, now, rng)?;
            avoid.insert(endpoint.id);
            Some((endpoint, endpoint.outlier.admit(now)))
        });
        let mut last = None;
        for candidate in picked.take(self.endpoints.len().clamp(1, 8)) {
            let Some((endpoint, admitted)) = candidate else { break };
            last = Some(endpoint);
            if admitted {
                break;
            }
        }
        let endpoint = last?;
        tried.insert(endpoint.id);
        Some(endpoint)
    }

    /// Why our own certificate, without which nobody is called, is not there yet.
    fn waits_for(&self) -> Option<&str> {
        self.tls.as_ref().and_then(ClientTls::waits_for)
    }

    /// Why [`Self::pick`] found nobody.
    pub(crate) fn nobody(&self) -> Error {
        let (name, known) = (&self.name, self.endpoints.len());
        if let Some(why) = self.waits_for() {
            return Error::new(
                Reason::TlsError,
                format!("\"{name}\" wants a certificate, and there is none yet: {why}"),
            );
        }
        match (known, &self.unlearnt) {
            (0, Some(why)) => {
                Error::new(Reason::DnsError, format!("no endpoint of \"{name}\" is known: {why}"))
            }
            (0, None) => Error::new(Reason::NoEndpoints, format!("\"{name}\" has no endpoints")),
            _ => Error::new(Reason::AllUnhealthy, format!("all {known} endpoints of \"{name}\" are ejected")),
        }
    }

    /// Room for a connection that nothing else can share, now or not at all.
    pub(crate) fn slot_now(&self) -> Result<OwnedSemaphorePermit, Error> {
        self.slots.free.clone().try_acquire_owned().map_err(|_full| {
            self.rejected(LimitLabel::Connections);
            let (name, most) = (&self.name, self.slots.max);
            Error::new(
                Reason::Overloaded,
                format!(
                    "{most} connections to \"{name}\" are open (circuit_breaker.max_connections is {most})"
                ),
            )
        })
    }

    /// What the last undeclared connection was found to speak.
    pub(crate) fn remember(&self, is_http: bool) {
        self.remembered.store(if is_http { REMEMBERS_HTTP } else { REMEMBERS_OPAQUE }, Relaxed);
    }

    pub(crate) fn expects_http(&self) -> bool {
        self.remembered.load(Relaxed) == REMEMBERS_HTTP
    }

    /// How long a client may be silent before its destination is dialled to hear whether that speaks first.
    pub(crate) fn patience(&self) -> Duration {
        match self.remembered.load(Relaxed) {
            REMEMBERS_OPAQUE => Duration::ZERO,
            REMEMBERS_HTTP => Duration::from_secs(1), // it may have changed, which happens seldom
            _ => Duration::from_millis(1),
        }
    }

    pub(crate) const fn tls(&self) -> Option<&ClientTls> {
        self.tls.as_ref()
    }

    /// Whether an endpoint's identity is checked: only then is a sidecar's word trusted.
    pub(crate) const fn verifies_peers(&self) -> bool {
        self.verifies_peers
    }

    /// Whether an endpoint can say that it did not process a request it was sent: HTTP/2 can (REFUSED_STREAM,
    /// GOAWAY), a verified sidecar can. `is_http2`: the caller spoke it, or its request needs it (gRPC).
    pub(crate) const fn may_refuse(&self, is_http2: bool) -> bool {
        let may_be_http2 = match self.protocol {
            Spoken::Http1 | Spoken::Tcp => false,
            Spoken::Http2 => true,
            Spoken::Auto => is_http2 || self.tls.is_some(),
            Spoken::AppAuto => is_http2,
        };
        self.verifies_peers || may_be_http2
    }

    pub(crate) fn metrics(&self) -> &ServiceMetrics {
        &self.metrics
    }

    /// Room for one more connection; at the limit an idle one is closed, so that there is room soon.
    pub(crate) fn try_slot(&self, to: &Endpoint) -> Option<OwnedSemaphorePermit> {
        let slot = self.slots.free.clone().try_acquire_owned().ok();
        if slot.is_none() {
            let elsewhere = self.endpoints.iter().map(Arc::as_ref).filter(|other| other.id != to.id);
            let _evicted = elsewhere.chain([to]).any(|endpoint| endpoint.pool.evict_idle());
            self.rejected(LimitLabel::Connections);
        }
        slot
    }

    /// Waits for room.
    pub(crate) async fn slot(&self) -> Result<OwnedSemaphorePermit, Error> {
        let _waiting = Waiting::count(&self.slots.waiting);
        let closed = |_closed| Error::new(Reason::InternalError, "the cluster's slots are gone");
        self.slots.free.clone().acquire_owned().await.map_err(closed)
    }

    pub(crate) fn somebody_waits_for_a_slot(&self) -> bool {
        self.slots.waiting.load(Relaxed) > 0
    }

    pub(crate) fn rejected(&self, limit: LimitLabel) {
        self.metrics.breaker_rejections(limit).inc();
    }

    /// Counts a connection that was dialled, whatever came of it.
    pub(crate) fn connection_opened(&self, ground: &Ground, protocol: Protocol, outcome: ConnectionOutcome) {
        ground.metrics.connections(self.direction(), self.symbol, protocol, self.tls_label(), outcome).inc();
    }

    pub(crate) const fn tls_label(&self) -> Tls {
        match (&self.tls, self.verifies_peers) {
            (None, _) => Tls::None,
            (Some(_), true) => Tls::Mutual,
            (Some(_), false) => Tls::ServerOnly,
        }
    }

    /// Closes connections that were idle for too long.
    pub(crate) fn sweep(&self) {
        self.endpoints.iter().for_each(|endpoint| endpoint.pool.sweep(self.connection.idle_timeout));
    }

    /// Gauges that mirror live state, for when somebody looks.
    pub(crate) fn tell(&self) {
        if !self.metrics.is_used() {
            return;
        }
        let limits = [
            (LimitLabel::Connections, self.open_connections(), self.slots.max),
            (LimitLabel::Pending, self.limits.pending.used(), self.limits.pending.max()),
            (LimitLabel::Requests, self.limits.requests.used(), self.limits.requests.max()),
            (LimitLabel::Retries, self.limits.retries.used(), self.limits.retries.max()),
        ];
        for (limit, used, max) in limits {
            self.metrics.breaker_used(limit).set(i64::from(used));
            self.metrics.breaker_limit(limit).set(i64::from(max));
        }
        let ejected = i64::from(self.ejections.ejected());
        let known = i64::try_from(self.endpoints.len()).unwrap_or(i64::MAX);
        self.metrics.endpoints(EndpointState::Ejected).set(ejected);
        self.metrics.endpoints(EndpointState::Available).set(known - ejected);
    }

    /// Slots taken.
    fn open_connections(&self) -> u32 {
        let free = u32::try_from(self.slots.free.available_permits()).unwrap_or(u32::MAX);
        self.slots.max.saturating_sub(free)
    }

    /// It is no longer configured: what is still under way ends untold.
    pub(crate) fn tell_gone(&self) {
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

/// A cluster of one endpoint, without limits of its own.
struct Single {
    name: &'static str,
    kind: Kind,
    leg: Leg,
    symbol: Symbol,
    address: SocketAddr,
    protocol: Spoken,
    timeouts: Timeouts,
    idle_timeout: Duration,
    retry: Option<Retry>,
    requests: Arc<Limit>,
    max_body: Option<u64>,
}

impl Single {
    fn cluster(self, metrics: &Arc<Metrics>, workers: usize) -> Arc<Cluster> {
        let epoch = Instant::now().into_std();
        let ejections = Ejections::new(&NEVER_EJECTED, 1);
        let outlier = outlier::Outlier::new(ejections.clone(), epoch);
        let endpoint = Endpoint::new(0, self.address, NonZeroU32::MIN, outlier, workers, epoch);
        Arc::new(Cluster {
            name: self.name.into(),
            kind: self.kind,
            leg: self.leg,
            symbol: self.symbol,
            endpoints: [Arc::new(endpoint)].into(),
            balancer: Balancer::new(config::cluster::LoadBalancer::Random, [NonZeroU32::MIN]),
            protocol: self.protocol,
            connect_timeout: self.timeouts.connect,
            timeouts: self.timeouts,
            connection: ConnectionPolicy {
                idle_timeout: Some(self.idle_timeout),
                max_age: None,
                max_requests: None,
                keepalive: (self.leg == Leg::Outbound).then_some(PASSTHROUGH_KEEPALIVE),
            },
            budget: None,
            retry: self.retry,
            limits: Limits {
                pending: Limit::new("max_pending_requests", NO_LIMIT),
                requests: self.requests,
                retries: Limit::new("max_retries", 0),
            },
            max_body: self.max_body,
            ejections,
            slots: Slots::new(NO_LIMIT),
            remembered: AtomicU8::new(0),
            unlearnt: None,
            tls: None,
            verifies_peers: false,
            metrics: metrics.service(self.kind.direction(), self.symbol),
        })
    }
}

/// Outlier detection that is off.
const NEVER_EJECTED: OutlierDetection =
    OutlierDetection { consecutive_errors: None, base_ejection: Duration::ZERO, max_ejected: 0.0 };

/// As many as the runtime's own counters can count.
pub(crate) const NO_LIMIT: u32 = (u32::MAX) >> 3;

const REMEMBERS_HTTP: u8 = 1;
const REMEMBERS_OPAQUE: u8 = 2;

/// The default of services.
const PASSTHROUGH_CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// The one timeout that a destination nobody configured keeps: `idle_timeout`.
const PASSTHROUGH_IDLE: Duration = Duration::from_secs(3600);
/// The default of services.
const PASSTHROUGH_KEEPALIVE: Duration = Duration::from_secs(60);

/// To the application on the same host: it answers at once or not at all. Envoy's default for a local cluster.
const APP_CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Below Node's 5 s, the shortest keep-alive in wide use: a connection that the application is about to close is
/// not used for one more request.
const APP_IDLE_TIMEOUT: Duration = Duration::from_secs(4);

/// Towards the application nothing is retried, but an idempotent request that met a connection which the
/// application had just closed is sent once more.
fn stale_only() -> Retry {
    Retry {
        attempts: 0,
        conditions: Vec::new(),
        methods: RetryMethods::Idempotent,
        per_try_timeout: None,
        backoff: Backoff { base: Duration::ZERO, max: Some(Duration::ZERO) },
        budget: RetryBudget { ratio: 0.0, min_per_second: 0 },
        max_body: 64 * 1024,
    }
}

struct Waiting<'a>(&'a AtomicU32);

impl<'a> Waiting<'a> {
    fn count(counter: &'a AtomicU32) -> Self {
        counter.fetch_add(1, Relaxed);
        Self(counter)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}
