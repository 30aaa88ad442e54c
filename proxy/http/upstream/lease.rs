//! The right to send one request on one connection.

use std::sync::Arc;

use http::Request;
use hyper::body::Incoming;

use super::shard::{About, Http1, Http2, Shard};
use crate::cluster::Cluster;
use crate::error::{Reason, Sent};
use crate::http::{Body, Exchange};
use crate::tls::admission::Failure;

pub(crate) struct Lease {
    kind: Option<Kind>,
    shard: Arc<Shard>,
    cluster: Arc<Cluster>,
    about: About,
    /// The request was handed to the connection, and its exchange has not ended whole.
    is_busy: bool,
    /// The connection is closed even when its exchange ended whole.
    is_last: bool,
    /// Whose request's body it carries, where there is one.
    carries: Option<Arc<Exchange>>,
}

enum Kind {
    Http1(Http1),
    Http2(Arc<Http2>),
}

/// A request that got no answer.
pub(crate) struct SendFailure {
    pub(crate) reason: Reason,
    pub(crate) detail: String,
    pub(crate) sent: Sent,
    /// The request itself, where not a byte of it was written.
    pub(crate) unsent: Option<Box<Request<Body>>>,
}

impl Lease {
    pub(super) fn http1(conn: Http1, shard: &Arc<Shard>, cluster: &Arc<Cluster>) -> Self {
        let about = conn.about;
        Self::new(Kind::Http1(conn), about, shard, cluster)
    }

    pub(super) fn http2(conn: Arc<Http2>, shard: &Arc<Shard>, cluster: &Arc<Cluster>) -> Self {
        let about = conn.count_use();
        Self::new(Kind::Http2(conn), about, shard, cluster)
    }

    fn new(kind: Kind, about: About, shard: &Arc<Shard>, cluster: &Arc<Cluster>) -> Self {
        Self {
            kind: Some(kind),
            shard: shard.clone(),
            cluster: cluster.clone(),
            about,
            is_busy: false,
            is_last: false,
            carries: None,
        }
    }

    pub(crate) const fn is_http2(&self) -> bool {
        matches!(self.kind, Some(Kind::Http2(_)))
    }

    /// Whether a sidecar of ours, its identity verified, is at the other end.
    pub(crate) const fn is_sidecar(&self) -> bool {
        self.about.is_sidecar
    }

    /// Sends the request of `exchange` and waits for the headers of the answer.
    pub(crate) async fn send(
        &mut self,
        request: Request<Body>,
        exchange: &Arc<Exchange>,
    ) -> Result<http::Response<Incoming>, SendFailure> {
        let sent = self.send_on_connection(request, exchange).await;
        sent.map_err(|failure| match self.tls_failure() {
            Some(tls) => by_tls(failure, tls),
            None => failure,
        })
    }

    /// In TLS 1.3 a server judges our certificate after the handshake has ended for us, and its alert comes instead of
    /// an answer. HTTP libraries have no word for it, and some hide it: the stream below them has kept it.
    fn tls_failure(&self) -> Option<Failure> {
        match &self.kind {
            Some(Kind::Http1(conn)) => conn.tls_failure(),
            Some(Kind::Http2(conn)) => conn.tls_failure(),
            None => None,
        }
    }

    async fn send_on_connection(
        &mut self,
        request: Request<Body>,
        exchange: &Arc<Exchange>,
    ) -> Result<http::Response<Incoming>, SendFailure> {
        self.is_busy = true;
        self.carries = (!request.body().is_empty()).then(|| exchange.clone());
        // It served a request before, so the peer may have hung up since.
        let was_used = self.about.uses > 0;
        match &mut self.kind {
            Some(Kind::Http1(conn)) => {
                conn.about.uses += 1;
                conn.send.try_send_request(request).await.map_err(|mut error| {
                    let unsent = error.take_message();
                    explain(&error.into_error(), unsent, was_used)
                })
            }
            Some(Kind::Http2(conn)) => {
                let mut sender = conn.sender();
                let sent = sender.try_send_request(request).await;
                if !was_used && sent.is_ok() {
                    conn.has_answered();
                }
                sent.map_err(|mut error| {
                    let unsent = error.take_message();
                    let error = error.into_error();
                    if unsent.is_some() || says_goodbye(&error) {
                        self.shard.retire(conn);
                    }
                    explain(&error, unsent, was_used)
                })
            }
            None => unreachable!("a lease has its connection until it is dropped"),
        }
    }

