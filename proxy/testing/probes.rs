//! `/probe/NAME` on the metrics port: it asks what the configuration says, and passes on nothing of the client's
//! request.

use bytes::Bytes;
use h2::server::SendResponse;
use http::{HeaderMap, Response};

use super::backend::{HANG_UP, OK, UNAVAILABLE};
use super::mesh::{IDENTITY, Mesh, Pair, Sidecar, Watch, application, at, identity, settle};
use super::peer::{Message, Peer};

const A: &str = "10.0.0.1:80";
/// The address on which the in-memory network answers.
const LOCAL: &str = "127.0.0.1:9090";

const PROBES: &str = "probes: [{ name: live, port: 80, path: \"/live?from=kubelet\" }, \
                      { name: open, port: 9090, tcp: true }, { name: serves, port: 9090, grpc: shop.Orders }]";

fn file(inbound: &str) -> String {
    application(&format!("app: \"{A}\", {inbound}"))
        .replace("metrics: off", "metrics: { listen: 127.0.0.1:0 }")
}

fn sidecar(mesh: &Mesh) -> Sidecar {
    mesh.sidecar(&file(PROBES), None)
}

/// The metrics port's answer.
pub(super) async fn asked(mesh: &Mesh, sidecar: &Sidecar, request: &str) -> Message {
    let io = mesh.memory.connect(sidecar.addresses.metrics[0]).await.expect("the metrics port listens");
    Peer::new(io).ask(&format!("{request} HTTP/1.1\r\nhost: x\r\nx-secret: y\r\n\r\n")).await
}

async fn probe_answer(mesh: &Mesh, sidecar: &Sidecar, name: &str) -> (u16, String) {
    let answer = asked(mesh, sidecar, &format!("GET /probe/{name}")).await;
    (answer.status_and_reason().0, answer.body)
}

#[tokio::test(start_paused = true)]
async fn the_application_s_status_and_the_beginning_of_its_answer_come_back() {
    let mesh = Mesh::default();
    let long: &'static str = Box::leak(
        format!(
            "HTTP/1.1 418 So\r\nx-app: a\r\nset-cookie: b\r\ncontent-length: 4000\r\n\r\n{}",
            "z".repeat(4000)
        )
        .into_boxed_str(),
    );
    let app = mesh.http1(A, move |nth, _| [OK, UNAVAILABLE, long][nth]);
    let sidecar = sidecar(&mesh);
    assert_eq!(probe_answer(&mesh, &sidecar, "live").await, (200, "ok".into()));
    assert_eq!(probe_answer(&mesh, &sidecar, "live").await, (503, "busy".into()));
    let answer = asked(&mesh, &sidecar, "GET /probe/live").await;
    assert_eq!((answer.status_and_reason().0, answer.body), (418, "z".repeat(1024)));
    assert_eq!((answer.head.contains("x-app"), answer.head.contains("cookie")), (false, false));
    assert_eq!(app.connections(), 3, "none is kept");
}

#[tokio::test(start_paused = true)]
async fn nothing_of_the_asker_s_request_is_passed_on() {
    let mesh = Mesh::default();
    let app = mesh.answering(A, OK);
    let sidecar = sidecar(&mesh);
    for request in ["GET /probe/live?path=/admin", "HEAD /probe/live", "GET /probe/live?"] {
        assert_eq!(asked_for_head(&mesh, &sidecar, request).await, 200, "{request}");
    }
    for refused in ["POST /probe/live", "DELETE /probe/live"] {
        assert_eq!(asked(&mesh, &sidecar, refused).await.status_and_reason().0, 405, "{refused}");
    }
    let heads: Vec<String> = app.requests().into_iter().map(|request| request.head).collect();
    assert_eq!(heads.len(), 3);
    for head in heads {
        assert!(head.starts_with("GET /live?from=kubelet HTTP/1.1\r\n"), "{head}");
        assert!(head.contains(&format!("host: {A}\r\n")) && !head.contains("secret"), "{head}");
    }
}

