//! Words about name servers: a name to look up with a port (`orders.shop.svc.cluster.local:15006`), the
//! name of SRV records (`_http._tcp.orders.shop`), and the address of
//! a name server (`10.96.0.10`).

use std::net::{IpAddr, SocketAddr};

use super::{is_host_name, split_port};
use crate::value::{BadWord, Word, leaves, on_off, whole, wrapped_leaves};
use pillion_model::text::shortened;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DnsName {
    /// The name as it is written: a trailing dot prevents the use of search domains.
    pub(crate) name: String,
    pub(crate) port: u16,
}

impl Word for DnsName {
    const EXPECTED: &'static str = "a name and a port (\"orders.shop:15006\")";

    fn parse(text: &str) -> Result<Self, BadWord> {
        if let Some(address) = as_address(text) {
            return Err(BadWord::new(format!(
                "is `{}`, which is an address and not a name",
                shortened(text)
            ))
            .help(format!("write a list: endpoints: [\"{address}\"]")));
        }
        match split_port(text) {
            Some((name, Some(port))) if is_dns_name(name) => Ok(Self { name: name.to_owned(), port }),
            Some((name, None)) if is_dns_name(name) && on_off(text).is_none() && whole(text).is_none() => {
                Err(BadWord::new(format!("is `{}`, which lacks a port", shortened(text)))
                    .help(format!("add the port of the service: \"{name}:15006\"")))
            }
            _ => Err(BadWord::not(text, "a name and a port").help(help(text))),
        }
    }
}

/// The name of SRV records (RFC 2782): `_service._proto.name`, as it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SrvName(pub(crate) String);

impl Word for SrvName {
    const EXPECTED: &'static str = "the name of SRV records (_http._tcp.orders.shop)";

    fn parse(text: &str) -> Result<Self, BadWord> {
        if is_srv_name(text) {
            return Ok(Self(text.to_owned()));
        }
        let bad = BadWord::not(text, "the name of SRV records");
        Err(match split_port(text) {
            Some((name, Some(_))) if is_srv_name(name) => {
                bad.help(format!("SRV records carry the port, so leave it out: {name}"))
            }
            Some((name, _)) if is_dns_name(name) && !name.starts_with('_') => {
                bad.help(format!("name the service and its protocol first: _http._tcp.{name}"))
            }
            _ => bad.help("write it like _http._tcp.orders.shop.svc.cluster.local"),
        })
    }
}

/// Whether a text is `_service._proto.name` and a DNS name that fits into a question.
fn is_srv_name(text: &str) -> bool {
    const LONGEST: usize = 253;
    let mut parts = text.splitn(3, '.');
    let mut is_marked =
        || parts.next().and_then(|label| label.strip_prefix('_')).is_some_and(|label| !label.is_empty());
    let marked = is_marked() && is_marked();
    let has_name = parts.next().is_some_and(|name| !name.is_empty());
    marked && has_name && is_dns_name(text) && text.trim_end_matches('.').len() <= LONGEST
}

/// The text as an address with a port, as a list of `endpoints` accepts it.
fn as_address(text: &str) -> Option<String> {
    let (host, port) = match text.parse::<IpAddr>() {
        Ok(_) => (text, None),
        Err(_) => split_port(text)?,
    };
    let ip: IpAddr = host.trim_matches(['[', ']']).parse().ok()?;
    Some(SocketAddr::new(ip, port.unwrap_or(15006)).to_string())
}

/// Whether a text is a DNS name (RFC 1035, section 2.3.4), with the underscores that real zones have. A name whose last
/// label has only digits is refused: resolvers would read it as an IPv4 address (`10.1` is 10.0.0.1).
fn is_dns_name(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    let number = |label: &str| label.bytes().all(|b| b.is_ascii_digit());
    is_host_name(name)
        && name.split('.').all(|label| label.len() <= 63)
        && !name.rsplit('.').next().is_some_and(number)
}

fn help(text: &str) -> &'static str {
    if text.contains("://") {
        "write only the name, without a scheme or a path: \"orders.shop:15006\""
    } else if text.contains('*') {
        "a resolver looks up one name; wildcards belong in `hosts`"
    } else {
        "write it like \"orders.shop.svc.cluster.local:15006\""
    }
}

/// The address of a name server: an IP address, with port 53 unless another is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NameServer(pub(crate) SocketAddr);

impl Word for NameServer {
    const EXPECTED: &'static str = "an address (10.96.0.10 or \"10.96.0.10:53\")";

    fn parse(text: &str) -> Result<Self, BadWord> {
        const DOMAIN: u16 = 53;
        let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
        let server = match bare.parse::<IpAddr>() {
            Ok(ip) => SocketAddr::new(ip, DOMAIN),
            Err(_) => text.parse().ok().ok_or_else(|| {
                BadWord::not(text, "an address")
                    .help("write an IP address, with a port if it is not 53: 10.96.0.10 or \"10.96.0.10:53\"")
            })?,
        };
        match server.port() {
            0 => Err(BadWord::new(format!("is `{server}`, whose port is 0"))),
            _ => Ok(Self(server)),
        }
    }
}

