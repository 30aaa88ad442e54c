//! Many connections and many bytes: the memory that each needs, and what still works when descriptors run out.
//!
//! The small versions run everywhere. The ignored ones give the figures, with a release build:
//! `PILLION_TEST_BINARY=target/release/pillion cargo test --test e2e many -- --ignored --nocapture --test-threads 1`

use std::fs;
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use crate::support::backend::Backend;
use crate::support::certs::{Authority, spiffe};
use crate::support::launched::Launched;
use crate::support::program::Program;
use crate::support::sidecar::{open_descriptors, rss_kib};
use crate::support::volume::{Peak, read_hash, write_pattern};
use crate::support::wire::Wire;
use crate::support::{eventually, soon};

const MIB: u64 = 1024 * 1024;
/// 128 MiB: the resident memory that ten thousand idle connections may cost each sidecar.
const MOST_RSS_KIB: u64 = 128 * 1024;
const MOST_GROWTH_KIB: u64 = 16 * 1024;
/// A connection that gets no byte for this long, from a sidecar without other work, counts as not served.
const A_NO: Duration = Duration::from_secs(5);

/// A caller and an application with mTLS between their sidecars, and limits that are too high to end the test.
struct Pair {
    caller: Launched,
    application: Launched,
}

impl Pair {
    /// `inbound` is a prefix for the command of the application's sidecar.
    async fn start(app: SocketAddr, orders: &str, inbound: Command) -> Self {
        let authority = Authority::new();
        let yaml = format!(
            "outbound: off\ninbound: {{ listen: 127.0.0.1:0, app: \"{app}\", max_connections: 1000000 }}\n{OPEN}"
        );
        let application = Launched::start(inbound, &yaml, Some((&authority, "orders"))).await;
        let yaml = format!(
            "inbound: off\noutbound: {{ listen: 127.0.0.1:0 }}\n{OPEN}services:\n  orders:\n    \
             listen: 127.0.0.1:0\n    endpoints: [\"{}\"]\n    tls: \"{}\"\n    circuit_breaker: \
             {{ max_connections: 1000000, max_pending_requests: 1000000, max_requests: 1000000 }}\n    {orders}\n",
            application.address("inbound"),
            spiffe("orders"),
        );
        let caller = Launched::start(as_it_is(), &yaml, Some((&authority, "web"))).await;
        Self { caller, application }
    }

    fn both(&self) -> [(&'static str, &Launched); 2] {
        [("caller", &self.caller), ("application", &self.application)]
    }

    fn rss_kib(&self) -> [u64; 2] {
        self.both().map(|(_, sidecar)| rss_kib(sidecar.pid()))
    }
}

const OPEN: &str = "admin: { listen: 127.0.0.1:0 }\nmetrics: { listen: 127.0.0.1:0 }\n";

/// A prefix that changes nothing.
fn as_it_is() -> Command {
    Command::new("env")
}

fn raise_own_descriptor_limit() {
    let script = r#"prlimit --pid "$0" --nofile="$(ulimit -Hn):""#;
    let raised = Command::new("sh").args(["-c", script, &std::process::id().to_string()]).status();
    assert!(raised.is_ok_and(|status| status.success()), "prlimit");
}

/// The soft limit of open files that a process has set for itself.
fn descriptor_limit(pid: u32) -> usize {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).expect("a running process");
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).expect("a limit of files");
    line.split_whitespace().next().and_then(|limit| limit.parse().ok()).expect("a number")
}

// --- HTTP clients that stay

/// How fast clients connect and send requests.
struct Pace {
    clients: usize,
    /// All clients connect within this time. Zero: as fast as they are served.
    ramp: Duration,
    /// The pause between two requests, counted over all clients.
    pause: Duration,
    requests: usize,
}

/// Opens connections with one request each, then sends a request on each in turn. Returns the RSS of both sidecars.
async fn clients_that_stay(pace: &Pace) -> [u64; 2] {
    raise_own_descriptor_limit();
    let app = Backend::echo().await;
    let pair = Pair::start(app.address, "", as_it_is()).await;
    let before = pair.rss_kib();
    let began = Instant::now();
    let mut clients = ramp_up(pair.caller.address("outbound"), pace).await;
    let (ramp, risen) = (began.elapsed(), pair.rss_kib());
    let mut tick = ticks(pace.pause);
    for turn in 0..pace.requests {
        tick.tick().await;
        let client = clients.swap_remove(turn * pace.clients / pace.requests); // spread over all clients
        clients.push(asked_once(client).await);
    }
    let closed = clients.iter().filter(|client| client.try_read(&mut [0]).is_ok()).count();
    assert_eq!(closed, 0, "connections that did not stay, of {}", clients.len());
    let after = pair.rss_kib();
    println!(
        "{} HTTP clients in {ramp:.1?}: RSS {before:?} KiB before, {risen:?} with all of them, {after:?} after {} \
         more requests (caller, application); descriptors {:?}",
        pace.clients,
        pace.requests,
        pair.both().map(|(_, sidecar)| open_descriptors(sidecar.pid())),
    );
    [risen[0].max(after[0]), risen[1].max(after[1])]
}

