//! Istio's standard metrics by their own names and labels, for dashboards and for Kiali (`metrics.compatibility: [istio]`).
//!
//! The names, labels and values are those of Istio's page on standard metrics. What a sidecar does not know is `unknown`, as
//! there. The other workload is known by its verified SPIFFE ID alone, so no peer can take another's name.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;

use parking_lot::RwLock;
use pillion_model::{Direction, Workload};

use super::family::{Exposition, Family, Histogram, IntCounter};
use super::labels::{Labels, OTHER_STATUS};
use super::symbols::{Symbol, Symbols};

const UNKNOWN: &str = "unknown";
const LATEST: &str = "latest";
/// What Istio calls destinations outside every service.
const PASSTHROUGH: &str = "PassthroughCluster";

/// Envoy's buckets, which Istio has for milliseconds and for bytes.
#[rustfmt::skip] // a decade in each line
const BUCKETS: &[f64] = &[
    0.5, 1.0, 5.0,
    10.0, 25.0, 50.0,
    100.0, 250.0, 500.0,
    1000.0, 2500.0, 5000.0,
    10_000.0, 30_000.0, 60_000.0,
    300_000.0, 600_000.0, 1_800_000.0, 3_600_000.0,
];

/// The servers whose identities are remembered: more endpoints than a sidecar talks to.
const MOST_SERVERS: usize = 10_000;

/// The workload of this sidecar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Own {
    name: Symbol,
    namespace: Symbol,
    principal: Symbol,
}

impl Default for Own {
    fn default() -> Self {
        Self { name: Symbol::EMPTY, namespace: Symbol::EMPTY, principal: Symbol::EMPTY }
    }
}

