//! Clusters with one endpoint and without limits of their own: the application, and destinations that match no service.

use std::net::SocketAddr;
use std::sync::atomic::AtomicU8;
use std::sync::{Arc, LazyLock, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use pillion_model::Endpoint as Spec;
use pillion_model::cluster::{ClusterKind, LoadBalancer};
use pillion_model::listener::{AppProtocol, Inbound};
use pillion_model::policy::{
    Backoff, ConnectionPolicy, IdleTimeout, OutlierDetection, Retry, RetryBudget, RetryMethods, Timeout,
    Timeouts,
};
use tokio::time::Instant;

use super::endpoint::Endpoint;
use super::outlier::{Ejections, Outlier};
use super::set::EndpointSet;
use super::{Cluster, ClusterContext, ClusterLimits, ClusterProtocol};
use crate::slots::Slots;
use pillion_base::limits::{Limit, NO_LIMIT};
use pillion_base::net::Leg;
use pillion_telemetry::Symbol;

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

/// The policy of outlier detection that is switched off.
static NEVER_EJECTED: LazyLock<Arc<OutlierDetection>> = LazyLock::new(|| Arc::new(OutlierDetection::never()));

impl Cluster {
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
        let outlier = Outlier::new(ejections.clone(), epoch);
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
