//! The names of fields that the proxy needs, recognised once while a head is read.
//!
//! To find one of them, a layer compares a byte instead of text. Whether a head has one is known without a search.

use http::HeaderName;

/// The usual spelling of a name, where one is given; otherwise [`titled`] makes it.
macro_rules! usual {
    ($text:literal) => {
        &const { titled::<{ concat!($text, ": ").len() }>(concat!($text, ": ").as_bytes()) }
    };
    ($text:literal lower) => {
        concat!($text, ": ").as_bytes()
    };
    ($text:literal $usual:literal) => {
        concat!($usual, ": ").as_bytes()
    };
}

macro_rules! known {
    ($($variant:ident $text:literal $(=> $usual:tt)?,)*) => {
        /// A field that the proxy needs by name.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Known { $($variant,)* }

        impl Known {
            pub const ALL: [Self; [$($text),*].len()] = [$(Self::$variant),*];

            /// The name in lower case.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),* }
            }

            /// The beginning of a line with this name.
            pub(crate) const fn line_start(self) -> &'static [u8] {
                match self { $(Self::$variant => concat!($text, ": ").as_bytes()),* }
            }

            /// The beginning of a line with this name in the spelling that most programs use over HTTP/1.
            pub(crate) const fn usual_line_start(self) -> &'static [u8] {
                match self { $(Self::$variant => usual!($text $($usual)?)),* }
            }

            /// The name for a map of headers. It is a constant.
            pub const fn header_name(self) -> HeaderName {
                match self { $(Self::$variant => const { HeaderName::from_static($text) }),* }
            }
        }
    };
}

known! {
    // fields for one connection
    Connection "connection", KeepAlive "keep-alive", ProxyConnection "proxy-connection", Te "te" => "TE",
    Upgrade "upgrade",
    // fields that frame
    TransferEncoding "transfer-encoding", ContentLength "content-length", Trailer "trailer",
    // the field that routes
    Host "host",
    // fields that modify the request
    CacheControl "cache-control", Expect "expect", MaxForwards "max-forwards", Pragma "pragma", Range "range",
    IfMatch "if-match", IfNoneMatch "if-none-match", IfModifiedSince "if-modified-since",
    IfUnmodifiedSince "if-unmodified-since", IfRange "if-range",
    // fields that authorise
    Authorization "authorization", ProxyAuthorization "proxy-authorization",
    AuthenticationInfo "authentication-info", ProxyAuthenticationInfo "proxy-authentication-info",
    WwwAuthenticate "www-authenticate" => "WWW-Authenticate", ProxyAuthenticate "proxy-authenticate",
    Cookie "cookie", SetCookie "set-cookie",
    // fields that describe the content
    ContentEncoding "content-encoding", ContentType "content-type", ContentRange "content-range",
    // fields that sidecars read and write; those that they add are in lower case, as sidecars write them over HTTP/1
    XRequestId "x-request-id" => lower, XForwardedFor "x-forwarded-for" => lower,
    XForwardedProto "x-forwarded-proto" => lower, XForwardedHost "x-forwarded-host" => lower,
    XForwardedClientCert "x-forwarded-client-cert" => lower, XPillionAttempt "x-pillion-attempt" => lower,
    XPillionVia "x-pillion-via" => lower, XPillionRefused "x-pillion-refused" => lower,
    XPillionReason "x-pillion-reason" => lower, ProxyStatus "proxy-status" => lower,
    GrpcStatus "grpc-status" => lower, GrpcMessage "grpc-message" => lower, GrpcTimeout "grpc-timeout" => lower,
    IdempotencyKey "idempotency-key", SecWebsocketKey "sec-websocket-key" => "Sec-WebSocket-Key",
    SecWebsocketAccept "sec-websocket-accept" => "Sec-WebSocket-Accept",
    // common fields, whose names a map of headers need not parse again
    Via "via", Date "date", Server "server", Location "location", RetryAfter "retry-after", UserAgent "user-agent",
    Accept "accept", AcceptEncoding "accept-encoding", Vary "vary", Etag "etag" => "ETag",
    LastModified "last-modified", Traceparent "traceparent" => lower, Tracestate "tracestate" => lower,
    Priority "priority",
}

