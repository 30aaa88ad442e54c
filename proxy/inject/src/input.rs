//! What the whole input says about pods beside their templates: its Namespaces, and its ConfigMaps with a configuration.

use std::fmt;

use crate::value::Value;
use crate::wishes::{Asked, asked};

/// The key of a `ConfigMap` that has the configuration.
const KEY: &str = "pillion.yaml";
/// The most namespaces with maps of one name that are compared and told.
const MOST_NAMESPACES: usize = 16;

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

#[derive(Debug, PartialEq, Eq)]
enum Data {
    Text(String),
    /// The key has bytes that are not read here, or the aliases of the document expand to too much.
    Unreadable,
    Missing,
}

/// What is known of a configuration that an annotation names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Named<'i> {
    Text(&'i str),
    /// The `ConfigMap` is there, and has no configuration.
    Empty,
    Unknown(Unknown),
}

/// Why a configuration is not known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unknown {
    /// Its `ConfigMap` is not in the input.
    Missing,
    /// Its `ConfigMap` is in the input, and cannot be read.
    Unreadable,
    /// The workload leaves its namespace to the command that applies it, and maps of the name differ in these namespaces.
    Ambiguous(Vec<String>),
}

/// A configuration that is not known, and what is used in its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownConfig {
    /// The name of the `ConfigMap`.
    pub name: String,
    pub why: Unknown,
    /// What an earlier run wrote is kept. Otherwise defaults are assumed.
    pub is_kept: bool,
}

impl fmt::Display for UnknownConfig {
    /// The name stands last: an API server cuts warnings after 256 characters.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.is_kept {
            true => "kept are the ports, directions and DNS proxy that an earlier run wrote: ",
            false => {
                "assumed are the ports 15000, 15001, 15006, 15020 and 15053, both directions, no DNS proxy and no admin.token: "
            }
        })?;
        let name = &self.name;
        match &self.why {
            Unknown::Missing => write!(f, "not known here is the ConfigMap (pillion.io/config) {name}"),
            Unknown::Unreadable => write!(
                f,
                "binaryData, or aliases that expand to too much, cannot be read in the ConfigMap (pillion.io/config) {name}"
            ),
            Unknown::Ambiguous(namespaces) => write!(
                f,
                "the workload names no namespace, and in several there are different ConfigMaps (pillion.io/config) {name}: {}",
                namespaces.join(", ")
            ),
        }
    }
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

    /// Takes a `ConfigMap` that cannot be resolved.
    pub(crate) fn learn_unreadable(&mut self, name: &str, namespace: Option<&str>) {
        let namespace = namespace.map(str::to_owned);
        self.config_maps.push(ConfigMap { namespace, name: name.to_owned(), data: Data::Unreadable });
    }

    /// What a Namespace says, if the input has it. Of several with one name the last one counts, as it is applied last.
    pub(crate) fn asked(&self, namespace: Option<&str>) -> Option<Asked> {
        let known = self.namespaces.iter().rev().find(|(name, _)| namespace == Some(name));
        known.map(|(_, asked)| *asked)
    }

    /// The configuration in a `ConfigMap` of a namespace. Where one side leaves its namespace to the command that applies it, they
    /// belong together unless another map fits better. Of several with one name the last one counts, as it is applied last.
    pub(crate) fn config(&self, namespace: Option<&str>, name: &str) -> Named<'_> {
        let named = || self.config_maps.iter().rev().filter(|map| map.name == name);
        let same = named().find(|map| map.namespace.as_deref() == namespace);
        let found = match (same, namespace) {
            (Some(map), _) => Some(map),
            (None, Some(_)) => named().find(|map| map.namespace.is_none()),
            (None, None) => match only(named()) {
                Ok(map) => map,
                Err(namespaces) => return Named::Unknown(Unknown::Ambiguous(namespaces)),
            },
        };
        match found.map(|map| &map.data) {
            Some(Data::Text(text)) => Named::Text(text),
            Some(Data::Missing) => Named::Empty,
            Some(Data::Unreadable) => Named::Unknown(Unknown::Unreadable),
            None => Named::Unknown(Unknown::Missing),
        }
    }
}

/// The map that stands for all of these, which have one name, if those of all namespaces have the same configuration. The last one of
/// a namespace comes first.
///
/// # Errors
/// The namespaces, whose maps differ or are too many to compare.
fn only<'i>(maps: impl Iterator<Item = &'i ConfigMap>) -> Result<Option<&'i ConfigMap>, Vec<String>> {
    let (mut first, mut namespaces, mut differ) = (None, Vec::new(), false);
    for map in maps {
        let namespace = map.namespace.as_deref().unwrap_or_default();
        if namespaces.contains(&namespace) {
            continue;
        }
        differ |= namespaces.len() == MOST_NAMESPACES || map.data != first.get_or_insert(map).data;
        if namespaces.len() == MOST_NAMESPACES {
            break;
        }
        namespaces.push(namespace);
    }
    if differ { Err(namespaces.into_iter().map(str::to_owned).collect()) } else { Ok(first) }
}

impl ConfigMap {
    fn of(name: &str, object: &Value) -> Self {
        let data = match (object.text_at(&["data", KEY]), object.at(&["binaryData", KEY])) {
            (Some(text), _) => Data::Text(text.to_owned()),
            (None, Some(_)) => Data::Unreadable,
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
        assert_eq!(input.config(None, "other"), Named::Unknown(Unknown::Missing));
    }

    #[test]
    fn maps_of_several_namespaces_count_for_a_workload_without_one_if_they_are_the_same() {
        let mut input = Input::default();
        let mut learn = |namespace: &str, said: &str| input.learn(&map(Some(namespace), "web", text(said)));
        learn("a", "early");
        learn("b", "same");
        learn("a", "same");
        assert_eq!(input.config(None, "web"), Named::Text("same"));
        input.learn(&map(Some("c"), "web", text("other")));
        let of_all = ["c", "a", "b"].map(str::to_owned).to_vec();
        assert_eq!(input.config(None, "web"), Named::Unknown(Unknown::Ambiguous(of_all)));
        assert_eq!(input.config(Some("b"), "web"), Named::Text("same"));
        (0..2 * MOST_NAMESPACES).for_each(|n| input.learn(&map(Some(&n.to_string()), "many", text("same"))));
        let Named::Unknown(Unknown::Ambiguous(told)) = input.config(None, "many") else {
            panic!("not all are compared")
        };
        assert_eq!(told.len(), MOST_NAMESPACES);
    }

    #[test]
    fn of_two_namespaces_with_one_name_the_last_one_counts() {
        let mut input = Input::default();
        for said in ["true", "false"] {
            let labels = Value::map([("pillion.io/inject", Value::text(said))]);
            let metadata = Value::map([("name", Value::text("shop"))]).with("labels", labels);
            input.learn(&Value::map([("kind", Value::text("Namespace")), ("metadata", metadata)]));
        }
        assert_eq!(input.asked(Some("shop")), Some(Asked::No));
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
            [Named::Empty, Named::Unknown(Unknown::Unreadable), Named::Text("{}")]
        );
    }
}
