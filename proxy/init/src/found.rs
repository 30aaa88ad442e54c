//! Finds our rules in this network namespace, in every rule set, whichever run installed them.

use crate::ROUTING_TABLE;
use crate::iptables::{Ours, TABLES};
use crate::machine::{Machine, Variant, has_own_address, legacy_tables};
use crate::made::Made;
use crate::nft;
use crate::rules::{Table, table_name};
use crate::state::{Piece, Slot, State, Target, flag, is_lookup, is_route};
use crate::step::Step;
use crate::words::Family;

/// Both IP versions, even if the namespace has no IPv6 now: it may have had IPv6 when rules were installed.
const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// Reads our rules. This needs CAP_NET_ADMIN; without it nothing is found.
///
/// If a program fails, its rule set holds no rules of ours: either the kernel does not know the rule set, or another
/// program owns it.
pub(crate) fn state(machine: &Machine) -> State {
    let tables = nft_tables(machine);
    let mut state = State { nft: tables.as_deref().and_then(nft_table), ..State::default() };
    for variant in [Variant::Nft, Variant::Legacy] {
        for (slot, saved) in saved(machine, variant) {
            let ours = Ours::found(&saved, slot.2);
            if !ours.is_empty() {
                state.iptables.insert(slot, ours);
            }
        }
    }
    if let Some(tables) = &tables {
        made(&mut state, tables);
    }
    state.pieces.extend(has_own_address().then_some(Piece::OwnAddress));
    if machine.has_ip {
        state.pieces.extend(FAMILIES.into_iter().flat_map(routing));
    }
    state
}

fn nft_table(tables: &[String]) -> Option<String> {
    // a table that cannot be read exists nevertheless; an empty text differs from every table that we write
    has(tables, nft::TABLE).then(|| listing(nft::TABLE).unwrap_or_default())
}

/// `None`: `nft` is not installed, or the kernel has no nftables.
fn nft_tables(machine: &Machine) -> Option<Vec<String>> {
    let tables = Step::new("nft", &["list", "tables"]);
    let listed = machine.has_nft.then(|| tables.run().ok()).flatten()?;
    Some(listed.lines().map(|line| line.trim().to_owned()).collect())
}

fn has(tables: &[String], name: &str) -> bool {
    tables.iter().any(|line| line.strip_prefix("table ") == Some(name))
}

fn listing(table: &str) -> Option<String> {
    let words: Vec<_> = ["-y", "list", "table"].into_iter().chain(table.split(' ')).collect();
    Step::new("nft", &words).run().ok()
}

/// Records which tables and chains `iptables-nft` would have to create, and which ones it created for us and no other
/// program uses.
fn made(state: &mut State, tables: &[String]) {
    for (family, table) in FAMILIES.into_iter().flat_map(|family| TABLES.map(|table| (family, table))) {
        let name = nft_name(family, table);
        let listing = has(tables, &name).then(|| listing(&name).unwrap_or_default());
        let slots = |list: Vec<Made>| list.into_iter().map(move |made| (family, table, made));
        state.absent.extend(slots(Made::absent(listing.as_deref())));
        let noted = state.iptables.get(&(Variant::Nft, family, table)).into_iter().flat_map(Ours::made);
        let free = noted.filter(|made| listing.as_ref().is_some_and(|listing| made.is_free(listing)));
        let free: Vec<_> = free.collect();
        state.free.extend(slots(free));
    }
}

/// The content of each table, including rules of other programs.
fn saved(machine: &Machine, variant: Variant) -> Vec<(Slot, String)> {
    let Some(xtables) = machine.xtables(variant) else { return Vec::new() };
    let mut found = Vec::new();
    for family in FAMILIES {
        for table in present(variant, family) {
            let program = xtables.program(family, "save");
            if let Ok(text) = Step::new(program, &["-t", table_name(table)]).run() {
                found.push(((variant, family, table), text));
            }
        }
    }
    found
}

fn present(variant: Variant, family: Family) -> Vec<Table> {
    let tables = TABLES.into_iter();
    match variant {
        Variant::Nft => tables.collect(),
        Variant::Legacy => {
            let names = legacy_tables(family);
            tables.filter(|table| names.iter().any(|name| name == table_name(*table))).collect()
        }
    }
}

/// Rule sets that may hold rules of ours, but whose program is not installed or cannot read them.
pub(crate) fn unreadable_rule_sets(machine: &Machine) -> Vec<String> {
    let is_unseen = |variant| machine.xtables(variant).is_none() && is_used(machine, variant);
    let mut unreadable_rule_sets: Vec<_> = (!machine.has_nft).then_some(Target::Nft).into_iter().collect();
    unreadable_rule_sets.extend(
        [Variant::Nft, Variant::Legacy].into_iter().filter(|of| is_unseen(*of)).map(Target::Iptables),
    );
    let describe = |target| {
        format!("{target} is not installed here: rules that were installed with it cannot be found, and stay")
    };
    unreadable_rule_sets.into_iter().map(describe).chain(unreadable(machine)).collect()
}

/// Tables of `iptables-nft` in which other programs have put rules that only `nft` can read. For these, `iptables-nft`
/// prints a message instead of rules.
fn unreadable(machine: &Machine) -> impl Iterator<Item = String> {
    let saved = saved(machine, Variant::Nft).into_iter();
    saved.filter(|(_, text)| text.contains("is incompatible, use 'nft' tool")).map(|((_, family, table), _)| {
        let table = table_name(table);
        format!("iptables-nft cannot read the table {table} ({family}): pillion's rules in it cannot be found, and stay")
    })
}

/// Whether the kernel has a table of this rule set.
fn is_used(machine: &Machine, variant: Variant) -> bool {
    FAMILIES.into_iter().any(|family| match variant {
        Variant::Nft => {
            let tables = nft_tables(machine).unwrap_or_default();
            TABLES.into_iter().any(|table| has(&tables, &nft_name(family, table)))
        }
        Variant::Legacy => !legacy_tables(family).is_empty(),
    })
}

fn nft_name(family: Family, table: Table) -> String {
    format!("{} {}", nft::family_name(family), table_name(table))
}

/// Whether iptables-legacy holds rules of other programs here.
pub(crate) fn has_foreign_legacy(machine: &Machine) -> bool {
    saved(machine, Variant::Legacy).iter().any(|(slot, text)| {
        let ours = Ours::found(text, slot.2);
        text.lines().filter(|line| line.starts_with("-A ")).count() > ours.rules.len() + ours.jumps.len()
    })
}

fn routing(family: Family) -> Vec<Piece> {
    let listed =
        |words: &[&str]| Step::new("ip", &[&[flag(family)], words].concat()).run().unwrap_or_default();
    let table = ROUTING_TABLE.to_string();
    let route = listed(&["route", "list", "table", &table]).lines().any(is_route);
    let lookup = listed(&["rule", "list"]).lines().any(is_lookup);
    [route.then_some(Piece::Route(family)), lookup.then_some(Piece::Lookup(family))]
        .into_iter()
        .flatten()
        .collect()
}
