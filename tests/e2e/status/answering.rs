//! The upstream was reached, and gave no answer that can be passed on.

use super::{check_outbound, fails_with};
use crate::support::backend::Backend;
use crate::support::http2::Client;
use crate::support::sidecar::Plan;
use crate::support::wire::Wire;

#[tokio::test]
async fn a_reset_before_the_answer() {
    let backend = Backend::reset().await;
    let caller = Plan::calling(backend.address, "retry: off, protocol: http1").start().await;
    // gRPC does not run over HTTP/1, so this test asks with plain HTTP alone.
    let answer = Wire::connect(caller.outbound()).await.get("orders", "/").await;
    assert!(check_outbound(&answer, "upstream_reset").contains(&backend.address.to_string()));
    caller.counted(1, &[("service", "orders"), ("reason", "upstream_reset"), ("status", "502")]).await;
}

#[tokio::test]
async fn a_connection_closed_before_the_answer() {
    let backend = Backend::saying("").await;
    let caller = Plan::calling(backend.address, "retry: off").start().await;
    let answer = Wire::connect(caller.outbound()).await.get("orders", "/").await;
    assert!(check_outbound(&answer, "upstream_closed").contains("before it answered"));
    caller.counted(1, &[("service", "orders"), ("reason", "upstream_closed"), ("status", "502")]).await;
}

/// However the connection breaks, callers over HTTP/2 and gRPC get the error in their own protocol.
#[tokio::test]
async fn connections_that_break_under_grpc() {
    let reset = Backend::serving(async |mut wire, _, _| {
        read_request(&mut wire).await;
        wire.reset();
    })
    .await;
    let caller = Plan::calling(reset.address, "retry: off").start().await;
    // h2 may report the reset from a read or from a write; the latter looks like a close.
    let answer = Client::connect(caller.outbound()).await.call("orders").await;
    let status = answer.headers()["proxy-status"].to_str().expect("text");
    assert!(status.starts_with("pillion; error=connection_terminated; details=\"upstream_"), "{status}");
    assert_eq!(answer.headers()["grpc-status"], "14");

    let closed = Backend::serving(async |mut wire, _, _| {
        read_request(&mut wire).await;
        wire.half_close().await;
        wire.rest().await;
    })
    .await;
    let caller = Plan::calling(closed.address, "retry: off").start().await;
    super::grpc_fails_with(&caller, "orders", "upstream_closed").await;
}

