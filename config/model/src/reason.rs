//! Why a request was not answered by the upstream: the CODEs of the public interface, with their statuses.

/// A stable code: the `reason` of the metric and of the access log, and the `CODE` in `Proxy-Status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// No route and no service matches.
    NoRoute,
    /// No service matches, and `outbound.unknown` is deny.
    EgressDenied,
    /// The service has no endpoint.
    NoEndpoints,
    /// Every known endpoint is ejected or unhealthy.
    AllUnhealthy,
    /// The endpoint refused the connection.
    ConnectRefused,
    /// The connection took longer than `connect_timeout`.
    ConnectTimeout,
    /// The name of the destination could not be resolved.
    DnsError,
    /// The TLS handshake with the endpoint failed.
    TlsError,
    /// The endpoint's certificate does not carry the required identity.
    PeerIdentityMismatch,
    /// The upstream reset the stream or the connection before the response's headers.
    UpstreamReset,
    /// The upstream closed the connection before the response's headers.
    UpstreamClosed,
    /// The upstream broke the rules of HTTP.
    ProtocolError,
    /// The upstream did not accept the upgrade.
    UpgradeFailed,
    /// The response's headers did not come within `timeout`, or within the client's own deadline.
    RequestTimeout,
    /// The last allowed attempt took longer than `retry.per_try_timeout`.
    PerTryTimeout,
    /// A body paused for longer than `stream_idle_timeout`.
    StreamIdleTimeout,
    /// The exchange took longer than `max_duration`.
    MaxDuration,
    /// Too many requests wait for a connection: `circuit_breaker.max_pending_requests`.
    LimitPending,
    /// Too many requests are in flight: `max_requests`.
    LimitRequests,
    /// The sidecar or the service has as many connections as it may have.
    Overloaded,
    /// More requests came than `rate_limit` allows.
    RateLimited,
    /// The `fault` of a route answered the request.
    FaultInjected,
    /// A plaintext request came to a port whose mTLS is strict.
    MtlsRequired,
    /// A rule of `inbound.authorization`, or its default, denies it.
    AuthzDenied,
    /// The token of the request is missing where it is required, or is not one that `jwt` accepts.
    JwtInvalid,
    /// What authorization needs from outside is not there.
    AuthzUnavailable,
    /// The request is malformed.
    BadRequest,
    /// The CODE is `bad_request` too, but the status is 501: the request may be valid, but the sidecar does not decode
    /// its transfer coding.
    UnsupportedCoding,
    /// The request's head is larger than `limits` allow.
    HeadersTooLarge,
    /// The request's body is larger than `max_body`.
    BodyTooLarge,
    /// The client stopped sending in the middle of its request.
    RequestStalled,
    /// The request has passed through this sidecar too often.
    LoopDetected,
    /// The sidecar will stop soon and takes no new requests.
    Draining,
    /// An internal fault of the sidecar, which ended this request alone.
    InternalError,
    /// The client left before the response. Only the access log and the metric record this.
    ClientGone,
}

/// The row of one code in the table of the public interface.
struct Row {
    code: &'static str,
    error_type: &'static str,
    http: u16,
    grpc: u8,
}

impl Reason {
    #[rustfmt::skip] // one table, read by columns
    const fn row(self) -> Row {
        const fn row(code: &'static str, error_type: &'static str, http: u16, grpc: u8) -> Row {
            Row { code, error_type, http, grpc }
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
            Self::RateLimited => row("rate_limited", "http_request_denied", 429, 8),
            Self::FaultInjected => row("fault_injected", "proxy_internal_response", 500, 14),
            Self::MtlsRequired => row("mtls_required", "http_request_denied", 403, 7),
            Self::AuthzDenied => row("authz_denied", "http_request_denied", 403, 7),
            Self::JwtInvalid => row("jwt_invalid", "http_request_denied", 401, 16),
            Self::AuthzUnavailable => row("authz_unavailable", "proxy_internal_error", 503, 14),
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

    /// The stable code: `no_route`.
    pub const fn code(self) -> &'static str {
        self.row().code
    }

    /// The error type of `Proxy-Status` (RFC 9209, section 2.3). Empty for [`Reason::ClientGone`]: no response reaches
    /// that client.
    pub const fn error_type(self) -> &'static str {
        self.row().error_type
    }

    /// The HTTP status of the response.
    pub const fn status(self) -> u16 {
        self.row().http
    }

    /// The gRPC status of the response to a gRPC call.
    pub const fn grpc_status(self) -> u8 {
        self.row().grpc
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rows of the public interface, written a second time: clients depend on them, so no code may change by
    /// accident.
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
            (Reason::RateLimited, "rate_limited http_request_denied 429 8"),
            (Reason::FaultInjected, "fault_injected proxy_internal_response 500 14"),
            (Reason::MtlsRequired, "mtls_required http_request_denied 403 7"),
            (Reason::AuthzDenied, "authz_denied http_request_denied 403 7"),
            (Reason::JwtInvalid, "jwt_invalid http_request_denied 401 16"),
            (Reason::AuthzUnavailable, "authz_unavailable proxy_internal_error 503 14"),
            (Reason::BadRequest, "bad_request http_request_error 400 13"),
            (Reason::UnsupportedCoding, "bad_request http_request_error 501 13"),
            (Reason::HeadersTooLarge, "headers_too_large http_request_error 431 13"),
            (Reason::Draining, "draining destination_unavailable 503 14"),
            (Reason::LoopDetected, "loop_detected proxy_loop_detected 508 13"),
        ];
        for (reason, row) in rows {
            let columns = [
                reason.code(),
                reason.error_type(),
                &reason.status().to_string(),
                &reason.grpc_status().to_string(),
            ];
            assert_eq!(columns.join(" "), row);
        }
    }
}
