//! Every sample loads, and its comments are true.

use std::path::{Path, PathBuf};
use std::time::Duration;

use pillion_config::load;
use pillion_model::Config;
use pillion_model::cluster::{LoadBalancer, UpstreamProtocol, UpstreamTls};
use pillion_model::identity::TlsVersion;
use pillion_model::listener::{AppProtocol, Mtls};
use pillion_model::policy::{Backoff, ErrorRate, IdleTimeout, RetryCondition, RetryMethods, Timeout};

use crate::{bad, good};

fn samples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../samples")
}

fn sample(name: &str) -> Config {
    load(&samples().join(name)).expect("a good sample").0
}

#[test]
fn every_sample_loads_without_a_warning() {
    let files: Vec<PathBuf> =
        std::fs::read_dir(samples()).unwrap().map(|file| file.unwrap().path()).collect();
    assert!(files.len() >= 3);
    for file in files {
        let (_, warnings) = load(&file).expect("a good sample");
        assert_eq!(warnings, [], "{}", file.display());
    }
}

#[test]
fn a_file_without_keys_has_the_built_in_defaults() {
    for nothing in
        ["{}", "--- {}\n", "version: 1", "services: {}", "services:\n", "inbound: {}\n", "\u{feff}version: 1"]
    {
        assert_eq!(good(nothing), Config::default(), "{nothing:?}");
    }
}

/// A failed write, or a template that rendered nothing, can leave an empty file. With the defaults, mTLS would be off.
#[test]
fn c1_an_empty_file_is_refused_even_with_comments_or_nulls() {
    for empty in [
        "",
        "\n",
        " \t\n\n",
        "\u{feff}",
        "\u{feff}\n# later\n",
        "# identity: { directory: certs }\n",
        "---",
        "---\n",
        "--- # later\n...\n",
        "%YAML 1.2\n---\n",
        "---\n---\n",
        "...\n",
        "null",
        "~\n",
        "--- null\n",
    ] {
        let refused = bad(empty);
        assert_eq!(refused.faults.len(), 1, "{empty:?} {refused}");
        let fault = &refused.faults[0];
        assert_eq!((fault.line, fault.column, &*fault.message), (1, 1, "the file is empty"), "{empty:?}");
        assert!(fault.help.as_deref().is_some_and(|help| help.contains("{}")), "{refused}");
    }
}

#[test]
fn the_built_in_defaults_are_those_of_the_public_interface() {
    let config = Config::default();
    let inbound = config.inbound.unwrap();
    assert_eq!(inbound.listen, ["0.0.0.0:15006".parse().unwrap(), "[::]:15006".parse().unwrap()]);
    assert_eq!((inbound.app, inbound.mtls, inbound.protocol), (None, Mtls::Off, AppProtocol::Auto));
    assert_eq!(
        (inbound.timeout, inbound.max_connections, inbound.max_requests, inbound.max_body),
        (None, None, None, None)
    );
    assert_eq!(
        config.outbound.unwrap().listen,
        ["127.0.0.1:15001".parse().unwrap(), "[::1]:15001".parse().unwrap()]
    );
    assert_eq!(config.admin.listen, ["127.0.0.1:15000".parse().unwrap()]);
    let metrics = config.metrics.unwrap();
    assert_eq!(metrics.listen, ["0.0.0.0:15020".parse().unwrap(), "[::]:15020".parse().unwrap()]);
    assert_eq!(metrics.max_series, 20_000);
    assert_eq!((config.tls.min_version, config.tls.post_quantum), (TlsVersion::Tls12, true));
    assert_eq!((config.identity, config.access_log, config.workers), (None, None, None));
}

