//! Virtual addresses: one IPv4 and one IPv6 address for every service. They are derived from the service's name, so
//! that all sidecars and all starts give the same ones. They are kept as long as the process lives. Pure.
//!
//! No host has such an address: it stands for a service between the application's DNS query and its connection.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use pillion_init::{VIRTUAL_V4, VIRTUAL_V6};

/// 65,534: all addresses of 240.240.0.0/16 except .0.0 and .255.255, which look like network and broadcast addresses.
const V4_HOSTS: u16 = u16::MAX - 1;

/// The two addresses of one service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Virtual {
    pub v4: Ipv4Addr,
    pub v6: Ipv6Addr,
}

/// The addresses that were given, by the service's name.
#[derive(Debug, Default)]
pub struct VirtualAddresses {
    /// Includes services that were removed: an application may still have a former DNS answer.
    given: HashMap<String, Virtual>,
    taken: HashSet<IpAddr>,
}

impl VirtualAddresses {
    pub fn of(&self, name: &str) -> Option<Virtual> {
        self.given.get(name).copied()
    }

    /// Gives addresses to each of these services that has none, in the order of their names. Addresses of removed
    /// services are given to others only when no other is free. `elsewhere`: addresses that the configuration uses
    /// otherwise; a service that has one of them gets new addresses.
    ///
    /// Returns the number of services for which no address is left: there are 65,534.
    pub fn give<'a>(
        &mut self,
        names: impl IntoIterator<Item = &'a str>,
        elsewhere: &HashSet<IpAddr>,
    ) -> usize {
        let names: BTreeSet<&str> = names.into_iter().collect();
        let (mut without, mut forgot) = (0, false);
        self.keep(|_, of| !elsewhere.contains(&of.v4.into()) && !elsewhere.contains(&of.v6.into()));
        for name in &names {
            if self.given.contains_key(*name) || self.give_one(name, elsewhere) {
                continue;
            }
            if !std::mem::replace(&mut forgot, true) {
                self.keep(|name, _| names.contains(name));
            }
            without += usize::from(!self.give_one(name, elsewhere));
        }
        without
    }

    fn give_one(&mut self, name: &str, elsewhere: &HashSet<IpAddr>) -> bool {
        if self.given.len() >= usize::from(V4_HOSTS) {
            return false;
        }
        let hash = fnv1a(name);
        let is_free = |ip: &IpAddr| !self.taken.contains(ip) && !elsewhere.contains(ip);
        let v4 = hosts_v4(hash).find(|ip| is_free(&IpAddr::V4(*ip)));
        let v6 = hosts_v6(hash).find(|ip| is_free(&IpAddr::V6(*ip)));
        let (Some(v4), Some(v6)) = (v4, v6) else { return false };
        self.taken.extend([IpAddr::V4(v4), IpAddr::V6(v6)]);
        self.given.insert(name.to_owned(), Virtual { v4, v6 });
        true
    }

    fn keep(&mut self, is_kept: impl Fn(&str, &Virtual) -> bool) {
        self.given.retain(|name, of| is_kept(name, of));
        self.taken = self.given.values().flat_map(|of| [IpAddr::V4(of.v4), IpAddr::V6(of.v6)]).collect();
    }
}

/// All IPv4 addresses in turn, beginning with the one that the hash selects.
fn hosts_v4(hash: u64) -> impl Iterator<Item = Ipv4Addr> {
    let folded = (hash ^ (hash >> 16) ^ (hash >> 32) ^ (hash >> 48)) as u16 % V4_HOSTS; // all bits of the hash count
    (0..V4_HOSTS).map(move |step| {
        let host = (u32::from(folded) + u32::from(step)) % u32::from(V4_HOSTS) + 1;
        Ipv4Addr::from_bits(VIRTUAL_V4.0.to_bits() | host)
    })
}

/// As many IPv6 addresses as there can be services, beginning with the one that the hash selects: all hashes may be
/// equal.
fn hosts_v6(hash: u64) -> impl Iterator<Item = Ipv6Addr> {
    let hosts = (0..=u64::from(V4_HOSTS) + 1).map(move |step| hash.wrapping_add(step));
    hosts.filter(|host| *host != 0).map(|host| Ipv6Addr::from_bits(VIRTUAL_V6.0.to_bits() | u128::from(host)))
}

