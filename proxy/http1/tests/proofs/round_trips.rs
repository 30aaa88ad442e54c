//! Tests for every framing that a message which is read, written and read again is unchanged.

use http::StatusCode;
use pillion_http1::{Fields, FromClient, FromUpstream, Length, Limits, RequestHead, ResponseHead, Server};
use proptest::prelude::*;

use crate::corpus::{ANSWERS, REQUESTS, changed_answers, changed_requests};
use crate::drive::{Asking, Message, Served};

/// Names that a connection writes itself, and names of framing.
const OF_ONE_CONNECTION: [&str; 3] = ["connection", "transfer-encoding", "content-length"];

fn without_framing(mut message: Message) -> Message {
    message.fields.retain(|(name, value)| {
        let name = name.to_ascii_lowercase();
        let is_empty_host = name == "host" && value.is_empty(); // added to a request of HTTP/1.0 without a Host
        !is_empty_host && !OF_ONE_CONNECTION.contains(&&*name)
    });
    message
}

fn fields(pairs: &[(String, String)]) -> Fields {
    let mut fields = Fields::default();
    for (name, value) in pairs {
        let value: Vec<u8> = unescaped(value);
        fields.append_named(name.as_bytes(), &value).unwrap();
    }
    fields
}

/// The bytes of which `escape_ascii` made this text.
fn unescaped(text: &str) -> Vec<u8> {
    let (mut bytes, mut rest) = (Vec::new(), text.bytes());
    while let Some(byte) = rest.next() {
        match (byte, byte == b'\\') {
            (_, false) => bytes.push(byte),
            (_, true) => match rest.next().unwrap() {
                b't' => bytes.push(b'\t'),
                b'r' => bytes.push(b'\r'),
                b'n' => bytes.push(b'\n'),
                b'x' => {
                    let hex = [rest.next().unwrap(), rest.next().unwrap()];
                    bytes.push(u8::from_str_radix(std::str::from_utf8(&hex).unwrap(), 16).unwrap());
                }
                other => bytes.push(other),
            },
        }
    }
    bytes
}

fn first_head(bytes: &[u8]) -> RequestHead {
    let (mut server, mut rest) = (Server::new(), bytes);
    loop {
        match server.read(rest, &Limits::default()).unwrap() {
            (_, FromClient::Head(head)) => return head,
            (used, _) => rest = &rest[used..],
        }
    }
}

/// Forwards the first request of these bytes, with its content in pieces of `piece` bytes.
fn forwarded(bytes: &[u8], piece: usize) -> (Message, Message) {
    let read = Served::of(bytes).requests.remove(0);
    let head = first_head(bytes);
    let mut asking = Asking::default();
    let length = head.length;
    asking.client.write_head(&head.method, head.target(), &head.fields, length, &mut asking.written).unwrap();
    for data in read.content.chunks(piece) {
        let frame = asking.client.frame(data.len()).unwrap();
        for part in [frame.before(), data, frame.after()] {
            asking.written.extend_from_slice(part);
        }
    }
    let trailers = fields(&read.trailers);
    asking.client.finish(Some(&trailers), &mut asking.written).unwrap();
    assert!(asking.client.is_request_written());
    let served = Served::of(&asking.written);
    assert_eq!(served.fault, None, "{}", asking.written.escape_ascii());
    (without_framing(read), without_framing(served.requests.into_iter().next().unwrap()))
}

#[test]
fn a_forwarded_request_arrives_as_it_came() {
    for request in REQUESTS {
        for piece in [1, 3, 1000] {
            let (came, arrived) = forwarded(request.as_bytes(), piece);
            assert_eq!(came, arrived, "{request:?}");
        }
    }
}

/// The final head of an answer to GET.
fn answer_head(bytes: &[u8]) -> ResponseHead {
    let (mut asking, mut rest) = (Asking::new("GET"), bytes);
    loop {
        match asking.client.read(rest, &Limits::default()).unwrap() {
            (_, FromUpstream::Head(head)) => return head,
            (used, _) => rest = &rest[used..],
        }
    }
}

/// Forwards an answer to a client of this version.
fn passed_on(bytes: &[u8], version: &str, piece: usize) -> (Message, Message) {
    let mut first = Asking::answered("GET", bytes);
    first.end();
    let (read, head) = (first.answer.unwrap(), answer_head(bytes));
    let (mut server, mut out) = (Server::new(), Vec::new());
    server.read(format!("GET / HTTP/{version}\r\nHost: a\r\n\r\n").as_bytes(), &Limits::default()).unwrap();
    server.write_head(head.status, Some(head.reason()), &head.fields, head.length, &mut out).unwrap();
    for data in read.content.chunks(piece) {
        server.put(data, &mut out).unwrap();
    }
    let trailers = fields(&read.trailers);
    server.finish(Some(&trailers), &mut out).unwrap();
    let mut second = Asking::answered("GET", &out);
    assert_eq!(second.fault, None, "{}", out.escape_ascii());
    second.end();
    (without_framing(read), without_framing(second.answer.unwrap()))
}

#[test]
fn a_forwarded_answer_arrives_as_it_came_but_without_trailers_over_http_1_0() {
    for answer in ANSWERS {
        for piece in [1, 3, 1000] {
            let (came, arrived) = passed_on(answer.as_bytes(), "1.1", piece);
            assert_eq!(came, arrived, "{answer:?}");
            let (mut came, arrived) = passed_on(answer.as_bytes(), "1.0", piece);
            came.trailers.clear();
            assert_eq!(came, arrived, "{answer:?}");
        }
    }
}

#[test]
fn head_and_small_content_are_one_piece_of_bytes() {
    let (mut server, mut out) = (Server::new(), Vec::new());
    server.read(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", &Limits::default()).unwrap();
    server.write_head(StatusCode::OK, None, &Fields::default(), Length::Chunked, &mut out).unwrap();
    server.put(b"hello", &mut out).unwrap();
    server.finish(None, &mut out).unwrap();
    assert_eq!(out, b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n");
    let mut asking = Asking::with("POST", &Fields::default(), Length::Known(5));
    asking.client.put(b"hello", &mut asking.written).unwrap();
    assert_eq!(asking.written, b"POST / HTTP/1.1\r\nhost: \r\ncontent-length: 5\r\n\r\nhello");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_changed_request_that_is_accepted_arrives_as_it_came(bytes in changed_requests(3)) {
        if !Served::of(&bytes).requests.is_empty() {
            let (came, arrived) = forwarded(&bytes, 7);
            prop_assert_eq!(came, arrived);
        }
    }

    #[test]
    fn a_changed_answer_that_is_accepted_arrives_as_it_came(bytes in changed_answers(3)) {
        let mut asking = Asking::answered("GET", &bytes);
        if asking.fault.is_none() && asking.end() == pillion_http1::EndOfInput::Whole && asking.answer.is_some() {
            let (came, arrived) = passed_on(&bytes, "1.1", 7);
            prop_assert_eq!(came, arrived);
        }
    }
}
