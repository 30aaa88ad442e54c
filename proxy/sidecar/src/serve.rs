//! Admits the connections that the accept loop brings to the two sides, and runs each to its end.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::connection::{Connection, Place};
use crate::detect::{Detected, Found, NO_EARLY_DIAL, PeekedClient, Version, detect};
use crate::exchange::unmatched_service;
use crate::http::{refusal, server};
use crate::layers::AnsweringService;
use crate::state::Route;
use crate::tcp::{self, Dialled};
use crate::worker::Worker;
use pillion_base::accept::{Acceptor, Hold, accept_held};
use pillion_base::drain::Phase;
use pillion_base::limits::{Limit, Permit};
use pillion_base::net::own::is_from_this_host;
use pillion_base::net::{Io, Listener, Stream};
use pillion_base::strangers::Strangers;
use pillion_base::unfinished::Side;
use pillion_model::{Direction, Reason};
use pillion_telemetry::{ConnectionOutcome, Protocol, Seldom, Shed, Tls};

/// Clients at once that are told why they are refused, where memory runs short. Each takes some 12 KiB, for a second or
/// two. Others are closed without an answer.
const TOLD_AT_ONCE: u32 = 32;
/// 1 s: how long the first bytes of such a client are waited for.
const TOLD_WITHIN: Duration = Duration::from_secs(1);
/// The sentence for them.
const SHORT_OF_MEMORY: &str = "the sidecar takes more memory than limits.max_memory allows, and accepts no new connections until it takes less";

/// How a connection is served, once this is decided.
pub enum Next {
    Http { io: Io, version: Version, connection: Connection },
    Opaque { detected: Box<Detected<Dialled>>, route: Arc<Route>, connection: Connection },
}

impl Next {
    /// Serves the connection to its end. Boxed here, so that the future that decides does not have room for this one,
    /// too.
    pub fn run<S: AnsweringService>(self, worker: &Arc<Worker>, stack: S) -> Serving {
        let worker = worker.clone();
        match self {
            Self::Http { io, version, connection } => {
                connection.place.work.wake();
                server::serve(io, version, Arc::new(connection), worker, stack)
            }
            Self::Opaque { detected, route, connection } => {
                connection.place.work.wake();
                Box::pin(tcp::forward(detected, route, connection, worker))
            }
        }
    }
}

/// A connection that is served to its end. Boxed, because a task would hold the future twice.
pub type Serving = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Accepts the connections of a listener and starts a task for each.
pub struct Accepting {
    pub worker: Arc<Worker>,
    pub direction: Direction,
    /// The limit of open connections over all listeners of the side (`max_connections`).
    pub connections: Arc<Limit>,
    pub serve: Box<dyn Fn(Stream, SocketAddr, Place) -> Serving + Send>,
    /// Clients that are told why they are refused.
    pub told: Arc<Limit>,
}

/// The limit for [`Accepting::told`].
pub fn told() -> Arc<Limit> {
    Limit::new("clients that are told why they are refused", TOLD_AT_ONCE)
}

impl Accepting {
    /// Accepts until the inbound side closes in a drain, or until the listener is not held any more. Then connections
    /// that wait in the listener's queue are served.
    pub async fn run(mut self, listener: Listener, mut held: Hold) {
        let _queue = (self.direction == Direction::Inbound).then(|| self.worker.work(self.direction));
        let ended = ended(self.worker.clone(), self.direction);
        let listener = accept_held(listener, &mut held, ended, None, &mut self).await;
        listener.close().into_iter().for_each(|(stream, from)| self.admit(stream, from));
    }

    /// Closes the oldest stranger (a client without a proven identity; only the inbound side has these). Returns its
    /// permit.
    fn make_way(&self) -> Option<Permit> {
        (self.direction == Direction::Inbound).then(|| self.strangers().close_oldest())?
    }

    fn strangers(&self) -> &Arc<Strangers> {
        &self.worker.ground.strangers
    }

    fn warn_of_full(&self) {
        static LINES: [Seldom; Direction::ALL.len()] = [const { Seldom::new() }; Direction::ALL.len()];
        if let Some(left_out) = LINES[self.direction as usize].due(Instant::now().into_std()) {
            let (direction, limit) = (self.direction.as_str(), self.connections.max());
            tracing::warn!(
                direction,
                limit,
                left_out,
                "connection closed: the limit of open connections is reached"
            );
        }
    }

    /// Refuses a connection because memory runs short. A client that speaks HTTP/1 learns why.
    fn refuse_for_memory(&self, stream: Stream, from: SocketAddr) {
        static LINE: Seldom = Seldom::new();
        if let Some(left_out) = LINE.due(Instant::now().into_std()) {
            tracing::warn!(%from, left_out, "connection refused: {SHORT_OF_MEMORY}");
        }
        self.count_refused();
        self.worker.ground.metrics.memory_shed(Shed::Refused).inc();
        let at = stream.own_address().map(|at| at.ip());
        let is_known = self.direction == Direction::Inbound || is_from_this_host(from.ip(), at);
        if let Some(permit) = self.told.try_acquire().filter(|_| is_known) {
            let place = Place::limited(self.worker.work(self.direction), permit);
            tokio::spawn(tell_short_of_memory(stream, Connection::new(from, place), self.worker.clone()));
        }
    }

    fn count_refused(&self) {
        let service = unmatched_service(self.direction);
        let refused = self.worker.ground.metrics.connections(
            self.direction,
            service,
            Protocol::Unknown,
            Tls::None,
            ConnectionOutcome::Refused,
        );
        refused.inc();
    }
}

async fn tell_short_of_memory(stream: Stream, connection: Connection, worker: Arc<Worker>) {
    let until = Instant::now() + TOLD_WITHIN;
    let side = match connection.direction {
        Direction::Inbound => Side::Strangers,
        Direction::Outbound => Side::Application,
    };
    let client = PeekedClient::new(Io::plain(stream), &worker, side, None);
    let detected = timeout_at(until, Box::pin(detect(client, &connection.place.work, NO_EARLY_DIAL))).await;
    if let Ok(Ok(Detected { found: Found::Http1, io, .. })) = detected {
        let why = (Reason::Overloaded, SHORT_OF_MEMORY);
        refusal::refuse_plaintext(io, why, &connection, &worker, until).await;
    }
}

/// Returns when the side does not accept new connections any more.
async fn ended(worker: Arc<Worker>, direction: Direction) {
    match direction {
        Direction::Inbound => worker.drain.reached(Direction::Inbound, Phase::Closing).await,
        Direction::Outbound => std::future::pending().await,
    }
}

impl Acceptor for Accepting {
    fn admit(&mut self, stream: Stream, from: SocketAddr) {
        if self.worker.ground.ceiling.refuses() {
            return self.refuse_for_memory(stream, from);
        }
        let permit = self.connections.try_acquire().or_else(|| {
            self.warn_of_full();
            self.make_way()
        });
        let Some(permit) = permit else {
            self.count_refused();
            return;
        };
        let work = self.worker.work(self.direction);
        let place = match self.direction {
            Direction::Inbound => Place::stranger(work, self.strangers().admit(permit)),
            Direction::Outbound => Place::limited(work, permit),
        };
        tokio::spawn((self.serve)(stream, from, place));
    }

    async fn make_room(&mut self, _shortage: &io::Error) -> bool {
        self.strangers().free_descriptors().await
    }
}
