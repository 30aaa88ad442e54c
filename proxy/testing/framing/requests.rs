//! HTTP/1 requests and where they end.

use super::{Asked, ask_everywhere, asked, caller, inbound, pair};
use crate::testing::backend::{OK, UNAVAILABLE};
use crate::testing::mesh::{A, B, Mesh};
use crate::testing::peer::Peer;

const REFUSED: &str = "400 bad_request closed";

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

/// The bytes after a refused request are never read as another request.
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
async fn b11_a_body_of_unknown_length_is_whole_in_every_try() {
    let mesh = Mesh::default();
    let (a, b) = (mesh.answering(A, UNAVAILABLE), mesh.answering(B, OK));
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80, 10.0.0.2:80], load_balancer: round_robin");
    let request = "GET / HTTP/1.1\r\nhost: orders\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    assert_eq!(sidecar.client().await.ask(request).await.status_and_reason(), (200, None));
    assert_eq!((&*a.requests()[0].body, &*b.requests()[0].body), ("abc", "abc"));
}

/// The first endpoint closes every connection at once. A request that was not sent is framed again for the next
/// endpoint.
#[tokio::test(start_paused = true)]
async fn b11_a_body_of_unknown_length_that_was_not_sent_goes_to_another_endpoint() {
    let mesh = Mesh::default();
    let _hangs_up = mesh.scripted(A, |peer: Peer, _| async move { drop(peer) });
    let b = mesh.answering(B, OK);
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80, 10.0.0.2:80], load_balancer: round_robin");
    let request = "GET / HTTP/1.1\r\nhost: orders\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    for _ in 0..2 {
        assert_eq!(sidecar.client().await.ask(request).await.status_and_reason(), (200, None));
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

/// RFC 9112, 6.3, allows to refuse such a request, or to go by its Transfer-Encoding and to close the connection.
const B15_REQUESTS_OF_TWO_LENGTHS: &[Asked<'_>] = &[
    (
        "POST /a HTTP/1.1\r\nhost: orders\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\nGET /b HTTP/1.1\r\nhost: orders\r\n\r\n",
        REFUSED,
        "",
    ),
    (
        "POST /a HTTP/1.1\r\nhost: orders\r\ntransfer-encoding: chunked\r\ncontent-length: 2\r\n\r\n3\r\nabc\r\n0\r\n\r\nGET /b HTTP/1.1\r\nhost: orders\r\n\r\n",
        REFUSED,
        "",
    ),
];

#[tokio::test(start_paused = true)]
async fn b15_a_request_has_one_canonical_length_or_is_refused() {
    ask_everywhere(B15_REQUESTS).await;
    ask_everywhere(B15_REQUESTS_OF_TWO_LENGTHS).await;
}

/// Announced fields that may be trailers are passed on. HTTP/1 forwards only what `trailer` names.
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

/// First lines of requests. HTTP/1.0 has no keep-alive unless the client asks for it.
const LINES: &[Asked<'_>] = &[
    ("GET /a HTTP/1.1\r\nhost: orders\r\n\r\n", "200 open", "GET /a"),
    ("\r\n\r\nGET /a HTTP/1.1\r\nhost: orders\r\n\r\n", "200 open", "GET /a"),
    ("GET /a HTTP/1.0\r\nhost: orders\r\n\r\n", "200 closed", "GET /a"),
    (
        "GET /a HTTP/1.1\r\nhost: orders\r\n\r\nGET /b HTTP/1.1\r\nhost: orders\r\n\r\n",
        "200 200 open",
        "GET /a + GET /b",
    ),
    (
        "GET /a HTTP/1.1\r\nhost: orders\r\nconnection: close\r\n\r\nGET /b HTTP/1.1\r\nhost: orders\r\n\r\n",
        "200 closed",
        "GET /a",
    ),
    ("GET /a?b HTTP/1.1\r\nhost: orders\r\n\r\n", "200 open", "GET /a?b"),
    ("GET /a#x HTTP/1.1\r\nhost: orders\r\n\r\n", REFUSED, ""),
    ("GET #x HTTP/1.1\r\nhost: orders\r\n\r\n", "400 bad_request closed", ""),
    ("GET ?x HTTP/1.1\r\nhost: orders\r\n\r\n", "400 bad_request closed", ""),
    ("GET a HTTP/1.1\r\nhost: orders\r\n\r\n", REFUSED, ""),
    ("GET  HTTP/1.1\r\nhost: orders\r\n\r\n", "400 bad_request closed", ""),
    ("GET  /a HTTP/1.1\r\nhost: orders\r\n\r\n", "400 bad_request closed", ""),
    ("GET /a  HTTP/1.1\r\nhost: orders\r\n\r\n", "400 bad_request closed", ""),
    ("GET /a HTTP/1.1 \r\nhost: orders\r\n\r\n", "400 bad_request closed", ""),
    ("GET /a HTTP/1.2\r\nhost: orders\r\n\r\n", "400 bad_request closed", ""),
    ("GET /a HTTP/2.0\r\nhost: orders\r\n\r\n", "400 bad_request closed", ""),
    ("GET /a http/1.1\r\nhost: orders\r\n\r\n", "400 bad_request closed", ""),
    ("GET /a\r\nhost: orders\r\n\r\n", "400 bad_request closed", ""),
    ("GET\t/a\tHTTP/1.1\r\nhost: orders\r\n\r\n", "400 bad_request closed", ""),
    ("G(T /a HTTP/1.1\r\nhost: orders\r\n\r\n", "400 bad_request closed", ""),
    ("GET /a\x01 HTTP/1.1\r\nhost: orders\r\n\r\n", "400 bad_request closed", ""),
    ("GET /a HTTP/1.1\nhost: orders\n\n", REFUSED, ""),
];

