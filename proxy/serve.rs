//! The accept loop of both directions, and what is known of an accepted connection.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use http::HeaderValue;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::cluster::limits::{Limit, Permit};
use crate::detect::Detected;
use crate::error::Error;
use crate::http::exchange::nobodys;
use crate::http::server::{self, Version};
use crate::layers::AnsweringService;
use crate::net::descriptors::is_short_of_descriptors;
use crate::net::returning::{is_loop, loop_detected};
use crate::net::{Io, Listener, Stream};
use crate::runtime::drain::{Phase, Work};
use crate::runtime::worker::Worker;
use crate::state::{Fixed, Route};
use crate::tcp::{self, Dialled};
use crate::telemetry::{ConnectionOutcome, Direction, Protocol, Seldom, Symbol, Tls};
use crate::tls::Peer;

/// An accepted connection, as its requests see it.
pub(crate) struct Connection {
    pub(crate) direction: Direction,
    pub(crate) downstream: SocketAddr,
    /// The verified other end; `None` without mTLS.
    pub(crate) peer: Option<Arc<Peer>>,
    /// `peer` as a metric label.
    pub(crate) peer_label: Symbol,
    /// `x-forwarded-client-cert` of every request on it.
    pub(crate) client_cert: Option<HeaderValue>,
    pub(crate) destination: Destination,
    /// Its destination is an address that it was redirected from, or that a CONNECT named.
    pub(crate) is_redirected: bool,
    /// Where its client was going when the kernel brought it here; `None`: to a listener of ours.
    pub(crate) original: Option<SocketAddr>,
    pub(crate) place: Place,
    /// Exchanges begun, and not ended.
    pub(crate) requests: AtomicU64,
    pub(crate) in_flight: AtomicU32,
    /// The client is the sidecar itself: its requests are refused.
    pub(crate) comes_back: bool,
    /// Nothing has happened on it for a while: it may be put aside, holding no buffers.
    pub(crate) rests: AtomicBool,
}

/// What a connection has from accept until nothing uses it any more.
pub(crate) struct Place {
    pub(crate) work: Work,
    /// One of the side's `max_connections`.
    _permit: Option<Permit>,
}

impl Place {
    /// Of a connection that does not count against `max_connections`, or no longer.
    pub(crate) const fn unlimited(work: Work) -> Self {
        Self { work, _permit: None }
    }
}

/// Where a connection goes, as far as that is known without its bytes.
#[derive(Clone)]
pub(crate) enum Destination {
    /// Its requests say so; or nobody does.
    Named,
    /// A service's own port or address; inbound, the application.
    Route(Fixed),
    /// An address that belongs to no service.
    Unknown(SocketAddr),
}

impl Connection {
    pub(crate) const fn new(downstream: SocketAddr, place: Place) -> Self {
        Self {
            direction: place.work.direction(),
            downstream,
            peer: None,
            peer_label: Symbol::EMPTY,
            client_cert: None,
            destination: Destination::Named,
            is_redirected: false,
            original: None,
            place,
            requests: AtomicU64::new(0),
            in_flight: AtomicU32::new(0),
            comes_back: false,
            rests: AtomicBool::new(false),
        }
    }

    /// The service that it is for, as far as its bytes are not needed to say.
    pub(crate) fn service(&self) -> Symbol {
        match &self.destination {
            Destination::Route(fixed) => fixed.route.cluster.symbol,
            Destination::Named | Destination::Unknown(_) => Symbol::EMPTY,
        }
    }

    /// Whether the client is the sidecar itself, on a way that has no end. Only what was redirected can be: both ends
    /// are the connection's own then, and no other has the same.
    pub(crate) fn is_loop(&self) -> bool {
        is_loop(self.direction, self.downstream, self.original)
    }

    pub(crate) fn loop_detected(&self) -> Error {
        loop_detected(self.downstream, self.original)
    }

    pub(crate) fn begin(&self) {
        self.requests.fetch_add(1, Relaxed);
        self.in_flight.fetch_add(1, Relaxed);
    }

