//! People copy the YAML of the documents, so every block of it must load without a warning and pass the schema.

#[path = "support/editor.rs"]
mod editor;

use std::path::Path;

const README: &str = include_str!("../../../README.md");
const INTERCEPTION: &str = include_str!("../../../docs/interception.md");
const POD: &str = include_str!("../../../deploy/pod.yaml");

/// The fenced `yaml` blocks, each with the line of the document that it starts on.
fn blocks(document: &str) -> Vec<(usize, String)> {
    let mut blocks: Vec<(usize, String)> = Vec::new();
    let mut is_yaml = false;
    for (index, line) in document.lines().enumerate() {
        match line.trim_end() {
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
    for (name, document) in [("README.md", README), ("docs/interception.md", INTERCEPTION)] {
        let blocks = blocks(document);
        assert!(blocks.len() >= 2, "{name}: {blocks:?}");
        for (line, block) in blocks {
            loads(&block, &format!("{name}, block at line {line}"));
        }
    }
}

/// A Kubernetes manifest that contains a configuration file.
#[test]
fn the_file_in_the_pod_loads() {
    let lines = POD.lines().skip_while(|line| !line.contains("pillion.yaml: |")).skip(1);
    let inside: Vec<_> = lines.map_while(|line| line.strip_prefix("    ")).collect();
    assert!(inside.len() > 5, "{inside:?}");
    loads(&inside.join("\n"), "deploy/pod.yaml");
}

/// The two halves must name the same service, identity and port. Otherwise both files would load, but not work
/// together.
#[test]
fn the_smallest_pair_of_the_readme_fits_together() {
    let parsed = |(_, block): &(usize, String)| {
        pillion_config::parse(block, Path::new("")).expect("a good block, or the test above tells").0
    };
    let configs: Vec<_> = blocks(README).iter().map(parsed).collect();
    let application =
        configs.iter().find(|config| config.outbound.is_none()).expect("the application's half");
    let caller = configs.iter().find(|config| config.inbound.is_none()).expect("the caller's half");
    let inbound = application.inbound.as_ref().expect("the application's half has an inbound side");
    assert_eq!(caller.clusters[0].endpoints[0].address, inbound.listen[0]);
    assert!(application.identity.is_some() && caller.identity.is_some(), "mTLS on both sides");
}