/// Fields of requests.
const FIELDS: &[Asked<'_>] = &[
    ("GET /a HTTP/1.1\r\n\r\n", REFUSED, ""),
    ("GET /a HTTP/1.1\r\nhost: orders\r\nhost: other\r\n\r\n", REFUSED, ""),
    ("GET /a HTTP/1.1\r\nhost: a b\r\n\r\n", REFUSED, ""),
    ("GET /a HTTP/1.1\r\nhost : orders\r\n\r\n", "400 bad_request closed", ""),
    ("GET /a HTTP/1.1\r\n host: orders\r\n\r\n", "400 bad_request closed", ""),
    ("GET /a HTTP/1.1\r\nhost: orders\r\nx-a: 1\r\n 2\r\n\r\n", "400 bad_request closed", ""),
    ("GET /a HTTP/1.1\r\nhost: orders\r\nx-a\r\n\r\n", "400 bad_request closed", ""),
    ("GET /a HTTP/1.1\r\nhost: orders\r\n: 1\r\n\r\n", "400 bad_request closed", ""),
    ("GET /a HTTP/1.1\r\nhost: orders\r\nx(a: 1\r\n\r\n", "400 bad_request closed", ""),
    ("GET /a HTTP/1.1\r\nhost: orders\r\nx-a: 1\0\r\n\r\n", "400 bad_request closed", ""),
    ("GET /a HTTP/1.1\r\nhost: orders\r\nx-a: 1\r2\r\n\r\n", "400 bad_request closed", ""),
    (
        "POST /a HTTP/1.1\r\nhost: orders\r\ntransfer-encoding : chunked\r\n\r\n0\r\n\r\n",
        "400 bad_request closed",
        "",
    ),
    (
        "POST /a HTTP/1.1\r\nhost: orders\r\ntransfer-encoding:\tchunked\r\n\r\n0\r\n\r\n",
        "200 open",
        "POST /a [transfer-encoding: chunked]",
    ),
    (
        "POST /a HTTP/1.1\r\nhost: orders\r\ntransfer-encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
        "400 bad_request closed",
        "",
    ),
    (
        "POST /a HTTP/1.1\r\nhost: orders\r\ntransfer-encoding: \"chunked\"\r\n\r\n0\r\n\r\n",
        "400 bad_request closed",
        "",
    ),
    (
        "POST /a HTTP/1.1\r\nhost: orders\r\ntransfer-encoding: chunked;q=1\r\n\r\n0\r\n\r\n",
        "400 bad_request closed",
        "",
    ),
    (
        "POST /a HTTP/1.1\r\nhost: orders\r\nx-a: 1\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        REFUSED,
        "",
    ),
];

/// Bodies with a length, and what follows them.
const LENGTHS: &[Asked<'_>] = &[
    (
        "POST /a HTTP/1.1\r\nhost: orders\r\ncontent-length: 2\r\n\r\nabGET /b HTTP/1.1\r\nhost: orders\r\n\r\n",
        "200 200 open",
        "POST /a [content-length: 2] ab + GET /b",
    ),
    (
        "POST /a HTTP/1.1\r\nhost: orders\r\ncontent-length: 0\r\n\r\nGET /b HTTP/1.1\r\nhost: orders\r\n\r\n",
        "200 200 open",
        "POST /a [content-length: 0] + GET /b",
    ),
    (
        "POST /a HTTP/1.1\r\nhost: orders\r\ncontent-length: 2\r\n\r\nabcd",
        "200 open",
        "POST /a [content-length: 2] ab",
    ),
    ("POST /a HTTP/1.0\r\nhost: orders\r\ncontent-length: 3\r\n\r\nab", "open", ""),
    (
        "POST /a HTTP/1.0\r\nhost: orders\r\ncontent-length: 2\r\n\r\nab",
        "200 closed",
        "POST /a [content-length: 2] ab",
    ),
];

