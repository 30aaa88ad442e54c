//! `defaults`: their keys apply to every service that does not set them, and their faults are reported once.

use std::time::Duration;

use pillion_model::cluster::{LoadBalancer, UpstreamProtocol, UpstreamTls};
use pillion_model::listener::Question;
use pillion_model::policy::{
    HealthCheck, IdleTimeout, OutlierDetection, RetryCondition, RetryMethods, Timeout,
};

use crate::{bad, good, messages, warnings};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn keys_that_belong_to_one_service_are_refused_in_defaults() {
    let source = "\
defaults:
  hosts: [a]
  addresses: 10.0.0.1
  listen: 127.0.0.1:9001
  endpoints: [10.0.0.1:80]
services:
  a: {}
";
    let own = "is not allowed here: each service has its own";
    assert_eq!(
        messages(source),
        [
            format!("2:3 defaults.hosts {own}"),
            format!("3:3 defaults.addresses {own}"),
            format!("4:3 defaults.listen {own}"),
            format!("5:3 defaults.endpoints {own}"),
            "7:3 services.a needs endpoints".into(),
        ]
    );
}

#[test]
fn a_fault_in_defaults_is_reported_once_at_its_place() {
    let services = "services:\n  a: { endpoints: [10.0.0.1:80] }\n  b: { endpoints: [10.0.0.2:80], retry: { attempts: 1 } }\n";
    let cases = [
        ("defaults: { tmeout: 1s }\n", vec!["1:13 defaults has no key `tmeout`"]),
        ("defaults: { timeout: 1 }\n", vec!["1:22 defaults.timeout is `1`, which is not a duration"]),
        (
            "defaults: { retry: { attempts: 0 } }\n",
            vec!["1:32 defaults.retry.attempts is 0, which is no retry"],
        ),
        (
            "defaults: { retry: { backoff: { base: 1s, max: 1ms } } }\n",
            vec!["1:48 defaults.retry.backoff.max is 1ms, below `base` (1s)"],
        ),
        (
            "defaults: { tls: mutual }\n",
            vec!["1:18 defaults.tls is mutual, but there is no `identity` to prove"],
        ),
        (
            "defaults: { tls: { mode: off, sni: x } }\n",
            vec!["1:36 defaults.tls.sni is not possible with mode: off"],
        ),
        (
            "defaults: { health_check: { tcp: true, interval: 1ms } }\n",
            vec!["1:50 defaults.health_check.interval is 1ms, too often"],
        ),
        ("defaults: { slow_start: 1 }\n", vec!["1:25 defaults.slow_start is `1`, which is not a duration"]),
        (
            "defaults: { outlier_detection: { interval: 1ms } }\n",
            vec!["1:44 defaults.outlier_detection.interval is 1ms, too short"],
        ),
        (
            "defaults: { outlier_detection: { error_rate: { above: 100% } } }\n",
            vec!["1:55 defaults.outlier_detection.error_rate.above is 100%, and no rate is above it"],
        ),
        ("defaults: off\n", vec!["1:11 defaults must be a block of keys, not `off`"]),
        ("defaults: [a]\n", vec!["1:11 defaults must be a block of keys, not a list"]),
    ];
    for (defaults, expected) in cases {
        assert_eq!(messages(&format!("{defaults}{services}")), expected);
        assert_eq!(messages(defaults), expected, "without services");
    }
}

#[test]
fn a_warning_about_defaults_is_reported_once_if_a_service_inherits_it() {
    let source = "\
defaults: { retry: { methods: all, per_try_timeout: 20s } }
services:
  a: { endpoints: [10.0.0.1:80] }
  b: { endpoints: [10.0.0.1:80] }
  c: { endpoints: [10.0.0.1:80], timeout: 1s }
  d: { endpoints: [10.0.0.1:80], retry: off }
  e: { endpoints: [10.0.0.1:80], timeout: 60s }
";
    let messages: Vec<_> =
        warnings(source).iter().map(|w| format!("{}:{} {}", w.line, w.column, w.message)).collect();
    assert_eq!(
        messages,
        [
            "1:31 defaults.retry.methods is all: a POST that the service has handled may be sent again",
            "1:53 defaults.retry.per_try_timeout is 20s, not below `timeout` (15s): it never ends a try",
            "1:53 defaults.retry.per_try_timeout is 20s, not below `timeout` (1s): it never ends a try (in service c)",
        ]
    );
    let right = "defaults: { retry: { per_try_timeout: 20s } }\nservices: { a: { endpoints: [10.0.0.1:80], timeout: 60s } }";
    assert_eq!(warnings(right), []);
}

