//! One entry of `services`, and its keys that `defaults` have too.

use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::sync::Arc;

use pillion_model::cluster::{
    AddressPattern, Discovery, DnsDiscovery, DnsRecords, HostPattern, KubernetesService, UpstreamProtocol,
};
use pillion_model::policy::{
    Adaptive, Backoff, Cache, CircuitBreaker, ConnectionPolicy, ErrorRate, HedgeAfter, IdleTimeout,
    OutlierDetection, Retry, RetryBudget, RetryCondition, RetryMethods, Timeout,
};
use pillion_model::{Cluster, Endpoint};
use serde_json::Value;
use std::net::SocketAddr;
use std::time::Duration;

use super::{Block, Static, balancer, field, health, tls};
use crate::page::{Page, Scopes};
use crate::reading::{Node, Reading, Shape};
use crate::schema::{self, Described};
use crate::spell;
use crate::value::{BadWord, Bytes, Count, OffOr, Opt, Positive, Share, Text, Word};
use crate::words::{DnsName, Method, ServicePort, SrvName, Target, Weight};

/// Keys that each service has for itself, so that `defaults` cannot have them.
pub(super) const ONE_SERVICE_S_OWN: [&str; 5] = ["hosts", "addresses", "listen", "endpoints", "cache"];

pub(crate) static SERVICE: Static<Cluster> = Static::new(|| {
    Block::new(|| Cluster::new(""))
        .list::<HostPattern>(
            "hosts",
            field!(hosts),
            "The hosts of this service; \"*.x\" is any host below x, and with a port only that port matches. \
             Default: the service's name.",
        )
        .says_its_default()
        .list::<AddressPattern>(
            "addresses",
            field!(addresses),
            "Original destinations (virtual IPs) of this service.",
        )
        .list::<SocketAddr>(
            "listen",
            field!(listen),
            "A local port for this service alone: its requests go to this service, whatever host they name.",
        )
        .key(
            "endpoints",
            "The addresses of the service, or how to discover them.",
            endpoints_schema,
            read_endpoints,
            tell_endpoints,
        )
        .word::<UpstreamProtocol>(
            "protocol",
            field!(protocol),
            "The protocol spoken to the endpoints; auto: by ALPN over TLS, else the version of the client.",
        )
        .key(
            "tls",
            "mutual, the default with an identity; simple; off, the default without; a SPIFFE ID (mutual with that \
             identity); or a block.",
            tls::schema,
            tls::read,
            tls::tell,
        )
        .key(
            "load_balancer",
            "How an endpoint is chosen: a word, or { ring_hash: … }, or { maglev: … }. Default peak_ewma: by latency and load.",
            balancer::schema,
            balancer::read,
            balancer::tell,
        )
        .word::<Duration>("connect_timeout", field!(timeouts.connect), "TCP and TLS together.")
        .word::<Timeout>(
            "timeout",
            field!(timeouts.request),
            "The time until the response's headers, with all attempts and pauses.",
        )
        .word::<IdleTimeout>(
            "stream_idle_timeout",
            field!(timeouts.stream_idle),
            "The longest pause between two pieces of a body; a written value applies to bodies and tunnels.",
        )
        .word::<OffOr<Duration>>(
            "max_duration",
            field!(timeouts.max_duration),
            "The longest time of the whole exchange with its bodies.",
        )
        .block("connection", field!(connection), &CONNECTION, "Pooled connections.")
        .block_or_off("retry", field!(retry), &RETRY, "When a request is retried. `off` turns retries off.")
        .block(
            "circuit_breaker",
            field!(limits),
            &CIRCUIT_BREAKER,
            "The most that may be open at once; requests beyond it are refused.",
        )
        .block_or_off(
            "outlier_detection",
            field!(outlier_detection),
            &OUTLIER_DETECTION,
            "When an endpoint that fails gets no requests for a while. `off` turns it off.",
        )
        .key(
            "health_check",
            "How each endpoint is asked whether it is well. Default off; or a block with one of `http`, `tcp` and `grpc`.",
            health::schema,
            health::read,
            health::tell,
        )
        .word::<OffOr<Duration>>(
            "slow_start",
            field!(slow_start),
            "An endpoint that comes or comes back gets 10 % of its requests at first, and all of them after this time.",
        )
        .block_or_off(
            "cache",
            field!(cache),
            &CACHE,
            "Keeps answers in memory and uses them again, as a shared cache by RFC 9111. Default off.",
        )
});

