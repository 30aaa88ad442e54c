//! A cluster: one entry of `services:`, what the application calls by a name.
//!
//! The file says "service"; in the code tower owns that word, so here it is `Cluster`.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::path::PathBuf;

use crate::identity::SpiffeId;
use crate::policy::{ConnectionPolicy, Limits, OutlierDetection, Retry, Timeouts};

#[derive(Debug, Clone, PartialEq)]
pub struct Cluster {
    /// The key in `services:`; the `service` label of metrics.
    pub name: String,
    /// Which hosts mean this cluster. Never empty; default: the name.
    pub hosts: Vec<HostPattern>,
    /// Original destinations (virtual IPs) that mean this cluster. No two clusters share one.
    pub addresses: Vec<AddressPattern>,
    /// Local ports of its own; whatever Host a request names there, it is for this cluster.
    pub listen: Vec<SocketAddr>,
    pub endpoints: Vec<Endpoint>,
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

/// `10.96.0.10:80`, `10.96.0.10`, `10.96.1.0/24`: an original destination. A pattern with a port wins over one
/// without, then the longer prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AddressPattern {
    /// The network's first address.
    pub network: IpAddr,
    /// Leading bits that count: 32 or 128 for a single address.
    pub prefix: u8,
    /// `None`: every port.
    pub port: Option<u16>,
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