/// The status of an answer to HEAD, which has no body.
async fn asked_for_head(mesh: &Mesh, sidecar: &Sidecar, request: &str) -> u16 {
    let io = mesh.memory.connect(sidecar.addresses.metrics[0]).await.expect("the metrics port listens");
    let mut client = Peer::new(io);
    client.send(format!("{request} HTTP/1.1\r\nhost: x\r\nx-secret: y\r\nconnection: close\r\n\r\n")).await;
    let answer = String::from_utf8(client.rest().await).expect("text");
    assert_eq!(answer.ends_with("\r\n\r\n"), request.starts_with("HEAD"), "{answer}");
    answer.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status")
}

#[tokio::test(start_paused = true)]
async fn the_error_of_an_unknown_name_lists_the_known_ones() {
    let mesh = Mesh::default();
    let sidecar = sidecar(&mesh);
    for name in ["lives", "", "live/", "live/x", "%6cive"] {
        assert_eq!(
            probe_answer(&mesh, &sidecar, name).await,
            (404, "the known probes are live, open, serves\n".into())
        );
    }
    assert_eq!(asked(&mesh, &sidecar, "GET /probe").await.status_and_reason().0, 404);
    let none = mesh.sidecar(&file(""), None);
    assert_eq!(probe_answer(&mesh, &none, "live").await, (404, "inbound.probes has no probe\n".into()));
}

#[tokio::test(start_paused = true)]
async fn an_application_that_is_down_closes_or_stays_silent_fails_its_probe() {
    let mesh = Mesh::default();
    let side = sidecar(&mesh);
    let refused = probe_answer(&mesh, &side, "live").await;
    assert!(refused.0 == 503 && refused.1.starts_with("cannot connect to 10.0.0.1:80: "), "{refused:?}");
    let refused = probe_answer(&mesh, &side, "open").await;
    assert!(refused.0 == 503 && refused.1.starts_with("cannot connect to 127.0.0.1:9090: "), "{refused:?}");

    let _hangs_up = mesh.answering(A, HANG_UP);
    let broke_off = probe_answer(&mesh, &side, "live").await;
    assert!(broke_off.0 == 503 && broke_off.1.starts_with("10.0.0.1:80 broke off: "), "{broke_off:?}");

    let mesh = Mesh::default();
    let (_silent, watch) = (mesh.silent(A), Watch::start());
    let side = sidecar(&mesh);
    let silent = (503, "no answer from 10.0.0.1:80 within 10 s\n".to_owned());
    assert_eq!((probe_answer(&mesh, &side, "live").await, watch.seconds()), (silent, 10));
    mesh.black_hole(LOCAL);
    assert_eq!(probe_answer(&mesh, &side, "open").await.0, 503);
    assert_eq!(watch.seconds(), 20);
}

#[tokio::test(start_paused = true)]
async fn a_port_that_takes_connections_is_open() {
    let mesh = Mesh::default();
    let _greets =
        mesh.scripted(LOCAL, |mut peer, _| async move { peer.try_send("hello").await.unwrap_or_default() });
    assert_eq!(probe_answer(&mesh, &sidecar(&mesh), "open").await, (200, "open\n".into()));
}

/// Sends the request and returns without waiting for its answer.
async fn asking(mesh: &Mesh, sidecar: &Sidecar, name: &str) -> Peer {
    let io = mesh.memory.connect(sidecar.addresses.metrics[0]).await.expect("the metrics port listens");
    let mut client = Peer::new(io);
    client.send(format!("GET /probe/{name} HTTP/1.1\r\nhost: x\r\n\r\n")).await;
    client
}

