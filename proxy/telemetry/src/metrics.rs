//! Every metric family of the sidecar by name, with its labels. The list is part of the public interface.
//!
//! The data path resolves handles once and keeps them: one [`ServiceMetrics`] for each service, one [`super::Recorder`]
//! for each worker. Functions that take labels use a shared lock and are meant for connections, not for requests.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use parking_lot::{Mutex, RwLock};

use super::application;
use super::companions::Board;
use super::exemplars::Exemplars;
use super::families::Families;
use super::family::{Exposition, Histogram, IntCounter, IntGauge};
use super::istio::{IstioLabels, IstioRequests, Own, Servers};
use super::labels::{
    AuthorizationMode, CertificateUse, CheckOutcome, ConnectionOutcome, Decision, DetectionVerdict,
    DnsOutcome, EndpointLabels, HandshakeOutcome, JwksOutcome, Label, ListCause, LogOutcome, NameLabel,
    Protocol, ReloadOutcome, RequestLabels, RouteLabel, RuleLabel, Service, Shed, SinkLabel, SourceLabel,
    SpanOutcome, SyncOutcome, Tls, TokenOutcome, WatchState,
};
use super::overview::Overview;
use super::process;
use super::propagation::TraceId;
use super::service::ServiceMetrics;
use super::symbols::{Symbol, Symbols};
use pillion_model::telemetry::ProcessMetrics;
use pillion_model::{Direction, Workload};

/// The commit from which the binary was built. The build takes it from this environment variable.
pub const REVISION: &str = match option_env!("PILLION_REVISION") {
    Some(revision) => revision,
    None => "unknown",
};

/// How long the series of an endpoint that left its service are exported: several scrapes of each Prometheus replica,
/// whose usual interval is a minute at most.
const LEFT_FOR: Duration = Duration::from_mins(5);

/// What is counted beyond the usual.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Detail {
    /// `metrics.endpoints`: the tries at each endpoint.
    pub has_endpoints: bool,
    /// `metrics.compatibility: [istio]`.
    pub has_istio: bool,
}

/// All metrics of the sidecar.
pub struct Metrics {
    exposition: Exposition,
    detail: Detail,
    symbols: Arc<Symbols>,
    families: Arc<Families>,
    services: RwLock<HashMap<(Direction, Symbol), Arc<ServiceMetrics>>>,
    hooks: Mutex<Vec<Hook>>,
    /// Those that run before expositions only.
    exposition_hooks: Mutex<Vec<Hook>>,
    removals: AtomicU64,
    /// The names of the configured routes when series were last removed.
    routes: Mutex<Arc<HashSet<Symbol>>>,
    /// A request of a removed route has ended since, and was counted in a new series.
    is_stale: AtomicBool,
    /// The names of the authorization rules when series were last removed.
    rules: Mutex<Arc<HashSet<Symbol>>>,
    /// The endpoints that have left their services and have series still, each with the time at which that was noticed.
    left: Mutex<HashMap<EndpointKey, Instant>>,
    /// The workload of this sidecar, as Istio's labels name it.
    own: RwLock<Own>,
    servers: Servers,
    /// Counts the changes of `own` and `servers`.
    identities: AtomicU64,
    exemplars: Exemplars,
    companions: Board,
}

type Hook = Arc<dyn Fn() + Send + Sync>;

/// The service and the address of an endpoint.
pub type EndpointKey = (Symbol, SocketAddr);

impl Metrics {
    /// `max_series` bounds the whole exposition. A histogram counts with all its buckets.
    pub fn new(max_series: usize) -> Arc<Self> {
        Self::with(max_series, Detail::default())
    }

    pub fn with(max_series: usize, detail: Detail) -> Arc<Self> {
        // one bound serves both, because a peer's symbol without a series has no use
        let symbols = Arc::new(Symbols::new(max_series));
        let exposition = Exposition::new(symbols.clone(), max_series);
        let families = Arc::new(Families::register(&exposition));
        publish_build(&exposition);
        process::tell(&exposition);
        families.access_log_dropped.of(());
        ReloadOutcome::ALL.iter().for_each(|outcome| drop(families.config_reloads.of((*outcome,))));
        let (services, hooks, exposition_hooks) = (RwLock::default(), Mutex::default(), Mutex::default());
        let (routes, rules) = (Mutex::default(), Mutex::default());
        let (removals, is_stale) = (AtomicU64::new(0), AtomicBool::new(false));
        let left = Mutex::default();
        let companions = Board::new(families.companions.clone(), symbols.clone());
        Arc::new(Self {
            exposition,
            detail,
            symbols,
            families,
            services,
            hooks,
            exposition_hooks,
            removals,
            routes,
            is_stale,
            rules,
            left,
            own: RwLock::default(),
            servers: Servers::default(),
            identities: AtomicU64::new(0),
            exemplars: Exemplars::default(),
            companions,
        })
    }

    /// When the version at work of a synced file was written, in seconds since 1970.
    pub fn sync_version(&self, name: &str) -> IntGauge {
        self.families.sync_version.of((NameLabel(self.intern(name)),))
    }

    /// Versions of a synced file.
    pub fn sync_changes(&self, name: &str, outcome: SyncOutcome) -> IntCounter {
        self.families.sync_changes.of((NameLabel(self.intern(name)), outcome))
    }

    /// Removes the series of a file that is not synced any more.
    pub fn forget_sync(&self, name: &str) {
        let own = NameLabel(self.intern(name));
        self.families.sync_version.remove(|(name,)| *name == own);
        self.families.sync_changes.remove(|(name, _)| *name == own);
    }

