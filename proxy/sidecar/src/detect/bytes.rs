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
mod tests {
    use proptest::prelude::*;

    use super::LooksLike::{Http1, Http2, Opaque, Tls};
    use super::*;

    /// `limits.header_bytes` of the tests.
    const MOST: usize = 64 * 1024;

    fn look(first: &[u8]) -> Option<LooksLike> {
        Reader::new(MOST).look(first)
    }

    #[test]
    fn first_bytes_of_each_protocol_are_distinguished() {
        let table: [(&[u8], LooksLike); 16] = [
            (b"GET / HTTP/1.1\r\n", Http1),
            (b"GET / HTTP/1.0\n", Http1),
            (b"\r\nPOST /x?y HTTP/1.1\r\nhost: a", Http1),
            (b"CONNECT a:1 HTTP/1.1\r\n", Http1),
            (b"PURGE http://a/ HTTP/1.1\r\n", Http1),
            (b"GET /\xc3\xa4 HTTP/1.1\r\n", Http1),
            (b"FETCH x HTTP/1.1\r\n", Http1),
            (b"\r\n\r\n\r\n\r\n\r\n\nGET / HTTP/1.1\r\n", Http1),
            (PREFACE, Http2),
            (b"\x16\x03\x01\x02\x00\x01", Tls),
            (b"\x16\x03\x03\x00\x05\x01\x00", Tls),
            (b"\x16\x03\x01\x02\x00\x02", Opaque),
            (b"\x16\x02\x00", Opaque),
            (b"\x16\x03\x01\x00\x00", Opaque),
            (b"\x16\x03\x01\x50", Opaque),
            (b"GETS / \r\n", Opaque),
        ];
        for (first, expected) in table {
            assert_eq!(look(first), Some(expected), "{:?}", String::from_utf8_lossy(first));
        }
    }

    /// RFC 9112 allows none of these lines, but each is a request for at least one of the four servers.
    #[test]
    fn a1_what_a_lenient_server_reads_as_http_is_for_the_http_side_to_refuse() {
        let long_method = [&[b'A'; 33][..], b" /a HTTP/1.1\r\n"].concat();
        let long_target = [b"PURGE /", &[b'x'; 9 * 1024][..], b" HTTP/1.1\r\n"].concat();
        let long_other = [b"FETCH ", &[b'x'; 9 * 1024][..], b" HTTP/1.1\r\n"].concat();
        let empty_lines = [&b"\r\n".repeat(4 * 1024)[..], b"GET /a HTTP/1.1\r\n"].concat();
        let table: [&[u8]; 34] = [
            b"GET /a HTTP/1.1 \r\n",
            b"GET  /a HTTP/1.1\r\n",
            b"GET\t/a\tHTTP/1.1\r\n",
            b"GET\x1c/a\xa0HTTP/1.1\r\n",
            b"GET\r/a\rHTTP/1.1\r\n",
            b" GET /a HTTP/1.1\r\n",
            b"\x0b\x85GET /a HTTP/1.1\r\n",
            b"\r\r\nGET /a HTTP/1.1\r\n",
            b"GET / HTTP/2.0\r\n",
            b"GET / HTTP/1.1x\r\n",
            b"GET /a b HTTP/1.1\r\n",
            b"GET /\0 HTTP/1.1\r\n",
            b"FETCH /\0 HTTP/1.1\r\n",
            b"get /\0 HTTP/1.1\r\n",
            b"G\xc9T /a HTTP/1.1\r\n",
            b"get /a HTTP/1.1\r\n",
            b"get /a http/1.1\r\n",
            b"HTTP/1.1 200 OK\r\n",
            b"PRI * HTTP/2.0\r\n\r\nXX",
            b"\r\nPRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"GET /a\r\n",
            b"GET key\n",
            b"CONNECT \r\n",
            b"POST /a\r\n",
            b"PURGE /a\r\n",
            b"PURGE *\r\n",
            b"PURGE http://a/\r\n",
            b"OPTIONS / RTSP/1.0\r\n",
            b"DESCRIBE / RTSP/1.0\r\n",
            b"SOURCE /a ICE/1.0\r\n",
            &long_method,
            &long_target,
            &long_other,
            &empty_lines,
        ];
        for first in table {
            let shown = String::from_utf8_lossy(first.get(..40).unwrap_or(first));
            assert_eq!(look(first), Some(Http1), "{shown:?}");
            let unended = first.strip_suffix(b"\n").unwrap_or(first);
            let whole = Reader::new(MOST).look_at_all(unended);
            assert_eq!(
                whole == Http1,
                *first != b"CONNECT \r\n"[..],
                "{shown:?}: and when its line ends with the connection"
            );
        }
    }

