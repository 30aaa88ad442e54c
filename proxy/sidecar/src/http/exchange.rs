//! What is known of one exchange (a request and its answer), from its first byte to its last.
//!
//! The layers, the two bodies and the timers share it. [`Exchange::finish`] counts it and writes its access line,
//! exactly once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use http::uri::{Authority, PathAndQuery};
use http::{HeaderValue, StatusCode};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::transfer::{Interim, Observer, Progress, ResponseEnd};
use crate::connection::{Connection, Destination};
use crate::exchange::attempts::{Attempt, AttemptId, AttemptOutcome, Attempts};
use crate::exchange::breaks::UnderWay;
use crate::exchange::{ExchangeEnd, Facts, Upload};
use crate::noted::NotedHeaders;
use crate::state::{DestinationKey, Fixed, Route};
use crate::traces::Trace;
use crate::worker::Worker;
use pillion_base::deadline::Timers;
use pillion_base::error::Error;
use pillion_base::exchanges::ExchangePlace;
use pillion_http::message::{Headers, RequestHead};
use pillion_http1::{Known, Value};
use pillion_model::Reason;
use pillion_telemetry::access::protocol_name;
use pillion_telemetry::timeline::is_failure;
use pillion_telemetry::{
    Flow, IstioLabels, IstioProtocol, MethodLabel, Recorder, RequestLabels, RequestRecord, Symbol,
};
use pillion_upstream::cluster::balance::Tried;
use pillion_upstream::cluster::endpoint::Endpoint;
use pillion_upstream::cluster::hashing::KeyHash;

pub struct Exchange {
    pub worker: Arc<Worker>,
    pub connection: Arc<Connection>,
    pub started: Instant,
    pub request_id: Value,
    pub progress: Progress,
    /// Interim answers (1xx) for the client.
    pub interim: Interim,
    /// A part of an answer has come, at any attempt.
    has_answer_begun: AtomicBool,
    /// No exchange of the connection has begun before.
    is_first: bool,
    /// The error where the exchange got no place (see [`Self::has_place`]).
    refused: Option<Box<Error>>,
    facts: Mutex<RequestFacts>,
}

/// What is collected while the request and its answer pass through the stack.
#[derive(Default)]
pub struct RequestFacts {
    /// The facts that opaque connections have, too.
    pub common: Facts,
    /// Not boxed: the allocation would cost each request 100 instructions.
    pub request: Option<RequestLine>,
    pub is_grpc: bool,
    /// `None`: there are no traces.
    pub trace: Option<Trace>,
    pub method: Option<MethodLabel>,
    status: u16,
    /// The reason of the other sidecar, if that sidecar made the answer of the last try itself.
    pub peer_reason: Option<Box<str>>,
    grpc_status: Option<u8>,
    cut: Option<Reason>,
    /// From when to when the external authorizer was asked; without an end, its answer did not come.
    pub authorizer: Option<(Instant, Option<Instant>)>,
    /// The first attempt was held up until then, by a `fault.delay`.
    pub delayed_until: Option<Instant>,
    /// Its place among all exchanges. It is given back when the exchange ends, although the rest of the request's body
    /// may still be read after that.
    place: Option<ExchangePlace>,
    /// The exchange became a tunnel, whose bytes are counted already.
    tunnelled: bool,
    finished: bool,
}

/// What the record needs of the request; kept only where exchanges are recorded.
pub struct RequestLine {
    /// A method that has no label of its own.
    method: Option<Box<http::Method>>,
    path: Option<PathAndQuery>,
    host: Named,
    version: http::Version,
    /// `None`: nobody wants headers.
    headers: Option<Box<NotedHeaders>>,
}

/// How a request names its host.
enum Named {
    No,
    /// In its target, which goes before `Host`.
    Target(Authority),
    Field(Value),
}

impl Exchange {
    /// Begins an exchange, and takes a place among those of its client if there is one: see [`Self::has_place`].
    #[inline(always)] // it is large, and would be moved twice more
    pub fn new(
        worker: Arc<Worker>,
        connection: Arc<Connection>,
        request_id: Value,
        head_bytes: usize,
    ) -> Self {
        let place = connection.place_for_exchange(head_bytes, &worker.ground);
        Self::in_place(worker, connection, request_id, place)
    }

