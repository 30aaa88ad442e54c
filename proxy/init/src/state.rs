//! Our rules in a network namespace, as they are or as they shall be, and the steps from one state to the other.
//!
//! Pure. `found` reads the existing state.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::iptables::{self, Ours, TABLES};
use crate::machine::{Machine, Variant};
use crate::made::Made;
use crate::nft;
use crate::rules::{RuleSet, Table, table_name};
use crate::step::Step;
use crate::words::Family;
use crate::{MARK, ROUTING_TABLE, SELF_V6};

/// The place that one transaction of iptables changes.
pub(crate) type Slot = (Variant, Family, Table);

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct State {
    /// Our table, as `nft -y list` prints it.
    pub(crate) nft: Option<String>,
    /// Holds only slots with rules.
    pub(crate) iptables: BTreeMap<Slot, Ours>,
    pub(crate) pieces: BTreeSet<Piece>,
    /// What `iptables-nft` would have to create here, and what it created for us alone. Known only if `nft` is
    /// installed.
    pub(crate) absent: BTreeSet<(Family, Table, Made)>,
    pub(crate) free: BTreeSet<(Family, Table, Made)>,
}

/// What the rules need outside of any rule set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Piece {
    /// `SELF_V6` on `lo`. For IPv4, `lo` has all of 127.0.0.0/8 anyway.
    OwnAddress,
    /// In our routing table, every address is local.
    Route(Family),
    /// Marked packets are routed by that table.
    Lookup(Family),
}

/// The rule set in which rules are installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    Nft,
    Iptables(Variant),
}

impl State {
    pub(crate) fn is_empty(&self) -> bool {
        self.nft.is_none() && self.iptables.is_empty() && self.pieces.is_empty()
    }

    /// The parts of this state, in words.
    pub(crate) fn describe(&self) -> Vec<String> {
        let mut lines: Vec<_> = self.nft.iter().map(|_| format!("the table {} (nft)", nft::TABLE)).collect();
        lines.extend(self.iptables.iter().map(|((variant, family, table), ours)| {
            let chains = ours.chains.join(", ");
            format!(
                "{chains} from the table {} ({}, {family})",
                table_name(*table),
                Target::Iptables(*variant)
            )
        }));
        lines.extend(self.pieces.iter().map(Piece::to_string));
        lines
    }

    /// The state of these rules on this backend.
    pub(crate) fn of(rules: &RuleSet, target: Target, families: &[Family]) -> Self {
        let mut state = Self { pieces: pieces(rules, families), ..Self::default() };
        match target {
            Target::Nft => state.nft = Some(nft::table(rules, families)),
            Target::Iptables(variant) => {
                for family in families {
                    let slots =
                        TABLES.map(|table| ((variant, *family, table), Ours::of(rules, table, *family)));
                    state.iptables.extend(slots.into_iter().filter(|(_, ours)| !ours.is_empty()));
                }
            }
        }
        state
    }
}

fn pieces(rules: &RuleSet, families: &[Family]) -> BTreeSet<Piece> {
    let mut pieces = BTreeSet::new();
    if families.contains(&Family::V6) {
        pieces.insert(Piece::OwnAddress);
    }
    if rules.marks() {
        pieces.extend(families.iter().flat_map(|family| [Piece::Route(*family), Piece::Lookup(*family)]));
    }
    pieces
}

/// The steps from one state to another. Pieces that the rules need are added before the rules and removed after them.
/// New rules are added before old ones are removed, so that no connection passes uncaptured in between.
pub(crate) fn steps(from: &State, to: &State, machine: &Machine) -> Vec<Step> {
    let mut steps: Vec<_> = to.pieces.difference(&from.pieces).map(|piece| piece.add()).collect();
    let (added, gone): (Vec<_>, Vec<_>) =
        changes(from, to, machine).into_iter().partition(|(is_gone, _)| !is_gone);
    steps.extend(added.into_iter().chain(gone).map(|(_, step)| step));
    steps.extend(
        from.pieces.difference(&to.pieces).collect::<Vec<_>>().into_iter().rev().map(|piece| piece.remove()),
    );
    steps
}

/// The change of each rule set, and whether it only removes.
fn changes(from: &State, to: &State, machine: &Machine) -> Vec<(bool, Step)> {
    let mut changes = Vec::new();
    if from.nft != to.nft {
        let step = nft_step(to.nft.as_deref()).or_back([nft_step(from.nft.as_deref())]);
        changes.push((to.nft.is_none(), step));
    }
    let none = Ours::default();
    let slots: BTreeSet<Slot> = from.iptables.keys().chain(to.iptables.keys()).copied().collect();
    for slot in slots {
        let before = from.iptables.get(&slot).unwrap_or(&none);
        let after = to.iptables.get(&slot).map_or_else(Ours::default, |ours| remembering(ours, slot, from));
        if !before.equals(&after) {
            let step = iptables_step(slot, before, &after, machine);
            let back = iptables_step(slot, &after, before, machine);
            let made = newly_made(slot, before, &after);
            changes.push((after.is_empty(), step.or_back([back]).or_back(made)));
        }
        if after.is_empty() {
            changes.extend(removals(slot, from).into_iter().map(|step| (true, step)));
        }
    }
    changes
}

