//! Asks the external authorizer about an inbound request, in one of Envoy's protocols (`envoy.service.auth.v3`).
//!
//! The question has the request's method, path and host, the chosen headers, and what the sidecar has verified of the
//! client; its body, where the configuration says so. [`over_http`] and [`over_grpc`] write the question and read the
//! answer. What is no verdict is a failure of the authorizer. A denial that cannot be forwarded as it came is a denial
//! nevertheless. A request that cannot be asked about is denied, since a client chooses what it sends.

mod changes;
mod content;
mod messages;
mod over_grpc;
mod over_http;

use std::sync::Arc;

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri};
use pillion_http1::Value;
use pillion_telemetry::CheckOutcome;
use tokio::time::{Instant, timeout_at};

use super::Carry;
use crate::http::answer::{self, Denial};
use crate::http::call::RequestContext;
use crate::http::{Body, Call, FailedCall, Response};
use crate::layers::amend::exchange_beside;
use crate::layers::headers::{remove_connection_headers, scheme};
use crate::layers::opens_nothing;
use crate::state::Route;
use crate::state::authorization::{Authorization, Judged, Judgement};
use crate::state::authorizer::Authorizer;
pub(super) use changes::HeaderChanges;
use content::{Uncollected, collect, whole};
use pillion_base::error::Error;
use pillion_http::message::{Headers, RequestHead};
use pillion_http::seen::{Seen, are_read_alike};
use pillion_model::Reason;
use pillion_model::authorization::{Action, AuthorizerService};

/// What the authorizer has answered.
enum Verdict {
    Allowed(Allowed),
    Denied(Denial),
}

/// What an authorizer changes of a request that it allows, and of the application's answer.
#[derive(Default)]
pub(super) struct Allowed {
    pub(super) request: HeaderChanges,
    pub(super) answer: HeaderChanges,
}

/// What comes of a check.
pub(super) enum Checked {
    Passes(Allowed),
    /// With this answer for the client.
    Denied(Response),
}

/// A check that rules have let through, and that the authorizer must judge, too.
pub(super) struct Check {
    pub(super) by: Arc<Authorization>,
    pub(super) authorizer: Arc<Authorizer>,
    pub(super) judged: Judged,
}

/// What the authorizer is asked about.
struct Subject<'a> {
    authorizer: &'a Authorizer,
    call: &'a Call,
    /// The target for the application, where it differs from the one that came.
    target: Option<&'a Uri>,
}

impl Subject<'_> {
    /// The path with its query, as the application gets them.
    fn path(&self) -> &str {
        let asked = self.target.unwrap_or(&self.call.head.uri);
        let path = asked.path_and_query().map_or("/", PathAndQuery::as_str);
        if path.starts_with('/') { path } else { "/" } // `OPTIONS *`
    }
}

impl Check {
    /// Asks, and notes the decision. `target`: that of the application, where it differs from the one that came. `route`:
    /// the way to the application.
    ///
    /// # Errors
    /// `authz_denied` for gRPC calls, `authz_unavailable`, or why the client's body was not read. Where there is no memory for
    /// the body, that is `overloaded`, and no decision of authorization.
    pub(super) async fn run(
        &self,
        call: &mut Call,
        target: Option<&Uri>,
        route: &Route,
        carry: impl Carry,
    ) -> Result<Checked, Error> {
        // What `Connection` names does not reach the application, so it must not reach the authorizer.
        remove_connection_headers(call)?;
        let began = Instant::now();
        call.common.exchange.note(|facts| facts.authorizer = Some((began, None)));
        let body = match self.authorizer.of.with_body {
            None => Vec::new(),
            Some(most) => match collect(call, route, most).await {
                Ok(body) => body,
                Err(Uncollected::Broken(error)) => return Err(error),
                Err(Uncollected::TooLong(error)) => {
                    return self.note(call, self.by.denied_outside(error), None);
                }
                Err(Uncollected::NoRoom(error)) if self.by.is_enforced() => return Err(error),
                Err(Uncollected::NoRoom(_)) => return self.note(call, self.by.decided(self.judged), None),
            },
        };
        let subject = Subject { authorizer: &self.authorizer, call, target };
        let question = match subject.question(body) {
            Ok(question) => question,
            Err(why) => {
                let detail = format!("the external authorizer cannot be asked: {why}");
                let denied = self.by.denied_outside(Error::new(Reason::AuthzDenied, detail));
                return self.note(call, denied, None);
            }
        };
        let answer = self.answer(&subject, question, carry).await;
        call.common.exchange.note(|facts| facts.authorizer = Some((began, Some(Instant::now()))));
        self.judge(call, answer)
    }

    async fn answer(
        &self,
        subject: &Subject<'_>,
        question: Box<Call>,
        carry: impl Carry,
    ) -> Result<Verdict, Error> {
        let timeout = self.authorizer.of.timeout;
        let until = Instant::now() + timeout;
        let late = |_elapsed| unavailable(format!("no answer within {timeout:?} (ext_authz.timeout)"));
        let answer = timeout_at(until, carry(question)).await.map_err(late)?;
        let (head, body) = answer.map_err(|FailedCall { error, .. }| error)?.into_parts();
        // read in any case, so that the connection can be used again
        let content = timeout_at(until, whole(body, subject.call.common.exchange.room())).await;
        let content = content.map_err(late).flatten();
        let verdict = match &self.authorizer.of.service {
            AuthorizerService::Http(_) => over_http::verdict(*head, content),
            AuthorizerService::Grpc(_) => over_grpc::verdict(&head, content),
        };
        if verdict.is_ok() {
            self.authorizer.answered(Instant::now());
        }
        verdict
    }

