//! A request body that can be sent again, up to a bound.
//!
//! The first try streams the body while its pieces are kept. A later try gets the kept pieces, and then the part that
//! the first has not read. Beyond the bound, the kept pieces are dropped and the current try goes on alone: the body
//! cannot be sent again, and the current try is not delayed. The same happens where the client has no room for what is kept
//! among its requests under way.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use pillion_base::exchanges::ExchangePlace;

/// 4 KiB: a smaller piece is copied behind the others, because it may be a part of a large buffer, which it would hold.
const SMALL: usize = 4 * 1024;

/// One try's view of the body.
pub struct Replay<B: Body<Data = Bytes>> {
    shared: Arc<Shared<B>>,
    /// The number of kept bytes that this try already has.
    given: usize,
    trailers_given: bool,
    /// The rest of the body, while this try holds it.
    rest: Option<B>,
}

/// What has come of the body. Its memory is in proportion to its bytes, into whatever pieces the client has cut them.
#[derive(Default)]
struct Kept {
    /// Those before `small`: large pieces, the first one, and small ones that were joined.
    pieces: Vec<Bytes>,
    /// Small pieces that came last. Its capacity is at most twice its length.
    small: Vec<u8>,
    bytes: usize,
}

/// What the tries of one request share. The retry layer keeps it.
pub struct Shared<B> {
    state: parking_lot::Mutex<State<B>>,
    /// The size of the body, for the `content-length` of every try.
    size: SizeHint,
}

struct State<B> {
    /// The part that is not read yet, while no try holds it.
    rest: Option<B>,
    kept: Kept,
    bound: usize,
    /// What is kept counts here. `None`: it is not counted.
    room: Option<ExchangePlace>,
    trailers: Option<HeaderMap>,
    /// All of the body was read.
    complete: bool,
    /// The body is beyond the bound, or the client broke it off: no further try is possible.
    spoilt: bool,
    /// The waker of a try that waits until another one gives back the rest.
    waiter: Option<Waker>,
}

impl<B: Body<Data = Bytes>> Shared<B> {
    /// Keeps at most `bound` bytes, which count in `room`. `Err`: the body, which announces more than that.
    pub fn keep(body: B, bound: usize, room: Option<ExchangePlace>) -> Result<Arc<Self>, B> {
        let size = body.size_hint();
        if size.lower() > bound as u64 {
            return Err(body);
        }
        let state = State {
            rest: Some(body),
            kept: Kept::default(),
            bound,
            room,
            trailers: None,
            complete: false,
            spoilt: false,
            waiter: None,
        };
        Ok(Arc::new(Self { state: parking_lot::Mutex::new(state), size }))
    }

    pub fn can_replay(&self) -> bool {
        !self.state.lock().spoilt
    }

    /// Whether all of the body has come and is kept, so that two tries at once can send it.
    pub fn is_complete(&self) -> bool {
        let state = self.state.lock();
        state.complete && !state.spoilt
    }

    pub fn start(self: &Arc<Self>) -> Replay<B> {
        Replay { shared: self.clone(), given: 0, trailers_given: false, rest: None }
    }
}

impl<B: Body<Data = Bytes>> Replay<B> {
    /// Gives what is kept, and then takes over the rest. `None`: this try now holds the rest.
    #[allow(clippy::type_complexity)] // the frame type of `http_body`, with one more "not yet"
    fn catch_up(&mut self, cx: &Context<'_>) -> Poll<Option<Option<Result<Frame<Bytes>, B::Error>>>> {
        let mut state = self.shared.state.lock();
        if let Some(piece) = state.kept.after(self.given) {
            self.given += piece.len();
            return Poll::Ready(Some(Some(Ok(Frame::data(piece)))));
        }
        if state.complete {
            let trailers =
                state.trailers.clone().filter(|_| !std::mem::replace(&mut self.trailers_given, true));
            return Poll::Ready(Some(trailers.map(|trailers| Ok(Frame::trailers(trailers)))));
        }
        self.rest = state.rest.take();
        match self.rest {
            Some(_) => Poll::Ready(None),
            None => {
                state.waiter = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    fn keep(&mut self, polled: &Option<Result<Frame<Bytes>, B::Error>>) {
        let mut state = self.shared.state.lock();
        if Arc::strong_count(&self.shared) == 1 {
            state.spoil(); // the retry layer has its answer, so later pieces are not needed again
        }
        match polled {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    state.keep(data);
                    self.given = state.kept.bytes;
                } else if let Some(trailers) = frame.trailers_ref() {
                    state.trailers = Some(trailers.clone());
                    self.trailers_given = true;
                    state.complete = true;
                }
            }
            Some(Err(_)) => state.spoil(),
            None => state.complete = true,
        }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Replay<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = &mut *self;
        if this.rest.is_none() {
            match this.catch_up(cx) {
                Poll::Ready(None) => {} // this try now holds the rest
                Poll::Ready(Some(done)) => return Poll::Ready(done),
                Poll::Pending => return Poll::Pending,
            }
        }
        let Some(rest) = this.rest.as_mut() else { return Poll::Ready(None) };
        let polled = ready!(Pin::new(rest).poll_frame(cx));
        this.keep(&polled);
        Poll::Ready(polled)
    }

    fn is_end_stream(&self) -> bool {
        match &self.rest {
            Some(rest) => rest.is_end_stream(),
            None => {
                let state = self.shared.state.lock();
                let all_given = self.given == state.kept.bytes;
                all_given && state.complete && (self.trailers_given || state.trailers.is_none())
            }
        }
    }

    /// The size of what is still to come in this try.
    fn size_hint(&self) -> SizeHint {
        match self.given == 0 && self.rest.is_none() {
            true => self.shared.size,
            false => self.rest.as_ref().map_or_else(SizeHint::new, Body::size_hint),
        }
    }
}

/// Leaves the rest to the next try.
impl<B: Body<Data = Bytes>> Drop for Replay<B> {
    fn drop(&mut self) {
        let Some(rest) = self.rest.take() else { return };
        let mut state = self.shared.state.lock();
        if rest.is_end_stream() {
            state.complete = true; // dropping `rest` tells its observer the same
        } else {
            state.rest = Some(rest);
        }
        if let Some(waiter) = state.waiter.take() {
            waiter.wake();
        }
    }
}

impl<B> State<B> {
    fn keep(&mut self, data: &Bytes) {
        if self.spoilt {
            return;
        }
        if self.kept.bytes + data.len() > self.bound {
            return self.spoil();
        }
        if self.room.as_mut().is_some_and(|room| !room.grow(data.len())) {
            return self.spoil();
        }
        self.kept.add(data);
    }

