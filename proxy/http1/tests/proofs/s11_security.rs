//! RFC 9112, 11: splitting and smuggling. A message that four lenient servers would read in two ways is refused, or is
//! written so that all read it in one way.

use http::Method;
use pillion_http1::{Client, Fields, Form, FromClient, Known, Length, Limits, Misuse, Server};
use pillion_testkit::lenient::SERVERS;
use proptest::prelude::*;

use crate::drive::{Asking, Served};

#[test]
fn s11_1_a_name_or_value_with_a_line_end_is_not_written() {
    let mut fields = Fields::default();
    for value in ["a\r\nX: y", "a\nb", "a\rb", "a\0b", "a\x7f"] {
        assert_eq!(
            fields.append(Known::XRequestId, value.as_bytes()),
            Err(Misuse::IllegalField),
            "{value:?}"
        );
        assert_eq!(fields.set(Known::XRequestId, value.as_bytes()), Err(Misuse::IllegalField), "{value:?}");
        assert_eq!(fields.append_named(value.as_bytes(), b"a"), Err(Misuse::IllegalField), "{value:?}");
    }
    for name in ["", "a b", "a:", "\u{e4}"] {
        assert_eq!(fields.append_named(name.as_bytes(), b"a"), Err(Misuse::IllegalField), "{name:?}");
    }
    assert!(fields.is_empty());
    fields.append(Known::XRequestId, b" a \t").unwrap();
    assert_eq!(fields.get(Known::XRequestId), Some(&b"a"[..]));
}

/// How a lenient server frames the content of a request. Each of the four was lenient in its own way, so that they find
/// the next request in different places.
type Reader = fn(&[(String, String)]) -> Option<Framing>;

#[derive(Debug, PartialEq, Eq, Clone, Copy)]
enum Framing {
    Chunked,
    Length(u64),
}

