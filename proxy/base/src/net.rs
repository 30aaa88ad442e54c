//! The one seam to the network: all dialling and accepting goes through [`Network`].
//!
//! Its in-memory twin ([`memory`]) behaves like loopback without the kernel, so that tests may pause the clock.
//! Deliberately absent: policy. Timeouts, limits and retries belong to the callers.

pub mod descriptors;
mod forward;
mod leg;
pub mod memory;
pub mod own;
mod prefixed;
mod records;
mod resolve;
pub mod returning;
pub mod special;
mod stream;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::{Domain, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream};

use crate::memory::host;

pub use forward::forward;
pub use leg::Leg;
pub use prefixed::Prefixed;
pub use records::Records;
pub use stream::{Made, Overlay, Stream, Transport};

/// What a downstream or upstream connection reads and writes: bytes already looked at, then the transport.
pub type Io = Prefixed<Transport>;

/// Connections the kernel may hold for us before we accept them; it cuts this to `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

#[derive(Debug, Clone)]
pub enum Network {
    Os,
    /// Built by tests only, but always compiled: the seam has two sides from the first day.
    #[cfg_attr(not(test), allow(dead_code))]
    Memory(memory::MemoryNetwork),
}

/// Who else may listen on an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// Nobody.
    Alone,
    /// Nobody yet; further workers may [`Sharing::Joining`] it.
    First,
    /// Workers of this process who listen there already: the kernel spreads connections over all of them.
    Joining,
}

/// A bound address that no runtime owns yet, so that binding fails early, on the main thread.
#[derive(Debug)]
pub enum Bound {
    Tcp(std::net::TcpListener),
    Memory(memory::Listener),
}

/// A bound address on the runtime that accepts from it.
#[derive(Debug)]
pub enum Listener {
    /// With its port.
    Tcp(TcpListener, u16),
    Memory(memory::Listener),
}

impl Network {
    /// Bytes of memory that a process on this host may take.
    pub fn host_memory(&self) -> u64 {
        match self {
            Self::Os => host::available(),
            Self::Memory(memory) => memory.host_memory(),
        }
    }

    /// Binds `address` and listens.
    pub fn bind(&self, address: SocketAddr, sharing: Sharing) -> io::Result<Bound> {
        match self {
            Self::Os => bind_tcp(address, sharing).map(Bound::Tcp),
            Self::Memory(memory) => memory.bind_as(address, sharing == Sharing::Joining).map(Bound::Memory),
        }
    }

    /// Dials `address`. Waits as long as the kernel does: the caller brings the timeout.
    pub async fn connect(
        &self,
        address: SocketAddr,
        leg: Leg,
        keepalive: Option<Duration>,
    ) -> io::Result<Stream> {
        match self {
            Self::Os => {
                let stream = leg.dial(address).await.inspect_err(descriptors::warn_of_shortage)?;
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
    pub fn bind_udp(&self, address: SocketAddr) -> io::Result<Option<std::net::UdpSocket>> {
        match self {
            Self::Os => bind_datagrams(address).map(Some),
            Self::Memory(_) => Ok(None),
        }
    }

    /// The addresses of a name, at least one, in the order in which they should be tried.
    ///
    /// # Errors
    /// No address, none within five seconds, or too many names being asked for at once.
    pub async fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        match self {
            Self::Os => resolve::addresses(host, port).await,
            Self::Memory(memory) => memory.resolve(host, port).map(|address| vec![address]),
        }
    }
}

impl Bound {
    pub fn address(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr(),
            Self::Memory(listener) => Ok(listener.address()),
        }
    }

    /// Must be called on the runtime that will accept.
    pub fn listen(self) -> io::Result<Listener> {
        match self {
            Self::Tcp(listener) => {
                let port = listener.local_addr()?.port();
                TcpListener::from_std(listener).map(|listener| Listener::Tcp(listener, port))
            }
            Self::Memory(listener) => Ok(Listener::Memory(listener)),
        }
    }

    /// The kernel holds about `bytes` of what the other end of an accepted connection has not read.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn hold_little(&self, bytes: usize) -> io::Result<()> {
        match self {
            Self::Tcp(listener) => SockRef::from(listener).set_send_buffer_size(bytes), // accepted ones inherit it
            Self::Memory(_) => Ok(()),                                                  // holds as much
        }
    }

    /// From now on it takes connections that the kernel's TPROXY brings to it, whatever address they are for.
    ///
    /// # Errors
    /// The process has not the capability.
    pub fn take_tproxy(&self) -> io::Result<()> {
        match self {
            Self::Tcp(listener) => SockRef::from(listener).set_ip_transparent_v4(true), // IPv6 has the same flag
            Self::Memory(_) => Ok(()),
        }
    }
}

