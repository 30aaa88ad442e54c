//! One end of a TCP connection that speaks HTTP/1 byte by byte: a client, or a back-end.

use std::io;
use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};

pub(crate) use pillion_testkit::http1::Message;
use pillion_testkit::http1::Reader;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::soon;

pub(crate) struct Wire(Reader<TcpStream>);

/// All that it reads.
impl Deref for Wire {
    type Target = Reader<TcpStream>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl DerefMut for Wire {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0
    }
}

impl Wire {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        Self::new(soon("connecting", TcpStream::connect(address)).await.expect("a listener"))
    }

    /// Connects to a listener that may reset the connection at once, before the connecting end has looked.
    pub(crate) async fn try_connect(address: SocketAddr) -> io::Result<Self> {
        soon("connecting", TcpStream::connect(address)).await.map(Self::new)
    }

    pub(crate) fn new(io: TcpStream) -> Self {
        io.set_nodelay(true).expect("a TCP socket");
        Self(Reader::new(io))
    }

    pub(crate) fn into_io(self) -> TcpStream {
        self.0.into_io()
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).await.expect("the other end still reads");
    }

    pub(crate) async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.io.write_all(bytes.as_ref()).await
    }

    /// Ends the sending direction. Reading goes on.
    pub(crate) async fn half_close(&mut self) {
        self.io.shutdown().await.expect("an open socket");
    }

    /// Like [`Self::half_close`], when the other end may have closed already.
    pub(crate) async fn half_close_if_open(&mut self) -> io::Result<()> {
        self.io.shutdown().await
    }

    /// Closes the connection with a reset.
    pub(crate) fn reset(self) {
        let zero = Some(std::time::Duration::ZERO);
        socket2::SockRef::from(&self.io).set_linger(zero).expect("SO_LINGER on a TCP socket");
    }

    pub(crate) async fn get(&mut self, host: &str, path: &str) -> Message {
        self.ask(format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n")).await
    }

    /// A call of gRPC without a message, and its answer.
    pub(crate) async fn call(&mut self, host: &str) -> Message {
        let head =
            "POST /shop.Orders/Get HTTP/1.1\r\ncontent-type: application/grpc\r\ncontent-length: 0\r\n";
        self.ask(format!("{head}host: {host}\r\n\r\n")).await
    }

    /// A request and its answer.
    pub(crate) async fn ask(&mut self, request: impl AsRef<[u8]>) -> Message {
        self.send(request).await;
        self.answer().await
    }

    pub(crate) async fn answer(&mut self) -> Message {
        soon("an answer", self.message()).await.expect("an answer before the end")
    }
}