/// Our rules, with chains that record what `iptables-nft` created or will create for them.
fn remembering(ours: &Ours, slot: Slot, from: &State) -> Ours {
    let (variant, family, table) = slot;
    let mut made: BTreeSet<Made> = from.iptables.get(&slot).into_iter().flat_map(Ours::made).collect();
    if variant == Variant::Nft {
        made.extend([Made::Table].into_iter().filter(|made| from.absent.contains(&(family, table, *made))));
        let entered = ours.hooks(table).map(Made::Entry);
        made.extend(entered.filter(|made| from.absent.contains(&(family, table, *made))));
    }
    let mut ours = ours.clone();
    ours.chains.extend(made.into_iter().map(|made| made.note().to_owned()));
    ours
}

/// Steps that remove what this change creates, to be run if it must be undone.
fn newly_made((_, family, table): Slot, before: &Ours, after: &Ours) -> Vec<Step> {
    let is_new = |made: &Made| !before.made().any(|noted| noted == *made);
    after.made().filter(is_new).map(|made| made.removal(family, table)).collect()
}

/// Steps that remove what was created for us, where no other program uses it.
fn removals((variant, family, table): Slot, from: &State) -> Vec<Step> {
    let free = from.free.iter().filter(|(f, t, _)| variant == Variant::Nft && (*f, *t) == (family, table));
    free.map(|(.., made)| made.removal(family, table)).collect()
}

fn nft_step(table: Option<&str>) -> Step {
    Step::new("nft", &["-f", "-"]).reading(table.map_or_else(nft::removal, nft::replacing))
}

/// The seconds for which iptables waits if another program holds its lock.
const LOCK_WAIT: &str = "30";

fn iptables_step((variant, family, table): Slot, before: &Ours, after: &Ours, machine: &Machine) -> Step {
    let restore = match machine.xtables(variant) {
        Some(xtables) => xtables.program(family, "restore"),
        None => "iptables-restore".to_owned(), // never reached: what is not installed is neither found nor chosen
    };
    Step::new(restore, &["-w", LOCK_WAIT, "--noflush"]).reading(iptables::change(table, before, after))
}

/// The preference of our routing rule: before the main table (32766) and after the local one (0). We recognise our rule
/// by this number.
const PREFERENCE: u32 = 133;

impl Piece {
    pub(crate) fn add(self) -> Step {
        self.step("add").or_back([self.step("del")])
    }

    pub(crate) fn remove(self) -> Step {
        self.step("del").or_back([self.step("add")])
    }

    fn step(self, verb: &str) -> Step {
        let words = match self {
            Self::OwnAddress => format!("-6 address {verb} {SELF_V6}/128 dev lo"),
            Self::Route(family) => {
                format!("{} route {verb} local default dev lo table {ROUTING_TABLE}", flag(family))
            }
            Self::Lookup(family) => format!(
                "{} rule {verb} pref {PREFERENCE} fwmark {MARK:#x} lookup {ROUTING_TABLE}",
                flag(family)
            ),
        };
        Step::new("ip", &words.split(' ').collect::<Vec<_>>())
    }
}

impl fmt::Display for Piece {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OwnAddress => write!(f, "the address {SELF_V6} from lo"),
            Self::Route(family) => write!(f, "the {family} routing table {ROUTING_TABLE}"),
            Self::Lookup(family) => write!(f, "the {family} routing rule for mark {MARK}"),
        }
    }
}

pub(crate) const fn flag(family: Family) -> &'static str {
    match family {
        Family::V4 => "-4",
        Family::V6 => "-6",
    }
}

/// Whether the line is our routing rule, as `ip rule list` prints it.
pub(crate) fn is_lookup(line: &str) -> bool {
    let mut words = line.split_whitespace();
    let ours = [
        format!("{PREFERENCE}:"),
        "from".into(),
        "all".into(),
        "fwmark".into(),
        format!("{MARK:#x}"),
        "lookup".into(),
        ROUTING_TABLE.to_string(),
    ];
    ours.iter().all(|word| words.next() == Some(word)) && words.next().is_none()
}

/// Whether the line is our route, as `ip route list table 133` prints it.
pub(crate) fn is_route(line: &str) -> bool {
    line.split_whitespace().take(4).eq(["local", "default", "dev", "lo"])
}
