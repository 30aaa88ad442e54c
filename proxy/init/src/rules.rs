//! Which connections go where: the whole rule set as a pure function of the options.
//!
//! One model for every backend. A rule without an address holds for IPv4 and IPv6 alike; renderers know how each
//! backend says it, and nothing else. First match wins; the end of a chain leaves the connection alone.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::options::{Mode, Networks, Options, Ports};
use crate::words::{Cidr, Family, Interface};
use crate::{SELF_V4, SELF_V6, VIRTUAL_V4, VIRTUAL_V6};

/// All chains, those that others jump to before those that jump.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleSet {
    pub(crate) chains: Vec<Chain>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Chain {
    pub(crate) table: Table,
    pub(crate) name: &'static str,
    /// Where packets enter it by themselves; `None`: only by a jump.
    pub(crate) hook: Option<Hook>,
    pub(crate) rules: Vec<Rule>,
}

/// The kernel's stages, as iptables calls them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Table {
    Raw,
    Mangle,
    Nat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Hook {
    Prerouting,
    Output,
}

pub(crate) const fn table_name(table: Table) -> &'static str {
    match table {
        Table::Raw => "raw",
        Table::Mangle => "mangle",
        Table::Nat => "nat",
    }
}

pub(crate) const fn hook_name(hook: Hook) -> &'static str {
    match hook {
        Hook::Prerouting => "PREROUTING",
        Hook::Output => "OUTPUT",
    }
}

/// `PILLION_OUTPUT`: at most 28 bytes, the kernel's bound.
pub(crate) fn own_name(chain: &str) -> String {
    format!("PILLION_{}", chain.to_ascii_uppercase())
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) matches: Vec<Match>,
    pub(crate) verdict: RuleAction,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Match {
    Protocol(Protocol),
    From(Cidr),
    To(Cidr),
    NotTo(Cidr),
    /// The destination is an address of this host.
    ToThisHost,
    Port(Protocol, u16),
    SourcePort(Protocol, u16),
    Into(Interface),
    OutOf(Interface),
    IntoLoopback(bool),
    OutOfLoopback(bool),
    Uid(u32),
    Gid(u32),
    /// The packet's mark is `MARK`.
    Marked,
    /// The connection's is.
    ConnectionMarked,
    /// From who began the connection, or towards it.
    Original,
    Reply,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Tcp,
    Udp,
}

impl Protocol {
    /// As both backends write it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RuleAction {
    /// Back to whence the chain was entered: not ours.
    Leave,
    Jump(&'static str),
    Redirect(u16),
    /// Hand to the listener at this port as it is; where nobody listens, refuse it, or drop it where the backend
    /// knows no better.
    Tproxy(u16),
    /// The packet's mark becomes `MARK`.
    Mark,
    /// The connection's does.
    MarkConnection,
    /// Keep the connection apart from others with the same addresses and ports.
    Zone(u16),
}

pub(crate) const OUTPUT: &str = "output";
pub(crate) const PREROUTING: &str = "prerouting";
pub(crate) const INBOUND: &str = "inbound";
const MANGLE_OUTPUT: &str = "mangle_output";
const MANGLE_PREROUTING: &str = "mangle_prerouting";
const RAW_OUTPUT: &str = "raw_output";
const RAW_PREROUTING: &str = "raw_prerouting";

/// Every name a chain of ours may have; removal looks for these and no others.
pub(crate) const CHAINS: [(Table, &str, Option<Hook>); 7] = [
    (Table::Raw, RAW_PREROUTING, Some(Hook::Prerouting)),
    (Table::Raw, RAW_OUTPUT, Some(Hook::Output)),
    (Table::Mangle, MANGLE_PREROUTING, Some(Hook::Prerouting)),
    (Table::Mangle, MANGLE_OUTPUT, Some(Hook::Output)),
    (Table::Nat, INBOUND, None),
    (Table::Nat, PREROUTING, Some(Hook::Prerouting)),
    (Table::Nat, OUTPUT, Some(Hook::Output)),
];

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

impl RuleSet {
    /// Whether packets are routed by their mark.
    pub(crate) fn marks(&self) -> bool {
        self.chains.iter().flat_map(|chain| &chain.rules).any(|rule| rule.verdict == RuleAction::Mark)
    }
}

impl Rule {
    /// The only version of IP that its addresses leave, if they do.
    fn family(&self) -> Option<Family> {
        self.matches.iter().find_map(|one| match one {
            Match::From(network) | Match::To(network) | Match::NotTo(network) => Some(network.family()),
            _ => None,
        })
    }

