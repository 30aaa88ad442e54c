//! The in-memory network: addresses, listeners and connections without a kernel.
//!
//! A connection to an address that is not bound is refused. A connection to a black hole waits for ever. Tests with a
//! paused clock need both.

mod pipe;

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use pillion_model::listener::MaxMemory;
use tokio::sync::mpsc;

use crate::memory::host::{self, Counts, MemoryLimit};

pub use pipe::Pipe;

/// Bytes in flight in each direction, about as many as a loopback socket holds.
const BUFFER: usize = 64 * 1024;
const BACKLOG: usize = 1024;

/// A new connection, as its listener receives it.
#[derive(Debug)]
pub struct MemoryConnection {
    pub io: Pipe,
    pub from: SocketAddr,
    /// Its original destination. `None` when the connection was not redirected.
    pub original: Option<SocketAddr>,
}

/// A network in memory. Clones share its hosts.
#[derive(Debug, Clone, Default)]
pub struct MemoryNetwork {
    hosts: Arc<Mutex<Hosts>>,
}

#[derive(Debug, Default)]
struct Hosts {
    bound: HashMap<SocketAddr, Host>,
    names: HashMap<String, Vec<IpAddr>>,
    /// Names at which the resolver panics, as a bug would.
    buggy: HashSet<String>,
    /// The keep-alive time that the last connection to each address asked for.
    keepalives: HashMap<SocketAddr, Option<Duration>>,
    /// Addresses where the client learns of a new connection later than the listener.
    late: HashSet<SocketAddr>,
    /// The memory of the host. `None` means more than any test needs.
    host_memory: Option<u64>,
    /// The limit of the cgroup of each process.
    cgroup: Option<u64>,
    /// What counts against a limit.
    memory_used: u64,
    /// The time at which the clock of the hosts stands. `None`: it shows that of the machine.
    unix_now: Option<i64>,
    /// The last port that was given out, for port 0 and for the local end of connections.
    last_port: u16,
}

#[derive(Debug)]
enum Host {
    /// Listeners that share the address and take turns.
    Listening(VecDeque<mpsc::Sender<MemoryConnection>>),
    BlackHole,
}

#[derive(Debug)]
pub struct Listener {
    address: SocketAddr,
    arrivals: mpsc::Receiver<MemoryConnection>,
}

#[cfg_attr(not(test), allow(dead_code))] // built by tests only
impl MemoryNetwork {
    /// Sets the memory, in bytes, that the host shows to each process that starts from now on.
    pub fn set_host_memory(&self, bytes: u64) {
        self.hosts.lock().host_memory = Some(bytes);
    }

    pub fn host_memory(&self) -> u64 {
        self.hosts.lock().host_memory.unwrap_or(u64::MAX)
    }

    /// Sets the limit of the cgroup of each process.
    pub fn set_cgroup(&self, limit: Option<u64>) {
        self.hosts.lock().cgroup = limit;
    }

    /// Sets what counts against a limit.
    pub fn set_memory_used(&self, bytes: u64) {
        self.hosts.lock().memory_used = bytes;
    }

    pub fn memory_used(&self) -> u64 {
        self.hosts.lock().memory_used
    }

    pub fn memory_limit(&self, max: MaxMemory) -> Option<MemoryLimit> {
        let bytes = match max {
            MaxMemory::Off => None,
            MaxMemory::Auto => self.hosts.lock().cgroup.map(host::share),
            MaxMemory::Bytes(bytes) => Some(bytes),
        };
        bytes.map(|bytes| MemoryLimit { bytes, counts: Counts::Own })
    }

    /// Stops the clock of the hosts at this time, in seconds since 1970.
    pub fn set_unix_now(&self, now: i64) {
        self.hosts.lock().unix_now = Some(now);
    }

    pub fn unix_now(&self) -> i64 {
        self.hosts.lock().unix_now.unwrap_or_else(super::unix_now)
    }

    pub fn bind(&self, address: SocketAddr) -> io::Result<Listener> {
        self.bind_as(address, false)
    }

