//! The whole rule set as a pure function of the options: which connections go where.
//!
//! One model for every backend. A rule without an address applies to IPv4 and IPv6; the renderers write it for their
//! backend and decide nothing else. The first match wins. A connection that reaches the end of a chain is not captured.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::options::{Mode, Networks, Options, Ports};
use crate::words::{Cidr, Family, Interface};
use crate::{SELF_V4, SELF_V6, VIRTUAL_V4, VIRTUAL_V6};

/// All chains. A chain comes before the chains that jump to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleSet {
    pub(crate) chains: Vec<Chain>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Chain {
    pub(crate) table: Table,
    pub(crate) name: &'static str,
    /// The hook at which packets enter the chain. `None`: packets enter only by a jump.
    pub(crate) hook: Option<Hook>,
    pub(crate) rules: Vec<Rule>,
}

/// The tables of the kernel, as iptables calls them.
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

/// The name of our chain, such as `PILLION_OUTPUT`. The kernel allows at most 28 bytes.
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
    /// The connection's mark is `MARK`.
    ConnectionMarked,
    /// The packet goes in the direction in which the connection began.
    Original,
    Reply,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Tcp,
    Udp,
}

impl Protocol {
    /// The name that both backends use.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RuleAction {
    /// Returns to the chain from which this one was entered: the connection is not captured.
    Leave,
    Jump(&'static str),
    Redirect(u16),
    /// Hands the packet to the listener on this port with its addresses unchanged. If no socket listens there, the
    /// connection is refused, or its packets are dropped where the backend cannot refuse.
    Tproxy(u16),
    /// Sets the packet's mark to `MARK`.
    Mark,
    /// Sets the connection's mark to `MARK`.
    MarkConnection,
    /// Tracks the connection apart from others with the same addresses and ports.
    Zone(u16),
}

pub(crate) const OUTPUT: &str = "output";
pub(crate) const PREROUTING: &str = "prerouting";
pub(crate) const INBOUND: &str = "inbound";
const MANGLE_OUTPUT: &str = "mangle_output";
const MANGLE_PREROUTING: &str = "mangle_prerouting";
const RAW_OUTPUT: &str = "raw_output";
const RAW_PREROUTING: &str = "raw_prerouting";

/// Every name that our chains may have. Removal looks for these names only.
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
    /// Whether any rule marks packets, so that they are routed by their mark.
    pub(crate) fn marks(&self) -> bool {
        self.chains.iter().flat_map(|chain| &chain.rules).any(|rule| rule.verdict == RuleAction::Mark)
    }
}

impl Rule {
    /// The only IP version to which the addresses of this rule belong, if it has any.
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
/// Any number but 0, which is the zone of all other connections.
const ZONE: RuleAction = RuleAction::Zone(1);

const LOOPBACK_V4: Cidr = Cidr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 0)), 8);
const LOOPBACK_V6: Cidr = Cidr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), 128);
const SELF_ADDRESSES: [Cidr; 2] = [Cidr::new(IpAddr::V4(SELF_V4), 32), Cidr::new(IpAddr::V6(SELF_V6), 128)];
const VIRTUAL: [Cidr; 2] =
    [Cidr::new(IpAddr::V4(VIRTUAL_V4.0), VIRTUAL_V4.1), Cidr::new(IpAddr::V6(VIRTUAL_V6.0), VIRTUAL_V6.1)];
const TCP: Match = Match::Protocol(Protocol::Tcp);

/// The rules of these options.
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

/// The rules for connections that programs of this host begin.
fn output(options: &Options) -> Vec<Rule> {
    let capture = RuleAction::Redirect(options.outbound_port);
    let mut rules = own_legs(options);
    rules.extend(dns(options));
    // first, so that no exclusion applies: only the sidecar knows the service behind a virtual address
    rules.extend(VIRTUAL.map(|network| rule([Match::To(network), TCP], capture)));
    // connections within this host, over loopback or by this host's own addresses, are not captured
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

/// One match for each way to recognise the sidecar.
fn owners(options: &Options) -> impl Iterator<Item = Match> {
    [Some(Match::Uid(options.proxy_uid)), options.proxy_gid.map(Match::Gid)].into_iter().flatten()
}

/// The rules for connections that the sidecar begins: to the application, to this host's address as a client, or to
/// other hosts.
fn own_legs(options: &Options) -> Vec<Rule> {
    // only on loopback: otherwise an application could send from ::6 to other hosts without passing through the sidecar
    let mut rules =
        Vec::from(SELF_ADDRESSES.map(|own| leave([Match::From(own), Match::OutOfLoopback(true)])));
    if options.mode == Mode::Tproxy {
        rules.push(leave([Match::Marked]));
    }
    for owner in owners(options) {
        // the application called a service whose endpoint is this very host: the connection is inbound like any other
        rules.extend([LOOPBACK_V4, LOOPBACK_V6].map(|loopback| {
            let to_itself = [Match::NotTo(loopback), Match::OutOfLoopback(true), TCP, owner.clone()];
            rule(to_itself, RuleAction::Jump(INBOUND))
        }));
        rules.push(leave([owner]));
    }
    rules
}

/// The rules for DNS queries. They also apply to a resolver on loopback, such as Docker's.
fn dns(options: &Options) -> Vec<Rule> {
    let ask = |protocol| rule([Match::Port(protocol, DNS)], RuleAction::Redirect(options.dns_port));
    if options.dns { vec![ask(Protocol::Udp), ask(Protocol::Tcp)] } else { Vec::new() }
}

/// The rules for connections that other hosts begin, and that the sidecar begins towards this host.
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

/// The rules of mode tproxy for incoming packets. The packets keep their addresses, so packets of established
/// connections pass here too: the kernel finds their socket by those addresses before it looks for a listener. They
/// need no mark, because they are addressed to this host anyway. With a mark, a kernel whose sockets inherit marks
/// would send the sidecar's answers back to the sidecar.
fn mangle_prerouting(options: &Options) -> Vec<Rule> {
    match options.mode {
        Mode::Redirect => Vec::new(),
        Mode::Tproxy => {
            // packets between the sidecar and the application are left alone, and so are answers to connections that
            // this host began: the sockets of those are not transparent, so the kernel would drop the packets
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

/// The sidecar connects to the application from the client's address, with a mark. Connection tracking stores the mark
/// and sets it on the application's answers only, so that they go to the sidecar and not to the client.
fn mangle_output(options: &Options) -> Vec<Rule> {
    match options.mode {
        Mode::Redirect => Vec::new(),
        Mode::Tproxy => vec![
            rule([TCP, Match::Original, Match::Marked], RuleAction::MarkConnection),
            rule([TCP, Match::Reply, Match::ConnectionMarked], RuleAction::Mark),
        ],
    }
}

/// The rules for the sidecar's own queries to a resolver. The kernel does not see where a UDP exchange ends: if a
/// source port were used again soon, the query would count as part of an earlier exchange of the application, and would
/// be redirected like that one.
fn raw_output(options: &Options) -> Vec<Rule> {
    let ask = |owner| rule([Match::OutOfLoopback(false), owner, Match::Port(Protocol::Udp, DNS)], ZONE);
    if options.dns { owners(options).map(ask).collect() } else { Vec::new() }
}

/// The rules for the answers to these queries. Only the sidecar's queries leave this host.
fn raw_prerouting(options: &Options) -> Vec<Rule> {
    let answer = [Match::IntoLoopback(false), Match::SourcePort(Protocol::Udp, DNS)];
    if options.dns { vec![rule(answer, ZONE)] } else { Vec::new() }
}
