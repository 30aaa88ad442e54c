//! A request on its way through the stack, with the policy that travels with it, and the seam between two layers.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use tokio::time::Instant;
use tower::Service;

use super::exchange::{Exchange, RequestLine};
use super::{Body, Response, tunnel};
use crate::exchange::attempts::AttemptId;
use crate::state::Route;
use pillion_base::error::Error;
use pillion_base::limits::Permit;
use pillion_http::message::RequestHead;
use pillion_http::seen::Seen;
use pillion_http1::Known;

/// Boxed once and passed by pointer: eight layers would otherwise move half a kilobyte each.
pub struct Call {
    /// Shared with what a further try is made of: who changes it then gets a copy ([`Call::head_mut`]).
    pub head: Arc<RequestHead>,
    pub body: Body,
    /// What `head` held when it came.
    pub seen: Seen,
    pub common: RequestContext,
    /// Which attempt of its exchange this is.
    pub attempt: AttemptId,
    /// Counts the first try and the retries, from 1. A replacement has the number of what it replaces.
    pub number: u32,
    /// Bound of this try; `None` for the last one.
    pub per_try: Option<Duration>,
    /// One of `max_requests`, given back with the last byte of the answer.
    pub permit: Option<Permit>,
}

/// What every attempt of a request has in common: a retry, a hedge or a mirror is made of this, a head and a body.
#[derive(Clone)]
pub struct RequestContext {
    pub exchange: Arc<Exchange>,
    /// Set by `layers::route`; the layers below read their policy here.
    pub route: Option<Arc<Route>>,
    /// The host the request is for: `Host` towards HTTP/1, `:authority` towards HTTP/2.
    pub host: Option<HeaderValue>,
    /// The head has `host` as its only `Host` already.
    pub names_host: bool,
    pub is_grpc: bool,
    /// The client waits to be asked for its body (`Expect: 100-continue`).
    pub waits_to_send: bool,
    /// It shall become a tunnel.
    pub tunnel: Option<Box<tunnel::TunnelKind>>,
    /// It came as a retry of somebody before us (`x-pillion-attempt` above 1): not retried once more.
    pub marked: bool,
    /// `x-pillion-via` as it came, from a sidecar that is believed.
    pub via: Option<HeaderValue>,
    /// How many times it has come through here, this time included.
    pub passes: u32,
    /// When the whole must have its headers; sent on as `grpc-timeout`.
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
        let common = RequestContext {
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
        };
        let attempt = AttemptId::FIRST;
        Box::new(Self { head, body, seen, common, attempt, number: 1, per_try: None, permit: None })
    }
}

impl Call {
    pub fn head_mut(&mut self) -> &mut RequestHead {
        Arc::make_mut(&mut self.head)
    }

    /// Tells the exchange what metrics and access log say of the request.
    pub fn note_request(&self) {
        let exchange = &self.common.exchange;
        exchange.note(|facts| {
            facts.method = Some((&self.head.method).into());
            facts.is_grpc = self.common.is_grpc;
            if exchange.worker.access_log.is_some() {
                facts.request = Some(Box::new(RequestLine {
                    method: self.head.method.clone(),
                    uri: self.head.uri.clone(),
                    host: self.head.headers.value(Known::Host),
                    version: self.head.version,
                }));
            }
        });
    }
}

impl RequestContext {
    /// A further call of the same exchange.
    pub fn call(&self, head: Arc<RequestHead>, seen: Seen, body: Body) -> Box<Call> {
        let attempt = self.exchange.begin_attempt();
        Box::new(Call {
            head,
            body,
            seen,
            common: self.clone(),
            attempt,
            number: 1,
            per_try: None,
            permit: None,
        })
    }
}

/// Why a call has no answer, and the call itself where nothing of it was sent.
pub struct FailedCall {
    pub error: Error,
    /// As good as new: the retry layer may send it elsewhere, whatever its method and body.
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

/// A stack, or the rest of one, below the rescue.
pub trait HttpService:
    Service<Box<Call>, Response = Response, Error = FailedCall, Future: Send> + Clone + Send + 'static
{
}

impl<S> HttpService for S where
    S: Service<Box<Call>, Response = Response, Error = FailedCall, Future: Send> + Clone + Send + 'static
{
}

/// A whole stack: every call is answered.
pub trait AnsweringService:
    Service<Box<Call>, Response = Response, Error = Infallible, Future: Send> + Clone + Send + 'static
{
}

impl<S> AnsweringService for S where
    S: Service<Box<Call>, Response = Response, Error = Infallible, Future: Send> + Clone + Send + 'static
{
}
