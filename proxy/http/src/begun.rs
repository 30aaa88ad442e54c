//! A request body of which a part, or all, was read before the request goes on: the reader has seen these bytes, and the
//! upstream gets them too.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use pillion_base::exchanges::{Counted, ExchangePlace};

/// 32 KiB, as much as is read at once elsewhere: the upstream gets what was read in such parts.
const PART: usize = 32 * 1024;

/// The bytes that were read, and the body from which the rest comes.
pub struct Begun<B> {
    /// Counted twice, because the one who reads it makes a copy.
    read: Counted,
    /// What was read, as soon as the upstream takes it.
    passing: Bytes,
    /// The piece for which there was no room.
    last: Option<Bytes>,
    trailers: Option<HeaderMap>,
    /// `None`: it was read to its end.
    rest: Option<B>,
    /// The size of the whole body, as its client announced it.
    size: SizeHint,
}

/// Why no further piece is read.
#[derive(Debug)]
pub enum Unread<E> {
    /// The body is longer than it may be.
    TooLong,
    /// The memory of the client's exchanges is used up.
    NoRoom,
    Broken(E),
}

impl<B: Body<Data = Bytes> + Unpin> Begun<B> {
    /// Nothing is read yet. What is read will count in `room`. `None`: it is not counted.
    pub fn new(body: B, room: Option<ExchangePlace>) -> Self {
        let size = body.size_hint();
        let (read, rest) = (Counted::new(room, 2), Some(body));
        Self { read, passing: Bytes::new(), last: None, trailers: None, rest, size }
    }

    /// Reads one more piece, if the body has at most `most` bytes with it. Returns whether the body may go on. Nothing is
    /// lost when the future is dropped.
    ///
    /// # Errors
    /// What was read stays, so that the body can be forwarded nevertheless, unless it is broken. Read no further then.
    pub async fn read(&mut self, most: u64) -> Result<bool, Unread<B::Error>> {
        let Some(rest) = &mut self.rest else { return Ok(false) };
        if self.size.lower() > most {
            return Err(Unread::TooLong);
        }
        let Some(frame) = poll_fn(|cx| Pin::new(&mut *rest).poll_frame(cx)).await else {
            self.rest = None;
            return Ok(false);
        };
        match frame.map_err(Unread::Broken)?.into_data() {
            Ok(data) => self.keep(data, most).map(|()| true),
            Err(frame) => {
                (self.trailers, self.rest) = (frame.into_trailers().ok(), None);
                Ok(false)
            }
        }
    }

    fn keep(&mut self, data: Bytes, most: u64) -> Result<(), Unread<B::Error>> {
        let length = self.read.as_ref().len() + data.len();
        let why = match length as u64 > most {
            true => Unread::TooLong,
            false if self.read.add(&data, usize::try_from(most).unwrap_or(usize::MAX)) => return Ok(()),
            false => Unread::NoRoom,
        };
        self.last = Some(data);
        Err(why)
    }

