//! The rules of every option in the languages of nft and iptables, and the steps from one state to another.

mod change;
mod golden;
mod table;

use crate::options::Options;
use crate::rules::{RuleSet, Table, rules, table_name};
use crate::words::Family;
use crate::{iptables, nft};

const BOTH: [Family; 2] = [Family::V4, Family::V6];

fn with(change: impl FnOnce(&mut Options)) -> Options {
    let mut options = Options::default();
    change(&mut options);
    options.check().expect("no contradiction");
    options
}

/// Each chain's rules as `CHAIN RULE`.
fn in_nft(rules: &RuleSet, families: &[Family]) -> Vec<String> {
    let (mut chain, mut lines) = (String::new(), Vec::new());
    for line in nft::table(rules, families).lines().map(str::trim) {
        match line.strip_prefix("chain ") {
            Some(name) => name.trim_end_matches(" {").clone_into(&mut chain),
            None if line.is_empty() || line == "}" || line.starts_with("table ") => {}
            None => lines.push(format!("{chain} {line}")),
        }
    }
    lines
}

fn in_iptables(rules: &RuleSet, family: Family) -> Vec<String> {
    let tables = iptables::TABLES.into_iter();
    tables.flat_map(|table| iptables::Ours::of(rules, table, family)).collect()
}

/// Rules and jumps, as `iptables-save` prints them but without `-A`.
impl IntoIterator for iptables::Ours {
    type Item = String;
    type IntoIter = std::iter::Chain<std::vec::IntoIter<String>, std::vec::IntoIter<String>>;

    fn into_iter(self) -> Self::IntoIter {
        self.jumps.into_iter().chain(self.rules)
    }
}

fn saved(ours: &iptables::Ours, table: Table) -> String {
    let mut text = format!("# a comment\n*{}\n:OUTPUT ACCEPT [0:0]\n", table_name(table));
    text.extend(ours.chains.iter().map(|name| format!(":{name} - [0:0]\n")));
    text.extend(ours.clone().into_iter().map(|rule| format!("-A {rule}\n")));
    text + "COMMIT\n"
}
