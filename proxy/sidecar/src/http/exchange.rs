//! What is known of one exchange (a request and its answer), from its first byte to its last.
//!
//! Shared by the layers, the two bodies and the timers; ends as a metric and an access line in
//! [`Exchange::finish`], exactly once.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::{HeaderValue, StatusCode};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::attempts::{Attempt, AttemptId, Attempts, Outcome};
use super::transfer::{Ending, Interim, Observer, Progress};
use crate::connection::Connection;
use crate::state::Route;
use crate::worker::Worker;
use pillion_base::deadline::Timers;
use pillion_base::error::Error;
use pillion_http::flush::Flush;
use pillion_model::Direction;
use pillion_model::Reason;
use pillion_telemetry::access::protocol_name;
use pillion_telemetry::{Flow, MethodLabel, Record, RequestLabels, Symbol};
use pillion_upstream::cluster::balance::Tried;
use pillion_upstream::cluster::endpoint::Endpoint;

pub struct Exchange {
    pub worker: Arc<Worker>,
    pub connection: Arc<Connection>,
    pub started: Instant,
    pub request_id: HeaderValue,
    pub progress: Progress,
    /// What the client hears before its answer.
    pub interim: Interim,
    facts: Mutex<Facts>,
}

/// Collected on the way down and up.
#[derive(Default)]
pub struct Facts {
    route: Option<Arc<Route>>,
    pub request: Option<Box<RequestLine>>,
    pub is_grpc: bool,
    pub method: Option<MethodLabel>,
    status: u16,
    reason: Option<Reason>,
    detail: Option<Box<str>>,
    /// Why the other sidecar made the answer of the last try, where it did.
    pub peer_reason: Option<Box<str>>,
    attempts: Attempts,
    tried: Tried,
    grpc_status: Option<u8>,
    cut: Option<Reason>,
    /// Its bytes are counted already.
    tunnelled: bool,
    finished: bool,
}

/// What the access log says of the request; kept only where there is a log.
pub struct RequestLine {
    pub method: http::Method,
    pub uri: http::Uri,
    pub host: Option<HeaderValue>,
    pub version: http::Version,
}

impl Exchange {
    pub fn new(worker: Arc<Worker>, connection: Arc<Connection>, request_id: HeaderValue) -> Self {
        let started = Instant::now();
        connection.begin();
        Self {
            worker,
            connection,
            started,
            request_id,
            progress: Progress::new(started),
            interim: Interim::default(),
            facts: Mutex::new(Facts { attempts: Attempts::begun(), ..Facts::default() }),
        }
    }

    pub fn note(&self, what: impl FnOnce(&mut Facts)) {
        what(&mut self.facts.lock());
    }

    pub fn was_cut(&self) -> Option<Reason> {
        self.facts.lock().cut
    }

    /// The endpoints that had their chance.
    pub fn tried(&self) -> Tried {
        self.facts.lock().tried
    }

    /// An endpoint was picked for an attempt, which now waits for a connection to it.
    pub fn picked(&self, attempt: AttemptId, endpoint: &Endpoint, now: Instant) {
        let mut facts = self.facts.lock();
        facts.tried.insert(endpoint.id);
        facts.attempts.note(attempt, |attempt| {
            (attempt.endpoint, attempt.queued) = (Some(endpoint.address), Some(now));
        });
    }

    pub fn begin_attempt(&self) -> AttemptId {
        self.facts.lock().attempts.begin()
    }

    /// How far an attempt has come.
    pub fn note_attempt(&self, id: AttemptId, what: impl FnOnce(&mut Attempt)) {
        self.facts.lock().attempts.note(id, what);
    }

    /// Ends an attempt. Returns how it ended: one that has ended before stays as it was.
    pub fn end_attempt(&self, id: AttemptId, outcome: Outcome, now: Instant) -> Option<Outcome> {
        let mut facts = self.facts.lock();
        facts.attempts.end(id, outcome, now);
        facts.attempts.find(id)?.outcome
    }

    /// The time of the whole request is over: no attempt goes on.
    pub fn expire(&self, reason: Reason) {
        self.facts.lock().attempts.expire_all(reason, Instant::now());
    }

    /// The request's id, as the log tells it.
    pub fn id(&self) -> &str {
        self.request_id.to_str().unwrap_or_default()
    }

    /// A route is known: from here on the exchange counts as active for its cluster.
    pub fn routed(&self, route: &Arc<Route>) {
        route.cluster.metrics().active().inc();
        self.facts.lock().route = Some(route.clone());
    }

    pub fn is_head(&self) -> bool {
        self.facts.lock().method == Some(MethodLabel::Head)
    }

    /// The sidecar answers itself.
    pub fn failed(&self, error: &Error) {
        let mut facts = self.facts.lock();
        facts.reason = Some(error.reason);
        facts.detail = Some((&*error.detail).into());
    }

    /// The last try was answered by a verified sidecar; with its reason where that made the answer itself.
    pub fn answered_by_sidecar(&self, reason: Option<&str>) {
        if let Some(reason) = reason {
            self.facts.lock().peer_reason = Some(reason.into());
        }
    }

