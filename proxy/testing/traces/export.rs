//! How spans come to a collector, and what one costs that is dead, slow, busy or lies.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use pillion_grpc::prost::Message as _;
use tokio::sync::mpsc::unbounded_channel;

use super::super::backend::OK;
use super::super::http2::read_body;
use super::super::mesh::{A, B, C, Mesh, Sidecar, Watch, caller, pass, secs, settle};
use super::super::peer::Peer;
use super::collector::{Export, TAKEN, spans};
use super::{get, tracing};
use crate::traces::messages::{ExportRequest, ExportResponse, PartialSuccess};

fn file(tracing: &str) -> String {
    caller(&format!("endpoints: [{A}]")) + tracing
}

fn sidecar(mesh: &Mesh) -> Sidecar {
    mesh.sidecar(&file(&tracing("sample: 100%")), None)
}

async fn ask(sidecar: &Sidecar, requests: usize) {
    let mut client = sidecar.client().await;
    for _ in 0..requests {
        assert_eq!(client.ask(&get("")).await.status_and_reason(), (200, None));
    }
    settle().await;
}

fn count(sidecar: &Sidecar, outcome: &str) -> u64 {
    sidecar.sum(&format!("pillion_traces_spans_total outcome={outcome}"))
}

#[tokio::test(start_paused = true)]
async fn spans_wait_for_others_at_most_five_seconds_and_a_full_batch_goes_at_once() {
    let mesh = Mesh::default();
    let mut exports = mesh.good_collector(C);
    let _a = mesh.answering(A, OK);
    let file = file(&tracing("sample: 100%, headers: { authorization: \"Bearer hunter2\" }"));
    let sidecar = mesh.sidecar(&(file + "workload: { name: web, namespace: shop }\n"), None);
    let watch = Watch::start();
    ask(&sidecar, 2).await;
    let export = exports.recv().await.expect("an export");
    assert_eq!(watch.seconds(), 5);
    assert!(export.head.starts_with("POST /v1/traces HTTP/1.1\r\n"), "{}", export.head);
    for line in [
        &format!("host: {}", C.trim_end_matches(":80")),
        "content-type: application/x-protobuf",
        "authorization: Bearer hunter2",
    ] {
        assert!(export.head.contains(line), "{line}: {}", export.head);
    }
    let resource = |key| export.resource(key);
    assert_eq!(
        (resource("service.name").as_deref(), resource("service.namespace").as_deref()),
        (Some("web"), Some("shop"))
    );
    assert_eq!(export.spans().len(), 4);
    let watch = Watch::start();
    ask(&sidecar, 300).await;
    assert_eq!(exports.recv().await.expect("an export").spans().len(), 512);
    assert_eq!(watch.seconds(), 0);
    assert_eq!(exports.recv().await.expect("an export").spans().len(), 88);
    settle().await;
    assert_eq!(count(&sidecar, "exported"), 604);
}

#[tokio::test(start_paused = true)]
async fn a_dead_collector_costs_a_counter_and_no_request() {
    let mesh = Mesh::default();
    let _a = mesh.answering(A, OK);
    let sidecar = sidecar(&mesh);
    ask(&sidecar, 3000).await;
    let waiting = 2048 + 512;
    assert!(count(&sidecar, "dropped") >= 6000 - waiting, "{}", count(&sidecar, "dropped"));
    pass(400).await;
    assert_eq!(count(&sidecar, "failed") + count(&sidecar, "dropped"), 6000);
    let mut exports = mesh.good_collector(C);
    ask(&sidecar, 1).await;
    assert_eq!(spans(&mut exports, 2).await.len(), 2, "it is used as soon as it is there");
}

