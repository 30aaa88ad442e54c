//! RFC 9112, 2: messages.

use pillion_http1::{Fault, Limits};

use crate::drive::{Asking, Served, answer, request, status_of};

#[test]
fn s2_1_a_message_is_a_first_line_fields_an_empty_line_and_content() {
    let read = request("POST /a HTTP/1.1\r\nHost: b\r\nX-One: 1\r\nContent-Length: 3\r\n\r\nabc").unwrap();
    assert_eq!((&*read.first, &*read.host, &*read.content()), ("POST /a", "b", "abc"));
    let read = answer("GET", "HTTP/1.1 200 OK\r\nX-One: 1\r\nContent-Length: 3\r\n\r\nabc").unwrap();
    assert_eq!((&*read.first, read.field("x-one"), &*read.content()), ("200 OK", Some("1"), "abc"));
}

#[test]
fn s2_2_values_may_have_bytes_of_any_encoding() {
    let read = request(b"GET / HTTP/1.1\r\nHost: a\r\nX: \xe4\xff\xc3\xa4\r\n\r\n").unwrap();
    assert_eq!(read.field("x"), Some("\\xe4\\xff\\xc3\\xa4"));
}

#[test]
fn s2_2_a_few_empty_lines_before_a_request_are_ignored() {
    for count in [1, 2, 8] {
        let read = request(format!("{}GET / HTTP/1.1\r\nHost: a\r\n\r\n", "\r\n".repeat(count)));
        assert_eq!(read.unwrap().first, "GET /");
    }
    let many = format!("{}GET / HTTP/1.1\r\nHost: a\r\n\r\n", "\r\n".repeat(9));
    assert_eq!(request(many), Err(Fault::EmptyLines));
    // Empty lines are counted anew for each request.
    let each = format!("{}GET / HTTP/1.1\r\nHost: a\r\n\r\n", "\r\n".repeat(8)).repeat(3);
    assert_eq!(Served::of(each.as_bytes()).requests.len(), 3);
}

#[test]
fn s2_2_an_empty_line_before_an_answer_is_refused() {
    assert_eq!(answer("GET", "\r\nHTTP/1.1 200 OK\r\n\r\n"), Err(Fault::FirstLine));
}

#[test]
fn s2_2_a_line_that_has_cr_or_lf_alone_is_refused() {
    for (bytes, fault) in [
        ("\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", Fault::BareLineEnd),
        ("\rGET / HTTP/1.1\r\nHost: a\r\n\r\n", Fault::BareLineEnd),
        ("GET / HTTP/1.1\nHost: a\r\n\r\n", Fault::BareLineEnd),
        ("GET / HTTP/1.1\rHost: a\r\n\r\n", Fault::BareLineEnd),
        ("GET / HTTP/1.1\r\nHost: a\n\r\n", Fault::BareLineEnd),
        ("GET / HTTP/1.1\r\nHost: a\n\n", Fault::BareLineEnd),
        ("GET / HTTP/1.1\r\nHost: a\r\n\n", Fault::BareLineEnd),
        ("GET / HTTP/1.1\r\nHost: a\r\r\n\r\n", Fault::BareLineEnd),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n", Fault::BareLineEnd),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: a\nContent-Length: 5\r\n\r\n", Fault::BareLineEnd),
        ("GET / HTTP/1.1\r\n\rHost: a\r\n\r\n", Fault::BareLineEnd),
        ("GET /\n HTTP/1.1\r\nHost: a\r\n\r\n", Fault::FirstLine),
    ] {
        assert_eq!(request(bytes), Err(fault), "{bytes:?}");
        assert_eq!(status_of(fault), 400);
    }
    for bytes in ["HTTP/1.1 200 OK\n\n", "HTTP/1.1 200 O\rK\r\n\r\n", "HTTP/1.1 200 OK\r\nX: a\n\r\n"] {
        assert_eq!(answer("GET", bytes), Err(Fault::BareLineEnd), "{bytes:?}");
    }
}

