//! TLS, HTTP/1, HTTP/2 or none of them, told by the first bytes of a connection.
//!
//! Pure, and monotone: what a prefix has decided, more bytes do not change.

/// What the first bytes are the beginning of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spoken {
    Tls,
    Http1,
    Http2,
    Opaque,
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Of a method; the longest registered one (BASELINE-CONTROL) has 16.
const METHOD_MOST: usize = 32;
/// Of a request line, as far as it is waited for.
const LINE_MOST: usize = 8 * 1024;
/// `None`: it may still become TLS or HTTP.
pub(crate) fn look(first: &[u8]) -> Option<Spoken> {
    match first.first()? {
        0x16 => tls(first),
        b'P' if is_prefix(first, PREFACE) => (first.len() >= PREFACE.len()).then_some(Spoken::Http2),
        _ => http1(first),
    }
}

/// Whether one is the beginning of the other.
fn is_prefix(one: &[u8], other: &[u8]) -> bool {
    one.iter().zip(other).all(|(a, b)| a == b)
}

/// A handshake record (RFC 8446, 5.1) that begins with a ClientHello.
fn tls(first: &[u8]) -> Option<Spoken> {
    let fits = match *first {
        [_] => return None,
        [_, 3] => return None,
        [_, 3, minor] => return if minor <= 4 { None } else { Some(Spoken::Opaque) },
        [_, 3, 0..=4, high] => return if high <= 0x41 { None } else { Some(Spoken::Opaque) },
        [_, 3, 0..=4, high, low] if is_length(high, low) => return None,
        [_, 3, 0..=4, high, low, kind, ..] => is_length(high, low) && kind == 1,
        _ => false,
    };
    Some(if fits { Spoken::Tls } else { Spoken::Opaque })
}

fn is_length(high: u8, low: u8) -> bool {
    (1..=(1 << 14) + 256).contains(&u16::from_be_bytes([high, low]))
}

/// `METHOD SP TARGET SP HTTP/1.x` and the end of its line (RFC 9112, 3). Before that it may be any text protocol.
fn http1(first: &[u8]) -> Option<Spoken> {
    let first = match skip_empty_lines(first) {
        Ok(rest) => rest,
        Err(decided) => return decided,
    };
    let mut words = first.splitn(2, |byte| *byte == b' ');
    let method = words.next().unwrap_or_default();
    if method.len() > METHOD_MOST || !method.iter().all(|byte| is_token(*byte)) {
        return Some(Spoken::Opaque);
    }
    let rest = words.next()?; // no blank yet
    if method.is_empty() {
        return Some(Spoken::Opaque);
    }
    let most = LINE_MOST - method.len();
    // what stands behind `most` is not looked at, whether it is here already or not: else more could contradict
    match rest.iter().take(most).position(|byte| !is_target(*byte)) {
        Some(end) => version(rest.get(..end).unwrap_or_default(), rest.get(end..).unwrap_or_default()),
        None if rest.len() >= most => Some(long(method, rest)),
        None => None,
    }
}

/// Behind the target: a blank, the version, and a line's end.
fn version(target: &[u8], rest: &[u8]) -> Option<Spoken> {
    const VERSION: &[u8] = b" HTTP/1.";
    if target.is_empty() || !is_prefix(rest, VERSION) {
        return Some(Spoken::Opaque);
    }
    match rest.get(VERSION.len()..)? {
        [] => None,
        [b'0'..=b'9'] | [b'0'..=b'9', b'\r'] => None,
        [b'0'..=b'9', b'\n', ..] | [b'0'..=b'9', b'\r', b'\n', ..] => Some(Spoken::Http1),
        _ => Some(Spoken::Opaque),
    }
}

/// Empty lines before a request line are skipped, as RFC 9112, 2.2, asks; all that a request line might take.
/// `Err`: decided, or too early to say.
fn skip_empty_lines(first: &[u8]) -> Result<&[u8], Option<Spoken>> {
    let mut rest = first.get(..LINE_MOST).unwrap_or(first);
    while let [b'\r', b'\n', more @ ..] | [b'\n', more @ ..] = rest {
        rest = more;
    }
    let skipped = first.len().min(LINE_MOST) - rest.len();
    match rest {
        [] | [b'\r'] if first.len() >= LINE_MOST => Err(Some(Spoken::Opaque)),
        [] | [b'\r'] => Err(None),
        _ => Ok(first.get(skipped..).unwrap_or_default()),
    }
}

const KNOWN: [&[u8]; 9] =
    [b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"CONNECT", b"OPTIONS", b"TRACE", b"PATCH"];