async fn ramp_up(port: SocketAddr, pace: &Pace) -> Vec<TcpStream> {
    const AT_ONCE: usize = 64;
    let count = u32::try_from(pace.clients).expect("fewer");
    let mut tick = ticks(pace.ramp / count);
    let (mut coming, mut clients) = (JoinSet::new(), Vec::new());
    for _ in 0..pace.clients {
        tick.tick().await;
        if coming.len() == AT_ONCE {
            clients.extend(coming.join_next().await.transpose().expect("an answer"));
        }
        coming.spawn(async move {
            let stream = TcpStream::connect(port).await.expect("a listener");
            asked_once(stream).await
        });
    }
    clients.extend(coming.join_all().await);
    clients
}

async fn asked_once(stream: TcpStream) -> TcpStream {
    let mut wire = Wire::new(stream);
    let answer = wire.get("orders", "/").await;
    assert_eq!(answer.status(), 200, "{}", answer.head);
    wire.into_io()
}

/// Late ticks come at once, so that the rate is kept.
fn ticks(every: Duration) -> tokio::time::Interval {
    let mut tick = interval(every.max(Duration::from_nanos(1)));
    tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
    tick
}

#[tokio::test]
async fn five_hundred_connected_http_clients_are_all_answered() {
    let (ramp, pause) = (Duration::ZERO, Duration::ZERO);
    let rss = clients_that_stay(&Pace { clients: 500, ramp, pause, requests: 100 }).await;
    assert!(rss.iter().all(|rss| *rss < MOST_RSS_KIB), "{rss:?} KiB");
}

#[tokio::test]
#[ignore = "40 s, 10,100 descriptors, and a figure that means something with a release's binary only"]
async fn ten_thousand_connected_http_clients_are_all_answered() {
    let (ramp, pause) = (Duration::from_secs(10), Duration::from_secs(1));
    let rss = clients_that_stay(&Pace { clients: 10_000, ramp, pause, requests: 30 }).await;
    assert!(rss.iter().all(|rss| *rss <= MOST_RSS_KIB), "{rss:?} KiB");
}

// --- TCP connections until descriptors run out

/// Opens connections until no more are served. The sidecar's own pages must keep working. Returns the number of
/// connections.
async fn tcp_until_descriptors_run_out(inbound: Command) -> usize {
    raise_own_descriptor_limit();
    let words = ["--quiet", "echo:app@127.0.0.1:0"];
    let mut app = Program::start(Program::script(as_it_is(), "servers.py", &words));
    let port = app.line().await.strip_prefix("port ").and_then(|port| port.parse().ok()).expect("a port");
    assert_eq!(app.line().await, "ready");
    let pair = Pair::start(SocketAddr::from(([127, 0, 0, 1], port)), "protocol: tcp", inbound).await;
    let (port, before) = (pair.caller.address("service.orders"), pair.rss_kib());

    let (mut clients, began, mut took) = (Vec::new(), Instant::now(), Duration::ZERO);
    loop {
        let first = greeted(port).await;
        // a machine that stalls is no end
        let Some(client) = (if first.is_some() { first } else { greeted(port).await }) else { break };
        clients.push(client);
        took = began.elapsed();
    }
    let descriptors = pair.both().map(|(_, sidecar)| open_descriptors(sidecar.pid()));
    let limits = pair.both().map(|(_, sidecar)| descriptor_limit(sidecar.pid()));
    assert!(
        descriptors.iter().zip(limits).any(|(open, limit)| open + 100 > limit),
        "{descriptors:?} of {limits:?}"
    );
    println!(
        "{} mTLS TCP connections in {took:.1?}: {descriptors:?} of {limits:?} descriptors, RSS {before:?} KiB before, \
         {:?} with them (caller, application)",
        clients.len(),
        pair.rss_kib(),
    );
    for (who, sidecar) in [pair.both(), pair.both()].concat() {
        for (kind, path) in
            [("metrics", "/ready"), ("metrics", "/metrics"), ("metrics", "/live"), ("admin", "/")]
        {
            let status = Wire::connect(sidecar.address(kind)).await.get("127.0.0.1", path).await.status();
            assert!(status == 200 || kind == "admin", "{who} {kind} {path}: {status}");
        }
    }
    let count = clients.len();
    for client in &mut clients {
        let (token, mut back) = (fastrand::u64(..), [0; 8]);
        client.write_all(&token.to_be_bytes()).await.expect("still connected");
        soon("the echo", client.read_exact(&mut back)).await.expect("still connected");
        assert_eq!(u64::from_be_bytes(back), token);
    }
    drop(clients);
    eventually("room for others again", async || greeted(port).await).await;
    count
}