    /// This exchange is the last one on its connection, if that is HTTP/1's.
    pub(crate) const fn close_after(&mut self) {
        self.is_last = true;
    }

    /// The answer came whole: the connection may serve another request, unless it was to be the last, or a part of
    /// this one was not sent. Nobody needs that part any more, and without it no other request can follow.
    pub(crate) fn give_back(mut self) {
        let is_unfinished = self.carries.as_ref().is_some_and(|exchange| exchange.progress.is_unfinished());
        self.is_busy = self.is_last || is_unfinished;
    }
}

/// Back to the pool when unharmed; an HTTP/1 connection in the middle of an exchange is closed.
impl Drop for Lease {
    fn drop(&mut self) {
        match self.kind.take() {
            Some(Kind::Http1(conn)) if !self.is_busy => self.shard.offer_http1(conn, &self.cluster),
            Some(Kind::Http2(conn)) => self.shard.release_stream(&conn, &self.cluster),
            Some(Kind::Http1(conn)) => conn.cut(),
            None => {}
        }
    }
}

/// hyper's error in the words of the interface, and whether the request may have had an effect.
fn explain(error: &hyper::Error, unsent: Option<Request<Body>>, was_used: bool) -> SendFailure {
    let reason = reason(error);
    let hung_up = matches!(reason, Reason::UpstreamClosed | Reason::UpstreamReset);
    let sent = if unsent.is_some() || was_refused(error) {
        Sent::Never
    } else if was_used && hung_up {
        Sent::OnStaleConnection
    } else {
        Sent::Perhaps
    };
    SendFailure { reason, detail: text(error), sent, unsent: unsent.map(Box::new) }
}

/// The same failure, when TLS is the reason of it. A server that refused us has read nothing of the request.
fn by_tls(failure: SendFailure, tls: Failure) -> SendFailure {
    let is_unsent = tls.is_refusal || failure.sent == Sent::Never;
    let sent = if is_unsent { Sent::Never } else { Sent::Perhaps };
    SendFailure { reason: Reason::TlsError, detail: tls.error.detail, sent, unsent: failure.unsent }
}

fn reason(error: &hyper::Error) -> Reason {
    if let Some(h2) = cause::<h2::Error>(error) {
        return match h2.get_io() {
            Some(io) => io_reason(io),
            None if h2.is_remote() => Reason::UpstreamReset,
            None => Reason::ProtocolError,
        };
    }
    if let Some(io) = cause::<std::io::Error>(error) {
        return io_reason(io);
    }
    if error.is_parse() {
        Reason::ProtocolError
    } else if error.is_incomplete_message() || error.is_canceled() || error.is_closed() {
        Reason::UpstreamClosed
    } else {
        Reason::UpstreamReset
    }
}

fn io_reason(error: &std::io::Error) -> Reason {
    match error.kind() {
        // the second is what h2 makes of an end of file with streams open
        std::io::ErrorKind::UnexpectedEof | std::io::ErrorKind::BrokenPipe => Reason::UpstreamClosed,
        std::io::ErrorKind::InvalidData => Reason::ProtocolError,
        _ => Reason::UpstreamReset,
    }
}

/// RFC 9113: a stream refused before processing (8.7), or above the last one a GOAWAY promises to handle (6.8).
fn was_refused(error: &hyper::Error) -> bool {
    cause::<h2::Error>(error).is_some_and(|error| {
        error.is_remote()
            && ((error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM))
                || (error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR)))
    })
}

fn says_goodbye(error: &hyper::Error) -> bool {
    cause::<h2::Error>(error).is_some_and(h2::Error::is_go_away)
}

/// The first error of this type among the causes.
fn cause<E: std::error::Error + 'static>(error: &hyper::Error) -> Option<&E> {
    causes(error).find_map(|error| error.downcast_ref())
}

fn causes(error: &hyper::Error) -> impl Iterator<Item = &(dyn std::error::Error + 'static)> {
    std::iter::successors(std::error::Error::source(error), |error| error.source())
}

/// The message with its causes, which hyper keeps apart.
fn text(error: &hyper::Error) -> String {
    causes(error).fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
