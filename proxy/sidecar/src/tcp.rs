//! One opaque connection: a server is dialled, bytes are carried both ways, and how it ended is told.
//!
//! The L4 counterpart of [`crate::dispatch`]: picks among the same endpoints and counts against the same limits,
//! once per connection.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use crate::connection::Connection;
use crate::detect::{Detected, Early, Server, Watched};
use crate::state::Route;
use crate::worker::Worker;
use pillion_base::error::Error;
use pillion_base::net::returning::{is_loop, loop_detected};
use pillion_base::net::{Io, Prefixed};
use pillion_base::relay::{Bounds, Ended, Ending, relay};
use pillion_model::Reason;
use pillion_telemetry::{Held, Protocol, Record};
use pillion_tls::admission::Admission;
use pillion_tls::client::Purpose;
use pillion_upstream::cluster::Cluster;
use pillion_upstream::cluster::balance::Tried;
use pillion_upstream::cluster::connect::{Connected, connect, opened, tls_failed};
use pillion_upstream::cluster::endpoint::{Endpoint, InFlight};
use pillion_upstream::cluster::outlier::Cause;
use pillion_upstream::cluster::slots::Slot;

/// A connection to an endpoint that nothing else shares, and what lasts as long as it does.
pub struct Dialled {
    pub io: Io,
    cluster: Arc<Cluster>,
    /// `None`: plaintext.
    admission: Option<Arc<Admission>>,
    /// Time that connecting took.
    took: Duration,
    /// `None` while nobody knows whether it will be used.
    slot: Option<Slot>,
    in_flight: InFlight,
}

impl Server for Dialled {
    fn io(&mut self) -> &mut Io {
        &mut self.io
    }

    fn tls_failure(&self) -> Option<Error> {
        let failure = self.admission.as_ref()?.failure()?;
        Some(tls_failed(self.in_flight.endpoint().address, &self.cluster.name, &failure.error))
    }
}

/// Boxed: a TLS handshake is kilobytes, and few connections make one of their own.
pub type BoxedDial<'a> = Pin<Box<dyn Future<Output = Result<Dialled, Error>> + Send + 'a>>;

/// Dials `route` once its client has been silent for a while, to hear whether the server speaks first.
pub fn early<'a>(
    route: &'a Route,
    from: SocketAddr,
    to: Option<SocketAddr>,
    worker: &'a Worker,
) -> Early<impl FnOnce() -> BoxedDial<'a> + Send> {
    let cluster = &route.cluster;
    Early {
        after: cluster.patience(),
        expects_http: cluster.expects_http(),
        is_at_hand: false,
        dial: move || Box::pin(dial_for((from, to), cluster, worker)) as BoxedDial<'a>,
    }
}

/// Dials for a client, unless that is the sidecar itself.
async fn dial_for(
    (from, to): (SocketAddr, Option<SocketAddr>),
    cluster: &Arc<Cluster>,
    worker: &Worker,
) -> Result<Dialled, Error> {
    if is_loop(cluster.direction(), from, to) {
        return Err(loop_detected(from, to));
    }
    dial_unused(cluster, worker).await
}

/// A server that was dialled already, to answer a CONNECT.
pub fn at_hand(
    dialled: Dialled,
    route: &Route,
) -> Early<impl FnOnce() -> std::future::Ready<Result<Dialled, Error>> + Send> {
    let expects_http = route.cluster.expects_http();
    Early {
        after: Duration::ZERO,
        expects_http,
        is_at_hand: true,
        dial: move || std::future::ready(Ok(dialled)),
    }
}

/// Connects to an endpoint, and to others when it fails: nothing was sent, so as often as `retry.attempts` says.
///
/// # Errors
/// `overloaded` at `max_connections` or where every endpoint is at its own limit, and whatever kept the last endpoint from being connected to.
pub async fn dial(cluster: &Arc<Cluster>, worker: &Worker) -> Result<Dialled, Error> {
    let slot = cluster.slot_now()?;
    let dialled = dial_unused(cluster, worker).await?;
    let at_endpoint = cluster.slot_now_at(dialled.in_flight.endpoint())?;
    Ok(Dialled { slot: Some(Slot::new(slot, at_endpoint)), ..dialled })
}

/// Without a place among `max_connections`: silent clients must not take those of others.
async fn dial_unused(cluster: &Arc<Cluster>, worker: &Worker) -> Result<Dialled, Error> {
    let mut tried = Tried::default();
    let mut tries = 1 + cluster.retry.as_ref().map_or(0, |retry| retry.attempts);
    loop {
        let endpoint = with_room(cluster, &mut tried, worker)?;
        tries -= 1;
        match dial_endpoint(cluster, endpoint, worker).await {
            Err(error) if tries > 0 => tracing::debug!(%error, "another endpoint is tried"),
            dialled => return dialled,
        }
    }
}

