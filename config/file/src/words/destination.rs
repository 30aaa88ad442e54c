//! Original destinations as the file spells them: `10.96.0.10:80`, `10.96.0.10`, `10.96.1.0/24`.
//!
//! A network has no port here: an operator who means single ports writes the addresses one by one.

use std::net::{IpAddr, SocketAddr};

use super::names_a_host;
use crate::value::{BadWord, Word, on_off, whole};
use pillion_model::cluster::AddressPattern;
use pillion_model::text::shortened;

impl Word for AddressPattern {
    const EXPECTED: &'static str = "an address or a network (\"10.96.0.10:80\", 10.96.0.10, 10.96.1.0/24)";

    fn parse(text: &str) -> Result<Self, BadWord> {
        match text.split_once('/') {
            Some((network, prefix)) => parse_network(text, network, prefix),
            None => parse_single(text),
        }
    }
}

/// An address with or without a port. An IPv6 address may have brackets even without a port.
fn parse_single(text: &str) -> Result<AddressPattern, BadWord> {
    if let Some(ip) = bare(text) {
        return Ok(single(ip, None));
    }
    // the standard library takes a zone (`[fe80::1%2]:80`), which no original destination has
    match text.parse::<SocketAddr>() {
        Ok(to) if to.port() == 0 => Err(BadWord::new(format!("is `{text}`, whose port is 0"))
            .help(format!("without a port it means every port: {}", to.ip()))),
        Ok(to) if !text.contains('%') => Ok(single(to.ip(), Some(to.port()))),
        _ => Err(not_a_pattern(text)),
    }
}

fn bare(text: &str) -> Option<IpAddr> {
    let inner = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    match inner {
        Some(inner) => inner.parse().ok().filter(IpAddr::is_ipv6),
        None => text.parse().ok(),
    }
}

fn single(ip: IpAddr, port: Option<u16>) -> AddressPattern {
    let network = ip.to_canonical();
    AddressPattern { network, prefix: AddressPattern::bits(network), port }
}

fn parse_network(text: &str, network: &str, prefix: &str) -> Result<AddressPattern, BadWord> {
    let (Ok(ip), Some(prefix)) = (network.parse::<IpAddr>(), whole(prefix)) else {
        return Err(not_a_pattern(text));
    };
    let most = AddressPattern::bits(ip);
    match u8::try_from(prefix) {
        Ok(prefix) if prefix <= most => first_of_network(text, ip, prefix),
        _ => Err(BadWord::new(format!("is `{}`, with more bits than an address has", shortened(text)))
            .help(format!("from /0 to /{most}"))),
    }
}

/// Refuses host bits, because they are a mistake: the operator meant either one address or another network.
fn first_of_network(text: &str, ip: IpAddr, prefix: u8) -> Result<AddressPattern, BadWord> {
    let first = AddressPattern::first(ip, prefix);
    if first != ip {
        return Err(BadWord::new(format!("is `{text}`, an address within its network"))
            .help(format!("write {first}/{prefix} for the network, or {ip} for the one address")));
    }
    let mapped = ip.is_ipv6() && ip.to_canonical().is_ipv4();
    // a mapped network has its `ffff` within the prefix, or host bits
    let prefix = if mapped { prefix.saturating_sub(96) } else { prefix };
    Ok(AddressPattern { network: ip.to_canonical(), prefix, port: None })
}

fn not_a_pattern(text: &str) -> BadWord {
    let bad = BadWord::not(text, "an address or a network");
    if bad.help.is_some() { bad } else { bad.help(help(text)) }
}

