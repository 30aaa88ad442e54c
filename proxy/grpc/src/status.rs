//! The status of a call whose connection or stream failed.

use std::error::Error;

use h2::Reason;
use tonic::{Code, Status};

/// The status that gRPC defines for an error of HTTP/2 ("gRPC over HTTP/2", Errors). Everything that is no reset of the
/// stream means that the connection is gone, which is UNAVAILABLE.
pub(crate) fn of_http2(error: &hyper::Error) -> Status {
    let http2 = std::iter::successors(error.source(), |&cause| cause.source())
        .find_map(|cause| cause.downcast_ref::<h2::Error>());
    let code = match http2 {
        Some(http2) if http2.is_reset() => http2.reason().map_or(Code::Internal, of_reset),
        _ => Code::Unavailable,
    };
    Status::new(code, causes(error))
}

fn of_reset(reason: Reason) -> Code {
    match reason {
        Reason::REFUSED_STREAM => Code::Unavailable,
        Reason::CANCEL => Code::Cancelled,
        Reason::ENHANCE_YOUR_CALM => Code::ResourceExhausted,
        Reason::INADEQUATE_SECURITY => Code::PermissionDenied,
        _ => Code::Internal,
    }
}

/// The error with its causes, each once.
fn causes(error: &hyper::Error) -> String {
    let mut text = error.to_string();
    for cause in std::iter::successors(error.source(), |&cause| cause.source()) {
        let cause = cause.to_string();
        if !text.ends_with(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}
