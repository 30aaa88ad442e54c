//! Addresses, and what the file says of the address of an endpoint.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;

use serde_json::Value;

use super::host::is_host_byte;
use crate::schema::Described;
use crate::value::{BadWord, Count, Word, leaves, whole, wrapped_leaves};

impl Word for SocketAddr {
    const EXPECTED: &'static str = "an address (127.0.0.1:8080 or \"[::1]:8080\")";

    fn parse(text: &str) -> Result<Self, BadWord> {
        text.parse().ok().ok_or_else(|| BadWord::not(text, "an address").help(address_help(text)))
    }
}

fn address_help(text: &str) -> String {
    if let Ok(ip) = text.trim_matches(['[', ']']).parse::<IpAddr>() {
        return format!("add the port: {}", SocketAddr::new(ip, 8080));
    }
    match text.strip_prefix("localhost:").or_else(|| text.strip_prefix(':')).unwrap_or(text) {
        port if whole(port).is_some() => format!("write 127.0.0.1:{port}"),
        _ => "write an IP address and a port: 127.0.0.1:8080 or \"[::1]:8080\"".to_owned(),
    }
}

/// The address of an endpoint: an IP address and a port that is not 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Target(pub(crate) SocketAddr);

impl Word for Target {
    const EXPECTED: &'static str = "an address (10.0.1.10:15006)";

    fn parse(text: &str) -> Result<Self, BadWord> {
        match SocketAddr::parse(text) {
            Ok(address) if address.port() == 0 => {
                Err(BadWord::new(format!("is `{address}`, whose port is 0")))
            }
            Ok(address) => Ok(Self(address)),
            Err(bad) if names_a_host(text) => Err(bad.help(
                "write an IP address and a port; for a name write endpoints: { dns: \"orders.shop:15006\" }",
            )),
            Err(bad) => Err(bad),
        }
    }
}

/// The weight of an endpoint, from 1 to 1,000,000.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Weight(pub(crate) NonZeroU32);

/// With this limit the sum of any list of weights fits in 64 bits.
type CountOfWeight = Count<1, 1_000_000>;

impl Word for Weight {
    const EXPECTED: &'static str = CountOfWeight::EXPECTED;

    fn parse(text: &str) -> Result<Self, BadWord> {
        let Count(weight) = CountOfWeight::parse(text)?;
        Ok(Self(NonZeroU32::new(weight).unwrap_or(NonZeroU32::MIN)))
    }
}

impl Described for Weight {
    fn described() -> Option<Value> {
        CountOfWeight::described()
    }
}

pub(super) fn names_a_host(text: &str) -> bool {
    let host = text.rsplit_once(':').map_or(text, |(host, _)| host);
    host != "localhost"
        && host.starts_with(|c: char| c.is_ascii_alphabetic())
        && host.bytes().all(is_host_byte)
}

leaves!(SocketAddr: |address| address.to_string().into());
wrapped_leaves!(
    Target: SocketAddr, |address| address.to_string().into();
    Weight: NonZeroU32, |weight| weight.get().into();
);
