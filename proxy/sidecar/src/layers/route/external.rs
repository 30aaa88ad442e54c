//! Asks the external authorizer about an inbound request, in Envoy's protocol over HTTP (`envoy.service.auth.v3`).
//!
//! The question has the request's method, the prefix with the request's path, its host, the chosen headers, and what the
//! sidecar has verified of the client. It has no content. Status 200 allows. Any other status below 500 denies, and so does
//! 501; the answer goes to the client. Everything else is a failure of the authorizer. A request that cannot be asked about
//! is denied, since a client chooses what it sends.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, Version};
use http_body::Body as _;
use pillion_http1::Spelling;
use pillion_telemetry::CheckOutcome;
use tokio::time::Instant;

use super::Carry;
use crate::http::answer::{self, Denial};
use crate::http::call::RequestContext;
use crate::http::{Body, Call, FailedCall, Response};
use crate::layers::amend::exchange_beside;
use crate::layers::headers::scheme;
use crate::layers::opens_nothing;
use crate::state::authorization::{Authorization, Judged, Judgement};
use crate::state::authorizer::Authorizer;
use pillion_base::error::Error;
use pillion_http::message::{Headers, RequestHead};
use pillion_http::seen::{Seen, are_read_alike};
use pillion_model::Reason;
use pillion_model::authorization::Action;

/// 64 KiB: the content of a denial that is passed on. A page that asks to log in is smaller.
const MOST_BYTES: usize = 64 * 1024;

/// What the authorizer has answered.
enum Verdict {
    Allowed,
    Denied(Denial),
}

/// A check that rules have let through, and that the authorizer must judge, too.
pub(super) struct Check {
    pub(super) by: Arc<Authorization>,
    pub(super) authorizer: Arc<Authorizer>,
    pub(super) judged: Judged,
}

impl Check {
    /// Asks, and notes the decision. `target`: that of the application, where it differs from the one that came. Returns
    /// the answer for the client if the request is denied.
    ///
    /// # Errors
    /// `authz_denied` for gRPC calls, or `authz_unavailable`.
    pub(super) async fn run(
        &self,
        call: &mut Call,
        target: Option<&Uri>,
        carry: impl Carry,
    ) -> Result<Option<Response>, Error> {
        let question = match question(&self.authorizer, call, target) {
            Ok(question) => question,
            Err(why) => {
                self.authorizer.count(CheckOutcome::Denied);
                let detail = format!("the external authorizer cannot be asked: {why}");
                return self.note(
                    call,
                    self.by.denied_outside(Error::new(Reason::AuthzDenied, detail)),
                    None,
                );
            }
        };
        let timeout = self.authorizer.of.timeout;
        let asked = tokio::time::timeout(timeout, ask(question, carry)).await.unwrap_or_else(|_elapsed| {
            let detail = format!("no answer within {timeout:?} (ext_authz.timeout)");
            Err(Error::new(Reason::AuthzUnavailable, detail))
        });
        if asked.is_ok() {
            self.authorizer.answered(Instant::now());
        }
        match asked {
            Ok(Verdict::Allowed) => {
                self.authorizer.count(CheckOutcome::Allowed);
                self.note(call, self.by.decided(self.judged), None)
            }
            Ok(Verdict::Denied(denial)) => {
                self.authorizer.count(CheckOutcome::Denied);
                let detail = format!("the external authorizer answered {}", denial.status);
                let status = opens_nothing(denial.status.as_u16(), call);
                let status = StatusCode::from_u16(status).unwrap_or(StatusCode::FORBIDDEN);
                let judgement = self.by.denied_outside(Error::new(Reason::AuthzDenied, detail));
                self.note(call, judgement, Some(Denial { status, ..denial }))
            }
            Err(why) => self.failed(call, &why),
        }
    }

    /// Decides on a request for which the authorizer, or the way to it, has failed.
    fn failed(&self, call: &Call, why: &Error) -> Result<Option<Response>, Error> {
        self.authorizer.count(CheckOutcome::Failed);
        self.authorizer.failed(why, Instant::now());
        let detail = format!("the external authorizer at {} failed: {why}", self.authorizer.of.http);
        if self.authorizer.of.on_error == Action::Allow && is_by_authorizer(why.reason) {
            tracing::debug!(request = call.common.exchange.id(), "{detail}");
            return self.note(call, self.by.decided(self.judged), None);
        }
        self.note(call, self.by.denied_outside(Error::new(Reason::AuthzUnavailable, detail)), None)
    }

    fn note(
        &self,
        call: &Call,
        (decided, judged): Judgement,
        denial: Option<Denial>,
    ) -> Result<Option<Response>, Error> {
        call.common.exchange.note(|facts| facts.common.authorization = Some(decided));
        match (judged, denial) {
            (Ok(()), _) => Ok(None),
            (Err(error), Some(denial)) => {
                let exchange = &call.common.exchange;
                exchange.failed(&error);
                Ok(Some(answer::of_authorizer(&error, denial, exchange, call.common.is_grpc)))
            }
            (Err(error), None) => Err(error),
        }
    }
}

