//! Keys that say how a service is called.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::json;

use super::super::backend::{Backend, OK, UNAVAILABLE};
use super::super::mesh::{A, Mesh, Sidecar, Watch, at, pass, secs, settle};
use super::super::peer::Peer;
use super::{Key, Row, shows};

pub(super) fn rows(of: &str) -> Vec<Row> {
    let key = |key: &str| format!("{of}.{key}");
    vec![
        shows(key("protocol"), ["http1", "http2"], first_bytes),
        shows(key("connect_timeout"), ["1s", "4s"], time_to_connect),
        shows(key("timeout"), ["3s", "5s"], time_without_answer),
        shows(key("stream_idle_timeout"), ["20s", "40s"], time_for_half_a_body),
        shows(key("max_duration"), ["off", "20s"], time_of_a_long_answer),
        shows(key("connection.idle_timeout"), ["10s", "100s"], connections_now_and_then),
        shows(key("connection.max_age"), ["10s", "100s"], connections_now_and_then),
        shows(key("connection.max_requests"), ["1", "3"], connections_now_and_then),
        shows(key("connection.keepalive"), ["off", "10s"], time_until_the_kernel_asks),
        shows(key("circuit_breaker.max_connections"), ["1", "2"], one_of_two),
        shows(key("circuit_breaker.max_connections_per_endpoint"), ["1", "2"], two_at_one_endpoint),
        shows(key("circuit_breaker.max_pending_requests"), ["0", "10"], one_of_two),
        shows(key("circuit_breaker.max_requests"), ["1", "10"], one_of_two),
        shows(key("circuit_breaker.adaptive"), ["off", "gradient"], limit_when_answers_become_slow),
        shows(key("circuit_breaker.max_retries"), ["0", "10"], tries),
    ]
}

pub(super) const GET: &str = "GET / HTTP/1.1\r\nhost: orders\r\n\r\n";
pub(super) const HALF_A_BODY: &str =
    "POST / HTTP/1.1\r\nhost: orders\r\ncontent-length: 30\r\n\r\nhalf of it";
pub(super) const BY_A: &str = "HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\na";
pub(super) const BY_B: &str = "HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nb";

/// Status, reason and body, and the time that it took, at most one hour.
pub(super) async fn answer_to(client: &mut Peer, request: &str) -> String {
    let watch = Watch::start();
    client.send(request).await;
    match tokio::time::timeout(secs(3600), client.message()).await {
        Ok(Some(answer)) => {
            let body = if answer.reason().is_none() { &*answer.body } else { "" };
            format!("{:?} {body:?} after {} s", answer.status_and_reason(), watch.seconds())
        }
        Ok(None) => format!("closed after {} s", watch.seconds()),
        Err(_) => "nothing".to_owned(),
    }
}

async fn first_bytes(key: Key) -> String {
    let (mesh, heard) = (Mesh::default(), Arc::new(Mutex::new(Vec::new())));
    let _a = listening(&mesh, heard.clone());
    let sidecar = key.caller(&mesh, json!({ "endpoints": [A] }));
    let mut client = sidecar.client().await;
    client.send(GET).await;
    settle().await;
    let heard = heard.lock();
    String::from_utf8_lossy(&heard[..3]).into_owned()
}

/// Listens at A, and sends only the first frame of HTTP/2.
pub(super) fn listening(mesh: &Mesh, heard: Arc<Mutex<Vec<u8>>>) -> Backend {
    mesh.scripted(A, move |mut peer: Peer, _| {
        let heard = heard.clone();
        async move {
            while let (byte, true) = peer.exactly(1).await {
                heard.lock().extend(byte);
                if heard.lock().ends_with(b"PRI * HTTP/2.0") {
                    peer.send(b"\0\0\0\x04\0\0\0\0\0").await;
                }
            }
        }
    })
}

async fn time_until_the_kernel_asks(key: Key) -> String {
    let mesh = Mesh::default();
    let _a = mesh.answering(A, OK);
    key.caller(&mesh, json!({ "endpoints": [A] })).client().await.get("/").await;
    format!("{:?}", mesh.memory.keepalive(at(A)))
}

async fn time_to_connect(key: Key) -> String {
    let mesh = Mesh::default();
    mesh.black_hole(A);
    let sidecar = key.caller(&mesh, json!({ "endpoints": [A], "retry": "off" }));
    answer_to(&mut sidecar.client().await, GET).await
}

