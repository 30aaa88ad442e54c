//! Back-ends of many kinds: some answer, some are slow, send wrong data, break off, or do not speak HTTP at all.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, LazyLock};

use parking_lot::Mutex;
use socket2::{Domain, Socket, Type};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::eventually;
use super::wire::{Message, Wire};

/// A task that ends with its owner.
pub(crate) struct Task(pub(crate) JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A listener whose every connection follows one script.
pub(crate) struct Backend {
    pub(crate) address: SocketAddr,
    seen: Arc<Seen>,
    _task: Task,
}

/// What the scripts record.
#[derive(Default)]
pub(crate) struct Seen {
    requests: Mutex<Vec<Message>>,
    connections: AtomicUsize,
    /// Connections that the other end closed.
    ended: AtomicUsize,
    released: AtomicBool,
}

impl Seen {
    pub(crate) fn request(&self, message: Message) {
        self.requests.lock().push(message);
    }

    /// Waits until the test calls [`Backend::release`].
    pub(crate) async fn hold(self: &Arc<Self>) {
        let seen = self.clone();
        eventually("the test lets go", async move || seen.released.load(Relaxed).then_some(())).await;
    }
}

impl Backend {
    /// `script` gets each connection with its number, counted from 1.
    pub(crate) async fn serving<S, F>(script: S) -> Self
    where
        S: Fn(Wire, usize, Arc<Seen>) -> F + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound socket");
        let seen = Arc::new(Seen::default());
        let shared = seen.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let number = shared.connections.fetch_add(1, Relaxed) + 1;
                tokio::spawn(script(Wire::new(stream), number, shared.clone()));
            }
        });
        Self { address, seen, _task: Task(task) }
    }

    /// Answers each request with its body, on a connection that is kept.
    pub(crate) async fn echo() -> Self {
        Self::serving(|wire, _, seen| echo(wire, seen)).await
    }

    /// Answers, and holds answers to POST until the test lets go.
    pub(crate) async fn holding() -> Self {
        Self::serving(async |mut wire, _, seen| {
            while let Some(request) = wire.message().await {
                let waits = request.head.starts_with("POST");
                seen.request(request);
                if waits {
                    seen.hold().await;
                }
                wire.send("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ndone").await;
            }
        })
        .await
    }

    /// Reads requests, and never answers.
    pub(crate) async fn stall() -> Self {
        Self::serving(async |mut wire, _, seen| {
            while let Some(request) = wire.message().await {
                seen.request(request);
            }
            seen.ended.fetch_add(1, Relaxed);
        })
        .await
    }

    /// Accepts connections, and neither reads nor notices their end.
    pub(crate) async fn deaf() -> Self {
        Self::serving(async |wire, _, _| {
            std::future::pending::<()>().await;
            drop(wire);
        })
        .await
    }

    /// Answers a request with a reset.
    pub(crate) async fn reset() -> Self {
        Self::serving(async |mut wire, _, seen| {
            if let Some(request) = wire.message().await {
                seen.request(request);
                wire.reset();
            }
        })
        .await
    }

    /// Answers every request with these bytes, and closes.
    pub(crate) async fn saying(bytes: impl AsRef<[u8]> + Clone + Send + Sync + 'static) -> Self {
        Self::serving(move |mut wire, _, seen| {
            let bytes = bytes.clone();
            async move {
                if let Some(request) = wire.message().await {
                    seen.request(request);
                    drop(wire.try_send(bytes).await);
                }
            }
        })
        .await
    }

    /// Answers every call of gRPC with this status. Its own status of HTTP is 200, as gRPC demands.
    pub(crate) async fn grpc_failing(status: u8) -> Self {
        let head =
            "HTTP/1.1 200 OK\r\ncontent-type: application/grpc\r\ncontent-length: 0\r\nconnection: close\r\n";
        Self::saying(format!("{head}grpc-status: {status}\r\n\r\n")).await
    }

    /// Resets every other connection, and echoes on the others.
    pub(crate) async fn flaky() -> Self {
        Self::serving(async |wire, number, seen| match number % 2 {
            1 => wire.reset(),
            _ => echo(wire, seen).await,
        })
        .await
    }

    /// The requests that were read so far.
    pub(crate) fn requests(&self) -> Vec<Message> {
        self.seen.requests.lock().clone()
    }

    /// The last request; there must have been one.
    pub(crate) fn last(&self) -> Message {
        self.requests().pop().expect("a request")
    }

    /// Ends the waits of the script.
    pub(crate) fn release(&self) {
        self.seen.released.store(true, Relaxed);
    }

    pub(crate) fn connections(&self) -> usize {
        self.seen.connections.load(Relaxed)
    }

    pub(crate) async fn has_requests(&self, count: usize) {
        let probe = async || (self.seen.requests.lock().len() >= count).then_some(());
        eventually(&format!("{count} requests at the back-end"), probe).await;
    }

    /// Waits until the other side has closed this many connections.
    pub(crate) async fn has_ended(&self, count: usize) {
        let probe = async || (self.seen.ended.load(Relaxed) >= count).then_some(());
        eventually(&format!("{count} connections hung up"), probe).await;
    }
}

