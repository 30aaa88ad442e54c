//! RFC 9112, 8: what the end of a peer's bytes means, in every state.

use pillion_http1::{After, EndOfInput};

use crate::drive::{Asking, Served};

#[test]
fn s8_the_end_of_a_clients_bytes_comes_after_a_whole_request_a_part_of_one_or_none() {
    let chunked = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    for (bytes, expected) in [
        ("", EndOfInput::Idle),
        ("\r\n", EndOfInput::Idle),
        ("\r\n\r", EndOfInput::Idle),
        ("G", EndOfInput::InHead),
        ("\r\nGET / HTTP/1.1\r\nHost: a\r\n", EndOfInput::InHead),
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", EndOfInput::Idle), // answered
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\nGET", EndOfInput::InHead),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n", EndOfInput::InContent),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nab", EndOfInput::InContent),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", EndOfInput::Idle),
        (chunked, EndOfInput::InContent),
        (&format!("{chunked}3\r\nabc\r\n0\r\n"), EndOfInput::InContent),
        (&format!("{chunked}3\r\nabc\r\n0\r\nX: y\r\n"), EndOfInput::InContent),
        (&format!("{chunked}3\r\nabc\r\n0\r\n\r\n"), EndOfInput::Idle),
    ] {
        assert_eq!(Served::of(bytes.as_bytes()).end(), expected, "{bytes:?}");
    }
}

#[test]
fn s8_a_client_that_ends_after_its_request_is_still_answered_and_then_the_connection_ends() {
    let (mut server, mut out) = (pillion_http1::Server::new(), Vec::new());
    server.read(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", &pillion_http1::Limits::default()).unwrap();
    assert_eq!(server.read_end(), EndOfInput::Whole);
    let fields = pillion_http1::Fields::default();
    server
        .write_head(http::StatusCode::OK, None, &fields, pillion_http1::Length::Known(1), &mut out)
        .unwrap();
    assert!(out.ends_with(b"connection: close\r\n\r\n"));
    server.put(b"x", &mut out).unwrap();
    assert_eq!(server.after(), Some(After::Close));
}

#[test]
fn s8_the_end_of_an_upstreams_bytes_comes_after_a_whole_answer_a_part_of_one_or_none() {
    for (method, bytes, expected) in [
        ("GET", "", EndOfInput::Unanswered),
        ("GET", "H", EndOfInput::InHead),
        ("GET", "HTTP/1.1 200 OK\r\nX: y\r\n", EndOfInput::InHead),
        ("GET", "HTTP/1.1 100 Continue\r\n\r\n", EndOfInput::InHead),
        ("GET", "HTTP/1.1 200 OK\r\n\r\n", EndOfInput::Whole),
        ("GET", "HTTP/1.0 200 OK\r\n\r\nabc", EndOfInput::Whole),
        ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab", EndOfInput::InContent),
        ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", EndOfInput::Whole),
        ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", EndOfInput::Whole),
        ("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", EndOfInput::InContent),
        (
            "GET",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n",
            EndOfInput::InContent,
        ),
        (
            "GET",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
            EndOfInput::Whole,
        ),
    ] {
        let mut asking = Asking::answered(method, bytes);
        assert_eq!(asking.end(), expected, "{method} {bytes:?}");
        let is_whole = expected == EndOfInput::Whole;
        assert_eq!(asking.client.after(), is_whole.then_some(After::Close), "{method} {bytes:?}");
    }
    assert_eq!(pillion_http1::Client::new().read_end(), EndOfInput::Idle);
}
