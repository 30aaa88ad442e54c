//! Which bytes four HTTP servers read as the beginning of a request: taken from their sources and tried on them.
//!
//! Each reader gets all bytes of a connection and returns whether its server begins a request with them. Where versions
//! of a server differ, the reader is as lenient as the most lenient version. Only the first line is read, because a
//! server that refuses the rest closes the connection.

/// Whether a server begins a request with these bytes, which are all bytes of its connection.
pub type Server = fn(&[u8]) -> bool;

/// The readers, by the names of their servers.
pub const SERVERS: [(&str, Server); 4] = [("nginx", nginx), ("Node", node), ("Python", python), ("Go", go)];

/// Reads like `ngx_http_parse_request_line`.
fn nginx(all: &[u8]) -> bool {
    let rest = without(all, b"\r\n"); // any number of these bytes, in any order
    let (method, rest) = split(rest, |byte| matches!(byte, b'A'..=b'Z' | b'_' | b'-'));
    if method.is_empty() || !rest.starts_with(b" ") {
        return false;
    }
    let target = without(rest, b" "); // any number of spaces
    let is_target = target.starts_with(b"/") || after_scheme(target).is_some();
    let Some(line) = line(target).filter(|_| is_target) else { return false };
    // Before 1.21.1 a target could contain spaces and control characters. A line without a version is HTTP/0.9, which
    // allows only GET.
    !line.contains(&0) && (method == b"GET" || contains(line, b" HTTP/"))
}

/// Reads like llhttp: it knows methods by name, allows HTTP/0.9 for all of them, and knows the versions of RTSP and ICE
/// too.
fn node(all: &[u8]) -> bool {
    let rest = without(all, b"\r\n");
    let Some(method) = NODES_METHODS.into_iter().find(|method| begins_with_word(rest, method)) else {
        return false;
    };
    let target = without(rest.get(method.len()..).unwrap_or_default(), b" ");
    let is_target = match method {
        "CONNECT" => true, // checked below, byte by byte
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

/// Reads like `BaseHTTPRequestHandler.parse_request`: the line is Latin-1, is split at white space, and counts as whole if
/// the connection ends it. The application has functions like `do_GET`, so a method is part of an identifier. Python
/// would also accept methods of one or two letters, but none of those is in use.
fn python(all: &[u8]) -> bool {
    let line = line(all).unwrap_or(all);
    let is_space = |byte: &u8| matches!(byte, 9..=13 | 28..=32 | 0x85 | 0xa0);
    let words: Vec<&[u8]> = line.split(is_space).filter(|word| !word.is_empty()).collect();
    let is_letter =
        |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | 0xc0..=0xd6 | 0xd8..=0xf6 | 0xf8..);
    match words[..] {
        [b"GET", _target] => true, // HTTP/0.9, though header fields may follow
        [method, _target, version] => {
            method.len() > 2 && method.iter().all(is_letter) && version.starts_with(b"HTTP/")
        }
        _ => false,
    }
}

/// Reads like `net/http.readRequest`: three words separated by single spaces; any token as the method; a version of HTTP.
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

/// The methods of llhttp 9 and of earlier versions, with those of RTSP.
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

/// Splits at the first byte for which `is_so` is false.
fn split(bytes: &[u8], is_so: impl Fn(u8) -> bool) -> (&[u8], &[u8]) {
    bytes.split_at(bytes.iter().position(|byte| !is_so(*byte)).unwrap_or(bytes.len()))
}

/// The first line without its end. `None`: no line is complete.
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks the readers: each accepts what its server is known to accept, and the readers differ.
    #[test]
    fn each_reader_accepts_what_its_server_accepts() {
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
}
