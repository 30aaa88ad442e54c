//! Finds where a request goes. From here on its policy travels with it.

use std::sync::Arc;

use http::header::HOST;
use http::{HeaderValue, Method};
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
    call.host = host(&call);
    if call.head.method == Method::CONNECT {
        return Err(Error::new(Reason::BadRequest, "CONNECT is not supported yet"));
    }
    let route = match call.exchange.connection.direction {
        Direction::Outbound => outbound(&call)?,
        Direction::Inbound => inbound(&call)?,
    };
    call.exchange.routed(&route);
    call.route = Some(route);
    next.call(call).await
}

/// The URI's authority (absolute-form and HTTP/2) goes before `Host` (RFC 9112, 3.2.2).
fn host(call: &Call) -> Option<HeaderValue> {
    match call.head.uri.authority() {
        Some(authority) => HeaderValue::from_str(without_userinfo(authority.as_str())).ok(),
        None => call.head.headers.get(HOST).cloned(),
    }
}

fn without_userinfo(authority: &str) -> &str {
    authority.rsplit_once('@').map_or(authority, |(_, host)| host)
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
