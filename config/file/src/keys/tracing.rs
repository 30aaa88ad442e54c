//! `tracing`: spans of requests, and the headers that tell of a trace.

use pillion_model::tracing::{HiddenText, OtlpUrl, Propagation, Tracing};
use serde_json::Value;

use super::{Block, OffOrBlock, Static, field, headers, off_or_block};
use crate::page::{Page, Scopes};
use crate::reading::{Node, Reading};
use crate::schema;
use crate::spell;
use crate::value::{Leaf as _, Opt, Share};
use crate::words::HiddenValue;

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
            headers::schema::<HiddenValue>,
            |written: &mut Written, node, reading| written.headers = headers::read::<HiddenValue>(node, reading),
            |written, at, page| headers::tell::<HiddenValue>(&written.headers, &at.key("headers"), page),
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

pub(super) fn tell(of: Option<&Tracing>, at: &Scopes<'_>, page: &mut Page<'_>) {
    let Some(Tracing { otlp, sample, propagate, headers }) = of else { return page.tell(at, "off") };
    page.tell(&at.key("otlp"), otlp.to_string());
    page.tell(&at.key("sample"), spell::share(*sample));
    page.tell_list(propagate.iter().map(Propagation::spell), &at.whole("propagate"));
    headers::tell::<HiddenValue>(headers, &at.key("headers"), page);
}
