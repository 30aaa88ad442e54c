//! A check over gRPC: `envoy.service.auth.v3.Authorization/Check`.

use std::net::SocketAddr;

use http::header::{CONTENT_TYPE, COOKIE, TE};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, Version};
use http_body::Body as _;
use pillion_base::error::Error;
use pillion_grpc::framed::{frame, unframe};
use pillion_http::headers::{grpc_status, grpc_status_of_trailers, grpc_timeout_value};
use pillion_http::message::{Headers, RequestHead, ResponseHead};
use pillion_http1::Spelling;
use pillion_model::Reason;
use tokio::time::Instant;

use super::changes::HeaderChanges;
use super::content::{Content, Unfinished};
use super::messages::{
    Address, AttributeContext, CheckRequest, CheckResponse, DeniedHttpResponse, Entry, HttpRequest,
    HttpResponse, OkHttpResponse, Peer, Request, SocketAddress,
};
use super::subject::{Subject, request};
use super::{Allowed, Unjudged, Verdict, plain_denial, unsendable_denial};
use crate::connection::Destination;
use crate::http::answer::Denial;
use crate::http::{Body, Call};
use crate::layers::headers::scheme;
use crate::layers::route::host_text;
use crate::state::DestinationKey;

const CHECK: &str = "/envoy.service.auth.v3.Authorization/Check";
const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// # Errors
/// Why this request cannot be asked about.
pub(super) fn question(of: &Subject<'_>, headers: &HeaderMap, body: Vec<u8>) -> Result<Box<Call>, String> {
    let attributes = AttributeContext {
        source: Some(source(of.call)),
        destination: Some(destination(of.call)),
        request: Some(Request { http: Some(http(of, headers, body)?) }),
    };
    let timeout = of.authorizer.of.timeout;
    let head = RequestHead {
        method: http::Method::POST,
        uri: Uri::from_static(CHECK),
        version: Version::HTTP_2,
        spelling: Spelling::LOWER,
        protocol: None,
        headers: Headers::Map(HeaderMap::from_iter([
            (CONTENT_TYPE, GRPC),
            (TE, HeaderValue::from_static("trailers")),
            (GRPC_TIMEOUT, grpc_timeout_value(timeout)),
        ])),
    };
    let host = HeaderValue::try_from(of.authorizer.of.service.to_string()).ok().map(Into::into);
    let message = frame(&CheckRequest { attributes: Some(attributes) });
    let mut call = request(of, head, host, Body::full(message));
    call.common.is_grpc = true;
    call.common.deadline = Some(Instant::now() + timeout);
    Ok(call)
}

fn peer(address: SocketAddr, principal: String) -> Peer {
    let socket_address =
        SocketAddress { address: address.ip().to_canonical().to_string(), port_value: address.port().into() };
    Peer { address: Some(Address { socket_address: Some(socket_address) }), principal }
}

/// The client. Only a peer of the mesh has a principal.
fn source(call: &Call) -> Peer {
    let connection = &call.common.exchange.connection;
    let principal = connection.peer.as_ref().map(|peer| peer.id.to_string());
    peer(connection.downstream, principal.unwrap_or_default())
}

/// The application, with the sidecar's identity.
fn destination(call: &Call) -> Peer {
    let exchange = &call.common.exchange;
    let snapshot = exchange.worker.state.load();
    let own_id = snapshot.inbound.as_ref().and_then(|side| side.own_id.clone());
    let principal = own_id.map(|id| id.to_string()).unwrap_or_default();
    let to = match &exchange.connection.destination {
        Destination::Route(fixed) => match &fixed.key {
            DestinationKey::Application(arrival) => snapshot.target(*arrival),
            DestinationKey::Service(_) | DestinationKey::Address(_) => None,
        },
        Destination::Unknown(_) | Destination::Named => None,
    };
    to.map_or_else(|| Peer { address: None, principal: principal.clone() }, |to| peer(to, principal.clone()))
}

fn http(of: &Subject<'_>, headers: &HeaderMap, body: Vec<u8>) -> Result<HttpRequest, String> {
    let call = of.call;
    let size = call.body.size_hint().exact().and_then(|size| i64::try_from(size).ok());
    let (body, raw_body) = match String::from_utf8(body) {
        Ok(text) => (text, Vec::new()),
        Err(bytes) => (String::new(), bytes.into_bytes()),
    };
    Ok(HttpRequest {
        id: call.common.exchange.id().to_owned(),
        method: call.head.method.as_str().to_owned(),
        headers: joined(headers)?,
        path: of.path().to_owned(),
        host: host_text(call).to_owned(),
        scheme: scheme(&call.common.exchange.connection).to_owned(),
        size: size.unwrap_or(-1),
        protocol: match call.head.version {
            Version::HTTP_2 => "HTTP/2",
            Version::HTTP_10 => "HTTP/1.0",
            _ => "HTTP/1.1",
        }
        .to_owned(),
        body,
        raw_body,
    })
}