async fn echo(mut wire: Wire, seen: Arc<Seen>) {
    while let Some(request) = wire.message().await {
        let body = request.body.clone();
        seen.request(request);
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
        if wire.try_send([head.as_bytes(), &body].concat()).await.is_err() {
            break;
        }
    }
    seen.ended.fetch_add(1, Relaxed);
}

/// An address where nothing listens while the tests run: the socket stays bound, so that no other listener or outgoing
/// connection gets its port.
pub(crate) fn nobody() -> SocketAddr {
    let bound = socket();
    bound.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a free port");
    let address = bound.local_addr().expect("a bound socket").as_socket().expect("an address of IPv4");
    std::mem::forget(bound);
    address
}

/// The ports of one run. It listens on the first of them to its end, so that another run has others.
const PORTS: u16 = 1000;

/// A port for a program that cannot choose a free one itself. It is below the ports that the kernel gives out, so that
/// no other listener or connection takes it first.
pub(crate) fn free() -> SocketAddr {
    static NEXT: AtomicUsize = AtomicUsize::new(1);
    static BLOCK: LazyLock<std::net::TcpListener> = LazyLock::new(|| {
        let first = (0..12).map(|block| local(20_000 + block * PORTS));
        first
            .filter_map(|address| std::net::TcpListener::bind(address).ok())
            .next()
            .expect("fewer than twelve runs at once")
    });
    let first = BLOCK.local_addr().expect("a bound socket").port();
    let next = || local(first + 1 + (NEXT.fetch_add(1, Relaxed) % usize::from(PORTS - 1)) as u16);
    let free = |address: &SocketAddr| std::net::TcpListener::bind(address).is_ok();
    std::iter::repeat_with(next).take(PORTS.into()).find(free).expect("a free port")
}

fn local(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

/// A listener whose queue is full, so that every connecting client waits.
pub(crate) struct FullBacklog {
    pub(crate) address: SocketAddr,
    _sockets: Vec<Socket>,
}

impl FullBacklog {
    pub(crate) fn new() -> Self {
        let listener = socket();
        listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a free port");
        listener.listen(0).expect("a bound socket");
        let local = listener.local_addr().expect("a bound socket");
        let mut sockets = vec![listener];
        // Linux keeps one more than the backlog; the rest waits for an answer to its SYN.
        for _ in 0..4 {
            let filler = socket();
            filler.set_nonblocking(true).expect("a socket");
            drop(filler.connect(&local)); // "in progress" is reported as an error
            sockets.push(filler);
        }
        Self { address: local.as_socket().expect("an IPv4 address"), _sockets: sockets }
    }
}

fn socket() -> Socket {
    Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket")
}
