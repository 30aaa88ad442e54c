//! A second try beside a slow first one.

use super::backend::{Backend, OK, UNAVAILABLE};
use super::http2;
use super::mesh::{A, B, Mesh, Sidecar, Watch, pass, settle};

const TWO: &str = "endpoints: [10.0.0.1:80, 10.0.0.2:80], load_balancer: round_robin";
const HEDGED: &str =
    "endpoints: [10.0.0.1:80, 10.0.0.2:80], load_balancer: round_robin, retry: { hedge_after: 2s }";
const PUT: &str = "PUT / HTTP/1.1\r\nhost: orders\r\ncontent-length: 5\r\n\r\n12345";
const POST: &str = "POST / HTTP/1.1\r\nhost: orders\r\ncontent-length: 5\r\n\r\n12345";

/// Answers after so many seconds.
fn slow(mesh: &Mesh, address: &str, seconds: u64, answer: &'static str) -> Backend {
    mesh.scripted(address, move |mut peer, _| async move {
        while peer.message().await.is_some() {
            pass(seconds).await;
            if peer.try_send(answer).await.is_err() {
                return;
            }
        }
    })
}

fn retries(sidecar: &Sidecar, outcome: &str) -> u64 {
    sidecar.sum(&format!("pillion_retries_total outcome={outcome}"))
}