    pub(crate) fn end(&self) {
        self.in_flight.fetch_sub(1, Relaxed);
    }
}

/// What becomes of a connection, once that is known.
pub(crate) enum Next {
    Http { io: Io, version: Version, connection: Connection },
    Opaque { detected: Box<Detected<Dialled>>, route: Arc<Route>, connection: Connection },
}

impl Next {
    /// To the connection's end. Boxed: a task holds what its phase needs, and no more.
    pub(crate) async fn run<S: AnsweringService>(self, worker: &Arc<Worker>, stack: S) {
        match self {
            Self::Http { io, version, connection } => {
                connection.place.work.wake();
                Box::pin(server::serve(io, version, Arc::new(connection), worker.clone(), stack)).await;
            }
            Self::Opaque { detected, route, connection } => {
                connection.place.work.wake();
                Box::pin(tcp::forward(*detected, &route, &connection, worker)).await;
            }
        }
    }
}

/// A listener with what happens to its connections.
pub(crate) struct Accepting<F> {
    pub(crate) worker: Arc<Worker>,
    pub(crate) direction: Direction,
    /// Open connections at most, over all listeners of the side.
    pub(crate) connections: Arc<Limit>,
    pub(crate) serve: F,
}

impl<F, Fut> Accepting<F>
where
    F: Fn(Stream, SocketAddr, Place) -> Fut,
    Fut: Future<Output = ()> + Send + 'static,
{
    /// Accepts until inbound takes nothing new, or the listener is `closed`: then what waits in its queue is served.
    pub(crate) async fn run(self, mut listener: Listener, mut closed: oneshot::Receiver<()>) {
        let _queue = (self.direction == Direction::Inbound).then(|| self.worker.work(self.direction));
        let mut closing = std::pin::pin!(self.closing());
        loop {
            let accepted = tokio::select! { // an accept that is dropped leaves its connection in the backlog
                () = &mut closing => break,
                _ = &mut closed => break,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, from)) => self.admit(stream, from),
                Err(error) => pause_after(&error).await,
            }
        }
        listener.close().into_iter().for_each(|(stream, from)| self.admit(stream, from));
    }

    async fn closing(&self) {
        match self.direction {
            Direction::Inbound => self.worker.drain.reached(Phase::Closing).await,
            Direction::Outbound => std::future::pending().await,
        }
    }

    fn admit(&self, stream: Stream, from: SocketAddr) {
        let Some(permit) = self.connections.try_acquire() else {
            self.refuse();
            return;
        };
        let place = Place { work: self.worker.work(self.direction), _permit: Some(permit) };
        tokio::spawn(Box::pin((self.serve)(stream, from, place))); // or the task would hold it twice
    }

    fn refuse(&self) {
        static LINES: [Seldom; Direction::ALL.len()] = [const { Seldom::new() }; Direction::ALL.len()];
        if let Some(left_out) = LINES[self.direction as usize].due(Instant::now().into_std()) {
            let (direction, limit) = (self.direction.as_str(), self.connections.max());
            tracing::warn!(direction, limit, left_out, "connection closed: so many are open already");
        }
        let service = nobodys(self.direction);
        let refused = self.worker.metrics.connections(
            self.direction,
            service,
            Protocol::Unknown,
            Tls::None,
            ConnectionOutcome::Refused,
        );
        refused.inc();
    }
}

/// Out of descriptors or memory: accepting again at once would spin. What ends one connection needs no pause.
async fn pause_after(error: &io::Error) {
    static LINE: Seldom = Seldom::new();
    const OUT_OF_MEMORY: [i32; 2] = [105, 12]; // ENOBUFS ENOMEM
    let is_short_of_memory = error.raw_os_error().is_some_and(|code| OUT_OF_MEMORY.contains(&code));
    if is_short_of_memory || is_short_of_descriptors(error) {
        if let Some(left_out) = LINE.due(Instant::now().into_std()) {
            tracing::warn!(%error, left_out, "cannot accept a connection; trying again every 100 ms");
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
