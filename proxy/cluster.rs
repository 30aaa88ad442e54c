//! A cluster alive: its endpoints with their connections, its balancer, budget and limits.
//!
//! What the operator said of it is `pillion_config::Cluster`; this is what lives on while it is used. The
//! application behind the inbound side is a cluster too, of one endpoint.

pub(crate) mod backoff;
pub(crate) mod balance;
pub(crate) mod budget;
pub(crate) mod endpoint;
pub(crate) mod ewma;
pub(crate) mod limits;
pub(crate) mod outlier;

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::time::Duration;

use pillion_config as config;
use pillion_config::cluster::{UpstreamProtocol, UpstreamTls};
use pillion_config::listener::{AppProtocol, Inbound};
use pillion_config::policy::{
    Backoff, ConnectionPolicy, OutlierDetection, Retry, RetryBudget, RetryMethods, Timeouts,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::error::{Error, Reason};
use crate::runtime::worker::Worker;
use crate::telemetry::{
    ConnectionOutcome, Direction, EndpointState, Metrics, Protocol, ServiceMetrics, Symbol,
};
use crate::telemetry::{Limit as LimitLabel, Tls};
use crate::tls::client::ClientTls;
use balance::Balancer;
use budget::Budget;
use endpoint::Endpoint;
use limits::Limit;
use outlier::Ejections;

pub(crate) struct Cluster {
    pub(crate) name: Arc<str>,
    /// Outbound for a service, inbound for the application.
    pub(crate) direction: Direction,
    pub(crate) symbol: Symbol,
    pub(crate) endpoints: Box<[Arc<Endpoint>]>,
    pub(crate) balancer: Balancer,
    pub(crate) protocol: Spoken,
    pub(crate) connect_timeout: Duration,
    pub(crate) timeouts: Timeouts,
    pub(crate) connection: ConnectionPolicy,
    pub(crate) retry: Option<Retry>,
    pub(crate) budget: Option<Budget>,
    pub(crate) limits: Limits,
    /// Bytes of one request body.
    pub(crate) max_body: Option<u64>,
    ejections: Arc<Ejections>,
    slots: Arc<Semaphore>,
    max_connections: u32,
    /// Dials that wait for one of `max_connections`.
    waiting_for_slot: AtomicU32,
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
    /// The application's: gRPC as HTTP/2, all other HTTP as HTTP/1.1.
    AppAuto,
}

/// The circuit breaker; connections are bounded by the slots.
pub(crate) struct Limits {
    pub(crate) pending: Arc<Limit>,
    pub(crate) requests: Arc<Limit>,
    pub(crate) retries: Arc<Limit>,
}

impl Cluster {
    /// A service that the application calls.
    pub(crate) fn service(
        of: &config::Cluster,
        tls: Option<ClientTls>,
        metrics: &Arc<Metrics>,
        workers: usize,
    ) -> Arc<Self> {
        let epoch = Instant::now().into_std();
        let symbol = metrics.intern(&of.name);
        let ejections = Ejections::new(&of.outlier_detection, of.endpoints.len());
        let endpoints = of.endpoints.iter().enumerate().map(|(id, endpoint)| {
            let outlier = outlier::Outlier::new(&of.outlier_detection, ejections.clone(), epoch);
            Arc::new(Endpoint::new(id, endpoint.address, endpoint.weight, outlier, workers, epoch))
        });
        let cluster = Arc::new(Self {
            name: of.name.as_str().into(),
            direction: Direction::Outbound,
            symbol,
            endpoints: endpoints.collect(),
            balancer: Balancer::new(of.load_balancer, of.endpoints.iter().map(|endpoint| endpoint.weight)),
            protocol: match of.protocol {
                UpstreamProtocol::Auto => Spoken::Auto,
                UpstreamProtocol::Http1 => Spoken::Http1,
                UpstreamProtocol::Http2 => Spoken::Http2,
            },
            connect_timeout: of.timeouts.connect,
            timeouts: of.timeouts.clone(),
            connection: of.connection.clone(),
            budget: of.retry.as_ref().map(|retry| Budget::new(&retry.budget, epoch)),
            retry: of.retry.clone(),
            limits: Limits {
                pending: Limit::new("max_pending_requests", of.limits.max_pending_requests),
                requests: Limit::new("max_requests", of.limits.max_requests),
                retries: Limit::new("max_retries", of.limits.max_retries),
            },
            max_body: None,
            ejections,
            slots: Arc::new(Semaphore::new(of.limits.max_connections as usize)),
            max_connections: of.limits.max_connections,
            waiting_for_slot: AtomicU32::new(0),
            tls,
            verifies_peers: matches!(of.tls, UpstreamTls::Mutual { .. }),
            metrics: metrics.service(Direction::Outbound, symbol),
        });
        cluster.tell_on_scrape(metrics);
        cluster
    }

    /// The application beside the sidecar.
    pub(crate) fn application(of: &Inbound, metrics: &Arc<Metrics>, workers: usize) -> Option<Arc<Self>> {
        let app = of.app?;
        let epoch = Instant::now().into_std();
        let never =
            OutlierDetection { consecutive_errors: None, base_ejection: Duration::ZERO, max_ejected: 0.0 };
        let ejections = Ejections::new(&never, 1);
        let outlier = outlier::Outlier::new(&never, ejections.clone(), epoch);
        let endpoint = Endpoint::new(0, app, NonZeroU32::MIN, outlier, workers, epoch);
        let port = of.ports.get(&app.port()).and_then(|port| port.protocol);
        let most = u32::try_from(Semaphore::MAX_PERMITS).unwrap_or(u32::MAX);
        Some(Arc::new(Self {
            name: "app".into(),
            direction: Direction::Inbound,
            symbol: Symbol::APP,
            endpoints: [Arc::new(endpoint)].into(),
            balancer: Balancer::new(config::cluster::LoadBalancer::Random, [NonZeroU32::MIN]),
            protocol: match port.unwrap_or(of.protocol) {
                AppProtocol::Auto => Spoken::AppAuto,
                AppProtocol::Http1 => Spoken::Http1,
                AppProtocol::Http2 => Spoken::Http2,
            },
            connect_timeout: APP_CONNECT_TIMEOUT,
            timeouts: Timeouts {
                connect: APP_CONNECT_TIMEOUT,
                request: of.timeout,
                request_written: of.timeout.is_some(),
                stream_idle: Some(APP_STREAM_IDLE),
                tunnel_idle: Some(APP_TUNNEL_IDLE),
                max_duration: None,
            },
            connection: ConnectionPolicy {
                idle_timeout: Some(APP_IDLE_TIMEOUT),
                max_age: None,
                max_requests: None,
                keepalive: None,
            },
            budget: None,
            retry: Some(stale_only()),
            limits: Limits {
                pending: Limit::new("max_pending_requests", most),
                requests: Limit::new("inbound.max_requests", of.max_requests.unwrap_or(most)),
                retries: Limit::new("max_retries", 0),
            },
            max_body: of.max_body,
            ejections,
            slots: Arc::new(Semaphore::new(most as usize)),
            max_connections: most,
            waiting_for_slot: AtomicU32::new(0),
            tls: None,
            verifies_peers: false,
            metrics: metrics.service(Direction::Inbound, Symbol::APP),
        }))
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
            Spoken::Http1 => false,
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
        let slot = self.slots.clone().try_acquire_owned().ok();
        if slot.is_none() {
            let elsewhere = self.endpoints.iter().map(Arc::as_ref).filter(|other| other.id != to.id);
            let _evicted = elsewhere.chain([to]).any(|endpoint| endpoint.pool.evict_idle());
            self.rejected(LimitLabel::Connections);
        }
        slot
    }

    /// Waits for room.
    pub(crate) async fn slot(&self) -> Result<OwnedSemaphorePermit, Error> {
        let _waiting = Waiting::count(&self.waiting_for_slot);
        let closed = |_closed| Error::new(Reason::InternalError, "the cluster's slots are gone");
        self.slots.clone().acquire_owned().await.map_err(closed)
    }

    pub(crate) fn somebody_waits_for_a_slot(&self) -> bool {
        self.waiting_for_slot.load(Relaxed) > 0
    }

    pub(crate) fn rejected(&self, limit: LimitLabel) {
        self.metrics.breaker_rejections(limit).inc();
    }

    /// Counts a connection that was dialled, whatever came of it.
    pub(crate) fn connection_opened(&self, worker: &Worker, protocol: Protocol, outcome: ConnectionOutcome) {
        let tls = match (&self.tls, self.verifies_peers) {
            (None, _) => Tls::None,
            (Some(_), true) => Tls::Mutual,
            (Some(_), false) => Tls::ServerOnly,
        };
        worker.metrics.connections(self.direction, self.symbol, protocol, tls, outcome).inc();
    }

    /// Closes connections that were idle for too long.
    pub(crate) fn sweep(&self) {
        self.endpoints.iter().for_each(|endpoint| endpoint.pool.sweep(self.connection.idle_timeout));
    }

    /// Gauges that mirror live state are read when somebody looks.
    fn tell_on_scrape(self: &Arc<Self>, metrics: &Metrics) {
        let weak: Weak<Self> = Arc::downgrade(self);
        metrics.on_collect(move || {
            if let Some(cluster) = weak.upgrade() {
                cluster.tell();
            }
        });
    }

    fn tell(&self) {
        let open =
            self.max_connections as usize - self.slots.available_permits().min(self.max_connections as usize);
        let limits = [
            (LimitLabel::Connections, open as u32, self.max_connections),
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
}

/// To the application on the same host: it answers at once or not at all. Envoy's default for a local cluster.
const APP_CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// A pause in an application's body; the default of services.
const APP_STREAM_IDLE: Duration = Duration::from_secs(300);
/// The same of TCP, upgrades and CONNECT.
const APP_TUNNEL_IDLE: Duration = Duration::from_secs(3600);
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
        backoff: Backoff { base: Duration::ZERO, max: Duration::ZERO },
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
