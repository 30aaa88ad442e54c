//! Finds the route of a request, and adds it to the call, so that the layers below have their policy.

mod answering;
mod authorize;
pub mod explain;
mod external;
mod observe;
mod token;
mod egress;

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;

use http::uri::{Authority, Scheme};
use http::{Method, Version};
use tower::layer::layer_fn;
use tower::{Layer, service_fn};

use super::HttpService;
use crate::connection::Destination;
use crate::http::exchange::Exchange;
use crate::http::{Call, FailedCall, Response};
use crate::state::actions::{PeersRateLimit, rate_limited};
use crate::state::{DestinationKey, Fixed, InboundSide, Route, Then};
use authorize::Changes;
pub use egress::{EnterInside, denied, no_service_at};
use pillion_base::error::Error;
use pillion_http::framing::{self, Fault};
use pillion_http::message::{Headers, RequestHead};
use pillion_http1::{Known, Value};
use pillion_model::Direction;
use pillion_model::Reason;

/// Carries a request of the sidecar itself.
pub trait Carry:
    Fn(Box<Call>) -> Pin<Box<dyn Future<Output = Result<Response, FailedCall>> + Send>> + Copy + Send + 'static
{
}

impl<F> Carry for F where
    F: Fn(Box<Call>) -> Pin<Box<dyn Future<Output = Result<Response, FailedCall>> + Send>>
        + Copy
        + Send
        + 'static
{
}

/// `inside`: serves what runs inside a CONNECT that the sidecar itself answers; `None` on a side that does not answer
/// CONNECT. `check` carries the question to an external authorizer.
pub fn layer<S: HttpService>(
    inside: Option<EnterInside>,
    check: impl Carry,
) -> impl Layer<S, Service = impl HttpService> + Clone {
    layer_fn(move |next: S| service_fn(move |call| route(next.clone(), call, inside, check)))
}

async fn route<S: HttpService>(
    mut next: S,
    mut call: Box<Call>,
    inside: Option<EnterInside>,
    check: impl Carry,
) -> Result<Response, FailedCall> {
    call.common.exchange.has_place()?; // first, because nothing is to be done for a request without room
    refuse_loop(&call)?;
    framing::check_request(Arc::make_mut(&mut call.head), &call.seen).map_err(Fault::refusal)?;
    let noted = call.common.host.take();
    (call.common.host, call.common.names_host) = host(&call.head, noted)?;
    refuse_tunnel(&call)?;
    let mut changes = None;
    let found = match &call.common.exchange.connection.destination {
        Destination::Route(fixed) => Found::Route(direct(&call, fixed, &mut changes)?),
        Destination::Unknown(to) => Found::Route(egress::redirected(&call, *to)?),
        Destination::Named => named(&call)?,
    };
    let route = match found {
        Found::Route(route) => route,
        Found::Connect => match inside {
            Some(enter) => return Ok(Box::pin(egress::connect(&call, enter)).await?),
            None => {
                return Err(Error::new(Reason::NoRoute, "the inbound side does not answer CONNECT").into());
            }
        },
        Found::Absolute => Box::pin(egress::absolute(&call)).await?,
    };
    let mut of_answer = None;
    if let Some(changes) = changes {
        let (after, denial) = Box::pin(changes.apply(&mut call, &route, check)).await?;
        if let Some(denial) = denial {
            return Ok(denial);
        }
        of_answer = after;
    }
    if call.common.exchange.worker.state.observation.is_on() {
        observe::observe(&call); // after the external authorizer, so that what it denies gets no allow rule
    }
    let route = diverted(&call, route)?;
    call.common.host = call.common.host.take().or_else(|| default_host(&route));
    tell(&call, &route);
    call.common.exchange.routed(&route);
    let is_plain = route.actions.is_none() && route.cluster.hash_key().is_none(); // as nearly always
    call.common.route = Some(route);
    match (is_plain, of_answer) {
        (true, None) => next.call(call).await,
        (_, of_answer) => Box::pin(answering::answer(next, call, of_answer)).await,
    }
}

/// Logs the chosen route. The query is left out, because it may hold secrets.
fn tell(call: &Call, route: &Route) {
    tracing::debug!(
        request = call.common.exchange.id(),
        from = %call.common.exchange.connection.downstream,
        method = %call.head.method,
        host = host_text(call),
        path = call.head.uri.path(),
        service = &*route.cluster.name,
        route = &*call.common.exchange.worker.ground.metrics.name(route.name),
        "route chosen"
    );
}

