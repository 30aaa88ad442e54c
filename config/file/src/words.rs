//! Words of the proxy's own domain as the file spells them: addresses, hosts, identities, modes.

mod authorization;
mod destination;
mod dns;
mod endpoint_socket;
mod hashed;
mod kubernetes;
mod logs;
mod merge;
mod probe;
mod route;
mod sync;
mod tracing;

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::path::PathBuf;

use serde_json::Value;

pub(crate) use authorization::{ClaimName, RuleName, Source, TokenHeader};
pub(crate) use dns::{DnsName, NameServer, SrvName};
pub(crate) use endpoint_socket::EndpointSocket;
pub(crate) use hashed::{CookieName, HashedHeader};
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

use crate::schema::{self, Described};
use crate::value::{BadWord, Count, Text, Word, leaves, on_off, whole, wrapped_leaves};
use pillion_model::access_format::{LogFormat, Template, TemplateFault};
use pillion_model::authorization::{Action, EncodedSlash, ExtAuthz, Mode};
use pillion_model::cluster::{AddressPattern, HostPattern, LoadBalancer, UpstreamProtocol};
use pillion_model::identity::{SpiffeId, TlsVersion, check_trust_domain};
use pillion_model::listener::{AppProtocol, Mtls, RedirectTo, Unknown};
use pillion_model::logs::LineFormat;
use pillion_model::policy::RetryCondition;
use pillion_model::route::{RateLimitBy, Scheme};
use pillion_model::sync::SyncSignal;
use pillion_model::telemetry::{Compatibility, LogPath, Secret};
use pillion_model::text::{nearest, shortened};
use pillion_model::tracing::Propagation;

/// Chooses one of a table of words.
pub(crate) fn choose<T: Clone>(text: &str, table: &[(&str, T)]) -> Result<T, BadWord> {
    if let Some((_, chosen)) = table.iter().find(|(word, _)| *word == text) {
        return Ok(chosen.clone());
    }
    let words: Vec<&str> = table.iter().map(|(word, _)| *word).collect();
    Err(not_one_of(text, &words))
}

/// A word out of a fixed table.
pub(crate) trait Choice: Clone + 'static {
    const EXPECTED: &'static str;
    const WORDS: &'static [(&'static str, Self)];

    fn words() -> impl Iterator<Item = &'static str> {
        Self::WORDS.iter().map(|(word, _)| *word)
    }

    /// Every spelling of `off` counts as the table's `off`.
    fn chosen(text: &str) -> Result<Self, BadWord> {
        let is_off = on_off(text) == Some(false) && Self::words().any(|word| word == "off");
        choose(if is_off { "off" } else { text }, Self::WORDS)
    }
}

/// Implements [`Word`] for a [`Choice`]; a blanket implementation would conflict with the other words.
macro_rules! choices {
    ($($name:ty),*) => {$(
        impl Word for $name {
            const EXPECTED: &'static str = <Self as Choice>::EXPECTED;

            fn parse(text: &str) -> Result<Self, BadWord> {
                Self::chosen(text)
            }
        }

        impl Described for $name {
            fn described() -> Option<Value> {
                Some(schema::one_of(Self::words()))
            }
        }
    )*};
}
choices!(
    AppProtocol,
    UpstreamProtocol,
    Mtls,
    RedirectTo,
    Unknown,
    TlsVersion,
    PostQuantum,
    LoadBalancer,
    TlsMode,
    ClientMode,
    AlwaysErrors,
    RateLimitBy,
    Compatibility,
    Propagation,
    Scheme,
    Action,
    Mode,
    EncodedSlash,
    SyncSignal,
    LineFormat
);

