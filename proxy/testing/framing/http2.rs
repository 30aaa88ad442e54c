//! Where HTTP/2 messages end. The client writes raw frames, because libraries refuse to send some of these.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use tokio::time::timeout;

use super::{application, pair, read};
use crate::testing::http2;
use crate::testing::mesh::{A, Mesh, secs, settle};
use crate::testing::peer::Peer;

/// Frame types (RFC 9113, 6).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let size = u32::try_from(payload.len()).expect("a small frame").to_be_bytes();
    [&size[1..], &[kind, flags, 0, 0, 0, stream], payload].concat()
}

/// Fields as HPACK has them when nothing is compressed (RFC 7541, 6.2.2).
fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let text = |text: &str| [&[u8::try_from(text.len()).expect("a short text")], text.as_bytes()].concat();
    let field = |(name, value): &(&str, &str)| [vec![0], text(name), text(value)].concat();
    fields.iter().flat_map(field).collect()
}

/// Sends one request. With `None` as its body the stream ends with its headers.
async fn send(
    client: &mut Peer,
    path: &str,
    fields: &[(&str, &str)],
    body: Option<&str>,
    trailers: &[(&str, &str)],
) {
    let method = if body.is_some() { "POST" } else { "GET" };
    let mut head = vec![(":method", method), (":scheme", "http"), (":authority", "orders"), (":path", path)];
    head.extend(fields);
    let mut sent = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    sent.extend(frame(SETTINGS, 0, 0, &[]));
    let ends = if body.is_none() { END_STREAM } else { 0 };
    sent.extend(frame(HEADERS, END_HEADERS | ends, 1, &block(&head)));
    if let Some(body) = body {
        let ends = if trailers.is_empty() { END_STREAM } else { 0 };
        sent.extend(frame(DATA, ends, 1, body.as_bytes()));
        if !trailers.is_empty() {
            sent.extend(frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(trailers)));
        }
    }
    client.send(sent).await;
}

/// The result of the first stream: a status, or the error code of its reset.
async fn outcome(client: &mut Peer) -> String {
    loop {
        let (head, is_whole) = client.exactly(9).await;
        if !is_whole {
            return "closed".to_owned();
        }
        let size = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let (payload, _) = client.exactly(size as usize).await;
        match (head[3], head[8]) {
            // The static table of RFC 7541 has these as one byte.
            (HEADERS, 1) => match payload.first() {
                Some(0x88) => return "200".to_owned(),
                Some(0x8c) => return "400".to_owned(),
                other => return format!("status {other:?}"),
            },
            (RST_STREAM, 1) => return format!("reset {}", payload[3]),
            (GOAWAY, 0) => return format!("goaway {}", payload[7]),
            _ => {}
        }
    }
}

/// Path, fields, body, trailers; the result; what the application read.
type Row<'a> =
    (&'a str, &'a [(&'a str, &'a str)], Option<&'a str>, &'a [(&'a str, &'a str)], &'a str, &'a str);

/// `reset 1` is PROTOCOL_ERROR, h2's own answer to messages that RFC 9113, 8.1.1, calls malformed.
const ROWS: &[Row<'_>] = &[
    ("/a", &[("content-length", "2")], Some("ab"), &[], "200", "POST /a [content-length: 2] ab"),
    ("/a", &[("content-length", "02")], Some("ab"), &[], "200", "POST /a [content-length: 2] ab"),
    (
        "/a",
        &[("content-length", "2"), ("content-length", "02")],
        Some("ab"),
        &[],
        "200",
        "POST /a [content-length: 2] ab",
    ),
    (
        "/a",
        &[("content-length", "2"), ("content-length", "2")],
        Some("ab"),
        &[],
        "200",
        "POST /a [content-length: 2] ab",
    ),
    ("/a", &[], Some("ab"), &[], "200", "POST /a [transfer-encoding: chunked] ab"),
    ("/a", &[], Some(""), &[], "200", "POST /a"),
    ("/a", &[("content-length", "0")], None, &[], "200", "GET /a [content-length: 0]"),
    ("/a", &[("content-length", "")], None, &[], "400", ""),
    ("/a", &[("content-length", "0"), ("content-length", "")], None, &[], "400", ""),
    ("/a", &[("content-length", "2"), ("content-length", "3")], Some("ab"), &[], "reset 1", ""),
    ("/a", &[("content-length", "2, 2")], Some("ab"), &[], "reset 1", ""),
    ("/a", &[("content-length", "+2")], Some("ab"), &[], "reset 1", ""),
    ("/a", &[("content-length", "2")], None, &[], "reset 1", ""),
    ("#x", &[], None, &[], "400", ""),
    ("?x", &[], None, &[], "400", ""),
    ("/a#x", &[], None, &[], "200", "GET /a"),
    ("", &[], None, &[], "reset 1", ""),
    ("a", &[], None, &[], "reset 1", ""),
    ("/a", &[("te", "trailers")], None, &[], "200", "GET /a [te: trailers]"),
    ("/a", &[("te", "gzip")], None, &[], "reset 1", ""),
    ("/a", &[("transfer-encoding", "chunked")], Some("ab"), &[], "reset 1", ""),
    ("/a", &[("connection", "close")], None, &[], "reset 1", ""),
    (
        "/a",
        &[("trailer", "x-end, host")],
        Some("ab"),
        &[("x-end", "1"), ("host", "evil")],
        "200",
        "POST /a [trailer: x-end, host] [transfer-encoding: chunked] ab {x-end: 1}",
    ),
];