/// Whether a failure is one of the authorizer. Limits of this sidecar are none: a client that sends much reaches them at
/// will.
const fn is_by_authorizer(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::AuthzUnavailable
            | Reason::ConnectRefused
            | Reason::ConnectTimeout
            | Reason::UpstreamReset
            | Reason::UpstreamClosed
            | Reason::ProtocolError
            | Reason::UpgradeFailed
            | Reason::RequestTimeout
            | Reason::PerTryTimeout
            | Reason::StreamIdleTimeout
            | Reason::MaxDuration
    )
}

async fn ask(question: Box<Call>, carry: impl Carry) -> Result<Verdict, Error> {
    let answer = carry(question).await.map_err(|FailedCall { error, .. }| error)?;
    let status = answer.status();
    let (head, body) = answer.into_parts();
    let content = whole(body).await; // so that the connection can be used again
    match status.as_u16() {
        200 => content.map(|_ignored| Verdict::Allowed),
        201..=499 | 501 => Ok(Verdict::Denied(Denial { status, headers: head.headers, body: content? })),
        _ => Err(Error::new(Reason::AuthzUnavailable, format!("it answered {status}"))),
    }
}

/// The request to the authorizer.
///
/// # Errors
/// Why this request cannot be asked about.
fn question(of: &Authorizer, call: &Call, target: Option<&Uri>) -> Result<Box<Call>, String> {
    if call.head.method == Method::CONNECT {
        return Err("a CONNECT has no path".to_owned());
    }
    let asked = target.unwrap_or(&call.head.uri);
    let path = asked.path_and_query().map_or("/", PathAndQuery::as_str);
    let path = if path.starts_with('/') { path } else { "/" }; // `OPTIONS *`
    let uri = Uri::try_from(format!("{}{path}", of.of.http.prefix));
    let uri = uri.map_err(|_invalid| "the path of the question is too long or invalid".to_owned())?;
    let headers = Headers::Map(headers(of, call)?);
    let head = RequestHead {
        method: call.head.method.clone(),
        uri,
        version: Version::HTTP_11,
        spelling: Spelling::LOWER,
        protocol: None,
        headers,
    };
    let exchange = Arc::new(exchange_beside(&call.common.exchange));
    exchange.routed(&of.route);
    let seen = Seen::of(&head.headers);
    let common = RequestContext {
        exchange,
        route: Some(of.route.clone()),
        names_host: false,
        is_grpc: false,
        waits_to_send: false,
        tunnel: None,
        marked: true,
        via: None,
        passes: 0,
        deadline: None,
        host: call.common.host.clone(),
    };
    Ok(common.first_call(Arc::new(head), seen, Body::empty()))
}

/// # Errors
/// The request has one of the headers in another spelling, which the application might read and the authorizer not.
fn headers(of: &Authorizer, call: &Call) -> Result<HeaderMap, String> {
    let mut map = HeaderMap::new();
    for name in &of.of.send_headers {
        let Ok(header) = HeaderName::try_from(name.as_str()) else { continue };
        let wanted = name.as_bytes();
        for (other, value) in call.head.headers.iter().filter(|(other, _)| are_read_alike(other, wanted)) {
            if !other.eq_ignore_ascii_case(wanted) {
                return Err(format!("the request has its header `{name}` in another spelling"));
            }
            let value = HeaderValue::from_bytes(value);
            map.append(header.clone(), value.map_err(|_bad| format!("its header `{name}` is malformed"))?);
        }
    }
    let connection = &call.common.exchange.connection;
    let mut set = |name: &'static str, value: Option<HeaderValue>| {
        map.remove(name);
        if let Some(value) = value {
            map.insert(name, value);
        }
    };
    let source = connection.downstream.ip().to_canonical().to_string();
    set("x-forwarded-for", HeaderValue::try_from(source).ok());
    set("x-forwarded-proto", Some(HeaderValue::from_static(scheme(connection))));
    set("x-forwarded-client-cert", connection.client_cert.clone());
    set("x-request-id", HeaderValue::from_bytes(call.common.exchange.request_id.as_bytes()).ok());
    Ok(map)
}

/// The whole content of an answer.
async fn whole(mut body: Body) -> Result<Bytes, Error> {
    let mut read = Vec::new();
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        let broke_off = |_| Error::new(Reason::AuthzUnavailable, "its answer broke off");
        if let Ok(data) = frame.map_err(broke_off)?.into_data() {
            if read.len() + data.len() > MOST_BYTES {
                let detail = "its answer has more than 64 KiB of content";
                return Err(Error::new(Reason::AuthzUnavailable, detail));
            }
            read.extend_from_slice(&data);
        }
    }
    Ok(read.into())
}
