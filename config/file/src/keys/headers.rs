//! Blocks of headers by their names, which are case-insensitive.

use std::collections::HashSet;

use pillion_model::text::shortened;
use serde_json::Value;

use crate::page::{Page, Scopes};
use crate::reading::{Node, Reading};
use crate::schema;
use crate::value::{Leaf, Word};
use crate::words::ChangedHeader;

pub(super) fn schema<W: Leaf>() -> Option<Value> {
    schema::entries::<ChangedHeader>(schema::word::<W>())
}

/// Each header with its value.
pub(super) fn read<W: Leaf>(node: &Node<'_>, reading: &mut Reading<'_>) -> Vec<(String, W::Value)> {
    each(
        node,
        reading,
        |ChangedHeader(name)| name,
        |name, value, reading| Some((name, value.word::<W>(reading)?.value())),
    )
}

pub(super) fn tell<W: Leaf>(all: &[(String, W::Value)], at: &Scopes<'_>, page: &mut Page<'_>) {
    all.iter().for_each(|(name, value)| page.tell(&at.key(name), W::spell(value)));
}

/// What is read of each header. One that is there twice is reported.
pub(super) fn each<W: Word, T>(
    node: &Node<'_>,
    reading: &mut Reading<'_>,
    name: fn(W) -> String,
    read: impl Fn(String, &Node<'_>, &mut Reading<'_>) -> Option<T>,
) -> Vec<T> {
    let (mut seen, mut all) = (HashSet::new(), Vec::new());
    for (word, entry) in node.map::<W>(reading) {
        let name = name(word);
        if !seen.insert(name.clone()) {
            entry
                .value
                .remark_on_key(&format!("repeats `{}`", shortened(&name)), reading)
                .help("the names of headers are case-insensitive; keep one");
        }
        all.extend(read(name, &entry.value, reading));
    }
    all
}
