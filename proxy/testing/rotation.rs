//! New certificates, bundles and revocation lists while peers are connected: `identity.max_connection_age`, and rotations
//! one after the other under requests.

use std::sync::Arc;

use pillion_base::net::memory::Pipe;
use pillion_testkit::Scratch;
use pillion_tls::client::Purpose;
use pillion_tls::identity::credentials::Credentials;
use pillion_tls::identity::issue::{Ca, IssuedPem};
use pillion_tls::identity::parse;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::backend::OK;
use super::mesh::{self, A, ORDERS, Pair, Sidecar, application_at, identity, pass, secs, settle};
use super::peer::Peer;
use crate::app::Applied;

const AT: &str = "10.1.0.1:15006";
const AGED: &str = "identity: { directory: in-memory, max_connection_age: 60s }\n";

/// The sidecar of `orders`, whose application is at `A`, with this block `identity`.
fn sidecar(pair: &Pair, block: &str) -> Sidecar {
    let yaml = application_at(AT, &format!("app: {A}")) + block;
    pair.mesh.sidecar(&yaml, Some(identity(&pair.ca, "orders")))
}

#[tokio::test(start_paused = true)]
async fn after_a_rotation_a_connection_ends_with_its_first_answer_beyond_the_age() {
    let pair = Pair::new();
    let app = pair.mesh.answering(A, OK);
    let mut sidecar = sidecar(&pair, AGED);
    let mut peer = pair.peer(AT, Purpose::Http1).await;
    pass(100).await;
    let answer = peer.get("/").await;
    assert_eq!(
        (answer.status_and_reason(), answer.header("connection")),
        ((200, None), None),
        "no rotation yet"
    );

    let mut young = pair.peer(AT, Purpose::Http1).await;
    sidecar.rotate(identity(&pair.ca, "orders")).expect("good credentials");
    let mut new = pair.peer(AT, Purpose::Http1).await;
    let answer = peer.get("/").await;
    assert_eq!((answer.status_and_reason(), answer.header("connection")), ((200, None), Some("close")));
    for (seconds, of_young) in [(30, None), (40, Some("close"))] {
        pass(seconds).await;
        let answer = young.get("/").await;
        assert_eq!((answer.status_and_reason(), answer.header("connection")), ((200, None), of_young));
    }
    assert_eq!(new.get("/").await.header("connection"), None, "it began with the new certificate");
    assert_eq!(app.hits(), 5);
}

#[tokio::test(start_paused = true)]
async fn without_an_age_a_connection_outlives_a_rotation() {
    let pair = Pair::new();
    let _app = pair.mesh.answering(A, OK);
    let mut sidecar = sidecar(&pair, mesh::IDENTITY);
    let mut peer = pair.peer(AT, Purpose::Http1).await;
    assert_eq!(peer.get("/").await.header("connection"), None);
    sidecar.rotate(identity(&pair.ca, "orders")).expect("good credentials");
    pass(100).await;
    assert_eq!(peer.get("/").await.header("connection"), None);
}

#[tokio::test(start_paused = true)]
async fn a_reload_that_changes_the_age_alone_keeps_the_credentials_and_applies_the_age() {
    let (pair, scratch) = (Pair::new(), Scratch::new());
    let _app = pair.mesh.answering(A, OK);
    let orders = "spiffe://cluster.local/ns/default/sa/orders".parse().expect("an identity");
    let issued = pair.ca.issue(&orders, &[], secs(3600)).expect("a certificate");
    scratch.write("tls.crt", &issued.certificate);
    scratch.write("tls.key", &issued.key);
    scratch.write("ca.crt", &issued.bundle);
    let folder = scratch.path("");
    let of_age = |age: &str| {
        let identity = format!("directory: \"{}\", max_connection_age: {age}", folder.display());
        application_at(AT, &format!("app: {A}")) + &format!("identity: {{ {identity} }}\n")
    };
    let mut sidecar = pair.mesh.sidecar(&of_age("off"), None);
    let server = |sidecar: &Sidecar| {
        let snapshot = sidecar.controller.store().load();
        snapshot.inbound.as_ref().and_then(|inbound| inbound.tls.clone()).expect("TLS")
    };
    let before = server(&sidecar);
    let mut peer = pair.peer(AT, Purpose::Http1).await;
    assert_eq!(peer.get("/").await.header("connection"), None);
    pass(100).await;
    assert_eq!(sidecar.reload(&of_age("60s")).expect("a good file"), Applied::Changed);
    assert!(Arc::ptr_eq(&before, &server(&sidecar)), "the TLS server with its sessions");
    assert_eq!(peer.get("/").await.header("connection"), None, "no certificate has changed");
    sidecar.rotate(identity(&pair.ca, "orders")).expect("good credentials");
    assert_eq!(peer.get("/").await.header("connection"), Some("close"), "the age is in force");
}

