//! What the whole input says about pods beside their templates: its Namespaces, and its ConfigMaps with a configuration.

use crate::value::Value;
use crate::wishes::{Asked, asked};

/// The key of a `ConfigMap` that has the configuration.
const KEY: &str = "pillion.yaml";

/// Whether a document of this kind says something about pods of other documents. Lists of the kind `List` may have such items.
pub(crate) fn tells(kind: &str) -> bool {
    matches!(kind, "Namespace" | "ConfigMap" | "List")
}

#[derive(Debug, Default)]
pub(crate) struct Input {
    namespaces: Vec<(String, Asked)>,
    config_maps: Vec<ConfigMap>,
}

#[derive(Debug)]
struct ConfigMap {
    /// `None`: the manifest leaves it to the command that applies it.
    namespace: Option<String>,
    name: String,
    data: Data,
}

#[derive(Debug)]
enum Data {
    Text(String),
    /// The key has bytes that are not read here.
    Binary,
    Missing,
}

/// What is known of a configuration that an annotation names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Named<'i> {
    Text(&'i str),
    /// The `ConfigMap` is there, and has no configuration.
    Empty,
    /// It is not in the input, or cannot be read.
    Unknown,
}

impl Input {
    /// Takes the objects of a document.
    pub(crate) fn learn(&mut self, document: &Value) {
        let items = document.get("items").map_or(&[][..], Value::items);
        for object in std::iter::once(document).chain(items) {
            let Some(name) = object.text_at(&["metadata", "name"]) else { continue };
            match object.text_at(&["kind"]) {
                Some("Namespace") => self.namespaces.push((name.to_owned(), asked(object))),
                Some("ConfigMap") => self.config_maps.push(ConfigMap::of(name, object)),
                _ => {}
            }
        }
    }

    /// What a Namespace says, if the input has it.
    pub(crate) fn asked(&self, namespace: Option<&str>) -> Option<Asked> {
        let known = self.namespaces.iter().find(|(name, _)| namespace == Some(name));
        known.map(|(_, asked)| *asked)
    }

    /// The configuration in a `ConfigMap` of a namespace. Where one side leaves its namespace to the command that applies it, they
    /// belong together unless another map fits better. Of several with one name the last one counts, as it is applied last.
    pub(crate) fn config(&self, namespace: Option<&str>, name: &str) -> Named<'_> {
        let mut named = self.config_maps.iter().rev().filter(|map| map.name == name);
        let fits = |map: &&ConfigMap| map.namespace.is_none() || namespace.is_none();
        let same = named.clone().find(|map| map.namespace.as_deref() == namespace);
        match same.or_else(|| named.find(fits)).map(|map| &map.data) {
            Some(Data::Text(text)) => Named::Text(text),
            Some(Data::Missing) => Named::Empty,
            Some(Data::Binary) | None => Named::Unknown,
        }
    }
}

impl ConfigMap {
    fn of(name: &str, object: &Value) -> Self {
        let data = match (object.text_at(&["data", KEY]), object.at(&["binaryData", KEY])) {
            (Some(text), _) => Data::Text(text.to_owned()),
            (None, Some(_)) => Data::Binary,
            (None, None) => Data::Missing,
        };
        let namespace = object.text_at(&["metadata", "namespace"]).map(str::to_owned);
        Self { namespace, name: name.to_owned(), data }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(namespace: Option<&str>, name: &str, data: Value) -> Value {
        let metadata = Value::map([("name", Value::text(name))]);
        let metadata = match namespace {
            Some(namespace) => metadata.with("namespace", Value::text(namespace)),
            None => metadata,
        };
        Value::map([("kind", Value::text("ConfigMap")), ("metadata", metadata), ("data", data)])
    }

    fn text(text: &str) -> Value {
        Value::map([(KEY, Value::text(text))])
    }

    #[test]
    fn a_map_of_the_same_namespace_goes_before_one_without_and_the_last_one_counts() {
        let mut input = Input::default();
        for (namespace, said) in [(None, "first"), (None, "any"), (Some("shop"), "shop"), (Some("b"), "b")] {
            input.learn(&map(namespace, "web", text(said)));
        }
        let of = |namespace| input.config(namespace, "web");
        assert_eq!(of(Some("shop")), Named::Text("shop"));
        assert_eq!(of(Some("other")), Named::Text("any"));
        assert_eq!(of(None), Named::Text("any"));
        assert_eq!(input.config(None, "other"), Named::Unknown);
    }

    #[test]
    fn a_map_without_a_text_for_the_key_is_empty_or_not_known() {
        let mut input = Input::default();
        input.learn(&map(None, "empty", Value::map([("other.yaml", Value::text("a"))])));
        let bytes = Value::map([(KEY, Value::text("e30K"))]);
        input.learn(&map(None, "bytes", Value::map([])).with("binaryData", bytes));
        let list = Value::map([("items", Value::List(vec![map(Some("shop"), "listed", text("{}"))]))]);
        input.learn(&list);
        let of = |name| input.config(None, name);
        assert_eq!(
            [of("empty"), of("bytes"), of("listed")],
            [Named::Empty, Named::Unknown, Named::Text("{}")]
        );
    }
}
