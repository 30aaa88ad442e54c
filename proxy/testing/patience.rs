//! Clients that are slow or send garbage, and the answers they get.

use super::backend::OK;
use super::mesh::{A, Mesh, Watch, pass, secs, settle};
use super::peer::Peer;

const GET: &str = "GET / HTTP/1.1\r\nhost: orders\r\n\r\n";

#[tokio::test(start_paused = true)]
async fn a_head_that_is_not_whole_after_ten_seconds_ends_the_connection() {
    let mesh = Mesh::default();
    let a = mesh.answering(A, OK);
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80]");
    for before in ["", GET] {
        let mut client = sidecar.client().await;
        if !before.is_empty() {
            client.ask(before).await;
            pass(120).await;
        }
        let watch = Watch::start();
        client.send("GET / HTTP/1.1\r\nhost").await;
        for _ in 0..9 {
            pass(1).await;
            client.send("x").await; // a byte now and then buys no time
        }
        assert_eq!(
            client.answer().await.status_and_reason(),
            (408, Some("request_stalled")),
            "after {before:?}"
        );
        assert_eq!(client.rest().await, b"");
        assert_eq!(watch.seconds(), 10, "after {before:?}");
    }
    assert_eq!(a.hits(), 1);
    assert_eq!(sidecar.sum("pillion_requests_total status=408 reason=request_stalled"), 2);
}

#[tokio::test(start_paused = true)]
async fn a_head_in_single_bytes_is_read_while_it_comes_in_time() {
    let mesh = Mesh::default();
    let _a = mesh.answering(A, OK);
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80]");
    let mut client = sidecar.client().await;
    for byte in GET.as_bytes().chunks(1) {
        client.send(byte).await;
        settle().await;
    }
    assert_eq!(client.answer().await.status_and_reason(), (200, None));
}

#[tokio::test(start_paused = true)]
async fn a_connection_may_be_idle_for_an_hour_before_and_between_requests() {
    let mesh = Mesh::default();
    let _a = mesh.answering(A, OK);
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80]");
    let mut silent = sidecar.client().await;
    let watch = Watch::start();
    assert_eq!(silent.rest().await, b"");
    assert_eq!(watch.seconds(), 3600);
    let mut client = sidecar.client().await;
    for _ in 0..2 {
        pass(3590).await;
        assert_eq!(client.get("/").await.status_and_reason(), (200, None));
    }
    let watch = Watch::start();
    assert_eq!(client.rest().await, b"");
    assert_eq!(watch.seconds(), 3601, "an hour from when it was put aside");
    settle().await;
    assert_eq!(sidecar.sum("pillion_connections_active direction=outbound"), 0);
}

/// What a client may send, and the answer it gets.
const NONSENSE: [(&str, &str, u16, &str); 5] = [
    ("no request line", "\r\n\r\nhello world\r\n\r\n", 400, "bad_request"),
    ("a header without a colon", "GET / HTTP/1.1\r\nhost: orders\r\nnonsense\r\n\r\n", 400, "bad_request"),
    ("a version of its own", "GET / HTTP/9.1\r\nhost: orders\r\n\r\n", 400, "bad_request"),
    (
        "two lengths that differ",
        "POST / HTTP/1.1\r\nhost: orders\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
        400,
        "bad_request",
    ),
    (
        "a coding after chunked",
        "POST / HTTP/1.1\r\nhost: orders\r\ntransfer-encoding: chunked, gzip\r\n\r\n",
        400,
        "bad_request",
    ),
];

#[tokio::test(start_paused = true)]
async fn malformed_requests_are_answered_by_the_sidecar_and_counted_once() {
    let mesh = Mesh::default();
    let a = mesh.answering(A, OK);
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80]");
    for (nth, (what, nonsense, status, reason)) in (1..).zip(NONSENSE) {
        let mut client = sidecar.client().await;
        let answer = client.ask(nonsense).await;
        assert_eq!(answer.status_and_reason(), (status, Some(reason)), "{what}");
        assert!(answer.header("x-request-id").is_some() && answer.body.starts_with("pillion: "), "{what}");
        assert_eq!(client.rest().await, b"", "{what}: nothing follows");
        settle().await;
        assert_eq!(sidecar.sum("pillion_requests_total status=400 reason=bad_request"), nth, "{what}");
    }
    assert_eq!(a.connections(), 0);
}

