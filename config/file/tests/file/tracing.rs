//! `tracing`: the collector, the sample, the headers that are read and written, and those of the collector.

use pillion_model::tracing::Propagation;

use crate::{bad, good, loaded};

#[test]
fn traces_are_off_until_a_collector_is_named_and_the_rest_has_defaults() {
    assert_eq!(good("{}").tracing, None);
    assert_eq!(loaded("tracing: off").tracing, None);
    let tracing = good("tracing: { otlp: \"http://collector:4318\" }").tracing.unwrap();
    assert_eq!(tracing.otlp.to_string(), "http://collector:4318");
    assert_eq!(
        (tracing.sample, tracing.propagate, tracing.headers),
        (0.01, vec![Propagation::W3c], Vec::new())
    );
}

#[test]
fn each_header_is_written_once_and_those_of_the_w3c_are_read_first() {
    let tracing = good("tracing: { otlp: \"grpc://c\", propagate: [b3multi, b3, w3c, b3] }").tracing.unwrap();
    assert_eq!(tracing.propagate, [Propagation::W3c, Propagation::B3, Propagation::B3Multi]);
}

#[test]
fn what_cannot_be_meant_is_refused_with_a_way_out() {
    let of = |rest: &str| format!("tracing: {{ otlp: \"http://c:4318\", {rest} }}");
    for (file, expected) in [
        ("tracing: {}".to_owned(), "needs `otlp`"),
        ("tracing: on".to_owned(), "`off` or a block of keys"),
        ("tracing: { otlp: \"c:4318\" }".to_owned(), "does not begin with http://"),
        (of("sample: 200%"), "200%"),
        (of("propagate: []"), "is empty"),
        (of("propagate: [jaeger]"), "not one of w3c, b3, b3multi"),
        (of("headers: { content-type: text/plain }"), "is set by the protocol itself"),
        (of("headers: { grpc-timeout: 1S }"), "is set by the protocol itself"),
        (of("headers: { x-a: 1, X-A: 2 }"), "repeats `x-a`"),
    ] {
        let faults = bad(&file).to_string();
        assert!(faults.contains(expected), "{file}\n{faults}");
    }
}

#[test]
fn no_fault_shows_a_credential_of_the_collector() {
    for file in [
        "tracing: { otlp: \"http://user:hunter2@c\" }",
        "tracing: { otlp: \"http://c\", headers: { authorization: \"Bearer hunter2\\x01\" } }",
        "tracing: { otlp: c, headers: { authorization: \"Basic hunter2\" } }",
    ] {
        let faults = bad(file).to_string();
        assert!(!faults.contains("hunter2"), "{faults}");
    }
}
