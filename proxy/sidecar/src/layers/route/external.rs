//! Asks the external authorizer about an inbound request, in one of Envoy's protocols (`envoy.service.auth.v3`).
//!
//! The question has the request's method, path and host, the chosen headers, and what the sidecar has verified of the
//! client; its body, where the configuration says so. [`over_http`] and [`over_grpc`] write the question and read the
//! answer. Only where no answer came, or the authorizer says that it has failed, does `on_error` decide: a client has a
//! part in what an answer has, so an answer that cannot be read denies. So does a denial that cannot be forwarded as it
//! came, and a request that cannot be asked about.

mod changes;
mod content;
mod messages;
mod over_grpc;
mod over_http;
mod subject;

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, StatusCode, Uri};
use pillion_telemetry::CheckOutcome;
use tokio::time::{Instant, timeout_at};

use super::Carry;
use crate::http::answer::{self, Denial};
use crate::http::{Call, FailedCall, Response};
use crate::layers::headers::remove_connection_headers;
use crate::layers::opens_nothing;
use crate::state::Route;
use crate::state::authorization::{Authorization, Judged, Judgement};
use crate::state::authorizer::{Admission, Authorizer};
pub(super) use changes::HeaderChanges;
use content::{Content, Uncollected, collect};
use pillion_base::error::{Error, Sent};
use pillion_http::message::Headers;
use pillion_model::Reason;
use pillion_model::authorization::{Action, AuthorizerService};
pub(super) use subject::cannot_be_asked;
use subject::{Subject, denial_of_unasked};

/// What the authorizer has answered.
enum Verdict {
    Allowed(Allowed),
    Denied(Denial),
}

/// Why there is no verdict.
enum Unjudged {
    /// No byte of an answer came.
    Silent(String),
    /// No connection could be made, so that no request can have caused it.
    Unreachable(String),
    /// The authorizer says that it has failed itself.
    Failed(String),
    /// An answer came, or a part of one, that is no verdict. It may have been meant to deny.
    Unreadable(String),
    /// It was not asked, because it has not answered before.
    CircuitOpen,
    /// A limit of this sidecar was reached. A client that sends much reaches it at will.
    Limited(Error),
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

impl Check {
    /// Asks, and notes the decision. `target`: that of the application, where it differs from the one that came. `route`:
    /// the way to the application.
    ///
    /// # Errors
    /// `authz_denied` for gRPC calls, `authz_unavailable`, or why the client's body was not read. Where there is no memory for
    /// the body or the answer, that is `overloaded`, and no decision of authorization.
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
        let body = match self.body(call, route).await {
            Ok(body) => body,
            Err(why) => return self.uncollected(call, why),
        };
        let subject = Subject { authorizer: &self.authorizer, call, target };
        let question = match subject.question(body) {
            Ok(question) => question,
            Err(why) => return self.denied(call, Reason::AuthzDenied, denial_of_unasked(&why)),
        };
        let answer = self.answer(question, call, carry).await;
        call.common.exchange.note(|facts| facts.authorizer = Some((began, Some(Instant::now()))));
        match answer {
            Ok(verdict) => self.judge(call, verdict),
            Err(why) => self.unjudged(call, why),
        }
    }

    /// The request's body, where the authorizer gets it.
    async fn body(&self, call: &mut Call, route: &Route) -> Result<Vec<u8>, Uncollected> {
        match self.authorizer.of.with_body {
            None => Ok(Vec::new()),
            Some(most) => collect(call, route, most).await,
        }
    }

    /// The answer, within the timeout, unless the authorizer is not asked now.
    async fn answer(&self, question: Box<Call>, call: &Call, carry: impl Carry) -> Result<Verdict, Unjudged> {
        let admission = self.authorizer.admit(Instant::now()).ok_or(Unjudged::CircuitOpen)?;
        let mut probe =
            ProbeUnderWay { authorizer: &self.authorizer, is_probe: admission == Admission::Probe };
        let answer = self.asked(question, call, carry).await;
        probe.is_probe &= matches!(answer, Err(Unjudged::Limited(_))); // a limit of the sidecar tells nothing
        self.learn(&answer, admission, Instant::now());
        answer
    }