#[tokio::test(start_paused = true)]
async fn too_many_or_too_large_headers_are_answered_by_the_sidecar_and_counted_once() {
    let mesh = Mesh::default();
    let _a = mesh.answering(A, OK);
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80]");
    let many: String = (0..101).map(|nth| format!("x-{nth}: 1\r\n")).collect();
    let large = format!("x-large: {}\r\n", "y".repeat(65 * 1024));
    for (nth, headers) in (1..).zip([many, large]) {
        let mut client = sidecar.client().await;
        // Refused while it is still sending, perhaps.
        drop(client.try_send(format!("GET / HTTP/1.1\r\nhost: orders\r\n{headers}\r\n")).await);
        assert_eq!(client.answer().await.status_and_reason(), (431, Some("headers_too_large")));
        settle().await;
        assert_eq!(sidecar.sum("pillion_requests_total status=431 reason=headers_too_large"), nth);
    }
}

#[tokio::test(start_paused = true)]
async fn a_remote_peer_gets_the_reason_code_without_details() {
    let mesh = Mesh::default();
    let sidecar = mesh.application("app: 10.0.0.1:80");
    let answer = sidecar.client().await.ask("GET / HTTP/1.1\r\nnonsense\r\n\r\n").await;
    assert_eq!(
        answer.header("proxy-status"),
        Some("pillion; error=http_request_error; details=\"bad_request\"")
    );
    assert_eq!(answer.body, "pillion: bad_request\n");
    let answer = sidecar.client().await.get("/").await;
    assert_eq!(
        answer.header("proxy-status"),
        Some("pillion; error=connection_refused; details=\"connect_refused\"")
    );
}

#[tokio::test(start_paused = true)]
async fn nonsense_pipelined_behind_a_good_request_follows_its_answer() {
    let mesh = Mesh::default();
    let a = mesh.scripted(A, |mut peer: Peer, _| async move {
        peer.message().await;
        pass(1).await;
        peer.send(OK).await;
        pass(60).await;
    });
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80]");
    let mut client = sidecar.client().await;
    client.send(format!("{GET}nonsense\r\n\r\n")).await;
    let first = client.answer().await;
    assert_eq!((first.status_and_reason(), &*first.body), ((200, None), "ok"));
    assert_eq!(client.answer().await.status_and_reason(), (400, Some("bad_request")));
    assert_eq!(client.rest().await, b"");
    settle().await;
    assert_eq!(a.hits(), 1);
    assert_eq!(sidecar.sum("pillion_requests_total status=200"), 1);
    assert_eq!(sidecar.sum("pillion_requests_total status=400 reason=bad_request"), 1);
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_s_own_400_is_passed_on_unchanged() {
    const NO: &str = "HTTP/1.1 400 Bad Request\r\ncontent-length: 2\r\n\r\nno";
    let mesh = Mesh::default();
    let _a = mesh.answering(A, NO);
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80]");
    let mut client = sidecar.client().await;
    for _ in 0..2 {
        let answer = client.get("/").await;
        assert_eq!((answer.status_and_reason(), &*answer.body), ((400, None), "no"));
    }
    settle().await;
    assert_eq!(sidecar.sum("pillion_requests_total status=400"), 2);
    assert_eq!(sidecar.sum("pillion_requests_total reason=bad_request"), 0);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_takes_nothing_of_its_answer_is_dropped() {
    let mesh = Mesh::default();
    let a = mesh.scripted(A, |mut peer: Peer, _| async move {
        peer.message().await;
        peer.send("HTTP/1.1 200 OK\r\ncontent-length: 100000000\r\n\r\n").await;
        while peer.try_send(".".repeat(10_000)).await.is_ok() {}
    });
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80]");
    let mut client = sidecar.client().await;
    client.send(GET).await;
    let watch = Watch::start();
    while a.open() != 0 || a.connections() == 0 {
        assert!(watch.seconds() < 3600, "it is held for ever");
        pass(10).await;
    }
    assert!(watch.seconds() >= 300, "{} s", watch.seconds());
    let rest = tokio::time::timeout(secs(1), client.rest()).await.expect("the connection is closed");
    assert!(rest.len() < 1_000_000, "{} bytes were waiting for it", rest.len());
}

#[tokio::test(start_paused = true)]
async fn a_request_without_a_known_host_finds_no_route() {
    let mesh = Mesh::default();
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80]");
    let mut client = sidecar.client().await;
    let answer = client.ask("GET / HTTP/1.1\r\nhost: billing\r\n\r\n").await;
    assert_eq!(answer.status_and_reason(), (404, Some("no_route")));
    assert!(answer.body.contains("\"billing\""), "{}", answer.body);
    settle().await;
    assert_eq!(sidecar.sum("pillion_requests_total status=404 reason=no_route"), 1);
}
