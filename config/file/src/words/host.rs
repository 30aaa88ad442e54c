//! Names of hosts and of services.

use std::net::{IpAddr, Ipv6Addr};

use crate::value::{BadWord, Word, leaves, whole, wrapped_leaves};
use pillion_model::authorization::ExtAuthz;
use pillion_model::cluster::{AddressPattern, HostPattern};

/// A host: `orders`, `orders.shop:8080`, `*.shop`, `[::1]:80`.
impl Word for HostPattern {
    const EXPECTED: &'static str = "a host (orders, \"orders.shop:8080\", \"*.shop\")";

    fn parse(text: &str) -> Result<Self, BadWord> {
        let bad = || {
            BadWord::not(text, "a host")
                .help("write a name, with or without a port: orders, \"orders.shop:8080\", \"*.shop\"")
        };
        let (host, port) = split_port(text).ok_or_else(bad)?;
        let (name, wildcard) = host.strip_prefix("*.").map_or((host, false), |rest| (rest, true));
        let name = name.strip_suffix('.').unwrap_or(name);
        if !is_host_name(name) && (wildcard || !is_bracketed_ip(name)) {
            return Err(bad());
        }
        Ok(Self { name: name.to_ascii_lowercase(), wildcard, port })
    }
}

/// The host, and the port after its colon if there is one. `None`: the text after the colon is not a port.
pub(super) fn split_port(text: &str) -> Option<(&str, Option<u16>)> {
    match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => {
            let port = whole(port).and_then(|n| u16::try_from(n).ok()).filter(|port| *port != 0)?;
            Some((host, Some(port)))
        }
        _ => Some((text, None)),
    }
}

pub(super) fn is_host_name(name: &str) -> bool {
    name.len() <= 253 && !name.split('.').any(str::is_empty) && name.bytes().all(is_host_byte)
}

pub(super) fn is_host_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_')
}

fn is_bracketed_ip(name: &str) -> bool {
    let inner = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    inner.is_some_and(|ip| ip.parse::<Ipv6Addr>().is_ok())
}

/// A name sent as SNI.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sni(pub(crate) String);

impl Word for Sni {
    const EXPECTED: &'static str = "a DNS name";

    fn parse(text: &str) -> Result<Self, BadWord> {
        let named = is_host_name(text) && text.parse::<IpAddr>().is_err();
        if named { Ok(Self(text.to_ascii_lowercase())) } else { Err(BadWord::not(text, "a DNS name")) }
    }
}

/// The name of a service: a metric label, part of the ready line and, by default, a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServiceName(pub(crate) String);

impl Word for ServiceName {
    const EXPECTED: &'static str = "a service's name";

    fn parse(text: &str) -> Result<Self, BadWord> {
        match text {
            "passthrough" => Err(BadWord::new("is a reserved name: metrics use it for unknown destinations")),
            ExtAuthz::NAME => {
                Err(BadWord::new("is a reserved name: metrics use it for the external authorizer"))
            }
            name if is_host_name(name) => Ok(Self(name.to_owned())),
            _ => {
                Err(BadWord::not(text, "a service's name").help("names have letters, digits, dots, - and _"))
            }
        }
    }
}

leaves!(HostPattern: |host| host.to_string().into(), AddressPattern: |address| address.to_string().into());
wrapped_leaves!(
    Sni: String, |name| name.as_str().into();
    ServiceName: String, |name| name.as_str().into();
);
