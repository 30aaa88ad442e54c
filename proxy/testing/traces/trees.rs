//! The spans of requests form trees, with every attempt and without a secret.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use pillion_grpc::prost::Message as _;
use serde_json::Value;

use super::super::backend::{OK, UNAVAILABLE};
use super::super::http2;
use super::super::merge::scraped;
use super::super::mesh::{
    A, B, C, IDENTITY, Mesh, ORDERS, Pair, Sidecar, application_at, caller, identity, pass, settle,
};
use super::super::peer::{Message, Peer};
use super::collector::{attribute, spans};
use super::{SPAN, TRACE, TWO, get, tracing};
use crate::traces::messages::{Kind, Span, StatusCode};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The span that the request names as its parent.
fn parent(message: &Message) -> String {
    message.header("traceparent").expect("a trace")[36..52].to_owned()
}

fn is_error(span: &Span) -> bool {
    span.status.as_ref().is_some_and(|status| status.code == StatusCode::Error as i32)
}

#[tokio::test(start_paused = true)]
async fn the_spans_of_two_sidecars_form_one_tree_from_the_caller_to_the_application() {
    let pair = Pair::new();
    let mut exports = pair.mesh.good_collector(C);
    let app = pair.mesh.answering(A, OK);
    let inbound = application_at(B, &format!("app: {A}")) + IDENTITY + &tracing("sample: 0%");
    let _orders = pair.mesh.sidecar(&inbound, Some(identity(&pair.ca, "orders")));
    let outbound = caller(&format!("endpoints: [{B}], {ORDERS}")) + IDENTITY + &tracing("sample: 0%");
    let web = pair.mesh.sidecar(&outbound, Some(identity(&pair.ca, "web")));
    let fields = format!("traceparent: 00-{TRACE}-{SPAN}-01\r\ntracestate: a=1\r\n");
    web.client().await.ask(&get(&fields)).await;
    let mut all = spans(&mut exports, 4).await;
    all.sort_by_key(|span| span.start_time_unix_nano);
    assert!(all.iter().all(|span| hex(&span.trace_id) == TRACE && span.trace_state == "a=1"));
    let of = |direction: &str, kind: Kind| -> &Span {
        let is_it = |span: &&Span| {
            span.kind == kind as i32 && attribute(span, "pillion.direction").as_deref() == Some(direction)
        };
        all.iter().find(is_it).expect("a span of this kind")
    };
    let chain = [
        of("outbound", Kind::Server),
        of("outbound", Kind::Client),
        of("inbound", Kind::Server),
        of("inbound", Kind::Client),
    ];
    let mut above = SPAN.to_owned();
    for span in chain {
        assert_eq!(hex(&span.parent_span_id), above);
        above = hex(&span.span_id);
        assert_eq!(attribute(span, "http.request.method").as_deref(), Some("GET"));
        assert_eq!(attribute(span, "url.path").as_deref(), Some("/a"));
        assert_eq!(attribute(span, "http.response.status_code").as_deref(), Some("200"));
        assert!(!is_error(span) && attribute(span, "error.type").is_none());
        assert!(!String::from_utf8_lossy(&span.encode_to_vec()).contains("hunter2"), "no query");
    }
    let urls = chain.map(|span| attribute(span, "url.full"));
    let url = |scheme: &str| Some(format!("{scheme}://orders/a"));
    assert_eq!(urls, [None, url("https"), None, url("http")]);
    assert_eq!(parent(&app.requests()[0]), above, "the application is called by the last span");
    let remote = chain.map(|span| span.flags);
    assert_eq!(remote, [0x301, 0x101, 0x301, 0x101]);
    assert_eq!(
        attribute(chain[2], "pillion.peer").as_deref(),
        Some("spiffe://cluster.local/ns/default/sa/web")
    );
}

