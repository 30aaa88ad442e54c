//! RFC 9112, 6: where the content of a message ends.

use pillion_http1::{After, EndOfInput, Fault, Fields, Length, Limits, Server};

use crate::drive::{Asking, Served, answer, request, status_of};

#[test]
fn s6_1_the_only_coding_that_is_accepted_is_a_single_chunked() {
    for (lines, fault, status) in [
        (&["gzip, chunked"][..], Fault::UnknownCoding, 501),
        (&["gzip", "chunked"], Fault::UnknownCoding, 501),
        (&["identity, chunked"], Fault::UnknownCoding, 501),
        (&["gzip"], Fault::MisplacedChunked, 400),
        (&["identity"], Fault::MisplacedChunked, 400),
        (&[""], Fault::MisplacedChunked, 400),
        (&["chunked,"], Fault::MisplacedChunked, 400),
        (&[", chunked"], Fault::MisplacedChunked, 400),
        (&["", "chunked"], Fault::MisplacedChunked, 400),
        (&["chunked, gzip"], Fault::MisplacedChunked, 400),
        (&["chunked", "identity"], Fault::MisplacedChunked, 400),
        (&["chunked, chunked"], Fault::MisplacedChunked, 400),
        (&["chunked", "chunked"], Fault::MisplacedChunked, 400),
        (&["chunked;q=1"], Fault::MisplacedChunked, 400),
        (&["xchunked"], Fault::MisplacedChunked, 400),
        (&["\"chunked\""], Fault::MisplacedChunked, 400),
        (&["chunked\u{b}"], Fault::Field, 400),
    ] {
        let lines: String = lines.iter().map(|line| format!("Transfer-Encoding: {line}\r\n")).collect();
        let asked = request(format!("POST / HTTP/1.1\r\nHost: a\r\n{lines}\r\n0\r\n\r\n"));
        assert_eq!((asked, status_of(fault)), (Err(fault), status), "{lines:?}");
        assert_eq!(
            answer("GET", format!("HTTP/1.1 200 OK\r\n{lines}\r\n0\r\n\r\n")),
            Err(fault),
            "{lines:?}"
        );
    }
    for line in [
        "Transfer-Encoding: chunked",
        "transfer-encoding:CHUNKED",
        "TRANSFER-ENCODING:  chunked ",
        "Transfer-Encoding:\tChunked\t",
    ] {
        let asked = request(format!("POST / HTTP/1.1\r\nHost: a\r\n{line}\r\n\r\n1\r\nx\r\n0\r\n\r\n"));
        assert_eq!(asked.unwrap().content(), "x", "{line:?}");
    }
}

