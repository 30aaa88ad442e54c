//! RFC 9112, 3: the first line of a request, its target, and its host.

use pillion_http1::{Client, Fault, Fields, Form, FromClient, Length, Limits, Misuse, RequestHead, Server};

use crate::drive::{request, status_of};

fn head(line: &str, host: &str) -> Result<RequestHead, Fault> {
    let text = format!("{line}\r\nHost: {host}\r\n\r\n");
    match Server::new().read(text.as_bytes(), &Limits::default()) {
        Ok((_, FromClient::Head(head))) => Ok(head),
        Err(pillion_http1::Error::Request(fault)) => Err(fault),
        other => panic!("{line:?}: {other:?}"),
    }
}

#[test]
fn s3_the_parts_of_a_request_line_have_one_blank_between_them() {
    for line in [
        "GET  / HTTP/1.1",
        "GET /  HTTP/1.1",
        "GET / HTTP/1.1 ",
        " GET / HTTP/1.1",
        "GET\t/ HTTP/1.1",
        "GET /\tHTTP/1.1",
        "GET /",
    ] {
        let fault = head(line, "a").unwrap_err();
        assert_eq!(status_of(fault), 400, "{line:?}");
    }
}

#[test]
fn s3_1_a_method_is_a_token_and_its_case_counts() {
    for method in ["GET", "get", "M-SEARCH", "PURGE", "X_Y", "!#$%&'*+-.^_`|~09"] {
        assert_eq!(head(&format!("{method} / HTTP/1.1"), "a").unwrap().method.as_str(), method);
    }
    for method in ["G(ET", "G\0ET", "GE\u{e4}T", "G/ET", "\"GET\"", "GET:", ""] {
        assert_eq!(head(&format!("{method} / HTTP/1.1"), "a").unwrap_err(), Fault::Method, "{method:?}");
    }
}

#[test]
fn s3_2_a_target_holds_no_blank_no_control_and_no_fragment() {
    for target in ["/a b", "/a\0", "/a\x7f", "/a#b", "/<a>", "/a`", "/a\x0b", "a", "?a", "", "//\t"] {
        let fault = head(&format!("GET {target} HTTP/1.1"), "a").unwrap_err();
        assert!(matches!(fault, Fault::Target | Fault::FirstLine), "{target:?}: {fault}");
    }
    for target in ["/", "/a?b=c&d", "//a", "/%00", "/a|b", "/{a}", "/a\"b", "/a\\b", "/\u{e4}", "/[a]"] {
        let head = head(&format!("GET {target} HTTP/1.1"), "a").unwrap();
        assert_eq!(head.target(), target);
        assert!(head.target().parse::<http::Uri>().is_ok(), "{target:?} is a target for the crate http too");
    }
    let bytes = b"GET /\xe4 HTTP/1.1\r\nHost: a\r\n\r\n";
    assert_eq!(request(bytes), Err(Fault::Target), "a URI is UTF-8");
}

#[test]
fn s3_2_a_request_has_exactly_one_valid_host() {
    for (version, hosts, expected) in [
        ("1.1", &["a"][..], Ok("a")),
        ("1.1", &[""], Ok("")),
        ("1.1", &["a:80"], Ok("a:80")),
        ("1.1", &["[::1]:80"], Ok("[::1]:80")),
        ("1.1", &[], Err(Fault::Host)),
        ("1.0", &[], Ok("")),
        ("1.0", &["a"], Ok("a")),
        ("1.0", &["a", "a"], Err(Fault::Host)),
        ("1.1", &["a", "b"], Err(Fault::Host)),
        ("1.1", &["a", "a"], Err(Fault::Host)),
        ("1.1", &["a b"], Err(Fault::Host)),
        ("1.1", &["a/b"], Err(Fault::Host)),
        ("1.1", &["a@b"], Err(Fault::Host)),
        ("1.1", &["a:b"], Err(Fault::Host)),
        ("1.1", &["a:99999"], Err(Fault::Host)),
        ("1.1", &["http://a"], Err(Fault::Host)),
    ] {
        let lines: String = hosts.iter().map(|host| format!("hOsT: {host}\r\n")).collect();
        let read = request(format!("GET / HTTP/{version}\r\n{lines}\r\n")).map(|read| read.host);
        assert_eq!(read, expected.map(str::to_owned), "{version} {hosts:?}");
    }
}

#[test]
fn s3_2_1_origin_form_is_forwarded_unchanged() {
    let head = head("GET /a?b HTTP/1.1", "c").unwrap();
    assert_eq!((head.form, &*head.origin_target(), head.authority()), (Form::Origin, "/a?b", "c"));
}

