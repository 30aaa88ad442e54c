//! The content of a request, from the client's bytes to its reader; also notices a client that leaves meanwhile.

use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes, BytesMut};
use http::StatusCode;
use pillion_http1::{EndOfInput, Error, Fault, Fields, FromClient, Length, Limits, Server};

use super::{Downstream, limits};
use pillion_http::error::Broken;
use pillion_http::h1::buffer::{Outbox, poll_fill, take};
use pillion_http::h1::request::{self, Demand, Feed, Incoming, Then};

/// Pieces that together are smaller than this are joined.
const JOINED: usize = 4 * 1024;
/// How many bytes are read and dropped of content that is not wanted, if they have come already, so that the connection
/// can serve the next request.
const DROPPED: usize = 64 * 1024;

/// How far the content of the request is read.
pub(super) enum Content {
    /// To its end.
    Whole,
    /// Its reader takes it piece by piece.
    Feeding(Feed),
    /// The rest is not wanted, since the reader was dropped.
    Unwanted,
    /// It broke off.
    Broken,
}

/// What the client did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ClientMove {
    /// The client sent a piece: the reader of the content is to be polled.
    Sent,
    /// The client did nothing that matters now.
    Waits,
    Left,
}

impl Content {
    /// Reads the content from the client, and notices that the client leaves, while its request is carried and
    /// answered.
    pub(super) fn poll(&mut self, client: &mut Downstream, cx: &mut Context<'_>) -> ClientMove {
        let feed = match self {
            Self::Whole => return client.poll_left(cx),
            Self::Unwanted | Self::Broken => return ClientMove::Waits,
            Self::Feeding(feed) => feed,
        };
        match feed.demand(cx) {
            Demand::NotNow => return ClientMove::Waits,
            Demand::Abandoned => {
                *self = Self::Unwanted;
                return ClientMove::Waits;
            }
            Demand::Wanted => {}
        }
        let Poll::Ready((data, then)) = client.poll_piece(cx) else { return ClientMove::Waits };
        let next = Self::after(&then);
        feed.put(data, then, cx);
        if let Some(next) = next {
            *self = next;
        }
        ClientMove::Sent
    }

    /// The state after a piece. `None`: the content goes on.
    const fn after(then: &Then) -> Option<Self> {
        match then {
            Then::More => None,
            Then::Trailers(_) | Then::End => Some(Self::Whole),
            Then::Broken(_) => Some(Self::Broken),
        }
    }
}

/// The content of a request whose head has come, with the part of it that has come. The first value is `None` where the
/// request has no content.
pub(super) fn open(
    length: Length,
    (server, judged): (&mut Server, &mut usize),
    bytes: &mut BytesMut,
    limits: &Limits,
) -> (Option<Incoming>, Content) {
    if length.is_empty() {
        return (None, Content::Whole);
    }
    let first = if bytes.is_empty() { None } else { next_piece(server, judged, bytes, limits) };
    let after = first.as_ref().and_then(|(_, then)| Content::after(then));
    let announced = if let Length::Known(length) = length { Some(length) } else { None };
    let (feed, body) = request::channel(announced, first);
    (Some(body), after.unwrap_or(Content::Feeding(feed)))
}

impl Downstream {
    /// The next piece of content, and what is known of what follows it.
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<(Bytes, Then)> {
        let Self { io, inbox, outbox, server, judged, connection, worker, .. } = self;
        let limits = limits(connection, worker);
        inbox.with(|bytes| {
            loop {
                if let Some(piece) = next_piece(server, judged, bytes, &limits) {
                    return Poll::Ready(piece);
                }
                if server.is_expecting() {
                    ask(server, outbox);
                }
                match ready!(poll_fill(io, bytes, cx)) {
                    Ok(1..) => {}
                    Ok(_) => return Poll::Ready((Bytes::new(), ended(server))),
                    Err(error) => return Poll::Ready((Bytes::new(), Then::Broken(error.into()))),
                }
            }
        })
    }

