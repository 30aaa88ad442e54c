//! Network namespaces of one test, with the kernel's redirection as an init container leaves it in a pod.
//!
//! Deliberately absent: `pillion init`, whose rules have their own tests. The rules here are the simplest that
//! redirect.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use super::certs::Authority;
use super::eventually;
use super::launched::Launched;
use super::tools::printed;

/// The user of the sidecar, whose connections the rules leave alone.
pub(crate) const SIDECAR: &str = "1337";
pub(crate) const OUTBOUND_PORT: &str = "15001";
pub(crate) const INBOUND_PORT: &str = "15006";

/// The test's addresses in one version of IP. Nothing answers at `service` and `nobody`: they are only routed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Family {
    pub(crate) pod: IpAddr,
    pub(crate) world: IpAddr,
    pub(crate) loopback: IpAddr,
    /// A virtual address, as a cluster gives to a service.
    pub(crate) service: IpAddr,
    /// Another virtual address, which no configuration has.
    pub(crate) nobody: IpAddr,
}

pub(crate) fn families() -> [Family; 2] {
    let family = |[pod, world, loopback, service, nobody]: [&str; 5]| {
        let ip = |text: &str| text.parse().expect("an IP address");
        Family {
            pod: ip(pod),
            world: ip(world),
            loopback: ip(loopback),
            service: ip(service),
            nobody: ip(nobody),
        }
    };
    [
        family(["10.97.0.1", "10.97.0.2", "127.0.0.1", "10.96.0.10", "10.96.0.99"]),
        family(["fd00:97::1", "fd00:97::2", "::1", "fd00:96::10", "fd00:96::99"]),
    ]
}

/// These ports of one address in both versions of IP, as items of a YAML list.
pub(crate) fn in_both(address: impl Fn(Family) -> IpAddr, port: u16) -> String {
    families().map(|family| format!("\"{}\"", SocketAddr::new(address(family), port))).join(", ")
}

/// Two hosts with a link between them: a pod, and the "world". The pod's default route leads to the world.
pub(crate) struct Hosts {
    pub(crate) pod: Namespace,
    pub(crate) world: Namespace,
}

impl Hosts {
    /// `None`, with the reason printed, when this machine cannot make them (no root, no iptables).
    pub(crate) fn new() -> Option<Self> {
        sweep();
        match Namespace::new("pod").and_then(|pod| Ok(Self { pod, world: Namespace::new("world")? })) {
            Ok(hosts) => {
                hosts.join();
                Some(hosts)
            }
            Err(why) => {
                let must = std::env::var("PILLION_TEST_REQUIRE").is_ok_and(|tools| tools == "all");
                assert!(!must, "no network namespace with rules ({why}), and PILLION_TEST_REQUIRE=all");
                println!("skipped: no network namespace with rules: {why}");
                None
            }
        }
    }

    fn join(&self) {
        let Self { pod, world } = self;
        self.lay("cable", [["10.97.0.1/24", "fd00:97::1/64"], ["10.97.0.2/24", "fd00:97::2/64"]]);
        pod.ip(&["link", "set", "lo", "up"]);
        world.ip(&["link", "set", "lo", "up"]);
        for gateway in families().map(|family| family.world.to_string()) {
            pod.ip(&["route", "add", "default", "via", &gateway]);
        }
    }

    /// Adds a second link, called `bypass`, that goes past the sidecars. Returns the world's address on it.
    pub(crate) fn lay_bypass(&self) -> IpAddr {
        self.lay("bypass", [["10.98.0.1/24", "fd00:98::1/64"], ["10.98.0.2/24", "fd00:98::2/64"]]);
        "10.98.0.2".parse().expect("an address")
    }

    fn lay(&self, name: &str, [pods, worlds]: [[&str; 2]; 2]) {
        let Self { pod, world } = self;
        let cable = ["link", "add", name, "netns", &pod.name, "type", "veth", "peer", "name", name];
        ip(&[&cable[..], &["netns", &world.name]].concat());
        for (host, addresses) in [(pod, pods), (world, worlds)] {
            for address in addresses {
                // `nodad`: the address is usable at once, without duplicate address detection.
                host.ip(&["address", "add", address, "dev", name, "nodad"]);
            }
            host.ip(&["link", "set", name, "up"]);
        }
    }
}

/// The network of one host. Its processes must have ended before it is dropped.
pub(crate) struct Namespace {
    pub(crate) name: String,
    /// The pair of programs for IPv4 and IPv6 that work with this kernel.
    tables: [&'static str; 2],
}

impl Namespace {
    pub(crate) fn new(kind: &str) -> Result<Self, String> {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("pillion-{}-{}-{kind}", std::process::id(), COUNT.fetch_add(1, Relaxed));
        ran("ip", &["netns", "add", &name])?;
        let mut made = Self { name, tables: ["iptables", "ip6tables"] };
        made.tables = made.working_tables()?;
        Ok(made)
    }

    /// Finds the iptables programs that work: distributions choose between two variants, and a kernel may have only one
    /// of them.
    fn working_tables(&self) -> Result<[&'static str; 2], String> {
        let pairs = [
            ["iptables", "ip6tables"],
            ["iptables-legacy", "ip6tables-legacy"],
            ["iptables-nft", "ip6tables-nft"],
        ];
        let works = |pair: &[&str; 2]| {
            pair.iter().try_for_each(|tool| self.run(&[tool, "-w", "30", "-t", "nat", "-S"]).map(drop))
        };
        let why = works(&pairs[0]).err().unwrap_or_default();
        pairs.into_iter().find(|pair| works(pair).is_ok()).ok_or(why)
    }

