//! The options of `pillion init`: small checked words, and which of them contradict each other.

use std::collections::BTreeSet;
use std::str::FromStr;

use crate::words::{Cidr, Interface, Wrong, wrong};

/// Everything on which the rules depend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    pub mode: Mode,
    pub backend: Backend,
    /// The sidecar's port for connections of the application. 15001, as in other meshes.
    pub outbound_port: u16,
    /// The sidecar's port for connections to the application. 15006.
    pub inbound_port: u16,
    /// The sidecar's admin port, which is never captured. 15000.
    pub admin_port: u16,
    /// The sidecar's metrics port, which is never captured. 15020.
    pub metrics_port: u16,
    /// The sidecar's port for DNS, which is never captured, and to which `dns` redirects queries. 15053.
    pub dns_port: u16,
    /// The sidecar's user. Its connections are not captured. 1337.
    pub proxy_uid: u32,
    /// A group whose connections are not captured either.
    pub proxy_gid: Option<u32>,
    pub inbound_ports: Ports,
    pub exclude_inbound_ports: BTreeSet<u16>,
    pub exclude_outbound_ports: BTreeSet<u16>,
    pub include_outbound: Networks,
    pub exclude_outbound: BTreeSet<Cidr>,
    pub exclude_interfaces: BTreeSet<Interface>,
    /// Whether queries to port 53, over UDP and TCP, are redirected to `dns_port`.
    pub dns: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            mode: Mode::Redirect,
            backend: Backend::Auto,
            outbound_port: 15001,
            inbound_port: 15006,
            admin_port: 15000,
            metrics_port: 15020,
            dns_port: 15053,
            proxy_uid: 1337,
            proxy_gid: None,
            inbound_ports: Ports::All,
            exclude_inbound_ports: BTreeSet::new(),
            exclude_outbound_ports: BTreeSet::new(),
            include_outbound: Networks::All,
            exclude_outbound: BTreeSet::new(),
            exclude_interfaces: BTreeSet::new(),
            dns: false,
        }
    }
}

/// How connections from other hosts reach the sidecar. Connections of the application are redirected in both modes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// The destination is rewritten; the application sees the sidecar as its client.
    Redirect,
    /// The destination stays; the application sees the client's address. The sidecar needs `CAP_NET_ADMIN`.
    Tproxy,
}

/// The rule set of the kernel in which the rules are installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// The best that the kernel and the machine have; nftables is preferred.
    Auto,
    Nft,
    /// The variant of iptables that works.
    Iptables,
    IptablesNft,
    IptablesLegacy,
}

/// The ports of the application that are captured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ports {
    All,
    Only(BTreeSet<u16>),
}

/// The networks to which connections are captured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Networks {
    All,
    Only(BTreeSet<Cidr>),
}

impl FromStr for Mode {
    type Err = Wrong;

    fn from_str(text: &str) -> Result<Self, Wrong> {
        match text {
            "redirect" => Ok(Self::Redirect),
            "tproxy" => Ok(Self::Tproxy),
            _ => wrong(format!("{text:?} is not a mode; write redirect or tproxy")),
        }
    }
}

impl FromStr for Backend {
    type Err = Wrong;

    fn from_str(text: &str) -> Result<Self, Wrong> {
        match text {
            "auto" => Ok(Self::Auto),
            "nft" => Ok(Self::Nft),
            "iptables" => Ok(Self::Iptables),
            "iptables-nft" => Ok(Self::IptablesNft),
            "iptables-legacy" => Ok(Self::IptablesLegacy),
            _ => wrong(format!(
                "{text:?} is not a backend; write auto, nft, iptables, iptables-nft or iptables-legacy"
            )),
        }
    }
}

/// A port from 1 to 65535.
pub fn port(text: &str) -> Result<u16, Wrong> {
    match text.parse::<u16>() {
        Ok(0) => wrong("port 0 is not a valid port; write one from 1 to 65535"),
        Ok(port) => Ok(port),
        Err(_no_number) => wrong(format!("{text:?} is not a port; write a number from 1 to 65535")),
    }
}

impl Ports {
    /// Reads one or several comma-separated lists of ports, or `*`, or `none`.
    pub fn of<T: AsRef<str>>(words: &[T]) -> Result<Self, Wrong> {
        match listed(words, "inbound-ports", port)? {
            Listed::All => Ok(Self::All),
            Listed::Only(ports) => Ok(Self::Only(ports)),
        }
    }
}

impl Networks {
    /// Reads one or several comma-separated lists of networks, or `*`, or `none`.
    pub fn of<T: AsRef<str>>(words: &[T]) -> Result<Self, Wrong> {
        match listed(words, "include-outbound-cidrs", str::parse)? {
            Listed::All => Ok(Self::All),
            Listed::Only(networks) => Ok(Self::Only(networks)),
        }
    }
}

enum Listed<T> {
    All,
    Only(BTreeSet<T>),
}

