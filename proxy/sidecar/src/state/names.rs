//! The names of services in DNS: the answer for each name, and the service to which each virtual address leads. Pure.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use pillion_model::cluster::{AddressPattern, HostPattern};
use pillion_model::{Cluster, Config};

use super::virtual_addresses::VirtualAddresses;

/// 1000 addresses of one family in an answer: so many fit into a DNS message, and clients do not try more.
const MOST_ADDRESSES: usize = 1000;

/// The answer for a name of a service.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ServiceAddresses {
    pub v4: Vec<Ipv4Addr>,
    pub v6: Vec<Ipv6Addr>,
    pub is_virtual: bool,
}

/// A virtual address that may be a connection's original destination, with its service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    pub address: AddressPattern,
    /// The name of the service to which the address leads.
    pub service: String,
}

/// The names of all services of a configuration. Empty without a DNS proxy.
#[derive(Debug, Default)]
pub struct DnsNames {
    /// Keyed by the name in lower case, without a trailing dot.
    known: HashMap<Box<str>, Arc<ServiceAddresses>>,
    pub claims: Vec<Claim>,
}

impl DnsNames {
    /// Collects the names. Services that have no virtual address yet get one from `given`.
    pub fn of(config: &Config, given: &mut VirtualAddresses) -> Self {
        let Some(dns) = &config.dns else { return Self::default() };
        if dns.virtual_addresses {
            give(&config.clusters, given);
        }
        let mut names = Self::default();
        let owners = owners(&config.clusters);
        for of in &config.clusters {
            let known = match known(of) {
                None if dns.virtual_addresses => by_virtual_address(of, given),
                known => known,
            };
            let Some(known) = known.map(Arc::new) else { continue };
            for name in
                names_of(of).filter(|name| owners.get(name).is_some_and(|owner| owner.name == of.name))
            {
                names.known.insert(name.into(), known.clone());
            }
        }
        if dns.virtual_addresses {
            names.claims = claims(&config.clusters, &owners, given);
        }
        names
    }

    /// `name`: in lower case, without a trailing dot.
    pub fn find(&self, name: &str) -> Option<&Arc<ServiceAddresses>> {
        self.known.get(name)
    }
}

fn give(clusters: &[Cluster], given: &mut VirtualAddresses) {
    let elsewhere: HashSet<IpAddr> = clusters.iter().flat_map(single_addresses).collect();
    let without = given.give(clusters.iter().map(|of| of.name.as_str()), &elsewhere);
    if without > 0 {
        tracing::warn!(services = without, "no virtual address is left for some services");
    }
}

fn single_addresses(of: &Cluster) -> impl Iterator<Item = IpAddr> {
    of.addresses.iter().filter(|pattern| pattern.is_single()).map(|pattern| pattern.network)
}

/// The answer from the addresses that the file lists for the service; `None`: the file lists no single address.
fn known(of: &Cluster) -> Option<ServiceAddresses> {
    let mut known = ServiceAddresses::default();
    for ip in single_addresses(of) {
        match ip {
            IpAddr::V4(ip) if !known.v4.contains(&ip) && known.v4.len() < MOST_ADDRESSES => known.v4.push(ip),
            IpAddr::V6(ip) if !known.v6.contains(&ip) && known.v6.len() < MOST_ADDRESSES => known.v6.push(ip),
            IpAddr::V4(_) | IpAddr::V6(_) => {} // another port of the same address, or an address beyond the limit
        }
    }
    (!known.v4.is_empty() || !known.v6.is_empty()).then_some(known)
}

fn by_virtual_address(of: &Cluster, given: &VirtualAddresses) -> Option<ServiceAddresses> {
    let own = given.of(&of.name)?;
    Some(ServiceAddresses { v4: vec![own.v4], v6: vec![own.v6], is_virtual: true })
}

/// The service's hosts without their ports, since DNS has no ports. IP addresses are left out, because they are not
/// names.
fn names_of(of: &Cluster) -> impl Iterator<Item = &str> {
    let is_name = |host: &&HostPattern| {
        !host.wildcard && !host.name.starts_with('[') && host.name.parse::<Ipv4Addr>().is_err()
    };
    of.hosts.iter().filter(is_name).map(|host| host.name.as_str())
}

/// The service whose addresses answer each name: the one that has the name without a port, or else the first one that
/// has it.
fn owners(clusters: &[Cluster]) -> HashMap<&str, &Cluster> {
    let mut owners = HashMap::new();
    for has_port in [false, true] {
        for of in clusters {
            let hosts = of.hosts.iter().filter(|host| host.port.is_some() == has_port);
            let names: HashSet<&str> = hosts.map(|host| host.name.as_str()).collect();
            for name in names_of(of).filter(|name| names.contains(name)) {
                owners.entry(name).or_insert(of);
            }
        }
    }
    owners
}

fn ports_of(of: &Cluster) -> impl Iterator<Item = (&str, u16)> {
    let hosts = of.hosts.iter().filter(|host| !host.wildcard);
    hosts.filter_map(|host| Some((host.name.as_str(), host.port?)))
}

