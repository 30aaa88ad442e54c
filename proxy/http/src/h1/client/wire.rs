//! Both directions of one connection during an exchange.
//!
//! An answer that has come goes before an error in sending. An upstream may answer early and close with bytes of the
//! request unread: the next write then fails, while the answer still waits in the kernel. On Linux, bytes that were
//! received before a reset can be read after it. So the error of a failed write is kept, and the reader decides.

use std::future::Future as _;
use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use http::uri::Uri;
use http::{Method, Version};
use http_body::Frame;
use pillion_http1::{
    After, Client, EndOfInput, Error, Fields, FromUpstream, Known, Length, Limits, Misuse, ResponseHead,
};
use tokio::io::AsyncWrite as _;
use tokio::time::{Sleep, sleep};

use super::{ClientFailure, Rest};
use crate::error::Broken;
use crate::h1::buffer::{Inbox, Outbox, has_nothing, poll_fill, take, take_shared};
use crate::h1::request::Then;
use crate::h2::send::OutgoingBody;
use crate::head::HeadLimits;
use crate::message::{RequestHead, Response};
use pillion_base::net::{Io, Transport};

/// How long a reader waits for bytes after a write has failed. Bytes that came before the failure are already in the
/// kernel, but the runtime may get the event a little later.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// Small pieces of an answer that came together are joined up to this size.
const JOINED: usize = 16 * 1024;
/// A smaller piece is joined with its neighbours.
const SMALL: usize = 4 * 1024;

pub(super) struct Wire {
    /// `None` once it was taken away.
    io: Option<Io>,
    engine: Client,
    inbox: Inbox,
    outbox: Outbox,
    limits: Limits,
    /// The error of the first failed write. No further write is tried after it.
    failed: Option<Box<FailedWrite>>,
    /// The rest of a request whose answer has begun.
    upload: Option<Box<dyn OutgoingBody>>,
    /// An exchange has begun, and [`Wire::rest`] was not called yet.
    is_used: bool,
    /// A piece of the answer may keep the thread's buffer, because a client of HTTP/1 takes it at once. For a client of
    /// HTTP/2 it may wait for a window.
    shares: bool,
}

/// What the upstream sends before the content of its answer.
pub(super) enum Said {
    Interim(Box<ResponseHead>),
    /// The answer's head, with the content that came with it.
    Answer(Response<Content>),
    Switched(Response<()>),
}

/// The content of an answer, as far as it is known with the head.
pub(super) struct Content {
    pub(super) length: Length,
    /// The part that came with the head.
    pub(super) data: Bytes,
    pub(super) then: Then,
}

struct FailedWrite {
    kind: ErrorKind,
    /// The error, until the reader gets it.
    error: Option<io::Error>,
    patience: Pin<Box<Sleep>>,
}

impl FailedWrite {
    fn tell(&mut self) -> io::Error {
        self.error.take().unwrap_or_else(|| self.kind.into())
    }

    /// Whether an end that is read after a failed write was sent by the upstream. After a reset, Linux reports an
    /// ordinary end to readers once a write has failed with `ECONNRESET`. A write fails with `EPIPE` only if the end
    /// had come before the reset. With TLS, an end always comes from the peer.
    fn is_end_from_peer(&self, io: &Io) -> bool {
        self.kind == ErrorKind::BrokenPipe || matches!(io.get_ref(), Transport::Connected(_))
    }
}

impl Wire {
    pub(super) fn new(io: Io, limits: HeadLimits) -> Self {
        let mut wire = Self {
            io: Some(io),
            engine: Client::new(),
            inbox: Inbox::default(),
            outbox: Outbox::default(),
            limits: Limits::default(),
            failed: None,
            upload: None,
            is_used: false,
            shares: false,
        };
        wire.limit(limits);
        wire
    }

    pub(super) fn limit(&mut self, limits: HeadLimits) {
        (self.limits.head_bytes, self.limits.fields) = (limits.bytes, limits.fields);
    }

