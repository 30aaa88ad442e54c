//! What was typed: every key of the configuration file, known by name.
//!
//! The only file that names serde_yaml, which is archived upstream. Every leaf is a checked word
//! and optional; defaults and everything that looks at two keys at once are `check`'s.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;

use crate::fault::{Fault, lines};
use crate::place::{Broken, Tree};
use crate::salvage::salvage;
use crate::schema::{self, Described};
use crate::shape::{Entries, NotYet, OffOnly, OneOrMore, Typed};
use crate::value::{AutoOr, Count, OffOr, Pause, Port, Share, Size, Text};
use crate::variable::Environment;
use crate::words::{
    AlwaysErrors, Auto, DnsName, Json, Method, PostQuantum, ServiceName, Sni, Target, TlsMode, TrustDomain,
};
use pillion_model::cluster::{AddressPattern, HostPattern, LoadBalancer, UpstreamProtocol};
use pillion_model::identity::{SpiffeId, TlsVersion};
use pillion_model::listener::{AppProtocol, Mtls, RedirectTo, Unknown};
use pillion_model::policy::RetryCondition;
use pillion_model::telemetry::LogPath;

/// From 1 to four thousand million.
pub(crate) type Positive = Count<1, { u32::MAX }>;
pub(crate) type AnyCount = Count<0, { u32::MAX }>;

