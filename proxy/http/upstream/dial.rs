//! Opens one HTTP connection over a transport, and puts it where those who wait find it.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;

use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::sync::OwnedSemaphorePermit;

use super::Want;
use super::shard::{About, Counted, Http1, Http2, Shard, StreamLimit, Ticket};
use crate::cluster::Cluster;
use crate::cluster::connect::connect;
use crate::cluster::endpoint::{Endpoint, Speaks};
use crate::error::{Error, Reason};
use crate::http::server::HTTP1_BUFFER;
use crate::net::{Io, Prefixed};
use crate::runtime::worker::Worker;
use crate::telemetry::{ConnectionOutcome, Held, Protocol};
use crate::tls::Alpn;
use crate::tls::client::Purpose;

/// One of the cluster's `max_connections`, held while the connection is open.
pub(crate) type Slot = OwnedSemaphorePermit;
/// What an HTTP/1 connection holds while it is open.
pub(super) type HeldHttp1 = Arc<(Slot, Held, Counted)>;

/// Streams assumed until the peer's SETTINGS say otherwise; hyper's own first guess.
const STREAMS_AT_FIRST: u32 = 100;
/// Per stream: with the send buffer half of the MiB that one stream's body may hold in this process.
const STREAM_WINDOW: u32 = 256 * 1024;
/// Not below 1 MiB: h2's budget against floods of small DATA frames is half of it.
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;
const SEND_BUFFER: usize = 256 * 1024;
/// Of an answer's head; Envoy's limit is 60 KiB.
const ANSWER_HEADER_BYTES: u32 = 64 * 1024;

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
        if let Err(error) = dial.run(slot).await {
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
        let purpose = if self.want == Want::OnlyHttp1 { Purpose::Http1 } else { Purpose::Http };
        let connected = connect(self.cluster, self.endpoint.address, self.worker, purpose).await;
        let (transport, alpn) = connected?;
        let io = TokioIo::new(Prefixed::new(transport));
        let about = About::new(self.cluster.verifies_peers() && alpn.is_some_and(Alpn::is_sidecar));
        match self.speaks(alpn) {
            Speaks::Http1 => self.http1(io, about, slot).await,
            Speaks::Http2 => self.http2(io, about, slot).await,
        }
    }

    /// ALPN settles it; a peer without is taken at what was declared, else speaks HTTP/1.
    fn speaks(&self, alpn: Option<Alpn>) -> Speaks {
        let is_http2 = alpn.map_or(self.want == Want::Http2, Alpn::is_http2);
        if is_http2 { Speaks::Http2 } else { Speaks::Http1 }
    }

    async fn http1(&self, io: TokioIo<Io>, about: About, slot: Slot) -> Result<(), Error> {
        let handshake = http1::Builder::new().max_buf_size(HTTP1_BUFFER).handshake(io).await;
        let (send, conn) = handshake.map_err(|error| self.not_http(&error))?;
        // With the connection, whoever holds it: hyper's task, or the tunnel that it became.
        let held: HeldHttp1 = Arc::new((slot, self.opened(Protocol::Http1), self.endpoint.pool.count()));
        let also_held = held.clone();
        tokio::spawn(async move {
            drop(conn.with_upgrades().await); // how it ended, the request that was on it learns
            drop(also_held);
        });
        if self.want != Want::OnlyHttp1 {
            self.endpoint.learn(Speaks::Http1);
        }
        self.shard().offer_http1(Http1::new(send, about, held), self.cluster);
        if self.want.is_shared() {
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
            .max_header_list_size(ANSWER_HEADER_BYTES)
            .keep_alive_interval(self.cluster.connection.keepalive)
            .handshake(io)
            .await;
        let (send, mut conn) = handshake.map_err(|error| self.not_http(&error))?;
        let guards = (slot, self.opened(Protocol::Http2), self.endpoint.pool.count());
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
        if !self.want.is_shared() {
            self.shard().wake_http1_waiters();
        }
        Ok(())
    }

    fn shard(&self) -> &Arc<Shard> {
        self.endpoint.pool.shard(self.worker.index)
    }

    fn opened(&self, protocol: Protocol) -> Held {
        self.cluster.connection_opened(self.worker, protocol, ConnectionOutcome::Ok);
        Held::of(&self.worker.connections_active(self.cluster.direction(), protocol))
    }

    fn not_http(&self, error: &hyper::Error) -> Error {
        self.cluster.connection_opened(self.worker, Protocol::Unknown, ConnectionOutcome::Failed);
        let (address, name) = (self.endpoint.address, &self.cluster.name);
        Error::new(
            Reason::UpstreamReset,
            format!("{address} of \"{name}\" broke off before a request: {error}"),
        )
    }
}
