//! Pods on a node: each is a host with its own network, the rules of `pillion init`, and a sidecar with no more
//! privileges than it needs.
//!
//! A bridge on the node joins them. The node has an address on it, but no sidecar and no certificate: it plays the
//! clients outside the mesh and the kubelet.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::Command;

use super::certs::Authority;
use super::launched::{Launched, binary};
use super::namespace::{Namespace, ip, sweep};
use super::place::{APPLICATION, Place};
use super::tools::{available, require, run};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    V4,
    V6,
}

impl Version {
    pub(crate) const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// The `number`th address of the pods' network.
    fn pod(self, number: u16) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::from_bits(Ipv4Addr::new(10, 98, 0, 0).to_bits() + u32::from(number)).into(),
            Self::V6 => Ipv6Addr::new(0xfd00, 0x98, 0, 0, 0, 0, 0, number).into(),
        }
    }

    /// The address of a service. No host has it; it is only routed.
    pub(crate) fn service(self, port: u16) -> SocketAddr {
        let ip: IpAddr = match self {
            Self::V4 => Ipv4Addr::new(10, 96, 0, 10).into(),
            Self::V6 => Ipv6Addr::new(0xfd00, 0x96, 0, 0, 0, 0, 0, 0x10).into(),
        };
        (ip, port).into()
    }

    pub(crate) fn loopback(self, port: u16) -> SocketAddr {
        match self {
            Self::V4 => (Ipv4Addr::LOCALHOST, port).into(),
            Self::V6 => (Ipv6Addr::LOCALHOST, port).into(),
        }
    }

    const fn digit(self) -> u8 {
        match self {
            Self::V4 => 4,
            Self::V6 => 6,
        }
    }
}

/// How connections are redirected to the sidecars.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Variant {
    pub(crate) mode: Mode,
    /// The value of `pillion init --backend`.
    pub(crate) backend: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Redirect,
    Tproxy,
}

impl Variant {
    pub(crate) const fn redirect(backend: &'static str) -> Self {
        Self { mode: Mode::Redirect, backend }
    }

    pub(crate) const fn tproxy(backend: &'static str) -> Self {
        Self { mode: Mode::Tproxy, backend }
    }

    fn programs(self) -> &'static [&'static str] {
        match self.backend {
            "iptables-nft" => &["iptables-nft", "ip6tables-nft"],
            "iptables-legacy" => &["iptables-legacy", "ip6tables-legacy"],
            _ => &["nft"],
        }
    }

    /// Whether the machine and its kernel support the variant.
    fn is_there(self, host: &Namespace) -> bool {
        let works = |program: &&str| {
            let words: &[&str] = match *program {
                "nft" => &["list", "ruleset"],
                _ => &["-w", "30", "-t", "nat", "-S"], // all namespaces have one lock
            };
            let mut look = host.enter();
            look.arg(program).args(words);
            look.output().is_ok_and(|output| output.status.success())
        };
        self.programs().iter().all(|program| require(program))
            && available(&format!("{} in this kernel", self.backend), self.programs().iter().all(works))
    }
}

/// The network of pods that can reach each other.
pub(crate) struct Node {
    pub(crate) host: Namespace,
    variant: Variant,
}

/// The node's own address.
const GATEWAY: u16 = 254;

impl Node {
    /// `None`, with the reason printed, when this machine cannot make it.
    pub(crate) fn new(variant: Variant) -> Option<Self> {
        if !["ip", "setpriv", "curl", "python3", "bash"].into_iter().all(require) {
            return None;
        }
        sweep();
        let made = Namespace::new("node");
        let why = made.as_ref().err().map(String::as_str).unwrap_or_default();
        if !available(&format!("network namespace ({why})"), made.is_ok()) {
            return None;
        }
        let host = made.ok().filter(|host| variant.is_there(host))?;
        host.ip(&["link", "add", "bridge", "type", "bridge", "mcast_snooping", "0"]);
        host.ip(&["link", "set", "bridge", "up"]);
        host.ip(&["link", "set", "lo", "up"]);
        addresses(&host, "bridge", GATEWAY);
        Some(Self { host, variant })
    }

    /// Adds a pod with its rules. `number` chooses its addresses, from 1.
    pub(crate) async fn pod(&self, number: u16) -> Pod {
        let host = Namespace::new(&format!("pod{number}")).expect("another namespace");
        let port = format!("pod{number}");
        let cable = ["link", "add", "cable", "netns", &host.name, "type", "veth", "peer", "name", &port];
        ip(&[&cable[..], &["netns", &self.host.name]].concat());
        self.host.ip(&["link", "set", &port, "master", "bridge", "up"]);
        addresses(&host, "cable", number);
        host.ip(&["link", "set", "cable", "up"]);
        host.ip(&["link", "set", "lo", "up"]);
        for version in Version::BOTH {
            let gateway = version.pod(GATEWAY).to_string();
            host.ip(&["route", "add", "default", "via", &gateway]);
        }
        let pod = Pod { host, number, variant: self.variant };
        pod.init().await;
        pod
    }
}