    /// The memory of its buffers.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.inbox.held() + self.outbox.held()
    }

    /// Begins an exchange: its head is put into the outbox, so that it leaves together with the first content.
    /// `length`: the length of the body, if it is known.
    pub(super) fn begin(
        &mut self,
        head: &RequestHead,
        length: Option<u64>,
        is_empty: bool,
    ) -> Result<(), Misuse> {
        self.outbox.begin();
        self.is_used = true;
        self.shares = head.version != Version::HTTP_2;
        let length = match length {
            _ if head.method == Method::CONNECT => Length::Empty,
            // A zero that the sender announced is forwarded, but none is added.
            _ if is_empty && !head.headers.has(Known::ContentLength) => Length::Empty,
            _ if is_empty => Length::Known(0),
            Some(length) => Length::Known(length),
            None => Length::Chunked,
        };
        let mut whole = String::new();
        let target = target(&head.method, &head.uri, &mut whole);
        self.engine.write_head(&head.method, target, head.lines(), length, self.outbox.end())
    }

    /// Whether a byte of the request has been written.
    pub(super) const fn has_begun(&self) -> bool {
        self.outbox.has_begun()
    }

    /// Whether bytes have come that are no whole head yet.
    pub(super) fn holds_part(&self) -> bool {
        !self.inbox.is_empty()
    }

    /// Whether a part of an answer had come when the connection failed.
    pub(super) fn has_answer_begun(&mut self) -> bool {
        !self.inbox.is_empty() || matches!(self.engine.read_end(), EndOfInput::InHead)
    }

    /// Writes the part of a request that is there. Returns whether that was all of it. `is_read` is set when a part of
    /// the body was read.
    pub(super) fn poll_request(
        &mut self,
        body: &mut dyn OutgoingBody,
        is_read: &mut bool,
        cx: &mut Context<'_>,
    ) -> Result<bool, ClientFailure> {
        while self.failed.is_none() {
            let has_more = self.poll_body(body, is_read, cx)?;
            let has_room = self.poll_send(cx).is_ready() || !self.outbox.is_full();
            if !has_more || !has_room {
                break;
            }
        }
        Ok(self.engine.is_request_written())
    }

    /// Takes pieces out of the body until it has no more now, or enough bytes wait to be written. Returns whether
    /// enough wait.
    fn poll_body(
        &mut self,
        body: &mut dyn OutgoingBody,
        is_read: &mut bool,
        cx: &mut Context<'_>,
    ) -> Result<bool, ClientFailure> {
        while !self.engine.is_request_written() {
            if self.outbox.is_full() {
                return Ok(true);
            }
            match Pin::new(&mut *body).poll_frame(cx) {
                Poll::Pending => return Ok(false),
                Poll::Ready(None) => self.engine.finish(None, self.outbox.end())?,
                Poll::Ready(Some(Err(_))) => return Err(ClientFailure::Body),
                Poll::Ready(Some(Ok(frame))) => {
                    *is_read = true;
                    self.put(frame)?;
                    if body.is_end_stream() && !self.engine.is_request_written() {
                        self.engine.finish(None, self.outbox.end())?;
                    }
                }
            }
        }
        Ok(false)
    }

    fn put(&mut self, frame: Frame<Bytes>) -> Result<(), Misuse> {
        match frame.into_data() {
            Ok(data) => {
                let around = self.engine.frame(data.len())?;
                self.outbox.end().extend_from_slice(around.before());
                self.outbox.attach(data);
                self.outbox.end().extend_from_slice(around.after());
                Ok(())
            }
            Err(frame) => match frame.into_trailers() {
                Ok(trailers) => self.engine.finish(Some(&Fields::of_map(&trailers)?), self.outbox.end()),
                Err(_unknown) => Ok(()),
            },
        }
    }

    /// Writes the waiting bytes. A failure is kept for the reader.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(io) = &mut self.io else { return Poll::Pending };
        match ready!(self.outbox.poll_send(io, cx)) {
            Ok(()) => Poll::Ready(()),
            Err(error) => {
                let (kind, patience) = (error.kind(), Box::pin(sleep(LAST_WORDS)));
                self.failed = Some(Box::new(FailedWrite { kind, error: Some(error), patience }));
                Poll::Pending
            }
        }
    }

    /// Keeps the rest of the request, because the answer has begun: the reader of the answer sends it.
    pub(super) fn keep_upload<B: OutgoingBody>(&mut self, body: &mut B) {
        if !self.engine.is_request_written() {
            self.upload = Some(Box::new(body.take()));
        }
    }

    /// Drops the rest of the request, which is not needed any more.
    pub(super) fn drop_upload(&mut self) {
        self.upload = None;
    }

    /// Sends the part of the rest of the request that is there.
    pub(super) fn poll_upload(&mut self, cx: &mut Context<'_>) -> Result<(), ClientFailure> {
        let Some(mut body) = self.upload.take() else {
            self.poll_rest(cx);
            return Ok(());
        };
        if !self.poll_request(&mut *body, &mut false, cx)? {
            self.upload = Some(body);
        }
        Ok(())
    }

    /// Writes the waiting bytes of a request whose body has ended.
    pub(super) fn poll_rest(&mut self, cx: &mut Context<'_>) {
        if !self.outbox.is_empty() && self.failed.is_none() {
            let _kept_for_the_reader = self.poll_send(cx);
        }
    }

    /// Reads what the upstream sends next, up to the head of its answer.
    pub(super) fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Said, ClientFailure>> {
        let Self { io, engine, inbox, limits, failed, shares, .. } = self;
        if let (Some(io), None, true) = (&mut *io, &failed, inbox.is_empty())
            && has_nothing(io, cx)
        {
            return Poll::Pending;
        }
        inbox.with(|bytes| {
            loop {
                if !bytes.is_empty() {
                    let read = engine.read(bytes, limits)?;
                    bytes.advance(read.0);
                    // Each event is matched in its place: a head has 140 bytes, which would be moved once more.
                    match read.1 {
                        FromUpstream::Interim(head) => return Poll::Ready(Ok(Said::Interim(Box::new(head)))),
                        FromUpstream::Switched(head) => {
                            return Poll::Ready(Ok(Said::Switched(Response::read(head, ()))));
                        }
                        FromUpstream::Head(head) => {
                            let length = head.length;
                            let (data, then) = content(engine, bytes, limits, *shares);
                            let answer = Response::read(head, Content { length, data, then });
                            return Poll::Ready(Ok(Said::Answer(answer)));
                        }
                        _ => {}
                    }
                }
                if ready!(fill(io, failed, bytes, cx))? == 0 {
                    return Poll::Ready(Err(ClientFailure::Left));
                }
            }
        })
    }

    /// The next piece of the answer's content, and what follows it. Also writes the rest of the request.
    pub(super) fn poll_content(&mut self, cx: &mut Context<'_>) -> Poll<(Bytes, Then)> {
        if let Err(_broken) = self.poll_upload(cx) {
            return Poll::Ready((Bytes::new(), Then::Broken(Broken::Request)));
        }
        let Self { io, engine, inbox, limits, failed, shares, .. } = self;
        inbox.with(|bytes| {
            loop {
                let (data, then) = content(engine, bytes, limits, *shares);
                if !data.is_empty() || !matches!(then, Then::More) {
                    return Poll::Ready((data, then));
                }
                let then = match ready!(fill(io, failed, bytes, cx)) {
                    Ok(0) if engine.read_end() == EndOfInput::Whole => Then::End,
                    Ok(0) => Then::Broken(Broken::Ended),
                    Err(error) => Then::Broken(Broken::Failed(error)),
                    Ok(_) => continue,
                };
                return Poll::Ready((Bytes::new(), then));
            }
        })
    }

    /// Whether bytes, or the end, have come on a pooled connection.
    pub(super) fn has_come_unasked(&mut self) -> bool {
        let Self { io: Some(io), inbox, .. } = self else { return true };
        let cx = &mut Context::from_waker(Waker::noop());
        io.may_have_come() && inbox.with(|bytes| poll_fill(io, bytes, cx).is_ready())
    }

    /// How the connection goes on after its answer was read completely, or will not be read any further.
    pub(super) fn rest(&mut self, cx: &mut Context<'_>) -> Rest {
        self.upload = None;
        let may_rest = !self.is_used || self.engine.after() == Some(After::Next);
        if !may_rest || !self.inbox.is_empty() || self.io.is_none() {
            return Rest::Over;
        }
        self.poll_rest(cx);
        if self.failed.is_some() {
            return Rest::Over;
        }
        if !self.outbox.is_empty() {
            return Rest::Writing;
        }
        self.engine.next();
        self.is_used = false;
        Rest::Ready
    }

    /// Takes the stream, with the bytes that came and were not read.
    pub(super) fn take_io(&mut self) -> Option<(Io, Bytes)> {
        self.upload = None;
        Some((self.io.take()?, std::mem::take(&mut self.inbox).into_bytes()))
    }

    pub(super) fn close(&mut self, cx: &mut Context<'_>) {
        if let Some(mut io) = self.io.take()
            && let Transport::Connected(_) = io.get_ref()
        {
            // In plaintext, the kernel sends the end when the stream is dropped. The result does not matter here.
            let _said = Pin::new(&mut io).poll_shutdown(cx).map(|said| said.is_ok());
        }
    }
}