/// Title-Case: each word begins with a capital letter.
#[allow(clippy::indexing_slicing)] // runs in the compiler alone
const fn titled<const N: usize>(line: &[u8]) -> [u8; N] {
    let (mut out, mut place) = ([0; N], 0);
    while place < N {
        let begins = place == 0 || line[place - 1] == b'-';
        out[place] = if begins { line[place].to_ascii_uppercase() } else { line[place] };
        place += 1;
    }
    out
}

/// 25 bytes: no known name is longer.
pub(crate) const LONGEST: usize = 25;
const NONE: u8 = u8::MAX;
/// The index of each name in [`Known::ALL`], by its [`slot`].
static SLOTS: [u8; 256] = slots();

/// A slot of its own for each known name, computed from its length and its first, last and middle letter. The factors
/// were found by trial; [`slots`] does not compile with factors that give two names the same slot.
const fn slot(length: usize, first: u8, last: u8, middle: u8) -> usize {
    (length * 10 + (first | 0x20) as usize * 41 + (last | 0x20) as usize * 37 + (middle | 0x20) as usize * 37)
        & 0xff
}

#[allow(clippy::indexing_slicing)] // runs in the compiler alone
const fn slots() -> [u8; 256] {
    let mut slots = [NONE; 256];
    let mut place = 0;
    while place < Known::ALL.len() {
        let name = Known::ALL[place].as_str().as_bytes();
        let slot = slot(name.len(), name[0], name[name.len() - 1], name[name.len() / 2]);
        assert!(slots[slot] == NONE && name.len() <= LONGEST);
        slots[slot] = place as u8;
        place += 1;
    }
    slots
}

impl Known {
    /// Whether the value usually differs from message to message.
    pub(crate) const fn differs_each_time(self) -> bool {
        matches!(
            self,
            Self::XRequestId
                | Self::Traceparent
                | Self::Tracestate
                | Self::GrpcTimeout
                | Self::IdempotencyKey
                | Self::SecWebsocketKey
        )
    }

    /// Finds a name without regard to case.
    pub fn find(name: &[u8]) -> Option<Self> {
        Self::find_at_start(name, name.len())
    }

    /// Finds a name that is in lower case, as in maps of headers. It costs less than half of [`Self::find`].
    pub fn find_lower(name: &[u8]) -> Option<Self> {
        let (first, last) = (name.first()?, name.last()?);
        let place = *SLOTS.get(slot(name.len(), *first, *last, *name.get(name.len() / 2)?))?;
        Self::ALL.get(usize::from(place)).copied().filter(|known| known.as_str().as_bytes() == name)
    }

    /// Finds the name of `length` bytes with which `bytes` begin. If more bytes follow, whole words are compared
    /// instead of single bytes.
    #[inline(always)] // 20 of 200 instructions for a field
    pub(crate) fn find_at_start(bytes: &[u8], length: usize) -> Option<Self> {
        let (first, last) = (bytes.first()?, bytes.get(length.checked_sub(1)?)?);
        let place = *SLOTS.get(slot(length, *first, *last, *bytes.get(length / 2)?))?;
        let pattern = PATTERNS.get(usize::from(place))?;
        if usize::from(pattern.length) == length && pattern.is_at_start(bytes) {
            Self::ALL.get(usize::from(place)).copied()
        } else {
            None
        }
    }
}

/// A name in words of eight bytes, and masks of the bits that count: the bit for the case of a letter does not.
struct Pattern {
    words: [u64; 4],
    masks: [u64; 4],
    length: u8,
}