    /// Begins an exchange with a place that was taken before.
    #[inline(always)] // it is large, and would be moved twice more
    pub fn in_place(
        worker: Arc<Worker>,
        connection: Arc<Connection>,
        request_id: Value,
        place: Result<Option<ExchangePlace>, Error>,
    ) -> Self {
        let started = Instant::now();
        let is_first = connection.begin();
        let (place, refused) = match place {
            Ok(place) => (place, None),
            Err(error) => (None, Some(Box::new(error))),
        };
        Self {
            worker,
            connection,
            started,
            request_id,
            progress: Progress::new(started),
            interim: Interim::default(),
            has_answer_begun: AtomicBool::new(false),
            is_first,
            refused,
            facts: Mutex::new(RequestFacts {
                common: Facts { attempts: Attempts::begun(), ..Facts::default() },
                place,
                ..RequestFacts::default()
            }),
        }
    }

    /// Checks that the exchange got a place.
    ///
    /// # Errors
    /// See [`Connection::place_for_exchange`].
    pub fn has_place(&self) -> Result<(), Error> {
        self.refused.as_ref().map_or(Ok(()), |error| Err((**error).clone()))
    }

    /// Whether a part of an answer has come, although there may be no answer. An answer that came whole need not be told.
    pub fn has_answer_begun(&self) -> bool {
        self.has_answer_begun.load(Relaxed)
    }

    pub fn note(&self, what: impl FnOnce(&mut RequestFacts)) {
        what(&mut self.facts.lock());
    }

    pub fn was_cut(&self) -> Option<Reason> {
        self.facts.lock().cut
    }

    /// `x-forwarded-client-cert` for the application. A certificate of a client outside the mesh is left out where the current
    /// rules do not verify such certificates any more.
    pub fn client_cert(&self) -> Option<&HeaderValue> {
        let connection = &self.connection;
        let is_verified = || match &connection.destination {
            Destination::Route(Fixed { key: DestinationKey::Application(of), .. }) => {
                self.worker.state.load().verifies_outside(*of)
            }
            _ => false,
        };
        connection.client_cert.as_ref().filter(|_| connection.outside.is_none() || is_verified())
    }

    /// Room for bytes that are held for the exchange beside its head. `None`: they are not counted.
    pub fn room(&self) -> Option<ExchangePlace> {
        self.facts.lock().place.as_ref().map(ExchangePlace::beside)
    }

    /// What an endpoint is picked by: the endpoints that were tried, and the request's key.
    pub fn tried(&self) -> (Tried, Option<KeyHash>) {
        let facts = &self.facts.lock().common;
        (facts.tried, facts.key)
    }

    /// Notes the endpoint that was picked for an attempt. The attempt now waits for a connection to it.
    pub fn picked(&self, attempt: AttemptId, endpoint: &Endpoint, now: Instant) {
        self.facts.lock().common.picked(attempt, endpoint, now);
    }

    /// Notes that an attempt goes to another endpoint than the one that was picked for it, and how it left that one.
    pub fn moved(&self, attempt: AttemptId, endpoint: &Endpoint, left: AttemptOutcome, now: Instant) {
        self.facts.lock().common.moved(attempt, endpoint, left, now);
    }

    pub fn begin_attempt(&self) -> AttemptId {
        self.facts.lock().common.attempts.begin()
    }

    /// Notes the progress of an attempt.
    pub fn note_attempt(&self, id: AttemptId, what: impl FnOnce(&mut Attempt)) {
        self.facts.lock().common.attempts.note(id, what);
    }

    /// Ends an attempt, if it has not ended before. Returns its outcome.
    pub fn end_attempt(
        &self,
        id: AttemptId,
        outcome: AttemptOutcome,
        now: Instant,
    ) -> Option<AttemptOutcome> {
        let attempts = &mut self.facts.lock().common.attempts;
        attempts.end(id, outcome, now);
        attempts.find(id)?.outcome
    }

    /// Whether the head of this attempt was handed to a connection.
    pub fn was_sent(&self, id: AttemptId) -> bool {
        self.facts.lock().common.attempts.find(id).is_some_and(|attempt| attempt.sent.is_some())
    }

    /// Notes that another attempt, made beside this one, gave the answer.
    pub fn lose_attempt(&self, id: AttemptId, now: Instant) {
        self.facts.lock().common.attempts.lose(id, now);
    }

    /// Ends all attempts, because a timeout of the whole request has expired.
    pub fn expire(&self, reason: Reason) {
        self.facts.lock().common.attempts.expire_all(reason, Instant::now());
    }

    /// Writes the headers that tell the next hop of the trace, if there is one.
    pub fn write_trace(&self, attempt: AttemptId, headers: &mut Headers) {
        if self.worker.traces.is_on()
            && let Some(trace) = &self.facts.lock().trace
        {
            trace.write(attempt.number(), headers);
        }
    }

    /// The trace of a copy of the request.
    pub fn trace_beside(&self) -> Option<Trace> {
        let facts = self.facts.lock();
        facts.trace.as_ref().map(|trace| trace.beside(self.worker.ground.rng.lock().u64(..)))
    }

