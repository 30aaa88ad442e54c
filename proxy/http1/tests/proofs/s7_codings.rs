//! RFC 9112, 7: chunks, their extensions, trailers.

use pillion_http1::{Fault, Fields, Known, Length, Limits, Server, remove_hop_by_hop};

use crate::drive::{Asking, Message, Served, answer, pairs, request, text};

fn chunked(chunks: &str) -> Result<Message, Fault> {
    let asked = request(format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}"));
    let answered = answer("GET", format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}"));
    assert_eq!(
        asked.as_ref().map(|read| &read.content),
        answered.as_ref().map(|read| &read.content),
        "{chunks:?}"
    );
    asked
}

#[test]
fn s7_1_chunks_are_joined() {
    for (chunks, content) in [
        ("0\r\n\r\n", ""),
        ("3\r\nabc\r\n0\r\n\r\n", "abc"),
        ("1\r\na\r\n2\r\nbc\r\n0\r\n\r\n", "abc"),
        ("A\r\n0123456789\r\n000\r\n\r\n", "0123456789"),
        ("a\r\n0123456789\r\n0\r\n\r\n", "0123456789"),
        ("0000000000000003\r\nabc\r\n0\r\n\r\n", "abc"),
        ("2\r\n\r\n\r\n0\r\n\r\n", "\\r\\n"),
    ] {
        assert_eq!(chunked(chunks).unwrap().content(), content, "{chunks:?}");
    }
}

