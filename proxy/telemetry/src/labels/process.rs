//! Labels of the process itself: its configuration, its certificates, its memory and its traces.

vocabulary! {
    /// What happened to a configuration that was read again.
    ReloadOutcome as "outcome" { Applied = "applied", Unchanged = "unchanged", Refused = "refused" }

    /// Whose expiry the timestamp shows.
    CertificateUse as "use" {
        /// The sidecar's own certificate chain: the earliest expiry in it.
        Own = "own",
        /// The bundle against which peers are verified: the earliest expiry in it.
        Ca = "ca",
        /// The certificates that are shown to single services: the earliest expiry among them.
        Service = "service",
        /// The certificates of ports for clients outside the mesh: the earliest expiry among them.
        Port = "port",
    }

    /// What was closed or refused because the process takes more memory than it may.
    Shed as "kind" {
        /// A connection or an unfinished head of a client that has not proven an identity.
        Unproven = "unproven",
        /// A new connection.
        Refused = "refused",
        /// A client's connection on which nothing happened.
        Idle = "idle",
        /// A connection to an endpoint that no request used.
        Pooled = "pooled",
    }

    /// What became of the spans of traced requests.
    SpanOutcome as "outcome" {
        /// The collector has taken them.
        Exported = "exported",
        /// The collector has refused them for good, or the message with them cannot be sent.
        Rejected = "rejected",
        /// In all attempts the collector could not be reached, did not answer or was busy.
        Failed = "failed",
        /// They were never sent: the queue was full, or a reload had turned traces off.
        Dropped = "dropped",
    }
}
