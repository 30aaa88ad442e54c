//! A client that goes away: its request to the upstream ends with it.

use super::backend::Backend;
use super::http2;
use super::mesh::{A, Mesh, Sidecar, pass, settle};
use super::peer::Peer;

const GET: &str = "GET / HTTP/1.1\r\nhost: orders\r\n\r\n";

fn gone(sidecar: &Sidecar, status: u16) -> u64 {
    sidecar.sum(&format!("pillion_requests_total status={status} reason=client_gone"))
}

#[tokio::test(start_paused = true)]
async fn before_the_answer_the_request_is_dropped_and_recorded_as_499() {
    let mesh = Mesh::default();
    let a = mesh.silent(A);
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80]");
    let mut client = sidecar.client().await;
    client.send(GET).await;
    settle().await;
    assert_eq!(a.open(), 1);
    drop(client);
    settle().await;
    assert_eq!((a.open(), gone(&sidecar, 499)), (0, 1));
    assert_eq!(sidecar.sum("pillion_requests_active"), 0);
}

#[tokio::test(start_paused = true)]
async fn a_half_closed_http1_client_counts_as_gone() {
    let mesh = Mesh::default();
    let a = mesh.silent(A);
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80]");
    let mut client = sidecar.client().await;
    client.send(GET).await;
    settle().await;
    client.half_close().await;
    settle().await;
    assert_eq!((a.open(), gone(&sidecar, 499)), (0, 1));
}

/// Sends one piece each second, for as long as the client reads.
fn endless(mesh: &Mesh) -> Backend {
    mesh.scripted(A, |mut peer: Peer, _| async move {
        peer.message().await;
        peer.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await;
        while peer.try_send("1\r\n.\r\n").await.is_ok() {
            pass(1).await;
        }
    })
}

#[tokio::test(start_paused = true)]
async fn when_a_client_leaves_amid_an_answer_the_status_stays_and_the_reason_names_it() {
    let mesh = Mesh::default();
    let a = endless(&mesh);
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80], circuit_breaker: { max_requests: 1 }");
    let mut client = sidecar.client().await;
    client.send(GET).await;
    client.head().await.expect("headers");
    drop(client);
    pass(3).await;
    assert_eq!((a.open(), gone(&sidecar, 200)), (0, 1));
    assert_eq!(sidecar.sum("pillion_circuit_breaker_used limit=requests"), 0);
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_stream_cancels_its_upstream_stream_and_no_other() {
    let mesh = Mesh::default();
    let (sender, mut resets) = tokio::sync::mpsc::unbounded_channel();
    let a = mesh.http2(A, 100, move |_, request, mut respond| {
        let sender = sender.clone();
        async move {
            if request.uri().path() == "/slow" {
                pass(5).await;
                return http2::answer(respond, 200, "late");
            }
            let reset = std::future::poll_fn(|cx| respond.poll_reset(cx)).await;
            sender.send(reset.expect("a reset")).expect("the test listens");
        }
    });
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80]");
    let client = sidecar.http2_client().await;
    let slow = tokio::spawn({
        let client = client.clone();
        async move { client.get("/slow").await }
    });
    let cancelled = tokio::spawn({
        let client = client.clone();
        async move { client.get("/cancelled").await }
    });
    settle().await;
    cancelled.abort();
    assert_eq!(resets.recv().await, Some(h2::Reason::CANCEL));
    settle().await;
    assert_eq!(gone(&sidecar, 499), 1);
    assert_eq!(slow.await.expect("asked").body, b"late");
    assert_eq!(a.connections(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_breaks_off_its_upload_does_not_count_against_the_endpoint() {
    let mesh = Mesh::default();
    let a = mesh.silent(A);
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80]");
    let mut client = sidecar.client().await;
    client.send("PUT / HTTP/1.1\r\nhost: orders\r\ncontent-length: 100\r\n\r\nhalf").await;
    settle().await;
    drop(client);
    settle().await;
    assert_eq!((a.open(), gone(&sidecar, 499)), (0, 1));
    assert_eq!(sidecar.sum("pillion_retries_total"), 0);
}
