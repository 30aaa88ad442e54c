//! The one seam to the network: all dialling and accepting goes through [`Network`].
//!
//! Its in-memory twin ([`memory`]) behaves like loopback without the kernel, so that tests may pause the clock.
//! Deliberately absent: policy. Timeouts, limits and retries belong to the callers.

pub(crate) mod descriptors;
mod leg;
pub(crate) mod memory;
pub(crate) mod own;
mod prefixed;
mod resolve;
pub(crate) mod returning;
pub(crate) mod special;
mod stream;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::{Domain, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream};

pub(crate) use leg::Leg;
pub(crate) use prefixed::Prefixed;
pub(crate) use stream::{Made, Stream, Transport};

/// What a downstream or upstream connection reads and writes: bytes already looked at, then the transport.
pub(crate) type Io = Prefixed<Transport>;

/// Connections the kernel may hold for us before we accept them; it cuts this to `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

#[derive(Debug, Clone)]
pub(crate) enum Network {
    Os,
    /// Built by tests only, but always compiled: the seam has two sides from the first day.
    #[cfg_attr(not(test), allow(dead_code))]
    Memory(memory::Memory),
}

/// A bound address that no runtime owns yet, so that binding fails early, on the main thread.
#[derive(Debug)]
pub(crate) enum Bound {
    Tcp(std::net::TcpListener),
    Memory(memory::Listener),
}

/// A bound address on the runtime that accepts from it.
#[derive(Debug)]
pub(crate) enum Listener {
    /// With its port.
    Tcp(TcpListener, u16),
    Memory(memory::Listener),
}

impl Network {
    /// Binds `address`; with `shared` several workers may bind the same one and the kernel spreads connections.
    pub(crate) fn bind(&self, address: SocketAddr, shared: bool) -> io::Result<Bound> {
        match self {
            Self::Os => bind_tcp(address, shared).map(Bound::Tcp),
            Self::Memory(memory) => memory.bind_as(address, shared).map(Bound::Memory),
        }
    }

    /// Dials `address`. Waits as long as the kernel does: the caller brings the timeout.
    pub(crate) async fn connect(
        &self,
        address: SocketAddr,
        leg: Leg,
        keepalive: Option<Duration>,
    ) -> io::Result<Stream> {
        match self {
            Self::Os => {
                let stream = leg.dial(address).await?;
                prepare(&stream, keepalive)?;
                Ok(Stream::dialled(stream, leg, address))
            }
            Self::Memory(memory) => {
                memory.note_keepalive(address, keepalive);
                memory.connect(address).await.map(|io| Stream::Memory(io, None))
            }
        }
    }
}

impl Network {
    /// Binds `address` for datagrams; `None` in memory, which has none.
    pub(crate) fn bind_udp(&self, address: SocketAddr) -> io::Result<Option<std::net::UdpSocket>> {
        match self {
            Self::Os => bind_datagrams(address).map(Some),
            Self::Memory(_) => Ok(None),
        }
    }

    /// The addresses of a name, at least one, in the order in which they should be tried.
    ///
    /// # Errors
    /// No address, none within five seconds, or too many names being asked for at once.
    pub(crate) async fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        match self {
            Self::Os => resolve::addresses(host, port).await,
            Self::Memory(memory) => memory.resolve(host, port).map(|address| vec![address]),
        }
    }
}

impl Bound {
    pub(crate) fn address(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr(),
            Self::Memory(listener) => Ok(listener.address()),
        }
    }

    /// Must be called on the runtime that will accept.
    pub(crate) fn listen(self) -> io::Result<Listener> {
        match self {
            Self::Tcp(listener) => {
                let port = listener.local_addr()?.port();
                TcpListener::from_std(listener).map(|listener| Listener::Tcp(listener, port))
            }
            Self::Memory(listener) => Ok(Listener::Memory(listener)),
        }
    }

    /// From now on it takes connections that the kernel's TPROXY brings to it, whatever address they are for.
    ///
    /// # Errors
    /// The process has not the capability.
    pub(crate) fn take_tproxy(&self) -> io::Result<()> {
        match self {
            Self::Tcp(listener) => SockRef::from(listener).set_ip_transparent_v4(true), // IPv6 has the same flag
            Self::Memory(_) => Ok(()),
        }
    }
}

