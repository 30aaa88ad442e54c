//! An HTTP/1 reader for tests, as lenient as a test can allow.

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// Reads from the other end, message by message or byte by byte.
pub struct Reader<T> {
    pub io: T,
    /// Bytes that have arrived and have not been returned yet.
    read: BytesMut,
}

/// A request or a response as it arrived.
#[derive(Debug, Clone)]
pub struct Message {
    /// Start line and headers.
    pub head: String,
    pub body: Vec<u8>,
    /// Whether the body reached its announced end.
    pub is_whole: bool,
}

impl<T> Reader<T> {
    pub fn new(io: T) -> Self {
        Self { io, read: BytesMut::new() }
    }

    /// Returns the stream, for a caller that continues with another protocol.
    pub fn into_io(self) -> T {
        assert!(self.read.is_empty(), "bytes were read already");
        self.io
    }
}

impl<T: AsyncRead + Unpin> Reader<T> {
    /// The next message. `None`: the other end closed before a message began.
    pub async fn message(&mut self) -> Option<Message> {
        let head = self.head().await?;
        Some(self.message_of(head).await)
    }

    /// The message with this head, whose body comes next.
    pub async fn message_of(&mut self, head: String) -> Message {
        let mut message = Message { head, body: Vec::new(), is_whole: true };
        let (body, is_whole) = match message.header("content-length").map(str::to_owned) {
            _ if message.is_answer() && matches!(message.status(), 204 | 304) => (Vec::new(), true),
            Some(length) => self.exactly(length.parse().expect("a length")).await,
            None if message.header("transfer-encoding").is_some() => self.chunks().await,
            None if message.is_answer() => (self.rest().await, true),
            None => (Vec::new(), true),
        };
        (message.body, message.is_whole) = (body, is_whole);
        message
    }

    /// Start line and headers, without the bytes after them.
    pub async fn head(&mut self) -> Option<String> {
        let head = self.until(b"\r\n\r\n").await?;
        Some(String::from_utf8_lossy(&head).into_owned())
    }

    /// The next line, without its line end.
    pub async fn line(&mut self) -> Option<String> {
        let line = self.until(b"\r\n").await?;
        Some(String::from_utf8_lossy(&line).trim_end_matches("\r\n").to_owned())
    }

    /// Everything until the other end closes.
    pub async fn rest(&mut self) -> Vec<u8> {
        while self.more().await {}
        self.read.split().to_vec()
    }

    /// Everything until the other end closes, and whether that was a reset and not an orderly end.
    pub async fn ends(&mut self) -> (Vec<u8>, bool) {
        let ended = loop {
            match self.io.read_buf(&mut self.read).await {
                Ok(0) => break Ok(()),
                Ok(_) => {}
                Err(error) => break Err(error),
            }
        };
        (self.read.split().to_vec(), ended.is_err())
    }

    /// `count` bytes, or fewer if the stream ends; and whether all of them arrived.
    pub async fn exactly(&mut self, count: usize) -> (Vec<u8>, bool) {
        while self.read.len() < count {
            if !self.more().await {
                return (self.read.split().to_vec(), false);
            }
        }
        (self.read.split_to(count).to_vec(), true)
    }

    /// The next piece, of at most `most` bytes. Empty at the end of the stream.
    pub async fn piece(&mut self, most: usize) -> BytesMut {
        if self.read.is_empty() {
            self.more().await;
        }
        let length = self.read.len().min(most);
        self.read.split_to(length)
    }

    async fn chunks(&mut self) -> (Vec<u8>, bool) {
        let mut body = Vec::new();
        loop {
            let Some(line) = self.line().await else { return (body, false) };
            let size = usize::from_str_radix(&line, 16).expect("a chunk's size");
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

    /// Whether more bytes arrived. `false`: the other end closed.
    async fn more(&mut self) -> bool {
        self.read.reserve(64 * 1024);
        self.io.read_buf(&mut self.read).await.is_ok_and(|read| read > 0)
    }
}

impl Message {
    fn is_answer(&self) -> bool {
        self.head.starts_with("HTTP/1.")
    }

    pub fn status(&self) -> u16 {
        self.head.get(9..12).and_then(|status| status.parse().ok()).expect("an answer's start line")
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers(name).first().copied()
    }

    /// All values of a header, in order.
    pub fn headers(&self, name: &str) -> Vec<&str> {
        headers(&self.head, name).collect()
    }
}

/// All values of a header in a head, in order.
pub fn headers<'a>(head: &'a str, name: &str) -> impl Iterator<Item = &'a str> {
    let lines = head.lines().skip(1).filter_map(|line| line.split_once(':'));
    lines.filter(move |(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
}
