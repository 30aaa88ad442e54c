//! Verifies a token (RFC 7519): its form, its signature, and what it says of its issuer, audience and time.
//!
//! The crate `jsonwebtoken` checks signatures. The rest is read here, and more strictly: names that stand there twice,
//! critical extensions, other than canonical base64url and issuers that are a list are refused, and the clock is the
//! caller's. The key decides on the algorithm ([`KeySet`]). Keys and addresses of keys in a token (`jwk`, `jku`, `x5c`, `x5u`)
//! are never looked at.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::crypto;
use pillion_model::authorization::{Authorization, Jwt};
use serde_json::Value;

use crate::claims::{Claims, TooManyMembers, Unambiguous};
use crate::keys::{KeySet, spells};

/// 8 KiB: most servers accept no longer line of a head.
pub const MOST_BYTES: usize = 8 * 1024;
/// 30 s: how far the clock of the issuer may differ from ours.
pub const LEEWAY: u64 = 30;
/// 4: a signature takes much longer than everything else about a request, and anybody can send a token that names no key.
const MOST_TRIED: usize = 4;

/// Which tokens are accepted, and which of their claims are kept.
pub struct Verifier {
    issuer: Box<str>,
    audiences: Box<[Box<str>]>,
    wanted: Box<[Box<str>]>,
}

/// What a token has proven.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Verified {
    pub claims: Claims,
    /// The Unix seconds between which the token is accepted.
    not_before: u64,
    not_after: u64,
}

