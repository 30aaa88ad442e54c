//! RFC 9112, 4: the first line of an answer.

use pillion_http1::{Fault, Fields, Length, Limits, Misuse, Server};

use crate::drive::answer;

#[test]
fn s4_a_status_line_is_version_code_and_reason() {
    for (line, expected) in [
        ("HTTP/1.1 200 OK", Ok("200 OK")),
        ("HTTP/1.0 404 Not Found", Ok("404 Not Found")),
        ("HTTP/1.1 200 ", Ok("200 ")),
        ("HTTP/1.1 200", Ok("200 ")), // many servers leave out the blank if there is no reason
        ("HTTP/1.1 599 a\tb  c", Ok("599 a\\tb  c")),
        ("HTTP/1.1 999 x", Ok("999 x")),
        ("HTTP/1.1 099 x", Err(Fault::FirstLine)),
        ("HTTP/1.1 20 x", Err(Fault::FirstLine)),
        ("HTTP/1.1 2000 x", Err(Fault::FirstLine)),
        ("HTTP/1.1 +20 x", Err(Fault::FirstLine)),
        ("HTTP/1.1  200 OK", Err(Fault::FirstLine)),
        ("HTTP/1.1\t200 OK", Err(Fault::FirstLine)),
        ("HTTP/1.1 200\tOK", Err(Fault::FirstLine)),
        ("HTTP/1.1 200 a\0b", Err(Fault::FirstLine)),
        ("ICY 200 OK", Err(Fault::FirstLine)),
    ] {
        let read = answer("GET", format!("{line}\r\nContent-Length: 0\r\n\r\n")).map(|read| read.first);
        assert_eq!(read, expected.map(str::to_owned), "{line:?}");
    }
}

#[test]
fn s4_the_reason_of_an_answer_is_forwarded_and_without_one_the_usual_one_is_written() {
    for (reason, expected) in [
        (None, "HTTP/1.1 404 Not Found\r\n"),
        (Some(&b"Gone fishing"[..]), "HTTP/1.1 404 Gone fishing\r\n"),
        (Some(b""), "HTTP/1.1 404 \r\n"),
    ] {
        let (mut server, mut out) = (Server::new(), Vec::new());
        server.read(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", &Limits::default()).unwrap();
        server
            .write_head(http::StatusCode::NOT_FOUND, reason, &Fields::default(), Length::Empty, &mut out)
            .unwrap();
        assert!(out.starts_with(expected.as_bytes()), "{}", out.escape_ascii());
    }
    let (mut server, mut out) = (Server::new(), Vec::new());
    server.read(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", &Limits::default()).unwrap();
    let split = server.write_head(
        http::StatusCode::OK,
        Some(b"a\r\nX: y"),
        &Fields::default(),
        Length::Empty,
        &mut out,
    );
    assert_eq!((split, out.len()), (Err(Misuse::IllegalField), 0));
}
