//! How long a request may take, and which parts of that time count.

use std::time::Duration;

use super::backend::{OK, UNAVAILABLE};
use super::mesh::{A, B, C, Mesh, Watch, pass, secs, settle};
use super::peer::Peer;

/// Answers everything with `answer`, after this many seconds.
fn slow(mesh: &Mesh, address: &str, seconds: u64, answer: &'static str) -> super::backend::Backend {
    mesh.scripted(address, move |mut peer: Peer, _| async move {
        while peer.message().await.is_some() {
            pass(seconds).await;
            if peer.try_send(answer).await.is_err() {
                return;
            }
        }
    })
}

#[tokio::test(start_paused = true)]
async fn the_timeout_covers_all_tries_and_their_pauses() {
    let mesh = Mesh::default();
    let tries = [A, B, C].map(|address| slow(&mesh, address, 4, UNAVAILABLE));
    let sidecar = mesh
        .caller("endpoints: [10.0.0.1:80, 10.0.0.2:80, 10.0.0.3:80], timeout: 10s, retry: { attempts: 9 }");
    let watch = Watch::start();
    assert_eq!(sidecar.client().await.get("/").await.status_and_reason(), (504, Some("request_timeout")));
    assert_eq!((watch.seconds(), tries.map(|endpoint| endpoint.hits())), (10, [1, 1, 1]));
}

#[tokio::test(start_paused = true)]
async fn time_spent_connecting_counts() {
    let mesh = Mesh::default();
    mesh.black_hole(A);
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80], timeout: 3s, connect_timeout: 2s");
    let watch = Watch::start();
    assert_eq!(sidecar.client().await.get("/").await.status_and_reason(), (504, Some("request_timeout")));
    assert_eq!(watch.seconds(), 3, "2 s for the first connection, less for the second");
}

#[tokio::test(start_paused = true)]
async fn a_slow_upload_of_a_minute_survives_a_timeout_of_15_seconds() {
    let mesh = Mesh::default();
    let a = mesh.answering(A, OK);
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80], timeout: 15s");
    let mut client = sidecar.client().await;
    client.send("POST / HTTP/1.1\r\nhost: orders\r\ncontent-length: 60\r\n\r\n").await;
    client.trickle(&["."; 60], secs(1)).await;
    assert_eq!(client.answer().await.status_and_reason(), (200, None));
    assert_eq!(a.requests()[0].body.len(), 60);
}

#[tokio::test(start_paused = true)]
async fn after_the_last_byte_of_an_upload_the_timeout_runs_again() {
    let mesh = Mesh::default();
    let _a = mesh.silent(A);
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80], timeout: 15s");
    for method in ["POST", "PUT"] {
        let (mut client, watch) = (sidecar.client().await, Watch::start());
        client.send(format!("{method} / HTTP/1.1\r\nhost: orders\r\ncontent-length: 30\r\n\r\n")).await;
        client.trickle(&["."; 30], secs(1)).await;
        assert_eq!(client.answer().await.status_and_reason(), (504, Some("request_timeout")), "{method}");
        assert_eq!(watch.seconds(), 45, "{method}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_stops_amid_its_body_gets_a_timeout_answer() {
    let mesh = Mesh::default();
    let a = mesh.silent(A);
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80], stream_idle_timeout: 20s");
    let (mut client, watch) = (sidecar.client().await, Watch::start());
    client.send("POST / HTTP/1.1\r\nhost: orders\r\ncontent-length: 30\r\n\r\nhalf of it").await;
    assert_eq!(client.answer().await.status_and_reason(), (408, Some("request_stalled")));
    assert_eq!(watch.seconds(), 20);
    settle().await;
    assert_eq!(a.open(), 0, "what was under way upstream is dropped");
    assert_eq!(sidecar.sum("pillion_requests_total status=408 reason=request_stalled"), 1);
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_the_endpoint_does_not_take_ends_by_the_idle_timeout() {
    let mesh = Mesh::default();
    let _a = mesh.scripted(A, |mut peer: Peer, _| async move {
        peer.head().await;
        pass(3600).await;
    });
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80], stream_idle_timeout: 20s");
    let (mut client, watch) = (sidecar.client().await, Watch::start());
    client.send("POST / HTTP/1.1\r\nhost: orders\r\ncontent-length: 10000000\r\n\r\n").await;
    let megabytes = vec![b'.'; 10_000_000];
    client.send(&megabytes).await; // the rest is read and forgotten, so that the answer is not lost
    assert_eq!(watch.seconds(), 20);
    assert_eq!(client.answer().await.status_and_reason(), (504, Some("stream_idle_timeout")));
    assert_eq!(sidecar.sum("pillion_requests_total reason=stream_idle_timeout"), 1);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_pauses_too_long_is_cut_and_keeps_the_status_it_had() {
    let mesh = Mesh::default();
    let a = mesh.scripted(A, |mut peer: Peer, _| async move {
        peer.message().await;
        peer.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n").await;
        peer.rest().await;
    });
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80], stream_idle_timeout: 20s");
    let (mut client, watch) = (sidecar.client().await, Watch::start());
    let answer = client.get("/").await;
    assert_eq!((answer.status_and_reason(), &*answer.body, answer.is_whole), ((200, None), "half", false));
    assert_eq!(watch.seconds(), 20);
    settle().await;
    assert_eq!(a.open(), 0);
    assert_eq!(sidecar.sum("pillion_requests_total status=200 reason=stream_idle_timeout"), 1);
}