#[tokio::test(start_paused = true)]
async fn a_slow_request_is_answered_by_another_endpoint_and_the_slow_try_is_cancelled_at_once() {
    let mesh = Mesh::default();
    let (a, b) = (mesh.silent(A), mesh.answering(B, OK));
    let sidecar = mesh.caller(HEDGED);
    let watch = Watch::start();
    assert_eq!(sidecar.client().await.ask(PUT).await.status_and_reason(), (200, None));
    assert_eq!((watch.seconds(), a.hits(), b.hits()), (2, 1, 1));
    settle().await;
    assert_eq!(a.open(), 0, "its connection is closed");
    let second = &b.requests()[0];
    assert_eq!((second.header("x-pillion-attempt"), &*second.body), (Some("2"), "12345"));
    assert_eq!((retries(&sidecar, "hedged"), retries(&sidecar, "succeeded")), (1, 0));
    assert_eq!(sidecar.sum("pillion_retries_total"), 1);
    let used = |limit| sidecar.sum(&format!("pillion_circuit_breaker_used limit={limit}"));
    assert_eq!((used("retries"), used("requests")), (0, 0), "all permits are back");
    assert_eq!(sidecar.sum("pillion_requests_total"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_first_try_that_is_answered_after_all_wins_and_the_second_is_cancelled() {
    let mesh = Mesh::default();
    let (a, b) = (slow(&mesh, A, 3, OK), mesh.silent(B));
    let sidecar = mesh.caller(HEDGED);
    let watch = Watch::start();
    assert_eq!(sidecar.client().await.get("/").await.status_and_reason(), (200, None));
    settle().await;
    assert_eq!((watch.seconds(), a.open(), b.hits(), b.open()), (3, 1, 1, 0));
    assert_eq!(retries(&sidecar, "hedged"), 1);
}

#[tokio::test(start_paused = true)]
async fn over_http2_the_stream_of_the_slow_try_is_reset_and_its_connection_stays() {
    let mesh = Mesh::default();
    let (sender, mut resets) = tokio::sync::mpsc::unbounded_channel();
    let _a = mesh.http2(A, 100, move |_, _, mut respond| {
        let sender = sender.clone();
        async move {
            let reset = std::future::poll_fn(|cx| respond.poll_reset(cx)).await;
            sender.send(reset.expect("a reset")).expect("the test listens");
        }
    });
    let _b = mesh.http2(B, 100, |_, _, respond| async move { http2::answer(respond, 200, "b") });
    let sidecar = mesh.caller(&format!("{HEDGED}, protocol: http2"));
    assert_eq!(sidecar.client().await.get("/").await.status_and_reason(), (200, None));
    assert_eq!(resets.recv().await, Some(h2::Reason::CANCEL));
}

#[tokio::test(start_paused = true)]
async fn a_bad_answer_of_one_try_waits_for_the_other() {
    for (a, b) in [((3, UNAVAILABLE), (4, OK)), ((5, OK), (1, UNAVAILABLE))] {
        let mesh = Mesh::default();
        let (first, second) = (slow(&mesh, A, a.0, a.1), slow(&mesh, B, b.0, b.1));
        let sidecar = mesh.caller(HEDGED);
        assert_eq!(sidecar.client().await.get("/").await.status_and_reason(), (200, None));
        assert_eq!((first.hits(), second.hits()), (1, 1));
    }
}

#[tokio::test(start_paused = true)]
async fn two_bad_answers_are_two_tries_and_a_third_follows() {
    let mesh = Mesh::default();
    let (a, b) = (slow(&mesh, A, 3, UNAVAILABLE), slow(&mesh, B, 3, UNAVAILABLE));
    let sidecar = mesh.caller(HEDGED);
    assert_eq!(sidecar.client().await.get("/").await.status_and_reason(), (503, None));
    assert_eq!(a.hits() + b.hits(), 3, "attempts is 2");
    assert_eq!((retries(&sidecar, "hedged"), retries(&sidecar, "failed")), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn what_may_not_be_sent_twice_is_not_hedged() {
    let marked = "GET / HTTP/1.1\r\nhost: orders\r\nx-pillion-attempt: 2\r\n\r\n";
    let upgrade = "GET / HTTP/1.1\r\nhost: orders\r\nconnection: upgrade\r\nupgrade: chat\r\n\r\n";
    let rows = [
        (POST, "hedge_after: 2s"),
        (PUT, "hedge_after: 2s, max_body: 4B"),
        (PUT, "hedge_after: 2s, methods: [GET]"),
        (PUT, "hedge_after: off"),
        (POST, "hedge_after: 2s, methods: all"),
        (marked, "hedge_after: 2s"),
        (upgrade, "hedge_after: 2s"),
    ];
    for (request, retry) in rows {
        let mesh = Mesh::default();
        let (a, b) = (slow(&mesh, A, 9, OK), mesh.answering(B, OK));
        let sidecar = mesh.caller(&format!("{TWO}, retry: {{ {retry} }}"));
        assert_eq!(sidecar.client().await.ask(request).await.status_and_reason(), (200, None));
        assert_eq!((a.hits(), b.hits()), (1, 0), "{retry}: {request}");
        assert_eq!(retries(&sidecar, "hedged"), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_whose_body_is_still_on_its_way_is_hedged_when_it_has_come() {
    let mesh = Mesh::default();
    let (_a, b) = (mesh.silent(A), mesh.answering(B, OK));
    let sidecar = mesh.caller(HEDGED);
    let mut client = sidecar.client().await;
    let (head, end) = PUT.split_at(PUT.len() - 2);
    client.send(head).await;
    pass(5).await;
    assert_eq!(b.hits(), 0, "half a body is not sent twice");
    let watch = Watch::start();
    client.send(end).await;
    assert_eq!(client.answer().await.status_and_reason(), (200, None));
    assert_eq!(
        (&*b.requests()[0].body, watch.seconds()),
        ("12345", 2),
        "the time of the upload does not count"
    );
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_never_answers_is_ejected_although_others_answer_for_it() {
    let mesh = Mesh::default();
    let (a, b) = (mesh.silent(A), mesh.answering(B, OK));
    let sidecar = mesh.caller(HEDGED);
    let watch = Watch::start();
    for _ in 0..8 {
        assert_eq!(sidecar.client().await.get("/").await.status_and_reason(), (200, None));
    }
    assert_eq!((a.hits(), b.hits(), watch.seconds()), (5, 8, 10), "five errors in a row");
    assert_eq!(sidecar.sum("pillion_endpoint_ejections_total"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_method_that_a_list_names_is_hedged() {
    let mesh = Mesh::default();
    let (_a, b) = (mesh.silent(A), mesh.answering(B, OK));
    let sidecar = mesh.caller(&format!("{TWO}, retry: {{ hedge_after: 2s, methods: [POST] }}"));
    assert_eq!(sidecar.client().await.ask(POST).await.status_and_reason(), (200, None));
    assert_eq!(b.hits(), 1);
}

#[tokio::test(start_paused = true)]
async fn hedges_are_charged_to_the_budget_and_to_max_retries() {
    let rows = [
        ("retry: { hedge_after: 2s, budget: { ratio: 0%, min_per_second: 0 } }", "budget"),
        ("retry: { hedge_after: 2s }, circuit_breaker: { max_retries: 0 }", "limit"),
    ];
    for (keys, outcome) in rows {
        let mesh = Mesh::default();
        let (_a, b) = (slow(&mesh, A, 9, OK), mesh.answering(B, OK));
        let sidecar = mesh.caller(&format!("{TWO}, {keys}"));
        assert_eq!(sidecar.client().await.get("/").await.status_and_reason(), (200, None));
        assert_eq!((b.hits(), retries(&sidecar, outcome), retries(&sidecar, "hedged")), (0, 1, 0), "{keys}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_second_try_that_the_limit_of_requests_refuses_leaves_the_first_alone() {
    let mesh = Mesh::default();
    let (_a, b) = (slow(&mesh, A, 9, OK), mesh.answering(B, OK));
    let sidecar = mesh.caller(&format!("{HEDGED}, circuit_breaker: {{ max_requests: 1 }}"));
    assert_eq!(sidecar.client().await.get("/").await.status_and_reason(), (200, None));
    assert_eq!((b.hits(), retries(&sidecar, "hedged")), (0, 0), "what was not made is not counted");
}

#[tokio::test(start_paused = true)]
async fn p95_is_learnt_from_recent_requests_and_does_not_fall_by_hedging() {
    let mesh = Mesh::default();
    let a = mesh.scripted(A, |mut peer, connection| async move {
        for nth in 0.. {
            peer.message().await;
            if connection == 0 && nth == 25 {
                return pass(60).await; // without an answer
            }
            peer.send(OK).await;
        }
    });
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80], timeout: 15s, retry: { hedge_after: p95 }");
    let mut client = sidecar.client().await;
    for _ in 0..25 {
        assert_eq!(client.get("/").await.status_and_reason(), (200, None));
    }
    assert_eq!(retries(&sidecar, "hedged"), 0);
    let watch = Watch::start();
    assert_eq!(client.get("/").await.status_and_reason(), (200, None));
    assert_eq!((a.hits(), watch.seconds(), retries(&sidecar, "hedged")), (27, 0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_ends_both_tries() {
    let mesh = Mesh::default();
    let (a, b) = (mesh.silent(A), mesh.silent(B));
    let sidecar = mesh.caller(HEDGED);
    let mut client = sidecar.client().await;
    client.send("GET / HTTP/1.1\r\nhost: orders\r\n\r\n").await;
    pass(3).await;
    assert_eq!((a.open(), b.open()), (1, 1));
    drop(client);
    settle().await;
    assert_eq!((a.open(), b.open(), retries(&sidecar, "hedged")), (0, 0, 1));
    assert_eq!(sidecar.sum("pillion_circuit_breaker_used"), 0);
}
