//! A request on its way through the stack, with the policy that travels with it.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use http::request::Parts;
use tokio::time::Instant;

use super::exchange::Exchange;
use super::{Body, tunnel};
use crate::cluster::limits::Permit;
use crate::state::Route;

/// Boxed once and passed by pointer: eight layers would otherwise move half a kilobyte each.
pub(crate) struct Call {
    pub(crate) head: Parts,
    pub(crate) body: Body,
    pub(crate) exchange: Arc<Exchange>,
    /// Set by `layers::route`; the layers below read their policy here.
    pub(crate) route: Option<Arc<Route>>,
    /// The host the request is for: `Host` towards HTTP/1, `:authority` towards HTTP/2.
    pub(crate) host: Option<HeaderValue>,
    pub(crate) is_grpc: bool,
    /// The client waits to be asked for its body (`Expect: 100-continue`).
    pub(crate) waits_to_send: bool,
    /// It shall become a tunnel.
    pub(crate) tunnel: Option<Box<tunnel::Kind>>,
    /// One for the first try.
    pub(crate) attempt: u32,
    /// It came as a retry of somebody before us (`x-pillion-attempt` above 1): not retried once more.
    pub(crate) marked: bool,
    /// Bound of this try; `None` for the last one.
    pub(crate) per_try: Option<Duration>,
    /// `x-pillion-via`, for sidecars alone.
    pub(crate) via: Option<HeaderValue>,
    /// When the whole must have its headers; sent on as `grpc-timeout`.
    pub(crate) deadline: Option<Instant>,
    /// One of `max_requests`, given back with the last byte of the answer.
    pub(crate) permit: Option<Permit>,
}

impl Call {
    pub(crate) fn new(request: http::Request<Body>, exchange: Arc<Exchange>) -> Box<Self> {
        let (head, body) = request.into_parts();
        let is_grpc = super::headers::is_grpc(&head.headers);
        Box::new(Self {
            head,
            body,
            exchange,
            route: None,
            host: None,
            is_grpc,
            waits_to_send: false,
            tunnel: None,
            attempt: 1,
            marked: false,
            per_try: None,
            via: None,
            deadline: None,
            permit: None,
        })
    }
}