/// Refuses a request whose client is the sidecar itself: it would be forwarded in an endless loop.
fn refuse_loop(call: &Call) -> Result<(), Error> {
    match call.common.exchange.connection.comes_back {
        true => Err(call.common.exchange.connection.loop_detected()),
        false => Ok(()),
    }
}

fn refuse_tunnel(call: &Call) -> Result<(), Error> {
    if call.common.tunnel.as_ref().is_some_and(|kind| kind.is_h2c()) {
        return Err(Error::new(
            Reason::BadRequest,
            "an upgrade to h2c is not supported: a client may begin with HTTP/2 at once",
        ));
    }
    if call.head.method == Method::CONNECT && !call.body.is_empty() {
        return Err(Error::new(Reason::BadRequest, "a CONNECT has no content (RFC 9110, 9.3.6)"));
    }
    Ok(())
}

const NO_HOST: &str = "the request's host is not a valid host (RFC 9112, 3.2)";

/// The host of the request, and whether the head names it in its only `Host`. The URI's authority (absolute-form and
/// HTTP/2) goes before `Host` (RFC 9112, 3.2.2). A host that is not an authority is refused, and so are several hosts
/// that differ, because the next hop might read them in another way (3.2).
fn host(head: &RequestHead, noted: Option<Value>) -> Result<(Option<Value>, bool), Error> {
    let refused = |detail| Err(Error::new(Reason::BadRequest, detail));
    if let (Headers::Text(fields), None) = (&head.headers, head.uri.authority()) {
        // The reader of the head has checked `Host`, except for an empty one.
        return match noted.or_else(|| fields.value_of(Known::Host)) {
            Some(host) if host.as_bytes().is_empty() => refused(NO_HOST),
            host => Ok((host, fields.has(Known::Host))),
        };
    }
    let mut hosts = head.headers.all(Known::Host);
    let first = hosts.next();
    let mut is_only = first.is_some();
    for other in hosts {
        if Some(other) != first {
            return refused("the request has several hosts that differ");
        }
        is_only = false;
    }
    match head.uri.authority() {
        Some(_) if head.uri.scheme().is_none() && head.method != Method::CONNECT => {
            refused("the request's target is an authority, which only CONNECT may have")
        }
        Some(authority) => Ok((Value::of_text(authority.as_str().as_bytes()).ok(), false)),
        None => match first {
            Some(host) if !is_authority(host) => refused(NO_HOST),
            None if head.version == Version::HTTP_11 => refused("the request has no host"),
            host => Ok((host.and_then(|host| Value::of_text(host).ok()), is_only)),
        },
    }
}

fn is_authority(host: &[u8]) -> bool {
    is_plain_name(host) || (!host.contains(&b'@') && Authority::try_from(host).is_ok())
}

/// Whether the host has only letters, digits, dots and hyphens, and perhaps a port, as nearly every host. This check
/// saves the copy that the parser makes.
fn is_plain_name(host: &[u8]) -> bool {
    let is_of_name = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-');
    let colon = host.iter().rposition(|byte| *byte == b':').unwrap_or(host.len());
    let (name, port) = host.split_at_checked(colon).unwrap_or_default();
    let is_port = match port {
        [] => true,
        [_colon, digits @ ..] => matches!(digits.len(), 1..=4) && digits.iter().all(u8::is_ascii_digit),
    };
    !name.is_empty() && name.iter().all(is_of_name) && is_port
}

/// The host for a request that names none (HTTP/1.0): the service's name, or the address of its destination.
fn default_host(route: &Route) -> Option<Value> {
    let cluster = &route.cluster;
    match cluster.direction() {
        Direction::Outbound if !cluster.is_passthrough() => Value::of_text(cluster.name.as_bytes()).ok(),
        _ => Value::of_text(cluster.endpoints().all.first()?.address.to_string().as_bytes()).ok(),
    }
}

enum Found {
    Route(Arc<Route>),
    /// A CONNECT, which the sidecar answers itself.
    Connect,
    /// An absolute-form target that belongs to no service, and must be resolved.
    Absolute,
}

