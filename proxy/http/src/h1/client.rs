//! One upstream HTTP/1 connection.
//!
//! The connection has no task. The task that sends a request writes it and reads the head of its answer. The task that
//! reads the answer's body reads the connection, and writes the rest of a request that was answered before its end.
//! Between two exchanges the connection is a few words and a socket: the next user finds out whether the peer has
//! closed it.

mod answer;
#[cfg(test)]
mod tests;
mod wire;

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use http::StatusCode;
use parking_lot::Mutex;
use pillion_http1::{Error, Length, ResponseHead, remove_hop_by_hop};
pub use pillion_http1::{Fault, Misuse};

pub use self::answer::Incoming;
use self::wire::{Content, Said, Wire};
use super::request::Then;
use crate::h2::send::OutgoingBody;
use crate::head::HeadLimits;
use crate::message::{RequestHead, Response};
use crate::transfer::Observer;
use pillion_base::net::Io;

/// Carries one exchange after another. The current exchange and the pool share it.
pub struct Connection(Arc<Mutex<Wire>>);

/// Why a request got no answer.
pub struct FailedRequest {
    pub error: ClientFailure,
    /// Whether a part of an answer had come.
    pub has_answer_begun: bool,
    /// The request, if no byte of it was written and no part of its body was read: it can be sent elsewhere unchanged.
    pub is_unsent: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum ClientFailure {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("it closed the connection")]
    Left,
    #[error("{0}")]
    Malformed(Fault),
    #[error("the request's body broke off")]
    Body,
    #[error("{0}")]
    Unwritable(#[from] Misuse),
}

impl From<Error> for ClientFailure {
    fn from(error: Error) -> Self {
        match error {
            Error::Request(fault) | Error::Answer(fault) => Self::Malformed(fault),
            Error::Own(misuse) => Self::Unwritable(misuse),
        }
    }
}

impl ClientFailure {
    /// Whether the answer's head was larger than the limit.
    pub const fn is_large_head(&self) -> bool {
        matches!(self, Self::Malformed(Fault::LargeHead | Fault::ManyFields))
    }
}

/// The body of an answer.
pub enum Answer {
    Empty,
    /// The whole body came with the head, and its length was announced.
    Full(Bytes),
    Incoming(Box<Incoming>),
    /// The answer opened the tunnel that the request asked for: the connection carries opaque bytes from here on.
    Tunnel(Box<Io>),
}

/// How a connection goes on after an exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rest {
    /// It may carry another exchange.
    Ready,
    /// It may carry another exchange when the last bytes of the request are written; see [`Connection::written`].
    Writing,
    Over,
}

impl Connection {
    pub fn new(io: Io, limits: HeadLimits) -> Self {
        Self(Arc::new(Mutex::new(Wire::new(io, limits))))
    }

    /// Sets the limits for the heads of the next answers.
    pub fn limit(&self, limits: HeadLimits) {
        self.0.lock().limit(limits);
    }

    /// Sends `request` and waits for the head of its answer. If the future is dropped, the connection cannot be used
    /// any more. If no part of the body was read and no byte was written, both are unchanged.
    ///
    /// # Errors
    /// Why there is no answer.
    pub async fn send<B: OutgoingBody>(
        &self,
        head: &RequestHead,
        body: &mut B,
        observer: &dyn Observer,
    ) -> Result<Response<Answer>, FailedRequest> {
        let mut asking = Asking { body, is_whole: false, is_read: false };
        let begun = self.0.lock().begin(head, asking.body.size_hint().exact(), asking.body.is_end_stream());
        let answered = match begun {
            Ok(()) => poll_fn(|cx| asking.poll(&self.0, cx, observer)).await,
            Err(misuse) => Err(misuse.into()),
        };
        answered.map_err(|error| {
            let mut wire = self.0.lock();
            let is_unsent = !wire.has_begun() && !asking.is_read;
            let has_answer_begun = wire.has_answer_begun();
            if has_answer_begun {
                observer.answer_began();
            }
            FailedRequest { error, has_answer_begun, is_unsent }
        })
    }