    fn judge(&self, call: &Call, answer: Result<Verdict, Error>) -> Result<Checked, Error> {
        match answer {
            Ok(Verdict::Allowed(allowed)) => {
                self.authorizer.count(CheckOutcome::Allowed);
                let allowed = if self.by.is_enforced() { allowed } else { Allowed::default() };
                self.note(call, self.by.decided(self.judged), None).map(|_nothing| Checked::Passes(allowed))
            }
            Ok(Verdict::Denied(denial)) => {
                self.authorizer.count(CheckOutcome::Denied);
                let detail = format!(
                    "the external authorizer at {} answered {}",
                    self.authorizer.of.service, denial.status
                );
                let status = opens_nothing(denial.status.as_u16(), call);
                let status = StatusCode::from_u16(status).unwrap_or(StatusCode::FORBIDDEN);
                let judgement = self.by.denied_outside(Error::new(Reason::AuthzDenied, detail));
                self.note(call, judgement, Some(Denial { status, ..denial }))
            }
            Err(why) => self.failed(call, &why),
        }
    }

    /// Decides on a request for which the authorizer, or the way to it, has failed.
    fn failed(&self, call: &Call, why: &Error) -> Result<Checked, Error> {
        self.authorizer.count(CheckOutcome::Failed);
        self.authorizer.failed(why, Instant::now());
        let detail = format!("the external authorizer at {} failed: {why}", self.authorizer.of.service);
        if self.authorizer.of.on_error == Action::Allow && is_by_authorizer(why.reason) {
            tracing::debug!(request = call.common.exchange.id(), "{detail}");
            return self.note(call, self.by.decided(self.judged), None);
        }
        let key =
            if self.authorizer.of.on_error == Action::Deny { " (ext_authz.on_error is deny)" } else { "" };
        let error = Error::new(Reason::AuthzUnavailable, detail + key);
        self.note(call, self.by.denied_outside(error), None)
    }

    fn note(
        &self,
        call: &Call,
        (decided, judged): Judgement,
        denial: Option<Denial>,
    ) -> Result<Checked, Error> {
        call.common.exchange.note(|facts| facts.common.authorization = Some(decided));
        match (judged, denial) {
            (Ok(()), _) => Ok(Checked::Passes(Allowed::default())),
            (Err(error), Some(denial)) => {
                let exchange = &call.common.exchange;
                exchange.failed(&error);
                let answer = answer::of_authorizer(&error, denial, exchange, call.common.is_grpc);
                Ok(Checked::Denied(answer))
            }
            (Err(error), None) => Err(error),
        }
    }
}

/// A denial with nothing but its status.
fn plain_denial(status: StatusCode) -> Verdict {
    let headers = Headers::Map(HeaderMap::new());
    Verdict::Denied(Denial { status, headers, body: Bytes::new() })
}

/// A denial that cannot be forwarded as the authorizer wrote it.
fn unsendable_denial(why: impl std::fmt::Display) -> Verdict {
    tracing::debug!("a denial of the external authorizer is replaced by a plain 403: {why}");
    plain_denial(StatusCode::FORBIDDEN)
}

fn unavailable(why: impl std::fmt::Display) -> Error {
    Error::new(Reason::AuthzUnavailable, why.to_string())
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

impl Subject<'_> {
    /// The request to the authorizer. `body`: that of the client's request, or nothing.
    ///
    /// # Errors
    /// Why this request cannot be asked about.
    fn question(&self, body: Vec<u8>) -> Result<Box<Call>, String> {
        if self.call.head.method == Method::CONNECT {
            return Err("a CONNECT has no path".to_owned());
        }
        let headers = self.headers()?;
        match &self.authorizer.of.service {
            AuthorizerService::Http(at) => over_http::question(self, at, headers, body),
            AuthorizerService::Grpc(_) => over_grpc::question(self, &headers, body),
        }
    }

    /// The headers of the request that the authorizer gets, and what the sidecar knows itself.
    ///
    /// # Errors
    /// The request has one of the headers in another spelling, which the application might read and the authorizer not.
    fn headers(&self) -> Result<HeaderMap, String> {
        let (mut map, call) = (HeaderMap::new(), self.call);
        for name in &self.authorizer.of.send_headers {
            let Ok(header) = HeaderName::try_from(name.as_str()) else { continue };
            let wanted = name.as_bytes();
            for (other, value) in call.head.headers.iter().filter(|(other, _)| are_read_alike(other, wanted))
            {
                if !other.eq_ignore_ascii_case(wanted) {
                    return Err(format!("the request has its header `{name}` in another spelling"));
                }
                let value = HeaderValue::from_bytes(value);
                map.append(
                    header.clone(),
                    value.map_err(|_bad| format!("its header `{name}` is malformed"))?,
                );
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
        set("x-forwarded-client-cert", call.common.exchange.client_cert().cloned());
        set("x-request-id", HeaderValue::from_bytes(call.common.exchange.request_id.as_bytes()).ok());
        Ok(map)
    }
}

/// A request of the sidecar's own to the authorizer.
fn request(of: &Subject<'_>, head: RequestHead, host: Option<Value>, body: Body) -> Box<Call> {
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
