//! Addresses whose meaning depends on the link or the cloud: the sidecar refuses to dial them for a client.
//!
//! Cloud metadata services have such addresses and give credentials to every client that connects from the right host.
//! The sidecar runs on that host, so a client that can choose an address must not reach them through the sidecar,
//! whichever form of the address it uses. Pure: a table of networks, and of the ways in which IPv6 carries an IPv4
//! address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A network and the length of its prefix in bits.
const V4: [(Ipv4Addr, u32); 4] = [
    (Ipv4Addr::new(169, 254, 0, 0), 16), // link-local (RFC 3927), where most clouds have theirs
    (Ipv4Addr::new(168, 63, 129, 16), 32), // Azure's WireServer
    (Ipv4Addr::new(100, 100, 100, 200), 32), // Alibaba Cloud
    (Ipv4Addr::new(192, 0, 0, 192), 32), // Oracle Cloud, formerly
];

const V6: [(Ipv6Addr, u32); 4] = [
    (Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10), // link-local (RFC 4291)
    (Ipv6Addr::new(0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0), 64), // Amazon: metadata ::254, pod identity ::23, DNS ::253
    (Ipv6Addr::new(0xfd20, 0x00ce, 0, 0, 0, 0, 0, 0x254), 128), // Google Cloud
    (Ipv6Addr::new(0xfd00, 0x0042, 0, 0, 0, 0, 0, 0x42), 128), // Scaleway
];

/// The ways in which IPv6 carries an IPv4 address: the prefix, its length in bits, and the places of the IPv4 address.
const CARRIERS: [(Ipv6Addr, u32, &[Embedding]); 7] = [
    (Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0), 96, &[Embedding::After(96)]), // mapped (RFC 4291)
    (Ipv6Addr::UNSPECIFIED, 96, &[Embedding::After(96)]), // compatible, deprecated (RFC 4291)
    (Ipv6Addr::new(0, 0, 0, 0, 0xffff, 0, 0, 0), 96, &[Embedding::After(96)]), // translated (RFC 2765)
    (Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0), 96, &[Embedding::After(96)]), // NAT64 (RFC 6052)
    // local NAT64 prefixes (RFC 8215), with every prefix length that RFC 6052 allows
    (
        Ipv6Addr::new(0x64, 0xff9b, 1, 0, 0, 0, 0, 0),
        48,
        &[Embedding::Around(48), Embedding::Around(56), Embedding::Around(64), Embedding::After(96)],
    ),
    (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16, &[Embedding::After(16)]), // 6to4 (RFC 3056)
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 32, &[Embedding::After(32), Embedding::Inverted]), // Teredo (RFC 4380)
];

#[derive(Clone, Copy)]
enum Embedding {
    /// The IPv4 address stands after this number of bits.
    After(u32),
    /// The IPv4 address stands after this number of bits, and continues behind bits 64 to 71, which are not part of it
    /// (RFC 6052, 2.2).
    Around(u32),
    /// The IPv4 address is the last 32 bits, each of them inverted.
    Inverted,
}

/// Whether `ip` is a special address, or carries one.
pub fn is_special(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => is_special_v4(ip),
        IpAddr::V6(ip) => {
            V6.iter().any(|(network, prefix)| is_below_v6(ip, *network, *prefix))
                || carried(ip).any(is_special_v4)
        }
    }
}

fn is_special_v4(ip: Ipv4Addr) -> bool {
    V4.iter().any(|(network, prefix)| (ip.to_bits() ^ network.to_bits()) >> (Ipv4Addr::BITS - prefix) == 0)
}

fn is_below_v6(ip: Ipv6Addr, network: Ipv6Addr, prefix: u32) -> bool {
    (ip.to_bits() ^ network.to_bits()) >> (Ipv6Addr::BITS - prefix) == 0
}

/// Every IPv4 address that `ip` may stand for.
fn carried(ip: Ipv6Addr) -> impl Iterator<Item = Ipv4Addr> {
    let below = CARRIERS.iter().filter(move |(network, prefix, _)| is_below_v6(ip, *network, *prefix));
    let places = below.flat_map(|(_, _, places)| places.iter());
    places.map(move |place| place.of(ip)).chain(isatap(ip))
}

impl Embedding {
    #[allow(clippy::cast_possible_truncation)] // the low 32 bits are what is wanted
    const fn of(self, ip: Ipv6Addr) -> Ipv4Addr {
        let bits = ip.to_bits();
        let address = match self {
            Self::After(before) => (bits >> (96 - before)) as u32,
            Self::Around(before) => {
                const LOW: u128 = (1 << 56) - 1;
                let without_gap = (bits >> 64 << 56) | (bits & LOW);
                (without_gap >> (88 - before)) as u32
            }
            Self::Inverted => !(bits as u32),
        };
        Ipv4Addr::from_bits(address)
    }
}

/// The IPv4 address in an ISATAP interface identifier, which may follow any prefix (RFC 5214).
fn isatap(ip: Ipv6Addr) -> Option<Ipv4Addr> {
    let [.., high, low, _, _] = ip.segments();
    (matches!(high, 0 | 0x200) && low == 0x5efe).then(|| Embedding::After(96).of(ip))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a12_addresses_of_metadata_services_are_special_in_every_form() {
        for special in [
            "169.254.169.254",
            "169.254.170.2",
            "168.63.129.16",
            "100.100.100.200",
            "192.0.0.192",
            "fe80::1",
            "febf::1",
            "fd00:ec2::254",
            "fd00:ec2::23",
            "fd20:ce::254",
            "fd00:42::42",
            "::ffff:169.254.169.254",
            "::169.254.169.254",
            "::ffff:0:169.254.169.254",
            "64:ff9b::169.254.169.254",
            "64:ff9b::a83f:8110",            // 168.63.129.16
            "64:ff9b:1::169.254.169.254",    // below a prefix of 96 bits
            "64:ff9b:1:a9fe:a9:fe00::",      // of 48
            "64:ff9b:1:aba9:fe:a9fe::",      // of 56
            "64:ff9b:1:abcd:a9:fea9:fe00:0", // of 64
            "2002:a9fe:a9fe::1",
            "2002:6464:64c8::",   // 100.100.100.200
            "2001:0:a9fe:a9fe::", // Teredo's server
            "2001::5601:5601",    // Teredo's client
            "2001:db8::5efe:169.254.169.254",
            "2001:db8::200:5efe:169.254.169.254",
        ] {
            assert!(is_special(special.parse().unwrap()), "{special}");
        }
    }

    #[test]
    fn a12_addresses_next_to_special_ones_are_ordinary() {
        for ordinary in [
            "169.253.255.255",
            "169.255.0.0",
            "168.63.129.17",
            "100.100.100.201",
            "10.0.0.1",
            "127.0.0.1",
            "::1",
            "fec0::1",
            "fd00:ec3::254",
            "fd00:ec2:0:1::254",
            "fd20:ce::253",
            "::ffff:10.0.0.1",
            "64:ff9b::10.0.0.1",
            "64:ff9b:1::10.0.0.1",
            "64:ff9b:2::169.254.169.254",
            "2002:a00:1::1",
            "2001:db8::169.254.169.254",
            "2001:db8::5efe:10.0.0.1",
        ] {
            assert!(!is_special(ordinary.parse().unwrap()), "{ordinary}");
        }
    }
}
