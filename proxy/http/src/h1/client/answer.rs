//! The body of an answer. Reading the body reads the connection.

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
    /// Content that came and was not passed on yet.
    data: Bytes,
    /// What follows this content.
    then: Then,
    /// The part of the announced length that was not passed on yet.
    left: Option<u64>,
    /// Names of trailers that concern only the upstream's connection.
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

    /// Removes these names from the trailers.
    pub fn remove_trailers(&mut self, names: Vec<HeaderName>) {
        self.names = names;
    }

    /// Sends the rest of the request while no piece of the answer is wanted. If the request breaks off, the answer's
    /// reader gets the error after the content that has come.
    pub fn move_upload(&mut self, cx: &mut Context<'_>) {
        if matches!(self.then, Then::More) && self.wire.lock().poll_upload(cx).is_err() {
            self.then = Then::Broken(Broken::Request);
        }
    }

    /// The names that `Connection` listed, which may not be trailers either.
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

/// Without a reader of the answer, the rest of the request is not sent any more.
impl Drop for Incoming {
    fn drop(&mut self) {
        self.wire.lock().drop_upload();
    }
}
