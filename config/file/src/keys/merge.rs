//! `metrics.merge`: programs whose metrics become a part of the sidecar's.

use std::time::Duration;

use pillion_model::telemetry::{MergeSource, SourceUrl};
use serde_json::Value;

use super::{Block, Static, field};
use crate::page::{Page, Scopes};
use crate::reading::{Node, Reading, Shape};
use crate::schema;
use crate::spell;
use crate::value::{Opt, Word as _, on_off};
use crate::words::SourceName;

/// A source as it is written.
struct Written {
    name: Option<String>,
    url: Option<SourceUrl>,
    timeout: Duration,
}

static SOURCE: Static<Written> = Static::new(|| {
    Block::new(|| Written { name: None, url: None, timeout: MergeSource::TIMEOUT })
        .word::<Opt<SourceName>>(
            "name",
            field!(name),
            "The label `source`, and what stands before names that are taken. Default app.",
        )
        .word::<Opt<SourceUrl>>(
            "url",
            field!(url),
            "The address: http, an IP address or localhost, a port and a path.",
        )
        .word::<Duration>("timeout", field!(timeout), "The time for the whole answer, with the connection.")
        .takes("up to 4s")
});

pub(super) fn schema() -> Option<Value> {
    let item = schema::any_of([schema::word::<SourceUrl>(), SOURCE.schema()]);
    schema::any_of([
        schema::defined("off"),
        schema::word::<SourceUrl>(),
        schema::list_of(item),
        schema::left_open(),
    ])
}

/// `off` is the same as an empty list.
pub(super) fn read(node: &Node<'_>, reading: &mut Reading<'_>) -> Vec<MergeSource> {
    const EXPECTED: &str = "a list of addresses ([\"http://127.0.0.1:8080/metrics\"])";
    match node.shape(EXPECTED, reading) {
        None => {}
        Some(Shape::Word(leaf)) if on_off(&leaf.text) == Some(false) => {}
        Some(Shape::Word(leaf)) => {
            let url = node.parsed(&leaf, SourceUrl::parse(&leaf.text), reading);
            return url.map(unnamed).into_iter().collect();
        }
        Some(Shape::List) => return node.items(reading, source),
        Some(Shape::Block) => node.mismatch(EXPECTED, reading),
    }
    Vec::new()
}

fn source(node: &Node<'_>, reading: &mut Reading<'_>) -> Option<MergeSource> {
    const EXPECTED: &str = "an address, or a block with `url`";
    match node.shape(EXPECTED, reading)? {
        Shape::Word(leaf) => node.parsed(&leaf, SourceUrl::parse(&leaf.text), reading).map(unnamed),
        Shape::List => {
            node.mismatch(EXPECTED, reading);
            None
        }
        Shape::Block => {
            let Written { name, url, timeout } = SOURCE.read_new(node, reading);
            if !node.has("url", reading) {
                node.lacks("url", "{ name: jvm, url: \"http://127.0.0.1:9404/metrics\" }", reading);
            }
            let name = name.unwrap_or_else(|| MergeSource::NAME.to_owned());
            Some(MergeSource { name, url: url?, timeout })
        }
    }
}

fn unnamed(url: SourceUrl) -> MergeSource {
    MergeSource { name: MergeSource::NAME.to_owned(), url, timeout: MergeSource::TIMEOUT }
}

pub(super) fn tell(all: &[MergeSource], at: &Scopes<'_>, page: &mut Page<'_>) {
    for (nth, MergeSource { name, url, timeout }) in all.iter().enumerate() {
        let item = at.index(nth);
        page.tell_or(&item.key("name"), &item, name.as_str());
        page.tell_or(&item.key("url"), &item, url.to_string());
        page.tell_or(&item.key("timeout"), &item, spell::duration(*timeout));
    }
}
