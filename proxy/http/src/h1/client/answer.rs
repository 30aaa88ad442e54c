//! The body of an answer, which reads the connection as it is read.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderName;
use http_body::{Frame, SizeHint};
use parking_lot::Mutex;
use pillion_http1::Length;

use super::wire::Wire;
use crate::error::Broken;
use crate::h1::request::{Then, next_frame};

pub struct Incoming {
    wire: Arc<Mutex<Wire>>,
    /// Came and was not handed on.
    data: Bytes,
    /// What follows that.
    then: Then,
    /// Of the announced length: what was not handed on.
    left: Option<u64>,
    /// Trailers that are for the upstream's connection alone.
    names: Vec<HeaderName>,
}

impl Incoming {
    pub(super) const fn new(wire: Arc<Mutex<Wire>>, length: Length, data: Bytes, then: Then) -> Self {
        let left = match length {
            Length::Empty => Some(0),
            Length::Known(length) => Some(length),
            Length::Chunked | Length::UntilClose => None,
        };
        Self { wire, data, then, left, names: Vec::new() }
    }

    /// Removes these from the trailers.
    pub fn remove_trailers(&mut self, names: Vec<HeaderName>) {
        self.names = names;
    }

    /// Sends on what is left of the request, while nobody wants a piece of the answer. A request that breaks off is told
    /// behind what has come of the answer.
    pub fn move_upload(&mut self, cx: &mut Context<'_>) {
        if matches!(self.then, Then::More) && self.wire.lock().poll_upload(cx).is_err() {
            self.then = Then::Broken(Broken::Request);
        }
    }

    /// What `Connection` named, and is no trailer either.
    pub fn named(&self) -> &[HeaderName] {
        &self.names
    }
}

impl http_body::Body for Incoming {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let this = &mut *self;
        if this.data.is_empty() && matches!(this.then, Then::More) {
            (this.data, this.then) = ready!(this.wire.lock().poll_content(cx));
        }
        next_frame(&mut this.data, &mut this.then, &mut this.left)
    }

    fn is_end_stream(&self) -> bool {
        self.data.is_empty() && matches!(self.then, Then::End)
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// Nobody reads on, so nobody sends the rest of the request.
impl Drop for Incoming {
    fn drop(&mut self) {
        self.wire.lock().drop_upload();
    }
}
