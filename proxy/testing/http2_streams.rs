//! HTTP/2 streams as gRPC and others use them: many small messages, interim answers, and limits that were not
//! announced.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use bytes::Bytes;
use h2::client::{self, SendRequest};
use h2::{Reason, RecvStream};
use http::{Request, Response};

use super::http2::{self, read_body, request};
use super::mesh::{A, Mesh, ORDERS, Pair, Sidecar, pass, settle};
use super::peer::Peer;

const HTTP2: &str = "endpoints: [10.0.0.1:80]";

/// Answers with `count` messages of `size` bytes, each in a frame of its own, as fast as they are taken.
fn chatty(mesh: &Mesh, count: usize, size: usize) {
    drop(mesh.http2(A, 1000, move |_, _, mut respond| async move {
        let mut stream = respond.send_response(Response::new(()), false).expect("the stream is open");
        for nth in 1..=count {
            stream.reserve_capacity(size);
            while stream.capacity() < size {
                if poll_fn(|cx| stream.poll_capacity(cx)).await.is_none_or(|capacity| capacity.is_err()) {
                    return;
                }
            }
            if stream.send_data(Bytes::from(vec![b'm'; size]), nth == count).is_err() {
                return;
            }
        }
    }));
}

async fn client(sidecar: &Sidecar) -> SendRequest<Bytes> {
    let io = sidecar.client().await.into_io();
    let mut builder = client::Builder::new();
    // As grpc-go does, it grants much, and lets its own application read when that likes to.
    builder.initial_window_size(1 << 20).initial_connection_window_size(1 << 24).data_frame_budget(1 << 30);
    let (send, conn) = builder.handshake(io).await.expect("the sidecar speaks HTTP/2");
    tokio::spawn(conn);
    settle().await;
    send
}

async fn body_of(send: &mut SendRequest<Bytes>, pause: u64) -> Result<Vec<u8>, h2::Error> {
    let (answer, _) = send.send_request(request("GET", "/"), true)?;
    let mut body = answer.await?.into_body();
    pass(pause).await;
    read_body(&mut body).await
}

#[tokio::test(start_paused = true)]
async fn b1_many_small_messages_come_down_whole() {
    let mesh = Mesh::default();
    chatty(&mesh, 20_000, 15);
    let sidecar = mesh.caller(HTTP2);
    let body = body_of(&mut client(&sidecar).await, 0).await.expect("the whole stream");
    assert_eq!(body.len(), 20_000 * 15);
}

async fn paused_streams_are_whole(sidecar: &Sidecar) {
    let send = client(sidecar).await;
    let streams: Vec<_> = (0..40)
        .map(|_| {
            let mut send = send.clone();
            tokio::spawn(async move { body_of(&mut send, 1).await })
        })
        .collect();
    for stream in streams {
        assert_eq!(stream.await.expect("no panic").expect("the whole stream").len(), 5_000 * 60);
    }
}

#[tokio::test(start_paused = true)]
async fn b1_a_caller_that_pauses_loses_no_stream() {
    let mesh = Mesh::default();
    chatty(&mesh, 5_000, 60);
    let sidecar = mesh.caller(HTTP2);
    paused_streams_are_whole(&sidecar).await;
}

#[tokio::test(start_paused = true)]
async fn b1_a_caller_over_http1_that_pauses_loses_no_stream() {
    let mesh = Mesh::default();
    chatty(&mesh, 20_000, 60);
    let sidecar = mesh.caller(&format!("{HTTP2}, protocol: http2"));
    let mut callers = Vec::new();
    for _ in 0..10 {
        let mut caller = sidecar.client().await;
        caller.send("GET / HTTP/1.1\r\nhost: orders\r\n\r\n").await;
        callers.push(caller);
    }
    pass(1).await;
    for mut caller in callers {
        let answer = caller.answer().await;
        assert_eq!((answer.status_and_reason(), answer.body.len()), ((200, None), 20_000 * 60));
    }
}

