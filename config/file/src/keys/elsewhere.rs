//! Finds the blocks that have a key, to help an operator who wrote a known key in the wrong block.
//!
//! The list is made from the schema, which holds exactly the keys that have an effect.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde_json::Value;

use super::FILE;

/// The most blocks that are named; a longer list would not help.
const NAMED: usize = 3;

/// The blocks that have a key, by the key's name.
static PLACES: LazyLock<BTreeMap<String, Vec<String>>> = LazyLock::new(|| {
    let mut places = BTreeMap::new();
    if let Some(schema) = FILE.schema() {
        walk(&schema, "", &mut places);
    }
    // outer blocks first, because these are more often meant
    let depth = |place: &String| place.matches('.').count();
    places.values_mut().for_each(|of: &mut Vec<String>| of.sort_by_key(depth));
    places
});

/// The help text: `retry` is a key of routes[] and services.NAME
pub(super) fn help_for(name: &str) -> Option<String> {
    let places = PLACES.get(name)?;
    let named: Vec<&str> = places.iter().take(NAMED).map(String::as_str).collect();
    let others = match places.len().saturating_sub(NAMED) {
        0 => String::new(),
        _ => ", and of others".to_owned(),
    };
    Some(format!("`{name}` is a key of {}{others}", named.join(", ")))
}

fn walk(schema: &Value, at: &str, places: &mut BTreeMap<String, Vec<String>>) {
    let under = |key: &str| if at.is_empty() { key.to_owned() } else { format!("{at}.{key}") };
    for (name, value) in schema["properties"].as_object().into_iter().flatten() {
        let place = if at.is_empty() { "the file itself".to_owned() } else { at.to_owned() };
        let known: &mut Vec<String> = places.entry(name.clone()).or_default();
        if !known.contains(&place) {
            known.push(place);
        }
        // every key of `defaults` is a key of a service
        if name != "defaults" {
            walk(value, &under(name), places);
        }
    }
    for value in schema["anyOf"].as_array().into_iter().flatten() {
        walk(value, at, places);
    }
    walk_items(schema, at, places);
    if schema["additionalProperties"].is_object() {
        walk(&schema["additionalProperties"], &under("NAME"), places);
    }
}

fn walk_items(schema: &Value, at: &str, places: &mut BTreeMap<String, Vec<String>>) {
    if schema["items"].is_object() {
        walk(&schema["items"], &format!("{at}[]"), places);
    }
}
