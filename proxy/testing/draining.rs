//! The end of a sidecar: what is in flight finishes, nothing new begins.

use super::backend::OK;
use super::http2;
use super::mesh::{A, Mesh, pass, settle};
use super::peer::Peer;

const GET: &str = "GET / HTTP/1.1\r\nhost: orders\r\n\r\n";

#[tokio::test(start_paused = true)]
async fn idle_connections_are_closed_at_once_and_a_request_in_flight_is_finished() {
    let mesh = Mesh::default();
    let _a = mesh.scripted(A, |mut peer: Peer, _| async move {
        while peer.message().await.is_some() {
            pass(5).await;
            peer.send(OK).await;
        }
    });
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80]");
    let (mut idle, mut busy) = (sidecar.client().await, sidecar.client().await);
    idle.get("/").await;
    busy.send(GET).await;
    settle().await;
    sidecar.drain.start();
    assert_eq!(idle.rest().await, b"");
    let answer = busy.answer().await;
    assert_eq!((answer.told(), answer.header("connection")), ((200, None), Some("close")));
    assert_eq!(busy.rest().await, b"");
    sidecar.drain.finished().await;
}

#[tokio::test(start_paused = true)]
async fn an_http2_client_is_told_goodbye_and_its_streams_finish() {
    let mesh = Mesh::default();
    let _a = mesh.http2(A, 100, |_, _, respond| async move {
        pass(5).await;
        http2::answer(respond, 200, "ok");
    });
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80]");
    let client = sidecar.http2_client().await;
    let asked = tokio::spawn({
        let client = client.clone();
        async move { client.get("/").await.body }
    });
    settle().await;
    sidecar.drain.start();
    settle().await;
    assert!(client.ask(http2::request("GET", "/late"), "").await.is_err(), "no new stream is taken");
    assert_eq!(asked.await.expect("asked"), b"ok");
    sidecar.drain.finished().await;
}
