//! The manifests of `corpus/in`, each with the text in `corpus/out` that it becomes, or with the faults for which it is refused.
//! The first line of a YAML file says what the file shows.
//!
//! `PILLION_WRITE_DOCUMENTS=1 cargo test -p pillion-inject --test corpus` writes `corpus/out` anew; review the difference.

use std::fs;
use std::path::{Path, PathBuf};

use pillion_inject::{Injected, Options, Outcome, inject};

fn options() -> Options {
    Options { all: false, image: "pillion:0.1.0".to_owned() }
}

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(name)
}

/// The names and the texts of all manifests.
fn corpus() -> Vec<(String, String)> {
    let files = fs::read_dir(folder("in")).expect("a folder");
    let mut files: Vec<PathBuf> = files.map(|file| file.expect("an entry").path()).collect();
    files.sort();
    let name = |file: &Path| file.file_name().expect("a name").to_string_lossy().into_owned();
    files.iter().map(|file| (name(file), fs::read_to_string(file).expect("a text"))).collect()
}

fn accepted() -> Vec<(String, String, Injected)> {
    let injected = corpus().into_iter().filter_map(|(name, text)| {
        let injected = inject(&name, &text, &options()).ok()?;
        Some((name, text, injected))
    });
    injected.collect()
}

#[test]
fn every_manifest_becomes_what_its_file_shows() {
    let corpus = corpus();
    assert!(corpus.len() >= 40, "{} manifests", corpus.len());
    let mut different = Vec::new();
    for (name, text) in corpus {
        let (out, is) = match inject(&name, &text, &options()) {
            Ok(injected) => (name.clone(), injected.text),
            Err(faults) => (format!("{name}.faults"), format!("{faults}\n")),
        };
        let out = folder("out").join(out);
        if std::env::var_os("PILLION_WRITE_DOCUMENTS").is_some() {
            fs::write(&out, &is).expect("written");
        }
        if fs::read_to_string(&out).ok().as_ref() != Some(&is) {
            different.push(format!("--- {name}\n{}", pillion_inject::diff(&name, &text, &is)));
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
}

#[test]
fn a_second_and_a_third_run_change_nothing() {
    for (name, _, injected) in accepted() {
        let mut text = injected.text;
        for _ in 0..2 {
            let again = inject(&name, &text, &options()).unwrap_or_else(|faults| unreachable!("{faults}"));
            assert_eq!(again.text, text, "{name}");
            assert!(again.notes.iter().all(|note| note.outcome != Outcome::Injected), "{:?}", again.notes);
            text = again.text;
        }
    }
}

/// Whether all bytes of a text stand in another one, in their order.
fn is_part(text: &str, of: &str) -> bool {
    let mut rest = of.bytes();
    text.bytes().all(|byte| rest.any(|other| other == byte))
}

#[test]
fn nothing_but_rewritten_probes_and_empty_values_is_taken_away() {
    let rewritten =
        ["anchors.yaml", "probes.yaml", "multi-container.yaml", "pretty.json", "compact.json", "flow.yaml"];
    let rewritten = [&rewritten[..], &["init-containers.yaml", "helm.yaml", "config-inline.yaml"]].concat();
    let replaced = ["empty-values.yaml", "probes-excluded.yaml", "merge-keys.yaml"];
    for (name, text, injected) in accepted() {
        if !rewritten.contains(&name.as_str()) && !replaced.contains(&name.as_str()) {
            assert!(is_part(&text, &injected.text), "{name}");
        }
        let ends = |text: &str| (text.ends_with('\n'), text.contains("\r\n"));
        assert_eq!(ends(&text), ends(&injected.text), "{name}");
    }
}

/// Two readers that know nothing of this crate take the text for the same as before, but for what was added.
#[test]
fn other_readers_see_every_key_that_was_there() {
    for (name, text, injected) in accepted() {
        let (before, after) = match name.ends_with(".json") {
            true => (json(&text), json(&injected.text)),
            false => (yaml(&text), yaml(&injected.text)),
        };
        assert_eq!(before.len(), after.len(), "{name}");
        for (before, after) in before.iter().zip(&after) {
            contains(after, before, &name);
        }
    }
}

fn json(text: &str) -> Vec<serde_json::Value> {
    vec![serde_json::from_str(text).expect("JSON")]
}

fn yaml(text: &str) -> Vec<serde_json::Value> {
    use serde::Deserialize as _;
    let read = |document: serde_yaml::Deserializer<'_>| {
        let mut value = serde_yaml::Value::deserialize(document).expect("YAML");
        value.apply_merge().expect("merge keys");
        serde_json::to_value(value).expect("texts as keys")
    };
    serde_yaml::Deserializer::from_str(text).map(read).collect()
}

/// Every key is there, but for the handlers of rewritten probes; items of lists are known by their names.
fn contains(after: &serde_json::Value, before: &serde_json::Value, at: &str) {
    use serde_json::Value;
    match (after, before) {
        (Value::Object(after), Value::Object(before)) => {
            for (key, value) in before {
                let is_rewritten = after.get("httpGet").is_some_and(|asks| asks["port"] == 15020);
                if !(matches!(key.as_str(), "httpGet" | "tcpSocket" | "grpc") && is_rewritten) {
                    let after = after.get(key).unwrap_or_else(|| unreachable!("{at}.{key} is gone"));
                    contains(after, value, &format!("{at}.{key}"));
                }
            }
        }
        (Value::Array(after), Value::Array(before)) if before.iter().all(|item| item["name"].is_string()) => {
            let mut rest = after.iter();
            for item in before {
                let found = rest.find(|other| other["name"] == item["name"]);
                contains(found.unwrap_or_else(|| unreachable!("{at}: {item} is gone")), item, at);
            }
        }
        (Value::Array(after), Value::Array(before)) if after.len() == before.len() => {
            after.iter().zip(before).for_each(|(after, before)| contains(after, before, at));
        }
        (_, Value::Null) => {}
        _ => assert_eq!(after, before, "{at}"),
    }
}
