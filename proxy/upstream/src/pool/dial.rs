//! Opens one HTTP connection over a transport, and puts it where those who wait find it.

use std::sync::Arc;

use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;

use super::AnswerFirst;
use super::Want;
use super::departing::{Aftermath, Departing};
use super::fields::{Expected, ROOM};
use super::hold::{Hold, run_while_held};
use super::lease::reason_http2;
use super::shard::{About, Counted, Http1, Http2, Shard, Ticket};
use crate::cluster::Cluster;
use crate::cluster::connect::{Connected, connect, opened, tls_failed};
use crate::cluster::endpoint::{Endpoint, Speaks};
use crate::cluster::slots::Slot;
use pillion_base::error::{Error, Sent};
use pillion_base::ground::Ground;
use pillion_base::net::{Io, Prefixed};
use pillion_http::Body;
use pillion_http::h2;
use pillion_http::head::HeadLimits;
use pillion_model::Reason;
use pillion_telemetry::{ConnectionOutcome, Held, Protocol};
use pillion_tls::Alpn;
use pillion_tls::admission::Admission;
use pillion_tls::client::Purpose;

/// What an HTTP/1 connection holds while it is open.
pub(super) type HeldHttp1 = Arc<(Slot, Held, Counted)>;

/// hyper's part of an HTTP/1 connection.
pub(super) type ConnHttp1 = http1::Connection<TokioIo<Departing<AnswerFirst>>, Body>;

/// Begins HTTP/1 on a connection, with room for so many of the fields that an answer may have.
pub(super) async fn open_http1(
    io: Departing<AnswerFirst>,
    limits: HeadLimits,
    room: usize,
) -> hyper::Result<(http1::SendRequest<Body>, ConnHttp1)> {
    let mut builder = http1::Builder::new();
    builder.max_buf_size(limits.bytes as usize);
    let fields = room.min(limits.fields as usize);
    if fields != ROOM {
        builder.max_headers(fields);
    }
    builder.handshake(TokioIo::new(io)).await
}

/// Runs it on a task of its own until nobody has the hold any more.
pub(super) fn run_http1(conn: ConnHttp1, held: HeldHttp1) -> Hold {
    let (hold, released) = Hold::new();
    tokio::spawn(async move {
        run_while_held(conn.with_upgrades(), released).await; // how it ended, the request that was on it learns
        drop(held);
    });
    hold
}

/// Dials on a task of its own, which serves whoever waits longest when it is done.
pub(super) fn start(
    cluster: &Arc<Cluster>,
    endpoint: &Arc<Endpoint>,
    ground: &Arc<Ground>,
    shard: &Arc<Shard>,
    ticket: Ticket,
    slot: Slot,
    most_fields: u32,
) {
    let (cluster, endpoint, ground, shard) =
        (cluster.clone(), endpoint.clone(), ground.clone(), shard.clone());
    tokio::spawn(async move {
        let dial = Dial {
            cluster: &cluster,
            endpoint: &endpoint,
            ground: &ground,
            shard: &shard,
            want: ticket.want,
            most_fields,
        };
        if let Err(error) = dial.run(slot).await {
            ticket.fail(&error);
        }
    });
}

struct Dial<'a> {
    cluster: &'a Arc<Cluster>,
    endpoint: &'a Arc<Endpoint>,
    ground: &'a Arc<Ground>,
    /// Where those who wait stand.
    shard: &'a Arc<Shard>,
    want: Want,
    /// `limits.response_header_count`.
    most_fields: u32,
}