#[tokio::test(start_paused = true)]
async fn each_retry_is_a_span_whose_id_its_request_carried() {
    let mesh = Mesh::default();
    let mut exports = mesh.good_collector(C);
    let (a, b) = (mesh.answering(A, UNAVAILABLE), mesh.answering(B, OK));
    let sidecar = mesh.sidecar(&(caller(TWO) + &tracing("sample: 100%")), None);
    sidecar.client().await.ask(&get("")).await;
    let all = spans(&mut exports, 3).await;
    let (first, second) = (&all[1], &all[2]);
    assert_eq!(
        [first, second].map(|span| hex(&span.span_id)),
        [parent(&a.requests()[0]), parent(&b.requests()[0])]
    );
    let resent = |span| attribute(span, "http.request.resend_count");
    assert_eq!((resent(first), resent(second).as_deref()), (None, Some("1")));
    assert!(is_error(first) && !is_error(second) && !is_error(&all[0]));
    assert_eq!(attribute(first, "error.type").as_deref(), Some("503"));
    assert!(all[0].events.iter().any(|event| event.name == "backoff"));
    assert_eq!(attribute(second, "network.peer.address").as_deref(), Some("10.0.0.2"));
    let within = |span: &Span| {
        all[0].start_time_unix_nano <= span.start_time_unix_nano
            && span.end_time_unix_nano <= all[0].end_time_unix_nano
    };
    assert!(within(first) && within(second));
    assert!(first.end_time_unix_nano <= second.start_time_unix_nano);
}

#[tokio::test(start_paused = true)]
async fn a_hedge_is_a_span_beside_that_of_the_slow_attempt() {
    let mesh = Mesh::default();
    let mut exports = mesh.good_collector(C);
    let a = mesh.silent(A);
    let b = mesh.scripted(B, |mut peer, _| async move {
        peer.message().await;
        pass(1).await;
        peer.send(OK).await;
    });
    let hedged = format!("{TWO}, retry: {{ hedge_after: 2s }}");
    let sidecar = mesh.sidecar(&(caller(&hedged) + &tracing("sample: 100%")), None);
    sidecar.client().await.ask(&get("")).await;
    let all = spans(&mut exports, 3).await;
    let (slow, quick) = (&all[1], &all[2]);
    let carried = [parent(&a.requests()[0]), parent(&b.requests()[0])];
    assert_eq!([slow, quick].map(|span| hex(&span.span_id)), carried);
    let seconds = |span: &Span| (span.end_time_unix_nano - span.start_time_unix_nano) / 1_000_000_000;
    assert_eq!((seconds(slow), seconds(quick), is_error(slow)), (3, 1, false));
    let outcomes = [slow, quick].map(|span| attribute(span, "pillion.outcome"));
    assert_eq!(outcomes, [Some("outrun".to_owned()), None]);
    assert!(all[0].events.iter().any(|event| event.name == "hedge"));
}