    /// Many servers of HTTP accept a PROXY header before a request, also where none is expected.
    #[test]
    fn a1_a_header_of_the_proxy_protocol_is_for_the_http_side_to_refuse() {
        let v2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x01\x01\x01\x01\x02\x02\x02\x02\0\x01\0\x02GET / HTTP/1.1\r\n";
        let v1 = b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\nGET / HTTP/1.1\r\n";
        for header in [&v2[..], v1, b"PROXY UNKNOWN\r\n"] {
            assert_eq!(look(header), Some(Http1));
            let mut reader = Reader::new(MOST);
            let decided = (1..=header.len()).find_map(|end| reader.look(&header[..end]));
            assert_eq!(decided, Some(Http1), "byte by byte");
        }
        assert_eq!(look(b"\r\n\r\n\0\r\nQUIT "), Some(Opaque), "not the whole signature");
    }

    #[test]
    fn a1_text_and_empty_lines_without_end_are_for_the_http_side_to_refuse() {
        for (what, first) in [
            ("white space", &b" "[..]),
            ("empty lines", b"\r\n"),
            ("a word", b"a"),
            ("words", b"set key 0 0 "),
        ] {
            let all = first.repeat(MOST + 1);
            assert_eq!(look(&all[..MOST - 1]), None, "{what}");
            for most in [MOST, MOST + 1, all.len()] {
                assert_eq!(look(&all[..most]), Some(Http1), "{what}, {most} bytes");
            }
        }
    }

    /// The first byte that neither TLS nor HTTP could have decides, so that the client does not wait longer than
    /// needed.
    #[test]
    fn other_protocols_are_opaque_at_the_first_byte_that_tells() {
        let table: [(&str, &[u8], usize); 27] = [
            ("PostgreSQL, SSLRequest", b"\0\0\0\x08\x04\xd2\x16\x2f", 1),
            ("PostgreSQL, startup", b"\0\0\0\x54\0\x03\0\0user\0", 1),
            ("MySQL's answer to a greeting", b"\x54\0\0\x01\x8d\xa6", 2),
            ("MySQL's answer, as long as white space", b"\x20\0\0\x01\x8d\xa6", 2),
            ("Redis", b"*1\r\n$4\r\nPING\r\n", 4),
            ("Redis, inline", b"PING\r\n", 6),
            ("Redis, subscribing inline", b"SUBSCRIBE news\r\n", 16),
            ("memcached", b"get key\r\n", 9),
            ("memcached, a path as the key", b"get /index.html\r\n", 17),
            ("memcached, an address as the key", b"get https://a/b\r\n", 17),
            ("memcached, binary", b"\x80\0\0\x03", 2),
            ("SMTP", b"EHLO mail.example\r\n", 19),
            ("SSH", b"SSH-2.0-OpenSSH_9.2\r\n", 21),
            ("Kafka", b"\0\0\0\x23\0\x12\0\x03", 1),
            ("MongoDB", b"\x3a\0\0\0\x01\0\0\0", 1),
            ("MongoDB, as long as a letter and a blank", b"A\x20\0\0\x01\0\0\0", 3),
            ("AMQP", b"AMQP\0\0\x09\x01", 5),
            ("NATS", b"CONNECT {\"verbose\":false}\r\n", 27),
            ("STOMP", b"CONNECT\naccept-version:1.2\n\n\0", 8),
            ("STOMP, with carriage returns", b"CONNECT\r\naccept-version:1.2\r\n\r\n\0", 9),
            ("MQTT", b"\x10\x10\0\x04MQTT", 1),
            ("LDAP", b"0\x0c\x02\x01\x01`\x07", 3),
            ("Cassandra", b"\x05\0\0\0\x01", 1),
            ("git", b"0033git-upload-pack /project.git\0host=a\0", 33),
            ("NSQ", b"  V2IDENTIFY\n", 13),
            ("SIP", b"INVITE sip:a@b SIP/2.0\r\n", 24),
            ("Beanstalk", b"put 0 0 60 5\r\nhello\r\n", 14),
        ];
        for (what, first, at) in table {
            assert_eq!(look(first), Some(Opaque), "{what}");
            assert_eq!(look(&first[..at]), Some(Opaque), "{what}");
            assert_eq!(look(&first[..at - 1]), None, "{what}");
        }
    }

