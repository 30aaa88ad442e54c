//! `limits.max_memory`: what is closed and refused, in which order, and when it ends.

use bytes::Bytes;
use h2::client::{self, SendRequest};
use pillion_tls::client::Purpose;

use super::backend::OK;
use super::http2::request;
use super::mesh::{A, IDENTITY, Mesh, Pair, Sidecar, application_at, caller, identity, pass, settle};
use super::peer::Peer;

const AT: &str = "10.1.0.1:15006";
const CGROUP: u64 = 100 << 20;
/// 90 % of it.
const LIMIT: u64 = 90 << 20;
const ABOVE: u64 = LIMIT + 1;
/// Not above the limit, and not well below it.
const BETWEEN: u64 = LIMIT - 1;
const BELOW: u64 = LIMIT / 2;
const GET: &str = "GET / HTTP/1.1\r\nhost: orders\r\n\r\n";

/// The application's sidecar in a cgroup of which half is used.
fn sidecar(pair: &Pair, policy: &str) -> Sidecar {
    pair.mesh.memory.set_cgroup(Some(CGROUP));
    pair.mesh.memory.set_memory_used(BELOW);
    let yaml = application_at(AT, &format!("app: {A}, {policy}")) + IDENTITY;
    pair.mesh.sidecar(&yaml, Some(identity(&pair.ca, "orders")))
}

fn shed(sidecar: &Sidecar, kind: &str) -> u64 {
    sidecar.sum(&format!("pillion_memory_shed_total kind={kind}"))
}

/// Waits for the looks at the memory until `done`, and then lets the usage stay where it neither grows nor is well.
async fn until(mesh: &Mesh, used: u64, done: impl Fn() -> bool) {
    mesh.memory.set_memory_used(used);
    for _ in 0..2000 {
        if done() {
            return mesh.memory.set_memory_used(BETWEEN);
        }
        settle().await;
    }
    assert!(done(), "within two seconds");
}

async fn http2(pair: &Pair) -> (SendRequest<Bytes>, tokio::task::JoinHandle<bool>) {
    let io = pair.peer(AT, Purpose::Http).await.into_io();
    let (send, conn) = client::handshake(io).await.expect("the sidecar speaks HTTP/2");
    (send, tokio::spawn(async move { conn.await.is_ok() }))
}

#[tokio::test(start_paused = true)]
async fn stored_answers_are_given_up_before_a_connection_is_refused_and_come_back_when_memory_is_well() {
    let mesh = Mesh::default();
    mesh.memory.set_cgroup(Some(CGROUP));
    mesh.memory.set_memory_used(BELOW);
    let a =
        mesh.answering(A, "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncache-control: max-age=86400\r\n\r\na");
    let sidecar = mesh.sidecar(&caller(&format!("endpoints: [{A}], cache: {{}}")), None);
    let mut client = sidecar.client().await;
    let kept = || sidecar.sum("pillion_cache_bytes");
    for nth in 0..100 {
        client.get(&format!("/{nth}")).await;
    }
    assert!(kept() > 50_000, "{}", kept());
    until(&mesh, ABOVE, || kept() == 0).await;
    assert_eq!(shed(&sidecar, "refused"), 0);
    mesh.memory.set_memory_used(BELOW);
    pass(60).await;
    let before = a.hits();
    for _ in 0..2 {
        assert_eq!(client.get("/").await.status_and_reason(), (200, None));
    }
    assert_eq!(a.hits() - before, 1, "it is stored again");
}

#[tokio::test(start_paused = true)]
async fn c9_unproven_clients_go_first_then_new_connections_then_idle_ones() {
    let pair = Pair::new();
    let app = pair.mesh.answering(A, OK);
    let sidecar = sidecar(&pair, "mtls: strict");
    let mut idle = pair.peer(AT, Purpose::Http1).await;
    assert_eq!(idle.get("/").await.status_and_reason(), (200, None));
    let (mut send, conn) = http2(&pair).await;
    let (answer, _) = send.send_request(request("GET", "/"), true).expect("a stream");
    assert_eq!(answer.await.expect("an answer").status(), 200);
    pass(2).await;
    let mut stranger = sidecar.client().await;
    settle().await;

    until(&pair.mesh, ABOVE, || shed(&sidecar, "unproven") > 0).await;
    assert_eq!(stranger.rest().await, b"", "it has proven nothing");
    let mut early = pair.peer(AT, Purpose::Http1).await;
    assert_eq!(early.get("/").await.status_and_reason(), (200, None), "peers connect still");

    pair.mesh.memory.set_memory_used(ABOVE);
    pass(1).await;
    assert!(shed(&sidecar, "idle") >= 2, "the idle ones have been closed");
    assert_eq!(idle.rest().await, b"");
    assert!(conn.await.expect("no panic"), "the HTTP/2 connection ended in order");
    pair.mesh.memory.set_memory_used(BETWEEN);
    let mut late = sidecar.client().await;
    assert_eq!(late.rest().await, b"");
    assert_eq!(shed(&sidecar, "refused"), 1);
    pass(5).await;
    let mut late = sidecar.client().await;
    assert_eq!(late.rest().await, b"", "the memory is just below the limit, and not for long");
    pass(30).await;
    let mut peer = pair.peer(AT, Purpose::Http1).await;
    assert_eq!(peer.get("/").await.status_and_reason(), (200, None), "nobody is refused for ever");

    pair.mesh.memory.set_memory_used(BELOW);
    pass(4).await;
    let mut peer = pair.peer(AT, Purpose::Http1).await;
    assert_eq!(peer.get("/").await.status_and_reason(), (200, None));
    assert_eq!(app.hits(), 5);
}

