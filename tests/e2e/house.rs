//! Checks the sources: modules use only modules that are listed below them, and every promise of the documents has
//! tests.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Crates whose `lib.rs` lists its modules from top to bottom.
const ORDERED: [&str; 16] = [
    "proxy",
    "proxy/sidecar/src",
    "proxy/upstream/src",
    "proxy/cache/src",
    "proxy/http/src",
    "proxy/http1/src",
    "proxy/kubernetes/src",
    "proxy/sync/src",
    "proxy/logs/src",
    "proxy/tls/src",
    "proxy/base/src",
    "proxy/telemetry/src",
    "proxy/init/src",
    "proxy/inject/src",
    "config/file/src",
    "config/model/src",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).expect("a file of the repository")
}

/// All Rust files below a folder.
pub(super) fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()) {
        if entry.is_dir() {
            if !entry.ends_with("target") {
                sources(&entry, found);
            }
        } else if entry.extension().is_some_and(|extension| extension == "rs") {
            found.push(entry);
        }
    }
}

/// The code of a file without comments and without unit tests, which may use any module.
fn code(path: &Path) -> String {
    if path.ends_with("tests.rs") {
        return String::new();
    }
    let text = read(path);
    let tests = ["#[cfg(test)]\nmod ", "#[cfg(test)]\npub(crate) mod "];
    let end = tests.iter().filter_map(|begins| text.find(begins)).min().unwrap_or(text.len());
    let text = &text[..end];
    let lines = text.lines().map(|line| line.split("//").next().unwrap_or_default());
    lines.collect::<Vec<_>>().join("\n")
}

/// Whether a file holds unit tests alone.
fn is_of_tests(file: &Path) -> bool {
    file.with_extension("").iter().any(|part| part == "tests")
}

/// The code, with paths that begin with `super` written from the crate. `depth`: folders between the crate and the
/// file.
fn from_crate(code: &str, depth: usize) -> String {
    code.replace(&"super::".repeat(depth + 1), "crate::")
}

/// The modules that a `lib.rs` lists, in their order.
fn listed(lib: &str) -> Vec<&str> {
    let modules = lib.lines().filter_map(|line| {
        line.trim_start_matches("pub(crate) ").trim_start_matches("pub ").strip_prefix("mod ")
    });
    modules.filter_map(|module| module.strip_suffix(';')).collect()
}

/// The module of an item that `lib.rs` exports again: code that uses the item uses this module.
fn passed_on<'a>(lib: &'a str, name: &str) -> Option<&'a str> {
    let passed_on =
        lib.split("\npub use ").skip(1).filter_map(|text| text.split(';').next()?.split_once("::"));
    let holds = |items: &str| {
        items.split(['{', '}', ',']).any(|item| item.trim() == name) // one item, or a list
    };
    passed_on.filter(|(_, items)| holds(items)).map(|(module, _)| module).next()
}

/// The modules of its own crate that a text uses, also in a list.
fn named(code: &str) -> BTreeSet<String> {
    let name = |text: &str| {
        text.chars().take_while(|char| char.is_ascii_alphanumeric() || *char == '_').collect::<String>()
    };
    let names = |text: &str| match text.strip_prefix('{').and_then(|list| list.split('}').next()) {
        Some(list) => list.split(',').map(|item| name(item.trim())).collect(),
        None => vec![name(text)],
    };
    code.split("crate::").skip(1).flat_map(names).collect()
}

#[test]
fn modules_are_found_in_every_spelling() {
    let code = "use crate::tcp::{self, Dialled};\nuse crate::{state, http::server};\nlet x = crate::detect::first();";
    assert_eq!(named(code).into_iter().collect::<Vec<_>>(), ["detect", "http", "state", "tcp"]);
}

#[test]
fn paths_through_super_and_exports_are_resolved() {
    let lib =
        "pub mod body;\npub(crate) mod breaking;\npub use body::{Body, Whole};\npub use breaking::Broken;\n";
    assert_eq!(listed(lib), ["body", "breaking"]);
    let of = |name| passed_on(lib, name);
    assert_eq!(
        [of("Body"), of("Whole"), of("Broken"), of("Other")],
        [Some("body"), Some("body"), Some("breaking"), None]
    );
    assert!(is_of_tests(Path::new("h1/client/tests.rs")) && is_of_tests(Path::new("tests/golden.rs")));
    assert!(!is_of_tests(Path::new("h1/client.rs")));
    assert_eq!(from_crate("use super::body::Body;", 0), "use crate::body::Body;");
    assert_eq!(
        from_crate("use super::guard;\nuse super::super::body;", 1),
        "use super::guard;\nuse crate::body;"
    );
}

#[test]
fn no_module_uses_one_that_is_listed_above_it() {
    let mut upward = Vec::new();
    for folder in ORDERED {
        let folder = root().join(folder);
        let lib = read(&folder.join("lib.rs"));
        let modules = listed(&lib);
        assert!(modules.len() > 5, "{} lists its modules", folder.display());
        for (place, module) in modules.iter().enumerate() {
            let mut files = vec![folder.join(format!("{module}.rs"))];
            if folder.join(module).is_dir() {
                sources(&folder.join(module), &mut files);
            }
            files.retain(|file| !is_of_tests(file.strip_prefix(&folder).expect("it is inside")));
            for file in files {
                let depth = file.strip_prefix(&folder).expect("it is inside").components().count() - 1;
                let above = named(&from_crate(&code(&file), depth)).into_iter().filter(|used| {
                    let used = passed_on(&lib, used).unwrap_or(used);
                    modules.iter().position(|module| *module == used).is_some_and(|used| used < place)
                });
                upward.extend(above.map(|used| format!("{} uses {used}", file.display())));
            }
        }
    }
    assert!(upward.is_empty(), "imports that look up:\n{}", upward.join("\n"));
}

/// The rows of `docs/reliability.md`: the number of a fault, and a test that the row names.
fn promises() -> Vec<(String, String)> {
    let table = read(&root().join("docs/reliability.md"));
    let row = |line: &str| {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let [_, number, _, tests, _] = cells[..] else { return None };
        let test = tests.split('`').nth(1)?;
        Some((number.to_lowercase(), test.to_owned()))
    };
    table.lines().filter_map(row).collect()
}

/// tokio draws the order in which the branches of other `select!`s are polled, and no seed decides that.
#[test]
fn a_run_of_the_simulation_is_decided_by_its_seed() {
    let mut random = Vec::new();
    for folder in ["proxy/base", "proxy/tls", "proxy/http", "proxy/upstream", "proxy/sidecar"] {
        let mut files = Vec::new();
        sources(&root().join(folder).join("src"), &mut files);
        for file in files {
            let code = code(&file);
            let selects = code.split("select! {").skip(1);
            let unbiased = selects.filter(|branches| !branches.trim_start().starts_with("biased;")).count();
            if unbiased > 0 {
                random.push(format!("{unbiased} in {}", file.display()));
            }
        }
    }
    assert!(random.is_empty(), "`select!` without `biased;`: {random:?}");
}

#[test]
fn every_promise_of_the_documents_has_its_tests() {
    let mut files = Vec::new();
    for folder in ["proxy", "config", "tests"] {
        sources(&root().join(folder), &mut files);
    }
    let all: String = files.iter().map(|file| read(file)).collect();
    let promises = promises();
    assert!(promises.len() > 30, "the table is there");
    for (number, test) in promises {
        assert!(test.starts_with(&format!("{number}_")), "{number} names a test of its own: {test}");
        assert!(all.contains(&format!("fn {test}(")), "{number}: no test is called {test}");
    }
}
