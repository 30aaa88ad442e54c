//! Which items of a list stay when it becomes another list. Containers, volumes and mounts are known by their names.

use std::collections::{HashMap, HashSet};

use crate::value::Value;

/// The longest lists whose items without names are compared each with each.
const COMPARED: usize = 200;

/// For every new item the old one that becomes it, in rising order. `None`: the item is new.
pub(crate) fn aligned(old: &[Value], new: &[Value]) -> Vec<Option<usize>> {
    let has_names = old.iter().chain(new).any(|item| item.name().is_some());
    if !has_names && old.len() == new.len() {
        return (0..new.len()).map(Some).collect(); // items have changed at their places
    }
    let mut by_name: HashMap<&str, usize> = HashMap::new();
    for (nth, item) in old.iter().enumerate() {
        if let Some(name) = item.name() {
            by_name.entry(name).or_insert(nth);
        }
    }
    let mut next = 0;
    let mut find = |item: &Value| {
        let named = item.name().map(|name| by_name.get(name).copied());
        let found = match named {
            Some(found) => found.filter(|nth| *nth >= next),
            None if old.get(next) == Some(item) => Some(next),
            None if old.len() > COMPARED => None,
            None => (next..old.len()).find(|nth| old.get(*nth) == Some(item)),
        };
        next = found.map_or(next, |found| found + 1);
        found
    };
    new.iter().map(&mut find).collect()
}

/// The old items that become none of the new ones, in rising order.
pub(crate) fn dropped(old: usize, kept: &[Option<usize>]) -> Vec<usize> {
    let kept: HashSet<usize> = kept.iter().copied().flatten().collect();
    (0..old).filter(|nth| !kept.contains(nth)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_are_known_by_their_names_and_others_by_their_values() {
        let named =
            |name: &str, value| Value::map([("name", Value::text(name)), ("v", Value::number(value))]);
        let old = [named("a", 1), named("b", 1), named("c", 1)];
        assert_eq!(aligned(&old, &[named("x", 1), named("b", 2), named("c", 1)]), [None, Some(1), Some(2)]);
        assert_eq!(aligned(&old, &[named("b", 1), named("a", 1)]), [Some(1), None], "moved to the end");
        let texts = |all: &[&str]| all.iter().map(|text| Value::text(*text)).collect::<Vec<_>>();
        assert_eq!(aligned(&texts(&["a", "b"]), &texts(&["x", "b", "c"])), [None, Some(1), None]);
        assert_eq!(aligned(&texts(&["a", "b"]), &texts(&["a", "c"])), [Some(0), Some(1)]);
    }
}
