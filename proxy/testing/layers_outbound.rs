//! What each layer of the outbound stack does: the stack with it, compared with the stack without it.

use super::backend::{OK, UNAVAILABLE};
use super::bench::Bench;
use super::mesh::{A, B, Mesh, Watch, secs, settle};
use pillion_sidecar::layers::Name;

const ONE: &str = "endpoints: [10.0.0.1:80]";
const TWO: &str = "endpoints: [10.0.0.1:80, 10.0.0.2:80], load_balancer: round_robin";

#[tokio::test(start_paused = true)]
async fn without_record_a_request_leaves_no_trace_in_the_metrics() {
    let mesh = Mesh::default();
    let _a = mesh.answering(A, OK);
    let bench = Bench::caller(&mesh, ONE);
    bench.without(Name::Record).get("/").await;
    settle().await;
    assert_eq!(bench.sum("pillion_requests_total"), 0);
    bench.client().get("/").await;
    settle().await;
    assert_eq!(bench.sum("pillion_requests_total direction=outbound service=orders status=200"), 1);
}

#[tokio::test(start_paused = true)]
async fn without_route_no_request_finds_its_service() {
    let mesh = Mesh::default();
    let a = mesh.answering(A, OK);
    let bench = Bench::caller(&mesh, ONE);
    assert_eq!(bench.without(Name::Route).get("/").await.status_and_reason(), (404, Some("no_route")));
    assert_eq!(a.connections(), 0);
    assert_eq!(bench.client().get("/").await.status_and_reason(), (200, None));
}

#[tokio::test(start_paused = true)]
async fn without_headers_a_claimed_identity_travels_on() {
    const FORGED: &str =
        "GET / HTTP/1.1\r\nhost: orders\r\nx-forwarded-client-cert: URI=spiffe://evil\r\n\r\n";
    let mesh = Mesh::default();
    let a = mesh.answering(A, OK);
    let bench = Bench::caller(&mesh, ONE);
    bench.without(Name::Headers).ask(FORGED).await;
    bench.client().ask(FORGED).await;
    let claims: Vec<_> =
        a.requests().iter().map(|request| request.header("x-forwarded-client-cert").is_some()).collect();
    assert_eq!(claims, [true, false]);
}

#[tokio::test(start_paused = true)]
async fn without_timeout_a_silent_endpoint_is_waited_for_for_ever() {
    let mesh = Mesh::default();
    let _a = mesh.silent(A);
    let bench = Bench::caller(&mesh, ONE);
    let mut patient = bench.without(Name::Timeout);
    assert!(tokio::time::timeout(secs(3600), patient.get("/")).await.is_err());
    let watch = Watch::start();
    assert_eq!(bench.client().get("/").await.status_and_reason(), (504, Some("request_timeout")));
    assert_eq!(watch.seconds(), 15);
}

#[tokio::test(start_paused = true)]
async fn without_retry_the_first_endpoint_s_answer_is_final() {
    let mesh = Mesh::default();
    let (a, b) = (mesh.answering(A, UNAVAILABLE), mesh.answering(B, OK));
    let bench = Bench::caller(&mesh, TWO);
    assert_eq!(bench.without(Name::Retry).get("/").await.status_and_reason(), (503, None));
    assert_eq!((a.hits(), b.hits()), (1, 0));
    let bench = Bench::caller(&mesh, TWO);
    assert_eq!(bench.client().get("/").await.status_and_reason(), (200, None));
    assert_eq!((a.hits(), b.hits()), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn without_per_try_one_slow_endpoint_takes_all_the_time_there_is() {
    let mesh = Mesh::default();
    let (_a, b) = (mesh.silent(A), mesh.answering(B, OK));
    let orders = format!("{TWO}, retry: {{ per_try_timeout: 3s, conditions: [per_try_timeout] }}");
    let bench = Bench::caller(&mesh, &orders);
    assert_eq!(
        bench.without(Name::PerTry).get("/").await.status_and_reason(),
        (504, Some("request_timeout"))
    );
    assert_eq!(b.hits(), 0);
    let (bench, watch) = (Bench::caller(&mesh, &orders), Watch::start());
    assert_eq!(bench.client().get("/").await.status_and_reason(), (200, None));
    assert_eq!(watch.seconds(), 3);
}

#[tokio::test(start_paused = true)]
async fn without_limit_max_requests_bounds_nothing() {
    let mesh = Mesh::default();
    let a = mesh.silent(A);
    let bench = Bench::caller(&mesh, &format!("{ONE}, circuit_breaker: {{ max_requests: 1 }}"));
    let (mut first, mut second) = (bench.client(), bench.without(Name::Limit));
    first.send("GET /1 HTTP/1.1\r\nhost: orders\r\n\r\n").await;
    second.send("GET /2 HTTP/1.1\r\nhost: orders\r\n\r\n").await;
    settle().await;
    assert_eq!(a.hits(), 2);
    assert_eq!(bench.client().get("/3").await.status_and_reason(), (503, Some("limit_requests")));
    assert_eq!(a.hits(), 2);
}
