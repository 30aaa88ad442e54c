//! A request body with two readers at the same time: the second reader gets the pieces that the first has read.
//!
//! Large pieces are shared. A small one is copied, because it may be a part of a read buffer that it would keep alive. The
//! first reader never waits for the second. The second may be a limited number
//! of bytes behind; if it falls back further, its body is cut. A copy that was cut never looks complete.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use parking_lot::Mutex;
use pillion_model::Reason;

use crate::error::BodyError;

/// A piece below this size is copied when it is kept. A read buffer has 8 to 16 KiB.
const SMALL: usize = 1024;
/// 64 bytes: what a kept piece costs besides its data.
const PER_PIECE: usize = 64;

/// The body for the first reader.
pub struct Tee<B: Body<Data = Bytes>> {
    inner: B,
    /// `None`: the copy is complete, was cut, or has no reader any more.
    copy: Option<Arc<Mutex<State>>>,
}

/// The body for the second reader.
pub struct Copied {
    state: Arc<Mutex<State>>,
    /// The size of the body, for the `content-length` of the copy.
    size: SizeHint,
}

#[derive(Default)]
struct State {
    pieces: VecDeque<Bytes>,
    held: usize,
    bound: usize,
    trailers: Option<HeaderMap>,
    end: Option<End>,
    waker: Option<Waker>,
    is_unwanted: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Whole,
    Cut,
}

/// Splits `body` for two readers. The second may be `bound` bytes behind the first.
pub fn tee<B: Body<Data = Bytes>>(body: B, bound: usize) -> (Tee<B>, Copied) {
    let state = Arc::new(Mutex::new(State { bound, ..State::default() }));
    let copied = Copied { state: state.clone(), size: body.size_hint() };
    (Tee { inner: body, copy: Some(state) }, copied)
}

impl State {
    fn keep(&mut self, piece: &Bytes) {
        self.held += piece.len() + PER_PIECE;
        match self.held <= self.bound {
            true if piece.len() < SMALL => self.pieces.push_back(Bytes::copy_from_slice(piece)),
            true => self.pieces.push_back(piece.clone()),
            false => self.end(End::Cut),
        }
        self.wake();
    }

    fn end(&mut self, end: End) {
        if end == End::Cut {
            self.pieces.clear();
        }
        self.end.get_or_insert(end);
        self.wake();
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

impl<B: Body<Data = Bytes>> Tee<B> {
    fn copy<E>(&mut self, polled: &Option<Result<Frame<Bytes>, E>>) {
        let Some(copy) = &self.copy else { return };
        let mut state = copy.lock();
        match polled {
            Some(Ok(frame)) => match (frame.data_ref(), frame.trailers_ref()) {
                (Some(piece), _) => state.keep(piece),
                (None, Some(trailers)) => {
                    state.trailers = Some(trailers.clone());
                    state.end(End::Whole);
                }
                (None, None) => {}
            },
            Some(Err(_)) => state.end(End::Cut),
            None => state.end(End::Whole),
        }
        if self.inner.is_end_stream() {
            state.end(End::Whole);
        }
        let is_over = state.end.is_some() || state.is_unwanted;
        drop(state);
        if is_over {
            self.copy = None;
        }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Tee<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let polled = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        self.copy(&polled);
        Poll::Ready(polled)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// Cuts the copy when the first reader leaves before the end, because nothing reads the rest of the body.
impl<B: Body<Data = Bytes>> Drop for Tee<B> {
    fn drop(&mut self) {
        if let Some(copy) = self.copy.take() {
            copy.lock().end(if self.inner.is_end_stream() { End::Whole } else { End::Cut });
        }
    }
}

impl Body for Copied {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let mut state = self.state.lock();
        if let Some(piece) = state.pieces.pop_front() {
            state.held -= piece.len() + PER_PIECE;
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        match state.end {
            Some(End::Whole) => {
                Poll::Ready(state.trailers.take().map(|trailers| Ok(Frame::trailers(trailers))))
            }
            Some(End::Cut) => Poll::Ready(Some(Err(BodyError::Cut(Reason::Overloaded)))),
            None => {
                state.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        let state = self.state.lock();
        state.end == Some(End::Whole) && state.pieces.is_empty() && state.trailers.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        self.size
    }
}

impl Drop for Copied {
    fn drop(&mut self) {
        let mut state = self.state.lock();
        state.is_unwanted = true;
        state.pieces.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;
    use crate::Body as AnyBody;

    async fn next<B: Body<Data = Bytes> + Unpin>(body: &mut B) -> Option<Result<Frame<Bytes>, B::Error>> {
        poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await
    }

    fn pieces(all: &[&'static str]) -> impl Body<Data = Bytes, Error = std::convert::Infallible> + Unpin {
        let mut all: VecDeque<Bytes> = all.iter().map(|piece| Bytes::from_static(piece.as_bytes())).collect();
        let stream =
            move |_: &mut Context<'_>| Poll::Ready(all.pop_front().map(|piece| Ok(Frame::data(piece))));
        Stream(stream)
    }

    struct Stream<F>(F);

    impl<F> Body for Stream<F>
    where
        F: FnMut(&mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, std::convert::Infallible>>> + Unpin,
    {
        type Data = Bytes;
        type Error = std::convert::Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
            (self.0)(cx)
        }
    }

    #[tokio::test]
    async fn both_readers_get_the_same_bytes_and_a_small_piece_keeps_no_read_buffer_alive() {
        let large: &'static str = Box::leak("l".repeat(SMALL).into_boxed_str());
        let (mut first, copied) = tee(pieces(Vec::from([large, "two"]).leak()), 10_000);
        let one = next(&mut first).await.unwrap().unwrap().into_data().unwrap();
        let two = next(&mut first).await.unwrap().unwrap().into_data().unwrap();
        assert!(next(&mut first).await.is_none());
        let mut copied = copied;
        let shared = next(&mut copied).await.unwrap().unwrap().into_data().unwrap();
        assert_eq!((shared.as_ptr(), &shared[..]), (one.as_ptr(), large.as_bytes()));
        let small = next(&mut copied).await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(small, "two");
        assert_ne!(small.as_ptr(), two.as_ptr());
        assert!(next(&mut copied).await.is_none() && copied.is_end_stream());
    }

    #[tokio::test]
    async fn a_second_reader_that_is_too_far_behind_is_cut_and_holds_no_bytes() {
        let (mut first, mut copied) = tee(pieces(&["12345", "67890", "x"]), 5 + PER_PIECE);
        while next(&mut first).await.is_some() {}
        assert!(copied.state.lock().pieces.is_empty());
        assert!(next(&mut copied).await.unwrap().is_err());
    }

    #[tokio::test]
    async fn a_copy_whose_first_reader_left_early_never_looks_complete() {
        let (mut first, mut copied) = tee(pieces(&["12345", "67890"]), 1000);
        next(&mut first).await;
        drop(first);
        assert!(next(&mut copied).await.unwrap().is_err(), "a cut must not look like an end");
        let (first, mut copied) = tee(AnyBody::empty(), 1000);
        drop(first);
        assert!(next(&mut copied).await.is_none());
    }

    #[tokio::test]
    async fn the_first_reader_goes_on_without_the_second() {
        let (mut first, copied) = tee(pieces(&["12345", "67890"]), 1000);
        drop(copied);
        assert!(next(&mut first).await.is_some() && first.copy.is_none());
        assert!(next(&mut first).await.is_some());
    }
}
