//! One end of a TCP connection that speaks HTTP/1 byte by byte: a client, or a back-end.

use std::io;
use std::net::SocketAddr;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::soon;

pub(crate) struct Wire {
    io: TcpStream,
    read: BytesMut,
}

/// A request or an answer, as it came.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    /// Start line and headers.
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
    /// The body came to its announced end.
    pub(crate) is_whole: bool,
}

impl Wire {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        Self::new(soon("connecting", TcpStream::connect(address)).await.expect("somebody listens"))
    }

    pub(crate) fn new(io: TcpStream) -> Self {
        io.set_nodelay(true).expect("a TCP socket");
        Self { io, read: BytesMut::new() }
    }

    pub(crate) fn into_io(self) -> TcpStream {
        assert!(self.read.is_empty(), "bytes were read already");
        self.io
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).await.expect("the other end still reads");
    }

    pub(crate) async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.io.write_all(bytes.as_ref()).await
    }

    /// Nothing more will be sent; reading goes on.
    pub(crate) async fn half_close(&mut self) {
        self.io.shutdown().await.expect("an open socket");
    }

    /// The same towards somebody who may have hung up already.
    pub(crate) async fn half_close_if_open(&mut self) -> io::Result<()> {
        self.io.shutdown().await
    }

    /// A reset instead of a goodbye.
    pub(crate) fn reset(self) {
        let zero = Some(std::time::Duration::ZERO);
        socket2::SockRef::from(&self.io).set_linger(zero).expect("SO_LINGER on a TCP socket");
    }

    pub(crate) async fn get(&mut self, host: &str, path: &str) -> Message {
        self.ask(format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n")).await
    }

    /// A request and its answer.
    pub(crate) async fn ask(&mut self, request: impl AsRef<[u8]>) -> Message {
        self.send(request).await;
        self.answer().await
    }

    pub(crate) async fn answer(&mut self) -> Message {
        soon("an answer", self.message()).await.expect("an answer before the end")
    }

    /// The next message. `None`: the other end hung up before it began one.
    pub(crate) async fn message(&mut self) -> Option<Message> {
        let head = self.head().await?;
        let mut message = Message { head, body: Vec::new(), is_whole: true };
        let (body, is_whole) = match message.header("content-length").map(str::to_owned) {
            _ if message.is_answer() && matches!(message.status(), 204 | 304) => (Vec::new(), true),
            Some(length) => self.exactly(length.parse().expect("a length")).await,
            None if message.header("transfer-encoding").is_some() => self.chunks().await,
            None if message.is_answer() => (self.rest().await, true),
            None => (Vec::new(), true),
        };
        (message.body, message.is_whole) = (body, is_whole);
        Some(message)
    }

    /// Start line and headers, without what follows.
    pub(crate) async fn head(&mut self) -> Option<String> {
        let head = self.until(b"\r\n\r\n").await?;
        Some(String::from_utf8_lossy(&head).into_owned())
    }

    /// Whatever comes until the other end hangs up.
    pub(crate) async fn rest(&mut self) -> Vec<u8> {
        while self.more().await {}
        self.read.split().to_vec()
    }

    /// The same, and whether the other end reset the connection instead of ending it.
    pub(crate) async fn ends(&mut self) -> (Vec<u8>, bool) {
        let ended = loop {
            match self.io.read_buf(&mut self.read).await {
                Ok(0) => break Ok(()),
                Ok(_) => {}
                Err(error) => break Err(error),
            }
        };
        (self.read.split().to_vec(), ended.is_err())
    }

    /// As many bytes as asked for, or as there were, and whether that is all.
    pub(crate) async fn exactly(&mut self, count: usize) -> (Vec<u8>, bool) {
        while self.read.len() < count {
            if !self.more().await {
                return (self.read.split().to_vec(), false);
            }
        }
        (self.read.split_to(count).to_vec(), true)
    }

    /// The next piece, at most as large; empty at the end.
    pub(crate) async fn piece(&mut self, most: usize) -> BytesMut {
        if self.read.is_empty() {
            self.more().await;
        }
        let length = self.read.len().min(most);
        self.read.split_to(length)
    }

    async fn chunks(&mut self) -> (Vec<u8>, bool) {
        let mut body = Vec::new();
        loop {
            let Some(line) = self.until(b"\r\n").await else { return (body, false) };
            let line = String::from_utf8_lossy(&line);
            let size = usize::from_str_radix(line.trim_end(), 16).expect("a chunk's size");
            let (chunk, is_whole) = self.exactly(size + 2).await;
            body.extend_from_slice(&chunk[..chunk.len().min(size)]);
            if size == 0 || !is_whole {
                return (body, is_whole);
            }
        }
    }

    async fn until(&mut self, end: &[u8]) -> Option<Vec<u8>> {
        loop {
            let found = self.read.windows(end.len()).position(|window| window == end);
            if let Some(at) = found {
                let head = self.read[..at + end.len()].to_vec();
                self.read.advance(at + end.len());
                return Some(head);
            }
            if !self.more().await {
                return None;
            }
        }
    }

    /// `false`: the other end hung up.
    async fn more(&mut self) -> bool {
        self.read.reserve(64 * 1024);
        self.io.read_buf(&mut self.read).await.is_ok_and(|read| read > 0)
    }
}

impl Message {
    fn is_answer(&self) -> bool {
        self.head.starts_with("HTTP/1.")
    }

    pub(crate) fn status(&self) -> u16 {
        self.head.get(9..12).and_then(|status| status.parse().ok()).expect("an answer's start line")
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers(name).first().copied()
    }

    /// All values of a header, in order.
    pub(crate) fn headers(&self, name: &str) -> Vec<&str> {
        let lines = self.head.lines().skip(1).filter_map(|line| line.split_once(':'));
        lines.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).collect()
    }
}
