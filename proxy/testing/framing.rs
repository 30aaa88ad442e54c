//! Where messages end, in bytes: what one side sends, what the sidecar makes of it, and what the other side sees.
//!
//! The rows say nothing of how HTTP/1 is read and written, so that another implementation can be held against them.
//! A request is read by an application that keeps to RFC 9112, an answer by a client that does.

use std::sync::Arc;

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::{HeaderMap, Request, Response};
use parking_lot::Mutex;
use tokio::time::timeout;

use super::backend::{OK, UNAVAILABLE};
use super::http2;
use super::mesh::{A, B, Mesh, ORDERS, Pair, Sidecar, secs, settle};
use super::peer::{Message, Peer};
use crate::identity::issue::Ca;

/// What a client sends; the statuses it hears, and whether its connection stays open; what the application sees.
type Asked<'a> = (&'a str, &'a str, &'a str);

/// What an upstream sends; what the client sees; whether the upstream's connection is used for the next request.
type Answered<'a> = (&'a str, &'a str, &'a str);

/// A message without what does not frame it: `POST /a [content-length: 2] ab`, trailers in braces.
async fn read(peer: &mut Peer, is_bodiless: bool) -> Option<String> {
    let mut message = Message { head: peer.head().await?, body: String::new(), is_whole: true };
    let first = message.head.lines().next().unwrap_or_default();
    let mut text = match message.status() {
        Some(status) => [&status.to_string(), " ", message.reason().unwrap_or_default()].concat(),
        None => first.rsplit_once(' ').map_or(first, |(text, _version)| text).to_owned(),
    };
    let is_answer = message.status().is_some();
    let is_ours = message.reason().is_some(); // then neither its length nor its sentence matters here
    let frames = |line: &&str| {
        let name = line.split(':').next().unwrap_or_default().to_ascii_lowercase();
        !is_ours && ["content-length", "transfer-encoding", "te", "trailer"].contains(&&*name)
    };
    let mut framing: Vec<_> = message.head.lines().skip(1).filter(frames).collect();
    framing.sort_unstable();
    for line in framing {
        text += &format!(" [{line}]");
    }
    let mut trailers = Vec::new();
    match message.header("content-length").map(str::to_owned) {
        _ if is_bodiless || matches!(message.status(), Some(204 | 304)) => {}
        _ if message.header("transfer-encoding").is_some() => {
            message.is_whole = chunks(peer, &mut message.body, &mut trailers).await.is_some();
        }
        Some(length) => {
            let (body, is_whole) = peer.exactly(length.parse().expect("a length")).await;
            (message.body, message.is_whole) = (String::from_utf8_lossy(&body).into_owned(), is_whole);
        }
        None if is_answer => message.body = String::from_utf8_lossy(&peer.rest().await).into_owned(),
        None => {}
    }
    if !is_ours && !message.body.is_empty() {
        text += &format!(" {}", message.body);
    }
    if !trailers.is_empty() {
        text += &format!(" {{{}}}", trailers.join(", "));
    }
    if !message.is_whole {
        text += " (cut)";
    }
    Some(text.trim_end().replace("  ", " "))
}

async fn chunks(peer: &mut Peer, body: &mut String, trailers: &mut Vec<String>) -> Option<()> {
    loop {
        let size = usize::from_str_radix(&peer.line().await?, 16).expect("a chunk's size");
        if size == 0 {
            break;
        }
        let (chunk, is_whole) = peer.exactly(size + 2).await;
        *body += &String::from_utf8_lossy(&chunk[..chunk.len().min(size)]);
        is_whole.then_some(())?;
    }
    loop {
        match peer.line().await?.as_str() {
            "" => return Some(()),
            line => trailers.push(line.to_owned()),
        }
    }
}

/// An application that says `ok` to every request, and what it has seen.
fn application(mesh: &Mesh) -> Arc<Mutex<Vec<String>>> {
    let seen = Arc::<Mutex<Vec<String>>>::default();
    let told = seen.clone();
    mesh.scripted(A, move |mut peer: Peer, _| {
        let told = told.clone();
        async move {
            while let Some(request) = read(&mut peer, false).await {
                told.lock().push(request);
                peer.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
            }
        }
    });
    seen
}

