//! A walk over the configuration's schema: every key must have an effect.
//!
//! Each key is in a table with two values and a probe. A sidecar runs with each value, the probe reports what it
//! observed, and the two reports must differ. A key that accepts one value only is listed with another value, which
//! must be refused. A key without an entry fails the walk, and so does an entry without a key: no key is ever silently
//! ignored.
//! Keys whose effect only the kernel shows are tested in `tests/e2e/walk.rs`.

mod authorization;
mod balance;
mod cache;
mod dns;
mod endpoints;
mod health;
mod identity;
mod inbound;
mod key;
mod retries;
mod routes;
pub(super) mod sides;
mod sync;
mod tls;
mod upstream;

use std::collections::BTreeSet;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;

use serde_json::Value;

use key::Key;

/// Runs a sidecar with the key's value, and returns what it observed.
type Probe = Box<dyn Fn(Key) -> Pin<Box<dyn Future<Output = String>>>>;

struct Row {
    /// The path as in the schema, with `[]` for each item of a list and `*` for a free name. A list at the end of a
    /// path looks like a single value.
    path: String,
    shown_by: ShownBy,
}

enum ShownBy {
    /// The probe's reports for the two values must differ.
    Probe([&'static str; 2], Probe),
    /// The key accepts one value, or its values have no visible effect. Another value is refused.
    Refusal { taken: &'static str, refused: &'static str },
}

/// A key at `path` whose two values differ in the report of `probe`.
fn shows<F>(path: impl Into<String>, values: [&'static str; 2], probe: fn(Key) -> F) -> Row
where
    F: Future<Output = String> + 'static,
{
    let probe: Probe = Box::new(move |key| Box::pin(probe(key)));
    Row { path: path.into(), shown_by: ShownBy::Probe(values, probe) }
}

fn only(path: impl Into<String>, taken: &'static str, refused: &'static str) -> Row {
    Row { path: path.into(), shown_by: ShownBy::Refusal { taken, refused } }
}

fn table() -> Vec<Row> {
    let of_services = ["services.*", "defaults"].into_iter().flat_map(|of| {
        [tls::rows(of), upstream::rows(of), balance::rows(of), health::rows(of), retries::rows(of)]
    });
    let others = [
        sides::rows(),
        identity::rows(),
        inbound::rows(),
        authorization::rows(),
        endpoints::rows(),
        cache::rows(),
        retries::rows("routes[]"),
        routes::rows(),
        dns::rows(),
        sync::rows(),
    ];
    of_services.chain(others).flatten().collect()
}

/// Every place of the schema where a value may be.
fn paths() -> BTreeSet<String> {
    let schema: Value = serde_json::from_str(&pillion_config::json_schema()).expect("JSON");
    let mut paths = BTreeSet::new();
    look(&schema, String::new(), &mut paths);
    paths
}

fn look(at: &Value, path: String, found: &mut BTreeSet<String>) {
    if let Some(choices) = at["anyOf"].as_array() {
        return choices.iter().for_each(|choice| look(choice, path.clone(), found));
    }
    if at["type"] == "array" {
        return look(&at["items"], path + "[]", found);
    }
    if at["additionalProperties"].is_object() {
        return look(&at["additionalProperties"], path + ".*", found);
    }
    let Some(keys) = at["properties"].as_object() else {
        // that a variable may stand for it is no form of its own
        if at["$ref"] != "#/$defs/left_open" {
            found.insert(path.trim_end_matches("[]").to_owned());
        }
        return;
    };
    for (key, value) in keys {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        look(value, path, found);
    }
}

#[test]
fn every_key_of_the_schema_has_an_entry_and_every_entry_a_key() {
    let (keys, mut entries) = (paths(), BTreeSet::new());
    for row in table() {
        assert!(entries.insert(row.path.clone()), "{} stands there twice", row.path);
    }
    let without_entry: Vec<_> = keys.difference(&entries).collect();
    let without_key: Vec<_> = entries.difference(&keys).collect();
    assert!(without_entry.is_empty() && without_key.is_empty(), "{without_entry:?} {without_key:?}");
}

/// What the probe reports for a key with one value, on a runtime of its own. `None` when the probe has failed, and
/// printed why.
fn seen(path: &str, value: &'static str, probe: &Probe) -> Option<String> {
    let run = || {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().start_paused(true).build().expect("a runtime");
        runtime.block_on(probe(Key::new(path, value)))
    };
    catch_unwind(AssertUnwindSafe(run)).ok()
}

#[test]
fn every_key_changes_what_is_seen_or_refuses_all_but_one_value() {
    let mut idle = Vec::new();
    for Row { path, shown_by } in table() {
        println!("{path}"); // which one it was, should a probe fail
        match shown_by {
            ShownBy::Probe(values, probe) => {
                let [one, other] = values.map(|value| seen(&path, value, &probe));
                println!("    {values:?}: {one:?} {other:?}");
                if one == other || one.is_none() || other.is_none() {
                    idle.push(format!("{path}: {values:?} show {one:?} and {other:?}"));
                }
            }
            ShownBy::Refusal { taken, refused } => {
                let named = path.trim_end_matches(".*"); // a free name has another one in the file
                let last = named.rsplit('.').next().unwrap_or(named);
                let refusal = Key::new(&path, refused).refusal();
                if Key::new(&path, taken).refusal().is_some()
                    || !refusal.is_some_and(|refusal| refusal.contains(last))
                {
                    idle.push(format!("{path}: {taken:?} is not all that it takes"));
                }
            }
        }
    }
    assert!(idle.is_empty(), "{idle:#?}");
}
