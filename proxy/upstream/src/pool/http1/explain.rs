//! hyper's errors in the words of the interface.

use http::Request;

use crate::pool::SendFailure;
use crate::pool::send_failure::{io_reason, sent};
use pillion_http::Body;
use pillion_model::Reason;

/// Why a request has no answer, and whether it may have had an effect.
pub(super) fn explain(error: &hyper::Error, unsent: Option<Request<Body>>, was_used: bool) -> SendFailure {
    let reason = reason(error);
    let sent = sent(reason, unsent.is_some(), was_used);
    SendFailure {
        reason,
        detail: text(error),
        sent,
        is_large_head: error.is_parse_too_large(),
        is_our_fault: false,
        unsent: unsent.map(Box::new),
    }
}

fn reason(error: &hyper::Error) -> Reason {
    if let Some(io) = cause::<std::io::Error>(error) {
        return io_reason(io);
    }
    if error.is_parse() {
        Reason::ProtocolError
    } else if error.is_incomplete_message() || error.is_canceled() || error.is_closed() {
        Reason::UpstreamClosed
    } else {
        Reason::UpstreamReset
    }
}

/// The first error of this type among the causes.
fn cause<E: std::error::Error + 'static>(error: &hyper::Error) -> Option<&E> {
    causes(error).find_map(|error| error.downcast_ref())
}

fn causes(error: &hyper::Error) -> impl Iterator<Item = &(dyn std::error::Error + 'static)> {
    std::iter::successors(std::error::Error::source(error), |error| error.source())
}

/// The message with its causes, which hyper keeps apart.
fn text(error: &hyper::Error) -> String {
    causes(error).fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
