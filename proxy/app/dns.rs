//! The addresses and name servers of the DNS proxy, from one configuration to the next.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::Context as _;
use pillion_model::cluster::Discovery;
use pillion_model::{Config, Dns as DnsConfig};
use tokio::sync::mpsc;

use super::bindings::{self, BindRequest, Bindings, Serves, Wanted};
use crate::dns::{Command, Dns, DnsPort, Upstream, refuse_loop, system_servers};
use crate::listening::Role;
use crate::takeover::Inherited;
use pillion_base::net::own::OwnListeners;
use pillion_base::net::{Network, Sharing};

/// How many ports are tried until one is free for both UDP and TCP, if the configuration says port 0.
const TRIES: usize = 16;

pub(super) struct Proxy(Network, Inherited);

impl Serves for Proxy {
    type Use = ();
    type Port = DnsPort;

    /// An address of the DNS proxy has only one use.
    fn may_become((): &(), (): &()) -> bool {
        false
    }

    fn id(port: &DnsPort) -> u64 {
        port.id
    }

    fn role((): &()) -> Role {
        Role::Dns
    }

    fn bind(&self, request: &BindRequest<()>) -> io::Result<(SocketAddr, Vec<DnsPort>)> {
        let port = match self.1.pair(&Role::Dns, request.address)? {
            Some((udp, tcp)) => DnsPort { id: request.id, udp: Some(udp), tcp },
            None => bind(&self.0, request.address, request.id)?,
        };
        Ok((port.tcp.address()?, vec![port]))
    }
}

pub(super) struct DnsListeners {
    bindings: Bindings<Proxy>,
    dns: Arc<Dns>,
}

/// The step from one configuration to the next: addresses bound and name servers read, and not used yet.
pub(super) struct Change {
    bindings: bindings::Change<Proxy>,
    upstream: Option<Upstream>,
}

impl DnsListeners {
    /// The receiver is the argument of [`crate::dns::run`].
    pub(super) fn new(
        network: Network,
        inherited: Inherited,
        dns: Arc<Dns>,
    ) -> (Self, mpsc::Receiver<Command>) {
        let (commands, receiver) = bindings::channel();
        (Self { bindings: Bindings::new(Proxy(network, inherited), vec![commands]), dns }, receiver)
    }

    /// The addresses, to be opened, lent and closed.
    pub(super) const fn bindings(&mut self) -> &mut Bindings<Proxy> {
        &mut self.bindings
    }

    /// The number of queries and connections that are under way.
    pub(super) fn under_way(&self) -> usize {
        self.dns.under_way()
    }

    /// Binds the addresses of `config` that are not bound yet, and reads the name servers.
    ///
    /// # Errors
    /// An address cannot be bound, there is no name server, or queries would loop. In that case nothing has changed.
    pub(super) fn plan(&self, config: &Config) -> anyhow::Result<Change> {
        let listen = config.dns.iter().flat_map(|dns| &dns.listen);
        let key = || "dns.listen".to_owned();
        let wanted: Vec<_> =
            listen.map(|address| Wanted { key: key(), use_: (), address: *address }).collect();
        let bindings = self.bindings.plan(&wanted)?;
        let own = OwnListeners::new(bindings.addresses());
        let upstream = config.dns.as_ref().map(|dns| upstream(dns, config, own)).transpose()?;
        Ok(Change { bindings, upstream })
    }

    pub(super) fn commit(&mut self, mut change: Change) {
        self.bindings.commit(&mut change.bindings);
        self.dns.use_upstream(change.upstream);
        self.bindings.send(change.bindings);
    }

    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        self.bindings.addresses().map(|(_, address)| address).collect()
    }
}

fn upstream(dns: &DnsConfig, config: &Config, own: OwnListeners) -> anyhow::Result<Upstream> {
    // queries of the sidecar's own resolver must not come back to the DNS proxy
    if let Some(of) =
        config.clusters.iter().find(|of| of.discovery.as_ref().and_then(Discovery::dns).is_some())
    {
        refuse_loop("/etc/resolv.conf", &system_servers(), &own)
            .with_context(|| format!("services.{}.endpoints", of.name))?;
    }
    Upstream::new(&dns.upstream, own, SystemTime::now()).context("dns.upstream")
}

/// Binds the same port for UDP and for TCP.
fn bind(network: &Network, wanted: SocketAddr, id: u64) -> io::Result<DnsPort> {
    let mut tries = 0;
    loop {
        let udp = network.bind_udp(wanted)?;
        let address = udp.as_ref().map_or(Ok(wanted), std::net::UdpSocket::local_addr)?;
        tries += 1;
        match network.bind(address, Sharing::Alone) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && wanted.port() == 0 && tries < TRIES => {
            }
            tcp => return Ok(DnsPort { id, udp, tcp: tcp? }),
        }
    }
}
