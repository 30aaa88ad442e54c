//! One upstream HTTP/1 connection.
//!
//! It has no task. Who sends a request writes it and reads the head of its answer, both in place; who reads the answer's
//! body reads the connection, and writes what is left of a request that was answered before its end. In between the
//! connection is a few words and a socket: that its peer has closed it is found by who takes it next.

mod answer;
#[cfg(test)]
mod tests;
mod wire;

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use http::{Request, StatusCode, request, response};
use parking_lot::Mutex;
pub use pillion_http1::Fault;
use pillion_http1::{Error, Length, Misuse, ResponseHead, remove_hop_by_hop};

pub use self::answer::Incoming;
use self::wire::{Said, Wire};
use super::ReasonPhrase;
use super::request::Then;
use crate::h2::send::OutgoingBody;
use crate::head::HeadLimits;
use crate::seen::Seen;
use crate::transfer::Observer;
use pillion_base::net::Io;

/// Carries one exchange after another. What an exchange holds of it, and who keeps it for the next one, share it.
pub struct Connection(Arc<Mutex<Wire>>);

/// A request that got no answer.
pub struct Failed<B> {
    pub error: Failure,
    /// A part of an answer had come.
    pub has_answer_begun: bool,
    /// The request itself, where not a byte of it was written.
    pub unsent: Option<Request<B>>,
}

#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("it ended the connection")]
    Left,
    #[error("{0}")]
    Malformed(Fault),
    #[error("the request's body broke off")]
    Body,
    #[error("{0}")]
    Unwritable(#[from] Misuse),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Request(fault) | Error::Answer(fault) => Self::Malformed(fault),
            Error::Own(misuse) => Self::Unwritable(misuse),
        }
    }
}

impl Failure {
    /// The answer's head is larger than it was allowed to be.
    pub const fn is_large_head(&self) -> bool {
        matches!(self, Self::Malformed(Fault::LargeHead | Fault::ManyFields))
    }
}

/// The body of an answer.
pub enum Answer {
    Empty,
    /// It came with its head, and its length was announced.
    Full(Bytes),
    Incoming(Incoming),
    /// It opened the tunnel that was asked for: the connection is bytes alone from here on.
    Tunnel(Box<Io>),
}

/// An answer, and what its fields are to a proxy.
pub type Answered = (http::Response<Answer>, Seen);

/// How a connection goes on after an exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rest {
    /// It may carry another one.
    Ready,
    /// Once the last bytes of its request are written; see [`Connection::written`].
    Writing,
    Over,
}

impl Connection {
    pub fn new(io: Io, limits: HeadLimits) -> Self {
        Self(Arc::new(Mutex::new(Wire::new(io, limits))))
    }

    /// Sends `request` and waits for the head of its answer, and what that holds. Dropped, the connection is good for
    /// nothing any more.
    ///
    /// # Errors
    /// Why there is no answer.
    pub async fn send<B: OutgoingBody>(
        &self,
        request: Request<B>,
        observer: &dyn Observer,
    ) -> Result<Answered, Box<Failed<B>>> {
        let (head, body) = request.into_parts();
        let mut asking = Asking { head: Some(head), body: Some(body), is_read: false };
        let begun = asking.begin(&mut self.0.lock());
        let answered = match begun {
            Ok(()) => poll_fn(|cx| asking.poll(&self.0, cx, observer)).await,
            Err(misuse) => Err(misuse.into()),
        };
        answered.map_err(|error| {
            let has_answer_begun = self.0.lock().has_answer_begun();
            Box::new(Failed { error, has_answer_begun, unsent: asking.unsent() })
        })
    }

