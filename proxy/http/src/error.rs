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
    /// Why an answer broke off, by the CODEs of a failure before its head.
    pub(crate) fn reason(&self) -> Reason {
        match self {
            Self::Http2(Interrupted::TooMuch) => Reason::Overloaded,
            Self::Http2(Interrupted::Http2(error)) => match error.get_io() {
                Some(error) => io_reason(error),
                None if error.is_remote() => Reason::UpstreamReset,
                None => Reason::ProtocolError,
            },
            Self::Http1(Broken::Malformed(_)) => Reason::ProtocolError,
            Self::Http1(Broken::Failed(error)) => io_reason(error),
            Self::Http1(Broken::Ended | Broken::Request) | Self::Cut(_) => Reason::UpstreamClosed,
        }
    }

    /// Whether the sidecar had no memory left for the peer's bytes. Then neither side caused the error.
    pub(crate) const fn is_our_shortage(&self) -> bool {
        matches!(self, Self::Http2(Interrupted::TooMuch))
    }

    /// Whether the peer sent invalid bytes (for example an invalid size of a chunk), and did not just stop.
    pub(crate) const fn is_malformed(&self) -> bool {
        matches!(self, Self::Http1(Broken::Malformed(_)))
    }
}

/// Why a connection to an upstream failed.
pub fn io_reason(error: &io::Error) -> Reason {
    match error.kind() {
        // the crate h2 reports BrokenPipe for an end of the connection with open streams
        io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe => Reason::UpstreamClosed,
        io::ErrorKind::InvalidData => Reason::ProtocolError,
        _ => Reason::UpstreamReset,
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use super::*;

    #[test]
    fn an_answer_that_breaks_off_has_the_code_of_what_its_server_did() {
        let io = |kind: ErrorKind| io::Error::from(kind);
        for (error, expected) in [
            (BodyError::Http1(Broken::Ended), Reason::UpstreamClosed),
            (BodyError::Http1(io(ErrorKind::UnexpectedEof).into()), Reason::UpstreamClosed),
            (BodyError::Http1(io(ErrorKind::ConnectionReset).into()), Reason::UpstreamReset),
            (BodyError::Http1(io(ErrorKind::TimedOut).into()), Reason::UpstreamReset),
            (BodyError::Http1(Fault::Field.into()), Reason::ProtocolError),
            (BodyError::Http2(Interrupted::TooMuch), Reason::Overloaded),
            (BodyError::Http2(h2::Error::from(h2::Reason::CANCEL).into()), Reason::ProtocolError),
        ] {
            assert_eq!(error.reason(), expected, "{error}");
        }
    }
}