#[tokio::test(start_paused = true)]
async fn a_collector_that_never_answers_is_asked_again_and_given_up() {
    let mesh = Mesh::default();
    let mut exports = mesh.collector(C, |nth| if nth == 0 { Vec::new() } else { TAKEN.to_vec() });
    let _a = mesh.answering(A, OK);
    let sidecar = sidecar(&mesh);
    let watch = Watch::start();
    ask(&sidecar, 1).await;
    spans(&mut exports, 4).await; // the same spans twice
    settle().await;
    assert!((15..=17).contains(&watch.seconds()), "{}", watch.seconds());
    assert_eq!((count(&sidecar, "exported"), count(&sidecar, "failed")), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn a_busy_collector_says_when_it_wants_the_spans_again() {
    const BUSY: &[u8] = b"HTTP/1.1 429 Too Many Requests\r\nretry-after: 20\r\ncontent-length: 0\r\n\r\n";
    let mesh = Mesh::default();
    let mut exports = mesh.collector(C, |nth| if nth == 0 { BUSY.to_vec() } else { TAKEN.to_vec() });
    let _a = mesh.answering(A, OK);
    let sidecar = sidecar(&mesh);
    let watch = Watch::start();
    ask(&sidecar, 1).await;
    spans(&mut exports, 4).await;
    assert_eq!(watch.seconds(), 25);
}

#[tokio::test(start_paused = true)]
async fn a_collector_that_asks_for_more_than_a_batch_may_take_is_left_alone_so_long() {
    for (after, seconds) in [("120", 120), ("86400", 300)] {
        let busy =
            format!("HTTP/1.1 503 Busy\r\nretry-after: {after}\r\ncontent-length: 0\r\n\r\n").into_bytes();
        let mesh = Mesh::default();
        let mut exports = mesh.collector(C, move |nth| if nth == 0 { busy.clone() } else { TAKEN.to_vec() });
        let _a = mesh.answering(A, OK);
        let sidecar = sidecar(&mesh);
        ask(&sidecar, 1).await;
        spans(&mut exports, 2).await;
        settle().await;
        assert_eq!(count(&sidecar, "failed"), 2, "this batch is given up");
        let watch = Watch::start();
        ask(&sidecar, 1).await;
        spans(&mut exports, 2).await;
        let waited = watch.seconds();
        assert!((seconds..=seconds + 6).contains(&waited), "{after}: {waited}");
        settle().await;
        assert_eq!(count(&sidecar, "exported"), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn another_collector_need_not_wait_because_the_former_one_asked_for_it() {
    let mesh = Mesh::default();
    const BUSY: &[u8] = b"HTTP/1.1 503 Busy\r\nretry-after: 120\r\ncontent-length: 0\r\n\r\n";
    let mut first = mesh.collector(C, |_| BUSY.to_vec());
    let mut second = mesh.good_collector(B);
    let _a = mesh.answering(A, OK);
    let mut sidecar = sidecar(&mesh);
    ask(&sidecar, 1).await;
    spans(&mut first, 2).await;
    settle().await;
    sidecar.reload(&file(&tracing("sample: 100%").replace(C, B))).expect("a good file");
    let watch = Watch::start();
    ask(&sidecar, 1).await;
    spans(&mut second, 2).await;
    assert!(watch.seconds() <= 7, "{}", watch.seconds());
}

#[tokio::test(start_paused = true)]
async fn what_a_collector_refuses_is_counted_and_not_sent_again() {
    let partial = PartialSuccess { rejected_spans: 1, error_message: "too old".to_owned() };
    let content = ExportResponse { partial_success: Some(partial) }.encode_to_vec();
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", content.len());
    let endless = |status: &str| {
        [format!("HTTP/1.1 {status}\r\ncontent-length: 99999999\r\n\r\n").as_bytes(), &[b'x'; 100_000]]
            .concat()
    };
    for (answer, expected) in [
        ([head.into_bytes(), content].concat(), [1, 1, 0]),
        (b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n".to_vec(), [0, 2, 0]),
        (
            b"HTTP/1.1 301 Moved\r\nlocation: http://10.0.0.2/\r\ncontent-length: 0\r\n\r\n".to_vec(),
            [0, 2, 0],
        ),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\n<html>".to_vec(), [2, 0, 0]),
        (b"\x15\x03\x01 nonsense\r\n\r\n".to_vec(), [0, 0, 2]),
        (endless("200 OK"), [2, 0, 0]),
        (endless("404 Not Found"), [0, 2, 0]),
    ] {
        let mesh = Mesh::default();
        let shown = String::from_utf8_lossy(&answer[..16]).into_owned();
        let _exports = mesh.collector(C, move |_| answer.clone());
        let _a = mesh.answering(A, OK);
        let sidecar = sidecar(&mesh);
        ask(&sidecar, 1).await;
        pass(80).await;
        let counts = ["exported", "rejected", "failed"].map(|outcome| count(&sidecar, outcome));
        assert_eq!(counts, expected, "{shown}");
    }
}

#[tokio::test(start_paused = true)]
async fn spans_are_taken_by_a_collector_whose_answer_has_no_end() {
    let mesh = Mesh::default();
    let collector = mesh.scripted(C, |mut peer: Peer, _| async move {
        peer.message().await;
        peer.send("HTTP/1.1 200 OK\r\ncontent-length: 60000\r\n\r\n").await;
        while peer.try_send("x").await.is_ok() {
            pass(1).await;
        }
    });
    let _a = mesh.answering(A, OK);
    let sidecar = sidecar(&mesh);
    ask(&sidecar, 1).await;
    pass(80).await;
    assert_eq!((collector.hits(), count(&sidecar, "exported")), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn a_reload_changes_the_collector_and_turns_traces_off() {
    let mesh = Mesh::default();
    let _a = mesh.answering(A, OK);
    let (mut first, mut second) = (mesh.good_collector(C), mesh.good_collector(B));
    let mut sidecar = sidecar(&mesh);
    ask(&sidecar, 1).await;
    assert_eq!(spans(&mut first, 2).await.len(), 2);
    let other = tracing("sample: 100%").replace(C, B);
    sidecar.reload(&file(&other)).expect("a good file");
    ask(&sidecar, 1).await;
    assert_eq!(spans(&mut second, 2).await.len(), 2);
    sidecar.reload(&file("")).expect("a good file");
    ask(&sidecar, 1).await;
    pass(10).await;
    assert!(first.try_recv().is_err() && second.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn a_sidecar_that_ends_sends_its_last_spans_and_waits_for_no_dead_collector() {
    for is_alive in [true, false] {
        let mesh = Mesh::default();
        let exports = is_alive.then(|| mesh.good_collector(C));
        let _a = mesh.answering(A, OK);
        let sidecar = sidecar(&mesh);
        ask(&sidecar, 1).await;
        let watch = Watch::start();
        assert!(sidecar.controller.traces().close(secs(2)).await, "the exporter has ended");
        assert_eq!(watch.seconds(), 0);
        let counts = ["exported", "failed"].map(|outcome| count(&sidecar, outcome));
        assert_eq!(counts, if is_alive { [2, 0] } else { [0, 2] });
        drop(exports);
    }
    let mesh = Mesh::default();
    let _exports = mesh.collector(C, |_| Vec::new());
    let _a = mesh.answering(A, OK);
    let sidecar = sidecar(&mesh);
    ask(&sidecar, 1).await;
    let watch = Watch::start();
    assert!(!sidecar.controller.traces().close(secs(2)).await);
    assert_eq!(watch.seconds(), 2);
}

#[tokio::test(start_paused = true)]
async fn spans_go_over_grpc_too_and_again_where_it_is_unavailable() {
    let mesh = Mesh::default();
    let _a = mesh.answering(A, OK);
    let (sender, mut exports) = unbounded_channel();
    let answers = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    drop(mesh.http2(C, 100, move |_, request: Request<h2::RecvStream>, mut respond| {
        let (sender, nth) = (sender.clone(), answers.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
        async move {
            let (head, mut body) = request.into_parts();
            let framed = read_body(&mut body).await.expect("a request");
            let request = ExportRequest::decode(&framed[5..]).expect("a request of the protocol");
            sender.send((head, Export { head: String::new(), request })).ok();
            let answer =
                Response::builder().header("content-type", "application/grpc").body(()).expect("a head");
            let mut stream = respond.send_response(answer, false).expect("the stream is open");
            if nth > 0 {
                stream.send_data(Bytes::from_static(&[0; 5]), false).expect("the stream is open");
            }
            let status = if nth > 0 { "0" } else { "14" };
            let trailers = HeaderMap::from_iter([(
                http::HeaderName::from_static("grpc-status"),
                status.parse().expect("a value"),
            )]);
            stream.send_trailers(trailers).expect("the stream is open");
        }
    }));
    let over_grpc =
        format!("tracing: {{ otlp: \"grpc://{C}\", sample: 100%, headers: {{ x-tenant: shop }} }}\n");
    let sidecar = mesh.sidecar(&file(&over_grpc), None);
    ask(&sidecar, 1).await;
    for _ in 0..2 {
        let (head, export) = exports.recv().await.expect("an export");
        assert_eq!(head.uri.path(), "/opentelemetry.proto.collector.trace.v1.TraceService/Export");
        assert_eq!(head.headers["x-tenant"], "shop");
        assert_eq!(export.spans().len(), 2);
    }
    settle().await;
    assert_eq!(count(&sidecar, "exported"), 2);
}