    /// Exports what the application's process uses, from now on. Call it once.
    pub fn add_application(&self, by: &ProcessMetrics) {
        application::tell(by, &self.exposition);
    }

    /// The states of the companions of the application.
    pub const fn companions(&self) -> &Board {
        &self.companions
    }

    /// The symbol of a name from the configuration; [`Symbol::OTHER`] where the process has seen too many names. Call it
    /// once for each configuration.
    pub fn intern(&self, name: &str) -> Symbol {
        self.symbols.intern(name)
    }

    /// The symbol of a peer's SPIFFE ID; [`Symbol::OTHER`] beyond the bound. Call it once for each connection.
    pub fn intern_peer(&self, id: &str) -> Symbol {
        self.symbols.intern_bounded(id)
    }

    pub fn name(&self, symbol: Symbol) -> Arc<str> {
        self.symbols.name(symbol)
    }

    /// The counter of finished requests with these labels. The data path uses its [`super::Recorder`] instead.
    pub fn requests(&self, labels: RequestLabels) -> IntCounter {
        self.note_route(labels.route);
        self.families.requests.of(labels.tidy())
    }

    /// A series of this route is about to be added.
    fn note_route(&self, route: Symbol) {
        if !route.is_known() && !self.routes.lock().contains(&route) {
            self.is_stale.store(true, Ordering::Relaxed);
        }
    }

    /// The histogram of seconds of the requests that a configured route matched. Keep the handle with the route.
    pub fn route_duration(&self, service: Symbol, route: Symbol) -> Histogram {
        self.note_route(route);
        self.families.route_duration.of((Service(service), RouteLabel(route)))
    }

    /// Whether [`super::Recorder::count_try`] counts.
    pub fn has_endpoints(&self) -> bool {
        self.detail.has_endpoints
    }

    /// Whether Istio's metrics are counted.
    pub fn has_istio(&self) -> bool {
        self.detail.has_istio
    }

    /// Names the workload of this sidecar, whose identity may come later or change.
    pub fn set_own(&self, workload: &Workload, id: Option<&str>) {
        if self.has_istio() {
            *self.own.write() = Own::new(workload, id, &self.symbols);
            self.note_identities();
        }
    }

    /// Takes a lock that workers share. The data path uses its [`super::Recorder`] instead.
    pub(super) fn own(&self) -> Own {
        *self.own.read()
    }

    /// Notes the verified identity of a service's endpoint.
    pub fn note_server(&self, service: Symbol, address: SocketAddr, id: &str) {
        if self.servers.note(service, address, self.intern_peer(id)) {
            self.note_identities();
        }
    }

    fn note_identities(&self) {
        self.identities.fetch_add(1, Ordering::Release);
    }

    /// Changes with each change of [`Self::own`] and [`Self::server`].
    pub(super) fn identities(&self) -> u64 {
        self.identities.load(Ordering::Acquire)
    }

    /// The identity that was noted; [`Symbol::EMPTY`] without one. It takes a lock that workers share. The data path uses
    /// its [`super::Recorder`] instead.
    pub(super) fn server(&self, service: Symbol, address: SocketAddr) -> Symbol {
        self.servers.of(service, address)
    }

    /// Istio's series of requests. The data path uses its [`super::Recorder`] instead.
    pub(super) fn istio_requests(&self, labels: IstioLabels) -> IstioRequests {
        self.families.istio.requests(labels)
    }

    /// An opaque connection began.
    pub fn istio_began(&self, labels: IstioLabels) {
        self.families.istio.began(labels);
    }

    /// An opaque connection ended; `bytes`: received from the client, and sent to it.
    pub fn istio_ended(&self, labels: IstioLabels, bytes: (u64, u64)) {
        self.families.istio.ended(labels, bytes);
    }

    /// The counter of tries at one endpoint. The data path uses its [`super::Recorder`] instead.
    pub(super) fn tries(&self, labels: EndpointLabels) -> IntCounter {
        self.families.endpoint_requests.of(labels)
    }

    /// Removes the series of endpoints other than `known`, those of the services, five minutes after the endpoints
    /// have left. Until then every scraper gets their last counts. An endpoint has left at the first call without it.
    pub fn forget_left_endpoints(&self, known: &HashSet<EndpointKey>, now: Instant) {
        let mut left = self.left.lock();
        let mut staying = HashMap::new();
        let mut has_removed = false;
        self.families.endpoint_requests.remove(|labels| {
            let key = labels.endpoint.map(|endpoint| (labels.service, endpoint));
            let Some(key) = key.filter(|key| !known.contains(key)) else { return false };
            let since = left.get(&key).copied().unwrap_or(now);
            let is_due = now.saturating_duration_since(since) >= LEFT_FOR;
            has_removed |= is_due;
            if !is_due {
                staying.insert(key, since);
            }
            is_due
        });
        if has_removed {
            self.removals.fetch_add(1, Ordering::Relaxed);
        }
        *left = staying;
    }

    /// The handles of one service. Its series appear only when one of the handles is first used.
    pub fn service(&self, direction: Direction, service: Symbol) -> Arc<ServiceMetrics> {
        let known = self.services.read().get(&(direction, service)).cloned();
        known.unwrap_or_else(|| self.add_service(direction, service))
    }

    fn add_service(&self, direction: Direction, service: Symbol) -> Arc<ServiceMetrics> {
        let fresh = || Arc::new(ServiceMetrics::new(self.families.clone(), direction, service));
        self.services.write().entry((direction, service)).or_insert_with(fresh).clone()
    }

