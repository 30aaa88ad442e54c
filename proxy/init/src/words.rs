//! Networks and interfaces, as rules name them.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// A network in CIDR notation, without host bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cidr {
    address: IpAddr,
    bits: u8,
}

/// The name of an interface, or the common beginning of several names: `cali*`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Interface {
    name: String,
    is_prefix: bool,
}

/// The version of IP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Family {
    V4,
    V6,
}

/// What is wrong with an option, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrong(pub(crate) String);

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Wrong {}

pub(crate) fn wrong<T>(what: impl Into<String>) -> Result<T, Wrong> {
    Err(Wrong(what.into()))
}

impl Cidr {
    pub(crate) const fn new(address: IpAddr, bits: u8) -> Self {
        Self { address, bits }
    }

    pub(crate) const fn family(&self) -> Family {
        if self.address.is_ipv4() { Family::V4 } else { Family::V6 }
    }

    /// Whether it contains every address of its IP version.
    pub(crate) const fn is_everything(&self) -> bool {
        self.bits == 0
    }

    pub(crate) const fn is_one_address(&self) -> bool {
        self.bits == width(self.address)
    }

    pub(crate) const fn address(&self) -> IpAddr {
        self.address
    }
}

const fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// The address with all bits after the first `bits` cleared.
fn masked(address: IpAddr, bits: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
            IpAddr::from((u32::from(v4) & mask).to_be_bytes())
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
            IpAddr::from((u128::from(v6) & mask).to_be_bytes())
        }
    }
}

impl FromStr for Cidr {
    type Err = Wrong;

    fn from_str(text: &str) -> Result<Self, Wrong> {
        let not_one = || Wrong(format!("{text:?} is not a network; write one as 10.0.0.0/8 or fd00::/8"));
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_no_address| not_one())?;
        let bits = match bits {
            None => width(address),
            Some(bits) if bits.starts_with('+') => return Err(not_one()),
            Some(bits) => bits.parse().ok().filter(|bits| *bits <= width(address)).ok_or_else(not_one)?,
        };
        if matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some()) {
            return wrong(format!(
                "{text} never occurs in packets, because connections to it use IPv4; write the IPv4 network"
            ));
        }
        match masked(address, bits) {
            network if network == address => Ok(Self { address, bits }),
            network => wrong(format!("{text} has bits after its prefix; the network is {network}/{bits}")),
        }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

/// The most bytes of an interface's name (the kernel's limit).
const MAX_INTERFACE: usize = 15;

impl Interface {
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) const fn is_prefix(&self) -> bool {
        self.is_prefix
    }
}

impl FromStr for Interface {
    type Err = Wrong;

    fn from_str(text: &str) -> Result<Self, Wrong> {
        let (name, is_prefix) = match text.strip_suffix('*') {
            Some(name) => (name, true),
            None => (text, false),
        };
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-@:".contains(&byte);
        match name {
            "" => {
                wrong(format!("{text:?} is not an interface; write its name, or a beginning such as cali*"))
            }
            "lo" if !is_prefix => wrong("lo need not be excluded: loopback is never captured"),
            // the * counts too, because a name of the full length cannot be continued
            _ if name.len() + usize::from(is_prefix) <= MAX_INTERFACE && name.bytes().all(is_plain) => {
                Ok(Self { name: name.to_owned(), is_prefix })
            }
            _ => wrong(format!(
                "{text:?} is not an interface: at most {MAX_INTERFACE} letters, digits and . _ - @ :, or a beginning and *"
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said<T: std::fmt::Debug>(result: Result<T, Wrong>) -> String {
        result.expect_err("refused").to_string()
    }

    #[test]
    fn networks_are_parsed_and_host_bits_are_refused_with_the_network_as_help() {
        for (text, network) in [
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("10.1.2.3", "10.1.2.3/32"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("::/0", "::/0"),
            ("fd00:1::/32", "fd00:1::/32"),
            ("fd00::1", "fd00::1/128"),
        ] {
            assert_eq!(text.parse::<Cidr>().expect(text).to_string(), network);
        }
        assert!(said("10.1.2.3/8".parse::<Cidr>()).ends_with("the network is 10.0.0.0/8"));
        assert!(said("fd00::1/64".parse::<Cidr>()).ends_with("the network is fd00::/64"));
        for text in [
            "",
            "10.0.0.0/33",
            "fd00::/129",
            "10.0.0/8",
            "web/8",
            "10.0.0.0/",
            "10.0.0.0/-1",
            "10.0.0.0/+8",
            "*",
        ] {
            assert!(said(text.parse::<Cidr>()).contains("write one as"), "{text}");
        }
        assert!(said("::ffff:10.0.0.0/104".parse::<Cidr>()).contains("write the IPv4 network"));
    }

    #[test]
    fn interfaces_are_names_or_beginnings_of_names() {
        for (text, name, is_prefix) in [("eth0", "eth0", false), ("cali*", "cali", true)] {
            let interface: Interface = text.parse().expect(text);
            assert_eq!((interface.name(), interface.is_prefix()), (name, is_prefix));
        }
        for text in [
            "",
            "*",
            "lo",
            "eth+",
            "eth 0",
            "a\"b",
            "sixteen-letters0",
            "fifteen-letters*",
            "e*h",
            "eth/0",
            "e\n",
        ] {
            text.parse::<Interface>().expect_err(text);
        }
    }
}
