//! Carries one opaque connection: dials a server, carries bytes both ways, and records how the connection ended.
//!
//! This is the layer-4 counterpart of [`crate::dispatch`]: it picks among the same endpoints and counts against the
//! same limits, once per connection. [`Facts`] has what is known of the connection, as for a request.

mod dial;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use crate::connection::Connection;
use crate::detect::{Detected, EarlyServer as _, Watched};
use crate::exchange::attempts::{Attempt, AttemptOutcome, Attempts};
use crate::exchange::breaks::UnderWay;
use crate::exchange::{self, DialFailure, Facts};
use crate::state::Route;
use crate::worker::Worker;
pub use dial::{BoxedDial, Dialled, at_hand, dial, early};
use pillion_base::error::Error;
use pillion_base::net::Io;
use pillion_base::relay::{Bounds, RelayEnd, Relayed, relay};
use pillion_http::headers::fresh_request_id;
use pillion_http1::Value;
use pillion_model::Reason;
use pillion_telemetry::access::OPAQUE;
use pillion_telemetry::{Flow, Held, IstioLabels, IstioProtocol, Protocol, RequestRecord};
use pillion_upstream::cluster::ClusterProtocol;

/// A client and its server, between which bytes may be carried.
struct Joined {
    downstream: Io,
    server: Dialled,
    /// The client must not begin to speak HTTP, in a first line of up to so many bytes. `None`: it may.
    most: Option<usize>,
}

/// Carries `downstream` to `route`, over the early connection where there is one.
#[expect(clippy::manual_async_fn, reason = "the arguments of an async function are held twice")]
pub fn forward(
    downstream: Box<Detected<Dialled>>,
    route: Arc<Route>,
    connection: Connection,
    worker: Arc<Worker>,
) -> impl Future<Output = ()> + Send {
    async move {
        let (route, connection, worker) = (&route, &connection, &*worker);
        let _open = Held::of(&worker.ground.connections_active(connection.direction, Protocol::Tcp));
        // Boxed, so that the memory of the dial is freed before bytes are carried.
        match Box::pin(join(downstream, route, connection, worker)).await {
            Ok(joined) => carried(joined, route, connection, worker).await,
            Err(failure) => record_failure(*failure, connection, worker),
        }
    }
}

/// Carries bytes until the connection has ended, and records how.
async fn carried(mut joined: Box<Joined>, route: &Route, connection: &Connection, worker: &Worker) {
    if worker.has_istio_metrics {
        worker.ground.metrics.istio_began(istio(&joined.server.facts, connection, worker));
    }
    let Joined { downstream, server, most } = &mut *joined;
    let mut watched = Watched::new(downstream, *most, || admits_still(route, connection, worker));
    let (facts, attempt) = (&mut server.facts, server.attempt);
    let on_bytes = |flow| facts.attempts.note(attempt, |attempt| attempt.carries(flow, Instant::now));
    let ended = relayed(&mut watched, &mut server.io, route, worker, on_bytes).await;
    let refusal = watched.refusal();
    end_if_closed(&ended, downstream, &server.io);
    let failure = failure(&ended.how, refusal, server.tls_failure());
    server.facts.attempts.end(attempt, outcome(failure.as_ref()), Instant::now());
    record(joined.server.facts, failure.as_ref(), (ended.received, ended.sent), connection, worker);
}

fn istio(facts: &Facts, connection: &Connection, worker: &Worker) -> IstioLabels {
    facts.istio(connection, IstioProtocol::Tcp, &worker.ground.metrics, &mut worker.recorder.lock())
}

/// Checks, before bytes pass, that the rules still admit a client that proved itself by a certificate: it may have been
/// revoked. Another client may go on.
///
/// # Errors
/// The client is admitted no more.
fn admits_still(route: &Route, connection: &Connection, worker: &Worker) -> Result<(), Error> {
    let is_judged = connection.judged.generation.load(Relaxed) == worker.state.generation();
    if is_judged || !connection.is_verified() {
        return Ok(());
    }
    let is_declared = route.cluster.protocol == ClusterProtocol::Tcp;
    connection.may_carry(&worker.state.load(), &worker.ground.network, is_declared)
}

/// Finds the server, unless it was dialled early, and checks that the rules still admit the connection.
async fn join(
    downstream: Box<Detected<Dialled>>,
    route: &Arc<Route>,
    connection: &Connection,
    worker: &Worker,
) -> Result<Box<Joined>, Box<DialFailure>> {
    let Detected { io: downstream, early, is_silent, is_undecided, .. } = *downstream;
    downstream.get_ref().reset_on_drop(); // without a server, the client sees a reset, as from a server that refuses it
    let server = server(early, route, connection, worker).await;
    let is_declared = route.cluster.protocol == ClusterProtocol::Tcp;
    // the rules may have changed during the dial or before it
    let admitted = connection.may_carry(&worker.state.load(), &worker.ground.network, is_declared);
    let admit = |dialled: Dialled| match admitted {
        Ok(()) => dialled.used(is_silent),
        Err(error) => Err(dialled.failed(error)),
    };
    let server = server.and_then(admit).map_err(Box::new)?;
    let (from, endpoint) = (connection.downstream, server.endpoint());
    tracing::debug!(%from, service = &*route.cluster.name, %endpoint, "bytes are carried");
    let most = is_undecided.then(|| worker.limits().header_bytes as usize);
    server.io.get_ref().reset_on_drop();
    Ok(Box::new(Joined { downstream, server, most }))
}

