//! What is known of one exchange: its route, its attempts, and why it ended. An exchange is a request with its answer,
//! or an opaque connection.
//!
//! [`crate::http::Exchange`] and [`crate::tcp`] both use [`Facts`], so that the access log, the timelines and the spans are
//! made of one type.

mod tries;
pub mod stages;
pub mod answers;
pub mod breaks;
pub mod attempts;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use crate::connection::Connection;
use crate::noted::NotedHeaders;
use crate::state::Route;
use crate::state::authorization::Decided;
use crate::taps::Tapped;
use crate::traces::{Trace, Traced};
use crate::worker::{Wanted, Worker};
use attempts::{AttemptId, AttemptOutcome, Attempts};
use breaks::UnderWay;
use pillion_base::error::Error;
use pillion_model::Direction;
use pillion_model::Reason;
use pillion_model::authorization::ExtAuthz;
use pillion_telemetry::access::OPAQUE;
use pillion_telemetry::timeline::Timeline;
use pillion_telemetry::{
    EndpointLabels, Further, IstioLabels, IstioProtocol, Metrics, Record, Recorder, RequestRecord, Symbol,
    TryOutcome, response_flag,
};
use pillion_upstream::cluster::balance::Tried;
use pillion_upstream::cluster::budget::Deposit;
use pillion_upstream::cluster::endpoint::Endpoint;
use pillion_upstream::cluster::hashing::KeyHash;
use stages::{Frame, Opening, stages};
use tries::tries;

#[derive(Default)]
pub struct Facts {
    pub route: Option<Arc<Route>>,
    pub attempts: Attempts,
    /// The endpoints that were tried.
    pub tried: Tried,
    /// What its service's balancer hashes, where it hashes.
    pub key: Option<KeyHash>,
    /// Why the sidecar ended the exchange; `None` where it did not.
    pub reason: Option<Reason>,
    /// The detail text for `reason`.
    pub detail: Option<Box<str>>,
    /// What the authorization rules decided.
    pub authorization: Option<Decided>,
}

/// How an exchange ended: the part of the access record that depends on the protocol.
pub struct ExchangeEnd<'a> {
    pub protocol: &'static str,
    /// Empty for opaque bytes.
    pub request: RequestRecord<'a>,
    /// Bytes received from the downstream, and bytes sent to it.
    pub bytes: (u64, u64),
    pub started: Instant,
    pub ended: Instant,
    /// The body of a request.
    pub upload: Upload,
    /// The exchange is the first one of its connection.
    pub is_first: bool,
    /// From when to when the external authorizer was asked; without an end, its answer did not come.
    pub authorizer: Option<(Instant, Option<Instant>)>,
    /// The first attempt was held up until then, by a `fault.delay`.
    pub delayed_until: Option<Instant>,
    /// `None`: nobody wants headers.
    pub headers: Option<&'a NotedHeaders>,
    /// `None`: there are no traces, or the exchange is an opaque connection.
    pub trace: Option<&'a Trace>,
    pub is_grpc: bool,
}

/// The body of a request, as far as its time is concerned.
#[derive(Debug, Clone, Copy, Default)]
pub struct Upload {
    pub exists: bool,
    /// When it was complete, after the start of the exchange. `None`: it was never.
    pub complete: Option<Duration>,
}

impl ExchangeEnd<'_> {
    fn took(&self) -> Duration {
        self.ended.saturating_duration_since(self.started)
    }
}

impl Facts {
    /// The facts of an exchange whose route is known from the start.
    pub fn of(route: &Arc<Route>) -> Self {
        Self { route: Some(route.clone()), ..Self::default() }
    }

    /// Notes the endpoint that was picked for an attempt. The attempt now waits for a connection to it.
    pub fn picked(&mut self, attempt: AttemptId, endpoint: &Endpoint, now: Instant) {
        self.tried.insert(endpoint.id);
        self.attempts.pick(attempt, endpoint.address, now);
    }

    /// Notes that an attempt goes to another endpoint than the one that was picked for it, and how it left that one.
    pub fn moved(&mut self, attempt: AttemptId, endpoint: &Endpoint, left: AttemptOutcome, now: Instant) {
        self.tried.insert(endpoint.id);
        self.attempts.moved(attempt, endpoint.address, left, now);
    }

    /// Notes the error with which the sidecar ends the exchange.
    pub fn failed(&mut self, error: &Error) {
        self.reason = Some(error.reason);
        self.detail = Some((&*error.detail).into());
    }

