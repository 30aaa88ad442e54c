//! How much may go on at once, and for how long it counts.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use super::backend::OK;
use super::mesh::{A, B, Mesh, Sidecar, Watch, caller, pass, settle};
use super::peer::Peer;

const GET: &str = "GET / HTTP/1.1\r\nhost: orders\r\n\r\n";

#[tokio::test(start_paused = true)]
async fn a_request_counts_until_the_last_byte_of_its_answer() {
    let mesh = Mesh::default();
    let _a = mesh.scripted(A, |mut peer: Peer, _| async move {
        while peer.message().await.is_some() {
            peer.send("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nha").await;
            pass(30).await;
            peer.send("lf").await;
        }
    });
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80], circuit_breaker: { max_requests: 1 }");
    let mut first = sidecar.client().await;
    first.send(GET).await;
    assert!(first.head().await.expect("headers").starts_with("HTTP/1.1 200"));
    pass(20).await;
    assert_eq!(sidecar.sum("pillion_circuit_breaker_used limit=requests"), 1);
    let refused = sidecar.client().await.get("/").await;
    assert_eq!(refused.status_and_reason(), (503, Some("limit_requests")));
    assert!(refused.body.contains("max_requests"), "{}", refused.body);
    assert_eq!(first.exactly(4).await, (b"half".to_vec(), true));
    settle().await;
    assert_eq!(sidecar.sum("pillion_circuit_breaker_used limit=requests"), 0);
    assert_eq!(sidecar.client().await.get("/").await.status_and_reason(), (200, None));
    assert_eq!(sidecar.sum("pillion_circuit_breaker_rejections_total limit=requests"), 1);
}

/// After a reload that lowers the limit, more requests may be in flight than it allows.
#[tokio::test(start_paused = true)]
async fn a_refusal_names_the_requests_in_flight_and_the_limit() {
    let mesh = Mesh::default();
    let _a = mesh.scripted(A, |mut peer: Peer, _| async move {
        peer.message().await;
        std::future::pending::<()>().await;
    });
    let limited =
        |most: u32| format!("endpoints: [10.0.0.1:80], circuit_breaker: {{ max_requests: {most} }}");
    let mut sidecar = mesh.caller(&limited(3));
    let mut waiting = [sidecar.client().await, sidecar.client().await, sidecar.client().await];
    for client in &mut waiting {
        client.send(GET).await;
    }
    settle().await;
    for most in [3, 1] {
        sidecar.reload(&caller(&limited(most))).expect("a good file");
        let refused = sidecar.client().await.get("/").await;
        assert_eq!(refused.status_and_reason(), (503, Some("limit_requests")));
        let sentence = format!("has 3 requests in flight (max_requests is {most})");
        assert!(refused.body.contains(&sentence), "{}", refused.body);
    }
}

/// A sidecar with an adaptive limit, whose endpoint answered in 10 ms for a while and takes a second now.
async fn with_a_slow_endpoint(mesh: &Mesh) -> Sidecar {
    let asked = Arc::new(AtomicUsize::new(0));
    drop(mesh.scripted(A, move |mut peer: Peer, _| {
        let asked = asked.clone();
        async move {
            while peer.message().await.is_some() {
                let is_fast = asked.fetch_add(1, Relaxed) < 200;
                tokio::time::sleep(Duration::from_millis(if is_fast { 10 } else { 1000 })).await;
                let _gone = peer.try_send(OK).await;
            }
        }
    }));
    let sidecar = mesh.caller(ADAPTIVE);
    let mut client = sidecar.client().await;
    for _ in 0..200 {
        assert_eq!(client.get("/").await.status_and_reason(), (200, None));
    }
    sidecar
}

const ADAPTIVE: &str =
    "endpoints: [10.0.0.1:80], retry: off, circuit_breaker: { adaptive: gradient, max_requests: 500 }";
const REQUESTS: &str = "pillion_circuit_breaker_limit limit=requests";

