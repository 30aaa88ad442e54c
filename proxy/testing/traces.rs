//! Traces: what sidecars read, decide and pass on, the spans that a collector gets, and what bad collectors cost.

pub(super) mod collector;
mod export;
mod trees;

use super::backend::OK;
use super::mesh::{A, B, C, Mesh, caller};
use super::peer::Message;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN: &str = "00f067aa0ba902b7";
const TWO: &str = "endpoints: [10.0.0.1:80, 10.0.0.2:80], load_balancer: round_robin, outlier_detection: off";

fn tracing(rest: &str) -> String {
    format!("tracing: {{ otlp: \"http://{C}\", {rest} }}\n")
}

fn get(fields: &str) -> String {
    format!("GET /a?token=hunter2 HTTP/1.1\r\nhost: orders\r\n{fields}\r\n")
}

/// The request that an endpoint gets of one with these fields.
async fn passed(tracing: &str, fields: &str) -> Message {
    let mesh = Mesh::default();
    let a = mesh.answering(A, OK);
    let sidecar = mesh.sidecar(&(caller(&format!("endpoints: [{A}]")) + tracing), None);
    assert_eq!(sidecar.client().await.ask(&get(fields)).await.status_and_reason(), (200, None));
    a.requests()[0].clone()
}

#[tokio::test(start_paused = true)]
async fn without_tracing_the_headers_of_traces_pass_as_they_are() {
    let fields = format!("Traceparent: 00-{TRACE}-{SPAN}-01\r\ntracestate: a=1\r\nb3: nonsense\r\n");
    let seen = passed("", &fields).await;
    assert!(seen.head.contains(&fields), "{}", seen.head);
    assert!(!passed("", "").await.head.contains("traceparent"));
}

#[tokio::test(start_paused = true)]
async fn a_recorded_trace_goes_on_with_another_span_and_one_that_is_not_recorded_as_it_is() {
    for flags in ["00", "01"] {
        let sent = format!("00-{TRACE}-{SPAN}-{flags}");
        let fields = format!("traceparent: {sent}\r\ntracestate: a=1\r\n");
        let seen = passed(&tracing("sample: 50%"), &fields).await;
        let parent = seen.header("traceparent").unwrap();
        assert!(parent.starts_with(&format!("00-{TRACE}-")) && parent.ends_with(flags), "{parent}");
        assert_eq!(parent == sent, flags == "00", "{parent}");
        assert_eq!(seen.header("tracestate"), Some("a=1"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_without_a_trace_begins_one_and_tells_whether_it_is_recorded() {
    for (sample, flags) in [("0%", "-02"), ("100%", "-03")] {
        let seen = passed(&tracing(&format!("sample: {sample}")), "").await;
        assert!(seen.header("traceparent").unwrap().ends_with(flags), "{sample}");
    }
    let seen = passed(&tracing("sample: 0%"), "traceparent: 00-bad\r\ntracestate: a=1\r\n").await;
    assert_eq!(seen.head.matches("traceparent").count(), 1);
    assert!(seen.header("traceparent").unwrap().len() == 55 && seen.header("tracestate").is_none());
}

#[tokio::test(start_paused = true)]
async fn b3_goes_on_in_the_chosen_form() {
    let fields = format!("x-b3-traceid: {TRACE}\r\nX-B3-SpanId: {SPAN}\r\nx-b3-sampled: 0\r\n");
    let seen = passed(&tracing("sample: 100%, propagate: b3"), &fields).await;
    let b3 = seen.header("b3").unwrap();
    assert!(b3.starts_with(TRACE) && b3.ends_with("-0") && !b3.contains(SPAN), "{b3}");
    assert!(!seen.head.to_lowercase().contains("x-b3") && seen.header("traceparent").is_none());
    let seen = passed(&tracing("propagate: [w3c, b3multi]"), &format!("b3: {TRACE}-{SPAN}-1\r\n")).await;
    assert_eq!((seen.header("x-b3-traceid"), seen.header("x-b3-sampled")), (Some(TRACE), Some("1")));
    assert!(seen.header("b3").is_none());
    let parent = seen.header("traceparent").unwrap();
    assert_eq!(parent, format!("00-{TRACE}-{}-01", seen.header("x-b3-spanid").unwrap()));
}

#[tokio::test(start_paused = true)]
async fn what_leaves_the_mesh_keeps_the_headers_of_the_application() {
    let mesh = Mesh::default();
    let unknown = mesh.answering(B, OK);
    let file = caller(&format!("endpoints: [{A}]"))
        .replace("listen: 127.0.0.1:0 }\nservices", "listen: 127.0.0.1:0, unknown: passthrough }\nservices");
    let sidecar = mesh.sidecar(&(file + &tracing("sample: 100%")), None);
    let fields = format!("traceparent: 00-{TRACE}-{SPAN}-01\r\n");
    for fields in [&*fields, ""] {
        let asked = format!("GET / HTTP/1.1\r\nhost: {B}\r\n{fields}\r\n");
        assert_eq!(sidecar.redirected(B).await.ask(&asked).await.status_and_reason(), (200, None));
    }
    let seen = unknown.requests();
    assert_eq!(seen[0].header("traceparent"), Some(&*format!("00-{TRACE}-{SPAN}-01")));
    assert_eq!(seen[1].header("traceparent"), None);
}
