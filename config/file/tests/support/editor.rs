//! What an editor with the schema would report. It implements the part of JSON Schema that the schema uses, and panics
//! at any other keyword. A complete validator would add forty crates to the build.

use std::sync::LazyLock;

use regex_lite::Regex;
use serde_json::{Map, Value};

static SCHEMA: LazyLock<Value> =
    LazyLock::new(|| serde_json::from_str(&pillion_config::json_schema()).expect("a schema is JSON"));

/// `/PATH: what is wrong` of each place.
pub(crate) fn complaints(yaml: &str) -> Vec<String> {
    let file = json(serde_yaml::from_str(yaml).expect("YAML"));
    let mut complaints = Vec::new();
    look(&SCHEMA, &file, "", &mut complaints);
    complaints.into_iter().map(|(place, what)| format!("{place}: {what}")).collect()
}

/// In JSON, keys are texts.
fn json(yaml: serde_yaml::Value) -> Value {
    use serde_yaml::Value as Yaml;
    match yaml {
        Yaml::Sequence(list) => list.into_iter().map(json).collect(),
        Yaml::Mapping(map) => map.into_iter().map(|(key, value)| (text(json(key)), json(value))).collect(),
        Yaml::Tagged(tagged) => json(tagged.value),
        leaf => serde_json::to_value(leaf).expect("a scalar"),
    }
}

fn text(key: Value) -> String {
    match key {
        Value::String(text) => text,
        other => other.to_string(),
    }
}

type Complaints = Vec<(String, String)>;

fn look(schema: &Value, value: &Value, place: &str, complaints: &mut Complaints) {
    let schema = match schema {
        Value::Bool(true) => return,
        Value::Object(schema) => schema,
        _ => return complaints.push((place.to_owned(), "no value is allowed here".to_owned())),
    };
    for (keyword, argument) in schema {
        let holds = match keyword.as_str() {
            "$schema" | "$defs" | "title" | "description" | "properties" | "x-pillion" => true,
            "$ref" => {
                look(definition(argument), value, place, complaints);
                true
            }
            "anyOf" => {
                any(argument, value, place, complaints);
                true
            }
            "items" => {
                let items = value.as_array().into_iter().flatten().enumerate();
                items.for_each(|(nth, item)| look(argument, item, &format!("{place}/{nth}"), complaints));
                true
            }
            "additionalProperties" => {
                keys(schema, argument, value, place, complaints);
                true
            }
            "propertyNames" => {
                let names = value.as_object().into_iter().flat_map(Map::keys);
                names.for_each(|name| look(argument, &Value::from(name.as_str()), place, complaints));
                true
            }
            "enum" => argument.as_array().expect("a list").contains(value),
            "type" => is_of(argument, value),
            "pattern" => {
                let pattern = Regex::new(argument.as_str().expect("a pattern")).expect("a pattern");
                value.as_str().is_none_or(|text| pattern.is_match(text))
            }
            "minLength" => value.as_str().is_none_or(|text| text.chars().count() as u64 >= number(argument)),
            "maxLength" => value.as_str().is_none_or(|text| text.chars().count() as u64 <= number(argument)),
            "minimum" => value.as_u64().is_none_or(|n| n >= number(argument)),
            "maximum" => value.as_u64().is_none_or(|n| n <= number(argument)),
            other => unreachable!("a keyword that editors may know and this does not: {other}"),
        };
        if !holds {
            complaints.push((place.to_owned(), format!("{value} does not satisfy {keyword} {argument}")));
        }
    }
}

fn definition(reference: &Value) -> &'static Value {
    let pointer =
        reference.as_str().and_then(|it| it.strip_prefix('#')).expect("a reference within the schema");
    SCHEMA.pointer(pointer).expect("a definition")
}

/// Reports the faults of the choice that matched furthest, because the author probably meant that one.
fn any(choices: &Value, value: &Value, place: &str, complaints: &mut Complaints) {
    let mut best: Option<Complaints> = None;
    let depth = |complaints: &Complaints| {
        complaints.iter().map(|(place, _)| place.matches('/').count()).max().unwrap_or_default()
    };
    for choice in choices.as_array().expect("a list of choices") {
        let mut complaints = Complaints::new();
        look(choice, value, place, &mut complaints);
        if complaints.is_empty() {
            return;
        }
        if best.as_ref().is_none_or(|best| depth(&complaints) > depth(best)) {
            best = Some(complaints);
        }
    }
    match best {
        Some(best) if depth(&best) > place.matches('/').count() => complaints.extend(best),
        _ => complaints.push((place.to_owned(), format!("{value} is not allowed here"))),
    }
}

fn keys(
    schema: &Map<String, Value>,
    others: &Value,
    value: &Value,
    place: &str,
    complaints: &mut Complaints,
) {
    for (key, value) in value.as_object().into_iter().flatten() {
        match (schema.get("properties").and_then(|known| known.get(key)), others) {
            (None, Value::Bool(false)) => {
                complaints.push((place.to_owned(), format!("there is no key {key}")))
            }
            (known, others) => look(known.unwrap_or(others), value, &format!("{place}/{key}"), complaints),
        }
    }
}

fn is_of(types: &Value, value: &Value) -> bool {
    let is = |name: &Value| match name.as_str().expect("the name of a type") {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "string" => value.is_string(),
        "number" => value.is_number(),
        "integer" => value.is_i64() || value.is_u64(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => unreachable!("no type of JSON: {other}"),
    };
    types.as_array().map_or_else(|| is(types), |types| types.iter().any(is))
}

fn number(argument: &Value) -> u64 {
    argument.as_u64().expect("a number")
}