#[tokio::test(start_paused = true)]
async fn c9_a_request_under_way_is_never_cut() {
    let pair = Pair::new();
    let app = pair.mesh.silent(A);
    let sidecar = sidecar(&pair, "mtls: strict");
    let mut peer = pair.peer(AT, Purpose::Http1).await;
    peer.send(GET).await;
    let (mut send, conn) = http2(&pair).await;
    let (_answer, _) = send.send_request(request("GET", "/"), true).expect("a stream");
    pass(2).await;
    pair.mesh.memory.set_memory_used(2 * LIMIT);
    pass(5).await;
    assert_eq!((shed(&sidecar, "idle"), app.hits()), (0, 2));
    assert!(!conn.is_finished());
    assert!(peer.try_send("").await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn c9_the_application_learns_why_its_new_connection_is_refused() {
    let mesh = Mesh::default();
    mesh.memory.set_cgroup(Some(CGROUP));
    let app = mesh.answering(A, OK);
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80]");
    let mut first = sidecar.client().await;
    assert_eq!(first.ask(GET).await.status_and_reason(), (200, None));
    until(&mesh, 2 * LIMIT, || shed(&sidecar, "pooled") == 1).await;
    let mut second = sidecar.client().await;
    assert_eq!(second.ask(GET).await.status_and_reason(), (503, Some("overloaded")));
    let mut opaque = sidecar.client().await;
    opaque.send(b"\x00\x01\x02").await;
    assert_eq!(opaque.rest().await, b"", "other bytes get no text of HTTP");
    assert_eq!(first.ask(GET).await.status_and_reason(), (200, None), "a connection that is open goes on");
    assert_eq!(app.hits(), 2);
    assert_eq!(sidecar.sum("pillion_requests_total status=503 reason=overloaded"), 1);
    assert_eq!(sidecar.sum("pillion_connections_total direction=outbound outcome=refused"), 2);
}

/// 1,000 clients with whole heads of 60 KB, which are legal: they wait for an application that does not answer.
#[tokio::test(start_paused = true)]
async fn c9_requests_of_the_application_with_large_heads_have_a_bound_in_sum() {
    let mesh = Mesh::default();
    mesh.memory.set_cgroup(Some(64 << 20));
    let (app, sidecar) = (mesh.silent(A), mesh.caller("endpoints: [10.0.0.1:80]"));
    let head = format!("GET / HTTP/1.1\r\nhost: orders\r\nx: {}\r\n\r\n", "a".repeat(60_000));
    let mut waiting: Vec<Peer> = Vec::new();
    for _ in 0..200 {
        let mut client = sidecar.client().await;
        client.send(&head).await;
        settle().await;
        waiting.push(client);
    }
    let held = app.hits() * (2 * head.len() + 16 * 1024);
    let bound = (64 << 20) / 10 * 9 / 4;
    assert!((bound / 10 * 9..bound / 100 * 101).contains(&held), "{held} of {bound}");
    assert_eq!(waiting.pop().expect("one").answer().await.status_and_reason(), (503, Some("overloaded")));
    drop(waiting);
    settle().await;
    let mut client = sidecar.client().await;
    client.send(GET).await;
    settle().await;
    assert_eq!(sidecar.sum("pillion_requests_active"), 1);
}

#[tokio::test(start_paused = true)]
async fn the_limit_follows_the_configuration_and_the_cgroup() {
    let mesh = Mesh::default();
    let limit = |sidecar: &Sidecar| sidecar.sum("pillion_memory_limit_bytes");
    let yaml = |max: &str| caller("endpoints: [10.0.0.1:80]") + &format!("limits: {{ max_memory: {max} }}\n");
    let mut sidecar = mesh.sidecar(&yaml("auto"), None);
    settle().await;
    assert_eq!(limit(&sidecar), 0, "no cgroup has a limit");
    mesh.memory.set_cgroup(Some(CGROUP));
    pass(11).await;
    assert_eq!(limit(&sidecar), LIMIT);
    sidecar.reload(&yaml("32MiB")).expect("a valid file");
    pass(1).await;
    assert_eq!(limit(&sidecar), 32 << 20);
    mesh.memory.set_memory_used(1 << 30);
    pass(1).await;
    let mut client = sidecar.client().await;
    assert_eq!(client.ask(GET).await.status_and_reason(), (503, Some("overloaded")));
    sidecar.reload(&yaml("off")).expect("a valid file");
    pass(1).await;
    let _app = mesh.answering(A, OK);
    let mut client = sidecar.client().await;
    assert_eq!(client.ask(GET).await.status_and_reason(), (200, None));
    assert_eq!(limit(&sidecar), 0);
}
