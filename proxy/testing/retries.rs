//! Which requests are retried, at which endpoint and how often, and which are not.

use super::backend::{Backend, HANG_UP, OK, UNAVAILABLE};
use super::mesh::{A, B, C, Mesh, Sidecar, Watch, pass, settle};

const TWO: &str = "endpoints: [10.0.0.1:80, 10.0.0.2:80], load_balancer: round_robin";
const POST: &str = "POST / HTTP/1.1\r\nhost: orders\r\ncontent-length: 1\r\n\r\n.";

fn retry(sidecar: &Sidecar, outcome: &str) -> u64 {
    sidecar.sum(&format!("pillion_retries_total service=orders outcome={outcome}"))
}

#[tokio::test(start_paused = true)]
async fn a_request_to_a_busy_endpoint_is_answered_by_another() {
    let mesh = Mesh::default();
    let (a, b) = (mesh.answering(A, UNAVAILABLE), mesh.answering(B, OK));
    let sidecar = mesh.caller(TWO);
    assert_eq!(sidecar.client().await.get("/").await.status_and_reason(), (200, None));
    assert_eq!((a.hits(), b.hits(), retry(&sidecar, "succeeded")), (1, 1, 1));
    assert_eq!(sidecar.sum("pillion_requests_total"), 1, "one request, however many tries");
}

#[tokio::test(start_paused = true)]
async fn of_three_endpoints_none_is_tried_twice() {
    let mesh = Mesh::default();
    let all = [A, B, C].map(|address| mesh.answering(address, UNAVAILABLE));
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80, 10.0.0.2:80, 10.0.0.3:80]");
    let answer = sidecar.client().await.get("/").await;
    assert_eq!(
        (answer.status_and_reason(), &*answer.body),
        ((503, None), "busy"),
        "the last answer is the answer"
    );
    assert_eq!((all.map(|endpoint| endpoint.hits()), retry(&sidecar, "failed")), ([1, 1, 1], 2));
}

#[tokio::test(start_paused = true)]
async fn c6_ten_requests_with_two_further_tries_each_are_twenty_retries() {
    let mesh = Mesh::default();
    let all = [A, B, C].map(|address| mesh.answering(address, UNAVAILABLE));
    let sidecar = mesh.caller(
        "endpoints: [10.0.0.1:80, 10.0.0.2:80, 10.0.0.3:80], \
         outlier_detection: { consecutive_errors: off }",
    );
    for _ in 0..10 {
        assert_eq!(sidecar.client().await.get("/").await.status_and_reason(), (503, None));
    }
    assert_eq!(all.iter().map(Backend::hits).sum::<usize>(), 30);
    assert_eq!((retry(&sidecar, "failed"), retry(&sidecar, "succeeded")), (20, 0));
}

#[tokio::test(start_paused = true)]
async fn c6_each_try_counts_as_it_ended_and_not_as_the_request_did() {
    let mesh = Mesh::default();
    let (_a, _b) = (mesh.answering(A, UNAVAILABLE), mesh.answering(B, UNAVAILABLE));
    let _c = mesh.answering(C, OK);
    let sidecar =
        mesh.caller("endpoints: [10.0.0.1:80, 10.0.0.2:80, 10.0.0.3:80], load_balancer: round_robin");
    assert_eq!(sidecar.client().await.get("/").await.status_and_reason(), (200, None));
    let counted = ["failed", "succeeded"].map(|outcome| retry(&sidecar, outcome));
    assert_eq!(counted, [1, 1]);
}