#[test]
fn a_fault_of_a_service_together_with_the_defaults_names_the_service() {
    let source = "\
defaults: { retry: { backoff: { max: 100ms } } }
services:
  a: { endpoints: [10.0.0.1:80] }
  b: { endpoints: [10.0.0.1:80], retry: { backoff: { base: 1s } } }
  c: { endpoints: [10.0.0.1:80], retry: { backoff: { base: 1s, max: 1ms } } }
";
    assert_eq!(
        messages(source),
        [
            "1:38 defaults.retry.backoff.max is 100ms, below `base` (1s) (in service b)",
            "5:69 services.c.retry.backoff.max is 1ms, below `base` (1s)",
        ]
    );
}

#[test]
fn a_fault_of_defaults_in_a_hundred_services_does_not_hide_other_faults() {
    let services: String = (0..200).map(|n| format!("  s{n}: {{ endpoints: [10.0.0.1:80] }}\n")).collect();
    let source = format!("defaults: {{ retry: {{ attempts: 0 }} }}\nversion: 2\nservices:\n{services}");
    assert_eq!(messages(&source).len(), 2, "{}", bad(&source));
}

#[test]
fn a_key_of_defaults_applies_to_every_service_that_does_not_set_it() {
    let config = good(
        "\
defaults:
  protocol: http1
  load_balancer: random
  connect_timeout: 1s
  timeout: 1s
  stream_idle_timeout: 1s
  max_duration: 1s
  tls: off
services:
  a: { endpoints: [10.0.0.1:80] }
  b:
    endpoints: [10.0.0.1:80]
    protocol: http2
    load_balancer: peak_ewma
    connect_timeout: 2s
    timeout: off
    stream_idle_timeout: off
    max_duration: off
    tls: { mode: simple, trust_bundle: ca.pem }
",
    );
    let [a, b] = config.clusters.as_slice() else { unreachable!("two services") };
    assert_eq!(
        (a.protocol, &a.load_balancer, &a.tls),
        (UpstreamProtocol::Http1, &LoadBalancer::Random, &UpstreamTls::Off)
    );
    assert_eq!((a.timeouts.connect, a.timeouts.request), (SECOND, Timeout::Set(SECOND)));
    assert_eq!(a.timeouts.stream_idle, IdleTimeout::Set(SECOND));
    assert_eq!(a.timeouts.max_duration, Some(SECOND));
    assert_eq!((b.protocol, &b.load_balancer), (UpstreamProtocol::Http2, &LoadBalancer::PeakEwma));
    assert_eq!((b.timeouts.connect, b.timeouts.request), (2 * SECOND, Timeout::Off));
    assert_eq!((b.timeouts.stream_idle, b.timeouts.max_duration), (IdleTimeout::Off, None));
    assert!(matches!(&b.tls, UpstreamTls::Simple { trust_bundle: Some(_), .. }));
}

#[test]
fn blocks_and_blocks_inside_them_are_merged_key_by_key() {
    let config = good(
        "\
defaults:
  connection: { idle_timeout: 1s, keepalive: off }
  retry: { attempts: 7, conditions: [5xx, reset], methods: [GET], backoff: { base: 1s, max: 9s }, budget: { ratio: 50% } }
  circuit_breaker: { max_connections: 7, max_retries: 8 }
  outlier_detection: { consecutive_errors: 7, max_ejected: 10% }
services:
  a:
    endpoints: [10.0.0.1:80]
    connection: { keepalive: 2s }
    retry: { conditions: [409], backoff: { max: 5s }, budget: { min_per_second: 1 } }
    circuit_breaker: { max_retries: 9 }
    outlier_detection: { max_ejected: 20% }
  b: { endpoints: [10.0.0.1:80] }
",
    );
    let a = &config.clusters[0];
    assert_eq!((a.connection.idle_timeout, a.connection.keepalive), (Some(SECOND), Some(2 * SECOND)));
    let retry = a.retry.as_ref().unwrap();
    assert_eq!((retry.attempts, &retry.methods), (7, &RetryMethods::List(vec!["GET".into()])));
    assert_eq!(retry.conditions, [RetryCondition::Status(409)], "a list is taken whole");
    assert_eq!((retry.backoff.base, retry.backoff.cap()), (SECOND, 5 * SECOND));
    assert_eq!((retry.budget.ratio, retry.budget.min_per_second), (0.5, 1));
    assert_eq!((a.limits.max_connections, a.limits.max_retries, a.limits.max_requests), (7, 9, 1024));
    let outliers = a.outlier_detection.as_ref().unwrap();
    assert_eq!((outliers.consecutive_errors, outliers.max_ejected), (Some(7), 0.2));
    let b = &config.clusters[1];
    assert_eq!((b.limits.max_connections, b.limits.max_retries), (7, 8));
    assert_eq!(b.retry.as_ref().unwrap().backoff.cap(), 9 * SECOND);
}

