//! Every metric family of the sidecar, by name, with its labels: the list that the public interface prints.
//!
//! The data path resolves handles once and keeps them: [`ServiceMetrics`] per service, [`super::Recorder`] per
//! worker. What is asked for by label set takes a shared lock and is meant for connections, not for requests.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};

use super::family::{Exposition, Family, Histogram, IntCounter, IntGauge};
use super::labels::{
    CertificateUse, ConnectionOutcome, DetectionVerdict, DnsOutcome, EjectionCause, EndpointState, Flow,
    HandshakeOutcome, Label, Limit, Protocol, ReloadOutcome, RequestLabels, RetryOutcome, Service, Tls,
};
use super::process;
use super::service::ServiceMetrics;
use super::symbols::{Symbol, Symbols};
use pillion_model::Direction;

/// Seconds of a whole request: half a millisecond (a quick answer next door) to the longest usual deadline.
const DURATION_BUCKETS: &[f64] =
    &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// Seconds spent in the sidecar itself, usually tens of microseconds; the upper ones show a starved machine.
const OVERHEAD_BUCKETS: &[f64] =
    &[0.000_01, 0.000_02, 0.000_03, 0.000_05, 0.0001, 0.0002, 0.0005, 0.001, 0.005, 0.025, 0.1];

/// The commit the binary was built from, told to the build by the environment variable.
const REVISION: &str = match option_env!("PILLION_REVISION") {
    Some(revision) => revision,
    None => "unknown",
};

/// All that the sidecar counts.
pub struct Metrics {
    exposition: Exposition,
    symbols: Arc<Symbols>,
    families: Arc<Families>,
    services: RwLock<HashMap<(Direction, Symbol), Arc<ServiceMetrics>>>,
    hooks: Mutex<Vec<Arc<dyn Fn() + Send + Sync>>>,
    forgettings: AtomicU64,
}

/// The families; their series come with use.
pub(super) struct Families {
    pub(super) requests: Family<RequestLabels, IntCounter>,
    pub(super) duration: Family<(Direction, Service), Histogram>,
    pub(super) overhead: Family<(Direction,), Histogram>,
    pub(super) active: Family<(Direction, Service), IntGauge>,
    pub(super) retries: Family<(Service, RetryOutcome), IntCounter>,
    pub(super) connections: Family<(Direction, Service, Protocol, Tls, ConnectionOutcome), IntCounter>,
    pub(super) connections_active: Family<(Direction, Protocol), IntGauge>,
    pub(super) bytes: Family<(Direction, Service, Flow), IntCounter>,
    pub(super) detections: Family<(Direction, DetectionVerdict), IntCounter>,
    pub(super) dns_queries: Family<(DnsOutcome,), IntCounter>,
    pub(super) host_mismatches: Family<(Service,), IntCounter>,
    pub(super) breaker_used: Family<(Service, Limit), IntGauge>,
    pub(super) breaker_limit: Family<(Service, Limit), IntGauge>,
    pub(super) breaker_rejections: Family<(Service, Limit), IntCounter>,
    pub(super) endpoints: Family<(Service, EndpointState), IntGauge>,
    pub(super) ejections: Family<(Service, EjectionCause), IntCounter>,
    pub(super) handshakes: Family<(Direction, HandshakeOutcome), IntCounter>,
    pub(super) not_after: Family<(CertificateUse,), IntGauge>,
    pub(super) config_reloads: Family<(ReloadOutcome,), IntCounter>,
    pub(super) config_generation: Family<(), IntGauge>,
    pub(super) access_log_dropped: Family<(), IntCounter>,
}

