//! Finds where a request goes. From here on its policy travels with it.

use std::sync::Arc;

use http::header::HOST;
use http::request::Parts;
use http::uri::Authority;
use http::{HeaderValue, Method, Version};
use tower::layer::layer_fn;
use tower::{Layer, service_fn};

use super::HttpService;
use crate::error::{Error, Reason};
use crate::http::{Call, Response};
use crate::state::Route;
use crate::telemetry::Direction;

pub(crate) fn layer<S: HttpService>() -> impl Layer<S, Service = impl HttpService> + Clone {
    layer_fn(|next: S| service_fn(move |call| route(next.clone(), call)))
}

async fn route<S: HttpService>(mut next: S, mut call: Box<Call>) -> Result<Response, Error> {
    call.host = host(&call.head)?;
    if call.head.method == Method::CONNECT {
        return Err(Error::new(Reason::BadRequest, "CONNECT is not supported yet"));
    }
    let route = match call.exchange.connection.direction {
        Direction::Outbound => outbound(&call)?,
        Direction::Inbound => inbound(&call)?,
    };
    call.host = call.host.take().or_else(|| default_host(&route));
    call.exchange.routed(&route);
    call.route = Some(route);
    next.call(call).await
}

/// The URI's authority (absolute-form and HTTP/2) goes before `Host` (RFC 9112, 3.2.2). One that is no authority,
/// and several that differ, are refused: the next hop might read them otherwise (3.2).
fn host(head: &Parts) -> Result<Option<HeaderValue>, Error> {
    let refused = |detail| Err(Error::new(Reason::BadRequest, detail));
    let mut hosts = head.headers.get_all(HOST).iter();
    let first = hosts.next();
    if hosts.any(|other| Some(other) != first) {
        return refused("the request has several hosts");
    }
    match head.uri.authority() {
        Some(_) if head.uri.scheme().is_none() && head.method != Method::CONNECT => {
            refused("the request's target is an authority, which only CONNECT may have")
        }
        Some(authority) => Ok(HeaderValue::from_str(without_userinfo(authority.as_str())).ok()),
        None => match first {
            Some(host) if !is_authority(host) => refused("the request's host is none"),
            None if head.version == Version::HTTP_11 => refused("the request has no host"),
            host => Ok(host.cloned()),
        },
    }
}

fn is_authority(host: &HeaderValue) -> bool {
    !host.as_bytes().contains(&b'@') && Authority::try_from(host.as_bytes()).is_ok()
}

fn without_userinfo(authority: &str) -> &str {
    authority.rsplit_once('@').map_or(authority, |(_, host)| host)
}

/// A request that names no host (HTTP/1.0) is for where it came to.
fn default_host(route: &Route) -> Option<HeaderValue> {
    let cluster = &route.cluster;
    match cluster.direction {
        Direction::Outbound => HeaderValue::from_str(&cluster.name).ok(),
        Direction::Inbound => HeaderValue::try_from(cluster.endpoints.first()?.address.to_string()).ok(),
    }
}

/// A service's own port is for that service alone; else the host decides.
fn outbound(call: &Call) -> Result<Arc<Route>, Error> {
    if let Some(route) = &call.exchange.connection.service {
        return Ok(route.clone());
    }
    let host = call.host.as_ref().and_then(|host| host.to_str().ok()).unwrap_or_default();
    let snapshot = call.exchange.worker.state.load();
    snapshot.hosts.find(host).cloned().ok_or_else(|| {
        let detail = match host {
            "" => "the request names no host, and this port belongs to no service".to_owned(),
            host => format!("no service has the host \"{host}\": see `hosts` in `services`"),
        };
        Error::new(Reason::NoRoute, detail)
    })
}

fn inbound(call: &Call) -> Result<Arc<Route>, Error> {
    let snapshot = call.exchange.worker.state.load();
    snapshot
        .application
        .clone()
        .ok_or_else(|| Error::new(Reason::NoRoute, "`inbound.app` says no application to send requests to"))
}
