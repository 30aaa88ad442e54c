//! Istio's standard metrics by their own names and labels, for dashboards and for Kiali (`metrics.compatibility: [istio]`).
//!
//! The names, labels and values are those of Istio's page on standard metrics. What a sidecar does not know is `unknown`, as
//! there. The other workload is known by its verified SPIFFE ID alone, so no peer can take another's name.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;

use parking_lot::RwLock;
use pillion_model::{Direction, Reason, Workload};

use super::family::{Exposition, Family, Histogram, IntCounter};
use super::flags;
use super::labels::{Labels, OTHER_STATUS};
use super::symbols::{Symbol, Symbols};

const UNKNOWN: &str = "unknown";
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
    pub reason: Option<Reason>,
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

    /// The workload of a SPIFFE ID that ends in `/ns/NAMESPACE/sa/NAME`.
    fn of(id: Symbol, symbols: &Symbols) -> Self {
        let principal = symbols.name(id);
        let mut segments = principal.rsplit('/');
        let mut next = || segments.next();
        let (namespace, name) = match [next(), next(), next(), next()] {
            [Some(name), Some("sa"), Some(namespace), Some("ns")] => (namespace, name),
            _ if id == Symbol::OTHER => ("other", "other"),
            _ => ("", ""),
        };
        Self { name: known(name), namespace: known(namespace), principal: known(&principal) }
    }
}

fn known(text: &str) -> String {
    if text.is_empty() { UNKNOWN.to_owned() } else { text.to_owned() }
}

/// The service as Istio names it: host, name and namespace.
struct ServiceNames([String; 3]);

impl ServiceNames {
    /// `other`: the workload that serves it.
    fn of(labels: &IstioLabels, destination: &Party, symbols: &Symbols) -> Self {
        let service = match labels.direction {
            Direction::Inbound => destination.name.clone(),
            Direction::Outbound if labels.service == Symbol::PASSTHROUGH => {
                return Self([UNKNOWN, PASSTHROUGH, UNKNOWN].map(str::to_owned));
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
        Self([host, name, namespace])
    }
}

impl IstioLabels {
    /// Replaces numbers that a peer made up. gRPC reads an unknown status as 2, UNKNOWN.
    fn tidy(mut self) -> Self {
        if !(100..=599).contains(&self.status) {
            self.status = OTHER_STATUS;
        }
        self.grpc_status = self.grpc_status.map(|status| if status > 16 { 2 } else { status });
        self
    }

    fn parties(&self, symbols: &Symbols) -> (Party, Party) {
        let (own, other) = (Party::own(self.own, symbols), Party::of(self.other, symbols));
        match self.direction {
            Direction::Inbound => (other, own),
            Direction::Outbound => (own, other),
        }
    }

    /// The names and values that requests and opaque connections both have.
    fn shared(&self, symbols: &Symbols) -> Vec<String> {
        let (source, destination) = self.parties(symbols);
        let ServiceNames([host, name, namespace]) = ServiceNames::of(self, &destination, symbols);
        let unknown = || UNKNOWN.to_owned();
        let reporter = if self.direction == Direction::Inbound { "destination" } else { "source" };
        vec![
            reporter.to_owned(),
            source.name.clone(),
            source.name,
            "latest".to_owned(),
            source.namespace,
            source.principal,
            unknown(),
            unknown(),
            unknown(),
            destination.name.clone(),
            destination.namespace,
            destination.principal,
            unknown(),
            unknown(),
            host,
            destination.name,
            "latest".to_owned(),
            name,
            namespace,
            unknown(),
            self.protocol().to_owned(),
            self.reason.and_then(flags::flag).unwrap_or("-").to_owned(),
            self.policy().to_owned(),
        ]
    }

    const fn protocol(&self) -> &'static str {
        match self.protocol {
            IstioProtocol::Http => "http",
            IstioProtocol::Grpc => "grpc",
            IstioProtocol::Tcp => "tcp",
        }
    }

    /// The caller's side is `unknown` in Istio, too.
    const fn policy(&self) -> &'static str {
        match self.direction {
            Direction::Outbound => UNKNOWN,
            Direction::Inbound if self.is_mutual => "mutual_tls",
            Direction::Inbound => "none",
        }
    }
}

/// The names of [`IstioLabels::shared`].
const SHARED: [&str; 23] = [
    "reporter",
    "source_workload",
    "source_canonical_service",
    "source_canonical_revision",
    "source_workload_namespace",
    "source_principal",
    "source_app",
    "source_version",
    "source_cluster",
    "destination_workload",
    "destination_workload_namespace",
    "destination_principal",
    "destination_app",
    "destination_version",
    "destination_service",
    "destination_canonical_service",
    "destination_canonical_revision",
    "destination_service_name",
    "destination_service_namespace",
    "destination_cluster",
    "request_protocol",
    "response_flags",
    "connection_security_policy",
];

impl Labels for IstioLabels {
    fn names() -> Vec<&'static str> {
        SHARED.into_iter().chain(["response_code", "grpc_response_status"]).collect()
    }

    fn values(self, symbols: &Symbols) -> Vec<String> {
        let status = if self.status == OTHER_STATUS { "other".to_owned() } else { self.status.to_string() };
        let grpc_status = self.grpc_status.map(|status| status.to_string()).unwrap_or_default();
        [self.shared(symbols), vec![status, grpc_status]].concat()
    }

    fn other(self) -> Self {
        Self { service: Symbol::OTHER, other: Symbol::OTHER, ..self }
    }

    fn rest(self) -> Self {
        Self { status: OTHER_STATUS, grpc_status: None, reason: None, ..self.other() }
    }
}

