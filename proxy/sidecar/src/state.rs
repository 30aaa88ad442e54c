//! The compiled configuration: which host or address means which route. A [`Snapshot`] is immutable, is swapped as a
//! whole, and is read without locks.
//!
//! What changes with the traffic (pools, budgets, counters) belongs to the clusters to which a snapshot points.
//! Clusters are kept by name over reloads. [`Destinations`] has the routes to addresses that only connections name.

pub mod actions;
pub mod authorization;
pub mod authorizer;
pub mod observed;
pub mod tokens;
mod addresses;
mod compile;
mod destinations;
mod former;
mod names;
mod rules;
mod virtual_addresses;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use pillion_model::cluster::HostPattern;
use pillion_model::listener::{self, DownstreamLimits, Mtls, RedirectTo, Unknown};
use pillion_model::policy::{Retry, Timeouts};
use pillion_model::{Config, Direction, Reason};

use actions::{Actions, PeersRateLimit};
pub use addresses::AddressTable;
use authorization::Authorization;
pub use compile::{Budgets, Clusters, MirrorLimits, RateLimits, Sides, compile};
pub use destinations::Destinations;
pub use former::Former;
pub use names::{DnsNames, ServiceAddresses};
use observed::Observation;
use pillion_base::error::Error;
use pillion_base::net::Leg;
use pillion_base::net::own::OwnListeners;
use pillion_telemetry::{Histogram, Metrics, Symbol};
use pillion_tls::Peer;
use pillion_tls::outside::{OutsideClient, OutsideServer};
use pillion_tls::server::Server;
use pillion_upstream::cluster::Cluster;
use pillion_upstream::cluster::budget::Budget;
use pillion_upstream::cluster::pools::Pools;
pub use rules::{Misfit, Rule, RuleTable, Split, Then};
pub use virtual_addresses::VirtualAddresses;

/// The state that the data path reads.
pub struct Store {
    snapshot: ArcSwap<Snapshot>,
    /// Outbound destinations that no service matches.
    pub unknown: Destinations<SocketAddr>,
    pub pools: Arc<Pools>,
    pub observation: Observation,
    pub redirected: Redirected,
    /// That of the snapshot. A read of it is cheaper than [`Self::load`].
    generation: AtomicU64,
}

/// Whether a redirected connection has ever come, on each side: where the rules of the kernel cannot be read, this says
/// whether they are there.
#[derive(Debug, Default)]
pub struct Redirected([AtomicBool; 2]);

impl Redirected {
    pub fn note(&self, direction: Direction) {
        let seen = self.of(direction);
        if !seen.load(Relaxed) {
            seen.store(true, Relaxed);
        }
    }

    pub fn has_seen(&self, direction: Direction) -> bool {
        self.of(direction).load(Relaxed)
    }

    const fn of(&self, direction: Direction) -> &AtomicBool {
        let [inbound, outbound] = &self.0;
        match direction {
            Direction::Inbound => inbound,
            Direction::Outbound => outbound,
        }
    }
}

pub struct Snapshot {
    /// Counts the swaps, from 1.
    pub generation: u64,
    /// What it was compiled from. Rules and routes are known by their numbers in it.
    pub config: Arc<Config>,
    pub hosts: HostTable,
    pub addresses: AddressTable,
    /// The DNS proxy's answers for the names of services.
    pub names: Arc<DnsNames>,
    /// The services' own routes, by name: a service's own port uses its route.
    pub services: Services,
    /// What happens to a destination that is neither in `hosts` nor in `addresses`.
    pub policy: Unknown,
    pub own: OwnListeners,
    /// `None`: `inbound: off`.
    pub inbound: Option<Arc<InboundSide>>,
    /// The route to the application; `None` without `inbound.app`.
    pub application: Option<Arc<Route>>,
    /// Addresses of the application that were original destinations, or that have listeners of their own.
    pub applications: Arc<Destinations<Application>>,
    pub limits: DownstreamLimits,
    /// The names of all routes, those of mirrors included.
    pub route_names: Arc<HashSet<Symbol>>,
    /// The retry budgets of routes, kept for the next snapshot.
    pub budgets: Budgets,
    /// The rate limits of routes, kept for the next snapshot.
    pub rate_limits: RateLimits,
    /// The limits of mirrors, kept for the next snapshot.
    pub mirrors: MirrorLimits,
}

