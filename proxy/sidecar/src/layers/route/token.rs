//! Finds the token of an inbound request, and has it verified.

use std::sync::Arc;
use std::time::SystemTime;

use http::HeaderName;
use pillion_authz::token::Verified;
use pillion_telemetry::TokenOutcome;

use crate::state::tokens::{BadToken, Tokens};
use pillion_base::error::{Error, ErrorAnswer};
use pillion_http::message::Headers;
use pillion_http::seen::are_read_alike;
use pillion_model::Reason;
use pillion_model::authorization::Jwt;

/// What the request's token has proven. `None`: it has none, and needs none.
///
/// # Errors
/// `jwt_invalid`, or `authz_unavailable` while there are no keys.
pub(super) fn verified(by: &Tokens, headers: &Headers) -> Result<Option<Arc<Verified>>, Error> {
    let (outcome, verified) = match carried(&by.of, headers) {
        Err(why) => (TokenOutcome::Invalid, Err(invalid(why))),
        Ok(None) if by.of.required => (TokenOutcome::Absent, Err(missing(&by.of))),
        Ok(None) => (TokenOutcome::Absent, Ok(None)),
        Ok(Some(token)) => match by.verify(token, now()) {
            Ok(verified) => (TokenOutcome::Verified, Ok(Some(verified))),
            Err(why @ BadToken::NoKeys(_)) => {
                (TokenOutcome::NoKeys, Err(Error::new(Reason::AuthzUnavailable, why.to_string())))
            }
            Err(why @ BadToken::Refused(_)) => (TokenOutcome::Invalid, Err(invalid(why))),
        },
    };
    by.count(outcome);
    verified
}

fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn missing(of: &Jwt) -> Error {
    let detail = format!(
        "the request has no token in its header `{}` (inbound.authorization.jwt requires one)",
        of.header
    );
    Error::new(Reason::JwtInvalid, detail).answered(ErrorAnswer::TokenMissing)
}

fn invalid(why: impl std::fmt::Display) -> Error {
    Error::new(Reason::JwtInvalid, format!("{why} (inbound.authorization.jwt)"))
        .answered(ErrorAnswer::TokenInvalid)
}

/// The token that the request carries. Of several fields that an application could read as the one with the token, it
/// might read another one than the sidecar.
fn carried<'a>(of: &Jwt, headers: &'a Headers) -> Result<Option<&'a [u8]>, String> {
    let wanted = of.header.as_bytes();
    let mut alike = headers.iter().filter(|(name, _)| are_read_alike(name, wanted));
    let Some((name, value)) = alike.next() else { return Ok(None) };
    if alike.next().is_some() {
        return Err(format!("the request has several headers `{}`", of.header));
    }
    if !name.eq_ignore_ascii_case(wanted) {
        return Err(format!("the request has its header `{}` in another spelling", of.header));
    }
    if value.trim_ascii().iter().any(|byte| !matches!(byte, b' '..=b'~')) {
        return Err(format!("the request's header `{}` has a byte that is not printable ASCII", of.header));
    }
    match (bearer(value)?, of.header == Jwt::HEADER) {
        (None, false) => Ok(Some(value.trim_ascii())),
        (token, _) => Ok(token),
    }
}

/// What follows the word `Bearer`, in any case (RFC 9110, 11.1). The word ends at a space. `None`: another scheme.
///
/// # Errors
/// The word has another end, at which an application might find a token.
fn bearer(value: &[u8]) -> Result<Option<&[u8]>, String> {
    const SCHEME: &[u8] = b"bearer";
    let Some((word, rest)) = value.trim_ascii().split_at_checked(SCHEME.len()) else { return Ok(None) };
    match rest.first() {
        _ if !word.eq_ignore_ascii_case(SCHEME) => Ok(None),
        None | Some(b' ') => Ok(Some(rest.trim_ascii())),
        Some(_) => Err("the word `Bearer` has no space behind it".to_owned()),
    }
}

/// Removes the token from a request, once it has been verified.
pub(super) struct WithoutToken(Option<HeaderName>);

impl WithoutToken {
    pub(super) fn new(by: &Tokens) -> Self {
        Self(HeaderName::try_from(by.of.header.as_str()).ok()) // the name was checked with the configuration
    }

    pub(super) fn apply(self, headers: &mut Headers) {
        if let Some(name) = self.0 {
            headers.remove_named(&name);
        }
    }
}