/// Neither of two attempts beside each other is good: the caller gets the better result, and the other span says so.
#[tokio::test(start_paused = true)]
async fn of_two_bad_attempts_beside_each_other_one_is_outrun() {
    for (first, second, lost) in [((5, ""), (1, UNAVAILABLE), 0), ((3, UNAVAILABLE), (4, ""), 1)] {
        let mesh = Mesh::default();
        let mut exports = mesh.good_collector(C);
        let answer = |address, (seconds, answer): (u64, &'static str)| {
            mesh.scripted(address, move |mut peer, _| async move {
                peer.message().await;
                pass(seconds).await;
                if !answer.is_empty() {
                    peer.send(answer).await;
                }
            })
        };
        let (_a, _b) = (answer(A, first), answer(B, second));
        let hedged = format!("{TWO}, retry: {{ attempts: 1, hedge_after: 2s }}");
        let sidecar = mesh.sidecar(&(caller(&hedged) + &tracing("sample: 100%")), None);
        assert_eq!(sidecar.client().await.ask(&get("")).await.status_and_reason(), (503, None));
        let all = spans(&mut exports, 3).await;
        let outcomes = [&all[1], &all[2]].map(|span| attribute(span, "pillion.outcome"));
        assert_eq!(outcomes.map(|outcome| outcome.as_deref() == Some("outrun")), [lost == 0, lost == 1]);
        assert!(all.iter().all(is_error));
        let errors = [&all[1], &all[2]].map(|span| attribute(span, "error.type").unwrap_or_default());
        assert_eq!(errors[lost], "upstream_closed");
        assert_eq!(errors[1 - lost], "503");
    }
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_had_no_connection_has_a_span_too() {
    let mesh = Mesh::default();
    let mut exports = mesh.good_collector(C);
    let b = mesh.answering(B, OK); // no server listens at the other one
    let sidecar = mesh.sidecar(&(caller(TWO) + &tracing("sample: 100%")), None);
    sidecar.client().await.ask("POST / HTTP/1.1\r\nhost: orders\r\ncontent-length: 2\r\n\r\nab").await;
    let all = spans(&mut exports, 3).await;
    assert_eq!(attribute(&all[1], "error.type").as_deref(), Some("connect_refused"));
    assert_eq!(hex(&all[2].span_id), parent(&b.requests()[0]));
    assert_eq!(attribute(&all[2], "http.request.resend_count"), None, "it was sent once");
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_breaks_off_is_an_error_of_its_attempt() {
    let mesh = Mesh::default();
    let mut exports = mesh.good_collector(C);
    let _a = mesh.answering(A, "HTTP/1.1 200 OK\r\ncontent-length: 400\r\nconnection: close\r\n\r\npart");
    let file = caller(&format!("endpoints: [{A}], stream_idle_timeout: 2s")) + &tracing("sample: 100%");
    let sidecar = mesh.sidecar(&file, None);
    let mut client = sidecar.client().await;
    client.send(get("")).await;
    pass(5).await;
    drop(client);
    let all = spans(&mut exports, 2).await;
    for span in &all {
        assert_eq!(attribute(span, "http.response.status_code").as_deref(), Some("200"));
        assert_eq!(attribute(span, "error.type").as_deref(), Some("stream_idle_timeout"), "{span:#?}");
        assert!(is_error(span));
    }
}

#[tokio::test(start_paused = true)]
async fn a_failure_has_its_code_and_its_sentence() {
    let mesh = Mesh::default();
    let mut exports = mesh.good_collector(C);
    let orders = format!("endpoints: [{A}], retry: off");
    let sidecar = mesh.sidecar(&(caller(&orders) + &tracing("sample: 100%")), None);
    let answer = sidecar.client().await.ask(&get("")).await;
    let all = spans(&mut exports, 2).await;
    for span in &all {
        assert_eq!(attribute(span, "error.type").as_deref(), Some("connect_refused"));
        let sentence = &span.status.as_ref().expect("a status").message;
        assert!(is_error(span) && !sentence.is_empty() && answer.body.contains(sentence), "{sentence}");
    }
    let caller = format!("traceparent: 00-{TRACE}-{SPAN}-01");
    sidecar
        .client()
        .await
        .ask(&format!("GET / HTTP/1.1\r\nhost: orders\r\n{caller}\r\nbad field\r\n\r\n"))
        .await;
    let refused = spans(&mut exports, 1).await;
    assert_eq!(attribute(&refused[0], "error.type").as_deref(), Some("bad_request"));
    assert!(is_error(&refused[0]));
    assert_eq!(
        (hex(&refused[0].trace_id), hex(&refused[0].parent_span_id)),
        (TRACE.to_owned(), SPAN.to_owned())
    );
}

#[tokio::test(start_paused = true)]
async fn a_mirrored_request_is_a_span_inside_that_of_the_request() {
    let mesh = Mesh::default();
    let mut exports = mesh.good_collector(C);
    let (_a, b) = (mesh.answering(A, OK), mesh.answering(B, OK));
    let file = caller(&format!("endpoints: [{A}]"))
        + &format!("  copy: {{ endpoints: [{B}] }}\n")
        + "routes: [{ name: copied, hosts: [orders], to: orders, mirror: { service: copy, share: 100% } }]\n"
        + &tracing("sample: 100%");
    let sidecar = mesh.sidecar(&file, None);
    sidecar.client().await.ask(&get("")).await;
    let all = spans(&mut exports, 4).await;
    let of = |service: &str, kind: Kind| {
        let is_it = |span: &&Span| {
            span.kind == kind as i32 && attribute(span, "pillion.service").as_deref() == Some(service)
        };
        all.iter().find(is_it).expect("a span of this kind")
    };
    let (request, copy) = (of("orders", Kind::Server), of("copy", Kind::Server));
    assert_eq!((&copy.parent_span_id, &copy.trace_id), (&request.span_id, &request.trace_id));
    assert_eq!(hex(&of("copy", Kind::Client).span_id), parent(&b.requests()[0]));
    assert_eq!((request.name.as_str(), copy.name.as_str()), ("GET copied", "GET copied#mirror"));
}

#[tokio::test(start_paused = true)]
async fn a_call_of_grpc_has_the_names_of_rpc() {
    let mesh = Mesh::default();
    let mut exports = mesh.good_collector(C);
    let _a = mesh.http2(A, 100, |_, _, respond| async move { http2::answer_grpc(respond, "14") });
    let orders = format!("endpoints: [{A}], protocol: http2, retry: off");
    let sidecar = mesh.sidecar(&(caller(&orders) + &tracing("sample: 100%")), None);
    sidecar.http2_client().await.grpc(None).await;
    let all = spans(&mut exports, 2).await;
    for span in &all {
        assert_eq!(attribute(span, "rpc.system").as_deref(), Some("grpc"));
        assert_eq!(attribute(span, "rpc.grpc.status_code").as_deref(), Some("14"));
        assert_eq!(attribute(span, "error.type").as_deref(), Some("14"));
        assert!(is_error(span));
    }
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_was_retried_has_the_status_of_grpc_that_its_answer_began_with() {
    let mesh = Mesh::default();
    let mut exports = mesh.good_collector(C);
    let asked = Arc::new(AtomicUsize::new(0));
    let _a = mesh.http2(A, 100, move |_, _, mut respond| {
        let nth = asked.fetch_add(1, Relaxed);
        async move {
            if nth > 0 {
                return http2::answer_grpc(respond, "0");
            }
            let head = http::Response::builder().header("content-type", "application/grpc");
            let head = head.header("grpc-status", "14").body(()).expect("a head");
            drop(respond.send_response(head, true));
        }
    });
    let orders = format!(
        "endpoints: [{A}], protocol: http2, retry: {{ attempts: 1, conditions: [unavailable], methods: all }}"
    );
    let sidecar = mesh.sidecar(&(caller(&orders) + &tracing("sample: 100%")), None);
    sidecar.http2_client().await.grpc(None).await;
    let all = spans(&mut exports, 3).await;
    let statuses = ["14", "0"].map(|status| Some(status.to_owned()));
    assert_eq!([&all[1], &all[2]].map(|span| attribute(span, "rpc.grpc.status_code")), statuses);
    assert_eq!([&all[0], &all[1], &all[2]].map(is_error), [false, true, false]);
    assert_eq!(attribute(&all[1], "error.type").as_deref(), Some("14"));
}

async fn page(sidecar: &Sidecar, mesh: &Mesh, path: &str) -> Value {
    let admin = sidecar.addresses.admin[0];
    let mut client = Peer::new(mesh.memory.connect(admin).await.expect("the admin port listens"));
    let answer = client.ask(&format!("GET {path} HTTP/1.1\r\nhost: {admin}\r\n\r\n")).await;
    serde_json::from_str(&answer.body).expect("JSON")
}

#[tokio::test(start_paused = true)]
async fn a_recorded_trace_is_an_exemplar_of_the_duration_in_openmetrics() {
    let mesh = Mesh::default();
    let _a = mesh.answering(A, OK);
    let file =
        caller(&format!("endpoints: [{A}]")).replace("metrics: off", "metrics: { listen: 127.0.0.1:0 }");
    let sidecar = mesh.sidecar(&(file + &tracing("sample: 0%")), None);
    let exemplar = format!("# {{trace_id=\"{TRACE}\"}}");
    for (flags, is_shown) in [("00", false), ("01", true)] {
        sidecar.client().await.ask(&get(&format!("traceparent: 00-{TRACE}-{SPAN}-{flags}\r\n"))).await;
        settle().await;
        let open = scraped(&mesh, &sidecar, "application/openmetrics-text").await.body;
        let line = open.lines().find(|line| line.contains(&exemplar));
        assert_eq!(line.is_some(), is_shown, "{flags}: {open}");
        assert!(
            line.is_none_or(|line| line.starts_with("pillion_request_duration_seconds_bucket{")),
            "{line:?}"
        );
        assert!(!scraped(&mesh, &sidecar, "text/plain").await.body.contains(TRACE));
        pass(2).await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_pages_about_requests_name_the_trace() {
    let mesh = Mesh::default();
    let file = caller(&format!("endpoints: [{A}], retry: off")) + &tracing("sample: 0%");
    let sidecar = mesh.sidecar(&file, None);
    let fields = format!("x-request-id: seven\r\ntraceparent: 00-{TRACE}-{SPAN}-00\r\n");
    sidecar.client().await.ask(&get(&fields)).await;
    settle().await;
    assert_eq!(page(&sidecar, &mesh, "/requests/seven").await["trace_id"], TRACE);
    assert_eq!(page(&sidecar, &mesh, "/requests").await["requests"][0]["trace_id"], TRACE);
}
