//! RFC 9112, 8: what the end of a peer's bytes means, in every state.

use pillion_http1::{After, Ended};

use crate::drive::{Asking, Served};

#[test]
fn s8_a_client_that_ends_has_sent_a_whole_request_a_part_or_none() {
    let chunked = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    for (bytes, expected) in [
        ("", Ended::Idle),
        ("\r\n", Ended::Idle),
        ("\r\n\r", Ended::Idle),
        ("G", Ended::InHead),
        ("\r\nGET / HTTP/1.1\r\nHost: a\r\n", Ended::InHead),
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", Ended::Idle), // answered
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\nGET", Ended::InHead),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n", Ended::InContent),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nab", Ended::InContent),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", Ended::Idle),
        (chunked, Ended::InContent),
        (&format!("{chunked}3\r\nabc\r\n0\r\n"), Ended::InContent),
        (&format!("{chunked}3\r\nabc\r\n0\r\nX: y\r\n"), Ended::InContent),
        (&format!("{chunked}3\r\nabc\r\n0\r\n\r\n"), Ended::Idle),
    ] {
        assert_eq!(Served::of(bytes.as_bytes()).end(), expected, "{bytes:?}");
    }
}

#[test]
fn s8_a_client_that_ends_after_its_request_is_still_answered_and_then_the_connection_ends() {
    let (mut server, mut out) = (pillion_http1::Server::new(), Vec::new());
    server.read(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", &pillion_http1::Limits::default()).unwrap();
    assert_eq!(server.read_end(), Ended::Whole);
    let fields = pillion_http1::Fields::default();
    server
        .write_head(http::StatusCode::OK, None, &fields, pillion_http1::Length::Known(1), &mut out)
        .unwrap();
    assert!(out.ends_with(b"connection: close\r\n\r\n"));
    server.put(b"x", &mut out).unwrap();
    assert_eq!(server.after(), Some(After::Close));
}

#[test]
fn s8_an_upstream_that_ends_has_answered_wholly_in_part_or_not_at_all() {
    for (method, bytes, expected) in [
        ("GET", "", Ended::Unanswered),
        ("GET", "H", Ended::InHead),
        ("GET", "HTTP/1.1 200 OK\r\nX: y\r\n", Ended::InHead),
        ("GET", "HTTP/1.1 100 Continue\r\n\r\n", Ended::InHead),
        ("GET", "HTTP/1.1 200 OK\r\n\r\n", Ended::Whole),
        ("GET", "HTTP/1.0 200 OK\r\n\r\nabc", Ended::Whole),
        ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab", Ended::InContent),
        ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", Ended::Whole),
        ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", Ended::Whole),
        ("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", Ended::InContent),
        ("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n", Ended::InContent),
        ("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", Ended::Whole),
    ] {
        let mut asking = Asking::told(method, bytes);
        assert_eq!(asking.end(), expected, "{method} {bytes:?}");
        let is_whole = expected == Ended::Whole;
        assert_eq!(asking.client.after(), is_whole.then_some(After::Close), "{method} {bytes:?}");
    }
    assert_eq!(pillion_http1::Client::new().read_end(), Ended::Idle);
}
