//! One end of a connection, byte by byte: a client, or a back-end behind the sidecar.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use pillion_base::net::memory::Pipe;

/// Messages that a back-end has read.
pub(super) type Log = Arc<Mutex<Vec<Message>>>;

pub(super) struct Peer {
    io: Pipe,
    read: BytesMut,
    log: Option<Log>,
}

/// A request or an answer of HTTP/1, as it came.
#[derive(Debug, Clone)]
pub(super) struct Message {
    /// Start line and headers.
    pub(super) head: String,
    pub(super) body: String,
    /// The body came to its announced end.
    pub(super) is_whole: bool,
}

impl Peer {
    pub(super) fn new(io: Pipe) -> Self {
        Self { io, read: BytesMut::new(), log: None }
    }

    pub(super) fn logging(io: Pipe, log: Log) -> Self {
        Self { log: Some(log), ..Self::new(io) }
    }

    /// For somebody who speaks more than HTTP/1.
    pub(super) fn into_io(self) -> Pipe {
        assert!(self.read.is_empty(), "bytes were read already");
        self.io
    }

    pub(super) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).await.expect("the other end still reads");
    }

    pub(super) async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.io.write_all(bytes.as_ref()).await
    }

    /// One piece, then a pause, and so on.
    pub(super) async fn trickle(&mut self, pieces: &[&str], pause: Duration) {
        for piece in pieces {
            tokio::time::sleep(pause).await;
            self.send(piece).await;
        }
    }

    /// Nothing more will be sent; reading goes on.
    pub(super) async fn half_close(&mut self) {
        self.io.shutdown().await.expect("a stream in memory can be shut down");
    }

    /// A request and its answer.
    pub(super) async fn ask(&mut self, request: &str) -> Message {
        self.send(request).await;
        self.answer().await
    }

    pub(super) async fn get(&mut self, path: &str) -> Message {
        self.ask(&format!("GET {path} HTTP/1.1\r\nhost: orders\r\n\r\n")).await
    }

    pub(super) async fn answer(&mut self) -> Message {
        self.message().await.expect("an answer")
    }

    /// The next message. `None`: the other end hung up before it began one.
    pub(super) async fn message(&mut self) -> Option<Message> {
        let head = self.head().await?;
        let mut message = Message { head, body: String::new(), is_whole: true };
        let (body, is_whole) = match message.header("content-length").map(str::to_owned) {
            _ if matches!(message.status(), Some(204 | 304)) => (Vec::new(), true),
            Some(length) => self.exactly(length.parse().expect("a length")).await,
            None if message.header("transfer-encoding").is_some() => self.chunks().await,
            None if message.status().is_some() => (self.rest().await, true),
            None => (Vec::new(), true),
        };
        (message.body, message.is_whole) = (String::from_utf8_lossy(&body).into_owned(), is_whole);
        if let Some(log) = &self.log {
            log.lock().push(message.clone());
        }
        Some(message)
    }

    /// Start line and headers, without what follows.
    pub(super) async fn head(&mut self) -> Option<String> {
        let head = self.until(b"\r\n\r\n").await?;
        Some(String::from_utf8(head).expect("heads are text"))
    }

    /// Whatever comes until the other end hangs up.
    pub(super) async fn rest(&mut self) -> Vec<u8> {
        while self.more().await {}
        self.read.split().to_vec()
    }

    /// The same, and whether the other end reset the connection instead of ending it.
    pub(super) async fn ends(&mut self) -> (Vec<u8>, bool) {
        let ended = loop {
            match self.io.read_buf(&mut self.read).await {
                Ok(0) => break Ok(()),
                Ok(_) => {}
                Err(error) => break Err(error),
            }
        };
        (self.read.split().to_vec(), ended.is_err())
    }

    /// Hangs up with a reset.
    pub(super) fn reset(self) {
        self.io.set_abort(true);
    }

    /// As many bytes as asked for, or as there were, and whether that is all.
    pub(super) async fn exactly(&mut self, count: usize) -> (Vec<u8>, bool) {
        while self.read.len() < count {
            if !self.more().await {
                return (self.read.split().to_vec(), false);
            }
        }
        (self.read.split_to(count).to_vec(), true)
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

    /// The next line, without its end.
    pub(super) async fn line(&mut self) -> Option<String> {
        let line = self.until(b"\r\n").await?;
        Some(String::from_utf8_lossy(&line).trim_end_matches("\r\n").to_owned())
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
        self.io.read_buf(&mut self.read).await.is_ok_and(|read| read > 0)
    }
}

impl Message {
    pub(super) fn status(&self) -> Option<u16> {
        self.head.strip_prefix("HTTP/1.")?.get(2..5)?.parse().ok()
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.head.lines().skip(1).filter_map(|line| line.split_once(':'));
        headers.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }

    /// CODE of the interface's table, where the sidecar made this answer itself.
    pub(super) fn reason(&self) -> Option<&str> {
        let details = self.header("proxy-status")?.split_once("details=\"")?.1;
        details.split([':', '"']).next()
    }

    /// Status, and the CODE where the sidecar answered.
    pub(super) fn told(&self) -> (u16, Option<&str>) {
        (self.status().expect("an answer's start line"), self.reason())
    }
}
