//! Why a request got no answer on its connection.

use pillion_base::error::Sent;
use pillion_http::error::io_reason;
use pillion_http::h2::client::{ClientFailure, FailedRequest};
use pillion_model::Reason;
use pillion_tls::admission;

/// A request that got no answer.
pub struct SendFailure {
    pub reason: Reason,
    pub detail: String,
    pub sent: Sent,
    /// Whether the answer's head has more fields or bytes than are allowed.
    pub is_large_head: bool,
    /// See [`Error::is_our_fault`](pillion_base::error::Error::is_our_fault).
    pub is_our_fault: bool,
    /// Whether no byte of the request was written, so that it can be sent again unchanged.
    pub is_unsent: bool,
    /// Whether the stream was reset because the client's body broke off. The upstream may still work on the request.
    pub(super) is_cut: bool,
}

impl SendFailure {
    /// A head that the HTTP version of the connection cannot carry. Another endpoint could not get it either.
    pub(super) fn unwritable(misuse: &dyn std::error::Error) -> Self {
        Self {
            reason: Reason::InternalError,
            detail: misuse.to_string(),
            sent: Sent::Perhaps,
            is_large_head: false,
            is_our_fault: true,
            is_unsent: false,
            is_cut: false,
        }
    }
}

/// Whether the request may be sent again. If a connection that was used before is closed by the peer, it had probably
/// ended before the request was sent.
pub(super) const fn sent(reason: Reason, is_unsent: bool, was_used: bool) -> Sent {
    match reason {
        _ if is_unsent => Sent::Never,
        Reason::UpstreamClosed | Reason::UpstreamReset if was_used => Sent::OnStaleConnection,
        _ => Sent::Perhaps,
    }
}

/// A failure whose reason is TLS. A server that refused us has read nothing of the request.
pub(super) fn by_tls(failure: SendFailure, tls: admission::AdmissionFailure) -> SendFailure {
    let is_unsent = tls.is_refusal || failure.sent == Sent::Never;
    let sent = if is_unsent { Sent::Never } else { Sent::Perhaps };
    let is_our_fault = tls.error.is_of_our_certificate;
    SendFailure { reason: Reason::TlsError, detail: tls.error.detail, sent, is_our_fault, ..failure }
}

/// Why a request failed on an HTTP/2 connection, and whether it may have had an effect.
pub(super) fn explain_failed(failed: &FailedRequest, was_used: bool) -> SendFailure {
    let reason = reason_http2(&failed.error);
    let is_unsent = failed.is_unsent || was_refused(&failed.error) || is_goaway(&failed.error);
    let sent = sent(reason, is_unsent, was_used);
    SendFailure {
        reason,
        detail: failed.error.to_string(),
        sent,
        is_large_head: false,
        is_our_fault: false,
        is_unsent: failed.is_unsent,
        is_cut: matches!(failed.error, ClientFailure::Body),
    }
}

/// What went wrong on an HTTP/2 connection, as a [`Reason`].
pub(crate) fn reason_http2(failure: &ClientFailure) -> Reason {
    match failure {
        ClientFailure::Http2(error) => match error.get_io() {
            Some(io) => io_reason(io),
            None if error.is_remote() => Reason::UpstreamReset,
            None => Reason::ProtocolError,
        },
        ClientFailure::Left => Reason::UpstreamClosed,
        ClientFailure::Body => Reason::UpstreamReset,
        ClientFailure::TooManyInterim | ClientFailure::Switched | ClientFailure::Content => {
            Reason::ProtocolError
        }
    }
}

/// RFC 9113, 8.7: whether the stream was refused before it was processed.
pub(super) fn was_refused(failure: &ClientFailure) -> bool {
    let ClientFailure::Http2(error) = failure else { return false };
    error.is_remote() && error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM)
}

/// RFC 9113, 6.8: whether the stream failed by a GOAWAY. h2 reports it for streams above the last one that the peer
/// will process, whatever the error code is.
pub(super) fn is_goaway(failure: &ClientFailure) -> bool {
    matches!(failure, ClientFailure::Http2(error) if error.is_remote() && error.is_go_away())
}
