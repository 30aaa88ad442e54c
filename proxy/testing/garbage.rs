//! Endpoints and clients that send garbage: only their own connection ends.

use super::backend::OK;
use super::mesh::{A, Mesh, ORDERS, Pair, pass, settle};
use super::peer::Peer;

/// What an endpoint sends, and the reason that its client gets.
const NONSENSE: [(&str, &[u8], &str); 9] = [
    ("no HTTP at all", b"\x16\x03\x01\x00\xff what is this\r\n\r\n", "protocol_error"),
    ("another protocol's banner", b"220 mail.example.com ESMTP\r\n", "protocol_error"),
    ("a status that is none", b"HTTP/1.1 abc OK\r\n\r\n", "protocol_error"),
    ("a header without a colon", b"HTTP/1.1 200 OK\r\nnonsense\r\n\r\n", "protocol_error"),
    ("a length that is none", b"HTTP/1.1 200 OK\r\ncontent-length: many\r\n\r\n", "protocol_error"),
    (
        "two lengths that differ",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nok",
        "protocol_error",
    ),
    ("a NUL in a header", b"HTTP/1.1 200 OK\r\nx: a\0b\r\n\r\n", "protocol_error"),
    ("half a head", b"HTTP/1.1 200 OK\r\ncontent-le", "upstream_closed"),
    ("nothing", b"", "upstream_closed"),
];

#[tokio::test(start_paused = true)]
async fn nonsense_instead_of_an_answer_is_a_502_with_its_reason() {
    for (what, nonsense, reason) in NONSENSE {
        let mesh = Mesh::default();
        let _a = mesh.scripted(A, move |mut peer: Peer, _| async move {
            peer.message().await;
            peer.send(nonsense).await;
        });
        let sidecar = mesh.caller("endpoints: [10.0.0.1:80], retry: off");
        let mut client = sidecar.client().await;
        assert_eq!(client.get("/").await.status_and_reason(), (502, Some(reason)), "{what}");
        assert_eq!(
            client.get("/").await.status_and_reason(),
            (502, Some(reason)),
            "{what}: the client's connection lives"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_head_larger_than_a_read_buffer_is_refused_and_not_collected_for_ever() {
    let mesh = Mesh::default();
    let _a = mesh.scripted(A, |mut peer: Peer, _| async move {
        peer.message().await;
        peer.send("HTTP/1.1 200 OK\r\n").await;
        while peer.try_send(format!("x-{}: 1\r\n", "y".repeat(1000))).await.is_ok() {}
    });
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80], retry: off");
    assert_eq!(sidecar.client().await.get("/").await.status_and_reason(), (502, Some("protocol_error")));
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_promises_more_than_it_sends_is_cut_and_never_made_whole() {
    let mesh = Mesh::default();
    let _a = mesh.scripted(A, |mut peer: Peer, _| async move {
        peer.message().await;
        peer.send("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nfive!").await;
    });
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80]");
    let answer = sidecar.client().await.get("/").await;
    assert_eq!((&*answer.body, answer.is_whole), ("five!", false));
    settle().await;
    assert_eq!(sidecar.sum("pillion_requests_total status=200 reason=upstream_closed"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_reset_after_its_head_has_the_reason_of_a_reset() {
    let mesh = Mesh::default();
    let _a = mesh.http2(A, 100, |_, _, mut respond| async move {
        let head = http::Response::new(());
        let mut stream = respond.send_response(head, false).expect("the stream is open");
        stream.send_data("five!".into(), false).expect("the stream is open");
        pass(1).await;
        stream.send_reset(h2::Reason::INTERNAL_ERROR);
    });
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80], protocol: http2");
    let answer = sidecar.client().await.get("/").await;
    assert_eq!((&*answer.body, answer.is_whole), ("five!", false));
    settle().await;
    assert_eq!(sidecar.sum("pillion_requests_total status=200 reason=upstream_reset"), 1);
}

#[tokio::test(start_paused = true)]
async fn chunks_that_are_none_break_the_answer_off() {
    let mesh = Mesh::default();
    let _a = mesh.scripted(A, |mut peer: Peer, _| async move {
        peer.message().await;
        peer.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\ngood\r\nZZ\r\n").await;
        pass(1).await;
    });
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80]");
    let answer = sidecar.client().await.get("/").await;
    assert_eq!((&*answer.body, answer.is_whole), ("good", false));
    settle().await;
    assert_eq!(sidecar.sum("pillion_requests_total status=200 reason=protocol_error"), 1);
}

#[tokio::test(start_paused = true)]
async fn an_answer_without_a_length_ends_with_its_connection() {
    let mesh = Mesh::default();
    let _a = mesh.scripted(A, |mut peer: Peer, _| async move {
        peer.message().await;
        peer.send("HTTP/1.0 200 OK\r\n\r\nold but whole").await;
    });
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80]");
    let answer = sidecar.client().await.get("/").await;
    assert_eq!(
        (answer.status_and_reason(), &*answer.body, answer.is_whole),
        ((200, None), "old but whole", true)
    );
}

#[tokio::test(start_paused = true)]
async fn an_answer_before_the_end_of_the_request_arrives_all_the_same() {
    const NO: &str = "HTTP/1.1 413 Content Too Large\r\nconnection: close\r\ncontent-length: 2\r\n\r\nno";
    let mesh = Mesh::default();
    let _a = mesh.scripted(A, |mut peer: Peer, _| async move {
        peer.head().await;
        peer.send(NO).await;
        pass(1).await;
    });
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80]");
    let mut client = sidecar.client().await;
    client.send("POST / HTTP/1.1\r\nhost: orders\r\ncontent-length: 1000\r\n\r\nhalf").await;
    let answer = client.answer().await;
    assert_eq!((answer.status_and_reason(), &*answer.body), ((413, None), "no"));
}

#[tokio::test(start_paused = true)]
async fn b6_interim_answers_are_passed_on_and_are_not_the_answer() {
    let mesh = Mesh::default();
    let _a = mesh.scripted(A, |mut peer: Peer, _| async move {
        peer.message().await;
        peer.send("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n").await;
        peer.send(OK).await;
        pass(1).await;
    });
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80]");
    let mut client = sidecar.client().await;
    client.send("GET / HTTP/1.1\r\nhost: orders\r\n\r\n").await;
    let unasked = client.head().await.expect("an answer before the answer");
    assert_eq!(unasked, "HTTP/1.1 100 Continue\r\n\r\n");
    let interim = client.head().await.expect("another");
    assert_eq!(interim, "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n", "it is passed on");
    assert_eq!(client.answer().await.status_and_reason(), (200, None));
}

