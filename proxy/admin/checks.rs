//! `/checks`: what is wrong around this sidecar, a line for each check.

use std::time::SystemTime;

use serde_json::{Value, json};

use super::requests::moment;
use crate::preflight::Line;

/// `at`: when the check ended, by the clock of this host.
pub(super) fn page(lines: &[Line], at: SystemTime) -> Value {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    json!({
        "at": moment(at),
        "at_ms": since.as_millis() as u64,
        "checks": lines.iter().map(Line::to_json).collect::<Vec<_>>(),
    })
}
