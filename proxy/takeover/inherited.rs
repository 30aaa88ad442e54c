//! Sockets of the sidecar that is taken over, until listeners are made of them.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::net::SocketType;
use rustix::net::sockopt::socket_type;

use crate::listening::Role;
use pillion_base::net::Bound;

/// A socket on its way from one process to the other.
#[derive(Debug)]
pub(crate) struct Socket {
    pub(crate) role: Role,
    /// The address that the old sidecar's configuration has. Its port may be 0.
    pub(crate) wanted: SocketAddr,
    pub(crate) descriptor: OwnedFd,
}

/// Sockets that no listener has taken yet. Clones share them. Empty in a sidecar that takes none over.
#[derive(Debug, Clone, Default)]
pub(crate) struct Inherited(Arc<Mutex<Vec<Socket>>>);

impl Inherited {
    pub(super) fn new(sockets: Vec<Socket>) -> Self {
        Self(Arc::new(Mutex::new(sockets)))
    }

    /// All listeners of one address that serve what the configuration asks for: one for each thread that the old
    /// sidecar had. Empty if it did not listen there.
    ///
    /// # Errors
    /// A descriptor is no listener.
    pub(crate) fn listeners(&self, role: &Role, wanted: SocketAddr) -> io::Result<Vec<Bound>> {
        self.take(role, wanted).into_iter().map(Bound::adopted).collect()
    }

    /// The socket for datagrams and the listener of one address.
    ///
    /// # Errors
    /// A descriptor is no listener.
    pub(crate) fn pair(&self, role: &Role, wanted: SocketAddr) -> io::Result<Option<(UdpSocket, Bound)>> {
        let is_datagram = |descriptor: &OwnedFd| matches!(socket_type(descriptor), Ok(SocketType::DGRAM));
        let (datagrams, streams): (Vec<_>, Vec<_>) =
            self.take(role, wanted).into_iter().partition(is_datagram);
        let both = datagrams.into_iter().next().zip(streams.into_iter().next());
        both.map(|(udp, tcp)| Ok((UdpSocket::from(udp), Bound::adopted(tcp)?))).transpose()
    }

    /// Closes the sockets that no listener has taken.
    pub(super) fn close(&self) {
        self.0.lock().clear();
    }

    fn take(&self, role: &Role, wanted: SocketAddr) -> Vec<OwnedFd> {
        let mut all = self.0.lock();
        let fits = |socket: &&Socket| match wanted.port() {
            0 => socket.role == *role && socket.wanted == wanted,
            _ => is_alike(&socket.role, role) && address(&socket.descriptor) == Some(wanted),
        };
        let Some(address_of_one) = all.iter().find(fits).and_then(|socket| address(&socket.descriptor))
        else {
            return Vec::new();
        };
        let taken = all.extract_if(.., |socket| {
            is_alike(&socket.role, role) && address(&socket.descriptor) == Some(address_of_one)
        });
        taken.map(|socket| socket.descriptor).collect()
    }
}

/// Whether a listener for one of these can serve the other. The kinds differ in the options of their sockets.
const fn is_alike(a: &Role, b: &Role) -> bool {
    use Role::*;
    matches!(
        (a, b),
        (Inbound | Port(_), Inbound | Port(_))
            | (Outbound | Service(_), Outbound | Service(_))
            | (Admin, Admin)
            | (Metrics, Metrics)
            | (Dns, Dns)
    )
}

fn address(descriptor: &OwnedFd) -> Option<SocketAddr> {
    SocketAddr::try_from(rustix::net::getsockname(descriptor).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn listener(role: Role, wanted: &str) -> (Socket, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("a bound address");
        let wanted = wanted.parse().expect("an address");
        (Socket { role, wanted, descriptor: listener.into() }, address)
    }

    fn service(name: &str) -> Role {
        Role::Service(name.to_owned())
    }

    fn taken(inherited: &Inherited, role: &Role, wanted: SocketAddr) -> Vec<SocketAddr> {
        let all = inherited.listeners(role, wanted).expect("listeners");
        all.iter().map(|bound| bound.address().expect("an address")).collect()
    }

    #[test]
    fn a_listener_serves_its_address_whatever_asks_for_it_on_the_same_side() {
        let (socket, address) = listener(service("orders"), "127.0.0.1:0");
        let (metrics, of_metrics) = listener(Role::Metrics, "127.0.0.1:0");
        let inherited = Inherited::new(vec![socket, metrics]);
        assert_eq!(taken(&inherited, &Role::Inbound, address), []);
        assert_eq!(taken(&inherited, &Role::Outbound, of_metrics), [], "it has a small send buffer");
        assert_eq!(taken(&inherited, &Role::Outbound, address), [address]);
        assert_eq!(taken(&inherited, &Role::Outbound, address), [], "it is taken");
    }

    #[test]
    fn port_0_means_the_port_that_the_same_line_had_before() {
        let (orders, of_orders) = listener(service("orders"), "127.0.0.1:0");
        let (web, of_web) = listener(service("web"), "127.0.0.1:0");
        let inherited = Inherited::new(vec![orders, web]);
        let any = "127.0.0.1:0".parse().expect("an address");
        assert_eq!(taken(&inherited, &service("new"), any), []);
        assert_eq!(taken(&inherited, &service("web"), any), [of_web]);
        assert_eq!(taken(&inherited, &service("orders"), any), [of_orders]);
    }

    #[test]
    fn all_listeners_of_an_address_are_taken_together() {
        let (one, address) = listener(Role::Outbound, "127.0.0.1:0");
        let copy = one.descriptor.try_clone().expect("a copy");
        let (other, _) = listener(Role::Outbound, "127.0.0.1:0");
        let two = Socket { role: Role::Outbound, wanted: one.wanted, descriptor: copy };
        let inherited = Inherited::new(vec![one, other, two]);
        assert_eq!(taken(&inherited, &Role::Outbound, address), [address, address]);
    }

    #[test]
    fn the_dns_proxy_gets_its_socket_for_datagrams_with_its_listener() {
        let (tcp, address) = listener(Role::Dns, "127.0.0.1:0");
        let udp = UdpSocket::bind(address).expect("the same port");
        let socket = Socket { role: Role::Dns, wanted: tcp.wanted, descriptor: udp.into() };
        let inherited = Inherited::new(vec![tcp, socket]);
        let (udp, tcp) = inherited.pair(&Role::Dns, address).expect("sockets").expect("both");
        assert_eq!((udp.local_addr().ok(), tcp.address().ok()), (Some(address), Some(address)));
    }

    #[test]
    fn what_no_listener_has_taken_is_closed() {
        let (socket, address) = listener(Role::Outbound, "127.0.0.1:0");
        Inherited::new(vec![socket]).close();
        // a program that another test starts has a copy until it is another program
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
        while let Err(error) = TcpListener::bind(address) {
            assert!(std::time::Instant::now() < deadline, "{error}");
            std::thread::yield_now();
        }
    }
}
