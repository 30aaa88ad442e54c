//! The drain of a sidecar, as a client sees it in every state of its connection: when it begins, at `delay`, and at the
//! end.

mod inbound;
mod outbound;
mod pair;
mod taken_over;

use pillion_model::listener::Drain as Plan;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::backend::{Backend, OK};
use super::mesh::{Mesh, Sidecar, pass, secs, settle};
use super::peer::Peer;
use pillion_base::drain::DrainOutcome;

const GET: &str = "GET / HTTP/1.1\r\nhost: orders\r\n\r\n";
const UPGRADE: &str = "GET /chat HTTP/1.1\r\nhost: orders\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
                       sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
const SWITCHED: &str = "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
                        sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// What an HTTP/2 client sends first.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// An HTTP/2 request for `orders`, whose other fields are all in the static table.
fn stream(stream: u8) -> Vec<u8> {
    [b"\0\0\x0b\x01\x05\0\0\0", &[stream][..], b"\x82\x86\x84\x41\x06orders"].concat()
}

/// Without error: the sidecar has processed nothing after this stream.
fn goaway(last: u8) -> Vec<u8> {
    [b"\0\0\x08\x07\0\0\0\0\0\0\0\0", &[last][..], b"\0\0\0\0"].concat()
}

fn has(heard: &[u8], frame: &[u8]) -> bool {
    heard.windows(frame.len()).any(|part| part == frame)
}

/// A drain with the usual plan: `delay` is 5 s, `timeout` 25 s.
struct End {
    began: Instant,
    ended: JoinHandle<(DrainOutcome, Instant)>,
}

impl End {
    async fn begin(sidecar: &Sidecar) -> Self {
        Self::planned(sidecar, Plan::default()).await
    }

    async fn planned(sidecar: &Sidecar, plan: Plan) -> Self {
        let (drain, began) = (sidecar.drain.clone(), Instant::now());
        drain.begin();
        let ended = tokio::spawn(async move { (drain.finished(plan).await, Instant::now()) });
        settle().await;
        Self { began, ended }
    }

    /// Just before `delay` is over.
    async fn before_delay(&self) {
        tokio::time::sleep_until(self.began + secs(5) - secs(1) / 10).await;
    }

    /// Just after `delay` is over.
    async fn after_delay(&self) {
        tokio::time::sleep_until(self.began + secs(5) + secs(1) / 10).await;
        settle().await;
    }

    fn is_over(&self) -> bool {
        self.ended.is_finished()
    }

    /// How the drain ended, and after how many seconds, rounded to the nearest.
    async fn outcome_and_seconds(self) -> (DrainOutcome, u64) {
        let (ended, at) = self.ended.await.expect("no test aborts it");
        (ended, (at - self.began + secs(1) / 2).as_secs())
    }
}

/// Answers each request after this many seconds.
fn slow(mesh: &Mesh, address: &str, seconds: u64) -> Backend {
    mesh.scripted(address, move |mut peer: Peer, _| async move {
        while peer.message().await.is_some() {
            pass(seconds).await;
            if peer.try_send(OK).await.is_err() {
                return;
            }
        }
    })
}

/// Switches protocols, then echoes.
fn chat(mesh: &Mesh, address: &str) -> Backend {
    mesh.scripted(address, |mut peer: Peer, _| async move {
        if peer.message().await.is_some() {
            peer.send(SWITCHED).await;
            echo(peer).await;
        }
    })
}

/// Greets, then echoes.
fn greeter(mesh: &Mesh, address: &str) -> Backend {
    mesh.scripted(address, |mut peer: Peer, _| async move {
        peer.send("welcome").await;
        echo(peer).await;
    })
}

async fn echo(mut peer: Peer) {
    loop {
        let (heard, is_whole) = peer.exactly(1).await;
        if !is_whole || peer.try_send(heard).await.is_err() {
            return;
        }
    }
}

async fn echoes(client: &mut Peer, what: &str) {
    client.send(what).await;
    assert_eq!(client.exactly(what.len()).await, (what.into(), true));
}

/// Whether the other end closes the connection before time passes.
async fn is_closed(client: &mut Peer) -> bool {
    tokio::time::timeout(secs(1) / 100, client.rest()).await.is_ok()
}
