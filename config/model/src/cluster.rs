//! A cluster: one entry of `services:`, which is a service that the application calls by a name.
//!
//! The file says "service". In the code, "service" is tower's word, so the type is called `Cluster`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use crate::direction::Direction;
use crate::endpoint::Endpoint;
use crate::identity::{KeyPair, SpiffeId};
use crate::policy::{
    Cache, CircuitBreaker, ConnectionPolicy, HealthCheck, OutlierDetection, Retry, Timeouts,
};

/// A service that the application calls, with every rule for the traffic to it.
#[derive(Debug, Clone, PartialEq)]
pub struct Cluster {
    /// The key in `services:`; the `service` label of metrics. Names are unique.
    pub name: String,
    /// The hosts that name this cluster in requests. Never empty; default: the cluster's name.
    pub hosts: Vec<HostPattern>,
    /// Original destinations (virtual IPs) of this cluster: a connection to one of them belongs to it, whatever Host
    /// its requests carry. Default: none. No two clusters share one; a network may lie within the network of another
    /// cluster, and then the longer prefix wins.
    pub addresses: Vec<AddressPattern>,
    /// Local ports of this cluster: a request on one of them belongs to it, whatever Host it carries. Default: none.
    pub listen: Vec<SocketAddr>,
    /// The endpoints that the configuration lists. Empty where endpoints are discovered.
    pub endpoints: Vec<Endpoint>,
    /// Where endpoints are discovered. `None`: the configuration lists them.
    pub discovery: Option<Discovery>,
    /// The protocol spoken to the endpoints. Default: auto, so that operators need not know it.
    pub protocol: UpstreamProtocol,
    /// How the endpoints authenticate, and whether we authenticate to them. A source that gives an identity makes TLS
    /// mutual by default.
    pub tls: UpstreamTls,
    /// How an endpoint is chosen. Default: peak EWMA, which notices that an endpoint is slow before it fails.
    pub load_balancer: LoadBalancer,
    /// How long an endpoint that has become ready gets fewer requests. `None`, the default: it gets all of them at once.
    pub slow_start: Option<Duration>,
    /// Time limits of requests and connections.
    pub timeouts: Timeouts,
    /// How long pooled connections live and how often they are used.
    pub connection: ConnectionPolicy,
    /// When a request is sent again. `None`: only when no byte of it had been sent.
    pub retry: Option<Retry>,
    /// How many connections and requests may be open or in flight at once.
    pub limits: CircuitBreaker,
    /// When an endpoint that fails gets no requests for a while. `None`: never.
    pub outlier_detection: Option<OutlierDetection>,
    /// How each endpoint is asked whether it is well. `None`, the default: it is not asked.
    pub health_check: Option<HealthCheck>,
    /// What is kept of its answers. `None`, the default: nothing.
    pub cache: Option<Cache>,
}

impl Cluster {
    /// A cluster whose only host is its name, without endpoints and without TLS; everything else has its default.
    pub fn new(name: impl Into<String>) -> Self {
        let name = name.into();
        Self {
            hosts: vec![HostPattern::exact(&name)],
            addresses: Vec::new(),
            listen: Vec::new(),
            endpoints: Vec::new(),
            discovery: None,
            protocol: UpstreamProtocol::Auto,
            tls: UpstreamTls::Off,
            load_balancer: LoadBalancer::PeakEwma,
            slow_start: None,
            timeouts: Timeouts::default(),
            connection: ConnectionPolicy::default(),
            retry: Some(Retry::default()),
            limits: CircuitBreaker::default(),
            outlier_detection: Some(OutlierDetection::default()),
            health_check: None,
            cache: None,
            name,
        }
    }
}

/// What a cluster stands for. Code must ask this and not compare the name or a metric label, which are only for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ClusterKind {
    /// A service that the application calls. It has a configuration of its own.
    Service,
    /// Destinations that no service matches. The sidecar connects to them, and leaves the rest to the application.
    Passthrough,
    /// The application beside the sidecar.
    Application,
}