    /// The request's ID, as text for the log.
    pub fn id(&self) -> &str {
        self.request_id.as_str().unwrap_or_default()
    }

    /// Notes the route. From here on the exchange counts as active for its cluster.
    pub fn routed(&self, route: &Arc<Route>) {
        route.cluster.metrics().active().inc();
        self.facts.lock().common.route = Some(route.clone());
    }

    /// The route, once it is known.
    pub fn route(&self) -> Option<Arc<Route>> {
        self.facts.lock().common.route.clone()
    }

    pub fn is_head(&self) -> bool {
        self.facts.lock().method == Some(MethodLabel::Head)
    }

    /// Notes the error that the sidecar answers itself.
    pub fn failed(&self, error: &Error) {
        self.facts.lock().common.failed(error);
    }

    /// Notes the reason of a verified sidecar that made the answer of the last try itself; `None`: it did not.
    pub fn answered_by_sidecar(&self, reason: Option<&str>) {
        self.facts.lock().peer_reason = reason.map(Into::into);
    }

    pub fn client_gone(&self) {
        let mut facts = self.facts.lock();
        facts.common.reason = Some(Reason::ClientGone);
        facts.status = GONE;
    }

    /// Notes that the answer's headers are sent.
    pub fn headers_sent(&self, status: StatusCode, grpc_status: Option<u8>) {
        let now = Instant::now();
        let mut facts = self.facts.lock();
        facts.status = status.as_u16();
        facts.grpc_status = grpc_status;
        let upstream = facts.common.attempts.upstream_time();
        let own = (now - self.started).saturating_sub(upstream.unwrap_or_default());
        self.worker.overhead(self.connection.direction).observe(own.as_secs_f64());
    }

    /// Notes the headers of the answer, where those of the request are noted.
    pub fn note_headers(&self, headers: &Headers) {
        if self.worker.wants_headers() {
            let mut facts = self.facts.lock();
            if let Some(noted) = facts.request.as_mut().and_then(|line| line.headers.as_deref_mut()) {
                noted.answered(headers, &self.worker);
            }
        }
    }

    fn labels(&self, facts: &RequestFacts) -> RequestLabels {
        let direction = self.connection.direction;
        RequestLabels {
            direction,
            service: facts.common.service(direction),
            route: facts.common.route.as_ref().map_or(Symbol::EMPTY, |route| route.name),
            method: facts.method.unwrap_or(MethodLabel::Other),
            status: facts.status,
            grpc_status: facts.grpc_status,
            reason: facts.common.reason,
            peer: self.connection.peer_label,
        }
    }

    /// Counts for `metrics.endpoints` and `metrics.compatibility`.
    fn count_optional(&self, facts: &RequestFacts, took: Duration, sent: u64, recorder: &mut Recorder) {
        if self.worker.has_endpoint_metrics {
            facts.common.count_tries(recorder);
        }
        if self.worker.has_istio_metrics {
            let labels = self.istio(facts, recorder);
            recorder.count_istio(labels, took.as_secs_f64(), (self.progress.bytes(), sent));
        }
    }

    fn istio(&self, facts: &RequestFacts, recorder: &mut Recorder) -> IstioLabels {
        let protocol = if facts.is_grpc { IstioProtocol::Grpc } else { IstioProtocol::Http };
        IstioLabels {
            status: facts.status,
            grpc_status: facts.grpc_status,
            ..facts.common.istio(&self.connection, protocol, &self.worker.ground.metrics, recorder)
        }
    }

    /// Gives the record to those who want it.
    fn record(&self, facts: &RequestFacts, ending: ResponseEnd, ended: Instant, took: Duration) {
        let Some(line) = &facts.request else { return };
        let (reason, has_peer_reason) = (facts.common.reason, facts.peer_reason.is_some());
        let is_notable =
            reason.is_some() || has_peer_reason || is_failure(reason, facts.status, facts.grpc_status);
        let slow = if facts.tunnelled { Duration::ZERO } else { took };
        let trace = facts.trace.as_ref();
        let is_traced = trace.is_some_and(|trace| trace.context.is_sampled);
        if let (Some(trace), true) = (trace, is_traced && facts.common.route.is_some()) {
            let of = (self.connection.direction, facts.common.service(self.connection.direction));
            self.worker.ground.metrics.note_exemplar(of, ended - self.started, trace.context.trace);
        }
        let wanted = self.worker.wanted(is_notable, slow, is_traced);
        if wanted.by_nobody() {
            return;
        }
        let request = RequestRecord {
            method: line.method.as_deref().map_or_else(|| known_method(facts.method), http::Method::as_str),
            path: line.path.as_ref().map_or("/", |path| path.as_str()).as_bytes(),
            host: line.host(),
            request_id: self.request_id.as_bytes(),
            status: facts.status,
            grpc_status: facts.grpc_status,
            trace: trace.map(|trace| trace.context.trace),
            peer_reason: facts.peer_reason.as_deref().unwrap_or_default(),
        };
        let bytes = (self.progress.bytes(), ending.bytes);
        let ended = ExchangeEnd {
            protocol: protocol_name(line.version),
            request,
            bytes,
            started: self.started,
            ended,
            upload: Upload { exists: self.progress.has_body(), complete: self.progress.view().complete },
            is_first: self.is_first,
            authorizer: facts.authorizer,
            delayed_until: facts.delayed_until,
            headers: line.headers.as_deref(),
            trace,
            is_grpc: facts.is_grpc,
        };
        facts.common.record(&ended, &self.connection, &self.worker, wanted);
    }
}

