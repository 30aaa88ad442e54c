//! Binds every address that a configuration names, once for each worker, and says which they became.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use pillion_config::{Cluster as ClusterConfig, Config};

use crate::net::{Bound, Network};
use crate::state::Route;

/// Where the sidecar listens. Port 0 in the configuration is a real port here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Addresses {
    pub inbound: Vec<SocketAddr>,
    pub outbound: Vec<SocketAddr>,
    pub admin: Vec<SocketAddr>,
    pub metrics: Vec<SocketAddr>,
    /// Services' own ports, by name.
    pub services: Vec<(String, SocketAddr)>,
    /// Listeners of single ports of the application, by port.
    pub ports: Vec<(u16, SocketAddr)>,
}

/// A bound address and what is served there.
pub(super) struct Port {
    pub(super) bound: Bound,
    pub(super) use_: Use,
}

#[derive(Clone)]
pub(super) enum Use {
    /// With the application's port whose own listener it is.
    Inbound(Option<u16>),
    Outbound,
    Service(Arc<Route>),
}

/// Binds every address once for each worker: the kernel spreads connections over them.
pub(super) fn bind_workers(
    network: &Network,
    config: &Config,
    services: &[(ClusterConfig, Arc<Route>)],
    workers: usize,
) -> anyhow::Result<(Vec<Vec<Port>>, Addresses)> {
    let mut binding = Binding { network, workers: (0..workers).map(|_| Vec::new()).collect() };
    let mut addresses = Addresses::default();
    if let Some(inbound) = &config.inbound {
        addresses.inbound = binding.bind_all("inbound.listen", &inbound.listen, &Use::Inbound(None))?;
        for (&port, single) in &inbound.ports {
            let what = format!("inbound.ports.{port}.listen");
            let bound = binding.bind_all(&what, &single.listen, &Use::Inbound(Some(port)))?;
            addresses.ports.extend(bound.into_iter().map(|address| (port, address)));
        }
    }
    if let Some(outbound) = &config.outbound {
        addresses.outbound = binding.bind_all("outbound.listen", &outbound.listen, &Use::Outbound)?;
    }
    for (cluster, route) in services {
        let what = format!("services.{}.listen", cluster.name);
        let bound = binding.bind_all(&what, &cluster.listen, &Use::Service(route.clone()))?;
        addresses.services.extend(bound.into_iter().map(|address| (cluster.name.clone(), address)));
    }
    Ok((binding.workers, addresses))
}

struct Binding<'a> {
    network: &'a Network,
    workers: Vec<Vec<Port>>,
}

impl Binding<'_> {
    fn bind_all(&mut self, what: &str, wanted: &[SocketAddr], use_: &Use) -> anyhow::Result<Vec<SocketAddr>> {
        let mut bound = Vec::new();
        for &address in wanted {
            bound.extend(self.bind(what, address, use_)?);
        }
        if bound.is_empty() && !wanted.is_empty() {
            anyhow::bail!("{what}: no address could be bound");
        }
        Ok(bound)
    }

    /// `None`: IPv6, on a kernel that has none.
    fn bind(
        &mut self,
        what: &str,
        mut address: SocketAddr,
        use_: &Use,
    ) -> anyhow::Result<Option<SocketAddr>> {
        let shared = self.workers.len() > 1;
        for ports in &mut self.workers {
            let bound = match self.network.bind(address, shared) {
                Err(error) if address.is_ipv6() && has_no_ipv6(&error) => {
                    tracing::info!(%address, "{what}: left out, this kernel has no IPv6");
                    return Ok(None);
                }
                bound => bound.with_context(|| format!("{what}: cannot listen on {address}"))?,
            };
            address = bound.address()?; // the first worker settles what port 0 means
            ports.push(Port { bound, use_: use_.clone() });
        }
        Ok(Some(address))
    }
}

pub(crate) fn has_no_ipv6(error: &io::Error) -> bool {
    const AFNOSUPPORT: i32 = 97;
    error.raw_os_error() == Some(AFNOSUPPORT) || error.kind() == io::ErrorKind::AddrNotAvailable
}

impl Addresses {
    /// All of them, whatever they are for.
    pub(super) fn all(&self) -> Vec<SocketAddr> {
        let kinds = [&self.inbound, &self.outbound, &self.admin, &self.metrics];
        let own = kinds.into_iter().flatten().copied();
        let services = self.services.iter().map(|(_, address)| *address);
        own.chain(services).chain(self.ports.iter().map(|(_, address)| *address)).collect()
    }
}

/// The line that `run` prints when it is ready.
impl fmt::Display for Addresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ready")?;
        let kinds = [
            ("inbound", &self.inbound),
            ("outbound", &self.outbound),
            ("admin", &self.admin),
            ("metrics", &self.metrics),
        ];
        for (kind, addresses) in kinds.into_iter().filter(|(_, addresses)| !addresses.is_empty()) {
            let list: Vec<String> = addresses.iter().map(ToString::to_string).collect();
            write!(f, " {kind}={}", list.join(","))?;
        }
        self.services.iter().try_for_each(|(name, address)| write!(f, " service.{name}={address}"))?;
        self.ports.iter().try_for_each(|(port, address)| write!(f, " port.{port}={address}"))
    }
}
