//! The difference of two values as a JSON patch (RFC 6902).

use std::collections::{HashMap, HashSet};

use crate::align::{aligned, dropped};
use crate::value::Value;
use crate::write::{Syntax, flow};

/// The operations that make the old value the new one, as a JSON array.
pub(crate) fn patch(old: &Value, new: &Value) -> String {
    let mut operations = Vec::new();
    differ("", old, new, &mut operations);
    flow(&Value::List(operations), Syntax::Json)
}

fn differ(path: &str, old: &Value, new: &Value, operations: &mut Vec<Value>) {
    match (old, new) {
        _ if old == new => {}
        (Value::Map(was), Value::Map(is)) => maps(path, was, is, operations),
        (Value::List(was), Value::List(is)) => lists(path, was, is, operations),
        _ => operations.push(operation("replace", path, Some(new))),
    }
}

fn maps(path: &str, old: &[(String, Value)], new: &[(String, Value)], operations: &mut Vec<Value>) {
    let was: HashMap<&str, &Value> = old.iter().map(|(key, value)| (key.as_str(), value)).collect();
    let is: HashSet<&str> = new.iter().map(|(key, _)| key.as_str()).collect();
    for (key, _) in old.iter().filter(|(key, _)| !is.contains(key.as_str())) {
        operations.push(operation("remove", &below(path, key), None));
    }
    for (key, value) in new {
        match was.get(key.as_str()) {
            Some(was) => differ(&below(path, key), was, value, operations),
            None => operations.push(operation("add", &below(path, key), Some(value))),
        }
    }
}

/// Removes from the end, so that places before it stay as they are; then what is left is in the order of the new list.
fn lists(path: &str, old: &[Value], new: &[Value], operations: &mut Vec<Value>) {
    let kept = aligned(old, new);
    for nth in dropped(old.len(), &kept).into_iter().rev() {
        operations.push(operation("remove", &format!("{path}/{nth}"), None));
    }
    for (nth, (value, was)) in new.iter().zip(kept).enumerate() {
        let at = format!("{path}/{nth}");
        match was.and_then(|was| old.get(was)) {
            Some(was) => differ(&at, was, value, operations),
            None => operations.push(operation("add", &at, Some(value))),
        }
    }
}

fn operation(name: &str, path: &str, value: Option<&Value>) -> Value {
    let operation = Value::map([("op", Value::text(name)), ("path", Value::text(path))]);
    match value {
        Some(value) => operation.with("value", value.clone()),
        None => operation,
    }
}

fn below(path: &str, key: &str) -> String {
    format!("{path}/{}", key.replace('~', "~0").replace('/', "~1"))
}
