//! Endpoints that keep failing are ejected, and return after one probe.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::backend::{Backend, HANG_UP, OK, UNAVAILABLE};
use super::mesh::{A, B, Mesh, Sidecar, caller, pass, settle};

const TWO: &str = "endpoints: [10.0.0.1:80, 10.0.0.2:80], load_balancer: round_robin, retry: off";

/// Fails in the given way while it is switched to failing.
fn patient(mesh: &Mesh, failure: &'static str) -> (Backend, Arc<AtomicBool>) {
    let ill = Arc::new(AtomicBool::new(true));
    let shared = ill.clone();
    (mesh.http1(A, move |_, _| if shared.load(Relaxed) { failure } else { OK }), ill)
}

pub(super) async fn send(sidecar: &Sidecar, requests: usize) {
    let mut client = sidecar.client().await;
    for _ in 0..requests {
        client.get("/").await;
        settle().await;
    }
}

#[tokio::test(start_paused = true)]
async fn after_five_errors_an_endpoint_is_ejected_for_30_seconds_and_returns_after_one_probe() {
    for failure in [UNAVAILABLE, HANG_UP] {
        let mesh = Mesh::default();
        let ((a, ill), b) = (patient(&mesh, failure), mesh.answering(B, OK));
        let sidecar = mesh.caller(TWO);
        send(&sidecar, 40).await;
        assert_eq!((a.hits(), b.hits()), (5, 35));
        assert_eq!(sidecar.sum("pillion_endpoint_ejections_total cause=consecutive_errors"), 1);
        assert_eq!(sidecar.sum("pillion_endpoints state=ejected"), 1);
        pass(28).await;
        send(&sidecar, 10).await;
        assert_eq!(a.hits(), 5, "still at rest");
        pass(2).await;
        ill.store(false, Relaxed);
        send(&sidecar, 10).await;
        assert_eq!(sidecar.sum("pillion_endpoints state=ejected"), 0);
        assert!(a.hits() >= 9, "half of the requests again: {}", a.hits());
    }
}

