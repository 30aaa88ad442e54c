//! All dialling and accepting goes through [`Network`].
//!
//! Its in-memory variant ([`memory`]) behaves like loopback without the kernel, so that tests can pause the clock.
//! Deliberately absent: policy. Timeouts, limits and retries belong to the callers.

pub mod descriptors;
mod forward;
mod leg;
pub mod memory;
pub mod own;
mod prefixed;
mod records;
pub mod returning;
pub mod special;
mod stream;

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use socket2::{Domain, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream};

use pillion_model::listener::MaxMemory;

use crate::memory::host::{self, MemoryLimit};

pub use forward::forward;
pub use leg::Leg;
pub use prefixed::Prefixed;
pub use records::Records;
pub use stream::{Made, Overlay, Stream, Transport};

/// What a downstream or upstream connection reads and writes: first the bytes that were read ahead, then the transport.
pub type Io = Prefixed<Transport>;

/// The number of connections that the kernel may queue before we accept them. The kernel lowers it to
/// `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

#[derive(Debug, Clone)]
pub enum Network {
    Os,
    /// Created by tests only, but compiled always, so that both variants keep compiling.
    #[cfg_attr(not(test), allow(dead_code))]
    Memory(memory::MemoryNetwork),
}

/// Which other sockets may listen on an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// No other socket.
    Alone,
    /// No other socket yet. Further workers may join it with [`Sharing::Joining`].
    First,
    /// Other workers of this process that listen there already. The kernel spreads connections over all of them.
    Joining,
}

/// A bound address that belongs to no async runtime yet, so that binding fails early, on the main thread.
#[derive(Debug)]
pub enum Bound {
    Tcp(std::net::TcpListener),
    Memory(memory::Listener),
}

/// A listener on the async runtime that accepts from it.
#[derive(Debug)]
pub enum Listener {
    /// A kernel listener with its port.
    Tcp(TcpListener, u16),
    Memory(memory::Listener),
}

fn unix_now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

impl Network {
    /// Bytes of memory that a process on this host may take.
    pub fn host_memory(&self) -> u64 {
        match self {
            Self::Os => host::available(),
            Self::Memory(memory) => memory.host_memory(),
        }
    }

    /// The limit of memory that `max` means for a process on this host.
    pub fn memory_limit(&self, max: MaxMemory) -> Option<MemoryLimit> {
        match self {
            Self::Os => host::limit(max),
            Self::Memory(memory) => memory.memory_limit(max),
        }
    }

    /// The bytes that count against the limit. `None`: the kernel does not tell.
    pub fn memory_used(&self, of: &MemoryLimit) -> Option<u64> {
        match self {
            Self::Os => host::used(of),
            Self::Memory(memory) => Some(memory.memory_used()),
        }
    }

    /// Seconds since 1970, by the clock of this host.
    pub fn unix_now(&self) -> i64 {
        match self {
            Self::Os => unix_now(),
            Self::Memory(memory) => memory.unix_now(),
        }
    }

    /// Binds `address` and starts to listen.
    pub fn bind(&self, address: SocketAddr, sharing: Sharing) -> io::Result<Bound> {
        match self {
            Self::Os => bind_tcp(address, sharing).map(Bound::Tcp),
            Self::Memory(memory) => memory.bind_as(address, sharing == Sharing::Joining).map(Bound::Memory),
        }
    }

    /// Dials `address`. Waits as long as the kernel does; the caller applies its own timeout.
    pub async fn connect(
        &self,
        address: SocketAddr,
        leg: Leg,
        keepalive: Option<Duration>,
    ) -> io::Result<Stream> {
        match self {
            Self::Os => {
                let dialled = leg.dial(address).await.inspect_err(descriptors::warn_of_shortage)?;
                prepare(&dialled.0, keepalive)?;
                Ok(Stream::dialled(dialled))
            }
            Self::Memory(memory) => {
                memory.note_keepalive(address, keepalive);
                memory.connect(address).await.map(|io| Stream::Memory(io, None))
            }
        }
    }
}

impl Network {
    /// Binds `address` for datagrams. `None` on the in-memory network, which has no datagrams.
    pub fn bind_udp(&self, address: SocketAddr) -> io::Result<Option<std::net::UdpSocket>> {
        match self {
            Self::Os => bind_datagrams(address).map(Some),
            Self::Memory(_) => Ok(None),
        }
    }
}

impl Bound {
    /// A listener that another process has bound and handed over.
    ///
    /// # Errors
    /// The descriptor is no listener.
    pub fn adopted(descriptor: OwnedFd) -> io::Result<Self> {
        let socket = Socket::from(descriptor);
        if !socket.is_listener()? {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the descriptor is not a listening socket",
            ));
        }
        socket.set_nonblocking(true)?;
        Ok(Self::Tcp(socket.into()))
    }

    /// From now on further workers may join the address with [`Sharing::Joining`].
    ///
    /// # Errors
    /// The kernel refuses the option.
    pub fn share(&self) -> io::Result<()> {
        match self {
            Self::Tcp(listener) => SockRef::from(listener).set_reuse_port(true),
            Self::Memory(_) => Ok(()),
        }
    }

    pub fn address(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr(),
            Self::Memory(listener) => Ok(listener.address()),
        }
    }

    /// Registers the listener with the current runtime, which must be the one that will accept.
    pub fn listen(self) -> io::Result<Listener> {
        match self {
            Self::Tcp(listener) => {
                let port = listener.local_addr()?.port();
                TcpListener::from_std(listener).map(|listener| Listener::Tcp(listener, port))
            }
            Self::Memory(listener) => Ok(Listener::Memory(listener)),
        }
    }

    /// Limits the kernel's send buffer of accepted connections to about `bytes`: data that the peer has not read yet.
    ///
    /// # Errors
    /// The kernel refuses the option.
    pub fn limit_send_buffer(&self, bytes: usize) -> io::Result<()> {
        match self {
            Self::Tcp(listener) => SockRef::from(listener).set_send_buffer_size(bytes), // accepted sockets inherit it
            Self::Memory(_) => Ok(()), // a pipe holds a fixed number of bytes
        }
    }

    /// From now on this listener accepts connections that the kernel's TPROXY redirects, whatever their destination
    /// address is.
    ///
    /// # Errors
    /// The process has neither CAP_NET_ADMIN nor CAP_NET_RAW.
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
                // The in-memory network was dropped: no connection can arrive any more.
                let Ok(arrival) = listener.accept().await else { return std::future::pending().await };
                Ok((Stream::Memory(arrival.io, arrival.original.map(Box::new)), arrival.from))
            }
        }
    }
}

