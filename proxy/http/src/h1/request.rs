//! The content of a client's request, between the server that reads the connection and the task that forwards the
//! request.
//!
//! It is a mailbox for one piece: the [`Incoming`] asks for a piece, and the [`Feed`] reads no further before that.
//! Usually one task polls both, and then neither wakes the other: the task polls its feed after everything that may
//! have polled the body. A body may also be read by another task (for an upstream of HTTP/2, or in a replay).

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::{HeaderMap, HeaderName};
use http_body::{Frame, SizeHint};
use parking_lot::Mutex;

use crate::error::Broken;

/// The reader's end.
pub struct Incoming {
    slot: Arc<Mutex<Slot>>,
    /// The part of the announced length that was not read yet.
    left: Option<u64>,
    /// The reader has begun.
    has_begun: bool,
    /// Names of trailers that concern only the client's connection.
    names: Vec<HeaderName>,
}

/// The server's end, which reads the connection. If it is dropped early, the body breaks off.
pub struct Feed(Arc<Mutex<Slot>>);

struct Slot {
    data: Bytes,
    then: Then,
    is_wanted: bool,
    /// The reader is gone.
    is_abandoned: bool,
    reader: Option<Waker>,
    feeder: Option<Waker>,
}

/// What comes after a piece of content.
#[derive(Debug)]
pub enum Then {
    /// More content, or its end: this is not known yet.
    More,
    /// Boxed, because they are rare, and the head and the content of each answer would be moved with room for them.
    Trailers(Box<HeaderMap>),
    End,
    Broken(Broken),
}

/// What the reader wants from the feed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Demand {
    /// The reader waits for the next piece.
    Wanted,
    /// The reader wants no piece now, or has not taken the last one. The feed is woken when this changes.
    NotNow,
    /// The reader is gone.
    Abandoned,
}

/// Makes a body and its feed. `length`: the announced length. `first`: the piece that came together with the head.
pub fn channel(length: Option<u64>, first: Option<(Bytes, Then)>) -> (Feed, Incoming) {
    let (data, then) = first.unwrap_or((Bytes::new(), Then::More));
    let slot = Arc::new(Mutex::new(Slot {
        data,
        then,
        is_wanted: false,
        is_abandoned: false,
        reader: None,
        feeder: None,
    }));
    (Feed(slot.clone()), Incoming { slot, left: length, has_begun: false, names: Vec::new() })
}

impl Feed {
    pub fn demand(&self, cx: &Context<'_>) -> Demand {
        let mut slot = self.0.lock();
        if slot.is_abandoned {
            return Demand::Abandoned;
        }
        keep(&mut slot.feeder, cx);
        if slot.is_wanted { Demand::Wanted } else { Demand::NotNow }
    }

    /// Gives the reader the piece that it wanted. The piece may be empty if `then` is not [`Then::More`].
    pub fn put(&self, data: Bytes, then: Then, cx: &Context<'_>) {
        let mut slot = self.0.lock();
        (slot.data, slot.then, slot.is_wanted) = (data, then, false);
        wake(slot.reader.as_ref(), cx);
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        let mut slot = self.0.lock();
        if let Then::More = slot.then {
            slot.then = Then::Broken(Broken::Ended);
            if let Some(reader) = slot.reader.take() {
                reader.wake();
            }
        }
    }
}

impl Incoming {
    /// Removes these names from the trailers.
    pub fn remove_trailers(&mut self, names: Vec<HeaderName>) {
        self.names = names;
    }

    /// The names that `Connection` listed, which may not be trailers either.
    pub fn named(&self) -> &[HeaderName] {
        &self.names
    }
}

impl http_body::Body for Incoming {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let this = &mut *self;
        this.has_begun = true;
        let mut slot = this.slot.lock();
        let Slot { data, then, .. } = &mut *slot;
        let next = next_frame(data, then, &mut this.left);
        if next.is_pending() {
            slot.is_wanted = true;
            keep(&mut slot.reader, cx);
            wake(slot.feeder.as_ref(), cx);
        }
        next
    }

    /// Never true before the first read for a body of unknown length, even if it is empty, so that it is forwarded in
    /// the form in which it came.
    fn is_end_stream(&self) -> bool {
        if self.left.is_none() && !self.has_begun {
            return false;
        }
        let slot = self.slot.lock();
        slot.data.is_empty() && matches!(slot.then, Then::End)
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        let mut slot = self.slot.lock();
        slot.is_abandoned = true;
        if let Some(feeder) = slot.feeder.take() {
            feeder.wake();
        }
    }
}

/// The next frame of a body: the data that came, and then what follows it. Pending if more data follow. `left`: the
/// rest of the announced length.
pub(super) fn next_frame(
    data: &mut Bytes,
    then: &mut Then,
    left: &mut Option<u64>,
) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
    if !data.is_empty() {
        let data = std::mem::take(data);
        *left = left.map(|left| left.saturating_sub(data.len() as u64));
        return Poll::Ready(Some(Ok(Frame::data(data))));
    }
    if let Then::More = then {
        return Poll::Pending;
    }
    Poll::Ready(match std::mem::replace(then, Then::End) {
        Then::More | Then::End => None,
        Then::Trailers(trailers) => Some(Ok(Frame::trailers(*trailers))),
        Then::Broken(why) => Some(Err(why)),
    })
}

