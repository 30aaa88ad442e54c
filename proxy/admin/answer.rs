//! Responses of the admin and metrics ports: a text, or JSON in a readable layout.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Body, Bytes, Frame, SizeHint};

use super::{events, tap};

pub(super) type Answer = Response<Full<Bytes>>;
/// An answer that may be a stream.
pub(super) type Reply = Response<ReplyBody>;

/// The body of an answer.
pub(super) enum ReplyBody {
    Whole(Full<Bytes>),
    Tap(tap::Lines),
    Events(events::Stream),
}

impl ReplyBody {
    pub(super) const fn is_stream(&self) -> bool {
        !matches!(self, Self::Whole(_))
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Self::Whole(whole) => Pin::new(whole).poll_frame(cx),
            Self::Tap(lines) => Pin::new(lines).poll_frame(cx),
            Self::Events(stream) => Pin::new(stream).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(whole) if whole.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(whole) => whole.size_hint(),
            Self::Tap(_) | Self::Events(_) => SizeHint::default(),
        }
    }
}

/// A text of one or more lines.
pub(super) fn text(status: StatusCode, text: impl Into<Bytes>) -> Answer {
    answer(status, "text/plain; charset=utf-8", text.into())
}

pub(super) fn json(value: &serde_json::Value) -> Answer {
    answer(StatusCode::OK, "application/json", format!("{value:#}\n").into())
}

/// A response that must not be cached, because it shows the current state, and that a browser must not run as a script.
pub(super) fn answer(status: StatusCode, kind: &'static str, body: Bytes) -> Answer {
    answered(status, kind, Full::from(body))
}

/// The same with a body of any kind.
pub(super) fn answered<B>(status: StatusCode, kind: &'static str, body: B) -> Response<B> {
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(HeaderName::from_static("x-content-type-options"), HeaderValue::from_static("nosniff"));
    answer
}
