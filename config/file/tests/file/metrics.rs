//! `metrics`: the sources that are merged, and the application's process.

use std::time::Duration;

use pillion_model::telemetry::ProcessMetrics;

use crate::{bad, good};

fn merged(sources: &str) -> String {
    format!("metrics: {{ merge: {sources} }}")
}

#[test]
fn a_source_is_an_address_or_a_block() {
    let sources = "[\"http://localhost:8080/metrics\", { name: jvm, url: \"http://127.0.0.1:9404/metrics\", timeout: 2s }]";
    let all = good(&merged(sources)).metrics.unwrap().merge;
    let all: Vec<_> = all.into_iter().map(|of| (of.name, of.url.to_string(), of.timeout)).collect();
    let source =
        |name: &str, url: &str, seconds| (name.to_owned(), url.to_owned(), Duration::from_secs(seconds));
    assert_eq!(
        all,
        [
            source("app", "http://127.0.0.1:8080/metrics", 1),
            source("jvm", "http://127.0.0.1:9404/metrics", 2)
        ]
    );
    assert_eq!(good(&merged("\"http://127.0.0.1:8080/\"")).metrics.unwrap().merge.len(), 1);
    for none in ["off", "[]"] {
        assert!(good(&merged(none)).metrics.unwrap().merge.is_empty(), "{none}");
    }
}

#[test]
fn a_source_that_cannot_be_meant_is_refused_with_a_way_out() {
    let nine: Vec<String> =
        (1..10).map(|n| format!("{{ name: n{n}, url: \"http://127.0.0.1:{n}/\" }}")).collect();
    let nine = format!("[{}]", nine.join(", "));
    let table = [
        ("[\"https://127.0.0.1:8443/metrics\"]", "which is https://, which is not supported here"),
        ("[\"http://app:8080/metrics\"]", "has no IP address and port"),
        ("[{ name: jvm }]", "needs `url`"),
        ("[{ name: Jvm, url: \"http://127.0.0.1:1/\" }]", "a source's name"),
        ("[\"http://127.0.0.1:1/\", \"http://127.0.0.1:2/\"]", "is called `app`, as an earlier source is"),
        ("[{ url: \"http://127.0.0.1:1/\", timeout: 5s }]", "is not between 1ms and 4s"),
        ("[\"http://127.0.0.1:15020/metrics\"]", "where the sidecar itself serves its metrics"),
        ("[\"http://127.0.0.1:15000/metrics\"]", "where the sidecar itself serves its metrics"),
        (&nine, "has 9 sources, and at most 8 are merged"),
    ];
    for (sources, expected) in table {
        let faults = bad(&merged(sources)).to_string();
        assert!(faults.contains(expected), "{sources}\n{faults}");
    }
}

#[test]
fn the_application_s_process_is_found_by_its_port_or_by_its_name() {
    let of = |value: &str| {
        good(&format!("metrics: {{ process_metrics: {value} }}")).metrics.unwrap().process_metrics
    };
    assert_eq!(of("off"), None);
    assert_eq!(of("{ port: 8080 }"), Some(ProcessMetrics::Port(8080)));
    assert_eq!(of("{ name: java }"), Some(ProcessMetrics::Name("java".to_owned())));
    for (value, expected) in [
        ("{}", "has neither `port` nor `name`"),
        ("{ port: 8080, name: java }", "has `port` and `name`"),
        ("{ port: 0 }", "not a port"),
        ("on", "`off` or a block of keys"),
    ] {
        let faults = bad(&format!("metrics: {{ process_metrics: {value} }}")).to_string();
        assert!(faults.contains(expected), "{value}\n{faults}");
    }
}
