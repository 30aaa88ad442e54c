//! A request inside the stack, with its policy, and the traits of the services between two layers.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tower::Service;

use super::exchange::{Exchange, RequestFacts, RequestLine};
use super::{Body, Response, tunnel};
use crate::exchange::attempts::AttemptId;
use crate::state::Route;
use pillion_base::boxed::boxed;
use pillion_base::error::Error;
use pillion_base::limits::Permit;
use pillion_http::message::{Headers, RequestHead};
use pillion_http::seen::Seen;
use pillion_http1::Value;

/// One attempt of a request. It is boxed once and passed by pointer; otherwise each of eight layers would move half a
/// kilobyte.
pub struct Call {
    /// Shared with what is kept for a further try. [`Call::head_mut`] copies a shared head before a change.
    pub head: Arc<RequestHead>,
    pub body: Body,
    /// Which headers `head` had when the request came.
    pub seen: Seen,
    pub common: RequestContext,
    /// The attempt of the exchange that this call is.
    pub attempt: AttemptId,
    /// The number of the try: 1 is the first, retries follow. A replacement has the number of the try that it replaces.
    pub number: u32,
    /// The timeout of this try; `None` for the last one.
    pub per_try: Option<Duration>,
    /// A permit of `max_requests`, held until the last byte of the answer.
    pub permit: Option<Permit>,
}

/// What all attempts of a request have in common. A retry, a hedge or a mirror is made of this, a head and
/// a body.
#[derive(Clone)]
pub struct RequestContext {
    pub exchange: Arc<Exchange>,
    /// Set by `layers::route`; the layers below read their policy here.
    pub route: Option<Arc<Route>>,
    /// The host of the request, sent as `Host` over HTTP/1 and as `:authority` over HTTP/2. Before the route it may be
    /// missing, and has not been checked.
    pub host: Option<Value>,
    /// The head has `host` already, as its only `Host`.
    pub names_host: bool,
    pub is_grpc: bool,
    /// The client sends the body only after a 100 (`Expect: 100-continue`).
    pub waits_to_send: bool,
    /// The tunnel that the request asks for.
    pub tunnel: Option<Box<tunnel::TunnelKind>>,
    /// The request is a retry of an earlier sidecar (`x-pillion-attempt` above 1), so it is not retried here.
    pub marked: bool,
    /// `x-pillion-via` as it came from a trusted sidecar.
    pub via: Option<Value>,
    /// How many times the request has passed through this sidecar, including this time.
    pub passes: u32,
    /// When the answer's headers must have come, over all attempts; sent on as `grpc-timeout`.
    pub deadline: Option<Instant>,
}

impl Call {
    /// The first call of an exchange.
    #[inline] // the head is large, and would be moved once more
    pub fn new(
        head: impl Into<Arc<RequestHead>>,
        body: Body,
        seen: Seen,
        exchange: Arc<Exchange>,
    ) -> Box<Self> {
        let head = head.into();
        let is_grpc = super::headers::is_grpc(&head.headers, &seen);
        boxed(|| Self {
            head,
            body,
            seen,
            common: RequestContext {
                exchange,
                route: None,
                host: None,
                names_host: false,
                is_grpc,
                waits_to_send: false,
                tunnel: None,
                marked: false,
                via: None,
                passes: 0,
                deadline: None,
            },
            attempt: AttemptId::FIRST,
            number: 1,
            per_try: None,
            permit: None,
        })
    }
}

impl Call {
    /// The head, to be changed. A head that a further try shares is copied first.
    pub fn head_mut(&mut self) -> &mut RequestHead {
        Arc::make_mut(&mut self.head)
    }

    /// Notes in the exchange what metrics and records need of the request.
    pub fn note_request(&mut self) {
        let Self { head, common, seen, .. } = self;
        let (exchange, host, is_grpc) = (&common.exchange, &mut common.host, common.is_grpc);
        exchange.note(|facts| {
            let method = (&head.method).into();
            facts.method = Some(method);
            facts.is_grpc = is_grpc;
            let is_traced =
                exchange.worker.traces.is_on() && begin_trace(facts, exchange, &head.headers, *seen);
            if exchange.worker.records() || is_traced {
                let line = facts.request.insert(RequestLine::of(head, method, &exchange.worker));
                if host.is_none() {
                    *host = line.host_field().cloned(); // it is looked for once
                }
            }
        });
    }
}

/// Begins the trace, unless the request is a copy, whose trace has begun. Returns whether it is recorded.
#[inline(never)] // few sidecars trace
fn begin_trace(facts: &mut RequestFacts, exchange: &Exchange, headers: &Headers, seen: Seen) -> bool {
    if facts.trace.is_none() {
        let draw = || exchange.worker.ground.rng.lock().u64(..);
        facts.trace = exchange.worker.traces.begin(headers, seen, draw);
    }
    facts.trace.as_ref().is_some_and(|trace| trace.context.is_sampled)
}

impl RequestContext {
    /// A further call of the same exchange.
    pub fn call(&self, head: Arc<RequestHead>, seen: Seen, body: Body) -> Box<Call> {
        let attempt = self.exchange.begin_attempt();
        Box::new(Call { attempt, ..*self.clone().first_call(head, seen, body) })
    }

    /// The first call of an exchange without a client's connection, such as that of a mirror.
    pub fn first_call(self, head: Arc<RequestHead>, seen: Seen, body: Body) -> Box<Call> {
        Box::new(Call {
            head,
            body,
            seen,
            common: self,
            attempt: AttemptId::FIRST,
            number: 1,
            per_try: None,
            permit: None,
        })
    }
}

/// Why a call has no answer, and the call itself where nothing of it was sent.
pub struct FailedCall {
    pub error: Error,
    /// The unchanged call: the retry layer may send it elsewhere, with any method and body.
    pub unsent: Option<Box<Call>>,
}

impl FailedCall {
    /// Gives the call back to the retry layer.
    pub const fn untouched(error: Error, call: Box<Call>) -> Self {
        Self { error, unsent: Some(call) }
    }
}

impl From<Error> for FailedCall {
    fn from(error: Error) -> Self {
        Self { error, unsent: None }
    }
}

impl std::fmt::Debug for FailedCall {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FailedCall").field("error", &self.error).finish_non_exhaustive()
    }
}

/// A part of a stack below the rescue layer: a call may fail.
pub trait HttpService:
    Service<Box<Call>, Response = Response, Error = FailedCall, Future: Send> + Clone + Send + 'static
{
}

impl<S> HttpService for S where
    S: Service<Box<Call>, Response = Response, Error = FailedCall, Future: Send> + Clone + Send + 'static
{
}

/// A whole stack: every call gets an answer.
pub trait AnsweringService:
    Service<Box<Call>, Response = Response, Error = Infallible, Future: Send> + Clone + Send + 'static
{
}

impl<S> AnsweringService for S where
    S: Service<Box<Call>, Response = Response, Error = Infallible, Future: Send> + Clone + Send + 'static
{
}