leaves!(
    AppProtocol: chosen,
    UpstreamProtocol: chosen,
    Mtls: chosen,
    RedirectTo: chosen,
    Unknown: chosen,
    RateLimitBy: chosen,
    Compatibility: chosen,
    Propagation: chosen,
    Scheme: chosen,
    TlsVersion: chosen,
    SyncSignal: chosen,
    TlsMode: chosen,
    ClientMode: chosen,
    LogFormat: |format| match format {
        LogFormat::Json => "json".into(),
        LogFormat::Template(template) => template.spelling().into(),
    },
    SocketAddr: |address| address.to_string().into(),
    HostPattern: |host| host.to_string().into(),
    AddressPattern: |address| address.to_string().into(),
    RetryCondition: |named| condition(*named),
);
wrapped_leaves!(
    PostQuantum: bool, |prefer| chosen(&PostQuantum(*prefer));
    AlwaysErrors: bool, |always| chosen(&AlwaysErrors(*always));
    TrustDomain: String, |name| name.as_str().into();
    EndpointSocket: PathBuf, |socket| format!("unix://{}", socket.display()).into();
    Target: SocketAddr, |address| address.to_string().into();
    Weight: NonZeroU32, |weight| weight.get().into();
    Sni: String, |name| name.as_str().into();
    ServiceName: String, |name| name.as_str().into();
    Method: String, |method| method.as_str().into();
);

fn not_one_of(text: &str, words: &[&str]) -> BadWord {
    let near = nearest(text, words);
    // of a long table, the similar word alone is more useful than the whole list
    let list = if near.is_some() && words.len() > 8 {
        "a word known here".into()
    } else {
        format!("one of {}", words.join(", "))
    };
    let bad = BadWord::not(text, &list);
    match near {
        Some(word) if bad.help.is_none() => bad.help(format!("did you mean {word}?")),
        _ => bad,
    }
}

impl Choice for AppProtocol {
    const EXPECTED: &'static str = "a protocol (auto, http1, http2, tcp, tls)";
    const WORDS: &'static [(&'static str, Self)] = &[
        ("auto", Self::Auto),
        ("http1", Self::Http1),
        ("http2", Self::Http2),
        ("tcp", Self::Tcp),
        ("tls", Self::Tls),
    ];
}

impl Choice for UpstreamProtocol {
    const EXPECTED: &'static str = "a protocol (auto, http1, http2, tcp)";
    const WORDS: &'static [(&'static str, Self)] =
        &[("auto", Self::Auto), ("http1", Self::Http1), ("http2", Self::Http2), ("tcp", Self::Tcp)];
}

impl Choice for Mtls {
    const EXPECTED: &'static str = "strict, permissive or off";
    const WORDS: &'static [(&'static str, Self)] =
        &[("strict", Self::Strict), ("permissive", Self::Permissive), ("off", Self::Off)];
}

impl Choice for RedirectTo {
    const EXPECTED: &'static str = "original or loopback";
    const WORDS: &'static [(&'static str, Self)] =
        &[("original", Self::Original), ("loopback", Self::Loopback)];
}

impl Choice for Unknown {
    const EXPECTED: &'static str = "passthrough or deny";
    const WORDS: &'static [(&'static str, Self)] =
        &[("passthrough", Self::Passthrough), ("deny", Self::Deny)];
}

impl Choice for Compatibility {
    const EXPECTED: &'static str = "istio";
    const WORDS: &'static [(&'static str, Self)] = &[("istio", Self::Istio)];
}

impl Choice for RateLimitBy {
    const EXPECTED: &'static str = "peer or all";
    const WORDS: &'static [(&'static str, Self)] = &[("all", Self::All), ("peer", Self::Peer)];
}

impl Choice for Scheme {
    const EXPECTED: &'static str = "http or https";
    const WORDS: &'static [(&'static str, Self)] = &[("http", Self::Http), ("https", Self::Https)];
}

impl Choice for TlsVersion {
    const EXPECTED: &'static str = "a TLS version (\"1.2\" or \"1.3\")";
    const WORDS: &'static [(&'static str, Self)] = &[("1.2", Self::Tls12), ("1.3", Self::Tls13)];
}

