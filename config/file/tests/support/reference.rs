//! `docs/configuration.md`, made of the schema and of the full sample: the schema holds what the declarations of the keys
//! say, and the sample has an example of each.

use std::collections::BTreeMap;

use serde_json::Value;
use serde_yaml::Value as Yaml;

const INTRODUCTION: &str = include_str!("configuration-head.md");
const SAMPLE: &str = include_str!("../../../samples/pillion.yaml");

/// One section of the page: the keys of one block.
struct Section<'s> {
    path: String,
    about: String,
    keys: Vec<(&'s str, &'s Value)>,
}

/// The whole page.
pub(crate) fn page() -> String {
    let schema = schema();
    let mut sections = Vec::new();
    gather(&schema, "", "", &mut sections, &mut BTreeMap::new());
    let mut page = INTRODUCTION.to_owned();
    page.push_str("\n## Types\n\n| type | how it is written |\n|---|---|\n");
    for (name, about) in types(&schema) {
        page.push_str(&format!("| {name} | {} |\n", cell(&about)));
    }
    for section in &sections {
        page.push_str(&written(section, &sections));
    }
    page
}

/// The top-level keys that a reload does not change.
pub(crate) fn restarted() -> Vec<String> {
    let schema = schema();
    let keys = properties(&schema).into_iter();
    keys.filter(|(_, key)| fact(key, "change") == Some("restart")).map(|(name, _)| name.to_owned()).collect()
}

fn schema() -> Value {
    serde_json::from_str(&pillion_config::json_schema()).expect("a schema is JSON")
}

fn types(schema: &Value) -> Vec<(String, String)> {
    let about = |name: &str, value: &Value| match (name, value["description"].as_str()) {
        ("condition", _) => {
            format!("One of {}; or an HTTP status from 300 to 599", words(&value["anyOf"][0]).join(", "))
        }
        ("name", _) => "Letters, digits, `.`, `_` and `-`".to_owned(),
        ("text", _) => "Any text that is not empty".to_owned(),
        ("off", _) => "`off` or `false`, with quotes or without".to_owned(),
        ("on_off", _) => "`on`, `true`, `off` or `false`, with quotes or without".to_owned(),
        ("left_open", _) => {
            "Any value may be `\"${NAME}\"` or `\"${NAME:-default}\"`, from the environment".to_owned()
        }
        (_, Some(about)) => about.to_owned(),
        (_, None) => unreachable!("{name} has no description"),
    };
    let defined = schema["$defs"].as_object().expect("definitions");
    defined.iter().map(|(name, value)| (spoken(name), about(name, value))).collect()
}

/// `on_off` is called "on off" on the page.
fn spoken(name: &str) -> String {
    match name {
        "left_open" => "variable".to_owned(),
        other => other.replace('_', " "),
    }
}

/// Sections in the order of the declarations. A block that stands at several places is written out once.
fn gather<'s>(
    schema: &'s Value,
    path: &str,
    about: &str,
    sections: &mut Vec<Section<'s>>,
    seen: &mut BTreeMap<String, String>,
) {
    let keys = properties(schema);
    if !keys.is_empty() {
        let shape = schema["properties"].to_string();
        if seen.contains_key(&shape) {
            return;
        }
        seen.insert(shape, path.to_owned());
        sections.push(Section { path: path.to_owned(), about: about.to_owned(), keys: keys.clone() });
    }
    for (name, key) in keys {
        // `defaults` has what a service has.
        if name != "defaults" && !is_alias(name, key) {
            let path = if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
            let about = fact(key, "about").unwrap_or_default();
            blocks(key, &path, about, sections, seen);
        }
    }
}

/// The blocks that may stand at a key.
fn blocks<'s>(
    value: &'s Value,
    path: &str,
    about: &str,
    sections: &mut Vec<Section<'s>>,
    seen: &mut BTreeMap<String, String>,
) {
    if value["properties"].is_object() {
        gather(value, path, about, sections, seen);
    }
    if value["additionalProperties"].is_object() {
        blocks(&value["additionalProperties"], &format!("{path}.{}", entry(path)), about, sections, seen);
    }
    if value["items"].is_object() {
        blocks(&value["items"], &format!("{path}[]"), about, sections, seen);
    }
    for choice in value["anyOf"].as_array().into_iter().flatten() {
        blocks(choice, path, about, sections, seen);
    }
}

/// What the names of a map are called.
fn entry(path: &str) -> &'static str {
    if path.ends_with("ports") { "PORT" } else { "NAME" }
}

