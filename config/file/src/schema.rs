//! The keys of the file as a JSON Schema, for editors that complete and check while one types.
//!
//! Made of the very types that read the file, so that it holds exactly the keys that do something: one that is
//! not built yet is absent, also where `off` may be written. It sees keys and how words look, and lets through
//! all else that `check` refuses.

mod routes;
mod words;

use serde_json::{Map, Value, json};

use crate::file::{
    Balancer, Endpoint, EndpointBlock, Endpoints, File, ForEachService, HashBalancer, LearntEndpoints,
    Methods, NameServers, Probe, Probes, Service, TlsBlock, UpstreamTls,
};
use crate::shape::{Entries, NotYet, OffOnly, OneOrMore, Typed};
use crate::value::{AutoOr, OffOr, Text};
use crate::words::{Method, NameServer, Target, TlsMode};
use pillion_model::identity::SpiffeId;

/// The JSON Schema (2020-12) of the configuration file.
///
/// Plain YAML 1.2 is taken as JSON: keys that are numbers (`3306:`) as texts.
pub fn schema() -> String {
    let mut schema = Map::new();
    schema.insert("$schema".into(), "https://json-schema.org/draft/2020-12/schema".into());
    schema.insert("title".into(), "Pillion's configuration".into());
    if let Some(Value::Object(file)) = File::described() {
        schema.extend(file);
    }
    schema.insert("$defs".into(), words::definitions());
    format!("{:#}\n", Value::Object(schema))
}

/// What may stand at a key.
pub(crate) trait Described {
    /// `None`: not built yet.
    fn described() -> Option<Value>;
}

/// A block of keys, each with its words for the operator. `None`: nothing of it is built yet.
pub(crate) fn block<const N: usize>(keys: [(&str, &str, Option<Value>); N]) -> Option<Value> {
    // `match` is a word of Rust too
    let plain = |key: &str| key.trim_start_matches("r#").to_owned();
    let built =
        keys.into_iter().filter_map(|(key, about, value)| Some((plain(key), explained(value?, about))));
    let properties: Map<String, Value> = built.collect();
    (!properties.is_empty()).then(
        || json!({ "type": ["object", "null"], "additionalProperties": false, "properties": properties }),
    )
}

fn explained(mut value: Value, about: &str) -> Value {
    let about: Vec<&str> = about.lines().map(str::trim).collect();
    if let Value::Object(schema) = &mut value {
        schema.insert("description".into(), about.join(" ").into());
    }
    value
}

/// One of a few words. Some of them look like numbers or booleans to YAML when they stand without quotes.
pub(crate) fn one_of<'w>(words: impl Iterator<Item = &'w str>) -> Value {
    let spelt = |word: &str| match word {
        "off" => words::off(),
        _ => {
            let bare = serde_json::from_str(word).ok().filter(Value::is_number);
            [Value::from(word)].into_iter().chain(bare).collect()
        }
    };
    let all: Vec<Value> = words.flat_map(spelt).collect();
    json!({ "enum": all })
}

/// A choice of choices is one choice.
fn any_of(choices: impl IntoIterator<Item = Option<Value>>) -> Option<Value> {
    let mut all: Vec<Value> = Vec::new();
    for choice in choices.into_iter().flatten() {
        let parts = match choice.get("anyOf").and_then(Value::as_array) {
            Some(parts) => parts.clone(),
            None => vec![choice],
        };
        for part in parts {
            if !all.contains(&part) {
                all.push(part);
            }
        }
    }
    Some(json!({ "anyOf": all }))
}

fn list_of(item: Option<Value>) -> Option<Value> {
    item.map(|item| json!({ "type": "array", "items": item }))
}

fn defined(name: &str) -> Option<Value> {
    Some(json!({ "$ref": format!("#/$defs/{name}") }))
}

/// A variable, or nothing.
fn left_open() -> Option<Value> {
    defined("left_open")
}

impl Described for NotYet {
    fn described() -> Option<Value> {
        None
    }
}

impl Described for OffOnly {
    fn described() -> Option<Value> {
        None
    }
}

impl<T: Described> Described for Option<T> {
    fn described() -> Option<Value> {
        T::described()
    }
}