static CACHE: Static<Cache> = Static::new(|| {
    Block::new(Cache::default)
        .word::<Bytes<usize>>(
            "max",
            field!(max),
            "The memory that stored answers may take. What is used again and again is evicted last.",
        )
        .takes("64KiB or more")
        .word::<Bytes<usize>>(
            "max_object",
            field!(max_object),
            "An answer with a larger body is not stored, and none that is larger than a quarter of `max`.",
        )
        .word::<OffOr<Duration>>(
            "stale_if_error",
            field!(stale_if_error),
            "For how long a stale answer stands in where the service cannot answer. Off: as long as the answer itself says.",
        )
});

static CONNECTION: Static<ConnectionPolicy> = Static::new(|| {
    Block::new(ConnectionPolicy::default)
        .word::<OffOr<Duration>>(
            "idle_timeout",
            field!(idle_timeout),
            "An idle connection is closed after this time.",
        )
        .word::<OffOr<Duration>>(
            "max_age",
            field!(max_age),
            "A connection takes no more requests at this age.",
        )
        .word::<OffOr<Positive>>("max_requests", field!(max_requests), "The most requests on one connection.")
        .word::<OffOr<Duration>>("keepalive", field!(keepalive), "TCP keep-alive.")
});

pub(super) static RETRY: Static<Retry> = Static::new(|| {
    Block::new(Retry::default)
        .word::<Count<0, 100>>("attempts", field!(attempts), "Further attempts after the first.")
        .takes("1 to 100")
        .list::<RetryCondition>(
            "conditions",
            field!(conditions),
            "The failures that are retried: names, statuses (409) and gRPC statuses (unavailable).",
        )
        .also_called("on")
        .key(
            "methods",
            "The methods whose requests may be sent twice. Default idempotent: GET HEAD OPTIONS TRACE PUT DELETE.",
            methods_schema,
            read_methods,
            tell_methods,
        )
        .word::<OffOr<Duration>>(
            "per_try_timeout",
            field!(per_try_timeout),
            "The time of one attempt; it does not limit the last one.",
        )
        .block("backoff", field!(backoff), &BACKOFF, "The pause before another attempt, with full jitter.")
        .block(
            "budget",
            field!(budget),
            &BUDGET,
            "How many retries are allowed in proportion to the first attempts of the last 10 s.",
        )
        .word::<Bytes<usize>>(
            "max_body",
            field!(max_body),
            "Requests with larger bodies are streamed and not retried. At most 64MiB.",
        )
        .takes("up to 64MiB")
        .word::<OffOr<HedgeAfter>>(
            "hedge_after",
            field!(hedge_after),
            "After this time without an answer, a request that may be sent twice is tried at another endpoint too; \
             p95: the time within which 95 % of the service's recent requests were answered.",
        )
});

static BACKOFF: Static<Backoff> = Static::new(|| {
    Block::new(Backoff::default).word::<Duration>("base", field!(base), "The longest first pause.").key(
        "max",
        "The longest of all pauses. Default 250ms, or `base` where that is longer.",
        schema::word::<Duration>,
        |backoff, node, reading| backoff.max = node.word(reading).or(backoff.max),
        |backoff, at, page| page.tell(&at.key("max"), spell::duration(backoff.cap())),
    )
});

static BUDGET: Static<RetryBudget> = Static::new(|| {
    Block::new(RetryBudget::default)
        .word::<Share>("ratio", field!(ratio), "The ratio of retries to first attempts.")
        .word::<Count<0, { u32::MAX }>>(
            "min_per_second",
            field!(min_per_second),
            "Retries per second that are always allowed.",
        )
});

static CIRCUIT_BREAKER: Static<CircuitBreaker> = Static::new(|| {
    Block::new(CircuitBreaker::default)
        .word::<Positive>(
            "max_connections",
            field!(max_connections),
            "Open connections; beyond it an HTTP request waits as pending, and TCP is reset.",
        )
        .word::<Count<0, { u32::MAX }>>(
            "max_pending_requests",
            field!(max_pending_requests),
            "Requests that wait for a connection; a request beyond it gets 503.",
        )
        .word::<Positive>("max_requests", field!(max_requests), "Requests in flight; a request beyond it gets 503.")
        .word::<Count<0, { u32::MAX }>>("max_retries", field!(max_retries), "Retries in flight.")
        .word::<OffOr<Positive>>(
            "max_connections_per_endpoint",
            field!(max_connections_per_endpoint),
            "Connections to one endpoint; beyond it HTTP waits as pending, and TCP goes to another endpoint or is reset.",
        )
        .word::<OffOr<Adaptive>>(
            "adaptive",
            field!(adaptive),
            "A limit of requests in flight below `max_requests` that falls while the service is slower than usual.",
        )
});

