//! Every metric family of the sidecar by name, with its labels. The list is part of the public interface.

use std::collections::HashSet;

use super::family::{Exposition, Family, Histogram, IntCounter, IntGauge};
use super::istio::IstioFamilies;
use super::labels::{
    AuthorizationMode, CacheOutcome, CertificateUse, CheckOutcome, CompanionKind, ConnectionOutcome,
    Decision, DetectionVerdict, DnsOutcome, EjectionCause, EndpointLabels, EndpointState, Flow,
    HandshakeOutcome, JwksOutcome, LimitLabel, ListCause, LogOutcome, NameLabel, Protocol, ReloadOutcome,
    RequestLabels, RetryOutcome, RouteLabel, RuleLabel, Service, Shed, SinkLabel, SourceLabel, SpanOutcome,
    SyncOutcome, Tls, TokenOutcome, WatchState,
};
use super::symbols::Symbol;
use pillion_model::Direction;

/// The buckets of request durations, in seconds: from 100 µs (an answer of the same host, which passes through one
/// sidecar) to 60 s, the longest usual deadline.
#[rustfmt::skip] // a decade in each line
pub(super) const DURATION_BUCKETS: &[f64] = &[
    0.0001, 0.000_25, 0.0005,
    0.001, 0.0025, 0.005,
    0.01, 0.025, 0.05,
    0.1, 0.25, 0.5,
    1.0, 2.5, 5.0,
    10.0, 30.0, 60.0,
];

/// The buckets of the time in the sidecar itself, in seconds, usually tens of microseconds. The upper buckets show a
/// machine without free CPU time.
const OVERHEAD_BUCKETS: &[f64] =
    &[0.000_01, 0.000_02, 0.000_03, 0.000_05, 0.0001, 0.0002, 0.0005, 0.001, 0.005, 0.025, 0.1];

/// The families. Their series appear when they are used.
pub(super) struct Families {
    pub(super) requests: Family<RequestLabels, IntCounter>,
    pub(super) duration: Family<(Direction, Service), Histogram>,
    pub(super) route_duration: Family<(Service, RouteLabel), Histogram>,
    pub(super) endpoint_requests: Family<EndpointLabels, IntCounter>,
    pub(super) overhead: Family<(Direction,), Histogram>,
    pub(super) active: Family<(Direction, Service), IntGauge>,
    pub(super) retries: Family<(Service, RetryOutcome), IntCounter>,
    pub(super) connections: Family<(Direction, Service, Protocol, Tls, ConnectionOutcome), IntCounter>,
    pub(super) connections_active: Family<(Direction, Protocol), IntGauge>,
    pub(super) bytes: Family<(Direction, Service, Flow), IntCounter>,
    pub(super) detections: Family<(Direction, DetectionVerdict), IntCounter>,
    pub(super) dns_queries: Family<(DnsOutcome,), IntCounter>,
    pub(super) host_mismatches: Family<(Service,), IntCounter>,
    pub(super) breaker_used: Family<(Service, LimitLabel), IntGauge>,
    pub(super) breaker_limit: Family<(Service, LimitLabel), IntGauge>,
    pub(super) breaker_rejections: Family<(Service, LimitLabel), IntCounter>,
    pub(super) endpoints: Family<(Service, EndpointState), IntGauge>,
    pub(super) ejections: Family<(Service, EjectionCause), IntCounter>,
    pub(super) cache_requests: Family<(Service, CacheOutcome), IntCounter>,
    pub(super) cache_bytes: Family<(Service,), IntGauge>,
    pub(super) handshakes: Family<(Direction, HandshakeOutcome), IntCounter>,
    pub(super) not_after: Family<(CertificateUse,), IntGauge>,
    pub(super) config_reloads: Family<(ReloadOutcome,), IntCounter>,
    pub(super) config_generation: Family<(), IntGauge>,
    pub(super) config_snapshot: Family<(), IntGauge>,
    pub(super) access_log_dropped: Family<(), IntCounter>,
    pub(super) authorization: Family<(Decision, RuleLabel, AuthorizationMode), IntCounter>,
    pub(super) tokens: Family<(TokenOutcome,), IntCounter>,
    pub(super) checks: Family<(CheckOutcome,), IntCounter>,
    pub(super) jwks_loads: Family<(JwksOutcome,), IntCounter>,
    pub(super) kubernetes_watches: Family<(WatchState,), IntGauge>,
    pub(super) kubernetes_lists: Family<(ListCause,), IntCounter>,
    pub(super) kubernetes_heard: Family<(), IntGauge>,
    pub(super) spans: Family<(SpanOutcome,), IntCounter>,
    pub(super) memory_used: Family<(), IntGauge>,
    pub(super) memory_limit: Family<(), IntGauge>,
    pub(super) memory_shed: Family<(Shed,), IntCounter>,
    pub(super) companions: Family<(CompanionKind, NameLabel), IntGauge>,
    pub(super) sync_version: Family<(NameLabel,), IntGauge>,
    pub(super) sync_changes: Family<(NameLabel, SyncOutcome), IntCounter>,
    pub(super) logs_records: Family<(SourceLabel, SinkLabel, LogOutcome), IntCounter>,
    pub(super) logs_lag: Family<(SourceLabel, SinkLabel), IntGauge>,
    pub(super) logs_truncated: Family<(), IntCounter>,
    pub(super) istio: IstioFamilies,
}