/// `prefer` or `off`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PostQuantum(pub(crate) bool);

impl Choice for PostQuantum {
    const EXPECTED: &'static str = "prefer or off";
    const WORDS: &'static [(&'static str, Self)] = &[("prefer", Self(true)), ("off", Self(false))];
}

impl Choice for LoadBalancer {
    const EXPECTED: &'static str =
        "a load balancer (peak_ewma, least_request, round_robin, random, { ring_hash: … }, { maglev: … })";
    const WORDS: &'static [(&'static str, Self)] = &[
        ("peak_ewma", Self::PeakEwma),
        ("least_request", Self::LeastRequest),
        ("round_robin", Self::RoundRobin),
        ("random", Self::Random),
    ];
}

/// The mode of a service's `tls`, without its details.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TlsMode {
    Off,
    Simple,
    Mutual,
}

/// `client` of a port's `tls`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ClientMode {
    Off,
    Request,
    Require,
}

impl Choice for ClientMode {
    const EXPECTED: &'static str = "whether clients show certificates (off, request, require)";
    const WORDS: &'static [(&'static str, Self)] =
        &[("off", Self::Off), ("request", Self::Request), ("require", Self::Require)];
}

impl Choice for TlsMode {
    const EXPECTED: &'static str = "a mode (mutual, simple, off)";
    const WORDS: &'static [(&'static str, Self)] =
        &[("mutual", Self::Mutual), ("simple", Self::Simple), ("off", Self::Off)];
}

/// `errors` or `off`. `errors` means that failed requests are logged whatever the sample is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AlwaysErrors(pub(crate) bool);

impl Choice for AlwaysErrors {
    const EXPECTED: &'static str = "errors or off";
    const WORDS: &'static [(&'static str, Self)] = &[("errors", Self(true)), ("off", Self(false))];
}

impl Word for LogFormat {
    const EXPECTED: &'static str = "json, text or a template (\"%REQ(:METHOD)% %RESPONSE_CODE%\")";

    fn parse(text: &str) -> Result<Self, BadWord> {
        const WORDS: [&str; 2] = ["json", "text"];
        const LATER: [&str; 1] = ["logfmt"];
        match text {
            "json" => Ok(Self::Json),
            "text" => template(Template::combined()),
            _ if text.contains('%') => template(Template::parse(text)),
            _ if LATER.contains(&text) => Err(BadWord::not_yet(text)),
            _ => {
                Err(not_one_of(text, &WORDS)
                    .or_help("a template has operators: %REQ(:METHOD)% %RESPONSE_CODE%"))
            }
        }
    }
}

fn template(parsed: Result<Template, TemplateFault>) -> Result<LogFormat, BadWord> {
    parsed.map(LogFormat::Template).map_err(|fault| BadWord::new(fault.what).help(fault.help))
}

impl Described for LogFormat {
    fn described() -> Option<Value> {
        schema::any_of([Some(schema::one_of(["json", "text"].into_iter())), Text::described()])
    }
}

impl Word for LogPath {
    const EXPECTED: &'static str = "stdout, stderr or a path";

    fn parse(text: &str) -> Result<Self, BadWord> {
        match text {
            "stdout" => Ok(Self::Stdout),
            "stderr" => Ok(Self::Stderr),
            _ => Text::parse(text).map(|Text(path)| Self::File(PathBuf::from(path))),
        }
    }
}

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

impl Word for SocketAddr {
    const EXPECTED: &'static str = "an address (127.0.0.1:8080 or \"[::1]:8080\")";

    fn parse(text: &str) -> Result<Self, BadWord> {
        text.parse().ok().ok_or_else(|| BadWord::not(text, "an address").help(address_help(text)))
    }
}

