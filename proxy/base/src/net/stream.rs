//! The kinds of byte streams that a connection can be, as one type, so that code above this module needs no generics.

use std::fmt::Debug;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::leg::Dialled;
use super::memory::Pipe;
use super::own::is_own;
use super::returning::Noted;
use super::{Prefixed, Records};

/// A byte stream without TLS.
#[derive(Debug)]
pub enum Stream {
    Tcp(TcpStream, Made),
    /// An in-memory stream with the original destination that the kernel would report for a redirected connection.
    Memory(Pipe, Option<Box<SocketAddr>>),
}

/// How a connection was made.
#[derive(Debug)]
pub enum Made {
    /// A client connected to a listener with this port.
    Accepted { port: u16 },
    /// The sidecar dialled it. It is registered, so that it is recognised if it comes back.
    Dialled(#[allow(dead_code, reason = "kept for its drop")] Option<Noted>),
}

impl Made {
    fn by_tproxy(&self, near: SocketAddr) -> bool {
        matches!(self, Self::Accepted { port } if *port != near.port())
    }
}

/// The bytes as the HTTP code sees them. TLS sessions are boxed: they have about a kilobyte, which would be copied with
/// every move of the value.
#[derive(Debug)]
pub enum Transport {
    Plain(Prefixed<Stream>),
    Accepted(Box<Records<TlsStream<Prefixed<Stream>>>>),
    /// TLS towards a server.
    Connected(Box<dyn Overlay>),
    /// An HTTP/2 stream: the bytes inside a CONNECT.
    Inside(Box<dyn Overlay>),
}

/// A byte stream over another connection, which a crate above this one implements.
pub trait Overlay: AsyncRead + AsyncWrite + Debug + Send + Sync + Unpin {
    /// Sets whether the next drop, or the death of the process, resets the connection instead of ending it.
    fn reset_when_dropped(&self, resets: bool);

    /// The socket, if the next bytes to be read must come from it. An implementation that cannot know returns `None`.
    fn at_rest(&self) -> Option<&Stream> {
        None
    }
}

/// Passes every poll on to the stream in the variant, vectored writes included: without them bodies are copied.
macro_rules! delegate {
    ($kind:ident: $($variant:ident),+) => {
        impl AsyncRead for $kind {
            fn poll_read(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                buf: &mut ReadBuf<'_>,
            ) -> Poll<io::Result<()>> {
                match self.get_mut() { $(Self::$variant(io, ..) => Pin::new(io).poll_read(cx, buf)),+ }
            }
        }

        impl AsyncWrite for $kind {
            fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
                match self.get_mut() { $(Self::$variant(io, ..) => Pin::new(io).poll_write(cx, buf)),+ }
            }

            fn poll_write_vectored(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                bufs: &[IoSlice<'_>],
            ) -> Poll<io::Result<usize>> {
                if let [only] = bufs {
                    return self.poll_write(cx, only); // send(2) is cheaper than writev(2) of one piece
                }
                match self.get_mut() { $(Self::$variant(io, ..) => Pin::new(io).poll_write_vectored(cx, bufs)),+ }
            }

            fn is_write_vectored(&self) -> bool {
                match self { $(Self::$variant(io, ..) => io.is_write_vectored()),+ }
            }

            fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                match self.get_mut() { $(Self::$variant(io, ..) => Pin::new(io).poll_flush(cx)),+ }
            }

            fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                match self.get_mut() { $(Self::$variant(io, ..) => Pin::new(io).poll_shutdown(cx)),+ }
            }
        }
    };
}

delegate!(Stream: Tcp, Memory);
delegate!(Transport: Plain, Accepted, Connected, Inside);

impl Stream {
    pub(super) fn dialled((stream, noted): Dialled) -> Self {
        Self::Tcp(stream, Made::Dialled(noted))
    }

    /// The local address. In-memory connections have none.
    pub fn own_address(&self) -> Option<SocketAddr> {
        match self {
            Self::Memory(..) => None,
            Self::Tcp(stream, _) => stream.local_addr().ok(),
        }
    }

    pub fn own_ip(&self) -> Option<IpAddr> {
        self.own_address().map(|own| own.ip())
    }

    /// Whether the original destination is an address of this host. It may be another host's whose packets this host
    /// forwards.
    pub fn is_for_this_host(&self, original: IpAddr) -> bool {
        match self {
            Self::Memory(..) => true,
            // With TPROXY the local address is the original destination, even if that is another host's address.
            Self::Tcp(..) => (self.own_ip() == Some(original) && !self.came_by_tproxy()) || is_own(original),
        }
    }

