//! Tells TLS, HTTP/1, HTTP/2 and other protocols apart by the first bytes of a connection.
//!
//! The first bytes decide whether a connection is judged as HTTP or carried as it is. A peer must not be able to choose
//! the second where the application speaks HTTP. So bytes are opaque only if no HTTP server, however lenient, reads a
//! request in them. The measure is nginx, Node, Python's `http.server` and Go's `net/http`; the tests have a reader for
//! each. Bytes that such a server may read as a request, but that RFC 9112 does not allow, are [`LooksLike::Http1`]
//! too: the HTTP side refuses them with a reason.
//!
//! The functions are pure, and monotone: more bytes do not change a decision.

use bytes::BytesMut;

/// The protocol that the first bytes begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LooksLike {
    Tls,
    /// A request, or what a lenient server might take for one.
    Http1,
    Http2,
    Opaque,
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The first bytes of the PROXY protocol, version 2. In version 1 the first word is [`PROXY_V1`].
const PROXY_V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const PROXY_V1: &[u8] = b"PROXY";
/// The content type of a TLS record with a ClientHello (RFC 8446, 5.1). No HTTP server reads it as white space or as
/// a part of a method.
const TLS_HANDSHAKE: u8 = 0x16;

/// Reads each of the first bytes of a connection once, so that a client that sends single bytes does not cause
/// quadratic work.
#[derive(Debug)]
pub struct Reader {
    /// The longest head, in bytes. A first line that is undecided after so many bytes is judged as a request that is
    /// too long.
    most: usize,
    /// The number of bytes that were read, and the last five of them.
    read: usize,
    last: [u8; 5],
    place: LinePart,
    decided: Option<LooksLike>,
}

/// The part of the first line in which the next byte stands.
#[derive(Debug, Clone, Copy)]
enum LinePart {
    /// The white space or the empty lines before the first word.
    Before,
    /// The first word.
    Word(Word),
    /// The white space after the first word. The flag says whether the white space is more than the `\r` of the line's
    /// end: Node reads a CONNECT with such white space and without a target. STOMP's CONNECT has no such white space.
    Gap(Method, bool),
    Rest(Method),
}

/// What is remembered of the first word: enough to tell which [`Method`] it may be.
#[derive(Debug, Clone, Copy)]
struct Word {
    /// The first bytes of the word. No method in [`MAIN`] or [`KNOWN`] is longer than 20 bytes.
    first: [u8; 20],
    len: usize,
    is_identifier: bool,
    is_in_capitals: bool,
}

/// What the first word of a line may be to an HTTP server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Method {
    /// A method of RFC 9110 other than CONNECT, or PATCH. Other protocols have no such commands, except where a person
    /// types them.
    Main,
    /// CONNECT, which is also a command of NATS.
    Connect,
    /// A method that Node knows. A few of these are commands of other protocols.
    Known,
    /// A word that a server may accept as a method, but only in a line that names HTTP. Python accepts any target after
    /// it.
    Unknown { in_capitals: bool },
    /// A word of capitals and hyphens that is too short for a method, or not an identifier for Python. nginx accepts it
    /// before a path.
    Capitals,
    /// A word that only Go accepts, and only in a line without control characters. git, LDAP and others begin with such
    /// words.
    Other,
}

impl Reader {
    /// `most`: the longest head of a request, in bytes.
    pub const fn new(most: usize) -> Self {
        Self { most, read: 0, last: [0; 5], place: LinePart::Before, decided: None }
    }

    /// Judges `first`, all bytes that have come, including those of earlier calls. `None`: they may still become TLS or
    /// HTTP.
    pub fn look(&mut self, first: &[u8]) -> Option<LooksLike> {
        match first.first()? {
            &TLS_HANDSHAKE => tls(first),
            b'P' if is_prefix(first, PREFACE) => (first.len() >= PREFACE.len()).then_some(LooksLike::Http2),
            b'\r' if is_prefix(first, PROXY_V2) => {
                (first.len() >= PROXY_V2.len()).then_some(LooksLike::Http1)
            }
            _ => self.line(first),
        }
    }

