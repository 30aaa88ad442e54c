//! Tests with a scripted upstream at the other end of a pipe.

use std::future::Future as _;
use std::io::ErrorKind;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use bytes::Bytes;
use http_body::Body as _;
use pillion_base::deadline::Timers;
use pillion_base::net::memory::Pipe;
use pillion_base::net::{Prefixed, Stream, Transport};
use pillion_model::Reason;
use pillion_testkit::http1::Reader;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::Instant;

use http::Request;

use super::*;
use crate::Body;
use crate::transfer::{Interim, Progress, ResponseEnd};

struct Watcher {
    progress: Progress,
    interim: Interim,
    timers: Timers,
    has_answer_begun: AtomicBool,
}

impl Watcher {
    fn new() -> Arc<Self> {
        let (interim, timers) = (Interim::default(), Timers::default());
        let has_answer_begun = AtomicBool::new(false);
        Arc::new(Self { progress: Progress::new(Instant::now()), interim, timers, has_answer_begun })
    }
}

impl Observer for Watcher {
    fn started(&self) -> Instant {
        Instant::now()
    }
    fn progress(&self) -> &Progress {
        &self.progress
    }
    fn interim(&self) -> &Interim {
        &self.interim
    }
    fn timers(&self) -> &Timers {
        &self.timers
    }
    fn answer_began(&self) {
        self.has_answer_begun.store(true, Relaxed);
    }
    fn cut(&self, _reason: Reason) {}
    fn was_tunnel(&self, _received: u64) {}
    fn finish(&self, _ending: ResponseEnd) {}
}

const LIMITS: HeadLimits = HeadLimits { fields: 100, bytes: 64 * 1024, list_bytes: 64 * 1024 };

fn pair(capacity: usize) -> (Connection, Pipe) {
    let (near, far) = Pipe::pair(capacity);
    let io = Prefixed::new(Transport::Plain(Prefixed::new(Stream::Memory(near, None))));
    (Connection::new(io, LIMITS), far)
}

fn get() -> Request<Body> {
    Request::builder().uri("/a?b").header("host", "orders").body(Body::empty()).unwrap()
}

fn post(body: Body) -> Request<Body> {
    Request::builder().method("POST").uri("/").header("host", "orders").body(body).unwrap()
}

async fn send(conn: &Connection, request: Request<Body>) -> Result<Response<Body>, FailedRequest> {
    let (head, mut body) = request.into_parts();
    let sent = conn.send(&head.into(), &mut body, &*Watcher::new()).await;
    sent.map(|answer| answer.map(Body::from))
}

async fn answered(conn: &Connection, request: Request<Body>) -> Response<Body> {
    send(conn, request).await.unwrap_or_else(|failed| panic!("{}", failed.error))
}

/// Reads a body: its content, its trailers, and whether it was complete.
async fn read(body: &mut Body) -> (Vec<u8>, Option<http::HeaderMap>, bool) {
    let (mut all, mut trailers) = (Vec::new(), None);
    loop {
        match poll_fn(|cx| std::pin::Pin::new(&mut *body).poll_frame(cx)).await {
            None => return (all, trailers, true),
            Some(Err(_)) => return (all, trailers, false),
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => all.extend_from_slice(&data),
                Err(frame) => trailers = frame.into_trailers().ok(),
            },
        }
    }
}

/// Runs one exchange: the status, the content, whether it was complete, and how the connection goes on.
async fn exchange(conn: &Connection, request: Request<Body>) -> (u16, String, bool, Rest) {
    let mut answer = answered(conn, request).await;
    let (content, _, is_whole) = read(answer.body_mut()).await;
    let status = answer.status().as_u16();
    (status, String::from_utf8(content).unwrap(), is_whole, conn.rest())
}