    /// Notes the sentence of an exchange that broke off, where no error has given one.
    #[cold]
    pub fn explain_break(&mut self, under_way: UnderWay) {
        if let Some(reason) = self.reason
            && self.detail.as_ref().is_none_or(|detail| detail.is_empty())
        {
            self.detail = Some(breaks::sentence(reason, under_way, self).into());
        }
    }

    /// The value of the metric label `service`.
    pub fn service(&self, direction: Direction) -> Symbol {
        let route = self.route.as_deref();
        route.map_or_else(|| unmatched_service(direction), |route| route.cluster.symbol)
    }

    /// Counts each attempt at an endpoint of a configured service.
    pub fn count_tries(&self, recorder: &mut Recorder) {
        let Some(cluster) = self.route.as_deref().map(|route| &route.cluster) else { return };
        if cluster.direction() != Direction::Outbound || cluster.symbol == Symbol::PASSTHROUGH {
            return;
        }
        for attempt in self.attempts.all().filter(|attempt| attempt.endpoint.is_some()) {
            let outcome = try_outcome(attempt.outcome);
            recorder.count_try(EndpointLabels {
                service: cluster.symbol,
                endpoint: attempt.endpoint,
                outcome,
            });
        }
    }

    /// Istio's labels, without the status of an answer.
    pub fn istio(
        &self,
        connection: &Connection,
        protocol: IstioProtocol,
        metrics: &Metrics,
        recorder: &mut Recorder,
    ) -> IstioLabels {
        let (direction, is_request) = (connection.direction, protocol != IstioProtocol::Tcp);
        let is_external =
            || self.authorization.is_some_and(|decided| &*metrics.name(decided.rule) == ExtAuthz::NAME);
        let other = match direction {
            Direction::Inbound => connection.peer_label,
            Direction::Outbound => self.server(recorder),
        };
        IstioLabels {
            direction,
            own: recorder.own(),
            service: self.service(direction),
            other,
            protocol,
            status: 0,
            grpc_status: None,
            flag: response_flag(self.reason, is_external, is_request),
            is_mutual: connection.peer.is_some(),
        }
    }

    /// The identity of the last endpoint that was picked, where it is verified. One that was noted before a reload turned TLS
    /// off says nothing of the traffic since.
    fn server(&self, recorder: &mut Recorder) -> Symbol {
        let route = self.route.as_ref().filter(|route| route.cluster.verifies_peers());
        let endpoint = self.attempts.last_picked().and_then(|attempt| attempt.endpoint);
        let known =
            route.zip(endpoint).map(|(route, endpoint)| recorder.server(route.cluster.symbol, endpoint));
        known.unwrap_or(Symbol::EMPTY)
    }

    /// Gives the record of the exchange to those who want it.
    pub fn record(
        &self,
        ended: &ExchangeEnd<'_>,
        connection: &Connection,
        worker: &Worker,
        wanted: Wanted<'_>,
    ) {
        let (metrics, route) = (&worker.ground.metrics, self.route.as_deref());
        let unmatched = route.is_none().then(|| metrics.name(unmatched_service(connection.direction)));
        let service = route.map(|route| &*route.cluster.name).or(unmatched.as_deref());
        // most routes have no name, and the names are behind a lock that workers share
        let name = route.filter(|route| route.name != Symbol::EMPTY).map(|route| metrics.name(route.name));
        let rule = self.authorization.map(|decided| metrics.name(decided.rule));
        let (last, took) = (self.attempts.last_picked(), ended.took());
        let record = Record {
            time: SystemTime::now() - took,
            direction: connection.direction,
            service: service.unwrap_or_default(),
            route: name.as_deref().unwrap_or_default(),
            protocol: ended.protocol,
            request: ended.request,
            reason: self.reason,
            detail: self.detail.as_deref().unwrap_or_default(),
            peer: connection.peer.as_ref().map_or("", |peer| peer.id.as_str()),
            downstream: Some(connection.downstream),
            upstream: last.and_then(|attempt| attempt.endpoint),
            bytes_in: ended.bytes.0,
            bytes_out: ended.bytes.1,
            duration: took,
            upstream_duration: last.and_then(attempts::Attempt::took),
            attempts: self.attempts.made(),
            authorization: self.authorization.map(|decided| decided.decision),
            rule: rule.as_deref().unwrap_or_default(),
        };
        if let Some(log) = wanted.access_log {
            log.write(&record, || self.further(ended, connection));
        }
        let taps = wanted.taps.filter(|taps| taps.has_room());
        let spans = || 1 + self.attempts.all().filter(|attempt| attempt.endpoint.is_some()).count();
        let traces = wanted.traces.filter(|traces| traces.has_room(spans()));
        if wanted.timelines.is_none() && taps.is_none() && traces.is_none() {
            return;
        }
        let frame = frame(&record, ended, connection);
        let stages = stages(self, &frame);
        let mut timeline = Timeline::of(&record, stages);
        if timeline.detail.is_empty() && timeline.is_failure() {
            timeline.detail = answers::sentence(self, &timeline).unwrap_or_default().into();
        }
        let timeline = Arc::new(timeline);
        if let Some(timelines) = wanted.timelines {
            timelines.keep(timeline.clone());
        }
        if let (Some(traces), Some(trace)) = (traces, ended.trace) {
            traces.tell(Traced {
                timeline: timeline.clone(),
                context: trace.context,
                state: trace.state.clone(),
                is_grpc: ended.is_grpc,
                is_tls: connection.is_over_tls(),
                is_tls_upstream: route.is_some_and(|route| route.cluster.tls().is_some()),
                tries: tries(self, &frame),
            });
        }
        if let Some(taps) = taps {
            let headers = ended.headers.and_then(|noted| noted.tapped.clone()).map(Box::new);
            taps.tell(Tapped { timeline, headers });
        }
    }