/// The target: absolute-form if there is a scheme, authority-form for a CONNECT, otherwise the path. `whole` is a
/// buffer for the absolute-form.
fn target<'a>(method: &Method, uri: &'a Uri, whole: &'a mut String) -> &'a str {
    if *method == Method::CONNECT {
        return uri.authority().map_or("", |authority| authority.as_str());
    }
    if uri.scheme().is_some() {
        *whole = uri.to_string();
        return whole;
    }
    uri.path_and_query().map_or("/", |path| path.as_str())
}

/// Reads once. After a failed write, it waits only a short time for bytes that came before the failure.
fn fill(
    io: &mut Option<Io>,
    failed: &mut Option<Box<FailedWrite>>,
    bytes: &mut BytesMut,
    cx: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    let Some(io) = io else { return Poll::Ready(Err(ErrorKind::NotConnected.into())) };
    let polled = poll_fill(io, bytes, cx);
    let Some(failed) = failed else { return polled };
    match polled {
        Poll::Ready(Ok(0)) if !failed.is_end_from_peer(io) => Poll::Ready(Err(failed.tell())),
        Poll::Ready(Ok(count)) => Poll::Ready(Ok(count)),
        // The peer's TLS alert says why it closed the connection, which the failed write does not.
        Poll::Ready(Err(error)) if is_of_tls(&error) => Poll::Ready(Err(error)),
        Poll::Ready(Err(_)) => Poll::Ready(Err(failed.tell())),
        Poll::Pending => failed.patience.as_mut().poll(cx).map(|()| Err(failed.tell())),
    }
}