/// Every answer's status, and the CODE where the sidecar answered; then whether the connection is still open.
async fn heard(client: &mut Peer) -> String {
    let mut heard = Vec::new();
    loop {
        match timeout(secs(1), client.message()).await {
            Ok(Some(answer)) => {
                let (status, code) = answer.told();
                heard.push([&status.to_string(), " ", code.unwrap_or_default()].concat().trim().to_owned());
            }
            Ok(None) => heard.push("closed".to_owned()),
            Err(_nothing_more) => heard.push("open".to_owned()),
        }
        if matches!(heard.last().map(String::as_str), Some("closed" | "open")) {
            return heard.join(" ");
        }
    }
}

/// The sidecar that a client talks to, and the one behind it where there are two.
type Chain = (Sidecar, Option<Sidecar>);

async fn ask(rows: &[Asked<'_>], start: impl Fn(&Mesh) -> Chain) {
    for (sent, told, expected) in rows {
        let mesh = Mesh::default();
        let seen = application(&mesh);
        let (first, _second) = start(&mesh);
        let mut client = first.client().await;
        client.send(sent).await;
        let heard = heard(&mut client).await;
        assert_eq!((heard.as_str(), seen.lock().join(" + ").as_str()), (*told, *expected), "{sent:?}");
    }
}

fn caller(mesh: &Mesh) -> Chain {
    (mesh.caller("endpoints: [10.0.0.1:80], retry: off"), None)
}

fn inbound(mesh: &Mesh) -> Chain {
    (mesh.application("app: 10.0.0.1:80"), None)
}

/// Two sidecars that speak this version of HTTP to each other.
fn pair(mesh: &Mesh, protocol: &str) -> Chain {
    let pair = Pair { mesh: mesh.clone(), ca: Ca::generate("cluster.local").expect("a CA") };
    let second = pair.application("10.1.0.1:15006", A);
    (
        pair.caller(&format!("endpoints: [10.1.0.1:15006], {ORDERS}, protocol: {protocol}, retry: off")),
        Some(second),
    )
}

/// Outcomes are the same through each sidecar alone, and through both.
async fn ask_everywhere(rows: &[Asked<'_>]) {
    ask(rows, caller).await;
    ask(rows, inbound).await;
    ask(rows, |mesh| pair(mesh, "http1")).await;
    ask(rows, |mesh| pair(mesh, "http2")).await;
}

/// The client asks twice, on connections of its own. `hangs_up`: the upstream closes its connection after what it sends.
async fn answer(method: &str, hangs_up: bool, rows: &[Answered<'_>], start: impl Fn(&Mesh) -> Chain) {
    for (sent, expected, then) in rows {
        let mesh = Mesh::default();
        let script = (*sent).to_owned();
        let backend = mesh.scripted(A, move |mut peer: Peer, _| {
            let script = script.clone();
            async move {
                while read(&mut peer, false).await.is_some() {
                    peer.send(&script).await;
                    if hangs_up {
                        return;
                    }
                }
            }
        });
        let (first, _second) = start(&mesh);
        for _ in 0..2 {
            let mut client = first.client().await;
            client.send(format!("{method} / HTTP/1.1\r\nhost: orders\r\nte: trailers\r\n\r\n")).await;
            let seen = timeout(secs(1), read(&mut client, method == "HEAD")).await;
            assert_eq!(seen.expect("an end").as_deref(), Some(*expected), "{sent:?}");
            settle().await;
        }
        let used = if backend.connections() == 1 { "reused" } else { "closed" };
        assert_eq!(used, *then, "{sent:?}");
    }
}

async fn answer_everywhere(method: &str, hangs_up: bool, rows: &[Answered<'_>]) {
    answer(method, hangs_up, rows, caller).await;
    answer(method, hangs_up, rows, inbound).await;
    answer(method, hangs_up, rows, |mesh| pair(mesh, "http1")).await;
    answer(method, hangs_up, rows, |mesh| pair(mesh, "http2")).await;
}

const B5_REQUESTS: &[Asked<'_>] = &[
    (
        "POST /a HTTP/1.1\r\nhost: orders\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        "200 open",
        "POST /a [transfer-encoding: chunked] abc",
    ),
    (
        "POST /a HTTP/1.1\r\nhost: orders\r\ntransfer-encoding: Chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        "200 open",
        "POST /a [transfer-encoding: chunked] abc",
    ),
    (
        "POST /a HTTP/1.1\r\nhost: orders\r\ntransfer-encoding: gzip, chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        "501 bad_request closed",
        "",
    ),
    (
        "POST /a HTTP/1.1\r\nhost: orders\r\ntransfer-encoding: deflate\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        "501 bad_request closed",
        "",
    ),
    (
        "POST /a HTTP/1.1\r\nhost: orders\r\ntransfer-encoding: identity, chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        "501 bad_request closed",
        "",
    ),
    ("POST /a HTTP/1.1\r\nhost: orders\r\ntransfer-encoding: gzip\r\n\r\nabc", "400 bad_request closed", ""),
    (
        "POST /a HTTP/1.1\r\nhost: orders\r\ntransfer-encoding: identity\r\n\r\nabc",
        "400 bad_request closed",
        "",
    ),
    ("POST /a HTTP/1.1\r\nhost: orders\r\ntransfer-encoding:\r\n\r\n", "400 bad_request closed", ""),
    (
        "POST /a HTTP/1.1\r\nhost: orders\r\ntransfer-encoding: chunked, gzip\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        "400 bad_request closed",
        "",
    ),
    (
        "POST /a HTTP/1.1\r\nhost: orders\r\ntransfer-encoding: chunked, chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        "400 bad_request closed",
        "",
    ),
    (
        "POST /a HTTP/1.1\r\nhost: orders\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        "400 bad_request closed",
        "",
    ),
    (
        "POST /a HTTP/1.0\r\nhost: orders\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        "400 bad_request closed",
        "",
    ),
    (
        "GET /a HTTP/1.1\r\nhost: orders\r\nte: gzip, trailers, deflate;q=0.5\r\n\r\n",
        "200 open",
        "GET /a [te: trailers]",
    ),
    ("GET /a HTTP/1.1\r\nhost: orders\r\nte: gzip\r\n\r\n", "200 open", "GET /a"),
    (
        "GET /a HTTP/1.1\r\nhost: orders\r\nte: gzip\r\nte: trailers\r\n\r\n",
        "200 open",
        "GET /a [te: trailers]",
    ),
];

/// What follows a refused request on its connection is never read as a request of its own.
const B5_FOLLOWED: &[Asked<'_>] = &[(
    "POST /a HTTP/1.1\r\nhost: orders\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\nGET /b HTTP/1.1\r\nhost: orders\r\n\r\n",
    "501 bad_request closed",
    "",
)];

#[tokio::test(start_paused = true)]
async fn b5_a_request_whose_coding_is_not_undone_is_refused_and_its_connection_ends() {
    ask_everywhere(B5_REQUESTS).await;
    ask_everywhere(B5_FOLLOWED).await;
}

const B5_ANSWERS: &[Answered<'_>] = &[
    (
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        "200 [transfer-encoding: chunked] abc",
        "reused",
    ),
    (
        "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        "502 protocol_error",
        "closed",
    ),
    (
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked, chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        "502 protocol_error",
        "closed",
    ),
    (
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        "502 protocol_error",
        "closed",
    ),
    (
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked, gzip\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        "502 protocol_error",
        "closed",
    ),
];

const B5_ANSWERS_UNTIL_CLOSE: &[Answered<'_>] =
    &[("HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\nabc", "502 protocol_error", "closed")];

#[tokio::test(start_paused = true)]
async fn b5_an_answer_whose_coding_is_not_undone_is_a_protocol_error() {
    answer_everywhere("GET", false, B5_ANSWERS).await;
    answer_everywhere("GET", true, B5_ANSWERS_UNTIL_CLOSE).await;
}

const B11_REQUESTS: &[Asked<'_>] = &[
    (
        "GET /a HTTP/1.1\r\nhost: orders\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        "200 open",
        "GET /a [transfer-encoding: chunked] abc",
    ),
    (
        "DELETE /a HTTP/1.1\r\nhost: orders\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        "200 open",
        "DELETE /a [transfer-encoding: chunked] abc",
    ),
    (
        "OPTIONS * HTTP/1.1\r\nhost: orders\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        "200 open",
        "OPTIONS * [transfer-encoding: chunked] abc",
    ),
    (
        "QUERY /a HTTP/1.1\r\nhost: orders\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        "200 open",
        "QUERY /a [transfer-encoding: chunked] abc",
    ),
    (
        "GET /a HTTP/1.1\r\nhost: orders\r\ncontent-length: 3\r\n\r\nabc",
        "200 open",
        "GET /a [content-length: 3] abc",
    ),
    ("GET /a HTTP/1.1\r\nhost: orders\r\n\r\n", "200 open", "GET /a"),
    ("DELETE /a HTTP/1.1\r\nhost: orders\r\n\r\n", "200 open", "DELETE /a"),
];

#[tokio::test(start_paused = true)]
async fn b11_a_body_of_unknown_length_goes_on_whatever_the_method() {
    ask_everywhere(B11_REQUESTS).await;
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

#[tokio::test(start_paused = true)]
async fn b11_a_body_of_unknown_length_is_whole_in_every_try() {
    let mesh = Mesh::default();
    let (a, b) = (mesh.answering(A, UNAVAILABLE), mesh.answering(B, OK));
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80, 10.0.0.2:80], load_balancer: round_robin");
    let request = "GET / HTTP/1.1\r\nhost: orders\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    assert_eq!(sidecar.client().await.ask(request).await.told(), (200, None));
    assert_eq!((&*a.requests()[0].body, &*b.requests()[0].body), ("abc", "abc"));
}

/// The first endpoint closes every connection at once. A request that comes back unsent is framed anew for the next.
#[tokio::test(start_paused = true)]
async fn b11_a_body_of_unknown_length_that_was_not_sent_goes_to_another_endpoint() {
    let mesh = Mesh::default();
    let _hangs_up = mesh.scripted(A, |peer: Peer, _| async move { drop(peer) });
    let b = mesh.answering(B, OK);
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80, 10.0.0.2:80], load_balancer: round_robin");
    let request = "GET / HTTP/1.1\r\nhost: orders\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    for _ in 0..2 {
        assert_eq!(sidecar.client().await.ask(request).await.told(), (200, None));
    }
    assert!(b.requests().iter().all(|request| request.body == "abc"));
    assert_eq!(b.hits(), 2);
}

const B15_REQUESTS: &[Asked<'_>] = &[
    (
        "POST /a HTTP/1.1\r\nhost: orders\r\ncontent-length: 2\r\ncontent-length: 2\r\n\r\nab",
        "200 open",
        "POST /a [content-length: 2] ab",
    ),
    (
        "POST /a HTTP/1.1\r\nhost: orders\r\ncontent-length: 02\r\ncontent-length: 2\r\n\r\nab",
        "200 open",
        "POST /a [content-length: 2] ab",
    ),
    (
        "POST /a HTTP/1.1\r\nhost: orders\r\ncontent-length: 010\r\n\r\nabcdefghij",
        "200 open",
        "POST /a [content-length: 10] abcdefghij",
    ),
    ("POST /a HTTP/1.1\r\nhost: orders\r\ncontent-length: 2, 2\r\n\r\nab", "400 bad_request closed", ""),
    ("POST /a HTTP/1.1\r\nhost: orders\r\ncontent-length: 2, 3\r\n\r\nab", "400 bad_request closed", ""),
    (
        "POST /a HTTP/1.1\r\nhost: orders\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nab",
        "400 bad_request closed",
        "",
    ),
    ("POST /a HTTP/1.1\r\nhost: orders\r\ncontent-length: +2\r\n\r\nab", "400 bad_request closed", ""),
    ("POST /a HTTP/1.1\r\nhost: orders\r\ncontent-length: -2\r\n\r\nab", "400 bad_request closed", ""),
    ("POST /a HTTP/1.1\r\nhost: orders\r\ncontent-length: 0x2\r\n\r\nab", "400 bad_request closed", ""),
    ("POST /a HTTP/1.1\r\nhost: orders\r\ncontent-length: 2 2\r\n\r\nab", "400 bad_request closed", ""),
    ("POST /a HTTP/1.1\r\nhost: orders\r\ncontent-length:\r\n\r\nab", "400 bad_request closed", ""),
    (
        "POST /a HTTP/1.1\r\nhost: orders\r\ncontent-length: 18446744073709551616\r\n\r\nab",
        "400 bad_request closed",
        "",
    ),
];

/// RFC 9112, 6.3, allows to refuse such a request, or to go by its Transfer-Encoding and to close the connection. hyper
/// does the second, and does not show that there was a length. A reader that does show it should refuse: 400.
const B15_REQUESTS_OF_TWO_LENGTHS: &[Asked<'_>] = &[
    (
        "POST /a HTTP/1.1\r\nhost: orders\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\nGET /b HTTP/1.1\r\nhost: orders\r\n\r\n",
        "200 closed",
        "POST /a [transfer-encoding: chunked] abc",
    ),
    (
        "POST /a HTTP/1.1\r\nhost: orders\r\ntransfer-encoding: chunked\r\ncontent-length: 2\r\n\r\n3\r\nabc\r\n0\r\n\r\nGET /b HTTP/1.1\r\nhost: orders\r\n\r\n",
        "200 closed",
        "POST /a [transfer-encoding: chunked] abc",
    ),
];

#[tokio::test(start_paused = true)]
async fn b15_a_request_has_one_canonical_length_or_is_refused() {
    ask_everywhere(B15_REQUESTS).await;
    ask_everywhere(B15_REQUESTS_OF_TWO_LENGTHS).await;
}

const B15_ANSWERS: &[Answered<'_>] = &[
    (
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        "200 [transfer-encoding: chunked] abc",
        "closed",
    ),
    (
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        "200 [transfer-encoding: chunked] abc",
        "closed",
    ),
    (
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: x\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        "200 [transfer-encoding: chunked] abc",
        "closed",
    ),
    (
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 2\r\n\r\nab",
        "200 [content-length: 2] ab",
        "reused",
    ),
    ("HTTP/1.1 200 OK\r\ncontent-length: 2, 2\r\n\r\nab", "200 [content-length: 2] ab", "reused"),
    ("HTTP/1.1 200 OK\r\ncontent-length: 02\r\n\r\nab", "200 [content-length: 2] ab", "reused"),
    ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nabc", "502 protocol_error", "closed"),
    ("HTTP/1.1 200 OK\r\ncontent-length: 2, 3\r\n\r\nabc", "502 protocol_error", "closed"),
    ("HTTP/1.1 200 OK\r\ncontent-length: +2\r\n\r\nab", "502 protocol_error", "closed"),
    ("HTTP/1.1 200 OK\r\ncontent-length:\r\n\r\nab", "502 protocol_error", "closed"),
    ("HTTP/1.1 204 No Content\r\ncontent-length: 2\r\n\r\n", "204", "reused"),
    ("HTTP/1.1 204 No Content\r\n\r\n", "204", "reused"),
    ("HTTP/1.1 304 Not Modified\r\ncontent-length: 5, 6\r\n\r\n", "502 protocol_error", "closed"),
];

const B15_ANSWERS_TO_HEAD: &[Answered<'_>] = &[
    ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", "200 [content-length: 5]", "reused"),
    (
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 05\r\n\r\n",
        "200 [content-length: 5]",
        "reused",
    ),
    ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n", "502 protocol_error", "closed"),
    ("HTTP/1.1 200 OK\r\ncontent-length: +5\r\n\r\n", "502 protocol_error", "closed"),
];

const B15_ANSWERS_UNTIL_CLOSE: &[Answered<'_>] = &[
    ("HTTP/1.1 200 OK\r\n\r\nabc", "200 [transfer-encoding: chunked] abc", "closed"),
    (
        "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        "502 protocol_error",
        "closed",
    ),
];

#[tokio::test(start_paused = true)]
async fn b15_an_answer_has_one_canonical_length_or_is_a_protocol_error() {
    answer_everywhere("GET", false, B15_ANSWERS).await;
    answer_everywhere("HEAD", false, B15_ANSWERS_TO_HEAD).await;
    answer_everywhere("GET", true, B15_ANSWERS_UNTIL_CLOSE).await;
}

/// What is announced and may be a trailer goes on. HTTP/1 forwards what `trailer` names, and nothing else.
const B17_REQUESTS: &[Asked<'_>] = &[
    (
        "POST /a HTTP/1.1\r\nhost: orders\r\ntransfer-encoding: chunked\r\ntrailer: x-end\r\n\r\n3\r\nabc\r\n0\r\nx-end: 1\r\n\r\n",
        "200 open",
        "POST /a [trailer: x-end] [transfer-encoding: chunked] abc {x-end: 1}",
    ),
    (
        "POST /a HTTP/1.1\r\nhost: orders\r\ntransfer-encoding: chunked\r\ntrailer: x-end, connection, keep-alive, te, upgrade, transfer-encoding, content-length, host, trailer\r\n\r\n3\r\nabc\r\n0\r\nconnection: close\r\nkeep-alive: timeout=5\r\nte: trailers\r\nupgrade: h2c\r\ntransfer-encoding: chunked\r\ncontent-length: 3\r\nhost: evil\r\ntrailer: x\r\nx-end: 1\r\n\r\n",
        "200 open",
        "POST /a [trailer: x-end, connection, keep-alive, te, upgrade, transfer-encoding, content-length, host, trailer] [transfer-encoding: chunked] abc {x-end: 1}",
    ),
    (
        "POST /a HTTP/1.1\r\nhost: orders\r\ntransfer-encoding: chunked\r\ntrailer: x-forwarded-client-cert, x-pillion-attempt, authorization, x-end\r\n\r\n3\r\nabc\r\n0\r\nx-forwarded-client-cert: URI=evil\r\nx-pillion-attempt: 2\r\nauthorization: evil\r\nx-end: 1\r\n\r\n",
        "200 open",
        "POST /a [trailer: x-forwarded-client-cert, x-pillion-attempt, authorization, x-end] [transfer-encoding: chunked] abc {x-end: 1}",
    ),
    (
        "POST /a HTTP/1.1\r\nhost: orders\r\ntransfer-encoding: chunked\r\nconnection: x-mine\r\ntrailer: x-mine, x-end\r\n\r\n3\r\nabc\r\n0\r\nx-mine: 1\r\nx-end: 1\r\n\r\n",
        "200 open",
        "POST /a [trailer: x-mine, x-end] [transfer-encoding: chunked] abc {x-end: 1}",
    ),
    (
        "POST /a HTTP/1.1\r\nhost: orders\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nconnection: close\r\n\r\n",
        "200 open",
        "POST /a [transfer-encoding: chunked] abc",
    ),
];

#[tokio::test(start_paused = true)]
async fn b17_trailers_that_must_not_be_any_are_removed_from_a_request_and_the_rest_goes_on() {
    ask_everywhere(B17_REQUESTS).await;
}

/// The client asks with `te: trailers`.
const B17_ANSWERS: &[Answered<'_>] = &[
    (
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-end\r\n\r\n3\r\nabc\r\n0\r\nx-end: 1\r\n\r\n",
        "200 [trailer: x-end] [transfer-encoding: chunked] abc {x-end: 1}",
        "reused",
    ),
    (
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: connection, x-end, set-cookie\r\n\r\n3\r\nabc\r\n0\r\nconnection: close\r\nkeep-alive: timeout=5\r\nte: trailers\r\nupgrade: h2c\r\ntransfer-encoding: chunked\r\ncontent-length: 3\r\nset-cookie: a=b\r\nx-end: 1\r\n\r\n",
        "200 [trailer: connection, x-end, set-cookie] [transfer-encoding: chunked] abc {x-end: 1}",
        "reused",
    ),
    (
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nconnection: x-mine\r\ntrailer: x-mine, x-end\r\n\r\n3\r\nabc\r\n0\r\nx-mine: 1\r\nx-end: 1\r\n\r\n",
        "200 [trailer: x-mine, x-end] [transfer-encoding: chunked] abc {x-end: 1}",
        "reused",
    ),
    (
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nconnection: close\r\n\r\n",
        "200 [transfer-encoding: chunked] abc",
        "reused",
    ),
];

#[tokio::test(start_paused = true)]
async fn b17_trailers_that_must_not_be_any_are_removed_from_an_answer_and_the_rest_goes_on() {
    answer_everywhere("GET", false, B17_ANSWERS).await;
}

/// h2 itself refuses to send, and to receive, those trailers that concern one connection.
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
    let (told, mut seen) = tokio::sync::mpsc::unbounded_channel();
    let _echo =
        mesh.http2(A, 100, move |_, mut request: Request<RecvStream>, mut respond: SendResponse<Bytes>| {
            let told = told.clone();
            async move {
                let body = http2::read_body(request.body_mut()).await;
                let trailers = request.body_mut().trailers().await.expect("trailers come");
                told.send((body.expect("a body"), trailers)).expect("the test listens");
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
