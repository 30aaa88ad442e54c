//! Whether the server has taken us, which a client of TLS 1.3 learns only after its handshake.
//!
//! The server judges our certificate when the handshake has ended for us already. Its refusal is an alert in the place
//! of its first bytes, and whoever reads or writes then (an HTTP library, a relay) has no words for it. So the stream
//! itself watches for it, and [`Admission`] is where others ask.

use std::fmt;
use std::io::{self, IoSlice, Read};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use parking_lot::Mutex;
use pillion_base::net::{Overlay, Records, Stream};
use rustls::ClientConnection;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::client::TlsStream;

use super::TlsError;
use super::error::{is_refusal, rustls_error};

/// How a TLS connection failed after our side of its handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdmissionFailure {
    pub error: TlsError,
    /// The server refused us: it has read nothing of what was sent on the connection.
    pub is_refusal: bool,
}

/// What a server makes of one connection of ours.
pub struct Admission(Mutex<State>);

enum State {
    Awaited(Vec<Heir>),
    Admitted,
    Failed(AdmissionFailure),
}

/// Is told how it came out. `None`: the server has taken us, or the connection ended and nobody had refused us.
type Heir = Box<dyn FnOnce(Option<&TlsError>) + Send>;

impl Admission {
    fn new(is_awaited: bool) -> Arc<Self> {
        let state = if is_awaited { State::Awaited(Vec::new()) } else { State::Admitted };
        Arc::new(Self(Mutex::new(state)))
    }

    /// How the connection failed, where it was TLS that failed.
    pub fn failure(&self) -> Option<AdmissionFailure> {
        match &*self.0.lock() {
            State::Failed(failure) => Some(failure.clone()),
            State::Awaited(_) | State::Admitted => None,
        }
    }

    /// Calls `heir` once it is known whether the server takes us; at once where it is known.
    pub fn when_known(&self, heir: impl FnOnce(Option<&TlsError>) + Send + 'static) {
        let failed = match &mut *self.0.lock() {
            State::Awaited(heirs) => return heirs.push(Box::new(heir)),
            State::Admitted => None,
            State::Failed(failure) => Some(failure.error.clone()),
        };
        heir(failed.as_ref());
    }

    fn admitted(&self) {
        self.settle(State::Admitted, None);
    }

    fn failed(&self, failure: AdmissionFailure) {
        let error = failure.error.clone();
        self.settle(State::Failed(failure), Some(&error));
    }

    /// Heirs are called without the lock: they may ask.
    fn settle(&self, state: State, failed: Option<&TlsError>) {
        let before = std::mem::replace(&mut *self.0.lock(), state);
        if let State::Awaited(heirs) = before {
            heirs.into_iter().for_each(|heir| heir(failed));
        }
    }
}

/// The connection is gone, and nobody had refused us.
impl Drop for Admission {
    fn drop(&mut self) {
        self.admitted();
    }
}

impl fmt::Debug for Admission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Admission").field(&self.failure()).finish()
    }
}

/// A client's end of a TLS connection.
#[derive(Debug)]
pub struct ClientStream<IO> {
    tls: Records<TlsStream<IO>>,
    admission: Arc<Admission>,
    /// Nothing has come from the server since the handshake.
    is_awaited: bool,
    /// Writing failed before the server had said anything.
    broken: Option<io::Error>,
}

impl<IO> ClientStream<IO> {
    /// In TLS 1.2 the server judges first and ends the handshake afterwards: there is nothing to wait for.
    pub(super) fn new(tls: TlsStream<IO>) -> Self {
        let is_awaited = tls.get_ref().1.protocol_version() == Some(rustls::ProtocolVersion::TLSv1_3);
        let tls = Records::new(tls);
        Self { tls, admission: Admission::new(is_awaited), is_awaited, broken: None }
    }

    pub const fn admission(&self) -> &Arc<Admission> {
        &self.admission
    }

    pub fn get_ref(&self) -> (&IO, &ClientConnection) {
        self.tls.get_ref().get_ref()
    }

