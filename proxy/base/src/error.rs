//! The reason why an upstream did not answer a request: an [`Error`] with its [`Reason`], and whether the request may
//! be sent again.

use std::borrow::Cow;

use pillion_model::Reason;

/// Whether a request that failed may be sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// No byte of the request was written, or the upstream refused it before processing it. It may be sent again with
    /// any method.
    Never,
    /// The request was written to a pooled connection that broke before any byte of an answer came. Most likely the
    /// upstream had already closed the connection.
    OnStaleConnection,
    /// The request was written. The upstream may have acted on it.
    Perhaps,
}

/// A request that ended without an answer from the upstream.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{detail}")]
pub struct Error {
    pub reason: Reason,
    /// One sentence for the caller and the log: what happened, and where to look.
    pub detail: Cow<'static, str>,
    pub sent: Sent,
    /// The end of the request's bytes is not certain, so no other request may follow on this HTTP/1 connection.
    pub ends_connection: bool,
    /// The upstream refused our certificate. This says nothing about how the upstream serves other clients.
    pub is_our_fault: bool,
    /// What of the answer is not the reason's own.
    pub answer: ErrorAnswer,
}

/// What an answer to an [`Error`] says that its [`Reason`] alone does not say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ErrorAnswer {
    #[default]
    Usual,
    /// With this status, where the caller does not speak gRPC.
    Status(u16),
    /// With this gRPC status, or the status that goes with it.
    Grpc(u8),
    /// The caller may come again after so many seconds.
    RetryAfter(u32),
    /// With a `www-authenticate` that asks for a token.
    TokenMissing,
    /// With a `www-authenticate` that says that the token is not accepted.
    TokenInvalid,
}

impl Error {
    /// An error of a request of which nothing was sent upstream.
    pub fn new(reason: Reason, detail: impl Into<Cow<'static, str>>) -> Self {
        Self {
            reason,
            detail: detail.into(),
            sent: Sent::Never,
            ends_connection: false,
            is_our_fault: false,
            answer: ErrorAnswer::Usual,
        }
    }

    #[must_use]
    pub const fn answered(mut self, answer: ErrorAnswer) -> Self {
        self.answer = answer;
        self
    }

    #[must_use]
    pub const fn ending_connection(mut self) -> Self {
        self.ends_connection = true;
        self
    }

    #[must_use]
    pub const fn of_our_fault(mut self, is_our_fault: bool) -> Self {
        self.is_our_fault = is_our_fault;
        self
    }

    #[must_use]
    pub const fn sent(mut self, sent: Sent) -> Self {
        self.sent = sent;
        self
    }

    /// Marks the error of the last of several attempts when an earlier attempt may have reached an upstream: the
    /// request as a whole must not count as unsent.
    #[must_use]
    pub fn sent_before(mut self) -> Self {
        if self.sent == Sent::Never {
            self.sent = Sent::Perhaps;
        }
        self
    }
}