/// Bodies in chunks that are well formed.
const CHUNKS: &[Asked<'_>] = &[
    (
        "POST /a HTTP/1.1\r\nhost: orders\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        "200 open",
        "POST /a [transfer-encoding: chunked] abc",
    ),
    (
        "POST /a HTTP/1.1\r\nhost: orders\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n2\r\nbc\r\n0\r\n\r\n",
        "200 open",
        "POST /a [transfer-encoding: chunked] abc",
    ),
    (
        "POST /a HTTP/1.1\r\nhost: orders\r\ntransfer-encoding: chunked\r\n\r\n0003\r\nabc\r\n000\r\n\r\n",
        "200 open",
        "POST /a [transfer-encoding: chunked] abc",
    ),
    (
        "POST /a HTTP/1.1\r\nhost: orders\r\ntransfer-encoding: chunked\r\n\r\nA\r\n0123456789\r\n0\r\n\r\n",
        "200 open",
        "POST /a [transfer-encoding: chunked] 0123456789",
    ),
    (
        "POST /a HTTP/1.1\r\nhost: orders\r\ntransfer-encoding: chunked\r\n\r\n3;a=b\r\nabc\r\n0;c\r\n\r\n",
        "200 open",
        "POST /a [transfer-encoding: chunked] abc",
    ),
    (
        "POST /a HTTP/1.1\r\nhost: orders\r\ntransfer-encoding: chunked\r\n\r\n3;a=\"b\"\r\nabc\r\n0\r\n\r\n",
        "200 open",
        "POST /a [transfer-encoding: chunked] abc",
    ),
    (
        "POST /a HTTP/1.1\r\nhost: orders\r\ntransfer-encoding: chunked\r\n\r\n3 \r\nabc\r\n0\r\n\r\n",
        "200 open",
        "POST /a [transfer-encoding: chunked] abc",
    ),
    (
        "POST /a HTTP/1.1\r\nhost: orders\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nGET /b HTTP/1.1\r\nhost: orders\r\n\r\n",
        "200 200 open",
        "POST /a [transfer-encoding: chunked] + GET /b",
    ),
];

#[tokio::test(start_paused = true)]
async fn corpus_of_first_lines() {
    ask_everywhere(LINES).await;
}

#[tokio::test(start_paused = true)]
async fn corpus_of_fields() {
    ask_everywhere(FIELDS).await;
}

#[tokio::test(start_paused = true)]
async fn corpus_of_lengths() {
    ask_everywhere(LENGTHS).await;
}

#[tokio::test(start_paused = true)]
async fn corpus_of_chunks() {
    ask_everywhere(CHUNKS).await;
}

/// Malformed chunks. Each follows the head of a POST.
const MALFORMED_CHUNKS: &[&str] = &[
    "\r\nabc\r\n0\r\n\r\n",
    " 3\r\nabc\r\n0\r\n\r\n",
    "+3\r\nabc\r\n0\r\n\r\n",
    "-3\r\nabc\r\n0\r\n\r\n",
    "0x3\r\nabc\r\n0\r\n\r\n",
    "3g\r\nabc\r\n0\r\n\r\n",
    "3_0\r\nabc\r\n0\r\n\r\n",
    "3\nabc\r\n0\r\n\r\n",
    "3\r\nabc\n0\r\n\r\n",
    "3\r\nabcd\r\n0\r\n\r\n",
    "3\r\nabc0\r\n\r\n",
    "3;a\nb\r\nabc\r\n0\r\n\r\n",
    "3\r\nabc\r\n0\r\nx-a\r\n\r\n",
    "3\r\nabc\r\n0\r\nx a: 1\r\n\r\n",
    "3\r\nabc\r\n0\r\n x-a: 1\r\n\r\n",
    "10000000000000000\r\nabc\r\n0\r\n\r\n",
    "FFFFFFFFFFFFFFFFF\r\nabc\r\n0\r\n\r\n",
];

/// Other tests (B12) check the status. This one checks that no such request is ever complete, and that none is read as
/// the beginning of another request.
#[tokio::test(start_paused = true)]
async fn corpus_of_malformed_chunks() {
    for chunks in MALFORMED_CHUNKS {
        let head = "POST /a HTTP/1.1\r\nhost: orders\r\ntransfer-encoding: chunked\r\n\r\n";
        let next = "GET /b HTTP/1.1\r\nhost: orders\r\n\r\n";
        for start in [caller, inbound, |mesh: &Mesh| pair(mesh, "http1"), |mesh: &Mesh| pair(mesh, "http2")] {
            let (heard, seen) = asked(&format!("{head}{chunks}{next}"), start).await;
            let is_refused = heard.starts_with('4') && heard.ends_with(" closed") && !heard.contains("200");
            assert!(is_refused && seen.is_empty(), "{chunks:?} {heard:?} {seen:?}");
        }
    }
}
