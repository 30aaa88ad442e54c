//! Long-lived traffic: long polls, silent streams, idle connections, and opaque connections whose every byte counts.

use bytes::Bytes;
use proptest::prelude::*;

use super::backend::OK;
use super::http2::request;
use super::mesh::{A, Mesh, ORDERS, Pair, pass, secs, settle};
use super::peer::Peer;

#[tokio::test(start_paused = true)]
async fn a_long_poll_lives_under_a_longer_timeout() {
    let mesh = Mesh::default();
    let _a = mesh.scripted(A, |mut peer: Peer, _| async move {
        peer.message().await;
        pass(20).await;
        peer.send(OK).await;
        pass(1).await;
    });
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80], timeout: 30s");
    assert_eq!(sidecar.client().await.get("/").await.status_and_reason(), (200, None));
}

/// An HTTP/2 stream on which both sides may send: headers at once, then pauses as the test likes.
#[tokio::test(start_paused = true)]
async fn a_stream_is_idle_only_when_both_directions_are() {
    let mesh = Mesh::default();
    let _a = mesh.http2(A, 100, |_, request, mut respond| async move {
        let mut stream = respond.send_response(http::Response::new(()), false).expect("it is open");
        let mut body = request.into_body();
        while let Some(Ok(data)) = body.data().await {
            drop(body.flow_control().release_capacity(data.len()));
            if data.ends_with(b"?") {
                stream.send_data(Bytes::from_static(b"!"), false).expect("it is open");
            }
        }
        stream.send_data(Bytes::new(), true).expect("it is open");
    });
    let sidecar =
        mesh.caller("endpoints: [10.0.0.1:80], protocol: http2, timeout: 30s, stream_idle_timeout: 60s");
    let io = sidecar.client().await.into_io();
    let (send, conn) = h2::client::handshake(io).await.expect("the sidecar speaks HTTP/2");
    tokio::spawn(conn);
    let mut send = send.ready().await.expect("a free stream");
    let (answer, mut stream) = send.send_request(request("POST", "/talk"), false).expect("it can be sent");
    let mut answer = answer.await.expect("an answer").into_body();
    pass(20).await; // silent both ways, under `timeout: 30s`
    for nth in 0..10 {
        pass(30).await;
        stream
            .send_data(Bytes::from_static(if nth == 9 { b"?" } else { b"." }), nth == 9)
            .expect("it is open");
    }
    let uploaded = answer.data().await.expect("more").expect("the client's own bytes kept the stream alive");
    assert_eq!(uploaded, "!");
    assert!(answer.data().await.is_none_or(|last| last.is_ok()));
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_silent_both_ways_ends() {
    let mesh = Mesh::default();
    let _a = mesh.http2(A, 100, |_, request, mut respond| async move {
        let _stream = respond.send_response(http::Response::new(()), false).expect("it is open");
        let mut body = request.into_body();
        while let Some(Ok(_)) = body.data().await {}
    });
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80], protocol: http2, stream_idle_timeout: 60s");
    let io = sidecar.client().await.into_io();
    let (send, conn) = h2::client::handshake(io).await.expect("the sidecar speaks HTTP/2");
    tokio::spawn(conn);
    let mut send = send.ready().await.expect("a free stream");
    let (answer, _stream) = send.send_request(request("POST", "/talk"), false).expect("it can be sent");
    let mut answer = answer.await.expect("an answer").into_body();
    let ended = tokio::time::timeout(secs(130), answer.data()).await.expect("within two minutes");
    assert!(ended.is_some_and(|ended| ended.is_err()), "cut, not ended");
    settle().await;
    assert_eq!(sidecar.sum("pillion_requests_total reason=stream_idle_timeout"), 1);
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_serves_its_next_request_in_whatever_pieces_it_comes() {
    let mesh = Mesh::default();
    let a = mesh.answering(A, OK);
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80]");
    let mut client = sidecar.client().await;
    for round in 0..5 {
        assert_eq!(client.get("/whole").await.status_and_reason(), (200, None), "{round}");
        pass(30).await;
        client
            .trickle(
                &["POST / HTTP/1.1\r\nho", "st: orders\r\ncontent-le", "ngth: 4\r\n\r\nbo", "dy"],
                secs(2),
            )
            .await;
        assert_eq!(client.answer().await.status_and_reason(), (200, None), "{round}");
        pass(30).await;
        client.send("GET /1 HTTP/1.1\r\nhost: orders\r\n\r\nGET /2 HTTP/1.1\r\nhost: orders\r\n\r\n").await;
        assert_eq!(client.answer().await.status_and_reason(), (200, None), "{round}: pipelined");
        assert_eq!(client.answer().await.status_and_reason(), (200, None), "{round}: pipelined");
    }
    assert_eq!(a.requests().iter().filter(|request| request.body == "body").count(), 5);
    assert_eq!(
        sidecar.sum("pillion_connections_total direction=outbound service="),
        1,
        "it was one connection"
    );
    assert_eq!(
        sidecar.sum("pillion_connections_active direction=outbound protocol=http1"),
        2,
        "and its upstream's"
    );
}

fn pieces() -> impl Strategy<Value = Vec<Vec<u8>>> {
    proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..2_000), 0..20)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    /// Through both sidecars and mTLS, from both sides at once.
    #[test]
    fn bytes_in_are_bytes_out(up in pieces(), down in pieces(), declared in any::<bool>()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
        runtime.expect("a runtime").block_on(through_the_pair(up, down, declared));
    }
}

async fn through_the_pair(up: Vec<Vec<u8>>, down: Vec<Vec<u8>>, declared: bool) {
    let pair = Pair::new();
    let (uploaded, downloaded) = (up.concat(), down.concat());
    let (replies, (say, hears)) = (down.clone(), tokio::sync::oneshot::channel());
    let say = std::sync::Mutex::new(Some(say));
    let _app = pair.mesh.scripted(A, move |mut peer: Peer, _| {
        let (down, say) = (replies.clone(), say.lock().expect("not poisoned").take());
        async move {
            for piece in down {
                peer.send(piece).await;
                tokio::task::yield_now().await;
            }
            peer.half_close().await;
            let all = peer.rest().await;
            drop(say.map(|say| say.send(all)));
        }
    });
    let _inbound = pair.application("10.1.0.1:15006", A);
    let protocol = if declared { "tcp" } else { "auto" };
    let outbound = pair
        .caller(&format!("endpoints: [10.1.0.1:15006], listen: 127.0.0.1:0, protocol: {protocol}, {ORDERS}"));
    let mut client = outbound.direct_client().await;
    client.send(b"\0").await; // no HTTP, whatever follows
    for piece in up {
        client.send(piece).await;
        tokio::task::yield_now().await;
    }
    client.half_close().await;
    assert!(client.rest().await == downloaded, "what the application said");
    let expected = [b"\0", &uploaded[..]].concat();
    assert!(hears.await.expect("the application uploaded the end") == expected, "what the client said");
    settle().await;
    assert_eq!(outbound.sum("pillion_bytes_total flow=received"), expected.len() as u64);
    assert_eq!(outbound.sum("pillion_bytes_total flow=sent"), downloaded.len() as u64);
}