fn address_help(text: &str) -> String {
    if let Ok(ip) = text.trim_matches(['[', ']']).parse::<IpAddr>() {
        return format!("add the port: {}", SocketAddr::new(ip, 8080));
    }
    match text.strip_prefix("localhost:").or_else(|| text.strip_prefix(':')).unwrap_or(text) {
        port if whole(port).is_some() => format!("write 127.0.0.1:{port}"),
        _ => "write an IP address and a port: 127.0.0.1:8080 or \"[::1]:8080\"".to_owned(),
    }
}

/// The address of an endpoint: an IP address and a port that is not 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Target(pub(crate) SocketAddr);

impl Word for Target {
    const EXPECTED: &'static str = "an address (10.0.1.10:15006)";

    fn parse(text: &str) -> Result<Self, BadWord> {
        match SocketAddr::parse(text) {
            Ok(address) if address.port() == 0 => {
                Err(BadWord::new(format!("is `{address}`, whose port is 0")))
            }
            Ok(address) => Ok(Self(address)),
            Err(bad) if names_a_host(text) => Err(bad.help(
                "write an IP address and a port; for a name write endpoints: { dns: \"orders.shop:15006\" }",
            )),
            Err(bad) => Err(bad),
        }
    }
}

/// The weight of an endpoint, from 1 to 1,000,000.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Weight(pub(crate) NonZeroU32);

/// With this limit the sum of any list of weights fits in 64 bits.
type CountOfWeight = Count<1, 1_000_000>;

impl Word for Weight {
    const EXPECTED: &'static str = CountOfWeight::EXPECTED;

    fn parse(text: &str) -> Result<Self, BadWord> {
        let Count(weight) = CountOfWeight::parse(text)?;
        Ok(Self(NonZeroU32::new(weight).unwrap_or(NonZeroU32::MIN)))
    }
}

impl Described for Weight {
    fn described() -> Option<Value> {
        CountOfWeight::described()
    }
}

fn names_a_host(text: &str) -> bool {
    let host = text.rsplit_once(':').map_or(text, |(host, _)| host);
    host != "localhost"
        && host.starts_with(|c: char| c.is_ascii_alphabetic())
        && host.bytes().all(is_host_byte)
}

fn is_host_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_')
}

/// A host: `orders`, `orders.shop:8080`, `*.shop`, `[::1]:80`.
impl Word for HostPattern {
    const EXPECTED: &'static str = "a host (orders, \"orders.shop:8080\", \"*.shop\")";

    fn parse(text: &str) -> Result<Self, BadWord> {
        let bad = || {
            BadWord::not(text, "a host")
                .help("write a name, with or without a port: orders, \"orders.shop:8080\", \"*.shop\"")
        };
        let (host, port) = split_port(text).ok_or_else(bad)?;
        let (name, wildcard) = host.strip_prefix("*.").map_or((host, false), |rest| (rest, true));
        let name = name.strip_suffix('.').unwrap_or(name);
        if !is_host_name(name) && (wildcard || !is_bracketed_ip(name)) {
            return Err(bad());
        }
        Ok(Self { name: name.to_ascii_lowercase(), wildcard, port })
    }
}

/// The host, and the port after its colon if there is one. `None`: the text after the colon is not a port.
fn split_port(text: &str) -> Option<(&str, Option<u16>)> {
    match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => {
            let port = whole(port).and_then(|n| u16::try_from(n).ok()).filter(|port| *port != 0)?;
            Some((host, Some(port)))
        }
        _ => Some((text, None)),
    }
}

fn is_host_name(name: &str) -> bool {
    name.len() <= 253 && !name.split('.').any(str::is_empty) && name.bytes().all(is_host_byte)
}

fn is_bracketed_ip(name: &str) -> bool {
    let inner = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    inner.is_some_and(|ip| ip.parse::<std::net::Ipv6Addr>().is_ok())
}

/// A name sent as SNI.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sni(pub(crate) String);

impl Word for Sni {
    const EXPECTED: &'static str = "a DNS name";