#[tokio::test(start_paused = true)]
async fn a_callers_sidecar_goes_over_to_a_new_http2_connection_and_no_request_fails() {
    let pair = Pair::new();
    let _app = pair.mesh.answering(A, OK);
    let mut inbound = sidecar(&pair, AGED);
    let caller = pair.caller(&format!("endpoints: [\"{AT}\"], {ORDERS}, retry: off"));
    let mut client = caller.client().await;
    let connections =
        |inbound: &Sidecar| inbound.sum("pillion_connections_total direction=inbound protocol=http2");
    assert_eq!(client.get("/").await.status_and_reason(), (200, None));
    inbound.rotate(identity(&pair.ca, "orders")).expect("good credentials");
    pass(50).await;
    assert_eq!(client.get("/").await.status_and_reason(), (200, None));
    assert_eq!(connections(&inbound), 1, "not old enough");
    pass(20).await;
    for _ in 0..3 {
        assert_eq!(client.get("/").await.status_and_reason(), (200, None));
        settle().await;
    }
    assert_eq!(connections(&inbound), 2, "one GOAWAY, and one new connection");
}

#[tokio::test(start_paused = true)]
async fn an_opaque_connection_is_not_cut_by_its_age() {
    let pair = Pair::new();
    let _app = pair.mesh.scripted(A, |peer: Peer, _| async move {
        let (mut input, mut output) = tokio::io::split(peer.into_io());
        drop(tokio::io::copy(&mut input, &mut output).await);
    });
    let yaml = application_at(AT, &format!("app: {A}, protocol: tcp")) + AGED;
    let mut sidecar = pair.mesh.sidecar(&yaml, Some(identity(&pair.ca, "orders")));
    let io = pair.mesh.memory.connect(mesh::at(AT)).await.expect("the sidecar listens");
    let tls = mesh::client_tls(&identity(&pair.ca, "web"));
    let (mut io, _alpn) = tls.connect::<Pipe>(io, Purpose::Tcp).await.expect("a handshake");
    for word in [b"one", b"two"] {
        io.write_all(word).await.expect("open");
        let mut heard = [0; 3];
        io.read_exact(&mut heard).await.expect("an echo");
        assert_eq!(&heard, word);
        sidecar.rotate(identity(&pair.ca, "orders")).expect("good credentials");
        pass(100).await;
    }
}

/// The identity of `account` by `ca`, with trust in both authorities.
fn between(ca: &Ca, other: &Ca, account: &str) -> Credentials {
    let id = format!("spiffe://cluster.local/ns/default/sa/{account}").parse().expect("an identity");
    let issued = ca.issue(&id, &[], secs(3600)).expect("a certificate");
    let bundle = [ca.certificate_pem(), other.certificate_pem()].concat();
    let own = Credentials::from_pem(issued.certificate.as_bytes(), issued.key.as_bytes(), bundle.as_bytes());
    own.expect("credentials")
}