    /// What a template of the access log may name beside the record.
    fn further<'a>(&self, ended: &ExchangeEnd<'a>, connection: &Connection) -> Further<'a> {
        let first_byte = self.attempts.last_picked().and_then(|attempt| attempt.first_byte);
        let request_duration = match ended.upload {
            _ if ended.protocol == OPAQUE => None,
            Upload { exists: true, complete } => complete,
            Upload { exists: false, .. } => Some(Duration::ZERO),
        };
        Further {
            headers: ended.headers.map(|noted| &noted.logged),
            local: connection.original.or(connection.at),
            request_duration,
            response_duration: first_byte.map(|at| at.saturating_duration_since(ended.started)),
        }
    }
}

/// What the stages need besides the facts.
fn frame<'a>(record: &Record<'a>, ended: &ExchangeEnd<'_>, connection: &Connection) -> Frame<'a> {
    let upload = ended.upload;
    Frame {
        started: ended.started,
        ended: ended.ended,
        request_complete: upload.complete.map(|after| ended.started + after),
        has_body: upload.exists,
        is_opaque: !record.is_request(),
        first: ended.is_first.then(|| Opening {
            handshake: connection.handshake(),
            detection: ended.started.saturating_duration_since(connection.opened),
        }),
        authorizer: ended.authorizer,
        delayed_until: ended.delayed_until,
        status: record.request.status,
        rule: record.rule,
        route: record.route,
        service: record.service,
    }
}

/// Why an opaque connection has no server, and what was tried. The facts are boxed because they are large and failures
/// are rare.
#[derive(Debug)]
pub struct DialFailure {
    pub error: Error,
    pub facts: Box<Facts>,
    /// The deposit of the connection's first try in the retry budget, where a try was made.
    pub deposit: Option<Deposit>,
}

impl DialFailure {
    pub fn new(error: Error, facts: Facts) -> Self {
        Self { error, facts: Box::new(facts), deposit: None }
    }

    /// The failure of an attempt that had already connected.
    pub fn of_attempt(error: Error, attempt: AttemptId, mut facts: Facts) -> Self {
        facts.attempts.end(attempt, AttemptOutcome::Failed(error.reason), Instant::now());
        Self::new(error, facts)
    }
}

/// The outcome of an attempt as the metric of endpoints has it.
const fn try_outcome(of: Option<AttemptOutcome>) -> TryOutcome {
    match of {
        Some(AttemptOutcome::Answered(..500) | AttemptOutcome::Closed) => TryOutcome::Ok,
        Some(AttemptOutcome::Answered(_)) => TryOutcome::Error,
        Some(AttemptOutcome::Refused(_)) => TryOutcome::Refused,
        Some(AttemptOutcome::Failed(Reason::ConnectTimeout) | AttemptOutcome::Expired(_)) => {
            TryOutcome::Timeout
        }
        Some(AttemptOutcome::Failed(Reason::ClientGone) | AttemptOutcome::Outrun) | None => {
            TryOutcome::Cancelled
        }
        Some(AttemptOutcome::Failed(_)) => TryOutcome::Failed,
    }
}

/// The service that is recorded for an exchange without a route: inbound the application, outbound the empty name.
pub const fn unmatched_service(direction: Direction) -> Symbol {
    match direction {
        Direction::Inbound => Symbol::APP,
        Direction::Outbound => Symbol::EMPTY,
    }
}

impl fmt::Display for DialFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl fmt::Debug for Facts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Facts").field("attempts", &self.attempts).finish_non_exhaustive()
    }
}