#[tokio::test(start_paused = true)]
async fn a_half_closed_endpoint_still_gives_its_answer() {
    let mesh = Mesh::default();
    let _a = mesh.scripted(A, |mut peer: Peer, _| async move {
        peer.message().await;
        peer.send(OK).await;
        peer.half_close().await;
        pass(60).await;
    });
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80]");
    let mut client = sidecar.client().await;
    for _ in 0..2 {
        assert_eq!(client.get("/").await.status_and_reason(), (200, None));
        settle().await;
    }
}

#[tokio::test(start_paused = true)]
async fn b12_a_malformed_chunk_in_a_request_is_reported_as_the_clients_fault() {
    for chunk in ["zz\r\nnonsense\r\n", "4\r\nlonger than four\r\n0\r\n\r\n", "fffffffffffffffff\r\n"] {
        for first in ["", "4\r\npart\r\n"] {
            let mesh = Mesh::default();
            let a = mesh.silent(A);
            let sidecar = mesh.caller("endpoints: [10.0.0.1:80]");
            let mut client = sidecar.client().await;
            client.send("POST / HTTP/1.1\r\nhost: orders\r\ntransfer-encoding: chunked\r\n\r\n").await;
            client.send(format!("{first}{chunk}")).await;
            let answer = client.answer().await;
            assert_eq!(answer.status_and_reason(), (400, Some("bad_request")), "{first}{chunk}");
            assert_eq!(answer.header("connection"), Some("close"), "{}", answer.head);
            settle().await;
            assert!(a.requests().iter().all(|came| !came.is_whole), "{first}{chunk}");
            assert_eq!(sidecar.sum("pillion_requests_total status=400 reason=bad_request"), 1);
            assert_eq!(sidecar.sum("pillion_retries_total"), 0);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn b12_a_client_that_ends_in_the_middle_of_its_body_reads_no_empty_error_type() {
    let mesh = Mesh::default();
    let _a = mesh.silent(A);
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80]");
    for head in ["transfer-encoding: chunked\r\n\r\n4\r\npa", "content-length: 10\r\n\r\nhalf"] {
        let mut client = sidecar.client().await;
        client.send(format!("POST / HTTP/1.1\r\nhost: orders\r\n{head}")).await;
        client.half_close().await;
        let said = String::from_utf8_lossy(&client.rest().await).into_owned();
        assert!(!said.contains("error=;"), "{said}");
    }
}

#[tokio::test(start_paused = true)]
async fn b12_a_malformed_chunk_never_reaches_the_application_behind_two_sidecars_as_a_complete_request() {
    for protocol in ["auto", "http1"] {
        let pair = Pair::new();
        let a = pair.mesh.silent(A);
        let _application = pair.application("10.1.0.1:15006", A);
        let sidecar = pair.caller(&format!("endpoints: [10.1.0.1:15006], protocol: {protocol}, {ORDERS}"));
        let mut client = sidecar.client().await;
        client
            .send("POST / HTTP/1.1\r\nhost: orders\r\ntransfer-encoding: chunked\r\n\r\n4\r\npart\r\n")
            .await;
        settle().await;
        client.send("zz\r\n").await;
        assert_eq!(client.answer().await.status_and_reason(), (400, Some("bad_request")), "{protocol}");
        settle().await;
        assert!(a.requests().iter().all(|came| !came.is_whole), "{protocol}");
    }
}

#[tokio::test(start_paused = true)]
async fn interim_answers_do_not_pile_up_for_a_client_that_does_not_read() {
    let mesh = Mesh::default();
    let _a = mesh.scripted(A, |mut peer: Peer, _| async move {
        drop(peer.message().await);
        let interim = format!("HTTP/1.1 103 Early Hints\r\nlink: {}\r\n\r\n", "a".repeat(30 * 1024));
        for _ in 0..30 {
            peer.send(&interim).await;
            settle().await;
        }
        peer.send(OK).await;
    });
    let mut client = mesh.caller("endpoints: [10.0.0.1:80]").client().await;
    client.send("GET / HTTP/1.1\r\nhost: orders\r\n\r\n").await;
    super::mesh::pass(1).await;
    let mut heads = Vec::new();
    while heads.last().is_none_or(|head: &String| head.starts_with("HTTP/1.1 103")) {
        heads.push(client.head().await.expect("an answer"));
    }
    assert!(heads.last().is_some_and(|head| head.starts_with("HTTP/1.1 200")));
    assert!(heads.len() < 6, "{}: 64 KiB are on their way, and 16 KiB more wait", heads.len());
}