#[tokio::test(start_paused = true)]
async fn a2_equal_probes_at_the_same_time_share_one_request_to_the_application() {
    let mesh = Mesh::default();
    let app = mesh.silent(A);
    let sidecar = sidecar(&mesh);
    let mut waiting = Vec::new();
    for _ in 0..24 {
        waiting.push(asking(&mesh, &sidecar, "live").await);
    }
    settle().await;
    assert_eq!(app.hits(), 1);
    assert_eq!(
        asked(&mesh, &sidecar, "GET /live").await.status_and_reason().0,
        200,
        "the sidecar itself is well"
    );
    waiting.truncate(1);
    settle().await;
    assert_eq!(app.open(), 1, "one asker is still there");
    assert_eq!(waiting[0].answer().await.body, "no answer from 10.0.0.1:80 within 10 s\n");
}

#[tokio::test(start_paused = true)]
async fn a2_a_probe_request_ends_when_no_client_waits_for_it() {
    let mesh = Mesh::default();
    let app = mesh.silent(A);
    let sidecar = sidecar(&mesh);
    let asker = asking(&mesh, &sidecar, "live").await;
    settle().await;
    assert_eq!(app.open(), 1);
    drop(asker);
    settle().await;
    assert_eq!(app.open(), 0);
    let asker = asking(&mesh, &sidecar, "live").await;
    settle().await;
    assert_eq!(app.open(), 1, "the next asker does not wait for the answer to a question that has ended");
    drop(asker);
}

/// An application that hung and works again answers the next probe, although clients still wait for the previous one.
#[tokio::test(start_paused = true)]
async fn a2_clients_that_ask_within_a_quarter_of_a_second_share_a_probe_request() {
    let mesh = Mesh::default();
    let app = mesh.http1(A, |nth, _| if nth == 0 { "HTTP/1.1 " } else { OK });
    let sidecar = sidecar(&mesh);
    let _hangs = asking(&mesh, &sidecar, "live").await;
    tokio::time::sleep(std::time::Duration::from_millis(251)).await;
    assert_eq!(probe_answer(&mesh, &sidecar, "live").await, (200, "ok".into()));
    assert_eq!(app.hits(), 2);
}

/// The application sends interim answers without end.
#[tokio::test(start_paused = true)]
async fn a2_an_answer_of_the_application_is_bounded_in_bytes_as_a_whole() {
    for interim in ["HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n"] {
        let mesh = Mesh::default();
        let _app = mesh.scripted(A, move |mut peer, _| async move {
            let _asked = peer.head().await;
            while peer.try_send(interim.repeat(100)).await.is_ok() {}
        });
        let watch = Watch::start();
        let answer = probe_answer(&mesh, &sidecar(&mesh), "live").await;
        assert_eq!(answer, (503, "10.0.0.1:80 answers with more than 128 KiB\n".into()));
        assert_eq!(watch.seconds(), 0);
    }
}

/// A health server for which `shop.Orders` has the given state, and every other service is unknown.
pub(super) fn health(mesh: &Mesh, address: &str, state: &'static [u8]) {
    drop(mesh.http2(address, 100, move |_, request, respond: SendResponse<Bytes>| async move {
        let (head, mut body) = request.into_parts();
        let asked = super::http2::read_body(&mut body).await.expect("a question");
        let is_check = head.method == "POST" && head.uri.path() == "/grpc.health.v1.Health/Check";
        assert!(is_check && head.headers["content-type"] == "application/grpc", "{head:?}");
        match &*asked == b"\0\0\0\0\x0d\x0a\x0bshop.Orders" {
            true => answer(respond, state, "0"),
            false => answer(respond, b"", "5"),
        }
    }));
}

fn answer(mut respond: SendResponse<Bytes>, message: &'static [u8], status: &'static str) {
    let head = Response::builder().header("content-type", "application/grpc").body(()).expect("a response");
    let mut stream = respond.send_response(head, false).expect("the stream is open");
    stream.send_data(Bytes::from_static(message), false).expect("the stream is open");
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", status.parse().expect("a value"));
    stream.send_trailers(trailers).expect("the stream is open");
}

pub(super) const SERVING: &[u8] = b"\0\0\0\0\x02\x08\x01";