fn listed<T: Ord, W: AsRef<str>>(
    words: &[W],
    flag: &str,
    one: impl Fn(&str) -> Result<T, Wrong>,
) -> Result<Listed<T>, Wrong> {
    let words: Vec<&str> = words.iter().map(AsRef::as_ref).collect();
    match words.as_slice() {
        ["*"] => Ok(Listed::All),
        ["none"] => Ok(Listed::Only(BTreeSet::new())),
        _ if words.contains(&"*") => wrong(format!("--{flag}: * means all, so it must be the only value")),
        _ if words.contains(&"none") => wrong(format!("--{flag}: none must be the only value")),
        _ => {
            let named = |Wrong(what)| Wrong(format!("--{flag}: {what}"));
            let all: Result<_, _> = words.into_iter().map(one).collect();
            Ok(Listed::Only(all.map_err(named)?))
        }
    }
}

impl Options {
    /// The ports of the sidecar itself, each with its flag.
    const fn own(&self) -> [(&'static str, u16); 5] {
        [
            ("outbound-port", self.outbound_port),
            ("inbound-port", self.inbound_port),
            ("admin-port", self.admin_port),
            ("metrics-port", self.metrics_port),
            ("dns-port", self.dns_port),
        ]
    }

    /// The ports of the sidecar itself, sorted, as the rules need them.
    pub(crate) fn own_ports(&self) -> BTreeSet<u16> {
        self.own().map(|(_, port)| port).into()
    }

    /// Checks whether the options contradict each other; single values have been checked before.
    pub fn check(&self) -> Result<(), Wrong> {
        self.own_ports_differ()?;
        self.inbound_agrees()?;
        self.outbound_agrees()
    }

    fn own_ports_differ(&self) -> Result<(), Wrong> {
        let own = self.own();
        for (index, (flag, port)) in own.iter().enumerate() {
            if let Some((other, _)) = own.iter().take(index).find(|(_, other)| other == port) {
                return wrong(format!(
                    "--{other} and --{flag} are both {port}; each needs a port of its own"
                ));
            }
        }
        Ok(())
    }

    fn inbound_agrees(&self) -> Result<(), Wrong> {
        let Ports::Only(captured) = &self.inbound_ports else { return Ok(()) };
        for (flag, port) in self.own() {
            if captured.contains(&port) {
                return wrong(format!(
                    "--inbound-ports contains {port}, which is a port of the sidecar (--{flag}) and is never captured; leave it out"
                ));
            }
        }
        match captured.intersection(&self.exclude_inbound_ports).next() {
            Some(port) => wrong(format!(
                "port {port} is both in --inbound-ports and in --exclude-inbound-ports; write it in one"
            )),
            None => Ok(()),
        }
    }

    fn outbound_agrees(&self) -> Result<(), Wrong> {
        if self.dns && self.exclude_outbound_ports.contains(&53) {
            return wrong(
                "--dns captures port 53, and --exclude-outbound-ports leaves it alone; write one of both",
            );
        }
        let Networks::Only(captured) = &self.include_outbound else { return Ok(()) };
        match captured.intersection(&self.exclude_outbound).next() {
            Some(network) => wrong(format!(
                "{network} is both in --include-outbound-cidrs and in --exclude-outbound-cidrs; write it in one"
            )),
            None => Ok(()),
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
    fn a_port_is_a_number_from_1_to_65535() {
        assert_eq!(port("8080"), Ok(8080));
        for text in ["0", "65536", "-1", "http", "", "80-90"] {
            assert!(said(port(text)).contains("from 1 to 65535"), "{text}");
        }
    }

    #[test]
    fn all_and_none_must_be_the_only_value() {
        assert_eq!(Ports::of(&["*"]), Ok(Ports::All));
        assert_eq!(Ports::of(&["none"]), Ok(Ports::Only(BTreeSet::new())));
        assert_eq!(Ports::of(&["80", "443", "80"]), Ok(Ports::Only([80, 443].into())));
        assert_eq!(Networks::of(&["*"]), Ok(Networks::All));
        for words in [&["*", "80"][..], &["80", "none"], &["*", "*"], &[""]] {
            assert!(said(Ports::of(words)).starts_with("--inbound-ports: "), "{words:?}");
        }
    }

    #[test]
    fn contradicting_options_are_refused_with_their_names() {
        let with = |change: fn(&mut Options)| {
            let mut options = Options::default();
            change(&mut options);
            options.check()
        };
        assert_eq!(with(|_| ()), Ok(()));
        type Change = fn(&mut Options);
        let cases: [(Change, &str); 5] = [
            (|o| o.admin_port = 15006, "--inbound-port and --admin-port are both 15006"),
            (
                |o| o.inbound_ports = Ports::Only([8080, 15020].into()),
                "a port of the sidecar (--metrics-port)",
            ),
            (
                |o| {
                    o.inbound_ports = Ports::Only([8080].into());
                    o.exclude_inbound_ports = [8080].into();
                },
                "port 8080 is both in --inbound-ports",
            ),
            (
                |o| {
                    o.dns = true;
                    o.exclude_outbound_ports = [53].into();
                },
                "--dns captures port 53",
            ),
            (
                |o| {
                    let network = "10.0.0.0/8".parse().expect("a network");
                    o.include_outbound = Networks::Only([network].into());
                    o.exclude_outbound = [network].into();
                },
                "10.0.0.0/8 is both in --include-outbound-cidrs",
            ),
        ];
        for (change, words) in cases {
            let error = said(with(change));
            assert!(error.contains(words), "{error}");
        }
    }
}
