//! Both directions of one connection, while an exchange is on it.
//!
//! An answer that has come wins over an error in sending. An upstream may answer early and close with bytes of the
//! request unread: our next write then fails, while its answer still waits in the kernel. On Linux what was received
//! before a reset can be read after it. So a failed write is kept, and the reader decides.

use std::future::Future as _;
use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use http::Method;
use http::uri::Uri;
use http_body::Frame;
use pillion_http1::{
    After, Client, EndOfInput, Error, Fields, FromUpstream, Known, Length, Limits, Misuse, ResponseHead,
};
use tokio::io::AsyncWrite as _;
use tokio::time::{Sleep, sleep};

use super::{ClientFailure, Rest};
use crate::error::Broken;
use crate::h1::buffer::{Inbox, Outbox, poll_fill, take};
use crate::h1::request::Then;
use crate::h2::send::OutgoingBody;
use crate::head::HeadLimits;
use crate::message::{RequestHead, Response};
use pillion_base::net::{Io, Transport};

/// How long is waited for something to read once nothing can be written. What came before the write failed is in the
/// kernel already; the runtime may hear of that a moment later.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// Small pieces of an answer that came together are joined up to here.
const JOINED: usize = 16 * 1024;
/// A piece below this size is joined with its neighbours.
const SMALL: usize = 4 * 1024;

pub(super) struct Wire {
    /// `None` once it is somebody else's.
    io: Option<Io>,
    engine: Client,
    inbox: Inbox,
    outbox: Outbox,
    limits: Limits,
    /// The first write that failed. None follows it.
    failed: Option<Box<FailedWrite>>,
    /// What is left of a request whose answer has begun.
    upload: Option<Box<dyn OutgoingBody>>,
    /// An exchange has begun that was not followed by rest.
    is_used: bool,
}

/// What the upstream says before the content of its answer.
pub(super) enum Said {
    Interim(Box<ResponseHead>),
    /// With as much of the content as came with it.
    Answer(Response<Content>),
    Switched(Response<()>),
}

/// What is known of the content of an answer.
pub(super) struct Content {
    pub(super) length: Length,
    /// So much of it came with its head.
    pub(super) data: Bytes,
    pub(super) then: Then,
}

struct FailedWrite {
    kind: ErrorKind,
    /// Until the reader was told.
    error: Option<io::Error>,
    patience: Pin<Box<Sleep>>,
}

impl FailedWrite {
    fn tell(&mut self) -> io::Error {
        self.error.take().unwrap_or_else(|| self.kind.into())
    }

