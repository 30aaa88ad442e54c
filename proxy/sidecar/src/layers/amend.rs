//! Applies what a route does to its requests: injected faults, changed headers, a rewritten path or host, a mirror.
//!
//! The layer is inside the timeout of the whole request and outside the retry layer, so all tries are equal.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use pillion_base::error::Error;
use pillion_base::limits::Permit;
use pillion_http::seen::Seen;
use tokio::time::Instant;
use tokio_util::either::Either;
use tower::layer::layer_fn;
use tower::{Layer, service_fn};

use super::{HttpService, name_of_route, opens_nothing};
use crate::connection::{Connection, Place};
use crate::http::call::RequestContext;
use crate::http::exchange::Exchange;
use crate::http::{Body, Call, FailedCall, Response};
use crate::state::actions::{Actions, Mirror, injected, is_among};
use pillion_http::transfer::{Observer as _, ResponseEnd};
use pillion_model::Reason;
use pillion_model::route::{AbortStatus, FaultInjection};
use pillion_upstream::cluster::hashing::KeyHash;

/// 64 KiB: how far a mirror may be behind with a request's body. Beyond it, the copy is cut.
const MIRRORED_BYTES: usize = 64 * 1024;
/// 60 s: the longest time for a mirrored request. No client waits for it, so it needs a limit of its own.
const LONGEST_MIRRORED: Duration = Duration::from_secs(60);

/// `carry` sends a copy through a stack of its own.
pub fn layer<S: HttpService>(
    carry: impl Fn(Box<Call>) -> Pin<Box<dyn Future<Output = ()> + Send>> + Copy + Send + 'static,
) -> impl Layer<S, Service = impl HttpService> + Clone {
    layer_fn(move |next: S| service_fn(move |call| amend(next.clone(), call, carry)))
}

fn amend<S: HttpService>(
    mut next: S,
    call: Box<Call>,
    carry: impl Fn(Box<Call>) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + 'static,
) -> impl Future<Output = Result<Response, FailedCall>> + Send {
    match call.common.route.as_ref().and_then(|route| route.actions.clone()) {
        None => Either::Left(next.call(call)), // nearly always
        Some(actions) => Either::Right(Box::pin(act(next, call, actions, carry))),
    }
}

async fn act<S: HttpService>(
    mut next: S,
    call: Box<Call>,
    actions: Arc<Actions>,
    carry: impl Fn(Box<Call>) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send,
) -> Result<Response, FailedCall> {
    let call = Box::pin(amended(call, &actions)).await?;
    let (call, copy) = mirrored(call, actions.mirror.as_ref());
    if let Some((copy, permit)) = copy {
        let carried = tokio::time::timeout(LONGEST_MIRRORED, carry(copy));
        // No task waits for the copy; it ends at the latest after `LONGEST_MIRRORED`.
        drop(tokio::spawn(async move {
            let _one_of_the_mirrors = permit;
            drop(carried.await);
        }));
    }
    next.call(call).await
}

async fn amended(mut call: Box<Call>, actions: &Actions) -> Result<Box<Call>, Error> {
    inject(&call, &actions.fault).await?;
    if !actions.request_headers.is_empty() {
        actions.request_headers.apply(&mut call.head_mut().headers);
        call.seen = Seen::of(&call.head.headers);
    }
    let rewritten = actions.rewrite.target(&call.head.uri);
    let why = |error| Error::new(Reason::BadRequest, format!("the rewritten target cannot be sent: {error}"));
    if let Some(target) = rewritten.map_err(why)? {
        call.head_mut().uri = target;
    }
    if let Some(host) = &actions.rewrite.host {
        call.common.host = Some(host.clone().into());
        call.common.names_host = false;
    }
    Ok(call)
}

async fn inject(call: &Call, fault: &FaultInjection) -> Result<(), Error> {
    let ground = &call.common.exchange.worker.ground;
    let dice = || ground.rng.lock().f64();
    if let Some(delay) = fault.delay.filter(|delay| is_among(delay.share, dice)) {
        ground.timers.deadline(Instant::now() + delay.time).await;
        call.common.exchange.note(|facts| facts.delayed_until = Some(Instant::now()));
    }
    match fault.abort.filter(|abort| is_among(abort.share, dice)) {
        Some(abort) => {
            let with = match abort.with {
                AbortStatus::Http(status) => AbortStatus::Http(opens_nothing(status, call)),
                grpc @ AbortStatus::Grpc(_) => grpc,
            };
            Err(injected(with, &name_of_route(call)))
        }
        None => Ok(()),
    }
}

/// The call, and its copy for the mirror, if there is one. A tunnel is not mirrored, because its bytes go both ways.
fn mirrored(mut call: Box<Call>, mirror: Option<&Mirror>) -> (Box<Call>, Option<(Box<Call>, Permit)>) {
    let exchange = call.common.exchange.clone();
    let dice = || exchange.worker.ground.rng.lock().f64();
    let is_wanted = |mirror: &&Mirror| call.common.tunnel.is_none() && is_among(mirror.share, dice);
    let Some(mirror) = mirror.filter(is_wanted) else { return (call, None) };
    let trace = exchange.trace_beside();
    let exchange = Arc::new(exchange_beside(&exchange));
    exchange.routed(&mirror.route);
    let key = mirror.route.cluster.hash_key().and_then(|key| {
        KeyHash::of_request(key, &call.head.headers, &call.head.uri, exchange.connection.downstream.ip())
    });
    exchange.note(|facts| (facts.common.key, facts.trace) = (key, trace));
    let Some(permit) = mirror.limit.try_acquire() else {
        refuse(&exchange, mirror);
        return (call, None);
    };
    let (own, copy) = std::mem::replace(&mut call.body, Body::empty()).copied(MIRRORED_BYTES);
    call.body = own;
    let common = RequestContext {
        exchange,
        route: Some(mirror.route.clone()),
        waits_to_send: false,
        marked: true,
        ..call.common.clone()
    };
    let mut copied = common.first_call(call.head.clone(), call.seen, copy);
    if copied.common.exchange.worker.traces.is_on() {
        let exchange = copied.common.exchange.clone();
        exchange.write_trace(copied.attempt, &mut copied.head_mut().headers);
    }
    (call, Some((copied, permit)))
}

/// Counts a copy that is not sent, because the mirror is too slow.
fn refuse(exchange: &Exchange, mirror: &Mirror) {
    let (name, most) = (&mirror.route.cluster.name, mirror.limit.max());
    let detail = format!("\"{name}\" has {most} mirrored requests in flight, and gets no further one");
    let error = Error::new(Reason::LimitRequests, detail);
    exchange.failed(&error);
    exchange.headers_sent(StatusCode::SERVICE_UNAVAILABLE, None);
    exchange.finish(ResponseEnd::default());
}

/// An exchange beside that of a client, without its connection, which may close first: for a copy, or for a check.
pub(super) fn exchange_beside(of: &Exchange) -> Exchange {
    let work = of.worker.work(of.connection.direction);
    let connection = Connection::new(of.connection.downstream, Place::unlimited(work));
    Exchange::new(of.worker.clone(), Arc::new(connection), of.request_id.clone(), 0)
}
