//! Handshakes and heads that begin and do not end: how much one of them may hold, and all together.

use std::sync::Arc;

use pillion_base::net::memory::Pipe;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::Notify;

use super::backend::OK;
use super::http2::request;
use super::logged;
use super::mesh::{
    self, A, IDENTITY, Mesh, ORDERS, Pair, Sidecar, Watch, application_at, at, caller, expired, identity,
    pass, settle,
};
use super::peer::Peer;
use super::rules::client_hello;
use super::strangers::{self, crowd};
use pillion_base::unfinished::{HANDSHAKE, READER, Side};
use pillion_tls::client::Purpose;

const AT: &str = "10.1.0.1:15006";
const HEAD: &str = "GET / HTTP/1.1\r\nhost: orders\r\n";

fn sidecar(pair: &Pair, policy: &str) -> Sidecar {
    strangers::sidecar(pair, policy, 4000)
}

/// A head of this many bytes without its end.
fn beginning(bytes: usize) -> String {
    format!("{HEAD}x: {}", "a".repeat(bytes - HEAD.len()))
}

#[tokio::test(start_paused = true)]
async fn a8_a_handshake_larger_than_the_limit_is_refused() {
    let pair = Pair::new();
    let sidecar = sidecar(&pair, "mtls: strict");
    // A record of 16 KiB, with the beginning of a message of 64 KiB.
    let mut hello = b"\x16\x03\x01\x40\x00\x01\x00\xff\xff\x03\x03".to_vec();
    hello.resize(14 * 1024, 0);
    let mut client = sidecar.client().await;
    let watch = Watch::start();
    for piece in hello.chunks(1024) {
        if client.try_send(piece).await.is_err() {
            break;
        }
        settle().await;
    }
    client.rest().await;
    assert_eq!(watch.seconds(), 0, "it is not waited for");
    settle().await;
    assert_eq!(sidecar.sum("pillion_tls_handshakes_total direction=inbound outcome=failed"), 1);
}

/// The sidecar reads the end of the handshake and the first data at once: the network in between holds back everything
/// after the hello until both have arrived.
#[tokio::test(start_paused = true)]
async fn a8_data_right_behind_a_handshake_does_not_count_as_its_own() {
    let pair = Pair::new();
    let _app = pair.mesh.scripted(A, |mut peer: Peer, _| async move { drop(peer.rest().await) });
    let sidecar = sidecar(&pair, "mtls: strict, protocol: tcp");
    let out = pair.mesh.memory.connect(at(AT)).await.expect("the sidecar listens");
    let ((near, far), go) = (Pipe::pair(256 * 1024), Arc::new(Notify::new()));
    let ((mut from, mut back), (mut answers, mut to)) = (tokio::io::split(far), tokio::io::split(out));
    tokio::spawn(async move { tokio::io::copy(&mut answers, &mut back).await });
    let held = go.clone();
    tokio::spawn(async move {
        let mut hello = Vec::with_capacity(16 * 1024);
        from.read_buf(&mut hello).await.expect("a hello");
        to.write_all(&hello).await.expect("the sidecar reads");
        held.notified().await;
        drop(tokio::io::copy(&mut from, &mut to).await);
    });
    let tls = mesh::client_tls(&identity(&pair.ca, "web"));
    let (mut peer, _alpn) = tls.connect(near, Purpose::Tcp).await.expect("a handshake");
    peer.write_all(&[0; 48 * 1024]).await.expect("room"); // in records of 16 KiB
    peer.flush().await.expect("room");
    settle().await;
    go.notify_one();
    settle().await;
    assert_eq!(sidecar.sum("pillion_tls_handshakes_total direction=inbound outcome=ok"), 1);
    assert_eq!(sidecar.sum("pillion_bytes_total direction=inbound flow=received"), 48 * 1024);
}

#[tokio::test(start_paused = true)]
async fn a8_the_oldest_unfinished_handshakes_are_closed_for_new_ones() {
    let pair = Pair::new();
    let app = pair.mesh.answering(A, OK);
    let sidecar = sidecar(&pair, "mtls: strict");
    let most = Side::Strangers.most() / HANDSHAKE;
    let hello = client_hello(&identity(&pair.ca, "web")).await;
    let mut strangers = crowd(&sidecar, most + 20, &hello[..6]).await;
    for stranger in &mut strangers[..20] {
        assert_eq!(stranger.rest().await, b"", "the oldest go first");
    }
    assert!(strangers[20].try_send(&hello[6..7]).await.is_ok());
    let mut peer = pair.peer(AT, Purpose::Http1).await;
    assert_eq!(peer.get("/").await.status_and_reason(), (200, None));
    assert_eq!(app.hits(), 1);
    assert_eq!(sidecar.sum("pillion_connections_total direction=inbound tls=mtls outcome=refused"), 21);
}

