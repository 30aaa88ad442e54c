//! Judges an inbound request by its token and the authorization rules.
//!
//! Where rules for the port name paths or an external authorizer is asked, the application receives the path that was
//! judged, in origin-form.

use std::sync::Arc;

use http::uri::PathAndQuery;
use http::{Method, Uri, Version};
use pillion_authz::{Asked, Claims, Facts, Headers as HeadersOf};

use super::external::{Allowed, Check, Checked, HeaderChanges};
use super::token::{self, WithoutToken};
use super::{Carry, host_text};
use crate::http::{Call, Response};
use crate::layers::headers::scheme;
use crate::state::Route;
use crate::state::authorization::{Authorization, Decided, Judgement};
use crate::state::split_port;
use crate::state::tokens::Tokens;
use pillion_base::error::Error;
use pillion_http::message::{Headers, RequestHead};
use pillion_http::seen::{Seen, are_read_alike};
use pillion_http1::Known;
use pillion_model::Reason;
use pillion_model::authorization::path::JudgedPath;

/// What the application receives otherwise than it came.
pub(super) struct Changes {
    target: Option<Uri>,
    without: Option<WithoutToken>,
    check: Option<Check>,
}

/// What the authorizer changes of the application's answer. `None`: nothing.
pub(super) type AnswerChanges = Option<Box<HeaderChanges>>;

impl Changes {
    /// Changes the request, after the external authorizer has been asked about it. `route`: its way to the application.
    /// The second value is the answer for the client if it is denied.
    ///
    /// # Errors
    /// `authz_unavailable`, or why the client's body was not read for the authorizer.
    pub(super) async fn apply(
        self,
        call: &mut Call,
        route: &Route,
        carry: impl Carry,
    ) -> Result<(AnswerChanges, Option<Response>), Error> {
        let allowed = match &self.check {
            None => Allowed::default(),
            Some(check) => match check.run(call, self.target.as_ref(), route, carry).await? {
                Checked::Passes(allowed) => allowed,
                Checked::Denied(answer) => return Ok((None, Some(answer))),
            },
        };
        if let Some(target) = self.target {
            call.head_mut().uri = target;
        }
        if let Some(without) = self.without {
            without.apply(&mut call.head_mut().headers);
        }
        let Allowed { request, answer } = allowed;
        if !request.is_empty() {
            request.apply(&mut call.head_mut().headers);
            call.seen = Seen::of(&call.head.headers);
        }
        Ok(((!answer.is_empty()).then(|| Box::new(answer)), None))
    }
}

/// Judges the request, and notes the decision for the access log.
///
/// # Errors
/// `jwt_invalid`, `authz_unavailable`, `authz_denied`, or `bad_request` for a path that two readers could see
/// differently.
pub(super) fn authorize(
    by: &Arc<Authorization>,
    call: &Call,
    port: u16,
) -> Result<Option<Box<Changes>>, Error> {
    let verified = match by.tokens.as_ref().map(|tokens| token::verified(tokens, &call.head.headers)) {
        None => None,
        Some(Ok(verified)) => verified,
        Some(Err(why)) => return note(by.bad_token(why), call).map(|()| None),
    };
    let claims = verified.as_ref().map(|verified| &verified.claims);
    let (target, check) = judge(by, call, port, claims)?;
    let hides = |tokens: &&Tokens| verified.is_some() && !tokens.of.forward && by.is_enforced();
    let without = by.tokens.as_ref().filter(hides).map(WithoutToken::new);
    let is_changed = target.is_some() || without.is_some() || check.is_some();
    Ok(is_changed.then(|| Box::new(Changes { target, without, check })))
}

/// Returns the target for the application where it differs from the one that came, and the check that is left.
fn judge(
    by: &Arc<Authorization>,
    call: &Call,
    port: u16,
    claims: Option<&Claims>,
) -> Result<(Option<Uri>, Option<Check>), Error> {
    let host = clear_host(host_text(call))?;
    let path = if by.judges_paths(port) { path_of(&call.head) } else { None };
    let path = match path.map(|path| JudgedPath::of(path, by.encoded_slash())).transpose() {
        Ok(path) => path,
        Err(why) => return note(by.bad_path(why), call).map(|()| (None, None)),
    };
    let connection = &call.common.exchange.connection;
    let request = Asked {
        method: call.head.method.as_str(),
        path: path.as_ref(),
        host: call.common.host.is_some().then_some(host),
        headers: &Sent { call, host: host_text(call) },
        claims,
    };
    let facts = Facts {
        peer: connection.peer.as_ref().map(|peer| &peer.id),
        source: connection.downstream.ip(),
        port,
        request: Some(request),
    };
    let judged = by.judge(&facts);
    let check = match by.authorizer_after(judged) {
        Some(authorizer) => Some(Check { by: by.clone(), authorizer: authorizer.clone(), judged }),
        None => note(by.decided(judged), call).map(|()| None)?,
    };
    let target = path.filter(|_| by.is_enforced()).map(|path| target(&call.head, &path)).transpose()?;
    Ok((target.flatten(), check))
}