    pub fn client_gone(&self) {
        let mut facts = self.facts.lock();
        facts.reason = Some(Reason::ClientGone);
        facts.status = Reason::ClientGone.status();
    }

    /// The answer's headers are on their way.
    pub fn headers_sent(&self, status: StatusCode, grpc_status: Option<u8>) {
        let now = Instant::now();
        let mut facts = self.facts.lock();
        facts.status = status.as_u16();
        facts.grpc_status = grpc_status;
        let upstream = facts.attempts.last_picked().and_then(Attempt::took);
        let own = (now - self.started).saturating_sub(upstream.unwrap_or_default());
        self.worker.overhead(self.connection.direction).observe(own.as_secs_f64());
    }

    fn labels(&self, facts: &Facts) -> RequestLabels {
        let route = facts.route.as_deref();
        RequestLabels {
            direction: self.connection.direction,
            service: route.map_or_else(|| nobodys(self.connection.direction), |route| route.cluster.symbol),
            route: route.map_or(Symbol::EMPTY, |route| route.name),
            method: facts.method.unwrap_or(MethodLabel::Other),
            status: facts.status,
            grpc_status: facts.grpc_status,
            reason: facts.reason,
            peer: self.connection.peer_label,
        }
    }

    fn log(&self, facts: &Facts, ending: Ending, took: Duration) {
        let Some(log) = &self.worker.access_log else { return };
        let Some(request) = &facts.request else { return };
        let is_error = facts.reason.is_some() || facts.peer_reason.is_some() || facts.status >= 500;
        if !log.wants(is_error) {
            return;
        }
        let path = request.uri.path_and_query().map_or("/", |path| path.as_str());
        let host = request.uri.authority().map(|host| host.as_str().as_bytes());
        let host = host.or_else(|| request.host.as_ref().map(HeaderValue::as_bytes));
        let metrics = &self.worker.ground.metrics;
        let route = facts.route.as_deref().map(|route| (metrics.name(route.name), &*route.cluster.name));
        let last = facts.attempts.last_picked();
        log.write(&Record {
            time: SystemTime::now() - took,
            direction: self.connection.direction,
            service: route.as_ref().map_or("", |(_, service)| service),
            route: route.as_ref().map_or("", |(route, _)| route),
            method: request.method.as_str(),
            path: path.as_bytes(),
            host: host.unwrap_or_default(),
            protocol: protocol_name(request.version),
            status: facts.status,
            grpc_status: facts.grpc_status,
            reason: facts.reason,
            peer_reason: facts.peer_reason.as_deref().unwrap_or_default(),
            detail: facts.detail.as_deref().unwrap_or_default(),
            peer: self.connection.peer.as_ref().map_or("", |peer| peer.id.as_str()),
            downstream: Some(self.connection.downstream),
            upstream: last.and_then(|attempt| attempt.endpoint),
            request_id: self.request_id.as_bytes(),
            bytes_in: self.progress.bytes(),
            bytes_out: ending.bytes,
            duration: took,
            upstream_duration: last.and_then(Attempt::took),
            attempts: facts.attempts.total(),
        });
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

    fn flush(&self) -> &Flush {
        &self.connection.flush
    }

    fn timers(&self) -> &Timers {
        &self.worker.ground.timers
    }

    fn cut(&self, reason: Reason) {
        self.facts.lock().cut = Some(reason);
    }

    fn was_tunnel(&self, received: u64) {
        self.progress.moved(received);
        self.facts.lock().tunnelled = true;
    }

    /// The one end of every exchange: counts it and writes its line.
    fn finish(&self, ending: Ending) {
        let mut facts = self.facts.lock();
        if std::mem::replace(&mut facts.finished, true) {
            return;
        }
        facts.reason = facts.reason.or(ending.reason);
        facts.grpc_status = ending.grpc_status.or(facts.grpc_status).filter(|_| facts.is_grpc);
        self.connection.end();
        let took = self.started.elapsed();
        if let Some(route) = &facts.route {
            let metrics = route.cluster.metrics();
            metrics.active().dec();
            metrics.duration().observe(took.as_secs_f64());
            if !facts.tunnelled {
                metrics.bytes(Flow::Received).inc_by(self.progress.bytes());
                metrics.bytes(Flow::Sent).inc_by(ending.bytes);
            }
        }
        self.worker.recorder.lock().count(self.labels(&facts));
        tracing::debug!(
            request = self.id(),
            status = facts.status,
            reason = facts.reason.map_or("", Reason::code),
            attempts = facts.attempts.total(),
            ?took,
            "request ended"
        );
        self.log(&facts, ending, took);
    }
}

/// The `service` of what went to none: inbound there is only the application.
pub const fn nobodys(direction: Direction) -> Symbol {
    match direction {
        Direction::Inbound => Symbol::APP,
        Direction::Outbound => Symbol::EMPTY,
    }
}
