//! Active health checks: an endpoint that fails them gets no traffic until it passes again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use tokio::sync::Notify;

use super::backend::{Backend, OK, UNAVAILABLE};
use super::mesh::{A, B, Mesh, ORDERS, Pair, caller, expired, identity, pass};
use super::outliers::send;
use super::peer::Peer;

const TWO: &str = "endpoints: [10.0.0.1:80, 10.0.0.2:80], load_balancer: round_robin";
const CHECK: &str = "health_check: { http: /healthz, interval: 2s }";

/// Answers requests always, and checks while it is well.
fn patient(mesh: &Mesh, address: &str) -> (Backend, Arc<AtomicBool>) {
    let ill = Arc::new(AtomicBool::new(false));
    let shared = ill.clone();
    let answer = move |_, request: &super::peer::Message| match request.head.contains("/healthz") {
        true if shared.load(Relaxed) => UNAVAILABLE,
        _ => OK,
    };
    (mesh.http1(address, answer), ill)
}

fn traffic(backend: &Backend) -> usize {
    backend.requests().iter().filter(|request| !request.head.contains("/healthz")).count()
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_fails_its_checks_gets_no_traffic_until_it_passes_again() {
    let mesh = Mesh::default();
    let ((a, ill), (b, _)) = (patient(&mesh, A), patient(&mesh, B));
    let sidecar = mesh.caller(&format!("{TWO}, {CHECK}"));
    pass(5).await;
    send(&sidecar, 10).await;
    assert_eq!((traffic(&a), traffic(&b)), (5, 5));
    ill.store(true, Relaxed);
    pass(8).await;
    send(&sidecar, 10).await;
    assert_eq!((traffic(&a), traffic(&b)), (5, 15), "three failed checks in a row");
    assert_eq!(sidecar.sum("pillion_endpoints state=unhealthy"), 1);
    assert_eq!(sidecar.sum("pillion_endpoints state=healthy"), 1);
    ill.store(false, Relaxed);
    pass(6).await;
    send(&sidecar, 10).await;
    assert_eq!((traffic(&a), traffic(&b)), (10, 20), "two passed checks in a row");
    assert_eq!(sidecar.sum("pillion_endpoints state=unhealthy"), 0);
}

#[tokio::test(start_paused = true)]
async fn when_all_are_unhealthy_the_answer_says_so_and_nothing_is_sent() {
    let mesh = Mesh::default();
    let ((a, one), (b, other)) = (patient(&mesh, A), patient(&mesh, B));
    [one, other].iter().for_each(|ill| ill.store(true, Relaxed));
    let sidecar = mesh.caller(&format!("{TWO}, {CHECK}"));
    pass(2).await;
    let answer = sidecar.client().await.get("/").await;
    assert_eq!((answer.status(), answer.reason()), (Some(503), Some("all_unhealthy")));
    assert!(answer.body.contains("health check"), "{}", answer.body);
    assert_eq!((traffic(&a), traffic(&b)), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn checks_come_in_their_interval_whatever_the_number_of_workers() {
    let mesh = Mesh::default();
    let (a, _) = patient(&mesh, A);
    let yaml = caller(&format!("endpoints: [10.0.0.1:80], {CHECK}")).replace("workers: 1", "workers: 4");
    let _sidecar = mesh.sidecar(&yaml, None);
    pass(100).await;
    assert!((45..=56).contains(&a.hits()), "{} in 100 s", a.hits());
}

#[tokio::test(start_paused = true)]
async fn a_reload_keeps_the_results_of_checks_and_ends_checks_that_are_removed() {
    let mesh = Mesh::default();
    let ((a, ill), (b, _)) = (patient(&mesh, A), patient(&mesh, B));
    ill.store(true, Relaxed);
    let mut sidecar = mesh.caller(&format!("{TWO}, {CHECK}"));
    pass(2).await;
    let other_connections = format!("{TWO}, {CHECK}, connection: {{ max_age: 1h }}");
    sidecar.reload(&caller(&other_connections)).expect("a good file");
    send(&sidecar, 4).await;
    assert_eq!((traffic(&a), traffic(&b)), (0, 4));
    sidecar.reload(&caller(TWO)).expect("a good file");
    send(&sidecar, 4).await;
    assert_eq!((traffic(&a), traffic(&b)), (2, 6), "without checks nothing of them is left");
    pass(2).await;
    let asked = a.hits();
    pass(60).await;
    assert_eq!(a.hits(), asked);
}

#[tokio::test(start_paused = true)]
async fn a_check_that_fails_after_checks_were_turned_off_makes_no_endpoint_unhealthy() {
    let mesh = Mesh::default();
    let (asked, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let told = (asked.clone(), go_on.clone());
    let _a = mesh.scripted(A, move |mut peer: Peer, _| {
        let (asked, go_on) = told.clone();
        async move {
            while let Some(request) = peer.message().await {
                if !request.head.contains("/healthz") {
                    peer.send(OK).await;
                    continue;
                }
                asked.notify_one();
                go_on.notified().await;
                peer.send(UNAVAILABLE).await;
            }
        }
    });
    let mut sidecar = mesh.caller("endpoints: [10.0.0.1:80], health_check: { http: /healthz }");
    asked.notified().await;
    sidecar.reload(&caller("endpoints: [10.0.0.1:80]")).expect("a good file");
    go_on.notify_one();
    pass(5).await;
    assert_eq!(sidecar.client().await.get("/").await.status_and_reason(), (200, None));
}

#[tokio::test(start_paused = true)]
async fn an_open_port_passes_a_check_of_tcp_and_a_closed_one_or_a_silent_one_does_not() {
    let mesh = Mesh::default();
    let b = mesh.answering(B, OK);
    let sidecar = mesh.caller(&format!("{TWO}, retry: off, health_check: {{ tcp: true }}"));
    mesh.black_hole("10.0.0.3:80");
    pass(3).await;
    send(&sidecar, 4).await;
    assert_eq!(b.hits(), 4);
    let silent = mesh.caller("endpoints: [10.0.0.3:80], health_check: { tcp: true }");
    pass(3).await;
    let answer = silent.client().await.get("/").await;
    assert_eq!(answer.reason(), Some("all_unhealthy"));
}

#[tokio::test(start_paused = true)]
async fn a_check_of_tcp_fails_where_the_server_refuses_our_certificate() {
    let pair = Pair::new();
    let _orders = pair.application("10.0.0.1:15006", "127.0.0.1:8080");
    let orders = format!("endpoints: [10.0.0.1:15006], {ORDERS}, retry: off, health_check: {{ tcp: true }}");
    for (own, reason) in
        [(expired(&pair.ca, "web"), "all_unhealthy"), (identity(&pair.ca, "web"), "connect_refused")]
    {
        let caller = pair.caller_as(&orders, own);
        pass(3).await;
        let answer = caller.client().await.get("/").await;
        assert_eq!(answer.reason(), Some(reason), "{}", answer.body);
    }
}

#[tokio::test(start_paused = true)]
async fn checks_go_over_the_tls_of_the_traffic_and_reach_the_application() {
    let pair = Pair::new();
    let (app, ill) = patient(&pair.mesh, "127.0.0.1:8080");
    let _orders = pair.application("10.0.0.1:15006", "127.0.0.1:8080");
    let caller = pair.caller(&format!("endpoints: [10.0.0.1:15006], {ORDERS}, {CHECK}"));
    pass(5).await;
    assert!(app.hits() > 1);
    assert_eq!(traffic(&app), 0);
    assert_eq!(caller.client().await.get("/").await.status(), Some(200));
    ill.store(true, Relaxed);
    pass(8).await;
    assert_eq!(caller.client().await.get("/").await.reason(), Some("all_unhealthy"));
}