impl ClusterKind {
    /// The direction of the traffic to this cluster.
    pub const fn direction(self) -> Direction {
        match self {
            Self::Service | Self::Passthrough => Direction::Outbound,
            Self::Application => Direction::Inbound,
        }
    }
}

/// Where endpoints are discovered.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Discovery {
    Dns(DnsDiscovery),
    Kubernetes(KubernetesService),
}

impl Discovery {
    pub const fn dns(&self) -> Option<&DnsDiscovery> {
        match self {
            Self::Dns(of) => Some(of),
            Self::Kubernetes(_) => None,
        }
    }

    pub const fn kubernetes(&self) -> Option<&KubernetesService> {
        match self {
            Self::Dns(_) => None,
            Self::Kubernetes(of) => Some(of),
        }
    }

    /// Whether both have the same endpoints. How often a name is looked up changes none.
    pub fn has_same_source(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Dns(one), Self::Dns(other)) => one.records == other.records,
            (one, other) => one == other,
        }
    }

    /// The key of the file that names the source.
    pub const fn key(&self) -> &'static str {
        match self {
            Self::Dns(DnsDiscovery { records: DnsRecords::Addresses { .. }, .. }) => "dns",
            Self::Dns(DnsDiscovery { records: DnsRecords::Services { .. }, .. }) => "srv",
            Self::Kubernetes(_) => "kubernetes",
        }
    }
}

/// Writes the value of [`Discovery::key`] as the file spells it.
impl fmt::Display for Discovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns(of) => of.records.fmt(f),
            Self::Kubernetes(KubernetesService { name, namespace, port, .. }) => {
                write!(f, "{name}.{namespace}:{port}")
            }
        }
    }
}

/// The endpoints of a Service of Kubernetes, as in `endpoints: { kubernetes: "orders.shop:8080", port: 15006 }`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct KubernetesService {
    /// The Service's name, which is a DNS label.
    pub name: String,
    /// Its namespace, which is a DNS label.
    pub namespace: String,
    /// A port of the Service, which chooses the port of its EndpointSlices. Never 0.
    pub port: u16,
    /// The port that is dialled. `None`, the default: the Service's target port. Never 0.
    pub dialled: Option<u16>,
}

/// Endpoints by DNS, as in `endpoints: { dns: "orders.shop.svc.cluster.local:15006", refresh: 5s }`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct DnsDiscovery {
    /// The records that say where the endpoints are.
    pub records: DnsRecords,
    /// The longest time between two queries; at least 1 s. Records that live shorter are asked for when they end. Default:
    /// [`DnsDiscovery::REFRESH`].
    pub refresh: Duration,
}

impl DnsDiscovery {
    /// 5 s, which is Envoy's default.
    pub const REFRESH: Duration = Duration::from_secs(5);
}

/// The records of DNS that say where endpoints are. Names are as they are written: the resolver tries search domains
/// unless the name ends with a dot.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum DnsRecords {
    /// The A and AAAA records of `name`. `port` is the port of every endpoint, from 1.
    Addresses { name: String, port: u16 },
    /// The SRV records of `name`, as `_http._tcp.orders.shop`. They carry ports, weights and priorities.
    Services { name: String },
}

impl DnsRecords {
    /// The name that is looked up.
    pub fn name(&self) -> &str {
        match self {
            Self::Addresses { name, .. } | Self::Services { name } => name,
        }
    }
}

/// Writes the name as the file spells it: with the port, where the records carry none.
impl fmt::Display for DnsRecords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Addresses { name, port } => write!(f, "{name}:{port}"),
            Self::Services { name } => f.write_str(name),
        }
    }
}

