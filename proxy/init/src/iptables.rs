//! The rules for iptables: the lines of one table for one IP version, as `iptables-save` prints them.
//!
//! Existing rules are read from the same kind of text. Only lines that are exactly like ours count as ours. A change is
//! input for `iptables-restore --noflush`, with one transaction for each table.

use crate::MARK;
use crate::made::Made;
use crate::rules::{
    CHAINS, Chain, Hook, Match, Protocol, Rule, RuleAction, RuleSet, Table, hook_name, own_name, table_name,
};
use crate::words::{Cidr, Family, Interface};

pub(crate) const TABLES: [Table; 3] = [Table::Raw, Table::Mangle, Table::Nat];

/// Our part of one table, as it is or as it shall be.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Ours {
    /// Names of chains.
    pub(crate) chains: Vec<String>,
    /// Jumps from the kernel's chains to ours, such as `OUTPUT -j PILLION_OUTPUT`.
    pub(crate) jumps: Vec<String>,
    /// Rules in our chains, such as `PILLION_OUTPUT -p tcp -j RETURN`.
    pub(crate) rules: Vec<String>,
}

impl Ours {
    pub(crate) fn is_empty(&self) -> bool {
        self.chains.is_empty() && self.jumps.is_empty()
    }

    /// The kernel's chains that must jump to our chains.
    pub(crate) fn hooks(&self, table: Table) -> impl Iterator<Item = Hook> {
        let entries = CHAINS.into_iter().filter(move |(of, ..)| *of == table);
        let jumped = entries.filter_map(|(_, name, hook)| hook.map(|hook| (hook, jump(hook, name))));
        jumped.filter(|(_, jump)| self.jumps.contains(jump)).map(|(hook, _)| hook)
    }

    /// Our part of this table, according to the rules.
    pub(crate) fn of(rules: &RuleSet, table: Table, family: Family) -> Self {
        let mut ours = Self::default();
        for chain in rules.chains.iter().filter(|chain| chain.table == table) {
            ours.chains.push(own_name(chain.name));
            ours.jumps.extend(chain.hook.map(|hook| jump(hook, chain.name)));
            ours.rules.extend(lines(chain, family));
        }
        ours
    }

    /// What `iptables-nft` created for the rules, as their chains record it.
    pub(crate) fn made(&self) -> impl Iterator<Item = Made> {
        self.chains.iter().filter_map(|chain| Made::of(chain))
    }

    /// Our part of the text that `iptables-save -t TABLE` printed.
    pub(crate) fn found(saved: &str, table: Table) -> Self {
        let names = || CHAINS.into_iter().filter(move |(of, ..)| *of == table);
        let is_own =
            |chain: &str| Made::of(chain).is_some() || names().any(|(_, name, _)| own_name(name) == chain);
        let is_jump =
            |line: &str| names().any(|(_, name, hook)| hook.is_some_and(|hook| jump(hook, name) == line));
        let mut ours = Self::default();
        for line in saved.lines() {
            let first = |text: &str| text.split(' ').next().unwrap_or_default().to_owned();
            if let Some(chain) = line.strip_prefix(':').map(first).filter(|chain| is_own(chain)) {
                ours.chains.push(chain);
            } else if let Some(rule) = line.strip_prefix("-A ") {
                match rule {
                    rule if is_own(&first(rule)) => ours.rules.push(rule.to_owned()),
                    rule if is_jump(rule) => ours.jumps.push(rule.to_owned()),
                    _ => {}
                }
            }
        }
        ours
    }

    /// Whether both hold the same rules. The order of chains is not compared, because the tool chooses it.
    pub(crate) fn equals(&self, other: &Self) -> bool {
        let sorted = |list: &[String]| {
            let mut list = list.to_vec();
            list.sort_unstable();
            list
        };
        let of_chain = |ours: &Self| {
            let mut rules: Vec<_> = ours.rules.clone();
            // the sort is stable, because within a chain the order of rules matters
            rules.sort_by(|a, b| a.split(' ').next().cmp(&b.split(' ').next()));
            rules
        };
        sorted(&self.chains) == sorted(&other.chains)
            && sorted(&self.jumps) == sorted(&other.jumps)
            && of_chain(self) == of_chain(other)
    }
}

/// The transaction that changes `before` to `after`.
///
/// Our jumps are inserted at the start of a chain: the first rule that decides on an address wins, so they must precede
/// the jumps of other programs. Naming a chain in the input empties it.
pub(crate) fn change(table: Table, before: &Ours, after: &Ours) -> String {
    let gone: Vec<_> = before.chains.iter().filter(|name| !after.chains.contains(name)).collect();
    let mut lines = vec![format!("*{}", table_name(table))];
    lines.extend(after.chains.iter().map(|name| format!(":{name} - [0:0]")));
    lines.extend(before.jumps.iter().map(|jump| format!("-D {jump}")));
    lines.extend(gone.iter().map(|name| format!("-F {name}")));
    lines.extend(gone.iter().map(|name| format!("-X {name}")));
    lines.extend(after.rules.iter().map(|rule| format!("-A {rule}")));
    lines.extend(after.jumps.iter().map(|jump| format!("-I {jump}")));
    lines.push("COMMIT\n".to_owned());
    lines.join("\n")
}