#[tokio::test(start_paused = true)]
async fn max_duration_ends_even_an_answer_that_never_pauses() {
    let mesh = Mesh::default();
    let _a = mesh.scripted(A, |mut peer: Peer, _| async move {
        peer.message().await;
        peer.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await;
        while peer.try_send("1\r\n.\r\n").await.is_ok() {
            pass(1).await;
        }
    });
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80], max_duration: 90s");
    let (mut client, watch) = (sidecar.client().await, Watch::start());
    let answer = client.get("/").await;
    assert!(!answer.is_whole);
    assert!((89..=91).contains(&watch.seconds()), "{} s", watch.seconds());
    assert_eq!(sidecar.sum("pillion_requests_total status=200 reason=max_duration"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_long_answer_outlives_the_timeout_which_ends_at_its_headers() {
    let mesh = Mesh::default();
    let _a = mesh.scripted(A, |mut peer: Peer, _| async move {
        peer.message().await;
        peer.send("HTTP/1.1 200 OK\r\ncontent-length: 60\r\n\r\n").await;
        peer.trickle(&["."; 60], secs(1)).await;
    });
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80], timeout: 5s");
    let answer = sidecar.client().await.get("/").await;
    assert_eq!((answer.body.len(), answer.is_whole), (60, true));
}

#[tokio::test(start_paused = true)]
async fn a_try_above_the_per_try_timeout_is_given_up_and_another_endpoint_answers() {
    let mesh = Mesh::default();
    let (a, b) = (mesh.silent(A), mesh.answering(B, OK));
    let sidecar = mesh.caller(
        "endpoints: [10.0.0.1:80, 10.0.0.2:80], load_balancer: round_robin, \
         retry: { per_try_timeout: 2s, conditions: [per_try_timeout] }",
    );
    let watch = Watch::start();
    assert_eq!(sidecar.client().await.get("/").await.status_and_reason(), (200, None));
    assert_eq!((watch.seconds(), a.hits(), b.hits()), (2, 1, 1));
    assert_eq!(a.open(), 0, "the try that was given up is no longer under way");
    assert_eq!(sidecar.sum("pillion_retries_total outcome=succeeded"), 1);
}

#[tokio::test(start_paused = true)]
async fn the_last_try_may_take_the_time_that_is_left() {
    let mesh = Mesh::default();
    let (a, b) = (mesh.silent(A), slow(&mesh, B, 9, OK));
    let sidecar = mesh.caller(
        "endpoints: [10.0.0.1:80, 10.0.0.2:80], load_balancer: round_robin, \
         retry: { attempts: 1, per_try_timeout: 2s, conditions: [per_try_timeout] }",
    );
    let watch = Watch::start();
    assert_eq!(sidecar.client().await.get("/").await.status_and_reason(), (200, None));
    assert_eq!((watch.seconds(), a.hits(), b.hits()), (11, 1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_request_that_may_not_be_tried_again_is_not_bounded_by_the_per_try_timeout() {
    let mesh = Mesh::default();
    let a = slow(&mesh, A, 9, OK);
    let sidecar = mesh
        .caller("endpoints: [10.0.0.1:80], retry: { per_try_timeout: 2s, conditions: [per_try_timeout] }");
    let mut client = sidecar.client().await;
    let answer = client.ask("POST / HTTP/1.1\r\nhost: orders\r\ncontent-length: 1\r\n\r\n.").await;
    assert_eq!((answer.status_and_reason(), a.hits()), ((200, None), 1));
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_cannot_be_connected_to_in_time_is_a_connect_timeout() {
    let mesh = Mesh::default();
    mesh.black_hole(A);
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80], connect_timeout: 700ms, retry: off");
    let start = tokio::time::Instant::now();
    assert_eq!(sidecar.client().await.get("/").await.status_and_reason(), (504, Some("connect_timeout")));
    assert!(start.elapsed() < Duration::from_millis(710));
    assert_eq!(sidecar.sum("pillion_connections_total service=orders outcome=timeout"), 1);
}
