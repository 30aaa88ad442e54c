//! Requests to the proxy port that name a destination of their own: CONNECT and absolute-form.
//!
//! A destination that matches a service goes to that service. Any other destination is resolved and dialled, unless
//! `outbound.unknown` is `deny`, or the address is the sidecar's own or is special to this link.

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;

use http::StatusCode;
use pillion_model::listener::Unknown;
use tokio::time::Instant;

use crate::connection::{Connection, Destination, Place};
use crate::exchange::DialFailure;
use crate::exchange::attempts::Attempts;
use crate::http::{Body, Call, Exchange, Response};
use crate::state::{DestinationKey, Fixed, Route, Snapshot, split_port};
use crate::tcp::{self, Dialled};
use crate::worker::Worker;
use pillion_base::error::Error;
use pillion_base::net::Io;
use pillion_base::net::own::is_virtual;
use pillion_base::net::special::is_special;
use pillion_base::race;
use pillion_http::message::Opened;
use pillion_model::Direction;
use pillion_model::Reason;
use pillion_upstream::discovery::names;

/// A function of the side that serves what runs inside a CONNECT. `early`: the connection, where the server is dialled
/// already.
pub type EnterInside =
    fn(Arc<Worker>, Io, Connection, early: Option<Dialled>) -> Pin<Box<dyn Future<Output = ()> + Send>>;

/// Answers a CONNECT. What runs inside is then served like a redirected connection to the address that it names.
pub(super) async fn connect(call: &Call, enter: EnterInside) -> Result<Response, Error> {
    let worker = &call.common.exchange.worker;
    let (host, port) = target(call, None)?;
    let (destination, early) = match known(worker, &host, port) {
        Some(fixed) => {
            call.common.exchange.routed(&fixed.route);
            (Destination::Route(fixed), None)
        }
        None => {
            let (to, route, dialled) = dial_any(call, &unknown(worker, &host, port).await?).await?;
            call.common.exchange.routed(&route);
            (Destination::Unknown(to), Some(dialled))
        }
    };
    let mut response = Response::new(StatusCode::OK, Body::empty());
    let (worker, from) = (worker.clone(), call.common.exchange.connection.downstream);
    response.head_mut().opened = Some(Box::new(Opened::Inside(Box::new(move |io| {
        let place = Place::unlimited(worker.work(Direction::Outbound));
        let inside = Connection { destination, is_redirected: true, ..Connection::new(from, place) };
        enter(worker, io, inside, early)
    }))));
    Ok(response)
}

/// The route of an absolute-form request whose host belongs to no service.
pub(super) async fn absolute(call: &Call) -> Result<Arc<Route>, Error> {
    let worker = &call.common.exchange.worker;
    let (host, port) = target(call, Some(80))?;
    if let Some(fixed) = known(worker, &host, port) {
        return Ok(fixed.route);
    }
    match &unknown(worker, &host, port).await?[..] {
        [only] => Ok(worker.state.unknown.route(*only)),
        several => dial_any(call, several).await.map(|(_, route, _tells_which_one_answers)| route),
    }
}

/// Dials the addresses as RFC 8305 says, and returns the first that accepts a connection. If none does, the attempts
/// are noted in the request's exchange.
async fn dial_any(call: &Call, addresses: &[SocketAddr]) -> Result<(SocketAddr, Arc<Route>, Dialled), Error> {
    let exchange = &call.common.exchange;
    let (mut addresses, mut racing) = (addresses.iter().copied(), Vec::new());
    let next = || {
        let to = addresses.next()?;
        racing.push((to, Instant::now()));
        Some(dial(to, exchange))
    };
    let mut failures = Vec::new();
    let won = race::first(next, |failure| failures.push(failure)).await;
    let mut error = Error::new(Reason::DnsError, "the name has no address");
    let mut attempts = Attempts::default();
    for (to, failure) in failures {
        racing.retain(|(racing, _)| *racing != to);
        attempts.append(failure.facts.attempts);
        error = failure.error;
    }
    let Some((to, route, dialled)) = won else {
        exchange.note(|facts| facts.common.attempts = attempts);
        return Err(error);
    };
    for (lost, began) in racing.into_iter().filter(|(racing, _)| *racing != to) {
        let id = attempts.begin();
        attempts.pick(id, lost, began);
        attempts.lose(id, Instant::now());
    }
    Ok((to, route, dialled.after(attempts)))
}

