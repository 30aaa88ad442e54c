//! RFC 9112, 9: how connections persist and end; also `Expect`, interim answers and tunnels of RFC 9110.

use http::StatusCode;
use pillion_http1::{
    After, Client, Error, Fault, Fields, FromClient, FromUpstream, Length, Limits, Misuse, Server,
};

use crate::drive::{Asking, Served, text};

const LIMITS: Limits = Limits { head_bytes: 64 * 1024, fields: 100, trailer_bytes: 16 * 1024 };

/// A server that has read these bytes.
fn reading(bytes: &str) -> Server {
    let (mut server, mut rest) = (Server::new(), bytes.as_bytes());
    loop {
        let (used, event) = server.read(rest, &LIMITS).unwrap();
        rest = &rest[used..];
        match event {
            FromClient::Data(length) => rest = &rest[length..],
            FromClient::More | FromClient::End => return server,
            FromClient::Head(head) if head.length.is_empty() => return server,
            _ => {}
        }
    }
}

fn answered(server: &mut Server, status: u16, length: Length) -> String {
    let mut out = Vec::new();
    let status = StatusCode::from_u16(status).unwrap();
    server.write_head(status, None, &Fields::default(), length, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn s9_2_bytes_of_an_upstream_without_a_request_end_the_connection() {
    let unasked = |client: &mut Client| match client.read(b"HTTP/1.1 408 x\r\n\r\n", &LIMITS) {
        Err(Error::Answer(fault)) => fault,
        other => panic!("{other:?}"),
    };
    assert_eq!(unasked(&mut Client::new()), Fault::Unasked);
    let mut asking =
        Asking::answered("GET", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nxHTTP/1.1 200 OK\r\n");
    assert!(asking.is_whole);
    assert_eq!(unasked(&mut asking.client), Fault::Unasked);
    assert_eq!(asking.client.after(), Some(After::Close), "the answer before them is complete");
}

#[test]
fn s9_3_a_connection_persists_by_version_and_option() {
    for (version, option, persists) in [
        ("1.1", "", true),
        ("1.1", "Connection: close\r\n", false),
        ("1.1", "Connection: x, CLOSE\r\n", false),
        ("1.1", "Connection: x\r\nconnection: close\r\n", false),
        ("1.1", "Connection: keep-alive\r\n", true),
        ("1.1", "Connection: keep-alive, close\r\n", false),
        ("1.0", "", false),
        ("1.0", "Connection: keep-alive\r\n", true),
        ("1.0", "Connection: keep-alive, close\r\n", false),
        ("1.0", "Keep-Alive: 5\r\n", false),
        ("1.1", "Proxy-Connection: close\r\n", true),
    ] {
        let mut server = reading(&format!("GET / HTTP/{version}\r\nHost: a\r\n{option}\r\n"));
        let head = answered(&mut server, 200, Length::Empty);
        let expected = match (persists, version) {
            (false, _) => "connection: close\r\n",
            (true, "1.0") => "connection: keep-alive\r\n",
            _ => "",
        };
        assert_eq!(
            head,
            format!("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n{expected}\r\n"),
            "{version} {option:?}"
        );
        assert_eq!(server.after(), Some(if persists { After::Next } else { After::Linger }));
        let asking =
            Asking::answered("GET", format!("HTTP/{version} 200 OK\r\nContent-Length: 0\r\n{option}\r\n"));
        assert_eq!(
            asking.client.after(),
            Some(if persists { After::Next } else { After::Close }),
            "{version} {option:?}"
        );
    }
}

#[test]
fn s9_3_2_pipelined_requests_wait_until_the_one_before_is_answered() {
    let two = "GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut server = Server::new();
    let (used, _) = server.read(two.as_bytes(), &LIMITS).unwrap();
    let rest = &two.as_bytes()[used..];
    assert!(
        matches!(server.read(rest, &LIMITS), Ok((0, FromClient::More))),
        "what is left stays with the caller"
    );
    answered(&mut server, 200, Length::Empty);
    server.next();
    assert!(matches!(server.read(rest, &LIMITS), Ok((_, FromClient::Head(head))) if head.target() == "/2"));
    assert_eq!(Served::of(two.repeat(10).as_bytes()).requests.len(), 20);
    let ended = two.replace("/1 HTTP/1.1", "/1 HTTP/1.0");
    assert_eq!(Served::of(ended.as_bytes()).requests.len(), 1, "nothing is read after the last request");
}

#[test]
fn s9_6_a_server_announces_that_it_closes_and_lingers_if_the_client_may_still_send() {
    let mut server = reading("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    server.close_after();
    assert!(answered(&mut server, 200, Length::Empty).contains("connection: close"));
    assert_eq!(server.after(), Some(After::Linger));
    let mut client = Client::new();
    client.close_after();
    let mut out = Vec::new();
    client.write_head(&http::Method::GET, "/", &Fields::default(), Length::Empty, &mut out).unwrap();
    assert_eq!(text(&out), "GET / HTTP/1.1\\r\\nhost: \\r\\nconnection: close\\r\\n\\r\\n");
    client.read(b"HTTP/1.1 204 x\r\n\r\n", &LIMITS).unwrap();
    assert_eq!(client.after(), Some(After::Close));
}

#[test]
fn s9_6_a_refusal_ends_the_connection_and_what_follows_is_not_read() {
    let mut server = Server::new();
    let refused = b"GET / HTTP/1.1\r\nHost: a\r\nX : y\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    assert!(server.read(refused, &LIMITS).is_err());
    assert!(server.is_owed());
    assert!(answered(&mut server, 400, Length::Empty).contains("connection: close"));
    assert!(matches!(server.read(refused, &LIMITS), Ok((used, FromClient::More)) if used == refused.len()));
    assert_eq!(server.after(), Some(After::Linger));
    server.next();
    assert_eq!(server.after(), Some(After::Linger), "there is no next exchange");
}

#[test]
fn a_fault_in_the_content_is_answered_if_no_answer_has_begun() {
    let bad = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n";
    let served = Served::of(bad.as_bytes());
    assert_eq!((served.fault, served.server.is_owed()), (Some(Fault::Chunk), true));
    let mut server = Server::new();
    let (used, _) = server.read(bad.as_bytes(), &LIMITS).unwrap();
    answered(&mut server, 200, Length::Known(1));
    assert!(server.read(&bad.as_bytes()[used..], &LIMITS).is_err());
    server.put(b"x", &mut Vec::new()).unwrap();
    assert_eq!((server.is_owed(), server.after()), (false, Some(After::Linger)));
}

#[test]
fn an_early_answer_ends_the_connection_unless_the_rest_is_read_first() {
    let head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n";
    let mut server = Server::new();
    server.read(head.as_bytes(), &LIMITS).unwrap();
    answered(&mut server, 413, Length::Empty);
    assert_eq!(server.after(), Some(After::Linger));
    server.read(b"abc", &LIMITS).unwrap();
    server.read(b"", &LIMITS).unwrap();
    assert_eq!(server.after(), Some(After::Next));
    // The client's side of an early answer.
    let mut fields = Fields::default();
    fields.append_named(b"Host", b"a").unwrap();
    let mut asking = Asking::with("POST", &fields, Length::Known(3));
    asking.feed(b"HTTP/1.1 413 x\r\nContent-Length: 0\r\n\r\n");
    assert_eq!((asking.is_whole, asking.client.after()), (true, Some(After::Close)));
    asking.client.put(b"abc", &mut asking.written).unwrap();
    assert_eq!(asking.client.after(), Some(After::Next));
}

#[test]
fn a_100_is_written_before_the_content_and_never_to_http_1_0() {
    let head = |version: &str| {
        format!(
            "POST / HTTP/{version}\r\nHost: a\r\nExpect: 100-Continue\r\nContent-Length: 3\r\nConnection: keep-alive\r\n\r\n"
        )
    };
    let mut server = reading(&head("1.1"));
    assert!(server.is_expecting());
    let mut out = Vec::new();
    assert_eq!(server.write_interim(StatusCode::CONTINUE, &Fields::default(), &mut out), Ok(true));
    assert_eq!(text(&out), "HTTP/1.1 100 Continue\\r\\n\\r\\n");
    assert!(!server.is_expecting());
    server.read(b"abc", &LIMITS).unwrap();
    assert!(!answered(&mut server, 200, Length::Empty).contains("close"));
    // A refusal without a 100: the meaning of the next bytes is unknown.
    let mut server = reading(&head("1.1"));
    assert!(answered(&mut server, 417, Length::Empty).contains("connection: close"));
    // A client that sends content without waiting for the 100.
    assert!(!reading(&format!("{}a", head("1.1"))).is_expecting());
    let mut server = reading(&head("1.0"));
    assert!(!server.is_expecting());
    assert_eq!(server.write_interim(StatusCode::CONTINUE, &Fields::default(), &mut out), Ok(false));
    assert!(
        !reading("GET / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\n").is_expecting(),
        "there is no content"
    );
}

#[test]
fn b6_interim_answers_are_passed_on_up_to_a_bound() {
    let asking = Asking::answered(
        "GET",
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 x\r\nLink: a\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    );
    let interim: Vec<_> =
        asking.interim.iter().map(|interim| (&*interim.first, interim.field("link"))).collect();
    assert_eq!(interim, [("100 Continue", None), ("103 x", Some("a"))]);
    assert!(asking.is_whole);
    assert_eq!(Asking::answered("GET", "HTTP/1.1 102 x\r\n\r\n".repeat(32)).fault, None);
    assert_eq!(Asking::answered("GET", "HTTP/1.1 102 x\r\n\r\n".repeat(33)).fault, Some(Fault::ManyInterim));
}

#[test]
fn a_switch_that_the_request_asked_for_makes_a_tunnel_and_any_other_is_refused() {
    assert_eq!(
        Asking::answered("GET", "HTTP/1.1 101 x\r\nUpgrade: websocket\r\n\r\n").fault,
        Some(Fault::UnaskedSwitch)
    );
    let mut fields = Fields::default();
    fields.append_named(b"Host", b"a").unwrap();
    fields.append_named(b"Upgrade", b"websocket").unwrap();
    let mut asking = Asking::with("GET", &fields, Length::Empty);
    assert_eq!(
        text(&asking.written),
        "GET / HTTP/1.1\\r\\nHost: a\\r\\nUpgrade: websocket\\r\\nconnection: upgrade\\r\\n\\r\\n"
    );
    asking.feed(b"HTTP/1.1 101 x\r\nUpgrade: websocket\r\n\r\nopaque");
    assert!(asking.is_switched);
    assert_eq!((asking.client.after(), &asking.buffer[..]), (Some(After::Opaque), &b"opaque"[..]));
    // The server's side.
    let mut server =
        reading("GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n");
    let mut out = Vec::new();
    server.write_head(StatusCode::SWITCHING_PROTOCOLS, None, &fields, Length::Empty, &mut out).unwrap();
    assert!(text(&out).ends_with("Upgrade: websocket\\r\\nconnection: upgrade\\r\\n\\r\\n"));
    assert!(matches!(server.read(b"opaque", &LIMITS), Ok((0, FromClient::More))));
    assert_eq!(server.after(), Some(After::Opaque));
    for request in [
        "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: x\r\n\r\n",
        "GET / HTTP/1.0\r\nHost: a\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    ] {
        let switched = reading(request).write_head(
            StatusCode::SWITCHING_PROTOCOLS,
            None,
            &fields,
            Length::Empty,
            &mut out,
        );
        assert_eq!(switched, Err(Misuse::NotNow), "{request:?}");
    }
}

#[test]
fn a_connect_opens_a_tunnel_only_with_a_2xx() {
    let connect = "CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n";
    let mut server = reading(connect);
    assert_eq!(answered(&mut server, 200, Length::Known(5)), "HTTP/1.1 200 OK\r\n\r\n");
    assert_eq!(server.after(), Some(After::Opaque));
    let mut server = reading(connect);
    answered(&mut server, 403, Length::Empty);
    assert_eq!(server.after(), Some(After::Next));
    let mut client = Client::new();
    let content = client.write_head(
        &http::Method::CONNECT,
        "a:1",
        &Fields::default(),
        Length::Known(1),
        &mut Vec::new(),
    );
    assert_eq!(content, Err(Misuse::NoContent));
}

#[test]
fn after_a_broken_answer_no_further_byte_is_read() {
    let mut asking =
        Asking::answered("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\nnonsense");
    assert_eq!((asking.fault, asking.client.after()), (Some(Fault::Chunk), Some(After::Reset)));
    assert!(matches!(asking.client.read(b"HTTP/1.1 200 OK\r\n\r\n", &LIMITS), Ok((19, FromUpstream::More))));
    let mut server = reading("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    answered(&mut server, 200, Length::Chunked);
    server.cut();
    assert_eq!(server.after(), Some(After::Reset));
}

#[test]
fn a_call_that_does_not_fit_the_state_of_the_connection_is_refused() {
    let mut out = Vec::new();
    let mut server = Server::new();
    let early = server.write_head(StatusCode::OK, None, &Fields::default(), Length::Empty, &mut out);
    assert_eq!((early, out.len()), (Err(Misuse::NotNow), 0));
    let mut server = reading("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(answered(&mut server, 200, Length::Known(5)), "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n");
    assert_eq!(server.put(b"x", &mut out), Err(Misuse::NoContent));
    let twice = server.write_head(StatusCode::OK, None, &Fields::default(), Length::Empty, &mut out);
    assert_eq!((twice, out.len()), (Err(Misuse::NotNow), 0));
    let mut asking = Asking::new("GET");
    let again =
        asking.client.write_head(&http::Method::GET, "/", &Fields::default(), Length::Empty, &mut out);
    assert_eq!((again, out.len()), (Err(Misuse::NotNow), 0));
}
