//! One downstream HTTP connection of either version.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use tokio::time::Instant;

use super::{h1_server, h2_server};
use crate::connection::Connection;
use crate::detect::Version;
use crate::http::call::AnsweringService;
use crate::worker::Worker;
use pillion_base::drain::QUIET;
use pillion_base::net::Io;
use pillion_telemetry::{ConnectionOutcome, Held, Protocol};

pub const fn protocol(version: Version) -> Protocol {
    match version {
        Version::Http1 => Protocol::Http1,
        Version::Http2 => Protocol::Http2,
    }
}

/// HTTP/1 has begun with its first byte; HTTP/2 is counted when its preface is whole, or is not.
pub fn count_begun(version: Version, connection: &Connection, worker: &Worker) {
    if version == Version::Http1 {
        connection.count(Protocol::Http1, ConnectionOutcome::Ok, &worker.ground.metrics);
    }
}

/// Serves `io` until its client leaves. In the drain: until what is in flight has ended, and inbound until the
/// connection has been silent for a second. Boxed: it is all that a connection has from here on.
pub fn serve<S: AnsweringService>(
    io: Io,
    version: Version,
    connection: Arc<Connection>,
    worker: Arc<Worker>,
    stack: S,
) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    let open = Held::of(&worker.ground.connections_active(connection.direction, protocol(version)));
    match version {
        Version::Http1 => Box::pin(h1_server::serve(io, connection, worker, stack, open)),
        Version::Http2 => Box::pin(h2_server::serve(io, connection, worker, stack, open)),
    }
}

/// The client was told goodbye, and should leave when its streams have ended; not all do. Where nothing happens for
/// a second the drain does not wait for it any longer. Ready when it is to be closed.
pub(super) async fn deserted(connection: &Connection) {
    let (work, requests) = (&connection.place.work, || connection.requests.load(Relaxed));
    let (mut seen, mut since) = (requests(), Instant::now());
    loop {
        tokio::time::sleep(QUIET / 4).await;
        if connection.in_flight.load(Relaxed) > 0 || requests() != seen {
            (seen, since) = (requests(), Instant::now());
            work.wake();
        } else if since.elapsed() >= QUIET {
            work.rest();
            if work.refuses() {
                return;
            }
        }
    }
}