#[test]
fn s2_2_white_space_between_the_first_line_and_the_fields_is_refused() {
    for bytes in ["GET / HTTP/1.1\r\n Host: a\r\n\r\n", "GET / HTTP/1.1\r\n\tX: b\r\nHost: a\r\n\r\n"] {
        assert_eq!(request(bytes), Err(Fault::Field), "{bytes:?}");
    }
}

#[test]
fn s2_2_bytes_that_are_not_http_are_refused_at_the_first_byte_that_shows_it() {
    for bytes in ["\x16\x03\x01\x02\0\x01", "<html>", "GET\t/", "GET / http/1.1", "GET / HTTP/3.0", "GET  /"]
    {
        assert!(Served::of(bytes.as_bytes()).fault.is_some(), "{bytes:?}");
    }
    for bytes in ["SSH-2.0-x\r\n", "\0", "HTTP/1.x"] {
        assert_eq!(Asking::answered("GET", bytes).fault, Some(Fault::FirstLine), "{bytes:?}");
    }
}

#[test]
fn s2_3_only_versions_1_0_and_1_1_are_read_and_only_in_upper_case() {
    for (version, fault) in [
        ("HTTP/2.0", Fault::Version),
        ("HTTP/3.0", Fault::Version),
        ("HTTP/1.2", Fault::Version),
        ("HTTP/0.9", Fault::Version),
        ("http/1.1", Fault::FirstLine),
        ("HTTP/1", Fault::FirstLine),
        ("HTTP/1.10", Fault::FirstLine),
        ("HTTP/11.1", Fault::FirstLine),
        ("HTTPS/1.1", Fault::FirstLine),
        ("HTTP /1.1", Fault::FirstLine),
        ("RTSP/1.0", Fault::FirstLine),
        ("HTTP/+.1", Fault::FirstLine),
    ] {
        assert_eq!(request(format!("GET / {version}\r\nHost: a\r\n\r\n")), Err(fault), "{version}");
        assert_eq!(status_of(fault), if fault == Fault::Version { 505 } else { 400 });
        assert_eq!(answer("GET", format!("{version} 200 OK\r\n\r\n")), Err(fault), "{version}");
    }
    assert_eq!(request("GET /\r\n\r\n"), Err(Fault::FirstLine), "HTTP/0.9 has no version");
}

#[test]
fn the_bytes_and_the_fields_of_a_head_have_limits() {
    let limits = Limits { head_bytes: 100, fields: 3, ..Limits::default() };
    let served = |text: &str| {
        let mut served = Served { limits, ..Served::default() };
        served.feed(text.as_bytes());
        (served.requests.len(), served.fault)
    };
    let head = |padding: usize| format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(padding));
    let fits = 100 - head(0).len();
    assert_eq!(served(&head(fits)), (1, None));
    assert_eq!(served(&head(fits + 1)), (0, Some(Fault::LargeHead)));
    assert_eq!(served(&format!("{}{}", head(fits), head(fits))), (2, None), "each has its own bound");
    assert_eq!(served(&"G".repeat(99)), (0, None));
    assert_eq!(served(&"G".repeat(100)), (0, Some(Fault::LargeHead)));
    assert_eq!(served("GET / HTTP/1.1\r\nHost: a\r\nA: 1\r\nB: 1\r\n\r\n"), (1, None));
    assert_eq!(
        served("GET / HTTP/1.1\r\nHost: a\r\nA: 1\r\nB: 1\r\nC: 1\r\n\r\n"),
        (0, Some(Fault::ManyFields))
    );
    assert_eq!((status_of(Fault::LargeHead), status_of(Fault::ManyFields)), (431, 431));
    let mut asking = Asking { limits, ..Asking::new("GET") };
    asking.feed(format!("HTTP/1.1 200 {}", "x".repeat(100)).as_bytes());
    assert_eq!(asking.fault, Some(Fault::LargeHead));
}
