//! What can be wrong with a message: which side caused it, the status for the client, and a sentence for the access
//! log.

/// Why a message cannot be read or written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("the request cannot be read: {0}")]
    Request(Fault),
    #[error("the answer cannot be read: {0}")]
    Answer(Fault),
    #[error("the sidecar cannot write the message: {0}")]
    Own(Misuse),
}

/// The side that caused an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    Client,
    Upstream,
    Sidecar,
}

impl Error {
    pub const fn blame(&self) -> Blame {
        match self {
            Self::Request(_) => Blame::Client,
            Self::Answer(_) => Blame::Upstream,
            Self::Own(_) => Blame::Sidecar,
        }
    }

    /// The status for the client, if it has no answer yet.
    pub const fn status(&self) -> u16 {
        match self {
            Self::Request(fault) => fault.status(),
            Self::Answer(_) => 502,
            Self::Own(_) => 500,
        }
    }
}

impl From<Misuse> for Error {
    fn from(misuse: Misuse) -> Self {
        Self::Own(misuse)
    }
}

/// What is wrong with received bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("more empty lines come before it than are ignored (RFC 9112, 2.2)")]
    EmptyLines,
    #[error("a line ends with LF alone, or has a CR without an LF (RFC 9112, 2.2)")]
    BareLineEnd,
    #[error("its first line is not valid HTTP (RFC 9112, 3, 4)")]
    FirstLine,
    #[error("its version of HTTP is neither 1.0 nor 1.1 (RFC 9112, 2.3)")]
    Version,
    #[error("its method is not a token (RFC 9112, 3.1)")]
    Method,
    #[error("its target has none of the four forms, or a form that its method may not have (RFC 9112, 3.2)")]
    Target,
    #[error("it does not have exactly one valid Host (RFC 9112, 3.2)")]
    Host,
    #[error(
        "a field line is malformed: no token before the colon, a folded line or a forbidden byte (RFC 9112, 5)"
    )]
    Field,
    #[error("its head is larger than the limit (limits.header_bytes)")]
    LargeHead,
    #[error("it has more fields than the limit (limits.header_count)")]
    ManyFields,
    #[error(
        "its Transfer-Encoding names a coding other than chunked, which is not supported (RFC 9112, 6.1)"
    )]
    UnknownCoding,
    #[error("its Transfer-Encoding does not have chunked exactly once, as the last coding (RFC 9112, 6.1)")]
    MisplacedChunked,
    #[error("only HTTP/1.1 has Transfer-Encoding (RFC 9112, 6.1)")]
    CodingNotAllowed,
    #[error("it has both a Transfer-Encoding and a Content-Length (RFC 9112, 6.3)")]
    TwoLengths,
    #[error("its Content-Length is not a single number (RFC 9110, 8.6)")]
    MalformedLength,
    #[error("a CONNECT cannot have content, but this one announces some (RFC 9110, 9.3.6)")]
    ContentOfConnect,
    #[error("a chunk has no valid size, or does not end where its size says (RFC 9112, 7.1)")]
    Chunk,
    #[error("the extensions of its chunks are larger than the limit (RFC 9112, 7.1.1)")]
    ChunkExtensions,
    #[error("its trailers are malformed or larger than the limit (RFC 9112, 7.1.2)")]
    Trailers,
    #[error("it came without a request (RFC 9112, 9.2)")]
    Unasked,
    #[error("it switches to another protocol without being asked to (RFC 9110, 15.2.2)")]
    UnaskedSwitch,
    #[error("too many interim answers came before it")]
    ManyInterim,
}

impl Fault {
    /// The status of the answer to a request with this fault.
    const fn status(self) -> u16 {
        match self {
            Self::Version => 505,
            Self::UnknownCoding => 501,
            Self::LargeHead | Self::ManyFields => 431,
            _ => 400,
        }
    }
}

/// A call that does not fit the state of the connection: a bug in the sidecar, or a body that differs from its
/// announced length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Misuse {
    #[error("a message cannot begin in this state of the connection")]
    NotNow,
    #[error("the message cannot have content")]
    NoContent,
    #[error("the body is longer than its announced length")]
    TooLong,
    #[error("the body is shorter than its announced length")]
    TooShort,
    #[error("a field's name or value has a byte that no field may have")]
    IllegalField,
    #[error("the target has a byte that no target may have")]
    IllegalTarget,
    #[error("the request has more than one Host")]
    Hosts,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_the_side_that_caused_it_and_the_status_for_the_client() {
        for (error, blame, status) in [
            (Error::Request(Fault::Host), Blame::Client, 400),
            (Error::Request(Fault::Version), Blame::Client, 505),
            (Error::Request(Fault::UnknownCoding), Blame::Client, 501),
            (Error::Request(Fault::LargeHead), Blame::Client, 431),
            (Error::Request(Fault::ManyFields), Blame::Client, 431),
            (Error::Answer(Fault::Version), Blame::Upstream, 502),
            (Error::Answer(Fault::LargeHead), Blame::Upstream, 502),
            (Error::Own(Misuse::TooShort), Blame::Sidecar, 500),
        ] {
            assert_eq!((error.blame(), error.status()), (blame, status), "{error}");
        }
    }
}