    /// Whether an end that is read after a failed write is the upstream's own. After a reset Linux reports an ordinary
    /// end, once a write was told of the reset (`ECONNRESET`); only where the end had come before the reset is the
    /// write told `EPIPE`. In TLS an end is always the peer's word.
    fn is_end_believed(&self, io: &Io) -> bool {
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
        };
        wire.limit(limits);
        wire
    }

    pub(super) fn limit(&mut self, limits: HeadLimits) {
        (self.limits.head_bytes, self.limits.fields) = (limits.bytes, limits.fields);
    }

    /// What its buffers take up.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.inbox.held() + self.outbox.held()
    }

    /// Begins an exchange: its head is put where it leaves with what follows it. `length`: what the body knows of it.
    pub(super) fn begin(
        &mut self,
        head: &RequestHead,
        length: Option<u64>,
        is_empty: bool,
    ) -> Result<(), Misuse> {
        self.outbox.begin();
        self.is_used = true;
        let length = match length {
            _ if head.method == Method::CONNECT => Length::Empty,
            // A zero that was said is passed on, and none is said for anybody.
            _ if is_empty && !head.headers.has(Known::ContentLength) => Length::Empty,
            _ if is_empty => Length::Known(0),
            Some(length) => Length::Known(length),
            None => Length::Chunked,
        };
        let mut whole = String::new();
        let target = target(&head.method, &head.uri, &mut whole);
        self.engine.write_head(&head.method, target, head.headers.lines(), length, self.outbox.end())
    }

    /// Whether a byte of the request has been written.
    pub(super) const fn has_begun(&self) -> bool {
        self.outbox.has_begun()
    }

    /// Whether a part of an answer had come when the connection failed.
    pub(super) fn has_answer_begun(&mut self) -> bool {
        !self.inbox.is_empty() || matches!(self.engine.read_end(), EndOfInput::InHead)
    }

    /// Writes what there is of a request. Says whether that was all of it. `is_read`: something of the body has been
    /// taken out of it.
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

    /// Takes pieces out of the body until it has none, or enough wait to be written. Says whether it is the latter.
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

    /// Writes what waits. A failure is kept for the reader.
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

    /// The answer has begun: who reads it sends the rest of its request.
    pub(super) fn keep_upload<B: OutgoingBody>(&mut self, body: &mut B) {
        if !self.engine.is_request_written() {
            self.upload = Some(Box::new(body.take()));
        }
    }

    /// Nobody needs the rest of the request any more.
    pub(super) fn drop_upload(&mut self) {
        self.upload = None;
    }

    /// Sends what there is of the rest of the request.
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

    /// Writes what waits of a request whose body has ended.
    pub(super) fn poll_rest(&mut self, cx: &mut Context<'_>) {
        if !self.outbox.is_empty() && self.failed.is_none() {
            let _kept_for_the_reader = self.poll_send(cx);
        }
    }

    /// What the upstream says next, up to the head of its answer.
    pub(super) fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Said, ClientFailure>> {
        let Self { io, engine, inbox, limits, failed, .. } = self;
        inbox.with(|bytes| {
            loop {
                if !bytes.is_empty() {
                    let (used, event) = engine.read(bytes, limits)?;
                    bytes.advance(used);
                    match event {
                        FromUpstream::Interim(head) => return Poll::Ready(Ok(Said::Interim(Box::new(head)))),
                        FromUpstream::Switched(head) => {
                            return Poll::Ready(Ok(Said::Switched(Response::read(head, ()))));
                        }
                        FromUpstream::Head(head) => {
                            let length = head.length;
                            let (data, then) = content(engine, bytes, limits);
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

    /// The next piece of the answer's content, and what follows it. What is left of the request is written on.
    pub(super) fn poll_content(&mut self, cx: &mut Context<'_>) -> Poll<(Bytes, Then)> {
        if let Err(_broken) = self.poll_upload(cx) {
            return Poll::Ready((Bytes::new(), Then::Broken(Broken::Request)));
        }
        let Self { io, engine, inbox, limits, failed, .. } = self;
        inbox.with(|bytes| {
            loop {
                let (data, then) = content(engine, bytes, limits);
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

    /// Whether something has come on a connection that rests, its end included.
    pub(super) fn has_come_unasked(&mut self) -> bool {
        let Self { io: Some(io), inbox, .. } = self else { return true };
        let cx = &mut Context::from_waker(Waker::noop());
        io.may_have_come() && inbox.with(|bytes| poll_fill(io, bytes, cx).is_ready())
    }

    /// How the connection goes on, now that its answer is whole or will not be read any further.
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

    /// With what came and belongs to nobody here.
    pub(super) fn take_io(&mut self) -> Option<(Io, Bytes)> {
        self.upload = None;
        Some((self.io.take()?, std::mem::take(&mut self.inbox).into_bytes()))
    }

    pub(super) fn close(&mut self, cx: &mut Context<'_>) {
        if let Some(mut io) = self.io.take()
            && let Transport::Connected(_) = io.get_ref()
        {
            // In plain text the kernel says it when the stream is dropped. Whatever comes of it here, that was all.
            let _said = Pin::new(&mut io).poll_shutdown(cx).map(|said| said.is_ok());
        }
    }
}

/// Absolute-form where there is a scheme, authority-form of a CONNECT, else the path. `whole` is room for the first.
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

/// Reads once. After a failed write only what had come before it is worth reading.
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
        Poll::Ready(Ok(0)) if !failed.is_end_believed(io) => Poll::Ready(Err(failed.tell())),
        Poll::Ready(Ok(count)) => Poll::Ready(Ok(count)),
        // The peer's TLS alert says why it hung up, which is more than that it did.
        Poll::Ready(Err(error)) if is_of_tls(&error) => Poll::Ready(Err(error)),
        Poll::Ready(Err(_)) => Poll::Ready(Err(failed.tell())),
        Poll::Pending => failed.patience.as_mut().poll(cx).map(|()| Err(failed.tell())),
    }
}

fn is_of_tls(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>())
}

/// The content that is there: one large piece, or small ones joined. Nothing is there where the piece is empty and more
/// follows.
fn content(engine: &mut Client, bytes: &mut BytesMut, limits: &Limits) -> (Bytes, Then) {
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
        Ok(trailers) => Then::Trailers(trailers),
        Err(_misuse) => Then::Broken(Broken::Malformed(pillion_http1::Fault::Trailers)),
    }
}

fn broken(error: Error) -> Then {
    match error {
        Error::Request(fault) | Error::Answer(fault) => Then::Broken(Broken::Malformed(fault)),
        Error::Own(_misuse) => Then::Broken(Broken::Ended),
    }
}