#[tokio::test(start_paused = true)]
async fn a_grpc_probe_succeeds_when_the_service_is_serving() {
    for (state, expected) in [
        (SERVING, (200, "serving\n")),
        (b"\0\0\0\0\x02\x08\x02", (503, "127.0.0.1:9090 says: NOT_SERVING\n")),
        (b"\0\0\0\0\0", (503, "127.0.0.1:9090 says: UNKNOWN\n")),
        (
            &[0; 2000],
            (503, "127.0.0.1:9090 says: more than 1024 bytes, which is not a response of a health service\n"),
        ),
    ] {
        let mesh = Mesh::default();
        health(&mesh, LOCAL, state);
        assert_eq!(probe_answer(&mesh, &sidecar(&mesh), "serves").await, (expected.0, expected.1.to_owned()));
    }
    let mesh = Mesh::default();
    health(&mesh, LOCAL, SERVING);
    let other = mesh.sidecar(&file("probes: [{ name: serves, port: 9090, grpc: shop.Other }]"), None);
    let unknown =
        (503, "127.0.0.1:9090 says: grpc-status 5, the server does not know this service\n".to_owned());
    assert_eq!(probe_answer(&mesh, &other, "serves").await, unknown);
    let mesh = Mesh::default();
    let _http1 = mesh.answering(LOCAL, OK);
    let not_grpc = probe_answer(&mesh, &sidecar(&mesh), "serves").await;
    assert!(not_grpc.0 == 503 && not_grpc.1.contains("broke off"), "{not_grpc:?}");
}

#[tokio::test(start_paused = true)]
async fn an_application_of_http2_is_asked_in_http2() {
    let mesh = Mesh::default();
    drop(mesh.http2(A, 100, |_, request, respond| async move {
        assert_eq!((request.method().as_str(), request.uri().path()), ("GET", "/live"));
        super::http2::answer(respond, 200, "two");
    }));
    let sidecar =
        mesh.sidecar(&file("protocol: http2, probes: [{ name: live, port: 80, path: /live }]"), None);
    assert_eq!(probe_answer(&mesh, &sidecar, "live").await, (200, "two".into()));
}

/// A client without a certificate is refused by the inbound port, and answered by the metrics port.
#[tokio::test(start_paused = true)]
async fn a_probe_is_answered_in_strict_mtls() {
    let pair = Pair::new();
    let _app = pair.mesh.answering(A, OK);
    let sidecar = pair.mesh.sidecar(&(file(PROBES) + IDENTITY), Some(identity(&pair.ca, "orders")));
    assert_eq!(sidecar.client().await.get("/").await.status_and_reason().0, 403);
    assert_eq!(probe_answer(&pair.mesh, &sidecar, "live").await, (200, "ok".into()));
}

#[tokio::test(start_paused = true)]
async fn a_reload_brings_other_probes() {
    let mesh = Mesh::default();
    let _app = mesh.answering(A, OK);
    let mut sidecar = sidecar(&mesh);
    sidecar.reload(&file("probes: [{ name: other, port: 80, path: / }]")).expect("a good file");
    assert_eq!(probe_answer(&mesh, &sidecar, "live").await.0, 404);
    assert_eq!(probe_answer(&mesh, &sidecar, "other").await.0, 200);
}

/// No configured probe can ask the sidecar itself, also if the kernel chose the sidecar's port.
#[tokio::test(start_paused = true)]
async fn a_sidecar_does_not_ask_itself() {
    let mesh = Mesh::default();
    let mut sidecar = sidecar(&mesh);
    let own = sidecar.addresses.metrics[0];
    assert_eq!(own.ip(), at(LOCAL).ip());
    let round = format!("probes: [{{ name: round, port: {}, path: /probe/round }}]", own.port());
    sidecar.reload(&file(&round)).expect("a good file");
    let expected = (503, format!("{own} is the sidecar's own port, not the application's\n"));
    assert_eq!(probe_answer(&mesh, &sidecar, "round").await, expected);
}