    /// Redirects what the host's programs send to the sidecar's outbound port, except what the sidecar sends.
    pub(crate) fn redirect_outgoing(&self) {
        let owner = ["-m", "owner", "!", "--uid-owner", SIDECAR];
        self.redirect("OUTPUT", &owner, OUTBOUND_PORT);
    }

    /// Redirects what other hosts send to the sidecar's inbound port.
    pub(crate) fn redirect_incoming(&self) {
        self.redirect("PREROUTING", &[], INBOUND_PORT);
    }

    /// Sets the resolv.conf of programs that are started in it from now on.
    pub(crate) fn resolve_by(&self, resolv_conf: &str) {
        let folder = self.own_files();
        std::fs::create_dir_all(&folder).expect("root may");
        std::fs::write(folder.join("resolv.conf"), resolv_conf).expect("root may");
    }

    /// The folder whose files `ip netns exec` puts over /etc.
    fn own_files(&self) -> PathBuf {
        Path::new("/etc/netns").join(&self.name)
    }

    fn redirect(&self, chain: &str, only: &[&str], port: &str) {
        for family in families() {
            let rule =
                [&["-t", "nat", "-A", chain, "-p", "tcp"], only, &["-j", "REDIRECT", "--to-ports", port]];
            self.table(family, &rule.concat());
        }
    }

    /// Runs one command of iptables or ip6tables.
    pub(crate) fn table(&self, family: Family, words: &[&str]) {
        let [v4, v6] = self.tables;
        let tool = if family.pod.is_ipv4() { v4 } else { v6 };
        self.run(&[&[tool, "-w", "30"], words].concat()).unwrap_or_else(|error| unreachable!("{error}"));
    }

    /// A prefix that runs a command in this namespace as root, like an application. The command is killed when the test
    /// ends.
    pub(crate) fn enter(&self) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, "setpriv", "--pdeathsig", "KILL"]);
        command
    }

    /// Like [`Self::enter`], as the sidecar's user, which the rules leave alone.
    pub(crate) fn enter_as_sidecar(&self) -> Command {
        let mut command = self.enter();
        command.args(["--reuid", SIDECAR, "--regid", SIDECAR, "--clear-groups"]);
        command
    }

    /// Like [`Self::enter_as_sidecar`], with the one capability that TPROXY needs.
    pub(crate) fn enter_as_sidecar_for_tproxy(&self) -> Command {
        let mut command = self.enter_as_sidecar();
        command.args(["--inh-caps", "+net_admin", "--ambient-caps", "+net_admin"]);
        command
    }

    pub(crate) async fn sidecar(&self, yaml: &str) -> Launched {
        Launched::start(self.enter_as_sidecar(), yaml, None).await
    }

    pub(crate) async fn identified_sidecar(
        &self,
        yaml: &str,
        authority: &Authority,
        account: &str,
    ) -> Launched {
        Launched::start(self.enter_as_sidecar(), yaml, Some((authority, account))).await
    }

    pub(crate) async fn sidecar_for_tproxy(&self, yaml: &str) -> Launched {
        Launched::start(self.enter_as_sidecar_for_tproxy(), yaml, None).await
    }

    pub(crate) async fn identified_sidecar_for_tproxy(
        &self,
        yaml: &str,
        authority: &Authority,
        account: &str,
    ) -> Launched {
        Launched::start(self.enter_as_sidecar_for_tproxy(), yaml, Some((authority, account))).await
    }

    /// Waits until this host's sidecar has counted this many.
    pub(crate) async fn counted(&self, count: u32, name: &str, labels: &[(&str, &str)]) {
        let (what, wanted) = (format!("{count} of {name}{labels:?}"), f64::from(count));
        eventually(&what, async || {
            let counted = self.metric(name, labels).await;
            assert!(counted <= wanted, "{what}: {counted} were counted");
            (counted == wanted).then_some(())
        })
        .await;
    }

    /// The sum over all series of `name` that have these labels, on this host's sidecar.
    pub(crate) async fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let mut scrape = self.enter_as_sidecar();
        scrape.args(["curl", "--silent", "--show-error", "--fail", "http://127.0.0.1:15020/metrics"]);
        let text = printed(scrape).await;
        let labels: Vec<_> = labels.iter().map(|(key, value)| format!("{key}=\"{value}\"")).collect();
        let series =
            text.lines().filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with('{')));
        let ours = series.filter(|line| labels.iter().all(|label| line.contains(label)));
        ours.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    pub(crate) fn ip(&self, words: &[&str]) {
        ip(&[&["-netns", &self.name], words].concat());
    }

    fn run(&self, words: &[&str]) -> Result<String, String> {
        ran("ip", &[&["netns", "exec", &self.name], words].concat())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        drop(ran("ip", &["netns", "delete", &self.name]));
        drop(std::fs::remove_dir_all(self.own_files()));
    }
}

/// Removes namespaces that a killed run left: those named after a process that has ended.
pub(crate) fn sweep() {
    let names = ran("ip", &["netns", "list"]).unwrap_or_default();
    for name in names.lines().filter_map(|line| line.split(' ').next()) {
        let maker = name.strip_prefix("pillion-").and_then(|rest| rest.split('-').next());
        if maker.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            drop(ran("ip", &["netns", "delete", name]));
            drop(std::fs::remove_dir_all(Path::new("/etc/netns").join(name)));
        }
    }
}

pub(crate) fn ip(words: &[&str]) {
    ran("ip", words).unwrap_or_else(|error| unreachable!("{error}"));
}

/// Runs a command. Returns what it printed, or why it failed.
fn ran(program: &str, words: &[&str]) -> Result<String, String> {
    let command = format!("{program} {}", words.join(" "));
    let Output { status, stdout, stderr } =
        Command::new(program).args(words).output().map_err(|error| format!("{command}: {error}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if status.success() { Ok(text(&stdout)) } else { Err(format!("{command}: {}", text(&stderr))) }
}
