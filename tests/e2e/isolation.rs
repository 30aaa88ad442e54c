//! Invalid bytes of a peer end that peer's connection alone; all other connections go on.

use crate::support::backend::Backend;
use crate::support::http2::{self, Client, Piped};
use crate::support::sidecar::{Pair, Plan};
use crate::support::wire::Wire;

/// Invalid bytes, as hostile and broken clients send them.
fn garbage() -> Vec<Vec<u8>> {
    let mut rng = fastrand::Rng::with_seed(7);
    let random = (0..8).map(|_| (0..2000).map(|_| rng.u8(..)).collect());
    let after_preface = |frames: &[u8]| [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", frames].concat();
    let written = [
        b"\x16\x03\x01\x02\x00\x01\x00".to_vec(), // a ClientHello that is cut
        b"\x16\x03\x01\xff\xff".to_vec(),         // a record longer than TLS allows
        b"GET / HTTP/1.1\r\n: nameless\r\n\r\n".to_vec(),
        b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nffffffffffffffffff\r\n".to_vec(),
        after_preface(&[0xff; 64]), // a frame of 16 MiB
        after_preface(b"\x00\x00\x04\x08\x00\x00\x00\x00\x00\0\0\0\0"), // WINDOW_UPDATE by zero
        after_preface(b"\x00\x00\x05\x01\x05\x00\x00\x00\x01\xff\xff\xff\xff\xff"), // an invalid HPACK index
        after_preface(b"\x00\x00\x00\x03\x00\x00\x00\x00\x01"), // RST_STREAM of the wrong length
    ];
    written.into_iter().chain(random).collect()
}

#[tokio::test]
async fn garbage_from_clients_affects_no_other_client() {
    let app = Backend::echo().await;
    let pair = Pair::start(app.address, "", "").await;
    let mut steady = Wire::connect(pair.caller.outbound()).await;
    assert_eq!(steady.get("orders", "/").await.status(), 200);
    for bytes in garbage() {
        for port in [pair.caller.outbound(), pair.application.inbound()] {
            let mut rude = Wire::connect(port).await;
            drop(rude.try_send(&bytes).await);
            drop(rude.half_close_if_open().await);
            assert_eq!(
                steady.get("orders", "/").await.status(),
                200,
                "after {:?}",
                &bytes[..bytes.len().min(40)]
            );
        }
    }
    assert_eq!(pair.caller.page("/ready").await.0, 200);
    assert_eq!(pair.application.page("/ready").await.0, 200);
}

/// One of two endpoints answers with invalid bytes: only requests to that endpoint fail.
#[tokio::test]
async fn garbage_from_an_upstream_affects_its_own_requests_only() {
    let bad = Backend::serving(async |mut wire, _, _| {
        wire.piece(4096).await;
        drop(wire.try_send([0xff; 512]).await);
    })
    .await;
    let good = Backend::echo().await;
    let endpoints = format!("endpoints: [\"{}\", \"{}\"], retry: off", bad.address, good.address);
    let caller = Plan::caller(&endpoints).start().await;
    let mut client = Wire::connect(caller.outbound()).await;
    let mut answered = 0;
    for _ in 0..20 {
        match client.get("orders", "/").await.status() {
            200 => answered += 1,
            status => assert_eq!(status, 502),
        }
    }
    assert!(answered >= 10, "{answered} of 20");
    assert!(bad.connections() > 0 && caller.page("/ready").await.0 == 200);
}

/// When a client resets a stream, the other streams of the connection go on.
#[tokio::test]
async fn the_reset_of_a_stream_leaves_the_other_streams_alone() {
    let (app, _task) = http2::application(async |request| {
        let stall = request.uri().path() == "/stall";
        let (sender, body) = Piped::new();
        if stall {
            tokio::spawn(async move { sender.closed().await });
            return http::Response::new(body);
        }
        http::Response::new(Piped::empty())
    })
    .await;
    let pair = Pair::start(app, "", "protocol: http2").await;
    let mut client = Client::connect(pair.caller.outbound()).await;
    let get = |path: &str| {
        http::Request::get(format!("http://orders{path}")).body(Piped::empty()).expect("well-formed")
    };
    for _ in 0..20 {
        let stalled = client.send(get("/stall")).await;
        drop(stalled); // RST_STREAM
        assert_eq!(client.send(get("/")).await.status(), 200);
    }
}