    fn parse(text: &str) -> Result<Self, BadWord> {
        let named = is_host_name(text) && text.parse::<IpAddr>().is_err();
        if named { Ok(Self(text.to_ascii_lowercase())) } else { Err(BadWord::not(text, "a DNS name")) }
    }
}

/// The name of a service: a metric label, part of the ready line and, by default, a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServiceName(pub(crate) String);

impl Word for ServiceName {
    const EXPECTED: &'static str = "a service's name";

    fn parse(text: &str) -> Result<Self, BadWord> {
        match text {
            "passthrough" => Err(BadWord::new("is a reserved name: metrics use it for unknown destinations")),
            ExtAuthz::NAME => {
                Err(BadWord::new("is a reserved name: metrics use it for the external authorizer"))
            }
            name if is_host_name(name) => Ok(Self(name.to_owned())),
            _ => {
                Err(BadWord::not(text, "a service's name").help("names have letters, digits, dots, - and _"))
            }
        }
    }
}

pub(crate) const CONDITIONS: [(&str, RetryCondition); 7] = [
    ("connect_failure", RetryCondition::ConnectFailure),
    ("refused_stream", RetryCondition::RefusedStream),
    ("reset", RetryCondition::Reset),
    ("gateway_error", RetryCondition::GatewayError),
    ("per_try_timeout", RetryCondition::PerTryTimeout),
    ("5xx", RetryCondition::FiveXx),
    ("retriable_4xx", RetryCondition::Retriable4xx),
];

/// The gRPC statuses by number. `OK` is left out, because it is not a failure.
pub(crate) const GRPC: [(&str, u8); 16] = [
    ("cancelled", 1),
    ("unknown", 2),
    ("invalid_argument", 3),
    ("deadline_exceeded", 4),
    ("not_found", 5),
    ("already_exists", 6),
    ("permission_denied", 7),
    ("resource_exhausted", 8),
    ("failed_precondition", 9),
    ("aborted", 10),
    ("out_of_range", 11),
    ("unimplemented", 12),
    ("internal", 13),
    ("unavailable", 14),
    ("data_loss", 15),
    ("unauthenticated", 16),
];

impl Word for RetryCondition {
    const EXPECTED: &'static str = "a condition (reset, 5xx, 409, unavailable)";

    fn parse(text: &str) -> Result<Self, BadWord> {
        if let Some(status) = whole(text) {
            return status_condition(status);
        }
        let known = CONDITIONS.into_iter().chain(GRPC.map(|(name, number)| (name, Self::Grpc(number))));
        choose(&text.to_ascii_lowercase(), &known.collect::<Vec<_>>())
    }
}

/// 3xx to 5xx: a success needs no retry, and 1xx is not a final response.
fn status_condition(status: u64) -> Result<RetryCondition, BadWord> {
    match u16::try_from(status) {
        Ok(status @ 300..=599) => Ok(RetryCondition::Status(status)),
        _ => Err(BadWord::new(format!("is {status}, which is not a status that can be retried"))
            .help("from 300 to 599")),
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

/// The word of a choice.
pub(crate) fn chosen<T: Choice + PartialEq>(choice: &T) -> Value {
    T::WORDS.iter().find(|(_, meant)| meant == choice).map_or(Value::Null, |(word, _)| (*word).into())
}

fn condition(condition: RetryCondition) -> Value {
    match condition {
        RetryCondition::Status(status) => status.into(),
        RetryCondition::Grpc(number) => GRPC
            .iter()
            .find(|(_, grpc)| *grpc == number)
            .map_or_else(|| number.into(), |(name, _)| (*name).into()),
        named => CONDITIONS
            .iter()
            .find(|(_, meant)| *meant == named)
            .map_or(Value::Null, |(name, _)| (*name).into()),
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

wrapped_leaves!(Token: Secret, |_token| "(hidden)".into());

impl Described for Token {
    fn described() -> Option<Value> {
        Text::described()
    }
}

#[cfg(test)]
mod tests;
