//! The addresses on which the sidecar's two sides listen, and their uses. Each address is bound once for each worker.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Once};

use arc_swap::ArcSwap;
use pillion_model::Config;

use super::bindings::{BindRequest, Bindings, Serves, Wanted};
use crate::listening::{Listening, Role};
use crate::takeover::Inherited;
use pillion_base::net::{Bound, Network, Sharing};
use pillion_model::Direction;

/// The addresses on which the sidecar listens. Port 0 of the configuration is a real port here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Addresses {
    pub inbound: Vec<SocketAddr>,
    pub outbound: Vec<SocketAddr>,
    pub admin: Vec<SocketAddr>,
    pub metrics: Vec<SocketAddr>,
    pub dns: Vec<SocketAddr>,
    /// The ports of single services, by name.
    pub services: Vec<(String, SocketAddr)>,
    /// The listeners of single ports of the application, by port.
    pub ports: Vec<(u16, SocketAddr)>,
}

/// What an address serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Use {
    /// Inbound; with a port if this is the listener of a single port of the application.
    Inbound(Option<u16>),
    Outbound,
    /// The port of a single service.
    Service(Arc<str>),
}

impl Use {
    pub(super) const fn direction(&self) -> Direction {
        match self {
            Self::Inbound(_) => Direction::Inbound,
            Self::Outbound | Self::Service(_) => Direction::Outbound,
        }
    }
}

/// A bound address that is sent to a worker.
pub(super) struct WorkerPort {
    pub(super) id: u64,
    pub(super) bound: Bound,
    /// The use. A reload may change it, but not its direction.
    pub(super) use_: Arc<ArcSwap<Use>>,
}

/// The listeners that every worker has: all but those of admin, metrics and DNS.
pub(super) struct Workers(pub(super) Network, pub(super) Inherited);

pub(super) type Listeners = Bindings<Workers>;

impl Serves for Workers {
    type Use = Use;
    type Port = WorkerPort;

    fn may_become(from: &Use, to: &Use) -> bool {
        from.direction() == to.direction()
    }

    fn id(port: &WorkerPort) -> u64 {
        port.id
    }

    fn role(use_: &Use) -> Role {
        match use_ {
            Use::Inbound(None) => Role::Inbound,
            Use::Inbound(Some(port)) => Role::Port(*port),
            Use::Outbound => Role::Outbound,
            Use::Service(name) => Role::Service(name.to_string()),
        }
    }

    fn bind(&self, request: &BindRequest<Use>) -> io::Result<(SocketAddr, Vec<WorkerPort>)> {
        let mut all = self.inherited(request)?;
        let (mut address, mut sharing) = (request.address, request.sharing);
        if let Some(first) = all.first() {
            (address, sharing) = (first.address()?, Sharing::Joining);
        }
        while all.len() < request.threads {
            let bound = self.0.bind(address, sharing)?;
            address = bound.address()?; // the first worker gets a real port for port 0
            sharing = Sharing::Joining;
            all.push(bound);
        }
        if request.use_.load().direction() == Direction::Inbound {
            all.iter().for_each(take_tproxy);
        }
        let port = |bound| WorkerPort { id: request.id, bound, use_: request.use_.clone() };
        Ok((address, all.into_iter().map(port).collect()))
    }
}

impl Workers {
    /// The listeners of a sidecar that is taken over. Each of them has a queue of its own, so that all must be accepted
    /// from, also where this sidecar has fewer workers.
    fn inherited(&self, request: &BindRequest<Use>) -> io::Result<Vec<Bound>> {
        let all = self.1.listeners(&Self::role(&request.use_.load()), request.address)?;
        if all.len() < request.threads {
            all.iter().try_for_each(Bound::share)?; // a sidecar with one worker does not share its addresses
        }
        Ok(all)
    }
}