    /// `joins`: whether other listeners may listen on the address already.
    pub fn bind_as(&self, mut address: SocketAddr, joins: bool) -> io::Result<Listener> {
        let mut hosts = self.hosts.lock();
        if address.port() == 0 {
            address.set_port(hosts.next_port());
        }
        let mut listening = match hosts.bound.remove(&address) {
            Some(Host::Listening(known)) => known,
            Some(Host::BlackHole) | None => VecDeque::new(),
        };
        listening.retain(|to| !to.is_closed());
        if !listening.is_empty() && !joins {
            hosts.bound.insert(address, Host::Listening(listening));
            return Err(io::ErrorKind::AddrInUse.into());
        }
        let (sender, arrivals) = mpsc::channel(BACKLOG);
        listening.push_back(sender);
        hosts.bound.insert(address, Host::Listening(listening));
        Ok(Listener { address, arrivals })
    }

    /// From now on connections to `address` get no answer at all.
    pub fn black_hole(&self, address: SocketAddr) {
        self.hosts.lock().bound.insert(address, Host::BlackHole);
    }

    /// From now on a connection to `address` is accepted one millisecond before its client learns of it.
    pub fn tell_late(&self, address: SocketAddr) {
        self.hosts.lock().late.insert(address);
    }

    /// Adds an address to those of `host`.
    pub fn name(&self, host: &str, ip: IpAddr) {
        self.hosts.lock().names.entry(host.to_owned()).or_default().push(ip);
    }

    /// From now on the resolver panics when it is asked for `host`.
    pub fn panic_at_name(&self, host: &str) {
        self.hosts.lock().buggy.insert(host.to_owned());
    }

    pub fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        let is_buggy = self.hosts.lock().buggy.contains(host);
        assert!(!is_buggy, "the bug that a test wants at {host}");
        let known = self.hosts.lock().names.get(host).cloned().ok_or(io::ErrorKind::NotFound)?;
        Ok(known.into_iter().map(|ip| (ip, port).into()).collect())
    }

    pub fn note_keepalive(&self, address: SocketAddr, keepalive: Option<Duration>) {
        self.hosts.lock().keepalives.insert(address, keepalive);
    }

    /// The keep-alive time of the last connection that was dialled to `address` through [`super::Network`].
    pub fn keepalive(&self, address: SocketAddr) -> Option<Duration> {
        self.hosts.lock().keepalives.get(&address).copied().flatten()
    }

    pub async fn connect(&self, address: SocketAddr) -> io::Result<Pipe> {
        self.connect_as(address, None).await
    }

    /// Does what the kernel's REDIRECT does: a connection to `original` arrives at `listener`.
    pub async fn redirect(&self, original: SocketAddr, listener: SocketAddr) -> io::Result<Pipe> {
        self.connect_as(listener, Some(original)).await
    }

    async fn connect_as(&self, address: SocketAddr, original: Option<SocketAddr>) -> io::Result<Pipe> {
        let (target, from, is_late) = {
            let mut hosts = self.hosts.lock();
            let from = SocketAddr::from((Ipv4Addr::LOCALHOST, hosts.next_port()));
            let target = match hosts.bound.get_mut(&address) {
                Some(Host::Listening(all)) => {
                    all.rotate_left(1);
                    all.back().cloned()
                }
                Some(Host::BlackHole) => None,
                None => return Err(io::ErrorKind::ConnectionRefused.into()),
            };
            (target, from, hosts.late.contains(&address))
        };
        let Some(target) = target else { return std::future::pending().await };
        let (near, io) = Pipe::pair(BUFFER);
        let refused = |_gone| io::Error::from(io::ErrorKind::ConnectionRefused);
        target.send(MemoryConnection { io, from, original }).await.map_err(refused)?;
        if is_late {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(near)
    }
}

impl Hosts {
    #[cfg_attr(not(test), allow(dead_code))]
    fn next_port(&mut self) -> u16 {
        self.last_port = self.last_port.checked_add(1).unwrap_or(1).max(40_000);
        self.last_port
    }
}

impl Listener {
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    pub async fn accept(&mut self) -> io::Result<MemoryConnection> {
        self.arrivals.recv().await.ok_or_else(|| io::ErrorKind::BrokenPipe.into())
    }

    /// Stops listening. Returns the connections that were not accepted yet.
    pub fn close(mut self) -> Vec<MemoryConnection> {
        self.arrivals.close();
        std::iter::from_fn(|| self.arrivals.try_recv().ok()).collect()
    }
}