#[tokio::test(start_paused = true)]
async fn a8_unfinished_heads_of_unproven_clients_cost_no_peer_anything() {
    let pair = Pair::new();
    let app = pair.mesh.answering(A, OK);
    let sidecar = sidecar(&pair, "mtls: permissive");
    let mut peer = pair.peer(AT, Purpose::Http1).await;
    peer.send(HEAD).await;
    settle().await;
    let bytes = 56 * 1024;
    let most = Side::Strangers.most() / (READER + bytes);
    let mut strangers = crowd(&sidecar, most + 30, beginning(bytes).as_bytes()).await;
    let gone = sidecar.sum("pillion_requests_total direction=inbound status=503 reason=overloaded");
    assert!((25..=35).contains(&gone), "{gone} of {}", most + 30);
    assert_eq!(strangers[0].rest().await, b"", "the oldest go first");
    strangers.last_mut().expect("one").send("\r\n\r\n").await;
    assert_eq!(
        strangers.last_mut().expect("one").answer().await.status_and_reason(),
        (200, None),
        "a new one is served"
    );
    peer.send("\r\n").await;
    assert_eq!(peer.answer().await.status_and_reason(), (200, None), "the peer began first of all");
    assert_eq!(app.hits(), 2);
}

#[tokio::test(start_paused = true)]
async fn a8_unfinished_heads_of_peers_and_of_the_application_have_a_bound_in_total() {
    let pair = Pair::new();
    let _app = pair.mesh.answering(A, OK);
    let bytes = 56 * 1024;
    let outbound = pair.mesh.caller("endpoints: [10.0.0.1:80]");
    let most = Side::Application.most() / (READER + bytes);
    let mut clients = crowd(&outbound, most + 20, beginning(bytes).as_bytes()).await;
    let gone = outbound.sum("pillion_requests_total direction=outbound reason=overloaded");
    assert!((15..=25).contains(&gone), "{gone} of {}", most + 20);
    assert_eq!(clients[0].rest().await, b"");

    let inbound = sidecar(&pair, "mtls: strict");
    let most = Side::Peers.most() / (READER + bytes);
    let mut peers = Vec::new();
    for _ in 0..most + 10 {
        let mut peer = pair.peer(AT, Purpose::Http1).await;
        peer.send(beginning(bytes)).await;
        settle().await;
        peers.push(peer);
    }
    let gone = inbound.sum("pillion_requests_total direction=inbound reason=overloaded");
    assert!((5..=15).contains(&gone), "{gone} of {}", most + 10);
}

/// A refused head that came in pieces does not count as unfinished, although its client is read for some time after it.
#[tokio::test(start_paused = true)]
async fn a8_refused_heads_take_no_place_of_others() {
    let mesh = Mesh::default();
    let _app = mesh.answering(A, OK);
    let outbound = mesh.caller("endpoints: [10.0.0.1:80]");
    let mut slow = crowd(&outbound, 1, HEAD.as_bytes()).await.remove(0);
    let bytes = 56 * 1024;
    let most = Side::Application.most() / (READER + bytes);
    let mut listened_to = Vec::new();
    for _ in 0..3 {
        let mut refused = crowd(&outbound, most / 2, beginning(bytes).as_bytes()).await;
        for client in &mut refused {
            client.send("\r\nno field\r\n\r\n").await;
            assert_eq!(client.answer().await.status(), Some(400));
        }
        listened_to.append(&mut refused);
    }
    assert_eq!(slow.ask("\r\n").await.status_and_reason(), (200, None));
}

/// An empty line before a head belongs to the head.
#[tokio::test(start_paused = true)]
async fn a8_a_head_of_many_fields_after_an_empty_line_has_the_same_deadline() {
    let pair = Pair::new();
    let _app = pair.mesh.answering(A, OK);
    let _sidecar = sidecar(&pair, "mtls: strict");
    let mut peer = pair.peer(AT, Purpose::Http1).await;
    assert_eq!(peer.get("/").await.status_and_reason(), (200, None));
    let watch = Watch::start();
    peer.send("\r\n").await;
    pass(6).await;
    let fields: String = (0..101).map(|nth| format!("x-{nth}: 1\r\n")).collect();
    peer.send(format!("\r\n{HEAD}{fields}")).await;
    drop(peer.rest().await);
    assert_eq!(watch.seconds(), 10, "limits.header_timeout, from the first byte");
}