    /// Judges undecided bytes when no more will come.
    pub fn look_at_all(&mut self, all: &[u8]) -> LooksLike {
        let line = if begins_like_tls(all) { None } else { self.line(all) };
        line.unwrap_or(LooksLike::Opaque)
    }

    fn line(&mut self, first: &[u8]) -> Option<LooksLike> {
        // Bytes after `most` are never examined, even if they are here already: otherwise the decision would depend on
        // how many bytes came at once.
        let looked_at = first.get(..self.most).unwrap_or(first);
        while let (None, Some(byte)) = (self.decided, looked_at.get(self.read)) {
            self.read += 1;
            let [_, before @ ..] = self.last;
            let [a, b, c, d] = before;
            self.last = [a, b, c, d, *byte];
            self.decided = self.place.step(*byte, self.last);
        }
        self.decided.or_else(|| (first.len() >= self.most).then_some(LooksLike::Http1))
    }

    /// Drops undecided bytes that were read and are not needed for the next look. The beginning stays, because it shows
    /// that the bytes are not the preface of HTTP/2.
    pub fn forget(&mut self, first: &mut BytesMut) {
        if self.read > PREFACE.len() && self.read == first.len() {
            let left_out = self.read - PREFACE.len();
            *first = BytesMut::from(first.get(..PREFACE.len()).unwrap_or_default());
            (self.read, self.most) = (self.read - left_out, self.most - left_out);
        }
    }

    /// Whether an undecided line begins with a word that is not written as the registered methods are (RFC 9110,
    /// 16.1.1). If the peer claims that its bytes are opaque, such a line is carried as opaque for now.
    pub const fn is_hardly_http(&self) -> bool {
        match self.place {
            LinePart::Before => false,
            LinePart::Word(word) => !word.is_in_capitals,
            LinePart::Gap(method, _) | LinePart::Rest(method) => {
                matches!(method, Method::Unknown { in_capitals: false } | Method::Other)
            }
        }
    }

    /// Whether an undecided line is most likely the beginning of a slow request.
    pub fn begins_like_a_request(&self) -> bool {
        match self.place {
            LinePart::Before => true,
            LinePart::Word(word) => {
                word.whole().is_some_and(|word| MAIN.iter().any(|main| main.starts_with(word)))
            }
            LinePart::Gap(method, _) | LinePart::Rest(method) => {
                matches!(method, Method::Main | Method::Connect)
            }
        }
    }
}

impl Word {
    fn beginning_with(byte: u8) -> Self {
        let empty = Self { first: [0; 20], len: 0, is_identifier: true, is_in_capitals: true };
        empty.with(byte)
    }

    fn with(mut self, byte: u8) -> Self {
        if let Some(place) = self.first.get_mut(self.len) {
            *place = byte;
        }
        self.len += 1;
        self.is_identifier &= is_identifiers(&byte);
        self.is_in_capitals &= is_methods(&byte);
        self
    }

    /// The whole word. `None`: it is longer than every method in [`MAIN`] and [`KNOWN`].
    fn whole(&self) -> Option<&[u8]> {
        self.first.get(..self.len)
    }
}

/// Whether a byte stands in any of the methods in use.
const fn is_methods(byte: &u8) -> bool {
    matches!(byte, b'A'..=b'Z' | b'-' | b'_')
}

/// Whether a byte may stand in a method that Python accepts: part of an identifier, or any Latin-1 byte above ASCII.
const fn is_identifiers(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || *byte == b'_' || !byte.is_ascii()
}

/// Whether undecided bytes are the beginning of TLS. If not, they are the beginning of a line of text.
pub fn begins_like_tls(first: &[u8]) -> bool {
    first.first() == Some(&TLS_HANDSHAKE)
}

