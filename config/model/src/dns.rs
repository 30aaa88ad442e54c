//! `dns`: the DNS proxy for the application. It answers queries for services itself, and forwards all other queries.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dns {
    /// The addresses of the DNS proxy, for UDP and for TCP.
    pub listen: Vec<SocketAddr>,
    pub upstream: NameServers,
    /// Whether a service without an address of its own gets a virtual one, from 240.240.0.0/16 and from fd9f:240::/64.
    /// Default on: the service of a redirected connection is then known without Host or SNI.
    pub virtual_addresses: bool,
}

/// Loopback alone, as other hosts have name servers of their own. Both IP versions, as a query that was redirected over
/// IPv6 arrives at ::1.
impl Default for Dns {
    fn default() -> Self {
        const PORT: u16 = 15053;
        Self {
            listen: vec![(Ipv4Addr::LOCALHOST, PORT).into(), (Ipv6Addr::LOCALHOST, PORT).into()],
            upstream: NameServers::default(),
            virtual_addresses: true,
        }
    }
}

/// The name servers for names that are not services.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NameServers {
    /// The name servers of a file like resolv.conf(5), with its `timeout` and `attempts`. Default: /etc/resolv.conf.
    File(PathBuf),
    /// These name servers, in this order. Never empty; where the file gives no port, it is 53.
    List(Vec<SocketAddr>),
}

impl Default for NameServers {
    fn default() -> Self {
        Self::File("/etc/resolv.conf".into())
    }
}
