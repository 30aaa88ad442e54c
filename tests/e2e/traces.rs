//! Spans as a real receiver of the OpenTelemetry protocol sees them: with the protocol's own types, over HTTP and over gRPC.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use serde_json::Value;

use crate::grpc::Script;
use crate::support::backend::Backend;
use crate::support::certs::{Authority, spiffe};
use crate::support::sidecar::{Plan, Sidecar};
use crate::support::tools::require_python;
use crate::support::wire::{Message, Wire};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN: &str = "00f067aa0ba902b7";
/// Longer than an answer over connections that are made takes on a busy machine.
const HEDGE_AFTER: &str = "10s";
const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const BUSY: &str = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n\r\nbusy";

/// An application that answers its second request with 503, its fourth one never, and the others well. The first one makes
/// the connections.
async fn application() -> Backend {
    let asked = Arc::new(AtomicUsize::new(0));
    Backend::serving(move |mut wire: Wire, _, seen| {
        let asked = asked.clone();
        async move {
            while let Some(request) = wire.message().await {
                seen.request(request);
                match asked.fetch_add(1, Relaxed) {
                    1 => wire.send(BUSY).await,
                    3 => std::future::pending().await,
                    _ => wire.send(OK).await,
                }
            }
        }
    })
    .await
}

/// A collector, and the addresses over HTTP and over gRPC.
async fn collector() -> (Script, [String; 2]) {
    let mut script = Script::start("otlp_collector.py", &[]);
    let line = script.line().await.expect("its ports");
    let mut ports = line.strip_prefix("ports ").expect("its ports").split(' ');
    let addresses = ["http", "grpc"]
        .map(|scheme| format!("{scheme}://127.0.0.1:{}", ports.next().expect("a port for each")));
    (script, addresses)
}

/// The spans that come until `count` are there, by their IDs.
async fn spans(collector: &mut Script, count: usize) -> HashMap<String, Value> {
    let mut all = HashMap::new();
    while all.len() < count {
        let span: Value =
            serde_json::from_str(&collector.line().await.expect("a span")).expect("a line of JSON");
        let id = span["id"].as_str().expect("an ID").to_owned();
        assert!(all.insert(id, span).is_none(), "each span comes once");
    }
    all
}

/// The spans from one up to the caller of the trace, each as WORKLOAD KIND STATUS.
fn way_up(all: &HashMap<String, Value>, from: &str) -> Vec<String> {
    let (mut way, mut at) = (Vec::new(), from);
    while let Some(span) = all.get(at) {
        let status = &span["attributes"]["http.response.status_code"];
        let word = |key: &str| span[key].as_str().unwrap_or_default();
        way.push(format!("{} {} {status}", word("workload"), word("kind")));
        at = word("parent");
    }
    assert_eq!(at, SPAN, "the last parent is the span of the caller: {way:?}");
    way
}

/// The span that the application was told of.
fn told(request: &Message, propagate: &str) -> String {
    let header = |name| request.header(name).unwrap_or_else(|| unreachable!("no {name}: {}", request.head));
    let id = match propagate {
        "w3c" => header("traceparent").split('-').nth(2),
        "b3" => header("b3").split('-').nth(1),
        _ => Some(header("x-b3-spanid")),
    };
    id.expect("an ID").to_owned()
}

async fn pair(app: &Backend, tracing: &str) -> [Sidecar; 2] {
    let authority = Authority::new();
    let rest =
        |name| format!("{tracing}\nworkload: {{ name: {name} }}\ndrain: {{ delay: off, timeout: 5s }}");
    let application = Plan::application(app.address, "").identified(&authority, "orders");
    let application = application.with(&rest("orders")).start().await;
    let orders = format!(
        "tls: \"{}\", retry: {{ attempts: 1, hedge_after: {HEDGE_AFTER} }}, timeout: 60s, outlier_detection: off",
        spiffe("orders")
    );
    let caller = Plan::calling(application.inbound(), &orders).identified(&authority, "web");
    [caller.with(&rest("web")).start().await, application]
}