    /// What was read, in one piece.
    pub fn copied(&self) -> Vec<u8> {
        self.read.as_ref().to_vec()
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Begun<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = &mut *self;
        if !this.read.as_ref().is_empty() {
            this.passing = std::mem::take(&mut this.read).into_bytes();
        }
        if !this.passing.is_empty() {
            let part = this.passing.split_to(PART.min(this.passing.len()));
            return Poll::Ready(Some(Ok(Frame::data(part))));
        }
        if let Some(last) = this.last.take() {
            return Poll::Ready(Some(Ok(Frame::data(last))));
        }
        match (this.trailers.take(), &mut this.rest) {
            (Some(trailers), _) => Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
            (None, Some(rest)) => Pin::new(rest).poll_frame(cx),
            (None, None) => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        let is_passed = self.read.as_ref().is_empty() && self.passing.is_empty() && self.last.is_none();
        is_passed && self.trailers.is_none() && self.rest.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.size
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::convert::Infallible;
    use std::sync::Arc;

    use http::{HeaderName, HeaderValue};
    use pillion_base::exchanges::Exchanges;
    use pillion_base::memory::ceiling::Ceiling;

    use super::*;

    /// A body of these frames, of which the last one may be trailers.
    struct Frames(VecDeque<Frame<Bytes>>);

    impl Frames {
        fn of(pieces: &[&'static str], trailers: Option<&HeaderMap>) -> Self {
            let data = pieces.iter().map(|piece| Frame::data(Bytes::from_static(piece.as_bytes())));
            Self(data.chain(trailers.cloned().map(Frame::trailers)).collect())
        }
    }

    impl Body for Frames {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Ready(self.0.pop_front().map(Ok))
        }

        fn is_end_stream(&self) -> bool {
            self.0.is_empty()
        }
    }

    async fn rest(mut begun: Begun<Frames>) -> (String, Option<HeaderMap>) {
        let (mut text, mut trailers) = (String::new(), None);
        while let Some(Ok(frame)) = poll_fn(|cx| Pin::new(&mut begun).poll_frame(cx)).await {
            match frame.into_data() {
                Ok(data) => text.push_str(std::str::from_utf8(&data).unwrap()),
                Err(frame) => trailers = frame.into_trailers().ok(),
            }
        }
        assert!(begun.is_end_stream());
        (text, trailers)
    }

    #[tokio::test]
    async fn what_was_read_and_the_rest_are_the_body_again() {
        let fields = HeaderMap::from_iter([(HeaderName::from_static("a"), HeaderValue::from_static("b"))]);
        for trailers in [None, Some(&fields)] {
            for read in 0..5 {
                let mut begun = Begun::new(Frames::of(&["he", "l", "lo"], trailers), None);
                for _ in 0..read {
                    begun.read(5).await.unwrap();
                }
                assert_eq!(begun.copied(), ["", "he", "hel", "hello", "hello"][read].as_bytes());
                assert_eq!(rest(begun).await, ("hello".to_owned(), trailers.cloned()), "{read}");
            }
        }
        let mut begun = Begun::new(Frames::of(&["he", "llo"], None), None);
        assert!(matches!(begun.read(3).await, Ok(true)));
        assert!(matches!(begun.read(3).await, Err(Unread::TooLong)));
        assert_eq!(rest(begun).await.0, "hello", "it can be forwarded nevertheless");
    }

    #[tokio::test]
    async fn of_a_small_piece_no_more_than_its_bytes_is_held() {
        /// A buffer of which a piece is a part.
        struct Buffer([u8; 4096], #[allow(dead_code, reason = "it is counted")] Arc<()>);
        impl AsRef<[u8]> for Buffer {
            fn as_ref(&self) -> &[u8] {
                &self.0
            }
        }
        let buffers = Arc::new(());
        let piece = |_| Frame::data(Bytes::from_owner(Buffer([b'x'; 4096], buffers.clone())).slice(..1));
        let exchanges = Exchanges::of_one_in(1, Arc::new(Ceiling::of_host(0))); // 1 MiB, of which one client gets a half
        let place = exchanges.holder("mallory").begin(0).unwrap();
        let mut begun = Begun::new(Frames((0..1000).map(piece).collect()), Some(place.beside()));
        for _ in 0..900 {
            assert!(matches!(begun.read(1000).await, Ok(true)));
        }
        assert_eq!(Arc::strong_count(&buffers), 1 + 100, "those that were not read yet");
        assert!(place.beside().grow(490 * 1024));
        assert_eq!(rest(begun).await.0, "x".repeat(1000));
    }

    #[tokio::test]
    async fn what_was_read_takes_room_until_it_is_passed_on() {
        let exchanges = Exchanges::of_one_in(1, Arc::new(Ceiling::of_host(0))); // 1 MiB, of which one client gets a half
        let place = exchanges.holder("mallory").begin(0).unwrap();
        let text: &'static str = "x".repeat(120 * 1024).leak();
        let mut begun = Begun::new(Frames::of(&[text, text, text], None), Some(place.beside()));
        assert!(matches!(begun.read(u64::MAX).await, Ok(true)));
        assert!(matches!(begun.read(u64::MAX).await, Ok(true)));
        assert!(matches!(begun.read(u64::MAX).await, Err(Unread::NoRoom)));
        assert!(!place.beside().grow(100 * 1024));
        assert_eq!(rest(begun).await.0.len(), 360 * 1024);
        assert!(place.beside().grow(400 * 1024));
    }
}