/// The keys of a block, in the order of their declarations.
fn properties(schema: &Value) -> Vec<(&str, &Value)> {
    let mut keys: Vec<_> = schema["properties"].as_object().into_iter().flatten().collect();
    keys.sort_by_key(|(name, key)| (key["x-pillion"]["place"].as_u64(), is_alias(name, key)));
    keys.into_iter().map(|(name, key)| (name.as_str(), key)).collect()
}

fn is_alias(_: &str, key: &Value) -> bool {
    key["description"].as_str().is_some_and(|about| about.starts_with("Another name of "))
}

fn fact<'k>(key: &'k Value, name: &str) -> Option<&'k str> {
    key["x-pillion"][name].as_str()
}

fn written(section: &Section<'_>, all: &[Section<'_>]) -> String {
    let title = if section.path.is_empty() { "the file" } else { &section.path };
    let mut text = format!("\n## {title}\n\n");
    if !section.about.is_empty() {
        text.push_str(&format!("{} ", section.about));
    }
    text.push_str(&format!("{}\n\n", takes_effect(section, all)));
    text.push_str("| key | type and range | default | example | what it does |\n|---|---|---|---|---|\n");
    for (name, key) in &section.keys {
        text.push_str(&row(section, name, key));
    }
    text
}

/// Since when the keys exist, and how a change of them takes effect: one sentence where all are alike.
fn takes_effect(section: &Section<'_>, all: &[Section<'_>]) -> String {
    let since: Vec<_> = section.keys.iter().filter_map(|(_, key)| fact(key, "since")).collect();
    let first = since.first().copied().unwrap_or_default();
    let mut text = match since.iter().all(|since| *since == first) {
        true => format!("Since {first}."),
        false => {
            let each = section
                .keys
                .iter()
                .map(|(name, key)| format!("`{name}` {}", fact(key, "since").unwrap_or_default()));
            format!("Since: {}.", each.collect::<Vec<_>>().join(", "))
        }
    };
    let block = section.path.split(['.', '[']).next().unwrap_or_default();
    let restarted: Vec<String> = all
        .first()
        .into_iter()
        .flat_map(|file| &file.keys)
        .filter(|(_, key)| fact(key, "change") == Some("restart"))
        .map(|(name, _)| (*name).to_owned())
        .collect();
    text.push_str(&match block {
        "" => format!(
            " A reload changes every key except {}: those take a restart.",
            restarted.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
        ),
        _ if restarted.iter().any(|name| name == block) => " A change takes a restart.".to_owned(),
        _ => " A reload changes it.".to_owned(),
    });
    text
}

