//! gRPC: deadlines, and errors as gRPC clients read them.

use http::Request;

use super::http2;
use super::mesh::{A, Mesh, Watch, pass};

/// A gRPC server that takes `seconds` to answer. Returns the deadlines that it was given.
fn server(mesh: &Mesh, seconds: u64, streams: u32) -> tokio::sync::mpsc::UnboundedReceiver<u64> {
    let (sender, deadlines) = tokio::sync::mpsc::unbounded_channel();
    drop(mesh.http2(A, streams, move |_, request: Request<h2::RecvStream>, respond| {
        let sender = sender.clone();
        async move {
            let deadline = request.headers().get("grpc-timeout");
            let micros = deadline.and_then(|value| value.to_str().ok()?.strip_suffix('u')?.parse().ok());
            sender.send(micros.unwrap_or(0)).expect("the test listens");
            pass(seconds).await;
            http2::answer_grpc(respond, "0");
        }
    }));
    deadlines
}

#[tokio::test(start_paused = true)]
async fn a_unary_call_passes_with_its_message_and_trailers() {
    let mesh = Mesh::default();
    let _deadlines = server(&mesh, 0, 100);
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80]");
    let answer = sidecar.http2_client().await.grpc(None).await;
    assert_eq!((answer.head.status().as_u16(), answer.grpc_status()), (200, Some("0")));
    assert_eq!(answer.body, b"\0\0\0\0\0");
    assert_eq!(sidecar.sum("pillion_requests_total method=POST status=200 grpc_status=0"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_deadline_that_passes_is_deadline_exceeded() {
    let mesh = Mesh::default();
    let _deadlines = server(&mesh, 60, 100);
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80]");
    let watch = Watch::start();
    let answer = sidecar.http2_client().await.grpc(Some("3S")).await;
    assert_eq!((answer.head.status().as_u16(), answer.grpc_status()), (200, Some("4")));
    assert!(answer.header("grpc-message").is_some_and(|message| message.contains("request_timeout")));
    assert_eq!(watch.seconds(), 3);
    assert_eq!(sidecar.sum("pillion_requests_total grpc_status=4 reason=request_timeout"), 1);
}

#[tokio::test(start_paused = true)]
async fn the_server_gets_the_rest_of_the_deadline() {
    let mesh = Mesh::default();
    let mut deadlines = server(&mesh, 2, 1);
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80], circuit_breaker: { max_connections: 1 }");
    let client = sidecar.http2_client().await;
    client.grpc(None).await;
    assert_eq!(deadlines.recv().await, Some(0), "none is made up");
    // The server takes one call at a time, so the second waits for two seconds of its ten.
    let (_first, second) = tokio::join!(client.grpc(Some("10S")), client.grpc(Some("10S")));
    assert_eq!(second.grpc_status(), Some("0"));
    assert_eq!((deadlines.recv().await, deadlines.recv().await), (Some(10_000_000), Some(8_000_000)));
}

/// A gRPC server whose first answer to each connection is UNAVAILABLE, in a head alone, with `pushback`. Returns the
/// deadlines that it was given.
fn unavailable_once(
    mesh: &Mesh,
    pushback: &'static str,
) -> tokio::sync::mpsc::UnboundedReceiver<Option<String>> {
    let (sender, deadlines) = tokio::sync::mpsc::unbounded_channel();
    let asked = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    drop(mesh.http2(A, 100, move |_, request: Request<h2::RecvStream>, mut respond| {
        let deadline = request.headers().get("grpc-timeout").and_then(|value| value.to_str().ok());
        sender.send(deadline.map(str::to_owned)).expect("the test listens");
        let is_first = asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == 0;
        async move {
            if !is_first {
                return http2::answer_grpc(respond, "0");
            }
            let head = http::Response::builder()
                .header("content-type", "application/grpc")
                .header("grpc-status", "14")
                .header("grpc-retry-pushback-ms", pushback);
            respond.send_response(head.body(()).expect("a response"), true).expect("the stream is open");
        }
    }));
    deadlines
}

const RETRIES_UNAVAILABLE: &str =
    "endpoints: [10.0.0.1:80], retry: { conditions: [unavailable], methods: all }";

#[tokio::test(start_paused = true)]
async fn a_call_whose_head_says_unavailable_is_retried_after_the_pause_that_the_server_asks_for() {
    let mesh = Mesh::default();
    let mut deadlines = unavailable_once(&mesh, "3000");
    let sidecar = mesh.caller(RETRIES_UNAVAILABLE);
    let watch = Watch::start();
    let answer = sidecar.http2_client().await.grpc(Some("10S")).await;
    assert_eq!((answer.grpc_status(), watch.seconds()), (Some("0"), 3));
    let received = (deadlines.recv().await.flatten(), deadlines.recv().await.flatten());
    assert_eq!(
        received,
        (Some("10000000u".to_owned()), Some("7000000u".to_owned())),
        "the retry has what is left"
    );
    assert_eq!(sidecar.sum("pillion_retries_total outcome=succeeded"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_refuses_a_retry_or_asks_for_one_after_the_deadline_gets_none() {
    for pushback in ["-1", "later", "10000"] {
        let mesh = Mesh::default();
        let _deadlines = unavailable_once(&mesh, pushback);
        let sidecar = mesh.caller(RETRIES_UNAVAILABLE);
        let watch = Watch::start();
        let answer = sidecar.http2_client().await.grpc(Some("10S")).await;
        assert_eq!((answer.grpc_status(), watch.seconds()), (Some("14"), 0), "{pushback}");
        assert_eq!(answer.header("grpc-retry-pushback-ms"), Some(pushback), "the caller sees it");
    }
}

#[tokio::test(start_paused = true)]
async fn the_default_timeout_does_not_bound_a_call_and_a_written_one_does() {
    let mesh = Mesh::default();
    let _deadlines = server(&mesh, 40, 100);
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80]");
    assert_eq!(sidecar.http2_client().await.grpc(None).await.grpc_status(), Some("0"));
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80], timeout: 15s");
    let watch = Watch::start();
    assert_eq!(sidecar.http2_client().await.grpc(None).await.grpc_status(), Some("4"));
    assert_eq!(watch.seconds(), 15);
}

#[tokio::test(start_paused = true)]
async fn a_grpc_caller_gets_a_grpc_status_when_there_is_no_endpoint() {
    let mesh = Mesh::default();
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80]");
    let answer = sidecar.http2_client().await.grpc(None).await;
    assert_eq!((answer.head.status().as_u16(), answer.grpc_status()), (200, Some("14")));
    assert_eq!(answer.header("content-type"), Some("application/grpc"));
    assert_eq!(sidecar.sum("pillion_requests_total grpc_status=14 reason=connect_refused"), 1);
}
