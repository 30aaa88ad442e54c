//! The compiled picture of the world: which host or address means which route. Immutable, swapped whole.
//!
//! What lives (pools, budgets, counters) belongs to the clusters a snapshot points to. Beside it stand the
//! [`Destinations`] that connections brought with them.

mod addresses;
mod destinations;

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};
use pillion_config::cluster::HostPattern;
use pillion_config::listener::Unknown;

use crate::cluster::Cluster;
use crate::net::own::OwnListeners;
use crate::telemetry::Symbol;
pub(crate) use addresses::AddressTable;
pub(crate) use destinations::Destinations;

/// What the data path reads.
pub(crate) struct Store {
    snapshot: ArcSwap<Snapshot>,
    /// Outbound destinations that no service matches.
    pub(crate) unknown: Destinations,
    /// Addresses of the application that connections were redirected from, or that have listeners of their own.
    pub(crate) applications: Destinations,
}

pub(crate) struct Snapshot {
    pub(crate) hosts: HostTable,
    pub(crate) addresses: AddressTable,
    /// What becomes of a destination that neither knows.
    pub(crate) policy: Unknown,
    pub(crate) own: OwnListeners,
    /// The route to the application; `None` without `inbound.app`.
    pub(crate) application: Option<Arc<Route>>,
}

/// Where a request goes and under which policy; travels with it as one pointer.
pub(crate) struct Route {
    /// Empty until routes have names.
    pub(crate) name: Symbol,
    pub(crate) cluster: Arc<Cluster>,
}

impl Store {
    pub(crate) fn new(snapshot: Snapshot, unknown: Destinations, applications: Destinations) -> Self {
        Self { snapshot: ArcSwap::from_pointee(snapshot), unknown, applications }
    }

    pub(crate) fn load(&self) -> Guard<Arc<Snapshot>> {
        self.snapshot.load()
    }
}

impl Route {
    pub(crate) fn to(cluster: Arc<Cluster>) -> Arc<Self> {
        Arc::new(Self { name: Symbol::EMPTY, cluster })
    }
}

/// Hosts to routes: with the port first, then without, then wildcards, the longest first.
#[derive(Default)]
pub(crate) struct HostTable {
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
    pub(crate) fn add(&mut self, pattern: &HostPattern, route: &Arc<Route>) {
        let table = if pattern.wildcard { &mut self.wildcard } else { &mut self.exact };
        let ports = table.entry(pattern.name.as_str().into()).or_default();
        match pattern.port {
            None => drop(ports.any.get_or_insert_with(|| route.clone())),
            Some(port) => ports.single.push((port, route.clone())),
        }
    }

    /// `host` as a request names it: any case, a trailing dot, perhaps a port.
    pub(crate) fn find(&self, host: &str) -> Option<&Arc<Route>> {
        let (name, port) = split_port(host);
        self.find_at(name, port)
    }

    /// A name without a port, such as a TLS server name, and the port it was asked for on.
    pub(crate) fn find_at(&self, name: &str, port: Option<u16>) -> Option<&Arc<Route>> {
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
pub(crate) fn split_port(host: &str) -> (&str, Option<u16>) {
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