/// Services' own routes, by name.
pub type Services = HashMap<Arc<str>, Arc<Route>>;

/// Rules in the order in which they are tried. Many routes share one table.
pub type Rules = Arc<RuleTable>;

/// The TLS servers for clients outside the mesh, by the application's port whose own listeners they serve.
pub type Outside = BTreeMap<u16, Arc<OutsideServer>>;

/// The policy and TLS server by which inbound connections are admitted and served.
pub struct InboundSide {
    pub policy: listener::Inbound,
    /// `None`: the sidecar has no identity, or not yet.
    pub tls: Option<Arc<Server>>,
    /// The TLS servers for clients outside the mesh.
    pub outside: Outside,
    /// `By=` of `x-forwarded-client-cert`.
    pub own_id: Option<Arc<str>>,
    /// `identity.max_connection_age`
    pub max_connection_age: Option<Duration>,
    /// Kept over a reload that does not change its settings.
    pub rate_limit: Option<Arc<PeersRateLimit>>,
    /// Kept over a reload that does not change it.
    pub authorization: Option<Arc<Authorization>>,
}

impl InboundSide {
    /// The mTLS mode for connections to this address of the application.
    pub fn mtls(&self, to: Option<SocketAddr>) -> Mtls {
        let single = to.and_then(|to| self.policy.ports.get(&to.port()));
        single.and_then(|port| port.mtls).unwrap_or(self.policy.mtls)
    }

    /// The TLS server for a connection that arrived in this way, if it is from a client outside the mesh.
    pub fn outside(&self, of: Arrival) -> Option<&Arc<OutsideServer>> {
        self.outside.get(&of.port.filter(|_| of.original.is_none())?)
    }

    /// Checks that a connection of a client outside the mesh may go on by these rules.
    ///
    /// # Errors
    /// `mtls_required`, with the reason in words.
    fn admits_outside(
        &self,
        to: Option<SocketAddr>,
        of: Arrival,
        client: &OutsideClient,
    ) -> Result<(), Error> {
        match self.outside(of) {
            Some(server) => server.admits_still(client).map_err(|why| {
                Error::new(Reason::MtlsRequired, format!("the client is not admitted any more: {why}"))
            }),
            None => self.admits(to, None), // the port has lost its TLS: the client is one without an identity
        }
    }

    /// The application's address for a connection that arrived in this way.
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

    /// Checks that a connection to `to` may go on by these rules, which may be newer than those that admitted it.
    ///
    /// # Errors
    /// `mtls_required` or `draining`, with the reason in words.
    fn admits(&self, to: Option<SocketAddr>, peer: Option<&Admitted<'_>>) -> Result<(), Error> {
        let required = |detail: &'static str| Err(Error::new(Reason::MtlsRequired, detail));
        match (self.mtls(to), peer, &self.tls) {
            (Mtls::Strict, None, _) => {
                required("inbound.mtls became strict after the connection came: connect again with TLS")
            }
            (Mtls::Off, ..) | (Mtls::Permissive, None, _) => Ok(()),
            (_, Some(_), None) => {
                required("mTLS is configured for this port, and the sidecar has no certificates")
            }
            (_, Some(admitted), Some(server)) if admitted.by == server.serial => Ok(()),
            (_, Some(admitted), Some(server)) => server.admits_still(admitted.peer).map_err(|why| {
                // `draining` makes the client's sidecar send the request again on a new connection, with its current
                // certificate. So no request is lost when an authority is replaced, and a revoked client gets the
                // reason from the new handshake.
                let detail =
                    format!("the certificate that opened this connection is not accepted any more: {why}");
                Error::new(Reason::Draining, detail)
            }),
        }
    }
}

/// A peer with a verified identity.
pub struct Admitted<'a> {
    pub peer: &'a Peer,
    /// [`Server::serial`] of the TLS server that verified it.
    pub by: u64,
}