/// The server of the early dial, or of a dial that is made now.
async fn server(
    early: Option<Result<Dialled, DialFailure>>,
    route: &Arc<Route>,
    connection: &Connection,
    worker: &Worker,
) -> Result<Dialled, DialFailure> {
    match early {
        Some(dialled) => dialled,
        None if connection.is_loop() => Err(DialFailure::new(connection.loop_detected(), Facts::of(route))),
        None => Box::pin(dial(route, connection.origin(), Attempts::default(), worker)).await,
    }
}

/// Records an opaque connection for which no server was reached.
pub fn record_failure(failure: DialFailure, connection: &Connection, worker: &Worker) {
    let DialFailure { error, facts, deposit } = failure;
    if worker.has_istio_metrics {
        worker.ground.metrics.istio_began(istio(&facts, connection, worker));
    }
    if let Some(deposit) = deposit {
        deposit.keep();
    }
    record(*facts, Some(&error), (0, 0), connection, worker);
}

/// Relays until both directions have ended, and counts bytes as they go.
fn relayed(
    downstream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    upstream: &mut Io,
    route: &Route,
    worker: &Worker,
    mut on_bytes: impl FnMut(Flow),
) -> impl Future<Output = Relayed> {
    let (timeouts, metrics) = (&route.timeouts, route.cluster.metrics());
    let bounds = Bounds { idle: timeouts.stream_idle.tunnel(), max_duration: timeouts.max_duration };
    let count = move |flow, bytes| {
        metrics.bytes(flow).inc_by(bytes);
        on_bytes(flow);
    };
    relay(downstream, upstream, bounds, &worker.ground.timers, count)
}

/// Relays what runs inside a tunnel, and returns why it ended in disorder. Opaque bytes have no framing that would show
/// that a part is missing, so every end that cuts them short is a reset on both sides, also when this process dies.
///
/// `most`: the client must not begin to speak HTTP, in a first line of up to so many bytes. `None`: it may.
pub async fn carry(
    downstream: &mut Io,
    upstream: &mut Io,
    most: Option<usize>,
    route: &Route,
    worker: &Worker,
) -> (Relayed, Option<Reason>) {
    downstream.get_ref().reset_on_drop();
    upstream.get_ref().reset_on_drop();
    let mut watched = Watched::new(downstream, most, || Ok(()));
    let ended = relayed(&mut watched, upstream, route, worker, |_| {}).await; // the attempts belong to the request
    let refusal = watched.refusal();
    end_if_closed(&ended, downstream, upstream);
    let reason = refusal.map(|error| error.reason).or_else(|| reason(&ended.how));
    (ended, reason)
}

/// Lets both connections end with an ordinary end (FIN) where both directions were ended by their senders.
fn end_if_closed(ended: &Relayed, downstream: &Io, upstream: &Io) {
    if matches!(ended.how, RelayEnd::Closed) {
        downstream.get_ref().end_on_drop();
        upstream.get_ref().end_on_drop();
    }
}

/// The reason why the relay ended; `None` where both directions were ended by their senders.
const fn reason(how: &RelayEnd) -> Option<Reason> {
    match how {
        RelayEnd::Closed => None,
        RelayEnd::DownstreamReset => Some(Reason::ClientGone),
        RelayEnd::UpstreamReset => Some(Reason::UpstreamReset),
        RelayEnd::Idle => Some(Reason::StreamIdleTimeout),
        RelayEnd::MaxDuration => Some(Reason::MaxDuration),
    }
}

/// The error with which the connection ended, if it did not end in order. `tls`: the error of TLS towards the server.
/// `refusal`: the sidecar cut it.
fn failure(how: &RelayEnd, refusal: Option<Error>, tls: Option<Error>) -> Option<Error> {
    let tls = tls.filter(|_| *how == RelayEnd::UpstreamReset);
    refusal.or(tls).or_else(|| reason(how).map(|reason| Error::new(reason, "")))
}

