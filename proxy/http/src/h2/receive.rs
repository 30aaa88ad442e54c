//! A body that comes over HTTP/2.
//!
//! The connection's task takes received bytes out of `h2` after each read of the socket, even if no task reads the body
//! at that time: `h2` counts the small frames that it holds, and would end the connection with all its streams for too
//! many of them. Here they are joined. The windows bound the bytes that are held, because they open again only when
//! bytes are read.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, Wake, Waker};

use bytes::{Bytes, BytesMut};
use h2::RecvStream;
use http::HeaderMap;
use http_body::{Frame, SizeHint};
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::task::AbortHandle;

use super::Room;
use crate::error::Interrupted;

/// A smaller piece is copied when it has to wait, because it would keep the whole buffer in which it was read.
const SMALL: usize = 4 * 1024;
/// Joined pieces are passed on when they are as large as a frame.
const JOINED: usize = 16 * 1024;

/// The reader's end.
pub struct Incoming {
    inbox: Arc<Inbox>,
    /// The task that still sends the request of this answer.
    upload: Option<Upload>,
}

/// The part of a body that is there when its head has been read.
pub enum Arrived {
    /// All of the body, with its announced length.
    Whole(Whole),
    Begun(Incoming),
}

/// A whole body that waits for its reader. Its bytes count as unread until then.
pub struct Whole {
    data: Bytes,
    room: Arc<Room>,
}

impl Whole {
    pub fn size(&self) -> u64 {
        self.data.len() as u64
    }

    pub fn take(mut self) -> Bytes {
        self.room.account.drop_unread(self.data.len());
        std::mem::take(&mut self.data)
    }
}

impl Drop for Whole {
    fn drop(&mut self) {
        if !self.data.is_empty() {
            self.room.account.drop_unread(self.data.len());
        }
    }
}

/// A task that sends the rest of a request.
pub struct Upload {
    pub task: AbortHandle,
    /// Tells the task, when it is dropped, that the answer is complete.
    pub is_answered: oneshot::Sender<()>,
}

/// The bytes of a stream that came and wait for the reader. `h2` shares it as a waker, to signal that bytes came.
struct Inbox {
    state: Mutex<State>,
    room: Arc<Room>,
    /// Whether this is in the list of those for which bytes came.
    is_listed: AtomicBool,
}

struct State {
    /// `None`: the reader is gone, or the body was given up.
    stream: Option<RecvStream>,
    kept: Kept,
    trailers: Option<HeaderMap>,
    /// No more bytes will come.
    end: Option<Result<(), Interrupted>>,
    /// The rest of the announced length.
    left: Option<u64>,
    reader: Option<Waker>,
}

/// The kept pieces, in order.
#[derive(Default)]
struct Kept {
    first: Bytes,
    more: VecDeque<Bytes>,
    joined: BytesMut,
    bytes: usize,
}

impl Incoming {
    /// `length`: the announced length.
    pub fn new(stream: RecvStream, length: Option<u64>, room: &Arc<Room>) -> Self {
        Self::after(Kept::default(), stream, length, room)
    }

    /// Takes the part of a body that came with its head. A small body usually comes whole in one piece, and then no
    /// waker and no list are needed.
    pub fn arrived(mut stream: RecvStream, length: Option<u64>, room: &Arc<Room>) -> Arrived {
        let mut kept = Kept::default();
        if length.is_some()
            && let Poll::Ready(Some(Ok(data))) = stream.poll_data(&mut Context::from_waker(Waker::noop()))
        {
            if !room.account.hold_unread(data.len()) {
                room.account.drop_unread(data.len());
                return Arrived::Begun(Self::given_up(length, room)); // the drop of the stream resets it
            }
            if stream.is_end_stream() {
                // the drop of the stream opens the connection's window again
                return Arrived::Whole(Whole { data, room: room.clone() });
            }
            kept.push(data);
        }
        Arrived::Begun(Self::after(kept, stream, length, room))
    }

    fn after(kept: Kept, stream: RecvStream, length: Option<u64>, room: &Arc<Room>) -> Self {
        Self::of(
            State { stream: Some(stream), kept, trailers: None, end: None, left: length, reader: None },
            room,
        )
    }

    /// A body for whose first piece there is no memory.
    fn given_up(length: Option<u64>, room: &Arc<Room>) -> Self {
        let (kept, end) = (Kept::default(), Some(Err(Interrupted::TooMuch)));
        Self::of(State { stream: None, kept, trailers: None, end, left: length, reader: None }, room)
    }

    fn of(state: State, room: &Arc<Room>) -> Self {
        let inbox = Inbox { state: Mutex::new(state), room: room.clone(), is_listed: AtomicBool::new(false) };
        let inbox = Arc::new(inbox);
        inbox.take();
        Self { inbox, upload: None }
    }

