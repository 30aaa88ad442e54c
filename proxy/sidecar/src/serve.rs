//! Admits the connections that the accept loop brings to the two sides, and runs each to its end.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::connection::{Connection, Place};
use crate::detect::{Detected, Version};
use crate::exchange::unmatched_service;
use crate::http::server;
use crate::layers::AnsweringService;
use crate::state::Route;
use crate::tcp::{self, Dialled};
use crate::worker::Worker;
use pillion_base::accept::{Acceptor, accept};
use pillion_base::drain::Phase;
use pillion_base::limits::{Limit, Permit};
use pillion_base::net::{Io, Listener, Stream};
use pillion_base::strangers::Strangers;
use pillion_model::Direction;
use pillion_telemetry::{ConnectionOutcome, Protocol, Seldom, Tls};

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
}

impl Accepting {
    /// Accepts until the inbound side closes in a drain, or until the listener is `closed`. Then connections that wait
    /// in the listener's queue are served.
    pub async fn run(mut self, listener: Listener, closed: oneshot::Receiver<()>) {
        let _queue = (self.direction == Direction::Inbound).then(|| self.worker.work(self.direction));
        let ended = ended(self.worker.clone(), self.direction, closed);
        let listener = accept(listener, ended, &mut self).await;
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

/// Returns when the listener is `closed`, or its side does not accept new connections any more.
async fn ended(worker: Arc<Worker>, direction: Direction, closed: oneshot::Receiver<()>) {
    let closing = async {
        match direction {
            Direction::Inbound => worker.drain.reached(Direction::Inbound, Phase::Closing).await,
            Direction::Outbound => std::future::pending().await,
        }
    };
    tokio::select! { // a dropped branch loses nothing: both futures only wait for an event
        biased;
        () = closing => {}
        _ = closed => {}
    }
}

impl Acceptor for Accepting {
    fn admit(&mut self, stream: Stream, from: SocketAddr) {
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
