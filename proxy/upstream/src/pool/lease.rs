//! The right to send one request on one connection.

use std::sync::Arc;

use http::Request;

use super::shard::{About, Http1, Http2, Shard};
use crate::cluster::Cluster;
use crate::cluster::endpoint::InFlight;
use pillion_base::error::Sent;
use pillion_base::limits::Permit;
use pillion_http::h2::client::{Failed, Failure};
use pillion_http::transfer::{Carrier, Observer};
use pillion_http::{Body, Response};
use pillion_model::Reason;
use pillion_tls::admission;

pub struct Lease {
    kind: Option<LeaseKind>,
    shard: Arc<Shard>,
    cluster: Arc<Cluster>,
    about: About,
    /// The request was handed to the connection, and its exchange has not ended whole.
    is_busy: bool,
    /// The connection is closed even when its exchange ended whole.
    is_last: bool,
    /// Who watches the request's body that it carries, where there is one.
    carries: Option<Arc<dyn Observer>>,
    /// One of `max_requests`, for as long as the upstream may be at work on the request.
    permit: Option<Permit>,
    in_flight: Option<InFlight>,
}

enum LeaseKind {
    Http1(Http1),
    Http2(Arc<Http2>),
}

/// A request that got no answer.
pub struct SendFailure {
    pub reason: Reason,
    pub detail: String,
    pub sent: Sent,
    /// hyper found more fields or bytes in the answer's head than it was told to read.
    pub is_large_head: bool,
    /// See [`Error::is_our_fault`](pillion_base::error::Error::is_our_fault).
    pub is_our_fault: bool,
    /// The request itself, where not a byte of it was written.
    pub unsent: Option<Box<Request<Body>>>,
}

impl Lease {
    pub(super) fn http1(conn: Http1, shard: &Arc<Shard>, cluster: &Arc<Cluster>) -> Self {
        let about = conn.about;
        Self::new(LeaseKind::Http1(conn), about, shard, cluster)
    }

    pub(super) fn http2(conn: Arc<Http2>, shard: &Arc<Shard>, cluster: &Arc<Cluster>) -> Self {
        let about = conn.count_use();
        Self::new(LeaseKind::Http2(conn), about, shard, cluster)
    }

    fn new(kind: LeaseKind, about: About, shard: &Arc<Shard>, cluster: &Arc<Cluster>) -> Self {
        Self {
            kind: Some(kind),
            shard: shard.clone(),
            cluster: cluster.clone(),
            about,
            is_busy: false,
            is_last: false,
            carries: None,
            permit: None,
            in_flight: None,
        }
    }

    pub const fn is_http2(&self) -> bool {
        matches!(self.kind, Some(LeaseKind::Http2(_)))
    }

    /// Whether the connection has carried a request before.
    pub const fn is_reused(&self) -> bool {
        self.about.uses > 0
    }

    /// Whether a sidecar of ours, its identity verified, is at the other end.
    pub const fn is_sidecar(&self) -> bool {
        self.about.is_sidecar
    }

    /// The request's place among `max_requests` goes with it from here on.
    pub fn hold(&mut self, permit: Option<Permit>) {
        self.permit = permit;
    }

    /// Sends the request of `exchange` and waits for the headers of the answer.
    pub async fn send<O: Observer + 'static>(
        &mut self,
        request: Request<Body>,
        observer: &Arc<O>,
    ) -> Result<Response, SendFailure> {
        let sent = self.send_on_connection(request, observer).await;
        sent.map_err(|failure| match self.tls_failure() {
            Some(tls) => by_tls(failure, tls),
            None => failure,
        })
    }

    /// In TLS 1.3 a server judges our certificate after the handshake has ended for us, and its alert comes instead of
    /// an answer. HTTP libraries have no word for it, and some hide it: the stream below them has kept it.
    fn tls_failure(&self) -> Option<admission::Failure> {
        match &self.kind {
            Some(LeaseKind::Http1(conn)) => conn.tls_failure(),
            Some(LeaseKind::Http2(conn)) => conn.tls_failure(),
            None => None,
        }
    }

    async fn send_on_connection<O: Observer + 'static>(
        &mut self,
        request: Request<Body>,
        observer: &Arc<O>,
    ) -> Result<Response, SendFailure> {
        self.is_busy = true;
        self.carries = (!request.body().is_empty()).then(|| observer.clone() as Arc<dyn Observer>);
        // It served a request before, so the peer may have hung up since.
        let was_used = self.is_reused();
        match &mut self.kind {
            Some(LeaseKind::Http1(conn)) => {
                let sent = conn.send(request).await;
                self.is_last |= conn.is_cut_short;
                sent.map(|response| response.map(Body::incoming))
                    .map_err(|(error, unsent)| explain(&error, unsent, was_used))
            }
            Some(LeaseKind::Http2(conn)) => {
                let sent = conn.send.send(request, &**observer).await;
                sent.map(|response| response.map(Body::from)).map_err(|failed| {
                    if failed.unsent.is_some() || says_goodbye(&failed.error) {
                        self.shard.retire(conn);
                    } else if was_refused(&failed.error) {
                        self.shard.was_refused(conn);
                    }
                    explain_failed(*failed, was_used)
                })
            }
            None => unreachable!("a lease has its connection until it is dropped"),
        }
    }

    /// This exchange is the last one on its connection, if that is HTTP/1's.
    pub const fn close_after(&mut self) {
        self.is_last = true;
    }

    /// The request counts at its endpoint until the lease ends.
    pub fn count(&mut self, in_flight: InFlight) {
        self.in_flight = Some(in_flight);
    }
}

