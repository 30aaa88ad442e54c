//! `Cache-Status` (RFC 9211): what the cache did with a request.

use std::fmt::Write as _;

/// Why a request was forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forwarded {
    /// The cache has nothing to do with such a request, or the request asks for that.
    Bypass,
    /// The method is not one that is answered from a cache.
    Method,
    /// Nothing is stored for the target.
    UriMiss,
    /// What is stored for the target was chosen by other fields of the request.
    VaryMiss,
    /// What is stored has to be validated.
    Stale,
    /// What is stored is fresh, and the request asks for validation.
    Request,
    /// The request is for a range, and nothing whole is stored.
    Partial,
}

impl Forwarded {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Bypass => "bypass",
            Self::Method => "method",
            Self::UriMiss => "uri-miss",
            Self::VaryMiss => "vary-miss",
            Self::Stale => "stale",
            Self::Request => "request",
            Self::Partial => "partial",
        }
    }
}

/// Whether an answer of the service is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    No,
    Yes,
    /// It is stored without the cookies that it sets: they are for this client alone.
    WithoutCookie,
}

impl Kept {
    const fn as_str(self) -> &'static str {
        match self {
            Self::No => "",
            Self::Yes => "; stored",
            Self::WithoutCookie => "; stored; detail=without-set-cookie",
        }
    }
}

/// What is told of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// It is a stored one; `ttl`: for how many seconds it stays fresh, below 0 for how many it is stale.
    Hit { ttl: i64 },
    /// It came from the service.
    Forwarded { why: Forwarded, kept: Kept },
    /// The service answered 304, or with this error in whose place the stored answer stands.
    Validated { why: Forwarded, status: Option<u16>, ttl: i64 },
    /// It is a stored one, which came while this request waited.
    Collapsed { why: Forwarded, ttl: i64 },
}

/// The value of the field.
pub fn text(told: Told) -> String {
    let mut text = String::with_capacity(64);
    text.push_str("pillion");
    // writing into a string cannot fail
    let _infallible = match told {
        Told::Hit { ttl } => write!(text, "; hit; ttl={ttl}"),
        Told::Forwarded { why, kept } => write!(text, "; fwd={}{}", why.as_str(), kept.as_str()),
        Told::Validated { why, status: Some(status), ttl } => {
            write!(text, "; fwd={}; fwd-status={status}; ttl={ttl}", why.as_str())
        }
        Told::Validated { why, status: None, ttl } => {
            write!(text, "; fwd={}; ttl={ttl}; detail=no-answer", why.as_str())
        }
        Told::Collapsed { why, ttl } => write!(text, "; fwd={}; collapsed; ttl={ttl}", why.as_str()),
    };
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_field_says_what_the_cache_did() {
        for (told, expected) in [
            (Told::Hit { ttl: 9 }, "pillion; hit; ttl=9"),
            (Told::Forwarded { why: Forwarded::UriMiss, kept: Kept::Yes }, "pillion; fwd=uri-miss; stored"),
            (
                Told::Forwarded { why: Forwarded::UriMiss, kept: Kept::WithoutCookie },
                "pillion; fwd=uri-miss; stored; detail=without-set-cookie",
            ),
            (Told::Forwarded { why: Forwarded::Method, kept: Kept::No }, "pillion; fwd=method"),
            (
                Told::Validated { why: Forwarded::Stale, status: Some(304), ttl: 9 },
                "pillion; fwd=stale; fwd-status=304; ttl=9",
            ),
            (
                Told::Validated { why: Forwarded::Stale, status: None, ttl: -9 },
                "pillion; fwd=stale; ttl=-9; detail=no-answer",
            ),
            (Told::Collapsed { why: Forwarded::UriMiss, ttl: 9 }, "pillion; fwd=uri-miss; collapsed; ttl=9"),
        ] {
            assert_eq!(text(told), expected);
        }
    }
}