    #[test]
    fn undecided_bytes_of_an_ended_connection_are_judged_as_they_are() {
        for (all, expected) in [
            (&b""[..], Opaque),
            (b"GET", Opaque),
            (b"\r\n", Opaque),
            (b"hello world", Opaque),
            (b"\x16\x03\x01", Opaque),
            (b"FETCH /a HTTP/1.1", Http1),
            (b"PRI * HTTP/2.0\r\n\r\nSM", Http1),
            (b"PRI", Opaque),
        ] {
            assert_eq!(Reader::new(MOST).look_at_all(all), expected, "{all:?}");
        }
    }

    /// At the deadline, the incomplete line of a slow client is judged by these two predicates.
    #[test]
    fn a_line_without_end_shows_whether_it_is_likely_to_become_a_request() {
        for (first, begins_like_one, is_hardly_one) in [
            (&b"GET"[..], true, false),
            (b"\r\nPO", true, false),
            (b"DELETE ", true, false),
            (b"CONNECT {", true, false),
            (b"\r\n", true, false),
            (b"GETX", false, false),
            (b"M-SEARCH", false, false),
            (b"BASELINE-CONTROL x", false, false),
            (b"FETCH x", false, false),
            (b"get /", false, true),
            (b"\r\nget", false, true),
            (b"hello", false, true),
        ] {
            let mut reader = Reader::new(MOST);
            assert_eq!(reader.look(first), None, "{first:?}");
            assert_eq!(reader.begins_like_a_request(), begins_like_one, "{first:?}");
            assert_eq!(reader.is_hardly_http(), is_hardly_one, "{first:?}");
        }
    }

    #[test]
    fn an_http_server_that_speaks_first_is_recognised() {
        for (first, expected) in [
            (&b"HTTP/1.1 408 Request Timeout\r\n"[..], Some(true)),
            (b"\0\0\x12\x04\0\0\0\0\0\0\x03", Some(true)),
            (b"\0\0\0\x04\0\0\0\0\0", Some(true)),
            (b"\0\0\x11\x04\0\0\0\0\0", Some(false)),
            (b"HTT", None),
            (b"\0\0\x12\x04\0", None),
            (b"", None),
            (b"HTML", Some(false)),
            (b"220 mail.example ESMTP\r\n", Some(false)),
            (b"SSH-2.0-OpenSSH", Some(false)),
            (b"\x4a\0\0\0\x0a8.0.36\0", Some(false)),
        ] {
            assert_eq!(server_speaks_http(first), expected, "{first:?}");
        }
    }

    fn beginning() -> impl Strategy<Value = Vec<u8>> {
        let known: [&[u8]; 9] = [
            b"GET / HTTP/1.1\r\nhost: a\r\n\r\n",
            b"PURGE http://a/ HTTP/1.0\n",
            b"FETCH  /a  http/1.1\r\n",
            PREFACE,
            b"\x16\x03\x01\x02\x00\x01\x00",
            b"PING\r\n",
            b"CONNECT {}\r\n",
            b"\r\n\r\nGET",
            b"\0\0\0\x08",
        ];
        let damaged = (proptest::sample::select(known.to_vec()), any::<(prop::sample::Index, u8)>())
            .prop_map(|(known, (place, byte))| {
                let mut bytes = known.to_vec();
                let place = place.index(bytes.len());
                bytes[place] = byte;
                bytes
            });
        prop_oneof![proptest::collection::vec(any::<u8>(), 0..64), damaged]
    }

    proptest! {
        /// Holds for bytes that come one by one or all at once, and for any limit of examined bytes.
        #[test]
        fn a_decision_by_a_prefix_is_not_changed_by_more_bytes(
            first in beginning(),
            more in proptest::collection::vec(any::<u8>(), 0..32),
            most in 1_usize..80,
        ) {
            let all = [first, more].concat();
            let (mut decided, mut one_by_one) = (None, Reader::new(most));
            let (mut forgetful, mut held) = (Reader::new(most), BytesMut::new());
            for end in 0..=all.len() {
                let now = Reader::new(most).look(&all[..end]);
                prop_assert_eq!(one_by_one.look(&all[..end]), now, "at {}", end);
                held.extend_from_slice(all.get(end.wrapping_sub(1)..end).unwrap_or_default());
                if decided.is_none() {
                    prop_assert_eq!(forgetful.look(&held), now, "at {}", end);
                    forgetful.forget(&mut held);
                    prop_assert!(held.len() <= PREFACE.len());
                }
                if decided.is_some() {
                    prop_assert_eq!(now, decided, "at {}", end);
                }
                decided = now;
            }
            prop_assert!(decided.is_some() || all.len() < most.max(PREFACE.len()), "{} bytes undecided", all.len());
        }
    }
}