    /// Whether the client has left while its request is answered. Bytes that it sends meanwhile are its next request: a
    /// few of them are kept, and then no more is read.
    fn poll_left(&mut self, cx: &mut Context<'_>) -> ClientMove {
        if !self.inbox.is_empty() {
            return ClientMove::Waits;
        }
        self.is_watched = self.io.poll_comes(cx).is_pending();
        if self.is_watched {
            return ClientMove::Waits;
        }
        match self.inbox.poll_little(&mut self.io, cx) {
            Poll::Pending | Poll::Ready(Ok(1..)) => ClientMove::Waits,
            Poll::Ready(_ended) => ClientMove::Left,
        }
    }

    /// Drops the part that has come of content that is not wanted.
    pub(super) fn drop_rest(&mut self, cx: &mut Context<'_>) {
        let mut dropped = 0;
        while !self.server.is_request_read() && dropped < DROPPED {
            match self.poll_piece(cx) {
                Poll::Ready((data, Then::More | Then::End | Then::Trailers(_))) => dropped += data.len(),
                _ => return,
            }
        }
    }
}

/// Writes a 100 to a client that waits for one before it sends its content.
fn ask(server: &mut Server, outbox: &mut Outbox) {
    // Once the answer has begun, no 100 may be written.
    let _written = server.write_interim(StatusCode::CONTINUE, &Fields::default(), outbox.end());
}

fn ended(server: &mut Server) -> Then {
    if server.read_end() == EndOfInput::Whole { Then::End } else { Then::Broken(Broken::Ended) }
}

/// The next piece of the content that has come. `judged`: see [`Downstream`].
fn next_piece(
    server: &mut Server,
    judged: &mut usize,
    bytes: &mut BytesMut,
    limits: &Limits,
) -> Option<(Bytes, Then)> {
    let (mut first, mut joined) = (Bytes::new(), Vec::new());
    let then = loop {
        let length = match std::mem::take(judged) {
            0 => match next_event(server, bytes, limits) {
                Ok(length) => length,
                Err(then) => break then,
            },
            length => length,
        };
        let so_far = first.len().max(joined.len());
        if so_far == 0 {
            first = take(bytes, length);
        } else if so_far + length <= JOINED {
            if joined.is_empty() {
                joined.reserve_exact(JOINED);
                joined.extend_from_slice(&first);
            }
            joined.extend_from_slice(bytes.get(..length).unwrap_or_default());
            bytes.advance(length.min(bytes.len()));
        } else {
            *judged = length;
            break Then::More;
        }
    };
    // without the rest of its 4 KiB, since a reader may keep many pieces
    let data = if joined.is_empty() { first } else { joined.into_boxed_slice().into() };
    match (data.is_empty(), &then) {
        (true, Then::More) => None,
        _ => Some((data, then)),
    }
}

/// The number of bytes of content that are next; `Err`: something else is next.
fn next_event(server: &mut Server, bytes: &mut BytesMut, limits: &Limits) -> Result<usize, Then> {
    match server.read(bytes, limits) {
        Err(Error::Request(fault)) => Err(Then::Broken(fault.into())),
        Err(_) => Err(Then::Broken(Broken::Ended)),
        Ok((used, event)) => {
            bytes.advance(used);
            match event {
                FromClient::Data(length) => Ok(length),
                FromClient::End => Err(Then::End),
                FromClient::Trailers(fields) => Err(match (fields.to_map(), server.read(bytes, limits)) {
                    (Ok(trailers), Ok((_, FromClient::End))) => Then::Trailers(trailers.into()),
                    _ => Then::Broken(Fault::Trailers.into()),
                }),
                FromClient::More | FromClient::Head(_) => Err(Then::More),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_that_was_joined_takes_no_more_memory_than_its_bytes() {
        let (mut server, limits) = (Server::new(), Limits::default());
        let sent = "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n1\r\nb\r\n";
        let mut bytes = BytesMut::from(sent);
        let Ok((head, FromClient::Head(_))) = server.read(&bytes, &limits) else { unreachable!("a head") };
        bytes.advance(head);
        let (piece, then) = next_piece(&mut server, &mut 0, &mut bytes, &limits).expect("a piece");
        assert!(piece == "ab" && matches!(then, Then::More), "{piece:?} {then:?}");
        assert_eq!(piece.try_into_mut().map(|piece| piece.capacity()), Ok(2));
    }
}
