//! Reads YAML that is no configuration of ours, such as a kubeconfig, as a value of JSON. JSON is YAML, too.

use serde_json::Value;

use crate::place::{Content, NodeId, Tree, means_nothing};

/// The most values of a document. Aliases repeat values, so that a short text could stand for very many.
const MOST: usize = 100_000;

/// Every word becomes a text, but for YAML's words for null.
///
/// # Errors
/// The text is not YAML, or stands for too many values.
pub fn document(text: &str) -> Result<Value, String> {
    let tree = Tree::read(text).map_err(|broken| {
        format!("line {}, column {}: it {}", broken.place.line, broken.place.column, broken.what)
    })?;
    let mut left = MOST;
    let read = tree.root().map(|root| value(&tree, root, &mut left));
    read.unwrap_or(Some(Value::Null)).ok_or_else(|| format!("it stands for more than {MOST} values"))
}

/// `None`: there are too many values. The tree bounds its depth.
fn value(tree: &Tree, at: NodeId, left: &mut usize) -> Option<Value> {
    *left = left.checked_sub(1)?;
    Some(match &tree.node(at)?.content {
        Content::Scalar { text, plain: true } if means_nothing(text) => Value::Null,
        Content::Scalar { text, .. } => Value::String(text.clone()),
        Content::List(items) => {
            let all = items.iter().map(|item| value(tree, item.value, left));
            Value::Array(all.collect::<Option<_>>()?)
        }
        Content::Map(entries) => {
            let key = |key| tree.text(key).map(str::to_owned).unwrap_or_default();
            let all = entries.iter().map(|entry| Some((key(entry.key), value(tree, entry.value, left)?)));
            Value::Object(all.collect::<Option<_>>()?)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn yaml_and_json_are_read() {
        let yaml = "a:\n- b: \"1\"\n  c: ~\n- [x, true]\n";
        assert_eq!(document(yaml), Ok(json!({ "a": [{ "b": "1", "c": null }, ["x", "true"]] })));
        assert_eq!(document("{\"a\": [1, \"b\"]}"), Ok(json!({ "a": ["1", "b"] })));
        assert_eq!(document("# nothing\n"), Ok(Value::Null));
    }

    #[test]
    fn what_is_not_yaml_or_too_much_is_refused() {
        assert!(document("a: [").unwrap_err().starts_with("line "));
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for nth in 1..12 {
            let aliases = vec![format!("*a{}", nth - 1); 10].join(", ");
            bomb += &format!("a{nth}: &a{nth} [{aliases}]\n");
        }
        assert!(document(&bomb).unwrap_err().contains("more than 100000 values"));
    }
}