#[tokio::test(start_paused = true)]
async fn b13_a_request_of_http2_is_framed_in_one_way_or_refused() {
    for (path, fields, body, trailers, expected, expected_seen) in ROWS {
        let mesh = Mesh::default();
        let seen = application(&mesh);
        let sidecar = mesh.caller("endpoints: [10.0.0.1:80], protocol: http1, retry: off");
        let mut client = sidecar.client().await;
        send(&mut client, path, fields, *body, trailers).await;
        let outcome = timeout(secs(5), outcome(&mut client)).await.expect("an outcome");
        settle().await;
        let seen = seen.lock().join(" + ");
        assert_eq!(
            (outcome.as_str(), seen.as_str()),
            (*expected, *expected_seen),
            "{path} {fields:?} {body:?}"
        );
    }
}

/// RFC 9113, 8.1.1: the application must not take a body for complete that disagrees with its length.
#[tokio::test(start_paused = true)]
async fn b13_a_body_of_http2_that_disagrees_with_its_length_is_a_cut() {
    for (length, trailers) in [("3", &[][..]), ("1", &[]), ("3", &[("x-end", "1")])] {
        let mesh = Mesh::default();
        let seen = application(&mesh);
        let sidecar = mesh.caller("endpoints: [10.0.0.1:80], protocol: http1, retry: off");
        let mut client = sidecar.client().await;
        send(&mut client, "/a", &[("content-length", length)], Some("ab"), trailers).await;
        let outcome = timeout(secs(5), outcome(&mut client)).await.expect("an outcome");
        settle().await;
        assert_eq!(outcome, "reset 1", "{length}");
        assert!(seen.lock().iter().all(|request| request.ends_with("(cut)")), "{length} {:?}", seen.lock());
    }
}

/// The fields of an answer; its body, if any; what an HTTP/1 client sees.
type Answered<'a> = (&'a [(&'a str, &'a str)], Option<&'static str>, &'a str);

const ANSWERS: &[Answered<'_>] = &[
    (&[("content-length", "2")], Some("ab"), "200 [content-length: 2] ab"),
    (&[("content-length", "02")], Some("ab"), "200 [content-length: 2] ab"),
    (&[("content-length", "2"), ("content-length", "02")], Some("ab"), "200 [content-length: 2] ab"),
    (&[], Some("ab"), "200 [transfer-encoding: chunked] ab"),
    (&[("content-length", "")], None, "502 protocol_error"),
    (&[("content-length", "2"), ("content-length", "3")], Some("ab"), "502 protocol_error"),
    (&[("content-length", "+2")], Some("ab"), "502 protocol_error"),
    (&[("content-length", "2, 2")], Some("ab"), "502 protocol_error"),
];

#[tokio::test(start_paused = true)]
async fn b13_an_answer_of_http2_is_framed_in_one_way_or_a_protocol_error() {
    for (fields, body, expected) in ANSWERS {
        let mesh = Mesh::default();
        let (fields, body): (Vec<_>, _) =
            (fields.iter().map(|(name, value)| field(name, value)).collect(), *body);
        let shown = fields.clone();
        let _server =
            mesh.http2(A, 100, move |_, _: Request<RecvStream>, mut respond: SendResponse<Bytes>| {
                let mut head = Response::new(());
                *head.headers_mut() = shown.iter().cloned().collect();
                async move {
                    let mut stream = respond.send_response(head, body.is_none()).expect("the stream is open");
                    if let Some(body) = body {
                        drop(stream.send_data(body.into(), true));
                    }
                }
            });
        let sidecar = mesh.caller("endpoints: [10.0.0.1:80], protocol: http2, retry: off");
        let mut client = sidecar.client().await;
        client.send("GET / HTTP/1.1\r\nhost: orders\r\n\r\n").await;
        let seen = timeout(secs(5), read(&mut client, false)).await.expect("an end");
        assert_eq!(seen.as_deref(), Some(*expected), "{fields:?}");
    }
}

fn field(name: &str, value: &str) -> (HeaderName, HeaderValue) {
    (name.parse().expect("a name"), value.parse().expect("a value"))
}

#[tokio::test(start_paused = true)]
async fn b11_a_body_of_unknown_length_goes_on_from_http2_to_http1() {
    let mesh = Mesh::default();
    let seen = application(&mesh);
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80], protocol: http1");
    let client = sidecar.http2_client().await;
    for method in ["GET", "DELETE", "POST"] {
        let answer = client.ask(http2::request(method, "/a"), "abc").await.expect("an answer");
        assert_eq!(answer.head.status(), 200);
        let expected = format!("{method} /a [transfer-encoding: chunked] abc");
        assert_eq!(seen.lock().pop(), Some(expected));
    }
    client.get("/a").await;
    assert_eq!(seen.lock().pop().as_deref(), Some("GET /a"), "no body is announced where there is none");
}