async fn dial(
    to: SocketAddr,
    exchange: &Exchange,
) -> Result<(SocketAddr, Arc<Route>, Dialled), (SocketAddr, DialFailure)> {
    let route = exchange.worker.state.unknown.route(to);
    let dialled = tcp::dial(&route, exchange.connection.origin(), Attempts::default(), &exchange.worker);
    match dialled.await {
        Ok(dialled) => Ok((to, route, dialled)),
        Err(failure) => Err((to, failure)),
    }
}

fn target(call: &Call, default_port: Option<u16>) -> Result<(String, u16), Error> {
    let refused = || Error::new(Reason::BadRequest, "the request's target needs a host and a port");
    let authority = call.head.uri.authority().ok_or_else(refused)?;
    let port = authority.port_u16().or(default_port).filter(|port| *port != 0).ok_or_else(refused)?;
    let host = authority.host().trim_matches(['[', ']']).to_ascii_lowercase();
    if host.is_empty() { Err(refused()) } else { Ok((host, port)) }
}

/// The service with this host and port, or with this address.
fn known(worker: &Worker, host: &str, port: u16) -> Option<Fixed> {
    let snapshot = worker.state.load();
    let route = service_at(&snapshot, host, port)?;
    snapshot.fixed(DestinationKey::Service(route.cluster.name.clone()))
}

/// The service with this host and port, or with this address. An IPv6 address has no brackets. What only `routes` know
/// is no service.
pub(super) fn service_at<'a>(snapshot: &'a Snapshot, host: &str, port: u16) -> Option<&'a Arc<Route>> {
    let by_address = || host.parse().ok().and_then(|ip: IpAddr| snapshot.addresses.find((ip, port).into()));
    let named = snapshot.hosts.find_at(host.trim_end_matches('.'), Some(port));
    named.filter(|route| !route.is_only_rules).or_else(by_address)
}

/// The addresses of a host that belongs to no service, if they may be dialled.
async fn unknown(worker: &Worker, host: &str, port: u16) -> Result<Vec<SocketAddr>, Error> {
    if worker.state.load().policy == Unknown::Deny {
        return Err(denied(host));
    }
    let addresses = match host.parse::<IpAddr>() {
        Ok(ip) => vec![SocketAddr::from((ip, port))],
        Err(_name) => resolve(worker, host, port).await?,
    };
    let snapshot = worker.state.load();
    addresses.iter().try_for_each(|to| allowed(&snapshot, *to))?;
    Ok(addresses)
}

/// Whether an address that belongs to no service may be dialled.
///
/// # Errors
/// `no_route`: it is a virtual one. `egress_denied`: it is the sidecar's own, or a special one.
pub(super) fn allowed(snapshot: &Snapshot, to: SocketAddr) -> Result<(), Error> {
    if is_virtual(to.ip()) {
        return Err(no_service_at(to.ip()));
    }
    if is_special(to.ip()) || snapshot.own.contains(to) {
        let detail = format!(
            "{to} is this sidecar's own address, or a special one of this link or cloud: only a service may have it"
        );
        return Err(Error::new(Reason::EgressDenied, detail));
    }
    Ok(())
}

/// The error for a virtual address that belongs to no service.
pub fn no_service_at(ip: IpAddr) -> Error {
    let detail = format!(
        "{ip} is a virtual address that no service has: its service was removed, or another DNS server gave it"
    );
    Error::new(Reason::NoRoute, detail)
}

pub fn denied(host: &str) -> Error {
    let detail = format!("no service has the host \"{host}\", and `outbound.unknown` is deny");
    Error::new(Reason::EgressDenied, detail)
}

async fn resolve(worker: &Worker, host: &str, port: u16) -> Result<Vec<SocketAddr>, Error> {
    names::addresses(&worker.ground.network, host, port).await.map_err(|error| {
        let detail =
            format!("\"{host}\" could not be resolved: {error}; check the name, and the host's DNS server");
        Error::new(Reason::DnsError, detail)
    })
}

/// The route of a request on a redirected connection whose original destination belongs to no service.
pub(super) fn redirected(call: &Call, to: SocketAddr) -> Result<Arc<Route>, Error> {
    let (worker, host) = (&call.common.exchange.worker, super::host_text(call));
    let (name, port) = split_port(host);
    let snapshot = worker.state.load();
    match snapshot.hosts.find_at(name.trim_end_matches('.'), port.or_else(|| Some(to.port()))) {
        Some(route) => Ok(route.clone()),
        None if is_virtual(to.ip()) => Err(no_service_at(to.ip())),
        None if snapshot.policy == Unknown::Deny => Err(denied(host)),
        None => Ok(worker.state.unknown.route(to)),
    }
}