/// The outcome of the attempt that had the connection.
fn outcome(failure: Option<&Error>) -> AttemptOutcome {
    match failure.map(|error| error.reason) {
        None => AttemptOutcome::Closed,
        Some(Reason::Draining | Reason::MtlsRequired | Reason::AuthzDenied) => AttemptOutcome::Closed,
        Some(reason @ (Reason::StreamIdleTimeout | Reason::MaxDuration)) => AttemptOutcome::Expired(reason),
        Some(reason) => AttemptOutcome::Failed(reason),
    }
}

/// Records the connection. Its duration begins when a server was first dialled for it, and it counts as slow by the time
/// to the first byte of its server, because opaque connections live long.
fn record(
    mut facts: Facts,
    failure: Option<&Error>,
    bytes: (u64, u64),
    connection: &Connection,
    worker: &Worker,
) {
    let (from, code) = (connection.downstream, failure.map_or("", |error| error.reason.code()));
    let detail = failure.map_or("", |error| &error.detail);
    let (received, sent, attempts) = (bytes.0, bytes.1, facts.attempts.made());
    tracing::debug!(%from, reason = code, detail, received, sent, attempts, "opaque connection ended");
    if let Some(error) = failure {
        facts.failed(error);
        facts.explain_break(UnderWay::Bytes);
    }
    facts.authorization = facts.authorization.or(connection.authorization);
    if worker.has_istio_metrics {
        worker.ground.metrics.istio_ended(istio(&facts, connection, worker), bytes);
    }
    let ended = Instant::now();
    let slow = facts.attempts.last_picked().and_then(Attempt::took).unwrap_or_default();
    let wanted = worker.wanted(failure.is_some(), slow, false);
    if wanted.by_nobody() {
        return;
    }
    // its ID leads from the access log to the timeline
    let id = wanted.timelines.map(|_| fresh_request_id(&mut worker.ground.rng.lock()));
    let request_id = id.as_ref().map(Value::as_bytes).unwrap_or_default();
    let ended = exchange::ExchangeEnd {
        protocol: OPAQUE,
        request: RequestRecord { request_id, ..RequestRecord::default() },
        bytes,
        started: facts.attempts.began().unwrap_or(ended),
        ended,
        upload: exchange::Upload::default(),
        is_first: true,
        authorizer: None,
        delayed_until: None,
        headers: None,
        trace: None,
        is_grpc: false,
    };
    facts.record(&ended, connection, worker, wanted);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The size of the future that a function returns.
    const fn size_of_future<R>(
        _: &impl Fn(Box<Detected<Dialled>>, Arc<Route>, Connection, Arc<Worker>) -> R,
    ) -> usize {
        size_of::<R>()
    }

    /// The bounds are size classes of the allocator: one more byte would cost each connection 128 bytes.
    #[test]
    fn a_carried_connection_holds_its_two_ends_once() {
        assert!(size_of_future(&forward) <= 896, "{}", size_of_future(&forward));
        assert!(size_of::<Joined>() <= 640, "{}", size_of::<Joined>());
    }

    #[test]
    fn the_outcome_of_an_attempt_follows_from_the_end_of_its_relay() {
        let tls = || Some(Error::new(Reason::TlsError, "expired"));
        let cut = |reason| Some(Error::new(reason, ""));
        let table = [
            (RelayEnd::Closed, None, None, None, AttemptOutcome::Closed),
            (RelayEnd::Closed, None, tls(), None, AttemptOutcome::Closed),
            (
                RelayEnd::UpstreamReset,
                None,
                None,
                Some(Reason::UpstreamReset),
                AttemptOutcome::Failed(Reason::UpstreamReset),
            ),
            (
                RelayEnd::UpstreamReset,
                None,
                tls(),
                Some(Reason::TlsError),
                AttemptOutcome::Failed(Reason::TlsError),
            ),
            (
                RelayEnd::DownstreamReset,
                None,
                tls(),
                Some(Reason::ClientGone),
                AttemptOutcome::Failed(Reason::ClientGone),
            ),
            (
                RelayEnd::UpstreamReset,
                cut(Reason::BadRequest),
                tls(),
                Some(Reason::BadRequest),
                AttemptOutcome::Failed(Reason::BadRequest),
            ),
            (
                RelayEnd::Idle,
                None,
                None,
                Some(Reason::StreamIdleTimeout),
                AttemptOutcome::Expired(Reason::StreamIdleTimeout),
            ),
            (
                RelayEnd::MaxDuration,
                None,
                None,
                Some(Reason::MaxDuration),
                AttemptOutcome::Expired(Reason::MaxDuration),
            ),
            (
                RelayEnd::DownstreamReset,
                cut(Reason::Draining),
                None,
                Some(Reason::Draining),
                AttemptOutcome::Closed,
            ),
        ];
        for (how, refusal, tls, reason, expected) in table {
            let failure = failure(&how, refusal, tls);
            assert_eq!(failure.as_ref().map(|error| error.reason), reason, "{how:?}");
            assert_eq!(outcome(failure.as_ref()), expected, "{how:?}");
        }
    }
}
