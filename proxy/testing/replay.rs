//! Request bodies that are sent a second time, and bodies that are too large for that.

use super::backend::{OK, UNAVAILABLE};
use super::mesh::{A, B, Mesh, Sidecar, settle};
use super::peer::Peer;

fn caller(mesh: &Mesh) -> Sidecar {
    mesh.caller("endpoints: [10.0.0.1:80, 10.0.0.2:80], load_balancer: round_robin, retry: { max_body: 8B }")
}

fn put(body: &str) -> String {
    format!("PUT / HTTP/1.1\r\nhost: orders\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

fn put_chunked(chunks: &[&str]) -> String {
    let chunks: String = chunks.iter().map(|chunk| format!("{:x}\r\n{chunk}\r\n", chunk.len())).collect();
    format!("PUT / HTTP/1.1\r\nhost: orders\r\ntransfer-encoding: chunked\r\n\r\n{chunks}0\r\n\r\n")
}

#[tokio::test(start_paused = true)]
async fn a_body_up_to_the_bound_is_sent_whole_to_the_second_endpoint() {
    let mesh = Mesh::default();
    let (a, b) = (mesh.answering(A, UNAVAILABLE), mesh.answering(B, OK));
    let sidecar = caller(&mesh);
    assert_eq!(sidecar.client().await.ask(&put("12345678")).await.status_and_reason(), (200, None));
    assert_eq!((&*a.requests()[0].body, &*b.requests()[0].body), ("12345678", "12345678"));
    assert_eq!(b.requests()[0].header("content-length"), Some("8"));
}

#[tokio::test(start_paused = true)]
async fn a_body_of_unknown_length_is_sent_again_as_well() {
    let mesh = Mesh::default();
    let (_a, b) = (mesh.answering(A, UNAVAILABLE), mesh.answering(B, OK));
    let request = put_chunked(&["123", "45678"]);
    assert_eq!(caller(&mesh).client().await.ask(&request).await.status_and_reason(), (200, None));
    assert_eq!(b.requests()[0].body, "12345678");
}

#[tokio::test(start_paused = true)]
async fn a_larger_body_streams_on_and_is_not_sent_again() {
    for request in [put("123456789"), put_chunked(&["12345", "6789"])] {
        let mesh = Mesh::default();
        let (a, b) = (mesh.answering(A, UNAVAILABLE), mesh.answering(B, OK));
        let sidecar = caller(&mesh);
        assert_eq!(sidecar.client().await.ask(&request).await.status_and_reason(), (503, None));
        assert_eq!((&*a.requests()[0].body, b.hits()), ("123456789", 0));
        assert_eq!(sidecar.sum("pillion_retries_total outcome=not_replayable"), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn the_part_that_the_first_endpoint_did_not_wait_for_reaches_the_second() {
    let mesh = Mesh::default();
    // Answers at the head, long before the body is there.
    let _a = mesh.scripted(A, |mut peer: Peer, _| async move {
        peer.head().await;
        peer.send("HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\ncontent-length: 0\r\n\r\n").await;
    });
    let b = mesh.answering(B, OK);
    let sidecar = caller(&mesh);
    let mut client = sidecar.client().await;
    client.send("PUT / HTTP/1.1\r\nhost: orders\r\ncontent-length: 8\r\n\r\n1234").await;
    settle().await;
    client.send("5678").await;
    assert_eq!(client.answer().await.status_and_reason(), (200, None));
    assert_eq!(b.requests()[0].body, "12345678");
}
