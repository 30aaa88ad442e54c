//! Requests that an upstream did not process: they are sent again with any method, outside of attempts and budget.

use bytes::Bytes;
use h2::Reason;

use super::backend::{Backend, OK};
use super::http2::{self, Client};
use super::mesh::{A, B, Mesh, Sidecar, pass, settle};
use super::peer::Peer;

/// Closes on the second request of its first connection, and answers all others.
fn goes_stale(mesh: &Mesh) -> Backend {
    mesh.scripted(A, |mut peer: Peer, nth| async move {
        while peer.message().await.is_some() {
            peer.send(OK).await;
            if nth == 0 {
                peer.message().await;
                return;
            }
        }
    })
}

fn replaced(sidecar: &Sidecar) -> u64 {
    sidecar.sum("pillion_retries_total service=orders outcome=replaced")
}

#[tokio::test(start_paused = true)]
async fn a_request_on_a_stale_connection_is_sent_on_a_fresh_one_once() {
    let mesh = Mesh::default();
    let a = goes_stale(&mesh);
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80], retry: { conditions: [409] }");
    let mut client = sidecar.client().await;
    assert_eq!(client.get("/1").await.status_and_reason(), (200, None));
    assert_eq!(client.get("/2").await.status_and_reason(), (200, None));
    assert_eq!((a.connections(), a.hits(), replaced(&sidecar)), (2, 3, 1));
}

#[tokio::test(start_paused = true)]
async fn a_new_connection_that_breaks_does_not_count_as_stale() {
    let mesh = Mesh::default();
    let a = mesh.scripted(A, |mut peer: Peer, nth| async move {
        peer.message().await;
        if nth == 0 {
            peer.send(OK).await;
            peer.message().await;
        }
    });
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80], retry: { conditions: [409] }");
    let mut client = sidecar.client().await;
    assert_eq!(client.get("/1").await.status_and_reason(), (200, None));
    assert_eq!(client.get("/2").await.status_and_reason(), (502, Some("upstream_closed")));
    assert_eq!((a.connections(), a.hits(), replaced(&sidecar)), (2, 3, 1));
}

#[tokio::test(start_paused = true)]
async fn a_post_on_a_stale_connection_may_have_been_acted_on_and_is_not_sent_again() {
    let mesh = Mesh::default();
    let a = goes_stale(&mesh);
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80]");
    let mut client = sidecar.client().await;
    assert_eq!(client.get("/1").await.status_and_reason(), (200, None));
    let answer = client.ask("POST /2 HTTP/1.1\r\nhost: orders\r\ncontent-length: 1\r\n\r\n.").await;
    assert_eq!(answer.status_and_reason(), (502, Some("upstream_closed")));
    assert_eq!((a.connections(), a.hits(), replaced(&sidecar)), (1, 2, 0));
}

#[tokio::test(start_paused = true)]
async fn a_pooled_connection_that_was_closed_in_time_costs_nothing_not_even_a_post() {
    let mesh = Mesh::default();
    let a = mesh.scripted(A, |mut peer: Peer, _| async move {
        peer.message().await;
        peer.send(OK).await;
    });
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80]");
    let mut client = sidecar.client().await;
    for _ in 0..3 {
        let answer = client.ask("POST / HTTP/1.1\r\nhost: orders\r\ncontent-length: 1\r\n\r\n.").await;
        assert_eq!(answer.status_and_reason(), (200, None));
        settle().await;
    }
    assert_eq!((a.connections(), a.hits()), (3, 3));
}

async fn post(client: &Client) -> u16 {
    let answer = client.ask(http2::request("POST", "/"), "the body").await.expect("an answer");
    answer.head.status().as_u16()
}

#[tokio::test(start_paused = true)]
async fn a_refused_stream_is_sent_again_for_any_method() {
    let mesh = Mesh::default();
    let refuses = mesh.http2(A, 100, |_, _, mut respond| async move {
        respond.send_reset(Reason::REFUSED_STREAM);
    });
    let takes = mesh.http2(B, 100, |_, mut request, respond| async move {
        let body = http2::read_body(request.body_mut()).await.expect("the body");
        http2::answer(respond, if body == b"the body" { 200 } else { 400 }, "");
    });
    let sidecar =
        mesh.caller("endpoints: [10.0.0.1:80, 10.0.0.2:80], load_balancer: round_robin, retry: off");
    assert_eq!(post(&sidecar.http2_client().await).await, 200);
    assert_eq!((refuses.connections(), takes.connections(), replaced(&sidecar)), (1, 1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_was_reset_for_another_reason_may_have_been_acted_on() {
    let mesh = Mesh::default();
    let _a = mesh.http2(A, 100, |_, _, mut respond| async move {
        respond.send_reset(Reason::INTERNAL_ERROR);
    });
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80]");
    assert_eq!(post(&sidecar.http2_client().await).await, 502);
    assert_eq!(replaced(&sidecar), 0);
    assert_eq!(sidecar.sum("pillion_requests_total reason=upstream_reset"), 1);
}

/// An empty SETTINGS frame.
const SETTINGS: &[u8] = b"\0\0\0\x04\0\0\0\0\0";
/// A GOAWAY without error: no stream was processed.
const GOAWAY: &[u8] = b"\0\0\x08\x07\0\0\0\0\0\0\0\0\0\0\0\0\0";

#[tokio::test(start_paused = true)]
async fn a_request_beyond_a_goaway_is_sent_again_for_any_method() {
    let mesh = Mesh::default();
    let a = mesh.scripted(A, |mut peer: Peer, nth| async move {
        if nth == 0 {
            peer.send(SETTINGS).await;
            pass(1).await; // the request is there by now
            peer.send(GOAWAY).await;
            return pass(1).await;
        }
        let mut conn = h2::server::handshake(peer.into_io()).await.expect("HTTP/2");
        while let Some(Ok((mut request, respond))) = conn.accept().await {
            tokio::spawn(async move {
                let body = http2::read_body(request.body_mut()).await.expect("the body");
                http2::answer(respond, if body == Bytes::from("the body") { 200 } else { 400 }, "");
            });
        }
    });
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80], retry: off");
    assert_eq!(post(&sidecar.http2_client().await).await, 200);
    assert_eq!((a.connections(), replaced(&sidecar)), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn a_plain_upstream_cannot_claim_to_have_refused() {
    const CLAIMS: &str =
        "HTTP/1.1 503 Service Unavailable\r\nx-pillion-refused: 1\r\ncontent-length: 0\r\n\r\n";
    let mesh = Mesh::default();
    let a = mesh.answering(A, CLAIMS);
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80]");
    let answer =
        sidecar.client().await.ask("POST / HTTP/1.1\r\nhost: orders\r\ncontent-length: 1\r\n\r\n.").await;
    assert_eq!((answer.status_and_reason(), answer.header("x-pillion-refused")), ((503, None), None));
    assert_eq!((a.hits(), replaced(&sidecar)), (1, 0));
}