    /// Ties the body to the task that sends its request: the task is stopped if this body is dropped early, and is
    /// notified when this body is complete.
    pub fn answering(mut self, upload: Upload) -> Self {
        self.upload = Some(upload);
        self
    }

    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Interrupted>>> {
        let mut state = self.inbox.state.lock();
        if let Some(data) = state.kept.pop() {
            state.read_on(data.len(), &self.inbox.room);
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        match &mut state.end {
            None => {
                state.reader = Some(cx.waker().clone());
                Poll::Pending
            }
            Some(Ok(())) => Poll::Ready(state.trailers.take().map(|trailers| Ok(Frame::trailers(trailers)))),
            Some(failed) => {
                let failed = std::mem::replace(failed, Ok(()));
                Poll::Ready(failed.err().map(Err))
            }
        }
    }

    pub fn is_end_stream(&self) -> bool {
        let state = self.inbox.state.lock();
        state.kept.bytes == 0 && state.trailers.is_none() && matches!(state.end, Some(Ok(())))
    }

    pub fn size_hint(&self) -> SizeHint {
        self.inbox.state.lock().left.map_or_else(SizeHint::new, SizeHint::with_exact)
    }
}

/// Resets the stream, unless the body is complete, because it has no reader any more.
impl Drop for Incoming {
    fn drop(&mut self) {
        let is_whole = self.is_end_stream();
        let mut state = self.inbox.state.lock();
        let stream = state.stream.take();
        self.inbox.room.account.drop_unread(state.kept.clear());
        drop(state);
        drop(stream);
        if let Some(upload) = self.upload.take().filter(|_| !is_whole) {
            upload.task.abort();
        }
    }
}

impl Inbox {
    /// Takes the bytes that are there out of `h2`, and asks to be woken for more.
    fn take(self: &Arc<Self>) {
        let waker = Waker::from(self.clone());
        let mut state = self.state.lock();
        let given_up = state.take(&mut Context::from_waker(&waker), &self.room);
        let reader = state.reader.take();
        drop(state);
        drop(given_up);
        if let Some(reader) = reader {
            reader.wake();
        }
    }
}

/// `h2` calls this with its lock held: nothing here may call `h2`.
impl Wake for Inbox {
    fn wake(self: Arc<Self>) {
        if !self.is_listed.swap(true, Relaxed) {
            let room = self.room.clone();
            room.arrivals.list(self);
        }
    }
}

impl State {
    /// Returns the stream if it has to be given up.
    fn take(&mut self, cx: &mut Context<'_>, room: &Room) -> Option<RecvStream> {
        let stream = self.stream.as_mut().filter(|_| self.end.is_none())?;
        loop {
            match stream.poll_data(cx) {
                Poll::Ready(Some(Ok(data))) => {
                    let is_allowed = room.account.hold_unread(data.len());
                    self.kept.push(data);
                    if !is_allowed {
                        room.account.drop_unread(self.kept.clear());
                        self.end = Some(Err(Interrupted::TooMuch));
                        return self.stream.take();
                    }
                }
                Poll::Ready(Some(Err(error))) => {
                    self.end = Some(Err(error.into()));
                    return None;
                }
                Poll::Ready(None) => {
                    match stream.poll_trailers(cx) {
                        Poll::Ready(Ok(trailers)) => {
                            self.trailers = trailers;
                            self.end = Some(Ok(()));
                        }
                        Poll::Ready(Err(error)) => self.end = Some(Err(error.into())),
                        Poll::Pending => {}
                    }
                    return None;
                }
                Poll::Pending => return None,
            }
        }
    }

    /// Notes that bytes are passed on, so that the peer may send as many again.
    fn read_on(&mut self, bytes: usize, room: &Room) {
        room.account.drop_unread(bytes);
        self.left = self.left.map(|left| left.saturating_sub(bytes as u64));
        if let Some(stream) = &mut self.stream {
            drop(stream.flow_control().release_capacity(bytes)); // cannot fail: so many bytes came
        }
    }
}

impl Kept {
    fn push(&mut self, data: Bytes) {
        let is_first = self.bytes == 0;
        self.bytes += data.len();
        if is_first {
            self.first = data;
        } else if data.len() < SMALL {
            self.joined.extend_from_slice(&data);
            if self.joined.len() >= JOINED {
                self.more.push_back(self.joined.split().freeze());
            }
        } else {
            if !self.joined.is_empty() {
                self.more.push_back(self.joined.split().freeze());
            }
            self.more.push_back(data);
        }
    }

    fn pop(&mut self) -> Option<Bytes> {
        if self.bytes == 0 {
            return None;
        }
        let piece = match std::mem::take(&mut self.first) {
            first if !first.is_empty() => first,
            _ => self.more.pop_front().unwrap_or_else(|| self.joined.split().freeze()),
        };
        self.bytes -= piece.len();
        Some(piece)
    }

