//! Compares whole connections with hyper: a message that the engine accepts is accepted by hyper too, with the same
//! bytes.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use pillion_http1::EndOfInput;
use proptest::prelude::*;
use tokio::io::AsyncWriteExt;
use tokio::runtime::Runtime;

use crate::corpus::{ANSWERS, REQUESTS, changed_answers, changed_requests};
use crate::drive::{Asking, Message, Served, text};

/// A message: method and target or status, fields by name, content, trailers.
type Seen = (String, Vec<(String, String)>, String, Vec<(String, String)>);

/// The fields with names in lower case and sorted, because a map keeps neither case nor order. Lengths are left out,
/// because the engine makes them canonical.
fn sorted(fields: &[(String, String)]) -> Vec<(String, String)> {
    let mut fields: Vec<_> =
        fields.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.clone())).collect();
    fields.retain(|(name, _)| !matches!(&**name, "content-length" | "transfer-encoding"));
    fields.sort();
    fields
}

fn of_map(map: &http::HeaderMap) -> Vec<(String, String)> {
    sorted(
        &map.iter()
            .map(|(name, value)| (text(name.as_str().as_bytes()), text(value.as_bytes())))
            .collect::<Vec<_>>(),
    )
}

fn ours(message: &Message) -> Seen {
    (message.first.clone(), sorted(&message.fields), message.content(), sorted(&message.trailers))
}

/// Whether a field may be a trailer. The engine removes others; hyper keeps them.
fn is_trailer(name: &str) -> bool {
    let removed =
        ["connection", "host", "content-length", "transfer-encoding", "trailer", "expect", "upgrade"];
    !removed.contains(&name)
}

async fn collected(body: Incoming) -> Option<(String, Vec<(String, String)>)> {
    let collected = body.collect().await.ok()?;
    let mut trailers = collected.trailers().map(of_map).unwrap_or_default();
    trailers.retain(|(name, _)| is_trailer(name));
    Some((text(&collected.to_bytes()), trailers))
}

/// The complete requests that hyper reads from these bytes, each answered with an empty 200.
fn hyper_served(runtime: &Runtime, bytes: &[u8]) -> Vec<Seen> {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let notes = seen.clone();
    runtime.block_on(async {
        let (mut near, far) = tokio::io::duplex(1 << 20);
        near.write_all(bytes).await.unwrap();
        near.shutdown().await.unwrap();
        let service = service_fn(move |request: Request<Incoming>| {
            let notes = notes.clone();
            async move {
                let (head, body) = request.into_parts();
                let target = if head.uri.path() == "*" { "*".to_owned() } else { head.uri.to_string() };
                if let Some((content, trailers)) = collected(body).await {
                    let first = format!("{} {target}", head.method);
                    notes.lock().unwrap().push((first, of_map(&head.headers), content, trailers));
                }
                Ok::<_, Infallible>(Response::new(http_body_util::Empty::<bytes::Bytes>::new()))
            }
        });
        let conn = hyper::server::conn::http1::Builder::new()
            .half_close(true)
            .serve_connection(TokioIo::new(far), service);
        drop(conn.await);
    });
    Arc::try_unwrap(seen).map(|seen| seen.into_inner().unwrap()).unwrap_or_default()
}

/// The answer to GET that hyper reads from these bytes, after which the connection ends.
fn hyper_asked(runtime: &Runtime, bytes: &[u8]) -> Option<Seen> {
    runtime.block_on(async {
        let (mut near, far) = tokio::io::duplex(1 << 20);
        let (mut send, conn) = hyper::client::conn::http1::handshake(TokioIo::new(far)).await.unwrap();
        let conn = tokio::spawn(conn);
        let request =
            Request::get("/").header("host", "a").body(http_body_util::Empty::<bytes::Bytes>::new()).unwrap();
        let asked = send.send_request(request);
        let feed = async {
            tokio::task::yield_now().await; // hyper refuses bytes that come before the request
            let mut room = [0; 1024];
            drop(tokio::io::AsyncReadExt::read(&mut near, &mut room).await);
            drop(near.write_all(bytes).await);
            drop(near.shutdown().await);
        };
        let (answer, ()) = tokio::join!(asked, feed);
        let (head, body) = answer.ok()?.into_parts();
        let (content, trailers) = collected(body).await?;
        conn.abort();
        Some((head.status.as_u16().to_string(), of_map(&head.headers), content, trailers))
    })
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().build().unwrap()
}

/// Adds the path to an absolute form without one, as `http::Uri` does when it writes it.
fn normalised(mut seen: Seen) -> Seen {
    if let Ok(uri) = seen.0.split(' ').nth(1).unwrap_or_default().parse::<http::Uri>()
        && uri.path() != "*"
    {
        seen.0 = format!("{} {uri}", seen.0.split(' ').next().unwrap_or_default());
    }
    seen.3.retain(|(name, _)| is_trailer(name));
    seen
}

fn ours_served(bytes: &[u8]) -> Vec<Seen> {
    Served::of(bytes).requests.iter().map(|read| normalised(ours(read))).collect()
}

fn ours_asked(bytes: &[u8]) -> Option<Seen> {
    let mut asking = Asking::answered("GET", bytes);
    let is_whole = asking.fault.is_none() && (asking.is_whole || asking.end() == EndOfInput::Whole);
    let answer = asking.answer.filter(|_| is_whole && !asking.is_switched)?;
    let (first, fields, content, trailers) = ours(&answer);
    Some((first.split(' ').next().unwrap_or_default().to_owned(), fields, content, trailers))
}

#[test]
fn hyper_reads_every_valid_message_as_the_engine_does() {
    let runtime = runtime();
    for request in REQUESTS {
        assert_eq!(
            ours_served(request.as_bytes()),
            hyper_served(&runtime, request.as_bytes()),
            "{request:?}"
        );
    }
    for answer in ANSWERS {
        let ours = ours_asked(answer.as_bytes());
        assert!(ours.is_some());
        assert_eq!(ours, hyper_asked(&runtime, answer.as_bytes()), "{answer:?}");
    }
}

/// Whether an answer has both lengths. RFC 9112, 6.3, gives the coding precedence, but hyper uses the length.
fn has_both_lengths(bytes: &[u8]) -> bool {
    let text = bytes.to_ascii_lowercase();
    let has = |name: &[u8]| text.windows(name.len()).any(|window| window == name);
    has(b"content-length") && has(b"transfer-encoding")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn hyper_serves_every_request_that_the_engine_serves_from_changed_bytes(bytes in changed_requests(3)) {
        let (ours, theirs) = (ours_served(&bytes), hyper_served(&runtime(), &bytes));
        prop_assert!(ours.len() <= theirs.len(), "{ours:?}\n{theirs:?}\n{}", bytes.escape_ascii());
        prop_assert_eq!(&ours[..], &theirs[..ours.len()], "{}", bytes.escape_ascii());
    }

    #[test]
    fn hyper_reads_every_answer_that_the_engine_reads_from_changed_bytes(bytes in changed_answers(3)) {
        if let Some(ours) = ours_asked(&bytes).filter(|_| !has_both_lengths(&bytes)) {
            prop_assert_eq!(Some(ours), hyper_asked(&runtime(), &bytes), "{}", bytes.escape_ascii());
        }
    }
}