impl Listener {
    pub(crate) async fn accept(&mut self) -> io::Result<(Stream, SocketAddr)> {
        match self {
            Self::Tcp(listener, port) => {
                let (stream, peer) = listener.accept().await?;
                prepare(&stream, Some(DOWNSTREAM_KEEPALIVE))?;
                Ok((Stream::Tcp(stream, Made::Accepted { port: *port }), peer))
            }
            Self::Memory(listener) => {
                let arrival = listener.accept().await?;
                Ok((Stream::Memory(arrival.io, arrival.original), arrival.from))
            }
        }
    }
}

impl Listener {
    /// Stops listening. Returns the connections that were made, and that nobody has accepted yet: the kernel would
    /// reset them. At most as many as there is room for in the queue, so that a flood cannot hold up the end.
    pub(crate) fn close(self) -> Vec<(Stream, SocketAddr)> {
        let most = usize::try_from(BACKLOG).unwrap_or(usize::MAX);
        match self {
            // Not through the runtime, which may not have heard yet that there is something to accept.
            Self::Tcp(listener, port) => {
                let Ok(listener) = listener.into_std() else { return Vec::new() };
                let accepted = std::iter::from_fn(|| listener.accept().ok()).take(most);
                accepted
                    .filter_map(|(stream, from)| Some((accepted_late(stream, port).ok()?, from)))
                    .collect()
            }
            Self::Memory(listener) => {
                let arrivals = listener.close().into_iter();
                arrivals.map(|arrival| (Stream::Memory(arrival.io, arrival.original), arrival.from)).collect()
            }
        }
    }
}

fn accepted_late(stream: std::net::TcpStream, port: u16) -> io::Result<Stream> {
    stream.set_nonblocking(true)?;
    let stream = TcpStream::from_std(stream)?;
    prepare(&stream, Some(DOWNSTREAM_KEEPALIVE))?;
    Ok(Stream::Tcp(stream, Made::Accepted { port }))
}

fn bind_tcp(address: SocketAddr, shared: bool) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    if shared {
        socket.set_reuse_port(true)?;
    }
    if address.is_ipv6() {
        socket.set_only_v6(true)?; // [::] beside 0.0.0.0 is two listeners, whatever the host's default
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn bind_datagrams(address: SocketAddr) -> io::Result<std::net::UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, None)?;
    socket.set_nonblocking(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// Small writes leave at once; a silent peer is found by keep-alive probes.
fn prepare(stream: &TcpStream, keepalive: Option<Duration>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    match keepalive {
        Some(time) => SockRef::from(stream)
            .set_tcp_keepalive(&TcpKeepalive::new().with_time(time).with_interval(time.min(KEEPALIVE_STEP))),
        None => Ok(()),
    }
}

/// A client that vanished is found within minutes, not with the idle timeout of an hour. One probe a minute.
const DOWNSTREAM_KEEPALIVE: Duration = Duration::from_secs(60);

/// Between probes once the first went unanswered; with the kernel's 9 probes a dead peer is found in under 3 min.
const KEEPALIVE_STEP: Duration = Duration::from_secs(15);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn b3_a_dialled_connection_is_kept_alive_by_the_kernel_where_that_is_wanted() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let to = listener.local_addr().expect("bound");
        for keepalive in [Some(Duration::from_secs(7)), None] {
            let stream = Network::Os.connect(to, Leg::Outbound, keepalive).await.expect("somebody listens");
            let Stream::Tcp(stream, _) = &stream else { unreachable!("a real connection") };
            let socket = SockRef::from(stream);
            let kept = socket.keepalive().expect("an option").then(|| socket.tcp_keepalive_time());
            assert_eq!(kept.transpose().expect("an option"), keepalive);
        }
    }
}
