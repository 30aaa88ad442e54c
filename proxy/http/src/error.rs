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
    /// The sidecar cut it.
    #[error("{}", .0.code())]
    Cut(Reason),
}

/// Why a body that comes over HTTP/2 broke off.
#[derive(Debug, thiserror::Error)]
pub enum Interrupted {
    #[error(transparent)]
    Http2(#[from] h2::Error),
    /// No memory was left for it.
    #[error("no memory was left for what the peer sent faster than it was read")]
    TooMuch,
}

/// Why a body that comes over HTTP/1 broke off.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    #[error("what the peer sent is no HTTP/1: {0}")]
    Malformed(#[from] Fault),
    #[error("the peer ended in the middle of it")]
    Ended,
    #[error("the request that it answers broke off")]
    Request,
    #[error("the connection failed in the middle of it: {0}")]
    Failed(#[from] io::Error),
}

impl BodyError {
    /// Whether the sidecar had no memory left for what the peer sent: neither side is to blame.
    pub(crate) const fn is_our_shortage(&self) -> bool {
        matches!(self, Self::Http2(Interrupted::TooMuch))
    }

    /// Whether the peer sent what is no HTTP/1 (a chunk's size that is none, for example), and did not just stop.
    pub(crate) const fn is_malformed(&self) -> bool {
        matches!(self, Self::Http1(Broken::Malformed(_)))
    }
}
