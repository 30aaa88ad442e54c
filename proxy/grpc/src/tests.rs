//! Calls to a server of the tests' own, written with the crate `h2`, and to bytes that are no server.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut as _, Bytes};
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::{HeaderMap, HeaderName, HeaderValue, Response};
use proptest::prelude::*;
use prost::Message;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::{Client, Code, Connection, Request, Status};

const PATH: &str = "/test.Echo/Say";
const MOST: usize = 100_000;
const SECOND: Duration = Duration::from_secs(1);

#[derive(Clone, PartialEq, Message)]
struct Word {
    #[prost(string, tag = "1")]
    text: String,
}

fn word(text: &str) -> Word {
    Word { text: text.to_owned() }
}

/// A message as gRPC frames it.
fn framed(message: &Word) -> Bytes {
    let mut bytes = Vec::new();
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(message.encoded_len()).expect("a small message"));
    message.encode(&mut bytes).expect("room");
    bytes.into()
}

type Fields = &'static [(&'static str, &'static str)];

fn fields(fields: Fields) -> HeaderMap {
    let all = fields.iter();
    all.map(|&(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
}

fn ok() -> Response<()> {
    Response::builder().header("content-type", "application/grpc").body(()).expect("a head")
}

fn trailers_only(said: Fields) -> Response<()> {
    let mut answer = ok();
    answer.headers_mut().extend(fields(said));
    answer
}

/// One call as its server sees it.
struct Asked {
    head: http::request::Parts,
    body: RecvStream,
    answer: SendResponse<Bytes>,
}

impl Asked {
    /// The message of the call.
    async fn word(&mut self) -> Word {
        let mut bytes = Vec::new();
        while let Some(data) = self.body.data().await {
            let data = data.expect("the whole message");
            self.body.flow_control().release_capacity(data.len()).expect("an open call");
            bytes.extend(data);
        }
        Word::decode(bytes.get(5..).expect("a prefix")).expect("a message")
    }

    /// Answers with these bytes and trailers.
    fn say(&mut self, head: Response<()>, bytes: impl Into<Bytes>, said: Fields) {
        let mut stream = self.answer.send_response(head, false).expect("an open call");
        stream.send_data(bytes.into(), false).expect("an open call");
        stream.send_trailers(fields(said)).expect("an open call");
    }
}

/// A client of a server that answers each call with `answers`.
async fn served<F>(answers: impl Fn(Asked) -> F + Send + 'static) -> Client<Connection>
where
    F: Future<Output = ()> + Send + 'static,
{
    let (near, far) = duplex(64 * 1024);
    tokio::spawn(async move {
        let mut server = h2::server::handshake(far).await.expect("a client");
        while let Some(Ok((request, answer))) = server.accept().await {
            let (head, body) = request.into_parts();
            tokio::spawn(answers(Asked { head, body, answer }));
        }
    });
    client(near).await
}

async fn client(io: DuplexStream) -> Client<Connection> {
    let connection = Connection::open(io).await.expect("an open byte stream");
    Client::new(connection, "http://localhost".parse().expect("an origin"), MOST)
}

async fn say(client: &mut Client<Connection>, text: &str) -> Result<Word, Status> {
    client.unary(PATH, Request::new(word(text)), SECOND).await
}

/// The code with which a call fails when the server does `answers`.
async fn code_of<F>(answers: impl Fn(Asked) -> F + Send + 'static) -> Code
where
    F: Future<Output = ()> + Send + 'static,
{
    say(&mut served(answers).await, "hello").await.expect_err("a failed call").code()
}

#[tokio::test(start_paused = true)]
async fn a_unary_call_carries_a_message_its_metadata_and_its_deadline_both_ways() {
    let mut client = served(|mut asked| async move {
        let field = |name| asked.head.headers.get(name).map(|value| value.to_str().expect("text").to_owned());
        let seen = [field("te"), field("content-type"), field("grpc-timeout"), field("x-of")];
        assert_eq!(seen, ["trailers", "application/grpc", "1000000u", "tests"].map(|said| Some(said.into())));
        assert_eq!(asked.head.uri, "http://localhost/test.Echo/Say");
        let said = asked.word().await.text;
        asked.say(ok(), framed(&word(&format!("{said}, too"))), &[("grpc-status", "0")]);
    })
    .await;
    let mut request = Request::new(word("hello"));
    request.metadata_mut().insert("x-of", "tests".parse().expect("a value"));
    let answer: Word = client.unary(PATH, request, SECOND).await.expect("an answer");
    assert_eq!(answer.text, "hello, too");
}

async fn echo(mut asked: Asked) {
    let said = asked.word().await;
    let framed = framed(&said);
    asked.say(ok(), framed, &[("grpc-status", "0")]);
}

#[tokio::test(start_paused = true)]
async fn messages_up_to_the_bound_pass_and_longer_ones_are_refused_in_both_directions() {
    let mut client = served(echo).await;
    let longest = "x".repeat(MOST - 4); // with its tag and its length
    assert_eq!(say(&mut client, &longest).await.expect("an answer").text, longest);
    let longer = say(&mut client, &format!("{longest}x")).await.expect_err("too long to send");
    assert_eq!(longer.code(), Code::OutOfRange, "{longer}");

    let longer = code_of(async |mut asked: Asked| {
        let longer = framed(&word(&"x".repeat(MOST)));
        asked.say(ok(), longer, &[("grpc-status", "0")]);
    });
    assert_eq!(longer.await, Code::OutOfRange);
}

#[tokio::test(start_paused = true)]
async fn a_stream_yields_each_message_when_it_comes_and_then_its_status() {
    let go_on = Arc::new(Notify::new());
    let waits = go_on.clone();
    let mut client = served(move |mut asked| {
        let waits = waits.clone();
        async move {
            let mut stream = asked.answer.send_response(ok(), false).expect("an open call");
            let two = [framed(&word("one")), framed(&word("two"))].concat();
            stream.send_data(two.into(), false).expect("an open call");
            waits.notified().await;
            stream.send_data(framed(&word("three")), false).expect("an open call");
            let said = &[("grpc-status", "7"), ("grpc-message", "no%20more")];
            stream.send_trailers(fields(said)).expect("an open call");
        }
    })
    .await;
    let messages = client.server_streaming(PATH, Request::new(word("hello")), SECOND).await;
    let mut messages = messages.expect("an answer");
    drop(client); // the answer keeps its connection
    assert_eq!(messages.next().await.expect("a message"), Some(word("one")));
    assert_eq!(messages.next().await.expect("a message"), Some(word("two")));
    go_on.notify_one();
    assert_eq!(messages.next().await.expect("a message"), Some(word("three")));
    let end = messages.next().await.expect_err("its status");
    assert_eq!((end.code(), end.message()), (Code::PermissionDenied, "no more"));
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_not_answered_ends_at_its_deadline_and_is_cancelled() {
    let cancelled = Arc::new(Notify::new());
    let notes = cancelled.clone();
    let mut client = served(move |mut asked| {
        let notes = notes.clone();
        async move {
            let reset = std::future::poll_fn(|cx| asked.answer.poll_reset(cx)).await;
            assert_eq!(reset.expect("a reset"), Reason::CANCEL);
            notes.notify_one();
        }
    })
    .await;
    for is_unary in [true, false] {
        let began = Instant::now();
        let late = match is_unary {
            true => say(&mut client, "hello").await.map(drop),
            false => {
                let messages = client.server_streaming::<_, Word>(PATH, Request::new(word("hello")), SECOND);
                messages.await.map(drop)
            }
        };
        assert_eq!(late.expect_err("no answer").code(), Code::DeadlineExceeded);
        assert_eq!(began.elapsed(), SECOND);
        cancelled.notified().await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_status_of_a_call_is_read_from_its_trailers_its_head_or_its_http_status() {
    let only = |said: Fields| {
        move |mut asked: Asked| async move {
            asked.answer.send_response(trailers_only(said), true).expect("an open call");
        }
    };
    let table: [(Fields, Code); 5] = [
        (&[("grpc-status", "7"), ("grpc-message", "no identity issued")], Code::PermissionDenied),
        (&[("grpc-status", "3")], Code::InvalidArgument),
        (&[("grpc-status", "0")], Code::Internal), // without the message that OK promises
        (&[("grpc-status", "seven")], Code::Unknown),
        (&[], Code::Unknown),
    ];
    for (said, code) in table {
        assert_eq!(code_of(only(said)).await, code, "{said:?}");
    }
    let denied = say(&mut served(only(table[0].0)).await, "hello").await.expect_err("a status");
    assert_eq!(denied.message(), "no identity issued");
    for (http, code) in [(503, Code::Unavailable), (401, Code::Unauthenticated), (404, Code::Unimplemented)] {
        let answers = move |mut asked: Asked| async move {
            let answer = Response::builder().status(http).body(()).expect("a head");
            asked.answer.send_response(answer, true).expect("an open call");
        };
        assert_eq!(code_of(answers).await, code, "{http}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_reset_stream_has_the_status_that_grpc_defines_for_its_reason() {
    for (reason, code) in [
        (Reason::REFUSED_STREAM, Code::Unavailable),
        (Reason::CANCEL, Code::Cancelled),
        (Reason::ENHANCE_YOUR_CALM, Code::ResourceExhausted),
        (Reason::INADEQUATE_SECURITY, Code::PermissionDenied),
        (Reason::PROTOCOL_ERROR, Code::Internal),
        (Reason::INTERNAL_ERROR, Code::Internal),
    ] {
        let before = move |mut asked: Asked| async move { asked.answer.send_reset(reason) };
        assert_eq!(code_of(before).await, code, "{reason:?} before the head");
        let after = move |mut asked: Asked| async move {
            let mut stream = asked.answer.send_response(ok(), false).expect("an open call");
            let half = framed(&word("hello")).slice(..4);
            stream.send_data(half, false).expect("an open call");
            stream.send_reset(reason);
        };
        assert_eq!(code_of(after).await, code, "{reason:?} in a message");
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_was_said_goodbye_to_takes_no_more_calls() {
    let (near, far) = duplex(64 * 1024);
    let connection = Connection::open(near).await.expect("an open byte stream");
    let server = tokio::spawn(async move {
        let mut server = h2::server::handshake(far).await.expect("a client");
        let (request, answer) = server.accept().await.expect("a call").expect("a call");
        let (head, body) = request.into_parts();
        server.graceful_shutdown();
        let answering = tokio::spawn(echo(Asked { head, body, answer }));
        while server.accept().await.is_some() {}
        answering.await.expect("an answer");
    });
    let mut client = Client::new(connection.clone(), "http://localhost".parse().expect("an origin"), MOST);
    assert_eq!(say(&mut client, "hello").await.expect("the call under way ends well").text, "hello");
    server.await.expect("the server ended");
    let after = say(&mut client, "hello").await.expect_err("no connection");
    assert_eq!(after.code(), Code::Unavailable, "{after}");
    assert!(connection.is_closed());
}

#[tokio::test(start_paused = true)]
async fn a_message_that_is_cut_or_no_message_is_an_error_of_its_call_alone() {
    let whole = framed(&word("hello"));
    let mut flagged = whole.to_vec();
    flagged[0] = 1; // compressed, which was not agreed on
    for bytes in
        [whole.slice(..7), flagged.into(), Bytes::from_static(b"<html>"), vec![0, 0, 0, 0, 1, 0xff].into()]
    {
        let answers = move |mut asked: Asked| {
            let bytes = bytes.clone();
            async move {
                match asked.word().await.text.as_str() {
                    "bad" => asked.say(ok(), bytes, &[("grpc-status", "0")]),
                    _ => asked.say(ok(), framed(&word("good")), &[("grpc-status", "0")]),
                }
            }
        };
        let mut client = served(answers).await;
        assert_eq!(say(&mut client, "bad").await.expect_err("no message").code(), Code::Internal);
        assert_eq!(say(&mut client, "hello").await.expect("an answer").text, "good");
    }
}

#[tokio::test(start_paused = true)]
async fn bytes_that_are_no_http2_and_a_server_that_leaves_are_unavailable() {
    let http1 = b"HTTP/1.1 400 Bad Request\r\n\r\n";
    let long_head = [&[0, 0xff, 0xff, 1, 4, 0, 0, 0, 1], &[0; 65_535][..]].concat();
    for bytes in [&http1[..], &long_head, b""] {
        let (near, mut far) = duplex(256 * 1024);
        let mut client = client(near).await;
        far.write_all(bytes).await.expect("room");
        far.shutdown().await.expect("an end");
        let code = say(&mut client, "hello").await.expect_err("no server").code();
        assert_eq!(code, Code::Unavailable, "{:?}", bytes.get(..9));
        drop(far);
    }
}

#[tokio::test(start_paused = true)]
async fn the_connection_is_closed_with_its_last_client() {
    let (near, mut far) = duplex(64 * 1024);
    let one = Connection::open(near).await.expect("an open byte stream");
    let other = one.clone();
    drop(one);
    assert!(!other.is_closed());
    drop(other);
    let mut read = Vec::new();
    far.read_to_end(&mut read).await.expect("an end");
}

#[tokio::test(start_paused = true)]
async fn calls_wait_up_to_a_bound_for_a_server_that_allows_no_stream() {
    let (near, mut far) = duplex(64 * 1024);
    let connection = Connection::open(near).await.expect("an open byte stream");
    far.write_all(b"\0\0\x06\x04\0\0\0\0\0\0\x03\0\0\0\0").await.expect("room"); // no streams at once
    tokio::time::sleep(SECOND).await;
    let mut client = Client::new(connection, http::Uri::from_static("http://localhost"), MOST);
    let mut codes = Vec::new();
    for _ in 0..150 {
        codes.push(say(&mut client, "hello").await.expect_err("no stream").code());
    }
    assert_eq!(codes.iter().filter(|code| **code == Code::DeadlineExceeded).count(), 100, "{codes:?}");
    assert_eq!(codes.iter().filter(|code| **code == Code::ResourceExhausted).count(), 50, "{codes:?}");
}

#[tokio::test(start_paused = true)]
async fn no_task_of_a_connection_outlives_its_last_client_when_the_server_reads_nothing() {
    let (near, mut far) = duplex(256);
    let before = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let connection = Connection::open(near).await.expect("an open byte stream");
    let pings = b"\0\0\x08\x06\0\0\0\0\0pingping".repeat(100);
    let flood = tokio::spawn(async move { drop(far.write_all(&pings).await) }); // each is answered, and no answer is read
    tokio::time::sleep(SECOND).await;
    drop(connection);
    tokio::time::sleep(SECOND).await;
    flood.abort();
    tokio::time::sleep(SECOND).await;
    assert_eq!(tokio::runtime::Handle::current().metrics().num_alive_tasks(), before);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_of_a_server_panic_or_outlast_the_deadline(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        in_body in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
        runtime.expect("a runtime").block_on(async {
            let began = Instant::now();
            let answered = match in_body {
                true => {
                    let answers = move |mut asked: Asked| {
                        let bytes = bytes.clone();
                        async move { asked.say(ok(), bytes, &[("grpc-status", "0")]) }
                    };
                    say(&mut served(answers).await, "hello").await
                }
                false => {
                    let (near, mut far) = duplex(1024);
                    let mut client = client(near).await;
                    far.write_all(&bytes).await.expect("room");
                    say(&mut client, "hello").await
                }
            };
            drop(answered);
            assert!(began.elapsed() <= SECOND, "{:?}", began.elapsed());
        });
    }
}