/// Where a request goes and under which policy. A request carries it as one pointer.
pub struct Route {
    /// Empty for a service's own route: no entry of `routes` applies.
    pub name: Symbol,
    pub cluster: Arc<Cluster>,
    pub timeouts: Arc<Timeouts>,
    pub retry: Option<Arc<Retry>>,
    /// The budget of `retry`; `None` without `retry`.
    pub budget: Option<Arc<Budget>>,
    /// Rules that send some requests to other routes. The first rule that matches wins.
    pub rules: Rules,
    /// The host belongs to no service, so a request that matches no rule gets `no_route`.
    pub is_only_rules: bool,
    /// What the route does with its requests besides sending them to the cluster. Most routes do nothing.
    pub actions: Option<Arc<Actions>>,
    /// The histogram of its requests, from the first one on.
    duration: OnceLock<Histogram>,
}

/// The key by which a connection's destination was found, to find it again after a reload.
#[derive(Debug, Clone)]
pub enum DestinationKey {
    /// The name of a service.
    Service(Arc<str>),
    /// An original destination.
    Address(SocketAddr),
    Application(Arrival),
}

/// The data of an inbound connection that tell the application's address.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Arrival {
    /// The original destination; `None`: the connection came to the listener's own address.
    pub original: Option<SocketAddr>,
    /// The application's port, if the connection came to a listener for that port alone.
    pub port: Option<u16>,
    /// The client's address, if the connection came by TPROXY: the application sees it as its peer.
    pub client: Option<IpAddr>,
}

/// The application as a destination: its address, and the source address that it sees.
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

/// The route of a whole connection: as it was when the connection came, with the key that finds its current version.
#[derive(Clone)]
pub struct Fixed {
    pub route: Arc<Route>,
    generation: u64,
    pub key: DestinationKey,
}

impl Fixed {
    /// The current route for its requests; `None`: a reload removed it.
    pub fn now(&self, snapshot: &Snapshot) -> Option<Arc<Route>> {
        match snapshot.generation == self.generation {
            true => Some(self.route.clone()),
            false => snapshot.find(&self.key),
        }
    }
}

impl Store {
    pub fn new(snapshot: Snapshot, unknown: Destinations<SocketAddr>, pools: Arc<Pools>) -> Self {
        let (observation, redirected) = (Observation::default(), Redirected::default());
        let generation = snapshot.generation.into();
        Self {
            snapshot: ArcSwap::from_pointee(snapshot),
            unknown,
            pools,
            observation,
            redirected,
            generation,
        }
    }

    pub fn load(&self) -> Guard<Arc<Snapshot>> {
        self.snapshot.load()
    }

