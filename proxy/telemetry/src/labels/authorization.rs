//! Labels of authorization, of tokens and of the keys for them.

vocabulary! {
    /// What authorization has decided of a request or a connection.
    Decision as "decision" {
        Allowed = "allowed",
        Denied = "denied",
        /// It was denied in audit mode, so it passed.
        WouldDeny = "would_deny",
    }

    /// `inbound.authorization.mode`.
    AuthorizationMode as "mode" { Enforce = "enforce", Audit = "audit" }

    /// What the token of a request came to.
    TokenOutcome as "outcome" {
        Verified = "verified",
        /// The request has none.
        Absent = "absent",
        Invalid = "invalid",
        /// There are no keys yet.
        NoKeys = "no_keys",
    }

    /// What a check by the external authorizer came to.
    CheckOutcome as "outcome" {
        Allowed = "allowed",
        Denied = "denied",
        /// It did not answer, or said that it has failed itself, as by 5xx.
        Failed = "failed",
        /// It answered, and its answer cannot be read or obeyed.
        Unreadable = "unreadable",
        /// It was not asked, because it has not answered before.
        CircuitOpen = "circuit_open",
    }

    /// What reading the keys of an issuer came to.
    JwksOutcome as "outcome" {
        Applied = "applied",
        /// They are those in use.
        Unchanged = "unchanged",
        /// They could not be had, and those in use stay.
        Failed = "failed",
    }
}
