//! More requests than the memory of a small host has room for: the identity of their clients decides which are refused.

use bytes::Bytes;
use h2::Reason;
use h2::client::{self, SendRequest};
use pillion_tls::client::Purpose;

use super::http2::{self, request};
use super::mesh::{A, Mesh, Pair, settle};

const AT: &str = "10.1.0.1:15006";
/// So little memory that only the minimum of exchanges has room: 64 for the one worker.
const SMALL: u64 = 1;
const GET: &str = "GET / HTTP/1.1\r\nhost: orders\r\n\r\n";
/// The number of exchanges that one client gets of 64.
const HALF: usize = 32;

async fn http2(pair: &Pair, account: &str) -> SendRequest<Bytes> {
    let io = pair.peer_as(account, AT, Purpose::Http).await.into_io();
    let (send, conn) = client::handshake(io).await.expect("the sidecar speaks HTTP/2");
    tokio::spawn(conn);
    settle().await;
    send
}

#[tokio::test(start_paused = true)]
async fn a3_streams_that_one_peer_keeps_open_leave_room_for_another() {
    let pair = Pair::new();
    pair.mesh.memory.set_host_memory(SMALL);
    let app = pair.mesh.silent(A);
    let sidecar = pair.application(AT, A);
    let mut asked = Vec::new();
    for _ in 0..3 {
        let mut mallory = http2(&pair, "mallory").await;
        for _ in 0..20 {
            asked.push(mallory.send_request(request("GET", "/"), true).expect("a stream").0);
        }
        settle().await;
    }
    let taken = app.hits();
    assert!(
        (HALF - 1..=HALF).contains(&taken),
        "{taken}, on whatever connections they came: heads count too"
    );
    let refused = "pillion_requests_total reason=overloaded";
    assert_eq!(sidecar.sum(refused), 60 - taken as u64);
    let error = asked.pop().expect("the last").await.expect_err("it was refused");
    assert_eq!(error.reason(), Some(Reason::REFUSED_STREAM), "its client may send it again");
    let mut web = http2(&pair, "web").await;
    let _answer = web.send_request(request("GET", "/"), true).expect("a stream");
    settle().await;
    assert_eq!(app.hits(), taken + 1, "another peer is served");
    drop(asked);
    settle().await;
    assert_eq!(sidecar.sum("pillion_requests_active"), 1, "places are given back");
}

#[tokio::test(start_paused = true)]
async fn a3_clients_without_identity_share_their_places() {
    let mesh = Mesh::default();
    mesh.memory.set_host_memory(SMALL);
    let app = mesh.silent(A);
    let sidecar = mesh.application(&format!("app: {A}"));
    let mut waiting = Vec::new();
    for _ in 0..HALF {
        let mut client = sidecar.client().await;
        client.send(GET).await;
        waiting.push(client);
    }
    settle().await;
    assert_eq!(app.hits(), HALF);
    let mut late = sidecar.client().await;
    assert_eq!(late.ask(GET).await.status_and_reason(), (503, Some("overloaded")));
    drop(waiting.pop());
    settle().await;
    late.send(GET).await;
    settle().await;
    assert_eq!(app.hits(), HALF + 1, "its connection goes on, and there is room again");
}

#[tokio::test(start_paused = true)]
async fn outbound_requests_of_the_application_are_limited_by_circuit_breakers_alone() {
    let mesh = Mesh::default();
    mesh.memory.set_host_memory(SMALL);
    let (app, sidecar) = (mesh.silent(A), mesh.caller("endpoints: [10.0.0.1:80]"));
    let mut waiting = Vec::new();
    for _ in 0..80 {
        let mut client = sidecar.client().await;
        client.send(GET).await;
        waiting.push(client);
    }
    settle().await;
    assert_eq!(app.hits(), 80);
}

#[tokio::test(start_paused = true)]
async fn a3_a_request_that_goes_on_after_its_complete_answer_holds_no_place() {
    let mesh = Mesh::default();
    mesh.memory.set_host_memory(SMALL);
    let _app = mesh.http2(A, 1000, |_, request, respond| async move {
        http2::answer(respond, 413, "no");
        drop(http2::read_body(&mut request.into_body()).await);
    });
    let sidecar = mesh.application(&format!("app: {A}, protocol: http2"));
    let mut uploading = Vec::new();
    for nth in 0..HALF + 8 {
        let mut client = sidecar.client().await;
        client.send("POST / HTTP/1.1\r\nhost: orders\r\ncontent-length: 8\r\n\r\nhalf").await;
        assert_eq!(client.answer().await.status_and_reason(), (413, None), "{nth}");
        uploading.push(client);
    }
}