/// Help for the mistakes that can be recognised.
fn help(text: &str) -> String {
    let (address, prefix) = text.split_once('/').unwrap_or((text, ""));
    let without_brackets = text.replace(['[', ']'], "");
    if on_off(text).is_some() {
        "leave it out".to_owned()
    } else if names_a_host(address) {
        "names belong in `hosts`; write the address that the application connects to: \"10.96.0.10:80\""
            .to_owned()
    } else if without_brackets != text && AddressPattern::parse(&without_brackets).is_ok() {
        format!("write it without brackets: \"{without_brackets}\"")
    } else if address.parse::<IpAddr>().is_ok() && prefix.contains(':') {
        "a network means every port; for single ports write the addresses one by one".to_owned()
    } else if address.parse::<IpAddr>().is_ok() && !prefix.is_empty() {
        "after the slash write the length of the prefix in bits: 10.96.1.0/24".to_owned()
    } else {
        "write it like \"10.96.0.10:80\", 10.96.0.10, 10.96.1.0/24 or \"[fd00::1]:80\"".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn refused(text: &str) -> (String, String) {
        let bad = AddressPattern::parse(text).unwrap_err();
        (bad.what, bad.help.unwrap_or_default())
    }

    #[test]
    fn each_mistake_gets_help() {
        let cases = [
            (
                "10.96.1.7/24",
                "an address within its network",
                "write 10.96.1.0/24 for the network, or 10.96.1.7 for the one address",
            ),
            (
                "fd00::1/64",
                "an address within its network",
                "write fd00::/64 for the network, or fd00::1 for the one address",
            ),
            ("0.0.0.1/0", "an address within its network", "write 0.0.0.0/0"),
            ("10.96.1.0/33", "more bits than an address has", "from /0 to /32"),
            ("fd00::/129", "more bits than an address has", "from /0 to /128"),
            ("10.96.1.0/4294967328", "more bits than an address has", "from /0 to /32"),
            ("10.96.0.10:0", "whose port is 0", "without a port it means every port: 10.96.0.10"),
            ("[fd00::1]:0", "whose port is 0", "without a port it means every port: fd00::1"),
            ("orders.shop", "not an address", "names belong in `hosts`"),
            ("orders.shop:80", "not an address", "names belong in `hosts`"),
            ("orders/24", "not an address", "names belong in `hosts`"),
            ("10.96.1.0/24:80", "not an address", "a network means every port"),
            ("10.96.1.0/255.255.255.0", "not an address", "length of the prefix"),
            ("10.96.1.0/024", "not an address", "length of the prefix"),
            ("[fd00::]/64", "not an address", "without brackets: \"fd00::/64\""),
            ("[fd00::/64]", "not an address", "without brackets: \"fd00::/64\""),
            ("[10.96.0.10]:80", "not an address", "without brackets: \"10.96.0.10:80\""),
            ("10.96.0.10:80/32", "not an address", "write it like"),
            ("10.96.0.10:65536", "not an address", "write it like"),
            ("10.96.0.010", "not an address", "write it like"),
            ("[fe80::1%2]:80", "not an address", "write it like"),
            (":80", "not an address", "write it like"),
            ("*.shop", "not an address", "write it like"),
            ("", "not an address", "write it like"),
            ("off", "not an address", "leave it out"),
            ("true", "only an address or a network makes sense", "YAML 1.1"),
        ];
        for (text, what, help) in cases {
            let fault = refused(text);
            assert!(fault.0.contains(what) && fault.1.contains(help), "{text:?} {fault:?}");
        }
    }

    #[test]
    fn addresses_and_networks_are_read_as_written() {
        let cases = [
            ("10.96.0.10:80", "10.96.0.10", 32, Some(80)),
            ("10.96.0.10", "10.96.0.10", 32, None),
            ("10.96.0.10/32", "10.96.0.10", 32, None),
            ("10.96.1.0/24", "10.96.1.0", 24, None),
            ("0.0.0.0/0", "0.0.0.0", 0, None),
            ("[fd00::1]:80", "fd00::1", 128, Some(80)),
            ("[FD00::1]", "fd00::1", 128, None),
            ("fd00::1", "fd00::1", 128, None),
            ("fd00::/64", "fd00::", 64, None),
            ("::/0", "::", 0, None),
        ];
        for (text, network, prefix, port) in cases {
            let network = network.parse().unwrap();
            assert_eq!(AddressPattern::parse(text), Ok(AddressPattern { network, prefix, port }), "{text}");
        }
    }

    #[test]
    fn an_ipv4_mapped_ipv6_address_is_read_as_ipv4() {
        for (mapped, plain) in [
            ("::ffff:10.96.0.10", "10.96.0.10"),
            ("[::ffff:10.96.0.10]:80", "10.96.0.10:80"),
            ("::ffff:10.96.1.0/120", "10.96.1.0/24"),
            ("::ffff:0:0/96", "0.0.0.0/0"),
        ] {
            assert_eq!(AddressPattern::parse(mapped), AddressPattern::parse(plain), "{mapped}");
        }
        assert!(refused("::ffff:0:0/90").0.contains("within its network"));
    }

    prop_compose! {
        /// Patterns that the file can spell: only single addresses have a port.
        fn pattern()(
            ip in any::<IpAddr>(), prefix in 0u8..=128, port in proptest::option::of(1u16..)
        ) -> AddressPattern {
            let ip = ip.to_canonical();
            match port {
                Some(_) => single(ip, port),
                None => {
                    let prefix = prefix.min(AddressPattern::bits(ip));
                    AddressPattern { network: AddressPattern::first(ip, prefix), prefix, port }
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn no_text_makes_the_parser_panic(text in ".{0,40}") {
            drop(AddressPattern::parse(&text));
        }

        #[test]
        fn a_text_like_a_pattern_is_read_or_gets_help(text in "[0-9a-f.:/%\\[\\]]{0,24}") {
            match AddressPattern::parse(&text) {
                Ok(read) => prop_assert_eq!(AddressPattern::parse(&read.to_string()), Ok(read)),
                Err(bad) => prop_assert!(bad.help.is_some()),
            }
        }

        #[test]
        fn a_displayed_pattern_is_read_back_unchanged(pattern in pattern()) {
            prop_assert_eq!(AddressPattern::parse(&pattern.to_string()), Ok(pattern));
        }

        #[test]
        fn an_address_matches_networks_with_its_prefix_and_no_others(
            ip in any::<u128>(), prefix in 1u8..=128, counted in 0u32..128, port in any::<u16>(),
        ) {
            let to = |ip: u128| SocketAddr::new(std::net::Ipv6Addr::from_bits(ip).into(), port);
            prop_assume!(to(ip).ip().to_canonical().is_ipv6());
            let network = AddressPattern::first(to(ip).ip(), prefix);
            let pattern = AddressPattern { network, prefix, port: None };
            prop_assert!(pattern.matches(to(ip)));
            let other = to(ip ^ (1 << (127 - counted % u32::from(prefix))));
            prop_assert!(!pattern.matches(other));
        }
    }
}