/// Why a token is not accepted. The sentences say nothing that the sender does not know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the token has more than {MOST_BYTES} bytes")]
    TooLong,
    #[error("the token is not three parts of base64url with dots between them (RFC 7515)")]
    Form,
    #[error("the header of the token is not valid JSON: {0}")]
    Header(String),
    #[error("the token has an extension that is not supported (`{0}` in its header)")]
    Extension(&'static str),
    #[error("the token is of another kind than those that give access (`typ` in its header)")]
    Kind,
    #[error("the token is bound to a key of its holder (`cnf`), which is not verified here")]
    Bound,
    #[error("no key of the issuer has the `kid` of the token")]
    UnknownKey,
    #[error("the `alg` of the token is none that its key allows")]
    Algorithm,
    #[error("the token names no key, and too many keys of the issuer may have signed it")]
    TooManyKeys,
    #[error("the signature of the token is wrong")]
    Signature,
    #[error("the claims of the token are not valid JSON: {0}")]
    Claims(String),
    #[error("the token has no valid `{0}`")]
    Lacks(&'static str),
    #[error("the token is of another issuer (`iss`)")]
    Issuer,
    #[error("the token is for another audience (`aud`)")]
    Audience,
    #[error("the token has expired (`exp`)")]
    Expired,
    #[error("the token is not valid yet (`nbf`)")]
    TooEarly,
    #[error("the token cannot be judged: {0}")]
    TooMany(#[from] TooManyMembers),
}

impl Verified {
    pub fn is_valid_at(&self, now: u64) -> bool {
        (self.not_before..self.not_after).contains(&now)
    }
}

impl Verifier {
    pub fn new(jwt: &Jwt, of: &Authorization) -> Self {
        Self {
            issuer: jwt.issuer.as_str().into(),
            audiences: jwt.audiences.iter().map(|audience| audience.as_str().into()).collect(),
            wanted: Claims::wanted(&of.rules),
        }
    }

    /// `now` is in Unix seconds.
    ///
    /// # Errors
    /// The token is not accepted.
    pub fn verify(&self, token: &[u8], keys: &KeySet, now: u64) -> Result<Verified, Refusal> {
        let token = Parts::of(token)?;
        token.check_signature(keys)?;
        let Unambiguous(claims) =
            serde_json::from_slice(&token.claims).map_err(|error| Refusal::Claims(error.to_string()))?;
        let (not_before, not_after) = times(&claims)?;
        let verified = Verified { claims: Claims::of(&claims, &self.wanted)?, not_before, not_after };
        match claims.get("iss").and_then(Value::as_str) {
            None => return Err(Refusal::Lacks("iss")),
            Some(issuer) if *issuer != *self.issuer => return Err(Refusal::Issuer),
            Some(_) => {}
        }
        self.check_audience(claims.get("aud"))?;
        // RFC 8705, 3.1, and RFC 9449, 4: who shows it must prove to have the key. Nothing here asks for that proof.
        if claims.get("cnf").is_some() {
            return Err(Refusal::Bound);
        }
        match verified.is_valid_at(now) {
            true => Ok(verified),
            false if now < not_before => Err(Refusal::TooEarly),
            false => Err(Refusal::Expired),
        }
    }

    fn check_audience(&self, audience: Option<&Value>) -> Result<(), Refusal> {
        let is_ours = |one: &str| self.audiences.iter().any(|ours| **ours == *one);
        let is_for_us = match audience {
            Some(Value::String(one)) => is_ours(one),
            Some(Value::Array(all)) => all.iter().filter_map(Value::as_str).any(is_ours),
            _ => return Err(Refusal::Lacks("aud")),
        };
        if is_for_us { Ok(()) } else { Err(Refusal::Audience) }
    }
}

/// From when and until when the token is accepted.
fn times(claims: &Value) -> Result<(u64, u64), Refusal> {
    let expires = claims.get("exp").and_then(seconds).ok_or(Refusal::Lacks("exp"))?;
    let begins = match claims.get("nbf") {
        None => 0,
        Some(begins) => seconds(begins).ok_or(Refusal::Lacks("nbf"))?,
    };
    Ok((begins.saturating_sub(LEEWAY), expires.saturating_add(LEEWAY)))
}

/// A NumericDate, which may have a fraction (RFC 7519, 2).
fn seconds(of: &Value) -> Option<u64> {
    let Value::Number(number) = of else { return None };
    let of_fraction = || number.as_f64().filter(|it| *it >= 0.0 && *it < 1e15).map(|it| it as u64);
    number.as_u64().or_else(of_fraction)
}

/// Whether the refused token may be good by keys that are newer than `keys`: it names none of them, or its signature is by
/// none of those that have no name.
pub fn may_be_of_newer_key(why: &Refusal, token: &[u8], keys: &KeySet) -> bool {
    match why {
        Refusal::UnknownKey => true,
        Refusal::Signature | Refusal::Algorithm => {
            Parts::of(token).is_ok_and(|token| token.key().is_none_or(|kid| !keys.names(kid)))
        }
        _ => false,
    }
}

/// Whether a `typ` is that of an access token, or says nothing but that it is a JWT. An issuer signs other kinds with the same
/// keys, such as logout tokens and proofs of possession, which must not pass for one (RFC 8725, 3.11 and 3.12; RFC 9068,
/// 4). The names are media types, whose case does not matter (RFC 7515, 4.1.9).
fn gives_access(typ: &Value) -> bool {
    let Value::String(text) = typ else { return false };
    let name = text.to_ascii_lowercase();
    matches!(name.strip_prefix("application/").unwrap_or(&name), "jwt" | "jose" | "at+jwt")
}

/// A token whose form is right.
struct Parts<'a> {
    header: Value,
    claims: Vec<u8>,
    /// What was signed.
    message: &'a [u8],
    signature: &'a str,
}

impl<'a> Parts<'a> {
    fn of(token: &'a [u8]) -> Result<Self, Refusal> {
        if token.len() > MOST_BYTES {
            return Err(Refusal::TooLong);
        }
        let text = std::str::from_utf8(token).map_err(|_not_text| Refusal::Form)?;
        let mut parts = text.split('.');
        let (Some(header), Some(claims), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(Refusal::Form);
        };
        let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_bad| Refusal::Form);
        let (header, claims, _checked) = (decode(header)?, decode(claims)?, decode(signature)?);
        let Unambiguous(header) =
            serde_json::from_slice(&header).map_err(|error| Refusal::Header(error.to_string()))?;
        let message = token.get(..token.len() - signature.len() - 1).unwrap_or_default();
        if !header.is_object() {
            return Err(Refusal::Header("it is no object".to_owned()));
        }
        // RFC 7515, 4.1.11: an extension that is not understood makes the token invalid; RFC 7797 has `b64`.
        for extension in ["crit", "b64"] {
            if header.get(extension).is_some() {
                return Err(Refusal::Extension(extension));
            }
        }
        if !header.get("typ").is_none_or(gives_access) {
            return Err(Refusal::Kind);
        }
        Ok(Self { header, claims, message, signature })
    }

    fn key(&self) -> Option<&str> {
        self.header.get("kid").and_then(Value::as_str)
    }

    fn check_signature(&self, keys: &KeySet) -> Result<(), Refusal> {
        let named = |name: &'static str| match self.header.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.as_str())),
            Some(_) => Err(Refusal::Header(format!("its `{name}` is no text"))),
        };
        let (kid, wanted) = (named("kid")?, named("alg")?.ok_or(Refusal::Algorithm)?);
        let mut is_known = false;
        let of = |key: &crate::keys::Key| {
            key.algorithms.iter().find(|algorithm| spells(**algorithm, wanted)).copied()
        };
        let candidates = keys.of(kid).inspect(|_| is_known = true);
        let candidates: Vec<_> = candidates.filter_map(|key| Some((key, of(key)?))).collect();
        match candidates.len() {
            0 if is_known => return Err(Refusal::Algorithm),
            0 => return Err(Refusal::UnknownKey),
            1..=MOST_TRIED => {}
            _ => return Err(Refusal::TooManyKeys),
        }
        let is_by = |(key, algorithm): &(&crate::keys::Key, _)| {
            crypto::verify(self.signature, self.message, &key.public, *algorithm).unwrap_or(false)
        };
        if candidates.iter().any(is_by) { Ok(()) } else { Err(Refusal::Signature) }
    }
}