fn jump(hook: Hook, chain: &str) -> String {
    format!("{} -j {}", hook_name(hook), own_name(chain))
}

fn lines(chain: &Chain, family: Family) -> Vec<String> {
    let rules = chain.rules.iter().filter(|rule| rule.is_for(family));
    rules.map(|rule| format!("{} {}", own_name(chain.name), line(rule, family))).collect()
}

/// The words of one rule, in the tool's order: addresses, interfaces and the protocol come before everything else.
fn line(rule: &Rule, family: Family) -> String {
    let mut words: Vec<_> = rule.matches.iter().flat_map(matching).collect();
    words.sort_by_key(|(place, _)| *place);
    let words = words.into_iter().map(|(_, word)| word).chain([verdict(rule.verdict, family)]);
    words.collect::<Vec<_>>().join(" ")
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Order {
    Source,
    Destination,
    Into,
    OutOf,
    Protocol,
    Extension,
}

fn matching(one: &Match) -> Vec<(Order, String)> {
    let extension = |text: String| vec![(Order::Extension, text)];
    match one {
        Match::Protocol(protocol) => vec![(Order::Protocol, format!("-p {}", protocol.name()))],
        Match::From(network) => address(Order::Source, "-s", network),
        Match::To(network) => address(Order::Destination, "-d", network),
        Match::NotTo(network) => address(Order::Destination, "! -d", network),
        Match::Into(interface) => vec![(Order::Into, format!("-i {}", pattern(interface)))],
        Match::OutOf(interface) => vec![(Order::OutOf, format!("-o {}", pattern(interface)))],
        Match::IntoLoopback(is) => vec![(Order::Into, format!("{}-i lo", negation(*is)))],
        Match::OutOfLoopback(is) => vec![(Order::OutOf, format!("{}-o lo", negation(*is)))],
        Match::Port(protocol, port) => ported(*protocol, "--dport", *port),
        Match::SourcePort(protocol, port) => ported(*protocol, "--sport", *port),
        Match::ToThisHost => extension("-m addrtype --dst-type LOCAL".to_owned()),
        Match::Uid(uid) => extension(format!("-m owner --uid-owner {uid}")),
        Match::Gid(gid) => extension(format!("-m owner --gid-owner {gid}")),
        Match::Marked => extension(format!("-m mark --mark {MARK:#x}")),
        Match::ConnectionMarked => extension(format!("-m connmark --mark {MARK:#x}")),
        Match::Original => extension("-m conntrack --ctdir ORIGINAL".to_owned()),
        Match::Reply => extension("-m conntrack --ctdir REPLY".to_owned()),
    }
}

/// A network that contains every address needs no match, because the IP version says it already.
fn address(place: Order, flag: &str, network: &Cidr) -> Vec<(Order, String)> {
    if network.is_everything() { Vec::new() } else { vec![(place, format!("{flag} {network}"))] }
}

fn ported(protocol: Protocol, flag: &str, port: u16) -> Vec<(Order, String)> {
    let name = protocol.name();
    vec![(Order::Protocol, format!("-p {name}")), (Order::Extension, format!("-m {name} {flag} {port}"))]
}

const fn negation(is: bool) -> &'static str {
    if is { "" } else { "! " }
}

fn pattern(interface: &Interface) -> String {
    format!("{}{}", interface.name(), if interface.is_prefix() { "+" } else { "" })
}

fn verdict(verdict: RuleAction, family: Family) -> String {
    let any = match family {
        Family::V4 => "0.0.0.0",
        Family::V6 => "::",
    };
    match verdict {
        RuleAction::Leave => "-j RETURN".to_owned(),
        RuleAction::Jump(chain) => format!("-j {}", own_name(chain)),
        RuleAction::Redirect(port) => format!("-j REDIRECT --to-ports {port}"),
        // if no socket listens on the port, iptables drops the packet
        RuleAction::Tproxy(port) => format!("-j TPROXY --on-port {port} --on-ip {any} --tproxy-mark 0x0/0x0"),
        RuleAction::Mark => format!("-j MARK --set-xmark {MARK:#x}/0xffffffff"),
        RuleAction::MarkConnection => format!("-j CONNMARK --set-xmark {MARK:#x}/0xffffffff"),
        RuleAction::Zone(zone) => format!("-j CT --zone {zone}"),
    }
}
