//! The local address of the connections that the sidecar itself makes.
//!
//! The redirect rules of a pod tell connections apart by this address. What the sidecar sends to an address of its own
//! pod looks like the pod calling itself, and is redirected to the inbound port, unless it comes from [`SELF_V4`] or
//! [`SELF_V6`].

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Range;
use std::sync::Once;

use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};
use pillion_init::{MARK, SELF_V4, SELF_V6};
use socket2::{Domain, Socket, Type};
use tokio::net::TcpStream;

use super::own::{is_link_local, is_own};
use super::returning::Noted;
use pillion_model::Direction;

/// The side to which a connection of the sidecar belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Leg {
    /// To a service, or to the address that the application dialled.
    Outbound,
    /// To a service, for a client that is the sidecar itself. The number says how many connections of the sidecar, one
    /// after the other, have carried the bytes already.
    OutboundAgain(u32),
    /// To the application of this sidecar.
    Inbound,
    /// To the application of this sidecar, for a client that came by TPROXY: the application sees the client's address.
    InboundFor(IpAddr),
}

/// The local address from which a connection is dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Near {
    /// An address that the kernel chooses.
    Any,
    /// The sidecar's own address, which the redirect rules leave alone.
    Own(IpAddr),
    /// The client's address, which is not an address of this host. The packets carry a mark, by which the rules know
    /// them and bring back the answers.
    Clients(IpAddr),
}

/// A connection with its registration, by which it is recognised if it comes back.
pub(super) type Dialled = (TcpStream, Option<Noted>);

impl Leg {
    pub const fn direction(self) -> Direction {
        match self {
            Self::Outbound | Self::OutboundAgain(_) => Direction::Outbound,
            Self::Inbound | Self::InboundFor(_) => Direction::Inbound,
        }
    }

    /// How many connections of the sidecar, one after the other, have then carried the bytes, with this one.
    pub(super) const fn passes(self) -> u32 {
        match self {
            Self::OutboundAgain(before) => before.saturating_add(1),
            _ => 1,
        }
    }

    /// The leg to the application at `to`. `client` is the address of a client that came by TPROXY.
    ///
    /// The client's address is not used on loopback, where no route brings back the answers, and not when it is
    /// link-local, because such an address has no meaning without its link.
    pub fn inbound(client: Option<IpAddr>, to: IpAddr) -> Self {
        let is_shown = |client: &IpAddr| client.is_ipv4() == to.is_ipv4() && !is_link_local(*client);
        match client.filter(is_shown) {
            Some(client) if !to.is_loopback() => Self::InboundFor(client),
            _ => Self::Inbound,
        }
    }

    /// Dials `to`. Waits as long as the kernel does.
    pub(super) async fn dial(self, to: SocketAddr) -> io::Result<Dialled> {
        let to = concrete(to);
        match self.near(to.ip(), is_own) {
            Near::Any => self.connect(socket(to)?, to).await,
            Near::Own(ip) => self.dial_from_own(ip, to).await,
            Near::Clients(ip) => self.dial_from_clients(ip, to).await,
        }
    }

    /// Connects `socket`, and registers the connection as the sidecar's own.
    async fn connect(self, socket: Socket, to: SocketAddr) -> io::Result<Dialled> {
        let noted = Noted::connecting(self, to, || {
            match socket.connect(&to.into()) {
                Err(error) if error.raw_os_error() != Some(Errno::EINPROGRESS as i32) => return Err(error),
                _ => {}
            }
            Ok(socket.local_addr().ok().and_then(|near| near.as_socket()))
        })?;
        let stream = TcpStream::from_std(socket.into())?;
        stream.writable().await?;
        match stream.take_error()? {
            Some(error) => Err(error),
            None => Ok((stream, noted)),
        }
    }

    /// Dials from the address `ip`. When that address cannot be used, dials without it: the sidecar's redirect rules
    /// were then not installed, or not all of them.
    async fn dial_from_own(self, ip: IpAddr, to: SocketAddr) -> io::Result<Dialled> {
        static TOLD: Once = Once::new();
        let why = match bound(socket(to)?, ip) {
            Ok(socket) => match self.connect(socket, to).await {
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => error, // `ip` has no route to `to`
                dialled => return dialled,
            },
            Err(error) => error,
        };
        TOLD.call_once(|| {
            tracing::warn!(
                from = %ip, %to, %why,
                "cannot dial the application from the sidecar's own address: redirect rules may take it for the pod \
                 calling itself (`pillion init` puts ::6 on lo)"
            );
        });
        self.connect(socket(to)?, to).await
    }