#[tokio::test(start_paused = true)]
async fn c6_a_retry_is_counted_although_its_client_left_during_it() {
    let mesh = Mesh::default();
    let (_a, b) = (mesh.answering(A, UNAVAILABLE), mesh.silent(B));
    let sidecar = mesh.caller(TWO);
    let mut client = sidecar.client().await;
    client.send("GET / HTTP/1.1\r\nhost: orders\r\n\r\n").await;
    pass(1).await;
    assert_eq!(b.hits(), 1);
    drop(client);
    settle().await;
    assert_eq!(retry(&sidecar, "failed"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_post_that_was_sent_is_not_sent_again() {
    let mesh = Mesh::default();
    let (a, b) = (mesh.answering(A, UNAVAILABLE), mesh.answering(B, OK));
    let sidecar = mesh.caller(TWO);
    assert_eq!(sidecar.client().await.ask(POST).await.status_and_reason(), (503, None));
    assert_eq!((a.hits(), b.hits()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_post_with_an_idempotency_key_is_sent_again_where_that_is_allowed() {
    const KEYED: &str = "POST / HTTP/1.1\r\nhost: orders\r\nidempotency-key: 7\r\ncontent-length: 1\r\n\r\n.";
    let mesh = Mesh::default();
    let (_a, b) = (mesh.answering(A, UNAVAILABLE), mesh.answering(B, OK));
    let sidecar = mesh.caller(&format!("{TWO}, retry: {{ methods: idempotent_or_keyed }}"));
    assert_eq!(sidecar.client().await.ask(KEYED).await.status_and_reason(), (200, None));
    assert_eq!(b.requests()[0].body, ".");
}

#[tokio::test(start_paused = true)]
async fn a_key_that_is_removed_with_the_connections_own_fields_allows_nothing() {
    const UNKEYED: &str = "POST / HTTP/1.1\r\nhost: orders\r\nconnection: idempotency-key\r\nidempotency-key: 7\r\n\
                           content-length: 1\r\n\r\n.";
    let mesh = Mesh::default();
    let (a, b) = (mesh.answering(A, UNAVAILABLE), mesh.answering(B, OK));
    let sidecar = mesh.caller(&format!("{TWO}, retry: {{ methods: idempotent_or_keyed }}"));
    assert_eq!(sidecar.client().await.ask(UNKEYED).await.status_and_reason(), (503, None));
    assert_eq!((a.hits(), b.hits()), (1, 0));
    assert!(!a.requests()[0].head.contains("idempotency-key"), "it is for one connection");
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_refused_is_made_elsewhere_for_any_method() {
    let mesh = Mesh::default();
    let b = mesh.answering(B, OK);
    let sidecar = mesh.caller(TWO);
    assert_eq!(sidecar.client().await.ask(POST).await.status_and_reason(), (200, None));
    assert_eq!((b.requests()[0].body.as_str(), retry(&sidecar, "succeeded")), (".", 1));
}

#[tokio::test(start_paused = true)]
async fn a_request_whose_endpoint_closes_before_its_answer_is_answered_by_another() {
    let mesh = Mesh::default();
    let (a, b) = (mesh.answering(A, HANG_UP), mesh.answering(B, OK));
    let sidecar = mesh.caller(TWO);
    assert_eq!(sidecar.client().await.get("/").await.status_and_reason(), (200, None));
    assert_eq!((a.hits(), b.hits()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_half_sent_post_whose_endpoint_dies_fails_and_is_not_sent_again() {
    let mesh = Mesh::default();
    let a = mesh.scripted(A, |mut peer, _| async move {
        peer.head().await;
    });
    let b = mesh.answering(B, OK);
    let sidecar = mesh.caller(TWO);
    let mut client = sidecar.client().await;
    client.send("POST / HTTP/1.1\r\nhost: orders\r\ncontent-length: 100\r\n\r\nfirst half").await;
    let (status, reason) =
        (client.answer().await.status_and_reason().0, sidecar.sum("pillion_requests_total status=502"));
    assert_eq!((status, reason, a.connections(), b.hits()), (502, 1, 1, 0));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_tried_again_once_headers_went_to_the_client() {
    let mesh = Mesh::default();
    let a = mesh.scripted(A, |mut peer, _| async move {
        peer.message().await;
        peer.send("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nfirst half").await;
    });
    let b = mesh.answering(B, OK);
    let sidecar = mesh.caller(TWO);
    let answer = sidecar.client().await.get("/").await;
    assert_eq!(
        (answer.status_and_reason(), &*answer.body, answer.is_whole),
        ((200, None), "first half", false)
    );
    settle().await;
    assert_eq!((a.hits(), b.hits()), (1, 0));
    assert_eq!(sidecar.sum("pillion_requests_total status=200 reason=upstream_closed"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_retry_says_which_attempt_it_is() {
    let mesh = Mesh::default();
    let (a, b) = (mesh.answering(A, UNAVAILABLE), mesh.answering(B, OK));
    mesh.caller(TWO).client().await.get("/").await;
    assert_eq!(a.requests()[0].header("x-pillion-attempt"), None);
    assert_eq!(b.requests()[0].header("x-pillion-attempt"), Some("2"));
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_a_retry_already_is_not_retried_once_more() {
    let mesh = Mesh::default();
    let (a, b) = (mesh.answering(A, UNAVAILABLE), mesh.answering(B, OK));
    let sidecar = mesh.caller(TWO);
    let again = "GET / HTTP/1.1\r\nhost: orders\r\nx-pillion-attempt: 2\r\n\r\n";
    assert_eq!(sidecar.client().await.ask(again).await.status_and_reason(), (503, None));
    assert_eq!((a.hits(), b.hits()), (1, 0));
    assert_eq!(a.requests()[0].header("x-pillion-attempt"), Some("2"), "and is still marked as a second try");
}

/// 503 with these fields.
fn busy(fields: &str) -> &'static str {
    Box::leak(format!("HTTP/1.1 503 Busy\r\n{fields}\r\ncontent-length: 0\r\n\r\n").into_boxed_str())
}

#[tokio::test(start_paused = true)]
async fn a_retry_waits_as_long_as_the_answer_asks_for() {
    let dated = "date: Fri, 27 Nov 2026 10:00:00 GMT\r\nretry-after: Fri, 27 Nov 2026 10:00:03 GMT";
    for fields in ["retry-after: 3", dated] {
        let mesh = Mesh::default();
        let (a, b) = (mesh.answering(A, busy(fields)), mesh.answering(B, OK));
        let sidecar = mesh.caller(TWO);
        let watch = Watch::start();
        assert_eq!(sidecar.client().await.get("/").await.status_and_reason(), (200, None));
        assert_eq!((a.hits(), b.hits(), watch.seconds()), (1, 1, 3), "{fields}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_asks_for_a_longer_pause_than_the_caller_waits_goes_back_at_once() {
    for (timeout, fields) in
        [("2s", "retry-after: 2"), ("off", "retry-after: 60"), ("15s", "retry-after: 3000")]
    {
        let mesh = Mesh::default();
        let (a, b) = (mesh.answering(A, busy(fields)), mesh.answering(B, OK));
        let sidecar = mesh.caller(&format!("{TWO}, timeout: {timeout}"));
        let watch = Watch::start();
        let answer = sidecar.client().await.get("/").await;
        assert_eq!((answer.status_and_reason(), watch.seconds()), ((503, None), 0), "{fields}");
        assert!(answer.head.contains("retry-after"), "the client may wait longer");
        assert_eq!((a.hits(), b.hits()), (1, 0));
        assert_eq!(sidecar.sum("pillion_circuit_breaker_used limit=retries"), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_waits_for_its_retry_holds_no_place_at_the_service() {
    let mesh = Mesh::default();
    let (_a, _b) = (mesh.answering(A, busy("retry-after: 8")), mesh.answering(B, OK));
    let sidecar = mesh.caller(TWO);
    let mut client = sidecar.client().await;
    client.send("GET / HTTP/1.1\r\nhost: orders\r\n\r\n").await;
    pass(2).await;
    let used = |limit| sidecar.sum(&format!("pillion_circuit_breaker_used limit={limit}"));
    assert_eq!((used("requests"), used("retries")), (0, 1));
    assert_eq!(client.answer().await.status_and_reason(), (200, None));
}

#[tokio::test(start_paused = true)]
async fn retries_that_wait_long_leave_half_of_max_retries_to_others() {
    let mesh = Mesh::default();
    let (_a, _b) = (mesh.answering(A, busy("retry-after: 8")), mesh.answering(B, busy("retry-after: 8")));
    let sidecar = mesh.caller(&format!("{TWO}, circuit_breaker: {{ max_retries: 4 }}"));
    let mut waiting = Vec::new();
    for _ in 0..2 {
        let mut client = sidecar.client().await;
        client.send("GET / HTTP/1.1\r\nhost: orders\r\n\r\n").await;
        waiting.push(client);
        settle().await;
    }
    let watch = Watch::start();
    assert_eq!(sidecar.client().await.get("/").await.status_and_reason(), (503, None));
    assert_eq!(watch.seconds(), 0, "the answer goes back at once");
    assert_eq!(sidecar.sum("pillion_retries_total outcome=limit"), 1);
}

#[tokio::test(start_paused = true)]
async fn retry_off_means_off() {
    let mesh = Mesh::default();
    let (a, b) = (mesh.answering(A, UNAVAILABLE), mesh.answering(B, OK));
    let sidecar = mesh.caller(&format!("{TWO}, retry: off"));
    assert_eq!(sidecar.client().await.get("/").await.status_and_reason(), (503, None));
    assert_eq!((a.hits(), b.hits()), (1, 0));
}

/// An endpoint that is never ejected, without a pause between tries.
const FAILING: &str = "endpoints: [10.0.0.1:80], outlier_detection: { consecutive_errors: off }";

#[tokio::test(start_paused = true)]
async fn the_budget_allows_exactly_its_share() {
    let mesh = Mesh::default();
    let a = mesh.answering(A, UNAVAILABLE);
    let budget = "budget: { ratio: 20%, min_per_second: 0 }";
    let sidecar =
        mesh.caller(&format!("{FAILING}, retry: {{ {budget}, backoff: {{ base: 1ms, max: 1ms }} }}"));
    let mut client = sidecar.client().await;
    for _ in 0..50 {
        assert_eq!(client.get("/").await.status_and_reason(), (503, None));
    }
    assert_eq!(a.hits(), 50 + 10);
    assert!(retry(&sidecar, "budget") >= 40);
}

#[tokio::test(start_paused = true)]
async fn a_service_with_few_requests_may_retry_min_per_second_times() {
    let mesh = Mesh::default();
    let a = mesh.answering(A, UNAVAILABLE);
    let budget = "budget: { ratio: 0%, min_per_second: 1 }";
    let sidecar =
        mesh.caller(&format!("{FAILING}, retry: {{ {budget}, backoff: {{ base: 1ms, max: 1ms }} }}"));
    let mut client = sidecar.client().await;
    for _ in 0..20 {
        client.get("/").await;
    }
    assert_eq!(a.hits(), 20 + 10, "one a second, of the last ten seconds");
    pass(11).await;
    client.get("/").await;
    assert_eq!(a.hits(), 30 + 3, "both further tries, once the ten seconds are over");
}

#[tokio::test(start_paused = true)]
async fn retries_beyond_max_retries_are_not_made() {
    let mesh = Mesh::default();
    let a = mesh.answering(A, UNAVAILABLE);
    let sidecar = mesh.caller(&format!("{FAILING}, circuit_breaker: {{ max_retries: 0 }}"));
    assert_eq!(
        sidecar.client().await.get("/").await.status_and_reason(),
        (503, None),
        "the answer there is, stays"
    );
    assert_eq!((a.hits(), retry(&sidecar, "limit")), (1, 1));
    assert_eq!(sidecar.sum("pillion_circuit_breaker_rejections_total limit=retries"), 1);
}
