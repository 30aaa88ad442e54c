//! The kinds of byte streams a connection can be, as one type: no generics above this seam.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::net::TcpStream;

use super::Prefixed;

/// Bytes on the wire.
#[derive(Debug)]
pub(crate) enum Stream {
    Tcp(TcpStream),
    Memory(DuplexStream),
}

/// Bytes as the HTTP side sees them. TLS sessions are boxed: about a kilobyte that would be moved with every move.
#[derive(Debug)]
pub(crate) enum Transport {
    Plain(Prefixed<Stream>),
    Accepted(Box<tokio_rustls::server::TlsStream<Prefixed<Stream>>>),
    Connected(Box<tokio_rustls::client::TlsStream<Stream>>),
}

/// Hands every poll to the variant's own stream, vectored writes included: without them hyper copies bodies.
macro_rules! delegate {
    ($kind:ident: $($variant:ident),+) => {
        impl AsyncRead for $kind {
            fn poll_read(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                buf: &mut ReadBuf<'_>,
            ) -> Poll<io::Result<()>> {
                match self.get_mut() { $(Self::$variant(io) => Pin::new(io).poll_read(cx, buf)),+ }
            }
        }

        impl AsyncWrite for $kind {
            fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
                match self.get_mut() { $(Self::$variant(io) => Pin::new(io).poll_write(cx, buf)),+ }
            }

            fn poll_write_vectored(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                bufs: &[IoSlice<'_>],
            ) -> Poll<io::Result<usize>> {
                if let [only] = bufs {
                    return self.poll_write(cx, only); // send(2) is cheaper than writev(2) of one piece
                }
                match self.get_mut() { $(Self::$variant(io) => Pin::new(io).poll_write_vectored(cx, bufs)),+ }
            }

            fn is_write_vectored(&self) -> bool {
                match self { $(Self::$variant(io) => io.is_write_vectored()),+ }
            }

            fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                match self.get_mut() { $(Self::$variant(io) => Pin::new(io).poll_flush(cx)),+ }
            }

            fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                match self.get_mut() { $(Self::$variant(io) => Pin::new(io).poll_shutdown(cx)),+ }
            }
        }
    };
}

delegate!(Stream: Tcp, Memory);
delegate!(Transport: Plain, Accepted, Connected);

impl Stream {
    /// Whether `from`, who connected, is this host itself. Every host may reach itself over any of its addresses,
    /// and then both ends have the same one.
    pub(crate) fn is_from_this_host(&self, from: std::net::SocketAddr) -> bool {
        match self {
            Self::Memory(_) => true,
            Self::Tcp(stream) => {
                let from = from.ip().to_canonical();
                from.is_loopback() || stream.local_addr().is_ok_and(|own| own.ip().to_canonical() == from)
            }
        }
    }
}