impl Families {
    #[rustfmt::skip] // one table, read by columns
    fn register(to: &Exposition) -> Self {
        Self {
            requests: to.counters("pillion_requests_total", "Finished requests."),
            duration: to.histograms("pillion_request_duration_seconds", "Time from a request's headers to the end of its response.", DURATION_BUCKETS),
            overhead: to.histograms("pillion_overhead_seconds", "Time that requests spent in the sidecar itself.", OVERHEAD_BUCKETS),
            active: to.gauges("pillion_requests_active", "Requests in flight."),
            retries: to.counters("pillion_retries_total", "Requests sent again or refused to be, by how that ended."),
            connections: to.counters("pillion_connections_total", "Connections accepted (inbound, from the application) or opened (to a service)."),
            connections_active: to.gauges("pillion_connections_active", "Open connections."),
            bytes: to.counters("pillion_bytes_total", "Body and stream bytes, received from and sent to the downstream."),
            detections: to.counters("pillion_detections_total", "Connections whose protocol was told by their first bytes."),
            dns_queries: to.counters("pillion_dns_queries_total", "Questions to the DNS proxy, by how they were answered."),
            host_mismatches: to.counters("pillion_host_mismatches_total", "Requests to a service's address whose host names another service; the address wins."),
            breaker_used: to.gauges("pillion_circuit_breaker_used", "What of a circuit breaker's limit is in use."),
            breaker_limit: to.gauges("pillion_circuit_breaker_limit", "The limits of a circuit breaker."),
            breaker_rejections: to.counters("pillion_circuit_breaker_rejections_total", "What a circuit breaker's limit refused."),
            endpoints: to.gauges("pillion_endpoints", "Known endpoints of a service by state."),
            ejections: to.counters("pillion_endpoint_ejections_total", "Times an endpoint was taken out of the rotation."),
            handshakes: to.counters("pillion_tls_handshakes_total", "TLS handshakes."),
            not_after: to.gauges("pillion_certificate_not_after_timestamp_seconds", "When the first certificate in use ends, as seconds since 1970."),
            config_reloads: to.counters("pillion_config_reloads_total", "Times the configuration was read again, by what became of it; certificates that were refused count as well."),
            config_generation: to.gauges("pillion_config_generation", "Counts what was put to work: configurations and certificates."),
            access_log_dropped: to.counters("pillion_access_log_dropped_total", "Access log lines lost because the sink was too slow or failed."),
        }
    }
}

impl Families {
    fn forget(&self, gone: &HashSet<Symbol>) {
        let is_gone = |service: Service| gone.contains(&service.0);
        self.requests.remove(|labels| gone.contains(&labels.service));
        self.duration.remove(|(_, service)| is_gone(*service));
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
    }
}

impl Metrics {
    /// `max_series` bounds the whole exposition; a histogram counts with its buckets.
    pub fn new(max_series: usize) -> Arc<Self> {
        // A peer without a series would be no use: one bound serves both.
        let symbols = Arc::new(Symbols::new(max_series));
        let exposition = Exposition::new(symbols.clone(), max_series);
        let families = Arc::new(Families::register(&exposition));
        publish_build(&exposition);
        process::tell(&exposition);
        families.access_log_dropped.of(());
        ReloadOutcome::ALL.iter().for_each(|outcome| drop(families.config_reloads.of((*outcome,))));
        let (services, hooks) = (RwLock::default(), Mutex::default());
        Arc::new(Self { exposition, symbols, families, services, hooks, forgettings: AtomicU64::new(0) })
    }

    /// The symbol of a name that the configuration gives. Once per configuration.
    pub fn intern(&self, name: &str) -> Symbol {
        self.symbols.intern(name)
    }

    /// The symbol of a peer's SPIFFE ID, [`Symbol::OTHER`] past the bound. Once per connection.
    pub fn intern_peer(&self, id: &str) -> Symbol {
        self.symbols.intern_bounded(id)
    }

    pub fn name(&self, symbol: Symbol) -> Arc<str> {
        self.symbols.name(symbol)
    }

    /// The counter of finished requests with these labels; the data path asks its [`super::Recorder`].
    pub fn requests(&self, labels: RequestLabels) -> IntCounter {
        self.families.requests.of(labels.tidy())
    }

    /// The handles of one service. Asking shows nothing yet; its series appear when one of them is first used.
    pub fn service(&self, direction: Direction, service: Symbol) -> Arc<ServiceMetrics> {
        let known = self.services.read().get(&(direction, service)).cloned();
        known.unwrap_or_else(|| self.add_service(direction, service))
    }

