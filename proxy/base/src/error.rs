//! Why a request was not answered by the upstream: an [`Error`] with its [`Reason`], and whether it may be sent again.

use std::borrow::Cow;

use pillion_model::Reason;

/// Whether what failed may be sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// No byte of it was written, or the upstream refused it before processing: safe for any method.
    Never,
    /// Written to a pooled connection that died before any byte of an answer: most likely the upstream had
    /// already hung up.
    OnStaleConnection,
    /// Written; the upstream may have acted on it.
    Perhaps,
}

/// A request that ended without an answer of the upstream's.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{detail}")]
pub struct Error {
    pub reason: Reason,
    /// One sentence for the caller and the log: what happened and where to look.
    pub detail: Cow<'static, str>,
    pub sent: Sent,
    /// Where the request ends is not certain: no other may follow it on its HTTP/1 connection.
    pub ends_connection: bool,
    /// The upstream would have none of our certificate: that says nothing of how it serves others.
    pub is_our_fault: bool,
}

impl Error {
    /// Nothing was sent upstream.
    pub fn new(reason: Reason, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { reason, detail: detail.into(), sent: Sent::Never, ends_connection: false, is_our_fault: false }
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

    /// Marks the error of the last of several attempts, when an earlier attempt may have reached an upstream: the
    /// request as a whole must not count as unsent.
    #[must_use]
    pub fn sent_before(mut self) -> Self {
        if self.sent == Sent::Never {
            self.sent = Sent::Perhaps;
        }
        self
    }
}