impl Own {
    pub(super) fn new(workload: &Workload, id: Option<&str>, symbols: &Symbols) -> Self {
        let of = |text: Option<&str>| text.map_or(Symbol::EMPTY, |text| symbols.intern(text));
        Self {
            name: of(workload.name.as_deref()),
            namespace: of(workload.namespace.as_deref()),
            principal: of(id),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum IstioProtocol {
    Http,
    Grpc,
    Tcp,
}

/// The labels of one request, or of one opaque connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct IstioLabels {
    pub direction: Direction,
    pub own: Own,
    /// As in `pillion_requests_total`.
    pub service: Symbol,
    /// The verified SPIFFE ID of the other workload; [`Symbol::EMPTY`] without one.
    pub other: Symbol,
    pub protocol: IstioProtocol,
    pub status: u16,
    pub grpc_status: Option<u8>,
    /// As [`super::flags::flag`] has it. The reason itself is no label: reasons with one flag share their series.
    pub flag: &'static str,
    /// Inbound: whether the client has proved its identity.
    pub is_mutual: bool,
}

/// A workload as the labels name it.
struct Party {
    name: String,
    namespace: String,
    principal: String,
}

impl Party {
    fn own(own: Own, symbols: &Symbols) -> Self {
        let of = |symbol| known(&symbols.name(symbol));
        Self { name: of(own.name), namespace: of(own.namespace), principal: of(own.principal) }
    }

    /// The workload of a SPIFFE ID of the form `/ns/NAMESPACE/sa/NAME` in the trust domain of `own`. Other IDs name no
    /// workload of this mesh.
    fn of(id: Symbol, own: Own, symbols: &Symbols) -> Self {
        let (principal, own) = (symbols.name(id), symbols.name(own.principal));
        let (namespace, name) = match workload_of(&principal, &own) {
            Some(workload) => workload,
            None if id == Symbol::OTHER => ("other", "other"),
            None => ("", ""),
        };
        Self { name: known(name), namespace: known(namespace), principal: known(&principal) }
    }
}

/// The namespace and the name of a workload by its SPIFFE ID.
fn workload_of<'a>(id: &'a str, own: &str) -> Option<(&'a str, &'a str)> {
    const SCHEME: &str = "spiffe://";
    let (domain, _) = own.strip_prefix(SCHEME)?.split_once('/')?;
    let path = id.strip_prefix(SCHEME)?.strip_prefix(domain)?;
    let (namespace, name) = path.strip_prefix("/ns/")?.split_once("/sa/")?;
    let is_segment = |text: &str| !text.is_empty() && !text.contains('/');
    (is_segment(namespace) && is_segment(name)).then_some((namespace, name))
}

fn known(text: &str) -> String {
    if text.is_empty() { UNKNOWN.to_owned() } else { text.to_owned() }
}

/// The service as Istio names it.
struct ServiceNames {
    host: String,
    name: String,
    namespace: String,
}

impl ServiceNames {
    /// `other`: the workload that serves it.
    fn of(labels: &IstioLabels, destination: &Party, symbols: &Symbols) -> Self {
        let service = match labels.direction {
            Direction::Inbound => destination.name.clone(),
            Direction::Outbound if labels.service == Symbol::PASSTHROUGH => {
                let [host, name, namespace] = [UNKNOWN, PASSTHROUGH, UNKNOWN].map(str::to_owned);
                return Self { host, name, namespace };
            }
            Direction::Outbound => known(&symbols.name(labels.service)),
        };
        let mut parts = service.split('.');
        let name = parts.next().unwrap_or_default().to_owned();
        let namespace = match (parts.next(), parts.next()) {
            (Some(namespace), None | Some("svc")) => namespace.to_owned(),
            _ => destination.namespace.clone(),
        };
        let is_bare = !service.contains('.') && service != UNKNOWN && namespace != UNKNOWN;
        let host = if is_bare { format!("{service}.{namespace}.svc.cluster.local") } else { service };
        Self { host, name, namespace }
    }
}

impl IstioLabels {
    /// Replaces numbers that a peer made up, and what no label shows: two of these with the same labels are equal. gRPC
    /// reads an unknown status as 2, UNKNOWN.
    fn tidy(mut self) -> Self {
        if !(100..=599).contains(&self.status) {
            self.status = OTHER_STATUS;
        }
        self.grpc_status = self.grpc_status.map(|status| if status > 16 { 2 } else { status });
        match self.direction {
            Direction::Inbound => self.service = Symbol::APP,
            Direction::Outbound => self.is_mutual = false,
        }
        self
    }

    fn shown(&self, symbols: &Symbols) -> Shown {
        let (own, other) = (Party::own(self.own, symbols), Party::of(self.other, self.own, symbols));
        let (source, destination) = match self.direction {
            Direction::Inbound => (other, own),
            Direction::Outbound => (own, other),
        };
        let service = ServiceNames::of(self, &destination, symbols);
        Shown { labels: *self, source, destination, service }
    }
}

/// What the labels show.
struct Shown {
    labels: IstioLabels,
    source: Party,
    destination: Party,
    service: ServiceNames,
}

impl Shown {
    const fn reporter(&self) -> &'static str {
        match self.labels.direction {
            Direction::Inbound => "destination",
            Direction::Outbound => "source",
        }
    }

    const fn protocol(&self) -> &'static str {
        match self.labels.protocol {
            IstioProtocol::Http => "http",
            IstioProtocol::Grpc => "grpc",
            IstioProtocol::Tcp => "tcp",
        }
    }

    const fn flag(&self) -> &'static str {
        if self.labels.flag.is_empty() { "-" } else { self.labels.flag }
    }

    /// The caller's side is `unknown` in Istio, too.
    const fn policy(&self) -> &'static str {
        match self.labels.direction {
            Direction::Outbound => UNKNOWN,
            Direction::Inbound if self.labels.is_mutual => "mutual_tls",
            Direction::Inbound => "none",
        }
    }
}

type ValueOf = fn(&Shown) -> &str;