/// A connection that carried bytes both ways; `None` when the sidecar closed or did not serve it.
async fn greeted(port: SocketAddr) -> Option<TcpStream> {
    let mut stream = timeout(A_NO, TcpStream::connect(port)).await.ok()?.ok()?;
    stream.write_all(b"hello").await.ok()?;
    let mut back = [0; b"app:hello".len()];
    timeout(A_NO, stream.read_exact(&mut back)).await.ok()?.ok()?;
    assert_eq!(&back, b"app:hello");
    Some(stream)
}

#[tokio::test]
async fn when_the_applications_sidecar_is_out_of_descriptors_its_own_pages_still_answer() {
    const LIMIT: usize = 400;
    let mut limited = Command::new("prlimit");
    limited.arg(format!("--nofile={LIMIT}:{LIMIT}"));
    let count = tcp_until_descriptors_run_out(limited).await;
    // Each connection takes two descriptors, and the sidecar needs some for itself.
    assert!((LIMIT / 4..LIMIT / 2).contains(&count), "{count} connections, {LIMIT} descriptors");
}

#[tokio::test]
#[ignore = "as many connections as this machine allows, which takes a while"]
async fn tcp_connections_up_to_the_limit_of_descriptors() {
    tcp_until_descriptors_run_out(as_it_is()).await;
}

// --- many bytes

/// The test's name says one GiB. A debug build gets a sixteenth of it, unless `PILLION_TEST_FULL` is set.
fn size() -> u64 {
    let is_full = !cfg!(debug_assertions)
        || ["PILLION_TEST_FULL", "PILLION_TEST_BINARY"].iter().any(|name| std::env::var_os(name).is_some());
    if is_full { 1024 * MIB } else { 64 * MIB }
}

/// Both directions; each ends with a half-close while the other direction goes on.
#[tokio::test]
async fn a_gibibyte_over_tcp_arrives_intact_both_ways() {
    let app = Backend::serving(async |wire, _, _| {
        let mut io = wire.into_io();
        let reply = match io.read_u8().await.expect("the name of a task") {
            b'u' => read_hash(&mut io).await,
            b'd' => return drop(write_pattern(&mut io, size()).await),
            _ => "neither up nor down".to_owned(),
        };
        io.write_all(reply.as_bytes()).await.expect("a client that waits");
    })
    .await;
    let pair = Pair::start(app.address, "protocol: tcp", as_it_is()).await;
    let port = pair.caller.address("service.orders");
    assert_eq!(wished(port, b"?").await.1, "neither up nor down");
    let peaks = pair.both().map(|(_, sidecar)| Peak::watch(sidecar.pid()));

    let began = Instant::now();
    let (sent, received) = wished(port, b"u").await;
    assert_eq!(sent, received, "the upload");
    let up = began.elapsed();
    let mut client = TcpStream::connect(port).await.expect("a listener");
    client.write_all(b"d").await.expect("a reader");
    assert_eq!(read_hash(&mut client).await, sent, "the download");
    let down = began.elapsed() - up;

    let growth = peaks.each_ref().map(Peak::growth_kib);
    println!(
        "TCP over mTLS: {} MiB up in {up:.1?}, down in {down:.1?}; memory grew by {growth:?} KiB (caller, application)",
        size() / MIB
    );
    assert!(growth.iter().all(|growth| *growth < MOST_GROWTH_KIB), "{growth:?} KiB");
}

/// Sends the name of a task, then the pattern if the task is an upload, and closes its half. Returns the hash of the
/// bytes that were sent, and the reply.
async fn wished(port: SocketAddr, wish: &[u8]) -> (String, String) {
    let mut client = TcpStream::connect(port).await.expect("a listener");
    client.write_all(wish).await.expect("a reader");
    let sent = if wish == b"u" { write_pattern(&mut client, size()).await } else { String::new() };
    client.shutdown().await.expect("an open socket");
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.expect("an answer and its end");
    (sent, answer)
}