/// A host that requests may name. The comparison ignores case and a trailing dot.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HostPattern {
    /// The name in lower case, without a trailing dot. The name of a wildcard lacks its `*.`.
    pub name: String,
    /// Whether the pattern is `*.x`, which matches one or more labels before `x`.
    pub wildcard: bool,
    /// A pattern with a port matches only that port, and is preferred to a pattern without one.
    pub port: Option<u16>,
}

impl HostPattern {
    /// A pattern that matches this host alone, on every port.
    pub fn exact(name: &str) -> Self {
        let name = name.to_ascii_lowercase();
        Self { name: name.trim_end_matches('.').to_owned(), wildcard: false, port: None }
    }

    /// Whether it matches a name without a port, as a request spells it: in any case, perhaps with a trailing dot.
    pub fn fits_name(&self, name: &str) -> bool {
        let name = name.strip_suffix('.').unwrap_or(name).as_bytes();
        match self.wildcard {
            false => name.eq_ignore_ascii_case(self.name.as_bytes()),
            true => {
                let begins = name.len().checked_sub(self.name.len() + 1).filter(|labels| *labels > 0);
                let end = begins.and_then(|at| name.get(at..)).and_then(<[u8]>::split_first);
                end.is_some_and(|(dot, end)| *dot == b'.' && end.eq_ignore_ascii_case(self.name.as_bytes()))
            }
        }
    }
}

/// An original destination: `10.96.0.10:80`, `10.96.0.10`, `10.96.1.0/24`. A pattern with a port is preferred to one
/// without; among the rest, the longer prefix is preferred. The file allows a port only after a single address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AddressPattern {
    /// The network's first address. Never an IPv4-mapped IPv6 address (`::ffff:10.96.0.10`).
    pub network: IpAddr,
    /// The number of leading bits that are compared: 32 or 128 for a single address.
    pub prefix: u8,
    /// `None` stands for every port. Never 0.
    pub port: Option<u16>,
}

impl AddressPattern {
    /// Whether the pattern matches a connection to `to`. An IPv4-mapped IPv6 address is compared as IPv4.
    pub fn matches(&self, to: SocketAddr) -> bool {
        self.port.is_none_or(|port| port == to.port()) && self.contains(to.ip())
    }

    /// Whether the pattern contains this address. Ports are not compared.
    pub fn contains(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        ip.is_ipv4() == self.network.is_ipv4() && Self::first(ip, self.prefix) == self.network
    }

    /// Whether the pattern is a single address and not a network.
    pub fn is_single(&self) -> bool {
        self.prefix >= Self::bits(self.network)
    }

    pub fn bits(ip: IpAddr) -> u8 {
        if ip.is_ipv4() { 32 } else { 128 }
    }

    /// The first address of the network of `prefix` bits around `ip`.
    pub fn first(ip: IpAddr, prefix: u8) -> IpAddr {
        let host_bits = u32::from(Self::bits(ip).saturating_sub(prefix));
        match ip {
            IpAddr::V4(ip) => {
                let mask = u32::MAX.checked_shl(host_bits).unwrap_or(0);
                Ipv4Addr::from_bits(ip.to_bits() & mask).into()
            }
            IpAddr::V6(ip) => {
                let mask = u128::MAX.checked_shl(host_bits).unwrap_or(0);
                Ipv6Addr::from_bits(ip.to_bits() & mask).into()
            }
        }
    }
}

/// Writes the pattern as the file spells it, in its shortest form.
impl fmt::Display for AddressPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) if self.is_single() => write!(f, "{}", SocketAddr::new(self.network, port)),
            None if self.is_single() => write!(f, "{}", self.network),
            Some(port) => write!(f, "{}/{}:{port}", self.network, self.prefix),
            None => write!(f, "{}/{}", self.network, self.prefix),
        }
    }
}

/// Writes the pattern as the file spells it, in lower case.
impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.wildcard { "*." } else { "" })?;
        f.write_str(&self.name)?;
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

