//! Words of the proxy's own domain as the file spells them: addresses, hosts, identities, modes.

mod access_log;
mod address;
mod authorization;
mod choice;
mod condition;
mod destination;
mod dns;
mod endpoint_socket;
mod hashed;
mod host;
mod kubernetes;
mod logs;
mod merge;
mod probe;
mod route;
mod sync;
mod tracing;

use serde_json::Value;

use address::names_a_host;
pub(crate) use address::{Target, Weight};
pub(crate) use authorization::{ClaimName, RuleName, Source, TokenHeader};
pub(crate) use choice::{AlwaysErrors, Choice, ClientMode, PostQuantum, TlsMode, choose, chosen};
pub(crate) use condition::{CONDITIONS, GRPC};
pub(crate) use dns::{DnsName, NameServer, SrvName};
pub(crate) use endpoint_socket::EndpointSocket;
pub(crate) use hashed::{CookieName, HashedHeader};
pub(crate) use host::{ServiceName, Sni};
use host::{is_host_name, split_port};
pub(crate) use kubernetes::ServicePort;
pub(crate) use logs::{CollectionName, FieldName, Glob};
pub(crate) use merge::SourceName;
pub(crate) use probe::{GrpcService, ProbeName, ProbePath};
pub(crate) use route::{
    Authority, ChangedHeader, Grpc, HeaderName, HeaderText, MatchPath, QueryName, QueryText, RedirectPath,
    RespondBody, RouteName,
};
pub(crate) use sync::{FileMode, OwnerIds};
pub(crate) use tracing::HiddenValue;

use crate::schema::Described;
use crate::value::{BadWord, Text, Word, wrapped_leaves};
use pillion_model::identity::{SpiffeId, check_trust_domain};
use pillion_model::telemetry::Secret;
use pillion_model::text::shortened;

impl Word for SpiffeId {
    const EXPECTED: &'static str = "a SPIFFE ID (spiffe://cluster.local/ns/default/sa/web)";

    fn parse(text: &str) -> Result<Self, BadWord> {
        text.parse().map_err(|why| {
            BadWord::new(format!("is `{}`, which is not a SPIFFE ID: {why}", shortened(text)))
                .help("write it like spiffe://cluster.local/ns/default/sa/web")
        })
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TrustDomain(pub(crate) String);

impl Word for TrustDomain {
    const EXPECTED: &'static str = "a trust domain (cluster.local)";

    fn parse(text: &str) -> Result<Self, BadWord> {
        match check_trust_domain(text) {
            Ok(()) => Ok(Self(text.to_owned())),
            Err(why) => {
                Err(BadWord::new(format!("is `{}`: {why}", shortened(text)))
                    .help("write it like cluster.local"))
            }
        }
    }
}

/// A token (RFC 9110, section 5.6.2).
fn is_token(text: &str) -> bool {
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    !text.is_empty() && text.bytes().all(token)
}

/// An HTTP method as requests spell it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Method(pub(crate) String);

impl Word for Method {
    const EXPECTED: &'static str = "a method (GET)";

    fn parse(text: &str) -> Result<Self, BadWord> {
        if !is_token(text) {
            return Err(BadWord::not(text, "a method"));
        }
        if text.bytes().any(|b| b.is_ascii_lowercase()) {
            let upper = text.to_ascii_uppercase();
            return Err(BadWord::not(text, "a method").help(format!("methods are upper case: {upper}")));
        }
        Ok(Self(text.to_owned()))
    }
}

/// A bearer token. No message quotes it (see also `Errors::source_line`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Token(Secret);

impl Word for Token {
    const EXPECTED: &'static str = "a token";

    fn parse(text: &str) -> Result<Self, BadWord> {
        let bad = || BadWord::new("is not 8 to 4096 visible ASCII characters without spaces").secret();
        Secret::new(text.to_owned()).map(Self).ok_or_else(bad)
    }
}

impl Described for Token {
    fn described() -> Option<Value> {
        Text::described()
    }
}

wrapped_leaves!(
    TrustDomain: String, |name| name.as_str().into();
    Method: String, |method| method.as_str().into();
    Token: Secret, |_token| "(hidden)".into();
);

#[cfg(test)]
mod tests;