impl Listener {
    /// A copy of the descriptor, with which another process can accept from the same queue.
    ///
    /// # Errors
    /// No descriptor is left, or the network has none.
    pub fn descriptor(&self) -> io::Result<OwnedFd> {
        match self {
            Self::Tcp(listener, _) => listener.as_fd().try_clone_to_owned(),
            Self::Memory(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Stops listening. Returns the connections that the kernel has completed and that were not accepted yet; otherwise
    /// the kernel would reset them. Returns at most as many as fit into the queue, so that a flood of connections
    /// cannot delay the end.
    pub fn close(self) -> Vec<(Stream, SocketAddr)> {
        let most = usize::try_from(BACKLOG).unwrap_or(usize::MAX);
        match self {
            // Accepts without the runtime, which may not know yet that a connection is waiting.
            Self::Tcp(listener, port) => {
                let Ok(listener) = listener.into_std() else { return Vec::new() };
                let accepted = std::iter::from_fn(|| listener.accept().ok()).take(most);
                accepted
                    .filter_map(|(stream, from)| Some((accepted_late(stream, port).ok()?, from)))
                    .collect()
            }
            Self::Memory(listener) => {
                let arrivals = listener.close().into_iter();
                arrivals
                    .map(|arrival| (Stream::Memory(arrival.io, arrival.original.map(Box::new)), arrival.from))
                    .collect()
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

/// SO_REUSEPORT would let every process of this user join, also another sidecar, and the kernel would then give half of
/// the connections to a sidecar with other rules. So the first socket binds and listens without the option, which the
/// kernel refuses when any socket listens already on this address or on a wildcard that overlaps it. Only then the
/// socket gets the option, for the other workers of this process. Two sidecars that start at once cannot both succeed,
/// because `listen` checks again and refuses the second one.
///
/// The kernel does the check, so it holds for each network namespace, also where containers share one and have
/// different files. It cannot keep out a program of the same user that asks for SO_REUSEPORT from the start.
fn bind_tcp(address: SocketAddr, sharing: Sharing) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?; // allows binding beside closed connections in TIME_WAIT, never beside a listener
    if sharing == Sharing::Joining {
        socket.set_reuse_port(true)?;
    }
    if address.is_ipv6() {
        socket.set_only_v6(true)?; // [::] beside 0.0.0.0 are two listeners, whatever the host's default is
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

/// Small writes are sent at once (TCP_NODELAY). Keep-alive probes find a peer that is gone.
fn prepare(stream: &TcpStream, keepalive: Option<Duration>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    match keepalive {
        Some(time) => SockRef::from(stream)
            .set_tcp_keepalive(&TcpKeepalive::new().with_time(time).with_interval(time.min(KEEPALIVE_STEP))),
        None => Ok(()),
    }
}

/// Idle time before the first keep-alive probe to a client: a client that vanished is found within minutes, and not
/// only after the idle timeout of one hour.
const DOWNSTREAM_KEEPALIVE: Duration = Duration::from_secs(60);

/// The interval between probes after the first one. With the kernel's 9 probes, a dead peer is found
/// at most 135 s after the first one.
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

    /// The kernel treats sockets of one process and of another alike: only the options that they ask for matter.
    #[test]
    fn c2_a_port_that_the_workers_of_one_sidecar_share_is_refused_to_another_sidecar() {
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
        // The kernel chooses by a hash of both addresses: all 128 practically never meet one worker.
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

    #[test]
    fn a_listener_that_was_handed_over_can_be_shared_and_another_socket_is_refused() {
        let alone =
            bind_tcp("127.0.0.1:0".parse().expect("an address"), Sharing::Alone).expect("a free port");
        let adopted = Bound::adopted(OwnedFd::from(alone)).expect("a listener");
        let address = adopted.address().expect("a bound address");
        assert!(bind(address, Sharing::Joining).is_err(), "it listens alone");
        adopted.share().expect("an option");
        bind(address, Sharing::Joining).expect("a further worker");
        let other = std::net::UdpSocket::bind("127.0.0.1:0").expect("a free port");
        assert!(Bound::adopted(OwnedFd::from(other)).is_err());
    }

    #[tokio::test]
    async fn b3_a_dialled_connection_has_kernel_keepalive_when_it_is_asked_for() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let to = listener.local_addr().expect("bound");
        for keepalive in [Some(Duration::from_secs(7)), None] {
            let stream =
                Network::Os.connect(to, Leg::Outbound, keepalive).await.expect("the address listens");
            let Stream::Tcp(stream, _) = &stream else { unreachable!("a real connection") };
            let socket = SockRef::from(stream);
            let kept = socket.keepalive().expect("an option").then(|| socket.tcp_keepalive_time());
            assert_eq!(kept.transpose().expect("an option"), keepalive);
        }
    }
}