static OUTLIER_DETECTION: Static<OutlierDetection> = Static::new(|| {
    Block::new(OutlierDetection::default)
        .word::<OffOr<Positive>>(
            "consecutive_errors",
            field!(consecutive_errors),
            "Errors in a row that eject the endpoint: 5xx made by the endpoint, resets, connect failures, timeouts.",
        )
        .word::<Duration>(
            "interval",
            field!(interval),
            "The time over which `error_rate` counts.",
        )
        .takes("100ms or more")
        .block_or_off(
            "error_rate",
            field!(error_rate),
            &ERROR_RATE,
            "The share of errors within `interval` that ejects the endpoint. Default off.",
        )
        .word::<OffOr<Count<1, 65_535>>>(
            "gateway_errors",
            field!(gateway_errors),
            "Answers 502, 503 and 504 in a row that eject the endpoint.",
        )
        .word::<OffOr<Count<1, 65_535>>>(
            "connect_failures",
            field!(connect_failures),
            "Failed connections in a row that eject the endpoint.",
        )
        .word::<Duration>(
            "base_ejection",
            field!(base_ejection),
            "The time of the first ejection; it grows with the number of ejections in a row.",
        )
        .word::<Share>(
            "max_ejected",
            field!(max_ejected),
            "The largest share of ejected endpoints; the last endpoint is never ejected.",
        )
});

static ERROR_RATE: Static<ErrorRate> = Static::new(|| {
    Block::new(ErrorRate::default)
        .word::<Share>("above", field!(above), "A larger share of errors ejects the endpoint.")
        .takes("less than 100%")
        .word::<Count<1, { u32::MAX }>>(
            "min_requests",
            field!(min_requests),
            "With fewer requests within `interval` nothing is ejected.",
        )
});

/// The values with which `defaults` and services start. With an identity, TLS is mutual.
pub(super) fn unwritten(reading: &Reading<'_>) -> Cluster {
    Cluster { tls: tls::unwritten(reading.has_identity), ..Cluster::new("") }
}

/// Reads all services, each over the values of `defaults`.
pub(super) fn read_services(clusters: &mut Vec<Cluster>, node: &Node<'_>, reading: &mut Reading<'_>) {
    let below = reading.defaults.clone().unwrap_or_else(|| unwritten(reading));
    for (name, entry) in node.map::<crate::words::ServiceName>(reading) {
        let (name, node) = (name.0, entry.value);
        let mut cluster = Cluster { hosts: vec![HostPattern::exact(&name)], name, ..below.clone() };
        if node.is_written(reading) && !SERVICE.read(&mut cluster, &node, reading) {
            continue;
        }
        if !node.has("endpoints", reading) {
            node.remark("needs endpoints", reading).help("endpoints: [\"10.0.1.10:15006\"]");
        }
        clusters.push(cluster);
    }
}

/// An endpoint that is written as a block of keys.
struct EndpointBlock {
    address: Option<SocketAddr>,
    weight: NonZeroU32,
    zone: Option<String>,
    priority: u32,
}

static ENDPOINT: Static<EndpointBlock> = Static::new(|| {
    Block::new(|| EndpointBlock { address: None, weight: NonZeroU32::MIN, zone: None, priority: 0 })
        .word::<Opt<Target>>("address", field!(address), "An IP address and a port.")
        .word::<Weight>("weight", field!(weight), "Its share of the traffic relative to the others.")
        .word::<Opt<Text>>(
            "zone",
            field!(zone),
            "The zone in which it runs. Endpoints of `workload.zone` are used first.",
        )
        .word::<Count<0, 127>>(
            "priority",
            field!(priority),
            "Higher numbers are used when endpoints with lower ones are out; 0 is the first.",
        )
});

/// How endpoints are discovered.
struct LearntEndpoints {
    dns: Option<DnsName>,
    srv: Option<String>,
    kubernetes: Option<ServicePort>,
    port: Option<u32>,
    refresh: Duration,
}

