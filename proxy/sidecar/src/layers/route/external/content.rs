//! Content that a check holds: of the request, and of the authorizer's answer. All of it counts as memory of the client.

use std::future::poll_fn;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Version};
use http_body::{Body as _, Frame};
use pillion_base::error::Error;
use pillion_base::exchanges::{Counted, ExchangePlace};
use pillion_http::begun::{Begun, Unread};
use pillion_http::headers::grpc_timeout;
use pillion_http1::Known;
use pillion_model::Reason;
use tokio::time::{Instant, timeout_at};

use crate::http::exchange::Exchange;
use crate::http::{Body, Call};
use crate::layers::limit::{client_left, upload_failure};
use crate::state::Route;

/// 64 KiB: the content of an answer. A page that asks to log in is smaller.
const MOST_BYTES: usize = 64 * 1024;

/// Why the authorizer does not get a request's body.
pub(super) enum Uncollected {
    /// The client has not sent it, so the application cannot get it either.
    Broken(Error),
    /// It is longer than the authorizer may get. The application could still get it.
    TooLong(Error),
    /// The sidecar has no memory for it now. The application could still get it.
    NoRoom(Error),
}

/// Reads the request's body to its end. The application gets it as it came.
///
/// # Errors
/// It is longer than `most`, or does not come.
pub(super) async fn collect(call: &mut Call, route: &Route, most: u64) -> Result<Vec<u8>, Uncollected> {
    if call.body.is_empty() || call.common.tunnel.is_some() {
        return Ok(Vec::new());
    }
    ask_for_body(call);
    let exchange = call.common.exchange.clone();
    let max_body = route.cluster.max_body;
    call.body.watch_request_once(&exchange, max_body);
    let patience = Patience::new(call, route);
    let mut begun = Begun::new(std::mem::replace(&mut call.body, Body::empty()), exchange.room());
    let collected = loop {
        let read = patience.wait(begun.read(most)).await.map_err(Uncollected::Broken)?;
        match read {
            Ok(true) => {}
            Ok(false) => break Ok(begun.copied()),
            Err(why) => break Err(uncollected(&why, &exchange, max_body, most)),
        }
    };
    call.body = Body::begun(begun);
    collected
}

/// Lets a client that waits for `100 Continue` send its body. The application is not asked any more.
fn ask_for_body(call: &mut Call) {
    let (version, headers) = (call.head.version, &call.head.headers);
    let mut expected = headers.all(Known::Expect);
    let waits = expected.next().is_some_and(|value| value.eq_ignore_ascii_case(b"100-continue"));
    if waits && expected.next().is_none() && version != Version::HTTP_10 {
        drop(expected);
        call.head_mut().headers.remove(Known::Expect);
        if version == Version::HTTP_2 {
            call.common.exchange.interim.expect_continue();
        }
    }
}

fn uncollected<E>(why: &Unread<E>, exchange: &Exchange, max_body: Option<u64>, most: u64) -> Uncollected {
    match why {
        Unread::TooLong => {
            let detail = format!("the request's body is over {most} bytes (ext_authz.with_body)");
            Uncollected::TooLong(Error::new(Reason::BodyTooLarge, detail))
        }
        Unread::NoRoom => {
            let why = exchange.room().map_or_else(String::new, |room| room.why_no_room());
            Uncollected::NoRoom(Error::new(Reason::Overloaded, why))
        }
        Unread::Broken(_) => {
            Uncollected::Broken(upload_failure(exchange, max_body).unwrap_or_else(|| client_left(exchange)))
        }
    }
}

/// How long a client may take for its body: the bounds of every request to the application.
struct Patience {
    idle: Option<Duration>,
    end: Option<(Instant, Reason)>,
}

impl Patience {
    fn new(call: &Call, route: &Route) -> Self {
        let since = |reason| move |after| (call.common.exchange.started + after, reason);
        let deadline = call.common.is_grpc.then(|| grpc_timeout(&call.head.headers)).flatten();
        let ends = [
            deadline.map(since(Reason::RequestTimeout)),
            route.timeouts.max_duration.map(since(Reason::MaxDuration)),
        ];
        let end = ends.into_iter().flatten().min_by_key(|(at, _)| *at);
        Self { idle: route.timeouts.stream_idle.body(), end }
    }

