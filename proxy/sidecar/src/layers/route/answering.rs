//! Applies what a route does to its answers: a rate limit, an answer of its own, changed headers, and the cookie by
//! which a client comes back to its endpoint.

use http::header::SET_COOKIE;
use http::{HeaderValue, StatusCode};
use pillion_http1::Known;
use pillion_model::route::{Answer, Redirect, Respond};

use super::authorize::AnswerChanges;
use super::host_text;
use crate::http::answer::of_route;
use crate::http::{Call, FailedCall, Response};
use crate::layers::{HttpService, name_of_route, opens_nothing};
use crate::state::actions::{Actions, location, rate_limited};
use pillion_base::error::Error;
use pillion_model::cluster::HashKey;
use pillion_upstream::cluster::hashing::KeyHash;

/// Calls the rest of the stack, or lets the route answer itself. Headers of the sidecar's own errors are not changed.
/// `changes`: those of an external authorizer.
pub(super) async fn answer<S: HttpService>(
    next: S,
    call: Box<Call>,
    changes: AnswerChanges,
) -> Result<Response, FailedCall> {
    let mut response = act(next, call).await?;
    if let Some(changes) = changes {
        changes.apply(response.headers_mut());
    }
    Ok(response)
}

async fn act<S: HttpService>(next: S, call: Box<Call>) -> Result<Response, FailedCall> {
    let actions = call.common.route.as_ref().and_then(|route| route.actions.clone());
    let Some(actions) = actions else { return with_key(next, call).await };
    limit_rate(&call, &actions)?;
    let mut response = match &actions.answer {
        None => with_key(next, call).await?,
        Some(answer) => by_itself(answer, &call),
    };
    actions.response_headers.apply(response.headers_mut());
    Ok(response)
}

/// Calls the rest of the stack, after it has noted the key for a balancer that hashes.
async fn with_key<S: HttpService>(mut next: S, call: Box<Call>) -> Result<Response, FailedCall> {
    let issued = note_key(&call);
    let mut response = next.call(call).await?;
    if let Some(cookie) = issued {
        response.headers_mut().append_named(&SET_COOKIE, &cookie);
    }
    Ok(response)
}

/// Notes the key by which the endpoint is chosen. Returns the cookie that the client gets because it has none.
fn note_key(call: &Call) -> Option<HeaderValue> {
    let common = &call.common;
    let hash_key = common.route.as_ref()?.cluster.hash_key()?;
    let client = common.exchange.connection.downstream.ip();
    let mut key = KeyHash::of_request(hash_key, &call.head.headers, &call.head.uri, client);
    let mut issued = None;
    if let (None, HashKey::Cookie { name, ttl }) = (key, hash_key) {
        let random = common.exchange.worker.ground.rng.lock().u64(..);
        (issued, key) = KeyHash::issue(name, *ttl, random).unzip();
    }
    common.exchange.note(|facts| facts.common.key = key);
    issued
}

fn limit_rate(call: &Call, actions: &Actions) -> Result<(), Error> {
    let Some(limit) = &actions.rate_limit else { return Ok(()) };
    let now = call.common.exchange.started.into_std();
    limit.take(now).map_err(|wait| rate_limited(limit.rate(), &name_of_route(call), wait))
}

fn by_itself(answer: &Answer, call: &Call) -> Response {
    let (exchange, is_grpc) = (&call.common.exchange, call.common.is_grpc);
    match answer {
        Answer::Respond(Respond { status, body }) => {
            of_route(opens_nothing(*status, call), body, exchange, is_grpc)
        }
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
