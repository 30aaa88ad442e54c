//! Labels of connections: what they carry, how they are encrypted and how they ended.

vocabulary! {
    /// The protocol of a connection. `Unknown` if the connection ended before the protocol was known.
    Protocol as "protocol" { Http1 = "http1", Http2 = "http2", Tcp = "tcp", Unknown = "unknown" }

    /// The protocol that the first bytes of an undeclared connection showed.
    DetectionVerdict as "verdict" {
        Http1 = "http1",
        Http2 = "http2",
        /// TLS that the sidecar does not terminate.
        Tls = "tls",
        /// Any other bytes, and every connection on which the server speaks first.
        Opaque = "opaque",
    }

    /// Whether a connection is encrypted, and which sides presented a certificate.
    Tls as "tls" {
        None = "none",
        ServerOnly = "tls",
        Mutual = "mtls",
    }

    /// How opening or accepting a connection ended.
    ConnectionOutcome as "outcome" {
        Ok = "ok",
        /// Refused by the peer when connecting, or by a limit of the sidecar when accepting.
        Refused = "refused",
        Timeout = "timeout",
        TlsError = "tls_error",
        /// Any other failure: unreachable, reset, or a first request that is not valid.
        Failed = "failed",
    }

    HandshakeOutcome as "outcome" {
        Ok = "ok",
        Failed = "failed",
        /// The peer's certificate does not carry an identity that is allowed here.
        Identity = "identity",
        Timeout = "timeout",
    }

    /// The direction of bytes, seen from the sidecar's downstream: a request's body is received.
    Flow as "flow" { Received = "received", Sent = "sent" }

    /// How the DNS proxy answered a query.
    DnsOutcome as "outcome" {
        /// With the addresses that the configuration gives to a service.
        Own = "own",
        /// With a service's virtual addresses.
        Virtual = "virtual",
        /// With the answer of a name server, whatever that was.
        Forwarded = "forwarded",
        Cached = "cached",
        /// No answer: no name server replied, too many queries are waiting for one, or the message was not a query.
        Failed = "failed",
    }
}