#[tokio::test(start_paused = true)]
async fn a8_unfinished_http2_heads_have_a_bound_in_total() {
    let mesh = Mesh::default();
    let _a = mesh.answering(A, OK);
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80]");
    // HEADERS of 16 KiB, without the last byte.
    let mut head = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\0\x40\0\x01\x05\0\0\0\x01".to_vec();
    head.resize(head.len() + 16 * 1024 - 1, b'a');
    let most = Side::Application.most() / (READER + 16 * 1024);
    let _clients = crowd(&sidecar, most + 20, &head).await;
    let gone = sidecar.sum("pillion_requests_total direction=outbound reason=overloaded");
    assert!((15..=25).contains(&gone), "{gone} of {}", most + 20);
}

#[test]
fn c15_http2_plaintext_at_a_strict_port_is_logged() {
    let lines = logged::lines(|log| async move {
        let pair = Pair::new();
        let yaml = application_at(AT, &format!("app: {A}")) + IDENTITY + &log;
        let inbound = pair.mesh.sidecar(&yaml, Some(identity(&pair.ca, "orders")));
        let mut client = inbound.client().await;
        client.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await;
        assert_eq!(client.rest().await, b"");
        settle().await;
        assert_eq!(inbound.sum("pillion_requests_total status=403 reason=mtls_required"), 1);
    });
    assert_eq!(lines.len(), 1);
    assert_eq!((&lines[0]["protocol"], &lines[0]["reason"]), (&"HTTP/2".into(), &"mtls_required".into()));
}

#[tokio::test(start_paused = true)]
async fn a9_an_http2_connection_is_counted_by_how_its_beginning_ended() {
    let pair = Pair::new();
    let app = pair.mesh.answering(A, OK);
    let sidecar = pair.application(AT, A);
    let count = |outcome: &str| {
        sidecar.sum(&format!("pillion_connections_total direction=inbound protocol=http2 outcome={outcome}"))
    };
    // Both have agreed on HTTP/2 in their handshakes.
    let mut broken = pair.peer(AT, Purpose::Http).await;
    broken.send("GET / HTTP/1.1\r\nhost: orders\r\n\r\n").await;
    broken.rest().await;
    settle().await;
    assert_eq!((count("ok"), count("failed"), count("timeout")), (0, 1, 0));
    let mut silent = pair.peer(AT, Purpose::Http).await;
    let watch = Watch::start();
    silent.rest().await;
    assert_eq!(watch.seconds(), 10);
    assert_eq!((count("ok"), count("failed"), count("timeout")), (0, 1, 1));
    let (mut send, conn) =
        h2::client::handshake(pair.peer(AT, Purpose::Http).await.into_io()).await.expect("HTTP/2");
    let driver = tokio::spawn(conn);
    let (answer, _) = send.send_request(request("GET", "/"), true).expect("a stream");
    assert_eq!(answer.await.expect("an answer").status(), 200);
    assert_eq!((count("ok"), count("failed"), count("timeout")), (1, 1, 1));
    assert_eq!(app.hits(), 1);
    driver.abort();
}

#[tokio::test(start_paused = true)]
async fn c3_endpoints_that_refuse_our_certificate_are_not_ejected_for_it() {
    for more in ["protocol: http1", "protocol: http2", "protocol: tcp, listen: 127.0.0.1:0"] {
        let pair = Pair::new();
        let (_app, _one, _two) = (
            pair.mesh.answering(A, OK),
            pair.application("10.1.0.1:15006", A),
            pair.application("10.1.0.2:15006", A),
        );
        let orders = format!("endpoints: [10.1.0.1:15006, 10.1.0.2:15006], {ORDERS}, {more}");
        let outbound = pair.mesh.sidecar(&(caller(&orders) + IDENTITY), Some(expired(&pair.ca, "web")));
        for _ in 0..10 {
            let mut client = outbound.direct_client().await;
            client.send("GET / HTTP/1.1\r\nhost: orders\r\n\r\n").await;
            client.message().await;
        }
        settle().await;
        let failed = outbound.sum("pillion_tls_handshakes_total direction=outbound outcome=failed");
        assert!(failed >= 10, "{more}: {failed}");
        assert_eq!(outbound.sum("pillion_endpoint_ejections_total"), 0, "{more}");
    }
}
