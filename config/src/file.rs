//! What was typed: every key of the configuration file, known by name.
//!
//! The only file that names serde_yaml, which is archived upstream. Every leaf is a checked word
//! and optional; defaults and everything that looks at two keys at once are `check`'s.

mod unions;

use std::net::SocketAddr;
use std::time::Duration;

use serde::Deserialize;

use crate::cluster::{AddressPattern, HostPattern, LoadBalancer, UpstreamProtocol};
use crate::fault::Fault;
use crate::identity::{SpiffeId, TlsVersion};
use crate::listener::{AppProtocol, Mtls, RedirectTo, Unknown};
use crate::place::{Broken, Tree};
use crate::policy::RetryCondition;
use crate::salvage::salvage;
use crate::shape::{Entries, NotYet, OffOnly, OneOrMore, Typed};
use crate::telemetry::LogPath;
use crate::value::{AutoOr, Count, OffOr, Port, Share, Size, Text};
use crate::words::{AlwaysErrors, Json, Method, PostQuantum, ServiceName, Sni, Target, TlsMode, TrustDomain};

/// From 1 to four thousand million.
pub(crate) type Positive = Count<1, { u32::MAX }>;
pub(crate) type AnyCount = Count<0, { u32::MAX }>;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct File {
    pub(crate) version: Option<Typed<AnyCount>>,
    pub(crate) workload: Option<Workload>,
    pub(crate) identity: Option<Identity>,
    pub(crate) tls: Option<Tls>,
    pub(crate) inbound: Option<OffOr<Inbound>>,
    pub(crate) outbound: Option<OffOr<Outbound>>,
    pub(crate) defaults: Option<OffOnly>,
    pub(crate) services: Option<Entries<ServiceName, Option<Service>>>,
    pub(crate) routes: Option<OffOnly>,
    pub(crate) dns: Option<OffOnly>,
    pub(crate) admin: Option<Admin>,
    pub(crate) metrics: Option<OffOr<Metrics>>,
    pub(crate) tracing: Option<OffOnly>,
    pub(crate) access_log: Option<OffOr<AccessLog>>,
    pub(crate) drain: Option<NotYet>,
    pub(crate) limits: Option<NotYet>,
    pub(crate) workers: Option<Typed<AutoOr<Count<1, 1024>>>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Workload {
    pub(crate) name: Option<Typed<Text>>,
    pub(crate) namespace: Option<Typed<Text>>,
    pub(crate) zone: Option<Typed<Text>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Identity {
    pub(crate) directory: Option<Typed<Text>>,
    pub(crate) certificate: Option<Typed<Text>>,
    pub(crate) key: Option<Typed<Text>>,
    pub(crate) trust_bundle: Option<Typed<Text>>,
    pub(crate) crl: Option<NotYet>,
    pub(crate) workload_api: Option<NotYet>,
    pub(crate) trust_domain: Option<Typed<TrustDomain>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Tls {
    pub(crate) min_version: Option<Typed<TlsVersion>>,
    pub(crate) post_quantum: Option<Typed<PostQuantum>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Inbound {
    pub(crate) listen: Option<OneOrMore<SocketAddr>>,
    pub(crate) app: Option<Typed<Target>>,
    pub(crate) redirect_to: Option<Typed<RedirectTo>>,
    pub(crate) mtls: Option<Typed<Mtls>>,
    pub(crate) protocol: Option<Typed<AppProtocol>>,
    pub(crate) timeout: Option<Typed<OffOr<Duration>>>,
    pub(crate) max_connections: Option<Typed<AutoOr<Positive>>>,
    pub(crate) max_requests: Option<Typed<OffOr<Positive>>>,
    pub(crate) max_body: Option<Typed<OffOr<Size>>>,
    pub(crate) rate_limit: Option<OffOnly>,
    pub(crate) probes: Option<OffOnly>,
    pub(crate) ports: Option<Entries<Port, Option<PortBlock>>>,
    pub(crate) authorization: Option<NotYet>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PortBlock {
    pub(crate) protocol: Option<Typed<AppProtocol>>,
    pub(crate) mtls: Option<Typed<Mtls>>,
    pub(crate) listen: Option<OneOrMore<SocketAddr>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Outbound {
    pub(crate) listen: Option<OneOrMore<SocketAddr>>,
    pub(crate) unknown: Option<Typed<Unknown>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Service {
    pub(crate) hosts: Option<OneOrMore<HostPattern>>,
    pub(crate) addresses: Option<OneOrMore<AddressPattern>>,
    pub(crate) listen: Option<OneOrMore<SocketAddr>>,
    pub(crate) endpoints: Option<Endpoints>,
    pub(crate) protocol: Option<Typed<UpstreamProtocol>>,
    pub(crate) tls: Option<UpstreamTls>,
    pub(crate) load_balancer: Option<Balancer>,
    pub(crate) connect_timeout: Option<Typed<Duration>>,
    pub(crate) timeout: Option<Typed<OffOr<Duration>>>,
    pub(crate) stream_idle_timeout: Option<Typed<OffOr<Duration>>>,
    pub(crate) max_duration: Option<Typed<OffOr<Duration>>>,
    pub(crate) connection: Option<Connection>,
    pub(crate) retry: Option<OffOr<Retry>>,
    pub(crate) circuit_breaker: Option<CircuitBreaker>,
    pub(crate) outlier_detection: Option<OffOr<OutlierDetection>>,
    pub(crate) health_check: Option<OffOnly>,
    pub(crate) slow_start: Option<OffOnly>,
}

/// A static list, or (not yet) where to learn it.
#[derive(Debug)]
pub(crate) enum Endpoints {
    Static(Vec<Endpoint>),
    Learnt(LearntEndpoints),
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LearntEndpoints {
    pub(crate) dns: Option<NotYet>,
    pub(crate) srv: Option<NotYet>,
    pub(crate) refresh: Option<NotYet>,
}

#[derive(Debug)]
pub(crate) enum Endpoint {
    Address(Target),
    Full(EndpointBlock),
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct EndpointBlock {
    pub(crate) address: Option<Typed<Target>>,
    /// A million: the weights of any list still add up in 64 bits with room to spare.
    pub(crate) weight: Option<Typed<Count<1, 1_000_000>>>,
    pub(crate) zone: Option<NotYet>,
    pub(crate) priority: Option<NotYet>,
}

#[derive(Debug)]
pub(crate) enum UpstreamTls {
    Mode(TlsMode),
    Identity(SpiffeId),
    Full(TlsBlock),
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TlsBlock {
    pub(crate) mode: Option<Typed<TlsMode>>,
    pub(crate) identities: Option<OneOrMore<SpiffeId>>,
    pub(crate) sni: Option<Typed<Sni>>,
    pub(crate) trust_bundle: Option<Typed<Text>>,
}

#[derive(Debug)]
pub(crate) enum Balancer {
    Word(LoadBalancer),
    Hash(HashBalancer),
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct HashBalancer {
    pub(crate) ring_hash: Option<NotYet>,
    pub(crate) maglev: Option<NotYet>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Connection {
    pub(crate) idle_timeout: Option<Typed<OffOr<Duration>>>,
    pub(crate) max_age: Option<Typed<OffOr<Duration>>>,
    pub(crate) max_requests: Option<Typed<OffOr<Positive>>>,
    pub(crate) keepalive: Option<Typed<OffOr<Duration>>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Retry {
    pub(crate) attempts: Option<Typed<Count<0, 100>>>,
    #[serde(alias = "on")]
    pub(crate) conditions: Option<OneOrMore<RetryCondition>>,
    pub(crate) methods: Option<Methods>,
    pub(crate) per_try_timeout: Option<Typed<OffOr<Duration>>>,
    pub(crate) backoff: Option<Backoff>,
    pub(crate) budget: Option<Budget>,
    pub(crate) max_body: Option<Typed<Size>>,
    pub(crate) hedge_after: Option<OffOnly>,
}

/// A set by its name, or a list.
#[derive(Debug)]
pub(crate) enum Methods {
    Idempotent,
    IdempotentOrKeyed,
    All,
    List(Vec<Method>),
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Backoff {
    pub(crate) base: Option<Typed<Duration>>,
    pub(crate) max: Option<Typed<Duration>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Budget {
    pub(crate) ratio: Option<Typed<Share>>,
    pub(crate) min_per_second: Option<Typed<AnyCount>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CircuitBreaker {
    pub(crate) max_connections: Option<Typed<Positive>>,
    pub(crate) max_pending_requests: Option<Typed<AnyCount>>,
    pub(crate) max_requests: Option<Typed<Positive>>,
    pub(crate) max_retries: Option<Typed<AnyCount>>,
    pub(crate) max_connections_per_endpoint: Option<OffOnly>,
    pub(crate) adaptive: Option<OffOnly>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct OutlierDetection {
    pub(crate) consecutive_errors: Option<Typed<OffOr<Positive>>>,
    pub(crate) interval: Option<OffOnly>,
    pub(crate) error_rate: Option<OffOnly>,
    pub(crate) gateway_errors: Option<OffOnly>,
    pub(crate) connect_failures: Option<OffOnly>,
    pub(crate) base_ejection: Option<Typed<Duration>>,
    pub(crate) max_ejected: Option<Typed<Share>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Admin {
    pub(crate) listen: Option<OneOrMore<SocketAddr>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Metrics {
    pub(crate) listen: Option<OneOrMore<SocketAddr>>,
    /// A million series are some hundred MiB.
    pub(crate) max_series: Option<Typed<Count<100, 1_000_000>>>,
    pub(crate) merge: Option<OffOnly>,
    pub(crate) compatibility: Option<OffOnly>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AccessLog {
    pub(crate) path: Option<Typed<LogPath>>,
    pub(crate) format: Option<Typed<Json>>,
    pub(crate) sample: Option<Typed<Share>>,
    pub(crate) always: Option<Typed<AlwaysErrors>>,
}

/// What was typed, as far as it could be read, and what could not.
#[derive(Debug, Default)]
pub(crate) struct Reading {
    pub(crate) file: File,
    pub(crate) faults: Vec<Fault>,
    /// Made on the fault path alone.
    pub(crate) tree: Option<Tree>,
}

/// serde_yaml is the gate; only what it does not let through is read again with places.
pub(crate) fn read(source: &str) -> Reading {
    match serde_yaml::from_str(source) {
        Ok(file) if !source.contains("${") => Reading { file, ..Reading::default() },
        Ok(_) => read_again(source, None),
        Err(error) => read_again(source, Some(error)),
    }
}

fn read_again(source: &str, error: Option<serde_yaml::Error>) -> Reading {
    let mut tree = match Tree::read(source) {
        Ok(tree) => tree,
        Err(broken) => return Reading { faults: vec![unreadable(source, broken)], ..Reading::default() },
    };
    let (file, mut faults) = salvage::<Option<File>>(&mut tree);
    if let (Some(error), Some(_), true) = (error, &file, faults.is_empty()) {
        faults.push(only_serde_yaml_says(&error));
    }
    Reading { file: file.unwrap_or_default(), faults, tree: Some(tree) }
}

fn unreadable(source: &str, broken: Broken) -> Fault {
    let line = source.lines().nth(broken.place.line.saturating_sub(1)).unwrap_or_default();
    let fault = Fault::of_file(format!("the file {}", broken.what), quotes_help(line));
    Fault { line: broken.place.line, column: broken.place.column, ..fault }
}

/// What YAML takes for its own signs, and people for text.
fn quotes_help(line: &str) -> Option<&'static str> {
    let bare = |signs: &str| line.split(['"', '\'']).step_by(2).any(|outside| outside.contains(signs));
    if bare("[::") {
        return Some("put IPv6 addresses in quotes: \"[::]:15006\"");
    }
    if bare("*.") {
        return Some("put wildcards in quotes: \"*.shop\"");
    }
    if bare("%") || bare("@") {
        return Some("text that begins with % or @ needs quotes");
    }
    line.starts_with('\t').then_some("indent with spaces; YAML does not know tabs there")
}

/// Where the two parsers disagree the stricter one is believed.
fn only_serde_yaml_says(error: &serde_yaml::Error) -> Fault {
    let fault = Fault::of_file(format!("the file is not valid: {error}"), None);
    match error.location() {
        Some(at) => Fault { line: at.line().max(1), column: at.column().max(1), ..fault },
        None => fault,
    }
}