impl Carrier for Lease {
    /// The connection may serve another request, unless it was to be the last, or a part of this one was not sent.
    /// Nobody needs that part any more, and without it no other request can follow.
    fn give_back(mut self: Box<Self>) {
        self.permit = None;
        let is_unfinished = self.carries.as_ref().is_some_and(|observer| observer.progress().is_unfinished());
        self.is_busy = self.is_last || is_unfinished;
    }
}

/// Back to the pool when unharmed; an HTTP/1 connection in the middle of an exchange is closed.
impl Drop for Lease {
    fn drop(&mut self) {
        match self.kind.take() {
            Some(LeaseKind::Http1(conn)) if !self.is_busy => self.shard.offer_http1(conn, &self.cluster),
            Some(LeaseKind::Http2(conn)) => self.shard.release_stream(&conn, &self.cluster),
            Some(LeaseKind::Http1(conn)) => {
                if let Some(permit) = self.permit.take().filter(Permit::is_scarce) {
                    conn.aftermath.leave(permit);
                }
                conn.cut();
            }
            None => {}
        }
    }
}

/// hyper's error in the words of the interface, and whether the request may have had an effect.
fn explain(error: &hyper::Error, unsent: Option<Request<Body>>, was_used: bool) -> SendFailure {
    let reason = reason(error);
    let sent = sent(reason, unsent.is_some(), was_used);
    SendFailure {
        reason,
        detail: text(error),
        sent,
        is_large_head: error.is_parse_too_large(),
        is_our_fault: false,
        unsent: unsent.map(Box::new),
    }
}

/// A connection that was used before and is hung up on had probably ended before the request was sent.
const fn sent(reason: Reason, is_unsent: bool, was_used: bool) -> Sent {
    match reason {
        _ if is_unsent => Sent::Never,
        Reason::UpstreamClosed | Reason::UpstreamReset if was_used => Sent::OnStaleConnection,
        _ => Sent::Perhaps,
    }
}

/// The same failure, when TLS is the reason of it. A server that refused us has read nothing of the request.
fn by_tls(failure: SendFailure, tls: admission::Failure) -> SendFailure {
    let is_unsent = tls.is_refusal || failure.sent == Sent::Never;
    let sent = if is_unsent { Sent::Never } else { Sent::Perhaps };
    let is_our_fault = tls.error.is_of_our_certificate;
    SendFailure { reason: Reason::TlsError, detail: tls.error.detail, sent, is_our_fault, ..failure }
}

/// The same of HTTP/2.
fn explain_failed(failed: Failed<Body>, was_used: bool) -> SendFailure {
    let reason = reason_http2(&failed.error);
    let is_unsent = failed.unsent.is_some() || was_refused(&failed.error) || says_goodbye(&failed.error);
    let sent = sent(reason, is_unsent, was_used);
    SendFailure {
        reason,
        detail: failed.error.to_string(),
        sent,
        is_large_head: false,
        is_our_fault: false,
        unsent: failed.unsent.map(Box::new),
    }
}

/// What went wrong on a connection of HTTP/2, in the words of the interface.
pub(super) fn reason_http2(failure: &Failure) -> Reason {
    match failure {
        Failure::Http2(error) => match error.get_io() {
            Some(io) => io_reason(io),
            None if error.is_remote() => Reason::UpstreamReset,
            None => Reason::ProtocolError,
        },
        Failure::Left => Reason::UpstreamClosed,
        Failure::Body => Reason::UpstreamReset,
        Failure::TooManyInterim => Reason::ProtocolError,
    }
}

fn reason(error: &hyper::Error) -> Reason {
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

/// RFC 9113, 8.7: a stream refused before it was processed.
fn was_refused(failure: &Failure) -> bool {
    let Failure::Http2(error) = failure else { return false };
    error.is_remote() && error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM)
}

/// RFC 9113, 6.8: a stream hears of a GOAWAY when it is above the last one that this promises to handle, whatever the
/// reason is.
fn says_goodbye(failure: &Failure) -> bool {
    matches!(failure, Failure::Http2(error) if error.is_remote() && error.is_go_away())
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
