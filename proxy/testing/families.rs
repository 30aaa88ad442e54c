//! A service with endpoints of IPv4 and of IPv6, of which one family leads nowhere (RFC 8305), and dials that outlive
//! their requests.

use tokio::time::Instant;

use super::backend::{Backend, OK};
use super::logged;
use super::mesh::{self, A, B, Mesh, Sidecar, pass, settle};
use super::peer::Peer;

const V6: &str = "[2001:db8::1]:80";

/// `first` does not answer; A does.
fn half_reachable(mesh: &Mesh, first: &str) -> Backend {
    mesh.memory.black_hole(first.parse().expect("an address"));
    mesh.answering(A, OK)
}

fn caller(mesh: &Mesh, first: &str, keys: &str) -> Sidecar {
    mesh.caller(&format!("endpoints: [\"{first}\", 10.0.0.1:80], load_balancer: round_robin, {keys}"))
}

async fn milliseconds(sidecar: &Sidecar, request: &str) -> u128 {
    let (mut client, began) = (sidecar.client().await, Instant::now());
    assert_eq!(client.ask(request).await.status_and_reason(), (200, None));
    began.elapsed().as_millis()
}

const POST: &str = "POST / HTTP/1.1\r\nhost: orders\r\ncontent-length: 2\r\n\r\nhi";

