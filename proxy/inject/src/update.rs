//! Brings the containers of an earlier run in step, and keeps what others have added to them: Kubernetes its defaults and the mount of
//! the service account's token, other webhooks their environment and mounts.

use crate::sidecar::{CONFIG_VOLUME, IDENTITY_VOLUME, LOG_VOLUME, NODE_NAME, PORTS};
use crate::value::Value;

/// What Kubernetes adds to a part that leaves it out. A part with these is as it was written.
const DEFAULTED: [&str; 8] = [
    "failureThreshold",
    "periodSeconds",
    "successThreshold",
    "timeoutSeconds",
    "scheme",
    "protocol",
    "defaultMode",
    "apiVersion",
];

/// The keys of our containers that are written for some pods alone: without them they are removed.
const SOMETIMES: [&str; 4] = ["restartPolicy", "startupProbe", "lifecycle", "readinessProbe"];
/// A capability is added for TPROXY alone.
const ADDED: &str = "add";

/// The lists with items of ours beside those of others.
const LISTS: [&str; 3] = ["env", "ports", "volumeMounts"];

/// A container of ours with what is written now, and with everything that is never written here as it was.
pub(crate) fn container(known: &Value, new: &Value) -> Value {
    let mut updated = known.clone();
    for key in SOMETIMES.into_iter().filter(|key| new.get(key).is_none()) {
        updated.remove(key);
    }
    for (key, value) in new.entries().iter().filter(|(key, _)| !LISTS.contains(&key.as_str())) {
        let value = match (key.as_str(), known.get(key)) {
            ("securityContext" | "resources", Some(known)) => merged(known, value),
            (_, Some(known)) if covers(known, value) => known.clone(),
            _ => value.clone(),
        };
        updated.put(key, value);
    }
    for list in LISTS {
        let wanted = new.get(list).map_or(&[][..], Value::items);
        place_named(&mut updated, list, wanted, |name| {
            is_our_volume(name) || PORTS.contains(&name) || name == NODE_NAME
        });
    }
    updated
}

pub(crate) fn is_our_volume(name: &str) -> bool {
    [CONFIG_VOLUME, IDENTITY_VOLUME, LOG_VOLUME].contains(&name)
}

/// A map with the entries that are written now, and with the others as they were.
fn merged(known: &Value, new: &Value) -> Value {
    let (Value::Map(_), Value::Map(entries)) = (known, new) else {
        return if covers(known, new) { known.clone() } else { new.clone() };
    };
    let mut merged = known.clone();
    if new.get(ADDED).is_none() {
        merged.remove(ADDED);
    }
    for (key, value) in entries {
        merged.put(key, known.get(key).map_or_else(|| value.clone(), |known| self::merged(known, value)));
    }
    merged
}

/// Makes the items of ours in a list of maps with names those that are wanted: changed at their places, added at the end, or removed.
pub(crate) fn place_named(of: &mut Value, list: &str, wanted: &[Value], is_ours: impl Fn(&str) -> bool) {
    let known = of.get(list).map_or(&[][..], Value::items);
    let find = |name: Option<&str>| wanted.iter().find(|item| item.name() == name);
    let kept = known.iter().filter_map(|item| match item.name() {
        Some(name) if is_ours(name) => {
            find(Some(name)).map(|new| if covers(item, new) { item.clone() } else { new.clone() })
        }
        _ => Some(item.clone()),
    });
    let mut all: Vec<Value> = kept.collect();
    let is_there = |item: &&Value| all.iter().any(|known| known.name() == item.name());
    let missing: Vec<Value> = wanted.iter().filter(|item| !is_there(item)).cloned().collect();
    all.extend(missing);
    match all.is_empty() && !known.is_empty() {
        true => of.remove(list),
        false if all.is_empty() => {}
        false => of.put(list, Value::List(all)),
    }
}

/// Whether a value is what was written, with no more than what Kubernetes adds to it.
fn covers(known: &Value, new: &Value) -> bool {
    match (known, new) {
        (Value::Map(known), Value::Map(new)) => {
            let find = |map: &[(String, Value)], key: &str| map.iter().position(|(own, _)| own == key);
            let has_all = new.iter().all(|(key, value)| {
                find(known, key).and_then(|nth| known.get(nth)).is_some_and(|(_, known)| covers(known, value))
            });
            has_all
                && known.iter().all(|(key, _)| DEFAULTED.contains(&key.as_str()) || find(new, key).is_some())
        }
        (Value::List(known), Value::List(new)) => {
            known.len() == new.len() && known.iter().zip(new).all(|(known, new)| covers(known, new))
        }
        _ => known == new,
    }
}