    /// Whether the peer has closed a pooled connection, or has sent bytes without a request. The check is cheap: tokio
    /// calls the kernel only after an event of the socket.
    pub fn is_closed(&self) -> bool {
        self.0.lock().has_come_unasked()
    }

    /// Ends the exchange after its answer. After [`Rest::Ready`], another exchange may begin.
    pub fn rest(&self) -> Rest {
        self.0.lock().rest(&mut Context::from_waker(Waker::noop()))
    }

    /// Writes the last bytes of a request whose answer is complete. Returns whether another exchange may begin.
    pub async fn written(&self) -> bool {
        poll_fn(|cx| match self.0.lock().rest(cx) {
            Rest::Writing => Poll::Pending,
            rest => Poll::Ready(rest == Rest::Ready),
        })
        .await
    }

    /// Takes the stream away, because the exchange is given up, or because the stream becomes a tunnel.
    pub fn take_io(&self) -> Option<Io> {
        self.0.lock().take_io().map(|(io, _)| io)
    }

    /// Closes the connection without waiting. With TLS, a close_notify is sent first; the kernel has room for it unless
    /// the peer has stopped reading.
    pub fn close(&self) {
        self.0.lock().close(&mut Context::from_waker(Waker::noop()));
    }
}

/// A request that has no answer yet.
struct Asking<'a, B> {
    body: &'a mut B,
    /// All of the body has been written.
    is_whole: bool,
    /// A part of the body has been read.
    is_read: bool,
}

impl<B: OutgoingBody> Asking<'_, B> {
    fn poll(
        &mut self,
        shared: &Arc<Mutex<Wire>>,
        cx: &mut Context<'_>,
        observer: &dyn Observer,
    ) -> Poll<Result<Response<Answer>, ClientFailure>> {
        let mut wire = shared.lock();
        loop {
            self.poll_request(&mut wire, cx)?;
            let said = wire.poll_head(cx);
            if said.is_pending() && wire.holds_part() {
                observer.answer_began(); // whoever gives the request up now must know it
            }
            match ready!(said)? {
                Said::Interim(head) => self.receive_interim(*head, observer)?, // the body may be asked for
                Said::Answer(answer) => {
                    wire.keep_upload(self.body);
                    return Poll::Ready(Ok(answer.map(|content| answered(content, shared))));
                }
                Said::Switched(head) => return Poll::Ready(switched(head, &mut wire)),
            }
        }
    }

    fn poll_request(&mut self, wire: &mut Wire, cx: &mut Context<'_>) -> Result<(), ClientFailure> {
        if self.is_whole {
            wire.poll_rest(cx);
            return Ok(());
        }
        let is_written = wire.poll_request(self.body, &mut self.is_read, cx)?;
        if is_written && wire.has_begun() {
            self.is_whole = true;
            drop(self.body.take()); // the body's observer notes that it is complete
        }
        Ok(())
    }

    fn receive_interim(
        &self,
        mut interim: ResponseHead,
        observer: &dyn Observer,
    ) -> Result<(), ClientFailure> {
        if interim.status == StatusCode::CONTINUE && self.body.ask() {
            return Ok(()); // it opens the gate; the client gets a 100 when its body is read
        }
        remove_hop_by_hop(&mut interim.fields)?;
        observer.answer_began();
        let mut response = http::Response::new(());
        (*response.status_mut(), *response.headers_mut()) = (interim.status, interim.fields.to_map()?);
        observer.interim().tell(response);
        Ok(())
    }
}

fn answered(Content { length, data, then }: Content, shared: &Arc<Mutex<Wire>>) -> Answer {
    match (length, &then) {
        (length, _) if length.is_empty() => Answer::Empty,
        (Length::Known(_), Then::End) => Answer::Full(data),
        (length, _) => Answer::Incoming(Box::new(Incoming::new(shared.clone(), length, data, then))),
    }
}

fn switched(head: Response<()>, wire: &mut Wire) -> Result<Response<Answer>, ClientFailure> {
    let Some((mut io, read)) = wire.take_io() else { return Err(ClientFailure::Left) };
    if !read.is_empty() {
        io.put_back(read);
    }
    Ok(head.map(|()| Answer::Tunnel(Box::new(io))))
}