/// Allows TPROXY if the process has the capability. The result is logged once.
fn take_tproxy(bound: &Bound) {
    static TOLD: Once = Once::new();
    let taken = bound.take_tproxy();
    TOLD.call_once(|| match taken {
        Ok(()) => tracing::debug!("inbound also accepts TPROXY: the application then sees the client's address"),
        Err(why) => tracing::debug!(%why, "inbound accepts redirected connections, but not TPROXY, which needs CAP_NET_ADMIN"),
    });
}

/// The wanted addresses, in the order of the configuration.
pub(super) fn wanted(config: &Config) -> Vec<Wanted<Use>> {
    let mut all = Vec::new();
    let mut want = |key: String, use_: &Use, listen: &[SocketAddr]| {
        let each = |address: &SocketAddr| Wanted { key: key.clone(), use_: use_.clone(), address: *address };
        all.extend(listen.iter().map(each));
    };
    if let Some(inbound) = &config.inbound {
        want("inbound.listen".to_owned(), &Use::Inbound(None), &inbound.listen);
        for (&port, single) in &inbound.ports {
            want(format!("inbound.ports.{port}.listen"), &Use::Inbound(Some(port)), &single.listen);
        }
    }
    if let Some(outbound) = &config.outbound {
        want("outbound.listen".to_owned(), &Use::Outbound, &outbound.listen);
    }
    for cluster in &config.clusters {
        let use_ = Use::Service(cluster.name.as_str().into());
        want(format!("services.{}.listen", cluster.name), &use_, &cluster.listen);
    }
    all
}

/// The open addresses, without those of admin, metrics and DNS.
pub(super) fn addresses(listeners: &Listeners) -> Addresses {
    let mut addresses = Addresses::default();
    for (use_, bound) in listeners.addresses() {
        match &*use_ {
            Use::Inbound(None) => addresses.inbound.push(bound),
            Use::Inbound(Some(port)) => addresses.ports.push((*port, bound)),
            Use::Outbound => addresses.outbound.push(bound),
            Use::Service(name) => addresses.services.push((name.to_string(), bound)),
        }
    }
    addresses
}

impl Addresses {
    /// All addresses, each with what it is for.
    pub(super) fn listening(&self) -> Vec<Listening> {
        let kinds = [
            (Role::Inbound, &self.inbound),
            (Role::Outbound, &self.outbound),
            (Role::Admin, &self.admin),
            (Role::Metrics, &self.metrics),
            (Role::Dns, &self.dns),
        ];
        let own = kinds.into_iter().flat_map(|(role, all)| all.iter().map(move |on| (*on, role.clone())));
        let services = self.services.iter().map(|(name, on)| (*on, Role::Service(name.clone())));
        let ports = self.ports.iter().map(|(port, on)| (*on, Role::Port(*port)));
        own.chain(services).chain(ports).map(|(on, role)| Listening { on, role }).collect()
    }

    /// All addresses of every kind.
    pub(super) fn all(&self) -> Vec<SocketAddr> {
        let kinds = [&self.inbound, &self.outbound, &self.admin, &self.metrics, &self.dns];
        let own = kinds.into_iter().flatten().copied();
        let services = self.services.iter().map(|(_, address)| *address);
        own.chain(services).chain(self.ports.iter().map(|(_, address)| *address)).collect()
    }
}

/// Displays as `inbound=127.0.0.1:15006 outbound=…`: the kinds that have addresses, with several addresses separated by
/// commas.
impl fmt::Display for Addresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds = [
            ("inbound", &self.inbound),
            ("outbound", &self.outbound),
            ("admin", &self.admin),
            ("metrics", &self.metrics),
            ("dns", &self.dns),
        ];
        let mut words = Vec::new();
        for (kind, addresses) in kinds.into_iter().filter(|(_, addresses)| !addresses.is_empty()) {
            let list: Vec<String> = addresses.iter().map(ToString::to_string).collect();
            words.push(format!("{kind}={}", list.join(",")));
        }
        words.extend(self.services.iter().map(|(name, address)| format!("service.{name}={address}")));
        words.extend(self.ports.iter().map(|(port, address)| format!("port.{port}={address}")));
        f.write_str(&words.join(" "))
    }
}
