//! `Expect: 100-continue` from end to end: the client gets the 100 when the upstream sends one, so that the body of a
//! refused request is not sent (RFC 9110, 10.1.1).
//!
//! The client gets `100 Continue` when its body is first polled: over HTTP/1 the reader of its connection writes it,
//! over HTTP/2 it comes from [`crate::transfer::Interim`].

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use http::HeaderValue;
use http_body::{Body, Frame, SizeHint};
use parking_lot::Mutex;
use pillion_http1::Known;
use tokio::time::Instant;

use crate::message::Headers;
use pillion_base::deadline::{Deadline, Timers};

/// 1 s: after this time the body is sent without a 100, for an upstream that does not know the header and waits for the
/// body. curl waits as long.
const PATIENCE: Duration = Duration::from_secs(1);

/// The state that the upstream's `100 Continue` opens.
#[derive(Default)]
struct Gate {
    is_open: bool,
    waiter: Option<Waker>,
}

/// A body that waits until the upstream asks for it.
pub struct Gated<B> {
    gate: Mutex<Gate>,
    deadline: Option<Deadline>,
    inner: B,
}

/// Adds `Expect` to a request, and returns its body as one that waits.
pub fn ask_first<B>(headers: &mut Headers, body: B, timers: &Timers) -> Gated<B> {
    headers.set(Known::Expect, &HeaderValue::from_static("100-continue"));
    Gated { gate: Mutex::default(), deadline: Some(timers.deadline(Instant::now() + PATIENCE)), inner: body }
}

impl Gate {
    fn open(&mut self) {
        self.is_open = true;
        if let Some(waiter) = self.waiter.take() {
            waiter.wake();
        }
    }
}

impl<B> Gated<B> {
    /// Opens the gate, because the upstream asks for the body.
    pub fn ask(&self) {
        self.gate.lock().open();
    }

    /// The body behind the gate.
    pub const fn inner_mut(&mut self) -> &mut B {
        &mut self.inner
    }
}

impl<B: Body + Unpin> Body for Gated<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = &mut *self;
        if let Some(deadline) = &mut this.deadline {
            let mut gate = this.gate.lock();
            if !gate.is_open && Pin::new(deadline).poll(cx).is_pending() {
                gate.waiter = Some(cx.waker().clone());
                return Poll::Pending;
            }
            drop(gate);
            this.deadline = None;
        }
        Pin::new(&mut this.inner).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
