//! The pieces of which the declarations of the keys make their JSON Schema.

use serde_json::{Map, Value, json};

/// The schema of a word.
pub(crate) trait Described {
    fn described() -> Option<Value>;
}

/// The schema of a key that holds a word.
pub(crate) fn word<W: Described>() -> Option<Value> {
    any_of([W::described(), left_open()])
}

/// The schema of a key that holds a word or a list of words.
pub(crate) fn words<W: Described>() -> Option<Value> {
    any_of([word::<W>(), list_of(word::<W>())])
}

/// The schema of a key that holds `off` or a block.
pub(crate) fn or_off(block: Option<Value>) -> Option<Value> {
    any_of([defined("off"), block, left_open()])
}

/// The schema of a map whose names the operator chooses.
pub(crate) fn entries<K: Described>(value: Option<Value>) -> Option<Value> {
    let (names, value) = (K::described()?, value?);
    Some(json!({ "type": ["object", "null"], "propertyNames": names, "additionalProperties": value }))
}

/// The schema of a block of keys, each with its description. `None`: no key of it has a feature that exists.
pub(crate) fn block(keys: Vec<(&str, Value, String, Value)>) -> Option<Value> {
    let each = |(key, value, about, facts): (&str, Value, String, Value)| {
        (key.to_owned(), explained(value, about, facts))
    };
    let properties: Map<String, Value> = keys.into_iter().map(each).collect();
    (!properties.is_empty()).then(
        || json!({ "type": ["object", "null"], "additionalProperties": false, "properties": properties }),
    )
}

/// `x-pillion` is a keyword of our own, which editors ignore: `docs/configuration.md` is made of it.
fn explained(mut value: Value, about: String, facts: Value) -> Value {
    if let Value::Object(schema) = &mut value {
        schema.insert("description".into(), about.into());
        schema.insert("x-pillion".into(), facts);
    }
    value
}

/// One of a few words. Without quotes, some of them look like numbers or booleans to YAML.
pub(crate) fn one_of<'w>(words: impl Iterator<Item = &'w str>) -> Value {
    let spelt = |word: &str| match word {
        "off" => off(),
        _ => {
            let bare = serde_json::from_str(word).ok().filter(Value::is_number);
            [Value::from(word)].into_iter().chain(bare).collect()
        }
    };
    let all: Vec<Value> = words.flat_map(spelt).collect();
    json!({ "enum": all })
}

/// Combines choices; a choice of choices becomes one flat choice.
pub(crate) fn any_of(choices: impl IntoIterator<Item = Option<Value>>) -> Option<Value> {
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

pub(crate) fn list_of(item: Option<Value>) -> Option<Value> {
    item.map(|item| json!({ "type": "array", "items": item }))
}

pub(crate) fn defined(name: &str) -> Option<Value> {
    Some(json!({ "$ref": format!("#/$defs/{name}") }))
}

/// A variable, or an empty value.
pub(crate) fn left_open() -> Option<Value> {
    defined("left_open")
}

/// Every spelling of `off`.
pub(crate) fn off() -> Vec<Value> {
    let spelt = ["off", "Off", "OFF", "false", "False", "FALSE"].map(Value::from);
    spelt.into_iter().chain([Value::Bool(false)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_of_choices_is_one_choice_without_repetition() {
        let duration = any_of([defined("off"), defined("duration"), left_open()]);
        let flat = json!({ "anyOf": [defined("off"), defined("duration"), left_open()] });
        assert_eq!(any_of([duration, left_open()]), Some(flat));
    }
}
