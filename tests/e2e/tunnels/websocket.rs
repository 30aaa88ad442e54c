//! WebSockets between a client and a server of Python's `websockets`, through the pair.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use std::io::{BufRead as _, BufReader};

use crate::support::program::Program;
use crate::support::sidecar::{Pair, Plan, Sidecar};
use crate::support::tools::{printed, require_python};
use crate::support::wire::Wire;
use crate::support::{eventually, soon};

/// The server. It ends when its input ends.
struct WebSockets {
    address: SocketAddr,
    child: Child,
}

fn script(name: &str, words: &[&str]) -> Command {
    let mut python = Program::script(Command::new("env"), name, words);
    for variable in ["http_proxy", "https_proxy", "all_proxy", "ws_proxy"] {
        python.env_remove(variable).env_remove(variable.to_uppercase());
    }
    python
}

impl WebSockets {
    /// `None`, with a printed reason, when the library is missing.
    async fn start() -> Option<Self> {
        // This module does not exist before version 13.
        if !require_python("websockets.asyncio.server") {
            return None;
        }
        let mut python = script("websocket_server.py", &[]);
        let child = python.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("python3 starts");
        let mut server = Self { address: ([127, 0, 0, 1], 0).into(), child };
        let mut stdout = BufReader::new(server.child.stdout.take().expect("a pipe"));
        let first = tokio::task::spawn_blocking(move || {
            let mut line = String::new();
            stdout.read_line(&mut line).map(|_length| line)
        });
        let line = soon("the server's port", first).await.expect("no panic").expect("a line");
        let port = line.trim_end().strip_prefix("port ").and_then(|port| port.parse().ok());
        server.address.set_port(port.expect("a port"));
        Some(server)
    }
}

impl Drop for WebSockets {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The client's output without sidecars.
const EXPECTED: &str = "text grüß dich\n\
    binary 1048576 True\n\
    fragments in three frames\n\
    pong\n\
    closed by us 1000\n\
    uncompressed 100\n\
    going 1000 as you asked\n\
    going 1001 as you asked\n\
    going 1011 as you asked\n\
    going 3000 as you asked\n\
    going 4999 as you asked\n\
    refused 403 not for you\n\
    at once 50\n";

async fn client(at: SocketAddr) -> String {
    printed(script("websocket_client.py", &[&at.to_string()])).await
}

#[tokio::test]
async fn a_websocket_does_through_the_pair_what_it_does_without() {
    let Some(server) = WebSockets::start().await else { return };
    assert_eq!(client(server.address).await, EXPECTED, "without sidecars");
    for (service, inbound) in [("", ""), ("protocol: http1", "protocol: http1"), ("protocol: http2", "")] {
        let pair = Pair::start(server.address, service, inbound).await;
        assert_eq!(client(pair.caller.orders()).await, EXPECTED, "services: {service}; inbound: {inbound}");
        pair.application.counted(1, &[("direction", "inbound"), ("status", "403"), ("reason", "")]).await;
    }
}

/// 1 for the echoes, 1 without compression, 5 that are closed, 50 at once.
const TUNNELS: u32 = 57;

/// Over HTTP/2 a tunnel is opened with 200 (RFC 8441), and a sidecar counts the status that it sent. Tunnels are
/// counted when they end.
#[tokio::test]
async fn a_websocket_counts_with_the_status_that_its_client_got() {
    let Some(server) = WebSockets::start().await else { return };
    for (service, between) in [("", "101"), ("protocol: http2", "200")] {
        let pair = Pair::start(server.address, service, "").await;
        assert_eq!(client(pair.caller.orders()).await, EXPECTED, "services: {service}");
        pair.application.counted(TUNNELS, &[("method", "GET"), ("reason", ""), ("status", between)]).await;
        pair.caller.counted(TUNNELS, &[("method", "GET"), ("reason", ""), ("status", "101")]).await;
    }
}

#[tokio::test]
async fn a_websocket_through_sidecars_without_identity() {
    let Some(server) = WebSockets::start().await else { return };
    let application = Plan::application(server.address, "").start().await;
    let caller = Plan::calling(application.inbound(), "").start().await;
    assert_eq!(client(caller.orders()).await, EXPECTED);
    for sidecar in [&caller, &application] {
        has_no_tunnel_left(sidecar).await;
    }
}

async fn has_no_tunnel_left(sidecar: &Sidecar) {
    eventually("all tunnels to end", async || {
        (sidecar.scrape().await.sum("pillion_requests_active", &[]) == 0.0).then_some(())
    })
    .await;
}

/// The example of RFC 6455.
const HANDSHAKE: &str = "GET / HTTP/1.1\r\nhost: orders\r\nupgrade: websocket\r\nconnection: Upgrade\r\n\
    sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n\r\n";
/// A masked text frame (with the mask zero) and its echo: "hi".
const SAYS_HI: &[u8] = b"\x81\x82\0\0\0\0hi";
const HI: &[u8] = b"\x81\x02hi";

/// The limit has certainly passed: it has cut other requests meanwhile.
#[tokio::test]
async fn an_idle_websocket_outlives_the_timeout_of_requests() {
    let Some(server) = WebSockets::start().await else { return };
    let pair = Pair::start(server.address, "timeout: 5s, retry: off", "timeout: 5s").await;
    let mut socket = Wire::connect(pair.caller.orders()).await;
    socket.send(HANDSHAKE).await;
    let head = soon("the 101", socket.head()).await.expect("an answer");
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    assert!(head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{head}");
    for _twice in 0..2 {
        let stalled = HANDSHAKE.replace("GET / ", "GET /stall ");
        let answer = Wire::connect(pair.caller.orders()).await.ask(stalled).await;
        assert_eq!(answer.status(), 504, "{}", answer.head);
    }
    socket.send(SAYS_HI).await;
    let (heard, _) = soon("an echo", socket.exactly(HI.len())).await;
    assert_eq!(heard, HI);
}

#[tokio::test]
async fn an_idle_websocket_ends_at_the_limit_that_is_written_for_it() {
    let Some(server) = WebSockets::start().await else { return };
    let pair = Pair::start(server.address, "stream_idle_timeout: 200ms", "").await;
    let mut socket = Wire::connect(pair.caller.orders()).await;
    socket.send(HANDSHAKE).await;
    let head = soon("the 101", socket.head()).await.expect("an answer");
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    assert!(soon("the end", socket.rest()).await.is_empty());
    pair.caller.counted(1, &[("direction", "outbound"), ("reason", "stream_idle_timeout")]).await;
}
