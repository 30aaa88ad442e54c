//! A cluster: one entry of `services:`, what the application calls by a name.
//!
//! The file says "service"; in the code tower owns that word, so here it is `Cluster`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use crate::identity::SpiffeId;
use crate::policy::{ConnectionPolicy, Limits, OutlierDetection, Retry, Timeouts};

#[derive(Debug, Clone, PartialEq)]
pub struct Cluster {
    /// The key in `services:`; the `service` label of metrics.
    pub name: String,
    /// Which hosts mean this cluster. Never empty; default: the name.
    pub hosts: Vec<HostPattern>,
    /// Original destinations (virtual IPs) that mean this cluster, whatever Host a request names there. Default:
    /// none. No two clusters share one; a network may lie within another's, and the longer prefix wins.
    pub addresses: Vec<AddressPattern>,
    /// Local ports of its own; whatever Host a request names there, it is for this cluster.
    pub listen: Vec<SocketAddr>,
    pub endpoints: Vec<Endpoint>,
    /// Endpoints are learnt, and `endpoints` is empty.
    pub discovery: Option<Discovery>,
    pub protocol: UpstreamProtocol,
    pub tls: UpstreamTls,
    pub load_balancer: LoadBalancer,
    pub timeouts: Timeouts,
    pub connection: ConnectionPolicy,
    /// `None`: `retry: off`.
    pub retry: Option<Retry>,
    pub limits: Limits,
    pub outlier_detection: OutlierDetection,
}

/// `endpoints: { dns: "orders.shop.svc.cluster.local:15006", refresh: 5s }`: its A and AAAA records.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Discovery {
    /// As written, for the resolver: search domains apply unless it ends with a dot.
    pub name: String,
    pub port: u16,
    /// Between two questions, whatever the records' time to live. Default 5 s, as Envoy's.
    pub refresh: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Endpoint {
    pub address: SocketAddr,
    pub weight: NonZeroU32,
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

    /// The same without regard to ports.
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