leaves!(DnsName: |DnsName { name, port }| format!("{name}:{port}").into());
wrapped_leaves!(SrvName: String, |name| name.as_str().into());

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn refused(text: &str) -> (String, String) {
        let bad = DnsName::parse(text).unwrap_err();
        (bad.what, bad.help.unwrap_or_default())
    }

    #[test]
    fn each_mistake_gets_help() {
        let long = format!("{}:80", "a".repeat(64));
        let cases = [
            ("orders.shop", "which lacks a port", "\"orders.shop:15006\""),
            ("orders.", "which lacks a port", "\"orders.:15006\""),
            ("10.0.0.1:80", "an address and not a name", "endpoints: [\"10.0.0.1:80\"]"),
            ("10.0.0.1", "an address and not a name", "endpoints: [\"10.0.0.1:15006\"]"),
            ("[::1]:80", "an address and not a name", "endpoints: [\"[::1]:80\"]"),
            ("::1", "an address and not a name", "endpoints: [\"[::1]:15006\"]"),
            ("10.1:80", "not a name", "write it like"),
            ("8080", "not a name", "write it like"),
            (":80", "not a name", "write it like"),
            ("orders:0", "not a name", "write it like"),
            ("orders:65536", "not a name", "write it like"),
            ("orders:http", "not a name", "write it like"),
            ("a..b:80", "not a name", "write it like"),
            (&long, "not a name", "write it like"),
            ("http://orders:80", "not a name", "without a scheme"),
            ("*.shop:80", "not a name", "wildcards belong in `hosts`"),
            ("", "not a name", "write it like"),
            ("off", "not a name", "write it like"),
        ];
        for (text, what, help) in cases {
            let fault = refused(text);
            assert!(fault.0.contains(what) && fault.1.contains(help), "{text:?} {fault:?}");
        }
    }

    #[test]
    fn a_name_server_has_port_53_unless_another_is_written() {
        for (text, expected) in [
            ("10.96.0.10", "10.96.0.10:53"),
            ("10.96.0.10:5353", "10.96.0.10:5353"),
            ("fd00::10", "[fd00::10]:53"),
            ("[fd00::10]", "[fd00::10]:53"),
            ("[fd00::10]:5353", "[fd00::10]:5353"),
        ] {
            assert_eq!(NameServer::parse(text), Ok(NameServer(expected.parse().unwrap())), "{text}");
        }
        for text in ["", "10.96.0.10:0", "10.96.0", "dns.example", "dns.example:53", "10.96.0.10:http"] {
            assert!(NameServer::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_name_keeps_its_dot_and_its_case() {
        let name = |text| DnsName::parse(text).map(|DnsName { name, port }| (name, port)).unwrap();
        assert_eq!(name("Orders.shop.:80"), ("Orders.shop.".to_owned(), 80));
        assert_eq!(name("localhost:80"), ("localhost".to_owned(), 80));
        assert_eq!(name("_a.10.x:65535"), ("_a.10.x".to_owned(), 65535));
    }

    #[test]
    fn a_name_of_srv_records_has_a_service_a_protocol_and_a_name() {
        for text in ["_http._tcp.orders.shop", "_http._tcp.orders", "_Grpc._tcp.orders.shop.", "_a-b._udp.x"]
        {
            assert_eq!(SrvName::parse(text), Ok(SrvName(text.to_owned())));
        }
        let long = format!("_http._tcp.{}x", "a.".repeat(121));
        for (text, help) in [
            ("orders.shop", "_http._tcp.orders.shop"),
            ("orders.shop:80", "_http._tcp.orders.shop"),
            ("_http._tcp.orders.shop:80", "leave it out: _http._tcp.orders.shop"),
            ("_http._tcp", "write it like"),
            ("_http._tcp.", "write it like"),
            ("_http.tcp.orders", "write it like"),
            ("_._tcp.orders", "write it like"),
            ("_http._tcp..orders", "write it like"),
            ("_http._tcp.*.shop", "write it like"),
            ("_http._tcp.10", "write it like"),
            (&long, "write it like"),
            ("", "write it like"),
        ] {
            let bad = SrvName::parse(text).unwrap_err();
            assert!(bad.help.as_deref().unwrap_or_default().contains(help), "{text:?} {bad:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn no_text_makes_the_parser_panic_and_every_refusal_has_help(text in ".{0,40}|[a-z0-9.:*\\[\\]]{0,20}") {
            let refused = [DnsName::parse(&text).err(), SrvName::parse(&text).err()];
            for bad in refused.into_iter().flatten() {
                prop_assert!(bad.help.is_some());
            }
        }
    }
}
