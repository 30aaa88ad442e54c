//! Why a request was not answered by the upstream: [`Reason`], the CODEs of the public interface, and [`Error`].

use std::borrow::Cow;
use std::fmt;

use crate::http::Call;

/// A stable code: `reason` of the metric and of the access log, `CODE` in `Proxy-Status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Reason {
    NoRoute,
    EgressDenied,
    NoEndpoints,
    AllUnhealthy,
    ConnectRefused,
    ConnectTimeout,
    DnsError,
    TlsError,
    PeerIdentityMismatch,
    UpstreamReset,
    UpstreamClosed,
    ProtocolError,
    UpgradeFailed,
    RequestTimeout,
    PerTryTimeout,
    StreamIdleTimeout,
    MaxDuration,
    LimitPending,
    LimitRequests,
    Overloaded,
    MtlsRequired,
    BadRequest,
    /// A `bad_request` too, with a status of its own: the request may be right, but its coding is not undone here.
    UnsupportedCoding,
    HeadersTooLarge,
    BodyTooLarge,
    RequestStalled,
    LoopDetected,
    Draining,
    InternalError,
    ClientGone,
}

/// What the table of the public interface says of one code.
struct Row {
    code: &'static str,
    /// The error type of RFC 9209, section 2.3.
    kind: &'static str,
    http: u16,
    grpc: u8,
}

impl Reason {
    #[rustfmt::skip] // one table, read by columns
    const fn row(self) -> Row {
        const fn row(code: &'static str, kind: &'static str, http: u16, grpc: u8) -> Row {
            Row { code, kind, http, grpc }
        }
        match self {
            Self::NoRoute => row("no_route", "destination_not_found", 404, 12),
            Self::EgressDenied => row("egress_denied", "destination_ip_prohibited", 403, 7),
            Self::NoEndpoints => row("no_endpoints", "destination_unavailable", 503, 14),
            Self::AllUnhealthy => row("all_unhealthy", "destination_unavailable", 503, 14),
            Self::ConnectRefused => row("connect_refused", "connection_refused", 502, 14),
            Self::ConnectTimeout => row("connect_timeout", "connection_timeout", 504, 14),
            Self::DnsError => row("dns_error", "dns_error", 502, 14),
            Self::TlsError => row("tls_error", "tls_protocol_error", 502, 14),
            Self::PeerIdentityMismatch => row("peer_identity_mismatch", "tls_certificate_error", 502, 14),
            Self::UpstreamReset => row("upstream_reset", "connection_terminated", 502, 14),
            Self::UpstreamClosed => row("upstream_closed", "connection_terminated", 502, 14),
            Self::ProtocolError => row("protocol_error", "http_protocol_error", 502, 14),
            Self::UpgradeFailed => row("upgrade_failed", "http_protocol_error", 502, 14),
            Self::RequestTimeout => row("request_timeout", "http_response_timeout", 504, 4),
            Self::PerTryTimeout => row("per_try_timeout", "http_response_timeout", 504, 4),
            Self::StreamIdleTimeout => row("stream_idle_timeout", "http_response_timeout", 504, 4),
            Self::MaxDuration => row("max_duration", "http_response_timeout", 504, 4),
            Self::LimitPending => row("limit_pending", "connection_limit_reached", 503, 14),
            Self::LimitRequests => row("limit_requests", "connection_limit_reached", 503, 14),
            Self::Overloaded => row("overloaded", "connection_limit_reached", 503, 14),
            Self::MtlsRequired => row("mtls_required", "http_request_denied", 403, 7),
            Self::BadRequest => row("bad_request", "http_request_error", 400, 13),
            Self::UnsupportedCoding => row("bad_request", "http_request_error", 501, 13),
            Self::HeadersTooLarge => row("headers_too_large", "http_request_error", 431, 13),
            Self::BodyTooLarge => row("body_too_large", "http_request_error", 413, 13),
            Self::RequestStalled => row("request_stalled", "http_request_error", 408, 13),
            Self::LoopDetected => row("loop_detected", "proxy_loop_detected", 508, 13),
            Self::Draining => row("draining", "destination_unavailable", 503, 14),
            Self::InternalError => row("internal_error", "proxy_internal_error", 500, 13),
            Self::ClientGone => row("client_gone", "", 499, 1),
        }
    }