impl RequestFacts {
    /// What was under way if the exchange broke off now.
    const fn under_way(&self) -> UnderWay {
        match self.status {
            _ if self.tunnelled => UnderWay::Bytes,
            GONE => UnderWay::Wait,
            _ => UnderWay::Answer,
        }
    }
}

/// The status of a request whose client left before it was answered.
const GONE: u16 = Reason::ClientGone.status();

/// The text of a method that has a label.
fn known_method(label: Option<MethodLabel>) -> &'static str {
    label.map_or("", MethodLabel::as_str)
}

impl RequestLine {
    pub fn of(head: &RequestHead, method: MethodLabel, worker: &Worker) -> Self {
        Self {
            method: (method == MethodLabel::Other).then(|| Box::new(head.method.clone())),
            path: head.uri.path_and_query().cloned(),
            host: match head.uri.authority() {
                Some(authority) => Named::Target(authority.clone()),
                None => head.headers.value(Known::Host).map_or(Named::No, Named::Field),
            },
            version: head.version,
            headers: NotedHeaders::of_request(&head.headers, worker),
        }
    }

    fn host(&self) -> &[u8] {
        match &self.host {
            Named::No => &[],
            Named::Target(authority) => authority.as_str().as_bytes(),
            Named::Field(host) => host.as_bytes(),
        }
    }

    /// The value of `Host`, where the target names no host.
    pub fn host_field(&self) -> Option<&Value> {
        match &self.host {
            Named::Field(host) => Some(host),
            Named::No | Named::Target(_) => None,
        }
    }
}

impl Observer for Exchange {
    fn started(&self) -> Instant {
        self.started
    }

    fn progress(&self) -> &Progress {
        &self.progress
    }

    fn interim(&self) -> &Interim {
        &self.interim
    }

    fn timers(&self) -> &Timers {
        &self.worker.ground.timers
    }

    fn answer_began(&self) {
        self.has_answer_begun.store(true, Relaxed);
    }

    fn cut(&self, reason: Reason) {
        self.facts.lock().cut = Some(reason);
    }

    fn was_tunnel(&self, received: u64) {
        self.progress.moved(received);
        self.facts.lock().tunnelled = true;
    }

    /// Ends the exchange: counts it and writes its access line. Further calls do nothing.
    fn finish(&self, ending: ResponseEnd) {
        let mut facts = self.facts.lock();
        if std::mem::replace(&mut facts.finished, true) {
            return;
        }
        facts.place = None;
        facts.common.reason = facts.common.reason.or(ending.reason);
        if facts.common.reason.is_some() {
            let under_way = facts.under_way();
            facts.common.explain_break(under_way);
        }
        facts.grpc_status = ending.grpc_status.or(facts.grpc_status).filter(|_| facts.is_grpc);
        self.connection.end();
        let ended = Instant::now();
        let took = ended - self.started;
        if let Some(route) = &facts.common.route {
            let metrics = route.cluster.metrics();
            metrics.active().dec();
            let seconds = took.as_secs_f64();
            metrics.duration().observe(seconds);
            route.observe(seconds, &self.worker.ground.metrics);
            if !facts.tunnelled {
                metrics.bytes(Flow::Received).inc_by(self.progress.bytes());
                metrics.bytes(Flow::Sent).inc_by(ending.bytes);
            }
        }
        let mut recorder = self.worker.recorder.lock();
        recorder.count(self.labels(&facts));
        if self.worker.has_endpoint_metrics || self.worker.has_istio_metrics {
            self.count_optional(&facts, took, ending.bytes, &mut recorder);
        }
        drop(recorder);
        tracing::debug!(
            request = self.id(),
            status = facts.status,
            reason = facts.common.reason.map_or("", Reason::code),
            attempts = facts.common.attempts.made(),
            ?took,
            "request ended"
        );
        self.record(&facts, ending, ended, took);
    }
}
