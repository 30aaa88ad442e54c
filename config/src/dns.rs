//! `dns`: names for the application. Services are answered for here, everything else is asked of others.

use std::net::SocketAddr;
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

/// Who is asked for the names that are no service's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NameServers {
    /// Those of a file as resolv.conf(5), with its `timeout` and `attempts`. Default: /etc/resolv.conf.
    File(PathBuf),
    /// In this order. Never empty; the file's default port is 53.
    List(Vec<SocketAddr>),
}