    /// Whether the kernel's TPROXY brought the connection. Its local address is then the original destination, and not
    /// the listener's address.
    pub fn came_by_tproxy(&self) -> bool {
        match self {
            Self::Tcp(stream, made) => stream.local_addr().is_ok_and(|near| made.by_tproxy(near)),
            Self::Memory(..) => false,
        }
    }

    /// The original destination of a redirected connection (SO_ORIGINAL_DST, IP6T_SO_ORIGINAL_DST, or the local address
    /// with TPROXY). `None` when the kernel does not report a redirect.
    pub fn original_destination(&self) -> Option<SocketAddr> {
        match self {
            Self::Memory(_, original) => original.as_deref().copied(),
            Self::Tcp(stream, made) => {
                let (socket, own) = (SockRef::from(stream), stream.local_addr().ok()?);
                if made.by_tproxy(own) {
                    return Some(own);
                }
                let original = match own {
                    SocketAddr::V4(_) => socket.original_dst_v4(),
                    SocketAddr::V6(_) => socket.original_dst_v6(),
                };
                // Connection tracking also reports a destination that was not changed.
                original.ok()?.as_socket().filter(|original| *original != own)
            }
        }
    }

    /// Ready when there may be something to read, which a read then shows. Pending when there is nothing; `cx` is woken
    /// when that changes. tokio knows the state of the socket without a system call.
    pub fn poll_comes(&self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Tcp(stream, _) => stream.poll_read_ready(cx).map(drop),
            Self::Memory(..) => Poll::Ready(()),
        }
    }

    /// Whether there may be something to read. Answers without waiting.
    pub fn may_have_come(&self) -> bool {
        match self {
            Self::Tcp(stream, _) => stream.try_io(Interest::READABLE, || Ok(())).is_ok(),
            Self::Memory(..) => true,
        }
    }

    /// Whether bytes have come of which the runtime may not know yet. It costs a system call.
    pub fn has_come(&self) -> bool {
        match self {
            Self::Tcp(stream, _) => {
                matches!(SockRef::from(stream).peek(&mut [MaybeUninit::uninit()]), Ok(1..))
            }
            Self::Memory(pipe, _) => pipe.has_come(),
        }
    }

    /// See [`Transport::reset_on_drop`].
    pub fn reset_on_drop(&self) {
        self.reset_when_dropped(true);
    }

    /// Sets whether the next drop, or the death of the process, resets the connection instead of ending it.
    pub fn reset_when_dropped(&self, resets: bool) {
        match self {
            Self::Tcp(stream, _) => drop(SockRef::from(stream).set_linger(resets.then_some(Duration::ZERO))),
            Self::Memory(pipe, _) => pipe.set_abort(resets),
        }
    }
}

impl Transport {
    /// A transport without TLS.
    pub const fn plain(stream: Stream) -> Self {
        Self::Plain(Prefixed::new(stream))
    }

    /// See [`Overlay::at_rest`].
    pub(super) fn at_rest(&self) -> Option<&Stream> {
        match self {
            Self::Plain(io) => io.holds_nothing().then(|| io.get_ref()),
            Self::Accepted(tls) => {
                let (io, session) = tls.get_ref().get_ref();
                // A session that holds decrypted data, or that has ended, does not want to read.
                let has_more = tls.has_failed() || !session.wants_read();
                let rests = io.holds_nothing() && !has_more && !session.is_handshaking();
                rests.then(|| io.get_ref())
            }
            Self::Connected(over) | Self::Inside(over) => over.at_rest(),
        }
    }

    /// From now on a drop, or the death of the process, resets the connection: data that is cut short must not look
    /// complete. With TLS no `close_notify` is sent then either.
    pub fn reset_on_drop(&self) {
        self.reset_when_dropped(true);
    }

    /// All data was sent: from now on a drop ends the connection in the ordinary way.
    pub fn end_on_drop(&self) {
        self.reset_when_dropped(false);
    }

    fn reset_when_dropped(&self, resets: bool) {
        match self {
            Self::Plain(io) => io.get_ref().reset_when_dropped(resets),
            Self::Accepted(tls) => tls.get_ref().get_ref().0.get_ref().reset_when_dropped(resets),
            Self::Connected(over) | Self::Inside(over) => over.reset_when_dropped(resets),
        }
    }
}
