//! The compiled picture of the world: which host or address means which route. Immutable, swapped whole, read
//! without locks.
//!
//! What lives (pools, budgets, counters) belongs to the clusters a snapshot points to, which live on by name. Beside
//! it stand the [`Destinations`] that connections brought with them.

mod addresses;
mod compile;
mod destinations;
mod former;
mod names;
mod rules;
mod virtual_addresses;

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};
use pillion_model::Reason;
use pillion_model::cluster::HostPattern;
use pillion_model::listener::{self, DownstreamLimits, Mtls, RedirectTo, Unknown};
use pillion_model::policy::{Retry, Timeouts};

pub use addresses::AddressTable;
pub use compile::{Budgets, Clusters, PreviousSnapshot, Sides, compile};
pub use destinations::Destinations;
pub use former::Former;
pub use names::{DnsNames, ServiceAddresses};
use pillion_base::error::Error;
use pillion_base::net::Leg;
use pillion_base::net::own::OwnListeners;
use pillion_telemetry::Symbol;
use pillion_tls::Peer;
use pillion_tls::server::Server;
use pillion_upstream::cluster::Cluster;
use pillion_upstream::cluster::budget::Budget;
use pillion_upstream::cluster::pools::Pools;
pub use rules::Rule;
pub use virtual_addresses::VirtualAddresses;

/// What the data path reads.
pub struct Store {
    snapshot: ArcSwap<Snapshot>,
    /// Outbound destinations that no service matches.
    pub unknown: Destinations<SocketAddr>,
    pub pools: Arc<Pools>,
}

pub struct Snapshot {
    /// Counts the swaps, from 1.
    pub generation: u64,
    pub hosts: HostTable,
    pub addresses: AddressTable,
    /// What DNS is answered with.
    pub names: Arc<DnsNames>,
    /// By name: what a service's own port means.
    pub services: Services,
    /// What becomes of a destination that neither knows.
    pub policy: Unknown,
    pub own: OwnListeners,
    /// `None`: `inbound: off`.
    pub inbound: Option<Arc<InboundSide>>,
    /// The route to the application; `None` without `inbound.app`.
    pub application: Option<Arc<Route>>,
    /// Addresses of the application that were original destinations, or that have listeners of their own.
    pub applications: Arc<Destinations<Application>>,
    pub limits: DownstreamLimits,
    /// Those of routes, for the next snapshot.
    pub budgets: Budgets,
}

/// Services' own routes, by name.
pub type Services = HashMap<Arc<str>, Arc<Route>>;

/// In the order in which they are looked at. Many routes share them.
pub type Rules = Arc<[Arc<Rule>]>;

/// What inbound connections are admitted and served by.
pub struct InboundSide {
    pub policy: listener::Inbound,
    /// `None`: there is no identity, or not yet.
    pub tls: Option<Arc<Server>>,
    /// `By=` of `x-forwarded-client-cert`.
    pub own_id: Option<Arc<str>>,
}

impl InboundSide {
    /// What a connection to this address of the application must prove.
    pub fn mtls(&self, to: Option<SocketAddr>) -> Mtls {
        let single = to.and_then(|to| self.policy.ports.get(&to.port()));
        single.and_then(|port| port.mtls).unwrap_or(self.policy.mtls)
    }

    /// Where a connection that came in this way finds the application.
    fn target(&self, of: Arrival) -> Option<SocketAddr> {
        match (of.original, of.port) {
            (Some(original), _) if self.policy.redirect_to == RedirectTo::Loopback => {
                let loopback: IpAddr = match original {
                    SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
                    SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
                };
                Some((loopback, original.port()).into())
            }
            (Some(original), _) => Some(original),
            (None, Some(port)) => {
                let ip = self.policy.app.map_or_else(|| Ipv4Addr::LOCALHOST.into(), |app| app.ip());
                Some((ip, port).into())
            }
            (None, None) => self.policy.app,
        }
    }

    /// Whether a connection to `to` may go on, whatever it was admitted by before.
    ///
    /// # Errors
    /// Why not, in words.
    fn admits(&self, to: Option<SocketAddr>, peer: Option<&Admitted<'_>>) -> Result<(), Error> {
        let required = |detail: &'static str| Err(Error::new(Reason::MtlsRequired, detail));
        match (self.mtls(to), peer, &self.tls) {
            (Mtls::Strict, None, _) => required("mTLS is required here since the connection came"),
            (Mtls::Off, ..) | (Mtls::Permissive, None, _) => Ok(()),
            (_, Some(_), None) => required("mTLS is required here, and there are no certificates"),
            (_, Some(admitted), Some(server)) if admitted.by == server.serial => Ok(()),
            (_, Some(admitted), Some(server)) => server.admits_still(admitted.peer).map_err(|why| {
                // Its sidecar sends the request again on a new connection, where a certificate of today counts. So an
                // authority that is replaced costs nobody a request, and who is revoked hears why from the handshake.
                let detail = format!("the certificate that the connection began with is refused now: {why}");
                Error::new(Reason::Draining, detail)
            }),
        }
    }
}