static PATTERNS: [Pattern; Known::ALL.len()] = {
    let mut patterns = [const { Pattern { words: [0; 4], masks: [0; 4], length: 0 } }; Known::ALL.len()];
    let mut place = 0;
    while place < patterns.len() {
        #[allow(clippy::indexing_slicing)] // runs in the compiler alone
        {
            patterns[place] = Pattern::of(Known::ALL[place].as_str().as_bytes());
        }
        place += 1;
    }
    patterns
};

impl Pattern {
    #[allow(clippy::indexing_slicing)] // runs in the compiler alone
    const fn of(name: &[u8]) -> Self {
        let (mut words, mut masks) = ([0; 4], [0; 4]);
        let mut place = 0;
        while place < name.len() {
            let (word, shift) = (place / 8, place % 8 * 8);
            let mask = if name[place].is_ascii_alphabetic() { 0xdf } else { 0xff };
            words[word] |= (name[place] as u64) << shift;
            masks[word] |= mask << shift;
            place += 1;
        }
        Self { words, masks, length: name.len() as u8 }
    }

    #[inline]
    fn is_at_start(&self, bytes: &[u8]) -> bool {
        match bytes.first_chunk::<32>() {
            Some(bytes) => self.is_start_of(bytes),
            None => {
                let mut padded = [0; 32];
                padded.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
                self.is_start_of(&padded)
            }
        }
    }

    #[inline]
    fn is_start_of(&self, bytes: &[u8; 32]) -> bool {
        let (words, _) = bytes.as_chunks::<8>();
        let patterns = self.words.iter().zip(&self.masks);
        let differs =
            |(word, (pattern, mask)): (&[u8; 8], (&u64, &u64))| (u64::from_le_bytes(*word) ^ pattern) & mask;
        words.iter().zip(patterns).map(differs).fold(0, |all, one| all | one) == 0
    }
}

/// A set of known names, in one word.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Names(u64);

impl Names {
    pub const fn of(names: &[Known]) -> Self {
        let (mut set, mut rest) = (0, names);
        while let [name, others @ ..] = rest {
            set |= 1 << *name as u8;
            rest = others;
        }
        Self(set)
    }

    pub const fn has(self, name: Known) -> bool {
        self.0 & (1 << name as u8) != 0
    }

    pub const fn has_any(self, names: Self) -> bool {
        self.0 & names.0 != 0
    }

    pub const fn with(self, names: Self) -> Self {
        Self(self.0 | names.0)
    }

    pub const fn without(self, names: Self) -> Self {
        Self(self.0 & !names.0)
    }

    pub(crate) const fn insert(&mut self, name: Known) {
        self.0 |= 1 << name as u8;
    }

    pub(crate) const fn remove(&mut self, name: Known) {
        self.0 &= !(1 << name as u8);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_known_name_is_found_in_any_case_and_other_names_are_not() {
        assert!(Known::ALL.len() <= 64, "a set is one word");
        for known in Known::ALL {
            let name = known.as_str();
            assert_eq!(Known::find(name.as_bytes()), Some(known));
            assert_eq!(Known::find(name.to_ascii_uppercase().as_bytes()), Some(known));
            assert_eq!(Known::find_lower(name.as_bytes()), Some(known));
            assert_eq!(known.header_name().as_str(), name);
            for place in 0..name.len() {
                let mut other = name.as_bytes().to_vec();
                for byte in [b'_', b'~', b'0', 0xff, b'\r', 0, name.as_bytes()[place] ^ 0x80] {
                    other[place] = byte;
                    assert_eq!(Known::find(&other), None, "{}", other.escape_ascii());
                    assert_eq!(Known::find_lower(&other), None, "{}", other.escape_ascii());
                }
            }
        }
        for other in ["", "x", "x-forwarded-foo", "proxy-authentication-info-more"] {
            assert_eq!(Known::find(other.as_bytes()), None);
            assert_eq!(Known::find_lower(other.as_bytes()), None);
        }
    }
}
