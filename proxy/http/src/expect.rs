//! `Expect: 100-continue` from end to end: the client's body is asked for when the upstream asks for it, so that
//! what is refused is not sent (RFC 9110, 10.1.1).
//!
//! The client hears `100 Continue` when its body is first polled: over HTTP/1 from hyper, over HTTP/2 from
//! [`super::transfer::Interim`].

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::header::EXPECT;
use http::{HeaderValue, Request, StatusCode};
use http_body::{Body as _, Frame};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::body::{Body, BodyError};
use pillion_base::deadline::{Deadline, Timers};

/// For an upstream that does not know the header and waits for the body. curl waits as long.
const PATIENCE: Duration = Duration::from_secs(1);

/// Opened by the upstream's `100 Continue`.
#[derive(Default)]
struct Gate {
    is_open: bool,
    waiter: Option<Waker>,
}

/// A body that waits to be asked for.
pub struct Gated {
    gate: Arc<Mutex<Gate>>,
    deadline: Option<Deadline>,
    pub(super) inner: Body,
}

/// Makes `request` ask before its body is sent.
pub fn ask_first(request: &mut Request<Body>, is_http2: bool, timers: &Timers) {
    request.headers_mut().insert(EXPECT, HeaderValue::from_static("100-continue"));
    let gate = Arc::<Mutex<Gate>>::default();
    if !is_http2 {
        let opens = gate.clone();
        hyper::ext::on_informational(request, move |informational| {
            if informational.status() == StatusCode::CONTINUE {
                opens.lock().open();
            }
        });
    }
    let inner = std::mem::replace(request.body_mut(), Body::empty());
    let deadline = Some(timers.deadline(Instant::now() + PATIENCE));
    *request.body_mut() = Body::gated(Gated { gate, deadline, inner });
}

impl Gate {
    fn open(&mut self) {
        self.is_open = true;
        if let Some(waiter) = self.waiter.take() {
            waiter.wake();
        }
    }
}

impl Gated {
    pub(super) fn ask(&self) {
        self.gate.lock().open();
    }

    pub(super) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(deadline) = &mut self.deadline {
            let mut gate = self.gate.lock();
            if !gate.is_open && Pin::new(deadline).poll(cx).is_pending() {
                gate.waiter = Some(cx.waker().clone());
                return Poll::Pending;
            }
            drop(gate);
            self.deadline = None;
        }
        Pin::new(&mut self.inner).poll_frame(cx)
    }
}