#[tokio::test(start_paused = true)]
async fn a_family_that_leads_nowhere_costs_a_request_a_quarter_of_a_second_and_is_ejected() {
    let mesh = Mesh::default();
    let a = half_reachable(&mesh, V6);
    let sidecar = caller(&mesh, V6, "retry: off");
    let mut slow = 0;
    for _ in 0..20 {
        let took = milliseconds(&sidecar, POST).await;
        assert!(took < 260, "{took} ms");
        slow += u32::from(took >= 250);
        settle().await;
    }
    assert!((1..=14).contains(&slow), "{slow}");
    assert_eq!(a.hits(), 20);
    pass(3).await; // connect_timeout is 2 s
    assert_eq!(sidecar.sum("pillion_endpoint_ejections_total cause=consecutive_errors"), 1);
    for _ in 0..10 {
        assert!(milliseconds(&sidecar, POST).await < 10);
    }
    assert_eq!(sidecar.sum("pillion_retries_total"), 0);
    settle().await;
    for limit in ["pending", "requests"] {
        assert_eq!(sidecar.sum(&format!("pillion_circuit_breaker_used limit={limit}")), 0, "{limit}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_family_that_refuses_connections_costs_a_request_nothing_and_is_ejected() {
    let mesh = Mesh::default();
    let _a = mesh.answering(A, OK);
    let sidecar = caller(&mesh, V6, "retry: off");
    for _ in 0..20 {
        assert!(milliseconds(&sidecar, POST).await < 10);
    }
    assert_eq!(sidecar.sum("pillion_endpoint_ejections_total cause=consecutive_errors"), 1);
}

#[tokio::test(start_paused = true)]
async fn both_families_are_waited_for_and_a_connection_that_comes_late_is_used_later() {
    let mesh = Mesh::default();
    for to in [V6, A] {
        mesh.memory.black_hole(to.parse().expect("an address"));
    }
    let sidecar = caller(&mesh, V6, "retry: off, connect_timeout: 1s");
    let (mut client, began) = (sidecar.client().await, Instant::now());
    assert_eq!(client.ask(POST).await.status_and_reason(), (504, Some("connect_timeout")));
    assert_eq!(began.elapsed().as_millis() / 10, 125, "the second dial began 250 ms after the first");
    settle().await;
    assert_eq!(sidecar.sum("pillion_connections_total outcome=timeout"), 2);
}

#[tokio::test(start_paused = true)]
async fn endpoints_of_one_family_are_not_dialled_side_by_side() {
    let mesh = Mesh::default();
    let _a = half_reachable(&mesh, B);
    let sidecar = caller(&mesh, B, "");
    let took = milliseconds(&sidecar, POST).await.max(milliseconds(&sidecar, POST).await);
    assert!(took >= 2_000, "connect_timeout rules: {took} ms");
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_never_connects_is_ejected_although_requests_give_up_sooner() {
    let mesh = Mesh::default();
    let _a = half_reachable(&mesh, B);
    let sidecar = caller(&mesh, B, "retry: off, timeout: 1s");
    for _ in 0..10 {
        let mut client = sidecar.client().await;
        client.get("/").await;
        settle().await;
    }
    pass(2).await;
    assert_eq!(sidecar.sum("pillion_endpoint_ejections_total"), 1);
}

/// Answers each request after a second.
fn slow(mesh: &Mesh, address: &str) -> Backend {
    mesh.scripted(address, |mut peer: Peer, _| async move {
        while peer.message().await.is_some() {
            pass(1).await;
            peer.send(OK).await;
        }
    })
}

/// So many requests at once, all of which are answered.
async fn at_once(sidecar: &Sidecar, requests: usize) {
    let mut clients = Vec::new();
    for _ in 0..requests {
        let mut client = sidecar.client().await;
        client.send(POST).await;
        settle().await;
        clients.push(client);
    }
    for client in &mut clients {
        assert_eq!(client.answer().await.status_and_reason(), (200, None));
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_waits_for_the_place_of_a_connection_does_not_go_to_the_other_family() {
    let mesh = Mesh::default();
    let (a, six) = (slow(&mesh, A), mesh.answering(V6, OK));
    let limit = "circuit_breaker: { max_connections_per_endpoint: 1 }";
    at_once(&caller(&mesh, V6, limit), 6).await;
    assert_eq!((six.hits(), a.hits()), (3, 3));
}

#[tokio::test(start_paused = true)]
async fn requests_that_are_hashed_and_those_of_a_priority_do_not_go_to_the_other_family() {
    for keys in [
        "endpoints: [10.0.0.1:80, \"[2001:db8::1]:80\"], load_balancer: { ring_hash: { source: true } }",
        "endpoints: [{ address: 10.0.0.1:80 }, { address: \"[2001:db8::1]:80\", priority: 1 }]",
    ] {
        let mesh = Mesh::default();
        let sidecar = mesh.caller(&format!("{keys}, retry: off"));
        let six = mesh.answering(V6, OK);
        let first = mesh.answering(A, OK);
        assert_eq!(sidecar.client().await.ask(POST).await.status_and_reason(), (200, None));
        let (chosen, other) = if first.hits() > 0 { (A, six) } else { (V6, first) };
        settle().await;
        let mesh = Mesh::default();
        let sidecar = mesh.caller(&format!("{keys}, retry: off"));
        mesh.black_hole(chosen);
        let other_address = if chosen == A { V6 } else { A };
        drop(other);
        let other = mesh.answering(other_address, OK);
        let answer = sidecar.client().await.ask(POST).await;
        assert_eq!(answer.status_and_reason(), (504, Some("connect_timeout")), "{keys}");
        assert_eq!(other.hits(), 0, "{keys}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_tries_both_families_has_one_place_among_those_that_wait() {
    let mesh = Mesh::default();
    let _a = half_reachable(&mesh, V6);
    let sidecar = caller(&mesh, V6, "retry: off, circuit_breaker: { max_pending_requests: 1 }");
    for _ in 0..4 {
        milliseconds(&sidecar, POST).await;
        settle().await;
    }
    assert_eq!(sidecar.sum("pillion_circuit_breaker_rejections_total limit=pending"), 0);
}

#[test]
fn the_access_line_counts_the_endpoint_that_did_not_connect_as_an_attempt() {
    let lines = logged::lines(|log| async move {
        let mesh = Mesh::default();
        let _a = half_reachable(&mesh, V6);
        let orders = format!("endpoints: [\"{V6}\", \"{A}\"], load_balancer: round_robin, retry: off");
        let sidecar = mesh.sidecar(&(mesh::caller(&orders) + &log), None);
        assert!(milliseconds(&sidecar, POST).await >= 250);
        settle().await;
    });
    assert_eq!(
        (lines[0]["attempts"].as_u64(), lines[0]["upstream"].as_str()),
        (Some(2), Some(A)),
        "{lines:?}"
    );
}
