//! `metrics.process_metrics`: how the application's process is found.

use pillion_model::telemetry::ProcessMetrics;
use serde_json::Value;

use super::{Block, OffOrBlock, Static, field, off_or_block};
use crate::page::{Page, Scopes};
use crate::reading::{Node, Reading};
use crate::schema;
use crate::value::{Opt, Port, Text};

struct Written {
    port: Option<u16>,
    name: Option<String>,
}

static PROCESS: Static<Written> = Static::new(|| {
    Block::new(|| Written { port: None, name: None })
        .word::<Opt<Port>>("port", field!(port), "The port on which it listens.")
        .word::<Opt<Text>>("name", field!(name), "The name of its program or script, without the folder.")
});

pub(super) fn schema() -> Option<Value> {
    schema::or_off(PROCESS.schema())
}

pub(super) fn read(of: &mut Option<ProcessMetrics>, node: &Node<'_>, reading: &mut Reading<'_>) {
    match off_or_block(node, reading) {
        None => {}
        Some(OffOrBlock::Off) => *of = None,
        Some(OffOrBlock::Block) => {
            *of = match PROCESS.read_new(node, reading) {
                Written { port: Some(port), name: None } => Some(ProcessMetrics::Port(port)),
                Written { port: None, name: Some(name) } => Some(ProcessMetrics::Name(name)),
                Written { port, .. } => {
                    let what = if port.is_some() {
                        "has `port` and `name`"
                    } else {
                        "has neither `port` nor `name`"
                    };
                    node.remark(what, reading).help("write one: { port: 8080 }, or { name: java }");
                    None
                }
            }
        }
    }
}

pub(super) fn tell(of: Option<&ProcessMetrics>, at: &Scopes<'_>, page: &mut Page<'_>) {
    match of {
        None => page.tell(at, "off"),
        Some(ProcessMetrics::Port(port)) => page.tell(&at.key("port"), *port),
        Some(ProcessMetrics::Name(name)) => page.tell(&at.key("name"), name.as_str()),
    }
}
