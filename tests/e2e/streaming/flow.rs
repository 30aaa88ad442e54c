//! Each part of a message is passed on at once, and neither sidecar holds more than a little of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use http_body::Frame;
use http_body_util::BodyExt as _;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::support::backend::Backend;
use crate::support::http2::{self, Client, Piped};
use crate::support::sidecar::{Pair, Sidecar, own_kib};
use crate::support::wire::Wire;
use crate::support::{PATIENCE, soon};

/// Each piece must arrive before the server makes the next one: a sidecar that waited for more would stop the test.
#[tokio::test]
async fn a_response_reaches_the_client_before_the_upstream_has_finished_it() {
    for orders in ["protocol: http1", "protocol: http2"] {
        let (go_on, may) = mpsc::channel::<()>(1);
        let may = Arc::new(tokio::sync::Mutex::new(may));
        let app = Backend::serving(move |mut wire, _, _| {
            let may = may.clone();
            async move {
                wire.message().await;
                wire.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await;
                while may.lock().await.recv().await.is_some() {
                    wire.send("5\r\npiece\r\n").await;
                }
                wire.send("0\r\n\r\n").await;
            }
        })
        .await;
        let pair = Pair::start(app.address, orders, "").await;
        let mut client = Wire::connect(pair.caller.outbound()).await;
        client.send("GET / HTTP/1.1\r\nhost: orders\r\n\r\n").await;
        soon("the head before any body", client.head()).await.expect("a head");
        for _ in 0..3 {
            go_on.send(()).await.expect("an upstream that waits");
            assert_eq!(soon("a piece", client.exactly(10)).await, (b"5\r\npiece\r\n".to_vec(), true));
        }
        drop(go_on);
        assert_eq!(soon("the end", client.exactly(5)).await.0, b"0\r\n\r\n");
    }
}

/// The application reads a request while its client is still writing it.
#[tokio::test]
async fn a_request_reaches_the_application_before_the_client_has_finished_it() {
    let (app, _task) = http2::application(async |request| {
        let (sender, answer) = Piped::new();
        tokio::spawn(async move {
            let mut body = request.into_body();
            while let Some(Ok(frame)) = body.frame().await {
                if sender.send(frame).await.is_err() {
                    break;
                }
            }
        });
        http::Response::new(answer)
    })
    .await;
    let pair = Pair::start(app, "", "protocol: http2").await;
    let (sender, body) = Piped::new();
    let request = http::Request::post("http://orders/").body(body).expect("well-formed");
    let mut answer = Client::connect(pair.caller.outbound()).await.send(request).await.into_body();
    for piece in ["one", "two", "three"] {
        sender.send(Frame::data(Bytes::from(piece))).await.expect("a request that flows");
        let echoed = soon("an echo", answer.frame()).await.expect("more").expect("a whole body");
        assert_eq!(echoed.into_data().expect("data"), piece);
    }
    drop(sender);
    let rest = soon("the end", answer.collect()).await.expect("a whole body");
    assert!(rest.to_bytes().is_empty());
}

/// Enough streams to tell the memory of one from the variation of the process.
const STREAMS: u64 = 32;
/// 1 MiB: what one stream's body may hold in the user space of one sidecar.
const HELD_KIB: u64 = 1024;

#[tokio::test]
async fn clients_that_stop_reading_hold_little_over_http1() {
    for orders in ["protocol: http1", "protocol: http2"] {
        let (app, written) = endless().await;
        let pair = Pair::start(app.address, orders, "").await;
        let before = warm(&pair).await;
        let mut clients = Vec::new();
        for _ in 0..STREAMS {
            let mut client = Wire::connect(pair.caller.outbound()).await;
            client.send("GET /endless HTTP/1.1\r\nhost: orders\r\n\r\n").await;
            soon("a head", client.head()).await.expect("a head");
            clients.push(client);
        }
        let written = has_stalled(&written).await;
        hold_little(&format!("HTTP/1, {orders}"), &pair, before, written);
    }
}

#[tokio::test]
async fn streams_that_are_not_read_hold_little_over_http2() {
    let (app, written) = endless().await;
    let pair = Pair::start(app.address, "protocol: http2", "").await;
    let before = warm(&pair).await;
    let mut client = Client::connect(pair.caller.outbound()).await;
    let mut answers = Vec::new();
    for _ in 0..STREAMS {
        let get = http::Request::get("http://orders/endless").body(Piped::empty()).expect("well-formed");
        answers.push(client.send(get).await);
    }
    let written = has_stalled(&written).await;
    hold_little("HTTP/2", &pair, before, written);
}

/// A server that answers `/endless` with a body without end, and counts the bytes that the kernel took.
async fn endless() -> (Backend, Arc<AtomicU64>) {
    let written = Arc::new(AtomicU64::new(0));
    let shared = written.clone();
    let app = Backend::serving(move |mut wire, _, _| {
        let written = shared.clone();
        async move {
            while let Some(request) = wire.message().await {
                if !request.head.contains("/endless") {
                    wire.send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
                    continue;
                }
                wire.send("HTTP/1.1 200 OK\r\ncontent-length: 1099511627776\r\n\r\n").await;
                let piece = vec![b'x'; 16 * 1024];
                while wire.try_send(&piece).await.is_ok() {
                    written.fetch_add(piece.len() as u64, Relaxed);
                }
            }
        }
    })
    .await;
    (app, written)
}

/// The memory of both sidecars after each was used once.
async fn warm(pair: &Pair) -> [u64; 2] {
    let mut clients = Vec::new();
    for _ in 0..STREAMS {
        let mut client = Wire::connect(pair.caller.outbound()).await;
        assert_eq!(client.get("orders", "/").await.status(), 200);
        clients.push(client);
    }
    [own_kib(pair.caller.pid()), own_kib(pair.application.pid())]
}

/// The number of written bytes, once it has stopped growing for a while.
async fn has_stalled(written: &AtomicU64) -> u64 {
    const A_WHILE: Duration = Duration::from_millis(500);
    let deadline = Instant::now() + PATIENCE;
    let (mut last, mut since) = (0, Instant::now());
    while last == 0 || since.elapsed() < A_WHILE {
        assert!(Instant::now() < deadline, "the upstream never stalls: {last} bytes");
        tokio::time::sleep(Duration::from_millis(10)).await;
        let now = written.load(Relaxed);
        if now != last {
            (last, since) = (now, Instant::now());
        }
    }
    last
}

fn hold_little(what: &str, pair: &Pair, before: [u64; 2], written: u64) {
    let sides: [(&str, &Sidecar, u64); 2] =
        [("caller", &pair.caller, before[0]), ("application", &pair.application, before[1])];
    for (side, sidecar, before) in sides {
        let each = own_kib(sidecar.pid()).saturating_sub(before) / STREAMS;
        let accepted = written / STREAMS / 1024;
        println!(
            "{what}: the {side}'s sidecar holds {each} KiB a stream ({accepted} KiB left the application)"
        );
        assert!(each <= HELD_KIB, "{what}: the {side}'s sidecar holds {each} KiB of each stream");
    }
}
