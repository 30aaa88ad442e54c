//! Clients that have not proven an identity: how long they may stay, and which clients they cannot keep out.

use super::backend::OK;
use super::mesh::{A, IDENTITY, Pair, Sidecar, Watch, application_at, identity, pass, settle};
use super::peer::Peer;
use pillion_tls::client::Purpose;

const AT: &str = "10.1.0.1:15006";
/// The first bytes of a ClientHello.
const HELLO: &[u8] = b"\x16\x03\x01\x02\x00\x01";

/// The application's sidecar, with room for `most` connections.
pub(super) fn sidecar(pair: &Pair, policy: &str, most: usize) -> Sidecar {
    let inbound = format!("app: {A}, {policy}, max_connections: {most}");
    pair.mesh.sidecar(&(application_at(AT, &inbound) + IDENTITY), Some(identity(&pair.ca, "orders")))
}

pub(super) async fn crowd(sidecar: &Sidecar, count: usize, say: &[u8]) -> Vec<Peer> {
    let mut all = Vec::new();
    for _ in 0..count {
        let mut client = sidecar.client().await;
        client.send(say).await;
        all.push(client);
        settle().await;
    }
    all
}

#[tokio::test(start_paused = true)]
async fn a5_a_handshake_must_be_complete_within_the_header_timeout_after_accept() {
    let pair = Pair::new();
    let sidecar = sidecar(&pair, "mtls: strict", 100);
    for (what, before, say) in
        [("silence", 0, &b""[..]), ("a late beginning", 7, HELLO), ("a late request", 7, b"FETCH")]
    {
        let mut client = sidecar.client().await;
        let watch = Watch::start();
        pass(before).await;
        client.send(say).await;
        assert_eq!(client.rest().await, b"", "{what}");
        assert_eq!(watch.seconds(), 10, "{what}");
    }
    settle().await;
    assert_eq!(sidecar.sum("pillion_connections_total direction=inbound outcome=timeout"), 2);
}

#[tokio::test(start_paused = true)]
async fn a5_a_client_that_has_completed_its_handshake_may_be_silent_for_long() {
    let pair = Pair::new();
    let app = pair.mesh.answering(A, OK);
    let _sidecar = sidecar(&pair, "mtls: strict", 100);
    let mut peer = pair.peer(AT, Purpose::Tcp).await;
    pass(1800).await;
    assert_eq!(peer.get("/").await.status_and_reason(), (200, None));
    assert_eq!(app.hits(), 1);
}

#[tokio::test(start_paused = true)]
async fn a5_peers_of_the_mesh_are_served_while_700_silent_unproven_clients_connect() {
    for say in [&b""[..], HELLO] {
        let pair = Pair::new();
        let app = pair.mesh.answering(A, OK);
        let sidecar = sidecar(&pair, "mtls: strict", 480);
        let mut strangers = crowd(&sidecar, 700, say).await;
        for nth in 0..100 {
            let mut peer = pair.peer(AT, Purpose::Http1).await;
            assert_eq!(peer.get("/").await.status_and_reason(), (200, None), "peer {nth}");
            strangers.push(sidecar.client().await);
        }
        assert_eq!(app.hits(), 100);
        let refused =
            sidecar.sum("pillion_connections_total direction=inbound protocol=unknown outcome=refused");
        assert!(refused >= 700 - 480 + 100, "{refused} made room for others and for peers");
    }
}

#[tokio::test(start_paused = true)]
async fn a5_the_oldest_unproven_client_is_closed_first_and_no_admitted_one() {
    for (policy, purpose) in [("mtls: strict", Purpose::Http1), ("mtls: permissive", Purpose::Tcp)] {
        let pair = Pair::new();
        let _app = pair.mesh.answering(A, OK);
        let sidecar = sidecar(&pair, policy, 3);
        let mut peer = pair.peer(AT, purpose).await;
        assert_eq!(peer.get("/").await.status_and_reason(), (200, None), "{policy}");
        let mut strangers = crowd(&sidecar, 3, b"").await;
        assert_eq!(strangers[0].rest().await, b"", "{policy}: the oldest made room");
        assert!(strangers[1].try_send("").await.is_ok() && strangers[2].try_send("").await.is_ok());
        assert_eq!(peer.get("/").await.status_and_reason(), (200, None), "{policy}: a peer stays");
        drop(strangers);
        settle().await;
        let mut peers = Vec::new();
        for _ in 0..2 {
            peers.push(pair.peer(AT, purpose).await);
            assert_eq!(
                peers.last_mut().expect("a peer").get("/").await.status_and_reason(),
                (200, None),
                "{policy}"
            );
        }
        let mut late = sidecar.client().await;
        assert_eq!(late.rest().await, b"", "{policy}: no admitted client is closed for an unproven one");
        for peer in &mut peers {
            assert_eq!(peer.get("/").await.status_and_reason(), (200, None), "{policy}");
        }
    }
}