/// Reads as far as the first HEADERS frame of HTTP/2 (RFC 9113, 4.1).
async fn read_request(wire: &mut Wire) {
    wire.exactly(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".len()).await;
    while let (head, true) = wire.exactly(9).await {
        let length = head[..3].iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
        wire.exactly(length).await;
        if head[3] == 1 {
            break;
        }
    }
}

#[tokio::test]
async fn garbage_is_a_protocol_error() {
    let backend = Backend::serving(async |mut wire, _, _| {
        wire.piece(4096).await;
        drop(wire.try_send([0xff; 64]).await); // for HTTP/2 this is a frame of 16 MiB
        wire.rest().await;
    })
    .await;
    let caller = Plan::calling(backend.address, "retry: off").start().await;
    let said = fails_with(&caller, "protocol_error").await;
    assert!(said.contains("its first line is not valid HTTP"), "{said}");
}

#[tokio::test]
async fn a_stalled_upstream_is_a_request_timeout() {
    let backend = Backend::stall().await;
    let caller = Plan::calling(backend.address, "retry: off, timeout: 200ms").start().await;
    assert!(fails_with(&caller, "request_timeout").await.contains("200ms"));
}

#[tokio::test]
async fn a_stalled_try_is_a_per_try_timeout() {
    let backend = Backend::stall().await;
    let retry = "retry: { per_try_timeout: 200ms, methods: all }";
    let caller = Plan::calling(backend.address, retry).start().await;
    assert!(fails_with(&caller, "per_try_timeout").await.contains("200ms"));
}

#[tokio::test]
async fn max_duration_bounds_the_whole_exchange() {
    let backend = Backend::stall().await;
    let caller = Plan::calling(backend.address, "retry: off, max_duration: 200ms").start().await;
    assert!(fails_with(&caller, "max_duration").await.contains("200ms"));
}

#[tokio::test]
async fn an_upstream_that_reads_no_body_is_a_stream_idle_timeout() {
    let backend = Backend::deaf().await;
    let caller = Plan::calling(backend.address, "retry: off, stream_idle_timeout: 2s").start().await;
    let client = Wire::connect(caller.outbound()).await.into_io();
    let (reading, mut writing) = client.into_split();
    let upload = tokio::spawn(async move {
        use tokio::io::AsyncWriteExt as _;
        let head = b"POST / HTTP/1.1\r\nhost: orders\r\ncontent-length: 1073741824\r\n\r\n";
        drop(writing.write_all(head).await);
        while writing.write_all(&[b'x'; 16 * 1024]).await.is_ok() {}
        writing // stays open until the answer has been read
    });
    let answer = answer_on(reading).await;
    assert!(answer.contains("HTTP/1.1 504") && answer.contains("stream_idle_timeout"), "{answer}");
    caller.counted(1, &[("service", "orders"), ("reason", "stream_idle_timeout")]).await;
    upload.abort();
}

/// Reads until the connection ends.
async fn answer_on(mut reading: tokio::net::tcp::OwnedReadHalf) -> String {
    use tokio::io::AsyncReadExt as _;
    let mut answer = Vec::new();
    let read = async {
        while !answer.ends_with(b"\n") && reading.read_buf(&mut answer).await.is_ok_and(|n| n > 0) {}
    };
    crate::support::soon("an answer", read).await;
    String::from_utf8_lossy(&answer).into_owned()
}

/// After the headers no error can be sent: HTTP/1 ends without the last chunk, and the metric has the reason.
#[tokio::test]
async fn an_answer_that_breaks_off_is_cut_and_never_completed() {
    for (rest, orders, reason) in [
        ("content-length: 100\r\n\r\nonly this", "retry: off", "upstream_closed"),
        ("transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n", "retry: off", "upstream_closed"),
    ] {
        let backend = Backend::saying(format!("HTTP/1.1 200 OK\r\n{rest}")).await;
        let caller = Plan::calling(backend.address, orders).start().await;
        let answer = Wire::connect(caller.outbound()).await.get("orders", "/").await;
        assert_eq!((answer.status(), answer.is_whole), (200, false), "{answer:?}");
        caller.counted(1, &[("service", "orders"), ("status", "200"), ("reason", reason)]).await;
    }
}

#[tokio::test]
async fn an_answer_that_falls_silent_is_cut() {
    let backend = Backend::serving(async |mut wire, _, _| {
        wire.message().await;
        wire.send("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nonly this").await;
        wire.rest().await;
    })
    .await;
    let caller = Plan::calling(backend.address, "retry: off, stream_idle_timeout: 200ms").start().await;
    let answer = Wire::connect(caller.outbound()).await.get("orders", "/").await;
    assert_eq!((answer.status(), answer.is_whole), (200, false), "{answer:?}");
    let reason = [("service", "orders"), ("status", "200"), ("reason", "stream_idle_timeout")];
    caller.counted(1, &reason).await;
}

/// An old server that marks the end of its answer by closing the connection: the answer is complete.
#[tokio::test]
async fn an_answer_that_ends_with_the_connection_is_whole() {
    let backend = Backend::serving(async |mut wire, _, _| {
        wire.message().await;
        wire.send("HTTP/1.0 200 OK\r\n\r\nto the end").await;
        wire.half_close().await;
        wire.rest().await;
    })
    .await;
    let caller = Plan::calling(backend.address, "retry: off").start().await;
    let answer = Wire::connect(caller.outbound()).await.get("orders", "/").await;
    assert_eq!((answer.status(), answer.text().as_str(), answer.is_whole), (200, "to the end", true));
}

#[tokio::test]
async fn a_flaky_back_end_is_hidden_by_retries() {
    let backend = Backend::flaky().await;
    let caller = Plan::calling(backend.address, "").start().await;
    for _ in 0..8 {
        // A connection for each request, so that every other one meets the reset.
        let mut client = Wire::connect(caller.outbound()).await;
        let ask = "GET / HTTP/1.1\r\nhost: orders\r\nconnection: close\r\n\r\n";
        assert_eq!(client.ask(ask).await.status(), 200);
    }
    assert!(caller.scrape().await.sum("pillion_retries_total", &[("service", "orders")]) >= 1.0);
}