/// An endpoint that takes one more connection: those that are at their own limit are passed by.
fn with_room(cluster: &Cluster, tried: &mut Tried, worker: &Worker) -> Result<Arc<Endpoint>, Error> {
    let mut rng = worker.ground.rng.lock();
    let mut pick = || cluster.pick(tried, Instant::now(), &mut rng).ok_or_else(|| cluster.nobody());
    let mut endpoint = pick()?;
    for _ in 1..cluster.endpoints().all.len().min(Tried::ROOM) {
        if !endpoint.is_full() {
            break;
        }
        pass_by(&endpoint);
        endpoint = pick()?;
    }
    if endpoint.is_full() {
        pass_by(&endpoint);
        return Err(cluster.endpoint_is_full(&endpoint));
    }
    Ok(endpoint)
}

/// Nothing is sent to an endpoint that was picked: if it was to be probed, somebody else may probe it.
fn pass_by(endpoint: &Endpoint) {
    endpoint.outlier.on_neither(Instant::now().into_std());
}

async fn dial_endpoint(
    cluster: &Arc<Cluster>,
    endpoint: Arc<Endpoint>,
    worker: &Worker,
) -> Result<Dialled, Error> {
    let (in_flight, began) = (InFlight::at(&endpoint), Instant::now());
    let connected = connect(cluster, endpoint.address, &worker.ground, Purpose::Tcp).await;
    let (took, now) = (began.elapsed(), Instant::now().into_std());
    match connected {
        Ok(Connected { transport, admission, .. }) => {
            opened(cluster, &worker.ground, Protocol::Tcp, admission.as_ref());
            if let Some(admission) = &admission {
                let (endpoint, cluster) = (endpoint.clone(), cluster.clone());
                admission.when_known(move |refused| {
                    let now = Instant::now().into_std();
                    match refused {
                        None => {}
                        Some(error) if error.is_of_our_certificate => endpoint.outlier.on_neither(now),
                        Some(_) => endpoint.failed(took, Cause::Connect, &cluster, now),
                    }
                });
            }
            let io = Prefixed::new(transport);
            let cluster = cluster.clone();
            Ok(Dialled { io, cluster, admission, took, slot: None, in_flight })
        }
        Err(error) => {
            match Cause::of(&error) {
                Some(cause) => endpoint.failed(took, cause, cluster, now),
                None => endpoint.outlier.on_neither(now),
            }
            Err(error)
        }
    }
}

impl Dialled {
    /// From here on it counts: among the connections of its service, and as its endpoint's good answer. One that is
    /// left unused, or on which nobody said anything, says nothing of how its endpoint answers requests.
    fn used(mut self, is_silent: bool) -> Result<Self, Error> {
        if self.slot.is_none() {
            let slot = self.cluster.slot_now()?;
            self.slot = Some(Slot::new(slot, self.cluster.slot_now_at(self.in_flight.endpoint())?));
        }
        let (endpoint, took) = (self.in_flight.endpoint().clone(), self.took);
        let answered = move || {
            if !is_silent {
                endpoint.answered(took, Instant::now().into_std());
            }
        };
        match &self.admission {
            None => answered(),
            Some(admission) => admission.when_known(move |refused| {
                if refused.is_none() {
                    answered(); // a refusal is counted by who dialled
                }
            }),
        }
        Ok(self)
    }
}

/// Carries `downstream` to `route`, over the early connection where there is one.
pub async fn forward(
    downstream: Detected<Dialled>,
    route: &Arc<Route>,
    connection: &Connection,
    worker: &Worker,
) {
    let _open = Held::of(&worker.ground.connections_active(connection.direction, Protocol::Tcp));
    let telling = Telling::begin(route, connection, worker);
    let Detected { io: mut downstream, early, is_silent, is_undecided, .. } = downstream;
    downstream.get_ref().abort(); // what a client sees whose server refuses it, or is not reached in time
    let dialled = match early {
        Some(dialled) => Ok(dialled),
        None if connection.is_loop() => Err(connection.loop_detected()),
        None => Box::pin(dial(&route.cluster, worker)).await,
    };
    let admitted = connection.admitted(&worker.state.load()); // who was waited for, here or before, may be refused now
    match admitted.and(dialled).and_then(|dialled| dialled.used(is_silent)) {
        Ok(mut server) => {
            let (from, endpoint) = (connection.downstream, server.in_flight.endpoint().address);
            tracing::debug!(%from, service = &*route.cluster.name, %endpoint, "bytes are carried");
            let most = is_undecided.then(|| worker.limits().header_bytes as usize);
            server.io.get_ref().abort();
            let mut watched = Watched::new(&mut downstream, most);
            let ended = relayed(&mut watched, &mut server.io, route, worker).await;
            let is_refused = watched.is_refused();
            settle_if_closed(&ended, &downstream, &server.io);
            match is_refused {
                true => telling.refused(&ended, endpoint),
                false => telling.ended(&ended, endpoint, server.tls_failure()),
            }
        }
        Err(error) => telling.failed(&error),
    }
}