impl LinePart {
    /// Reads `byte`, which is also the last byte of `last`.
    fn step(&mut self, byte: u8, last: [u8; 5]) -> Option<LooksLike> {
        match *self {
            Self::Before => {
                if is_word(byte) {
                    *self = Self::Word(Word::beginning_with(byte));
                } else if !is_space(byte) {
                    return Some(LooksLike::Opaque);
                }
                None
            }
            Self::Gap(Method::Main | Method::Connect, true) if byte == b'\n' => Some(LooksLike::Http1),
            _ if byte == b'\n' => Some(LooksLike::Opaque), // a whole line, and no server reads HTTP in it
            _ if ends_with_protocol(last) => Some(LooksLike::Http1),
            Self::Word(word) if is_word(byte) => {
                *self = Self::Word(word.with(byte));
                None
            }
            Self::Word(word) if is_space(byte) => {
                *self = Self::Gap(Method::of(&word), byte != b'\r');
                None
            }
            Self::Word(_) => Some(LooksLike::Opaque),
            Self::Gap(method, has_space) if is_space(byte) => {
                *self = Self::Gap(method, has_space || byte != b'\r');
                None
            }
            Self::Gap(method, _) => {
                *self = Self::Rest(method);
                method
                    .is_request_for(byte)
                    .then_some(LooksLike::Http1)
                    .or_else(|| method.stops_at(byte, true))
            }
            Self::Rest(Method::Known) if last.ends_with(b"://") => Some(LooksLike::Http1),
            Self::Rest(method) => method.stops_at(byte, false),
        }
    }
}

impl Method {
    fn of(word: &Word) -> Self {
        match word.whole() {
            Some(b"CONNECT") => Self::Connect,
            // Many servers read a PROXY header where they expect none, and then a request: the HTTP side refuses it.
            Some(whole) if MAIN.contains(&whole) || whole == PROXY_V1 => Self::Main,
            Some(whole) if KNOWN.contains(&whole) => Self::Known,
            _ if word.len >= METHOD_LEAST && word.is_identifier => {
                Self::Unknown { in_capitals: word.is_in_capitals }
            }
            _ if word.is_in_capitals => Self::Capitals,
            _ => Self::Other,
        }
    }

    /// Whether the first byte of the target makes a line with this method a request, even without a version: a request
    /// of HTTP/0.9 has none. Python reads such a GET with any target, nginx with a path. Node reads every method that
    /// it knows with a path, `*`, or an address with a scheme, and goes on to read header fields.
    const fn is_request_for(self, target: u8) -> bool {
        match self {
            Self::Main => true,
            // In NATS a JSON object stands here, which is not a host.
            Self::Connect => target != b'{',
            Self::Known => matches!(target, b'/' | b'*'),
            Self::Unknown { .. } | Self::Capitals | Self::Other => false,
        }
    }

    /// Whether `byte` of the target decides against HTTP. Binary protocols may begin with bytes that look like a word
    /// and white space. A control character shows that they are not HTTP, where no HTTP server accepts it.
    fn stops_at(self, byte: u8, is_first: bool) -> Option<LooksLike> {
        let stops = match self {
            Self::Other => true,
            Self::Capitals => is_first,
            Self::Main | Self::Connect | Self::Known | Self::Unknown { .. } => false,
        };
        (stops && byte.is_ascii_control() && !is_space(byte)).then_some(LooksLike::Opaque)
    }
}

/// 3 bytes: the length of the shortest methods, such as GET and ACL.
const METHOD_LEAST: usize = 3;

const MAIN: [&[u8]; 9] =
    [b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"CONNECT", b"OPTIONS", b"TRACE", b"PATCH"];

/// Further methods: those of the registry of RFC 9110, 16.1.1, and those that Node knows, which include RTSP's.
#[rustfmt::skip]
const KNOWN: [&[u8]; 49] = [
    b"ACL", b"BASELINE-CONTROL", b"BIND", b"CHECKIN", b"CHECKOUT", b"COPY", b"LABEL", b"LINK", b"LOCK", b"MERGE",
    b"MKACTIVITY", b"MKCALENDAR", b"MKCOL", b"MKREDIRECTREF", b"MKWORKSPACE", b"MOVE", b"ORDERPATCH", b"PRI",
    b"PROPFIND", b"PROPPATCH", b"QUERY", b"REBIND", b"REPORT", b"SEARCH", b"UNBIND", b"UNCHECKOUT", b"UNLINK",
    b"UNLOCK", b"UPDATE", b"UPDATEREDIRECTREF", b"VERSION-CONTROL",
    b"M-SEARCH", b"NOTIFY", b"PURGE", b"SOURCE", b"SUBSCRIBE", b"UNSUBSCRIBE",
    b"ANNOUNCE", b"DESCRIBE", b"FLUSH", b"GET_PARAMETER", b"PAUSE", b"PLAY", b"RECORD", b"REDIRECT",
    b"SETUP", b"SET_PARAMETER", b"TEARDOWN", b"MKADDRESSBOOK",
];

