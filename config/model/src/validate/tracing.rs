//! `tracing`: lists that are empty, and headers that belong to the protocol.

use crate::fault::Faults;
use crate::path::Trail;
use crate::tracing::Tracing;

/// What requests to a collector carry by their protocol, and what concerns a single connection.
pub(super) const TAKEN: [&str; 11] = [
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "host",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
];

pub(super) fn validate(tracing: &Tracing, at: &Trail<'_>, faults: &mut Faults) {
    if tracing.propagate.is_empty() {
        faults
            .error(&at.key("propagate"), "is empty, so no trace would go on")
            .help("write w3c, b3 or b3multi, or leave it out for w3c");
    }
    let headers = at.key("headers");
    if tracing.headers.len() > Tracing::MOST_HEADERS {
        let has = tracing.headers.len();
        faults
            .error(&headers, format!("has {has} headers, more than {}", Tracing::MOST_HEADERS))
            .help("write those that the collector asks for");
    }
    for (name, _) in &tracing.headers {
        if TAKEN.contains(&name.as_str()) || name.starts_with("grpc-") {
            faults
                .error(&headers.key(name), "is set by the protocol itself")
                .help("write headers that the collector asks for, such as authorization");
        }
    }
}
