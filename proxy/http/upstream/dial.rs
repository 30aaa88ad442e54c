//! Opens one connection: TCP, TLS, HTTP, all within the cluster's `connect_timeout`.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;

use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use super::Want;
use super::shard::{About, Http1, Http2, Shard, StreamLimit, Ticket};
use crate::cluster::Cluster;
use crate::cluster::endpoint::{Endpoint, Speaks};
use crate::error::{Error, Reason};
use crate::http::server::{HEADER_BYTES, HTTP1_BUFFER};
use crate::net::{Io, Prefixed, Transport};
use crate::runtime::worker::Worker;
use crate::telemetry::{ConnectionOutcome, HandshakeOutcome, Held, Protocol};
use crate::tls::Alpn;

/// One of the cluster's `max_connections`, held while the connection is open.
pub(crate) type Slot = OwnedSemaphorePermit;

/// Streams assumed until the peer's SETTINGS say otherwise; hyper's own first guess.
const STREAMS_AT_FIRST: u32 = 100;
/// Per stream: with the send buffer half of the MiB that one stream's body may hold in this process.
const STREAM_WINDOW: u32 = 256 * 1024;
/// Not below 1 MiB: h2's budget against floods of small DATA frames is half of it.
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;
const SEND_BUFFER: usize = 256 * 1024;

/// Dials on a task of its own, which serves whoever waits longest when it is done.
pub(super) fn start(
    cluster: &Arc<Cluster>,
    endpoint: &Arc<Endpoint>,
    worker: &Arc<Worker>,
    ticket: Ticket,
    slot: Slot,
) {
    let (cluster, endpoint, worker) = (cluster.clone(), endpoint.clone(), worker.clone());
    tokio::spawn(async move {
        let dial = Dial { cluster: &cluster, endpoint: &endpoint, worker: &worker, want: ticket.want };
        let dialled = timeout(cluster.connect_timeout, dial.run(slot)).await;
        if let Err(error) = dialled.unwrap_or_else(|_elapsed| Err(dial.timed_out())) {
            cluster.connection_opened(&worker, Protocol::Unknown, outcome(&error));
            ticket.fail(&error);
        }
    });
}

struct Dial<'a> {
    cluster: &'a Arc<Cluster>,
    endpoint: &'a Arc<Endpoint>,
    worker: &'a Arc<Worker>,
    want: Want,
}

