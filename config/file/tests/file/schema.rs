//! The schema for editors: it accepts every file that loads, and has no other keys.

use std::path::Path;

use serde_json::Value;

use crate::editor::complaints;
use crate::{bad, good};

const SAMPLE: &str = include_str!("../../../samples/pillion.yaml");

#[test]
fn the_schema_refuses_an_unknown_key_in_every_block() {
    for (source, place) in [
        ("tmeout: 1s", ""),
        ("workload: { nmae: a }", "/workload"),
        ("identity: { direktory: a }", "/identity"),
        ("tls: { min: \"1.2\" }", "/tls"),
        ("inbound: { timout: 1s }", "/inbound"),
        ("inbound: { ports: { 80: { protcol: tcp } } }", "/inbound/ports/80"),
        ("inbound: { ports: { http: {} } }", "/inbound/ports"),
        ("outbound: { lisen: 127.0.0.1:1 }", "/outbound"),
        ("services: { a: { tmeout: 1s } }", "/services/a"),
        ("services: { \"a b\": {} }", "/services"),
        ("services: { a: { endpoints: [{ addres: 10.0.0.1:80 }] } }", "/services/a/endpoints/0"),
        ("services: { a: { endpoints: { dsn: \"a:80\" } } }", "/services/a/endpoints"),
        ("services: { a: { tls: { mod: simple } } }", "/services/a/tls"),
        ("services: { a: { connection: { idle: 1s } } }", "/services/a/connection"),
        ("services: { a: { retry: { atempts: 1 } } }", "/services/a/retry"),
        ("services: { a: { retry: { backoff: { bass: 1s } } } }", "/services/a/retry/backoff"),
        ("services: { a: { circuit_breaker: { max: 1 } } }", "/services/a/circuit_breaker"),
        ("services: { a: { outlier_detection: { max: 1 } } }", "/services/a/outlier_detection"),
        ("defaults: { tmeout: 1s }", "/defaults"),
        ("defaults: { hosts: [a] }", "/defaults"),
        ("defaults: { endpoints: [10.0.0.1:80] }", "/defaults"),
        ("routes: [{ host: a }]", "/routes/0"),
        ("routes: [{ hosts: [a], to: a, match: { paths: a } }]", "/routes/0/match"),
        ("routes: [{ hosts: [a], to: a, match: { path: { prefx: /a } } }]", "/routes/0/match/path"),
        ("routes: [{ hosts: [a], to: a, match: { headers: { \"x a\": b } } }]", "/routes/0/match/headers"),
        (
            "routes: [{ hosts: [a], to: a, match: { headers: { x: { pre: b } } } }]",
            "/routes/0/match/headers/x",
        ),
        ("routes: [{ hosts: [a], to: [{ servce: a }] }]", "/routes/0/to/0"),
        ("admin: { port: 1 }", "/admin"),
        ("metrics: { port: 1 }", "/metrics"),
        ("access_log: { file: a }", "/access_log"),
        ("drain: { delai: 1s }", "/drain"),
        ("limits: { header_byte: 1 }", "/limits"),
    ] {
        let messages = complaints(source);
        assert!(
            messages.len() == 1 && messages[0].starts_with(&format!("{place}: ")),
            "{source}\n{messages:#?}"
        );
        bad(source);
    }
}

#[test]
fn the_schema_refuses_a_value_of_the_wrong_form() {
    for source in [
        "workers: many",
        "workers: 0",
        "version: [1]",
        "inbound: on",
        "inbound: { mtls: permisive }",
        "inbound: { timeout: 15 }",
        "inbound: { max_body: 64 KiB }",
        "inbound: { listen: localhost:80 }",
        "access_log: { sample: 0.5 }",
        "routes: orders",
        "routes: [{ hosts: [\"**\"] }]",
        "routes: [{ match: { path: { prefix: v2 } } }]",
        "routes: [{ match: { path: /v2 } }]",
        "routes: [{ match: { headers: { x-a: \" a\" } } }]",
        "routes: [{ match: { headers: { x-a: { present: yes } } } }]",
        "routes: [{ match: { methods: [get] } }]",
        "routes: [{ to: [{ service: a, weight: much }] }]",
        "drain: { timeout: off }",
        "inbound: { authorization: on }",
        "inbound: { authorization: { default: maybe } }",
        "inbound: { authorization: { rules: [{ name: a, from: [web] }] } }",
        "inbound: { authorization: { rules: [{ name: a, paths: [\"/a/*/b\"] }] } }",
        "inbound: { authorization: { rules: [{ name: a, methods: [get] }] } }",
        "dns: on",
        "dns: { upstream: [dns.example] }",
        "dns: { virtual_addresses: some }",
        "limits: { max_memory: much }",
        "limits: { via_passes: 0 }",
        "services: { a: { endpoints: 10.0.0.1:80 } }",
        "services: { a: { endpoints: [10.0.0.1] } }",
        "services: { a: { endpoints: { dns: orders } } }",
        "services: { a: { endpoints: { dns: \"orders:80\", refresh: 5 } } }",
        "services: { a: { hosts: [\"http://a\"] } }",
        "services: { a: { retry: { conditions: [4xx] } } }",
        "services: { a: { retry: { methods: [get] } } }",
        "services: { a: { load_balancer: maglev } }",
        "services: { a: { tls: mutal } }",
    ] {
        assert_eq!(complaints(source).len(), 1, "{source}");
        bad(source);
    }
}

#[test]
fn a_key_whose_feature_does_not_exist_yet_is_absent() {
    let schema = pillion_config::json_schema();
    assert!(!schema.contains("\"zone_aware\":"));
}

/// The names of all keys of all blocks.
fn keys(schema: &Value, found: &mut Vec<String>) {
    if let Some(properties) = schema["properties"].as_object() {
        found.extend(properties.keys().cloned());
    }
    match schema {
        Value::Object(parts) => parts.values().for_each(|part| keys(part, found)),
        Value::Array(parts) => parts.iter().for_each(|part| keys(part, found)),
        _ => {}
    }
}

/// The sample claims to have every key that has an effect.
#[test]
fn the_sample_has_every_key_of_the_schema_and_no_other() {
    good(SAMPLE);
    let mut found = Vec::new();
    keys(&serde_json::from_str(&pillion_config::json_schema()).unwrap(), &mut found);
    assert!(found.len() > 70, "{found:?}");
    for key in found.iter().filter(|key| *key != "on") {
        assert!(SAMPLE.contains(&format!("{key}:")), "{key}");
    }
}

#[test]
fn every_sample_passes_the_schema() {
    for file in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../samples")).unwrap() {
        let file = file.unwrap().path();
        let source = std::fs::read_to_string(&file).unwrap();
        assert_eq!(complaints(&source), Vec::<String>::new(), "{}", file.display());
    }
}