    /// Drops all pieces. Returns the number of bytes.
    fn clear(&mut self) -> usize {
        std::mem::take(self).bytes
    }
}

/// The bodies of one connection for which bytes came.
#[derive(Default)]
pub struct Arrivals {
    list: Mutex<Vec<Arc<Inbox>>>,
    /// The connection's task.
    driver: Mutex<Option<Waker>>,
    /// The task is running, and will read the list.
    is_driven: AtomicBool,
}

impl Arrivals {
    pub fn begin(&self, cx: &Context<'_>) {
        self.is_driven.store(true, Relaxed);
        let mut driver = self.driver.lock();
        if !driver.as_ref().is_some_and(|driver| driver.will_wake(cx.waker())) {
            *driver = Some(cx.waker().clone());
        }
    }

    /// Takes the bytes of all listed bodies out of `h2`.
    pub fn take(&self) {
        self.is_driven.store(false, Relaxed);
        loop {
            let mut listed = std::mem::take(&mut *self.list.lock());
            if listed.is_empty() {
                return;
            }
            for inbox in listed.drain(..) {
                inbox.is_listed.store(false, Relaxed);
                inbox.take();
            }
            let mut list = self.list.lock();
            if list.is_empty() {
                *list = listed; // reuses its memory
                return;
            }
        }
    }

    /// Forgets the connection's task, because the connection has ended, and takes the bytes that have come.
    pub fn end(&self) {
        *self.driver.lock() = None;
        self.take();
    }

    fn list(&self, inbox: Arc<Inbox>) {
        self.list.lock().push(inbox);
        if !self.is_driven.load(Relaxed)
            && let Some(driver) = &*self.driver.lock()
        {
            driver.wake_by_ref();
        }
    }
}

#[cfg(test)]
mod tests {
    use h2::{client, server};
    use http::{Request, Response};
    use pillion_base::deadline::Timers;
    use pillion_base::memory::Memory;

    use super::super::memory::Account;
    use super::*;

    /// An answer of `bytes` bytes that came whole, as the client of a connection with this room gets it.
    async fn arrives(bytes: usize, room: &Arc<Room>) -> Arrived {
        let (near, far) = tokio::io::duplex(1 << 20);
        tokio::spawn(async move {
            let mut connection = server::handshake(far).await.unwrap();
            while let Some(Ok((_request, mut respond))) = connection.accept().await {
                let mut stream = respond.send_response(Response::new(()), false).unwrap();
                stream.send_data(Bytes::from(vec![0; bytes]), true).unwrap();
            }
        });
        let (mut send, connection) = client::handshake(near).await.unwrap();
        tokio::spawn(connection);
        let (answer, _) = send.send_request(Request::new(()), true).unwrap();
        let stream = answer.await.unwrap().into_body();
        let mut stream = stream;
        while stream.flow_control().used_capacity() < bytes {
            tokio::task::yield_now().await;
        }
        Incoming::arrived(stream, Some(bytes as u64), room)
    }

    #[tokio::test]
    async fn a3_a_small_answer_counts_until_it_is_read() {
        let (memory, arrivals) = (Memory::of_one_in(1, Arc::default()), Arrivals::default());
        let account = Account::new(memory.clone());
        let room = Arc::new(Room { account, arrivals, timers: Timers::default() });
        let held = || memory.most() - memory.free();
        for is_read in [true, false] {
            let Arrived::Whole(whole) = arrives(1000, &room).await else { panic!("a part") };
            assert_eq!(held(), 1000);
            if is_read {
                assert_eq!(whole.take().len(), 1000)
            } else {
                drop(whole)
            }
            assert_eq!(held(), 0);
        }
        memory.hold(2 * memory.most());
        let Arrived::Begun(mut begun) = arrives(1000, &room).await else { panic!("there is no memory") };
        let polled = begun.poll_frame(&mut Context::from_waker(Waker::noop()));
        assert!(matches!(polled, Poll::Ready(Some(Err(Interrupted::TooMuch)))));
        memory.release(2 * memory.most());
        drop(begun);
        assert_eq!(held(), 0);
    }

    #[test]
    fn b1_small_pieces_that_wait_are_joined_and_large_ones_are_not_copied() {
        let mut kept = Kept::default();
        let large = Bytes::from(vec![7; SMALL]);
        for _ in 0..1000 {
            kept.push(Bytes::from_static(b"small"));
        }
        kept.push(large.clone());
        kept.push(Bytes::from_static(b"end"));
        let mut pieces = Vec::new();
        while let Some(piece) = kept.pop() {
            pieces.push(piece);
        }
        assert_eq!(pieces.iter().map(Bytes::len).collect::<Vec<_>>(), [5, 4995, SMALL, 3]);
        assert_eq!(pieces[2].as_ptr(), large.as_ptr(), "not copied");
        assert_eq!(kept.bytes, 0);
    }

    #[test]
    fn b1_joined_pieces_grow_no_larger_than_a_frame() {
        let mut kept = Kept::default();
        for _ in 0..40 {
            kept.push(Bytes::from(vec![1; 1024]));
        }
        let mut sizes = Vec::new();
        while let Some(piece) = kept.pop() {
            sizes.push(piece.len());
        }
        assert_eq!(sizes, [1024, JOINED, JOINED, 7 * 1024]);
    }
}