    fn spoil(&mut self) {
        self.spoilt = true;
        (self.kept, self.room) = (Kept::default(), None);
    }
}

impl Kept {
    /// The first piece is kept as it came: most bodies have no other.
    fn add(&mut self, data: &Bytes) {
        if data.len() < SMALL && self.bytes > 0 {
            self.small.extend_from_slice(data);
        } else if !data.is_empty() {
            let small = std::mem::take(&mut self.small);
            if !small.is_empty() {
                self.pieces.push(small.into_boxed_slice().into());
            }
            self.pieces.push(data.clone());
        }
        self.bytes += data.len();
    }

    /// What comes after the first `given` bytes.
    fn after(&self, given: usize) -> Option<Bytes> {
        let mut begin = 0;
        for piece in &self.pieces {
            let end = begin + piece.len();
            if given < end {
                return Some(piece.slice(given - begin..));
            }
            begin = end;
        }
        let rest = self.small.get(given - begin..).filter(|rest| !rest.is_empty())?;
        Some(Bytes::copy_from_slice(rest))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::convert::Infallible;
    use std::future::poll_fn;

    use pillion_base::exchanges::Exchanges;
    use pillion_base::memory::ceiling::Ceiling;

    use super::*;

    /// A body of these pieces.
    struct Pieces(VecDeque<Bytes>);

    impl Body for Pieces {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Ready(self.0.pop_front().map(|piece| Ok(Frame::data(piece))))
        }
    }

    /// A buffer of which a piece is a part.
    struct Buffer([u8; 8192], #[allow(dead_code, reason = "it is counted")] Arc<()>);

    impl AsRef<[u8]> for Buffer {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }

    async fn read(replay: &mut Replay<Pieces>, most: usize) -> String {
        let mut text = String::new();
        while text.len() < most {
            let Some(Ok(frame)) = poll_fn(|cx| Pin::new(&mut *replay).poll_frame(cx)).await else { break };
            text.push_str(std::str::from_utf8(&frame.into_data().unwrap()).unwrap());
        }
        text
    }

    #[tokio::test]
    async fn small_pieces_hold_no_buffers_and_each_try_gets_the_same_bytes() {
        let buffers = Arc::new(());
        let lengths = [1, 1, 0, 5000, 1, 4095, 1, 4096, 2, 3].into_iter().chain([1; 1000]);
        let pieces = lengths.enumerate().map(|(nth, length)| {
            let byte = b'a' + (nth % 26) as u8;
            Bytes::from_owner(Buffer([byte; 8192], buffers.clone())).slice(..length)
        });
        let pieces: VecDeque<_> = pieces.collect();
        let whole: Vec<u8> = pieces.iter().flatten().copied().collect();
        let whole = String::from_utf8(whole).unwrap();
        for read_before in [0, 1, 2, 5001, 9_100, 14_000, usize::MAX] {
            let shared = Shared::keep(Pieces(pieces.clone()), 64 * 1024, None).ok().unwrap();
            let mut first = shared.start();
            let begun = read(&mut first, read_before).await;
            assert!(whole.starts_with(&begun));
            drop(first);
            assert_eq!(read(&mut shared.start(), usize::MAX).await, whole, "{read_before}");
            assert!(shared.can_replay() && shared.is_complete());
            assert_eq!(read(&mut shared.start(), usize::MAX).await, whole, "{read_before}");
            let state = shared.state.lock();
            assert_eq!((state.kept.bytes, state.kept.pieces.len()), (whole.len(), 5));
        }
        let shared = Shared::keep(Pieces(pieces), 64 * 1024, None).ok().unwrap();
        assert_eq!(read(&mut shared.start(), usize::MAX).await.len(), whole.len());
        assert_eq!(Arc::strong_count(&buffers), 1 + 3, "those of the first piece and of the large ones");
    }

    #[tokio::test]
    async fn a_body_for_which_its_client_has_no_room_goes_on_and_cannot_be_sent_again() {
        let exchanges = Exchanges::of_one_in(1, Arc::new(Ceiling::of_host(0))); // 1 MiB, of which one client gets a half
        let place = exchanges.holder("mallory").begin(0).expect("a place");
        let piece = Bytes::from(vec![b'a'; 60 * 1024]);
        let pieces = || Pieces([piece.clone(), piece.clone()].into());
        let mut kept = Vec::new();
        for nth in 0..8 {
            let shared = Shared::keep(pieces(), 128 * 1024, Some(place.beside())).ok().unwrap();
            let mut first = shared.start();
            assert_eq!(read(&mut first, usize::MAX).await.len(), 120 * 1024);
            assert_eq!(shared.can_replay(), nth < 4, "{nth}");
            kept.push(shared);
        }
        drop(kept);
        assert!(place.beside().grow(480 * 1024), "all is given back");
    }
}