    fn add_service(&self, direction: Direction, service: Symbol) -> Arc<ServiceMetrics> {
        let fresh = || Arc::new(ServiceMetrics::new(self.families.clone(), direction, service));
        self.services.write().entry((direction, service)).or_insert_with(fresh).clone()
    }

    /// Takes away the series of services that are not configured any more and that nothing uses any more: what is in
    /// use never loses to them.
    pub fn forget_removed_services(&self) {
        let is_gone = |service: Symbol, metrics: &Arc<ServiceMetrics>| {
            !service.is_known() && Arc::strong_count(metrics) == 1
        };
        if !self.services.read().iter().any(|((_, service), metrics)| is_gone(*service, metrics)) {
            return;
        }
        let mut services = self.services.write(); // kept: one that comes back begins when its old series have gone
        let gone = services.extract_if(|(_, service), metrics| is_gone(*service, metrics));
        let gone: HashSet<Symbol> = gone.map(|((_, service), _)| service).collect();
        if !gone.is_empty() {
            self.families.forget(&gone);
            self.forgettings.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How often series were taken away: handles from before may count for nobody.
    pub(super) fn forgettings(&self) -> u64 {
        self.forgettings.load(Ordering::Relaxed)
    }

    /// Seconds of a request that were spent in the sidecar itself. Keep the handle.
    pub fn overhead(&self, direction: Direction) -> Histogram {
        self.families.overhead.of((direction,))
    }

    /// Open connections. Keep the handle and hold it with [`super::Held`].
    pub fn connections_active(&self, direction: Direction, protocol: Protocol) -> IntGauge {
        self.families.connections_active.of((direction, protocol))
    }

    /// Connections accepted or opened, counted when it shows what became of them.
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

    /// Undeclared connections by what they were found to speak.
    pub fn detections(&self, direction: Direction, verdict: DetectionVerdict) -> IntCounter {
        self.families.detections.of((direction, verdict))
    }

    /// Questions to the DNS proxy by how they were answered.
    pub fn dns_queries(&self, outcome: DnsOutcome) -> IntCounter {
        self.families.dns_queries.of((outcome,))
    }

    /// Requests that came to the address of `service` with the host of another.
    pub fn host_mismatches(&self, service: Symbol) -> IntCounter {
        self.families.host_mismatches.of((Service(service),))
    }

    /// Handshakes by how they ended.
    pub fn handshakes(&self, direction: Direction, outcome: HandshakeOutcome) -> IntCounter {
        self.families.handshakes.of((direction, outcome))
    }

    /// When the first certificate of this use ends, as seconds since 1970.
    pub fn certificate_not_after(&self, of: CertificateUse) -> IntGauge {
        self.families.not_after.of((of,))
    }

    /// Configurations that were read again, by what became of them.
    pub fn config_reloads(&self, outcome: ReloadOutcome) -> IntCounter {
        self.families.config_reloads.of((outcome,))
    }

    /// Which snapshot is read by the data path.
    pub fn config_generation(&self) -> IntGauge {
        self.families.config_generation.of(())
    }

    pub fn access_log_dropped(&self) -> IntCounter {
        self.families.access_log_dropped.of(())
    }

    /// Runs `hook` before every exposition, to set gauges that mirror live state.
    ///
    /// Hooks live as long as the metrics: let them hold weak references.
    pub fn on_collect(&self, hook: impl Fn() + Send + Sync + 'static) {
        self.hooks.lock().push(Arc::new(hook));
    }

    /// The exposition in Prometheus' text format ([`super::family::CONTENT_TYPE`]).
    ///
    /// Takes milliseconds with thousands of series: not for a thread of the data path.
    pub fn encode(&self) -> String {
        let hooks = self.hooks.lock().clone();
        hooks.iter().for_each(|hook| hook());
        self.exposition.encode()
    }
}

/// `pillion_build_info`, always 1.
fn publish_build(to: &Exposition) {
    to.gauges("pillion_build_info", "What is running.").of((Version, Revision)).set(1);
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
    use pillion_model::Reason;

    /// The families of the public interface that exist by now.
    const FAMILIES: [&str; 29] = [
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
        "pillion_tls_handshakes_total",
        "pillion_certificate_not_after_timestamp_seconds",
        "pillion_config_reloads_total",
        "pillion_config_generation",
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
        for limit in Limit::ALL {
            service.breaker_used(*limit).set(3);
            service.breaker_limit(*limit).set(1024);
            service.breaker_rejections(*limit).inc();
        }
        EndpointState::ALL.iter().for_each(|state| service.endpoints(*state).set(2));
        EjectionCause::ALL.iter().for_each(|cause| service.ejections(*cause).inc());
    }

    /// Samples in every family.
    fn used() -> Arc<Metrics> {
        let metrics = Metrics::new(20_000);
        let billing = metrics.intern("billing");
        metrics.requests(request(&metrics, "spiffe://example.org/ns/a/sa/\"b\"")).inc();
        use_service(&metrics.service(Direction::Outbound, billing));
        metrics.overhead(Direction::Outbound).observe(0.000_012);
        metrics
            .connections(Direction::Outbound, billing, Protocol::Http2, Tls::Mutual, ConnectionOutcome::Ok)
            .inc();
        metrics.connections_active(Direction::Outbound, Protocol::Http2).inc();
        metrics.handshakes(Direction::Outbound, HandshakeOutcome::Identity).inc();
        metrics.detections(Direction::Inbound, DetectionVerdict::Opaque).inc();
        DnsOutcome::ALL.iter().for_each(|outcome| metrics.dns_queries(*outcome).inc());
        metrics.host_mismatches(billing).inc();
        ReloadOutcome::ALL.iter().for_each(|outcome| metrics.config_reloads(*outcome).inc());
        metrics.config_generation().set(7);
        CertificateUse::ALL.iter().for_each(|of| metrics.certificate_not_after(*of).set(1_800_000_000));
        metrics
    }

    #[test]
    fn every_family_of_the_interface_is_told_with_type_and_help() {
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
    fn promtool_finds_nothing_to_say() {
        let text = used().encode();
        let Some((ok, said)) = promtool(&text) else {
            assert_ne!(std::env::var("PILLION_TEST_REQUIRE").as_deref(), Ok("all"), "promtool is required");
            println!("skipped: no promtool");
            return;
        };
        assert!(ok && said.is_empty(), "{said}\n{text}");
    }

    /// Whether `promtool check metrics` is content, and what it said; `None` where it is not installed.
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
    fn a_request_is_told_by_all_its_labels() {
        let text = used().encode();
        let expected = concat!(
            r#"pillion_requests_total{direction="outbound",service="billing",route="",method="POST",status="503","#,
            r#"grpc_status="14",reason="no_endpoints",peer="spiffe://example.org/ns/a/sa/\"b\""} 1"#
        );
        assert!(text.lines().any(|line| line == expected), "{text}");
    }

    /// Lines of the exposition with this text.
    fn told(metrics: &Metrics, text: &str) -> Vec<String> {
        let all = metrics.encode();
        all.lines().filter(|line| line.contains(text)).map(str::to_owned).collect()
    }

    #[test]
    fn c4_a_service_shows_with_its_first_use_all_at_once_and_its_handles_are_shared() {
        let metrics = Metrics::new(1_000);
        let billing = metrics.intern("billing");
        let [one, two] = [(); 2].map(|()| metrics.service(Direction::Outbound, billing));
        assert_eq!(told(&metrics, "billing"), [""; 0]);
        one.retries(RetryOutcome::Replaced).inc();
        two.retries(RetryOutcome::Replaced).inc();
        let told = told(&metrics, "billing");
        for line in [
            r#"pillion_retries_total{service="billing",outcome="replaced"} 2"#,
            r#"pillion_retries_total{service="billing",outcome="failed"} 0"#,
            r#"pillion_request_duration_seconds_count{direction="outbound",service="billing"} 0"#,
            r#"pillion_requests_active{direction="outbound",service="billing"} 0"#,
            r#"pillion_bytes_total{direction="outbound",service="billing",flow="sent"} 0"#,
            r#"pillion_circuit_breaker_rejections_total{service="billing",limit="pending"} 0"#,
            r#"pillion_endpoint_ejections_total{service="billing",cause="consecutive_errors"} 0"#,
        ] {
            assert!(told.iter().any(|told| told == line), "{line}: {told:#?}");
        }
    }

    #[test]
    fn c4_a_connection_is_a_use_of_its_service() {
        let metrics = Metrics::new(1_000);
        let billing = metrics.intern("billing");
        let outcome = ConnectionOutcome::Refused;
        metrics.connections(Direction::Outbound, billing, Protocol::Tcp, Tls::None, outcome).inc();
        assert_eq!(told(&metrics, "pillion_bytes_total{direction=\"outbound\",service=\"billing\"").len(), 2);
    }

    /// More names than series: the names come from the operator's file, which is bounded by itself.
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
            held.breaker_used(Limit::Retries).set(1);
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
    fn c4_what_is_in_use_never_loses_to_what_is_not() {
        let metrics = Metrics::new(200);
        let unused = (0..1_800).map(|number| metrics.intern(&format!("unused-{number}")));
        let _handles: Vec<_> = unused.map(|name| metrics.service(Direction::Outbound, name)).collect();
        let billing = metrics.intern("billing");
        use_service(&metrics.service(Direction::Outbound, billing));
        metrics.requests(request(&metrics, "spiffe://example.org/a")).inc();
        CertificateUse::ALL.iter().for_each(|of| metrics.certificate_not_after(*of).set(1));
        assert_eq!(told(&metrics, "other"), [""; 0]);
        assert_eq!(told(&metrics, "unused"), [""; 0]);
        for text in
            ["pillion_requests_total{", "pillion_certificate_not_after_timestamp_seconds{use=\"own\"}"]
        {
            assert_eq!(told(&metrics, text).len(), 1, "{text}");
        }
    }

    #[test]
    fn c4_certificates_build_and_process_are_told_however_few_series_there_may_be() {
        let metrics = Metrics::new(0);
        (0..100).for_each(|number| metrics.requests(request(&metrics, &number.to_string())).inc());
        CertificateUse::ALL.iter().for_each(|of| metrics.certificate_not_after(*of).set(1_800_000_000));
        for text in [
            "pillion_certificate_not_after_timestamp_seconds{use=\"own\"} 1800000000",
            "pillion_certificate_not_after_timestamp_seconds{use=\"ca\"} 1800000000",
            "pillion_build_info{",
            "process_start_time_seconds ",
        ] {
            assert!(!told(&metrics, text).is_empty(), "{text}");
        }
    }

    #[test]
    fn hooks_set_what_mirrors_live_state_before_each_exposition() {
        let metrics = Metrics::new(1_000);
        let app = metrics.service(Direction::Inbound, Symbol::APP);
        let pool: Arc<Mutex<i64>> = Arc::new(Mutex::new(7));
        let seen: Weak<_> = Arc::downgrade(&pool);
        metrics.on_collect(move || {
            let used = seen.upgrade().map_or(0, |pool| *pool.lock());
            app.breaker_used(Limit::Connections).set(used);
        });
        let told = |value| {
            format!("pillion_circuit_breaker_used{{service=\"app\",limit=\"connections\"}} {value}\n")
        };
        assert!(metrics.encode().contains(&told(7)));
        drop(pool);
        assert!(metrics.encode().contains(&told(0)));
    }

    #[test]
    fn thousands_of_peers_and_services_stay_within_the_bound() {
        let metrics = Metrics::new(2_000);
        for number in 0..3_000 {
            metrics.requests(request(&metrics, &format!("spiffe://example.org/{number}"))).inc();
            let service = metrics.intern(&format!("service-{number}"));
            use_service(&metrics.service(Direction::Outbound, service));
        }
        let text = metrics.encode();
        let told = text.lines().filter(|line| !line.starts_with('#')).count();
        assert!(told <= 2_050, "{told} series");
        assert!(text.contains(r#"pillion_requests_active{direction="outbound",service="other"}"#));
    }
}