#[tokio::test(start_paused = true)]
async fn b11_a_body_of_unknown_length_goes_on_through_two_sidecars_of_http2() {
    for protocol in ["http1", "http2"] {
        let mesh = Mesh::default();
        let seen = application(&mesh);
        let (first, _second) = pair(&mesh, protocol);
        let asked = first.http2_client().await.ask(http2::request("GET", "/a"), "abc").await;
        assert_eq!(asked.expect("an answer").head.status(), 200);
        assert_eq!(seen.lock().pop().as_deref(), Some("GET /a [transfer-encoding: chunked] abc"));
    }
}

/// h2 itself refuses to send or receive trailers that concern one connection.
fn mixed_trailers() -> HeaderMap {
    let fields =
        [("host", "evil"), ("content-length", "9"), ("x-forwarded-client-cert", "evil"), ("x-end", "1")];
    fields
        .map(|(name, value)| (name.parse().expect("a name"), value.parse().expect("a value")))
        .into_iter()
        .collect()
}

#[tokio::test(start_paused = true)]
async fn b17_trailers_that_must_not_be_any_are_removed_from_http2_to_http1() {
    let mesh = Mesh::default();
    let seen = application(&mesh);
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80], protocol: http1");
    let mut request = http2::request("POST", "/a");
    request.headers_mut().insert("trailer", "host, content-length, x-end".parse().expect("a value"));
    let asked = sidecar.http2_client().await.ask_with_trailers(request, "abc", mixed_trailers()).await;
    assert_eq!(asked.expect("an answer").body, b"ok");
    let expected =
        "POST /a [trailer: host, content-length, x-end] [transfer-encoding: chunked] abc {x-end: 1}";
    assert_eq!(seen.lock().pop().as_deref(), Some(expected));
}

#[tokio::test(start_paused = true)]
async fn b17_trailers_that_must_not_be_any_are_removed_from_http2_to_http2() {
    let mesh = Mesh::default();
    let (sender, mut seen) = tokio::sync::mpsc::unbounded_channel();
    let _echo =
        mesh.http2(A, 100, move |_, mut request: Request<RecvStream>, mut respond: SendResponse<Bytes>| {
            let sender = sender.clone();
            async move {
                let body = http2::read_body(request.body_mut()).await;
                let trailers = request.body_mut().trailers().await.expect("trailers come");
                sender.send((body.expect("a body"), trailers)).expect("the test listens");
                let mut stream = respond.send_response(Response::new(()), false).expect("the stream is open");
                stream.send_data("ok".into(), false).expect("the stream is open");
                stream.send_trailers(mixed_trailers()).expect("the stream is open");
            }
        });
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80], protocol: http2");
    let client = sidecar.http2_client().await;
    let asked = client.ask_with_trailers(http2::request("POST", "/a"), "abc", mixed_trailers()).await;
    let answer = asked.expect("an answer");
    let only: HeaderMap =
        [("x-end".parse().expect("a name"), "1".parse().expect("a value"))].into_iter().collect();
    assert_eq!(answer.body, b"ok");
    assert_eq!(answer.trailers.as_ref(), Some(&only));
    assert_eq!(seen.recv().await, Some((b"abc".to_vec(), Some(only))));
}

/// Counts the warnings of the HTTP/2 server.
#[derive(Clone, Default)]
struct Warnings(Arc<AtomicUsize>);

impl tracing::Subscriber for Warnings {
    fn enabled(&self, of: &tracing::Metadata<'_>) -> bool {
        *of.level() == tracing::Level::WARN
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        if event.metadata().target().contains("h2_server") {
            self.0.fetch_add(1, Relaxed);
        }
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

#[tokio::test(start_paused = true)]
async fn a13_connections_that_are_cut_for_a_flood_are_one_warning() {
    let warnings = Warnings::default();
    let _here = tracing::subscriber::set_default(warnings.clone());
    let mesh = Mesh::default();
    let _app = mesh.silent(A);
    let inbound = mesh.application(&format!("app: {A}"));
    let head = [(":method", "POST"), (":scheme", "http"), (":authority", "orders"), (":path", "/")];
    let mut flood = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    flood.extend(frame(SETTINGS, 0, 0, &[]));
    flood.extend(frame(HEADERS, END_HEADERS, 1, &block(&head)));
    (0..200).for_each(|_| flood.extend(frame(DATA, 0, 1, b""))); // `h2` cuts a client after 100 empty frames
    for _ in 0..300 {
        let mut client = inbound.client().await;
        client.send(&flood).await;
        assert_eq!(outcome(&mut client).await, "goaway 11", "ENHANCE_YOUR_CALM");
    }
    // Another test of this process may have had the one warning of these ten seconds.
    assert!(warnings.0.load(Relaxed) <= 1, "{} warnings", warnings.0.load(Relaxed));
}
