//! HTTP/2 connections to an endpoint: dialled once, and shared within the peer's limits.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::backend::Backend;
use super::http2::{self, Client};
use super::mesh::{A, Mesh, Sidecar, Watch, pass, secs, settle};
use super::peer::Peer;

const ORDERS: &str = "endpoints: [10.0.0.1:80]";

/// Answers when the test permits it. `streams` may be open at once.
fn on_permit(mesh: &Mesh, streams: u32) -> (Backend, Arc<Semaphore>) {
    let permits = Arc::new(Semaphore::new(0));
    let gate = permits.clone();
    let backend = mesh.http2(A, streams, move |_, _, respond| {
        let gate = gate.clone();
        async move {
            gate.acquire().await.expect("the gate stays").forget();
            http2::answer(respond, 200, "ok");
        }
    });
    (backend, permits)
}

fn ask(client: &Client) -> tokio::task::JoinHandle<u16> {
    let client = client.clone();
    tokio::spawn(async move { client.get("/").await.head.status().as_u16() })
}

/// A client, when the endpoint's SETTINGS are known.
async fn with_known_settings(sidecar: &Sidecar, permits: &Semaphore) -> Client {
    let client = sidecar.http2_client().await;
    permits.add_permits(1);
    client.get("/").await;
    client
}

#[tokio::test(start_paused = true)]
async fn requests_at_the_same_time_share_one_connection_and_one_dial() {
    let mesh = Mesh::default();
    let (a, permits) = on_permit(&mesh, 100);
    let sidecar = mesh.caller(ORDERS);
    let client = sidecar.http2_client().await;
    let asked: Vec<_> = (0..50).map(|_| ask(&client)).collect();
    settle().await;
    permits.add_permits(50);
    for answer in asked {
        assert_eq!(answer.await.expect("asked"), 200);
    }
    assert_eq!(a.connections(), 1);
    assert_eq!(sidecar.sum("pillion_requests_total status=200"), 50);
}

#[tokio::test(start_paused = true)]
async fn requests_above_the_peer_s_stream_limit_get_a_second_connection() {
    let mesh = Mesh::default();
    let (a, permits) = on_permit(&mesh, 2);
    let sidecar = mesh.caller(ORDERS);
    let client = with_known_settings(&sidecar, &permits).await;
    let asked: Vec<_> = (0..4).map(|_| ask(&client)).collect();
    settle().await;
    assert_eq!(a.connections(), 2);
    permits.add_permits(4);
    for answer in asked {
        assert_eq!(answer.await.expect("asked"), 200);
    }
    assert_eq!(a.connections(), 2);
}

#[tokio::test(start_paused = true)]
async fn all_requests_that_wait_for_one_dial_get_its_error() {
    let mesh = Mesh::default();
    mesh.black_hole(A);
    let sidecar = mesh.caller(&format!("{ORDERS}, protocol: http2, connect_timeout: 2s, retry: off"));
    let (client, watch) = (sidecar.http2_client().await, Watch::start());
    let asked: Vec<_> = (0..20).map(|_| ask(&client)).collect();
    for answer in asked {
        assert_eq!(answer.await.expect("asked"), 504);
    }
    assert_eq!(watch.seconds(), 2, "together, not one after the other");
    assert_eq!(sidecar.sum("pillion_requests_total reason=connect_timeout"), 20);
    assert_eq!(sidecar.sum("pillion_connections_total service=orders outcome=timeout"), 1);
    assert_eq!(sidecar.sum("pillion_circuit_breaker_used limit=pending"), 0);
}

#[tokio::test(start_paused = true)]
async fn after_a_failed_dial_the_next_request_dials_anew() {
    let mesh = Mesh::default();
    let sidecar = mesh.caller(&format!("{ORDERS}, retry: off"));
    let client = sidecar.http2_client().await;
    assert_eq!(client.get("/").await.head.status().as_u16(), 502);
    let (_a, permits) = on_permit(&mesh, 100);
    permits.add_permits(1);
    let again = tokio::time::timeout(secs(10), client.get("/")).await.expect("it is dialled at once");
    assert_eq!(again.head.status().as_u16(), 200);
}

