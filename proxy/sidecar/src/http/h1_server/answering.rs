//! Writes the answer to the client. Its head and the content that is already there leave in one write.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::Version;
use http_body::{Body as _, Frame};
use pillion_http1::{After, Error, Fields, Known, Length};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::content::{ClientMove, Content};
use super::{Downstream, Left};
use crate::http::{Body, Response};
use pillion_base::net::Io;
use pillion_http::h2::send::OutgoingBody as _;
use pillion_http::message::ResponseHead;
use pillion_http::stall::AFTER_ANSWER;

/// While so many bytes of an answer wait for the client, no more of it is read.
const ENOUGH: usize = 16 * 1024;

/// How the writing of an answer went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Writing {
    Whole,
    /// The answer broke off, and the client has the part before that.
    Part,
    /// The client is gone.
    Lost,
}

/// Writes an answer to its end, and reads the rest of the request.
pub(super) async fn answer(client: &mut Downstream, mut content: Content, response: Response) -> Left {
    let (head, body) = response.into_parts();
    if client.write_head(&head, length_of(&body)).is_err() {
        return Left::Lost;
    }
    drop(head);
    let mut body = Some(body).filter(|_| client.server.after().is_none());
    let written = poll_fn(|cx| poll_written(client, &mut content, &mut body, cx)).await;
    match written {
        Writing::Whole => {}
        Writing::Part if client.resets => return Left::Lost,
        Writing::Part => return Left::Ends,
        Writing::Lost => return Left::Lost,
    }
    let is_read_on = matches!(content, Content::Feeding(_));
    let rest = poll_fn(|cx| poll_rest(client, &mut content, cx));
    let rest = if is_read_on { timeout(AFTER_ANSWER, rest).await } else { Ok(rest.await) };
    if rest == Ok(ClientMove::Left) {
        return Left::Lost;
    }
    client.after()
}

/// Tells the client that its tunnel is open, and sends the connection through `opens`.
pub(super) async fn open(client: &mut Downstream, response: Response, opens: oneshot::Sender<Io>) -> Left {
    let (head, _no_body) = response.into_parts();
    if client.write_head(&head, Length::Empty).is_err() || poll_fn(|cx| client.poll_send(cx)).await.is_err() {
        return Left::Lost;
    }
    match client.server.after() {
        Some(After::Opaque) => Left::Opaque(opens),
        _ => Left::Ends,
    }
}

fn length_of(body: &Body) -> Length {
    match body.size_hint().exact() {
        _ if body.is_end_stream() => Length::Empty,
        Some(length) => Length::Known(length),
        None => Length::Chunked,
    }
}

impl Downstream {
    fn write_head(&mut self, head: &ResponseHead, length: Length) -> Result<(), Error> {
        let is_last =
            self.connection.place.work.announces_close() || self.connection.is_dismissed.load(Relaxed);
        if is_last || closes(head) {
            self.server.close_after();
        }
        let lines = head.lines();
        self.server.write_head(head.status, head.reason.as_deref(), lines, length, self.outbox.end())?;
        if self.server.is_until_close() {
            self.resets = true; // only a reset shows that a part of the answer is missing
            self.io.get_ref().reset_on_drop();
        }
        Ok(())
    }

    /// What happens to the connection after a complete answer.
    fn after(&mut self) -> Left {
        match self.server.after() {
            Some(After::Next) => {
                self.server.next();
                Left::GoesOn
            }
            Some(After::Close | After::Linger) => {
                if self.resets {
                    self.io.get_ref().end_on_drop();
                }
                Left::Ends
            }
            Some(After::Opaque | After::Reset) | None => Left::Lost,
        }
    }
}

/// Whether the stack wants the connection to close after this answer (`Connection: close`, which HTTP/2 does not have).
fn closes(head: &ResponseHead) -> bool {
    let named =
        || head.headers.get(Known::Connection).is_some_and(|value| value.eq_ignore_ascii_case(b"close"));
    head.version != Version::HTTP_2 && named()
}