    /// Whether the peer has ended it, or said something that nobody had asked for. For a connection that rests: tokio
    /// asks the kernel only where something has happened to the socket.
    pub fn is_closed(&self) -> bool {
        self.0.lock().poll_unasked(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    /// The exchange is over, as far as its answer goes. Where [`Rest::Ready`] is said another one may begin.
    pub fn rest(&self) -> Rest {
        self.0.lock().rest(&mut Context::from_waker(Waker::noop()))
    }

    /// Writes the last bytes of a request that was answered whole. Whether another exchange may begin.
    pub async fn written(&self) -> bool {
        poll_fn(|cx| match self.0.lock().rest(cx) {
            Rest::Writing => Poll::Pending,
            rest => Poll::Ready(rest == Rest::Ready),
        })
        .await
    }

    /// Takes the stream away: the exchange on it is given up, or it is somebody else's from here on.
    pub fn take_io(&self) -> Option<Io> {
        self.0.lock().take_io().map(|(io, _)| io)
    }

    /// Says goodbye, where that takes no time, and ends it. In TLS the peer is told; the kernel has room for that unless
    /// the peer has stopped reading.
    pub fn close(&self) {
        self.0.lock().close(&mut Context::from_waker(Waker::noop()));
    }
}

/// A request that has no answer yet.
struct Asking<B> {
    /// Until a byte of it is written.
    head: Option<request::Parts>,
    /// Until it is written whole.
    body: Option<B>,
    /// Something of the body has been read.
    is_read: bool,
}

impl<B: OutgoingBody> Asking<B> {
    fn begin(&mut self, wire: &mut Wire) -> Result<(), Misuse> {
        match (&self.head, &self.body) {
            (Some(head), Some(body)) => wire.begin(head, body.size_hint().exact(), body.is_end_stream()),
            _ => Ok(()),
        }
    }

    fn poll(
        &mut self,
        shared: &Arc<Mutex<Wire>>,
        cx: &mut Context<'_>,
        observer: &dyn Observer,
    ) -> Poll<Result<Answered, Failure>> {
        let mut wire = shared.lock();
        loop {
            self.poll_request(&mut wire, cx)?;
            match ready!(wire.poll_head(cx))? {
                Said::Interim(head) => self.hear(head, observer)?, // the body may be asked for
                Said::Answer(head, data, then) => {
                    wire.keep_upload(self.body.take());
                    return Poll::Ready(answered(head, (data, then), shared));
                }
                Said::Switched(head) => return Poll::Ready(switched(head, &mut wire)),
            }
        }
    }

    fn poll_request(&mut self, wire: &mut Wire, cx: &mut Context<'_>) -> Result<(), Failure> {
        let Some(body) = &mut self.body else {
            wire.poll_rest(cx);
            return Ok(());
        };
        let is_written = wire.poll_request(body, &mut self.is_read, cx)?;
        if wire.has_begun() {
            self.head = None;
            if is_written {
                self.body = None;
            }
        }
        Ok(())
    }

    fn hear(&self, mut interim: ResponseHead, observer: &dyn Observer) -> Result<(), Failure> {
        if interim.status == StatusCode::CONTINUE {
            if let Some(body) = &self.body {
                body.ask();
            }
            return Ok(());
        }
        remove_hop_by_hop(&mut interim.fields)?;
        observer.interim().tell(http::Response::from_parts(parts(&interim)?, ()));
        Ok(())
    }

    /// The request, where nothing of it went further than to here.
    fn unsent(&mut self) -> Option<Request<B>> {
        let (head, body) = (self.head.take()?, self.body.take()?);
        (!self.is_read).then(|| Request::from_parts(head, body))
    }
}

fn answered(
    head: ResponseHead,
    (data, then): (Bytes, Then),
    shared: &Arc<Mutex<Wire>>,
) -> Result<Answered, Failure> {
    let parts = parts(&head)?;
    let answer = match (head.length, &then) {
        (length, _) if length.is_empty() => Answer::Empty,
        (Length::Known(_), Then::End) => Answer::Full(data),
        (length, _) => Answer::Incoming(Incoming::new(shared.clone(), length, data, then)),
    };
    Ok((http::Response::from_parts(parts, answer), Seen::in_fields(&head.fields)))
}

fn switched(head: ResponseHead, wire: &mut Wire) -> Result<Answered, Failure> {
    let Some((mut io, read)) = wire.take_io() else { return Err(Failure::Left) };
    if !read.is_empty() {
        io.put_back(read);
    }
    let response = http::Response::from_parts(parts(&head)?, Answer::Tunnel(Box::new(io)));
    Ok((response, Seen::in_fields(&head.fields)))
}

/// A head as layers have it. A reason of its own goes along.
fn parts(head: &ResponseHead) -> Result<response::Parts, Misuse> {
    let (mut parts, ()) = http::Response::new(()).into_parts();
    (parts.status, parts.version) = (head.status, head.version);
    parts.headers = head.fields.to_map()?;
    if head.status.canonical_reason().is_none_or(|usual| usual.as_bytes() != head.reason()) {
        parts.extensions.insert(ReasonPhrase(Bytes::copy_from_slice(head.reason())));
    }
    Ok(parts)
}
