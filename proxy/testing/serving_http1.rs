//! HTTP/1 clients, and what their connections hold.

use super::backend::OK;
use super::bench::Bench;
use super::mesh::{A, Mesh, settle};

/// The size of the engine's task. The socket, the connection as its requests see it, and its place in the limits are
/// separate.
#[tokio::test(start_paused = true)]
async fn a_connection_that_waits_is_a_small_task() {
    let bench = Bench::caller(&Mesh::default(), "endpoints: [10.0.0.1:80]");
    let size = bench.size_of_a_task();
    assert!(size <= 640, "{size} bytes");
}

#[tokio::test(start_paused = true)]
async fn requests_that_come_in_one_piece_are_answered_in_their_order() {
    let mesh = Mesh::default();
    let a = mesh.http1(A, |nth, request| match (nth, request.head.starts_with("HEAD")) {
        (_, true) => "HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\n",
        (0, _) => "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nfirst",
        _ => OK,
    });
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80]");
    let mut client = sidecar.client().await;
    let post = "POST / HTTP/1.1\r\nhost: orders\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    let head = "HEAD / HTTP/1.1\r\nhost: orders\r\n\r\n";
    let get = "GET / HTTP/1.1\r\nhost: orders\r\nconnection: close\r\n\r\n";
    client.send([post, head, post, get, get].concat()).await;
    assert_eq!(client.answer().await.body, "first");
    assert!(client.head().await.expect("an answer to HEAD").contains("content-length: 7\r\n"));
    for _ in 0..2 {
        assert_eq!(client.answer().await.body, "ok");
    }
    assert_eq!(client.rest().await, b"", "no request is answered after an answer with `Connection: close`");
    let bodies: Vec<_> = a.requests().into_iter().map(|request| request.body).collect();
    assert_eq!(bodies, ["abc", "", "abc", ""]);
}

#[tokio::test(start_paused = true)]
async fn however_small_the_chunks_are_the_content_is_whole() {
    let mesh = Mesh::default();
    let a = mesh.answering(A, OK);
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80]");
    for sizes in [&[1; 5000][..], &[4000, 4000, 1, 1, 9000, 2, 60_000], &[1, 4095, 1, 4096, 4097]] {
        let chunk = |size: &usize| format!("{size:x}\r\n{}\r\n", "x".repeat(*size));
        let chunks: String = sizes.iter().map(chunk).collect();
        let mut client = sidecar.client().await;
        client.send("POST / HTTP/1.1\r\nhost: orders\r\ntransfer-encoding: chunked\r\n\r\n").await;
        client.send(chunks).await;
        client.send("0\r\n\r\n").await;
        assert_eq!(client.answer().await.status_and_reason(), (200, None));
        let request = a.requests().pop().expect("a request");
        assert_eq!((request.body.len(), request.is_whole), (sizes.iter().sum(), true));
    }
}

#[tokio::test(start_paused = true)]
async fn the_unneeded_rest_of_a_request_is_dropped_if_it_has_arrived_already() {
    let mesh = Mesh::default();
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80]");
    for (announced, sent, is_open) in [(10, 10, true), (10, 9, false), (5000, 5000, true)] {
        let mut client = sidecar.client().await;
        let head = format!("POST / HTTP/1.1\r\nhost: nobody\r\ncontent-length: {announced}\r\n\r\n");
        client.send(head + &"x".repeat(sent)).await;
        assert_eq!(client.answer().await.status_and_reason(), (404, Some("no_route")));
        settle().await;
        let goes_on = client.try_send("GET / HTTP/1.1\r\nhost: nobody\r\n\r\n").await.is_ok();
        let answer = if goes_on { client.message().await } else { None };
        assert_eq!(answer.is_some(), is_open, "{sent} of {announced}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_interim_answer_reaches_a_client_whose_version_has_them() {
    use super::http2;
    use bytes::Bytes;
    use h2::server::SendResponse;
    use http::{Response, StatusCode};

    let mesh = Mesh::default();
    let _a = mesh.http2(A, 100, |_, _, mut respond: SendResponse<Bytes>| async move {
        let hints = Response::builder().status(StatusCode::EARLY_HINTS).header("link", "</a>");
        respond.send_informational(hints.body(()).expect("a head")).expect("the stream is open");
        http2::answer(respond, 200, "ok");
    });
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80], protocol: http2");
    let mut client = sidecar.client().await;
    client.send("GET / HTTP/1.1\r\nhost: orders\r\n\r\n").await;
    let hints = client.head().await.expect("an interim answer");
    assert!(hints.starts_with("HTTP/1.1 103 Early Hints\r\n") && hints.contains("link: </a>"), "{hints}");
    assert_eq!(client.answer().await.status_and_reason(), (200, None));
    client.send("GET / HTTP/1.0\r\nhost: orders\r\n\r\n").await;
    assert_eq!(client.answer().await.status_and_reason(), (200, None));
}

#[tokio::test(start_paused = true)]
async fn the_reason_phrase_of_a_status_is_passed_on_unchanged() {
    let mesh = Mesh::default();
    let _a = mesh.answering(A, "HTTP/1.1 299 As you like it\r\ncontent-length: 2\r\n\r\nok");
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80]");
    let answer = sidecar.client().await.get("/").await;
    assert!(answer.head.starts_with("HTTP/1.1 299 As you like it\r\n"), "{}", answer.head);
}