/// So many requests at once, again and again for ten seconds.
async fn besiege(sidecar: &Sidecar, clients: usize) {
    for _ in 0..10 {
        let mut all = Vec::new();
        for _ in 0..clients {
            let mut client = sidecar.client().await;
            client.send(GET).await;
            all.push(client);
        }
        pass(1).await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_adaptive_limit_falls_when_answers_become_slow_and_its_refusals_name_its_present_value() {
    let mesh = Mesh::default();
    let mut sidecar = with_a_slow_endpoint(&mesh).await;
    assert_eq!(sidecar.sum(REQUESTS), 500);
    besiege(&sidecar, 60).await;
    let limit = sidecar.sum(REQUESTS);
    assert!((10..60).contains(&limit), "{limit}");
    assert!(sidecar.sum("pillion_circuit_breaker_rejections_total limit=requests") > 0);
    let mut waiting = Vec::new();
    for _ in 0..limit {
        let mut client = sidecar.client().await;
        client.send(GET).await;
        waiting.push(client);
    }
    settle().await;
    let refused = sidecar.client().await.get("/").await;
    assert_eq!(refused.status_and_reason(), (503, Some("limit_requests")));
    let sentence = format!("has {limit} requests in flight (circuit_breaker.adaptive is {limit})");
    assert!(refused.body.contains(&sentence), "{}", refused.body);
    sidecar.reload(&caller(&format!("{ADAPTIVE}, timeout: 3s"))).expect("a good file");
    assert_eq!(sidecar.sum(REQUESTS), limit, "a reload keeps it");
    sidecar.reload(&caller("endpoints: [10.0.0.1:80]")).expect("a good file");
    assert_eq!(sidecar.sum(REQUESTS), 1024, "and turns it off");
    pass(2).await;
    assert_eq!(waiting.remove(0).answer().await.status_and_reason(), (200, None));
    assert_eq!(sidecar.sum(REQUESTS), 1024, "answers to requests from before the reload leave it off");
}

#[tokio::test(start_paused = true)]
async fn the_adaptive_limit_falls_although_callers_give_up_before_the_slow_answers_come() {
    let mesh = Mesh::default();
    let sidecar = with_a_slow_endpoint(&mesh).await;
    for _ in 0..10 {
        let mut all = Vec::new();
        for _ in 0..60 {
            let mut client = sidecar.client().await;
            client.send(GET).await;
            all.push(client);
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    let limit = sidecar.sum(REQUESTS);
    assert!((10..60).contains(&limit), "{limit}");
}

#[tokio::test(start_paused = true)]
async fn an_answer_reaches_the_client_before_the_endpoint_has_finished_it() {
    let mesh = Mesh::default();
    let _a = mesh.scripted(A, |mut peer: Peer, _| async move {
        peer.message().await;
        peer.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n").await;
        pass(60).await;
        peer.send("4\r\nlast\r\n0\r\n\r\n").await;
    });
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80]");
    let (mut client, watch) = (sidecar.client().await, Watch::start());
    client.send(GET).await;
    client.head().await.expect("headers");
    assert_eq!(client.exactly(10).await.0, b"5\r\nfirst\r\n");
    assert_eq!(watch.seconds(), 0);
    assert_eq!(client.exactly(14).await.0, b"4\r\nlast\r\n0\r\n\r\n");
    assert_eq!(watch.seconds(), 60);
}

#[tokio::test(start_paused = true)]
async fn an_inbound_connection_over_the_limit_is_closed_and_counted() {
    let mesh = Mesh::default();
    let _app = mesh.answering(A, OK);
    let sidecar = mesh.application("app: 10.0.0.1:80, max_connections: 1");
    let mut first = sidecar.client().await;
    assert_eq!(first.get("/").await.status_and_reason(), (200, None));
    let mut second = sidecar.client().await;
    assert_eq!(second.rest().await, b"");
    assert_eq!(sidecar.sum("pillion_connections_total direction=inbound outcome=refused"), 1);
    drop(first);
    settle().await;
    assert_eq!(sidecar.client().await.get("/").await.status_and_reason(), (200, None));
}

#[tokio::test(start_paused = true)]
async fn a_body_that_grows_over_the_limit_is_cut_there() {
    let mesh = Mesh::default();
    let app = mesh.silent(A);
    let sidecar = mesh.application("app: 10.0.0.1:80, max_body: 8B");
    let mut client = sidecar.client().await;
    client.send("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n").await;
    settle().await;
    client.send("9\r\n123456789\r\n0\r\n\r\n").await;
    assert_eq!(client.answer().await.status_and_reason(), (413, Some("body_too_large")));
    settle().await;
    assert!(app.requests().iter().all(|request| !request.is_whole), "the application never has all of it");
    assert_eq!(sidecar.sum("pillion_requests_total status=413 reason=body_too_large"), 1);
}

#[tokio::test(start_paused = true)]
async fn an_active_request_is_seen_as_such() {
    let mesh = Mesh::default();
    let _a = mesh.silent(A);
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80]");
    let mut client = sidecar.client().await;
    client.send(GET).await;
    settle().await;
    assert_eq!(sidecar.sum("pillion_requests_active direction=outbound service=orders"), 1);
    client.answer().await;
    settle().await;
    assert_eq!(sidecar.sum("pillion_requests_active direction=outbound service=orders"), 0);
}

#[tokio::test(start_paused = true)]
async fn less_than_a_mebibyte_is_read_of_an_answer_that_its_client_does_not_read() {
    let mesh = Mesh::default();
    let taken = Arc::new(AtomicUsize::new(0));
    let shared = taken.clone();
    let _a = mesh.scripted(A, move |mut peer: Peer, _| {
        let taken = shared.clone();
        async move {
            peer.message().await;
            peer.send("HTTP/1.1 200 OK\r\ncontent-length: 100000000\r\n\r\n").await;
            while peer.try_send(".".repeat(10_000)).await.is_ok() {
                taken.fetch_add(10_000, Relaxed);
            }
        }
    });
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80]");
    let mut client = sidecar.client().await;
    client.send(GET).await;
    pass(60).await;
    let taken = taken.load(Relaxed);
    assert!((100_000..1 << 20).contains(&taken), "{taken} bytes, the two pipes of 64 KiB included");
}

#[tokio::test(start_paused = true)]
async fn at_max_connections_per_endpoint_requests_wait_for_that_endpoint_alone() {
    let mesh = Mesh::default();
    let (a, b) = (mesh.silent(A), mesh.silent(B));
    let sidecar = mesh.caller(
        "endpoints: [10.0.0.1:80, 10.0.0.2:80], load_balancer: round_robin, retry: off, \
         circuit_breaker: { max_connections_per_endpoint: 1 }",
    );
    let mut clients = [sidecar.client().await, sidecar.client().await, sidecar.client().await];
    for client in &mut clients {
        client.send(GET).await;
        settle().await;
    }
    assert_eq!((a.connections(), b.connections()), (1, 1));
    assert_eq!(sidecar.sum("pillion_circuit_breaker_used limit=connections"), 2);
    assert_eq!(sidecar.sum("pillion_circuit_breaker_used limit=connections_per_endpoint"), 1);
    assert_eq!(sidecar.sum("pillion_circuit_breaker_limit limit=connections_per_endpoint"), 1);
    assert_eq!(sidecar.sum("pillion_circuit_breaker_used limit=pending"), 1);
    assert_eq!(sidecar.sum("pillion_circuit_breaker_rejections_total limit=connections_per_endpoint"), 1);
    clients.into_iter().rev().for_each(drop); // the waiting client leaves first: nothing is dialled for it
    settle().await;
    assert_eq!(sidecar.sum("pillion_circuit_breaker_used limit=connections_per_endpoint"), 0);
    assert_eq!(sidecar.sum("pillion_circuit_breaker_used limit=pending"), 0);
}

/// The two protocols share no connection: the connection that is given back is closed, so that the other can be opened.
#[tokio::test(start_paused = true)]
async fn a_connection_given_back_makes_room_for_another_at_its_endpoint() {
    let mesh = Mesh::default();
    let a = mesh.scripted(A, |mut peer: Peer, _| async move {
        peer.message().await;
        pass(2).await;
        peer.send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
        peer.rest().await;
    });
    let sidecar = mesh
        .caller("endpoints: [10.0.0.1:80], retry: off, circuit_breaker: { max_connections_per_endpoint: 1 }");
    let mut first = sidecar.client().await;
    first.send(GET).await;
    settle().await;
    let second = sidecar.http2_client().await;
    let asked = tokio::spawn(async move { drop(second.get("/").await) });
    pass(1).await;
    assert_eq!((a.connections(), sidecar.sum("pillion_circuit_breaker_used limit=pending")), (1, 1));
    assert_eq!(first.answer().await.status_and_reason(), (200, None));
    pass(1).await;
    assert_eq!((a.connections(), a.open()), (2, 1));
    asked.abort();
}

#[tokio::test(start_paused = true)]
async fn past_max_connections_per_endpoint_an_opaque_connection_goes_elsewhere_or_is_refused() {
    let mesh = Mesh::default();
    let greets = |mut peer: Peer, _| async move {
        peer.send("a").await;
        peer.rest().await;
    };
    let (a, b) = (mesh.scripted(A, greets), mesh.scripted(B, greets));
    let sidecar = mesh.caller(
        "endpoints: [10.0.0.1:80, 10.0.0.2:80], listen: 127.0.0.1:0, protocol: tcp, retry: off, \
         circuit_breaker: { max_connections_per_endpoint: 2 }",
    );
    let mut open = Vec::new();
    for _ in 0..4 {
        let mut client = sidecar.direct_client().await;
        assert_eq!(client.exactly(1).await, (b"a".to_vec(), true));
        open.push(client);
    }
    assert_eq!((a.open(), b.open()), (2, 2));
    assert_eq!(sidecar.direct_client().await.rest().await, b"");
    assert_eq!(sidecar.sum("pillion_circuit_breaker_rejections_total limit=connections_per_endpoint"), 1);
    assert_eq!(sidecar.sum("pillion_circuit_breaker_used limit=connections_per_endpoint"), 2);
    open.pop();
    settle().await;
    assert_eq!(sidecar.direct_client().await.exactly(1).await, (b"a".to_vec(), true));
}