    async fn asked(&self, question: Box<Call>, call: &Call, carry: impl Carry) -> Result<Verdict, Unjudged> {
        let timeout = self.authorizer.of.timeout;
        let until = Instant::now() + timeout;
        let exchange = question.common.exchange.clone();
        let late = |_elapsed| {
            let detail = format!("no answer within {timeout:?} (ext_authz.timeout)");
            FailedCall::from(Error::new(Reason::RequestTimeout, detail).sent(Sent::Perhaps))
        };
        let answer = timeout_at(until, carry(question)).await.map_err(late).flatten();
        let answer = answer.map_err(|failed| {
            without_head(failed.error, exchange.has_answer_begun(), self.resets_streams())
        })?;
        let ((head, body), room) = (answer.into_parts(), call.common.exchange.room());
        match &self.authorizer.of.service {
            AuthorizerService::Http(_) => over_http::verdict(*head, body, room, until).await,
            AuthorizerService::Grpc(_) => over_grpc::verdict(&head, Content::read(body, room, until).await),
        }
    }

    /// Whether it may reset a single request: over HTTP/2 that is an answer, and servers reset what is too large to answer.
    fn resets_streams(&self) -> bool {
        matches!(self.authorizer.of.service, AuthorizerService::Grpc(_))
    }

    /// Tells the circuit and the log how the authorizer did.
    fn learn(&self, answer: &Result<Verdict, Unjudged>, admission: Admission, now: Instant) {
        let of = &self.authorizer;
        match answer {
            Err(Unjudged::Limited(_) | Unjudged::CircuitOpen) => return,
            Err(Unjudged::Unreachable(why)) => {
                of.failed(why, now);
                return of.was_unreachable(admission, now);
            }
            Err(Unjudged::Silent(why) | Unjudged::Failed(why)) => of.failed(why, now),
            Err(Unjudged::Unreadable(why)) => of.was_unreadable(why, now),
            Ok(_) => of.judged(now),
        }
        of.was_reached();
    }

    fn judge(&self, call: &Call, verdict: Verdict) -> Result<Checked, Error> {
        match verdict {
            Verdict::Allowed(allowed) => {
                self.authorizer.count(CheckOutcome::Allowed);
                let allowed = if self.by.is_enforced() { allowed } else { Allowed::default() };
                self.passes(call).map(|_nothing| Checked::Passes(allowed))
            }
            Verdict::Denied(denial) => {
                self.authorizer.count(CheckOutcome::Denied);
                let at = &self.authorizer.of.service;
                let detail = format!("the external authorizer at {at} answered {}", denial.status);
                let status = opens_nothing(denial.status.as_u16(), call);
                let status = StatusCode::from_u16(status).unwrap_or(StatusCode::FORBIDDEN);
                let judgement = self.by.denied_outside(Error::new(Reason::AuthzDenied, detail));
                self.note(call, judgement, Some(Denial { status, ..denial }))
            }
        }
    }

    /// Decides on a request without a verdict.
    fn unjudged(&self, call: &Call, why: Unjudged) -> Result<Checked, Error> {
        let at = &self.authorizer.of.service;
        match why {
            Unjudged::Silent(why) | Unjudged::Unreachable(why) | Unjudged::Failed(why) => {
                self.authorizer.count(CheckOutcome::Failed);
                self.by_on_error(call, format!("the external authorizer at {at} failed: {why}"))
            }
            Unjudged::CircuitOpen => {
                self.authorizer.count(CheckOutcome::CircuitOpen);
                let detail = "could not be reached several times in a row, and is not asked now";
                self.by_on_error(call, format!("the external authorizer at {at} {detail}"))
            }
            Unjudged::Unreadable(why) => {
                self.authorizer.count(CheckOutcome::Unreadable);
                let detail = format!("the answer of the external authorizer at {at} is no verdict: {why}");
                self.denied(call, Reason::AuthzUnavailable, detail)
            }
            Unjudged::Limited(error) if error.reason == Reason::Overloaded => self.no_room(call, error),
            Unjudged::Limited(error) => {
                self.denied(call, Reason::AuthzUnavailable, denial_of_unasked(&error.to_string()))
            }
        }
    }

    /// Decides as the configuration says for an authorizer that fails.
    fn by_on_error(&self, call: &Call, detail: String) -> Result<Checked, Error> {
        match self.authorizer.of.on_error {
            Action::Allow => {
                tracing::debug!(request = call.common.exchange.id(), "{detail}");
                self.passes(call)
            }
            Action::Deny => {
                let detail = detail + " (ext_authz.on_error is deny)";
                self.denied(call, Reason::AuthzUnavailable, detail)
            }
        }
    }