#[test]
fn s6_1_http_1_0_has_no_transfer_coding() {
    let asked = request("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n");
    assert_eq!(asked, Err(Fault::CodingNotAllowed));
    assert_eq!(
        answer("GET", "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        Err(Fault::CodingNotAllowed)
    );
}

#[test]
fn s6_1_no_coding_is_written_to_http_1_0_nor_in_a_204_or_an_interim_answer() {
    let written = |version: &str, status: u16| {
        let (mut server, mut out, mut fields) = (Server::new(), Vec::new(), Fields::default());
        fields.append_named(b"Transfer-Encoding", b"chunked").unwrap();
        fields.append_named(b"Content-Length", b"3").unwrap();
        server
            .read(format!("GET / HTTP/{version}\r\nHost: a\r\n\r\n").as_bytes(), &Limits::default())
            .unwrap();
        let status = http::StatusCode::from_u16(status).unwrap();
        if status.is_informational() {
            server.write_interim(status, &fields, &mut out).unwrap();
        } else {
            server.write_head(status, None, &fields, Length::Chunked, &mut out).unwrap();
        }
        String::from_utf8(out).unwrap()
    };
    assert_eq!(written("1.1", 200), "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
    assert_eq!(written("1.0", 200), "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n");
    assert_eq!(written("1.1", 204), "HTTP/1.1 204 No Content\r\n\r\n");
    assert_eq!(written("1.1", 103), "HTTP/1.1 103 Early Hints\r\n\r\n");
    assert_eq!(written("1.0", 103), "");
    assert_eq!(written("1.1", 304), "HTTP/1.1 304 Not Modified\r\nContent-Length: 3\r\n\r\n");
}

#[test]
fn s6_2_a_length_that_is_not_a_single_number_is_refused() {
    for (lines, expected) in [
        (&["3"][..], Some("3")),
        (&["03"], Some("3")),
        (&["3", "3"], Some("3")),
        (&["3", "03"], Some("3")),
        (&[""], None),
        (&["3,"], None),
        (&["3, 3"], None),
        (&["3,3"], None),
        (&["3", ""], None),
        (&["3", "4"], None),
        (&["3, 4"], None),
        (&["+3"], None),
        (&["-3"], None),
        (&["0x3"], None),
        (&["3 3"], None),
        (&["3.0"], None),
        (&["3;a"], None),
        (&["\u{663}"], None),
        (&["18446744073709551616"], None),
    ] {
        let lines: String = lines.iter().map(|line| format!("Content-Length: {line}\r\n")).collect();
        let asked = request(format!("POST / HTTP/1.1\r\nHost: a\r\n{lines}\r\nabc"));
        let answered = answer("GET", format!("HTTP/1.1 200 OK\r\n{lines}\r\nabc"));
        for read in [asked, answered] {
            let found = read.map(|read| {
                assert_eq!(read.content(), "abc");
                assert_eq!(read.fields.iter().filter(|(name, _)| name == "Content-Length").count(), 1);
                read.field("content-length").unwrap().to_owned()
            });
            assert_eq!(found, expected.map(str::to_owned).ok_or(Fault::MalformedLength), "{lines:?}");
        }
    }
}

#[test]
fn s6_3_rule_1_some_answers_end_with_their_head_even_if_they_announce_content() {
    for (method, head) in [
        ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n"),
        ("HEAD", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n"),
        ("HEAD", "HTTP/1.1 404 x\r\n"),
        ("GET", "HTTP/1.1 204 x\r\nContent-Length: 5\r\n"),
        ("GET", "HTTP/1.1 204 x\r\nTransfer-Encoding: chunked\r\n"),
        ("GET", "HTTP/1.1 304 x\r\nContent-Length: 5\r\n"),
        ("GET", "HTTP/1.1 304 x\r\n"),
    ] {
        let mut asking = Asking::answered(method, format!("{head}\r\n"));
        assert!(asking.is_whole, "{method} {head:?}");
        assert_eq!(asking.client.after(), Some(After::Next), "{method} {head:?}");
        let length = asking.answer.take().unwrap().field("content-length").map(str::to_owned);
        let is_kept = head.contains("Content-Length") && !head.contains("204");
        assert_eq!(length, is_kept.then(|| "5".to_owned()), "{head:?}");
    }
    // A 205 is framed like any other answer (RFC 9110, 15.3.6).
    assert_eq!(
        Asking::answered("GET", "HTTP/1.1 205 x\r\nContent-Length: 0\r\n\r\n").length,
        Some(Length::Known(0))
    );
    assert_eq!(Asking::answered("GET", "HTTP/1.1 205 x\r\n\r\n").length, Some(Length::UntilClose));
}

#[test]
fn s6_3_rule_2_an_answer_that_opens_a_tunnel_has_no_length() {
    for head in
        ["HTTP/1.1 200 OK\r\n", "HTTP/1.1 299 x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n"]
    {
        let asking = Asking::answered("CONNECT", format!("{head}\r\nopaque"));
        assert!(asking.is_switched);
        assert_eq!(asking.answer.unwrap().fields, []);
        assert_eq!((asking.client.after(), &asking.buffer[..]), (Some(After::Opaque), &b"opaque"[..]));
    }
    let refused = Asking::answered("CONNECT", "HTTP/1.1 407 x\r\nContent-Length: 2\r\n\r\nno");
    assert_eq!((refused.is_switched, refused.client.after()), (false, Some(After::Next)));
}

#[test]
fn s6_3_rule_3_a_request_with_both_lengths_is_refused() {
    for lines in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 0\r\n",
    ] {
        let asked = request(format!("POST / HTTP/1.1\r\nHost: a\r\n{lines}\r\n0\r\n\r\n"));
        assert_eq!(asked, Err(Fault::TwoLengths));
    }
    assert_eq!(status_of(Fault::TwoLengths), 400);
}

#[test]
fn b15_s6_3_rule_3_in_an_answer_chunked_wins_the_length_goes_and_the_connection_ends() {
    let asking = Asking::answered(
        "GET",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    );
    assert_eq!(asking.client.after(), Some(After::Close));
    let read = asking.answer.unwrap();
    assert_eq!((&*read.content(), read.field("content-length")), ("abc", None));
}

#[test]
fn s6_3_rule_4_an_unknown_coding_is_refused_and_not_read_until_close() {
    assert_eq!(
        answer("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nabc"),
        Err(Fault::MisplacedChunked)
    );
}

#[test]
fn s6_3_rule_6_a_length_counts_bytes_and_what_follows_is_the_next_message() {
    let served = Served::of(
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabcGET /b HTTP/1.1\r\nHost: a\r\n\r\n",
    );
    let found: Vec<_> = served.requests.iter().map(|read| (&*read.first, read.content())).collect();
    assert_eq!(found, [("POST /", "abc".to_owned()), ("GET /b", String::new())]);
}

#[test]
fn s6_3_rule_7_a_request_without_a_length_has_no_content() {
    assert_eq!(
        Served::of(b"POST / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n").requests.len(),
        2
    );
}

#[test]
fn s6_3_rule_8_an_answer_without_a_length_lasts_until_its_connection_ends() {
    let mut asking = Asking::answered("GET", "HTTP/1.1 200 OK\r\n\r\nabc");
    assert_eq!((asking.is_whole, asking.client.after()), (false, None));
    assert_eq!(asking.end(), EndOfInput::Whole);
    assert_eq!((asking.client.after(), &*asking.answer.unwrap().content()), (Some(After::Close), "abc"));
}

#[test]
fn a_connect_that_announces_content_is_refused() {
    for lines in ["Content-Length: 5\r\n", "Transfer-Encoding: chunked\r\n"] {
        assert_eq!(
            request(format!("CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n{lines}\r\n")),
            Err(Fault::ContentOfConnect)
        );
    }
    assert!(request("CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\nContent-Length: 0\r\n\r\n").is_ok());
}
