//! What four HTTP servers take for a request, read from their sources and tried on them: nothing of it may be opaque.
//!
//! Each reader is told all bytes of a connection and says whether its server begins a request with them. Where versions
//! of a server differ it is as lenient as the most lenient one. They read the first line alone: a server that refuses
//! that closes the connection.

use proptest::prelude::*;

use super::bytes::{Reader, Spoken};

/// `limits.header_bytes` of the tests.
const MOST: usize = 64 * 1024;

type Server = fn(&[u8]) -> bool;

const SERVERS: [(&str, Server); 4] = [("nginx", nginx), ("Node", node), ("Python", python), ("Go", go)];

/// `ngx_http_parse_request_line`.
fn nginx(all: &[u8]) -> bool {
    let rest = without(all, b"\r\n"); // any number of them, in any order
    let (method, rest) = split(rest, |byte| matches!(byte, b'A'..=b'Z' | b'_' | b'-'));
    if method.is_empty() || !rest.starts_with(b" ") {
        return false;
    }
    let target = without(rest, b" "); // as many blanks as one likes
    let is_target = target.starts_with(b"/") || after_scheme(target).is_some();
    let Some(line) = line(target).filter(|_| is_target) else { return false };
    // Before 1.21.1 a target could have blanks and control characters. Without a version it is HTTP/0.9, for GET alone.
    !line.contains(&0) && (method == b"GET" || contains(line, b" HTTP/"))
}

/// llhttp: methods by name, HTTP/0.9 for any of them, and the versions of RTSP and ICE too.
fn node(all: &[u8]) -> bool {
    let rest = without(all, b"\r\n");
    let Some(method) = NODES_METHODS.into_iter().find(|method| begins_with_word(rest, method)) else {
        return false;
    };
    let target = without(rest.get(method.len()..).unwrap_or_default(), b" ");
    let is_target = match method {
        "CONNECT" => true, // judged below, byte by byte
        _ => matches!(target.first(), Some(b'/' | b'*')) || after_scheme(target).is_some(),
    };
    let (target, rest) = split(target, |byte| byte > b' ' && byte != 0x7f);
    let is_host = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@%[]/?".contains(byte);
    if !is_target || (method == "CONNECT" && !target.iter().all(is_host)) {
        return false;
    }
    let version = without(rest, b" ");
    let protocols = [&b"HTTP/"[..], b"RTSP/", b"ICE/"];
    let is_ended = rest.starts_with(b"\r\n") || rest.starts_with(b"\n");
    is_ended || (line(rest).is_some() && protocols.iter().any(|one| version.starts_with(one)))
}

/// `BaseHTTPRequestHandler.parse_request`: Latin-1, split at what is white space there, a line that the connection's end
/// ends is whole. The application has `do_GET` and the like, so a method is a piece of an identifier. Python would take
/// one of two letters as well; none is in use.
fn python(all: &[u8]) -> bool {
    let line = line(all).unwrap_or(all);
    let is_space = |byte: &u8| matches!(byte, 9..=13 | 28..=32 | 0x85 | 0xa0);
    let words: Vec<&[u8]> = line.split(is_space).filter(|word| !word.is_empty()).collect();
    let is_letter =
        |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | 0xc0..=0xd6 | 0xd8..=0xf6 | 0xf8..);
    match words[..] {
        [b"GET", _target] => true, // HTTP/0.9, with header fields all the same
        [method, _target, version] => {
            method.len() > 2 && method.iter().all(is_letter) && version.starts_with(b"HTTP/")
        }
        _ => false,
    }
}

/// `net/http.readRequest`: three words with one blank each, the method any token, the version HTTP's.
fn go(all: &[u8]) -> bool {
    let Some(line) = line(all) else { return false };
    let mut words = line.strip_suffix(b"\r").unwrap_or(line).splitn(3, |byte| *byte == b' ');
    let (Some(method), Some(target), Some(version)) = (words.next(), words.next(), words.next()) else {
        return false;
    };
    let is_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    !method.is_empty()
        && method.iter().all(is_token)
        && !target.iter().any(u8::is_ascii_control) // `url.ParseRequestURI`
        && version.starts_with(b"HTTP/")
}

/// Of llhttp 9 and those before it, RTSP's among them.
#[rustfmt::skip]
const NODES_METHODS: [&str; 46] = [
    "DELETE", "GET", "HEAD", "POST", "PUT", "CONNECT", "OPTIONS", "TRACE", "COPY", "LOCK", "MKCOL", "MOVE", "PROPFIND",
    "PROPPATCH", "SEARCH", "UNLOCK", "BIND", "REBIND", "UNBIND", "ACL", "REPORT", "MKACTIVITY", "CHECKOUT", "MERGE",
    "M-SEARCH", "NOTIFY", "SUBSCRIBE", "UNSUBSCRIBE", "PATCH", "PURGE", "MKCALENDAR", "LINK", "UNLINK", "SOURCE", "QUERY",
    "DESCRIBE", "ANNOUNCE", "SETUP", "PLAY", "PAUSE", "TEARDOWN", "GET_PARAMETER", "SET_PARAMETER", "REDIRECT", "RECORD",
    "FLUSH",
];

fn without<'a>(bytes: &'a [u8], leading: &[u8]) -> &'a [u8] {
    split(bytes, |byte| leading.contains(&byte)).1
}

/// What is so at the beginning, and the rest.
fn split(bytes: &[u8], is_so: impl Fn(u8) -> bool) -> (&[u8], &[u8]) {
    bytes.split_at(bytes.iter().position(|byte| !is_so(*byte)).unwrap_or(bytes.len()))
}

