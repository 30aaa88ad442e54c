//! `tracing`: spans of requests, and the headers that tell of a trace.

use std::collections::HashSet;

use pillion_model::text::shortened;
use pillion_model::tracing::{HiddenText, OtlpUrl, Propagation, Tracing};
use serde_json::Value;

use super::{Block, OffOrBlock, Static, field, off_or_block};
use crate::page::{Page, Scopes};
use crate::reading::{Node, Reading};
use crate::schema;
use crate::spell;
use crate::value::{Leaf as _, Opt, Share};
use crate::words::{ChangedHeader, HiddenValue};

/// The block as it is written.
pub(super) struct Written {
    otlp: Option<OtlpUrl>,
    sample: f64,
    propagate: Vec<Propagation>,
    headers: Vec<(String, HiddenText)>,
}

static TRACING: Static<Written> = Static::new(|| {
    let new = || Written {
        otlp: None,
        sample: Tracing::SAMPLE,
        propagate: vec![Propagation::W3c],
        headers: Vec::new(),
    };
    Block::new(new)
        .word::<Opt<OtlpUrl>>(
            "otlp",
            field!(otlp),
            "The collector of the OpenTelemetry protocol: http:// or https:// for protobuf over HTTP, grpc:// or grpcs:// \
             for gRPC.",
        )
        .word::<Share>(
            "sample",
            field!(sample),
            "The share of the requests that are traced where no caller has decided it.",
        )
        .list::<Propagation>(
            "propagate",
            field!(propagate),
            "The headers that are read and written: w3c (traceparent, read first), b3, b3multi (x-b3-traceid and others).",
        )
        .key(
            "headers",
            "Headers of the requests to the collector. No page shows their values.",
            || schema::entries::<ChangedHeader>(schema::word::<HiddenValue>()),
            |written: &mut Written, node, reading| written.headers = headers(node, reading),
            |written, at, page| {
                for (name, value) in &written.headers {
                    page.tell(&at.key("headers").key(name), HiddenValue::spell(value));
                }
            },
        )
});

pub(super) fn schema() -> Option<Value> {
    schema::or_off(TRACING.schema())
}

pub(super) fn read(of: &mut Option<Tracing>, node: &Node<'_>, reading: &mut Reading<'_>) {
    match off_or_block(node, reading) {
        None => {}
        Some(OffOrBlock::Off) => *of = None,
        Some(OffOrBlock::Block) => *of = block(node, reading),
    }
}

fn block(node: &Node<'_>, reading: &mut Reading<'_>) -> Option<Tracing> {
    let Written { otlp, sample, mut propagate, headers } = TRACING.read_new(node, reading);
    if !node.has("otlp", reading) {
        node.lacks("otlp", "write the collector's address: \"http://127.0.0.1:4318\"", reading);
    }
    propagate.sort_unstable();
    propagate.dedup();
    Some(Tracing { otlp: otlp?, sample, propagate, headers })
}

fn headers(node: &Node<'_>, reading: &mut Reading<'_>) -> Vec<(String, HiddenText)> {
    let (mut seen, mut all) = (HashSet::new(), Vec::new());
    for (ChangedHeader(name), entry) in node.map::<ChangedHeader>(reading) {
        if !seen.insert(name.clone()) {
            entry
                .value
                .remark_on_key(&format!("repeats `{}`", shortened(&name)), reading)
                .help("the names of headers are case-insensitive; keep one");
        }
        all.extend(entry.value.word::<HiddenValue>(reading).map(|value| (name, value.value())));
    }
    all
}

pub(super) fn tell(of: Option<&Tracing>, at: &Scopes<'_>, page: &mut Page<'_>) {
    let Some(Tracing { otlp, sample, propagate, headers }) = of else { return page.tell(at, "off") };
    page.tell(&at.key("otlp"), otlp.to_string());
    page.tell(&at.key("sample"), spell::share(*sample));
    page.tell_list(propagate.iter().map(Propagation::spell), &at.whole("propagate"));
    for (name, value) in headers {
        page.tell(&at.key("headers").key(name), HiddenValue::spell(value));
    }
}
