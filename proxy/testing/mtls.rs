//! Two sidecars that prove their identities to each other.

use super::backend::OK;
use super::mesh::{A, ORDERS, Pair, Watch, settle};
use super::peer::Peer;

const POST: &str = "POST / HTTP/1.1\r\nhost: orders\r\ncontent-length: 1\r\n\r\n.";

#[tokio::test(start_paused = true)]
async fn the_application_gets_the_verified_identity_of_its_caller_and_no_forged_one() {
    let pair = Pair::new();
    let app = pair.mesh.answering(A, OK);
    let inbound = pair.application("10.1.0.1:15006", A);
    let outbound = pair.caller(&format!("endpoints: [10.1.0.1:15006], {ORDERS}"));
    let forged = "GET / HTTP/1.1\r\nhost: orders\r\nx-forwarded-client-cert: URI=spiffe://evil\r\n\r\n";
    assert_eq!(outbound.client().await.ask(forged).await.status_and_reason(), (200, None));
    let request = &app.requests()[0];
    let identity = request.header("x-forwarded-client-cert").expect("the caller's identity");
    assert!(identity.starts_with("By=spiffe://cluster.local/ns/default/sa/orders;Hash="), "{identity}");
    assert!(identity.ends_with(";URI=spiffe://cluster.local/ns/default/sa/web"), "{identity}");
    assert_eq!(request.header("x-pillion-via"), None, "that is between sidecars");
    settle().await;
    let web = "peer=spiffe://cluster.local/ns/default/sa/web";
    assert_eq!(inbound.sum(&format!("pillion_requests_total direction=inbound status=200 {web}")), 1);
    assert_eq!(inbound.sum("pillion_tls_handshakes_total direction=inbound outcome=ok"), 1);
}