fn row(section: &Section<'_>, name: &str, key: &Value) -> String {
    let example = if is_alias(name, key) { String::new() } else { example(&section.path, name) };
    let about = match is_alias(name, key) {
        true => key["description"].as_str().unwrap_or_default().to_owned(),
        false => fact(key, "about").unwrap_or_default().to_owned(),
    };
    let default = match fact(key, "default") {
        Some(default) => format!("`{default}`"),
        None => "–".to_owned(),
    };
    let example = if example.is_empty() { "–".to_owned() } else { format!("`{example}`") };
    let form = form(
        key,
        &if section.path.is_empty() { name.to_owned() } else { format!("{}.{name}", section.path) },
    );
    format!("| `{name}` | {} | {} | {} | {} |\n", cell(&form), cell(&default), cell(&example), cell(&about))
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

/// The type of a key and its range.
fn form(key: &Value, path: &str) -> String {
    let mut parts: Vec<String> = Vec::new();
    forms(key, path, &mut parts);
    parts.dedup();
    let form = parts.join(" or ");
    match fact(key, "range") {
        Some(range) if form.starts_with("number") => format!("number, {range}"),
        Some(range) => format!("{form}, {range}"),
        None => form,
    }
}

fn forms(value: &Value, path: &str, parts: &mut Vec<String>) {
    for choice in value["anyOf"].as_array().into_iter().flatten() {
        forms(choice, path, parts);
    }
    let words: Vec<String> = words(value);
    let mut push = |part: String| {
        if !parts.contains(&part) {
            parts.push(part);
        }
    };
    if let Some(name) = value["$ref"].as_str().and_then(|it| it.rsplit('/').next()) {
        match name {
            "left_open" => {}
            "off" => push("`off`".to_owned()),
            name => push(spoken(name)),
        }
    } else if !words.is_empty() {
        words.iter().for_each(|word| push(word.clone()));
    } else if value["items"].is_object() {
        let mut inner = Vec::new();
        forms(&value["items"], &format!("{path}[]"), &mut inner);
        push(match inner.len() {
            1 => format!("list of {}", inner.concat()),
            _ => format!("list of ({})", inner.join(" or ")),
        });
    } else if value["additionalProperties"].is_object() {
        push(format!("map from {} to values", entry(path)));
    } else if value["properties"].is_object() {
        push("block".to_owned());
    } else if value["type"] == "integer" {
        push(number(value));
    } else if value["pattern"] == "^[1-9][0-9]{0,4}$" {
        push("port, 1 to 65535".to_owned());
    }
}

fn number(value: &Value) -> String {
    match (value["minimum"].as_u64(), value["maximum"].as_u64()) {
        (Some(least), Some(most)) if most < u64::from(u32::MAX) => format!("number, {least} to {most}"),
        (Some(least), _) => format!("number, {least} or more"),
        _ => "number".to_owned(),
    }
}

/// The words of a choice, each once: `off` has several spellings.
fn words(value: &Value) -> Vec<String> {
    let all = value["enum"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let spelt_otherwise = ["Off", "OFF", "false", "False", "FALSE", "On", "ON", "true", "True", "TRUE"];
    all.filter(|word| !spelt_otherwise.contains(word)).map(|word| format!("`{word}`")).collect()
}

/// `key: value` as the full sample has it, without what is nested deeper than a line takes.
fn example(path: &str, name: &str) -> String {
    let sample: Yaml = serde_yaml::from_str(SAMPLE).expect("the sample is YAML");
    let steps: Vec<&str> = path.split(['.', '[']).filter(|step| !step.is_empty()).collect();
    let mut found = Vec::new();
    walk(&sample, &steps, name, &mut found);
    if found.is_empty() {
        walk(&sample, &of_the_other_balancer(&steps), name, &mut found);
    }
    let commented = || {
        let start = format!("# {name}: ");
        let line = SAMPLE.lines().find_map(|line| line.trim().strip_prefix(&start))?;
        Some(line.split("  ").next().unwrap_or(line).to_owned())
    };
    let value = found.into_iter().map(flow).min_by_key(|text| (text.len() > 70, false)).or_else(commented);
    match value {
        Some(value) if value.len() <= 70 => format!("{name}: {value}"),
        Some(_) => String::new(),
        None => unreachable!("{path}.{name} has no example in the sample"),
    }
}

/// `ring_hash` and `maglev` have the same keys, and the sample has each of them once.
fn of_the_other_balancer<'s>(steps: &[&'s str]) -> Vec<&'s str> {
    let other = |step: &&'s str| match *step {
        "ring_hash" => "maglev",
        "maglev" => "ring_hash",
        step => step,
    };
    steps.iter().map(other).collect()
}

fn walk<'y>(at: &'y Yaml, steps: &[&str], name: &str, found: &mut Vec<&'y Yaml>) {
    if let Yaml::Sequence(items) = at {
        let steps = steps.strip_prefix(&["]"]).unwrap_or(steps);
        return items.iter().for_each(|item| walk(item, steps, name, found));
    }
    let Some((step, rest)) = steps.split_first() else {
        found.extend(at.get(name));
        return;
    };
    match (*step, at) {
        ("NAME" | "PORT", Yaml::Mapping(map)) => {
            map.values().for_each(|value| walk(value, rest, name, found))
        }
        (key, _) => {
            if let Some(next) = at.get(key) {
                walk(next, rest, name, found);
            }
        }
    }
}

/// In one line, as a person would write it.
fn flow(value: &Yaml) -> String {
    match value {
        Yaml::Sequence(items) => format!("[{}]", items.iter().map(flow).collect::<Vec<_>>().join(", ")),
        Yaml::Mapping(map) if map.is_empty() => "{}".to_owned(),
        Yaml::Mapping(map) => {
            let entries = map.iter().map(|(key, value)| format!("{}: {}", flow(key), flow(value)));
            format!("{{ {} }}", entries.collect::<Vec<_>>().join(", "))
        }
        Yaml::String(text) if needs_quotes(text) => format!("\"{text}\""),
        Yaml::String(text) => text.clone(),
        other => serde_yaml::to_string(other).expect("a scalar").trim().to_owned(),
    }
}

fn needs_quotes(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./%:".contains(c);
    !text.chars().all(plain) || text.parse::<f64>().is_ok() || text.is_empty()
}