/// A service's virtual address leads to that service on every port, unless another service has the same name with that
/// port. Of `shop:80` and `shop:8080`, one service answers the name `shop`, and the other one gets its port of the
/// address.
fn claims(clusters: &[Cluster], owners: &HashMap<&str, &Cluster>, given: &VirtualAddresses) -> Vec<Claim> {
    let mut claims = Vec::new();
    let mut claim = |owner: &str, service: &Cluster, port: Option<u16>| {
        let Some(own) = given.of(owner) else { return };
        for (network, prefix) in [(IpAddr::V4(own.v4), 32), (IpAddr::V6(own.v6), 128)] {
            let address = AddressPattern { network, prefix, port };
            claims.push(Claim { address, service: service.name.clone() });
        }
    };
    for of in clusters {
        claim(&of.name, of, None);
        let ported: Vec<(&str, u16)> = ports_of(of).collect();
        let has: HashSet<&(&str, u16)> = ported.iter().collect();
        let mut looked = HashSet::new();
        for &(name, port) in &ported {
            let Some(owner) = owners.get(name).filter(|owner| owner.name != of.name) else { continue };
            let is_new = looked.insert((owner.name.as_str(), port));
            if is_new && names_of(owner).all(|name| has.contains(&(name, port))) {
                claim(&owner.name, of, Some(port));
            }
        }
    }
    claims
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn names(yaml: &str) -> (DnsNames, VirtualAddresses) {
        let config = pillion_config::parse(yaml, Path::new("")).expect("a good file").0;
        let mut given = VirtualAddresses::default();
        (DnsNames::of(&config, &mut given), given)
    }

    fn service(name: &str, keys: &str) -> String {
        format!("  {name}: {{ endpoints: [10.0.0.1:80]{}{keys} }}\n", if keys.is_empty() { "" } else { ", " })
    }

    fn addresses_of(names: &DnsNames, name: &str) -> Option<String> {
        let ServiceAddresses { v4, v6, is_virtual } = &**names.find(name)?;
        if *is_virtual {
            return Some("virtual".into());
        }
        let all = v4.iter().map(ToString::to_string).chain(v6.iter().map(ToString::to_string));
        Some(all.collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn a_service_is_answered_for_by_its_addresses_else_by_its_virtual_ones() {
        let services = [
            service("plain", ""),
            service("Named", "hosts: [Orders, orders.shop., \"orders.shop:8080\", \"*.orders.shop\"]"),
            service(
                "addressed",
                "addresses: [\"10.96.0.10:80\", \"10.96.0.10:443\", 10.96.0.9, \"fd00::1\"]",
            ),
            service("four", "addresses: [10.96.0.11]"),
            service("network", "addresses: [10.96.1.0/24]"),
            service("literal", "hosts: [10.0.0.9, \"[fd00::9]\"]"),
        ]
        .concat();
        for (dns, with) in [("{}", Some("virtual")), ("{ virtual_addresses: off }", None), ("off", None)] {
            let (names, _) = names(&format!("dns: {dns}\nservices:\n{services}"));
            let is_there = |answer: &'static str| (dns != "off").then_some(answer);
            for (name, expected) in [
                ("plain", with),
                ("named", None),
                ("orders", with),
                ("orders.shop", with),
                ("a.orders.shop", None),
                ("*.orders.shop", None),
                ("addressed", is_there("10.96.0.10 10.96.0.9 fd00::1")),
                ("four", is_there("10.96.0.11")),
                ("network", with),
                ("10.0.0.9", None),
                ("[fd00::9]", None),
                ("unknown", None),
            ] {
                assert_eq!(addresses_of(&names, name).as_deref(), expected, "{name} with dns: {dns}");
            }
            assert_eq!(names.claims.is_empty(), with.is_none());
        }
    }

    fn claimed(names: &DnsNames, owner: &str, given: &VirtualAddresses) -> Vec<(Option<u16>, String)> {
        let own = given.of(owner).expect("an address");
        let of_it = names.claims.iter().filter(|claim| claim.address.network == IpAddr::V4(own.v4));
        of_it.map(|claim| (claim.address.port, claim.service.clone())).collect()
    }

    #[test]
    fn the_ports_of_one_name_lead_to_their_services() {
        let yaml = [
            "dns: {}\nservices:\n".to_owned(),
            service("admin", "hosts: [\"shop:8080\"]"),
            service("shop", ""),
            service("other", "hosts: [other, third]"),
            service("half", "hosts: [\"other:9000\"]"),
        ]
        .concat();
        let (names, given) = names(&yaml);
        let own = names.find("shop").expect("a name").v4[0];
        assert_eq!(own, given.of("shop").unwrap().v4, "without a port goes before with one");
        assert_eq!(claimed(&names, "shop", &given), [(Some(8080), "admin".into()), (None, "shop".into())]);
        assert_eq!(claimed(&names, "other", &given), [(None, "other".into())], "third:9000 is other's");
    }

    #[test]
    fn a_port_of_many_names_is_one_claim() {
        let hosts = |port: u16| {
            let all: Vec<String> = (0..2000).map(|nth| format!("\"host-{nth}:{port}\"")).collect();
            format!("hosts: [{}]", all.join(", "))
        };
        let yaml =
            format!("dns: {{}}\nservices:\n{}{}", service("a", &hosts(80)), service("b", &hosts(8080)));
        let (names, given) = names(&yaml);
        assert_eq!(claimed(&names, "a", &given), [(None, "a".into()), (Some(8080), "b".into())]);
    }

    #[test]
    fn of_services_with_ports_alone_the_first_answers_to_the_name() {
        let yaml = [
            "dns: {}\nservices:\n".to_owned(),
            service("api", "hosts: [\"shop:80\"]"),
            service("admin", "hosts: [\"shop:8080\"]"),
        ]
        .concat();
        let (names, given) = names(&yaml);
        assert_eq!(names.find("shop").expect("a name").v4, [given.of("api").unwrap().v4]);
        assert_eq!(claimed(&names, "api", &given), [(None, "api".into()), (Some(8080), "admin".into())]);
    }
}
