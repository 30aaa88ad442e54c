//! What the authorizer is asked about, and the part of the question that both protocols have.

use std::sync::Arc;

use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use pillion_http::message::{Headers, RequestHead};
use pillion_http::seen::{Seen, are_read_alike};
use pillion_http1::Value;
use pillion_model::authorization::{AuthorizerService, ExtAuthz};

use super::{over_grpc, over_http};
use crate::http::call::RequestContext;
use crate::http::{Body, Call};
use crate::layers::amend::exchange_beside;
use crate::layers::headers::scheme;
use crate::state::authorizer::Authorizer;

/// What the authorizer is asked about.
pub(super) struct Subject<'a> {
    pub(super) authorizer: &'a Authorizer,
    pub(super) call: &'a Call,
    /// The target for the application, where it differs from the one that came.
    pub(super) target: Option<&'a Uri>,
}

impl Subject<'_> {
    /// The request to the authorizer. `body`: that of the client's request, or nothing.
    ///
    /// # Errors
    /// Why this request cannot be asked about.
    pub(super) fn question(&self, body: Vec<u8>) -> Result<Box<Call>, String> {
        has_path(&self.call.head)?;
        let headers = self.headers()?;
        match &self.authorizer.of.service {
            AuthorizerService::Http(at) => over_http::question(self, at, headers, body),
            AuthorizerService::Grpc(_) => over_grpc::question(self, &headers, body),
        }
    }

    /// The path with its query, as the application gets them.
    pub(super) fn path(&self) -> &str {
        let asked = self.target.unwrap_or(&self.call.head.uri);
        let path = asked.path_and_query().map_or("/", PathAndQuery::as_str);
        if path.starts_with('/') { path } else { "/" } // `OPTIONS *`
    }

    /// The headers of the request that the authorizer gets, and what the sidecar knows itself.
    ///
    /// # Errors
    /// See [`chosen`].
    fn headers(&self) -> Result<HeaderMap, String> {
        let (call, exchange) = (self.call, &self.call.common.exchange);
        let mut map = chosen(&call.head.headers, &self.authorizer.of.send_headers)?;
        let mut set = |name: &'static str, value: Option<HeaderValue>| {
            map.remove(name);
            if let Some(value) = value {
                map.insert(name, value);
            }
        };
        let source = exchange.connection.downstream.ip().to_canonical().to_string();
        set("x-forwarded-for", HeaderValue::try_from(source).ok());
        set("x-forwarded-proto", Some(HeaderValue::from_static(scheme(&exchange.connection))));
        set("x-forwarded-client-cert", exchange.client_cert().cloned());
        set("x-request-id", HeaderValue::from_bytes(exchange.request_id.as_bytes()).ok());
        Ok(map)
    }
}

/// Why the authorizer could not be asked about a request with this head, as far as the head alone says it.
pub(in super::super) fn cannot_be_asked(head: &RequestHead, of: &ExtAuthz) -> Option<String> {
    let why = has_path(head).and_then(|()| chosen(&head.headers, &of.send_headers)).err()?;
    Some(denial_of_unasked(&why))
}

pub(super) fn denial_of_unasked(why: &str) -> String {
    format!("the external authorizer cannot be asked: {why}")
}

fn has_path(head: &RequestHead) -> Result<(), String> {
    if head.method == Method::CONNECT { Err("a CONNECT has no path".to_owned()) } else { Ok(()) }
}

/// The headers with these names.
///
/// # Errors
/// The request has one of them in another spelling, which the application might read and the authorizer not, or with a
/// malformed value.
fn chosen(headers: &Headers, names: &[String]) -> Result<HeaderMap, String> {
    let mut map = HeaderMap::new();
    for name in names {
        let Ok(header) = HeaderName::try_from(name.as_str()) else { continue };
        let wanted = name.as_bytes();
        for (other, value) in headers.iter().filter(|(other, _)| are_read_alike(other, wanted)) {
            if !other.eq_ignore_ascii_case(wanted) {
                return Err(format!("the request has its header `{name}` in another spelling"));
            }
            let value = HeaderValue::from_bytes(value);
            let value = value.map_err(|_bad| format!("its header `{name}` is malformed"))?;
            map.append(header.clone(), value);
        }
    }
    Ok(map)
}

/// A request of the sidecar's own to the authorizer.
pub(super) fn request(of: &Subject<'_>, head: RequestHead, host: Option<Value>, body: Body) -> Box<Call> {
    let exchange = Arc::new(exchange_beside(&of.call.common.exchange));
    exchange.routed(&of.authorizer.route);
    let seen = Seen::of(&head.headers);
    let common = RequestContext {
        exchange,
        route: Some(of.authorizer.route.clone()),
        names_host: false,
        is_grpc: false,
        waits_to_send: false,
        tunnel: None,
        marked: true,
        via: None,
        passes: 0,
        deadline: None,
        host,
    };
    common.first_call(Arc::new(head), seen, body)
}
