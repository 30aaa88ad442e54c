//! Serves one downstream HTTP connection of either version.

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

/// Counts an HTTP/1 connection, which begins with its first byte. `h2_server` counts HTTP/2 once its preface has come,
/// or has failed to come.
pub fn count_begun(version: Version, connection: &Connection, worker: &Worker) {
    if version == Version::Http1 {
        connection.count(Protocol::Http1, ConnectionOutcome::Ok, &worker.ground.metrics);
    }
}

/// Serves `io` until its client leaves. In the drain it serves until the requests under way have ended; inbound also
/// until the connection has been silent for a second. Boxed, because from here on the connection needs only this
/// future.
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

/// Waits until the connection is to be closed after a GOAWAY. A client should leave when its streams have ended, but
/// not every client does: after a second without activity, the drain does not wait for it any longer.
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
            if work.dismisses() {
                return;
            }
        }
    }
}