    /// Removes the series of routes other than `routes`, those of the configuration. Nothing happens while they are the
    /// same object as before and no series of another route was added.
    pub fn forget_removed_routes(&self, routes: &Arc<HashSet<Symbol>>) {
        let before = std::mem::replace(&mut *self.routes.lock(), routes.clone());
        let has_removed = !Arc::ptr_eq(&before, routes) && !before.is_subset(routes);
        if !self.is_stale.swap(false, Ordering::Relaxed) && !has_removed {
            return;
        }
        let is_gone = |route: Symbol| !route.is_known() && !routes.contains(&route);
        self.families.requests.remove(|labels| is_gone(labels.route));
        self.families.route_duration.remove(|(_, route)| is_gone(route.0));
        self.removals.fetch_add(1, Ordering::Relaxed);
    }

    /// Removes the series of services that are no longer configured and no longer in use, so that services in use can
    /// have their series.
    pub fn forget_removed_services(&self) {
        let is_gone = |service: Symbol, metrics: &Arc<ServiceMetrics>| {
            !service.is_known() && Arc::strong_count(metrics) == 1
        };
        if !self.services.read().iter().any(|((_, service), metrics)| is_gone(*service, metrics)) {
            return;
        }
        let mut services = self.services.write(); // held until the old series are gone
        let gone = services.extract_if(|(_, service), metrics| is_gone(*service, metrics));
        let gone: HashSet<Symbol> = gone.map(|((_, service), _)| service).collect();
        if !gone.is_empty() {
            self.families.forget(&gone);
            self.servers.forget(&gone);
            self.note_identities();
            self.exemplars.forget(&gone);
            self.removals.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How often series were removed. A handle from before may belong to a removed series, whose counts are lost.
    pub(super) fn removals(&self) -> u64 {
        self.removals.load(Ordering::Relaxed)
    }

    /// The histogram of seconds that requests spent in the sidecar itself. Keep the handle.
    pub fn overhead(&self, direction: Direction) -> Histogram {
        self.families.overhead.of((direction,))
    }

    /// The gauge of open connections. Keep the handle and hold it with [`super::Held`].
    pub fn connections_active(&self, direction: Direction, protocol: Protocol) -> IntGauge {
        self.families.connections_active.of((direction, protocol))
    }

    /// The counter of accepted or opened connections. A connection is counted when its outcome is known.
    pub fn connections(
        &self,
        direction: Direction,
        service: Symbol,
        protocol: Protocol,
        tls: Tls,
        outcome: ConnectionOutcome,
    ) -> IntCounter {
        if service != Symbol::EMPTY {
            self.service(direction, service).note_use();
        }
        self.families.connections.of((direction, Service(service), protocol, tls, outcome))
    }

    /// The counter of undeclared connections by detected protocol.
    pub fn detections(&self, direction: Direction, verdict: DetectionVerdict) -> IntCounter {
        self.families.detections.of((direction, verdict))
    }

    /// The counter of queries to the DNS proxy by outcome.
    pub fn dns_queries(&self, outcome: DnsOutcome) -> IntCounter {
        self.families.dns_queries.of((outcome,))
    }

    /// The counter of requests to the address of `service` whose host names another service.
    pub fn host_mismatches(&self, service: Symbol) -> IntCounter {
        self.families.host_mismatches.of((Service(service),))
    }

    /// Keep the handle.
    pub fn tokens(&self, outcome: TokenOutcome) -> IntCounter {
        self.families.tokens.of((outcome,))
    }

    pub fn checks(&self, outcome: CheckOutcome) -> IntCounter {
        self.families.checks.of((outcome,))
    }

    pub fn jwks_loads(&self, outcome: JwksOutcome) -> IntCounter {
        self.families.jwks_loads.of((outcome,))
    }

    pub fn kubernetes_watches(&self, state: WatchState) -> IntGauge {
        self.families.kubernetes_watches.of((state,))
    }

    pub fn kubernetes_lists(&self, cause: ListCause) -> IntCounter {
        self.families.kubernetes_lists.of((cause,))
    }

    /// Sets when the watch that has been silent for the longest time was last heard. `None`: there is no watch.
    pub fn set_kubernetes_heard(&self, heard: Option<i64>) {
        match heard {
            Some(heard) => self.families.kubernetes_heard.of(()).set(heard),
            None => self.families.kubernetes_heard.remove(|()| true),
        }
    }

    /// Notes a recorded request that has just ended, for the duration of a service.
    pub fn note_exemplar(&self, of: (Direction, Symbol), took: Duration, trace: TraceId) {
        self.exemplars.note(of, took, trace, SystemTime::now());
    }

    /// The exemplar of a bucket of `pillion_request_duration_seconds`, by the values of its labels.
    pub fn exemplar(&self, direction: &str, service: &str, bound: f64) -> Option<String> {
        let sides = [Direction::Inbound, Direction::Outbound];
        let direction = sides.into_iter().find(|side| side.as_str() == direction)?;
        self.exemplars.of(direction, self.symbols.known(service)?, bound)
    }

    /// The counter of a source's records at a sink. Keep the handle.
    pub fn logs_records(&self, source: Symbol, sink: Symbol, outcome: LogOutcome) -> IntCounter {
        self.families.logs_records.of((SourceLabel(source), SinkLabel(sink), outcome))
    }

    /// The gauge of the bytes of a source that a sink has not taken yet.
    pub fn logs_lag(&self, source: Symbol, sink: Symbol) -> IntGauge {
        self.families.logs_lag.of((SourceLabel(source), SinkLabel(sink)))
    }

    /// Removes the gauges of sources and sinks that a reload may have removed.
    pub fn forget_logs_lag(&self) {
        self.families.logs_lag.remove(|_| true);
    }

    pub fn logs_truncated(&self) -> IntCounter {
        self.families.logs_truncated.of(())
    }

    pub fn spans(&self, outcome: SpanOutcome) -> IntCounter {
        self.families.spans.of((outcome,))
    }

    /// Memory in use and its limit, which exist where `limits.max_memory` has one.
    pub fn set_memory(&self, used: u64, limit: u64) {
        let bytes = |bytes| i64::try_from(bytes).unwrap_or(i64::MAX);
        self.families.memory_used.of(()).set(bytes(used));
        self.families.memory_limit.of(()).set(bytes(limit));
    }

    /// Removes both, because there is no limit any more.
    pub fn forget_memory(&self) {
        self.families.memory_used.remove(|_| true);
        self.families.memory_limit.remove(|_| true);
    }

    pub fn memory_shed(&self, kind: Shed) -> IntCounter {
        self.families.memory_shed.of((kind,))
    }

    /// The counter of what authorization decides by a rule. Keep the handle.
    pub fn authorization(&self, decision: Decision, rule: Symbol, mode: AuthorizationMode) -> IntCounter {
        self.families.authorization.of((decision, RuleLabel(rule), mode))
    }

    /// Removes the series of rules other than `rules`, those of the configuration. Nothing happens while
    /// they are the same object as before.
    pub fn forget_removed_rules(&self, rules: &Arc<HashSet<Symbol>>) {
        let before = std::mem::replace(&mut *self.rules.lock(), rules.clone());
        if Arc::ptr_eq(&before, rules) || before.is_subset(rules) {
            return;
        }
        self.families.authorization.remove(|(_, rule, _)| !rules.contains(&rule.0));
    }

    /// The counter of TLS handshakes by outcome.
    pub fn handshakes(&self, direction: Direction, outcome: HandshakeOutcome) -> IntCounter {
        self.families.handshakes.of((direction, outcome))
    }

    /// Sets the expiry of the first certificate of this use, in seconds since 1970. `None`: there is none, and no series.
    pub fn set_certificate_not_after(&self, of: CertificateUse, first: Option<i64>) {
        match first {
            Some(first) => self.families.not_after.of((of,)).set(first),
            None => self.families.not_after.remove(|(known,)| *known == of),
        }
    }

    /// The counter of reloads of the configuration by outcome.
    pub fn config_reloads(&self, outcome: ReloadOutcome) -> IntCounter {
        self.families.config_reloads.of((outcome,))
    }

    /// Whether the kept configuration is at work. It exists where one is kept.
    pub fn config_snapshot(&self) -> IntGauge {
        self.families.config_snapshot.of(())
    }

    /// The gauge of the snapshot that the data path uses.
    pub fn config_generation(&self) -> IntGauge {
        self.families.config_generation.of(())
    }

    pub fn access_log_dropped(&self) -> IntCounter {
        self.families.access_log_dropped.of(())
    }

    /// Runs `hook` before every exposition and every overview, to set gauges that mirror live state.
    ///
    /// Hooks live as long as the metrics, so they must hold weak references only.
    pub fn on_collect(&self, hook: impl Fn() + Send + Sync + 'static) {
        self.hooks.lock().push(Arc::new(hook));
    }

    /// Runs `hook` before every exposition, and not before an overview, to remove series.
    pub fn on_exposition(&self, hook: impl Fn() + Send + Sync + 'static) {
        self.exposition_hooks.lock().push(Arc::new(hook));
    }

    /// The metrics in sum. With thousands of series this takes milliseconds, like [`Self::encode`]. It removes no series.
    pub fn overview(&self) -> Overview {
        run(&self.hooks);
        Overview::of(&self.families, &self.symbols)
    }

    /// The sidecar's own exposition in [`super::Format::Text`]; [`super::merge::written`] makes the others of it.
    ///
    /// With thousands of series this takes milliseconds, so no thread of the data path may call it.
    pub fn encode(&self) -> String {
        run(&self.hooks);
        run(&self.exposition_hooks);
        self.exposition.encode()
    }
}

fn run(hooks: &Mutex<Vec<Hook>>) {
    let hooks = hooks.lock().clone(); // a hook may add another one
    hooks.iter().for_each(|hook| hook());
}

/// Registers `pillion_build_info`, which is always 1.
fn publish_build(to: &Exposition) {
    to.gauges("pillion_build_info", "The version and the revision of this process.")
        .of((Version, Revision))
        .set(1);
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Version;

impl Label for Version {
    const NAME: &'static str = "version";

    fn value(self, _: &Symbols) -> String {
        env!("CARGO_PKG_VERSION").to_owned()
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Revision;

impl Label for Revision {
    const NAME: &'static str = "revision";

    fn value(self, _: &Symbols) -> String {
        REVISION.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::{Command, Stdio};
    use std::sync::Weak;

    use super::*;
    use crate::MethodLabel;
    use crate::companions::CompanionKind;
    use crate::labels::{
        CacheOutcome, EjectionCause, EndpointState, Flow, LimitLabel, RetryOutcome, TryOutcome,
    };
    use pillion_model::Reason;

    /// The families of the public interface that exist so far.
    const FAMILIES: [&str; 51] = [
        "pillion_sync_version_timestamp_seconds",
        "pillion_sync_changes_total",
        "pillion_logs_records_total",
        "pillion_logs_lag_bytes",
        "pillion_logs_truncated_bytes_total",
        "pillion_companion_up",
        "pillion_memory_used_bytes",
        "pillion_memory_limit_bytes",
        "pillion_memory_shed_total",
        "pillion_kubernetes_watches",
        "pillion_kubernetes_lists_total",
        "pillion_kubernetes_heard_timestamp_seconds",
        "pillion_traces_spans_total",
        "pillion_route_duration_seconds",
        "pillion_endpoint_requests_total",
        "pillion_ext_authz_checks_total",
        "pillion_authorization_total",
        "pillion_jwt_tokens_total",
        "pillion_jwks_loads_total",
        "pillion_requests_total",
        "pillion_request_duration_seconds",
        "pillion_overhead_seconds",
        "pillion_requests_active",
        "pillion_retries_total",
        "pillion_connections_total",
        "pillion_connections_active",
        "pillion_bytes_total",
        "pillion_detections_total",
        "pillion_dns_queries_total",
        "pillion_host_mismatches_total",
        "pillion_circuit_breaker_used",
        "pillion_circuit_breaker_limit",
        "pillion_circuit_breaker_rejections_total",
        "pillion_endpoints",
        "pillion_endpoint_ejections_total",
        "pillion_cache_requests_total",
        "pillion_cache_bytes",
        "pillion_tls_handshakes_total",
        "pillion_certificate_not_after_timestamp_seconds",
        "pillion_config_reloads_total",
        "pillion_config_generation",
        "pillion_config_snapshot",
        "pillion_access_log_dropped_total",
        "pillion_build_info",
        "process_cpu_seconds_total",
        "process_resident_memory_bytes",
        "process_virtual_memory_bytes",
        "process_open_fds",
        "process_max_fds",
        "process_start_time_seconds",
        "process_threads",
    ];

    fn request(metrics: &Metrics, peer: &str) -> RequestLabels {
        RequestLabels {
            direction: Direction::Outbound,
            service: metrics.intern("billing"),
            route: Symbol::EMPTY,
            method: MethodLabel::Post,
            status: 503,
            grpc_status: Some(14),
            reason: Some(Reason::NoEndpoints),
            peer: metrics.intern_peer(peer),
        }
    }

    fn use_service(service: &ServiceMetrics) {
        service.duration().observe(0.003);
        service.active().inc();
        Flow::ALL.iter().for_each(|flow| service.bytes(*flow).inc_by(10));
        RetryOutcome::ALL.iter().for_each(|outcome| service.retries(*outcome).inc());
        for limit in LimitLabel::ALL {
            service.breaker_used(*limit).set(3);
            service.breaker_limit(*limit).set(1024);
            service.breaker_rejections(*limit).inc();
        }
        EndpointState::ALL.iter().for_each(|state| service.endpoints(*state).set(2));
        EjectionCause::ALL.iter().for_each(|cause| service.ejections(*cause).inc());
    }

    /// The first try at an endpoint with this port.
    fn at(service: Symbol, port: u16) -> EndpointLabels {
        let endpoint = Some(([10, 0, 0, 1], port).into());
        EndpointLabels { service, endpoint, outcome: TryOutcome::Ok }
    }

    /// Metrics with a sample in every family.
    fn used() -> Arc<Metrics> {
        let metrics = Metrics::new(20_000);
        let billing = metrics.intern("billing");
        metrics.requests(request(&metrics, "spiffe://example.org/ns/a/sa/\"b\"")).inc();
        let service = metrics.service(Direction::Outbound, billing);
        use_service(&service);
        CacheOutcome::ALL.iter().for_each(|outcome| service.cache_requests(*outcome).inc());
        service.cache_bytes().set(4_096);
        metrics.route_duration(billing, metrics.intern("canary")).observe(0.003);
        metrics.tries(at(billing, 80)).inc();
        metrics.overhead(Direction::Outbound).observe(0.000_012);
        metrics
            .connections(Direction::Outbound, billing, Protocol::Http2, Tls::Mutual, ConnectionOutcome::Ok)
            .inc();
        metrics.connections_active(Direction::Outbound, Protocol::Http2).inc();
        metrics.handshakes(Direction::Outbound, HandshakeOutcome::Identity).inc();
        metrics.detections(Direction::Inbound, DetectionVerdict::Opaque).inc();
        DnsOutcome::ALL.iter().for_each(|outcome| metrics.dns_queries(*outcome).inc());
        metrics.host_mismatches(billing).inc();
        metrics
            .authorization(Decision::Denied, metrics.intern("web-reads"), AuthorizationMode::Enforce)
            .inc();
        TokenOutcome::ALL.iter().for_each(|outcome| metrics.tokens(*outcome).inc());
        CheckOutcome::ALL.iter().for_each(|outcome| metrics.checks(*outcome).inc());
        JwksOutcome::ALL.iter().for_each(|outcome| metrics.jwks_loads(*outcome).inc());
        WatchState::ALL.iter().for_each(|state| metrics.kubernetes_watches(*state).set(2));
        ListCause::ALL.iter().for_each(|cause| metrics.kubernetes_lists(*cause).inc());
        metrics.set_kubernetes_heard(Some(1_800_000_000));
        SpanOutcome::ALL.iter().for_each(|outcome| metrics.spans(*outcome).inc());
        let (app, hook) = (metrics.intern("app"), metrics.intern("hook"));
        LogOutcome::ALL.iter().for_each(|outcome| metrics.logs_records(app, hook, *outcome).inc());
        metrics.logs_lag(app, hook).set(7);
        metrics.logs_truncated().inc();
        metrics.set_memory(40 << 20, 64 << 20);
        Shed::ALL.iter().for_each(|kind| metrics.memory_shed(*kind).inc());
        ReloadOutcome::ALL.iter().for_each(|outcome| metrics.config_reloads(*outcome).inc());
        metrics.config_generation().set(7);
        metrics.config_snapshot().set(1);
        metrics.sync_version("settings").set(1_800_000_000);
        SyncOutcome::ALL.iter().for_each(|outcome| metrics.sync_changes("settings", *outcome).inc());
        std::mem::forget(metrics.companions().register(CompanionKind::Sync, "settings", false));
        CertificateUse::ALL.iter().for_each(|of| metrics.set_certificate_not_after(*of, Some(1_800_000_000)));
        metrics
    }

    /// The names of the labels of a family's samples, `le` aside.
    fn labels(text: &str, family: &str) -> Vec<String> {
        let sample = |line: &&str| {
            let rest = line.strip_prefix(family).map(|rest| rest.strip_prefix("_count").unwrap_or(rest));
            rest.is_some_and(|rest| rest.starts_with(['{', ' ']))
        };
        let line = text.lines().find(sample).unwrap_or_else(|| unreachable!("{family} has no sample"));
        let names = line.split('{').nth(1).unwrap_or_default().split("=\"");
        let names = names.map(|part| part.rsplit(',').next().unwrap_or_default().to_owned());
        let mut names: Vec<String> = names.collect();
        names.pop(); // the text after the last value
        names
    }

    #[test]
    fn the_page_of_metrics_has_the_labels_of_each_family() {
        const PAGE: &str = include_str!("../../../docs/metrics.md");
        let text = used().encode();
        for family in FAMILIES {
            let row = PAGE.lines().find_map(|line| line.strip_prefix(&format!("| `{family}` | ")));
            let row = row.unwrap_or_else(|| unreachable!("docs/metrics.md has no row for {family}"));
            let labels = labels(&text, family).join(", ");
            let written = row.split(" |").next().unwrap_or_default();
            assert_eq!(written, if labels.is_empty() { "–" } else { &labels }, "{family}");
        }
    }

    #[test]
    fn every_family_of_the_interface_is_exported_with_type_and_help() {
        let text = used().encode();
        for family in FAMILIES {
            for start in [format!("# HELP {family} "), format!("# TYPE {family} ")] {
                assert_eq!(
                    text.lines().filter(|line| line.starts_with(&start)).count(),
                    1,
                    "{start}\n{text}"
                );
            }
        }
    }

    #[test]
    fn promtool_finds_no_fault() {
        let text = used().encode();
        let Some((ok, said)) = promtool(&text) else {
            assert_ne!(std::env::var("PILLION_TEST_REQUIRE").as_deref(), Ok("all"), "promtool is required");
            println!("skipped: no promtool");
            return;
        };
        assert!(ok && said.is_empty(), "{said}\n{text}");
    }

    /// Whether `promtool check metrics` accepts the text, and its output. `None` if promtool is not installed.
    fn promtool(text: &str) -> Option<(bool, String)> {
        let piped = Stdio::piped;
        let mut command = Command::new("promtool");
        command.args(["check", "metrics"]).stdin(piped()).stdout(piped()).stderr(piped());
        let mut child = command.spawn().ok()?;
        child.stdin.take().expect("stdin is piped").write_all(text.as_bytes()).expect("promtool reads");
        let ended = child.wait_with_output().expect("promtool ends");
        let said = [ended.stdout, ended.stderr].concat();
        Some((ended.status.success(), String::from_utf8_lossy(&said).into_owned()))
    }

    #[test]
    fn a_request_is_exported_with_all_its_labels() {
        let text = used().encode();
        let expected = concat!(
            r#"pillion_requests_total{direction="outbound",service="billing",route="",method="POST",status="503","#,
            r#"grpc_status="14",reason="no_endpoints",peer="spiffe://example.org/ns/a/sa/\"b\""} 1"#
        );
        assert!(text.lines().any(|line| line == expected), "{text}");
    }

    /// Lines of the exposition that contain this text.
    fn lines_with(metrics: &Metrics, text: &str) -> Vec<String> {
        let all = metrics.encode();
        all.lines().filter(|line| line.contains(text)).map(str::to_owned).collect()
    }

    #[test]
    fn c4_all_series_of_a_service_appear_at_its_first_use_and_its_handles_are_shared() {
        let metrics = Metrics::new(1_000);
        let billing = metrics.intern("billing");
        let [one, two] = [(); 2].map(|()| metrics.service(Direction::Outbound, billing));
        assert_eq!(lines_with(&metrics, "billing"), [""; 0]);
        one.retries(RetryOutcome::Replaced).inc();
        two.retries(RetryOutcome::Replaced).inc();
        let lines = lines_with(&metrics, "billing");
        for line in [
            r#"pillion_retries_total{service="billing",outcome="replaced"} 2"#,
            r#"pillion_retries_total{service="billing",outcome="failed"} 0"#,
            r#"pillion_request_duration_seconds_count{direction="outbound",service="billing"} 0"#,
            r#"pillion_requests_active{direction="outbound",service="billing"} 0"#,
            r#"pillion_bytes_total{direction="outbound",service="billing",flow="sent"} 0"#,
            r#"pillion_circuit_breaker_rejections_total{service="billing",limit="pending"} 0"#,
            r#"pillion_endpoint_ejections_total{service="billing",cause="consecutive_errors"} 0"#,
        ] {
            assert!(lines.iter().any(|one| one == line), "{line}: {lines:#?}");
        }
    }

    #[test]
    fn c4_a_connection_counts_as_a_use_of_its_service() {
        let metrics = Metrics::new(1_000);
        let billing = metrics.intern("billing");
        let outcome = ConnectionOutcome::Refused;
        metrics.connections(Direction::Outbound, billing, Protocol::Tcp, Tls::None, outcome).inc();
        assert_eq!(
            lines_with(&metrics, "pillion_bytes_total{direction=\"outbound\",service=\"billing\"").len(),
            2
        );
    }

    #[test]
    fn c4_a_service_that_was_removed_gives_its_series_to_others_and_may_come_back() {
        let metrics = Metrics::new(1_000);
        let mut worker = crate::Recorder::new(metrics.clone());
        let labels = |service| RequestLabels {
            direction: Direction::Outbound,
            service,
            route: Symbol::EMPTY,
            method: MethodLabel::Get,
            status: 200,
            grpc_status: None,
            reason: None,
            peer: Symbol::EMPTY,
        };
        for round in 0..100 {
            let name = format!("service-{}", round % 50);
            let held = metrics.service(Direction::Outbound, metrics.intern(&name));
            held.note_use();
            held.breaker_used(LimitLabel::Retries).set(1);
            worker.count(labels(metrics.intern(&name)));
            let text = metrics.encode();
            let counted = format!("pillion_requests_total{{direction=\"outbound\",service=\"{name}\"");
            let line =
                text.lines().find(|line| line.starts_with(&counted)).unwrap_or_else(|| panic!("{name}"));
            assert!(line.ends_with(" 1"), "{line}");
            drop(held);
            metrics.forget_removed_services();
            assert!(!metrics.encode().contains(&name), "{name} is gone");
        }
    }

    #[test]
    fn c4_a_route_that_was_removed_gives_its_series_to_others_and_may_come_back() {
        let metrics = Metrics::new(100);
        let mut worker = crate::Recorder::new(metrics.clone());
        for round in 0..100 {
            let name = format!("route-{}", round % 50);
            let route = metrics.intern(&name);
            metrics.forget_removed_routes(&Arc::new(HashSet::from([route])));
            worker.count(RequestLabels { route, reason: None, ..request(&metrics, "") });
            worker.count(RequestLabels { route: Symbol::EMPTY, ..request(&metrics, "") });
            let lines = lines_with(&metrics, "route=\"route-");
            assert!(
                lines.len() == 1 && lines.iter().all(|line| line.contains(&name) && line.ends_with(" 1"))
            );
        }
        metrics.forget_removed_routes(&Arc::default());
        assert_eq!(lines_with(&metrics, "route=\"route-"), [""; 0]);
        let kept = lines_with(&metrics, "pillion_requests_total{");
        assert!(kept.len() == 1 && kept.iter().all(|line| line.ends_with(" 100")), "{kept:?}");
    }

    #[test]
    fn the_histogram_of_a_removed_route_goes_with_it() {
        let metrics = Metrics::new(1_000);
        let [removed, kept] = ["removed", "kept"].map(|name| metrics.intern(name));
        let billing = metrics.intern("billing");
        metrics.forget_removed_routes(&Arc::new(HashSet::from([removed, kept])));
        [removed, kept].into_iter().for_each(|route| metrics.route_duration(billing, route).observe(0.1));
        metrics.forget_removed_routes(&Arc::new(HashSet::from([kept])));
        assert_eq!(lines_with(&metrics, "route=\"removed\""), [""; 0]);
        assert!(!lines_with(&metrics, "route=\"kept\"").is_empty());
    }

    #[test]
    fn the_series_of_an_endpoint_that_left_stays_for_five_minutes_however_often_it_is_exported() {
        let metrics = Metrics::with(1_000, Detail { has_endpoints: true, ..Detail::default() });
        let mut worker = crate::Recorder::new(metrics.clone());
        let billing = metrics.intern("billing");
        let (stays, leaves) = (at(billing, 80), at(billing, 81));
        let known = HashSet::from([(billing, ([10, 0, 0, 1], 80).into())]);
        [stays, leaves].into_iter().for_each(|labels| worker.count_try(labels));
        let began = Instant::now();
        let after = |seconds| began + Duration::from_secs(seconds);
        for seconds in 0..300 {
            metrics.forget_left_endpoints(&known, after(seconds));
        }
        assert_eq!(lines_with(&metrics, "10.0.0.1:81").len(), 1);
        metrics.forget_left_endpoints(&known, after(300));
        assert_eq!(lines_with(&metrics, "10.0.0.1:81"), [""; 0]);
        [stays, leaves].into_iter().for_each(|labels| worker.count_try(labels));
        assert!(lines_with(&metrics, "10.0.0.1:80").iter().all(|line| line.ends_with(" 2")));
        assert!(lines_with(&metrics, "10.0.0.1:81").iter().all(|line| line.ends_with(" 1")));
    }

    #[test]
    fn an_endpoint_that_came_back_keeps_its_series_and_has_five_minutes_again_when_it_leaves() {
        let metrics = Metrics::with(1_000, Detail { has_endpoints: true, ..Detail::default() });
        let billing = metrics.intern("billing");
        metrics.tries(at(billing, 80)).inc();
        let (nothing, known) = (HashSet::new(), HashSet::from([(billing, ([10, 0, 0, 1], 80).into())]));
        let began = Instant::now();
        for (seconds, known, series) in
            [(0, &nothing, 1), (299, &known, 1), (300, &nothing, 1), (599, &nothing, 1), (600, &nothing, 0)]
        {
            metrics.forget_left_endpoints(known, began + Duration::from_secs(seconds));
            assert_eq!(lines_with(&metrics, "10.0.0.1:80").len(), series, "after {seconds} s");
        }
    }

    #[test]
    fn an_overview_removes_no_series() {
        let metrics = Metrics::with(1_000, Detail { has_endpoints: true, ..Detail::default() });
        metrics.tries(at(metrics.intern("billing"), 80)).inc();
        let of = Arc::downgrade(&metrics);
        let (began, calls) = (Instant::now(), AtomicU64::new(0));
        metrics.on_exposition(move || {
            let past = Duration::from_secs(300 * calls.fetch_add(1, Ordering::Relaxed));
            of.upgrade().into_iter().for_each(|of| of.forget_left_endpoints(&HashSet::new(), began + past));
        });
        (0..5).for_each(|_| drop(metrics.overview()));
        assert_eq!(lines_with(&metrics, "10.0.0.1:80").len(), 1, "the first exposition has it");
        assert_eq!(lines_with(&metrics, "10.0.0.1:80"), [""; 0], "the second one is five minutes later");
    }

    /// A request that was under way when a reload removed its route is counted, and its series does not stay.
    #[test]
    fn c4_the_series_of_a_removed_route_does_not_come_back_for_good() {
        let metrics = Metrics::new(1_000);
        let mut worker = crate::Recorder::new(metrics.clone());
        let (removed, kept) = (metrics.intern("removed"), metrics.intern("kept"));
        let count = |worker: &mut crate::Recorder, route| {
            worker.count(RequestLabels { route, reason: None, ..request(&metrics, "") });
        };
        metrics.forget_removed_routes(&Arc::new(HashSet::from([removed, kept])));
        [removed, kept].into_iter().for_each(|route| count(&mut worker, route));
        let routes = Arc::new(HashSet::from([kept]));
        metrics.forget_removed_routes(&routes);
        for _ in 0..3 {
            count(&mut worker, removed);
            assert_eq!(lines_with(&metrics, "route=\"removed\"").len(), 1);
            metrics.forget_removed_routes(&routes);
            assert_eq!(lines_with(&metrics, "route=\"removed\""), [""; 0]);
        }
        count(&mut worker, kept);
        assert!(lines_with(&metrics, "route=\"kept\"").iter().all(|line| line.ends_with(" 2")));
    }

    /// There may be more names than series: they come from the operator's file, whose size is bounded.
    #[test]
    fn c4_unused_services_take_no_series_from_used_ones() {
        let metrics = Metrics::new(200);
        let unused = (0..1_800).map(|number| metrics.intern(&format!("unused-{number}")));
        let _handles: Vec<_> = unused.map(|name| metrics.service(Direction::Outbound, name)).collect();
        let billing = metrics.intern("billing");
        use_service(&metrics.service(Direction::Outbound, billing));
        metrics.requests(request(&metrics, "spiffe://example.org/a")).inc();
        CertificateUse::ALL.iter().for_each(|of| metrics.set_certificate_not_after(*of, Some(1)));
        assert_eq!(lines_with(&metrics, "other"), [""; 0]);
        assert_eq!(lines_with(&metrics, "unused"), [""; 0]);
        for text in
            ["pillion_requests_total{", "pillion_certificate_not_after_timestamp_seconds{use=\"own\"}"]
        {
            assert_eq!(lines_with(&metrics, text).len(), 1, "{text}");
        }
    }

    #[test]
    fn c4_certificates_build_and_process_are_exported_even_with_a_small_bound() {
        let metrics = Metrics::new(0);
        (0..100).for_each(|number| metrics.requests(request(&metrics, &number.to_string())).inc());
        CertificateUse::ALL.iter().for_each(|of| metrics.set_certificate_not_after(*of, Some(1_800_000_000)));
        for text in [
            "pillion_certificate_not_after_timestamp_seconds{use=\"own\"} 1800000000",
            "pillion_certificate_not_after_timestamp_seconds{use=\"ca\"} 1800000000",
            "pillion_build_info{",
            "process_start_time_seconds ",
        ] {
            assert!(!lines_with(&metrics, text).is_empty(), "{text}");
        }
    }

    #[test]
    fn hooks_set_gauges_of_live_state_before_each_exposition() {
        let metrics = Metrics::new(1_000);
        let app = metrics.service(Direction::Inbound, Symbol::APP);
        let pool: Arc<Mutex<i64>> = Arc::new(Mutex::new(7));
        let seen: Weak<_> = Arc::downgrade(&pool);
        metrics.on_collect(move || {
            let used = seen.upgrade().map_or(0, |pool| *pool.lock());
            app.breaker_used(LimitLabel::Connections).set(used);
        });
        let gauge = |value| {
            format!("pillion_circuit_breaker_used{{service=\"app\",limit=\"connections\"}} {value}\n")
        };
        assert!(metrics.encode().contains(&gauge(7)));
        drop(pool);
        assert!(metrics.encode().contains(&gauge(0)));
    }

    #[test]
    fn thousands_of_peers_and_services_stay_within_the_bound_of_series() {
        let metrics = Metrics::new(2_000);
        for number in 0..3_000 {
            metrics.requests(request(&metrics, &format!("spiffe://example.org/{number}"))).inc();
            let service = metrics.intern(&format!("service-{number}"));
            use_service(&metrics.service(Direction::Outbound, service));
        }
        let text = metrics.encode();
        let series = text.lines().filter(|line| !line.starts_with('#')).count();
        assert!(series <= 2_050, "{series} series");
        assert!(text.contains(r#"pillion_requests_active{direction="outbound",service="other"}"#));
    }
}
