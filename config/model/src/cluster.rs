//! A cluster: one entry of `services:`, what the application calls by a name.
//!
//! The file says "service"; in the code tower owns that word, so here it is `Cluster`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use crate::direction::Direction;
use crate::endpoint::Endpoint;
use crate::identity::SpiffeId;
use crate::policy::{ConnectionPolicy, Limits, OutlierDetection, Retry, Timeouts};

/// A service that the application calls, with all that rules the traffic to it.
#[derive(Debug, Clone, PartialEq)]
pub struct Cluster {
    /// The key in `services:`; the `service` label of metrics. Names are unique.
    pub name: String,
    /// Which hosts mean this cluster. Never empty; default: the name.
    pub hosts: Vec<HostPattern>,
    /// Original destinations (virtual IPs) that mean this cluster, whatever Host a request names there. Default:
    /// none. No two clusters share one; a network may lie within another's, and the longer prefix wins.
    pub addresses: Vec<AddressPattern>,
    /// Local ports of its own; whatever Host a request names there, it is for this cluster. Default: none.
    pub listen: Vec<SocketAddr>,
    /// Where it runs, as far as that is written. Empty where endpoints are learnt.
    pub endpoints: Vec<Endpoint>,
    /// Where endpoints are learnt. `None`: they are written.
    pub discovery: Option<Discovery>,
    /// What is spoken to the endpoints. Default: auto, so that nobody has to know.
    pub protocol: UpstreamProtocol,
    /// How endpoints prove who they are, and we to them. A source that knows of an identity makes it mutual by default.
    pub tls: UpstreamTls,
    /// How an endpoint is chosen. Default: peak EWMA, which sees a slow endpoint before it fails.
    pub load_balancer: LoadBalancer,
    /// How long things may take.
    pub timeouts: Timeouts,
    /// Pooled connections.
    pub connection: ConnectionPolicy,
    /// When a request is sent again. `None`: never, but what was never sent.
    pub retry: Option<Retry>,
    /// What may be open or in flight at once.
    pub limits: Limits,
    /// When an endpoint that fails is left out for a while. `None`: never.
    pub outlier_detection: Option<OutlierDetection>,
}

impl Cluster {
    /// A cluster that goes by its own name, without endpoints, plaintext, with every other default.
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
            timeouts: Timeouts::default(),
            connection: ConnectionPolicy::default(),
            retry: Some(Retry::default()),
            limits: Limits::default(),
            outlier_detection: Some(OutlierDetection::default()),
            name,
        }
    }
}

/// What a cluster is. Code asks this, and never the name or the label of a metric, which say what people call it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A service that the application calls: it has a configuration of its own.
    Service,
    /// A destination that no service matches: connected to, and otherwise left to the application.
    Passthrough,
    /// The application beside the sidecar.
    Application,
}

impl Kind {
    /// Which way its traffic goes.
    pub const fn direction(self) -> Direction {
        match self {
            Self::Service | Self::Passthrough => Direction::Outbound,
            Self::Application => Direction::Inbound,
        }
    }
}

/// `endpoints: { dns: "orders.shop.svc.cluster.local:15006", refresh: 5s }`: its A and AAAA records.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Discovery {
    /// As written, for the resolver: search domains apply unless it ends with a dot.
    pub name: String,
    /// The port of every endpoint, from 1.
    pub port: u16,
    /// Between two questions, whatever the records' time to live; at least 1 s. Default: [`Discovery::REFRESH`].
    pub refresh: Duration,
}

impl Discovery {
    /// 5 s, as Envoy's.
    pub const REFRESH: Duration = Duration::from_secs(5);
}

/// A host as requests name it. Compared without regard to case or a trailing dot.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HostPattern {
    /// Lower case, no trailing dot; for a wildcard without its `*.`.
    pub name: String,
    /// `*.x`: one or more labels before `x`.
    pub wildcard: bool,
    /// A pattern with a port matches only that port, and wins over one without.
    pub port: Option<u16>,
}

impl HostPattern {
    /// This host alone, on every port.
    pub fn exact(name: &str) -> Self {
        let name = name.to_ascii_lowercase();
        Self { name: name.trim_end_matches('.').to_owned(), wildcard: false, port: None }
    }
}

/// An original destination: `10.96.0.10:80`, `10.96.0.10`, `10.96.1.0/24`. A pattern with a port wins over one
/// without, then the longer prefix. The file gives a port to single addresses alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AddressPattern {
    /// The network's first address; never IPv4 in the clothes of IPv6 (`::ffff:10.96.0.10`).
    pub network: IpAddr,
    /// Leading bits that count: 32 or 128 for a single address.
    pub prefix: u8,
    /// `None`: every port. Never 0.
    pub port: Option<u16>,
}

impl AddressPattern {
    /// Whether a connection to `to` is meant. IPv4 in the clothes of IPv6 is IPv4.
    pub fn matches(&self, to: SocketAddr) -> bool {
        self.port.is_none_or(|port| port == to.port()) && self.contains(to.ip())
    }

    /// Whether an address belongs to it, without regard to ports.
    pub fn contains(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        ip.is_ipv4() == self.network.is_ipv4() && Self::first(ip, self.prefix) == self.network
    }

    /// Whether it is one address and no network.
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

/// As the file spells it, in the shortest form.
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

/// As it is written in the file, its case aside.
impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.wildcard { "*." } else { "" })?;
        f.write_str(&self.name)?;
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

/// What is spoken to the endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum UpstreamProtocol {
    /// By ALPN over TLS, else the caller's own version.
    Auto,
    Http1,
    Http2,
    /// Opaque bytes, balanced per connection.
    Tcp,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum UpstreamTls {
    Off,
    /// The server proves itself; we present no certificate.
    Simple {
        sni: Option<String>,
        trust_bundle: Option<PathBuf>,
    },
    /// Both prove themselves by SPIFFE ID. No identities: any of the own trust domain.
    Mutual {
        identities: Vec<SpiffeId>,
        sni: Option<String>,
        trust_bundle: Option<PathBuf>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LoadBalancer {
    PeakEwma,
    LeastRequest,
    RoundRobin,
    Random,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(network: &str, prefix: u8, port: Option<u16>) -> AddressPattern {
        AddressPattern { network: network.parse().unwrap(), prefix, port }
    }

    #[test]
    fn a_destination_is_matched_by_port_family_and_counted_bits() {
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
    fn a_pattern_is_told_as_the_file_spells_it() {
        assert_eq!(pattern("fd00::1", 128, Some(80)).to_string(), "[fd00::1]:80");
        assert_eq!(pattern("fd00::", 64, None).to_string(), "fd00::/64");
        assert_eq!(pattern("10.96.0.10", 32, None).to_string(), "10.96.0.10");
    }
}