/// The route of a connection with a fixed destination: its requests go there, even if they name another host. `changes`
/// becomes what the application must get otherwise than it came.
fn direct(call: &Call, fixed: &Fixed, changes: &mut Option<Box<Changes>>) -> Result<Arc<Route>, Error> {
    let Exchange { worker, connection, .. } = &*call.common.exchange;
    let snapshot = worker.state.load();
    let Some(route) = fixed.now(&snapshot) else { return gone(call, fixed) };
    connection.admitted(&snapshot, &worker.ground.network)?;
    if let (Direction::Inbound, Some(side)) = (connection.direction, &snapshot.inbound) {
        if let Some(by) = &side.authorization {
            let port = snapshot.application_port(&fixed.key);
            *changes = authorize::authorize(by, call, port)?;
        }
        limit_rate(call, side)?;
    }
    if connection.is_redirected {
        let is_of_another = |named: &Arc<Route>| !Arc::ptr_eq(&named.cluster, &route.cluster);
        if snapshot.hosts.find(host_text(call)).is_some_and(is_of_another) {
            worker.ground.metrics.host_mismatches(route.cluster.symbol).inc();
        }
    }
    Ok(route)
}

/// Applies `inbound.rate_limit`. A client without an identity is identified by its address; in IPv6 by its network,
/// because one host has many addresses.
fn limit_rate(call: &Call, side: &InboundSide) -> Result<(), Error> {
    let Some(limit) = side.rate_limit.as_deref() else { return Ok(()) };
    let (connection, now) = (&call.common.exchange.connection, call.common.exchange.started.into_std());
    match limit {
        PeersRateLimit::All(limit) => {
            limit.take(now).map_err(|wait| rate_limited(limit.rate(), "the application", wait))
        }
        PeersRateLimit::Each { peers, strangers } => {
            let taken = match &connection.peer {
                Some(peer) => peers.take(&peer.id.as_str(), now),
                None => strangers.take(&network(connection.downstream.ip()), now),
            };
            taken.map_err(|wait| rate_limited(peers.rate(), "the client", wait))
        }
    }
}

fn network(of: IpAddr) -> IpAddr {
    const HOST: u128 = u64::MAX as u128;
    match of.to_canonical() {
        IpAddr::V4(ip) => IpAddr::V4(ip),
        IpAddr::V6(ip) => IpAddr::V6((u128::from(ip) & !HOST).into()),
    }
}

/// Handles a request on a connection whose fixed route was removed by a reload.
fn gone(call: &Call, fixed: &Fixed) -> Result<Arc<Route>, Error> {
    match fixed.key {
        DestinationKey::Address(to) => egress::redirected(call, to),
        DestinationKey::Service(_) | DestinationKey::Application(_) => {
            let name = &fixed.route.cluster.name;
            Err(Error::new(Reason::NoRoute, format!("\"{name}\" is no longer configured")))
        }
    }
}

/// The route that an entry of `routes` chooses for this request, or else `route` itself.
fn diverted(call: &Call, route: Arc<Route>) -> Result<Arc<Route>, Error> {
    if route.rules.is_empty() {
        return Ok(route);
    }
    match route.rules.find(&call.head).map(|rule| &rule.then) {
        Some(Then::To(split)) => {
            let dice = || call.common.exchange.worker.ground.rng.lock().u64(..);
            Ok(split.pick(dice).cloned().unwrap_or(route))
        }
        Some(Then::Answer(name, actions)) => Ok(route.answered(*name, actions.clone())),
        None if route.is_only_rules => {
            let detail =
                format!("no route of the host \"{}\" matches, and no service has this host", host_text(call));
            Err(Error::new(Reason::NoRoute, detail))
        }
        None => Ok(route),
    }
}

/// The destination that the request names, on the proxy port. The inbound side never takes a destination from a
/// request.
fn named(call: &Call) -> Result<Found, Error> {
    if call.common.exchange.connection.direction == Direction::Inbound {
        let detail = "no application to send requests to: set `inbound.app`";
        return Err(Error::new(Reason::NoRoute, detail));
    }
    if call.head.method == Method::CONNECT {
        return Ok(Found::Connect);
    }
    let host = host_text(call);
    if let Some(route) = call.common.exchange.worker.state.load().hosts.find(host) {
        return Ok(Found::Route(route.clone()));
    }
    if call.head.version != Version::HTTP_2 && call.head.uri.scheme() == Some(&Scheme::HTTP) {
        return Ok(Found::Absolute);
    }
    let detail = match host {
        "" => "the request names no host, and this port belongs to no service".to_owned(),
        host => format!("no service has the host \"{host}\": see `hosts` in `services`"),
    };
    Err(Error::new(Reason::NoRoute, detail))
}

fn host_text(call: &Call) -> &str {
    call.common.host.as_ref().and_then(Value::as_str).unwrap_or_default()
}