impl<T: Described> Described for Typed<T> {
    fn described() -> Option<Value> {
        any_of([T::described(), left_open()])
    }
}

impl<T: Described> Described for OneOrMore<T> {
    fn described() -> Option<Value> {
        any_of([T::described(), left_open(), list_of(any_of([T::described(), left_open()]))])
    }
}

impl<T: Described> Described for OffOr<T> {
    fn described() -> Option<Value> {
        any_of([defined("off"), T::described(), left_open()])
    }
}

impl<T: Described> Described for AutoOr<T> {
    fn described() -> Option<Value> {
        any_of([Some(json!({ "enum": ["auto"] })), T::described()])
    }
}

impl<K: Described, V: Described> Described for Entries<K, V> {
    fn described() -> Option<Value> {
        let (names, value) = (K::described()?, V::described()?);
        Some(json!({ "type": ["object", "null"], "propertyNames": names, "additionalProperties": value }))
    }
}

impl Described for ForEachService {
    fn described() -> Option<Value> {
        let mut service = Service::described()?;
        let keys = service.get_mut("properties").and_then(Value::as_object_mut)?;
        keys.retain(|key, _| !Self::ONE_SERVICE_S_OWN.contains(&key.as_str()));
        Some(service)
    }
}

impl Described for Probes {
    fn described() -> Option<Value> {
        any_of([defined("off"), list_of(Probe::described()), left_open()])
    }
}

impl Described for Endpoints {
    fn described() -> Option<Value> {
        any_of([list_of(Endpoint::described()), LearntEndpoints::described()])
    }
}

impl Described for Endpoint {
    fn described() -> Option<Value> {
        any_of([Target::described(), left_open(), EndpointBlock::described()])
    }
}

impl Described for UpstreamTls {
    fn described() -> Option<Value> {
        any_of([TlsMode::described(), SpiffeId::described(), left_open(), TlsBlock::described()])
    }
}

impl Described for Balancer {
    fn described() -> Option<Value> {
        any_of([pillion_model::cluster::LoadBalancer::described(), left_open(), HashBalancer::described()])
    }
}

impl Described for Methods {
    fn described() -> Option<Value> {
        let methods = any_of([Method::described(), left_open()]);
        any_of([Some(one_of(Self::words())), left_open(), list_of(methods)])
    }
}

impl Described for NameServers {
    fn described() -> Option<Value> {
        any_of([Text::described(), left_open(), list_of(any_of([NameServer::described(), left_open()]))])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_built_yet_is_absent() {
        assert_eq!(NotYet::described(), None);
        assert_eq!(block([("later", "", NotYet::described()), ("off", "", OffOnly::described())]), None);
        assert_eq!(HashBalancer::described(), None);
    }

    #[test]
    fn a_choice_of_choices_is_one_choice_without_repetition() {
        let duration = any_of([defined("off"), defined("duration"), left_open()]);
        let flat = json!({ "anyOf": [defined("off"), defined("duration"), left_open()] });
        assert_eq!(any_of([duration, left_open()]), Some(flat));
    }

    #[test]
    fn every_definition_is_used_and_every_use_is_defined() {
        let schema = schema();
        let read: Value = serde_json::from_str(&schema).unwrap();
        let defined = read["$defs"].as_object().unwrap();
        for name in defined.keys() {
            assert!(schema.contains(&format!("\"#/$defs/{name}\"")), "{name}");
        }
        for used in schema.split("\"#/$defs/").skip(1) {
            let name = used.split('"').next().unwrap();
            assert!(defined.contains_key(name), "{name}");
        }
    }

    #[test]
    fn every_key_has_its_words() {
        fn look(schema: &Value) {
            for (key, value) in schema["properties"].as_object().into_iter().flatten() {
                assert!(value["description"].as_str().is_some_and(|about| about.len() > 8), "{key}");
            }
            match schema {
                Value::Object(parts) => parts.values().for_each(look),
                Value::Array(parts) => parts.iter().for_each(look),
                _ => {}
            }
        }
        look(&serde_json::from_str(&schema()).unwrap());
    }
}