static LEARNT: Static<LearntEndpoints> = Static::new(|| {
    let nothing = || LearntEndpoints {
        dns: None,
        srv: None,
        kubernetes: None,
        port: None,
        refresh: DnsDiscovery::REFRESH,
    };
    Block::new(nothing)
        .word::<Opt<DnsName>>(
            "dns",
            field!(dns),
            "A name and a port: the A and AAAA records of the name are the endpoints.",
        )
        .word::<Opt<SrvName>>(
            "srv",
            field!(srv),
            "A name whose SRV records are the endpoints, with their ports, weights and priorities.",
        )
        .word::<Duration>("refresh", field!(refresh), "The longest time between two queries, at least 1s. Records with a shorter time to live are asked for when they end.")
        .takes("1s or more")
        .word::<Opt<ServicePort>>(
            "kubernetes",
            field!(kubernetes),
            "A Service of Kubernetes, its namespace and one of its ports: the ready addresses of its EndpointSlices are the endpoints, with their zones.",
        )
        .word::<Opt<Count<1, 65_535>>>(
            "port",
            field!(port),
            "With `kubernetes`, the port that is dialled. Default: the target port of the Service's port.",
        )
});

const ENDPOINTS: &str = "a list of endpoints, or { dns: … }, { srv: … } or { kubernetes: … }";
const ONE_ENDPOINT: &str = "an address, or { address: …, weight: … }";

fn endpoints_schema() -> Option<Value> {
    let endpoint = schema::any_of([Target::described(), schema::left_open(), ENDPOINT.schema()]);
    schema::any_of([schema::list_of(endpoint), LEARNT.schema()])
}

fn read_endpoints(cluster: &mut Cluster, node: &Node<'_>, reading: &mut Reading<'_>) {
    match node.shape(ENDPOINTS, reading) {
        None => {}
        Some(Shape::Word(leaf)) => {
            let must = BadWord::new(format!("must be {ENDPOINTS}"));
            let text = &leaf.text;
            let bad = match (Target::parse(text), DnsName::parse(text), SrvName::parse(text)) {
                (Ok(_), ..) => must.help(format!("write [\"{text}\"]")),
                (_, Ok(_), _) => must.help(format!("write {{ dns: \"{text}\" }}")),
                (.., Ok(_)) => must.help(format!("write {{ srv: {text} }}")),
                (Err(bad), ..) => bad,
            };
            node.parsed::<()>(&leaf, Err(bad), reading);
        }
        Some(Shape::List) => {
            cluster.endpoints = node.items(reading, endpoint);
            share_zones(&mut cluster.endpoints);
            if cluster.endpoints.is_empty() {
                node.remark("is empty", reading).help("endpoints: [\"10.0.1.10:15006\"]");
            }
        }
        Some(Shape::Block) => cluster.discovery = discovery(node, reading),
    }
}

fn endpoint(node: &Node<'_>, reading: &mut Reading<'_>) -> Option<Endpoint> {
    let EndpointBlock { address, weight, zone, priority } = match node.shape(ONE_ENDPOINT, reading)? {
        Shape::Word(leaf) => {
            let Target(address) = node.parsed(&leaf, Target::parse(&leaf.text), reading)?;
            return Some(Endpoint::at(address));
        }
        Shape::List => {
            node.mismatch(ONE_ENDPOINT, reading);
            return None;
        }
        Shape::Block => ENDPOINT.read_new(node, reading),
    };
    let Some(address) = address else {
        node.lacks("address", "{ address: 10.0.1.10:15006, weight: 2 }", reading);
        return None;
    };
    Some(Endpoint { weight, zone: zone.map(Arc::from), priority, ..Endpoint::at(address) })
}

/// Lets the endpoints of one zone share one string.
fn share_zones(endpoints: &mut [Endpoint]) {
    let mut known: BTreeSet<Arc<str>> = BTreeSet::new();
    for zone in endpoints.iter_mut().filter_map(|endpoint| endpoint.zone.as_mut()) {
        match known.get(&**zone) {
            Some(same) => *zone = same.clone(),
            None => drop(known.insert(zone.clone())),
        }
    }
}