    async fn dial_from_clients(self, ip: IpAddr, to: SocketAddr) -> io::Result<Dialled> {
        for _ in 0..PORTS_TRIED {
            let near = SocketAddr::new(ip, fastrand::u16(CLIENTS_PORTS));
            match self.dial_from_clients_port(near, to).await {
                Err(error) if is_taken(&error) => {}
                dialled => return dialled,
            }
        }
        self.connect(bound(clients(to)?, ip)?, to).await // last try: any port that the kernel finds
    }

    async fn dial_from_clients_port(self, near: SocketAddr, to: SocketAddr) -> io::Result<Dialled> {
        let socket = clients(to)?;
        socket.set_reuse_address(true)?; // the same port may be in use towards another address
        socket.bind(&near.into())?;
        self.connect(socket, to).await
    }

    fn near(self, to: IpAddr, is_own: impl FnOnce(IpAddr) -> bool) -> Near {
        match self {
            Self::Outbound | Self::OutboundAgain(_) => Near::Any,
            Self::InboundFor(client) => Near::Clients(client),
            Self::Inbound if to.is_loopback() || to.is_unspecified() || !is_own(to) => Near::Any,
            Self::Inbound if to.is_ipv4() => Near::Own(SELF_V4.into()),
            Self::Inbound => Near::Own(SELF_V6.into()),
        }
    }
}

/// The address that the kernel dials for an unspecified one: loopback.
fn concrete(mut to: SocketAddr) -> SocketAddr {
    match to.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => to.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => to.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    to
}

/// Ports that no system hands out by itself (Linux begins at 32768, others higher). The client's own connection has the
/// same local address: with the same port as well, the kernel could not tell the two connections apart.
const CLIENTS_PORTS: Range<u16> = 1024..32768;

/// A port may be in use, or have been in use a minute ago. If nine of ten ports are, one dial in five finds no free
/// port.
const PORTS_TRIED: usize = 16;

fn is_taken(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::AddrNotAvailable)
}

/// A socket that may send from an address that is not this host's.
fn clients(to: SocketAddr) -> io::Result<Socket> {
    let socket = socket(to)?;
    socket.set_ip_transparent_v4(true)?; // IPv6 has the same flag
    socket.set_mark(MARK)?;
    Ok(socket)
}

fn socket(to: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// The kernel chooses the port when the socket connects. So many connections to different addresses may have the same
/// port, and a port whose connection was just closed is not blocked for a minute.
fn bound(socket: Socket, ip: IpAddr) -> io::Result<Socket> {
    setsockopt(&socket, sockopt::IpBindAddressNoPort, &true)?;
    socket.bind(&SocketAddr::new(ip, 0).into())?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_local_address_is_chosen_by_the_side_and_the_destination() {
        let (v4, v6) = (Near::Own(SELF_V4.into()), Near::Own(SELF_V6.into()));
        let is_own = |ip: IpAddr| ["10.0.0.1", "fd00::1"].contains(&ip.to_string().as_str());
        for (leg, to, expected) in [
            (Leg::Outbound, "10.0.0.1", Near::Any),
            (Leg::Outbound, "192.0.2.1", Near::Any),
            (Leg::Inbound, "127.0.0.1", Near::Any),
            (Leg::Inbound, "127.0.0.9", Near::Any),
            (Leg::Inbound, "::1", Near::Any),
            (Leg::Inbound, "0.0.0.0", Near::Any),
            (Leg::Inbound, "192.0.2.1", Near::Any),
            (Leg::Inbound, "10.0.0.1", v4),
            (Leg::Inbound, "fd00::1", v6),
        ] {
            let to = to.parse().unwrap();
            assert_eq!(leg.near(to, is_own), expected, "{leg:?} to {to}");
        }
    }

    #[test]
    fn the_client_s_address_is_used_where_the_answers_come_back() {
        for (client, to, is_shown) in [
            (Some("192.0.2.1"), "10.0.0.1", true),
            (Some("2001:db8::1"), "fd00::1", true),
            (None, "10.0.0.1", false),
            (Some("192.0.2.1"), "127.0.0.1", false),
            (Some("2001:db8::1"), "::1", false),
            (Some("192.0.2.1"), "fd00::1", false),
            (Some("fe80::1"), "fd00::1", false),
        ] {
            let client: Option<IpAddr> = client.map(|ip| ip.parse().unwrap());
            let to = to.parse().unwrap();
            let expected = client.filter(|_| is_shown).map_or(Leg::Inbound, Leg::InboundFor);
            assert_eq!(Leg::inbound(client, to), expected, "{client:?} to {to}");
        }
    }
}
