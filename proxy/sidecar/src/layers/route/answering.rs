//! Applies what a route does to its answers: a rate limit, an answer of its own, changed headers.

use std::sync::Arc;

use http::StatusCode;
use pillion_http1::Known;
use pillion_model::route::{Answer, Redirect, Respond};

use super::host_text;
use crate::http::answer::of_route;
use crate::http::{Call, FailedCall, Response};
use crate::layers::HttpService;
use crate::state::actions::{Actions, location, rate_limited};
use pillion_base::error::Error;

/// Calls the rest of the stack, or lets the route answer itself. Headers of the sidecar's own errors are not changed.
pub(super) async fn answer<S: HttpService>(
    mut next: S,
    call: Box<Call>,
    actions: Arc<Actions>,
) -> Result<Response, FailedCall> {
    limit_rate(&call, &actions)?;
    let mut response = match &actions.answer {
        None => next.call(call).await?,
        Some(answer) => by_itself(answer, &call),
    };
    actions.response_headers.apply(response.headers_mut());
    Ok(response)
}

fn limit_rate(call: &Call, actions: &Actions) -> Result<(), Error> {
    let Some(limit) = &actions.rate_limit else { return Ok(()) };
    let now = call.common.exchange.started.into_std();
    limit.take(now).map_err(|wait| rate_limited(limit.rate(), "the route", wait))
}

fn by_itself(answer: &Answer, call: &Call) -> Response {
    let (exchange, is_grpc) = (&call.common.exchange, call.common.is_grpc);
    match answer {
        Answer::Respond(Respond { status, body }) => of_route(*status, body, exchange, is_grpc),
        Answer::Redirect(redirect @ Redirect { status, .. }) => {
            let mut response = of_route(*status, "", exchange, is_grpc);
            match location(redirect, host_text(call), &call.head.uri) {
                Some(location) => response.headers_mut().set(Known::Location, &location),
                None => *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR, // what was checked makes one
            }
            response
        }
    }
}
