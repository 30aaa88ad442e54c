//! Why a request was not answered by the upstream: an [`Error`] with its [`Reason`], and whether it may be sent again.

use std::borrow::Cow;
use std::fmt;

pub(crate) use pillion_model::Reason;

use crate::http::Call;

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