    fn admitted(&mut self) {
        if std::mem::take(&mut self.is_awaited) {
            self.admission.admitted();
        }
    }

    /// An error of the transport below leaves open what the server would have said.
    fn failed(&mut self, error: &io::Error) {
        let Some(fault) = rustls_error(error) else { return };
        let is_refusal = std::mem::take(&mut self.is_awaited) && is_refusal(fault);
        self.admission.failed(AdmissionFailure { error: TlsError::from_rustls(fault), is_refusal });
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> ClientStream<IO> {
    /// Whether the server has sent what only a client gets that it has taken: a ticket for the next session.
    fn has_ticket(&self) -> bool {
        self.get_ref().1.tls13_tickets_received() > 0
    }

    /// Sends by `poll`. Where that fails before the server has said anything, its alert may be here already, and is
    /// then the reason.
    fn poll_sending<T>(
        &mut self,
        cx: &mut Context<'_>,
        poll: impl FnOnce(Pin<&mut Records<TlsStream<IO>>>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if self.broken.is_none() {
            match poll(Pin::new(&mut self.tls), cx) {
                Poll::Ready(Err(error)) if self.is_awaited && is_gone(&error) => self.broken = Some(error),
                sent => return sent,
            }
        }
        self.poll_last_words(cx).map(Err)
    }

    /// Reads what the server had said before the connection broke: the kernel keeps it, and then reports the end, so
    /// this wait is a short one. Data stays in rustls' own buffer, which is bounded, for the next read.
    fn poll_last_words(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let (io, session) = self.tls.get_mut().get_mut();
        let fault = loop {
            match session.read_tls(&mut Reading { io, cx }) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
                Ok(0) | Err(_) => break None,
                Ok(_) => match session.process_new_packets() {
                    Err(fault) => break Some(fault),
                    Ok(state) if state.plaintext_bytes_to_read() > 0 => break None,
                    Ok(_) => {}
                },
            }
        };
        if let Some(fault) = fault {
            let error = io::Error::new(io::ErrorKind::InvalidData, fault);
            self.failed(&error);
            return Poll::Ready(error);
        }
        let kind = self.broken.as_ref().map_or(io::ErrorKind::BrokenPipe, io::Error::kind);
        Poll::Ready(self.broken.replace(kind.into()).unwrap_or_else(|| kind.into()))
    }
}

/// The peer takes nothing any more, and what it has said can be read to its end.
fn is_gone(error: &io::Error) -> bool {
    use io::ErrorKind as E;
    matches!(error.kind(), E::BrokenPipe | E::ConnectionReset | E::ConnectionAborted)
}

/// Lets rustls read without waiting.
struct Reading<'a, 'b, IO> {
    io: &'a mut IO,
    cx: &'a mut Context<'b>,
}

impl<IO: AsyncRead + Unpin> Read for Reading<'_, '_, IO> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let mut buf = ReadBuf::new(buf);
        match Pin::new(&mut *self.io).poll_read(self.cx, &mut buf) {
            Poll::Ready(read) => read.map(|()| buf.filled().len()),
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
}

impl Overlay for ClientStream<Stream> {
    fn reset_when_dropped(&self, resets: bool) {
        self.get_ref().0.reset_when_dropped(resets);
    }

    /// A session with data in hand, or at its end, wants to read nothing.
    fn at_rest(&self) -> Option<&Stream> {
        let (io, session) = self.get_ref();
        let rests = session.wants_read() && !session.is_handshaking() && self.broken.is_none();
        rests.then_some(io)
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncRead for ClientStream<IO> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let read = Pin::new(&mut this.tls).poll_read(cx, buf);
        if let Poll::Ready(Err(error)) = &read {
            this.failed(error);
        } else if this.is_awaited && (buf.filled().len() > before || this.has_ticket()) {
            this.admitted();
        }
        read
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncWrite for ClientStream<IO> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.get_mut().poll_sending(cx, |tls, cx| tls.poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().poll_sending(cx, |tls, cx| tls.poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        self.tls.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_sending(cx, Records::poll_flush)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().tls).poll_shutdown(cx)
    }
}
