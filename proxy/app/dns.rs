//! Where the DNS proxy listens and whom it asks, from one configuration to the next: bound and read before anything
//! else of the new one takes effect.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::Context as _;
use pillion_model::{Config, Dns as DnsConfig};
use tokio::sync::mpsc;

use crate::dns::{Command, Dns, Port, Upstream, refuse_loop, system_servers};
use pillion_base::net::has_no_ipv6;
use pillion_base::net::own::OwnListeners;
use pillion_base::net::{Network, Sharing};

/// On their way to the thread; one is sent a reload at most.
const COMMANDS: usize = 64;

/// Ports that are tried until one is free for UDP and TCP, where the configuration says 0.
const TRIES: usize = 16;

#[derive(Clone)]
struct Open {
    id: u64,
    wanted: SocketAddr,
    /// `None`: left out, as this kernel has no IPv6.
    bound: Option<SocketAddr>,
}

pub(super) struct DnsListeners {
    network: Network,
    dns: Arc<Dns>,
    open: Vec<Open>,
    last_id: u64,
    commands: mpsc::Sender<Command>,
}

/// From one configuration's to the next one's: bound, and not yet in use.
pub(super) struct Change {
    open: Vec<Open>,
    last_id: u64,
    opened: Vec<Port>,
    closed: Vec<u64>,
    upstream: Option<Upstream>,
}

impl DnsListeners {
    /// The receiver is for [`crate::dns::run`].
    pub(super) fn new(network: Network, dns: Arc<Dns>) -> (Self, mpsc::Receiver<Command>) {
        let (commands, receiver) = mpsc::channel(COMMANDS);
        (Self { network, dns, open: Vec::new(), last_id: 0, commands }, receiver)
    }

    /// Binds what `config` wants and is not bound yet, and reads whom to ask.
    ///
    /// # Errors
    /// An address that cannot be bound, nobody to ask, a loop. Nothing has changed then.
    pub(super) fn plan(&self, config: &Config) -> anyhow::Result<Change> {
        let mut left = self.open.clone();
        let mut change = Change {
            open: Vec::new(),
            last_id: self.last_id,
            opened: Vec::new(),
            closed: Vec::new(),
            upstream: None,
        };
        if let Some(dns) = &config.dns {
            for wanted in &dns.listen {
                match left.iter().position(|open| open.wanted == *wanted) {
                    Some(at) => change.open.push(left.swap_remove(at)),
                    None => change.bind(&self.network, *wanted)?,
                }
            }
            change.upstream = Some(change.upstream(dns, config)?);
        }
        change.closed = left.into_iter().map(|open| open.id).collect();
        Ok(change)
    }

    pub(super) fn commit(&mut self, change: Change) {
        self.open = change.open;
        self.last_id = change.last_id;
        self.dns.use_upstream(change.upstream);
        let opened = (!change.opened.is_empty()).then_some(Command::Open(change.opened));
        let closed = (!change.closed.is_empty()).then_some(Command::Close(change.closed));
        for command in opened.into_iter().chain(closed) {
            if self.commands.try_send(command).is_err() {
                tracing::error!("the DNS proxy does not listen to its controller");
            }
        }
    }

    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        addresses(&self.open)
    }
}

fn addresses(open: &[Open]) -> Vec<SocketAddr> {
    open.iter().filter_map(|open| open.bound).collect()
}

impl Change {
    fn bind(&mut self, network: &Network, wanted: SocketAddr) -> anyhow::Result<()> {
        self.last_id += 1;
        let bound = match bind(network, wanted, self.last_id) {
            Err(error) if wanted.is_ipv6() && has_no_ipv6(&error) => {
                tracing::info!(address = %wanted, "dns.listen: left out, this kernel has no IPv6");
                None
            }
            port => {
                let port = port.with_context(|| format!("dns.listen: cannot listen on {wanted}"))?;
                let address = port.tcp.address()?;
                self.opened.push(port);
                Some(address)
            }
        };
        self.open.push(Open { id: self.last_id, wanted, bound });
        Ok(())
    }

    fn upstream(&self, dns: &DnsConfig, config: &Config) -> anyhow::Result<Upstream> {
        let own = addresses(&self.open);
        if own.is_empty() {
            anyhow::bail!("dns.listen: no address could be bound");
        }
        let own = OwnListeners::new(own);
        // What the sidecar's own resolver asks must not come back as an answer of the sidecar's own.
        if let Some(of) = config.clusters.iter().find(|of| of.discovery.is_some()) {
            refuse_loop("/etc/resolv.conf", &system_servers(), &own)
                .with_context(|| format!("services.{}.endpoints", of.name))?;
        }
        Upstream::new(&dns.upstream, own, SystemTime::now()).context("dns.upstream")
    }
}

/// The same port over UDP and TCP.
fn bind(network: &Network, wanted: SocketAddr, id: u64) -> io::Result<Port> {
    let mut tries = 0;
    loop {
        let udp = network.bind_udp(wanted)?;
        let address = udp.as_ref().map_or(Ok(wanted), std::net::UdpSocket::local_addr)?;
        tries += 1;
        match network.bind(address, Sharing::Alone) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && wanted.port() == 0 && tries < TRIES => {
            }
            tcp => return Ok(Port { id, udp, tcp: tcp? }),
        }
    }
}