/// The labels that requests and opaque connections both have.
#[rustfmt::skip] // one table, read by columns
const SHARED: [(&str, ValueOf); 23] = [
    ("reporter", |of| of.reporter()),
    ("source_workload", |of| &of.source.name),
    ("source_canonical_service", |of| &of.source.name),
    ("source_canonical_revision", |_| LATEST),
    ("source_workload_namespace", |of| &of.source.namespace),
    ("source_principal", |of| &of.source.principal),
    ("source_app", |_| UNKNOWN),
    ("source_version", |_| UNKNOWN),
    ("source_cluster", |_| UNKNOWN),
    ("destination_workload", |of| &of.destination.name),
    ("destination_workload_namespace", |of| &of.destination.namespace),
    ("destination_principal", |of| &of.destination.principal),
    ("destination_app", |_| UNKNOWN),
    ("destination_version", |_| UNKNOWN),
    ("destination_service", |of| &of.service.host),
    ("destination_canonical_service", |of| &of.destination.name),
    ("destination_canonical_revision", |_| LATEST),
    ("destination_service_name", |of| &of.service.name),
    ("destination_service_namespace", |of| &of.service.namespace),
    ("destination_cluster", |_| UNKNOWN),
    ("request_protocol", |of| of.protocol()),
    ("response_flags", |of| of.flag()),
    ("connection_security_policy", |of| of.policy()),
];

fn shared_names() -> Vec<&'static str> {
    SHARED.iter().map(|(name, _)| *name).collect()
}

fn shared_values(labels: &IstioLabels, symbols: &Symbols) -> Vec<String> {
    let shown = labels.shown(symbols);
    SHARED.iter().map(|(_, value)| value(&shown).to_owned()).collect()
}

impl Labels for IstioLabels {
    /// The services `orders` and `orders.shop.svc.cluster.local` have one name for Istio.
    const MAY_COINCIDE: bool = true;

    fn names() -> Vec<&'static str> {
        [shared_names(), vec!["response_code", "grpc_response_status"]].concat()
    }

    fn values(self, symbols: &Symbols) -> Vec<String> {
        let status = if self.status == OTHER_STATUS { "other".to_owned() } else { self.status.to_string() };
        let grpc_status = self.grpc_status.map(|status| status.to_string()).unwrap_or_default();
        [shared_values(&self, symbols), vec![status, grpc_status]].concat()
    }

    fn other(self) -> Self {
        Self { service: Symbol::OTHER, other: Symbol::OTHER, ..self }.tidy()
    }

    fn rest(self) -> Self {
        Self { status: OTHER_STATUS, grpc_status: None, flag: "", ..self.other() }
    }
}

/// The labels of an opaque connection, which has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct TcpLabels(pub(super) IstioLabels);

impl TcpLabels {
    /// As a connection has them when it begins and when it has ended, so that the numbers of both can be compared.
    fn without_flag(labels: IstioLabels) -> Self {
        Self(IstioLabels { flag: "", ..labels }.tidy())
    }
}

impl Labels for TcpLabels {
    const MAY_COINCIDE: bool = true;

    fn names() -> Vec<&'static str> {
        shared_names()
    }

    fn values(self, symbols: &Symbols) -> Vec<String> {
        shared_values(&self.0, symbols)
    }

    fn other(self) -> Self {
        Self(self.0.other())
    }

    fn rest(self) -> Self {
        Self(self.0.rest())
    }
}

/// The families, whose series appear when they are used.
pub(super) struct IstioFamilies {
    requests: Family<IstioLabels, IntCounter>,
    duration: Family<IstioLabels, Histogram>,
    request_bytes: Family<IstioLabels, Histogram>,
    response_bytes: Family<IstioLabels, Histogram>,
    opened: Family<TcpLabels, IntCounter>,
    closed: Family<TcpLabels, IntCounter>,
    sent: Family<TcpLabels, IntCounter>,
    received: Family<TcpLabels, IntCounter>,
}