#[test]
fn b12_s7_1_a_size_is_hexadecimal_digits_and_nothing_else() {
    for (chunks, fault) in [
        ("\r\n\r\n", Fault::Chunk),
        ("+3\r\nabc\r\n0\r\n\r\n", Fault::Chunk),
        ("-3\r\nabc\r\n0\r\n\r\n", Fault::Chunk),
        ("0x3\r\nabc\r\n0\r\n\r\n", Fault::Chunk),
        (" 3\r\nabc\r\n0\r\n\r\n", Fault::Chunk),
        ("g\r\n", Fault::Chunk),
        ("3_0\r\n", Fault::Chunk),
        (";a\r\n", Fault::Chunk),
        ("00000000000000003\r\nabc\r\n0\r\n\r\n", Fault::Chunk),
        ("10000000000000000\r\n", Fault::Chunk),
        ("3 3\r\nabc\r\n0\r\n\r\n", Fault::Chunk),
        ("3\nabc\r\n0\r\n\r\n", Fault::BareLineEnd),
        ("3\rabc\r\n0\r\n\r\n", Fault::BareLineEnd),
        ("3\r\nabcd\r\n0\r\n\r\n", Fault::Chunk),
        ("3\r\nabc\n0\r\n\r\n", Fault::Chunk),
        ("3\r\nabc\rx0\r\n\r\n", Fault::Chunk),
        ("3\r\nabc0\r\n\r\n", Fault::Chunk),
    ] {
        assert_eq!(chunked(chunks), Err(fault), "{chunks:?}");
    }
    // The largest size of 64 bits is valid, although no peer sends so much.
    let served =
        Served::of(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nab");
    assert_eq!((served.fault, served.current.unwrap().content()), (None, "ab".to_owned()));
}

#[test]
fn s7_1_1_extensions_are_ignored_up_to_a_limit() {
    for line in ["3;a", "3;a=b", "3 ; a = \"b;c\"", "3\t;a", "3;", "3  ", "3;\u{e4}"] {
        assert_eq!(chunked(&format!("{line}\r\nabc\r\n0;z\r\n\r\n")).unwrap().content(), "abc", "{line:?}");
    }
    assert_eq!(chunked("3;a\n\r\nabc\r\n0\r\n\r\n"), Err(Fault::BareLineEnd));
    assert_eq!(chunked("3;a\rb\r\nabc\r\n0\r\n\r\n"), Err(Fault::BareLineEnd));
    assert_eq!(chunked("3;a\0b\r\nabc\r\n0\r\n\r\n"), Err(Fault::Chunk));
    assert_eq!(chunked("3 a\r\nabc\r\n0\r\n\r\n"), Err(Fault::Chunk));
    let long = |bytes: usize| format!("1;{}\r\na\r\n0\r\n\r\n", "x".repeat(bytes - 1));
    assert!(chunked(&long(16 * 1024)).is_ok());
    assert_eq!(chunked(&long(16 * 1024 + 1)), Err(Fault::ChunkExtensions));
    let many = |chunks: usize| format!("{}0\r\n\r\n", "1;234567\r\na\r\n".repeat(chunks));
    assert!(chunked(&many(2340)).is_ok());
    assert_eq!(chunked(&many(2341)), Err(Fault::ChunkExtensions), "the limit is for the whole content");
}

#[test]
fn s7_1_2_trailers_are_read_and_fields_that_may_not_be_trailers_are_removed() {
    let read = chunked("0\r\nX-Sum: 1\r\nx-sum: 2\r\n\r\n").unwrap();
    assert_eq!(read.trailers, [("X-Sum".to_owned(), "1".to_owned()), ("x-sum".to_owned(), "2".to_owned())]);
    for name in [
        "Connection",
        "Keep-Alive",
        "Proxy-Connection",
        "TE",
        "Upgrade",
        "Transfer-Encoding",
        "Content-Length",
        "Trailer",
        "Host",
        "Authorization",
        "Set-Cookie",
        "Cookie",
        "Content-Type",
        "Content-Encoding",
        "Content-Range",
        "Cache-Control",
        "Expect",
        "Range",
        "If-Match",
    ] {
        let read = chunked(&format!("0\r\n{name}: x\r\nX-Sum: 1\r\n\r\n")).unwrap();
        assert_eq!(read.trailers, [("X-Sum".to_owned(), "1".to_owned())], "{name}");
        assert_eq!(chunked(&format!("0\r\n{name}: x\r\n\r\n")).unwrap().trailers, []);
    }
    for lines in ["X : a\r\n", "X: a\r\n b\r\n", "X\r\n", ": a\r\n", "X: \0\r\n", "X: a\n"] {
        assert_eq!(chunked(&format!("0\r\n{lines}\r\n")), Err(Fault::Trailers), "{lines:?}");
    }
    assert_eq!(chunked("0\r\n\n"), Err(Fault::Trailers));
}

#[test]
fn s7_1_2_trailers_have_a_limit() {
    let limits = Limits { trailer_bytes: 100, fields: 3, ..Limits::default() };
    let fault = |trailers: &str| {
        let mut served = Served { limits, ..Served::default() };
        served.feed(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n");
        served.feed(trailers.as_bytes());
        served.fault
    };
    let line = |bytes: usize| format!("X: {}\r\n\r\n", "x".repeat(bytes - 7));
    assert_eq!(fault(&line(100)), None);
    assert_eq!(fault(&line(101)), Some(Fault::Trailers));
    assert_eq!(fault("A: 1\r\nB: 1\r\nC: 1\r\n\r\n"), None);
    assert_eq!(fault("A: 1\r\nB: 1\r\nC: 1\r\nD: 1\r\n\r\n"), Some(Fault::Trailers));
}

#[test]
fn s7_1_2_trailers_are_written_only_after_chunked_content() {
    let written = |version: &str, length| {
        let (mut server, mut out, mut trailers) = (Server::new(), Vec::new(), Fields::default());
        trailers.append_named(b"X-Sum", b"1").unwrap();
        server
            .read(format!("GET / HTTP/{version}\r\nHost: a\r\n\r\n").as_bytes(), &Limits::default())
            .unwrap();
        server.write_head(http::StatusCode::OK, None, &Fields::default(), length, &mut out).unwrap();
        let head = out.len();
        server.put(b"abc", &mut out).unwrap();
        server.finish(Some(&trailers), &mut out).unwrap();
        text(&out[head..])
    };
    assert_eq!(written("1.1", Length::Chunked), "3\\r\\nabc\\r\\n0\\r\\nX-Sum: 1\\r\\n\\r\\n");
    assert_eq!(written("1.1", Length::Known(3)), "abc");
    assert_eq!(written("1.0", Length::Chunked), "abc");
}

#[test]
fn s7_4_te_is_forwarded_only_as_trailers_and_connection_names_it() {
    let mut asking = Fields::default();
    for (name, value) in [
        ("Host", "a"),
        ("TE", "gzip, trailers;q=1"),
        ("te", "trailers"),
        ("Connection", "te, X-Mine, Close"),
        ("X-Mine", "1"),
        ("x-mine", "2"),
        ("Keep-Alive", "5"),
        ("Upgrade", "x"),
    ] {
        asking.append_named(name.as_bytes(), value.as_bytes()).unwrap();
    }
    let named = remove_hop_by_hop(&mut asking).unwrap();
    assert_eq!(
        pairs(&asking),
        [("Host".to_owned(), "a".to_owned()), ("te".to_owned(), "trailers".to_owned())]
    );
    let written = Asking::with("GET", &asking, Length::Empty).written;
    assert_eq!(
        text(&written),
        "GET / HTTP/1.1\\r\\nHost: a\\r\\nte: trailers\\r\\nconnection: te\\r\\n\\r\\n"
    );
    let mut trailers = Fields::default();
    trailers.append_named(b"X-MINE", b"3").unwrap();
    trailers.append_named(b"X-Other", b"4").unwrap();
    named.remove_from(&mut trailers);
    assert_eq!(pairs(&trailers), [("X-Other".to_owned(), "4".to_owned())]);
}

#[test]
fn connection_cannot_remove_a_field_that_frames_or_routes() {
    let mut fields = Fields::default();
    for (name, value) in
        [("Host", "a"), ("Content-Length", "3"), ("Connection", "host, content-length, , close")]
    {
        fields.append_named(name.as_bytes(), value.as_bytes()).unwrap();
    }
    assert!(remove_hop_by_hop(&mut fields).unwrap().is_empty());
    assert!(fields.has(Known::Host) && fields.has(Known::ContentLength) && !fields.has(Known::Connection));
}