/// An upstream that answers with `said`, in pieces of `size` bytes, and then ends.
async fn says(mut far: Pipe, said: Vec<u8>, size: usize) {
    let mut request = [0; 1024];
    while far.read(&mut request).await.is_ok_and(|count| count > 0) {
        for piece in said.chunks(size) {
            if far.write_all(piece).await.is_err() {
                return;
            }
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn answers_of_every_framing_come_whole_in_pieces_of_any_size() {
    let long = "x".repeat(40_000);
    let chunks: String =
        (0..3000).map(|nth| format!("{:x}\r\n{}\r\n", nth % 9 + 1, "y".repeat(nth % 9 + 1))).collect();
    let joined: String = (0..3000).map(|nth| "y".repeat(nth % 9 + 1)).collect();
    for (said, content) in [
        ("HTTP/1.1 204 No Content\r\n\r\n".to_owned(), ""),
        ("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_owned(), ""),
        ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello".to_owned(), "hello"),
        (format!("HTTP/1.1 200 OK\r\ncontent-length: 40000\r\n\r\n{long}"), &long),
        (format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n9c40\r\n{long}\r\n0\r\n\r\n"), &long),
        (format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{chunks}0\r\n\r\n"), &joined),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n".to_owned(), ""),
    ] {
        for size in [1, 7, 4096, usize::MAX] {
            let (conn, far) = pair(64 * 1024);
            let upstream = tokio::spawn(says(far, said.clone().into_bytes(), size));
            for _again in 0..2 {
                let (status, came, is_whole, rest) = exchange(&conn, get()).await;
                let expected = if status == 204 { "" } else { content };
                assert_eq!(
                    (came.len(), is_whole, rest),
                    (expected.len(), true, Rest::Ready),
                    "{size}: {said:.60}"
                );
                assert_eq!(came, expected);
                assert!(!conn.is_closed());
            }
            drop(conn);
            upstream.await.unwrap();
        }
    }
}

#[tokio::test]
async fn the_length_is_known_where_it_was_announced_and_trailers_follow_chunks() {
    let (conn, mut far) = pair(64 * 1024);
    far.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nabc").await.unwrap();
    let mut answer = answered(&conn, get()).await;
    assert_eq!(answer.body().size_hint().exact(), Some(6));
    far.write_all(b"def").await.unwrap();
    assert_eq!(read(answer.body_mut()).await.0, b"abcdef");
    assert!(answer.body().is_end_stream());
    assert_eq!(conn.rest(), Rest::Ready);
    let said = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\ngrpc-status: 0\r\nX-Sum: 1\r\n\r\n";
    far.write_all(said).await.unwrap();
    let mut answer = answered(&conn, get()).await;
    assert_eq!(answer.body().size_hint().exact(), None);
    answer.body_mut().remove_trailers(vec![http::HeaderName::from_static("x-sum")]);
    let (content, trailers, is_whole) = read(answer.body_mut()).await;
    assert_eq!((&content[..], is_whole, conn.rest()), (&b"abc"[..], true, Rest::Ready));
    assert_eq!(trailers.unwrap().keys().map(|name| name.as_str()).collect::<Vec<_>>(), ["grpc-status"]);
}

#[tokio::test]
async fn head_and_small_content_leave_in_one_write_and_a_known_length_is_announced() {
    for (body, expected) in
        [(Body::full("hello"), "content-length: 5\r\n\r\nhello"), (Body::empty(), "host: orders\r\n\r\n")]
    {
        let (conn, mut far) = pair(64 * 1024);
        let mut sending = Box::pin(send(&conn, post(body)));
        assert!(poll_fn(|cx| Poll::Ready(sending.as_mut().poll(cx))).await.is_pending());
        let mut written = vec![0; 1024];
        let count = far.read(&mut written).await.unwrap();
        let written = String::from_utf8_lossy(&written[..count]).into_owned();
        assert!(written.starts_with("POST / HTTP/1.1\r\n") && written.ends_with(expected), "{written}");
    }
}

/// A body with its feed, for tests that feed it step by step.
fn fed(length: Option<u64>) -> (crate::h1::request::Feed, Body) {
    let (feed, incoming) = crate::h1::request::channel(length, None);
    (feed, Body::request(incoming))
}

fn feed(feed: &crate::h1::request::Feed, data: &'static [u8], then: Then) {
    feed.put(Bytes::from_static(data), then, &Context::from_waker(Waker::noop()));
}

#[tokio::test]
async fn a_body_of_unknown_length_goes_out_in_chunks_with_its_trailers() {
    let (conn, far) = pair(64 * 1024);
    let (feeder, body) = fed(None);
    let upstream = tokio::spawn(async move {
        let mut reader = Reader::new(far);
        let request = reader.message().await.unwrap();
        reader.io.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        (request, reader)
    });
    let mut sending = Box::pin(exchange(&conn, post(body)));
    assert!(poll_fn(|cx| Poll::Ready(sending.as_mut().poll(cx))).await.is_pending());
    feed(&feeder, b"some", Then::More);
    assert!(poll_fn(|cx| Poll::Ready(sending.as_mut().poll(cx))).await.is_pending());
    let mut trailers = http::HeaderMap::new();
    trailers.insert("x-sum", http::HeaderValue::from_static("4"));
    feed(&feeder, b"more", Then::Trailers(trailers.into()));
    assert_eq!(sending.await, (200, String::new(), true, Rest::Ready));
    let (request, _reader) = upstream.await.unwrap();
    assert_eq!((&request.body[..], request.is_whole), (&b"somemore"[..], true));
}

#[tokio::test]
async fn reading_an_answer_that_came_early_sends_the_rest_of_its_request() {
    let (conn, mut far) = pair(1024);
    let (feeder, body) = fed(Some(8));
    far.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n").await.unwrap();
    let mut answer = answered(&conn, post(body)).await;
    let mut reading = Box::pin(read(answer.body_mut()));
    assert!(poll_fn(|cx| Poll::Ready(reading.as_mut().poll(cx))).await.is_pending());
    feed(&feeder, b"12345678", Then::End);
    assert!(poll_fn(|cx| Poll::Ready(reading.as_mut().poll(cx))).await.is_pending());
    let mut request = Reader::new(&mut far);
    assert_eq!(request.message().await.unwrap().body, b"12345678");
    far.write_all(b"done").await.unwrap();
    assert_eq!(reading.await.0, b"done");
    assert_eq!(conn.rest(), Rest::Ready, "the exchange is whole on both sides");
}

#[tokio::test]
async fn the_rest_of_a_request_is_sent_even_if_its_answer_is_not_read() {
    let (conn, mut far) = pair(1024);
    let (feeder, body) = fed(Some(8));
    far.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n").await.unwrap();
    let mut answer = answered(&conn, post(body)).await;
    for (data, then) in [(&b"1234"[..], Then::More), (b"5678", Then::End)] {
        answer.body_mut().move_upload(&mut Context::from_waker(Waker::noop()));
        feed(&feeder, data, then);
    }
    answer.body_mut().move_upload(&mut Context::from_waker(Waker::noop()));
    let mut request = Reader::new(&mut far);
    assert_eq!(request.message().await.unwrap().body, b"12345678");
    far.write_all(b"done").await.unwrap();
    assert_eq!(read(answer.body_mut()).await.0, b"done");
    assert_eq!(conn.rest(), Rest::Ready);
}

#[tokio::test]
async fn when_a_request_breaks_off_the_answers_reader_gets_the_error_after_the_content_that_came() {
    let (conn, mut far) = pair(1024);
    let (feeder, body) = fed(Some(8));
    far.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\npart").await.unwrap();
    let mut answer = answered(&conn, post(body)).await;
    drop(feeder);
    answer.body_mut().move_upload(&mut Context::from_waker(Waker::noop()));
    let (came, _, is_whole) = read(answer.body_mut()).await;
    assert_eq!((&came[..], is_whole), (&b"part"[..], false));
}

#[tokio::test]
async fn b2_an_answer_to_a_request_that_never_ends_ends_the_connection() {
    let (conn, mut far) = pair(1024);
    let (_feeder, body) = fed(None);
    far.write_all(b"HTTP/1.1 413 No\r\ncontent-length: 2\r\n\r\nno").await.unwrap();
    assert_eq!(exchange(&conn, post(body)).await, (413, "no".to_owned(), true, Rest::Over));
}

#[tokio::test]
async fn b2_the_last_bytes_of_a_request_are_written_after_its_answer() {
    let (conn, mut far) = pair(64);
    let mut sending = Box::pin(exchange(&conn, post(Body::full(vec![b'x'; 4000]))));
    assert!(poll_fn(|cx| Poll::Ready(sending.as_mut().poll(cx))).await.is_pending());
    far.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
    assert_eq!(sending.await, (200, "ok".to_owned(), true, Rest::Writing));
    let mut request = Reader::new(far);
    let (is_ready, request) = tokio::join!(conn.written(), request.message());
    assert_eq!((is_ready, request.unwrap().body.len()), (true, 4000));
}

#[tokio::test]
async fn interim_answers_are_forwarded_and_a_100_asks_for_the_body() {
    let (conn, mut far) = pair(1024);
    let watcher = Watcher::new();
    let (head, body) = post(Body::full("body")).into_parts();
    let mut head = RequestHead::from(head);
    let mut body = Body::gated(crate::expect::ask_first(&mut head.headers, body, &watcher.timers));
    let mut sending = Box::pin(conn.send(&head, &mut body, &*watcher));
    assert!(poll_fn(|cx| Poll::Ready(sending.as_mut().poll(cx))).await.is_pending());
    let mut reader = Reader::new(&mut far);
    let head = reader.head().await.unwrap();
    assert!(head.contains("expect: 100-continue") && head.contains("content-length: 4"), "{head}");
    far.write_all(
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: a\r\nconnection: x\r\nx: 1\r\n\r\n",
    )
    .await
    .unwrap();
    assert!(poll_fn(|cx| Poll::Ready(sending.as_mut().poll(cx))).await.is_pending());
    far.read_exact(&mut [0; 4]).await.unwrap();
    let mut answers = Vec::new();
    watcher.interim.take(&Context::from_waker(Waker::noop()), |interim| answers.push(interim));
    assert_eq!(answers.iter().map(|interim| interim.status().as_u16()).collect::<Vec<_>>(), [103]);
    assert_eq!(answers[0].headers().len(), 1, "fields of the connection are not forwarded");
    far.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
    assert!(sending.await.is_ok());
}

#[tokio::test]
async fn a_tunnel_begins_with_the_bytes_that_came_after_its_answer() {
    for (method, said) in [
        ("GET", "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n"),
        ("CONNECT", "HTTP/1.1 200 OK\r\n\r\n"),
    ] {
        let (conn, mut far) = pair(1024);
        far.write_all(said.as_bytes()).await.unwrap();
        far.write_all(b"first").await.unwrap();
        let uri = if method == "GET" { "/" } else { "orders:80" };
        let request =
            Request::builder().method(method).uri(uri).header("host", "orders").header("upgrade", "x");
        let (head, mut body) = request.body(Body::empty()).unwrap().into_parts();
        let answer = conn.send(&head.into(), &mut body, &*Watcher::new()).await;
        let Ok(answer) = answer else { panic!("{method}") };
        let (_, Answer::Tunnel(mut io)) = answer.into_parts() else { panic!("{method}") };
        let mut first = [0; 5];
        io.read_exact(&mut first).await.unwrap();
        io.write_all(b"back").await.unwrap();
        assert_eq!(&first, b"first");
        let mut reader = Reader::new(&mut far);
        assert!(reader.head().await.unwrap().starts_with(&format!("{method} {uri} HTTP/1.1\r\n")));
        assert!(conn.take_io().is_none() && conn.is_closed());
    }
}

/// How a request fails: the reason, whether a part of an answer had come, and whether the request is given back.
async fn fails(conn: &Connection, request: Request<Body>) -> (ClientFailure, bool, bool) {
    match send(conn, request).await {
        Ok(answer) => panic!("{}", answer.status()),
        Err(failed) => (failed.error, failed.has_answer_begun, failed.is_unsent),
    }
}

#[tokio::test]
async fn the_error_of_a_connection_that_ends_without_an_answer_says_how_it_ended() {
    for (said, resets, expected) in [
        ("", false, (true, false)),
        ("", true, (false, false)),
        ("HTTP/1.1 200 O", false, (true, true)),
        ("HTTP/1.1 103 Early Hints\r\n\r\n", false, (true, true)),
    ] {
        let (conn, mut far) = pair(1024);
        let upstream = async {
            let mut reader = Reader::new(&mut far);
            reader.head().await.unwrap();
            far.write_all(said.as_bytes()).await.unwrap();
            far.set_abort(resets);
            drop(far);
        };
        let ((failure, has_begun, is_unsent), ()) = tokio::join!(fails(&conn, get()), upstream);
        assert_eq!((matches!(failure, ClientFailure::Left), has_begun), expected, "{said:?} {failure}");
        assert!(!is_unsent);
    }
}

#[tokio::test]
async fn a_request_that_is_given_up_is_told_whether_its_answer_had_begun() {
    for (said, ends, expected) in [
        ("", false, false),
        ("", true, false),
        ("H", false, true),
        ("HTTP/1.1 403 No\r\nx-a: ", false, true),
        ("HTTP/1.1 403 No\r\nx-a: ", true, true),
        ("HTTP/1.1 103 Early Hints\r\n\r\n", false, true),
    ] {
        let (conn, mut far) = pair(1024);
        let (watcher, (head, mut body)) = (Watcher::new(), get().into_parts());
        let head = head.into();
        let mut sending = std::pin::pin!(conn.send(&head, &mut body, &*watcher));
        assert!(waits(sending.as_mut()).await, "nothing was said");
        far.write_all(said.as_bytes()).await.unwrap();
        let far = (!ends).then_some(far);
        assert_eq!(waits(sending.as_mut()).await, !ends, "{said:?}");
        assert_eq!(watcher.has_answer_begun.load(Relaxed), expected, "{said:?} {ends}");
        drop(far);
    }
}

/// Polls it once. Returns whether it waits.
async fn waits(mut of: std::pin::Pin<&mut impl Future>) -> bool {
    std::future::poll_fn(|cx| std::task::Poll::Ready(of.as_mut().poll(cx).is_pending())).await
}

#[tokio::test]
async fn bytes_that_are_not_an_answer_are_refused() {
    for (said, is_large) in [
        ("SSH-2.0\r\n", false),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n", false),
        ("HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n", false),
        ("HTTP/1.1 101 Switching Protocols\r\n\r\n", false),
        (&format!("HTTP/1.1 200 OK\r\n{}\r\n", "x: 1\r\n".repeat(101)), true),
        (&format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "1".repeat(64 * 1024)), true),
    ] {
        let (conn, mut far) = pair(256 * 1024);
        far.write_all(said.as_bytes()).await.unwrap();
        let (failure, _, is_unsent) = fails(&conn, get()).await;
        assert!(matches!(failure, ClientFailure::Malformed(_)) && !is_unsent, "{said:.60} {failure}");
        assert_eq!(failure.is_large_head(), is_large, "{failure}");
    }
}

#[tokio::test]
async fn b7_a_cut_never_looks_like_an_end() {
    for (said, resets, is_whole) in [
        ("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\npart", false, false),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\npart\r\n", false, false),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\npartx", false, false),
        ("HTTP/1.0 200 OK\r\n\r\npart", true, false),
        ("HTTP/1.0 200 OK\r\n\r\npart", false, true),
    ] {
        let (conn, mut far) = pair(1024);
        let upstream = async {
            let mut reader = Reader::new(&mut far);
            reader.head().await.unwrap();
            far.write_all(said.as_bytes()).await.unwrap();
            far.set_abort(resets);
            drop(far);
        };
        let (came, ()) = tokio::join!(exchange(&conn, get()), upstream);
        assert_eq!(came, (200, "part".to_owned(), is_whole, Rest::Over), "{said:?} {resets}");
    }
}

#[tokio::test]
async fn a_pooled_connection_is_closed_by_its_end_and_by_bytes_without_a_request() {
    for said in ["", "HTTP/1.1 200 OK\r\n\r\n"] {
        let (conn, mut far) = pair(1024);
        far.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
        assert_eq!(exchange(&conn, get()).await.3, Rest::Ready);
        assert!(!conn.is_closed());
        match said {
            "" => drop(far),
            said => far.write_all(said.as_bytes()).await.unwrap(),
        }
        assert!(conn.is_closed(), "{said:?}");
    }
    let (conn, mut far) = pair(1024);
    far.write_all(b"HTTP/1.1 204 No Content\r\n\r\nmore").await.unwrap();
    assert_eq!(exchange(&conn, get()).await.3, Rest::Over, "they came with the answer");
}

#[tokio::test]
async fn a_pooled_connection_is_a_socket_and_a_few_words() {
    let (conn, mut far) = pair(64 * 1024);
    let long = "x".repeat(10_000);
    far.write_all(format!("HTTP/1.1 200 OK\r\ncontent-length: 10000\r\n\r\n{long}").as_bytes())
        .await
        .unwrap();
    let (status, content, _, rest) = exchange(&conn, post(Body::full(vec![b'y'; 10_000]))).await;
    assert_eq!((status, content.len(), rest), (200, 10_000, Rest::Ready));
    assert_eq!(conn.0.lock().held(), 0, "bytes of buffers");
    assert!(size_of::<Wire>() - size_of::<Io>() < 400, "{}", size_of::<Wire>());
}

#[tokio::test(start_paused = true)]
async fn b4_an_answer_that_has_come_is_returned_although_a_write_failed() {
    let (conn, mut far) = pair(64);
    let mut sending = Box::pin(exchange(&conn, post(Body::full(vec![b'x'; 4000]))));
    assert!(poll_fn(|cx| Poll::Ready(sending.as_mut().poll(cx))).await.is_pending());
    far.write_all(b"HTTP/1.1 413 No\r\ncontent-length: 2\r\n\r\nno").await.unwrap();
    drop(far); // with the request unread
    assert_eq!(sending.await, (413, "no".to_owned(), true, Rest::Over));
}

#[tokio::test(start_paused = true)]
async fn b4_a_failed_write_is_the_error_if_no_answer_comes() {
    let (conn, far) = pair(1024);
    far.set_abort(true);
    drop(far);
    let (failure, has_begun, is_unsent) = fails(&conn, get()).await;
    assert!(
        matches!(&failure, ClientFailure::Io(error) if error.kind() == ErrorKind::ConnectionReset),
        "{failure}"
    );
    assert!(!has_begun && is_unsent, "no byte of it was written");
}

#[tokio::test]
async fn a_request_whose_body_breaks_off_gets_no_answer() {
    let (conn, mut far) = pair(1024);
    let (feeder, body) = fed(Some(8));
    let mut sending = Box::pin(fails(&conn, post(body)));
    assert!(poll_fn(|cx| Poll::Ready(sending.as_mut().poll(cx))).await.is_pending());
    feed(&feeder, b"1234", Then::Broken(crate::error::Broken::Ended));
    let (failure, _, is_unsent) = sending.await;
    assert!(matches!(failure, ClientFailure::Body) && !is_unsent);
    drop(conn);
    let message = Reader::new(&mut far).message().await.unwrap();
    assert!(!message.is_whole);
}