/// The protocol that is spoken to the endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum UpstreamProtocol {
    /// The HTTP version that ALPN chooses over TLS, and that of the client's request without TLS.
    Auto,
    Http1,
    Http2,
    /// Opaque bytes, balanced per connection.
    Tcp,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum UpstreamTls {
    Off,
    /// The server presents a certificate for its host.
    Simple {
        sni: Option<String>,
        /// `None`: the authorities that the system trusts.
        trust_bundle: Option<PathBuf>,
        /// Our certificate for this service alone. `None`: we present none.
        own: Option<KeyPair>,
    },
    /// Both sides present certificates with SPIFFE IDs. An empty list of identities accepts any identity of the
    /// workload's own trust domain.
    Mutual {
        identities: Vec<SpiffeId>,
        sni: Option<String>,
        /// `None`: those of the identity.
        trust_bundle: Option<PathBuf>,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum LoadBalancer {
    PeakEwma,
    LeastRequest,
    RoundRobin,
    Random,
    /// Requests with one key go to one endpoint, unless it has more than its share of the requests in flight.
    RingHash(Box<HashKey>),
    /// Requests with one key go to one endpoint.
    Maglev(Box<HashKey>),
}

impl LoadBalancer {
    /// What requests are hashed by, if they are.
    pub const fn hash_key(&self) -> Option<&HashKey> {
        match self {
            Self::RingHash(key) | Self::Maglev(key) => Some(key),
            Self::PeakEwma | Self::LeastRequest | Self::RoundRobin | Self::Random => None,
        }
    }
}

/// The part of a request that [`LoadBalancer::RingHash`] and [`LoadBalancer::Maglev`] hash. A request without it goes to
/// an endpoint drawn by weight.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum HashKey {
    /// The first value of this header, whose name is in lower case.
    Header(String),
    /// The value of this cookie. An answer to a request without it sets it.
    Cookie { name: String, ttl: Option<Duration> },
    /// The client's IP address.
    Source,
    /// The path without the query.
    Path,
}

impl HashKey {
    /// Whether only requests of HTTP have it, and opaque connections do not.
    pub const fn is_of_http(&self) -> bool {
        !matches!(self, Self::Source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(network: &str, prefix: u8, port: Option<u16>) -> AddressPattern {
        AddressPattern { network: network.parse().unwrap(), prefix, port }
    }

    #[test]
    fn a_destination_is_matched_by_port_ip_version_and_prefix() {
        let cases = [
            (pattern("10.96.0.10", 32, Some(80)), "10.96.0.10:81", false),
            (pattern("10.96.0.10", 32, Some(80)), "10.96.0.11:80", false),
            (pattern("10.96.0.10", 32, Some(80)), "10.96.0.10:80", true),
            (pattern("10.96.0.10", 32, None), "[::ffff:10.96.0.10]:9", true),
            (pattern("10.96.1.0", 24, None), "10.96.2.0:80", false),
            (pattern("10.96.1.0", 24, None), "10.96.1.255:80", true),
            (pattern("0.0.0.0", 0, None), "[fd00::1]:80", false),
            (pattern("0.0.0.0", 0, None), "192.0.2.1:80", true),
            (pattern("::", 0, None), "192.0.2.1:80", false),
            (pattern("::", 0, None), "[fd00::1]:80", true),
            (pattern("fd00::", 64, None), "[fd00:0:0:1::]:80", false),
            (pattern("fd00::", 64, None), "[fd00::ffff:0:0:1]:80", true),
        ];
        for (pattern, to, expected) in cases {
            assert_eq!(pattern.matches(to.parse().unwrap()), expected, "{pattern} {to}");
        }
    }

    #[test]
    fn a_pattern_is_displayed_as_the_file_spells_it() {
        assert_eq!(pattern("fd00::1", 128, Some(80)).to_string(), "[fd00::1]:80");
        assert_eq!(pattern("fd00::", 64, None).to_string(), "fd00::/64");
        assert_eq!(pattern("10.96.0.10", 32, None).to_string(), "10.96.0.10");
    }
}