/// Reads pieces of the content and writes them, to the end. `body` is `None` when no more comes.
fn poll_written(
    client: &mut Downstream,
    content: &mut Content,
    body: &mut Option<Body>,
    cx: &mut Context<'_>,
) -> Poll<Writing> {
    loop {
        let taken = take_in(client, body, cx);
        let sent = client.poll_send(cx);
        match (&sent, taken) {
            (Poll::Ready(Err(_gone)), _) => return Poll::Ready(Writing::Lost),
            (Poll::Ready(Ok(())), Taken::All) => return Poll::Ready(Writing::Whole),
            (Poll::Ready(Ok(())), Taken::Broken) => return Poll::Ready(Writing::Part),
            (Poll::Ready(Ok(())), Taken::Enough) => continue,
            _ => {}
        }
        match content.poll(client, cx) {
            ClientMove::Left => return Poll::Ready(Writing::Lost),
            ClientMove::Sent => {} // poll again: the answer may depend on the piece of the request that has come
            ClientMove::Waits => return Poll::Pending,
        }
    }
}

/// How much of an answer's content was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Taken {
    All,
    /// A part; the rest has not come yet.
    Waits,
    /// A part; the rest can be read when this is written.
    Enough,
    Broken,
}

/// Reads the content that is there.
fn take_in(client: &mut Downstream, body: &mut Option<Body>, cx: &mut Context<'_>) -> Taken {
    while let Some(open) = body {
        if client.outbox.len() >= ENOUGH {
            open.move_upload(cx); // some clients read only after all of their request is accepted
            return Taken::Enough;
        }
        let is_full = client.server.is_answer_written();
        let frame = match Pin::new(&mut *open).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => Some(frame),
            Poll::Ready(None) => None,
            // The content has its announced length, so nothing after it is waited for.
            Poll::Pending | Poll::Ready(Some(Err(_))) if is_full => None,
            Poll::Pending => return Taken::Waits,
            Poll::Ready(Some(Err(_told_by_the_exchange))) => {
                client.server.cut();
                break;
            }
        };
        let is_last = frame.as_ref().is_none_or(Frame::is_trailers) || open.is_end_stream();
        if client.write_frame(frame, is_last).is_err() {
            client.server.cut();
        } else if !is_last {
            continue;
        }
        break;
    }
    *body = None;
    if client.server.after() == Some(After::Reset) { Taken::Broken } else { Taken::All }
}

impl Downstream {
    fn write_frame(&mut self, frame: Option<Frame<Bytes>>, is_last: bool) -> Result<(), Error> {
        let mut trailers = None;
        match frame.map(Frame::into_data) {
            Some(Ok(data)) if !data.is_empty() => {
                let frame = self.server.frame(data.len())?;
                self.outbox.end().extend_from_slice(frame.before());
                self.outbox.attach(data);
                self.outbox.end().extend_from_slice(frame.after());
            }
            Some(Err(frame)) if self.takes_trailers => {
                trailers = frame.trailers_ref().map(Fields::of_map).transpose()?;
            }
            _ => {}
        }
        if is_last {
            self.server.finish(trailers.as_ref(), self.outbox.end())?;
        }
        Ok(())
    }
}

/// Passes on the rest of a request whose answer is complete: the upstream may still want it.
fn poll_rest(client: &mut Downstream, content: &mut Content, cx: &mut Context<'_>) -> Poll<ClientMove> {
    loop {
        match content {
            Content::Whole | Content::Broken => return Poll::Ready(ClientMove::Waits),
            Content::Unwanted => {
                client.drop_rest(cx);
                return Poll::Ready(ClientMove::Waits);
            }
            Content::Feeding(_) => {}
        }
        match content.poll(client, cx) {
            ClientMove::Left => return Poll::Ready(ClientMove::Left),
            ClientMove::Waits if matches!(content, Content::Feeding(_)) => return Poll::Pending,
            ClientMove::Sent | ClientMove::Waits => {}
        }
    }
}