/// The blocks of the file: structs whose keys may all be left out, and what [`crate::schema()`] says of them. What
/// stands at a key is for the operator, who sees it in an editor; a key that is not built yet needs no words.
macro_rules! blocks {
    ($($(#[$about:meta])* $name:ident {
        $($(#[doc = $doc:literal])* $(#[serde(alias = $alias:literal)])? $key:ident: $type:ty,)*
    })*) => {$(
        $(#[$about])*
        #[derive(Debug, Clone, Default, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub(crate) struct $name {
            $($(#[doc = $doc])* $(#[serde(alias = $alias)])? pub(crate) $key: Option<$type>,)*
        }

        impl Described for $name {
            fn described() -> Option<Value> {
                schema::block([$(
                    (stringify!($key), concat!($($doc, "\n"),*), <$type>::described()),
                    $(($alias, concat!("Another name of `", stringify!($key), "`."), <$type>::described()),)?
                )*])
            }
        }
    )*};
}

mod probes;
mod routes;
mod unions;

pub(crate) use probes::{Probe, Probes};
pub(crate) use routes::{
    Destination, DestinationBlock, Destinations, HeaderValue, Match, Path, PathBlock, Route, Routes,
    ValueBlock,
};

blocks! {
    File {
        /// The version of this format: 1, the default.
        version: Typed<AnyCount>,
        /// Named in every line of the access log. What is left out comes from the certificate's SPIFFE ID at start.
        workload: Workload,
        /// Who this workload is. Left out: plaintext on both sides.
        identity: Identity,
        /// What TLS is spoken at least, on both sides.
        tls: Tls,
        /// To the application. `off` leaves this side out.
        inbound: OffOr<Inbound>,
        /// From the application. `off` leaves this side out.
        outbound: OffOr<Outbound>,
        /// Any key of a service but hosts, addresses, listen and endpoints; each service's own wins, key by key.
        defaults: ForEachService,
        /// What the application calls, by name.
        services: Entries<ServiceName, Option<Service>>,
        /// Which of a host's requests go elsewhere, or under other rules. The first that matches wins; what none
        /// matches goes to the host's own service.
        routes: Routes,
        /// Names for the application: a DNS proxy. Left out: none.
        dns: OffOr<Dns>,
        /// The port that shows and changes things.
        admin: Admin,
        /// The port for scrapers and probes of the sidecar itself. `off` leaves it out.
        metrics: OffOr<Metrics>,
        tracing: OffOnly,
        /// One line for each request. Left out: none.
        access_log: OffOr<AccessLog>,
        /// What happens between SIGTERM and the end.
        drain: Drain,
        /// What one connection may take, on both sides.
        limits: Limits,
        /// Threads of the data path. Default auto: from the CPU quota of the cgroup.
        workers: Typed<AutoOr<Count<1, 1024>>>,
    }

    Workload {
        /// The workload's name.
        name: Typed<Text>,
        /// Its namespace.
        namespace: Typed<Text>,
        /// The zone that it runs in.
        zone: Typed<Text>,
    }

    Identity {
        /// A folder with tls.crt, tls.key and ca.crt, as cert-manager writes them; in place of the single files.
        directory: Typed<Text>,
        /// The certificate and its chain, PEM.
        certificate: Typed<Text>,
        /// The certificate's key, PEM.
        key: Typed<Text>,
        /// The authorities to trust, PEM.
        trust_bundle: Typed<Text>,
        /// Which certificates are revoked; start is refused without it. Default: ca.crl of `directory`, if it is there.
        crl: Typed<Text>,
        workload_api: NotYet,
        /// Default: that of the certificate's SPIFFE ID.
        trust_domain: Typed<TrustDomain>,
    }

    Tls {
        /// The lowest version of TLS that is spoken: "1.2", the default, or "1.3".
        min_version: Typed<TlsVersion>,
        /// The post-quantum key exchange: prefer, the default, or off.
        post_quantum: Typed<PostQuantum>,
    }

    Inbound {
        /// Default: port 15006 on every address of this host.
        listen: OneOrMore<SocketAddr>,
        /// Where a connection goes that was not redirected.
        app: Typed<Target>,
        /// A redirected connection goes to its original address, the default, or to its original port on loopback.
        redirect_to: Typed<RedirectTo>,
        /// strict, the default with an identity; permissive takes plaintext too; off, the default without.
        mtls: Typed<Mtls>,
        /// What the application speaks. Default auto: gRPC as HTTP/2, other HTTP as HTTP/1.1, the rest as it comes.
        protocol: Typed<AppProtocol>,
        /// To the response's headers. Default off: the caller's deadline rules.
        timeout: Typed<OffOr<Duration>>,
        /// Beyond it a connection is closed. Default auto: half of what the limit of open files leaves.
        max_connections: Typed<AutoOr<Positive>>,
        /// At once; beyond it the answer is 503. Default off.
        max_requests: Typed<OffOr<Positive>>,
        /// Of one request; beyond it the answer is 413. Default off.
        max_body: Typed<OffOr<Size>>,
        rate_limit: OffOnly,
        /// What is asked of the application when GET /probe/NAME comes to the metrics port: for kubelets, who have no
        /// certificate.
        probes: Probes,
        /// What is special about single ports of the application.
        ports: Entries<Port, Option<PortBlock>>,
        authorization: NotYet,
    }

    PortBlock {
        /// What the application speaks on this port. Default: that of `inbound`.
        protocol: Typed<AppProtocol>,
        /// Default: that of `inbound`.
        mtls: Typed<Mtls>,
        /// A listener of its own that leads to this port at the address of `app`.
        listen: OneOrMore<SocketAddr>,
    }

    Outbound {
        /// Default: port 15001 on loopback.
        listen: OneOrMore<SocketAddr>,
        /// Where no service matches: on to where the application meant it to go, the default, or deny.
        unknown: Typed<Unknown>,
    }

    Service {
        /// The hosts that mean this service; "*.x" is any host below x, and with a port only that port matches.
        /// Default: the service's name.
        hosts: OneOrMore<HostPattern>,
        /// Original destinations (virtual IPs) that mean it, too.
        addresses: OneOrMore<AddressPattern>,
        /// A local port of its own; whatever host a request names there, it is for this service.
        listen: OneOrMore<SocketAddr>,
        /// Where it runs.
        endpoints: Endpoints,
        /// What is spoken to the endpoints. Default auto: by ALPN over TLS, else the caller's own version.
        protocol: Typed<UpstreamProtocol>,
        /// mutual, the default with an identity; simple; off, the default without; a SPIFFE ID (mutual with that
        /// identity); or in full.
        tls: UpstreamTls,
        /// How an endpoint is chosen. Default peak_ewma: by latency and load.
        load_balancer: Balancer,
        /// TCP and TLS together. Default 2s.
        connect_timeout: Typed<Duration>,
        /// To the response's headers, all tries and pauses included. Default 15s.
        timeout: Typed<OffOr<Duration>>,
        /// Between two pieces of a body. Default 5m, and 1h for TCP, upgrades and CONNECT; written it rules all.
        stream_idle_timeout: Typed<OffOr<Duration>>,
        /// Of the whole exchange, bodies included. Default off.
        max_duration: Typed<OffOr<Duration>>,
        /// Pooled connections.
        connection: Connection,
        /// When a request is tried again. `off` turns it off.
        retry: OffOr<Retry>,
        /// What is open at once; beyond it requests are refused.
        circuit_breaker: CircuitBreaker,
        /// When an endpoint that fails is left out for a while. `off` turns it off.
        outlier_detection: OffOr<OutlierDetection>,
        health_check: OffOnly,
        slow_start: OffOnly,
    }

    LearntEndpoints {
        /// A name and a port: its A and AAAA records.
        dns: Typed<DnsName>,
        srv: NotYet,
        /// Between two questions, at least 1s. Default 5s.
        refresh: Typed<Duration>,
    }

    EndpointBlock {
        /// An IP address and a port.
        address: Typed<Target>,
        /// How much of the traffic it gets beside others. Default 1.
        // a million: the weights of any list still add up in 64 bits with room to spare
        weight: Typed<Count<1, 1_000_000>>,
        zone: NotYet,
        priority: NotYet,
    }

    TlsBlock {
        /// mutual, the default; simple; or off.
        mode: Typed<TlsMode>,
        /// Who the service must be. Default: any identity of the own trust domain.
        identities: OneOrMore<SpiffeId>,
        /// The name that is asked for in the handshake.
        sni: Typed<Sni>,
        /// The authorities to trust, PEM. Default: those of `identity`.
        trust_bundle: Typed<Text>,
    }

    HashBalancer {
        ring_hash: NotYet,
        maglev: NotYet,
    }

    Connection {
        /// An idle connection is closed after it. Default 55s.
        idle_timeout: Typed<OffOr<Duration>>,
        /// A connection takes no more requests after it. Default off.
        max_age: Typed<OffOr<Duration>>,
        /// So many requests, then a new connection. Default off.
        max_requests: Typed<OffOr<Positive>>,
        /// TCP keep-alive. Default 60s.
        keepalive: Typed<OffOr<Duration>>,
    }

    Retry {
        /// Further tries after the first. Default 2.
        attempts: Typed<Count<0, 100>>,
        /// What is tried again: names, statuses (409) and gRPC statuses (unavailable). Default connect_failure,
        /// refused_stream, reset, gateway_error.
        #[serde(alias = "on")]
        conditions: OneOrMore<RetryCondition>,
        /// Whose requests may be sent twice. Default idempotent: GET HEAD OPTIONS TRACE PUT DELETE.
        methods: Methods,
        /// Does not bound the last try. Default off.
        per_try_timeout: Typed<OffOr<Duration>>,
        /// The pause before another try, with full jitter.
        backoff: Backoff,
        /// How many retries there may be beside the first tries of the last 10 s.
        budget: Budget,
        /// Larger bodies stream on and are not retried. Default 64KiB, at most 64MiB.
        max_body: Typed<Size>,
        hedge_after: OffOnly,
    }

    Backoff {
        /// The first pause at most. Default 25ms.
        base: Typed<Duration>,
        /// Any pause at most. Default 250ms.
        max: Typed<Duration>,
    }

    Budget {
        /// Retries over first tries. Default 20%.
        ratio: Typed<Share>,
        /// Allowed in any case. Default 10.
        min_per_second: Typed<AnyCount>,
    }

    CircuitBreaker {
        /// Beyond it HTTP waits as pending, and TCP is reset. Default 1024.
        max_connections: Typed<Positive>,
        /// Beyond it the answer is 503. Default 1024.
        max_pending_requests: Typed<AnyCount>,
        /// Beyond it the answer is 503. Default 1024.
        max_requests: Typed<Positive>,
        /// At once. Default 32.
        max_retries: Typed<AnyCount>,
        max_connections_per_endpoint: OffOnly,
        adaptive: OffOnly,
    }

    OutlierDetection {
        /// In a row: 5xx made by the endpoint, resets, connect failures, timeouts. Default 5.
        consecutive_errors: Typed<OffOr<Positive>>,
        interval: OffOnly,
        error_rate: OffOnly,
        gateway_errors: OffOnly,
        connect_failures: OffOnly,
        /// Times the number of ejections in a row. Default 30s.
        base_ejection: Typed<Duration>,
        /// Share of the endpoints, never the last one. Default 50%.
        max_ejected: Typed<Share>,
    }

    Dns {
        /// Over UDP and TCP. Default: port 15053 on loopback.
        listen: OneOrMore<SocketAddr>,
        /// Who is asked for names that are no service's: a file as resolv.conf, or addresses. Default /etc/resolv.conf.
        upstream: NameServers,
        /// on, the default: a service without an address gets one of 240.240.0.0/16 and one of fd9f:240::/64; or off.
        virtual_addresses: Typed<bool>,
    }

    Admin {
        /// Default: port 15000 on loopback.
        listen: OneOrMore<SocketAddr>,
    }

    Metrics {
        /// Default: port 15020 on every address of this host.
        listen: OneOrMore<SocketAddr>,
        /// Series of the whole exposition; past it new label values count under `other`. Default 20000.
        // a million series are some hundred MiB
        max_series: Typed<Count<100, 1_000_000>>,
        merge: OffOnly,
        compatibility: OffOnly,
    }

    Drain {
        /// Until then both sides go on accepting while they say goodbye. Default 5s; off: not at all.
        delay: Typed<OffOr<Pause>>,
        /// The end, whatever is still open. Default 25s: below the 30s that Kubernetes waits.
        timeout: Typed<Duration>,
    }

    Limits {
        /// auto, which does nothing yet: memory is bounded by the other limits alone.
        max_memory: Typed<Auto>,
        /// Of a request's head, from 8KiB to 1MiB. Default 64KiB.
        header_bytes: Typed<Size>,
        /// Fields of a head. Default 100.
        header_count: Typed<Count<1, 1000>>,
        /// From a head's first byte to its last. Default 10s.
        header_timeout: Typed<Duration>,
        /// A connection on which nothing happens is closed. Default 1h.
        idle_timeout: Typed<Duration>,
        /// How often a request may pass this instance in one direction. Default 4: the fifth is a loop.
        via_passes: Typed<Count<1, 100>>,
    }

    AccessLog {
        /// stdout, the default; stderr; or a file.
        path: Typed<LogPath>,
        /// One JSON object a line.
        format: Typed<Json>,
        /// Share of the requests that are logged. Default 100%.
        sample: Typed<Share>,
        /// errors, the default: failed requests are logged whatever the sample; or off.
        always: Typed<AlwaysErrors>,
    }
}

/// `defaults`: the keys of a service, below each service's own.
#[derive(Debug, Clone, Deserialize)]
#[serde(transparent)]
pub(crate) struct ForEachService(pub(crate) Service);

impl ForEachService {
    /// What makes no sense for more than one.
    pub(crate) const ONE_SERVICE_S_OWN: [&str; 4] = ["hosts", "addresses", "listen", "endpoints"];
}

/// A static list, or where to learn it.
#[derive(Debug, Clone)]
pub(crate) enum Endpoints {
    Static(Vec<Endpoint>),
    Learnt(LearntEndpoints),
}

#[derive(Debug, Clone)]
pub(crate) enum Endpoint {
    Address(Target),
    Full(EndpointBlock),
}

#[derive(Debug, Clone)]
pub(crate) enum UpstreamTls {
    Mode(TlsMode),
    Identity(SpiffeId),
    Full(TlsBlock),
}

#[derive(Debug, Clone)]
pub(crate) enum Balancer {
    Word(LoadBalancer),
    Hash(HashBalancer),
}

/// A file as resolv.conf, or the addresses.
#[derive(Debug, Clone)]
pub(crate) enum NameServers {
    File(PathBuf),
    List(Vec<SocketAddr>),
}

/// A set by its name, or a list.
#[derive(Debug, Clone)]
pub(crate) enum Methods {
    Idempotent,
    IdempotentOrKeyed,
    All,
    List(Vec<Method>),
}

/// What was typed, as far as it could be read, and what could not.
#[derive(Debug, Default)]
pub(crate) struct Reading {
    pub(crate) file: File,
    pub(crate) faults: Vec<Fault>,
    /// Empty where the text is no YAML.
    pub(crate) tree: Tree,
}

/// serde_yaml is the gate and sees to the syntax. What is read is the tree that kept its places: its texts are what
/// stands there (`x-version: 1.10` is no 1.1), and their variables are replaced.
pub(crate) fn read(source: &str, environment: Environment<'_>) -> Reading {
    let gate = serde_yaml::from_str::<IgnoredAny>(source);
    let mut tree = match Tree::read(source) {
        Ok(tree) => tree,
        Err(broken) => return Reading { faults: vec![unreadable(source, broken)], ..Reading::default() },
    };
    let (file, mut faults) = salvage::<Option<File>>(&mut tree, environment);
    if let (Err(error), Some(_), true) = (gate, &file, faults.is_empty()) {
        faults.push(only_serde_yaml_says(&error));
    }
    Reading { file: file.unwrap_or_default(), faults, tree }
}

fn unreadable(source: &str, broken: Broken) -> Fault {
    let line = lines(source).nth(broken.place.line.saturating_sub(1)).unwrap_or_default();
    let fault = Fault::of_file(format!("the file {}", broken.what), quotes_help(line));
    Fault { line: broken.place.line, column: broken.place.column, ..fault }
}

/// What YAML takes for its own signs, and people for text.
fn quotes_help(line: &str) -> Option<&'static str> {
    let bare = |signs: &str| line.split(['"', '\'']).step_by(2).any(|outside| outside.contains(signs));
    if bare("${") {
        return Some("in { } and [ ] put variables in quotes: \"${NAME}\"");
    }
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