/// Splits the host into its name and its port.
///
/// # Errors
/// `bad_request` for a host from which an application could read another name.
pub(super) fn clear_host(text: &str) -> Result<(&str, Option<u16>), Error> {
    let refused = |detail| Err(Error::new(Reason::BadRequest, detail));
    if text.contains('@') {
        return refused("the request's host has user information before an @");
    }
    match split_port(text) {
        (name, _) if name.contains(':') && !name.starts_with('[') => {
            refused("the port of the request's host is not a number up to 65535")
        }
        host => Ok(host),
    }
}

fn note((decided, judged): Judgement, call: &Call) -> Result<(), Error> {
    call.common.exchange.note(|facts| facts.common.authorization = Some(decided));
    let Decided { decision, .. } = decided;
    tracing::debug!(request = call.common.exchange.id(), decision = decision.as_str(), "request judged");
    judged
}

/// The path of the request. CONNECT and `OPTIONS *` have none.
pub(super) fn path_of(head: &RequestHead) -> Option<&str> {
    let is_connect = head.method == Method::CONNECT && head.protocol.is_none() && head.uri.path().is_empty();
    let is_all = head.method == Method::OPTIONS && head.uri.path() == "*";
    (!is_connect && !is_all).then(|| head.uri.path())
}

/// The target with the path as it was judged, if the target of the head is another.
fn target(head: &RequestHead, path: &JudgedPath<'_>) -> Result<Option<Uri>, Error> {
    let is_absolute = head.version != Version::HTTP_2 && head.uri.authority().is_some();
    if path.forwarded == head.uri.path() && !is_absolute {
        return Ok(None);
    }
    let unread =
        |_| Error::new(Reason::BadRequest, "the request's path cannot be forwarded as it was judged");
    let text = match head.uri.query() {
        Some(query) => format!("{}?{query}", path.forwarded),
        None => path.forwarded.clone().into_owned(),
    };
    let path = PathAndQuery::try_from(text).map_err(unread)?;
    if is_absolute {
        return Ok(Some(Uri::from(path)));
    }
    let mut parts = head.uri.clone().into_parts();
    parts.path_and_query = Some(path);
    Uri::from_parts(parts).map(Some).map_err(|_parts| {
        Error::new(Reason::BadRequest, "the request's target cannot be forwarded as it was judged")
    })
}

/// The headers as the application gets them.
struct Sent<'a> {
    call: &'a Call,
    host: &'a str,
}

impl Sent<'_> {
    /// The value that the sidecar adds for the application where the request has none.
    fn added(&self, name: &str) -> Option<&str> {
        match name {
            "x-forwarded-host" => Some(self.host).filter(|host| !host.is_empty()),
            "x-forwarded-proto" => Some(scheme(&self.call.common.exchange.connection)),
            _ => None,
        }
    }
}

impl HeadersOf for Sent<'_> {
    fn values(&self, name: &str, each: &mut dyn FnMut(&[u8], bool)) {
        let headers = &self.call.head.headers;
        if name == "x-forwarded-proto" && self.call.common.exchange.connection.outside.is_some() {
            return each(b"https", true); // the layer `headers` replaces what the client sent
        }
        if !sent_values(headers, self.call.seen.has(Seen::CONNECTION), name, each) {
            self.added(name).into_iter().for_each(|value| each(value.as_bytes(), true));
        }
    }
}

/// Calls `each` with the values of a header that the client sent. Returns whether one of them certainly reaches the
/// application. `has_connection`: there is the header `Connection`, which may name others.
pub(super) fn sent_values(
    headers: &Headers,
    has_connection: bool,
    name: &str,
    each: &mut dyn FnMut(&[u8], bool),
) -> bool {
    if name == "cookie" && joined_cookies(headers, each) {
        return true;
    }
    let is_named = has_connection && is_in_connection(headers, name);
    let mut is_there = false;
    for (other, value) in headers.iter().filter(|(other, _)| are_read_alike(other, name.as_bytes())) {
        let is_certain = !is_named && other.eq_ignore_ascii_case(name.as_bytes());
        each(value, is_certain);
        is_there |= is_certain;
    }
    is_there
}

/// Calls `each` with the lines of `cookie` as one, as they are written for HTTP/1. Returns whether there are several
/// lines.
fn joined_cookies(headers: &Headers, each: &mut dyn FnMut(&[u8], bool)) -> bool {
    let crumbs: Vec<&[u8]> = headers.all(Known::Cookie).collect();
    let has_several = matches!(headers, Headers::Map(_)) && crumbs.len() > 1;
    if has_several {
        each(&crumbs.join(&b"; "[..]), true);
    }
    has_several
}

/// Whether `Connection` names the field, which then does not reach the application.
fn is_in_connection(headers: &Headers, name: &str) -> bool {
    let mut elements = headers.all(Known::Connection).flat_map(|line| line.split(|byte| *byte == b','));
    elements.any(|element| element.trim_ascii().eq_ignore_ascii_case(name.as_bytes()))
}