#[tokio::test(start_paused = true)]
async fn a_waiter_that_goes_away_takes_no_stream_with_it() {
    let mesh = Mesh::default();
    let (a, permits) = on_permit(&mesh, 1);
    let sidecar = mesh.caller(&format!("{ORDERS}, circuit_breaker: {{ max_connections: 1 }}"));
    let client = with_known_settings(&sidecar, &permits).await;
    let first = ask(&client);
    settle().await;
    let impatient: Vec<_> = (0..3).map(|_| ask(&client)).collect();
    settle().await;
    assert_eq!(sidecar.sum("pillion_circuit_breaker_used limit=pending"), 3);
    impatient.iter().for_each(|asked| asked.abort());
    settle().await;
    assert_eq!(sidecar.sum("pillion_circuit_breaker_used limit=pending"), 0);
    permits.add_permits(2);
    assert_eq!(first.await.expect("asked"), 200);
    let after = tokio::time::timeout(secs(10), client.get("/")).await.expect("a free stream");
    assert_eq!((after.head.status().as_u16(), a.connections()), (200, 1));
}

#[tokio::test(start_paused = true)]
async fn an_idle_shared_connection_is_closed_and_a_busy_one_is_not() {
    let mesh = Mesh::default();
    let (a, permits) = on_permit(&mesh, 100);
    let sidecar = mesh.caller(&format!("{ORDERS}, timeout: off, connection: {{ idle_timeout: 20s }}"));
    let client = sidecar.http2_client().await;
    let slow = ask(&client);
    pass(60).await;
    assert_eq!(a.open(), 1);
    permits.add_permits(1);
    assert_eq!(slow.await.expect("asked"), 200);
    pass(30).await;
    assert_eq!(a.open(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_declared_http2_that_is_not_ends_in_a_protocol_error() {
    let mesh = Mesh::default();
    let _a = mesh.scripted(A, |mut peer: Peer, _| async move {
        peer.head().await;
        peer.send("HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n").await;
        pass(1).await;
    });
    let sidecar = mesh.caller(&format!("{ORDERS}, protocol: http2, retry: off"));
    let answer = sidecar.client().await.get("/").await;
    assert_eq!(answer.status_and_reason(), (502, Some("protocol_error")));
}

#[tokio::test(start_paused = true)]
async fn a_waiter_for_a_second_connection_is_served_by_a_stream_that_ends_before_it() {
    let mesh = Mesh::default();
    let (a, permits) = on_permit(&mesh, 1);
    let sidecar = mesh.caller(&format!("{ORDERS}, circuit_breaker: {{ max_connections: 1 }}"));
    let client = with_known_settings(&sidecar, &permits).await;
    let asked: Vec<_> = (0..5).map(|_| ask(&client)).collect();
    settle().await;
    permits.add_permits(5);
    for answer in asked {
        assert_eq!(answer.await.expect("asked"), 200);
    }
    assert_eq!((a.connections(), sidecar.sum("pillion_circuit_breaker_used limit=pending")), (1, 0));
}

/// A gRPC server counts pings without data as an attack, and by default allows one in five minutes.
#[tokio::test(start_paused = true)]
async fn b3_a_server_that_is_silent_for_290_seconds_is_not_pinged() {
    const SETTINGS: &[u8] = b"\0\0\0\x04\0\0\0\0\0";
    const PING: &[u8] = b"\0\0\x08\x06\0";
    let (mesh, heard) = (Mesh::default(), Arc::<Mutex<Vec<u8>>>::default());
    let shared = heard.clone();
    let _a = mesh.scripted(A, move |mut peer: Peer, _| {
        let shared = shared.clone();
        async move {
            peer.send(SETTINGS).await;
            loop {
                let (byte, is_there) = peer.exactly(1).await;
                shared.lock().extend(byte);
                if !is_there {
                    return;
                }
            }
        }
    });
    let sidecar =
        mesh.caller(&format!("{ORDERS}, protocol: http2, timeout: off, connection: {{ keepalive: 10s }}"));
    let client = sidecar.http2_client().await;
    let _asked = ask(&client);
    pass(290).await;
    let heard = heard.lock();
    assert!(heard.starts_with(b"PRI * HTTP/2.0"), "a request was sent");
    assert!(!heard.windows(PING.len()).any(|frame| frame == PING));
}