#[tokio::test(start_paused = true)]
async fn no_request_is_sent_to_a_server_with_another_identity() {
    let pair = Pair::new();
    let app = pair.mesh.answering(A, OK);
    let _inbound = pair.application("10.1.0.1:15006", A);
    let billing = "tls: \"spiffe://cluster.local/ns/default/sa/billing\"";
    let outbound = pair.caller(&format!("endpoints: [10.1.0.1:15006], {billing}"));
    assert_eq!(
        outbound.client().await.get("/").await.status_and_reason(),
        (502, Some("peer_identity_mismatch"))
    );
    assert_eq!(app.connections(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_plaintext_client_gets_mtls_required_and_the_application_gets_nothing() {
    let pair = Pair::new();
    let app = pair.mesh.answering(A, OK);
    let inbound = pair.application("10.1.0.1:15006", A);
    assert_eq!(inbound.client().await.get("/").await.status_and_reason(), (403, Some("mtls_required")));
    let mut other = inbound.client().await;
    other.send("\0\x01 not HTTP").await;
    assert_eq!(other.rest().await, b"", "closed without a word");
    assert_eq!(app.connections(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_request_refused_by_a_sidecar_before_forwarding_is_sent_elsewhere_for_any_method() {
    let pair = Pair::new();
    let app = pair.mesh.answering(A, OK);
    // The application behind the first sidecar is down.
    let down = pair.application("10.1.0.1:15006", "10.0.0.9:80");
    let _up = pair.application("10.1.0.2:15006", A);
    let orders = "endpoints: [10.1.0.1:15006, 10.1.0.2:15006], load_balancer: round_robin";
    let outbound = pair.caller(&format!("{orders}, {ORDERS}, retry: off"));
    let answer = outbound.client().await.ask(POST).await;
    assert_eq!((answer.status_and_reason(), answer.header("x-pillion-refused")), ((200, None), None));
    settle().await;
    assert_eq!(app.requests()[0].body, ".");
    assert_eq!(outbound.sum("pillion_retries_total outcome=replaced"), 1);
    assert_eq!(down.sum("pillion_requests_total status=502 reason=connect_refused"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_the_application_may_have_acted_on_is_not_marked_as_refused() {
    let pair = Pair::new();
    let app = pair.mesh.scripted(A, |mut peer: Peer, _| async move {
        peer.message().await;
    });
    let _inbound = pair.application("10.1.0.1:15006", A);
    let outbound = pair.caller(&format!("endpoints: [10.1.0.1:15006], {ORDERS}"));
    let answer = outbound.client().await.ask(POST).await;
    assert_eq!((answer.status(), app.hits()), (Some(502), 1));
    assert_eq!(answer.header("x-pillion-refused"), None, "the application gets no such field");
    assert_eq!(outbound.sum("pillion_retries_total"), 0);
}

#[tokio::test(start_paused = true)]
async fn an_application_cannot_claim_that_its_sidecar_refused() {
    const CLAIMS: &str =
        "HTTP/1.1 503 Service Unavailable\r\nx-pillion-refused: 1\r\ncontent-length: 0\r\n\r\n";
    let pair = Pair::new();
    let app = pair.mesh.answering(A, CLAIMS);
    let _inbound = pair.application("10.1.0.1:15006", A);
    let outbound = pair.caller(&format!("endpoints: [10.1.0.1:15006], {ORDERS}"));
    assert_eq!(outbound.client().await.ask(POST).await.status_and_reason(), (503, None));
    assert_eq!((app.hits(), outbound.sum("pillion_retries_total")), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn the_first_requests_all_at_once_are_all_answered_over_one_connection() {
    let pair = Pair::new();
    let app = pair.mesh.answering(A, OK);
    let inbound = pair.application("10.1.0.1:15006", A);
    let outbound = pair.caller(&format!("endpoints: [10.1.0.1:15006], {ORDERS}"));
    let mut clients = Vec::new();
    for _ in 0..20 {
        let mut client = outbound.client().await;
        client.send(POST).await;
        clients.push(client);
    }
    for client in &mut clients {
        assert_eq!(client.answer().await.status_and_reason(), (200, None));
    }
    assert_eq!(app.hits(), 20);
    let handshakes = inbound.sum("pillion_tls_handshakes_total outcome=ok");
    let opened = outbound.sum("pillion_connections_total service=orders tls=mtls outcome=ok");
    assert_eq!(handshakes, opened, "none was made in vain");
}

#[tokio::test(start_paused = true)]
async fn all_requests_that_wait_for_a_handshake_get_its_error() {
    let pair = Pair::new();
    let inbound = pair.application("10.1.0.1:15006", A);
    let billing = "tls: \"spiffe://cluster.local/ns/default/sa/billing\"";
    let outbound = pair.caller(&format!("endpoints: [10.1.0.1:15006], {billing}"));
    let mut clients = Vec::new();
    for _ in 0..10 {
        let mut client = outbound.client().await;
        client.send(POST).await;
        clients.push(client);
    }
    for client in &mut clients {
        assert_eq!(client.answer().await.status_and_reason(), (502, Some("peer_identity_mismatch")));
    }
    settle().await;
    assert_eq!(inbound.sum("pillion_requests_total"), 0);
    assert_eq!(outbound.sum("pillion_circuit_breaker_used limit=pending"), 0);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_accepts_and_stays_silent_is_a_connect_timeout() {
    let pair = Pair::new();
    let _mute = pair.mesh.scripted("10.1.0.1:15006", |mut peer: Peer, _| async move {
        peer.rest().await;
    });
    let outbound = pair.caller(&format!("endpoints: [10.1.0.1:15006], {ORDERS}, retry: off"));
    assert_eq!(outbound.client().await.get("/").await.status_and_reason(), (504, Some("connect_timeout")));
    assert_eq!(outbound.sum("pillion_tls_handshakes_total direction=outbound outcome=timeout"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_server_without_tls_is_a_tls_error() {
    let pair = Pair::new();
    let plain = pair.mesh.scripted("10.1.0.1:15006", |mut peer: Peer, _| async move {
        peer.send("HTTP/1.1 400 Bad Request\r\n\r\n").await;
        peer.rest().await;
    });
    let outbound = pair.caller(&format!("endpoints: [10.1.0.1:15006], {ORDERS}, retry: off"));
    assert_eq!(outbound.client().await.get("/").await.status_and_reason(), (502, Some("tls_error")));
    assert_eq!(plain.connections(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_finish_its_handshake_is_closed_after_ten_seconds() {
    let pair = Pair::new();
    let inbound = pair.application("10.1.0.1:15006", A);
    let mut client = inbound.client().await;
    let watch = Watch::start();
    client.send(b"\x16\x03\x01\x02\x00").await;
    client.rest().await;
    assert_eq!(watch.seconds(), 10);
    assert_eq!(inbound.sum("pillion_tls_handshakes_total outcome=timeout"), 1);
}
