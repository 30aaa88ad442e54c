//! The families of the public interface, and what all series have in common.

use std::collections::HashSet;
use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::Weak;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::*;
use crate::labels::{
    AuthorizationMode, CacheOutcome, CertificateUse, CheckOutcome, CompanionKind, ConnectionOutcome,
    Decision, DetectionVerdict, DnsOutcome, EjectionCause, EndpointLabels, EndpointState, Flow,
    HandshakeOutcome, JwksOutcome, LimitLabel, ListCause, LogOutcome, MethodLabel, Protocol, RequestLabels,
    RetryOutcome, Shed, SpanOutcome, SyncOutcome, Tls, TokenOutcome, TryOutcome, WatchState,
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

pub(super) fn request(metrics: &Metrics, peer: &str) -> RequestLabels {
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
pub(super) fn at(service: Symbol, port: u16) -> EndpointLabels {
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
    metrics.authorization(Decision::Denied, metrics.intern("web-reads"), AuthorizationMode::Enforce).inc();
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
    const PAGE: &str = include_str!("../../../../docs/metrics.md");
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
            assert_eq!(text.lines().filter(|line| line.starts_with(&start)).count(), 1, "{start}\n{text}");
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
    let mut child = {
        let _starting = crate::application::STARTING.lock();
        command.spawn().ok()?
    };
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
pub(super) fn lines_with(metrics: &Metrics, text: &str) -> Vec<String> {
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
    for text in ["pillion_requests_total{", "pillion_certificate_not_after_timestamp_seconds{use=\"own\"}"] {
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
    let gauge =
        |value| format!("pillion_circuit_breaker_used{{service=\"app\",limit=\"connections\"}} {value}\n");
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
