//! HTTP/1 answers and where they end.

use super::{Answered, answer_everywhere};

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
    ("HTTP/1.1 200 OK\r\ncontent-length: 2, 2\r\n\r\nab", "502 protocol_error", "closed"),
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

/// First lines of answers.
const LINES: &[Answered<'_>] = &[
    ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nab", "200 [content-length: 2] ab", "reused"),
    ("HTTP/1.1 200\r\ncontent-length: 2\r\n\r\nab", "200 [content-length: 2] ab", "reused"),
    ("HTTP/1.1 200 \r\ncontent-length: 2\r\n\r\nab", "200 [content-length: 2] ab", "reused"),
    ("HTTP/1.1 200 Fine by me\r\ncontent-length: 2\r\n\r\nab", "200 [content-length: 2] ab", "reused"),
    ("HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nab", "200 [content-length: 2] ab", "closed"),
    (
        "HTTP/1.0 200 OK\r\ncontent-length: 2\r\nconnection: keep-alive\r\n\r\nab",
        "200 [content-length: 2] ab",
        "reused",
    ),
    (
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nab",
        "200 [content-length: 2] ab",
        "closed",
    ),
    ("HTTP/1.1 200 OK\ncontent-length: 2\n\nab", "502 protocol_error", "closed"),
    ("HTTP/1.2 200 OK\r\ncontent-length: 2\r\n\r\nab", "502 protocol_error", "closed"),
    ("HTTP/2 200 OK\r\ncontent-length: 2\r\n\r\nab", "502 protocol_error", "closed"),
    ("ICY 200 OK\r\ncontent-length: 2\r\n\r\nab", "502 protocol_error", "closed"),
    ("http/1.1 200 OK\r\ncontent-length: 2\r\n\r\nab", "502 protocol_error", "closed"),
    ("HTTP/1.1 20 OK\r\ncontent-length: 2\r\n\r\nab", "502 protocol_error", "closed"),
    ("HTTP/1.1 2000 OK\r\ncontent-length: 2\r\n\r\nab", "502 protocol_error", "closed"),
    ("HTTP/1.1 099 OK\r\ncontent-length: 2\r\n\r\nab", "502 protocol_error", "closed"),
    ("HTTP/1.1  200 OK\r\ncontent-length: 2\r\n\r\nab", "502 protocol_error", "closed"),
    ("HTTP/1.1\t200 OK\r\ncontent-length: 2\r\n\r\nab", "502 protocol_error", "closed"),
    ("hello\r\n\r\n", "502 protocol_error", "closed"),
];

/// Fields of answers.
const FIELDS: &[Answered<'_>] = &[
    ("HTTP/1.1 200 OK\r\ncontent-length : 2\r\n\r\nab", "502 protocol_error", "closed"),
    ("HTTP/1.1 200 OK\r\n content-length: 2\r\n\r\nab", "502 protocol_error", "closed"),
    ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\nx-a: 1\r\n 2\r\n\r\nab", "502 protocol_error", "closed"),
    ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\nx-a\r\n\r\nab", "502 protocol_error", "closed"),
    ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\nx-a: 1\0\r\n\r\nab", "502 protocol_error", "closed"),
    ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\nx-a: 1\r2\r\n\r\nab", "502 protocol_error", "closed"),
    ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\nx(a: 1\r\n\r\nab", "502 protocol_error", "closed"),
];

/// Bodies of answers, and the bytes after them. Bytes beyond the announced length belong to no answer.
const BODIES: &[Answered<'_>] = &[
    (
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nabHTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil",
        "200 [content-length: 2] ab",
        "closed",
    ),
    ("HTTP/1.1 204 No Content\r\n\r\nab", "204", "closed"),
    ("HTTP/1.1 304 Not Modified\r\n\r\nab", "304", "closed"),
    (
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
        "200 [transfer-encoding: chunked] ab",
        "closed",
    ),
    (
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1;a=b\r\na\r\n001\r\nb\r\n00\r\n\r\n",
        "200 [transfer-encoding: chunked] ab",
        "reused",
    ),
    ("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", "200 [content-length: 0]", "reused"),
];

/// Answers to HEAD, which have no body.
const TO_HEAD: &[Answered<'_>] = &[
    ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nab", "200 [content-length: 2]", "closed"),
    ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", "200", "reused"),
    ("HTTP/1.1 200 OK\r\n\r\n", "200", "reused"),
];

#[tokio::test(start_paused = true)]
async fn corpus_of_first_lines() {
    answer_everywhere("GET", false, LINES).await;
}

#[tokio::test(start_paused = true)]
async fn corpus_of_fields() {
    answer_everywhere("GET", false, FIELDS).await;
}

#[tokio::test(start_paused = true)]
async fn corpus_of_bodies() {
    answer_everywhere("GET", false, BODIES).await;
}

#[tokio::test(start_paused = true)]
async fn corpus_of_answers_to_head() {
    answer_everywhere("HEAD", false, TO_HEAD).await;
}
