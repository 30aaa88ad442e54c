//! Both sidecars of a pair are replaced again and again while clients send requests at a fixed rate and streams stay open.
//! No request fails, and no stream is cut.
//!
//! The short version runs everywhere; `tests/long/takeover.sh` runs the long one with a release build.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::task::JoinSet;

use crate::support::application::{application, bytes};
use crate::support::certs::{Authority, spiffe};
use crate::support::load::{Load, Size};
use crate::support::sidecar::{Plan, Sidecar};
use crate::support::wire::Wire;
use crate::support::{eventually, soon};

const DRAIN: &str = "drain: { delay: 5s, timeout: 10m }";
const PAGES: &str = "admin: { listen: 127.0.0.1:0 }\nmetrics: { listen: 127.0.0.1:0 }";

struct Length {
    takeovers: usize,
    /// Answers between two takeovers.
    answers: usize,
    load: Size,
}

impl Length {
    fn chosen() -> Self {
        match std::env::var_os("PILLION_TEST_FULL") {
            None => Self { takeovers: 3, answers: 100, load: Size { rate: 100, clients: 10, streams: 4 } },
            Some(_) => {
                Self { takeovers: 20, answers: 4_000, load: Size { rate: 2_000, clients: 50, streams: 200 } }
            }
        }
    }
}

/// Clients beside the load: a TCP connection that stays, new TCP connections, DNS queries and probes.
struct Beside {
    stops: Arc<AtomicBool>,
    turns: Arc<[AtomicUsize; 4]>,
    tasks: JoinSet<()>,
}

impl Beside {
    fn start(caller: &Sidecar, tcp: SocketAddr) -> Self {
        let (stops, turns) = (Arc::<AtomicBool>::default(), Arc::<[AtomicUsize; 4]>::default());
        let mut tasks = JoinSet::new();
        let (dns, metrics) = (caller.dns(), caller.metrics());
        for (kind, _) in turns.iter().enumerate() {
            let (stops, turns) = (stops.clone(), turns.clone());
            tasks.spawn(async move {
                let mut stays = Some(TcpStream::connect(tcp).await.expect("a listener"));
                while !stops.load(Relaxed) {
                    match kind {
                        0 => echoes(stays.as_mut().expect("it stays")).await,
                        1 => echoes(&mut TcpStream::connect(tcp).await.expect("a listener")).await,
                        2 => resolves(dns).await,
                        _ => is_ready(metrics).await,
                    }
                    turns[kind].fetch_add(1, Relaxed);
                }
            });
        }
        Self { stops, turns, tasks }
    }

    /// Waits until each of them has done its work again.
    async fn goes_on(&self) {
        let now = || self.turns.each_ref().map(|turns| turns.load(Relaxed));
        let before = now();
        eventually("all clients", async || {
            now().iter().zip(before).all(|(now, before)| *now > before + 2).then_some(())
        })
        .await;
    }

    async fn stop(mut self) {
        self.stops.store(true, Relaxed);
        while let Some(ended) = soon("the end of a client", self.tasks.join_next()).await {
            ended.expect("a client that saw no failure");
        }
    }
}

async fn echoes(stream: &mut TcpStream) {
    let mut echo = [0; 4];
    stream.write_all(b"ping").await.expect("an open connection");
    soon("an echo", stream.read_exact(&mut echo)).await.expect("an open connection");
    assert_eq!(&echo, b"ping");
}

/// Asks for `orders`, by UDP. A client would ask again after some seconds, but here every query must be answered.
async fn resolves(dns: SocketAddr) {
    let query = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x06orders\x00\x00\x01\x00\x01";
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a free port");
    socket.connect(dns).await.expect("an address");
    let mut answer = [0; 512];
    socket.send(query).await.expect("a socket");
    let length = soon("an answer", socket.recv(&mut answer)).await.expect("a proxy that listens");
    let code = answer.get(3).map(|flags| flags & 15);
    assert!(length > query.len() && code == Some(0), "{:?}", answer.get(..length));
}

async fn is_ready(metrics: SocketAddr) {
    let answer = Wire::connect(metrics).await.get("pillion", "/ready").await;
    assert_eq!(answer.status(), 200, "{}", answer.text());
}

async fn pair(app: SocketAddr, tcp: SocketAddr) -> [Sidecar; 2] {
    let authority = Authority::new();
    let plan = Plan::exactly(&format!(
        "{PAGES}\n{DRAIN}\noutbound: off\ninbound:\n  listen: 127.0.0.1:0\n  app: \"{app}\"\n  mtls: strict\n"
    ));
    let application = plan.identified(&authority, "orders").with_takeover().start().await;
    let orders = format!("endpoints: [\"{}\"], tls: \"{}\"", application.inbound(), spiffe("orders"));
    let plan = Plan::exactly(&format!(
        "{PAGES}\n{DRAIN}\ninbound: off\noutbound: {{ listen: 127.0.0.1:0 }}\n\
         dns: {{ listen: 127.0.0.1:0, upstream: [\"127.0.0.1:9\"] }}\nservices:\n  \
         orders: {{ listen: 127.0.0.1:0, hosts: [orders], {orders} }}\n  \
         bytes: {{ listen: 127.0.0.1:0, protocol: tcp, tls: off, endpoints: [\"{tcp}\"] }}\n"
    ));
    [plan.identified(&authority, "web").with_takeover().start().await, application]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn takeovers_of_both_sides_under_load_fail_no_request_and_cut_no_stream() {
    let length = Length::chosen();
    let (tcp, _tcp) = bytes().await;
    let (app, _task) = application().await;
    let [mut caller, mut application] = pair(app, tcp).await;
    let load = Load::start([caller.orders(), caller.outbound()], length.load).await;
    let beside = Beside::start(&caller, caller.address("service.bytes"));
    let mut former = Vec::new();
    for turn in 0..length.takeovers {
        load.goes_on(length.answers).await;
        let next = [caller.successor().await, application.successor().await];
        assert_eq!([&next[0].ready, &next[1].ready], [&caller.ready, &application.ready]);
        let [next_caller, next_application] = next;
        former.push(std::mem::replace(&mut caller, next_caller));
        former.push(std::mem::replace(&mut application, next_application));
        beside.goes_on().await;
        eprintln!(
            "takeover {turn}: {} former processes",
            former.iter_mut().map(|one| usize::from(one.exited().is_none())).sum::<usize>()
        );
    }
    load.goes_on(length.answers).await;
    beside.goes_on().await;
    beside.stop().await;
    let tally = load.stop().await;
    let (answers, echoes) = (tally.answers.load(Relaxed), tally.echoes.load(Relaxed));
    eprintln!(
        "{answers} answers, {echoes} echoes of streams, the slowest answer after {:?}",
        tally.slowest.lock()
    );
    assert_eq!(*tally.failures.lock(), Vec::<String>::new());
    for mut one in former {
        assert_eq!(one.exit().await.code(), Some(0), "{}", one.errors());
        assert!(!one.errors().contains("drain timeout"), "{}", one.errors());
    }
}