#[tokio::test]
async fn a_real_receiver_sees_one_tree_with_retries_and_hedges_across_two_sidecars() {
    if !require_python("opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc") {
        return;
    }
    tokio::join!(tree(0, "w3c"), tree(1, "b3"), tree(0, "b3multi"), tree(1, "w3c"));
}

/// A request with a retry and a request with a hedge, and what the collector sees of them.
async fn tree(over: usize, propagate: &str) {
    let (mut collector, addresses) = collector().await;
    let app = application().await;
    let otlp = &addresses[over];
    let tracing = format!(
        "tracing: {{ otlp: \"{otlp}\", sample: 0%, propagate: {propagate}, headers: {{ x-tenant: shop }} }}"
    );
    let [mut caller, mut application] = pair(&app, &tracing).await;
    let fields = match propagate {
        "w3c" => format!("traceparent: 00-{TRACE}-{SPAN}-01"),
        "b3" => format!("b3: {TRACE}-{SPAN}-1"),
        _ => format!("x-b3-traceid: {TRACE}\r\nx-b3-spanid: {SPAN}\r\nx-b3-sampled: 1"),
    };
    let mut client = Wire::connect(caller.orders()).await;
    let warm = client.ask("GET /warm HTTP/1.1\r\nhost: orders\r\n\r\n").await;
    assert_eq!(warm.status(), 200);
    // for each of two requests: one span of each request, and one of each attempt, of both sidecars
    let mut all = HashMap::new();
    for count in [7, 0] {
        let answer =
            client.ask(format!("GET /a?key=hunter2 HTTP/1.1\r\nhost: orders\r\n{fields}\r\n\r\n")).await;
        assert_eq!(answer.status(), 200);
        all.extend(spans(&mut collector, count).await); // the collector is known to be up before the sidecars end
    }
    for (sidecar, requests) in [(&mut caller, 3), (&mut application, 5)] {
        for nth in 0..requests {
            let line = sidecar.log_line().await; // a request has ended when its line is written
            assert!(nth == 0 || line["trace_id"] == TRACE, "{line}");
        }
    }
    drop(client);
    for sidecar in [&mut caller, &mut application] {
        sidecar.signal("TERM"); // the last spans are sent before the end
        assert!(sidecar.exit().await.success());
    }
    all.extend(spans(&mut collector, 7).await);
    assert_eq!(all.len(), 14, "each span comes once");
    for span in all.values() {
        let expected = (TRACE, "shop", "pillion", ["http", "grpc"][over]);
        let word = |key: &str| span[key].as_str().unwrap_or_default();
        assert_eq!((word("trace"), word("tenant"), word("scope"), word("over")), expected, "{span:#}");
        assert!(!span.to_string().contains("hunter2") && span["from"].as_u64() <= span["to"].as_u64());
    }
    let [_warm, busy, well, silent, hedge] = <[Message; 5]>::try_from(app.requests()).expect("five requests");
    let way = |request: &Message| way_up(&all, &told(request, propagate)).join(", ");
    let good = "orders CLIENT 200, orders SERVER 200, web CLIENT 200, web SERVER 200";
    assert_eq!(way(&busy), "orders CLIENT 503, orders SERVER 503, web CLIENT 503, web SERVER 200");
    assert_eq!([way(&well), way(&hedge)], [good, good]);
    assert_eq!(way(&silent), "orders CLIENT null, orders SERVER 499, web CLIENT null, web SERVER 200");
    let resent = all.values().filter(|span| span["attributes"]["http.request.resend_count"] == 1);
    assert_eq!(resent.count(), 2);
    let failed: Vec<&Value> = all.values().filter(|span| span["status"] == "ERROR").collect();
    assert_eq!(failed.len(), 3, "the attempt of each sidecar, and the request that orders got: {failed:#?}");
}
