//! The rules as a script for `nft -f -`: one table of our own for both IP versions, replaced in one transaction.
//!
//! The script has the format of `nft -y list`, so that a comparison of texts shows whether anything would change.

use std::fmt::Write as _;

use crate::MARK;
use crate::rules::{Chain, Hook, Match, Rule, RuleAction, RuleSet, Table};
use crate::words::{Cidr, Family, Interface};

/// The name of our table. No other program uses it.
pub(crate) const TABLE: &str = "inet pillion";

/// The script that replaces the table. It adds the table first, because deleting an absent table would fail.
pub(crate) fn script(rules: &RuleSet, families: &[Family]) -> String {
    replacing(&table(rules, families))
}

/// The script that replaces the table by one that `nft list` printed.
pub(crate) fn replacing(table: &str) -> String {
    format!("add table {TABLE}\ndelete table {TABLE}\n{table}")
}

pub(crate) fn removal() -> String {
    format!("delete table {TABLE}\n")
}

pub(crate) const fn family_name(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    }
}

/// The table without the commands around it.
pub(crate) fn table(rules: &RuleSet, families: &[Family]) -> String {
    let chains: Vec<_> = rules.chains.iter().map(|one| chain(one, families)).collect();
    format!("table {TABLE} {{\n{}}}\n", chains.join("\n"))
}

fn chain(chain: &Chain, families: &[Family]) -> String {
    let mut text = format!("\tchain {} {{\n", chain.name);
    if let Some(hook) = chain.hook {
        text += &base(chain.table, hook);
    }
    let ours = chain.rules.iter().filter(|rule| families.iter().any(|family| rule.is_for(*family)));
    for line in ours.flat_map(lines) {
        _ = writeln!(text, "\t\t{line}");
    }
    text + "\t}\n"
}

/// One before the priority of iptables' NAT chains: the first rule that decides on an address wins, and a pod's network
/// may have NAT rules of its own (Docker's resolver).
const NAT_PRIORITY: i16 = -101;

fn base(table: Table, hook: Hook) -> String {
    let (kind, priority) = match (table, hook) {
        (Table::Raw, _) => ("filter", -300),
        (Table::Mangle, Hook::Prerouting) => ("filter", -150),
        // this type of chain routes a packet again if its mark has changed
        (Table::Mangle, Hook::Output) => ("route", -150),
        (Table::Nat, _) => ("nat", NAT_PRIORITY),
    };
    let hook = match hook {
        Hook::Prerouting => "prerouting",
        Hook::Output => "output",
    };
    format!("\t\ttype {kind} hook {hook} priority {priority}; policy accept;\n")
}

fn lines(rule: &Rule) -> Vec<String> {
    let words: Vec<_> = rule.matches.iter().map(matching).collect();
    let line = |verdict: String| format!("{} {verdict}", words.join(" "));
    match rule.verdict {
        RuleAction::Leave => vec![line("return".to_owned())],
        RuleAction::Jump(chain) => vec![line(format!("jump {chain}"))],
        RuleAction::Redirect(port) => vec![line(format!("redirect to :{port}"))],
        // If no socket listens on the port, nft continues with the next rule, and the packet would reach the
        // application. It is refused and not dropped (Linux 5.9): clients of a sidecar that has ended then go elsewhere
        // at once and do not wait for a timeout.
        RuleAction::Tproxy(port) => {
            vec![line(format!("tproxy to :{port} accept")), line("reject with tcp reset".to_owned())]
        }
        RuleAction::Mark => vec![line(format!("meta mark set {MARK:#010x}"))],
        RuleAction::MarkConnection => vec![line(format!("ct mark set {MARK:#010x}"))],
        RuleAction::Zone(zone) => vec![line(format!("ct zone set {zone}"))],
    }
}

fn matching(one: &Match) -> String {
    match one {
        Match::Protocol(protocol) => format!("meta l4proto {}", protocol.name()),
        Match::From(network) => address(network, "saddr", ""),
        Match::To(network) => address(network, "daddr", ""),
        Match::NotTo(network) => address(network, "daddr", "!= "),
        Match::ToThisHost => "fib daddr type local".to_owned(),
        Match::Port(protocol, port) => format!("{} dport {port}", protocol.name()),
        Match::SourcePort(protocol, port) => format!("{} sport {port}", protocol.name()),
        Match::Into(interface) => format!("iifname {}", quoted(interface)),
        Match::OutOf(interface) => format!("oifname {}", quoted(interface)),
        Match::IntoLoopback(is) => format!("iifname {}\"lo\"", negation(*is)),
        Match::OutOfLoopback(is) => format!("oifname {}\"lo\"", negation(*is)),
        Match::Uid(uid) => format!("meta skuid {uid}"),
        Match::Gid(gid) => format!("meta skgid {gid}"),
        Match::Marked => format!("meta mark {MARK:#010x}"),
        Match::ConnectionMarked => format!("ct mark {MARK:#010x}"),
        Match::Original => "ct direction original".to_owned(),
        Match::Reply => "ct direction reply".to_owned(),
    }
}

const fn negation(is: bool) -> &'static str {
    if is { "" } else { "!= " }
}

fn quoted(interface: &Interface) -> String {
    format!("\"{}{}\"", interface.name(), if interface.is_prefix() { "*" } else { "" })
}

fn address(network: &Cidr, field: &str, negation: &str) -> String {
    let family = family_name(network.family());
    let version = match network.family() {
        Family::V4 => "ipv4",
        Family::V6 => "ipv6",
    };
    match network {
        all if all.is_everything() => format!("meta nfproto {negation}{version}"),
        one if one.is_one_address() => format!("{family} {field} {negation}{}", one.address()),
        network => format!("{family} {field} {negation}{network}"),
    }
}