    /// Decides on a request whose body the authorizer does not get.
    fn uncollected(&self, call: &Call, why: Uncollected) -> Result<Checked, Error> {
        match why {
            Uncollected::Broken(error) => Err(error),
            Uncollected::TooLong(error) => self.note(call, self.by.denied_outside(error), None),
            Uncollected::NoRoom(error) => self.no_room(call, error),
        }
    }

    /// There is no memory for a body or an answer now.
    fn no_room(&self, call: &Call, error: Error) -> Result<Checked, Error> {
        if self.by.is_enforced() { Err(error) } else { self.passes(call) }
    }

    fn passes(&self, call: &Call) -> Result<Checked, Error> {
        self.note(call, self.by.decided(self.judged), None)
    }

    fn denied(&self, call: &Call, reason: Reason, detail: String) -> Result<Checked, Error> {
        self.note(call, self.by.denied_outside(Error::new(reason, detail)), None)
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

/// What a check without the head of an answer came to. `has_begun`: a part of the head had come.
/// `resets_streams`: a reset is an answer.
fn without_head(error: Error, has_begun: bool, resets_streams: bool) -> Unjudged {
    let is_no_answer = match error.reason {
        Reason::ProtocolError | Reason::UpgradeFailed => true,
        Reason::UpstreamReset => resets_streams,
        _ => false,
    };
    let was_asked = error.sent != Sent::Never;
    match error.reason {
        _ if has_begun || (is_no_answer && was_asked) => Unjudged::Unreadable(error.to_string()),
        Reason::ConnectRefused | Reason::ConnectTimeout => Unjudged::Unreachable(error.to_string()),
        Reason::UpstreamReset | Reason::UpstreamClosed | Reason::ProtocolError | Reason::RequestTimeout => {
            Unjudged::Silent(error.to_string())
        }
        _ => Unjudged::Limited(error),
    }
}

/// The only check that is made during a pause. If it ends without a result, because its client leaves, the next one is made at
/// once.
struct ProbeUnderWay<'a> {
    authorizer: &'a Authorizer,
    is_probe: bool,
}

impl Drop for ProbeUnderWay<'_> {
    fn drop(&mut self) {
        if self.is_probe {
            self.authorizer.probe_was_given_up(Instant::now());
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_where_no_byte_of_an_answer_came_is_the_authorizer_silent() {
        let judged =
            |reason, sent, has_begun| without_head(Error::new(reason, "").sent(sent), has_begun, false);
        let kind = |reason, sent, has_begun| match judged(reason, sent, has_begun) {
            Unjudged::Silent(_) => "silent",
            Unjudged::Unreachable(_) => "unreachable",
            Unjudged::Unreadable(_) => "unreadable",
            Unjudged::Limited(_) => "limited",
            Unjudged::Failed(_) | Unjudged::CircuitOpen => "another",
        };
        for (reason, sent, has_begun, expected) in [
            (Reason::ConnectRefused, Sent::Never, false, "unreachable"),
            (Reason::ConnectTimeout, Sent::Never, false, "unreachable"),
            (Reason::RequestTimeout, Sent::Perhaps, false, "silent"),
            (Reason::RequestTimeout, Sent::Perhaps, true, "unreadable"),
            (Reason::UpstreamClosed, Sent::OnStaleConnection, false, "silent"),
            (Reason::UpstreamClosed, Sent::Perhaps, true, "unreadable"),
            (Reason::UpstreamReset, Sent::Perhaps, false, "silent"),
            (Reason::UpstreamReset, Sent::Perhaps, true, "unreadable"),
            (Reason::ProtocolError, Sent::Never, false, "silent"),
            (Reason::ProtocolError, Sent::Perhaps, false, "unreadable"),
            (Reason::UpgradeFailed, Sent::Perhaps, false, "unreadable"),
            (Reason::LimitPending, Sent::Never, false, "limited"),
            (Reason::LimitRequests, Sent::Never, false, "limited"),
            (Reason::Overloaded, Sent::Never, false, "limited"),
            (Reason::InternalError, Sent::Perhaps, false, "limited"),
        ] {
            assert_eq!(kind(reason, sent, has_begun), expected, "{reason:?} {sent:?} {has_begun}");
        }
        let reset = |sent| without_head(Error::new(Reason::UpstreamReset, "").sent(sent), false, true);
        assert!(matches!(reset(Sent::Perhaps), Unjudged::Unreadable(_)), "over HTTP/2 a reset is an answer");
        assert!(matches!(reset(Sent::Never), Unjudged::Silent(_)));
    }
}