/// The series of one label set of requests.
#[derive(Clone)]
pub(super) struct IstioRequests {
    count: IntCounter,
    duration: Histogram,
    request_bytes: Histogram,
    response_bytes: Histogram,
}

impl IstioRequests {
    pub(super) fn observe(&self, seconds: f64, (received, sent): (u64, u64)) {
        self.count.inc();
        self.duration.observe(seconds * 1000.0);
        self.request_bytes.observe(received as f64);
        self.response_bytes.observe(sent as f64);
    }
}

impl IstioFamilies {
    #[rustfmt::skip] // one table, read by columns
    pub(super) fn register(to: &Exposition) -> Self {
        Self {
            requests: to.counters("istio_requests_total", "Finished requests, as Istio names them."),
            duration: to.histograms("istio_request_duration_milliseconds", "Durations of requests, as Istio names them.", BUCKETS),
            request_bytes: to.histograms("istio_request_bytes", "Bytes of requests' bodies, as Istio names them.", BUCKETS),
            response_bytes: to.histograms("istio_response_bytes", "Bytes of answers' bodies, as Istio names them.", BUCKETS),
            opened: to.counters("istio_tcp_connections_opened_total", "Opaque connections that began, as Istio names them."),
            closed: to.counters("istio_tcp_connections_closed_total", "Opaque connections that ended, as Istio names them."),
            sent: to.counters("istio_tcp_sent_bytes_total", "Bytes of opaque connections to their clients, as Istio names them."),
            received: to.counters("istio_tcp_received_bytes_total", "Bytes of opaque connections from their clients, as Istio names them."),
        }
    }

    pub(super) fn requests(&self, labels: IstioLabels) -> IstioRequests {
        let labels = labels.tidy();
        IstioRequests {
            count: self.requests.of(labels),
            duration: self.duration.of(labels),
            request_bytes: self.request_bytes.of(labels),
            response_bytes: self.response_bytes.of(labels),
        }
    }

    pub(super) fn began(&self, labels: IstioLabels) {
        self.opened.of(TcpLabels::without_flag(labels)).inc();
    }

    pub(super) fn ended(&self, labels: IstioLabels, (received, sent): (u64, u64)) {
        self.closed.of(TcpLabels::without_flag(labels)).inc();
        let labels = TcpLabels(labels.tidy());
        self.sent.of(labels).inc_by(sent);
        self.received.of(labels).inc_by(received);
    }

    pub(super) fn forget(&self, gone: &HashSet<Symbol>) {
        self.requests.remove(|labels| gone.contains(&labels.service));
        for family in [&self.duration, &self.request_bytes, &self.response_bytes] {
            family.remove(|labels| gone.contains(&labels.service));
        }
        for family in [&self.opened, &self.closed, &self.sent, &self.received] {
            family.remove(|labels| gone.contains(&labels.0.service));
        }
    }
}

/// The verified identities of servers, noted when a connection to one is made.
#[derive(Default)]
pub(super) struct Servers(RwLock<HashMap<(Symbol, SocketAddr), Symbol>>);

impl Servers {
    /// Returns whether something has changed.
    pub(super) fn note(&self, service: Symbol, address: SocketAddr, id: Symbol) -> bool {
        if self.of(service, address) == id {
            return false;
        }
        let mut known = self.0.write();
        if known.len() >= MOST_SERVERS {
            known.clear(); // those in use come back with their next connections
        }
        known.insert((service, address), id);
        true
    }

    pub(super) fn forget(&self, gone: &HashSet<Symbol>) {
        self.0.write().retain(|(service, _), _| !gone.contains(service));
    }

    pub(super) fn of(&self, service: Symbol, address: SocketAddr) -> Symbol {
        self.0.read().get(&(service, address)).copied().unwrap_or(Symbol::EMPTY)
    }
}

#[cfg(test)]
mod tests;