/// The first line without its end. `None`: it has none.
fn line(bytes: &[u8]) -> Option<&[u8]> {
    bytes.iter().position(|byte| *byte == b'\n').map(|end| &bytes[..end])
}

fn after_scheme(target: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = split(target, |byte| byte.is_ascii_alphabetic());
    rest.strip_prefix(b"://").filter(|_| !scheme.is_empty())
}

fn begins_with_word(bytes: &[u8], word: &str) -> bool {
    bytes.strip_prefix(word.as_bytes()).is_some_and(|rest| rest.starts_with(b" "))
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// The readers are worth something: each takes what its server is known to take, and is not the others.
#[test]
fn the_readers_know_their_servers() {
    for (line, expected) in [
        ("GET / HTTP/1.1\r\n", "nginx Node Python Go"),
        ("\r\nGET / HTTP/1.1\r\n", "nginx Node"),
        (" GET / HTTP/1.1\r\n", "Python"),
        ("GET  / HTTP/1.1\r\n", "nginx Node Python"),
        ("GET\t/\tHTTP/1.1\r\n", "Python"),
        ("GET / HTTP/1.1 \r\n", "nginx Node Python Go"),
        ("GET /a\r\n", "nginx Node Python"),
        ("GET key\r\n", "Python"),
        ("POST /a\r\n", "Node"),
        ("PURGE http://a/\r\n", "Node"),
        ("get /a HTTP/1.1\r\n", "Python Go"),
        ("FETCH /a HTTP/1.1\r\n", "nginx Python Go"),
        ("OPTIONS / RTSP/1.0\r\n", "Node"),
        ("CONNECT \r\n", "Node"),
        ("GET / HTTP/1.1", "Python"),
        ("GETS /\r\n", ""),
        ("PING\r\n", ""),
        ("CONNECT {\"verbose\":false}\r\n", ""),
    ] {
        let readers = SERVERS.iter().filter(|(_, reads)| reads(line.as_bytes())).map(|(name, _)| *name);
        assert_eq!(readers.collect::<Vec<_>>().join(" "), expected, "{line:?}");
    }
}

/// A line that is nearly one of HTTP, put together from what servers stumble at.
fn nearly_http() -> impl Strategy<Value = Vec<u8>> {
    let leads: [&[u8]; 8] = [b"", b"", b"", b"\r\n", b"\r\r\n", b" ", b"\x0b", b"\xa0"];
    let methods: [&[u8]; 18] = [
        b"GET",
        b"GET",
        b"get",
        b"PURGE",
        b"FETCH",
        b"CONNECT",
        b"SOURCE",
        b"DESCRIBE",
        b"A",
        b"X_Y",
        b"GET-X",
        b"M-SEARCH",
        b"POST",
        b"PRI",
        b"QUERY",
        b"0",
        b"\xc9T\xc9",
        b"hello",
    ];
    let gaps: [&[u8]; 10] = [b" ", b" ", b" ", b"  ", b"\t", b"\x1c", b"\r", b"\xa0", b" \r", b""];
    let targets: [&[u8]; 16] = [
        b"/a",
        b"/a",
        b"/a",
        b"*",
        b"http://a/",
        b"key",
        b"a:1",
        b"{\"a\":1}",
        b"/\0",
        b"/\x01",
        b"/ b",
        b"",
        b"HTTP/",
        b"[::1]:1",
        b"/\xc3\xa4",
        b"?x",
    ];
    let versions: [&[u8]; 10] = [
        b"HTTP/1.1",
        b"HTTP/1.1",
        b"HTTP/1.0",
        b"HTTP/2.0",
        b"http/1.1",
        b"HTTP/0.9",
        b"RTSP/1.0",
        b"ICE/1.0",
        b"HTTP/1.1x",
        b"",
    ];
    let ends: [&[u8]; 7] = [b"\r\n", b"\r\n", b"\n", b" \r\n", b"\r", b"\t\n", b""];
    let one = |of: &[&'static [u8]]| proptest::sample::select(of.to_vec());
    let pieces =
        (one(&leads), one(&methods), one(&gaps), one(&targets), one(&gaps), one(&versions), one(&ends));
    let damage = proptest::option::weighted(0.2, any::<(prop::sample::Index, u8)>());
    (pieces, damage).prop_map(|((lead, method, gap, target, second_gap, version, end), damage)| {
        let mut line = [lead, method, gap, target, second_gap, version, end].concat();
        if let Some((place, byte)) = damage {
            let place = place.index(line.len());
            line[place] = byte;
        }
        line.extend_from_slice(b"host: a\r\n\r\n");
        line
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    /// Neither when all bytes are there, nor after any of them, nor when the connection ends with them.
    #[test]
    fn a1_what_one_of_four_servers_reads_as_http_is_never_opaque(all in nearly_http(), cut in any::<prop::sample::Index>()) {
        let cut = &all[..=cut.index(all.len())];
        for (server, reads) in SERVERS {
            if reads(&all) {
                for end in 0..=all.len() {
                    let found = Reader::new(MOST).look(&all[..end]);
                    prop_assert_ne!(found, Some(Spoken::Opaque), "{} reads it, {} bytes", server, end);
                }
            }
            if reads(cut) {
                prop_assert_ne!(Reader::new(MOST).look_at_all(cut), Spoken::Opaque, "{} reads all of it", server);
            }
        }
    }
}