impl Dial<'_> {
    async fn run(&self, slot: Slot) -> Result<(), Error> {
        let (address, keepalive) = (self.endpoint.address, self.cluster.connection.keepalive);
        let stream = self.worker.network.connect(address, keepalive).await;
        let stream = stream.map_err(|error| self.unreachable(&error))?;
        let (transport, alpn) = match self.cluster.tls() {
            None => (Transport::Plain(Prefixed::new(stream)), None),
            Some(tls) => {
                let connected = tls.connect(stream).await;
                self.count_handshake(connected.as_ref().err());
                let (stream, alpn) = connected.map_err(|error| self.tls_failed(&error))?;
                (Transport::Connected(Box::new(stream)), alpn)
            }
        };
        let io = TokioIo::new(Prefixed::new(transport));
        let about = About::new(self.cluster.verifies_peers() && alpn.is_some_and(Alpn::is_sidecar));
        match self.speaks(alpn) {
            Speaks::Http1 => self.http1(io, about, slot).await,
            Speaks::Http2 => self.http2(io, about, slot).await,
        }
    }

    fn count_handshake(&self, failed: Option<&crate::tls::TlsError>) {
        let outcome = match failed {
            None => HandshakeOutcome::Ok,
            Some(error) if error.is_identity_mismatch() => HandshakeOutcome::Identity,
            Some(_) => HandshakeOutcome::Failed,
        };
        self.worker.metrics.handshakes(self.cluster.direction, outcome).inc();
    }

    /// ALPN settles it; a peer without is taken at what was declared, else speaks HTTP/1.
    fn speaks(&self, alpn: Option<Alpn>) -> Speaks {
        let is_http2 = alpn.map_or(self.want == Want::Http2, Alpn::is_http2);
        if is_http2 { Speaks::Http2 } else { Speaks::Http1 }
    }

    async fn http1(&self, io: TokioIo<Io>, about: About, slot: Slot) -> Result<(), Error> {
        let handshake = http1::Builder::new().max_buf_size(HTTP1_BUFFER).handshake(io).await;
        let (send, conn) = handshake.map_err(|error| self.not_http(&error))?;
        let guards = (slot, self.opened(Protocol::Http1));
        tokio::spawn(async move {
            drop(conn.await); // how it ended, the request that was on it learns
            drop(guards);
        });
        self.endpoint.learn(Speaks::Http1);
        self.shard().offer_http1(Http1::new(send, about), self.cluster);
        if self.want != Want::Http1 {
            self.shard().wake_stream_waiters();
        }
        Ok(())
    }

    async fn http2(&self, io: TokioIo<Io>, about: About, slot: Slot) -> Result<(), Error> {
        let handshake = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buf_size(SEND_BUFFER)
            .max_header_list_size(HEADER_BYTES)
            .keep_alive_interval(self.cluster.connection.keepalive)
            .handshake(io)
            .await;
        let (send, mut conn) = handshake.map_err(|error| self.not_http(&error))?;
        let guards = (slot, self.opened(Protocol::Http2));
        let max_streams = StreamLimit::new(STREAMS_AT_FIRST);
        let shown = max_streams.clone();
        tokio::spawn(async move {
            let mut look = pin!(shown.look());
            drop(
                poll_fn(|cx| {
                    let polled = Pin::new(&mut conn).poll(cx);
                    while look.as_mut().poll(cx).is_ready() {
                        look.set(shown.look());
                    }
                    let allowed = u32::try_from(conn.current_max_send_streams()).unwrap_or(u32::MAX);
                    shown.set(allowed);
                    polled
                })
                .await,
            );
            drop(guards);
        });
        self.endpoint.learn(Speaks::Http2);
        self.shard().offer_http2(Http2::new(send, about, max_streams), self.cluster);
        if self.want == Want::Http1 {
            self.shard().wake_http1_waiters();
        }
        Ok(())
    }

    fn shard(&self) -> &Arc<Shard> {
        self.endpoint.pool.shard(self.worker.index)
    }

    fn opened(&self, protocol: Protocol) -> Held {
        self.cluster.connection_opened(self.worker, protocol, ConnectionOutcome::Ok);
        Held::of(&self.worker.connections_active(self.cluster.direction, protocol))
    }

    fn unreachable(&self, error: &io::Error) -> Error {
        let (address, name) = (self.endpoint.address, &self.cluster.name);
        match error.kind() {
            io::ErrorKind::TimedOut => self.timed_out(),
            io::ErrorKind::ConnectionRefused => Error::new(
                Reason::ConnectRefused,
                format!("{address} of \"{name}\" refused the connection: is anything listening there?"),
            ),
            _ => Error::new(
                Reason::ConnectRefused,
                format!("{address} of \"{name}\" could not be connected to: {error}"),
            ),
        }
    }

    fn timed_out(&self) -> Error {
        Error::new(
            Reason::ConnectTimeout,
            format!(
                "{} of \"{}\" did not finish connecting within {:?} (connect_timeout, TCP and TLS together)",
                self.endpoint.address, self.cluster.name, self.cluster.connect_timeout
            ),
        )
    }

    fn tls_failed(&self, error: &crate::tls::TlsError) -> Error {
        let mismatch = error.is_identity_mismatch();
        let reason = if mismatch { Reason::PeerIdentityMismatch } else { Reason::TlsError };
        let (address, name) = (self.endpoint.address, &self.cluster.name);
        Error::new(reason, format!("TLS with {address} of \"{name}\" failed: {error}"))
    }

    fn not_http(&self, error: &hyper::Error) -> Error {
        let (address, name) = (self.endpoint.address, &self.cluster.name);
        Error::new(
            Reason::UpstreamReset,
            format!("{address} of \"{name}\" broke off before a request: {error}"),
        )
    }
}

fn outcome(error: &Error) -> ConnectionOutcome {
    match error.reason {
        Reason::ConnectRefused => ConnectionOutcome::Refused,
        Reason::ConnectTimeout => ConnectionOutcome::Timeout,
        Reason::TlsError | Reason::PeerIdentityMismatch => ConnectionOutcome::TlsError,
        _ => ConnectionOutcome::Failed,
    }
}