    pub(crate) fn is_for(&self, family: Family) -> bool {
        self.family().is_none_or(|only| only == family)
    }
}

const DNS: u16 = 53;
/// Any number but 0, where everything else is.
const ZONE: RuleAction = RuleAction::Zone(1);

const LOOPBACK_V4: Cidr = Cidr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 0)), 8);
const LOOPBACK_V6: Cidr = Cidr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), 128);
const SELVES: [Cidr; 2] = [Cidr::new(IpAddr::V4(SELF_V4), 32), Cidr::new(IpAddr::V6(SELF_V6), 128)];
const VIRTUAL: [Cidr; 2] =
    [Cidr::new(IpAddr::V4(VIRTUAL_V4.0), VIRTUAL_V4.1), Cidr::new(IpAddr::V6(VIRTUAL_V6.0), VIRTUAL_V6.1)];
const TCP: Match = Match::Protocol(Protocol::Tcp);

/// The rules these options mean.
pub fn rules(options: &Options) -> RuleSet {
    let content = |name: &str| match name {
        INBOUND => inbound(options, RuleAction::Redirect(options.inbound_port)),
        PREROUTING => prerouting(options),
        OUTPUT => output(options),
        MANGLE_PREROUTING => mangle_prerouting(options),
        MANGLE_OUTPUT => mangle_output(options),
        RAW_PREROUTING => raw_prerouting(options),
        _ => raw_output(options),
    };
    let chains =
        CHAINS.into_iter().map(|(table, name, hook)| Chain { table, name, hook, rules: content(name) });
    RuleSet { chains: chains.filter(|chain| !chain.rules.is_empty()).collect() }
}

fn rule<const N: usize>(matches: [Match; N], verdict: RuleAction) -> Rule {
    Rule { matches: matches.into(), verdict }
}

fn leave<const N: usize>(matches: [Match; N]) -> Rule {
    rule(matches, RuleAction::Leave)
}

/// What programs of this host begin.
fn output(options: &Options) -> Vec<Rule> {
    let capture = RuleAction::Redirect(options.outbound_port);
    let mut rules = own_legs(options);
    rules.extend(dns(options));
    // Before anything can leave them out: only the sidecar knows who is meant.
    rules.extend(VIRTUAL.map(|network| rule([Match::To(network), TCP], capture)));
    // Loopback, and this host's own addresses: what an application says to itself by address.
    rules.push(leave([Match::OutOfLoopback(true)]));
    rules.extend(options.exclude_interfaces.iter().map(|name| leave([Match::OutOf(name.clone())])));
    rules
        .extend(options.exclude_outbound_ports.iter().map(|port| leave([Match::Port(Protocol::Tcp, *port)])));
    rules.extend(options.exclude_outbound.iter().map(|network| leave([Match::To(*network)])));
    match &options.include_outbound {
        Networks::All => rules.push(rule([TCP], capture)),
        Networks::Only(networks) => {
            rules.extend(networks.iter().map(|network| rule([Match::To(*network), TCP], capture)));
        }
    }
    rules
}

/// Who the sidecar is, one match each.
fn owners(options: &Options) -> impl Iterator<Item = Match> {
    [Some(Match::Uid(options.proxy_uid)), options.proxy_gid.map(Match::Gid)].into_iter().flatten()
}

/// What the sidecar itself begins: towards the application, towards this host as any other, or elsewhere.
fn own_legs(options: &Options) -> Vec<Rule> {
    // On loopback alone: from ::6 an application could else reach the world past the sidecar.
    let mut rules = Vec::from(SELVES.map(|own| leave([Match::From(own), Match::OutOfLoopback(true)])));
    if options.mode == Mode::Tproxy {
        rules.push(leave([Match::Marked]));
    }
    for owner in owners(options) {
        // The application called a service whose endpoint is this very host: it comes in like any other call.
        rules.extend([LOOPBACK_V4, LOOPBACK_V6].map(|loopback| {
            let to_itself = [Match::NotTo(loopback), Match::OutOfLoopback(true), TCP, owner.clone()];
            rule(to_itself, RuleAction::Jump(INBOUND))
        }));
        rules.push(leave([owner]));
    }
    rules
}