#[tokio::test(start_paused = true)]
async fn b1_many_small_messages_go_up_whole() {
    let mesh = Mesh::default();
    drop(mesh.http2(A, 1000, |_, request: Request<RecvStream>, respond| async move {
        pass(1).await; // it takes its time, and so everything waits on the way
        let body = read_body(&mut request.into_body()).await.expect("the whole stream");
        let length = Box::leak(body.len().to_string().into_boxed_str());
        http2::answer(respond, 200, length);
    }));
    let sidecar = mesh.caller(HTTP2);
    let send = client(&sidecar).await;
    let uploads: Vec<_> = (3..=60)
        .map(|size| {
            let mut send = send.clone();
            tokio::spawn(async move {
                let (answer, mut stream) = send.send_request(request("POST", "/"), false).expect("a stream");
                for nth in 1..=5_000 {
                    stream.reserve_capacity(size);
                    while stream.capacity() < size {
                        poll_fn(|cx| stream.poll_capacity(cx)).await.expect("open").expect("open");
                    }
                    stream.send_data(Bytes::from(vec![b'm'; size]), nth == 5_000).expect("open");
                }
                let mut body = answer.await.expect("an answer").into_body();
                let text = read_body(&mut body).await.expect("an answer");
                (size, String::from_utf8(text).expect("text"))
            })
        })
        .collect();
    for upload in uploads {
        let (size, length) = upload.await.expect("no panic");
        assert_eq!(length, (5_000 * size).to_string());
    }
}

#[tokio::test(start_paused = true)]
async fn b1_small_messages_pass_through_a_pair() {
    let pair = Pair::new();
    chatty(&pair.mesh, 5_000, 60);
    let _inbound = pair.mesh.sidecar(
        &(super::mesh::application_at("10.1.0.1:15006", &format!("app: {A}, protocol: http2"))
            + super::mesh::IDENTITY),
        Some(super::mesh::identity(&pair.ca, "orders")),
    );
    let outbound = pair.caller(&format!("endpoints: [10.1.0.1:15006], {ORDERS}"));
    paused_streams_are_whole(&outbound).await;
}

/// Sends its body only when it was asked for it.
async fn polite(sidecar: &Sidecar) -> (u16, String) {
    let mut send = client(sidecar).await;
    let mut asks = request("POST", "/");
    asks.headers_mut().insert("expect", "100-continue".parse().expect("a value"));
    asks.headers_mut().insert("content-length", "4".parse().expect("a value"));
    let (mut answer, mut stream) = send.send_request(asks, false).expect("a stream");
    if let Some(interim) = poll_fn(|cx| answer.poll_informational(cx)).await {
        assert_eq!(interim.expect("an interim answer").status(), 100);
        stream.send_data(Bytes::from_static(b"body"), true).expect("open");
    }
    let (head, mut body) = answer.await.expect("an answer").into_parts();
    let body = read_body(&mut body).await.expect("an answer");
    (head.status.as_u16(), String::from_utf8(body).expect("text"))
}

