//! Bodies are passed on unchanged and at once, with bounded memory, and only while the other side wants them.

mod flow;
mod large;

use bytes::Bytes;
use http_body::Frame;
use http_body_util::BodyExt as _;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::support::backend::Backend;
use crate::support::http2::{self, Client, Piped, collect, grpc};
use crate::support::sidecar::Pair;
use crate::support::soon;
use crate::support::wire::Wire;

#[tokio::test]
async fn a_client_that_goes_away_cancels_the_upstream() {
    for orders in ["protocol: http1, timeout: off", "protocol: http2, timeout: off"] {
        let (cancelled, mut hears) = tokio::sync::mpsc::unbounded_channel();
        let app = Backend::serving(move |mut wire, _, _| {
            let cancelled = cancelled.clone();
            async move {
                while wire.message().await.is_some() {
                    cancelled.send(None).expect("a test that listens");
                }
                cancelled.send(Some(Instant::now())).expect("a test that listens");
            }
        })
        .await;
        let pair = Pair::start(app.address, orders, "").await;
        let mut client = Wire::connect(pair.caller.outbound()).await;
        client.send("GET / HTTP/1.1\r\nhost: orders\r\n\r\n").await;
        assert_eq!(soon("the request", hears.recv()).await, Some(None));
        let left = Instant::now();
        drop(client);
        let ended = soon("the end", hears.recv()).await.flatten().expect("an end");
        let took = ended - left;
        println!("{orders}: the upstream was cancelled {took:?} after its client had gone");
        for (sidecar, direction) in [(&pair.caller, "outbound"), (&pair.application, "inbound")] {
            sidecar
                .counted(1, &[("direction", direction), ("reason", "client_gone"), ("status", "499")])
                .await;
        }
    }
}

#[tokio::test]
async fn trailers_travel_both_ways_over_http2() {
    let (app, _task) = http2::application(async |request| {
        let (_, trailers) = collect(request.into_body()).await;
        let seen = trailers.get("x-sum").cloned().expect("the client's trailers");
        let mut own = http::HeaderMap::new();
        own.insert("x-seen", seen);
        own.insert("grpc-status", http::HeaderValue::from_static("0"));
        http::Response::new(Piped::of([Frame::data(Bytes::from_static(b"answer")), Frame::trailers(own)]))
    })
    .await;
    let pair = Pair::start(app, "", "protocol: http2").await;
    let mut sum = http::HeaderMap::new();
    sum.insert("x-sum", http::HeaderValue::from_static("42"));
    let body = Piped::of([Frame::data(Bytes::from_static(b"question")), Frame::trailers(sum)]);
    let answer = Client::connect(pair.caller.outbound()).await.send(grpc("orders", body)).await;
    let (body, trailers) = collect(answer.into_body()).await;
    assert_eq!(body, "answer");
    assert_eq!(trailers["x-seen"], "42");
    assert_eq!(trailers["grpc-status"], "0");
    pair.caller.counted(1, &[("direction", "outbound"), ("grpc_status", "0"), ("status", "200")]).await;
}

/// An HTTP/1 client gets trailers if it accepts them, and announces its own before its body.
#[tokio::test]
async fn a_chunked_answer_of_http1_keeps_its_announced_trailers() {
    let app = Backend::serving(async |mut wire, _, seen| {
        if let Some(request) = wire.message().await {
            seen.request(request);
            let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n";
            drop(wire.try_send(format!("{head}5\r\nhello\r\n0\r\nx-sum: 42\r\n\r\n")).await);
            wire.rest().await;
        }
    })
    .await;
    let pair = Pair::start(app.address, "", "").await;
    let mut client = Wire::connect(pair.caller.outbound()).await;
    client.send("GET / HTTP/1.1\r\nhost: orders\r\nte: trailers\r\nconnection: te, close\r\n\r\n").await;
    let heard = String::from_utf8_lossy(&soon("an answer", client.rest()).await).into_owned();
    assert_eq!(app.last().header("te"), Some("trailers"));
    assert!(heard.contains("hello") && heard.ends_with("0\r\nx-sum: 42\r\n\r\n"), "{heard}");
}

/// Pipelined requests of HTTP/1.1: each gets its own answer, in order.
#[tokio::test]
async fn two_requests_in_flight_on_one_http1_client_get_their_own_answers() {
    let app = Backend::echo().await;
    let pair = Pair::start(app.address, "", "").await;
    let mut client = Wire::connect(pair.caller.outbound()).await;
    let post = |body: &str| {
        format!("POST / HTTP/1.1\r\nhost: orders\r\ncontent-length: {}\r\n\r\n{body}", body.len())
    };
    for round in 0..50 {
        let bodies = [format!("first {round}"), format!("and the second, {round}")];
        client.send(bodies.iter().map(|body| post(body)).collect::<String>()).await;
        for body in bodies {
            assert_eq!(client.answer().await.text(), body);
        }
    }
}

/// One client with two connections: the later request is answered first, and the answers are not mixed up.
#[tokio::test]
async fn a_fast_answer_overtakes_a_slow_one() {
    let (release, released) = oneshot::channel::<()>();
    let released = std::sync::Arc::new(tokio::sync::Mutex::new(Some(released)));
    let app = Backend::serving(move |mut wire, _, seen| {
        let released = released.clone();
        async move {
            while let Some(request) = wire.message().await {
                let path = request.head.split(' ').nth(1).unwrap_or_default().to_owned();
                seen.request(request);
                if path == "/slow" {
                    let gate = released.lock().await.take().expect("one slow request");
                    drop(gate.await);
                }
                wire.send(format!("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n{path:5}")).await;
            }
        }
    })
    .await;
    let pair = Pair::start(app.address, "", "").await;
    let mut slow = Wire::connect(pair.caller.outbound()).await;
    slow.send("GET /slow HTTP/1.1\r\nhost: orders\r\n\r\n").await;
    app.has_requests(1).await;
    let fast = Wire::connect(pair.caller.outbound()).await.get("orders", "/fast").await;
    assert_eq!(fast.text(), "/fast");
    release.send(()).expect("a request that waits");
    assert_eq!(slow.answer().await.text(), "/slow");
}

/// A hundred streams on one connection, answered in any order.
#[tokio::test]
async fn every_stream_of_one_http2_client_gets_its_own_answer() {
    let (app, _task) = http2::application(async |request| {
        let (body, _) = collect(request.into_body()).await;
        http::Response::new(Piped::of([Frame::data(body)]))
    })
    .await;
    let pair = Pair::start(app, "", "protocol: http2").await;
    let client = Client::connect(pair.caller.outbound()).await;
    let calls = (0..100).map(|number| {
        let mut client = client.clone();
        tokio::spawn(async move {
            let body = Piped::of([Frame::data(Bytes::from(format!("call {number}")))]);
            let request = http::Request::post("http://orders/").body(body).expect("well-formed");
            let answer = client.send(request).await.into_body().collect().await.expect("a whole body");
            assert_eq!(answer.to_bytes(), format!("call {number}"));
        })
    });
    for call in calls.collect::<Vec<_>>() {
        soon("an answer", call).await.expect("its own answer");
    }
}
