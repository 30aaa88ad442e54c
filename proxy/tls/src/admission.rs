//! Tells whether the server has accepted our certificate, which a TLS 1.3 client learns only after its handshake.
//!
//! The server judges our certificate when the handshake has already ended for us. A refusal arrives as an alert in
//! place of the server's first bytes. The code that reads or writes then (an HTTP library, a relay) cannot report it
//! well. So the stream itself watches for the alert, and [`Admission`] answers the questions of other code.

use std::fmt;
use std::io::{self, IoSlice, Read};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use parking_lot::Mutex;
use pillion_base::net::{Overlay, Records, Stream};
use pillion_model::SpiffeId;
use rustls::ClientConnection;
use rustls::pki_types::UnixTime;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::client::TlsStream;

use super::error::{is_refusal, rustls_error};
use super::{Peer, TlsError};

/// How a TLS connection failed after our side of its handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdmissionFailure {
    pub error: TlsError,
    /// The server refused us. It has read nothing of what was sent on the connection.
    pub is_refusal: bool,
}

/// Whether the server has accepted us on one connection.
pub struct Admission(Mutex<State>);

enum State {
    Awaited(Vec<Callback>),
    Admitted,
    Failed(AdmissionFailure),
}

/// A callback for the result. `None` means that the server accepted us, or that the connection ended without a refusal.
type Callback = Box<dyn FnOnce(Option<&TlsError>) + Send>;

impl Admission {
    fn new(is_awaited: bool) -> Arc<Self> {
        let state = if is_awaited { State::Awaited(Vec::new()) } else { State::Admitted };
        Arc::new(Self(Mutex::new(state)))
    }

    /// The TLS failure of the connection, if there was one.
    pub fn failure(&self) -> Option<AdmissionFailure> {
        match &*self.0.lock() {
            State::Failed(failure) => Some(failure.clone()),
            State::Awaited(_) | State::Admitted => None,
        }
    }

    /// Calls `callback` when the result is known, or at once if it is known already.
    pub fn when_known(&self, callback: impl FnOnce(Option<&TlsError>) + Send + 'static) {
        let failed = match &mut *self.0.lock() {
            State::Awaited(callbacks) => return callbacks.push(Box::new(callback)),
            State::Admitted => None,
            State::Failed(failure) => Some(failure.error.clone()),
        };
        callback(failed.as_ref());
    }

    fn admitted(&self) {
        self.settle(State::Admitted, None);
    }

    fn failed(&self, failure: AdmissionFailure) {
        let error = failure.error.clone();
        self.settle(State::Failed(failure), Some(&error));
    }

    /// Calls the callbacks without the lock, because they may ask this `Admission`.
    fn settle(&self, state: State, failed: Option<&TlsError>) {
        let before = std::mem::replace(&mut *self.0.lock(), state);
        if let State::Awaited(callbacks) = before {
            callbacks.into_iter().for_each(|callback| callback(failed));
        }
    }
}

/// The connection is gone and the server has not refused us: the callbacks get `None`.
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

/// The client's end of a TLS connection.
#[derive(Debug)]
pub struct ClientStream<IO> {
    tls: Records<TlsStream<IO>>,
    admission: Arc<Admission>,
    /// Whether nothing has come from the server since the handshake.
    is_awaited: bool,
    /// The error of a write that failed before the server had sent anything.
    broken: Option<io::Error>,
}

impl<IO> ClientStream<IO> {
    /// With TLS 1.2 the server judges our certificate before the handshake ends, so there is nothing to wait for.
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

    /// The SPIFFE ID in the server's certificate, which the handshake has verified where the service is `mutual`.
    pub fn server_id(&self) -> Option<SpiffeId> {
        Peer::of(self.get_ref().1.peer_certificates(), UnixTime::now()).ok().map(|peer| peer.id)
    }

    fn admitted(&mut self) {
        if std::mem::take(&mut self.is_awaited) {
            self.admission.admitted();
        }
    }

    /// Records a TLS failure. An error of the transport below says nothing about the server's decision.
    fn failed(&mut self, error: &io::Error) {
        let Some(fault) = rustls_error(error) else { return };
        let is_refusal = std::mem::take(&mut self.is_awaited) && is_refusal(fault);
        self.admission.failed(AdmissionFailure { error: TlsError::from_rustls(fault), is_refusal });
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> ClientStream<IO> {
    /// Whether the server has sent a session ticket, which only an accepted client gets.
    fn has_ticket(&self) -> bool {
        self.get_ref().1.tls13_tickets_received() > 0
    }

    /// Sends with `poll`. If that fails before the server has sent anything, the server's alert may have arrived
    /// already, and is then the reason that is reported.
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

    /// Reads what the server had sent before the connection broke. The kernel keeps those bytes and then reports the
    /// end, so this wait is short. Data stays in rustls' own buffer, which is bounded, for the next read.
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

/// Whether the error means that the peer takes no more bytes, while the bytes that it sent can still be read.
fn is_gone(error: &io::Error) -> bool {
    use io::ErrorKind as E;
    matches!(error.kind(), E::BrokenPipe | E::ConnectionReset | E::ConnectionAborted)
}

/// Lets rustls read without blocking.
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

    /// A session that holds decrypted data, or that has ended, does not want to read.
    fn at_rest(&self) -> Option<&Stream> {
        let (io, session) = self.get_ref();
        let has_failed = self.broken.is_some() || self.tls.has_failed();
        let rests = session.wants_read() && !session.is_handshaking() && !has_failed;
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