pub(super) async fn time_without_answer(key: Key) -> String {
    let mesh = Mesh::default();
    let _a = mesh.silent(A);
    let sidecar = key.caller(&mesh, json!({ "endpoints": [A] }));
    answer_to(&mut sidecar.client().await, GET).await
}

async fn time_for_half_a_body(key: Key) -> String {
    let mesh = Mesh::default();
    let _a = mesh.silent(A);
    let sidecar = key.caller(&mesh, json!({ "endpoints": [A] }));
    answer_to(&mut sidecar.client().await, HALF_A_BODY).await
}

async fn time_of_a_long_answer(key: Key) -> String {
    let mesh = Mesh::default();
    let _a = mesh.scripted(A, |mut peer: Peer, _| async move {
        peer.message().await;
        peer.send("HTTP/1.1 200 OK\r\ncontent-length: 60\r\n\r\n").await;
        for _ in 0..60 {
            pass(1).await;
            if peer.try_send(".").await.is_err() {
                return;
            }
        }
    });
    let sidecar = key.caller(&mesh, json!({ "endpoints": [A] }));
    let watch = Watch::start();
    let answer = sidecar.client().await.get("/").await;
    format!("whole: {} after {} s", answer.is_whole, watch.seconds())
}

/// The connections of four requests, twenty seconds apart.
async fn connections_now_and_then(key: Key) -> String {
    let mesh = Mesh::default();
    let a = mesh.answering(A, OK);
    let sidecar = key.caller(&mesh, json!({ "endpoints": [A] }));
    let mut client = sidecar.client().await;
    for _ in 0..4 {
        client.get("/").await;
        pass(20).await;
    }
    format!("{} connections", a.connections())
}

/// Two requests at once for an endpoint that does not answer and may have one connection.
async fn one_of_two(key: Key) -> String {
    let mesh = Mesh::default();
    let a = mesh.silent(A);
    let limits = json!({ "max_connections": 1 });
    let sidecar = key.caller(&mesh, json!({ "endpoints": [A], "circuit_breaker": limits }));
    let (mut first, mut second) = (sidecar.client().await, sidecar.client().await);
    first.send(GET).await;
    settle().await;
    second.send(GET).await;
    let answer = tokio::time::timeout(secs(1), second.answer()).await;
    format!("{:?} {}", answer.map(|answer| answer.reason().map(str::to_owned)).ok(), a.hits())
}

async fn limit_when_answers_become_slow(key: Key) -> String {
    let mesh = Mesh::default();
    let slowly = Arc::new(AtomicUsize::new(0));
    let a = slowly.clone();
    let _a = mesh.scripted(A, move |mut peer: Peer, _| {
        let slowly = a.clone();
        async move {
            while peer.message().await.is_some() {
                tokio::time::sleep(Duration::from_millis(10 + slowly.load(Relaxed) as u64)).await;
                peer.send(OK).await;
            }
        }
    });
    let sidecar = key.caller(&mesh, json!({ "endpoints": [A] }));
    send(&sidecar, 200).await;
    slowly.store(100, Relaxed);
    send(&sidecar, 50).await;
    format!("{}", sidecar.sum("pillion_circuit_breaker_limit limit=requests") < 500)
}

/// Two requests at once for an endpoint that does not answer.
async fn two_at_one_endpoint(key: Key) -> String {
    let mesh = Mesh::default();
    let a = mesh.silent(A);
    let sidecar = key.caller(&mesh, json!({ "endpoints": [A] }));
    let (mut first, mut second) = (sidecar.client().await, sidecar.client().await);
    first.send(GET).await;
    second.send(GET).await;
    settle().await;
    format!("{} arrived", a.hits())
}

async fn tries(key: Key) -> String {
    let mesh = Mesh::default();
    let a = mesh.answering(A, UNAVAILABLE);
    let sidecar = key.caller(&mesh, json!({ "endpoints": [A] }));
    sidecar.client().await.get("/").await;
    format!("{} tries", a.hits())
}

pub(super) async fn send(sidecar: &Sidecar, requests: usize) {
    let mut client = sidecar.client().await;
    for _ in 0..requests {
        client.get("/").await;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