#[test]
fn tls_is_inherited_as_a_whole_or_not_at_all() {
    let config = good(
        "\
identity: { directory: certs }
defaults: { tls: { mode: mutual, identities: \"spiffe://x/a\", sni: a } }
services:
  a: { endpoints: [10.0.0.1:80] }
  b: { endpoints: [10.0.0.1:80], tls: { mode: simple } }
",
    );
    assert!(
        matches!(&config.clusters[0].tls, UpstreamTls::Mutual { identities, sni: Some(_), .. } if identities.len() == 1)
    );
    assert!(matches!(&config.clusters[1].tls, UpstreamTls::Simple { sni: None, .. }));
}

#[test]
fn a_block_of_a_service_turns_on_what_defaults_turn_off() {
    let config = good(
        "\
defaults: { retry: off, outlier_detection: off }
services:
  a: { endpoints: [10.0.0.1:80] }
  b: { endpoints: [10.0.0.1:80], retry: {}, outlier_detection: { base_ejection: 1s } }
  c:
    endpoints: [10.0.0.1:80]
    retry:
",
    );
    assert_eq!((&config.clusters[0].retry, &config.clusters[0].outlier_detection), (&None, &None));
    assert_eq!(config.clusters[1].retry.as_ref().unwrap().attempts, 2);
    let expected = OutlierDetection { base_ejection: SECOND, ..OutlierDetection::default() };
    assert_eq!(config.clusters[1].outlier_detection, Some(expected));
    assert_eq!(config.clusters[2].retry, None, "a key without a value is not written");
    let other = good(
        "defaults: { retry: { attempts: 7 } }\nservices: { a: { endpoints: [10.0.0.1:80], retry: off } }",
    );
    assert_eq!(other.clusters[0].retry, None);
}

#[test]
fn empty_defaults_change_nothing() {
    let services = "services: { a: { endpoints: [10.0.0.1:80] } }";
    for defaults in ["defaults: {}", "defaults:", "defaults: { retry: {}, connection: {} }"] {
        assert_eq!(good(&format!("{defaults}\n{services}")), good(services), "{defaults}");
    }
}

#[test]
fn a_health_check_takes_the_place_of_that_of_defaults_key_by_key() {
    let config = good(
        "defaults: { health_check: { http: /healthz, interval: 1s } }\n\
         services:\n  a: { endpoints: [10.0.0.1:80], health_check: { timeout: 2s } }\n  \
         b: { endpoints: [10.0.0.1:80], health_check: { tcp: true } }\n  \
         c: { endpoints: [10.0.0.1:80], health_check: off }\n",
    );
    let checks: Vec<_> = config.clusters.iter().map(|cluster| cluster.health_check.clone()).collect();
    let http = Question::Http { path: "/healthz".into() };
    let second = Duration::from_secs(1);
    assert_eq!(
        checks[0],
        Some(HealthCheck { interval: second, timeout: 2 * second, ..HealthCheck::of(http) })
    );
    assert_eq!(checks[1], Some(HealthCheck { interval: second, ..HealthCheck::of(Question::Tcp) }));
    assert_eq!(checks[2], None);
}

#[test]
fn a_health_check_asks_one_question() {
    let services = "services: { a: { endpoints: [10.0.0.1:80], health_check: ";
    for (check, expected) in [
        ("{ interval: 5s }", "services.a.health_check asks nothing"),
        ("{ tcp: true, http: / }", "services.a.health_check has more than one of `http`, `tcp` and `grpc`"),
        ("on", "services.a.health_check"),
        ("{ http: healthz }", "services.a.health_check.http"),
    ] {
        let text = format!("{services}{check} }} }}");
        assert!(messages(&text).iter().any(|line| line.contains(expected)), "{check}: {:?}", messages(&text));
    }
}