/// Who has proven what it is, and to which [`Server`].
pub struct Admitted<'a> {
    pub peer: &'a Peer,
    pub by: u64,
}

/// Where a request goes and under which policy; travels with it as one pointer.
pub struct Route {
    /// Empty for a service's own, which no route of the file diverts.
    pub name: Symbol,
    pub cluster: Arc<Cluster>,
    pub timeouts: Arc<Timeouts>,
    pub retry: Option<Arc<Retry>>,
    /// What `retry` takes from; `None` without.
    pub budget: Option<Arc<Budget>>,
    /// Which requests go elsewhere: looked at in this order, the first match wins.
    pub rules: Rules,
    /// The rules are all there is: the host is no service's.
    pub is_only_rules: bool,
}

/// What a connection's destination was found by, to find it again after a reload.
#[derive(Debug, Clone)]
pub enum DestinationKey {
    /// A service's own port, or a name.
    Service(Arc<str>),
    /// An original destination.
    Address(SocketAddr),
    Application(Arrival),
}

/// What an inbound connection has brought with it that says where the application is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Arrival {
    /// The address that it was meant for; `None`: the listener's own.
    pub original: Option<SocketAddr>,
    /// The application's port whose own listener it came to.
    pub port: Option<u16>,
    /// Who came by TPROXY, and is shown to the application.
    pub client: Option<IpAddr>,
}

/// The application, as some of its connections find it: with who they are for, as far as it sees that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Application {
    pub address: SocketAddr,
    pub leg: Leg,
}

impl Application {
    pub const fn at(address: SocketAddr) -> Self {
        Self { address, leg: Leg::Inbound }
    }
}

/// A route that is a connection's for as long as it lasts: what it was when the connection came, and how to find
/// what it is now.
#[derive(Clone)]
pub struct Fixed {
    pub route: Arc<Route>,
    generation: u64,
    pub key: DestinationKey,
}

impl Fixed {
    /// What its requests go by now; `None`: a reload took it away.
    pub fn now(&self, store: &Store) -> Option<Arc<Route>> {
        let snapshot = store.load();
        match snapshot.generation == self.generation {
            true => Some(self.route.clone()),
            false => snapshot.find(&self.key),
        }
    }
}

impl Store {
    pub fn new(snapshot: Snapshot, unknown: Destinations<SocketAddr>, pools: Arc<Pools>) -> Self {
        Self { snapshot: ArcSwap::from_pointee(snapshot), unknown, pools }
    }

    pub fn load(&self) -> Guard<Arc<Snapshot>> {
        self.snapshot.load()
    }

    /// For work that takes longer than a request's look.
    pub fn load_full(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// Returns the snapshot that was read until now; see [`Former`] for where it goes.
    #[must_use]
    pub fn swap(&self, next: Snapshot) -> Arc<Snapshot> {
        self.snapshot.swap(Arc::new(next))
    }
}

impl Snapshot {
    fn find(&self, key: &DestinationKey) -> Option<Arc<Route>> {
        match key {
            DestinationKey::Service(name) => self.services.get(name).cloned(),
            DestinationKey::Address(to) => self.addresses.find(*to).cloned(),
            DestinationKey::Application(of) => {
                let to = self.target(*of)?;
                Some(self.application(Application { address: to, leg: Leg::inbound(of.client, to.ip()) }))
            }
        }
    }

    pub fn fixed(&self, key: DestinationKey) -> Option<Fixed> {
        Some(Fixed { route: self.find(&key)?, generation: self.generation, key })
    }

    /// Where the application is for such a connection; `None`: nobody says, or it would be the sidecar itself.
    pub fn target(&self, of: Arrival) -> Option<SocketAddr> {
        let of = Arrival { original: of.original.filter(|to| !self.own.contains(*to)), ..of };
        // What was elsewhere may be the sidecar on loopback.
        self.inbound.as_ref()?.target(of).filter(|to| !self.own.contains(*to))
    }

    /// Whether an inbound connection may go on under the rules of now.
    ///
    /// # Errors
    /// Why not.
    pub fn admits(&self, of: Arrival, peer: Option<&Admitted<'_>>) -> Result<(), Error> {
        let Some(side) = &self.inbound else { return Ok(()) }; // its requests find that the side has gone
        side.admits(self.target(of), peer)
    }

