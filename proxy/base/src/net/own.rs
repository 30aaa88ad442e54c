//! Which addresses belong to this host, and which belong to no host.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use pillion_init::{VIRTUAL_V4, VIRTUAL_V6};

/// Whether `ip` is an address of this host, within its network namespace.
///
/// Asks the routing table: towards one of its own addresses, a host sends from that very address. No packet is sent.
/// The check costs four system calls, so ask at most once for each connection.
pub fn is_own(ip: IpAddr) -> bool {
    let ip = ip.to_canonical();
    ip.is_loopback() || ip.is_unspecified() || speaks_from(ip).is_some_and(|from| from == ip)
}

fn speaks_from(ip: IpAddr) -> Option<IpAddr> {
    const DISCARD: u16 = 9;
    let any: IpAddr = if ip.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect((ip, DISCARD)).ok()?;
    socket.local_addr().ok().map(|address| address.ip())
}

/// Whether a connection from `from` that arrived at `at` comes from this host.
pub fn is_from_this_host(from: IpAddr, at: Option<IpAddr>) -> bool {
    let from = from.to_canonical();
    // A host may reach itself over any of its addresses, and both ends then have the same one. A redirected connection
    // arrives at loopback, from whichever address its route had chosen.
    from.is_loopback() || at.is_some_and(|at| at.to_canonical() == from) || is_own(from)
}

/// Whether the address is valid on one link alone (link-local).
pub const fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => match ip.to_ipv4_mapped() {
            Some(mapped) => mapped.is_link_local(),
            None => ip.is_unicast_link_local(),
        },
    }
}

/// Whether the DNS proxy gives this address to a service that has none. No host has such an address.
pub fn is_virtual(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            let (network, prefix) = VIRTUAL_V4;
            (ip.to_bits() ^ network.to_bits()) >> (Ipv4Addr::BITS - u32::from(prefix)) == 0
        }
        IpAddr::V6(ip) => {
            let (network, prefix) = VIRTUAL_V6;
            (ip.to_bits() ^ network.to_bits()) >> (Ipv6Addr::BITS - u32::from(prefix)) == 0
        }
    }
}

/// The addresses on which the sidecar itself listens.
#[derive(Debug, Clone, Default)]
pub struct OwnListeners(Vec<SocketAddr>);

impl OwnListeners {
    pub const fn new(listeners: Vec<SocketAddr>) -> Self {
        Self(listeners)
    }

    /// Whether dialling `to` would reach one of these listeners.
    pub fn contains(&self, to: SocketAddr) -> bool {
        let mut same_port = self.0.iter().filter(|own| own.port() == to.port()).peekable();
        if same_port.peek().is_none() {
            return false;
        }
        let ip = to.ip().to_canonical();
        let is_same = |own: &SocketAddr| own.ip() == ip || own.ip().is_unspecified() || ip.is_unspecified();
        same_port.any(is_same) && is_own(ip)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_own_and_the_documentation_net_is_not() {
        for own in ["127.0.0.1", "127.0.0.6", "::1", "::ffff:127.0.0.1", "0.0.0.0"] {
            assert!(is_own(own.parse().unwrap()), "{own}");
        }
        for foreign in ["192.0.2.1", "2001:db8::1"] {
            assert!(!is_own(foreign.parse().unwrap()), "{foreign}");
        }
    }

    #[test]
    fn virtual_addresses_are_those_of_two_networks() {
        for (ip, expected) in [
            ("240.240.0.0", true),
            ("240.240.255.255", true),
            ("240.241.0.0", false),
            ("240.239.255.255", false),
            ("::ffff:240.240.0.1", true),
            ("10.0.0.1", false),
            ("fd9f:240::", true),
            ("fd9f:240::ffff:ffff:ffff:ffff", true),
            ("fd9f:240:0:1::", false),
            ("fd9f:241::1", false),
        ] {
            assert_eq!(is_virtual(ip.parse().unwrap()), expected, "{ip}");
        }
    }

    #[test]
    fn an_own_listener_is_recognised_by_its_port_and_by_any_address_of_the_host() {
        let own =
            OwnListeners::new(vec!["0.0.0.0:15006".parse().unwrap(), "127.0.0.1:15001".parse().unwrap()]);
        for (address, expected) in [
            ("127.0.0.1:15006", true),
            ("127.0.0.1:15001", true),
            ("0.0.0.0:15001", true),
            ("127.0.0.1:8080", false),
            ("192.0.2.1:15006", false),
            ("127.0.0.2:15001", false),
        ] {
            assert_eq!(own.contains(address.parse().unwrap()), expected, "{address}");
        }
    }
}