fn is_of_tls(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>())
}

/// Takes the content that is there: one large piece, or joined small ones. An empty piece with [`Then::More`] means
/// that no content is there. `shares`: see [`Wire`].
fn content(engine: &mut Client, bytes: &mut BytesMut, limits: &Limits, shares: bool) -> (Bytes, Then) {
    let (mut first, mut joined) = (Bytes::new(), Vec::new());
    let then = loop {
        let event = match engine.read(bytes, limits) {
            Ok((used, event)) => {
                bytes.advance(used);
                event
            }
            Err(error) => break broken(error),
        };
        match event {
            FromUpstream::Data(length) if first.is_empty() && shares => first = take_shared(bytes, length),
            FromUpstream::Data(length) if first.is_empty() => first = take(bytes, length),
            FromUpstream::Data(length) => join(&first, &mut joined, bytes, length),
            FromUpstream::End => break Then::End,
            FromUpstream::Trailers(trailers) => {
                engine.ends();
                break trailing(&trailers);
            }
            _ => break Then::More,
        }
        if engine.ends() {
            break Then::End;
        }
        if first.len() >= SMALL || joined.len() >= JOINED {
            break Then::More;
        }
    };
    (if joined.is_empty() { first } else { joined.into() }, then)
}

fn join(first: &Bytes, joined: &mut Vec<u8>, bytes: &mut BytesMut, length: usize) {
    if joined.is_empty() {
        joined.reserve(first.len() + bytes.len());
        joined.extend_from_slice(first);
    }
    joined.extend_from_slice(bytes.get(..length).unwrap_or_default());
    bytes.advance(length.min(bytes.len()));
}

fn trailing(trailers: &Fields) -> Then {
    match trailers.to_map() {
        Ok(trailers) => Then::Trailers(trailers.into()),
        Err(_misuse) => Then::Broken(Broken::Malformed(pillion_http1::Fault::Trailers)),
    }
}

fn broken(error: Error) -> Then {
    match error {
        Error::Request(fault) | Error::Answer(fault) => Then::Broken(Broken::Malformed(fault)),
        Error::Own(_misuse) => Then::Broken(Broken::Ended),
    }
}