impl Dial<'_> {
    async fn run(&self, slot: Slot) -> Result<(), Error> {
        let purpose = if self.want == Want::OnlyHttp1 { Purpose::Http1 } else { Purpose::Http };
        let connected = connect(self.cluster, self.endpoint.address, self.ground, purpose).await;
        let Connected { transport, alpn, admission } = connected?;
        let io = Prefixed::new(transport);
        let about = About::new(self.cluster.verifies_peers() && alpn.is_some_and(Alpn::is_sidecar));
        match self.speaks(alpn) {
            Speaks::Http1 => self.http1(io, about, admission, slot).await,
            Speaks::Http2 => self.http2(io, about, admission, slot).await,
        }
    }

    /// ALPN settles it; a peer without is taken at what was declared, else speaks HTTP/1.
    fn speaks(&self, alpn: Option<Alpn>) -> Speaks {
        let is_http2 = alpn.map_or(self.want == Want::Http2, Alpn::is_http2);
        if is_http2 { Speaks::Http2 } else { Speaks::Http1 }
    }

    async fn http1(
        &self,
        io: Io,
        about: About,
        admission: Option<Arc<Admission>>,
        slot: Slot,
    ) -> Result<(), Error> {
        let (aftermath, expected) = (Arc::<Aftermath>::default(), Arc::<Expected>::default());
        let io = Departing::new(AnswerFirst::new(io, expected.clone()), aftermath.clone());
        let limits = HeadLimits::of_answers(self.most_fields, about.is_sidecar);
        let (send, conn) = open_http1(io, limits, ROOM).await.map_err(|error| {
            self.not_http((Reason::UpstreamReset, Sent::Never), &error, admission.as_ref())
        })?;
        // With the connection, whoever holds it: hyper's task, or the tunnel that it became.
        let held: HeldHttp1 =
            Arc::new((slot, self.opened(Protocol::Http1, admission.as_ref()), self.endpoint.pool.count()));
        let hold = run_http1(conn, held.clone());
        if self.want != Want::OnlyHttp1 {
            self.endpoint.learn(Speaks::Http1);
        }
        let conn = Http1::new(send, about, (admission, aftermath, expected), (hold, held), limits);
        self.shard.offer_http1(conn, self.cluster);
        if self.want.is_shared() {
            self.shard.wake_stream_waiters();
        }
        Ok(())
    }

    async fn http2(
        &self,
        io: Io,
        about: About,
        admission: Option<Arc<Admission>>,
        slot: Slot,
    ) -> Result<(), Error> {
        let limits = HeadLimits::of_answers(self.most_fields, about.is_sidecar);
        let opened = h2::client::open(io, limits, self.ground).await;
        let (send, driver) = opened.map_err(|error| {
            // As for a request on it: what speaks no HTTP/2 would not do so for another sidecar either.
            self.not_http((reason_http2(&error), Sent::Perhaps), &error, admission.as_ref())
        })?;
        let guards = (slot, self.opened(Protocol::Http2, admission.as_ref()), self.endpoint.pool.count());
        tokio::spawn(async move {
            driver.await;
            drop(guards);
        });
        self.endpoint.learn(Speaks::Http2);
        self.shard.offer_http2(Http2::new(send, about, admission), self.cluster);
        if !self.want.is_shared() {
            self.shard.wake_http1_waiters();
        }
        Ok(())
    }

    fn opened(&self, protocol: Protocol, admission: Option<&Arc<Admission>>) -> Held {
        opened(self.cluster, self.ground, protocol, admission);
        Held::of(&self.ground.connections_active(self.cluster.direction(), protocol))
    }

    fn not_http(
        &self,
        (reason, sent): (Reason, Sent),
        error: &dyn std::error::Error,
        admission: Option<&Arc<Admission>>,
    ) -> Error {
        let (address, name) = (self.endpoint.address, &self.cluster.name);
        if let Some(failure) = admission.and_then(|admission| admission.failure()) {
            self.cluster.connection_opened(self.ground, Protocol::Unknown, ConnectionOutcome::TlsError);
            return tls_failed(address, name, &failure.error);
        }
        self.cluster.connection_opened(self.ground, Protocol::Unknown, ConnectionOutcome::Failed);
        Error::new(reason, format!("{address} of \"{name}\" broke off before a request: {error}")).sent(sent)
    }
}