#[tokio::test(start_paused = true)]
async fn each_cause_ejects_by_its_own_threshold_and_is_counted_by_its_name() {
    const INTERNAL: &str = "HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n";
    let rows = [
        ("gateway_errors: 2", Some(UNAVAILABLE), 2),
        ("gateway_errors: 2, error_rate: { min_requests: 4 }", Some(INTERNAL), 4),
        ("connect_failures: 3", None, 0),
    ];
    let causes = ["gateway_errors", "error_rate", "connect_failures"];
    for ((keys, failure, hits), cause) in rows.into_iter().zip(causes) {
        let mesh = Mesh::default();
        let (a, _b) = (failure.map(|failure| mesh.answering(A, failure)), mesh.answering(B, OK));
        let sidecar =
            mesh.caller(&format!("{TWO}, outlier_detection: {{ consecutive_errors: off, {keys} }}"));
        send(&sidecar, 40).await;
        assert_eq!(a.map_or(0, |a| a.hits()), hits, "{keys}");
        assert_eq!(sidecar.sum(&format!("pillion_endpoint_ejections_total cause={cause}")), 1, "{keys}");
        assert_eq!(sidecar.sum("pillion_endpoint_ejections_total"), 1, "{keys}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_resets_many_of_its_kept_connections_is_ejected_by_its_error_rate() {
    let mesh = Mesh::default();
    let a = mesh.http1(A, |nth, _| if nth % 2 == 1 { HANG_UP } else { OK });
    let _b = mesh.answering(B, OK);
    let rate = "outlier_detection: { error_rate: { above: 40%, min_requests: 4 } }";
    let sidecar = mesh.caller(&format!("{TWO}, {rate}"));
    send(&sidecar, 40).await;
    assert_eq!(a.hits(), 4, "each second one was on a kept connection");
    assert_eq!(sidecar.sum("pillion_endpoint_ejections_total cause=error_rate"), 1);
}

#[tokio::test(start_paused = true)]
async fn when_only_ejected_endpoints_are_left_the_answer_says_where_to_look() {
    let mesh = Mesh::default();
    let (_a, _b) = (mesh.answering(A, UNAVAILABLE), mesh.answering(B, OK));
    let mut sidecar = mesh.caller(TWO);
    send(&sidecar, 20).await;
    sidecar.reload(&caller("endpoints: [10.0.0.1:80], retry: off")).expect("a good file");
    let refused = sidecar.client().await.get("/").await;
    assert_eq!(refused.status_and_reason(), (503, Some("all_unhealthy")));
    let sentence = "all 1 endpoints of \"orders\" are ejected: see /clusters on the admin port";
    assert!(refused.body.contains(sentence), "{}", refused.body);
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_fails_its_probe_is_ejected_longer() {
    let mesh = Mesh::default();
    let ((a, _ill), _b) = (patient(&mesh, UNAVAILABLE), mesh.answering(B, OK));
    let sidecar = mesh.caller(TWO);
    send(&sidecar, 20).await;
    pass(31).await;
    send(&sidecar, 20).await;
    assert_eq!(a.hits(), 6, "five errors, one probe");
    pass(31).await;
    send(&sidecar, 20).await;
    assert_eq!(a.hits(), 6, "60 s now");
    pass(31).await;
    send(&sidecar, 20).await;
    assert_eq!(a.hits(), 7);
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_cannot_be_connected_to_is_ejected_and_the_caller_notices_nothing() {
    let mesh = Mesh::default();
    let b = mesh.answering(B, OK);
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80, 10.0.0.2:80], load_balancer: round_robin");
    send(&sidecar, 40).await;
    assert_eq!(b.hits(), 40);
    assert_eq!(sidecar.sum("pillion_requests_total status=200"), 40);
    assert_eq!(sidecar.sum("pillion_connections_total service=orders outcome=refused"), 5);
    assert_eq!(sidecar.sum("pillion_endpoints state=ejected"), 1);
}

#[tokio::test(start_paused = true)]
async fn the_last_endpoint_is_never_ejected() {
    let mesh = Mesh::default();
    let all = [A, B].map(|address| mesh.answering(address, UNAVAILABLE));
    let sidecar = mesh.caller(&format!("{TWO}, outlier_detection: {{ max_ejected: 100% }}"));
    send(&sidecar, 40).await;
    let hits = all.map(|endpoint| endpoint.hits());
    assert_eq!((hits.iter().min(), hits.iter().sum::<usize>()), (Some(&5), 40), "{hits:?}");
    assert_eq!(sidecar.sum("pillion_endpoints state=ejected"), 1);
    assert_eq!(sidecar.sum("pillion_requests_total status=503"), 40, "the endpoints' own word to the last");
}

#[tokio::test(start_paused = true)]
async fn a_single_endpoint_is_never_ejected() {
    let mesh = Mesh::default();
    let a = mesh.answering(A, UNAVAILABLE);
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80], retry: off");
    send(&sidecar, 20).await;
    assert_eq!(a.hits(), 20);
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_never_answers_in_time_is_ejected() {
    let mesh = Mesh::default();
    let (a, b) = (mesh.silent(A), mesh.answering(B, OK));
    let sidecar = mesh.caller(&format!("{TWO}, timeout: 1s"));
    send(&sidecar, 20).await;
    assert_eq!((a.hits(), b.hits()), (5, 15));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_goes_away_does_not_count_against_the_endpoint() {
    let mesh = Mesh::default();
    let (a, _b) = (mesh.silent(A), mesh.silent(B));
    let sidecar = mesh.caller(TWO);
    for _ in 0..20 {
        let mut client = sidecar.client().await;
        client.send("GET / HTTP/1.1\r\nhost: orders\r\n\r\n").await;
        settle().await;
        drop(client);
        settle().await;
    }
    assert_eq!(a.hits(), 10);
    assert_eq!(sidecar.sum("pillion_endpoints state=ejected"), 0);
}