/// Whether undecided bytes are the beginning of a request with a method that HTTP knows.
pub(crate) fn begins_like_a_request(first: &[u8]) -> bool {
    let Ok(line) = skip_empty_lines(first) else { return false };
    match line.iter().position(|byte| *byte == b' ') {
        Some(end) => KNOWN.contains(&line.get(..end).unwrap_or_default()),
        None => KNOWN.iter().any(|known| known.starts_with(line)),
    }
}

/// Whether undecided bytes begin with a method that nobody has registered: those have capital letters and hyphens
/// (the registry of RFC 9110, 16.1.1).
pub(crate) fn is_hardly_http(first: &[u8]) -> bool {
    let Ok(line) = skip_empty_lines(first) else { return false };
    let method = line.split(|byte| *byte == b' ').next().unwrap_or_default();
    first.first() != Some(&0x16) && method.iter().any(|byte| !matches!(byte, b'A'..=b'Z' | b'-'))
}

/// A request line longer than anybody waits for: HTTP says what is wrong with it.
fn long(method: &[u8], target: &[u8]) -> Spoken {
    let is_http = KNOWN.contains(&method)
        && (matches!(target.first(), Some(b'/' | b'*')) || target.starts_with(b"http"));
    if is_http { Spoken::Http1 } else { Spoken::Opaque }
}