/// Keeps the waker of `cx`. It is not cloned if it is kept already.
fn keep(kept: &mut Option<Waker>, cx: &Context<'_>) {
    match kept {
        Some(kept) => kept.clone_from(cx.waker()),
        None => *kept = Some(cx.waker().clone()),
    }
}

/// Wakes another task. The current task is not woken, because it polls the other end itself.
fn wake(other: Option<&Waker>, cx: &Context<'_>) {
    if let Some(other) = other.filter(|other| !other.will_wake(cx.waker())) {
        other.wake_by_ref();
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use http::HeaderValue;
    use http_body::Body as _;

    use super::*;

    fn poll(body: &mut Incoming) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        Pin::new(body).poll_frame(&mut here())
    }

    fn here() -> Context<'static> {
        Context::from_waker(Waker::noop())
    }

    fn data(polled: Poll<Option<Result<Frame<Bytes>, Broken>>>) -> Bytes {
        let Poll::Ready(Some(Ok(frame))) = polled else { return Bytes::new() };
        frame.into_data().unwrap()
    }

    #[test]
    fn a_piece_is_read_when_the_reader_wants_it_and_the_last_one_shows_the_end() {
        let (feed, mut body) = channel(Some(5), None);
        assert_eq!(feed.demand(&here()), Demand::NotNow, "the reader has not asked for a piece");
        assert!(poll(&mut body).is_pending());
        assert_eq!(feed.demand(&here()), Demand::Wanted);
        feed.put(Bytes::from_static(b"abc"), Then::More, &here());
        assert_eq!(feed.demand(&here()), Demand::NotNow);
        assert_eq!(body.size_hint().exact(), Some(5));
        assert_eq!(data(poll(&mut body)), "abc");
        assert!(poll(&mut body).is_pending());
        feed.put(Bytes::from_static(b"de"), Then::End, &here());
        assert!(!body.is_end_stream());
        assert_eq!(data(poll(&mut body)), "de");
        assert_eq!((body.is_end_stream(), body.size_hint().exact()), (true, Some(0)));
        drop(feed);
        assert!(matches!(poll(&mut body), Poll::Ready(None)), "an end is not a cut");
    }

    #[test]
    fn trailers_come_after_the_content_and_end_it() {
        let (feed, mut body) = channel(None, None);
        let trailers = HeaderMap::from_iter([(http::header::ETAG, HeaderValue::from_static("x"))]);
        feed.put(Bytes::from_static(b"abc"), Then::Trailers(trailers.clone().into()), &here());
        assert_eq!(data(poll(&mut body)), "abc");
        let Poll::Ready(Some(Ok(frame))) = poll(&mut body) else { unreachable!("trailers") };
        assert_eq!(frame.into_trailers().unwrap(), trailers);
        assert!(body.is_end_stream());
    }

    #[test]
    fn content_that_came_with_the_head_is_there_at_once() {
        let (feed, mut body) = channel(Some(3), Some((Bytes::from_static(b"abc"), Then::End)));
        drop(feed);
        assert_eq!(data(poll(&mut body)), "abc");
        assert!(body.is_end_stream());
        let (_feed, mut body) = channel(None, Some((Bytes::new(), Then::End)));
        assert!(!body.is_end_stream() && body.size_hint().exact().is_none(), "in chunks as it came");
        assert!(matches!(poll(&mut body), Poll::Ready(None)) && body.is_end_stream());
    }

    #[test]
    fn a_dropped_feed_cuts_the_body_after_the_content_that_came_before() {
        let (feed, mut body) = channel(None, None);
        feed.put(Bytes::from_static(b"abc"), Then::More, &here());
        drop(feed);
        assert_eq!(data(poll(&mut body)), "abc");
        assert!(matches!(poll(&mut body), Poll::Ready(Some(Err(Broken::Ended)))));
    }

    #[test]
    fn a_dropped_reader_wants_no_piece() {
        let (feed, body) = channel(Some(5), None);
        drop(body);
        assert_eq!(feed.demand(&here()), Demand::Abandoned);
    }

    #[tokio::test]
    async fn a_reader_in_another_task_and_its_feed_wake_each_other() {
        let (feed, mut body) = channel(None, None);
        let reader = tokio::spawn(async move {
            let mut all = Vec::new();
            while let Some(Ok(frame)) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
                all.extend_from_slice(&frame.into_data().unwrap());
            }
            all
        });
        for piece in ["ab", "cd"] {
            let wanted = |cx: &mut Context<'_>| match feed.demand(cx) {
                Demand::Wanted => {
                    feed.put(piece.into(), Then::More, cx);
                    Poll::Ready(())
                }
                _ => Poll::Pending,
            };
            poll_fn(wanted).await;
        }
        poll_fn(|cx| match feed.demand(cx) {
            Demand::Wanted => {
                feed.put(Bytes::new(), Then::End, cx);
                Poll::Ready(())
            }
            _ => Poll::Pending,
        })
        .await;
        assert_eq!(reader.await.unwrap(), b"abcd");
    }
}
