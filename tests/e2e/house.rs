//! The house keeps its floors, and its promises have tests. Reads sources, runs nothing.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Crates whose `lib.rs` lists its modules from top to bottom.
const ORDERED: [&str; 2] = ["proxy/base/src", "proxy/sidecar/src"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).expect("a file of the repository")
}

/// All Rust files below a folder.
fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
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

/// The code of a file: no comments, and no unit tests, which may look wherever they like.
fn code(path: &Path) -> String {
    let text = read(path);
    let text = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
    let lines = text.lines().map(|line| line.split("//").next().unwrap_or_default());
    lines.collect::<Vec<_>>().join("\n")
}

/// The modules of its own crate that a text names, in a list too.
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
fn what_a_text_names_is_found_in_every_spelling() {
    let code = "use crate::tcp::{self, Dialled};\nuse crate::{state, http::server};\nlet x = crate::detect::first();";
    assert_eq!(named(code).into_iter().collect::<Vec<_>>(), ["detect", "http", "state", "tcp"]);
}

#[test]
fn no_module_uses_one_that_stands_above_it() {
    let mut upward = Vec::new();
    for folder in ORDERED {
        let folder = root().join(folder);
        let lib = read(&folder.join("lib.rs"));
        let modules: Vec<&str> =
            lib.lines().filter_map(|line| line.trim().strip_prefix("pub mod ")?.strip_suffix(';')).collect();
        assert!(modules.len() > 5, "{} lists its modules", folder.display());
        for (place, module) in modules.iter().enumerate() {
            let mut files = vec![folder.join(format!("{module}.rs"))];
            if folder.join(module).is_dir() {
                sources(&folder.join(module), &mut files);
            }
            for file in files {
                let above = named(&code(&file)).into_iter().filter(|used| {
                    modules.iter().position(|module| module == used).is_some_and(|used| used < place)
                });
                upward.extend(above.map(|used| format!("{} uses {used}", file.display())));
            }
        }
    }
    assert!(upward.is_empty(), "imports that look up:\n{}", upward.join("\n"));
}

/// The rows of `docs/reliability.md`: a fault's number, and a test that it names.
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