fn discovery(node: &Node<'_>, reading: &mut Reading<'_>) -> Option<Discovery> {
    let LearntEndpoints { dns, srv, kubernetes, port, refresh } = LEARNT.read_new(node, reading);
    let written = [("dns", dns.is_some()), ("srv", srv.is_some()), ("kubernetes", kubernetes.is_some())];
    let written: Vec<&str> = written.into_iter().filter(|(_, is)| *is).map(|(key, _)| key).collect();
    if let [one, other, ..] = *written {
        node.remark(&format!("has both `{one}` and `{other}`"), reading).help("keep one");
        return None;
    }
    let (of_others, why) = match kubernetes {
        Some(_) => ("refresh", "has `refresh`, which is for `dns` and `srv`; the API server reports changes"),
        None => ("port", "has `port`, which is for `kubernetes`"),
    };
    if node.has(of_others, reading) {
        node.remark(why, reading).help("leave it out");
        return None;
    }
    if let Some(ServicePort { name, namespace, port: of_service }) = kubernetes {
        let dialled = port.and_then(|port| u16::try_from(port).ok());
        return Some(Discovery::Kubernetes(KubernetesService { name, namespace, port: of_service, dialled }));
    }
    let records = match (dns, srv) {
        (Some(DnsName { name, port }), _) => DnsRecords::Addresses { name, port },
        (None, Some(name)) => DnsRecords::Services { name },
        (None, None) => {
            node.remark("has neither a list nor `dns`, `srv` or `kubernetes`", reading)
                .help("endpoints: [\"10.0.1.10:15006\"], or endpoints: { dns: \"orders.shop:15006\" }");
            return None;
        }
    };
    Some(Discovery::Dns(DnsDiscovery { records, refresh }))
}

fn tell_endpoints(cluster: &Cluster, at: &Scopes<'_>, page: &mut Page<'_>) {
    let at = at.whole("endpoints");
    if let Some(discovery) = &cluster.discovery {
        page.tell_or(&at.key(discovery.key()), &at, discovery.to_string());
        match discovery {
            Discovery::Dns(of) => page.tell(&at.key("refresh"), spell::duration(of.refresh)),
            Discovery::Kubernetes(of) => page.tell(&at.key("port"), of.dialled),
        }
    }
    for (nth, endpoint) in cluster.endpoints.iter().enumerate() {
        let at = at.index(nth);
        page.tell(&at, endpoint.address.to_string());
        page.tell(&at.key("weight"), endpoint.weight.get());
        page.tell(&at.key("zone"), endpoint.zone.as_deref());
        page.tell(&at.key("priority"), endpoint.priority);
    }
}

const METHODS: &str = "idempotent, idempotent_or_keyed, all, or a list of methods";
const SETS_OF_METHODS: [(&str, RetryMethods); 3] = [
    ("idempotent", RetryMethods::Idempotent),
    ("idempotent_or_keyed", RetryMethods::IdempotentOrKeyed),
    ("all", RetryMethods::All),
];

fn methods_schema() -> Option<Value> {
    let sets = schema::one_of(SETS_OF_METHODS.iter().map(|(word, _)| *word));
    schema::any_of([Some(sets), schema::left_open(), schema::list_of(schema::word::<Method>())])
}

fn read_methods(retry: &mut Retry, node: &Node<'_>, reading: &mut Reading<'_>) {
    match node.shape(METHODS, reading) {
        None => {}
        Some(Shape::Word(leaf)) => {
            if let Some(set) = node.parsed(&leaf, set_of_methods(&leaf.text), reading) {
                retry.methods = set;
            }
        }
        Some(Shape::List) => {
            let methods = node.items(reading, |item, reading| item.word::<Method>(reading));
            retry.methods = RetryMethods::List(methods.into_iter().map(|Method(method)| method).collect());
        }
        Some(Shape::Block) => node.mismatch(METHODS, reading),
    }
}

fn set_of_methods(text: &str) -> Result<RetryMethods, BadWord> {
    match SETS_OF_METHODS.into_iter().find(|(word, _)| *word == text) {
        Some((_, set)) => Ok(set),
        None if Method::parse(text).is_ok() => {
            Err(BadWord::new("must be a list").help(format!("write [{text}]")))
        }
        None => Err(BadWord::not(text, METHODS)),
    }
}

fn tell_methods(retry: &Retry, at: &Scopes<'_>, page: &mut Page<'_>) {
    let at = at.whole("methods");
    match &retry.methods {
        RetryMethods::List(list) => page.tell_list(list.iter().map(|it| it.as_str().into()), &at),
        set => {
            let word = SETS_OF_METHODS.iter().find(|(_, known)| known == set).map(|(word, _)| *word);
            page.tell(&at, word);
        }
    }
}
