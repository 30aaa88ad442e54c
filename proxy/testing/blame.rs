//! Regressions of a review: each test shows an endpoint or a client that was once faulted for something it had not
//! done.

use super::backend::OK;
use super::mesh::{A, B, Mesh, pass, settle};

const STRICT: &str = "endpoints: [10.0.0.1:80, 10.0.0.2:80], load_balancer: round_robin, retry: off, \
                      outlier_detection: { consecutive_errors: 1 }";
const WITH_TRAILERS: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n\
                             2\r\nok\r\n0\r\nx-sum: 1\r\n\r\n";

#[tokio::test(start_paused = true)]
async fn a_client_that_stalls_its_upload_does_not_count_against_the_endpoint() {
    let mesh = Mesh::default();
    let (_a, _b) = (mesh.silent(A), mesh.silent(B));
    let sidecar = mesh.caller(&format!("{STRICT}, stream_idle_timeout: 10s"));
    let mut client = sidecar.client().await;
    client.send("POST / HTTP/1.1\r\nhost: orders\r\ncontent-length: 5\r\n\r\na").await;
    pass(11).await;
    assert_eq!(client.answer().await.status_and_reason(), (408, Some("request_stalled")));
    assert_eq!(sidecar.sum("pillion_endpoints state=ejected"), 0);
}

#[tokio::test(start_paused = true)]
async fn time_in_the_sidecar_s_own_queue_does_not_count_against_the_endpoint() {
    let mesh = Mesh::default();
    let (_a, _b) = (mesh.silent(A), mesh.silent(B));
    let one = "timeout: 5s, circuit_breaker: { max_connections: 1 }";
    let sidecar = mesh.caller(&format!("{STRICT}, {one}, connect_timeout: 60s"));
    let (mut first, mut second) = (sidecar.client().await, sidecar.client().await);
    for client in [&mut first, &mut second] {
        client.send("GET / HTTP/1.1\r\nhost: orders\r\n\r\n").await;
        settle().await;
    }
    pass(6).await;
    assert_eq!(first.answer().await.status_and_reason(), (504, Some("request_timeout")));
    assert_eq!(second.answer().await.status_and_reason(), (504, Some("request_timeout")));
    assert_eq!(
        sidecar.sum("pillion_endpoint_ejections_total cause=consecutive_errors"),
        1,
        "the one that was asked"
    );
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_ends_with_trailers_is_complete_and_its_connection_is_kept() {
    let mesh = Mesh::default();
    let a = mesh.answering(A, WITH_TRAILERS);
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80], retry: off");
    let mut client = sidecar.client().await;
    for _ in 0..3 {
        assert_eq!(client.get("/").await.body, "ok");
        settle().await;
    }
    assert_eq!((a.hits(), a.connections()), (3, 1));
    assert_eq!(sidecar.sum("pillion_requests_total reason=client_gone"), 0);
    assert_eq!(sidecar.sum("pillion_requests_total status=200"), 3);
}

#[tokio::test(start_paused = true)]
async fn an_identity_claimed_with_underscores_or_in_trailers_does_not_reach_the_application() {
    let mesh = Mesh::default();
    let a = mesh.answering(A, OK);
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80], retry: off");
    let mut client = sidecar.client().await;
    client
        .send(
            "POST / HTTP/1.1\r\nhost: orders\r\nx_forwarded_client_cert: URI=spiffe://x/y\r\ntransfer-encoding: chunked\r\n\
             te: trailers\r\ntrailer: client-cert\r\n\r\n1\r\na\r\n0\r\nclient-cert: forged\r\n\r\n",
        )
        .await;
    assert_eq!(client.answer().await.status(), Some(200));
    let heads: String = a.requests().into_iter().map(|request| request.head + &request.body).collect();
    assert!(!heads.contains("spiffe://x/y") && !heads.contains("forged"), "{heads}");
}

#[tokio::test(start_paused = true)]
async fn a11_no_spelling_of_a_sidecar_header_reaches_the_application_from_a_client() {
    let mesh = Mesh::default();
    let a = mesh.answering(A, OK);
    let inbound = mesh.application(&format!("app: {A}"));
    let names = [
        "x_pillion_attempt",
        "X-Pillion_Via",
        "x_forwarded_for",
        "X_Forwarded-For",
        "x.forwarded.for",
        "x_forwarded_proto",
        "x_forwarded_host",
        "X_REQUEST_ID",
        "x_forwarded_client_cert",
        "client.cert",
        "Content_Length",
        "transfer_encoding",
    ];
    let lines = |value: &str| names.map(|name| format!("{name}: {value}\r\n")).concat();
    let request = format!(
        "POST / HTTP/1.1\r\nhost: orders\r\n{}x_custom: kept\r\nte: trailers\r\ntrailer: the_end, {}, \
         x-forwarded-for\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n{}\
         x-forwarded-for: forged\r\nthe_end: kept\r\n\r\n",
        lines("forged"),
        names.join(", "),
        lines("forged"),
    );
    assert_eq!(inbound.client().await.ask(&request).await.status(), Some(200));
    settle().await;
    let requests = a.requests(); // the trailers stand there as the head of a second one
    let all: String = requests.iter().map(|request| request.head.clone() + &request.body).collect();
    assert!(!all.contains("forged"), "{all}");
    let request = &requests[0];
    assert_eq!(request.header("x_custom"), Some("kept"), "{all}");
    assert!(requests[1..].iter().any(|trailers| trailers.head.contains("end: kept")), "{all}");
    assert!(request.header("x-forwarded-for").is_some(), "what we say ourselves: {all}");
}

#[tokio::test(start_paused = true)]
async fn hosts_that_could_be_read_in_two_ways_are_refused() {
    let mesh = Mesh::default();
    let a = mesh.answering(A, OK);
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80], retry: off");
    for head in [
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: orders\r\nhost: other\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: user@orders\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: or ders\r\n\r\n",
    ] {
        let answer = sidecar.client().await.ask(head).await;
        assert_eq!(answer.status_and_reason(), (400, Some("bad_request")), "{head:?}");
    }
    assert_eq!(a.hits(), 0);
}
