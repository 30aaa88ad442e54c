use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use super::*;
use crate::page::Provenance;

fn values_of(text: &str) -> BTreeMap<String, (Value, String)> {
    let (config, _) = crate::parse_with(text, Path::new("/etc/pillion"), &|name| {
        (name == "PORT").then(|| "8080".to_owned())
    })
    .unwrap();
    let settings =
        effective(&config, Some(Written { name: "p.yaml", text }), &[("outbound.listen", "--outbound")]);
    let count = settings.len();
    let all: BTreeMap<_, _> =
        settings.into_iter().map(|it| (it.key, (it.value, it.from.to_string()))).collect();
    assert_eq!(all.len(), count, "a key is reported twice");
    all
}

/// `from` is `default`, a flag, or a text of the file whose first occurrence is where the value begins.
#[track_caller]
fn assert_told(text: &str, expected: &[(&str, Value, &str)]) {
    let values = values_of(text);
    for (key, value, from) in expected {
        let (found, place) = values.get(*key).unwrap_or_else(|| unreachable!("{key} in {values:#?}"));
        assert_eq!((found, place), (value, &placed(text, from)), "{key}");
    }
}

fn placed(text: &str, from: &str) -> String {
    if let Some(needle) = from.strip_prefix("defaults: ") {
        return format!("defaults ({})", placed(text, needle));
    }
    if from == "default" {
        return from.to_owned();
    }
    let Some(before) = text.split_once(from).map(|(before, _)| before) else { return from.to_owned() };
    let (line, column) =
        (before.lines().count().max(1), before.rsplit('\n').next().unwrap_or_default().len());
    let line = if before.ends_with('\n') { line + 1 } else { line };
    format!("p.yaml:{line}:{}", column + 1)
}

#[test]
fn every_value_is_reported_with_its_place_in_the_file() {
    let text = "inbound:\n  app: \"127.0.0.1:${PORT}\"\n  mtls: off\nservices:\n  orders:\n    timeout: 90s\n    \
                endpoints:\n      - 10.0.0.1:80\n      - { address: \"10.0.0.2:80\", weight: 3 }\n    \
                retry: { on: [reset, 409, unavailable], budget: { ratio: 29% } }\n    tls: off\n#\n";
    assert_told(
        text,
        &[
            ("inbound.app", "127.0.0.1:8080".into(), "\"127.0.0.1:$"),
            ("inbound.mtls", "off".into(), "off\nservices"),
            ("inbound.max_connections", "auto".into(), "default"),
            ("services.orders.timeout", "90s".into(), "90s"),
            ("services.orders.hosts[0]", "orders".into(), "default"),
            ("services.orders.endpoints[0]", "10.0.0.1:80".into(), "10.0.0.1:80"),
            ("services.orders.endpoints[0].weight", 1.into(), "default"),
            ("services.orders.endpoints[1].weight", 3.into(), "3 }"),
            ("services.orders.tls.mode", "off".into(), "off\n#"),
            ("services.orders.retry.conditions[1]", 409.into(), "409"),
            ("services.orders.retry.conditions[2]", "unavailable".into(), "unavailable"),
            ("services.orders.retry.budget.ratio", "29%".into(), "29%"),
            ("services.orders.retry.attempts", 2.into(), "default"),
            ("services.orders.retry.max_body", "64KiB".into(), "default"),
            (
                "services.orders.stream_idle_timeout",
                "5m (1h for TCP, upgrades and CONNECT)".into(),
                "default",
            ),
            ("outbound.listen[0]", "127.0.0.1:15001".into(), "--outbound"),
            ("drain.timeout", "25s".into(), "default"),
            ("identity", Value::Null, "default"),
            ("workers", "auto".into(), "default"),
        ],
    );
}