/// Whether the last byte completes "HTTP/", in upper or lower case, at any place in the line: lenient servers differ in
/// where they accept it, so the HTTP side judges the line. Node also accepts "RTSP/" and "ICE/" (icecast), but only
/// after methods and targets that have already decided the line.
const fn ends_with_protocol(last: [u8; 5]) -> bool {
    last.eq_ignore_ascii_case(b"HTTP/")
}

/// White space at which Python splits a line, read as Latin-1. The other servers accept a subset of it.
const fn is_space(byte: u8) -> bool {
    matches!(byte, b'\t'..=b'\r' | 0x1c..=b' ' | 0x85 | 0xa0)
}

/// Whether one of the two slices is the beginning of the other.
fn is_prefix(one: &[u8], other: &[u8]) -> bool {
    one.iter().zip(other).all(|(a, b)| a == b)
}

/// Whether the bytes are a handshake record (RFC 8446, 5.1) that begins with a ClientHello. `None`: too few bytes.
fn tls(first: &[u8]) -> Option<LooksLike> {
    let fits = match *first {
        [_] => return None,
        [_, 3] => return None,
        [_, 3, minor] => return if minor <= 4 { None } else { Some(LooksLike::Opaque) },
        [_, 3, 0..=4, high] => return if high <= 0x41 { None } else { Some(LooksLike::Opaque) },
        [_, 3, 0..=4, high, low] if is_length(high, low) => return None,
        [_, 3, 0..=4, high, low, kind, ..] => is_length(high, low) && kind == 1,
        _ => false,
    };
    Some(if fits { LooksLike::Tls } else { LooksLike::Opaque })
}

fn is_length(high: u8, low: u8) -> bool {
    (1..=(1 << 14) + 256).contains(&u16::from_be_bytes([high, low]))
}

/// Whether a byte may stand in a method: a byte of a token (RFC 9110, 5.6.2), or a byte above ASCII, which Python reads
/// as a Latin-1 letter.
const fn is_word(byte: u8) -> bool {
    matches!(byte, b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.' | b'^'..=b'z' | b'|' | b'~')
        || byte.is_ascii_alphanumeric()
        || !(byte.is_ascii() || is_space(byte))
}

/// Whether bytes that a server sent before any request are those of an HTTP server: an answer of HTTP/1, or the
/// SETTINGS frame of HTTP/2 (RFC 9113, 3.4). `None`: too few bytes have come to decide.
pub fn server_speaks_http(first: &[u8]) -> Option<bool> {
    const ANSWER: &[u8] = b"HTTP/";
    let is_answer = is_prefix(first, ANSWER).then_some(first.len() >= ANSWER.len());
    match (is_answer, is_settings(first)) {
        (Some(true), _) | (_, Some(true)) => Some(true),
        (Some(false), _) | (_, None) => None,
        (None, Some(false)) => Some(false),
    }
}

/// Whether the bytes are the header of a SETTINGS frame: on stream 0, with six bytes for each setting (RFC 9113, 4.1
/// and
/// 6.5).
fn is_settings(first: &[u8]) -> Option<bool> {
    const HEAD: usize = 9;
    let fits = |(at, byte): (usize, &u8)| match at {
        1 => *byte < 1 << 6,
        2 => true,
        3 => *byte == 4,
        _ => *byte == 0,
    };
    let head = first.get(..HEAD).unwrap_or(first);
    if !head.iter().enumerate().all(fits) {
        return Some(false);
    }
    match *head {
        [_, high, low, _, _, _, _, _, _] => Some(u16::from_be_bytes([high, low]).is_multiple_of(6)),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