#[test]
fn s3_2_2_the_host_of_an_absolute_form_goes_before_the_host_field() {
    for (target, authority, origin) in [
        ("http://a/b", "a", "/b"),
        ("HTTP://a:80/b?c", "a:80", "/b?c"),
        ("https://a", "a", "/"),
        ("http://a?b", "a", "/?b"),
        ("http://[::1]:8/", "[::1]:8", "/"),
        ("ws://a/b", "a", "/b"),
    ] {
        let head = head(&format!("GET {target} HTTP/1.1"), "other").unwrap();
        assert_eq!(
            (head.form, head.authority(), &*head.origin_target()),
            (Form::Absolute, authority, origin),
            "{target}"
        );
        assert!(target.parse::<http::Uri>().is_ok());
    }
    for target in [
        "http://",
        "http:///a",
        "http://u@a/",
        "http://u:p@a/",
        "http:/a",
        "http:a",
        "1http://a",
        "://a",
        "http://a:b/",
        "a:80",
        "http://a%41/",
    ] {
        assert_eq!(head(&format!("GET {target} HTTP/1.1"), "a").unwrap_err(), Fault::Target, "{target}");
    }
    // It must still have a Host (3.2), and that one must be valid.
    assert_eq!(request("GET http://a/ HTTP/1.1\r\n\r\n"), Err(Fault::Host));
}

#[test]
fn s3_2_3_authority_form_is_for_connect_alone_and_has_a_port() {
    for (line, expected) in [
        ("CONNECT a:443 HTTP/1.1", Ok("a:443")),
        ("CONNECT [::1]:443 HTTP/1.1", Ok("[::1]:443")),
        ("CONNECT a HTTP/1.1", Err(Fault::Target)),
        ("CONNECT a: HTTP/1.1", Err(Fault::Target)),
        ("CONNECT :443 HTTP/1.1", Err(Fault::Target)),
        ("CONNECT a:0x1 HTTP/1.1", Err(Fault::Target)),
        ("CONNECT a:65536 HTTP/1.1", Err(Fault::Target)),
        ("CONNECT u@a:443 HTTP/1.1", Err(Fault::Target)),
        ("CONNECT / HTTP/1.1", Err(Fault::Target)),
        ("CONNECT http://a:443/ HTTP/1.1", Err(Fault::Target)),
        ("GET a:443 HTTP/1.1", Err(Fault::Target)),
    ] {
        let read = head(line, "other");
        assert_eq!(read.map(|head| head.authority().to_owned()), expected.map(str::to_owned), "{line}");
    }
}

#[test]
fn s3_2_4_an_asterisk_is_for_options_alone() {
    let star = head("OPTIONS * HTTP/1.1", "a").unwrap();
    assert_eq!((star.form, &*star.origin_target(), star.authority()), (Form::Asterisk, "*", "a"));
    assert_eq!(head("GET * HTTP/1.1", "a").unwrap_err(), Fault::Target);
    assert_eq!(head("OPTIONS ** HTTP/1.1", "a").unwrap_err(), Fault::Target);
    // The last proxy turns an absolute form without a path into an asterisk.
    assert_eq!(head("OPTIONS http://a:8001 HTTP/1.1", "b").unwrap().origin_target(), "*");
    assert_eq!(head("OPTIONS http://a/ HTTP/1.1", "b").unwrap().origin_target(), "/");
}

#[test]
fn s3_a_target_with_a_byte_that_no_target_may_have_is_not_written() {
    let mut out = Vec::new();
    for target in ["", "/a b", "/\r\nX: y", "/\0", "/\x7f"] {
        let written =
            Client::new().write_head(&http::Method::GET, target, &Fields::default(), Length::Empty, &mut out);
        assert_eq!((written, out.len()), (Err(Misuse::IllegalTarget), 0), "{target:?}");
    }
}

#[test]
fn s3_2_a_request_is_written_with_one_host_which_is_empty_if_the_fields_have_none() {
    let written = |hosts: usize| {
        let (mut fields, mut out) = (Fields::default(), Vec::new());
        (0..hosts).for_each(|_| fields.append_named(b"Host", b"a").unwrap());
        let written = Client::new().write_head(&http::Method::GET, "/", &fields, Length::Empty, &mut out);
        written.map(|()| String::from_utf8(out).unwrap())
    };
    assert_eq!(written(0).unwrap(), "GET / HTTP/1.1\r\nhost: \r\n\r\n");
    assert_eq!(written(1).unwrap(), "GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(written(2), Err(Misuse::Hosts));
}
