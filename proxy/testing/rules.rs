//! Rules that change while the sidecar waits for a client: the client is judged by the present rules.

use std::sync::Arc;

use pillion_base::net::memory::Pipe;
use pillion_tls::client::Purpose;
use pillion_tls::identity::credentials::Credentials;
use pillion_tls::identity::issue::Ca;
use pillion_tls::identity::{parse, unix_now};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;

use super::backend::OK;
use super::mesh::{
    self, A, B, IDENTITY, Pair, Sidecar, Watch, application_at, at, identity, pass, secs, settle,
};
use super::peer::Peer;

const AT: &str = "10.1.0.1:15006";

fn file(inbound: &str) -> String {
    application_at(AT, inbound) + IDENTITY
}

/// The sidecar of `orders`, whose application is at `A`.
fn sidecar(pair: &Pair, inbound: &str) -> Sidecar {
    pair.mesh.sidecar(&file(&format!("app: {A}, {inbound}")), Some(identity(&pair.ca, "orders")))
}

/// The credentials of `orders`, with trust in another authority alone.
fn trusting_others(pair: &Pair) -> Credentials {
    trusting(&Ca::generate("cluster.local").expect("a CA"), identity(&pair.ca, "orders"))
}

fn trusting(authority: &Ca, own: Credentials) -> Credentials {
    let theirs = identity(authority, "anybody");
    Credentials { bundle: theirs.bundle, roots: theirs.roots, ..own }
}

/// The credentials of `orders`, with a list that revokes `whom`.
fn revoking(pair: &Pair, whom: &Credentials) -> Credentials {
    let serial = parse(&whom.chain()[0]).expect("a certificate").raw_serial().to_vec();
    let tomorrow = time::OffsetDateTime::now_utc() + secs(86_400);
    let lists = pair.ca.revoke(&[serial], tomorrow).expect("a list");
    identity(&pair.ca, "orders").with_crl("ca.crl".as_ref(), lists.as_bytes(), unix_now()).expect("lists")
}

/// A client's connection to the sidecar. The bytes after the first ones are held back until the test releases them.
struct Held {
    pipe: Pipe,
    go: Arc<Notify>,
}

async fn held(pair: &Pair, first: usize) -> Held {
    let mut out = pair.mesh.memory.connect(at(AT)).await.expect("the sidecar listens");
    let (near, mut far) = Pipe::pair(64 * 1024);
    let go = Arc::new(Notify::new());
    let gone = go.clone();
    tokio::spawn(async move {
        let mut begin = vec![0; first];
        far.read_exact(&mut begin).await.expect("the client speaks");
        out.write_all(&begin).await.expect("the sidecar reads");
        gone.notified().await;
        drop(tokio::io::copy_bidirectional(&mut far, &mut out).await);
    });
    Held { pipe: near, go }
}

/// The first bytes of a client of the mesh.
pub(super) async fn client_hello(own: &Credentials) -> Vec<u8> {
    let (near, mut far) = Pipe::pair(64 * 1024);
    let tls = mesh::client_tls(own);
    let client = tokio::spawn(async move { drop(tls.connect(near, Purpose::Http1).await) });
    let mut hello = Vec::with_capacity(16 * 1024);
    far.read_buf(&mut hello).await.expect("a hello");
    client.abort();
    hello
}

#[tokio::test(start_paused = true)]
async fn a6_a_client_that_was_silent_when_mtls_became_strict_is_judged_strictly() {
    for before in ["mtls: off", "mtls: permissive"] {
        let pair = Pair::new();
        let app = pair.mesh.answering(A, OK);
        let mut sidecar = sidecar(&pair, before);
        let (mut asks, mut opaque, mut silent) =
            (sidecar.client().await, sidecar.client().await, sidecar.client().await);
        settle().await;
        sidecar.reload(&file(&format!("app: {A}, mtls: strict"))).expect("a good file");
        assert_eq!(asks.get("/").await.status_and_reason(), (403, Some("mtls_required")), "{before}");
        opaque.send("\0\x01 opaque").await;
        assert_eq!(opaque.rest().await, b"", "{before}");
        silent.send("GE").await;
        pass(1).await;
        silent.send("T / HTTP/1.1\r\nhost: a\r\n\r\n").await;
        assert_eq!(silent.answer().await.status_and_reason(), (403, Some("mtls_required")), "{before}");
        assert_eq!((app.hits(), app.open()), (0, 0), "{before}");
    }
}

