//! The syntax check: serde_yaml decides whether a text is YAML, and the tree keeps the place of each value.
//!
//! This is the only file that names serde_yaml, which is archived upstream.

use serde::de::IgnoredAny;

use crate::fault::{Fault, lines};
use crate::place::{Broken, Tree};

/// The verdict of serde_yaml on a text that the tree could read.
pub(crate) type Gate = Result<(), Box<Fault>>;

/// The tree of a text, and the verdict of serde_yaml. Values are read from the tree, because it keeps their text as it
/// is written (`x-version: 1.10` does not become 1.1).
pub(crate) fn open(source: &str) -> Result<(Tree, Gate), Box<Fault>> {
    let tree = Tree::read(source).map_err(|broken| Box::new(unreadable(source, broken)))?;
    let gate = serde_yaml::from_str::<IgnoredAny>(source);
    Ok((tree, gate.map(|_| ()).map_err(|error| Box::new(only_serde_yaml_says(&error)))))
}

fn unreadable(source: &str, broken: Broken) -> Fault {
    let line = lines(source).nth(broken.place.line.saturating_sub(1)).unwrap_or_default();
    let help = quotes_help(line).map(str::to_owned);
    Fault::error(broken.place, format!("the file {}", broken.what), help)
}

/// Help where YAML treats characters as syntax that the operator meant as text.
fn quotes_help(line: &str) -> Option<&'static str> {
    let bare = |signs: &str| line.split(['"', '\'']).step_by(2).any(|outside| outside.contains(signs));
    if bare("${") {
        return Some("in { } and [ ] put variables in quotes: \"${NAME}\"");
    }
    if bare("[::") {
        return Some("put IPv6 addresses in quotes: \"[::]:15006\"");
    }
    if bare("*.") {
        return Some("put wildcards in quotes: \"*.shop\"");
    }
    if bare("%") || bare("@") {
        return Some("text that begins with % or @ needs quotes");
    }
    line.starts_with('\t').then_some("indent with spaces; YAML does not know tabs there")
}

/// Where the two parsers disagree, the stricter one decides.
fn only_serde_yaml_says(error: &serde_yaml::Error) -> Fault {
    let fault = Fault::of_file(format!("the file is not valid: {error}"), None);
    match error.location() {
        Some(at) => Fault { line: at.line().max(1), column: at.column().max(1), ..fault },
        None => fault,
    }
}