/// The access line of a client that was silent, and whose server could not be reached.
pub fn unserved(error: &Error, route: &Route, connection: &Connection, worker: &Worker) {
    Telling::begin(route, connection, worker).failed(error);
}

/// Relays until both directions have ended, and counts bytes as they go.
async fn relayed(
    downstream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    upstream: &mut Io,
    route: &Route,
    worker: &Worker,
) -> Ended {
    let (timeouts, metrics) = (&route.timeouts, route.cluster.metrics());
    let bounds = Bounds { idle: timeouts.stream_idle.tunnel(), max_duration: timeouts.max_duration };
    let count = |flow, bytes| metrics.bytes(flow).inc_by(bytes);
    relay(downstream, upstream, bounds, &worker.ground.timers, count).await
}

/// Relays what runs inside a tunnel. Opaque bytes have no framing that would show that a part is missing: whatever cuts
/// them short, the death of this process too, is a reset on both sides.
pub async fn carry(downstream: &mut Io, upstream: &mut Io, route: &Route, worker: &Worker) -> Ended {
    downstream.get_ref().abort();
    upstream.get_ref().abort();
    let ended = relayed(downstream, upstream, route, worker).await;
    settle_if_closed(&ended, downstream, upstream);
    ended
}

/// Both directions have ended as their senders wished: an ordinary end is what both sides shall see.
fn settle_if_closed(ended: &Ended, downstream: &Io, upstream: &Io) {
    if matches!(ended.how, Ending::Closed) {
        downstream.get_ref().settle();
        upstream.get_ref().settle();
    }
}

/// Why bytes stopped, where that was not the end of both directions.
pub const fn reason(how: &Ending) -> Option<Reason> {
    match how {
        Ending::Closed => None,
        Ending::DownstreamReset => Some(Reason::ClientGone),
        Ending::UpstreamReset => Some(Reason::UpstreamReset),
        Ending::Idle => Some(Reason::StreamIdleTimeout),
        Ending::MaxDuration => Some(Reason::MaxDuration),
    }
}

/// The access line of one connection.
struct Telling<'a> {
    route: &'a Route,
    connection: &'a Connection,
    worker: &'a Worker,
    started: Instant,
}

impl<'a> Telling<'a> {
    fn begin(route: &'a Route, connection: &'a Connection, worker: &'a Worker) -> Self {
        Self { route, connection, worker, started: Instant::now() }
    }

    /// `tls`: what TLS towards the upstream broke with.
    fn ended(self, ended: &Ended, upstream: SocketAddr, tls: Option<Error>) {
        let bytes = (ended.received, ended.sent);
        let (reason, from) = (reason(&ended.how), self.connection.downstream);
        tracing::debug!(%from, reason = reason.map_or("", Reason::code), received = bytes.0, sent = bytes.1, "bytes have ended");
        match tls.filter(|_| ended.how == Ending::UpstreamReset) {
            Some(error) => self.log(Some(error.reason), &error.detail, Some(upstream), bytes),
            None => self.log(reason, "", Some(upstream), bytes),
        }
    }

    /// What was opaque began to speak HTTP.
    fn refused(self, ended: &Ended, upstream: SocketAddr) {
        const WHY: &str = "HTTP on a connection that had been found opaque";
        self.log(Some(Reason::BadRequest), WHY, Some(upstream), (ended.received, ended.sent));
    }

    fn failed(self, error: &Error) {
        tracing::debug!(%error, from = %self.connection.downstream, "connection closed: no server");
        self.log(Some(error.reason), &error.detail, None, (0, 0));
    }

    fn log(&self, reason: Option<Reason>, detail: &str, upstream: Option<SocketAddr>, bytes: (u64, u64)) {
        let Some(log) = &self.worker.access_log else { return };
        if !log.wants(reason.is_some()) {
            return;
        }
        let (took, metrics) = (self.started.elapsed(), &self.worker.ground.metrics);
        log.write(&Record {
            time: SystemTime::now() - took,
            direction: self.connection.direction,
            service: &self.route.cluster.name,
            route: &metrics.name(self.route.name),
            method: "",
            path: b"",
            host: b"",
            protocol: "tcp",
            status: 0,
            grpc_status: None,
            reason,
            peer_reason: "",
            detail,
            peer: self.connection.peer.as_ref().map_or("", |peer| peer.id.as_str()),
            downstream: Some(self.connection.downstream),
            upstream,
            request_id: b"",
            bytes_in: bytes.0,
            bytes_out: bytes.1,
            duration: took,
            upstream_duration: None::<Duration>,
            attempts: u32::from(upstream.is_some()),
        });
    }
}
