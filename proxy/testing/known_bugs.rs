//! Bugs that other proxies had: requests that are sent twice, bodies that are lost or doubled, hosts that are not
//! recognised. Neighbours: `replay` (chunked bodies), `tunnels` (bytes before an upgrade), `retries` (the exact budget),
//! `grpc` (the deadline of a retry).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use http::Request;

use super::backend::OK;
use super::http2;
use super::mesh::{self, A, B, Mesh, Sidecar, settle};
use super::peer::{Message, Peer};

const ANSWER: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nx: y\r\n\r\nok";
const BODY: &str = "12345";

/// Where the first connection on which a request came is reset.
#[derive(Debug, Clone, Copy)]
enum Reset {
    /// After so many bytes of the request.
    Request(usize),
    /// After so many bytes of the answer.
    Answer(usize),
}

/// Many services with an endpoint of their own each, behind one sidecar.
struct Services {
    mesh: Mesh,
    sidecar: Sidecar,
    used: usize,
}

impl Services {
    const MOST: usize = 1000;

    fn address(nth: usize) -> String {
        format!("10.1.{}.{}:80", nth / 200, nth % 200 + 1)
    }

    fn new() -> Self {
        let mesh = Mesh::default();
        let file = mesh::caller("");
        let (common, _) = file.split_once("services:").expect("services");
        let service = |nth| format!("  s{nth}: {{ endpoints: [\"{}\"] }}\n", Self::address(nth));
        let services: String = (0..Self::MOST).map(service).collect();
        let sidecar = mesh.sidecar(&format!("{common}services:\n{services}"), None);
        Self { mesh, sidecar, used: 0 }
    }

    /// Sends one request with a body to an endpoint whose first connection is reset like that. Returns how often the
    /// whole request arrived, and the answer. `warm`: the connection has carried a request before, so it is pooled.
    async fn reset_once(&mut self, method: &str, reset: Reset, warm: bool) -> (usize, Option<Message>) {
        let (nth, arrived) = (self.used, Arc::new(AtomicUsize::new(0)));
        self.used += 1;
        let shared = arrived.clone();
        let _endpoint = self.mesh.scripted(&Self::address(nth), move |peer: Peer, connection| {
            let arrived = shared.clone();
            async move {
                match connection {
                    0 => reset_at(reset, warm, peer, &arrived).await,
                    _ => answer_all(peer, &arrived).await,
                }
            }
        });
        let mut client = self.sidecar.client().await;
        if warm {
            let first = client.ask(&format!("GET / HTTP/1.1\r\nhost: s{nth}\r\n\r\n")).await;
            assert_eq!(first.status_and_reason(), (200, None));
        }
        let head = format!("{method} / HTTP/1.1\r\nhost: s{nth}\r\ncontent-length: 5\r\n\r\n");
        client.send(head + BODY).await;
        let answer = client.message().await;
        settle().await;
        (arrived.load(Relaxed), answer)
    }
}

async fn answer_all(mut peer: Peer, arrived: &AtomicUsize) {
    while peer.message().await.is_some() {
        arrived.fetch_add(1, Relaxed);
        peer.send(OK).await;
    }
}

async fn reset_at(reset: Reset, warm: bool, mut peer: Peer, arrived: &AtomicUsize) {
    if warm {
        peer.message().await;
        peer.send(OK).await;
    }
    let is_whole = match reset {
        Reset::Request(bytes) => peer.exactly(bytes).await.0.ends_with(BODY.as_bytes()),
        Reset::Answer(_) => peer.message().await.is_some(),
    };
    arrived.fetch_add(is_whole.into(), Relaxed);
    if let Reset::Answer(bytes) = reset {
        peer.send(&ANSWER[..bytes]).await;
    }
    peer.reset();
}

/// More than the request's bytes. A server that waits for more than there are lets the request time out.
const REQUEST_BYTES: usize = 300;

#[tokio::test(start_paused = true)]
async fn a_post_reaches_its_server_at_most_once_whichever_byte_its_connection_is_reset_at() {
    let mut services = Services::new();
    let resets = (0..REQUEST_BYTES).map(Reset::Request).chain((0..=ANSWER.len()).map(Reset::Answer));
    let mut arrivals = 0;
    for reset in resets {
        for warm in [false, true] {
            let (arrived, answer) = services.reset_once("POST", reset, warm).await;
            assert!(arrived <= 1, "{reset:?} {warm}: {arrived} times");
            if let Reset::Answer(_) = reset {
                assert_eq!(arrived, 1, "{reset:?} {warm}");
            }
            assert!(answer.is_none_or(|answer| answer.status().is_some()), "{reset:?} {warm}");
            arrivals += arrived;
        }
    }
    assert!(arrivals > 2 * ANSWER.len(), "the whole request was among the positions");
}

#[tokio::test(start_paused = true)]
async fn a_put_is_answered_whichever_byte_its_connection_is_reset_at_before_the_end_of_the_answer_s_head() {
    let mut services = Services::new();
    let head = ANSWER.len() - 2;
    let resets = (0..100).map(Reset::Request).chain((0..head).map(Reset::Answer));
    for reset in resets {
        for warm in [false, true] {
            let (arrived, answer) = services.reset_once("PUT", reset, warm).await;
            let status = answer.and_then(|answer| answer.status());
            assert_eq!(status, Some(200), "{reset:?} {warm}");
            assert!((1..=2).contains(&arrived), "{reset:?} {warm}: {arrived} times");
        }
    }
}

/// linkerd2#15649: the first try ends before a byte of the body was read, and the second one sent it twice.
#[tokio::test(start_paused = true)]
async fn a_body_is_sent_once_when_the_retry_comes_before_its_first_byte() {
    let mesh = Mesh::default();
    drop(mesh.http2(A, 100, |_, _, respond| async move { http2::answer(respond, 503, "busy") }));
    let (sender, mut bodies) = tokio::sync::mpsc::unbounded_channel();
    drop(mesh.http2(B, 100, move |_, request: Request<h2::RecvStream>, respond| {
        let sender = sender.clone();
        async move {
            let body = http2::read_body(&mut request.into_body()).await.expect("a body");
            sender.send(body).expect("the test listens");
            http2::answer(respond, 200, "b");
        }
    }));
    let sidecar =
        mesh.caller("endpoints: [10.0.0.1:80, 10.0.0.2:80], protocol: http2, load_balancer: round_robin");
    let client = sidecar.http2_client().await;
    for _ in 0..4 {
        let answer = client.ask(http2::request("PUT", "/"), BODY).await.expect("an answer");
        assert_eq!(answer.head.status().as_u16(), 200);
        assert_eq!(bodies.recv().await.as_deref(), Some(BODY.as_bytes()));
    }
    assert!(bodies.try_recv().is_err());
}

/// istio#55767 and istio#56007.
#[tokio::test(start_paused = true)]
async fn a_host_is_known_in_any_case_with_a_dot_at_its_end_and_with_a_port() {
    let mesh = Mesh::default();
    let a = mesh.answering(A, OK);
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80], hosts: [orders.shop.svc]");
    let hosts = [
        "Orders.Shop.svc",
        "ORDERS.SHOP.SVC",
        "orders.shop.svc.",
        "Orders.shop.svc.:80",
        "orders.shop.svc:8080",
    ];
    for host in hosts {
        let request = format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n");
        assert_eq!(sidecar.client().await.ask(&request).await.status_and_reason(), (200, None), "{host}");
    }
    assert_eq!(a.hits(), hosts.len());
}
