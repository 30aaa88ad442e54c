//! RFC 9112, 5: field lines.

use pillion_http1::{Fault, Fields, FromClient, Known, Limits, RequestHead, Server, Value};

use crate::drive::{answer, pairs, request, status_of};

fn head(lines: &str) -> RequestHead {
    let text = format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n");
    match Server::new().read(text.as_bytes(), &Limits::default()) {
        Ok((_, FromClient::Head(head))) => head,
        other => panic!("{lines:?}: {other:?}"),
    }
}

fn fault(lines: &str) -> Fault {
    let fault = request(format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n")).unwrap_err();
    assert_eq!(answer("GET", format!("HTTP/1.1 200 OK\r\nx: y\r\n{lines}\r\n")), Err(fault), "{lines:?}");
    assert_eq!(status_of(fault), 400);
    fault
}

#[test]
fn s5_the_blanks_around_a_value_are_not_a_part_of_it() {
    for (line, value) in [
        ("X:a", "a"),
        ("X: a", "a"),
        ("X:\t a \t", "a"),
        ("X:", ""),
        ("X: ", ""),
        ("X:  \t", ""),
        ("X: a b\tc", "a b\\tc"),
        ("X: a:b", "a:b"),
    ] {
        let read = head(&format!("{line}\r\n"));
        assert_eq!(pairs(&read.fields)[1], ("X".to_owned(), value.to_owned()), "{line:?}");
    }
}

#[test]
fn s5_a_name_is_a_token_in_any_case_and_keeps_it() {
    let read = head("X-oNe: 1\r\nacCept: 2\r\n!#$%&'*+-.^_`|~: 3\r\n");
    assert_eq!(read.fields.get(Known::Accept), Some(&b"2"[..]));
    assert_eq!(read.fields.find("x-one"), Some(&b"1"[..]));
    assert_eq!(pairs(&read.fields)[2].0, "acCept");
    for line in [
        ": a\r\n",
        "a b: c\r\n",
        "a(b: c\r\n",
        "a\0: c\r\n",
        "\u{e4}: c\r\n",
        "a\r\n",
        "a\x7f: b\r\n",
        "Transfer-Encoding\x0b: chunked\r\n",
    ] {
        assert_eq!(fault(line), Fault::Field, "{line:?}");
    }
}

#[test]
fn s5_1_a_blank_before_a_colon_is_refused() {
    for line in [
        "X : a\r\n",
        "X\t: a\r\n",
        "Content-Length : 5\r\n",
        "Transfer-Encoding : chunked\r\n",
        "Host : b\r\n",
    ] {
        assert_eq!(fault(line), Fault::Field, "{line:?}");
    }
}

#[test]
fn s5_2_a_folded_line_is_refused() {
    for line in ["X: a\r\n b\r\n", "X: a\r\n\tb\r\n", "X: a\r\n \r\n", "X:\r\n chunked\r\n"] {
        assert_eq!(fault(line), Fault::Field, "{line:?}");
    }
}

#[test]
fn s5_a_value_may_have_no_control_character_except_a_tab() {
    for byte in (0..=31_u8).chain([127]).filter(|byte| !b"\t\r\n".contains(byte)) {
        let line = format!("X: a{}b\r\n", char::from(byte));
        assert_eq!(fault(&line), Fault::Field, "{line:?}");
    }
}

fn written(fields: &Fields) -> String {
    let mut out = Vec::new();
    let mut client = pillion_http1::Client::new();
    client.write_head(&http::Method::GET, "/", fields, pillion_http1::Length::Empty, &mut out).unwrap();
    let text = String::from_utf8(out).unwrap();
    text.strip_prefix("GET / HTTP/1.1\r\n").unwrap().strip_suffix("\r\n").unwrap().to_owned()
}

#[test]
fn fields_are_written_as_they_came_but_with_one_blank_before_the_value() {
    let lines = "X-One: 1\r\nsoapACTION: \"x\"\r\nx-one: 2\r\n";
    assert_eq!(written(&head(lines).fields), format!("Host: a\r\n{lines}"));
    assert_eq!(
        written(&head("A:1\r\nB:  2\r\nC: 3 \r\nD:\r\nE: 5\r\n").fields),
        "Host: a\r\nA: 1\r\nB: 2\r\nC: 3\r\nD: \r\nE: 5\r\n"
    );
}

#[test]
fn a_field_that_is_set_keeps_its_place_and_its_spelling() {
    let mut fields =
        head("X-REQUEST-ID: 1\r\nX: 1\r\nx-request-id: 2\r\nAccept: a\r\nX-Forwarded-For: b\r\n").fields;
    fields.set(Known::XRequestId, b"3").unwrap();
    fields.set(Known::XForwardedProto, b"http").unwrap();
    fields.append(Known::XForwardedFor, b"c").unwrap();
    assert!(fields.remove(Known::Accept) && !fields.remove(Known::Accept));
    assert!(!fields.has(Known::Accept) && fields.has_several(Known::XForwardedFor));
    assert_eq!(
        written(&fields),
        "Host: a\r\nX-REQUEST-ID: 3\r\nX: 1\r\nX-Forwarded-For: b\r\nx-forwarded-proto: http\r\nx-forwarded-for: c\r\n"
    );
    assert!(fields.remove_where(|_, name| name.eq_ignore_ascii_case(b"x-forwarded-for")));
    fields.set(Known::XRequestId, b"4").unwrap();
    assert_eq!(written(&fields), "Host: a\r\nX-REQUEST-ID: 4\r\nX: 1\r\nx-forwarded-proto: http\r\n");
    assert_eq!((fields.len(), fields.get(Known::XForwardedFor)), (4, None));
}

#[test]
fn a_value_that_was_checked_before_is_set_and_read_like_any_other() {
    use http::HeaderValue;

    let value_of = |fields: &Fields, name| Some(fields.value_of(name)?.as_str()?.to_owned());
    let mut fields = head("X-REQUEST-ID: 1\r\nx-request-id: 2\r\n").fields;
    assert_eq!(value_of(&fields, Known::Host).unwrap(), "a");
    assert_eq!(value_of(&fields, Known::Te), None);
    fields.set_value(Known::XRequestId, &Value::of_text(b"3").unwrap()).unwrap();
    fields.set_map_value(Known::XForwardedProto, &HeaderValue::from_static("http")).unwrap();
    assert_eq!(value_of(&fields, Known::XRequestId).unwrap(), "3");
    assert_eq!(value_of(&fields, Known::XForwardedProto).unwrap(), "http");
    fields.remove(Known::XForwardedProto);
    assert_eq!(value_of(&fields, Known::XForwardedProto), None);
    fields.set_map_value(Known::XForwardedProto, &HeaderValue::from_static("https")).unwrap();
    let all: Vec<_> = fields.iter().collect();
    let expected: [(&[u8], &[u8]); 3] =
        [(b"Host", b"a"), (b"X-REQUEST-ID", b"3"), (b"x-forwarded-proto", b"https")];
    assert_eq!(all, expected);
}