#[tokio::test(start_paused = true)]
async fn b18_an_expectation_is_met_when_the_upstream_asks_for_the_body() {
    let mesh = Mesh::default();
    let _a = mesh.scripted(A, |mut peer: Peer, _| async move {
        let head = peer.head().await.expect("a request");
        assert!(head.contains("expect: 100-continue"), "{head}");
        peer.send("HTTP/1.1 100 Continue\r\n\r\n").await;
        let (body, _) = peer.exactly(4).await;
        assert_eq!(body, b"body");
        peer.send("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ndone").await;
        pass(1).await;
    });
    let sidecar = mesh.caller(&format!("{HTTP2}, protocol: http1"));
    assert_eq!(polite(&sidecar).await, (200, "done".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn b18_a_body_that_the_upstream_refuses_is_not_sent() {
    let mesh = Mesh::default();
    let _a = mesh.scripted(A, |mut peer: Peer, _| async move {
        peer.head().await.expect("a request");
        peer.send("HTTP/1.1 417 Expectation Failed\r\ncontent-length: 2\r\n\r\nno").await;
        assert_eq!(peer.rest().await, b"", "not a byte of the body");
    });
    let sidecar = mesh.caller(&format!("{HTTP2}, protocol: http1"));
    assert_eq!(polite(&sidecar).await, (417, "no".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn b18_an_expectation_passes_over_http2_and_through_a_pair() {
    let pair = Pair::new();
    drop(pair.mesh.http2(A, 10, |_, request: Request<RecvStream>, mut respond| async move {
        assert_eq!(request.headers()["expect"], "100-continue");
        let asks = Response::builder().status(100).body(()).expect("a head");
        respond.send_informational(asks).expect("open");
        let body = read_body(&mut request.into_body()).await.expect("the body");
        assert_eq!(body, b"body");
        http2::answer(respond, 200, "done");
    }));
    let sidecar = pair.mesh.caller(HTTP2);
    assert_eq!(polite(&sidecar).await, (200, "done".to_owned()));
    let _inbound = pair.mesh.sidecar(
        &(super::mesh::application_at("10.1.0.1:15006", &format!("app: {A}, protocol: http2"))
            + super::mesh::IDENTITY),
        Some(super::mesh::identity(&pair.ca, "orders")),
    );
    let outbound = pair.caller(&format!("endpoints: [10.1.0.1:15006], {ORDERS}"));
    assert_eq!(polite(&outbound).await, (200, "done".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn b18_an_upstream_that_does_not_know_the_expectation_gets_the_body_all_the_same() {
    let mesh = Mesh::default();
    drop(mesh.http2(A, 10, |_, request: Request<RecvStream>, respond| async move {
        assert_eq!(read_body(&mut request.into_body()).await.expect("the body"), b"body");
        http2::answer(respond, 200, "done");
    }));
    assert_eq!(polite(&mesh.caller(HTTP2)).await, (200, "done".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn b6_interim_answers_pass_over_http2() {
    let mesh = Mesh::default();
    drop(mesh.http2(A, 10, |_, _, mut respond| async move {
        for status in [100, 102, 103] {
            let hint = Response::builder().status(status).header("link", "</style.css>").body(());
            respond.send_informational(hint.expect("a head")).expect("open");
        }
        pass(1).await;
        http2::answer(respond, 200, "done");
    }));
    let sidecar = mesh.caller(HTTP2);
    let mut send = client(&sidecar).await;
    let (mut answer, _) = send.send_request(request("GET", "/"), true).expect("a stream");
    let mut heard = Vec::new();
    while let Some(interim) = poll_fn(|cx| answer.poll_informational(cx)).await {
        let interim = interim.expect("an interim answer");
        heard.push((interim.status().as_u16(), interim.headers()["link"].clone()));
    }
    let link = http::HeaderValue::from_static("</style.css>");
    assert_eq!(heard, [(100, link.clone()), (102, link.clone()), (103, link)]);
    assert_eq!(answer.await.expect("an answer").status(), 200);
}

async fn is_a_protocol_error(mesh: &Mesh) {
    let sidecar = mesh.caller(&format!("{HTTP2}, retry: off"));
    let mut send = client(&sidecar).await;
    let (answer, _) = send.send_request(request("GET", "/"), true).expect("a stream");
    assert_eq!(answer.await.expect("an answer").status(), 502);
    assert_eq!(sidecar.sum("pillion_requests_total reason=protocol_error"), 1);
}

#[tokio::test(start_paused = true)]
async fn b6_a_101_over_http2_is_a_protocol_error() {
    let mesh = Mesh::default();
    drop(mesh.http2(A, 10, |_, _, mut respond| async move {
        let switched = Response::builder().status(101).body(()).expect("a head");
        respond.send_informational(switched).expect("open");
        pass(1).await;
        http2::answer(respond, 200, "done");
    }));
    is_a_protocol_error(&mesh).await;
}

#[tokio::test(start_paused = true)]
async fn b6_a_flood_of_interim_answers_is_a_protocol_error() {
    let mesh = Mesh::default();
    drop(mesh.http2(A, 10, |_, _, mut respond| async move {
        for _ in 0..1000 {
            let more = Response::builder().status(102).body(()).expect("a head");
            if respond.send_informational(more).is_err() {
                return;
            }
        }
        http2::answer(respond, 200, "done");
    }));
    is_a_protocol_error(&mesh).await;
}

#[tokio::test(start_paused = true)]
async fn b10_requests_that_wait_behind_a_goaway_are_sent_elsewhere() {
    let mesh = Mesh::default();
    let served = Arc::new(AtomicUsize::new(0));
    let counted = served.clone();
    // One stream at a time; after six answers it sends GOAWAY.
    let _a = mesh.scripted(A, move |peer, _| {
        let served = counted.clone();
        async move {
            let mut server = h2::server::Builder::new();
            server.max_concurrent_streams(1);
            let Ok(mut conn) = server.handshake::<_, Bytes>(peer.into_io()).await else { return };
            for nth in 1.. {
                let Some(Ok((request, respond))) = conn.accept().await else { return };
                served.fetch_add(1, Relaxed);
                if nth == 6 {
                    conn.graceful_shutdown();
                }
                tokio::spawn(async move {
                    read_body(&mut request.into_body()).await.expect("a body");
                    settle().await;
                    http2::answer(respond, 200, "ok");
                });
            }
        }
    });
    let sidecar = mesh.caller(&format!("{HTTP2}, circuit_breaker: {{ max_connections: 1 }}"));
    let client = sidecar.http2_client().await;
    let asked: Vec<_> = (0..180)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.ask(request("POST", "/"), "body").await })
        })
        .collect();
    for answer in asked {
        assert_eq!(answer.await.expect("no panic").expect("an answer").head.status(), 200);
    }
    assert_eq!(served.load(Relaxed), 180);
}

#[tokio::test(start_paused = true)]
async fn b14_a_stream_limit_that_the_upstream_never_announced_is_learnt() {
    let mesh = Mesh::default();
    let (open, refused) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let counted = (open.clone(), refused.clone());
    drop(mesh.http2(A, 1000, move |_, request: Request<RecvStream>, mut respond| {
        let (open, refused) = counted.clone();
        async move {
            if open.fetch_add(1, Relaxed) >= 10 {
                open.fetch_sub(1, Relaxed);
                refused.fetch_add(1, Relaxed);
                return respond.send_reset(Reason::REFUSED_STREAM);
            }
            read_body(&mut request.into_body()).await.expect("a body");
            pass(1).await;
            open.fetch_sub(1, Relaxed);
            http2::answer(respond, 200, "ok");
        }
    }));
    let orders = format!("{HTTP2}, timeout: off, circuit_breaker: {{ max_connections: 1 }}");
    let sidecar = mesh.caller(&orders);
    let client = sidecar.http2_client().await;
    let asked: Vec<_> = (0..100)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.ask(request("POST", "/"), "body").await })
        })
        .collect();
    for answer in asked {
        assert_eq!(answer.await.expect("no panic").expect("an answer").head.status(), 200);
    }
    assert!(refused.load(Relaxed) <= 90, "each at most once: {}", refused.load(Relaxed));
}

#[tokio::test(start_paused = true)]
async fn b8_a_head_over_the_limit_is_refused_like_any_request() {
    let mesh = Mesh::default();
    let _a = mesh.answering(A, super::backend::OK);
    let sidecar = mesh.caller(&format!("{HTTP2}, protocol: http1"));
    let client = sidecar.http2_client().await;
    let mut large = request("GET", "/");
    large.headers_mut().insert("x-large", "x".repeat(70_000).parse().expect("a value"));
    large.headers_mut().insert("x-request-id", "mine".parse().expect("a value"));
    let answer = client.ask(large, "").await.expect("an answer");
    assert_eq!((answer.head.status().as_u16(), answer.header("x-request-id")), (431, Some("mine")));
    assert!(answer.header("proxy-status").is_some_and(|status| status.contains("headers_too_large")));
    assert_eq!(sidecar.sum("pillion_requests_total method=GET reason=headers_too_large status=431"), 1);
    assert_eq!(client.get("/").await.head.status(), 200, "the connection goes on");
}

/// With its head, in a frame of its own, or later: 204 and 304 have no content. An empty frame is none.
#[tokio::test(start_paused = true)]
async fn b5_content_of_a_status_without_any_is_a_protocol_error() {
    let mesh = Mesh::default();
    let _a = mesh.http2(A, 1000, |_, request: Request<RecvStream>, mut respond| async move {
        let status = if request.uri().path().starts_with("/304") { 304 } else { 204 };
        let head = Response::builder().status(status).body(()).expect("a head");
        let mut stream = respond.send_response(head, false).expect("the stream is open");
        if request.uri().path().ends_with("/late") {
            pass(1).await;
        }
        let content = if request.uri().path().ends_with("/empty") { "" } else { "content" };
        drop(stream.send_data(Bytes::from(content), true));
        pass(1).await;
    });
    let sidecar = mesh.caller(&format!("{HTTP2}, protocol: http2, retry: off"));
    for (method, path, status) in [
        ("GET", "/204/at-once", 502),
        ("GET", "/204/late", 502),
        ("GET", "/304/late", 502),
        ("GET", "/204/empty", 204),
        ("GET", "/304/empty", 304),
        ("POST", "/204/late", 502),
        ("POST", "/204/empty", 204),
    ] {
        let mut client = sidecar.client().await;
        let head = format!("{method} {path} HTTP/1.1\r\nhost: orders\r\ncontent-length: 0\r\n\r\n");
        let answer = client.ask(&head).await;
        assert_eq!(answer.status(), Some(status), "{path}");
    }
    assert_eq!(sidecar.sum("pillion_requests_total reason=protocol_error"), 4);
}
