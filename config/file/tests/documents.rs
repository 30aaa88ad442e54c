//! The YAML of the documents is what people copy: every block of it loads, without a warning, and looks right to an
//! editor. Files of other programs are fenced as `yml`.

#[path = "support/editor.rs"]
mod editor;
#[path = "support/reference.rs"]
mod reference;

use std::fs;
use std::path::{Path, PathBuf};

use pillion_model::Config;

const POD: &str = include_str!("../../../deploy/pod.yaml");
/// The one place where the keys are listed that a reload refuses to change.
const RELOAD: &str = include_str!("../../../proxy/app/credentialed.rs");

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Every document: its name and its text.
fn documents() -> Vec<(String, String)> {
    let folders = [root(), root().join("docs")];
    let files = folders.iter().flat_map(|folder| fs::read_dir(folder).expect("a folder"));
    let files = files.map(|file| file.expect("an entry").path());
    let mut pages: Vec<_> = files
        .filter(|file| file.extension().is_some_and(|extension| extension == "md"))
        .map(|file| (file.display().to_string(), fs::read_to_string(&file).expect("a page")))
        .collect();
    pages.sort();
    pages
}

/// The fenced `yaml` blocks, each with the line of the document that it starts on.
fn blocks(document: &str) -> Vec<(usize, String)> {
    let mut blocks: Vec<(usize, String)> = Vec::new();
    let mut is_yaml = false;
    for (index, line) in document.lines().enumerate() {
        match line.trim() {
            "```yaml" => {
                is_yaml = true;
                blocks.push((index + 2, String::new()));
            }
            "```" => is_yaml = false,
            _ if is_yaml => {
                let (_, block) = blocks.last_mut().expect("a block was begun above");
                block.push_str(line);
                block.push('\n');
            }
            _ => {}
        }
    }
    blocks
}

fn loads(block: &str, place: &str) {
    match pillion_config::parse(block, Path::new("/etc/pillion")) {
        Ok((_, warnings)) => assert_eq!(warnings, [], "{place}"),
        Err(errors) => unreachable!("{place}:\n{errors}"),
    }
    assert_eq!(editor::complaints(block), Vec::<String>::new(), "{place}");
}

#[test]
fn every_yaml_block_of_the_documents_loads_without_a_warning() {
    let mut found = 0;
    for (name, document) in documents() {
        for (line, block) in blocks(&document) {
            loads(&block, &format!("{name}, block at line {line}"));
            found += 1;
        }
    }
    assert!(found >= 8, "{found} blocks");
}

/// A manifest for Kubernetes with a sidecar's file inside.
#[test]
fn the_file_in_the_pod_loads() {
    let lines = POD.lines().skip_while(|line| !line.contains("pillion.yaml: |")).skip(1);
    let inside: Vec<_> = lines.map_while(|line| line.strip_prefix("    ")).collect();
    assert!(inside.len() > 5, "{inside:?}");
    loads(&inside.join("\n"), "deploy/pod.yaml");
}

/// A pair that does not name the same service, identity and port would load and not work.
#[test]
fn the_pair_of_the_getting_started_page_fits_together() {
    let page = fs::read_to_string(root().join("docs/getting-started.md")).expect("the page");
    let parsed = |(_, block): &(usize, String)| -> Config {
        pillion_config::parse(block, Path::new("")).expect("a good block, or the test above tells").0
    };
    let configs: Vec<_> = blocks(&page).iter().map(parsed).collect();
    let application =
        configs.iter().find(|config| config.outbound.is_none()).expect("the application's half");
    let caller = configs.iter().find(|config| config.inbound.is_none()).expect("the caller's half");
    let inbound = application.inbound.as_ref().expect("the application's half has an inbound side");
    assert_eq!(caller.clusters[0].endpoints[0].address, inbound.listen[0]);
    assert!(application.identity.is_some() && caller.identity.is_some(), "mTLS on both sides");
}

/// With PILLION_WRITE_DOCUMENTS=1 it writes the page.
#[test]
fn the_reference_of_the_keys_is_what_their_declarations_say() {
    let path = root().join("docs/configuration.md");
    let page = reference::page();
    if std::env::var_os("PILLION_WRITE_DOCUMENTS").is_some() {
        fs::write(&path, &page).expect("a page that can be written");
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    let differs = written.lines().zip(page.lines()).position(|(written, made)| written != made);
    assert!(
        written == page,
        "docs/configuration.md differs at line {differs:?}: run PILLION_WRITE_DOCUMENTS=1 cargo test -p pillion-config"
    );
}

#[test]
fn the_keys_that_take_a_restart_are_those_that_a_reload_refuses() {
    let refused: Vec<&str> = RELOAD
        .lines()
        .filter_map(|line| line.trim().strip_prefix("(\"")?.split_once("\", now.").map(|(key, _)| key))
        .collect();
    assert!(refused.len() >= 5, "{refused:?}");
    let mut declared = reference::restarted();
    declared.sort();
    let mut refused: Vec<String> = refused.into_iter().map(str::to_owned).collect();
    refused.sort();
    assert_eq!(declared, refused);
}

/// Ranges that the form of a value cannot say are words: these are the values at their edges.
#[test]
fn the_ranges_in_words_are_those_that_are_checked() {
    let service = |keys: &str| format!("services: {{ a: {{ endpoints: [\"10.0.0.1:80\"], {keys} }} }}");
    let dns = |refresh: &str| {
        format!("services: {{ a: {{ endpoints: {{ dns: \"a:80\", refresh: {refresh} }} }} }}")
    };
    let check = |timeout: &str| {
        let check = format!("{{ http: \"http://127.0.0.1:1\", timeout: {timeout} }}");
        format!("inbound: {{ authorization: {{ ext_authz: {check} }} }}")
    };
    let jwks = |refresh: &str| {
        let jwks = format!("{{ url: \"https://a\", refresh: {refresh} }}");
        format!("inbound: {{ authorization: {{ jwt: {{ issuer: a, audiences: b, jwks: {jwks} }} }} }}")
    };
    for (range, good, bad) in [
        (
            "8KiB to 1MiB",
            vec!["limits: { header_bytes: 8KiB }".to_owned(), "limits: { header_bytes: 1MiB }".to_owned()],
            vec!["limits: { header_bytes: 8191 }".to_owned(), "limits: { header_bytes: 1048577 }".to_owned()],
        ),
        (
            "up to 64MiB",
            vec![service("retry: { max_body: 64MiB }")],
            vec![service("retry: { max_body: 67108865 }")],
        ),
        (
            "1 to 100",
            vec![service("retry: { attempts: 1 }"), service("retry: { attempts: 100 }")],
            vec![service("retry: { attempts: 0 }"), service("retry: { attempts: 101 }")],
        ),
        ("1s or more", vec![dns("1s")], vec![dns("999ms")]),
        ("10s or more", vec![jwks("10s")], vec![jwks("9999ms")]),
        ("up to 1MiB", vec![check("1s, with_body: 1MiB")], vec![check("1s, with_body: 1048577")]),
        ("up to 30s", vec![check("30s")], vec![check("30001ms"), check("0s")]),
    ] {
        assert!(reference::page().contains(range), "{range}");
        let loads = |text: &String| pillion_config::parse(text, Path::new("")).is_ok();
        assert!(good.iter().all(loads), "{range}");
        assert!(!bad.iter().any(loads), "{range}");
    }
}
