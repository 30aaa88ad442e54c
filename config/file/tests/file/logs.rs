//! `logs`: sources, sinks, and what is refused.

use std::path::Path;
use std::time::Duration;

use pillion_model::logs::{Destination, LineFormat, Logs};

use crate::{bad, good, loaded, warnings};

const SOURCES: &str = "sources: { app: { files: \"/var/log/app/*.log\" } }";

fn of(sink: &str) -> String {
    format!("logs: {{ {SOURCES}, sinks: {{ hook: {{ {sink} }} }} }}")
}

#[test]
fn nothing_is_shipped_until_the_block_is_there_and_the_rest_has_defaults() {
    assert_eq!(good("{}").logs, None);
    assert_eq!(loaded("logs: off").logs, None);
    let logs = good(&of("http: \"https://logs.example/in\"")).logs.unwrap();
    assert_eq!((logs.memory, logs.batch.max, logs.batch.every), (8 << 20, 1 << 20, Duration::from_secs(1)));
    assert_eq!(logs.checkpoint, Path::new("/var/lib/pillion/logs"));
    let source = &logs.sources[0];
    assert_eq!((source.name.as_str(), source.format, source.files.len()), ("app", LineFormat::Auto, 1));
    assert!(source.starts.is_none() && source.drop.is_empty() && source.fields.is_empty());
}

#[test]
fn each_sink_has_its_kind() {
    let kind = |sink: &str| loaded(&of(sink)).logs.unwrap().sinks[0].to.clone();
    assert!(matches!(
        kind("elasticsearch: \"http://es:9200\", index: app"),
        Destination::Elasticsearch { .. }
    ));
    let labels = Logs::default().sinks.len() + Destination::LABELS.len();
    assert!(
        matches!(kind("loki: \"http://loki:3100\""), Destination::Loki { labels: of, .. } if of.len() == labels)
    );
    assert!(matches!(kind("otlp: \"http://c:4318\""), Destination::Otlp { .. }));
    assert!(matches!(kind("syslog: \"udp://logs\""), Destination::Syslog { .. }));
    assert!(matches!(
        kind("mongodb: \"mongodb://m\", database: a, collection: b"),
        Destination::Mongodb { .. }
    ));
}

#[test]
fn a_sidecar_that_only_ships_logs_has_something_to_do() {
    let file = format!("inbound: off\noutbound: off\n{}", of("http: \"http://logs\""));
    assert_eq!(warnings(&file), []);
    assert_eq!(warnings("inbound: off\noutbound: off").len(), 1);
}

#[test]
fn what_cannot_be_meant_is_refused_with_a_way_out() {
    for (file, expected) in [
        ("logs: {}".to_owned(), "has no entry"),
        ("logs: on".to_owned(), "`off` or a block of keys"),
        (format!("logs: {{ {SOURCES} }}"), "logs.sinks has no entry"),
        (of(""), "has no address"),
        (of("http: \"http://a\", loki: \"http://b\""), "which are several sinks"),
        (of("http: \"http://a\", index: app"), "with `elasticsearch` alone"),
        (of("elasticsearch: \"http://es\""), "needs `index`"),
        (of("elasticsearch: \"http://es\", index: App"), "upper-case"),
        (of("mongodb: \"mongodb://m\", database: a"), "needs `collection`"),
        (of("mongodb: \"mongodb://a,b\", database: a, collection: b"), "not supported yet"),
        (of("otlp: \"grpc://c:4317\""), "not supported yet"),
        (of("syslog: \"tcp://a\", headers: { x-a: b }"), "not asked over HTTP"),
        (of("http: \"http://a\", headers: { content-type: b }"), "set by the protocol"),
        (of("http: \"http://a\", headers: { x-a: b, X-A: c }"), "repeats `x-a`"),
        (of("http: \"http://a\", trust_bundle: ca.crt"), "not asked over TLS"),
        (of("loki: \"http://a\", labels: []"), "has 0 labels"),
        (of("loki: \"http://a/?b=c\""), "has a query"),
        ("logs: { sources: { app: { files: [\"app/*.log\"] } } }".to_owned(), "write an absolute path"),
        ("logs: { sources: { app: {} } }".to_owned(), "files is empty"),
        ("logs: { sources: { app: { drop: \"(\" } } }".to_owned(), "no regular expression"),
        ("logs: { sources: { app: { fields: { level: a } } } }".to_owned(), "by themselves"),
        ("logs: { sources: { App: {} } }".to_owned(), "lower-case"),
        ("logs: { memory: 512KiB }".to_owned(), "memory is out of range"),
        ("logs: { batch: { max: 1KiB } }".to_owned(), "from 16KiB to 64MiB"),
    ] {
        let faults = bad(&file).to_string();
        assert!(faults.contains(expected), "{file}\n{faults}");
    }
}

#[test]
fn no_fault_shows_a_credential_of_a_sink() {
    for file in [
        of("http: \"http://user:hunter2@logs\""),
        of("mongodb: \"mongodb://user:hunter2@m\", database: a, collection: b"),
        of("http: \"http://a\", headers: { authorization: \"Bearer hunter2\\x01\" }"),
        of("http: a, headers: { authorization: \"Basic hunter2\" }"),
    ] {
        let faults = bad(&file).to_string();
        assert!(!faults.contains("hunter2"), "{faults}");
    }
}
