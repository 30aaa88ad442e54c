//! `dns`: names for the application. Services are answered for here, everything else is asked of others.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dns {
    /// Over UDP and TCP.
    pub listen: Vec<SocketAddr>,
    pub upstream: NameServers,
    /// A service without an address of its own gets a virtual one: of 240.240.0.0/16 and of fd9f:240::/64. Default
    /// on: a redirected connection to it is known without Host or SNI.
    pub virtual_addresses: bool,
}

/// Loopback alone: others have name servers of their own. On both families, as a redirected question over IPv6
/// arrives at ::1.
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

/// Who is asked for the names that are no service's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NameServers {
    /// Those of a file as resolv.conf(5), with its `timeout` and `attempts`. Default: /etc/resolv.conf.
    File(PathBuf),
    /// In this order. Never empty; the file's default port is 53.
    List(Vec<SocketAddr>),
}

impl Default for NameServers {
    fn default() -> Self {
        Self::File("/etc/resolv.conf".into())
    }
}