impl Families {
    #[rustfmt::skip] // one table, read by columns
    pub(super) fn register(to: &Exposition) -> Self {
        Self {
            requests: to.counters("pillion_requests_total", "Finished requests."),
            duration: to.histograms("pillion_request_duration_seconds", "Time from a request's headers to the end of its response.", DURATION_BUCKETS),
            route_duration: to.histograms("pillion_route_duration_seconds", "Time from a request's headers to the end of its response, by the route that matched.", DURATION_BUCKETS),
            endpoint_requests: to.counters("pillion_endpoint_requests_total", "Tries of requests by the endpoint that got them."),
            overhead: to.histograms("pillion_overhead_seconds", "Time that requests spent in the sidecar itself.", OVERHEAD_BUCKETS),
            active: to.gauges("pillion_requests_active", "Requests in flight."),
            retries: to.counters("pillion_retries_total", "Retries by outcome, with those that were not made."),
            connections: to.counters("pillion_connections_total", "Connections accepted (inbound, from the application) or opened (to a service)."),
            connections_active: to.gauges("pillion_connections_active", "Open connections."),
            bytes: to.counters("pillion_bytes_total", "Body and stream bytes, received from and sent to the downstream."),
            detections: to.counters("pillion_detections_total", "Connections whose protocol was detected by their first bytes."),
            dns_queries: to.counters("pillion_dns_queries_total", "Queries to the DNS proxy by outcome."),
            host_mismatches: to.counters("pillion_host_mismatches_total", "Requests to a service's address whose host names another service; the address decides."),
            breaker_used: to.gauges("pillion_circuit_breaker_used", "How much of a circuit breaker's limit is in use."),
            breaker_limit: to.gauges("pillion_circuit_breaker_limit", "The limits of a circuit breaker."),
            breaker_rejections: to.counters("pillion_circuit_breaker_rejections_total", "Connections, requests and retries that a circuit breaker's limit refused."),
            endpoints: to.gauges("pillion_endpoints", "Known endpoints of a service by state."),
            ejections: to.counters("pillion_endpoint_ejections_total", "Ejections of endpoints."),
            cache_requests: to.counters("pillion_cache_requests_total", "Requests to a service that has a cache, by how the cache served them."),
            cache_bytes: to.gauges("pillion_cache_bytes", "Memory that the stored answers of a service take, with evicted ones that clients still read."),
            handshakes: to.counters("pillion_tls_handshakes_total", "TLS handshakes."),
            not_after: to.gauges("pillion_certificate_not_after_timestamp_seconds", "When the first certificate in use expires, in seconds since 1970."),
            config_reloads: to.counters("pillion_config_reloads_total", "Reloads of the configuration by outcome; refused certificates count as refused."),
            config_snapshot: to.gauges("pillion_config_snapshot", "Whether the configuration at work is the one that --snapshot kept, because the file was refused at the start."),
            config_generation: to.gauges("pillion_config_generation", "Number of configurations and certificates that have been applied."),
            access_log_dropped: to.counters("pillion_access_log_dropped_total", "Access log lines lost because the sink was too slow or failed."),
            authorization: to.counters("pillion_authorization_total", "Inbound requests and opaque connections by the rule that decided."),
            tokens: to.counters("pillion_jwt_tokens_total", "Tokens of inbound requests by what they came to."),
            checks: to.counters("pillion_ext_authz_checks_total", "Inbound requests for the external authorizer by what came of the check."),
            jwks_loads: to.counters("pillion_jwks_loads_total", "Readings of the issuer's keys, from a file or a URL, by outcome."),
            kubernetes_watches: to.gauges("pillion_kubernetes_watches", "Watches of Kubernetes' API server, two for each namespace, by what they do."),
            kubernetes_lists: to.counters("pillion_kubernetes_lists_total", "Lists that were begun at Kubernetes' API server, by why."),
            kubernetes_heard: to.gauges("pillion_kubernetes_heard_timestamp_seconds", "When the watch that has been silent for the longest time was last heard, in seconds since 1970."),
            spans: to.counters("pillion_traces_spans_total", "Spans of traced requests, by what became of them."),
            memory_used: to.gauges("pillion_memory_used_bytes", "Memory that counts against limits.max_memory."),
            memory_limit: to.gauges("pillion_memory_limit_bytes", "The limit of memory by limits.max_memory."),
            memory_shed: to.counters("pillion_memory_shed_total", "Connections and unfinished heads closed or refused because of limits.max_memory."),
            companions: to.gauges("pillion_companion_up", "Whether a companion of the application works."),
            sync_version: to.gauges("pillion_sync_version_timestamp_seconds", "When the version at work of a synced file was written, in seconds since 1970."),
            sync_changes: to.counters("pillion_sync_changes_total", "Versions of synced files by what became of them."),
            logs_records: to.counters("pillion_logs_records_total", "Records of shipped files, by what became of them."),
            logs_lag: to.gauges("pillion_logs_lag_bytes", "Bytes of a source's files that a sink has not taken yet."),
            logs_truncated: to.counters("pillion_logs_truncated_bytes_total", "Bytes that a truncation took before a sink had got them."),
            istio: IstioFamilies::register(to),
        }
    }
}