/// Each authority is replaced by the next one as an operator does it: trust in both first, then new certificates, then trust in
/// the new one and the one after it. The sidecars rotate one after the other, with requests in between, over a kept
/// connection and over a new one.
#[tokio::test(start_paused = true)]
async fn rotations_of_leaf_and_bundle_one_after_the_other_fail_no_request() {
    let rotations = if std::env::var_os("PILLION_TEST_FULL").is_some() { 1000 } else { 60 };
    let pair = Pair::new();
    let app = pair.mesh.answering(A, OK);
    let authority = || Ca::generate("cluster.local").expect("a CA");
    let (mut old, mut new) = (authority(), authority());
    let first = authority();
    let yaml = application_at(AT, &format!("app: {A}")) + AGED;
    let mut inbound = pair.mesh.sidecar(&yaml, Some(between(&first, &old, "orders")));
    inbound.rotate(between(&old, &new, "orders")).expect("good credentials");
    let caller = mesh::caller(&format!("endpoints: [\"{AT}\"], {ORDERS}, retry: off")) + mesh::IDENTITY;
    let mut caller = pair.mesh.sidecar(&caller, Some(between(&old, &new, "web")));
    let mut kept = caller.client().await;
    let mut requests = 0;
    for rotation in 0..rotations {
        let is_leaf = rotation % 2 == 0;
        if !is_leaf {
            old = std::mem::replace(&mut new, authority());
        }
        let (signs, other) = if is_leaf { (&new, &old) } else { (&old, &new) };
        for step in 0..2 {
            match step {
                0 => inbound.rotate(between(signs, other, "orders")).expect("good credentials"),
                _ => caller.rotate(between(signs, other, "web")).expect("good credentials"),
            }
            pass(1).await;
            let (again, anew) = (kept.get("/").await, caller.client().await.get("/").await);
            for answer in [again, anew] {
                assert_eq!(answer.status_and_reason(), (200, None), "{rotation}.{step}: {}", answer.body);
                requests += 1;
            }
        }
    }
    assert_eq!(app.hits(), requests);
    for (ca, other, is_trusted) in [(&first, &old, false), (&old, &new, true), (&new, &old, true)] {
        let tls = mesh::client_tls(&between(ca, other, "web"));
        let io = pair.mesh.memory.connect(mesh::at(AT)).await.expect("the sidecar listens");
        let shaken = tls.connect::<Pipe>(io, Purpose::Http1).await;
        let (near, mut far) = Pipe::pair(64 * 1024);
        let mut answered = false;
        if let Ok((mut io, _alpn)) = shaken {
            // a client of TLS 1.3 learns the refusal after its own handshake
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut far, &mut io).await });
            let mut peer = Peer::new(near);
            peer.try_send("GET / HTTP/1.1\r\nhost: orders\r\n\r\n").await.unwrap_or_default();
            answered = peer.message().await.is_some_and(|answer| answer.status() == Some(200));
        }
        assert_eq!(answered, is_trusted, "the rotations are in use");
    }
    println!("{rotations} rotations of both sidecars: {requests} requests, none failed");
}

/// Writes what `identity.directory` holds, without a revocation list.
fn write(folder: &Scratch, issued: &IssuedPem) {
    for (name, content) in
        [("tls.crt", &issued.certificate), ("tls.key", &issued.key), ("ca.crt", &issued.bundle)]
    {
        folder.write(name, content);
    }
}

/// A caller with a kept connection and sessions to resume is refused by its next request, as soon as the files were
/// looked at twice: the keeper looks every 500 ms.
#[tokio::test(start_paused = true)]
async fn a_revoked_peer_is_out_after_two_looks_at_the_list_with_its_kept_connection_and_its_sessions() {
    let (pair, scratch) = (Pair::new(), Scratch::new());
    let app = pair.mesh.answering(A, OK);
    let orders = "spiffe://cluster.local/ns/default/sa/orders".parse().expect("an identity");
    let issued = pair.ca.issue(&orders, &[], secs(3600)).expect("a certificate");
    let (soon, web) = (time::OffsetDateTime::now_utc() + secs(3600), identity(&pair.ca, "web"));
    let list = |serials: &[Vec<u8>]| pair.ca.revoke(serials, soon).expect("a list");
    write(&scratch, &issued);
    scratch.write("ca.crl", list(&[]));
    let folder = format!("identity: {{ directory: \"{}\" }}\n", scratch.path("").display());
    let mut inbound = pair.mesh.sidecar(&(application_at(AT, &format!("app: {A}")) + &folder), None);
    let caller = pair.caller_as(&format!("endpoints: [\"{AT}\"], {ORDERS}"), web.clone());
    let mut client = caller.client().await;
    assert_eq!(client.get("/").await.status_and_reason(), (200, None));

    scratch.write("ca.crl", list(&[parse(&web.chain()[0]).expect("a certificate").raw_serial().to_vec()]));
    assert!(inbound.look_at_identity().expect("a list"), "two looks");
    for _ in 0..3 {
        let answer = client.get("/").await;
        assert_eq!(answer.status(), Some(502), "{}", answer.body);
        assert!(answer.body.contains("revoked"), "{}", answer.body);
    }
    assert_eq!(app.hits(), 1);
}

