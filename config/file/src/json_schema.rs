//! The keys of the file as a JSON Schema, for editors that complete and check while a person types.
//!
//! The schema is made from the declarations that read the file, so it holds exactly the keys that have an effect. A key
//! whose feature does not exist yet is absent, even where `off` may be written. The schema knows keys and the form of
//! words; `check` refuses more.

mod words;

use serde_json::{Map, Value};

use crate::keys::FILE;

/// The JSON Schema (2020-12) of the configuration file.
///
/// Plain YAML 1.2 is treated as JSON. Keys that are numbers (`3306:`) are texts.
pub fn json_schema() -> String {
    let mut schema = Map::new();
    schema.insert("$schema".into(), "https://json-schema.org/draft/2020-12/schema".into());
    schema.insert("title".into(), "Pillion's configuration".into());
    if let Some(Value::Object(file)) = FILE.schema() {
        schema.extend(file);
    }
    schema.insert("$defs".into(), words::definitions());
    format!("{:#}\n", Value::Object(schema))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_definition_is_used_and_every_use_is_defined() {
        let schema = json_schema();
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
    fn every_key_has_a_description() {
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
        look(&serde_json::from_str(&json_schema()).unwrap());
    }
}
