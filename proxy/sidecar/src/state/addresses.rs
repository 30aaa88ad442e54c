//! Maps original destinations to routes. A pattern with the port goes before one without, then the longer prefix wins.
//! A virtual address means its service on any port, because clients got it from DNS for that service's name.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use pillion_model::cluster::AddressPattern;

use super::Route;
use pillion_base::net::own::is_virtual;

#[derive(Default)]
pub struct AddressTable {
    /// Single addresses, with and without a port.
    exact: HashMap<(IpAddr, Option<u16>), Arc<Route>>,
    /// Networks, in the order in which they are searched.
    networks: Vec<(AddressPattern, Arc<Route>)>,
}

impl AddressTable {
    /// Adds an address or a network. The first route of an address is kept; validation has already refused a second
    /// one.
    pub fn add(&mut self, pattern: AddressPattern, route: &Arc<Route>) {
        let bits = if pattern.network.is_ipv4() { 32 } else { 128 };
        if pattern.prefix == bits {
            self.exact.entry((pattern.network, pattern.port)).or_insert_with(|| route.clone());
            return;
        }
        self.networks.push((pattern, route.clone()));
    }

    /// Must be called after the last [`Self::add`] and before the first [`Self::find`].
    pub fn sort(&mut self) {
        self.networks.sort_by_key(|(of, _)| (of.port.is_none(), u8::MAX - of.prefix));
    }

    pub fn find(&self, to: SocketAddr) -> Option<&Arc<Route>> {
        let (ip, port) = (to.ip().to_canonical(), Some(to.port()));
        let single = |port| self.exact.get(&(ip, port));
        single(port)
            .or_else(|| single(None).filter(|_| is_virtual(ip)))
            .or_else(|| self.network(ip, port))
            .or_else(|| single(None))
            .or_else(|| self.network(ip, None))
    }

    /// Searches the networks with this port, or those without a port where `port` is `None`.
    fn network(&self, ip: IpAddr, port: Option<u16>) -> Option<&Arc<Route>> {
        let fits = |pattern: &AddressPattern| pattern.port == port && pattern.contains(ip);
        self.networks.iter().find(|(pattern, _)| fits(pattern)).map(|(_, route)| route)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pillion_telemetry::Metrics;
    use pillion_upstream::cluster::{Cluster, ClusterContext};

    fn pattern(network: &str, prefix: u8, port: Option<u16>) -> AddressPattern {
        AddressPattern { network: network.parse().unwrap(), prefix, port }
    }

    #[test]
    fn a_port_goes_before_none_and_the_longer_prefix_before_the_shorter() {
        let patterns = [
            pattern("0.0.0.0", 0, None),
            pattern("10.0.0.0", 8, None),
            pattern("10.96.0.0", 16, None),
            pattern("10.96.0.10", 32, None),
            pattern("10.0.0.0", 8, Some(443)),
            pattern("10.96.0.10", 32, Some(80)),
            pattern("fd00::", 64, None),
            pattern("fd00::1", 128, Some(80)),
            pattern("240.240.0.7", 32, None),
            pattern("240.240.0.7", 32, Some(8080)),
            pattern("0.0.0.0", 0, Some(443)),
        ];
        let common = ClusterContext::new(&Metrics::new(100), 1);
        let mut table = AddressTable::default();
        let routes: Vec<_> = patterns
            .iter()
            .map(|pattern| {
                let route = Route::to(Cluster::passthrough((pattern.network, 1).into(), &common));
                table.add(*pattern, &route);
                route
            })
            .collect();
        table.sort();
        for (address, expected) in [
            ("10.96.0.10:80", Some(5)),
            ("10.96.0.10:443", Some(4)),
            ("10.96.0.10:81", Some(3)),
            ("10.96.7.1:81", Some(2)),
            ("10.1.1.1:443", Some(4)),
            ("10.1.1.1:80", Some(1)),
            ("192.0.2.1:80", Some(0)),
            ("[::ffff:10.96.0.10]:80", Some(5)),
            ("[fd00::1]:80", Some(7)),
            ("[fd00::1]:81", Some(6)),
            ("[fd01::1]:81", None),
            ("192.0.2.1:443", Some(10)),
            ("240.240.0.7:443", Some(8)),
            ("240.240.0.7:8080", Some(9)),
            ("240.240.0.8:443", Some(10)),
        ] {
            let found = table.find(address.parse().unwrap());
            let which = found.and_then(|found| routes.iter().position(|route| Arc::ptr_eq(route, found)));
            assert_eq!(which, expected, "{address}");
        }
    }
}