/// The labels of an opaque connection, which has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct TcpLabels(pub(super) IstioLabels);

impl Labels for TcpLabels {
    fn names() -> Vec<&'static str> {
        SHARED.to_vec()
    }

    fn values(self, symbols: &Symbols) -> Vec<String> {
        self.0.shared(symbols)
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
        self.opened.of(TcpLabels(labels)).inc();
    }

    pub(super) fn ended(&self, labels: IstioLabels, (received, sent): (u64, u64)) {
        self.closed.of(TcpLabels(labels)).inc();
        self.sent.of(TcpLabels(labels)).inc_by(sent);
        self.received.of(TcpLabels(labels)).inc_by(received);
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
    pub(super) fn note(&self, service: Symbol, address: SocketAddr, id: Symbol) {
        if self.of(service, address) == id {
            return;
        }
        let mut known = self.0.write();
        if known.len() >= MOST_SERVERS {
            known.clear(); // those in use come back with their next connections
        }
        known.insert((service, address), id);
    }

    pub(super) fn of(&self, service: Symbol, address: SocketAddr) -> Symbol {
        self.0.read().get(&(service, address)).copied().unwrap_or(Symbol::EMPTY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WEB: &str = "spiffe://cluster.local/ns/shop/sa/web";
    const ORDERS: &str = "spiffe://cluster.local/ns/back/sa/orders";

    fn own(symbols: &Symbols) -> Own {
        let workload =
            Workload { name: Some("web-v1".to_owned()), namespace: Some("shop".to_owned()), zone: None };
        Own::new(&workload, Some(WEB), symbols)
    }

    fn labels(direction: Direction, service: Symbol, other: Symbol, symbols: &Symbols) -> IstioLabels {
        IstioLabels {
            direction,
            own: own(symbols),
            service,
            other,
            protocol: IstioProtocol::Http,
            status: 503,
            grpc_status: None,
            reason: Some(Reason::NoEndpoints),
            is_mutual: true,
        }
    }

    fn value(labels: IstioLabels, name: &str, symbols: &Symbols) -> String {
        let at = IstioLabels::names().iter().position(|known| *known == name).expect("a label of Istio");
        labels.values(symbols).remove(at)
    }

    #[test]
    fn a_caller_reports_as_source_and_names_the_server_by_its_certificate() {
        let symbols = Symbols::new(100);
        let (service, other) = (symbols.intern("orders"), symbols.intern(ORDERS));
        let labels = labels(Direction::Outbound, service, other, &symbols);
        for (name, expected) in [
            ("reporter", "source"),
            ("source_workload", "web-v1"),
            ("source_workload_namespace", "shop"),
            ("source_principal", WEB),
            ("source_app", "unknown"),
            ("destination_workload", "orders"),
            ("destination_workload_namespace", "back"),
            ("destination_principal", ORDERS),
            ("destination_service", "orders.back.svc.cluster.local"),
            ("destination_service_name", "orders"),
            ("destination_service_namespace", "back"),
            ("destination_canonical_service", "orders"),
            ("request_protocol", "http"),
            ("response_code", "503"),
            ("grpc_response_status", ""),
            ("response_flags", "UH"),
            ("connection_security_policy", "unknown"),
        ] {
            assert_eq!(value(labels, name, &symbols), expected, "{name}");
        }
    }

    #[test]
    fn an_application_reports_as_destination_and_strangers_are_unknown() {
        let symbols = Symbols::new(100);
        let labels = labels(Direction::Inbound, Symbol::APP, Symbol::EMPTY, &symbols);
        let labels = IstioLabels { is_mutual: false, reason: None, ..labels };
        for (name, expected) in [
            ("reporter", "destination"),
            ("source_workload", "unknown"),
            ("source_principal", "unknown"),
            ("destination_workload", "web-v1"),
            ("destination_service", "web-v1.shop.svc.cluster.local"),
            ("destination_service_name", "web-v1"),
            ("response_flags", "-"),
            ("connection_security_policy", "none"),
        ] {
            assert_eq!(value(labels, name, &symbols), expected, "{name}");
        }
    }

    #[test]
    fn services_have_the_names_of_their_hosts() {
        let symbols = Symbols::new(100);
        for (service, expected) in [
            ("orders.shop", ["orders.shop", "orders", "shop"]),
            ("orders.shop.svc.cluster.local", ["orders.shop.svc.cluster.local", "orders", "shop"]),
            ("api.example.com", ["api.example.com", "api", "unknown"]),
            ("orders", ["orders", "orders", "unknown"]),
            ("passthrough", ["unknown", "PassthroughCluster", "unknown"]),
        ] {
            let labels = labels(Direction::Outbound, symbols.intern(service), Symbol::EMPTY, &symbols);
            let names = ["destination_service", "destination_service_name", "destination_service_namespace"];
            assert_eq!(names.map(|name| value(labels, name, &symbols)), expected, "{service}");
        }
    }

    #[test]
    fn every_label_has_one_value_and_a_name_of_its_own() {
        let symbols = Symbols::new(100);
        let labels = labels(Direction::Inbound, Symbol::APP, Symbol::OTHER, &symbols);
        assert_eq!(labels.values(&symbols).len(), IstioLabels::names().len());
        assert_eq!(TcpLabels(labels).values(&symbols).len(), TcpLabels::names().len());
        let names: HashSet<_> = IstioLabels::names().into_iter().collect();
        assert_eq!(names.len(), IstioLabels::names().len());
    }
}