/// Opaque bytes have no next request by which the peer could be refused, so the connection is cut.
#[tokio::test(start_paused = true)]
async fn a_revoked_peer_is_out_with_its_opaque_connection_and_others_stay() {
    let (pair, scratch) = (Pair::new(), Scratch::new());
    let _app = pair.mesh.scripted(A, |peer: Peer, _| async move {
        let (mut input, mut output) = tokio::io::split(peer.into_io());
        drop(tokio::io::copy(&mut input, &mut output).await);
    });
    let orders = "spiffe://cluster.local/ns/default/sa/orders".parse().expect("an identity");
    let issued = pair.ca.issue(&orders, &[], secs(3600)).expect("a certificate");
    let (soon, web) = (time::OffsetDateTime::now_utc() + secs(3600), identity(&pair.ca, "web"));
    let list = |serials: &[Vec<u8>]| pair.ca.revoke(serials, soon).expect("a list");
    write(&scratch, &issued);
    scratch.write("ca.crl", list(&[]));
    let folder = scratch.path("");
    let folder = format!("identity: {{ directory: \"{}\", max_connection_age: 1h }}\n", folder.display());
    let from = "from: [\"spiffe://cluster.local/ns/default/sa/nobody\"]";
    let rules = format!("authorization: {{ default: allow, rules: [{{ name: no, action: deny, {from} }}] }}");
    let yaml = application_at(AT, &format!("app: {A}, protocol: tcp, {rules}")) + &folder;
    let mut inbound = pair.mesh.sidecar(&yaml, None);
    let mut revoked = opaque(&pair, &web).await;
    let mut other = opaque(&pair, &identity(&pair.ca, "batch")).await;
    assert!(echoes(&mut revoked).await && echoes(&mut other).await);

    scratch.write("ca.crl", list(&[parse(&web.chain()[0]).expect("a certificate").raw_serial().to_vec()]));
    assert!(inbound.look_at_identity().expect("a list"), "two looks");
    mesh::settle().await;
    assert!(!echoes(&mut revoked).await, "it is cut");
    for _ in 0..3 {
        assert!(echoes(&mut other).await, "nothing has changed for the other peer");
    }
    assert_eq!(inbound.sum("pillion_authorization_total"), 2, "each connection is counted once");
    let inbound = |labels: &str| inbound.sum(&format!("pillion_connections_active {labels}"));
    assert_eq!(inbound("direction=inbound protocol=tcp"), 1);
}

/// An opaque connection of this identity to the sidecar.
async fn opaque(pair: &Pair, own: &Credentials) -> impl AsyncRead + AsyncWrite + Unpin + use<> {
    let io = pair.mesh.memory.connect(mesh::at(AT)).await.expect("the sidecar listens");
    let (io, _alpn) = mesh::client_tls(own).connect::<Pipe>(io, Purpose::Tcp).await.expect("a handshake");
    io
}

async fn echoes(io: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> bool {
    let mut heard = [0; 3];
    io.write_all(b"one").await.is_ok() && io.read_exact(&mut heard).await.is_ok() && &heard == b"one"
}

/// The same for a server: the caller's list changes while a connection to the server waits in the caller's pool.
#[tokio::test(start_paused = true)]
async fn a_revoked_server_is_out_after_two_looks_at_the_list_with_its_pooled_connection_and_its_sessions() {
    let (pair, scratch) = (Pair::new(), Scratch::new());
    let app = pair.mesh.answering(A, OK);
    let web = "spiffe://cluster.local/ns/default/sa/web".parse().expect("an identity");
    let issued = pair.ca.issue(&web, &[], secs(3600)).expect("a certificate");
    let (soon, orders) = (time::OffsetDateTime::now_utc() + secs(3600), identity(&pair.ca, "orders"));
    let list = |serials: &[Vec<u8>]| pair.ca.revoke(serials, soon).expect("a list");
    write(&scratch, &issued);
    scratch.write("ca.crl", list(&[]));
    let inbound = pair.application_as(AT, A, orders.clone());
    let folder = format!("identity: {{ directory: \"{}\" }}\n", scratch.path("").display());
    let yaml = mesh::caller(&format!("endpoints: [\"{AT}\"], {ORDERS}")) + &folder;
    let mut caller = pair.mesh.sidecar(&yaml, None);
    let mut client = caller.client().await;
    for _ in 0..2 {
        assert_eq!(client.get("/").await.status_and_reason(), (200, None));
    }
    let handshakes = || inbound.sum("pillion_tls_handshakes_total direction=inbound outcome=ok");
    assert_eq!(handshakes(), 1, "the connection is pooled");

    scratch.write("ca.crl", list(&[parse(&orders.chain()[0]).expect("a certificate").raw_serial().to_vec()]));
    assert!(caller.look_at_identity().expect("a list"), "two looks");
    for _ in 0..3 {
        let answer = client.get("/").await;
        assert_eq!(answer.status(), Some(502), "{}", answer.body);
        assert!(answer.body.contains("revoked"), "{}", answer.body);
    }
    assert_eq!((app.hits(), handshakes()), (2, 1), "neither the connection nor a session is used again");
}
