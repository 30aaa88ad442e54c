//! One end of a connection, byte by byte: a client, or a back-end behind the sidecar.

use std::io;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use pillion_testkit::http1::{self, Reader};
use tokio::io::AsyncWriteExt;

use pillion_base::net::memory::Pipe;

/// Messages that a back-end has read.
pub(super) type Log = Arc<Mutex<Vec<Message>>>;

pub(super) struct Peer {
    reader: Reader<Pipe>,
    log: Option<Log>,
}

/// All that it reads, but for messages.
impl Deref for Peer {
    type Target = Reader<Pipe>;

    fn deref(&self) -> &Self::Target {
        &self.reader
    }
}

impl DerefMut for Peer {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.reader
    }
}

/// A request or an answer of HTTP/1, as it came.
#[derive(Debug, Clone)]
pub(super) struct Message {
    /// The start line and the headers.
    pub(super) head: String,
    pub(super) body: String,
    /// Whether the body came to its announced end.
    pub(super) is_whole: bool,
}

impl Peer {
    pub(super) fn new(io: Pipe) -> Self {
        Self { reader: Reader::new(io), log: None }
    }

    pub(super) fn logging(io: Pipe, log: Log) -> Self {
        Self { log: Some(log), ..Self::new(io) }
    }

    /// The connection itself, for tests that speak another protocol than HTTP/1.
    pub(super) fn into_io(self) -> Pipe {
        self.reader.into_io()
    }

    pub(super) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).await.expect("the other end still reads");
    }

    pub(super) async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.io.write_all(bytes.as_ref()).await
    }

    /// Sends bytes of which the other end's runtime does not know until they are withheld no more.
    pub(super) async fn send_unnoticed(&mut self, bytes: impl AsRef<[u8]>) {
        self.io.withhold(true);
        self.send(bytes).await;
    }

    /// One piece, then a pause, and so on.
    pub(super) async fn trickle(&mut self, pieces: &[&str], pause: Duration) {
        for piece in pieces {
            tokio::time::sleep(pause).await;
            self.send(piece).await;
        }
    }

    /// Ends the sending direction. Reading goes on.
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

    /// The next message. `None` when the other end closed before it began one.
    pub(super) async fn message(&mut self) -> Option<Message> {
        let http1::Message { head, body, is_whole } = self.reader.message().await?;
        let message = Message { head, body: String::from_utf8_lossy(&body).into_owned(), is_whole };
        if let Some(log) = &self.log {
            log.lock().push(message.clone());
        }
        Some(message)
    }

    /// Closes the connection with a reset.
    pub(super) fn reset(self) {
        self.io.set_abort(true);
    }
}

impl Message {
    pub(super) fn status(&self) -> Option<u16> {
        self.head.strip_prefix("HTTP/1.")?.get(2..5)?.parse().ok()
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        http1::headers(&self.head, name).next()
    }

    /// The reason code, if the sidecar made this answer itself.
    pub(super) fn reason(&self) -> Option<&str> {
        let details = self.header("proxy-status")?.split_once("details=\"")?.1;
        details.split([':', '"']).next()
    }

    /// The status, and the reason code if the sidecar answered.
    pub(super) fn status_and_reason(&self) -> (u16, Option<&str>) {
        (self.status().expect("an answer's start line"), self.reason())
    }
}