/// FNV-1a with 64 bits. It must never change, since sidecars of different versions must give the same addresses.
fn fnv1a(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given<'a>(names: impl IntoIterator<Item = &'a str>) -> VirtualAddresses {
        let mut addresses = VirtualAddresses::default();
        assert_eq!(addresses.give(names, &HashSet::new()), 0);
        addresses
    }

    /// `count` names that want the same IPv4 address as `orders`.
    fn colliding(count: usize) -> Vec<String> {
        let first = hosts_v4(fnv1a("orders")).next();
        let names = (0..).map(|nth| format!("service-{nth}"));
        names.filter(|name| hosts_v4(fnv1a(name)).next() == first).take(count).collect()
    }

    #[test]
    fn the_hash_is_the_published_one() {
        for (text, hash) in
            [("", 0xcbf2_9ce4_8422_2325), ("a", 0xaf63_dc4c_8601_ec8c), ("foobar", 0x8594_4171_f739_67e8)]
        {
            assert_eq!(fnv1a(text), hash, "{text}");
        }
    }

    /// Other sidecars and later versions must give these values, too.
    #[test]
    fn a_name_always_has_the_same_addresses() {
        let all = given(["orders", "web"]);
        let addresses_of = |name| {
            let Virtual { v4, v6 } = all.of(name).unwrap();
            (v4.to_string(), v6.to_string())
        };
        assert_eq!(addresses_of("orders"), ("240.240.134.115".into(), "fd9f:240::12:5d92:50be:8b4c".into()));
        assert_eq!(addresses_of("web"), ("240.240.233.59".into(), "fd9f:240::5ea0:e119:4872:1ef1".into()));
        assert_eq!(all.of("nobody"), None);
    }

    #[test]
    fn addresses_stay_within_their_networks_and_off_their_edges() {
        for hash in [0, 1, u64::MAX, u64::MAX - 1, 0xfffd, 0xfffe, fnv1a("orders")] {
            let all: HashSet<Ipv4Addr> = hosts_v4(hash).collect();
            assert_eq!(all.len(), usize::from(V4_HOSTS), "every one once");
            assert!(all.iter().all(|ip| ip.octets()[..2] == [240, 240]));
            assert!(!all.contains(&Ipv4Addr::new(240, 240, 0, 0)));
            assert!(!all.contains(&Ipv4Addr::new(240, 240, 255, 255)));
            for ip in hosts_v6(hash).take(3) {
                assert_eq!(ip.segments()[..4], [0xfd9f, 0x240, 0, 0]);
                assert_ne!(ip.segments()[4..], [0; 4]);
            }
        }
    }

    #[test]
    fn when_names_collide_the_first_gets_the_address_and_the_others_get_the_next_ones() {
        let others = colliding(2);
        let [one, two] = [&*others[0], &*others[1]];
        let all = given([two, "orders", one]);
        let wanted = hosts_v4(fnv1a("orders"));
        let mut names = ["orders", one, two];
        names.sort_unstable();
        for (name, ip) in names.into_iter().zip(wanted) {
            assert_eq!(all.of(name).unwrap().v4, ip, "{name}");
        }
    }

    #[test]
    fn a_reload_keeps_the_addresses_of_services_and_gives_none_to_another_service() {
        let others = colliding(1);
        let mut all = given([&*others[0]]); // alone at first: it has what it wants
        let before = all.of(&others[0]).unwrap();
        all.give([&*others[0], "orders"], &HashSet::new());
        assert_eq!(all.of(&others[0]), Some(before));
        let orders = all.of("orders").unwrap();
        assert_eq!(orders.v4, hosts_v4(fnv1a("orders")).nth(1).unwrap());
        all.give(["orders"], &HashSet::new()); // the other one is gone
        all.give(["orders", &*others[0]], &HashSet::new()); // and back
        assert_eq!((all.of("orders"), all.of(&others[0])), (Some(orders), Some(before)));
    }

    #[test]
    fn an_address_that_is_used_otherwise_is_given_to_no_service() {
        let free = given(["orders"]).of("orders").unwrap();
        let mut all = VirtualAddresses::default();
        all.give(["orders"], &HashSet::from([IpAddr::V4(free.v4), IpAddr::V6(free.v6)]));
        let next = all.of("orders").unwrap();
        assert_eq!(next.v4, hosts_v4(fnv1a("orders")).nth(1).unwrap());
        assert_eq!(next.v6, hosts_v6(fnv1a("orders")).nth(1).unwrap());

        let mut all = given(["orders", "web"]);
        let web = all.of("web");
        all.give(["orders", "web"], &HashSet::from([IpAddr::V4(free.v4)]));
        assert_ne!(all.of("orders").unwrap().v4, free.v4, "a reload gave it to another service");
        assert_eq!(all.of("web"), web);
    }

    #[test]
    fn when_all_addresses_are_given_those_of_removed_services_are_given_again() {
        let most = usize::from(V4_HOSTS);
        let names: Vec<String> = (0..=most).map(|nth| format!("service-{nth}")).collect();
        let all = || names.iter().map(String::as_str);
        let mut addresses = given(all().take(most));
        assert_eq!(addresses.give(all(), &HashSet::new()), 1, "one too many");
        assert_eq!(addresses.give(all().skip(1), &HashSet::new()), 0, "the first one is gone");
        let different: HashSet<Ipv4Addr> = addresses.given.values().map(|of| of.v4).collect();
        assert_eq!(different.len(), most);
    }
}