#[test]
fn a_value_that_a_service_inherits_is_placed_at_defaults() {
    let text = "defaults: { timeout: 2s, retry: { attempts: 4, backoff: { base: 10ms } }, tls: { mode: simple, \
                trust_bundle: ca.pem }, outlier_detection: off }\nservices:\n  a: { endpoints: [\"10.0.0.1:80\"] }\n  \
                b: { endpoints: [\"10.0.0.1:80\"], retry: { attempts: 1 }, tls: off, outlier_detection: { \
                max_ejected: 10% } }\n";
    assert_told(
        text,
        &[
            ("services.a.timeout", "2s".into(), "defaults: 2s"),
            ("services.a.retry.attempts", 4.into(), "defaults: 4,"),
            ("services.a.tls.trust_bundle", "/etc/pillion/ca.pem".into(), "defaults: ca.pem"),
            ("services.a.outlier_detection", "off".into(), "defaults: off }\nser"),
            ("services.b.retry.attempts", 1.into(), "1 }, tls"),
            ("services.b.retry.backoff.base", "10ms".into(), "defaults: 10ms"),
            ("services.b.tls.mode", "off".into(), "off, out"),
            ("services.b.outlier_detection.consecutive_errors", 5.into(), "default"),
        ],
    );
}

#[test]
fn sides_that_are_off_are_reported_as_off() {
    assert_told(
        "inbound: off\noutbound: off\nmetrics: off\n\n",
        &[
            ("inbound", "off".into(), "off\nout"),
            ("metrics", "off".into(), "off\n\n"),
            ("access_log", "off".into(), "default"),
            ("admin.listen[0]", "127.0.0.1:15000".into(), "default"),
        ],
    );
}

#[test]
fn a_certificate_of_a_directory_is_placed_at_the_directory() {
    assert_told(
        "identity:\n  directory: certs\n",
        &[
            ("identity.certificate", "/etc/pillion/certs/tls.crt".into(), "certs\n"),
            ("identity.trust_domain", Value::Null, "default"),
            ("inbound.mtls", "strict".into(), "default"),
        ],
    );
}

#[test]
fn without_a_file_every_value_is_the_default() {
    let settings = effective(&Config::default(), None, &[]);
    assert!(settings.iter().all(|setting| setting.from == Provenance::Default), "{settings:#?}");
}

#[test]
fn durations_sizes_and_shares_are_spelled_in_a_form_that_the_file_accepts() {
    use std::time::Duration;

    use crate::spell;
    use crate::value::{Share, Size, Word};
    for millis in [0, 1, 250, 1000, 1500, 90_000, 3_600_000, 86_400_000] {
        let time = Duration::from_millis(millis);
        let spelled = spell::duration(time);
        if millis > 0 {
            assert_eq!(Duration::parse(spelled.as_str().unwrap()), Ok(time), "{spelled}");
        }
    }
    for bytes in [0, 1, 1024, 65536, 65537, 1 << 30] {
        let spelled = spell::size(bytes).to_string();
        assert_eq!(Size::parse(spelled.trim_matches('"')), Ok(Size(bytes)), "{spelled}");
    }
    for percent in 0..=100 {
        let share = f64::from(percent) / 100.0;
        let spelled = spell::share(share);
        assert_eq!(spelled, format!("{percent}%"));
        assert!(Share::parse(spelled.as_str().unwrap()).is_ok_and(|Share(read)| (read - share).abs() < 1e-9));
    }
}

#[test]
fn the_dns_proxy_is_reported_with_all_keys_or_as_off() {
    assert_told("version: 1\n", &[("dns", "off".into(), "default")]);
    let text = "dns:\n  upstream: [10.96.0.10, \"10.96.0.11:5353\"]\n  virtual_addresses: off\n";
    assert_told(
        text,
        &[
            ("dns.listen[0]", "127.0.0.1:15053".into(), "default"),
            ("dns.listen[1]", "[::1]:15053".into(), "default"),
            ("dns.upstream[0]", "10.96.0.10:53".into(), "10.96.0.10,"),
            ("dns.upstream[1]", "10.96.0.11:5353".into(), "\"10.96.0.11"),
            ("dns.virtual_addresses", "off".into(), "off\n"),
        ],
    );
    assert_told(
        "dns: { upstream: resolv.conf }\n",
        &[("dns.upstream", "/etc/pillion/resolv.conf".into(), "resolv.conf")],
    );
    assert_told(
        "dns: { upstream: 10.96.0.10 }\n",
        &[("dns.upstream[0]", "10.96.0.10:53".into(), "10.96.0.10")],
    );
}