    /// Waits for the next piece.
    async fn wait<T>(&self, piece: impl Future<Output = T>) -> Result<T, Error> {
        let stalled = self.idle.map(|idle| (Instant::now() + idle, Reason::RequestStalled));
        let Some((at, reason)) = stalled.into_iter().chain(self.end).min_by_key(|(at, _)| *at) else {
            return Ok(piece.await);
        };
        timeout_at(at, piece).await.map_err(|_elapsed| {
            let detail = match reason {
                Reason::RequestStalled => {
                    format!(
                        "the client sent no byte of its body for {:?} (stream_idle_timeout)",
                        self.idle.unwrap_or_default()
                    )
                }
                Reason::MaxDuration => "the client did not send its body within max_duration".to_owned(),
                _ => "the client did not send its body within its own deadline (grpc-timeout)".to_owned(),
            };
            Error::new(reason, detail)
        })
    }
}

/// The content of an authorizer's answer, as far as it was read. It counts as memory of the client as long as it is held.
pub(super) struct Content {
    pub(super) bytes: Bytes,
    pub(super) trailers: HeaderMap,
    /// `Err`: there is more of it, or there may be.
    pub(super) end: Result<(), Unfinished>,
}

/// Why the content of an answer was not read to its end.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unfinished {
    #[error("its answer broke off")]
    BrokeOff,
    #[error("its answer did not end in time (ext_authz.timeout)")]
    Late,
    #[error("its answer has more than 64 KiB of content")]
    TooLong,
    #[error("{0}")]
    NoRoom(String),
}

impl Content {
    /// Reads the content until its end, or until something is in the way. It counts in `room`.
    pub(super) async fn read(mut body: Body, room: Option<ExchangePlace>, until: Instant) -> Self {
        let (mut content, mut trailers) = (Counted::new(room, 1), HeaderMap::new());
        let reading = async {
            while let Some(frame) = next(&mut body).await {
                match frame?.into_data() {
                    Ok(data) if content.as_ref().len() + data.len() > MOST_BYTES => {
                        return Err(Unfinished::TooLong);
                    }
                    Ok(data) if content.add(&data, MOST_BYTES) => {}
                    Ok(_) => return Err(Unfinished::NoRoom(content.why_no_room())),
                    Err(frame) => trailers = frame.into_trailers().unwrap_or_default(),
                }
            }
            Ok(())
        };
        let end = timeout_at(until, reading).await.unwrap_or(Err(Unfinished::Late));
        Self { bytes: content.into_bytes(), trailers, end }
    }
}

/// Reads content that is of no use, so that its connection can serve another check. Where it is too long, late or broken,
/// the connection is closed.
pub(super) async fn skip(mut body: Body, until: Instant) {
    let mut left = MOST_BYTES;
    let reading = async {
        while let Some(Ok(frame)) = next(&mut body).await {
            match left.checked_sub(frame.data_ref().map_or(0, Bytes::len)) {
                Some(less) => left = less,
                None => return,
            }
        }
    };
    let _late_content_is_of_no_use_either = timeout_at(until, reading).await;
}

async fn next(body: &mut Body) -> Option<Result<Frame<Bytes>, Unfinished>> {
    let frame = poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await?;
    Some(frame.map_err(|_error| Unfinished::BrokeOff))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use pillion_base::exchanges::Exchanges;
    use pillion_base::memory::ceiling::Ceiling;

    use super::*;

    #[tokio::test]
    async fn the_content_of_an_answer_takes_room_of_the_client_as_long_as_it_is_held() {
        let exchanges = Exchanges::of_one_in(1, Arc::new(Ceiling::of_host(0))); // 1 MiB, of which one client gets a half
        let place = exchanges.holder("mallory").begin(0).expect("a place");
        let until = Instant::now() + Duration::from_secs(60);
        let read = |bytes| Content::read(Body::full(vec![b'x'; bytes]), Some(place.beside()), until);
        let mut held = Vec::new();
        let refused = loop {
            let content = read(MOST_BYTES).await;
            match content.end {
                Ok(()) => held.push(content),
                Err(why) => break why,
            }
        };
        assert!(held.len() == 7 && matches!(refused, Unfinished::NoRoom(_)), "{refused}");
        drop(held);
        assert_eq!(read(MOST_BYTES).await.end, Ok(()));
        assert_eq!(read(MOST_BYTES + 1).await.end, Err(Unfinished::TooLong));
    }
}