    /// Who looks at the certificate of such a connection's peer; `None`: nobody does.
    pub fn judge(&self, of: Arrival) -> Option<&Server> {
        let side = self.inbound.as_ref().filter(|side| side.mtls(self.target(of)) != Mtls::Off)?;
        side.tls.as_deref()
    }

    fn application(&self, of: Application) -> Arc<Route> {
        let app = self.inbound.as_ref().and_then(|inbound| inbound.policy.app);
        let usual = self.application.as_ref().filter(|_| app.map(Application::at) == Some(of));
        usual.cloned().unwrap_or_else(|| self.applications.route(of))
    }

    /// Every cluster that somebody configured.
    pub fn clusters(&self) -> impl Iterator<Item = &Arc<Cluster>> {
        self.services.values().map(|route| &route.cluster)
    }
}

impl Route {
    /// The cluster's own policy.
    pub fn to(cluster: Arc<Cluster>) -> Arc<Self> {
        Arc::new(Self::with(cluster, Rules::default()))
    }

    fn with(cluster: Arc<Cluster>, rules: Rules) -> Self {
        Self {
            name: Symbol::EMPTY,
            timeouts: cluster.timeouts.clone(),
            retry: cluster.retry.clone(),
            budget: cluster.budget.clone(),
            cluster,
            rules,
            is_only_rules: false,
        }
    }
}

/// Hosts to routes: with the port first, then without, then wildcards, the longest first.
#[derive(Default)]
pub struct HostTable {
    exact: HashMap<Box<str>, Ports>,
    /// Keyed by what stands behind `*.`.
    wildcard: HashMap<Box<str>, Ports>,
}

#[derive(Default)]
struct Ports {
    any: Option<Arc<Route>>,
    single: Vec<(u16, Arc<Route>)>,
}

impl Ports {
    fn get(&self, port: Option<u16>) -> Option<&Arc<Route>> {
        let single = port.and_then(|port| self.single.iter().find(|(single, _)| *single == port));
        single.map(|(_, route)| route).or(self.any.as_ref())
    }
}

impl HostTable {
    /// The first claim to a host stands: the configuration has refused a second one.
    pub fn add(&mut self, pattern: &HostPattern, route: &Arc<Route>) {
        let table = if pattern.wildcard { &mut self.wildcard } else { &mut self.exact };
        let ports = table.entry(pattern.name.as_str().into()).or_default();
        match pattern.port {
            None => drop(ports.any.get_or_insert_with(|| route.clone())),
            Some(port) => ports.single.push((port, route.clone())),
        }
    }

    /// `host` as a request names it: any case, a trailing dot, perhaps a port.
    pub fn find(&self, host: &str) -> Option<&Arc<Route>> {
        let (name, port) = split_port(host);
        self.find_at(name, port)
    }

    /// A name without a port, such as a TLS server name, and the port it was asked for on.
    pub fn find_at(&self, name: &str, port: Option<u16>) -> Option<&Arc<Route>> {
        let name = name.strip_suffix('.').unwrap_or(name);
        if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return self.find_lower(&name.to_ascii_lowercase(), port);
        }
        self.find_lower(name, port)
    }

    fn find_lower(&self, name: &str, port: Option<u16>) -> Option<&Arc<Route>> {
        let exact = self.exact.get(name).and_then(|ports| ports.get(port));
        exact.or_else(|| self.find_wildcard(name, port))
    }

    fn find_wildcard(&self, name: &str, port: Option<u16>) -> Option<&Arc<Route>> {
        if self.wildcard.is_empty() {
            return None;
        }
        name.match_indices('.')
            .filter_map(|(dot, _)| name.get(dot + 1..))
            .find_map(|parent| self.wildcard.get(parent)?.get(port))
    }
}

/// `name:port`, `name`, `[::1]:port`, `[::1]`.
pub fn split_port(host: &str) -> (&str, Option<u16>) {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => match port.parse() {
            Ok(port) => (name, Some(port)),
            Err(_) => (host, None),
        },
        _ => (host, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_split_from_names_and_addresses() {
        let table = [
            ("orders", ("orders", None)),
            ("orders:80", ("orders", Some(80))),
            ("[::1]", ("[::1]", None)),
            ("[::1]:80", ("[::1]", Some(80))),
            ("orders:", ("orders:", None)),
            ("orders:99999", ("orders:99999", None)),
        ];
        for (host, parts) in table {
            assert_eq!(split_port(host), parts, "{host}");
        }
    }
}