fn values<'a>(fields: &'a [(String, String)], wanted: &'a str) -> impl Iterator<Item = &'a str> {
    fields.iter().filter(move |(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| &**value)
}

/// nginx before 1.21: uses the last of two lengths; chunked if the value is exactly `chunked`.
fn nginx(fields: &[(String, String)]) -> Option<Framing> {
    match values(fields, "transfer-encoding").last() {
        Some(coding) if coding.eq_ignore_ascii_case("chunked") => Some(Framing::Chunked),
        _ => values(fields, "content-length").last()?.parse().ok().map(Framing::Length),
    }
}

/// Node before llhttp 6: chunked if the list ends with it, with any blanks around it.
fn node(fields: &[(String, String)]) -> Option<Framing> {
    let codings = values(fields, "transfer-encoding").collect::<Vec<_>>().join(",");
    if codings.to_ascii_lowercase().trim().ends_with("chunked") {
        return Some(Framing::Chunked);
    }
    values(fields, "content-length").next()?.trim().parse().ok().map(Framing::Length)
}

/// Python's servers: chunked if it is named anywhere; WSGI reads underscores in names as hyphens.
fn python(fields: &[(String, String)]) -> Option<Framing> {
    if values(fields, "transfer-encoding").any(|coding| coding.to_ascii_lowercase().contains("chunked")) {
        return Some(Framing::Chunked);
    }
    let length = values(fields, "content-length").next()?;
    length.trim().trim_start_matches('+').replace('_', "").parse().ok().map(Framing::Length)
}

/// Go before 1.15: chunked if the first line names it; uses the first length.
fn go(fields: &[(String, String)]) -> Option<Framing> {
    match values(fields, "transfer-encoding").next() {
        Some(coding) if coding.trim().eq_ignore_ascii_case("chunked") => Some(Framing::Chunked),
        _ => values(fields, "content-length").next()?.parse().ok().map(Framing::Length),
    }
}

const READERS: [(&str, Reader); 4] = [("nginx", nginx), ("Node", node), ("Python", python), ("Go", go)];

/// Reads field lines as a lenient server does: it accepts LF alone, blanks before a colon, and control characters in
/// values.
fn leniently(lines: &str) -> Vec<(String, String)> {
    let lines = lines.split('\n').map(|line| line.strip_suffix('\r').unwrap_or(line));
    let fields = lines.filter_map(|line| line.split_once(':'));
    fields
        .map(|(name, value)| {
            (name.trim().to_owned(), value.trim_matches([' ', '\t', '\x0b', '\x0c']).to_owned())
        })
        .collect()
}

/// Lines that have been used to smuggle requests.
const TRICKS: [&str; 26] = [
    "Content-Length: 6\r\nTransfer-Encoding: chunked\r\n",
    "Transfer-Encoding: chunked\r\nContent-Length: 6\r\n",
    "Content-Length: 6\r\nContent-Length: 5\r\n",
    "Content-Length: 6, 5\r\n",
    "Content-Length: +6\r\n",
    "Content-Length: 1_0\r\n",
    "Content-Length: 0x6\r\n",
    "Content-Length : 6\r\n",
    "Content-Length\t: 6\r\n",
    "Content-Length: 6\nTransfer-Encoding: chunked\r\n",
    "X: y\nContent-Length: 6\r\n",
    "X: y\rContent-Length: 6\r\n",
    "Transfer-Encoding : chunked\r\n",
    "Transfer-Encoding: xchunked\r\nContent-Length: 6\r\n",
    "Transfer-Encoding: chunked, identity\r\n",
    "Transfer-Encoding: identity, chunked\r\n",
    "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
    "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n",
    "Transfer-Encoding: \x0bchunked\r\n",
    "Transfer-Encoding:\r\n chunked\r\n",
    "Transfer-Encoding: \"chunked\"\r\n",
    " Transfer-Encoding: chunked\r\n",
    "Transfer-Encoding: chunk\r\n",
    "Transfer-Encoding: chunked;a\r\n",
    "Transfer-Encoding: gzip, chunked\r\nContent-Length: 6\r\n",
    "Transfer_Encoding : chunked\r\n",
];

#[test]
fn s11_2_each_smuggling_trick_is_refused_and_no_byte_after_it_is_read() {
    for trick in TRICKS {
        let bytes = format!(
            "POST / HTTP/1.1\r\nHost: a\r\n{trick}\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
        );
        let served = Served::of(bytes.as_bytes());
        assert!(served.fault.is_some() && served.requests.is_empty(), "{trick:?}: {:?}", served.requests);
    }
}

/// Checks the table itself: the four servers disagree about most of the tricks.
#[test]
fn s11_2_lenient_servers_disagree_about_most_of_the_tricks() {
    let disagreed = TRICKS.iter().filter(|trick| {
        let seen: Vec<_> = READERS.iter().map(|(_, read)| read(&leniently(trick))).collect();
        seen.windows(2).any(|two| two[0] != two[1])
    });
    assert!(disagreed.count() >= 10);
}

/// Accepted requests came with various blanks and cases, but are written in a form that all four servers read alike.
#[test]
fn s11_2_every_lenient_server_reads_a_forwarded_request_alike() {
    for lines in [
        "Content-Length: 03\r\n",
        "Content-Length: 3\r\nContent-Length: 3\r\n",
        "Content-Length:\t3\t\r\n",
        "content-LENGTH:3\r\nContent-Length: 03\r\n",
        "Transfer-Encoding:\tCHUNKED\t\r\n",
    ] {
        let text = format!("POST / HTTP/1.1\r\nHost: a\r\n{lines}\r\n");
        let (_, event) =
            pillion_http1::Server::new().read(text.as_bytes(), &pillion_http1::Limits::default()).unwrap();
        let pillion_http1::FromClient::Head(head) = event else { panic!("{lines:?}") };
        let written = String::from_utf8(Asking::with("POST", &head.fields, head.length).written).unwrap();
        let seen = leniently(written.split_once("\r\n").unwrap().1);
        let expected = match head.length {
            Length::Chunked => Some(Framing::Chunked),
            Length::Known(length) => Some(Framing::Length(length)),
            _ => None,
        };
        for (name, read) in READERS {
            assert_eq!(read(&seen), expected, "{name} reads {written:?}");
        }
        let lower = written.to_ascii_lowercase();
        assert_eq!(lower.matches("length").count() + lower.matches("encoding").count(), 1, "{written:?}");
    }
}

/// Heads with a first line that is nearly HTTP, made of parts that servers are known to read differently.
fn nearly_http() -> impl Strategy<Value = Vec<u8>> {
    let one = |of: &[&'static [u8]]| proptest::sample::select(of.to_vec());
    let lead = one(&[b"", b"", b"", b"\r\n", b"\r\r\n", b"\n", b" ", b"\x0b"]);
    let method =
        one(&[b"GET", b"GET", b"POST", b"get", b"FETCH", b"CONNECT", b"OPTIONS", b"GET-X", b"PRI", b"\xc9T"]);
    let gap = || one(&[b" ", b" ", b" ", b" ", b"  ", b"\t", b"\r", b"\x1c", b"\xa0", b""]);
    let target = one(&[
        b"/a",
        b"/a",
        b"/a?b",
        b"http://a/",
        b"http://a",
        b"HTTP://a?b",
        b"*",
        b"a:1",
        b"/ b",
        b"/\0",
        b"/\xc3\xa4",
        b"/a#b",
        b"",
    ]);
    let version = one(&[
        b"HTTP/1.1",
        b"HTTP/1.1",
        b"HTTP/1.0",
        b"HTTP/2.0",
        b"http/1.1",
        b"HTTP/0.9",
        b"RTSP/1.0",
        b"HTTP/1.1x",
        b"",
    ]);
    let end = one(&[b"\r\n", b"\r\n", b"\r\n", b"\n", b" \r\n", b"\r", b"\t\n"]);
    (lead, method, gap(), target, gap(), version, end).prop_map(
        |(lead, method, gap, target, second, version, end)| {
            [lead, method, gap, target, second, version, end, b"Host: a\r\n\r\n"].concat()
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8000, failure_persistence: None, ..ProptestConfig::default() })]

    /// A first line that a lenient server reads is accepted or refused, and never waits for more bytes. An accepted one
    /// is written so that all servers read it.
    #[test]
    fn s11_2_a_first_line_that_is_accepted_is_written_so_that_every_server_reads_it(bytes in nearly_http()) {
        let reads = SERVERS.iter().filter(|(_, reads)| reads(&bytes)).count();
        match Server::new().read(&bytes, &Limits::default()) {
            Ok((used, FromClient::Head(head))) => {
                prop_assert_eq!(used, bytes.len());
                let is_for_all = matches!(head.method, Method::GET | Method::POST)
                    && matches!(head.form, Form::Origin | Form::Absolute);
                let mut out = Vec::new();
                Client::new().write_head(&head.method, head.target(), &head.fields, head.length, &mut out).unwrap();
                for (name, reads) in SERVERS {
                    prop_assert!(!is_for_all || reads(&out), "{} does not read {}", name, out.escape_ascii());
                }
            }
            Ok((_, other)) => prop_assert!(reads == 0, "{:?} for {}", other, bytes.escape_ascii()),
            Err(_) => {}
        }
    }
}
