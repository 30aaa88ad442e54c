//! The tables and chains that `iptables-nft` creates and does not remove.
//!
//! For each table or chain that did not exist before, the rules contain an empty chain whose name records it. It is
//! removed together with the rules by `nft`, unless another program uses it by then. Without `nft` it stays, empty.

use crate::nft::family_name;
use crate::rules::{CHAINS, Hook, Table, hook_name, own_name, table_name};
use crate::step::Step;
use crate::words::Family;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Made {
    /// A table, with everything in it.
    Table,
    Entry(Hook),
}

const ALL: [Made; 3] = [Made::Table, Made::Entry(Hook::Prerouting), Made::Entry(Hook::Output)];

impl Made {
    /// The name of the chain that records the creation.
    pub(crate) const fn note(self) -> &'static str {
        match self {
            Self::Table => "PILLION_MADE_TABLE",
            Self::Entry(Hook::Prerouting) => "PILLION_MADE_PREROUTING",
            Self::Entry(Hook::Output) => "PILLION_MADE_OUTPUT",
        }
    }

    pub(crate) fn of(note: &str) -> Option<Self> {
        ALL.into_iter().find(|made| made.note() == note)
    }

    /// What would have to be created for our rules, given the table as `nft list` prints it.
    pub(crate) fn absent(listing: Option<&str>) -> Vec<Self> {
        let Some(listing) = listing else { return vec![Self::Table] };
        let is_absent = |made: &Self| match made {
            Self::Table => false,
            Self::Entry(hook) => !chains(listing).any(|chain| chain.name == hook_name(*hook)),
        };
        ALL.into_iter().filter(is_absent).collect()
    }

    /// Whether it holds only parts of ours.
    pub(crate) fn is_free(self, listing: &str) -> bool {
        let mut chains = chains(listing);
        match self {
            Self::Table => {
                let is_ours = |name: &str| is_own(name) || ALL.iter().any(|made| made.entry() == Some(name));
                !has_more_than_chains(listing) && chains.all(|chain| is_ours(chain.name) && chain.is_free())
            }
            Self::Entry(hook) => chains.any(|chain| chain.name == hook_name(hook) && chain.is_free()),
        }
    }

    const fn entry(self) -> Option<&'static str> {
        match self {
            Self::Table => None,
            Self::Entry(hook) => Some(hook_name(hook)),
        }
    }

    pub(crate) fn removal(self, family: Family, table: Table) -> Step {
        let table = format!("{} {}", family_name(family), table_name(table));
        let script = match self {
            Self::Table => format!("delete table {table}\n"),
            Self::Entry(hook) => format!("delete chain {table} {}\n", hook_name(hook)),
        };
        Step::new("nft", &["-f", "-"]).reading(script)
    }
}

fn is_own(chain: &str) -> bool {
    Made::of(chain).is_some() || CHAINS.into_iter().any(|(_, name, _)| own_name(name) == chain)
}

/// One chain of a listing.
struct Listed<'a> {
    name: &'a str,
    lines: Vec<&'a str>,
}

impl Listed<'_> {
    /// Whether the chain is ours, or is a chain of the kernel that only jumps to ours.
    fn is_free(&self) -> bool {
        let leads_to_ours = |line: &str| line.rsplit_once("jump ").is_some_and(|(_, chain)| is_own(chain));
        let is_base = |line: &str| line.starts_with("type ") && line.ends_with("policy accept;");
        is_own(self.name) || self.lines.iter().all(|line| is_base(line) || leads_to_ours(line))
    }
}

fn chains(listing: &str) -> impl Iterator<Item = Listed<'_>> {
    listing.split("\tchain ").skip(1).map(|block| {
        let mut lines = block.lines().map(str::trim);
        let name = lines.next().unwrap_or_default().trim_end_matches(" {");
        Listed { name, lines: lines.take_while(|line| *line != "}").collect() }
    })
}

/// Whether the table also holds sets, maps and the like, which a listing shows beside the chains.
fn has_more_than_chains(listing: &str) -> bool {
    let inner = listing.lines().filter(|line| line.starts_with('\t') && !line.starts_with("\t\t"));
    inner.into_iter().any(|line| !line.starts_with("\tchain ") && line != "\t}")
}
