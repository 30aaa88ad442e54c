//! The syntax: serde_yaml says whether a text is YAML, and the tree keeps its places.
//!
//! The only file that names serde_yaml, which is archived upstream.

use serde::de::IgnoredAny;

use crate::fault::{Fault, lines};
use crate::place::{Broken, Tree};

/// Refuses what the gate lets not through, once the tree has been read without a fault.
pub(crate) type Gate = Result<(), Box<Fault>>;

/// The tree of a text, and what serde_yaml says of it. What is read is the tree: its texts are what stands there
/// (`x-version: 1.10` is no 1.1).
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

/// What YAML takes for its own signs, and people for text.
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

/// Where the two parsers disagree the stricter one is believed.
fn only_serde_yaml_says(error: &serde_yaml::Error) -> Fault {
    let fault = Fault::of_file(format!("the file is not valid: {error}"), None);
    match error.location() {
        Some(at) => Fault { line: at.line().max(1), column: at.column().max(1), ..fault },
        None => fault,
    }
}