#[test]
fn a_service_without_keys_has_the_defaults_of_the_public_interface() {
    let cluster = good("services: { Orders: { endpoints: [10.0.0.1:80] } }").clusters.remove(0);
    assert_eq!(
        (cluster.hosts[0].name.as_str(), cluster.hosts[0].wildcard, cluster.hosts[0].port),
        ("orders", false, None)
    );
    assert_eq!((cluster.protocol, &cluster.load_balancer), (UpstreamProtocol::Auto, &LoadBalancer::PeakEwma));
    assert_eq!(cluster.tls, UpstreamTls::Off);
    assert_eq!(cluster.endpoints[0].weight.get(), 1);
    let t = cluster.timeouts;
    assert_eq!((t.connect, t.request, t.max_duration), (Duration::from_secs(2), Timeout::Default, None));
    assert_eq!((t.request.bound(), t.request.grpc_bound()), (Some(Duration::from_secs(15)), None));
    assert_eq!(t.stream_idle.body(), Some(Duration::from_secs(300)));
    assert_eq!(t.stream_idle.tunnel(), Some(Duration::from_secs(3600)));
    let c = cluster.connection;
    assert_eq!((c.idle_timeout, c.keepalive), (Some(Duration::from_secs(55)), Some(Duration::from_secs(60))));
    assert_eq!((c.max_age, c.max_requests), (None, None));
    let l = cluster.limits;
    assert_eq!(
        (l.max_connections, l.max_pending_requests, l.max_requests, l.max_retries),
        (1024, 1024, 1024, 32)
    );
    let o = cluster.outlier_detection.unwrap();
    assert_eq!(
        (o.consecutive_errors, o.base_ejection, o.max_ejected),
        (Some(5), Duration::from_secs(30), 0.5)
    );
}

#[test]
fn a_retry_without_keys_has_the_defaults_of_the_public_interface() {
    let retry = good("services: { orders: { endpoints: [10.0.0.1:80] } }").clusters.remove(0).retry.unwrap();
    assert_eq!((retry.attempts, retry.methods, retry.per_try_timeout), (2, RetryMethods::Idempotent, None));
    use RetryCondition::{ConnectFailure, GatewayError, RefusedStream, Reset};
    assert_eq!(retry.conditions, [ConnectFailure, RefusedStream, Reset, GatewayError]);
    assert_eq!(
        (retry.backoff.base, retry.backoff.cap()),
        (Duration::from_millis(25), Duration::from_millis(250))
    );
    assert_eq!((retry.budget.ratio, retry.budget.min_per_second, retry.max_body), (0.2, 10, 65536));
}

/// The `#=` lines of the full sample are true: a service with every key written out is like a service without keys.
#[test]
fn the_full_sample_contains_the_defaults() {
    let mut clusters = sample("pillion.yaml").clusters;
    let plain = good("services: { orders: { endpoints: [10.0.0.1:80] } }").clusters.remove(0);
    let mut full = clusters.remove(0);
    // once written, the timeout also limits gRPC, and the idle timeout also limits tunnels
    assert_eq!(full.timeouts.request, Timeout::Set(Timeout::DEFAULT));
    assert_eq!(full.timeouts.stream_idle, IdleTimeout::Set(IdleTimeout::BODY));
    let backoff = &mut full.retry.as_mut().unwrap().backoff;
    assert_eq!(backoff.max, Some(Backoff::MAX));
    backoff.max = None;
    let error_rate = full.outlier_detection.as_mut().unwrap().error_rate.take();
    assert_eq!(error_rate, Some(ErrorRate::default()), "it is written out, and off by default");
    full.timeouts.request = plain.timeouts.request;
    full.timeouts.stream_idle = plain.timeouts.stream_idle;
    assert_eq!((full.timeouts, full.connection, full.retry), (plain.timeouts, plain.connection, plain.retry));
    assert_eq!((full.limits, full.outlier_detection), (plain.limits, plain.outlier_detection));
    assert_eq!((full.hosts.len(), full.listen.len(), full.endpoints[1].weight.get()), (3, 1, 2));
    assert_eq!((full.addresses.len(), clusters[2].protocol), (3, UpstreamProtocol::Tcp));
    assert!(matches!(
        &clusters[0].tls,
        UpstreamTls::Simple { sni: Some(_), trust_bundle: Some(_), own: Some(_) }
    ));
    assert_eq!((&clusters[1].tls, &clusters[1].retry), (&UpstreamTls::Off, &None));
}

