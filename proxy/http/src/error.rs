//! Why a body broke off.

use std::io;

use pillion_http1::Fault;
use pillion_model::Reason;

#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    #[error(transparent)]
    Http2(#[from] Interrupted),
    #[error(transparent)]
    Http1(#[from] Broken),
    /// The sidecar cut the body.
    #[error("{}", .0.code())]
    Cut(Reason),
}

/// Why a body that comes over HTTP/2 broke off.
#[derive(Debug, thiserror::Error)]
pub enum Interrupted {
    #[error(transparent)]
    Http2(#[from] h2::Error),
    /// No memory was left for the body.
    #[error("no memory was left for bytes that the peer sent faster than they were read")]
    TooMuch,
}

/// Why a body that comes over HTTP/1 broke off.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    #[error("the peer sent bytes that are not valid HTTP/1: {0}")]
    Malformed(#[from] Fault),
    #[error("the peer ended the connection inside the body")]
    Ended,
    #[error("the request of this answer broke off")]
    Request,
    #[error("the connection failed inside the body: {0}")]
    Failed(#[from] io::Error),
}

impl BodyError {
    /// Whether the sidecar had no memory left for the peer's bytes. Then neither side caused the error.
    pub(crate) const fn is_our_shortage(&self) -> bool {
        matches!(self, Self::Http2(Interrupted::TooMuch))
    }

    /// Whether the peer sent invalid bytes (for example an invalid size of a chunk), and did not just stop.
    pub(crate) const fn is_malformed(&self) -> bool {
        matches!(self, Self::Http1(Broken::Malformed(_)))
    }
}