    pub(crate) const fn code(self) -> &'static str {
        self.row().code
    }

    /// The `error` parameter of `Proxy-Status` (RFC 9209).
    pub(crate) const fn kind(self) -> &'static str {
        self.row().kind
    }

    pub(crate) const fn status(self) -> u16 {
        self.row().http
    }

    pub(crate) const fn grpc_status(self) -> u8 {
        self.row().grpc
    }
}

/// Whether what failed may be sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sent {
    /// No byte of it was written, or the upstream refused it before processing: safe for any method.
    Never,
    /// Written to a pooled connection that died before any byte of an answer: most likely the upstream had
    /// already hung up.
    OnStaleConnection,
    /// Written; the upstream may have acted on it.
    Perhaps,
}

/// A request that ended without an answer of the upstream's.
#[derive(thiserror::Error)]
#[error("{detail}")]
pub(crate) struct Error {
    pub(crate) reason: Reason,
    /// One sentence for the caller and the log: what happened and where to look.
    pub(crate) detail: Cow<'static, str>,
    pub(crate) sent: Sent,
    /// Where the request ends is not certain: no other may follow it on its HTTP/1 connection.
    pub(crate) ends_connection: bool,
    /// The call itself, as good as new, where nothing of it was sent.
    pub(crate) unsent: Option<Box<Call>>,
}

impl Error {
    /// Nothing was sent upstream.
    pub(crate) fn new(reason: Reason, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { reason, detail: detail.into(), sent: Sent::Never, ends_connection: false, unsent: None }
    }

    #[must_use]
    pub(crate) const fn ending_connection(mut self) -> Self {
        self.ends_connection = true;
        self
    }

    #[must_use]
    pub(crate) const fn sent(mut self, sent: Sent) -> Self {
        self.sent = sent;
        self
    }

    /// The last of several tries, of which an earlier one may have arrived: nobody may take the request for unsent.
    #[must_use]
    pub(crate) fn sent_before(mut self) -> Self {
        if self.sent == Sent::Never {
            self.sent = Sent::Perhaps;
        }
        self.unsent = None;
        self
    }

    /// Gives the call back to whoever may send it again.
    #[must_use]
    pub(crate) fn with(mut self, call: Box<Call>) -> Self {
        self.unsent = Some(call);
        self
    }

    /// The same for another request that met the same fate.
    pub(crate) fn for_another(&self) -> Self {
        Self { detail: self.detail.clone(), unsent: None, ..*self }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("reason", &self.reason)
            .field("detail", &self.detail)
            .field("sent", &self.sent)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rows of the public interface, written a second time: a changed code is a broken promise.
    #[test]
    fn codes_are_those_of_the_interface() {
        let rows = [
            (Reason::NoRoute, "no_route destination_not_found 404 12"),
            (Reason::EgressDenied, "egress_denied destination_ip_prohibited 403 7"),
            (Reason::DnsError, "dns_error dns_error 502 14"),
            (Reason::UpgradeFailed, "upgrade_failed http_protocol_error 502 14"),
            (Reason::ConnectTimeout, "connect_timeout connection_timeout 504 14"),
            (Reason::PeerIdentityMismatch, "peer_identity_mismatch tls_certificate_error 502 14"),
            (Reason::RequestTimeout, "request_timeout http_response_timeout 504 4"),
            (Reason::LimitPending, "limit_pending connection_limit_reached 503 14"),
            (Reason::MtlsRequired, "mtls_required http_request_denied 403 7"),
            (Reason::BadRequest, "bad_request http_request_error 400 13"),
            (Reason::UnsupportedCoding, "bad_request http_request_error 501 13"),
            (Reason::HeadersTooLarge, "headers_too_large http_request_error 431 13"),
            (Reason::Draining, "draining destination_unavailable 503 14"),
            (Reason::LoopDetected, "loop_detected proxy_loop_detected 508 13"),
        ];
        for (reason, row) in rows {
            let told = [
                reason.code(),
                reason.kind(),
                &reason.status().to_string(),
                &reason.grpc_status().to_string(),
            ];
            assert_eq!(told.join(" "), row);
        }
    }
}