#[tokio::test(start_paused = true)]
async fn a6_a_client_that_was_silent_before_mtls_was_configured_may_still_use_it() {
    let pair = Pair::new();
    let app = pair.mesh.answering(A, OK);
    let mut sidecar = sidecar(&pair, "mtls: off");
    let io = pair.mesh.memory.connect(at(AT)).await.expect("the sidecar listens");
    pass(60).await;
    sidecar.reload(&file(&format!("app: {A}, mtls: strict"))).expect("a good file");
    let mut peer = pair.shaken(io, Purpose::Http1).await;
    assert_eq!(peer.get("/").await.status_and_reason(), (200, None));
    assert_eq!(app.hits(), 1);
}

#[tokio::test(start_paused = true)]
async fn a6_a_handshake_is_judged_by_the_present_authorities_and_revocations() {
    for (heard, first) in [("nothing", 0), ("one byte", 1)] {
        for change in ["another authority", "a revocation"] {
            let pair = Pair::new();
            let app = pair.mesh.answering(A, OK);
            let web = identity(&pair.ca, "web");
            let mut sidecar = sidecar(&pair, "mtls: strict");
            let (held, tls) = (held(&pair, first).await, mesh::client_tls(&web));
            let client = tokio::spawn(async move { tls.connect(held.pipe, Purpose::Http1).await });
            settle().await;
            let next = match change {
                "a revocation" => revoking(&pair, &web),
                _ => trusting_others(&pair),
            };
            sidecar.rotate(next).expect("good credentials");
            held.go.notify_one();
            if let Ok((mut io, _alpn)) = client.await.expect("a client") {
                drop(io.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await);
                let mut heard = Vec::new();
                drop(io.read_to_end(&mut heard).await);
                assert_eq!(heard, b"", "{change} after {first} bytes");
            }
            assert_eq!(app.hits(), 0, "{change} after the sidecar heard {heard}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a6_a_client_is_judged_again_after_its_handshake_before_opaque_bytes_pass() {
    let pair = Pair::new();
    let app = pair.mesh.scripted(A, |mut peer: Peer, _| async move {
        peer.rest().await;
    });
    let mut sidecar = sidecar(&pair, "mtls: strict");
    let mut peer = pair.peer(AT, Purpose::Tcp).await;
    pass(1).await;
    assert_eq!(app.connections(), 1, "it was dialled early");
    sidecar.rotate(trusting_others(&pair)).expect("good credentials");
    peer.send("\0\x01 opaque").await;
    assert_eq!(peer.rest().await, b"");
    settle().await;
    assert_eq!(sidecar.sum("pillion_bytes_total direction=inbound flow=sent"), 0);
}

#[tokio::test(start_paused = true)]
async fn a6_a_request_on_a_kept_connection_is_judged_by_the_present_rules() {
    let pair = Pair::new();
    let app = pair.mesh.answering(A, OK);
    let mut sidecar = sidecar(&pair, "mtls: strict");
    let mut peer = pair.peer(AT, Purpose::Http1).await;
    assert_eq!(peer.get("/").await.status_and_reason(), (200, None));
    sidecar.rotate(identity(&pair.ca, "orders")).expect("good credentials");
    assert_eq!(peer.get("/").await.status_and_reason(), (200, None), "its authority is trusted still");
    sidecar.rotate(trusting_others(&pair)).expect("good credentials");
    let refused = peer.get("/").await;
    assert_eq!(refused.status_and_reason(), (503, Some("draining")));
    assert_eq!(refused.header("connection"), Some("close"), "it may come again, and prove it anew");
    assert_eq!(app.hits(), 2);
}

#[tokio::test(start_paused = true)]
async fn a6_a_client_whose_authority_was_removed_is_refused_when_mtls_is_strict_again() {
    let pair = Pair::new();
    let app = pair.mesh.answering(A, OK);
    let mut sidecar = sidecar(&pair, "mtls: strict");
    let mut peer = pair.peer(AT, Purpose::Http1).await;
    assert_eq!(peer.get("/").await.status_and_reason(), (200, None));
    sidecar.reload(&file(&format!("app: {A}, mtls: off"))).expect("a good file");
    sidecar.rotate(trusting_others(&pair)).expect("good credentials");
    assert_eq!(
        peer.get("/").await.status_and_reason(),
        (200, None),
        "with mtls off no certificate is needed"
    );
    sidecar.reload(&file(&format!("app: {A}, mtls: strict"))).expect("a good file");
    assert_eq!(peer.get("/").await.status_and_reason(), (503, Some("draining")));
    assert_eq!(app.hits(), 2);
}

#[tokio::test(start_paused = true)]
async fn a6_a_caller_whose_kept_connection_is_refused_connects_again_and_gets_the_reason() {
    let pair = Pair::new();
    let _app = pair.mesh.answering(A, OK);
    let mut inbound = pair.application(AT, A);
    let outbound = pair.caller(&format!("endpoints: [{AT}], {}", mesh::ORDERS));
    let mut client = outbound.client().await;
    assert_eq!(client.get("/").await.status_and_reason(), (200, None));
    inbound.rotate(trusting_others(&pair)).expect("good credentials");
    let refused = client.get("/").await;
    assert_eq!(refused.status_and_reason(), (502, Some("tls_error")));
    assert!(refused.body.contains("refused our certificate"), "{}", refused.body);
    inbound.rotate(identity(&pair.ca, "orders")).expect("good credentials");
    settle().await;
    assert_eq!(client.get("/").await.status_and_reason(), (200, None));
    assert_eq!(inbound.sum("pillion_tls_handshakes_total outcome=ok"), 2, "HTTP/2 got a GOAWAY");
}

/// The last step of replacing an authority: all certificates are new, and the old authority is removed from the bundle.
#[tokio::test(start_paused = true)]
async fn a6_replacing_an_authority_costs_no_request() {
    for protocol in ["http1", "http2"] {
        let (pair, new) = (Pair::new(), Ca::generate("cluster.local").expect("a CA"));
        let app = pair.mesh.answering(A, OK);
        let mut inbound = pair.application(AT, A);
        let mut outbound = pair.caller(&format!("endpoints: [{AT}], protocol: {protocol}, {}", mesh::ORDERS));
        let mut client = outbound.client().await;
        let post = "POST / HTTP/1.1\r\nhost: orders\r\ncontent-length: 2\r\n\r\nab";
        assert_eq!(client.ask(post).await.status_and_reason(), (200, None));
        outbound.rotate(trusting(&pair.ca, identity(&new, "web"))).expect("good credentials");
        inbound.rotate(trusting(&new, identity(&pair.ca, "orders"))).expect("good credentials");
        assert_eq!(client.ask(post).await.status_and_reason(), (200, None), "{protocol}");
        assert_eq!(
            (app.hits(), inbound.sum("pillion_tls_handshakes_total outcome=ok")),
            (2, 2),
            "{protocol}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a6_a_client_that_was_silent_reaches_the_present_application() {
    let pair = Pair::new();
    let (a, b) = (pair.mesh.answering(A, OK), pair.mesh.answering(B, OK));
    let mut sidecar = sidecar(&pair, "mtls: off");
    let (mut silent, mut kept) = (sidecar.client().await, sidecar.client().await);
    assert_eq!(kept.get("/").await.status_and_reason(), (200, None));
    sidecar.reload(&file(&format!("app: {B}, mtls: off"))).expect("a good file");
    assert_eq!(silent.get("/").await.status_and_reason(), (200, None));
    assert_eq!(kept.get("/").await.status_and_reason(), (200, None));
    assert_eq!((a.hits(), b.hits()), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn a6_opaque_bytes_never_go_where_the_present_configuration_forbids() {
    let pair = Pair::new();
    let app = pair.mesh.scripted("10.0.0.9:5432", |mut peer: Peer, _| async move {
        peer.rest().await;
    });
    let file = |unknown: &str| {
        mesh::caller("endpoints: [10.0.0.1:80]").replace(
            "listen: 127.0.0.1:0 }\nserv",
            &format!("listen: 127.0.0.1:0, unknown: {unknown} }}\nserv"),
        )
    };
    let mut sidecar = pair.mesh.sidecar(&file("passthrough"), None);
    let mut silent = sidecar.redirected("10.0.0.9:5432").await;
    settle().await;
    sidecar.reload(&file("deny")).expect("a good file");
    silent.send("\0\x01 opaque").await;
    assert_eq!(silent.rest().await, b"");
    settle().await;
    assert_eq!(app.hits(), 0);
    assert_eq!(sidecar.sum("pillion_bytes_total direction=outbound"), 0);
}

#[tokio::test(start_paused = true)]
async fn a6_the_limits_at_the_first_byte_apply() {
    let pair = Pair::new();
    let _app = pair.mesh.scripted(A, |mut peer: Peer, _| async move {
        peer.rest().await;
    });
    let mut sidecar = sidecar(&pair, "mtls: off");
    let mut silent = sidecar.client().await;
    pass(60).await;
    sidecar
        .reload(&(file(&format!("app: {A}, mtls: off")) + "limits: { header_timeout: 3s }\n"))
        .expect("good");
    let watch = Watch::start();
    silent.send("GE").await;
    silent.rest().await;
    assert_eq!(watch.seconds(), 3);
}

#[tokio::test(start_paused = true)]
async fn a9_detection_and_head_of_an_undeclared_request_have_one_deadline() {
    let pair = Pair::new();
    let app = pair.mesh.answering(A, OK);
    let inbound = sidecar(&pair, "mtls: off");
    let outbound = pair.mesh.caller("endpoints: [10.0.0.1:80]");
    for (sidecar, what) in [(&inbound, "inbound"), (&outbound, "outbound")] {
        let mut client = sidecar.client().await;
        let watch = Watch::start();
        client.send("G").await;
        pass(8).await;
        client.send("ET / HTTP/1.1\r\nhost: orders\r\n").await;
        client.rest().await;
        assert_eq!(watch.seconds(), 10, "{what}");
    }
    assert_eq!(app.hits(), 0);
}

#[tokio::test(start_paused = true)]
async fn a9_tiny_pieces_to_a_destination_that_speaks_http_have_one_deadline() {
    let pair = Pair::new();
    let app = pair.mesh.answering(A, OK);
    let inbound =
        application_at(AT, &format!("app: {A}, mtls: off")) + IDENTITY + "limits: { header_timeout: 1s }\n";
    let sidecar = pair.mesh.sidecar(&inbound, Some(identity(&pair.ca, "orders")));
    assert_eq!(sidecar.client().await.get("/").await.status_and_reason(), (200, None));
    let mut client = sidecar.client().await;
    let watch = Watch::start();
    for _ in 0..50 {
        if client.try_send("\r\n").await.is_err() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    client.rest().await;
    assert_eq!(watch.seconds(), 1);
    assert_eq!(app.hits(), 1);
}

#[tokio::test(start_paused = true)]
async fn a9_a_clienthello_in_tiny_pieces_and_its_handshake_have_one_deadline() {
    let pair = Pair::new();
    let sidecar = sidecar(&pair, "mtls: permissive");
    let hello = client_hello(&identity(&pair.ca, "web")).await;
    let mut client = sidecar.client().await;
    let watch = Watch::start();
    client.send(&hello[..1]).await;
    pass(8).await;
    client.send(&hello[1..]).await;
    client.rest().await;
    assert_eq!(watch.seconds(), 10);
    assert_eq!(sidecar.sum("pillion_tls_handshakes_total outcome=timeout"), 1);
}