/// RFC 9110, 5.6.2.
const fn is_token(byte: u8) -> bool {
    matches!(byte, b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.' | b'^'..=b'z' | b'|' | b'~')
        || byte.is_ascii_alphanumeric()
}

/// Generous: what URIs may not have and clients send all the same is HTTP's to refuse.
const fn is_target(byte: u8) -> bool {
    byte > b' ' && byte != 0x7f
}

/// Whether the first bytes that a server sent unasked are those of an HTTP server: an answer to a request that
/// never came, or HTTP/2's SETTINGS (RFC 9113, 3.4).
pub(crate) fn server_speaks_http(first: &[u8]) -> bool {
    first.starts_with(b"HTTP/") || is_settings(first)
}

fn is_settings(first: &[u8]) -> bool {
    match *first {
        [0, high, low, 4, 0, 0, 0, 0, 0, ..] => {
            let length = u16::from_be_bytes([high, low]);
            length.is_multiple_of(6) && length < 1 << 14
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Spoken::{Http1, Http2, Opaque, Tls};
    use super::*;

    #[test]
    fn whole_beginnings_are_told() {
        let long_get = [b"GET /", &[b'x'; LINE_MOST][..]].concat();
        let long_other = [b"FETCH x", &[b'x'; LINE_MOST][..]].concat();
        let table: [(&[u8], Spoken); 21] = [
            (b"GET / HTTP/1.1\r\n", Http1),
            (b"GET / HTTP/1.0\n", Http1),
            (b"\r\nPOST /x?y HTTP/1.1\r\nhost: a", Http1),
            (b"CONNECT a:1 HTTP/1.1\r\n", Http1),
            (b"PURGE http://a/ HTTP/1.1\r\n", Http1),
            (b"GET /\xc3\xa4 HTTP/1.1\r\n", Http1),
            (&long_get, Http1),
            (PREFACE, Http2),
            (b"\x16\x03\x01\x02\x00\x01", Tls),
            (b"\x16\x03\x03\x00\x05\x01\x00", Tls),
            (b"\x16\x03\x01\x02\x00\x02", Opaque),
            (b"\x16\x02\x00", Opaque),
            (b"\x16\x03\x01\x00\x00", Opaque),
            (b"\x16\x03\x01\x50", Opaque),
            (b"GET / HTTP/2.0\r\n", Opaque),
            (b"GET / HTTP/1.1x\r\n", Opaque),
            (b"GET  / HTTP/1.1\r\n", Opaque),
            (b"PRI * HTTP/2.0\r\n\r\nXX", Opaque),
            (&long_other, Opaque),
            (b"\r\n\r\n\r\n\r\n\r\n\nGET / HTTP/1.1\r\n", Http1),
            (&[b'A'; METHOD_MOST + 1], Opaque),
        ];
        for (first, expected) in table {
            assert_eq!(look(first), Some(expected), "{:?}", String::from_utf8_lossy(first));
        }
    }

    /// The first byte that no TLS and no HTTP has decides, so that nobody waits longer than needed.
    #[test]
    fn other_protocols_are_opaque_at_the_first_byte_that_tells() {
        let table: [(&str, &[u8], usize); 12] = [
            ("PostgreSQL, SSLRequest", b"\0\0\0\x08\x04\xd2\x16\x2f", 1),
            ("PostgreSQL, startup", b"\0\0\0\x54\0\x03\0\0user\0", 1),
            ("MySQL's answer to a greeting", b"\x54\0\0\x01\x8d\xa6", 2),
            ("Redis", b"*1\r\n$4\r\nPING\r\n", 3),
            ("Redis, inline", b"PING\r\n", 5),
            ("memcached", b"get key\r\n", 8),
            ("SMTP", b"EHLO mail.example\r\n", 18),
            ("SSH", b"SSH-2.0-OpenSSH_9.2\r\n", 20),
            ("Kafka", b"\0\0\0\x23\0\x12\0\x03", 1),
            ("MongoDB", b"\x3a\0\0\0\x01\0\0\0", 1),
            ("AMQP", b"AMQP\0\0\x09\x01", 5),
            ("NATS", b"CONNECT {\"verbose\":false}\r\n", 26),
        ];
        for (what, first, at) in table {
            assert_eq!(look(first), Some(Opaque), "{what}");
            assert_eq!(look(&first[..at]), Some(Opaque), "{what}");
            assert_eq!(look(&first[..at - 1]), None, "{what}");
        }
    }

    #[test]
    fn servers_of_http_are_known_by_what_they_say_unasked() {
        for (first, expected) in [
            (&b"HTTP/1.1 408 Request Timeout\r\n"[..], true),
            (b"\0\0\x12\x04\0\0\0\0\0\0\x03", true),
            (b"\0\0\0\x04\0\0\0\0\0", true),
            (b"\0\0\x11\x04\0\0\0\0\0", false),
            (b"HTT", false),
            (b"220 mail.example ESMTP\r\n", false),
            (b"SSH-2.0-OpenSSH", false),
            (b"\x4a\0\0\0\x0a8.0.36\0", false),
            (b"", false),
        ] {
            assert_eq!(server_speaks_http(first), expected, "{first:?}");
        }
    }

    #[test]
    fn empty_lines_are_skipped_but_not_for_ever() {
        let lines = b"\r\n".repeat(LINE_MOST);
        assert_eq!(look(&lines[..LINE_MOST - 1]), None);
        assert_eq!(look(&lines), Some(Opaque));
    }

    #[test]
    fn what_begins_like_a_request_is_known_before_its_line_is_whole() {
        for (first, expected) in [
            (&b"GET"[..], true),
            (b"\r\nPO", true),
            (b"DELETE /orders", true),
            (b"GETX", false),
            (b"GET\x00", false),
            (b"get /", false),
            (b"EHLO", false),
            (b"\x16\x03", false),
        ] {
            assert_eq!(begins_like_a_request(first), expected, "{first:?}");
        }
    }

    #[test]
    fn a_method_that_nobody_registered_is_hardly_http() {
        for (first, expected) in [
            (&b"hello"[..], true),
            (b"\r\nget /", true),
            (b"M-SEARCH", false),
            (b"PRI * HTTP", false),
            (b"BASELINE-CONTROL /x", false),
            (b"\x16\x03", false),
            (b"\r\n", false),
            (b"", false),
        ] {
            assert_eq!(is_hardly_http(first), expected, "{first:?}");
        }
    }

    /// However much of it has come: the bytes behind the bound change nothing.
    #[test]
    fn a_line_that_was_too_long_to_wait_for_stays_what_it_was() {
        for (begin, expected) in [(&b"GET /"[..], Http1), (b"FETCH /", Opaque), (b"\r\nGET /", Http1)] {
            for end in [&b" HTTP/1.1\r\n"[..], b" nothing of HTTP\r\n", b"\0"] {
                let line = [begin, &[b'x'; LINE_MOST], end].concat();
                let decided = (0..=line.len()).find(|most| look(&line[..*most]).is_some()).unwrap();
                for most in decided..=line.len() {
                    assert_eq!(look(&line[..most]), Some(expected), "{most} bytes, ending {end:?}");
                }
            }
        }
    }

    fn beginning() -> impl Strategy<Value = Vec<u8>> {
        let known: [&[u8]; 6] = [
            b"GET / HTTP/1.1\r\nhost: a\r\n\r\n",
            PREFACE,
            b"\x16\x03\x01\x02\x00\x01\x00",
            b"PING\r\n",
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
        #[test]
        fn what_a_prefix_decided_stays(first in beginning(), more in proptest::collection::vec(any::<u8>(), 0..32)) {
            let all = [first, more].concat();
            let mut decided = None;
            for end in 0..=all.len() {
                let now = look(&all[..end]);
                if decided.is_some() {
                    prop_assert_eq!(now, decided, "at {}", end);
                }
                decided = now;
            }
        }
    }
}