impl Families {
    pub(super) fn forget(&self, gone: &HashSet<Symbol>) {
        let is_gone = |service: Service| gone.contains(&service.0);
        self.requests.remove(|labels| gone.contains(&labels.service));
        self.duration.remove(|(_, service)| is_gone(*service));
        self.route_duration.remove(|(service, _)| is_gone(*service));
        self.endpoint_requests.remove(|labels| gone.contains(&labels.service));
        self.istio.forget(gone);
        self.active.remove(|(_, service)| is_gone(*service));
        self.retries.remove(|(service, _)| is_gone(*service));
        self.connections.remove(|(_, service, ..)| is_gone(*service));
        self.bytes.remove(|(_, service, _)| is_gone(*service));
        self.host_mismatches.remove(|(service,)| is_gone(*service));
        self.breaker_used.remove(|(service, _)| is_gone(*service));
        self.breaker_limit.remove(|(service, _)| is_gone(*service));
        self.breaker_rejections.remove(|(service, _)| is_gone(*service));
        self.endpoints.remove(|(service, _)| is_gone(*service));
        self.ejections.remove(|(service, _)| is_gone(*service));
        self.cache_requests.remove(|(service, _)| is_gone(*service));
        self.cache_bytes.remove(|(service,)| is_gone(*service));
    }
}