fn addresses(host: &Namespace, device: &str, number: u16) {
    let [v4, v6] = Version::BOTH.map(|version| version.pod(number).to_string());
    host.ip(&["address", "add", &format!("{v4}/24"), "dev", device]);
    host.ip(&["address", "add", &format!("{v6}/64"), "dev", device, "nodad"]);
}

/// One host of the mesh. Its processes must have ended before it is dropped.
pub(crate) struct Pod {
    pub(crate) host: Namespace,
    number: u16,
    variant: Variant,
}

impl Pod {
    pub(crate) fn at(&self, version: Version, port: u16) -> SocketAddr {
        (version.pod(self.number), port).into()
    }

    /// The address that the application sees for connections of `caller`.
    pub(crate) fn sees(&self, caller: &Self, version: Version) -> IpAddr {
        match (self.variant.mode, version) {
            (Mode::Tproxy, _) => version.pod(caller.number),
            (Mode::Redirect, Version::V4) => Ipv4Addr::new(127, 0, 0, 6).into(),
            (Mode::Redirect, Version::V6) => Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6).into(),
        }
    }

    /// The node's port on the bridge that leads to the pod.
    pub(crate) fn port(&self) -> String {
        format!("pod{}", self.number)
    }

    /// Runs `pillion init` as root, once, before anything else runs.
    async fn init(&self) {
        let mode = match self.variant.mode {
            Mode::Redirect => "redirect",
            Mode::Tproxy => "tproxy",
        };
        let mut init = self.host.enter();
        init.arg(binary()).args(["init", "--mode", mode, "--backend", self.variant.backend]);
        let output = run(init).await;
        assert!(output.status.success(), "{:?}: {}", self.variant, String::from_utf8_lossy(&output.stderr));
    }

    /// A prefix that runs a command in this pod like an application. The command may read folders of other users,
    /// because Python and the tests' scripts may be in one of root's.
    pub(crate) fn enter(&self) -> Command {
        let mut command = self.host.enter();
        command.args(["--reuid", APPLICATION, "--regid", "nogroup", "--clear-groups"]);
        for set in ["--bounding-set", "--inh-caps"] {
            command.args([set, "-all,+dac_read_search"]);
        }
        command.args(["--ambient-caps", "+dac_read_search"]);
        command
    }

    pub(crate) fn place(&self, port: u16) -> Place {
        Place::in_pod(&self.host, port)
    }

    /// Starts a sidecar as its own user without any capability. For TPROXY it has the one capability that this needs.
    pub(crate) async fn sidecar(&self, yaml: &str, authority: &Authority, account: &str) -> Launched {
        let mut prefix = self.host.enter_as_sidecar();
        let (words, effective): (&[&str], _) = match self.variant.mode {
            Mode::Redirect => (&["--inh-caps", "-all", "--bounding-set", "-all"], "0000000000000000"),
            Mode::Tproxy => (
                &[
                    "--inh-caps",
                    "-all,+net_admin",
                    "--ambient-caps",
                    "+net_admin",
                    "--bounding-set",
                    "-all,+net_admin",
                ],
                "0000000000001000",
            ),
        };
        prefix.args(words).arg("--no-new-privs");
        let sidecar = Launched::start(prefix, yaml, Some((authority, account))).await;
        let status = std::fs::read_to_string(format!("/proc/{}/status", sidecar.pid())).expect("a process");
        let is = |line: &str| status.lines().any(|known| known.split_whitespace().eq(line.split(' ')));
        assert!(is(&format!("CapEff: {effective}")) && is("Uid: 1337 1337 1337 1337"), "{status}");
        sidecar
    }
}

/// A service of the caller's sidecar for each version of IP: a port of the service's address, which leads to a port of
/// one or more pods with the identity `account`.
pub(crate) fn service(name: &str, port: u16, pods: &[&Pod], at: u16, account: &str) -> String {
    let one = |version: Version| {
        let endpoints: Vec<String> = pods.iter().map(|pod| format!("\"{}\"", pod.at(version, at))).collect();
        format!(
            "  {name}-{}: {{ addresses: [\"{}\"], endpoints: [{}], tls: \"{}\", connect_timeout: 20s }}\n",
            version.digit(),
            version.service(port),
            endpoints.join(", "),
            super::certs::spiffe(account),
        )
    };
    Version::BOTH.map(one).concat()
}