impl Listener {
    pub async fn accept(&mut self) -> io::Result<(Stream, SocketAddr)> {
        match self {
            Self::Tcp(listener, port) => {
                let (stream, peer) = listener.accept().await?;
                prepare(&stream, Some(DOWNSTREAM_KEEPALIVE))?;
                Ok((Stream::Tcp(stream, Made::Accepted { port: *port }), peer))
            }
            Self::Memory(listener) => {
                // Where the network is gone nobody can arrive any more.
                let Ok(arrival) = listener.accept().await else { return std::future::pending().await };
                Ok((Stream::Memory(arrival.io, arrival.original), arrival.from))
            }
        }
    }
}

impl Listener {
    /// Stops listening. Returns the connections that were made, and that nobody has accepted yet: the kernel would
    /// reset them. At most as many as there is room for in the queue, so that a flood cannot hold up the end.
    pub fn close(self) -> Vec<(Stream, SocketAddr)> {
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

/// SO_REUSEPORT lets every process of the same user join, another sidecar too, and the kernel would then give half of
/// the connections to the other one's rules. So the first socket binds and listens without it, which the kernel
/// refuses where anybody listens already, whether on this address or on one that a wildcard makes overlap. Only then
/// it gets the option, for the other workers of this process. Two sidecars that start at once cannot both succeed:
/// `listen` checks again, and refuses the one that comes second.
///
/// The kernel does the checking, so it holds for each network namespace, also where containers share one and have
/// different files. What it cannot keep out is a program of the same user that asks for SO_REUSEPORT from the start.
fn bind_tcp(address: SocketAddr, sharing: Sharing) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?; // past connections that the kernel still remembers; never a listener
    if sharing == Sharing::Joining {
        socket.set_reuse_port(true)?;
    }
    if address.is_ipv6() {
        socket.set_only_v6(true)?; // [::] beside 0.0.0.0 is two listeners, whatever the host's default
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    if sharing == Sharing::First {
        socket.set_reuse_port(true)?;
    }
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

/// Whether an address could not be bound because this kernel has no IPv6.
pub fn has_no_ipv6(error: &io::Error) -> bool {
    const AFNOSUPPORT: i32 = 97;
    error.raw_os_error() == Some(AFNOSUPPORT) || error.kind() == io::ErrorKind::AddrNotAvailable
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bind(address: SocketAddr, sharing: Sharing) -> io::Result<SocketAddr> {
        Network::Os.bind(address, sharing)?.address()
    }

    /// Of one process or of another: the kernel does not tell them apart, only by what they ask for.
    #[test]
    fn c2_a_port_that_a_sidecar_s_workers_share_is_refused_to_another_sidecar() {
        for (own, others) in [
            ("127.0.0.1:0", &["127.0.0.1", "0.0.0.0"][..]),
            ("0.0.0.0:0", &["0.0.0.0", "127.0.0.1"]),
            ("[::1]:0", &["::1", "::"]),
            ("[::]:0", &["::", "::1"]),
        ] {
            let own = own.parse().expect("an address");
            let first = match Network::Os.bind(own, Sharing::First) {
                Err(error) if has_no_ipv6(&error) => continue,
                first => first.expect("a free port"),
            };
            let address = first.address().expect("a bound address");
            let _second = Network::Os.bind(address, Sharing::Joining).expect("a worker of the same sidecar");
            for other in others {
                let other = SocketAddr::new(other.parse().expect("an address"), address.port());
                for sharing in [Sharing::First, Sharing::Alone] {
                    let refused = bind(other, sharing).expect_err("a port in use");
                    assert_eq!(refused.kind(), io::ErrorKind::AddrInUse, "{other} beside {address}");
                }
            }
        }
    }

    #[test]
    fn c2_connections_are_spread_over_the_workers_that_share_a_port() {
        let first =
            bind_tcp("127.0.0.1:0".parse().expect("an address"), Sharing::First).expect("a free port");
        let address = first.local_addr().expect("a bound address");
        let second = bind_tcp(address, Sharing::Joining).expect("a worker of the same sidecar");
        // The kernel chooses by a hash of both ends: that all of them meet the same worker is as good as impossible.
        let _clients: Vec<_> =
            (0..128).map(|_| std::net::TcpStream::connect(address).expect("it listens")).collect();
        let mut accepted = [0; 2];
        while accepted.iter().sum::<usize>() < 128 {
            for (count, worker) in accepted.iter_mut().zip([&first, &second]) {
                *count += usize::from(worker.accept().is_ok());
            }
        }
        assert!(accepted.iter().all(|count| *count > 0), "{accepted:?}");
    }

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