/// The values of each header in one text (RFC 9110, 5.3; RFC 9113, 8.2.3).
fn joined(headers: &HeaderMap) -> Result<Vec<Entry>, String> {
    let entry = |name: &HeaderName| {
        let separator: &[u8] = if *name == COOKIE { b"; " } else { b"," };
        let values: Vec<&[u8]> = headers.get_all(name).iter().map(HeaderValue::as_bytes).collect();
        let value = String::from_utf8(values.join(separator));
        let value = value.map_err(|_bytes| format!("its header `{name}` is not UTF-8"))?;
        Ok(Entry { key: name.as_str().to_owned(), value })
    };
    headers.keys().map(entry).collect()
}

/// What the answer says. A message that denies does so however the call ends.
///
/// # Errors
/// There is no verdict.
pub(super) fn verdict(head: &ResponseHead, content: Content) -> Result<Verdict, Unjudged> {
    match head.status.as_u16() {
        200 => {}
        500..=599 => return Err(Unjudged::Failed(format!("it answered {}", head.status))),
        _ => return Err(unreadable(format!("it answered {}, which is no answer of gRPC", head.status))),
    }
    let status = grpc_status(&head.headers).or_else(|| grpc_status_of_trailers(&content.trailers));
    let message = unframe(&content.bytes).map(judged);
    match (status, message) {
        (_, Ok(Ok(denied @ Verdict::Denied(_)))) => Ok(denied),
        // PERMISSION_DENIED and UNAUTHENTICATED: a verdict, however unusual
        (Some(7), _) => Ok(plain_denial(StatusCode::FORBIDDEN)),
        (Some(16), _) => Ok(plain_denial(StatusCode::UNAUTHORIZED)),
        (Some(other @ 1..), _) => Err(Unjudged::Failed(format!("it answered with gRPC status {other}"))),
        (_, message) => match (content.end, status) {
            (Err(why), _) => Err(unfinished(why)),
            (Ok(()), None) => Err(unreadable("it answered without a gRPC status")),
            (Ok(()), Some(_)) => message.map_err(unreadable).flatten(),
        },
    }
}

fn unreadable(why: impl std::fmt::Display) -> Unjudged {
    Unjudged::Unreadable(why.to_string())
}

fn unfinished(why: Unfinished) -> Unjudged {
    match why {
        Unfinished::NoRoom(why) => Unjudged::Limited(Error::new(Reason::Overloaded, why)),
        Unfinished::BrokeOff | Unfinished::Late | Unfinished::TooLong => unreadable(why),
    }
}

/// What the message says. Without a status it allows only if it says so in another way: in Envoy, an empty message allows.
fn judged(answer: CheckResponse) -> Result<Verdict, Unjudged> {
    match (answer.status.map(|status| status.code), answer.http_response) {
        (_, Some(HttpResponse::Denied(denied))) => Ok(denial(denied)),
        (Some(0), None) => Ok(Verdict::Allowed(Allowed::default())),
        (Some(0) | None, Some(HttpResponse::Ok(ok))) => {
            allowed(&ok).map(Verdict::Allowed).map_err(unreadable)
        }
        (_, Some(HttpResponse::Error(_))) => {
            Err(Unjudged::Failed("it says that it has failed itself (error_response)".to_owned()))
        }
        (None, None) => Err(unreadable("its answer has no status")),
        (Some(16), _) => Ok(plain_denial(StatusCode::UNAUTHORIZED)),
        (Some(_), _) => Ok(plain_denial(StatusCode::FORBIDDEN)),
    }
}

fn allowed(of: &OkHttpResponse) -> Result<Allowed, String> {
    if !of.query_parameters_to_set.is_empty() || !of.query_parameters_to_remove.is_empty() {
        return Err("it changes query parameters, which is not supported".to_owned());
    }
    Ok(Allowed { request: HeaderChanges::of_request(of)?, answer: HeaderChanges::of_answer(of)? })
}

/// The answer for the client. Where it cannot be sent, the request is denied without it.
fn denial(of: DeniedHttpResponse) -> Verdict {
    let code = of.status.map_or(0, |status| status.code);
    let status = match u16::try_from(code) {
        Ok(0) => Ok(StatusCode::FORBIDDEN),
        Ok(code @ 200..=599) => StatusCode::from_u16(code).map_err(|bad| bad.to_string()),
        _ => Err(format!("its status is {code}")),
    };
    match status.and_then(|status| Ok((status, HeaderChanges::denial(&of.headers)?))) {
        Ok((status, headers)) => Verdict::Denied(Denial { status, headers, body: of.body }),
        Err(why) => unsendable_denial(why),
    }
}