    /// Like [`Self::load`], for work that holds the snapshot longer than a request does.
    pub fn load_full(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// Returns the replaced snapshot, which [`Former`] keeps until it is not read any more.
    #[must_use]
    pub fn swap(&self, next: Snapshot) -> Arc<Snapshot> {
        let generation = next.generation;
        let replaced = self.snapshot.swap(Arc::new(next));
        self.generation.store(generation, Relaxed);
        replaced
    }

    /// The generation of the snapshot; during a swap it may be that of the replaced one.
    pub fn generation(&self) -> u64 {
        self.generation.load(Relaxed)
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

    /// The application's address for such a connection; `None`: it is not known, or it would be the sidecar itself.
    pub fn target(&self, of: Arrival) -> Option<SocketAddr> {
        let of = Arrival { original: of.original.filter(|to| !self.own.contains(*to)), ..of };
        // `redirect_to: loopback` may turn an address of the application into one of the sidecar's own.
        self.inbound.as_ref()?.target(of).filter(|to| !self.own.contains(*to))
    }

    /// The application's port for connections with this destination; 0, which no rule names, if it is not known.
    pub fn application_port(&self, of: &DestinationKey) -> u16 {
        match of {
            DestinationKey::Application(of) => self.target(*of).map_or(0, |to| to.port()),
            DestinationKey::Service(_) | DestinationKey::Address(_) => 0,
        }
    }

    /// Checks that an inbound connection may go on under the rules of this snapshot.
    ///
    /// # Errors
    /// `mtls_required` or `draining`, with the reason in words.
    pub fn admits(&self, of: Arrival, peer: Option<&Admitted<'_>>) -> Result<(), Error> {
        let Some(side) = &self.inbound else { return Ok(()) }; // its requests are refused later, since the side is gone
        if peer.is_none() && side.outside(of).is_some() {
            const WHY: &str = "TLS became required at this listener after the connection came";
            return Err(Error::new(Reason::MtlsRequired, WHY));
        }
        side.admits(self.target(of), peer)
    }

    /// The same for a connection of a client outside the mesh.
    ///
    /// # Errors
    /// `mtls_required`, with the reason in words.
    pub fn admits_outside(&self, of: Arrival, client: &OutsideClient) -> Result<(), Error> {
        let Some(side) = &self.inbound else { return Ok(()) };
        side.admits_outside(self.target(of), of, client)
    }

    /// Whether the certificate of a client outside the mesh is verified by the current rules.
    pub fn verifies_outside(&self, of: Arrival) -> bool {
        let server = self.inbound.as_ref().and_then(|side| side.outside(of));
        server.is_some_and(|server| server.verifies_clients())
    }

    /// The TLS server that verifies the peers of such a connection; `None`: mTLS is off, or there are no certificates.
    pub fn judge(&self, of: Arrival) -> Option<&Server> {
        let side = self.inbound.as_ref().filter(|side| side.mtls(self.target(of)) != Mtls::Off)?;
        side.tls.as_deref()
    }

    fn application(&self, of: Application) -> Arc<Route> {
        let app = self.inbound.as_ref().and_then(|inbound| inbound.policy.app);
        let usual = self.application.as_ref().filter(|_| app.map(Application::at) == Some(of));
        usual.cloned().unwrap_or_else(|| self.applications.route(of))
    }

    /// The clusters of all configured services.
    pub fn clusters(&self) -> impl Iterator<Item = &Arc<Cluster>> {
        self.services.values().map(|route| &route.cluster)
    }
}

impl Route {
    /// A route with the cluster's own policy and no rules.
    pub fn to(cluster: Arc<Cluster>) -> Arc<Self> {
        Arc::new(Self::with(cluster, Rules::default()))
    }

    /// The route of a request that the sidecar answers itself: it has the cluster of its host, which gets no request.
    pub fn answered(&self, name: Symbol, actions: Arc<Actions>) -> Arc<Self> {
        let route = Self::with(self.cluster.clone(), Rules::default());
        Arc::new(Self { name, actions: Some(actions), ..route })
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
            actions: None,
            duration: OnceLock::new(),
        }
    }

    /// Records how long a request took that an entry of `routes` matched.
    pub fn observe(&self, took: f64, metrics: &Metrics) {
        if self.name != Symbol::EMPTY {
            let histogram = || metrics.route_duration(self.cluster.symbol, self.name);
            self.duration.get_or_init(histogram).observe(took);
        }
    }
}

/// Maps hosts to routes. An exact name goes before a wildcard, a longer wildcard before a shorter one; for each name,
/// an entry with the port goes before one without.
#[derive(Default)]
pub struct HostTable {
    exact: HashMap<Box<str>, Ports>,
    /// Keyed by the name after `*.`.
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
    /// Adds a host. The first route of a host is kept; validation has already refused a second one.
    pub fn add(&mut self, pattern: &HostPattern, route: &Arc<Route>) {
        let table = if pattern.wildcard { &mut self.wildcard } else { &mut self.exact };
        let ports = table.entry(pattern.name.as_str().into()).or_default();
        match pattern.port {
            None => drop(ports.any.get_or_insert_with(|| route.clone())),
            Some(port) => ports.single.push((port, route.clone())),
        }
    }

    /// Finds `host` as a request spells it: in any case, perhaps with a trailing dot and a port.
    pub fn find(&self, host: &str) -> Option<&Arc<Route>> {
        let (name, port) = split_port(host);
        self.find_at(name, port)
    }

    /// Finds a name without a port, such as a TLS server name. `port`: the port to which the client connected.
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

/// Splits `name:port`, `name`, `[::1]:port` or `[::1]` into name and port. A port may be empty (RFC 3986, 3.2.3).
pub fn split_port(host: &str) -> (&str, Option<u16>) {
    match host.rsplit_once(':') {
        Some((name, "")) => (name, None),
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
            ("orders:", ("orders", None)),
            ("orders.:", ("orders.", None)),
            ("[::1]:", ("[::1]", None)),
            ("orders:99999", ("orders:99999", None)),
        ];
        for (host, parts) in table {
            assert_eq!(split_port(host), parts, "{host}");
        }
    }
}
