//! The README's YAML is what people copy: every block of it loads, without a warning, and looks right to an
//! editor.

#[path = "support/editor.rs"]
mod editor;

use std::path::Path;

const README: &str = include_str!("../../README.md");

/// The fenced `yaml` blocks, each with the line of the README that it starts on.
fn blocks() -> Vec<(usize, String)> {
    let mut blocks: Vec<(usize, String)> = Vec::new();
    let mut is_yaml = false;
    for (index, line) in README.lines().enumerate() {
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

#[test]
fn every_yaml_block_of_the_readme_loads_without_a_warning() {
    let blocks = blocks();
    assert!(blocks.len() >= 2, "the smallest pair at least: {blocks:?}");
    for (line, block) in blocks {
        match pillion_config::parse(&block, Path::new("/etc/pillion")) {
            Ok((_, warnings)) => assert_eq!(warnings, [], "README.md, block at line {line}"),
            Err(errors) => unreachable!("README.md, block at line {line}:\n{errors}"),
        }
        assert_eq!(editor::complaints(&block), Vec::<String>::new(), "README.md, block at line {line}");
    }
}

/// A pair that does not name the same service, identity and port would load and not work.
#[test]
fn the_smallest_pair_of_the_readme_fits_together() {
    let parsed = |(_, block): &(usize, String)| {
        pillion_config::parse(block, Path::new("")).expect("a good block, or the test above tells").0
    };
    let configs: Vec<_> = blocks().iter().map(parsed).collect();
    let application =
        configs.iter().find(|config| config.outbound.is_none()).expect("the application's half");
    let caller = configs.iter().find(|config| config.inbound.is_none()).expect("the caller's half");
    let inbound = application.inbound.as_ref().expect("the application's half has an inbound side");
    assert_eq!(caller.clusters[0].endpoints[0].address, inbound.listen[0]);
    assert!(application.identity.is_some() && caller.identity.is_some(), "mTLS on both sides");
}
