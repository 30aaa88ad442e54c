//! A request body that can be sent again, up to a bound.
//!
//! The first try streams the body while its pieces are kept. A later try gets the kept pieces, and then the part that
//! the first has not read. Beyond the bound, the kept pieces are dropped and the current try goes on alone: the body
//! cannot be sent again, and the current try is not delayed.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

/// One try's view of the body.
pub struct Replay<B: Body<Data = Bytes>> {
    shared: Arc<Shared<B>>,
    /// The number of kept pieces that this try already has.
    given: usize,
    trailers_given: bool,
    /// The rest of the body, while this try holds it.
    rest: Option<B>,
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
    kept: VecDeque<Bytes>,
    kept_bytes: usize,
    bound: usize,
    trailers: Option<HeaderMap>,
    /// All of the body was read.
    complete: bool,
    /// The body is beyond the bound, or the client broke it off: no further try is possible.
    spoilt: bool,
    /// The waker of a try that waits until another one gives back the rest.
    waiter: Option<Waker>,
}

impl<B: Body<Data = Bytes>> Shared<B> {
    /// Keeps at most `bound` bytes. `Err`: the body, which announces more than that.
    pub fn keep(body: B, bound: usize) -> Result<Arc<Self>, B> {
        let size = body.size_hint();
        if size.lower() > bound as u64 {
            return Err(body);
        }
        let state = State {
            rest: Some(body),
            kept: VecDeque::new(),
            kept_bytes: 0,
            bound,
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
    /// Gives the kept pieces, and then takes over the rest. `None`: this try now holds the rest.
    #[allow(clippy::type_complexity)] // the frame type of `http_body`, with one more "not yet"
    fn catch_up(&mut self, cx: &Context<'_>) -> Poll<Option<Option<Result<Frame<Bytes>, B::Error>>>> {
        let mut state = self.shared.state.lock();
        if let Some(piece) = state.kept.get(self.given) {
            self.given += 1;
            return Poll::Ready(Some(Some(Ok(Frame::data(piece.clone())))));
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
                    self.given = state.kept.len();
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
                let all_given = self.given == state.kept.len();
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
        self.kept_bytes += data.len();
        if self.kept_bytes > self.bound {
            return self.spoil();
        }
        self.kept.push_back(data.clone());
    }

    fn spoil(&mut self) {
        self.spoilt = true;
        self.kept = VecDeque::new();
    }
}