fn files(config: pillion_model::Config) -> pillion_model::identity::Files {
    config.identity.and_then(|identity| identity.files().cloned()).expect("an identity of files")
}

#[test]
fn relative_paths_start_at_the_file_s_folder() {
    let identity = files(sample("caller.yaml"));
    assert_eq!(identity.certificate, samples().join("web-certs/tls.crt"));
    assert_eq!(
        (identity.key, identity.trust_bundle),
        (samples().join("web-certs/tls.key"), samples().join("web-certs/ca.crt"))
    );
    let absolute = files(good("identity: { certificate: /a.pem, key: b.pem, trust_bundle: ../c.pem }"));
    assert_eq!(absolute.certificate, Path::new("/a.pem"));
    assert_eq!(absolute.key, Path::new("/etc/pillion/b.pem"));
}

#[test]
fn with_an_identity_both_sides_are_strict_and_mutual_by_default() {
    let config = good(
        "identity: { directory: c }\nservices: { a: { endpoints: [10.0.0.1:80] }, b: { endpoints: [10.0.0.1:80], tls: off } }",
    );
    assert_eq!(config.inbound.unwrap().mtls, Mtls::Strict);
    assert_eq!(
        config.clusters[0].tls,
        UpstreamTls::Mutual { identities: vec![], sni: None, trust_bundle: None }
    );
    assert_eq!(config.clusters[1].tls, UpstreamTls::Off);
    assert_eq!(good("identity: { directory: c }\ninbound: { mtls: off }").inbound.unwrap().mtls, Mtls::Off);
}

#[test]
fn on_off_true_and_false_are_one_word_type_quoted_or_not() {
    for off in ["off", "\"off\"", "false", "'false'", "OFF"] {
        let config = good(&format!(
            "inbound: {off}\noutbound: {off}\nmetrics: {off}\naccess_log: {off}\ntls: {{ post_quantum: {off} }}\n\
             services: {{ a: {{ listen: 127.0.0.1:0, endpoints: [10.0.0.1:80], timeout: {off}, retry: {off}, tls: {off} }} }}"
        ));
        assert_eq!(
            (config.inbound, config.outbound, config.metrics, config.access_log),
            (None, None, None, None)
        );
        assert_eq!(
            (config.tls.post_quantum, config.clusters[0].timeouts.request),
            (false, Timeout::Off),
            "{off}"
        );
        assert_eq!((&config.clusters[0].retry, &config.clusters[0].tls), (&None, &UpstreamTls::Off));
    }
}

#[test]
fn ports_are_keys_quoted_or_not_and_listen_takes_one_or_several() {
    for port in ["9090", "\"9090\"", "'9090'"] {
        let config =
            good(&format!("inbound: {{ listen: 127.0.0.1:0, ports: {{ {port}: {{ protocol: http2 }} }} }}"));
        let inbound = config.inbound.unwrap();
        assert_eq!(inbound.ports[&9090].protocol, Some(AppProtocol::Http2));
        assert_eq!(inbound.listen.len(), 1);
    }
}

#[test]
fn conditions_may_be_written_as_on_and_yaml_aliases_work() {
    let source = "services:\n  a: &a { endpoints: [10.0.0.1:80], hosts: [x], retry: { on: [5xx, 409, unavailable] } }\n";
    let retry = good(source).clusters.remove(0).retry.unwrap();
    assert_eq!(
        retry.conditions,
        [RetryCondition::FiveXx, RetryCondition::Status(409), RetryCondition::Grpc(14)]
    );
    let shared = "services:\n  a: { endpoints: &e [10.0.0.1:80] }\n  b: { endpoints: *e }\n";
    assert_eq!(good(shared).clusters[1].endpoints.len(), 1);
}

#[test]
fn workers_and_counts_are_read_as_numbers() {
    assert_eq!(good("workers: 4").workers.unwrap().get(), 4);
    assert_eq!(good("workers: \"4\"").workers.unwrap().get(), 4);
    assert_eq!(
        good("inbound: { max_connections: 100000, max_body: 10MiB }").inbound.unwrap().max_body,
        Some(10 << 20)
    );
}
