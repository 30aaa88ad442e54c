//! The time for the head of a question. It counts from the first byte: a client that keeps its connection open between two questions
//! costs nothing but its place, and an API server does not ask again when its connection is closed at the moment of its question.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;
use tokio::time::timeout;

use pillion_base::net::forward;

/// Where a connection stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Head {
    /// A head is awaited: that of the first question, or one of which bytes have come.
    Awaited,
    /// A head has come, and its question has no answer yet.
    Read,
    /// The client may ask again.
    Idle,
}

/// The heads of one connection.
pub(super) struct Heads(watch::Sender<Head>);

impl Default for Heads {
    fn default() -> Self {
        Self(watch::Sender::new(Head::Awaited))
    }
}

impl Heads {
    fn begins(&self) {
        self.0.send_if_modified(|head| {
            let is_idle = *head == Head::Idle;
            if is_idle {
                *head = Head::Awaited;
            }
            is_idle
        });
    }

    /// A head has come as a whole.
    pub(super) fn is_read(&self) {
        self.0.send_replace(Head::Read);
    }

    pub(super) fn is_answered(&self) {
        self.0.send_replace(Head::Idle);
    }

    /// Waits until a head takes longer than this.
    pub(super) async fn is_late(&self, patience: Duration) {
        let mut heads = self.0.subscribe();
        loop {
            drop(heads.wait_for(|head| *head == Head::Awaited).await);
            if timeout(patience, heads.wait_for(|head| *head != Head::Awaited)).await.is_err() {
                return;
            }
        }
    }

    /// Waits until no head is awaited, for at most this time.
    pub(super) async fn has_come(&self, patience: Duration) {
        let mut heads = self.0.subscribe();
        drop(timeout(patience, heads.wait_for(|head| *head != Head::Awaited)).await);
    }
}

/// A stream that notes when a head begins.
pub(super) struct Noting<'h, S> {
    pub(super) stream: S,
    pub(super) heads: &'h Heads,
}

impl<S: AsyncRead + Unpin> AsyncRead for Noting<'_, S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.heads.begins();
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Noting<'_, S> {
    forward!(stream: write, flush, shutdown);
}