/// Also where the resolver is on loopback, as Docker's is.
fn dns(options: &Options) -> Vec<Rule> {
    let ask = |protocol| rule([Match::Port(protocol, DNS)], RuleAction::Redirect(options.dns_port));
    if options.dns { vec![ask(Protocol::Udp), ask(Protocol::Tcp)] } else { Vec::new() }
}

/// What others begin, and what this host's sidecar began towards this host.
fn inbound(options: &Options, capture: RuleAction) -> Vec<Rule> {
    let left = options.own_ports().into_iter().chain(options.exclude_inbound_ports.iter().copied());
    let mut rules: Vec<_> = left.map(|port| leave([Match::Port(Protocol::Tcp, port)])).collect();
    match &options.inbound_ports {
        Ports::All => rules.push(rule([TCP], capture)),
        Ports::Only(ports) => {
            rules.extend(ports.iter().map(|port| rule([Match::Port(Protocol::Tcp, *port)], capture)));
        }
    }
    rules
}

fn prerouting(options: &Options) -> Vec<Rule> {
    match options.mode {
        Mode::Redirect => {
            let mut rules = excluded_sources(options);
            rules.push(rule([TCP, Match::ToThisHost], RuleAction::Jump(INBOUND)));
            rules
        }
        Mode::Tproxy => Vec::new(),
    }
}

fn excluded_sources(options: &Options) -> Vec<Rule> {
    options.exclude_interfaces.iter().map(|name| leave([Match::Into(name.clone())])).collect()
}

/// The packets keep their addresses, so connections that are established come by here too: the kernel finds their
/// socket by those addresses before it looks for a listener. They need no mark, since they are for this host
/// anyway; with one, a kernel that lets sockets inherit marks would send the sidecar's answers back to itself.
fn mangle_prerouting(options: &Options) -> Vec<Rule> {
    match options.mode {
        Mode::Redirect => Vec::new(),
        Mode::Tproxy => {
            // Between the sidecar and the application; and answers to what this host began, whose sockets are not
            // transparent: the kernel would drop them.
            let mut rules = vec![leave([Match::IntoLoopback(true)]), leave([TCP, Match::Reply])];
            rules.extend(excluded_sources(options));
            rules.extend(inbound(options, RuleAction::Tproxy(options.inbound_port)).into_iter().map(
                |mut rule| {
                    if rule.verdict != RuleAction::Leave {
                        rule.matches.push(Match::ToThisHost);
                    }
                    rule
                },
            ));
            rules
        }
    }
}

/// The sidecar speaks to the application from the client's address, marked. The connection remembers the mark, and
/// gives it to the application's answers alone: they go to the sidecar, not to the client.
fn mangle_output(options: &Options) -> Vec<Rule> {
    match options.mode {
        Mode::Redirect => Vec::new(),
        Mode::Tproxy => vec![
            rule([TCP, Match::Original, Match::Marked], RuleAction::MarkConnection),
            rule([TCP, Match::Reply, Match::ConnectionMarked], RuleAction::Mark),
        ],
    }
}

/// The sidecar's own questions to a resolver. UDP has no end that the kernel sees: were a source port used again
/// soon, the question would be taken for the application's earlier one, and redirected as that was.
fn raw_output(options: &Options) -> Vec<Rule> {
    let ask = |owner| rule([Match::OutOfLoopback(false), owner, Match::Port(Protocol::Udp, DNS)], ZONE);
    if options.dns { owners(options).map(ask).collect() } else { Vec::new() }
}

/// The answers to them; nobody else's questions leave this host.
fn raw_prerouting(options: &Options) -> Vec<Rule> {
    let answer = [Match::IntoLoopback(false), Match::SourcePort(Protocol::Udp, DNS)];
    if options.dns { vec![rule(answer, ZONE)] } else { Vec::new() }
}
